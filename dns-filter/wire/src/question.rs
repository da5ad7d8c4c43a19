//! The question of one DNS message (RFC 1035 §4.1, RFC 6891 §6.1), as far as both planes read it.
//!
//! Everything here works on [`Bytes`] and holds nothing but numbers, so that the kernel program runs it too.

use crate::memory::{Bytes, Round};

/// Bytes of a message's header.
pub const HEADER_BYTES: usize = 12;
/// Longest name on the wire in bytes, length bytes and root included (RFC 1035 §3.1).
pub const NAME_LIMIT_BYTES: usize = 255;
/// Most labels that a name can have, without the root.
pub const LABELS_LIMIT: usize = 127;
/// Where the longest question ends.
pub const LONGEST_QUESTION_END: usize = HEADER_BYTES + NAME_LIMIT_BYTES + 4;
/// Bytes of an OPT record without its options.
pub const OPT_BYTES: usize = 11;
/// Largest UDP payload this server sends or asks for, in bytes (DNS flag day 2020).
pub const UDP_PAYLOAD_BYTES: u16 = 1232;
/// The least that every client takes (RFC 1035 §4.2.1).
const LEAST_PAYLOAD_BYTES: u16 = 512;

pub(crate) const TYPE_OPT: u16 = 41;
/// The longest label, in bytes (RFC 1035, §2.3.4).
pub const LABEL_LIMIT_BYTES: u8 = 63;

/// Why a message is not one question that can be answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Malformed {
    /// It ends inside its header, or is a response: answering it could start a loop.
    NotAQuery,
    /// Its opcode is not QUERY; this is the opcode.
    Opcode(u8),
    /// It has no question, or several (RFC 9619).
    QuestionCount,
    /// Its question's name is compressed, too long, or cut off.
    Name,
    /// It has answers or authorities, or an additional record that is cut off or not understood.
    Records,
}

/// Opcodes of messages that pass to other resolvers whatever they are about: NOTIFY (RFC 1996) and UPDATE (RFC 2136). Any
/// other is odd: nobody uses it.
pub const OPCODES_THAT_PASS: [u8; 2] = [4, 5];

/// A question, by where its parts stand in its message and what they say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Question {
    /// Bytes of the name, root included; it begins behind the header.
    pub name_bytes: usize,
    /// Labels of the name, without the root.
    pub labels: usize,
    /// QTYPE.
    pub qtype: u16,
    /// QCLASS.
    pub qclass: u16,
    /// ARCOUNT: how many additional records are said to follow.
    pub additional: u16,
}

/// The OPT record of a query.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Edns {
    /// EDNS version; only 0 is defined.
    pub version: u8,
    /// Whether the client wants DNSSEC records (RFC 3225).
    pub dnssec_ok: bool,
    /// The UDP payload that the client takes, in bytes, as it wrote it.
    pub payload_bytes: u16,
    /// Bytes of its options.
    pub options_bytes: u16,
}

/// What follows a question, where that is at most an OPT record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Additional {
    /// No record.
    None,
    /// One OPT record that is whole.
    Edns(Edns),
    /// Something else.
    Other,
}

impl Question {
    /// Reads the header and the question of a message of `len` bytes.
    ///
    /// # Errors
    /// The first thing that keeps it from being one question.
    #[inline(always)]
    pub fn read<M: Bytes + ?Sized>(message: &M, len: usize) -> Result<Self, Malformed> {
        if len < HEADER_BYTES {
            return Err(Malformed::NotAQuery);
        }
        let [flags, _] = message.get(2);
        if flags & 0x80 != 0 {
            return Err(Malformed::NotAQuery);
        }
        let opcode = flags >> 3 & 0x0f;
        if opcode != 0 {
            return Err(Malformed::Opcode(opcode));
        }
        // QDCOUNT, ANCOUNT, NSCOUNT, ARCOUNT, from the high bits on.
        let counts = u64::from_be_bytes(message.get(4));
        if counts >> 48 != 1 {
            return Err(Malformed::QuestionCount);
        }
        let (name_bytes, labels) = name(message, len);
        // Behind most names are type and class, and the shortest OPT record or nothing.
        let behind = 4 + OPT_BYTES * usize::from(counts as u16);
        let name_bytes = M::foreseen(name_bytes, len.wrapping_sub(HEADER_BYTES + behind));
        let end = HEADER_BYTES + name_bytes + 4;
        if name_bytes == 0 || name_bytes > M::LONGEST_NAME_BYTES || end > len {
            return Err(Malformed::Name);
        }
        if counts >> 16 & 0xffff_ffff != 0 {
            return Err(Malformed::Records);
        }
        let asked = u32::from_be_bytes(message.get(end - 4));
        let (qtype, qclass) = ((asked >> 16) as u16, asked as u16);
        Ok(Self { name_bytes, labels, qtype, qclass, additional: counts as u16 })
    }

    /// Where it ends in its message.
    #[inline(always)]
    pub const fn end(&self) -> usize {
        HEADER_BYTES + self.name_bytes + 4
    }

    /// What follows it in a message of `len` bytes.
    #[inline(always)]
    pub fn followed_by<M: Bytes + ?Sized>(&self, message: &M, len: usize) -> Additional {
        match self.additional {
            0 => return Additional::None,
            1 => {}
            _ => return Additional::Other,
        }
        let at = self.end();
        // The root, which owns the record, and the record's type in one look.
        let [owner, type_high, type_low, ..] = message.get::<4>(at);
        if at + OPT_BYTES > len || owner != 0 || u16::from_be_bytes([type_high, type_low]) != TYPE_OPT {
            return Additional::Other;
        }
        let edns = edns(message, at + 1);
        if at + OPT_BYTES + usize::from(edns.options_bytes) > len {
            return Additional::Other;
        }
        Additional::Edns(edns)
    }
}

/// Reads the OPT record whose type stands at `at`.
#[inline(always)]
pub(crate) fn edns<M: Bytes + ?Sized>(message: &M, at: usize) -> Edns {
    let [payload_high, payload_low] = message.get(at + 2);
    let [_, version, flags, _] = message.get::<4>(at + 4);
    Edns {
        version,
        dnssec_ok: flags & 0x80 != 0,
        payload_bytes: u16::from_be_bytes([payload_high, payload_low]),
        options_bytes: u16::from_be_bytes(message.get(at + 8)),
    }
}

impl Edns {
    /// The UDP payload that an answer may have and that we announce, in bytes: 512 to 1232.
    #[inline(always)]
    pub const fn answer_payload_bytes(&self) -> u16 {
        // Written out, since `clamp` can panic and the kernel program must not be able to.
        if self.payload_bytes < LEAST_PAYLOAD_BYTES {
            LEAST_PAYLOAD_BYTES
        } else if self.payload_bytes > UDP_PAYLOAD_BYTES {
            UDP_PAYLOAD_BYTES
        } else {
            self.payload_bytes
        }
    }
}

/// The length of the question's name, root included, and how many labels it has; both 0 if it is none.
#[inline(always)]
fn name<M: Bytes + ?Sized>(message: &M, len: usize) -> (usize, usize) {
    let mut walk = Walk { message, len, at: M::variable(0), has_ended: false };
    match M::repeat(LABELS_LIMIT + 2, &mut walk) {
        Some(rounds) if walk.has_ended => (M::forget(walk.at + 1), M::forget(rounds - 1)),
        _ => (0, 0),
    }
}

/// The way through a name, label by label.
struct Walk<'m, M: ?Sized> {
    message: &'m M,
    len: usize,
    at: usize,
    /// Whether the root was found.
    has_ended: bool,
}

impl<M: Bytes + ?Sized> Round for Walk<'_, M> {
    #[inline(always)]
    fn round(&mut self) -> bool {
        if HEADER_BYTES + self.at >= self.len {
            return false;
        }
        let [label, _] = self.message.get(HEADER_BYTES + self.at);
        if label == 0 {
            self.has_ended = true;
            return false;
        }
        // A label is at most 63 bytes; more means a compression pointer, and there is nothing to point at.
        let next = self.at + 1 + usize::from(label);
        if label > LABEL_LIMIT_BYTES || next >= NAME_LIMIT_BYTES {
            return false;
        }
        self.at = M::variable(next);
        true
    }
}
