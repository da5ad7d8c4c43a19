//! The system calls for which the standard library has no word.

use std::{
    ffi::CString,
    fs::File,
    io,
    mem::MaybeUninit,
    os::{
        fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd},
        unix::ffi::OsStrExt as _,
    },
    path::Path,
    ptr::{self, NonNull},
    time::Duration,
};

use aya::Pod;

/// Memory of a map that the process and the kernel share.
pub(crate) struct SharedMemory {
    start: NonNull<libc::c_void>,
    bytes: usize,
}

// SAFETY: the memory is mapped until the value is dropped, whichever thread that happens in; what is read and written
// through it is up to its user.
unsafe impl Send for SharedMemory {}
// SAFETY: as above.
unsafe impl Sync for SharedMemory {}

impl SharedMemory {
    /// Maps the first bytes of a map that was made to be mapped.
    pub(crate) fn of_map(map: BorrowedFd<'_>, bytes: usize) -> io::Result<Self> {
        // SAFETY: a new mapping at an address the kernel chooses touches no memory of ours.
        let start = unsafe {
            libc::mmap(
                ptr::null_mut(),
                bytes,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                map.as_raw_fd(),
                0,
            )
        };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let start = NonNull::new(start).ok_or(io::ErrorKind::InvalidData)?;
        Ok(Self { start, bytes })
    }

    /// Where it begins: aligned to a page.
    pub(crate) const fn start(&self) -> NonNull<libc::c_void> {
        self.start
    }
}

impl Drop for SharedMemory {
    fn drop(&mut self) {
        // SAFETY: this is the mapping that `of_map` made, and no reference into it outlives the value.
        unsafe { libc::munmap(self.start.as_ptr(), self.bytes) };
    }
}

/// Nanoseconds since boot, with the time the machine slept: the clock that the kernel programs stamp events with.
pub(crate) fn boot_time_ns() -> u64 {
    time_ns(libc::CLOCK_BOOTTIME)
}

/// Nanoseconds since boot, without the time the machine slept.
pub(crate) fn awake_time_ns() -> u64 {
    time_ns(libc::CLOCK_MONOTONIC)
}

/// Nanoseconds from one tick of the kernel's timer to the next: what its clock of ticks goes on by.
pub(crate) fn tick_ns() -> u64 {
    // SAFETY: as in `time_ns`.
    in_ns(|time| unsafe { libc::clock_getres(libc::CLOCK_MONOTONIC_COARSE, time) })
}

fn time_ns(clock: libc::clockid_t) -> u64 {
    // SAFETY: the pointer is to a timespec of ours. The clocks exist since Linux 2.6.39, so the call cannot fail.
    in_ns(|time| unsafe { libc::clock_gettime(clock, time) })
}

fn in_ns(ask: impl FnOnce(&mut libc::timespec) -> libc::c_int) -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    ask(&mut time);
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// The features of an interface that `ETHTOOL_GFLAGS` tells (`enum ethtool_flags` of the kernel's `ethtool.h`).
pub(crate) fn ethtool_flags(interface: &str) -> io::Result<u32> {
    const ETHTOOL_GFLAGS: u32 = 0x25;
    /// `struct ethtool_value`.
    #[repr(C)]
    struct Value {
        command: u32,
        data: u32,
    }
    // SAFETY: the call makes a descriptor and touches no memory.
    let socket = unsafe { libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) };
    if socket < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just made the descriptor, and nobody else knows it.
    let socket = unsafe { OwnedFd::from_raw_fd(socket) };
    let mut value = Value { command: ETHTOOL_GFLAGS, data: 0 };
    // SAFETY: all zeroes are a request.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    // The last byte stays zero.
    let name = request.ifr_name.iter_mut().take(libc::IFNAMSIZ - 1);
    name.zip(interface.bytes()).for_each(|(to, byte)| *to = byte as libc::c_char);
    request.ifr_ifru.ifru_data = (&raw mut value).cast();
    // SAFETY: the request and the value that it points to are ours and outlive the call.
    match unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCETHTOOL as _, &raw mut request) } {
        0 => Ok(value.data),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Locks an open file for this process, as far as others ask; `WouldBlock` where another has it.
pub(crate) fn lock(file: &File) -> io::Result<()> {
    // SAFETY: the call takes nothing but numbers.
    match unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Whether a path, which must exist, lies on a BPF file system.
pub(crate) fn is_on_bpffs(path: &Path) -> io::Result<bool> {
    is_on(path, libc::BPF_FS_MAGIC)
}

/// Whether a path, which must exist, lies among the control groups of version 2.
pub(crate) fn is_cgroup2(path: &Path) -> io::Result<bool> {
    is_on(path, libc::CGROUP2_SUPER_MAGIC)
}

fn is_on(path: &Path, magic: libc::c_long) -> io::Result<bool> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    // SAFETY: statfs is plain data, for which zeroes are a value.
    let mut about: libc::statfs = unsafe { std::mem::zeroed() };
    // SAFETY: the path ends in a zero byte, and the buffer is ours.
    match unsafe { libc::statfs(path.as_ptr(), &mut about) } {
        0 => Ok(about.f_type == magic),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Detaches the program of a pinned link at once, whoever else still holds the link.
///
/// Closing the last file descriptor and removing the last pin detach as well, but the kernel puts that off: a pin's
/// reference goes with its inode, after an RCU grace period and in a worker.
pub(crate) fn detach_pinned_link(pin: &Path) -> io::Result<()> {
    let path = CString::new(pin.as_os_str().as_bytes())?;
    let mut object = ObjectAttributes { path: path.as_ptr() as u64, ..Default::default() };
    let fd = bpf(BPF_OBJ_GET, &mut object)?;
    // SAFETY: the kernel has just made the descriptor, and nobody else knows it.
    let link = unsafe { OwnedFd::from_raw_fd(fd) };
    bpf(BPF_LINK_DETACH, &mut LinkAttributes { link: link.as_raw_fd() as u32 })?;
    Ok(())
}

/// The numbers of the programs on a hook of tcx. Unlike to open a program by its number, to ask for it takes no more than
/// `CAP_NET_ADMIN`.
pub(crate) fn tcx_programs(interface: u32, attach_type: u32) -> io::Result<Vec<u32>> {
    programs_on(interface, attach_type)
}

/// The numbers of the programs of a control group, likewise.
pub(crate) fn group_programs(group: BorrowedFd<'_>, attach_type: u32) -> io::Result<Vec<u32>> {
    programs_on(group.as_raw_fd() as u32, attach_type)
}

fn programs_on(target: u32, attach_type: u32) -> io::Result<Vec<u32>> {
    /// In `enum bpf_cmd` of the kernel's `bpf.h`.
    const BPF_PROG_QUERY: libc::c_int = 16;
    let mut ids = [0_u32; MAX_PROGRAMS];
    let mut attributes = QueryAttributes {
        target,
        attach_type,
        ids: ids.as_mut_ptr() as u64,
        count: ids.len() as u32,
        ..Default::default()
    };
    bpf(BPF_PROG_QUERY, &mut attributes)?;
    Ok(ids.into_iter().take(attributes.count as usize).collect())
}

/// As many as the kernel has on one hook (`BPF_MPROG_MAX`, `BPF_CGROUP_MAX_PROGS`).
const MAX_PROGRAMS: usize = 64;

/// The part of `union bpf_attr` that `BPF_PROG_QUERY` reads and writes.
#[derive(Default)]
#[repr(C)]
struct QueryAttributes {
    /// An interface's index, or a control group's descriptor.
    target: u32,
    attach_type: u32,
    query_flags: u32,
    attach_flags: u32,
    ids: u64,
    count: u32,
    zero: u32,
    attach_flags_of_ids: u64,
    link_ids: u64,
    attach_flags_of_links: u64,
    revision: u64,
}

/// Takes an entry out of a hash: what stood there at the moment from which it was there no more (Linux 5.14).
pub(crate) fn take_from_hash<K: Pod, V: Pod>(map: BorrowedFd<'_>, key: &K) -> io::Result<V> {
    /// In `enum bpf_cmd` of the kernel's `bpf.h`.
    const BPF_MAP_LOOKUP_AND_DELETE_ELEM: libc::c_int = 21;
    let mut value = MaybeUninit::<V>::zeroed();
    let mut attributes = ElementAttributes {
        map: map.as_raw_fd() as u32,
        zero: 0,
        key: ptr::from_ref(key) as u64,
        value: value.as_mut_ptr() as u64,
        flags: 0,
    };
    bpf(BPF_MAP_LOOKUP_AND_DELETE_ELEM, &mut attributes)?;
    // SAFETY: every pattern of bytes is a value of it, since it is `Pod`, and the kernel has written all of it.
    Ok(unsafe { value.assume_init() })
}

/// The part of `union bpf_attr` that commands about one element read.
#[repr(C)]
struct ElementAttributes {
    map: u32,
    zero: u32,
    key: u64,
    value: u64,
    flags: u64,
}

/// In `enum bpf_cmd` of the kernel's `bpf.h`.
const BPF_OBJ_GET: libc::c_int = 7;
/// In `enum bpf_cmd` of the kernel's `bpf.h`.
const BPF_LINK_DETACH: libc::c_int = 34;

/// The part of `union bpf_attr` that `BPF_OBJ_GET` reads.
#[derive(Default)]
#[repr(C)]
struct ObjectAttributes {
    path: u64,
    fd: u32,
    flags: u32,
}

/// The part of `union bpf_attr` that `BPF_LINK_DETACH` reads.
#[repr(C)]
struct LinkAttributes {
    link: u32,
}

/// In `enum bpf_cmd` of the kernel's `bpf.h`.
const BPF_PROG_LOAD: libc::c_int = 5;
/// In `enum bpf_cmd` of the kernel's `bpf.h`.
const BPF_PROG_TEST_RUN: libc::c_int = 10;
/// In `enum bpf_cmd` of the kernel's `bpf.h`.
const BPF_LINK_CREATE: libc::c_int = 28;

/// The part of `union bpf_attr` that `BPF_PROG_LOAD` needs.
#[derive(Default)]
#[repr(C)]
struct LoadAttributes {
    kind: u32,
    instructions: u32,
    program: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log: u64,
    kernel_version: u32,
    flags: u32,
}

/// The part of `union bpf_attr` that `BPF_LINK_CREATE` needs for an XDP program.
#[repr(C)]
pub(crate) struct XdpLinkAttributes {
    program: u32,
    interface: u32,
    attach_type: u32,
    flags: u32,
}

impl XdpLinkAttributes {
    /// For a program and the index of an interface, in native mode.
    pub(crate) const fn new(program: libc::c_int, interface: u32) -> Self {
        /// In `enum bpf_attach_type` of the kernel's `bpf.h`.
        const BPF_XDP: u32 = 37;
        /// In the kernel's `if_link.h`.
        const XDP_FLAGS_DRV_MODE: u32 = 1 << 2;
        Self { program: program as u32, interface, attach_type: BPF_XDP, flags: XDP_FLAGS_DRV_MODE }
    }
}

/// The part of `union bpf_attr` that `BPF_PROG_TEST_RUN` reads and writes.
#[derive(Default)]
#[repr(C)]
struct TestRunAttributes {
    program: u32,
    result: u32,
    bytes_in: u32,
    bytes_out: u32,
    data_in: u64,
    data_out: u64,
    repeat: u32,
    duration_ns: u32,
}

/// Loads an XDP program of these instructions.
pub(crate) fn load_xdp(program: &[u64]) -> io::Result<OwnedFd> {
    /// In `enum bpf_prog_type` of the kernel's `bpf.h`.
    const BPF_PROG_TYPE_XDP: u32 = 6;
    /// In the kernel's `bpf.h`: frames may lie in several buffers, as large ones do.
    const BPF_F_XDP_HAS_FRAGS: u32 = 1 << 5;
    let mut attributes = LoadAttributes {
        kind: BPF_PROG_TYPE_XDP,
        instructions: program.len() as u32,
        program: program.as_ptr() as u64,
        license: c"GPL".as_ptr() as u64,
        flags: BPF_F_XDP_HAS_FRAGS,
        ..Default::default()
    };
    descriptor(bpf(BPF_PROG_LOAD, &mut attributes)?)
}

/// Attaches a program.
pub(crate) fn create_link(mut attributes: XdpLinkAttributes) -> io::Result<OwnedFd> {
    descriptor(bpf(BPF_LINK_CREATE, &mut attributes)?)
}

/// Runs a program on a frame, and says how long one of the runs took on average.
pub(crate) fn test_run(program: &OwnedFd, frame: &[u8], repeat: u32) -> io::Result<Duration> {
    let mut attributes = TestRunAttributes {
        program: program.as_raw_fd() as u32,
        bytes_in: frame.len() as u32,
        data_in: frame.as_ptr() as u64,
        repeat,
        ..Default::default()
    };
    bpf(BPF_PROG_TEST_RUN, &mut attributes)?;
    Ok(Duration::from_nanos(attributes.duration_ns.into()))
}

fn descriptor(fd: libc::c_int) -> io::Result<OwnedFd> {
    // SAFETY: the kernel has just made the descriptor, and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// What the kernel does not find in the attributes, because they are shorter than its own, it takes for zero.
fn bpf<A>(command: libc::c_int, attributes: &mut A) -> io::Result<libc::c_int> {
    // SAFETY: the kernel reads no more of the attributes than it is told there is, and what they point to outlives
    // the call.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, ptr::from_mut(attributes), size_of::<A>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result as libc::c_int) }
}
