//! Answers that are kept, in the bytes in which they are given again.

use std::hash::Hash;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::time::Instant;

use hickory_proto::dnssec::rdata::DNSSECRData;
use hickory_proto::op::{Message, MessageType, OpCode, Query as Question, ResponseCode};
use hickory_proto::rr::{DNSClass, Name as HickoryName, RData, Record, RecordType};
use interdict_dns_wire::{Kept, Query, Ttl, records_begin};
use interdict_policy::{Name, Policy};
use quick_cache::sync::Cache as Store;
use quick_cache::{Equivalent, Weighter};
use smallvec::SmallVec;

use crate::saved::{self, Saved};

/// What an answer may take that is kept, in bytes; a longer one is asked for each time.
const RECORDS_LIMIT_BYTES: usize = 16_384;
/// Names and records of this length, in bytes, have no memory of their own.
const USUAL_NAME_BYTES: usize = 32;
const USUAL_RECORDS_BYTES: usize = 32;
/// What an entry takes beside its name and its records: itself, its key, and its place in the store.
const ENTRY_BYTES: usize = 200;
/// What an entry takes on average, for the store to be made as large as it will be.
const USUAL_ENTRY_BYTES: usize = 320;

/// The longest time for which an answer is kept: a day, and of a negative one an hour (RFC 2308, §5, advises up to three).
const TTL_LIMIT_SECS: u32 = 86_400;
const NEGATIVE_TTL_LIMIT_SECS: u32 = 3600;
/// For how long it is remembered that no upstream had an answer (RFC 9520, §3.2).
const FAILURE_TTL_SECS: u32 = 5;
/// For how long after its end an answer may still be given when no upstream has another (RFC 8767, §5, advises one to three
/// days), and with what TTL.
const STALE_FOR_SECS: u32 = 86_400;
const STALE_TTL_SECS: u32 = 30;
/// In what part of its time, at its end, an answer that is asked for is asked for again before it has ended.
const PREFETCH_PART: u32 = 10;
/// After what time whoever watches addresses is told of them again: they forget after an hour.
const TELL_AGAIN_SECS: u32 = 1800;

/// What an answer depends on, beside the name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Kind {
    /// QTYPE.
    pub(crate) qtype: u16,
    /// DO: with signatures.
    pub(crate) dnssec_ok: bool,
    /// CD: whoever asks checks them.
    pub(crate) checking_disabled: bool,
}

impl Kind {
    /// The kind of answer that a question asks for.
    pub(crate) fn of(query: &Query<'_>) -> Self {
        Self {
            qtype: query.qtype,
            dnssec_ok: query.edns.is_some_and(|edns| edns.dnssec_ok),
            checking_disabled: query.checking_disabled(),
        }
    }

    /// Of a type, without signatures.
    pub(crate) fn plain(rtype: RecordType) -> Self {
        Self { qtype: rtype.into(), dnssec_ok: false, checking_disabled: false }
    }
}

/// What is asked, by a name in wire form and lower-cased.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Key {
    pub(crate) kind: Kind,
    /// Where it is, most names are: elsewhere they would cost a look into memory that nothing else lies near.
    pub(crate) name: SmallVec<[u8; USUAL_NAME_BYTES]>,
}

/// The same, borrowed: hashed as [`Key`] is.
#[derive(Clone, Copy, Debug, Hash)]
struct Asked<'n> {
    kind: Kind,
    name: &'n [u8],
}

impl Equivalent<Key> for Asked<'_> {
    fn equivalent(&self, key: &Key) -> bool {
        self.kind == key.kind && *self.name == *key.name
    }
}

/// An answer.
#[derive(Debug)]
pub(crate) struct Entry {
    /// Here one or two addresses are, for the same reason.
    records: SmallVec<[u8; USUAL_RECORDS_BYTES]>,
    counts: [u16; 3],
    rcode: u8,
    /// In seconds of the cache's clock.
    came_at: u32,
    ttl_secs: u32,
    nature: Nature,
    /// The policy of which no rule concerns anything in the answer, by [`mark`]; 0 for none.
    clean_under: AtomicU64,
    /// When those were told who want to know which addresses are answered.
    told_at: AtomicU32,
    /// Before when nobody is asked again for an answer that has ended.
    retry_at: AtomicU32,
    /// Whether it is being asked for again already.
    refreshing: AtomicBool,
}

/// What kind of thing is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Nature {
    /// An answer as it came.
    Answer,
    /// An answer whose signatures are in order.
    Secure,
    /// No upstream had an answer.
    Failure,
    /// There are signatures, and they are not in order.
    Bogus,
}

/// How an entry stands at a moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Age {
    /// It holds, for another while.
    Fresh,
    /// It has ended, but is better than nothing.
    Stale,
    /// It is over.
    Over,
}

/// The answers.
pub(crate) struct Cache {
    store: Store<Key, Arc<Entry>, Bytes>,
    start: Instant,
}

#[derive(Clone)]
struct Bytes;

impl Weighter<Key, Arc<Entry>> for Bytes {
    fn weight(&self, key: &Key, entry: &Arc<Entry>) -> u64 {
        (ENTRY_BYTES + key.name.len() + entry.records.len()) as u64
    }
}

/// What tells policies apart.
pub(crate) fn mark(policy: &Policy) -> u64 {
    let [a, b, c, d, e, f, g, h, ..] = policy.digest().0;
    u64::from_ne_bytes([a, b, c, d, e, f, g, h]).max(1)
}

/// An answer from the cache.
pub(crate) struct Given {
    /// Its length.
    pub(crate) bytes: usize,
    /// What is to be asked again soon, since it is wanted and near its end.
    pub(crate) refresh: Option<Key>,
}

impl Cache {
    /// A cache that keeps so many bytes at most.
    pub(crate) fn new(limit_bytes: u64) -> Self {
        let entries = (limit_bytes as usize / USUAL_ENTRY_BYTES).max(64);
        Self { store: Store::with_weighter(entries, limit_bytes, Bytes), start: Instant::now() }
    }

    /// The second of a moment.
    pub(crate) fn second(&self, at: Instant) -> u32 {
        // The first is 1, so that 0 is before all.
        1 + at.saturating_duration_since(self.start).as_secs() as u32
    }

    pub(crate) fn get(&self, key: &Key) -> Option<Arc<Entry>> {
        self.store.get(key)
    }

    pub(crate) fn insert(&self, key: Key, entry: Arc<Entry>) {
        match entry.records.len() <= RECORDS_LIMIT_BYTES && entry.ttl_secs > 0 {
            true => self.store.insert(key, entry),
            // What was said before holds no more.
            false => drop(self.store.remove(&key)),
        }
    }

    /// The answers that hold, as they are given now.
    pub(crate) fn saved(&self, at: Instant) -> impl Iterator<Item = Saved> {
        let now = self.second(at);
        self.store.iter().filter_map(move |(key, entry)| {
            let age = now.saturating_sub(entry.came_at);
            let Entry { rcode, counts, ttl_secs, nature, .. } = *entry;
            let is_kept = !entry.is_failure();
            let saved = Saved {
                key,
                rcode,
                secure: nature == Nature::Secure,
                counts,
                holds_secs: ttl_secs,
                records: entry.records.to_vec(),
            };
            is_kept.then_some(saved)?.after(age)
        })
    }

    /// Keeps what was saved.
    pub(crate) fn restore(&self, all: Vec<Saved>, at: Instant) -> usize {
        let (now, mut kept) = (self.second(at), 0);
        for Saved { key, rcode, secure, counts, holds_secs, records } in all {
            let nature = if secure { Nature::Secure } else { Nature::Answer };
            let holds_secs = holds_secs.min(TTL_LIMIT_SECS);
            let entry = Entry { nature, ..Entry::with(rcode, counts, &records, holds_secs, now) };
            // What cannot be read would be given to clients all the same.
            if entry.message(&key, now).is_some() {
                self.insert(key, Arc::new(entry));
                kept += 1;
            }
        }
        kept
    }

    /// How many answers there are, and their bytes.
    pub(crate) fn size(&self) -> (usize, u64) {
        (self.store.len(), self.store.weight())
    }

    /// Answers a question of class IN with what is known, if that holds and no rule of the policy concerns any of it. `None`
    /// says that more must be done.
    pub(crate) fn answer(
        &self,
        query: &Query<'_>,
        policy: u64,
        at: Instant,
        limit: usize,
        out: &mut [u8],
    ) -> Option<Given> {
        let asked = Asked { kind: Kind::of(query), name: query.name() };
        let entry = self.store.get(&asked)?;
        let now = self.second(at);
        let is_clean = entry.clean_under.load(Relaxed) == policy;
        let is_told = now.saturating_sub(entry.told_at.load(Relaxed)) < TELL_AGAIN_SECS;
        if !is_clean || !is_told || entry.age(now) != Age::Fresh {
            return None;
        }
        let bytes = entry.kept().write(query, entry.fresh_ttl(now), limit, out)?;
        let is_wanted = entry.is_near_its_end(now) && !entry.refreshing.swap(true, Relaxed);
        let refresh = is_wanted.then(|| Key { kind: asked.kind, name: asked.name.into() });
        Some(Given { bytes, refresh })
    }
}

impl Entry {
    /// What an upstream said `now` to a question, whose name is lower-cased and takes so many bytes on the wire. `None` if
    /// that cannot be written.
    pub(crate) fn new(question: &Question, name_bytes: usize, mut answer: Message, now: u32) -> Option<Self> {
        let asked = question.name();
        // What stands beside an answer is optional, and leads to names that nobody asked for: only service bindings need it.
        if !answer.answers.iter().any(|record| matches!(record.data, RData::SVCB(_) | RData::HTTPS(_))) {
            answer.additionals.clear();
        }
        // So is which servers the zone has; other resolvers leave that away too (`minimal-responses`). Proofs stay.
        if !answer.answers.is_empty() {
            answer.authorities.retain(|record| !is_of_servers(record));
        }
        // Other letters, as in an answer that repeats ours, would keep names from being compressed.
        let sections = [&mut answer.answers, &mut answer.authorities, &mut answer.additionals];
        for record in sections.into_iter().flatten() {
            if record.name.eq_ignore_root(asked) {
                record.name = asked.clone();
            }
            // RFC 2181, §8, and RFC 8767, §4.
            record.ttl = if record.ttl > i32::MAX as u32 { 0 } else { record.ttl.min(TTL_LIMIT_SECS) };
        }
        let ttl_secs = ttl_secs(&answer);
        let rcode = u8::try_from(u16::from(answer.metadata.response_code)).ok()?;
        let mut message = Message::new(0, MessageType::Response, OpCode::Query);
        message.add_query(question.clone());
        message.answers = answer.answers;
        message.authorities = answer.authorities;
        message.additionals = answer.additionals;
        let bytes = message.to_vec().ok()?;
        let count = |at: usize| Some(u16::from_be_bytes(*bytes.get(at..)?.first_chunk()?));
        let counts = [count(6)?, count(8)?, count(10)?];
        let begin = records_begin(name_bytes);
        Some(Self::with(rcode, counts, bytes.get(begin..)?, ttl_secs, now))
    }

    /// No upstream had an answer: what one said that will not, or SERVFAIL.
    pub(crate) fn failure(code: ResponseCode, now: u32) -> Self {
        let rcode = if code == ResponseCode::Refused { REFUSED } else { SERVFAIL };
        Self { nature: Nature::Failure, ..Self::with(rcode, [0; 3], &[], FAILURE_TTL_SECS, now) }
    }

    /// What came has signatures that are not in order.
    pub(crate) fn bogus(now: u32) -> Self {
        Self { nature: Nature::Bogus, ..Self::failure(ResponseCode::ServFail, now) }
    }

    /// The same answer, whose signatures are in order.
    pub(crate) fn secure(self) -> Self {
        Self { nature: Nature::Secure, ..self }
    }

    fn with(rcode: u8, counts: [u16; 3], records: &[u8], ttl_secs: u32, now: u32) -> Self {
        Self {
            records: records.into(),
            counts,
            rcode,
            came_at: now,
            ttl_secs,
            nature: Nature::Answer,
            clean_under: AtomicU64::new(0),
            told_at: AtomicU32::new(0),
            retry_at: AtomicU32::new(0),
            refreshing: AtomicBool::new(false),
        }
    }

    /// Whether it says that there is no answer.
    pub(crate) fn is_failure(&self) -> bool {
        matches!(self.nature, Nature::Failure | Nature::Bogus)
    }

    pub(crate) fn age(&self, now: u32) -> Age {
        match now.saturating_sub(self.came_at) {
            age if age < self.ttl_secs => Age::Fresh,
            age if !self.is_failure() && age < self.ttl_secs.saturating_add(STALE_FOR_SECS) => Age::Stale,
            _ => Age::Over,
        }
    }

    /// The TTLs of an answer that holds, or came just now.
    pub(crate) fn fresh_ttl(&self, now: u32) -> Ttl {
        Ttl::Less(now.saturating_sub(self.came_at))
    }

    /// Those of one that has ended.
    pub(crate) const STALE_TTL: Ttl = Ttl::Stale(STALE_TTL_SECS);

    fn is_near_its_end(&self, now: u32) -> bool {
        let left = self.ttl_secs.saturating_sub(now.saturating_sub(self.came_at));
        left.saturating_mul(PREFETCH_PART) <= self.ttl_secs && !self.is_failure()
    }

    /// Nothing in it concerns this policy, and those were told who want to know of addresses.
    pub(crate) fn is_clean_under(&self, policy: u64, now: u32) {
        self.told_at.store(now, Relaxed);
        self.clean_under.store(policy, Relaxed);
    }

    /// An answer that has ended is given again for a while before somebody is asked.
    pub(crate) fn try_again_at(&self, second: u32) {
        self.retry_at.store(second, Relaxed);
    }

    pub(crate) fn may_try_again(&self, now: u32) -> bool {
        now >= self.retry_at.load(Relaxed)
    }

    /// Whoever was to ask again has come to nothing.
    pub(crate) fn is_not_refreshed(&self) {
        self.refreshing.store(false, Relaxed);
    }

    fn kept(&self) -> Kept<'_> {
        Kept {
            rcode: self.rcode,
            secure: self.nature == Nature::Secure,
            error: (self.nature == Nature::Bogus).then_some(DNSSEC_BOGUS),
            counts: self.counts,
            records: &self.records,
        }
    }

    /// The whole answer to a question, of at most `limit` bytes.
    pub(crate) fn answer(&self, query: &Query<'_>, ttl: Ttl, limit: usize) -> Option<Vec<u8>> {
        // The question, the records, and an OPT record with an extended error.
        let mut out = vec![0; query.question().len() + self.records.len() + 64];
        let bytes = self.kept().write(query, ttl, limit, &mut out)?;
        out.truncate(bytes);
        Some(out)
    }

    /// The records, to be looked at.
    pub(crate) fn message(&self, key: &Key, now: u32) -> Option<Message> {
        let asked = saved::question(key);
        let query = Query::read(&asked).ok()?;
        Message::from_vec(&self.answer(&query, self.fresh_ttl(now), usize::MAX)?).ok()
    }
}

/// INFO-CODE (RFC 8914, §4.7).
const DNSSEC_BOGUS: u16 = 6;
const SERVFAIL: u8 = 2;
const REFUSED: u8 = 5;

/// Whether a record says which servers a zone has, or signs that.
fn is_of_servers(record: &Record) -> bool {
    match &record.data {
        RData::DNSSEC(DNSSECRData::RRSIG(signature)) => signature.input().type_covered == RecordType::NS,
        data => matches!(data, RData::NS(_)),
    }
}

/// How long an answer holds: as long as its shortest record, and a negative one as its SOA says (RFC 2308, §5).
fn ttl_secs(answer: &Message) -> u32 {
    let soa = answer.authorities.iter().find_map(|record| match &record.data {
        RData::SOA(soa) => Some(record.ttl.min(soa.minimum)),
        _ => None,
    });
    let all = answer.answers.iter().chain(&answer.authorities).chain(&answer.additionals);
    let shortest = all.map(|record: &Record| record.ttl).min();
    match (answer.answers.is_empty(), soa, shortest) {
        (false, None, Some(shortest)) => shortest.min(TTL_LIMIT_SECS),
        (_, Some(soa), Some(shortest)) => soa.min(shortest).min(NEGATIVE_TTL_LIMIT_SECS),
        // Nothing says how long.
        _ => 0,
    }
}

/// A question of class IN, with its name lower-cased.
pub(crate) fn question(key: &Key) -> Option<Question> {
    let name = Name::from_wire(&key.name)?;
    let mut question = Question::query(HickoryName::from_labels(name.labels()).ok()?, key.kind.qtype.into());
    question.set_query_class(DNSClass::IN);
    Some(question)
}

#[cfg(test)]
mod tests {
    use std::str::FromStr;

    use hickory_proto::dnssec::Algorithm;
    use hickory_proto::dnssec::rdata::{RRSIG, SigInput};
    use hickory_proto::rr::SerialNumber;
    use hickory_proto::rr::rdata::{A, CNAME, MX, NS, SOA, TXT};
    use proptest::prelude::*;

    use super::*;

    fn name(text: &str) -> HickoryName {
        HickoryName::from_str(text).unwrap()
    }

    fn soa(minimum: u32) -> RData {
        RData::SOA(SOA::new(name("ns.test."), name("host.test."), 1, 3600, 600, 86_400, minimum))
    }

    fn key(asked: &str, rtype: RecordType) -> Key {
        let asked: interdict_policy::DomainName = asked.parse().unwrap();
        Key { kind: Kind::plain(rtype), name: asked.as_name().as_wire().into() }
    }

    fn entry(key: &Key, answer: Message, now: u32) -> Entry {
        Entry::new(&question(key).unwrap(), key.name.len(), answer, now).unwrap()
    }

    fn with(answers: &[(&str, u32, RData)], authorities: &[(&str, u32, RData)]) -> Message {
        let records = |section: &[(&str, u32, RData)]| {
            let record =
                |(owner, ttl, data): &(&str, u32, RData)| Record::from_rdata(name(owner), *ttl, data.clone());
            section.iter().map(record).collect::<Vec<_>>()
        };
        let mut message = Message::query();
        message.answers = records(answers);
        message.authorities = records(authorities);
        message
    }

    #[test]
    fn an_answer_holds_as_long_as_its_shortest_record_or_its_soa_says() {
        let a = || RData::A(A::new(192, 0, 2, 1));
        let cname = || RData::CNAME(CNAME(name("cdn.test.")));
        for (what, answer, expect) in [
            ("the shortest", with(&[("w.test.", 300, cname()), ("cdn.test.", 60, a())], &[]), 60),
            ("a day at most", with(&[("w.test.", 900_000, a())], &[]), TTL_LIMIT_SECS),
            ("the minimum", with(&[], &[("test.", 900, soa(120))]), 120),
            ("the SOA's own TTL", with(&[], &[("test.", 90, soa(120))]), 90),
            ("an hour at most", with(&[], &[("test.", 90_000, soa(90_000))]), NEGATIVE_TTL_LIMIT_SECS),
            ("an alias to nothing", with(&[("w.test.", 30, cname())], &[("test.", 900, soa(120))]), 30),
            ("nothing says", with(&[], &[]), 0),
            ("not at all", with(&[("w.test.", 0, a())], &[]), 0),
        ] {
            assert_eq!(entry(&key("w.test", RecordType::A), answer, 1).ttl_secs, expect, "{what}");
        }
    }

    #[test]
    fn which_servers_a_zone_has_is_told_to_who_asks_for_that() {
        let a = || ("w.test.", 300, RData::A(A::new(192, 0, 2, 1)));
        let ns = |owner| (owner, 90, RData::NS(NS(name("ns.elsewhere."))));
        let signature = |covers| {
            let input = SigInput {
                type_covered: covers,
                algorithm: Algorithm::ED25519,
                num_labels: 1,
                original_ttl: 90,
                sig_expiration: SerialNumber::new(2),
                sig_inception: SerialNumber::new(1),
                key_tag: 1,
                signer_name: name("test."),
            };
            ("test.", 90, RData::DNSSEC(DNSSECRData::RRSIG(RRSIG::from_sig(input, vec![0; 64]))))
        };
        for (what, answer, counts) in [
            ("beside an answer", with(&[a()], &[ns("test."), signature(RecordType::NS)]), [1, 0, 0]),
            ("a proof", with(&[a()], &[signature(RecordType::NSEC), ns("test.")]), [1, 1, 0]),
            ("the answer", with(&[ns("w.test.")], &[]), [1, 0, 0]),
            ("without an answer", with(&[], &[("test.", 900, soa(120)), ns("test.")]), [0, 2, 0]),
        ] {
            assert_eq!(entry(&key("w.test", RecordType::A), answer, 1).counts, counts, "{what}");
        }
    }

    #[test]
    fn an_entry_is_fresh_then_stale_then_over() {
        let answer = with(&[("w.test.", 60, RData::A(A::new(192, 0, 2, 1)))], &[]);
        let kept = entry(&key("w.test", RecordType::A), answer, 100);
        for (now, age) in
            [(100, Age::Fresh), (159, Age::Fresh), (160, Age::Stale), (159 + STALE_FOR_SECS, Age::Stale)]
        {
            assert_eq!(kept.age(now), age, "{now}");
        }
        assert_eq!(kept.age(160 + STALE_FOR_SECS), Age::Over);
        assert_eq!((kept.is_near_its_end(153), kept.is_near_its_end(154)), (false, true));
        let failure = Entry::failure(ResponseCode::ServFail, 100);
        assert_eq!((failure.age(104), failure.age(105)), (Age::Fresh, Age::Over));
        let refused = Entry::failure(ResponseCode::Refused, 100);
        assert_eq!((refused.rcode, refused.age(105)), (REFUSED, Age::Over));
        assert_eq!(Entry::failure(ResponseCode::BADVERS, 100).rcode, SERVFAIL);
    }

    #[test]
    fn the_cache_stays_within_its_bytes() {
        const LIMIT_BYTES: u64 = 256 << 10;
        let cache = Cache::new(LIMIT_BYTES);
        for number in 0..20_000 {
            let key = key(&format!("h{number}.test"), RecordType::TXT);
            let text = RData::TXT(TXT::new(vec!["x".repeat(number % 250)]));
            let answer = with(&[(&format!("h{number}.test."), 300, text)], &[]);
            cache.insert(key.clone(), Arc::new(entry(&key, answer, 1)));
        }
        let (answers, bytes) = cache.size();
        assert!(bytes <= LIMIT_BYTES && answers > 100, "{answers} answers, {bytes} bytes");
    }

    fn data() -> impl Strategy<Value = RData> {
        prop_oneof![
            any::<[u8; 4]>().prop_map(|a| RData::A(A::from(std::net::Ipv4Addr::from(a)))),
            "[a-c]{1,3}\\.(w\\.)?test\\.".prop_map(|text| RData::CNAME(CNAME(name(&text)))),
            ("[a-c]{1,3}\\.w\\.test\\.", any::<u16>())
                .prop_map(|(text, n)| RData::MX(MX::new(n, name(&text)))),
            "[a-z]{0,200}".prop_map(|text| RData::TXT(TXT::new(vec![text]))),
            any::<u32>().prop_map(soa),
        ]
    }

    fn section() -> impl Strategy<Value = Vec<(String, u32, RData)>> {
        let owner =
            prop_oneof![Just("w.test.".to_owned()), "[a-c]{1,3}\\.w\\.test\\.", Just("test.".to_owned())];
        prop::collection::vec((owner, 0..=TTL_LIMIT_SECS, data()), 0..6)
    }

    proptest! {
        /// Whoever asks gets the records that came, with what is left of their TTLs, behind his own question.
        #[test]
        fn what_comes_is_given(answers in section(), authorities in section(), age in 0..100_000_u32, edns: bool) {
            let build = |section: &[(String, u32, RData)]| {
                let record = |(owner, ttl, data): &(String, u32, RData)| {
                    Record::from_rdata(name(owner), *ttl, data.clone())
                };
                section.iter().map(record).collect::<Vec<_>>()
            };
            let mut came = Message::query();
            (came.answers, came.authorities) = (build(&answers), build(&authorities));
            let key = key("w.test", RecordType::A);
            let kept = Entry { ttl_secs: u32::MAX, ..entry(&key, came.clone(), 1) };
            let mut asked = Message::new(77, MessageType::Query, OpCode::Query);
            asked.add_query(Question::query(name("W.tEsT."), RecordType::A));
            asked.edns = edns.then(hickory_proto::op::Edns::new);
            let asked = asked.to_vec().unwrap();
            let given = kept.answer(&Query::read(&asked).unwrap(), Ttl::Less(age), usize::MAX).unwrap();
            let given = Message::from_vec(&given).unwrap();
            prop_assert_eq!((given.metadata.id, given.edns.is_some()), (77, edns));
            prop_assert!(given.queries[0].name().eq_case(&name("W.tEsT.")));
            for (given, came) in [(&given.answers, &came.answers), (&given.authorities, &came.authorities)] {
                prop_assert_eq!(given.len(), came.len());
                for (given, came) in given.iter().zip(came) {
                    prop_assert_eq!((&given.name, &given.data), (&came.name, &came.data));
                    prop_assert_eq!(given.ttl, came.ttl.saturating_sub(age));
                }
            }
        }
    }
}
