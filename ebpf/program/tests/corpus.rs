//! The fuzz targets' bodies on stable: with every file of the corpus, cut off anywhere, and with what is near it.

use std::fs;
use std::path::Path;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};

#[path = "../../../tests/fuzz/src/wire.rs"]
#[expect(unreachable_pub, reason = "the fuzz target, in a workspace of its own, calls it too")]
mod wire_body;

#[path = "../../../tests/fuzz/src/frame.rs"]
#[expect(unreachable_pub, reason = "the fuzz target, in a workspace of its own, calls it too")]
mod frame_body;

use frame_body::frame;
use wire_body::wire;

fn corpus(target: &str) -> Vec<Vec<u8>> {
    let fuzz = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fuzz");
    assert!(fuzz.join(format!("fuzz_targets/{target}.rs")).is_file(), "no target {target}");
    let files = fs::read_dir(fuzz.join("corpus").join(target)).unwrap();
    let corpus: Vec<Vec<u8>> = files.map(|file| fs::read(file.unwrap().path()).unwrap()).collect();
    assert!(!corpus.is_empty(), "{target} has no corpus");
    corpus
}

fn cut_off_anywhere(target: &str, body: fn(&[u8])) {
    for bytes in corpus(target) {
        (0..=bytes.len()).for_each(|len| body(&bytes[..len]));
    }
}

#[test]
fn both_planes_agree_on_the_corpus_cut_off_anywhere() {
    cut_off_anywhere("wire", wire);
}

#[test]
fn frames_of_the_corpus_are_read_cut_off_anywhere() {
    cut_off_anywhere("frame", frame);
}

/// A file of the corpus in which some bytes are replaced by others.
fn near_the_corpus(target: &str) -> impl Strategy<Value = Vec<u8>> + use<> {
    let patch = (any::<Index>(), 0..6_usize, vec(any::<u8>(), 0..6));
    (select(corpus(target)), vec(patch, 0..6)).prop_map(|(mut bytes, patches)| {
        for (at, gone, fresh) in patches {
            let at = at.index(bytes.len() + 1);
            let end = bytes.len().min(at + gone);
            bytes.splice(at..end, fresh);
        }
        bytes
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4096))]

    #[test]
    fn and_on_what_is_near_it(bytes in near_the_corpus("wire")) {
        wire(&bytes);
    }

    #[test]
    fn and_so_is_what_is_near_them(bytes in near_the_corpus("frame")) {
        frame(&bytes);
    }
}
