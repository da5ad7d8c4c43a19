//! What is in order and may still be a mistake: for the person who writes a policy, never for the agent.

use std::fmt::Display;

use ipnet::IpNet;

use crate::compile::Compiled;
use crate::name::Name;
use crate::policy::Policy;
use crate::problem::{Code, Place, Problem, Problems, Severity};
use crate::rule::{Action, At, Confidence, Rule};

/// Prefixes shorter than this hold the addresses of many, whoever registered them.
const WIDE_V4: u8 = 12;
const WIDE_V6: u8 = 24;

/// Address space that is nobody's alone (RFC 6890, and what follows it).
const PRIVATE: [&str; 14] = [
    "0.0.0.0/8",
    "10.0.0.0/8",
    "100.64.0.0/10",
    "127.0.0.0/8",
    "169.254.0.0/16",
    "172.16.0.0/12",
    "192.168.0.0/16",
    "198.18.0.0/15",
    "224.0.0.0/3",
    "::1/128",
    "64:ff9b::/96",
    "fc00::/7",
    "fe80::/10",
    "ff00::/8",
];

/// Prefixes behind which every IPv4 address stands.
const SPELLINGS: [&str; 2] = ["64:ff9b::/96", "2002::/16"];

/// Networks of content delivery, one a line with whose they are: what is there belongs to thousands of sites.
const SHARED: &str = include_str!("shared.tsv");

/// What the shipped packs call their sources, each explained in the pack or beside it.
const SOURCE_KEYS: [&str; 5] = ["aegis", "device manuals", "kasp-docs", "public code", "public-file"];

/// From this many words on, a source is taken for a title.
const TITLE_WORDS: usize = 4;

/// The lists of a rule are walked for each of its values: enough for what people write, too much for feeds.
const FEED: usize = 2_000;

/// Looks for what may be a mistake, in the order of files and lines.
pub fn lints(compiled: &Compiled) -> Problems {
    let policy = &compiled.policy;
    let mut lints = Lints { policy, shared: shared(), found: Problems::default() };
    for rule in policy.rules() {
        lints.evidence(rule);
        lints.suffixes(rule);
        lints.shadowed_names(rule);
        lints.shadowed_networks(rule);
        lints.networks(rule);
        if !compiled.tested.contains(&rule.id) {
            let message = format!("no test is decided by rule \"{}\"", rule.id);
            lints.note(Code::Untested, rule.place, message, "add a [[test]] that names it");
        }
    }
    lints.found.sort_by_place(policy.files());
    lints.found
}

/// The networks of [`SHARED`], and whose each is.
fn shared() -> Vec<(IpNet, &'static str)> {
    let lines = SHARED.lines().filter(|line| !line.starts_with('#'));
    let parsed = lines.filter_map(|line| {
        let (network, whose) = line.split_once('\t')?;
        Some((network.parse().ok()?, whose))
    });
    parsed.collect()
}

struct Lints<'p> {
    policy: &'p Policy,
    shared: Vec<(IpNet, &'static str)>,
    found: Problems,
}

impl Lints<'_> {
    /// What an auditor would ask of a shipped rule.
    fn evidence(&mut self, rule: &Rule) {
        let wrong = match &rule.source {
            None if rule.ban.is_some() => Some("has no source".to_owned()),
            Some(source) if !can_be_looked_up(source) => {
                Some(format!("has the source \"{}\", which nobody could look up", source.escape_debug()))
            }
            _ => None,
        };
        if let Some(wrong) = wrong {
            let message = format!("rule \"{}\" {wrong}", rule.id);
            let help = "name a document with its number or date, or an address";
            self.note(Code::Unsourced, rule.place, message, help);
        }
        if rule.confidence == Confidence::Low && rule.action == Action::Block {
            let message = format!("rule \"{}\" blocks with low confidence", rule.id);
            self.note(Code::LowConfidence, rule.place, message, "log it until there is better evidence");
        }
    }

    /// Names under which anyone can register (the Public Suffix List): others have names there.
    fn suffixes(&mut self, rule: &Rule) {
        let domains = rule.domains.iter().map(|at| (at.value.as_name(), at.place));
        let globs = rule.globs.iter().map(|at| (at.value.fixed(), at.place));
        let patterns = rule.patterns.iter().map(|at| (at.value.under(), at.place));
        for (name, place) in domains.chain(globs).chain(patterns).filter(|(name, _)| is_public_suffix(*name))
        {
            let message = format!("{name} is a public suffix: others have names below it");
            self.note(Code::PublicSuffix, place, message, "name the domains of the vendor");
        }
    }

    /// Names for which a domain of the same rule says the same.
    fn shadowed_names(&mut self, rule: &Rule) {
        if rule.hosts.len() + rule.domains.len() > FEED {
            return;
        }
        let hosts = rule.hosts.iter().filter(|at| self.covered(rule, at.value.as_name(), 0)).map(shown);
        let domains = rule.domains.iter().filter(|at| self.covered(rule, at.value.as_name(), 1)).map(shown);
        let globs = rule.globs.iter().filter(|at| self.covered_below(rule, at.value.fixed())).map(shown);
        let patterns =
            rule.patterns.iter().filter(|at| self.covered_below(rule, at.value.under())).map(shown);
        let shadowed: Vec<(String, Place)> = hosts.chain(domains).chain(globs).chain(patterns).collect();
        let Some((first, place)) = shadowed.first() else { return };
        let more = match shadowed.len() - 1 {
            0 => " is".to_owned(),
            more => format!(" and {more} more of its names are"),
        };
        let message = format!("{first}{more} covered by a domain of the same rule, \"{}\"", rule.id);
        self.note(Code::Shadowed, *place, message, "the domain alone says the same");
    }

    /// Whether a domain of the rule around `name` decides for what lies from the label `from` on.
    fn covered(&self, rule: &Rule, name: Name<'_>, from: usize) -> bool {
        let mut deciding = name.suffixes().skip(from).filter_map(|suffix| self.policy.decide_name(suffix));
        deciding.next().is_some_and(|found| self.policy.rule(found.rule).id == rule.id)
            && rule
                .domains
                .iter()
                .any(|at| at.value.as_name() != name && name.is_at_or_below(at.value.as_name()))
    }

    /// Whether a domain of the rule decides for every name below `fixed` that a glob or a pattern of it could describe:
    /// no other rule has one there that it goes before.
    fn covered_below(&self, rule: &Rule, fixed: Name<'_>) -> bool {
        let meets = |other: Name<'_>| other.is_at_or_below(fixed) || fixed.is_at_or_below(other);
        let others = self.policy.rules().iter().filter(|other| other.id != rule.id);
        let mut fixed_of_others = others.flat_map(|other| {
            let globs = other.globs.iter().map(|at| at.value.fixed());
            globs.chain(other.patterns.iter().map(|at| at.value.under()))
        });
        rule.domains.iter().any(|at| fixed.is_at_or_below(at.value.as_name()))
            && self.policy.decide_name(fixed).is_some_and(|found| self.policy.rule(found.rule).id == rule.id)
            && !fixed_of_others.any(meets)
    }

    /// Networks inside a network of the same rule, where no other rule stands between.
    fn shadowed_networks(&mut self, rule: &Rule) {
        let all: usize = self.policy.rules().iter().map(|rule| rule.networks.len()).sum();
        if rule.networks.len() > FEED || all > 10 * FEED {
            return;
        }
        for network in &rule.networks {
            let around = self.policy.matches_of_address(network.value.network(), None).into_iter();
            let mut around =
                around.filter(|(found, _)| found.network.prefix_len() < network.value.prefix_len());
            let Some((nearest, _)) = around.next() else { continue };
            let alone = !around.any(|(found, _)| found.network == nearest.network);
            if alone && self.policy.rule(nearest.rule).id == rule.id {
                let message = format!("{} lies in {} of the same rule", network.value, nearest.network);
                self.note(Code::Shadowed, network.place, message, "the wider network alone says the same");
            }
        }
    }

    fn networks(&mut self, rule: &Rule) {
        for network in &rule.networks {
            let (wide, length) = (network.value, network.value.prefix_len());
            let overlaps = |text: &str| text.parse().is_ok_and(|other| overlap(&wide, &other));
            let widest = if wide.addr().is_ipv4() { WIDE_V4 } else { WIDE_V6 };
            let holds =
                |wide: &IpNet, text: &str| text.parse().is_ok_and(|other: IpNet| wide.contains(&other));
            let whose =
                if rule.action != Action::Block && SPELLINGS.iter().any(|spelling| holds(&wide, spelling)) {
                    let whose =
                        "every IPv4 address in another spelling: this rule goes before those that block them";
                    Some(whose.to_owned())
                } else if PRIVATE.iter().any(|private| overlaps(private)) {
                    Some("private or special".to_owned())
                } else if let Some((_, cdn)) = self.shared.iter().find(|(shared, _)| overlap(&wide, shared)) {
                    Some(format!("shared: {cdn} serves many sites there"))
                } else {
                    (length < widest).then(|| "too many people's to be one vendor's".to_owned())
                };
            if let Some(whose) = whose {
                let message = format!("{wide} holds address space that is {whose}");
                self.note(Code::WideNetwork, network.place, message, "name the vendor's own networks");
            }
        }
    }

    fn note(&mut self, code: Code, place: Place, message: String, help: &str) {
        let file = self.policy.files()[place.file as usize].clone();
        let (at, help) = (Some((place.line, place.column)), help.to_owned());
        self.found.push(Problem { severity: Severity::Note, code, file, at, message, help });
    }
}

/// Whether a source names something to look up: by a number, a date, an address, a title, or a key of the packs.
fn can_be_looked_up(source: &str) -> bool {
    source.contains(|c: char| c.is_numeric() || matches!(c, '.' | '/' | '§'))
        || source.split_whitespace().count() >= TITLE_WORDS
        || SOURCE_KEYS.iter().any(|key| source.contains(key))
}

fn is_public_suffix(name: Name<'_>) -> bool {
    let text = name.to_string();
    psl::suffix(text.as_bytes())
        .is_some_and(|suffix| suffix.is_known() && suffix.as_bytes() == text.as_bytes())
}

fn shown<T: Display>(at: &At<T>) -> (String, Place) {
    (at.value.to_string(), at.place)
}

fn overlap(a: &IpNet, b: &IpNet) -> bool {
    a.contains(b) || b.contains(a)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_shared_network_is_read() {
        assert_eq!(shared().len(), SHARED.lines().filter(|line| !line.starts_with('#')).count());
    }
}
