//! A packet in the driver's memory: the only module that holds a pointer into it.

use core::ptr;

use aya_ebpf::{
    helpers::{bpf_xdp_get_buff_len, bpf_xdp_load_bytes},
    programs::XdpContext,
};
use interdict_ebpf_program::frame::{Frame, Head, Headed, rarely};

use interdict_dns_wire::{Bytes, Round};

use crate::{
    scratch::{forgotten, load, masked},
    unaligned,
};

/// The packet that a program was started for.
pub(crate) struct Packet<'c> {
    ctx: &'c XdpContext,
}

impl<'c> Packet<'c> {
    #[inline(always)]
    pub(crate) const fn new(ctx: &'c XdpContext) -> Self {
        Self { ctx }
    }

    /// Writes an answer over the first bytes of the packet: the way to speak of what the loader runs.
    #[inline(always)]
    pub(crate) fn answer<T: Copy>(&self, answer: T) {
        let start = self.ctx.data();
        if start + size_of::<T>() <= self.ctx.data_end() {
            // SAFETY: the bytes from `start` on lie inside the packet, as just checked.
            unsafe { ptr::write_unaligned(start as *mut T, answer) }
        }
    }

    /// Reads bytes that the driver put into another buffer than the first.
    #[inline(always)]
    fn read_past_first_buffer<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
        let mut bytes = [0; N];
        // SAFETY: the context is the one the kernel started the program with, and the destination holds N bytes.
        let result =
            unsafe { bpf_xdp_load_bytes(self.ctx.ctx, offset as u32, bytes.as_mut_ptr().cast(), N as u32) };
        (result == 0).then_some(bytes)
    }
}

impl Frame for Packet<'_> {
    #[inline(always)]
    fn read<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
        const { assert!(N >= 2, "the verifier does not follow a check for a single byte") };
        let start = self.ctx.data() + offset;
        if start + N > self.ctx.data_end() {
            // A driver that splits headers from data must not be a way around the address verdict. For a frame that
            // truly ends here, the helper says so.
            rarely();
            return self.read_past_first_buffer(offset);
        }
        // SAFETY: the N bytes from `start` on lie inside the packet, as just checked.
        Some(unsafe { unaligned::load(start) })
    }

    #[inline(always)]
    fn length(&self) -> u32 {
        // SAFETY: the context is the one the kernel started the program with.
        unsafe { bpf_xdp_get_buff_len(self.ctx.ctx) as u32 }
    }

    #[inline(always)]
    fn interface(&self) -> u32 {
        self.ctx.ingress_ifindex() as u32
    }
}

impl Headed for Packet<'_> {
    #[inline(always)]
    fn head<const BYTES: usize>(&self) -> Option<impl Head<BYTES>> {
        let start = self.ctx.data();
        (start + BYTES <= self.ctx.data_end()).then_some(First::<BYTES> { start })
    }
}

/// The first bytes of a packet, which are known to be there.
#[derive(Clone, Copy)]
struct First<const BYTES: usize> {
    start: usize,
}

impl<const BYTES: usize> Head<BYTES> for First<BYTES> {
    #[inline(always)]
    fn get<const AT: usize, const N: usize>(self) -> [u8; N] {
        const { assert!(AT + N <= BYTES) };
        // SAFETY: so many bytes from the start on lie inside the packet, as was checked.
        unsafe { unaligned::load(self.start + AT) }
    }
}

/// A message in the driver's memory, of which names of usual length are read: with up to [`ROUNDS`] labels, and words of
/// eight bytes. It is read where it is, since to copy it takes as long as to judge it.
pub(crate) struct InPacket<'c> {
    ctx: &'c XdpContext,
    /// Where it begins.
    at: usize,
}

/// Rounds of a loop, which Linux 6.1 goes through one by one when it verifies the program.
const ROUNDS: u32 = 8;

/// Places in the message are masked with this, and so is its own.
const PLACE_MASK: usize = 0x7f;

impl<'c> InPacket<'c> {
    /// The message that begins at this offset, below 128.
    #[inline(always)]
    pub(crate) fn at(ctx: &'c XdpContext, at: usize) -> Self {
        Self { ctx, at }
    }
}

impl Bytes for InPacket<'_> {
    const LONGEST_NAME_BYTES: usize = 8 * ROUNDS as usize;

    #[inline(always)]
    fn get<const N: usize>(&self, at: usize) -> [u8; N] {
        let start = self.ctx.data() + masked::<PLACE_MASK>(self.at) + masked::<PLACE_MASK>(at);
        if start + N > self.ctx.data_end() {
            rarely();
            return [0; N];
        }
        // SAFETY: the N bytes from `start` on lie inside the packet, as just checked.
        unsafe { load(start) }
    }

    #[inline(always)]
    fn forget(number: usize) -> usize {
        forgotten(number)
    }

    #[inline(always)]
    fn repeat<R: Round>(_limit: usize, work: &mut R) -> Option<usize> {
        // Not by an iterator, whose closure the compiler makes a function that is called for each round.
        for round in 1..=hidden::<ROUNDS>() {
            if !work.round() {
                return Some(round as usize);
            }
        }
        None
    }
}

/// A number that the verifier knows and the compiler does not, which would write out each round of a loop.
#[cfg(target_arch = "bpf")]
#[inline(always)]
pub(crate) fn hidden<const NUMBER: u32>() -> u64 {
    let number: u64;
    // SAFETY: the instruction changes nothing but its register.
    unsafe {
        core::arch::asm!(
            "{number} = {known}",
            number = out(reg) number,
            known = const NUMBER,
            options(pure, nomem, nostack),
        );
    }
    number
}

#[cfg(not(target_arch = "bpf"))]
pub(crate) fn hidden<const NUMBER: u32>() -> u64 {
    NUMBER.into()
}
