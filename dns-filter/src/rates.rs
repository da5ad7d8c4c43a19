//! How many questions the clients of one network may ask in a second.

use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Networks that are counted at one time; two that meet in one place share what they may.
const PLACES: usize = 1 << 14;
/// Prefixes of networks, in bits: what one site usually has.
const PREFIX_V4: u32 = 24;
const PREFIX_V6: u32 = 56;

/// The questions of this second, by network: a table of a fixed size, without a lock.
pub(crate) struct Rates {
    limit: u32,
    /// In the upper half the second, in the lower how many questions.
    places: Box<[AtomicU64]>,
    key: RandomState,
}

impl Rates {
    /// So many questions a second from each network; 0 for any number.
    pub(crate) fn new(limit: u32) -> Self {
        let places = if limit == 0 { 0 } else { PLACES };
        let places = (0..places).map(|_| AtomicU64::new(0)).collect();
        Self { limit, places, key: RandomState::new() }
    }

    /// Counts a question, and says whether it may be answered.
    pub(crate) fn admit(&self, client: IpAddr, second: u32) -> bool {
        if self.limit == 0 {
            return true;
        }
        let place = &self.places[self.key.hash_one(network(client)) as usize % PLACES];
        let now = u64::from(second) << 32;
        let counted = place.fetch_add(1, Relaxed) + 1;
        if counted & !u64::from(u32::MAX) == now {
            return counted - now <= u64::from(self.limit);
        }
        // The first in this second; of several that think so one is counted, which is near enough.
        place.store(now + 1, Relaxed);
        true
    }
}

/// What tells networks apart.
fn network(client: IpAddr) -> u128 {
    match client.to_canonical() {
        IpAddr::V4(v4) => u128::from(v4.to_bits() >> (32 - PREFIX_V4)),
        IpAddr::V6(v6) => 1 << 127 | v6.to_bits() >> (128 - PREFIX_V6),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_network_has_its_own_seconds() {
        let rates = Rates::new(3);
        let admitted =
            |client: &str, second| (0..10).filter(|_| rates.admit(client.parse().unwrap(), second)).count();
        assert_eq!(admitted("10.0.0.1", 7), 3);
        assert_eq!(admitted("10.0.0.2", 7), 0, "of the same network");
        assert_eq!(admitted("10.0.1.1", 7), 3);
        assert_eq!(admitted("2001:db8::1", 7), 3);
        assert_eq!(admitted("2001:db8:0:ff::1", 7), 0, "of the same network");
        assert_eq!(admitted("2001:db8:0:100::1", 7), 3);
        assert_eq!(admitted("::ffff:10.0.0.3", 8), 3, "in the next second");
        assert_eq!(admitted("10.0.0.1", 8), 0);
        let any = Rates::new(0);
        assert!((0..100_000).all(|_| any.admit("10.0.0.1".parse().unwrap(), 1)));
    }
}
