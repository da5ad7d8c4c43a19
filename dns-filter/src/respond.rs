//! A message in, a message out: what front ends of our own ask of a handler.

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use async_trait::async_trait;
use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::Record;
use hickory_proto::serialize::binary::BinEncoder;
use hickory_server::net::NetError;
use hickory_server::net::runtime::TokioTime;
use hickory_server::server::{Request, ResponseHandler, ResponseInfo};
use hickory_server::zone_handler::MessageResponse;
use interdict_dns_wire::{
    Blocked, Kept, LONGEST_ANSWER_BYTES, Query, Ttl, last_error, set_error_text, write_answer,
};
use interdict_policy::{Name, Policy, Rule, Verdict};

use crate::batch::ANSWER_LIMIT_BYTES;
use crate::channel::Channel;
use crate::counters::{count, count_verdict};
use crate::filter::{Exchange, Seen, Taps, Target, decide, soa_labels_left};
use crate::forward::targets;
use crate::handler::{CLASS_ANY, CLASS_IN, Came, FilterHandler, Next};
use crate::options::{Broken, Wanted};
use crate::own::{may_ask_why, structured_error};

/// A message that somebody sent.
#[derive(Clone, Copy)]
pub(crate) struct Received<'m> {
    pub(crate) message: &'m [u8],
    pub(crate) client: SocketAddr,
    /// When it came.
    pub(crate) at: Instant,
    pub(crate) channel: Channel,
    /// The other resolver that it was on its way to, if it was.
    pub(crate) asked: Option<IpAddr>,
}

impl<'m> Received<'m> {
    pub(crate) fn over_udp(message: &'m [u8], client: SocketAddr, at: Instant) -> Self {
        Self { message, client, at, channel: Channel::Udp, asked: None }
    }
}

impl Received<'_> {
    /// What its options ask of us. Of another resolver they ask what only that one could say.
    fn wanted(&self, query: &Query<'_>) -> Result<Wanted, Broken> {
        if self.asked.is_some() || query.options().is_empty() {
            return Ok(Wanted::default());
        }
        Wanted::of(query)
    }
}

/// What there is to say at once.
pub(crate) enum AtOnce {
    /// An answer of so many bytes.
    Answer(usize),
    /// Nothing: the rule answers with silence.
    Silence,
    /// It has to be looked at in full.
    Later,
}

impl<N: Next> FilterHandler<N> {
    /// Answers a message that a client sent, to us or to another resolver: for front ends that are not hickory's. `None`
    /// where it gets no answer.
    pub async fn answer(
        &self,
        message: &[u8],
        client: SocketAddr,
        channel: Channel,
        asked: Option<IpAddr>,
    ) -> Option<Vec<u8>> {
        self.respond(&Received { message, client, at: Instant::now(), channel, asked }).await
    }

    /// The same, for front ends of this crate.
    pub(crate) async fn respond(&self, received: &Received<'_>) -> Option<Vec<u8>> {
        let mut answer = [0; ANSWER_LIMIT_BYTES];
        let answer = match self.answer_at_once(received, &mut answer) {
            AtOnce::Answer(bytes) => Some(answer[..bytes].to_vec()),
            AtOnce::Silence => None,
            AtOnce::Later => self.answer_in_full(received).await,
        };
        self.tap(received, answer.as_deref());
        answer
    }

    /// Tells who taps questions and answers of this one: what decided is found again, from the question and the answer.
    pub(crate) fn tap(&self, received: &Received<'_>, answer: Option<&[u8]>) {
        let taps = self.conduct().taps;
        let ip = received.client.ip().to_canonical();
        if taps == Taps::Nothing || !self.serves(ip) {
            return;
        }
        let Ok(query) = Query::read(received.message) else { return };
        let Some(name) = Name::from_wire(query.name()) else { return };
        let judged = self.filter().judge(name, ip);
        let policy = judged.policy();
        let own = judged.decided().map(|(rule, verdict)| (rule, verdict, Target::Name(name.to_owned())));
        let blocked = || {
            let (_, rule) = blocking_rule(policy, answer?)?;
            Some((rule, Verdict::Block, None))
        };
        let led = || {
            let message = Message::from_vec(answer?).ok()?;
            judged.strictest_of(targets(&message)).map(|(rule, verdict, via)| (rule, verdict, Some(via)))
        };
        let found = own.map(|(rule, verdict, own)| (rule, verdict, Some(own))).or_else(blocked).or_else(led);
        if found.is_none() && taps == Taps::Decided {
            return;
        }
        self.filter().observer().exchanged(&Exchange {
            client: received.client,
            channel: received.channel,
            asked: received.asked,
            at: received.at,
            question: received.message,
            answer,
            decided: found.as_ref().map(|(rule, verdict, _)| (*rule, *verdict)),
            matched: found.as_ref().and_then(|(.., matched)| matched.as_ref()),
            policy,
        });
    }

    /// The answer to a plain question, if that takes nothing but memory: to one that a rule blocks, in the bytes that the
    /// kernel plane sends too, or from the cache.
    pub(crate) fn answer_at_once(
        &self,
        received: &Received<'_>,
        answer: &mut [u8; ANSWER_LIMIT_BYTES],
    ) -> AtOnce {
        let client = received.client.ip().to_canonical();
        let Ok(query) = Query::read(received.message) else { return AtOnce::Later };
        let is_plain = query.edns.is_none_or(|edns| edns.version == 0);
        if !is_plain || !matches!(query.qclass, CLASS_IN | CLASS_ANY) || !self.serves(client) {
            return AtOnce::Later;
        }
        self.filter().observer().asked(client);
        let Ok(wanted) = received.wanted(&query) else { return AtOnce::Later };
        let Some(name) = Name::from_wire(query.name()) else { return AtOnce::Later };
        let policy = self.filter().in_force();
        let (found, verdict) = match decide(&policy, name, client) {
            Some((found, verdict @ Verdict::Block)) if !may_ask_why(&query) => (found, verdict),
            Some(_) => return AtOnce::Later,
            None => return self.answer_from_memory(&query, &policy, &wanted, received, answer),
        };
        let rule = policy.rule(found.rule);
        count(&self.counters().queries);
        count_verdict(self.counters(), received.channel, verdict);
        self.filter().observer().seen(&Seen {
            client,
            channel: received.channel,
            asked: received.asked,
            name,
            qtype: query.qtype,
            via: None,
            rule,
            verdict,
            policy: &policy,
        });
        let Some(room) = answer.first_chunk_mut::<LONGEST_ANSWER_BYTES>() else { return AtOnce::Later };
        match write_answer(&query, &Blocked::of(rule), soa_labels_left(found), room) {
            Some(said) => {
                let bytes = said.len();
                let bytes = self.structure_error(&query, &wanted, &policy, received.channel, answer, bytes);
                AtOnce::Answer(wanted.add(self.identity(), client, received.channel, answer, bytes))
            }
            None => AtOnce::Silence,
        }
    }

    /// The answer to a question for a name on no list.
    fn answer_from_memory(
        &self,
        query: &Query<'_>,
        policy: &Policy,
        wanted: &Wanted,
        received: &Received<'_>,
        out: &mut [u8],
    ) -> AtOnce {
        if query.qclass != CLASS_IN {
            return AtOnce::Later;
        }
        let channel = received.channel;
        // On a stream nothing is cut off: what has no room here takes the long way.
        let more = wanted.bytes(self.identity(), channel);
        let limit = if channel.is_stream() { usize::MAX } else { usize::from(query.payload_bytes()) - more };
        match self.next().answer_at_once(query, policy, received.at, limit, out) {
            Some(bytes) if bytes + more > out.len() => AtOnce::Later,
            Some(bytes) => {
                count(&self.counters().queries);
                count_verdict(self.counters(), channel, Verdict::None);
                let client = received.client.ip().to_canonical();
                AtOnce::Answer(wanted.add(self.identity(), client, channel, out, bytes))
            }
            None => AtOnce::Later,
        }
    }

    /// Where an answer of `len` bytes says that a rule blocked the question, and the client wants errors in JSON, says more
    /// (draft-ietf-dnsop-structured-dns-error): whom to turn to, and which rule. Returns the answer's new length; without
    /// room it stays as it is.
    fn structure_error(
        &self,
        query: &Query<'_>,
        wanted: &Wanted,
        policy: &Policy,
        channel: Channel,
        answer: &mut [u8],
        len: usize,
    ) -> usize {
        let contact = &self.conduct().contact;
        if !wanted.structured() || contact.uris.is_empty() {
            return len;
        }
        let error = blocking_rule(policy, &answer[..len]);
        let error = error.and_then(|(code, rule)| structured_error(contact, code, rule));
        let Some(error) = error else { return len };
        let limit = if channel.is_stream() { usize::MAX } else { usize::from(query.payload_bytes()) };
        let more = wanted.bytes(self.identity(), channel) + error.len();
        if len + more > limit {
            return len;
        }
        set_error_text(answer, len, error.as_bytes()).unwrap_or(len)
    }

    /// Whatever else there is to answer, through hickory's messages.
    async fn answer_in_full(&self, received: &Received<'_>) -> Option<Vec<u8>> {
        let channel = received.channel;
        let Ok(request) = Request::from_bytes(received.message.to_vec(), received.client, channel.protocol())
        else {
            count(&self.counters().queries);
            count(&self.counters().malformed);
            let served = self.serves(received.client.ip().to_canonical());
            return format_error(received.message).filter(|_| served).map(Vec::from);
        };
        let caught = Caught { bytes: Arc::default() };
        self.handle::<_, TokioTime>(&request, Came { channel, asked: received.asked }, caught.clone()).await;
        let answer = caught.bytes.lock().unwrap_or_else(PoisonError::into_inner).take()?;
        let Ok(query) = Query::read(received.message) else { return Some(answer) };
        let Ok(wanted) = received.wanted(&query) else { return Some(answer) };
        let more = wanted.bytes(self.identity(), channel);
        let mut answer = match channel.is_stream() {
            true => whole(&query, answer)?,
            false => cut(&query, answer, more)?,
        };
        // Room for what is wanted, for a contact, and as much padding as there may be.
        let len = answer.len();
        answer.resize(len + more + 2 * 512, 0);
        let client = received.client.ip().to_canonical();
        let policy = self.filter().in_force();
        let len = self.structure_error(&query, &wanted, &policy, channel, &mut answer, len);
        let len = wanted.add(self.identity(), client, channel, &mut answer, len);
        answer.truncate(len);
        Some(answer)
    }
}

/// The rule that an answer names in its extended error, and the code of that.
fn blocking_rule<'p>(policy: &'p Policy, answer: &[u8]) -> Option<(u16, &'p Rule)> {
    let (code, text) = last_error(answer)?;
    let id = std::str::from_utf8(&answer[text]).ok()?;
    Some((code, policy.rule(policy.find_rule(id)?)))
}

/// An answer as it may be sent over UDP with so many bytes of options: one that is longer than the client takes is cut off
/// to nothing but the question.
fn cut(query: &Query<'_>, answer: Vec<u8>, more: usize) -> Option<Vec<u8>> {
    let limit = usize::from(query.payload_bytes());
    if answer.len() + more <= limit {
        return Some(answer);
    }
    let rcode = answer.get(3)? & 0x0f;
    bare(query, rcode, 0)
}

/// An answer as it may be sent on a stream. Of one that is longer than a message can be the encoder wrote a part, which ends
/// anywhere: that is a failure, since nowhere else is there more room.
fn whole(query: &Query<'_>, answer: Vec<u8>) -> Option<Vec<u8>> {
    const TC: u8 = 0x02;
    if answer.get(2)? & TC == 0 {
        return Some(answer);
    }
    bare(query, ResponseCode::ServFail.low(), usize::MAX)
}

/// An answer without records, which says so with TC where they had no room within the limit.
fn bare(query: &Query<'_>, rcode: u8, limit: usize) -> Option<Vec<u8>> {
    let mut answer = vec![0; LONGEST_ANSWER_BYTES];
    let bytes = Kept { rcode, ..Kept::default() }.write(query, Ttl::Less(0), limit, &mut answer)?;
    answer.truncate(bytes);
    Some(answer)
}

/// FORMERR to what cannot be read beyond its header: that alone, without a question. `None` where there is no header,
/// or it is not a question's, and so deserves no answer.
fn format_error(message: &[u8]) -> Option<[u8; 12]> {
    const ANSWER: u8 = 0x80;
    const OPCODE_AND_RD: u8 = 0x79;
    const FORMERR: u8 = 1;
    let header: &[u8; 12] = message.first_chunk()?;
    let is_question = header[2] & ANSWER == 0;
    let flags = [ANSWER | header[2] & OPCODE_AND_RD, FORMERR];
    is_question.then_some([header[0], header[1], flags[0], flags[1], 0, 0, 0, 0, 0, 0, 0, 0])
}

/// Catches the bytes that a handler sends.
#[derive(Clone)]
struct Caught {
    bytes: Arc<Mutex<Option<Vec<u8>>>>,
}

#[async_trait]
impl ResponseHandler for Caught {
    async fn send_response<'a>(
        &mut self,
        response: MessageResponse<
            '_,
            'a,
            impl Iterator<Item = &'a Record> + Send + 'a,
            impl Iterator<Item = &'a Record> + Send + 'a,
            impl Iterator<Item = &'a Record> + Send + 'a,
            impl Iterator<Item = &'a Record> + Send + 'a,
        >,
    ) -> Result<ResponseInfo, NetError> {
        let mut bytes = Vec::with_capacity(512);
        let mut encoder = BinEncoder::new(&mut bytes);
        encoder.set_max_size(u16::MAX);
        let info = response.destructive_emit(&mut encoder)?;
        *self.bytes.lock().unwrap_or_else(PoisonError::into_inner) = Some(bytes);
        Ok(info)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_no_message_has_room_for_is_a_failure() {
        let question =
            b"\0\x07\x01\x20\0\x01\0\0\0\0\0\x01\x01a\x04test\0\0\x10\0\x01\0\0\x29\x04\xd0\0\0\0\0\0\0";
        let query = Query::read(question).unwrap();
        let mut answer = question.to_vec();
        answer[2..4].copy_from_slice(&[0x81, 0x80]);
        assert_eq!(whole(&query, answer.clone()), Some(answer.clone()), "one that has room");
        // With a part of a record at its end.
        answer[2] |= 0x02;
        answer.extend([0; 65_000]);
        let given = Message::from_vec(&whole(&query, answer).unwrap()).unwrap();
        assert_eq!(given.metadata.response_code, ResponseCode::ServFail);
        assert!(!given.metadata.truncation && given.answers.is_empty() && given.edns.is_some());
        assert_eq!(given.queries, Message::from_vec(question).unwrap().queries);
    }

    #[test]
    fn what_cannot_be_read_is_a_format_error() {
        let question = [7, 9, 0x79, 0x20, 0, 1, 0, 0, 0, 0, 0, 0];
        assert_eq!(format_error(&question), Some([7, 9, 0xf9, 1, 0, 0, 0, 0, 0, 0, 0, 0]));
        assert_eq!(format_error(&question[..11]), None);
        assert_eq!(format_error(&[7, 9, 0x80, 0, 0, 1, 0, 0, 0, 0, 0, 0]), None);
    }
}
