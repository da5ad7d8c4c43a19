//! Addresses that are open because a name was let through, and addresses that a rule learned.

use std::{net::IpAddr, time::Duration};

use interdict_ebpf_loader::{Answers, Entry, PacketPlane, Told, limits::MAX_OPENED};
use interdict_policy::{Policy, Verdict};

use crate::support::{
    apply, ends, exit_of, frame, id, options, plane, plane_with, policy, policy_and, tests, to,
};

tests![
    an_open_address_passes_under_the_rule_of_its_name,
    an_open_address_outside_every_network_is_recorded_too,
    an_opening_ends_with_its_time,
    a_flip_to_block_closes_what_the_rule_opened,
    a_flip_that_drops_the_rule_closes_what_it_opened,
    what_blocks_opens_nothing,
    the_later_end_counts,
    safe_beats_open,
    wan_passes_an_open_source,
    a_full_table_is_counted,
    a_learned_address_is_matched_where_nothing_else_is,
    a_learned_address_ends_with_its_time,
    a_forgotten_address_passes,
    a_learned_address_stays_until_its_rule_learns_no_more,
];

const RULES: &str = "
    net     block   192.0.2.0/24  2001:db8:1::/48
    mail    log     mx.test
    portal  allow   portal.test
    site    block   site.test
";
const HOUR: Duration = Duration::from_secs(3600);

fn open(answers: &Answers, rule: &str, address: &str, ttl: Duration) -> Told {
    answers.open(&id(rule), &[ip(address)], ttl)
}

fn ip(address: &str) -> IpAddr {
    address.parse().unwrap()
}

fn udp_to(plane: &PacketPlane, address: &str) -> &'static str {
    let version = if address.contains(':') { "v6" } else { "v4" };
    exit_of(plane, Entry::Lan, &frame(&format!("{version} udp"), &to(address, 443)))
}

const ONE: Told = Told { known: 1, full: 0 };

fn an_open_address_passes_under_the_rule_of_its_name() {
    let mut plane = plane(&policy(RULES));
    let mut events = plane.events().unwrap();
    let answers = plane.answers();
    assert_eq!(udp_to(&plane, "192.0.2.7"), "blocked");
    for (rule, address, action) in [
        ("mail", "192.0.2.7", Verdict::Log),
        ("portal", "192.0.2.8", Verdict::Allow),
        ("mail", "2001:db8:1::7", Verdict::Log),
    ] {
        assert_eq!(open(&answers, rule, address, HOUR), ONE);
        events.drain(drop);
        assert_eq!(udp_to(&plane, address), "opened");
        let mut seen = Vec::new();
        events.drain(|contact| seen.push((contact.rule.to_string(), contact.verdict, contact.remote)));
        assert_eq!(seen, [(rule.to_owned(), action, ip(address))]);
        let (by, remaining) = answers.is_open(ip(address)).unwrap();
        assert_eq!(by, id(rule));
        assert!(remaining <= HOUR && remaining > HOUR / 2, "{remaining:?}");
    }
    assert_eq!(udp_to(&plane, "192.0.2.9"), "blocked", "its neighbour is not open");
    // Headers and fragments hide an open address as little as a banned one.
    assert_eq!(exit_of(&plane, Entry::Lan, &frame("vlan v4 later udp", &to("192.0.2.7", 1))), "opened");
}

fn an_open_address_outside_every_network_is_recorded_too() {
    let plane = plane(&policy(RULES));
    assert_eq!(udp_to(&plane, "203.0.113.1"), "no_match");
    open(&plane.answers(), "mail", "203.0.113.1", HOUR);
    assert_eq!(udp_to(&plane, "203.0.113.1"), "opened");
}

fn an_opening_ends_with_its_time() {
    let plane = plane(&policy(RULES));
    let answers = plane.answers();
    open(&answers, "mail", "192.0.2.7", Duration::from_millis(300));
    assert_eq!(udp_to(&plane, "192.0.2.7"), "opened");
    while answers.is_open(ip("192.0.2.7")).is_some() {
        std::thread::yield_now();
    }
    assert_eq!(udp_to(&plane, "192.0.2.7"), "blocked", "the kernel needs no sweep for that");
    assert_eq!(answers.expire(), 1);
    assert_eq!(answers.expire(), 0);
    assert_eq!(udp_to(&plane, "192.0.2.7"), "blocked");
}

fn a_flip_to_block_closes_what_the_rule_opened() {
    closed_by(&RULES.replace("mail    log", "mail    block"));
}

fn a_flip_that_drops_the_rule_closes_what_it_opened() {
    closed_by(&RULES.replace("mail    log     mx.test", ""));
}

fn closed_by(rules: &str) {
    let mut plane = plane(&policy(RULES));
    let answers = plane.answers();
    open(&answers, "mail", "192.0.2.7", HOUR);
    open(&answers, "portal", "192.0.2.8", HOUR);
    let staged = plane.stage(&policy(rules)).unwrap();
    assert_eq!(udp_to(&plane, "192.0.2.7"), "opened", "staged is not in force");
    plane.flip(staged).unwrap();
    assert_eq!(udp_to(&plane, "192.0.2.7"), "blocked");
    assert_eq!(answers.is_open(ip("192.0.2.7")), None);
    assert_eq!(udp_to(&plane, "192.0.2.8"), "opened", "another rule's stays");
    assert_eq!(answers.expire(), 1);
    apply(&mut plane, &policy(RULES));
    assert_eq!(udp_to(&plane, "192.0.2.7"), "blocked", "what was swept does not come back");
}

fn what_blocks_opens_nothing() {
    let plane = plane(&policy(RULES));
    for rule in ["site", "net", "unheard-of"] {
        assert_eq!(open(&plane.answers(), rule, "192.0.2.7", HOUR), Told::default(), "{rule}");
        assert_eq!(udp_to(&plane, "192.0.2.7"), "blocked");
    }
}

fn the_later_end_counts() {
    let answers = plane(&policy(RULES)).answers();
    let address = "192.0.2.7";
    for (rule, ttl, by) in [
        ("mail", HOUR, "mail"),
        ("mail", HOUR / 60, "mail"),
        ("portal", HOUR / 60, "mail"),
        ("portal", HOUR * 2, "portal"),
    ] {
        assert_eq!(open(&answers, rule, address, ttl), ONE);
        let (rule, remaining) = answers.is_open(ip(address)).unwrap();
        assert_eq!(rule.as_str(), by);
        assert!(remaining > HOUR / 2);
    }
}

fn safe_beats_open() {
    let mut options = options();
    options.safe = vec!["192.0.2.7/32".parse().unwrap()];
    let plane = plane_with(&options, &policy(RULES));
    open(&plane.answers(), "mail", "192.0.2.7", HOUR);
    assert_eq!(udp_to(&plane, "192.0.2.7"), "safe");
}

fn wan_passes_an_open_source() {
    let plane = plane(&policy(RULES));
    let syn = frame("v4 tcp:syn", &ends("192.0.2.7", 25, "10.0.0.1", 4000));
    assert_eq!(exit_of(&plane, Entry::Wan, &syn), "blocked");
    open(&plane.answers(), "mail", "192.0.2.7", HOUR);
    assert_eq!(exit_of(&plane, Entry::Wan, &syn), "opened");
}

fn a_full_table_is_counted() {
    let plane = plane(&policy(RULES));
    let answers = plane.answers();
    let addresses: Vec<IpAddr> =
        (0..MAX_OPENED + 3).map(|n| std::net::Ipv4Addr::from_bits(n).into()).collect();
    let opened = answers.open(&id("mail"), &addresses, HOUR);
    assert_eq!(opened, Told { known: MAX_OPENED as usize, full: 3 });
    assert_eq!(plane.counters().unwrap().answers_overflow, 3);
    assert_eq!(
        answers.open(&id("mail"), &addresses[..5], HOUR),
        Told { known: 5, full: 0 },
        "what is open stays"
    );
}

/// The rule that learns is the last of the policy.
fn learning() -> Policy {
    policy_and(RULES, LEARNER)
}

const LEARNER: &str = "[[rule]]\nid = \"learner\"\nrole = \"other\"\naction = \"block\"\nlearn = true\n\
                       hosts = [\"learned.test\"]\n";

fn learn(answers: &Answers, address: &str, ttl: Duration) -> Told {
    answers.learn(&id("learner"), &[ip(address)], ttl)
}

fn a_learned_address_is_matched_where_nothing_else_is() {
    let plane = plane(&learning());
    let answers = plane.answers();
    for address in ["203.0.113.1", "2001:db8:9::1"] {
        assert_eq!(udp_to(&plane, address), "no_match");
        assert_eq!(learn(&answers, address, HOUR), ONE);
        assert_eq!(udp_to(&plane, address), "blocked");
        assert_eq!(answers.is_learned(ip(address)).unwrap().0, id("learner"));
    }
    assert_eq!(answers.learn(&id("site"), &[ip("203.0.113.2")], HOUR), Told::default(), "it does not learn");
    assert_eq!(answers.fills().learned.held, 2);
    open(&answers, "mail", "203.0.113.1", HOUR);
    assert_eq!(udp_to(&plane, "203.0.113.1"), "opened", "what is open goes before what is learned");
}

fn a_learned_address_ends_with_its_time() {
    let plane = plane(&learning());
    let answers = plane.answers();
    learn(&answers, "203.0.113.1", Duration::from_millis(300));
    assert_eq!(udp_to(&plane, "203.0.113.1"), "blocked");
    while answers.is_learned(ip("203.0.113.1")).is_some() {
        std::thread::yield_now();
    }
    assert_eq!(udp_to(&plane, "203.0.113.1"), "no_match", "the kernel needs no sweep for that");
    assert_eq!((answers.expire(), answers.fills().learned.held), (1, 0));
}

fn a_forgotten_address_passes() {
    let plane = plane(&learning());
    let answers = plane.answers();
    learn(&answers, "203.0.113.1", HOUR);
    learn(&answers, "203.0.113.2", HOUR);
    assert!(answers.forget(ip("203.0.113.1")));
    assert!(!answers.forget(ip("203.0.113.1")), "it was forgotten before");
    assert_eq!(udp_to(&plane, "203.0.113.1"), "no_match");
    assert_eq!(udp_to(&plane, "203.0.113.2"), "blocked");
    assert_eq!(answers.fills().learned.held, 1);
}

fn a_learned_address_stays_until_its_rule_learns_no_more() {
    let mut plane = plane(&learning());
    let answers = plane.answers();
    learn(&answers, "203.0.113.1", HOUR);
    apply(&mut plane, &policy_and(&RULES.replace("mail    log", "mail    block"), LEARNER));
    assert_eq!(udp_to(&plane, "203.0.113.1"), "blocked", "a reload keeps it");
    apply(&mut plane, &policy_and(RULES, &LEARNER.replace("true", "false")));
    assert_eq!(udp_to(&plane, "203.0.113.1"), "no_match");
    assert_eq!(answers.is_learned(ip("203.0.113.1")), None);
    assert_eq!(answers.expire(), 1);
}
