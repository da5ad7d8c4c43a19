//! An address as maps and events hold it.

use crate::plain_bytes;

/// An IPv4 or IPv6 address in 16 bytes of network order, an IPv4 one in its mapped form `::ffff:a.b.c.d`.
///
/// It is made of words because the kernel programs keep it in registers; of an array of bytes the compiler keeps each
/// byte by itself, on a stack that has room for 512.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(C)]
pub struct Address {
    words: [u32; 4],
}
plain_bytes!(Address { words: [u32; 4] });

impl Address {
    /// No address: all bits zero.
    pub const NONE: Self = Self { words: [0; 4] };

    /// The address of an IPv4 header.
    #[inline(always)]
    pub const fn from_v4(bytes: [u8; 4]) -> Self {
        Self { words: [0, 0, u32::from_ne_bytes([0, 0, 0xff, 0xff]), u32::from_ne_bytes(bytes)] }
    }

    /// The address of an IPv6 header.
    #[inline(always)]
    pub const fn from_v6(b: [u8; 16]) -> Self {
        Self {
            words: [
                u32::from_ne_bytes([b[0], b[1], b[2], b[3]]),
                u32::from_ne_bytes([b[4], b[5], b[6], b[7]]),
                u32::from_ne_bytes([b[8], b[9], b[10], b[11]]),
                u32::from_ne_bytes([b[12], b[13], b[14], b[15]]),
            ],
        }
    }

    /// The address of these words, each with its bytes in network order.
    #[inline(always)]
    pub const fn from_words(words: [u32; 4]) -> Self {
        Self { words }
    }

    /// What is left of the address under a mask, each half as it lies in memory.
    #[inline(always)]
    pub(crate) const fn within(self, mask: Self) -> [u64; 2] {
        let [a, b, c, d] = self.words;
        let [e, f, g, h] = mask.words;
        [(a & e) as u64 | ((b & f) as u64) << 32, (c & g) as u64 | ((d & h) as u64) << 32]
    }

    /// The words, each with its bytes in network order: the key of a trie of networks.
    #[inline(always)]
    pub const fn words(self) -> [u32; 4] {
        self.words
    }

    /// The last word, with its bytes in network order: the key of a trie of IPv4 networks.
    #[inline(always)]
    pub const fn v4_word(self) -> u32 {
        self.words[3]
    }

    /// The address of these halves.
    #[inline(always)]
    pub const fn from_halves([high, low]: [u64; 2]) -> Self {
        let words = [(high >> 32) as u32, high as u32, (low >> 32) as u32, low as u32];
        Self { words: [words[0].to_be(), words[1].to_be(), words[2].to_be(), words[3].to_be()] }
    }

    /// The two halves, as numbers.
    #[inline(always)]
    pub const fn halves(self) -> [u64; 2] {
        let [a, b, c, d] = self.words;
        [half(a, b), half(c, d)]
    }

    /// The 16 bytes, in network order.
    pub fn bytes(self) -> [u8; 16] {
        let mut bytes = [0; 16];
        for (chunk, word) in bytes.chunks_exact_mut(4).zip(self.words) {
            chunk.copy_from_slice(&word.to_ne_bytes());
        }
        bytes
    }
}

/// Two words whose bytes are in network order, as a number.
#[inline(always)]
const fn half(high: u32, low: u32) -> u64 {
    (u32::from_be(high) as u64) << 32 | u32::from_be(low) as u64
}
