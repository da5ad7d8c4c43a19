//! The fuzz targets' bodies on stable: with every file of the corpus, and with what is near it.

use std::fs;
use std::path::{Path, PathBuf};

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};

#[path = "../../tests/fuzz/src/policy.rs"]
#[expect(unreachable_pub, reason = "the fuzz targets, a workspace of their own, call it too")]
mod bodies;

type Body = fn(&[u8]);

/// Every target and the folder of its corpus.
const TARGETS: [(&str, Body); 6] = [
    ("policy", bodies::policy),
    ("name", bodies::name),
    ("import_rpz", bodies::import_rpz),
    ("import_hosts", bodies::import_hosts),
    ("import_domains", bodies::import_domains),
    ("import_cidrs", bodies::import_cidrs),
];

fn fuzz() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fuzz")
}

fn corpus(target: &str) -> Vec<Vec<u8>> {
    let files = fs::read_dir(fuzz().join("corpus").join(target)).unwrap();
    let corpus: Vec<Vec<u8>> = files.map(|file| fs::read(file.unwrap().path()).unwrap()).collect();
    assert!(!corpus.is_empty(), "{target} has no corpus");
    corpus
}

#[test]
fn every_file_of_the_corpus_is_read_as_its_target_says() {
    for (target, body) in TARGETS {
        assert!(fuzz().join(format!("fuzz_targets/{target}.rs")).is_file(), "no target {target}");
        corpus(target).iter().for_each(|bytes| body(bytes));
    }
}

/// A file of the corpus in which some bytes are replaced by others.
fn near_the_corpus() -> impl Strategy<Value = (Body, Vec<u8>)> {
    let seeds: Vec<(Body, Vec<u8>)> = TARGETS
        .into_iter()
        .flat_map(|(target, body)| corpus(target).into_iter().map(move |bytes| (body, bytes)))
        .collect();
    let patch = (any::<Index>(), 0..6usize, vec(any::<u8>(), 0..6));
    (select(seeds), vec(patch, 0..8)).prop_map(|((body, mut bytes), patches)| {
        for (at, gone, fresh) in patches {
            let at = at.index(bytes.len() + 1);
            let end = bytes.len().min(at + gone);
            bytes.splice(at..end, fresh);
        }
        (body, bytes)
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2048))]

    #[test]
    fn so_is_what_is_near_it((body, bytes) in near_the_corpus()) {
        body(&bytes);
    }
}
