//! A quick look at addresses, by which most packets are known to concern no network of a policy, without a look into the
//! table.

use crate::Address;

/// Words of a filter.
pub const WORDS: usize = 1 << (PLACE_BITS - 6);

/// Bits that tell a place in a filter.
const PLACE_BITS: u32 = 20;

/// A bit for each place that a network of one family has.
///
/// The place of an IPv4 address is its first 20 bits. Of IPv6 addresses the first are nearly all the same, so it is the
/// first 32, folded together.
pub type Filter = [u64; WORDS];

/// The word of an address in its family's filter, and the bit in that.
#[inline(always)]
pub const fn place_of_v4(address: Address) -> (usize, u64) {
    bit(u32::from_be(address.words()[3]) >> (32 - PLACE_BITS))
}

/// As [`place_of_v4`].
#[inline(always)]
pub const fn place_of_v6(address: Address) -> (usize, u64) {
    bit(folded(u32::from_be(address.words()[0])))
}

/// Enters an IPv4 network, whose address begins with `first`.
pub fn add_v4(filter: &mut Filter, first: u32, prefix_bits: u32) {
    let place = first >> (32 - PLACE_BITS);
    let many = 1 << PLACE_BITS.saturating_sub(prefix_bits);
    (place..place + many).for_each(|place| enter(filter, place));
}

/// Enters an IPv6 network, whose address begins with `first`.
pub fn add_v6(filter: &mut Filter, first: u32, prefix_bits: u32) {
    match 32_u32.saturating_sub(prefix_bits) {
        open_bits if open_bits >= PLACE_BITS => filter.fill(u64::MAX),
        open_bits => (first..=first | ((1 << open_bits) - 1)).for_each(|first| enter(filter, folded(first))),
    }
}

fn enter(filter: &mut Filter, place: u32) {
    let (word, bit) = bit(place);
    filter[word] |= bit;
}

#[inline(always)]
const fn folded(first: u32) -> u32 {
    first >> (32 - PLACE_BITS) ^ first & ((1 << PLACE_BITS) - 1)
}

#[inline(always)]
const fn bit(place: u32) -> (usize, u64) {
    ((place / 64) as usize, 1 << (place % 64))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn has_v4(filter: &Filter, address: [u8; 4]) -> bool {
        let (word, bit) = place_of_v4(Address::from_v4(address));
        filter[word] & bit != 0
    }

    fn has_v6(filter: &Filter, first: u32) -> bool {
        let mut address = [0x55; 16];
        address[..4].copy_from_slice(&first.to_be_bytes());
        let (word, bit) = place_of_v6(Address::from_v6(address));
        filter[word] & bit != 0
    }

    #[test]
    fn every_address_of_a_network_has_its_bit_whatever_the_length_of_its_prefix() {
        for bits in 0..=32_u32 {
            let first = 0x4d4a_b000 & u32::MAX.checked_shl(32 - bits).unwrap_or(0);
            let last = first | u32::MAX.checked_shr(bits).unwrap_or(0);
            let (mut v4, mut v6) = ([0; WORDS], [0; WORDS]);
            add_v4(&mut v4, first, bits);
            add_v6(&mut v6, first, bits);
            for step in 0..=1000_u64 {
                let within = first + (u64::from(last - first) * step / 1000) as u32;
                assert!(has_v4(&v4, within.to_be_bytes()), "{within:#x} of /{bits}");
                assert!(has_v6(&v6, within), "{within:#x} of /{bits}");
            }
            let places = |filter: &Filter| filter.iter().map(|word| word.count_ones()).sum::<u32>();
            assert_eq!(places(&v4), 1 << PLACE_BITS.saturating_sub(bits), "/{bits}");
            assert_eq!(places(&v6), 1 << (32 - bits).min(PLACE_BITS), "/{bits}");
        }
        let mut v6 = [0; WORDS];
        add_v6(&mut v6, 0x2a03_2480, 46);
        assert!(has_v6(&v6, 0x2a03_2480) && !has_v6(&v6, 0x2a03_2481) && !has_v6(&v6, 0x2001_0db8));
    }
}
