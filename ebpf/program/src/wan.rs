//! Traffic from the outside: the source is judged, of packets that open a TCP connection to us.
//!
//! Answers to our own clients come this way too. Behind address translation it cannot be seen which client they are
//! for, and one of them may be on the register of exemptions; so only what the vendor starts is judged.

use interdict_ebpf_shared::{contact::Hook, count::Exit};

use crate::{
    frame::Frame,
    ip,
    transport::{self, TCP, TCP_ACK, TCP_FLAGS_OFFSET, TCP_SYN, Transport},
    verdict::{self, Judgement, Packet, Policy},
};

/// Judges a packet on its way in.
///
/// The flags come before the address here: on this side almost every packet leaves by them, and reading one byte is
/// cheaper than a lookup. The verdict is the same either way round.
///
/// # Errors
///
/// The exit of a packet that passes without a record.
#[inline(always)]
pub fn judge<F: Frame + ?Sized, P: Policy>(frame: &F, policy: &P) -> Result<Judgement, Exit> {
    let ip = ip::header(frame)?;
    let payload = ip.payload(frame).ok_or(Exit::Truncated)?;
    let transport = transport::read(frame, &payload);
    let opening = opening(frame, &transport)?;

    let remote = ip.source(frame).ok_or(Exit::Truncated)?;
    // The address that it is for is our own, after translation: it names no client.
    let client = None;
    let found = verdict::look_up(policy, ip.version(), client, remote)?;
    opening?;
    let port = transport.source;
    verdict::decide(frame, policy, found, &Packet { hook: Hook::Wan, client, remote, port, transport })
}

/// Whether the packet opens a TCP connection.
///
/// The inner error is the exit of a packet of which that cannot be told; it counts only if a rule matches its address.
///
/// # Errors
///
/// The exit of a packet that certainly does not open one.
#[inline(always)]
fn opening<F: Frame + ?Sized>(frame: &F, transport: &Transport) -> Result<Result<(), Exit>, Exit> {
    if transport.protocol != TCP && !transport::is_extension(transport.protocol) {
        return Err(Exit::WanNotTcp);
    }
    if let Some(exit) = transport.unread {
        return Ok(Err(exit));
    }
    let Some([_, flags]) = frame.read(transport.at + TCP_FLAGS_OFFSET) else {
        return Ok(Err(Exit::TruncatedUnjudged));
    };
    match flags & (TCP_SYN | TCP_ACK) {
        TCP_SYN => Ok(Ok(())),
        _ => Err(Exit::WanNotOpening),
    }
}
