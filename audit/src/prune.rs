//! Removing old events: whole segments only, below the newest checkpoint. Their hashes and the checkpoints stay, so that the
//! rest of the record can be verified as before.

use std::fs::{self, File};
use std::io;
use std::path::PathBuf;
use std::time::SystemTime;

use serde_json::{Value, json};

use crate::clock;
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
        let is_old = |pair: &&[Segment]| pair[0].day < day && pair[1].first - 1 <= self.sealed_size();
        let old = segments.windows(2).take_while(is_old).count();
        let Some(next) = segments.get(old).filter(|_| old > 0) else { return Ok(None) };
        let last = next.first - 1;
        let segments = segments[..old].to_vec();
        Ok(Some(Pruning { folder, segments, last, before: day }))
    }
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
