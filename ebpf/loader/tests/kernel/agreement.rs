//! Random policies and random packets, decided alike by the kernel and by the policy; and, as far as addresses go, by nftables.

use std::{
    collections::BTreeMap,
    io::{ErrorKind, Write as _},
    net::{IpAddr, Ipv4Addr, UdpSocket},
    process::{Command, Stdio},
};

use interdict_ebpf_loader::{Entry, Probe};
use interdict_policy::{Protocol, Service, Verdict};
use proptest::{
    prelude::*,
    strategy::ValueTree as _,
    test_runner::{Config, RngAlgorithm, TestRng, TestRunner},
};

use ipnet::IpNet;

use crate::{
    namespace::Namespace,
    support::{Ends, apply, dropped, frame, plane, policy, policy_and, tests},
};

tests![the_kernel_decides_as_the_policy_does, the_kernel_decides_as_nftables_does];

const POLICIES: u32 = 60;
const PACKETS: usize = 120;

/// Addresses and networks come from a small space, so that they meet and nest.
fn address() -> impl Strategy<Value = IpAddr> {
    let mapped = |n: u32| Ipv4Addr::from_bits(0xc000_0200 + n * 4).to_ipv6_mapped().into();
    prop_oneof![
        1 => (0_u32..64).prop_map(mapped),
        4 => written(),
    ]
}

/// As networks are written: none of IPv4 in the form of IPv6.
fn written() -> impl Strategy<Value = IpAddr> {
    prop_oneof![
        (0_u32..64).prop_map(|n| Ipv4Addr::from_bits(0xc000_0200 + n * 4).into()),
        (0_u128..64).prop_map(|n| std::net::Ipv6Addr::from_bits((0x2001_0db8_u128 << 96) + (n << 70)).into()),
    ]
}

fn network() -> impl Strategy<Value = String> {
    // Some of IPv6 are as long as ones of IPv4 are in their mapped form.
    (written(), 0_u8..8, prop_oneof![3 => Just(60_u8), 1 => Just(128)]).prop_map(
        |(address, shorter, full)| {
            let full = if address.is_ipv4() { 32 } else { full };
            let network = ipnet::IpNet::new(address, full - shorter).unwrap().trunc();
            network.to_string()
        },
    )
}

fn port() -> impl Strategy<Value = String> {
    (prop_oneof!["tcp", "udp"], 440_u16..446).prop_map(|(protocol, port)| format!("{protocol}/{port}"))
}

/// The rules of a policy, without their names.
fn rules() -> impl Strategy<Value = Vec<String>> {
    let rule = (
        prop_oneof!["block", "log", "allow"],
        prop::collection::vec(network(), 1..5),
        prop_oneof![2 => Just(vec![]), 1 => prop::collection::vec(port(), 1..5)],
    )
        .prop_map(|(action, networks, ports)| format!("{action} {} {}", networks.join(" "), ports.join(" ")));
    prop::collection::vec(rule, 1..12)
}

/// The register: for each line the network of clients, whether it has ended, and which rules it names.
fn register() -> impl Strategy<Value = Vec<(String, bool, Vec<usize>)>> {
    let clients = prop_oneof![
        (0_u32..4, 28_u8..=32)
            .prop_map(|(n, bits)| (IpAddr::from(Ipv4Addr::from_bits(0x0a00_0000 + n * 16)), bits)),
        (0_u128..4, 120_u8..=128).prop_map(|(n, bits)| {
            (IpAddr::from(std::net::Ipv6Addr::from_bits((0xfd00_u128 << 112) + n * 16)), bits)
        }),
    ];
    let clients =
        clients.prop_map(|(address, bits)| ipnet::IpNet::new(address, bits).unwrap().trunc().to_string());
    prop::collection::vec(
        (clients, prop::bool::weighted(0.2), prop::collection::vec(0_usize..12, 1..4)),
        0..6,
    )
}

/// The entries of a register, as far as they name rules that there are.
fn entries(register: &[(String, bool, Vec<usize>)], rules: usize) -> String {
    let mut text = String::new();
    for (number, (clients, ended, named)) in register.iter().enumerate() {
        let mut named: Vec<String> =
            named.iter().filter(|&&rule| rule < rules).map(|rule| format!("\"r{rule}\"")).collect();
        named.sort();
        named.dedup();
        if named.is_empty() {
            continue;
        }
        let expires = if *ended { "2001-01-01" } else { "2999-12-31" };
        text += &format!(
            "[[exempt]]\nid = \"e{number}\"\nclients = [\"{clients}\"]\nrules = [{}]\nreason = \"x\"\n\
             approved_by = \"x\"\nexpires = {expires}\n",
            named.join(", ")
        );
    }
    text
}

/// What a packet is addressed to, how it is wrapped, and whether its port can be read.
fn packet() -> impl Strategy<Value = (IpAddr, u16, &'static str, &'static str, Option<Protocol>)> {
    let transport = prop_oneof![
        Just(("tcp", Some(Protocol::Tcp))),
        Just(("udp", Some(Protocol::Udp))),
        Just(("icmp", None)),
        Just(("p253", None)),
    ];
    (address(), 439_u16..447, 0_usize..6, transport).prop_map(
        |(address, port, wrap, (transport, protocol))| {
            let (words, readable) = match (address, wrap) {
                (IpAddr::V4(_), 0 | 1) => ("v4", true),
                (IpAddr::V4(_), 2) => ("qinq vlan v4opt", true),
                (IpAddr::V4(_), 3) => ("v4 first", true),
                (IpAddr::V4(_), _) => ("vlan v4 later", false),
                (IpAddr::V6(_), 0 | 1) => ("v6", true),
                (IpAddr::V6(_), 2) => ("vlan v6 hop dest", true),
                (IpAddr::V6(_), 3) => ("v6 frag1 dest", true),
                (IpAddr::V6(_), 4) => ("v6 hop dest dest dest dest dest dest dest dest", false),
                (IpAddr::V6(_), _) => ("v6 frag2", false),
            };
            (address, port, words, transport, protocol.filter(|_| readable))
        },
    )
}

fn the_kernel_decides_as_the_policy_does() {
    let mut plane = plane(&policy("none block 198.51.100.0/24"));
    let mut events = plane.events().unwrap();
    // A contact of the next policy is another contact; this only keeps the table small.
    events.forget_after(std::time::Duration::ZERO);
    let config = Config { failure_persistence: None, ..Config::default() };
    let mut runner = TestRunner::new_with_rng(config, TestRng::deterministic_rng(RngAlgorithm::ChaCha));
    let strategy = (rules(), register(), prop::collection::vec(packet(), PACKETS));
    let mut exempt = 0;
    for _ in 0..POLICIES {
        let (rules, register, packets) = strategy.new_tree(&mut runner).unwrap().current();
        let entries = entries(&register, rules.len());
        let rules: String = rules.iter().enumerate().map(|(n, rule)| format!("r{n} {rule}\n")).collect();
        let policy = policy_and(&rules, &entries);
        apply(&mut plane, &policy);
        for (number, (address, port, words, transport, protocol)) in packets.into_iter().enumerate() {
            // Each packet has a client of its own, and so an event.
            let client: IpAddr = match address {
                IpAddr::V4(_) => Ipv4Addr::from_bits(0x0a00_0000 + number as u32).into(),
                IpAddr::V6(_) => std::net::Ipv6Addr::from_bits((0xfd00_u128 << 112) + number as u128).into(),
            };
            let ends = Ends { source: client, source_port: 9, destination: address, destination_port: port };
            let frame = frame(&format!("{words} {transport}"), &ends);
            let dropped = plane.prober().run(Probe::new(Entry::Lan, &frame)).unwrap().dropped;
            let mut kernel = None;
            events.drain(|contact| kernel = Some((contact.rule, contact.verdict)));

            let service = protocol.map(|protocol| Service { protocol, port });
            let expect = policy.decide_address(address, service).map(|found| {
                let judged = policy.judge(found.rule, Some(client), interdict_policy::Timestamp::now());
                (policy.rule(found.rule).id.clone(), judged.verdict)
            });
            let what =
                format!("{words} {transport} of {client} to {address} port {port} under\n{rules}{entries}");
            assert_eq!(kernel, expect, "{what}");
            exempt += usize::from(expect.as_ref().is_some_and(|(_, verdict)| *verdict == Verdict::Exempt));
            // What no rule decides and cannot be read is dropped.
            let hides = words.ends_with("dest dest dest dest dest dest dest dest");
            let drops = expect.map_or(hides, |(_, verdict)| verdict == Verdict::Block);
            assert_eq!(dropped, drops, "{what}");
        }
        events.sweep(drop).unwrap();
    }
    assert!(exempt > 20, "only {exempt} packets were of exempt clients");
}

/// Networks, each with what is done: in the words of a policy, and in those of nftables.
fn banned() -> impl Strategy<Value = BTreeMap<IpNet, (&'static str, &'static str)>> {
    let action = prop_oneof![Just(("block", "drop")), Just(("log", "accept")), Just(("allow", "accept"))];
    let network = network().prop_map(|network| network.parse::<IpNet>().unwrap());
    prop::collection::btree_map(network, action, 1..40)
}

/// A chain for what is sent, in which the longest network comes first.
fn ruleset(banned: &BTreeMap<IpNet, (&str, &str)>) -> String {
    let mut networks: Vec<_> = banned.iter().collect();
    networks.sort_by_key(|(network, _)| std::cmp::Reverse(network.prefix_len()));
    let rule = |(network, (_, verdict)): (&IpNet, &(&str, &str))| {
        let family = if network.addr().is_ipv4() { "ip" } else { "ip6" };
        format!("{family} daddr {network} {verdict}\n")
    };
    let rules: String = networks.into_iter().map(rule).collect();
    format!(
        "flush ruleset\ntable inet t {{ chain c {{ type filter hook output priority 0; policy accept;\n{rules}}}\n}}\n"
    )
}

fn the_kernel_decides_as_nftables_does() {
    const POLICIES: usize = 25;
    let namespace = Namespace::new();
    // What is sent to anywhere leaves by an interface behind which there is nothing.
    for command in [
        "link add name out0 type veth peer name end0",
        "link set out0 arp off up",
        "link set end0 arp off up",
        "link set lo up",
    ] {
        namespace.ip(command);
    }
    for command in [
        "addr add 10.0.0.1/24 dev out0",
        "addr add fd00::1/64 dev out0 nodad",
        "route add default dev out0",
        "-6 route add default dev out0",
    ] {
        namespace.ip(command);
    }
    let mut plane = plane(&policy("none block 198.51.100.0/24"));
    let config = Config { failure_persistence: None, ..Config::default() };
    let mut runner = TestRunner::new_with_rng(config, TestRng::deterministic_rng(RngAlgorithm::ChaCha));
    let strategy = (banned(), prop::collection::vec(packet(), PACKETS));
    let mut drops = 0;
    for _ in 0..POLICIES {
        let (banned, mut packets) = strategy.new_tree(&mut runner).unwrap().current();
        // Linux sends to none of those IPv6 addresses.
        packets.retain(|(address, ..)| address.to_canonical() == *address);
        let rules = banned.iter().enumerate();
        let rules: String =
            rules.map(|(n, (network, (action, _)))| format!("r{n} {action} {network}\n")).collect();
        apply(&mut plane, &policy(&rules));
        let ruleset = ruleset(&banned);
        let addresses: Vec<IpAddr> = packets.iter().map(|packet| packet.0).collect();
        let by_nftables = namespace.run(|| {
            let mut nft = Command::new("nft").args(["-f", "-"]).stdin(Stdio::piped()).spawn().unwrap();
            nft.stdin.take().unwrap().write_all(ruleset.as_bytes()).unwrap();
            assert!(nft.wait().unwrap().success(), "nft refuses\n{ruleset}");
            let sockets = ["10.0.0.1:0", "[fd00::1]:0"].map(|from| UdpSocket::bind(from).unwrap());
            let is_dropped = |address: &IpAddr| match sockets[usize::from(address.is_ipv6())]
                .send_to(b"", (*address, 9))
            {
                Ok(_) => false,
                // What its own host drops, a sender is told of.
                Err(error) if error.kind() == ErrorKind::PermissionDenied => true,
                Err(error) => panic!("{address}: {error}"),
            };
            addresses.iter().map(is_dropped).collect::<Vec<_>>()
        });
        for ((address, port, words, transport, _), expect) in packets.into_iter().zip(by_nftables) {
            let source = if address.is_ipv4() { "10.0.0.1" } else { "fd00::1" }.parse().unwrap();
            let ends = Ends { source, source_port: 9, destination: address, destination_port: port };
            let frame = frame(&format!("{words} {transport}"), &ends);
            // Of such a chain of headers nothing passes, whatever the address.
            if words.ends_with("dest dest dest dest dest dest dest dest") {
                continue;
            }
            let kernel = dropped(&plane.prober(), Entry::Lan, &frame);
            assert_eq!(kernel, expect, "{words} {transport} to {address} under\n{rules}");
            drops += usize::from(expect);
        }
    }
    assert!(drops > POLICIES * PACKETS / 10, "only {drops} packets were dropped");
}
