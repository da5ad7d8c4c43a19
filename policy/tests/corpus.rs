//! The fuzz targets' bodies on stable: with every file of the corpus, and with what is near it.

use proptest::prelude::*;

#[path = "../../tests/fuzz/src/policy.rs"]
#[expect(unreachable_pub, reason = "the fuzz targets, a workspace of their own, call it too")]
mod bodies;

#[path = "../../tests/fuzz/near.rs"]
mod near;

type Body = fn(&[u8]);

const TARGETS: [(&str, Body); 6] = [
    ("policy", bodies::policy),
    ("name", bodies::name),
    ("import_rpz", bodies::import_rpz),
    ("import_hosts", bodies::import_hosts),
    ("import_domains", bodies::import_domains),
    ("import_cidrs", bodies::import_cidrs),
];

#[test]
fn the_corpus_is_read_as_its_targets_say_cut_off_anywhere() {
    TARGETS.into_iter().for_each(|(target, body)| near::cut_off_anywhere(target, body));
}

fn near_any() -> impl Strategy<Value = (Body, Vec<u8>)> {
    let targets =
        TARGETS.map(|(target, body)| near::near_the_corpus(target).prop_map(move |bytes| (body, bytes)));
    proptest::strategy::Union::new(targets)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2048))]

    #[test]
    fn so_is_what_is_near_it((body, bytes) in near_any()) {
        body(&bytes);
    }
}
