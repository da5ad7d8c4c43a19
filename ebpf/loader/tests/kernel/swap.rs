//! Staging, flipping, refusing; and no packet between two policies.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    thread,
};

use interdict_ebpf_loader::{Entry, Error, PacketPlane, Probe, limits};
use interdict_policy::Policy;

use crate::support::{apply, exit_of, frame, options, plane, policy, tests, to};

tests![
    before_the_first_policy_everything_passes,
    the_verdict_changes_with_the_flip_and_not_before,
    the_staged_policy_can_be_asked_before_the_flip,
    a_policy_staged_before_another_is_gone,
    a_refused_policy_leaves_the_one_in_force,
    a_policy_may_grow_and_shrink,
    a_rule_keeps_its_counts_over_flips,
    a_policy_in_force_can_be_staged_again,
    safe_networks_change_under_a_policy,
    no_packet_sees_two_policies,
];

const BANNED: &str = "192.0.2.1";

fn verdict(plane: &PacketPlane, destination: &str) -> &'static str {
    exit_of(plane, Entry::Lan, &frame("v4 udp", &to(destination, 443)))
}

fn before_the_first_policy_everything_passes() {
    let mut plane = PacketPlane::load(&options()).unwrap();
    assert_eq!((verdict(&plane, BANNED), plane.digest()), ("no_policy", None));
    let banned = policy("a block 192.0.2.0/24");
    let staged = plane.stage(&banned).unwrap();
    assert_eq!((verdict(&plane, BANNED), plane.digest()), ("no_policy", None));
    plane.flip(staged).unwrap();
    assert_eq!((verdict(&plane, BANNED), plane.digest()), ("blocked", Some(banned.digest())));
    let staged = plane.stage(&policy("b block 192.0.2.0/24")).unwrap();
    assert_eq!(plane.digest(), Some(banned.digest()));
    plane.flip(staged).unwrap();
    assert_ne!(plane.digest(), Some(banned.digest()));
}

fn safe_networks_change_under_a_policy() {
    let mut plane = plane(&policy("a block 192.0.2.0/24 2001:db8::/32"));
    let v6 = |plane: &PacketPlane| exit_of(plane, Entry::Lan, &frame("v6 udp", &to("2001:db8::1", 443)));
    for (safe, expect) in [
        (&["192.0.2.1/32"][..], ["safe", "blocked"]),
        (&["192.0.2.1/32", "2001:db8::/64"], ["safe", "safe"]),
        (&["2001:db8::/64"], ["blocked", "safe"]),
        (&[], ["blocked", "blocked"]),
    ] {
        plane.set_safe(safe.iter().map(|network| network.parse().unwrap()).collect()).unwrap();
        assert_eq!([verdict(&plane, BANNED), v6(&plane)], expect, "{safe:?}");
        // Policies are staged, and tried, beside what is safe now.
        apply(&mut plane, &policy("a block 192.0.2.0/24 2001:db8::/32"));
        assert_eq!([verdict(&plane, BANNED), v6(&plane)], expect, "{safe:?}, staged again");
    }
}

fn the_verdict_changes_with_the_flip_and_not_before() {
    let mut plane = plane(&policy("a block 192.0.2.0/24"));
    for (action, before, after) in
        [("log", "blocked", "logged"), ("allow", "logged", "allowed"), ("block", "allowed", "blocked")]
    {
        let staged = plane.stage(&policy(&format!("a {action} 192.0.2.0/24"))).unwrap();
        assert_eq!(verdict(&plane, BANNED), before);
        let flipped = plane.flip(staged).unwrap();
        assert_eq!(verdict(&plane, BANNED), after);
        assert!(flipped.at.elapsed().as_secs() < 60);
        if action == "allow" {
            plane.settle().unwrap();
            plane.settle().unwrap();
        }
    }
}

fn the_staged_policy_can_be_asked_before_the_flip() {
    let mut plane = plane(&policy("a block 192.0.2.0/24"));
    let _staged = plane.stage(&policy("a log 192.0.2.0/24")).unwrap();
    let before = plane.counters().unwrap();
    let answer = plane.prober().ask_staged(&frame("vlan v4 udp", &to(BANNED, 443))).unwrap();
    assert_eq!(answer.exit.name(), "logged");
    assert!(answer.decision.is_some());
    assert_eq!(plane.counters().unwrap(), before, "asking leaves no trace");
}

fn a_policy_staged_before_another_is_gone() {
    let mut plane = plane(&policy("a block 192.0.2.0/24"));
    let first = plane.stage(&policy("a log 192.0.2.0/24")).unwrap();
    let second = plane.stage(&policy("a allow 192.0.2.0/24")).unwrap();
    assert!(matches!(plane.flip(first), Err(Error::Superseded)));
    assert_eq!(verdict(&plane, BANNED), "blocked");
    plane.flip(second).unwrap();
    assert_eq!(verdict(&plane, BANNED), "allowed");
}

fn a_refused_policy_leaves_the_one_in_force() {
    let mut plane = plane(&policy("a block 192.0.2.0/24"));
    let rules = |run: u32| {
        let lines = (0..9_000).map(|n| format!("r{run}-{n} block 10.{}.{}.0/24\n", n / 256, n % 256));
        policy(&lines.collect::<String>())
    };
    let error = (0..8).find_map(|run| plane.stage(&rules(run)).err()).unwrap();
    let limit = limits::MAX_RULES;
    let what = "rules since the start of the agent are more than the packet plane holds";
    assert_eq!(error.to_string(), format!("{} {what}: {limit}", limit + 1));
    assert_eq!(verdict(&plane, BANNED), "blocked");
    assert_eq!(verdict(&plane, "10.0.0.1"), "no_match");
    apply(&mut plane, &policy("a log 192.0.2.0/24"));
    assert_eq!(verdict(&plane, BANNED), "logged", "and another one can follow");
}

fn a_policy_may_grow_and_shrink() {
    let mut plane = plane(&policy("a block 192.0.2.0/24"));
    let networks: String = (0..=255).map(|n| format!(" 10.0.{n}.0/24 2001:db8:{n:x}::/48")).collect();
    let ports: String = (1..=500).map(|n| format!(" tcp/{n} udp/{n}")).collect();
    for _ in 0..3 {
        apply(&mut plane, &policy(&format!("big block {networks} {ports}")));
        assert_eq!(verdict(&plane, "10.0.9.1"), "blocked");
        assert_eq!(verdict(&plane, BANNED), "no_match");
        apply(&mut plane, &policy("only log site.test"));
        assert_eq!(verdict(&plane, "10.0.9.1"), "no_match");
    }
}

fn a_rule_keeps_its_counts_over_flips() {
    let mut plane = plane(&policy("a block 192.0.2.0/24 \n b log 192.0.3.0/24"));
    verdict(&plane, BANNED);
    // In another order, with another action, among others.
    apply(&mut plane, &policy("c block 192.0.4.0/24 \n b log 192.0.3.0/24 \n a log 192.0.2.0/24"));
    verdict(&plane, BANNED);
    apply(&mut plane, &policy("c block 192.0.4.0/24"));
    verdict(&plane, "192.0.4.1");
    apply(&mut plane, &policy("a block 192.0.2.0/24 \n c block 192.0.4.0/24"));
    verdict(&plane, BANNED);
    let counts = plane.counters().unwrap().rules;
    let counts: Vec<_> =
        counts.iter().map(|c| format!("{} {} {}", c.rule, c.verdict.as_str(), c.count.packets)).collect();
    assert_eq!(counts, ["a block 2", "a log 1", "c block 1"]);
}

fn a_policy_in_force_can_be_staged_again() {
    let same = policy("a block 192.0.2.0/24");
    let mut plane = plane(&same);
    apply(&mut plane, &same);
    assert_eq!(verdict(&plane, BANNED), "blocked");
}

/// Changes of the policy, and packets judged meanwhile; `INTERDICT_FLIPS` and `INTERDICT_LOOKUPS` say otherwise. A change
/// waits for the kernel about ten times, a good hundredth of a second each.
const FLIPS: u64 = 100;
const LOOKUPS: u64 = 1_000_000;

fn number(name: &str, usual: u64) -> u64 {
    std::env::var(name)
        .map_or(usual, |text| text.parse().unwrap_or_else(|_| panic!("{name}={text} is no number")))
}

/// Both policies block the packet, each for a reason that takes two of its maps: one through its set of ports, the other
/// because its set does not have the port. A packet that took the network from one and the ports from the other would
/// be allowed.
fn no_packet_sees_two_policies() {
    let by_port = policy("net allow 192.0.2.0/24 \n port block 192.0.2.0/24 tcp/443");
    let by_network = policy("net block 192.0.2.0/24 \n port allow 192.0.2.0/24 tcp/80");
    let (flips, lookups_wanted) = (number("INTERDICT_FLIPS", FLIPS), number("INTERDICT_LOOKUPS", LOOKUPS));
    let mut plane = plane(&by_network);
    let prober = plane.prober();
    let frame = frame("v4 tcp", &to(BANNED, 443));
    let done = AtomicBool::new(false);
    let flip = |plane: &mut PacketPlane, policy: &Policy| {
        let staged = plane.stage(policy).unwrap();
        plane.flip(staged).unwrap();
    };
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut lookups = 0;
            while lookups < lookups_wanted || !done.load(Ordering::Relaxed) {
                let probe = Probe { repeat: 1_000, ..Probe::new(Entry::Lan, &frame) };
                assert!(prober.run(probe).unwrap().dropped);
                lookups += 1_000;
            }
        });
        for _ in 0..flips / 2 {
            flip(&mut plane, &by_port);
            flip(&mut plane, &by_network);
        }
        done.store(true, Ordering::Relaxed);
    });
    let exits = plane.counters().unwrap().exits;
    let judged: u64 = exits.values().sum();
    assert!(judged >= lookups_wanted);
    eprintln!("{judged} lookups across {flips} changes, 0 wrong");
    assert_eq!(exits["blocked"], judged, "{exits:?}");
}
