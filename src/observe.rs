//! From what the DNS plane sees to what is recorded.

use std::collections::HashMap;
use std::collections::hash_map::Entry as Place;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use hickory_proto::rr::RecordType;
use interdict_audit::{Asked, Entry, Log};
use interdict_dns_filter::{Answered, Egress, Exchange, Observer, Seen};
use interdict_ebpf_loader::Answers;
use interdict_policy::{Digest, Name, RuleId, Timestamp, Verdict};

use crate::alive::Alive;
use crate::dnstap::Tap;
use crate::fallback::Fallback;
use crate::learn::{Learning, Resolved};
use crate::selftest::Canary;

/// Questions of one client under one rule, in one second, that have an event each; more are counted in one event.
const EVENTS_A_SECOND: u32 = 100;
const SECOND: Duration = Duration::from_secs(1);
/// For how long a name's addresses stay open, whatever its TTL says.
const OPEN_AT_LEAST: Duration = Duration::from_secs(60);
const OPEN_AT_MOST: Duration = Duration::from_secs(3600);
/// Clients whose questions are counted at a time. Questions of more have an event each, as far as the log has room.
const CLIENTS_LIMIT: usize = 65_536;
/// Rules for each of them, likewise.
const RULES_LIMIT: usize = 64;

/// Records what the DNS plane sees, and tells the kernel of addresses.
pub(crate) struct Recorder {
    log: Log,
    fallback: Arc<Fallback>,
    kernel: Option<Kernel>,
    contacts: Mutex<HashMap<IpAddr, Vec<Contact>>>,
    canary: Arc<Canary>,
    alive: Arc<Alive>,
    tap: Option<Tap>,
}

/// Who is told of addresses where packets are filtered.
pub(crate) struct Kernel {
    /// Opens those of names that are let through.
    pub(crate) answers: Answers,
    /// Learns those of names whose rule learns.
    pub(crate) learning: Arc<Learning>,
}

/// What one client asked under one rule of one policy.
struct Contact {
    rule: RuleId,
    verdict: Verdict,
    digest: Digest,
    /// When the current second began.
    since: Instant,
    /// Events recorded in it.
    events: u32,
    /// Questions without one.
    unreported: Option<Counted>,
}

/// Questions that were too many for an event each.
struct Counted {
    /// The event of the first of them, whose name stands for all.
    sample: Entry,
    count: u64,
    first: SystemTime,
    /// By the clock that is read for each of them anyway.
    last: Instant,
}

impl Recorder {
    pub(crate) fn new(
        log: Log,
        kernel: Option<Kernel>,
        fallback: Arc<Fallback>,
        alive: Arc<Alive>,
        tap: Option<Tap>,
    ) -> Self {
        Self { log, fallback, kernel, contacts: Mutex::default(), canary: Arc::default(), alive, tap }
    }

    /// What the self-test asks for, which is no contact.
    pub(crate) fn canary(&self) -> Arc<Canary> {
        self.canary.clone()
    }

    /// Records what was only counted so far, and forgets who has asked nothing for a second. Call it once a second,
    /// and before the log ends.
    pub(crate) fn sweep(&self) {
        let mut contacts = self.contacts.lock().unwrap_or_else(PoisonError::into_inner);
        contacts.retain(|_, of_client| {
            of_client.retain_mut(|contact| {
                contact.tell(&self.log);
                contact.since.elapsed() < SECOND
            });
            !of_client.is_empty()
        });
    }
}

impl Observer for Recorder {
    fn asked(&self, client: IpAddr) {
        self.alive.asked(client);
    }

    fn seen(&self, seen: &Seen<'_>) {
        if self.canary.is(seen.client, seen.name) {
            return;
        }
        if let Some(resolver) = seen.asked {
            let of_unit = |entry: Entry| entry.of_unit(seen.policy.unit(seen.client));
            self.fallback.saw(seen.client, resolver, seen.policy.digest(), of_unit);
        }
        let mut contacts = self.contacts.lock().unwrap_or_else(PoisonError::into_inner);
        let has_room = contacts.len() < CLIENTS_LIMIT;
        let of_client = match contacts.entry(seen.client) {
            Place::Occupied(known) => Some(known.into_mut()),
            Place::Vacant(place) => {
                self.alive.was_in_contact(seen.client);
                has_room.then(|| place.insert(Vec::new()))
            }
        };
        match of_client.and_then(|of_client| contact(of_client, seen)) {
            Some(contact) => contact.add(&self.log, seen),
            None => self.log.record(entry(seen)),
        }
    }

    fn exchanged(&self, exchange: &Exchange<'_>) {
        if let Some(tap) = &self.tap {
            tap.take(exchange);
        }
    }

    fn egress(&self, egress: &Egress<'_>) {
        let Egress { client, asked, channel, rule, policy } = *egress;
        // What is diverted comes over one of the two.
        let (channel, protocol) = (channel.as_str(), channel.as_str());
        let (address, port) = (asked.ip(), Some(asked.port()));
        let asked = Asked::Address { address, port, protocol: protocol.to_owned() };
        let (verdict, id) = (rule.action.into(), rule.id.as_str());
        self.log.record(
            Entry::dns(channel, client, asked, verdict, id, &rule.role, policy.digest())
                .of_unit(policy.unit(client)),
        );
    }

    /// Opens the addresses to whom the name was let through to, and has rules that learn match them.
    fn answered(&self, answered: &Answered<'_>) {
        let Some(Kernel { answers, learning }) = &self.kernel else { return };
        let Answered { client, name, rule, verdict, policy, addresses, ttl } = *answered;
        // Names of public resolvers are only watched: their addresses stay under the other keys of `[egress_dns]`.
        if policy.egress_rules().doh.is_some_and(|doh| policy.rule(doh).id == rule.id) {
            return learning.answered_elsewhere(name, Some(rule), &mut addresses.iter().copied());
        }
        let open_for = ttl.clamp(OPEN_AT_LEAST, OPEN_AT_MOST);
        let told = match verdict {
            Verdict::Exempt => answers.open_to(client, &rule.id, addresses, open_for),
            _ => answers.open(&rule.id, addresses, open_for),
        };
        if told.full > 0 {
            tracing::debug!(full = told.full, "no room to open more addresses in the kernel");
        }
        if rule.learn {
            learning.learn(&Resolved { policy, rule, name, addresses, ttl });
        } else {
            learning.answered_elsewhere(name, Some(rule), &mut addresses.iter().copied());
        }
    }

    fn unlisted(&self, name: Name<'_>, addresses: &mut dyn Iterator<Item = IpAddr>) {
        if let Some(Kernel { learning, .. }) = &self.kernel {
            learning.answered_elsewhere(name, None, addresses);
        }
    }
}

/// The client's contact under a rule, a new one if need be; `None` where there is no room for one.
fn contact<'c>(of_client: &'c mut Vec<Contact>, seen: &Seen<'_>) -> Option<&'c mut Contact> {
    let digest = seen.policy.digest();
    let is_it = |known: &Contact| {
        known.rule == seen.rule.id && known.verdict == seen.verdict && known.digest == digest
    };
    let at = match of_client.iter().position(is_it) {
        Some(at) => at,
        None if of_client.len() == RULES_LIMIT => return None,
        None => {
            let (rule, verdict, since) = (seen.rule.id.clone(), seen.verdict, Instant::now());
            of_client.push(Contact { rule, verdict, digest, since, events: 0, unreported: None });
            of_client.len() - 1
        }
    };
    of_client.get_mut(at)
}

impl Contact {
    fn add(&mut self, log: &Log, seen: &Seen<'_>) {
        let now = Instant::now();
        if now.saturating_duration_since(self.since) >= SECOND {
            self.tell(log);
            (self.since, self.events) = (now, 0);
        }
        if self.events < EVENTS_A_SECOND {
            self.events += 1;
            return log.record(entry(seen));
        }
        let counted = self.unreported.get_or_insert_with(|| Counted {
            sample: entry(seen),
            count: 0,
            first: SystemTime::now(),
            last: now,
        });
        counted.count += 1;
        counted.last = now;
    }

    /// Records what was only counted.
    fn tell(&mut self, log: &Log) {
        if let Some(Counted { sample, count, first, last }) = self.unreported.take() {
            log.record(sample.counted(count, first, (SystemTime::now() - last.elapsed()).max(first)));
        }
    }
}

fn entry(seen: &Seen<'_>) -> Entry {
    let asked = Asked::Name {
        name: seen.name.to_string(),
        rtype: RecordType::from(seen.qtype).to_string(),
        via: seen.via.map(ToString::to_string),
        resolver: seen.asked,
    };
    let channel = seen.channel.as_str();
    let (rule, policy) = (seen.rule, seen.policy);
    let exemption = policy
        .find_rule(rule.id.as_str())
        .filter(|_| seen.verdict == Verdict::Exempt)
        .and_then(|index| policy.exemption(seen.client, index, Timestamp::now()));
    Entry::dns(channel, seen.client, asked, seen.verdict, rule.id.as_str(), &rule.role, policy.digest())
        .of_unit(policy.unit(seen.client))
        .exempt_by(exemption.map(|exemption| exemption.id.as_str()))
}
