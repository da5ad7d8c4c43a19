//! How many packets of each client each rule decided: exact, for as many clients as there is room for.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
};

use aya::maps::{HashMap as BpfHashMap, MapData};
use interdict_ebpf_shared::{
    contact::{AccountKey, BeyondKey, ContactCounts, ContactKey, Hook},
    count::Count,
    maps,
    policy::Verdict,
};
use interdict_policy::RuleId;

use crate::{
    Error,
    events::ip,
    registry::{Registry, word_of},
    seats::Seats,
    staging::named,
};

/// What one client's packets came to under one rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientCount {
    /// The client; `None` for what comes from the outside, where addresses are translated.
    pub client: Option<IpAddr>,
    /// The rule.
    pub rule: RuleId,
    /// What was done.
    pub verdict: interdict_policy::Verdict,
    /// Where they were met.
    pub hook: Hook,
    /// How many they were.
    pub count: Count,
}

/// What the packets of clients for whom there was no room came to under one rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BeyondCount {
    /// The id of the clients' unit; `None` for those of none, or of one that the policy in force does not have.
    pub unit: Option<String>,
    /// The rule.
    pub rule: RuleId,
    /// What was done.
    pub verdict: interdict_policy::Verdict,
    /// Where they were met.
    pub hook: Hook,
    /// How many they were.
    pub count: Count,
}

/// The accounts: those of contacts that are over, and what contacts at present add to them.
pub(crate) struct Accounts {
    seats: Arc<Seats>,
    contacts: BpfHashMap<MapData, ContactKey, ContactCounts>,
    over: Mutex<BpfHashMap<MapData, AccountKey, Count>>,
    beyond: BpfHashMap<MapData, BeyondKey, Count>,
}

impl Accounts {
    pub(crate) const fn new(
        seats: Arc<Seats>,
        contacts: BpfHashMap<MapData, ContactKey, ContactCounts>,
        over: BpfHashMap<MapData, AccountKey, Count>,
        beyond: BpfHashMap<MapData, BeyondKey, Count>,
    ) -> Self {
        Self { seats, contacts, over: Mutex::new(over), beyond }
    }

    /// The counts of clients for whom there was no room, in no order.
    pub(crate) fn read_beyond(&self, registry: &Registry) -> Result<Vec<BeyondCount>, Error> {
        let mut all = BTreeMap::<BeyondKey, Count>::new();
        for counted in self.beyond.iter() {
            let (key, count) = counted.map_err(named(maps::BEYOND))?;
            // Units that are gone are counted together with none.
            let unit = if registry.unit(key.unit).is_some() { key.unit } else { 0 };
            add(all.entry(BeyondKey { unit, ..key }).or_default(), count);
        }
        let in_words = |(key, count): (BeyondKey, Count)| {
            Some(BeyondCount {
                unit: registry.unit(key.unit).map(str::to_owned),
                rule: registry.rule(key.rule)?.clone(),
                verdict: word_of(Verdict::from_code(key.verdict.into())?),
                hook: Hook::from_code(key.hook)?,
                count,
            })
        };
        Ok(all.into_iter().filter_map(in_words).collect())
    }

    /// Every account, in no order.
    pub(crate) fn read(&self, registry: &Registry) -> Result<Vec<ClientCount>, Error> {
        // Held all the while: a contact that ends would be in both, or in neither.
        let over = self.over.lock().unwrap_or_else(PoisonError::into_inner);
        let mut accounts: BTreeMap<AccountKey, Count> =
            over.iter().collect::<Result<_, _>>().map_err(named(maps::ACCOUNTS))?;
        let seated = self.seats.taken().map(|(_, seat)| Ok((seat.key, seat.counts)));
        for contact in seated.chain(self.contacts.iter()) {
            let (key, counts) = contact.map_err(named(maps::CONTACTS))?;
            add(accounts.entry(key.account()).or_default(), total(&counts));
        }
        Ok(accounts.into_iter().filter_map(|(key, count)| in_words(&key, count, registry)).collect())
    }

    /// Ends a contact: what it came to stays in its account. `false` where there is no room for another account, and the
    /// contact is left as it is.
    pub(crate) fn end(&self, key: &ContactKey, remove: impl FnOnce() -> Option<ContactCounts>) -> bool {
        let mut over = self.over.lock().unwrap_or_else(PoisonError::into_inner);
        let account = key.account();
        let mut count = over.get(&account, 0).unwrap_or_default();
        // So that there is room when the contact is gone.
        if over.insert(account, count, 0).is_err() {
            return false;
        }
        if let Some(counts) = remove() {
            add(&mut count, total(&counts));
            let _ = over.insert(account, count, 0);
        }
        true
    }
}

fn add(to: &mut Count, more: Count) {
    to.packets += more.packets;
    to.bytes += more.bytes;
}

fn total(counts: &ContactCounts) -> Count {
    Count {
        packets: counts.event_packets + counts.unsampled_packets,
        bytes: counts.event_bytes + counts.unsampled_bytes,
    }
}

fn in_words(key: &AccountKey, count: Count, registry: &Registry) -> Option<ClientCount> {
    (count.packets > 0).then_some(())?;
    Some(ClientCount {
        client: Some(ip(key.client)).filter(|address| !address.is_unspecified()),
        rule: registry.rule(key.rule)?.clone(),
        verdict: word_of(Verdict::from_code(key.verdict.into())?),
        hook: Hook::from_code(key.hook)?,
        count,
    })
}
