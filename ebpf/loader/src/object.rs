//! The kernel object, as `ebpf/build-object` built it.

use std::io::ErrorKind;

use aya::{
    Ebpf, EbpfLoader,
    maps::{Map, MapData, MapError},
    programs::{ProgramError, SchedClassifier, Xdp},
};
use interdict_ebpf_shared::maps;

use crate::{Error, prober::Entry};

/// The object itself. It is part of the program: there is no file to find or to swap.
static OBJECT: &[u8] = aya::include_bytes_aligned!("../object/interdict.bpf.o");

/// Makes the maps and loads every program, attached to nothing.
pub(crate) fn load() -> Result<Ebpf, Error> {
    let mut object = EbpfLoader::new().load(OBJECT).map_err(Error::Object)?;
    for entry in Entry::ALL {
        let name = entry.program_name();
        let program = program_mut(&mut object, entry);
        load_program(|| program.load()).map_err(|source| Error::Program { name, source })?;
    }
    let program = divert_mut(&mut object);
    load_program(|| program.load()).map_err(|source| Error::Program { name: DIVERT, source })?;
    Ok(object)
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

/// The program that takes what XDP noted to the agent.
const DIVERT: &str = "interdict_divert";

/// The program that diverts.
pub(crate) fn divert_mut(object: &mut Ebpf) -> &mut SchedClassifier {
    let program = object.program_mut(DIVERT).expect("the object has the program");
    program.try_into().expect("it is a classifier")
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

/// Takes the map of control words, which is used through memory and not through a type.
pub(crate) fn take_control(object: &mut Ebpf) -> MapData {
    match object.take_map(maps::CONTROL) {
        Some(Map::Array(data)) => data,
        _ => panic!("the object has an array of control words"),
    }
}
