//! The answer to a blocked question.
//!
//! Header: QR=1, opcode QUERY, AA=0, TC=0, RD and CD copied, RA=1, AD=0. The question is echoed byte for byte.
//! A negative answer carries an SOA, or clients could not cache it (RFC 2308 §5). OPT and the extended error
//! (RFC 8914) are there only when the client sent OPT.

use crate::query::Query;

/// Longest answer that [`write_answer`] writes: header, question, SOA, OPT with an error text of 64 bytes.
pub const LONGEST_ANSWER_BYTES: usize = 12 + 259 + 34 + 11 + 6 + TEXT_LIMIT_BYTES;
const TEXT_LIMIT_BYTES: usize = 64;

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

/// What the answer section holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Records {
    /// Nothing.
    None,
    /// One A record.
    A([u8; 4]),
    /// One AAAA record.
    Aaaa([u8; 16]),
}

/// How a question is refused.
#[derive(Clone, Copy, Debug)]
pub struct Blocked<'a> {
    /// The response code.
    pub rcode: Rcode,
    /// The answer section.
    pub records: Records,
    /// TTL of the records and of the negative answer, in seconds.
    pub ttl_secs: u32,
    /// Labels of the question's name left of the SOA's owner.
    pub soa_labels_down: usize,
    /// INFO-CODE of the extended error.
    pub ede_code: u16,
    /// EXTRA-TEXT of the extended error; at most 64 bytes are sent.
    pub ede_text: &'a str,
}

/// Writes the answer to `query` and returns its length, or `None` when `out` is too short;
/// [`LONGEST_ANSWER_BYTES`] always suffice.
pub fn write_answer(query: &Query<'_>, blocked: &Blocked<'_>, out: &mut [u8]) -> Option<usize> {
    let negative = blocked.records == Records::None && blocked.rcode != Rcode::Refused;
    let mut w = Writer { out, at: 0 };
    w.header(query, blocked.rcode, blocked.records != Records::None, negative)?;
    w.put(query.question())?;
    match blocked.records {
        Records::None => {}
        Records::A(address) => w.record(QUESTION_NAME, 1, blocked.ttl_secs, &address)?,
        Records::Aaaa(address) => w.record(QUESTION_NAME, 28, blocked.ttl_secs, &address)?,
    }
    if negative {
        w.soa(QUESTION_NAME + labels_down(query.name(), blocked.soa_labels_down), blocked.ttl_secs)?;
    }
    if let Some(edns) = query.edns {
        w.opt(query.payload_bytes(), edns.dnssec_ok, blocked)?;
    }
    Some(w.at)
}

/// Offset of the question's name in every message.
const QUESTION_NAME: u16 = 12;

/// Bytes of the first `labels` labels, but never the root.
fn labels_down(name: &[u8], labels: usize) -> u16 {
    let mut at = 0;
    for _ in 0..labels {
        match name.get(at) {
            None | Some(0) => break,
            Some(len) => at += 1 + usize::from(*len),
        }
    }
    at as u16
}

struct Writer<'o> {
    out: &'o mut [u8],
    at: usize,
}

impl Writer<'_> {
    fn put(&mut self, bytes: &[u8]) -> Option<()> {
        self.out.get_mut(self.at..self.at + bytes.len())?.copy_from_slice(bytes);
        self.at += bytes.len();
        Some(())
    }

    fn put_u16(&mut self, number: u16) -> Option<()> {
        self.put(&number.to_be_bytes())
    }

    fn put_u32(&mut self, number: u32) -> Option<()> {
        self.put(&number.to_be_bytes())
    }

    fn header(&mut self, query: &Query<'_>, rcode: Rcode, answer: bool, soa: bool) -> Option<()> {
        self.put_u16(query.id())?;
        self.put(&[
            0x80 | u8::from(query.recursion_desired()),
            0x80 | u8::from(query.checking_disabled()) << 4 | rcode as u8,
        ])?;
        for count in [1, u16::from(answer), u16::from(soa), u16::from(query.edns.is_some())] {
            self.put_u16(count)?;
        }
        Some(())
    }

    /// One record of class IN whose owner stands at `owner` in this message.
    fn record(&mut self, owner: u16, rtype: u16, ttl_secs: u32, data: &[u8]) -> Option<()> {
        self.put_u16(0xc000 | owner)?;
        self.put_u16(rtype)?;
        self.put_u16(1)?;
        self.put_u32(ttl_secs)?;
        self.put_u16(data.len() as u16)?;
        self.put(data)
    }

    /// An SOA whose MNAME and RNAME are the root: no such server and no such mailbox. MINIMUM is the time for
    /// which the negative answer may be kept.
    fn soa(&mut self, owner: u16, ttl_secs: u32) -> Option<()> {
        let mut data = [0; 22];
        for (to, number) in data[2..].chunks_exact_mut(4).zip([1u32, 3600, 600, 86_400, ttl_secs]) {
            to.copy_from_slice(&number.to_be_bytes());
        }
        self.record(owner, 6, ttl_secs, &data)
    }

    fn opt(&mut self, payload_bytes: u16, dnssec_ok: bool, blocked: &Blocked<'_>) -> Option<()> {
        let text = blocked.ede_text.as_bytes();
        let text = text.get(..TEXT_LIMIT_BYTES).unwrap_or(text);
        self.put(&[0, 0, 41])?;
        self.put_u16(payload_bytes)?;
        self.put_u32(u32::from(dnssec_ok) << 15)?;
        self.put_u16(6 + text.len() as u16)?;
        self.put_u16(15)?;
        self.put_u16(2 + text.len() as u16)?;
        self.put_u16(blocked.ede_code)?;
        self.put(text)
    }
}
