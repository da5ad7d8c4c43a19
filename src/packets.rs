//! The packet plane in the program: set up from the configuration, its contacts turned into events.

use std::collections::{HashMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use hickory_proto::rr::RecordType;
use interdict_audit::{Asked, Depth, Entry, Log, Process};
use interdict_dns_filter::{DivertedSockets, Upstream};
use interdict_ebpf_loader::{
    Answering, Answers, AnswersOn, BeyondCount, ClientCount, Contact, Counters, DivertSockets, EventReader,
    Hook, MAX_NAT64, Options, PacketPlane, Pins, Question, Reached, Role, default_gateways,
    interface_networks,
};
use interdict_policy::{Digest, IpNet, Name, Policy, RuleId, Verdict};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde_json::{Value, json};

use crate::alive::Alive;
use crate::config::PacketSettings;
use crate::fallback::Fallback;
use crate::learn::Learning;

/// The port of DNS.
const DNS_PORT: u16 = 53;

/// How often counts of contacts without events of their own are collected, and what has expired is removed.
const SWEEP_EVERY: Duration = Duration::from_secs(1);

/// Loads the programs, attached to nothing yet. `None` when no interface is named.
///
/// # Errors
/// When packets should be filtered and cannot be.
pub(crate) fn load(
    settings: &PacketSettings,
    listen: &[SocketAddr],
    upstreams: &[Upstream],
    clients: &[IpNet],
) -> anyhow::Result<Option<PacketPlane>> {
    if settings.interfaces.is_empty() {
        return Ok(None);
    }
    if settings.nat64.len() > MAX_NAT64 {
        bail!("[packet] nat64 names {} prefixes; the kernel programs know {MAX_NAT64}", settings.nat64.len());
    }
    let options = Options {
        interfaces: settings.interfaces.clone(),
        mode: settings.mode,
        safe: safe(settings, listen, upstreams)?,
        nat64: settings.nat64.clone(),
        cgroup: settings.cgroup.clone(),
        pin: settings.pin.clone(),
        at_exit: settings.at_exit,
        max_names: settings.max_names,
        answering: has_lan(settings).then(|| Answering {
            clients: clients.to_vec(),
            client_qps: settings.client_qps,
            listen: listen.iter().filter(|at| at.port() == DNS_PORT).map(SocketAddr::ip).collect(),
            in_kernel: settings.in_kernel,
        }),
    };
    let plane = PacketPlane::load(&options).context("packets cannot be filtered, so nothing was started")?;
    if let Pins::Unavailable(why) = plane.pins() {
        tracing::warn!(
            "at_exit = \"keep\" cannot be kept: when the agent ends, nothing is filtered any more: {why}"
        );
    }
    Ok(Some(plane))
}

/// Whether any interface leads to clients, whose questions can be answered there.
pub(crate) fn has_lan(settings: &PacketSettings) -> bool {
    settings.interfaces.iter().any(|interface| interface.role == Role::Lan)
}

/// Has the kernel judge DNS questions, and hand to our sockets what only we can judge.
///
/// # Errors
/// When a socket or a route cannot be had.
pub(crate) fn judge_queries(plane: &mut PacketPlane, sockets: &DivertedSockets) -> anyhow::Result<()> {
    let DivertedSockets { udp4, udp6, tcp4, tcp6, .. } = sockets;
    plane.judge_queries(Some(DivertSockets { udp4, udp6, tcp4, tcp6 }))?;
    Ok(())
}

/// Tells the kernel every second that we live, and says so when an interface changes its part in answering questions.
pub(crate) struct Heart {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

const BEAT_EVERY: Duration = Duration::from_secs(1);

impl Heart {
    /// Starts a thread for it: neither a busy runtime nor a slow kernel may make it late.
    pub(crate) fn start(plane: Arc<Mutex<PacketPlane>>, parts: Parts) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let pulse = plane.lock().unwrap_or_else(PoisonError::into_inner).pulse();
        let thread = std::thread::spawn(move || {
            while !stopped.load(Relaxed) {
                pulse.beat();
                // While the policy changes, the interfaces wait; the sign of life must not.
                match plane.try_lock().map(|mut plane| plane.follow()) {
                    Ok(Ok(told)) => parts.tell(told),
                    Ok(Err(error)) => tracing::warn!(%error, "addresses and interfaces are not followed"),
                    Err(_) => {}
                }
                std::thread::park_timeout(BEAT_EVERY);
            }
        });
        Self { stop, thread }
    }

    /// Ends it.
    pub(crate) fn stop(self) {
        self.stop.store(true, Relaxed);
        self.thread.thread().unpark();
        let _ = self.thread.join();
    }
}

/// How each interface towards clients takes part in answering questions. Clones share it.
#[derive(Clone, Default)]
pub(crate) struct Parts(Arc<Mutex<HashMap<String, AnswersOn>>>);

impl Parts {
    fn tell(&self, told: Vec<(String, AnswersOn)>) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for (interface, part) in &told {
            if known.get(interface) != Some(part) {
                match part {
                    AnswersOn::InKernel => {
                        tracing::info!(%interface, "DNS questions are answered in the kernel");
                    }
                    AnswersOn::HandedUp(why) => {
                        tracing::info!(%interface, "DNS questions are answered by the agent: {why}");
                    }
                }
            }
        }
        *known = told.into_iter().collect();
    }

    /// What is said of one interface: where its questions are answered, and why not in the kernel.
    pub(crate) fn of(&self, interface: &str) -> Option<(&'static str, Option<&'static str>)> {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.get(interface).map(|part| match part {
            AnswersOn::InKernel => ("kernel", None),
            AnswersOn::HandedUp(why) => ("agent", Some(*why)),
        })
    }
}

/// What is never dropped: what the operator names, our listeners, the upstreams, and the default gateways.
pub(crate) fn safe(
    settings: &PacketSettings,
    listen: &[SocketAddr],
    upstreams: &[Upstream],
) -> anyhow::Result<Vec<IpNet>> {
    let ours = listen.iter().chain(upstreams.iter().map(|upstream| &upstream.address)).map(SocketAddr::ip);
    let addresses = ours.chain(default_gateways()?);
    let mut safe = settings.safe.clone();
    safe.extend(addresses.map(|address| IpNet::from(address.to_canonical())));
    safe.sort();
    safe.dedup();
    Ok(safe)
}

/// The networks of the interfaces towards clients: they are served by DNS as private ranges are.
pub(crate) fn client_networks(settings: &PacketSettings) -> anyhow::Result<Vec<IpNet>> {
    let mut networks = Vec::new();
    for interface in settings.interfaces.iter().filter(|interface| interface.role == Role::Lan) {
        networks.extend(interface_networks(&interface.name)?);
    }
    Ok(networks)
}

/// Removes what an agent left in place.
pub(crate) fn unload(pin: &Path) -> anyhow::Result<()> {
    let has_agent = interdict_ebpf_loader::has_agent(pin);
    let removed = interdict_ebpf_loader::unload(pin)?;
    match removed.as_slice() {
        [] => println!("nothing was left in place under {}", pin.display()),
        names => println!("detached from {}", names.join(", ")),
    }
    if has_agent {
        println!(
            "an agent is running, which attaches its programs again within a second: stop it, and unload once more"
        );
    }
    Ok(())
}

/// Policies that are kept to explain contacts that were judged by them: the one in force and the one before.
const RECENT_POLICIES: usize = 2;

/// What contacts are explained by. A contact may be older than the policy in force.
#[derive(Clone, Default)]
pub struct Policies(Arc<RwLock<Known>>);

#[derive(Default)]
struct Known {
    recent: VecDeque<Arc<Policy>>,
    /// The roles of every rule that was ever in force.
    roles: HashMap<RuleId, String>,
}

impl Policies {
    pub(crate) fn add(&self, policy: &Arc<Policy>) {
        let mut known = self.0.write().unwrap_or_else(PoisonError::into_inner);
        for rule in policy.rules() {
            known.roles.insert(rule.id.clone(), rule.role.clone());
        }
        known.recent.push_front(policy.clone());
        known.recent.truncate(RECENT_POLICIES);
    }

    /// The event of how far a contact got.
    fn reached(&self, reached: &Reached) -> Entry {
        let known = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let role = known.roles.get(&reached.rule).map_or("", String::as_str);
        let policy = known.recent.iter().find(|policy| policy.digest() == reached.digest);
        let unit = policy.and_then(|policy| policy.unit(reached.client));
        let Reached { remote: address, port, protocol, sent, received, .. } = *reached;
        let carried = json!({
            "packets_out": sent.packets,
            "bytes_out": sent.bytes,
            "packets_in": received.packets,
            "bytes_in": received.bytes,
        });
        let depth = match reached.depth {
            interdict_ebpf_loader::Depth::Attempted => Depth::Attempted,
            interdict_ebpf_loader::Depth::Connected => Depth::Connected,
            interdict_ebpf_loader::Depth::Received => Depth::Received,
        };
        Entry::packet(
            channel(reached.hook),
            Some(reached.client),
            Asked::Address { address, port, protocol: protocol_name(protocol) },
            reached.verdict,
            reached.rule.as_str(),
            role,
            reached.digest,
            1,
            (reached.first.wall, reached.last.wall),
        )
        .of_unit(unit)
        .reached(depth, reached.is_over, carried)
    }

    /// An event of a client, with whose it is by a policy.
    fn of_unit(&self, entry: Entry, digest: Digest, client: IpAddr) -> Entry {
        let known = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let policy = known.recent.iter().find(|policy| policy.digest() == digest);
        entry.of_unit(policy.and_then(|policy| policy.unit(client)))
    }

    /// The event of a contact. `ours` are the resolvers that a question may well be sent to.
    fn entry(&self, contact: &Contact, ours: &[IpAddr]) -> Entry {
        let known = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let role = known.roles.get(&contact.rule).map_or("", String::as_str);
        let policy = known.recent.iter().find(|policy| policy.digest() == contact.digest);
        let unit = policy.zip(contact.client).and_then(|(policy, client)| policy.unit(client));
        let exemption = policy.zip(contact.client).and_then(|(policy, client)| {
            let exempt = contact.verdict == Verdict::Exempt;
            let rule = policy.find_rule(contact.rule.as_str()).filter(|_| exempt)?;
            policy.exemption(client, rule, contact.first.wall.try_into().ok()?)
        });
        entry(contact, role, ours).of_unit(unit).exempt_by(exemption.map(|exemption| exemption.id.as_str()))
    }
}

/// The thread that records what the kernel met.
pub(crate) struct PacketRecorder {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

impl PacketRecorder {
    /// Starts it. It waits for the kernel, so it has a thread of its own.
    pub(crate) fn start(
        mut events: EventReader,
        answers: Answers,
        log: Log,
        policies: Policies,
        fallback: Arc<Fallback>,
        alive: Arc<Alive>,
        ours: Vec<IpAddr>,
    ) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let thread = std::thread::spawn(move || {
            let mut swept_at = Instant::now();
            loop {
                let stop = stopped.load(Relaxed);
                wait(&events);
                events.drain(|contact| {
                    contact.client.into_iter().for_each(|client| alive.was_in_contact(client));
                    if let (Some(client), Hook::Query) = (contact.client, contact.hook) {
                        let of_unit = |entry| policies.of_unit(entry, contact.digest, client);
                        fallback.saw(client, contact.remote, contact.digest, of_unit);
                    }
                    log.record(policies.entry(&contact, &ours));
                });
                if stop || swept_at.elapsed() >= SWEEP_EVERY {
                    swept_at = Instant::now();
                    answers.expire();
                    if let Err(error) = events.reached(|reached| log.record(policies.reached(&reached))) {
                        tracing::warn!(%error, "how far contacts got could not be read");
                    }
                    if let Err(error) = events.sweep(|contact| log.record(policies.entry(&contact, &ours))) {
                        tracing::warn!(%error, "the counts of contacts could not be read");
                    }
                }
                if stop {
                    return;
                }
            }
        });
        Self { stop, thread }
    }

    /// Records what waits, and ends.
    pub(crate) fn stop(self) {
        self.stop.store(true, Relaxed);
        let _ = self.thread.join();
    }
}

/// Waits for an event, a fifth of a second at most.
fn wait(events: &EventReader) {
    let timeout = Timespec { tv_sec: 0, tv_nsec: 200_000_000 };
    // An error means a signal came; the caller looks again in any case.
    let waiting = events.waiting();
    let _ = poll(&mut waiting.each_ref().map(|ring| PollFd::new(ring, PollFlags::IN)), Some(&timeout));
}

fn entry(contact: &Contact, role: &str, ours: &[IpAddr]) -> Entry {
    if let (Some(client), Hook::Query) = (contact.client, contact.hook) {
        return question_entry(contact, client, ours, role);
    }
    let process = contact.process.as_ref().map(|process| Process {
        pid: process.pid,
        name: process.name.clone(),
        cgroup: process.cgroup.clone(),
    });
    Entry::packet(
        channel(contact.hook),
        contact.client,
        Asked::Address {
            address: contact.remote,
            port: contact.port,
            protocol: protocol_name(contact.protocol),
        },
        contact.verdict,
        contact.rule.as_str(),
        role,
        contact.digest,
        contact.count,
        (contact.first.wall, contact.last.wall),
    )
    .made_by(process)
    .to_server(contact.question.as_ref().map(|question| shown(&question.name)))
}

/// A name in presentation form.
fn shown(wire: &[u8]) -> String {
    Name::from_wire(wire).map_or_else(String::new, |name| name.to_string())
}

/// Where in the kernel a contact was met.
const fn channel(hook: Hook) -> &'static str {
    match hook {
        Hook::Lan | Hook::Wan | Hook::Query | Hook::Tls => "xdp",
        Hook::HostOut | Hook::HostIn => "tcx",
        Hook::Connect | Hook::Send => "cgroup",
    }
}

fn protocol_name(number: u8) -> String {
    match number {
        1 => "icmp".into(),
        6 => "tcp".into(),
        17 => "udp".into(),
        58 => "icmpv6".into(),
        number => number.to_string(),
    }
}

/// The event of a question that the kernel answered. Of those that were only counted while no agent was there, no name is
/// known: then the event says to which resolver they went.
fn question_entry(contact: &Contact, client: IpAddr, ours: &[IpAddr], role: &str) -> Entry {
    let resolver = contact.remote;
    let asked = match &contact.question {
        Some(Question { name, qtype }) => Asked::Name {
            name: shown(name),
            rtype: RecordType::from(*qtype).to_string(),
            via: None,
            resolver: Some(resolver).filter(|resolver| !ours.contains(resolver)),
        },
        None => Asked::Address {
            address: resolver,
            port: contact.port,
            protocol: protocol_name(contact.protocol),
        },
    };
    Entry::dns("xdp", client, asked, contact.verdict, contact.rule.as_str(), role, contact.digest).counted(
        contact.count,
        contact.first.wall,
        contact.last.wall,
    )
}

/// Accounts of clients that `status` shows: those with the most packets.
const ACCOUNTS_SHOWN: usize = 10_000;

/// What each client's packets came to, as `status` shows it, and how many accounts there are besides.
pub(crate) fn clients(mut clients: Vec<ClientCount>) -> (Value, usize) {
    clients.sort_by_key(|counted| std::cmp::Reverse(counted.count.packets));
    let shown: Vec<Value> = clients
        .iter()
        .take(ACCOUNTS_SHOWN)
        .map(|counted| {
            json!({
                "client": counted.client,
                "rule": counted.rule.as_str(),
                "verdict": counted.verdict.as_str(),
                "hook": hook_name(counted.hook),
                "packets": counted.count.packets,
                "bytes": counted.count.bytes,
            })
        })
        .collect();
    (shown.into(), clients.len().saturating_sub(ACCOUNTS_SHOWN))
}

/// What the packets of clients came to for whom there was no room, as `status` shows it.
pub(crate) fn beyond_clients(mut beyond: Vec<BeyondCount>) -> Value {
    beyond.sort_by_key(|counted| std::cmp::Reverse(counted.count.packets));
    let shown = beyond.iter().take(ACCOUNTS_SHOWN).map(|counted| {
        json!({
            "unit": counted.unit,
            "rule": counted.rule.as_str(),
            "verdict": counted.verdict.as_str(),
            "hook": hook_name(counted.hook),
            "packets": counted.count.packets,
            "bytes": counted.count.bytes,
        })
    });
    shown.collect()
}

const fn hook_name(hook: Hook) -> &'static str {
    match hook {
        Hook::Lan => "lan",
        Hook::Wan => "wan",
        Hook::Query => "query",
        Hook::HostOut => "host_out",
        Hook::HostIn => "host_in",
        Hook::Connect => "connect",
        Hook::Send => "send",
        Hook::Tls => "tls",
    }
}

/// The counters as `status` shows them.
pub(crate) fn counters(counters: &Counters) -> Value {
    let rules: Vec<Value> = counters
        .rules
        .iter()
        .map(|counted| {
            json!({
                "rule": counted.rule.as_str(),
                "verdict": counted.verdict.as_str(),
                "packets": counted.count.packets,
                "bytes": counted.count.bytes,
            })
        })
        .collect();
    json!({
        "exits": counters.exits,
        "unjudged": counters.unjudged,
        "losses": counters.losses,
        "answers_overflow": counters.answers_overflow,
        "rules": rules,
    })
}

/// What answers told of addresses, as `status` shows it.
pub(crate) fn addresses(answers: &Answers, learning: &Learning) -> Value {
    let fills = answers.fills();
    let refused: serde_json::Map<String, Value> =
        learning.refusals().map(|(reason, count)| (reason.to_owned(), count.into())).collect();
    json!({
        "opened": fills.opened.held,
        "opened_to_clients": fills.opened_to.held,
        "learned": fills.learned.held,
        "shared": learning.shared(),
        "overflow": fills.opened.full + fills.opened_to.full + fills.learned.full,
        "refused": refused,
    })
}
