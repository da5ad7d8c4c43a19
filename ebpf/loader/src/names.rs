//! From the names of a policy to the kernel's table of them.

use std::hash::{BuildHasher, Hasher, RandomState};

use interdict_dns_wire::HEADER_BYTES;
use interdict_ebpf_shared::{
    name::{Bucket, FILTER_WORDS, Layout, NameEntry, NameSlot, SEARCH_BYTES, Secret, hash},
    policy::Decision,
};
use interdict_policy::{Name, Policy, RuleIndex, Suffix};

/// The names of a policy, by their hashes.
pub(crate) struct Table {
    pub(crate) layout: Layout,
    pub(crate) filter: Box<[u64; FILTER_WORDS]>,
    pub(crate) buckets: Vec<Bucket>,
    /// How many names there are.
    pub(crate) len: usize,
}

impl Table {
    /// The table of a policy; `decide` says what a rule does in the kernel.
    pub(crate) fn of(policy: &Policy, decide: impl Fn(RuleIndex) -> Decision) -> Self {
        loop {
            // That two of a million names have one hash happens once in 40 million times.
            if let Some(table) = Self::try_with(secret(), policy, &decide) {
                return table;
            }
        }
    }

    fn try_with(secret: Secret, policy: &Policy, decide: impl Fn(RuleIndex) -> Decision) -> Option<Self> {
        let mut slots: Vec<NameSlot> =
            policy.suffixes().map(|suffix| slot(&secret, policy, &suffix, &decide)).collect();
        slots.sort_unstable_by_key(|slot| slot.hash);
        if slots.windows(2).any(|pair| pair[0].hash == pair[1].hash) {
            return None;
        }
        let mut empty = Layout::for_names(secret, slots.len());
        loop {
            let (mut layout, mut filter) = (empty, Box::new([0; FILTER_WORDS]));
            let mut buckets = vec![Bucket::default(); layout.buckets()];
            if slots.iter().all(|slot| layout.insert(&mut filter, &mut buckets, slot)) {
                return Some(Self { layout, filter, buckets, len: slots.len() });
            }
            empty = empty.with_more_buckets();
        }
    }
}

/// What a policy says about a name and about those below it.
///
/// Where globs or patterns may decide below it, only the agent can tell, and is told what the domain around decides. The
/// name itself has no label left of it for them.
fn slot(
    secret: &Secret,
    policy: &Policy,
    suffix: &Suffix<'_>,
    decide: impl Fn(RuleIndex) -> Decision,
) -> NameSlot {
    let by_domain = |(domain, rule): (Name<'_>, RuleIndex)| {
        NameEntry::new(decide(rule), (domain.as_wire().len() - 1) as u8)
    };
    let domain = suffix.domain.map(|rule| by_domain((suffix.name, rule)));
    let host = suffix.host.map(|rule| NameEntry::new(decide(rule), 0));
    let around = || policy.domain_of(suffix.name).map_or(NameEntry::NONE, by_domain);
    NameSlot {
        hash: hash_of(secret, suffix.name),
        labels: suffix.name.labels().count(),
        itself: host.or(domain).unwrap_or(NameEntry::NONE),
        below: match suffix.is_fixed_part {
            true => around().undecidable(),
            false => domain.unwrap_or(NameEntry::NONE),
        },
    }
}

/// The hash of a name, as the kernel makes it of the name in a question.
fn hash_of(secret: &Secret, name: Name<'_>) -> u64 {
    let mut message = [0; HEADER_BYTES + 256];
    message[HEADER_BYTES..][..name.as_wire().len()].copy_from_slice(name.as_wire());
    hash(secret, &message[..], name.as_wire().len(), &mut [0; SEARCH_BYTES][..])
}

/// A secret that nobody knows: the standard library keys its hashes with random numbers of the system.
fn secret() -> Secret {
    let random = || RandomState::new().build_hasher().finish();
    Secret { start: random(), first: random() | 1, second: random() | 1 }
}
