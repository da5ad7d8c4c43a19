//! The seats of contacts, as the agent reads them: in memory that it shares with the programs.

use std::{
    array, io,
    mem::{offset_of, transmute},
    os::fd::BorrowedFd,
    sync::atomic::{AtomicU64, Ordering},
};

use interdict_ebpf_shared::{
    contact::{ContactCounts, Reported},
    limits::SEATS,
    seat::{FREE, LEFT, Seat},
};

use crate::system::SharedMemory;

/// How long a seat is left alone once its contact is over: no program that still counts in it runs for as long.
const LEAVING_NS: u64 = 1_000_000_000;

const WORDS: usize = size_of::<Seat>() / size_of::<u64>();
const TAG: usize = offset_of!(Seat, tag) / size_of::<u64>();
const REPORTED: usize = offset_of!(Seat, reported) / size_of::<u64>();
const LEFT_NS: usize = offset_of!(Seat, left_ns) / size_of::<u64>();

/// All of them. One reader ends contacts.
pub(crate) struct Seats {
    memory: SharedMemory,
}

impl Seats {
    pub(crate) fn of_map(map: BorrowedFd<'_>) -> io::Result<Self> {
        SharedMemory::of_map(map, SEATS as usize * size_of::<Seat>()).map(|memory| Self { memory })
    }

    /// Those whose contacts are known, with their places.
    pub(crate) fn taken(&self) -> impl Iterator<Item = (usize, Seat)> {
        let is_taken = |place: &usize| self.words(*place)[TAG].load(Ordering::Acquire) != FREE;
        let seats = (0..SEATS as usize).filter(is_taken).map(|place| (place, self.read(place)));
        seats.filter(|(_, seat)| seat.is_known != 0)
    }

    /// Notes what was told of a contact.
    pub(crate) fn set_reported(&self, place: usize, Reported { packets, bytes, last_ns }: Reported) {
        let words = self.words(place)[REPORTED..].iter();
        words.zip([packets, bytes, last_ns]).for_each(|(word, value)| word.store(value, Ordering::Relaxed));
    }

    /// Says that a contact is over.
    pub(crate) fn leave(&self, place: usize, boot_ns: u64) {
        let words = self.words(place);
        words[LEFT_NS].store(boot_ns, Ordering::Relaxed);
        words[TAG].store(LEFT, Ordering::Release);
    }

    /// Whether nobody counts any more in a seat that was left then.
    pub(crate) const fn is_quiet(left_ns: u64, boot_ns: u64) -> bool {
        boot_ns.saturating_sub(left_ns) >= LEAVING_NS
    }

    /// Frees such a seat, and returns what its contact came to.
    pub(crate) fn free(&self, place: usize) -> ContactCounts {
        let counts = self.read(place).counts;
        let words = self.words(place);
        words
            .iter()
            .enumerate()
            .filter(|&(at, _)| at != TAG)
            .for_each(|(_, word)| word.store(0, Ordering::Relaxed));
        words[TAG].store(FREE, Ordering::Release);
        counts
    }

    /// A seat, with a sample that no CPU was writing meanwhile.
    fn read(&self, place: usize) -> Seat {
        let read = || -> Seat {
            let words: [u64; WORDS] = array::from_fn(|at| self.words(place)[at].load(Ordering::Acquire));
            // SAFETY: these are as many bytes, and each pattern of them is a value of the type, since it is `Pod`.
            unsafe { transmute(words) }
        };
        let mut seat = read();
        loop {
            let again = read();
            // A sample is written once a second at most, in a few nanoseconds.
            if again.counts.sample == seat.counts.sample {
                return again;
            }
            seat = again;
        }
    }

    fn words(&self, place: usize) -> &[AtomicU64; WORDS] {
        assert!(place < SEATS as usize);
        // SAFETY: the mapping holds as many seats, begins at a page, and lives as long as `self`; both sides change words of it
        // only as a whole, but for the key, which is written before it is known.
        unsafe { self.memory.start().cast::<[AtomicU64; WORDS]>().add(place).as_ref() }
    }
}
