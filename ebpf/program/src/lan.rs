//! Traffic from our clients: the destination is judged, of every packet.

use interdict_ebpf_shared::{
    Address,
    contact::{Event, Hook},
    count::Exit,
    policy::Verdict,
};

use crate::{
    frame::Frame,
    ip::{self, Ip},
    transport::{self, Transport},
    verdict::{self, Judgement, Packet, Policy},
};

/// A packet on its way out, as far as its headers tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outbound {
    /// Its IP header.
    pub ip: Ip,
    /// Who sent it.
    pub client: Address,
    /// Who should get it.
    pub remote: Address,
    /// What follows the IP header.
    pub transport: Transport,
}

/// Reads the headers of a packet on its way out.
///
/// # Errors
///
/// The exit of a packet that passes because it carries no addresses.
#[inline(always)]
pub fn read<F: Frame + ?Sized>(frame: &F) -> Result<Outbound, Exit> {
    let ip = ip::header(frame)?;
    let remote = ip.destination(frame).ok_or(Exit::Truncated)?;
    let client = ip.source(frame).ok_or(Exit::Truncated)?;
    let payload = ip.payload(frame).ok_or(Exit::Truncated)?;
    Ok(Outbound { ip, client, remote, transport: transport::read(frame, &payload) })
}

/// Judges the address that a packet is sent to.
///
/// # Errors
///
/// The exit of a packet that passes without a record.
#[inline(always)]
pub fn judge<P: Policy>(policy: &P, hook: Hook, outbound: &Outbound) -> Result<Judgement, Exit> {
    let found = verdict::look_up(policy, outbound.ip.version(), Some(outbound.client), outbound.remote)?;
    verdict::decide(policy, found, &packet(hook, outbound))
}

/// The record of a packet that was judged, with the time still to be filled in.
#[inline(always)]
pub fn event<F: Frame + ?Sized, P: Policy>(
    frame: &F,
    policy: &P,
    hook: Hook,
    outbound: &Outbound,
    rule: u32,
    verdict: Verdict,
) -> Event {
    verdict::event(frame, policy, &packet(hook, outbound), rule, verdict)
}

#[inline(always)]
const fn packet(hook: Hook, outbound: &Outbound) -> Packet {
    let Outbound { client, remote, transport, .. } = *outbound;
    Packet { hook, client: Some(client), remote, port: transport.destination, transport }
}
