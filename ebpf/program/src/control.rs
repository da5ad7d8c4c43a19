//! The words by which the agent steers.

use core::ptr;

use interdict_ebpf_shared::{
    Address,
    control::{NAMED_FLOWS, SECRET, TOLD, TOLD_WORDS, WORDS, told_bit},
    table::Secret,
};

use crate::{atomic::Word, maps::CONTROL, scratch::masked};

/// All of them.
#[derive(Clone, Copy)]
pub(crate) struct Control(*const [u64; WORDS as usize]);

impl Control {
    /// They are always there; the verifier does not know it.
    #[inline(always)]
    pub(crate) fn here() -> Option<Self> {
        CONTROL.get_ptr(0).map(Self)
    }

    /// A word.
    #[inline(always)]
    pub(crate) fn word<const INDEX: u32>(self) -> u64 {
        const { assert!(INDEX < WORDS) };
        self.read(INDEX as usize)
    }

    /// Whether a bit is set, of those that begin with the word `FIRST` and whose words have the numbers in `MASK`.
    #[inline(always)]
    pub(crate) fn has<const FIRST: u32, const MASK: usize>(self, (word, bit): (u32, u64)) -> bool {
        const { assert!(FIRST as usize + MASK < WORDS as usize && (MASK + 1).is_power_of_two()) };
        self.read(FIRST as usize + masked::<MASK>(word as usize)) & bit != 0
    }

    /// By what contacts and clients are tagged.
    #[inline(always)]
    pub(crate) fn secret(self) -> Secret {
        Secret {
            start: self.word::<SECRET>(),
            first: self.word::<{ SECRET + 1 }>(),
            second: self.word::<{ SECRET + 2 }>(),
        }
    }

    /// Has programs look whether packets to and from an address belong to a connection that is followed by its server's
    /// name.
    #[inline(always)]
    pub(crate) fn follow(self, address: Address) {
        let (word, bit) = told_bit(address);
        self.set(TOLD as usize + masked::<{ TOLD_WORDS as usize - 1 }>(word as usize), bit);
        self.set(NAMED_FLOWS as usize, 1);
    }

    #[inline(always)]
    fn set(self, at: usize, bits: u64) {
        // SAFETY: there are as many words, as asserted of those that are asked for; the agent, too, changes them atomically.
        unsafe { Word::new(self.0.cast::<u64>().add(at).cast_mut()) }.set(bits);
    }

    #[inline(always)]
    fn read(self, at: usize) -> u64 {
        // SAFETY: there are as many words, as asserted above. The agent may store to one at any moment; a volatile read of an
        // aligned word is one load, which sees the word before or after, and is not repeated.
        unsafe { ptr::read_volatile(self.0.cast::<u64>().add(at)) }
    }
}
