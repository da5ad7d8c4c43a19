//! The server's name in a TLS ClientHello.

use interdict_ebpf_loader::{Contact, Depth, Entry, Hook, PacketPlane, Reached, Reply};
use interdict_policy::Verdict;

use crate::{
    queries::answering,
    support::{frame, policy_and, tests, to},
};

tests![
    a_named_server_is_judged_like_a_question,
    what_names_no_server_is_counted,
    a_hello_in_any_length_is_read_or_counted,
    who_is_exempt_may_name_it,
    other_ports_and_other_data_are_left_alone,
    a_connection_let_through_by_its_servers_name_is_followed,
];

const RULES: &str = "address block 192.0.2.0/24";

const NAMES: &str = r#"
[[rule]]
id = "vendor"
role = "other"
action = "block"
domains = ["vendor.example"]
[[rule]]
id = "quiet"
role = "other"
action = "block"
packet = "drop"
hosts = ["quiet.example"]
[[rule]]
id = "seen"
role = "other"
action = "log"
hosts = ["www.vendor.example"]
[[rule]]
id = "glob"
role = "other"
action = "block"
globs = ["a-*.glob.example"]
[[exempt]]
id = "lab"
clients = ["10.0.0.77/32"]
rules = ["vendor"]
reason = "x"
approved_by = "y"
expires = 2999-01-01
"#;

fn plane() -> PacketPlane {
    answering(&policy_and(RULES, NAMES))
}

/// A ClientHello that names a server, with other extensions in front of that and behind it.
fn hello(name: &str, before: usize, after: &[u16]) -> Vec<u8> {
    let extension =
        |kind: u16, data: &[u8]| [&kind.to_be_bytes()[..], &(data.len() as u16).to_be_bytes(), data].concat();
    let mut extensions = Vec::new();
    (0..before).for_each(|i| extensions.extend(extension(0x0a0a + i as u16, &vec![7; i % 5])));
    if !name.is_empty() {
        let entry = [&[0][..], &(name.len() as u16).to_be_bytes(), name.as_bytes()].concat();
        extensions.extend(extension(0, &[&(entry.len() as u16).to_be_bytes()[..], &entry].concat()));
    }
    after.iter().for_each(|&kind| extensions.extend(extension(kind, &[1, 2, 3])));
    let mut body = [&[3, 3][..], &[9; 32], &[32], &[8; 32], &[0, 4, 0x13, 1, 0x13, 2], &[1, 0]].concat();
    body.extend((extensions.len() as u16).to_be_bytes());
    body.extend(extensions);
    let message = [&[1][..], &(body.len() as u32).to_be_bytes()[1..], &body].concat();
    [&[22, 3, 1][..], &(message.len() as u16).to_be_bytes(), &message].concat()
}

/// The data in a segment of a connection.
fn segment(version: &str, data: &[u8], port: u16) -> Vec<u8> {
    let remote = if version == "v4" { "198.51.100.1" } else { "2001:db8:ffff::1" };
    let mut frame = frame(&format!("{version} tcp:ack"), &to(remote, port));
    frame[..6].fill(0);
    frame.extend(data);
    match version {
        "v4" => frame[16..18].copy_from_slice(&(40 + data.len() as u16).to_be_bytes()),
        _ => frame[18..20].copy_from_slice(&(20 + data.len() as u16).to_be_bytes()),
    }
    frame
}

fn run(plane: &PacketPlane, frame: &[u8]) -> Reply {
    plane.prober().reply(Entry::Lan, frame).unwrap()
}

fn exit(plane: &PacketPlane, frame: &[u8]) -> &'static str {
    let before = plane.counters().unwrap().exits;
    run(plane, frame);
    let after = plane.counters().unwrap().exits;
    let grown: Vec<_> = after.iter().filter(|(name, count)| before[*name] != **count).collect();
    let [(name, _)] = &grown[..] else { panic!("{grown:?}") };
    name
}

fn a_named_server_is_judged_like_a_question() {
    let mut plane = plane();
    let mut events = plane.events().unwrap();
    for (name, expect, rule) in [
        ("vendor.example", "tls_blocked", Some(("vendor", Verdict::Block))),
        ("s07.UPD.Vendor.Example", "tls_blocked", Some(("vendor", Verdict::Block))),
        ("vendor.example.", "tls_blocked", Some(("vendor", Verdict::Block))),
        ("quiet.example", "tls_blocked", Some(("quiet", Verdict::Block))),
        ("www.vendor.example", "logged", Some(("seen", Verdict::Log))),
        ("notvendor.example", "no_match", None),
        ("vendor.example.org", "no_match", None),
        ("other.example", "no_match", None),
        ("example", "no_match", None),
    ] {
        for version in ["v4", "v6"] {
            for before in [0, 1, 17] {
                let frame = segment(version, &hello(name, before, &[0x2b, 0x33]), 443);
                assert_eq!(exit(&plane, &frame), expect, "{name} {version} {before}");
                let mut seen: Vec<Contact> = Vec::new();
                events.drain(|contact| seen.push(contact));
                match (rule, &seen[..]) {
                    (None, []) => {}
                    (Some((rule, verdict)), [contact]) => {
                        assert_eq!(
                            (contact.rule.as_str(), contact.verdict, contact.hook),
                            (rule, verdict, Hook::Tls)
                        );
                        let lower = name.trim_end_matches('.').to_ascii_lowercase();
                        let wire: Vec<u8> = lower
                            .split('.')
                            .flat_map(|l| [&[l.len() as u8][..], l.as_bytes()].concat())
                            .chain([0])
                            .collect();
                        assert_eq!(contact.question.as_ref().unwrap().name, wire);
                        assert_eq!(contact.port, Some(443));
                    }
                    other => panic!("{name}: {other:?}"),
                }
                let told = matches!(run(&plane, &frame), Reply::SentBack(_));
                assert_eq!(
                    told,
                    rule == Some(("vendor", Verdict::Block)),
                    "{name}: the client is told by a reset"
                );
                events.drain(drop);
            }
        }
    }
    // What the address says goes first.
    let mut banned = segment("v4", &hello("other.example", 0, &[]), 443);
    banned[30..34].copy_from_slice(&[192, 0, 2, 1]);
    assert_eq!(exit(&plane, &banned), "rejected");
}

fn unjudged(plane: &PacketPlane, frame: &[u8]) -> Vec<&'static str> {
    let before = plane.counters().unwrap().unjudged;
    assert!(matches!(run(plane, frame), Reply::Passed(_)));
    let after = plane.counters().unwrap().unjudged;
    after.into_iter().filter(|(name, count)| before[name] != *count).map(|(name, _)| name).collect()
}

fn what_names_no_server_is_counted() {
    let plane = plane();
    let whole = hello("vendor.example", 3, &[]);
    let in_two_records = {
        let (first, rest) = whole[5..].split_at(60);
        let record = |data: &[u8]| [&[22, 3, 1][..], &(data.len() as u16).to_be_bytes(), data].concat();
        [record(first), record(rest)].concat()
    };
    // The same name twice, in two extensions: the lengths in front of them grow by that of the second.
    let two_names = {
        let (one, mut both) = (hello("vendor.example", 0, &[]), hello("vendor.example", 0, &[]));
        let extension = &one[one.len() - (4 + 5 + "vendor.example".len())..];
        both.extend(extension);
        let grown = extension.len() as u16;
        for at in [3, 7, one.len() - extension.len() - 2] {
            let length = u16::from_be_bytes([both[at], both[at + 1]]) + grown;
            both[at..at + 2].copy_from_slice(&length.to_be_bytes());
        }
        both
    };
    let label = "a".repeat(64);
    for (what, data, expect) in [
        ("nothing", vec![], vec![]),
        ("a name that is not listed", hello("other.example", 0, &[]), vec![]),
        ("no name", hello("", 5, &[0x2b]), vec!["tls_unnamed"]),
        ("the first byte", whole[..1].to_vec(), vec!["tls_split"]),
        ("the record's header", whole[..5].to_vec(), vec!["tls_split"]),
        ("up to the name", whole[..whole.len() - 1].to_vec(), vec!["tls_split"]),
        ("two records", in_two_records, vec!["tls_split"]),
        ("an empty record in front", [&[22, 3, 1, 0, 0][..], &whole].concat(), vec!["tls_split"]),
        ("two names", two_names, vec!["tls_split"]),
        ("too many extensions", hello("vendor.example", 40, &[]), vec!["tls_split"]),
        ("an encrypted one inside", hello("front.example", 2, &[0xfe0d]), vec!["tls_encrypted"]),
        ("a name for a glob", hello("a-1.glob.example", 0, &[]), vec!["tls_name"]),
        ("an empty label", hello("a..vendor.example", 0, &[]), vec!["tls_name"]),
        ("a label that is too long", hello(&format!("{label}.vendor.example"), 0, &[]), vec!["tls_name"]),
        ("a dot alone", hello(".", 0, &[]), vec!["tls_name"]),
        ("a name that is too long", hello(&"a.".repeat(150), 0, &[]), vec!["tls_name"]),
        ("data of a connection", vec![23, 3, 3, 0, 5, 1, 2, 3, 4, 5], vec![]),
        ("a ServerHello", [&whole[..5], &[2], &whole[6..]].concat(), vec![]),
    ] {
        assert_eq!(unjudged(&plane, &segment("v4", &data, 443)), expect, "{what}");
    }
    // What the receiver puts together, or takes out, is not what is here: parts of a packet, and urgent data.
    let mut part = segment("v4", &[], 443);
    part[20] |= 0x20;
    assert_eq!(unjudged(&plane, &part), ["tls_split"], "the first part of a packet");
    for data in [[&b"X"[..], &whole].concat(), whole.clone(), b"x".to_vec()] {
        for version in ["v4", "v6"] {
            let mut urgent = segment(version, &data, 443);
            urgent[if version == "v4" { 47 } else { 67 }] |= 0x20;
            assert_eq!(unjudged(&plane, &urgent), ["tls_split"], "{version}");
        }
    }
    let mut urgent = segment("v4", &[], 443);
    urgent[47] |= 0x20;
    assert_eq!(unjudged(&plane, &urgent), [""; 0], "urgent, but nothing is said");
}

fn a_hello_in_any_length_is_read_or_counted() {
    let plane = plane();
    let whole = hello("s07.vendor.example", 3, &[0x2b]);
    for length in 1..whole.len() {
        let frame = segment("v6", &whole[..length], 443);
        let before = plane.counters().unwrap();
        run(&plane, &frame);
        let after = plane.counters().unwrap();
        let split = after.unjudged["tls_split"] - before.unjudged["tls_split"];
        let blocked = after.exits["tls_blocked"] - before.exits["tls_blocked"];
        assert_eq!(split + blocked, 1, "{length} bytes");
    }
}

fn who_is_exempt_may_name_it() {
    let plane = plane();
    let mut frame = segment("v4", &hello("vendor.example", 0, &[]), 443);
    frame[26..30].copy_from_slice(&[10, 0, 0, 77]);
    assert_eq!(exit(&plane, &frame), "exempt", "{:?}", plane.counters().unwrap().unjudged);
    frame[26..30].copy_from_slice(&[10, 0, 0, 78]);
    assert_eq!(exit(&plane, &frame), "tls_blocked");
}

fn other_ports_and_other_data_are_left_alone() {
    let plane = plane();
    let data = hello("vendor.example", 0, &[]);
    assert_eq!(exit(&plane, &segment("v4", &data, 8443)), "no_match");
    let mut udp = frame("v4 udp", &to("198.51.100.1", 443));
    udp.extend(&data);
    assert_eq!(exit(&plane, &udp), "no_match", "over UDP the address decides");
    assert_eq!(exit(&plane, &frame("v4 udp", &to("192.0.2.1", 443))), "blocked");
}

/// The same segment on its way back, with so many bytes of data.
fn back(sent: &[u8], bytes: usize) -> Vec<u8> {
    let mut frame = sent.to_vec();
    let (source, length, ports) = if frame[12] == 8 { (26, 4, 34) } else { (22, 16, 54) };
    let (before, behind) = frame.split_at_mut(source + length);
    before[source..].swap_with_slice(&mut behind[..length]);
    let (before, behind) = frame.split_at_mut(ports + 2);
    before[ports..].swap_with_slice(&mut behind[..2]);
    frame.truncate(ports + 20);
    frame.resize(ports + 20 + bytes, 0);
    let said = (20 + bytes + if length == 4 { 20 } else { 0 }) as u16;
    let at = if length == 4 { 16 } else { 18 };
    frame[at..at + 2].copy_from_slice(&said.to_be_bytes());
    frame
}

fn a_connection_let_through_by_its_servers_name_is_followed() {
    let mut plane = plane();
    let mut events = plane.events().unwrap();
    let mut reached = || {
        let mut seen: Vec<Reached> = Vec::new();
        events.reached(|contact| seen.push(contact)).unwrap();
        seen
    };
    for version in ["v4", "v6"] {
        let seen = segment(version, &hello("www.vendor.example", 2, &[]), 443);
        let data = segment(version, &[23, 3, 3, 0, 5, 1, 2, 3, 4, 5], 443);
        // Another connection of the same client to the same service names another server.
        let ports = if version == "v4" { 34 } else { 54 };
        let of_another = |frame: &[u8]| [&frame[..ports], &[0x77, 0x77], &frame[ports + 2..]].concat();
        let other = of_another(&segment(version, &hello("other.example", 2, &[]), 443));
        let (other_data, another) =
            (of_another(&data), segment(version, &hello("other.example", 0, &[]), 443));
        let out = |frame: &[u8]| assert!(matches!(run(&plane, frame), Reply::Passed(_)));
        let come_back = |frame: &[u8]| _ = plane.prober().reply(Entry::LanOut, frame).unwrap();
        [&seen, &other, &data, &other_data, &data].into_iter().for_each(|frame| out(frame));
        come_back(&back(&data, 0));
        let connected = reached();
        let [contact] = &connected[..] else { panic!("{version}: {connected:?}") };
        assert_eq!((contact.depth, contact.hook, contact.port), (Depth::Connected, Hook::Tls, Some(443)));
        assert_eq!((contact.rule.as_str(), contact.verdict), ("seen", Verdict::Log));
        // It goes on after the agent has looked, and what another connection brings is not of this one.
        out(&data);
        let answers = [back(&data, 0), back(&data, 100), back(&other_data, 700)];
        answers.iter().for_each(|answer| come_back(answer));
        let received = reached();
        let [contact] = &received[..] else { panic!("{version}: {received:?}") };
        assert_eq!((contact.depth, contact.sent.packets, contact.received.packets), (Depth::Received, 4, 3));
        assert_eq!(contact.sent.bytes, (seen.len() + 3 * data.len()) as u64);
        assert_eq!(contact.received.bytes, (2 * answers[0].len() + answers[1].len()) as u64);
        // Whatever else it says is a packet of it.
        out(&another);
        assert_eq!(reached(), []);
    }
    // Nothing is followed where the rule blocks.
    run(&plane, &segment("v4", &hello("vendor.example", 2, &[]), 443));
    assert_eq!(reached(), []);
}
