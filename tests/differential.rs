//! The two planes against each other: the same messages through the XDP program and through the sinkhole.
//!
//! Every message of a large generated corpus goes both ways. Where the kernel answers, it must send the bytes that the
//! sinkhole sends; where it does not, the design must say that it cannot. The share that it hands up is printed.

use std::collections::{BTreeMap, HashSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use async_trait::async_trait;
use hickory_proto::op::{Header, HeaderCounts, MessageType, Metadata, OpCode};
use interdict_dns_filter::hickory_server::net::runtime::Time;
use interdict_dns_filter::hickory_server::server::{Request, RequestHandler, ResponseHandler, ResponseInfo};
use interdict_dns_filter::{Channel, Clients, Filter, FilterHandler, Silent};
use interdict_dns_wire::{Malformed, Query};
use interdict_ebpf_loader::{Answering, Entry, InKernel, Options, PacketPlane, Prober, Reply};
use interdict_policy::{Name, NameForm, Policy, Source, Timestamp, Verdict, compile, packs};

use crate::case;
use crate::support::Case;

pub(crate) fn cases() -> Vec<Case> {
    vec![case!(both_planes_send_the_same_bytes, Root)]
}

/// Messages of the corpus.
const MESSAGES: usize = 60_000;

/// Beside the Kaspersky pack: every answer, an exemption, and names whose labels are as long as a hyphen's byte.
const POLICY: &str = r#"
format = 1
[[rule]]
id = "nodata"
role = "other"
action = "block"
domains = ["nodata.example"]
answer = "nodata"
[[rule]]
id = "refused"
role = "other"
action = "block"
domains = ["refused.example"]
answer = "refused"
[[rule]]
id = "silent"
role = "other"
action = "block"
domains = ["silent.example"]
answer = "drop"
[[rule]]
id = "zero"
role = "other"
action = "block"
domains = ["zero.example", "aaaaaaaaaabbbbbbbbbbccccccccccddddddddddeeeee.example"]
answer = "null"
[[rule]]
id = "hole"
role = "other"
action = "block"
hosts = ["hole.example", "a.b.c.d.e.f.g.h.i.j.k.l.m.n.o.p.q.r.s.t.u.v.w.x.y.z.hole.example"]
answer = { a = "192.0.2.1", aaaa = "2001:db8::1" }
ttl_secs = 86400
[[rule]]
id = "pattern"
role = "other"
action = "block"
patterns = [{ under = "pattern.example", match = '^n[0-9]+$' }]
[[exempt]]
id = "lab"
clients = ["10.0.0.8/32"]
rules = ["zero"]
reason = "analysis"
approved_by = "CISO"
expires = 2099-01-01
"#;

fn both_planes_send_the_same_bytes() {
    let local = Source { name: "local.toml".to_owned(), text: POLICY.to_owned() };
    let policy = Arc::new(compile(&[packs::kaspersky(), local]).unwrap_or_else(|p| panic!("{p}")).policy);
    let clients: Vec<_> = ["10.0.0.0/8", "2001:db8::/32"].map(|network| network.parse().unwrap()).to_vec();
    let plane = kernel(&policy, clients.clone());
    let sinkhole = Sinkhole::new(&policy, clients);
    let (prober, judge) = (plane.prober(), Judge::new(&policy));
    let mut corpus = Corpus::new(&policy);
    let mut outcomes: BTreeMap<&str, usize> = BTreeMap::new();
    for number in 0..MESSAGES {
        let asked = corpus.next();
        let (expect, sent) = (judge.expects(&asked), sinkhole.answers(&asked));
        let found = meets(&prober, &asked);
        let context = || format!("message {number}: {asked:?}");
        match (&found, expect) {
            (Met::Answered(bytes), Expect::Answer) => assert_eq!(Some(bytes), sent.as_ref(), "{}", context()),
            (Met::Dropped, Expect::Silence) => assert_eq!(sent, None, "{}", context()),
            (Met::Diverted, Expect::Agent) | (Met::LeftAlone, Expect::Nothing) => {}
            other => panic!("{other:?}, the sinkhole sends {sent:?}; {}", context()),
        }
        *outcomes.entry(expect.name()).or_default() += 1;
    }
    let concerned = MESSAGES - outcomes["not concerned"];
    let share = 100.0 * outcomes["left to the agent"] as f64 / concerned as f64;
    println!(
        "{outcomes:?}: {share:.1} % of what concerns the policy is left to the agent, as the design says"
    );
    assert!(outcomes["answered"] > MESSAGES / 5, "the corpus is about answers: {outcomes:?}");
}

fn kernel(policy: &Policy, clients: Vec<interdict_policy::IpNet>) -> PacketPlane {
    let answering =
        Answering { clients, client_qps: 1_000_000, listen: Vec::new(), in_kernel: InKernel::Always };
    let options = Options { answering: Some(answering), ..Options::new(Vec::new()) };
    let mut plane = PacketPlane::load(&options).unwrap();
    let staged = plane.stage(policy).unwrap();
    plane.flip(staged).unwrap();
    plane.judge_queries(None).unwrap();
    plane
}

/// What the kernel made of a message.
#[derive(Debug, PartialEq, Eq)]
enum Met {
    Answered(Vec<u8>),
    Dropped,
    Diverted,
    LeftAlone,
}

fn meets(prober: &Prober, asked: &Asked) -> Met {
    let frame = asked.frame();
    match prober.reply(Entry::Lan, &frame).unwrap() {
        Reply::Dropped => Met::Dropped,
        Reply::SentBack(reply) => Met::Answered(reply[asked.headers_bytes()..].to_vec()),
        Reply::Passed(passed) => {
            // A note for the program that diverts stands in front.
            assert!(passed.ends_with(&frame), "what passes is not changed");
            if passed.len() > frame.len() { Met::Diverted } else { Met::LeftAlone }
        }
    }
}

/// What the design says that the kernel does with a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Expect {
    Answer,
    Silence,
    Agent,
    Nothing,
}

impl Expect {
    const fn name(self) -> &'static str {
        match self {
            Self::Answer => "answered",
            Self::Silence => "answered with silence",
            Self::Agent => "left to the agent",
            Self::Nothing => "not concerned",
        }
    }
}

/// Says it from the policy and the message alone.
struct Judge<'p> {
    policy: &'p Policy,
    /// The fixed parts of globs and patterns.
    fixed: HashSet<Name<'p>>,
}

impl<'p> Judge<'p> {
    fn new(policy: &'p Policy) -> Self {
        let fixed = policy.suffixes().filter(|suffix| suffix.is_fixed_part).map(|suffix| suffix.name);
        Self { policy, fixed: fixed.collect() }
    }

    fn expects(&self, asked: &Asked) -> Expect {
        let query = match Query::read(&asked.message) {
            Ok(query) => query,
            // Too short for a header: an odd packet.
            Err(Malformed::NotAQuery) if asked.message.len() < 12 => return Expect::Agent,
            Err(Malformed::NotAQuery | Malformed::Opcode(4 | 5)) => return Expect::Nothing,
            Err(Malformed::Records) => return self.with_odd_records(asked),
            Err(_) => return Expect::Agent,
        };
        let name = Name::from_wire(query.name()).unwrap();
        match self.of_name(name, asked.client) {
            Expect::Answer | Expect::Silence if !is_plain(&query, &asked.message) => Expect::Agent,
            expect => expect,
        }
    }

    /// A question whose other records cannot be read is still one that may be on no list.
    fn with_odd_records(&self, asked: &Asked) -> Expect {
        if asked.message[6..10] != [0; 4] {
            return Expect::Agent;
        }
        let mut question = asked.message.clone();
        question[10..12].fill(0);
        let Ok(query) = Query::read(&question) else { return Expect::Agent };
        match self.of_name(Name::from_wire(query.name()).unwrap(), asked.client) {
            Expect::Nothing => Expect::Nothing,
            _ => Expect::Agent,
        }
    }

    fn of_name(&self, name: Name<'_>, client: IpAddr) -> Expect {
        let found = self.policy.decide_name(name);
        let labels = name.labels().count();
        let decided = found.map_or(0, |found| match found.form {
            NameForm::Host => labels + 1,
            NameForm::Domain => labels - usize::from(found.labels_left),
            NameForm::Glob | NameForm::Pattern => 0,
        });
        let asks = |parent: Name<'_>| self.fixed.contains(&parent) && parent.labels().count() >= decided;
        if name.suffixes().skip(1).any(asks) {
            return Expect::Agent;
        }
        let Some(found) = found else { return Expect::Nothing };
        match self.policy.judge(found.rule, Some(client), Timestamp::now()).verdict {
            Verdict::Block if self.policy.rule(found.rule).answer == interdict_policy::Answer::Drop => {
                Expect::Silence
            }
            Verdict::Block => Expect::Answer,
            _ => Expect::Agent,
        }
    }
}

/// Whether a query is of the Internet's class, with no more than an OPT record of version 0.
fn is_plain(query: &Query<'_>, message: &[u8]) -> bool {
    let end = 12 + query.question().len();
    let additional = u16::from_be_bytes([message[10], message[11]]);
    let only_opt = additional == 0 || additional == 1 && query.edns.is_some() && message[end] == 0;
    let version_0 = query.edns.is_none_or(|edns| edns.version == 0);
    only_opt && version_0 && matches!(query.qclass, 1 | 255)
}

/// The userspace plane, with nothing behind it.
struct Sinkhole {
    handler: FilterHandler<interdict_dns_filter::Behind<Nothing>>,
    runtime: tokio::runtime::Runtime,
}

impl Sinkhole {
    fn new(policy: &Arc<Policy>, clients: Vec<interdict_policy::IpNet>) -> Self {
        let filter = Arc::new(Filter::new(policy.clone(), Arc::new(Silent)));
        let handler = FilterHandler::in_front_of(Nothing, filter, Clients::new(clients)).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        Self { handler, runtime }
    }

    /// What it sends; `None` for nothing.
    fn answers(&self, asked: &Asked) -> Option<Vec<u8>> {
        let from = SocketAddr::new(asked.client, 40_000);
        self.runtime.block_on(self.handler.answer(&asked.message, from, Channel::Udp, Some(asked.resolver)))
    }
}

struct Nothing;

#[async_trait]
impl RequestHandler for Nothing {
    async fn handle_request<R: ResponseHandler, T: Time>(&self, request: &Request, _: R) -> ResponseInfo {
        let metadata = Metadata::new(request.metadata.id, MessageType::Response, OpCode::Query);
        Header { metadata, counts: HeaderCounts::default() }.into()
    }
}

/// A message on its way.
#[derive(Debug)]
struct Asked {
    client: IpAddr,
    resolver: IpAddr,
    tags: usize,
    message: Vec<u8>,
}

impl Asked {
    fn headers_bytes(&self) -> usize {
        14 + 4 * self.tags + if self.client.is_ipv4() { 20 } else { 40 } + 8
    }

    fn frame(&self) -> Vec<u8> {
        let mut frame = vec![0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 2];
        for _ in 0..self.tags {
            frame.extend([0x81, 0x00, 0x00, 0x2a]);
        }
        let udp_bytes = (8 + self.message.len()) as u16;
        match (self.client, self.resolver) {
            (IpAddr::V4(client), IpAddr::V4(resolver)) => {
                frame.extend([0x08, 0x00, 0x45, 0]);
                frame.extend((20 + udp_bytes).to_be_bytes());
                frame.extend([0, 0, 0, 0, 64, 17, 0, 0]);
                frame.extend(client.octets());
                frame.extend(resolver.octets());
            }
            (IpAddr::V6(client), IpAddr::V6(resolver)) => {
                frame.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
                frame.extend(udp_bytes.to_be_bytes());
                frame.extend([17, 64]);
                frame.extend(client.octets());
                frame.extend(resolver.octets());
            }
            other => panic!("{other:?}"),
        }
        frame.extend([0x9c, 0x40, 0, 53]);
        frame.extend(udp_bytes.to_be_bytes());
        frame.extend([0x12, 0x34]);
        frame.extend(&self.message);
        frame
    }
}

/// Messages without end, the same in every run.
struct Corpus {
    state: u64,
    /// Names of the policy, in wire form.
    names: Vec<Vec<u8>>,
}

impl Corpus {
    fn new(policy: &Policy) -> Self {
        let mut names: Vec<Vec<u8>> =
            policy.suffixes().map(|suffix| suffix.name.as_wire().to_vec()).collect();
        names.sort();
        Self { state: 0x9e37_79b9_7f4a_7c15, names }
    }

    /// Marsaglia's xorshift.
    fn random(&mut self) -> u64 {
        self.state ^= self.state << 13;
        self.state ^= self.state >> 7;
        self.state ^= self.state << 17;
        self.state
    }

    fn below(&mut self, limit: usize) -> usize {
        (self.random() % limit as u64) as usize
    }

    fn one_in(&mut self, chances: usize) -> bool {
        self.below(chances) == 0
    }

    fn next(&mut self) -> Asked {
        let host = self.below(16) as u8;
        let (client, resolver) = match self.below(2) {
            0 => (Ipv4Addr::new(10, 0, 0, host).into(), Ipv4Addr::new(8, 8, 8, 8).into()),
            _ => {
                let client = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, host.into());
                (client.into(), Ipv6Addr::new(0x2001, 0x4860, 0x4860, 0, 0, 0, 0, 0x8888).into())
            }
        };
        Asked { client, resolver, tags: self.below(3), message: self.message() }
    }

    fn message(&mut self) -> Vec<u8> {
        const TYPES: [u16; 16] = [1, 28, 65, 64, 5, 6, 2, 15, 16, 33, 43, 46, 255, 252, 0, 65535];
        let mut flags = [self.below(256) as u8 & 0x07, self.below(256) as u8];
        if self.one_in(20) {
            flags[0] = self.below(256) as u8;
        }
        let mut message = self.random().to_be_bytes()[..2].to_vec();
        message.extend(flags);
        message.extend([0, 1, 0, 0, 0, 0, 0, 0]);
        message.extend(self.name());
        let qtype = if self.one_in(4) { self.below(65_536) as u16 } else { TYPES[self.below(TYPES.len())] };
        message.extend(qtype.to_be_bytes());
        let class = match self.below(20) {
            0 => self.below(65_536) as u16,
            1 => 255,
            _ => 1,
        };
        message.extend(class.to_be_bytes());
        for _ in 0..[0, 1, 1, 1, 1, 2][self.below(6)] {
            message[11] += 1;
            let record = self.additional();
            message.extend(record);
        }
        self.spoil(&mut message);
        message
    }

    /// A name of the policy, something below it, something like it, or anything.
    fn name(&mut self) -> Vec<u8> {
        let at = self.below(self.names.len());
        let known = self.names[at].clone();
        let mut name = match self.below(8) {
            0..=2 => known,
            3..=5 => {
                let labels: Vec<Vec<u8>> = (0..1 + self.below(4)).map(|_| self.label()).collect();
                [labels.concat(), known].concat()
            }
            6 => [self.label(), known[1 + usize::from(known[0])..].to_vec()].concat(),
            _ => [self.label(), self.label(), vec![0]].concat(),
        };
        // Longer names than there are stay as they are: hostile.
        if self.one_in(2) {
            let mask = self.random();
            let letters = name.iter_mut().enumerate().filter(|(i, _)| mask >> (i % 64) & 1 == 1);
            letters.for_each(|(_, byte)| *byte = byte.to_ascii_uppercase());
        }
        name
    }

    fn label(&mut self) -> Vec<u8> {
        let length = if self.one_in(8) { 1 + self.below(63) } else { 1 + self.below(10) };
        let any_bytes = self.one_in(12);
        let mut label = vec![length as u8];
        for _ in 0..length {
            let byte = if any_bytes { self.below(256) as u8 } else { b"abcxyz0189-_n"[self.below(13)] };
            label.push(byte);
        }
        label
    }

    /// An OPT record with options that clients send, or another record.
    fn additional(&mut self) -> Vec<u8> {
        let mut record = vec![0, 0, 41];
        record.extend((self.below(5000) as u16).to_be_bytes());
        record.extend([0, u8::from(self.one_in(15)), self.below(256) as u8, self.below(256) as u8]);
        let options: Vec<u8> = match self.below(8) {
            0 => vec![0, 10, 0, 8, 1, 2, 3, 4, 5, 6, 7, 8],
            1 => vec![0, 8, 0, 7, 0, 1, 24, 0, 192, 0, 2],
            2 => [&[0, 12, 0, 100][..], &[0; 100]].concat(),
            3 => vec![0, 3, 0, 0],
            4 => vec![0, 10, 0, 8, 1],
            _ => Vec::new(),
        };
        record.extend((options.len() as u16).to_be_bytes());
        record.extend(options);
        match self.below(20) {
            // TSIG, another owner, a pointer for one.
            0 => record[2] = 250,
            1 => drop(record.splice(0..1, [1, b'a', 0])),
            2 => drop(record.splice(0..1, [0xc0, 12])),
            _ => {}
        }
        record
    }

    /// Breaks one message in eight.
    fn spoil(&mut self, message: &mut Vec<u8>) {
        if !self.one_in(8) {
            return;
        }
        let at = self.below(message.len());
        match self.below(5) {
            0 => message.truncate(at),
            1 => message[at] = self.below(256) as u8,
            2 => message.extend([1, 2, 3]),
            3 => message[4 + at % 8] = self.below(3) as u8,
            _ => message[at] ^= 1 << self.below(8),
        }
    }
}
