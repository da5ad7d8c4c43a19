//! What the programs recorded: packets by themselves, and counts of packets that were too many for that.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv6Addr},
    os::fd::{AsFd as _, BorrowedFd},
    path::{Path, PathBuf},
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use aya::{
    Pod,
    maps::{HashMap as BpfHashMap, IterableMap as _, MapData, MapError, RingBuf},
};
use interdict_ebpf_shared::{
    Address,
    contact::{
        ContactCounts, ContactKey, Event, FLAG_FRAGMENT, FLAG_PORTS_UNKNOWN, Hook, ProcessEvent, Remote,
        Reported,
    },
    flow::{Flow, FlowKey},
    limits::MAX_CONTACTS,
    maps,
    policy::Verdict,
    query::QueryEvent,
    seat::{LEFT, Seat},
};
use interdict_policy::{Digest, RuleId};

use crate::{
    Error, Moment, Reached,
    accounts::Accounts,
    answers::Answers,
    calls,
    clock::Clock,
    control::Control,
    flows::Flows,
    registry::{Registry, word_of},
    seats::Seats,
    staging::named,
    system,
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
    /// Who asked, if it is a call of a local process. `None` with a count above 1.
    pub process: Option<Process>,
    /// Whether the packet was part of a fragmented one. `false` with a count above 1.
    pub fragment: bool,
    /// How many packets.
    pub count: u64,
    /// How many bytes they had together.
    pub bytes: u64,
}

/// A process of this machine that wanted to talk to someone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Process {
    /// Its number, outside of all PID namespaces.
    pub pid: u32,
    /// Its name, as the kernel keeps it: at most fifteen bytes.
    pub name: String,
    /// The path of its control group, below the root; or `#` and its number, where the process has already ended.
    pub cgroup: String,
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
    rings: Rings,
    flows: Flows,
    /// Where control groups are, if they are anywhere.
    groups: Option<PathBuf>,
    seats: Arc<Seats>,
    contacts: BpfHashMap<MapData, ContactKey, ContactCounts>,
    reported: BpfHashMap<MapData, ContactKey, Reported>,
    accounts: Arc<Accounts>,
    answers: Answers,
    /// The last question of a contact that had an event of its own, as a sample for those that have none.
    asked: HashMap<ContactKey, Question>,
    registry: Arc<RwLock<Registry>>,
    control: Arc<Control>,
    interfaces: HashMap<u32, String>,
    idle: Duration,
    sleep: Sleep,
}

/// When the machine last woke, as far as it was noticed.
///
/// What comes right after that is stamped with too early a time, until the programs are told how long the machine slept;
/// nothing of it is idle.
struct Sleep {
    slept_ns: u64,
    woke_ns: u64,
}

/// So much more sleep than before is no mere difference of two clocks.
const SLEEP_NOTICED_NS: u64 = 100_000_000;
/// Nothing is taken for idle for this long after the machine woke.
const WAKING: Duration = Duration::from_secs(5);

impl Sleep {
    /// Whether the machine has been awake for a while, so that times say what is idle.
    fn is_over(&mut self, slept_ns: u64, now_ns: u64) -> bool {
        if slept_ns.saturating_sub(self.slept_ns) > SLEEP_NOTICED_NS {
            self.woke_ns = now_ns;
        }
        self.slept_ns = slept_ns;
        Duration::from_nanos(now_ns.saturating_sub(self.woke_ns)) > WAKING
    }
}

/// The rings through which the programs send events.
pub(crate) struct Rings {
    pub(crate) packets: RingBuf<MapData>,
    pub(crate) queries: RingBuf<MapData>,
    pub(crate) processes: RingBuf<MapData>,
}

/// The kernel's tables that are read besides.
pub(crate) struct Tables {
    pub(crate) seats: Arc<Seats>,
    pub(crate) contacts: BpfHashMap<MapData, ContactKey, ContactCounts>,
    pub(crate) reported: BpfHashMap<MapData, ContactKey, Reported>,
    pub(crate) flows: BpfHashMap<MapData, FlowKey, Flow>,
    pub(crate) accounts: Arc<Accounts>,
}

impl EventReader {
    pub(crate) fn new(
        rings: Rings,
        tables: Tables,
        registry: Arc<RwLock<Registry>>,
        control: Arc<Control>,
        answers: Answers,
        interfaces: HashMap<u32, String>,
    ) -> Self {
        let Tables { seats, contacts, reported, flows, accounts } = tables;
        let (asked, groups, idle) = (HashMap::new(), calls::mounted_root(), IDLE);
        let flows = Flows::new(flows);
        let sleep = Sleep { slept_ns: control.set_slept(), woke_ns: 0 };
        Self {
            rings,
            flows,
            groups,
            seats,
            contacts,
            reported,
            accounts,
            answers,
            asked,
            registry,
            control,
            interfaces,
            idle,
            sleep,
        }
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
        let seated = self.seats.taken().filter(|(_, seat)| seat.tag != LEFT).count();
        self.keys().map(|keys| seated + keys.len())
    }

    /// Hands over every event that waits, and returns how many.
    pub fn drain(&mut self, mut each: impl FnMut(Contact)) -> usize {
        let clock = Clock::now();
        let registry = self.registry.read().unwrap_or_else(PoisonError::into_inner);
        let names = Names { registry: &registry, interfaces: &self.interfaces };
        let mut count = 0;
        while let Some(bytes) = self.rings.packets.next() {
            let Some(event) = read_pod::<Event>(&bytes) else { continue };
            let Some(contact) = names.one(&event, &clock) else { continue };
            each(contact);
            count += 1;
        }
        while let Some(bytes) = self.rings.processes.next() {
            let Some(call) = read_pod::<ProcessEvent>(&bytes) else { continue };
            let Some(mut contact) = names.one(&call.event, &clock) else { continue };
            contact.process = Some(process(&call, self.groups.as_deref()));
            each(contact);
            count += 1;
        }
        while let Some(bytes) = self.rings.queries.next() {
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
        let is_awake = self.sleep.is_over(self.control.set_slept(), clock.boot_ns());
        let longest = self.idle;
        let is_over = |key: &ContactKey, counts: &ContactCounts| {
            let idle = Duration::from_nanos(clock.boot_ns().saturating_sub(counts.last_ns));
            is_awake && (idle > longest || (key.generation != live && idle > RETIRED_IDLE))
        };
        let mut packets = 0;
        let seats = Arc::clone(&self.seats);
        for (place, Seat { tag, key, counts, reported, left_ns, .. }) in seats.taken() {
            if let Some(told) = self.report(&key, &counts, &reported, &clock, &mut each) {
                packets += told.packets - reported.packets;
                seats.set_reported(place, told);
            }
            if tag == LEFT {
                if Seats::is_quiet(left_ns, clock.boot_ns()) {
                    self.accounts.end(&key, || Some(seats.free(place)));
                }
            } else if is_over(&key, &counts) {
                seats.leave(place, clock.boot_ns());
                self.asked.remove(&key);
            }
        }
        for key in self.keys()? {
            let Some((counts, reported)) = self.counts(&key).map_err(named(maps::CONTACTS))? else {
                continue;
            };
            if let Some(told) = self.report(&key, &counts, &reported, &clock, &mut each) {
                packets += told.packets - reported.packets;
                // There is room for as many as there are contacts.
                let _ = self.reported.insert(key, told, 0);
            }
            if is_over(&key, &counts) {
                self.end(&key);
            }
        }
        Ok(packets)
    }

    /// Hands over each contact that was let through and got further than was said before, or is over: call it once a
    /// second.
    ///
    /// # Errors
    ///
    /// The kernel's table could not be read.
    pub fn reached(&mut self, each: impl FnMut(Reached)) -> Result<(), Error> {
        let clock = Clock::now();
        let is_awake = self.sleep.is_over(self.control.set_slept(), clock.boot_ns());
        let registry = self.registry.read().unwrap_or_else(PoisonError::into_inner);
        let named = self.flows.sweep(&registry, &clock, is_awake, each)?;
        self.answers.follow(named);
        Ok(())
    }

    fn keys(&self) -> Result<Vec<ContactKey>, Error> {
        self.contacts.keys().collect::<Result<_, _>>().map_err(named(maps::CONTACTS))
    }

    /// Ends a contact that has been idle, unless its account has no room: then it stays as it is.
    fn end(&mut self, key: &ContactKey) {
        // Only a reader removes entries, and there is one.
        let contacts = self.contacts.map().fd();
        if self.accounts.end(key, || system::take_from_hash(contacts.as_fd(), key).ok()) {
            let _ = self.reported.remove(key);
            self.asked.remove(key);
        }
    }

    /// What was reported of a contact.
    fn reported(&self, key: &ContactKey) -> Reported {
        self.reported.get(key, 0).unwrap_or_default()
    }

    /// Reports what a contact's count has grown by since what was reported before. Returns what is reported now, if it has.
    fn report(
        &self,
        key: &ContactKey,
        counts: &ContactCounts,
        reported: &Reported,
        clock: &Clock,
        each: &mut impl FnMut(Contact),
    ) -> Option<Reported> {
        let grown = counts.unsampled_packets - reported.packets;
        if grown == 0 {
            return None;
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
        let mut contact = names.contact(key, &counts.sample, packets)?;
        contact.question = self.asked.get(key).cloned();
        each(contact);
        Some(Reported {
            packets: counts.unsampled_packets,
            bytes: counts.unsampled_bytes,
            last_ns: counts.unsampled_last_ns,
        })
    }

    /// Reads a contact's counts, with a sample that no CPU was writing meanwhile, and what was reported of them; `None` if the
    /// contact is gone.
    fn counts(&self, key: &ContactKey) -> Result<Option<(ContactCounts, Reported)>, MapError> {
        let read = || match self.contacts.get(key, 0) {
            Ok(counts) => Ok(Some(counts)),
            Err(MapError::KeyNotFound) => Ok(None),
            Err(error) => Err(error),
        };
        let Some(mut counts) = read()? else { return Ok(None) };
        let reported = if counts.unsampled_packets == 0 { Reported::default() } else { self.reported(key) };
        if counts.unsampled_packets == reported.packets {
            return Ok(Some((counts, reported)));
        }
        loop {
            let Some(again) = read()? else { return Ok(None) };
            // A sample is written once a second at most, in a few nanoseconds.
            if again.sample == counts.sample {
                return Ok(Some((again, reported)));
            }
            counts = again;
        }
    }
}

impl EventReader {
    /// The file descriptors that are readable while events wait.
    pub fn waiting(&self) -> [BorrowedFd<'_>; 3] {
        let Rings { packets, queries, processes } = &self.rings;
        [packets.as_fd(), queries.as_fd(), processes.as_fd()]
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
            process: None,
            fragment: false,
            count: packets.count,
            bytes: packets.bytes,
        })
    }
}

pub(crate) fn ip(address: Address) -> IpAddr {
    Ipv6Addr::from(address.bytes()).to_canonical()
}

fn process(call: &ProcessEvent, groups: Option<&Path>) -> Process {
    let name = call.name.split(|&byte| byte == 0).next().unwrap_or_default();
    let group = groups.and_then(|groups| calls::group_of(call.pid, call.cgroup, groups));
    Process {
        pid: call.pid,
        name: String::from_utf8_lossy(name).into_owned(),
        cgroup: group.unwrap_or_else(|| format!("#{}", call.cgroup)),
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn for_a_while_after_the_machine_woke_nothing_is_idle() {
        let second = 1_000_000_000;
        let mut sleep = Sleep { slept_ns: 7 * second, woke_ns: 0 };
        assert!(sleep.is_over(7 * second + 1000, 100 * second), "clocks differ by a little");
        assert!(!sleep.is_over(607 * second, 701 * second), "ten minutes later it wakes");
        assert!(!sleep.is_over(607 * second, 706 * second));
        assert!(sleep.is_over(607 * second, 707 * second));
    }
}
