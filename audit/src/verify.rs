//! Whether a record is what was written: every byte of every file in its folder, against the signatures of its checkpoints.
//!
//! What is known afterwards, and what is not: nobody without the key changed, removed, added or moved anything that the newest
//! checkpoint covers. Who has the key could write another record; that shows only against a copy of a checkpoint that was kept
//! elsewhere ([`Trust::checkpoints`]).

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::Path;

use serde::Serialize;
use serde_json::Value;
use tlog_tiles::{Hash, record_hash};

use crate::checkpoint::{self, Checkpoint, Reason, Signed};
use crate::clock;
use crate::keys;
use crate::pack::digest_of;
use crate::proof::time_of;
use crate::record::is_in_use;
use crate::segment::{self, EVENTS_LIMIT, Listing, Segment, read_line};
use crate::tree::{Edge, TILE_WIDTH, Tiles, hashes_in};
use crate::witness::is_cosigned;

/// Findings that are told one by one; the rest is counted.
const FINDINGS_LIMIT: usize = 100;
/// Findings about one file, likewise.
const FINDINGS_OF_FILE: usize = 5;
/// A minute between two checkpoints may take this long, in seconds.
const SILENCE_SECS: f64 = 150.0;

/// What the one who verifies knows from elsewhere.
#[derive(Clone, Debug, Default)]
pub struct Trust {
    /// A public key of the record. Without one, the first in `keys/log.pub` is believed, which proves less.
    pub key: Option<String>,
    /// Checkpoints that were kept elsewhere.
    pub checkpoints: Vec<Signed>,
    /// The public key of a witness that signed them too.
    pub witness: Option<String>,
}

impl Trust {
    /// What speaks against the checkpoints themselves.
    pub(crate) fn doubts(&self) -> impl Iterator<Item = String> {
        let is_doubtful = |known: &&Signed| self.witness.as_ref().is_some_and(|key| !is_cosigned(known, key));
        self.checkpoints.iter().filter(is_doubtful).map(|known| {
            format!("the checkpoint of {} that was named is not signed by the witness", known.checkpoint.time)
        })
    }
}

/// What was found.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Report {
    /// Whose record it is.
    pub origin: Option<String>,
    /// The keys that signed it, oldest first.
    pub keys: Vec<String>,
    /// How many events there are, those that were removed included.
    pub events: u64,
    /// How many of them the newest checkpoint covers.
    pub sealed: u64,
    /// The root of the tree over those, in base64.
    pub root: Option<String>,
    /// How many checkpoints there are.
    pub checkpoints: u64,
    /// When the first and the last of them were made.
    pub period: Option<[String; 2]>,
    /// Events that were removed by order, first and last of each time.
    pub pruned: Vec<[u64; 2]>,
    /// Events that were signed only when an agent started again, first and last of each time: what the one before, which did not
    /// end in order, had written since its last checkpoint. Whoever could write the files could write these.
    pub late: Vec<[u64; 2]>,
    /// Events of which the record says that they were lost.
    pub lost: u64,
    /// When nobody sealed.
    pub gaps: Vec<Gap>,
    /// How often the clock was set.
    pub clock_jumps: u64,
    /// Whatever is not as it should be. A record is verified only without any.
    pub findings: Vec<Finding>,
    /// How many more there are.
    pub more_findings: u64,
}

/// A time without checkpoints.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Gap {
    /// The last checkpoint before.
    pub from: String,
    /// The first one after.
    pub to: String,
    /// `stopped`: the agent ended in order, and started again; `killed`: it started again without having ended; `silent`: it
    /// ran.
    pub why: &'static str,
}

/// Something that is not as it should be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// The file, below the folder of the record.
    pub file: String,
    /// The line in it, from 1 on, if it has lines.
    pub line: Option<u64>,
    /// What is not as it should be.
    pub what: String,
}

/// Verifies the record in `data/log`.
///
/// # Errors
/// When there is none, or a file cannot be read.
pub fn verify(data: &Path, trust: &Trust) -> io::Result<Report> {
    let mut tries = 0;
    loop {
        match verify_once(data, trust) {
            // Files of a live record may go while it is read.
            Err(error)
                if error.kind() == io::ErrorKind::NotFound && tries < TRIES && data.join("log").is_dir() =>
            {
                tries += 1
            }
            outcome => return outcome,
        }
    }
}

/// How often it is begun anew where files go meanwhile.
const TRIES: usize = 5;

fn verify_once(data: &Path, trust: &Trust) -> io::Result<Report> {
    let folder = data.join("log");
    // While an agent writes, what comes behind the newest checkpoint is not sealed yet, and may be half there.
    let is_live = is_in_use(data);
    let mut report = Report::default();
    let notes = read_notes(&folder, is_live, &mut report)?;
    let public = keys::public_keys(data).unwrap_or_default();
    follow_keys(&notes, &public, trust, &mut report);
    find_known(data, &notes, trust, &mut report)?;
    let tiles = Tiles::open(&folder, false)?;
    let held: Vec<u64> = (0..Tiles::names().count()).map(|level| tiles.held(level)).collect();
    let listing = segment::list(&folder)?;
    report.look_at_strangers(&folder, &listing, is_live)?;
    let mut walk = Walk::new(&notes, trust, &tiles, held, report);
    walk.all(&listing.segments, is_live)?;
    let Walk { mut report, admin, seen, .. } = walk;
    report.look_at_admin(&listing.segments, &admin, &seen)?;
    Ok(report)
}

/// A checkpoint, and where it stands.
struct Placed {
    signed: Signed,
    file: String,
    line: u64,
}

fn read_notes(folder: &Path, is_live: bool, report: &mut Report) -> io::Result<Vec<Placed>> {
    let mut placed = Vec::new();
    let files = checkpoint::files(folder)?;
    for (number, path) in files.iter().enumerate() {
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let file = format!("checkpoints/{name}");
        if !checkpoint::is_day(&name) || !fs::symlink_metadata(path)?.is_file() {
            report.find(&file, None, "it is no part of a record");
            continue;
        }
        let text = match checkpoint::read_file(path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                report.find(&file, None, &error.to_string());
                continue;
            }
            Err(error) => return Err(error),
        };
        let (notes, rest) = checkpoint::notes(&text);
        if notes.is_empty() && (rest.is_empty() || !is_live) {
            report.find(&file, None, "it holds no checkpoint");
        }
        let mut line = 1;
        for (place, note) in notes.into_iter().enumerate() {
            match Signed::read(note) {
                Some(signed) if place == 0 && !signed.checkpoint.time.starts_with(&name) => {
                    report.find(&file, Some(line), "its first checkpoint is of another day");
                    placed.push(Placed { signed, file: file.clone(), line });
                }
                Some(signed) => placed.push(Placed { signed, file: file.clone(), line }),
                None => report.find(&file, Some(line), "it is no checkpoint"),
            }
            line += note.lines().count() as u64;
        }
        // The last one may be on its way.
        if !(rest.is_empty() || is_live && number + 1 == files.len()) {
            report.find(&file, Some(line), "a checkpoint is not whole");
        }
    }
    Ok(placed)
}

/// Looks for checkpoints that are known from elsewhere.
fn find_known(data: &Path, notes: &[Placed], trust: &Trust, report: &mut Report) -> io::Result<()> {
    // Read before they are, so that a live record has it.
    if let Ok(Some(newest)) = keys::newest(&data.join("keys"))
        && !notes.iter().rev().any(|placed| placed.signed.digest() == newest)
        && !is_in_use(data)
    {
        report.find(
            "checkpoints",
            None,
            "keys/newest knows of a checkpoint that is not there: the record was cut",
        );
    }
    let sealed = notes.iter().map(|placed| placed.signed.checkpoint.size).max().unwrap_or(0);
    trust.doubts().for_each(|doubt| report.find("", None, &doubt));
    for known in &trust.checkpoints {
        let Checkpoint { origin, size, time, .. } = &known.checkpoint;
        if report.origin.as_ref() != Some(origin) {
            report.find("", None, &format!("a checkpoint that was named is of another record, {origin}"));
        } else if !notes.iter().any(|placed| placed.signed.checkpoint == known.checkpoint) {
            let what = match *size > sealed {
                true => format!(
                    "the checkpoint of {time} that was named covers {size} events: the record was cut"
                ),
                false => format!(
                    "the checkpoint of {time} that was named is not in this record: there are two, or it was cut"
                ),
            };
            report.find("", None, &what);
        }
    }
    Ok(())
}

/// Follows the keys from checkpoint to checkpoint, and what else one says of the one before.
fn follow_keys(notes: &[Placed], public: &[String], trust: &Trust, report: &mut Report) {
    let Some(first) = notes.first() else {
        return report.find("checkpoints", None, "there is no checkpoint: nothing is signed");
    };
    let mut known = trust.key.iter().chain(public);
    let Some(mut key) = known.find(|key| first.signed.is_signed_by(key)).cloned() else {
        let what = match public {
            [] => "keys/log.pub names no key that signed it; name one with --key",
            _ => "it is not signed by the record's key",
        };
        return report.find(&first.file, Some(first.line), what);
    };
    report.keys.push(key.clone());
    report.origin = Some(first.signed.checkpoint.origin.clone());
    let mut before: Option<&Placed> = None;
    for placed in notes {
        let Placed { signed, file, line } = placed;
        let (checkpoint, line) = (&signed.checkpoint, Some(*line));
        if !signed.is_signed_by(&key) {
            report.find(file, line, "it is not signed by the record's key");
        }
        let signers = if let Reason::Key(_) = checkpoint.reason { 2 } else { 1 };
        if signed.signatures() != signers {
            report.find(file, line, "it has another number of signatures than it should");
        }
        if let Reason::Key(next) = &checkpoint.reason {
            match signed.is_signed_by(next) {
                true => {
                    key.clone_from(next);
                    report.keys.push(key.clone());
                }
                false => report.find(file, line, "it names a new key, which did not sign it"),
            }
        }
        let previous = before.map_or_else(|| checkpoint::digest(b""), |before| before.signed.digest());
        if checkpoint.previous != previous {
            report.find(file, line, "the checkpoint before is not the one that it names");
        }
        if let Some(before) = before.map(|before| &before.signed.checkpoint) {
            if checkpoint.size < before.size {
                report.find(file, line, "it covers fewer events than the one before");
            }
            if before.reason == Reason::Stop && checkpoint.size != before.size {
                report.find(file, line, "events were added after the agent had ended in order");
            }
            if checkpoint.reason == Reason::Start && checkpoint.size > before.size {
                report.late.push([before.size + 1, checkpoint.size]);
            }
            if checkpoint.origin != before.origin {
                report.find(file, line, "it is of another record");
            }
            report.gaps.extend(gap(before, checkpoint));
        }
        before = Some(placed);
    }
    if let Some(named) = trust.key.as_ref().filter(|named| !report.keys.contains(named)) {
        report.find("checkpoints", None, &format!("they are signed by other keys than {named}"));
    }
    report.checkpoints = notes.len() as u64;
    let last = notes.last().unwrap_or(first);
    report.sealed = last.signed.checkpoint.size;
    report.root = Some(last.signed.checkpoint.root.to_string());
    report.period = Some([first, last].map(|placed| placed.signed.checkpoint.time.clone()));
}

fn gap(before: &Checkpoint, after: &Checkpoint) -> Option<Gap> {
    let seconds = |time: &str| time.parse::<jiff::Timestamp>().map(|time| time.as_microsecond() as f64 / 1e6);
    let apart = seconds(&after.time).ok()? - seconds(&before.time).ok()?;
    let why = match (&before.reason, &after.reason) {
        (Reason::Stop, _) => "stopped",
        (_, Reason::Start) => "killed",
        _ if apart.abs() > SILENCE_SECS => "silent",
        _ => return None,
    };
    Some(Gap { from: before.time.clone(), to: after.time.clone(), why })
}

impl Report {
    /// Whether nothing was found.
    pub fn is_verified(&self) -> bool {
        self.findings.is_empty()
    }

    fn find(&mut self, file: &str, line: Option<u64>, what: &str) {
        let of_file = self.findings.iter().filter(|finding| finding.file == file).count();
        match of_file < FINDINGS_OF_FILE && self.findings.len() < FINDINGS_LIMIT {
            true => self.findings.push(Finding { file: file.to_owned(), line, what: what.to_owned() }),
            false => self.more_findings += 1,
        }
    }

    fn look_at_strangers(&mut self, folder: &Path, listing: &Listing, is_live: bool) -> io::Result<()> {
        for name in &listing.strangers {
            match name.as_str() {
                "tile" | "checkpoints" if folder.join(name).is_dir() => {}
                _ => self.find(name, None, "it is no part of a record"),
            }
        }
        if folder.join("tile").is_dir() {
            for entry in fs::read_dir(folder.join("tile"))? {
                let name = entry?.file_name().to_string_lossy().into_owned();
                if !Tiles::names().any(|level| level == name) {
                    self.find(&format!("tile/{name}"), None, "it is no part of a record");
                }
            }
        }
        // While a segment is being compressed it is there twice.
        for double in listing.doubles.iter().filter(|_| !is_live) {
            let name = double.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
            self.find(&name, None, "the segment is there twice; the agent tidies up at its next start");
        }
        Ok(())
    }

    /// What the record says of itself.
    fn look_at_admin(&mut self, segments: &[Segment], admin: &[Value], seen: &[[u64; 2]]) -> io::Result<()> {
        let mut packed: BTreeMap<&str, &Value> = BTreeMap::new();
        // What nobody signed proves nothing, and who removes events has that signed before he does.
        let is_signed = |event: &&Value| event["seq"].as_u64().is_some_and(|seq| seq <= self.sealed);
        let late = self.late.clone();
        let is_late = |event: &Value| {
            late.iter()
                .any(|[first, last]| event["seq"].as_u64().is_some_and(|seq| (*first..=*last).contains(&seq)))
        };
        for event in admin.iter().filter(is_signed).collect::<Vec<_>>() {
            let detail = &event["detail"];
            match event["act"].as_str() {
                Some("log.pruned") if is_late(event) => {}
                Some("segment.packed") => _ = detail["file"].as_str().map(|file| packed.insert(file, detail)),
                Some("log.pruned") => {
                    self.pruned
                        .extend(detail["first"].as_u64().zip(detail["last"].as_u64()).map(|(a, b)| [a, b]));
                }
                Some("events.lost") => self.lost += detail["count"].as_u64().unwrap_or(0),
                Some("clock.jumped") => self.clock_jumps += 1,
                _ => {}
            }
        }
        for segment in segments.iter().filter(|segment| segment.is_packed) {
            let name = segment.name();
            let (sha256, _) = digest_of(&segment.path)?;
            match packed.get(name.as_str()).map(|detail| &detail["sha256"]) {
                Some(said) if *said == sha256 => {}
                Some(_) => {
                    self.find(&name, None, "it is not the compressed file of which the record says the hash")
                }
                None => self.find(&name, None, "the record does not say that this segment was compressed"),
            }
        }
        // What is not there must have been removed by order.
        let mut next = 1;
        for [first, last] in seen {
            for [from, to] in self.not_pruned(next, first - 1) {
                let what = format!(
                    "events {from} to {to} are missing, and the record does not say that they were removed"
                );
                self.find("", None, &what);
            }
            next = last + 1;
        }
        if next <= self.sealed {
            let what = format!("events {next} to {} are missing, which a checkpoint covers", self.sealed);
            self.find("", None, &what);
        }
        Ok(())
    }
}

impl Report {
    /// What of these events was not removed by order.
    fn not_pruned(&self, mut from: u64, to: u64) -> Vec<[u64; 2]> {
        let mut pruned = self.pruned.clone();
        pruned.sort_unstable();
        let mut left = Vec::new();
        for [first, last] in pruned {
            if from <= to && first > from {
                left.push([from, to.min(first - 1)]);
            }
            from = from.max(last.saturating_add(1));
        }
        if from <= to {
            left.push([from, to]);
        }
        left
    }
}

/// A root that the tree must have at a size.
struct Mark {
    size: u64,
    root: Hash,
    file: String,
    line: Option<u64>,
}

/// The way over all events and hashes, from the first to the last.
struct Walk<'t> {
    tiles: &'t Tiles,
    /// Hashes on disk in each level, as of the beginning.
    held: Vec<u64>,
    /// The tree over the events.
    events: Edge,
    /// The tree over the hashes in `tile/0`.
    hashes: Edge,
    /// Hashes of a level, a tile of them, that are being compared.
    compared: Vec<Vec<Hash>>,
    marks: std::vec::IntoIter<Mark>,
    next_mark: Option<Mark>,
    /// Events whose hash is not the one in `tile/0`, since the last mark.
    differing: Vec<(String, u64, u64)>,
    /// Neither tree has had the right root since.
    is_broken: bool,
    last_good: u64,
    admin: Vec<Value>,
    /// Numbers of the events that are there, first and last of each segment.
    seen: Vec<[u64; 2]>,
    report: Report,
}

/// What was read of a segment.
#[derive(Default)]
struct Read {
    leaves: Vec<Hash>,
    admin: Vec<Value>,
    /// Lines whose number is another one.
    misnumbered: Vec<u64>,
    /// The day of its first event.
    day: Option<String>,
    /// Bytes behind the last whole line.
    torn_bytes: usize,
    /// It could not be read to its end.
    error: Option<String>,
}

impl<'t> Walk<'t> {
    fn new(notes: &[Placed], trust: &Trust, tiles: &'t Tiles, held: Vec<u64>, report: Report) -> Self {
        let own = notes.iter().map(|Placed { signed, file, line }| Mark {
            size: signed.checkpoint.size,
            root: signed.checkpoint.root,
            file: file.clone(),
            line: Some(*line),
        });
        let others = trust.checkpoints.iter().map(|Signed { checkpoint, .. }| Mark {
            size: checkpoint.size,
            root: checkpoint.root,
            file: String::new(),
            line: None,
        });
        let mut marks: Vec<Mark> = own.chain(others).collect();
        marks.sort_by_key(|mark| mark.size);
        let mut marks = marks.into_iter();
        Self {
            tiles,
            compared: vec![Vec::new(); held.len()],
            held,
            events: Edge::default(),
            hashes: Edge::default(),
            next_mark: marks.next(),
            marks,
            differing: Vec::new(),
            is_broken: false,
            last_good: 0,
            admin: Vec::new(),
            seen: Vec::new(),
            report,
        }
    }

    fn all(&mut self, segments: &[Segment], is_live: bool) -> io::Result<()> {
        self.check_marks();
        let workers = std::thread::available_parallelism().map_or(1, usize::from);
        let mut nexts = segments.iter().skip(1).map(|next| Some(next.first)).chain([None]);
        for some in segments.chunks(workers) {
            let reads: Vec<io::Result<Read>> = std::thread::scope(|scope| {
                let readers: Vec<_> = some.iter().map(|segment| scope.spawn(|| read(segment))).collect();
                readers
                    .into_iter()
                    .map(|reader| reader.join().unwrap_or_else(|_| Err(io::Error::other("a reader failed"))))
                    .collect()
            });
            for (segment, read) in some.iter().zip(reads) {
                self.segment(segment, read?, nexts.next().flatten(), is_live)?;
            }
        }
        // What was removed at the end is known by its hashes only.
        self.missing(self.held.first().copied().unwrap_or(0))?;
        let events = self.events.size();
        self.report.events = events;
        if let Some(mark) = self.next_mark.take() {
            let what = match mark.line {
                Some(_) => format!("it covers {} events, and there are {events}", mark.size),
                None => format!(
                    "a checkpoint that was named covers {} events, and there are {events}: the record was cut",
                    mark.size
                ),
            };
            self.report.find(&mark.file, mark.line, &what);
        }
        if !self.differing.is_empty() {
            self.blame(Side::Unknown);
        }
        let sealed = self.report.sealed;
        if events > sealed && !is_live {
            let what = format!(
                "{} events after the newest checkpoint are not signed; the agent does that at its next start",
                events - sealed
            );
            self.report.find("", None, &what);
        }
        for (level, held) in self.held.clone().into_iter().enumerate() {
            let (least, most) = (hashes_in(level, sealed), hashes_in(level, events));
            if held < least || held > most {
                let what = format!("it has {held} hashes, and the record between {least} and {most}");
                self.report.find(&format!("tile/{level}"), None, &what);
            }
            let path = self.tiles.path(level);
            if fs::metadata(&path).is_ok_and(|file| file.len() % 32 != 0) && !is_live {
                self.report.find(&format!("tile/{level}"), None, "it does not end with a whole hash");
            }
        }
        Ok(())
    }

    fn segment(&mut self, segment: &Segment, read: Read, next: Option<u64>, is_live: bool) -> io::Result<()> {
        let name = segment.name();
        let Read { leaves, admin, misnumbered, torn_bytes, error, day } = read;
        if let Some(error) = error {
            self.report.find(&name, Some(leaves.len() as u64 + 1), &error);
        }
        for line in misnumbered {
            let what = format!("it is not event {}", segment.first + line - 1);
            self.report.find(&name, Some(line), &what);
        }
        if torn_bytes > 0 && !(is_live && next.is_none()) {
            self.report.find(&name, Some(leaves.len() as u64 + 1), "half a line");
        }
        if segment.first <= self.events.size() {
            let what = format!(
                "its name says that it begins with event {}, which is in the segment before",
                segment.first
            );
            self.report.find(&name, None, &what);
            return Ok(());
        }
        let known = self.held.first().copied().unwrap_or(0).max(self.report.sealed).max(self.events.size());
        if segment.first > known + 1 {
            let what =
                format!("its name says that it begins with event {}, and {known} are known", segment.first);
            self.report.find(&name, None, &what);
            return Ok(());
        }
        if leaves.is_empty() && !(is_live && next.is_none()) {
            self.report.find(&name, None, "it holds no event");
        }
        if day.is_some_and(|day| day > segment.day) {
            self.report.find(&name, None, "its events are of a later day than its name says");
        }
        self.missing(segment.first - 1)?;
        let room = next.map_or(u64::MAX, |next| next.saturating_sub(segment.first));
        if leaves.len() as u64 > room {
            let what = format!(
                "it has {} events, and the next segment begins with event {}",
                leaves.len(),
                segment.first + room
            );
            self.report.find(&name, Some(room + 1), &what);
        }
        let count = (leaves.len() as u64).min(room);
        if count > 0 {
            self.seen.push([segment.first, segment.first + count - 1]);
        }
        self.admin.extend(admin);
        let known = self.known_from(segment.first, count)?;
        for (number, leaf) in leaves.into_iter().take(count as usize).enumerate() {
            let hash = known.get(number).copied();
            if hash.is_some_and(|hash| hash != leaf) && self.differing.len() < FINDINGS_LIMIT {
                self.differing.push((name.clone(), number as u64 + 1, segment.first + number as u64));
            }
            self.push(leaf, hash.unwrap_or(leaf));
        }
        Ok(())
    }

    /// Hashes in `tile/0` of events from one on, as many as are there.
    fn known_from(&self, first: u64, count: u64) -> io::Result<Vec<Hash>> {
        let there = self.held.first().copied().unwrap_or(0).saturating_sub(first - 1).min(count);
        self.tiles.read(0, first - 1, there)
    }

    /// Goes on to an event over such as are not there, by their hashes.
    fn missing(&mut self, until: u64) -> io::Result<()> {
        while self.events.size() < until {
            let first = self.events.size() + 1;
            let known = self.known_from(first, (until + 1 - first).min(TILE_WIDTH * TILE_WIDTH))?;
            if known.is_empty() {
                let what = format!("neither events {first} to {until} are there nor their hashes");
                self.report.find("tile/0", None, &what);
                self.is_broken = true;
                // So that what follows has its number.
                (first..=until).for_each(|_| self.push(Hash([0; 32]), Hash([0; 32])));
                break;
            }
            known.into_iter().for_each(|hash| self.push(hash, hash));
        }
        Ok(())
    }

    fn push(&mut self, event: Hash, hash: Hash) {
        self.events.push(event, |_, _| {});
        let Self { hashes, tiles, held, compared, report, .. } = self;
        let number = hashes.size();
        hashes.push(hash, |level, hash| {
            let at = hashes_in(level, number + 1) - 1;
            if level == 0 || at >= held[level] {
                return;
            }
            let in_tile = (at % TILE_WIDTH) as usize;
            if in_tile == 0 || compared[level].len() <= in_tile {
                let from = at - in_tile as u64;
                compared[level] =
                    tiles.read(level, from, (held[level] - from).min(TILE_WIDTH)).unwrap_or_default();
            }
            if compared[level].get(in_tile) != Some(&hash) {
                let what = format!("hash {at} is not that of the hashes below it");
                report.find(&format!("tile/{level}"), None, &what);
            }
        });
        self.check_marks();
    }

    /// Compares the roots with those of checkpoints for this many events.
    fn check_marks(&mut self) {
        while let Some(mark) = self.next_mark.take_if(|mark| mark.size <= self.events.size()) {
            self.next_mark = self.marks.next();
            if mark.size < self.events.size() {
                continue;
            }
            let (by_events, by_hashes) = (self.events.root() == mark.root, self.hashes.root() == mark.root);
            match (by_events, by_hashes) {
                (true, true) => self.last_good = mark.size,
                _ if mark.line.is_none() => {
                    let what = format!(
                        "a checkpoint that was named has another root over the first {} events: there are two records",
                        mark.size
                    );
                    self.report.find("", None, &what);
                }
                (false, true) => {
                    self.blame(Side::Events);
                    self.events = self.hashes.clone();
                    self.last_good = mark.size;
                }
                (true, false) => {
                    self.blame(Side::Hashes);
                    self.hashes = self.events.clone();
                    self.last_good = mark.size;
                }
                (false, false) if !self.is_broken => {
                    self.is_broken = true;
                    self.blame(Side::Unknown);
                    let what = format!(
                        "the {} events that it covers have another root: something after event {} was changed, and its hash with it",
                        mark.size, self.last_good
                    );
                    self.report.find(&mark.file, mark.line, &what);
                }
                (false, false) => {}
            }
        }
    }

    /// Tells of the events that differ from their hashes, now that it is known which of the two were changed.
    fn blame(&mut self, side: Side) {
        for (file, line, seq) in std::mem::take(&mut self.differing) {
            match side {
                Side::Events => {
                    self.report.find(&file, Some(line), &format!("event {seq} is not what was sealed"))
                }
                Side::Hashes => {
                    self.report.find("tile/0", None, &format!("hash {} is not that of event {seq}", seq - 1))
                }
                Side::Unknown => {
                    let what = format!(
                        "event {seq} and its hash in tile/0 differ, and no checkpoint says which was changed"
                    );
                    self.report.find(&file, Some(line), &what);
                }
            }
        }
    }
}

/// What was changed where events and hashes differ.
#[derive(Clone, Copy)]
enum Side {
    Events,
    Hashes,
    Unknown,
}

fn read(segment: &Segment) -> io::Result<Read> {
    let mut read = Read::default();
    let (mut lines, mut line) = (segment.open()?, Vec::new());
    let is_admin = memchr::memmem::Finder::new(br#""plane":"admin""#);
    loop {
        match read_line(&mut *lines, &mut line) {
            Ok(true) => {}
            Ok(false) => break,
            Err(error) => {
                read.error = Some(format!("it cannot be read on: {error}"));
                line.clear();
                break;
            }
        }
        line.pop();
        if read.leaves.is_empty() {
            read.day = time_of(&line).map(|time| clock::day(time.into()));
        }
        if read.leaves.len() as u64 == EVENTS_LIMIT {
            read.error = Some(format!("it has more than the {EVENTS_LIMIT} events that a segment has"));
            line.clear();
            break;
        }
        let seq = segment.first + read.leaves.len() as u64;
        read.leaves.push(record_hash(&line));
        if !has_number(&line, seq) && read.misnumbered.len() <= FINDINGS_OF_FILE {
            read.misnumbered.push(read.leaves.len() as u64);
        }
        if is_admin.find(&line).is_some() {
            read.admin.extend(serde_json::from_slice(&line).ok());
        }
    }
    read.torn_bytes = line.len();
    Ok(read)
}

/// Whether an event's line says this number, where the writer puts it.
fn has_number(line: &[u8], seq: u64) -> bool {
    let start = &line[..line.len().min(1024)];
    memchr::memmem::find(start, format!(r#","seq":{seq},"#).as_bytes()).is_some()
}

#[cfg(test)]
mod tests;
