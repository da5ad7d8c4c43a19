//! Laws that hold for every policy: precedence against a model written differently, exceptions that only
//! ever allow, and a canonical form that decides the same.

use std::net::IpAddr;

use interdict_policy::{Action, Ask, DomainName, IpNet, Policy, Rule, Service, Source, compile};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

/// A rule of a generated policy, as text.
#[derive(Clone, Debug)]
struct Draft {
    action: &'static str,
    key: &'static str,
    values: Vec<String>,
    ports: Vec<&'static str>,
}

/// Names over a tiny alphabet, so that rules and questions often meet.
fn name() -> impl Strategy<Value = String> {
    vec(select(vec!["a", "b", "ab", "ba"]), 1..5).prop_map(|labels| labels.join("."))
}

fn glob() -> impl Strategy<Value = String> {
    (vec(select(vec!["*", "a*", "*b", "a*b", "b"]), 0..2), select(vec!["*", "a*", "*b"]), name()).prop_map(
        |(left, star, fixed)| [left.join("."), star.into(), fixed].join(".").trim_start_matches('.').into(),
    )
}

/// A pattern as TOML: the other values are texts, which are quoted when they are written.
fn pattern() -> impl Strategy<Value = String> {
    let expression = select(vec!["a", "a|b", "[ab]+", ".*", "^a?b$", "(a|ba)(\\.b)?", "[^.]*"]);
    (name(), expression).prop_map(|(under, text)| format!("{{ under = '{under}', match = '{text}' }}"))
}

fn network() -> impl Strategy<Value = String> {
    let v4 = (0u8..4, 28u8..=32).prop_map(|(last, len)| (IpAddr::from([10, 0, 0, last]), len));
    let v6 = (0u16..4, 124u8..=128)
        .prop_map(|(last, len)| (IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, last]), len));
    prop_oneof![v4, v6].prop_map(|(address, len)| IpNet::new(address, len).unwrap().trunc().to_string())
}

fn address() -> impl Strategy<Value = IpAddr> {
    prop_oneof![
        (0u8..6).prop_map(|last| IpAddr::from([10, 0, 0, last])),
        (0u16..6).prop_map(|last| IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, last])),
    ]
}

const SERVICES: [&str; 3] = ["tcp/80", "tcp/443", "udp/443"];

fn draft() -> impl Strategy<Value = Draft> {
    let lists = prop_oneof![
        vec(name(), 1..4).prop_map(|v| ("hosts", v, vec![])),
        vec(name(), 1..4).prop_map(|v| ("domains", v, vec![])),
        vec(glob(), 1..3).prop_map(|v| ("globs", v, vec![])),
        vec(pattern(), 1..3).prop_map(|v| ("patterns", v, vec![])),
        (vec(network(), 1..4), vec(select(SERVICES.to_vec()), 0..3)).prop_map(|(v, p)| ("networks", v, p)),
    ];
    (select(vec!["allow", "block", "log"]), lists).prop_map(|(action, (key, values, ports))| Draft {
        action,
        key,
        values,
        ports,
    })
}

fn text(drafts: &[Draft]) -> String {
    let mut out = "format = 1\n".to_owned();
    for (i, Draft { action, key, values, ports }) in drafts.iter().enumerate() {
        let values =
            if *key == "patterns" { format!("[{}]", values.join(", ")) } else { format!("{values:?}") };
        out +=
            &format!("[[rule]]\nid = \"r{i:02}\"\nrole = \"x\"\naction = \"{action}\"\n{key} = {values}\n");
        if !ports.is_empty() {
            out += &format!("ports = {ports:?}\n");
        }
    }
    out
}

fn policy(drafts: &[Draft]) -> Policy {
    compiled(vec![Source { name: "p.toml".into(), text: text(drafts) }])
}

fn compiled(sources: Vec<Source>) -> Policy {
    compile(&sources).unwrap_or_else(|problems| panic!("{problems}")).policy
}

/// The rule that decides for a name, found by looking at every value of every rule.
fn naive_name<'p>(policy: &'p Policy, name: &DomainName) -> Option<&'p Rule> {
    let text = name.to_string();
    let labels: Vec<&str> = text.split('.').collect();
    let ends_with = |fixed: &str| text == fixed || text.ends_with(&format!(".{fixed}"));
    let count = |fixed: &str| fixed.split('.').count();
    let mut candidates = Vec::new();
    for rule in policy.rules() {
        for host in rule.hosts.iter().map(|at| at.value.to_string()).filter(|host| *host == text) {
            candidates.push((count(&host), 0, rule));
        }
        for glob in rule.globs.iter().map(|at| at.value.to_string()) {
            let parts: Vec<&str> = glob.split('.').collect();
            let fits = parts.len() == labels.len()
                && parts.iter().zip(&labels).all(|(part, label)| {
                    let expression = format!("^{}$", part.replace('*', ".*"));
                    regex::Regex::new(&expression).unwrap().is_match(label)
                });
            if fits {
                let fixed = parts.iter().rev().take_while(|part| !part.contains('*')).count();
                candidates.push((fixed, 1, rule));
            }
        }
        for pattern in rule.patterns.iter().map(|at| &at.value) {
            let under = pattern.under().to_string();
            let Some(left) = text.strip_suffix(&format!(".{under}")) else { continue };
            if regex::Regex::new(&format!("^(?:{})$", pattern.text())).unwrap().is_match(left) {
                candidates.push((count(&under), 2, rule));
            }
        }
        for domain in rule.domains.iter().map(|at| at.value.to_string()).filter(|domain| ends_with(domain)) {
            candidates.push((count(&domain), 3, rule));
        }
    }
    candidates
        .into_iter()
        .min_by_key(|(fixed, form, rule)| (std::cmp::Reverse(*fixed), *form, rule.action, rule.id.clone()))
        .map(|(_, _, rule)| rule)
}

/// The rule that decides for an address, found by looking at every network of every rule.
fn naive_address(policy: &Policy, address: IpAddr, service: Option<Service>) -> Option<&Rule> {
    let mut candidates = Vec::new();
    for rule in policy.rules() {
        let ports: Vec<Service> = rule.ports.iter().map(|at| at.value).collect();
        let named = service.is_some_and(|service| ports.contains(&service));
        if ports.is_empty() || named {
            for network in rule.networks.iter().map(|at| at.value).filter(|n| n.contains(&address)) {
                let key = (std::cmp::Reverse(network.prefix_len()), !named, rule.action, rule.id.clone());
                candidates.push((key, rule));
            }
        }
    }
    candidates.into_iter().min_by(|a, b| a.0.cmp(&b.0)).map(|(_, rule)| rule)
}

fn id(rule: Option<&Rule>) -> Option<&str> {
    rule.map(|rule| rule.id.as_str())
}

fn decided<'p>(policy: &'p Policy, ask: &Ask) -> Option<&'p Rule> {
    let rule = match ask {
        Ask::Name(name) => policy.decide_name(name.as_name()).map(|found| found.rule),
        Ask::Address(address, service) => policy.decide_address(*address, *service).map(|found| found.rule),
    };
    rule.map(|index| policy.rule(index))
}

fn service() -> impl Strategy<Value = Option<Service>> {
    proptest::option::of(select(vec!["tcp/80", "tcp/443", "udp/443", "udp/53"]))
        .prop_map(|text| text.map(|text| text.parse().unwrap()))
}

fn ask() -> impl Strategy<Value = Ask> {
    prop_oneof![
        name().prop_map(|name| Ask::Name(name.parse().unwrap())),
        (address(), service()).prop_map(|(address, service)| Ask::Address(address, service)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn the_compiled_matcher_equals_a_naive_one(drafts in vec(draft(), 1..12), asks in vec(ask(), 8)) {
        let policy = policy(&drafts);
        for ask in asks {
            let naive = match &ask {
                Ask::Name(name) => naive_name(&policy, name),
                Ask::Address(address, service) => naive_address(&policy, *address, *service),
            };
            prop_assert_eq!(id(decided(&policy, &ask)), id(naive), "{} under\n{}", ask, text(&drafts));
        }
    }

    #[test]
    fn an_exception_only_ever_allows(drafts in vec(draft(), 1..8), extra in draft(), asks in vec(ask(), 8)) {
        let before = policy(&drafts);
        let exception = Draft { action: "allow", ..extra };
        let after = policy(&[drafts.clone(), vec![exception]].concat());
        for ask in asks {
            let (old, new) = (decided(&before, &ask), decided(&after, &ask));
            let only_allowed = id(old) == id(new) || new.is_some_and(|rule| rule.action == Action::Allow);
            prop_assert!(only_allowed, "{} went from {:?} to {:?}", ask, id(old), id(new));
        }
    }

    #[test]
    fn the_canonical_form_decides_the_same_and_has_the_same_digest(
        drafts in vec(draft(), 1..12),
        order in Just((0..12usize).collect::<Vec<_>>()).prop_shuffle(),
        asks in vec(ask(), 8),
    ) {
        let policy = policy(&drafts);
        let canonical = policy.canonical_files();
        let again = compiled(canonical.iter().map(|file| Source { name: file.name.clone(), text: file.text.clone() }).collect());
        prop_assert_eq!(again.digest(), policy.digest());
        prop_assert_eq!(again.canonical_files(), canonical);
        for ask in asks {
            prop_assert_eq!(id(decided(&again, &ask)), id(decided(&policy, &ask)));
        }

        // The same rules, one a file, in another order, with comments.
        let blocks: Vec<String> = text(&drafts).split("[[rule]]\n").skip(1).map(|rule| {
            format!("# a comment\nformat = 1\n\n[[rule]] # another\n{rule}")
        }).collect();
        let files = order.iter().filter_map(|i| blocks.get(*i)).enumerate();
        let shuffled = compiled(files.map(|(i, text)| Source { name: format!("{i}.toml"), text: text.clone() }).collect());
        prop_assert_eq!(shuffled.digest(), policy.digest());
    }

    #[test]
    fn no_text_makes_the_reader_panic(text in any::<String>(), tail in "[a-z\\[\\]\"=\\n{}.*0-9/:]{0,80}") {
        let _ = compile(&[Source { name: "p.toml".into(), text: text.clone() }]);
        let _ = compile(&[Source { name: "p.toml".into(), text: format!("format = 1\n[[rule]]\n{tail}") }]);
        let _ = text.parse::<Ask>();
    }
}
