//! What the programs recorded: packets by themselves, and counts of packets that were too many for that.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv6Addr},
    os::fd::{AsFd as _, BorrowedFd},
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use aya::{
    Pod,
    maps::{HashMap as BpfHashMap, MapData, MapError, RingBuf},
};
use interdict_ebpf_shared::{
    Address,
    contact::{ContactCounts, ContactKey, Event, FLAG_FRAGMENT, FLAG_PORTS_UNKNOWN, Hook, Remote},
    limits::MAX_CONTACTS,
    maps,
    policy::Verdict,
    query::QueryEvent,
};
use interdict_policy::{Digest, RuleId};

use crate::{
    Error, Moment,
    clock::Clock,
    control::Control,
    registry::{Registry, word_of},
    staging::named,
};

/// A contact is forgotten after this long without a packet, unless [`EventReader::forget_after`] says otherwise.
const IDLE: Duration = Duration::from_secs(60);

/// A contact of a policy that is no longer in force is forgotten sooner: it can have no more packets.
const RETIRED_IDLE: Duration = Duration::from_secs(5);

/// Packets that a rule matched: one, or as many as `count` says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Contact {
    /// When the first of them came.
    pub first: Moment,
    /// When the last of them came; for a single packet the same as `first`.
    pub last: Moment,
    /// The policy by which all of them were judged.
    pub digest: Digest,
    /// The rule that matched.
    pub rule: RuleId,
    /// What was done.
    pub verdict: interdict_policy::Verdict,
    /// Where they were met.
    pub hook: Hook,
    /// The interface's name.
    pub interface: String,
    /// Our side; `None` on the wan hook, which sees translated addresses.
    pub client: Option<IpAddr>,
    /// The side that the rule matched. With a count above 1 it is one of perhaps several.
    pub remote: IpAddr,
    /// The port of that side, where there is one and it could be read.
    pub port: Option<u16>,
    /// The IP protocol number.
    pub protocol: u8,
    /// What was asked, if it is a question that was answered. With a count above 1 it is one of perhaps several.
    pub question: Option<Question>,
    /// Whether the packet was part of a fragmented one. `false` with a count above 1.
    pub fragment: bool,
    /// How many packets.
    pub count: u64,
    /// How many bytes they had together.
    pub bytes: u64,
}

/// A question that was answered in the kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    /// The name, in wire form and lower case.
    pub name: Vec<u8>,
    /// QTYPE.
    pub qtype: u16,
}

/// Reads what was recorded. There is one reader for each packet plane.
///
/// Wait for [`EventReader::waiting`], and [`EventReader::drain`]. Call [`EventReader::sweep`] once a second.
pub struct EventReader {
    ring: RingBuf<MapData>,
    queries: RingBuf<MapData>,
    contacts: BpfHashMap<MapData, ContactKey, ContactCounts>,
    reported: HashMap<ContactKey, Reported>,
    /// The last question of a contact that had an event of its own, as a sample for those that have none.
    asked: HashMap<ContactKey, Question>,
    registry: Arc<RwLock<Registry>>,
    control: Arc<Control>,
    interfaces: HashMap<u32, String>,
    idle: Duration,
}

/// What was already reported of the unsampled packets of a contact.
#[derive(Clone, Copy, Default)]
struct Reported {
    packets: u64,
    bytes: u64,
    last_ns: u64,
}

impl EventReader {
    pub(crate) fn new(
        (ring, queries): (RingBuf<MapData>, RingBuf<MapData>),
        contacts: BpfHashMap<MapData, ContactKey, ContactCounts>,
        registry: Arc<RwLock<Registry>>,
        control: Arc<Control>,
        interfaces: HashMap<u32, String>,
    ) -> Self {
        let (reported, asked) = (HashMap::new(), HashMap::new());
        Self { ring, queries, contacts, reported, asked, registry, control, interfaces, idle: IDLE }
    }

    /// Forgets a contact after this long without a packet, instead of a minute: for tables that are often full.
    pub fn forget_after(&mut self, idle: Duration) {
        self.idle = idle;
    }

    /// How many contacts the kernel counts at present.
    ///
    /// # Errors
    ///
    /// The kernel's table could not be read.
    pub fn contacts(&self) -> Result<usize, Error> {
        self.keys().map(|keys| keys.len())
    }

    /// Hands over every event that waits, and returns how many.
    pub fn drain(&mut self, mut each: impl FnMut(Contact)) -> usize {
        let clock = Clock::now();
        let registry = self.registry.read().unwrap_or_else(PoisonError::into_inner);
        let names = Names { registry: &registry, interfaces: &self.interfaces };
        let mut count = 0;
        while let Some(bytes) = self.ring.next() {
            let Some(event) = read_pod::<Event>(&bytes) else { continue };
            let Some(contact) = names.one(&event, &clock) else { continue };
            each(contact);
            count += 1;
        }
        while let Some(bytes) = self.queries.next() {
            let Some(query) = read_pod::<QueryEvent>(&bytes) else { continue };
            let Some(mut contact) = names.one(&query.event, &clock) else { continue };
            let question = question(&query);
            if self.asked.len() < MAX_CONTACTS as usize || self.asked.contains_key(&query.event.contact) {
                self.asked.insert(query.event.contact, question.clone());
            }
            contact.question = Some(question);
            each(contact);
            count += 1;
        }
        count
    }

    /// Hands over one count for each contact that had packets without an event since the last sweep, forgets
    /// contacts that have been idle, and returns how many packets it reported.
    ///
    /// # Errors
    ///
    /// The kernel's table could not be read. What was not handed over is in the next sweep.
    pub fn sweep(&mut self, mut each: impl FnMut(Contact)) -> Result<u64, Error> {
        let clock = Clock::now();
        let live = self.control.live();
        let mut packets = 0;
        for key in self.keys()? {
            let Some(counts) = self.counts(&key).map_err(named(maps::CONTACTS))? else { continue };
            packets += self.report(&key, &counts, &clock, &mut each);
            let idle = Duration::from_nanos(clock.boot_ns().saturating_sub(counts.last_ns));
            if idle > self.idle || (key.generation != live && idle > RETIRED_IDLE) {
                // Only a reader removes entries, and there is one.
                let _ = self.contacts.remove(&key);
                self.reported.remove(&key);
                self.asked.remove(&key);
            }
        }
        Ok(packets)
    }

    fn keys(&self) -> Result<Vec<ContactKey>, Error> {
        self.contacts.keys().collect::<Result<_, _>>().map_err(named(maps::CONTACTS))
    }

    /// Reports what a contact's count has grown by.
    fn report(
        &mut self,
        key: &ContactKey,
        counts: &ContactCounts,
        clock: &Clock,
        each: &mut impl FnMut(Contact),
    ) -> u64 {
        if counts.unsampled_packets == 0 {
            return 0;
        }
        let reported = self.reported.entry(*key).or_default();
        let grown = counts.unsampled_packets - reported.packets;
        if grown == 0 {
            return 0;
        }
        // A run of packets that goes on since the last sweep began before it; what was reported then ended when it did.
        let first_ns = counts.unsampled_first_ns.max(reported.last_ns);
        let packets = Packets {
            first: clock.moment(first_ns),
            last: clock.moment(counts.unsampled_last_ns.max(first_ns)),
            count: grown,
            bytes: counts.unsampled_bytes - reported.bytes,
        };
        let registry = self.registry.read().unwrap_or_else(PoisonError::into_inner);
        let names = Names { registry: &registry, interfaces: &self.interfaces };
        let Some(mut contact) = names.contact(key, &counts.sample, packets) else { return 0 };
        contact.question = self.asked.get(key).cloned();
        each(contact);
        *reported = Reported {
            packets: counts.unsampled_packets,
            bytes: counts.unsampled_bytes,
            last_ns: counts.unsampled_last_ns,
        };
        grown
    }

    /// Reads a contact's counts, with a sample that no CPU was writing meanwhile; `None` if the contact is gone.
    fn counts(&self, key: &ContactKey) -> Result<Option<ContactCounts>, MapError> {
        let read = || match self.contacts.get(key, 0) {
            Ok(counts) => Ok(Some(counts)),
            Err(MapError::KeyNotFound) => Ok(None),
            Err(error) => Err(error),
        };
        let Some(mut counts) = read()? else { return Ok(None) };
        if counts.unsampled_packets == self.reported.get(key).map_or(0, |reported| reported.packets) {
            return Ok(Some(counts));
        }
        loop {
            let Some(again) = read()? else { return Ok(None) };
            // A sample is written once a second at most, in a few nanoseconds.
            if again.sample == counts.sample {
                return Ok(Some(again));
            }
            counts = again;
        }
    }
}

impl EventReader {
    /// The file descriptors that are readable while events wait.
    pub fn waiting(&self) -> [BorrowedFd<'_>; 2] {
        [self.ring.as_fd(), self.queries.as_fd()]
    }
}

/// When packets came, and how many.
struct Packets {
    first: Moment,
    last: Moment,
    count: u64,
    bytes: u64,
}

/// What the numbers in a record mean.
struct Names<'a> {
    registry: &'a Registry,
    interfaces: &'a HashMap<u32, String>,
}

impl Names<'_> {
    /// The record of one packet in words.
    fn one(&self, event: &Event, clock: &Clock) -> Option<Contact> {
        let moment = clock.moment(event.time_ns);
        let packets = Packets { first: moment, last: moment, count: 1, bytes: event.length.into() };
        let mut contact = self.contact(&event.contact, &event.remote, packets)?;
        contact.fragment = event.flags & FLAG_FRAGMENT != 0;
        contact.port = contact.port.filter(|_| event.flags & FLAG_PORTS_UNKNOWN == 0);
        Some(contact)
    }

    /// The record in words; `None` if a number in it means nothing, which only a foreign writer could bring about.
    fn contact(&self, key: &ContactKey, remote: &Remote, packets: Packets) -> Option<Contact> {
        let interface = self.interfaces.get(&remote.interface).cloned();
        Some(Contact {
            first: packets.first,
            last: packets.last,
            digest: self.registry.digest(key.generation)?,
            rule: self.registry.rule(key.rule)?.clone(),
            verdict: word_of(Verdict::from_code(key.verdict.into())?),
            hook: Hook::from_code(key.hook)?,
            interface: interface.unwrap_or_else(|| format!("#{}", remote.interface)),
            client: Some(ip(key.client)).filter(|address| !address.is_unspecified()),
            remote: ip(remote.address),
            port: Some(u16::from_be_bytes(remote.port)).filter(|&port| port != 0),
            protocol: remote.protocol,
            question: None,
            fragment: false,
            count: packets.count,
            bytes: packets.bytes,
        })
    }
}

fn ip(address: Address) -> IpAddr {
    Ipv6Addr::from(address.bytes()).to_canonical()
}

fn question(query: &QueryEvent) -> Question {
    let bytes = usize::from(query.name_bytes).min(query.name.len());
    Question { name: query.name[..bytes].to_ascii_lowercase(), qtype: query.qtype }
}

fn read_pod<T: Pod>(bytes: &[u8]) -> Option<T> {
    if bytes.len() != size_of::<T>() {
        return None;
    }
    // SAFETY: there are as many bytes as the type has, and every pattern of them is a value of it, since it is `Pod`.
    Some(unsafe { bytes.as_ptr().cast::<T>().read_unaligned() })
}
