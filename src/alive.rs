//! Signs of life: which of the clients that were in contact with the vendor still ask anything at all. Without them nobody could
//! tell a client that stopped from one that is switched off. What they ask is not kept; that they asked is on record once a day.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};

use interdict_audit::{Entry, Index, Log};
use interdict_policy::{Policy, Timestamp};
use serde_json::json;

/// Places for clients that asked today. Two that fall on one take it from each other, until one asks again.
const PLACES: usize = 1 << 16;
/// Clients that were in contact.
const KNOWN_LIMIT: usize = 1 << 17;
const DAY_SECS: i64 = 86_400;

/// Who asked lately.
pub(crate) struct Alive {
    /// Of each place the mark of the client that asked last today; 0 for none.
    places: Box<[AtomicU64]>,
    marks: RandomState,
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    today: i64,
    /// Clients that were in contact, and whether it is on record that they asked today.
    clients: HashMap<IpAddr, bool>,
}

impl Alive {
    pub(crate) fn new() -> Self {
        let places = (0..PLACES).map(|_| AtomicU64::new(0)).collect();
        Self { places, marks: RandomState::new(), known: Mutex::default() }
    }

    /// Of every client that was in contact by the index of a record, which may not be there yet.
    pub(crate) fn of(index: &Index) -> Self {
        let alive = Self::new();
        // What cannot be read is known from its next contact on.
        let _ = index.daily(i64::MIN, i64::MAX, |daily| {
            daily.client.into_iter().for_each(|client| alive.was_in_contact(client))
        });
        alive
    }

    fn mark(&self, client: IpAddr) -> (&AtomicU64, u64) {
        let hash = self.marks.hash_one(client);
        (&self.places[hash as usize % PLACES], hash | 1)
    }

    /// A client asked something. One look into memory, and seldom more.
    pub(crate) fn asked(&self, client: IpAddr) {
        let (place, mark) = self.mark(client);
        if place.load(Relaxed) != mark {
            place.store(mark, Relaxed);
        }
    }

    /// A client was in contact: from now on it is of interest.
    pub(crate) fn was_in_contact(&self, client: IpAddr) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.clients.len() < KNOWN_LIMIT {
            known.clients.entry(client).or_insert(false);
        }
    }

    /// Puts on record who asked since the last time, once a day each. Call it every few seconds.
    pub(crate) fn tell(&self, policy: &Policy, log: &Log) {
        self.tell_of(Timestamp::now().as_second().div_euclid(DAY_SECS), |client| {
            log.record(
                Entry::noticed("client.alive", client, json!({}), policy.digest())
                    .of_unit(policy.unit(client)),
            );
        });
    }

    fn tell_of(&self, today: i64, mut each: impl FnMut(IpAddr)) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.today != today {
            known.today = today;
            known.clients.values_mut().for_each(|told| *told = false);
            // Who asked before midnight need not have asked since.
            self.places.iter().for_each(|place| place.store(0, Relaxed));
            return;
        }
        for (client, told) in known.clients.iter_mut().filter(|(_, told)| !**told) {
            let (place, mark) = self.mark(*client);
            if place.load(Relaxed) == mark {
                *told = true;
                each(*client);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_was_in_contact_and_asks_is_told_once_a_day() {
        let alive = Alive::new();
        let [one, two, other] =
            ["10.0.0.1", "10.0.0.2", "2001:db8::1"].map(|client| client.parse::<IpAddr>().unwrap());
        let told = |day| {
            let mut told: Vec<IpAddr> = Vec::new();
            alive.tell_of(day, |client| told.push(client));
            told.sort();
            told
        };
        assert!(told(1).is_empty());
        [one, two].into_iter().for_each(|client| alive.was_in_contact(client));
        assert!(told(1).is_empty());
        [one, other].into_iter().for_each(|client| alive.asked(client));
        assert_eq!(told(1), [one]);
        alive.asked(one);
        assert!(told(1).is_empty());
        alive.asked(two);
        alive.was_in_contact(other);
        assert_eq!(told(1), [two, other]);
        // The next day begins with nobody.
        assert!(told(2).is_empty());
        assert!(told(2).is_empty());
        alive.asked(one);
        assert_eq!(told(2), [one]);
    }
}
