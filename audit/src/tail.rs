//! Reads the record while it is written: whole lines only, from one day's file to the next.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use crate::log::{behind_last_newline, files};

/// Bytes read at once.
const CHUNK_BYTES: u64 = 1 << 20;

/// Where reading starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// At the first event on record.
    Beginning,
    /// Behind the last one.
    End,
    /// At the last so many.
    LastN(usize),
}

/// A reader of the record.
pub struct Tail {
    folder: PathBuf,
    file: Option<PathBuf>,
    offset: u64,
}

impl Tail {
    /// Opens the record in `data/log`.
    ///
    /// # Errors
    /// When there is none.
    pub fn open(data: &Path, start: Start) -> io::Result<Self> {
        let folder = data.join("log");
        let files = files(&folder)?;
        let (file, offset) = match start {
            Start::Beginning => (None, 0),
            Start::End => place_before(files, 0)?,
            Start::LastN(lines) => place_before(files, lines)?,
        };
        Ok(Self { folder, file, offset })
    }

    /// The lines that were added, whole ones only and at most about a megabyte; none when there are no more yet.
    ///
    /// # Errors
    /// When the record cannot be read.
    pub fn next_lines(&mut self) -> io::Result<Vec<String>> {
        loop {
            // Listed before this one is read: a file is whole once there is a later one, and only then left.
            let next = files(&self.folder)?.into_iter().find(|file| Some(file) > self.file.as_ref());
            if let Some(file) = &self.file {
                let lines = read_lines(file, &mut self.offset)?;
                if !lines.is_empty() {
                    return Ok(lines);
                }
            }
            match next {
                None => return Ok(Vec::new()),
                Some(next) => {
                    self.file = Some(next);
                    self.offset = 0;
                }
            }
        }
    }
}

/// The place before the last `lines` whole lines of a record; its beginning where it has no more.
fn place_before(files: Vec<PathBuf>, mut lines: usize) -> io::Result<(Option<PathBuf>, u64)> {
    for path in files.into_iter().rev() {
        let file = File::open(&path)?;
        let mut offset = behind_last_newline(&file, file.metadata()?.len())?;
        while lines > 0 && offset > 0 {
            offset = behind_last_newline(&file, offset - 1)?;
            lines -= 1;
        }
        if lines == 0 {
            return Ok((Some(path), offset));
        }
    }
    Ok((None, 0))
}

fn read_lines(path: &Path, offset: &mut u64) -> io::Result<Vec<String>> {
    let mut file = File::open(path)?;
    let mut bytes = Vec::new();
    file.seek(SeekFrom::Start(*offset))?;
    let mut file = file.take(CHUNK_BYTES);
    // A line longer than a chunk is read on to its end.
    let whole = loop {
        let read = file.read_to_end(&mut bytes)?;
        match bytes.iter().rposition(|&byte| byte == b'\n') {
            Some(end) => break end + 1,
            None if read == 0 => break 0,
            None => file.set_limit(CHUNK_BYTES),
        }
    };
    *offset += whole as u64;
    Ok(String::from_utf8_lossy(&bytes[..whole]).lines().map(str::to_owned).collect())
}
