//! What time it is, in nanoseconds since boot, with the time the machine slept.

use aya_ebpf::helpers::{bpf_ktime_get_boot_ns, bpf_ktime_get_coarse_ns};
use interdict_ebpf_shared::control;

use crate::control::Control;

/// Now, to the last tick of the kernel's timer, at most ten milliseconds ago: that takes a tenth of what [`exact_ns`] takes.
#[inline(always)]
pub(crate) fn now_ns() -> u64 {
    // SAFETY: the helper has no precondition.
    let awake_ns = unsafe { bpf_ktime_get_coarse_ns() };
    awake_ns + Control::here().map_or(0, |control| control.word::<{ control::SLEPT_NS }>())
}

/// Now, exactly.
#[inline(always)]
pub(crate) fn exact_ns() -> u64 {
    // SAFETY: the helper has no precondition.
    unsafe { bpf_ktime_get_boot_ns() }
}
