//! What may be a mistake, found in a policy that is in order.

use interdict_policy::lints::lints;
use interdict_policy::{Source, compile, packs};

fn found(rule: &str) -> Vec<String> {
    let head = "format = 1\n[ban]\nid = \"v\"\n[[rule]]\nid = \"r\"\nrole = \"x\"\n";
    let compiled = compile(&[Source { name: "p.toml".into(), text: format!("{head}{rule}") }]).unwrap();
    let lints = lints(&compiled);
    lints.iter().map(|lint| format!("{} {:?}", lint.code.as_str(), lint.at.unwrap())).collect()
}

#[test]
fn each_lint_has_its_place() {
    const TEST: &str = "[[test]]\nname = \"t\"\nask = \"a.example\"\nexpect = \"block\"\n";
    let sourced = "action = \"block\"\nsource = \"a document\"\n";
    for (rule, expect) in [
        (format!("{sourced}domains = [\"a.example\"]\n{TEST}"), vec![]),
        (format!("{sourced}domains = [\"a.example\"]\n"), vec!["untested (4, 1)"]),
        (format!("action = \"block\"\ndomains = [\"a.example\"]\n{TEST}"), vec!["unsourced (4, 1)"]),
        (
            format!("{sourced}confidence = \"low\"\ndomains = [\"a.example\"]\n{TEST}"),
            vec!["low-confidence (4, 1)"],
        ),
        (format!("{sourced}domains = [\"a.example\", \"co.uk\"]\n{TEST}"), vec!["public-suffix (9, 25)"]),
        (format!("{sourced}domains = [\"a.example\", \"github.io\"]\n{TEST}"), vec!["public-suffix (9, 25)"]),
        (format!("{sourced}domains = [\"a.example\", \"b.a.example\"]\n{TEST}"), vec!["shadowed (9, 25)"]),
        (
            format!("{sourced}domains = [\"a.example\"]\nhosts = [\"c.a.example\", \"d.a.example\"]\n{TEST}"),
            vec!["shadowed (10, 10)"],
        ),
        (
            format!(
                "{sourced}domains = [\"a.example\"]\nnetworks = [\"192.168.7.0/24\", \"fe80::/64\"]\n{TEST}"
            ),
            vec!["wide-network (10, 13)", "wide-network (10, 31)"],
        ),
        (
            format!(
                "{sourced}domains = [\"a.example\"]\nnetworks = [\"104.16.7.0/24\", \"3.0.0.0/9\"]\n{TEST}"
            ),
            vec!["wide-network (10, 13)", "wide-network (10, 30)"],
        ),
    ] {
        assert_eq!(found(&rule), expect, "{rule}");
    }
}

#[test]
fn the_embedded_pack_gives_no_reason_but_its_listed_hosts() {
    let lints = lints(&compile(&[packs::kaspersky()]).unwrap());
    let others: Vec<String> = lints
        .iter()
        .filter(|lint| lint.code.as_str() != "shadowed")
        .map(|lint| format!("{lint} [{}]", lint.code.as_str()))
        .collect();
    assert_eq!(others, Vec::<String>::new());
}
