//! The daemon, put together: everything that can fail first, then the listeners.

mod show;

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context;
use interdict_audit::{Entry, Index, IndexHandle, Indexer, Log, Record};
use interdict_dns_filter::{
    CACHE_BYTES, Certificate, Clients, Conduct, Connections, Counters, Designated, DivertedSockets, Filter,
    FilterHandler, Forwarder, Forwarding, TlsListeners, TlsService, Upstream, default_clients,
    serve_diverted,
};
use interdict_ebpf_loader::{OWN_MARK, PacketPlane, local_addresses};
use interdict_policy::{Action, Ask, DomainName, Policy, Timestamp};
use serde_json::{Value, json};
use tokio::signal::unix::{SignalKind, signal};

use crate::alive::Alive;
use crate::audit::{self, Retention};
use crate::cli::RunArgs;
use crate::config::{PacketSettings, Settings, TlsSettings};
use crate::console::Console;
use crate::control::{self, Answer};
use crate::dnstap::Tap;
use crate::explain::{Asker, Explanation, explain};
use crate::fallback::Fallback;
use crate::guard::{self, Guard};
use crate::keep;
use crate::learn::{Learned, Learning, Rounds, Standing, keep_rounds};
use crate::listen::{Addresses, Bound, Listen, Service};
use crate::observe::{Kernel, Recorder};
use crate::packets::{self, Heart, PacketRecorder, Parts, Policies};
use crate::privileges;
use crate::reload::{Cause, PolicyFiles, Refused, Reloader, first};
use crate::selftest::{self, Selftest};
use crate::store::Store;
use crate::stream::{self, Sender};
use crate::upstreams::{upstreams, zones};
use crate::watch::Watch;

/// Where DNS is answered unless said otherwise: a port that needs no privilege.
const DEFAULT_LISTEN: &str = "127.0.0.1:5300";

/// After what time a reload is tried again that failed for another reason than what the files say; twice as long after
/// each more.
const RETRY_AFTER: Duration = Duration::from_secs(5);
const RETRY_AFTER_AT_MOST: Duration = Duration::from_secs(300);

/// Runs the agent until it is told to stop.
///
/// # Errors
/// When anything keeps it from starting; nothing is served then.
pub fn run(args: &RunArgs) -> anyhow::Result<()> {
    privileges::raise_open_files_limit();
    let settings = Settings::new(args)?;
    let data = settings.data.map_or_else(default_data, Ok)?;
    std::fs::create_dir_all(&data)
        .with_context(|| format!("cannot create the data folder {}", data.display()))?;
    let store = Store::open(&data)?;
    let files = PolicyFiles { paths: settings.policy, profile: settings.profile };
    let first = first(&files, &store)?;
    let listen = match settings.listen.as_slice() {
        [] => vec![DEFAULT_LISTEN.parse::<SocketAddr>()?],
        named => named.to_vec(),
    };
    let named = Listen::new(listen, settings.udp_sockets)?;
    let listen = named.now()?;
    let mut upstreams = upstreams(&settings.upstreams, &listen)?;
    let forwarding = Forwarding {
        upstreams: upstreams.clone(),
        zones: zones(settings.forward, &listen)?,
        randomizes_case: settings.randomizes_case,
        cache_bytes: settings.cache_bytes.unwrap_or(CACHE_BYTES),
        withholds_private: settings.withholds_private,
        private_domains: settings.private_domains,
        dnssec: settings.dnssec,
    };
    upstreams.extend(forwarding.zones.iter().flat_map(|zone| zone.upstreams.clone()));
    let clients = match settings.clients {
        named if !named.is_empty() => named,
        _ => [default_clients(), packets::client_networks(&settings.packet)?].concat(),
    };
    let mut plane = packets::load(&settings.packet, &listen, &upstreams, &clients)?;
    let listeners = named.bind(&listen)?;
    let own_name = settings.tls.as_ref().and_then(|tls| tls.name.clone());
    let tls = settings.tls.map(Tls::bind).transpose()?;
    let designated = tls.as_ref().zip(own_name).map(|(tls, name)| tls.designated(name));
    let socket = settings.control.unwrap_or_else(control::default_socket);
    let control = control::bind(&socket)?;
    let console = settings.console.map(Console::bind).transpose()?;
    let record = Record::open(&data, &node())?.with_privacy(settings.privacy);
    let retention = Retention::new(settings.retain, settings.legal_hold, &data)?;
    audit::keep_privacy(settings.privacy, &data)?;

    let policy = Arc::new(first.policy);
    store.keep(&policy)?;
    store.mark(&policy)?;
    let policies = Policies::default();
    policies.add(&policy);
    if let Some(plane) = &mut plane {
        let staged = plane.stage(&policy)?;
        plane.flip(staged)?;
        plane.settle()?;
    }
    // The programs judge questions from the first packet on: those of an earlier agent, whose place they take, did.
    let diverted = match &mut plane {
        Some(plane) if packets::has_lan(&settings.packet) => {
            let sockets =
                DivertedSockets::bind().context(
                    "cannot open sockets for questions to other resolvers, which takes CAP_NET_ADMIN and CAP_NET_RAW",
                )?;
            packets::judge_queries(plane, &sockets)?;
            Some(sockets)
        }
        _ => None,
    };
    if let Some(plane) = &mut plane {
        plane.attach()?;
    }
    privileges::drop_unneeded()?;
    check_access(&files.paths, first.warning.is_none(), &data)?;

    let (log, writer) = record.start()?;
    let indexer = Indexer::start(&data)?;
    let streams = settings.streams.into_iter().map(|stream| Sender::start(stream, &data));
    let streams = streams.collect::<std::io::Result<Vec<_>>>()?;
    let fallback = Arc::new(Fallback::new(log.clone()));
    let alive = Arc::new(Index::open_to_read(&data).map_or_else(|_| Alive::new(), |index| Alive::of(&index)));
    let mut recorder = None;
    if let Some(plane) = &mut plane {
        let (events, answers) = (plane.events()?, plane.answers());
        let (policies, fallback) = (policies.clone(), fallback.clone());
        let ours = listen.iter().map(SocketAddr::ip).collect();
        recorder = Some(PacketRecorder::start(
            events,
            answers,
            log.clone(),
            policies,
            fallback,
            alive.clone(),
            ours,
        ));
    }
    let answers = plane.as_ref().map(PacketPlane::answers);
    let learning = answers.clone().map(|answers| -> anyhow::Result<_> {
        let safe = packets::safe(&settings.packet, &listen, &upstreams)?;
        Ok(Arc::new(Learning::new(Box::new(answers), policy.clone(), safe, our_addresses()?)))
    });
    let learning = learning.transpose()?;
    let kernel = answers.zip(learning.clone()).map(|(answers, learning)| Kernel { answers, learning });
    if settings.resolve_banned.is_some() && learning.is_none() {
        tracing::warn!(
            "resolve_banned does nothing where no interface is filtered: nobody would match addresses"
        );
    }
    let rounds = settings.resolve_banned.filter(|_| learning.is_some());
    let rounds = rounds.map(|period| Arc::new(Rounds::every(period)));
    let plane = plane.map(|plane| Arc::new(Mutex::new(plane)));
    let parts = Parts::default();
    let heart = plane.as_ref().map(|plane| Heart::start(plane.clone(), parts.clone()));
    let tap = settings.dnstap.map(|dnstap| Tap::start(dnstap.to, node())).transpose()?;
    let (tap, tap_writer) = tap.unzip();
    let questions = Arc::new(Recorder::new(log.clone(), kernel, fallback, alive.clone(), tap.clone()));
    let filter = Arc::new(Filter::new(policy.clone(), questions.clone()));
    for exemption in policy.expired(Timestamp::now()) {
        tracing::warn!(exemption = %exemption.id, expires = %exemption.expires, "an exemption has ended");
    }
    let started = json!({
        "version": env!("CARGO_PKG_VERSION"),
        "warning": first.warning,
        "legal_hold": retention.hold(),
    });
    log.record(Entry::admin("agent.started", started, Some(policy.digest())));
    let reloader =
        Reloader::new(files, filter.clone(), plane.clone(), policies, store, log.clone(), first.warning);
    let selftest = Arc::new(Selftest {
        log: log.clone(),
        canary: questions.canary(),
        plane: plane.clone(),
        last: Mutex::default(),
        turn: Mutex::default(),
    });
    let agent = Agent {
        guard: plane.as_ref().map(|plane| Arc::new(Guard::new(plane.clone(), log.clone()))),
        listening: Addresses::default(),
        console: console.as_ref().and_then(Console::address),
        encrypted: tls
            .as_ref()
            .map(|tls| tls.listeners.each_ref().map(TlsListeners::addresses))
            .unwrap_or_default(),
        packets: settings.packet,
        upstreams,
        forwarding,
        saves_cache: settings.save_cache.unwrap_or(true),
        forwarder: None,
        conduct: Conduct { designated, ..settings.conduct },
        clients: Clients::new(clients),
        data,
        filter,
        plane,
        learning,
        rounds,
        parts,
        counters: Arc::default(),
        questions: questions.clone(),
        log: log.clone(),
        retention: retention.clone(),
        index: indexer.handle(),
        streams: streams.iter().map(Sender::state).collect(),
        tap,
        selftest,
        alive,
        reloader: Arc::new(reloader),
    };

    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let served = runtime.block_on(agent.serve(named, listeners, control, diverted, console, tls));
    runtime.shutdown_background();
    if let Some(heart) = heart {
        heart.stop();
    }
    let _ = std::fs::remove_file(&socket);
    if let Some(recorder) = recorder {
        recorder.stop();
    }
    questions.sweep();
    log.record(Entry::admin("agent.stopped", json!({}), None));
    drop(log);
    writer.close();
    indexer.stop();
    streams.into_iter().for_each(Sender::stop);
    if let Some(writer) = tap_writer {
        writer.stop();
    }
    served
}

/// Whether, without privileges, the policy can be read again and the data written.
fn check_access(policy: &[PathBuf], policy_is_in_order: bool, data: &Path) -> anyhow::Result<()> {
    for folder in ["log", "log/tile", "log/checkpoints", "keys", "policies", "state"] {
        privileges::check_writable(&data.join(folder))?;
    }
    match crate::files::read(policy) {
        Err(problems) if policy_is_in_order => anyhow::bail!(
            "the agent, which gives up the right to override permissions, could not read its policy again; \
             give the files to the user that runs it, in a folder such as /etc/interdict\n{problems}"
        ),
        _ => Ok(()),
    }
}

struct Agent {
    /// `None` where no packets are filtered.
    guard: Option<Arc<Guard>>,
    listening: Addresses,
    /// Where DNS over TLS is served, over HTTPS, and over QUIC.
    encrypted: [Vec<SocketAddr>; 3],
    /// Where metrics are served, if they are.
    console: Option<SocketAddr>,
    packets: PacketSettings,
    /// All that are asked for something.
    upstreams: Vec<Upstream>,
    forwarding: Forwarding,
    saves_cache: bool,
    /// `None` until it serves.
    forwarder: Option<Forwarder>,
    conduct: Conduct,
    clients: Clients,
    data: PathBuf,
    filter: Arc<Filter>,
    plane: Option<Arc<Mutex<PacketPlane>>>,
    /// `None` where no packets are filtered.
    learning: Option<Arc<Learning>>,
    /// `None` where banned names are not resolved.
    rounds: Option<Arc<Rounds>>,
    parts: Parts,
    counters: Arc<Counters>,
    questions: Arc<Recorder>,
    log: Log,
    retention: Retention,
    index: IndexHandle,
    streams: Vec<stream::State>,
    /// `None` where nobody reads questions and answers.
    tap: Option<Tap>,
    selftest: Arc<Selftest>,
    alive: Arc<Alive>,
    reloader: Arc<Reloader>,
}

impl Agent {
    /// Serves until SIGINT or SIGTERM; SIGHUP and changed files reload.
    async fn serve(
        mut self,
        listen: Listen,
        listeners: Vec<Bound>,
        control: std::os::unix::net::UnixListener,
        diverted: Option<DivertedSockets>,
        console: Option<Console>,
        tls: Option<Tls>,
    ) -> anyhow::Result<()> {
        let forwarder = Forwarder::new(self.forwarding.clone(), self.filter.clone(), self.counters.clone())
            .map_err(anyhow::Error::msg)?;
        keep::take(&self.data, &forwarder);
        self.forwarder = Some(forwarder.clone());
        let (filter, clients, counters) = (self.filter.clone(), self.clients.clone(), self.counters.clone());
        let handler = FilterHandler::new(filter, clients, counters, self.conduct.clone(), forwarder)
            .map_err(anyhow::Error::msg)?;
        let mut watch = Watch::new(self.reloader.paths())?;
        let mut hangup = signal(SignalKind::hangup())?;
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let control = tokio::net::UnixListener::from_std(control)?;

        let handler = Arc::new(handler);
        let connections = Connections::of(self.clients.clone(), self.conduct.proxies.clone());
        let encrypted = connections.clone();
        let asked = self.upstreams.iter().map(|upstream| upstream.address).collect();
        let mut dns = Service::new(listen, asked, handler.clone(), connections, self.counters.clone());
        listeners.into_iter().for_each(|bound| dns.serve(bound));
        let _tls = tls.map(|Tls { certificate, listeners }| {
            let serve = |listeners: TlsListeners| listeners.serve(&handler, &encrypted, &self.counters);
            let serving = listeners.map(serve);
            (serving, tokio::spawn(follow_certificate(certificate)))
        });
        self.listening = dns.addresses();
        let _diverted = diverted.map(|sockets| serve_diverted(sockets, OWN_MARK, &handler)).transpose()?;
        let agent = Arc::new(self);
        let _control = tokio::spawn(control::serve(control, agent.clone()));
        agent.say_hello();
        if let Some(address) = agent.console {
            tracing::info!("metrics on http://{address}/metrics");
        }
        let _console = console.map(|console| tokio::spawn(console.serve(agent.clone())));
        let _exemptions = tokio::spawn(watch_exemptions(agent.reloader.clone(), agent.filter.clone()));
        let _addresses = tokio::spawn(follow_addresses(agent.clone(), dns));
        let _guard = agent.guard.clone().map(|guard| tokio::spawn(look_after_interfaces(guard)));
        let _sweeps = tokio::spawn(sweep_every_second(agent.questions.clone()));
        let _learning = agent
            .learning
            .clone()
            .map(|learning| tokio::spawn(look_after_learning(learning, agent.filter.clone())));
        let _rounds = agent.rounds.clone().zip(agent.learning.clone()).map(|(rounds, learning)| {
            tokio::spawn(keep_rounds(rounds, learning, agent.filter.clone(), handler))
        });
        let _alive = tokio::spawn(tell_who_lives(agent.clone()));
        let _selftest = tokio::spawn(test_itself(agent.clone()));
        let _retention = tokio::spawn(remove_what_is_old(agent.clone()));
        let mut retry_after = RETRY_AFTER;
        loop {
            let retry = agent.reloader.is_worth_another_try();
            retry_after = if retry { retry_after.min(RETRY_AFTER_AT_MOST) } else { RETRY_AFTER };
            tokio::select! {
                () = tokio::time::sleep(retry_after), if retry => {
                    retry_after *= 2;
                    agent.reload(Cause::Retry, "what kept the policy from coming into force may have passed").await;
                }
                () = watch.changed() => agent.reload(Cause::Files, "the policy files changed").await,
                _ = hangup.recv() => agent.reload(Cause::Signal, "SIGHUP").await,
                _ = terminate.recv() => break,
                _ = interrupt.recv() => break,
            }
        }
        if let Some(forwarder) = agent.forwarder.as_ref().filter(|_| agent.saves_cache) {
            keep::leave(&agent.data, forwarder);
        }
        Ok(())
    }

    fn say_hello(&self) {
        let policy = self.filter.policy();
        let list = |items: Vec<String>| items.join(", ");
        tracing::info!(
            rules = policy.rules().len(),
            digest = %policy.digest(),
            "policy in force: {}",
            match self.reloader.paths() {
                [] => "the embedded Kaspersky pack".into(),
                paths => list(paths.iter().map(|path| path.display().to_string()).collect()),
            }
        );
        tracing::info!(
            "DNS on {} (UDP and TCP), asking {}",
            list(self.listening.list().iter().map(ToString::to_string).collect()),
            list(self.upstreams.iter().map(ToString::to_string).collect())
        );
        tracing::info!("record in {}", self.data.join("log").display());
        if let Some(listen) = self.listening.list().first().filter(|_| blocks(&policy, EXAMPLE)) {
            tracing::info!("try: dig @{} -p {} {EXAMPLE}", listen.ip(), listen.port());
        }
    }

    async fn reload(&self, cause: Cause, why: &str) {
        tracing::info!("{why}: reading the policy again");
        let reloader = self.reloader.clone();
        // The outcome is logged and recorded where it is decided.
        if let Err(fault) = tokio::task::spawn_blocking(move || reloader.reload(cause)).await {
            tracing::error!(%fault, "the reload broke off; the policy before it is in force");
        }
    }
}

async fn look_after_interfaces(guard: Arc<Guard>) {
    loop {
        tokio::time::sleep(guard::LOOK_EVERY).await;
        let guard = guard.clone();
        let _ = tokio::task::spawn_blocking(move || guard.look()).await;
    }
}

/// DNS over encrypted channels, with everything read and bound.
struct Tls {
    certificate: Certificate,
    listeners: [TlsListeners; 3],
}

impl Tls {
    fn bind(TlsSettings { listen, https, quic, files, .. }: TlsSettings) -> anyhow::Result<Self> {
        let certificate = Certificate::read(files).map_err(anyhow::Error::msg).context("[dns.tls]")?;
        let listeners = [
            TlsListeners::bind(&listen, TlsService::Dot, &certificate)?,
            TlsListeners::bind(&https, TlsService::Doh, &certificate)?,
            TlsListeners::bind(&quic, TlsService::Doq, &certificate)?,
        ];
        Ok(Self { certificate, listeners })
    }

    /// What clients are told that ask where else this server is, by the name in its certificate.
    fn designated(&self, name: DomainName) -> Designated {
        let bound = self.listeners.each_ref().map(TlsListeners::addresses);
        let [dot, doh, doq] = bound.each_ref().map(|addresses| addresses.first().map(SocketAddr::port));
        let services = [(TlsService::Doq, doq), (TlsService::Dot, dot), (TlsService::Doh, doh)];
        let services = services.into_iter().filter_map(|(service, port)| Some((service, port?))).collect();
        let mut addresses: Vec<IpAddr> = bound.iter().flatten().map(SocketAddr::ip).collect();
        addresses.sort();
        addresses.dedup();
        addresses.retain(|address| !address.is_unspecified());
        Designated { name, services, addresses }
    }
}

/// How often it is looked whether there is another certificate.
const CERTIFICATE_EVERY: Duration = Duration::from_secs(1);

async fn follow_certificate(certificate: Certificate) {
    loop {
        tokio::time::sleep(CERTIFICATE_EVERY).await;
        match certificate.follow() {
            Ok(true) => tracing::info!("another certificate is in use"),
            Ok(false) => {}
            Err(error) => tracing::warn!("the certificate stays as it was: {error}"),
        }
    }
}

/// How often it is looked which addresses the machine has.
const ADDRESSES_EVERY: Duration = Duration::from_secs(1);

/// Keeps the service going; where it listens on wildcards, on the addresses that the machine has.
async fn follow_addresses(agent: Arc<Agent>, mut dns: Service<Forwarder>) {
    loop {
        tokio::time::sleep(ADDRESSES_EVERY).await;
        if dns.follow() {
            let agent = agent.clone();
            // The packet plane may be busy for seconds.
            let _ = tokio::task::spawn_blocking(move || agent.renew_safe_addresses()).await;
        }
    }
}

/// A name that the embedded pack blocks.
const EXAMPLE: &str = "s07.upd.kaspersky.com";

fn blocks(policy: &Policy, name: &str) -> bool {
    let decided = name.parse::<DomainName>().ok().and_then(|name| policy.decide_name(name.as_name()));
    decided.is_some_and(|decided| policy.rule(decided.rule).action == Action::Block)
}

/// How often it is put on record who gave a sign of life.
const ALIVE_EVERY: Duration = Duration::from_secs(5);

async fn tell_who_lives(agent: Arc<Agent>) {
    loop {
        agent.alive.tell(&agent.filter.policy(), &agent.log);
        tokio::time::sleep(ALIVE_EVERY).await;
    }
}

/// How long after the start the first test of itself is made.
const FIRST_SELFTEST_AFTER: Duration = Duration::from_secs(30);

async fn test_itself(agent: Arc<Agent>) {
    tokio::time::sleep(FIRST_SELFTEST_AFTER).await;
    loop {
        let tested = agent.clone();
        let _ = tokio::task::spawn_blocking(move || tested.probe()).await;
        tokio::time::sleep(selftest::EVERY).await;
    }
}

/// How often it is looked whether there are events that are not to be retained.
const PRUNE_EVERY: Duration = Duration::from_secs(3600);

async fn remove_what_is_old(agent: Arc<Agent>) {
    let mut warned = String::new();
    loop {
        let agent = agent.clone();
        let pruned = tokio::task::spawn_blocking(move || agent.retention.prune_old(&agent.log)).await;
        match pruned {
            Ok(Ok(0)) | Err(_) => {}
            Ok(Ok(events)) => tracing::info!(events, "old events are removed from the record"),
            Ok(Err(error)) => {
                let warning = format!("{error:#}");
                if warning != warned {
                    tracing::warn!("old events stay on record: {warning}");
                    warned = warning;
                }
            }
        }
        tokio::time::sleep(PRUNE_EVERY).await;
    }
}

async fn sweep_every_second(questions: Arc<Recorder>) {
    let mut second = tokio::time::interval(Duration::from_secs(1));
    loop {
        second.tick().await;
        questions.sweep();
    }
}

/// How often learned addresses follow the policy and what addresses the machine has.
const LEARNING_EVERY: Duration = Duration::from_secs(1);

async fn look_after_learning(learning: Arc<Learning>, filter: Arc<Filter>) {
    loop {
        let (learning, filter) = (learning.clone(), filter.clone());
        let followed = tokio::task::spawn_blocking(move || {
            learning.follow(&filter.policy(), our_addresses()?);
            Ok::<(), interdict_ebpf_loader::Error>(())
        });
        if let Ok(Err(error)) = followed.await {
            tracing::warn!(%error, "learned addresses do not follow those of this machine");
        }
        tokio::time::sleep(LEARNING_EVERY).await;
    }
}

/// Every address of this machine.
fn our_addresses() -> Result<Vec<IpAddr>, interdict_ebpf_loader::Error> {
    Ok(local_addresses()?.into_iter().map(|ours| ours.address.to_canonical()).collect())
}

/// How often it is looked whether an exemption has ended: the clock may be set at any moment.
const EXEMPTIONS_EVERY: Duration = Duration::from_secs(1);

async fn watch_exemptions(reloader: Arc<Reloader>, filter: Arc<Filter>) {
    let mut before = Timestamp::now();
    loop {
        tokio::time::sleep(EXEMPTIONS_EVERY).await;
        let now = Timestamp::now();
        let some_ended = filter.policy().next_expiry(before).is_some_and(|next| next <= now);
        if some_ended || now < before {
            let reloader = reloader.clone();
            let ended = tokio::task::spawn_blocking(move || reloader.exemptions_ended(before, now)).await;
            if let Ok(Err(error)) = ended {
                tracing::warn!("the kernel ends exemptions by the clock that it knew: {error:#}");
            }
        }
        before = now;
    }
}

impl Agent {
    /// Our listeners are never dropped, wherever they are now.
    fn renew_safe_addresses(&self) {
        let Some(plane) = &self.plane else { return };
        let mut plane = plane.lock().unwrap_or_else(PoisonError::into_inner);
        let safe = packets::safe(&self.packets, &self.listening.list(), &self.upstreams);
        let renewed = safe.and_then(|safe| {
            plane.set_safe(safe.clone())?;
            Ok(safe)
        });
        match (renewed, &self.learning) {
            (Ok(safe), Some(learning)) => learning.set_safe(safe),
            (Ok(_), None) => {}
            (Err(error), _) => tracing::warn!("packets to our own addresses may be dropped: {error:#}"),
        }
    }

    /// As the policy says, but for addresses that the packet plane decides on before or after it asks the policy.
    fn explain(&self, ask: &Ask, client: Option<IpAddr>) -> Explanation {
        let (policy, asker) = (self.filter.policy(), Asker { client, at: Timestamp::now() });
        let explanation = explain(&policy, ask, &asker);
        let (Ask::Address(address, _), Some(plane)) = (ask, &self.plane) else { return explanation };
        let plane = plane.lock().unwrap_or_else(PoisonError::into_inner);
        let inside = plane.ipv4_inside(*address).map(IpAddr::V4);
        // As it is written, then as the IPv4 address that it stands for.
        let spellings = || [Some(*address), inside].into_iter().flatten();
        if let Some(network) = spellings().find_map(|address| plane.safe_network(address)) {
            return explanation.safe(network);
        }
        let explanation = match inside {
            Some(inside) if !explanation.is_of_address(&policy) => {
                explanation.or_inside(&policy, inside, ask, &asker)
            }
            _ => explanation,
        };
        let answers = plane.answers();
        let about = |address| self.learning.as_ref().and_then(|learning| learning.about(address));
        let known = spellings().find_map(about);
        let open_to = |address| client.and_then(|client| answers.is_open_to(client, address));
        let open = spellings().find_map(|address| answers.is_open(address).or_else(|| open_to(address)));
        let learned = spellings().find_map(|address| answers.is_learned(address));
        let explanation = match (open, learned.filter(|_| !explanation.is_of_address(&policy))) {
            (Some(open), _) => explanation.answered(&policy, *address, "opened", open, None, &asker),
            (None, Some(learned)) => {
                let name = known.as_ref().map(|known| &known.name);
                explanation.answered(&policy, *address, "learned", learned, name, &asker)
            }
            (None, None) => explanation,
        };
        match &known {
            Some(known @ Learned { standing: Standing::SharedWith(other), .. }) => {
                explanation.shared(known, other.as_ref())
            }
            _ => explanation,
        }
    }
}

impl Answer for Agent {
    fn status(&self) -> Value {
        Agent::status(self)
    }

    fn reload(&self, uid: u32) -> Value {
        match self.reloader.reload(Cause::Verb { uid }) {
            Ok(applied) => json!({ "applied": true, "digest": applied.to.to_string() }),
            Err(refused @ (Refused::Problems(_) | Refused::Failed(_))) => json!({
                "applied": false,
                "digest": self.filter.policy().digest().to_string(),
                "problems": refused.to_string(),
            }),
        }
    }

    fn rekey(&self) -> anyhow::Result<Value> {
        let [old, new] = self.log.change_key().context("the old key goes on to sign")?;
        Ok(json!({ "old": old, "new": new }))
    }

    fn prune(&self, before: Option<jiff::civil::Date>, uid: u32) -> anyhow::Result<Value> {
        self.retention.prune(&self.log, before, &format!("uid {uid}"))
    }

    fn probe(&self) -> Value {
        let missing = self.guard.as_ref().and_then(|guard| guard.warning());
        let serves = |client| self.clients.serves(client);
        self.selftest.run(&self.filter.policy(), &self.listening.list(), serves, missing)
    }

    fn reindex(&self) -> Value {
        self.index.make_again();
        json!({})
    }

    fn exported(&self, events: [u64; 2], uid: u32) -> Value {
        self.log.record(audit::exported(events, uid));
        json!({})
    }

    fn seal(&self) -> anyhow::Result<Value> {
        self.log.seal()?;
        Ok(json!({}))
    }

    fn reported(&self, detail: Value, uid: u32) -> anyhow::Result<Value> {
        Ok(json!({ "event": self.log.write_sealed(crate::report::made(detail, uid))? }))
    }

    fn import(&self, part: audit::Part, uid: u32) -> anyhow::Result<Value> {
        // From now on their signs of life are of interest.
        part.in_contact().for_each(|client| self.alive.was_in_contact(client));
        audit::put(&self.log, &self.filter.policy(), part, uid)?;
        Ok(json!({}))
    }

    fn why(&self, asks: &[String], client: Option<IpAddr>) -> anyhow::Result<Vec<Explanation>> {
        let explain = |ask: &String| ask.parse().map(|ask| self.explain(&ask, client));
        asks.iter().map(explain).collect::<Result<_, _>>().map_err(anyhow::Error::msg)
    }
}

/// The user's state folder (XDG base directory specification), or what systemd gives a service.
fn default_data() -> anyhow::Result<PathBuf> {
    let set =
        |name: &str| std::env::var_os(name).filter(|value| Path::new(value).is_absolute()).map(PathBuf::from);
    set("STATE_DIRECTORY")
        .or_else(|| set("XDG_STATE_HOME").map(|folder| folder.join("interdict")))
        .or_else(|| set("HOME").map(|home| home.join(".local/state/interdict")))
        .context("no folder for the record: set HOME, or name one with --data DIR")
}

/// What this machine calls itself.
pub(crate) fn node() -> String {
    let name = rustix::system::uname();
    name.nodename().to_string_lossy().into_owned()
}
