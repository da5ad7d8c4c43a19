//! Traffic from our clients: the destination is judged, of every packet.

use interdict_ebpf_shared::{contact::Hook, count::Exit};

use crate::{
    frame::Frame,
    ip, transport,
    verdict::{self, Judgement, Packet, Policy},
};

/// Judges a packet on its way out.
///
/// # Errors
///
/// The exit of a packet that passes without a record.
#[inline(always)]
pub fn judge<F: Frame + ?Sized, P: Policy>(frame: &F, policy: &P) -> Result<Judgement, Exit> {
    let ip = ip::header(frame)?;
    let remote = ip.destination(frame).ok_or(Exit::Truncated)?;
    let client = Some(ip.source(frame).ok_or(Exit::Truncated)?);
    let found = verdict::look_up(policy, ip.version(), client, remote)?;

    let payload = ip.payload(frame).ok_or(Exit::Truncated)?;
    let transport = transport::read(frame, &payload);
    let port = transport.destination;
    verdict::decide(frame, policy, found, &Packet { hook: Hook::Lan, client, remote, port, transport })
}
