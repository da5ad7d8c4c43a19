//! Network namespaces of our own, in which programs are attached and real packets sent.

use std::{
    fs::File,
    io,
    os::fd::AsRawFd as _,
    path::PathBuf,
    process::{self, Command},
    sync::atomic::{AtomicU32, Ordering},
    thread,
};

use interdict_ebpf_loader::DEFAULT_PIN;

/// Two namespaces, joined by a pair of interfaces: `in` in the one that is filtered, `out` in the other.
///
/// The filtered one has 192.0.2.1, 198.51.100.1 and 2001:db8::1; the other 192.0.2.2, 203.0.113.2 and 2001:db8::2.
pub(crate) struct Pair {
    pub(crate) inside: Namespace,
    pub(crate) outside: Namespace,
}

impl Pair {
    pub(crate) fn new() -> Self {
        let (inside, outside) = (Namespace::new(), Namespace::new());
        ip(&format!("link add in netns {} type veth peer name out netns {}", inside.name, outside.name));
        for (namespace, interface, addresses) in [
            (&inside, "in", ["192.0.2.1/24", "198.51.100.1/32", "2001:db8::1/64"]),
            (&outside, "out", ["192.0.2.2/24", "203.0.113.2/32", "2001:db8::2/64"]),
        ] {
            for address in addresses {
                // Without duplicate address detection the address can be used at once.
                let nodad = if address.contains(':') { "nodad" } else { "" };
                namespace.ip(&format!("addr add {address} dev {interface} {nodad}"));
            }
            namespace.ip(&format!("link set {interface} mtu 9000 up"));
            namespace.ip("link set lo up");
        }
        outside.ip("route add 198.51.100.1 via 192.0.2.1");
        inside.ip("route add 203.0.113.2 via 192.0.2.2");
        Self { inside, outside }
    }
}

/// A network namespace that goes when it is dropped.
pub(crate) struct Namespace {
    name: String,
}

impl Namespace {
    pub(crate) fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("k{}-{}", process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        ip(&format!("netns add {name}"));
        Self { name }
    }

    /// Runs `ip` in the namespace.
    pub(crate) fn ip(&self, arguments: &str) {
        ip(&format!("-n {} {arguments}", self.name));
    }

    /// Runs something in the namespace, on a thread of its own, and waits for it.
    ///
    /// The thread sees the same files as everyone, a bpffs among them, unlike in `ip netns exec`.
    pub(crate) fn run<T: Send>(&self, body: impl FnOnce() -> T + Send) -> T {
        let enter = || {
            let namespace = File::open(format!("/run/netns/{}", self.name)).unwrap();
            // SAFETY: the call changes the namespace of this thread and touches no memory.
            let result = unsafe { libc::setns(namespace.as_raw_fd(), libc::CLONE_NEWNET) };
            assert_eq!(result, 0, "{}", io::Error::last_os_error());
            body()
        };
        thread::scope(|scope| match scope.spawn(enter).join() {
            Ok(value) => value,
            Err(panic) => std::panic::resume_unwind(panic),
        })
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "del", &self.name]).status();
    }
}

/// Mounts a bpffs that only this thread sees, and the processes it starts; it goes with the thread. Returns the folder
/// for pins in it.
pub(crate) fn private_bpffs() -> PathBuf {
    // SAFETY: the calls change the mounts of this thread; the strings end in a zero byte.
    unsafe {
        assert_eq!(libc::unshare(libc::CLONE_NEWNS), 0, "{}", io::Error::last_os_error());
        let private = libc::MS_REC | libc::MS_PRIVATE;
        let none = std::ptr::null();
        assert_eq!(
            libc::mount(none, c"/".as_ptr(), none, private, none.cast()),
            0,
            "{}",
            io::Error::last_os_error()
        );
        let (bpf, folder) = (c"bpf".as_ptr(), c"/sys/fs/bpf".as_ptr());
        assert_eq!(libc::mount(bpf, folder, bpf, 0, none.cast()), 0, "{}", io::Error::last_os_error());
    }
    PathBuf::from(DEFAULT_PIN)
}

fn ip(arguments: &str) {
    let output = Command::new("ip").args(arguments.split_whitespace()).output().unwrap();
    assert!(output.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&output.stderr));
}
