//! `interdict demo`: the ban at work, in namespaces of its own.

use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use hickory_proto::rr::RecordType;
use interdict_policy::packs;

use crate::cli::Outcome;
use crate::control::{self, Request};
use crate::lab::{GATEWAY, LAN, Lab, ORDINARY, PUBLIC, RESOLVER, Reply, Side, VENDOR};

/// A port that no rule names.
const PORT: u16 = 443;

pub(crate) fn demo() -> anyhow::Result<Outcome> {
    if !rustix::process::geteuid().is_root() {
        bail!("the demo makes network namespaces and loads kernel programs; run it as root");
    }
    say(
        "1. A network: client, gateway, internet",
        "three network namespaces on this machine, without a way out",
    );
    let lab = Lab::new()?;
    let _link = lab.take_what_is_sent_back()?;
    lab.serve_dns()?;
    lab.serve_tcp(SocketAddr::from((ORDINARY, PORT)))?;
    lab.serve_tcp(SocketAddr::from((VENDOR, PORT)))?;
    let agent = Agent::start(&lab)?;

    say(
        "2. The agent runs on the gateway",
        "it answers DNS for the client and filters what the client sends",
    );
    println!(
        "   interdict run --policy POLICY --listen {GATEWAY}:53 --upstream {RESOLVER}:53 --interface {LAN}=lan"
    );

    say("3. The client asks for names", "");
    let mut expected = true;
    expected &=
        ask(&lab, "www.example.org", &Reply::Address(IpAddr::V4(ORDINARY)), "an ordinary name resolves")?;
    expected &=
        ask(&lab, "s07.upd.kaspersky.com", &Reply::NxDomain, "an update server of the vendor does not")?;

    say(
        "4. The client asks a public resolver instead",
        "as the banned product does; nothing of this resolver's is configured anywhere",
    );
    let public = PUBLIC[0];
    let at_public = |name: &str, wanted: &Reply, why: &str| {
        let reply = lab.ask_at(public.into(), name, RecordType::A)?;
        Ok::<_, anyhow::Error>(told(
            &format!("{name} at {public} -> {}", shown(&reply)),
            why,
            reply == *wanted,
        ))
    };
    let ordinary = Reply::Address(IpAddr::V4(ORDINARY));
    expected &= at_public("www.example.org", &ordinary, "an ordinary name is answered by that resolver")?;
    expected &= at_public(
        "s07.upd.kaspersky.com",
        &Reply::NxDomain,
        "the kernel answers for it; the question got no further",
    )?;

    say("5. The client connects to addresses", "");
    expected &= connect(&lab, IpAddr::V4(ORDINARY), true, "an ordinary server is reached")?;
    expected &= connect(
        &lab,
        IpAddr::V4(VENDOR),
        false,
        "a server in the vendor's network is not, even without DNS",
    )?;

    say(
        "6. A name that is only logged",
        "its address is in a blocked network, and opens for as long as the answer lasts",
    );
    let logged = Reply::Address(IpAddr::V4(VENDOR));
    expected &=
        ask(&lab, "support.kaspersky.com", &logged, "removal tools live there: resolved and recorded")?;
    expected &= connect(&lab, IpAddr::V4(VENDOR), true, "the address it resolved to is open now")?;

    say(
        "7. The policy is edited while all this runs",
        "a file with one more rule is saved in the policy folder",
    );
    agent.add_rule()?;
    expected &= ask(&lab, "www.example.org", &Reply::NxDomain, "what it names no longer resolves")?;

    say("8. The record", "every contact that concerns the ban, by which rule, under which policy");
    // Contacts of the kernel plane are recorded within a second.
    std::thread::sleep(Duration::from_millis(1500));
    agent.tail()?;

    drop(agent);
    println!();
    if expected {
        println!("Everything went as it should. The namespaces are gone again.");
        Ok(Outcome::Done)
    } else {
        println!("Something went otherwise than it should; see above.");
        Ok(Outcome::Finding)
    }
}

fn say(title: &str, more: &str) {
    println!("\n{title}");
    if !more.is_empty() {
        println!("   ({more})");
    }
}

fn ask(lab: &Lab, name: &str, wanted: &Reply, why: &str) -> anyhow::Result<bool> {
    let reply = lab.ask(name)?;
    Ok(told(&format!("{name} -> {}", shown(&reply)), why, reply == *wanted))
}

fn shown(reply: &Reply) -> String {
    match reply {
        Reply::Address(address) => address.to_string(),
        Reply::NxDomain => "no such name (NXDOMAIN)".into(),
        Reply::Code(code) => code.clone(),
    }
}

fn connect(lab: &Lab, to: IpAddr, wanted: bool, why: &str) -> anyhow::Result<bool> {
    let (outcome, took) = lab.connect(SocketAddr::new(to, PORT))?;
    let shown = match &outcome {
        Ok(()) => "connected".to_owned(),
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => {
            format!("refused within {} ms", took.as_millis() + 1)
        }
        Err(error) => error.to_string(),
    };
    Ok(told(&format!("{to} port {PORT} -> {shown}"), why, outcome.is_ok() == wanted))
}

fn told(what: &str, why: &str, right: bool) -> bool {
    println!("   {} {what:66} {why}", if right { "✓" } else { "✗" });
    right
}

/// The agent on the gateway, with a policy folder of its own.
struct Agent {
    folder: tempfile::TempDir,
    child: Child,
}

impl Agent {
    fn start(lab: &Lab) -> anyhow::Result<Self> {
        let folder = tempfile::tempdir()?;
        let path = |name: &str| folder.path().join(name).display().to_string();
        std::fs::create_dir(path("policy"))?;
        std::fs::write(path("policy/kaspersky.toml"), packs::kaspersky().text)?;
        let program = std::env::current_exe()?.display().to_string();
        let child = lab
            .command(Side::Gateway, &program)
            .args(["run", "--policy", &path("policy"), "--data", &path("data"), "--control", &path("sock")])
            .args(["--listen", &format!("{GATEWAY}:53"), "--upstream", &format!("{RESOLVER}:53")])
            .args(["--interface", &format!("{LAN}=lan")])
            .stderr(Stdio::null())
            .spawn()?;
        let mut agent = Self { folder, child };
        let end = Instant::now() + Duration::from_secs(20);
        while agent.status().is_none() {
            if let Some(status) = agent.child.try_wait()? {
                bail!("the agent ended ({status}); `interdict run` with the words shown says why");
            }
            if Instant::now() > end {
                bail!("the agent did not start within twenty seconds");
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(agent)
    }

    fn status(&self) -> Option<serde_json::Value> {
        control::ask(&self.folder.path().join("sock"), &Request::Status).ok()
    }

    fn digest(&self) -> Option<String> {
        self.status()?["digest"].as_str().map(str::to_owned)
    }

    /// Saves one more rule, and waits until it is in force.
    fn add_rule(&self) -> anyhow::Result<()> {
        let rule = "format = 1\n\n[[rule]]\nid = \"site-example\"\nrole = \"website\"\naction = \"block\"\nhosts = [\"www.example.org\"]\n";
        println!("   {}", rule.lines().skip(2).collect::<Vec<_>>().join("\n   "));
        let before = self.digest();
        let start = Instant::now();
        std::fs::write(self.folder.path().join("policy/site.toml"), rule)?;
        while self.digest() == before {
            if start.elapsed() > Duration::from_secs(10) {
                bail!("the edit did not come into force within ten seconds");
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        println!("   in force after {} ms, in both planes", start.elapsed().as_millis());
        Ok(())
    }

    fn tail(&self) -> anyhow::Result<()> {
        let output = std::process::Command::new(std::env::current_exe()?)
            .args(["tail", "--no-follow", "--data", &self.folder.path().join("data").display().to_string()])
            .output()
            .context("cannot read the record")?;
        for line in String::from_utf8_lossy(&output.stdout).lines() {
            println!("   {line}");
        }
        Ok(())
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        // `ip netns exec` becomes the agent, so its id is the agent's.
        let pid = rustix::process::Pid::from_child(&self.child);
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        let _ = self.child.wait();
    }
}
