//! The programs on tcx: which there are, and attaching them. Before Linux 6.6 they are filters of a queueing discipline.

use aya::{
    Ebpf,
    programs::{
        LinkOrder, TcAttachType,
        links::{FdLink, PinnedLink},
        tc::{self, NlOptions, SchedClassifierLink, TcAttachOptions, TcError},
    },
    util::KernelVersion,
};

use crate::{
    Error, Options, Pins, Role,
    attach::pin_at,
    network::InterfaceInfo,
    object,
    pins::{self, Pinned},
    system,
};

/// A program on tcx.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tcx {
    /// Takes what XDP noted to the agent.
    Divert,
    /// Follows what comes back to clients.
    LanOut,
    /// Notes what is let out.
    WanOut,
    /// Judges what this machine sends.
    HostOut,
    /// Judges what this machine receives.
    HostIn,
}

impl Tcx {
    pub(crate) const ALL: [Self; 5] = [Self::Divert, Self::LanOut, Self::WanOut, Self::HostOut, Self::HostIn];

    /// The programs of a role, in the order in which they are attached: what XDP notes must find who reads the notes.
    pub(crate) fn of(role: Role, options: &Options) -> &'static [Self] {
        match role {
            Role::Lan if options.answering.is_some() => &[Self::Divert, Self::LanOut],
            Role::Lan => &[Self::LanOut],
            Role::Wan => &[Self::WanOut],
            Role::Host => &[Self::HostOut, Self::HostIn],
        }
    }

    /// In the names of pins.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Divert => "divert",
            Self::LanOut => "lan_out",
            Self::WanOut => "wan_out",
            Self::HostOut => "host_out",
            Self::HostIn => "host_in",
        }
    }

    pub(crate) const fn program_name(self) -> &'static str {
        match self {
            Self::Divert => "interdict_divert",
            Self::LanOut => "interdict_lan_out",
            Self::WanOut => "interdict_wan_out",
            Self::HostOut => "interdict_host_out",
            Self::HostIn => "interdict_host_in",
        }
    }

    const fn direction(self) -> TcAttachType {
        match self {
            Self::Divert | Self::HostIn => TcAttachType::Ingress,
            Self::LanOut | Self::WanOut | Self::HostOut => TcAttachType::Egress,
        }
    }

    /// In `enum bpf_attach_type` of the kernel's `bpf.h`.
    const fn attach_type(self) -> u32 {
        const BPF_TCX_INGRESS: u32 = 46;
        const BPF_TCX_EGRESS: u32 = 47;
        match self {
            Self::Divert | Self::HostIn => BPF_TCX_INGRESS,
            Self::LanOut | Self::WanOut | Self::HostOut => BPF_TCX_EGRESS,
        }
    }
}

/// Keeps a program attached.
pub(crate) enum TcxLink {
    /// A link, of which nothing is left when its file descriptors and pins are gone.
    Link(#[expect(dead_code, reason = "held for its file descriptor")] FdLink),
    /// A filter of a queueing discipline; removed when dropped.
    Filter(#[expect(dead_code, reason = "held to be dropped")] SchedClassifierLink),
}

/// Whether the kernel has tcx.
pub(crate) fn is_there() -> bool {
    KernelVersion::current().is_ok_and(|version| version >= KernelVersion::new(6, 6, 0))
}

/// Attaches a program, in the place of the one that an earlier agent left.
pub(crate) fn attach(
    object: &mut Ebpf,
    tcx: Tcx,
    options: &Options,
    pins: &Pins,
    info: &InterfaceInfo,
) -> Result<TcxLink, Error> {
    let interface = info.name.as_str();
    let refused = |source| {
        let (interface, source) = (interface.to_owned(), Box::new(source));
        Error::AttachTcx { interface, program: tcx.name(), source }
    };
    let path = pins::path(&options.pin, Pinned::Tcx(tcx), interface);
    let program = object::tcx_mut(object, tcx);
    if !is_there() {
        match tc::qdisc_add_clsact(interface) {
            Ok(()) | Err(TcError::AlreadyAttached) => {}
            // It is there already where another program is attached in this way.
            Err(TcError::NetlinkError(error)) if error.raw_os_error() == Some(libc::EEXIST) => {}
            Err(source) => return Err(Error::NoClsact { interface: interface.to_owned(), source }),
        }
        let filter = TcAttachOptions::Netlink(NlOptions::default());
        let link = program.attach_with_options(interface, tcx.direction(), filter).map_err(refused)?;
        return program.take_link(link).map(TcxLink::Filter).map_err(refused);
    }
    if let Some(found) = pins::find(&options.pin, Pinned::Tcx(tcx), interface)
        && let Ok(link) = PinnedLink::from_pin(found).map(FdLink::from)
        && link.info().is_ok_and(|there| is_in_place(there.program_id(), tcx, info))
        && let Ok(link) = SchedClassifierLink::try_from(link)
        && let Ok(link) = program.attach_to_link(link)
    {
        let link = program.take_link(link).map_err(refused)?;
        let link = FdLink::try_from(link).map_err(|_| Error::NoLink { interface: interface.to_owned() })?;
        return Ok(TcxLink::Link(match pins {
            Pins::Kept(_) if !path.exists() => pin_at(&path, link)?,
            _ => link,
        }));
    }
    // Of an interface that went and came again, the pin is of no use.
    pins::remove(&options.pin, Pinned::Tcx(tcx), interface)?;
    let first = TcAttachOptions::TcxOrder(LinkOrder::first());
    let link = program.attach_with_options(interface, tcx.direction(), first).map_err(refused)?;
    let link = program.take_link(link).map_err(refused)?;
    let link = FdLink::try_from(link).map_err(|_| Error::NoLink { interface: interface.to_owned() })?;
    Ok(TcxLink::Link(match pins {
        Pins::Kept(_) => pin_at(&path, link)?,
        Pins::Unused | Pins::Unavailable(_) => link,
    }))
}

/// Whether every program of a role is attached to an interface, as far as the kernel tells.
pub(crate) fn are_in_place(object: &Ebpf, role: Role, options: &Options, info: &InterfaceInfo) -> bool {
    let in_place = |tcx: &Tcx| {
        let program = object::tcx(object, *tcx).info();
        program.is_ok_and(|program| is_in_place(program.id(), *tcx, info))
    };
    !is_there() || Tcx::of(role, options).iter().all(in_place)
}

/// Whether the program of this number is attached to an interface, where this one should be.
fn is_in_place(program: u32, tcx: Tcx, info: &InterfaceInfo) -> bool {
    system::tcx_programs(info.index, tcx.attach_type()).is_ok_and(|programs| programs.contains(&program))
}
