//! What changes between two policies, told by entry and by decision.

use interdict_policy::diff::{Change, Decided, Untried, differences, effects, untried};
use interdict_policy::{Ask, Policy, Source, Timestamp, compile, packs};

fn policy(text: &str) -> Policy {
    compile(&[Source { name: "p.toml".into(), text: format!("format = 1\n{text}") }]).unwrap().policy
}

const OLD: &str = r#"
[ban]
id = "v"
vendor = "V"
[[rule]]
id = "v-mail"
role = "mail"
action = "log"
hosts = ["mail.v.test"]
[[rule]]
id = "v-all"
role = "update"
action = "block"
domains = ["v.test"]
networks = ["192.0.2.0/24"]
ports = ["tcp/443"]
"#;

#[test]
fn a_policy_does_not_differ_from_itself() {
    let pack = compile(&[packs::kaspersky()]).unwrap().policy;
    assert_eq!((differences(&pack, &pack), effects(&pack, &pack)), (vec![], vec![]));
    let reordered = format!(
        "# the same\n[[rule]]{}[ban]\nid = \"v\"\nvendor = \"V\"\n",
        OLD.split_once("[[rule]]").unwrap().1
    );
    assert_eq!(differences(&policy(OLD), &policy(&reordered)), vec![]);
}

#[test]
fn what_comes_goes_and_changes_is_told() {
    let new = OLD
        .replace(
            "action = \"log\"\nhosts = [\"mail.v.test\"]",
            "action = \"block\"\nhosts = [\"post.v.test\"]",
        )
        .replace("id = \"v-all\"", "id = \"v-every\"");
    let found = differences(&policy(OLD), &policy(&new));
    let shown: Vec<_> = found.iter().map(|d| (d.entry.as_str(), d.id.as_str(), d.change)).collect();
    assert_eq!(
        shown,
        [
            ("rule", "v-all", Change::Removed),
            ("rule", "v-every", Change::Added),
            ("rule", "v-mail", Change::Changed)
        ]
    );
    let keys: Vec<_> =
        found[2].keys.iter().map(|k| (k.key.as_str(), k.old.join(","), k.new.join(","))).collect();
    assert_eq!(
        keys,
        [
            ("action", "log".to_owned(), "block".to_owned()),
            ("hosts", "mail.v.test".to_owned(), "post.v.test".to_owned())
        ]
    );
}

#[test]
fn what_is_decided_differently_is_told() {
    let new = OLD.replace("action = \"log\"", "action = \"allow\"").replace("tcp/443", "tcp/80");
    let found = effects(&policy(OLD), &policy(&new));
    let shown: Vec<_> = found.iter().map(|e| format!("{}: {} -> {}", e.ask, e.old, e.new)).collect();
    assert_eq!(
        shown,
        [
            "192.0.2.0:443/tcp: block by v-all -> none",
            "192.0.2.0:80/tcp: none -> block by v-all",
            "mail.v.test: log by v-mail -> allow by v-mail",
        ]
    );
}

#[test]
fn globs_and_patterns_are_tried_by_example_and_what_is_not_is_told() {
    let rule = |action: &str, matcher: &str| {
        let rule = format!("[[rule]]\nid = \"r\"\nrole = \"x\"\naction = \"{action}\"\n{matcher}\n");
        policy(&rule)
    };
    const EXEMPT: &str = "hosts = [\"a.test\"]\n[[exempt]]\nid = \"e\"\nclients = [\"10.0.0.0/28\"]\nrules = [\"r\"]\n\
        reason = \"r\"\napproved_by = \"a\"\nexpires = 2030-01-01";
    for (matcher, effect, left_out) in [
        ("globs = [\"s-*.v.test\"]", Some("s-any.v.test"), vec![]),
        ("patterns = [{ under = \"v.test\", match = 's[0-9]' }]", Some("s0.v.test"), vec![]),
        ("patterns = [{ under = \"v.test\", match = 's{64}' }]", None, vec![Untried::Patterns]),
        (EXEMPT, Some("a.test"), vec![Untried::Exemptions]),
    ] {
        let (old, new) = (rule("block", matcher), rule("allow", matcher));
        let found: Vec<String> = effects(&old, &new).into_iter().map(|effect| effect.ask).collect();
        assert_eq!(found, Vec::from_iter(effect), "{matcher}");
        assert_eq!(untried(&old, &new), left_out, "{matcher}");
        assert_eq!(untried(&old, &old), vec![], "{matcher}");
    }
}

#[test]
fn a_decision_is_told_with_its_rule_for_the_client() {
    const EXEMPT: &str = "[[rule]]\nid = \"r\"\nrole = \"x\"\naction = \"block\"\ndomains = [\"v.test\"]\n\
        [[exempt]]\nid = \"e\"\nclients = [\"10.0.0.0/28\"]\nrules = [\"r\"]\n\
        reason = \"r\"\napproved_by = \"a\"\nexpires = 2026-12-31\n";
    let policy = policy(EXEMPT);
    for (ask, client, at, decided) in [
        ("x.v.test", None, "2026-12-31T12:00:00Z", "block by r"),
        ("x.v.test", Some("10.0.0.1"), "2026-12-31T12:00:00Z", "exempt by r"),
        ("x.v.test", Some("10.0.0.1"), "2027-01-01T00:00:00Z", "block by r"),
        ("x.v.test", Some("10.0.0.16"), "2026-12-31T12:00:00Z", "block by r"),
        ("w.test", Some("10.0.0.1"), "2026-12-31T12:00:00Z", "none"),
    ] {
        let ask = ask.parse::<Ask>().unwrap();
        let client = client.map(|client| client.parse().unwrap());
        let found = Decided::by(&policy, &ask, client, at.parse::<Timestamp>().unwrap());
        assert_eq!(found.to_string(), decided, "{ask} {client:?} {at}");
    }
}
