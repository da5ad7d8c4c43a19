//! What can go wrong, said to the person who can act on it.

use std::{io, net::IpAddr, path::PathBuf};

use interdict_policy::Service;

/// Why the packet plane could not do what it was asked.
///
/// Whatever fails, the policy in force stays in force.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The process may not use BPF.
    #[error("{capability} is missing: run as root, or grant it (systemd: AmbientCapabilities={capability})")]
    MissingCapability {
        /// The capability's name.
        capability: &'static str,
    },
    /// An interface in the options does not exist.
    #[error("cannot attach to {name}: no such interface (have: {})", have.join(", "))]
    NoSuchInterface {
        /// The name in the options.
        name: String,
        /// The names that exist.
        have: Vec<String>,
    },
    /// An interface stands in the options twice.
    #[error("{name} is listed twice: an interface has one role, or is wan and host")]
    InterfaceTwice {
        /// Its name.
        name: String,
    },
    /// The kernel refused the maps of the object.
    #[error("cannot load the kernel object")]
    Object(#[source] aya::EbpfError),
    /// The kernel refused a program.
    #[error("the kernel refused the program {name}: it needs Linux 6.1 or later")]
    Program {
        /// The program's name.
        name: &'static str,
        /// What the kernel's verifier said.
        source: aya::programs::ProgramError,
    },
    /// A map could not be read or written.
    #[error("cannot use the kernel map {name}")]
    Map {
        /// The map's name.
        name: &'static str,
        /// What the kernel said.
        source: aya::maps::MapError,
    },
    /// The options do not ask for DNS questions to be answered.
    #[error("the packet plane was not set up to answer DNS questions")]
    NotAnswering,
    /// The interface has no place for programs in the network stack, and the kernel makes none.
    #[error(
        "cannot attach to {interface} in the network stack: before Linux 6.6 that takes a clsact queueing discipline, which \
         the kernel does not give it; load its module (`modprobe sch_ingress`)"
    )]
    NoClsact {
        /// The interface.
        interface: String,
        /// What the kernel said.
        source: aya::programs::tc::TcError,
    },
    /// A program in the network stack could not be attached.
    #[error(
        "cannot attach the program {program} to {interface}, in the network stack (tcx, before Linux 6.6 clsact)"
    )]
    AttachTcx {
        /// The interface.
        interface: String,
        /// The program.
        program: &'static str,
        /// What the kernel said.
        source: Box<aya::programs::ProgramError>,
    },
    /// A program that judges calls of local processes could not be attached.
    #[error("cannot attach the program {program} to the control group {}", group.display())]
    AttachCall {
        /// The control group.
        group: PathBuf,
        /// The program.
        program: &'static str,
        /// What the kernel said.
        source: Box<aya::programs::ProgramError>,
    },
    /// The control group cannot be opened.
    #[error("cannot open the control group {} (name one of version 2 with [packet] cgroup)", group.display())]
    Cgroup {
        /// The control group.
        group: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// There are no control groups of version 2 to attach to.
    #[error(
        "the calls of local processes cannot be judged: no control groups of version 2 are mounted; \
         mount them (`mount -t cgroup2 none /sys/fs/cgroup/unified`), or leave the role host out"
    )]
    NoCgroup,
    /// The interface has no Ethernet, which programs in the driver read.
    #[error(
        "cannot attach to {interface} as {role}: its packets have no Ethernet header (a tunnel, or PPP); \
         the role host reads them, and {role} can be given to the interface below it"
    )]
    NoEthernet {
        /// The interface.
        interface: String,
        /// The role in the options.
        role: &'static str,
    },
    /// A policy, or the options, hold more than the kernel side has room for.
    #[error("{count} {what} are more than the packet plane holds: {limit}")]
    TooMany {
        /// What there is too much of.
        what: &'static str,
        /// How many there are.
        count: usize,
        /// How many may be.
        limit: u32,
    },
    /// The staged names do not decide as the policy does. This is a defect of interdict; the policy was not applied.
    #[error(
        "the kernel does not decide as the policy does, so the policy is not applied: {name} is {kernel} in the kernel \
         and {policy} in the policy; please report this"
    )]
    NameDisagreement {
        /// The name that they disagree about.
        name: String,
        /// What the kernel says.
        kernel: String,
        /// What the policy says.
        policy: String,
    },
    /// The staged maps do not decide as the policy does. This is a defect of interdict; the policy was not applied.
    #[error(
        "the kernel does not decide as the policy does, so the policy is not applied: {} is {kernel} in the kernel and \
         {policy} in the policy; please report this",
        shown(*address, *service)
    )]
    Disagreement {
        /// The address that was tried.
        address: IpAddr,
        /// The service that was tried, if any.
        service: Option<Service>,
        /// What the kernel decides.
        kernel: String,
        /// What the policy decides.
        policy: String,
    },
    /// A staged policy was flipped after another had been staged.
    #[error("this staged policy is gone: another was staged after it")]
    Superseded,
    /// Attaching was asked for before any policy was in force.
    #[error("nothing is attached before a policy is in force: stage and flip one first")]
    NoPolicy,
    /// Another program holds the interface.
    #[error(
        "cannot attach to {interface}: its XDP hook is held by {holder}; \
         detach that first (`ip link set dev {interface} xdp off`, or its own tool)"
    )]
    HookTaken {
        /// The interface.
        interface: String,
        /// The program that holds it, by name and number.
        holder: String,
    },
    /// Our own pinned program holds the interface, in another mode.
    #[error(
        "cannot attach to {interface} in {wanted} mode: interdict's program from an earlier run stayed there in {found} \
         mode; run `interdict unload` first, which leaves the interface unfiltered until the next start"
    )]
    OtherMode {
        /// The interface.
        interface: String,
        /// The mode in the options.
        wanted: &'static str,
        /// The mode that is in force.
        found: &'static str,
    },
    /// The driver has no native XDP.
    #[error("cannot attach to {interface} in native mode: its driver has none; ask for generic mode")]
    UnsupportedDriver {
        /// The interface.
        interface: String,
    },
    /// The driver has native XDP, and refuses the interface as it is set up.
    #[error(
        "cannot attach to {interface} in native mode: its driver refuses ({source}), as drivers do where the MTU is too \
         large (it is {mtu}), receive offloads such as LRO are on, or there are fewer receive queues than programs need; \
         change that (`ip link set {interface} mtu 1500`, `ethtool -K {interface} lro off`, `ethtool -L {interface}`), or \
         ask for generic mode"
    )]
    DriverRefuses {
        /// The interface.
        interface: String,
        /// Its MTU in bytes.
        mtu: u32,
        /// What the kernel said.
        source: std::io::Error,
    },
    /// The kernel refused to attach for another reason.
    #[error("cannot attach to {interface} in {mode} mode")]
    Attach {
        /// The interface.
        interface: String,
        /// The mode in the options.
        mode: &'static str,
        /// What the kernel said.
        source: aya::programs::ProgramError,
    },
    /// The kernel attached without a link, so that the program would outlive a killed agent.
    #[error("cannot attach to {interface}: the kernel has no BPF links for XDP; it needs Linux 6.1 or later")]
    NoLink {
        /// The interface.
        interface: String,
    },
    /// Another agent of this network namespace holds the pins.
    #[error(
        "another agent is running with the pins in {}: end that first, or name another folder with [packet] pin",
        pin.display()
    )]
    OtherAgent {
        /// The folder.
        pin: PathBuf,
    },
    /// A pin could not be made, read or removed.
    #[error("cannot {doing} {}", path.display())]
    Pin {
        /// What was tried.
        doing: &'static str,
        /// The pin, or its folder.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The events have a reader already.
    #[error("the events have a reader already: there is one for each packet plane")]
    EventsTaken,
    /// The kernel's routing socket failed.
    #[error("cannot ask the kernel for its {what}")]
    Netlink {
        /// What was asked for.
        what: &'static str,
        /// What it said.
        source: io::Error,
    },
    /// A system call failed that should not.
    #[error("cannot {doing}")]
    System {
        /// What was tried.
        doing: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
}

/// An address and a service as `why` takes them.
fn shown(address: IpAddr, service: Option<Service>) -> String {
    match (address, service) {
        (address, None) => address.to_string(),
        (address, Some(Service { protocol, port })) => {
            format!("{}/{}", std::net::SocketAddr::new(address, port), protocol.as_str())
        }
    }
}
