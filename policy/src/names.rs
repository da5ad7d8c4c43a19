//! The matcher for names: one look-up a label, whatever the policy's size.
//!
//! A name's suffixes are hashed from the right, each from the hash of the one before, so that all of them cost one walk
//! over the name. The table is hashbrown's, which the standard map is made of, used directly because only so can a
//! suffix be looked up by a hash that is already there, and a name be stored once. It refuses most names that no rule
//! concerns by one byte each, without a look at an entry. Numbers of labels that no entry has are not looked up at all.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};

use hashbrown::HashTable;
use serde::Serialize;

use crate::glob::Glob;
use crate::name::{DomainName, Name, PresentationBuffer};
use crate::pattern::Pattern;
use crate::rule::RuleIndex;

/// How a rule names what it matches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum NameForm {
    /// Exactly one name.
    Host,
    /// Names with `*` inside labels.
    Glob,
    /// Names whose labels left of a fixed part fit a regular expression.
    Pattern,
    /// A name and all below it.
    Domain,
}

/// How many globs may share one fixed part: each name below it is tried with all of them.
pub(crate) const GLOBS_LIMIT: usize = 1024;
/// More labels than a name can have (RFC 1035 §3.1).
const LABELS_LIMIT: usize = 128;

/// A value of a rule's list that decides for a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Found {
    pub(crate) rule: RuleIndex,
    pub(crate) form: NameForm,
    /// Where in the rule's list of that form the value stands.
    pub(crate) position: u32,
    /// How many labels of the name stand left of the value's fixed part.
    pub(crate) labels_left: u8,
}

/// A rule, and where in one of its lists a value stands.
#[derive(Clone, Copy, Debug)]
struct Listed {
    rule: u32,
    position: u32,
}

impl Listed {
    const NONE: Listed = Listed { rule: u32::MAX, position: 0 };

    fn rule(self) -> Option<RuleIndex> {
        (self.rule != u32::MAX).then_some(RuleIndex(self.rule))
    }
}

/// What the rules say about one suffix.
#[derive(Clone, Debug)]
struct Entry {
    name: DomainName,
    host: Listed,
    domain: Listed,
    /// Its place in [`NameTable::special`], from 1; 0 where it has none.
    special: u32,
}

/// What a policy says about a name, and about the names below it.
#[derive(Clone, Copy, Debug)]
pub struct Suffix<'p> {
    /// The name.
    pub name: Name<'p>,
    /// The rule that has it as a host.
    pub host: Option<RuleIndex>,
    /// The rule that has it as a domain.
    pub domain: Option<RuleIndex>,
    /// Whether globs or patterns have it as their fixed part, so that they may decide for names below it.
    pub is_fixed_part: bool,
}

/// Globs and patterns of one fixed part, those that win first.
#[derive(Clone, Debug, Default)]
struct Special {
    globs: Vec<(Glob, Listed)>,
    patterns: Vec<(Pattern, Listed)>,
}

/// Every name of a policy, by suffix.
#[derive(Clone, Debug)]
pub(crate) struct NameTable {
    /// Keeps whoever writes lists from choosing names that share a hash.
    seed: u64,
    /// Places in `entries`, by the hash of the name there.
    places: HashTable<u32>,
    entries: Vec<Entry>,
    special: Vec<Special>,
    /// A bit for each number of labels that some entry has.
    depths: u128,
}

/// The entry that a new one would replace or yield to, for [`NameTable`]'s inserts.
pub(crate) type Rival = RuleIndex;

impl NameTable {
    /// An empty table for at most `values` hosts, domains, globs and patterns.
    pub(crate) fn with_capacity(values: usize) -> Self {
        Self {
            seed: RandomState::new().build_hasher().finish(),
            places: HashTable::with_capacity(values),
            entries: Vec::with_capacity(values),
            special: Vec::new(),
            depths: 0,
        }
    }

    /// Enters the host at `position` of the rule's hosts; `wins` says whether the rule goes before the one already
    /// there. Returns that one.
    pub(crate) fn insert_host(
        &mut self,
        name: &DomainName,
        (rule, position): (RuleIndex, usize),
        wins: impl Fn(Rival) -> bool,
    ) -> Option<Rival> {
        settle(&mut self.entry(name).host, listed(rule, position), wins)
    }

    /// Enters a domain; as [`NameTable::insert_host`].
    pub(crate) fn insert_domain(
        &mut self,
        name: &DomainName,
        (rule, position): (RuleIndex, usize),
        wins: impl Fn(Rival) -> bool,
    ) -> Option<Rival> {
        settle(&mut self.entry(name).domain, listed(rule, position), wins)
    }

    /// Enters a glob before those it wins over. Returns a rule whose glob matches some of the same names.
    ///
    /// Past [`GLOBS_LIMIT`] of one fixed part nothing is entered: such a policy is refused.
    pub(crate) fn insert_glob(
        &mut self,
        glob: &Glob,
        (rule, position): (RuleIndex, usize),
        wins: impl Fn(Rival) -> bool,
    ) -> Option<Rival> {
        let globs = &mut self.special(&glob.fixed().to_owned()).globs;
        if globs.len() >= GLOBS_LIMIT {
            return None;
        }
        let rival = globs.iter().find(|(other, _)| other.overlaps(glob)).and_then(|(_, at)| at.rule());
        let place = place_of(globs, wins);
        globs.insert(place, (glob.clone(), listed(rule, position)));
        rival
    }

    /// Enters a pattern before those it wins over. Returns a rule with the same pattern: whether two expressions
    /// describe a name in common is not asked.
    pub(crate) fn insert_pattern(
        &mut self,
        pattern: &Pattern,
        (rule, position): (RuleIndex, usize),
        wins: impl Fn(Rival) -> bool,
    ) -> Option<Rival> {
        let patterns = &mut self.special(&pattern.under().to_owned()).patterns;
        let rival = patterns.iter().find(|(other, _)| other == pattern).and_then(|(_, at)| at.rule());
        let place = place_of(patterns, wins);
        patterns.insert(place, (pattern.clone(), listed(rule, position)));
        rival
    }

    /// The value whose fixed part is longest; at equal length host, then glob, then pattern, then domain.
    pub(crate) fn find(&self, name: Name<'_>) -> Option<Found> {
        let starts = Starts::of(name);
        let mut hash = self.seed;
        let mut found = None;
        // From the shortest suffix on, as hashes are made: what a longer one says goes before.
        for depth in 1..=starts.len {
            let suffix = starts.suffix(name, depth);
            hash = hash_label(hash, suffix);
            if self.depths >> depth & 1 == 1
                && let Some(entry) = self.look_up(hash, suffix)
            {
                found = self.decide(&self.entries[entry], name, starts.len - depth).or(found);
            }
        }
        found
    }

    /// What one entry says about a name with `labels_left` labels left of it.
    fn decide(&self, entry: &Entry, name: Name<'_>, labels_left: usize) -> Option<Found> {
        let found = |at: Listed, form| {
            let rule = at.rule()?;
            Some(Found { rule, form, position: at.position, labels_left: labels_left as u8 })
        };
        if labels_left == 0
            && let Some(host) = found(entry.host, NameForm::Host)
        {
            return Some(host);
        }
        if labels_left > 0
            && let Some(special) = self.special.get((entry.special as usize).wrapping_sub(1))
        {
            let left = || name.labels().take(labels_left);
            if let Some((_, at)) = special.globs.iter().find(|(glob, _)| glob.matches_left(left())) {
                return found(*at, NameForm::Glob);
            }
            if !special.patterns.is_empty() {
                let left = PresentationBuffer::of(left());
                if let Some((_, at)) = special.patterns.iter().find(|(p, _)| p.matches_left(&left)) {
                    return found(*at, NameForm::Pattern);
                }
            }
        }
        found(entry.domain, NameForm::Domain)
    }

    /// Every value that describes the name, the one that decides first.
    pub(crate) fn find_all(&self, name: Name<'_>) -> Vec<Found> {
        let labels = name.labels().count();
        let mut all = Vec::new();
        for (labels_left, entry) in self.entries_around(name).map(|(of, entry)| (labels - of, entry)) {
            let found = |at: Listed, form| {
                let (rule, position, labels_left) = (at.rule()?, at.position, labels_left as u8);
                Some(Found { rule, form, position, labels_left })
            };
            if labels_left == 0 {
                all.extend(found(entry.host, NameForm::Host));
            }
            if labels_left > 0
                && let Some(special) = self.special.get((entry.special as usize).wrapping_sub(1))
            {
                let left = || name.labels().take(labels_left);
                let globs = special.globs.iter().filter(|(glob, _)| glob.matches_left(left()));
                all.extend(globs.filter_map(|(_, at)| found(*at, NameForm::Glob)));
                let shown = PresentationBuffer::of(left());
                let patterns = special.patterns.iter().filter(|(pattern, _)| pattern.matches_left(&shown));
                all.extend(patterns.filter_map(|(_, at)| found(*at, NameForm::Pattern)));
            }
            all.extend(found(entry.domain, NameForm::Domain));
        }
        all
    }

    /// Every name for which a host or a domain is entered, in no order, with the rules that win there.
    pub(crate) fn entries(&self) -> impl Iterator<Item = (Name<'_>, Option<RuleIndex>, Option<RuleIndex>)> {
        let entries = self.entries.iter();
        let entries = entries.map(|entry| (entry.name.as_name(), entry.host.rule(), entry.domain.rule()));
        entries.filter(|(_, host, domain)| host.is_some() || domain.is_some())
    }

    /// Every entry.
    pub(crate) fn suffixes(&self) -> impl Iterator<Item = Suffix<'_>> {
        self.entries.iter().map(|entry| Suffix {
            name: entry.name.as_name(),
            host: entry.host.rule(),
            domain: entry.domain.rule(),
            is_fixed_part: entry.special != 0,
        })
    }

    /// The longest domain that this name is, or is below, with its rule.
    pub(crate) fn domain_of<'n>(&self, name: Name<'n>) -> Option<(Name<'n>, RuleIndex)> {
        let labels = name.labels().count();
        let (of, rule) =
            self.entries_around(name).find_map(|(of, entry)| entry.domain.rule().map(|rule| (of, rule)))?;
        Some((name.suffixes().nth(labels - of)?, rule))
    }

    /// The rule of the longest domain that this name is below.
    pub(crate) fn domain_around(&self, name: Name<'_>) -> Option<RuleIndex> {
        name.suffixes().nth(1).and_then(|parent| self.domain_of(parent)).map(|(_, rule)| rule)
    }

    /// The entries of a name's suffixes, the longest first, each with its number of labels.
    fn entries_around<'s>(&'s self, name: Name<'_>) -> impl Iterator<Item = (usize, &'s Entry)> {
        name.suffixes().filter_map(|suffix| {
            let place = self.look_up(hash_of(self.seed, suffix), suffix.as_wire())?;
            Some((suffix.labels().count(), &self.entries[place]))
        })
    }

    /// The place of the entry of exactly this name.
    fn look_up(&self, hash: u64, wire: &[u8]) -> Option<usize> {
        self.places
            .find(hash, |entry| self.entries[*entry as usize].name.as_name().as_wire() == wire)
            .map(|entry| *entry as usize)
    }

    fn special(&mut self, fixed: &DomainName) -> &mut Special {
        let next = self.special.len() as u32 + 1;
        let entry = self.entry(fixed);
        if entry.special == 0 {
            entry.special = next;
        }
        let place = entry.special as usize - 1;
        if place == self.special.len() {
            self.special.push(Special::default());
        }
        &mut self.special[place]
    }

    /// The entry of exactly this name, a new one where there is none.
    fn entry(&mut self, name: &DomainName) -> &mut Entry {
        let wire = name.as_name().as_wire();
        let hash = hash_of(self.seed, name.as_name());
        if let Some(entry) = self.look_up(hash, wire) {
            return &mut self.entries[entry];
        }
        self.depths |= 1 << name.as_name().labels().count();
        let place = self.entries.len();
        self.entries.push(Entry { name: name.clone(), host: Listed::NONE, domain: Listed::NONE, special: 0 });
        let (seed, entries) = (self.seed, &self.entries);
        let rehash = |entry: &u32| hash_of(seed, entries[*entry as usize].name.as_name());
        self.places.insert_unique(hash, place as u32, rehash);
        &mut self.entries[place]
    }
}

/// Where the labels of a name start.
struct Starts {
    starts: [u8; LABELS_LIMIT],
    len: usize,
}

impl Starts {
    fn of(name: Name<'_>) -> Self {
        let wire = name.as_wire();
        let mut starts = Self { starts: [0; LABELS_LIMIT], len: 0 };
        let mut at = 0;
        while wire[at] != 0 {
            starts.starts[starts.len] = at as u8;
            starts.len += 1;
            at += 1 + usize::from(wire[at]);
        }
        starts
    }

    /// The last `depth` labels of the name, in wire form.
    fn suffix<'n>(&self, name: Name<'n>, depth: usize) -> &'n [u8] {
        &name.as_wire()[usize::from(self.starts[self.len - depth])..]
    }
}

fn hash_of(seed: u64, name: Name<'_>) -> u64 {
    let starts = Starts::of(name);
    (1..=starts.len).fold(seed, |hash, depth| hash_label(hash, starts.suffix(name, depth)))
}

/// The hash of a suffix from that of its parent and its first label, length byte included: multiply and fold, eight
/// bytes a step. The seed is secret, and equal hashes are told apart by comparing names.
fn hash_label(parent: u64, suffix: &[u8]) -> u64 {
    const FACTOR: u64 = 0x9e37_79b9_7f4a_7c15;
    let mix = |hash: u64, word: u64| {
        let product = u128::from(hash ^ word) * u128::from(FACTOR);
        (product as u64) ^ (product >> 64) as u64
    };
    let (words, rest) = suffix[..=usize::from(suffix[0])].as_chunks::<8>();
    let hash = words.iter().fold(parent, |hash, word| mix(hash, u64::from_le_bytes(*word)));
    let last = rest.iter().fold(0, |last, byte| last << 8 | u64::from(*byte));
    mix(hash.rotate_left(23), last)
}

fn listed(rule: RuleIndex, position: usize) -> Listed {
    Listed { rule: rule.0, position: position as u32 }
}

fn settle(slot: &mut Listed, new: Listed, wins: impl Fn(Rival) -> bool) -> Option<Rival> {
    let rival = slot.rule();
    if rival.is_none_or(wins) {
        *slot = new;
    }
    rival
}

fn place_of<T>(list: &[(T, Listed)], wins: impl Fn(Rival) -> bool) -> usize {
    list.iter().position(|(_, other)| other.rule().is_some_and(&wins)).unwrap_or(list.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_share_slots_are_told_apart() {
        let names: Vec<DomainName> =
            (0..1000).map(|i| format!("n{}.{}.example", i % 100, i / 100).parse().unwrap()).collect();
        let mut table = NameTable::with_capacity(names.len());
        for (i, name) in names.iter().enumerate() {
            assert_eq!(table.insert_host(name, (RuleIndex(i as u32), i), |_| false), None);
        }
        for (i, name) in names.iter().enumerate() {
            let found = table.find(name.as_name()).unwrap();
            assert_eq!((found.rule.as_usize(), found.position as usize, found.labels_left), (i, i, 0));
            assert_eq!(table.insert_host(name, (RuleIndex(0), 0), |_| false), Some(RuleIndex(i as u32)));
        }
        assert_eq!(table.find("n100.0.example".parse::<DomainName>().unwrap().as_name()), None);
    }

    #[test]
    fn the_longest_name_and_the_root_have_no_rule_and_no_trouble() {
        let table = NameTable::with_capacity(0);
        let mut longest = [1, b'a'].repeat(127);
        longest.push(0);
        for wire in [&longest[..], b"\0"] {
            assert_eq!(table.find(Name::from_wire(wire).unwrap()), None);
        }
    }

    #[test]
    fn labels_and_their_borders_make_the_hash() {
        let hash = |labels: &[&[u8]]| labels.iter().fold(1, |hash, label| hash_label(hash, label));
        assert_ne!(hash(&[b"\x01a", b"\x01b"]), hash(&[b"\x02ab"]));
        assert_ne!(hash(&[b"\x08abcdefgh"]), hash(&[b"\x09abcdefgh\0"]));
        assert_ne!(hash(&[b"\x01a"]), hash(&[b"\x02a\0"]));
    }
}
