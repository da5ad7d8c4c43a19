//! The database of Pi-hole's FTL (its documentation, "Query database"): table or view `queries`.

use std::io;
use std::net::IpAddr;
use std::path::Path;

use jiff::Timestamp;
use rusqlite::{Connection, OpenFlags};

use super::{Counts, Noted, Observed, Question, name};

/// Query types by FTL's own numbers.
const TYPES: [&str; 17] = [
    "-", "A", "AAAA", "ANY", "SRV", "SOA", "PTR", "TXT", "NAPTR", "MX", "DS", "RRSIG", "DNSKEY", "NS", "-",
    "SVCB", "HTTPS",
];
/// Of all others the number is that of DNS and this.
const OTHER_TYPES: i64 = 100;

/// Reads all of it. A running FTL goes on to write meanwhile.
pub(super) fn read(file: &Path, each: &mut dyn FnMut(Observed)) -> io::Result<Counts> {
    let strange = |error: rusqlite::Error| io::Error::new(io::ErrorKind::InvalidData, error);
    let db = Connection::open_with_flags(file, OpenFlags::SQLITE_OPEN_READ_ONLY).map_err(strange)?;
    let mut rows = db
        .prepare(
            "SELECT CAST(timestamp AS REAL), type, status, domain, client FROM queries ORDER BY timestamp, id",
        )
        .map_err(strange)?;
    let mut rows = rows.query([]).map_err(strange)?;
    let (mut counts, mut number) = (Counts::default(), 0);
    while let Some(row) = rows.next().map_err(strange)? {
        number += 1;
        let time = row.get::<_, f64>(0).ok().and_then(time);
        let [rtype, status] = [1, 2].map(|at| row.get::<_, i64>(at).unwrap_or_default());
        let [domain, client] = [3, 4].map(|at| row.get::<_, String>(at).unwrap_or_default());
        // The client's name stands there where FTL was told to hide addresses.
        let (Some(time), Ok(client), Some(name)) = (time, client.parse::<IpAddr>(), name::read(&domain))
        else {
            counts.strange(number);
            continue;
        };
        let question = Question {
            name,
            rtype: type_of(rtype),
            channel: None,
            resolver: None,
            is_blocked: is_blocked(status),
            answers: Vec::new(),
        };
        counts.entries += 1;
        each(Observed { time, client, what: Noted::Asked(question) });
    }
    Ok(counts)
}

fn time(seconds: f64) -> Option<Timestamp> {
    Timestamp::from_microsecond((seconds * 1e6).round() as i64).ok()
}

fn type_of(number: i64) -> String {
    match usize::try_from(number).ok().and_then(|at| TYPES.get(at)) {
        Some(name) => (*name).to_owned(),
        None => match number - OTHER_TYPES {
            // RFC 3597 §5, for whatever has no other name here.
            other @ 1..=0xffff => format!("TYPE{other}"),
            _ => "-".to_owned(),
        },
    }
}

/// By FTL's list, by a pattern, or as denied; of the name or of a CNAME target; and as blocked by the server beyond.
const fn is_blocked(status: i64) -> bool {
    matches!(status, 1 | 4..=11 | 15 | 16 | 18)
}
