//! The names of a policy as other servers can be told them: at each name that a rule writes, what is decided for the
//! name itself and for all below it.
//!
//! Globs and patterns are no part of it, for no format can say them. [`note_rest`] says which of them change a verdict.

use std::collections::HashSet;

use super::unsaid::{About, Effect, Notes};
use crate::name::{DomainName, Name};
use crate::policy::Policy;
use crate::rule::{Action, Answer, Rule};

/// What a rule does to a question, as far as another server can do it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Does {
    /// Let through, whether `allow` or `log` says so.
    Open,
    /// Answered with this, for so many seconds.
    Block(Answer, u32),
}

/// What a rule does.
pub(super) fn does(rule: &Rule) -> Does {
    match rule.action {
        Action::Allow | Action::Log => Does::Open,
        Action::Block => Does::Block(rule.answer, rule.ttl_secs),
    }
}

/// The rule, where it blocks.
pub(super) fn blocking(rule: Option<&Rule>) -> Option<&Rule> {
    rule.filter(|rule| rule.action == Action::Block)
}

/// A name at which something changes.
pub(super) struct Spot<'p> {
    /// The name.
    pub(super) name: DomainName,
    /// The rule for exactly this name that wins.
    host: Option<&'p Rule>,
    /// The rule for this domain that wins.
    domain: Option<&'p Rule>,
    /// The rule of the nearest domain around it.
    pub(super) around: Option<&'p Rule>,
}

impl<'p> Spot<'p> {
    /// The rule that decides for the name itself.
    pub(super) fn at(&self) -> Option<&'p Rule> {
        self.host.or(self.below())
    }

    /// The rule that decides for the names below it.
    pub(super) fn below(&self) -> Option<&'p Rule> {
        self.domain.or(self.around)
    }

    /// Whether a rule is written for the domain, and not only for the one name.
    pub(super) fn is_domain(&self) -> bool {
        self.domain.is_some()
    }

    /// Whether it says nothing that the domain around it does not say already.
    fn is_redundant(&self) -> bool {
        let around = self.around.map(does);
        self.at().map(does) == around && self.below().map(does) == around
    }
}

/// Every name at which something changes, parents before what is below them.
pub(super) fn outline(policy: &Policy) -> Vec<Spot<'_>> {
    let names = policy.names();
    let rule = |index| policy.rule(index);
    let mut spots: Vec<Spot<'_>> = names
        .entries()
        .map(|(name, host, domain)| Spot {
            name: name.to_owned(),
            host: host.map(rule),
            domain: domain.map(rule),
            around: names.domain_around(name).map(rule),
        })
        .filter(|spot| !spot.is_redundant())
        .collect();
    spots.sort_by_cached_key(|spot| from_the_right(spot.name.as_name()));
    spots
}

/// The labels from the right: the order of a zone file.
pub(super) fn from_the_right(name: Name<'_>) -> Vec<Vec<u8>> {
    let mut labels: Vec<Vec<u8>> = name.labels().map(<[u8]>::to_vec).collect();
    labels.reverse();
    labels
}

/// The names between a spot and the domain that covers it at which no rule is written, once each. A zone has them as
/// empty nodes, and some servers stop looking for a wildcard there.
pub(super) fn empty_nodes<'p>(spots: &[Spot<'p>]) -> Vec<(DomainName, &'p Rule)> {
    let mut known: HashSet<DomainName> = spots.iter().map(|spot| spot.name.clone()).collect();
    let mut empty = Vec::new();
    for spot in spots {
        let Some(around) = spot.around else { continue };
        for parent in spot.name.as_name().suffixes().skip(1) {
            let parent = parent.to_owned();
            if !known.insert(parent.clone()) {
                break;
            }
            empty.push((parent, around));
        }
    }
    empty
}

/// Whether the format lets a domain speak for what is below it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Reach {
    /// As everywhere but in a hosts file.
    Domains,
    /// Every name by itself.
    Names,
}

/// Notes what a format for names leaves out whatever its words are: globs and patterns, networks, exemptions, the record
/// of `log`.
pub(super) fn note_rest(policy: &Policy, reach: Reach, notes: &mut Notes) {
    if !policy.exemptions().is_empty() {
        notes.every_rule("exemptions cannot be said: clients on the register are treated as all others");
    }
    for rule in policy.rules() {
        let globs = rule.globs.iter().map(|glob| (glob.value.fixed(), About::Glob(glob.value.clone())));
        let patterns = rule
            .patterns
            .iter()
            .map(|pattern| (pattern.value.under(), About::Pattern(pattern.value.clone())));
        for (fixed, about) in globs.chain(patterns) {
            let cover = match reach {
                Reach::Domains => policy.names().domain_of(fixed).map(|(_, index)| policy.rule(index)),
                Reach::Names => None,
            };
            match (does(rule), cover.map(does)) {
                (Does::Block(..), None | Some(Does::Open)) => {
                    notes.part(rule, Effect::LetThrough, "globs and patterns cannot be said", about);
                }
                (Does::Open, Some(Does::Block(..))) => {
                    let why = "globs and patterns cannot be said, nor exceptions made by one";
                    notes.part(rule, Effect::Blocked, why, about);
                }
                (Does::Block(answer, _), Some(Does::Block(other, _))) if answer != other => {
                    let why = "globs and patterns cannot be said; answered as the domain around says";
                    notes.part(rule, Effect::Otherwise, why, about);
                }
                _ => {}
            }
        }
        if rule.learn && rule.action == Action::Block {
            notes.whole(rule, Effect::LetThrough, "learned addresses cannot be said; packets to them pass");
        }
        match rule.action {
            Action::Block if !rule.networks.is_empty() => {
                let why = "networks cannot be said; packets need a firewall (export nft)";
                notes.whole(rule, Effect::LetThrough, why);
            }
            Action::Log => {
                notes.whole(rule, Effect::Otherwise, "action = \"log\" lets through and records nothing")
            }
            Action::Allow | Action::Block => {}
        }
    }
}
