//! Loads of two and four bytes from any address, in one instruction each.
//!
//! For the compiler a BPF machine cannot do that, and it puts such a load together from single bytes. (It can be told
//! otherwise, but then it also stores unaligned to the stack, which the verifier refuses.) The verifier allows it for
//! packets on every machine that can do it, which all do that we run on. The host, where only Clippy comes by, has
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
