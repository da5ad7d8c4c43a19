//! The policies that were in force, each in a folder named by its digest, and which of them was last.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context;
use interdict_policy::{Options, Policy, compile_with};

use crate::aside::write_in_parts;
use crate::files;

/// `policies/` and `state/` in the data folder.
#[derive(Clone, Debug)]
pub struct Store {
    policies: PathBuf,
    last_good: PathBuf,
}

impl Store {
    /// Opens the folders, which are made if need be.
    ///
    /// # Errors
    /// When the file system says no.
    pub fn open(data: &Path) -> anyhow::Result<Self> {
        let (policies, state) = (data.join("policies"), data.join("state"));
        for folder in [&policies, &state] {
            fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
        }
        Ok(Self { policies, last_good: state.join("last-good") })
    }

    /// Keeps a policy's canonical files. Each step is a rename, so that an end in the middle leaves the old state.
    pub(crate) fn keep(&self, policy: &Policy) -> anyhow::Result<()> {
        let digest = policy.digest().to_string();
        let folder = self.policies.join(&digest);
        if !folder.is_dir() {
            let fresh = self.policies.join(format!(".{digest}.new"));
            let _ = fs::remove_dir_all(&fresh);
            fs::create_dir(&fresh).with_context(|| format!("cannot create {}", fresh.display()))?;
            for file in policy.canonical_files() {
                write_synced(&fresh.join(&file.name), file.text.as_bytes())?;
            }
            fs::rename(&fresh, &folder).with_context(|| format!("cannot create {}", folder.display()))?;
        }
        Ok(())
    }

    /// Marks a kept policy as the last that was in force.
    pub(crate) fn mark(&self, policy: &Policy) -> anyhow::Result<()> {
        let fresh = self.last_good.with_extension("new");
        write_synced(&fresh, policy.digest().to_string().as_bytes())?;
        fs::rename(&fresh, &self.last_good)
            .with_context(|| format!("cannot write {}", self.last_good.display()))
    }

    /// The last policy that was in force. `None` when there is none that still has its digest.
    pub(crate) fn last_good(&self) -> Option<Policy> {
        self.kept(fs::read_to_string(&self.last_good).ok()?.trim())
    }

    /// A kept policy by its digest. `None` when there is none that still has it.
    pub(crate) fn kept(&self, digest: &str) -> Option<Policy> {
        let sources = files::read(&[self.policies.join(digest)]).ok()?.sources;
        let options = Options { egress_rules: true, ..Options::default() };
        let policy = compile_with(&sources, &options).ok()?.policy;
        (policy.digest().to_string() == digest).then_some(policy)
    }
}

fn write_synced(path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    let write = || {
        let mut file = fs::File::create(path)?;
        write_in_parts(&mut file, bytes)?;
        file.sync_all()
    };
    write().with_context(|| format!("cannot write {}", path.display()))
}
