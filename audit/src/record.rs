//! The record on disk, as it is written: segments of events, the tree over them, checkpoints.
//!
//! Events are numbered from 1 on without gaps. The disk has them at most a second or [`SYNC_EVENTS`] later; a checkpoint
//! covers them at most a minute later. A crash leaves at most what the disk did not have yet: a half line, hashes without
//! events or events without hashes, a half checkpoint. [`Files::open`] cuts off what is half, makes up what follows from the
//! events, and says so in the record. What a checkpoint covers is never changed.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Seek, SeekFrom, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use interdict_policy::Privacy;
use serde_json::{Value, json};
use signed_note::Signer;
use tlog_tiles::{record_hash, tree_hash};

use crate::checkpoint::{self, Checkpoint, Newest, Notebook, Reason, Signed};
use crate::clock;
use crate::entry::Entry;
use crate::keys::Keys;
use crate::pack::Packed;
use crate::pseudonym::{self, Pseudonyms};
use crate::segment::{self, EVENTS_LIMIT, Listing, Segment, read_line};
use crate::tree::{Edge, Tiles};

/// How far behind the disk may be, in events.
pub(crate) const SYNC_EVENTS: usize = 512;
/// Hashes that wait for a file that cannot be written: with more of them, events are lost.
const PENDING_LIMIT_BYTES: usize = 8 << 20;

/// Why a record cannot be opened to write.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another agent writes there.
    #[error("{0} is in use by another agent; stop it, or name another folder with --data")]
    InUse(PathBuf),
    /// The record cannot be continued.
    #[error(
        "{}:{line}: this is not event {event}, so the record cannot go on; its checkpoints cover {sealed} events: keep a copy of \
         the file, remove the lines behind event {sealed}, and start again",
        file.display()
    )]
    Corrupt {
        /// The newest file of the record.
        file: PathBuf,
        /// Its last line, counted from 1.
        line: u64,
        /// The number that the event there should have.
        event: u64,
        /// How many events are signed.
        sealed: u64,
    },
    /// Something else lies where the record should be.
    #[error("{} is no part of a record; move it out of the folder", .0.display())]
    Strange(PathBuf),
    /// Something is not what was signed.
    #[error("the record in {} is not what its last checkpoint says: {what}; `interdict audit verify` says more. To go on \
        with a new record, move the folders log and keys away", folder.display())]
    NotSealed {
        /// The folder of the record.
        folder: PathBuf,
        /// What differs.
        what: String,
    },
    /// The file system says no.
    #[error("cannot use {path}: {error}")]
    Io {
        /// What was used.
        path: PathBuf,
        /// What the system says.
        error: io::Error,
    },
}

/// A record that nobody else writes to.
pub(crate) struct Files {
    data: PathBuf,
    folder: PathBuf,
    node: String,
    /// Held for as long as this process writes.
    _lock: File,
    current: Option<Current>,
    edge: Edge,
    tiles: Tiles,
    notebook: Notebook,
    keys: Keys,
    clock: clock::State,
    pseudonyms: Pseudonyms,
    /// The last write failed, and that was said.
    failing: bool,
    /// Events that the disk may not have.
    unsynced: usize,
    /// What is to be told of how it was opened.
    pub(crate) opened: Vec<(&'static str, Value)>,
    /// Segments that wait to be compressed.
    pub(crate) full: Vec<Segment>,
    /// Compressed segments, to be put in their places once a checkpoint covers that the record speaks of them.
    packed: Vec<Packed>,
    sealed: Sealed,
}

/// The newest checkpoint of this run.
struct Sealed {
    at: Instant,
    size: u64,
    /// What the next one is to say of it.
    digest: String,
}

/// The segment that is written to.
struct Current {
    segment: Segment,
    file: File,
    len: u64,
}

impl Files {
    /// Opens the record of a data folder; `node` names this machine in every event.
    pub(crate) fn open(data: &Path, node: &str) -> Result<Self, OpenError> {
        let folder = data.join("log");
        let io = |path: &Path| {
            let path = path.to_owned();
            move |error| OpenError::Io { path, error }
        };
        let not_sealed = |what: String| OpenError::NotSealed { folder: folder.clone(), what };
        fs::DirBuilder::new().recursive(true).mode(0o750).create(&folder).map_err(io(&folder))?;
        let lock = lock(data)?;
        let Listing { mut segments, doubles, strangers } = segment::list(&folder).map_err(io(&folder))?;
        if let Some(strange) = strangers.iter().find(|name| name.contains(".jsonl")) {
            return Err(OpenError::Strange(folder.join(strange)));
        }
        let Newest { mut signed, before, mut torn } =
            Notebook::newest(&folder).map_err(io(&folder.join("checkpoints")))?;
        let is_new = signed.is_none() && segments.is_empty();
        let pseudonyms = Pseudonyms::open(data).map_err(io(&data.join(pseudonym::KEY)))?;
        let mut keys = Keys::open(data, &origin(node), is_new).map_err(io(&data.join("keys/log.key")))?;

        // Nothing is changed before all of this is known.
        let mut advances = false;
        if let Some(Signed { checkpoint: Checkpoint { reason: Reason::Key(key), .. }, note }) = &signed
            && keys.next.as_ref().is_some_and(|next| next.public == *key)
        {
            match signed.as_ref().is_some_and(|signed| signed.is_signed_by(key)) {
                true => advances = true,
                // A crash between its two signatures: only half of it is there.
                false => {
                    let behind = torn.as_ref().map_or(0, |(_, bytes)| *bytes);
                    torn = Some((newest_notes(&folder)?, note.len() as u64 + behind));
                    signed = before;
                }
            }
        }
        let is_by_next =
            |signed: &Signed| keys.next.as_ref().is_some_and(|next| signed.is_signed_by(&next.public));
        // The next key signs already, and did not come to its place.
        advances |= signed
            .as_ref()
            .is_some_and(|signed| !signed.is_signed_by(&keys.current.public) && is_by_next(signed));
        let sealed = signed.as_ref().map_or(0, |signed| signed.checkpoint.size);
        let end = segments.last().map(|newest| end_of(newest, sealed)).transpose()?.unwrap_or_default();
        let size = end.size;
        let is_empty = |newest: &Segment| end.size < newest.first;
        let empty = segments.pop_if(|newest| is_empty(newest));
        let mut tiles = Tiles::open(&folder, true).map_err(io(&folder.join("tile")))?;
        if let Some(known) = keys.newest().map_err(io(&data.join("keys/newest")))?
            && !Notebook::has(&folder, &known).map_err(io(&folder.join("checkpoints")))?
        {
            return Err(not_sealed("keys/newest knows of a checkpoint that is not there".to_owned()));
        }
        if let Some(signed) = &signed {
            if !signed.is_signed_by(&keys.current.public) && !advances {
                return Err(not_sealed("its signature is not by the key in keys/log.key".to_owned()));
            }
            if signed.checkpoint.reason == Reason::Stop && size > sealed {
                let what = format!(
                    "the record ended in order with event {sealed}, and there are {size}: remove what follows"
                );
                return Err(not_sealed(what));
            }
            if size < sealed {
                return Err(not_sealed(format!("it covers {sealed} events, and there are {size}")));
            }
            if tree_hash(sealed, &tiles).ok() != Some(signed.checkpoint.root) {
                return Err(not_sealed("the hashes in the folder tile have another root".to_owned()));
            }
        }
        let mut edge = tiles.edge(sealed).map_err(io(&folder.join("tile")))?;
        let leaves = leaves_behind(&segments, sealed, size).map_err(io(&folder))?;

        let mut opened = Vec::new();
        let mut cut = |path: &Path, bytes: u64| {
            let file = OpenOptions::new().write(true).open(path)?;
            file.set_len(file.metadata()?.len() - bytes)?;
            let name = path.strip_prefix(&folder).unwrap_or(path).to_string_lossy().into_owned();
            opened.push(("log.repaired", json!({ "file": name, "bytes": bytes })));
            Ok(())
        };
        if let Some(segment) = empty.as_ref().or(segments.last()).filter(|_| end.torn_bytes > 0) {
            cut(&segment.path, end.torn_bytes).map_err(io(&segment.path))?;
        }
        // A segment that was begun, and got no event.
        if let Some(Segment { path, .. }) = &empty {
            fs::remove_file(path).map_err(io(path))?;
        }
        if let Some((path, bytes)) = torn {
            cut(&path, bytes).map_err(io(&path))?;
        }
        tiles.cut(sealed).map_err(io(&folder.join("tile")))?;
        leaves.into_iter().for_each(|leaf| edge.push(leaf, |level, hash| tiles.add(level, hash)));
        match advances {
            true => keys.advance(),
            false => keys.forget_next(),
        }
        .map_err(io(&data.join("keys")))?;
        doubles.iter().try_for_each(fs::remove_file).map_err(io(&folder))?;
        if let Some(signed) = &signed {
            let is_clean = signed.checkpoint.reason == Reason::Stop && sealed == size;
            let unsealed = size - sealed;
            let since = &signed.checkpoint.time;
            opened.push(("log.resumed", json!({ "since": since, "clean": is_clean, "unsealed": unsealed })));
        }
        let full = segments.iter().rev().skip(1).filter(|segment| !segment.is_packed).cloned().collect();
        let notebook = Notebook::open(&folder).map_err(io(&folder))?;
        Ok(Self {
            data: data.to_owned(),
            folder,
            node: node.to_owned(),
            _lock: lock,
            current: None,
            edge,
            tiles,
            notebook,
            keys,
            clock: clock::State::default(),
            pseudonyms,
            failing: false,
            unsynced: 0,
            opened,
            full,
            packed: Vec::new(),
            sealed: Sealed {
                at: Instant::now(),
                size: sealed,
                digest: signed.map_or_else(|| checkpoint::digest(b""), |signed| signed.digest()),
            },
        })
    }

    /// How many events there are.
    pub(crate) const fn size(&self) -> u64 {
        self.edge.size()
    }

    /// Says what the record tells of clients of no unit.
    pub(crate) fn set_privacy(&mut self, otherwise: Privacy) {
        self.pseudonyms.otherwise = otherwise;
    }

    /// The data folder.
    pub(crate) fn data(&self) -> &Path {
        &self.data
    }

    /// Writes what it can, and says how many events that was. A failure is logged when it begins and when it ends.
    pub(crate) fn append(&mut self, batch: &[Entry]) -> usize {
        let mut kept = 0;
        while let Some(first) = batch.get(kept) {
            let day = clock::day(first.time);
            let same = batch[kept..].iter().take_while(|entry| clock::day(entry.time) == day).count();
            let (written, end) = self.append_day(&day, &batch[kept..kept + same]);
            kept += written;
            match end {
                Ok(()) if self.failing => {
                    tracing::info!("the record can be written again");
                    self.failing = false;
                }
                Ok(()) => {}
                Err(error) => {
                    self.fail(&error);
                    break;
                }
            }
        }
        kept
    }

    fn fail(&mut self, error: &io::Error) {
        if !self.failing {
            tracing::error!(%error, "the record cannot be written; events are lost until it can be");
        }
        self.failing = true;
    }

    /// Writes events of one day, as many as have room in the segment. After an error the whole lines stay, since readers may
    /// have seen them, and the half one goes.
    fn append_day(&mut self, day: &str, entries: &[Entry]) -> (usize, io::Result<()>) {
        if self.tiles.pending_bytes() > PENDING_LIMIT_BYTES {
            let written = self.tiles.write();
            if written.is_err() {
                return (0, written);
            }
        }
        let (clock, size) = (self.clock.word(), self.size());
        let current = match self.segment_of(day) {
            Ok(current) => current,
            Err(error) => return (0, Err(error)),
        };
        let room = EVENTS_LIMIT - (size + 1 - current.segment.first);
        let entries = &entries[..entries.len().min(room as usize)];
        let (mut text, mut ends) =
            (Vec::with_capacity(entries.len() * 640), Vec::with_capacity(entries.len()));
        for (entry, seq) in entries.iter().zip(size + 1..) {
            entry.write(&self.node, seq, clock, &mut self.pseudonyms, &mut text);
            text.push(b'\n');
            ends.push(text.len());
        }
        let Some(current) = &mut self.current else { return (0, Ok(())) };
        let (bytes, end) = write_some(&mut current.file, &text);
        ends.retain(|&end| end <= bytes);
        current.len += ends.last().copied().unwrap_or(0) as u64;
        if end.is_err() {
            let good = current.len;
            let _ = current.file.set_len(good);
            let _ = current.file.seek(SeekFrom::Start(good));
        }
        let starts = std::iter::once(0).chain(ends.iter().copied());
        for (start, end) in starts.zip(&ends) {
            self.edge.push(record_hash(&text[start..end - 1]), |level, hash| self.tiles.add(level, hash));
        }
        self.unsynced += ends.len();
        (ends.len(), end)
    }

    /// The segment for events of a day. The clock may go back; the record does not: then the newest segment goes on.
    fn segment_of(&mut self, day: &str) -> io::Result<&mut Current> {
        let next = self.size() + 1;
        let fits = |segment: &Segment| segment.day.as_str() >= day && next - segment.first < EVENTS_LIMIT;
        if !self.current.as_ref().is_some_and(|current| fits(&current.segment)) {
            self.sync()?;
            let newest = match &self.current {
                Some(current) => Some(current.segment.clone()),
                None => segment::list(&self.folder)?.segments.pop(),
            };
            // One that got no event would have the same first event as the next.
            if let Some(empty) = newest.as_ref().filter(|newest| newest.first == next && !fits(newest)) {
                fs::remove_file(&empty.path)?;
                self.current = None;
            }
            let newest = newest.filter(|newest| newest.first < next || fits(newest));
            let segment = match &newest {
                Some(newest) if fits(newest) && !newest.is_packed => newest.clone(),
                // A day goes on under its own name when it is full.
                Some(newest) => Segment::named(&self.folder, day.max(&newest.day), next),
                None => Segment::named(&self.folder, day, next),
            };
            let mut file = OpenOptions::new()
                .create(true)
                .truncate(false)
                .write(true)
                .mode(0o640)
                .open(&segment.path)?;
            let len = file.seek(SeekFrom::End(0))?;
            // The file's name must be on disk too.
            File::open(&self.folder)?.sync_all()?;
            self.full.extend(newest.filter(|newest| newest.first != segment.first && !newest.is_packed));
            self.current = Some(Current { segment, file, len });
        }
        self.current.as_mut().ok_or_else(|| io::Error::other("no file is open"))
    }

    /// Whether the disk lacks as many events as it may.
    pub(crate) const fn is_far_behind(&self) -> bool {
        self.unsynced >= SYNC_EVENTS
    }

    /// Whether the disk lacks anything.
    pub(crate) const fn is_behind(&self) -> bool {
        self.unsynced > 0
    }

    /// Brings all events to disk.
    pub(crate) fn sync(&mut self) -> io::Result<()> {
        if self.unsynced > 0
            && let Some(current) = &self.current
        {
            current.file.sync_data()?;
        }
        self.unsynced = 0;
        self.tiles.write()
    }

    /// How long ago the newest checkpoint was made.
    pub(crate) fn sealed_for(&self) -> Duration {
        self.sealed.at.elapsed()
    }

    /// Signs what the record is now, once the disk has it.
    pub(crate) fn seal(&mut self, reason: Reason) -> io::Result<()> {
        self.sync()?;
        self.tiles.sync()?;
        let now = SystemTime::now();
        let checkpoint = Checkpoint {
            origin: self.keys.origin().to_owned(),
            size: self.size(),
            root: self.edge.root(),
            time: clock::shown(now),
            clock: self.clock.word().to_owned(),
            previous: self.sealed.digest.clone(),
            reason,
        };
        let mut signers: Vec<&dyn Signer> = vec![&self.keys.current.signer];
        if let Reason::Key(_) = checkpoint.reason {
            signers.extend(self.keys.next.iter().map(|key| &key.signer as &dyn Signer));
        }
        let note = checkpoint.sign(&signers)?;
        self.notebook.add(&clock::day(now), &note)?;
        // It is there, whatever comes now.
        self.sealed = Sealed { at: Instant::now(), size: checkpoint.size, digest: checkpoint::digest(&note) };
        if let Err(error) = self.keys.note_newest(&self.sealed.digest) {
            tracing::warn!(%error, "the newest checkpoint is not noted beside the key");
        }
        // What is signed speaks of them.
        let mut outcome = Ok(());
        for packed in self.packed.drain(..) {
            outcome = outcome.and(packed.put_in_place());
        }
        outcome
    }

    /// How many events the newest checkpoint covers.
    pub(crate) const fn sealed_size(&self) -> u64 {
        self.sealed.size
    }

    /// Has a new key sign from now on. Returns the old one and the new one.
    pub(crate) fn change_key(&mut self) -> io::Result<[String; 2]> {
        let old = self.keys.current.public.clone();
        let new = self.keys.make_next()?.public.clone();
        if let Err(error) = self.seal(Reason::Key(new.clone())) {
            self.keys.forget_next()?;
            return Err(error);
        }
        if let Err(error) = self.keys.advance() {
            tracing::error!(%error, "the new key signs, and is not in its place on disk before the next start");
        }
        Ok([old, new])
    }

    /// Takes note that a segment was compressed: it is put in its place as soon as the disk has what the record says of it.
    pub(crate) fn is_packed(&mut self, packed: Packed) {
        self.packed.push(packed);
    }
}

/// The name under which a node's record is signed: key names have neither spaces nor `+` (signed-note).
fn origin(node: &str) -> String {
    let plain = |letter: char| letter.is_ascii_alphanumeric() || "-._".contains(letter);
    let node: String = node.chars().map(|letter| if plain(letter) { letter } else { '-' }).collect();
    format!("interdict/{}", if node.is_empty() { "-" } else { &node })
}

/// Takes the record for this process: with a lock on the folder of its keys, which nobody else can open.
fn lock(data: &Path) -> Result<File, OpenError> {
    let path = data.join("keys");
    let io = |error| OpenError::Io { path: path.clone(), error };
    fs::DirBuilder::new().recursive(true).mode(0o700).create(&path).map_err(io)?;
    let lock = File::open(&path).map_err(io)?;
    rustix::fs::flock(&lock, rustix::fs::FlockOperation::NonBlockingLockExclusive).map_err(|error| {
        match error {
            rustix::io::Errno::WOULDBLOCK => OpenError::InUse(data.join("log")),
            error => io(error.into()),
        }
    })?;
    Ok(lock)
}

/// Whether somebody writes to the record in this data folder. Who may not look takes it for a record at rest.
pub(crate) fn is_in_use(data: &Path) -> bool {
    matches!(File::open(data.join("keys")), Ok(lock)
        if rustix::fs::flock(&lock, rustix::fs::FlockOperation::NonBlockingLockShared).is_err())
}

/// The file of the newest checkpoint.
fn newest_notes(folder: &Path) -> Result<PathBuf, OpenError> {
    let path = folder.join("checkpoints");
    let files = checkpoint::files(folder).map_err(|error| OpenError::Io { path: path.clone(), error })?;
    files.last().cloned().ok_or(OpenError::Strange(path))
}

/// Where a record ends.
#[derive(Clone, Copy, Default)]
struct End {
    /// How many events there are.
    size: u64,
    /// Bytes behind the last whole line.
    torn_bytes: u64,
}

/// Where the newest segment ends.
fn end_of(segment: &Segment, sealed: u64) -> Result<End, OpenError> {
    let read = || -> io::Result<(End, Option<u64>)> {
        let mut lines = segment.open()?;
        let (mut line, mut last) = (Vec::new(), Vec::new());
        let mut end = End { size: segment.first - 1, torn_bytes: 0 };
        while read_line(&mut *lines, &mut line)? {
            end.size += 1;
            std::mem::swap(&mut line, &mut last);
        }
        end.torn_bytes = line.len() as u64;
        let number = serde_json::from_slice::<Value>(&last).ok().and_then(|event| event["seq"].as_u64());
        Ok((end, number))
    };
    let (end, number) = read().map_err(|error| OpenError::Io { path: segment.path.clone(), error })?;
    match end.size < segment.first || number == Some(end.size) {
        true => Ok(end),
        false => {
            let (line, event) = (end.size + 1 - segment.first, end.size);
            Err(OpenError::Corrupt { file: segment.path.clone(), line, event, sealed })
        }
    }
}

/// The hashes of the events from one on that no checkpoint covers.
fn leaves_behind(segments: &[Segment], sealed: u64, size: u64) -> io::Result<Vec<tlog_tiles::Hash>> {
    let mut leaves = Vec::new();
    let ends = segments.iter().skip(1).map(|next| next.first - 1).chain([size]);
    for (segment, end) in segments.iter().zip(ends).filter(|(_, end)| *end > sealed) {
        let (mut lines, mut line) = (segment.open()?, Vec::new());
        for seq in segment.first..=end {
            if !read_line(&mut *lines, &mut line)? {
                let what = format!("{} lacks event {seq}", segment.path.display());
                return Err(io::Error::new(io::ErrorKind::InvalidData, what));
            }
            if seq > sealed {
                leaves.push(record_hash(&line[..line.len() - 1]));
            }
        }
    }
    match leaves.len() as u64 == size - sealed {
        true => Ok(leaves),
        false => {
            Err(io::Error::new(io::ErrorKind::InvalidData, "events are missing that no checkpoint covers"))
        }
    }
}

/// Writes until an error, and says how many bytes got through.
fn write_some(out: &mut impl Write, text: &[u8]) -> (usize, io::Result<()>) {
    let mut written = 0;
    while written < text.len() {
        match out.write(&text[written..]) {
            Ok(0) => return (written, Err(io::ErrorKind::WriteZero.into())),
            Ok(bytes) => written += bytes,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return (written, Err(error)),
        }
    }
    (written, Ok(()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_write_that_breaks_off_says_how_far_it_got() {
        let mut disk = [0; 5];
        let (bytes, end) = write_some(&mut disk.as_mut_slice(), b"1\n2\n3\n");
        assert_eq!((bytes, end.is_err(), &disk), (5, true, b"1\n2\n3"));
    }

    #[test]
    fn a_node_of_any_name_can_sign() {
        for (node, expect) in
            [("gw1.example", "interdict/gw1.example"), ("a b+c", "interdict/a-b-c"), ("", "interdict/-")]
        {
            assert_eq!(origin(node), expect);
            assert!(signed_note::is_key_name_valid(expect));
        }
    }
}
