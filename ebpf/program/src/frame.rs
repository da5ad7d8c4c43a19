//! The one way in which any step touches a packet.

use core::hint::black_box;

/// A frame as it arrived, from the first byte of its Ethernet header.
pub trait Frame {
    /// The `N` bytes at `offset`, or `None` where the frame ends before them.
    ///
    /// A step reads each field by itself: of a whole header read at once the compiler keeps every byte on a stack
    /// that has room for 512. `N` is at least 2: of a comparison for one byte the compiler makes another, in which
    /// the verifier does not see that the byte is inside.
    fn read<const N: usize>(&self, offset: usize) -> Option<[u8; N]>;

    /// Its length in bytes.
    fn length(&self) -> u32;

    /// The index of the interface it came in by.
    fn interface(&self) -> u32;
}

/// A frame on the host, for tests and fuzzers; it came in by no interface.
impl Frame for [u8] {
    fn read<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
        self.get(offset..)?.first_chunk().copied()
    }

    fn length(&self) -> u32 {
        self.len() as u32
    }

    fn interface(&self) -> u32 {
        0
    }
}

/// A frame whose first bytes can be looked at together: to be told once that they are all there takes less than to be told so
/// of each field.
pub trait Headed: Frame {
    /// The first bytes, so many, if they lie in one piece.
    fn head<const BYTES: usize>(&self) -> Option<impl Head<BYTES>>;
}

/// The first bytes of a frame.
pub trait Head<const BYTES: usize>: Copy {
    /// The `N` bytes at `AT`, all of them among those.
    fn get<const AT: usize, const N: usize>(self) -> [u8; N];
}

impl Headed for [u8] {
    fn head<const BYTES: usize>(&self) -> Option<impl Head<BYTES>> {
        self.first_chunk::<BYTES>()
    }
}

impl<const BYTES: usize> Head<BYTES> for &[u8; BYTES] {
    fn get<const AT: usize, const N: usize>(self) -> [u8; N] {
        const { assert!(AT + N <= BYTES) };
        core::array::from_fn(|at| self[AT + at])
    }
}

/// Greater than any offset that the steps come to: eight IPv6 headers of at most 2 KiB behind the others.
const MAX_OFFSET: usize = 0x7fff;

/// The same offset, of which the verifier knows no more than that it is in bounds.
///
/// The verifier follows each way through the program for each thing it knows. Of an offset that four tags and eight
/// headers may have added to it knows thousands, and the way behind them is long: 400 000 instructions, where a
/// million are allowed. It does not look through a byte swap.
///
/// The mask comes after all of that, hidden from the compiler too: it would move it to before the second swap, behind
/// which Linux 6.1 sees no bound at all.
#[inline(always)]
pub fn opaque(offset: usize) -> usize {
    let swapped = black_box((offset as u16).swap_bytes());
    usize::from(black_box(swapped.swap_bytes())) & MAX_OFFSET
}

/// Has the compiler put the code behind it out of the way of what is usual, which is then together in a processor's caches.
#[inline(always)]
pub fn rarely() {
    #[cfg(target_arch = "bpf")]
    core::hint::cold_path();
}
