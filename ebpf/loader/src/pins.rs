//! Links that outlive the agent, as files on a bpffs.

use std::{
    fs::{self, File, Permissions},
    io,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink},
    path::{Path, PathBuf},
};

use aya::maps::MapData;
use interdict_ebpf_shared::{SCHEMA, maps};

use crate::{Error, calls::Call, divert::DivertRoute, system, tcx::Tcx};

/// What is pinned, as it stands in the name of a pin, in front of what it is attached to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pinned {
    /// The XDP program of an interface.
    Xdp,
    /// A program on tcx of an interface.
    Tcx(Tcx),
    /// A program of the control group.
    Call(Call),
    /// A map, which the next agent goes on with.
    Map,
}

impl Pinned {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Xdp => "link",
            Self::Tcx(tcx) => tcx.name(),
            Self::Call(call) => call.name(),
            Self::Map => "map",
        }
    }

    fn all() -> impl Iterator<Item = Self> {
        let tcx = Tcx::ALL.into_iter().map(Self::Tcx);
        [Self::Xdp, Self::Map].into_iter().chain(tcx).chain(Call::ALL.into_iter().map(Self::Call))
    }
}

/// Whether the programs stay attached when the agent ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Pins {
    /// They go with the agent, as the options say.
    Unused,
    /// They stay, held by pins in this folder.
    Kept(PathBuf),
    /// They should stay but go with the agent, since nothing can be pinned here.
    Unavailable(String),
}

/// Detaches the programs of a plane that stayed, and removes their pins. Returns the interfaces they were attached to.
///
/// The interfaces are free when it returns. Needs no agent; those of one that is running are free as well, until that
/// agent looks after them (see [`crate::PacketPlane::restore`]).
///
/// # Errors
///
/// The folder is no bpffs, or a program could not be detached or its pin removed.
pub fn unload(pin: &Path) -> Result<Vec<String>, Error> {
    DivertRoute::remove();
    if !pin.exists() {
        return Ok(Vec::new());
    }
    if let Some(reason) = unusable(pin) {
        let source = io::Error::new(io::ErrorKind::InvalidInput, reason);
        return Err(Error::Pin { doing: "unload from", path: pin.to_owned(), source });
    }
    let mut interfaces = Vec::new();
    for folder in earlier(pin).into_iter().chain([pin.to_owned()]) {
        // First what notes where clients are let out to: without the other programs it would take banned addresses for such.
        let mut all = pinned(&folder)?;
        all.sort_by_key(|(what, _)| !matches!(what, Pinned::Tcx(_)));
        for (what, name) in all {
            if what != Pinned::Map {
                let path = path(&folder, what, &name);
                system::detach_pinned_link(&path).map_err(failed("detach", &path))?;
            }
            remove(&folder, what, &name)?;
            interfaces.extend(matches!(what, Pinned::Xdp | Pinned::Tcx(_)).then_some(name));
        }
        let _ = fs::remove_file(folder.join(VERSION));
        // Others may keep something in the folder; then it stays.
        let _ = fs::remove_dir(folder);
    }
    interfaces.sort();
    interfaces.dedup();
    Ok(interfaces)
}

/// A claim to the pins of a folder, which ends with the process: two agents would take the programs from each other.
///
/// It is a lock on the folder, which one bpffs shows to all network namespaces, and which nobody else may open.
pub(crate) struct Claim {
    folder: File,
    pin: PathBuf,
}

/// Claims the pins of a folder that is there.
///
/// # Errors
///
/// Another agent has them.
pub(crate) fn claim(pin: &Path) -> Result<Claim, Error> {
    let folder = File::open(pin).map_err(failed("claim", pin))?;
    match system::lock(&folder) {
        Ok(()) => Ok(Claim { folder, pin: pin.to_owned() }),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
            Err(Error::OtherAgent { pin: pin.to_owned() })
        }
        Err(error) => Err(failed("claim", pin)(error)),
    }
}

impl Claim {
    /// Claims the folder again if it was removed and made anew meanwhile.
    pub(crate) fn renew(&mut self) -> Result<(), Error> {
        let number = |folder: io::Result<fs::Metadata>| folder.map(|about| about.ino()).ok();
        let there = number(fs::metadata(&self.pin));
        if there.is_some() && there != number(self.folder.metadata()) {
            *self = claim(&self.pin)?;
        }
        Ok(())
    }
}

/// The file that says which version of maps and programs is pinned in a folder: a link to its number.
const VERSION: &str = "schema";

/// Removes the maps that an agent of another version pinned in this very folder, and says whether there were any: what they
/// hold cannot be read any more. The programs stay until ours are in their places.
pub(crate) fn forget_other_version(pin: &Path) -> Result<bool, Error> {
    let version = SCHEMA.to_string();
    let link = pin.join(VERSION);
    let is_ours = fs::read_link(&link).is_ok_and(|said| said.as_os_str() == version.as_str());
    if is_ours {
        return Ok(false);
    }
    let mut removed = false;
    for (what, name) in pinned(pin)?.into_iter().filter(|(what, _)| *what == Pinned::Map) {
        remove(pin, what, &name)?;
        removed = true;
    }
    let _ = fs::remove_file(&link);
    symlink(&version, &link).map_err(failed("write the version of", pin))?;
    Ok(removed)
}

/// The interfaces on which programs are in place that an agent left, or has in place; none where there is no bpffs.
pub fn in_place(pin: &Path) -> Vec<String> {
    let folders = earlier(pin).into_iter().chain([pin.to_owned()]);
    let pinned = folders.flat_map(|folder| pinned(&folder).unwrap_or_default());
    let mut names: Vec<_> = pinned
        .filter(|(what, _)| matches!(what, Pinned::Xdp | Pinned::Tcx(_)))
        .map(|(_, name)| name)
        .collect();
    names.sort();
    names.dedup();
    names
}

/// Whether an agent has the pins of a folder.
pub fn has_agent(pin: &Path) -> bool {
    matches!(claim(pin), Err(Error::OtherAgent { .. }))
}

/// The maps that an agent leaves to the next, held to be pinned again should their pins go.
#[derive(Default)]
pub(crate) struct LastingMaps(Vec<(PathBuf, MapData)>);

impl LastingMaps {
    /// Opens those that are pinned in a folder.
    pub(crate) fn of(pin: &Path) -> Result<Self, Error> {
        let open = |name| {
            let path = path(pin, Pinned::Map, name);
            MapData::from_pin(&path).map(|map| (path, map)).map_err(|source| Error::Map { name, source })
        };
        maps::LASTING.into_iter().map(open).collect::<Result<_, _>>().map(Self)
    }

    /// Pins again what is pinned no more.
    pub(crate) fn pin_again(&self) -> Result<(), Error> {
        for (path, map) in self.0.iter().filter(|(path, _)| !path.exists()) {
            if let Some(folder) = path.parent() {
                prepare(folder)?;
                forget_other_version(folder)?;
            }
            map.pin(path).map_err(|error| failed("pin", path)(io::Error::other(error)))?;
        }
        Ok(())
    }
}

/// Makes the folder for pins, or says why there can be none.
pub(crate) fn prepare(pin: &Path) -> Result<Pins, Error> {
    if let Some(reason) = unusable(pin) {
        return Ok(Pins::Unavailable(reason));
    }
    fs::create_dir_all(pin).map_err(failed("make the folder", pin))?;
    // Whoever can open it could hold the lock that makes it ours.
    fs::set_permissions(pin, Permissions::from_mode(0o700)).map_err(failed("close the folder", pin))?;
    Ok(Pins::Kept(pin.to_owned()))
}

/// The pin of what is attached to something of this name.
pub(crate) fn path(pin: &Path, what: Pinned, name: &str) -> PathBuf {
    pin.join(format!("{}-{name}", what.as_str()))
}

/// The pin of the same, wherever it is: in the folder, or in that of an agent of another version.
pub(crate) fn find(pin: &Path, what: Pinned, name: &str) -> Option<PathBuf> {
    let folders = [pin.to_owned()].into_iter().chain(earlier(pin));
    folders.map(|folder| path(&folder, what, name)).find(|path| path.exists())
}

/// The folders of agents of other versions, which stand beside one whose name is a version, such as `v4`.
pub(crate) fn earlier(pin: &Path) -> Vec<PathBuf> {
    let is_version = |path: &Path| {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        name.strip_prefix('v')
            .is_some_and(|number| !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit()))
    };
    let beside = pin.parent().filter(|_| is_version(pin)).and_then(|parent| fs::read_dir(parent).ok());
    let paths = beside.into_iter().flatten().flatten().map(|entry| entry.path());
    paths.filter(|path| path != pin && is_version(path)).collect()
}

/// Removes all that an agent of another version pinned, now that ours is in its place.
pub(crate) fn remove_earlier(pin: &Path) -> Result<(), Error> {
    for folder in earlier(pin) {
        for (what, name) in pinned(&folder)? {
            remove(&folder, what, &name)?;
        }
        let _ = fs::remove_file(folder.join(VERSION));
        let _ = fs::remove_dir(folder);
    }
    Ok(())
}

/// Whether nothing is pinned, in the folder or in that of an agent of another version.
pub(crate) fn is_unused(pin: &Path) -> Result<bool, Error> {
    for folder in earlier(pin).into_iter().chain([pin.to_owned()]) {
        if !pinned(&folder)?.is_empty() {
            return Ok(false);
        }
    }
    Ok(true)
}

/// What is pinned in a folder, which need not be there.
pub(crate) fn pinned(pin: &Path) -> Result<Vec<(Pinned, String)>, Error> {
    if unusable(pin).is_some() || !pin.exists() {
        return Ok(Vec::new());
    }
    let mut all = Vec::new();
    for entry in fs::read_dir(pin).map_err(failed("read", pin))? {
        let file = entry.map_err(failed("read", pin))?.file_name();
        let Some((what, name)) = file.to_str().and_then(|file| file.split_once('-')) else { continue };
        let what = Pinned::all().find(|pinned| pinned.as_str() == what);
        all.extend(what.map(|what| (what, name.to_owned())));
    }
    Ok(all)
}

/// Removes a pin, if it is there. What it holds goes with it unless somebody else holds that too, though only some time
/// later.
pub(crate) fn remove(pin: &Path, what: Pinned, name: &str) -> Result<(), Error> {
    let path = path(pin, what, name);
    match fs::remove_file(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        outcome => outcome.map_err(failed("remove", &path)),
    }
}

/// Why nothing can be pinned in a folder, which need not exist yet.
fn unusable(pin: &Path) -> Option<String> {
    let there = pin.ancestors().find(|folder| folder.exists())?;
    match system::is_on_bpffs(there) {
        Ok(true) => None,
        Ok(false) => {
            Some(format!("{} is not on a bpffs (mount one, or leave `ip netns exec` out)", pin.display()))
        }
        Err(error) => Some(format!("{}: {error}", there.display())),
    }
}

/// Names what was tried, and where.
pub(crate) fn failed(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::Pin { doing, path, source }
}
