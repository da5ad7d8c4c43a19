//! Which addresses were answered for names that are not banned, lately.
//!
//! It is told of nearly every answer, so it takes neither a lock nor memory for one: each address has one place in a table
//! of a fixed size, and takes it from whoever had it before. What it forgets that way is noticed when the other name is
//! answered again. An address takes 61 ns, most of it for the clock and the hash.

use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Addresses that are remembered, at most: 1 MiB of them.
const PLACES: usize = 1 << 17;
/// For how long. Whoever was served by an address an hour ago may well be now.
const REMEMBERED_FOR: Duration = Duration::from_secs(3600);

pub(super) struct Elsewhere {
    /// In the upper half the mark of an address, in the lower the second in which it was seen last; 0 is nobody's.
    places: Box<[AtomicU64]>,
    /// Nobody outside can make two addresses meet.
    key: RandomState,
    start: Instant,
}

impl Elsewhere {
    pub(super) fn new() -> Self {
        let places = (0..PLACES).map(|_| AtomicU64::new(0)).collect();
        Self { places, key: RandomState::new(), start: Instant::now() }
    }

    /// Remembers an address.
    pub(super) fn add(&self, address: IpAddr) {
        self.add_at(address, Instant::now());
    }

    /// Whether an address is remembered.
    pub(super) fn has(&self, address: IpAddr) -> bool {
        self.has_at(address, Instant::now())
    }

    /// Forgets them all.
    pub(super) fn clear(&self) {
        self.places.iter().for_each(|place| place.store(0, Ordering::SeqCst));
    }

    fn add_at(&self, address: IpAddr, now: Instant) {
        let (place, mark) = self.place(address);
        // In one order with what `Learning` says of itself: either it finds the address here, or we find it there.
        place.store(mark | self.second(now), Ordering::SeqCst);
    }

    fn has_at(&self, address: IpAddr, now: Instant) -> bool {
        let (place, mark) = self.place(address);
        let known = place.load(Ordering::SeqCst);
        let (of, second) = (known & !SECONDS, known & SECONDS);
        second > 0 && of == mark && self.second(now).saturating_sub(second) < REMEMBERED_FOR.as_secs()
    }

    fn place(&self, address: IpAddr) -> (&AtomicU64, u64) {
        let hash = self.key.hash_one(address);
        (&self.places[hash as usize % PLACES], hash & !SECONDS)
    }

    /// The first is 1.
    fn second(&self, now: Instant) -> u64 {
        (now.duration_since(self.start).as_secs() + 1).min(SECONDS)
    }
}

/// The half of a place that tells the time, for 136 years.
const SECONDS: u64 = u32::MAX as u64;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_remembered_for_an_hour_after_it_was_last_seen() {
        let elsewhere = Elsewhere::new();
        let [seen, other]: [IpAddr; 2] = ["192.0.2.1", "2001:db8::1"].map(|text| text.parse().unwrap());
        let minutes = |n: u64| elsewhere.start + Duration::from_secs(60 * n);
        assert!(!elsewhere.has_at(seen, minutes(0)));
        elsewhere.add_at(seen, minutes(0));
        elsewhere.add_at(seen, minutes(30));
        assert!(elsewhere.has_at(seen, minutes(89)) && !elsewhere.has_at(seen, minutes(90)));
        assert!(!elsewhere.has_at(other, minutes(30)));
        elsewhere.clear();
        assert!(!elsewhere.has_at(seen, minutes(30)));
    }

    #[test]
    fn more_addresses_than_places_push_older_ones_out() {
        let elsewhere = Elsewhere::new();
        let address = |n: usize| IpAddr::from(std::net::Ipv4Addr::from_bits(n as u32));
        (0..PLACES * 8).for_each(|n| elsewhere.add(address(n)));
        assert!(elsewhere.has(address(PLACES * 8 - 1)));
        assert!((0..PLACES * 8).filter(|n| elsewhere.has(address(*n))).count() <= PLACES);
    }
}
