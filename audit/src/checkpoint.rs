//! Checkpoints: what the record was at a time, signed (C2SP tlog-checkpoint in a signed-note). They lie one after the other in
//! `checkpoints/YYYY-MM-DD`, by the UTC day in which they were made.
//!
//! Behind origin, size and root stand extension lines: `time TIME CLOCK`, `previous SHA-256` (of the checkpoint before, every
//! byte of it, in base64; of nothing in front of the first), and on some `start` or `stop` of the agent, or `key PUBLIC`, which
//! says that this key signs from then on; both keys sign that one.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use base64::prelude::{BASE64_STANDARD, Engine};
use sha2::{Digest as _, Sha256};
use signed_note::{Note, Signer, VerifierList};
use tlog_tiles::{Checkpoint as TreeHead, Hash};

use crate::keys;
use crate::segment::read_up_to;

/// Bytes of checkpoints in a file. A day has half a million; but where the clock was wrong for once, a file goes on until the
/// day in its name is there: for three years.
const DAY_LIMIT_BYTES: u64 = 512 << 20;

/// Why a checkpoint was made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reason {
    /// A minute is over.
    Minute,
    /// The log was opened.
    Start,
    /// The log was closed in order.
    Stop,
    /// This key signs from now on.
    Key(String),
}

/// What the record was at a time.
#[derive(Clone, Debug, PartialEq)]
pub struct Checkpoint {
    /// Whose record it is.
    pub origin: String,
    /// How many events there were.
    pub size: u64,
    /// The root of the tree over them.
    pub root: Hash,
    /// When, in RFC 3339.
    pub time: String,
    /// Whether the clock could be believed.
    pub clock: String,
    /// The SHA-256 of the checkpoint before, in base64.
    pub previous: String,
    /// Why it was made.
    pub reason: Reason,
}

impl Checkpoint {
    /// The text, signed.
    pub(crate) fn sign(&self, signers: &[&dyn Signer]) -> io::Result<Vec<u8>> {
        let reason = match &self.reason {
            Reason::Minute => String::new(),
            Reason::Start => "start\n".to_owned(),
            Reason::Stop => "stop\n".to_owned(),
            Reason::Key(key) => format!("key {key}\n"),
        };
        let extension = format!("time {} {}\nprevious {}\n{reason}", self.time, self.clock, self.previous);
        let head = TreeHead::new(&self.origin, self.size, self.root, &extension);
        let head = head.map_err(|error| io::Error::other(error.to_string()))?;
        let mut note = Note::new(&head.to_bytes(), &[]).map_err(io::Error::other)?;
        note.add_sigs(signers).map_err(io::Error::other)?;
        Ok(note.to_bytes())
    }

    /// Reads the text of a note. `None` says that it is none that we make.
    fn read(text: &[u8]) -> Option<Self> {
        // The library's reader wants the blank line that parts a note's text from its signatures.
        let head =
            TreeHead::from_bytes(&[text, b"\n"].concat()).or_else(|_| TreeHead::from_bytes(text)).ok()?;
        let mut lines = head.extension().lines();
        let (time, clock) = lines.next()?.strip_prefix("time ")?.split_once(' ')?;
        time.parse::<jiff::Timestamp>().ok()?;
        let previous = lines.next()?.strip_prefix("previous ")?.to_owned();
        let reason = match (lines.next(), lines.next()) {
            (None, None) => Reason::Minute,
            (Some("start"), None) => Reason::Start,
            (Some("stop"), None) => Reason::Stop,
            (Some(line), None) => Reason::Key(line.strip_prefix("key ")?.to_owned()),
            _ => return None,
        };
        let (origin, size, root) = (head.origin().to_owned(), head.size(), *head.hash());
        let (time, clock) = (time.to_owned(), clock.to_owned());
        Some(Self { origin, size, root, time, clock, previous, reason })
    }
}

/// A checkpoint as it lies on disk.
#[derive(Clone, Debug, PartialEq)]
pub struct Signed {
    /// What it says.
    pub checkpoint: Checkpoint,
    /// The note, every byte of it.
    pub note: String,
}

impl Signed {
    /// Reads a note. Whether it is signed is to be asked yet.
    pub fn read(note: &str) -> Option<Self> {
        let parsed = Note::from_bytes(note.as_bytes()).ok()?;
        // A note that is written in another way than it would be is none of ours.
        let checkpoint = Checkpoint::read(parsed.text()).filter(|_| parsed.to_bytes() == note.as_bytes())?;
        Some(Self { checkpoint, note: note.to_owned() })
    }

    /// What the next checkpoint says of this one.
    pub(crate) fn digest(&self) -> String {
        digest(self.note.as_bytes())
    }

    /// How many have signed it.
    pub(crate) fn signatures(&self) -> usize {
        self.note.lines().filter(|line| line.starts_with('\u{2014}')).count()
    }

    /// Whether a key signed it.
    pub fn is_signed_by(&self, public: &str) -> bool {
        let Some(verifier) = keys::verifier(public) else { return false };
        let note = Note::from_bytes(self.note.as_bytes());
        note.is_ok_and(|note| note.verify(&VerifierList::new(vec![Box::new(verifier)])).is_ok())
    }
}

/// What a checkpoint says of the one before.
pub(crate) fn digest(note: &[u8]) -> String {
    BASE64_STANDARD.encode(Sha256::digest(note))
}

/// Cuts a file of notes into them. What is left in the end is no whole note.
pub fn notes(text: &str) -> (Vec<&str>, &str) {
    let (mut notes, mut rest) = (Vec::new(), text);
    while let Some(end) = end_of_note(rest) {
        let (note, behind) = rest.split_at(end);
        notes.push(note);
        rest = behind;
    }
    (notes, rest)
}

/// Where the first note ends: behind the signatures that follow its first blank line.
fn end_of_note(text: &str) -> Option<usize> {
    let mut at = text.find("\n\n")? + 2;
    let signatures = at;
    while let Some(line) = text[at..].split_inclusive('\n').next() {
        if !line.starts_with('\u{2014}') || !line.ends_with('\n') {
            break;
        }
        at += line.len();
    }
    let is_whole = at > signatures && !text[at..].starts_with('\u{2014}');
    is_whole.then_some(at)
}

/// The files of checkpoints, oldest first.
pub(crate) fn files(log: &Path) -> io::Result<Vec<PathBuf>> {
    let mut files = match fs::read_dir(log.join("checkpoints")) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?.map(|entry| Ok(entry?.path())).collect::<io::Result<Vec<_>>>()?,
    };
    files.sort();
    Ok(files)
}

/// Whether a name is a day.
pub(crate) fn is_day(name: &str) -> bool {
    name.len() == 10 && name.parse::<jiff::civil::Date>().is_ok()
}

/// The text of a file of checkpoints.
pub(crate) fn read_file(path: &Path) -> io::Result<String> {
    String::from_utf8(read_up_to(path, DAY_LIMIT_BYTES)?).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        io::Error::new(io::ErrorKind::InvalidData, format!("byte {at} is no part of a text"))
    })
}

/// Writes checkpoints.
pub(crate) struct Notebook {
    folder: PathBuf,
}

/// How the checkpoints of a record end.
#[derive(Debug, Default)]
pub(crate) struct Newest {
    /// The newest.
    pub(crate) signed: Option<Signed>,
    /// The one before.
    pub(crate) before: Option<Signed>,
    /// A file, and how many bytes a crash left at its end that are no whole note.
    pub(crate) torn: Option<(PathBuf, u64)>,
}

impl Notebook {
    pub(crate) fn open(log: &Path) -> io::Result<Self> {
        let folder = log.join("checkpoints");
        fs::DirBuilder::new().recursive(true).mode(0o750).create(&folder)?;
        Ok(Self { folder })
    }

    /// How the checkpoints of a record end. Nothing is changed.
    pub(crate) fn newest(log: &Path) -> io::Result<Newest> {
        let mut newest = Newest::default();
        let is_one = |path: &PathBuf| path.file_name().and_then(|name| name.to_str()).is_some_and(is_day);
        for path in files(log)?.into_iter().filter(is_one).rev() {
            // Torn bytes need not be a text.
            let bytes = read_up_to(&path, DAY_LIMIT_BYTES)?;
            let valid = std::str::from_utf8(&bytes).map_or_else(|error| error.valid_up_to(), str::len);
            let text = std::str::from_utf8(&bytes[..valid]).unwrap_or_default();
            let (notes, rest) = notes(text);
            let torn = (rest.len() + bytes.len() - valid) as u64;
            if torn > 0 && newest.torn.is_none() && newest.signed.is_none() {
                newest.torn = Some((path.clone(), torn));
            }
            for note in notes.into_iter().rev() {
                let strange = || {
                    let what = format!("{}: one of its last notes is no checkpoint", path.display());
                    io::Error::new(io::ErrorKind::InvalidData, what)
                };
                let signed = Signed::read(note).ok_or_else(strange)?;
                if newest.signed.is_some() {
                    newest.before = Some(signed);
                    return Ok(newest);
                }
                newest.signed = Some(signed);
            }
        }
        Ok(newest)
    }

    /// Whether a record has a checkpoint of this digest.
    pub(crate) fn has(log: &Path, digest: &str) -> io::Result<bool> {
        for path in files(log)?.into_iter().rev() {
            let bytes = read_up_to(&path, DAY_LIMIT_BYTES)?;
            let text = String::from_utf8_lossy(&bytes);
            if notes(&text).0.into_iter().rev().any(|note| self::digest(note.as_bytes()) == digest) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Adds a checkpoint and brings it to disk. What could not be written whole is taken back.
    pub(crate) fn add(&self, day: &str, note: &[u8]) -> io::Result<()> {
        let names =
            fs::read_dir(&self.folder)?.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        let newest = names.filter(|name| is_day(name)).max();
        // The clock may go back; the record does not.
        let day = newest.filter(|newest| newest.as_str() > day).unwrap_or_else(|| day.to_owned());
        let path = self.folder.join(day);
        let is_new = !path.exists();
        let mut file = OpenOptions::new().append(true).create(true).mode(0o640).open(path)?;
        if is_new {
            // Before there is anything in it that would be there and not be known.
            File::open(&self.folder)?.sync_all()?;
        }
        let before = file.metadata()?.len();
        let written = file.write_all(note).and_then(|()| file.sync_data());
        if written.is_err() {
            let _ = file.set_len(before);
        }
        written
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys::Keys;

    fn checkpoint(size: u64, reason: Reason) -> Checkpoint {
        Checkpoint {
            origin: "interdict/n".to_owned(),
            size,
            root: Hash([size as u8; 32]),
            time: "2026-11-26T09:00:00.000000Z".to_owned(),
            clock: "synchronized".to_owned(),
            previous: digest(b""),
            reason,
        }
    }

    #[test]
    fn a_note_is_read_as_it_was_written_and_no_byte_may_differ() {
        let data = tempfile::TempDir::new().unwrap();
        let keys = Keys::open(data.path(), "interdict/n", true).unwrap();
        let public = &keys.current.public;
        for reason in [Reason::Minute, Reason::Start, Reason::Stop, Reason::Key(public.clone())] {
            let made = checkpoint(300, reason);
            let note = String::from_utf8(made.sign(&[&keys.current.signer]).unwrap()).unwrap();
            let signed = Signed::read(&note).unwrap();
            assert_eq!(signed.checkpoint, made);
            assert!(signed.is_signed_by(public));
            for at in 0..note.len() {
                for flip in [1, 0x20, 0x80] {
                    let mut bytes = note.clone().into_bytes();
                    bytes[at] ^= flip;
                    let changed = String::from_utf8(bytes).ok().and_then(|text| Signed::read(&text));
                    assert!(
                        !changed.is_some_and(|changed| changed.is_signed_by(public)),
                        "byte {at} of {note}"
                    );
                }
            }
        }
    }

    #[test]
    fn notes_are_told_apart_and_a_torn_one_is_found_wherever_it_ends() {
        let data = tempfile::TempDir::new().unwrap();
        let mut keys = Keys::open(data.path(), "interdict/n", true).unwrap();
        keys.make_next().unwrap();
        let next = keys.next.as_ref().unwrap();
        let one = checkpoint(1, Reason::Start).sign(&[&keys.current.signer]).unwrap();
        let two = checkpoint(2, Reason::Key(next.public.clone()))
            .sign(&[&keys.current.signer, &next.signer])
            .unwrap();
        let log = data.path().join("log");
        let book = Notebook::open(&log).unwrap();
        book.add("2026-11-26", &one).unwrap();
        book.add("2026-11-25", &two).unwrap();
        let path = log.join("checkpoints/2026-11-26");
        let text = fs::read(&path).unwrap();
        assert_eq!(text, [one.clone(), two.clone()].concat());
        for end in one.len()..text.len() {
            fs::write(&path, &text[..end]).unwrap();
            let newest = Notebook::newest(&log).unwrap();
            let size = newest.signed.unwrap().checkpoint.size;
            let torn = newest.torn.map_or(0, |(_, bytes)| bytes) as usize;
            // With one of its two signatures a note is whole, though it lacks one.
            assert!(
                (size == 1 && torn == end - one.len()) || (size == 2 && torn + two.len() > 100),
                "{end}: {size}, {torn}"
            );
        }
        fs::write(&path, &text).unwrap();
        let newest = Notebook::newest(&log).unwrap();
        assert_eq!((newest.signed.unwrap().checkpoint.size, newest.torn), (2, None));
    }
}
