//! A domain name as a key of a trie: from right to left, so that a suffix is a prefix.

use interdict_dns_wire::{HEADER_BYTES, LABELS_LIMIT, Memory, NAME_LIMIT_BYTES, Round};

use crate::{plain_bytes, policy::Decision};

/// Words of a key: 256 bytes, the longest that a trie takes.
pub const KEY_WORDS: usize = 32;

/// The most bytes of a name in a key: all but the root's.
const LONGEST_BYTES: usize = NAME_LIMIT_BYTES - 1;

/// In a key the length byte of a label has this bit, which no other byte has: so a label's contents can never pass for
/// the border of a label. A name in which another byte has it has no key.
const BORDER: u8 = 0x80;

/// The bytes of a key, in the order in which they are compared.
///
/// Byte by byte it is the lower-cased wire name without the root, reversed, with [`BORDER`] set in the length bytes. So
/// the key of a name begins with the key of each of its parents. Behind it stands a lone [`BORDER`], the end of the
/// name: an entry that has it too matches this name alone, and none below it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct NameKey {
    /// The bytes, in words of the machine's order.
    pub words: [u64; KEY_WORDS],
}
plain_bytes!(NameKey { words: [u64; KEY_WORDS] });

/// What a name's key has besides its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyLength {
    /// Bits of the name, without its end.
    pub bits: u32,
}

impl KeyLength {
    /// Bits that match the name and all below it.
    #[inline(always)]
    pub const fn domain_bits(self) -> u32 {
        self.bits
    }

    /// Bits that match this name alone; also those that are looked up.
    #[inline(always)]
    pub const fn host_bits(self) -> u32 {
        self.bits + 8
    }
}

/// Writes the key of the name that begins at [`HEADER_BYTES`] of a message and has this many bytes, root included.
/// `None` where the name has no key.
///
/// Eight bytes are turned round at a time; the bytes of `key` behind the end of the name mean nothing.
#[inline(always)]
pub fn write_key<M: Memory + ?Sized, K: Memory + ?Sized>(
    message: &M,
    name_bytes: usize,
    key: &mut K,
) -> Option<KeyLength> {
    let bytes = name_bytes - 1;
    if bytes > LONGEST_BYTES {
        return None;
    }
    let mut turn = Turn { message, key, bytes, done: 0, all: 0 };
    M::repeat(bytes.div_ceil(8) as u32, &mut turn);
    if turn.all & (u64::MAX / 0xff * BORDER as u64) != 0 {
        return None;
    }
    let bytes = M::forget(bytes);
    let mut mark = Mark { message, key, bytes, at: 0 };
    M::repeat(LABELS_LIMIT as u32, &mut mark);
    key.set(bytes, [BORDER]);
    Some(KeyLength { bits: bytes as u32 * 8 })
}

/// Turns a name round, eight bytes at a time, from its end.
struct Turn<'m, M: ?Sized, K: ?Sized> {
    message: &'m M,
    key: &'m mut K,
    bytes: usize,
    done: usize,
    /// Every bit of every byte so far.
    all: u64,
}

impl<M: Memory + ?Sized, K: Memory + ?Sized> Round for Turn<'_, M, K> {
    #[inline(always)]
    fn round(&mut self) -> bool {
        let left = self.bytes - self.done;
        // The first bytes of a name that is shorter than the word are preceded by the header, which is cut off.
        let taken = u64::from_be_bytes(self.message.get(HEADER_BYTES + left - 8));
        let spare_bits = if left < 8 { 64 - 8 * left as u32 } else { 0 };
        let taken = taken << (spare_bits & 63) >> (spare_bits & 63);
        self.all |= taken;
        // Big-endian reading has the name's last byte lowest; stored the other way round it comes first.
        self.key.set(self.done, lower_case(taken).to_le_bytes());
        self.done += 8;
        true
    }
}

/// Sets [`BORDER`] in the length bytes, of which the walk over the message knows the places.
struct Mark<'m, M: ?Sized, K: ?Sized> {
    message: &'m M,
    key: &'m mut K,
    bytes: usize,
    at: usize,
}

impl<M: Memory + ?Sized, K: Memory + ?Sized> Round for Mark<'_, M, K> {
    #[inline(always)]
    fn round(&mut self) -> bool {
        if self.at >= self.bytes {
            return false;
        }
        let [label, _] = self.message.get(HEADER_BYTES + self.at);
        self.key.set(self.bytes - 1 - self.at, [label | BORDER]);
        self.at += 1 + usize::from(label);
        true
    }
}

/// Turns the ASCII capitals among eight bytes into small letters. Bytes of 128 and more stay.
#[inline(always)]
const fn lower_case(word: u64) -> u64 {
    const ONES: u64 = u64::MAX / 0xff;
    const HIGH: u64 = ONES * 0x80;
    let low_bits = word & !HIGH;
    let from_a = low_bits + ONES * (0x80 - b'A' as u64);
    let after_z = low_bits + ONES * (0x80 - b'Z' as u64 - 1);
    let capitals = from_a & !after_z & !word & HIGH;
    word | capitals >> 2
}

/// What the names of a policy say about a name whose longest entry this is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct NameEntry {
    /// The decision of hosts and domains.
    pub decision: Decision,
    /// Bytes of the domain that matched, without the root: its name owns the SOA of an answer. 0 where the asked name
    /// does itself.
    pub owner_bytes: u32,
    /// 1 where globs or patterns may decide otherwise, which only the agent can tell.
    pub undecidable: u32,
}
plain_bytes!(NameEntry { decision: Decision, owner_bytes: u32, undecidable: u32 });

impl NameEntry {
    /// No entry matches.
    pub const NONE: Self = Self { decision: Decision::NONE, owner_bytes: 0, undecidable: 0 };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capitals_and_nothing_else_become_small() {
        for byte in 0..=u8::MAX {
            let expect = u64::from_be_bytes([byte.to_ascii_lowercase(); 8]);
            assert_eq!(lower_case(u64::from_be_bytes([byte; 8])), expect, "{byte}");
            let mixed = [byte, b'A', b'Z', b'@', b'[', b'z', byte, 0xff];
            assert_eq!(
                lower_case(u64::from_be_bytes(mixed)).to_be_bytes(),
                mixed.map(|b| b.to_ascii_lowercase())
            );
        }
    }
}
