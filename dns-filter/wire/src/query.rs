//! The question of one DNS message (RFC 1035 §4.1, RFC 6891 §6.1).

/// Largest UDP payload this server sends or asks for, in bytes (DNS flag day 2020).
pub const UDP_PAYLOAD_BYTES: u16 = 1232;

const HEADER_BYTES: usize = 12;
const NAME_LIMIT_BYTES: usize = 255;
const TYPE_OPT: u16 = 41;
/// Additional records that are looked through for OPT; a query has one or two.
const ADDITIONAL_LIMIT: u16 = 8;

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

/// The OPT record of a query.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Edns {
    /// EDNS version; only 0 is defined.
    pub version: u8,
    /// Whether the client wants DNSSEC records (RFC 3225).
    pub dnssec_ok: bool,
    /// The UDP payload that the client takes, in bytes, as it wrote it.
    pub payload_bytes: u16,
}

/// A well-formed query with one question.
#[derive(Clone, Debug)]
pub struct Query<'m> {
    message: &'m [u8],
    name: [u8; NAME_LIMIT_BYTES],
    name_len: usize,
    /// QTYPE.
    pub qtype: u16,
    /// QCLASS.
    pub qclass: u16,
    /// The OPT record, if there is one.
    pub edns: Option<Edns>,
}

impl<'m> Query<'m> {
    /// Reads a message.
    ///
    /// # Errors
    /// The first thing that keeps it from being one well-formed question.
    pub fn read(message: &'m [u8]) -> Result<Self, Malformed> {
        let header = message.get(..HEADER_BYTES).ok_or(Malformed::NotAQuery)?;
        if header[2] & 0x80 != 0 {
            return Err(Malformed::NotAQuery);
        }
        let opcode = header[2] >> 3 & 0x0f;
        if opcode != 0 {
            return Err(Malformed::Opcode(opcode));
        }
        let count = |at: usize| u16::from_be_bytes([header[at], header[at + 1]]);
        if count(4) != 1 {
            return Err(Malformed::QuestionCount);
        }
        let mut query =
            Query { message, name: [0; NAME_LIMIT_BYTES], name_len: 0, qtype: 0, qclass: 0, edns: None };
        query.read_question()?;
        if count(6) != 0 || count(8) != 0 || count(10) > ADDITIONAL_LIMIT {
            return Err(Malformed::Records);
        }
        query.read_additional(count(10))?;
        Ok(query)
    }

    /// The question's name in wire form, lower-cased.
    pub fn name(&self) -> &[u8] {
        &self.name[..self.name_len]
    }

    /// The message's id.
    pub fn id(&self) -> u16 {
        u16::from_be_bytes([self.message[0], self.message[1]])
    }

    /// Recursion desired.
    pub fn recursion_desired(&self) -> bool {
        self.message[2] & 0x01 != 0
    }

    /// Checking disabled (RFC 4035 §3.2.2).
    pub fn checking_disabled(&self) -> bool {
        self.message[3] & 0x10 != 0
    }

    /// The question as the client wrote it, byte for byte.
    pub fn question(&self) -> &'m [u8] {
        &self.message[HEADER_BYTES..self.question_end()]
    }

    /// The UDP payload that an answer may have and that we announce, in bytes: 512 to 1232.
    pub fn payload_bytes(&self) -> u16 {
        self.edns.map_or(512, |edns| edns.payload_bytes.clamp(512, UDP_PAYLOAD_BYTES))
    }

    fn question_end(&self) -> usize {
        HEADER_BYTES + self.name_len + 4
    }

    fn read_question(&mut self) -> Result<(), Malformed> {
        let mut at = 0;
        loop {
            let len = *self.message.get(HEADER_BYTES + at).ok_or(Malformed::Name)?;
            let label = usize::from(len);
            // A label is at most 63 bytes; more means a compression pointer, and there is nothing to point at.
            if len > 63 || at + 1 + label > NAME_LIMIT_BYTES - usize::from(len != 0) {
                return Err(Malformed::Name);
            }
            let from = HEADER_BYTES + at;
            let bytes = self.message.get(from..from + 1 + label).ok_or(Malformed::Name)?;
            for (to, byte) in self.name[at..].iter_mut().zip(bytes) {
                *to = byte.to_ascii_lowercase();
            }
            at += 1 + label;
            if len == 0 {
                break;
            }
        }
        self.name_len = at;
        let end = self.question_end();
        let Some(&[t0, t1, c0, c1]) = self.message.get(end - 4..end) else { return Err(Malformed::Name) };
        self.qtype = u16::from_be_bytes([t0, t1]);
        self.qclass = u16::from_be_bytes([c0, c1]);
        Ok(())
    }

    /// Looks for OPT among the additional records. Two of them are an error (RFC 6891 §6.1.1).
    fn read_additional(&mut self, count: u16) -> Result<(), Malformed> {
        let mut at = self.question_end();
        for _ in 0..count {
            let owner = at;
            at = self.skip_name(at)?;
            let fixed = self.message.get(at..at + 10).ok_or(Malformed::Records)?;
            let number = |i: usize| u16::from_be_bytes([fixed[i], fixed[i + 1]]);
            if number(0) == TYPE_OPT {
                if self.edns.is_some() || at != owner + 1 {
                    return Err(Malformed::Records);
                }
                self.edns = Some(Edns {
                    version: fixed[5],
                    dnssec_ok: fixed[6] & 0x80 != 0,
                    payload_bytes: number(2),
                });
            }
            at += 10 + usize::from(number(8));
            if at > self.message.len() {
                return Err(Malformed::Records);
            }
        }
        Ok(())
    }

    /// The offset behind a name that may end in a compression pointer.
    fn skip_name(&self, mut at: usize) -> Result<usize, Malformed> {
        for _ in 0..=NAME_LIMIT_BYTES / 2 {
            match *self.message.get(at).ok_or(Malformed::Records)? {
                0 => return Ok(at + 1),
                len @ 1..=63 => at += 1 + usize::from(len),
                0xc0.. => return Ok(at + 2),
                _ => return Err(Malformed::Records),
            }
        }
        Err(Malformed::Records)
    }
}
