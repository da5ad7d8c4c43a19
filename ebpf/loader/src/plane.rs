//! The packet plane: the programs, their maps, and the policy they go by.

use std::{
    collections::{HashMap, HashSet},
    net::{IpAddr, Ipv4Addr},
    os::fd::AsFd as _,
    path::Path,
    sync::{Arc, PoisonError, RwLock, RwLockReadGuard},
    time::Instant,
};

use aya::{
    Ebpf,
    maps::{Array, HashMap as BpfHashMap, LpmTrie, MapData, lpm_trie::Key},
};
use interdict_ebpf_shared::{
    contact::unit_number,
    contact::{ContactCounts, ContactKey, Reported},
    control,
    flow::{Flow, FlowKey},
    limits::{MAX_INTERFACES, MAX_SAFE},
    maps,
};
use interdict_policy::{Digest, Name, Policy, RuleId, ipv4_behind, ipv4_inside};
use ipnet::IpNet;

use crate::{
    Answers, AtExit, Attached, BeyondCount, ClientCount, Counters, DivertSockets, Error, EventReader,
    Options, Pins, Prober, Restored,
    accounts::Accounts,
    answers,
    attach::{self, Link},
    calls::{self, Calls},
    capability,
    clock::Ticks,
    control::{Control, Pulse},
    counters::CounterMaps,
    divert::DivertRoute,
    events::{self, Rings},
    network, object,
    options::Role,
    pins::{self, Claim, LastingMaps},
    registry::{Lasting, Registry},
    resolver::{self, Resolver},
    seats::Seats,
    selftest,
    staging::{self, InnerMaps, OuterMaps, Staged, Tables, named, word, words},
    table,
};

/// The kernel side of a policy.
///
/// Dropping it detaches the programs, unless they are kept (see [`PacketPlane::pins`]). Where the process is starting
/// a child at that moment, the child holds the links too until it executes its own program.
pub struct PacketPlane {
    options: Options,
    /// Held so that no other agent takes the pins.
    claim: Option<Claim>,
    pins: Pins,
    lasting: LastingMaps,
    /// Nothing is to stay: nothing was there before, and the programs are not attached yet.
    leaves_nothing: bool,
    object: Arc<RwLock<Ebpf>>,
    policies: OuterMaps,
    counters: CounterMaps,
    control: Arc<Control>,
    accounts: Arc<Accounts>,
    registry: Arc<RwLock<Registry>>,
    answers: Answers,
    events: Option<Events>,
    /// The answering of questions; `None` where they are left alone.
    resolver: Option<Resolver>,
    route: Option<DivertRoute>,
    live: Option<InnerMaps>,
    /// The last generation that an earlier agent had in force.
    earlier: u64,
    /// How often a policy was staged.
    stagings: u64,
    /// Whether no packet can still be judged by the generation before the one in force.
    settled: bool,
    links: Vec<Link>,
    /// The programs that judge calls of local processes, where they are.
    calls: Option<Calls>,
    /// Which interfaces have no Ethernet.
    bare: Array<MapData, u32>,
    safe: SafeMaps,
}

/// What records are read from.
struct Events {
    rings: Rings,
    flows: BpfHashMap<MapData, FlowKey, Flow>,
    seats: Arc<Seats>,
    contacts: BpfHashMap<MapData, ContactKey, ContactCounts>,
    reported: BpfHashMap<MapData, ContactKey, Reported>,
}

/// A change of policy that has happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flipped {
    /// When.
    pub at: Instant,
    /// The number of the policy that is in force since.
    pub generation: u64,
}

impl PacketPlane {
    /// Loads the programs, attached to nothing and without a policy.
    ///
    /// # Errors
    ///
    /// A capability is missing, an interface does not exist or is listed twice, or the kernel refused the object.
    pub fn load(options: &Options) -> Result<Self, Error> {
        capability::check()?;
        check_interfaces(options)?;
        let pins = match options.at_exit {
            AtExit::Remove => Pins::Unused,
            AtExit::Keep => pins::prepare(&options.pin)?,
        };
        // What an earlier agent left belongs to whoever claims it, to keep it or to remove it.
        let is_there = !matches!(pins, Pins::Unavailable(_)) && options.pin.exists();
        let claim = match is_there && !options.interfaces.is_empty() {
            true => Some(pins::claim(&options.pin)?),
            false => None,
        };
        if let Pins::Kept(folder) = &pins
            && pins::forget_other_version(folder)?
        {
            tracing::warn!(
                pin = %folder.display(),
                "what another version of this program counted cannot be gone on with: counters begin anew"
            );
        }
        let is_first = matches!(pins, Pins::Kept(_)) && pins::is_unused(&options.pin)?;

        let mut object = object::load(&pins, options.mode)?;
        let lasting_maps = match &pins {
            Pins::Kept(folder) => LastingMaps::of(folder)?,
            Pins::Unused | Pins::Unavailable(_) => LastingMaps::default(),
        };
        let mut safe = SafeMaps {
            safe4: object::take(&mut object, maps::SAFE4)?,
            safe6: object::take(&mut object, maps::SAFE6)?,
        };
        check_safe(&options.safe)?;
        options.safe.iter().try_for_each(|network| safe.add(network))?;
        let unshared = |source| Error::System { doing: "share memory with the kernel programs", source };
        let control = object::take_memory(&mut object, maps::CONTROL);
        let control = Arc::new(Control::of_map(control.fd().as_fd()).map_err(unshared)?);
        control.set_ticks(Ticks::of_kernel(&object)?);
        control.set_secret(table::secret());
        let seats = object::take_memory(&mut object, maps::CONTACT_SEATS);
        let seats = Arc::new(Seats::of_map(seats.fd().as_fd()).map_err(unshared)?);
        Pulse(Arc::clone(&control)).beat();
        control.set_safe(safe_bits(options.safe.iter()));
        let lasting = Lasting {
            names: object::take(&mut object, maps::RULE_NAMES)?,
            digests: object::take(&mut object, maps::DIGESTS)?,
        };
        let registry = Registry::resume(lasting)?;
        let earlier = registry.last_generation();
        let registry = Arc::new(RwLock::new(registry));
        let told = answers::Maps {
            opened: object::take(&mut object, maps::OPENED)?,
            opened_to: object::take(&mut object, maps::OPENED_TO)?,
            learned: object::take(&mut object, maps::LEARNED)?,
        };
        Ok(Self {
            options: options.clone(),
            claim,
            pins,
            lasting: lasting_maps,
            leaves_nothing: is_first,
            policies: OuterMaps {
                networks: object::take(&mut object, maps::NETWORKS)?,
                services: object::take(&mut object, maps::SERVICES)?,
                rules: object::take(&mut object, maps::RULES)?,
                exemptions: object::take(&mut object, maps::EXEMPTIONS)?,
                units: object::take(&mut object, maps::UNITS)?,
                names: object::take(&mut object, maps::NAMES)?,
                answers: object::take(&mut object, maps::ANSWERS)?,
                settings: object::take(&mut object, maps::SETTINGS)?,
                resolvers: object::take(&mut object, maps::RESOLVERS)?,
            },
            counters: CounterMaps {
                exits: object::take(&mut object, maps::EXITS)?,
                unjudged: object::take(&mut object, maps::UNJUDGED)?,
                losses: object::take(&mut object, maps::LOSSES)?,
                rules: object::take(&mut object, maps::RULE_COUNTS)?,
            },
            accounts: Arc::new(Accounts::new(
                Arc::clone(&seats),
                object::second_handle(&object, maps::CONTACTS)?,
                object::take(&mut object, maps::ACCOUNTS)?,
                object::take(&mut object, maps::BEYOND)?,
            )),
            events: Some(Events {
                rings: Rings {
                    packets: object::take(&mut object, maps::EVENTS)?,
                    queries: object::take(&mut object, maps::QUERIES)?,
                    processes: object::take(&mut object, maps::PROCESSES)?,
                },
                flows: object::take(&mut object, maps::FLOWS)?,
                seats,
                contacts: object::take(&mut object, maps::CONTACTS)?,
                reported: object::take(&mut object, maps::REPORTED)?,
            }),
            resolver: resolver(&mut object, options, &control)?,
            bare: object::take(&mut object, maps::BARE)?,
            calls: None,
            route: None,
            answers: Answers::new(told, Arc::clone(&registry), Arc::clone(&control)),
            object: Arc::new(RwLock::new(object)),
            control,
            registry,
            live: None,
            earlier,
            stagings: 0,
            settled: true,
            links: Vec::new(),
            safe,
        })
    }

    /// Writes a policy beside the one in force, and has the kernel try it.
    ///
    /// # Errors
    ///
    /// The policy is too large, or the kernel does not decide by it as the policy itself does. The policy in force is
    /// untouched in every case.
    pub fn stage(&mut self, policy: &Policy) -> Result<Staged, Error> {
        // The spare slot is the one in force before the last flip; a packet may still be in it.
        self.settle()?;
        let slots = self.slots(policy)?;
        let tables = Tables::of(policy, &slots, &self.options)?;
        let inner = tables.write()?;
        let generation = self.next_generation();
        // What was staged before is void as soon as its slot is written to.
        self.stagings += 1;
        self.policies.set(generation, &inner, &tables.answers)?;
        self.control.set_staged(generation);

        let registry = self.registry.read().unwrap_or_else(PoisonError::into_inner);
        selftest::compare(&self.prober(), policy, &self.options.safe, &registry)?;
        let states = tables.states;
        let units = policy.units().iter().map(|unit| (unit_number(&unit.id), unit.id.clone())).collect();
        let (staging, digest) = (self.stagings, policy.digest());
        Ok(Staged { generation, staging, digest, states, units, inner })
    }

    /// Puts a staged policy in force: one store to memory that the programs read once for each packet.
    ///
    /// # Errors
    ///
    /// Another policy was staged after this one.
    pub fn flip(&mut self, staged: Staged) -> Result<Flipped, Error> {
        if staged.staging != self.stagings || staged.generation != self.next_generation() {
            return Err(Error::Superseded);
        }
        {
            let mut registry = self.registry.write().unwrap_or_else(PoisonError::into_inner);
            registry.add_generation(staged.generation, staged.digest);
            registry.set_live(staged.states, staged.units);
        }
        self.control.set_live(staged.generation);
        let at = Instant::now();
        self.live = Some(staged.inner);
        self.settled = false;
        Ok(Flipped { at, generation: staged.generation })
    }

    /// Waits until no packet is judged by the policy before. [`PacketPlane::stage`] does it too, if need be.
    ///
    /// # Errors
    ///
    /// The kernel refused to write what it had already accepted.
    pub fn settle(&mut self) -> Result<(), Error> {
        if let Some(inner) = self.live.as_ref().filter(|_| !self.settled) {
            self.policies.wait_for_running_programs(self.control.live(), inner)?;
        }
        self.settled = true;
        Ok(())
    }

    /// Attaches the programs to every interface in the options, and takes over from an earlier agent that left its own.
    ///
    /// # Errors
    ///
    /// No policy is in force yet, another program holds an interface, or its driver has no native XDP.
    pub fn attach(&mut self) -> Result<(), Error> {
        if self.live.is_none() {
            return Err(Error::NoPolicy);
        }
        self.follow_host()?;
        let mut object = self.object.write().unwrap_or_else(PoisonError::into_inner);
        self.links = attach::attach(&mut object, &self.options, &self.pins)?;
        self.calls = calls::attach(&mut object, &self.options, &self.pins)?;
        pins::remove_earlier(&self.options.pin)?;
        self.leaves_nothing = false;
        Ok(())
    }

    /// Has the programs judge DNS questions, and gives them the sockets that take what only the agent can judge. What is
    /// diverted is delivered to this machine from now on.
    ///
    /// # Errors
    ///
    /// The options do not ask for it, or the kernel refused a socket or a route.
    pub fn judge_queries(&mut self, sockets: Option<DivertSockets<'_>>) -> Result<(), Error> {
        let Some(resolver) = &mut self.resolver else { return Err(Error::NotAnswering) };
        if let Some(sockets) = sockets {
            resolver.divert_to(sockets)?;
            self.route = Some(DivertRoute::add()?);
        }
        resolver.begin();
        self.follow().map(drop)
    }

    /// The agent's sign of life.
    pub fn pulse(&self) -> Pulse {
        Pulse(Arc::clone(&self.control))
    }

    /// Follows this machine's addresses and interfaces: call it every second. Returns how each interface towards clients
    /// takes part in answering.
    ///
    /// # Errors
    ///
    /// The kernel does not tell, or has no room for more addresses.
    pub fn follow(&mut self) -> Result<Vec<(String, resolver::Answers)>, Error> {
        let Some(resolver) = &mut self.resolver else { return Ok(Vec::new()) };
        let is_lan = |name: &str| {
            self.options
                .interfaces
                .iter()
                .any(|interface| interface.role == Role::Lan && interface.name == name)
        };
        let mut interfaces = network::interfaces()?;
        interfaces.retain(|interface| is_lan(&interface.name));
        resolver.follow(&interfaces, self.options.mode)
    }

    /// Tells the programs of the interfaces of this machine's own traffic: which have no Ethernet, and the address under
    /// which calls of processes are recorded.
    fn follow_host(&mut self) -> Result<(), Error> {
        let is_host = |name: &str| {
            self.options
                .interfaces
                .iter()
                .any(|interface| interface.role == Role::Host && interface.name == name)
        };
        let host: Vec<_> =
            network::interfaces()?.into_iter().filter(|interface| is_host(&interface.name)).collect();
        let Some(first) = host.first() else { return Ok(()) };
        for interface in host.iter().filter(|interface| interface.index < MAX_INTERFACES) {
            self.bare.set(interface.index, u32::from(interface.is_bare), 0).map_err(named(maps::BARE))?;
        }
        let addresses = network::addresses_of(first.index)?;
        let of = |is_it: fn(&IpAddr) -> bool| addresses.iter().copied().find(is_it);
        if let Some(IpAddr::V4(address)) = of(IpAddr::is_ipv4) {
            self.control.set_count(control::HOST4, address.to_bits().into());
        }
        if let Some(IpAddr::V6(address)) = of(IpAddr::is_ipv6) {
            let bits = address.to_bits();
            self.control.set_count(control::HOST6, (bits >> 64) as u64);
            self.control.set_count(control::HOST6 + 1, bits as u64);
        }
        Ok(())
    }

    /// The control group whose processes' calls are judged, where they are.
    pub fn cgroup(&self) -> Option<&Path> {
        self.calls.as_ref().map(|calls| calls.group.as_path())
    }

    /// The digest of the policy that the kernel goes by; `None` before the first.
    pub fn digest(&self) -> Option<Digest> {
        let registry = self.registry.read().unwrap_or_else(PoisonError::into_inner);
        registry.digest(self.control.live())
    }

    /// Looks whether every interface in the options has its program, and attaches it where it is missing: an interface
    /// that was made anew has none. Returns each interface, with what is in the way if it stays without; and the control
    /// group, if its programs were missing. Call it every second.
    pub fn restore(&mut self) -> Vec<(String, Result<Restored, Error>)> {
        let mut object = self.object.write().unwrap_or_else(PoisonError::into_inner);
        let (options, pins, links) = (&self.options, &self.pins, &mut self.links);
        let mut restore = |interface| attach::restore(&mut object, options, pins, interface, links);
        let outcomes =
            options.interfaces.iter().map(|interface| (interface.name.clone(), restore(interface)));
        let mut outcomes: Vec<_> = outcomes.collect();
        if let Some(calls) = self.calls.as_ref().filter(|calls| !calls.are_in_place(&object)) {
            let name = format!("control group {}", calls.group.display());
            let again = calls::attach(&mut object, options, pins).map(|calls| {
                self.calls = calls;
                Restored::Again
            });
            outcomes.push((name, again));
        }
        outcomes
    }

    /// How many packets there were of which nothing is recorded but counters, since both the table of contacts and the ring of
    /// events were full: those of an earlier agent included.
    ///
    /// # Errors
    ///
    /// The kernel's counter could not be read.
    pub fn unrecorded(&self) -> Result<u64, Error> {
        self.counters.unrecorded()
    }

    /// Pins again what the next agent goes on with, should its pins have been removed. Call it every second.
    ///
    /// # Errors
    ///
    /// A pin could not be made.
    pub fn keep(&mut self) -> Result<(), Error> {
        self.lasting.pin_again()?;
        self.claim.as_mut().map_or(Ok(()), Claim::renew)
    }

    /// Changes the networks that are never dropped, at once and for every policy.
    ///
    /// # Errors
    ///
    /// There are too many, or the kernel refused one: then those that were safe before still are.
    pub fn set_safe(&mut self, safe: Vec<IpNet>) -> Result<(), Error> {
        check_safe(&safe)?;
        let new: Vec<IpNet> =
            safe.iter().filter(|network| !self.options.safe.contains(network)).copied().collect();
        // A network has its bit for as long as it is in the tries of safe ones.
        self.control.set_safe(safe_bits(safe.iter().chain(&self.options.safe)));
        for network in new {
            self.safe.add(&network)?;
            self.options.safe.push(network);
        }
        for network in self.options.safe.iter().filter(|network| !safe.contains(network)) {
            self.safe.remove(network)?;
        }
        self.control.set_safe(safe_bits(safe.iter()));
        self.options.safe = safe;
        Ok(())
    }

    /// The safe network that holds an address, the longest one.
    pub fn safe_network(&self, address: IpAddr) -> Option<IpNet> {
        let holding = self.options.safe.iter().filter(|network| network.contains(&address));
        holding.max_by_key(|network| network.prefix_len()).copied()
    }

    /// The IPv4 address that an address is another spelling of, for everybody or by the prefixes in the options.
    pub fn ipv4_inside(&self, address: IpAddr) -> Option<Ipv4Addr> {
        ipv4_inside(address).or_else(|| ipv4_behind(address, &self.options.nat64))
    }

    /// The interfaces that the programs are attached to.
    pub fn interfaces(&self) -> Vec<Attached> {
        self.links.iter().map(|link| link.attached.clone()).collect()
    }

    /// Whether the programs stay attached when the plane is dropped.
    pub const fn pins(&self) -> &Pins {
        &self.pins
    }

    /// Everything that was counted since the plane was loaded.
    ///
    /// # Errors
    ///
    /// A map could not be read.
    pub fn counters(&self) -> Result<Counters, Error> {
        let registry = self.registry.read().unwrap_or_else(PoisonError::into_inner);
        let mut counters = self.counters.read(&registry)?;
        counters.answers_overflow = self.answers.overflow();
        Ok(counters)
    }

    /// Packets and bytes by client, rule, verdict and hook, in no order. What is in none of them, because there were too many
    /// clients, is in [`PacketPlane::beyond_clients`], and in [`PacketPlane::counters`] under its rule and under the loss
    /// `contacts_full`.
    ///
    /// # Errors
    ///
    /// A map could not be read.
    pub fn clients(&self) -> Result<Vec<ClientCount>, Error> {
        self.accounts.read(&self.registry.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Packets and bytes of clients for whom there was no room, by unit, rule, verdict and hook, in no order. Beyond 16 384 of
    /// these they are in the counters of their rules only.
    ///
    /// # Errors
    ///
    /// A map could not be read.
    pub fn beyond_clients(&self) -> Result<Vec<BeyondCount>, Error> {
        self.accounts.read_beyond(&self.registry.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// The means to open addresses, from any thread.
    pub fn answers(&self) -> Answers {
        self.answers.clone()
    }

    /// The means to run the programs on frames of one's own, from any thread: for tests and benchmarks.
    pub fn prober(&self) -> Prober {
        Prober::new(Arc::clone(&self.object))
    }

    /// Has the programs decide for an address by the policy in force, without counting or recording it: the rule by which
    /// packets there are dropped, if they are.
    ///
    /// # Errors
    ///
    /// As [`Prober::run`].
    pub fn address_blocked_by(&mut self, address: IpAddr) -> Result<Option<RuleId>, Error> {
        self.control.set_staged(self.control.live());
        selftest::address_blocked_by(&self.prober(), address, &self.registry())
    }

    /// The same, for a question for a name.
    ///
    /// # Errors
    ///
    /// As [`Prober::run`].
    pub fn name_blocked_by(&mut self, name: Name<'_>) -> Result<Option<RuleId>, Error> {
        self.control.set_staged(self.control.live());
        selftest::name_blocked_by(&self.prober(), name, &self.registry())
    }

    fn registry(&self) -> RwLockReadGuard<'_, Registry> {
        self.registry.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// The reader of what is recorded.
    ///
    /// # Errors
    ///
    /// It was taken before.
    pub fn events(&mut self) -> Result<EventReader, Error> {
        let interfaces =
            network::interfaces()?.into_iter().map(|interface| (interface.index, interface.name));
        let interfaces: HashMap<_, _> = interfaces.collect();
        let Events { rings, flows, seats, contacts, reported } =
            self.events.take().ok_or(Error::EventsTaken)?;
        Ok(EventReader::new(
            rings,
            events::Tables { seats, contacts, reported, flows, accounts: Arc::clone(&self.accounts) },
            Arc::clone(&self.registry),
            Arc::clone(&self.control),
            self.answers(),
            interfaces,
        ))
    }

    /// The number of the next policy, which none had before.
    fn next_generation(&self) -> u64 {
        self.control.live().max(self.earlier) + 1
    }

    /// The slots of a policy's rules, by position.
    fn slots(&mut self, policy: &Policy) -> Result<Vec<u32>, Error> {
        let mut registry = self.registry.write().unwrap_or_else(PoisonError::into_inner);
        policy.rules().iter().map(|rule| registry.slot_for(&rule.id)).collect()
    }
}

impl Drop for PacketPlane {
    fn drop(&mut self) {
        if self.leaves_nothing {
            // What it pinned on the way to a start that failed.
            let _ = pins::unload(&self.options.pin);
            return;
        }
        // Programs that stay divert nothing once the agent is dead, so the route is only kept for the next one.
        if let (Some(route), Pins::Kept(_)) = (&mut self.route, &self.pins) {
            route.keep = true;
        }
    }
}

/// The answering of questions, if the options ask for it.
fn resolver(object: &mut Ebpf, options: &Options, control: &Arc<Control>) -> Result<Option<Resolver>, Error> {
    let Some(answering) = &options.answering else { return Ok(None) };
    let maps = resolver::Maps {
        clients: object::take(object, maps::CLIENTS)?,
        ours: object::take(object, maps::OURS)?,
        interfaces: object::take(object, maps::INTERFACES)?,
        divert: object::take(object, maps::DIVERT)?,
    };
    Resolver::start(maps, Arc::clone(control), answering.clone()).map(Some)
}

fn check_interfaces(options: &Options) -> Result<(), Error> {
    let mut seen = HashSet::new();
    for interface in &options.interfaces {
        network::find(&interface.name)?;
        let uses_xdp = interface.role != Role::Host;
        if !seen.insert((&interface.name, uses_xdp)) {
            return Err(Error::InterfaceTwice { name: interface.name.clone() });
        }
    }
    Ok(())
}

fn check_safe(safe: &[IpNet]) -> Result<(), Error> {
    match safe.len() > MAX_SAFE as usize {
        true => Err(Error::TooMany { what: "safe networks", count: safe.len(), limit: MAX_SAFE }),
        false => Ok(()),
    }
}

/// The networks that are never dropped. They are part of the object's own maps, not of any policy.
struct SafeMaps {
    safe4: LpmTrie<MapData, u32, u32>,
    safe6: LpmTrie<MapData, [u32; 4], u32>,
}

impl SafeMaps {
    fn add(&mut self, network: &IpNet) -> Result<(), Error> {
        match safe_key(network) {
            SafeKey::V4(key) => self.safe4.insert(&key, 1, 0).map_err(named(maps::SAFE4)),
            SafeKey::V6(key) => self.safe6.insert(&key, 1, 0).map_err(named(maps::SAFE6)),
        }
    }

    fn remove(&mut self, network: &IpNet) -> Result<(), Error> {
        match safe_key(network) {
            SafeKey::V4(key) => self.safe4.remove(&key).map_err(named(maps::SAFE4)),
            SafeKey::V6(key) => self.safe6.remove(&key).map_err(named(maps::SAFE6)),
        }
    }
}

/// The bits of safe networks, as the programs look at them.
fn safe_bits<'a>(safe: impl Iterator<Item = &'a IpNet>) -> [u64; control::SAFE_WORDS as usize] {
    let mut bits = [0; control::SAFE_WORDS as usize];
    for network in safe {
        let (is_v4, enough) = match network {
            IpNet::V4(_) => (true, control::SAFE_BITS_V4),
            IpNet::V6(_) => (false, control::SAFE_BITS_V6),
        };
        // A wider network has addresses with every bit, or may have.
        if u32::from(network.prefix_len()) < enough {
            return [u64::MAX; control::SAFE_WORDS as usize];
        }
        let (word, bit) = control::safe_bit(staging::address(network.addr()), is_v4);
        bits[word as usize] |= bit;
    }
    bits
}

enum SafeKey {
    V4(Key<u32>),
    V6(Key<[u32; 4]>),
}

fn safe_key(network: &IpNet) -> SafeKey {
    let bits = u32::from(network.prefix_len());
    match network.network() {
        IpAddr::V4(address) => SafeKey::V4(Key::new(bits, word(address.octets()))),
        IpAddr::V6(address) => SafeKey::V6(Key::new(bits, words(address.octets()))),
    }
}
