//! The index says what the record says, however it came about.

use std::collections::BTreeMap;
use std::fs;
use std::net::IpAddr;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, SystemTime};

use interdict_audit::{Asked, Daily, Depth, Entry, Index, Indexer, Log, Record, Start, Tail};
use interdict_policy::{Digest, Policy, Source, Verdict, compile};
use serde_json::{Value, json};
use tempfile::TempDir;

const VERDICTS: [Verdict; 3] = [Verdict::Block, Verdict::Log, Verdict::Exempt];

/// A policy with a unit for everybody.
fn policy() -> Policy {
    let text = "format = 1\n[[rule]]\nid = \"v\"\nrole = \"x\"\naction = \"block\"\nhosts = [\"v.example\"]\n[[unit]]\nid = \"hq\"\ntitle = \"HQ\"\nnetworks = [\"0.0.0.0/0\", \"::/0\"]\n";
    compile(&[Source { name: "p.toml".into(), text: text.into() }]).unwrap().policy
}

/// Some event, of a number: contacts of a few clients over a few days, and acts.
fn entry(number: u64, policy: &Policy) -> Entry {
    let mixed = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
    let client = IpAddr::from([10, 0, 0, (mixed % 5) as u8]);
    let rule = ["v-update", "v-ksn"][(mixed >> 4) as usize % 2];
    let verdict = VERDICTS[(mixed >> 8) as usize % 3];
    let at = SystemTime::UNIX_EPOCH + Duration::from_secs(1_790_000_000 + (mixed >> 12) % (4 * 86_400));
    let asked =
        Asked::Name { name: "a\u{1}\"ü.v.example".into(), rtype: "A".into(), via: None, resolver: None };
    match mixed % 11 {
        0 => Entry::admin("test.act", json!({ "number": number }), None),
        1 => Entry::dns("udp", client, asked, verdict, rule, "update", Digest([1; 32])).counted(
            mixed % 1000,
            at,
            at,
        ),
        2 => {
            let asked = Asked::Address { address: client, port: None, protocol: "tcp".into() };
            let times = (at, at + Duration::from_secs(30));
            let entry = Entry::packet("xdp", None, asked, verdict, rule, "update", Digest([1; 32]), 3, times);
            entry.reached(Depth::Received, true, json!({}))
        }
        _ => {
            let entry =
                Entry::dns("udp", client, asked, verdict, rule, "update", Digest([1; 32])).counted(1, at, at);
            entry
                .of_unit(policy.unit(client).filter(|_| mixed.is_multiple_of(2)))
                .exempt_by((verdict == Verdict::Exempt).then_some("lab"))
        }
    }
}

fn write(data: &Path, numbers: std::ops::Range<u64>) {
    let (log, writer) = Record::open(data, "n").unwrap().start().unwrap();
    let policy = policy();
    numbers.for_each(|number| log.record(entry(number, &policy)));
    writer.close();
}

fn events(data: &Path) -> Vec<Value> {
    let (mut tail, mut events) = (Tail::open(data, Start::Beginning).unwrap(), Vec::new());
    loop {
        let lines = tail.next_lines().unwrap();
        if lines.is_empty() {
            return events;
        }
        events.extend(lines.iter().map(|line| serde_json::from_str::<Value>(line).unwrap()));
    }
}

type Rows = BTreeMap<[String; 8], (u64, u64, u64, [String; 2], [u64; 2])>;

/// What the index should say, from the events one by one.
fn expected(data: &Path) -> Rows {
    let mut rows = Rows::new();
    for event in events(data).iter().filter(|event| !event["rule"].is_null()) {
        let text = |key: &str| event[key].as_str().unwrap_or_default().to_owned();
        let (first, last, seq) = (text("first"), text("last"), event["seq"].as_u64().unwrap());
        let key = ["client", "rule", "verdict", "unit", "role", "exemption", "plane"].map(text);
        let [client, rule, verdict, unit, role, exemption, plane] = key;
        let key = [first[..10].to_owned(), client, rule, verdict, unit, role, exemption, plane];
        let depth =
            ["asked", "attempted", "connected", "received"].iter().position(|depth| event["depth"] == *depth);
        let depth = depth.unwrap() as u64 + 1;
        let row = rows.entry(key).or_insert((0, 0, 0, [first.clone(), last.clone()], [seq; 2]));
        row.0 += event["count"].as_u64().unwrap();
        row.1 += 1;
        row.2 = row.2.max(depth);
        row.3 = [row.3[0].clone().min(first), row.3[1].clone().max(last)];
        row.4[1] = seq;
    }
    rows
}

fn indexed(index: &Index) -> Rows {
    let time = |micros: i64| format!("{:.6}", jiff::Timestamp::from_microsecond(micros).unwrap());
    let mut rows = Rows::new();
    let add = |row: Daily| {
        let day = time(row.day * 86_400_000_000)[..10].to_owned();
        let client = row.client.map(|client| client.to_string()).unwrap_or_default();
        let (unit, exemption) = (row.unit.unwrap_or_default(), row.exemption.unwrap_or_default());
        let key = [day, client, row.rule, row.verdict, unit, row.role, exemption, row.plane];
        let before = rows
            .insert(key, (row.contacts, row.events, u64::from(row.depth), row.period_us.map(time), row.seqs));
        assert_eq!(before, None);
    };
    index.daily(i64::MIN, i64::MAX, add).unwrap();
    rows
}

fn catch_up(data: &Path) -> Index {
    let mut index = Index::open(data).unwrap();
    index.catch_up(&AtomicBool::new(false)).unwrap();
    index
}

#[test]
fn the_index_says_what_the_record_says_at_once_or_bit_by_bit() {
    let data = TempDir::new().unwrap();
    for (from, to) in [(0, 1), (1, 700), (700, 701), (701, 3000)] {
        write(data.path(), from..to);
        let index = catch_up(data.path());
        let expected = expected(data.path());
        assert_eq!(indexed(&index), expected);
        assert_eq!(index.end(), events(data.path()).len() as u64);
        let acts = index.acts("test.act").unwrap();
        assert_eq!(acts.len(), events(data.path()).iter().filter(|event| event["act"] == "test.act").count());
        Index::remove(data.path()).unwrap();
        assert_eq!(indexed(&catch_up(data.path())), expected);
    }
    let index = catch_up(data.path());
    let (some, mut seen) = (indexed(&index).keys().next().unwrap()[0].clone(), 0);
    let day = some.parse::<jiff::civil::Date>().unwrap().to_zoned(jiff::tz::TimeZone::UTC).unwrap();
    let day = day.timestamp().as_second() / 86_400;
    index
        .daily(day, day + 1, |row| {
            assert_eq!(row.day, day);
            seen += 1
        })
        .unwrap();
    assert!(seen > 0 && seen < indexed(&index).len());
}

#[test]
fn an_index_that_is_damaged_or_of_another_record_is_made_again() {
    let data = TempDir::new().unwrap();
    write(data.path(), 0..300);
    drop(catch_up(data.path()));
    let path = data.path().join("index/index.db");
    let expected = expected(data.path());
    let whole = fs::read(&path).unwrap();
    for damage in
        [&b""[..], b"no database at all, but long enough to look like a file", &whole[..whole.len() / 2]]
    {
        fs::write(&path, damage).unwrap();
        assert_eq!(indexed(&catch_up(data.path())), expected, "{} bytes", damage.len());
    }
    // A record that was replaced by a shorter one, and by one of the same length.
    for numbers in [1000..1100, 2000..2300] {
        for folder in ["log", "keys"] {
            fs::remove_dir_all(data.path().join(folder)).unwrap();
        }
        write(data.path(), numbers);
        assert_eq!(indexed(&catch_up(data.path())), self::expected(data.path()));
    }
}

#[test]
fn readers_see_one_moment_while_it_is_written() {
    let data = TempDir::new().unwrap();
    let (log, writer) = Record::open(data.path(), "n").unwrap().start().unwrap();
    let indexer = Indexer::start(data.path()).unwrap();
    let policy = policy();
    let hand_in = |log: &Log| {
        (0..20_000).for_each(|number| {
            while log.counters().queued > 1000 {
                std::thread::yield_now();
            }
            log.record(entry(number, &policy));
        })
    };
    std::thread::scope(|scope| {
        scope.spawn(|| hand_in(&log));
        while indexer.handle().end() < 20_000 {
            if let Ok(index) = Index::open_to_read(data.path()) {
                // Some batches come in between.
                std::thread::sleep(Duration::from_millis(20));
                let acts = index.acts("test.act").unwrap().len() as u64;
                std::thread::sleep(Duration::from_millis(20));
                let mut of_rows = 0;
                index
                    .daily(i64::MIN, i64::MAX, |row| {
                        assert_ne!(row.rule, "");
                        of_rows += row.events;
                    })
                    .unwrap();
                assert_eq!(of_rows + acts, index.end());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    });
    writer.close();
    // A new file may have the number of the one that is gone, but not its age.
    let age = |file: fs::Metadata| (file.ctime(), file.ctime_nsec());
    let file = || fs::metadata(data.path().join("index/index.db")).map(age).ok();
    let before = file();
    indexer.handle().make_again();
    while file().is_none() || file() == before {
        std::thread::sleep(Duration::from_millis(5));
    }
    indexer.stop();
    assert_eq!(indexed(&catch_up(data.path())), expected(data.path()));
}

#[test]
fn what_was_removed_from_the_record_is_not_in_the_index() {
    let data = TempDir::new().unwrap();
    let (policy, old) = (policy(), SystemTime::now() - Duration::from_secs(2 * 86_400));
    let (log, writer) = Record::open(data.path(), "n").unwrap().start().unwrap();
    (0..300).for_each(|number| log.record(entry(number, &policy).at(old)));
    writer.close();
    drop(catch_up(data.path()));
    write(data.path(), 300..400);
    let (log, writer) = Record::open(data.path(), "n").unwrap().start().unwrap();
    assert_eq!(log.prune(SystemTime::now(), "test").unwrap(), 300);
    writer.close();
    let index = catch_up(data.path());
    let expected = expected(data.path());
    assert_eq!(indexed(&index), expected);
    Index::remove(data.path()).unwrap();
    assert_eq!(indexed(&catch_up(data.path())), expected);
}
