use std::collections::HashSet;
use std::fs;

use interdict_policy::{Policy, Source, compile};
use proptest::prelude::*;
use tempfile::TempDir;

use super::*;

/// A file with these bytes, last written on 1 March 2026.
fn file(bytes: &[u8]) -> (TempDir, std::path::PathBuf) {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("log");
    fs::write(&path, bytes).unwrap();
    let time: Timestamp = "2026-03-01T12:00:00Z".parse().unwrap();
    File::options().write(true).open(&path).unwrap().set_modified(time.into()).unwrap();
    (folder, path)
}

fn read_bytes(origin: Origin, bytes: &[u8], zone: &str) -> (Vec<String>, io::Result<Counts>) {
    let (_folder, path) = file(bytes);
    let mut seen = Vec::new();
    let counts = read(origin, &path, TimeZone::get(zone).unwrap(), &mut |one| seen.push(line(&one)));
    (seen, counts)
}

/// `TIME CLIENT NAME TYPE CHANNEL @RESOLVER blocked = ANSWER…`, or `TIME CLIENT > ADDRESS PORT PROTOCOL xPACKETS DEPTH`.
fn line(Observed { time, client, what }: &Observed) -> String {
    match what {
        Noted::Asked(Question { name, rtype, channel, resolver, is_blocked, answers }) => {
            let mut line = format!("{time} {client} {name} {rtype}");
            channel.iter().for_each(|channel| line += &format!(" {channel}"));
            resolver.iter().for_each(|resolver| line += &format!(" @{resolver}"));
            line += if *is_blocked { " blocked" } else { "" };
            answers.iter().for_each(|answer| match answer {
                Answer::Name(name) => line += &format!(" ={name}"),
                Answer::Address(address, ttl) => line += &format!(" ={address}/{ttl}"),
            });
            line
        }
        Noted::Sent(Flow { address, port, protocol, packets, last, depth }) => {
            let port = port.map_or("-".to_owned(), |port| port.to_string());
            let lasted = last.as_second() - time.as_second();
            format!("{time} {client} > {address} {port} {protocol} x{packets} {depth:?} {lasted}s")
        }
    }
}

/// Reads lines in UTC, and expects these observations and as many lines that are strange.
fn check(origin: Origin, text: &str, expect: &[&str], strange: u64) {
    let (seen, counts) = read_bytes(origin, text.as_bytes(), "UTC");
    let counts = counts.unwrap();
    assert_eq!(seen, expect, "{text}");
    assert_eq!(counts.strange, strange, "{text}");
    assert_eq!(counts.entries, seen.len() as u64, "each entry is handed on once: {text}");
}

#[test]
fn unbound_tells_of_a_question_up_to_three_times() {
    let at = "[1772366400] unbound[7:0]";
    let text = [
        "notice: init module 0: respip",
        "info: start of service (unbound 1.17.1).",
        // log-queries, log-local-actions and log-replies.
        "info: 10.0.0.5 www.kaspersky.com. A IN",
        "info: kaspersky.com. always_nxdomain 10.0.0.5@32919 www.kaspersky.com. A IN",
        "info: 10.0.0.5 www.kaspersky.com. A IN NXDOMAIN 0.000000 1 46",
        // A policy zone with a name for its log, and one without.
        "info: 10.0.0.6 kas-labs.com. AAAA IN",
        "info: rpz: applied [ban] kas-labs.com. rpz-nxdomain 10.0.0.6@54776 kas-labs.com. AAAA IN",
        "info: rpz: applied kas-labs.com. rpz-nodata 10.0.0.7@54776 kas-labs.com. AAAA IN",
        "info: rpz: applied kas-labs.com. rpz-nodata 10.0.0.7@54776 kas-labs.com. AAAA IN",
        "info: rpz: applied [ban] kas-labs.com. rpz-passthru 10.0.0.8@54776 kas-labs.com. AAAA IN",
        // Twice the same question, and one answer to each.
        "info: 10.0.0.9 a.example. A IN",
        "info: 10.0.0.9 a.example. A IN",
        "info: 10.0.0.9 a.example. A IN NOERROR 0.000000 1 46",
        "info: 10.0.0.9 a.example. A IN NOERROR 0.000000 1 46",
        // Replies alone, tagged.
        "reply: 2001:db8::1 b.example. HTTPS IN NOERROR 0.01 0 46",
        "query: 10.0.0.5 . DNSKEY IN",
        // No names.
        "info: 10.0.0.5 a..example. A IN",
        "info: average recursion processing time 0.12 sec",
    ];
    let text: String = text.iter().map(|line| format!("{at} {line}\n")).collect();
    check(
        Origin::Unbound,
        &text,
        &[
            "2026-03-01T12:00:00Z 10.0.0.5 www.kaspersky.com A blocked",
            "2026-03-01T12:00:00Z 10.0.0.7 kas-labs.com AAAA blocked",
            "2026-03-01T12:00:00Z 10.0.0.7 kas-labs.com AAAA blocked",
            "2026-03-01T12:00:00Z 10.0.0.8 kas-labs.com AAAA",
            "2026-03-01T12:00:00Z 10.0.0.9 a.example A",
            "2026-03-01T12:00:00Z 10.0.0.9 a.example A",
            "2026-03-01T12:00:00Z 2001:db8::1 b.example HTTPS",
            "2026-03-01T12:00:00Z 10.0.0.6 kas-labs.com AAAA blocked",
            "2026-03-01T12:00:00Z 10.0.0.5 . DNSKEY",
        ],
        1,
    );
}

#[test]
fn times_are_read_as_they_are_written() {
    for (stamp, zone, expect) in [
        ("[1772366400]", "UTC", "2026-03-01T12:00:00Z"),
        ("[1772366400.25]", "UTC", "2026-03-01T12:00:00.25Z"),
        ("2026-02-27T03:04:05.6+01:00", "UTC", "2026-02-27T02:04:05.6Z"),
        ("2026-02-27T03:04:05", "Europe/Berlin", "2026-02-27T02:04:05Z"),
        ("2026-02-27 03:04:05.5", "America/New_York", "2026-02-27T08:04:05.5Z"),
        ("27-Feb-2026 03:04:05.678", "Europe/Berlin", "2026-02-27T02:04:05.678Z"),
        ("Feb 27 03:04:05 host", "Europe/Berlin", "2026-02-27T02:04:05Z"),
        ("Mar  1 23:00:00 host", "UTC", "2026-03-01T23:00:00Z"),
        // Behind the file's own time by more than a day: it is of the year before, or of the last with such a day.
        ("Mar  3 03:04:05 host", "UTC", "2025-03-03T03:04:05Z"),
        ("Dec 31 23:59:59 host", "Europe/Berlin", "2025-12-31T22:59:59Z"),
        ("Feb 29 00:00:00 host", "UTC", "2024-02-29T00:00:00Z"),
        // Twice, and never: the first of the two, and as late as if the clock had not been set.
        ("2025-10-26T02:30:00", "Europe/Berlin", "2025-10-26T00:30:00Z"),
        ("2025-03-30T02:30:00", "Europe/Berlin", "2025-03-30T01:30:00Z"),
    ] {
        let text = format!("{stamp} unbound[1:0] info: 10.0.0.1 a.example. A IN\n");
        let (seen, _) = read_bytes(Origin::Unbound, text.as_bytes(), zone);
        assert_eq!(seen, [format!("{expect} 10.0.0.1 a.example A")], "{stamp}");
    }
    for stamp in ["", "soon", "[x]", "32-Feb-2026 00:00:00", "Foo 1 00:00:00", "2026-02-27 25:00:00"] {
        let text = format!("{stamp} unbound[1:0] info: 10.0.0.1 a.example. A IN\n");
        check(Origin::Unbound, &text, &[], 1);
    }
}

#[test]
fn bind_tells_of_questions_and_of_what_a_policy_zone_did() {
    check(
        Origin::Bind,
        concat!(
            "01-Mar-2026 12:00:00.139 queries: info: client @0x7fb1e646d098 10.0.0.5#43960 (a.test): query: a.test IN A +E(0)K (127.0.0.1)\n",
            "01-Mar-2026 12:00:00.163 queries: info: client @0x7fb1e6470898 10.0.0.5#37913 (www.test): query: www.test IN A +E(0)TK (127.0.0.1)\n",
            "01-Mar-2026 12:00:00.163 rpz: info: client @0x7fb1e6470898 10.0.0.5#37913 (www.test): rpz QNAME NXDOMAIN rewrite www.test/A/IN via www.test.rpz.test\n",
            "01-Mar-2026 12:00:00.2 rpz: info: client @0x7fb1e6470898 10.0.0.5#1 (b.test): rpz QNAME PASSTHRU rewrite b.test/A/IN via b.test.rpz.test\n",
            "01-Mar-2026 12:00:00.9 client @0x1 10.0.0.5#7/key k1 (k.test): query: k.test IN A +S (127.0.0.1)\n",
            "01-Mar-2026 12:00:01.000 client 2001:db8::5#1 (c.test): view inside: query: c.test IN AAAA -\n",
            "Mar  1 12:00:02 ns named[12]: client @0x1 10.0.0.6#2 (odd\\032n\\\"ame.test): query: odd\\032n\\\"ame.test IN A + (127.0.0.1)\n",
            "01-Mar-2026 12:00:03.000 general: info: zone test/IN: loaded serial 1\n",
            "01-Mar-2026 12:00:03.000 security: info: client @0x1 10.0.0.6#2 (x): query (cache) 'x/A/IN' denied\n",
            "01-Mar-2026 12:00:03.000 queries: info: client @0x1 nobody#2 (x): query: x IN A +\n",
            "client @0x1 10.0.0.6#2 (x): query: x IN A +\n",
        ),
        &[
            "2026-03-01T12:00:00.139Z 10.0.0.5 a.test A udp",
            "2026-03-01T12:00:00.163Z 10.0.0.5 www.test A tcp blocked",
            "2026-03-01T12:00:00.9Z 10.0.0.5 k.test A udp",
            "2026-03-01T12:00:01Z 2001:db8::5 c.test AAAA udp",
            "2026-03-01T12:00:02Z 10.0.0.6 odd\\032n\"ame.test A udp",
        ],
        2,
    );
}

#[test]
fn adguard_home_tells_what_it_filtered_and_answered() {
    use base64::Engine;
    let answer = base64::engine::general_purpose::STANDARD.encode(response(7));
    let text = format!(
        concat!(
            r#"{{"T":"2026-03-01T13:00:00.5+01:00","QH":"www.v.example","QT":"A","QC":"IN","CP":"","IP":"10.0.0.5","Answer":"{}","Elapsed":1,"Result":{{}}}}"#,
            "\n",
            r#"{{"IP":"10.0.0.6","T":"2026-03-01T12:00:01Z","QH":"b.example","QT":"HTTPS","CP":"doh","Result":{{"IsFiltered":true,"Reason":3}}}}"#,
            "\n",
            r#"{{"IP":"10.0.0.6","T":"2026-03-01T12:00:01Z","QH":".","QT":"NS","CP":"","Result":{{}}}}"#,
            "\n\n{{\"IP\":\"10.0.0.6\"}}\nnonsense\n",
        ),
        answer
    );
    check(
        Origin::AdGuard,
        &text,
        &[
            "2026-03-01T12:00:00.5Z 10.0.0.5 www.v.example A =cdn.v.example =192.0.2.7/60",
            "2026-03-01T12:00:01Z 10.0.0.6 b.example HTTPS doh blocked",
            "2026-03-01T12:00:01Z 10.0.0.6 . NS",
        ],
        2,
    );
}

#[test]
fn zeek_writes_columns_or_json() {
    let dns = [
        "#separator \\x09",
        "#set_separator\t,",
        "#fields\tts\tuid\tid.orig_h\tid.orig_p\tid.resp_h\tid.resp_p\tproto\tquery\tqtype_name\tanswers\tTTLs",
        "1772366400.250000\tC1\t10.0.0.5\t40000\t8.8.8.8\t53\tudp\twww.v.example\tA\tcdn.v.example,192.0.2.7\t30.000000,60.000000",
        "1772366401.0\tC2\t10.0.0.5\t40000\t8.8.8.8\t53\ttcp\tt.example\tTXT\tTXT 3 a b\t30.0",
        "1772366401.0\tC2\t10.0.0.5\t40000\t8.8.8.8\t53\tudp\t-\t-\t-\t-",
        "1772366401.0\tC2\tnobody\t40000\t8.8.8.8\t53\tudp\ta.example\tA\t-\t-",
    ];
    check(
        Origin::Zeek,
        &(dns.join("\n") + "\n"),
        &[
            "2026-03-01T12:00:00.25Z 10.0.0.5 www.v.example A udp @8.8.8.8 =cdn.v.example =192.0.2.7/60",
            "2026-03-01T12:00:01Z 10.0.0.5 t.example TXT tcp @8.8.8.8",
        ],
        1,
    );
    let conn = |state: &str, proto: &str, back: u64| {
        format!(
            r#"{{"ts":"2026-03-01T12:00:00Z","id.orig_h":"10.0.0.5","id.orig_p":5,"id.resp_h":"192.0.2.7","id.resp_p":443,"proto":"{proto}","duration":4.5,"conn_state":"{state}","orig_pkts":3,"resp_bytes":{back}}}"#
        )
    };
    for (state, proto, back, expect) in [
        ("S0", "tcp", 0, "443 tcp x3 Attempted 4s"),
        ("REJ", "tcp", 0, "443 tcp x3 Attempted 4s"),
        ("S1", "tcp", 0, "443 tcp x3 Connected 4s"),
        ("SF", "tcp", 9, "443 tcp x3 Received 4s"),
        ("SF", "udp", 9, "443 udp x3 Received 4s"),
        ("S0", "udp", 0, "443 udp x3 Attempted 4s"),
        ("OTH", "icmp", 0, "- 1 x3 Attempted 4s"),
    ] {
        let expect = format!("2026-03-01T12:00:00Z 10.0.0.5 > 192.0.2.7 {expect}");
        check(Origin::Zeek, &conn(state, proto, back), &[&expect], 0);
    }
}

#[test]
fn pihole_keeps_numbers_for_types_and_for_what_it_did() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("pihole-FTL.db");
    let db = rusqlite::Connection::open(&path).unwrap();
    // As FTL 6 has it: texts are kept once, and the old table is a view.
    db.execute_batch(
        "CREATE TABLE domain_by_id (id INTEGER PRIMARY KEY, domain TEXT); CREATE TABLE client_by_id (id INTEGER PRIMARY KEY, ip TEXT);
         CREATE TABLE query_storage (id INTEGER PRIMARY KEY, timestamp REAL, type INTEGER, status INTEGER, domain INTEGER, client INTEGER);
         CREATE VIEW queries AS SELECT q.id, timestamp, type, status, d.domain, c.ip client FROM query_storage q
             JOIN domain_by_id d ON d.id = q.domain JOIN client_by_id c ON c.id = q.client;
         INSERT INTO domain_by_id VALUES (1, 'www.v.example'), (2, 'b.example');
         INSERT INTO client_by_id VALUES (1, '10.0.0.5'), (2, 'hidden');
         INSERT INTO query_storage VALUES (1, 1772366400.25, 1, 2, 1, 1), (2, 1772366401, 2, 1, 1, 1), (3, 1772366402, 16, 9, 2, 1),
             (4, 1772366403, 165, 3, 2, 1), (5, 1772366404, 1, 2, 1, 2), (6, 1772366399, 1, 3, 2, 1);",
    )
    .unwrap();
    drop(db);
    let mut seen = Vec::new();
    let counts = read(Origin::PiHole, &path, TimeZone::UTC, &mut |one| seen.push(line(&one))).unwrap();
    assert_eq!(
        seen,
        [
            "2026-03-01T11:59:59Z 10.0.0.5 b.example A",
            "2026-03-01T12:00:00.25Z 10.0.0.5 www.v.example A",
            "2026-03-01T12:00:01Z 10.0.0.5 www.v.example AAAA blocked",
            "2026-03-01T12:00:02Z 10.0.0.5 b.example HTTPS blocked",
            "2026-03-01T12:00:03Z 10.0.0.5 b.example TYPE65",
        ]
    );
    assert_eq!(counts, Counts { entries: 5, strange: 1, first_strange: Some(6) });
    assert_eq!(Origin::of(&path).unwrap(), Some(Origin::PiHole));
    fs::write(&path, b"SQLite format 3\0 and no more").unwrap();
    assert!(read(Origin::PiHole, &path, TimeZone::UTC, &mut |_| ()).is_err());
}

/// A question for `www.v.example` of type A, with this id.
fn query(id: u16) -> Vec<u8> {
    let mut bytes = id.to_be_bytes().to_vec();
    bytes.extend(b"\x01\0\0\x01\0\0\0\0\0\0\x03WWW\x01v\x07example\0\0\x01\0\x01");
    bytes
}

/// Its answer: a CNAME record, and the address of its target.
fn response(id: u16) -> Vec<u8> {
    let mut bytes = query(id);
    (bytes[2], bytes[3], bytes[7]) = (0x81, 0x80, 2);
    bytes.extend(b"\xc0\x0c\0\x05\0\x01\0\0\0\x1e\0\x06\x03cdn\xc0\x10");
    bytes.extend(b"\xc0\x2f\0\x01\0\x01\0\0\0\x3c\0\x04\xc0\0\x02\x07");
    bytes
}

fn frame(payload: &[u8]) -> Vec<u8> {
    [&(payload.len() as u32).to_be_bytes()[..], payload].concat()
}

/// `Dnstap { message: Message { … } }` by hand: kind, protocol, client, port, second, and the bytes of question or answer.
fn tap(kind: u64, protocol: u64, port: u64, bytes: &[u8], action: Option<u64>) -> Vec<u8> {
    let mut message = Vec::new();
    let number = |message: &mut Vec<u8>, tag: u32, value: u64| {
        prost::encoding::uint64::encode(tag, &value, message);
    };
    number(&mut message, 1, kind);
    number(&mut message, 3, protocol);
    prost::encoding::bytes::encode(4, &vec![10_u8, 0, 0, 5], &mut message);
    number(&mut message, 6, port);
    let is_response = kind == 6;
    number(&mut message, if is_response { 12 } else { 8 }, 1_772_366_400);
    prost::encoding::bytes::encode(if is_response { 14 } else { 10 }, &bytes.to_vec(), &mut message);
    if let Some(action) = action {
        let mut policy = Vec::new();
        number(&mut policy, 3, action);
        prost::encoding::bytes::encode(15, &policy, &mut message);
    }
    let mut whole = Vec::new();
    prost::encoding::bytes::encode(14, &message, &mut whole);
    number(&mut whole, 15, 1);
    frame(&whole)
}

#[test]
fn dnstap_pairs_questions_with_their_answers() {
    let start =
        [&0_u32.to_be_bytes()[..], &frame(b"\0\0\0\x02\0\0\0\x01\0\0\0\x16protobuf:dnstap.Dnstap")].concat();
    let stop = [&0_u32.to_be_bytes()[..], &frame(b"\0\0\0\x03")].concat();
    let frames = [
        start,
        tap(5, 1, 4000, &query(1), None),
        tap(6, 1, 4000, &response(1), None),
        // Answers alone; of a policy zone; and of the server itself to others.
        tap(6, 3, 4001, &response(2), None),
        tap(6, 2, 4002, &response(3), Some(1)),
        tap(6, 2, 4003, &response(4), Some(3)),
        tap(3, 1, 4000, &query(5), None),
        tap(5, 1, 4000, b"no message", None),
        frame(b"\xff\xff"),
        tap(5, 7, 4004, &query(6), None),
        stop,
        tap(5, 1, 4005, &query(7), None),
    ];
    let bytes = frames.concat();
    assert_eq!(Origin::of_head(&bytes), Some(Origin::Dnstap));
    let (seen, counts) = read_bytes(Origin::Dnstap, &bytes, "UTC");
    let shown = |rest: &str| format!("2026-03-01T12:00:00Z 10.0.0.5 www.v.example A {rest}");
    let answered = "=cdn.v.example =192.0.2.7/60";
    assert_eq!(
        seen,
        [
            shown(&format!("udp {answered}")),
            shown(&format!("dot {answered}")),
            shown(&format!("tcp blocked {answered}")),
            shown(&format!("tcp {answered}")),
            shown("doq"),
        ]
    );
    assert_eq!(counts.unwrap(), Counts { entries: 5, strange: 2, first_strange: Some(7) });
    // A frame that nobody needs is none.
    assert!(read_bytes(Origin::Dnstap, &u32::MAX.to_be_bytes(), "UTC").1.is_err());
    // What is cut off is read as far as it goes.
    let cut = read_bytes(Origin::Dnstap, &bytes[..bytes.len() - 200], "UTC");
    assert!(cut.1.is_ok() && !cut.0.is_empty());
}

/// An Ethernet frame with an IPv4 packet in it.
fn packet(from: [u8; 4], to: [u8; 4], protocol: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = [&[0; 12][..], b"\x08\0"].concat();
    frame.extend([0x45, 0]);
    frame.extend((payload.len() as u16 + 20).to_be_bytes());
    frame.extend([0, 0, 0, 0, 64, protocol, 0, 0]);
    frame.extend([from, to].concat());
    frame.extend(payload);
    frame
}

fn udp(ports: [u16; 2], data: &[u8]) -> Vec<u8> {
    let [from, to] = ports.map(u16::to_be_bytes);
    [&from[..], &to, &(data.len() as u16 + 8).to_be_bytes(), &[0, 0], data].concat()
}

fn tcp(ports: [u16; 2], flags: u8, data: &[u8]) -> Vec<u8> {
    let [from, to] = ports.map(u16::to_be_bytes);
    [&from[..], &to, &[0; 8], &[0x50, flags, 0, 0, 0, 0, 0, 0], data].concat()
}

const CLIENT: [u8; 4] = [10, 0, 0, 5];
const SERVER: [u8; 4] = [192, 0, 2, 7];
const RESOLVER: [u8; 4] = [8, 8, 8, 8];

/// Frames, and the seconds at which they were captured.
fn conversation() -> Vec<(u32, Vec<u8>)> {
    let over_tcp = |message: Vec<u8>| [&(message.len() as u16).to_be_bytes()[..], &message].concat();
    vec![
        (0, packet(CLIENT, RESOLVER, 17, &udp([4000, 53], &query(9)))),
        (0, packet(RESOLVER, CLIENT, 17, &udp([53, 4000], &response(9)))),
        (1, packet(CLIENT, RESOLVER, 6, &tcp([4001, 53], 0x18, &over_tcp(query(8))))),
        (2, packet(CLIENT, SERVER, 6, &tcp([5000, 443], 0x02, b""))),
        (2, packet(SERVER, CLIENT, 6, &tcp([443, 5000], 0x12, b""))),
        (2, packet(CLIENT, SERVER, 6, &tcp([5000, 443], 0x18, b"hello"))),
        (3, packet(SERVER, CLIENT, 6, &tcp([443, 5000], 0x18, b"hello"))),
        (3, packet(CLIENT, SERVER, 6, &tcp([5001, 443], 0x02, b""))),
        // The beginning of this one was not captured.
        (4, packet(SERVER, CLIENT, 6, &tcp([443, 5002], 0x10, b""))),
        (4, packet(CLIENT, SERVER, 6, &tcp([5002, 443], 0x10, b""))),
        (5, packet(CLIENT, SERVER, 1, b"\x08\0\0\0\0\0\0\0")),
        // Answered by nobody, and again much later.
        (6, packet(CLIENT, SERVER, 17, &udp([6000, 443], b"x"))),
        (400, packet(CLIENT, SERVER, 17, &udp([6000, 443], b"x"))),
        (401, packet(CLIENT, [239, 1, 1, 1], 17, &udp([6000, 443], b"x"))),
        // What others begin is nobody's contact.
        (402, packet(SERVER, CLIENT, 6, &tcp([7000, 22], 0x02, b""))),
    ]
}

const SEEN: [&str; 10] = [
    "2026-03-01T12:00:00Z 10.0.0.5 www.v.example A udp @8.8.8.8 =cdn.v.example =192.0.2.7/60",
    "2026-03-01T12:00:06Z 10.0.0.5 > 192.0.2.7 443 udp x1 Attempted 0s",
    "2026-03-01T12:00:00Z 10.0.0.5 > 8.8.8.8 53 udp x1 Received 0s",
    "2026-03-01T12:00:01Z 10.0.0.5 > 8.8.8.8 53 tcp x1 Attempted 0s",
    "2026-03-01T12:00:02Z 10.0.0.5 > 192.0.2.7 443 tcp x2 Received 1s",
    "2026-03-01T12:00:03Z 10.0.0.5 > 192.0.2.7 443 tcp x1 Attempted 0s",
    "2026-03-01T12:00:04Z 10.0.0.5 > 192.0.2.7 443 tcp x1 Attempted 0s",
    "2026-03-01T12:00:05Z 10.0.0.5 > 192.0.2.7 - 1 x1 Attempted 0s",
    "2026-03-01T12:06:40Z 10.0.0.5 > 192.0.2.7 443 udp x1 Attempted 0s",
    "2026-03-01T12:06:42Z 192.0.2.7 > 10.0.0.5 22 tcp x1 Attempted 0s",
];
const UNANSWERED: &str = "2026-03-01T12:00:01Z 10.0.0.5 www.v.example A tcp @8.8.8.8";

#[test]
fn a_capture_tells_questions_and_how_far_clients_got() {
    let begun = 1_772_366_400_u32;
    let mut pcap = b"\xd4\xc3\xb2\xa1\x02\0\x04\0\0\0\0\0\0\0\0\0\0\0\x04\0\x01\0\0\0".to_vec();
    let mut pcapng = block(0x0a0d_0d0a, b"\x4d\x3c\x2b\x1a\x01\0\0\0\xff\xff\xff\xff\xff\xff\xff\xff");
    pcapng.extend(block(1, b"\x01\0\0\0\0\0\x04\0"));
    for (second, frame) in conversation() {
        let len = (frame.len() as u32).to_le_bytes();
        pcap.extend([&(begun + second).to_le_bytes()[..], &[0; 4], &len, &len, &frame].concat());
        let micros = u64::from(begun + second) * 1_000_000;
        let [high, low] = [(micros >> 32) as u32, micros as u32].map(u32::to_le_bytes);
        let padding = vec![0; frame.len().next_multiple_of(4) - frame.len()];
        pcapng.extend(block(6, &[&[0; 4][..], &high, &low, &len, &len, &frame, &padding].concat()));
    }
    for bytes in [&pcap, &pcapng] {
        assert_eq!(Origin::of_head(bytes), Some(Origin::Pcap));
        let (mut seen, counts) = read_bytes(Origin::Pcap, bytes, "UTC");
        let counts = counts.unwrap();
        // It waits until nothing more can be said of it.
        let at = seen.iter().position(|line| line == UNANSWERED).unwrap();
        seen.remove(at);
        assert_eq!(seen, SEEN);
        assert_eq!(counts, Counts { entries: 11, strange: 0, first_strange: None });
    }
    let cut = read_bytes(Origin::Pcap, &pcap[..pcap.len() - 9], "UTC");
    assert!(cut.1.is_ok() && cut.0.len() == SEEN.len());
}

fn block(kind: u32, body: &[u8]) -> Vec<u8> {
    let len = (body.len() as u32 + 12).to_le_bytes();
    [&kind.to_le_bytes()[..], &len, body, &len].concat()
}

#[test]
fn a_file_is_known_by_its_beginning() {
    for (head, origin) in [
        (&b"#fields\tts\n"[..], Some(Origin::Zeek)),
        (b"{\"ts\":1,\"id.orig_h\":\"10.0.0.1\"}\n", Some(Origin::Zeek)),
        (b"{\"T\":\"\",\"QH\":\"a\"}\n", Some(Origin::AdGuard)),
        (b"garbage\n[1] unbound[1:0] notice: init\n", Some(Origin::Unbound)),
        (b"1-Jan-2026 0:0 client @0x1 10.0.0.1#1 (a): query: a IN A +\n", Some(Origin::Bind)),
        (
            b"rpz: info: client @0x1 10.0.0.1#1 (a): rpz QNAME NXDOMAIN rewrite a/A/IN via b\n",
            Some(Origin::Bind),
        ),
        (b"hello\n", None),
        (b"", None),
    ] {
        assert_eq!(Origin::of_head(head), origin, "{}", String::from_utf8_lossy(head));
    }
}

#[test]
fn a_line_of_any_length_costs_no_more_than_its_limit() {
    let mut text = vec![b'x'; LINE_LIMIT_BYTES as usize + 9];
    text.extend(b"\n[1772366400] unbound[1:0] info: 10.0.0.1 a.example. A IN\n");
    let (seen, counts) = read_bytes(Origin::Unbound, &text, "UTC");
    assert_eq!(seen, ["2026-03-01T12:00:00Z 10.0.0.1 a.example A"]);
    assert_eq!(counts.unwrap(), Counts { entries: 1, strange: 1, first_strange: Some(1) });
}

proptest! {
    /// Whatever stands in a file, it is read to an end, and every entry is handed on once.
    #[test]
    fn any_bytes_are_read(mut bytes in proptest::collection::vec(any::<u8>(), 0..600), begin in 0..6_usize) {
        let begins: [&[u8]; 6] = [
            b"", b"\xd4\xc3\xb2\xa1\x02\0\x04\0\0\0\0\0\0\0\0\0\0\0\x04\0\x01\0\0\0", b"\x0a\x0d\x0d\x0a\x1c\0\0\0\x4d\x3c\x2b\x1a",
            b"\0\0\0\0\0\0\0\x04\0\0\0\x02", b"#fields\tts\tid.orig_h\tquery\n", b"[1] unbound[1:0] info: ",
        ];
        bytes.splice(0..0, begins[begin].iter().copied());
        for origin in Origin::ALL {
            let (seen, counts) = read_bytes(origin, &bytes, "UTC");
            if let Ok(counts) = counts && origin != Origin::Pcap {
                prop_assert_eq!(counts.entries, seen.len() as u64);
            }
        }
    }
}

const POLICY: &str = r#"
format = 1
[[rule]]
id = "v"
role = "update"
action = "block"
domains = ["v.example"]
networks = ["192.0.2.0/25"]
[[rule]]
id = "v-site"
role = "website"
action = "allow"
hosts = ["www.v.example"]
[[exempt]]
id = "lab"
clients = ["10.0.9.0/24"]
rules = ["v"]
reason = "x"
approved_by = "b"
expires = 2026-03-02T00:00:00Z
"#;

fn policy() -> Policy {
    compile(&[Source { name: "p.toml".into(), text: POLICY.into() }]).unwrap().policy
}

fn asked(day: u32, client: &str, name: &str, is_blocked: bool, answers: &[Answer]) -> Observed {
    let question = Question {
        name: name.parse().unwrap(),
        rtype: "A".to_owned(),
        channel: Some("udp"),
        resolver: None,
        is_blocked,
        answers: answers.to_vec(),
    };
    let time = format!("2026-03-{day:02}T10:00:00Z").parse().unwrap();
    Observed { time, client: client.parse().unwrap(), what: Noted::Asked(question) }
}

fn sent(day: u32, secs: i64, client: &str, address: &str, depth: Depth) -> Observed {
    let time: Timestamp = format!("2026-03-{day:02}T10:00:00Z").parse().unwrap();
    let time = time + jiff::SignedDuration::from_secs(secs);
    let address = address.parse().unwrap();
    let flow = Flow { address, port: Some(443), protocol: "tcp".to_owned(), packets: 3, last: time, depth };
    Observed { time, client: client.parse().unwrap(), what: Noted::Sent(flow) }
}

/// `DAY CLIENT VERDICT RULE WHAT xCOUNT DEPTH`, or `DAY CLIENT alive`.
fn contacts(observed: Vec<Observed>, known: &[&str]) -> Vec<String> {
    let policy = policy();
    let mut contacts = Contacts::new(&policy, Opened::new());
    observed.into_iter().for_each(|one| contacts.add(one));
    let known: HashSet<IpAddr> = known.iter().map(|client| client.parse().unwrap()).collect();
    let show = |contact: Contact| {
        let (day, client) = (contact.period[0].strftime("%d"), contact.client);
        let Some(decided) = contact.decided else { return format!("{day} {client} alive") };
        let Decided { asked, verdict, rule, exemption, count, depth, .. } = decided;
        let what = match asked {
            crate::Asked::Name { name, via, .. } => {
                name + &via.map_or(String::new(), |via| format!(" via {via}"))
            }
            crate::Asked::Address { address, .. } => address.to_string(),
        };
        let exemption = exemption.map_or(String::new(), |id| format!(" by {id}"));
        format!("{day} {client} {verdict}{exemption} {rule} {what} x{count} {depth:?}")
    };
    contacts.finish(&known).unwrap().0.into_iter().map(show).collect()
}

#[test]
fn contacts_are_what_the_policy_says_and_what_was_done_then() {
    let address = |text: &str, ttl| Answer::Address(text.parse().unwrap(), ttl);
    let name = |text: &str| Answer::Name(text.parse().unwrap());
    assert_eq!(
        contacts(
            vec![
                asked(1, "10.0.0.1", "a.v.example", false, &[]),
                asked(1, "10.0.0.1", "a.v.example", false, &[]),
                asked(1, "10.0.0.1", "a.v.example", true, &[]),
                asked(1, "10.0.0.1", "www.v.example", false, &[]),
                asked(1, "10.0.0.1", "other.example", false, &[]),
                asked(1, "10.0.0.2", "alias.example", false, &[name("a.v.example")]),
                asked(1, "10.0.0.2", "hidden.example", false, &[address("192.0.2.1", 60)]),
                // On the register until the day ends, and a server that blocks knows of no register.
                asked(1, "10.0.9.1", "a.v.example", false, &[]),
                asked(1, "10.0.9.1", "a.v.example", true, &[]),
                asked(2, "10.0.9.1", "a.v.example", false, &[]),
            ],
            &[]
        ),
        [
            "01 10.0.0.1 log v a.v.example x2 Asked",
            "01 10.0.0.1 block v a.v.example x1 Asked",
            "01 10.0.0.2 log v alias.example via a.v.example x1 Asked",
            "01 10.0.0.2 log v hidden.example via 192.0.2.1 x1 Asked",
            "01 10.0.9.1 exempt by lab v a.v.example x1 Asked",
            "01 10.0.9.1 block v a.v.example x1 Asked",
            "02 10.0.9.1 log v a.v.example x1 Asked",
        ]
    );
}

#[test]
fn packets_to_what_a_name_was_answered_with_are_the_names() {
    let answer = [Answer::Address("198.51.100.1".parse().unwrap(), 300)];
    assert_eq!(
        contacts(
            vec![
                asked(1, "10.0.0.1", "a.v.example", false, &answer),
                sent(1, 200, "10.0.0.1", "198.51.100.1", Depth::Received),
                sent(1, 200, "10.0.0.1", "192.0.2.3", Depth::Connected),
                // Too late, of somebody else, and of no rule.
                sent(1, 301, "10.0.0.1", "198.51.100.1", Depth::Received),
                sent(1, 200, "10.0.0.2", "198.51.100.1", Depth::Received),
                sent(1, 200, "10.0.0.1", "192.0.2.200", Depth::Received),
            ],
            &[]
        ),
        [
            "01 10.0.0.1 log v a.v.example x1 Asked",
            "01 10.0.0.1 log v 192.0.2.3 x3 Connected",
            "01 10.0.0.1 log v 198.51.100.1 x3 Received",
        ]
    );
}

#[test]
fn signs_of_life_are_of_clients_that_were_in_contact() {
    let other = |day, client| asked(day, client, "other.example", false, &[]);
    assert_eq!(
        contacts(
            vec![
                other(1, "10.0.0.1"),
                asked(2, "10.0.0.1", "a.v.example", false, &[]),
                other(2, "10.0.0.1"),
                other(3, "10.0.0.1"),
                other(3, "10.0.0.1"),
                sent(4, 0, "10.0.0.1", "203.0.113.1", Depth::Received),
                other(1, "10.0.0.2"),
                other(1, "10.0.0.3"),
            ],
            &["10.0.0.3"]
        ),
        [
            "02 10.0.0.1 log v a.v.example x1 Asked",
            "03 10.0.0.1 alive",
            "04 10.0.0.1 alive",
            "01 10.0.0.3 alive",
        ]
    );
}
