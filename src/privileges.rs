//! Giving up every privilege that the running agent has no use for.

use std::path::Path;

use anyhow::Context;
use rustix::fs::{Access, AtFlags, CWD, accessat};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities, remove_capability_from_bounding_set, set_capabilities,
    set_no_new_privs,
};

/// What a running agent needs: to stage policies in the kernel, and to bind port 53 again.
const KEPT: CapabilitySet =
    CapabilitySet::BPF.union(CapabilitySet::NET_ADMIN).union(CapabilitySet::NET_BIND_SERVICE);

/// Gives up every capability but [`KEPT`], for this thread and those that it starts (capabilities(7)). Call it before
/// any other thread is started.
///
/// # Errors
/// When the kernel refuses.
pub(crate) fn drop_unneeded() -> anyhow::Result<()> {
    let have = capabilities(None).context("cannot read the process's capabilities")?;
    if have.permitted.contains(CapabilitySet::SETPCAP) {
        for other in CapabilitySet::all().difference(KEPT).iter() {
            // The kernel says EINVAL for those that it does not know.
            let _ = remove_capability_from_bounding_set(other);
        }
    }
    let kept = have.permitted.intersection(KEPT);
    let sets = CapabilitySets { effective: kept, permitted: kept, inheritable: CapabilitySet::empty() };
    set_capabilities(None, sets).context("cannot drop capabilities")?;
    set_no_new_privs(true).context("cannot give up new privileges")
}

/// Open files that the bounds on connections and on questions in flight add up to, with room for the rest.
const OPEN_FILES_WANTED: u64 = 4096;

/// Lets the process open as many files as the system allows it: each TCP connection and each question that is asked of
/// an upstream takes one, and the usual soft limit is for programs that use select(2).
pub(crate) fn raise_open_files_limit() {
    let limit = getrlimit(Resource::Nofile);
    if let Some(maximum) = limit.maximum.filter(|maximum| *maximum < OPEN_FILES_WANTED) {
        tracing::warn!("at most {maximum} files can be open: a flood of connections may use them up");
    }
    let raised = Rlimit { current: limit.maximum, ..limit };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        tracing::warn!(%error, "the limit of open files stays {:?}", limit.current);
    }
}

/// Whether the agent can still make files in a folder.
///
/// # Errors
/// Names the folder.
pub(crate) fn check_writable(folder: &Path) -> anyhow::Result<()> {
    accessat(CWD, folder, Access::WRITE_OK | Access::EXEC_OK, AtFlags::EACCESS).with_context(|| {
        format!(
            "cannot write to {}: the agent gives up the right to override permissions; \
             give the folder to the user that runs it",
            folder.display()
        )
    })
}
