//! Attaching the programs to interfaces, taking over from an earlier agent, and staying when this one ends.

use std::{io, path::Path};

use aya::{
    Ebpf,
    pin::PinError,
    programs::{
        LinkOrder, ProgramError, TcAttachType, XdpMode,
        links::{FdLink, LinkError, PinnedLink},
        loaded_programs,
        tc::{self, NlOptions, SchedClassifierLink, TcAttachOptions},
        xdp::XdpLink,
    },
    util::KernelVersion,
};

use crate::{
    Error, Interface, Mode, Options, Pins, Role, Xdp,
    network::{self, InterfaceInfo},
    object, pins,
    prober::Entry,
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
    /// Where the program runs, as the kernel reports it.
    pub mode: Mode,
}

/// How an interface that should have its program has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Restored {
    /// It was there.
    InPlace,
    /// It was missing, and was attached again.
    Again,
}

/// Keeps a program attached until it is dropped; or, if it is pinned, until the pin is removed as well.
pub(crate) struct Link {
    pub(crate) attached: Attached,
    /// Held for its file descriptor.
    _link: FdLink,
    /// The program that diverts, held likewise.
    _divert: Option<Divert>,
}

/// Keeps the program that diverts attached.
enum Divert {
    /// A link, of which nothing is left when its file descriptors and pins are gone.
    Link(#[expect(dead_code, reason = "held for its file descriptor")] FdLink),
    /// A filter of a queueing discipline, before Linux 6.6; removed when dropped.
    Filter(#[expect(dead_code, reason = "held to be dropped")] SchedClassifierLink),
}

/// Attaches the programs to every interface in the options, or to none.
pub(crate) fn attach(object: &mut Ebpf, options: &Options, pins: &Pins) -> Result<Vec<Link>, Error> {
    let mut links = Vec::new();
    for interface in &options.interfaces {
        let info = network::find(&interface.name)?;
        let divert = divert_for(object, options, pins, interface.role, &info)?;
        let link = match earlier_link(&options.pin, &info)? {
            Some(link) => take_over(object, options, interface, &info, link)?,
            None => attach_anew(object, options.mode, interface, &info)?,
        };
        links.push((interface, link, divert));
    }
    // From here on nothing is new: what is attached is pinned, or no longer pinned, as the options say.
    let links = links.into_iter().map(|(interface, link, divert)| {
        let link = match pins {
            Pins::Kept(folder) => pin(folder, &interface.name, link)?,
            Pins::Unused | Pins::Unavailable(_) => link,
        };
        Ok(Link { attached: in_force(interface)?, _link: link, _divert: divert })
    });
    let links = links.collect::<Result<Vec<_>, Error>>()?;
    remove_stale_pins(options, pins)?;
    Ok(links)
}

/// Attaches the program that diverts where questions are answered. What is noted must find who reads the notes: so it goes
/// before the program that notes.
fn divert_for(
    object: &mut Ebpf,
    options: &Options,
    pins: &Pins,
    role: Role,
    info: &InterfaceInfo,
) -> Result<Option<Divert>, Error> {
    match role {
        Role::Lan if options.answering.is_some() => divert(object, options, pins, info).map(Some),
        Role::Lan | Role::Wan => Ok(None),
    }
}

/// Attaches the program that diverts, in the place of the one that an earlier agent left.
fn divert(object: &mut Ebpf, options: &Options, pins: &Pins, info: &InterfaceInfo) -> Result<Divert, Error> {
    let interface = info.name.as_str();
    let refused = |source| Error::AttachDivert { interface: interface.to_owned(), source };
    let path = pins::divert_path(&options.pin, interface);
    let program = object::divert_mut(object);
    if KernelVersion::current().is_ok_and(|version| version < KernelVersion::new(6, 6, 0)) {
        // It is there already where another program is attached in this way.
        let _ = tc::qdisc_add_clsact(interface);
        let filter = TcAttachOptions::Netlink(NlOptions::default());
        let link = program.attach_with_options(interface, TcAttachType::Ingress, filter).map_err(refused)?;
        return program.take_link(link).map(Divert::Filter).map_err(refused);
    }
    if let Ok(link) = PinnedLink::from_pin(&path)
        && let Ok(link) = SchedClassifierLink::try_from(FdLink::from(link))
        && let Ok(link) = program.attach_to_link(link)
    {
        let link = program.take_link(link).map_err(refused)?;
        let link = FdLink::try_from(link).map_err(|_| Error::NoLink { interface: interface.to_owned() })?;
        return Ok(Divert::Link(link));
    }
    // Of an interface that went and came again, the pin is of no use.
    let _ = std::fs::remove_file(&path);
    let first = TcAttachOptions::TcxOrder(LinkOrder::first());
    let link = program.attach_with_options(interface, TcAttachType::Ingress, first).map_err(refused)?;
    let link = program.take_link(link).map_err(refused)?;
    let link = FdLink::try_from(link).map_err(|_| Error::NoLink { interface: interface.to_owned() })?;
    Ok(Divert::Link(match pins {
        Pins::Kept(_) => pin_at(&path, link)?,
        Pins::Unused | Pins::Unavailable(_) => link,
    }))
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
    let is_it = |link: &Link| link.attached.name == interface.name;
    let info = match network::find(&interface.name) {
        Ok(info) => info,
        Err(error) => {
            if matches!(error, Error::NoSuchInterface { .. }) {
                links.retain(|link| !is_it(link));
            }
            return Err(error);
        }
    };
    let program = object::program(object, entry(interface.role)).info();
    let ours = program.map_err(|source| refused(options.mode, &info, source))?.id();
    let in_place = info.xdp.is_some_and(|xdp| xdp.program_id == ours);
    if in_place && links.iter().any(|link| is_it(link) && link.attached.index == info.index) {
        return Ok(Restored::InPlace);
    }
    links.retain(|link| !is_it(link));
    if let Pins::Kept(folder) = pins {
        // `unload` takes the folder away.
        pins::prepare(folder)?;
    }
    let divert = divert_for(object, options, pins, interface.role, &info)?;
    let link = match earlier_link(&options.pin, &info)? {
        Some(link) => take_over(object, options, interface, &info, link)?,
        None => attach_anew(object, options.mode, interface, &info)?,
    };
    let link = match pins {
        Pins::Kept(folder) => pin(folder, &interface.name, link)?,
        Pins::Unused | Pins::Unavailable(_) => link,
    };
    links.push(Link { attached: in_force(interface)?, _link: link, _divert: divert });
    Ok(Restored::Again)
}

/// The link that an earlier agent left on this interface.
fn earlier_link(folder: &Path, info: &InterfaceInfo) -> Result<Option<FdLink>, Error> {
    if !pins::pinned_interfaces(folder)?.contains(&info.name) {
        return Ok(None);
    }
    let path = pins::path(folder, &info.name);
    let link = FdLink::from(PinnedLink::from_pin(&path).map_err(|error| link_failed("open", &path, error))?);
    let program_id = link.info().map_err(|error| link_failed("read", &path, error))?.program_id();
    // A pin outlives its interface; an interface of the same name that came since has another program, or none.
    if info.xdp.is_some_and(|xdp| xdp.program_id == program_id) {
        return Ok(Some(link));
    }
    pins::remove(folder, &info.name)?;
    Ok(None)
}

/// Replaces the program of an earlier agent by ours, so that every packet meets one of the two.
fn take_over(
    object: &mut Ebpf,
    options: &Options,
    interface: &Interface,
    info: &InterfaceInfo,
    link: FdLink,
) -> Result<FdLink, Error> {
    if let Some(Xdp { mode: found, .. }) = info.xdp
        && found != options.mode
    {
        let (wanted, found) = (options.mode.as_str(), found.as_str());
        return Err(Error::OtherMode { interface: interface.name.clone(), wanted, found });
    }
    let path = pins::path(&options.pin, &interface.name);
    let link = XdpLink::try_from(link).map_err(|error| link_failed("use", &path, error))?;
    let program = object::program_mut(object, entry(interface.role));
    let refused = |source| refused(options.mode, info, source);
    let link = program.attach_to_link(link).map_err(refused)?;
    let link = program.take_link(link).map_err(refused)?;
    FdLink::try_from(link).map_err(|_| Error::NoLink { interface: interface.name.clone() })
}

fn attach_anew(
    object: &mut Ebpf,
    mode: Mode,
    interface: &Interface,
    info: &InterfaceInfo,
) -> Result<FdLink, Error> {
    // Never the default, which lets the kernel choose the slow mode without a word.
    let xdp_mode = match mode {
        Mode::Native => XdpMode::Driver,
        Mode::Generic => XdpMode::Skb,
    };
    let program = object::program_mut(object, entry(interface.role));
    let refused = |source| refused(mode, info, source);
    let link = program.attach_to_if_index(info.index, xdp_mode).map_err(refused)?;
    let link = program.take_link(link).map_err(refused)?;
    // aya falls back to attaching without a link, of which nothing undoes itself when the agent is killed.
    FdLink::try_from(link).map_err(|_| Error::NoLink { interface: interface.name.clone() })
}

const fn entry(role: Role) -> Entry {
    match role {
        Role::Lan => Entry::Lan,
        Role::Wan => Entry::Wan,
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
    let path = pins::path(folder, interface);
    if path.exists() {
        return Ok(link);
    }
    pin_at(&path, link)
}

fn pin_at(path: &Path, link: FdLink) -> Result<FdLink, Error> {
    let pinned = link.pin(path).map_err(|error| match error {
        PinError::SyscallError(error) => pins::failed("pin", path)(error.io_error),
        other => pins::failed("pin", path)(io::Error::other(other)),
    })?;
    Ok(FdLink::from(pinned))
}

/// The interface as the kernel now reports it.
fn in_force(interface: &Interface) -> Result<Attached, Error> {
    let InterfaceInfo { name, index, xdp, .. } = network::find(&interface.name)?;
    let xdp = xdp.ok_or_else(|| Error::NoLink { interface: name.clone() })?;
    Ok(Attached { name, index, role: interface.role, mode: xdp.mode })
}

/// Removes the pins of interfaces that the options no longer name, and all if nothing shall stay: an old program with
/// an old policy would go on judging there.
fn remove_stale_pins(options: &Options, pins: &Pins) -> Result<(), Error> {
    for pinned in pins::pinned_interfaces(&options.pin)? {
        let listed = options.interfaces.iter().any(|interface| interface.name == pinned);
        if !listed || *pins == Pins::Unused {
            pins::remove(&options.pin, &pinned)?;
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
