//! Looks that what should be filtered is: the interfaces may go, and come again without our programs.

use std::collections::BTreeMap;
use std::mem;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use interdict_audit::{Entry, Log};
use interdict_ebpf_loader::{PacketPlane, Restored};
use serde_json::json;

/// How often it looks.
pub(crate) const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Keeps the programs on the interfaces that were named.
pub(crate) struct Guard {
    plane: Arc<Mutex<PacketPlane>>,
    log: Log,
    /// The interfaces that are not filtered, and why.
    unfiltered: Mutex<BTreeMap<String, String>>,
    /// Packets without a record that the record tells of, or that were there before.
    unrecorded: AtomicU64,
    /// Why what was counted would not outlive the agent.
    unkept: Mutex<Option<String>>,
}

impl Guard {
    /// Of a plane that is attached everywhere.
    pub(crate) fn new(plane: Arc<Mutex<PacketPlane>>, log: Log) -> Self {
        let before = plane.lock().unwrap_or_else(PoisonError::into_inner).unrecorded().unwrap_or_default();
        let (unfiltered, unkept) = (Mutex::default(), Mutex::default());
        Self { plane, log, unfiltered, unrecorded: before.into(), unkept }
    }

    /// Attaches what is missing, and records what is filtered no more and what is again. It waits for changes of the
    /// policy.
    pub(crate) fn look(&self) {
        let (restored, kept, unrecorded, digest) = {
            let mut plane = self.plane.lock().unwrap_or_else(PoisonError::into_inner);
            (plane.restore(), plane.keep(), plane.unrecorded(), plane.digest())
        };
        if let Ok(unrecorded) = unrecorded {
            self.log.lose(unrecorded.saturating_sub(self.unrecorded.swap(unrecorded, Relaxed)));
        }
        let why = kept.err().map(|error| format!("{:#}", anyhow::Error::from(error)));
        let before =
            mem::replace(&mut *self.unkept.lock().unwrap_or_else(PoisonError::into_inner), why.clone());
        if let Some(why) = why.filter(|_| before.is_none()) {
            tracing::error!("what is counted will not outlive the agent: {why}");
        }
        let mut unfiltered = self.unfiltered.lock().unwrap_or_else(PoisonError::into_inner);
        for (interface, outcome) in restored {
            match outcome {
                Ok(Restored::InPlace) => {}
                Ok(Restored::Again) => {
                    tracing::warn!(%interface, "packets are filtered again");
                    if !unfiltered.contains_key(&interface) {
                        let reason = "its programs were gone, for a second at most before they were put back";
                        let detail = json!({ "interface": interface, "reason": reason });
                        self.log.record(Entry::admin("interface.unfiltered", detail, digest));
                    }
                    let detail = json!({ "interface": interface });
                    self.log.record(Entry::admin("interface.filtered", detail, digest));
                    unfiltered.remove(&interface);
                }
                Err(error) => {
                    let why = format!("{:#}", anyhow::Error::from(error));
                    if !unfiltered.contains_key(&interface) {
                        tracing::error!(%interface, "packets are NOT filtered: {why}");
                        let detail = json!({ "interface": interface, "reason": why });
                        self.log.record(Entry::admin("interface.unfiltered", detail, digest));
                    }
                    unfiltered.insert(interface, why);
                }
            }
        }
    }

    /// What is not filtered, and why; `None` when everything is.
    pub(crate) fn warning(&self) -> Option<String> {
        let unfiltered = self.unfiltered.lock().unwrap_or_else(PoisonError::into_inner);
        let unkept = self.unkept.lock().unwrap_or_else(PoisonError::into_inner);
        let each: Vec<String> = unfiltered
            .iter()
            .map(|(interface, why)| format!("{interface} is not filtered: {why}"))
            .chain(unkept.iter().map(|why| format!("what is counted will not outlive the agent: {why}")))
            .collect();
        (!each.is_empty()).then(|| each.join("; "))
    }
}
