//! Addresses that answers told of: open because their name was let through, or matched since their name is banned.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use interdict::control::Request;
use interdict::lab::{CLIENT, LAN, Lab, ORDINARY, PUBLIC, Reply, VENDOR};
use serde_json::Value;

use crate::case;
use crate::packets::{Gateway, lab};
use crate::support::{Case, until};

pub(crate) fn cases() -> Vec<Case> {
    vec![
        case!(a_banned_name_cannot_have_others_blocked, Root),
        case!(an_address_that_serves_other_names_too_passes, Root),
        case!(what_is_open_stays_open_as_long_as_the_cache_answers, Root),
        case!(what_an_exempt_client_resolved_is_open_to_it_alone, Root),
        case!(a_known_doh_server_that_is_only_watched_is_not_opened, Root),
        case!(an_address_that_decides_opens_no_other, Root),
        case!(a_reload_keeps_what_was_learned_and_forgets_it_with_its_rule, Root),
        case!(banned_names_are_resolved_by_the_agent_alone, Root),
        case!(what_was_learned_passes_again_when_its_time_is_over, Root),
        case!(what_a_round_leaves_out_is_told, Root),
        case!(a_round_breaks_off_where_nobody_answers, Root),
    ]
}

/// A rule for `vendor.test` that learns.
fn policy(action: &str) -> String {
    learner(action, "domains = [\"vendor.test\"]")
}

fn learner(action: &str, matchers: &str) -> String {
    format!(
        "format = 1\n[[rule]]\nid = \"names\"\nrole = \"update\"\naction = \"{action}\"\nlearn = true\n{matchers}\n"
    )
}

/// A rule that blocks hosts and learns from them.
fn hosts(hosts: &[&str]) -> String {
    learner("block", &format!("hosts = {hosts:?}"))
}

fn start(lab: &Lab, policy: &str) -> Gateway {
    Gateway::start(lab, policy, &format!("{LAN}=lan"))
}

/// An agent that resolves banned names.
fn start_resolving(lab: &Lab, policy: &str) -> Gateway {
    let config = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(config.path(), "[policy]\nresolve_banned = \"1m\"\n").unwrap();
    let config = config.path().display().to_string();
    Gateway::start_with(lab, policy, &["--interface", &format!("{LAN}=lan"), "--config", &config])
}

fn addresses(gateway: &Gateway, key: &str) -> Value {
    gateway.status()["addresses"][key].clone()
}

fn port_80(address: Ipv4Addr) -> SocketAddr {
    SocketAddr::new(address.into(), 80)
}

/// The one answer of `why` for an address.
fn why(gateway: &Gateway, address: Ipv4Addr) -> Value {
    gateway.why(&[&address.to_string()])[0].clone()
}

fn resolves_to(lab: &Lab, name: &str, address: impl Into<IpAddr>) {
    assert_eq!(lab.ask(name).unwrap(), Reply::Address(address.into()), "{name}");
}

fn a_banned_name_cannot_have_others_blocked() {
    let lab = lab();
    lab.serve_tcp(port_80(PUBLIC[0])).unwrap();
    let gateway = start(&lab, &policy("log"));
    let wan = Ipv4Addr::new(192, 0, 2, 1);
    for (address, reason) in [
        (PUBLIC[0], "public_resolver"),
        (CLIENT, "not_public"),
        // This machine's, and its gateway and upstream.
        (wan, "ours"),
        (interdict::lab::RESOLVER, "safe"),
    ] {
        let name = format!("at-{}.vendor.test", address.to_string().replace('.', "-"));
        resolves_to(&lab, &name, address);
        assert_eq!(addresses(&gateway, "refused")[reason], 1, "{address}");
    }
    assert_eq!(addresses(&gateway, "learned"), 0);
    assert_eq!(gateway.write_policy(&policy("block"))["applied"], true);
    assert!(lab.connects(port_80(PUBLIC[0])).unwrap());
    assert_eq!(why(&gateway, PUBLIC[0])["verdict"], "none");
}

fn an_address_that_serves_other_names_too_passes() {
    let lab = lab();
    let gateway = start(&lab, &policy("log"));
    // The other name comes after, or before.
    let (after, before) = ("at-77-74-177-1.other.test", "at-198-51-100-1.other.test");
    resolves_to(&lab, "at-77-74-177-1.vendor.test", VENDOR);
    let learned = why(&gateway, VENDOR);
    assert_eq!((&learned["form"], &learned["told"]["rule"]), (&"opened".into(), &"names".into()));
    assert_eq!(addresses(&gateway, "learned"), 1);
    resolves_to(&lab, after, VENDOR);
    resolves_to(&lab, before, ORDINARY);
    resolves_to(&lab, "at-198-51-100-1.vendor.test", ORDINARY);
    assert_eq!((addresses(&gateway, "learned"), addresses(&gateway, "shared")), (0.into(), 2.into()));
    for address in [VENDOR, ORDINARY] {
        let note = why(&gateway, address)["note"].to_string();
        assert!(
            note.contains("learned for rule names from at-") && note.contains("but shared with"),
            "{note}"
        );
    }
    assert!(why(&gateway, VENDOR)["note"].as_str().unwrap().contains(&format!("shared with {after}")));

    assert_eq!(gateway.write_policy(&policy("block"))["applied"], true);
    for address in [VENDOR, ORDINARY] {
        assert!(lab.connects(port_80(address)).unwrap());
        assert_eq!(why(&gateway, address)["verdict"], "none");
    }
    let shared = why(&gateway, VENDOR);
    assert_eq!((&shared["told"]["shared"], &shared["told"]["shared_with"]), (&true.into(), &after.into()));
    assert_eq!(shared["told"]["name"], "at-77-74-177-1.vendor.test");
}

/// The TTL in the cache is shorter at each answer; what it is lengthened to begins anew.
fn what_is_open_stays_open_as_long_as_the_cache_answers() {
    let lab = lab();
    let gateway = start(&lab, &policy("log"));
    let remaining = || why(&gateway, VENDOR)["told"]["remaining_secs"].as_u64().unwrap();
    resolves_to(&lab, "at-77-74-177-1.ttl-30.vendor.test", VENDOR);
    assert!((58..60).contains(&remaining()), "{}", remaining());
    until("two seconds have passed", || (remaining() < 58).then_some(()));
    resolves_to(&lab, "at-77-74-177-1.ttl-30.vendor.test", VENDOR);
    assert!(remaining() >= 58, "{}", remaining());
    assert_eq!(gateway.status()["counters"]["dns"]["cached"], 1);
    assert_eq!(lab.asked().len(), 1);
}

fn what_an_exempt_client_resolved_is_open_to_it_alone() {
    let lab = lab();
    let networks = learner("block", "domains = [\"vendor.test\"]\nnetworks = [\"77.74.176.0/21\"]");
    let gateway = start(
        &lab,
        &format!(
            "{networks}[[exempt]]\nid = \"analysis\"\nclients = [\"{CLIENT}/32\"]\nrules = [\"names\"]\nreason = \"x\"\n\
             approved_by = \"CISO\"\nexpires = 2099-01-01\n"
        ),
    );
    resolves_to(&lab, "at-77-74-177-1.vendor.test", VENDOR);
    assert!(lab.connects(port_80(VENDOR)).unwrap());
    let of = |client: Ipv4Addr| {
        let request = Request::Why { asks: vec![VENDOR.to_string()], client: Some(client.into()) };
        gateway.ask(&request).unwrap()["answers"][0]["verdict"].clone()
    };
    assert_eq!((of(CLIENT), of(Ipv4Addr::new(10, 77, 0, 3))), ("exempt".into(), "block".into()));
    assert_eq!(
        (addresses(&gateway, "opened"), addresses(&gateway, "opened_to_clients")),
        (0.into(), 1.into())
    );
    assert_eq!(addresses(&gateway, "learned"), 1);
}

/// Names of known DoH servers are let through by a rule of `[egress_dns]`; that must not open their other ports.
fn a_known_doh_server_that_is_only_watched_is_not_opened() {
    let lab = lab();
    let encrypted = SocketAddr::new(ORDINARY.into(), 853);
    lab.serve_tcp(encrypted).unwrap();
    let gateway = start(&lab, &format!("{}[egress_dns]\ndoh = \"log\"\ndot = \"block\"\n", policy("log")));
    resolves_to(&lab, "dns.google", ORDINARY);
    assert!(!lab.connects(encrypted).unwrap());
    assert_eq!(addresses(&gateway, "opened"), 0);
}

/// An unlisted name whose first address is in a logged network, and whose second is one with closed ports.
fn an_address_that_decides_opens_no_other() {
    let lab = lab();
    let rule = |id, action, rest| {
        format!("[[rule]]\nid = \"{id}\"\nrole = \"update\"\naction = \"{action}\"\nnetworks = {rest}\n")
    };
    let rules = [
        rule("logged", "log", "[\"198.51.100.0/24\"]"),
        rule("closed", "block", "[\"77.74.176.0/21\"]\nports = [\"tcp/80\"]"),
    ];
    let gateway = start(&lab, &format!("format = 1\n{}", rules.concat()));
    resolves_to(&lab, "at-198-51-100-1.at-77-74-177-1.other.test", ORDINARY);
    gateway.event("the address decided", |event| event["plane"] == "dns" && event["rule"] == "logged");
    assert!(!lab.connects(port_80(VENDOR)).unwrap());
    assert_eq!(addresses(&gateway, "opened"), 0);
}

fn a_reload_keeps_what_was_learned_and_forgets_it_with_its_rule() {
    let lab = lab();
    let gateway = start(&lab, &policy("log"));
    resolves_to(&lab, "at-77-74-177-1.vendor.test", VENDOR);
    let with_more = |policy: String| {
        format!(
            "{policy}[[rule]]\nid = \"more\"\nrole = \"update\"\naction = \"block\"\nhosts = [\"more.test\"]\n"
        )
    };
    assert_eq!(gateway.write_policy(&with_more(policy("block")))["applied"], true);
    let learned = why(&gateway, VENDOR);
    assert_eq!((&learned["verdict"], &learned["form"]), (&"block".into(), &"learned".into()));
    assert_eq!(learned["told"]["name"], "at-77-74-177-1.vendor.test");
    assert!(!lab.connects(port_80(VENDOR)).unwrap());
    let renamed = with_more(policy("block").replace("\"names\"", "\"renamed\""));
    assert_eq!(gateway.write_policy(&renamed)["applied"], true);
    assert!(lab.connects(port_80(VENDOR)).unwrap());
    until("it is forgotten", || (addresses(&gateway, "learned") == 0).then_some(()));
    assert_eq!(gateway.write_policy(&policy("block"))["applied"], true);
    assert!(lab.connects(port_80(VENDOR)).unwrap(), "it does not come back with the rule");
}

/// The figures of the last round, once there is one.
fn last_round(gateway: &Gateway) -> Value {
    until("a round is done", || {
        let last = gateway.status()["resolve_banned"]["last"].clone();
        (!last.is_null()).then_some(last)
    })
}

fn banned_names_are_resolved_by_the_agent_alone() {
    let lab = lab();
    let [vendor, public, ordinary] =
        ["at-77-74-177-1.vendor.test", "at-8-8-8-8.vendor.test", "at-198-51-100-1.vendor.test"];
    let gateway = start_resolving(&lab, &hosts(&[vendor, public, "servfail.vendor.test"]));
    let last = last_round(&gateway);
    for (figure, number) in [("names", 3), ("addresses", 2), ("failures", 1), ("left_out", 0)] {
        assert_eq!(last[figure], number, "{figure}");
    }
    assert_eq!(addresses(&gateway, "refused")["public_resolver"], 1);
    assert_eq!((addresses(&gateway, "opened"), addresses(&gateway, "learned")), (0.into(), 1.into()));
    let learned = why(&gateway, VENDOR);
    assert_eq!((&learned["verdict"], &learned["form"]), (&"block".into(), &"learned".into()));
    assert_eq!(learned["told"]["name"], vendor);
    assert!(!lab.connects(port_80(VENDOR)).unwrap());
    assert_eq!(lab.ask(vendor).unwrap(), Reply::NxDomain);
    // Had a question of the agent's own been recorded, it would be the first.
    let event = gateway.event("a question is on record", |event| event["plane"] == "dns");
    assert_eq!((&event["client"], &event["asked"]["name"]), (&CLIENT.to_string().into(), &vendor.into()));

    // Another policy is another round, long before the minute is over.
    assert_eq!(gateway.write_policy(&hosts(&[vendor, ordinary]))["applied"], true);
    until("the new name is learned", || (why(&gateway, ORDINARY)["form"] == "learned").then_some(()));
    assert!(!lab.connects(port_80(ORDINARY)).unwrap());
}

fn what_was_learned_passes_again_when_its_time_is_over() {
    let lab = lab();
    let gateway = start_resolving(&lab, &hosts(&["at-77-74-177-1.ttl-3.vendor.test"]));
    until("it is learned", || (why(&gateway, VENDOR)["form"] == "learned").then_some(()));
    assert!(!lab.connects(port_80(VENDOR)).unwrap());
    until("its time is over", || lab.connects(port_80(VENDOR)).unwrap().then_some(()));
    until("it is forgotten", || (addresses(&gateway, "learned") == 0).then_some(()));
}

fn what_a_round_leaves_out_is_told() {
    let lab = lab();
    let names: Vec<String> = (0..1003).map(|n| format!("h{n}.vendor.test")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let gateway = start_resolving(&lab, &hosts(&names));
    let last = last_round(&gateway);
    assert_eq!((&last["names"], &last["left_out"]), (&1000.into(), &3.into()));
    assert_eq!(addresses(&gateway, "learned"), 2, "they all have one server, with two addresses");
}

fn a_round_breaks_off_where_nobody_answers() {
    let lab = lab();
    let names: Vec<String> = (0..100).map(|n| format!("servfail.h{n}.vendor.test")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let gateway = start_resolving(&lab, &hosts(&names));
    let last = last_round(&gateway);
    let [asked, failed, left_out] =
        ["names", "failures", "left_out"].map(|figure| last[figure].as_u64().unwrap());
    assert!((32..40).contains(&asked) && failed == asked && left_out == 100 - asked, "{last}");
    assert_eq!(gateway.status()["resolve_banned"]["failures"], failed);
}
