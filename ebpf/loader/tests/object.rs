//! The committed object is what its record says, and the record says what this tree's sources are.
//!
//! Nothing is built here: the bytes themselves are compared by `ebpf/build-object --check`, where its tools are.

use std::fs;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

#[test]
fn it_is_built_from_the_sources_of_this_tree() {
    let digest = source_digest(&sources(&read("ebpf/build-object")));
    assert_eq!(recorded("sources"), digest, "run ebpf/build-object and commit what it makes");
}

#[test]
fn it_is_the_one_that_was_recorded() {
    let object = fs::read(root().join("ebpf/loader/object/interdict.bpf.o")).unwrap();
    assert_eq!(recorded("object"), hex(&object), "commit the object together with its RECORD");
}

#[test]
fn the_list_of_sources_may_take_several_lines() {
    let script = "set -e\nsources=(a/Cargo.toml a/src\n    b)\nmain() {\n    local flags=(c)\n}\n";
    assert_eq!(sources(script), ["a/Cargo.toml", "a/src", "b"]);
}

/// The files and folders that the script names: its list is the only one.
fn sources(script: &str) -> Vec<&str> {
    let (_, behind) = script.split_once("\nsources=(").expect("the script has a list of sources");
    let (list, _) = behind.split_once(')').expect("the list ends");
    list.split_whitespace().collect()
}

/// The digest that the script computes: of `sha256sum`'s lines for all files, sorted by path.
fn source_digest(sources: &[&str]) -> String {
    let mut files = Vec::new();
    sources.iter().for_each(|source| files_below(source.into(), &mut files));
    files.sort_unstable_by(|a, b| a.as_os_str().cmp(b.as_os_str()));
    let line = |path: &PathBuf| {
        let digest = hex(&fs::read(root().join(path)).unwrap());
        format!("{digest}  {}\n", path.display())
    };
    hex(files.iter().map(line).collect::<String>().as_bytes())
}

/// Collects a file, or every file in a folder and below it.
fn files_below(path: PathBuf, files: &mut Vec<PathBuf>) {
    if root().join(&path).is_file() {
        return files.push(path);
    }
    for entry in fs::read_dir(root().join(&path)).unwrap() {
        files_below(path.join(entry.unwrap().file_name()), files);
    }
}

/// What the record says under a word.
fn recorded(word: &str) -> String {
    let record = read("ebpf/loader/object/RECORD");
    let mut lines = record.lines().filter_map(|line| line.split_once(' '));
    let (_, value) = lines.find(|(first, _)| *first == word).expect("the record has the line");
    value.to_owned()
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap()
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn hex(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}
