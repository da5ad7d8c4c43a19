//! Questions that no rule blocks, asked of the upstreams: one cache, one bound on the work in flight.

use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use futures_util::StreamExt;
use hickory_proto::op::{DnsRequestOptions, Message, Query as Question, ResponseCode};
use hickory_proto::rr::rdata::svcb::SvcParamValue;
use hickory_proto::rr::rdata::{HTTPS, SVCB};
use hickory_proto::rr::{RData, Record, RecordType};
use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolverOpts};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::{DnsError, DnsHandle, NetError};
use hickory_resolver::{NameServerPool, PoolContext, ResponseCache, TlsConfig, TtlConfig};
use hickory_server::net::runtime::Time;
use hickory_server::net::xfer::Protocol;
use hickory_server::server::{Request, ResponseHandler, ResponseInfo};
use interdict_dns_wire::{Query, UDP_PAYLOAD_BYTES};
use interdict_policy::{DomainName, Name, Rule, Verdict};
use tokio::sync::Semaphore;

use crate::answer::{edns, metadata, send, send_blocked, send_code};
use crate::counters::{Counters, count, count_verdict};
use crate::filter::{Answered, Filter, Judgement, Observer, Seen, Target};
use crate::handler::{Next, silence};

/// Questions asked of upstreams at one time; more are dropped and counted, and clients ask again.
const IN_FLIGHT_LIMIT: usize = 1024;
/// Responses kept in the cache.
const CACHE_LIMIT: u64 = 65_536;
/// How long one upstream may take to answer.
const UPSTREAM_TIMEOUT: Duration = Duration::from_secs(2);
/// A resolver that is asked, over UDP and, where the answer is cut off, TCP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Upstream(pub SocketAddr);

impl FromStr for Upstream {
    type Err = String;

    /// `192.0.2.1`, `192.0.2.1:53`, `2001:db8::1` or `[2001:db8::1]:53`.
    fn from_str(text: &str) -> Result<Self, String> {
        text.parse()
            .or_else(|_| text.parse::<IpAddr>().map(|ip| SocketAddr::new(ip, 53)))
            .map(Upstream)
            .map_err(|_| format!("\"{}\" is not ADDRESS or ADDRESS:PORT", text.escape_debug()))
    }
}

/// The resolvers that this machine is set up to ask.
///
/// # Errors
/// When the system's configuration cannot be read or names none.
pub fn system_upstreams() -> Result<Vec<Upstream>, String> {
    let (config, _) =
        hickory_resolver::system_conf::read_system_conf().map_err(|e| format!("/etc/resolv.conf: {e}"))?;
    let (_, _, servers) = config.into_parts();
    Ok(servers.into_iter().map(|server| Upstream(SocketAddr::new(server.ip, 53))).collect())
}

/// Asks upstreams and remembers what they said.
pub struct Forwarder {
    filter: Arc<Filter>,
    counters: Arc<Counters>,
    pool: NameServerPool<TokioRuntimeProvider>,
    cache: ResponseCache,
    in_flight: Semaphore,
}

impl Forwarder {
    /// A forwarder to these upstreams, the fastest first.
    ///
    /// # Errors
    /// When the resolver library cannot be set up.
    pub fn new(upstreams: &[Upstream], filter: Arc<Filter>, counters: Arc<Counters>) -> Result<Self, String> {
        let mut options = ResolverOpts::default();
        options.timeout = UPSTREAM_TIMEOUT;
        options.attempts = 2;
        options.edns_payload_len = UDP_PAYLOAD_BYTES;
        options.max_active_requests = IN_FLIGHT_LIMIT;
        let cache = ResponseCache::new(CACHE_LIMIT, TtlConfig::from_opts(&options));
        let tls = TlsConfig::new().map_err(|e| e.to_string())?;
        let servers = upstreams.iter().map(|Upstream(to)| {
            let mut connections = vec![ConnectionConfig::udp(), ConnectionConfig::tcp()];
            connections.iter_mut().for_each(|connection| connection.port = to.port());
            NameServerConfig::new(to.ip(), true, connections)
        });
        let context = Arc::new(PoolContext::new(options, tls));
        let pool = NameServerPool::from_config(servers, context, TokioRuntimeProvider::default());
        Ok(Self { filter, counters, pool, cache, in_flight: Semaphore::new(IN_FLIGHT_LIMIT) })
    }

    /// The addresses of a name, asked of the upstreams whatever rules say of it: no client asked, and none is told.
    pub async fn look_up(&self, name: Name<'_>) -> LookedUp {
        let mut looked_up = LookedUp { addresses: Vec::new(), ttl: Duration::MAX, failures: 0 };
        let Ok(name) = hickory_proto::rr::Name::from_labels(name.labels()) else { return looked_up };
        for rtype in [RecordType::A, RecordType::AAAA] {
            match self.resolve(Question::query(name.clone(), rtype)).await {
                Ok(answer) => {
                    let held = Held::by(&answer);
                    looked_up.addresses.extend(held.addresses);
                    looked_up.ttl = looked_up.ttl.min(held.ttl);
                }
                Err(_) => looked_up.failures += 1,
            }
        }
        looked_up
    }

    /// What the upstreams say, from the cache where it still holds.
    async fn resolve(&self, question: Question) -> Result<Message, Failure> {
        let now = Instant::now();
        let result = match self.cache.get(&question, now) {
            Some(result) => {
                count(&self.counters.cached);
                result
            }
            None => {
                let Ok(_permit) = self.in_flight.try_acquire() else { return Err(Failure::Overload) };
                count(&self.counters.forwarded);
                let mut options = DnsRequestOptions::default();
                options.edns_payload_len = UDP_PAYLOAD_BYTES;
                let answer = self.pool.lookup(question.clone(), options).next().await;
                let result = match answer {
                    Some(Ok(response)) => {
                        DnsError::from_response(response).map(|ok| ok.into_message()).map_err(NetError::from)
                    }
                    Some(Err(e)) => Err(e),
                    None => Err(NetError::Timeout),
                };
                self.cache.insert(question, result.clone(), now);
                result
            }
        };
        match result {
            Ok(message) => Ok(message),
            Err(NetError::Dns(DnsError::NoRecordsFound(none))) => {
                let mut message = Message::query();
                message.metadata.response_code = none.response_code;
                message.authorities = none.authorities.map(|records| records.to_vec()).unwrap_or_default();
                if message.authorities.is_empty() {
                    message.authorities.extend(none.soa.map(|soa| soa.into_record_of_rdata()));
                }
                Ok(message)
            }
            Err(NetError::Dns(DnsError::ResponseCode(code))) => Err(Failure::Code(code)),
            Err(error) => {
                count(&self.counters.upstream_failures);
                tracing::debug!(%error, "no upstream answered");
                Err(Failure::Code(ResponseCode::ServFail))
            }
        }
    }
}

/// What the upstreams said of a name.
#[derive(Clone, Debug)]
pub struct LookedUp {
    /// Its IPv4 and IPv6 addresses.
    pub addresses: Vec<IpAddr>,
    /// The shortest TTL of their records.
    pub ttl: Duration,
    /// Questions, of the two, that came to nothing. That a name has no address is an answer.
    pub failures: u32,
}

enum Failure {
    /// Too much work in flight: dropped, and the client asks again.
    Overload,
    Code(ResponseCode),
}

#[async_trait]
impl Next for Forwarder {
    async fn answer<R: ResponseHandler, T: Time>(
        &self,
        request: &Request,
        query: &Query<'_>,
        judged: &Judgement,
        mut to: R,
    ) -> ResponseInfo {
        let silence = || silence(request);
        let (Ok(info), Some(name)) = (request.request_info(), Name::from_wire(query.name())) else {
            return silence();
        };
        // Zone transfers are between servers of one zone, and this is none.
        if matches!(info.query.query_type(), RecordType::AXFR | RecordType::IXFR) {
            return send_code(ResponseCode::Refused, edns(query), request, &mut to)
                .await
                .unwrap_or_else(silence);
        }

        let question = Question::query(info.query.name().into(), info.query.query_type());
        let mut answer = match self.resolve(question).await {
            Ok(answer) => answer,
            Err(Failure::Overload) => {
                count(&self.counters.overload);
                return silence();
            }
            Err(Failure::Code(code)) => {
                return send_code(code, edns(query), request, &mut to).await.unwrap_or_else(silence);
            }
        };

        if query.qtype == u16::from(RecordType::SOA) && answer.answers.is_empty() {
            answer.answers = self.alias(info.query.name().into()).await;
        }

        // The name's own rule covers all that its answer leads to; only for an unlisted name does that decide.
        let decided = match judged.decided() {
            Some((rule, verdict)) => Some((rule, verdict, None)),
            None => judged
                .strictest_of(targets(&answer))
                .map(|(rule, verdict, target)| (rule, verdict, Some(target))),
        };
        if let Some((rule, verdict, Some(via))) = &decided {
            let (rule, verdict) = (*rule, *verdict);
            let (client, policy, qtype) = (judged.client(), judged.policy(), query.qtype);
            let tcp = request.protocol() != Protocol::Udp;
            let (via, asked) = (Some(via), judged.asked());
            self.filter.observer().seen(&Seen {
                client,
                tcp,
                asked,
                name,
                qtype,
                via,
                rule,
                verdict,
                policy,
            });
            count_verdict(&self.counters, verdict);
            if verdict == Verdict::Block {
                return send_blocked(rule, 0, query, request, to).await.unwrap_or_else(silence);
            }
        }
        let observer = self.filter.observer();
        match &decided {
            // Where an address decided, no name was let through that could open others.
            None | Some((_, _, Some(Target::Address(_)))) => {
                observer.unlisted(name, &mut addresses(&answer));
            }
            Some((rule, verdict, Some(Target::Name(via)))) => {
                tell_addresses(observer, judged, via.as_name(), (rule, *verdict), &answer);
            }
            Some((rule, verdict, None)) => tell_addresses(observer, judged, name, (rule, *verdict), &answer),
        }

        answer.metadata = metadata(request, answer.metadata.response_code);
        answer.edns = edns(query);
        send(&answer, request, &mut to).await.unwrap_or_else(silence)
    }
}

impl Forwarder {
    /// The CNAME record of a name, if it has one. The resolver library takes it for no answer to a question for SOA,
    /// and leaves it out.
    async fn alias(&self, name: hickory_proto::rr::Name) -> Vec<Record> {
        let answer = self.resolve(Question::query(name, RecordType::CNAME)).await;
        let mut records = answer.map(|answer| answer.answers).unwrap_or_default();
        records.retain(|record| record.record_type() == RecordType::CNAME);
        records
    }
}

/// Tells of the addresses of a name that is let through, before the client learns them.
pub(crate) fn tell_addresses(
    observer: &dyn Observer,
    judged: &Judgement,
    name: Name<'_>,
    (rule, verdict): (&Rule, Verdict),
    answer: &Message,
) {
    let Held { addresses, ttl } = Held::by(answer);
    if !addresses.is_empty() {
        let (client, policy) = (judged.client(), judged.policy());
        observer.answered(&Answered { client, name, rule, verdict, policy, addresses: &addresses, ttl });
    }
}

/// The addresses in an answer, and the shortest TTL of their records.
struct Held {
    addresses: Vec<IpAddr>,
    ttl: Duration,
}

impl Held {
    fn by(answer: &Message) -> Self {
        let mut held = Self { addresses: Vec::new(), ttl: Duration::MAX };
        for record in handed_out(answer) {
            let before = held.addresses.len();
            held.addresses.extend(record_addresses(&record.data));
            if held.addresses.len() > before {
                held.ttl = held.ttl.min(Duration::from_secs(record.ttl.into()));
            }
        }
        held
    }
}

/// The addresses in an answer, hints included.
fn addresses(answer: &Message) -> impl Iterator<Item = IpAddr> {
    handed_out(answer).flat_map(|record| record_addresses(&record.data))
}

/// The records that a client acts on: the answer, and beside a service binding the addresses of its targets (RFC 9460
/// section 4.2).
fn handed_out(answer: &Message) -> impl Iterator<Item = &Record> {
    let binds = answer.answers.iter().any(|record| service_binding(&record.data).is_some());
    let more = if binds { answer.additionals.as_slice() } else { &[] };
    answer.answers.iter().chain(more)
}

/// Where an answer leads, in its order.
fn targets(answer: &Message) -> impl Iterator<Item = Target> {
    handed_out(answer).flat_map(|record| {
        let addresses = record_addresses(&record.data).map(Target::Address);
        target_name(&record.data).and_then(wire_name).map(Target::Name).into_iter().chain(addresses)
    })
}

fn target_name(data: &RData) -> Option<&hickory_proto::rr::Name> {
    match data {
        RData::CNAME(target) => Some(&target.0),
        // The root stands for the record's own name (RFC 9460 section 2.5).
        _ => service_binding(data).map(|binding| &binding.target_name).filter(|target| !target.is_root()),
    }
}

fn service_binding(data: &RData) -> Option<&SVCB> {
    match data {
        RData::SVCB(binding) | RData::HTTPS(HTTPS(binding)) => Some(binding),
        _ => None,
    }
}

/// The addresses in a record, hints included.
fn record_addresses(data: &RData) -> impl Iterator<Item = IpAddr> {
    let own = match data {
        RData::A(a) => Some(IpAddr::V4(a.0)),
        RData::AAAA(aaaa) => Some(IpAddr::V6(aaaa.0)),
        _ => None,
    };
    let parameters = service_binding(data).map_or(&[][..], |binding| &binding.svc_params);
    let hints = parameters.iter().flat_map(|(_, parameter)| {
        let (v4, v6) = match parameter {
            SvcParamValue::Ipv4Hint(hint) => (hint.0.as_slice(), &[][..]),
            SvcParamValue::Ipv6Hint(hint) => (&[][..], hint.0.as_slice()),
            _ => (&[][..], &[][..]),
        };
        v4.iter().map(|a| IpAddr::V4(a.0)).chain(v6.iter().map(|aaaa| IpAddr::V6(aaaa.0)))
    });
    own.into_iter().chain(hints)
}

pub(crate) fn wire_name(name: &hickory_proto::rr::Name) -> Option<DomainName> {
    let mut wire = Vec::with_capacity(name.len() + 1);
    for label in name.iter() {
        wire.push(u8::try_from(label.len()).ok()?);
        wire.extend(label.to_ascii_lowercase());
    }
    wire.push(0);
    Name::from_wire(&wire).map(Name::to_owned)
}
