//! Sets of nftables for the policy's networks.
//!
//! The longest prefix decides in a policy, and in a set any element does. So the sets hold what remains of each network
//! once the longer prefixes inside it are cut out: disjoint pieces, each with the verdict of its longest prefix. What a
//! rule with `ports` says stands in sets of address, protocol and port, which the chain asks first.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Subnets, Ipv6Subnets};

use super::unsaid::{Effect, Notes};
use super::{Exported, Format, finish};
use crate::networks::NetworkVerdicts;
use crate::policy::Policy;
use crate::rule::{Action, PacketAnswer, Rule, RuleIndex, Service};

const USAGE: &str = "\
Load it: nft -f FILE. It fills the sets of table inet interdict in one step and leaves chains alone (Linux 5.6 or later).
The sets do nothing until a chain asks them, for example on a gateway:
  table inet interdict {
      chain forward {
          type filter hook forward priority filter; policy accept;
          ip  daddr . meta l4proto . th dport @open_services4 accept
          ip6 daddr . meta l4proto . th dport @open_services6 accept
          ip  daddr . meta l4proto . th dport @drop_services4 drop
          ip6 daddr . meta l4proto . th dport @drop_services6 drop
          ip  daddr . meta l4proto . th dport @reject_services4 goto refuse
          ip6 daddr . meta l4proto . th dport @reject_services6 goto refuse
          ip  daddr @drop4 drop
          ip6 daddr @drop6 drop
          ip  daddr @reject4 goto refuse
          ip6 daddr @reject6 goto refuse
      }
      chain refuse {
          meta l4proto tcp reject with tcp reset
          reject with icmpx admin-prohibited
      }
  }";

pub(super) fn export(policy: &Policy) -> Exported {
    let mut notes = Notes::default();
    notes.every_rule("contacts are not recorded");
    notes.every_rule("the addresses of names that are let through are not opened inside a blocked network");
    notes
        .every_rule("resolvers and gateways that the agent never drops are dropped inside a blocked network");
    if !policy.exemptions().is_empty() {
        notes.every_rule("exemptions cannot be said: clients on the register are treated as all others");
    }
    for rule in policy.rules() {
        let names = !(rule.hosts.is_empty()
            && rule.domains.is_empty()
            && rule.globs.is_empty()
            && rule.patterns.is_empty());
        if rule.action == Action::Block && names {
            notes.whole(rule, Effect::LetThrough, "names cannot be said; they need a resolver (export rpz)");
        }
        if rule.action == Action::Log {
            notes.whole(rule, Effect::Otherwise, "action = \"log\" lets through and records nothing");
        }
    }
    let body = body(&sets(policy));
    finish(policy, Format::Nft, "#", USAGE, &body, notes)
}

/// Networks for every service under `None`, and those for one service under it.
type Elements = BTreeMap<Option<Service>, Vec<IpNet>>;

/// What is let through, dropped and rejected.
#[derive(Default)]
struct Sets {
    open: Elements,
    drop: Elements,
    reject: Elements,
}

impl Sets {
    /// Enters a piece with the verdicts of its longest prefix.
    fn enter(&mut self, policy: &Policy, pieces: &[IpNet], verdicts: &NetworkVerdicts) {
        let packet = |index: RuleIndex| packet(policy.rule(index));
        let otherwise = verdicts.otherwise.and_then(packet);
        for (service, index) in verdicts.ports.iter() {
            let here = packet(*index);
            if here != otherwise {
                self.elements(here).entry(Some(*service)).or_default().extend(pieces);
            }
        }
        if otherwise.is_some() {
            self.elements(otherwise).entry(None).or_default().extend(pieces);
        }
    }

    fn elements(&mut self, packet: Option<PacketAnswer>) -> &mut Elements {
        match packet {
            None => &mut self.open,
            Some(PacketAnswer::Drop) => &mut self.drop,
            Some(PacketAnswer::Reject) => &mut self.reject,
        }
    }
}

/// How a rule answers packets; `None` where it lets them through.
fn packet(rule: &Rule) -> Option<PacketAnswer> {
    (rule.action == Action::Block).then_some(rule.packet)
}

fn sets(policy: &Policy) -> Sets {
    let mut networks: Vec<(IpNet, &NetworkVerdicts)> = policy.networks().collect();
    // By address, and around before inside: what lies inside a network follows it without a gap.
    networks.sort_by_key(|(network, _)| (network.addr(), network.prefix_len()));
    let mut sets = Sets::default();
    for (i, (network, verdicts)) in networks.iter().enumerate() {
        let inside =
            networks[i + 1..].iter().map(|(other, _)| *other).take_while(|other| network.contains(other));
        sets.enter(policy, &without(*network, inside), verdicts);
    }
    sets
}

/// What remains of a network without these, which lie inside it in the order of their addresses.
fn without(network: IpNet, inside: impl Iterator<Item = IpNet>) -> Vec<IpNet> {
    let last = number(network.broadcast());
    let mut pieces = Vec::new();
    let mut next = Some(number(network.network()));
    for hole in inside {
        let Some(from) = next else { break };
        let start = number(hole.network());
        if start < from {
            continue;
        }
        if start > from {
            pieces.extend(subnets(network, from, start - 1));
        }
        next = number(hole.broadcast()).checked_add(1);
    }
    if let Some(from) = next.filter(|from| *from <= last) {
        pieces.extend(subnets(network, from, last));
    }
    pieces
}

/// The fewest networks that are exactly this range, in the family of `like`.
fn subnets(like: IpNet, from: u128, to: u128) -> Vec<IpNet> {
    match like {
        IpNet::V4(_) => {
            let v4 = |n: u128| Ipv4Addr::from(u32::try_from(n).unwrap_or(u32::MAX));
            Ipv4Subnets::new(v4(from), v4(to), 0).map(IpNet::V4).collect()
        }
        IpNet::V6(_) => {
            Ipv6Subnets::new(Ipv6Addr::from(from), Ipv6Addr::from(to), 0).map(IpNet::V6).collect()
        }
    }
}

fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => u32::from(v4).into(),
        IpAddr::V6(v6) => v6.into(),
    }
}

fn body(sets: &Sets) -> String {
    let mut file = Statements::default();
    for (does, elements) in [("open", &sets.open), ("drop", &sets.drop), ("reject", &sets.reject)] {
        for (family, kind) in [(Family::V4, "ipv4_addr"), (Family::V6, "ipv6_addr")] {
            let n = if family == Family::V4 { 4 } else { 6 };
            // A whole network that is open is what the other sets leave out.
            if does != "open" {
                file.set(&format!("{does}{n}"), kind, &addresses(elements, family));
            }
            let kind = format!("{kind} . inet_proto . inet_service");
            file.set(&format!("{does}_services{n}"), &kind, &services(elements, family));
        }
    }
    let Statements { declare, empty, fill } = file;
    format!("table inet interdict {{\n{declare}}}\n{empty}{fill}")
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Family {
    V4,
    V6,
}

fn addresses(elements: &Elements, family: Family) -> Vec<String> {
    let networks = elements.get(&None).map(Vec::as_slice).unwrap_or_default();
    of_family(networks, family).iter().map(IpNet::to_string).collect()
}

fn services(elements: &Elements, family: Family) -> Vec<String> {
    let mut services = Vec::new();
    for (service, networks) in elements {
        let Some(Service { protocol, port }) = service else { continue };
        for network in of_family(networks, family) {
            services.push(format!("{network} . {} . {port}", protocol.as_str()));
        }
    }
    services
}

/// The networks of one family, those side by side joined.
fn of_family(networks: &[IpNet], family: Family) -> Vec<IpNet> {
    let is_it = |network: &&IpNet| network.addr().is_ipv4() == (family == Family::V4);
    IpNet::aggregate(&networks.iter().filter(is_it).copied().collect())
}

/// The statements of the file: sets are declared, then emptied, then filled, so that the file can be loaded again and a
/// set that has become empty is.
#[derive(Default)]
struct Statements {
    declare: String,
    empty: String,
    fill: String,
}

impl Statements {
    fn set(&mut self, name: &str, kind: &str, elements: &[String]) {
        self.declare += &format!("    set {name} {{ type {kind}; flags interval; }}\n");
        self.empty += &format!("flush set inet interdict {name}\n");
        if !elements.is_empty() {
            let elements: String = elements.iter().map(|element| format!("    {element},\n")).collect();
            self.fill += &format!("add element inet interdict {name} {{\n{elements}}}\n");
        }
    }
}
