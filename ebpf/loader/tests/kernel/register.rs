//! The register of exemptions in the kernel, and addresses that are open to one client only.

use std::{net::IpAddr, time::Duration};

use interdict_ebpf_loader::{Entry, PacketPlane};
use interdict_policy::{Policy, Timestamp};

use crate::support::{Ends, apply, exit_of, frame, id, options, plane, policy_and, tests};

tests![
    a_client_on_the_register_passes_and_others_do_not,
    an_exemption_ends_by_itself,
    what_an_exempt_client_resolved_is_open_to_it_alone,
    the_end_of_an_exemption_closes_what_it_opened,
];

const RULES: &str = "
    net    block  192.0.2.0/24  2001:db8:1::/48
    other  block  198.51.100.0/24
    site   block  site.test
";

/// Exempts 10.0.0.0/28 and fd00::/64 from `net` and `site` until a moment.
fn policy(until: Timestamp) -> Policy {
    policy_and(
        RULES,
        &format!(
            "[[exempt]]\nid = \"lab\"\nclients = [\"10.0.0.0/28\", \"fd00::/64\"]\nrules = [\"net\", \"site\"]\n\
             reason = \"x\"\napproved_by = \"x\"\nexpires = {until}\n"
        ),
    )
}

fn in_an_hour() -> Timestamp {
    Timestamp::now() + Duration::from_secs(3600)
}

fn udp(plane: &PacketPlane, from: &str, to: &str) -> &'static str {
    let version = if to.contains(':') { "v6" } else { "v4" };
    let ends = Ends { source: ip(from), source_port: 9, destination: ip(to), destination_port: 443 };
    exit_of(plane, Entry::Lan, &frame(&format!("{version} udp"), &ends))
}

fn ip(address: &str) -> IpAddr {
    address.parse().unwrap()
}

fn a_client_on_the_register_passes_and_others_do_not() {
    let plane = plane(&policy(in_an_hour()));
    for (from, to, exit) in [
        ("10.0.0.15", "192.0.2.7", "exempt"),
        ("10.0.0.16", "192.0.2.7", "blocked"),
        ("10.0.0.15", "198.51.100.7", "blocked"),
        ("10.0.0.15", "203.0.113.7", "no_match"),
        ("fd00::1", "2001:db8:1::7", "exempt"),
        ("fd00:0:0:1::1", "2001:db8:1::7", "blocked"),
    ] {
        assert_eq!(udp(&plane, from, to), exit, "{from} to {to}");
    }
}

fn an_exemption_ends_by_itself() {
    // Loading takes a good part of two seconds where the kernel is emulated.
    let mut plane = PacketPlane::load(&options()).unwrap();
    apply(&mut plane, &policy(Timestamp::now() + Duration::from_secs(2)));
    assert_eq!(udp(&plane, "10.0.0.1", "192.0.2.7"), "exempt");
    let end = std::time::Instant::now() + Duration::from_secs(5);
    while udp(&plane, "10.0.0.1", "192.0.2.7") == "exempt" {
        assert!(std::time::Instant::now() < end, "still exempt three seconds after the end");
        std::thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(udp(&plane, "10.0.0.1", "192.0.2.7"), "blocked");
}

fn what_an_exempt_client_resolved_is_open_to_it_alone() {
    let plane = plane(&policy(in_an_hour()));
    let answers = plane.answers();
    let address = ip("198.51.100.7");
    let hour = Duration::from_secs(3600);
    assert_eq!(answers.open_to(ip("10.0.0.1"), &id("site"), &[address], hour).known, 1);
    assert_eq!(
        answers.open_to(ip("10.0.0.1"), &id("other"), &[address], hour).known,
        0,
        "nobody is exempt from it"
    );
    for (from, exit) in [("10.0.0.1", "exempt"), ("10.0.0.2", "blocked"), ("10.0.9.1", "blocked")] {
        assert_eq!(udp(&plane, from, "198.51.100.7"), exit, "{from}");
    }
    assert_eq!(answers.is_open_to(ip("10.0.0.1"), address).unwrap().0, id("site"));
    assert_eq!(answers.is_open(address), None);
}

fn the_end_of_an_exemption_closes_what_it_opened() {
    let mut plane = plane(&policy(in_an_hour()));
    let (client, address) = (ip("10.0.0.1"), ip("198.51.100.7"));
    plane.answers().open_to(client, &id("site"), &[address], Duration::from_secs(3600));
    assert_eq!(udp(&plane, "10.0.0.1", "198.51.100.7"), "exempt");
    apply(&mut plane, &policy_and(RULES, ""));
    assert_eq!(udp(&plane, "10.0.0.1", "198.51.100.7"), "blocked");
    assert_eq!(plane.answers().is_open_to(client, address), None);
}
