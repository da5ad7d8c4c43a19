//! Threads that give way to the one that writes the record, and to the planes.

use std::io;
use std::thread::JoinHandle;

use rustix::process::Pid;

/// How nice they are (setpriority(2)).
const NICE: i32 = 10;
/// Has the calling thread give way from now on.
fn give_way() {
    // Of Linux each thread has a priority of its own. Without it the work is the same, and less polite.
    let _ = rustix::process::setpriority_process(Some(rustix::thread::gettid()), NICE);
}

/// When a thread runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Runs {
    /// Like any other (`SCHED_OTHER`).
    Usually,
    /// Where nobody else would (`SCHED_IDLE`): who wakes does not wait until a slice of its time is over, as it does even
    /// for the nicest of others.
    WhenIdle,
}

/// Says when a thread of this process runs, and whether the system allows that: that one runs usually again takes
/// `RLIMIT_NICE` or privileges.
pub fn schedule(thread: Pid, runs: Runs) -> bool {
    let policy = match runs {
        Runs::Usually => libc::SCHED_OTHER,
        Runs::WhenIdle => libc::SCHED_IDLE,
    };
    let parameters = libc::sched_param { sched_priority: 0 };
    #[allow(
        unsafe_code,
        reason = "no library has words for it that hold for other threads than the one that calls"
    )]
    // SAFETY: the system reads one structure, which stands until the call returns.
    let done = unsafe { libc::sched_setscheduler(thread.as_raw_pid(), policy, &raw const parameters) };
    done == 0
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
