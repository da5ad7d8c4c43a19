//! Loads and stores of two, four and eight bytes at any address, in one instruction each.
//!
//! For the compiler a BPF machine cannot do that, and it puts such a load together from single bytes. (It can be told
//! otherwise, but then it also stores unaligned to the stack, which the verifier refuses.) The verifier allows it for
//! packets and map values on every machine that can do it, which all do that we run on. The host, where only Clippy comes by, has
//! Rust's own.

/// Loads the `N` bytes that begin `AT` behind a place.
///
/// # Safety
///
/// They must be inside a packet, as just compared with its end, or in a map's value.
#[inline(always)]
pub(crate) unsafe fn load_at<const AT: usize, const N: usize>(place: usize) -> [u8; N] {
    let mut bytes = [0; N];
    let to = bytes.as_mut_ptr();
    // SAFETY: as the caller promises; and there are as many bytes to write to.
    unsafe {
        match N {
            2 => to.cast::<u16>().write_unaligned(load2::<AT, 0>(place)),
            4 => to.cast::<u32>().write_unaligned(load4::<AT, 0>(place)),
            6 => {
                to.cast::<u32>().write_unaligned(load4::<AT, 0>(place));
                to.add(4).cast::<u16>().write_unaligned(load2::<AT, 4>(place));
            }
            8 => to.cast::<u64>().write_unaligned(load8::<AT>(place)),
            _ => bytes = load_by_words(place + AT),
        }
    }
    bytes
}

/// Loads bytes.
///
/// # Safety
///
/// As of [`load_at`].
#[inline(always)]
unsafe fn load_by_words<const N: usize>(start: usize) -> [u8; N] {
    let mut bytes = [0; N];
    let (words, rest) = bytes.as_chunks_mut::<4>();
    let (halves, odd) = rest.as_chunks_mut::<2>();
    let mut at = start;
    for word in words {
        // SAFETY: as the caller promises.
        *word = unsafe { load4::<0, 0>(at) }.to_ne_bytes();
        at += 4;
    }
    for half in halves {
        // SAFETY: as the caller promises.
        *half = unsafe { load2::<0, 0>(at) }.to_ne_bytes();
        at += 2;
    }
    for byte in odd {
        // SAFETY: as the caller promises.
        *byte = unsafe { (at as *const u8).read() };
    }
    bytes
}

/// Stores the `N` bytes that begin `AT` behind a place.
///
/// # Safety
///
/// They must be inside a packet, as just compared with its end, or in a map's value.
#[inline(always)]
pub(crate) unsafe fn store_at<const AT: usize, const N: usize>(place: usize, bytes: [u8; N]) {
    let from = bytes.as_ptr();
    // SAFETY: as the caller promises; and there are as many bytes to read.
    unsafe {
        match N {
            2 => store2::<AT, 0>(place, from.cast::<u16>().read_unaligned()),
            4 => store4::<AT, 0>(place, from.cast::<u32>().read_unaligned()),
            6 => {
                store4::<AT, 0>(place, from.cast::<u32>().read_unaligned());
                store2::<AT, 4>(place, from.add(4).cast::<u16>().read_unaligned());
            }
            8 => store8::<AT>(place, from.cast::<u64>().read_unaligned()),
            _ => store_by_words(place + AT, bytes),
        }
    }
}

/// Stores bytes.
///
/// # Safety
///
/// As of [`store_at`].
#[inline(always)]
unsafe fn store_by_words<const N: usize>(start: usize, bytes: [u8; N]) {
    let (words, rest) = bytes.as_chunks::<4>();
    let (halves, odd) = rest.as_chunks::<2>();
    let mut at = start;
    for word in words {
        // SAFETY: as the caller promises.
        unsafe { store4::<0, 0>(at, u32::from_ne_bytes(*word)) };
        at += 4;
    }
    for half in halves {
        // SAFETY: as the caller promises.
        unsafe { store2::<0, 0>(at, u16::from_ne_bytes(*half)) };
        at += 2;
    }
    for byte in odd {
        // SAFETY: as the caller promises.
        unsafe { (at as *mut u8).write(*byte) };
    }
}

/// The word of eight bytes that begins `AT` behind a place.
///
/// # Safety
///
/// As of [`load_at`].
#[inline(always)]
pub(crate) unsafe fn load8<const AT: usize>(place: usize) -> u64 {
    // SAFETY: as the caller promises.
    unsafe { load8_at::<AT, 0>(place) }
}

/// Stores a word there.
///
/// # Safety
///
/// As of [`store_at`].
#[inline(always)]
pub(crate) unsafe fn store8<const AT: usize>(place: usize, word: u64) {
    // SAFETY: as the caller promises.
    unsafe { store8_at::<AT, 0>(place, word) }
}

/// A load and a store of one type, `AT` and `THEN` behind a place, as the instructions themselves.
macro_rules! access {
    ($load:ident, $store:ident, $type:ty, $name:literal, $register:ident) => {
        #[cfg(target_arch = "bpf")]
        #[inline(always)]
        unsafe fn $load<const AT: usize, const THEN: usize>(place: usize) -> $type {
            let value: $type;
            // SAFETY: as the caller promises. The instruction writes nothing but its register.
            unsafe {
                core::arch::asm!(
                    concat!("{value} = *(", $name, " *)({place} + {at})"),
                    place = in(reg) place,
                    value = out($register) value,
                    at = const AT + THEN,
                    options(pure, readonly, nostack),
                );
            }
            value
        }

        #[cfg(target_arch = "bpf")]
        #[inline(always)]
        unsafe fn $store<const AT: usize, const THEN: usize>(place: usize, value: $type) {
            // SAFETY: as the caller promises.
            unsafe {
                core::arch::asm!(
                    concat!("*(", $name, " *)({place} + {at}) = {value}"),
                    place = in(reg) place,
                    value = in($register) value,
                    at = const AT + THEN,
                    options(nostack),
                );
            }
        }

        #[cfg(not(target_arch = "bpf"))]
        unsafe fn $load<const AT: usize, const THEN: usize>(place: usize) -> $type {
            // SAFETY: as the caller promises.
            unsafe { ((place + AT + THEN) as *const $type).read_unaligned() }
        }

        #[cfg(not(target_arch = "bpf"))]
        unsafe fn $store<const AT: usize, const THEN: usize>(place: usize, value: $type) {
            // SAFETY: as the caller promises.
            unsafe { ((place + AT + THEN) as *mut $type).write_unaligned(value) }
        }
    };
}

access!(load2, store2, u16, "u16", wreg);
access!(load4, store4, u32, "u32", wreg);
access!(load8_at, store8_at, u64, "u64", reg);
