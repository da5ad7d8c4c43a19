//! From the networks of a policy to the kernel's table of them.

use std::{collections::BTreeSet, net::IpAddr};

use interdict_ebpf_shared::{
    Address,
    filter::{self, Filter},
    network::{FIRST_STEP_V4, FIRST_STEP_V6, Networks, STEPS, Step},
    policy::NetworkEntry,
};
use ipnet::IpNet;

use crate::{staging::address, table::Table};

/// A network, and what is decided for the addresses of which it is the longest.
pub(crate) struct Prefix {
    network: IpNet,
    entry: NetworkEntry,
}

impl Prefix {
    pub(crate) const fn new(network: IpNet, entry: NetworkEntry) -> Self {
        Self { network, entry }
    }

    pub(crate) const fn is_v4(&self) -> bool {
        matches!(self.network, IpNet::V4(_))
    }

    fn bits(&self) -> u32 {
        self.network.prefix_len().into()
    }

    /// Enters it into the filter of its family.
    pub(crate) fn enter(&self, places4: &mut Filter, places6: &mut Filter) {
        match self.network.network() {
            IpAddr::V4(first) => filter::add_v4(places4, first.to_bits(), self.bits()),
            IpAddr::V6(first) => filter::add_v6(places6, (first.to_bits() >> 96) as u32, self.bits()),
        }
    }

    fn address(&self) -> Address {
        address(self.network.network())
    }
}

/// The table of these networks, and how it is to be read.
pub(crate) fn table(prefixes: &[Prefix]) -> (Networks, Table) {
    let table = Table::of(|&secret| {
        prefixes.iter().map(move |prefix| {
            let step = Step::of(&secret, prefix.is_v4(), prefix.bits());
            (step.hash(&secret, prefix.address()), prefix.entry.word())
        })
    });
    let mut steps = [Step::default(); STEPS];
    for (is_v4, first) in [(true, FIRST_STEP_V4), (false, FIRST_STEP_V6)] {
        let of_family = prefixes.iter().filter(|prefix| prefix.is_v4() == is_v4);
        let lengths: BTreeSet<u32> = of_family.map(Prefix::bits).collect();
        for (place, &bits) in steps[first..].iter_mut().zip(lengths.iter().rev()) {
            *place = Step::of(&table.layout.secret, is_v4, bits);
        }
    }
    (Networks { layout: table.layout, steps }, table)
}
