//! From the names of a policy to the kernel's table of them.

use interdict_dns_wire::HEADER_BYTES;
use interdict_ebpf_shared::{
    name::{NameEntry, NameSlot, Names, SEARCH_BYTES, hash},
    policy::Decision,
    table::Secret,
};
use interdict_policy::{Name, Policy, RuleIndex, Suffix};

use crate::table::Table;

/// The table of a policy's names, and how it is to be read; `decide` says what a rule does in the kernel.
pub(crate) fn table(policy: &Policy, decide: impl Fn(RuleIndex) -> Decision) -> (Names, Table) {
    let decide = &decide;
    let table = Table::of(|&secret| {
        let slots = policy.suffixes().map(move |suffix| slot(&secret, policy, &suffix, decide));
        slots.map(|slot| (slot.hash, slot.word()))
    });
    let depth = |suffix: Suffix<'_>| Names::depth(suffix.name.labels().count());
    let depths = policy.suffixes().map(depth).fold(0, |depths, depth| depths | depth);
    (Names { layout: table.layout, depths }, table)
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
