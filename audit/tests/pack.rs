//! What leaves the record, and what a stranger makes of it.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;

use interdict_audit::{Entry, Range, Record, Start, Tail, Trust, export, prove, verify, verify_file};
use serde_json::json;
use tempfile::TempDir;

/// A record of so many events, with a change of keys in the middle.
fn record(events: u64) -> TempDir {
    let data = TempDir::new().unwrap();
    let (log, writer) = Record::open(data.path(), "node-1").unwrap().start().unwrap();
    let half = events / 2;
    (0..half).for_each(|number| log.record(Entry::admin("test", json!({ "number": number }), None)));
    while log.counters().written < half {
        std::thread::yield_now();
    }
    log.change_key().unwrap();
    (half + 1..events).for_each(|number| log.record(Entry::admin("test", json!({ "number": number }), None)));
    writer.close();
    data
}

fn pack(data: &Path, range: Range) -> Vec<u8> {
    let mut pack = Vec::new();
    export(data, range, &mut pack).unwrap();
    pack
}

fn stranger(pack: &Path, key: Option<&str>) -> Output {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("verify.py");
    Command::new("python3").arg(script).arg(pack).args(key).output().unwrap()
}

fn trusting(key: &str) -> Trust {
    Trust { key: Some(key.to_owned()), ..Trust::default() }
}

#[test]
fn the_strangers_script_is_short() {
    let script = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("verify.py")).unwrap();
    assert!(script.lines().count() <= 100);
    let imports = script.lines().filter(|line| line.starts_with("import") || line.starts_with("from"));
    assert_eq!(imports.collect::<Vec<_>>(), ["import base64, hashlib, json, sys"]);
}

#[test]
fn a_pack_is_verified_by_us_and_by_a_stranger_and_no_other_key_will_do() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("pack");
    let other = verify_of(record(4).path()).keys.remove(0);
    for events in [2, 3, 7, 256, 257, 700] {
        let data = record(events);
        let keys = verify_of(data.path()).keys;
        fs::write(&path, pack(data.path(), Range::default())).unwrap();
        for key in [None, Some(keys[0].as_str()), Some(keys[1].as_str())] {
            let trust = key.map(trusting).unwrap_or_default();
            let proven = verify_file(&path, &trust).unwrap();
            assert_eq!((proven.report.findings, proven.events), (vec![], [1, events]));
            let output = stranger(&path, key);
            let said = String::from_utf8_lossy(&output.stdout).into_owned();
            assert!(
                output.status.success()
                    && said.contains(&format!("verified: events 1 to {events} of {events}")),
                "{said}"
            );
        }
        assert!(!verify_file(&path, &trusting(&other)).unwrap().report.is_verified());
        assert_eq!(stranger(&path, Some(&other)).status.code(), Some(1));
    }
}

fn verify_of(data: &Path) -> interdict_audit::Report {
    interdict_audit::verify(data, &Trust::default()).unwrap()
}

#[test]
fn a_part_is_verified_as_a_part() {
    let data = record(300);
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("pack");
    let lines: Vec<String> = String::from_utf8(pack(data.path(), Range::default()))
        .unwrap()
        .lines()
        .skip(1)
        .map(str::to_owned)
        .collect();
    let time = |line: usize| {
        let event: serde_json::Value = serde_json::from_str(&lines[line]).unwrap();
        event["time"].as_str().unwrap().parse().unwrap()
    };
    for (from, to) in [(0, 1), (7, 260), (299, 299), (150, 299)] {
        let range = Range { from: Some(time(from)), to: (from != to).then(|| time(to)) };
        fs::write(&path, pack(data.path(), range)).unwrap();
        let proven = verify_file(&path, &Trust::default()).unwrap();
        assert_eq!(proven.report.findings, []);
        let [first, last] = proven.events;
        // Events of one microsecond go together, in or out.
        assert!(first <= from as u64 + 1 && (last <= to as u64 || from == to), "{first} {last}");
        assert!(stranger(&path, None).status.success());
    }
    let never = Range { from: Some("2100-01-01T00:00:00Z".parse().unwrap()), to: None };
    assert!(export(data.path(), never, &mut Vec::new()).is_err());
}

#[test]
fn every_changed_byte_of_a_pack_and_of_a_proof_is_found() {
    let data = record(5);
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("file");
    // Of an event alone nothing tells how the keys changed.
    let [first, newest] = verify_of(data.path()).keys.try_into().unwrap();
    let (pack, proof) = (pack(data.path(), Range::default()), prove(data.path(), 4).unwrap().into_bytes());
    for (whole, has_script, key) in [(pack, true, first), (proof, false, newest)] {
        fs::write(&path, &whole).unwrap();
        assert!(verify_file(&path, &trusting(&key)).unwrap().report.is_verified());
        for at in 0..whole.len() {
            let mut bytes = whole.clone();
            bytes[at] ^= 1;
            fs::write(&path, &bytes).unwrap();
            let is_found = |path: &Path| {
                verify_file(path, &trusting(&key)).is_ok_and(|proven| proven.report.is_verified())
            };
            // Of a pack's head the keys are for who knows none.
            let says_keys = has_script
                && whole[..at].windows(7).any(|text| text == b"\"keys\":")
                && !whole[..at].windows(12).any(|text| text == b"\"rotations\":");
            assert!(
                !is_found(&path) || says_keys,
                "byte {at}: {}",
                String::from_utf8_lossy(&whole[at.saturating_sub(20)..(at + 20).min(whole.len())])
            );
            if has_script && at % 31 == 0 && !says_keys {
                assert_eq!(stranger(&path, Some(&key)).status.code(), Some(1), "byte {at}");
            }
        }
        for length in 0..whole.len() {
            fs::write(&path, &whole[..length]).unwrap();
            let proven = verify_file(&path, &trusting(&key));
            // The end of the last line is not needed.
            assert!(
                length + 1 == whole.len() || !proven.is_ok_and(|proven| proven.report.is_verified()),
                "{length} bytes"
            );
        }
    }
}

#[test]
fn an_event_is_proven_alone() {
    let data = record(300);
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("proof");
    for seq in [1, 2, 150, 256, 257, 300] {
        let proof = prove(data.path(), seq).unwrap();
        assert!(proof.len() < 2048, "{}", proof.len());
        fs::write(&path, proof).unwrap();
        let proven = verify_file(&path, &Trust::default()).unwrap();
        // A proof brings no key with it.
        assert_eq!(proven.report.findings[0].what, "it brings no key with it; name one with --key");
        let proven = verify_file(&path, &trusting(&verify_of(data.path()).keys[1])).unwrap();
        assert_eq!((&proven.report.findings[..], proven.events), (&[][..], [seq; 2]));
        assert_eq!(proven.event.unwrap()["seq"], seq);
    }
    for seq in [0, 301] {
        assert!(prove(data.path(), seq).unwrap_err().to_string().contains("covers events 1 to 300"));
    }
}

#[test]
fn what_is_no_pack_is_refused() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("file");
    for strange in [
        "",
        "{}",
        "{\"interdict_pack\":2}",
        "c2sp.org/tlog-proof@v1\n",
        "c2sp.org/tlog-proof@v1\nextra x\n\n",
        "\u{0}\u{ff}",
    ] {
        fs::write(&path, strange).unwrap();
        assert!(verify_file(&path, &Trust::default()).is_err(), "{strange:?}");
        assert_eq!(stranger(&path, None).status.code(), Some(1), "{strange:?}");
    }
}

#[test]
fn numbers_that_are_not_of_the_record_are_refused() {
    let data = record(5);
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("pack");
    let whole = String::from_utf8(pack(data.path(), Range::default())).unwrap();
    let (head, events) = whole.split_once('\n').unwrap();
    let root = {
        let head: serde_json::Value = serde_json::from_str(head).unwrap();
        head["checkpoint"].as_str().unwrap().lines().nth(2).unwrap().to_owned()
    };
    let key = verify_of(data.path()).keys.remove(0);
    for (what, old, new, events) in [
        ("more events than there are", "\"count\":5", "\"count\":1000000".to_owned(), events),
        ("events before the first", "\"first\":1", "\"first\":-99".to_owned(), events),
        ("no number", "\"first\":1", "\"first\":NaN".to_owned(), events),
        ("a text", "\"first\":1", "\"first\":\"1\"".to_owned(), events),
        ("another format", "\"interdict_pack\":1", "\"interdict_pack\":99".to_owned(), events),
        ("none, but a root", "\"count\":5", "\"count\":0".to_owned(), ""),
        ("such as do not exist", "\"first\":1,\"count\":5", "\"first\":100,\"count\":900".to_owned(), ""),
    ] {
        assert!(head.contains(old), "{old}");
        let mut changed = head.replacen(old, &new, 1);
        if events.is_empty() {
            changed = changed.replace("\"proof\":[]", &format!("\"proof\":[\"{root}\"]"));
        }
        fs::write(&path, format!("{changed}\n{events}")).unwrap();
        assert_eq!(stranger(&path, Some(&key)).status.code(), Some(1), "{what}");
        assert!(
            !verify_file(&path, &trusting(&key)).is_ok_and(|proven| proven.report.is_verified()),
            "{what}"
        );
    }
    fs::write(&path, "[1]\n").unwrap();
    assert_eq!(stranger(&path, None).status.code(), Some(1));
}

#[test]
fn segments_that_were_filled_within_a_minute_are_verified_at_once() {
    let data = TempDir::new().unwrap();
    let (log, writer) = Record::open(data.path(), "n").unwrap().start().unwrap();
    let compressed = || {
        let names = fs::read_dir(data.path().join("log")).unwrap();
        names.filter(|name| name.as_ref().unwrap().file_name().to_string_lossy().ends_with(".zst")).count()
    };
    let said = || {
        let mut tail = Tail::open(data.path(), Start::After(65_536)).unwrap();
        let lines = std::iter::from_fn(|| Some(tail.next_lines().unwrap()).filter(|lines| !lines.is_empty()));
        lines.flatten().filter(|line| line.contains("segment.packed")).count()
    };
    for _ in 0..14 {
        log.write_all((0..10_000).map(|number| Entry::admin("many", json!(number), None)).collect()).unwrap();
    }
    while said() < 2 {
        std::thread::sleep(Duration::from_millis(20));
    }
    // No checkpoint covers yet that they were compressed: they are as they were.
    assert_eq!(compressed(), 0);
    assert!(verify(data.path(), &Trust::default()).unwrap().is_verified());
    log.seal().unwrap();
    assert_eq!(compressed(), 2);
    assert!(verify(data.path(), &Trust::default()).unwrap().is_verified());
    writer.close();
    assert!(verify(data.path(), &Trust::default()).unwrap().is_verified());
}
