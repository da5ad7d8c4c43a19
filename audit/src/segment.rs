//! The files of events: `YYYY-MM-DD.FIRST.jsonl`, by the UTC day on which each was begun and the number of its first event. An
//! old one is compressed (`.jsonl.zst`), as the record itself says.

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

/// Events in a segment; a day has as many as it needs.
pub(crate) const EVENTS_LIMIT: u64 = 65_536;
const PLAIN: &str = ".jsonl";
const PACKED: &str = ".jsonl.zst";

/// One file of events.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Segment {
    pub(crate) path: PathBuf,
    /// The day in its name.
    pub(crate) day: String,
    /// The number of its first event.
    pub(crate) first: u64,
    pub(crate) is_packed: bool,
}

impl Segment {
    /// The segment that begins with an event, on a day.
    pub(crate) fn named(folder: &Path, day: &str, first: u64) -> Self {
        let path = folder.join(format!("{day}.{first:012}{PLAIN}"));
        Self { path, day: day.to_owned(), first, is_packed: false }
    }

    /// The segment of a file with this name.
    fn of(path: PathBuf) -> Option<Self> {
        let name = path.file_name()?.to_str()?;
        let (stem, is_packed) = match name.strip_suffix(PACKED) {
            Some(stem) => (stem, true),
            None => (name.strip_suffix(PLAIN)?, false),
        };
        let (day, first) = stem.split_once('.')?;
        let is_day = day.len() == 10 && day.parse::<jiff::civil::Date>().is_ok();
        let is_number = first.len() >= 12 && first.bytes().all(|byte| byte.is_ascii_digit());
        let (day, first) = (is_day && is_number).then_some((day.to_owned(), first.parse().ok()?))?;
        // Events are numbered from 1 on.
        (first > 0).then_some(Self { path, day, first, is_packed })
    }

    /// Its name.
    pub(crate) fn name(&self) -> String {
        self.path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
    }

    /// The name of the same segment, compressed.
    pub(crate) fn packed(&self) -> PathBuf {
        self.path.with_file_name(format!("{}.{:012}{PACKED}", self.day, self.first))
    }

    /// Its events, as lines. It may have been compressed since it was listed.
    pub(crate) fn open(&self) -> io::Result<Box<dyn BufRead + Send>> {
        let named = |error: io::Error, path: &Path| {
            io::Error::new(error.kind(), format!("{}: {error}", path.display()))
        };
        match File::open(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound && !self.is_packed => {
                let packed = self.packed();
                lines_of(File::open(&packed).map_err(|error| named(error, &packed))?, true)
            }
            file => lines_of(file.map_err(|error| named(error, &self.path))?, self.is_packed),
        }
    }
}

/// The lines of a segment's file.
pub(crate) fn lines_of(file: File, is_packed: bool) -> io::Result<Box<dyn BufRead + Send>> {
    Ok(match is_packed {
        true => Box::new(BufReader::with_capacity(1 << 17, zstd::Decoder::new(file)?)),
        false => Box::new(BufReader::with_capacity(1 << 17, file)),
    })
}

/// What lies in the folder of a record.
#[derive(Debug, Default)]
pub(crate) struct Listing {
    /// Segments, oldest first, one for each first event.
    pub(crate) segments: Vec<Segment>,
    /// Compressed segments that are there plain as well: what an interrupted compression left.
    pub(crate) doubles: Vec<PathBuf>,
    /// What is no segment, by name, but for folders and the lock.
    pub(crate) strangers: Vec<String>,
}

/// Lists the folder of a record.
pub(crate) fn list(folder: &Path) -> io::Result<Listing> {
    let mut listing = Listing::default();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        // Links lead elsewhere, and a pipe has no end.
        let is_file = entry.file_type()?.is_file();
        match Segment::of(entry.path()).filter(|_| is_file) {
            Some(segment) => listing.segments.push(segment),
            None => listing.strangers.push(name),
        }
    }
    let key = |segment: &Segment| (segment.first, segment.day.clone(), segment.is_packed);
    listing.segments.sort_by_key(key);
    listing.strangers.sort();
    let Listing { segments, doubles, .. } = &mut listing;
    segments.dedup_by(|later, earlier| {
        let is_double = later.first == earlier.first && later.day == earlier.day;
        if is_double {
            doubles.push(later.path.clone());
        }
        is_double
    });
    Ok(listing)
}

/// Bytes of a line: no event has a tenth of that.
const LINE_LIMIT_BYTES: u64 = 1 << 20;

/// Reads a line with its end, into an emptied buffer. `false` at the end, or where the last line has no end.
pub(crate) fn read_line(lines: &mut dyn BufRead, line: &mut Vec<u8>) -> io::Result<bool> {
    line.clear();
    lines.take(LINE_LIMIT_BYTES).read_until(b'\n', line)?;
    match line.last() == Some(&b'\n') {
        false if line.len() as u64 == LINE_LIMIT_BYTES => {
            let what = format!("a line has more than {LINE_LIMIT_BYTES} bytes");
            Err(io::Error::new(io::ErrorKind::InvalidData, what))
        }
        is_whole => Ok(is_whole),
    }
}

/// A file in one piece, if it is no larger than a limit.
pub(crate) fn read_up_to(path: &Path, limit_bytes: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(limit_bytes + 1).read_to_end(&mut bytes)?;
    match bytes.len() as u64 > limit_bytes {
        true => {
            Err(io::Error::new(io::ErrorKind::InvalidData, format!("it has more than {limit_bytes} bytes")))
        }
        false => Ok(bytes),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_says_day_and_first_event() {
        let named = Segment::named(Path::new("/log"), "2026-11-26", 65_537);
        assert_eq!(named.name(), "2026-11-26.000000065537.jsonl");
        assert_eq!(Segment::of(named.path.clone()), Some(named.clone()));
        let packed = Segment::of(named.packed()).unwrap();
        assert_eq!(
            (packed.first, packed.is_packed, packed.name().as_str()),
            (65_537, true, "2026-11-26.000000065537.jsonl.zst")
        );
        for strange in [
            "2026-11-26.jsonl",
            "2026-11-26.1.jsonl",
            "2026-13-26.000000000001.jsonl",
            "x.jsonl",
            "2026-11-26.00000000000x.jsonl",
            ".lock",
            "2026-11-26.000000000000.jsonl",
        ] {
            assert_eq!(Segment::of(strange.into()), None, "{strange}");
        }
    }
}
