//! What the tests share: planes, policies, and frames written as words.

use std::{cell::RefCell, collections::BTreeMap, net::IpAddr, path::PathBuf};

use interdict_ebpf_loader::{Entry, Error, Interface, Options, PacketPlane, Probe, Prober};
use interdict_policy::{Policy, RuleId, Source, compile_with};

/// A test and its name.
pub(crate) type Test = (&'static str, fn());

/// Names each test after its function.
macro_rules! tests {
    ($($test:ident),+ $(,)?) => {
        pub(crate) fn tests() -> Vec<crate::support::Test> {
            vec![$((concat!(module_path!(), "::", stringify!($test)), $test as fn())),+]
        }
    };
}
pub(crate) use tests;

/// Why these tests cannot run here. Anything but a lack of rights is for the tests to find.
pub(crate) fn obstacle() -> Option<String> {
    match PacketPlane::load(&options()) {
        Err(error @ Error::MissingCapability { .. }) => Some(error.to_string()),
        _ => None,
    }
}

/// Options for a plane that is attached to nothing.
pub(crate) fn options() -> Options {
    Options { pin: PathBuf::from("/nowhere"), ..Options::new(Vec::new()) }
}

/// Options for a plane that is attached to one interface.
pub(crate) fn on(name: &str, role: interdict_ebpf_loader::Role) -> Options {
    Options { interfaces: vec![Interface { name: name.to_owned(), role }], ..options() }
}

/// A plane with a policy in force.
pub(crate) fn plane(policy: &Policy) -> PacketPlane {
    plane_with(&options(), policy)
}

/// A plane with a policy in force.
pub(crate) fn plane_with(options: &Options, policy: &Policy) -> PacketPlane {
    let mut plane = PacketPlane::load(options).unwrap();
    apply(&mut plane, policy);
    plane
}

/// Stages, flips and settles.
pub(crate) fn apply(plane: &mut PacketPlane, policy: &Policy) {
    let staged = plane.stage(policy).unwrap();
    plane.flip(staged).unwrap();
    plane.settle().unwrap();
}

/// A policy of rules written as `id action network... port...`, a line each.
///
/// What holds a `/` after letters is a port, as in `tcp/443`; what holds no `/` is a host name.
pub(crate) fn policy(rules: &str) -> Policy {
    policy_and(rules, "")
}

/// The same, with other entries as a policy file has them.
pub(crate) fn policy_and(rules: &str, entries: &str) -> Policy {
    let mut text = String::from("format = 1\n");
    for line in rules.lines().map(str::trim).filter(|line| !line.is_empty()) {
        let words: Vec<&str> = line.split_whitespace().collect();
        let [id, action, matchers @ ..] = words.as_slice() else { panic!("{line}") };
        let list = |which: &dyn Fn(&str) -> bool| {
            let quoted: Vec<_> = matchers.iter().filter(|m| which(m)).map(|m| format!("{m:?}")).collect();
            quoted.join(", ")
        };
        let is_port = |m: &str| m.starts_with("tcp/") || m.starts_with("udp/");
        let is_network = |m: &str| m.contains('/') && !is_port(m);
        text += &format!("[[rule]]\nid = {id:?}\nrole = \"other\"\naction = {action:?}\n");
        for (key, values) in [
            ("networks", list(&is_network)),
            ("ports", list(&is_port)),
            ("hosts", list(&|m| !m.contains('/'))),
        ] {
            if !values.is_empty() {
                text += &format!("{key} = [{values}]\n");
            }
        }
    }
    text += entries;
    let options =
        interdict_policy::Options { egress_rules: text.contains("[egress_dns]"), ..Default::default() };
    match compile_with(&[Source { name: "test.toml".to_owned(), text }], &options) {
        Ok(compiled) => compiled.policy,
        Err(problems) => panic!("{problems}"),
    }
}

/// The id of a rule.
pub(crate) fn id(text: &str) -> RuleId {
    text.parse().unwrap()
}

/// Runs a program once; whether it dropped the frame.
pub(crate) fn dropped(prober: &Prober, entry: Entry, frame: &[u8]) -> bool {
    prober.run(Probe::new(entry, frame)).unwrap().dropped
}

/// Runs a program once, and says by which exit the frame left.
pub(crate) fn exit_of(plane: &PacketPlane, entry: Entry, frame: &[u8]) -> &'static str {
    Exits::of(plane).next(entry, frame)
}

/// The counters of a plane whose programs nobody else runs.
pub(crate) struct Exits<'p> {
    plane: &'p PacketPlane,
    last: RefCell<BTreeMap<&'static str, u64>>,
}

impl<'p> Exits<'p> {
    pub(crate) fn of(plane: &'p PacketPlane) -> Self {
        Self { plane, last: RefCell::new(plane.counters().unwrap().exits) }
    }

    /// Runs a program once, and says by which exit the frame left.
    pub(crate) fn next(&self, entry: Entry, frame: &[u8]) -> &'static str {
        let dropped = dropped(&self.plane.prober(), entry, frame);
        let after = self.plane.counters().unwrap().exits;
        let exit = difference(&self.last.replace(after.clone()), &after);
        let hides = match entry {
            Entry::Lan => matches!(exit, "vlan_depth" | "header_chain_unjudged"),
            Entry::Wan => exit == "vlan_depth",
            _ => false,
        };
        assert_eq!(dropped, exit == "blocked" || hides, "{exit}");
        exit
    }
}

fn difference(before: &BTreeMap<&'static str, u64>, after: &BTreeMap<&'static str, u64>) -> &'static str {
    let grown: Vec<_> = after.iter().filter(|(name, count)| before[*name] != **count).collect();
    match grown.as_slice() {
        [(name, count)] if **count == before[**name] + 1 => name,
        other => panic!("a packet leaves by one exit, not by {other:?}"),
    }
}

/// A frame in words, from the outside in, as `vlan qinq v6 hop tcp:syn`.
///
/// | words | what |
/// | --- | --- |
/// | `vlan` `qinq` `oldqinq` | a tag: 802.1Q, 802.1ad, 0x9100 |
/// | `v4` `v4opt` `v6` | an IP header; `v4opt` has 40 bytes of options |
/// | `first` `later` `tail` | an IPv4 fragment: the first; one at 8 bytes; one at the greatest offset |
/// | `hop` `route` `dest` `ah` `mobility` `frag1` `frag2` | IPv6 headers; `frag1` is of a first fragment, `frag2` of a later one |
/// | `tcp` `tcp:syn` `tcp:synack` `tcp:ack` `udp` `icmp` `esp` `p253` | what follows |
/// | `about=ADDRESS/PORT` | an ICMP error that quotes a UDP datagram to there, of the address's family |
/// | `cut` | nothing, where another header was to be |
/// | `arp` | not IP |
///
/// Addresses are those of [`Ends`].
pub(crate) fn frame(words: &str, ends: &Ends) -> Vec<u8> {
    let words: Vec<&str> = words.split_whitespace().collect();
    let mut frame = vec![0x02, 0, 0, 0, 0, 1, 0x02, 0, 0, 0, 0, 2];
    let mut rest = words.as_slice();
    while let [word @ ("vlan" | "qinq" | "oldqinq"), after @ ..] = rest {
        let ethertype: u16 = match *word {
            "vlan" => 0x8100,
            "qinq" => 0x88a8,
            _ => 0x9100,
        };
        frame.extend(ethertype.to_be_bytes());
        frame.extend([0x00, 0x2a]);
        rest = after;
    }
    match rest {
        ["arp"] => {
            frame.extend([0x08, 0x06]);
            frame.extend([0; 28]);
        }
        [version @ ("v4" | "v4opt"), rest @ ..] => {
            let (fragment, rest): (u16, _) = match rest {
                ["first", rest @ ..] => (0x2000, rest),
                ["later", rest @ ..] => (0x0001, rest),
                ["tail", rest @ ..] => (0x1fff, rest),
                rest => (0, rest),
            };
            let (protocol, payload) = transport(rest, ends);
            let options = if *version == "v4opt" { 40 } else { 0 };
            let length = (20 + options + payload.len()) as u16;
            frame.extend([0x08, 0x00, 0x45 + (options / 4) as u8, 0]);
            frame.extend(length.to_be_bytes());
            frame.extend([0, 0]);
            frame.extend(fragment.to_be_bytes());
            frame.extend([64, protocol, 0, 0]);
            frame.extend(v4(ends.source));
            frame.extend(v4(ends.destination));
            frame.extend(std::iter::repeat_n(1, options));
            frame.extend(payload);
        }
        ["v6", rest @ ..] => {
            let (next, payload) = chain(rest, ends);
            frame.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
            frame.extend((payload.len() as u16).to_be_bytes());
            frame.extend([next, 64]);
            frame.extend(v6(ends.source));
            frame.extend(v6(ends.destination));
            frame.extend(payload);
        }
        other => panic!("no such frame: {other:?}"),
    }
    frame
}

/// The two ends of a packet.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ends {
    pub(crate) source: IpAddr,
    pub(crate) source_port: u16,
    pub(crate) destination: IpAddr,
    pub(crate) destination_port: u16,
}

/// A packet from an address and port to another.
pub(crate) fn ends(source: &str, source_port: u16, destination: &str, destination_port: u16) -> Ends {
    Ends {
        source: source.parse().unwrap(),
        source_port,
        destination: destination.parse().unwrap(),
        destination_port,
    }
}

/// A packet from a client to an address and port.
pub(crate) fn to(destination: &str, port: u16) -> Ends {
    let client = if destination.contains(':') { "2001:db8::c" } else { "10.0.0.9" };
    ends(client, 40_000, destination, port)
}

/// IPv6 headers, and what follows them.
fn chain(words: &[&str], ends: &Ends) -> (u8, Vec<u8>) {
    let (number, mut header): (u8, Vec<u8>) = match words.first().copied() {
        Some("hop") => (0, vec![0, 0, 1, 4, 0, 0, 0, 0]),
        Some("route") => (43, [&[0, 2, 0, 0, 0, 0, 0, 0][..], &[0x20; 16]].concat()),
        Some("onward") => (43, [&[0, 2, 4, 1, 0, 0, 0, 0][..], &[0x20; 16]].concat()),
        Some("dest") => (60, [&[0, 1, 1, 12][..], &[0; 12]].concat()),
        Some("ah") => (51, [&[0, 4, 0, 0][..], &[7; 20]].concat()),
        Some("mobility") => (135, vec![0, 0, 5, 0, 0, 0, 0, 0]),
        Some("frag1") => (44, vec![0, 0, 0, 1, 0, 0, 0, 9]),
        Some("frag2") => (44, vec![0, 0, 0, 8, 0, 0, 0, 9]),
        _ => return transport(words, ends),
    };
    let (next, rest) = chain(&words[1..], ends);
    header[0] = next;
    header.extend(rest);
    (number, header)
}

fn transport(words: &[&str], ends: &Ends) -> (u8, Vec<u8>) {
    let [word] = words else { panic!("one word says what follows: {words:?}") };
    let ports = [ends.source_port.to_be_bytes(), ends.destination_port.to_be_bytes()].concat();
    match *word {
        "cut" => (60, Vec::new()),
        "udp" => (17, [&ports[..], &[0, 12, 0, 0], b"data"].concat()),
        "icmp" => (1, vec![8, 0, 0, 0, 1, 187, 1, 187]),
        word if word.starts_with("about=") => error_about(&word["about=".len()..]),
        "esp" => (50, vec![1; 16]),
        "p253" => (253, vec![1; 16]),
        tcp => {
            let flags = match tcp {
                "tcp" | "tcp:syn" => 0x02,
                "tcp:synack" => 0x12,
                "tcp:ack" => 0x10,
                other => panic!("nothing is called {other}"),
            };
            (6, [&ports[..], &[0, 0, 0, 1, 0, 0, 0, 0, 0x50, flags, 4, 0, 0, 0, 0, 0]].concat())
        }
    }
}

/// "Destination unreachable", about a datagram that was sent from somewhere to this address and port.
fn error_about(service: &str) -> (u8, Vec<u8>) {
    let (address, port) = service.split_once('/').unwrap();
    let datagram = [&[0x9c, 0x40][..], &port.parse::<u16>().unwrap().to_be_bytes(), &[0, 8, 0, 0]].concat();
    match address.parse().unwrap() {
        IpAddr::V4(address) => {
            let header =
                [&[0x45, 0, 0, 28, 0, 0, 0, 0, 60, 17, 0, 0, 10, 0, 0, 9][..], &address.octets()].concat();
            (1, [&[3, 1, 0, 0, 0, 0, 0, 0][..], &header, &datagram].concat())
        }
        IpAddr::V6(address) => {
            let header = [&[0x60, 0, 0, 0, 0, 8, 17, 60][..], &[0xfd; 16], &address.octets()].concat();
            (58, [&[1, 3, 0, 0, 0, 0, 0, 0][..], &header, &datagram].concat())
        }
    }
}

fn v4(address: IpAddr) -> [u8; 4] {
    match address {
        IpAddr::V4(address) => address.octets(),
        IpAddr::V6(address) => panic!("{address} in an IPv4 header"),
    }
}

fn v6(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V6(address) => address.octets(),
        IpAddr::V4(address) => panic!("{address} in an IPv6 header"),
    }
}
