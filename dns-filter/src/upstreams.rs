//! The resolvers that are asked: the fastest first, the next where one is slow, fails, or will not.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use hickory_proto::op::{DnsRequest, DnsRequestOptions, Message, Query as Question, ResponseCode};
use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolverOpts};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::{DnsError, DnsHandle, NetError};
use hickory_resolver::{NameServerPool, PoolContext, TlsConfig};
use interdict_dns_wire::UDP_PAYLOAD_BYTES;
use interdict_policy::{DomainName, Name};
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

use crate::cache::Kind;

/// How long one upstream may take to answer, and all of them together.
const UPSTREAM_TIMEOUT: Duration = Duration::from_secs(2);
const ALL_TIMEOUT: Duration = Duration::from_secs(5);
/// When the next upstream is asked too: after twice the time that the first one usually takes, within these bounds.
const HEDGE_AT_LEAST: Duration = Duration::from_millis(100);
const HEDGE_AT_MOST: Duration = Duration::from_millis(800);
/// Failures in a row after which an upstream is asked last, and for how long.
const FAILURES_TO_BE_DOWN: u32 = 3;
const DOWN_FOR: Duration = Duration::from_secs(10);
/// Questions that one connection to an upstream has open at one time.
const OPEN_QUESTIONS_LIMIT: usize = 1024;

/// A resolver that is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Upstream {
    /// Where it is.
    pub address: SocketAddr,
    over: Over,
}

/// How an upstream is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Over {
    /// UDP and, where the answer is cut off, TCP.
    Plain,
    /// DNS over TLS, from who has a certificate for this name or address.
    Tls(Arc<str>),
    /// DNS over HTTPS, likewise, at this path.
    Https(Arc<str>, Arc<str>),
    /// DNS over QUIC, likewise.
    Quic(Arc<str>),
}

impl Upstream {
    /// One that is asked over UDP and TCP.
    pub fn plain(address: SocketAddr) -> Self {
        Self { address, over: Over::Plain }
    }
}

impl FromStr for Upstream {
    type Err = String;

    /// `192.0.2.1`, `192.0.2.1:53`, `2001:db8::1`, `[2001:db8::1]:53`; `tls://dns.example#192.0.2.1`,
    /// `https://dns.example/dns-query#192.0.2.1`, `quic://dns.example#192.0.2.1`, where a port may stand behind the name,
    /// and which need no `#ADDRESS` if that is what the certificate is for.
    fn from_str(text: &str) -> Result<Self, String> {
        let Some((scheme, rest)) = text.split_once("://") else { return plain(text) };
        let wrong = |why: &str| format!("\"{}\" {why}", text.escape_debug());
        let port = match scheme {
            "tls" | "quic" => 853,
            "https" => 443,
            _ => return Err(wrong("begins with none of tls://, https:// and quic://")),
        };
        let (rest, address) = match rest.split_once('#') {
            Some((rest, address)) => (rest, Some(address)),
            None => (rest, None),
        };
        let (host, path) = match rest.find('/') {
            Some(at) if scheme == "https" => rest.split_at(at),
            Some(_) => return Err(wrong("has a path, which only https:// can have")),
            None => (rest, "/dns-query"),
        };
        let (name, port) = match host.rsplit_once(':') {
            // An IPv6 address stands in brackets.
            Some((name, digits)) if !digits.ends_with(']') => {
                (name, digits.parse().map_err(|_| wrong("has no port behind its last colon"))?)
            }
            _ => (host, port),
        };
        let name = name.trim_start_matches('[').trim_end_matches(']');
        let address: IpAddr = address.unwrap_or(name).parse().map_err(|_| {
            wrong("does not say at which address it is, and nobody is there yet to be asked: write #ADDRESS behind it")
        })?;
        if name.parse::<IpAddr>().is_err() && name.parse::<DomainName>().is_err() {
            return Err(wrong("names no host"));
        }
        let name: Arc<str> = name.into();
        let over = match scheme {
            "tls" => Over::Tls(name),
            "quic" => Over::Quic(name),
            _ => Over::Https(name, path.into()),
        };
        Ok(Self { address: SocketAddr::new(address, port), over })
    }
}

fn plain(text: &str) -> Result<Upstream, String> {
    text.parse()
        .or_else(|_| text.parse::<IpAddr>().map(|ip| SocketAddr::new(ip, 53)))
        .map(Upstream::plain)
        .map_err(|_| format!("\"{}\" is not ADDRESS, ADDRESS:PORT or a URL", text.escape_debug()))
}

impl fmt::Display for Upstream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { address, over } = self;
        let mut url = |scheme: &str, name: &str, path: &str| {
            let name = if name.contains(':') { format!("[{name}]") } else { name.to_owned() };
            write!(f, "{scheme}://{name}:{}{path}#{}", address.port(), address.ip())
        };
        match over {
            Over::Plain => address.fmt(f),
            Over::Tls(name) => url("tls", name, ""),
            Over::Https(name, path) => url("https", name, path),
            Over::Quic(name) => url("quic", name, ""),
        }
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
    Ok(servers.into_iter().map(|server| Upstream::plain(SocketAddr::new(server.ip, 53))).collect())
}

/// Names for which other resolvers are asked: conditional forwarding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ForwardZone {
    /// These names and all below them; the longest that fits decides.
    pub domains: Vec<DomainName>,
    /// Who knows them.
    pub upstreams: Vec<Upstream>,
}

/// All resolvers that are asked.
pub(crate) struct Upstreams {
    servers: Vec<Arc<Server>>,
    /// Those that are asked for a name and all below it, by the name in wire form.
    zones: HashMap<Box<[u8]>, Vec<Arc<Server>>>,
    start: Instant,
}

struct Server {
    name: String,
    pool: NameServerPool<TokioRuntimeProvider>,
    /// Whether names are written in letters that an answer must repeat, which nobody can guess who does not see them
    /// (draft-vixie-dnsext-dns0x20); where it does not, it is asked over TCP.
    randomizes_case: bool,
    /// How long it takes to answer, smoothed, in microseconds; 0 if it was never asked.
    usual_us: AtomicU32,
    failures_in_a_row: AtomicU32,
    /// In milliseconds of [`Upstreams::start`].
    down_until: AtomicU64,
    asked: AtomicU64,
    failed: AtomicU64,
}

/// How an upstream has been.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UpstreamHealth {
    /// The upstream, as it was named.
    pub name: String,
    /// Whether it is asked before those that failed lately.
    pub is_up: bool,
    /// How long it takes to answer, smoothed.
    pub usual: Duration,
    /// How often it was asked.
    pub asked: u64,
    /// How often it did not answer, or said that it cannot.
    pub failed: u64,
}

impl Upstreams {
    /// # Errors
    /// When the resolver library cannot be set up.
    pub(crate) fn new(
        upstreams: &[Upstream],
        forward: &[ForwardZone],
        randomizes_case: bool,
    ) -> Result<Self, String> {
        // One that is named twice is one.
        let mut known: HashMap<String, Arc<Server>> = HashMap::new();
        let mut servers = |upstreams: &[Upstream]| -> Result<Vec<Arc<Server>>, String> {
            let server = |upstream: &Upstream| match known.entry(upstream.to_string()) {
                Entry::Occupied(server) => Ok(server.get().clone()),
                Entry::Vacant(place) => {
                    Ok(place.insert(Arc::new(Server::new(upstream, randomizes_case)?)).clone())
                }
            };
            upstreams.iter().map(server).collect()
        };
        let general = servers(upstreams)?;
        let mut zones = HashMap::new();
        for zone in forward {
            let asked = servers(&zone.upstreams)?;
            let names = zone.domains.iter().map(|domain| domain.as_name().as_wire().into());
            zones.extend(names.map(|name| (name, asked.clone())));
        }
        Ok(Self { servers: general, zones, start: Instant::now() })
    }

    /// How they have been: those that are asked for most names in the order in which they were named, then others.
    pub(crate) fn health(&self) -> Vec<UpstreamHealth> {
        let now = self.millisecond();
        let mut others: Vec<&Arc<Server>> = self.zones.values().flatten().collect();
        others.sort_by(|one, other| (&one.name, Arc::as_ptr(one)).cmp(&(&other.name, Arc::as_ptr(other))));
        others.dedup_by(|one, other| Arc::ptr_eq(one, other));
        others.retain(|other| !self.servers.iter().any(|server| Arc::ptr_eq(server, other)));
        self.servers.iter().chain(others).map(|server| server.health(now)).collect()
    }

    /// Whether a name is one that special resolvers are asked for.
    pub(crate) fn is_in_zone(&self, name: Name<'_>) -> bool {
        !self.zones.is_empty() && name.suffixes().any(|suffix| self.zones.contains_key(suffix.as_wire()))
    }

    /// Those that are asked for a name.
    fn of(&self, name: &[u8]) -> &[Arc<Server>] {
        let zone = Name::from_wire(name).filter(|_| !self.zones.is_empty());
        let zone = zone.and_then(|name| name.suffixes().find_map(|suffix| self.zones.get(suffix.as_wire())));
        zone.unwrap_or(&self.servers)
    }

    /// Asks until one has an answer.
    ///
    /// # Errors
    /// The code that one gave for want of an answer; SERVFAIL where none said anything.
    pub(crate) async fn ask(
        &self,
        name: &[u8],
        question: &Question,
        kind: Kind,
    ) -> Result<Message, ResponseCode> {
        match tokio::time::timeout(ALL_TIMEOUT, self.ask_one_after_another(name, question, kind)).await {
            Ok(answer) => answer,
            Err(_) => Err(ResponseCode::ServFail),
        }
    }

    async fn ask_one_after_another(
        &self,
        name: &[u8],
        question: &Question,
        kind: Kind,
    ) -> Result<Message, ResponseCode> {
        let mut waiting = self.best_first(self.of(name));
        waiting.reverse();
        let mut asked = FuturesUnordered::new();
        let mut refusal = ResponseCode::ServFail;
        while !waiting.is_empty() || !asked.is_empty() {
            let patience = match waiting.pop() {
                Some(server) => {
                    let patience = server.patience();
                    let (question, millisecond) = (question.clone(), self.start);
                    asked.push(async move { server.ask(question, kind, millisecond).await });
                    patience
                }
                // There is nobody else to ask.
                None => ALL_TIMEOUT,
            };
            let more = !waiting.is_empty();
            tokio::select! {
                answered = asked.next() => match answered {
                    Some(Ok(answer)) => return Ok(answer),
                    Some(Err(Some(code))) => refusal = code,
                    Some(Err(None)) | None => {}
                },
                () = tokio::time::sleep(patience), if more => {}
            }
        }
        Err(refusal)
    }

    /// Those that answer, the fastest first; then those that failed lately.
    fn best_first(&self, servers: &[Arc<Server>]) -> Vec<Arc<Server>> {
        let now = self.millisecond();
        let mut servers = servers.to_vec();
        servers.sort_by_cached_key(|server| (server.is_down(now), server.usual_us.load(Relaxed)));
        servers
    }

    fn millisecond(&self) -> u64 {
        self.start.elapsed().as_millis() as u64
    }
}

/// TLS by the certificates that this machine trusts: those of its system, or of the file in the variable `SSL_CERT_FILE`.
fn tls_config() -> Result<ClientConfig, String> {
    let mut roots = RootCertStore::empty();
    let trusted = rustls_native_certs::load_native_certs();
    roots.add_parsable_certificates(trusted.certs);
    if roots.is_empty() {
        return Err("this machine trusts no certificate, so no upstream can be asked over TLS (on Debian: \
                    apt-get install ca-certificates)"
            .to_owned());
    }
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?;
    Ok(config.with_root_certificates(roots).with_no_client_auth())
}

impl Server {
    fn new(upstream: &Upstream, randomizes_case: bool) -> Result<Self, String> {
        let mut options = ResolverOpts::default();
        options.timeout = UPSTREAM_TIMEOUT;
        options.attempts = 1;
        options.edns_payload_len = UDP_PAYLOAD_BYTES;
        options.max_active_requests = OPEN_QUESTIONS_LIMIT;
        let mut connections = match &upstream.over {
            Over::Plain => vec![ConnectionConfig::udp(), ConnectionConfig::tcp()],
            Over::Tls(name) => vec![ConnectionConfig::tls(name.clone())],
            Over::Https(name, path) => vec![ConnectionConfig::https(name.clone(), Some(path.clone()))],
            Over::Quic(name) => vec![ConnectionConfig::quic(name.clone())],
        };
        connections.iter_mut().for_each(|connection| connection.port = upstream.address.port());
        let config = NameServerConfig::new(upstream.address.ip(), true, connections);
        let mut tls = TlsConfig::new().map_err(|e| e.to_string())?;
        if upstream.over != Over::Plain {
            tls.config = tls_config()?;
        }
        let context = Arc::new(PoolContext::new(options, tls));
        Ok(Self {
            name: upstream.to_string(),
            randomizes_case: randomizes_case && upstream.over == Over::Plain,
            pool: NameServerPool::from_config([config], context, TokioRuntimeProvider::default()),
            usual_us: AtomicU32::new(0),
            failures_in_a_row: AtomicU32::new(0),
            down_until: AtomicU64::new(0),
            asked: AtomicU64::new(0),
            failed: AtomicU64::new(0),
        })
    }

    /// # Errors
    /// The code with which it said that it has no answer; `None` where it said nothing.
    async fn ask(
        &self,
        question: Question,
        kind: Kind,
        start: Instant,
    ) -> Result<Message, Option<ResponseCode>> {
        self.asked.fetch_add(1, Relaxed);
        let since = Instant::now();
        let mut options = DnsRequestOptions::default();
        options.edns_payload_len = UDP_PAYLOAD_BYTES;
        options.edns_set_dnssec_ok = kind.dnssec_ok;
        options.case_randomization = self.randomizes_case;
        let mut request = DnsRequest::from_query(question, options);
        request.metadata.checking_disabled = kind.checking_disabled;
        let error = match self.pool.send(request).next().await {
            Some(Ok(response)) => match DnsError::from_response(response) {
                Ok(response) => {
                    self.has_answered(since.elapsed());
                    return Ok(response.into_message());
                }
                Err(error) => NetError::from(error),
            },
            Some(Err(error)) => error,
            None => NetError::Timeout,
        };
        match error {
            NetError::Dns(DnsError::NoRecordsFound(none)) => {
                self.has_answered(since.elapsed());
                let mut message = Message::query();
                message.metadata.response_code = none.response_code;
                message.authorities = none.authorities.map(|records| records.to_vec()).unwrap_or_default();
                if message.authorities.is_empty() {
                    message.authorities.extend(none.soa.map(|soa| soa.into_record_of_rdata()));
                }
                Ok(message)
            }
            NetError::Dns(DnsError::ResponseCode(code)) => {
                self.failed.fetch_add(1, Relaxed);
                tracing::debug!(upstream = self.name, %code, "an upstream has no answer");
                Err(Some(code))
            }
            error => {
                self.has_failed(start.elapsed());
                tracing::debug!(upstream = self.name, %error, "an upstream does not answer");
                Err(None)
            }
        }
    }

    fn has_answered(&self, after: Duration) {
        self.failures_in_a_row.store(0, Relaxed);
        self.down_until.store(0, Relaxed);
        let after = u32::try_from(after.as_micros()).unwrap_or(u32::MAX).max(1);
        // As TCP smooths its round trips (RFC 6298, §2).
        let usual = match self.usual_us.load(Relaxed) {
            0 => after,
            usual => usual - usual / 8 + after / 8,
        };
        self.usual_us.store(usual, Relaxed);
    }

    fn has_failed(&self, now: Duration) {
        self.failed.fetch_add(1, Relaxed);
        if self.failures_in_a_row.fetch_add(1, Relaxed) + 1 >= FAILURES_TO_BE_DOWN {
            self.down_until.store((now + DOWN_FOR).as_millis() as u64, Relaxed);
        }
    }

    fn is_down(&self, now: u64) -> bool {
        now < self.down_until.load(Relaxed)
    }

    /// When somebody else is asked too.
    fn patience(&self) -> Duration {
        match self.usual_us.load(Relaxed) {
            0 => HEDGE_AT_MOST,
            usual => Duration::from_micros(2 * u64::from(usual)).clamp(HEDGE_AT_LEAST, HEDGE_AT_MOST),
        }
    }

    fn health(&self, now: u64) -> UpstreamHealth {
        UpstreamHealth {
            name: self.name.clone(),
            is_up: !self.is_down(now),
            usual: Duration::from_micros(self.usual_us.load(Relaxed).into()),
            asked: self.asked.load(Relaxed),
            failed: self.failed.load(Relaxed),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn upstreams_are_read_and_printed() {
        for (text, shown) in [
            ("192.0.2.1", "192.0.2.1:53"),
            ("2001:db8::1", "[2001:db8::1]:53"),
            ("[2001:db8::1]:5353", "[2001:db8::1]:5353"),
            ("tls://192.0.2.1", "tls://192.0.2.1:853#192.0.2.1"),
            ("tls://[2001:db8::1]", "tls://[2001:db8::1]:853#2001:db8::1"),
            ("tls://dns.example#192.0.2.1", "tls://dns.example:853#192.0.2.1"),
            ("quic://dns.example:8853#192.0.2.1", "quic://dns.example:8853#192.0.2.1"),
            ("https://dns.example/#192.0.2.1", "https://dns.example:443/#192.0.2.1"),
            ("https://dns.example:8443/q#2001:db8::1", "https://dns.example:8443/q#2001:db8::1"),
            ("https://192.0.2.1", "https://192.0.2.1:443/dns-query#192.0.2.1"),
        ] {
            let upstream: Upstream = text.parse().unwrap();
            assert_eq!(upstream.to_string(), shown);
            assert_eq!(shown.parse(), Ok(upstream), "{shown}");
        }
        for (text, why) in [
            ("dns.example", "is not ADDRESS"),
            ("192.0.2.1:x", "is not ADDRESS"),
            ("tls://dns.example", "write #ADDRESS"),
            ("tls://dns.example#other", "write #ADDRESS"),
            ("tls://dns.example:x#192.0.2.1", "has no port"),
            ("tls://dns.example/q#192.0.2.1", "has a path"),
            ("tls://a..b#192.0.2.1", "names no host"),
            ("h3://dns.example#192.0.2.1", "begins with none of"),
        ] {
            let refused = text.parse::<Upstream>().unwrap_err();
            assert!(refused.contains(why), "{refused}");
        }
    }
}
