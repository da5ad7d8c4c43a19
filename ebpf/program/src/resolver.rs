//! DNS questions: what the policy says of each, whichever resolver it was sent to.

use aya_ebpf::{helpers::bpf_xdp_load_bytes, programs::XdpContext};
use interdict_dns_wire::{Bytes, HEADER_BYTES, LONGEST_QUESTION_END, OPT_BYTES, Question};
use interdict_ebpf_program::{
    frame::{Frame as _, opaque},
    ip::{IPV4_HEADER_BYTES, IPV6_HEADER_BYTES, Version},
    lan::Outbound,
    query::{self, Names, Wish},
    transport::{TCP_ACK, TCP_FLAGS_OFFSET, TCP_SYN, TCP_URG},
    verdict::Policy as _,
};
use interdict_ebpf_shared::{Address, name::NameEntry, policy::Verdict};

use crate::{
    answer::answer,
    fate::Step,
    generation::{Generation, agent_lives},
    packet::{InPacket, Packet},
    scratch::{HEAD_BYTES, HEAD_MASK, Lengths, Place, length, masked},
};

const UDP_HEADER_BYTES: usize = 8;
/// As much of a message as is read: the question, and an OPT record without its options.
const READ_BYTES: usize = LONGEST_QUESTION_END + OPT_BYTES;

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
    let Some(message_bytes) = copy(ctx, place) else {
        return Step::AgentOrDrop;
    };
    match step(judge_message(generation, outbound, place, message_bytes)) {
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

/// Copies the beginning of a message whose lengths are known into the scratch memory, and returns the message's length.
#[inline(always)]
fn copy(ctx: &XdpContext, place: Place) -> Option<usize> {
    let Lengths { header_bytes, message_bytes, .. } = place.lengths();
    let read = if message_bytes < READ_BYTES { message_bytes } else { READ_BYTES };
    let to = place.message().start();
    // SAFETY: the scratch memory has room for as much of a message as is read.
    let result = unsafe { bpf_xdp_load_bytes(ctx.ctx, header_bytes as u32, to, length(read)) };
    (result == 0).then_some(message_bytes)
}
