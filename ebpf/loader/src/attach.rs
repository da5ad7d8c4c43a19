//! Attaching the programs to interfaces, taking over from an earlier agent, and staying when this one ends.

use std::{fs, io, path::Path};

use aya::{
    Ebpf,
    pin::PinError,
    programs::{
        ProgramError, XdpMode,
        links::{FdLink, LinkError, PinnedLink},
        loaded_programs,
        xdp::XdpLink,
    },
};

use crate::{
    Error, Interface, Mode, Options, Pins, Role, Xdp,
    network::{self, InterfaceInfo},
    object,
    pins::{self, Pinned},
    prober::Entry,
    tcx::{self, Tcx, TcxLink},
};

/// An interface that the programs are attached to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attached {
    /// Its name.
    pub name: String,
    /// Its index.
    pub index: u32,
    /// What it is to us.
    pub role: Role,
    /// Where the programs run, as the kernel reports it.
    pub place: Where,
}

/// Where in the kernel the programs of an interface run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Where {
    /// On its XDP hook.
    Xdp(Mode),
    /// In the network stack.
    Stack,
}

impl Where {
    /// The word for it in reports.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Xdp(mode) => mode.as_str(),
            Self::Stack if tcx::is_there() => "tcx",
            Self::Stack => "clsact",
        }
    }
}

/// How an interface that should have its program has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Restored {
    /// It was there.
    InPlace,
    /// It was missing, and was attached again.
    Again,
}

/// Keeps the programs of an interface attached until it is dropped; or, if they are pinned, until the pins are removed as
/// well.
pub(crate) struct Link {
    pub(crate) attached: Attached,
    /// Held for its file descriptor.
    xdp: Option<FdLink>,
    /// The programs on tcx, held likewise.
    _tcx: Vec<TcxLink>,
}

/// Attaches the programs to every interface in the options, or to none.
pub(crate) fn attach(object: &mut Ebpf, options: &Options, pins: &Pins) -> Result<Vec<Link>, Error> {
    let mut links = Vec::new();
    for interface in &options.interfaces {
        let info = network::find(&interface.name)?;
        check_header(&info, interface.role)?;
        let tcx = attach_tcx(object, options, pins, interface.role, &info)?;
        let xdp = entry(interface.role).map(|entry| attach_xdp(object, options, interface, entry, &info));
        let xdp = xdp.transpose()?;
        links.push((interface, xdp, tcx));
    }
    // From here on nothing is new: what is attached is pinned, or no longer pinned, as the options say.
    let links = links.into_iter().map(|(interface, xdp, tcx)| link(interface, pins, xdp, tcx));
    let links = links.collect::<Result<Vec<_>, Error>>()?;
    remove_stale_pins(options, pins)?;
    Ok(links)
}

/// The programs of an interface, their pins as the options say.
fn link(interface: &Interface, pins: &Pins, xdp: Option<FdLink>, tcx: Vec<TcxLink>) -> Result<Link, Error> {
    let xdp = match (xdp, pins) {
        (Some(link), Pins::Kept(folder)) => Some(pin(folder, &interface.name, link)?),
        (xdp, _) => xdp,
    };
    Ok(Link { attached: in_force(interface)?, xdp, _tcx: tcx })
}

/// Attaches the programs on tcx of a role.
fn attach_tcx(
    object: &mut Ebpf,
    options: &Options,
    pins: &Pins,
    role: Role,
    info: &InterfaceInfo,
) -> Result<Vec<TcxLink>, Error> {
    Tcx::of(role, options).iter().map(|&tcx| tcx::attach(object, tcx, options, pins, info)).collect()
}

/// The programs in the driver read frames with an Ethernet header, and no others.
fn check_header(info: &InterfaceInfo, role: Role) -> Result<(), Error> {
    match role {
        Role::Lan | Role::Wan if info.is_bare => {
            Err(Error::NoEthernet { interface: info.name.clone(), role: role.as_str() })
        }
        Role::Lan | Role::Wan | Role::Host => Ok(()),
    }
}

/// Attaches the program of an interface again if it is there no more, as after the interface was made anew.
///
/// A link is let go only where it is known to hold nothing: letting go of one in force detaches.
pub(crate) fn restore(
    object: &mut Ebpf,
    options: &Options,
    pins: &Pins,
    interface: &Interface,
    links: &mut Vec<Link>,
) -> Result<Restored, Error> {
    let is_it = |link: &Link| link.attached.name == interface.name && link.attached.role == interface.role;
    let info = match network::find(&interface.name) {
        Ok(info) => info,
        Err(error) => {
            if matches!(error, Error::NoSuchInterface { .. }) {
                links.retain(|link| !is_it(link));
            }
            return Err(error);
        }
    };
    let xdp_in_place = match entry(interface.role) {
        None => true,
        Some(entry) => {
            let program = object::program(object, entry).info();
            let ours = program.map_err(|source| refused(options.mode, &info, source))?.id();
            info.xdp.is_some_and(|xdp| xdp.program_id == ours)
        }
    };
    let in_place = xdp_in_place && tcx::are_in_place(object, interface.role, options, &info);
    if in_place && links.iter().any(|link| is_it(link) && link.attached.index == info.index) {
        return Ok(Restored::InPlace);
    }
    let before = links.iter().position(is_it).map(|at| links.remove(at));
    if let Pins::Kept(folder) = pins {
        // `unload` takes the folder away.
        pins::prepare(folder)?;
    }
    let tcx = attach_tcx(object, options, pins, interface.role, &info)?;
    // What is in place stays there; what is not goes before it is attached anew.
    let kept = before.filter(|link| link.attached.index == info.index).and_then(|link| link.xdp);
    let xdp = match (entry(interface.role), kept.filter(|_| xdp_in_place)) {
        (Some(_), Some(link)) => Some(link),
        (None, _) => None,
        (Some(entry), None) => Some(attach_xdp(object, options, interface, entry, &info)?),
    };
    links.push(link(interface, pins, xdp, tcx)?);
    Ok(Restored::Again)
}

/// Attaches the XDP program of an interface, in the place of the one that an earlier agent left.
fn attach_xdp(
    object: &mut Ebpf,
    options: &Options,
    interface: &Interface,
    entry: Entry,
    info: &InterfaceInfo,
) -> Result<FdLink, Error> {
    match earlier_link(&options.pin, info)? {
        Some(link) => take_over(object, options, interface, entry, info, link),
        None => attach_anew(object, options.mode, entry, info),
    }
}

/// The link that an earlier agent left on this interface.
fn earlier_link(folder: &Path, info: &InterfaceInfo) -> Result<Option<FdLink>, Error> {
    let Some(path) = pins::find(folder, Pinned::Xdp, &info.name) else { return Ok(None) };
    let link = FdLink::from(PinnedLink::from_pin(&path).map_err(|error| link_failed("open", &path, error))?);
    let program_id = link.info().map_err(|error| link_failed("read", &path, error))?.program_id();
    // A pin outlives its interface; an interface of the same name that came since has another program, or none.
    if info.xdp.is_some_and(|xdp| xdp.program_id == program_id) {
        return Ok(Some(link));
    }
    fs::remove_file(&path).map_err(pins::failed("remove", &path))?;
    Ok(None)
}

/// Replaces the program of an earlier agent by ours, so that every packet meets one of the two.
fn take_over(
    object: &mut Ebpf,
    options: &Options,
    interface: &Interface,
    entry: Entry,
    info: &InterfaceInfo,
    link: FdLink,
) -> Result<FdLink, Error> {
    if let Some(Xdp { mode: found, .. }) = info.xdp
        && found != options.mode
    {
        let (wanted, found) = (options.mode.as_str(), found.as_str());
        return Err(Error::OtherMode { interface: interface.name.clone(), wanted, found });
    }
    let path = pins::path(&options.pin, Pinned::Xdp, &interface.name);
    let link = XdpLink::try_from(link).map_err(|error| link_failed("use", &path, error))?;
    let program = object::program_mut(object, entry);
    let refused = |source| refused(options.mode, info, source);
    let link = program.attach_to_link(link).map_err(refused)?;
    let link = program.take_link(link).map_err(refused)?;
    FdLink::try_from(link).map_err(|_| Error::NoLink { interface: interface.name.clone() })
}

fn attach_anew(object: &mut Ebpf, mode: Mode, entry: Entry, info: &InterfaceInfo) -> Result<FdLink, Error> {
    // Never the default, which lets the kernel choose the slow mode without a word.
    let xdp_mode = match mode {
        Mode::Native => XdpMode::Driver,
        Mode::Generic => XdpMode::Skb,
    };
    let program = object::program_mut(object, entry);
    let refused = |source| refused(mode, info, source);
    let link = program.attach_to_if_index(info.index, xdp_mode).map_err(refused)?;
    let link = program.take_link(link).map_err(refused)?;
    // aya falls back to attaching without a link, of which nothing undoes itself when the agent is killed.
    FdLink::try_from(link).map_err(|_| Error::NoLink { interface: info.name.clone() })
}

/// The XDP program of a role, if it has one.
const fn entry(role: Role) -> Option<Entry> {
    match role {
        Role::Lan => Some(Entry::Lan),
        Role::Wan => Some(Entry::Wan),
        Role::Host => None,
    }
}

/// Why the kernel did not attach, in words for who can change it.
fn refused(mode: Mode, info: &InterfaceInfo, source: ProgramError) -> Error {
    let interface = info.name.clone();
    let code = match &source {
        ProgramError::SyscallError(error) => error.io_error.raw_os_error(),
        _ => None,
    };
    match (code, info.xdp) {
        (Some(libc::EBUSY | libc::EEXIST), Some(xdp)) => Error::HookTaken { interface, holder: holder(xdp) },
        (Some(libc::EOPNOTSUPP), _) if mode == Mode::Native => Error::UnsupportedDriver { interface },
        (Some(code @ (libc::EINVAL | libc::ERANGE | libc::E2BIG | libc::EMSGSIZE | libc::ENOSPC)), _)
            if mode == Mode::Native =>
        {
            Error::DriverRefuses { interface, mtu: info.mtu, source: io::Error::from_raw_os_error(code) }
        }
        _ => Error::Attach { interface, mode: mode.as_str(), source },
    }
}

/// The name and number of a program, or the number alone where the kernel does not tell names.
fn holder(xdp: Xdp) -> String {
    let id = xdp.program_id;
    let program = loaded_programs().flatten().find(|program| program.id() == id);
    match program.as_ref().and_then(|program| program.name_as_str()) {
        Some(name) => format!("the program {name} (number {id}, {} mode)", xdp.mode.as_str()),
        None => format!("the program with number {id} ({} mode)", xdp.mode.as_str()),
    }
}

fn pin(folder: &Path, interface: &str, link: FdLink) -> Result<FdLink, Error> {
    let path = pins::path(folder, Pinned::Xdp, interface);
    if path.exists() {
        return Ok(link);
    }
    pin_at(&path, link)
}

pub(crate) fn pin_at(path: &Path, link: FdLink) -> Result<FdLink, Error> {
    let pinned = link.pin(path).map_err(|error| match error {
        PinError::SyscallError(error) => pins::failed("pin", path)(error.io_error),
        other => pins::failed("pin", path)(io::Error::other(other)),
    })?;
    Ok(FdLink::from(pinned))
}

/// The interface as the kernel now reports it.
fn in_force(interface: &Interface) -> Result<Attached, Error> {
    let InterfaceInfo { name, index, xdp, .. } = network::find(&interface.name)?;
    let place = match (entry(interface.role), xdp) {
        (None, _) => Where::Stack,
        (Some(_), Some(xdp)) => Where::Xdp(xdp.mode),
        (Some(_), None) => return Err(Error::NoLink { interface: name }),
    };
    Ok(Attached { name, index, role: interface.role, place })
}

/// Removes the pins of what the options no longer name, and all if nothing shall stay: an old program with an old policy
/// would go on judging there.
fn remove_stale_pins(options: &Options, pins: &Pins) -> Result<(), Error> {
    let is_wanted = |what: Pinned, name: &str| {
        options.interfaces.iter().any(|interface| {
            interface.name == name
                && match what {
                    Pinned::Xdp => entry(interface.role).is_some(),
                    Pinned::Tcx(tcx) => Tcx::of(interface.role, options).contains(&tcx),
                    Pinned::Call(_) | Pinned::Map => false,
                }
        })
    };
    for (what, name) in pins::pinned(&options.pin)? {
        let is_of_interface = matches!(what, Pinned::Xdp | Pinned::Tcx(_));
        if *pins == Pins::Unused || is_of_interface && !is_wanted(what, &name) {
            pins::remove(&options.pin, what, &name)?;
        }
    }
    Ok(())
}

fn link_failed(doing: &'static str, path: &Path, error: LinkError) -> Error {
    let source = match error {
        LinkError::SyscallError(error) => error.io_error,
        other => io::Error::other(other),
    };
    pins::failed(doing, path)(source)
}
