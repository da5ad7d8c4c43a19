//! From the kernel's clock to the wall clock.

use std::time::{Duration, SystemTime};

use crate::system::boot_time_ns;

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
