//! The words by which the agent steers the programs.
//!
//! They stand in an array that the agent maps into its memory, so that a change is one atomic store: it cannot fail
//! half-way, and no packet sees half of it. Each word is 64 bits because the kernel rounds an array's elements up to
//! that size.

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

/// 1 while DNS questions are judged; while it is 0, no packet pays for a look at them.
pub const JUDGE_QUERIES: u32 = 5;

/// When the agent last said that it lives, in nanoseconds since boot.
pub const HEARTBEAT: u32 = 6;

/// Questions of one client that are answered in a second.
pub const CLIENT_QPS: u32 = 7;

/// How many words there are.
pub const WORDS: u32 = 8;

/// The slot of the policy maps that belongs to a generation.
#[inline(always)]
pub const fn slot(generation: u64) -> u32 {
    (generation & 1) as u32
}
