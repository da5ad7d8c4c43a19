//! Memory of a CPU for what is known of a packet, for a copy of a message that cannot be judged where it is, and for a notice that
//! is put together: a stack of 512 bytes has no room for any of it.

use core::{ffi::c_void, hint::black_box, mem::MaybeUninit, ptr};

use aya_ebpf::helpers::bpf_loop;
use interdict_dns_wire::{Bytes, Memory, Round};
use interdict_ebpf_program::{lan::Outbound, query::Asked, tls::Hello};
use interdict_ebpf_shared::{contact::Event, name::SEARCH_BYTES, policy::Verdict};

use crate::{
    maps::SCRATCH,
    unaligned::{load_at, store_at},
};

/// Room for the headers in front of a message, which end where it begins: Ethernet, four VLAN tags, IPv6, UDP are 78.
pub(crate) const HEAD_BYTES: usize = 80;

/// Places in the head are masked with this.
pub(crate) const HEAD_MASK: usize = 0x7f;

/// Places in a message are masked with this: as much as is read of one, and as a notice has, fits.
pub(crate) const MESSAGE_MASK: usize = 0x1ff;

/// What a place may be followed by: the headers of an ICMP message, in front of what it quotes.
const BEHIND_BYTES: usize = 128;

/// Places in the memory of a search are masked with this.
const SEARCH_MASK: usize = 0xff;
const _: () = assert!(SEARCH_BYTES == SEARCH_MASK + 1);

/// How long the parts of a datagram are.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct Lengths {
    /// Everything in front of the message.
    pub(crate) header_bytes: usize,
    /// The frame.
    pub(crate) frame_bytes: usize,
    /// The message, as the datagram's header says.
    pub(crate) message_bytes: usize,
}

/// One for each CPU. What every answered question needs comes first, in as few cache lines as can be.
#[repr(C)]
pub(crate) struct Scratch {
    outbound: MaybeUninit<Outbound>,
    lengths: Lengths,
    /// An [`Asked`]. As what it is the kernel would not take it: it knows no Rust enum in a map's value.
    asked: [u64; ASKED_WORDS],
    search: [u8; SEARCH_MASK + 1 + 8],
    event: MaybeUninit<Event>,
    handed_over: [u64; HANDED_OVER_WORDS],
    hello: [u64; HELLO_WORDS],
    head: [u8; HEAD_BYTES],
    message: [u8; MESSAGE_MASK + 1 + BEHIND_BYTES],
}

const HANDED_OVER_WORDS: usize = 4;
const HELLO_WORDS: usize = size_of::<Hello>().div_ceil(8);
const ASKED_WORDS: usize = size_of::<Asked>().div_ceil(8);

/// The scratch memory of the CPU that a program runs on. There is one at a time: XDP programs are not interrupted by
/// each other.
#[derive(Clone, Copy)]
pub(crate) struct Place(*mut Scratch);

impl Place {
    #[inline(always)]
    pub(crate) fn here() -> Option<Self> {
        SCRATCH.get_ptr_mut(0).map(Self)
    }

    /// Puts the headers of the packet here, and takes them as they lie here from now on.
    ///
    /// What lies in a map the verifier knows nothing of. So it verifies what follows once, and not for every version,
    /// protocol, fragment and lack of ports that the packet could have been found to have.
    #[inline(always)]
    pub(crate) fn keep<'p>(self, outbound: Outbound) -> &'p Outbound {
        // SAFETY: the pointer is to a map's value of this CPU, which nothing else changes while the packet is handled.
        unsafe {
            let place: *mut Outbound = (&raw mut (*self.0).outbound).cast();
            place.write(outbound);
            // The compiler, too, forgets what it has just written there.
            &*black_box(place)
        }
    }

    /// Puts what a function is told here, and takes it as it lies here from now on.
    ///
    /// Not on the stack: of a known number that a function reads from the stack of its caller, the verifier of Linux 6.1
    /// forgets that the way it goes depends on it. For another number it then skips the function as seen, and takes branches
    /// that only that one goes into for dead (mended in 6.8, "support non-r10 register spill/fill to/from stack in precision
    /// tracking").
    #[inline(always)]
    pub(crate) fn hand_over<'p, T: Copy>(self, value: T) -> &'p T {
        const { assert!(size_of::<T>() <= 8 * HANDED_OVER_WORDS && align_of::<T>() <= 8) };
        // SAFETY: as in `keep`. Only one thing is handed over at a time.
        unsafe {
            let place: *mut T = (&raw mut (*self.0).handed_over).cast();
            place.write(value);
            &*black_box(place)
        }
    }

    /// What was handed over last: of this type, if it was.
    #[inline(always)]
    pub(crate) fn handed_over<'p>(self) -> &'p (u32, Verdict) {
        const { assert!(size_of::<(u32, Verdict)>() <= 8 * HANDED_OVER_WORDS) };
        // SAFETY: as in `keep`; the caller has just put such a pair here.
        unsafe { &*(&raw mut (*self.0).handed_over).cast() }
    }

    /// Puts the record of a packet here.
    #[inline(always)]
    pub(crate) fn keep_event(self, event: Event) {
        // SAFETY: as in `keep`.
        unsafe { (&raw mut (*self.0).event).cast::<Event>().write(event) }
    }

    /// The record that was put here.
    #[inline(always)]
    pub(crate) fn event<'p>(self) -> &'p mut Event {
        // SAFETY: as in `keep`; each bit pattern is a value. Only one reference is in use at a time.
        unsafe { &mut *(&raw mut (*self.0).event).cast() }
    }

    /// Puts the lengths of a datagram here.
    #[inline(always)]
    pub(crate) fn keep_lengths(self, lengths: Lengths) {
        // SAFETY: as in `keep`.
        unsafe { (&raw mut (*self.0).lengths).write(lengths) }
    }

    /// Those that were put here, of which the verifier knows nothing.
    #[inline(always)]
    pub(crate) fn lengths(self) -> Lengths {
        // SAFETY: as in `keep`.
        unsafe { black_box(&raw const (*self.0).lengths).read() }
    }

    /// Room for what is read of a ClientHello.
    #[inline(always)]
    pub(crate) fn hello<'p>(self) -> &'p mut Hello {
        // SAFETY: as in `asked`.
        unsafe { &mut *(&raw mut (*self.0).hello).cast() }
    }

    /// Room for what is asked.
    #[inline(always)]
    pub(crate) fn asked<'p>(self) -> &'p mut Asked {
        // SAFETY: the pointer is to a map's value of this CPU, of which each bit pattern that stands there was written as
        // this, or is zero, which is one too. Only one reference is in use at a time.
        unsafe { &mut *(&raw mut (*self.0).asked).cast() }
    }

    /// Where headers of this many bytes begin.
    #[inline(always)]
    pub(crate) fn start(self, header_bytes: usize) -> *mut c_void {
        // SAFETY: as in `message`.
        let head: *mut u8 = unsafe { &raw mut (*self.0).head }.cast();
        head.wrapping_add(masked::<HEAD_MASK>(HEAD_BYTES - header_bytes)).cast()
    }

    /// A place in the message.
    #[inline(always)]
    pub(crate) fn at(self, at: usize) -> *mut c_void {
        self.message().at(at) as *mut c_void
    }

    #[inline(always)]
    pub(crate) fn message(self) -> Message {
        // SAFETY: the pointer is to a map's value; this makes another into it.
        Message(unsafe { &raw mut (*self.0).message }.cast())
    }

    #[inline(always)]
    pub(crate) fn search(self) -> SearchMemory {
        // SAFETY: as in `message`.
        SearchMemory(unsafe { &raw mut (*self.0).search }.cast())
    }
}

/// The message.
#[derive(Clone, Copy)]
pub(crate) struct Message(*mut u8);

impl Message {
    #[inline(always)]
    fn at(self, at: usize) -> usize {
        self.0 as usize + masked::<MESSAGE_MASK>(at)
    }

    /// Where it begins.
    #[inline(always)]
    pub(crate) const fn start(self) -> *mut c_void {
        self.0.cast()
    }

    /// Where its question's name begins.
    #[inline(always)]
    pub(crate) fn name(self) -> *const u8 {
        self.0.wrapping_add(interdict_dns_wire::HEADER_BYTES)
    }
}

impl Bytes for Message {
    #[inline(always)]
    fn get<const N: usize>(&self, at: usize) -> [u8; N] {
        // SAFETY: a masked place and what may follow it are in the map's value.
        unsafe { load_at::<0, N>(self.at(at)) }
    }

    #[inline(always)]
    fn forget(number: usize) -> usize {
        forgotten(number)
    }

    #[inline(always)]
    fn repeat<R: Round>(limit: usize, work: &mut R) -> Option<usize> {
        in_the_kernel(limit, work)
    }
}

impl Memory for Message {
    #[inline(always)]
    fn set<const N: usize>(&mut self, at: usize, bytes: [u8; N]) {
        // SAFETY: as in `get`.
        unsafe { store_at::<0, N>(self.at(at), bytes) }
    }
}

/// The memory that a search for a name works in.
#[derive(Clone, Copy)]
pub(crate) struct SearchMemory(*mut u8);

impl Bytes for SearchMemory {
    #[inline(always)]
    fn get<const N: usize>(&self, at: usize) -> [u8; N] {
        // SAFETY: a masked place and the eight bytes behind it are in the map's value.
        unsafe { load_at::<0, N>(self.0 as usize + masked::<SEARCH_MASK>(at)) }
    }
}

impl Memory for SearchMemory {
    #[inline(always)]
    fn set<const N: usize>(&mut self, at: usize, bytes: [u8; N]) {
        // SAFETY: as in `get`.
        unsafe { store_at::<0, N>(self.0 as usize + masked::<SEARCH_MASK>(at), bytes) }
    }
}

/// Always 0, which the verifier does not know of something in memory that could be written.
static mut ZERO: usize = 0;

/// The same number below 65 536, of which the verifier knows no more than that.
#[inline(always)]
pub(crate) fn forgotten(number: usize) -> usize {
    // SAFETY: nothing writes to it.
    let zero = unsafe { (&raw const ZERO).read_volatile() };
    masked::<0xffff>(number + zero)
}

/// A length of 1 to 512 bytes, for helpers that take no other.
#[inline(always)]
pub(crate) fn length(bytes: usize) -> u32 {
    masked::<MESSAGE_MASK>(bytes - 1) as u32 + 1
}

/// The place within a mask, in a way that the compiler does not see through: it would drop a mask that it thinks
/// needless, and the verifier does not know why it was.
#[cfg(target_arch = "bpf")]
#[inline(always)]
pub(crate) fn masked<const MASK: usize>(mut at: usize) -> usize {
    // SAFETY: the instruction changes nothing but its register.
    unsafe {
        core::arch::asm!("{at} &= {mask}", at = inout(reg) at, mask = const MASK, options(pure, nomem, nostack));
    }
    at
}

#[cfg(not(target_arch = "bpf"))]
pub(crate) fn masked<const MASK: usize>(at: usize) -> usize {
    at & MASK
}

/// Has the kernel do rounds, of which the verifier looks at one: through a plain loop Linux 6.1 would walk round by round,
/// and gives up.
#[inline(always)]
pub(crate) fn in_the_kernel<R: Round>(limit: usize, work: &mut R) -> Option<usize> {
    // SAFETY: the callback takes the pointer for what it is, and is done with it when the call returns.
    let rounds = unsafe {
        let callback = call::<R> as unsafe extern "C" fn(u64, *mut R) -> i64;
        bpf_loop(limit as u32, callback as *mut c_void, ptr::from_mut(work).cast(), 0) as usize
    };
    (rounds < limit).then_some(rounds)
}

/// What the kernel calls for each round: 0 goes on, 1 stops.
unsafe extern "C" fn call<R: Round>(_index: u64, work: *mut R) -> i64 {
    // SAFETY: the pointer is the one that `repeat` passed, to a value of its caller.
    i64::from(!unsafe { &mut *work }.round())
}
