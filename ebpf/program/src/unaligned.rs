//! Loads and stores of two, four and eight bytes at any address, in one instruction each.
//!
//! For the compiler a BPF machine cannot do that, and it puts such a load together from single bytes. (It can be told
//! otherwise, but then it also stores unaligned to the stack, which the verifier refuses.) The verifier allows it for
//! packets and map values on every machine that can do it, which all do that we run on. The host, where only Clippy comes by, has
//! Rust's own.

/// Loads bytes from a packet.
///
/// # Safety
///
/// The `N` bytes from `start` on must be inside the packet, as just compared with its end.
#[inline(always)]
pub(crate) unsafe fn load<const N: usize>(start: usize) -> [u8; N] {
    let mut bytes = [0; N];
    let (words, rest) = bytes.as_chunks_mut::<4>();
    let (halves, odd) = rest.as_chunks_mut::<2>();
    let mut at = start;
    for word in words {
        // SAFETY: as the caller promises.
        *word = unsafe { load4(at) }.to_ne_bytes();
        at += 4;
    }
    for half in halves {
        // SAFETY: as the caller promises.
        *half = unsafe { load2(at) }.to_ne_bytes();
        at += 2;
    }
    for byte in odd {
        // SAFETY: as the caller promises.
        *byte = unsafe { (at as *const u8).read() };
    }
    bytes
}

/// Stores bytes.
///
/// # Safety
///
/// The `N` bytes from `start` on must be inside a packet or a map's value.
#[inline(always)]
pub(crate) unsafe fn store<const N: usize>(start: usize, bytes: [u8; N]) {
    let (words, rest) = bytes.as_chunks::<4>();
    let (halves, odd) = rest.as_chunks::<2>();
    let mut at = start;
    for word in words {
        // SAFETY: as the caller promises.
        unsafe { store4(at, u32::from_ne_bytes(*word)) };
        at += 4;
    }
    for half in halves {
        // SAFETY: as the caller promises.
        unsafe { store2(at, u16::from_ne_bytes(*half)) };
        at += 2;
    }
    for byte in odd {
        // SAFETY: as the caller promises.
        unsafe { (at as *mut u8).write(*byte) };
    }
}

#[cfg(target_arch = "bpf")]
#[inline(always)]
unsafe fn load4(at: usize) -> u32 {
    let word: u64;
    // SAFETY: as the caller promises. The instruction writes nothing but its register.
    unsafe {
        core::arch::asm!(
            "{word} = *(u32 *)({at} + 0)",
            at = in(reg) at,
            word = out(reg) word,
            options(pure, readonly, nostack),
        );
    }
    word as u32
}

#[cfg(target_arch = "bpf")]
#[inline(always)]
unsafe fn load2(at: usize) -> u16 {
    let half: u64;
    // SAFETY: as the caller promises. The instruction writes nothing but its register.
    unsafe {
        core::arch::asm!(
            "{half} = *(u16 *)({at} + 0)",
            at = in(reg) at,
            half = out(reg) half,
            options(pure, readonly, nostack),
        );
    }
    half as u16
}

#[cfg(not(target_arch = "bpf"))]
unsafe fn load4(at: usize) -> u32 {
    // SAFETY: as the caller promises.
    unsafe { (at as *const u32).read_unaligned() }
}

#[cfg(not(target_arch = "bpf"))]
unsafe fn load2(at: usize) -> u16 {
    // SAFETY: as the caller promises.
    unsafe { (at as *const u16).read_unaligned() }
}

#[cfg(target_arch = "bpf")]
#[inline(always)]
pub(crate) unsafe fn load8(at: usize) -> u64 {
    let word: u64;
    // SAFETY: as the caller of `load` promises. The instruction writes nothing but its register.
    unsafe {
        core::arch::asm!(
            "{word} = *(u64 *)({at} + 0)",
            at = in(reg) at,
            word = out(reg) word,
            options(pure, readonly, nostack),
        );
    }
    word
}

#[cfg(target_arch = "bpf")]
#[inline(always)]
pub(crate) unsafe fn store8(at: usize, word: u64) {
    // SAFETY: as the caller of `store` promises.
    unsafe {
        core::arch::asm!("*(u64 *)({at} + 0) = {word}", at = in(reg) at, word = in(reg) word, options(nostack));
    }
}

#[cfg(target_arch = "bpf")]
#[inline(always)]
unsafe fn store4(at: usize, word: u32) {
    let word = u64::from(word);
    // SAFETY: as the caller promises.
    unsafe {
        core::arch::asm!("*(u32 *)({at} + 0) = {word}", at = in(reg) at, word = in(reg) word, options(nostack));
    }
}

#[cfg(target_arch = "bpf")]
#[inline(always)]
unsafe fn store2(at: usize, half: u16) {
    let half = u64::from(half);
    // SAFETY: as the caller promises.
    unsafe {
        core::arch::asm!("*(u16 *)({at} + 0) = {half}", at = in(reg) at, half = in(reg) half, options(nostack));
    }
}

#[cfg(not(target_arch = "bpf"))]
pub(crate) unsafe fn load8(at: usize) -> u64 {
    // SAFETY: as the caller promises.
    unsafe { (at as *const u64).read_unaligned() }
}

#[cfg(not(target_arch = "bpf"))]
pub(crate) unsafe fn store8(at: usize, word: u64) {
    // SAFETY: as the caller promises.
    unsafe { (at as *mut u64).write_unaligned(word) }
}

#[cfg(not(target_arch = "bpf"))]
unsafe fn store4(at: usize, word: u32) {
    // SAFETY: as the caller promises.
    unsafe { (at as *mut u32).write_unaligned(word) }
}

#[cfg(not(target_arch = "bpf"))]
unsafe fn store2(at: usize, half: u16) {
    // SAFETY: as the caller promises.
    unsafe { (at as *mut u16).write_unaligned(half) }
}
