//! Words that all CPUs change at once.
//!
//! Rust gives the BPF target no read-modify-write atomics, though the kernel has them since 5.12; so they are written
//! as the instructions themselves. The host, where only Clippy comes by, has Rust's own.

/// A pointer to a counter in a map's value.
#[derive(Clone, Copy)]
pub(crate) struct Word(*mut u64);

impl Word {
    /// Takes a pointer for a word.
    ///
    /// # Safety
    ///
    /// It must be to a word of a map's value: aligned, alive while the program runs, and changed by programs only
    /// through this type.
    #[inline(always)]
    pub(crate) const unsafe fn new(pointer: *mut u64) -> Self {
        Self(pointer)
    }

    #[inline(always)]
    pub(crate) fn load(self) -> u64 {
        // SAFETY: as promised in `new`; a volatile read of an aligned word is one load.
        unsafe { self.0.read_volatile() }
    }

    #[inline(always)]
    pub(crate) fn store(self, value: u64) {
        // SAFETY: as promised in `new`; a volatile write of an aligned word is one store.
        unsafe { self.0.write_volatile(value) }
    }
}

#[cfg(target_arch = "bpf")]
impl Word {
    #[inline(always)]
    pub(crate) fn add(self, value: u64) {
        // SAFETY: as promised in `new`.
        unsafe {
            core::arch::asm!("lock *(u64 *)({word} + 0) += {value}", word = in(reg) self.0, value = in(reg) value);
        }
    }

    /// Sets bits.
    #[inline(always)]
    pub(crate) fn set(self, bits: u64) {
        // SAFETY: as promised in `new`.
        unsafe {
            core::arch::asm!("lock *(u64 *)({word} + 0) |= {bits}", word = in(reg) self.0, bits = in(reg) bits);
        }
    }

    /// Adds, and returns what was there before.
    #[inline(always)]
    pub(crate) fn fetch_add(self, value: u64) -> u64 {
        let mut before = value;
        // SAFETY: as promised in `new`.
        unsafe {
            core::arch::asm!(
                "{value} = atomic_fetch_add((u64 *)({word} + 0), {value})",
                word = in(reg) self.0,
                value = inout(reg) before,
            );
        }
        before
    }

    /// Writes `new` if `old` is still there, and says whether it was.
    #[inline(always)]
    pub(crate) fn replace(self, old: u64, new: u64) -> bool {
        let mut found = old;
        // SAFETY: as promised in `new`. The instruction compares with, and leaves what it found in, register 0.
        unsafe {
            core::arch::asm!(
                "r0 = cmpxchg_64({word} + 0, r0, {new})",
                word = in(reg) self.0,
                new = in(reg) new,
                inout("r0") found,
            );
        }
        found == old
    }
}

#[cfg(not(target_arch = "bpf"))]
impl Word {
    pub(crate) fn add(self, value: u64) {
        self.fetch_add(value);
    }

    pub(crate) fn set(self, bits: u64) {
        self.shared().fetch_or(bits, core::sync::atomic::Ordering::Relaxed);
    }

    pub(crate) fn fetch_add(self, value: u64) -> u64 {
        self.shared().fetch_add(value, core::sync::atomic::Ordering::Relaxed)
    }

    pub(crate) fn replace(self, old: u64, new: u64) -> bool {
        use core::sync::atomic::Ordering::Relaxed;
        self.shared().compare_exchange(old, new, Relaxed, Relaxed).is_ok()
    }

    fn shared<'a>(self) -> &'a core::sync::atomic::AtomicU64 {
        // SAFETY: as promised in `new`.
        unsafe { core::sync::atomic::AtomicU64::from_ptr(self.0) }
    }
}
