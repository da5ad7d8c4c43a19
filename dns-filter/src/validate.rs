//! DNSSEC validation (RFC 4035) of what upstreams say: by hickory's validator, which asks for keys through the cache.

use std::path::PathBuf;
use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::time::Duration;

use futures_util::stream::{self, Stream};
use hickory_proto::dnssec::rdata::{DNSSECRData, NSEC3, SigInput};
use hickory_proto::dnssec::{Proof, TrustAnchors};
use hickory_proto::op::{
    DnsRequest, DnsRequestOptions, DnsResponse, Message, Query as Question, ResponseCode,
};
use hickory_proto::rr::rdata::CNAME;
use hickory_proto::rr::{Name, RData, Record, RecordType, RecordTypeSet};
use hickory_proto::serialize::binary::{BinDecodable, BinDecoder};
use hickory_resolver::net::dnssec::DnssecDnsHandle;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::xfer::FirstAnswer;
use hickory_resolver::net::{DnsError, DnsHandle, NetError};

use interdict_policy::Action;
use tokio::time::timeout;

use crate::cache::{Key, Kind};
use crate::forward::{Forwarder, Inner, wire_name};

/// How long a whole chain of questions may take.
const CHAIN_TIMEOUT: Duration = Duration::from_secs(10);
/// Aliases that are followed, one behind another.
const ALIASES_LIMIT: usize = 16;
/// How often a name is hashed again at most, to look for it in a proof.
const ITERATIONS_LIMIT: u16 = 100;
/// What only proves something.
const PROOFS: [RecordType; 3] = [RecordType::RRSIG, RecordType::NSEC, RecordType::NSEC3];

/// How much validation there is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Dnssec {
    /// None: who wants it does it, with DO and CD.
    #[default]
    Pass,
    /// Answers are validated, by the root's keys or, if it is named, by those in a file of DNSKEY records.
    Validate(Option<PathBuf>),
}

/// Validates by keys that are trusted.
pub(crate) struct Validator(DnssecDnsHandle<Asker>);

/// What came of it.
pub(crate) enum Validated {
    /// An answer, and whether there is a chain of signatures from a key that is trusted to all of it.
    Answer(Message, bool),
    /// There should be signatures that are in order.
    Bogus,
    /// Nobody had an answer.
    Nothing,
}

impl Validator {
    /// # Errors
    /// The file of keys cannot be read.
    pub(crate) fn new(anchors: Option<&PathBuf>, forwarder: Weak<Inner>) -> Result<Self, String> {
        let anchors = match anchors {
            None => TrustAnchors::default(),
            Some(file) => {
                let wrong = |why: &dyn std::fmt::Display| {
                    format!(
                        "[dns] trust_anchors: {}: {why} (write the zone's DNSKEY records, one a line)",
                        file.display()
                    )
                };
                let text = std::fs::read_to_string(file).map_err(|error| wrong(&error))?;
                let anchors: TrustAnchors = text.parse().map_err(|error| wrong(&error))?;
                // Of the library's lists one is not counted.
                if anchors.is_empty() && !text.contains("DNSKEY") {
                    return Err(wrong(&"holds no DNSKEY record"));
                }
                anchors
            }
        };
        Ok(Self(DnssecDnsHandle::with_trust_anchor(Asker(forwarder), Arc::new(anchors))))
    }

    /// Asks, and validates: each link of a chain of aliases by itself, since each has signatures of its own zone. Without
    /// DO the answer has no records of DNSSEC that nobody asked for (RFC 4035, §3.2.1).
    pub(crate) async fn ask(&self, question: &Question, kind: Kind) -> Validated {
        match timeout(CHAIN_TIMEOUT, self.follow(question)).await {
            Ok(Validated::Answer(mut message, secure)) => {
                if !kind.dnssec_ok {
                    leave_out_proofs(&mut message, question.query_type());
                }
                Validated::Answer(message, secure)
            }
            Ok(other) => other,
            Err(_) => Validated::Nothing,
        }
    }

    async fn follow(&self, question: &Question) -> Validated {
        let (mut all, mut all_secure, mut asked) = (Message::query(), true, question.clone());
        for _ in 0..ALIASES_LIMIT {
            let (link, secure) = match self.ask_for_link(&asked).await {
                Validated::Answer(link, secure) => (link, secure),
                other => return other,
            };
            all_secure &= secure;
            all.metadata.response_code = link.metadata.response_code;
            let next = alias(&link, &asked);
            all.answers.extend(link.answers);
            // One proof may be that of several links.
            for record in link.authorities {
                if !all.authorities.contains(&record) {
                    all.authorities.push(record);
                }
            }
            all.additionals.extend(link.additionals);
            let Some(next) = next else { return Validated::Answer(all, all_secure) };
            if self.0.inner().is_blocked(&next) {
                // Nothing is asked for such a name. Who is exempt gets what came with the alias.
                let came = self.0.inner().ask(&asked).await.unwrap_or_else(Message::query);
                all.metadata.response_code = came.metadata.response_code;
                all.answers.extend(came.answers.into_iter().filter(|record| record.name != *asked.name()));
                return Validated::Answer(all, false);
            }
            asked.set_name(next);
        }
        // A chain without an end.
        Validated::Nothing
    }

    async fn ask_for_link(&self, question: &Question) -> Validated {
        let message = match self.0.lookup(question.clone(), DnsRequestOptions::default()).first_answer().await
        {
            Ok(response) => response.into_message(),
            Err(NetError::Dns(DnsError::Nsec { response, proof, .. })) => match proof {
                // That a name is missing is proven only from where on nothing is signed.
                Proof::Insecure => response.into_message(),
                _ if is_proven_wildcard(&response)
                    || is_of_any_type(&response, question)
                    || is_missing_beside_dname(&response, question) =>
                {
                    response.into_message()
                }
                _ => return self.ask_for_dname(question).await.unwrap_or(Validated::Bogus),
            },
            Err(error) => {
                tracing::debug!(%error, "an answer could not be validated");
                return Validated::Nothing;
            }
        };
        if is_denied_by_strangers(&message, question) {
            return Validated::Bogus;
        }
        let said = if message.answers.is_empty() { &message.authorities } else { &message.answers };
        let mut proofs =
            said.iter().filter(|record| !record.record_type().is_rrsig()).map(|record| record.proof);
        if proofs.clone().any(|proof| proof == Proof::Bogus) {
            return self.ask_for_dname(question).await.unwrap_or(Validated::Bogus);
        }
        // What may be there all the same is not proven to be missing (RFC 5155, §9.2). Signatures alone prove nothing.
        let opts_out = message.authorities.iter().any(opts_out);
        let secure =
            !opts_out && proofs.clone().next().is_some() && proofs.all(|proof| proof == Proof::Secure);
        Validated::Answer(message, secure)
    }
}

impl Validator {
    /// A link that a DNAME record makes (RFC 6672, §5.3.1): signed is that record, and not the alias that follows from it.
    async fn ask_for_dname(&self, question: &Question) -> Option<Validated> {
        let came = self.0.inner().ask(question).await?;
        let is_above = |record: &&Record| {
            record.record_type() == RecordType::DNAME
                && record.name.zone_of(question.name())
                && record.name != *question.name()
        };
        let owner = came.answers.iter().find(is_above)?.name.clone();
        let asked = Question::query(owner.clone(), RecordType::DNAME);
        let response = self.0.lookup(asked, DnsRequestOptions::default()).first_answer().await.ok()?;
        let mut link = response.into_message();
        let dname = link.answers.iter().find(|record| record.record_type() == RecordType::DNAME)?;
        let RData::Unknown { rdata, .. } = &dname.data else { return None };
        let target = Name::read(&mut BinDecoder::new(&rdata.anything)).ok()?;
        let below = usize::from(question.name().num_labels() - owner.num_labels());
        let name = Name::from_labels(question.name().iter().take(below).chain(target.iter())).ok()?;
        let data = RData::CNAME(CNAME(name));
        let alias = Record::from_rdata(question.name().clone(), dname.ttl, data);
        let secure = match dname.proof {
            Proof::Secure => true,
            Proof::Insecure => false,
            Proof::Bogus | Proof::Indeterminate => return None,
        };
        link.answers.push(alias);
        link.authorities.clear();
        Some(Validated::Answer(link, secure))
    }
}

/// Leaves out what only proves something, but for what was asked for.
fn leave_out_proofs(message: &mut Message, asked: RecordType) {
    for section in [&mut message.answers, &mut message.authorities, &mut message.additionals] {
        section.retain(|record| record.record_type() == asked || !PROOFS.contains(&record.record_type()));
    }
}

/// Where an answer leads that has nothing but an alias.
fn alias(message: &Message, question: &Question) -> Option<Name> {
    if matches!(question.query_type(), RecordType::CNAME | RecordType::ANY) {
        return None;
    }
    message.answers.iter().find_map(|record| match &record.data {
        RData::CNAME(target) if record.name == *question.name() => Some(target.0.clone()),
        _ => None,
    })
}

/// What of an answer is about the name that was asked for: its records, or those that say that there are none.
fn only_link(mut message: Message, question: &Question) -> Message {
    let is_own = |record: &Record| record.name == *question.name();
    if !message.answers.iter().any(|record| is_own(record) && !record.record_type().is_rrsig()) {
        return message;
    }
    message.answers.retain(is_own);
    if alias(&message, question).is_some() {
        let covers_alias =
            |record: &Record| signature(record).is_none_or(|rrsig| rrsig.type_covered == RecordType::CNAME);
        message.answers.retain(|record| {
            matches!(record.record_type(), RecordType::CNAME | RecordType::RRSIG) && covers_alias(record)
        });
        message.additionals.clear();
    }
    message.metadata.response_code = ResponseCode::NoError;
    // Beside records, only a wildcard needs another proof: that nothing closer is there.
    let is_wildcard = message.answers.iter().any(|record| wildcard_labels(record).is_some());
    message.authorities.retain(|record| is_wildcard && PROOFS.contains(&record.record_type()));
    message
}

/// Whether an answer says without a proof that something is missing, and not by the SOA of a zone above it: then nothing is said
/// of the name, however unsigned that other zone may be.
fn is_denied_by_strangers(message: &Message, question: &Question) -> bool {
    let unsigned = || message.authorities.iter().filter(|record| record.proof == Proof::Insecure);
    let is_of_zone =
        |record: &Record| record.record_type() == RecordType::SOA && record.name.zone_of(question.name());
    message.answers.is_empty() && unsigned().next().is_some() && !unsigned().any(is_of_zone)
}

/// Whether records that are secure are of every type that there is, which the validator holds for none that was asked for.
fn is_of_any_type(message: &Message, question: &Question) -> bool {
    let mut records = message.answers.iter().filter(|record| !record.record_type().is_rrsig()).peekable();
    question.query_type() == RecordType::ANY
        && records.peek().is_some()
        && records.all(|record| record.proof == Proof::Secure && record.name == *question.name())
}

/// Whether names that are not signed may lie in the gap of a proof.
fn opts_out(record: &Record) -> bool {
    matches!(&record.data, RData::DNSSEC(DNSSECRData::NSEC3(nsec3)) if nsec3.opt_out())
}

fn signature(record: &Record) -> Option<&SigInput> {
    match &record.data {
        RData::DNSSEC(DNSSECRData::RRSIG(rrsig)) => Some(rrsig.input()),
        _ => None,
    }
}

/// The labels of the name above the wildcard that a signature says a record comes from.
fn wildcard_labels(record: &Record) -> Option<u8> {
    signature(record).map(|rrsig| rrsig.num_labels).filter(|labels| *labels < record.name.num_labels())
}

/// Whether records that are secure come from a wildcard than which nothing is closer (RFC 4035, §5.3.4): the validator does
/// not see that where the proof stands at the wildcard itself.
fn is_proven_wildcard(message: &Message) -> bool {
    let is_secure = |record: &Record| record.proof == Proof::Secure;
    let expanded = message.answers.iter().filter(|record| is_secure(record)).find_map(|record| {
        Some((&record.name, usize::from(wildcard_labels(record)?), &signature(record)?.signer_name))
    });
    let Some((name, labels, signer)) = expanded else { return false };
    let in_common = |other: &Name| {
        let pairs = name.iter().rev().zip(other.iter().rev());
        pairs.take_while(|(ours, theirs)| ours.eq_ignore_ascii_case(theirs)).count()
    };
    // Nothing between the wildcard and the name exists: both ends of the gap have no more in common with it.
    let is_gap = |from: &Name, to: &Name| {
        name > from && (name < to || to <= from) && in_common(from).max(in_common(to)) <= labels
    };
    // By the zone of the records: that above it knows nothing of what is in it.
    let is_of_zone = |from: &Name| {
        let mut signatures =
            message.authorities.iter().filter(|record| is_secure(record) && record.name == *from);
        signatures.any(|record| {
            signature(record)
                .is_some_and(|rrsig| rrsig.type_covered == RecordType::NSEC && rrsig.signer_name == *signer)
        })
    };
    let proves = |record: &Record| match &record.data {
        RData::DNSSEC(DNSSECRData::NSEC(nsec)) => {
            is_secure(record) && is_gap(&record.name, nsec.next_domain_name()) && is_of_zone(&record.name)
        }
        _ => false,
    };
    let mut records = message.answers.iter().filter(|record| !record.record_type().is_rrsig());
    message.metadata.response_code == ResponseCode::NoError
        && records.all(is_secure)
        && message.authorities.iter().any(proves)
}

/// Whether it is proven that the owner of a DNAME record has nothing of the type that is asked for. The validator takes the proof
/// for one that says nothing, as it does of the names below (RFC 6672, §5.3.4.1).
fn is_missing_beside_dname(message: &Message, question: &Question) -> bool {
    // That a zone below has no keys only the zone above can say (RFC 4035, §5.2), and of that the validator knows.
    if question.query_type() == RecordType::DS {
        return false;
    }
    let denies = |types: &RecordTypeSet| {
        let is_above_zone = types.contains(RecordType::NS) && !types.contains(RecordType::SOA);
        let is_there = [question.query_type(), RecordType::CNAME].iter().any(|rtype| types.contains(*rtype));
        types.contains(RecordType::DNAME) && !is_above_zone && !is_there
    };
    let proves = |record: &Record| match &record.data {
        RData::DNSSEC(DNSSECRData::NSEC(nsec)) => record.name == *question.name() && denies(nsec.type_set()),
        // Any zone can have a record by that hash: it must be one that the name lies in.
        RData::DNSSEC(DNSSECRData::NSEC3(nsec3)) => {
            record.name.base_name().zone_of(question.name())
                && stands_for(record, nsec3, question.name()).unwrap_or(false)
                && denies(nsec3.type_set())
        }
        _ => false,
    };
    message.metadata.response_code == ResponseCode::NoError
        && message.answers.is_empty()
        && message.authorities.iter().any(|record| record.proof == Proof::Secure && proves(record))
}

/// Whether the record is that of a name, where names are hashed (RFC 5155, §3); `None` where that would take too long.
fn stands_for(record: &Record, nsec3: &NSEC3, name: &Name) -> Option<bool> {
    // RFC 9276, §3.2.
    if nsec3.iterations() > ITERATIONS_LIMIT {
        return None;
    }
    let algorithm = nsec3.hash_algorithm();
    let hash = algorithm.hash(nsec3.salt(), name, nsec3.iterations()).ok()?.as_ref().to_vec();
    // The library writes hashes as labels in records alone.
    let written = NSEC3::new(algorithm, false, 0, Vec::new(), hash, []);
    let label = written.next_hashed_owner_name_base32()?.as_bytes();
    Some(record.name.iter().next()?.eq_ignore_ascii_case(label))
}

/// Asks for the validator, with DO and CD, what the cache does not know.
#[derive(Clone)]
struct Asker(Weak<Inner>);

impl DnsHandle for Asker {
    type Response = Pin<Box<dyn Stream<Item = Result<DnsResponse, NetError>> + Send>>;
    type Runtime = TokioRuntimeProvider;

    fn send(&self, request: DnsRequest) -> Self::Response {
        let asker = self.clone();
        Box::pin(stream::once(async move { asker.answer(&request).await.ok_or(NetError::Timeout) }))
    }
}

impl Asker {
    /// Whether a rule blocks a name, for who is not exempt.
    fn is_blocked(&self, name: &Name) -> bool {
        let (Some(inner), Some(name)) = (self.0.upgrade(), wire_name(name)) else { return false };
        let policy = inner.filter().in_force();
        policy
            .decide_name(name.as_name())
            .is_some_and(|found| policy.rule(found.rule).action == Action::Block)
    }

    /// What there is to say to a question of the validator's.
    async fn answer(&self, request: &DnsRequest) -> Option<DnsResponse> {
        let question = request.queries.first()?;
        let mut message = only_link(self.ask(question).await?, question);
        // As it was asked for: the validator compares.
        message.queries = vec![question.clone()];
        DnsResponse::from_message(message).ok()
    }

    /// An answer as it came.
    async fn ask(&self, question: &Question) -> Option<Message> {
        let forwarder = Forwarder(self.0.upgrade()?);
        let kind = Kind { qtype: question.query_type().into(), dnssec_ok: true, checking_disabled: true };
        let key = Key { kind, name: wire_name(question.name())?.as_name().as_wire().into() };
        forwarder.for_validation(&key).await
    }
}

#[cfg(test)]
mod tests {
    use hickory_proto::dnssec::rdata::{NSEC, RRSIG};
    use hickory_proto::dnssec::{Algorithm, Nsec3HashAlgorithm};
    use hickory_proto::rr::SerialNumber;
    use hickory_proto::rr::rdata::A;

    use super::*;

    fn name(text: &str) -> Name {
        text.parse().unwrap()
    }

    fn secure(owner: &str, data: RData) -> Record {
        let mut record = Record::from_rdata(name(owner), 300, data);
        record.proof = Proof::Secure;
        record
    }

    fn signature(owner: &str, type_covered: RecordType, num_labels: u8, signer: &str) -> Record {
        let at = SerialNumber::new(0);
        let input = SigInput {
            type_covered,
            algorithm: Algorithm::ECDSAP256SHA256,
            num_labels,
            original_ttl: 300,
            sig_expiration: at,
            sig_inception: at,
            key_tag: 1,
            signer_name: name(signer),
        };
        secure(owner, RData::DNSSEC(DNSSECRData::RRSIG(RRSIG::from_sig(input, vec![0; 64]))))
    }

    /// `www.child.test.` from `*.child.test.`, with a proof by this zone that there is nothing from here to there.
    fn expanded(from: &str, to: &str, zone: &str) -> Message {
        let mut message = Message::query();
        let nsec = NSEC::new(name(to), [RecordType::NSEC]);
        message.answers = vec![
            secure("www.child.test.", RData::A(A::new(192, 0, 2, 1))),
            signature("www.child.test.", RecordType::A, 2, "child.test."),
        ];
        message.authorities = vec![
            secure(from, RData::DNSSEC(DNSSECRData::NSEC(nsec))),
            signature(from, RecordType::NSEC, name(from).num_labels(), zone),
        ];
        message
    }

    #[test]
    fn only_its_own_zone_says_what_is_missing_beside_a_dname() {
        use RecordType as T;
        const MOVED: [T; 2] = [T::DNAME, T::RRSIG];
        let hashed = |zone: &str, iterations, types: &[T]| {
            let hash = Nsec3HashAlgorithm::SHA1.hash(&[], &name("moved.test."), iterations).unwrap();
            let label = NSEC3::new(Nsec3HashAlgorithm::SHA1, false, 0, vec![], hash.as_ref().to_vec(), []);
            let label = label.next_hashed_owner_name_base32().unwrap().to_string();
            let nsec3 =
                NSEC3::new(Nsec3HashAlgorithm::SHA1, false, iterations, vec![], vec![0; 20], types.to_vec());
            secure(&format!("{label}.{zone}"), RData::DNSSEC(DNSSECRData::NSEC3(nsec3)))
        };
        let plain = |owner: &str, types: &[T]| {
            secure(owner, RData::DNSSEC(DNSSECRData::NSEC(NSEC::new(name("z.test."), types.to_vec()))))
        };
        let unsigned = |mut record: Record| {
            record.proof = Proof::Insecure;
            record
        };
        let cases = [
            ("NSEC", T::A, plain("moved.test.", &MOVED), true),
            ("NSEC3", T::A, hashed("test.", 3, &MOVED), true),
            ("another name's", T::A, plain("other.test.", &MOVED), false),
            ("another zone's", T::A, hashed("stranger.example.", 3, &MOVED), false),
            ("hashed too often", T::A, hashed("test.", ITERATIONS_LIMIT + 1, &MOVED), false),
            ("the type is there", T::A, plain("moved.test.", &[T::DNAME, T::A]), false),
            ("an alias is there", T::A, hashed("test.", 0, &[T::DNAME, T::CNAME]), false),
            ("a zone above", T::A, plain("moved.test.", &[T::DNAME, T::NS]), false),
            ("the zone itself", T::A, plain("moved.test.", &[T::DNAME, T::NS, T::SOA]), true),
            ("of its keys", T::DS, plain("moved.test.", &[T::DNAME, T::NS, T::SOA]), false),
            ("no DNAME", T::A, plain("moved.test.", &[T::TXT]), false),
            ("unsigned", T::A, unsigned(plain("moved.test.", &MOVED)), false),
        ];
        for (what, rtype, record, expect) in cases {
            let mut message = Message::query();
            message.authorities = vec![record];
            let question = Question::query(name("moved.test."), rtype);
            assert_eq!(is_missing_beside_dname(&message, &question), expect, "{what}");
        }
    }

    #[test]
    fn a_wildcard_answers_for_what_is_not_there() {
        for (from, to, zone, expect) in [
            ("*.child.test.", "zzz.child.test.", "child.test.", true),
            ("vvv.child.test.", "child.test.", "child.test.", true),
            // The name itself is there, or one above it below the wildcard's.
            ("www.child.test.", "zzz.child.test.", "child.test.", false),
            ("*.child.test.", "www.child.test.", "child.test.", false),
            ("*.child.test.", "a.www.child.test.", "child.test.", false),
            ("xxx.child.test.", "zzz.child.test.", "child.test.", false),
            // By the zone above, which knows the delegation only.
            ("child.test.", "d.test.", "test.", false),
        ] {
            assert_eq!(is_proven_wildcard(&expanded(from, to, zone)), expect, "{from} {to} {zone}");
        }
        let mut unsigned = expanded("*.child.test.", "zzz.child.test.", "child.test.");
        unsigned.authorities[0].proof = Proof::Insecure;
        assert!(!is_proven_wildcard(&unsigned));
        let mut added = expanded("*.child.test.", "zzz.child.test.", "child.test.");
        added.answers.push(Record::from_rdata(name("www.child.test."), 300, RData::A(A::new(192, 0, 2, 2))));
        assert!(!is_proven_wildcard(&added));
    }
}
