//! Answering a DNS question in the place of the resolver that it was sent to.

use aya_ebpf::{
    btf_maps::lpm_trie::Key,
    helpers::{bpf_xdp_adjust_head, bpf_xdp_adjust_tail, bpf_xdp_load_bytes},
    programs::XdpContext,
};
use interdict_dns_wire::{
    Bytes, HEADER_BYTES, LONGEST_ANSWER_BYTES, LONGEST_QUESTION_END, OPT_BYTES, Question,
};
use interdict_ebpf_program::{
    frame::{Frame as _, opaque},
    ip::{IPV4_HEADER_BYTES, IPV6_HEADER_BYTES, Version},
    lan::Outbound,
    query::{self, Asked, Names, Wish},
    reject::is_one_machine,
    transport::{TCP_ACK, TCP_FLAGS_OFFSET, TCP_SYN, TCP_URG},
    verdict::Policy as _,
};
use interdict_ebpf_shared::{
    Address,
    contact::{ContactKey, Event, Hook, Remote},
    count::{Exit, Unjudged},
    name::NameEntry,
    policy::Verdict,
    query::Interface,
};

use crate::{
    clock::now_ns,
    generation::{Generation, agent_lives, client_qps, is_ours, is_served},
    maps::{CLIENTS, INTERFACES, RATES},
    packet::{InPacket, Packet},
    rates, record,
    scratch::{HEAD_BYTES, HEAD_MASK, Lengths, Loaded, MESSAGE_MASK, Message, Place, length, masked},
    seats,
    unaligned::{self, load8, store8},
};

const UDP_HEADER_BYTES: usize = 8;
/// As much of a message as is read: the question, and an OPT record without its options.
const READ_BYTES: usize = LONGEST_QUESTION_END + OPT_BYTES;
pub(crate) const HOP_LIMIT: u8 = 64;
/// In the first byte of an Ethernet address. Nobody sends from that of a group (IEEE 802.3, §3.2.3): the answer would go to
/// all of it.
pub(crate) const GROUP_ADDRESS: u8 = 1;

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
    /// It is not as plain a datagram as usual: only the agent can tell.
    Odd,
    /// It could not be read where it is.
    Unread,
    /// Its rule's answer is to be given.
    Answer,
    /// The frame is the answer now, to be sent back.
    Answered,
    /// It is dropped, for this reason.
    Dropped(Exit),
    /// Only the agent can tell.
    Agent,
    /// Only the agent can tell, and the name lies below one that is blocked, or cannot be read here.
    AgentOrDrop,
}

/// What is to be done about a datagram for port 53.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Work {
    /// It is judged. What is asked, if it is to be answered, stands in the scratch memory then.
    Judge,
    /// Its frame is turned into the answer: it was judged.
    Answer,
    /// Both.
    JudgeAndAnswer,
}

/// Judges a UDP datagram for port 53 where it is, or answers it.
///
/// Not inlined, like the rest: each has a part of the stack while it runs. But one function for both: a return takes as long
/// as to look for a name.
#[inline(never)]
pub(crate) fn question(
    ctx: &XdpContext,
    generation: &Generation,
    outbound: &Outbound,
    place: Place,
    work: Work,
) -> Step {
    let step = if work == Work::Answer { Step::Answer } else { judge(ctx, generation, outbound, place) };
    match step {
        Step::Answer if work != Work::Judge => answer(ctx, generation, outbound, place),
        step => step,
    }
}

#[inline(always)]
fn judge(ctx: &XdpContext, generation: &Generation, outbound: &Outbound, place: Place) -> Step {
    let Some(lengths) = measure(ctx, outbound) else {
        return Step::Odd;
    };
    place.keep_lengths(lengths);
    let message = InPacket::at(ctx, lengths.header_bytes);
    step(wish(&message, lengths.message_bytes, generation, outbound.client, place))
}

/// Judges a datagram whose name is too long for that, or which is odd, in a copy.
#[inline(never)]
pub(crate) fn judge_copy(
    ctx: &XdpContext,
    generation: &Generation,
    outbound: &Outbound,
    place: Place,
) -> Step {
    let Some(loaded) = load(ctx, place) else {
        return Step::AgentOrDrop;
    };
    match step(judge_message(generation, outbound, place, loaded.message_bytes)) {
        Step::Unread => Step::AgentOrDrop,
        step => step,
    }
}

#[inline(always)]
const fn step(wish: Wish) -> Step {
    match wish {
        Wish::Nothing => Step::Nothing,
        Wish::Opcode => Step::Opcode,
        Wish::Unlisted => Step::Unlisted,
        Wish::Unread => Step::Unread,
        Wish::Agent => Step::Agent,
        Wish::AgentOrDrop => Step::AgentOrDrop,
        Wish::Answer => Step::Answer,
    }
}

/// What the policy wants of the message in the scratch memory.
#[inline(never)]
fn judge_message(generation: &Generation, outbound: &Outbound, place: Place, message_bytes: usize) -> Wish {
    wish(&place.message(), message_bytes, generation, outbound.client, place)
}

#[inline(always)]
fn wish<M: Bytes>(
    message: &M,
    message_bytes: usize,
    generation: &Generation,
    client: Address,
    place: Place,
) -> Wish {
    query::judge(message, message_bytes, place.asked(), &InKernel { generation, place }, |rule| {
        generation.is_exempt(rule, client)
    })
}

/// The names of a generation, and the memory to look for one in.
struct InKernel<'g> {
    generation: &'g Generation,
    place: Place,
}

impl Names for InKernel<'_> {
    #[inline(always)]
    fn find<M: Bytes + ?Sized>(&self, message: &M, question: &Question) -> Option<NameEntry> {
        self.generation.name(message, question, self.place)
    }
}

/// A segment of a TCP connection to a resolver.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Segment {
    /// It ends inside its header, or says of itself what cannot be.
    Broken,
    /// It opens a connection.
    Opening,
    /// It carries no data.
    Bare,
    /// It carries data.
    WithData,
    /// The agent is dead, and it carries nothing, or one question that may pass.
    MayPass,
    /// The agent is dead, and it carries something else.
    MayNot,
}

/// Tells what a TCP segment is. While the agent is dead there is nobody to read a stream: then each is judged by itself.
#[inline(never)]
pub(crate) fn judge_segment(
    ctx: &XdpContext,
    generation: &Generation,
    outbound: &Outbound,
    place: Place,
) -> Segment {
    let Some((flags, data_at, data_bytes)) = data(ctx, outbound) else {
        return Segment::Broken;
    };
    match (agent_lives(), data_bytes) {
        (true, _) if flags & (TCP_SYN | TCP_ACK) == TCP_SYN => Segment::Opening,
        (true, 0) => Segment::Bare,
        // What is urgent is taken out of the stream: the resolver would read another message.
        (false, _) if flags & TCP_URG != 0 => Segment::MayNot,
        (true, _) => Segment::WithData,
        (false, 0) => Segment::MayPass,
        (false, _) if copy_message(ctx, place, data_at, data_bytes) => {
            let wish = judge_message(generation, outbound, place, data_bytes - STREAM_LENGTH_BYTES);
            let blocks = generation.egress().plain.state.verdict() == Some(Verdict::Block);
            match wish {
                Wish::Opcode | Wish::Agent => Segment::MayPass,
                Wish::Unlisted if !blocks => Segment::MayPass,
                _ => Segment::MayNot,
            }
        }
        (false, _) => Segment::MayNot,
    }
}

/// The flags of a TCP segment, where its data begin, and how many bytes they are.
#[inline(always)]
pub(crate) fn data(ctx: &XdpContext, outbound: &Outbound) -> Option<(u8, usize, usize)> {
    let packet = Packet::new(ctx);
    let (ip, at) = (opaque(outbound.ip.offset()), opaque(outbound.transport.at));
    let ip_bytes = match outbound.ip.version() {
        Version::V4 => usize::from(u16::from_be_bytes(packet.read(ip + 2)?)),
        Version::V6 => usize::from(u16::from_be_bytes(packet.read(ip + 4)?)) + IPV6_HEADER_BYTES,
    };
    let [length, flags] = packet.read(at + TCP_FLAGS_OFFSET)?;
    let data_at = at + usize::from(length >> 4) * 4;
    Some((flags, data_at, (ip + ip_bytes).checked_sub(data_at)?))
}

/// Bytes of the length in front of a message in a stream (RFC 1035, §4.2.2).
const STREAM_LENGTH_BYTES: usize = 2;

/// Copies the message that is the data of a segment into the scratch memory. `false` where the data are not one message,
/// whole and alone.
#[inline(always)]
fn copy_message(ctx: &XdpContext, place: Place, data_at: usize, data_bytes: usize) -> bool {
    let at = opaque(data_at);
    let Some(said) = Packet::new(ctx).read(at) else {
        return false;
    };
    let message_bytes = usize::from(u16::from_be_bytes(said));
    if message_bytes + STREAM_LENGTH_BYTES != data_bytes || message_bytes < HEADER_BYTES {
        return false;
    }
    let read = if message_bytes < READ_BYTES { message_bytes } else { READ_BYTES };
    let (from, to) = ((at + STREAM_LENGTH_BYTES) as u32, place.message().start());
    // SAFETY: the scratch memory has room for as much of a message as is read.
    unsafe { bpf_xdp_load_bytes(ctx.ctx, from, to, length(read)) == 0 }
}

/// Turns the frame of a question that was judged into the answer.
#[inline(always)]
fn answer(ctx: &XdpContext, generation: &Generation, outbound: &Outbound, place: Place) -> Step {
    let Some(loaded) = load(ctx, place) else {
        return Step::AgentOrDrop;
    };
    let asked: &Asked = place.asked();
    // The agent answers them: with a cookie, or the server's name.
    let has_options = asked.edns.is_some() && asked.question.has_options(&place.message());
    if has_options && is_served(outbound.remote) && agent_lives() {
        return Step::AgentOrDrop;
    }
    let now_ns = now_ns();
    // From an interface that is not there no answer would get out; the agent's does.
    let (Some(interface), Some(answer)) =
        (INTERFACES.get(ctx.ingress_ifindex() as u32), generation.answer(asked.entry.rule()))
    else {
        return Step::AgentOrDrop;
    };
    if interface.answers != Interface::ANSWERS {
        if interface.answers == Interface::HIDES_TAGS {
            record::count_unjudged(Unjudged::VlanOffload);
        }
        return Step::AgentOrDrop;
    }
    let client = seats::client(outbound.client);
    if let Err(exit) = may_answer(interface, &loaded, outbound, client, now_ns) {
        return Step::Dropped(exit);
    }
    place.keep_event(event(ctx, &loaded, generation, outbound, asked.entry, now_ns));
    record::record_query(place.event(), client, &asked.question, loaded.place.message());
    if answer.0.is_silent() {
        return Step::Dropped(Exit::QuerySilenced);
    }
    let len = write_message(&loaded, answer, asked);
    match send_back(ctx, &loaded, outbound, len) {
        true => Step::Answered,
        false => Step::Dropped(Exit::QueryNoRoom),
    }
}

/// The lengths of a datagram. `None` for one that is not as plain as usual: with IP options or extension headers, a
/// fragment, or with lengths that do not fit together, or not all in the driver's first buffer.
#[inline(always)]
fn measure(ctx: &XdpContext, outbound: &Outbound) -> Option<Lengths> {
    let packet = Packet::new(ctx);
    let at = masked::<HEAD_MASK>(outbound.ip.offset());
    let is_v4 = outbound.ip.version() == Version::V4;
    let (ip_bytes, length_at, beside_length) =
        if is_v4 { (IPV4_HEADER_BYTES, 2, 0) } else { (IPV6_HEADER_BYTES, 4, IPV6_HEADER_BYTES) };
    let udp = at + ip_bytes;
    if outbound.transport.at != udp || outbound.transport.fragment || outbound.transport.unread.is_some() {
        return None;
    }
    let header_bytes = udp + UDP_HEADER_BYTES;
    if header_bytes > HEAD_BYTES {
        return None;
    }
    let [length_high, length_low, sum @ ..]: [u8; 4] = packet.read(udp + 4)?;
    let udp_bytes = usize::from(u16::from_be_bytes([length_high, length_low]));
    let said_bytes = usize::from(u16::from_be_bytes(packet.read(at + length_at)?)) + beside_length;
    let frame_bytes = ctx.data_end() - ctx.data();
    let fits = said_bytes == ip_bytes + udp_bytes && at + said_bytes <= frame_bytes;
    // IPv6 has no datagrams without a checksum (RFC 8200, §8.1).
    let is_summed = is_v4 || sum != [0, 0];
    if !fits || !is_summed || udp_bytes < UDP_HEADER_BYTES + HEADER_BYTES {
        return None;
    }
    Some(Lengths { header_bytes, frame_bytes, message_bytes: udp_bytes - UDP_HEADER_BYTES })
}

/// What is copied at once. The shortest frame with a question is longer, and most have two of them: so a copy has no jump that
/// a processor cannot foresee.
const CHUNK_BYTES: usize = 56;

/// Copies a chunk, word by word: calls of helpers would take longer.
///
/// # Safety
///
/// Both must lie inside the packet, as just compared with its end, or in the scratch memory.
#[inline(always)]
unsafe fn copy<const BYTES: usize>(from: usize, to: usize) {
    const { assert!(BYTES.is_multiple_of(8)) };
    for at in (0..BYTES).step_by(8) {
        // SAFETY: as the caller promises.
        unsafe { store8(to + at, load8(from + at)) };
    }
}

/// Copies the headers and the question of a datagram whose lengths are known into the scratch memory. `None` if it is not
/// all in the driver's first buffer, which was measured, or too short for a question.
#[inline(always)]
fn load(ctx: &XdpContext, place: Place) -> Option<Loaded> {
    const CHUNKS: usize = (HEAD_BYTES + READ_BYTES) / CHUNK_BYTES;
    let loaded = place.loaded();
    let wanted = loaded.header_bytes + READ_BYTES;
    let read = if loaded.frame_bytes < wanted { loaded.frame_bytes } else { wanted };
    let (frame, end) = (ctx.data(), ctx.data_end());
    let to = place.start(loaded.header_bytes) as usize;
    let mut at = 0;
    for _ in 0..CHUNKS {
        if at + CHUNK_BYTES > read || frame + at + CHUNK_BYTES > end {
            break;
        }
        // SAFETY: the chunk lies inside the packet, as just checked, and the scratch memory has room for it.
        unsafe { copy::<CHUNK_BYTES>(frame + at, to + at) };
        at += CHUNK_BYTES;
    }
    // The last one, of which a part is there already.
    let last = masked::<{ 2 * (MESSAGE_MASK + 1) - 1 }>(read.checked_sub(CHUNK_BYTES)?);
    if frame + last + CHUNK_BYTES > end {
        return None;
    }
    // SAFETY: as above.
    unsafe { copy::<CHUNK_BYTES>(frame + last, to + masked::<MESSAGE_MASK>(last)) };
    Some(loaded)
}

/// Whether the client with this tag is answered, on this interface, now.
#[inline(always)]
fn may_answer(
    interface: &Interface,
    loaded: &Loaded,
    outbound: &Outbound,
    client: u64,
    now_ns: u64,
) -> Result<(), Exit> {
    let [to, from]: [[u8; 6]; 2] = addresses(loaded);
    if to != interface.mac || from[0] & GROUP_ADDRESS != 0 || !can_be_answered(outbound) {
        return Err(Exit::QuerySource);
    }
    let admit = || {
        if CLIENTS.get(&Key::new(128, outbound.client.words())).is_none() {
            return Err(Exit::QueryStranger);
        }
        if is_ours(outbound.client) { Err(Exit::QuerySource) } else { Ok(()) }
    };
    match rates::count(&RATES, client, now_ns, client_qps(), admit)? {
        true => Ok(()),
        false => Err(Exit::QueryTooFast),
    }
}

/// The first bytes of the frame: to whom, and from whom.
#[inline(always)]
fn addresses(loaded: &Loaded) -> [[u8; 6]; 2] {
    let start = loaded.place.start(loaded.header_bytes) as usize;
    // SAFETY: the headers are in the scratch memory, from here on.
    unsafe { [unaligned::load(start), unaligned::load(start + 6)] }
}

/// Whether both addresses are of one machine each, so that an answer can be sent from the one to the other, and there is a
/// port to send it to.
#[inline(always)]
fn can_be_answered(outbound: &Outbound) -> bool {
    let is_one = |address| is_one_machine(outbound.ip.version(), address);
    is_one(outbound.client) && is_one(outbound.remote) && outbound.transport.source != [0, 0]
}

/// The record of the question.
#[inline(always)]
fn event(
    ctx: &XdpContext,
    loaded: &Loaded,
    generation: &Generation,
    outbound: &Outbound,
    entry: NameEntry,
    time_ns: u64,
) -> Event {
    let contact = ContactKey {
        client: outbound.client,
        generation: generation.number(),
        rule: entry.rule(),
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
fn write_message(loaded: &Loaded, answer: &interdict_ebpf_shared::query::Answer, asked: &Asked) -> usize {
    let Asked { question, edns, entry } = *asked;
    // The SOA's owner is the end of the question's name, root included; without one it is the whole name.
    let owner = match entry.owner_bytes() {
        0 => HEADER_BYTES,
        bytes => HEADER_BYTES + question.name_bytes - 1 - bytes,
    };
    let mut message: Message = loaded.place.message();
    answer.0.answer(&mut message, &question, edns, owner)
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
    let start = loaded.place.start(loaded.header_bytes);
    let [to, from] = addresses(loaded);
    // SAFETY: the headers are in the scratch memory, from here on.
    unsafe {
        unaligned::store(start as usize, from);
        unaligned::store(start as usize + 6, to);
    }
    // The sum goes over chunks; what stands behind the message must not count.
    interdict_dns_wire::Memory::set_words(&mut loaded.place.message(), message_bytes, &[0; CHUNK_BYTES / 8]);
    let pseudo = u64::from((17_u16).to_be()) + u64::from((udp_bytes as u16).to_be());
    let answer =
        Answer { bytes: loaded.header_bytes + message_bytes, summed_before: addresses_before, pseudo };
    resize(ctx, loaded.frame_bytes, answer.bytes) && store(ctx, loaded, &answer)
}

/// A frame in the scratch memory that is to be sent.
struct Answer {
    bytes: usize,
    /// How far in front of the message the bytes begin that the datagram's checksum goes over.
    summed_before: usize,
    /// The sum of what else it goes over.
    pseudo: u64,
}

/// Copies an answer into its frame, and enters its checksum. `false` if the frame is too short for it.
#[inline(always)]
fn store(ctx: &XdpContext, loaded: &Loaded, answer: &Answer) -> bool {
    const CHUNKS: usize = (HEAD_BYTES + LONGEST_ANSWER_BYTES) / CHUNK_BYTES;
    /// No shorter than what the sum does not go over: behind four tags, Ethernet and a part of the IPv4 header.
    const HEAD_COPIED_BYTES: usize = 48;
    let from = loaded.place.start(loaded.header_bytes) as usize;
    let (frame, end) = (ctx.data(), ctx.data_end());

    let last = masked::<MESSAGE_MASK>(answer.bytes - CHUNK_BYTES);
    if frame + last + CHUNK_BYTES > end || frame + HEAD_COPIED_BYTES > end {
        return false;
    }
    // SAFETY: both lie inside the packet, as just checked, and inside the scratch memory.
    unsafe {
        copy::<HEAD_COPIED_BYTES>(from, frame);
        copy::<CHUNK_BYTES>(from + last, frame + last);
    }

    let first = masked::<HEAD_MASK>(loaded.header_bytes - answer.summed_before);
    let summed = answer.bytes - first;
    let (mut sum, mut at) = (answer.pseudo, 0);
    for _ in 0..CHUNKS {
        if at + CHUNK_BYTES > summed || frame + first + at + CHUNK_BYTES > end {
            break;
        }
        let (from, to) = (from + first + at, frame + first + at);
        for at in (0..CHUNK_BYTES).step_by(8) {
            // SAFETY: as above.
            let word = unsafe { load8(from + at) };
            // SAFETY: as above.
            unsafe { store8(to + at, word) };
            sum = add(sum, word);
        }
        at += CHUNK_BYTES;
    }
    let rest = from + masked::<MESSAGE_MASK>(first + at);
    // The rest, with what does not count behind it.
    for at in (0..CHUNK_BYTES).step_by(8) {
        // SAFETY: a masked place is in the scratch memory, and what follows it so far.
        sum = add(sum, unsafe { load8(rest + at) });
    }

    let sum = match fold(sum) {
        // Zero would say that there is no sum (RFC 768).
        0 => 0xffff,
        sum => sum,
    };
    let checksum = masked::<HEAD_MASK>(loaded.header_bytes - 2);
    if frame + checksum + 2 > end {
        return false;
    }
    // SAFETY: the two bytes lie inside the packet, as just checked.
    unsafe { unaligned::store(frame + checksum, sum.to_ne_bytes()) };
    true
}

/// A sum of which [`fold`] makes that of 16 bits each: of up to a thousand million words. In halves, since to carry would be a
/// jump that nobody can foresee.
#[inline(always)]
pub(crate) const fn add(sum: u64, word: u64) -> u64 {
    sum + (word & 0xffff_ffff) + (word >> 32)
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
pub(crate) const fn fold(sum: u64) -> u16 {
    let sum = (sum >> 32) + (sum & 0xffff_ffff);
    let sum = (sum >> 32) + (sum & 0xffff_ffff);
    let sum = (sum >> 16) + (sum & 0xffff);
    let sum = (sum >> 16) + (sum & 0xffff);
    let sum = (sum >> 16) + (sum & 0xffff);
    !(sum as u16)
}

/// Gives the frame another length. It grows in front, where every driver leaves room; behind it there may be none.
#[inline(always)]
pub(crate) fn resize(ctx: &XdpContext, from: usize, to: usize) -> bool {
    let more = to as i32 - from as i32;
    // SAFETY: the context is the one the kernel started the program with, and no pointer into the packet is used again.
    let result = unsafe {
        if more > 0 { bpf_xdp_adjust_head(ctx.ctx, -more) } else { bpf_xdp_adjust_tail(ctx.ctx, more) }
    };
    result == 0
}
