//! The fuzz targets' bodies on stable: with every file of the corpus, cut off anywhere, and with what is near it.

use proptest::prelude::*;

#[path = "../../tests/fuzz/src/history.rs"]
#[expect(unreachable_pub, reason = "the fuzz targets, in a workspace of their own, call it too")]
mod bodies;

#[path = "../../tests/fuzz/near.rs"]
mod near;

use bodies::{history, offer};
use near::{cut_off_anywhere, near_the_corpus};

#[test]
fn what_others_noted_is_read_cut_off_anywhere() {
    cut_off_anywhere("history", history);
}

#[test]
fn an_offer_is_read_cut_off_anywhere() {
    cut_off_anywhere("offer", offer);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2048))]

    #[test]
    fn and_so_is_what_is_near_it(bytes in near_the_corpus("history")) {
        history(&bytes);
    }

    #[test]
    fn and_so_is_what_is_near_an_offer(bytes in near_the_corpus("offer")) {
        offer(&bytes);
    }
}
