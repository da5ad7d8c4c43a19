//! Other spellings of an IPv4 address: IPv6 addresses that a stack or a translator takes for one.

use crate::{Address, plain_bytes};

/// How many translations a policy knows: those that everybody has, and those of the operator's NAT64.
pub const MAX_TRANSLATIONS: usize = 8;

/// An IPv6 prefix behind which IPv4 addresses stand. All zero for none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Translation {
    /// The prefix, in the machine's order.
    prefix: [u64; 2],
    /// The bits of it that count.
    mask: [u64; 2],
    /// How many they are.
    bits: u64,
}
plain_bytes!(Translation { prefix: [u64; 2], mask: [u64; 2], bits: u64 });

/// The prefixes of a policy's translations, and none behind them.
pub type Translations = [Translation; MAX_TRANSLATIONS];

/// The bit of an address in a quick look at [`Translations`]: by its first 16 bits, which each of them says. Nearly no address of
/// the Internet has one of theirs.
#[inline(always)]
pub const fn bit(address: Address) -> u64 {
    let first = u32::from_be(address.words()[0]) >> 16;
    1 << ((first ^ first >> 6 ^ first >> 12) & 63)
}

/// The bits of all translations.
pub fn bits(translations: &Translations) -> u64 {
    let known = translations.iter().filter(|translation| !translation.is_none());
    known.map(|translation| bit(Address::from_halves(translation.prefix))).fold(0, |all, bit| all | bit)
}

impl Translation {
    /// No translation.
    pub const NONE: Self = Self { prefix: [0; 2], mask: [0; 2], bits: 0 };

    /// Whether it is none.
    #[inline(always)]
    pub const fn is_none(&self) -> bool {
        self.bits == 0
    }

    /// Behind a prefix: of 16 bits for 6to4 (RFC 3056, §2), of 32, 40, 48, 56, 64 or 96 as RFC 6052, §2.2, has them.
    pub const fn behind(prefix: u128, bits: u32) -> Self {
        let mask = u128::MAX << (128 - bits);
        Self { prefix: halves(prefix & mask), mask: halves(mask), bits: bits as u64 }
    }

    /// The first 32 bits of every address behind it, if the prefix says as many.
    pub fn first_word(&self) -> Option<u32> {
        (self.bits >= 32).then_some((self.prefix[0] >> 32) as u32)
    }

    /// The IPv4 address that stands in an address, as maps hold it; [`Address::NONE`] if this is not how it is written.
    #[inline(always)]
    pub fn inside(&self, address: Address) -> Address {
        let [high, low] = address.halves();
        if self.is_none() || high & self.mask[0] != self.prefix[0] || low & self.mask[1] != self.prefix[1] {
            return Address::NONE;
        }
        let word = match self.bits {
            96 => low as u32,
            // Of the bits from 64 on the first eight are always zero, and no part of the address (RFC 6052, §2.2).
            64 => (low >> 24) as u32,
            bits => ((high << (bits & 63) | (low << 8) >> ((64 - bits) & 63)) >> 32) as u32,
        };
        Address::from_v4(word.to_be_bytes())
    }
}

const fn halves(number: u128) -> [u64; 2] {
    [(number >> 64) as u64, number as u64]
}

/// `::ffff:0:0/96`, which is a mapped IPv4 address in an IPv6 header (RFC 4291, §2.5.5.2).
pub const MAPPED: Translation = Translation::behind(0xffff << 32, 96);

/// `64:ff9b::/96`, by which every NAT64 may be reached (RFC 6052, §2.1).
pub const WELL_KNOWN: Translation = Translation::behind(0x0064_ff9b << 96, 96);

/// `2002::/16`, 6to4 (RFC 3056, §2).
pub const SIX_TO_FOUR: Translation = Translation::behind(0x2002 << 112, 16);

/// Whether an address is of 6to4.
#[inline(always)]
pub fn is_six_to_four(address: Address) -> bool {
    address.halves()[0] >> 48 == 0x2002
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ipv4_address_is_found_where_the_standards_put_it() {
        // RFC 6052, §2.4, has these; 6to4 is from RFC 3056, the mapped form from RFC 4291.
        let inside = Address::from_v4([192, 0, 2, 33]);
        for (prefix, bits, address) in [
            (0x2001_0db8 << 96, 32, 0x2001_0db8_c000_0221_0000_0000_0000_0000_u128),
            (0x2001_0db8_0100 << 80, 40, 0x2001_0db8_01c0_0002_0021_0000_0000_0000),
            (0x2001_0db8_0122 << 80, 48, 0x2001_0db8_0122_c000_0002_2100_0000_0000),
            (0x2001_0db8_0122_0300 << 64, 56, 0x2001_0db8_0122_03c0_0000_0221_0000_0000),
            (0x2001_0db8_0122_0344 << 64, 64, 0x2001_0db8_0122_0344_00c0_0002_2100_0000),
            (0x2001_0db8_0122_0344 << 64, 96, 0x2001_0db8_0122_0344_0000_0000_c000_0221),
            (0x0064_ff9b << 96, 96, 0x0064_ff9b_0000_0000_0000_0000_c000_0221),
            (0x2002 << 112, 16, 0x2002_c000_0221_0000_0000_0000_0000_0001),
            (0xffff << 32, 96, 0xffff_c000_0221),
        ] {
            let translation = Translation::behind(prefix, bits);
            let of = |address: u128| translation.inside(Address::from_v6(address.to_be_bytes()));
            assert_eq!(of(address), inside, "{address:032x} behind /{bits}");
            assert_eq!(of(address ^ 1 << (128 - bits)), Address::NONE, "{address:032x} not behind /{bits}");
        }
        assert_eq!(Translation::NONE.inside(Address::from_v6([0; 16])), Address::NONE);
    }

    #[test]
    fn what_stands_behind_a_translation_has_a_bit_and_nearly_nothing_else_has() {
        let mut translations = [Translation::NONE; MAX_TRANSLATIONS];
        assert_eq!(bits(&translations), 0);
        let own = Translation::behind(0x2001_0db8_0122 << 80, 48);
        let known = [MAPPED, WELL_KNOWN, SIX_TO_FOUR, own];
        translations[..4].copy_from_slice(&known);
        let all = bits(&translations);
        for translation in known {
            for low in [0, 1, u128::MAX] {
                let mask = u128::from(translation.mask[0]) << 64 | u128::from(translation.mask[1]);
                let prefix = u128::from(translation.prefix[0]) << 64 | u128::from(translation.prefix[1]);
                let address = Address::from_v6((prefix | low & !mask).to_be_bytes());
                assert_ne!(all & bit(address), 0, "{address:?}");
            }
        }
        // Without one of the operator's, what the registries hand out is passed at once.
        translations[3] = Translation::NONE;
        for first in
            [0x2001, 0x2003, 0x2400, 0x2600, 0x2607, 0x2620, 0x2800, 0x2a00, 0x2a02, 0x2a03, 0x2c0f, 0xfe80]
        {
            let address = Address::from_v6((first << 112 | 1_u128).to_be_bytes());
            assert_eq!(bits(&translations) & bit(address), 0, "{first:04x}");
        }
    }
}
