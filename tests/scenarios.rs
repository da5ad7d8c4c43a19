//! Scenarios of the DNS plane: each file in `tests/scenarios` is one, with a policy, an upstream's script, and steps.
//!
//! A step asks something, and says what must come of it; see [`Step`].

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::path::Path;
use std::time::{Duration, Instant};

use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query};
use hickory_proto::rr::rdata::opt::{EdnsCode, EdnsOption};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use libtest_mimic::Trial;
use serde::Deserialize;
use tempfile::TempDir;

use crate::case;
use crate::support::{Agent, Case, Line, Scripted, rcode, records, until};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Scenario {
    /// What it shows, in a sentence.
    #[expect(dead_code, reason = "for whoever reads the file")]
    about: String,
    /// Rules of the policy, beside one that bans `banned.example`.
    #[serde(default)]
    policy: String,
    /// More of the agent's configuration.
    #[serde(default)]
    config: String,
    /// How many upstreams there are. In `config`, `UPSTREAM0` and so on stand for their addresses.
    #[serde(default = "one")]
    upstreams: usize,
    /// How many of them are asked for every name; none for all.
    general: Option<usize>,
    /// What they say; the first line that fits.
    #[serde(default)]
    upstream: Vec<Line>,
    step: Vec<Step>,
}

fn one() -> usize {
    1
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Step {
    /// Waits first.
    #[serde(default)]
    wait_ms: u64,
    /// Puts another policy in force first.
    policy: Option<String>,
    /// Ends the agent and starts it again first.
    #[serde(default)]
    restart: bool,
    /// Which upstreams are silent from now on.
    down: Option<Vec<usize>>,
    /// `NAME TYPE`
    ask: Option<String>,
    /// How often it is asked; what is expected is expected of each.
    #[serde(default = "one")]
    times: usize,
    /// `tcp`, `do`, `cd`, `ad`, `z`, `noedns`, `norecurse`, `chaos`, `opcode=N`, `payload=N`, `version=N`, `flags=N`,
    /// `option=CODE:HEX`
    #[serde(default)]
    with: Vec<String>,
    /// It is asked so often at once, and answered as often as these two numbers say at least and at most.
    burst: Option<[usize; 3]>,
    /// RCODE as `dig` writes it, or `silence`.
    #[serde(default = "no_error")]
    expect: String,
    /// The answer section, in any order; TTLs may be two seconds less.
    answer: Option<Vec<String>>,
    authority: Option<Vec<String>>,
    additional: Option<Vec<String>>,
    /// Codes of extended errors.
    ede: Option<Vec<u16>>,
    /// The text of the first of them.
    error_text: Option<String>,
    /// The answer's options but extended errors, by code and in hexadecimal; `*N` at the end stands for N bytes.
    options: Option<BTreeMap<String, String>>,
    /// The first strings of the answer's TXT record.
    texts: Option<Vec<String>>,
    /// Whether the answer is cut off.
    #[serde(default)]
    truncated: bool,
    /// What the upstreams were asked meanwhile, in any order; none for whatever.
    asked: Option<Vec<String>>,
    /// At most so long it takes.
    within_ms: Option<u64>,
    /// Counters of `status` that must have come to this.
    #[serde(default)]
    counters: BTreeMap<String, u64>,
}

fn no_error() -> String {
    "NOERROR".to_owned()
}

pub(crate) fn cases() -> Vec<Case> {
    vec![
        case!(an_answer_is_the_same_from_upstream_and_from_memory),
        case!(questions_leave_from_ports_that_nobody_can_guess),
    ]
}

/// RFC 5452, §9.2: each from a port of its own, and one port says nothing of the next.
fn questions_leave_from_ports_that_nobody_can_guess() {
    const QUESTIONS: usize = 200;
    let upstream = Scripted::start(0, &[toml::from_str("ask = \"* *\"").unwrap()]);
    let folder = TempDir::new().unwrap();
    fs::create_dir(folder.path().join("policy")).unwrap();
    fs::write(folder.path().join("policy/p.toml"), policy("")).unwrap();
    let agent = Agent::start_asking(folder, &[upstream.address()]).unwrap_or_else(|said| panic!("{said}"));
    for number in 0..QUESTIONS {
        let question = Step::default().question(&format!("n{number}.test A"));
        over_udp(agent.address(), &question.to_vec().unwrap()).expect("an answer");
    }
    let ports = upstream.ports();
    let mut distinct = ports.clone();
    distinct.sort_unstable();
    distinct.dedup();
    // Of so many random ones hardly any is drawn twice.
    assert!(
        ports.len() >= QUESTIONS && distinct.len() > QUESTIONS * 9 / 10,
        "{} of {}",
        distinct.len(),
        ports.len()
    );
    let steps = ports.windows(2).filter(|pair| pair[0].abs_diff(pair[1]) < 16).count();
    assert!(steps < QUESTIONS / 10, "{steps} of them lie beside the one before");
}

/// The first answer comes the long way, the second from the bytes that were kept: whoever asks cannot tell.
fn an_answer_is_the_same_from_upstream_and_from_memory() {
    const ANSWERS: [(&str, &[&str]); 7] = [
        (
            "A",
            &[
                "w.test. 300 IN CNAME cdn.test.",
                "cdn.test. 300 IN A 192.0.2.7",
                "cdn.test. 300 IN A 192.0.2.8",
            ],
        ),
        ("AAAA", &["w.test. 300 IN AAAA 2001:db8::7"]),
        ("MX", &["w.test. 300 IN MX 10 a.mail.w.test.", "w.test. 300 IN MX 20 b.mail.w.test."]),
        ("TXT", &["w.test. 300 IN TXT \"one\" \"two\"", "w.test. 300 IN TXT \"\""]),
        ("HTTPS", &["w.test. 300 IN HTTPS 1 . alpn=h2 ipv4hint=192.0.2.7"]),
        ("CAA", &["w.test. 300 IN CAA 0 issue \"ca.test\""]),
        ("NAPTR", &["w.test. 300 IN NAPTR 1 2 \"s\" \"SIP+D2U\" \"\" sip.w.test."]),
    ];
    let soa = "test. 300 IN SOA ns.test. host.test. 1 3600 600 86400 300";
    let line = |rtype: &str, answer: &[&str], rcode: &str| {
        let authority = if answer.is_empty() { vec![soa] } else { Vec::new() };
        let mut line = toml::Table::new();
        line.insert("ask".into(), format!("* {rtype}").into());
        line.insert("answer".into(), answer.iter().map(|one| (*one).to_owned()).collect::<Vec<_>>().into());
        line.insert("authority".into(), authority.into_iter().map(str::to_owned).collect::<Vec<_>>().into());
        line.insert("rcode".into(), rcode.into());
        line.try_into::<Line>().unwrap()
    };
    let mut script: Vec<Line> =
        ANSWERS.iter().map(|(rtype, answer)| line(rtype, answer, "NOERROR")).collect();
    script.extend([line("SRV", &[], "NXDOMAIN"), line("*", &[], "NOERROR")]);
    let upstream = Scripted::start(0, &script);
    let folder = TempDir::new().unwrap();
    fs::create_dir(folder.path().join("policy")).unwrap();
    fs::write(folder.path().join("policy/p.toml"), policy("")).unwrap();
    let agent = Agent::start_asking(folder, &[upstream.address()]).unwrap_or_else(|said| panic!("{said}"));
    let server = agent.address();
    let types = ANSWERS.iter().map(|(rtype, _)| *rtype).chain(["SRV", "DS"]);
    for (number, rtype) in types.enumerate() {
        for (round, with) in
            ["", "do", "cd", "noedns", "norecurse", "payload=512", "tcp"].into_iter().enumerate()
        {
            let with: Vec<String> = with.split_whitespace().map(str::to_owned).collect();
            let step = Step { with, ..Step::default() };
            // Each by a name of its own, since a kind that was asked for before is kept.
            let name = format!("W{number}-{round}.Test");
            let bytes = step.question(&format!("{name} {rtype}")).to_vec().unwrap();
            let ask = || if step.has("tcp") { over_tcp(server, &bytes) } else { over_udp(server, &bytes) };
            upstream.asked();
            let (fresh, kept) = (ask().unwrap(), ask().unwrap());
            assert_eq!(upstream.asked().len(), 1, "{name} {rtype}: the second is from memory");
            assert_eq!(fresh.metadata, kept.metadata, "{name} {rtype}");
            assert_eq!(fresh.queries, kept.queries, "{name} {rtype}");
            assert_eq!(fresh.edns, kept.edns, "{name} {rtype}");
            for (fresh, kept) in [(&fresh.answers, &kept.answers), (&fresh.authorities, &kept.authorities)] {
                let shown = |section: &[Record]| -> Vec<String> {
                    section
                        .iter()
                        .map(|record| format!("{} {} {}", record.name, record.record_type(), record.data))
                        .collect()
                };
                assert_eq!(shown(fresh), shown(kept), "{name} {rtype}");
            }
        }
    }
}

/// One for each file.
pub(crate) fn trials() -> Vec<Trial> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scenarios");
    let mut files: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    let trial = |file: std::path::PathBuf| {
        let name = format!("{}::{}", module_path!(), file.file_stem().unwrap().to_str().unwrap());
        Trial::test(name, move || {
            run(&file);
            Ok(())
        })
    };
    files.into_iter().map(trial).collect()
}

fn run(file: &Path) {
    let text = fs::read_to_string(file).unwrap();
    let scenario: Scenario =
        toml::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    let upstreams: Vec<Scripted> =
        (0..scenario.upstreams).map(|number| Scripted::start(number, &scenario.upstream)).collect();
    let folder = TempDir::new().unwrap();
    fs::create_dir(folder.path().join("policy")).unwrap();
    fs::write(folder.path().join("policy/p.toml"), policy(&scenario.policy)).unwrap();
    let mut addresses: Vec<SocketAddr> = upstreams.iter().map(Scripted::address).collect();
    let mut config = scenario.config.clone();
    for (number, address) in addresses.iter().enumerate() {
        config = config.replace(&format!("UPSTREAM{number}"), &address.to_string());
    }
    fs::write(folder.path().join("agent.toml"), config).unwrap();
    addresses.truncate(scenario.general.unwrap_or(scenario.upstreams));
    let mut agent =
        Agent::start_asking(folder, &addresses).unwrap_or_else(|said| panic!("it did not start:\n{said}"));
    let mut server = agent.address();
    for (number, step) in scenario.step.iter().enumerate() {
        std::thread::sleep(Duration::from_millis(step.wait_ms));
        if step.restart {
            agent = Agent::start_asking(agent.stop(), &addresses).unwrap_or_else(|said| panic!("{said}"));
            server = agent.address();
        }
        if let Some(text) = &step.policy {
            agent.write_policy("p.toml", &policy(text));
            assert!(agent.tell(&["reload"]).status.success(), "step {number}: the policy is refused");
        }
        if let Some(down) = &step.down {
            upstreams.iter().enumerate().for_each(|(at, upstream)| upstream.set_down(down.contains(&at)));
        }
        upstreams.iter().for_each(|upstream| drop(upstream.asked()));
        if let Some(ask) = &step.ask {
            (0..step.times).for_each(|_| step.check(number, ask, server));
        }
        if let Some(asked) = &step.asked {
            let mut expect: Vec<String> = asked.clone();
            expect.sort();
            let mut seen = Vec::new();
            until(&format!("step {number}: the upstreams are asked {expect:?}"), || {
                seen.extend(upstreams.iter().flat_map(Scripted::asked));
                seen.sort();
                (seen.len() >= expect.len()).then_some(())
            });
            assert_eq!(seen, expect, "step {number}: what the upstreams were asked");
        }
        for (name, expect) in &step.counters {
            let count = || agent.status()["counters"]["dns"][name].as_u64();
            until(&format!("step {number}: {name} is {expect} ({:?})", count()), || {
                (count() == Some(*expect)).then_some(())
            });
        }
    }
}

/// A policy without rules is none.
fn policy(text: &str) -> String {
    const SOMETHING: &str = r#"[[rule]]
id = "banned"
role = "update"
action = "block"
domains = ["banned.example"]
"#;
    format!("format = 1\n{SOMETHING}{text}")
}

impl Step {
    fn check(&self, number: usize, ask: &str, server: SocketAddr) {
        let question = self.question(ask);
        if let Some([times, least, most]) = self.burst {
            let answered = burst(server, &question.to_vec().unwrap(), times);
            assert!((least..=most).contains(&answered), "step {number}: {answered} of {times} answered");
            return;
        }
        let mut bytes = question.to_vec().unwrap();
        // What the library has no word for.
        bytes[3] |= if self.has("z") { 0x40 } else { 0 };
        let since = Instant::now();
        let reply = match self.has("tcp") {
            true => over_tcp(server, &bytes),
            false => over_udp(server, &bytes),
        };
        let took = since.elapsed();
        let what = format!("step {number}: {ask} {}", self.with.join(" "));
        if let Some(limit) = self.within_ms {
            assert!(took < Duration::from_millis(limit), "{what} took {took:?}");
        }
        let Some(reply) = reply else {
            assert_eq!(self.expect, "silence", "{what}: no answer");
            return;
        };
        assert_ne!(self.expect, "silence", "{what}: {reply}");
        assert_eq!(reply.metadata.id, question.metadata.id, "{what}");
        assert_eq!(reply.queries, question.queries, "{what}");
        // Two of them have the number 16.
        let [code, expect] = [reply.metadata.response_code, rcode(&self.expect)].map(u16::from);
        assert_eq!(code, expect, "{what}: {reply}");
        assert_eq!(reply.metadata.truncation, self.truncated, "{what}: {reply}");
        let flags = &reply.metadata;
        assert!(
            !flags.authoritative && !flags.authentic_data && flags.recursion_available,
            "{what}: {reply}"
        );
        assert_eq!(flags.recursion_desired, !self.has("norecurse"), "{what}: RD");
        assert_eq!(flags.checking_disabled, self.has("cd"), "{what}: CD");
        assert_eq!(reply.edns.is_some(), question.edns.is_some(), "{what}: OPT");
        for (section, expect) in [
            (&reply.answers, &self.answer),
            (&reply.authorities, &self.authority),
            (&reply.additionals, &self.additional),
        ] {
            if let Some(expect) = expect {
                assert_records(section, &records(expect), &what);
            }
        }
        if let Some(expect) = &self.options {
            assert_eq!(options(&reply, expect), *expect, "{what}: {reply}");
        }
        if let Some(expect) = &self.texts {
            let [record] = &reply.answers[..] else { panic!("{what}: {reply}") };
            let RData::TXT(txt) = &record.data else { panic!("{what}: {reply}") };
            let texts: Vec<_> = txt.txt_data.iter().map(|text| String::from_utf8_lossy(text)).collect();
            assert_eq!(texts[..expect.len()], expect[..], "{what}");
        }
        if let Some(expect) = &self.ede {
            let codes: Vec<u16> = extended_errors(&reply).map(|(code, _)| code).collect();
            assert_eq!(codes, *expect, "{what}: {reply}");
        }
        if let Some(expect) = &self.error_text {
            let (_, text) = extended_errors(&reply).next().unwrap_or_else(|| panic!("{what}: {reply}"));
            assert_eq!(text, *expect, "{what}");
        }
    }

    fn has(&self, word: &str) -> bool {
        self.with.iter().any(|with| with == word)
    }

    fn value<'w>(&'w self, key: &str) -> impl Iterator<Item = &'w str> + use<'w> {
        let key = format!("{key}=");
        self.with.iter().filter_map(move |with| with.strip_prefix(&key))
    }

    fn question(&self, ask: &str) -> Message {
        let (name, rtype) = ask.split_once(' ').expect("a question is NAME TYPE");
        let opcode = self.value("opcode").next().map_or(0, |opcode| opcode.parse().unwrap());
        let mut question = Message::new(0x1d1c, MessageType::Query, OpCode::from_u8(opcode));
        question.metadata.recursion_desired = !self.has("norecurse");
        question.metadata.checking_disabled = self.has("cd");
        question.metadata.authentic_data = self.has("ad");
        let name = Name::from_ascii(format!("{}.", name.trim_end_matches('.'))).unwrap();
        let number = rtype.strip_prefix("TYPE").and_then(|number| number.parse::<u16>().ok());
        let rtype = number.map_or_else(|| rtype.parse().unwrap(), RecordType::from);
        let mut query = Query::query(name, rtype);
        if self.has("chaos") {
            query.set_query_class(hickory_proto::rr::DNSClass::CH);
        }
        question.add_query(query);
        if !self.has("noedns") {
            let mut edns = Edns::new();
            edns.set_max_payload(self.value("payload").next().map_or(1232, |bytes| bytes.parse().unwrap()));
            edns.set_dnssec_ok(self.has("do"));
            edns.set_version(self.value("version").next().map_or(0, |version| version.parse().unwrap()));
            if let Some(flags) = self.value("flags").next() {
                edns.flags_mut().z = flags.parse().unwrap();
            }
            for option in self.value("option") {
                let (code, data) = option.split_once(':').expect("an option is CODE:HEX");
                let data =
                    (0..data.len()).step_by(2).map(|at| u8::from_str_radix(&data[at..at + 2], 16).unwrap());
                edns.options_mut().insert(EdnsOption::Unknown(code.parse().unwrap(), data.collect()));
            }
            question.edns = Some(edns);
        }
        question
    }
}

/// Asks so often, and counts the answers.
fn burst(server: SocketAddr, question: &[u8], times: usize) -> usize {
    let socket = UdpSocket::bind((server.ip(), 0)).unwrap();
    socket.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
    for _ in 0..times {
        socket.send_to(question, server).unwrap();
    }
    std::iter::from_fn(|| socket.recv(&mut [0; 4096]).ok()).count()
}

fn over_udp(server: SocketAddr, question: &[u8]) -> Option<Message> {
    let socket = UdpSocket::bind((server.ip(), 0)).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(6))).unwrap();
    socket.send_to(question, server).unwrap();
    let mut buffer = [0; 4096];
    let len = socket.recv(&mut buffer).ok()?;
    Some(Message::from_vec(&buffer[..len]).unwrap())
}

fn over_tcp(server: SocketAddr, question: &[u8]) -> Option<Message> {
    let mut stream = TcpStream::connect(server).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(6))).unwrap();
    stream.write_all(&[&(question.len() as u16).to_be_bytes()[..], question].concat()).unwrap();
    let mut length = [0; 2];
    stream.read_exact(&mut length).ok()?;
    let mut answer = vec![0; usize::from(u16::from_be_bytes(length))];
    stream.read_exact(&mut answer).unwrap();
    Some(Message::from_vec(&answer).unwrap())
}

#[track_caller]
fn assert_records(section: &[Record], expect: &[Record], what: &str) {
    assert_eq!(section.len(), expect.len(), "{what}: {section:#?}");
    for wanted in expect {
        let is_it = |record: &&Record| {
            record.name == wanted.name
                && record.data == wanted.data
                && record.ttl <= wanted.ttl
                && record.ttl + 2 >= wanted.ttl
        };
        assert!(section.iter().any(|record| is_it(&record)), "{what}: no {wanted} in {section:#?}");
    }
}

/// The options of a reply, each shortened as the expected one is.
fn options(reply: &Message, expect: &BTreeMap<String, String>) -> BTreeMap<String, String> {
    let options = reply.edns.iter().flat_map(|edns| edns.options().as_ref());
    let shown = options.filter(|(code, _)| u16::from(*code) != 15).map(|(code, option)| {
        let data: Vec<u8> = option.try_into().unwrap();
        let hex: String = data.iter().map(|byte| format!("{byte:02x}")).collect();
        let code = u16::from(*code).to_string();
        let shown = match expect.get(&code).and_then(|expect| expect.split_once('*')) {
            Some((begin, _)) if hex.starts_with(begin) => {
                format!("{begin}*{}", data.len() - begin.len() / 2)
            }
            _ => hex,
        };
        (code, shown)
    });
    shown.collect()
}

fn extended_errors(reply: &Message) -> impl Iterator<Item = (u16, String)> {
    let options = reply.edns.iter().flat_map(|edns| edns.options().as_ref());
    options.filter_map(|(code, option)| match (code, option) {
        (EdnsCode::Unknown(15), EdnsOption::Unknown(_, data)) => {
            let (code, text) = data.split_first_chunk()?;
            Some((u16::from_be_bytes(*code), String::from_utf8_lossy(text).into_owned()))
        }
        _ => None,
    })
}
