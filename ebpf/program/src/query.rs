//! DNS questions: which packets carry them, and what the policy says of the name that is asked for.

use interdict_dns_wire::{Additional, Edns, Malformed, Memory, Question};
use interdict_ebpf_shared::{
    name::{KeyLength, NameEntry, write_key},
    policy::Verdict,
    query::{ENCRYPTED_PORT, PORT},
};

use crate::transport::{TCP, Transport, UDP};

/// What a packet wants of its destination, by protocol and port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Aim {
    /// Plain DNS over UDP.
    Plain,
    /// Plain DNS over TCP.
    Stream,
    /// DNS over TLS or QUIC.
    Encrypted,
    /// Something else.
    Other,
}

/// What a packet wants.
#[inline(always)]
pub const fn aim(transport: &Transport) -> Aim {
    match (u16::from_be_bytes(transport.destination), transport.protocol) {
        (PORT, UDP) => Aim::Plain,
        (PORT, TCP) => Aim::Stream,
        (ENCRYPTED_PORT, UDP | TCP) => Aim::Encrypted,
        _ => Aim::Other,
    }
}

/// What is to be done about a question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wish {
    /// Nothing: it is no question, or another operation.
    Nothing,
    /// It has another opcode than QUERY.
    Opcode,
    /// No rule concerns its name.
    Unlisted,
    /// The answer of the entry's rule.
    Answer(Question, Option<Edns>, NameEntry),
    /// Only the agent can tell, or it has to see the answer.
    Agent,
    /// Only the agent can tell, and the name lies below one that is blocked.
    AgentOrDrop,
}

/// The class of the Internet, and the one that asks for all classes.
const CLASS_IN: u16 = 1;
const CLASS_ANY: u16 = 255;

/// Judges the message of `len` bytes.
///
/// `key` takes the key of the name; `find` looks up the entry of that key, and `is_exempt` says whether the client is
/// exempt from the rule of an entry, which it is only asked of rules that the register names.
#[inline(always)]
pub fn judge<M: Memory + ?Sized, K: Memory + ?Sized>(
    message: &M,
    len: usize,
    key: &mut K,
    find: impl FnOnce(KeyLength) -> NameEntry,
    is_exempt: impl FnOnce(u32) -> bool,
) -> Wish {
    let mut question = match Question::read(message, len) {
        Ok(question) => question,
        Err(Malformed::NotAQuery) => return Wish::Nothing,
        Err(Malformed::Opcode(_)) => return Wish::Opcode,
        Err(_) => return Wish::Agent,
    };
    let Some(length) = write_key(message, question.name_bytes, key) else {
        return Wish::Agent;
    };
    // What the loops came to know of these must not make the rest be verified for each of their rounds.
    question.name_bytes = M::forget(question.name_bytes);
    let len = M::forget(len);
    let entry = find(length);
    let blocks = matches!(entry.decision.state.verdict(), Some(Verdict::Block));
    if entry.undecidable != 0 {
        return if blocks { Wish::AgentOrDrop } else { Wish::Agent };
    }
    if entry.decision.is_none() {
        return Wish::Unlisted;
    }
    if !blocks || entry.decision.state.has_exemptions() && is_exempt(entry.decision.rule) {
        return Wish::Agent;
    }
    let edns = match question.followed_by(message, len) {
        Additional::None => None,
        Additional::Edns(edns) if edns.version == 0 => Some(edns),
        // A version to come has an answer of its own, and what is signed or otherwise odd is read in full by the agent.
        Additional::Edns(_) | Additional::Other => return Wish::AgentOrDrop,
    };
    if question.qclass != CLASS_IN && question.qclass != CLASS_ANY {
        return Wish::AgentOrDrop;
    }
    Wish::Answer(question, edns, entry)
}
