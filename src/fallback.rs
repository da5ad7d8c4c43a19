//! The burst by which a banned product gives itself away: when its names do not resolve, it asks a known list of public
//! resolvers for them, one after another.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use interdict_audit::{Entry, Log};
use interdict_policy::{Digest, packs};
use serde_json::json;

/// How many of the resolvers one client must have asked, within what time.
const RESOLVERS_ASKED: u32 = 3;
const WITHIN: Duration = Duration::from_secs(60);
/// A client's bursts are told once in this time.
const TOLD_AGAIN_AFTER: Duration = Duration::from_secs(600);
/// Clients that are watched at one time. More are not, until others have been silent.
const CLIENTS_LIMIT: usize = 16_384;

/// Watches which client asks which of the resolvers for names that a rule concerns.
pub(crate) struct Fallback {
    log: Log,
    resolvers: Vec<IpAddr>,
    clients: Mutex<HashMap<IpAddr, Asking>>,
}

/// What one client has asked.
struct Asking {
    since: Instant,
    /// A bit for each resolver.
    asked: u64,
    told: Option<Instant>,
}

impl Fallback {
    pub(crate) fn new(log: Log) -> Self {
        Self { log, resolvers: packs::fallback_resolvers(), clients: Mutex::default() }
    }

    /// A client asked a resolver for a name that a rule concerns. `of_unit` says of an event whose the client is.
    pub(crate) fn saw(
        &self,
        client: IpAddr,
        resolver: IpAddr,
        digest: Digest,
        of_unit: impl FnOnce(Entry) -> Entry,
    ) {
        let Some(bit) = self.resolvers.iter().position(|known| *known == resolver) else { return };
        let now = Instant::now();
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        if clients.len() >= CLIENTS_LIMIT {
            clients.retain(|_, asking| asking.is_worth_keeping(now));
        }
        if clients.len() >= CLIENTS_LIMIT && !clients.contains_key(&client) {
            return;
        }
        let asking = clients.entry(client).or_insert(Asking { since: now, asked: 0, told: None });
        if now.duration_since(asking.since) > WITHIN {
            (asking.since, asking.asked) = (now, 0);
        }
        asking.asked |= 1 << bit;
        let is_news = asking.told.is_none_or(|told| now.duration_since(told) > TOLD_AGAIN_AFTER);
        if asking.asked.count_ones() < RESOLVERS_ASKED || !is_news {
            return;
        }
        asking.told = Some(now);
        let asked = self.resolvers.iter().enumerate().filter(|(bit, _)| asking.asked >> bit & 1 == 1);
        let asked: Vec<&IpAddr> = asked.map(|(_, resolver)| resolver).collect();
        tracing::info!("a client asks the banned product's fallback resolvers, one after another");
        let detail =
            json!({ "resolvers": asked, "of": self.resolvers.len(), "within_secs": WITHIN.as_secs() });
        self.log.record(of_unit(Entry::noticed("fallback.burst", client, detail, digest)));
    }
}

impl Asking {
    fn is_worth_keeping(&self, now: Instant) -> bool {
        let was_told = self.told.is_some_and(|told| now.duration_since(told) < TOLD_AGAIN_AFTER);
        was_told || now.duration_since(self.since) < WITHIN
    }
}
