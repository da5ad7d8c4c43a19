//! The answer to a blocked question.
//!
//! Header: QR=1, opcode QUERY, AA=0, TC=0, RD and CD copied, RA=1, AD=0. The question is echoed byte for byte.
//! A negative answer carries an SOA, or clients could not cache it (RFC 2308 §5). OPT and the extended error
//! (RFC 8914) are there only when the client sent OPT.
//!
//! An answer is written over its question's message: all that differs between questions stands in the [`Question`] and
//! the [`Edns`], all that differs between rules in a [`Template`], which is made once.

use crate::edns::EDE_OPTION;
use crate::memory::Memory;
use crate::query::Query;
use crate::question::{Edns, HEADER_BYTES, LONGEST_QUESTION_END, OPT_BYTES, Question};

/// Longest answer: header, question, SOA, OPT with an error text of 64 bytes.
pub const LONGEST_ANSWER_BYTES: usize = LONGEST_QUESTION_END + SOA_BYTES + OPT_BYTES + 6 + TEXT_LIMIT_BYTES;
const TEXT_LIMIT_BYTES: usize = 64;
const SOA_BYTES: usize = RECORD_BYTES + SOA_DATA_BYTES;
/// Owner (a pointer), type, class, TTL and length of data.
const RECORD_BYTES: usize = 12;
const SOA_DATA_BYTES: usize = 22;

const TYPE_A: u16 = 1;
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

/// Nothing is answered.
const SILENCE: u8 = 1;
/// There is an address for A.
const HAS_A: u8 = 2;
/// There is an address for AAAA.
const HAS_AAAA: u8 = 4;

/// Words of eight bytes that hold a template's longest OPT record.
const OPT_WORDS: usize = 11;

/// Everything of the answers under one rule that no question changes, ready to be copied.
///
/// It has no padding: the kernel keeps templates in a map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Template {
    /// The OPT record with its extended error, as if for a payload of 0 bytes and no DNSSEC: bytes, in words, which is
    /// how the kernel program copies them.
    opt: [u64; OPT_WORDS],
    aaaa: [u8; 16],
    a: [u8; 4],
    /// In network byte order.
    ttl_secs: [u8; 4],
    opt_bytes: u16,
    rcode: u8,
    flags: u8,
    zero: [u8; 4],
}

const _: () = assert!(size_of::<Template>() == OPT_WORDS * 8 + 16 + 4 + 4 + 2 + 1 + 1 + 4, "padding");
const _: () = assert!(OPT_BYTES + 6 + TEXT_LIMIT_BYTES <= OPT_WORDS * 8);

impl Template {
    /// A template that answers nothing.
    pub const SILENT: Self = Self {
        opt: [0; OPT_WORDS],
        aaaa: [0; 16],
        a: [0; 4],
        ttl_secs: [0; 4],
        opt_bytes: 0,
        rcode: 0,
        flags: SILENCE,
        zero: [0; 4],
    };

    /// The template of a rule.
    pub fn new(blocked: &Blocked<'_>) -> Self {
        let mut template = Self { ttl_secs: blocked.ttl_secs.to_be_bytes(), flags: 0, ..Self::SILENT };
        match blocked.reply {
            Reply::Silence => template.flags = SILENCE,
            Reply::Code(rcode) => template.rcode = rcode as u8,
            Reply::Addresses { a, aaaa } => {
                template.flags =
                    if a.is_some() { HAS_A } else { 0 } | if aaaa.is_some() { HAS_AAAA } else { 0 };
                template.a = a.unwrap_or_default();
                template.aaaa = aaaa.unwrap_or_default();
            }
        }
        let text = blocked.ede_text.as_bytes();
        let text = &text[..text.len().min(TEXT_LIMIT_BYTES)];
        let mut opt = [0; OPT_WORDS * 8];
        opt[1..3].copy_from_slice(&crate::question::TYPE_OPT.to_be_bytes());
        opt[9..11].copy_from_slice(&(6 + text.len() as u16).to_be_bytes());
        opt[11..13].copy_from_slice(&EDE_OPTION.to_be_bytes());
        opt[13..15].copy_from_slice(&(2 + text.len() as u16).to_be_bytes());
        opt[15..17].copy_from_slice(&blocked.ede_code.to_be_bytes());
        opt[17..17 + text.len()].copy_from_slice(text);
        for (word, bytes) in template.opt.iter_mut().zip(opt.as_chunks::<8>().0) {
            *word = u64::from_ne_bytes(*bytes);
        }
        template.opt_bytes = (OPT_BYTES + 6 + text.len()) as u16;
        template
    }

    /// Whether nothing is answered.
    #[inline(always)]
    pub const fn is_silent(&self) -> bool {
        self.flags & SILENCE != 0
    }

    /// Writes the answer over the message whose question it is, and returns the answer's length. `owner` is where the
    /// name that owns the SOA begins in the message: [`HEADER_BYTES`] or behind it, inside the question's name.
    ///
    /// Bytes behind the answer may be written too, as far as [`ANSWER_BUFFER_BYTES`].
    #[inline(always)]
    pub fn answer<M: Memory + ?Sized>(
        &self,
        message: &mut M,
        question: &Question,
        edns: Option<Edns>,
        owner: usize,
    ) -> usize {
        let is = |qtype, flag| question.qtype == qtype && self.flags & flag != 0;
        let (has_a, has_aaaa) = (is(TYPE_A, HAS_A), is(TYPE_AAAA, HAS_AAAA));
        let negative = !has_a && !has_aaaa && self.rcode != Rcode::Refused as u8;

        let [flags_high, flags_low] = message.get(2);
        message.set(2, [0x80 | flags_high & 0x01, 0x80 | flags_low & 0x10 | self.rcode]);
        message.set(6, [0, u8::from(has_a || has_aaaa), 0, u8::from(negative), 0, u8::from(edns.is_some())]);

        let mut at = question.end();
        if has_a {
            record(message, at, HEADER_BYTES, TYPE_A, self.ttl_secs, 4);
            message.set(at + RECORD_BYTES, self.a);
            at += RECORD_BYTES + 4;
        }
        if has_aaaa {
            record(message, at, HEADER_BYTES, TYPE_AAAA, self.ttl_secs, 16);
            message.set(at + RECORD_BYTES, self.aaaa);
            at += RECORD_BYTES + 16;
        }
        if negative {
            record(message, at, owner, TYPE_SOA, self.ttl_secs, SOA_DATA_BYTES as u8);
            soa_data(message, at + RECORD_BYTES, self.ttl_secs);
            at += SOA_BYTES;
        }
        if let Some(edns) = edns {
            message.set_words(at, &self.opt);
            message.set(at + 3, edns.answer_payload_bytes().to_be_bytes());
            message.set(at + 7, [u8::from(edns.dnssec_ok) << 7, 0]);
            at += usize::from(self.opt_bytes);
        }
        at
    }
}

const TYPE_SOA: u16 = 6;

/// The head of one record of class IN, whose owner stands at `owner` in this message.
#[inline(always)]
fn record<M: Memory + ?Sized>(message: &mut M, at: usize, owner: usize, rtype: u16, ttl: [u8; 4], data: u8) {
    let [owner_high, owner_low] = (0xc000 | owner as u16).to_be_bytes();
    let [type_high, type_low] = rtype.to_be_bytes();
    message.set(at, [owner_high, owner_low, type_high, type_low, 0, 1, ttl[0], ttl[1]]);
    message.set(at + 8, [ttl[2], ttl[3], 0, data]);
}

/// The data of an SOA whose MNAME and RNAME are the root: no such server and no such mailbox. MINIMUM is the time for
/// which the negative answer may be kept.
#[inline(always)]
fn soa_data<M: Memory + ?Sized>(message: &mut M, at: usize, minimum: [u8; 4]) {
    const SERIAL: u32 = 1;
    const REFRESH: u32 = 3600;
    const RETRY: u32 = 600;
    const EXPIRE: u32 = 86_400;
    message.set(at, [0, 0]);
    message.set(at + 2, SERIAL.to_be_bytes());
    message.set(at + 6, REFRESH.to_be_bytes());
    message.set(at + 10, RETRY.to_be_bytes());
    message.set(at + 14, EXPIRE.to_be_bytes());
    message.set(at + 18, minimum);
}

/// Writes the answer to `query` and returns it; `None` where the rule answers nothing. `labels_left` is how many labels
/// of the question's name stand left of the name that owns the SOA.
pub fn write_answer<'o>(
    query: &Query<'_>,
    template: &Template,
    labels_left: usize,
    out: &'o mut [u8; ANSWER_BUFFER_BYTES],
) -> Option<&'o [u8]> {
    if template.is_silent() {
        return None;
    }
    let head = query.head();
    out[..head.len()].copy_from_slice(head);
    let owner = HEADER_BYTES + bytes_of_labels(query.name(), labels_left);
    let len = template.answer(&mut out[..], &query.question, query.edns, owner);
    Some(&out[..len])
}

/// Room for every answer, and for what is written behind it.
pub const ANSWER_BUFFER_BYTES: usize = LONGEST_QUESTION_END + SOA_BYTES + OPT_WORDS * 8;

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
