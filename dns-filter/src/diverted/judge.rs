//! What becomes of one diverted message, whatever brought it.

use std::net::SocketAddr;

use hickory_proto::op::Message;
use interdict_dns_wire::{Malformed, Query};
use interdict_policy::{Name, PlainEgress, Policy, RuleIndex, Unjudged, Verdict};

use crate::counters::{count, count_verdict};
use crate::filter::{Egress, Judgement, Seen};
use crate::forward::{Forwarder, tell_addresses};
use crate::handler::FilterHandler;
use crate::respond::Received;

/// A message on its way from a client to another resolver.
#[derive(Clone, Copy)]
pub(super) struct Diverted<'m> {
    pub(super) message: &'m [u8],
    pub(super) client: SocketAddr,
    pub(super) asked: SocketAddr,
    pub(super) tcp: bool,
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
        // Updates, notifications and the like are no questions.
        Err(Malformed::Opcode(_)) => return Fate::PassOn(None),
        Err(_) => return unjudged(handler, diverted),
    };
    let Some(name) = Name::from_wire(query.name()) else {
        return unjudged(handler, diverted);
    };
    let judged = handler.filter().judge(name, client).on_its_way_to(Some(diverted.asked.ip()));
    match judged.decided() {
        None => unlisted(handler, diverted, &judged),
        Some((_, Verdict::Block)) => Fate::Answer,
        Some((rule, verdict)) => {
            let (asked, tcp, policy) = (judged.asked(), diverted.tcp, judged.policy());
            let qtype = query.qtype;
            handler.filter().observer().seen(&Seen {
                client,
                tcp,
                asked,
                name,
                qtype,
                via: None,
                rule,
                verdict,
                policy,
            });
            count_verdict(counters, verdict);
            Fate::PassOn(Some(judged))
        }
    }
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

fn tell(
    handler: &FilterHandler<Forwarder>,
    diverted: &Diverted<'_>,
    policy: &Policy,
    rule: Option<RuleIndex>,
) {
    let Some(rule) = rule.map(|rule| policy.rule(rule)) else { return };
    let (client, asked, tcp) = (diverted.client.ip().to_canonical(), diverted.asked, diverted.tcp);
    handler.filter().observer().egress(&Egress { client, asked, tcp, rule, policy });
}

/// Our own answer, as the sinkhole gives it. `None` where it gives none.
pub(super) async fn answer(handler: &FilterHandler<Forwarder>, diverted: &Diverted<'_>) -> Option<Vec<u8>> {
    let Diverted { message, client, asked, tcp } = *diverted;
    handler.respond(&Received { message, client, tcp, asked: Some(asked.ip()) }).await
}

/// Tells of the addresses in an answer to a question that a rule lets through.
pub(super) fn tell_answer(handler: &FilterHandler<Forwarder>, judged: &Judgement, answer: &[u8]) {
    if let (Some((rule, verdict)), Ok(message)) = (judged.decided(), Message::from_vec(answer)) {
        let observer = handler.filter().observer();
        tell_addresses(observer, rule, verdict, judged.client(), &message);
    }
}
