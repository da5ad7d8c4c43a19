//! The fuzz targets' bodies on stable: with every file of the corpus, cut off anywhere, and with what is near it.

use proptest::prelude::*;

#[path = "../../../tests/fuzz/src/wire.rs"]
#[expect(unreachable_pub, reason = "the fuzz target, in a workspace of its own, calls it too")]
mod wire_body;

#[path = "../../../tests/fuzz/src/frame.rs"]
#[expect(unreachable_pub, reason = "the fuzz target, in a workspace of its own, calls it too")]
mod frame_body;

#[path = "../../../tests/fuzz/near.rs"]
mod near;

use frame_body::frame;
use near::{cut_off_anywhere, near_the_corpus};
use wire_body::wire;

#[test]
fn both_planes_agree_on_the_corpus_cut_off_anywhere() {
    cut_off_anywhere("wire", wire);
}

#[test]
fn frames_of_the_corpus_are_read_cut_off_anywhere() {
    cut_off_anywhere("frame", frame);
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
