//! Every form of frame, decided as written here.
//!
//! A packet goes to a network that one of these rules speaks of; how it is wrapped must not matter, unless the rule
//! needs a port that cannot be read.

use interdict_ebpf_loader::{Entry, PacketPlane, Probe};

use crate::support::{Ends, Exits, ends, exit_of, frame, options, plane, plane_with, policy, tests, to};

tests![
    lan_judges_the_destination_however_it_is_wrapped,
    a_host_judges_the_destination_of_what_it_sends_likewise,
    wan_judges_the_source_of_what_was_not_asked_for,
    a_host_judges_the_source_of_what_it_was_not_asked_for_likewise,
    an_answer_to_what_was_let_out_is_not_judged,
    what_tcp_lets_out_opens_no_other_door,
    particular_frames,
    what_is_safe_passes_whatever_matches,
    headers_outside_the_first_buffer_are_read_too,
];

const RULES: &str = "
    blocked     block  192.0.2.0/24     2001:db8:1::/48
    logged      log    192.0.3.0/24     2001:db8:2::/48
    allowed     allow  192.0.4.0/24     2001:db8:3::/48
    web         block  192.0.5.0/24     2001:db8:4::/48   tcp/443 udp/443
    all         log    192.0.6.0/24     2001:db8:5::/48
    but-web     block  192.0.6.0/24     2001:db8:5::/48   tcp/443 udp/443
";

/// Where a packet goes, and what a rule makes of it if the port is 443, if it is another, and if it cannot be read.
const PLACES: [(&str, &str, [&str; 3]); 6] = [
    ("192.0.1.7", "2001:db8:ffff::7", ["no_match", "no_match", "no_match"]),
    ("192.0.2.7", "2001:db8:1::7", ["blocked", "blocked", "blocked"]),
    ("192.0.3.7", "2001:db8:2::7", ["logged", "logged", "logged"]),
    ("192.0.4.7", "2001:db8:3::7", ["allowed", "allowed", "allowed"]),
    ("192.0.5.7", "2001:db8:4::7", ["blocked", "no_matching_port", UNREAD]),
    ("192.0.6.7", "2001:db8:5::7", ["blocked", "logged", "logged"]),
];

/// Stands for the reason for which the form of the packet hides its ports.
const UNREAD: &str = "unread";

const TAGS: [&str; 7] = [
    "",
    "vlan",
    "qinq vlan",
    "oldqinq vlan",
    "qinq qinq vlan",
    "qinq oldqinq qinq vlan",
    "qinq qinq qinq qinq vlan",
];

/// The network stack has taken the outer tag off before our programs see a packet.
const STACK_TAGS: [&str; 3] = ["", "vlan", "qinq qinq qinq qinq vlan"];

/// IP headers, and the reason for which they hide the ports behind them.
const HEADERS: [(&str, Option<&str>); 22] = [
    ("v4", None),
    ("v4opt", None),
    ("v4 first", None),
    ("v4 later", Some("fragment_unjudged")),
    ("v4 tail", Some("fragment_unjudged")),
    ("v4opt later", Some("fragment_unjudged")),
    ("v6", None),
    ("v6 hop", None),
    ("v6 route", None),
    ("v6 onward", Some("header_chain_unjudged")),
    ("v6 hop onward dest", Some("header_chain_unjudged")),
    ("v6 dest", None),
    ("v6 ah", None),
    ("v6 mobility", None),
    ("v6 hop dest route dest ah", None),
    ("v6 hop dest dest dest dest dest dest dest", None),
    ("v6 hop dest dest dest dest dest dest dest dest", Some("header_chain_unjudged")),
    ("v6 hop route ah dest dest dest dest dest frag1 dest", Some("header_chain_unjudged")),
    ("v6 frag1", None),
    ("v6 hop frag1 dest", None),
    ("v6 frag2", Some("fragment_unjudged")),
    ("v6 hop frag2 dest", Some("fragment_unjudged")),
];

fn lan_judges_the_destination_however_it_is_wrapped() {
    let plane = plane(&policy(RULES));
    let exits = Exits::of(&plane);
    for_each_form(&TAGS, &["tcp", "udp", "icmp", "esp", "p253"], |form, place, transport, port| {
        let has_ports = matches!(transport, "tcp" | "udp");
        let frame = frame(&form.words(transport), &to(form.address(place), port));
        let expect = match (form.verdict(place, has_ports, port), form.hidden) {
            // What no rule decides and hides what it is does not pass from here.
            ("no_match", Some(reason @ "header_chain_unjudged")) => reason,
            (expect, _) => expect,
        };
        check_next(&exits, Entry::Lan, &frame, expect, || {
            format!("{} to {place} port {port}", form.words(transport))
        });
    });
}

fn a_host_judges_the_destination_of_what_it_sends_likewise() {
    let plane = plane(&policy(RULES));
    let exits = Exits::of(&plane);
    for_each_form(&STACK_TAGS, &["tcp", "udp", "icmp"], |form, place, transport, port| {
        let has_ports = matches!(transport, "tcp" | "udp");
        let frame = frame(&form.words(transport), &to(form.address(place), port));
        check_next(&exits, Entry::HostOut, &frame, form.verdict(place, has_ports, port), || {
            format!("{} to {place} port {port}", form.words(transport))
        });
    });
}

fn wan_judges_the_source_of_what_was_not_asked_for() {
    let transports = ["tcp:syn", "tcp:synack", "tcp:ack", "udp", "icmp", "p253"];
    judges_the_source_of_what_was_not_asked_for(Entry::Wan, &TAGS, &transports);
}

fn a_host_judges_the_source_of_what_it_was_not_asked_for_likewise() {
    judges_the_source_of_what_was_not_asked_for(Entry::HostIn, &STACK_TAGS, &["tcp:syn", "tcp:ack", "udp"]);
}

fn judges_the_source_of_what_was_not_asked_for(
    entry: Entry,
    tags: &[&'static str],
    transports: &[&'static str],
) {
    let plane = plane(&policy(RULES));
    let exits = Exits::of(&plane);
    for_each_form(tags, transports, |form, place, transport, port| {
        let us = if form.is_v6() { "2001:db8::c" } else { "10.0.0.9" };
        let frame = frame(&form.words(transport), &ends(form.address(place), port, us, 22));
        let is_tcp = transport.starts_with("tcp");
        let matches_nothing = PLACES[place].2[0] == "no_match";
        let expect = match form.hidden {
            _ if form.too_many_tags() => "vlan_depth",
            Some(_) if matches_nothing => "no_match",
            // It may be anything, and nothing was let out that it could answer.
            Some(_) => form.verdict(place, false, port),
            None if is_tcp && transport != "tcp:syn" => "wan_not_opening",
            None => form.verdict(place, is_tcp || transport == "udp", port),
        };
        check_next(&exits, entry, &frame, expect, || {
            format!("{} from {place} port {port}", form.words(transport))
        });
    });
}

/// What was let out is answered, from where it was sent to.
fn an_answer_to_what_was_let_out_is_not_judged() {
    const OUT: [Entry; 2] = [Entry::WanOut, Entry::HostOut];
    for (out, inside) in OUT.into_iter().zip([Entry::Wan, Entry::HostIn]) {
        let plane =
            plane(&policy("logged log 192.0.2.0/24 2001:db8:1::/48 \n web block 192.0.2.0/24 tcp/443"));
        for (headers, us, them, other) in [
            ("v4", "10.0.0.9", "192.0.2.7", "192.0.2.8"),
            ("v6 hop", "2001:db8::c", "2001:db8:1::7", "2001:db8:1::8"),
        ] {
            let exit = |words: &str, from: &str, port| {
                exit_of(&plane, inside, &frame(&format!("{headers} {words}"), &ends(from, port, us, 40_000)))
            };
            for words in ["udp", "icmp", "p253"] {
                assert_eq!(exit(words, them, 53), "logged", "{words} comes out of the blue");
            }
            plane
                .prober()
                .run(Probe::new(out, &frame(&format!("{headers} udp"), &ends(us, 40_000, them, 53))))
                .unwrap();
            assert_eq!(exit("udp", them, 53), "wan_answer");
            assert_eq!(exit("udp", them, 54), "logged", "another port");
            assert_eq!(exit("udp", other, 53), "logged", "another address");
            assert_eq!(exit("icmp", them, 53), "wan_answer", "errors come by ICMP");
            assert_eq!(exit("p253", them, 53), "logged", "another protocol");
            assert_eq!(exit("icmp", other, 53), "logged");
            let about = |address: &str, port: u16| exit(&format!("about={address}/{port}"), other, 0);
            assert_eq!(about(them, 53), "wan_answer", "a banned router tells of what was let out");
            assert_eq!(about(them, 54), "logged", "of another port");
            let part = if headers == "v4" { "later" } else { "frag2" };
            assert_ne!(
                exit(&format!("{part} about={them}/53"), other, 0),
                "wan_answer",
                "of a later fragment"
            );
            assert_eq!(about(other, 53), "logged", "of another address");
            let nobody = if headers == "v4" { "192.0.1.7" } else { "2001:db8:ffff::7" };
            assert_eq!(about(nobody, 99), "wan_answer", "of what no rule concerns");
            assert_eq!(exit("tcp:syn", them, 53), "logged", "a connection starts there all the same");
        }
    }
}

/// What goes out to a stranger over TCP, such as the reset that tells him that nobody listens, lets nothing in: neither a
/// connection in parts, nor one behind headers that are not read, nor another protocol.
fn what_tcp_lets_out_opens_no_other_door() {
    let plane = plane(&policy("web block 192.0.2.0/24 2001:db8:1::/48"));
    let run = |entry, words: &str, ends: &Ends| exit_of(&plane, entry, &frame(words, ends));
    for (headers, us, them, hidden) in [
        ("v4", "10.0.0.9", "192.0.2.7", ["v4 first tcp:syn", "v4 later tcp:syn", "v4 tail tcp:syn"]),
        (
            "v6",
            "2001:db8::c",
            "2001:db8:1::7",
            [
                "v6 frag1 tcp:syn",
                "v6 frag2 tcp:syn",
                "v6 hop dest dest dest dest dest dest dest dest tcp:syn",
            ],
        ),
    ] {
        let (to_us, to_them) = (ends(them, 443, us, 22), ends(us, 22, them, 443));
        let out = frame(&format!("{headers} tcp:ack"), &to_them);
        plane.prober().run(Probe::new(Entry::WanOut, &out)).unwrap();
        for words in hidden.into_iter().chain([&*format!("{headers} icmp"), &format!("{headers} udp")]) {
            assert_eq!(run(Entry::Wan, words, &to_us), "blocked", "{words}");
        }
        // A datagram, which may be in parts, is answered in parts.
        let (to_us, to_them) = (ends(them, 53, us, 4000), ends(us, 4000, them, 53));
        let out = frame(&format!("{headers} udp"), &to_them);
        plane.prober().run(Probe::new(Entry::WanOut, &out)).unwrap();
        let rest = if headers == "v4" { "v4 later udp" } else { "v6 frag2 udp" };
        assert_eq!(run(Entry::Wan, rest, &to_us), "fragment_unjudged");
        assert_eq!(run(Entry::Wan, hidden[1], &to_us), "blocked", "{}", hidden[1]);
    }
}

/// How a packet is wrapped.
struct Form {
    tags: &'static str,
    headers: &'static str,
    /// Why its ports cannot be read.
    hidden: Option<&'static str>,
}

impl Form {
    fn words(&self, transport: &str) -> String {
        format!("{} {} {transport}", self.tags, self.headers)
    }

    fn is_v6(&self) -> bool {
        self.headers.starts_with("v6")
    }

    fn too_many_tags(&self) -> bool {
        self.tags.split_whitespace().count() > 4
    }

    fn address(&self, place: usize) -> &'static str {
        if self.is_v6() { PLACES[place].1 } else { PLACES[place].0 }
    }

    /// What a rule makes of the packet.
    fn verdict(&self, place: usize, has_ports: bool, port: u16) -> &'static str {
        let [web, other, unread] = PLACES[place].2;
        match self.hidden {
            _ if self.too_many_tags() => "vlan_depth",
            Some(reason) if unread == UNREAD => reason,
            Some(_) => unread,
            None if has_ports && port == 443 => web,
            None => other,
        }
    }
}

fn for_each_form(
    tags: &[&'static str],
    transports: &[&'static str],
    mut check: impl FnMut(&Form, usize, &'static str, u16),
) {
    for &tags in tags {
        for (headers, hidden) in HEADERS {
            let form = Form { tags, headers, hidden };
            for transport in transports {
                for place in 0..PLACES.len() {
                    check(&form, place, transport, 443);
                    check(&form, place, transport, 80);
                }
            }
        }
    }
}

fn check(plane: &PacketPlane, entry: Entry, frame: &[u8], expect: &str, what: impl Fn() -> String) {
    assert_eq!(exit_of(plane, entry, frame), expect, "{}", what());
}

/// As [`check`], where nothing else runs the programs meanwhile.
fn check_next(exits: &Exits<'_>, entry: Entry, frame: &[u8], expect: &str, what: impl Fn() -> String) {
    assert_eq!(exits.next(entry, frame), expect, "{}", what());
}

fn particular_frames() {
    let plane = plane(&policy(
        "web block 192.0.2.0/24 tcp/443
         web6 block 2001:db8:1::/48 tcp/443
         narrow allow 192.0.2.128/25
         narrower block 192.0.2.129/32 udp/53
         mapped block 2001:db8:2::/48",
    ));
    let from = |source_port, words, expect| {
        (Entry::Wan, words, ends("192.0.2.1", source_port, "10.0.0.1", 443), expect)
    };
    for (entry, words, ends, expect) in [
        (Entry::Lan, "arp", to("192.0.2.1", 443), "not_ip"),
        (Entry::Lan, "vlan arp", to("192.0.2.1", 443), "not_ip"),
        (Entry::Wan, "arp", to("192.0.2.1", 443), "not_ip"),
        // The port of the side that is judged: the destination's on lan, the source's on wan.
        (Entry::Lan, "v4 tcp", ends("10.0.0.9", 443, "192.0.2.1", 80), "no_matching_port"),
        (Entry::Lan, "v4 tcp", ends("10.0.0.9", 80, "192.0.2.1", 443), "blocked"),
        from(443, "v4 tcp:syn", "blocked"),
        from(80, "v4 tcp:syn", "no_matching_port"),
        // Only the side that is judged.
        (Entry::Lan, "v4 tcp", ends("192.0.2.1", 443, "10.0.0.9", 443), "no_match"),
        (Entry::Wan, "v4 tcp:syn", ends("10.0.0.9", 443, "192.0.2.1", 443), "no_match"),
        // The protocol belongs to the port.
        (Entry::Lan, "v4 udp", to("192.0.2.1", 443), "no_matching_port"),
        // The longest prefix decides, and where its ports do not, the one around it.
        (Entry::Lan, "v4 tcp", to("192.0.2.127", 443), "blocked"),
        (Entry::Lan, "v4 tcp", to("192.0.2.128", 443), "allowed"),
        (Entry::Lan, "v4 udp", to("192.0.2.129", 53), "blocked"),
        (Entry::Lan, "v4 udp", to("192.0.2.129", 54), "allowed"),
        // ICMP's checksum stands where a port would: it is none.
        (Entry::Lan, "v4 icmp", to("192.0.2.1", 443), "no_matching_port"),
        (Entry::Lan, "v6 tcp", to("2001:db8:1::1", 443), "blocked"),
        (Entry::Lan, "v6 tcp", to("2001:db8:1::1", 444), "no_matching_port"),
    ] {
        check(&plane, entry, &frame(words, &ends), expect, || format!("{entry:?} {words} {ends:?}"));
    }
}

fn what_is_safe_passes_whatever_matches() {
    let mut options = options();
    options.safe =
        ["192.0.2.53/32", "192.0.3.0/24", "2001:db8:1::53/128"].map(|net| net.parse().unwrap()).to_vec();
    let plane = plane_with(&options, &policy(RULES));
    for (entry, words, ends, expect) in [
        (Entry::Lan, "v4 udp", to("192.0.2.53", 53), "safe"),
        (Entry::Lan, "v4 later udp", to("192.0.2.53", 53), "safe"),
        (Entry::Lan, "v4 udp", to("192.0.2.54", 53), "blocked"),
        (Entry::Lan, "v4 udp", to("192.0.3.9", 53), "safe"),
        (Entry::Lan, "v6 udp", to("2001:db8:1::53", 53), "safe"),
        (Entry::Lan, "v6 udp", to("2001:db8:1::54", 53), "blocked"),
        (Entry::Wan, "v4 tcp:syn", ends("192.0.2.53", 9, "10.0.0.1", 22), "safe"),
        (Entry::Wan, "v4 tcp:syn", ends("192.0.2.54", 9, "10.0.0.1", 22), "blocked"),
        // Safe is counted where it made a difference.
        (Entry::Lan, "v4 udp", to("10.1.1.1", 53), "no_match"),
    ] {
        check(&plane, entry, &frame(words, &ends), expect, || format!("{entry:?} {words} {ends:?}"));
    }
}

/// A driver may put the headers into one buffer and the rest into others, or cut where it likes.
fn headers_outside_the_first_buffer_are_read_too() {
    let plane = plane(&policy(RULES));
    for (entry, words, ends) in [
        (Entry::Lan, "v4 udp", to("192.0.2.7", 443)),
        (Entry::Lan, "v4opt tcp", to("192.0.5.7", 443)),
        (Entry::Lan, "qinq vlan v6 hop dest tcp", to("2001:db8:4::7", 443)),
        (Entry::Wan, "v4 tcp:syn", ends("192.0.5.7", 443, "10.0.0.1", 22)),
        (Entry::Wan, "vlan v6 hop tcp:syn", ends("2001:db8:4::7", 443, "2001:db8::1", 22)),
    ] {
        let frame = frame(words, &ends);
        for first_buffer in 14..frame.len() as u32 {
            let probe = Probe { entry, frame: &frame, repeat: 1, first_buffer: Some(first_buffer) };
            match plane.prober().run(probe) {
                Ok(run) => assert!(run.dropped, "{words} cut at {first_buffer}"),
                // Before Linux 6.18 a test cannot cut frames; then there is nothing to learn here.
                Err(_) if kernel() < (6, 18) => return,
                Err(error) => panic!("{error:?}"),
            }
        }
    }
    let judged = plane.counters().unwrap();
    let total: u64 = judged.rules.iter().map(|rule| rule.count.packets).sum();
    assert_eq!(judged.exits["blocked"], total);
}

/// The version of the running kernel.
fn kernel() -> (u32, u32) {
    let text = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let mut numbers = text.split(['.', '-']).map_while(|number| number.parse().ok());
    (numbers.next().unwrap(), numbers.next().unwrap())
}
