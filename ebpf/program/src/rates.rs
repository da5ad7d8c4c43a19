//! How often clients are answered: in places of an array that are found by a hash, two for each client. There the kernel's
//! table that forgets takes as long as all the rest of an answer's checks.

use aya_ebpf::{bindings::BPF_F_MMAPABLE, btf_maps::Array};
use interdict_ebpf_program::frame::rarely;
use interdict_ebpf_shared::{limits::MAX_RATES, query::Rate, seat};

use crate::atomic::Word;

/// A table of rates: by pairs, each for some clients. Its memory begins at a page, so that a pair is in one cache line.
pub(crate) type Rates = Array<[Rate; 2], { MAX_RATES as usize / 2 }, { BPF_F_MMAPABLE as usize }>;

/// Counts into the current second of the client with this tag, and says whether it is still within the limit. A client that is not known has to
/// be admitted first, and takes the place that was silent longer of its two: with what is left of that one's second, if
/// anything, so that nobody is answered more often by changing its address.
#[inline(always)]
pub(crate) fn count<E>(
    rates: &Rates,
    tag: u64,
    now_ns: u64,
    limit: u64,
    admit: impl FnOnce() -> Result<(), E>,
) -> Result<bool, E> {
    let Some([first, second]) = places(rates, tag) else {
        return Ok(false);
    };
    let mut place = if first.tag().load() == tag { first } else { second };
    if place.tag().load() != tag {
        rarely();
        admit()?;
        if first.window_ns().load() <= second.window_ns().load() {
            place = first;
        }
        // If another CPU gives it to another client meanwhile, that one has it.
        place.tag().store(tag);
    }
    Ok(place.count(now_ns, limit))
}

/// The two places of a client.
#[inline(always)]
fn places(rates: &Rates, tag: u64) -> Option<[Shared; 2]> {
    let pair: *mut Rate = rates.get_ptr_mut(seat::pair(tag, MAX_RATES / 2))?.cast();
    Some([Shared(pair), Shared(pair.wrapping_add(1))])
}

/// A rate that all CPUs change: an array's value, which only this module writes to.
#[derive(Clone, Copy)]
struct Shared(*mut Rate);

impl Shared {
    #[inline(always)]
    const fn tag(self) -> Word {
        // SAFETY: as said above.
        unsafe { Word::new(&raw mut (*self.0).tag) }
    }

    #[inline(always)]
    const fn window_ns(self) -> Word {
        // SAFETY: as said above.
        unsafe { Word::new(&raw mut (*self.0).window_ns) }
    }

    #[inline(always)]
    fn count(self, now_ns: u64, limit: u64) -> bool {
        const SECOND_NS: u64 = 1_000_000_000;
        // SAFETY: as said above.
        let count = unsafe { Word::new(&raw mut (*self.0).count) };
        let began_ns = self.window_ns().load();
        if now_ns.saturating_sub(began_ns) >= SECOND_NS && self.window_ns().replace(began_ns, now_ns) {
            count.store(0);
        }
        count.fetch_add(1) < limit
    }
}
