//! Looking addresses up among networks, on the host: the code that the kernel runs, against a plain search.

mod kept;

use std::{
    collections::{BTreeMap, HashMap},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use interdict_ebpf_shared::{
    Address,
    network::{FIRST_STEP_V4, FIRST_STEP_V6, STEPS, Source, Step, find},
    policy::{Decision, NetworkEntry, State, Verdict},
    table::{Bucket, Table},
};
use ipnet::IpNet;
use kept::{Kept, SECRET};
use proptest::{collection::vec, prelude::*};

struct Networks {
    table: Kept,
    steps: [Step; STEPS],
}

fn address(address: IpAddr) -> Address {
    match address {
        IpAddr::V4(address) => Address::from_v4(address.octets()),
        IpAddr::V6(address) => Address::from_v6(address.octets()),
    }
}

fn step(network: &IpNet) -> Step {
    Step::of(&SECRET, network.addr().is_ipv4(), network.prefix_len().into())
}

impl Networks {
    fn of(networks: &HashMap<IpNet, NetworkEntry>) -> Self {
        let hash = |network: &IpNet| step(network).hash(&SECRET, address(network.network()));
        let entries: Vec<_> = networks.iter().map(|(network, entry)| (hash(network), entry.word())).collect();
        let mut steps = [Step::default(); STEPS];
        for (first, is_v4) in [(FIRST_STEP_V4, true), (FIRST_STEP_V6, false)] {
            let of_family = networks.keys().filter(|network| network.addr().is_ipv4() == is_v4);
            let lengths: BTreeMap<_, _> =
                of_family.map(|network| (network.prefix_len(), step(network))).collect();
            steps[first..]
                .iter_mut()
                .zip(lengths.into_values().rev())
                .for_each(|(place, step)| *place = step);
        }
        Self { table: Kept::of(&entries), steps }
    }

    fn find(&self, ip: IpAddr) -> NetworkEntry {
        let first = if ip.is_ipv4() { FIRST_STEP_V4 } else { FIRST_STEP_V6 };
        find(&self.table.layout, first, address(ip), self)
    }
}

impl Table for Networks {
    fn filter(&self, at: usize) -> u64 {
        self.table.filter(at)
    }

    fn bucket(&self, at: u64) -> Option<&Bucket> {
        self.table.bucket(at)
    }
}

impl Source for Networks {
    fn step(&self, at: usize) -> &Step {
        &self.steps[at]
    }
}

fn entry(rule: u32) -> NetworkEntry {
    NetworkEntry { otherwise: Decision { rule, state: State::new(Verdict::Block) }, port_set: rule / 2 }
}

fn expect(networks: &HashMap<IpNet, NetworkEntry>, ip: IpAddr) -> NetworkEntry {
    let around = networks.iter().filter(|(network, _)| network.contains(&ip));
    around.max_by_key(|(network, _)| network.prefix_len()).map_or(NetworkEntry::NONE, |(_, entry)| *entry)
}

/// Networks of few distinct bits, so that they lie inside each other and beside each other.
fn networks() -> impl Strategy<Value = HashMap<IpNet, NetworkEntry>> {
    let some =
        (any::<bool>(), 0_u8..=128, vec(prop_oneof![Just(0_u8), Just(1), Just(0x80), any::<u8>()], 16));
    vec(some, 0..80).prop_map(|all| {
        let network = |(index, (is_v4, bits, bytes)): (usize, (bool, u8, Vec<u8>))| {
            let ip = ip(is_v4, &bytes);
            let most = if is_v4 { 32 } else { 128 };
            (IpNet::new(ip, bits % (most + 1)).unwrap().trunc(), entry(index as u32))
        };
        all.into_iter().enumerate().map(network).collect()
    })
}

fn ip(is_v4: bool, bytes: &[u8]) -> IpAddr {
    if is_v4 {
        Ipv4Addr::from(*bytes.first_chunk().unwrap()).into()
    } else {
        Ipv6Addr::from(*bytes.first_chunk().unwrap()).into()
    }
}

proptest! {
    /// The longest network decides, whichever there are.
    #[test]
    fn the_longest_network_decides(networks in networks(), others in vec((any::<bool>(), vec(any::<u8>(), 16)), 20)) {
        let table = Networks::of(&networks);
        let edges = networks.keys().flat_map(|network| [network.network(), network.broadcast()]);
        let beside = networks.keys().map(|network| match network.broadcast() {
            IpAddr::V4(last) => Ipv4Addr::from_bits(last.to_bits().wrapping_add(1)).into(),
            IpAddr::V6(last) => Ipv6Addr::from_bits(last.to_bits().wrapping_add(1)).into(),
        });
        // An IPv4 address in an IPv6 header is looked for as one of IPv6.
        let mapped = networks.keys().filter_map(|network| match network.network() {
            IpAddr::V4(first) => Some(first.to_ipv6_mapped().into()),
            IpAddr::V6(_) => None,
        });
        for ip in edges.chain(beside).chain(mapped).chain(others.iter().map(|(is_v4, bytes)| ip(*is_v4, bytes))) {
            prop_assert_eq!(table.find(ip), expect(&networks, ip), "{}", ip);
        }
    }
}

#[test]
fn every_length_at_once_and_many_networks() {
    let lengths_v4 = (0..=32).map(|bits| IpNet::new(Ipv4Addr::new(10, 1, 2, 3).into(), bits).unwrap());
    let lengths_v6 = (0..=128).map(|bits| IpNet::new("2001:db8:1:2:3:4:5:6".parse().unwrap(), bits).unwrap());
    let many =
        (0..20_000_u32).map(|n| IpNet::new(Ipv4Addr::from_bits(n << 12 | 0x8000_0000).into(), 24).unwrap());
    let all = lengths_v4.chain(lengths_v6).chain(many).map(|network| network.trunc());
    let networks: HashMap<_, _> =
        all.enumerate().map(|(rule, network)| (network, entry(rule as u32 % 16_384))).collect();
    let table = Networks::of(&networks);
    for network in networks.keys() {
        assert_eq!(table.find(network.network()), expect_of(&networks, network.network()), "{network}");
    }
}

/// As [`expect`], sooner.
fn expect_of(networks: &HashMap<IpNet, NetworkEntry>, ip: IpAddr) -> NetworkEntry {
    let most = if ip.is_ipv4() { 32 } else { 128 };
    let lengths = (0..=most).rev().map(|bits| IpNet::new(ip, bits).unwrap().trunc());
    lengths.filter_map(|network| networks.get(&network)).next().copied().unwrap_or(NetworkEntry::NONE)
}
