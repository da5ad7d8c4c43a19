//! The record on disk: its shape, its numbers, and what a crash leaves.

use std::fs;
use std::io::Write;
use std::path::Path;

use interdict_audit::{Asked, Entry, OpenError, Record, Start, Tail};
use interdict_policy::{Digest, Verdict};
use serde_json::{Value, json};
use tempfile::TempDir;

const SOME_KEY: &str = "PRIVATE+KEY+PeterNeumann+c74f20a3+AYEKFALVFGyNhPJEMzD1QIDr+Y7hfZx09iUvxdXHKDFz";

fn asked(name: &str) -> Entry {
    let asked = Asked::Name { name: name.into(), rtype: "A".into(), via: None, resolver: None };
    let client = "10.0.0.9".parse().unwrap();
    Entry::dns("udp", client, asked, Verdict::Block, "v-all", "update", Digest([0xab; 32]))
}

fn record(data: &Path, entries: Vec<Entry>) {
    let (log, writer) = Record::open(data, "node-1").unwrap().start().unwrap();
    entries.into_iter().for_each(|entry| log.record(entry));
    writer.close();
}

fn lines(data: &Path) -> Vec<Value> {
    let mut tail = Tail::open(data, Start::Beginning).unwrap();
    let lines = tail.next_lines().unwrap();
    lines.iter().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn newest(data: &Path) -> std::path::PathBuf {
    let entries = fs::read_dir(data.join("log")).unwrap().map(|entry| entry.unwrap().path());
    entries.filter(|path| path.extension().is_some_and(|extension| extension == "jsonl")).max().unwrap()
}

#[test]
fn an_event_has_the_contracts_shape() {
    let data = TempDir::new().unwrap();
    record(
        data.path(),
        vec![asked("s07.upd.kaspersky.com"), Entry::admin("policy.applied", json!({"gap_ns": 7}), None)],
    );
    let text = fs::read_to_string(newest(data.path())).unwrap();
    let keys = |line: &str| -> Vec<String> {
        let line: serde_json::Map<String, Value> = serde_json::from_str(line).unwrap();
        line.keys().cloned().collect()
    };
    let mut wanted = vec![
        "id", "node", "seq", "time", "mono_ns", "clock", "plane", "channel", "client", "unit", "asked",
        "verdict", "rule", "role", "digest", "count", "first", "last", "depth",
    ];
    wanted.sort_unstable();
    let mut lines = text.lines();
    assert_eq!(keys(lines.next().unwrap()), wanted);
    assert!(keys(lines.next().unwrap()).contains(&"act".to_owned()));
    let event: Value = serde_json::from_str(text.lines().next().unwrap()).unwrap();
    assert_eq!(event["id"], "node-1-1");
    assert_eq!(event["asked"], json!({"name": "s07.upd.kaspersky.com", "type": "A"}));
    assert_eq!(
        (&event["verdict"], &event["depth"], &event["count"]),
        (&json!("block"), &json!("asked"), &json!(1))
    );
    assert_eq!(event["digest"], "ab".repeat(32));
}

#[test]
fn numbers_go_on_over_starts_and_a_torn_line_is_cut_off_and_told() {
    let data = TempDir::new().unwrap();
    record(data.path(), vec![asked("a"), asked("b")]);
    fs::OpenOptions::new()
        .append(true)
        .open(newest(data.path()))
        .unwrap()
        .write_all(b"{\"id\":\"node-1-3\",")
        .unwrap();
    record(data.path(), vec![asked("c")]);
    let events = lines(data.path());
    let seqs: Vec<u64> = events.iter().map(|event| event["seq"].as_u64().unwrap()).collect();
    assert_eq!(seqs, [1, 2, 3, 4, 5]);
    assert_eq!(events[2]["act"], "log.repaired");
    assert_eq!(events[2]["detail"]["bytes"], 17);
    assert_eq!(events[3]["act"], "log.resumed");
    assert_eq!((&events[3]["detail"]["clean"], &events[3]["detail"]["unsealed"]), (&json!(true), &json!(0)));
    assert_eq!(events[4]["asked"]["name"], "c");
}

#[test]
fn a_record_that_cannot_go_on_is_refused() {
    let data = TempDir::new().unwrap();
    record(data.path(), vec![asked("a")]);
    fs::OpenOptions::new().append(true).open(newest(data.path())).unwrap().write_all(b"garbage\n").unwrap();
    let error = Record::open(data.path(), "n").err().unwrap();
    assert!(matches!(error, OpenError::Corrupt { line: 2, .. }), "{error}");
    let name = newest(data.path()).display().to_string();
    assert!(error.to_string().starts_with(&format!("{name}:2: this is not event 2")), "{error}");
    assert!(error.to_string().contains("remove the lines behind event 1"), "{error}");
}

#[test]
fn one_record_has_one_writer() {
    let data = TempDir::new().unwrap();
    let (_log, writer) = Record::open(data.path(), "n").unwrap().start().unwrap();
    assert!(matches!(Record::open(data.path(), "n"), Err(OpenError::InUse(_))));
    writer.close();
    assert!(Record::open(data.path(), "n").is_ok());
}

#[test]
fn a_reader_crosses_midnight_and_never_sees_half_a_line() {
    let data = TempDir::new().unwrap();
    let log = data.path().join("log");
    fs::create_dir(&log).unwrap();
    fs::write(log.join("2026-11-23.000000000001.jsonl"), "1\n2\n").unwrap();
    let mut tail = Tail::open(data.path(), Start::Beginning).unwrap();
    assert_eq!(tail.next_lines().unwrap(), ["1", "2"]);
    fs::write(log.join("2026-11-24.000000000003.jsonl"), "3\n4").unwrap();
    assert_eq!(tail.next_lines().unwrap(), ["3"]);
    assert!(tail.next_lines().unwrap().is_empty());
    fs::write(log.join("2026-11-24.000000000003.jsonl"), "3\n45\n").unwrap();
    assert_eq!(tail.next_lines().unwrap(), ["45"]);
    assert!(Tail::open(data.path(), Start::End).unwrap().next_lines().unwrap().is_empty());
}

#[test]
fn a_line_has_its_keys_in_order() {
    let data = TempDir::new().unwrap();
    record(data.path(), vec![asked("a.example"), Entry::admin("policy.applied", json!({"gap_ns": 7}), None)]);
    let text = fs::read_to_string(newest(data.path())).unwrap();
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let start = |line: &Value, seq: u64| {
        let (time, mono_ns, clock) = (&line["time"], &line["mono_ns"], &line["clock"]);
        assert!(["synchronized", "unsynchronized"].contains(&clock.as_str().unwrap()));
        format!(
            r#"{{"id":"node-1-{seq}","node":"node-1","seq":{seq},"time":{time},"mono_ns":{mono_ns},"clock":{clock}"#
        )
    };
    let times = |line: &Value| format!(r#""count":1,"first":{},"last":{}"#, line["first"], line["last"]);
    let dns = format!(
        r#"{},"plane":"dns","channel":"udp","client":"10.0.0.9","unit":null,"asked":{{"name":"a.example","type":"A"}},"verdict":"block","rule":"v-all","role":"update","digest":"{}",{},"depth":"asked"}}"#,
        start(&lines[0], 1),
        "ab".repeat(32),
        times(&lines[0])
    );
    let admin = format!(
        r#"{},"plane":"admin","channel":null,"client":null,"unit":null,"asked":null,"verdict":null,"rule":null,"role":null,"digest":null,{},"depth":null,"act":"policy.applied","detail":{{"gap_ns":7}}}}"#,
        start(&lines[1], 2),
        times(&lines[1])
    );
    assert_eq!(text.lines().collect::<Vec<_>>(), [dns, admin]);
}

#[test]
fn a_packet_event_has_its_address_and_its_count() {
    let data = TempDir::new().unwrap();
    let at = Asked::Address { address: "192.0.2.1".parse().unwrap(), port: None, protocol: "47".into() };
    let first = std::time::SystemTime::UNIX_EPOCH;
    let last = first + std::time::Duration::from_micros(1_500_000);
    let digest = Digest([0xab; 32]);
    let verdict = Verdict::Block;
    record(
        data.path(),
        vec![Entry::packet("xdp", None, at, verdict, "v-net", "update", digest, 7, (first, last))],
    );
    let event = &lines(data.path())[0];
    assert_eq!(event["asked"], json!({"address": "192.0.2.1", "port": null, "protocol": "47"}));
    assert_eq!(
        (&event["plane"], &event["client"], &event["count"]),
        (&json!("packet"), &json!(null), &json!(7))
    );
    assert_eq!(event["first"], "1970-01-01T00:00:00.000000Z");
    assert_eq!(event["last"], "1970-01-01T00:00:01.500000Z");
    assert_eq!(event["depth"], "attempted");
}

#[test]
fn folder_and_files_are_not_for_everyone() {
    use std::os::unix::fs::PermissionsExt;
    let data = TempDir::new().unwrap();
    record(data.path(), vec![asked("a")]);
    let others = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o007;
    assert_eq!((others(&data.path().join("log")), others(&newest(data.path()))), (0, 0));
}

#[test]
fn a_refused_record_is_left_as_it_is() {
    let data = TempDir::new().unwrap();
    let log = data.path().join("log");
    fs::create_dir(&log).unwrap();
    fs::write(log.join("2026-11-24.000000000003.jsonl"), "garbage\n{\"id\"").unwrap();
    fs::create_dir(data.path().join("keys")).unwrap();
    fs::write(data.path().join("keys/log.key"), SOME_KEY).unwrap();
    assert!(matches!(Record::open(data.path(), "n"), Err(OpenError::Corrupt { line: 1, .. })));
    assert_eq!(fs::read_to_string(log.join("2026-11-24.000000000003.jsonl")).unwrap(), "garbage\n{\"id\"");
}

#[test]
fn a_reader_starts_where_it_is_told() {
    let data = TempDir::new().unwrap();
    let log = data.path().join("log");
    fs::create_dir(&log).unwrap();
    fs::write(log.join("2026-11-23.000000000001.jsonl"), "1\n2\n").unwrap();
    fs::write(log.join("2026-11-24.000000000003.jsonl"), "3\n4").unwrap();
    let check = |start, wanted: &[&str]| {
        let mut tail = Tail::open(data.path(), start).unwrap();
        let mut all = Vec::new();
        while let lines @ [_, ..] = tail.next_lines().unwrap().as_slice() {
            all.extend_from_slice(lines);
        }
        assert_eq!(all, wanted, "{start:?}");
    };
    check(Start::Beginning, &["1", "2", "3"]);
    check(Start::LastN(0), &[]);
    check(Start::LastN(1), &["3"]);
    check(Start::LastN(2), &["2", "3"]);
    check(Start::LastN(9), &["1", "2", "3"]);
    check(Start::After(1), &["2", "3"]);
    check(Start::After(2), &["3"]);
    check(Start::After(7), &[]);
    // The half line is no line yet, and is whole when it comes.
    let mut tail = Tail::open(data.path(), Start::End).unwrap();
    assert!(tail.next_lines().unwrap().is_empty());
    fs::write(log.join("2026-11-24.000000000003.jsonl"), "3\n45\n").unwrap();
    assert_eq!(tail.next_lines().unwrap(), ["45"]);
    // A line longer than what is read at once.
    let long = "x".repeat(3 << 20);
    fs::write(log.join("2026-11-25.000000000005.jsonl"), format!("{long}\n")).unwrap();
    assert_eq!(tail.next_lines().unwrap(), [long]);
}
