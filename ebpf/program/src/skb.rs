//! A packet in the network stack, for the programs on tcx.

use core::mem::offset_of;

use aya_ebpf::{EbpfContext as _, bindings::__sk_buff, helpers::bpf_skb_load_bytes, programs::TcContext};
use interdict_ebpf_program::frame::{Frame, rarely};

use crate::{maps::BARE, scratch::masked, unaligned::load_at};

const ETHERNET_BYTES: usize = 14;
const ETHERTYPE_OFFSET: usize = 12;
/// Far enough for every header that is read; the verifier follows no packet further than twice that.
const OFFSET_MASK: usize = 0x7fff;

const LENGTH: usize = offset_of!(__sk_buff, len);
const PROTOCOL: usize = offset_of!(__sk_buff, protocol);
const IFINDEX: usize = offset_of!(__sk_buff, ifindex);
const DATA: usize = offset_of!(__sk_buff, data);
const DATA_END: usize = offset_of!(__sk_buff, data_end);
/// The mark of a packet.
pub(crate) const MARK: usize = offset_of!(__sk_buff, mark);
/// The interface that a packet came in by; 0 for one of this machine's.
pub(crate) const INGRESS_IFINDEX: usize = offset_of!(__sk_buff, ingress_ifindex);

/// A field of what the kernel says of a packet.
///
/// One load from the pointer that the program was started with: the compiler would first add to it, which the verifier
/// refuses.
#[cfg(target_arch = "bpf")]
#[inline(always)]
pub(crate) fn field<const OFFSET: usize>(ctx: &TcContext) -> usize {
    let value: u64;
    // SAFETY: the context is the one the kernel started the program with. The instruction writes nothing but its register.
    unsafe {
        core::arch::asm!(
            "{value} = *(u32 *)({ctx} + {offset})",
            ctx = in(reg) ctx.skb.skb,
            value = out(reg) value,
            offset = const OFFSET,
            options(readonly, nostack),
        );
    }
    value as usize
}

#[cfg(not(target_arch = "bpf"))]
pub(crate) fn field<const OFFSET: usize>(ctx: &TcContext) -> usize {
    // SAFETY: the context is the one the kernel started the program with.
    unsafe { ctx.skb.skb.cast::<u8>().add(OFFSET).cast::<u32>().read() as usize }
}

/// The packet that a program was started for.
///
/// An outer VLAN tag is kept beside the packet here, and so is not in it. A device without Ethernet, such as a tunnel,
/// has packets that begin with the IP header; they are read as if they had a header of Ethernet.
pub(crate) struct Skb<'c> {
    ctx: &'c TcContext,
    /// Bytes of an Ethernet header that is not there.
    missing: usize,
}

impl<'c> Skb<'c> {
    #[inline(always)]
    pub(crate) fn new(ctx: &'c TcContext) -> Self {
        let interface = field::<IFINDEX>(ctx) as u32;
        let is_bare = BARE.get(interface).is_some_and(|&bare| bare != 0);
        Self { ctx, missing: if is_bare { ETHERNET_BYTES } else { 0 } }
    }

    /// The type of what follows the Ethernet header that is not there.
    #[inline(always)]
    fn protocol<const N: usize>(&self) -> [u8; N] {
        // The field is in network byte order.
        let [a, b, ..] = field::<PROTOCOL>(self.ctx).to_ne_bytes();
        let mut bytes = [0; N];
        (bytes[0], bytes[1]) = (a, b);
        bytes
    }
}

impl Frame for Skb<'_> {
    #[inline(always)]
    fn read<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
        const { assert!(N >= 2, "the verifier does not follow a check for a single byte") };
        if self.missing != 0 && offset <= ETHERTYPE_OFFSET {
            // Nobody asks for the addresses that stand in front of it.
            return Some(self.protocol());
        }
        let offset = masked::<OFFSET_MASK>(offset.wrapping_sub(self.missing));
        let start = field::<DATA>(self.ctx) + offset;
        if start + N <= field::<DATA_END>(self.ctx) {
            // SAFETY: the N bytes from `start` on lie inside the packet, as just checked.
            return Some(unsafe { load_at::<0, N>(start) });
        }
        rarely();
        let mut bytes = [0; N];
        // SAFETY: the context is the one the kernel started the program with, and the destination holds N bytes.
        let result = unsafe {
            bpf_skb_load_bytes(self.ctx.as_ptr().cast(), offset as u32, bytes.as_mut_ptr().cast(), N as u32)
        };
        (result == 0).then_some(bytes)
    }

    #[inline(always)]
    fn length(&self) -> u32 {
        field::<LENGTH>(self.ctx) as u32 + self.missing as u32
    }

    #[inline(always)]
    fn interface(&self) -> u32 {
        field::<IFINDEX>(self.ctx) as u32
    }
}
