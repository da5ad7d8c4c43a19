//! What could not be judged is counted by name, and refused if the policy says so.

use interdict_ebpf_loader::{Counters, Entry, PacketPlane, Reply};

use crate::{
    queries::answering,
    support::{Ends, frame, policy_and, tests, to},
};

tests![
    each_way_around_us_has_its_counter,
    what_cannot_be_judged_is_refused_if_the_policy_says_so,
    encrypted_dns_passes_to_addresses_that_are_safe_or_have_a_rule,
];

const RULES: &str = "web block 192.0.2.0/24 2001:db8:1::/48 tcp/443 udp/443";

/// Frames, where they go, and the counter that tells of them, if one does.
fn cases() -> Vec<(&'static str, Ends, Option<&'static str>)> {
    let (banned4, banned6) = (to("192.0.2.7", 80), to("2001:db8:1::7", 80));
    let (other4, other6) = (to("198.51.100.7", 80), to("2001:db8:ffff::7", 80));
    let at = |port| to("198.51.100.7", port);
    vec![
        ("v4 later udp", banned4, Some("fragment")),
        ("v6 frag2 udp", banned6, Some("fragment")),
        ("v6 hop dest dest dest dest dest dest dest dest tcp", banned6, Some("header_chain")),
        ("v6 hop dest dest dest dest dest dest dest dest tcp", other6, Some("header_chain")),
        ("v6 frag1 dest cut", other6, Some("header_chain")),
        ("qinq qinq qinq qinq vlan v4 udp", other4, Some("vlan_depth")),
        ("v4 esp", other4, Some("tunnel")),
        ("v6 esp", other6, Some("tunnel")),
        ("v4 udp", at(4789), Some("tunnel")),
        ("v4 udp", at(51_820), Some("tunnel")),
        ("v4 esp", banned4, Some("tunnel")),
        ("v6 udp", to("2001:db8:1::7", 4789), Some("tunnel")),
        ("v4 udp", at(853), Some("encrypted_dns")),
        ("v4 tcp", at(853), Some("encrypted_dns")),
        ("v4 tcp", at(4789), None),
        ("v4 udp", at(80), None),
        ("v4 later udp", other4, None),
        ("v4 p253", other4, None),
        ("v4 esp", to("192.0.2.53", 80), None),
    ]
}

fn to_us(words: &str, ends: &Ends) -> Vec<u8> {
    let mut frame = frame(words, ends);
    frame[..6].fill(0);
    frame
}

fn unjudged(plane: &PacketPlane, frame: &[u8]) -> (Vec<&'static str>, Reply) {
    let before = plane.counters().unwrap().unjudged;
    let reply = plane.prober().reply(Entry::Lan, frame).unwrap();
    let after = plane.counters().unwrap().unjudged;
    (after.into_iter().filter(|(name, count)| before[name] != *count).map(|(name, _)| name).collect(), reply)
}

fn each_way_around_us_has_its_counter() {
    let plane = answering(&policy_and(RULES, "[egress_dns]\ndot = \"allow\"\n"));
    for (words, ends, expect) in cases() {
        let (grown, reply) = unjudged(&plane, &to_us(words, &ends));
        assert_eq!(grown, Vec::from_iter(expect), "{words} {ends:?} {:?}", plane.counters().unwrap());
        // What hides on the way out does not pass in any case.
        let hides = matches!(expect, Some("vlan_depth" | "header_chain"));
        assert_eq!(matches!(reply, Reply::Passed(_)), !hides, "{words} {ends:?}");
    }
}

fn what_cannot_be_judged_is_refused_if_the_policy_says_so() {
    let plane = answering(&policy_and(RULES, "[egress_dns]\nunjudged = \"block\"\ndot = \"allow\"\n"));
    let mut refused = 0;
    for (words, ends, expect) in cases() {
        let (_, reply) = unjudged(&plane, &to_us(words, &ends));
        let passes = expect.is_none_or(|name| name == "encrypted_dns");
        assert_eq!(
            matches!(reply, Reply::Passed(_)),
            passes,
            "{words} {ends:?} {:?}",
            plane.counters().unwrap()
        );
        refused += u64::from(matches!(expect, Some("fragment" | "tunnel")));
    }
    let counters = plane.counters().unwrap();
    assert_eq!(counters.exits["unjudged_blocked"], refused);
    let rule = counters.rules.iter().find(|rule| rule.rule.as_str().contains("unjudged")).unwrap();
    assert_eq!(rule.count.packets, refused);
}

/// As `why` says it: what is safe goes first, then a rule about the address, and only then one about a port of all.
fn encrypted_dns_passes_to_addresses_that_are_safe_or_have_a_rule() {
    let rules =
        "allowed allow 203.0.113.0/25 \n logged log 203.0.113.128/25 \n web block 192.0.2.0/24 tcp/443";
    let mut plane = answering(&policy_and(rules, "[egress_dns]\ndot = \"block\"\n"));
    plane.set_safe(vec!["198.51.100.11/32".parse().unwrap()]).unwrap();
    for (to_whom, expect) in [
        ("198.51.100.10", "egress_blocked"),
        ("198.51.100.11", "no_match"),
        ("203.0.113.1", "allowed"),
        ("203.0.113.200", "logged"),
        ("192.0.2.1", "egress_blocked"),
    ] {
        for words in ["v4 tcp:syn", "v4 udp"] {
            let before = plane.counters().unwrap();
            plane.prober().reply(Entry::Lan, &to_us(words, &to(to_whom, 853))).unwrap();
            let after = plane.counters().unwrap();
            assert_eq!(after.exits[expect], before.exits[expect] + 1, "{words} to {to_whom}");
            let decided =
                |counters: &Counters| counters.rules.iter().map(|rule| rule.count.packets).sum::<u64>();
            let is_decided = u64::from(expect != "no_match");
            assert_eq!(
                decided(&after),
                decided(&before) + is_decided,
                "one rule counts it: {words} to {to_whom}"
            );
        }
    }
}
