//! What the programs counted.

use std::collections::BTreeMap;

use aya::maps::{MapData, MapError, PerCpuArray};
use interdict_ebpf_shared::{
    count::{Count, Exit, Loss, RuleCounts, Unjudged},
    maps,
    policy::Verdict,
};
use interdict_policy::RuleId;

use crate::{
    Error,
    registry::{Registry, word_of},
    staging::named,
};

/// Everything that was counted since the programs were loaded: by this agent, or by the first of those that took over one
/// from the other.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Packets by the reason they left by, under [`Exit::name`]. Each packet is in exactly one.
    pub exits: BTreeMap<&'static str, u64>,
    /// Packets of which something could not be judged, under [`Unjudged::name`]: the ledger of ways around us.
    pub unjudged: BTreeMap<&'static str, u64>,
    /// Packets and bytes by rule and verdict, without those that are zero.
    pub rules: Vec<RuleCount>,
    /// Packets that were not recorded as usual, under [`Loss::name`].
    pub losses: BTreeMap<&'static str, u64>,
    /// Addresses that could not be opened because the table was full.
    pub answers_overflow: u64,
}

/// What one rule decided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuleCount {
    /// The rule.
    pub rule: RuleId,
    /// What was done.
    pub verdict: interdict_policy::Verdict,
    /// To how many packets and bytes.
    pub count: Count,
}

/// The kernel's counters.
pub(crate) struct CounterMaps {
    pub(crate) exits: PerCpuArray<MapData, u64>,
    pub(crate) unjudged: PerCpuArray<MapData, u64>,
    pub(crate) losses: PerCpuArray<MapData, u64>,
    pub(crate) rules: PerCpuArray<MapData, RuleCounts>,
}

impl CounterMaps {
    pub(crate) fn read(&self, registry: &Registry) -> Result<Counters, Error> {
        let mut counters = Counters::default();
        for &exit in Exit::ALL {
            let count = sum(&self.exits, exit as u32).map_err(named(maps::EXITS))?;
            counters.exits.insert(exit.name(), count);
        }
        for &what in Unjudged::ALL {
            let count = sum(&self.unjudged, what as u32).map_err(named(maps::UNJUDGED))?;
            counters.unjudged.insert(what.name(), count);
        }
        for &loss in Loss::ALL {
            let count = sum(&self.losses, loss as u32).map_err(named(maps::LOSSES))?;
            counters.losses.insert(loss.name(), count);
        }
        for (slot, rule) in registry.rules().iter().enumerate() {
            for (verdict, count) in self.read_rule(slot as u32)? {
                counters.rules.push(RuleCount { rule: rule.clone(), verdict: word_of(verdict), count });
            }
        }
        Ok(counters)
    }

    /// Packets of which nothing is recorded but counters, so far.
    pub(crate) fn unrecorded(&self) -> Result<u64, Error> {
        sum(&self.losses, Loss::Unrecorded as u32).map_err(named(maps::LOSSES))
    }

    fn read_rule(&self, slot: u32) -> Result<Vec<(Verdict, Count)>, Error> {
        let cpus = self.rules.get(&slot, 0).map_err(named(maps::RULE_COUNTS))?;
        let counts = Verdict::ALL.into_iter().enumerate().map(|(index, verdict)| {
            let mut total = Count::default();
            for cpu in cpus.iter() {
                total.packets += cpu.verdicts[index].packets;
                total.bytes += cpu.verdicts[index].bytes;
            }
            (verdict, total)
        });
        Ok(counts.filter(|(_, count)| count.packets > 0).collect())
    }
}

fn sum(map: &PerCpuArray<MapData, u64>, index: u32) -> Result<u64, MapError> {
    Ok(map.get(&index, 0)?.iter().sum())
}
