//! What may be a mistake, found in a policy that is in order.

use interdict_policy::lints::lints;
use interdict_policy::{Code, Source, compile};

fn found(rule: &str) -> Vec<String> {
    let head = "format = 1\n[ban]\nid = \"v\"\nvendor = \"V\"\n[[rule]]\nid = \"r\"\nrole = \"x\"\n";
    let compiled = compile(&[Source { name: "p.toml".into(), text: format!("{head}{rule}") }]).unwrap();
    let lints = lints(&compiled);
    lints.iter().map(|lint| format!("{} {:?}", lint.code.as_str(), lint.at.unwrap())).collect()
}

#[test]
fn each_lint_has_its_place() {
    const OTHER: &str = "[[rule]]\nid = \"o\"\nrole = \"x\"\naction = \"log\"\nsource = \"Order 42\"\n";
    const TEST: &str = "[[test]]\nname = \"t\"\nask = \"a.example\"\nexpect = \"block\"\n";
    let sourced = "action = \"block\"\nsource = \"Order 42\"\n";
    for (rule, expect) in [
        (format!("{sourced}domains = [\"a.example\"]\n{TEST}"), vec![]),
        (format!("{sourced}domains = [\"a.example\"]\n"), vec!["untested (5, 1)"]),
        (format!("action = \"block\"\ndomains = [\"a.example\"]\n{TEST}"), vec!["unsourced (5, 1)"]),
        (
            format!("{sourced}confidence = \"low\"\ndomains = [\"a.example\"]\n{TEST}"),
            vec!["low-confidence (5, 1)"],
        ),
        (format!("{sourced}domains = [\"a.example\", \"co.uk\"]\n{TEST}"), vec!["public-suffix (10, 25)"]),
        (
            format!("{sourced}domains = [\"a.example\", \"github.io\"]\n{TEST}"),
            vec!["public-suffix (10, 25)"],
        ),
        (format!("{sourced}domains = [\"a.example\", \"b.a.example\"]\n{TEST}"), vec!["shadowed (10, 25)"]),
        (
            format!("{sourced}domains = [\"a.example\"]\nhosts = [\"c.a.example\", \"d.a.example\"]\n{TEST}"),
            vec!["shadowed (11, 10)"],
        ),
        (
            format!(
                "{sourced}domains = [\"a.example\"]\nnetworks = [\"192.168.7.0/24\", \"fe80::/64\"]\n{TEST}"
            ),
            vec!["wide-network (11, 13)", "wide-network (11, 31)"],
        ),
        (
            format!(
                "{sourced}domains = [\"a.example\"]\nnetworks = [\"104.16.7.0/24\", \"3.0.0.0/9\"]\n{TEST}"
            ),
            vec!["wide-network (11, 13)", "wide-network (11, 30)"],
        ),
        (
            format!(
                "{sourced}domains = [\"a.example\"]\nglobs = [\"x*.github.io\", \"x*.b.example\"]\n{TEST}"
            ),
            vec!["public-suffix (11, 10)"],
        ),
        (
            format!(
                "{sourced}domains = [\"a.example\"]\npatterns = [{{ under = \"co.uk\", match = 'a' }}]\n{TEST}"
            ),
            vec!["public-suffix (11, 13)"],
        ),
        (
            format!(
                "{sourced}domains = [\"a.example\"]\nglobs = [\"x*.b.a.example\", \"x*.b.example\"]\n{TEST}"
            ),
            vec!["shadowed (11, 10)"],
        ),
        (
            format!(
                "{sourced}domains = [\"a.example\"]\npatterns = [{{ under = \"a.example\", match = 'a' }}]\n{TEST}"
            ),
            vec!["shadowed (11, 13)"],
        ),
        // Another rule stands between, or has a glob that this one goes before.
        (
            format!(
                "{sourced}domains = [\"a.example\"]\nglobs = [\"x*.b.a.example\"]\n{}domains = [\"b.a.example\"]\n{TEST}",
                OTHER
            ),
            vec!["untested (12, 1)"],
        ),
        (
            format!(
                "{sourced}domains = [\"a.example\"]\nglobs = [\"x*.a.example\"]\n{}globs = [\"y*.a.example\"]\n{TEST}",
                OTHER
            ),
            vec!["untested (12, 1)"],
        ),
        (
            format!(
                "{sourced}domains = [\"a.example\"]\nnetworks = [\"192.0.2.0/24\", \"192.0.2.0/28\", \"2001:db8::/32\"]\n{TEST}"
            ),
            vec!["shadowed (11, 29)"],
        ),
        (
            format!(
                "{sourced}domains = [\"a.example\"]\nnetworks = [\"192.0.2.0/24\", \"192.0.2.0/28\"]\n{}networks = [\"192.0.2.0/26\"]\n{TEST}",
                OTHER
            ),
            vec!["untested (12, 1)"],
        ),
        (
            format!(
                "{sourced}domains = [\"a.example\"]\nnetworks = [\"23.45.0.0/24\", \"13.33.0.0/24\", \"185.199.108.0/22\"]\n{TEST}"
            ),
            vec!["wide-network (11, 13)", "wide-network (11, 29)", "wide-network (11, 45)"],
        ),
    ] {
        assert_eq!(found(&rule), expect, "{rule}");
    }
}

#[test]
fn a_source_is_something_to_look_up() {
    const TEST: &str = "[[test]]\nname = \"t\"\nask = \"a.example\"\nexpect = \"block\"\n";
    for (source, fine) in [
        ("internal", false),
        ("common knowledge", false),
        ("our own research", false),
        ("https://support.acme.example/kb", true),
        ("MX record, 2026-11-20", true),
        ("89 FR 52434", true),
        ("v2fly", true),
        ("ACME Security Administration Guide", true),
        ("aegis; public-file", true),
    ] {
        let found =
            found(&format!("action = \"block\"\nsource = \"{source}\"\nhosts = [\"a.example\"]\n{TEST}"));
        assert_eq!(found.is_empty(), fine, "{source}: {found:?}");
    }
}

#[test]
fn the_packs_give_no_reason_but_their_listed_hosts() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/packs");
    let paths = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let mut seen = 0;
    for path in paths.filter(|path| path.extension().is_some_and(|extension| extension == "toml")) {
        let text = std::fs::read_to_string(&path).unwrap();
        let lints = lints(&compile(&[Source { name: path.display().to_string(), text }]).unwrap());
        let lints = lints.iter().filter(|lint| lint.code != Code::Shadowed);
        assert_eq!(lints.map(ToString::to_string).collect::<Vec<_>>(), Vec::<String>::new());
        seen += 1;
    }
    assert_eq!(seen, 8);
}

#[test]
fn a_rule_on_every_ipv4_address_in_another_spelling_goes_before_those_that_block_them() {
    const NETWORKS: &str = "networks = [\"64:ff9b::/96\"]\n";
    for (action, expect) in
        [("log", "this rule goes before those that block them"), ("block", "private or special")]
    {
        let text =
            format!("format = 1\n[[rule]]\nid = \"a\"\nrole = \"other\"\naction = \"{action}\"\n{NETWORKS}");
        let lints = lints(&compile(&[Source { name: "a.toml".to_owned(), text }]).unwrap());
        let said: Vec<_> = lints.iter().map(ToString::to_string).collect();
        assert!(said.iter().any(|line| line.contains(expect)), "{action}: {said:?}");
    }
}
