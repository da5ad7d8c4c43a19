//! From a compiled policy to the maps of one generation.

use std::{
    collections::{HashMap, HashSet},
    net::IpAddr,
};

use aya::maps::{Array, ArrayOfMaps, HashMap as BpfHashMap, LpmTrie, MapData, MapError, lpm_trie::Key};
use interdict_dns_wire::{Blocked, Template};
use interdict_ebpf_shared::{
    Address,
    contact::unit_number,
    control, filter,
    limits::{MAX_EXEMPTIONS, MAX_NETWORKS, MAX_RESOLVERS, MAX_SERVICES, MAX_UNIT_NETWORKS},
    maps,
    policy::{Decision, ExemptionKey, NetworkEntry, ServiceKey, State},
    query::{Answer, Egress, Settings, answer_place},
    spelling::{self, MAX_TRANSLATIONS, Translation, Translations},
};
use interdict_policy::{
    Action, Digest, PacketAnswer, PlainEgress, Policy, Rule, RuleIndex, Service, Timestamp,
};
use ipnet::{IpNet, Ipv6Net};

use crate::{
    Error, Options, names,
    prefixes::{self, Prefix},
    registry::verdict_of,
    system::boot_time_ns,
    table::{Buckets, INNER_ARRAY_FLAGS, Table},
};

/// Each needs the flag, or the kernel refuses it (`BPF_F_NO_PREALLOC`).
const TRIE_FLAGS: u32 = 1;

type Services = BpfHashMap<MapData, ServiceKey, Decision>;
type Rules = Array<MapData, State>;
/// A trie of networks of clients, to the numbers of their units.
type Units = LpmTrie<MapData, [u32; 4], u64>;
type Exemptions = LpmTrie<MapData, ExemptionKey, u64>;
type AllSettings = Array<MapData, Settings>;
type Resolvers = BpfHashMap<MapData, Address, u32>;

/// A policy that lies in the kernel, ready to be put in force by [`crate::PacketPlane::flip`].
pub struct Staged {
    pub(crate) generation: u64,
    /// Which staging it comes from.
    pub(crate) staging: u64,
    pub(crate) digest: Digest,
    pub(crate) states: Vec<State>,
    /// The ids of its units, by their numbers.
    pub(crate) units: HashMap<u64, String>,
    pub(crate) inner: InnerMaps,
}

impl Staged {
    /// The digest of the policy.
    pub const fn digest(&self) -> Digest {
        self.digest
    }

    /// The number under which the kernel knows it.
    pub const fn generation(&self) -> u64 {
        self.generation
    }
}

/// The maps of one generation.
pub(crate) struct InnerMaps {
    networks: Buckets,
    services: Services,
    rules: Rules,
    exemptions: Exemptions,
    units: Units,
    names: Buckets,
    settings: AllSettings,
    resolvers: Resolvers,
}

/// The maps that hold the two slots of generations.
pub(crate) struct OuterMaps {
    pub(crate) networks: ArrayOfMaps<MapData, Buckets>,
    pub(crate) services: ArrayOfMaps<MapData, Services>,
    pub(crate) rules: ArrayOfMaps<MapData, Rules>,
    pub(crate) exemptions: ArrayOfMaps<MapData, Exemptions>,
    pub(crate) units: ArrayOfMaps<MapData, Units>,
    pub(crate) names: ArrayOfMaps<MapData, Buckets>,
    /// The answers of both, one behind another.
    pub(crate) answers: Array<MapData, Answer>,
    pub(crate) settings: ArrayOfMaps<MapData, AllSettings>,
    pub(crate) resolvers: ArrayOfMaps<MapData, Resolvers>,
}

impl OuterMaps {
    /// Puts the maps of a generation into its slot, and writes what its rules answer, by their slots, over what stands there: no
    /// program may still be judging by the generation that had the slot before.
    pub(crate) fn set(
        &mut self,
        generation: u64,
        inner: &InnerMaps,
        answers: &[(u32, Answer)],
    ) -> Result<(), Error> {
        let slot = control::slot(generation);
        self.networks.set(slot, &inner.networks, 0).map_err(named(maps::NETWORKS))?;
        self.services.set(slot, &inner.services, 0).map_err(named(maps::SERVICES))?;
        self.exemptions.set(slot, &inner.exemptions, 0).map_err(named(maps::EXEMPTIONS))?;
        self.units.set(slot, &inner.units, 0).map_err(named(maps::UNITS))?;
        self.names.set(slot, &inner.names, 0).map_err(named(maps::NAMES))?;
        for (rule, answer) in answers {
            self.answers.set(answer_place(slot, *rule), answer, 0).map_err(named(maps::ANSWERS))?;
        }
        self.settings.set(slot, &inner.settings, 0).map_err(named(maps::SETTINGS))?;
        self.resolvers.set(slot, &inner.resolvers, 0).map_err(named(maps::RESOLVERS))?;
        self.rules.set(slot, &inner.rules, 0).map_err(named(maps::RULES))
    }

    /// Waits until no packet is still judged by what stood in the maps before.
    ///
    /// The kernel ends every update of a map of maps with `synchronize_rcu` (`maybe_wait_bpf_programs` in
    /// kernel/bpf/syscall.c), and a program runs from start to end inside one RCU section. So writing what is there
    /// already changes nothing, and returns when every program that was running has ended.
    pub(crate) fn wait_for_running_programs(&mut self, live: u64, inner: &InnerMaps) -> Result<(), Error> {
        self.rules.set(control::slot(live), &inner.rules, 0).map_err(named(maps::RULES))
    }
}

/// Names the map in an error.
pub(crate) fn named(name: &'static str) -> impl Fn(MapError) -> Error {
    move |source| Error::Map { name, source }
}

/// What a policy says, in the words of the kernel, before any of it is in the kernel.
pub(crate) struct Tables {
    networks: Table,
    services: Vec<(ServiceKey, Decision)>,
    exemptions: Vec<(Key<ExemptionKey>, u64)>,
    units: Vec<(Key<[u32; 4]>, u64)>,
    names: Table,
    /// What the rules answer, each with its slot.
    pub(crate) answers: Vec<(u32, Answer)>,
    settings: Box<Settings>,
    resolvers: Vec<Address>,
    /// By slot, what the rules do.
    pub(crate) states: Vec<State>,
}

impl Tables {
    /// Translates a policy, whose rules have these slots. Fails if it is too large, before anything is written.
    pub(crate) fn of(policy: &Policy, slots: &[u32], options: &Options) -> Result<Self, Error> {
        let exemptions = exemptions(policy, slots);
        let exempted = exemptions.iter().map(|(key, _)| key.data().rule).collect();
        let rules = RuleSlots { policy, slots, exempted };
        let states = rules.states();
        let mut settings = Box::new(Settings::NONE);
        settings.egress = rules.egress();
        settings.translations = translations(&options.nat64);
        settings.translated = spelling::bits(&settings.translations);
        for first in settings.translations.iter().filter_map(Translation::first_word) {
            filter::add_v6(&mut settings.places6, first, 32);
        }
        let (read_names, names) = names::table(policy, |rule| rules.decision(rule));
        settings.names = read_names;
        settings.name_filter = *names.filter;
        let addresses = Addresses::of(policy, &rules);
        let (v4, v6): (Vec<_>, Vec<_>) = addresses.prefixes.iter().partition(|prefix| prefix.is_v4());
        let (v4, v6) = (v4.len(), v6.len());
        for prefix in &addresses.prefixes {
            prefix.enter(&mut settings.places4, &mut settings.places6);
        }
        let (read_networks, networks) = prefixes::table(&addresses.prefixes);
        settings.networks = read_networks;
        settings.network_filter = *networks.filter;
        let tables = Self {
            networks,
            services: addresses.services,
            exemptions,
            units: units(policy),
            names,
            answers: rules.answers(),
            settings,
            resolvers: policy.egress_dns().resolvers.iter().map(|at| address(at.value)).collect(),
            states,
        };
        for (what, count, limit) in [
            ("IPv4 networks", v4, MAX_NETWORKS),
            ("IPv6 networks", v6, MAX_NETWORKS),
            ("ports of networks", tables.services.len(), MAX_SERVICES),
            ("exemptions, counted by rule and network of clients", tables.exemptions.len(), MAX_EXEMPTIONS),
            ("networks of units", tables.units.len(), MAX_UNIT_NETWORKS),
            (
                "names ([packet] max_names; a name takes up to 256 bytes while it is staged)",
                tables.names.len,
                options.max_names,
            ),
            ("resolvers in [egress_dns]", tables.resolvers.len(), MAX_RESOLVERS),
        ] {
            if count > limit as usize {
                return Err(Error::TooMany { what, count, limit });
            }
        }
        Ok(tables)
    }

    /// Writes the tables into new maps, which no program reads yet.
    pub(crate) fn write(&self) -> Result<InnerMaps, Error> {
        let write_services = || {
            let mut services = Services::create(size(self.services.len()), 0)?;
            self.services.iter().try_for_each(|(key, decision)| services.insert(key, decision, 0))?;
            Ok(services)
        };
        let write_rules = || {
            let mut rules = Rules::create(size(self.states.len()), INNER_ARRAY_FLAGS)?;
            for (slot, state) in self.states.iter().enumerate() {
                rules.set(slot as u32, state, 0)?;
            }
            Ok(rules)
        };
        let write_exemptions = || {
            let mut exemptions = Exemptions::create(size(self.exemptions.len()), TRIE_FLAGS)?;
            self.exemptions.iter().try_for_each(|(key, end_ns)| exemptions.insert(key, end_ns, 0))?;
            Ok(exemptions)
        };
        let write_units = || {
            let mut units = Units::create(size(self.units.len()), TRIE_FLAGS)?;
            self.units.iter().try_for_each(|(key, unit)| units.insert(key, unit, 0))?;
            Ok(units)
        };
        let write_settings = || {
            let mut settings = AllSettings::create(1, 0)?;
            // By reference: it is too large to be moved.
            let all: &Settings = &self.settings;
            settings.set(0, all, 0)?;
            Ok(settings)
        };
        let write_resolvers = || {
            let mut resolvers = Resolvers::create(size(self.resolvers.len()), 0)?;
            self.resolvers.iter().try_for_each(|resolver| resolvers.insert(resolver, 1, 0))?;
            Ok(resolvers)
        };
        let networks = self.networks.write().map_err(named(maps::NETWORKS))?;
        let names = self.names.write().map_err(named(maps::NAMES))?;
        let settings = write_settings().map_err(named(maps::SETTINGS))?;
        let resolvers = write_resolvers().map_err(named(maps::RESOLVERS))?;
        let services = write_services().map_err(named(maps::SERVICES))?;
        let rules = write_rules().map_err(named(maps::RULES))?;
        let exemptions = write_exemptions().map_err(named(maps::EXEMPTIONS))?;
        let units = write_units().map_err(named(maps::UNITS))?;
        Ok(InnerMaps { networks, services, rules, exemptions, units, names, settings, resolvers })
    }
}

/// What a policy says of addresses and ports.
#[derive(Default)]
struct Addresses<'p> {
    prefixes: Vec<Prefix>,
    services: Vec<(ServiceKey, Decision)>,
    /// The number of each set of ports.
    port_sets: HashMap<&'p [(Service, RuleIndex)], u32>,
}

impl<'p> Addresses<'p> {
    fn of(policy: &'p Policy, rules: &RuleSlots<'_>) -> Self {
        let mut addresses = Self::default();
        for (network, verdicts) in policy.networks() {
            let otherwise = verdicts.otherwise.map_or(Decision::NONE, |rule| rules.decision(rule));
            let port_set = addresses.port_set(verdicts.ports.as_ref(), rules);
            let entry = NetworkEntry { otherwise, port_set };
            if !entry.is_none() {
                addresses.prefixes.push(Prefix::new(network, entry));
            }
        }
        addresses
    }

    /// The number of a set of ports; 0 for one that decides nothing here.
    fn port_set(&mut self, ports: &'p [(Service, RuleIndex)], rules: &RuleSlots<'_>) -> u32 {
        // Where nothing else decides the programs look at ports of every address themselves, so that not every packet finds a
        // network.
        let is_everywhere = |rule| rules.policy.is_everywhere(rule);
        if ports.iter().all(|(_, rule)| is_everywhere(*rule)) {
            return 0;
        }
        let new = self.port_sets.len() as u32 + 1;
        let known = *self.port_sets.entry(ports).or_insert(new);
        if known == new {
            for &(service, rule) in ports.iter().filter(|(_, rule)| !is_everywhere(*rule)) {
                let (port, protocol) = (service.port.to_be_bytes(), service.protocol.number());
                let key = ServiceKey { port_set: new, port, protocol, zero: 0 };
                self.services.push((key, rules.decision(rule)));
            }
        }
        known
    }
}

/// The register as the kernel has it: for each rule and network of clients, when the last exemption ends that holds it.
///
/// The kernel sees the longest network alone, so each has the end of those around it too.
fn exemptions(policy: &Policy, slots: &[u32]) -> Vec<(Key<ExemptionKey>, u64)> {
    let now = Timestamp::now();
    let mut ends: HashMap<(u32, IpNet), Timestamp> = HashMap::new();
    for exemption in policy.exemptions().iter().filter(|exemption| exemption.stands(now)) {
        for rule in &exemption.rules {
            let Some(rule) = policy.find_rule(rule.value.as_str()) else { continue };
            for clients in &exemption.clients {
                let end = ends.entry((slots[rule.as_usize()], clients.value)).or_insert(exemption.expires);
                *end = exemption.expires.max(*end);
            }
        }
    }
    let boot_ns = boot_time_ns();
    let boot_end = |end: Timestamp| {
        let left_ns = (end.as_nanosecond() - now.as_nanosecond()).max(0);
        boot_ns.saturating_add(u64::try_from(left_ns).unwrap_or(u64::MAX))
    };
    ends.keys()
        .map(|&(rule, clients)| {
            let around = std::iter::successors(Some(clients), IpNet::supernet);
            let end = around.filter_map(|network| ends.get(&(rule, network))).max().copied().unwrap_or(now);
            let key = ExemptionKey { rule, zero: 0, clients: address(clients.network()) };
            (Key::new(ExemptionKey::RULE_BITS + bits(&clients), key), boot_end(end))
        })
        .collect()
}

/// The networks of the policy's units.
fn units(policy: &Policy) -> Vec<(Key<[u32; 4]>, u64)> {
    let units = policy.units().iter();
    let networks = units.flat_map(|unit| unit.networks.iter().map(|network| (network.value, &unit.id)));
    networks
        .map(|(network, id)| (Key::new(bits(&network), address(network.network()).words()), unit_number(id)))
        .collect()
}

/// The slots of the rules of one policy, by position in it.
struct RuleSlots<'a> {
    policy: &'a Policy,
    slots: &'a [u32],
    /// The slots of rules that the register of exemptions names.
    exempted: HashSet<u32>,
}

impl RuleSlots<'_> {
    fn decision(&self, index: RuleIndex) -> Decision {
        let rule = self.slots[index.as_usize()];
        Decision { rule, state: self.state(self.policy.rule(index), rule) }
    }

    fn states(&self) -> Vec<State> {
        self.by_slot(State::NONE, |rule, slot| self.state(rule, slot))
    }

    fn answers(&self) -> Vec<(u32, Answer)> {
        let answer = |rule| Answer(Template::new(&Blocked::of(rule)));
        self.slots.iter().zip(self.policy.rules()).map(|(&slot, rule)| (slot, answer(rule))).collect()
    }

    /// Something of each rule, at the place of its slot; slots of other policies' rules have nothing.
    fn by_slot<T: Clone>(&self, nothing: T, something: impl Fn(&Rule, u32) -> T) -> Vec<T> {
        let used = self.slots.iter().max().map_or(0, |&last| last as usize + 1);
        let mut by_slot = vec![nothing; used];
        for (rule, &slot) in self.policy.rules().iter().zip(self.slots) {
            by_slot[slot as usize] = something(rule, slot);
        }
        by_slot
    }

    fn egress(&self) -> Egress {
        let rules = self.policy.egress_rules();
        let decision = |rule: Option<RuleIndex>| rule.map_or(Decision::NONE, |rule| self.decision(rule));
        Egress {
            plain: decision(rules.plain),
            redirect: u32::from(self.policy.egress_dns().plain == PlainEgress::Redirect),
            encrypted: decision(rules.dot),
            unjudged: decision(rules.unjudged),
            resolvers: self.policy.egress_dns().resolvers.len() as u32,
        }
    }

    fn state(&self, rule: &Rule, slot: u32) -> State {
        // An exception stands for everyone; nobody needs another from it.
        let exempted = rule.action != Action::Allow && self.exempted.contains(&slot);
        State::new(verdict_of(rule.action))
            .with_exemptions(exempted)
            .with_learning(rule.learn)
            .with_reject(rule.packet == PacketAnswer::Reject)
    }
}

/// Behind which IPv6 prefixes IPv4 addresses stand. There are no more of the operator's than have room.
fn translations(nat64: &[Ipv6Net]) -> Translations {
    let mut all = [Translation::NONE; MAX_TRANSLATIONS];
    let own = nat64
        .iter()
        .map(|prefix| Translation::behind(prefix.network().to_bits(), prefix.prefix_len().into()));
    let known = [spelling::MAPPED, spelling::WELL_KNOWN, spelling::SIX_TO_FOUR].into_iter().chain(own);
    all.iter_mut().zip(known).for_each(|(place, translation)| *place = translation);
    all
}

/// The size of a map for so many entries: the kernel has no empty ones.
fn size(entries: usize) -> u32 {
    entries.max(1) as u32
}

/// Bits of a prefix, in the form in which maps hold addresses: one of IPv4 is 96 longer.
pub(crate) fn bits(network: &IpNet) -> u32 {
    u32::from(network.prefix_len()) + if network.addr().is_ipv4() { 96 } else { 0 }
}

/// An address as maps hold it.
pub(crate) fn address(address: IpAddr) -> Address {
    match address {
        IpAddr::V4(address) => Address::from_v4(address.octets()),
        IpAddr::V6(address) => Address::from_v6(address.octets()),
    }
}

/// The word of an IPv4 address, its bytes in network order.
pub(crate) const fn word(octets: [u8; 4]) -> u32 {
    u32::from_ne_bytes(octets)
}

/// The words of an IPv6 address, their bytes in network order.
pub(crate) const fn words(octets: [u8; 16]) -> [u32; 4] {
    interdict_ebpf_shared::Address::from_v6(octets).words()
}
