//! What changes between two policies: entry by entry as they are written, and decision by decision.
//!
//! Entries are compared in the canonical form, so that order, comments and layout are no difference, and a word that
//! the language learns is compared without a line here.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;

use jiff::Timestamp;
use serde::Serialize;
use toml::{Table, Value};

use crate::expectation::Ask;
use crate::name::DomainName;
use crate::policy::Policy;
use crate::rule::{Rule, Verdict};

/// An entry that is in one policy only, or not the same in both.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// What it is: `rule`, `override`, `exempt`, `ban` and so on, as in a policy file.
    pub entry: String,
    /// Its id; of an override the rule's.
    pub id: String,
    /// Whether it came, went or changed.
    pub change: Change,
    /// Key by key, what differs. An entry that came or went differs in all of its keys.
    pub keys: Vec<KeyDifference>,
}

/// What became of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Change {
    /// Only the new policy has it.
    Added,
    /// Only the old policy has it.
    Removed,
    /// Both have it.
    Changed,
}

/// A key whose value differs. A list is compared as a set.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct KeyDifference {
    /// The key.
    pub key: String,
    /// What the old policy says there and the new one does not; of a list, the values that went.
    pub old: Vec<String>,
    /// What the new policy says there and the old one does not; of a list, the values that came.
    pub new: Vec<String>,
}

/// A name or an address that the two policies decide differently.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Effect {
    /// The name or the address.
    pub ask: String,
    /// What the old policy decides.
    pub old: Decided,
    /// What the new policy decides.
    pub new: Decided,
}

/// Something that both policies may decide differently, and that [`effects`] does not try.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Untried {
    /// The names that a pattern describes of which no example was found.
    Patterns,
    /// What clients on the register are let through: an effect is that for a client who is not on it.
    Exemptions,
}

/// A verdict, and the rule it is by.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
pub struct Decided {
    /// The verdict.
    pub verdict: Verdict,
    /// The rule's id; `None` where no rule matches.
    pub rule: Option<String>,
}

impl Decided {
    /// What a policy decides for a client at a moment; without a client, for one who is not on the register.
    pub fn by(policy: &Policy, ask: &Ask, client: Option<IpAddr>, at: Timestamp) -> Self {
        let index = match ask {
            Ask::Name(name) => policy.decide_name(name.as_name()).map(|found| found.rule),
            Ask::Address(address, service) => {
                policy.decide_address(*address, *service).map(|found| found.rule)
            }
        };
        Self {
            verdict: index.map_or(Verdict::None, |index| policy.judge(index, client, at).verdict),
            rule: index.map(|index| policy.rule(index).id.to_string()),
        }
    }
}

impl fmt::Display for Decided {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.rule {
            Some(rule) => write!(f, "{} by {rule}", self.verdict),
            None => write!(f, "{}", self.verdict),
        }
    }
}

/// Every entry that differs, in the order of kinds and ids.
pub fn differences(old: &Policy, new: &Policy) -> Vec<Difference> {
    let (old, new) = (entries(old), entries(new));
    let ids: BTreeSet<_> = old.keys().chain(new.keys()).collect();
    let nothing = Table::new();
    ids.into_iter()
        .filter_map(|id| {
            let (before, after) = (old.get(id), new.get(id));
            let change = match (before, after) {
                (Some(before), Some(after)) if before == after => return None,
                (Some(_), Some(_)) => Change::Changed,
                (Some(_), None) => Change::Removed,
                (None, _) => Change::Added,
            };
            let keys = keys(before.unwrap_or(&nothing), after.unwrap_or(&nothing));
            Some(Difference { entry: id.0.clone(), id: id.1.clone(), change, keys })
        })
        .collect()
}

/// What the two policies decide differently, of what either of them names: each host, each domain and a name below it,
/// a name that each glob and each pattern describes, each network. [`untried`] says what is left out.
pub fn effects(old: &Policy, new: &Policy) -> Vec<Effect> {
    let asked: BTreeSet<String> =
        [old, new].into_iter().flat_map(|policy| policy.rules()).flat_map(asks).collect();
    let effect = |text: String| {
        let ask = text.parse().ok()?;
        let decided = |policy| Decided::by(policy, &ask, None, Timestamp::UNIX_EPOCH);
        let (old, new) = (decided(old), decided(new));
        (old != new).then_some(Effect { ask: text, old, new })
    };
    asked.into_iter().filter_map(effect).collect()
}

/// What [`effects`] leaves out of these two policies; nothing where they are one.
pub fn untried(old: &Policy, new: &Policy) -> Vec<Untried> {
    let either = |has: fn(&Policy) -> bool| old.digest() != new.digest() && (has(old) || has(new));
    let patterns = either(|policy| {
        let mut patterns = policy.rules().iter().flat_map(|rule| &rule.patterns);
        patterns.any(|pattern| pattern.value.example().is_none())
    });
    let exemptions = either(|policy| !policy.exemptions().is_empty());
    let untried = [patterns.then_some(Untried::Patterns), exemptions.then_some(Untried::Exemptions)];
    untried.into_iter().flatten().collect()
}

/// Questions that a rule is about.
fn asks(rule: &Rule) -> Vec<String> {
    /// A label that stands for every name below a domain.
    const BELOW: &str = "any-name-below";
    let names = rule.hosts.iter().map(|host| host.value.to_string());
    let domains = rule.domains.iter().flat_map(|domain| {
        let below = format!("{BELOW}.{}", domain.value).parse::<DomainName>().ok();
        [Some(domain.value.to_string()), below.map(|below| below.to_string())].into_iter().flatten()
    });
    let globs = rule.globs.iter().filter_map(|glob| glob.value.example());
    let patterns = rule.patterns.iter().filter_map(|pattern| pattern.value.example());
    let examples = globs.chain(patterns).map(|name| name.to_string());
    let addresses = rule.networks.iter().flat_map(|network| {
        let ask = |service| Ask::Address(network.value.network(), service).to_string();
        let services = rule.ports.iter().map(|port| ask(Some(port.value)));
        services.chain(rule.ports.is_empty().then(|| ask(None))).collect::<Vec<_>>()
    });
    names.chain(domains).chain(examples).chain(addresses).collect()
}

/// Every entry of a policy by kind and id.
fn entries(policy: &Policy) -> BTreeMap<(String, String), Table> {
    let mut entries = BTreeMap::new();
    for file in policy.canonical_files() {
        let table: Table = file.text.parse().expect("the canonical form is a policy file");
        for (kind, value) in table {
            match value {
                Value::Array(array) => {
                    for entry in array {
                        let Value::Table(entry) = entry else { continue };
                        entries.insert((kind.clone(), id(&entry)), entry);
                    }
                }
                // A profile is a table of tables, one for each id; a ban or `egress_dns` a table of its own.
                Value::Table(table) if table.values().all(Value::is_table) => {
                    for (id, entry) in table {
                        let Value::Table(entry) = entry else { continue };
                        entries.insert((kind.clone(), id), entry);
                    }
                }
                Value::Table(entry) => {
                    entries.insert((kind, id(&entry)), entry);
                }
                _ => {}
            }
        }
    }
    entries
}

fn id(entry: &Table) -> String {
    let text = |key| entry.get(key).and_then(Value::as_str);
    text("id").or_else(|| text("rule")).unwrap_or_default().to_owned()
}

fn keys(old: &Table, new: &Table) -> Vec<KeyDifference> {
    let keys: BTreeSet<&String> = old.keys().chain(new.keys()).collect();
    let key = |key: &String| {
        let (old, new) = (values(old.get(key)), values(new.get(key)));
        let only =
            |these: &BTreeSet<String>, those: &BTreeSet<String>| these.difference(those).cloned().collect();
        (old != new).then(|| KeyDifference { key: key.clone(), old: only(&old, &new), new: only(&new, &old) })
    };
    keys.into_iter().filter_map(key).collect()
}

fn values(value: Option<&Value>) -> BTreeSet<String> {
    let shown = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    match value {
        None => BTreeSet::new(),
        Some(Value::Array(values)) => values.iter().map(shown).collect(),
        Some(value) => BTreeSet::from([shown(value)]),
    }
}
