//! What other programs are told: the words of each format, and verdicts that agree with ours under every way in which
//! a server may read them. `tests/export.rs` of the program asks the real servers.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use interdict_policy::export::{Effect, Exported, Format, Speaker, export};
use interdict_policy::{Action, DomainName, IpNet, Policy, Service, Source, compile};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

fn policy(text: &str) -> Policy {
    let source = Source { name: "p.toml".into(), text: text.into() };
    compile(&[source]).unwrap_or_else(|problems| panic!("{problems}")).policy
}

/// A rule for each line: an id, an action, and the rest as TOML keys with `;` between them.
fn rules(lines: &[(&str, &str, &str)]) -> Policy {
    let mut text = "format = 1\n".to_owned();
    for (id, action, keys) in lines {
        let keys = keys.replace("; ", "\n");
        text += &format!("[[rule]]\nid = \"{id}\"\nrole = \"x\"\naction = \"{action}\"\n{keys}\n");
    }
    policy(&text)
}

/// The lines of an export that are no comment.
fn body(exported: &Exported) -> Vec<&str> {
    let lines = exported.text.lines().map(str::trim);
    lines.filter(|line| !line.is_empty() && !line.starts_with(['#', ';'])).collect()
}

#[track_caller]
fn check(format: Format, lines: &[(&str, &str, &str)], expected: &[&str]) {
    let exported = export(&rules(lines), format, 7);
    let written = body(&exported);
    let skip = match format {
        Format::Rpz => 3,
        Format::Unbound => 1,
        _ => 0,
    };
    assert_eq!(written[skip..], *expected, "{format}\n{}", exported.text);
}

/// What is unsaid, without what holds for every rule.
#[track_caller]
fn check_unsaid(format: Format, lines: &[(&str, &str, &str)], expected: &[&str]) {
    let exported = export(&rules(lines), format, 7);
    let unsaid: Vec<String> = exported
        .unsaid
        .iter()
        .filter(|item| item.by != Speaker::EveryRule)
        .map(ToString::to_string)
        .collect();
    assert_eq!(unsaid, expected, "{format}");
    for line in &exported.unsaid {
        assert!(exported.text.contains(&format!("- {line}\n")), "the file does not open with: {line}");
    }
}

const BANNED: (&str, &str, &str) = ("all", "block", "domains = ['v.example']");

#[test]
fn a_zone_has_a_domain_twice_and_a_host_once() {
    check(
        Format::Rpz,
        &[BANNED, ("one", "block", "hosts = ['h.example']")],
        &["h.example CNAME .", "v.example CNAME .", "*.v.example CNAME ."],
    );
}

#[test]
fn a_zone_says_both_at_every_node_below_a_banned_domain() {
    check(
        Format::Rpz,
        &[BANNED, ("ok", "allow", "hosts = ['a.b.v.example']")],
        &[
            "v.example CNAME .",
            "*.v.example CNAME .",
            "b.v.example CNAME .",
            "*.b.v.example CNAME .",
            "a.b.v.example CNAME rpz-passthru.",
            "*.a.b.v.example CNAME .",
        ],
    );
}

#[test]
fn a_zone_has_words_for_all_answers_but_one() {
    check(
        Format::Rpz,
        &[
            ("a", "block", "hosts = ['a.example']; answer = 'nodata'; ttl_secs = 5"),
            ("b", "block", "hosts = ['b.example']; answer = 'drop'"),
            ("c", "block", "hosts = ['c.example']; answer = 'null'"),
            ("d", "block", "hosts = ['d.example']; answer = { aaaa = '2001:db8::1' }"),
            ("e", "block", "hosts = ['Bücher.example']; answer = 'refused'"),
        ],
        &[
            "a.example 5 CNAME *.",
            "b.example CNAME rpz-drop.",
            "c.example A 0.0.0.0",
            "c.example AAAA ::",
            "d.example AAAA 2001:db8::1",
            "xn--bcher-kva.example CNAME .",
        ],
    );
    check_unsaid(
        Format::Rpz,
        &[("e", "block", "hosts = ['e.example']; answer = 'refused'; networks = ['192.0.2.0/24']")],
        &[
            "e: answer = \"refused\" has no word; answered NXDOMAIN",
            "e: networks cannot be said; packets need a firewall (export nft) (let through here)",
        ],
    );
}

#[test]
fn names_that_a_zone_reads_otherwise_are_left_out_and_told() {
    let long = [["a"; 31].join(""), ["b"; 63].join(""), ["c"; 63].join(""), ["d"; 63].join("")].join(".");
    let rule = format!("domains = ['32.0.0.0.10.rpz-ip', '{long}']");
    let exported = export(&rules(&[("odd", "block", &rule)]), Format::Rpz, 7);
    assert_eq!(body(&exported).len(), 3, "{}", exported.text);
    for name in ["32.0.0.0.10.rpz-ip", "x.32.0.0.0.10.rpz-ip", &long] {
        let name: DomainName = name.parse().unwrap();
        assert!(exported.unsaid.iter().any(|item| item.concerns(name.as_name())), "{name}");
    }
}

#[test]
fn globs_are_unsaid_where_they_change_a_verdict() {
    check_unsaid(
        Format::Rpz,
        &[
            BANNED,
            ("same", "block", "globs = ['a-*.v.example']"),
            ("otherwise", "block", "globs = ['b-*.v.example']; answer = 'nodata'"),
            ("open", "allow", "globs = ['*.ok.v.example']"),
            ("lost", "block", "globs = ['*.w.example']"),
            ("nothing", "allow", "globs = ['c-*.w.example']"),
            ("pattern", "block", "patterns = [{ under = 'w.example', match = 'p[0-9]+' }]"),
            ("news", "log", "hosts = ['news.v.example']"),
        ],
        &[
            "otherwise: globs and patterns cannot be said; answered as the domain around says: b-*.v.example",
            "open: globs and patterns cannot be said, nor exceptions made by one (blocked here): *.ok.v.example",
            "lost: globs and patterns cannot be said (let through here): *.w.example",
            "pattern: globs and patterns cannot be said (let through here): p[0-9]+ under w.example",
            "news: action = \"log\" lets through and records nothing",
        ],
    );
}

#[test]
fn unbound_opens_with_a_transparent_zone_and_blocks_one_name_with_a_record_in_one() {
    let rules = [
        BANNED,
        ("ok", "allow", "domains = ['ok.v.example']"),
        ("back", "block", "hosts = ['bad.ok.v.example']; answer = 'null'; ttl_secs = 5"),
        ("one", "block", "hosts = ['h.example']"),
        ("to", "block", "domains = ['w.example']; answer = { a = '192.0.2.80' }"),
        ("free", "allow", "hosts = ['free.example']"),
    ];
    check(
        Format::Unbound,
        &rules,
        &[
            "local-zone: \"h.example.\" transparent",
            "local-data: \"h.example. 60 IN TYPE65280 \\# 0\"",
            "local-zone: \"v.example.\" always_nxdomain",
            "local-zone: \"ok.v.example.\" transparent",
            "local-zone: \"bad.ok.v.example.\" transparent",
            "local-data: \"bad.ok.v.example. 5 IN A 0.0.0.0\"",
            "local-data: \"bad.ok.v.example. 5 IN AAAA ::\"",
            "local-zone: \"w.example.\" redirect",
            "local-data: \"w.example. 60 IN A 192.0.2.80\"",
        ],
    );
    check_unsaid(
        Format::Unbound,
        &rules,
        &["one: a name that is blocked alone is answered NODATA: h.example"],
    );
}

#[test]
fn unbound_never_opens_a_whole_domain_for_one_name() {
    let rules =
        [BANNED, ("apex", "allow", "hosts = ['v.example']"), ("inside", "allow", "hosts = ['ok.v.example']")];
    check(
        Format::Unbound,
        &rules,
        &["local-zone: \"v.example.\" always_nxdomain", "local-zone: \"ok.v.example.\" transparent"],
    );
    check_unsaid(
        Format::Unbound,
        &rules,
        &[
            "apex: a name cannot be let through alone when its whole domain is banned (blocked here): v.example",
            "inside: what is below a name that is let through is let through too (let through here): below ok.v.example",
        ],
    );
}

#[test]
fn dnsmasq_keeps_other_types_from_the_upstream_and_tells_a_name_from_what_is_below_it() {
    check(
        Format::Dnsmasq,
        &[
            BANNED,
            ("apex", "allow", "hosts = ['v.example']"),
            ("ok", "allow", "domains = ['ok.v.example']"),
            ("one", "block", "hosts = ['h.example']; answer = 'null'"),
            ("to", "block", "domains = ['w.example']; answer = { a = '192.0.2.80', aaaa = '2001:db8::80' }"),
        ],
        &[
            "local=/h.example/",
            "address=/h.example/#",
            "server=/*.h.example/#",
            "server=/v.example/#",
            "local=/*.v.example/",
            "server=/ok.v.example/#",
            "local=/w.example/",
            "address=/w.example/192.0.2.80",
            "address=/w.example/2001:db8::80",
        ],
    );
}

#[test]
fn a_hosts_file_lists_names_and_says_that_it_misses_the_rest() {
    let rules = [
        BANNED,
        ("ok", "allow", "hosts = ['ok.v.example']"),
        ("to", "block", "hosts = ['h.example']; answer = { a = '192.0.2.80' }"),
        ("glob", "block", "globs = ['a-*.v.example']"),
    ];
    check(Format::Hosts, &rules, &["192.0.2.80 h.example", "0.0.0.0 v.example", ":: v.example"]);
    check_unsaid(
        Format::Hosts,
        &rules,
        &[
            "all: a hosts file cannot say what is below a name (let through here): below v.example, below ok.v.example",
            "all: a hosts file can only answer addresses; answered with null",
            "glob: globs and patterns cannot be said (let through here): a-*.v.example",
        ],
    );
}

#[test]
fn json_says_every_rule() {
    let exported = export(
        &rules(&[
            ("to", "block", "networks = ['192.0.2.0/24']; ports = ['tcp/443']; packet = 'drop'"),
            BANNED,
        ]),
        Format::Json,
        7,
    );
    let json: serde_json::Value = serde_json::from_str(&exported.text).unwrap();
    assert_eq!(json["rules"][0]["ports"][0], "tcp/443");
    assert_eq!(json["rules"][1]["domains"][0], "v.example");
    assert!(exported.unsaid.is_empty());
}

#[test]
fn egress_dns_is_unsaid_but_in_json_where_it_is_not_as_by_default() {
    const RULE: &str =
        "format = 1\n[[rule]]\nid = \"r\"\nrole = \"x\"\naction = \"block\"\nhosts = [\"a.example\"]\n";
    for (table, said) in [
        ("", false),
        ("[egress_dns]\nplain = \"allow\"\n", false),
        ("[egress_dns]\nplain = \"redirect\"\nresolvers = [\"10.1.0.53\"]\n", true),
    ] {
        let policy = policy(&format!("{RULE}{table}"));
        for format in Format::ALL.into_iter().filter(|format| *format != Format::Json) {
            let exported = export(&policy, format, 7);
            let line =
                "- [egress_dns]: what it asks for is not done: DNS to other resolvers goes its own way";
            assert_eq!(exported.text.contains(line), said, "{format} {table}");
            assert_eq!(
                exported.unsaid.iter().any(|item| item.by == Speaker::EgressDns),
                said,
                "{format} {table}"
            );
        }
        let json = export(&policy, Format::Json, 7).text;
        let json: serde_json::Value = serde_json::from_str(&json).unwrap();
        let egress = &json["egress_dns"];
        assert_eq!(
            (&egress["plain"], &egress["dot"], egress["resolvers"][0].as_str()),
            (&if said { "redirect" } else { "allow" }.into(), &"log".into(), said.then_some("10.1.0.53"))
        );
    }
}

/// How a server goes from a zone to a verdict where a name has no entry of its own.
#[derive(Clone, Copy, Debug)]
enum Reading {
    /// By the rules of zones: any node that exists ends the search, even an empty one.
    Nodes,
    /// As `Nodes`, without the empty ones.
    WrittenNodes,
    /// The longest wildcard.
    Wildcards,
}

/// Whether a zone blocks a name.
fn zone_blocks(zone: &BTreeMap<&str, &str>, name: &str, reading: Reading) -> bool {
    let blocks = |owner: &str| zone.get(owner).map(|record| *record != "CNAME rpz-passthru.");
    if let Some(verdict) = blocks(name) {
        return verdict;
    }
    let below = |owner: &&str, parent: &str| owner.ends_with(&format!(".{parent}"));
    let exists = |node: &str| match reading {
        Reading::Nodes => zone.keys().any(|owner| *owner == node || below(owner, node)),
        Reading::WrittenNodes => zone.contains_key(node),
        Reading::Wildcards => false,
    };
    if exists(name) {
        return false;
    }
    let mut rest = name;
    while let Some((_, parent)) = rest.split_once('.') {
        if let Some(verdict) = blocks(&format!("*.{parent}")) {
            return verdict;
        }
        if exists(parent) {
            return false;
        }
        rest = parent;
    }
    false
}

/// Whether Unbound's local zones block a name.
fn unbound_blocks(lines: &[&str], name: &str) -> bool {
    let quoted = |line: &str| line.split('"').nth(1).unwrap_or_default().to_owned();
    let data: BTreeSet<String> = lines
        .iter()
        .filter(|line| line.starts_with("local-data:"))
        .map(|line| quoted(line).split(' ').next().unwrap_or_default().to_owned())
        .collect();
    let name = format!("{name}.");
    let zone = lines
        .iter()
        .filter(|line| line.starts_with("local-zone:"))
        .map(|line| (quoted(line), line.rsplit(' ').next().unwrap_or_default()))
        .filter(|(zone, _)| name == *zone || name.ends_with(&format!(".{zone}")))
        .max_by_key(|(zone, _)| zone.len());
    zone.is_some_and(|(_, kind)| kind != "transparent" || data.contains(&name))
}

/// Whether dnsmasq blocks a name: the longest pattern decides.
fn dnsmasq_blocks(lines: &[&str], name: &str) -> bool {
    let matches = |pattern: &str| match pattern.strip_prefix('*') {
        Some(tail) => name.ends_with(tail),
        None => name == pattern || name.ends_with(&format!(".{pattern}")),
    };
    let decided = lines
        .iter()
        .map(|line| (line.split('/').next().unwrap_or_default(), line.split('/').nth(1).unwrap_or_default()))
        .filter(|(_, pattern)| matches(pattern))
        .max_by_key(|(_, pattern)| pattern.len());
    decided.is_some_and(|(key, _)| key != "server=")
}

fn name() -> impl Strategy<Value = String> {
    vec(select(vec!["a", "b", "ab"]), 1..5).prop_map(|labels| labels.join("."))
}

fn names_rule() -> impl Strategy<Value = (&'static str, String)> {
    let glob = (select(vec!["*", "a*", "*b"]), name()).prop_map(|(star, fixed)| format!("{star}.{fixed}"));
    let keys = prop_oneof![
        3 => vec(name(), 1..3).prop_map(|names| format!("hosts = {names:?}")),
        3 => vec(name(), 1..3).prop_map(|names| format!("domains = {names:?}")),
        1 => vec(glob, 1..3).prop_map(|globs| format!("globs = {globs:?}")),
    ];
    let answer = select(vec!["nxdomain", "nodata", "null", "drop"]);
    (select(vec!["block", "block", "allow", "log"]), keys, answer)
        .prop_map(|(action, keys, answer)| (action, format!("{keys}; answer = '{answer}'")))
}

fn names_policy() -> impl Strategy<Value = Policy> {
    vec(names_rule(), 1..8).prop_map(|drafts| {
        let ids: Vec<String> = (0..drafts.len()).map(|i| format!("r{i}")).collect();
        let lines: Vec<(&str, &str, &str)> = drafts
            .iter()
            .zip(&ids)
            .map(|((action, keys), id)| (id.as_str(), *action, keys.as_str()))
            .collect();
        rules(&lines)
    })
}

fn we_block(policy: &Policy, name: &DomainName) -> bool {
    let found = policy.decide_name(name.as_name());
    found.is_some_and(|found| policy.rule(found.rule).action == Action::Block)
}

fn network() -> impl Strategy<Value = String> {
    let v4 = (0u8..16, 26u8..=32).prop_map(|(last, len)| (IpAddr::from([10, 0, 0, last]), len));
    let v6 = (0u16..4, 124u8..=128)
        .prop_map(|(last, len)| (IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, last]), len));
    prop_oneof![v4, v6].prop_map(|(address, len)| IpNet::new(address, len).unwrap().trunc().to_string())
}

fn networks_policy() -> impl Strategy<Value = Policy> {
    let rule = (
        select(vec!["block", "block", "allow", "log"]),
        vec(network(), 1..4),
        vec(select(vec!["tcp/80", "tcp/443", "udp/443"]), 0..3),
        select(vec!["drop", "reject"]),
    );
    vec(rule, 1..8).prop_map(|drafts| {
        let mut text = "format = 1\n".to_owned();
        for (i, (action, networks, ports, packet)) in drafts.iter().enumerate() {
            text += &format!(
                "[[rule]]\nid = \"r{i}\"\nrole = \"x\"\naction = \"{action}\"\nnetworks = {networks:?}\npacket = \"{packet}\"\n"
            );
            if !ports.is_empty() {
                text += &format!("ports = {ports:?}\n");
            }
        }
        policy(&text)
    })
}

/// The elements of each set.
fn nft_sets(exported: &Exported) -> BTreeMap<String, Vec<String>> {
    let mut sets: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let mut current = None;
    for line in body(exported) {
        if let Some(rest) = line.strip_prefix("add element inet interdict ") {
            current = rest.split(' ').next().map(str::to_owned);
        } else if line == "}" {
            current = None;
        } else if let Some(set) = &current {
            sets.entry(set.clone()).or_default().push(line.trim_end_matches(',').to_owned());
        }
    }
    sets
}

/// What the chain in the file's head does with a packet.
fn nft_verdict(
    sets: &BTreeMap<String, Vec<String>>,
    address: IpAddr,
    service: Option<Service>,
) -> &'static str {
    let family = if address.is_ipv4() { "4" } else { "6" };
    let holds = |set: &str| {
        sets.get(&format!("{set}{family}")).is_some_and(|elements| {
            elements.iter().any(|element| {
                let (network, wanted) =
                    element.split_once(" . ").map_or((element.as_str(), None), |(n, s)| (n, Some(s)));
                let network: IpNet = network.parse().unwrap();
                let service = service.map(|s| format!("{} . {}", s.protocol.as_str(), s.port));
                network.contains(&address) && (wanted.is_none() || wanted == service.as_deref())
            })
        })
    };
    match () {
        () if holds("open_services") => "pass",
        () if holds("drop_services") => "drop",
        () if holds("reject_services") => "reject",
        () if holds("drop") => "drop",
        () if holds("reject") => "reject",
        () => "pass",
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn every_reading_of_the_zone_agrees_with_us(policy in names_policy(), asks in vec(name(), 24)) {
        let exported = export(&policy, Format::Rpz, 7);
        let zone: BTreeMap<&str, &str> = body(&exported).into_iter().skip(3).map(|line| line.split_once(' ').unwrap()).collect();
        for ask in asks {
            let name: DomainName = ask.parse().unwrap();
            if exported.unsaid.iter().any(|item| item.concerns(name.as_name())) {
                continue;
            }
            for reading in [Reading::Nodes, Reading::WrittenNodes, Reading::Wildcards] {
                let blocks = zone_blocks(&zone, &ask, reading);
                prop_assert_eq!(blocks, we_block(&policy, &name), "{} {:?}\n{}", ask, reading, exported.text);
            }
        }
    }

    #[test]
    fn resolvers_agree_with_us(policy in names_policy(), asks in vec(name(), 24)) {
        for (format, blocks) in [(Format::Unbound, unbound_blocks as fn(&[&str], &str) -> bool), (Format::Dnsmasq, dnsmasq_blocks)] {
            let exported = export(&policy, format, 7);
            let lines = body(&exported);
            for ask in &asks {
                let name: DomainName = ask.parse().unwrap();
                let unsaid = exported.unsaid.iter().any(|item| item.concerns(name.as_name()));
                prop_assert!(unsaid || blocks(&lines, ask) == we_block(&policy, &name), "{} {}", ask, exported.text);
            }
        }
    }

    #[test]
    fn a_hosts_file_agrees_with_us(policy in names_policy(), asks in vec(name(), 24)) {
        let exported = export(&policy, Format::Hosts, 7);
        let listed: BTreeSet<&str> = body(&exported).into_iter().filter_map(|line| line.split(' ').nth(1)).collect();
        for ask in &asks {
            let name: DomainName = ask.parse().unwrap();
            let unsaid = exported.unsaid.iter().any(|item| item.concerns(name.as_name()));
            prop_assert!(unsaid || listed.contains(ask.as_str()) == we_block(&policy, &name), "{} {}", ask, exported.text);
        }
    }

    #[test]
    fn a_firewall_agrees_with_us(policy in networks_policy(), asks in vec((0u8..24, any::<bool>()), 12)) {
        let exported = export(&policy, Format::Nft, 7);
        prop_assert!(exported.unsaid.iter().all(|item| item.effect == Effect::Otherwise));
        let sets = nft_sets(&exported);
        for (last, v6) in asks {
            let address: IpAddr = if v6 { [0x2001, 0xdb8, 0, 0, 0, 0, 0, u16::from(last)].into() } else { [10, 0, 0, last].into() };
            for service in [None, Some("tcp/80"), Some("tcp/443"), Some("udp/443"), Some("udp/53")] {
                let service: Option<Service> = service.map(|service| service.parse().unwrap());
                let rule = policy.decide_address(address, service).map(|found| policy.rule(found.rule));
                let ours = rule.filter(|rule| rule.action == Action::Block).map_or("pass", |rule| rule.packet.as_str());
                prop_assert_eq!(nft_verdict(&sets, address, service), ours, "{} {:?}\n{}", address, service, exported.text);
            }
        }
    }
}
