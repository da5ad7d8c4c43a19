//! What leaves the record so that a stranger can verify it by itself: one event (in the words of C2SP tlog-proof), or a pack of
//! events that follow one another.
//!
//! A pack is lines of text. The first is a JSON object: `interdict_pack` (1), `first` (the number of the first event), `count`,
//! `keys` (oldest first), `rotations` (the checkpoints by which one key named the next), `checkpoint` (the newest), and `proof`.
//! The others are the events, every byte as it was recorded. The proof has the hashes that events of the pack do not give, in
//! the order in which they are met on the way from the root down, left before right (RFC 6962, §2.1).

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Write};
use std::path::Path;

use base64::prelude::{BASE64_STANDARD, Engine};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tlog_tiles::{
    EMPTY_HASH, Hash, HashReader, check_record, node_hash, prove_record, record_hash, stored_hash_index,
};

use crate::checkpoint::{self, Reason, Signed};
use crate::keys;
use crate::segment::{self, read_line};
use crate::tree::Tiles;
use crate::verify::{Finding, Report, Trust};

const PROOF: &str = "c2sp.org/tlog-proof@v1";
/// Bytes of a proof, or of the first line of a pack: with a checkpoint, keys and at most 128 hashes it has far fewer.
const HEAD_LIMIT_BYTES: u64 = 4 << 20;

/// The first line of a pack.
#[derive(Serialize, Deserialize)]
struct Head {
    interdict_pack: u32,
    first: u64,
    count: u64,
    keys: Vec<String>,
    rotations: Vec<String>,
    checkpoint: String,
    proof: Vec<String>,
}

/// What a record is proven by.
struct Sealed {
    keys: Vec<String>,
    rotations: Vec<Signed>,
    newest: Signed,
    tiles: Tiles,
}

impl Sealed {
    fn open(data: &Path) -> io::Result<Self> {
        let log = data.join("log");
        let (mut rotations, mut newest) = (Vec::new(), None);
        for path in checkpoint::files(&log)? {
            let text = checkpoint::read_file(&path)?;
            for signed in checkpoint::notes(&text).0.into_iter().filter_map(Signed::read) {
                if let Reason::Key(_) = signed.checkpoint.reason {
                    rotations.push(signed.clone());
                }
                newest = Some(signed);
            }
        }
        let newest = newest.ok_or_else(|| strange("the record has no checkpoint yet"))?;
        Ok(Self { keys: keys::public_keys(data)?, rotations, newest, tiles: Tiles::open(&log, false)? })
    }

    const fn size(&self) -> u64 {
        self.newest.checkpoint.size
    }
}

fn strange(what: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.into())
}

/// The proof that an event is on record, by its number: its line, and the way from there to the newest checkpoint.
///
/// # Errors
/// When there is no such event, no checkpoint covers it yet, or the record cannot be read.
pub fn prove(data: &Path, seq: u64) -> io::Result<String> {
    let sealed = Sealed::open(data)?;
    if seq == 0 || seq > sealed.size() {
        return Err(strange(format!(
            "the newest checkpoint covers events 1 to {}; of a running agent the next one comes within a minute",
            sealed.size()
        )));
    }
    let line = event(data, seq)?;
    let proof =
        prove_record(sealed.size(), seq - 1, &sealed.tiles).map_err(|error| strange(error.to_string()))?;
    let hashes: String = proof.iter().map(|hash| format!("{hash}\n")).collect();
    let line = BASE64_STANDARD.encode(line);
    Ok(format!("{PROOF}\nextra {line}\nindex {}\n{hashes}\n{}", seq - 1, sealed.newest.note))
}

/// The line of an event, without its end.
fn event(data: &Path, seq: u64) -> io::Result<Vec<u8>> {
    let segments = segment::list(&data.join("log"))?.segments;
    let gone = || strange(format!("event {seq} is not on record any more"));
    let segment = segments.iter().rfind(|segment| segment.first <= seq).ok_or_else(gone)?;
    let (mut lines, mut line) = (segment.open()?, Vec::new());
    for _ in segment.first..=seq {
        if !read_line(&mut *lines, &mut line)? {
            return Err(gone());
        }
    }
    line.pop();
    Ok(line)
}

/// What of a record goes into a pack.
#[derive(Clone, Copy, Debug, Default)]
pub struct Range {
    /// Events from this time on.
    pub from: Option<Timestamp>,
    /// Events before this time.
    pub to: Option<Timestamp>,
}

/// Writes a pack of the events of a time, as far as the newest checkpoint covers them. Returns the numbers of the first and the
/// last.
///
/// # Errors
/// When there are none, or the record cannot be read.
pub fn export(data: &Path, range: Range, out: &mut dyn Write) -> io::Result<[u64; 2]> {
    let sealed = Sealed::open(data)?;
    let [first, last] =
        numbers(data, range, sealed.size())?.ok_or_else(|| strange("no sealed event is of that time"))?;
    let mut proof = Vec::new();
    cover(0, sealed.size(), [first - 1, last], &sealed.tiles, &mut proof)?;
    let head = Head {
        interdict_pack: 1,
        first,
        count: last + 1 - first,
        keys: sealed.keys,
        rotations: sealed.rotations.into_iter().map(|signed| signed.note).collect(),
        checkpoint: sealed.newest.note,
        proof: proof.iter().map(Hash::to_string).collect(),
    };
    serde_json::to_writer(&mut *out, &head)?;
    out.write_all(b"\n")?;
    let mut next = first;
    for segment in segment::list(&data.join("log"))?.segments {
        let (mut lines, mut line) = (segment.open()?, Vec::new());
        for seq in segment.first..=last {
            if !read_line(&mut *lines, &mut line)? {
                break;
            }
            if seq == next {
                out.write_all(&line)?;
                next += 1;
            }
        }
    }
    out.flush()?;
    match next > last {
        true => Ok([first, last]),
        false => Err(strange(format!("event {next} is not on record any more"))),
    }
}

/// The numbers of the first and the last event of a time. The clock may have been set, so that others lie between.
fn numbers(data: &Path, range: Range, sealed: u64) -> io::Result<Option<[u64; 2]>> {
    let mut numbers: Option<[u64; 2]> = None;
    let is_within =
        |time: Timestamp| range.from.is_none_or(|from| time >= from) && range.to.is_none_or(|to| time < to);
    for segment in segment::list(&data.join("log"))?.segments {
        let (mut lines, mut line) = (segment.open()?, Vec::new());
        for seq in segment.first..=sealed {
            if !read_line(&mut *lines, &mut line)? {
                break;
            }
            if time_of(&line).is_some_and(is_within) {
                numbers = Some([numbers.map_or(seq, |[first, _]| first), seq]);
            }
        }
    }
    Ok(numbers)
}

/// The time in an event's line, where the writer puts it.
pub(crate) fn time_of(line: &[u8]) -> Option<Timestamp> {
    let at = memchr::memmem::find(line, br#","time":""#)? + 9;
    std::str::from_utf8(line.get(at..at + 27)?).ok()?.parse().ok()
}

/// The hashes that the leaves of a range do not give, of those under which the leaves from `lo` to `hi` are.
fn cover(lo: u64, hi: u64, range: [u64; 2], tiles: &Tiles, proof: &mut Vec<Hash>) -> io::Result<()> {
    let [from, to] = range;
    if from <= lo && hi <= to {
        return Ok(());
    }
    if hi <= from || to <= lo {
        proof.push(subtree(lo, hi, tiles)?);
        return Ok(());
    }
    let middle = lo + split(hi - lo);
    cover(lo, middle, range, tiles, proof)?;
    cover(middle, hi, range, tiles, proof)
}

/// How many of so many leaves are on the left: the largest power of two below.
const fn split(leaves: u64) -> u64 {
    1 << (leaves - 1).ilog2()
}

fn subtree(lo: u64, hi: u64, tiles: &Tiles) -> io::Result<Hash> {
    let leaves = hi - lo;
    if leaves.is_power_of_two() {
        let level = leaves.ilog2() as u8;
        let hashes = tiles.read_hashes(&[stored_hash_index(level, lo >> level)]);
        return hashes.map(|hashes| hashes[0]).map_err(|error| strange(error.to_string()));
    }
    let middle = lo + split(leaves);
    Ok(node_hash(subtree(lo, middle, tiles)?, subtree(middle, hi, tiles)?))
}

/// The root over leaves from `lo` to `hi`: some as they come, the rest from a proof.
fn root(
    lo: u64,
    hi: u64,
    range: [u64; 2],
    leaf: &mut dyn FnMut() -> io::Result<Hash>,
    proof: &mut VecDeque<Hash>,
) -> io::Result<Hash> {
    let [from, to] = range;
    if hi <= from || to <= lo {
        return proof.pop_front().ok_or_else(|| strange("the proof has too few hashes"));
    }
    if hi - lo == 1 {
        return leaf();
    }
    let middle = lo + split(hi - lo);
    let left = root(lo, middle, range, leaf, proof)?;
    Ok(node_hash(left, root(middle, hi, range, leaf, proof)?))
}

/// What was proven.
#[derive(Clone, Debug, Serialize)]
pub struct Proven {
    /// Numbers of the first event and the last.
    pub events: [u64; 2],
    /// The event, of a proof of one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub event: Option<Value>,
    /// As of a whole record.
    #[serde(flatten)]
    pub report: Report,
}

/// Verifies a pack, or the proof of an event, by what is in it and what is known from elsewhere.
///
/// # Errors
/// When it is neither, or cannot be read.
pub fn verify_file(path: &Path, trust: &Trust) -> io::Result<Proven> {
    let mut lines = BufReader::with_capacity(1 << 17, File::open(path)?);
    let mut head = Vec::new();
    io::Read::take(&mut lines, HEAD_LIMIT_BYTES).read_until(b'\n', &mut head)?;
    let name = path.display().to_string();
    if head == format!("{PROOF}\n").as_bytes() {
        let mut rest = String::new();
        io::Read::read_to_string(&mut io::Read::take(lines, HEAD_LIMIT_BYTES), &mut rest)
            .map_err(|_| strange("it is no text"))?;
        return verify_event(&rest, name, trust);
    }
    let head = serde_json::from_slice::<Head>(&head).ok().filter(|head| head.interdict_pack == 1);
    let head = head.ok_or_else(|| strange("it is neither a pack of events nor the proof of one"))?;
    verify_pack(head, &mut lines, name, trust)
}

fn verify_event(text: &str, file: String, trust: &Trust) -> io::Result<Proven> {
    let broken = |what: &str| strange(format!("it is no whole proof: {what}"));
    let (proof, note) = text.split_once("\n\n").ok_or_else(|| broken("there is no checkpoint"))?;
    let mut lines = proof.lines();
    let event = lines
        .next()
        .and_then(|line| line.strip_prefix("extra "))
        .ok_or_else(|| broken("there is no event"))?;
    let event = BASE64_STANDARD.decode(event).map_err(|_| broken("the event is not in base64"))?;
    let index = lines.next().and_then(|line| line.strip_prefix("index ")?.parse().ok());
    let index: u64 = index.ok_or_else(|| broken("there is no index"))?;
    let hashes: Result<Vec<Hash>, _> = lines.map(Hash::parse_hash).collect();
    let hashes = hashes.map_err(|_| broken("a line is no hash"))?;
    let signed = Signed::read(note).ok_or_else(|| broken("its checkpoint cannot be read"))?;
    let mut proven = Proven::of(&signed, [index.saturating_add(1); 2]);
    proven.is_signed(&signed, &[], &[], &file, trust);
    let (size, top) = (signed.checkpoint.size, signed.checkpoint.root);
    if index >= size || check_record(&hashes, size, top, index, record_hash(&event)).is_err() {
        proven.find(&file, "the event is not in the record of that checkpoint");
    }
    proven.event = serde_json::from_slice(&event).ok();
    Ok(proven)
}

fn verify_pack(head: Head, lines: &mut dyn BufRead, file: String, trust: &Trust) -> io::Result<Proven> {
    let Head { first, count, keys, rotations, checkpoint, proof, .. } = head;
    let signed = Signed::read(&checkpoint).ok_or_else(|| strange("its checkpoint cannot be read"))?;
    let rotations: Option<Vec<Signed>> = rotations.iter().map(|note| Signed::read(note)).collect();
    let rotations = rotations.ok_or_else(|| strange("one of its changes of keys cannot be read"))?;
    let hashes: Result<VecDeque<Hash>, _> = proof.iter().map(|hash| Hash::parse_hash(hash)).collect();
    let mut hashes = hashes.map_err(|_| strange("its proof has something that is no hash"))?;
    let size = signed.checkpoint.size;
    let end = first.checked_add(count).filter(|&end| first > 0 && count > 0 && end - 1 <= size);
    let end = end.ok_or_else(|| strange("its numbers are not of the record that its checkpoint is of"))?;
    let mut proven = Proven::of(&signed, [first, end - 1]);
    proven.is_signed(&signed, &keys, &rotations, &file, trust);
    let (mut line, mut read) = (Vec::new(), 0);
    let mut leaf = || {
        read += 1;
        match read_line(lines, &mut line)? {
            true => Ok(record_hash(&line[..line.len() - 1])),
            false => Err(strange(format!("event {} is missing", first + read - 1))),
        }
    };
    let found = match size {
        0 => Ok(EMPTY_HASH),
        _ => root(0, size, [first - 1, end - 1], &mut leaf, &mut hashes),
    };
    match found {
        Ok(found) if found == signed.checkpoint.root && hashes.is_empty() => {}
        Ok(_) => proven.find(&file, "its events are not those of the record that its checkpoint is of"),
        Err(error) if error.kind() == io::ErrorKind::InvalidData => proven.find(&file, &error.to_string()),
        Err(error) => return Err(error),
    }
    if !lines.fill_buf()?.is_empty() {
        proven.find(&file, "something follows its last event");
    }
    Ok(proven)
}

impl Proven {
    fn of(signed: &Signed, events: [u64; 2]) -> Self {
        let checkpoint = &signed.checkpoint;
        let report = Report {
            origin: Some(checkpoint.origin.clone()),
            events: checkpoint.size,
            sealed: checkpoint.size,
            root: Some(checkpoint.root.to_string()),
            checkpoints: 1,
            period: Some([checkpoint.time.clone(), checkpoint.time.clone()]),
            ..Report::default()
        };
        Self { events, event: None, report }
    }

    /// Follows the keys from the first one that is believed to the checkpoint.
    fn is_signed(
        &mut self,
        signed: &Signed,
        keys: &[String],
        rotations: &[Signed],
        file: &str,
        trust: &Trust,
    ) {
        let Some(mut key) = trust.key.as_ref().or(keys.first()).cloned() else {
            return self.find(file, "it brings no key with it; name one with --key");
        };
        self.report.keys.push(key.clone());
        for rotation in rotations {
            if let Reason::Key(next) = &rotation.checkpoint.reason
                && rotation.is_signed_by(&key)
                && rotation.is_signed_by(next)
            {
                key.clone_from(next);
                self.report.keys.push(key.clone());
            }
        }
        if !signed.is_signed_by(&key) {
            let what = format!(
                "its checkpoint is not signed by {key}, nor by a key that this one is known to have named"
            );
            self.find(file, &what);
        }
        trust.doubts().for_each(|doubt| self.find(file, &doubt));
        if trust.checkpoints.iter().any(|known| known.checkpoint.origin != signed.checkpoint.origin) {
            self.find(file, "a checkpoint that was named is of another record");
        }
        let sizes = |known: &Signed| known.checkpoint.size == signed.checkpoint.size;
        if !trust.checkpoints.is_empty() && !trust.checkpoints.iter().any(sizes) {
            self.find(file, "none of the checkpoints that were named covers as many events: only the whole record can be compared");
        }
        for known in &trust.checkpoints {
            if known.checkpoint.size == signed.checkpoint.size
                && known.checkpoint.root != signed.checkpoint.root
            {
                self.find(
                    file,
                    "a checkpoint that was named has another root over as many events: there are two records",
                );
            }
        }
    }

    fn find(&mut self, file: &str, what: &str) {
        self.report.findings.push(Finding { file: file.to_owned(), line: None, what: what.to_owned() });
    }
}
