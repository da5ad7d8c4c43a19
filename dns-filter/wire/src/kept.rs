//! An answer that was kept, given again to whoever asks the same.

use crate::edns::EDE_OPTION;
use crate::memory::{Bytes, Memory as _};
use crate::query::{Query, skip_name};
use crate::question::{HEADER_BYTES, OPT_BYTES, TYPE_OPT};

/// An answer without its header and its question: the records, in the bytes in which they stand behind the question, whose
/// name they may point at.
#[derive(Clone, Copy, Debug, Default)]
pub struct Kept<'k> {
    /// RCODE, 0 to 15.
    pub rcode: u8,
    /// Whether the signatures of all of it were checked (RFC 4035): AD is set for who asks with AD or DO (RFC 6840, §5.8).
    pub secure: bool,
    /// INFO-CODE of an extended error, where there is one.
    pub error: Option<u16>,
    /// How many records there are in the answer, authority and additional sections; none of them is OPT.
    pub counts: [u16; 3],
    /// The records.
    pub records: &'k [u8],
}

/// What TTLs are given out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ttl {
    /// Those of the records, less the seconds that have gone by since they came; 0 at least.
    Less(u32),
    /// This one, for all: the records are older than they may be (RFC 8767, §4), which the extended error "Stale Answer"
    /// says too (RFC 8914, §4.4).
    Stale(u32),
}

const TC: u8 = 0x02;
const AD: u8 = 0x20;
const STALE_ANSWER: u16 = 3;
/// Code and length of an option, and the code of the error in it.
const EDE_BYTES: usize = 6;

impl Kept<'_> {
    /// Writes the answer to `query`, of at most `limit` bytes, and returns its length. A longer one is cut off to nothing
    /// but the question, with TC (RFC 2181, §9). `None` where `out` has no room.
    ///
    /// The question is echoed byte for byte; AA=0, RA=1, RD and CD as asked; OPT if there was one.
    pub fn write(&self, query: &Query<'_>, ttl: Ttl, limit: usize, out: &mut [u8]) -> Option<usize> {
        let head = query.head();
        let error = self.error.or(matches!(ttl, Ttl::Stale(_)).then_some(STALE_ANSWER));
        let opt_bytes = match query.edns {
            Some(_) => OPT_BYTES + if error.is_some() { EDE_BYTES } else { 0 },
            None => 0,
        };
        let whole = head.len() + self.records.len() + opt_bytes;
        let (counts, records, truncated) = match whole <= limit {
            true => (self.counts, self.records, 0),
            false => ([0; 3], &[][..], TC),
        };
        let len = head.len() + records.len() + opt_bytes;
        let (message, records_end) = (out.get_mut(..len)?, head.len() + records.len());
        message[..head.len()].copy_from_slice(head);
        message[head.len()..records_end].copy_from_slice(records);

        let [flags_high, flags_low]: [u8; 2] = Bytes::get(message, 2);
        let wants_ad = flags_low & AD != 0 || query.edns.is_some_and(|edns| edns.dnssec_ok);
        let ad = if self.secure && wants_ad { AD } else { 0 };
        message
            .set(2, [0x80 | truncated | flags_high & 0x01, 0x80 | ad | flags_low & 0x10 | self.rcode & 0x0f]);
        let additionals = counts[2] + u16::from(query.edns.is_some());
        for (at, count) in [(6, counts[0]), (8, counts[1]), (10, additionals)] {
            message.set(at, count.to_be_bytes());
        }
        give_ttls(&mut message[..records_end], head.len(), counts, ttl)?;
        if let Some(edns) = query.edns {
            let options_bytes = (opt_bytes - OPT_BYTES) as u16;
            let [payload_high, payload_low] = edns.answer_payload_bytes().to_be_bytes();
            let [type_high, type_low] = TYPE_OPT.to_be_bytes();
            message.set(records_end, [0, type_high, type_low, payload_high, payload_low]);
            message.set(records_end + 5, [0, 0, u8::from(edns.dnssec_ok) << 7, 0]);
            message.set(records_end + 9, options_bytes.to_be_bytes());
            if let Some(error) = error {
                message.set(records_end + 11, EDE_OPTION.to_be_bytes());
                message.set(records_end + 13, [0, 2]);
                message.set(records_end + 15, error.to_be_bytes());
            }
        }
        Some(len)
    }
}

/// Sets the TTL of each record; `None` if they are not all there.
fn give_ttls(message: &mut [u8], mut at: usize, counts: [u16; 3], ttl: Ttl) -> Option<()> {
    for _ in 0..counts.iter().map(|&count| u32::from(count)).sum() {
        at = skip_name(message, at).ok()?;
        let own = u32::from_be_bytes(*message.get(at + 4..)?.first_chunk()?);
        let given = match ttl {
            Ttl::Less(seconds) => own.saturating_sub(seconds),
            Ttl::Stale(given) => given,
        };
        let data_bytes = u16::from_be_bytes(*message.get(at + 8..)?.first_chunk()?);
        message.set(at + 4, given.to_be_bytes());
        at += 10 + usize::from(data_bytes);
    }
    (at == message.len()).then_some(())
}

/// Where the records of a message begin that has one question with a name of so many bytes.
pub const fn records_begin(name_bytes: usize) -> usize {
    HEADER_BYTES + name_bytes + 4
}

/// The shortest TTL of a message's records, without OPT; `None` if there are none, or they are not all there.
pub fn least_ttl(message: &[u8]) -> Option<u32> {
    let count = |at: usize| u32::from(u16::from_be_bytes(Bytes::get(message, at)));
    let mut at = HEADER_BYTES;
    for _ in 0..count(4) {
        at = skip_name(message, at).ok()? + 4;
    }
    let mut least: Option<u32> = None;
    for _ in 0..count(6) + count(8) + count(10) {
        at = skip_name(message, at).ok()?;
        let [rtype_high, rtype_low, _, _, a, b, c, d, len_high, len_low] =
            *message.get(at..)?.first_chunk()?;
        if u16::from_be_bytes([rtype_high, rtype_low]) != TYPE_OPT {
            let ttl = u32::from_be_bytes([a, b, c, d]);
            least = Some(least.map_or(ttl, |least| least.min(ttl)));
        }
        at += 10 + usize::from(u16::from_be_bytes([len_high, len_low]));
    }
    least
}
