//! A packet in the driver's memory, and parts of it that are known to be there.

use core::ptr;

use aya_ebpf::{
    helpers::{bpf_xdp_get_buff_len, bpf_xdp_load_bytes},
    programs::XdpContext,
};
use interdict_ebpf_program::frame::{Frame, Head, Headed, rarely};

use interdict_dns_wire::{Bytes, Round};

use crate::{
    scratch::{forgotten, masked},
    unaligned::{load_at, load8, store_at, store8},
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
        Some(unsafe { load_at::<0, N>(start) })
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
        (start + BYTES <= self.ctx.data_end()).then_some(Part::<BYTES> { start })
    }
}

/// Bytes of a packet that are known to be there.
#[derive(Clone, Copy)]
pub(crate) struct Part<const BYTES: usize> {
    start: usize,
}

impl<const BYTES: usize> Head<BYTES> for Part<BYTES> {
    #[inline(always)]
    fn get<const AT: usize, const N: usize>(self) -> [u8; N] {
        const { assert!(AT + N <= BYTES) };
        // SAFETY: so many bytes from the start on lie inside the packet, as was checked.
        unsafe { load_at::<AT, N>(self.start) }
    }
}

impl<const BYTES: usize> Part<BYTES> {
    /// Writes over the `N` bytes at `AT`.
    #[inline(always)]
    pub(crate) fn set<const AT: usize, const N: usize>(self, bytes: [u8; N]) {
        const { assert!(AT + N <= BYTES) };
        // SAFETY: as in `get`.
        unsafe { store_at::<AT, N>(self.start, bytes) }
    }

    /// The eight bytes at `AT` as a word.
    #[inline(always)]
    pub(crate) fn word<const AT: usize>(self) -> u64 {
        const { assert!(AT + 8 <= BYTES) };
        // SAFETY: as in `get`.
        unsafe { load8::<AT>(self.start) }
    }

    /// Writes over them.
    #[inline(always)]
    pub(crate) fn set_word<const AT: usize>(self, word: u64) {
        const { assert!(AT + 8 <= BYTES) };
        // SAFETY: as in `get`.
        unsafe { store8::<AT>(self.start, word) }
    }
}

/// A place in a packet, from which on parts of it are looked at. Each is compared with the packet's end.
#[derive(Clone, Copy)]
pub(crate) struct Spot {
    start: usize,
    end: usize,
}

impl Spot {
    /// That at an offset below 512.
    #[inline(always)]
    pub(crate) fn at(ctx: &XdpContext, offset: usize) -> Self {
        Self { start: ctx.data() + masked::<SPOT_MASK>(offset), end: ctx.data_end() }
    }

    /// That so many bytes, fewer than 512, behind it.
    #[inline(always)]
    pub(crate) fn further(self, bytes: usize) -> Self {
        Self { start: self.start + masked::<SPOT_MASK>(bytes), ..self }
    }

    /// That `BYTES` behind it.
    #[inline(always)]
    pub(crate) fn next<const BYTES: usize>(self) -> Self {
        Self { start: behind::<BYTES>(self.start), ..self }
    }

    /// The bytes that begin there.
    #[inline(always)]
    pub(crate) fn part<const BYTES: usize>(self) -> Option<Part<BYTES>> {
        (self.start + BYTES <= self.end).then_some(Part { start: self.start })
    }
}

/// Offsets of spots are masked with this.
const SPOT_MASK: usize = 0x1ff;

/// A message in the driver's memory, of which names of usual length are read: with up to [`ROUNDS`] labels, and words of
/// eight bytes. It is read where it is, since to copy it takes as long as to judge it.
pub(crate) struct InPacket(Spot);

/// Rounds of a loop, which Linux 6.1 goes through one by one when it verifies the program.
const ROUNDS: u32 = 8;

/// Places in the message are masked with this.
const PLACE_MASK: usize = 0x7f;

impl InPacket {
    /// The message that begins at this offset, below 512.
    #[inline(always)]
    pub(crate) fn at(ctx: &XdpContext, at: usize) -> Self {
        Self(Spot::at(ctx, at))
    }
}

impl Bytes for InPacket {
    const LONGEST_NAME_BYTES: usize = 8 * ROUNDS as usize;

    #[inline(always)]
    fn get<const N: usize>(&self, at: usize) -> [u8; N] {
        let start = self.0.start + masked::<PLACE_MASK>(at);
        if start + N > self.0.end {
            rarely();
            return [0; N];
        }
        // SAFETY: the N bytes from `start` on lie inside the packet, as just checked.
        unsafe { load_at::<0, N>(start) }
    }

    #[inline(always)]
    fn forget(number: usize) -> usize {
        forgotten(number)
    }

    #[inline(always)]
    fn variable(number: usize) -> usize {
        number
    }

    /// Which number it is, is a jump here, and a processor goes on with the guess.
    #[inline(always)]
    fn foreseen(number: usize, guess: usize) -> usize {
        if number == guess { behind::<0>(guess) } else { number }
    }

    #[inline(always)]
    fn repeat<R: Round>(_limit: usize, work: &mut R) -> Option<usize> {
        // Not by an iterator, whose closure the compiler makes a function that is called for each round, and not by an
        // inclusive range, which asks at each whether it has ended.
        let mut rounds = 0;
        while rounds < hidden::<ROUNDS>() {
            rounds += 1;
            if !work.round() {
                return Some(rounds as usize);
            }
        }
        None
    }
}

/// An address so far behind another, in a way that the compiler does not see through: of a loop over addresses it would take the
/// steps from the packet's end instead, which the verifier does not allow.
#[cfg(target_arch = "bpf")]
#[inline(always)]
fn behind<const BYTES: usize>(mut address: usize) -> usize {
    // SAFETY: the instruction changes nothing but its register.
    unsafe {
        core::arch::asm!(
            "{address} += {bytes}",
            address = inout(reg) address,
            bytes = const BYTES,
            options(pure, nomem, nostack),
        );
    }
    address
}

#[cfg(not(target_arch = "bpf"))]
fn behind<const BYTES: usize>(address: usize) -> usize {
    address + BYTES
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
