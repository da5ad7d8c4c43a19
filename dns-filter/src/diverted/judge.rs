//! What becomes of one diverted message, whatever brought it.

use std::net::SocketAddr;
use std::time::Instant;

use hickory_proto::op::Message;
use interdict_dns_wire::{HEADER_BYTES, Malformed, OPCODES_THAT_PASS, Query};
use interdict_policy::{Name, PlainEgress, Policy, Rule, RuleIndex, Unjudged, Verdict};

use crate::batch::ANSWER_LIMIT_BYTES;
use crate::channel::Channel;
use crate::counters::{count, count_verdict};
use crate::filter::{Egress, Judgement, Seen};
use crate::forward::{Forwarder, tell_addresses, wire_name};
use crate::handler::FilterHandler;
use crate::respond::{AtOnce, Received};

/// Labels and compression pointers of a malformed name that are followed. No name has more than 127 labels.
const STEPS_LIMIT: usize = 256;
/// Questions of one malformed message that are looked at.
const QUESTIONS_LIMIT: usize = 16;

/// A message on its way from a client to another resolver.
#[derive(Clone, Copy)]
pub(super) struct Diverted<'m> {
    pub(super) message: &'m [u8],
    pub(super) client: SocketAddr,
    pub(super) asked: SocketAddr,
    pub(super) channel: Channel,
}

/// What is to be done with it.
pub(super) enum Fate {
    /// Nothing; it ends here.
    Drop,
    /// It is answered by us, in the name of the other resolver.
    Answer,
    /// It goes to that resolver. With a judgement, a rule lets its name through, and the addresses in its answer are
    /// told.
    PassOn(Option<Judgement>),
}

/// Judges a message, and tells of what a rule let through. What is answered by us is told of when it is.
pub(super) fn judge(handler: &FilterHandler<Forwarder>, diverted: &Diverted<'_>) -> Fate {
    let counters = handler.counters();
    count(&counters.diverted);
    let client = diverted.client.ip().to_canonical();
    if !handler.serves(client) {
        count(&counters.strangers);
        return Fate::Drop;
    }
    let query = match Query::read(diverted.message) {
        Ok(query) => query,
        // Updates and notifications are no questions.
        Err(Malformed::Opcode(opcode)) if OPCODES_THAT_PASS.contains(&opcode) => return Fate::PassOn(None),
        Err(_) => return malformed(handler, diverted),
    };
    let Some(name) = Name::from_wire(query.name()) else {
        return unjudged(handler, diverted);
    };
    let judged = handler.filter().judge(name, client).on_its_way_to(Some(diverted.asked.ip()));
    match judged.decided() {
        None => unlisted(handler, diverted, &judged),
        Some((_, Verdict::Block)) => Fate::Answer,
        Some((rule, verdict)) => {
            tell_contact(handler, diverted, &judged, (name, query.qtype), (rule, verdict));
            Fate::PassOn(Some(judged))
        }
    }
}

/// A message that breaks the rules of DNS. Some resolvers answer such a one, so what it seems to ask for is judged; what
/// they would have said to a banned one, an error, the client has to do without.
fn malformed(handler: &FilterHandler<Forwarder>, diverted: &Diverted<'_>) -> Fate {
    let client = diverted.client.ip().to_canonical();
    for (wire, qtype) in seeming_questions(diverted.message) {
        let Some(name) = Name::from_wire(&wire) else { continue };
        let judged = handler.filter().judge(name, client).on_its_way_to(Some(diverted.asked.ip()));
        if let Some((rule, verdict @ Verdict::Block)) = judged.decided() {
            tell_contact(handler, diverted, &judged, (name, qtype), (rule, verdict));
            return Fate::Drop;
        }
    }
    unjudged(handler, diverted)
}

/// The names behind the header, lower-cased, each with the type behind it (0 if there is none), read as the most lenient
/// resolver would: as many as the header counts questions, but one at least, and through compression pointers in any
/// direction.
fn seeming_questions(message: &[u8]) -> Vec<(Vec<u8>, u16)> {
    let counted = message.get(4..6).map_or(0, |count| usize::from(u16::from_be_bytes([count[0], count[1]])));
    let (mut questions, mut at) = (Vec::new(), HEADER_BYTES);
    while questions.len() < counted.clamp(1, QUESTIONS_LIMIT) {
        let Some((name, end)) = seeming_name(message, at) else { break };
        let qtype = message.get(end..end + 2).map_or(0, |two| u16::from_be_bytes([two[0], two[1]]));
        questions.push((name, qtype));
        at = end + 4;
    }
    questions
}

/// The name at a place, and where it ends there.
fn seeming_name(message: &[u8], mut at: usize) -> Option<(Vec<u8>, usize)> {
    let (mut wire, mut end) = (Vec::new(), None);
    for _ in 0..STEPS_LIMIT {
        let length = *message.get(at)?;
        match length {
            0 => {
                wire.push(0);
                return Some((wire.to_ascii_lowercase(), end.unwrap_or(at + 1)));
            }
            1..=63 => {
                let next = at + 1 + usize::from(length);
                wire.extend_from_slice(message.get(at..next)?);
                at = next;
            }
            0xc0.. => {
                end.get_or_insert(at + 2);
                at = usize::from(length & 0x3f) << 8 | usize::from(*message.get(at + 1)?);
            }
            _ => return None,
        }
    }
    None
}

/// A name on no list: `plain` of `[egress_dns]` decides. Over UDP the kernel has done so already, but for `redirect`.
fn unlisted(handler: &FilterHandler<Forwarder>, diverted: &Diverted<'_>, judged: &Judgement) -> Fate {
    let policy = judged.policy();
    if policy.egress_dns().plain == PlainEgress::Redirect {
        return Fate::Answer;
    }
    tell(handler, diverted, policy, policy.egress_rules().plain);
    match policy.egress_dns().plain {
        PlainEgress::Block => Fate::Drop,
        _ => Fate::PassOn(None),
    }
}

/// A message that cannot be read: `unjudged` of `[egress_dns]` decides.
fn unjudged(handler: &FilterHandler<Forwarder>, diverted: &Diverted<'_>) -> Fate {
    count(&handler.counters().unjudged);
    let policy = handler.filter().policy();
    tell(handler, diverted, &policy, policy.egress_rules().unjudged);
    match policy.egress_dns().unjudged {
        Unjudged::Log => Fate::PassOn(None),
        Unjudged::Block => Fate::Drop,
    }
}

/// Tells of what a rule decided.
fn tell_contact(
    handler: &FilterHandler<Forwarder>,
    diverted: &Diverted<'_>,
    judged: &Judgement,
    (name, qtype): (Name<'_>, u16),
    (rule, verdict): (&Rule, Verdict),
) {
    handler.filter().observer().seen(&Seen {
        client: diverted.client.ip().to_canonical(),
        channel: diverted.channel,
        asked: judged.asked(),
        name,
        qtype,
        via: None,
        rule,
        verdict,
        policy: judged.policy(),
    });
    count_verdict(handler.counters(), diverted.channel, verdict);
}

/// Tells of what a key of `[egress_dns]` decided.
fn tell(
    handler: &FilterHandler<Forwarder>,
    diverted: &Diverted<'_>,
    policy: &Policy,
    rule: Option<RuleIndex>,
) {
    let Some(rule) = rule.map(|rule| policy.rule(rule)) else { return };
    let (client, asked, channel) = (diverted.client.ip().to_canonical(), diverted.asked, diverted.channel);
    handler.filter().observer().egress(&Egress { client, asked, channel, rule, policy });
}

/// Our own answer, as the sinkhole gives it. `None` where it gives none.
pub(super) async fn answer(handler: &FilterHandler<Forwarder>, diverted: &Diverted<'_>) -> Option<Vec<u8>> {
    handler.respond(&received(diverted)).await
}

/// The same, as far as nobody has to be asked for it.
pub(super) fn answer_at_once(
    handler: &FilterHandler<Forwarder>,
    diverted: &Diverted<'_>,
    answer: &mut [u8; ANSWER_LIMIT_BYTES],
) -> AtOnce {
    handler.answer_at_once(&received(diverted), answer)
}

fn received<'m>(diverted: &Diverted<'m>) -> Received<'m> {
    let Diverted { message, client, asked, channel } = *diverted;
    Received { message, client, at: Instant::now(), channel, asked: Some(asked.ip()) }
}

/// Tells of the addresses in an answer to a question that a rule lets through. What a resolver says to another question,
/// under the same id, is none.
pub(super) fn tell_answer(handler: &FilterHandler<Forwarder>, judged: &Judgement, answer: &[u8]) {
    let (Some(decided), Ok(message)) = (judged.decided(), Message::from_vec(answer)) else { return };
    let name = message.queries.first().and_then(|question| wire_name(question.name()));
    if let Some(name) = name.filter(|name| judged.is_about(name.as_name())) {
        tell_addresses(handler.filter().observer(), judged, name.as_name(), decided, &message);
    }
}

#[cfg(test)]
mod tests {
    use super::seeming_questions;

    fn read(questions: u8, behind_header: &[u8]) -> Vec<(Vec<u8>, u16)> {
        seeming_questions(&[&[0, 0, 0, 0, 0, questions, 0, 0, 0, 0, 0, 0], behind_header].concat())
    }

    #[test]
    fn a_name_is_read_through_pointers_and_without_what_follows() {
        let plain = vec![(b"\x01a\x02bc\0".to_vec(), 28)];
        assert_eq!(read(1, b"\x01A\x02bC\0\0\x1c"), plain);
        assert_eq!(read(0, b"\x01A\x02bC\0\0\x1c"), plain);
        // The pointer leads forwards, to offset 20.
        assert_eq!(read(1, b"\x01a\xc0\x14\0\x1c\0\x01\x02bc\0"), plain);
        assert_eq!(read(1, b"\x01a\0"), vec![(b"\x01a\0".to_vec(), 0)]);
    }

    #[test]
    fn every_question_is_read_that_is_counted_and_there() {
        let both = vec![(b"\x01a\0".to_vec(), 1), (b"\x01b\0".to_vec(), 28)];
        let bytes = b"\x01a\0\0\x01\0\x01\x01b\0\0\x1c\0\x01";
        assert_eq!(read(2, bytes), both);
        assert_eq!(read(255, bytes), both);
        assert_eq!(read(1, bytes), both[..1]);
        assert_eq!(read(255, &[0; 400]).len(), super::QUESTIONS_LIMIT);
    }

    #[test]
    fn what_has_no_end_is_no_name() {
        for bytes in
            [&b""[..], b"\x01", b"\x01a", b"\xc0", b"\xc0\x0c", b"\x01a\xc0\x0c", b"\x40a\0", b"\xff\xff"]
        {
            assert_eq!(read(1, bytes), [], "{bytes:?}");
        }
    }
}
