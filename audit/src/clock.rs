//! When something happened, and whether this machine's clock can be believed.

use std::time::{Duration, Instant, SystemTime};

/// How long an answer of the kernel about its clock is believed.
const STATE_HOLDS: Duration = Duration::from_secs(60);

/// RFC 3339 in UTC with microseconds.
pub(crate) fn shown(time: SystemTime) -> String {
    let time = jiff::Timestamp::try_from(time).unwrap_or(jiff::Timestamp::UNIX_EPOCH);
    format!("{time:.6}")
}

/// The UTC day, `YYYY-MM-DD`.
pub(crate) fn day(time: SystemTime) -> String {
    shown(time)[..10].to_owned()
}

/// Nanoseconds since this machine started, time asleep included.
pub(crate) fn since_boot_ns() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    u64::try_from(now.tv_sec).unwrap_or(0) * 1_000_000_000 + u64::try_from(now.tv_nsec).unwrap_or(0)
}

/// Whether the kernel holds its clock to be synchronized.
pub fn is_clock_synchronized() -> bool {
    sys::is_synchronized()
}

/// How the clock stands to the time since boot, which nobody can set.
pub(crate) struct Offset {
    ns: i128,
}

impl Offset {
    pub(crate) fn now() -> Self {
        let since_epoch = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        Self { ns: since_epoch.as_nanos() as i128 - i128::from(since_boot_ns()) }
    }

    /// By how many seconds the clock was set since the last look, if by more than it may differ.
    pub(crate) fn jumped(&mut self, may_differ: Duration) -> Option<f64> {
        let now = Self::now();
        let by_ns = now.ns - self.ns;
        self.ns = now.ns;
        (by_ns.unsigned_abs() > may_differ.as_nanos()).then_some(by_ns as f64 / 1e9)
    }
}

/// Whether the kernel holds its clock to be synchronized, asked at most once a minute.
#[derive(Default)]
pub(crate) struct State {
    known: Option<(Instant, &'static str)>,
}

impl State {
    /// `synchronized` or `unsynchronized`.
    pub(crate) fn word(&mut self) -> &'static str {
        match self.known {
            Some((asked, word)) if asked.elapsed() < STATE_HOLDS => word,
            _ => {
                let word = if sys::is_synchronized() { "synchronized" } else { "unsynchronized" };
                self.known = Some((Instant::now(), word));
                word
            }
        }
    }
}

/// The one system call that rustix does not have.
#[expect(unsafe_code, reason = "adjtimex is a plain C call")]
mod sys {
    /// What adjtimex(2) says. A kernel that does not answer gives no reason to believe its clock.
    pub(super) fn is_synchronized() -> bool {
        // SAFETY: `timex` holds only integers, for which zero is a value.
        let mut timex: libc::timex = unsafe { std::mem::zeroed() };
        // SAFETY: the kernel writes one `timex`, which outlives the call; modes is 0, so nothing is set.
        let state = unsafe { libc::adjtimex(&raw mut timex) };
        state >= 0 && state != libc::TIME_ERROR && timex.status & libc::STA_UNSYNC == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn times_are_utc_with_microseconds() {
        let time = SystemTime::UNIX_EPOCH + Duration::from_micros(1_795_478_700_123_456);
        assert_eq!(shown(time), "2026-11-24T00:05:00.123456Z");
        assert_eq!(day(time), "2026-11-24");
        assert_eq!(shown(SystemTime::UNIX_EPOCH), "1970-01-01T00:00:00.000000Z");
    }
}
