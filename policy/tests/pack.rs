//! The Kaspersky pack says what its table of facts says, and nothing else.

use std::collections::{BTreeMap, BTreeSet};

use interdict_policy::{Action, Ask, Confidence, Options, Rule, compile, compile_with, packs};

const TABLE: &str = include_str!("../packs/kaspersky.tsv");

/// One row of the table, under its matcher and value.
struct Fact<'t> {
    role: &'t str,
    action: &'t str,
    confidence: &'t str,
    fixed: bool,
    source: &'t str,
}

fn facts() -> BTreeMap<(&'static str, String), Fact<'static>> {
    let mut facts = BTreeMap::new();
    for line in TABLE.lines().skip(1) {
        let cells: Vec<&str> = line.split('\t').collect();
        let &[kind, value, role, action, confidence, fixed, source, ..] = cells.as_slice() else {
            panic!("a row has too few cells: {line}");
        };
        let list = match kind {
            "domain-suffix" => "domains",
            "domain-exact" => "hosts",
            "glob" => "globs",
            "cidr4" | "cidr6" => "networks",
            "asn" => continue,
            other => panic!("the table holds a kind that this test does not know: {other}"),
        };
        if confidence != "low" {
            let fact = Fact { role, action, confidence, fixed: fixed == "yes", source };
            assert!(
                facts.insert((list, value.to_owned()), fact).is_none(),
                "{value} stands twice in the table"
            );
        }
    }
    facts
}

fn values(rule: &Rule) -> impl Iterator<Item = (&'static str, String)> {
    let hosts = rule.hosts.iter().map(|at| ("hosts", at.value.to_string()));
    let domains = rule.domains.iter().map(|at| ("domains", at.value.to_string()));
    let globs = rule.globs.iter().map(|at| ("globs", at.value.to_string()));
    let networks = rule.networks.iter().map(|at| ("networks", at.value.to_string()));
    hosts.chain(domains).chain(globs).chain(networks)
}

#[test]
fn every_fact_worth_acting_on_is_in_the_pack_and_nothing_else() {
    let mut facts = facts();
    let compiled = compile(&[packs::kaspersky()]).unwrap_or_else(|problems| panic!("{problems}"));
    for rule in compiled.policy.rules() {
        let sources: BTreeSet<&str> = rule.source.as_deref().unwrap_or("").split("; ").collect();
        for (list, value) in values(rule) {
            let fact = facts
                .remove(&(list, value.clone()))
                .unwrap_or_else(|| panic!("{list} {value} of rule {} is not in the table", rule.id));
            let written = (rule.role.as_str(), rule.action.as_str(), rule.confidence.as_str(), rule.fixed);
            assert_eq!(
                written,
                (fact.role, fact.action, fact.confidence, fact.fixed),
                "{value} in {}",
                rule.id
            );
            for source in fact.source.split(';') {
                assert!(sources.contains(source), "{}: the source {source} of {value} is missing", rule.id);
            }
        }
        assert_ne!(rule.confidence, Confidence::Low, "{}", rule.id);
        assert!(rule.id.as_str().starts_with(&format!("kaspersky-{}", rule.role)), "{}", rule.id);
    }
    let missing: Vec<_> = facts.keys().collect();
    assert!(missing.is_empty(), "in the table but in no rule: {missing:?}");
}

#[test]
fn every_rule_of_the_pack_is_tested_by_the_pack() {
    let compiled = compile(&[packs::kaspersky()]).unwrap_or_else(|problems| panic!("{problems}"));
    let text = packs::kaspersky().text;
    for rule in compiled.policy.rules() {
        assert!(text.contains(&format!("rule = \"{}\"", rule.id)), "no [[test]] names rule {}", rule.id);
    }
    assert!(compiled.tests >= compiled.policy.rules().len());
}

#[test]
fn every_profile_cites_an_instrument_and_reaches_no_further() {
    let written = compile(&[packs::kaspersky()]).unwrap_or_else(|problems| panic!("{problems}")).policy;
    let ids: Vec<&str> = written.profiles().iter().map(|profile| profile.id.as_str()).collect();
    assert_eq!(ids, ["us-bis", "us-federal", "au-pspf", "ca-mobile", "nl-av-only", "advisory"]);

    // update, ksn, portal, threat-intelligence portal, website, blog, and the vendor's own mail domain, which is fixed.
    let asks = [
        "s07.upd.kaspersky.com",
        "dc1.ksn.kaspersky-labs.com",
        "my.kaspersky.com",
        "opentip.kaspersky.com",
        "www.kaspersky.com",
        "securelist.com",
        "avp.ru",
    ];
    for (id, actions) in [
        ("us-bis", "block block log log log log block"),
        ("us-federal", "block block block block block log block"),
        ("au-pspf", "block block block block block log block"),
        ("ca-mobile", "block block log log log log block"),
        ("nl-av-only", "block block log log log log block"),
        ("advisory", "log log log log log log block"),
    ] {
        let options = Options { profile: Some(id.into()), ..Options::default() };
        let policy = compile_with(&[packs::kaspersky()], &options).unwrap_or_else(|e| panic!("{e}")).policy;
        let profile = policy.profiles().iter().find(|profile| profile.id == id).unwrap();
        assert!(!profile.legal_basis.is_empty(), "{id}");
        let decided = asks.map(|ask| match ask.parse().unwrap() {
            Ask::Name(name) => policy.rule(policy.decide_name(name.as_name()).unwrap().rule).action.as_str(),
            Ask::Address(..) => unreachable!("names are asked"),
        });
        assert_eq!(decided.join(" "), actions, "{id}");
        assert_ne!(policy.digest(), written.digest(), "{id}");
        for (rule, before) in policy.rules().iter().zip(written.rules()) {
            assert!(!rule.fixed || rule.action == before.action, "{id} changes {}, which is fixed", rule.id);
            assert_ne!(rule.action, Action::Allow, "{id} {}", rule.id);
        }
    }
}
