//! DNS questions: which packets carry them, and what the policy says of the name that is asked for.

use interdict_dns_wire::{Additional, Bytes, Edns, HEADER_BYTES, Malformed, OPCODES_THAT_PASS, Question};
use interdict_ebpf_shared::{
    name::NameEntry,
    policy::Verdict,
    query::{ENCRYPTED_PORT, PORT},
};

use crate::{
    tls,
    transport::{TCP, Transport, UDP},
};

/// What a packet wants of its destination, by protocol and port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Aim {
    /// Plain DNS over UDP.
    Plain,
    /// Plain DNS over TCP.
    Stream,
    /// DNS over TLS or QUIC.
    Encrypted,
    /// A TLS connection, whose first data may name a server.
    Hello,
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
        (tls::PORT, TCP) => Aim::Hello,
        _ => Aim::Other,
    }
}

/// What is to be done about a question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wish {
    /// Nothing: it is no question, or another operation.
    Nothing,
    /// It has one of the opcodes that pass.
    Opcode,
    /// No rule concerns its name.
    Unlisted,
    /// The answer of the entry's rule to what is asked.
    Answer,
    /// It is not one well-formed question, as far as it can be read, or is longer than can be.
    Unread,
    /// Only the agent can tell, or it has to see the answer.
    Agent,
    /// Only the agent can tell, and the name lies below one that is blocked.
    AgentOrDrop,
}

/// What is asked, and what the policy says of it.
///
/// It is handed out through a reference, which in the kernel leads into memory of a map. Of what a [`Wish`] would hold
/// itself the compiler may copy parts that were never written, and the verifier refuses a program that does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Asked {
    /// The question.
    pub question: Question,
    /// Its OPT record.
    pub edns: Option<Edns>,
    /// The entry of its name.
    pub entry: NameEntry,
}

/// The class of the Internet, and the one that asks for all classes.
const CLASS_IN: u16 = 1;
const CLASS_ANY: u16 = 255;

/// QTYPE.
const TYPE_TXT: u16 = 16;

/// The names of a policy.
pub trait Names {
    /// What they say of the name of a question in a message: its entry, or [`NameEntry::NONE`]. `None` where the message
    /// cannot be read so far.
    fn find<M: Bytes + ?Sized>(&self, message: &M, question: &Question) -> Option<NameEntry>;
}

/// The same for every name.
impl Names for NameEntry {
    fn find<M: Bytes + ?Sized>(&self, _message: &M, _question: &Question) -> Option<NameEntry> {
        Some(*self)
    }
}

/// Judges the message of `len` bytes.
///
/// `is_exempt` says whether the client is exempt from the rule of an entry, which it is only asked of rules that the
/// register names. `asked` says something where the wish is to answer, and means nothing elsewhere.
#[inline(always)]
pub fn judge<M: Bytes + ?Sized, N: Names>(
    message: &M,
    len: usize,
    asked: &mut Asked,
    names: &N,
    is_exempt: impl FnOnce(u32) -> bool,
) -> Wish {
    let question = match Question::read(message, len) {
        Ok(question) => question,
        Err(Malformed::NotAQuery) => return Wish::Nothing,
        Err(Malformed::Opcode(opcode)) if OPCODES_THAT_PASS.contains(&opcode) => return Wish::Opcode,
        Err(_) => return Wish::Unread,
    };
    let Some(entry) = names.find(message, &question) else {
        return Wish::Unread;
    };
    if entry.is_none() {
        return Wish::Unlisted;
    }
    let blocks = matches!(entry.verdict(), Some(Verdict::Block));
    if entry.is_undecidable() {
        return if blocks { Wish::AgentOrDrop } else { Wish::Agent };
    }
    if entry.verdict().is_none() {
        return Wish::Unlisted;
    }
    if !blocks || entry.has_exemptions() && is_exempt(entry.rule()) {
        return Wish::Agent;
    }
    match question.followed_by(message, len) {
        Additional::None => asked.edns = None,
        Additional::Edns(edns) if edns.version == 0 => asked.edns = Some(edns),
        // A version to come has an answer of its own, and what is signed or otherwise odd is read in full by the agent.
        Additional::Edns(_) | Additional::Other => return Wish::AgentOrDrop,
    }
    if question.qclass != CLASS_IN && question.qclass != CLASS_ANY {
        return Wish::AgentOrDrop;
    }
    // Whoever asks `why.interdict.NAME` is told.
    if question.qtype == TYPE_TXT && message.get::<4>(HEADER_BYTES) == *b"\x03why" {
        return Wish::AgentOrDrop;
    }
    asked.question = question;
    asked.entry = entry;
    Wish::Answer
}
