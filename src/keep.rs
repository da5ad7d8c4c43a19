//! Kept answers across a restart: a file that is there only while no agent runs.

use std::fs::{self, File, OpenOptions};
use std::io::{BufReader, BufWriter, ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use interdict_dns_filter::Forwarder;

/// Where they are, in the data folder.
fn file(data: &Path) -> PathBuf {
    data.join("state/cache")
}

/// Takes the answers that an agent left, and removes the file.
pub(crate) fn take(data: &Path, forwarder: &Forwarder) {
    let path = file(data);
    // A pipe would keep us waiting.
    if !fs::metadata(&path).is_ok_and(|about| about.is_file()) {
        return;
    }
    match File::open(&path) {
        Ok(file) => match forwarder.restore(&mut BufReader::new(file)) {
            Ok(answers) => tracing::debug!(answers, "kept answers of the last run"),
            Err(error) => tracing::warn!(path = %path.display(), %error, "kept answers cannot be read"),
        },
        Err(error) if error.kind() == ErrorKind::NotFound => return,
        Err(error) => tracing::warn!(path = %path.display(), %error, "kept answers cannot be read"),
    }
    let _ = fs::remove_file(path);
}

/// Leaves them to the next agent.
pub(crate) fn leave(data: &Path, forwarder: &Forwarder) {
    let path = file(data);
    let new = path.with_extension("new");
    let write = || {
        // Which names were asked for is nobody else's business.
        let file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
        let mut file = BufWriter::new(file);
        forwarder.save(&mut file)?;
        file.flush()?;
        fs::rename(&new, &path)
    };
    if let Err(error) = write() {
        tracing::warn!(path = %path.display(), %error, "kept answers are not left to the next start");
        let _ = fs::remove_file(new);
    }
}
