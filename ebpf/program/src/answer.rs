//! The answer to a question that was judged: its frame becomes it, where it is.
//!
//! Everything moves to the front by as much as the answer is longer, since a frame grows there. So all is read from where it
//! was and written to where it will be, from the beginning to the end, and nothing is read again that was just written: a
//! processor waits for what was written in other pieces.

use aya_ebpf::{btf_maps::lpm_trie::Key, programs::XdpContext};
use interdict_dns_wire::{HEADER_BYTES, Question, Room, TAIL_WORDS, Tail, Template};
use interdict_ebpf_program::{
    frame::{Head as _, rarely},
    ip::{IPV4_HEADER_BYTES, IPV6_HEADER_BYTES, Version},
    lan::Outbound,
    query::Asked,
    reject::is_one_machine,
    sum::{Sum, add, fold},
    transport::UDP,
};
use interdict_ebpf_shared::{
    contact::{ContactKey, Event, Hook, Remote},
    control::CLIENT_QPS,
    count::{Exit, Unjudged},
    name::NameEntry,
    policy::Verdict,
    query::Interface,
};

use crate::{
    clock::now_by,
    control::Control,
    fate::Step,
    generation::{Generation, agent_lives, is_ours, is_served},
    maps::{CLIENTS, INTERFACES, RATES},
    packet::{Part, Spot, hidden},
    rates,
    record::{self, Brief},
    reply::{HOP_LIMIT, is_from_group, resize},
    scratch::{Lengths, Place, forgotten, masked},
    seats,
    unaligned::load8,
};

const ADDRESSES_BYTES: usize = 12;
const ETHERTYPE_BYTES: usize = 2;
const UDP_HEADER_BYTES: usize = 8;
/// The header of UDP and that of the message behind it.
const HEADERS_BYTES: usize = UDP_HEADER_BYTES + HEADER_BYTES;

/// Turns the frame of a question that was judged into the answer.
#[inline(always)]
pub(crate) fn answer(ctx: &XdpContext, generation: &Generation, outbound: &Outbound, place: Place) -> Step {
    let lengths = place.lengths();
    let asked: &Asked = place.asked();
    // The agent answers them: with a cookie, or the server's name.
    let has_options = asked.edns.is_some_and(|edns| edns.options_bytes != 0);
    if has_options && is_served(outbound.remote) && agent_lives() {
        return Step::AgentOrDrop;
    }
    // The words are always there.
    let Some(control) = Control::here() else {
        return Step::AgentOrDrop;
    };
    let now_ns = now_by(control);
    let tail = generation
        .answer(asked.entry.rule())
        .and_then(|answer| answer.0.tail(forgotten(Template::place(asked.question.qtype))));
    // From an interface that is not there no answer would get out; the agent's does.
    let (Some(interface), Some(tail)) = (INTERFACES.get(ctx.ingress_ifindex() as u32), tail) else {
        return Step::AgentOrDrop;
    };
    if interface.answers() != Interface::ANSWERS {
        if interface.answers() == Interface::HIDES_TAGS {
            record::count_unjudged(Unjudged::VlanOffload);
        }
        return Step::AgentOrDrop;
    }
    let client = seats::client(control, outbound.client);
    if let Err(exit) = may_answer(ctx, control, interface, outbound, client, now_ns) {
        return Step::Dropped(exit);
    }
    let length = lengths.frame_bytes as u32;
    let brief = Brief::new(control, client, &contact(generation, outbound, asked), now_ns, length);
    let event = || {
        rarely();
        place.keep_event(event(ctx, generation, outbound, asked, now_ns, length));
        &*place.event()
    };
    record::record_query(ctx, &brief, event, &asked.question, lengths.header_bytes);
    if tail.is_silent() {
        return Step::Dropped(Exit::QuerySilenced);
    }
    match send_back(ctx, &lengths, outbound, asked, tail) {
        Some(()) => Step::Answered,
        None => Step::Dropped(Exit::QueryNoRoom),
    }
}

/// Whether the client with this tag is answered, on this interface, now.
#[inline(always)]
fn may_answer(
    ctx: &XdpContext,
    control: Control,
    interface: &Interface,
    outbound: &Outbound,
    client: u64,
    now_ns: u64,
) -> Result<(), Exit> {
    let Some(first) = Spot::at(ctx, 0).part::<8>().map(Part::word::<0>) else {
        return Err(Exit::QuerySource);
    };
    if !interface.is_meant(first) || is_from_group(first) || !can_be_answered(outbound) {
        return Err(Exit::QuerySource);
    }
    let admit = || {
        if CLIENTS.get(&Key::new(128, outbound.client.words())).is_none() {
            return Err(Exit::QueryStranger);
        }
        if is_ours(outbound.client) { Err(Exit::QuerySource) } else { Ok(()) }
    };
    match rates::count(&RATES, client, now_ns, control.word::<CLIENT_QPS>(), admit)? {
        true => Ok(()),
        false => Err(Exit::QueryTooFast),
    }
}

/// Whether both addresses are of one machine each, so that an answer can be sent from the one to the other, and there is a
/// port to send it to.
#[inline(always)]
fn can_be_answered(outbound: &Outbound) -> bool {
    let is_one = |address| is_one_machine(outbound.ip.version(), address);
    is_one(outbound.client) && is_one(outbound.remote) && outbound.transport.source != [0, 0]
}

/// What the question belongs to.
#[inline(always)]
fn contact(generation: &Generation, outbound: &Outbound, asked: &Asked) -> ContactKey {
    ContactKey {
        client: outbound.client,
        generation: generation.number(),
        rule: asked.entry.rule(),
        verdict: Verdict::Block.code() as u8,
        hook: Hook::Query as u8,
        zero: [0; 2],
    }
}

/// The record of the question.
#[inline(always)]
fn event(
    ctx: &XdpContext,
    generation: &Generation,
    outbound: &Outbound,
    asked: &Asked,
    time_ns: u64,
    length: u32,
) -> Event {
    let remote = Remote {
        address: outbound.remote,
        interface: ctx.ingress_ifindex() as u32,
        port: outbound.transport.destination,
        protocol: outbound.transport.protocol,
        zero: 0,
    };
    let contact = contact(generation, outbound, asked);
    Event { contact, remote, time_ns, length, flags: 0, zero: [0; 3] }
}

/// Makes the frame the answer. `None` where there is no room for it.
#[inline(always)]
fn send_back(
    ctx: &XdpContext,
    lengths: &Lengths,
    outbound: &Outbound,
    asked: &Asked,
    tail: &Tail,
) -> Option<()> {
    let Asked { question, edns, entry } = *asked;
    let tail_bytes = tail.bytes(edns);
    let udp_bytes = UDP_HEADER_BYTES + question.end() + tail_bytes;
    let udp_at = lengths.header_bytes - UDP_HEADER_BYTES;
    let bytes = udp_at + udp_bytes;
    if !resize(ctx, lengths.frame_bytes, bytes) {
        return None;
    }
    let moved = bytes.saturating_sub(lengths.frame_bytes);

    let ip_at = outbound.ip.offset();
    turn_link(ctx, moved, ip_at)?;
    let mut sum = match outbound.ip.version() {
        Version::V4 => turn_ipv4(ctx, moved, ip_at, udp_bytes)?,
        Version::V6 => turn_ipv6(ctx, moved, ip_at, udp_bytes)?,
    };
    let (was, is) = (Spot::at(ctx, moved + udp_at), Spot::at(ctx, udp_at));
    let (headers_were, headers) = (was.part::<HEADERS_BYTES>()?, is.part::<HEADERS_BYTES>()?);
    let ports = u32::from_ne_bytes(headers_were.get::<0, 4>());
    let (start, counts) = tail.header(headers_were.get::<UDP_HEADER_BYTES, 4>(), edns);
    let question_bytes = question.end() - HEADER_BYTES;
    headers.set::<0, 4>(ports.rotate_left(16).to_ne_bytes());
    sum += move_question(was, is, question_bytes)?;
    headers.set::<UDP_HEADER_BYTES, 4>(start);
    headers.set::<{ UDP_HEADER_BYTES + 4 }, 8>(counts);

    let tail_at = udp_at + UDP_HEADER_BYTES + question.end();
    let mut room = Behind { spot: Spot::at(ctx, tail_at), last: Spot::at(ctx, bytes - CHUNK_BYTES) };
    // Behind a question of an odd length each byte counts as the other one of its word.
    sum += tail.write(&mut room, edns, owner(&question, entry)) << (8 * (question_bytes & 1));

    let length = (udp_bytes as u16).to_be();
    // The protocol and the length once more are of the pseudo-header (RFC 768).
    sum += u64::from(u16::from(UDP).to_be()) + 2 * u64::from(length) + u64::from(ports);
    sum = add(sum + u64::from(u32::from_ne_bytes(start)), u64::from_ne_bytes(counts));
    let sum = match fold(sum) {
        // Zero would say that there is no sum (RFC 768).
        0 => 0xffff,
        sum => sum,
    };
    let ([high, low], [first, second]) = (length.to_ne_bytes(), sum.to_ne_bytes());
    headers.set::<4, 4>([high, low, first, second]);
    Some(())
}

/// Where the name begins that owns an SOA: the end of the question's name, root included, or all of it.
#[inline(always)]
fn owner(question: &Question, entry: NameEntry) -> usize {
    match entry.owner_bytes() {
        0 => HEADER_BYTES,
        bytes => HEADER_BYTES + question.name_bytes - 1 - bytes,
    }
}

/// Turns round the header of Ethernet, which was `moved` bytes further behind, and moves the tags between it and the type.
#[inline(always)]
fn turn_link(ctx: &XdpContext, moved: usize, ip_at: usize) -> Option<()> {
    const TAGS: u32 = 4;
    const TAG_BYTES: usize = 4;
    let (was, is) = (Spot::at(ctx, moved), Spot::at(ctx, 0));
    let (addresses, turned) = (was.part::<ADDRESSES_BYTES>()?, is.part::<ADDRESSES_BYTES>()?);
    let (to, from) = (addresses.get::<0, 6>(), addresses.get::<6, 6>());
    turned.set::<0, 6>(from);
    turned.set::<6, 6>(to);
    if ip_at != ADDRESSES_BYTES + ETHERTYPE_BYTES {
        rarely();
        let (mut was, mut is) = (was.next::<ADDRESSES_BYTES>(), is.next::<ADDRESSES_BYTES>());
        let mut left = ip_at - ETHERTYPE_BYTES - ADDRESSES_BYTES;
        for _ in 0..hidden::<TAGS>() {
            if left < TAG_BYTES {
                break;
            }
            let tag = was.part::<TAG_BYTES>()?.get::<0, TAG_BYTES>();
            is.part::<TAG_BYTES>()?.set::<0, TAG_BYTES>(tag);
            (was, is) = (was.next::<TAG_BYTES>(), is.next::<TAG_BYTES>());
            left -= TAG_BYTES;
        }
    }
    Some(())
}

/// Turns round an IPv4 header, with the type in front of it, and returns the sum of its addresses.
#[inline(always)]
fn turn_ipv4(ctx: &XdpContext, moved: usize, at: usize, udp_bytes: usize) -> Option<u64> {
    const BYTES: usize = ETHERTYPE_BYTES + IPV4_HEADER_BYTES;
    const AT: usize = ETHERTYPE_BYTES;
    let at = at - ETHERTYPE_BYTES;
    let was = Spot::at(ctx, moved + at).part::<BYTES>()?;
    let is = Spot::at(ctx, at).part::<BYTES>()?;
    let [high, low] = ((IPV4_HEADER_BYTES + udp_bytes) as u16).to_be_bytes();
    let [type_high, type_low, first, service] = was.get::<0, 4>();
    // No identification, and no fragmentation: "atomic" (RFC 6864, §4.1).
    let start = u64::from_ne_bytes([first, service, high, low, 0, 0, 0x40, 0]);
    let end = [HOP_LIMIT, UDP];
    let addresses = was.word::<{ AT + 12 }>();
    let summed = add(0, addresses);
    let [sum_first, sum_second] = fold(add(summed, start) + u64::from(u16::from_ne_bytes(end))).to_ne_bytes();
    is.set::<0, 2>([type_high, type_low]);
    is.set_word::<AT>(start);
    is.set::<{ AT + 8 }, 4>([HOP_LIMIT, UDP, sum_first, sum_second]);
    is.set_word::<{ AT + 12 }>(addresses.rotate_left(32));
    Some(summed)
}

/// Likewise, of IPv6.
#[inline(always)]
fn turn_ipv6(ctx: &XdpContext, moved: usize, at: usize, udp_bytes: usize) -> Option<u64> {
    const BYTES: usize = ETHERTYPE_BYTES + IPV6_HEADER_BYTES;
    const AT: usize = ETHERTYPE_BYTES;
    let at = at - ETHERTYPE_BYTES;
    let was = Spot::at(ctx, moved + at).part::<BYTES>()?;
    let is = Spot::at(ctx, at).part::<BYTES>()?;
    let [high, low] = (udp_bytes as u16).to_be_bytes();
    let ethertype = was.get::<0, 2>();
    let source = [was.word::<{ AT + 8 }>(), was.word::<{ AT + 16 }>()];
    let destination = [was.word::<{ AT + 24 }>(), was.word::<{ AT + 32 }>()];
    is.set::<0, 2>(ethertype);
    is.set_word::<AT>(u64::from_ne_bytes([0x60, 0, 0, 0, high, low, UDP, HOP_LIMIT]));
    is.set_word::<{ AT + 8 }>(destination[0]);
    is.set_word::<{ AT + 16 }>(destination[1]);
    is.set_word::<{ AT + 24 }>(source[0]);
    is.set_word::<{ AT + 32 }>(source[1]);
    Some(add(add(add(add(0, source[0]), source[1]), destination[0]), destination[1]))
}

/// Moves the question behind the headers, and returns its sum. Of a question of fewer than eight bytes the last word begins in the
/// headers: they are written after this.
#[inline(always)]
fn move_question(was: Spot, is: Spot, bytes: usize) -> Option<u64> {
    /// One more than the words of the longest.
    const ROUNDS: u32 = 33;
    let last_at = HEADERS_BYTES + bytes - 8;
    let (last_was, last_is) = (was.further(last_at), is.further(last_at));
    // Read before anything is written over it.
    let last = last_was.part::<8>()?.word::<0>();
    let (mut was, mut is) = (was.next::<HEADERS_BYTES>(), is.next::<HEADERS_BYTES>());
    let (mut sum, mut left) = (Sum::NOTHING, bytes);
    for _ in 0..hidden::<ROUNDS>() {
        if left < 8 {
            break;
        }
        let word = was.part::<8>()?.word::<0>();
        is.part::<8>()?.set_word::<0>(word);
        sum.add(word);
        (was, is) = (was.next::<8>(), is.next::<8>());
        left -= 8;
    }
    last_is.part::<8>()?.set_word::<0>(last);
    // What of it was in no whole word: up to seven bytes, which are the high ones.
    const { assert!(cfg!(target_endian = "little")) };
    sum.add(last >> 1 >> (63 - 8 * (bytes % 8)));
    Some(sum.total())
}

/// What is copied at once. A tail is none, or at least as long; and behind the words of one is as much again, so that what begins
/// at any of its bytes can be read.
const CHUNK_BYTES: usize = 16;
const _: () = assert!(size_of::<Tail>() >= 8 * TAIL_WORDS + CHUNK_BYTES);

/// The room behind the question.
struct Behind {
    spot: Spot,
    /// The last chunk of the frame.
    last: Spot,
}

impl Room for Behind {
    #[inline(always)]
    fn copy(&mut self, words: &[u64; TAIL_WORDS], bytes: usize) {
        const ROUNDS: u32 = (8 * TAIL_WORDS / CHUNK_BYTES) as u32;
        let from = words.as_ptr() as usize;
        let (mut spot, mut at) = (self.spot, 0);
        for _ in 0..hidden::<ROUNDS>() {
            let Some(to) = spot.part::<CHUNK_BYTES>().filter(|_| at + CHUNK_BYTES <= bytes) else {
                break;
            };
            // SAFETY: the words are as many as there are rounds for.
            unsafe {
                to.set_word::<0>(load8::<0>(from + at));
                to.set_word::<8>(load8::<8>(from + at));
            }
            spot = spot.next::<CHUNK_BYTES>();
            at += CHUNK_BYTES;
        }
        // The last chunk, of which a part is there already.
        if bytes != 0
            && let Some(to) = self.last.part::<CHUNK_BYTES>()
        {
            let from = from + masked::<{ 8 * TAIL_WORDS - 1 }>(bytes - CHUNK_BYTES);
            // SAFETY: a masked place is in the words of a tail, behind which is a chunk more.
            unsafe {
                to.set_word::<0>(load8::<0>(from));
                to.set_word::<8>(load8::<8>(from));
            }
        }
    }

    #[inline(always)]
    fn set(&mut self, at: usize, bytes: [u8; 2]) {
        if let Some(to) = self.spot.further(at).part::<2>() {
            to.set::<0, 2>(bytes);
        }
    }
}
