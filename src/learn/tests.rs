//! Which addresses are matched after which answers, with a kernel that is a list.

use std::collections::HashSet;

use interdict_policy::{Source, compile};

use super::*;

const POLICY: &str = r#"
[[rule]]
id = "learner"
role = "other"
action = "log"
learn = true
domains = ["banned.test"]
[[rule]]
id = "blocker"
role = "other"
action = "block"
domains = ["also-banned.test"]
[[rule]]
id = "watcher"
role = "other"
action = "log"
domains = ["watched.test"]
"#;

/// A kernel with room for so many addresses.
#[derive(Clone, Default)]
struct Kernel {
    matched: Arc<Mutex<HashSet<IpAddr>>>,
    room: usize,
}

impl Matching for Kernel {
    fn start(&self, _: &RuleId, address: IpAddr, _: Duration) -> Started {
        let mut matched = self.matched.lock().unwrap();
        if matched.len() == self.room && !matched.contains(&address) {
            return Started::NoRoom;
        }
        matched.insert(address);
        Started::Matched
    }

    fn stop(&self, address: IpAddr) {
        self.matched.lock().unwrap().remove(&address);
    }
}

struct Setup {
    learning: Learning,
    kernel: Kernel,
    policy: Arc<Policy>,
}

impl Setup {
    fn new(policy: &str) -> Self {
        Self::with_room(policy, usize::MAX)
    }

    fn with_room(policy: &str, room: usize) -> Self {
        let (kernel, policy) = (Kernel { room, ..Kernel::default() }, compiled(policy));
        let learning = Learning::new(Box::new(kernel.clone()), policy.clone(), Vec::new(), Vec::new());
        Self { learning, kernel, policy }
    }

    /// A name was resolved, by whom its rule lets through.
    fn answer(&self, name: &str, addresses: &[&str]) {
        let name: DomainName = name.parse().unwrap();
        let addresses: Vec<IpAddr> = addresses.iter().map(|address| ip(address)).collect();
        let rule = self.policy.decide_name(name.as_name()).map(|found| self.policy.rule(found.rule));
        match rule.filter(|rule| rule.learn) {
            Some(rule) => self.learning.learn(&Resolved {
                policy: &self.policy,
                rule,
                name: name.as_name(),
                addresses: &addresses,
                ttl: Duration::from_secs(300),
            }),
            None => {
                self.learning.answered_elsewhere(name.as_name(), rule, &mut addresses.iter().copied());
            }
        }
    }

    fn turn_to(&mut self, policy: &str) {
        self.policy = compiled(policy);
        self.learning.follow(&self.policy, Vec::new());
    }

    /// What is matched, and how the table names those that are shared.
    fn matched(&self, address: &str) -> bool {
        self.kernel.matched.lock().unwrap().contains(&ip(address))
    }

    fn shared_with(&self, address: &str) -> Option<String> {
        match self.learning.about(ip(address))?.standing {
            Standing::Matched => None,
            Standing::SharedWith(other) => Some(other.map_or("?".to_owned(), |other| other.to_string())),
        }
    }

    fn refused(&self, word: &str) -> u64 {
        self.learning.refusals().find(|(reason, _)| *reason == word).unwrap().1
    }
}

fn compiled(policy: &str) -> Arc<Policy> {
    let text = format!("format = 1\n{policy}");
    Arc::new(compile(&[Source { name: "p.toml".into(), text }]).unwrap().policy)
}

fn ip(address: &str) -> IpAddr {
    address.parse().unwrap()
}

#[test]
fn an_address_is_matched_until_another_name_has_it_too() {
    for (other, shared) in [
        ("a.banned.test", false),
        ("also-banned.test", false),
        ("watched.test", true),
        ("unlisted.test", true),
    ] {
        let setup = Setup::new(POLICY);
        setup.answer("banned.test", &["203.0.113.1", "203.0.113.2"]);
        assert!(setup.matched("203.0.113.1"));
        setup.answer(other, &["203.0.113.1"]);
        assert_eq!(setup.matched("203.0.113.1"), !shared, "{other}");
        assert_eq!(setup.shared_with("203.0.113.1"), shared.then(|| other.to_owned()));
        assert_eq!(setup.learning.shared(), usize::from(shared));
        assert!(setup.matched("203.0.113.2"));
        setup.answer("banned.test", &["203.0.113.1"]);
        assert_eq!(setup.matched("203.0.113.1"), !shared, "answered again, it stays what it was");
    }
}

#[test]
fn what_another_name_had_before_is_shared_from_the_start() {
    for (other, shared) in [("also-banned.test", false), ("watched.test", true), ("unlisted.test", true)] {
        let setup = Setup::new(POLICY);
        setup.answer(other, &["203.0.113.1", "::ffff:203.0.113.2"]);
        setup.answer("banned.test", &["203.0.113.1", "203.0.113.2", "203.0.113.3"]);
        for address in ["203.0.113.1", "203.0.113.2"] {
            assert_eq!(setup.matched(address), !shared, "{other}");
            assert_eq!(setup.shared_with(address), shared.then(|| "?".to_owned()));
        }
        assert!(setup.matched("203.0.113.3"));
        if shared {
            setup.answer(other, &["203.0.113.1"]);
            assert_eq!(setup.shared_with("203.0.113.1").unwrap(), other, "now its name is known");
        }
    }
}

#[test]
fn two_bans_at_one_address_share_it() {
    let setup = Setup::new(POLICY);
    setup.answer("banned.test", &["203.0.113.1"]);
    let rule = Rule { ban: Some("other".into()), ..setup.policy.rules()[0].clone() };
    let name: DomainName = "vendor.test".parse().unwrap();
    setup.learning.learn(&Resolved {
        policy: &setup.policy,
        rule: &rule,
        name: name.as_name(),
        addresses: &[ip("203.0.113.1")],
        ttl: Duration::from_secs(300),
    });
    assert!(!setup.matched("203.0.113.1"));
    assert_eq!(setup.shared_with("203.0.113.1").unwrap(), "vendor.test");
}

#[test]
fn one_name_has_its_share_of_addresses() {
    let setup = Setup::new(POLICY);
    let addresses: Vec<String> =
        (1..=ADDRESSES_OF_A_NAME_LIMIT + 3).map(|n| format!("203.0.113.{n}")).collect();
    let addresses: Vec<&str> = addresses.iter().map(String::as_str).collect();
    setup.answer("banned.test", &addresses);
    assert_eq!(setup.kernel.matched.lock().unwrap().len(), ADDRESSES_OF_A_NAME_LIMIT);
    assert_eq!(setup.refused("limit_of_name"), 3);
    setup.answer("banned.test", &addresses[..5]);
    assert_eq!(setup.refused("limit_of_name"), 3, "those it has are its own");
    setup.answer("a.banned.test", &addresses[addresses.len() - 1..]);
    assert_eq!(setup.refused("limit_of_name"), 3, "another name has a share of its own");
}

#[test]
fn what_there_is_no_room_for_is_counted() {
    let setup = Setup::with_room(POLICY, 1);
    setup.answer("banned.test", &["203.0.113.1", "203.0.113.2", "203.0.113.3"]);
    assert_eq!(setup.refused("no_room"), 2);
    assert!(setup.learning.about(ip("203.0.113.2")).is_none());
}

#[test]
fn hostile_answers_are_refused_and_counted_by_reason() {
    let setup = Setup::new(POLICY);
    setup.learning.set_safe(vec!["203.0.113.0/28".parse().unwrap()]);
    setup.learning.follow(&setup.policy, vec![ip("198.51.100.1")]);
    setup.answer("banned.test", &["8.8.8.8", "::ffff:127.0.0.1", "198.51.100.1", "203.0.113.1", "fe80::1"]);
    let refusals: Vec<_> = setup.learning.refusals().filter(|(_, count)| *count > 0).collect();
    assert_eq!(refusals, [("not_public", 2), ("ours", 1), ("safe", 1), ("public_resolver", 1)]);
    assert!(setup.kernel.matched.lock().unwrap().is_empty());
}

#[test]
fn what_becomes_ours_or_safe_is_let_go() {
    let setup = Setup::new(POLICY);
    setup.answer("banned.test", &["203.0.113.1", "203.0.113.2", "203.0.113.3"]);
    setup.learning.follow(&setup.policy, vec![ip("203.0.113.1")]);
    setup.learning.set_safe(vec!["203.0.113.2/32".parse().unwrap()]);
    assert_eq!(*setup.kernel.matched.lock().unwrap(), HashSet::from([ip("203.0.113.3")]));
}

#[test]
fn a_policy_keeps_what_still_stands() {
    let shares = |setup: &Setup| {
        setup.answer("banned.test", &["203.0.113.1", "203.0.113.2"]);
        setup.answer("unlisted.test", &["203.0.113.2", "203.0.113.3"]);
        setup.answer("banned.test", &["203.0.113.3"]);
    };
    for (what, policy, known) in [
        ("another rule changes", POLICY.replace("watched", "looked-at"), [true, true]),
        ("the rule blocks", POLICY.replacen("\"log\"", "\"block\"", 1), [true, true]),
        ("the rule learns no more", POLICY.replace("true", "false"), [false, false]),
        ("the rule goes", POLICY.replace("learner", "renamed"), [false, false]),
        (
            "the name is another rule's",
            POLICY
                .replace("watched.test", "banned.test\", \"w.test")
                .replace("domains = [\"banned.test\"]", "domains = [\"x.test\"]"),
            [false, false],
        ),
        ("the other name is banned too", POLICY.replace("also-banned.test", "unlisted.test"), [true, false]),
    ] {
        let mut setup = Setup::new(POLICY);
        shares(&setup);
        setup.turn_to(&policy);
        let is_known = |address| setup.learning.about(ip(address)).is_some();
        assert_eq!([is_known("203.0.113.1"), is_known("203.0.113.2")], known, "{what}");
        assert!(!is_known("203.0.113.3"), "{what}: nobody knows whom it is shared with");
    }
}

#[test]
fn a_name_that_comes_to_be_banned_does_not_share_with_itself() {
    let mut setup = Setup::new(&POLICY.replace("\"banned.test\"", "\"earlier.test\""));
    setup.answer("banned.test", &["203.0.113.1"]);
    setup.turn_to(POLICY);
    setup.answer("banned.test", &["203.0.113.1"]);
    assert!(setup.matched("203.0.113.1"));
}

#[test]
fn where_no_rule_learns_other_answers_leave_no_trace() {
    let mut setup = Setup::new(&POLICY.replace("true", "false"));
    setup.answer("unlisted.test", &["203.0.113.1"]);
    setup.turn_to(&POLICY.replace("true", "false"));
    assert!(!setup.learning.elsewhere.has(ip("203.0.113.1")));
}

#[test]
fn what_has_ended_is_gone() {
    let policy = compiled(POLICY);
    let mut table = Table::new(policy.clone());
    let (start, rule) = (Instant::now(), &policy.rules()[0]);
    for (n, secs) in [(1, 10), (2, 20), (1, 5)] {
        table.put(
            ip(&format!("203.0.113.{n}")),
            Entry {
                rule: rule.id.clone(),
                ban: None,
                name: "banned.test".parse().unwrap(),
                ends: start + Duration::from_secs(secs),
                standing: Standing::Matched,
            },
        );
    }
    table.expire(start + Duration::from_secs(9));
    assert_eq!(table.addresses.len(), 2, "the later end counts");
    table.expire(start + Duration::from_secs(10));
    assert_eq!(table.addresses.len(), 1);
    table.expire(start + Duration::from_secs(20));
    assert!(table.addresses.is_empty() && table.names.is_empty());
}
