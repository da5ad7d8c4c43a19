//! What answers to questions told of addresses: which are open, which are open to one client, which are learned.

use std::{
    collections::{HashMap, HashSet},
    hash::Hash,
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock},
    time::Duration,
};

use aya::{
    Pod,
    maps::{HashMap as BpfHashMap, MapData},
};
use interdict_ebpf_shared::{
    Address, control,
    limits::{MAX_CLIENT_OPENINGS, MAX_LEARNED, MAX_OPENED},
    policy::{ClientOpening, Opening},
};
use interdict_policy::RuleId;

use crate::{control::Control, registry::Registry, staging::address as key, system::boot_time_ns};

/// Tells the kernel of addresses. Clones share what is told.
#[derive(Clone)]
pub struct Answers {
    shared: Arc<Shared>,
}

/// What became of a request to tell of addresses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Told {
    /// Addresses that the kernel knows now, at least as long as asked.
    pub known: usize,
    /// Addresses for which there was no room. They are also counted in [`crate::Counters::answers_overflow`].
    pub full: usize,
}

/// How full a table is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fill {
    /// What is in it.
    pub held: usize,
    /// What there was no room for so far.
    pub full: u64,
}

/// How full each table is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fills {
    /// Addresses open to everyone.
    pub opened: Fill,
    /// Addresses open to one client, counted once for each client.
    pub opened_to: Fill,
    /// Learned addresses.
    pub learned: Fill,
}

/// The kernel's tables.
pub(crate) struct Maps {
    pub(crate) opened: BpfHashMap<MapData, Address, Opening>,
    pub(crate) opened_to: BpfHashMap<MapData, ClientOpening, Opening>,
    pub(crate) learned: BpfHashMap<MapData, Address, Opening>,
}

struct Shared {
    opened: Mutex<Table<Address>>,
    opened_to: Mutex<Table<ClientOpening>>,
    learned: Mutex<Table<Address>>,
    /// Where connections go that are followed by their servers' names.
    named: Mutex<HashSet<Address>>,
    registry: Arc<RwLock<Registry>>,
    control: Arc<Control>,
}

impl Answers {
    pub(crate) fn new(maps: Maps, registry: Arc<RwLock<Registry>>, control: Arc<Control>) -> Self {
        let Maps { opened, opened_to, learned } = maps;
        let shared = Shared {
            opened: Table::new(opened, MAX_OPENED, control::OPEN_ADDRESSES, Registry::lets_through),
            opened_to: Table::new(
                opened_to,
                MAX_CLIENT_OPENINGS,
                control::CLIENT_OPENINGS,
                Registry::has_exemptions,
            ),
            learned: Table::new(learned, MAX_LEARNED, control::LEARNED_ADDRESSES, Registry::learns),
            named: Mutex::default(),
            registry,
            control,
        };
        lock(&shared.opened).publish(&shared.control);
        lock(&shared.opened_to).publish(&shared.control);
        lock(&shared.learned).publish(&shared.control);
        shared.publish_told();
        Self { shared: Arc::new(shared) }
    }

    /// Opens addresses under a rule for as long as asked. Nothing is opened for a rule that the policy in force does
    /// not have, or that blocks.
    ///
    /// An address that is open already stays so until the later of the two ends. The opening that ends later names the
    /// rule, unless its rule no longer lets anything through.
    pub fn open(&self, rule: &RuleId, addresses: &[IpAddr], ttl: Duration) -> Told {
        self.tell(&self.shared.opened, rule, addresses.iter().copied().map(key), ttl)
    }

    /// Opens addresses to one client, which is exempt from the rule, for as long as asked and as it is exempt.
    pub fn open_to(&self, client: IpAddr, rule: &RuleId, addresses: &[IpAddr], ttl: Duration) -> Told {
        let opening = |&address: &IpAddr| ClientOpening { client: key(client), remote: key(address) };
        self.tell(&self.shared.opened_to, rule, addresses.iter().map(opening), ttl)
    }

    /// Has a rule match addresses, where nothing else does, for as long as asked. Nothing is learned for a rule of the
    /// policy in force that does not learn.
    pub fn learn(&self, rule: &RuleId, addresses: &[IpAddr], ttl: Duration) -> Told {
        self.tell(&self.shared.learned, rule, addresses.iter().copied().map(key), ttl)
    }

    /// Has no rule match an address that was learned. Returns whether it was.
    pub fn forget(&self, address: IpAddr) -> bool {
        lock(&self.shared.learned).remove(&key(address), &self.shared.control)
    }

    /// The rule under which an address is open, and for how long.
    pub fn is_open(&self, address: IpAddr) -> Option<(RuleId, Duration)> {
        self.known(&self.shared.opened, key(address))
    }

    /// The rule by exemption from which an address is open to a client, and for how long, if the exemption lasts.
    pub fn is_open_to(&self, client: IpAddr, address: IpAddr) -> Option<(RuleId, Duration)> {
        self.known(&self.shared.opened_to, ClientOpening { client: key(client), remote: key(address) })
    }

    /// The rule that learned an address, and for how long.
    pub fn is_learned(&self, address: IpAddr) -> Option<(RuleId, Duration)> {
        self.known(&self.shared.learned, key(address))
    }

    /// Has the programs follow connections to these addresses, which were let through by their servers' names, and to no
    /// others. They begin by themselves to follow one; call it every second with all of them, so that they go on.
    pub(crate) fn follow(&self, remotes: Vec<Address>) {
        let remotes: HashSet<_> = remotes.into_iter().collect();
        let control = &self.shared.control;
        control.set_count(control::NAMED_FLOWS, remotes.len() as u64);
        remotes.iter().for_each(|&remote| control.add_told(remote));
        let mut named = lock(&self.shared.named);
        let some_are_over = !named.is_subset(&remotes);
        *named = remotes;
        drop(named);
        if some_are_over {
            self.shared.publish_told();
        }
    }

    /// Removes what has expired, and what is told of rules that no longer say so. Returns how many.
    ///
    /// The kernel passes over such entries by itself; this makes room. Call it every few seconds.
    pub fn expire(&self) -> usize {
        let Shared { opened, opened_to, learned, registry, control, .. } = &*self.shared;
        let registry = registry.read().unwrap_or_else(PoisonError::into_inner);
        let gone = lock(opened).expire(&registry, control)
            + lock(opened_to).expire(&registry, control)
            + lock(learned).expire(&registry, control);
        if gone > 0 {
            self.shared.publish_told();
        }
        gone
    }

    /// How full the tables are, with what has expired since [`Answers::expire`] was called last.
    pub fn fills(&self) -> Fills {
        let Shared { opened, opened_to, learned, .. } = &*self.shared;
        Fills {
            opened: lock(opened).fill(),
            opened_to: lock(opened_to).fill(),
            learned: lock(learned).fill(),
        }
    }

    /// Addresses for which there was no room so far.
    pub(crate) fn overflow(&self) -> u64 {
        let Fills { opened, opened_to, learned } = self.fills();
        opened.full + opened_to.full + learned.full
    }

    fn tell<K: Key>(
        &self,
        table: &Mutex<Table<K>>,
        rule: &RuleId,
        keys: impl Iterator<Item = K>,
        ttl: Duration,
    ) -> Told {
        let registry = self.shared.registry.read().unwrap_or_else(PoisonError::into_inner);
        let mut table = lock(table);
        let Some(slot) = registry.slot(rule).filter(|&slot| (table.holds)(&registry, slot)) else {
            return Told::default();
        };
        let ttl_ns = u64::try_from(ttl.as_nanos()).unwrap_or(u64::MAX);
        let opening = Opening { expires_ns: boot_time_ns().saturating_add(ttl_ns), rule: slot, zero: 0 };
        let mut told = Told::default();
        for key in keys {
            match table.add(key, opening, &registry) {
                true => {
                    self.shared.control.add_told(key.address());
                    told.known += 1;
                }
                false => told.full += 1,
            }
        }
        table.full += told.full as u64;
        table.publish(&self.shared.control);
        told
    }

    fn known<K: Key>(&self, table: &Mutex<Table<K>>, key: K) -> Option<(RuleId, Duration)> {
        let registry = self.shared.registry.read().unwrap_or_else(PoisonError::into_inner);
        let table = lock(table);
        let opening = table.known.get(&key)?;
        let remaining_ns =
            opening.expires_ns.checked_sub(boot_time_ns()).filter(|&remaining| remaining > 0)?;
        let rule = registry.rule(opening.rule).filter(|_| (table.holds)(&registry, opening.rule))?;
        Some((rule.clone(), Duration::from_nanos(remaining_ns)))
    }
}

impl Shared {
    /// Tells the programs at which addresses to look into the tables at all: those that are in one.
    fn publish_told(&self) {
        // With all locked nothing is told meanwhile.
        let (opened, opened_to, learned) = (lock(&self.opened), lock(&self.opened_to), lock(&self.learned));
        let named = lock(&self.named);
        let to_clients = opened_to.known.keys().map(Key::address);
        let all = opened.known.keys().chain(learned.known.keys()).chain(named.iter()).map(Key::address);
        self.control.set_told(all.chain(to_clients));
    }
}

/// What a table is asked for.
trait Key: Pod + Eq + Hash {
    /// The address that it is about.
    fn address(&self) -> Address;
}

impl Key for Address {
    fn address(&self) -> Address {
        *self
    }
}

impl Key for ClientOpening {
    fn address(&self) -> Address {
        self.remote
    }
}

/// Addresses, in the kernel and as we know them.
///
/// Only agents write the kernel's table, one after the other, so that ours says what is in it: asking for an address, or which have expired,
/// costs no system call.
struct Table<K> {
    kernel: BpfHashMap<MapData, K, Opening>,
    known: HashMap<K, Opening>,
    limit: u32,
    /// What there was no room for.
    full: u64,
    /// The control word that says how many there are.
    word: u32,
    /// Whether the policy in force has a rule say so.
    holds: fn(&Registry, u32) -> bool,
}

impl<K: Key> Table<K> {
    fn new(
        kernel: BpfHashMap<MapData, K, Opening>,
        limit: u32,
        word: u32,
        holds: fn(&Registry, u32) -> bool,
    ) -> Mutex<Self> {
        // What an earlier agent told of holds until it ends.
        let known = kernel.iter().filter_map(Result::ok).collect();
        Mutex::new(Self { kernel, known, limit, full: 0, word, holds })
    }

    /// Whether the kernel knows it now.
    fn add(&mut self, key: K, opening: Opening, registry: &Registry) -> bool {
        let known = self.known.get(&key);
        if known
            .is_some_and(|known| known.expires_ns >= opening.expires_ns && (self.holds)(registry, known.rule))
        {
            return true;
        }
        let has_room = known.is_some() || self.known.len() < self.limit as usize;
        let added = has_room && self.kernel.insert(key, opening, 0).is_ok();
        if added {
            self.known.insert(key, opening);
        }
        added
    }

    fn expire(&mut self, registry: &Registry, control: &Control) -> usize {
        let now_ns = boot_time_ns();
        let gone = |opening: &Opening| opening.expires_ns <= now_ns || !(self.holds)(registry, opening.rule);
        let gone: Vec<K> =
            self.known.iter().filter(|(_, opening)| gone(opening)).map(|(key, _)| *key).collect();
        for key in &gone {
            self.drop_entry(key);
        }
        self.publish(control);
        gone.len()
    }

    fn remove(&mut self, key: &K, control: &Control) -> bool {
        let was_known = self.drop_entry(key);
        self.publish(control);
        was_known
    }

    fn drop_entry(&mut self, key: &K) -> bool {
        // An address that the kernel does not have is as closed as it can be.
        let _ = self.kernel.remove(key);
        self.known.remove(key).is_some()
    }

    fn fill(&self) -> Fill {
        Fill { held: self.known.len(), full: self.full }
    }

    /// Tells the programs how many there are, and so whether to look.
    fn publish(&self, control: &Control) {
        control.set_count(self.word, self.known.len() as u64);
    }
}

fn lock<T>(table: &Mutex<T>) -> MutexGuard<'_, T> {
    // Each change of a table is whole before the next begins: a panic elsewhere leaves it as it should be.
    table.lock().unwrap_or_else(PoisonError::into_inner)
}
