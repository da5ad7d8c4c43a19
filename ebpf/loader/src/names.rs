//! From the names of a policy to the entries of the kernel's trie.

use std::collections::HashMap;

use aya::maps::lpm_trie::Key;
use interdict_dns_wire::HEADER_BYTES;
use interdict_ebpf_shared::{
    name::{KEY_WORDS, KeyLength, NameEntry, NameKey, write_key},
    policy::Decision,
};
use interdict_policy::{Name, Policy, RuleIndex, Suffix};

/// Every entry of a policy; `decide` says what a rule does in the kernel.
///
/// An entry for a domain matches the name and all below it, an entry for a host that name alone. Where globs or patterns
/// may decide below a name, a domain's entry there says so, with what the domain around it decides; the name itself has
/// no label left of it for them, and so an entry as of a host.
pub(crate) fn entries(
    policy: &Policy,
    decide: impl Fn(RuleIndex) -> Decision,
) -> Vec<(Key<NameKey>, NameEntry)> {
    let mut entries = HashMap::new();
    let by_domain = |(domain, rule): (Name<'_>, RuleIndex)| NameEntry {
        decision: decide(rule),
        owner_bytes: domain.as_wire().len() as u32 - 1,
        undecidable: 0,
    };
    for Suffix { name, host, domain, is_fixed_part } in policy.suffixes() {
        let (key, length) = key(name);
        let around = || policy.domain_of(name).map_or(NameEntry::NONE, by_domain);
        if is_fixed_part {
            entries.insert((key, length.domain_bits()), NameEntry { undecidable: 1, ..around() });
            entries.insert((key, length.host_bits()), around());
        } else if let Some(rule) = domain {
            entries.insert((key, length.domain_bits()), by_domain((name, rule)));
        }
        if let Some(rule) = host {
            let entry = NameEntry { decision: decide(rule), ..NameEntry::NONE };
            entries.insert((key, length.host_bits()), entry);
        }
    }
    entries.into_iter().map(|((key, bits), entry)| (Key::new(bits, key), entry)).collect()
}

/// The key of a name, as the kernel makes it of the name in a question.
fn key(name: Name<'_>) -> (NameKey, KeyLength) {
    let mut message = vec![0; HEADER_BYTES];
    message.extend(name.as_wire());
    let mut bytes = [0; KEY_WORDS * 8];
    let length = write_key(&message[..], name.as_wire().len(), &mut bytes[..])
        .expect("the names of a policy are letters, digits, hyphens and underscores");
    let mut words = [0; KEY_WORDS];
    for (word, bytes) in words.iter_mut().zip(bytes.as_chunks::<8>().0) {
        *word = u64::from_ne_bytes(*bytes);
    }
    (NameKey { words }, length)
}
