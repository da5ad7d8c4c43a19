//! What time it is, in nanoseconds since boot, with the time the machine slept.

use aya_ebpf::helpers::{bpf_jiffies64, bpf_ktime_get_boot_ns, bpf_ktime_get_coarse_ns};
use interdict_ebpf_shared::control;

use crate::control::Control;

/// Now, to the last tick of the kernel's timer, at most ten milliseconds ago.
///
/// The ticks are counted on, and the agent says what they mean: the kernel puts a load in the place of the call that reads
/// their number. Its own clock of ticks is two calls, which take as long as a look into a table.
#[inline(always)]
pub(crate) fn now_ns() -> u64 {
    Control::here().map_or(0, now_by)
}

/// The same, for who has the words by which the agent steers.
#[inline(always)]
pub(crate) fn now_by(control: Control) -> u64 {
    let awake_ns = ticks()
        .wrapping_mul(control.word::<{ control::TICK_NS }>())
        .wrapping_add(control.word::<{ control::TICK_0_NS }>());
    awake_ns.wrapping_add(control.word::<{ control::SLEPT_NS }>())
}

/// The number of the last tick, and when it was, without the time the machine slept.
#[inline(always)]
pub(crate) fn last_tick() -> [u64; 2] {
    // SAFETY: the helper has no precondition.
    [ticks(), unsafe { bpf_ktime_get_coarse_ns() }]
}

#[inline(always)]
fn ticks() -> u64 {
    // SAFETY: the helper has no precondition.
    unsafe { bpf_jiffies64() }
}

/// Now, exactly.
#[inline(always)]
pub(crate) fn exact_ns() -> u64 {
    // SAFETY: the helper has no precondition.
    unsafe { bpf_ktime_get_boot_ns() }
}
