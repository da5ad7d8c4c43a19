//! The answer to a blocked question.
//!
//! Header: QR=1, opcode QUERY, AA=0, TC=0, RD and CD copied, RA=1, AD=0. The question is echoed byte for byte.
//! A negative answer carries an SOA, or clients could not cache it (RFC 2308 §5). OPT and the extended error
//! (RFC 8914) are there only when the client sent OPT.
//!
//! An answer is the question's message up to the question's end, with another header, and a [`Tail`] behind it. What differs
//! between rules and types is in the tail, which the kernel has ready; what differs between questions are three fields of it.

use crate::edns::EDE_OPTION;
use crate::memory::Room;
use crate::query::Query;
use crate::question::{Edns, HEADER_BYTES, LONGEST_QUESTION_END, OPT_BYTES};

/// Longest answer: header, question, SOA, OPT with an error text of 64 bytes.
pub const LONGEST_ANSWER_BYTES: usize = LONGEST_QUESTION_END + LONGEST_TAIL_BYTES;
const LONGEST_TAIL_BYTES: usize = RECORD_BYTES + SOA_DATA_BYTES + OPT_BYTES + 6 + TEXT_LIMIT_BYTES;
const TEXT_LIMIT_BYTES: usize = 64;
/// Owner (a pointer), type, class, TTL and length of data.
const RECORD_BYTES: usize = 12;
const SOA_DATA_BYTES: usize = 22;

const TYPE_A: u16 = 1;
const TYPE_SOA: u16 = 6;
const TYPE_AAAA: u16 = 28;

/// Response codes of blocked answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rcode {
    /// NOERROR.
    NoError = 0,
    /// NXDOMAIN.
    NxDomain = 3,
    /// REFUSED.
    Refused = 5,
}

/// What a rule answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reply {
    /// Nothing at all.
    Silence,
    /// A code without records, whatever is asked.
    Code(Rcode),
    /// These addresses for A and AAAA; no records for other types, and for a family that has none.
    Addresses {
        /// For A.
        a: Option<[u8; 4]>,
        /// For AAAA.
        aaaa: Option<[u8; 16]>,
    },
}

/// How questions are refused under one rule.
#[derive(Clone, Copy, Debug)]
pub struct Blocked<'a> {
    /// What is answered.
    pub reply: Reply,
    /// TTL of the records and of the negative answer, in seconds.
    pub ttl_secs: u32,
    /// INFO-CODE of the extended error.
    pub ede_code: u16,
    /// EXTRA-TEXT of the extended error; at most 64 bytes are sent.
    pub ede_text: &'a str,
}

/// Words of eight bytes that hold the longest tail.
pub const TAIL_WORDS: usize = 16;
const TAIL_BYTES: usize = 8 * TAIL_WORDS;

/// What follows the question in an answer, and what its header says of that. It is made of a rule, and of the type that is
/// asked for.
///
/// It has no padding: the kernel keeps tails in a map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Tail {
    /// A record or none, and then OPT with its extended error, as if for a payload of 0 bytes and no DNSSEC, and with 0 for
    /// the record's owner: bytes, in words, which is how the kernel program copies them.
    words: [u64; TAIL_WORDS],
    /// The sum of the record's 16-bit words, in the machine's order.
    record_sum: u32,
    /// That of the words behind it.
    opt_sum: u32,
    /// An even number.
    record_bytes: u8,
    opt_bytes: u8,
    rcode: u8,
    answers: u8,
    authorities: u8,
    is_silent: u8,
    zero: [u8; 2],
}

const _: () = assert!(size_of::<Tail>() == TAIL_BYTES + 4 + 4 + 6 + 2, "padding");
const _: () = assert!(LONGEST_TAIL_BYTES <= TAIL_BYTES);

impl Tail {
    /// The tail of answers that are never given.
    const SILENT: Self = Self {
        words: [0; TAIL_WORDS],
        record_sum: 0,
        opt_sum: 0,
        record_bytes: 0,
        opt_bytes: 0,
        rcode: 0,
        answers: 0,
        authorities: 0,
        is_silent: 1,
        zero: [0; 2],
    };

    /// The tail of the answers to questions of a type.
    pub fn new(blocked: &Blocked<'_>, qtype: u16) -> Self {
        let (a, aaaa, rcode) = match blocked.reply {
            Reply::Silence => return Self::SILENT,
            Reply::Code(rcode) => (None, None, rcode),
            Reply::Addresses { a, aaaa } => (a, aaaa, Rcode::NoError),
        };
        let ttl = blocked.ttl_secs.to_be_bytes();
        let mut bytes = [0; TAIL_BYTES];
        let (record_bytes, answers, authorities) = match (qtype, a, aaaa) {
            (TYPE_A, Some(a), _) => (record(&mut bytes, TYPE_A, ttl, &a), 1, 0),
            (TYPE_AAAA, _, Some(aaaa)) => (record(&mut bytes, TYPE_AAAA, ttl, &aaaa), 1, 0),
            _ if rcode == Rcode::Refused => (0, 0, 0),
            _ => (record(&mut bytes, TYPE_SOA, ttl, &soa_data(ttl)), 0, 1),
        };
        let opt_bytes = opt(&mut bytes[record_bytes..], blocked);
        let (record, opt) = bytes.split_at(record_bytes);
        Self {
            words: core::array::from_fn(|i| u64::from_ne_bytes(bytes.as_chunks().0[i])),
            record_sum: sum(record),
            opt_sum: sum(opt),
            record_bytes: record_bytes as u8,
            opt_bytes: opt_bytes as u8,
            rcode: rcode as u8,
            answers,
            authorities,
            is_silent: 0,
            zero: [0; 2],
        }
    }

    /// Whether nothing is answered.
    #[inline(always)]
    pub const fn is_silent(&self) -> bool {
        self.is_silent != 0
    }

    /// Bytes of the tail: none, or 16 to 115.
    #[inline(always)]
    pub const fn bytes(&self, edns: Option<Edns>) -> usize {
        self.record_bytes as usize + if edns.is_some() { self.opt_bytes as usize } else { 0 }
    }

    /// The header of the answer to a question whose header begins with these four bytes: as many, and the eight behind them.
    #[inline(always)]
    pub const fn header(
        &self,
        [id_high, id_low, high, low]: [u8; 4],
        edns: Option<Edns>,
    ) -> ([u8; 4], [u8; 8]) {
        let start = [id_high, id_low, 0x80 | high & 0x01, 0x80 | low & 0x10 | self.rcode];
        (start, [0, 1, 0, self.answers, 0, self.authorities, 0, edns.is_some() as u8])
    }

    /// Writes the tail, and returns the sum of its 16-bit words (RFC 1071), in the machine's order, not folded: below 2^26. It
    /// is that of a tail that begins at an even place; of one at an odd place the same sum is shifted by 8 bits.
    ///
    /// `owner` is where the name that owns an SOA begins in the message: [`HEADER_BYTES`] or behind it, inside the question's
    /// name.
    #[inline(always)]
    pub fn write<R: Room + ?Sized>(&self, room: &mut R, edns: Option<Edns>, owner: usize) -> u64 {
        room.copy(&self.words, self.bytes(edns));
        let mut sum = u64::from(self.record_sum);
        if self.record_bytes != 0 {
            let owner = self.owner(owner);
            room.set(0, owner);
            sum += u64::from(u16::from_ne_bytes(owner));
        }
        if let Some(edns) = edns {
            let (payload, flags) =
                (edns.answer_payload_bytes().to_be_bytes(), [u8::from(edns.dnssec_ok) << 7, 0]);
            let opt = usize::from(self.record_bytes);
            room.set(opt + PAYLOAD_AT, payload);
            room.set(opt + FLAGS_AT, flags);
            // Both stand at odd places.
            let odd = u64::from(u16::from_ne_bytes(payload)) + u64::from(u16::from_ne_bytes(flags));
            sum += u64::from(self.opt_sum) + (odd << 8);
        }
        sum
    }

    /// A pointer to the record's owner (RFC 1035, §4.1.4): addresses are the question's.
    #[inline(always)]
    const fn owner(&self, owner: usize) -> [u8; 2] {
        let owner = if self.authorities != 0 { owner } else { HEADER_BYTES };
        (0xc000 | owner as u16).to_be_bytes()
    }
}

/// In OPT: where it says the payload that we take, and DO.
const PAYLOAD_AT: usize = 3;
const FLAGS_AT: usize = 7;

/// Writes a record of class IN, but for its owner, and returns its length.
fn record(bytes: &mut [u8], rtype: u16, ttl: [u8; 4], data: &[u8]) -> usize {
    let [type_high, type_low] = rtype.to_be_bytes();
    let head = [0, 0, type_high, type_low, 0, 1, ttl[0], ttl[1], ttl[2], ttl[3], 0, data.len() as u8];
    bytes[..RECORD_BYTES].copy_from_slice(&head);
    bytes[RECORD_BYTES..RECORD_BYTES + data.len()].copy_from_slice(data);
    RECORD_BYTES + data.len()
}

/// The data of an SOA whose MNAME and RNAME are the root: no such server and no such mailbox. MINIMUM is the time for
/// which the negative answer may be kept.
fn soa_data(minimum: [u8; 4]) -> [u8; SOA_DATA_BYTES] {
    const SERIAL: u32 = 1;
    const REFRESH: u32 = 3600;
    const RETRY: u32 = 600;
    const EXPIRE: u32 = 86_400;
    let mut data = [0; SOA_DATA_BYTES];
    let numbers = [SERIAL, REFRESH, RETRY, EXPIRE].map(u32::to_be_bytes).into_iter().chain([minimum]);
    for (place, number) in data[2..].chunks_mut(4).zip(numbers) {
        place.copy_from_slice(&number);
    }
    data
}

/// Writes an OPT record with an extended error, and returns its length.
fn opt(bytes: &mut [u8], blocked: &Blocked<'_>) -> usize {
    let text = blocked.ede_text.as_bytes();
    let text = &text[..text.len().min(TEXT_LIMIT_BYTES)];
    bytes[1..3].copy_from_slice(&crate::question::TYPE_OPT.to_be_bytes());
    bytes[9..11].copy_from_slice(&(6 + text.len() as u16).to_be_bytes());
    bytes[11..13].copy_from_slice(&EDE_OPTION.to_be_bytes());
    bytes[13..15].copy_from_slice(&(2 + text.len() as u16).to_be_bytes());
    bytes[15..17].copy_from_slice(&blocked.ede_code.to_be_bytes());
    bytes[17..17 + text.len()].copy_from_slice(text);
    OPT_BYTES + 6 + text.len()
}

fn sum(bytes: &[u8]) -> u32 {
    bytes.as_chunks().0.iter().map(|word| u32::from(u16::from_ne_bytes(*word))).sum()
}

/// The tails of the answers under one rule, ready to be copied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Template {
    tails: [Tail; Self::TAILS],
}

impl Template {
    const TAILS: usize = 3;

    /// The template of a rule.
    pub fn new(blocked: &Blocked<'_>) -> Self {
        Self { tails: [TYPE_A, TYPE_AAAA, 0].map(|qtype| Tail::new(blocked, qtype)) }
    }

    /// Where the tail for questions of a type stands among them.
    #[inline(always)]
    pub const fn place(qtype: u16) -> usize {
        match qtype {
            TYPE_A => 0,
            TYPE_AAAA => 1,
            _ => 2,
        }
    }

    /// The tail at a place.
    #[inline(always)]
    pub fn tail(&self, place: usize) -> Option<&Tail> {
        self.tails.get(place)
    }
}

/// Writes the answer to `query` and returns it; `None` where the rule answers nothing. `labels_left` is how many labels
/// of the question's name stand left of the name that owns the SOA.
pub fn write_answer<'o>(
    query: &Query<'_>,
    blocked: &Blocked<'_>,
    labels_left: usize,
    out: &'o mut [u8; LONGEST_ANSWER_BYTES],
) -> Option<&'o [u8]> {
    let tail = Tail::new(blocked, query.qtype);
    if tail.is_silent() {
        return None;
    }
    let (question, edns) = (query.head(), query.edns);
    let end = question.len() + tail.bytes(edns);
    let (head, room) = out.split_at_mut(question.len());
    head.copy_from_slice(question);
    let (start, counts) = tail.header([head[0], head[1], head[2], head[3]], edns);
    head[..4].copy_from_slice(&start);
    head[4..HEADER_BYTES].copy_from_slice(&counts);
    tail.write(room, edns, HEADER_BYTES + bytes_of_labels(query.name(), labels_left));
    Some(&out[..end])
}

/// Bytes of the first labels, but never the root.
fn bytes_of_labels(name: &[u8], labels: usize) -> usize {
    let mut at = 0;
    for _ in 0..labels {
        match name.get(at) {
            None | Some(0) => break,
            Some(len) => at += 1 + usize::from(*len),
        }
    }
    at
}
