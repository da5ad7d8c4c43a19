//! A query as the userspace server reads it: the question with its name copied and lower-cased, and any OPT record.

use crate::memory::Bytes;
use crate::question::{
    Additional, Edns, HEADER_BYTES, Malformed, NAME_LIMIT_BYTES, OPT_BYTES, Question, TYPE_OPT, edns,
};

/// Additional records that are looked through for OPT; a query has one or two.
const ADDITIONAL_LIMIT: u16 = 8;

/// A well-formed query with one question.
#[derive(Clone, Debug)]
pub struct Query<'m> {
    message: &'m [u8],
    name: [u8; NAME_LIMIT_BYTES],
    pub(crate) question: Question,
    /// QTYPE.
    pub qtype: u16,
    /// QCLASS.
    pub qclass: u16,
    /// The OPT record, if there is one.
    pub edns: Option<Edns>,
    /// Its options.
    options: &'m [u8],
}

impl<'m> Query<'m> {
    /// Reads a message.
    ///
    /// # Errors
    /// The first thing that keeps it from being one well-formed question.
    pub fn read(message: &'m [u8]) -> Result<Self, Malformed> {
        let question = Question::read(message, message.len())?;
        let mut name = [0; NAME_LIMIT_BYTES];
        let wire = &message[HEADER_BYTES..question.end() - 4];
        name[..wire.len()].copy_from_slice(wire);
        name.make_ascii_lowercase();
        let (edns, options_at) = match question.followed_by(message, message.len()) {
            Additional::None => (None, 0),
            Additional::Edns(edns) => (Some(edns), question.end() + OPT_BYTES),
            Additional::Other => find_edns(message, &question)?,
        };
        let options = match edns {
            Some(edns) => {
                message.get(options_at..options_at + usize::from(edns.options_bytes)).unwrap_or_default()
            }
            None => &[],
        };
        let Question { qtype, qclass, .. } = question;
        Ok(Self { message, name, question, qtype, qclass, edns, options })
    }

    /// The options of the OPT record, one behind another.
    pub fn options(&self) -> &'m [u8] {
        self.options
    }

    /// The question's name in wire form, lower-cased.
    pub fn name(&self) -> &[u8] {
        &self.name[..self.question.name_bytes]
    }

    /// The message's id.
    pub fn id(&self) -> u16 {
        u16::from_be_bytes([self.message[0], self.message[1]])
    }

    /// CD: whoever asks checks signatures (RFC 4035, §3.2.2).
    pub fn checking_disabled(&self) -> bool {
        self.message[3] & 0x10 != 0
    }

    /// The question as the client wrote it, byte for byte.
    pub fn question(&self) -> &'m [u8] {
        &self.message[HEADER_BYTES..self.question.end()]
    }

    /// The header and the question, as the client wrote them.
    pub(crate) fn head(&self) -> &'m [u8] {
        &self.message[..self.question.end()]
    }

    /// The UDP payload that an answer may have and that we announce, in bytes: 512 to 1232.
    pub fn payload_bytes(&self) -> u16 {
        self.edns.map_or(512, |edns| edns.answer_payload_bytes())
    }
}

/// Looks for OPT among the additional records, and for where its options begin. Two of them are an error (RFC 6891
/// §6.1.1).
fn find_edns(message: &[u8], question: &Question) -> Result<(Option<Edns>, usize), Malformed> {
    if question.additional > ADDITIONAL_LIMIT {
        return Err(Malformed::Records);
    }
    let (mut found, mut options_at) = (None, 0);
    let mut at = question.end();
    for _ in 0..question.additional {
        let owner = at;
        at = skip_name(message, at)?;
        if message.len() < at + 10 {
            return Err(Malformed::Records);
        }
        let number = |at: usize| u16::from_be_bytes(Bytes::get(message, at));
        if number(at) == TYPE_OPT {
            if found.is_some() || at != owner + 1 {
                return Err(Malformed::Records);
            }
            (found, options_at) = (Some(edns(message, at)), at + 10);
        }
        at += 10 + usize::from(number(at + 8));
        if at > message.len() {
            return Err(Malformed::Records);
        }
    }
    Ok((found, options_at))
}

/// The offset behind a name that may end in a compression pointer.
pub(crate) fn skip_name(message: &[u8], mut at: usize) -> Result<usize, Malformed> {
    for _ in 0..=NAME_LIMIT_BYTES / 2 {
        match *message.get(at).ok_or(Malformed::Records)? {
            0 => return Ok(at + 1),
            len @ 1..=63 => at += 1 + usize::from(len),
            0xc0.. => return Ok(at + 2),
            _ => return Err(Malformed::Records),
        }
    }
    Err(Malformed::Records)
}
