//! Work that takes long beside threads that answer within microseconds.

use std::io::{self, Read, Write};
use std::panic::resume_unwind;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;
use std::time::Duration;

use interdict_audit::background::{Runs, schedule};
use rustix::process::Pid;
use rustix::thread::gettid;

use crate::privileges;

/// How often it is looked how the work gets on, and what part of that time it must have had.
const LOOK_EVERY: Duration = Duration::from_millis(100);
const LEAST_SHARE: u32 = 5;

/// Does some work in a thread that runs only where nobody else would (`SCHED_IDLE`), and waits for it: any other way a
/// thread that wakes to answer waits for milliseconds, until the work's slice of time is over (`RUN_TO_PARITY` of Linux's
/// scheduler). On a machine that leaves it no time, the work is done like any other.
pub(crate) fn aside<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    let may_give_way = privileges::may_schedule_usually();
    thread::scope(|scope| {
        let (told, heard) = channel();
        let worker = scope.spawn(move || {
            let thread = gettid();
            let gives_way = may_give_way && schedule(thread, Runs::WhenIdle);
            // Nobody listens where the work ended in a fault.
            let _ = told.send(gives_way.then_some(thread));
            let done = work();
            drop(told);
            done
        });
        if let Ok(Some(thread)) = heard.recv() {
            let mut ran = Duration::ZERO;
            while heard.recv_timeout(LOOK_EVERY) == Err(RecvTimeoutError::Timeout) {
                let now = time_run(thread);
                if now.saturating_sub(ran) < LOOK_EVERY / LEAST_SHARE {
                    schedule(thread, Runs::Usually);
                    break;
                }
                ran = now;
            }
        }
        worker.join().unwrap_or_else(|fault| resume_unwind(fault))
    })
}

/// How long a thread of this process has run.
fn time_run(thread: Pid) -> Duration {
    // Documentation/scheduler/sched-stats.rst: nanoseconds on a CPU, and two more numbers.
    let path = format!("/proc/self/task/{}/schedstat", thread.as_raw_pid());
    let stat = std::fs::read_to_string(path).unwrap_or_default();
    stat.split(' ').next().and_then(|ns| ns.parse().ok()).map_or(Duration::ZERO, Duration::from_nanos)
}

/// How much of a file is read or written in one call: while it copies, Linux may not change threads before its next tick,
/// some milliseconds later.
const PART_BYTES: usize = 64 << 10;

/// Writes to a file in parts.
///
/// # Errors
/// What the system says.
pub(crate) fn write_in_parts(to: &mut impl Write, bytes: &[u8]) -> io::Result<()> {
    bytes.chunks(PART_BYTES).try_for_each(|part| to.write_all(part))
}

/// Reads a file in parts, to its end or so many bytes.
///
/// # Errors
/// What the system says.
pub(crate) fn read_in_parts(from: &mut impl Read, limit: usize) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    while bytes.len() < limit {
        let more = from.take(PART_BYTES.min(limit - bytes.len()) as u64).read_to_end(&mut bytes)?;
        if more == 0 {
            break;
        }
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_is_done_and_its_fault_is_the_callers() {
        let mut state = 1;
        assert_eq!(
            aside(|| {
                state = 2;
                7
            }),
            7
        );
        assert_eq!(state, 2);
        let fault = std::panic::catch_unwind(|| aside(|| -> u8 { panic!("a fault") }));
        assert_eq!(fault.unwrap_err().downcast_ref::<&str>(), Some(&"a fault"));
    }

    #[test]
    fn parts_make_the_whole() {
        for length in [0, 1, PART_BYTES, PART_BYTES + 1, 3 * PART_BYTES] {
            let bytes: Vec<u8> = (0..length).map(|at| (at % 251) as u8).collect();
            let mut written = Vec::new();
            write_in_parts(&mut written, &bytes).unwrap();
            assert_eq!(written, bytes);
            assert_eq!(read_in_parts(&mut &bytes[..], usize::MAX).unwrap(), bytes);
            assert_eq!(read_in_parts(&mut &bytes[..], 1000).unwrap(), bytes[..length.min(1000)]);
        }
    }

    /// As the kernel sees it.
    #[test]
    fn it_runs_when_nobody_else_would_or_like_all_others() {
        let policy = || {
            let stat = std::fs::read_to_string("/proc/thread-self/stat").unwrap();
            // proc(5): field 41 is the policy.
            stat.rsplit(") ").next().unwrap().split(' ').nth(38).unwrap().to_owned()
        };
        const SCHED_IDLE: &str = "5";
        privileges::allow_usual_scheduling();
        // Without the right to go back, it does not begin.
        assert_eq!(aside(policy) == SCHED_IDLE, privileges::may_schedule_usually());
        assert_ne!(policy(), SCHED_IDLE);
        // Work that waits gets no time either, and is scheduled like any other then.
        let late = aside(|| {
            thread::sleep(4 * LOOK_EVERY);
            policy()
        });
        assert_ne!(late, SCHED_IDLE);
    }
}
