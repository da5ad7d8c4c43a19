//! dnstap, read by its own `fstrm_capture` and by BIND's `dnstap-read`.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use interdict_audit::dnstap::{Dnstap, action, kind, matched};
use prost::Message as _;
use rustix::process::{Pid, Signal, kill_process};

use crate::case;
use crate::support::{Agent, Case, Upstream, until};

pub(crate) fn cases() -> Vec<Case> {
    vec![
        case!(what_a_rule_concerns_is_told_with_the_policy, Dnstap),
        case!(every_question_is_told_where_that_is_wanted, Dnstap),
        case!(what_nobody_reads_is_lost_and_counted, Dnstap),
        case!(a_reader_that_speaks_something_else_harms_nobody, Dig),
    ]
}

const POLICY: &str = r#"
format = 1
[[rule]]
id = "v-all"
role = "update"
action = "block"
domains = ["v.example"]
[[rule]]
id = "silent"
role = "update"
action = "block"
answer = "drop"
domains = ["drop.example"]
[[rule]]
id = "mail"
role = "mail"
action = "log"
domains = ["log.example"]
[[rule]]
id = "net"
role = "update"
action = "log"
networks = ["192.0.2.0/24"]
"#;

/// An agent whose questions are read at `tap` in its folder.
fn start(messages: &str, upstream: &Upstream) -> Agent {
    let policy = match messages {
        "all" => &POLICY[..POLICY.find("[[rule]]\nid = \"net\"").unwrap()],
        _ => POLICY,
    };
    let config = format!(
        "[dns.dnstap]\nto = \"unix:FOLDER/tap\"\nmessages = {messages:?}\n[console]\nlisten = \"127.0.0.1:0\"\n"
    );
    let folder = Agent::folder(policy, &config);
    Agent::start_in(folder, upstream).unwrap_or_else(|said| panic!("it did not start:\n{said}"))
}

/// A program that writes what it reads to a file.
struct Capture(Child);

impl Capture {
    fn start(folder: &Path) -> Self {
        let _ = fs::remove_file(folder.join("tap"));
        let child = Command::new("fstrm_capture")
            .args(["-t", "protobuf:dnstap.Dnstap", "-u"])
            .arg(folder.join("tap"))
            .arg("-w")
            .arg(folder.join("frames"))
            .stderr(Stdio::null())
            .spawn();
        Self(child.unwrap())
    }

    /// Ends it in order, and returns what it wrote.
    fn end(mut self, folder: &Path) -> Vec<Dnstap> {
        kill_process(Pid::from_child(&self.0), Signal::TERM).unwrap();
        self.0.wait().unwrap();
        let bytes = fs::read(folder.join("frames")).unwrap();
        let mut rest = bytes.as_slice();
        let mut frames = Vec::new();
        while let Some((length, behind)) = rest.split_first_chunk::<4>() {
            let is_control = u32::from_be_bytes(*length) == 0;
            let (length, behind) =
                if is_control { behind.split_first_chunk::<4>().unwrap() } else { (length, behind) };
            let (frame, behind) = behind.split_at(u32::from_be_bytes(*length) as usize);
            if !is_control {
                frames.push(Dnstap::decode(frame).unwrap());
            }
            rest = behind;
        }
        frames
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn count(agent: &Agent, what: &str) -> u64 {
    agent.status()["dnstap"][what].as_u64().unwrap()
}

fn wait_for_reader(agent: &Agent) {
    // What is asked before somebody reads is lost.
    until("somebody reads", || {
        agent.dig(&["ready.v.example"]);
        (count(agent, "sent") > 0).then_some(())
    });
}

fn what_a_rule_concerns_is_told_with_the_policy() {
    let upstream = Upstream::start();
    let agent = start("decided", &upstream);
    let folder = agent.folder.path().to_owned();
    let capture = Capture::start(&folder);
    wait_for_reader(&agent);
    agent.dig(&["A.v.Example"]);
    agent.dig(&["+tcp", "b.v.example", "MX"]);
    agent.dig(&["c.drop.example"]);
    agent.dig(&["d.log.example"]);
    agent.dig(&["e.other.example"]);
    let digest = agent.status()["digest"].as_str().unwrap().to_owned();
    let sent = count(&agent, "sent");
    until("they are written", || (count(&agent, "sent") >= sent.max(5)).then_some(()));
    let _folder = agent.stop();
    let read = Command::new("dnstap-read").arg(folder.join("frames")).output().unwrap();
    let frames = capture.end(&folder);
    let mut expect = vec![
        (
            "a.v.example",
            "udp",
            kind::CLIENT_RESPONSE,
            "v-all",
            action::NXDOMAIN,
            matched::QNAME,
            &b"\x01a\x01v\x07example\0"[..],
        ),
        (
            "b.v.example",
            "tcp",
            kind::CLIENT_RESPONSE,
            "v-all",
            action::NXDOMAIN,
            matched::QNAME,
            b"\x01b\x01v\x07example\0",
        ),
        (
            "c.drop.example",
            "udp",
            kind::CLIENT_QUERY,
            "silent",
            action::DROP,
            matched::QNAME,
            b"\x01c\x04drop\x07example\0",
        ),
        (
            "d.log.example",
            "udp",
            kind::CLIENT_RESPONSE,
            "mail",
            action::PASS,
            matched::QNAME,
            b"\x01d\x03log\x07example\0",
        ),
        // By the address in the answer.
        (
            "e.other.example",
            "udp",
            kind::CLIENT_RESPONSE,
            "net",
            action::PASS,
            matched::RESPONSE_IP,
            &[192, 0, 2, 7],
        ),
    ];
    for frame in &frames {
        let message = frame.message.as_ref().unwrap();
        let asked = hickory_proto::op::Message::from_vec(&message.query).unwrap();
        let name = asked.queries[0].name().to_string().to_lowercase();
        let name = name.trim_end_matches('.');
        let policy = message.policy.as_ref().unwrap_or_else(|| panic!("{name}: a rule concerns it"));
        assert_eq!(frame.extra, digest.as_bytes());
        assert_eq!((message.client.as_slice(), policy.kind.as_str()), (&[127, 0, 0, 1][..], "interdict"));
        assert!(message.query_secs > 1_700_000_000);
        let Some(at) = expect.iter().position(|(expect, ..)| *expect == name) else {
            assert_eq!(name, "ready.v.example");
            continue;
        };
        let (_, channel, kind, rule, action, matched, value) = expect.remove(at);
        let protocol = if channel == "udp" { 1 } else { 2 };
        assert_eq!((message.protocol, message.kind), (protocol, kind), "{name}");
        assert_eq!(
            (policy.rule.as_slice(), policy.action, policy.matched),
            (rule.as_bytes(), action, matched),
            "{name}"
        );
        assert_eq!(policy.value, value, "{name}");
        assert_eq!(message.response.is_empty(), kind == kind::CLIENT_QUERY, "{name}");
    }
    assert!(expect.is_empty(), "{expect:?}");
    // Others read it too.
    let read = String::from_utf8(read.stdout).unwrap();
    assert!(read.contains("CR") && read.contains("UDP") && read.contains("v.example/IN/A"), "{read}");
}

fn every_question_is_told_where_that_is_wanted() {
    let upstream = Upstream::start();
    let agent = start("all", &upstream);
    let folder = agent.folder.path().to_owned();
    let capture = Capture::start(&folder);
    wait_for_reader(&agent);
    // From the upstream, from memory, and by the server itself.
    for words in [
        &["www.example.org"][..],
        &["www.example.org"],
        &["+tcp", "www.example.org"],
        &["CH", "TXT", "version.bind"],
    ] {
        agent.dig(words);
    }
    let _folder = agent.stop();
    let frames = capture.end(&folder);
    let of = |name: &str| {
        let is_it = |frame: &&Dnstap| {
            let asked = hickory_proto::op::Message::from_vec(&frame.message.as_ref().unwrap().query).unwrap();
            asked.queries[0].name().to_string() == name
        };
        frames.iter().filter(is_it).filter(|frame| frame.message.as_ref().unwrap().policy.is_none()).count()
    };
    assert_eq!((of("www.example.org."), of("version.bind.")), (3, 1));
}

fn what_nobody_reads_is_lost_and_counted() {
    let upstream = Upstream::start();
    let agent = start("decided", &upstream);
    agent.dig(&["a.v.example"]).has("NXDOMAIN");
    until("it is lost", || (count(&agent, "lost") >= 1).then_some(()));
    assert!(agent.status()["dnstap"]["error"].is_string());
    let folder = agent.folder.path().to_owned();
    let capture = Capture::start(&folder);
    wait_for_reader(&agent);
    assert!(agent.status()["dnstap"]["error"].is_null());
    drop(capture);
    until("it is told that nobody reads any more", || {
        agent.dig(&["b.v.example"]).has("NXDOMAIN");
        agent.status()["dnstap"]["error"].as_str().map(drop)
    });
}

fn a_reader_that_speaks_something_else_harms_nobody() {
    let upstream = Upstream::start();
    let folder = Agent::folder(POLICY, "[dns.dnstap]\nto = \"unix:FOLDER/tap\"\n");
    let other = UnixListener::bind(folder.path().join("tap")).unwrap();
    std::thread::spawn(move || {
        while let Ok((mut stream, _)) = other.accept() {
            let _ = stream.read(&mut [0; 64]);
            let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n");
        }
    });
    let agent = Agent::start_in(folder, &upstream).unwrap_or_else(|said| panic!("{said}"));
    agent.dig(&["a.v.example"]).has("NXDOMAIN");
    until("it is told", || {
        agent.status()["dnstap"]["error"].as_str().filter(|error| error.contains("Frame Streams")).map(drop)
    });
    agent.dig(&["a.v.example"]).has("NXDOMAIN");
}
