//! Work that takes long beside threads that answer within microseconds.

use std::io::{self, Read, Write};
use std::panic::resume_unwind;
use std::thread;

use interdict_audit::background;

/// Does some work in a thread that gives way to all that answer, and waits for it.
pub(crate) fn aside<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    thread::scope(|scope| {
        let worker = scope.spawn(|| {
            background::give_way_at_once();
            work()
        });
        worker.join().unwrap_or_else(|fault| resume_unwind(fault))
    })
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
    fn it_is_nicer_than_who_waits_for_it() {
        let nice = || {
            let stat = std::fs::read_to_string("/proc/thread-self/stat").unwrap();
            // proc(5): field 19.
            stat.rsplit(") ").next().unwrap().split(' ').nth(16).unwrap().parse::<i32>().unwrap()
        };
        let (before, aside) = (nice(), aside(nice));
        assert!(aside > before, "{aside} beside {before}");
        assert_eq!(nice(), before);
    }
}
