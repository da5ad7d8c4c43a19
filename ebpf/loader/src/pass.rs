//! An XDP program that passes every packet.
//!
//! A veth pair carries what an XDP program sends back only if the other end has an XDP program too. This is one for test
//! networks and demonstrations; and the floor from which benchmarks count.

use std::{
    io,
    os::fd::{AsRawFd as _, OwnedFd},
    time::Duration,
};

use crate::{
    Error, network,
    system::{self, XdpLinkAttributes},
};

/// The program, loaded.
pub struct PassProgram {
    program: OwnedFd,
}

/// The program, attached until this is dropped.
pub struct PassLink {
    _link: OwnedFd,
}

impl PassProgram {
    /// Loads it.
    ///
    /// # Errors
    ///
    /// Without `CAP_BPF` and `CAP_NET_ADMIN`.
    pub fn load() -> io::Result<Self> {
        // `r0 = XDP_PASS; exit`, as `struct bpf_insn` of the kernel's `bpf.h`.
        const PROGRAM: [u64; 2] = [0x0000_0002_0000_00b7, 0x95];
        system::load_xdp(&PROGRAM).map(|program| Self { program })
    }

    /// Attaches it to an interface of this network namespace, in native mode.
    ///
    /// # Errors
    ///
    /// There is no such interface, its hook is taken, or its driver has no native XDP.
    pub fn attach(&self, interface: &str) -> Result<PassLink, Error> {
        let index = network::find(interface)?.index;
        let attributes = XdpLinkAttributes::new(self.program.as_raw_fd(), index);
        system::create_link(attributes)
            .map(|link| PassLink { _link: link })
            .map_err(|source| Error::System { doing: "attach a program that passes everything", source })
    }

    /// Runs it on a frame so many times, and says how long one run took on average.
    ///
    /// # Errors
    ///
    /// The kernel refuses frames under 14 bytes.
    pub fn run(&self, frame: &[u8], repeat: u32) -> io::Result<Duration> {
        system::test_run(&self.program, frame, repeat)
    }
}
