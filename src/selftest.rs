//! The self-test: every few minutes a name and an address that the policy blocks go through both planes, and the outcome is on
//! record. So "nothing was blocked" and "nothing ran" are told apart.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query};
use hickory_proto::rr::RecordType;
use hickory_proto::rr::rdata::opt::EdnsCode;
use interdict_audit::{Entry, Log};
use interdict_ebpf_loader::PacketPlane;
use interdict_policy::{Action, Answer, DomainName, Name, Policy, RuleIndex, Timestamp};
use serde_json::{Value, json};

/// How often.
pub(crate) const EVERY: Duration = Duration::from_secs(300);
/// How long an answer may take.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);
/// The label of the names that are asked for, below a domain of the policy.
const LABEL: &[u8] = b"interdict-selftest";
/// Networks and names that are looked at for one that is blocked.
const LOOK_AT: usize = 10_000;

/// What is being asked for, so that it is not taken for a contact.
#[derive(Default)]
pub(crate) struct Canary {
    is_out: AtomicBool,
    asked: Mutex<Option<(IpAddr, DomainName)>>,
}

impl Canary {
    /// Whether this question is one of the self-test.
    pub(crate) fn is(&self, client: IpAddr, name: Name<'_>) -> bool {
        if !self.is_out.load(Relaxed) {
            return false;
        }
        let asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        asked.as_ref().is_some_and(|(from, of)| *from == client && of.as_name() == name)
    }

    fn send(&self, canary: Option<(IpAddr, DomainName)>) {
        let is_out = canary.is_some();
        *self.asked.lock().unwrap_or_else(PoisonError::into_inner) = canary;
        self.is_out.store(is_out, Relaxed);
    }
}

/// Runs the tests.
pub(crate) struct Selftest {
    pub(crate) log: Log,
    pub(crate) canary: Arc<Canary>,
    pub(crate) plane: Option<Arc<Mutex<PacketPlane>>>,
    /// The last outcome, for `status`.
    pub(crate) last: Mutex<Value>,
    /// Who tests, one after the other.
    pub(crate) turn: Mutex<()>,
}

impl Selftest {
    /// One test of both planes: what came of it. May block for seconds.
    pub(crate) fn run(
        &self,
        policy: &Policy,
        listen: &[SocketAddr],
        serves: impl Fn(IpAddr) -> bool,
        missing: Option<String>,
    ) -> Value {
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        let name = blocked_name(policy);
        let dns: Vec<Value> =
            listen.iter().map(|address| self.ask(policy, name.as_ref(), *address, &serves)).collect();
        let packet = self.plane.as_ref().map(|plane| try_packets(plane, policy, name.as_ref(), missing));
        let failed = |test: &Value| test["outcome"] == "failed";
        let passed = !dns.iter().chain(packet.iter()).any(failed);
        if !passed {
            let why = dns
                .iter()
                .chain(packet.iter())
                .filter(|test| failed(test))
                .map(|test| test["why"].to_string());
            tracing::error!("the self-test failed: {}", why.collect::<Vec<_>>().join("; "));
        }
        let detail = json!({ "passed": passed, "dns": dns, "packet": packet });
        let time = Timestamp::now().round(jiff::Unit::Second).unwrap_or_default();
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) =
            json!({ "time": time.to_string(), "passed": passed });
        self.log.record(Entry::selftest(detail.clone(), policy.digest()));
        detail
    }

    /// Asks one listener as any client does.
    fn ask(
        &self,
        policy: &Policy,
        name: Option<&(DomainName, RuleIndex)>,
        listen: SocketAddr,
        serves: &impl Fn(IpAddr) -> bool,
    ) -> Value {
        let told = |outcome: &str, why: &str| json!({ "listen": listen.to_string(), "outcome": outcome, "why": why });
        let Some((name, rule)) = name else { return told("skipped", "the policy blocks no name") };
        let rule = policy.rule(*rule);
        let asked = || -> std::io::Result<_> {
            let socket = UdpSocket::bind(if listen.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" })?;
            socket.connect(listen)?;
            Ok((socket.local_addr()?.ip(), socket))
        };
        let (from, socket) = match asked() {
            Ok(asked) => asked,
            Err(error) => return told("failed", &format!("the question could not be sent: {error}")),
        };
        if !serves(from) {
            return told(
                "skipped",
                &format!("{from}, which this machine asks from, is none of [dns] clients"),
            );
        }
        self.canary.send(Some((from, name.clone())));
        let answer = exchange(&socket, name.as_name());
        self.canary.send(None);
        match answer {
            Err(error) => told("failed", &format!("{name} was not answered: {error}")),
            Ok(answer) if says(&answer, rule.id.as_str()) => {
                told("blocked", &format!("{name}, by {}", rule.id))
            }
            Ok(_) => told("failed", &format!("{name} was answered, and not by {}", rule.id)),
        }
    }
}

/// A name that the policy blocks for everybody, with an answer: below a domain if there is one, where nobody asks.
fn blocked_name(policy: &Policy) -> Option<(DomainName, RuleIndex)> {
    let suffixes = || policy.suffixes().take(LOOK_AT).map(|suffix| suffix.name);
    let below = suffixes().filter_map(|name| {
        let wire = [&[LABEL.len() as u8], LABEL, name.as_wire()].concat();
        Name::from_wire(&wire).map(Name::to_owned)
    });
    below.chain(suffixes().map(Name::to_owned)).find_map(|name| {
        let decided = policy.decide_name(name.as_name())?;
        let rule = policy.rule(decided.rule);
        (rule.action == Action::Block && rule.answer != Answer::Drop).then_some((name, decided.rule))
    })
}

/// An address that the policy has dropped, and by which rule.
fn blocked_address(policy: &Policy) -> Option<(IpAddr, RuleIndex)> {
    policy.networks().take(LOOK_AT).find_map(|(network, _)| {
        let address = network.network();
        let decided = policy.decide_address(address, None)?;
        (policy.rule(decided.rule).action == Action::Block).then_some((address, decided.rule))
    })
}

/// Has the kernel's programs decide.
fn try_packets(
    plane: &Mutex<PacketPlane>,
    policy: &Policy,
    name: Option<&(DomainName, RuleIndex)>,
    missing: Option<String>,
) -> Value {
    let mut plane = plane.lock().unwrap_or_else(PoisonError::into_inner);
    let interfaces: Vec<String> = plane.interfaces().into_iter().map(|attached| attached.name).collect();
    let mut tried = Vec::new();
    let mut failed = missing;
    if plane.digest() != Some(policy.digest()) {
        // The policy changed between the two planes' turns: the next test says more.
        return json!({ "interfaces": interfaces, "outcome": "skipped", "why": "the policy is changing" });
    }
    if let Some((address, rule)) = blocked_address(policy) {
        let rule = &policy.rule(rule).id;
        match plane.address_blocked_by(address) {
            Ok(Some(by)) if by == *rule => tried.push(format!("{address}, by {rule}")),
            Ok(by) => {
                failed = Some(format!(
                    "{address} is blocked by {}, and not by {rule}",
                    by.map_or("nothing".to_owned(), |by| by.to_string())
                ))
            }
            Err(error) => failed = Some(format!("{:#}", anyhow::Error::from(error))),
        }
    }
    // Below a glob or pattern only the agent decides.
    if let Some((name, rule)) = name {
        let rule = &policy.rule(*rule).id;
        match plane.name_blocked_by(name.as_name()) {
            Ok(Some(by)) if by == *rule => tried.push(format!("{name}, by {rule}")),
            Ok(Some(by)) => failed = Some(format!("{name} is answered by {by}, and not by {rule}")),
            Ok(None) => {}
            Err(error) => failed = Some(format!("{:#}", anyhow::Error::from(error))),
        }
    }
    match (failed, tried.is_empty()) {
        (Some(why), _) => json!({ "interfaces": interfaces, "outcome": "failed", "why": why }),
        (None, true) => {
            json!({ "interfaces": interfaces, "outcome": "skipped", "why": "the policy blocks no address" })
        }
        (None, false) => json!({ "interfaces": interfaces, "outcome": "blocked", "why": tried.join("; ") }),
    }
}

/// Asks for the address of a name, and waits for the answer.
fn exchange(socket: &UdpSocket, name: Name<'_>) -> std::io::Result<Message> {
    let other = |error: hickory_proto::ProtoError| std::io::Error::other(error.to_string());
    // The socket is connected, and its port is any: nobody else's answer comes here.
    let id = std::process::id() as u16;
    let mut message = Message::new(id, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    let wire = hickory_proto::rr::Name::from_labels(name.labels()).map_err(other)?;
    message.add_query(Query::query(wire, RecordType::A));
    message.edns.get_or_insert_with(Edns::new).set_max_payload(1232);
    socket.send(&message.to_vec().map_err(other)?)?;
    let end = Instant::now() + ANSWER_WITHIN;
    let mut buffer = [0; 1500];
    loop {
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(std::io::ErrorKind::TimedOut.into());
        }
        socket.set_read_timeout(Some(left))?;
        let bytes = match socket.recv(&mut buffer) {
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => continue,
            bytes => bytes?,
        };
        // Whoever else sends something there is not waited for.
        match Message::from_vec(&buffer[..bytes]) {
            Ok(answer) if answer.metadata.id == id => return Ok(answer),
            _ => {}
        }
    }
}

/// Whether an answer says that a rule blocks the name (RFC 8914: an extended error with the rule's id).
fn says(answer: &Message, rule: &str) -> bool {
    const EXTENDED_ERROR: u16 = 15;
    let option = answer.edns.as_ref().and_then(|edns| edns.option(EdnsCode::from(EXTENDED_ERROR)));
    let data = option.and_then(|option| Vec::<u8>::try_from(option).ok());
    data.is_some_and(|data| data.get(2..).is_some_and(|text| String::from_utf8_lossy(text).contains(rule)))
}
