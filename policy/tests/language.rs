//! What the words of the language do, one case a line.

use std::net::IpAddr;

use interdict_policy::{DomainName, Options, Policy, Problems, Source, Timestamp, compile_with};

fn compiled(files: &[&str]) -> Policy {
    compiled_with(files, &Options::default()).unwrap_or_else(|problems| panic!("{problems}"))
}

fn compiled_with(files: &[&str], options: &Options) -> Result<Policy, Problems> {
    let sources: Vec<Source> = files
        .iter()
        .enumerate()
        .map(|(i, text)| Source { name: format!("{i}.toml"), text: format!("format = 1\n{text}") })
        .collect();
    compile_with(&sources, options).map(|compiled| compiled.policy)
}

fn time(text: &str) -> Timestamp {
    text.parse().unwrap()
}

fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

const BAN: &str = r#"
[ban]
id = "v"
vendor = "V"

[[rule]]
id = "v-update"
role = "update"
action = "block"
domains = ["v.example"]
networks = ["192.0.2.0/24"]
"#;

#[test]
fn the_longest_prefix_names_the_unit() {
    let policy = compiled(&[
        BAN,
        r#"
        [[unit]]
        id = "hq"
        title = "Headquarters"
        networks = ["10.1.0.0/16", "2001:db8::/32"]

        [[unit]]
        id = "lab"
        title = "Laboratory"
        networks = ["10.1.2.0/24"]
        "#,
    ]);
    for (client, unit) in [
        ("10.1.1.1", Some("hq")),
        ("10.1.2.3", Some("lab")),
        ("::ffff:10.1.2.3", Some("lab")),
        ("2001:db8::1", Some("hq")),
        ("10.2.0.1", None),
        ("::a01:203", None),
    ] {
        assert_eq!(policy.unit(address(client)).map(|unit| unit.id.as_str()), unit, "{client}");
    }
}

const REGISTER: &str = r#"
[[rule]]
id = "mine"
role = "x"
action = "allow"
hosts = ["www.v.example"]

[[exempt]]
id = "lab"
clients = ["10.9.8.0/28", "2001:db8::/64"]
rules = ["v-update", "mine"]
reason = "sample analysis"
approved_by = "CISO"
expires = 2027-03-31

[[exempt]]
id = "one-evening"
clients = ["10.9.8.1/32"]
rules = ["v-update"]
reason = "clean-up"
approved_by = "CISO"
expires = 2027-01-01T18:00:00+02:00
"#;

#[test]
fn an_exemption_stands_for_its_clients_and_rules_until_it_ends() {
    let policy = compiled(&[BAN, REGISTER]);
    for (name, client, at, verdict, exemption) in [
        ("a.v.example", "10.9.8.15", "2027-03-31T23:59:59.999Z", "exempt", Some("lab")),
        ("a.v.example", "10.9.8.15", "2027-04-01T00:00:00Z", "block", None),
        ("a.v.example", "10.9.8.16", "2027-01-01T00:00:00Z", "block", None),
        ("a.v.example", "::ffff:10.9.8.15", "2027-01-01T00:00:00Z", "exempt", Some("lab")),
        ("a.v.example", "2001:db8::ffff", "2027-01-01T00:00:00Z", "exempt", Some("lab")),
        // The narrower line goes first, and where it has ended the wider one stands.
        ("a.v.example", "10.9.8.1", "2027-01-01T15:59:59Z", "exempt", Some("one-evening")),
        ("a.v.example", "10.9.8.1", "2027-01-01T16:00:00Z", "exempt", Some("lab")),
        // What is allowed to everyone needs no exemption.
        ("www.v.example", "10.9.8.1", "2027-01-01T00:00:00Z", "allow", None),
    ] {
        let name: DomainName = name.parse().unwrap();
        let rule = policy.decide_name(name.as_name()).unwrap().rule;
        let judgement = policy.judge(rule, Some(address(client)), time(at));
        assert_eq!(judgement.verdict.as_str(), verdict, "{name} {client} {at}");
        assert_eq!(judgement.exemption.map(|e| e.id.as_str()), exemption, "{name} {client} {at}");
        assert_eq!(policy.judge(rule, None, time(at)).exemption.map(|e| &e.id), None);
    }
}

#[test]
fn the_register_says_when_it_changes_next() {
    let policy = compiled(&[BAN, REGISTER]);
    let (first, last) = (time("2027-01-01T16:00:00Z"), time("2027-04-01T00:00:00Z"));
    for (at, next, expired) in [
        (Timestamp::UNIX_EPOCH, Some(first), vec![]),
        (first, Some(last), vec!["one-evening"]),
        (last, None, vec!["lab", "one-evening"]),
    ] {
        assert_eq!(policy.next_expiry(at), next, "{at}");
        assert_eq!(policy.expired(at).map(|e| e.id.as_str()).collect::<Vec<_>>(), expired, "{at}");
    }
}

#[test]
fn local_tests_judge_with_exemptions_at_their_own_time_or_that_of_the_compiling() {
    let test = |at: &str, expect: &str| {
        format!(
            "{REGISTER}\n[[test]]\nname = \"n\"\nask = \"v.example\"\nclient = \"10.9.8.2\"\n{at}expect = \"{expect}\"\n"
        )
    };
    let after = Options { at: time("2028-01-01T00:00:00Z"), ..Options::default() };
    for (at, expect, options, fine) in [
        ("", "exempt", &Options::default(), true),
        ("", "exempt", &after, false),
        ("", "block", &after, true),
        ("at = 2027-03-31\n", "exempt", &after, true),
        ("at = 2027-04-01\n", "block", &Options::default(), true),
        ("at = 2027-04-01T01:30:00+02:00\n", "exempt", &after, true),
    ] {
        let compiled = compiled_with(&[BAN, &test(at, expect)], options);
        assert_eq!(compiled.is_ok(), fine, "{at} {expect}: {compiled:?}");
    }
}

#[test]
fn a_day_and_the_moment_it_ends_are_the_same_policy() {
    let moment = REGISTER.replace("2027-03-31", "2027-04-01T02:00:00+02:00");
    assert_eq!(compiled(&[BAN, REGISTER]).digest(), compiled(&[&moment, BAN]).digest());
    let later = REGISTER.replace("2027-03-31", "2027-04-01");
    assert_ne!(compiled(&[BAN, REGISTER]).digest(), compiled(&[BAN, &later]).digest());
}

const PROFILES: &str = r#"
[ban]
id = "v"
vendor = "V"

[[instrument]]
id = "law"
title = "T"
citation = "C"
effective = 2024-01-01

[[rule]]
id = "v-update"
role = "update"
action = "block"
domains = ["update.example"]

[[rule]]
id = "v-fixed"
role = "update"
action = "log"
fixed = true
domains = ["fixed.example"]

[[rule]]
id = "v-news"
role = "news-blog"
action = "block"
domains = ["news.example"]

[profile.strict]
legal_basis = ["law"]
update = "block"
news-blog = "block"

[profile.lenient]
update = "log"

[[test]]
name = "as written"
ask = "update.example"
expect = "block"
"#;

/// The actions for the update, the fixed and the news rule, and a local one of role `update`.
fn actions(policy: &Policy) -> String {
    let actions = ["update.example", "fixed.example", "news.example", "local.example"].map(|name| {
        let name: DomainName = name.parse().unwrap();
        policy.decide_name(name.as_name()).map_or("none", |found| policy.rule(found.rule).action.as_str())
    });
    actions.join(" ")
}

const LOCAL: &str =
    "[[rule]]\nid = \"mine\"\nrole = \"update\"\naction = \"block\"\nhosts = [\"local.example\"]\n";

#[test]
fn a_profile_sets_actions_by_role_for_its_own_ban() {
    let change = "[[override]]\nrule = \"v-update\"\naction = \"allow\"\n";
    for (profile, local, decided) in [
        (None, LOCAL.to_owned(), "block log block block"),
        (Some("strict"), LOCAL.to_owned(), "block log block block"),
        (Some("lenient"), LOCAL.to_owned(), "log log block block"),
        // An override goes before the profile, and the agent's configuration before a file's choice.
        (Some("lenient"), format!("{LOCAL}{change}"), "allow log block block"),
        (None, format!("use_profile = \"lenient\"\n{LOCAL}"), "log log block block"),
        (Some("strict"), format!("use_profile = \"lenient\"\n{LOCAL}"), "block log block block"),
        // Rules of a site's own have a profile of their own, which is chosen by the same name.
        (Some("lenient"), format!("{LOCAL}[profile.lenient]\nupdate = \"allow\"\n"), "log log block allow"),
    ] {
        let options = Options { profile: profile.map(str::to_owned), ..Options::default() };
        let policy = compiled_with(&[PROFILES, &local], &options).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(actions(&policy), decided, "{profile:?} {local}");
    }
}

#[test]
fn the_profile_in_force_is_part_of_the_digest_and_the_others_are_not() {
    let chosen = |text: &str, profile: Option<&str>| {
        let options = Options { profile: profile.map(str::to_owned), ..Options::default() };
        compiled_with(&[text], &options).unwrap_or_else(|e| panic!("{e}"))
    };
    let written = chosen(PROFILES, None);
    let strict = chosen(PROFILES, Some("strict"));
    assert_eq!(actions(&written), actions(&strict));
    assert_ne!(written.digest(), strict.digest());
    let other = PROFILES.replace("update = \"log\"", "update = \"allow\"");
    assert_eq!(written.digest(), chosen(&other, None).digest());
    assert_eq!(strict.digest(), chosen(&other, Some("strict")).digest());
    assert_ne!(chosen(PROFILES, Some("lenient")).digest(), chosen(&other, Some("lenient")).digest());

    // The canonical form needs nobody to choose again.
    let lenient = chosen(PROFILES, Some("lenient"));
    let files: Vec<String> =
        lenient.canonical_files().iter().map(|file| file.text.replace("format = 1\n", "")).collect();
    let again = compiled(&files.iter().map(String::as_str).collect::<Vec<_>>());
    assert_eq!((again.digest(), again.profile()), (lenient.digest(), Some("lenient")));
    assert_eq!(actions(&again), actions(&lenient));
}

#[test]
fn egress_dns_has_defaults_and_only_what_differs_is_another_policy() {
    let words = |policy: &Policy| {
        let egress = policy.egress_dns();
        [egress.plain.as_str(), egress.dot.as_str(), egress.doh.as_str(), egress.unjudged.as_str()].join(" ")
    };
    let without = compiled(&[BAN]);
    let default = compiled(&[BAN, "[egress_dns]\ndot = \"log\"\n"]);
    assert_eq!(words(&without), "allow log log log");
    assert_eq!((words(&default), default.digest()), (words(&without), without.digest()));

    let strict = compiled(&[
        BAN,
        "[egress_dns]\nplain = \"redirect\"\ndot = \"block\"\ndoh = \"allow\"\nunjudged = \"block\"\nresolvers = [\"10.1.0.53\", \"::ffff:10.1.0.54\"]\n",
    ]);
    assert_eq!(words(&strict), "redirect block allow block");
    assert_ne!(strict.digest(), without.digest());
    for (resolver, ours) in
        [("10.1.0.53", true), ("10.1.0.54", true), ("::ffff:10.1.0.53", true), ("10.1.0.55", false)]
    {
        assert_eq!(strict.egress_dns().is_resolver(address(resolver)), ours, "{resolver}");
    }
}

#[test]
fn learning_is_off_unless_asked_for() {
    let learning = compiled(&[&BAN.replace("action = \"block\"", "action = \"block\"\nlearn = true")]);
    assert!(learning.rules()[0].learn);
    assert!(!compiled(&[BAN]).rules()[0].learn);
    assert_ne!(learning.digest(), compiled(&[BAN]).digest());
}
