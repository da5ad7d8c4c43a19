//! From the kernel's ticks to its clock, and from that to the wall clock.

use std::time::{Duration, SystemTime};

use aya::{Ebpf, TestRunOptions, programs::TestRun as _};

use crate::{
    Error, object,
    prober::Entry,
    system::{boot_time_ns, tick_ns},
};

/// How the kernel's ticks stand to its clock that stands still while the machine sleeps: by both, a tick is counted when that
/// clock has gone on by its length, and at no other time.
#[derive(Clone, Copy)]
pub(crate) struct Ticks {
    /// From one to the next, in nanoseconds.
    pub(crate) length_ns: u64,
    /// Where that of number 0 stands, in wrapping arithmetic.
    pub(crate) first_ns: u64,
}

impl Ticks {
    /// Asks the kernel.
    ///
    /// # Errors
    ///
    /// It does not run the program that tells.
    pub(crate) fn of_kernel(object: &Ebpf) -> Result<Self, Error> {
        /// Between the counting of a tick and the setting of the clock, the program finds that the tick came too early.
        const READINGS: u32 = 3;
        let length_ns = tick_ns();
        let mut first_ns: Option<u64> = None;
        for _ in 0..READINGS {
            let [number, time_ns] = last_tick(object)?;
            let reading = time_ns.wrapping_sub(number.wrapping_mul(length_ns));
            let is_later = first_ns.is_none_or(|first_ns| (reading.wrapping_sub(first_ns) as i64) > 0);
            first_ns = if is_later { Some(reading) } else { first_ns };
        }
        Ok(Self { length_ns, first_ns: first_ns.unwrap_or_default() })
    }
}

/// The number of the last tick, and when it was.
fn last_tick(object: &Ebpf) -> Result<[u64; 2], Error> {
    let (frame, mut out) = ([0; 64], [0; 64]);
    let options = TestRunOptions { data_in: Some(&frame), data_out: Some(&mut out), ..Default::default() };
    object::program(object, Entry::Clock)
        .test_run(options)
        .map_err(|source| Error::Program { name: Entry::Clock.program_name(), source })?;
    let word = |at: usize| out[at..].first_chunk().map_or(0, |bytes| u64::from_ne_bytes(*bytes));
    Ok([word(0), word(8)])
}

/// A moment, by both clocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moment {
    /// Nanoseconds since boot. Never goes backwards.
    pub boot_ns: u64,
    /// The wall clock, as it stood when the event was read.
    pub wall: SystemTime,
}

/// How the two clocks stand to each other now.
pub(crate) struct Clock {
    boot_ns: u64,
    wall: SystemTime,
}

impl Clock {
    pub(crate) fn now() -> Self {
        Self { boot_ns: boot_time_ns(), wall: SystemTime::now() }
    }

    pub(crate) const fn boot_ns(&self) -> u64 {
        self.boot_ns
    }

    pub(crate) fn moment(&self, boot_ns: u64) -> Moment {
        let wall = if boot_ns <= self.boot_ns {
            self.wall - Duration::from_nanos(self.boot_ns - boot_ns)
        } else {
            self.wall + Duration::from_nanos(boot_ns - self.boot_ns)
        };
        Moment { boot_ns, wall }
    }
}
