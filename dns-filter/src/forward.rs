//! Questions that no rule blocks: answered from the cache, or by the upstreams, with a bound on the work in flight.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use async_trait::async_trait;
use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Shared};
use hickory_proto::op::{Message, Query as Question, ResponseCode};
use hickory_proto::rr::rdata::svcb::SvcParamValue;
use hickory_proto::rr::rdata::{HTTPS, SVCB};
use hickory_proto::rr::{RData, Record, RecordType};
use hickory_server::net::runtime::Time;
use hickory_server::server::{Request, ResponseHandler, ResponseInfo};
use interdict_dns_wire::{Query, Ttl};
use interdict_policy::{DomainName, Name, Policy, Rule, Verdict};

use crate::answer::{edns, metadata, send, send_blocked, send_code, send_synthesized};
use crate::cache::{Age, Cache, Entry, Given, Key, Kind, mark, question};
use crate::counters::{Counters, count, count_verdict};
use crate::filter::{Answered, Filter, Judgement, Observer, Seen, Target, concerns};
use crate::handler::{Next, silence};
use crate::own::withheld;
use crate::saved;
use crate::shares::{Share, Shares};
use crate::upstreams::{ForwardZone, Upstream, UpstreamHealth, Upstreams};
use crate::validate::{Dnssec, Validated, Validator};

/// Questions asked of upstreams at one time, and of these such that one client asked first; more are dropped and counted,
/// and clients ask again.
const IN_FLIGHT_LIMIT: usize = 1024;
const IN_FLIGHT_OF_A_CLIENT_LIMIT: usize = 256;
/// Questions for keys and signatures, asked of upstreams at one time.
const VALIDATIONS_LIMIT: usize = 2048;
/// For whom the server itself asks.
const NOBODY: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
/// Bytes of answers that are kept, unless said otherwise.
pub const CACHE_BYTES: u64 = 32 << 20;
/// When a client that waits for an upstream is given an answer that has ended, if there is one (RFC 8767, §5).
const PATIENCE_OF_CLIENTS: Duration = Duration::from_millis(1800);
/// For how long that answer is then given without asking again.
const STALE_AGAIN_SECS: u32 = 30;

/// Asks upstreams and remembers what they said. Clones share everything.
#[derive(Clone)]
pub struct Forwarder(pub(crate) Arc<Inner>);

/// Whom a forwarder asks, and what it does with answers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Forwarding {
    /// The upstreams.
    pub upstreams: Vec<Upstream>,
    /// Names for which others are asked.
    pub zones: Vec<ForwardZone>,
    /// Whether plain upstreams are asked for names in random letters, which their answers must repeat.
    pub randomizes_case: bool,
    /// Bytes of answers that are kept at most.
    pub cache_bytes: u64,
    /// Whether answers to names on no list that hold addresses of private networks are withheld, but for names of
    /// `zones` and of `private_domains`: a name of a stranger is not to lead into the network (DNS rebinding).
    pub withholds_private: bool,
    /// Names that may have such addresses, with all below them.
    pub private_domains: Vec<DomainName>,
    /// Whether answers are validated, but for those to names of `zones`, which need not be signed as the world sees them,
    /// and to who sets CD.
    pub dnssec: Dnssec,
}

pub(crate) struct Inner {
    /// Stands for who is asked.
    routes: u64,
    withholds_private: bool,
    private_domains: Vec<DomainName>,
    filter: Arc<Filter>,
    counters: Arc<Counters>,
    upstreams: Upstreams,
    cache: Cache,
    in_flight: Shares,
    /// `None` where nothing is validated.
    validator: Option<Validator>,
    /// Questions that it asks.
    validations: Shares,
    /// What is being asked, for whoever asks the same meanwhile; no more than there are places in flight.
    asking: Mutex<HashMap<Key, Asking>>,
}

impl Inner {
    /// What decides.
    pub(crate) fn filter(&self) -> &Filter {
        &self.filter
    }
}

/// QTYPE.
const SOA: u16 = 6;
const NO_TYPE: u16 = 0;
const OPT: u16 = 41;
const TKEY: u16 = 249;
const TSIG: u16 = 250;
const IXFR: u16 = 251;
const AXFR: u16 = 252;

/// An answer that is being waited for.
type Asking = Shared<BoxFuture<'static, Result<Arc<Entry>, Failure>>>;

impl Forwarder {
    /// A forwarder.
    ///
    /// # Errors
    /// When the resolver library cannot be set up, or a file of trusted keys cannot be read.
    pub fn new(forwarding: Forwarding, filter: Arc<Filter>, counters: Arc<Counters>) -> Result<Self, String> {
        let mut routes = DefaultHasher::new();
        let Forwarding { upstreams, zones, dnssec, .. } = &forwarding;
        format!("{upstreams:?} {zones:?} {dnssec:?}").hash(&mut routes);
        let Forwarding {
            upstreams,
            zones,
            randomizes_case,
            cache_bytes,
            withholds_private,
            private_domains,
            dnssec,
        } = forwarding;
        let upstreams = Upstreams::new(&upstreams, &zones, randomizes_case)?;
        let validator = |inner: &Weak<Inner>| match &dnssec {
            Dnssec::Pass => Ok(None),
            Dnssec::Validate(anchors) => Validator::new(anchors.as_ref(), inner.clone()).map(Some),
        };
        // Who may err is asked first, with nobody to ask yet.
        validator(&Weak::new())?;
        Ok(Self(Arc::new_cyclic(|inner| Inner {
            validator: validator(inner).ok().flatten(),
            validations: Shares::new(VALIDATIONS_LIMIT, VALIDATIONS_LIMIT),
            routes: routes.finish(),
            withholds_private,
            private_domains,
            filter,
            counters,
            upstreams,
            cache: Cache::new(cache_bytes),
            in_flight: Shares::new(IN_FLIGHT_LIMIT, IN_FLIGHT_OF_A_CLIENT_LIMIT),
            asking: Mutex::default(),
        })))
    }

    /// How the upstreams have been.
    pub fn upstreams(&self) -> Vec<UpstreamHealth> {
        self.0.upstreams.health()
    }

    /// How many answers are kept, and the bytes that they take.
    pub fn cache_size(&self) -> (usize, u64) {
        self.0.cache.size()
    }

    /// Writes the kept answers, for [`Self::restore`], and says how many there are.
    ///
    /// # Errors
    /// What the system says.
    pub fn save(&self, to: &mut impl Write) -> io::Result<usize> {
        saved::write(to, unix_secs(), self.0.routes, self.0.cache.saved(Instant::now()))
    }

    /// Keeps the answers that were saved and still hold, and says how many there are.
    ///
    /// # Errors
    /// They cannot be read.
    pub fn restore(&self, from: &mut impl Read) -> io::Result<usize> {
        let all = saved::read(from, unix_secs(), self.0.routes)?;
        Ok(self.0.cache.restore(all, Instant::now()))
    }

    /// The addresses of a name, asked of the upstreams whatever rules say of it: no client asked, and none is told.
    pub async fn look_up(&self, name: Name<'_>) -> LookedUp {
        let mut looked_up = LookedUp { addresses: Vec::new(), ttl: Duration::MAX, failures: 0 };
        for rtype in [RecordType::A, RecordType::AAAA] {
            let key = Key { kind: Kind::plain(rtype), name: name.as_wire().into() };
            let resolved = self.resolve(&key, NOBODY).await.ok().filter(|(entry, _)| !entry.is_failure());
            match resolved.and_then(|(entry, _)| self.look_at(&key, &entry)) {
                Some(answer) => {
                    let held = Held::by(&answer);
                    looked_up.addresses.extend(held.addresses);
                    looked_up.ttl = looked_up.ttl.min(held.ttl);
                }
                None => looked_up.failures += 1,
            }
        }
        looked_up
    }

    /// What there is to say to a client's question, and with what TTLs: from the cache where it holds, else from the
    /// upstreams, else from the cache all the same (RFC 8767).
    async fn resolve(&self, key: &Key, client: IpAddr) -> Result<(Arc<Entry>, Ttl), Failure> {
        let Inner { cache, counters, .. } = &*self.0;
        let now = cache.second(Instant::now());
        let known = cache.get(key);
        let stale = match known.as_ref().map(|entry| (entry, entry.age(now))) {
            Some((entry, Age::Fresh)) => {
                count(&counters.cached);
                return Ok((entry.clone(), entry.fresh_ttl(now)));
            }
            Some((entry, Age::Stale)) => entry.clone(),
            _ => return self.ask(key, client)?.await.map(|entry| (entry, Ttl::Less(0))),
        };
        // Where there is no place to ask, what has ended is better than nothing too.
        if stale.may_try_again(now)
            && let Ok(asking) = self.ask(key, client)
        {
            match tokio::time::timeout(PATIENCE_OF_CLIENTS, asking).await {
                Ok(Ok(entry)) if !entry.is_failure() => return Ok((entry, Ttl::Less(0))),
                _ => stale.try_again_at(now + STALE_AGAIN_SECS),
            }
        }
        count(&counters.stale);
        Ok((stale, Entry::STALE_TTL))
    }

    /// Asks the upstreams, unless the same is being asked already. Whoever asks may stop waiting.
    fn ask(&self, key: &Key, client: IpAddr) -> Result<Asking, Failure> {
        self.ask_within(&self.0.in_flight, key, client)
    }

    /// The same, in one of these places.
    fn ask_within(&self, places: &Shares, key: &Key, client: IpAddr) -> Result<Asking, Failure> {
        let mut asking = self.0.asking.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(asked) = asking.get(key) {
            count(&self.0.counters.joined);
            return Ok(asked.clone());
        }
        let place = places.take(client).ok_or(Failure::Overload)?;
        count(&self.0.counters.forwarded);
        let (forwarder, asked) = (self.clone(), key.clone());
        let task = tokio::spawn(async move {
            let asked = Asked { forwarder, key: asked, _place: place };
            asked.forwarder.ask_upstreams(&asked.key).await
        });
        let answer = async { task.await.unwrap_or(Err(Failure::Broken)) }.boxed().shared();
        asking.insert(key.clone(), answer.clone());
        Ok(answer)
    }

    /// Asks the upstreams, and keeps what they say; where nothing else is known, also that they say nothing.
    async fn ask_upstreams(&self, key: &Key) -> Result<Arc<Entry>, Failure> {
        let Inner { cache, counters, upstreams, .. } = &*self.0;
        let question = question(key).ok_or(Failure::Broken)?;
        if let Some(validator) = self.validates(key) {
            return self.ask_validated(validator, key, &question).await;
        }
        let mut answer = upstreams.ask(&key.name, &question, key.kind).await;
        // The resolver library takes the CNAME record of a name for no answer to a question for SOA, and leaves it out.
        if let (SOA, Ok(answer)) = (key.kind.qtype, &mut answer)
            && answer.answers.is_empty()
        {
            answer.answers = self.alias(key, &question).await;
        }
        let now = cache.second(Instant::now());
        let entry = match answer {
            Ok(answer) => Entry::new(&question, key.name.len(), answer, now).map(Arc::new),
            Err(code) => {
                count(&counters.upstream_failures);
                return Ok(self.keep_failure(key, Entry::failure(code, now), now));
            }
        };
        let entry = entry.ok_or(Failure::Broken)?;
        cache.insert(key.clone(), entry.clone());
        Ok(entry)
    }

    /// Keeps that there is no answer, where nothing else is known.
    fn keep_failure(&self, key: &Key, failure: Entry, now: u32) -> Arc<Entry> {
        let (cache, failure) = (&self.0.cache, Arc::new(failure));
        match cache.get(key).filter(|known| known.age(now) != Age::Over) {
            Some(known) => known.is_not_refreshed(),
            None => cache.insert(key.clone(), failure.clone()),
        }
        failure
    }

    /// Who validates the answer to this, if it is to be validated.
    fn validates(&self, key: &Key) -> Option<&Validator> {
        let is_in_zone = || Name::from_wire(&key.name).is_some_and(|name| self.0.upstreams.is_in_zone(name));
        self.0.validator.as_ref().filter(|_| !key.kind.checking_disabled && !is_in_zone())
    }

    /// Has the validator ask, and keeps what comes.
    async fn ask_validated(
        &self,
        validator: &Validator,
        key: &Key,
        question: &Question,
    ) -> Result<Arc<Entry>, Failure> {
        let Inner { cache, counters, .. } = &*self.0;
        let validated = validator.ask(question, key.kind).await;
        let now = cache.second(Instant::now());
        match validated {
            Validated::Answer(message, secure) => {
                let entry = Entry::new(question, key.name.len(), message, now).ok_or(Failure::Broken)?;
                let entry = Arc::new(if secure { entry.secure() } else { entry });
                cache.insert(key.clone(), entry.clone());
                Ok(entry)
            }
            Validated::Bogus => {
                count(&counters.bogus);
                Ok(self.keep_failure(key, Entry::bogus(now), now))
            }
            Validated::Nothing => {
                Ok(self.keep_failure(key, Entry::failure(ResponseCode::ServFail, now), now))
            }
        }
    }

    /// What the validator wants to see, as it came; `None` where nobody has an answer.
    pub(crate) async fn for_validation(&self, key: &Key) -> Option<Message> {
        let now = self.0.cache.second(Instant::now());
        let known = self.0.cache.get(key).filter(|entry| entry.age(now) == Age::Fresh);
        let entry = match known {
            Some(known) => known,
            None => self.ask_within(&self.0.validations, key, NOBODY).ok()?.await.ok()?,
        };
        self.look_at(key, &entry).filter(|_| !entry.is_failure())
    }

    /// Whether the answer to a name of strangers holds addresses of private networks.
    fn withholds(&self, name: Name<'_>, answer: &Message) -> bool {
        self.0.withholds_private
            && addresses(answer).any(is_private)
            && !self.0.upstreams.is_in_zone(name)
            && !self.0.private_domains.iter().any(|domain| name.is_at_or_below(domain.as_name()))
    }

    /// The CNAME record of a name, if it has one, and the DNAME record that it comes from.
    async fn alias(&self, key: &Key, question: &Question) -> Vec<Record> {
        let question = Question::query(question.name().clone(), RecordType::CNAME);
        let answer = self.0.upstreams.ask(&key.name, &question, key.kind).await;
        let mut records = answer.map(|answer| answer.answers).unwrap_or_default();
        let kept = [RecordType::CNAME, RecordType::DNAME, RecordType::RRSIG];
        records.retain(|record| kept.contains(&record.record_type()));
        records
    }

    /// Looks whether any rule of a policy concerns what is kept for this question, and says whether none does; `None` where
    /// nothing is kept that holds.
    fn look_anew(&self, query: &Query<'_>, policy: &Policy, at: Instant) -> Option<bool> {
        let name = Name::from_wire(query.name())?;
        let key = Key { kind: Kind::of(query), name: query.name().into() };
        let (entry, now) = (self.0.cache.get(&key)?, self.0.cache.second(at));
        if entry.age(now) != Age::Fresh || entry.is_failure() {
            return None;
        }
        let answer = entry.message(&key, now)?;
        let is_clean =
            !targets(&answer).any(|target| concerns(policy, &target)) && !self.withholds(name, &answer);
        if is_clean {
            self.0.filter.observer().unlisted(name, &mut addresses(&answer));
            entry.is_clean_under(mark(policy), now);
        }
        Some(is_clean)
    }

    /// The records of an answer.
    fn look_at(&self, key: &Key, entry: &Entry) -> Option<Message> {
        entry.message(key, self.0.cache.second(Instant::now()))
    }
}

fn unix_secs() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// Something that is being asked, until this is dropped.
struct Asked {
    forwarder: Forwarder,
    key: Key,
    _place: Share,
}

impl Drop for Asked {
    fn drop(&mut self) {
        self.forwarder.0.asking.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.key);
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

#[derive(Clone, Copy, Debug)]
enum Failure {
    /// Too much work in flight: dropped, and the client asks again.
    Overload,
    /// What came cannot be given to anyone.
    Broken,
}

#[async_trait]
impl Next for Forwarder {
    fn answer_at_once(
        &self,
        query: &Query<'_>,
        policy: &Policy,
        at: Instant,
        limit: usize,
        out: &mut [u8],
    ) -> Option<usize> {
        let cache = &self.0.cache;
        let given = cache.answer(query, mark(policy), at, limit, out).or_else(|| {
            // A new policy looks at every answer anew, which takes no more than memory either.
            let looked = self.look_anew(query, policy, at)?;
            looked.then(|| cache.answer(query, mark(policy), at, limit, out)).flatten()
        });
        let Given { bytes, refresh } = given?;
        count(&self.0.counters.cached);
        if let Some(key) = refresh {
            match self.ask(&key, NOBODY) {
                Ok(_) => count(&self.0.counters.prefetched),
                Err(_) => self.0.cache.get(&key).iter().for_each(|entry| entry.is_not_refreshed()),
            }
        }
        Some(bytes)
    }

    async fn answer<R: ResponseHandler, T: Time>(
        &self,
        request: &Request,
        query: &Query<'_>,
        judged: &Judgement,
        mut to: R,
    ) -> ResponseInfo {
        let silence = || silence(request);
        let Some(name) = Name::from_wire(query.name()) else { return silence() };
        // Zone transfers are between servers of one zone, and this is none; others are no types of records in a zone.
        if matches!(query.qtype, NO_TYPE | OPT | TKEY | TSIG | IXFR | AXFR) {
            return send_code(ResponseCode::Refused, edns(query), request, &mut to)
                .await
                .unwrap_or_else(silence);
        }

        let key = Key { kind: Kind::of(query), name: query.name().into() };
        let (entry, ttl) = match self.resolve(&key, judged.client()).await {
            Ok(resolved) => resolved,
            Err(Failure::Overload) => {
                count(&self.0.counters.overload);
                return silence();
            }
            Err(Failure::Broken) => {
                return send_code(ResponseCode::ServFail, edns(query), request, &mut to)
                    .await
                    .unwrap_or_else(silence);
            }
        };
        let now = self.0.cache.second(Instant::now());
        let given = entry.answer(query, ttl, usize::MAX).and_then(|bytes| Message::from_vec(&bytes).ok());
        let Some(mut answer) = given else {
            return send_code(ResponseCode::ServFail, edns(query), request, &mut to)
                .await
                .unwrap_or_else(silence);
        };

        // The name's own rule covers all that its answer leads to; only for an unlisted name does that decide.
        let decided = match judged.decided() {
            Some((rule, verdict)) => Some((rule, verdict, None)),
            None => judged
                .strictest_of(targets(&answer))
                .map(|(rule, verdict, target)| (rule, verdict, Some(target))),
        };
        let observer = self.0.filter.observer();
        if let Some((rule, verdict, Some(via))) = &decided {
            let (rule, verdict) = (*rule, *verdict);
            let (client, policy, qtype) = (judged.client(), judged.policy(), query.qtype);
            let (via, asked, channel) = (Some(via), judged.asked(), judged.channel());
            observer.seen(&Seen { client, channel, asked, name, qtype, via, rule, verdict, policy });
            count_verdict(&self.0.counters, channel, verdict);
            if verdict == Verdict::Block {
                return send_blocked(rule, 0, query, request, to).await.unwrap_or_else(silence);
            }
        }
        // Whatever else it holds: a name of a stranger is not to lead into the network.
        if judged.decided().is_none() && self.withholds(name, &answer) {
            count(&self.0.counters.withheld);
            return send_synthesized(&withheld(), 0, query, request, to).await.unwrap_or_else(silence);
        }
        match &decided {
            None => {
                observer.unlisted(name, &mut addresses(&answer));
                entry.is_clean_under(mark(judged.policy()), now);
            }
            // Where an address decided, no name was let through that could open others.
            Some((_, _, Some(Target::Address(_)))) => observer.unlisted(name, &mut addresses(&answer)),
            Some((rule, verdict, Some(Target::Name(via)))) => {
                tell_addresses(observer, judged, via.as_name(), (rule, *verdict), &answer);
            }
            Some((rule, verdict, None)) => tell_addresses(observer, judged, name, (rule, *verdict), &answer),
        }
        let is_secure = answer.metadata.authentic_data;
        answer.metadata = metadata(request, answer.metadata.response_code);
        answer.metadata.authentic_data = is_secure;
        match send(&answer, request, &mut to).await {
            Some(info) => info,
            // Encoded anew it may be longer than any message.
            None => {
                send_code(ResponseCode::ServFail, edns(query), request, &mut to).await.unwrap_or_else(silence)
            }
        }
    }
}

fn is_private_v4(address: Ipv4Addr) -> bool {
    let [first, second, ..] = address.octets();
    // Shared address space (RFC 6598).
    let is_shared = first == 100 && second & 0xc0 == 64;
    first == 0
        || is_shared
        || address.is_private()
        || address.is_loopback()
        || address.is_link_local()
        || address.is_broadcast()
}

/// Whether an address is one of this machine or of a private network (RFC 6890; RFC 4193).
fn is_private(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(v4) => is_private_v4(v4),
        IpAddr::V6(v6) => {
            const SITE_LOCAL: u16 = 0xfec0;
            let [first, second, .., high, low] = v6.segments();
            // The well-known prefix of NAT64 (RFC 6052), and the old spelling of IPv4 addresses.
            let is_translated = (first, second) == (0x64, 0xff9b) || v6.to_ipv4().is_some();
            let inside = Ipv4Addr::from_bits(u32::from(high) << 16 | u32::from(low));
            v6.is_unique_local()
                || v6.is_unicast_link_local()
                || first & 0xffc0 == SITE_LOCAL
                || is_translated && is_private_v4(inside)
        }
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
pub(crate) fn targets(answer: &Message) -> impl Iterator<Item = Target> {
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
