//! The one way by which a policy comes into force: read, compile, test, stage, and only then switch.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use interdict_audit::{Entry, Log, background};
use interdict_dns_filter::Filter;
use interdict_ebpf_loader::PacketPlane;
use interdict_policy::{Code, Compiled, Digest, Policy, Problem, Problems, Timestamp};
use serde_json::{Value, json};

use crate::aside::aside;
use crate::files;
use crate::packets::Policies;
use crate::store::Store;

/// Who or what asked for a reload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// The policy files changed.
    Files,
    /// The last reload failed for a reason that may have passed.
    Retry,
    /// SIGHUP.
    Signal,
    /// The control socket's verb.
    Verb {
        /// The number of the user who asked.
        uid: u32,
    },
}

impl Cause {
    fn detail(self) -> Value {
        match self {
            Self::Files => json!("files"),
            Self::Retry => json!("retry"),
            Self::Signal => json!("signal"),
            Self::Verb { uid } => json!({ "uid": uid }),
        }
    }
}

/// A point between two steps of a reload, all before the switch. Tests stop a reload there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// The files are read, compiled, and their tests passed.
    Compiled,
    /// The policy is kept on disk.
    Kept,
    /// The kernel has the policy beside the one in force, and has tried it.
    Staged,
}

/// Why a policy did not come into force. The one before it still is.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    /// The files are not in order.
    #[error("{0}")]
    Problems(#[from] Problems),
    /// Something else failed on the way.
    #[error("{0:#}")]
    Failed(#[from] anyhow::Error),
}

impl Refused {
    /// Whether the same files may be taken another time: what is in the way is not what they say.
    fn may_pass(&self) -> bool {
        let outside = |problem: &Problem| matches!(problem.code, Code::Unreadable | Code::Untrusted);
        match self {
            Self::Problems(problems) => problems.iter().any(outside),
            Self::Failed(_) => true,
        }
    }

    /// What `status` says until the next reload.
    fn warning(&self) -> String {
        match self {
            Self::Problems(_) => "the policy files are not in order; an earlier policy is in force".into(),
            Self::Failed(error) => {
                format!("the policy files are in order, but an earlier policy is in force: {error:#}")
            }
        }
    }
}

/// A policy that came into force.
#[derive(Clone, Copy, Debug)]
pub struct Applied {
    /// What was in force before.
    pub from: Digest,
    /// What is now.
    pub to: Digest,
}

/// Where the policy comes from.
#[derive(Clone, Debug, Default)]
pub struct PolicyFiles {
    /// Files and folders; none for the embedded pack.
    pub paths: Vec<PathBuf>,
    /// The profile in force, if the agent's configuration names one.
    pub profile: Option<String>,
}

impl PolicyFiles {
    fn compile(&self) -> Result<Compiled, Problems> {
        let compiled = files::compile_trusted(&self.paths, self.profile.as_deref())?;
        let passed_over = compiled.notes.iter().filter(|note| note.code == Code::PassedOver);
        passed_over.for_each(|note| tracing::warn!("{note}"));
        Ok(compiled)
    }
}

/// Brings policies into force, one at a time.
pub struct Reloader {
    files: PolicyFiles,
    filter: Arc<Filter>,
    /// The kernel's side; `None` where no packets are filtered.
    packets: Option<Arc<Mutex<PacketPlane>>>,
    policies: Policies,
    store: Store,
    log: Log,
    /// Why what is in force is not what the files say, if so. Held for the whole of a reload.
    warning: Mutex<Option<String>>,
    /// Why the last reload failed, if it did for a reason that may pass.
    passing: Mutex<Option<String>>,
    checkpoint: Checkpoint,
}

type Checkpoint = Box<dyn Fn(Step) -> anyhow::Result<()> + Send + Sync>;

impl Reloader {
    /// A reloader of these files, or of the embedded pack where there are none.
    pub fn new(
        files: PolicyFiles,
        filter: Arc<Filter>,
        packets: Option<Arc<Mutex<PacketPlane>>>,
        policies: Policies,
        store: Store,
        log: Log,
        warning: Option<String>,
    ) -> Self {
        let checkpoint: Checkpoint = Box::new(|_| Ok(()));
        let (warning, passing) = (Mutex::new(warning), Mutex::default());
        Self { files, filter, packets, policies, store, log, warning, passing, checkpoint }
    }

    /// Has every reload call `checkpoint` after each step; an error there refuses the policy.
    pub fn with_checkpoint(mut self, checkpoint: Checkpoint) -> Self {
        self.checkpoint = checkpoint;
        self
    }

    /// Reads the files again and brings their policy into force.
    ///
    /// # Errors
    /// When anything fails before the switch: then nothing has changed, and the refusal is on record.
    pub fn reload(&self, cause: Cause) -> Result<Applied, Refused> {
        let mut warning = self.warning.lock().unwrap_or_else(PoisonError::into_inner);
        // What status says if a fault of ours ends this thread half way.
        let before = warning.replace("a reload broke off; the policy before it is in force".into());
        match self.change(cause) {
            Ok(applied) => {
                *warning = None;
                self.set_passing(None);
                let mended = before.is_some();
                if applied.from == applied.to && (mended || cause != Cause::Files) {
                    tracing::info!(digest = %applied.to, "the files say what is in force already");
                    self.record("policy.unchanged", json!({ "cause": cause.detail() }), applied.to);
                }
                Ok(applied)
            }
            Err(refused) => {
                *warning = Some(refused.warning());
                let problems = refused.to_string();
                let again = self.set_passing(refused.may_pass().then(|| problems.clone()));
                // What is tried again by itself is told once.
                if cause == Cause::Retry && again.as_ref() == Some(&problems) {
                    return Err(refused);
                }
                tracing::error!("policy refused, the one in force stays:\n{problems}");
                let problems = problems.lines().collect::<Vec<_>>();
                let detail = json!({ "cause": cause.detail(), "problems": problems });
                self.record("policy.refused", detail, self.filter.policy().digest());
                Err(refused)
            }
        }
    }

    /// Everything that can fail, then the switch of both planes, which cannot.
    fn change(&self, cause: Cause) -> Result<Applied, Refused> {
        // Aside too what remains of the files is freed.
        let policy = aside(|| self.files.compile().map(|compiled| Arc::new(compiled.policy)))?;
        (self.checkpoint)(Step::Compiled)?;
        let before = self.filter.policy();
        let applied = Applied { from: before.digest(), to: policy.digest() };
        if applied.from == applied.to {
            // It decides the same, but its rules may stand on other lines now.
            self.filter.swap(policy);
            let_go(before);
            return Ok(applied);
        }
        aside(|| self.store.keep(&policy))?;
        (self.checkpoint)(Step::Kept)?;
        let mut packets =
            self.packets.as_ref().map(|plane| plane.lock().unwrap_or_else(PoisonError::into_inner));
        let mut packets = packets.as_deref_mut();
        let staged =
            packets.as_mut().map(|plane| plane.stage(&policy)).transpose().map_err(anyhow::Error::from)?;
        (self.checkpoint)(Step::Staged)?;

        self.policies.add(&policy);
        let flipped = match (packets.as_mut(), staged) {
            (Some(plane), Some(staged)) => Some(plane.flip(staged).map_err(anyhow::Error::from)?),
            _ => None,
        };
        let start = flipped.map_or_else(Instant::now, |flipped| flipped.at);
        self.filter.swap(policy.clone());
        let gap = start.elapsed();

        if let Some(Err(error)) = packets.map(PacketPlane::settle) {
            tracing::warn!(%error, "the kernel did not confirm that the old policy is out of use");
        }
        self.finish(&policy, applied, cause, gap);
        let_go(before);
        Ok(applied)
    }

    /// Stages the policy in force once more, so that the kernel's idea of when exemptions end follows the clock, and
    /// records those that have ended since `before`.
    ///
    /// # Errors
    /// When the kernel refuses: then it goes by the ends that it knew.
    pub fn exemptions_ended(&self, before: Timestamp, now: Timestamp) -> anyhow::Result<()> {
        let _reloads = self.warning.lock().unwrap_or_else(PoisonError::into_inner);
        let policy = self.filter.policy();
        for exemption in policy.expired(now).filter(|exemption| exemption.stands(before)) {
            let rules: Vec<&str> = exemption.rules.iter().map(|rule| rule.value.as_str()).collect();
            tracing::warn!(exemption = %exemption.id, "an exemption has ended");
            let detail = json!({
                "exemption": exemption.id.as_str(),
                "rules": rules,
                "approved_by": exemption.approved_by,
                "expires": exemption.expires.to_string(),
            });
            self.record("exemption.ended", detail, policy.digest());
        }
        if let Some(plane) = &self.packets {
            let mut plane = plane.lock().unwrap_or_else(PoisonError::into_inner);
            let staged = plane.stage(&policy)?;
            plane.flip(staged)?;
            plane.settle()?;
        }
        Ok(())
    }

    /// What is said of a switch.
    fn finish(&self, policy: &Policy, applied: Applied, cause: Cause, gap: Duration) {
        if let Err(error) = self.store.mark(policy) {
            tracing::warn!("the policy is in force, but would not be found at the next start: {error:#}");
        }
        tracing::info!(from = %applied.from, to = %applied.to, "policy in force");
        let detail = json!({
            "cause": cause.detail(),
            "from": applied.from.to_string(),
            "to": applied.to.to_string(),
            "gap_ns": u64::try_from(gap.as_nanos()).unwrap_or(u64::MAX),
        });
        self.record("policy.applied", detail, applied.to);
    }

    fn record(&self, act: &str, detail: Value, digest: Digest) {
        self.log.record(Entry::admin(act, detail, Some(digest)));
    }

    /// Whether the last reload failed for a reason that may have passed: no room, no memory, a file without permission.
    pub fn is_worth_another_try(&self) -> bool {
        self.passing.lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }

    /// Returns what stood there before.
    fn set_passing(&self, problems: Option<String>) -> Option<String> {
        std::mem::replace(&mut *self.passing.lock().unwrap_or_else(PoisonError::into_inner), problems)
    }

    /// Why what is in force is not what the files say; `None` when it is.
    pub fn warning(&self) -> Option<String> {
        self.warning.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The files and folders; none for the embedded pack.
    pub fn paths(&self) -> &[PathBuf] {
        &self.files.paths
    }
}

/// Frees a policy that is no longer in force, which takes a while where it is large: not in a thread that answers, so it is
/// held until no question sees it any more.
fn let_go(policy: Arc<Policy>) {
    const LOOK_EVERY: Duration = Duration::from_millis(100);
    const LOOKS: usize = 100;
    // Without a thread it is freed here.
    let _ = background::spawn("policy-free", move || {
        for _ in 0..LOOKS {
            if Arc::strong_count(&policy) == 1 {
                break;
            }
            std::thread::sleep(LOOK_EVERY);
        }
        aside(|| drop(policy));
    });
}

/// The policy to start with.
pub(crate) struct First {
    pub(crate) policy: Policy,
    /// Set when it is the last known good one instead of what the files say.
    pub(crate) warning: Option<String>,
}

/// Compiles the policy to start with; where the files are not in order, the last one that was in force.
///
/// # Errors
/// When the files are not in order and none was ever in force.
pub(crate) fn first(files: &PolicyFiles, store: &Store) -> anyhow::Result<First> {
    match files.compile() {
        Ok(compiled) => Ok(First { policy: compiled.policy, warning: None }),
        Err(problems) => {
            let Some(policy) = store.last_good() else {
                anyhow::bail!(
                    "the policy is not in order and no earlier one is kept; nothing was started\n{problems}"
                );
            };
            tracing::error!("the policy is not in order:\n{problems}");
            tracing::warn!(digest = %policy.digest(), "the LAST KNOWN GOOD policy is in force instead");
            let warning =
                "the policy files are not in order; the last known good policy is in force".to_owned();
            Ok(First { policy, warning: Some(warning) })
        }
    }
}
