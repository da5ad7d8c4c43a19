//! Questions about this server, and such as no resolver is to ask elsewhere.

use hickory_proto::op::Message;
use hickory_proto::rr::rdata::TXT;
use hickory_proto::rr::{DNSClass, Name as HickoryName, RData, Record};
use interdict_dns_wire::{Blocked, Query, Rcode, Reply};
use interdict_policy::{Name, Policy, Rule, Verdict};
use serde::Serialize;

use crate::handler::Contact;

/// In wire form: the name under which a block is explained, and in front of which.
const WHY: &[u8] = b"\x03why\x09interdict";
/// QTYPE.
const TXT_TYPE: u16 = 16;
/// QCLASS.
pub(crate) const CLASS_CHAOS: u16 = 3;
/// "Synthesized" among the extended errors (RFC 8914, IANA's list).
const SYNTHESIZED: u16 = 29;
/// How long answers of this kind hold.
const TTL_SECS: u32 = 60;

/// Names by which programs ask a network whether they may go around its resolver, in wire form: "no" is what a filter has
/// to say. Firefox's canary, and Apple's relays.
const CANARIES: [&[u8]; 3] =
    [b"\x13use-application-dns\x03net\0", b"\x04mask\x06icloud\x03com\0", b"\x07mask-h2\x06icloud\x03com\0"];
/// Below it designated resolvers are asked for (RFC 9462): ours are in `designated.rs`, others are nobody's.
const DESIGNATED: &[u8] = b"\x08resolver\x04arpa\0";

/// The answer to a question that no resolver is to ask elsewhere. For names on no list only.
pub(crate) fn canary(name: Name<'_>) -> Option<Blocked<'static>> {
    if CANARIES.contains(&name.as_wire()) {
        return Some(synthesized(Rcode::NxDomain));
    }
    name.suffixes().any(|suffix| suffix.as_wire() == DESIGNATED).then(|| synthesized(Rcode::NoError))
}

fn synthesized(rcode: Rcode) -> Blocked<'static> {
    let reply = Reply::Code(rcode);
    Blocked { reply, ttl_secs: TTL_SECS, ede_code: SYNTHESIZED, ede_text: "" }
}

/// What a question for an explanation is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Why<'n> {
    /// A name: `NAME.why.interdict` or `why.interdict.NAME`, of type TXT.
    Of(Name<'n>),
    /// Nothing that can be explained, below `why.interdict`.
    Nothing,
}

/// Whether a question asks for an explanation. One for `why.interdict.NAME` does only if a rule concerns NAME.
pub(crate) fn why<'n>(query: &Query<'_>, name: Name<'n>, policy: &Policy) -> Option<Why<'n>> {
    let wire = name.as_wire();
    if query.qtype == TXT_TYPE
        && let Some(rest) = wire.strip_prefix(WHY)
        && let Some(about) = Name::from_wire(rest)
        && policy.decide_name(about).is_some()
    {
        return Some(Why::Of(about));
    }
    let whole = [WHY, &[0]].concat();
    name.suffixes().any(|suffix| suffix.as_wire() == whole).then_some(Why::Nothing)
}

/// Whether a blocked question may be one for an explanation.
pub(crate) fn may_ask_why(query: &Query<'_>) -> bool {
    query.qtype == TXT_TYPE && query.name().starts_with(WHY)
}

/// The part of a name in front of `why.interdict`, in wire form.
pub(crate) fn before_why(name: Name<'_>) -> Option<Vec<u8>> {
    let wire = name.as_wire();
    let end = [WHY, &[0]].concat();
    Some([wire.strip_suffix(&end[..])?, &[0]].concat()).filter(|rest| rest.len() > 1)
}

/// What became of a name, and by what.
pub(crate) fn explanation(name: Name<'_>, decided: Option<(&Rule, Verdict)>, policy: &Policy) -> Vec<String> {
    let what = match decided.map(|(_, verdict)| verdict) {
        Some(Verdict::Block) => "is blocked here",
        Some(Verdict::Log) => "is let through and recorded here",
        Some(Verdict::Allow) => "is allowed here",
        Some(Verdict::Exempt) => "is let through and recorded, since you are exempt",
        Some(Verdict::None) | None => "is on no list here",
    };
    // A name of odd bytes is four times as long when it is printed.
    let mut name = name.to_string();
    if name.len() > 200 {
        name.truncate(200);
        name.push_str("...");
    }
    let mut said = vec![format!("{name} {what}")];
    if let Some((rule, _)) = decided {
        said.push(format!("rule {}", rule.id));
        said.push(format!("role {}", rule.role));
    }
    said.push(format!("policy {}", policy.digest()));
    said
}

/// What the server says of itself, in class CH: `version.bind`, `version.server`; `hostname.bind`, `id.server` (RFC 4892);
/// `digest.interdict`, the policy in force.
pub(crate) fn about_us(query: &Query<'_>, nsid: &[u8], policy: &Policy) -> Option<Vec<String>> {
    if query.qtype != TXT_TYPE || query.qclass != CLASS_CHAOS {
        return None;
    }
    match query.name() {
        b"\x07version\x04bind\0" | b"\x07version\x06server\0" => {
            Some(vec![concat!("interdict ", env!("CARGO_PKG_VERSION")).to_owned()])
        }
        b"\x08hostname\x04bind\0" | b"\x02id\x06server\0" if !nsid.is_empty() => {
            Some(vec![String::from_utf8_lossy(nsid).into_owned()])
        }
        b"\x06digest\x09interdict\0" => Some(vec![policy.digest().to_string()]),
        _ => None,
    }
}

/// A message with these texts, each in a string of its own.
pub(crate) fn texts(query: &Query<'_>, texts: Vec<String>, ttl_secs: u32) -> Option<Message> {
    let name = Name::from_wire(query.name())?;
    let owner = HickoryName::from_labels(name.labels()).ok()?;
    // A string of a TXT record has at most 255 bytes.
    let texts = texts.into_iter().map(|mut text| {
        while text.len() > 255 {
            text.pop();
        }
        text
    });
    let mut record = Record::from_rdata(owner, ttl_secs, RData::TXT(TXT::new(texts.collect())));
    record.dns_class = DNSClass::from(query.qclass);
    let mut message = Message::query();
    message.answers.push(record);
    Some(message)
}

/// What is said instead of addresses that a stranger's name is not to have.
pub(crate) fn withheld() -> Blocked<'static> {
    /// "Filtered" (RFC 8914, §4.18).
    const FILTERED: u16 = 17;
    let reply = Reply::Code(Rcode::NoError);
    Blocked { reply, ttl_secs: TTL_SECS, ede_code: FILTERED, ede_text: "private address" }
}

/// No such record, of a name that is ours.
pub(crate) fn nothing() -> Blocked<'static> {
    synthesized(Rcode::NoError)
}

/// What a blocked question's client is told besides, where he takes JSON; `None` where the error is no such as may say it.
pub(crate) fn structured_error(contact: &Contact, code: u16, rule: &Rule) -> Option<String> {
    /// "Blocked", "Censored" and "Filtered" (RFC 8914, §4.16 to §4.18).
    const OF_POLICY: [u16; 3] = [15, 16, 17];
    /// "Network Operator Policy", which goes with "Blocked".
    const NETWORK_POLICY: u16 = 5;
    #[derive(Serialize)]
    struct Said<'s> {
        c: &'s [String],
        j: String,
        #[serde(skip_serializing_if = "Option::is_none")]
        s: Option<u16>,
        #[serde(skip_serializing_if = "str::is_empty")]
        o: &'s str,
    }
    if !OF_POLICY.contains(&code) {
        return None;
    }
    let ban = rule.ban.as_ref().map_or_else(String::new, |ban| format!(" of ban {ban}"));
    let said = Said {
        c: &contact.uris,
        j: format!("rule {}{ban}", rule.id),
        s: (code == OF_POLICY[0]).then_some(NETWORK_POLICY),
        o: &contact.organization,
    };
    serde_json::to_string(&said).ok()
}
