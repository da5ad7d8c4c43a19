//! Times as logs write them.

use jiff::Timestamp;
use jiff::civil::{Date, DateTime, Time};
use jiff::tz::TimeZone;

const MONTHS: [&str; 12] =
    ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
/// A log may be written by a clock that is ahead of the file system's by so much.
const AHEAD_SECS: i64 = 86_400;

/// Whoever reads them knows where and when they were written.
pub(super) struct Stamps {
    zone: TimeZone,
    /// When the file was last written.
    latest: Timestamp,
}

impl Stamps {
    pub(super) fn new(zone: TimeZone, latest: Timestamp) -> Self {
        Self { zone, latest }
    }

    /// The time at the beginning of a line, in any of the ways of syslog, Unbound and BIND.
    pub(super) fn leading(&self, line: &str) -> Option<Timestamp> {
        let line = line.strip_prefix('[').unwrap_or(line);
        let (first, rest) = line.split_once([' ', ']'])?;
        seconds(first)
            .or_else(|| first.parse().ok())
            .or_else(|| self.local(first.parse().ok().filter(|_| first.contains('T'))?))
            .or_else(|| self.of_day(first, rest))
            .or_else(|| self.of_bind(first, rest))
            .or_else(|| self.of_syslog(first, rest))
    }

    /// `2026-11-26` and `10:00:00`.
    fn of_day(&self, day: &str, rest: &str) -> Option<Timestamp> {
        let day: Date = day.parse().ok()?;
        self.local(day.to_datetime(rest.split(' ').next()?.parse().ok()?))
    }

    /// `26-Nov-2026` and `10:00:00.123`.
    fn of_bind(&self, day: &str, rest: &str) -> Option<Timestamp> {
        let mut parts = day.split('-');
        let (number, month, year) = (parts.next()?, parts.next()?, parts.next()?);
        let date = Date::new(year.parse().ok()?, month_of(month)?, number.parse().ok()?).ok()?;
        self.local(date.to_datetime(rest.split(' ').next()?.parse().ok()?))
    }

    /// `Nov` and ` 6 10:00:00` or `26 10:00:00`, of no year (RFC 3164 §4.1.2).
    fn of_syslog(&self, month: &str, rest: &str) -> Option<Timestamp> {
        let mut words = rest.split_ascii_whitespace();
        let (month, day): (i8, i8) = (month_of(month)?, words.next()?.parse().ok()?);
        let time: Time = words.next()?.parse().ok()?;
        let this_year = self.latest.to_zoned(self.zone.clone()).year();
        // Of 29 February the last may be years ago.
        (0..8).find_map(|back| {
            let date = Date::new(this_year + 1 - back, month, day).ok()?;
            let at = self.local(date.to_datetime(time))?;
            (at.as_second() <= self.latest.as_second() + AHEAD_SECS).then_some(at)
        })
    }

    fn local(&self, time: DateTime) -> Option<Timestamp> {
        self.zone.to_ambiguous_timestamp(time).compatible().ok()
    }
}

/// Seconds since 1970, with a fraction or without.
pub(super) fn seconds(text: &str) -> Option<Timestamp> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, "0"));
    if !fraction.bytes().all(|digit| digit.is_ascii_digit()) {
        return None;
    }
    let nanos: i64 = format!("{fraction:0<9.9}").parse().ok()?;
    Timestamp::new(whole.parse().ok()?, i32::try_from(nanos).ok()?).ok()
}

fn month_of(text: &str) -> Option<i8> {
    let at = MONTHS.iter().position(|month| month.eq_ignore_ascii_case(text))?;
    i8::try_from(at + 1).ok()
}
