//! Telling the sender of a blocked packet: the frame becomes the notice, to be sent back.

use aya_ebpf::{helpers::bpf_xdp_load_bytes, programs::XdpContext};
use interdict_dns_wire::{Bytes as _, Memory as _};
use interdict_ebpf_program::{
    frame::{Frame as _, opaque},
    icmp::{ICMP, ICMPV6},
    ip::{IPV4_HEADER_BYTES, IPV6_HEADER_BYTES, Version},
    lan::Outbound,
    reject::{self, Notice},
    sum::{add, fold},
    transport::{TCP, TCP_ACK, TCP_FLAGS_OFFSET, TCP_RST},
};
use interdict_ebpf_shared::{count::Exit, limits::REJECTS_A_SECOND, query::Interface};

use crate::{
    clock::now_by,
    control::Control,
    generation::is_ours,
    maps::{INTERFACES, REJECTS},
    packet::{Packet, hidden},
    rates,
    reply::{HOP_LIMIT, is_from_group, resize},
    scratch::{HEAD_BYTES, HEAD_MASK, MESSAGE_MASK, Place, forgotten, length, masked},
    seats,
    unaligned::{load8, store_at, store8},
};

/// As much of a blocked packet as is quoted in an ICMP message, with its IP header: more than senders need to tell which
/// of their packets it was, and far below what fits (RFC 1812, §4.3.2.3; RFC 4443, §2.4 (c)).
const QUOTED_BYTES: usize = 128;
const ICMP_HEADER_BYTES: usize = 8;
const TCP_HEADER_BYTES: usize = 20;
/// A longer header in front of the IP header is that of no frame that is answered: Ethernet, and four VLAN tags.
const LINK_BYTES: usize = 30;
/// The shortest frame of Ethernet, without its check sequence.
const ETHERNET_MIN_BYTES: usize = 60;

/// Turns a blocked frame into what its sender is told: the exit by which it leaves. [`Exit::Rejected`] if it is to be sent
/// back, else it is dropped.
#[inline(never)]
pub(crate) fn send_back(ctx: &XdpContext, outbound: &Outbound, place: Place) -> Exit {
    let packet = Packet::new(ctx);
    let notice = reject::notice(&packet, outbound);
    let interface = INTERFACES.get(ctx.ingress_ifindex() as u32);
    let answers = interface.filter(|interface| interface.answers() == Interface::ANSWERS);
    let (Some(interface), true) = (answers, notice != Notice::Nothing) else {
        return Exit::Blocked;
    };
    // What was not sent to us, a switch or a bridge carries elsewhere too.
    let first = packet.read(0).map(u64::from_ne_bytes);
    let Some(first) = first.filter(|first| interface.is_meant(*first)) else {
        return Exit::Blocked;
    };
    if is_from_group(first) {
        return Exit::Blocked;
    }
    if !may_tell(outbound) {
        return Exit::RejectTooFast;
    }
    let link_bytes = opaque(outbound.ip.offset());
    let written = match notice {
        Notice::Reset => write_reset(&packet, outbound, place),
        _ => write_prohibited(ctx, outbound, place, link_bytes),
    };
    // The verifier follows what was written no further.
    match forgotten(written) {
        0 => Exit::Blocked,
        bytes if link_bytes > LINK_BYTES || !store(ctx, place, link_bytes, bytes) => Exit::Blocked,
        _ => Exit::Rejected,
    }
}

/// Whether this client is to be told once more in this second.
#[inline(always)]
fn may_tell(outbound: &Outbound) -> bool {
    // In our own name, or that of a whole network of ours, nobody else has sent this.
    let admit = || if is_ours(outbound.client) { Err(()) } else { Ok(()) };
    let Some(control) = Control::here() else { return false };
    let client = seats::client(control, outbound.client);
    rates::count(&REJECTS, client, now_by(control), REJECTS_A_SECOND, admit) == Ok(true)
}

/// Writes the segment that resets a connection, with its IP header, and returns its length.
#[inline(always)]
fn write_reset(packet: &Packet<'_>, outbound: &Outbound, place: Place) -> usize {
    let at = opaque(outbound.transport.at);
    let (Some(sequence), Some(acknowledged), Some([length, flags])) =
        (packet.read::<4>(at + 4), packet.read::<4>(at + 8), packet.read(at + TCP_FLAGS_OFFSET))
    else {
        return 0;
    };
    let ip_bytes = header_bytes(outbound);
    let mut to = place.message();
    to.set(ip_bytes, outbound.transport.destination);
    to.set(ip_bytes + 2, outbound.transport.source);
    // RFC 9293, §3.5.2: a segment that acknowledges is answered with what it acknowledges; any other by acknowledging it.
    let (sequence, acknowledged, flags) = match flags & TCP_ACK {
        0 => {
            let counted = ip_payload_bytes(packet, outbound)
                .wrapping_sub(u32::from(length >> 4) * 4)
                .wrapping_add(u32::from(flags & TCP_SYN_OR_FIN != 0));
            ([0; 4], u32::from_be_bytes(sequence).wrapping_add(counted).to_be_bytes(), TCP_RST | TCP_ACK)
        }
        _ => (acknowledged, [0; 4], TCP_RST),
    };
    to.set(ip_bytes + 4, sequence);
    to.set(ip_bytes + 8, acknowledged);
    to.set(ip_bytes + 12, [(TCP_HEADER_BYTES as u8 / 4) << 4, flags, 0, 0]);
    to.set(ip_bytes + 16, [0; 4]);
    finish(outbound, place, TCP, TCP_HEADER_BYTES, ip_bytes + 16)
}

/// SYN and FIN, each of which takes a number (RFC 9293, §3.4).
const TCP_SYN_OR_FIN: u8 = 0x03;

/// How many bytes a packet has from its transport header on.
#[inline(always)]
fn ip_payload_bytes(packet: &Packet<'_>, outbound: &Outbound) -> u32 {
    let ip = opaque(outbound.ip.offset());
    let before = outbound.transport.at.wrapping_sub(outbound.ip.offset()) as u32;
    let bytes = match outbound.ip.version() {
        Version::V4 => packet.read(ip + 2).map(|said| u32::from(u16::from_be_bytes(said))),
        Version::V6 => {
            packet.read(ip + 4).map(|said| u32::from(u16::from_be_bytes(said)) + IPV6_HEADER_BYTES as u32)
        }
    };
    bytes.unwrap_or(before).wrapping_sub(before)
}

/// Writes the ICMP message that quotes a packet, with its IP header, and returns its length.
#[inline(always)]
fn write_prohibited(ctx: &XdpContext, outbound: &Outbound, place: Place, link_bytes: usize) -> usize {
    let ip_bytes = header_bytes(outbound);
    let frame_bytes = Packet::new(ctx).length() as usize;
    let there = frame_bytes.wrapping_sub(link_bytes);
    let quoted = if there < QUOTED_BYTES { there } else { QUOTED_BYTES };
    let mut to = place.message();
    let at = place.at(ip_bytes + ICMP_HEADER_BYTES);
    // SAFETY: the scratch memory has room for as much as is quoted, behind both headers.
    if quoted == 0 || unsafe { bpf_xdp_load_bytes(ctx.ctx, link_bytes as u32, at, length(quoted)) } != 0 {
        return 0;
    }
    let (protocol, kind) = match outbound.ip.version() {
        Version::V4 => (ICMP, [3, 13, 0, 0]),
        Version::V6 => (ICMPV6, [1, 1, 0, 0]),
    };
    to.set(ip_bytes, kind);
    to.set(ip_bytes + 4, [0; 4]);
    finish(outbound, place, protocol, ICMP_HEADER_BYTES + quoted, ip_bytes + 2)
}

#[inline(always)]
const fn header_bytes(outbound: &Outbound) -> usize {
    match outbound.ip.version() {
        Version::V4 => IPV4_HEADER_BYTES,
        Version::V6 => IPV6_HEADER_BYTES,
    }
}

/// Writes the IP header in front of what is there, and both checksums. Returns the length of all.
#[inline(never)]
fn finish(
    outbound: &Outbound,
    place: Place,
    protocol: u8,
    payload_bytes: usize,
    checksum_at: usize,
) -> usize {
    let mut to = place.message();
    let ip_bytes = header_bytes(outbound);
    let bytes = ip_bytes + payload_bytes;
    // The sum goes over words; what stands behind must not count.
    to.set(bytes, [0; 8]);
    let mut sum = u64::from(u16::from(protocol).to_be()) + u64::from((payload_bytes as u16).to_be());
    let addresses_at = match outbound.ip.version() {
        Version::V4 => {
            let [high, low] = (bytes as u16).to_be_bytes();
            to.set(0, [0x45, 0, high, low]);
            // No identification, and no fragmentation: "atomic" (RFC 6864, §4.1).
            to.set(4, [0, 0, 0x40, 0]);
            to.set(8, [HOP_LIMIT, protocol, 0, 0]);
            to.set(12, outbound.remote.v4_word().to_ne_bytes());
            to.set(16, outbound.client.v4_word().to_ne_bytes());
            let header = summed(place, 0, IPV4_HEADER_BYTES);
            to.set(10, fold(header).to_ne_bytes());
            // ICMP of IPv4 has no pseudo-header.
            if protocol == ICMP {
                sum = 0;
                IPV4_HEADER_BYTES
            } else {
                12
            }
        }
        Version::V6 => {
            let [high, low] = (payload_bytes as u16).to_be_bytes();
            to.set(0, [0x60, 0, 0, 0]);
            to.set(4, [high, low, protocol, HOP_LIMIT]);
            for (i, word) in outbound.remote.words().iter().enumerate() {
                to.set(8 + 4 * i, word.to_ne_bytes());
            }
            for (i, word) in outbound.client.words().iter().enumerate() {
                to.set(24 + 4 * i, word.to_ne_bytes());
            }
            8
        }
    };
    let sum = add(sum, summed(place, addresses_at, bytes));
    to.set(checksum_at, fold(sum).to_ne_bytes());
    bytes
}

/// The sum of the words from one place to another, behind which eight bytes are zero or do not belong to a longer sum.
#[inline(always)]
fn summed(place: Place, from: usize, to: usize) -> u64 {
    const HALVES: u32 = ((IPV6_HEADER_BYTES + ICMP_HEADER_BYTES + QUOTED_BYTES) / 4) as u32;
    let (message, mut sum, mut at) = (place.message(), 0, from);
    for _ in 0..hidden::<HALVES>() {
        if at >= to {
            break;
        }
        sum += u64::from(u32::from_ne_bytes(message.get(at)));
        at += 4;
    }
    sum
}

/// Gives the frame the length of the notice, and copies it there: the link's header turned round, and the packet.
#[inline(never)]
fn store(ctx: &XdpContext, place: Place, link_bytes: usize, bytes: usize) -> bool {
    let packet = Packet::new(ctx);
    const HEAD_WORDS: u32 = (HEAD_BYTES / 8) as u32;
    const WORDS: u32 = ((IPV6_HEADER_BYTES + ICMP_HEADER_BYTES + QUOTED_BYTES) / 8 + 1) as u32;
    let Some(addresses) = packet.read::<12>(0) else {
        return false;
    };
    // Of the link's header the last bytes are the tags and the type of what follows.
    let start = place.start(link_bytes);
    // SAFETY: in front of the message there is room for the longest header.
    if unsafe { bpf_xdp_load_bytes(ctx.ctx, 0, start, length(link_bytes)) } != 0 {
        return false;
    }
    let was = packet.length() as usize;
    let padded = if was < ETHERNET_MIN_BYTES { was } else { ETHERNET_MIN_BYTES };
    let total = if link_bytes + bytes < padded { padded } else { link_bytes + bytes };
    if !resize(ctx, was, total) {
        return false;
    }
    let (from, message) = (start as usize, place.message().start() as usize);
    let (frame, end) = (ctx.data(), ctx.data_end());
    let link = masked::<HEAD_MASK>(link_bytes);
    let mut at = 0;
    for _ in 0..hidden::<HEAD_WORDS>() {
        if at >= link_bytes || frame + at + 8 > end {
            break;
        }
        // SAFETY: the word lies inside the packet, as just checked, and inside the scratch memory.
        unsafe { store8::<0>(frame + at, load8::<0>(from + at)) };
        at += 8;
    }
    at = 0;
    for _ in 0..hidden::<WORDS>() {
        if at + 8 > bytes || frame + link + at + 8 > end {
            break;
        }
        // SAFETY: as above.
        unsafe { store8::<0>(frame + link + at, load8::<0>(message + masked::<MESSAGE_MASK>(at))) };
        at += 8;
    }
    let last = masked::<MESSAGE_MASK>(bytes - 8);
    if frame + link + last + 8 > end || frame + 12 > end {
        return false;
    }
    // SAFETY: as above.
    unsafe {
        store8::<0>(frame + link + last, load8::<0>(message + last));
        let [a, b, c, d, e, f, g, h, i, j, k, l] = addresses;
        store_at::<0, 12>(frame, [g, h, i, j, k, l, a, b, c, d, e, f]);
    }
    true
}
