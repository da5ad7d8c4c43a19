//! Every pack that ships as a file: in order by itself and beside all others, tested rule by rule, and sourced.

use std::collections::BTreeSet;

use interdict_policy::{Action, Confidence, Source, compile};

/// Every `*.toml` in `packs`.
fn packs() -> Vec<Source> {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/packs");
    let mut packs: Vec<Source> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "toml"))
        .map(|path| Source {
            name: path.file_name().unwrap().to_string_lossy().into_owned(),
            text: std::fs::read_to_string(path).unwrap(),
        })
        .collect();
    packs.sort_by(|a, b| a.name.cmp(&b.name));
    packs
}

#[test]
fn each_pack_is_in_order_by_itself_and_says_where_it_comes_from() {
    for pack in packs() {
        let compiled = compile(std::slice::from_ref(&pack)).unwrap_or_else(|problems| panic!("{problems}"));
        let policy = &compiled.policy;
        let name = pack.name.strip_suffix(".toml").unwrap();
        assert_eq!(policy.bans().collect::<Vec<_>>(), [name], "{}: the ban is called as the file", pack.name);
        assert!(!policy.instruments().is_empty(), "{name} cites no instrument");
        assert!(pack.text.contains("\nreviewed = "), "{name} does not say when it was reviewed");
        for rule in policy.rules() {
            let id = rule.id.as_str();
            assert!(id.starts_with(&format!("{name}-{}", rule.role)), "{id} does not name its role");
            assert!(rule.source.is_some(), "{id} has no source");
            assert_ne!((rule.action, rule.confidence), (Action::Block, Confidence::Low), "{id}");
            assert!(pack.text.contains(&format!("rule = \"{id}\"")), "no [[test]] names rule {id}");
        }
        assert!(pack.text.contains("expect = \"none\""), "{name} tests no name that it must not touch");
    }
}

#[test]
fn all_packs_together_are_one_policy() {
    let packs = packs();
    assert_eq!(packs.len(), 8);
    let compiled = compile(&packs).unwrap_or_else(|problems| panic!("{problems}"));
    let together: Vec<String> = compiled
        .notes
        .iter()
        .filter(|note| note.message.contains("is also in rule"))
        .map(ToString::to_string)
        .collect();
    assert!(together.is_empty(), "packs meet in one name: {together:?}");
    let bans: BTreeSet<&str> = compiled.policy.bans().collect();
    assert_eq!(bans.len(), packs.len());
}
