//! What changes between two policies, told by entry and by decision.

use interdict_policy::diff::{Change, Decided, differences, effects};
use interdict_policy::{Ask, Policy, Source, compile, packs};

fn policy(text: &str) -> Policy {
    compile(&[Source { name: "p.toml".into(), text: format!("format = 1\n{text}") }]).unwrap().policy
}

const OLD: &str = r#"
[ban]
id = "v"
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
    let reordered =
        format!("# the same\n[[rule]]{}[ban]\nid = \"v\"\n", OLD.split_once("[[rule]]").unwrap().1);
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
fn a_decision_is_told_with_its_rule() {
    let policy = policy(OLD);
    let ask = |text: &str| Decided::by(&policy, &text.parse::<Ask>().unwrap()).to_string();
    assert_eq!((ask("x.v.test").as_str(), ask("w.test").as_str()), ("block by v-all", "none"));
}
