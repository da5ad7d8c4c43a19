//! What all frames have in common that are sent back where they came from.

use aya_ebpf::{
    helpers::{bpf_xdp_adjust_head, bpf_xdp_adjust_tail},
    programs::XdpContext,
};

/// The hop limit, or time to live, of packets that we send.
pub(crate) const HOP_LIMIT: u8 = 64;

/// Whether a frame whose first eight bytes are this word, as they lie in memory, says that it comes from a group. Nobody sends
/// from there (IEEE 802.3, §3.2.3): the answer would go to all of it.
#[inline(always)]
pub(crate) const fn is_from_group(first: u64) -> bool {
    first.to_le() >> 48 & 1 != 0
}

/// Gives the frame another length. It grows in front, where every driver leaves room; behind it there may be none.
///
/// Of a frame in several buffers, which is only answered where the datagram ends in the first, more is left or taken off behind
/// it: bytes that belong to no packet.
#[inline(always)]
pub(crate) fn resize(ctx: &XdpContext, from: usize, to: usize) -> bool {
    let more = to as i32 - from as i32;
    if more == 0 {
        return true;
    }
    // SAFETY: the context is the one the kernel started the program with, and no pointer into the packet is used again.
    let result = unsafe {
        if more > 0 { bpf_xdp_adjust_head(ctx.ctx, -more) } else { bpf_xdp_adjust_tail(ctx.ctx, more) }
    };
    result == 0
}
