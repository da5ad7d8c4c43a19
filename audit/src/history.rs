//! What other programs noted before there was a record: their query logs and captures, read as questions and connections of
//! clients. Nothing here knows a policy: whoever reads decides what concerns it, and keeps nothing else.
//!
//! Each file below reads one program's format. Bytes from outside are never trusted: a line that cannot be read is counted, and
//! the next one is read.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::net::IpAddr;
use std::path::Path;
use std::str::FromStr;

use interdict_policy::DomainName;
use jiff::Timestamp;
use jiff::tz::TimeZone;

use crate::entry::Depth;

mod adguard;
mod bind;
mod contacts;
mod dnstap;
mod message;
mod name;
mod pairs;
mod pcap;
mod pihole;
mod stamp;
mod unbound;
mod zeek;

pub use contacts::{Contact, Contacts, Decided, Opened, TooMany};
use pairs::Pairs;
use stamp::Stamps;

/// A longer line of a log is none.
const LINE_LIMIT_BYTES: u64 = 1 << 20;
/// Of a file's beginning, what tells its format.
const HEAD_BYTES: usize = 1 << 16;

/// Whose notes they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The database of Pi-hole's FTL, `pihole-FTL.db`.
    PiHole,
    /// AdGuard Home's `querylog.json`.
    AdGuard,
    /// Unbound's log, with `log-queries` or `log-replies`.
    Unbound,
    /// BIND's category `queries`.
    Bind,
    /// Zeek's `dns.log` and `conn.log`, in columns or as JSON.
    Zeek,
    /// A dnstap file (Frame Streams), as servers and fstrm write it.
    Dnstap,
    /// A capture of packets, pcap or pcapng.
    Pcap,
}

impl Origin {
    /// All of them.
    pub const ALL: [Self; 7] =
        [Self::PiHole, Self::AdGuard, Self::Unbound, Self::Bind, Self::Zeek, Self::Dnstap, Self::Pcap];

    /// Its name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::PiHole => "pihole",
            Self::AdGuard => "adguard",
            Self::Unbound => "unbound",
            Self::Bind => "bind",
            Self::Zeek => "zeek",
            Self::Dnstap => "dnstap",
            Self::Pcap => "pcap",
        }
    }

    /// What a file is, by its beginning; `None` for what nobody here reads.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn of(file: &Path) -> io::Result<Option<Self>> {
        let mut head = Vec::new();
        File::open(file)?.take(HEAD_BYTES as u64).read_to_end(&mut head)?;
        Ok(Self::of_head(&head))
    }

    fn of_head(head: &[u8]) -> Option<Self> {
        if head.starts_with(b"SQLite format 3\0") {
            return Some(Self::PiHole);
        }
        if pcap::is_one(head) {
            return Some(Self::Pcap);
        }
        if dnstap::is_one(head) {
            return Some(Self::Dnstap);
        }
        String::from_utf8_lossy(head).lines().find_map(|line| match line {
            _ if line.starts_with("#separator") || line.starts_with("#fields") => Some(Self::Zeek),
            _ if line.starts_with('{') && line.contains("\"QH\"") => Some(Self::AdGuard),
            _ if line.starts_with('{') && line.contains("\"id.orig_h\"") => Some(Self::Zeek),
            _ if line.contains("client ")
                && [": query: ", ": rpz "].iter().any(|word| line.contains(word)) =>
            {
                Some(Self::Bind)
            }
            _ if line.contains("unbound") && line.contains("] ") => Some(Self::Unbound),
            _ => None,
        })
    }
}

impl FromStr for Origin {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = Self::ALL.into_iter().find(|origin| origin.as_str() == text);
        found.ok_or_else(|| format!("{} are read", Self::ALL.map(Self::as_str).join(", ")))
    }
}

/// What was noted of a client.
#[derive(Clone, Debug, PartialEq)]
pub struct Observed {
    /// When.
    pub time: Timestamp,
    /// Who.
    pub client: IpAddr,
    /// What.
    pub what: Noted,
}

/// What a client did.
#[derive(Clone, Debug, PartialEq)]
pub enum Noted {
    /// It asked.
    Asked(Question),
    /// It sent packets.
    Sent(Flow),
}

/// A question of DNS.
#[derive(Clone, Debug, PartialEq)]
pub struct Question {
    /// The name asked for.
    pub name: DomainName,
    /// The query type, such as `A`.
    pub rtype: String,
    /// How it came, in the record's words: `udp`, `tcp`, `dot`, `doh`, `doq`; `None` where nobody noted that.
    pub channel: Option<&'static str>,
    /// The server that was asked, where that was noted for each question.
    pub resolver: Option<IpAddr>,
    /// That server did not answer as the name's owner would have: it was blocked there.
    pub is_blocked: bool,
    /// What it was answered, where that was noted.
    pub answers: Vec<Answer>,
}

/// Where an answer leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The target of a CNAME record.
    Name(DomainName),
    /// An address, for so many seconds.
    Address(IpAddr, u32),
}

/// Packets to a service.
#[derive(Clone, Debug, PartialEq)]
pub struct Flow {
    /// The address.
    pub address: IpAddr,
    /// The port there; `None` for protocols without.
    pub port: Option<u16>,
    /// `tcp`, `udp`, or the IANA number.
    pub protocol: String,
    /// The client's packets; 1 where nobody counted.
    pub packets: u64,
    /// When the last came, of either side.
    pub last: Timestamp,
    /// How far it got.
    pub depth: Depth,
}

/// What was read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Questions and connections.
    pub entries: u64,
    /// Entries that could not be read.
    pub strange: u64,
    /// Which was the first of them: the line, the row or the packet, counted from 1.
    pub first_strange: Option<u64>,
}

impl Counts {
    fn strange(&mut self, number: u64) {
        self.strange += 1;
        self.first_strange.get_or_insert(number);
    }
}

/// Reads a file, and hands on what it says, about in the order in which it happened. Times without a zone are of `zone`; such
/// without a year are the latest that are not behind the file's own time.
///
/// # Errors
/// When the file cannot be read, or is not what it is taken for. What came before that was handed on.
pub fn read(
    origin: Origin,
    file: &Path,
    zone: TimeZone,
    each: &mut dyn FnMut(Observed),
) -> io::Result<Counts> {
    if origin == Origin::PiHole {
        return pihole::read(file, each);
    }
    let opened = File::open(file)?;
    let latest = opened.metadata()?.modified().ok().and_then(|time| Timestamp::try_from(time).ok());
    let mut bytes = BufReader::with_capacity(1 << 16, opened);
    read_bytes(origin, &mut bytes, (latest.unwrap_or(Timestamp::now()), zone), each)
}

/// The same, of bytes that were last written at a time; not of a database.
///
/// # Errors
/// When they cannot be read, or are not what they are taken for.
pub fn read_bytes(
    origin: Origin,
    bytes: &mut (dyn BufRead + Send),
    (latest, zone): (Timestamp, TimeZone),
    each: &mut dyn FnMut(Observed),
) -> io::Result<Counts> {
    let stamps = Stamps::new(zone, latest);
    let mut pairs = Pairs::new(each);
    let counts = match origin {
        Origin::PiHole => Err(io::Error::new(io::ErrorKind::Unsupported, "a database is a file of its own")),
        Origin::AdGuard => lines(bytes, &mut adguard::Lines, &mut pairs),
        Origin::Unbound => lines(bytes, &mut unbound::Lines { stamps }, &mut pairs),
        Origin::Bind => lines(bytes, &mut bind::Lines { stamps }, &mut pairs),
        Origin::Zeek => lines(bytes, &mut zeek::Lines::default(), &mut pairs),
        Origin::Dnstap => dnstap::read(bytes, &mut pairs),
        Origin::Pcap => pcap::read(bytes, &mut pairs),
    };
    pairs.finish();
    counts
}

/// What a line of a log is.
enum Line {
    /// One entry, which was handed on.
    Entry,
    /// Something else.
    Other,
    /// An entry that cannot be read.
    Strange,
}

/// Who reads a log line by line.
trait Lines {
    fn line(&mut self, line: &str, pairs: &mut Pairs<'_>) -> Line;
}

fn lines(bytes: &mut dyn BufRead, reader: &mut dyn Lines, pairs: &mut Pairs<'_>) -> io::Result<Counts> {
    let (mut counts, mut line, mut number) = (Counts::default(), Vec::new(), 0);
    loop {
        line.clear();
        (&mut *bytes).take(LINE_LIMIT_BYTES).read_until(b'\n', &mut line)?;
        if line.is_empty() {
            return Ok(counts);
        }
        number += 1;
        if line.len() as u64 == LINE_LIMIT_BYTES && line.last() != Some(&b'\n') {
            counts.strange(number);
            bytes.skip_until(b'\n')?;
            continue;
        }
        match reader.line(String::from_utf8_lossy(&line).trim_end(), pairs) {
            Line::Entry => counts.entries += 1,
            Line::Other => {}
            Line::Strange => counts.strange(number),
        }
    }
}

#[cfg(test)]
mod tests;
