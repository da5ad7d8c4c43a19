//! Links that outlive the agent, as files on a bpffs.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use crate::{Error, divert::DivertRoute, system};

/// The names of pinned links begin with this, and end with the interface's name.
const LINK: &str = "link-";
/// The same, for the links of the programs that divert.
const DIVERT: &str = "divert-";

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
    if !pin.exists() {
        return Ok(Vec::new());
    }
    if let Some(reason) = unusable(pin) {
        let source = io::Error::new(io::ErrorKind::InvalidInput, reason);
        return Err(Error::Pin { doing: "unload from", path: pin.to_owned(), source });
    }
    let interfaces = pinned_interfaces(pin)?;
    for interface in &interfaces {
        for path in [path(pin, interface), divert_path(pin, interface)] {
            if path.exists() {
                system::detach_pinned_link(&path).map_err(failed("detach", &path))?;
            }
        }
        remove(pin, interface)?;
    }
    DivertRoute::remove();
    // Others may keep something in the folder; then it stays.
    let _ = fs::remove_dir(pin);
    Ok(interfaces)
}

/// Makes the folder for pins, or says why there can be none.
pub(crate) fn prepare(pin: &Path) -> Result<Pins, Error> {
    if let Some(reason) = unusable(pin) {
        return Ok(Pins::Unavailable(reason));
    }
    fs::create_dir_all(pin).map_err(failed("make the folder", pin))?;
    Ok(Pins::Kept(pin.to_owned()))
}

/// The pin of an interface's link.
pub(crate) fn path(pin: &Path, interface: &str) -> PathBuf {
    pin.join(format!("{LINK}{interface}"))
}

/// The pin of the link of the program that diverts on an interface.
pub(crate) fn divert_path(pin: &Path, interface: &str) -> PathBuf {
    pin.join(format!("{DIVERT}{interface}"))
}

/// The interfaces whose links are pinned in a folder, which need not be there.
pub(crate) fn pinned_interfaces(pin: &Path) -> Result<Vec<String>, Error> {
    if unusable(pin).is_some() || !pin.exists() {
        return Ok(Vec::new());
    }
    let mut interfaces = Vec::new();
    for entry in fs::read_dir(pin).map_err(failed("read", pin))? {
        let name = entry.map_err(failed("read", pin))?.file_name();
        interfaces.extend(name.to_str().and_then(|name| name.strip_prefix(LINK)).map(str::to_owned));
    }
    interfaces.sort();
    Ok(interfaces)
}

/// Removes the pins of an interface's links. The program goes with it unless somebody else holds the link, though only
/// some time later.
pub(crate) fn remove(pin: &Path, interface: &str) -> Result<(), Error> {
    let divert = divert_path(pin, interface);
    if divert.exists() {
        fs::remove_file(&divert).map_err(failed("remove", &divert))?;
    }
    let path = path(pin, interface);
    fs::remove_file(&path).map_err(failed("remove", &path))
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
