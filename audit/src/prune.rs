//! Removing old events: whole segments only, below the newest checkpoint. Their hashes and the checkpoints stay, so that the
//! rest of the record can be verified as before.

use std::fs::{self, File};
use std::io;
use std::path::PathBuf;
use std::time::SystemTime;

use serde_json::{Value, json};

use crate::clock;
use crate::proof::time_of;
use crate::record::Files;
use crate::segment::{self, Segment};

/// Segments that are to go.
pub(crate) struct Pruning {
    folder: PathBuf,
    segments: Vec<Segment>,
    /// The last event of the last of them.
    last: u64,
    before: String,
}

impl Files {
    /// The oldest segments, as far as they are of days before that of `before`: no event in one is younger than its name says.
    pub(crate) fn to_prune(&self, before: SystemTime) -> io::Result<Option<Pruning>> {
        let folder = self.data().join("log");
        let segments = segment::list(&folder)?.segments;
        let day = clock::day(before);
        let mut old = 0;
        for pair in segments.windows(2) {
            let is_sealed = pair[1].first - 1 <= self.sealed_size();
            // A name can be changed; what it says must be so of every event in it.
            if pair[0].day >= day || !is_sealed || !is_all_before(&pair[0], &day)? {
                break;
            }
            old += 1;
        }
        let Some(next) = segments.get(old).filter(|_| old > 0) else { return Ok(None) };
        let last = next.first - 1;
        let segments = segments[..old].to_vec();
        Ok(Some(Pruning { folder, segments, last, before: day }))
    }
}

/// Whether all events of a segment are of days before one.
fn is_all_before(segment: &Segment, day: &str) -> io::Result<bool> {
    let (mut lines, mut line) = (segment.open()?, Vec::new());
    while segment::read_line(&mut *lines, &mut line)? {
        let time = time_of(&line).map(|time| clock::day(time.into()));
        if time.is_none_or(|of_event| of_event.as_str() >= day) {
            return Ok(false);
        }
    }
    Ok(true)
}

impl Pruning {
    /// What the record is to say of it.
    pub(crate) fn detail(&self) -> Value {
        let files: Vec<String> = self.segments.iter().map(Segment::name).collect();
        json!({ "first": self.first(), "last": self.last, "before": self.before, "files": files })
    }

    /// Removes them. Returns how many events went.
    pub(crate) fn remove(&self) -> io::Result<u64> {
        for segment in &self.segments {
            fs::remove_file(&segment.path)?;
        }
        File::open(&self.folder)?.sync_all()?;
        Ok(self.last + 1 - self.first())
    }

    fn first(&self) -> u64 {
        self.segments.first().map_or(self.last + 1, |segment| segment.first)
    }
}
