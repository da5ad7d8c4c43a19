//! Traffic from the outside: the source is judged, of what was not asked for.
//!
//! Answers to our own clients come this way too. Behind address translation it cannot be seen which client they are
//! for, and one of them may be on the register of exemptions; so only what the vendor starts is judged: a segment that
//! opens a TCP connection, and any other packet from a service to which nothing was let out lately.

use interdict_ebpf_shared::{
    Address,
    contact::{Event, Hook},
    count::Exit,
    flow::Service,
    policy::Verdict,
};

use crate::{
    frame::{Frame, opaque},
    icmp::{self, ICMP, ICMPV6},
    lan::Outbound,
    transport::{self, TCP, TCP_ACK, TCP_FLAGS_OFFSET, TCP_SYN, Transport},
    verdict::{self, Judgement, Packet, Policy},
};

/// Judges a packet on its way in, whose headers were read as those of one on its way out.
///
/// # Errors
///
/// The exit of a packet that passes without a record.
#[inline(always)]
pub fn judge<F: Frame + ?Sized, P: Policy>(
    frame: &F,
    policy: &P,
    hook: Hook,
    read: &Outbound,
) -> Result<Judgement, Exit> {
    let (remote, transport) = (read.client, &read.transport);
    let opening = opening(frame, transport)?;
    let packet = packet(hook, read);
    let found = verdict::look_up(policy, read.ip.version(), packet.client, remote)?;
    match opening {
        // What cannot be told may be the rest of an answer, if there can be any. TCP sends none in parts, and opens connections.
        Opening::Unknown(exit @ Exit::FragmentUnjudged)
            if transport.protocol != TCP && policy.was_let_out(anything(remote)) =>
        {
            return Err(exit);
        }
        Opening::Answer if policy.was_let_out(asked(remote, transport)) => return Err(Exit::WanAnswer),
        Opening::Unknown(_) | Opening::Answer | Opening::Opens => {}
    }
    verdict::decide(policy, found, &packet)
}

/// Whether a packet is an error about one that might leave: a banned router, too, may tell who is exempt what became of it,
/// and everybody of packets that no rule concerns (path MTU discovery, RFC 1191 and 8201, hangs on that).
#[inline(always)]
pub fn is_about_what_was_let_out<F: Frame + ?Sized, P: Policy>(
    frame: &F,
    policy: &P,
    read: &Outbound,
) -> bool {
    let Some(service) = icmp::quoted(frame, read) else { return false };
    policy.was_let_out(service) || verdict::look_up(policy, read.ip.version(), None, service.remote).is_err()
}

/// The record of a packet that was judged, with the time still to be filled in.
#[inline(always)]
pub fn event<F: Frame + ?Sized, P: Policy>(
    frame: &F,
    policy: &P,
    hook: Hook,
    read: &Outbound,
    rule: u32,
    verdict: Verdict,
) -> Event {
    verdict::event(frame, policy, &packet(hook, read), rule, verdict)
}

/// The address that a packet is for may be our own, after translation: it names no client.
#[inline(always)]
const fn packet(hook: Hook, read: &Outbound) -> Packet {
    let Outbound { client: remote, transport, .. } = *read;
    Packet { hook, client: None, remote, port: transport.source, transport }
}

/// What a packet could be.
enum Opening {
    /// It opens a TCP connection.
    Opens,
    /// It may be an answer to something.
    Answer,
    /// That cannot be told, for this reason; it counts only if a rule matches its address.
    Unknown(Exit),
}

/// Tells what a packet is.
///
/// # Errors
///
/// The exit of one that certainly starts nothing.
#[inline(always)]
fn opening<F: Frame + ?Sized>(frame: &F, transport: &Transport) -> Result<Opening, Exit> {
    if let Some(exit) = transport.unread {
        return Ok(Opening::Unknown(exit));
    }
    if transport.protocol != TCP {
        return Ok(Opening::Answer);
    }
    let Some([_, flags]) = frame.read(opaque(transport.at) + TCP_FLAGS_OFFSET) else {
        return Ok(Opening::Unknown(Exit::TruncatedUnjudged));
    };
    match flags & (TCP_SYN | TCP_ACK) {
        TCP_SYN => Ok(Opening::Opens),
        // A host answers anything else that belongs to no connection with a reset (RFC 9293, §3.10.7.1).
        _ => Err(Exit::WanNotOpening),
    }
}

/// The service that a packet comes from. ICMP tells of packets of any protocol.
#[inline(always)]
fn asked(remote: Address, transport: &Transport) -> Service {
    match transport.protocol {
        ICMP | ICMPV6 => anything(remote),
        protocol => Service { remote, port: transport.source, protocol, zero: 0 },
    }
}

/// The service that stands for everything at an address.
#[inline(always)]
pub const fn anything(remote: Address) -> Service {
    Service { remote, port: [0; 2], protocol: 0, zero: 0 }
}

/// The service that a packet goes to, if its port is known.
#[inline(always)]
pub fn goes_to(outbound: &Outbound) -> Service {
    let transport::Transport { destination: port, protocol, .. } = outbound.transport;
    Service { remote: outbound.remote, port, protocol, zero: 0 }
}
