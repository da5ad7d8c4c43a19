//! Safe, opened, the longest network, learned: what a policy says of an address.
//!
//! The order of *deciding* is safe, opened, networks, learned; then the register of exemptions. The order of *looking* is another: most packets concern no
//! banned address, so the look at the networks comes first, and only a packet that could be dropped pays for the rest.

use interdict_ebpf_shared::{
    Address,
    contact::{ContactKey, Event, FLAG_FRAGMENT, FLAG_PORTS_UNKNOWN, Hook, Remote},
    count::Exit,
    flow::Service,
    policy::{Decision, NetworkEntry, ServiceKey, State, Verdict},
};

use crate::{
    frame::{Frame, rarely},
    ip::Version,
    transport::Transport,
};

/// A policy, as one packet sees it from start to end.
///
/// Where there is nothing, the answer is all zero, and not `None`: a decision with state 0, an entry of two of them.
/// The compiler may keep garbage in what `None` leaves open, and the verifier refuses a program that copies it.
pub trait Policy {
    /// Its number, which its records carry.
    fn generation(&self) -> u64;
    /// The entry of the longest network that holds the address.
    fn network(&self, version: Version, address: Address) -> NetworkEntry;
    /// The decision for a port in a set of ports.
    fn service(&self, key: ServiceKey) -> Decision;
    /// The rule that opened the address, if it is still open and the rule still lets traffic through.
    fn opened(&self, address: Address) -> Decision;
    /// The rule from which the client is exempt, if that opened the address to it, and still does.
    fn opened_to(&self, client: Address, address: Address) -> Decision;
    /// The rule for whose name the address was answered, if that still holds and the rule still learns.
    fn learned(&self, address: Address) -> Decision;
    /// Whether the client is exempt from the rule, now.
    fn is_exempt(&self, rule: u32, client: Address) -> bool;
    /// Whether the address is never dropped.
    fn is_safe(&self, version: Version, address: Address) -> bool;
    /// Whether anything was let out to a service lately.
    fn was_let_out(&self, service: Service) -> bool;
    /// The IPv4 address that an IPv6 address is another spelling of; [`Address::NONE`] where it is none.
    fn inside(&self, address: Address) -> Address;
}

/// What is done with a packet that a rule matched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Judgement {
    /// The reason it is counted under.
    pub exit: Exit,
    /// What is done with it.
    pub verdict: Verdict,
    /// The slot of the rule.
    pub rule: u32,
    /// What the rule does.
    pub state: State,
}

/// What the address alone says, before anything behind the IP header is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found {
    /// The rule that opened it, to everyone or to this client, which goes first.
    pub opened: Decision,
    /// The longest network that holds it, as it is written.
    pub network: NetworkEntry,
    /// The longest network that holds the IPv4 address that it is another spelling of, which goes behind that.
    pub inside: NetworkEntry,
    /// The rule that learned it, which goes last.
    pub learned: Decision,
}

/// A packet, as its hook sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet {
    /// Where it was met.
    pub hook: Hook,
    /// Our side, where it is known.
    pub client: Option<Address>,
    /// The side to judge.
    pub remote: Address,
    /// The port of that side, in network byte order; 0 where there is none or it is not known.
    pub port: [u8; 2],
    /// What follows the IP header.
    pub transport: Transport,
}

/// Looks an address up, for a client if it is known.
///
/// # Errors
///
/// The exit of a packet that the policy does not concern: nothing matches the address, or it is safe.
#[inline(always)]
pub fn look_up<P: Policy>(
    policy: &P,
    version: Version,
    client: Option<Address>,
    address: Address,
) -> Result<Found, Exit> {
    let inside = match version {
        Version::V4 => Address::NONE,
        Version::V6 => policy.inside(address),
    };
    let is_respelled = inside != Address::NONE;
    let mut opened = opened(policy, client, address);
    let mut learned = policy.learned(address);
    let mut inside_network = NetworkEntry::NONE;
    if is_respelled {
        rarely();
        if opened.is_none() {
            opened = self::opened(policy, client, inside);
        }
        if learned.is_none() {
            learned = policy.learned(inside);
        }
        inside_network = policy.network(Version::V4, inside);
    }
    let network = policy.network(version, address);
    let found = Found { opened, network, inside: inside_network, learned };
    if opened.is_none() && network.is_none() && inside_network.is_none() && learned.is_none() {
        return Err(Exit::NoMatch);
    }
    if policy.is_safe(version, address) || is_respelled && policy.is_safe(Version::V4, inside) {
        return Err(Exit::Safe);
    }
    Ok(found)
}

/// The rule that opened an address, to everyone or to this client.
#[inline(always)]
fn opened<P: Policy>(policy: &P, client: Option<Address>, address: Address) -> Decision {
    let opened = policy.opened(address);
    match client {
        Some(client) if opened.is_none() => policy.opened_to(client, address),
        _ => opened,
    }
}

/// Decides, now that the transport header is known as well.
///
/// # Errors
///
/// The exit of a packet that no rule matches after all, or that could not be judged.
#[inline(always)]
pub fn decide<P: Policy>(policy: &P, found: Found, packet: &Packet) -> Result<Judgement, Exit> {
    let opened = !found.opened.is_none();
    let decision = if opened { found.opened } else { by_port(policy, &found, packet)? };
    let mut verdict = decision.state.verdict().ok_or(Exit::NoMatchingPort)?;
    if let Some(client) = packet.client
        && decision.state.has_exemptions()
        && policy.is_exempt(decision.rule, client)
    {
        verdict = Verdict::Exempt;
    }
    let exit = match verdict {
        Verdict::Exempt => Exit::Exempt,
        _ if opened => Exit::Opened,
        Verdict::Block => Exit::Blocked,
        Verdict::Log => Exit::Logged,
        Verdict::Allow => Exit::Allowed,
    };
    Ok(Judgement { exit, verdict, rule: decision.rule, state: decision.state })
}

/// The record of a packet that a rule matched, with the time still to be filled in.
#[inline(always)]
pub fn event<F: Frame + ?Sized, P: Policy>(
    frame: &F,
    policy: &P,
    packet: &Packet,
    rule: u32,
    verdict: Verdict,
) -> Event {
    let contact = ContactKey {
        client: packet.client.unwrap_or(Address::NONE),
        generation: policy.generation(),
        rule,
        verdict: verdict.code() as u8,
        hook: packet.hook as u8,
        zero: [0; 2],
    };
    let remote = Remote {
        address: packet.remote,
        interface: frame.interface(),
        port: packet.port,
        protocol: packet.transport.protocol,
        zero: 0,
    };
    let flags = flags(&packet.transport);
    Event { contact, remote, time_ns: 0, length: frame.length(), flags, zero: [0; 3] }
}

/// The decision of a network: of the rule for this port if there is one, else of the network's own rule; of the address as
/// it is written, then of the one that it is another spelling of; then of the rule that learned the address; else none.
#[inline(always)]
fn by_port<P: Policy>(policy: &P, found: &Found, packet: &Packet) -> Result<Decision, Exit> {
    let mut decision = of_entry(policy, &found.network, packet);
    if decision.is_none() {
        decision = of_entry(policy, &found.inside, packet);
    }
    if decision.is_none() {
        decision = found.learned;
    }
    match packet.transport.unread {
        Some(exit) if decision.is_none() => Err(exit),
        _ => Ok(decision),
    }
}

/// What the entry of a network says of a packet.
#[inline(always)]
fn of_entry<P: Policy>(policy: &P, entry: &NetworkEntry, packet: &Packet) -> Decision {
    let &NetworkEntry { otherwise, port_set } = entry;
    if port_set == 0 || packet.transport.unread.is_some() {
        return otherwise;
    }
    // A protocol without ports has port 0 here, which no set holds.
    let protocol = packet.transport.protocol;
    let decision = policy.service(ServiceKey { port_set, port: packet.port, protocol, zero: 0 });
    if decision.is_none() { otherwise } else { decision }
}

#[inline(always)]
const fn flags(transport: &Transport) -> u8 {
    let fragment = if transport.fragment { FLAG_FRAGMENT } else { 0 };
    let ports = if transport.unread.is_some() { FLAG_PORTS_UNKNOWN } else { 0 };
    fragment | ports
}
