//! DNSSEC: a small Internet of our own, signed by BIND's tools and served by BIND, whose root's key the agent trusts.

use std::fs;
use std::net::{SocketAddr, UdpSocket};
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use hickory_proto::op::{Message, Query, ResponseCode};
use hickory_proto::rr::rdata::A;
use hickory_proto::rr::{RData, RecordType};
use tempfile::TempDir;

use crate::case;
use crate::support::{Agent, Case, Running, dig, free_address, tool_path, until};

pub(crate) fn cases() -> Vec<Case> {
    vec![
        case!(what_is_signed_is_validated_when_that_is_wanted, NamedDig),
        case!(nothing_is_validated_unless_that_is_wanted, NamedDig),
        case!(names_asked_elsewhere_need_no_signatures, NamedDig),
        case!(what_somebody_between_says_is_not_believed, NamedDig),
        case!(a_blocked_name_is_not_asked_for_to_validate_what_leads_to_it, NamedDig),
        case!(keys_that_cannot_be_read_are_named),
    ]
}

/// Zones by their names: whether they are signed, with what, and what is in them.
const ZONES: [(&str, Signed, &str); 7] = [
    ("insecure.test", Signed::No, "www A 192.0.2.11\n"),
    (
        "child.test",
        Signed::Yes(&[]),
        "www A 192.0.2.12\ncname CNAME www.insecure.test.\nthrough CNAME any.wild.test.\ngone CNAME nowhere.signed.test.\n\
          hash CNAME any.wild.hashed.test.\nto-tampered CNAME tampered.signed.test.\n",
    ),
    (
        "hashed.test",
        Signed::Yes(&["-3", "-"]),
        "www A 192.0.2.13\n*.wild A 192.0.2.14\nmoved DNAME signed.test.\n",
    ),
    (
        "expired.test",
        Signed::Yes(&["-P", "-s", "20250101000000", "-e", "20250201000000"]),
        "www A 192.0.2.15\n",
    ),
    ("optout.test", Signed::Yes(&["-3", "-", "-A"]), "www A 192.0.2.17\nchild NS ns.root.test.\n"),
    // Its parent says nothing of its keys.
    ("island.test", Signed::Alone, "www A 192.0.2.18\n"),
    // Its parent says that it is signed.
    ("stripped.test", Signed::ByName, "www A 192.0.2.16\n"),
];

#[derive(Clone, Copy, PartialEq)]
enum Signed {
    No,
    /// With these options.
    Yes(&'static [&'static str]),
    ByName,
    Alone,
}

const ROOT: &str = "www.signed.test. A 192.0.2.7\nalias.signed.test. CNAME www.signed.test.\n\
    tampered.signed.test. A 192.0.2.66\n*.wild.test. A 192.0.2.8\nbanned.signed.test. CNAME a.v.example.\na.v.example. A 192.0.2.9\n\
    moved.test. DNAME signed.test.\n*.aliases.test. CNAME www.signed.test.\n\
    away.test. DNAME far.test.\nfar.test. NS ns.root.test.\n";

fn run(folder: &Path, tool: &str, words: &[&str]) -> String {
    let mut command = Command::new(tool_path(tool).expect("it comes with named"));
    let output = command.current_dir(folder).args(words).output().unwrap();
    assert!(output.status.success(), "{tool}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// A zone's file, and its DS records.
fn write_zone(folder: &Path, zone: &str, signed: Signed, records: &str) -> (String, String) {
    let origin = if zone == "." { ".".to_owned() } else { format!("{zone}.") };
    let file = if zone == "." { "root" } else { zone };
    let head = format!(
        "$ORIGIN {origin}\n$TTL 300\n@ SOA ns.root.test. h.root.test. 1 3600 600 86400 300\n@ NS ns.root.test.\n"
    );
    let text = format!("{head}{records}");
    fs::write(folder.join(file), text).unwrap();
    if signed == Signed::No {
        return (file.to_owned(), String::new());
    }
    let options = if let Signed::Yes(options) = signed { options } else { &[] };
    let key = run(folder, "dnssec-keygen", &["-q", "-a", "ECDSAP256SHA256", "-f", "KSK", &origin]);
    run(folder, "dnssec-keygen", &["-q", "-a", "ECDSAP256SHA256", &origin]);
    let key = format!("{}.key", key.trim());
    let ds = run(folder, "dnssec-dsfromkey", &["-2", &key]);
    if zone == "." {
        fs::copy(folder.join(&key), folder.join("anchor")).unwrap();
    }
    run(folder, "dnssec-signzone", &[&["-S", "-o", &origin], options, &[file]].concat());
    let file = if signed == Signed::ByName { file.to_owned() } else { format!("{file}.signed") };
    (file, if signed == Signed::Alone { String::new() } else { ds })
}

/// BIND, with all of it.
fn internet(folder: &Path) -> (Running, SocketAddr) {
    let address = free_address();
    let (mut root, mut zones) = (format!("ns.root.test. A 127.0.0.1\n{ROOT}"), String::new());
    let mut serve = |zone: &str, file: &str| {
        zones.push_str(&format!("zone \"{zone}\" {{ type primary; file \"{file}\"; }};\n"));
    };
    for (zone, signed, records) in ZONES {
        let (file, ds) = write_zone(folder, zone, signed, records);
        root.push_str(&format!("{zone}. NS ns.root.test.\n{ds}"));
        serve(zone, &file);
    }
    let (file, _) = write_zone(folder, ".", Signed::Yes(&[]), &root);
    let signed = fs::read_to_string(folder.join(&file)).unwrap();
    fs::write(folder.join(&file), signed.replace("192.0.2.66", "192.0.2.67")).unwrap();
    serve(".", &file);
    let config = format!(
        "options {{ directory \"{}\"; listen-on port {} {{ 127.0.0.1; }}; listen-on-v6 {{ none; }}; pid-file none;\n\
         session-keyfile none; recursion no; dnssec-validation no; }};\ncontrols {{ }};\n{zones}",
        folder.display(),
        address.port()
    );
    fs::write(folder.join("named.conf"), config).unwrap();
    let mut named = Command::new(tool_path("named").unwrap());
    let running = Running::start(named.args(["-f", "-c"]).arg(folder.join("named.conf")));
    until("BIND answers", || {
        dig(address, &["+tries=1", "+time=1", "www.signed.test"]).0.contains("192.0.2.7").then_some(())
    });
    (running, address)
}

const POLICY: &str = "format = 1\n[[rule]]\nid = \"v-all\"\nrole = \"update\"\naction = \"block\"\ndomains = [\"v.example\"]\n";

/// An agent that asks this server.
fn start(upstream: SocketAddr, dns: &str) -> Agent {
    let folder = Agent::folder(POLICY, &format!("[dns]\n{dns}"));
    Agent::start_asking(folder, &[upstream]).unwrap_or_else(|said| panic!("it did not start:\n{said}"))
}

fn validating(internet: &Path) -> String {
    format!("dnssec = \"validate\"\ntrust_anchors = {:?}\n", internet.join("anchor").display().to_string())
}

/// Whether AD is set.
fn is_secure(answer: &str) -> bool {
    let flags = answer.lines().find_map(|line| line.strip_prefix(";; flags:")).expect("there are flags");
    flags.split(';').next().is_some_and(|flags| flags.split(' ').any(|flag| flag == "ad"))
}

fn what_is_signed_is_validated_when_that_is_wanted() {
    let folder = TempDir::new().unwrap();
    let (_named, address) = internet(folder.path());
    let agent = start(address, &validating(folder.path()));
    let cases = [
        // A name and a type, what comes, and whether all of it is signed.
        ("www.signed.test A", "NOERROR", "192.0.2.7", true),
        ("alias.signed.test A", "NOERROR", "192.0.2.7", true),
        ("any.wild.test A", "NOERROR", "192.0.2.8", true),
        ("www.signed.test TXT", "NOERROR", "SOA", true),
        ("missing.signed.test A", "NXDOMAIN", "SOA", true),
        ("www.child.test A", "NOERROR", "192.0.2.12", true),
        ("missing.child.test A", "NXDOMAIN", "SOA", true),
        ("www.hashed.test A", "NOERROR", "192.0.2.13", true),
        ("any.wild.hashed.test A", "NOERROR", "192.0.2.14", true),
        ("missing.hashed.test A", "NXDOMAIN", "SOA", true),
        ("child.test DS", "NOERROR", "DS", true),
        ("child.test DNSKEY", "NOERROR", "257 3 13", true),
        ("child.test SOA", "NOERROR", "ns.root.test", true),
        ("www.insecure.test A", "NOERROR", "192.0.2.11", false),
        ("missing.insecure.test A", "NXDOMAIN", "SOA", false),
        ("insecure.test DS", "NOERROR", "SOA", true),
        ("cname.child.test A", "NOERROR", "192.0.2.11", false),
        ("through.child.test A", "NOERROR", "192.0.2.8", true),
        ("gone.child.test A", "NXDOMAIN", "SOA", true),
        ("hash.child.test A", "NOERROR", "192.0.2.14", true),
        ("many.wild.test A", "NOERROR", "192.0.2.8", true),
        ("deep.er.wild.test A", "NOERROR", "192.0.2.8", true),
        ("www.moved.test A", "NOERROR", "192.0.2.7", true),
        ("missing.moved.test A", "NXDOMAIN", "SOA", true),
        ("any.aliases.test A", "NOERROR", "192.0.2.7", true),
        ("any.aliases.test MX", "NOERROR", "SOA", true),
        ("moved.test A", "NOERROR", "SOA", true),
        ("moved.test DNAME", "NOERROR", "signed.test.", true),
        ("moved.hashed.test MX", "NOERROR", "SOA", true),
        ("www.moved.hashed.test A", "NOERROR", "192.0.2.7", true),
        ("tampered.moved.test A", "SERVFAIL", "EDE: 6", false),
        ("to-tampered.child.test A", "SERVFAIL", "EDE: 6", false),
        ("tampered.signed.test A", "SERVFAIL", "EDE: 6", false),
        ("www.expired.test A", "SERVFAIL", "EDE: 6", false),
        ("www.stripped.test A", "SERVFAIL", "EDE: 6", false),
        ("missing.stripped.test A", "SERVFAIL", "EDE: 6", false),
        ("banned.signed.test A", "NXDOMAIN", "EDE: 15", false),
        ("www.island.test A", "NOERROR", "192.0.2.18", false),
        ("missing.island.test A", "NXDOMAIN", "SOA", false),
        ("www.island.test TXT", "NOERROR", "SOA", false),
        // What may be there all the same is not proven to be missing.
        ("missing.optout.test A", "NXDOMAIN", "SOA", false),
        ("www.optout.test A", "NOERROR", "192.0.2.17", true),
        ("www.signed.test ANY", "NOERROR", "192.0.2.7", true),
    ];
    // From BIND, and from memory; in memory too after a restart.
    let mut agent = agent;
    for round in ["fresh", "kept", "kept over a restart"] {
        for (asked, rcode, has, secure) in cases {
            let (name, rtype) = asked.split_once(' ').unwrap();
            for with in ["+nodnssec", "+dnssec"] {
                let answer = agent.dig(&["+time=5", with, name, rtype]);
                assert_eq!(answer.status(), rcode, "{round} {asked} {with}: {}", answer.0);
                answer.has(has);
                assert_eq!(is_secure(&answer.0), secure, "{round} {asked} {with}: {}", answer.0);
                let mut records: Vec<&str> =
                    answer.0.lines().filter(|line| line.contains("\tIN\t")).collect();
                let all = records.len();
                records.sort_unstable();
                records.dedup();
                assert_eq!(records.len(), all, "{round} {asked} {with}, something twice: {}", answer.0);
                let signatures = answer.0.lines().filter(|line| line.contains("\tRRSIG\t")).count();
                let is_signed = with == "+dnssec"
                    && (secure
                        || ["cname.child.test", "missing.optout.test"].contains(&name)
                        || name.ends_with("island.test"));
                assert_eq!(signatures > 0, is_signed, "{round} {asked} {with}: {}", answer.0);
            }
            // Who checks by himself gets what there is; who wants no AD gets none.
            let unchecked = agent.dig(&["+time=5", "+cd", name, rtype]);
            assert!(
                unchecked.status() != "SERVFAIL" && !is_secure(&unchecked.0),
                "{round} {asked}: {}",
                unchecked.0
            );
            assert!(!is_secure(&agent.dig(&["+noadflag", name, rtype]).0), "{round} {asked}");
        }
        let bogus = agent.status()["counters"]["dns"]["bogus"].as_u64().unwrap();
        assert!(bogus >= 1 || round != "fresh", "they are counted");
        if round == "kept" {
            agent = Agent::start_asking(agent.stop(), &[address]).unwrap_or_else(|said| panic!("{said}"));
        }
    }
}

fn nothing_is_validated_unless_that_is_wanted() {
    let folder = TempDir::new().unwrap();
    let (_named, address) = internet(folder.path());
    let agent = start(address, "");
    for name in ["www.signed.test", "tampered.signed.test", "www.expired.test"] {
        let answer = agent.dig(&["+dnssec", name]);
        assert!(answer.status() == "NOERROR" && !is_secure(&answer.0), "{name}: {}", answer.0);
        answer.has("RRSIG");
    }
    // Below a DNAME record, what the alias comes from is there with its signature, whatever is asked for.
    for (name, rtype) in [("gone.moved.test", "A"), ("gone.moved.test", "SOA"), ("gone.away.test", "SOA")] {
        let answer = agent.dig(&["+dnssec", name, rtype]);
        let words: Vec<Vec<&str>> = answer.0.lines().map(|line| line.split_whitespace().collect()).collect();
        let [owner, name] = [&name["gone.".len()..], name].map(|name| format!("{name}."));
        for (owner, kind) in [(&owner, "DNAME"), (&owner, "RRSIG"), (&name, "CNAME")] {
            let is_there =
                |line: &Vec<&str>| line.first() == Some(&owner.as_str()) && line.get(3) == Some(&kind);
            assert!(words.iter().any(is_there), "{name} {rtype}: {owner} {kind} in {}", answer.0);
        }
    }
}

fn names_asked_elsewhere_need_no_signatures() {
    let folder = TempDir::new().unwrap();
    let (_named, address) = internet(folder.path());
    let forward = format!("[[dns.forward]]\ndomains = [\"stripped.test\"]\nupstreams = [\"{address}\"]\n");
    let agent = start(address, &(validating(folder.path()) + &forward));
    let answer = agent.dig(&["www.stripped.test"]);
    answer.has("192.0.2.16");
    assert!(!is_secure(&answer.0), "{}", answer.0);
    agent.dig(&["www.expired.test"]).has("SERVFAIL");
}

/// A server between the agent and BIND, which changes answers, and knows what was asked.
struct Between {
    address: SocketAddr,
    asked: Arc<Mutex<Vec<String>>>,
}

/// Changes an answer; told how the SOA of a zone is looked up.
type Change = fn(&mut Message, &dyn Fn(&str) -> Message);

impl Between {
    fn start(server: SocketAddr, change: Change) -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let (address, asked) = (socket.local_addr().unwrap(), Arc::<Mutex<Vec<String>>>::default());
        let noted = asked.clone();
        std::thread::spawn(move || {
            let mut bytes = [0; 4096];
            let ask = |question: &[u8]| {
                let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
                socket.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
                socket.send_to(question, server).unwrap();
                let mut answer = [0; 4096];
                let len = socket.recv(&mut answer).unwrap_or(0);
                Message::from_vec(&answer[..len])
            };
            while let Ok((len, from)) = socket.recv_from(&mut bytes) {
                let Ok(question) = Message::from_vec(&bytes[..len]) else { continue };
                noted.lock().unwrap().push(question.queries[0].name().to_string());
                let Ok(mut answer) = ask(&bytes[..len]) else { continue };
                let look_up = |name: &str| {
                    let mut other = question.clone();
                    other.queries = vec![Query::query(name.parse().unwrap(), RecordType::SOA)];
                    ask(&other.to_vec().unwrap()).unwrap()
                };
                change(&mut answer, &look_up);
                let _ = socket.send_to(&answer.to_vec().unwrap(), from);
            }
        });
        Self { address, asked }
    }

    fn asked(&self, name: &str) -> bool {
        self.asked.lock().unwrap().iter().any(|asked| asked.eq_ignore_ascii_case(name))
    }
}

fn what_somebody_between_says_is_not_believed() {
    let folder = TempDir::new().unwrap();
    let (_named, address) = internet(folder.path());
    // Signed names are denied: by the SOA of a zone that is not signed, by one of nobody, and by nothing.
    let between = Between::start(address, |answer, look_up| {
        let name = answer.queries[0].name().to_string();
        let denies = |answer: &mut Message, authorities| {
            answer.answers.clear();
            answer.authorities = authorities;
        };
        if answer.queries[0].query_type() != RecordType::A {
            return;
        }
        match name.as_str() {
            "www.signed.test." | "www.hashed.test." => denies(answer, look_up("insecure.test.").answers),
            "www.child.test." => {
                denies(answer, look_up("insecure.test.").answers);
                answer.metadata.response_code = ResponseCode::NXDomain;
            }
            "www.optout.test." => denies(answer, Vec::new()),
            // One more address beside what is signed.
            "any.wild.test." => {
                let mut more = answer.answers[0].clone();
                more.data = RData::A(A::new(192, 0, 2, 99));
                answer.answers.push(more);
            }
            _ => {}
        }
    });
    let agent = start(between.address, &validating(folder.path()));
    for name in ["www.signed.test", "www.hashed.test", "www.child.test", "www.optout.test", "any.wild.test"] {
        let answer = agent.dig(&["+time=5", "+dnssec", name]);
        assert_eq!(answer.status(), "SERVFAIL", "{name}: {}", answer.0);
        answer.has("EDE: 6");
    }
    // What is said truly is believed.
    agent.dig(&["+time=5", "missing.signed.test"]).has("NXDOMAIN");
    agent.dig(&["+time=5", "www.insecure.test"]).has("192.0.2.11");
}

fn a_blocked_name_is_not_asked_for_to_validate_what_leads_to_it() {
    let folder = TempDir::new().unwrap();
    let (_named, address) = internet(folder.path());
    let between = Between::start(address, |_, _| {});
    let agent = start(between.address, &validating(folder.path()));
    agent.dig(&["+time=5", "banned.signed.test"]).has("NXDOMAIN").has("EDE: 15");
    assert!(between.asked("banned.signed.test.") && !between.asked("a.v.example."));
    let event = agent.event("it is on record", |event| event["asked"]["name"] == "banned.signed.test");
    assert_eq!(event["verdict"], "block");
}

fn keys_that_cannot_be_read_are_named() {
    for (text, said) in [(None, "No such file"), (Some("nothing\n"), "anchor"), (Some(""), "no DNSKEY")] {
        let anchors = "[dns]\ndnssec = \"validate\"\ntrust_anchors = \"FOLDER/anchor\"\n";
        let folder = Agent::folder(POLICY, anchors);
        if let Some(text) = text {
            fs::write(folder.path().join("anchor"), text).unwrap();
        }
        let Err(refused) = Agent::start_asking(folder, &["127.0.0.1:9".parse().unwrap()]) else {
            panic!("{text:?}")
        };
        assert!(refused.contains(said) && refused.contains("anchor"), "{refused}");
    }
}
