//! What a format has no words for.

use std::collections::HashMap;
use std::fmt;

use crate::glob::Glob;
use crate::name::{DomainName, Name};
use crate::pattern::Pattern;
use crate::rule::{Rule, RuleId};

/// What becomes of something that a format cannot say.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Effect {
    /// The policy blocks it, and here it passes.
    LetThrough,
    /// The policy lets it pass, and here it is blocked.
    Blocked,
    /// The verdict is the same; the answer or the record differs.
    Otherwise,
}

/// The part of a rule that is meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum About {
    /// One name.
    Name(DomainName),
    /// Every name below this one.
    Below(DomainName),
    /// The names that a glob describes.
    Glob(Glob),
    /// The names that a pattern describes.
    Pattern(Pattern),
}

impl fmt::Display for About {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            About::Name(name) => name.fmt(f),
            About::Below(name) => write!(f, "below {name}"),
            About::Glob(glob) => glob.fmt(f),
            About::Pattern(pattern) => pattern.fmt(f),
        }
    }
}

/// A part of a policy that says something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Speaker {
    /// Every rule.
    EveryRule,
    /// This rule.
    Rule(RuleId),
    /// `[egress_dns]`.
    EgressDns,
}

impl fmt::Display for Speaker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Speaker::EveryRule => f.write_str("every rule"),
            Speaker::Rule(rule) => rule.fmt(f),
            Speaker::EgressDns => f.write_str("[egress_dns]"),
        }
    }
}

/// Something that the policy says and a format does not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unsaid {
    /// What says it.
    pub by: Speaker,
    /// What becomes of it.
    pub effect: Effect,
    /// What the format lacks, in words.
    pub why: &'static str,
    /// The parts of the rule that are meant; empty where it is all of it, or where `why` says which.
    pub about: Vec<About>,
}

impl Unsaid {
    /// Whether the verdict on this name may not be the policy's.
    pub fn concerns(&self, name: Name<'_>) -> bool {
        self.effect != Effect::Otherwise
            && self.about.iter().any(|about| match about {
                About::Name(other) => other.as_name() == name,
                About::Below(other) => other.as_name() != name && name.is_at_or_below(other.as_name()),
                About::Glob(glob) => glob.matches(name),
                About::Pattern(pattern) => pattern.matches(name),
            })
    }
}

impl fmt::Display for Unsaid {
    /// One line, with the first few of the parts that are meant.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const SHOWN: usize = 8;
        write!(f, "{}: {}", self.by, self.why)?;
        match self.effect {
            Effect::LetThrough => f.write_str(" (let through here)")?,
            Effect::Blocked => f.write_str(" (blocked here)")?,
            Effect::Otherwise => {}
        }
        for (i, about) in self.about.iter().take(SHOWN).enumerate() {
            write!(f, "{}{about}", if i == 0 { ": " } else { ", " })?;
        }
        match self.about.len().checked_sub(SHOWN) {
            None | Some(0) => Ok(()),
            Some(more) => write!(f, " and {more} more"),
        }
    }
}

/// Collects what is unsaid: one entry for a rule, an effect and a reason.
#[derive(Default)]
pub(super) struct Notes {
    list: Vec<Unsaid>,
    places: HashMap<(RuleId, Effect, &'static str), usize>,
}

impl Notes {
    /// Something that holds for every rule.
    pub(super) fn every_rule(&mut self, why: &'static str) {
        self.list.push(Unsaid { by: Speaker::EveryRule, effect: Effect::Otherwise, why, about: Vec::new() });
    }

    /// `[egress_dns]` as a whole, which no format has words for.
    pub(super) fn egress_dns(&mut self) {
        let why = "what it asks for is not done: DNS to other resolvers goes its own way";
        self.list.push(Unsaid { by: Speaker::EgressDns, effect: Effect::LetThrough, why, about: Vec::new() });
    }

    /// A part of a rule.
    pub(super) fn part(&mut self, rule: &Rule, effect: Effect, why: &'static str, about: About) {
        let place = self.place(rule, effect, why);
        self.list[place].about.push(about);
    }

    /// A rule as a whole, or the part that `why` names.
    pub(super) fn whole(&mut self, rule: &Rule, effect: Effect, why: &'static str) {
        self.place(rule, effect, why);
    }

    pub(super) fn into_list(self) -> Vec<Unsaid> {
        self.list
    }

    fn place(&mut self, rule: &Rule, effect: Effect, why: &'static str) -> usize {
        *self.places.entry((rule.id.clone(), effect, why)).or_insert_with(|| {
            self.list.push(Unsaid { by: Speaker::Rule(rule.id.clone()), effect, why, about: Vec::new() });
            self.list.len() - 1
        })
    }
}
