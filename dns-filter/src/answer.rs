//! From a rule to the answer on the wire, and from there into hickory's hands.

use hickory_proto::op::{Edns, Message, Metadata, ResponseCode};
use hickory_server::server::{Request, ResponseHandler, ResponseInfo};
use hickory_server::zone_handler::MessageResponseBuilder;
use interdict_dns_wire::{Blocked, LONGEST_ANSWER_BYTES, Query, UDP_PAYLOAD_BYTES, write_answer};
use interdict_policy::Rule;

/// Answers a blocked question, with an SOA owned by the name that stands `soa_labels_left` labels into the question's.
/// `None` when the rule says to answer nothing.
pub(crate) async fn send_blocked<R: ResponseHandler>(
    rule: &Rule,
    soa_labels_left: usize,
    query: &Query<'_>,
    request: &Request,
    to: R,
) -> Option<ResponseInfo> {
    send_synthesized(&Blocked::of(rule), soa_labels_left, query, request, to).await
}

/// The same, where no rule says so.
pub(crate) async fn send_synthesized<R: ResponseHandler>(
    blocked: &Blocked<'_>,
    soa_labels_left: usize,
    query: &Query<'_>,
    request: &Request,
    mut to: R,
) -> Option<ResponseInfo> {
    let mut buffer = [0; LONGEST_ANSWER_BYTES];
    let answer = write_answer(query, blocked, soa_labels_left, &mut buffer)?;
    // hickory sends what it has encoded itself: the same message, with names compressed in its own way.
    let message = Message::from_vec(answer).ok()?;
    send(&message, request, &mut to).await
}

/// Sends records of our own.
pub(crate) async fn send_own<R: ResponseHandler>(
    mut answer: Message,
    query: &Query<'_>,
    request: &Request,
    to: &mut R,
) -> Option<ResponseInfo> {
    answer.metadata = metadata(request, ResponseCode::NoError);
    answer.edns = edns(query);
    send(&answer, request, to).await
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

/// The same, where the question could not be read, but there was an OPT record that could (RFC 6891, §6.1.1).
pub(crate) fn edns_in_return(request: &Request) -> Option<Edns> {
    let asked = request.edns.as_ref()?;
    let mut edns = Edns::new();
    edns.set_max_payload(UDP_PAYLOAD_BYTES);
    edns.set_version(0);
    edns.set_dnssec_ok(asked.flags().dnssec_ok);
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
