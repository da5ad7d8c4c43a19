//! Threads that give way to the one that writes the record, and to the planes.

use std::io;
use std::thread::JoinHandle;

/// How nice they are (setpriority(2)).
const NICE: i32 = 10;
/// How nice one is that gives way at once.
const NICEST: i32 = 19;
/// Has the calling thread give way from now on.
fn give_way() {
    // Of Linux each thread has a priority of its own. Without it the work is the same, and less polite.
    let _ = rustix::process::setpriority_process(Some(rustix::thread::gettid()), NICE);
}

/// Has the calling thread give way from now on, and run for a tenth of a millisecond at a time, where the system knows that
/// (Linux 6.12): who wakes to answer waits until the slice of whoever runs is over (`RUN_TO_PARITY`), which is milliseconds
/// otherwise, however nice he is.
pub fn give_way_at_once() {
    // sched_setattr(2): size, policy, flags, nice, priority, runtime, deadline, period. Of SCHED_OTHER, runtime is the slice.
    #[repr(C)]
    struct Attributes {
        size: u32,
        policy: u32,
        flags: u64,
        nice: i32,
        priority: u32,
        runtime_ns: u64,
        deadline_ns: u64,
        period_ns: u64,
    }
    let size = size_of::<Attributes>() as u32;
    let attributes = Attributes {
        size,
        policy: libc::SCHED_OTHER as u32,
        flags: 0,
        nice: NICEST,
        priority: 0,
        runtime_ns: 100_000,
        deadline_ns: 0,
        period_ns: 0,
    };
    #[allow(unsafe_code, reason = "no library has words for it")]
    // SAFETY: the system reads one structure, of the size that it says, which stands until the call returns.
    let done = unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const attributes, 0) };
    if done != 0 {
        give_way();
    }
}

/// Starts one.
///
/// # Errors
/// When the system has no room for a thread.
pub fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> io::Result<JoinHandle<()>> {
    std::thread::Builder::new().name(name.to_owned()).spawn(move || {
        give_way();
        work();
    })
}
