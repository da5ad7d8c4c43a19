//! What the operator chooses.

use std::{net::IpAddr, path::PathBuf};

use interdict_ebpf_shared::{limits::MAX_NAMES, spelling::MAX_TRANSLATIONS};
use ipnet::{IpNet, Ipv6Net};

/// Where the links of a plane that stays are pinned, unless the operator names another folder.
///
/// It ends in the version of [`interdict_ebpf_shared::SCHEMA`].
pub const DEFAULT_PIN: &str = "/sys/fs/bpf/interdict/v7";

/// Prefixes of NAT64 that an operator may name: the others are those that everybody has.
pub const MAX_NAT64: usize = MAX_TRANSLATIONS - 3;

/// How a packet plane is set up.
#[derive(Clone, Debug)]
pub struct Options {
    /// The interfaces whose packets are judged.
    pub interfaces: Vec<Interface>,
    /// Where in the kernel the programs run.
    pub mode: Mode,
    /// Addresses to which no packet is ever dropped.
    pub safe: Vec<IpNet>,
    /// The folder for pins, on a bpffs. Agents in different network namespaces need different folders.
    pub pin: PathBuf,
    /// What becomes of the programs when the agent ends.
    pub at_exit: AtExit,
    /// The prefixes of NAT64 at this site, besides the well-known one: of 32, 40, 48, 56, 64 or 96 bits (RFC 6052, §2.2),
    /// at most [`MAX_NAT64`] of them.
    pub nat64: Vec<Ipv6Net>,
    /// The control group whose processes' calls are judged, where an interface is the host's own; without one all of them.
    pub cgroup: Option<PathBuf>,
    /// Names that a policy may have in the kernel.
    pub max_names: u32,
    /// How DNS questions are answered; `None` leaves them alone.
    pub answering: Option<Answering>,
}

/// How DNS questions are answered on interfaces towards clients.
#[derive(Clone, Debug)]
pub struct Answering {
    /// Whose questions.
    pub clients: Vec<IpNet>,
    /// How many of one client in a second; more are dropped.
    pub client_qps: u32,
    /// The addresses on whose port 53 we listen, an unspecified one for all of its family: what is sent there is not on its way
    /// to another resolver. What this machine has besides may have another resolver.
    pub listen: Vec<IpAddr>,
    /// On which interfaces.
    pub in_kernel: InKernel,
}

/// Where questions are answered in the kernel, and where they go up to the agent, which answers them alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum InKernel {
    /// Where answers get out.
    Auto,
    /// On every interface, even where it looks as if answers did not get out.
    Always,
    /// Nowhere.
    Never,
}

impl Options {
    /// Native mode, no safe addresses, and nothing that stays when the agent ends.
    pub fn new(interfaces: Vec<Interface>) -> Self {
        let (mode, at_exit) = (Mode::Native, AtExit::Remove);
        let (pin, max_names) = (PathBuf::from(DEFAULT_PIN), MAX_NAMES);
        let (safe, nat64) = (Vec::new(), Vec::new());
        Self { interfaces, mode, safe, pin, at_exit, nat64, cgroup: None, max_names, answering: None }
    }
}

/// An interface, and what it is to us.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    /// Its name.
    pub name: String,
    /// What it is to us.
    pub role: Role,
}

/// What an interface is to us.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// Towards our clients: destinations are judged.
    Lan,
    /// Towards the outside: the sources of what was not asked for are judged.
    Wan,
    /// The machine's own traffic: the destinations of what it sends, the sources of what it was not asked for, and the
    /// calls of its processes are judged.
    Host,
}

impl Role {
    /// The word for it in configurations and reports.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Lan => "lan",
            Self::Wan => "wan",
            Self::Host => "host",
        }
    }
}

/// Where in the kernel the programs run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Mode {
    /// In the driver, before the kernel makes anything of the packet. Not every driver can.
    Native,
    /// In the network stack, on every interface, at a higher cost.
    Generic,
}

impl Mode {
    /// The word for it in configurations and reports.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::Generic => "generic",
        }
    }
}

/// What becomes of the programs when the agent ends, however it ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AtExit {
    /// They go with it.
    Remove,
    /// They stay attached and keep the last policy, until another agent takes over or [`crate::unload`].
    Keep,
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_default_pin_names_the_schema() {
        assert!(super::DEFAULT_PIN.ends_with(&format!("/v{}", interdict_ebpf_shared::SCHEMA)));
    }
}
