//! Seats: places in an array in which contacts are counted that come often.
//!
//! A program finds a seat by a hash of its own, in a few instructions; a look into the kernel's hash table is four calls, a
//! fifth of what a packet takes that is counted and dropped. A contact for which no seat is free is in that table.
//!
//! 63 bits of a hash that is keyed by a [`Secret`] stand for the contact. With n contacts in seats, one that has none is taken
//! for one of the others with a chance of 1 in 2^62 at most, as two seats are looked at.

use crate::{
    Address,
    contact::{ContactCounts, ContactKey, Reported},
    limits::SEATS,
    plain_bytes,
    table::Secret,
};

/// How many of them are tried for a contact, one behind the other.
pub const SEATS_TRIED: u32 = 2;

/// The tag of a seat that is free.
pub const FREE: u64 = 0;

/// The tag of a seat whose contact is over: it is counted in no more, and is free when the agent has read it.
pub const LEFT: u64 = 1;

/// The bit that tells the tag of a contact from these.
const TAKEN: u64 = 1 << 63;

/// A contact that is counted by itself, in three cache lines, of which one is enough for most packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C, align(64))]
pub struct Seat {
    /// Of the contact, as [`tag`] says, or [`FREE`], or [`LEFT`].
    pub tag: u64,
    /// What it came to.
    pub counts: ContactCounts,
    /// Not 0 as soon as the key is written.
    pub is_known: u64,
    /// Who it is.
    pub key: ContactKey,
    /// What was told of it, by the loader for itself.
    pub reported: Reported,
    /// When its contact was over, in nanoseconds since boot, likewise.
    pub left_ns: u64,
    /// Always 0.
    pub zero: [u64; 2],
}
plain_bytes!(Seat {
    tag: u64,
    counts: ContactCounts,
    is_known: u64,
    key: ContactKey,
    reported: Reported,
    left_ns: u64,
    zero: [u64; 2],
});

/// The tag of a contact, whose client has this tag.
#[inline(always)]
pub const fn tag(secret: &Secret, client: u64, key: &ContactKey) -> u64 {
    let ContactKey { generation, rule, verdict, hook, .. } = *key;
    let decided = generation << 32 ^ (rule as u64) << 16 ^ (verdict as u64) << 8 ^ hook as u64;
    secret.mix(client ^ decided) | TAKEN
}

/// The tag of a client.
#[inline(always)]
pub const fn client(secret: &Secret, client: Address) -> u64 {
    let [first, second] = client.halves();
    secret.mix(secret.mix(secret.start ^ first) ^ second) | TAKEN
}

/// The pair of places of a client, among so many pairs, a power of two.
#[inline(always)]
pub const fn pair(tag: u64, pairs: u32) -> u32 {
    tag as u32 % pairs
}

/// The seat that is tried for a contact after so many others.
#[inline(always)]
pub const fn place(tag: u64, tried: u32) -> u32 {
    (tag as u32).wrapping_add(tried) % SEATS
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_part_of_a_contact_is_left_out_of_its_tag() {
        let secret = Secret { start: 3, first: 0x9e37_79b9_7f4a_7c15, second: 0xd6e8_feb8_6659_fd93 };
        let key = ContactKey {
            client: Address::from_v4([10, 0, 0, 1]),
            generation: 7,
            rule: 2,
            verdict: 1,
            hook: 1,
            zero: [0; 2],
        };
        let tag_of = |key: &ContactKey| tag(&secret, client(&secret, key.client), key);
        let others = [
            ContactKey { client: Address::from_v4([10, 0, 0, 2]), ..key },
            ContactKey { client: Address::from_v6([1; 16]), ..key },
            ContactKey { generation: 8, ..key },
            ContactKey { rule: 3, ..key },
            ContactKey { rule: 16_383, ..key },
            ContactKey { verdict: 2, ..key },
            ContactKey { hook: 3, ..key },
        ];
        for other in others {
            assert_ne!(tag_of(&key), tag_of(&other), "{other:?}");
        }
        assert!(tag_of(&key) > LEFT);
    }

    #[test]
    fn what_a_packet_changes_is_in_one_cache_line() {
        use core::mem::offset_of;
        let counts = offset_of!(Seat, counts);
        assert!(counts + offset_of!(ContactCounts, window_packets) < 64);
    }
}
