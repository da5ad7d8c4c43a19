//! What the numbers in the kernel mean: rule slots and generations.

use std::collections::{BTreeMap, HashMap};

use aya::maps::{Array, MapData};
use interdict_ebpf_shared::{
    count::{GenerationDigest, RULE_ID_BYTES, RuleName},
    limits::{MAX_GENERATIONS, MAX_RULES},
    maps,
    policy::{State, Verdict},
};
use interdict_policy::{Action, Digest, RuleId};

use crate::{Error, staging::named};

/// The meaning of every number that events and counters carry.
#[derive(Default)]
pub(crate) struct Registry {
    slots: HashMap<RuleId, u32>,
    rules: Vec<RuleId>,
    digests: BTreeMap<u64, Digest>,
    /// By slot, what the rules of the policy in force do.
    live: Vec<State>,
    /// The ids of its units, by their numbers.
    units: HashMap<u64, String>,
    /// Where the same stands for the next agent.
    lasting: Option<Lasting>,
}

/// The kernel's copies of what the numbers mean.
pub(crate) struct Lasting {
    pub(crate) names: Array<MapData, RuleName>,
    pub(crate) digests: Array<MapData, GenerationDigest>,
}

impl Registry {
    /// Goes on with what an earlier agent left, if one did.
    pub(crate) fn resume(lasting: Lasting) -> Result<Self, Error> {
        let mut registry = Self::default();
        for slot in 0..MAX_RULES {
            let name = lasting.names.get(&slot, 0).map_err(named(maps::RULE_NAMES))?;
            let letters = name.letters.get(..name.bytes as usize).unwrap_or_default();
            let Some(rule) = std::str::from_utf8(letters).ok().and_then(|id| id.parse::<RuleId>().ok())
            else {
                break;
            };
            registry.slots.insert(rule.clone(), slot);
            registry.rules.push(rule);
        }
        for place in 0..MAX_GENERATIONS {
            let GenerationDigest { generation, digest } =
                lasting.digests.get(&place, 0).map_err(named(maps::DIGESTS))?;
            if generation != 0 {
                registry.digests.insert(generation, Digest(digest));
            }
        }
        registry.lasting = Some(lasting);
        Ok(registry)
    }

    /// The last generation that any agent had in force; 0 for none.
    pub(crate) fn last_generation(&self) -> u64 {
        self.digests.last_key_value().map_or(0, |(&generation, _)| generation)
    }

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
        if let Some(lasting) = &mut self.lasting {
            let mut name = RuleName { bytes: rule.as_str().len() as u64, letters: [0; RULE_ID_BYTES] };
            name.letters.iter_mut().zip(rule.as_str().bytes()).for_each(|(to, letter)| *to = letter);
            lasting.names.set(slot, name, 0).map_err(named(maps::RULE_NAMES))?;
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
        if self.digests.len() > MAX_GENERATIONS as usize {
            self.digests.pop_first();
        }
        if let Some(lasting) = &mut self.lasting {
            let (place, digest) = ((generation % u64::from(MAX_GENERATIONS)) as u32, digest.0);
            // What cannot be left to the next agent is not worth failing a change of policy for.
            let _ = lasting.digests.set(place, GenerationDigest { generation, digest }, 0);
        }
    }

    pub(crate) fn digest(&self, generation: u64) -> Option<Digest> {
        self.digests.get(&generation).copied()
    }

    /// Says what the rules of the policy in force do, by slot, and which units it has, by number.
    pub(crate) fn set_live(&mut self, states: Vec<State>, units: HashMap<u64, String>) {
        self.live = states;
        self.units = units;
    }

    /// The id of a unit of the policy in force.
    pub(crate) fn unit(&self, number: u64) -> Option<&str> {
        self.units.get(&number).map(String::as_str)
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
