//! The Internet checksum (RFC 1071), of words of eight bytes: in the machine's order, in which it comes out likewise.

/// A sum of which [`fold`] makes that of 16 bits each. In halves, since to carry would be a jump that nobody can foresee.
#[inline(always)]
pub const fn add(sum: u64, word: u64) -> u64 {
    sum + (word & 0xffff_ffff) + (word >> 32)
}

/// A sum that is made of many words, for [`fold`]: in halves, as [`add`] does, with less for each word.
#[derive(Clone, Copy)]
pub struct Sum {
    /// Of the words, modulo 2^64.
    words: u64,
    /// Of their high halves.
    high: u64,
}

impl Sum {
    /// Of no words.
    pub const NOTHING: Self = Self { words: 0, high: 0 };

    /// Adds a word.
    #[inline(always)]
    pub const fn add(&mut self, word: u64) {
        self.words = self.words.wrapping_add(word);
        self.high += word >> 32;
    }

    /// What the halves come to.
    #[inline(always)]
    pub const fn total(self) -> u64 {
        let low = self.words.wrapping_sub(self.high << 32);
        low + self.high
    }
}

/// The ones' complement sum of 16 bits, complemented (RFC 1071), in the machine's order: of a sum below 2^40, such as that of
/// 256 halves of 32 bits.
#[inline(always)]
pub const fn fold(sum: u64) -> u16 {
    // Below 2^24 + 2^16, below 2^16 + 2^9, and then it fits.
    let sum = (sum >> 16) + (sum & 0xffff);
    let sum = (sum >> 16) + (sum & 0xffff);
    let sum = (sum >> 16) + (sum & 0xffff);
    !(sum as u16)
}

#[cfg(test)]
mod tests {
    extern crate std;

    use std::vec::Vec;

    use super::*;

    /// As the RFC says it, of words of two bytes.
    fn plain(bytes: &[u8]) -> u16 {
        let mut sum: u32 = bytes.as_chunks().0.iter().map(|word| u32::from(u16::from_ne_bytes(*word))).sum();
        while sum > 0xffff {
            sum = (sum >> 16) + (sum & 0xffff);
        }
        !(sum as u16)
    }

    #[test]
    fn both_ways_to_add_come_to_the_sum_of_the_bytes() {
        let mut state = 1_u64;
        let mut random = || {
            state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
            state ^ state >> 31
        };
        for words in 0..=64 {
            for kind in 0..20 {
                let words: Vec<u64> = (0..words)
                    .map(|i| match kind {
                        0 => u64::MAX,
                        1 => 0,
                        2 => 0xffff_ffff << (32 * (i % 2)),
                        _ => random(),
                    })
                    .collect();
                let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
                let added = words.iter().fold(0, |sum, word| add(sum, *word));
                let mut sum = Sum::NOTHING;
                words.iter().for_each(|word| sum.add(*word));
                assert_eq!((fold(added), sum.total()), (plain(&bytes), added), "{words:x?}");
            }
        }
    }
}
