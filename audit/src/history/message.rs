//! DNS messages in captures (RFC 1035 §4).

use hickory_proto::op::{Message, MessageType};
use hickory_proto::rr::rdata::opt::EdnsOption;
use hickory_proto::rr::{RData, Record};
use interdict_policy::Name;

use super::{Answer, Question};

/// Answers that are looked at.
const ANSWERS_LIMIT: usize = 64;

/// What a message says.
pub(super) struct Read {
    /// Its question; how it came is for the caller to say.
    pub(super) question: Question,
    /// Its id.
    pub(super) id: u16,
    /// It is an answer.
    pub(super) is_response: bool,
}

/// Reads one; `None` for what is not about one name.
pub(super) fn read(bytes: &[u8]) -> Option<Read> {
    let message = Message::from_vec(bytes).ok()?;
    let [query] = message.queries.as_slice() else { return None };
    let question = Question {
        name: name(&query.name)?,
        rtype: query.query_type.to_string(),
        channel: None,
        resolver: None,
        is_blocked: is_blocked(&message),
        answers: message.answers.iter().take(ANSWERS_LIMIT).filter_map(answer).collect(),
    };
    Some(Read { question, id: message.id, is_response: message.message_type == MessageType::Response })
}

/// Extended errors of servers that keep a question from the name's owner: Blocked, Censored, Filtered and Prohibited (RFC 8914
/// §4.16 to 4.19).
fn is_blocked(message: &Message) -> bool {
    const EDE: u16 = 15;
    let options = message.edns.iter().flat_map(|edns| edns.options().as_ref());
    options.into_iter().any(|(_, option)| {
        matches!(option, EdnsOption::Unknown(EDE, data) if matches!(data.as_slice(), [0, 15..=18, ..]))
    })
}

fn answer(record: &Record) -> Option<Answer> {
    Some(match &record.data {
        RData::A(address) => Answer::Address(address.0.into(), record.ttl),
        RData::AAAA(address) => Answer::Address(address.0.into(), record.ttl),
        RData::CNAME(target) => Answer::Name(name(target)?),
        _ => return None,
    })
}

fn name(read: &hickory_proto::rr::Name) -> Option<interdict_policy::DomainName> {
    let mut wire = Vec::new();
    for label in read.iter() {
        wire.push(u8::try_from(label.len()).ok()?);
        wire.extend(label.to_ascii_lowercase());
    }
    wire.push(0);
    Name::from_wire(&wire).map(Name::to_owned)
}
