//! Both planes in a network of its own: real packets through the real XDP program.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use hickory_proto::rr::RecordType;
use interdict::lab::{
    CLIENT, CLIENT6, GATEWAY, GATEWAY6, LAN, Lab, ORDINARY, ORDINARY6, RESOLVER, RESOLVER6, Reply, Side,
    VENDOR, VENDOR6, WAN,
};
use interdict_policy::IpNet;
use nix::sys::socket::{setsockopt, sockopt};
use serde_json::Value;
use tempfile::TempDir;

use crate::case;
use crate::support::{Case, Family, family, until};

pub(crate) fn cases() -> Vec<Case> {
    vec![
        case!(the_demo_shows_the_ban, Root),
        case!(a_logged_host_in_a_blocked_network_resolves_connects_and_is_recorded, Root, both_families),
        case!(an_exempt_client_is_let_through_until_the_exemption_ends, Root, both_families),
        case!(an_exempt_client_connects_behind_masquerade, Nft, both_families),
        case!(the_hints_of_a_logged_name_are_opened, Root, both_families),
        case!(what_a_name_resolved_to_is_learned, Root, both_families),
        case!(only_the_named_ports_are_closed, Root, both_families),
        case!(wan_drops_what_the_vendor_starts_and_nothing_else, Root, both_families),
        case!(an_edit_reaches_the_kernel_and_a_broken_one_does_not, Root, both_families),
        case!(no_packet_passes_while_policies_are_swapped, Root, both_families),
        case!(raw_frames_of_every_kind_are_judged, Root, both_families),
        case!(a_wildcard_is_every_address_as_they_come_and_go, Root),
        case!(an_interface_that_comes_again_is_filtered_again, Root),
        case!(the_agents_exit_leaves_no_program, Root),
        case!(a_kept_program_blocks_through_kills_and_restarts, Root, both_families),
        case!(what_cannot_be_filtered_is_not_started, Root),
        case!(the_running_agent_keeps_three_capabilities, Root),
        case!(a_missing_capability_is_named, Root),
        case!(the_named_capabilities_suffice, Root),
        case!(a_folder_that_only_privileges_open_is_refused, Root),
    ]
}

const POLICY: &str = r#"
format = 1
[[rule]]
id = "nets"
role = "update"
action = "block"
networks = ["77.74.176.0/21"]
[[rule]]
id = "fine-host"
role = "website"
action = "log"
hosts = ["support.kaspersky.com"]
"#;

/// A place in the lab, in the family that the case is run in.
pub(crate) fn here(place: Ipv4Addr) -> IpAddr {
    let places = [
        (CLIENT, CLIENT6),
        (GATEWAY, GATEWAY6),
        (RESOLVER, RESOLVER6),
        (ORDINARY, ORDINARY6),
        (VENDOR, VENDOR6),
    ];
    match family() {
        Family::V4 => place.into(),
        Family::V6 => places.iter().find(|(v4, _)| *v4 == place).expect("a place in the lab").1.into(),
    }
}

pub(crate) fn at(place: Ipv4Addr, port: u16) -> SocketAddr {
    SocketAddr::new(here(place), port)
}

/// A policy with the vendor's network in the family that the case is run in.
fn in_family(policy: &str) -> String {
    match family() {
        Family::V4 => policy.to_owned(),
        Family::V6 => policy.replace("77.74.176.0/21", "2a03:2480:8034::/46"),
    }
}

/// Asks for a name's address, in the family that the case is run in.
fn ask(lab: &Lab, name: &str) -> Reply {
    let rtype = if family() == Family::V4 { RecordType::A } else { RecordType::AAAA };
    lab.ask_at(here(GATEWAY), name, rtype).unwrap()
}

/// An agent on the lab's gateway.
pub(crate) struct Gateway {
    folder: TempDir,
    child: Child,
}

impl Gateway {
    pub(crate) fn start(lab: &Lab, policy: &str, interface: &str) -> Self {
        Self::start_with(lab, policy, &["--interface", interface])
    }

    /// Starts an agent with more words on its command line.
    pub(crate) fn start_with(lab: &Lab, policy: &str, more: &[&str]) -> Self {
        let folder = policy_folder();
        std::fs::write(folder.path().join("policy/p.toml"), in_family(policy)).unwrap();
        Self::start_in(lab, folder, more)
    }

    /// Starts an agent in a folder that may have a past.
    fn start_in(lab: &Lab, folder: TempDir, more: &[&str]) -> Self {
        let child = run(lab, &folder, more).stderr(Stdio::null()).spawn().unwrap();
        let gateway = Self { folder, child };
        until("the agent on the gateway answers", || gateway.ask(&interdict::control::Request::Status));
        gateway
    }

    pub(crate) fn ask(&self, request: &interdict::control::Request) -> Option<Value> {
        interdict::control::ask(&self.folder.path().join("sock"), request).ok()
    }

    pub(crate) fn status(&self) -> Value {
        self.ask(&interdict::control::Request::Status).unwrap()
    }

    pub(crate) fn why(&self, asks: &[&str]) -> Value {
        let asks = asks.iter().map(|&ask| ask.into()).collect();
        self.ask(&interdict::control::Request::Why { asks, client: None }).unwrap()["answers"].clone()
    }

    fn put_policy(&self, text: &str) {
        let fresh = self.folder.path().join("policy/.p");
        std::fs::write(&fresh, in_family(text)).unwrap();
        std::fs::rename(fresh, self.folder.path().join("policy/p.toml")).unwrap();
    }

    pub(crate) fn write_policy(&self, text: &str) -> Value {
        self.put_policy(text);
        self.ask(&interdict::control::Request::Reload).unwrap()
    }

    pub(crate) fn event(&self, what: &str, is_it: impl Fn(&Value) -> bool) -> Value {
        until(what, || {
            let mut tail = interdict_audit::Tail::open(
                &self.folder.path().join("data"),
                interdict_audit::Start::Beginning,
            )
            .ok()?;
            let lines = tail.next_lines().ok()?;
            lines.iter().filter_map(|line| serde_json::from_str(line).ok()).find(|event| is_it(event))
        })
    }

    /// Ends the agent as an operator does.
    fn stop(mut self) {
        self.signal(rustix::process::Signal::TERM);
        self.child.wait().unwrap();
    }

    pub(crate) fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, signal).unwrap();
    }

    /// Ends the agent without a word. What it leaves behind stays.
    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn run(lab: &Lab, folder: &TempDir, more: &[&str]) -> Command {
    agent(lab.command(Side::Gateway, env!("CARGO_BIN_EXE_interdict")), folder, more)
}

fn agent(mut command: Command, folder: &TempDir, more: &[&str]) -> Command {
    let path = |name: &str| folder.path().join(name).display().to_string();
    command
        .args(["run", "--policy", &path("policy"), "--data", &path("data"), "--control", &path("sock")])
        .args(more);
    if !more.contains(&"--listen") {
        command.args(["--listen", &at(GATEWAY, 53).to_string()]);
    }
    if !more.contains(&"--upstream") {
        command.args(["--upstream", &at(RESOLVER, 53).to_string()]);
    }
    command
}

pub(crate) fn lab() -> Lab {
    let lab = Lab::new().unwrap();
    lab.serve_dns().unwrap();
    for address in [ORDINARY, VENDOR] {
        for port in [80, 443] {
            lab.serve_tcp(at(address, port)).unwrap();
        }
    }
    lab
}

fn the_demo_shows_the_ban() {
    let output: Output = Command::new(env!("CARGO_BIN_EXE_interdict")).arg("demo").output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.success() && said.contains("Everything went as it should") && !said.contains('✗'),
        "{said}"
    );
}

fn a_logged_host_in_a_blocked_network_resolves_connects_and_is_recorded() {
    let lab = lab();
    let gateway = Gateway::start(&lab, POLICY, &format!("{LAN}=lan"));
    assert!(lab.connects(at(ORDINARY, 443)).unwrap());
    assert!(!lab.connects(at(VENDOR, 443)).unwrap());
    let dropped = gateway.event("the dropped contact is on record", |event| event["plane"] == "packet");
    assert_eq!(
        (&dropped["verdict"], &dropped["rule"], &dropped["role"]),
        (&"block".into(), &"nets".into(), &"update".into())
    );
    assert_eq!(
        (&dropped["client"], &dropped["depth"]),
        (&here(CLIENT).to_string().into(), &"attempted".into())
    );
    assert_eq!(dropped["asked"]["address"], here(VENDOR).to_string());
    assert_eq!((&dropped["asked"]["port"], &dropped["asked"]["protocol"]), (&443.into(), &"tcp".into()));
    assert_eq!(dropped["digest"], gateway.status()["digest"]);

    assert_eq!(ask(&lab, "support.kaspersky.com"), Reply::Address(here(VENDOR)));
    assert!(lab.connects(at(VENDOR, 443)).unwrap());
    gateway.event("the contact let through is on record under the name's rule", |event| {
        event["plane"] == "packet" && event["verdict"] == "log" && event["rule"] == "fine-host"
    });
    let beside = if family() == Family::V4 { "77.74.176.1" } else { "2a03:2480:8034::2" };
    let why = gateway.why(&[&here(VENDOR).to_string(), beside, &here(RESOLVER).to_string()]);
    assert_eq!(
        (&why[0]["verdict"], &why[0]["rule"], &why[0]["form"]),
        (&"log".into(), &"fine-host".into(), &"opened".into())
    );
    assert!(why[0]["note"].as_str().unwrap().contains("without that, by rule nets: block"), "{why}");
    assert_eq!((&why[1]["verdict"], &why[1]["form"]), (&"block".into(), &"network".into()));
    assert_eq!(why[2]["verdict"], "none");
    assert!(why[2]["note"].as_str().unwrap().contains("never dropped"), "{why}");

    let status = gateway.status();
    let rules = status["counters"]["packet"]["rules"].as_array().unwrap().clone();
    assert!(
        rules.iter().any(|counted| counted["rule"] == "nets" && counted["verdict"] == "block"),
        "{rules:?}"
    );
    let attached = &status["planes"]["packet"]["interfaces"][0];
    assert_eq!(
        (&attached["name"], &attached["role"], &attached["mode"]),
        (&LAN.into(), &"lan".into(), &"native".into())
    );
}

/// The client is on the register: names resolve for it, their addresses are open to it, and all is recorded; at the
/// hour the exemption ends, both planes block again by themselves.
fn an_exempt_client_is_let_through_until_the_exemption_ends() {
    let lab = lab();
    let client = IpNet::from(here(CLIENT));
    let end = interdict_policy::Timestamp::now() + std::time::Duration::from_secs(8);
    let policy = format!(
        "format = 1\n[[rule]]\nid = \"nets\"\nrole = \"update\"\naction = \"block\"\nnetworks = [\"77.74.176.0/21\"]\n\
         [[rule]]\nid = \"names\"\nrole = \"update\"\naction = \"block\"\ndomains = [\"kaspersky.com\"]\n\
         [[unit]]\nid = \"lab\"\ntitle = \"The lab\"\nnetworks = [\"{client}\"]\n\
         [[exempt]]\nid = \"analysis\"\nclients = [\"{client}\"]\nrules = [\"names\"]\nreason = \"x\"\n\
         approved_by = \"CISO\"\nexpires = {end}\n"
    );
    let gateway = Gateway::start(&lab, &policy, &format!("{LAN}=lan"));
    assert!(!lab.connects(at(VENDOR, 443)).unwrap(), "exempt from the rule of names only");
    assert_eq!(ask(&lab, "support.kaspersky.com"), Reply::Address(here(VENDOR)));
    assert!(lab.connects(at(VENDOR, 443)).unwrap(), "what the name resolved to is open to the client");
    for plane in ["dns", "packet"] {
        let event = gateway.event("the exempt contact is on record", |event| {
            event["plane"] == plane && event["verdict"] == "exempt"
        });
        assert_eq!((&event["rule"], &event["exemption"]), (&"names".into(), &"analysis".into()));
        assert_eq!((&event["unit"], &event["client"]), (&"lab".into(), &here(CLIENT).to_string().into()));
    }
    let ended = until("the exemption ends", || {
        (interdict_policy::Timestamp::now() >= end)
            .then(|| gateway.event("its end is on record", |event| event["act"] == "exemption.ended"))
    });
    assert_eq!(ended["detail"]["approved_by"], "CISO");
    assert_eq!(ask(&lab, "support.kaspersky.com"), Reply::NxDomain);
    assert!(!lab.connects(at(VENDOR, 443)).unwrap());
    assert_eq!(gateway.status()["exemptions"][0]["ended"], true);
}

/// A client that goes by an HTTPS record's hints asks for no address.
fn the_hints_of_a_logged_name_are_opened() {
    let lab = lab();
    let _gateway = Gateway::start(&lab, POLICY, &format!("{LAN}=lan"));
    assert!(!lab.connects(at(VENDOR, 443)).unwrap());
    let hinted = lab.ask_at(here(GATEWAY), "support.kaspersky.com", RecordType::HTTPS).unwrap();
    assert_eq!(hinted, Reply::Address(VENDOR.into()));
    assert!(lab.connects(at(VENDOR, 443)).unwrap());
}

/// A rule that logs its names learns their addresses; once it blocks, they are blocked as long as they were answered for.
fn what_a_name_resolved_to_is_learned() {
    let lab = lab();
    let policy = "format = 1\n[[rule]]\nid = \"names\"\nrole = \"update\"\naction = \"log\"\nlearn = true\n\
                  domains = [\"kaspersky.com\"]\n";
    let gateway = Gateway::start(&lab, policy, &format!("{LAN}=lan"));
    assert_eq!(ask(&lab, "support.kaspersky.com"), Reply::Address(here(VENDOR)));
    assert!(lab.connects(at(VENDOR, 443)).unwrap());
    assert_eq!(gateway.write_policy(&policy.replace("\"log\"", "\"block\""))["applied"], true);
    assert!(!lab.connects(at(VENDOR, 443)).unwrap());
    assert!(lab.connects(at(ORDINARY, 443)).unwrap());
    assert_eq!(
        gateway.write_policy(&policy.replace("\"log\"", "\"block\"").replace("true", "false"))["applied"],
        true
    );
    assert!(lab.connects(at(VENDOR, 443)).unwrap());
}

fn only_the_named_ports_are_closed() {
    let lab = lab();
    let policy = POLICY.replace("networks", "ports = [\"tcp/443\"]\nnetworks");
    let _gateway = Gateway::start(&lab, &policy, &format!("{LAN}=lan"));
    assert!(!lab.connects(at(VENDOR, 443)).unwrap());
    assert!(lab.connects(at(VENDOR, 80)).unwrap());
}

/// On `wan` an answer to an exempt client is for the gateway's own address, and still passes.
fn an_exempt_client_connects_behind_masquerade() {
    let lab = lab();
    let rule = format!("oifname \"{WAN}\" counter masquerade");
    let table = format!(
        "table inet lab {{\n chain post {{\n  type nat hook postrouting priority srcnat;\n  {rule}\n }}\n}}\n"
    );
    let nft = |words: &[&str]| {
        let output = lab.command(Side::Gateway, "nft").args(words).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    nft(&[&table]);
    let banned = "format = 1\n[[rule]]\nid = \"nets\"\nrole = \"update\"\naction = \"block\"\nnetworks = [\"77.74.176.0/21\"]\n";
    let exempt = |client: IpNet| {
        let end = interdict_policy::Timestamp::now() + std::time::Duration::from_secs(3600);
        format!(
            "{banned}[[exempt]]\nid = \"analysis\"\nclients = [\"{client}\"]\nrules = [\"nets\"]\nreason = \"x\"\n\
             approved_by = \"CISO\"\nexpires = {end}\n"
        )
    };
    let interfaces = [&*format!("{LAN}=lan"), &*format!("{WAN}=wan")];
    let words = ["--interface", interfaces[0], "--interface", interfaces[1]];
    for (client, connects) in [(CLIENT, true), (ORDINARY, false)] {
        let _gateway = Gateway::start_with(&lab, &exempt(here(client).into()), &words);
        assert_eq!(lab.connects(at(VENDOR, 443)).unwrap(), connects);
        assert!(lab.connects(at(ORDINARY, 443)).unwrap(), "others are no concern of ours");
    }
    let rules = nft(&["list", "chain", "inet", "lab", "post"]);
    assert!(rules.contains("counter packets") && !rules.contains("counter packets 0 "), "{rules}");
}

fn wan_drops_what_the_vendor_starts_and_nothing_else() {
    let lab = lab();
    let _gateway = Gateway::start(&lab, POLICY, &format!("{WAN}=wan"));
    // The client's own connections are answered: those packets are no connection attempts.
    assert!(lab.connects(at(VENDOR, 443)).unwrap());
    let client = at(CLIENT, 8080);
    let inside = lab.inside(Side::Client, move || std::net::TcpListener::bind(client)).unwrap().unwrap();
    let from = |source: Ipv4Addr| {
        let (source, client) = (here(source), client.ip());
        lab.inside(Side::Internet, move || {
            let output = Command::new("python3")
                .arg("-c")
                .arg(format!(
                    "import socket; socket.create_connection(('{client}', 8080), 1, ('{source}', 0))"
                ))
                .stderr(Stdio::null())
                .status();
            output.unwrap().success()
        })
        .unwrap()
    };
    assert!(from(ORDINARY), "others may connect to us");
    assert!(!from(VENDOR), "the vendor may not");
    drop(inside);
}

fn an_edit_reaches_the_kernel_and_a_broken_one_does_not() {
    let lab = lab();
    let gateway = Gateway::start(&lab, POLICY, &format!("{LAN}=lan"));
    assert_eq!(gateway.write_policy("format = 1\n[[rule]]\n")["applied"], false);
    assert!(!lab.connects(at(VENDOR, 443)).unwrap());
    let open = POLICY.replace("77.74.176.0/21", "203.0.113.0/24");
    assert_eq!(gateway.write_policy(&open)["applied"], true);
    assert!(lab.connects(at(VENDOR, 443)).unwrap());
    assert_eq!(gateway.write_policy(POLICY)["applied"], true);
    assert!(!lab.connects(at(VENDOR, 443)).unwrap());
}

/// While datagrams to a banned address never stop, policies that all ban it are swapped under them.
fn no_packet_passes_while_policies_are_swapped() {
    let lab = lab();
    let gateway = Gateway::start(&lab, POLICY, &format!("{LAN}=lan"));
    let stop = Arc::new(AtomicBool::new(false));
    let (vendor, client) = (at(VENDOR, 9), at(CLIENT, 0));
    let receiver = lab.inside(Side::Internet, move || std::net::UdpSocket::bind(vendor)).unwrap().unwrap();
    receiver.set_nonblocking(true).unwrap();
    let sender = lab.inside(Side::Client, move || std::net::UdpSocket::bind(client)).unwrap().unwrap();
    // Datagrams that never left the client must not count as sent: with this a full queue of its interface is an error,
    // and here the client learns the gateway's hardware address, until when they would wait in a short queue.
    match family() {
        Family::V4 => setsockopt(&sender, sockopt::Ipv4RecvErr, &true).unwrap(),
        Family::V6 => setsockopt(&sender, sockopt::Ipv6RecvErr, &true).unwrap(),
    }
    assert!(lab.connects(at(ORDINARY, 443)).unwrap());
    let stopped = stop.clone();
    let flood = std::thread::spawn(move || {
        let mut sent = 0u64;
        while !stopped.load(Ordering::Relaxed) {
            sent += u64::from(sender.send_to(b"x", vendor).is_ok());
        }
        sent
    });
    for round in 0..300 {
        let policy = POLICY
            .replace("77.74.176.0/21\"", &format!("77.74.176.0/21\", \"203.0.113.{}/32\"", round % 256));
        assert_eq!(gateway.write_policy(&policy)["applied"], true);
    }
    stop.store(true, Ordering::Relaxed);
    let sent = flood.join().unwrap();
    assert!(receiver.recv(&mut [0; 8]).is_err(), "one of {sent} datagrams passed");
    let blocked = until("every datagram is counted", || {
        let status = gateway.status();
        let rules = status["counters"]["packet"]["rules"].as_array()?.clone();
        let counted: u64 = rules
            .iter()
            .filter(|rule| rule["rule"] == "nets")
            .filter_map(|rule| rule["packets"].as_u64())
            .sum();
        (counted == sent).then_some(counted)
    });
    assert!(blocked > 10_000, "only {blocked} datagrams were sent during 300 reloads");
    assert!(lab.connects(at(ORDINARY, 443)).unwrap());
}

/// Frames to the vendor as no ordinary socket sends them, sent from the client's interface by the script beside this.
fn raw_frames_of_every_kind_are_judged() {
    let lab = lab();
    let gateway = Gateway::start(&lab, POLICY, &format!("{LAN}=lan"));
    let blocked = || {
        let counters = gateway.status()["counters"]["packet"]["rules"].clone();
        let rule = counters.as_array().unwrap().iter().find(|counted| counted["rule"] == "nets").cloned();
        rule.map_or(0, |rule| rule["packets"].as_u64().unwrap())
    };
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/support/raw_frames.py");
    let output =
        lab.command(Side::Client, "python3").args([script, &here(VENDOR).to_string()]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let sent: Vec<String> = String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect();
    assert!(sent.len() >= 8, "{sent:?}");
    until("every frame is counted as blocked", || (blocked() == sent.len() as u64).then_some(()));
}

/// Each address answers from itself, and is never dropped: the policy bans the networks that our own addresses are in.
fn a_wildcard_is_every_address_as_they_come_and_go() {
    const LATER: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 77);
    let lab = lab();
    let folder = policy_folder();
    let ours = POLICY.replace("\"77.74.176.0/21\"", "\"192.0.2.0/24\", \"10.77.0.64/26\"");
    std::fs::write(folder.path().join("policy/p.toml"), ours).unwrap();
    let more = ["--listen", "0.0.0.0:53", "--listen", "[::]:53", "--interface", &format!("{LAN}=lan")];
    let gateway = Gateway::start_in(&lab, folder, &more);
    // A connected socket takes answers from the address that it asked, and no other.
    let answers = |address: Ipv4Addr| {
        let asked = lab.inside(Side::Client, move || {
            let socket = std::net::UdpSocket::bind((CLIENT, 0))?;
            socket.set_read_timeout(Some(std::time::Duration::from_secs(1)))?;
            socket.connect((address, 53))?;
            socket.send(b"\0\x01\x01\0\0\x01\0\0\0\0\0\0\x07support\x09kaspersky\x03com\0\0\x01\0\x01")?;
            socket.recv(&mut [0; 512])
        });
        asked.unwrap().is_ok()
    };
    assert!(answers(GATEWAY));
    assert!(answers([192, 0, 2, 1].into()), "the gateway's address on its other side");
    assert!(!answers(LATER));
    let listens = |address: &str| {
        let status = gateway.status();
        status["planes"]["dns"]["listen"].as_array().unwrap().iter().any(|listen| listen == address)
    };
    assert!(listens("[::1]:53"));
    let address = |verb: &str| {
        let gateway = lab.name(Side::Gateway);
        let done = Command::new("ip")
            .args(["-n", &gateway, "addr", verb, &format!("{LATER}/24"), "dev", LAN])
            .status();
        assert!(done.unwrap().success());
    };
    address("add");
    until("the new address answers", || answers(LATER).then_some(()));
    address("del");
    until("its listener is gone", || (!listens(&format!("{LATER}:53"))).then_some(()));
    address("add");
    until("it answers again", || answers(LATER).then_some(()));
}

fn an_interface_that_comes_again_is_filtered_again() {
    let lab = lab();
    let gateway = Gateway::start(&lab, POLICY, &format!("{LAN}=lan"));
    let ip = |line: String| {
        let done = Command::new("ip").args(line.split(' ')).status().unwrap();
        assert!(done.success(), "ip {line}");
    };
    let [client, router] = [Side::Client, Side::Gateway].map(|side| lab.name(side));
    let make = || {
        ip(format!("-n {client} link add eth0 type veth peer name {LAN} netns {router}"));
        ip(format!("-n {client} addr add {CLIENT}/24 dev eth0"));
        ip(format!("-n {router} addr add {GATEWAY}/24 dev {LAN}"));
        ip(format!("-n {client} link set eth0 up"));
        ip(format!("-n {router} link set {LAN} up"));
        ip(format!("-n {client} route add default via {GATEWAY}"));
    };
    let acts = |act: &str| gateway.event(act, |event| event["act"] == act);
    let output = || {
        let socket = gateway.folder.path().join("sock").display().to_string();
        Command::new(env!("CARGO_BIN_EXE_interdict")).args(["status", "--control", &socket]).output().unwrap()
    };

    ip(format!("-n {router} link del {LAN}"));
    let gone = acts("interface.unfiltered");
    assert_eq!(gone["detail"]["interface"], LAN);
    let status = gateway.status();
    assert_eq!(
        (&status["in_force"], &status["planes"]["packet"]["interfaces"]),
        (&false.into(), &serde_json::json!([]))
    );
    let said = String::from_utf8(output().stdout).unwrap();
    assert!(said.contains(&format!("WARNING  {LAN} is not filtered: ")), "{said}");
    assert_eq!(output().status.code(), Some(1));

    make();
    assert_eq!(acts("interface.filtered")["detail"]["interface"], LAN);
    assert_eq!(gateway.status()["in_force"], true);
    assert!(!lab.connects(at(VENDOR, 443)).unwrap());
    assert!(lab.connects(at(ORDINARY, 443)).unwrap());

    // Gone and back between two looks.
    ip(format!("-n {router} link del {LAN}"));
    make();
    until("it is filtered again", || (!lab.connects(at(VENDOR, 443)).unwrap()).then_some(()));
    assert_eq!(gateway.status()["planes"]["packet"]["interfaces"][0]["name"], LAN);
    assert_eq!(output().status.code(), Some(0));
}

fn the_agents_exit_leaves_no_program() {
    let lab = lab();
    let link = |gateway: &str| {
        let output = Command::new("ip").args(["-n", gateway, "link", "show", "dev", LAN]).output().unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let name = lab.name(Side::Gateway);
    let gateway = Gateway::start(&lab, POLICY, &format!("{LAN}=lan"));
    assert!(link(&name).contains("xdp"), "{}", link(&name));
    gateway.stop();
    assert!(!link(&name).contains("xdp"), "{}", link(&name));
    // A killed agent leaves nothing either: its links close with it.
    drop(Gateway::start(&lab, POLICY, &format!("{LAN}=lan")));
    until("the kernel has closed the killed agent's links", || (!link(&name).contains("xdp")).then_some(()));
    assert!(lab.connects(at(VENDOR, 443)).unwrap());
}

/// A bpffs of this test's own.
pub(crate) struct Bpffs(pub(crate) TempDir);

impl Bpffs {
    pub(crate) fn mount() -> Self {
        let folder = TempDir::new().unwrap();
        let mounted = Command::new("mount").args(["-t", "bpf", "bpf"]).arg(folder.path()).status().unwrap();
        assert!(mounted.success());
        Self(folder)
    }
}

impl Drop for Bpffs {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.0.path()).status();
    }
}

fn a_kept_program_blocks_through_kills_and_restarts() {
    let lab = lab();
    let bpffs = Bpffs::mount();
    let pin = bpffs.0.path().join("interdict").display().to_string();
    let folder = policy_folder();
    let config = folder.path().join("interdict.toml");
    std::fs::write(&config, format!("[packet]\nat_exit = \"keep\"\npin = \"{pin}\"\n")).unwrap();
    let config = config.display().to_string();
    let more = ["--interface", &format!("{LAN}=lan"), "--config", &config];
    let mut folder = Some(folder);
    for round in 0..3 {
        let mut gateway = Gateway::start_in(&lab, folder.take().unwrap(), &more);
        assert!(!lab.connects(at(VENDOR, 443)).unwrap());
        // Killed while it reads one edit after the other, of which each bans the vendor's network.
        for edit in 0..5 {
            let more = format!("77.74.176.0/21\", \"203.0.113.{}/32\"", 10 * round + edit);
            gateway.put_policy(&POLICY.replace("77.74.176.0/21\"", &more));
        }
        std::thread::sleep(std::time::Duration::from_millis(20 * round));
        gateway.child.kill().unwrap();
        gateway.child.wait().unwrap();
        assert!(!lab.connects(at(VENDOR, 443)).unwrap(), "the program stays and keeps its policy");
        assert!(lab.connects(at(ORDINARY, 443)).unwrap());
        folder = Some(std::mem::replace(&mut gateway.folder, TempDir::new().unwrap()));
    }
    let unloaded =
        lab.command(Side::Gateway, env!("CARGO_BIN_EXE_interdict")).args(["unload", "--pin", &pin]).output();
    let said = String::from_utf8(unloaded.unwrap().stdout).unwrap();
    assert_eq!(said, format!("detached from {LAN}\n"));
    assert!(lab.connects(at(VENDOR, 443)).unwrap());
}

fn what_cannot_be_filtered_is_not_started() {
    let lab = lab();
    let gateway = Gateway::start(&lab, POLICY, &format!("{LAN}=lan"));
    let folder = policy_folder();
    for (interface, said) in [
        ("eth7=lan", "cannot attach to eth7: no such interface (have: lo"),
        (&format!("{LAN}=dmz") as &str, "write NAME=lan, NAME=wan or NAME=host"),
    ] {
        let output = run(&lab, &folder, &["--interface", interface]).output().unwrap();
        let all = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.code() == Some(2) && all.contains(said), "{interface}:\n{all}");
    }
    let output = lab
        .command(Side::Gateway, env!("CARGO_BIN_EXE_interdict"))
        .args([
            "run",
            "--listen",
            "127.0.0.1:5353",
            "--upstream",
            "192.0.2.2:53",
            "--interface",
            &format!("{LAN}=lan"),
        ])
        .args(["--data", &folder.path().join("d").display().to_string()])
        .args(["--control", &folder.path().join("s").display().to_string()])
        .output()
        .unwrap();
    let all = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.code() == Some(2) && all.contains("its XDP hook is held by"), "{all}");
    gateway.stop();
}

/// CAP_NET_BIND_SERVICE, CAP_NET_ADMIN and CAP_BPF, as bits (capabilities(7)).
const KEPT: u64 = 1 << 10 | 1 << 12 | 1 << 39;

fn the_running_agent_keeps_three_capabilities() {
    let lab = lab();
    let gateway = Gateway::start(&lab, POLICY, &format!("{LAN}=lan"));
    let tasks = std::fs::read_dir(format!("/proc/{}/task", gateway.child.id())).unwrap();
    let mut threads = 0;
    for task in tasks {
        let status = std::fs::read_to_string(task.unwrap().path().join("status")).unwrap();
        let set = |key: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(key)).unwrap();
            u64::from_str_radix(line.trim(), 16).unwrap()
        };
        assert_eq!(
            [set("CapEff:"), set("CapPrm:"), set("CapBnd:"), set("CapInh:"), set("CapAmb:")],
            [KEPT, KEPT, KEPT, 0, 0],
            "{status}"
        );
        threads += 1;
    }
    assert!(threads > 3, "{threads}");
    // They suffice for a change of policy.
    assert_eq!(gateway.write_policy(&POLICY.replace("176.0/21", "180.0/24"))["applied"], true);
}

fn a_missing_capability_is_named() {
    let lab = lab();
    let folder = policy_folder();
    for (dropped, named) in [
        ("-bpf", "CAP_BPF"),
        ("-net_admin", "CAP_NET_ADMIN"),
        ("-perfmon", "CAP_PERFMON"),
        ("-net_raw", "CAP_NET_RAW"),
    ] {
        let mut command = lab.command(Side::Gateway, "setpriv");
        command.args(["--bounding-set", dropped, env!("CARGO_BIN_EXE_interdict")]);
        let output = agent(command, &folder, &["--interface", &format!("{LAN}=lan")]).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.code() == Some(2) && said.contains(named), "{dropped}:\n{said}");
    }
}

/// What the README names, and nothing else.
fn the_named_capabilities_suffice() {
    let lab = lab();
    let folder = policy_folder();
    let mut command = lab.command(Side::Gateway, "setpriv");
    command.args(["--bounding-set", "-all,+bpf,+net_admin,+net_raw,+perfmon,+net_bind_service"]);
    command.arg(env!("CARGO_BIN_EXE_interdict"));
    let child = agent(command, &folder, &["--interface", &format!("{LAN}=lan")]).spawn().unwrap();
    let gateway = Gateway { folder, child };
    until("the agent on the gateway answers", || gateway.ask(&interdict::control::Request::Status));
    assert!(!lab.connects(at(VENDOR, 443)).unwrap());
    assert_eq!(gateway.write_policy(&POLICY.replace("176.0/21", "180.0/24"))["applied"], true);
    assert!(lab.connects(at(VENDOR, 443)).unwrap());
}

fn a_folder_that_only_privileges_open_is_refused() {
    let lab = lab();
    let folder = policy_folder();
    let theirs = folder.path().join("policy");
    std::fs::set_permissions(&theirs, std::os::unix::fs::PermissionsExt::from_mode(0o300)).unwrap();
    let output = run(&lab, &folder, &["--interface", &format!("{LAN}=lan")]).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        output.status.code() == Some(2) && said.contains("give the files to the user that runs it"),
        "{said}"
    );
}

fn policy_folder() -> TempDir {
    let folder = TempDir::new().unwrap();
    std::fs::create_dir(folder.path().join("policy")).unwrap();
    std::fs::write(folder.path().join("policy/p.toml"), in_family(POLICY)).unwrap();
    folder
}
