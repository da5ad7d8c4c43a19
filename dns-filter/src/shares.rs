//! Places of which there is a bounded number in all, and of which each client has at most its share.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Places for one kind of work. Clones share what they count.
#[derive(Clone)]
pub(crate) struct Shares {
    limit: usize,
    limit_of_client: usize,
    taken: Arc<Mutex<Taken>>,
}

#[derive(Default)]
struct Taken {
    all: usize,
    of_client: HashMap<IpAddr, usize>,
}

impl Shares {
    /// So many places, and so many of them at most for one client.
    pub(crate) fn new(limit: usize, limit_of_client: usize) -> Self {
        Self { limit, limit_of_client, taken: Arc::default() }
    }

    /// One more place for a client, if there is one.
    pub(crate) fn take(&self, client: IpAddr) -> Option<Share> {
        let mut taken = self.taken();
        let of_client = taken.of_client.get(&client).copied().unwrap_or(0);
        if taken.all == self.limit || of_client == self.limit_of_client {
            return None;
        }
        taken.all += 1;
        taken.of_client.insert(client, of_client + 1);
        Some(Share { shares: self.clone(), client })
    }

    fn taken(&self) -> MutexGuard<'_, Taken> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A place, for as long as it is held.
pub(crate) struct Share {
    shares: Shares,
    client: IpAddr,
}

impl Drop for Share {
    fn drop(&mut self) {
        let mut taken = self.shares.taken();
        taken.all -= 1;
        match taken.of_client.get_mut(&self.client) {
            Some(of_client) if *of_client > 1 => *of_client -= 1,
            _ => drop(taken.of_client.remove(&self.client)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_bounded_for_each_client_and_for_all() {
        const LIMIT: usize = 1024;
        const LIMIT_OF_CLIENT: usize = 32;
        let shares = Shares::new(LIMIT, LIMIT_OF_CLIENT);
        let client = |number: usize| IpAddr::from([10, 0, (number >> 8) as u8, number as u8]);
        let mut held = Vec::new();
        for number in 0..LIMIT / LIMIT_OF_CLIENT {
            for _ in 0..LIMIT_OF_CLIENT {
                held.push(shares.take(client(number)).expect("there is room"));
            }
            assert!(shares.take(client(number)).is_none(), "client {number} has its share");
        }
        assert!(shares.take(client(999)).is_none(), "all places are taken");
        held.pop();
        assert!(shares.take(client(999)).is_some());
        drop(held);
        assert!(shares.taken().of_client.is_empty() && shares.taken().all == 0);
    }
}
