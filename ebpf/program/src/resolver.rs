//! Answering a DNS question in the place of the resolver that it was sent to.

use aya_ebpf::{
    btf_maps::lpm_trie::Key,
    helpers::{
        bpf_csum_diff, bpf_ktime_get_boot_ns, bpf_xdp_adjust_head, bpf_xdp_adjust_tail, bpf_xdp_get_buff_len,
        bpf_xdp_load_bytes, bpf_xdp_store_bytes,
    },
    programs::XdpContext,
};
use interdict_dns_wire::{Edns, HEADER_BYTES, LONGEST_QUESTION_END, OPT_BYTES, Question};
use interdict_ebpf_program::{
    ip::{IPV4_HEADER_BYTES, IPV6_HEADER_BYTES, Version},
    lan::Outbound,
    query::{self, Wish},
    verdict::Policy as _,
};
use interdict_ebpf_shared::{
    Address,
    contact::{ContactKey, Event, Hook, Remote},
    count::Exit,
    name::NameEntry,
    policy::Verdict,
    query::{Interface, Rate},
};

use crate::{
    atomic::Word,
    generation::{Generation, client_qps},
    maps::{CLIENTS, INTERFACES, OURS, RATES},
    record,
    scratch::{HEAD_BYTES, Message, Place, length},
};

const UDP_HEADER_BYTES: usize = 8;
/// As much of a message as is read: the question, and an OPT record without its options.
const READ_BYTES: usize = LONGEST_QUESTION_END + OPT_BYTES;
const HOP_LIMIT: u8 = 64;

/// How far in front of the message the parts of the headers stand.
mod before {
    pub(super) const V4: usize = 28;
    pub(super) const V4_SOURCE: usize = 16;
    pub(super) const V4_DESTINATION: usize = 12;
    pub(super) const V6: usize = 48;
    pub(super) const V6_SOURCE: usize = 40;
    pub(super) const V6_DESTINATION: usize = 24;
    pub(super) const UDP: usize = 8;
}

/// What became of a question.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    /// It is no question; the address decides.
    Nothing,
    /// It has another opcode than QUERY; the address decides.
    Opcode,
    /// No rule concerns its name; the address decides.
    Unlisted,
    /// The frame is the answer now, to be sent back.
    Answered,
    /// It is dropped, for this reason.
    Dropped(Exit),
    /// Only the agent can tell.
    Agent,
    /// Only the agent can tell, and the name lies below one that is blocked.
    AgentOrDrop,
}

/// A question in the scratch memory.
struct Loaded {
    place: Place,
    header_bytes: usize,
    frame_bytes: usize,
    message_bytes: usize,
}

/// Judges a UDP datagram for port 53, and turns its frame into the answer if a rule blocks its name.
///
/// Not inlined: with a stack and a verification of its own.
#[inline(never)]
pub(crate) fn answer(ctx: &XdpContext, generation: &Generation, outbound: &Outbound, place: Place) -> Step {
    let Some(loaded) = load(ctx, outbound, place) else {
        return Step::Agent;
    };
    let (question, edns, entry) = match judge(&loaded, generation, outbound.client) {
        Wish::Nothing => return Step::Nothing,
        Wish::Opcode => return Step::Opcode,
        Wish::Unlisted => return Step::Unlisted,
        Wish::Agent => return Step::Agent,
        Wish::AgentOrDrop => return Step::AgentOrDrop,
        Wish::Answer(question, edns, entry) => (question, edns, entry),
    };
    // SAFETY: the helper has no precondition.
    let now_ns = unsafe { bpf_ktime_get_boot_ns() };
    let interface = INTERFACES.get(ctx.ingress_ifindex() as u32).filter(|interface| interface.answers != 0);
    // From an interface that is not there no answer would get out; the agent's does.
    let (Some(interface), Some(answer)) = (interface, generation.answer(entry.decision.rule)) else {
        return Step::AgentOrDrop;
    };
    if let Err(exit) = may_answer(interface, &loaded, outbound, now_ns) {
        return Step::Dropped(exit);
    }
    record::record_query(
        &event(ctx, &loaded, generation, outbound, &entry, now_ns),
        &question,
        loaded.place.message(),
    );
    if answer.0.is_silent() {
        return Step::Dropped(Exit::QuerySilenced);
    }
    let len = write_message(&loaded, answer, &question, edns, &entry);
    match send_back(ctx, &loaded, outbound, len) {
        true => Step::Answered,
        false => Step::Dropped(Exit::QueryNoRoom),
    }
}

/// Judges a question by the staged policy, and does nothing else. `None` for a datagram without a message.
#[inline(never)]
pub(crate) fn try_staged(
    ctx: &XdpContext,
    generation: &Generation,
    outbound: &Outbound,
    place: Place,
) -> Option<[u32; 3]> {
    let loaded = load(ctx, outbound, place)?;
    Some(match judge(&loaded, generation, outbound.client) {
        Wish::Nothing | Wish::Opcode | Wish::Unlisted => [Exit::NoMatch as u32, 0, 0],
        Wish::Agent | Wish::AgentOrDrop => [Exit::QueryHandedUp as u32, 0, 0],
        Wish::Answer(_, _, entry) => [Exit::QueryAnswered as u32, Verdict::Block.code(), entry.decision.rule],
    })
}

/// Copies the headers and the question into the scratch memory. `None` for a datagram that is not as plain as usual:
/// in several buffers, with IP options or extension headers, a fragment, or with lengths that do not fit together.
#[inline(always)]
fn load(ctx: &XdpContext, outbound: &Outbound, place: Place) -> Option<Loaded> {
    let at = outbound.ip.offset();
    let ip_bytes = match outbound.ip.version() {
        Version::V4 => IPV4_HEADER_BYTES,
        Version::V6 => IPV6_HEADER_BYTES,
    };
    let udp = at + ip_bytes;
    if outbound.transport.at != udp || outbound.transport.fragment || outbound.transport.unread.is_some() {
        return None;
    }
    let header_bytes = udp + UDP_HEADER_BYTES;
    if header_bytes > HEAD_BYTES {
        return None;
    }
    let frame_bytes = ctx.data_end() - ctx.data();
    // SAFETY: the context is the one the kernel started the program with.
    if unsafe { bpf_xdp_get_buff_len(ctx.ctx) } != frame_bytes as u64 {
        return None;
    }
    let wanted = header_bytes + READ_BYTES;
    let read = if frame_bytes < wanted { frame_bytes } else { wanted };
    if read < header_bytes + HEADER_BYTES || read > HEAD_BYTES + READ_BYTES {
        return None;
    }
    // SAFETY: the scratch memory has room for the longest headers and as much of a message as is read.
    if unsafe { bpf_xdp_load_bytes(ctx.ctx, 0, place.start(header_bytes), length(read)) } != 0 {
        return None;
    }
    let head = place.head();
    let udp_bytes = usize::from(u16::from_be_bytes(head.get(before::UDP - 4)));
    let said_bytes = match outbound.ip.version() {
        Version::V4 => usize::from(u16::from_be_bytes(head.get(before::V4 - 2))),
        Version::V6 => usize::from(u16::from_be_bytes(head.get(before::V6 - 4))) + IPV6_HEADER_BYTES,
    };
    let fits = said_bytes == ip_bytes + udp_bytes && at + said_bytes <= frame_bytes;
    // IPv6 has no datagrams without a checksum (RFC 8200, §8.1).
    let is_summed = outbound.ip.version() == Version::V4 || head.get::<2>(before::UDP - 6) != [0, 0];
    if !fits || !is_summed || udp_bytes < UDP_HEADER_BYTES + HEADER_BYTES {
        return None;
    }
    Some(Loaded { place, header_bytes, frame_bytes, message_bytes: udp_bytes - UDP_HEADER_BYTES })
}

#[inline(always)]
fn judge(loaded: &Loaded, generation: &Generation, client: Address) -> Wish {
    let place = loaded.place;
    query::judge(
        &place.message(),
        loaded.message_bytes,
        &mut place.key(),
        |length| generation.name(place, length),
        |rule| generation.is_exempt(rule, client),
    )
}

/// Whether this client is answered, on this interface, now.
#[inline(always)]
fn may_answer(interface: &Interface, loaded: &Loaded, outbound: &Outbound, now_ns: u64) -> Result<(), Exit> {
    let to: [u8; 6] = frame_start(loaded);
    if to != interface.mac || !can_be_answered(loaded, outbound) {
        return Err(Exit::QuerySource);
    }
    if let Some(rate) = RATES.get_ptr_mut(outbound.client) {
        return within_rate(rate, now_ns);
    }
    if CLIENTS.get(&Key::new(128, outbound.client.words())).is_none() {
        return Err(Exit::QueryStranger);
    }
    // SAFETY: as above.
    if unsafe { OURS.get(outbound.client) }.is_some() {
        return Err(Exit::QuerySource);
    }
    // If another CPU was first, its count of one is lost; the window is still as long.
    let _ = RATES.insert(outbound.client, Rate { window_ns: now_ns, count: 1 }, 0);
    Ok(())
}

/// The first bytes of the frame: its destination.
#[inline(always)]
fn frame_start(loaded: &Loaded) -> [u8; 6] {
    // SAFETY: the headers are in the scratch memory, from here on.
    unsafe { crate::unaligned::load(loaded.place.start(loaded.header_bytes) as usize) }
}

/// Whether both addresses are of one machine each, so that an answer can be sent from the one to the other: nothing
/// multicast, unspecified, loopback or reserved, and a port to send it to.
#[inline(always)]
fn can_be_answered(loaded: &Loaded, outbound: &Outbound) -> bool {
    let head = loaded.place.head();
    let is_one = match outbound.ip.version() {
        Version::V4 => {
            let is_one = |[first, _]: [u8; 2]| first != 0 && first != 127 && first < 224;
            is_one(head.get(before::V4_SOURCE)) && is_one(head.get(before::V4_DESTINATION))
        }
        // ::/16 holds the unspecified address, loopback, and IPv4 addresses in other clothes.
        Version::V6 => {
            let is_one = |[first, second]: [u8; 2]| first != 0xff && (first, second) != (0, 0);
            is_one(head.get(before::V6_SOURCE)) && is_one(head.get(before::V6_DESTINATION))
        }
    };
    is_one && outbound.transport.source != [0, 0]
}

/// Counts a question into the client's current second.
#[inline(always)]
fn within_rate(rate: *mut Rate, now_ns: u64) -> Result<(), Exit> {
    const SECOND_NS: u64 = 1_000_000_000;
    // SAFETY: the pointer is to a value of the table of clients. An entry that is evicted meanwhile stays memory of that
    // table; the count of another client may then be one too high.
    let (window_ns, count) =
        unsafe { (Word::new(&raw mut (*rate).window_ns), Word::new(&raw mut (*rate).count)) };
    let began_ns = window_ns.load();
    if now_ns.saturating_sub(began_ns) >= SECOND_NS && window_ns.replace(began_ns, now_ns) {
        count.store(0);
    }
    if count.fetch_add(1) < client_qps() { Ok(()) } else { Err(Exit::QueryTooFast) }
}

/// The record of the question.
#[inline(always)]
fn event(
    ctx: &XdpContext,
    loaded: &Loaded,
    generation: &Generation,
    outbound: &Outbound,
    entry: &NameEntry,
    time_ns: u64,
) -> Event {
    let contact = ContactKey {
        client: outbound.client,
        generation: generation.number(),
        rule: entry.decision.rule,
        verdict: Verdict::Block.code() as u8,
        hook: Hook::Query as u8,
        zero: [0; 2],
    };
    let remote = Remote {
        address: outbound.remote,
        interface: ctx.ingress_ifindex() as u32,
        port: outbound.transport.destination,
        protocol: outbound.transport.protocol,
        zero: 0,
    };
    Event { contact, remote, time_ns, length: loaded.frame_bytes as u32, flags: 0, zero: [0; 3] }
}

/// Writes the answer over the question, and returns its length.
#[inline(always)]
fn write_message(
    loaded: &Loaded,
    answer: &interdict_ebpf_shared::query::Answer,
    question: &Question,
    edns: Option<Edns>,
    entry: &NameEntry,
) -> usize {
    // The SOA's owner is the end of the question's name, root included; without one it is the whole name.
    let owner = match entry.owner_bytes as usize {
        0 => HEADER_BYTES,
        bytes => HEADER_BYTES + question.name_bytes - 1 - bytes,
    };
    let mut message: Message = loaded.place.message();
    answer.0.answer(&mut message, question, edns, owner)
}

/// Turns the headers round, gives the frame the answer's length, and stores it.
#[inline(always)]
fn send_back(ctx: &XdpContext, loaded: &Loaded, outbound: &Outbound, message_bytes: usize) -> bool {
    let head = loaded.place.head();
    let udp_bytes = UDP_HEADER_BYTES + message_bytes;

    let ports: [[u8; 2]; 2] = [head.get(before::UDP), head.get(before::UDP - 2)];
    head.set(before::UDP, ports[1]);
    head.set(before::UDP - 2, ports[0]);
    head.set(before::UDP - 4, (udp_bytes as u16).to_be_bytes());
    head.set(before::UDP - 6, [0, 0]);

    let addresses_before = match outbound.ip.version() {
        Version::V4 => {
            turn_ipv4(loaded, udp_bytes);
            before::V4_SOURCE
        }
        Version::V6 => {
            turn_ipv6(loaded, udp_bytes);
            before::V6_SOURCE
        }
    };
    // The sum goes over words; what stands behind the message must not count.
    let end = message_bytes;
    interdict_dns_wire::Memory::set(&mut loaded.place.message(), end, [0; 4]);
    let summed = length((addresses_before - before::UDP + udp_bytes + 3) & !3) & !3;
    let pseudo = u32::from((17_u16).to_be()) + u32::from((udp_bytes as u16).to_be());
    // SAFETY: the bytes are in the scratch memory: the headers end where the message begins.
    let sum = unsafe { bpf_csum_diff(core::ptr::null_mut(), 0, head.from(addresses_before), summed, pseudo) };
    let sum = match fold(sum as u64 & 0xffff_ffff) {
        // Zero would say that there is no sum (RFC 768).
        0 => 0xffff,
        sum => sum,
    };
    head.set(before::UDP - 6, sum.to_ne_bytes());

    let start = loaded.place.start(loaded.header_bytes);
    // SAFETY: the headers are in the scratch memory, from here on.
    unsafe {
        let to: [u8; 6] = crate::unaligned::load(start as usize);
        let from: [u8; 6] = crate::unaligned::load(start as usize + 6);
        crate::unaligned::store(start as usize, from);
        crate::unaligned::store(start as usize + 6, to);
    }
    let bytes = loaded.header_bytes + message_bytes;
    resize(ctx, loaded.frame_bytes, bytes)
        // SAFETY: as many bytes of the scratch memory, from here on, are the frame.
        && unsafe { bpf_xdp_store_bytes(ctx.ctx, 0, start, length(bytes)) } == 0
}

#[inline(always)]
fn turn_ipv4(loaded: &Loaded, udp_bytes: usize) {
    let head = loaded.place.head();
    let (source, destination): ([u8; 4], [u8; 4]) =
        (head.get(before::V4_SOURCE), head.get(before::V4_DESTINATION));
    let [first, service]: [u8; 2] = head.get(before::V4);
    let [length_high, length_low] = ((IPV4_HEADER_BYTES + udp_bytes) as u16).to_be_bytes();
    // No identification, and no fragmentation: "atomic" (RFC 6864, §4.1).
    let words: [[u8; 4]; 5] = [
        [first, service, length_high, length_low],
        [0, 0, 0x40, 0],
        [HOP_LIMIT, 17, 0, 0],
        destination,
        source,
    ];
    let sum: u64 = words.iter().map(|word| u64::from(u32::from_ne_bytes(*word))).sum();
    let [sum_first, sum_second] = fold(sum).to_ne_bytes();
    head.set(before::V4, words[0]);
    head.set(before::V4 - 4, words[1]);
    head.set(before::V4 - 8, [HOP_LIMIT, 17, sum_first, sum_second]);
    head.set(before::V4 - 12, destination);
    head.set(before::V4 - 16, source);
}

#[inline(always)]
fn turn_ipv6(loaded: &Loaded, udp_bytes: usize) {
    let head = loaded.place.head();
    let (source, destination): ([u8; 16], [u8; 16]) =
        (head.get(before::V6_SOURCE), head.get(before::V6_DESTINATION));
    head.set(before::V6, [0x60, 0, 0, 0]);
    head.set(before::V6 - 4, (udp_bytes as u16).to_be_bytes());
    head.set(before::V6 - 6, [17, HOP_LIMIT]);
    head.set(before::V6_SOURCE, destination);
    head.set(before::V6_DESTINATION, source);
}

/// The ones' complement sum of 16 bits, complemented (RFC 1071), in the machine's order.
#[inline(always)]
const fn fold(sum: u64) -> u16 {
    let sum = (sum >> 32) + (sum & 0xffff_ffff);
    let sum = (sum >> 32) + (sum & 0xffff_ffff);
    let sum = (sum >> 16) + (sum & 0xffff);
    let sum = (sum >> 16) + (sum & 0xffff);
    let sum = (sum >> 16) + (sum & 0xffff);
    !(sum as u16)
}

/// Gives the frame another length. It grows in front, where every driver leaves room; behind it there may be none.
#[inline(always)]
fn resize(ctx: &XdpContext, from: usize, to: usize) -> bool {
    let more = to as i32 - from as i32;
    // SAFETY: the context is the one the kernel started the program with, and no pointer into the packet is used again.
    let result = unsafe {
        if more > 0 { bpf_xdp_adjust_head(ctx.ctx, -more) } else { bpf_xdp_adjust_tail(ctx.ctx, more) }
    };
    result == 0
}
