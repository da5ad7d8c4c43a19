//! What the sender of a blocked packet is told, byte by byte.

use interdict_ebpf_loader::{Entry, PacketPlane, Reply, limits::REJECTS_A_SECOND};

use crate::{
    queries::answering,
    support::{Ends, ends, frame, policy_and, tests, to},
};

tests![
    each_packet_is_told_what_its_protocol_understands,
    a_reset_is_taken_for_one_of_the_connection,
    what_was_sent_is_quoted,
    what_must_not_be_answered_is_not,
    a_client_is_told_so_often_in_a_second,
    tags_stay_where_they_are,
    other_spellings_of_a_blocked_address_are_blocked_too,
];

const RULES: &str = "told block 192.0.2.0/24 2001:db8:1::/48";

const QUIET: &str = r#"
[[rule]]
id = "quiet"
role = "other"
action = "block"
packet = "drop"
networks = ["192.0.3.0/24", "2001:db8:2::/48"]
"#;

fn plane() -> PacketPlane {
    answering(&policy_and(RULES, QUIET))
}

/// A frame to this machine: test frames come in by the loopback interface, whose address is all zero.
fn to_us(words: &str, ends: &Ends) -> Vec<u8> {
    let mut frame = frame(words, ends);
    frame[..6].fill(0);
    frame
}

fn reply(plane: &PacketPlane, frame: &[u8]) -> Reply {
    plane.prober().reply(Entry::Lan, frame).unwrap()
}

/// What a frame is answered with, from its IP header on; its addresses are turned round, its sums are right.
fn told(plane: &PacketPlane, frame: &[u8], link_bytes: usize) -> (u8, Vec<u8>) {
    let Reply::SentBack(sent) = reply(plane, frame) else { panic!("not answered: {frame:02x?}") };
    assert_eq!(sent[..6], frame[6..12], "back to the sender");
    assert_eq!(sent[6..12], frame[..6]);
    assert_eq!(sent[12..link_bytes], frame[12..link_bytes], "in the same network");
    let ip = &sent[link_bytes..];
    let (asked, version) = (&frame[link_bytes..], ip[0] >> 4);
    let (header, protocol, said, pseudo) = match version {
        4 => {
            assert_eq!(sum(&ip[..20], 0), 0xffff, "the header's sum");
            assert_eq!((&ip[12..16], &ip[16..20]), (&asked[16..20], &asked[12..16]));
            let said = usize::from(u16::from_be_bytes([ip[2], ip[3]])) - 20;
            (20, ip[9], said, if ip[9] == 1 { 0 } else { sum(&ip[12..20], u32::from(ip[9]) + said as u32) })
        }
        _ => {
            assert_eq!((&ip[8..24], &ip[24..40]), (&asked[24..40], &asked[8..24]));
            let said = usize::from(u16::from_be_bytes([ip[4], ip[5]]));
            (40, ip[6], said, sum(&ip[8..40], u32::from(ip[6]) + said as u32))
        }
    };
    let payload = &ip[header..header + said];
    assert!(ip.len() == header + said || sent.len() == frame.len().min(60), "nothing stands behind it");
    assert_eq!(sum(payload, u32::from(pseudo)), 0xffff, "the sum of {payload:02x?}");
    (protocol, payload.to_vec())
}

/// The ones' complement sum of 16 bits (RFC 1071), as plainly as it can be said.
fn sum(bytes: &[u8], start: u32) -> u16 {
    let mut sum = start;
    for pair in bytes.chunks(2) {
        sum += u32::from(pair[0]) << 8 | pair.get(1).map_or(0, |&low| u32::from(low));
    }
    while sum > 0xffff {
        sum = (sum >> 16) + (sum & 0xffff);
    }
    sum as u16
}

fn each_packet_is_told_what_its_protocol_understands() {
    let plane = plane();
    for (words, destination, protocol, kind) in [
        ("v4 tcp:syn", "192.0.2.1", 6, [0x01, 0xbb]),
        ("v4opt tcp:syn", "192.0.2.1", 6, [0x01, 0xbb]),
        ("v4 udp", "192.0.2.1", 1, [3, 13]),
        ("v4opt udp", "192.0.2.1", 1, [3, 13]),
        ("v4 icmp", "192.0.2.1", 1, [3, 13]),
        ("v4 esp", "192.0.2.1", 1, [3, 13]),
        ("v4 p253", "192.0.2.1", 1, [3, 13]),
        ("v6 tcp:syn", "2001:db8:1::1", 6, [0x01, 0xbb]),
        ("v6 hop dest tcp:syn", "2001:db8:1::1", 6, [0x01, 0xbb]),
        ("v6 udp", "2001:db8:1::1", 58, [1, 1]),
        ("v6 dest udp", "2001:db8:1::1", 58, [1, 1]),
        ("v6 esp", "2001:db8:1::1", 58, [1, 1]),
    ] {
        let before = plane.counters().unwrap();
        let (said, payload) = told(&plane, &to_us(words, &to(destination, 443)), 14);
        assert_eq!((said, &payload[..2]), (protocol, &kind[..]), "{words}");
        let after = plane.counters().unwrap();
        assert_eq!(after.exits["rejected"], before.exits["rejected"] + 1, "{words}");
        assert_eq!(after.rules[0].count.packets, before.rules.first().map_or(0, |r| r.count.packets) + 1);
    }
}

fn a_reset_is_taken_for_one_of_the_connection() {
    // RFC 9293, §3.5.2: flags, and the two numbers of the answer. The frame's sequence number is 1.
    let plane = plane();
    for (tcp, flags, acknowledgment, sequence, acknowledged, sent_flags) in [
        ("tcp:syn", 0x02, 0, 0_u32, 2_u32, 0x14),
        ("tcp:ack", 0x10, 0x0102_0304_u32, 0x0102_0304, 0, 0x04),
        ("tcp:synack", 0x12, 7, 7, 0, 0x04),
        ("tcp:syn", 0x01, 0, 0, 2, 0x14),
        ("tcp:syn", 0x00, 0, 0, 1, 0x14),
    ] {
        for (version, destination) in [("v4", "192.0.2.1"), ("v6", "2001:db8:1::1")] {
            let mut frame = to_us(&format!("{version} {tcp}"), &to(destination, 443));
            let tcp_at = frame.len() - 20;
            frame[tcp_at + 8..tcp_at + 12].copy_from_slice(&acknowledgment.to_be_bytes());
            frame[tcp_at + 13] = flags;
            let (_, reset) = told(&plane, &frame, 14);
            assert_eq!(reset[..4], [0x01, 0xbb, 0x9c, 0x40], "the ports, turned round");
            assert_eq!(reset[4..8], sequence.to_be_bytes(), "{version} {flags:#x}");
            assert_eq!(reset[8..12], acknowledged.to_be_bytes(), "{version} {flags:#x}");
            assert_eq!(reset[12..14], [0x50, sent_flags], "{version} {flags:#x}");
        }
    }
    // Data count, whatever pads the frame behind them.
    let mut frame = to_us("v4 tcp", &to("192.0.2.1", 443));
    frame[14 + 33] = 0x01;
    frame.extend([0; 20]);
    frame[17] += 5;
    let (_, reset) = told(&plane, &frame, 14);
    assert_eq!(reset[8..12], 7_u32.to_be_bytes(), "1, five bytes, and the FIN");
}

fn what_was_sent_is_quoted() {
    let plane = plane();
    for (words, destination) in
        [("v4 udp", "192.0.2.1"), ("v4opt udp", "192.0.2.1"), ("v6 hop udp", "2001:db8:1::1")]
    {
        for more in [0, 1, 2, 3, 80, 97, 1400] {
            let mut frame = to_us(words, &to(destination, 443));
            frame.extend((0..more).map(|i| i as u8));
            let (_, payload) = told(&plane, &frame, 14);
            let quoted = frame[14..].len().min(128);
            assert_eq!(payload.len(), 8 + quoted, "{words} and {more} bytes");
            assert_eq!(payload[8..], frame[14..14 + quoted], "{words} and {more} bytes");
        }
    }
}

fn what_must_not_be_answered_is_not() {
    let plane = plane();
    let told = |words: &str, ends: &Ends| matches!(reply(&plane, &to_us(words, ends)), Reply::SentBack(_));
    let (v4, v6) = (to("192.0.2.1", 443), to("2001:db8:1::1", 443));
    assert!(told("v4 udp", &v4) && told("v6 udp", &v6), "these two are");
    for words in ["v4 first udp", "v4 later udp", "v6 frag1 udp", "v6 frag2 udp"] {
        let ends = if words.starts_with("v4") { &v4 } else { &v6 };
        assert!(!told(words, ends), "fragments are not: {words}");
    }
    assert!(
        !told("v4 udp", &to("192.0.3.1", 443)) && !told("v6 tcp", &to("2001:db8:2::1", 443)),
        "a rule that drops"
    );
    for source in ["0.0.0.0", "127.0.0.1", "224.0.0.1", "255.255.255.255", "192.0.2.53"] {
        assert!(!told("v4 udp", &ends(source, 1000, "192.0.2.1", 443)), "{source}");
    }
    for source in ["::", "::1", "ff02::1"] {
        assert!(!told("v6 udp", &ends(source, 1000, "2001:db8:1::1", 443)), "{source}");
    }
    for kind in 0..=255 {
        // Each client hears only so much in a second.
        let client = |family: &str| format!("{family}{kind}");
        let v4 = ends(&client("10.0.1."), 1000, "192.0.2.1", 443);
        let v6 = ends(&client("2001:db8::"), 1000, "2001:db8:1::1", 443);
        let mut frame = to_us("v4 icmp", &v4);
        frame[34] = kind;
        let is_error = matches!(kind, 3 | 4 | 5 | 11 | 12);
        assert_eq!(matches!(reply(&plane, &frame), Reply::SentBack(_)), !is_error, "ICMP {kind}");
        let mut frame = to_us("v6 p253", &v6);
        (frame[20], frame[54]) = (58, kind);
        assert_eq!(
            matches!(reply(&plane, &frame), Reply::SentBack(_)),
            kind >= 128 && kind != 137,
            "ICMPv6 {kind}"
        );
    }
    let mut reset = to_us("v4 tcp", &v4);
    reset[14 + 33] = 0x04;
    assert_eq!(reply(&plane, &reset), Reply::Dropped, "a reset");
    let mut to_all = to_us("v4 udp", &v4);
    to_all[6] |= 1;
    assert_eq!(reply(&plane, &to_all), Reply::Dropped, "from the Ethernet address of a group");
    let elsewhere = frame("v4 udp", &v4);
    assert_eq!(reply(&plane, &elsewhere), Reply::Dropped, "what was not sent to us");
}

fn a_client_is_told_so_often_in_a_second() {
    let plane = plane();
    let frames = |client: &str| to_us("v4 udp", &ends(client, 1000, "192.0.2.1", 443));
    let count = |client: &str, tries| {
        (0..tries).filter(|_| matches!(reply(&plane, &frames(client)), Reply::SentBack(_))).count() as u64
    };
    let start = std::time::Instant::now();
    let told = count("10.0.0.1", 5 * REJECTS_A_SECOND);
    let seconds = start.elapsed().as_secs() + 1;
    assert!((REJECTS_A_SECOND..=REJECTS_A_SECOND * seconds).contains(&told), "{told} in {seconds} s");
    assert_eq!(count("10.0.0.2", 10), 10, "another client has its own");
    let counters = plane.counters().unwrap();
    assert_eq!(counters.exits["rejected"], told + 10);
    assert_eq!(counters.exits["reject_too_fast"], 5 * REJECTS_A_SECOND - told);
    assert_eq!(counters.rules[0].count.packets, 5 * REJECTS_A_SECOND + 10, "all are blocked, and counted");
}

fn tags_stay_where_they_are() {
    let plane = plane();
    for (tags, link_bytes) in [("vlan", 18), ("qinq vlan", 22), ("qinq qinq qinq vlan", 30)] {
        for (rest, destination) in [
            ("v4 tcp", "192.0.2.1"),
            ("v4 udp", "192.0.2.1"),
            ("v6 tcp", "2001:db8:1::1"),
            ("v6 udp", "2001:db8:1::1"),
        ] {
            told(&plane, &to_us(&format!("{tags} {rest}"), &to(destination, 443)), link_bytes);
        }
    }
}

fn other_spellings_of_a_blocked_address_are_blocked_too() {
    let plane = plane();
    for (address, blocked) in [
        ("::ffff:192.0.2.7", true),
        ("64:ff9b::192.0.2.7", true),
        ("2002:c000:207::1", true),
        ("64:ff9b::192.0.4.7", false),
        ("2002:c000:407::1", false),
        ("::ffff:192.0.4.7", false),
        ("64:ff9b:1::192.0.2.7", false),
        ("2001:db8::192.0.2.7", false),
    ] {
        let dropped = matches!(reply(&plane, &frame("v6 udp", &to(address, 443))), Reply::Dropped);
        assert_eq!(dropped, blocked, "{address}");
    }
}
