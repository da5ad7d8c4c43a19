//! Threads that give way to the one that writes the record, and to the planes.

use std::io;
use std::thread::JoinHandle;

/// How nice they are (setpriority(2)).
const NICE: i32 = 10;

/// Starts one.
pub(crate) fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> io::Result<JoinHandle<()>> {
    std::thread::Builder::new().name(name.to_owned()).spawn(move || {
        // Of Linux each thread has a priority of its own. Without it the work is the same, and less polite.
        let _ = rustix::process::setpriority_process(Some(rustix::thread::gettid()), NICE);
        work();
    })
}
