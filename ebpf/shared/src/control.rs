//! The words by which the agent steers the programs.
//!
//! They are the one element of an array that the agent maps into its memory, so that a change is one atomic store: it cannot
//! fail half-way, and no packet sees half of it.

use crate::Address;

/// The generation of the policy in force; 0 before the first one.
pub const LIVE: u32 = 0;

/// The generation that the self-test program reads.
pub const STAGED: u32 = 1;

/// How many addresses are open. While it is 0, no packet pays for a look at them.
pub const OPEN_ADDRESSES: u32 = 2;

/// How many addresses are open to a client each, likewise.
pub const CLIENT_OPENINGS: u32 = 3;

/// How many addresses are learned, likewise.
pub const LEARNED_ADDRESSES: u32 = 4;

/// How many connections are followed that were let through by the server's name, likewise. A program that finds one more
/// makes the number odd at least, until the agent has counted.
pub const NAMED_FLOWS: u32 = 5;

/// 1 while DNS questions are judged; while it is 0, no packet pays for a look at them.
pub const JUDGE_QUERIES: u32 = 6;

/// When the agent last said that it lives, in nanoseconds since boot.
pub const HEARTBEAT: u32 = 7;

/// Questions of one client that are answered in a second.
pub const CLIENT_QPS: u32 = 8;

/// The first of the words in which the bits of this machine's addresses are set, as [`ours_bit`] says: of most other
/// addresses they tell without a look into the table that they are not ours.
pub const OURS: u32 = 9;

/// How many words of [`OURS`] there are.
pub const OURS_WORDS: u32 = 4;

/// The IPv4 address under which this machine's own calls are recorded, in the last four bytes; 0 for none.
pub const HOST4: u32 = OURS + OURS_WORDS;

/// The first of the two words of the IPv6 address, likewise.
pub const HOST6: u32 = HOST4 + 1;

/// Nanoseconds from one tick of the kernel's timer to the next.
pub const TICK_NS: u32 = HOST6 + 2;

/// Where the tick of number 0 stands on the clock that stands still while the machine sleeps, in nanoseconds since boot: far
/// in the past or the future, in wrapping arithmetic.
pub const TICK_0_NS: u32 = TICK_NS + 1;

/// How long the machine has slept since boot, in nanoseconds, as the agent last saw it: what that clock lacks.
pub const SLEPT_NS: u32 = TICK_0_NS + 1;

/// The first of the three words of the secret by which contacts are tagged ([`crate::seat::tag`]).
pub const SECRET: u32 = SLEPT_NS + 1;

/// The first of the words in which the bits of safe networks are set, as [`safe_bit`] says: of most other addresses they
/// tell without a look into the tries that they are not safe.
pub const SAFE: u32 = SECRET + 3;

/// How many words of [`SAFE`] there are.
pub const SAFE_WORDS: u32 = 4;

/// The first of the words in which the bits of addresses are set that are open, open to a client, or learned, or that a
/// connection of [`NAMED_FLOWS`] goes to, as [`told_bit`] says: of most other addresses they tell without a look into the
/// tables that they are none of these.
pub const TOLD: u32 = SAFE + SAFE_WORDS;

/// How many words of [`TOLD`] there are.
pub const TOLD_WORDS: u32 = 1024;

/// How many words there are.
pub const WORDS: u32 = TOLD + TOLD_WORDS;

/// The word of an address among those of [`TOLD`], and its bit.
#[inline(always)]
pub const fn told_bit(address: Address) -> (u32, u64) {
    let bit = mixed(address) >> 16;
    (bit / 64, 1 << (bit % 64))
}

/// Bits at the beginning of an address by which [`safe_bit`] tells networks apart.
pub const SAFE_BITS_V4: u32 = 16;

/// As [`SAFE_BITS_V4`], of IPv6.
pub const SAFE_BITS_V6: u32 = 48;

/// The word of an address among those of [`SAFE`], and its bit.
#[inline(always)]
pub const fn safe_bit(address: Address, is_v4: bool) -> (u32, u64) {
    let [high, low] = address.halves();
    let first = if is_v4 {
        low as u32 >> (32 - SAFE_BITS_V4)
    } else {
        (high >> (64 - SAFE_BITS_V6)) as u32 ^ (high >> 48) as u32
    };
    let mixed = first.wrapping_mul(0x9e37_79b1) >> 24;
    (mixed / 64, 1 << (mixed % 64))
}

/// The word of an address among those of [`OURS`], and its bit.
#[inline(always)]
pub const fn ours_bit(address: Address) -> (u32, u64) {
    let bit = mixed(address) >> 24;
    (bit / 64, 1 << (bit % 64))
}

/// A number whose high bits depend on all of an address: a multiple of an odd number near the golden ratio.
#[inline(always)]
const fn mixed(address: Address) -> u32 {
    let [a, b, c, d] = address.words();
    (a ^ b ^ c ^ d).wrapping_mul(0x9e37_79b1)
}

/// The slot of the policy maps that belongs to a generation.
#[inline(always)]
pub const fn slot(generation: u64) -> u32 {
    (generation & 1) as u32
}
