//! From a rule to the answer on the wire, and from there into hickory's hands.

use hickory_proto::op::{Edns, Message, Metadata, ResponseCode};
use hickory_server::server::{Request, ResponseHandler, ResponseInfo};
use hickory_server::zone_handler::MessageResponseBuilder;
use interdict_dns_wire::{Blocked, LONGEST_ANSWER_BYTES, Query, Rcode, Records, write_answer};
use interdict_policy::{Answer, Name, Rule};

const TYPE_A: u16 = 1;
const TYPE_AAAA: u16 = 28;

/// What the rule says to answer; `None` to answer nothing.
fn blocked<'r>(rule: &'r Rule, query: &Query<'_>) -> Option<Blocked<'r>> {
    let (rcode, records) = match rule.answer {
        Answer::Drop => return None,
        Answer::NxDomain => (Rcode::NxDomain, Records::None),
        Answer::NoData => (Rcode::NoError, Records::None),
        Answer::Refused => (Rcode::Refused, Records::None),
        Answer::Addresses { a: Some(a), .. } if query.qtype == TYPE_A => {
            (Rcode::NoError, Records::A(a.octets()))
        }
        Answer::Addresses { aaaa: Some(aaaa), .. } if query.qtype == TYPE_AAAA => {
            (Rcode::NoError, Records::Aaaa(aaaa.octets()))
        }
        Answer::Addresses { .. } => (Rcode::NoError, Records::None),
    };
    Some(Blocked {
        rcode,
        records,
        ttl_secs: rule.ttl_secs,
        soa_labels_down: soa_labels_down(rule, query),
        ede_code: rule.ede.code(),
        ede_text: rule.id.as_str(),
    })
}

/// The SOA is owned by the domain of the rule that the name is in, or by the name itself where the rule names it
/// otherwise.
fn soa_labels_down(rule: &Rule, query: &Query<'_>) -> usize {
    let Some(name) = Name::from_wire(query.name()) else { return 0 };
    if rule.hosts.iter().any(|host| host.value.as_name() == name) {
        return 0;
    }
    let is_domain = |suffix: Name<'_>| rule.domains.iter().any(|domain| domain.value.as_name() == suffix);
    name.suffixes().position(is_domain).unwrap_or(0)
}

/// Answers a blocked question. `None` when the rule says to answer nothing.
pub(crate) async fn send_blocked<R: ResponseHandler>(
    rule: &Rule,
    query: &Query<'_>,
    request: &Request,
    mut to: R,
) -> Option<ResponseInfo> {
    let mut buffer = [0; LONGEST_ANSWER_BYTES];
    let len = write_answer(query, &blocked(rule, query)?, &mut buffer)?;
    // hickory sends what it has encoded itself; what it reads here it writes again byte for byte (tested).
    let message = Message::from_vec(&buffer[..len]).ok()?;
    send(&message, request, &mut to).await
}

/// Sends a message in answer to `request`, cut to what the client takes.
pub(crate) async fn send<R: ResponseHandler>(
    message: &Message,
    request: &Request,
    to: &mut R,
) -> Option<ResponseInfo> {
    let mut builder = MessageResponseBuilder::from_message_request(request);
    if let Some(edns) = &message.edns {
        builder.edns(edns);
    }
    let response =
        builder.build(message.metadata, &message.answers, &message.authorities, [], &message.additionals);
    to.send_response(response).await.ok()
}

/// The header of an answer: as in design, AA=0, RA=1, AD=0, RD and CD as asked.
pub(crate) fn metadata(request: &Request, code: ResponseCode) -> Metadata {
    let mut metadata = Metadata::response_from_request(&request.metadata);
    metadata.recursion_available = true;
    metadata.authoritative = false;
    metadata.authentic_data = false;
    metadata.checking_disabled = request.metadata.checking_disabled;
    metadata.recursion_desired = request.metadata.recursion_desired;
    metadata.response_code = code;
    metadata
}

/// OPT for an answer, where the question had one.
pub(crate) fn edns(query: &Query<'_>) -> Option<Edns> {
    let asked = query.edns?;
    let mut edns = Edns::new();
    edns.set_max_payload(query.payload_bytes());
    edns.set_version(0);
    edns.set_dnssec_ok(asked.dnssec_ok);
    Some(edns)
}

/// Sends an answer that is only a code.
pub(crate) async fn send_code<R: ResponseHandler>(
    code: ResponseCode,
    edns: Option<Edns>,
    request: &Request,
    to: &mut R,
) -> Option<ResponseInfo> {
    let mut builder = MessageResponseBuilder::from_message_request(request);
    if let Some(edns) = &edns {
        builder.edns(edns);
    }
    to.send_response(builder.build_no_records(metadata(request, code))).await.ok()
}
