//! What the numbers in the kernel mean: rule slots and generations.

use std::collections::{BTreeMap, HashMap};

use interdict_ebpf_shared::{
    limits::MAX_RULES,
    policy::{State, Verdict},
};
use interdict_policy::{Action, Digest, RuleId};

use crate::Error;

/// Policies whose events can still be told apart. Older ones have long been read.
const MAX_GENERATIONS: usize = 65_536;

/// The meaning of every number that events and counters carry.
#[derive(Default)]
pub(crate) struct Registry {
    slots: HashMap<RuleId, u32>,
    rules: Vec<RuleId>,
    digests: BTreeMap<u64, Digest>,
    /// By slot, what the rules of the policy in force do.
    live: Vec<State>,
}

impl Registry {
    /// The slot of a rule, which it keeps for the life of the agent.
    pub(crate) fn slot_for(&mut self, rule: &RuleId) -> Result<u32, Error> {
        if let Some(&slot) = self.slots.get(rule) {
            return Ok(slot);
        }
        let slot = self.rules.len() as u32;
        if slot == MAX_RULES {
            let count = self.rules.len() + 1;
            return Err(Error::TooMany {
                what: "rules since the start of the agent",
                count,
                limit: MAX_RULES,
            });
        }
        self.rules.push(rule.clone());
        self.slots.insert(rule.clone(), slot);
        Ok(slot)
    }

    pub(crate) fn slot(&self, rule: &RuleId) -> Option<u32> {
        self.slots.get(rule).copied()
    }

    pub(crate) fn rule(&self, slot: u32) -> Option<&RuleId> {
        self.rules.get(slot as usize)
    }

    /// Every rule with a slot, in the order of slots.
    pub(crate) fn rules(&self) -> &[RuleId] {
        &self.rules
    }

    pub(crate) fn add_generation(&mut self, generation: u64, digest: Digest) {
        self.digests.insert(generation, digest);
        if self.digests.len() > MAX_GENERATIONS {
            self.digests.pop_first();
        }
    }

    pub(crate) fn digest(&self, generation: u64) -> Option<Digest> {
        self.digests.get(&generation).copied()
    }

    /// Says what the rules of the policy in force do, by slot.
    pub(crate) fn set_live(&mut self, states: Vec<State>) {
        self.live = states;
    }

    /// Whether the policy in force lets through what this rule opened.
    pub(crate) fn lets_through(&self, slot: u32) -> bool {
        matches!(self.state(slot).verdict(), Some(Verdict::Allow | Verdict::Log))
    }

    /// Whether the policy in force exempts anyone from this rule.
    pub(crate) fn has_exemptions(&self, slot: u32) -> bool {
        self.state(slot).has_exemptions()
    }

    /// Whether the policy in force matches addresses that this rule learned.
    pub(crate) fn learns(&self, slot: u32) -> bool {
        self.state(slot).learns()
    }

    fn state(&self, slot: u32) -> State {
        self.live.get(slot as usize).copied().unwrap_or(State::NONE)
    }
}

/// The kernel's word for an action.
pub(crate) const fn verdict_of(action: Action) -> Verdict {
    match action {
        Action::Block => Verdict::Block,
        Action::Log => Verdict::Log,
        Action::Allow => Verdict::Allow,
    }
}

/// The policy's word for a verdict.
pub(crate) const fn word_of(verdict: Verdict) -> interdict_policy::Verdict {
    match verdict {
        Verdict::Block => interdict_policy::Verdict::Block,
        Verdict::Log => interdict_policy::Verdict::Log,
        Verdict::Allow => interdict_policy::Verdict::Allow,
        Verdict::Exempt => interdict_policy::Verdict::Exempt,
    }
}
