//! Watches policy files and folders, and tells when they have come to rest after a change.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use notify::event::{AccessKind, AccessMode, CreateKind, ModifyKind};
use notify::{Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::mpsc;

/// How long files must rest before they are read: editors write in several steps.
const REST: Duration = Duration::from_millis(50);
/// A change is acted on after this time even if others keep coming.
const REST_AT_MOST: Duration = Duration::from_secs(1);

/// Sends a message after each change of the files.
pub(crate) struct Watch {
    _watcher: Option<RecommendedWatcher>,
    changes: mpsc::Receiver<()>,
}

impl Watch {
    pub(crate) fn new(paths: &[PathBuf]) -> anyhow::Result<Self> {
        // One waiting message is enough: what it says is "look again".
        let (tell, changes) = mpsc::channel(1);
        if paths.is_empty() {
            std::mem::forget(tell);
            return Ok(Self { _watcher: None, changes });
        }
        let mut watcher = notify::recommended_watcher(move |event: notify::Result<Event>| {
            if event.as_ref().map_or(true, is_a_change) {
                let _ = tell.try_send(());
            }
        })
        .context("cannot watch the policy files")?;
        for path in paths {
            // The folder of a file is watched, since editors put a new file in its place.
            let folder = if path.is_dir() { path.as_path() } else { parent(path) };
            watcher
                .watch(folder, RecursiveMode::NonRecursive)
                .with_context(|| format!("cannot watch {}", folder.display()))?;
        }
        Ok(Self { _watcher: Some(watcher), changes })
    }

    /// Waits for the next change, and then for rest.
    pub(crate) async fn changed(&mut self) {
        if self.changes.recv().await.is_none() {
            std::future::pending::<()>().await;
        }
        let _ = tokio::time::timeout(REST_AT_MOST, async {
            while let Ok(Some(())) = tokio::time::timeout(REST, self.changes.recv()).await {}
        })
        .await;
    }
}

/// Writing that has ended, and names that came, went or moved. A write that goes on is none, nor is the creation
/// of a file that is about to be written: a file half written could be a weaker policy.
fn is_a_change(event: &Event) -> bool {
    match event.kind {
        EventKind::Access(AccessKind::Close(AccessMode::Write)) => true,
        EventKind::Create(kind) => kind != CreateKind::File,
        EventKind::Remove(_) | EventKind::Modify(ModifyKind::Name(_)) => true,
        _ => false,
    }
}

fn parent(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}
