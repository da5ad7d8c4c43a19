//! What is done to a record, and what is said of it.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use serde_json::json;
use tempfile::TempDir;

use super::*;
use crate::{Entry, Log, Record, Writer, clock};

const DAY_SECS: u64 = 86_400;

/// Days since 1970: what the log says of itself is of today.
fn today() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs() / DAY_SECS
}

fn open(data: &Path) -> (Log, Writer) {
    Record::open(data, "node-1").unwrap().start().unwrap()
}

/// Records some events of a day.
fn record(log: &Log, day: u64, count: u64) {
    for number in 0..count {
        let mut entry = Entry::admin("test", json!({ "number": number }), None);
        entry.time = SystemTime::UNIX_EPOCH + Duration::from_secs(DAY_SECS * day + number);
        log.record(entry);
    }
}

fn written(log: &Log, count: u64) {
    while log.counters().written < count {
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Three days with a few events each, the first two compressed, and a change of keys.
fn three_days() -> TempDir {
    let data = TempDir::new().unwrap();
    let (log, writer) = open(data.path());
    record(&log, today() - 2, 5);
    record(&log, today() - 1, 3);
    record(&log, today(), 2);
    // And of each of the first two that it was compressed.
    written(&log, 12);
    log.change_key().unwrap();
    record(&log, today(), 1);
    writer.close();
    data
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => files.extend(self::files(&path)),
            false => files.push(path),
        }
    }
    files.sort();
    files
}

fn verified(data: &Path) -> Report {
    verify(data, &Trust::default()).unwrap()
}

fn names(data: &Path) -> Vec<String> {
    let log = data.join("log");
    files(&log).iter().map(|path| path.strip_prefix(&log).unwrap().display().to_string()).collect()
}

#[test]
fn what_was_written_is_verified() {
    let data = three_days();
    let report = verified(data.path());
    assert_eq!(report.findings, []);
    assert_eq!((report.events, report.sealed, report.keys.len()), (14, 14, 2));
    assert_eq!(report.origin.as_deref(), Some("interdict/node-1"));
    assert_eq!((report.checkpoints, report.lost, &report.gaps[..]), (3, 0, &[][..]));
    let day = |days: u64| clock::day(SystemTime::UNIX_EPOCH + Duration::from_secs(DAY_SECS * days));
    let expect = [
        format!("{}.000000000001.jsonl.zst", day(today() - 2)),
        format!("{}.000000000006.jsonl.zst", day(today() - 1)),
        format!("{}.000000000009.jsonl", day(today())),
        format!("checkpoints/{}", day(today())),
        "tile/0".to_owned(),
    ];
    assert_eq!(names(data.path()), expect);
}

#[test]
fn every_changed_byte_is_found_and_where_it_is() {
    let data = three_days();
    let log = data.path().join("log");
    for path in files(&log) {
        let name = path.strip_prefix(&log).unwrap().display().to_string();
        let whole = fs::read(&path).unwrap();
        for at in 0..whole.len() {
            for flip in if at % 8 == 0 { &[0x01, 0x80][..] } else { &[0x01] } {
                let mut bytes = whole.clone();
                bytes[at] ^= flip;
                fs::write(&path, bytes).unwrap();
                let report = verified(data.path());
                let is_named = report.findings.iter().any(|finding| finding.file == name);
                assert!(is_named, "byte {at} of {name}: {:?}", report.findings);
                // A changed event changes no other one.
                let accused = |finding: &&Finding| finding.what.starts_with("event ") && finding.file != name;
                assert_eq!(report.findings.iter().find(accused), None, "byte {at} of {name}");
            }
        }
        fs::write(&path, &whole).unwrap();
    }
    assert!(verified(data.path()).is_verified());
}

#[test]
fn a_file_that_is_cut_removed_or_added_is_found() {
    let data = three_days();
    let log = data.path().join("log");
    for path in files(&log) {
        let name = path.strip_prefix(&log).unwrap().display().to_string();
        let whole = fs::read(&path).unwrap();
        for length in 0..whole.len() {
            fs::write(&path, &whole[..length]).unwrap();
            assert!(!verified(data.path()).is_verified(), "{length} bytes of {name}");
        }
        fs::write(&path, [&whole[..], b"x"].concat()).unwrap();
        assert!(!verified(data.path()).is_verified(), "one more byte of {name}");
        fs::write(&path, [&whole[..], &whole[..]].concat()).unwrap();
        assert!(whole.is_empty() || !verified(data.path()).is_verified(), "{name} twice");
        fs::remove_file(&path).unwrap();
        assert!(!verified(data.path()).is_verified(), "no {name}");
        fs::write(&path, &whole).unwrap();
    }
    for strange in
        ["x", "2024-10-06.jsonl", "2030-01-01.000000000099.jsonl", "tile/x", "tile/5", "checkpoints/x"]
    {
        fs::write(log.join(strange), "x\n").unwrap();
        let findings = verified(data.path()).findings;
        assert!(findings.iter().any(|finding| finding.file == strange), "{strange}: {findings:?}");
        fs::remove_file(log.join(strange)).unwrap();
    }
}

#[test]
fn events_that_change_places_are_found() {
    let data = three_days();
    let log = data.path().join("log");
    let path =
        files(&log).into_iter().rfind(|path| path.extension().is_some_and(|kind| kind == "jsonl")).unwrap();
    let text = fs::read_to_string(&path).unwrap();
    let mut lines: Vec<&str> = text.split_inclusive('\n').collect();
    lines.swap(0, 1);
    fs::write(&path, lines.concat()).unwrap();
    let name = path.file_name().unwrap().to_string_lossy().into_owned();
    let findings = verified(data.path()).findings;
    for line in [1, 2] {
        let is_it =
            |finding: &Finding| finding.line == Some(line) && finding.what.contains("is not what was sealed");
        assert!(findings.iter().any(|finding| finding.file == name && is_it(finding)), "{findings:?}");
    }
}

/// Changes an event together with its hash, and all hashes above it.
fn rewrite(data: &Path) {
    let log = data.join("log");
    let listing = segment::list(&log).unwrap();
    let newest = listing.segments.last().unwrap();
    let text = fs::read_to_string(&newest.path).unwrap().replace(r#""number":1"#, r#""number":7"#);
    fs::write(&newest.path, &text).unwrap();
    let mut tiles = fs::read(log.join("tile/0")).unwrap();
    for (line, at) in text.lines().zip(newest.first as usize - 1..) {
        tiles[at * 32..][..32].copy_from_slice(&record_hash(line.as_bytes()).0);
    }
    fs::write(log.join("tile/0"), tiles).unwrap();
}

#[test]
fn a_change_that_covers_its_traces_is_found_by_the_signatures() {
    let data = TempDir::new().unwrap();
    let (log, writer) = open(data.path());
    record(&log, today() - 2, 4);
    writer.close();
    rewrite(data.path());
    let report = verified(data.path());
    let expect = "the 4 events that it covers have another root: something after event 0 was changed, and its hash with it";
    assert_eq!(report.findings.iter().map(|finding| finding.what.as_str()).collect::<Vec<_>>(), [expect]);
}

#[test]
fn a_record_of_another_key_is_told_from_one_that_is_known() {
    let data = three_days();
    let [first, second] = verified(data.path()).keys.try_into().unwrap();
    let trusting =
        |key: &str| verify(data.path(), &Trust { key: Some(key.to_owned()), ..Trust::default() }).unwrap();
    assert_eq!(trusting(&first).findings, []);
    assert_eq!(trusting(&second).findings, []);
    let forged = three_days();
    let [other, _] = verified(forged.path()).keys.try_into().unwrap();
    assert!(!trusting(&other).is_verified());
    // A key alone, in the place of the right one.
    fs::write(data.path().join("keys/log.pub"), format!("{other}\n")).unwrap();
    assert!(!verified(data.path()).is_verified());
    fs::remove_file(data.path().join("keys/log.pub")).unwrap();
    assert!(!verified(data.path()).is_verified());
    assert_eq!(trusting(&first).findings, []);
}

fn copy(from: &Path, to: &Path) {
    for path in files(from) {
        let place = to.join(path.strip_prefix(from).unwrap());
        fs::create_dir_all(place.parent().unwrap()).unwrap();
        fs::copy(path, place).unwrap();
    }
}

fn checkpoints(data: &Path) -> Vec<Signed> {
    let files = checkpoint::files(&data.join("log")).unwrap();
    let texts: String = files.iter().map(|path| checkpoint::read_file(path).unwrap()).collect();
    checkpoint::notes(&texts).0.into_iter().map(|note| Signed::read(note).unwrap()).collect()
}

#[test]
fn a_fork_and_a_cut_show_against_a_checkpoint_that_was_kept_elsewhere() {
    let one = TempDir::new().unwrap();
    let (log, writer) = open(one.path());
    record(&log, today() - 2, 4);
    writer.close();
    let fork = TempDir::new().unwrap();
    copy(one.path(), fork.path());
    for (data, count) in [(&one, 3), (&fork, 5)] {
        let (log, writer) = open(data.path());
        record(&log, today() - 1, count);
        writer.close();
    }
    let against = |data: &Path, kept: Vec<Signed>| {
        verify(data, &Trust { checkpoints: kept, ..Trust::default() }).unwrap()
    };
    assert!(verified(one.path()).is_verified() && verified(fork.path()).is_verified());
    assert_eq!(against(one.path(), checkpoints(one.path())).findings, []);
    let findings = against(fork.path(), checkpoints(one.path())).findings;
    assert!(findings.iter().any(|finding| finding.what.contains("there are two records")), "{findings:?}");
    let findings = against(one.path(), checkpoints(fork.path())[3..].to_vec()).findings;
    assert!(findings.iter().any(|finding| finding.what.contains("the record was cut")), "{findings:?}");
}

#[test]
fn what_was_removed_by_order_is_verified_and_what_was_not_is_found() {
    let data = three_days();
    let (log, writer) = open(data.path());
    let before = SystemTime::UNIX_EPOCH + Duration::from_secs(DAY_SECS * (today() - 1) + 7);
    assert_eq!(log.prune(before, "test").unwrap(), 5);
    assert_eq!(log.prune(before, "test").unwrap(), 0);
    record(&log, today(), 1);
    writer.close();
    let report = verified(data.path());
    assert_eq!((&report.findings[..], &report.pruned[..]), (&[][..], &[[1, 5]][..]));
    let (log, writer) = open(data.path());
    record(&log, today(), 1);
    writer.close();
    assert_eq!(verified(data.path()).findings, []);
    let second = files(&data.path().join("log"))
        .into_iter()
        .find(|path| path.to_string_lossy().contains("000000000006"))
        .unwrap();
    fs::remove_file(second).unwrap();
    let findings = verified(data.path()).findings;
    let expect = "events 6 to 8 are missing, and the record does not say that they were removed";
    assert!(findings.iter().any(|finding| finding.what == expect), "{findings:?}");
}

/// A crash leaves any beginning of what the disk did not have for sure: the end of the newest segment, the hashes, and the
/// last checkpoint.
#[test]
fn after_a_crash_at_any_byte_the_record_goes_on_and_is_verified() {
    let data = TempDir::new().unwrap();
    let (log, writer) = open(data.path());
    record(&log, today(), 2);
    writer.close();
    let before: Vec<u64> =
        files(&data.path().join("log")).iter().map(|path| fs::metadata(path).unwrap().len()).collect();
    let (log, writer) = open(data.path());
    record(&log, today(), 3);
    writer.close();
    let log = data.path().join("log");
    let paths = files(&log);
    let is_segment = |path: &Path| path.extension().is_some_and(|kind| kind == "jsonl");
    let segment = paths.iter().position(|path| is_segment(path)).unwrap();
    let text = fs::read(&paths[segment]).unwrap();
    for end in (before[segment] as usize..=text.len()).step_by(5) {
        // Without a checkpoint that covers what is lost; hashes may be there or not, whole or not.
        for hashes in [before[paths.len() - 1], before[paths.len() - 1] + 32 + 7, u64::MAX] {
            let crashed = TempDir::new().unwrap();
            copy(data.path(), crashed.path());
            let at = |path: &Path| crashed.path().join("log").join(path.strip_prefix(&log).unwrap());
            let cut = |path: &Path, length: u64| {
                OpenOptions::new().write(true).open(at(path)).unwrap().set_len(length).unwrap()
            };
            cut(&paths[segment], end as u64);
            let notes = paths.iter().position(|path| path.to_string_lossy().contains("checkpoints")).unwrap();
            // The note of the second start is there, and that of its end is half written.
            let text = checkpoint::read_file(&paths[notes]).unwrap();
            let (all, _) = checkpoint::notes(&text);
            let whole: usize = all[..3].iter().map(|note| note.len()).sum();
            fs::write(crashed.path().join("keys/newest"), checkpoint::digest(all[2].as_bytes())).unwrap();
            cut(&paths[notes], (whole + end % all[3].len()) as u64);
            if hashes != u64::MAX {
                cut(&paths[paths.len() - 1], hashes);
            }
            let (log, writer) = open(crashed.path());
            record(&log, today(), 1);
            writer.close();
            let report = verified(crashed.path());
            assert_eq!(report.findings, [], "{end} {hashes}");
            let gaps: Vec<&str> = report.gaps.iter().map(|gap| gap.why).collect();
            assert_eq!(gaps, ["stopped", "killed"]);
        }
    }
}

#[test]
fn a_record_that_was_cut_below_its_checkpoint_is_not_continued() {
    let data = TempDir::new().unwrap();
    let (log, writer) = open(data.path());
    record(&log, today() - 2, 3);
    writer.close();
    let segment = segment::list(&data.path().join("log")).unwrap().segments.pop().unwrap();
    let text = fs::read_to_string(&segment.path).unwrap();
    let two: String = text.split_inclusive('\n').take(2).collect();
    fs::write(&segment.path, two).unwrap();
    let error = Record::open(data.path(), "node-1").err().unwrap().to_string();
    assert!(error.contains("it covers 3 events, and there are 2"), "{error}");
    fs::write(&segment.path, &text).unwrap();
    let tile = data.path().join("log/tile/0");
    let mut hashes = fs::read(&tile).unwrap();
    hashes[40] ^= 1;
    fs::write(&tile, hashes).unwrap();
    let error = Record::open(data.path(), "node-1").err().unwrap().to_string();
    assert!(error.contains("the hashes in the folder tile have another root"), "{error}");
    fs::remove_file(data.path().join("keys/log.key")).unwrap();
    let error = Record::open(data.path(), "node-1").err().unwrap().to_string();
    assert!(error.contains("keys/log.key"), "{error}");
}

#[test]
fn a_crash_between_two_signatures_leaves_the_old_key() {
    let data = TempDir::new().unwrap();
    let (log, writer) = open(data.path());
    record(&log, today() - 2, 1);
    let [old, _] = log.change_key().unwrap();
    writer.close();
    // As it was before the second signature, and before the key took its place.
    let path = checkpoint::files(&data.path().join("log")).unwrap().pop().unwrap();
    let text = checkpoint::read_file(&path).unwrap();
    let (notes, _) = checkpoint::notes(&text);
    let [start, key, _stop] = notes[..] else { panic!("{notes:?}") };
    let one_signature = &key[..key.trim_end().rfind('\n').unwrap() + 1];
    fs::write(&path, [start, one_signature].concat()).unwrap();
    let segment = segment::list(&data.path().join("log")).unwrap().segments.pop().unwrap();
    let first: String = fs::read_to_string(&segment.path).unwrap().split_inclusive('\n').take(1).collect();
    fs::write(&segment.path, first).unwrap();
    let keys = data.path().join("keys");
    fs::rename(keys.join("log.key"), keys.join("next.key")).unwrap();
    fs::write(keys.join("log.pub"), format!("{old}\n")).unwrap();
    // The old secret is gone in truth; here the record is opened with another, and refused for that.
    let error = Record::open(data.path(), "node-1").err().unwrap().to_string();
    assert!(error.contains("keys/log.key"), "{error}");
}

#[test]
fn a_live_record_is_verified_as_far_as_it_is_sealed() {
    let data = TempDir::new().unwrap();
    let (log, writer) = open(data.path());
    record(&log, today() - 2, 3);
    written(&log, 3);
    let segment = segment::list(&data.path().join("log")).unwrap().segments.pop().unwrap();
    OpenOptions::new().append(true).open(segment.path).unwrap().write_all(b"{\"half").unwrap();
    let report = verified(data.path());
    assert_eq!((&report.findings[..], report.events, report.sealed), (&[][..], 3, 0));
    writer.close();
}

/// The newest segment of a record, and what it holds.
fn newest(data: &Path) -> (PathBuf, String) {
    let path = segment::list(&data.join("log")).unwrap().segments.pop().unwrap().path;
    let text = fs::read_to_string(&path).unwrap();
    (path, text)
}

fn refused(data: &Path) -> String {
    Record::open(data, "node-1").err().expect("it is not continued").to_string()
}

fn found(data: &Path, what: &str) {
    let findings = verified(data).findings;
    assert!(findings.iter().any(|finding| finding.what.contains(what)), "{what}: {findings:?}");
}

fn one_day(events: u64) -> TempDir {
    let data = TempDir::new().unwrap();
    let (log, writer) = open(data.path());
    record(&log, today(), events);
    writer.close();
    data
}

#[test]
fn who_cannot_sign_cannot_have_the_agent_sign_for_him() {
    // Another history, without the checkpoints that tell: the key's own folder knows of one.
    let data = one_day(3);
    let (path, text) = newest(data.path());
    fs::write(path, text.replace(r#""number":1"#, r#""number":7"#)).unwrap();
    for folder in ["checkpoints", "tile"] {
        fs::remove_dir_all(data.path().join("log").join(folder)).unwrap();
    }
    assert!(refused(data.path()).contains("keys/newest knows of a checkpoint that is not there"));
    // An older state.
    let data = one_day(3);
    let old = TempDir::new().unwrap();
    copy(data.path(), old.path());
    let (log, writer) = open(data.path());
    record(&log, today(), 2);
    writer.close();
    fs::copy(data.path().join("keys/newest"), old.path().join("keys/newest")).unwrap();
    assert!(refused(old.path()).contains("keys/newest knows of a checkpoint that is not there"));
    found(old.path(), "keys/newest knows of a checkpoint that is not there");
    // More events, after the record ended in order.
    let data = one_day(3);
    let (path, text) = newest(data.path());
    fs::write(
        &path,
        format!("{text}{}", text.lines().last().unwrap().replace(r#""seq":3"#, r#""seq":4"#) + "\n"),
    )
    .unwrap();
    assert!(refused(data.path()).contains("the record ended in order with event 3, and there are 4"));
    found(data.path(), "1 events after the newest checkpoint are not signed");
}

#[test]
fn an_order_to_remove_events_counts_only_if_it_was_signed_before() {
    let data = three_days();
    let log = data.path().join("log");
    let first = segment::list(&log).unwrap().segments.remove(0).path;
    fs::remove_file(first).unwrap();
    let (path, text) = newest(data.path());
    let order = r#"{"id":"node-1-15","node":"node-1","seq":15,"plane":"admin","act":"log.pruned","detail":{"first":1,"last":5}}"#;
    fs::write(&path, format!("{text}{order}\n")).unwrap();
    found(data.path(), "events 1 to 5 are missing");
}

#[test]
fn names_of_files_must_say_what_is_in_them() {
    let data = one_day(3);
    let log = data.path().join("log");
    let (path, _) = newest(data.path());
    let name = path.file_name().unwrap().to_str().unwrap().to_owned();
    let renamed = log.join(name.replace(&name[..10], "2001-01-01"));
    fs::rename(&path, &renamed).unwrap();
    found(data.path(), "its events are of a later day than its name says");
    // Nor is anything removed for its name alone.
    let (log_of, writer) = open(data.path());
    record(&log_of, today(), 1);
    assert_eq!(log_of.prune(SystemTime::now(), "test").unwrap(), 0);
    writer.close();
    let data = one_day(3);
    let log = data.path().join("log");
    let notes = log.join("checkpoints");
    let file = checkpoint::files(&log).unwrap().pop().unwrap();
    fs::rename(&file, notes.join("2001-01-01")).unwrap();
    found(data.path(), "its first checkpoint is of another day");
    fs::rename(notes.join("2001-01-01"), &file).unwrap();
    for empty in ["9999-12-31.000000000004.jsonl", "checkpoints/9999-12-31"] {
        fs::write(log.join(empty), "").unwrap();
        found(data.path(), "it holds no");
        fs::remove_file(log.join(empty)).unwrap();
    }
    let text = fs::read_to_string(&file).unwrap();
    let signature = text.lines().last().unwrap();
    fs::write(&file, format!("{text}{signature}\n")).unwrap();
    found(data.path(), "it has another number of signatures than it should");
}

#[test]
fn a_segment_that_got_no_event_is_tidied_up() {
    for text in ["", "{\"half"] {
        let data = one_day(5);
        let empty = data.path().join("log/2030-01-01.000000000006.jsonl");
        fs::write(&empty, text).unwrap();
        let (log, writer) = open(data.path());
        record(&log, today(), 1);
        writer.close();
        assert!(!empty.exists());
        assert_eq!(verified(data.path()).findings, []);
    }
}

#[test]
fn hostile_files_cost_no_more_than_others() {
    let data = one_day(3);
    let log = data.path().join("log");
    for (name, text) in [
        ("2030-01-01.999999999999999999.jsonl", "x\n".to_owned()),
        ("2030-01-01.000000000000.jsonl", "x\n".to_owned()),
        ("2030-01-01.000000000004.jsonl", "x".repeat(3 << 20)),
        ("2030-01-01.000000000004.jsonl", "\n".repeat(70_000)),
    ] {
        fs::write(log.join(name), text).unwrap();
        assert!(!verified(data.path()).is_verified(), "{name}");
        assert!(Record::open(data.path(), "node-1").is_err(), "{name}");
        fs::remove_file(log.join(name)).unwrap();
    }
    let pipe = log.join("2030-01-01.000000000004.jsonl");
    rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
    found(data.path(), "it is no part of a record");
    assert!(refused(data.path()).contains("is no part of a record"));
}
