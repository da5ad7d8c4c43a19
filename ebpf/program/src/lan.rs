//! Traffic from our clients: the destination is judged, of every packet.

use interdict_ebpf_shared::{Address, contact::Hook, count::Exit};

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
pub fn judge<F: Frame + ?Sized, P: Policy>(
    frame: &F,
    policy: &P,
    hook: Hook,
    outbound: &Outbound,
) -> Result<Judgement, Exit> {
    let Outbound { ip, client, remote, transport } = *outbound;
    let found = verdict::look_up(policy, ip.version(), Some(client), remote)?;
    let port = transport.destination;
    let client = Some(client);
    verdict::decide(frame, policy, found, &Packet { hook, client, remote, port, transport })
}
