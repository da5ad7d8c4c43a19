//! The programs that see what local processes ask for: which there are, and attaching them to a control group.

use std::{
    fs::{self, File},
    io,
    os::{fd::AsFd as _, unix::fs::MetadataExt as _},
    path::{Path, PathBuf},
};

use aya::{
    Ebpf,
    programs::{CgroupAttachMode, links::FdLink},
};

use crate::{
    Error, Options, Pins, Role,
    attach::pin_at,
    object,
    pins::{self, Pinned},
    system,
};

/// A program of a control group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Call {
    /// `connect` over IPv4.
    Connect4,
    /// `connect` over IPv6.
    Connect6,
    /// `sendto` and `sendmsg` over IPv4.
    Send4,
    /// `sendto` and `sendmsg` over IPv6.
    Send6,
}

impl Call {
    pub(crate) const ALL: [Self; 4] = [Self::Connect4, Self::Connect6, Self::Send4, Self::Send6];

    /// In the names of pins.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Connect4 => "connect4",
            Self::Connect6 => "connect6",
            Self::Send4 => "sendmsg4",
            Self::Send6 => "sendmsg6",
        }
    }

    /// In `enum bpf_attach_type` of the kernel's `bpf.h`.
    const fn attach_type(self) -> u32 {
        match self {
            Self::Connect4 => 10,
            Self::Connect6 => 11,
            Self::Send4 => 14,
            Self::Send6 => 15,
        }
    }

    pub(crate) const fn program_name(self) -> &'static str {
        match self {
            Self::Connect4 => "interdict_connect4",
            Self::Connect6 => "interdict_connect6",
            Self::Send4 => "interdict_sendmsg4",
            Self::Send6 => "interdict_sendmsg6",
        }
    }
}

/// What the pins of these programs are named after: there is one control group.
const GROUP: &str = "cgroup";

/// Keeps the programs of a control group attached.
pub(crate) struct Calls {
    /// Held for their file descriptors.
    _links: Vec<FdLink>,
    folder: File,
    /// The control group.
    pub(crate) group: PathBuf,
}

impl Calls {
    /// Whether every program is where it was attached, as far as the kernel tells.
    pub(crate) fn are_in_place(&self, object: &Ebpf) -> bool {
        Call::ALL.into_iter().all(|call| {
            let ours = object::call(object, call).info().map(|program| program.id());
            let there = system::group_programs(self.folder.as_fd(), call.attach_type());
            ours.ok().zip(there.ok()).is_none_or(|(ours, there)| there.contains(&ours))
        })
    }
}

/// Attaches the programs, if this machine's own traffic is judged. Those of an earlier agent go when ours are there.
pub(crate) fn attach(object: &mut Ebpf, options: &Options, pins: &Pins) -> Result<Option<Calls>, Error> {
    if !options.interfaces.iter().any(|interface| interface.role == Role::Host) {
        for call in Call::ALL {
            pins::remove(&options.pin, Pinned::Call(call), GROUP)?;
        }
        return Ok(None);
    }
    let group = match &options.cgroup {
        Some(group) => group.clone(),
        None => root()?,
    };
    let cannot_open = |source| Error::Cgroup { group: group.clone(), source };
    let folder = File::open(&group).map_err(cannot_open)?;
    if !group.is_dir() || !system::is_cgroup2(&group).map_err(cannot_open)? {
        let source = io::Error::new(io::ErrorKind::InvalidInput, "it is no control group of version 2");
        return Err(cannot_open(source));
    }
    let mut links = Vec::new();
    for call in Call::ALL {
        let refused = |source| {
            let (group, source) = (group.clone(), Box::new(source));
            Error::AttachCall { group, program: call.name(), source }
        };
        let program = object::call_mut(object, call);
        // A link stands beside others in any case (`cgroup_bpf_link_attach`), and takes no flags that say so.
        let link = program.attach(&folder, CgroupAttachMode::Single).map_err(refused)?;
        let link = program.take_link(link).map_err(refused)?;
        let link =
            FdLink::try_from(link).map_err(|_| Error::NoLink { interface: group.display().to_string() })?;
        // The earlier agent's goes here, after ours is in its place: both refuse meanwhile.
        pins::remove(&options.pin, Pinned::Call(call), GROUP)?;
        links.push(match pins {
            Pins::Kept(folder) => pin_at(&pins::path(folder, Pinned::Call(call), GROUP), link)?,
            Pins::Unused | Pins::Unavailable(_) => link,
        });
    }
    Ok(Some(Calls { _links: links, folder, group }))
}

/// The root of the control groups of version 2, wherever it is mounted (cgroups(7)).
fn root() -> Result<PathBuf, Error> {
    let mounts = fs::read_to_string("/proc/self/mounts")
        .map_err(|source| Error::System { doing: "read where control groups are mounted", source })?;
    let fields = |line: &str| line.split(' ').map(str::to_owned).collect::<Vec<_>>();
    let found = mounts.lines().map(fields).find(|fields| fields.get(2).is_some_and(|kind| kind == "cgroup2"));
    found.and_then(|fields| fields.get(1).map(PathBuf::from)).ok_or(Error::NoCgroup)
}

/// The path of a process's control group, below the root, if it is still the one with this number.
pub(crate) fn group_of(pid: u32, number: u64, root: &Path) -> Option<String> {
    let said = fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
    let path = said.lines().find_map(|line| line.strip_prefix("0::"))?;
    let folder = root.join(path.trim_start_matches('/'));
    let is_it = fs::metadata(folder).is_ok_and(|metadata| metadata.ino() == number);
    is_it.then(|| path.to_owned())
}

/// The root under which [`group_of`] looks, if there is one.
pub(crate) fn mounted_root() -> Option<PathBuf> {
    root().ok()
}
