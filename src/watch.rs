//! Watches policy files and folders, and tells when they have come to rest after a change.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use notify::event::{AccessKind, AccessMode, CreateKind, ModifyKind};
use notify::{Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::mpsc;
use tokio::time::{interval, timeout};

use crate::files::is_policy_file;

/// How long files must rest before they are read: editors write in several steps.
const REST: Duration = Duration::from_millis(50);
/// A change is acted on after this time even if others keep coming.
const REST_AT_MOST: Duration = Duration::from_secs(1);
/// How often it is looked whether the paths still lead to the folders that are watched: the kernel watches folders, not
/// paths, and a folder further up, or a link in the path, may be replaced.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Tells of each change of the files.
pub(crate) struct Watch {
    /// What was named, as absolute paths.
    named: Vec<PathBuf>,
    watcher: RecommendedWatcher,
    /// What the watcher was set on.
    folders: Vec<Folder>,
    look: tokio::time::Interval,
    tell: mpsc::Sender<()>,
    changes: mpsc::Receiver<()>,
    /// Whether a change was seen that is not told yet.
    changed: bool,
    /// Whether the last attempt to set watches failed, and was told.
    failing: bool,
}

/// A folder to watch: where it is named, and which it is (device and inode) if it is there.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Folder {
    path: PathBuf,
    identity: Option<(u64, u64)>,
}

impl Watch {
    /// Watches these files and folders, none of which need be there yet.
    ///
    /// # Errors
    /// When the kernel gives no watches.
    pub(crate) fn new(paths: &[PathBuf]) -> anyhow::Result<Self> {
        // One waiting message is enough: what it says is "look again".
        let (tell, changes) = mpsc::channel(1);
        let named: Vec<PathBuf> = paths.iter().map(std::path::absolute).collect::<Result<_, _>>()?;
        let folders = folders(&named);
        let watcher = watcher(&named, &folders, tell.clone())?;
        let look = interval(LOOK_EVERY);
        Ok(Self { named, watcher, folders, look, tell, changes, changed: false, failing: false })
    }

    /// Waits for the next change, and then for rest. A wait that is broken off goes on at the next call.
    pub(crate) async fn changed(&mut self) {
        while !self.changed {
            tokio::select! {
                _ = self.changes.recv() => self.changed = true,
                _ = self.look.tick() => {
                    self.changed = folders(&self.named) != self.folders;
                    if self.failing {
                        self.set_anew();
                    }
                }
            }
        }
        let _ = timeout(REST_AT_MOST, async {
            while let Ok(Some(())) = timeout(REST, self.changes.recv()).await {}
        })
        .await;
        self.changed = false;
        self.set_anew();
    }

    /// Watches what the paths lead to now. Called at every change, before the files are read: a folder that was moved
    /// is no longer watched, even if it was moved back.
    fn set_anew(&mut self) {
        self.folders = folders(&self.named);
        match watcher(&self.named, &self.folders, self.tell.clone()) {
            Ok(watcher) => (self.watcher, self.failing) = (watcher, false),
            Err(error) if !self.failing => {
                tracing::warn!(
                    "edits of the policy may go unseen until SIGHUP or `interdict reload`: {error:#}"
                );
                self.failing = true;
            }
            Err(_) => {}
        }
    }
}

/// The folders that hold what is named, and those that are named themselves.
fn folders(named: &[PathBuf]) -> Vec<Folder> {
    let mut paths: Vec<&Path> = named.iter().filter_map(|path| path.parent()).collect();
    paths.extend(named.iter().filter(|path| path.is_dir()).map(PathBuf::as_path));
    paths.sort();
    paths.dedup();
    let identity = |path| std::fs::metadata(path).ok().map(|about| (about.dev(), about.ino()));
    paths.into_iter().map(|path| Folder { path: path.to_owned(), identity: identity(path) }).collect()
}

fn watcher(
    named: &[PathBuf],
    folders: &[Folder],
    tell: mpsc::Sender<()>,
) -> anyhow::Result<RecommendedWatcher> {
    let watched = named.to_vec();
    let mut watcher = notify::recommended_watcher(move |event: notify::Result<Event>| {
        if event.as_ref().map_or(true, |event| is_a_change(event) && concerns(&watched, event)) {
            let _ = tell.try_send(());
        }
    })
    .context("cannot watch the policy files")?;
    for Folder { path, .. } in folders.iter().filter(|folder| folder.identity.is_some()) {
        watcher
            .watch(path, RecursiveMode::NonRecursive)
            .with_context(|| format!("cannot watch {}", path.display()))?;
    }
    Ok(watcher)
}

/// Writing that has ended, and names that came, went or moved. A write that goes on is none, nor is the creation
/// of a file that is about to be written: a file half written could be a weaker policy.
fn is_a_change(event: &Event) -> bool {
    match event.kind {
        EventKind::Access(AccessKind::Close(AccessMode::Write)) => true,
        EventKind::Create(kind) => kind != CreateKind::File,
        EventKind::Remove(_) | EventKind::Modify(ModifyKind::Name(_)) => true,
        _ => event.need_rescan(),
    }
}

/// Whether an event is about something named, or about a policy file in it. One without a path says that the kernel
/// lost some.
fn concerns(named: &[PathBuf], event: &Event) -> bool {
    let is_in = |path: &Path| path.parent().is_some_and(|folder| named.iter().any(|named| named == folder));
    let is_ours = |path: &PathBuf| named.contains(path) || is_policy_file(path) && is_in(path);
    event.paths.is_empty() || event.paths.iter().any(is_ours)
}

#[cfg(test)]
mod tests {
    use notify::event::{CreateKind, DataChange, MetadataKind, RemoveKind, RenameMode};

    use super::*;

    #[test]
    fn only_what_was_written_to_policy_files_is_a_change() {
        use EventKind::{Access, Create, Modify, Other, Remove};
        let named = [PathBuf::from("/etc/p"), "/srv/one.toml".into()];
        let written = Access(AccessKind::Close(AccessMode::Write));
        for (kind, path, expect) in [
            (written, "/srv/one.toml", true),
            (written, "/srv/two.toml", false),
            (written, "/srv/log", false),
            (written, "/etc/p/a.toml", true),
            (written, "/etc/p/.a.toml", false),
            (written, "/etc/p/a.txt", false),
            (written, "/etc/other/a.toml", false),
            (Modify(ModifyKind::Data(DataChange::Any)), "/etc/p/a.toml", false),
            (Modify(ModifyKind::Metadata(MetadataKind::Any)), "/etc/p/a.toml", false),
            (Modify(ModifyKind::Name(RenameMode::To)), "/etc/p/a.toml", true),
            (Modify(ModifyKind::Name(RenameMode::From)), "/etc/p", true),
            (Modify(ModifyKind::Name(RenameMode::To)), "/etc/q", false),
            (Create(CreateKind::File), "/etc/p/a.toml", false),
            (Create(CreateKind::Folder), "/etc/p", true),
            (Remove(RemoveKind::File), "/srv/one.toml", true),
            (Remove(RemoveKind::Folder), "/etc/p", true),
            (Other, "/etc/p/a.toml", false),
        ] {
            let event = Event::new(kind).add_path(path.into());
            assert_eq!(is_a_change(&event) && concerns(&named, &event), expect, "{kind:?} {path}");
        }
        let lost = Event::new(Other).set_flag(notify::event::Flag::Rescan);
        assert!(is_a_change(&lost) && concerns(&named, &lost));
    }
}
