//! The kernel object, as `ebpf/build-object` built it.

use std::{borrow::Cow, io::ErrorKind, os::fd::AsFd as _};

use aya::{
    Ebpf, EbpfLoader,
    maps::{Map, MapData, MapError},
    programs::{CgroupSockAddr, ProgramError, SchedClassifier, Xdp},
};
use interdict_ebpf_shared::maps;

use crate::{
    Error, Mode, Pins,
    calls::Call,
    pins::{self, Pinned},
    prober::Entry,
    tcx::Tcx,
};

/// The object itself. It is part of the program: there is no file to find or to swap.
static OBJECT: &[u8] = aya::include_bytes_aligned!("../object/interdict.bpf.o");

/// Makes the maps and loads every program, attached to nothing.
///
/// What an earlier agent pinned in the folder is gone on with.
pub(crate) fn load(pins: &Pins, mode: Mode) -> Result<Ebpf, Error> {
    let mut loader = EbpfLoader::new();
    if let Pins::Kept(folder) = pins {
        for name in maps::LASTING {
            loader.map_pin_path(name, pins::path(folder, Pinned::Map, name));
        }
    }
    let mut object = loader.load(&object_for(mode)).map_err(Error::Object)?;
    for entry in Entry::XDP {
        let name = entry.program_name();
        let program = program_mut(&mut object, entry);
        load_program(|| program.load()).map_err(|source| Error::Program { name, source })?;
    }
    for tcx in Tcx::ALL {
        let name = tcx.program_name();
        let program = tcx_mut(&mut object, tcx);
        load_program(|| program.load()).map_err(|source| Error::Program { name, source })?;
    }
    for call in Call::ALL {
        let name = call.program_name();
        let program = call_mut(&mut object, call);
        load_program(|| program.load()).map_err(|source| Error::Program { name, source })?;
    }
    Ok(object)
}

/// The section of XDP programs that take frames in several buffers (`BPF_F_XDP_HAS_FRAGS`), and of those that do not.
const IN_FRAGMENTS: &[u8] = b"xdp.frags\0";
const IN_ONE: &[u8] = b"xdp\0frags\0";

/// The object, whose XDP programs take frames in several buffers in native mode, where drivers have such.
///
/// In generic mode the kernel puts each frame into one buffer for programs that ask for it. For those that do not, Linux
/// copies it into a new skb (`skb_pp_cow_data`), and forgets how long its Ethernet header is: programs on tcx then see it
/// begin with the IP header, and XDP's note in front of it is not found (seen in 6.18).
fn object_for(mode: Mode) -> Cow<'static, [u8]> {
    if mode == Mode::Native {
        return OBJECT.into();
    }
    let mut object = OBJECT.to_vec();
    let places = (0..object.len()).filter(|&at| OBJECT[at..].starts_with(IN_FRAGMENTS)).collect::<Vec<_>>();
    for at in places {
        object[at..at + IN_ONE.len()].copy_from_slice(IN_ONE);
    }
    object.into()
}

/// How often a program is offered to the kernel: as often as libbpf does it.
const LOAD_ATTEMPTS: u32 = 5;

/// Loads a program. The verifier gives up with `EAGAIN` when a signal comes while it is at work, which takes it a good
/// part of a second.
fn load_program(mut load: impl FnMut() -> Result<(), ProgramError>) -> Result<(), ProgramError> {
    for _ in 1..LOAD_ATTEMPTS {
        match load() {
            Err(ProgramError::LoadError { io_error, .. }) if io_error.kind() == ErrorKind::WouldBlock => {}
            outcome => return outcome,
        }
    }
    load()
}

/// A program on tcx.
pub(crate) fn tcx(object: &Ebpf, tcx: Tcx) -> &SchedClassifier {
    let program = object.program(tcx.program_name()).expect("the object has the program");
    program.try_into().expect("it is a classifier")
}

/// A program on tcx.
pub(crate) fn tcx_mut(object: &mut Ebpf, tcx: Tcx) -> &mut SchedClassifier {
    let program = object.program_mut(tcx.program_name()).expect("the object has the program");
    program.try_into().expect("it is a classifier")
}

/// A program of a control group.
pub(crate) fn call(object: &Ebpf, call: Call) -> &CgroupSockAddr {
    let program = object.program(call.program_name()).expect("the object has the program");
    program.try_into().expect("it is a program for calls of sockets")
}

/// A program of a control group.
pub(crate) fn call_mut(object: &mut Ebpf, call: Call) -> &mut CgroupSockAddr {
    let program = object.program_mut(call.program_name()).expect("the object has the program");
    program.try_into().expect("it is a program for calls of sockets")
}

/// A program of the object.
pub(crate) fn program(object: &Ebpf, entry: Entry) -> &Xdp {
    let program = object.program(entry.program_name()).expect("the object has every entry point");
    program.try_into().expect("every entry point is an XDP program")
}

/// A program of the object.
pub(crate) fn program_mut(object: &mut Ebpf, entry: Entry) -> &mut Xdp {
    let program = object.program_mut(entry.program_name()).expect("the object has every entry point");
    program.try_into().expect("every entry point is an XDP program")
}

/// Takes a map out of the object, in the type in which it is used.
pub(crate) fn take<M: TryFrom<Map, Error = MapError>>(
    object: &mut Ebpf,
    name: &'static str,
) -> Result<M, Error> {
    let map = object.take_map(name).expect("the object has every map, and each is taken once");
    M::try_from(map).map_err(|source| Error::Map { name, source })
}

/// Another handle to a map of the object that is taken as well.
pub(crate) fn second_handle<M: TryFrom<Map, Error = MapError>>(
    object: &Ebpf,
    name: &'static str,
) -> Result<M, Error> {
    let failed = |source| Error::Map { name, source };
    let Some(Map::HashMap(map)) = object.map(name) else { panic!("the object has a hash of this name") };
    let fd = map.fd().as_fd().try_clone_to_owned();
    let fd = fd.map_err(|source| Error::System { doing: "open a map once more", source })?;
    M::try_from(Map::HashMap(MapData::from_fd(fd).map_err(failed)?)).map_err(failed)
}

/// Takes an array that is used through memory and not through a type.
pub(crate) fn take_memory(object: &mut Ebpf, name: &'static str) -> MapData {
    match object.take_map(name) {
        Some(Map::Array(data)) => data,
        _ => panic!("the object has an array of this name, and it is taken once"),
    }
}
