//! Compressing old segments, in a thread of its own.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Sender, channel};

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::background;
use crate::segment::Segment;

/// Of zstd: more takes several times as long for a tenth less.
const LEVEL: i32 = 3;

/// A segment that was compressed.
pub(crate) struct Packed {
    /// The plain one, in whose place the compressed one is to be put once the record says so.
    pub(crate) segment: Segment,
    /// The compressed one, outside the record.
    pub(crate) draft: PathBuf,
    /// What the record is to say: the file's name, its size, and its SHA-256.
    pub(crate) detail: Value,
}

/// The thread that compresses.
pub(crate) struct Packer {
    queue: Sender<Segment>,
}

impl Packer {
    /// Starts it. `done` is called for each segment.
    pub(crate) fn start(data: &Path, done: impl Fn(Packed) + Send + 'static) -> io::Result<Self> {
        let (queue, segments) = channel::<Segment>();
        let folder = data.join("state/packing");
        // What an earlier agent did not come to use.
        match fs::remove_dir_all(&folder) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => fs::DirBuilder::new().recursive(true).mode(0o750).create(&folder)?,
        }
        background::spawn("audit-pack", move || {
            for segment in segments {
                match pack(&segment, &folder) {
                    Ok(packed) => done(packed),
                    Err(error) => {
                        tracing::warn!(%error, segment = %segment.path.display(), "a segment of the record stays as it is, and is not compressed");
                    }
                }
            }
        })?;
        Ok(Self { queue })
    }

    /// Compresses a segment when its turn comes.
    pub(crate) fn take(&self, segment: Segment) {
        let _ = self.queue.send(segment);
    }
}

impl Packed {
    /// Puts the compressed segment in the place of the plain one.
    pub(crate) fn put_in_place(&self) -> io::Result<()> {
        // It may have been removed since, with all that it held.
        if !self.segment.path.exists() {
            return fs::remove_file(&self.draft);
        }
        fs::rename(&self.draft, self.segment.packed())?;
        fs::remove_file(&self.segment.path)
    }
}

/// Compresses a segment.
fn pack(segment: &Segment, folder: &Path) -> io::Result<Packed> {
    let path = segment.packed();
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let draft = folder.join(&name);
    let mut encoder = zstd::Encoder::new(File::create(&draft)?, LEVEL)?;
    encoder.include_checksum(true)?;
    io::copy(&mut File::open(&segment.path)?, &mut encoder)?;
    let mut file = encoder.finish()?;
    file.flush()?;
    file.sync_all()?;
    fs::set_permissions(&draft, fs::metadata(&segment.path)?.permissions())?;
    let (sha256, bytes) = digest_of(&draft)?;
    let detail = json!({ "file": name, "bytes": bytes, "sha256": sha256 });
    Ok(Packed { segment: segment.clone(), draft, detail })
}

/// The SHA-256 of a file in hexadecimal digits, and its length.
pub(crate) fn digest_of(path: &Path) -> io::Result<(String, u64)> {
    let (mut file, mut sha256, mut bytes) = (File::open(path)?, Sha256::new(), 0);
    let mut chunk = vec![0; 1 << 16];
    loop {
        match file.read(&mut chunk)? {
            0 => break,
            read => {
                sha256.update(&chunk[..read]);
                bytes += read as u64;
            }
        }
    }
    let hex = sha256.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    Ok((hex, bytes))
}
