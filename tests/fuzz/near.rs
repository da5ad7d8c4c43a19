//! What tests of the crates do with the fuzz targets' bodies on stable: with every file of a target's corpus, cut off anywhere, and
//! with what is near it.

use std::fs;
use std::path::Path;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};

/// The files of a target's corpus.
pub(crate) fn corpus(target: &str) -> Vec<Vec<u8>> {
    let crate_folder = Path::new(env!("CARGO_MANIFEST_DIR"));
    let fuzz = crate_folder.ancestors().map(|folder| folder.join("tests/fuzz")).find(|fuzz| fuzz.is_dir());
    let fuzz = fuzz.expect("the targets stand in the same tree");
    assert!(fuzz.join(format!("fuzz_targets/{target}.rs")).is_file(), "no target {target}");
    let files = fs::read_dir(fuzz.join("corpus").join(target)).unwrap();
    let corpus: Vec<Vec<u8>> = files.map(|file| fs::read(file.unwrap().path()).unwrap()).collect();
    assert!(!corpus.is_empty(), "{target} has no corpus");
    corpus
}

/// Calls a body with every file of its corpus, cut off anywhere.
pub(crate) fn cut_off_anywhere(target: &str, body: fn(&[u8])) {
    for bytes in corpus(target) {
        (0..=bytes.len()).for_each(|len| body(&bytes[..len]));
    }
}

/// A file of the corpus in which some bytes are replaced by others.
pub(crate) fn near_the_corpus(target: &str) -> impl Strategy<Value = Vec<u8>> + use<> {
    let patch = (any::<Index>(), 0..6_usize, vec(any::<u8>(), 0..6));
    (select(corpus(target)), vec(patch, 0..8)).prop_map(|(mut bytes, patches)| {
        for (at, gone, fresh) in patches {
            let at = at.index(bytes.len() + 1);
            let end = bytes.len().min(at + gone);
            bytes.splice(at..end, fresh);
        }
        bytes
    })
}
