//! DNS questions: which are answered in the kernel and how, which go up, and which are dropped.

use std::net::IpAddr;

use aya::maps::{Array, Map, MapData, loaded_maps};
use hickory_proto::op::{Message, ResponseCode};
use interdict_dns_wire::{Blocked, LONGEST_ANSWER_BYTES, Query, write_answer};
use interdict_ebpf_loader::{
    Answering, AnswersOn, Entry, InKernel, Mode, Options, PacketPlane, PassProgram, Reply, Role,
};
use interdict_ebpf_shared::query::Interface as InterfaceEntry;
use interdict_policy::{Policy, Source, compile};

use crate::{
    namespace::Pair,
    support::{on, options, plane_with, tests},
};

tests![
    a_blocked_name_is_answered_for_any_resolver,
    an_answer_longer_or_shorter_than_its_question_is_the_sinkholes,
    answers_change_with_the_flip_and_not_before,
    a_question_why_a_name_is_blocked_goes_up,
    every_header_form_is_answered_or_goes_up,
    names_are_decided_as_the_policy_says,
    every_answer_of_a_rule_is_written,
    what_is_no_plain_question_is_left_alone,
    only_clients_from_where_answers_reach_them_are_answered,
    a_client_that_asks_too_fast_is_dropped_and_counted,
    an_answered_question_is_an_event_with_its_name,
    questions_cut_off_anywhere_are_never_answered_wrongly,
    a_label_of_any_bytes_never_passes_for_several,
    a_glob_may_decide_about_the_fixed_part_of_another,
    while_the_agent_is_dead_nothing_passes_that_cannot_be_read,
    too_many_names_are_refused_by_name,
    on_a_veth_pair_the_other_end_decides_who_answers,
    on_a_veth_pair_packets_are_diverted_in_both_modes,
    on_a_veth_pair_whose_tags_are_hidden_the_ledger_counts_what_the_kernel_cannot_answer,
];

const RULES: &str = r#"
format = 1
[[rule]]
id = "update"
role = "update"
action = "block"
domains = ["upd.vendor.example"]
hosts = ["vendor.example", "dl.vendor.example"]
[[rule]]
id = "allowed"
role = "website"
action = "allow"
domains = ["fine.upd.vendor.example"]
[[rule]]
id = "logged"
role = "website"
action = "log"
hosts = ["www.vendor.example"]
[[rule]]
id = "glob"
role = "ksn"
action = "block"
globs = ["ksn-*.glob.example"]
[[rule]]
id = "deeper"
role = "ksn"
action = "block"
domains = ["sub.glob.example"]
[[rule]]
id = "long"
role = "other"
action = "block"
domains = ["aaaaaaaaaabbbbbbbbbbccccccccccddddddddddeeeee.example"]
"#;

/// A plane that answers questions of private clients on the loopback interface, where test frames come in.
pub(crate) fn answering(policy: &Policy) -> PacketPlane {
    answering_with(policy, 1_000_000)
}

fn answering_with(policy: &Policy, client_qps: u32) -> PacketPlane {
    let clients = ["10.0.0.0/8", "2001:db8::/32"].map(|network| network.parse().unwrap()).to_vec();
    let listen = vec!["192.0.2.53".parse().unwrap()];
    let answering = Answering { clients, client_qps, listen, in_kernel: InKernel::Always };
    let mut plane = plane_with(&Options { answering: Some(answering), ..options() }, policy);
    plane.judge_queries(None).unwrap();
    plane
}

fn policy(text: &str) -> Policy {
    let source = Source { name: "test.toml".to_owned(), text: text.to_owned() };
    compile(&[source]).unwrap_or_else(|problems| panic!("{problems}")).policy
}

/// A question on its way.
#[derive(Clone)]
struct Asked {
    client: IpAddr,
    resolver: IpAddr,
    tags: usize,
    message: Vec<u8>,
}

impl Asked {
    fn new(name: &str, qtype: u16) -> Self {
        let (client, resolver) = ("10.0.0.9".parse().unwrap(), "8.8.8.8".parse().unwrap());
        Self { client, resolver, tags: 0, message: message(name, qtype, None) }
    }

    fn from(self, client: &str, resolver: &str) -> Self {
        Self { client: client.parse().unwrap(), resolver: resolver.parse().unwrap(), ..self }
    }

    fn frame(&self) -> Vec<u8> {
        // Frames of tests come in by the loopback interface, whose address is all zero.
        let mut frame = vec![0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 2];
        for _ in 0..self.tags {
            frame.extend([0x81, 0x00, 0x00, 0x2a]);
        }
        let udp_bytes = (8 + self.message.len()) as u16;
        match (self.client, self.resolver) {
            (IpAddr::V4(client), IpAddr::V4(resolver)) => {
                frame.extend([0x08, 0x00, 0x45, 0]);
                frame.extend((20 + udp_bytes).to_be_bytes());
                frame.extend([0x12, 0x34, 0, 0, 63, 17, 0, 0]);
                frame.extend(client.octets());
                frame.extend(resolver.octets());
            }
            (IpAddr::V6(client), IpAddr::V6(resolver)) => {
                frame.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
                frame.extend(udp_bytes.to_be_bytes());
                frame.extend([17, 63]);
                frame.extend(client.octets());
                frame.extend(resolver.octets());
            }
            other => panic!("{other:?}"),
        }
        frame.extend(40_000_u16.to_be_bytes());
        frame.extend(53_u16.to_be_bytes());
        frame.extend(udp_bytes.to_be_bytes());
        // As a card that sums by itself leaves it: a part of the sum.
        frame.extend([0xab, 0xcd]);
        frame.extend(&self.message);
        frame
    }
}

/// A query with this name, as written: the case of letters stays. With `edns`, an OPT record with these options.
fn message(name: &str, qtype: u16, edns: Option<&[u8]>) -> Vec<u8> {
    let mut message = vec![0xbe, 0xef, 0x01, 0x10, 0, 1, 0, 0, 0, 0, 0, u8::from(edns.is_some())];
    for label in name.split('.').filter(|label| !label.is_empty()) {
        message.push(label.len() as u8);
        message.extend(label.as_bytes());
    }
    message.push(0);
    message.extend(qtype.to_be_bytes());
    message.extend([0, 1]);
    if let Some(options) = edns {
        message.extend([0, 0, 41, 0x10, 0, 0, 0, 0x80, 0]);
        message.extend((options.len() as u16).to_be_bytes());
        message.extend(options);
    }
    message
}

/// The frame that comes back, taken apart and checked: addresses, lengths and sums.
struct Answered {
    message: Vec<u8>,
}

fn answered(plane: &PacketPlane, asked: &Asked) -> Answered {
    match plane.prober().reply(Entry::Lan, &asked.frame()).unwrap() {
        Reply::SentBack(frame) => taken_apart(&frame, asked),
        other => panic!("{other:?}"),
    }
}

fn taken_apart(frame: &[u8], asked: &Asked) -> Answered {
    let question = asked.frame();
    assert_eq!(
        (&frame[..6], &frame[6..12]),
        (&question[6..12], &question[..6]),
        "the two ends change places"
    );
    let ip = 14 + 4 * asked.tags;
    assert_eq!(frame[12..ip], question[12..ip], "the tags stay");
    let ip_bytes = if asked.client.is_ipv4() { 20 } else { 40 };
    let (header, udp) = (&frame[ip..ip + ip_bytes], &frame[ip + ip_bytes..]);
    let (addresses, payload_bytes) = match asked.client {
        IpAddr::V4(_) => {
            assert_eq!(sum(&[header]), 0xffff, "the header's sum");
            (&header[12..20], u16::from_be_bytes([header[2], header[3]]) - 20)
        }
        IpAddr::V6(_) => (&header[8..40], u16::from_be_bytes([header[4], header[5]])),
    };
    let half = addresses.len() / 2;
    let octets = |address: IpAddr| match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    };
    assert_eq!(addresses[..half], octets(asked.resolver)[..], "it comes from the resolver that was asked");
    assert_eq!(addresses[half..], octets(asked.client)[..]);
    assert_eq!(usize::from(payload_bytes), udp.len(), "nothing stands behind the datagram");
    assert_eq!(udp[4..6], payload_bytes.to_be_bytes());
    assert_eq!((&udp[..2], &udp[2..4]), (&53_u16.to_be_bytes()[..], &40_000_u16.to_be_bytes()[..]));
    let pseudo = [&payload_bytes.to_be_bytes()[..], &[0, 17]].concat();
    assert_eq!(sum(&[addresses, &pseudo, udp]), 0xffff, "the datagram's sum is a full one");
    Answered { message: udp[8..].to_vec() }
}

/// The ones' complement sum (RFC 1071); of what carries its own sum it is all ones.
fn sum(parts: &[&[u8]]) -> u16 {
    let mut bytes = parts.concat();
    bytes.resize(bytes.len().next_multiple_of(2), 0);
    let words = bytes.chunks(2).map(|pair| u64::from(u16::from_be_bytes([pair[0], pair[1]])));
    let mut sum: u64 = words.sum();
    while sum > 0xffff {
        sum = (sum >> 16) + (sum & 0xffff);
    }
    sum as u16
}

impl Answered {
    fn read(&self) -> Message {
        Message::from_vec(&self.message).unwrap()
    }
}

/// Runs the program on a frame, and says by which exit it left.
fn exit(plane: &PacketPlane, frame: &[u8]) -> &'static str {
    let before = plane.counters().unwrap().exits;
    plane.prober().reply(Entry::Lan, frame).unwrap();
    let after = plane.counters().unwrap().exits;
    let grown: Vec<_> = after.iter().filter(|(name, count)| before[*name] != **count).collect();
    assert_eq!(grown.len(), 1, "{grown:?}");
    grown[0].0
}

fn a_blocked_name_is_answered_for_any_resolver() {
    let plane = answering(&policy(RULES));
    for (client, resolver) in
        [("10.0.0.9", "8.8.8.8"), ("10.0.0.9", "192.0.2.53"), ("2001:db8::9", "2001:4860:4860::8888")]
    {
        for tags in 0..=4 {
            for edns in [None, Some(&[][..]), Some(&[0, 10, 0, 8, 1, 2, 3, 4, 5, 6, 7, 8])] {
                let asked = Asked { tags, ..Asked::new("", 1).from(client, resolver) };
                let asked = Asked { message: message("s07.UPD.vendor.Example", 65, edns), ..asked };
                if resolver == "192.0.2.53" && edns.is_some_and(|options| !options.is_empty()) {
                    // Who sent us a cookie is to have ours, which the agent makes.
                    assert_eq!(exit(&plane, &asked.frame()), "query_handed_up");
                    continue;
                }
                let answer = answered(&plane, &asked);
                assert_eq!(
                    answer.message[12..39],
                    asked.message[12..39],
                    "the question is echoed as it was asked"
                );
                let read = answer.read();
                assert_eq!(read.metadata.response_code, ResponseCode::NXDomain);
                assert_eq!(read.authorities[0].name.to_string().to_lowercase(), "upd.vendor.example.");
                assert_eq!(read.edns.is_some(), edns.is_some());
            }
        }
    }
}

/// The frame becomes the answer where it is, and moves by as much as it grows: by any number of bytes, or not at all.
fn an_answer_longer_or_shorter_than_its_question_is_the_sinkholes() {
    let long = "i".repeat(64);
    let rules = [
        ("nx", "\"nxdomain\""),
        ("refused", "\"refused\""),
        ("zero", "\"null\""),
        (long.as_str(), "\"nodata\""),
    ]
    .map(|(id, answer)| {
        let domain = &id[..id.len().min(7)];
        format!(
            "[[rule]]\nid = \"{id}\"\nrole = \"other\"\naction = \"block\"\ndomains = [\"{domain}.example\"]\nanswer = {answer}\n"
        )
    });
    let policy = policy(&format!("format = 1\n{}", rules.concat()));
    let plane = answering(&policy);
    let check = |(rule, qtype): (&str, u16),
                 labels: &str,
                 padding: Option<usize>,
                 tags: usize,
                 client: &str| {
        let name = format!("{labels}{}.example", &rule[..rule.len().min(7)]);
        let resolver = if client.contains(':') { "2001:4860:4860::8888" } else { "8.8.8.8" };
        let options = padding.map(|bytes| [&[0, 12, 0, bytes as u8][..], &vec![0; bytes]].concat());
        let asked = Asked { tags, ..Asked::new("", 1).from(client, resolver) };
        let mut asked = Asked { message: message(&name, qtype, options.as_deref()), ..asked };
        if let Some(padding) = padding {
            let opt = asked.message.len() - padding - 4 - 11;
            // What is patched into OPT: payloads that are too small, all right, and too large, and DO.
            let payload = [0, 600, 0x1000, 0xffff_u16][padding % 4];
            asked.message[opt + 3..opt + 5].copy_from_slice(&payload.to_be_bytes());
            asked.message[opt + 7] = (padding as u8 & 4) << 5;
        }
        let mut room = [0; LONGEST_ANSWER_BYTES];
        let query = Query::read(&asked.message).unwrap();
        let blocked = Blocked::of(policy.rule(policy.find_rule(rule).unwrap()));
        let expect = write_answer(&query, &blocked, labels.matches('.').count(), &mut room).unwrap();
        let what = format!("{name} {qtype} with {padding:?} bytes of padding and {tags} tags from {client}");
        assert_eq!(answered(&plane, &asked).message, expect, "{what}");
        let mut padded = asked.frame();
        padded.extend([0xa5; 7]);
        let Reply::SentBack(frame) = plane.prober().reply(Entry::Lan, &padded).unwrap() else {
            panic!("{what}, behind which are seven bytes more");
        };
        assert_eq!(taken_apart(&frame, &asked).message, expect, "{what}, behind which are seven bytes more");
    };
    let ends = ["10.0.0.9", "2001:db8::9"];
    for case in [("nx", 1), ("refused", 1), ("zero", 1), ("zero", 28), ("zero", 65), (&long, 28)] {
        for label_bytes in (1..=63).step_by(if case.0 == "nx" { 1 } else { 5 }) {
            let label = format!("{}.", "x".repeat(label_bytes));
            for client in ends {
                check(case, &label, None, label_bytes % 5, client);
                for padding in (label_bytes % 3..=100).step_by(3) {
                    check(case, &label, Some(padding), (label_bytes + padding) % 5, client);
                }
            }
        }
        // Longer than what is judged where it is.
        for labels in 2..=3 {
            for label_bytes in (30..=63).step_by(3) {
                let labels = format!("{}.", "y".repeat(label_bytes)).repeat(labels);
                for client in ends {
                    check(case, &labels, None, labels.len() % 5, client);
                    (0..=100).step_by(9).for_each(|padding| check(case, &labels, Some(padding), 0, client));
                }
            }
        }
    }
}

/// What stands in the slot of a policy that is not in force answers nothing, whoever wrote there last.
fn answers_change_with_the_flip_and_not_before() {
    let ruled = |answer: &str| {
        let rule = "[[rule]]\nid = \"banned\"\nrole = \"other\"\naction = \"block\"\ndomains = [\"upd.vendor.example\"]";
        policy(&format!("format = 1\n{rule}\nanswer = {answer}\n"))
    };
    let mut plane = answering(&ruled("\"nxdomain\""));
    let address = |plane: &PacketPlane| {
        let read = answered(plane, &Asked::new("a.upd.vendor.example", 1)).read();
        read.answers.first().map(|record| record.data.to_string())
    };
    let mut last = None;
    for number in 1..=5 {
        let own = format!("192.0.2.{number}");
        let void = plane.stage(&ruled("{ a = \"192.0.2.99\" }")).unwrap();
        assert_eq!(address(&plane), last, "staged, and not in force");
        let staged = plane.stage(&ruled(&format!("{{ a = \"{own}\" }}"))).unwrap();
        assert!(plane.flip(void).is_err(), "another was staged over it");
        assert_eq!(address(&plane), last, "staged, and not in force");
        plane.flip(staged).unwrap();
        last = Some(own);
        assert_eq!(address(&plane), last, "in force");
    }
}

/// Only the agent explains.
fn a_question_why_a_name_is_blocked_goes_up() {
    let plane = answering(&policy(RULES));
    for (name, qtype, expect) in [
        ("why.interdict.a.upd.vendor.example", 16, "query_diverted"),
        ("why.interdict.a.upd.vendor.example", 1, "query_answered"),
        ("a.upd.vendor.example", 16, "query_answered"),
    ] {
        assert_eq!(exit(&plane, &Asked::new(name, qtype).frame()), expect, "{name} {qtype}");
    }
}

fn every_header_form_is_answered_or_goes_up() {
    let plane = answering(&policy(RULES));
    let base = Asked::new("a.upd.vendor.example", 1);
    let cut = |frame: &mut Vec<u8>| frame.truncate(frame.len() - 1);
    type Change = fn(&mut Vec<u8>);
    let changes: [(&str, Change, &str); 9] = [
        ("as it is", |_| {}, "query_answered"),
        ("padded as short frames are", |f| f.extend([0; 18]), "query_answered"),
        ("without a checksum", |f| f[40..42].fill(0), "query_answered"),
        ("an IPv4 length that is too short", |f| f[17] -= 1, "query_diverted"),
        ("a UDP length that is too long", |f| f[39] += 1, "query_diverted"),
        ("a first fragment", |f| f[20] = 0x20, "query_fragment"),
        ("a later fragment", |f| f[21] = 1, "no_match"),
        ("to another port", |f| f[37] = 54, "no_match"),
        ("of another protocol", |f| f[23] = 132, "no_match"),
    ];
    for (what, change, expect) in changes {
        let mut frame = base.frame();
        change(&mut frame);
        assert_eq!(exit(&plane, &frame), expect, "{what}");
    }
    let mut frame = base.frame();
    cut(&mut frame);
    assert_eq!(exit(&plane, &frame), "query_diverted", "cut off");
    let mut options = base.frame();
    options[14] = 0x46;
    options[17] += 4;
    options.splice(34..34, [1, 1, 1, 1]);
    assert_eq!(exit(&plane, &options), "query_diverted", "with IP options");
    let to_us = Asked { resolver: "192.0.2.53".parse().unwrap(), ..base };
    let mut options = to_us.frame();
    options[14] = 0x46;
    options[17] += 4;
    options.splice(34..34, [1, 1, 1, 1]);
    assert_eq!(exit(&plane, &options), "query_handed_up", "with IP options, to us");
}

fn names_are_decided_as_the_policy_says() {
    let plane = answering(&policy(RULES));
    for (name, expect) in [
        ("upd.vendor.example", "query_answered"),
        ("a.upd.vendor.example", "query_answered"),
        ("a.b.c.d.upd.vendor.example", "query_answered"),
        ("vendor.example", "query_answered"),
        ("DL.vendor.EXAMPLE", "query_answered"),
        ("x.dl.vendor.example", "no_match"),
        ("x.vendor.example", "no_match"),
        ("notupd.vendor.example", "no_match"),
        ("upd.vendor.example.org", "no_match"),
        ("example", "no_match"),
        ("", "no_match"),
        ("fine.upd.vendor.example", "query_diverted"),
        ("a.fine.upd.vendor.example", "query_diverted"),
        ("www.vendor.example", "query_diverted"),
        ("glob.example", "no_match"),
        ("ksn-1.glob.example", "query_diverted"),
        ("other.glob.example", "query_diverted"),
        ("a.sub.glob.example", "query_answered"),
        // More labels than are gone through in the packet.
        ("a.b.c.d.e.f.g.h.glob.example", "query_diverted"),
        ("a.b.c.d.e.f.g.h.i.j.upd.vendor.example", "query_answered"),
        ("a.b.c.d.e.f.g.h.fine.upd.vendor.example", "query_diverted"),
        ("a.b.c.d.e.f.g.h.vendor.example", "no_match"),
        // A label of 45 letters: its length is the byte of a hyphen.
        ("aaaaaaaaaabbbbbbbbbbccccccccccddddddddddeeeee.example", "query_answered"),
        ("x-aaaaaaaaaabbbbbbbbbbccccccccccddddddddddeeeee.example", "no_match"),
    ] {
        assert_eq!(exit(&plane, &Asked::new(name, 1).frame()), expect, "{name}");
    }
    // To us, what only the agent can tell goes up as it is.
    for (name, expect) in
        [("ksn-1.glob.example", "query_handed_up"), ("www.vendor.example", "query_handed_up")]
    {
        let asked = Asked::new(name, 1).from("10.0.0.9", "192.0.2.53");
        assert_eq!(exit(&plane, &asked.frame()), expect, "{name}");
    }
}

fn every_answer_of_a_rule_is_written() {
    let rule = |id: &str, answer: &str| {
        format!(
            "[[rule]]\nid = \"{id}\"\nrole = \"other\"\naction = \"block\"\ndomains = [\"{id}.example\"]\nanswer = {answer}\nttl_secs = 77\n"
        )
    };
    let text = [
        "format = 1\n".to_owned(),
        rule("nx", "\"nxdomain\""),
        rule("nodata", "\"nodata\""),
        rule("refused", "\"refused\""),
        rule("dropped", "\"drop\""),
        rule("zero", "\"null\""),
        rule("hole", "{ a = \"192.0.2.1\" }"),
    ]
    .concat();
    let plane = answering(&policy(&text));
    for (name, qtype, code, answers, authorities) in [
        ("a.nx.example", 1, ResponseCode::NXDomain, "", 1),
        ("a.nodata.example", 28, ResponseCode::NoError, "", 1),
        ("a.refused.example", 1, ResponseCode::Refused, "", 0),
        ("a.zero.example", 1, ResponseCode::NoError, "0.0.0.0", 0),
        ("a.zero.example", 28, ResponseCode::NoError, "::", 0),
        ("a.zero.example", 65, ResponseCode::NoError, "", 1),
        ("a.hole.example", 1, ResponseCode::NoError, "192.0.2.1", 0),
        ("a.hole.example", 28, ResponseCode::NoError, "", 1),
    ] {
        let read = answered(&plane, &Asked::new(name, qtype)).read();
        assert_eq!(read.metadata.response_code, code, "{name} {qtype}");
        let said: Vec<String> = read.answers.iter().map(|record| record.data.to_string()).collect();
        assert_eq!(
            (said.join(" ").as_str(), read.authorities.len()),
            (answers, authorities),
            "{name} {qtype}"
        );
        let ttls = read.answers.iter().chain(&read.authorities).all(|record| record.ttl == 77);
        assert!(ttls, "{name} {qtype}");
    }
    assert_eq!(exit(&plane, &Asked::new("a.dropped.example", 1).frame()), "query_silenced");
}

fn what_is_no_plain_question_is_left_alone() {
    let plane = answering(&policy(RULES));
    let name = "a.upd.vendor.example";
    let with = |at: usize, byte: u8| {
        let mut message = message(name, 1, None);
        message[at] = byte;
        message
    };
    let after = message(name, 1, None).len();
    let opt_version_1 = {
        let mut message = message(name, 1, Some(&[]));
        message[after + 6] = 1;
        message
    };
    let twice = {
        let mut message = message(name, 1, Some(&[]));
        message[11] = 2;
        message.extend([0, 0, 41, 0x10, 0, 0, 0, 0, 0, 0, 0]);
        message
    };
    let class = |class: u8| {
        let mut message = message(name, 1, None);
        message[after - 1] = class;
        message
    };
    for (what, message, expect) in [
        ("a response", with(2, 0x81), "no_match"),
        ("an update", with(2, 0x28), "query_opcode"),
        ("an operation that nobody uses", with(2, 0x10), "query_diverted"),
        ("a notification", with(2, 0x20), "query_opcode"),
        ("no question", with(5, 0), "query_diverted"),
        ("two questions", with(5, 2), "query_diverted"),
        ("an answer in a query", with(7, 1), "query_diverted"),
        ("a compressed name", with(12, 0xc0), "query_diverted"),
        ("a byte above 127 in a label", with(13, 0x81), "query_answered"),
        ("class CH", class(3), "query_diverted"),
        ("class ANY", class(255), "query_answered"),
        ("an EDNS version to come", opt_version_1, "query_diverted"),
        ("two OPT records", twice, "query_diverted"),
        ("bytes behind the message", [message(name, 1, None), vec![1, 2, 3]].concat(), "query_answered"),
        ("nothing but a header", vec![0; 12], "query_diverted"),
    ] {
        let asked = Asked { message, ..Asked::new("", 1) };
        assert_eq!(exit(&plane, &asked.frame()), expect, "{what}");
    }
}

fn only_clients_from_where_answers_reach_them_are_answered() {
    let plane = answering(&policy(RULES));
    let name = "a.upd.vendor.example";
    for (client, resolver, expect) in [
        ("10.0.0.9", "8.8.8.8", "query_answered"),
        ("192.0.2.9", "8.8.8.8", "query_stranger"),
        ("2001:db8::9", "2001:4860:4860::8888", "query_answered"),
        ("2002::9", "2001:4860:4860::8888", "query_stranger"),
        ("0.0.0.0", "8.8.8.8", "query_source"),
        ("127.0.0.1", "8.8.8.8", "query_source"),
        ("224.0.0.1", "8.8.8.8", "query_source"),
        ("255.255.255.255", "8.8.8.8", "query_source"),
        ("::1", "2001:4860:4860::8888", "query_source"),
        ("ff02::1", "2001:4860:4860::8888", "query_source"),
        ("10.0.0.9", "224.0.0.251", "query_source"),
        ("10.0.0.9", "255.255.255.255", "query_source"),
        ("2001:db8::9", "ff02::fb", "query_source"),
    ] {
        let asked = Asked::new(name, 1).from(client, resolver);
        assert_eq!(exit(&plane, &asked.frame()), expect, "{client} to {resolver}");
    }
    let asked = Asked::new(name, 1);
    let mut elsewhere = asked.frame();
    elsewhere[5] = 7;
    assert_eq!(exit(&plane, &elsewhere), "query_source", "a frame for another machine");
    let mut from_all = asked.frame();
    from_all[6] |= 1;
    assert_eq!(exit(&plane, &from_all), "query_source", "from the Ethernet address of a group");
    let mut portless = asked.frame();
    portless[34..36].fill(0);
    assert_eq!(exit(&plane, &portless), "query_source", "no port to answer to");
}

fn a_client_that_asks_too_fast_is_dropped_and_counted() {
    let plane = answering_with(&policy(RULES), 5);
    let frame = Asked::new("a.upd.vendor.example", 1).frame();
    let exits: Vec<_> = (0..20).map(|_| exit(&plane, &frame)).collect();
    let answered = exits.iter().filter(|exit| **exit == "query_answered").count();
    let dropped = exits.iter().filter(|exit| **exit == "query_too_fast").count();
    // A second may end meanwhile, on a busy machine.
    assert!((5..=10).contains(&answered) && answered + dropped == 20, "{exits:?}");
    let other = Asked::new("a.upd.vendor.example", 1).from("10.0.0.10", "8.8.8.8");
    assert_eq!(exit(&plane, &other.frame()), "query_answered", "another client has its own");
}

fn an_answered_question_is_an_event_with_its_name() {
    let policy = policy(RULES);
    let mut plane = answering(&policy);
    let mut events = plane.events().unwrap();
    let long = format!("{}.upd.vendor.example", "x".repeat(63));
    answered(&plane, &Asked::new(&long, 1));
    answered(&plane, &Asked::new("S07.upd.Vendor.example", 28));
    let mut seen = Vec::new();
    events.drain(|contact| seen.push(contact));
    let [before, contact] = &seen[..] else { panic!("{seen:?}") };
    assert_eq!(before.question.as_ref().unwrap().name.len(), long.len() + 2);
    let question = contact.question.as_ref().unwrap();
    assert_eq!(question.name, b"\x03s07\x03upd\x06vendor\x07example\0");
    assert_eq!(question.qtype, 28);
    assert_eq!((contact.rule.as_str(), contact.digest), ("update", policy.digest()));
    assert_eq!(contact.client, Some("10.0.0.9".parse().unwrap()));
    assert_eq!((contact.remote, contact.port), ("8.8.8.8".parse().unwrap(), Some(53)));
    // Beyond a hundred a second they are counted, and the count has a sample of the names.
    for _ in 0..500 {
        plane.prober().reply(Entry::Lan, &Asked::new("a.upd.vendor.example", 1).frame()).unwrap();
    }
    let (mut total, mut sampled) = (0, 0);
    events.drain(|contact| total += contact.count);
    events
        .sweep(|contact| {
            total += contact.count;
            sampled += u64::from(contact.question.is_some());
        })
        .unwrap();
    assert_eq!(total, 500);
    assert!(sampled > 0, "a count has a name beside it");
}

fn questions_cut_off_anywhere_are_never_answered_wrongly() {
    let plane = answering(&policy(RULES));
    let asked = Asked {
        message: message("a.upd.vendor.example", 1, Some(&[0, 12, 0, 4, 0, 0, 0, 0])),
        ..Asked::new("", 1)
    };
    let whole = asked.frame();
    for length in 14..whole.len() {
        let reply = plane.prober().reply(Entry::Lan, &whole[..length]).unwrap();
        assert!(!matches!(reply, Reply::SentBack(_)), "cut at {length}");
    }
    // Cut off with lengths that fit: a shorter datagram, which may be another whole question.
    for length in 0..asked.message.len() {
        let shorter = Asked { message: asked.message[..length].to_vec(), ..asked.clone() };
        if let Reply::SentBack(frame) = plane.prober().reply(Entry::Lan, &shorter.frame()).unwrap() {
            taken_apart(&frame, &shorter);
            panic!("an answer to {length} bytes");
        }
    }
}

/// Whatever bytes a label holds, it is one label: the kernel answers only where the policy blocks the name.
fn a_label_of_any_bytes_never_passes_for_several() {
    let policy = policy(RULES);
    let plane = answering(&policy);
    for byte in 0..=u8::MAX {
        // One label that spells a banned name, with `byte` where the dots are; and a banned name below a strange label.
        let one = [&b"\x12upd"[..], &[byte], b"vendor", &[byte], b"example\0"].concat();
        let below = [&[2, byte, b'x'][..], b"\x03upd\x06vendor\x07example\0"].concat();
        for (name, banned) in [(one, false), (below, true)] {
            let mut message = vec![0; 12];
            message[5] = 1;
            message.extend(&name);
            message.extend([0, 1, 0, 1]);
            let asked = Asked { message, ..Asked::new("", 1) };
            let reply = plane.prober().reply(Entry::Lan, &asked.frame()).unwrap();
            let answers = matches!(reply, Reply::SentBack(_));
            assert_eq!(answers, banned, "byte {byte:#x} in {name:?}");
        }
    }
}

fn a_glob_may_decide_about_the_fixed_part_of_another() {
    let globs = "id = \"g\"\nrole = \"x\"\naction = \"block\"\nglobs = [\"*.b.example\", \"x*.a.b.example\"]";
    let plane = answering(&policy(&format!("format = 1\n[[rule]]\n{globs}\n")));
    for (name, expect) in [
        ("a.b.example", "query_diverted"),
        ("x1.a.b.example", "query_diverted"),
        ("b.example", "no_match"),
        ("c.example", "no_match"),
    ] {
        assert_eq!(exit(&plane, &Asked::new(name, 1).frame()), expect, "{name}");
    }
}

/// A segment of a TCP connection to port 53 of a resolver.
fn segment(flags: u8, options: usize, data: &[u8]) -> Vec<u8> {
    let mut frame = vec![0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 2, 0x08, 0x00, 0x45, 0];
    frame.extend((40 + options as u16 + data.len() as u16).to_be_bytes());
    frame.extend([0x12, 0x34, 0x40, 0, 63, 6, 0, 0, 10, 0, 0, 9, 8, 8, 8, 8, 0x9c, 0x40, 0, 53]);
    frame.extend([0, 0, 0, 1, 0, 0, 0, 1, (20 + options as u8) << 2, flags, 4, 0, 0, 0, 0, 0]);
    frame.extend(vec![1; options]);
    frame.extend(data);
    frame
}

fn while_the_agent_is_dead_nothing_passes_that_cannot_be_read() {
    const ACK: u8 = 0x10;
    let plane = answering(&policy(RULES));
    let framed = |name: &str| {
        let message = message(name, 1, None);
        [&(message.len() as u16).to_be_bytes()[..], &message].concat()
    };
    let (banned, free) = (framed("a.upd.vendor.example"), framed("www.example.org"));
    for (what, flags, data) in [
        ("an opening segment", 0x02, &b""[..]),
        ("a bare acknowledgement", ACK, b""),
        ("a question", ACK, &free),
        ("a banned question", ACK, &banned),
    ] {
        assert_eq!(exit(&plane, &segment(flags, 0, data)), "stream_diverted", "{what}, while it lives");
    }
    std::thread::sleep(std::time::Duration::from_millis(5_200));
    let (passes, drops) = ("agent_dead_passed", "agent_dead_dropped");
    for (what, flags, options, data, expect) in [
        ("an opening segment", 0x02, 20, vec![], passes),
        ("a bare acknowledgement", ACK, 12, vec![], passes),
        ("a question", ACK, 0, free.clone(), passes),
        ("a question behind options", ACK, 40, free.clone(), passes),
        ("a question for a logged name", ACK, 0, framed("www.vendor.example"), passes),
        ("a banned question", ACK, 0, banned.clone(), drops),
        ("a banned question behind options", ACK, 40, banned.clone(), drops),
        ("a banned question that opens", 0x02, 0, banned.clone(), drops),
        ("a long banned question", ACK, 0, framed(&format!("{}upd.vendor.example", "a.".repeat(100))), drops),
        ("two questions", ACK, 0, [free.clone(), banned.clone()].concat(), drops),
        ("urgent data", ACK | 0x20, 0, free.clone(), drops),
        ("a length alone", ACK, 0, free[..2].to_vec(), drops),
        ("one byte", ACK, 0, free[..1].to_vec(), drops),
        ("the first part of a question", ACK, 0, free[..9].to_vec(), drops),
        ("the rest of one", ACK, 0, banned[9..].to_vec(), drops),
        ("something else", ACK, 0, vec![0; 64], drops),
    ] {
        assert_eq!(exit(&plane, &segment(flags, options, &data)), expect, "{what}");
    }
    let mut odd = Asked::new("a.upd.vendor.example", 1).frame();
    odd[14] = 0x46;
    odd[17] += 4;
    odd.splice(34..34, [1, 1, 1, 1]);
    assert_eq!(exit(&plane, &odd), drops, "a datagram with IP options");
    let mut counted = Asked::new("a.upd.vendor.example", 1);
    counted.message[5] = 2;
    assert_eq!(exit(&plane, &counted.frame()), drops, "two questions in a datagram");
    for (name, expect) in [
        ("a.upd.vendor.example", "query_answered"),
        ("www.example.org", "no_match"),
        ("www.vendor.example", passes),
        ("ksn-1.glob.example", passes),
    ] {
        assert_eq!(exit(&plane, &Asked::new(name, 1).frame()), expect, "{name}");
    }
}

fn too_many_names_are_refused_by_name() {
    let policy = policy(RULES);
    let mut plane = PacketPlane::load(&Options { max_names: 3, ..options() }).unwrap();
    let error = plane.stage(&policy).err().unwrap().to_string();
    assert!(error.contains("names ([packet] max_names") && error.contains(": 3"), "{error}");
}

/// What is sent back over a veth pair arrives only while the other end has an XDP program.
fn on_a_veth_pair_the_other_end_decides_who_answers() {
    let pair = Pair::new();
    pair.inside.run(|| {
        let answering = Answering {
            clients: vec!["192.0.2.0/24".parse().unwrap()],
            client_qps: 1000,
            listen: Vec::new(),
            in_kernel: InKernel::Auto,
        };
        let options = Options { answering: Some(answering), ..on("in", Role::Lan) };
        let mut plane = plane_with(&options, &policy(RULES));
        plane.attach().unwrap();
        plane.judge_queries(None).unwrap();
        let part = |plane: &mut PacketPlane| plane.follow().unwrap().remove(0).1;
        assert!(matches!(part(&mut plane), AnswersOn::HandedUp(why) if why.contains("veth")));
        let link = pair.outside.run(|| PassProgram::load().unwrap().attach("out").unwrap());
        assert_eq!(part(&mut plane), AnswersOn::InKernel);
        drop(link);
        let handed_up = (0..100).any(|_| {
            std::thread::sleep(std::time::Duration::from_millis(20));
            matches!(part(&mut plane), AnswersOn::HandedUp(_))
        });
        assert!(handed_up, "the other end has no program any more");
    });
}

/// Whether a card takes tags off, the loader asks the system; what it then tells the programs is written here in its place.
fn on_a_veth_pair_whose_tags_are_hidden_the_ledger_counts_what_the_kernel_cannot_answer() {
    const LOOPBACK: u32 = 1;
    let pair = Pair::new();
    let [.., a, b] = std::process::id().to_be_bytes();
    let mac = [0x02, 0x1d, 0x1c, 0x7a, a, b];
    pair.inside.ip(&format!("link set in address 02:1d:1c:7a:{a:02x}:{b:02x}"));
    pair.inside.run(|| {
        let answering = Answering {
            clients: vec!["10.0.0.0/8".parse().unwrap()],
            client_qps: 1000,
            listen: Vec::new(),
            in_kernel: InKernel::Always,
        };
        let options = Options { answering: Some(answering), ..on("in", Role::Lan) };
        let mut plane = plane_with(&options, &policy(RULES));
        plane.judge_queries(None).unwrap();
        let mut interfaces = interfaces_with(mac);
        let asked = Asked::new("upd.vendor.example", 1).from("10.0.0.9", "8.8.8.8");
        let ledger = || plane.counters().unwrap().unjudged["vlan_offload"];
        assert_eq!((exit(&plane, &asked.frame()), ledger()), ("query_answered", 0));
        let hidden = InterfaceEntry::new([0; 6], InterfaceEntry::HIDES_TAGS);
        interfaces.set(LOOPBACK, hidden, 0).unwrap();
        assert_eq!((exit(&plane, &asked.frame()), ledger()), ("query_diverted", 1));
        let other = Asked::new("www.example.org", 1).from("10.0.0.9", "8.8.8.8");
        assert_eq!((exit(&plane, &other.frame()), ledger()), ("no_match", 1));
    });
}

/// The one map of interfaces, of all that the kernel has now, in which this address is.
fn interfaces_with(mac: [u8; 6]) -> Array<MapData, InterfaceEntry> {
    let maps = loaded_maps().filter_map(Result::ok).filter(|info| info.name_as_str() == Some("INTERFACES"));
    // Those of tests beside this one may go while it looks.
    let maps = maps.filter_map(|info| MapData::from_id(info.id()).ok());
    let [a, b, c, d, e, f] = mac;
    let first = u64::from_ne_bytes([a, b, c, d, e, f, 0, 0]);
    let mut arrays = maps.map(|map| Array::<_, InterfaceEntry>::try_from(Map::Array(map)).unwrap());
    arrays
        .find(|map| map.iter().any(|entry| entry.is_ok_and(|entry| entry.is_meant(first))))
        .expect("the plane has told the programs of the interface")
}

/// What XDP notes in front of a packet, the program behind it reads. There is no agent here to take it, so a connection,
/// which must be judged, is not opened.
fn on_a_veth_pair_packets_are_diverted_in_both_modes() {
    for mode in [Mode::Native, Mode::Generic] {
        let pair = Pair::new();
        pair.outside.ip("route add 8.8.8.8 via 192.0.2.1");
        let plane = pair.inside.run(|| {
            let answering = Answering {
                clients: vec!["192.0.2.0/24".parse().unwrap()],
                client_qps: 1000,
                listen: Vec::new(),
                in_kernel: InKernel::Auto,
            };
            let options = Options { answering: Some(answering), mode, ..on("in", Role::Lan) };
            let mut plane = plane_with(&options, &policy(RULES));
            plane.judge_queries(None).unwrap();
            plane.attach().unwrap();
            plane
        });
        let sender = pair.outside.run(|| std::net::UdpSocket::bind("192.0.2.2:0").unwrap());
        let connecting = pair.outside.run(|| {
            let address = "8.8.8.8:53".parse().unwrap();
            std::net::TcpStream::connect_timeout(&address, std::time::Duration::from_millis(200))
        });
        assert!(connecting.is_err(), "{mode:?}");
        sender.send_to(&message("ksn-1.glob.example", 1, None), "8.8.8.8:53").unwrap();
        let end = std::time::Instant::now() + std::time::Duration::from_secs(2);
        let exits = || plane.counters().unwrap().exits;
        while exits()["query_diverted"] == 0 && std::time::Instant::now() < end {
            std::thread::yield_now();
        }
        let exits = exits();
        let seen = (exits["query_diverted"], exits["stream_diverted"], exits["divert_refused"]);
        assert_eq!(seen, (1, 1, 1), "{mode:?} {exits:?}");
    }
}
