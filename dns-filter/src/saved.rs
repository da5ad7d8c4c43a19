//! Kept answers in a file, for the next start.
//!
//! A line that says what it is and when it was written, then for each answer, in network byte order: the name's length (2
//! bytes) and the name, QTYPE (2), flags (1: DO is 1, CD is 2, signatures are checked is 4), RCODE (1), the counts of records (3 times 2), the seconds
//! that it still holds (4), the length of the records (4) and the records, as they were given then, and a hash of all that (8).

use std::io::{self, Read, Write};

use hickory_proto::rr::RecordType;
use interdict_dns_wire::{Kept, Query, Ttl, records_begin};
use interdict_policy::Name;
use siphasher::sip::SipHasher24;

use crate::cache::{Key, Kind};

const MAGIC: &str = "interdict-cache-1";
/// What no name, and no answer that is kept, is longer than.
const NAME_LIMIT_BYTES: u16 = 255;
const RECORDS_LIMIT_BYTES: u32 = 65_535;

/// An answer on its way into a file, or out of one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Saved {
    pub(crate) key: Key,
    pub(crate) rcode: u8,
    pub(crate) secure: bool,
    pub(crate) counts: [u16; 3],
    pub(crate) holds_secs: u32,
    pub(crate) records: Vec<u8>,
}

impl Saved {
    fn bytes(&self) -> Vec<u8> {
        let Self { key, rcode, secure, counts, holds_secs, records } = self;
        let Kind { qtype, dnssec_ok, checking_disabled } = key.kind;
        let flags = u8::from(dnssec_ok) | u8::from(checking_disabled) << 1 | u8::from(*secure) << 2;
        [
            &(key.name.len() as u16).to_be_bytes()[..],
            &key.name,
            &qtype.to_be_bytes(),
            &[flags, *rcode],
            counts.map(u16::to_be_bytes).as_flattened(),
            &holds_secs.to_be_bytes(),
            &(records.len() as u32).to_be_bytes(),
            records,
        ]
        .concat()
    }

    /// The same after some seconds; `None` if it does not hold so long, or cannot be read.
    pub(crate) fn after(mut self, seconds: u32) -> Option<Self> {
        self.holds_secs = self.holds_secs.checked_sub(seconds).filter(|left| *left > 0)?;
        let asked = question(&self.key);
        let query = Query::read(&asked).ok()?;
        let kept = Kept { counts: self.counts, records: &self.records, ..Kept::default() };
        let mut out = vec![0; asked.len() + self.records.len()];
        let len = kept.write(&query, Ttl::Less(seconds), usize::MAX, &mut out)?;
        self.records = out.get(records_begin(self.key.name.len())..len)?.to_vec();
        Some(self)
    }
}

/// A message that asks for it.
pub(crate) fn question(key: &Key) -> Vec<u8> {
    [&[0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0][..], &key.name, &key.kind.qtype.to_be_bytes(), &[0, 1]].concat()
}

/// Writes answers as they are at `unix_secs`; `routes` stands for who was asked.
///
/// # Errors
/// What the system says.
pub(crate) fn write(
    to: &mut impl Write,
    unix_secs: u64,
    routes: u64,
    all: impl Iterator<Item = Saved>,
) -> io::Result<usize> {
    writeln!(to, "{MAGIC} {unix_secs} {routes:016x}")?;
    let mut written = 0;
    for saved in all {
        let bytes = saved.bytes();
        to.write_all(&bytes)?;
        to.write_all(&sum(&bytes).to_be_bytes())?;
        written += 1;
    }
    Ok(written)
}

/// Finds damage, not malice: who can write the file can write everything.
fn sum(bytes: &[u8]) -> u64 {
    SipHasher24::new().hash(bytes)
}

/// Reads the answers that still hold at `unix_secs`, up to the first that is damaged.
///
/// # Errors
/// It is no such file, or cannot be read.
pub(crate) fn read(from: &mut impl Read, unix_secs: u64, routes: u64) -> io::Result<Vec<Saved>> {
    let mut line = Vec::new();
    while line.len() < 64 && line.last() != Some(&b'\n') {
        let mut byte = [0];
        from.read_exact(&mut byte)?;
        line.extend(byte);
    }
    let written = std::str::from_utf8(&line).ok().and_then(|line| line.trim_end().strip_prefix(MAGIC));
    let told = written.and_then(|told| {
        let (time, asked) = told.trim().split_once(' ')?;
        Some((time.parse::<u64>().ok()?, u64::from_str_radix(asked, 16).ok()?))
    });
    let none = || io::Error::new(io::ErrorKind::InvalidData, "it holds no kept answers");
    let (written, asked) = told.ok_or_else(none)?;
    // Others are asked now, who may say something else.
    if asked != routes {
        return Ok(Vec::new());
    }
    // A clock that was set back says nothing of how long ago it was.
    let Some(gone) = unix_secs.checked_sub(written) else { return Ok(Vec::new()) };
    let gone = u32::try_from(gone).unwrap_or(u32::MAX);
    let mut all = Vec::new();
    while let Ok(saved) = read_one(from) {
        all.extend(saved.after(gone));
    }
    Ok(all)
}

fn read_one(from: &mut impl Read) -> io::Result<Saved> {
    let damaged = || io::Error::from(io::ErrorKind::InvalidData);
    let name_bytes = u16::from_be_bytes(take(from)?);
    if name_bytes > NAME_LIMIT_BYTES {
        return Err(damaged());
    }
    let mut name = vec![0; name_bytes.into()];
    from.read_exact(&mut name)?;
    Name::from_wire(&name).ok_or_else(damaged)?;
    let qtype = u16::from_be_bytes(take(from)?);
    let [flags, rcode] = take(from)?;
    let [a, b, c, d, e, f] = take(from)?;
    let counts = [[a, b], [c, d], [e, f]].map(u16::from_be_bytes);
    let holds_secs = u32::from_be_bytes(take(from)?);
    let records_bytes = u32::from_be_bytes(take(from)?);
    if records_bytes > RECORDS_LIMIT_BYTES || rcode > 15 || qtype == u16::from(RecordType::OPT) {
        return Err(damaged());
    }
    let mut records = vec![0; records_bytes as usize];
    from.read_exact(&mut records)?;
    let kind = Kind { qtype, dnssec_ok: flags & 1 != 0, checking_disabled: flags & 2 != 0 };
    let secure = flags & 4 != 0;
    let saved = Saved { key: Key { kind, name: name.into() }, rcode, secure, counts, holds_secs, records };
    match u64::from_be_bytes(take(from)?) == sum(&saved.bytes()) {
        true => Ok(saved),
        false => Err(damaged()),
    }
}

fn take<const N: usize>(from: &mut impl Read) -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    from.read_exact(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn saved() -> Saved {
        let kind = Kind { qtype: 1, dnssec_ok: true, checking_disabled: false };
        let key = Key { kind, name: b"\x03www\x04test\0"[..].into() };
        let records = b"\xc0\x0c\0\x01\0\x01\0\0\x01\x2c\0\x04\xc0\0\x02\x07".to_vec();
        Saved { key, rcode: 0, secure: true, counts: [1, 0, 0], holds_secs: 300, records }
    }

    fn written(all: &[Saved], unix_secs: u64) -> Vec<u8> {
        let mut file = Vec::new();
        assert_eq!(write(&mut file, unix_secs, 7, all.iter().cloned()).unwrap(), all.len());
        file
    }

    #[test]
    fn what_was_written_is_read_and_is_older_by_then() {
        let file = written(&[saved(), saved()], 1000);
        assert_eq!(read(&mut &file[..], 1000, 7).unwrap(), [saved(), saved()]);
        assert_eq!(read(&mut &file[..], 1000, 8).unwrap(), [], "others are asked now");
        let later = read(&mut &file[..], 1100, 7).unwrap();
        assert_eq!((later.len(), later[0].holds_secs), (2, 200));
        assert_eq!(later[0].records[6..10], 200_u32.to_be_bytes(), "its TTL");
        for gone in [1300, 900] {
            assert_eq!(read(&mut &file[..], gone, 7).unwrap(), [], "at {gone}");
        }
        assert!(read(&mut &b"something else"[..], 1000, 7).is_err());
        assert!(read(&mut &[][..], 1000, 7).is_err());
    }

    proptest! {
        #[test]
        fn a_damaged_file_does_no_harm(at in 0..200_usize, byte: u8, end in 0..200_usize) {
            let mut file = written(&[saved(), saved()], 1000);
            let len = file.len();
            file[at % len] = byte;
            file.truncate(end);
            // What is read was written, if the time was.
            let is_whole = file.starts_with(b"interdict-cache-1 1000 0000000000000007\n");
            for read in read(&mut &file[..], 1000, 7).unwrap_or_default().into_iter().filter(|_| is_whole) {
                prop_assert_eq!(read, saved());
            }
        }
    }
}
