//! The networks of a policy as a table of hashes, in which an address is looked for once for each length of a prefix that
//! some network has, the longest first.
//!
//! A trie has a node for each bit at which networks part, and looks for one address in a dozen places of memory.

use interdict_dns_wire::Round;

use crate::{
    Address,
    limits::MAX_RULES,
    plain_bytes,
    policy::{Decision, NetworkEntry, State},
    table::{BUCKETS_TRIED, Layout, Look, Secret, Table},
};

/// A length of prefixes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Step {
    /// Where the hash of such a prefix begins; 0 where there are no more lengths.
    start: u64,
    /// The bits of an address that are in it.
    mask: Address,
}
plain_bytes!(Step { start: u64, mask: Address });

impl Step {
    /// The step of prefixes of so many bits. Those of IPv4, whose addresses are compared in the mapped form, are not those of
    /// IPv6 whose addresses look the same.
    pub const fn of(secret: &Secret, is_v4: bool, bits: u32) -> Self {
        let mask = match if is_v4 { 32 - bits } else { 128 - bits } {
            128 => 0,
            open_bits => u128::MAX << open_bits,
        };
        let start = secret.end(secret.start ^ (bits as u64) << 1 ^ is_v4 as u64);
        Self { start, mask: Address::from_v6(mask.to_be_bytes()) }
    }

    /// The hash of the prefix that an address has.
    #[inline(always)]
    pub const fn hash(&self, secret: &Secret, address: Address) -> u64 {
        let [first, second] = address.within(self.mask);
        secret.end(secret.mix(self.start ^ first) ^ second)
    }
}

/// Room for the lengths of both families, each from the longest on, and an end behind them.
pub const STEPS: usize = 256;

/// Where the lengths of IPv4 prefixes begin.
pub const FIRST_STEP_V4: usize = 192;

/// Where the lengths of IPv6 prefixes begin.
pub const FIRST_STEP_V6: usize = 0;

/// Lengths of IPv6 prefixes, from 0 to 128.
const LENGTHS: usize = 129;
const _: () = assert!(FIRST_STEP_V6 + LENGTHS < FIRST_STEP_V4 && FIRST_STEP_V4 + 33 < STEPS);

/// How the networks of a policy are to be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Networks {
    /// Their table.
    pub layout: Layout,
    /// The lengths of their prefixes.
    pub steps: [Step; STEPS],
}
plain_bytes!(Networks { layout: Layout, steps: [Step; STEPS] });

impl Networks {
    /// No networks.
    pub const NONE: Self =
        Self { layout: Layout::NONE, steps: [Step { start: 0, mask: Address::NONE }; STEPS] };
}

/// Where the networks lie.
pub trait Source: Table {
    /// The step at a place below [`STEPS`].
    fn step(&self, at: usize) -> &Step;

    /// As [`interdict_dns_wire::Bytes::forget`].
    fn forget(number: usize) -> usize {
        number
    }

    /// As [`interdict_dns_wire::Bytes::repeat`].
    fn repeat<R: Round>(limit: usize, work: &mut R) -> Option<usize> {
        (1..limit).find(|_| !work.round())
    }
}

/// The entry of the longest network that holds an address, the lengths of whose family begin at this step.
#[inline(always)]
pub fn find<S: Source + ?Sized>(layout: &Layout, first: usize, address: Address, source: &S) -> NetworkEntry {
    let (at, tried) = (S::forget(first), S::forget(0));
    let mut search = Search { layout, address, source, at, tried, found: 0 };
    S::repeat(LENGTHS * BUCKETS_TRIED + 2, &mut search);
    NetworkEntry::from_word(search.found)
}

/// The way through the lengths. A round looks into one bucket at most.
struct Search<'n, S: ?Sized> {
    layout: &'n Layout,
    address: Address,
    source: &'n S,
    at: usize,
    tried: usize,
    found: u64,
}

impl<S: Source + ?Sized> Round for Search<'_, S> {
    #[inline(always)]
    fn round(&mut self) -> bool {
        let step = self.source.step(self.at);
        if step.start == 0 {
            return false;
        }
        let hash = step.hash(&self.layout.secret, self.address);
        match self.layout.look(self.source, hash, self.tried) {
            Look::Found(word) => {
                self.found = word;
                return false;
            }
            Look::Further => self.tried = S::forget(self.tried + 1),
            Look::Nothing => {
                self.at = S::forget(self.at + 1);
                self.tried = S::forget(0);
            }
        }
        true
    }
}

const RULE: u64 = (1 << 14) - 1;
const STATE_AT: u32 = 14;
const STATE: u64 = (1 << (PORT_SET_AT - STATE_AT)) - 1;
const PORT_SET_AT: u32 = 32;
const _: () = assert!(MAX_RULES as u64 <= RULE + 1 && State::BITS <= STATE as u32);

impl NetworkEntry {
    /// The entry as the table has it: from the lowest bit the rule's slot, what it does, and the set of ports.
    pub const fn word(self) -> u64 {
        let Self { otherwise: Decision { rule, state }, port_set } = self;
        rule as u64 & RULE | (state.bits() as u64) << STATE_AT | (port_set as u64) << PORT_SET_AT
    }

    /// The same, the other way round.
    #[inline(always)]
    pub const fn from_word(word: u64) -> Self {
        let state = State::from_bits((word >> STATE_AT & STATE) as u32);
        let rule = (word & RULE) as u32;
        Self { otherwise: Decision { rule, state }, port_set: (word >> PORT_SET_AT) as u32 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::Verdict;

    #[test]
    fn an_entry_keeps_what_it_is_made_of() {
        assert_eq!(NetworkEntry::from_word(0), NetworkEntry::NONE);
        for verdict in Verdict::ALL {
            for (rule, port_set, any) in [(0, 0, false), (MAX_RULES - 1, u32::MAX, true)] {
                let state = State::new(verdict).with_exemptions(any).with_learning(any).with_reject(any);
                let entry = NetworkEntry { otherwise: Decision { rule, state }, port_set };
                assert_eq!(NetworkEntry::from_word(entry.word()), entry);
            }
        }
        let only_ports = NetworkEntry { otherwise: Decision::NONE, port_set: 7 };
        assert_eq!(NetworkEntry::from_word(only_ports.word()), only_ports);
    }
}
