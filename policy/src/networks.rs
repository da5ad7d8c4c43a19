//! The matcher for addresses: the entry of the longest prefix is the whole answer.
//!
//! A rule with `ports` speaks only for those services, and where none of a prefix's services match, the next
//! shorter prefix decides. That walk is done once, when the table is built: each entry carries what the
//! prefixes around it would add. So the kernel needs one longest-prefix look-up and at most one for the port.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

use crate::prefix::PrefixMap;
use crate::rule::{RuleIndex, Service};

/// What is decided for addresses whose longest matching prefix is this one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NetworkVerdicts {
    /// The rule for each service that one names, in order of service.
    pub ports: Arc<[(Service, RuleIndex)]>,
    /// The rule for everything else.
    pub otherwise: Option<RuleIndex>,
}

impl NetworkVerdicts {
    fn decide(&self, service: Option<Service>) -> Option<RuleIndex> {
        service.and_then(|wanted| rule_for(&self.ports, wanted)).or(self.otherwise)
    }
}

fn rule_for(ports: &[(Service, RuleIndex)], wanted: Service) -> Option<RuleIndex> {
    ports.binary_search_by_key(&wanted, |(service, _)| *service).ok().map(|i| ports[i].1)
}

/// Every network of a policy with its verdicts.
#[derive(Clone, Debug, Default)]
pub(crate) struct NetworkTable {
    entries: PrefixMap<NetworkVerdicts>,
}

impl NetworkTable {
    /// The network and the rule that decide for an address.
    pub(crate) fn find(&self, address: IpAddr, service: Option<Service>) -> Option<(IpNet, RuleIndex)> {
        let (network, verdicts) = self.entries.longest(address)?;
        verdicts.decide(service).map(|rule| (network, rule))
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (IpNet, &NetworkVerdicts)> {
        self.entries.iter()
    }
}

/// Collects what the rules say, prefix by prefix, before the table is built.
#[derive(Default)]
pub(crate) struct NetworkTableBuilder {
    own: BTreeMap<(u8, IpNet), OwnVerdicts>,
}

/// What the rules say about exactly this prefix.
#[derive(Default)]
struct OwnVerdicts {
    ports: BTreeMap<Service, RuleIndex>,
    otherwise: Option<RuleIndex>,
}

impl NetworkTableBuilder {
    /// Enters a network for every service; `wins` says whether the new rule goes before the one there. Returns that one.
    pub(crate) fn insert(
        &mut self,
        network: IpNet,
        rule: RuleIndex,
        wins: impl Fn(RuleIndex) -> bool,
    ) -> Option<RuleIndex> {
        let own = self.own.entry((network.prefix_len(), network)).or_default();
        let rival = own.otherwise;
        if rival.is_none_or(wins) {
            own.otherwise = Some(rule);
        }
        rival
    }

    /// Enters a network for one service; as [`NetworkTableBuilder::insert`].
    pub(crate) fn insert_port(
        &mut self,
        network: IpNet,
        service: Service,
        rule: RuleIndex,
        wins: impl Fn(RuleIndex) -> bool,
    ) -> Option<RuleIndex> {
        let own = self.own.entry((network.prefix_len(), network)).or_default();
        let rival = own.ports.get(&service).copied();
        if rival.is_none_or(wins) {
            own.ports.insert(service, rule);
        }
        rival
    }

    /// Builds the table, shortest prefixes first, so that each finds what surrounds it already whole.
    pub(crate) fn build(self) -> NetworkTable {
        let mut entries = PrefixMap::default();
        for ((_, network), own) in self.own {
            let verdicts = flatten(own, entries.longest(network.addr()).map(|(_, around)| around));
            entries.insert(network, verdicts);
        }
        NetworkTable { entries }
    }
}

/// A prefix's own verdicts, and below them those of the prefixes around it.
fn flatten(own: OwnVerdicts, around: Option<&NetworkVerdicts>) -> NetworkVerdicts {
    let around = around.filter(|_| own.otherwise.is_none());
    let ports = match around {
        None if own.ports.is_empty() => Arc::default(),
        None => own.ports.into_iter().collect(),
        Some(around) if own.ports.is_empty() => around.ports.clone(),
        Some(around) => {
            let mut ports: BTreeMap<Service, RuleIndex> = around.ports.iter().copied().collect();
            ports.extend(own.ports);
            ports.into_iter().collect()
        }
    };
    NetworkVerdicts { ports, otherwise: own.otherwise.or_else(|| around?.otherwise) }
}
