//! The fuzz target's body on stable: with every file of the corpus, cut off anywhere, and with what is near it.

use std::fs;
use std::path::Path;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};

#[path = "../../../tests/fuzz/src/wire.rs"]
#[expect(unreachable_pub, reason = "the fuzz target, in a workspace of its own, calls it too")]
mod body;

use body::wire;

fn corpus() -> Vec<Vec<u8>> {
    let fuzz = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fuzz");
    assert!(fuzz.join("fuzz_targets/wire.rs").is_file(), "no target");
    let files = fs::read_dir(fuzz.join("corpus/wire")).unwrap();
    files.map(|file| fs::read(file.unwrap().path()).unwrap()).collect()
}

#[test]
fn both_planes_agree_on_the_corpus_cut_off_anywhere() {
    let corpus = corpus();
    assert!(!corpus.is_empty(), "there is no corpus");
    for bytes in corpus {
        (0..=bytes.len()).for_each(|len| wire(&bytes[..len]));
    }
}

/// A file of the corpus in which some bytes are replaced by others.
fn near_the_corpus() -> impl Strategy<Value = Vec<u8>> {
    let patch = (any::<Index>(), 0..6_usize, vec(any::<u8>(), 0..6));
    (select(corpus()), vec(patch, 0..6)).prop_map(|(mut bytes, patches)| {
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
    fn and_on_what_is_near_it(bytes in near_the_corpus()) {
        wire(&bytes);
    }
}
