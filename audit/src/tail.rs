//! Reads the record while it is written: whole lines only, from one segment to the next.

use std::fs::File;
use std::io::{self, BufRead};
use std::path::{Path, PathBuf};

use crate::segment::{self, Segment, lines_of, read_line};

/// Bytes read at once.
const CHUNK_BYTES: usize = 1 << 20;

/// Where reading starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// At the first event on record.
    Beginning,
    /// Behind the last one.
    End,
    /// At the last so many.
    LastN(usize),
    /// Behind the event of this number.
    After(u64),
}

/// A reader of the record.
pub struct Tail {
    folder: PathBuf,
    reading: Option<Reading>,
    /// The number of the next event.
    next: u64,
}

/// A segment that is read. The file stays open, so that it can be read to its end when it was compressed meanwhile.
struct Reading {
    segment: Segment,
    lines: Box<dyn BufRead + Send>,
    /// The number of the event whose line comes next.
    at: u64,
    /// The beginning of a line whose rest is not there yet.
    half: Vec<u8>,
}

impl Tail {
    /// Opens the record in `data/log`.
    ///
    /// # Errors
    /// When there is none.
    pub fn open(data: &Path, start: Start) -> io::Result<Self> {
        let folder = data.join("log");
        let segments = segment::list(&folder)?.segments;
        let next = match start {
            Start::Beginning => 1,
            Start::After(seq) => seq.saturating_add(1),
            Start::End => end(&segments)?,
            Start::LastN(events) => end(&segments)?.saturating_sub(events as u64),
        };
        Ok(Self { folder, reading: None, next })
    }

    /// The lines that were added, whole ones only and about a megabyte at most; none when there are no more yet.
    ///
    /// # Errors
    /// When the record cannot be read.
    pub fn next_lines(&mut self) -> io::Result<Vec<String>> {
        loop {
            // Listed before this one is read: a segment is whole once there is a later one, and only then left.
            let first = self.reading.as_ref().map(|reading| reading.segment.first);
            let mut segments = segment::list(&self.folder)?.segments;
            let later = match first {
                Some(first) => segments.iter().position(|segment| segment.first > first),
                // The last one that begins with the next event or before it; all that are left, if that was removed.
                None => segments
                    .iter()
                    .rposition(|segment| segment.first <= self.next)
                    .or((!segments.is_empty()).then_some(0)),
            };
            if let Some(reading) = &mut self.reading {
                let lines = reading.read(self.next)?;
                self.next = self.next.max(reading.at);
                if !lines.is_empty() {
                    return Ok(lines);
                }
            }
            let Some(later) = later else { return Ok(Vec::new()) };
            match Reading::open(segments.swap_remove(later)) {
                // It was compressed between the two.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                reading => self.reading = Some(reading?),
            }
        }
    }
}

impl Reading {
    fn open(segment: Segment) -> io::Result<Self> {
        let lines = lines_of(File::open(&segment.path)?, segment.is_packed)?;
        Ok(Self { lines, at: segment.first, segment, half: Vec::new() })
    }

    /// Lines from an event on.
    fn read(&mut self, from: u64) -> io::Result<Vec<String>> {
        let (mut lines, mut bytes) = (Vec::new(), 0);
        while bytes < CHUNK_BYTES {
            self.lines.read_until(b'\n', &mut self.half)?;
            if self.half.last() != Some(&b'\n') {
                break;
            }
            self.half.pop();
            if self.at >= from {
                bytes += self.half.len();
                lines.push(String::from_utf8_lossy(&self.half).into_owned());
            }
            self.half.clear();
            self.at += 1;
        }
        Ok(lines)
    }
}

/// The number behind that of the last event.
fn end(segments: &[Segment]) -> io::Result<u64> {
    let Some(newest) = segments.last() else { return Ok(1) };
    let (mut lines, mut line, mut next) = (newest.open()?, Vec::new(), newest.first);
    while read_line(&mut *lines, &mut line)? {
        next += 1;
    }
    Ok(next)
}
