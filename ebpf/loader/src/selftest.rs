//! Asks the kernel what the staged maps decide, and compares with the policy.
//!
//! The policy's own matcher and the kernel's maps are two codings of the same rules. Trying them on the addresses
//! where they could differ, which are the edges of networks and the ports of rules, finds a wrong translation before
//! it is in force. The number of tries is bounded, so that a policy of a million networks is tried in samples.

use std::{
    collections::HashSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use interdict_dns_wire::HEADER_BYTES;
use interdict_ebpf_shared::{count::Exit, policy::Verdict};
use interdict_policy::{Name, NameForm, Policy, Protocol, RuleId, Service, Timestamp};
use ipnet::IpNet;

use crate::{
    Error, Prober,
    registry::{Registry, word_of},
};

/// Networks whose edges are tried, spread evenly over all of them.
const MAX_NETWORKS_TRIED: usize = 512;
/// Ports that are tried for one set of ports.
const MAX_PORTS_TRIED: usize = 256;
/// Tries for one policy.
const MAX_TRIES: usize = 16_384;

/// The rule by which the staged maps have packets to an address dropped, if they do.
pub(crate) fn address_blocked_by(
    prober: &Prober,
    address: IpAddr,
    registry: &Registry,
) -> Result<Option<RuleId>, Error> {
    let answer = prober.ask_staged(&frame(address, None))?;
    let blocks = answer.decision.filter(|(verdict, _)| *verdict == Verdict::Block);
    Ok(blocks.and_then(|(_, slot)| registry.rule(slot).cloned()))
}

/// The rule by which the staged maps have a question for a name answered, if they do.
pub(crate) fn name_blocked_by(
    prober: &Prober,
    name: Name<'_>,
    registry: &Registry,
) -> Result<Option<RuleId>, Error> {
    let answer = prober.ask_staged(&question_frame(name))?;
    let blocks = answer.decision.filter(|_| answer.exit == Exit::QueryAnswered);
    Ok(blocks.and_then(|(_, slot)| registry.rule(slot).cloned()))
}

/// Compares the staged maps with the policy they were made from.
///
/// # Errors
///
/// The first address on which they disagree.
pub(crate) fn compare(
    prober: &Prober,
    policy: &Policy,
    safe: &[IpNet],
    registry: &Registry,
) -> Result<(), Error> {
    compare_names(prober, policy, registry)?;
    for (address, service) in tries(policy).into_iter().take(MAX_TRIES) {
        let answer = prober.ask_staged(&frame(address, service))?;
        let kernel = answer
            .decision
            .and_then(|(verdict, slot)| Some((verdict, registry.rule(slot)?)))
            .map_or_else(|| "none".to_owned(), |(verdict, rule)| shown(verdict, rule.as_str()));
        let is_safe = safe.iter().any(|network| network.contains(&address));
        // A rule about a port of every address is no network: the programs look at it where nothing else decides.
        let decided =
            policy.decide_address(address, service).filter(|found| !policy.is_everywhere(found.rule));
        let decided = decided.filter(|_| !is_safe);
        let policy = decided.map_or_else(
            || "none".to_owned(),
            |found| {
                let rule = policy.rule(found.rule);
                format!("{} by {}", rule.action.as_str(), rule.id)
            },
        );
        if kernel != policy {
            return Err(Error::Disagreement { address, service, kernel, policy });
        }
    }
    Ok(())
}

/// Names that are tried, each with one below it, spread evenly over all of them.
const MAX_NAMES_TRIED: usize = 512;

/// Compares the staged names with the policy.
fn compare_names(prober: &Prober, policy: &Policy, registry: &Registry) -> Result<(), Error> {
    let fixed: HashSet<Name<'_>> =
        policy.suffixes().filter(|suffix| suffix.is_fixed_part).map(|suffix| suffix.name).collect();
    let step = policy.suffixes().count().div_ceil(MAX_NAMES_TRIED).max(1);
    for suffix in policy.suffixes().step_by(step) {
        let below = [b"\x02zz", suffix.name.as_wire()].concat();
        for name in [Some(suffix.name), Name::from_wire(&below)].into_iter().flatten() {
            let answer = prober.ask_staged(&question_frame(name))?;
            let kernel = match (answer.exit, answer.decision.and_then(|(_, slot)| registry.rule(slot))) {
                (Exit::QueryAnswered, Some(rule)) => format!("block by {rule}"),
                (Exit::QueryHandedUp, _) => "left to the agent".to_owned(),
                (Exit::NoMatch, _) => "none".to_owned(),
                (exit, _) => exit.name().to_owned(),
            };
            let policy = expected(policy, &fixed, name);
            if kernel != policy {
                return Err(Error::NameDisagreement { name: name.to_string(), kernel, policy });
            }
        }
    }
    Ok(())
}

/// What the kernel should say of a name, asked for by nobody in particular.
fn expected(policy: &Policy, fixed: &HashSet<Name<'_>>, name: Name<'_>) -> String {
    let found = policy.decide_name(name);
    // Globs and patterns speak for names below their fixed part, and go before a domain of the same length.
    let labels = name.labels().count();
    let decided = found.map_or(0, |found| match found.form {
        NameForm::Host => labels + 1,
        NameForm::Domain => labels - usize::from(found.labels_left),
        NameForm::Glob | NameForm::Pattern => 0,
    });
    let asks = |parent: Name<'_>| fixed.contains(&parent) && parent.labels().count() >= decided;
    if name.suffixes().skip(1).any(asks) {
        return "left to the agent".to_owned();
    }
    let nobody = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
    let judged =
        found.map(|found| (found.rule, policy.judge(found.rule, Some(nobody), Timestamp::now()).verdict));
    match judged {
        None => "none".to_owned(),
        Some((rule, interdict_policy::Verdict::Block)) => format!("block by {}", policy.rule(rule).id),
        Some(_) => "left to the agent".to_owned(),
    }
}

/// A question for a name, from nobody to nowhere.
fn question_frame(name: Name<'_>) -> Vec<u8> {
    let message_bytes = HEADER_BYTES + name.as_wire().len() + 4;
    let udp_bytes = (8 + message_bytes) as u16;
    let mut frame = vec![0; 12];
    frame.extend([0x08, 0x00, 0x45, 0]);
    frame.extend((20 + udp_bytes).to_be_bytes());
    frame.extend([0, 0, 0, 0, 64, 17, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x80, 0, 0, 53]);
    frame.extend(udp_bytes.to_be_bytes());
    frame.extend([0, 0, 0, 1, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    frame.extend(name.as_wire());
    frame.extend([0, 1, 0, 1]);
    frame
}

fn shown(verdict: Verdict, rule: &str) -> String {
    format!("{} by {rule}", word_of(verdict).as_str())
}

/// The addresses and services to try.
fn tries(policy: &Policy) -> Vec<(IpAddr, Option<Service>)> {
    let step = policy.networks().count().div_ceil(MAX_NETWORKS_TRIED).max(1);
    let mut sets_tried = HashSet::new();
    let mut tries = Vec::new();
    for (number, (network, verdicts)) in policy.networks().enumerate() {
        if number % step == 0 {
            for address in edges(network) {
                let first_port = verdicts.ports.first().map(|(service, _)| *service);
                tries.push((address, None));
                tries.extend(first_port.map(|service| (address, Some(service))));
            }
        }
        if !verdicts.ports.is_empty() && sets_tried.insert(&verdicts.ports) {
            let ports = verdicts.ports.iter().take(MAX_PORTS_TRIED);
            tries.extend(ports.map(|(service, _)| (network.network(), Some(*service))));
        }
    }
    tries
}

/// The first and the last address of a network, and those just outside.
fn edges(network: IpNet) -> Vec<IpAddr> {
    let (first, last) = (network.network(), network.broadcast());
    [before(first), Some(first), Some(last), after(last)].into_iter().flatten().collect()
}

fn before(address: IpAddr) -> Option<IpAddr> {
    Some(match address {
        IpAddr::V4(address) => Ipv4Addr::from_bits(address.to_bits().checked_sub(1)?).into(),
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits().checked_sub(1)?).into(),
    })
}

fn after(address: IpAddr) -> Option<IpAddr> {
    Some(match address {
        IpAddr::V4(address) => Ipv4Addr::from_bits(address.to_bits().checked_add(1)?).into(),
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits().checked_add(1)?).into(),
    })
}

/// A frame to an address and a service, as far as the programs read it: checksums and sources are zero.
fn frame(destination: IpAddr, service: Option<Service>) -> Vec<u8> {
    // Of a protocol for experiments (RFC 3692) nobody knows a port.
    let protocol = service.map_or(253, |service| service.protocol.number());
    let mut frame = vec![0; 12];
    match destination {
        IpAddr::V4(address) => {
            frame.extend([0x08, 0x00, 0x45, 0, 0, 28, 0, 0, 0, 0, 64, protocol, 0, 0, 0, 0, 0, 0]);
            frame.extend(address.octets());
        }
        IpAddr::V6(address) => {
            frame.extend([0x86, 0xdd, 0x60, 0, 0, 0, 0, 8, protocol, 64]);
            frame.extend([0; 16]);
            frame.extend(address.octets());
        }
    }
    frame.extend([0, 0]);
    frame.extend(service.map_or(0, |service| service.port).to_be_bytes());
    frame.extend([0; 4]);
    if service.is_some_and(|service| service.protocol == Protocol::Tcp) {
        frame.extend([0; 12]);
    }
    frame
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_edges_of_the_address_space_have_no_outside() {
        for (network, expect) in [
            ("192.0.2.0/24", "192.0.1.255 192.0.2.0 192.0.2.255 192.0.3.0"),
            ("0.0.0.0/0", "0.0.0.0 255.255.255.255"),
            ("255.255.255.255/32", "255.255.255.254 255.255.255.255 255.255.255.255"),
            ("::/0", ":: ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"),
        ] {
            let edges: Vec<_> = edges(network.parse().unwrap()).iter().map(ToString::to_string).collect();
            assert_eq!(edges.join(" "), expect, "{network}");
        }
    }
}
