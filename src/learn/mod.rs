//! Addresses that a rule matches because names of the rule resolved to them.
//!
//! Answers are hostile input: whoever owns a banned name points it where they like. So an address is matched only when
//! none of these holds it back:
//!
//! 1. it is one that no vendor owns alone, such as ours, or a public resolver's (`never.rs`);
//! 2. its name has had its share of addresses already;
//! 3. it serves names that are not banned, too: then it is known as shared, and passes;
//! 4. the kernel has no room for it.
//!
//! The kernel's table says what is matched and until when. What stands here is what it has no words for: for which name,
//! and with which other name an address is shared. `rounds.rs` asks for names that no client ever resolves, since they
//! are blocked.

mod elsewhere;
mod never;
mod rounds;

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Duration, Instant};

use interdict_ebpf_loader::Answers;
use interdict_policy::{Action, DomainName, IpNet, Name, Policy, Rule, RuleId};

use self::elsewhere::Elsewhere;
use self::never::{Never, Refusal};

pub(crate) use self::rounds::{Rounds, keep_rounds};

/// Addresses that are learned for one name. Real services of one name have fewer at a time.
const ADDRESSES_OF_A_NAME_LIMIT: usize = 32;
/// Shared addresses that are known at a time. What is learned is limited by the kernel's table.
const SHARED_LIMIT: usize = 16_384;
/// For how long an address is matched at most, whatever its TTL says.
const MATCHED_AT_MOST: Duration = Duration::from_secs(3600);

/// What a name of a rule that learns resolved to.
#[derive(Clone, Copy)]
pub(crate) struct Resolved<'a> {
    pub(crate) policy: &'a Policy,
    pub(crate) rule: &'a Rule,
    pub(crate) name: Name<'a>,
    pub(crate) addresses: &'a [IpAddr],
    pub(crate) ttl: Duration,
}

/// What the kernel matches.
pub(crate) trait Matching: Send + Sync {
    /// Has a rule match an address for a time.
    fn start(&self, rule: &RuleId, address: IpAddr, ttl: Duration) -> Started;

    /// Has no rule match it any more.
    fn stop(&self, address: IpAddr);
}

/// What became of a request to match an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Started {
    Matched,
    NoRoom,
    /// The rule does not learn, in the policy in force.
    NotLearning,
}

impl Matching for Answers {
    fn start(&self, rule: &RuleId, address: IpAddr, ttl: Duration) -> Started {
        let told = self.learn(rule, &[address], ttl);
        match (told.known, told.full) {
            (1.., _) => Started::Matched,
            (0, 1..) => Started::NoRoom,
            (0, 0) => Started::NotLearning,
        }
    }

    fn stop(&self, address: IpAddr) {
        self.forget(address);
    }
}

/// Learns addresses, and knows which are shared.
pub(crate) struct Learning {
    kernel: Box<dyn Matching>,
    elsewhere: Elsewhere,
    never: RwLock<Never>,
    table: Mutex<Table>,
    /// Whether a rule of the policy in force learns: if not, other answers are of no interest.
    learns: AtomicBool,
    /// Whether any address is in the table.
    holds_any: AtomicBool,
    refused: [AtomicU64; Refusal::ALL.len()],
}

/// What is known of an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Learned {
    /// The rule of the name.
    pub(crate) rule: RuleId,
    /// The name that it was answered for.
    pub(crate) name: DomainName,
    /// For how long it stays known.
    pub(crate) remaining: Duration,
    /// Whether it is matched.
    pub(crate) standing: Standing,
}

/// Whether a learned address is matched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    Matched,
    /// It was answered for another name as well, which is `None` where that was before the address was learned.
    SharedWith(Option<DomainName>),
}

impl Learning {
    pub(crate) fn new(
        kernel: Box<dyn Matching>,
        policy: Arc<Policy>,
        safe: Vec<IpNet>,
        ours: Vec<IpAddr>,
    ) -> Self {
        Self {
            kernel,
            elsewhere: Elsewhere::new(),
            never: RwLock::new(Never { safe, ours }),
            learns: AtomicBool::new(learns(&policy)),
            table: Mutex::new(Table::new(policy)),
            holds_any: AtomicBool::new(false),
            refused: Default::default(),
        }
    }

    /// Has the rule match addresses that one of its names resolved to.
    pub(crate) fn learn(&self, resolved: &Resolved<'_>) {
        for &address in resolved.addresses.iter().filter(|_| !resolved.ttl.is_zero()) {
            if let Err(refusal) = self.learn_one(address.to_canonical(), resolved) {
                self.count(refusal);
            }
        }
    }

    fn learn_one(&self, address: IpAddr, resolved: &Resolved<'_>) -> Result<(), Refusal> {
        let refusal = self.read_never().refuse(address, resolved.policy);
        refusal.map_or(Ok(()), Err)?;
        let mut table = self.lock();
        // First this, then the look elsewhere: an answer for another name leaves its address there first, and then looks
        // whether there is anything here. So one of the two sees the other.
        self.holds_any.store(true, Ordering::SeqCst);
        let outcome = self.learn_in(&mut table, address, resolved);
        self.publish(&table);
        outcome
    }

    fn learn_in(&self, table: &mut Table, address: IpAddr, resolved: &Resolved<'_>) -> Result<(), Refusal> {
        let Resolved { rule, name, .. } = *resolved;
        let ttl = resolved.ttl.min(MATCHED_AT_MOST);
        let entry = Entry {
            rule: rule.id.clone(),
            ban: rule.ban.clone(),
            name: name.to_owned(),
            ends: Instant::now() + ttl,
            standing: Standing::Matched,
        };
        match table.addresses.get(&address) {
            Some(known) if known.is_shared() => {
                table.put(address, Entry { standing: known.standing.clone(), ..entry });
                return Ok(());
            }
            // Two bans at one address: it is nobody's own.
            Some(known) if known.ban != rule.ban => {
                self.share(table, address, name);
                return Ok(());
            }
            Some(_) => {}
            None if table.has_all_of(&entry.name) => return Err(Refusal::LimitOfName),
            None if self.elsewhere.has(address) => {
                return table.put_shared(address, Entry { standing: Standing::SharedWith(None), ..entry });
            }
            None => {}
        }
        match self.kernel.start(&rule.id, address, ttl) {
            Started::Matched => table.put(address, entry),
            Started::NoRoom => return Err(Refusal::NoRoom),
            Started::NotLearning => {}
        }
        Ok(())
    }

    /// Notes that addresses were answered for another name, on no list or let through by a rule that does not learn.
    pub(crate) fn answered_elsewhere(
        &self,
        name: Name<'_>,
        rule: Option<&Rule>,
        addresses: &mut dyn Iterator<Item = IpAddr>,
    ) {
        if !self.learns.load(Ordering::Relaxed) {
            return;
        }
        let banned_by = rule.filter(|rule| is_banned(rule));
        for address in addresses {
            let address = address.to_canonical();
            if banned_by.is_none() {
                self.elsewhere.add(address);
            }
            if self.holds_any.load(Ordering::SeqCst) {
                self.share_unless_of_its_ban(address, name, banned_by);
            }
        }
    }

    fn share_unless_of_its_ban(&self, address: IpAddr, name: Name<'_>, banned_by: Option<&Rule>) {
        let mut table = self.lock();
        let Some(known) = table.addresses.get(&address) else { return };
        if banned_by.is_none_or(|rule| rule.ban != known.ban) {
            self.share(&mut table, address, name);
            self.publish(&table);
        }
    }

    /// From now on it passes. What is shared already gets to know with which name.
    fn share(&self, table: &mut Table, address: IpAddr, name: Name<'_>) {
        let Some(known) = table.addresses.get(&address) else { return };
        if matches!(known.standing, Standing::SharedWith(Some(_))) {
            return;
        }
        self.kernel.stop(address);
        let shared = Entry { standing: Standing::SharedWith(Some(name.to_owned())), ..known.clone() };
        if table.put_shared(address, shared).is_err() {
            table.remove(&address);
            self.count(Refusal::NoRoom);
        }
    }

    /// Follows the policy, this machine's addresses, and the time. Call it every second.
    pub(crate) fn follow(&self, policy: &Arc<Policy>, ours: Vec<IpAddr>) {
        let moved = self.read_never().ours != ours;
        if moved {
            self.never.write().unwrap_or_else(PoisonError::into_inner).ours = ours;
        }
        let mut table = self.lock();
        if table.policy.digest() != policy.digest() {
            self.turn_to(policy, &mut table);
        }
        if moved {
            self.keep_away(&mut table);
        }
        table.expire(Instant::now());
        self.publish(&table);
    }

    /// Changes the networks to which no packet is dropped.
    pub(crate) fn set_safe(&self, safe: Vec<IpNet>) {
        self.never.write().unwrap_or_else(PoisonError::into_inner).safe = safe;
        let mut table = self.lock();
        self.keep_away(&mut table);
        self.publish(&table);
    }

    /// Goes by another policy. What was seen elsewhere may be banned now; it comes again soon.
    fn turn_to(&self, policy: &Arc<Policy>, table: &mut Table) {
        table.policy = policy.clone();
        self.learns.store(learns(policy), Ordering::Relaxed);
        self.elsewhere.clear();
        let learners = policy.rules().iter().filter(|rule| rule.learn);
        let learners: HashMap<&RuleId, &Rule> = learners.map(|rule| (&rule.id, rule)).collect();
        self.drop_those(table, |_, entry| {
            let learner = learners.get(&entry.rule);
            learner.is_none_or(|rule| rule.ban != entry.ban) || !entry.stands_under(policy)
        });
    }

    /// Forgets what must never be matched.
    fn keep_away(&self, table: &mut Table) {
        let (never, policy) = (self.read_never().clone(), table.policy.clone());
        self.drop_those(table, |address, _| never.refuse(*address, &policy).is_some());
    }

    fn drop_those(&self, table: &mut Table, which: impl Fn(&IpAddr, &Entry) -> bool) {
        let gone = table.addresses.iter().filter(|(address, entry)| which(address, entry));
        for address in gone.map(|(address, _)| *address).collect::<Vec<_>>() {
            self.kernel.stop(address);
            table.remove(&address);
        }
    }

    /// What is known of an address, if it was learned.
    pub(crate) fn about(&self, address: IpAddr) -> Option<Learned> {
        let table = self.lock();
        let Entry { rule, name, ends, standing, .. } = table.addresses.get(&address.to_canonical())?.clone();
        let remaining = ends.checked_duration_since(Instant::now())?;
        Some(Learned { rule, name, remaining, standing })
    }

    /// Addresses known as shared.
    pub(crate) fn shared(&self) -> usize {
        self.lock().shared
    }

    /// How many addresses were not learned, by the reason's word.
    pub(crate) fn refusals(&self) -> impl Iterator<Item = (&'static str, u64)> {
        Refusal::ALL
            .into_iter()
            .map(|refusal| (refusal.as_str(), self.refused[refusal as usize].load(Ordering::Relaxed)))
    }

    fn count(&self, refusal: Refusal) {
        self.refused[refusal as usize].fetch_add(1, Ordering::Relaxed);
    }

    fn publish(&self, table: &Table) {
        self.holds_any.store(!table.addresses.is_empty(), Ordering::SeqCst);
    }

    fn read_never(&self) -> std::sync::RwLockReadGuard<'_, Never> {
        self.never.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn learns(policy: &Policy) -> bool {
    policy.rules().iter().any(|rule| rule.learn)
}

/// Whether a rule's names are such as a ban is about: those of an exception or of a rule that only looks on are not.
fn is_banned(rule: &Rule) -> bool {
    rule.learn || rule.action == Action::Block
}

/// What was learned, by address.
struct Table {
    policy: Arc<Policy>,
    addresses: HashMap<IpAddr, Entry>,
    /// How many addresses each name has among them.
    names: HashMap<DomainName, usize>,
    /// How many of them are shared.
    shared: usize,
}

#[derive(Clone)]
struct Entry {
    rule: RuleId,
    ban: Option<String>,
    name: DomainName,
    ends: Instant,
    standing: Standing,
}

impl Table {
    fn new(policy: Arc<Policy>) -> Self {
        Self { policy, addresses: HashMap::new(), names: HashMap::new(), shared: 0 }
    }

    /// Enters an address. One that is there already stays until the later of the two ends, under the name that has it.
    fn put(&mut self, address: IpAddr, new: Entry) {
        let entry = match self.remove(&address) {
            Some(known) if known.ends > new.ends => Entry { standing: new.standing, ..known },
            _ => new,
        };
        *self.names.entry(entry.name.clone()).or_default() += 1;
        self.shared += usize::from(entry.is_shared());
        self.addresses.insert(address, entry);
    }

    /// Enters a shared address, if there is room.
    fn put_shared(&mut self, address: IpAddr, new: Entry) -> Result<(), Refusal> {
        let is_there = self.addresses.get(&address).is_some_and(Entry::is_shared);
        if !is_there && self.shared >= SHARED_LIMIT {
            return Err(Refusal::NoRoom);
        }
        self.put(address, new);
        Ok(())
    }

    fn remove(&mut self, address: &IpAddr) -> Option<Entry> {
        let entry = self.addresses.remove(address)?;
        self.shared -= usize::from(entry.is_shared());
        if let Some(count) = self.names.get_mut(&entry.name) {
            *count -= 1;
            if *count == 0 {
                self.names.remove(&entry.name);
            }
        }
        Some(entry)
    }

    fn has_all_of(&self, name: &DomainName) -> bool {
        self.names.get(name).is_some_and(|count| *count >= ADDRESSES_OF_A_NAME_LIMIT)
    }

    /// Removes what has ended; the kernel does so by itself.
    fn expire(&mut self, now: Instant) {
        let ended = self.addresses.iter().filter(|(_, entry)| entry.ends <= now);
        for address in ended.map(|(address, _)| *address).collect::<Vec<_>>() {
            self.remove(&address);
        }
    }
}

impl Entry {
    fn is_shared(&self) -> bool {
        self.standing != Standing::Matched
    }

    /// Whether it is still so under another policy, in which its rule learns: its name is of the ban, and the name that it
    /// is shared with is not.
    fn stands_under(&self, policy: &Policy) -> bool {
        let is_of_its_ban = |name: &DomainName| {
            let found = policy.decide_name(name.as_name()).map(|found| policy.rule(found.rule));
            found.is_some_and(|rule| is_banned(rule) && rule.ban == self.ban)
        };
        let standing_holds = match &self.standing {
            Standing::Matched => true,
            Standing::SharedWith(other) => other.as_ref().is_some_and(|other| !is_of_its_ban(other)),
        };
        is_of_its_ban(&self.name) && standing_holds
    }
}

#[cfg(test)]
mod tests;
