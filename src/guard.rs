//! Looks that what should be filtered is: the interfaces may go, and come again without our programs.

use std::collections::BTreeMap;
use std::mem;
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
    /// Why what was counted would not outlive the agent.
    unkept: Mutex<Option<String>>,
}

impl Guard {
    /// Of a plane that is attached everywhere.
    pub(crate) fn new(plane: Arc<Mutex<PacketPlane>>, log: Log) -> Self {
        Self { plane, log, unfiltered: Mutex::default(), unkept: Mutex::default() }
    }

    /// Attaches what is missing, and records what is filtered no more and what is again. It waits for changes of the
    /// policy.
    pub(crate) fn look(&self) {
        let (restored, kept, digest) = {
            let mut plane = self.plane.lock().unwrap_or_else(PoisonError::into_inner);
            (plane.restore(), plane.keep(), plane.digest())
        };
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
