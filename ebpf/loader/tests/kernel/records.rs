//! Counters, events, sampling, and what happens when there is no more room.

use std::{
    net::{IpAddr, Ipv4Addr},
    os::fd::AsRawFd as _,
    thread,
    time::{Duration, SystemTime},
};

use interdict_ebpf_loader::{
    ClientCount, Contact, Entry, Error, EventReader, Hook, PacketPlane, Probe,
    limits::{EVENTS_A_WINDOW, MAX_CONTACTS, RING_BYTES, SEATS},
};
use interdict_policy::Verdict;

use crate::support::{Ends, apply, ends, frame, plane, policy, policy_and, tests, to};

tests![
    an_event_says_all_that_was_seen,
    an_event_carries_the_policy_it_was_judged_by,
    what_passes_without_a_rule_leaves_no_event,
    events_make_the_descriptor_readable,
    each_client_has_its_account_under_each_rule,
    clients_beyond_the_limit_are_counted_together,
    counters_are_exact_from_many_cpus,
    below_the_limit_each_packet_has_its_event,
    above_the_limit_the_rest_is_counted_once,
    counts_of_two_policies_are_not_mixed,
    an_idle_contact_is_forgotten_and_loses_nothing,
    a_seat_is_free_again_after_its_contact,
    contacts_that_end_and_come_again_are_counted_exactly,
    a_full_ring_changes_no_verdict,
    a_full_table_of_contacts_changes_no_verdict,
    with_everything_full_the_counters_still_say_all,
    there_is_one_reader,
];

const RULES: &str = "bad block 192.0.2.0/24 2001:db8:1::/48 \n mail log 192.0.3.0/24";

fn run(plane: &PacketPlane, entry: Entry, frame: &[u8], repeat: u32) {
    let dropped = plane.prober().run(Probe { repeat, ..Probe::new(entry, frame) }).unwrap().dropped;
    assert!(dropped, "what is recorded changes no verdict");
}

fn drained(events: &mut EventReader) -> Vec<Contact> {
    let mut seen = Vec::new();
    let count = events.drain(|contact| seen.push(contact));
    assert_eq!(count, seen.len());
    seen
}

fn swept(events: &mut EventReader) -> Vec<Contact> {
    let mut seen = Vec::new();
    let packets = events.sweep(|contact| seen.push(contact)).unwrap();
    assert_eq!(packets, seen.iter().map(|contact| contact.count).sum::<u64>());
    seen
}

/// Packets in all of these records.
fn packets(records: &[Contact]) -> u64 {
    records.iter().map(|contact| contact.count).sum()
}

/// Packets in the counters of rules.
fn counted(plane: &PacketPlane) -> u64 {
    plane.counters().unwrap().rules.iter().map(|rule| rule.count.packets).sum()
}

/// A packet of the client with this number.
fn from_client(number: u32) -> Ends {
    let source = IpAddr::from(Ipv4Addr::from_bits(0x0a00_0000 + number));
    Ends { source, ..to("192.0.2.1", 443) }
}

fn an_event_says_all_that_was_seen() {
    let policy = policy(RULES);
    let mut plane = plane(&policy);
    let mut events = plane.events().unwrap();
    let lan4 = ends("10.0.0.9", 40_000, "192.0.2.7", 443);
    let lan6 = ends("2001:db8::9", 40_000, "2001:db8:1::7", 53);
    let wan = ends("192.0.2.7", 2222, "10.0.0.1", 22);
    for (entry, words, ends, client, remote, port, protocol, fragment) in [
        (Entry::Lan, "v4 tcp", lan4, Some("10.0.0.9"), "192.0.2.7", Some(443), 6, false),
        (Entry::Lan, "vlan v6 hop udp", lan6, Some("2001:db8::9"), "2001:db8:1::7", Some(53), 17, false),
        (Entry::Lan, "v4 first udp", lan4, Some("10.0.0.9"), "192.0.2.7", Some(443), 17, true),
        (Entry::Lan, "v4 later udp", lan4, Some("10.0.0.9"), "192.0.2.7", None, 17, true),
        (Entry::Lan, "v4 icmp", lan4, Some("10.0.0.9"), "192.0.2.7", None, 1, false),
        (Entry::Wan, "v4 tcp:syn", wan, None, "192.0.2.7", Some(2222), 6, false),
    ] {
        let frame = frame(words, &ends);
        let before = SystemTime::now();
        run(&plane, entry, &frame, 1);
        let [contact] = &drained(&mut events)[..] else { panic!("one event for {words}") };
        let expect = Contact {
            first: contact.first,
            last: contact.first,
            digest: policy.digest(),
            rule: crate::support::id("bad"),
            verdict: Verdict::Block,
            hook: if entry == Entry::Lan { Hook::Lan } else { Hook::Wan },
            // The kernel runs tests as if the packet had come in by the loopback interface.
            interface: "lo".to_owned(),
            client: client.map(|client| client.parse().unwrap()),
            remote: remote.parse().unwrap(),
            port,
            protocol,
            question: None,
            process: None,
            fragment,
            count: 1,
            bytes: frame.len() as u64,
        };
        assert_eq!(contact, &expect, "{words}");
        let slack = Duration::from_secs(5);
        assert!(contact.first.wall + slack > before && contact.first.wall < SystemTime::now() + slack);
    }
}

fn an_event_carries_the_policy_it_was_judged_by() {
    let (first, second) = (policy(RULES), policy("bad block 192.0.2.0/24 192.0.9.0/24"));
    let mut plane = plane(&first);
    let mut events = plane.events().unwrap();
    let frame = frame("v4 udp", &to("192.0.2.1", 443));
    run(&plane, Entry::Lan, &frame, 1);
    let staged = plane.stage(&second).unwrap();
    run(&plane, Entry::Lan, &frame, 1);
    plane.flip(staged).unwrap();
    run(&plane, Entry::Lan, &frame, 1);
    let digests: Vec<_> = drained(&mut events).iter().map(|contact| contact.digest).collect();
    assert_eq!(digests, [first.digest(), first.digest(), second.digest()]);
}

fn what_passes_without_a_rule_leaves_no_event() {
    let mut plane = plane(&policy(RULES));
    let mut events = plane.events().unwrap();
    for words in ["v4 udp", "v6 udp", "arp", "qinq qinq qinq qinq vlan v4 udp"] {
        let address = if words == "v6 udp" { "2001:db8::1" } else { "198.51.100.1" };
        plane.prober().run(Probe::new(Entry::Lan, &frame(words, &to(address, 443)))).unwrap();
    }
    assert!(drained(&mut events).is_empty());
    assert!(swept(&mut events).is_empty());
    assert_eq!(counted(&plane), 0);
}

fn events_make_the_descriptor_readable() {
    let mut plane = plane(&policy(RULES));
    let mut events = plane.events().unwrap();
    let readable = |events: &EventReader| {
        let [ring, ..] = events.waiting();
        let mut poll = libc::pollfd { fd: ring.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        // SAFETY: the pointer is to one descriptor of ours, and the call returns at once.
        unsafe { libc::poll(&raw mut poll, 1, 0) == 1 }
    };
    assert!(!readable(&events));
    for _ in 0..3 {
        run(&plane, Entry::Lan, &frame("v4 udp", &to("192.0.2.1", 443)), 1);
        assert!(readable(&events));
        assert_eq!(drained(&mut events).len(), 1);
        assert!(!readable(&events));
    }
}

fn counters_are_exact_from_many_cpus() {
    let plane = plane(&policy(RULES));
    let (bad, mail, other) = (
        frame("v4 udp", &to("192.0.2.1", 443)),
        frame("vlan v4opt tcp", &to("192.0.3.1", 25)),
        frame("v4 udp", &to("198.51.100.1", 443)),
    );
    let prober = plane.prober();
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..20 {
                    for (frame, repeat) in [(&bad, 500), (&mail, 300), (&other, 200)] {
                        prober.run(Probe { repeat, ..Probe::new(Entry::Lan, frame) }).unwrap();
                    }
                }
            });
        }
    });
    let counters = plane.counters().unwrap();
    let counts: Vec<_> =
        counters.rules.iter().map(|c| (c.rule.as_str(), c.verdict, c.count.packets, c.count.bytes)).collect();
    assert_eq!(
        counts,
        [
            ("bad", Verdict::Block, 40_000, 40_000 * bad.len() as u64),
            ("mail", Verdict::Log, 24_000, 24_000 * mail.len() as u64),
        ]
    );
    assert_eq!(
        (counters.exits["blocked"], counters.exits["logged"], counters.exits["no_match"]),
        (40_000, 24_000, 16_000)
    );
    assert_eq!(counters.exits.values().sum::<u64>(), 80_000);
}

fn below_the_limit_each_packet_has_its_event() {
    let mut plane = plane(&policy(RULES));
    let mut events = plane.events().unwrap();
    for client in 0..20 {
        run(&plane, Entry::Lan, &frame("v4 udp", &from_client(client)), EVENTS_A_WINDOW as u32);
    }
    let seen = drained(&mut events);
    assert_eq!(seen.len() as u64, 20 * EVENTS_A_WINDOW);
    assert!(seen.iter().all(|contact| contact.count == 1 && contact.first == contact.last));
    assert!(swept(&mut events).is_empty());
}

fn above_the_limit_the_rest_is_counted_once() {
    let mut plane = plane(&policy(RULES));
    let mut events = plane.events().unwrap();
    let frame = frame("v4 udp", &to("192.0.2.1", 443));
    let mut total = 0;
    let mut last_end = 0;
    for round in 1..=3 {
        run(&plane, Entry::Lan, &frame, 5_000);
        let singles = drained(&mut events);
        let counts = swept(&mut events);
        let [count] = &counts[..] else { panic!("one count for one contact") };
        total += packets(&singles) + count.count;
        assert_eq!(total, round * 5_000);
        assert_eq!(count.bytes, count.count * frame.len() as u64);
        assert_eq!((count.remote, count.port), ("192.0.2.1".parse().unwrap(), Some(443)));
        assert!(count.first.boot_ns <= count.last.boot_ns);
        assert!(count.first.boot_ns >= last_end, "counts do not overlap");
        last_end = count.last.boot_ns;
        assert!(swept(&mut events).is_empty(), "nothing is reported twice");
    }
    assert_eq!(counted(&plane), total);
    assert_eq!(plane.counters().unwrap().losses.values().sum::<u64>(), 0);
}

fn counts_of_two_policies_are_not_mixed() {
    let (first, second) = (policy(RULES), policy("bad block 192.0.2.0/24"));
    let mut plane = plane(&first);
    let mut events = plane.events().unwrap();
    let frame = frame("v4 udp", &to("192.0.2.1", 443));
    run(&plane, Entry::Lan, &frame, 1_000);
    apply(&mut plane, &second);
    run(&plane, Entry::Lan, &frame, 2_000);
    let mut records = drained(&mut events);
    records.extend(swept(&mut events));
    let of = |digest| {
        records.iter().filter(|contact| contact.digest == digest).map(|contact| contact.count).sum::<u64>()
    };
    assert_eq!((of(first.digest()), of(second.digest())), (1_000, 2_000));
}

fn an_idle_contact_is_forgotten_and_loses_nothing() {
    let mut plane = plane(&policy(RULES));
    let mut events = plane.events().unwrap();
    events.forget_after(Duration::ZERO);
    let frame = frame("v4 udp", &to("192.0.2.1", 443));
    let mut total = 0;
    for round in 1..=3 {
        run(&plane, Entry::Lan, &frame, 1_000);
        total += packets(&drained(&mut events)) + packets(&swept(&mut events));
        assert_eq!(total, round * 1_000);
        assert_eq!(events.contacts().unwrap(), 0);
    }
}

fn a_seat_is_free_again_after_its_contact() {
    let mut plane = plane(&policy(RULES));
    let mut events = plane.events().unwrap();
    events.forget_after(Duration::ZERO);
    let clients: u32 = 400;
    let mut total = 0;
    let mut expect = 0;
    // They come back at once, when nobody sits in their seats any more and nobody else may, and when these are free again.
    for pause in [Duration::ZERO, Duration::from_millis(1100), Duration::from_millis(1100)] {
        for client in 0..clients {
            run(&plane, Entry::Lan, &frame("v4 udp", &from_client(client)), 110);
        }
        expect += u64::from(clients) * 110;
        total += packets(&drained(&mut events)) + packets(&swept(&mut events));
        assert_eq!(total, expect);
        assert_eq!(events.contacts().unwrap(), 0);
        let accounts = accounts(&plane);
        assert_eq!(accounts.len(), clients as usize);
        assert_eq!(accounts.iter().map(|(_, _, packets, _)| packets).sum::<u64>(), expect);
        thread::sleep(pause);
        swept(&mut events);
    }
    assert_eq!(plane.counters().unwrap().losses["contacts_full"], 0);
}

fn contacts_that_end_and_come_again_are_counted_exactly() {
    let mut plane = plane(&policy(RULES));
    let mut events = plane.events().unwrap();
    events.forget_after(Duration::ZERO);
    let (threads, clients, times) = (4, 60, 40);
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                for client in (0..times).flat_map(|_| 0..clients) {
                    run(&plane, Entry::Lan, &frame("v4 udp", &from_client(client)), 5);
                }
            });
        }
        for _ in 0..20 {
            thread::sleep(Duration::from_millis(50));
            drained(&mut events);
            swept(&mut events);
        }
    });
    let accounts = accounts(&plane);
    assert_eq!(accounts.len(), clients as usize);
    for (client, _, packets, _) in accounts {
        assert_eq!(packets, threads * times * 5, "{client}");
    }
}

/// The size of an event in the ring, with the kernel's header of eight bytes.
const EVENT_BYTES: u32 = 72 + 8;

fn a_full_ring_changes_no_verdict() {
    let mut plane = plane(&policy(RULES));
    let mut events = plane.events().unwrap();
    let clients = RING_BYTES / EVENT_BYTES / EVENTS_A_WINDOW as u32 + 20;
    for client in 0..clients {
        run(&plane, Entry::Lan, &frame("v4 udp", &from_client(client)), EVENTS_A_WINDOW as u32);
    }
    let total = u64::from(clients) * EVENTS_A_WINDOW;
    let losses = plane.counters().unwrap().losses;
    assert!(losses["ring_full"] > 0);
    let (singles, counts) = (packets(&drained(&mut events)), packets(&swept(&mut events)));
    assert_eq!((singles + counts, counts), (total, losses["ring_full"]), "all are recorded, each once");
    assert_eq!(counted(&plane), total);
    run(&plane, Entry::Lan, &frame("v4 udp", &from_client(clients)), 1);
    assert_eq!(drained(&mut events).len(), 1, "and events go on");
}

fn a_full_table_of_contacts_changes_no_verdict() {
    let mut plane = plane(&policy(RULES));
    let mut events = plane.events().unwrap();
    let clients = SEATS + MAX_CONTACTS + 50;
    let mut recorded = 0;
    for client in 0..clients {
        run(&plane, Entry::Lan, &frame("v4 udp", &from_client(client)), 1);
        if client % 5_000 == 0 {
            recorded += packets(&drained(&mut events));
        }
    }
    recorded += packets(&drained(&mut events)) + packets(&swept(&mut events));
    let losses = plane.counters().unwrap().losses;
    // The kernel's table may take a few more or less than its size, as CPUs keep free entries at hand.
    assert!(losses["contacts_full"] > 0, "{losses:?}");
    assert_eq!(losses["unrecorded"], 0);
    assert_eq!(recorded, u64::from(clients));
    assert_eq!(counted(&plane), recorded);
}

fn with_everything_full_the_counters_still_say_all() {
    let mut plane = plane(&policy(RULES));
    let mut events = plane.events().unwrap();
    for client in 0..SEATS + MAX_CONTACTS + 50 {
        run(&plane, Entry::Lan, &frame("v4 udp", &from_client(client)), 1);
    }
    let losses = plane.counters().unwrap().losses;
    assert!(losses["unrecorded"] > 0, "{losses:?}");
    let recorded = packets(&drained(&mut events)) + packets(&swept(&mut events));
    assert_eq!(recorded + losses["unrecorded"], counted(&plane));
}

fn there_is_one_reader() {
    let mut plane = plane(&policy(RULES));
    let _events = plane.events().unwrap();
    assert!(matches!(plane.events(), Err(Error::EventsTaken)));
}

/// What every account says, by client: packets and bytes.
fn accounts(plane: &PacketPlane) -> Vec<(String, String, u64, u64)> {
    let mut accounts: Vec<_> = plane
        .clients()
        .unwrap()
        .into_iter()
        .map(|of| {
            let client = of.client.map_or("-".to_owned(), |client| client.to_string());
            (client, of.rule.to_string(), of.count.packets, of.count.bytes)
        })
        .collect();
    accounts.sort();
    accounts
}

fn each_client_has_its_account_under_each_rule() {
    let mut plane = plane(&policy(RULES));
    let mut events = plane.events().unwrap();
    events.forget_after(Duration::ZERO);
    let mut expect = Vec::new();
    for round in 1..=3_u64 {
        expect.clear();
        for client in 0..50 {
            for (rule, remote, port) in [("bad", "192.0.2.1", 443), ("mail", "192.0.3.1", 25)] {
                let from = from_client(client);
                let frame = frame("v4 udp", &ends(&from.source.to_string(), 1000, remote, port));
                let repeat = 40 * (client + 1);
                plane.prober().run(Probe { repeat, ..Probe::new(Entry::Lan, &frame) }).unwrap();
                let packets = round * u64::from(repeat);
                expect.push((
                    from.source.to_string(),
                    rule.to_owned(),
                    packets,
                    packets * frame.len() as u64,
                ));
            }
        }
        expect.sort();
        assert_eq!(accounts(&plane), expect, "while they are contacts");
        drained(&mut events);
        swept(&mut events);
        assert_eq!(events.contacts().unwrap(), 0);
        assert_eq!(accounts(&plane), expect, "and when they are over");
        apply(&mut plane, &policy(RULES));
    }
    let of_rules: u64 = plane.counters().unwrap().rules.iter().map(|rule| rule.count.packets).sum();
    assert_eq!(of_rules, expect.iter().map(|(_, _, packets, _)| packets).sum::<u64>());
}

fn clients_beyond_the_limit_are_counted_together() {
    let units = "[[unit]]\nid = \"even\"\ntitle = \"Even\"\nnetworks = [\"10.0.0.0/15\"]\n\
                 [[unit]]\nid = \"floor\"\ntitle = \"Floor\"\nnetworks = [\"10.1.128.0/18\"]\n";
    let plane = plane(&policy_and(RULES, units));
    for client in 0..100_000 {
        run(&plane, Entry::Lan, &frame("v4 udp", &from_client(client)), 1);
    }
    run(&plane, Entry::Lan, &frame("v4 udp", &from_client(0x0100_0000)), 1);
    let counters = plane.counters().unwrap();
    let accounts = plane.clients().unwrap();
    let in_accounts: u64 = accounts.iter().map(|of| of.count.packets).sum();
    assert_eq!(in_accounts + counters.losses["contacts_full"], 100_001);
    assert_eq!(counters.rules[0].count.packets, 100_001);
    assert!(in_accounts >= u64::from(MAX_CONTACTS) - 1_000, "{in_accounts}");

    // The longest network says whose a client is.
    let is_on_the_floor = |of: &ClientCount| match of.client {
        Some(IpAddr::V4(client)) => client.octets() >= [10, 1, 128, 0],
        _ => false,
    };
    let on_the_floor = accounts.iter().filter(|of| is_on_the_floor(of)).count() as u64;
    let beyond = plane.beyond_clients().unwrap();
    let of = |unit: Option<&str>| {
        let mut of = beyond.iter().filter(|of| of.unit.as_deref() == unit);
        let counted = of.next().map_or(0, |of| of.count.packets);
        assert!(of.next().is_none(), "{beyond:?}");
        counted
    };
    let (even, floor, none) = (of(Some("even")), of(Some("floor")), of(None));
    assert_eq!((floor, none), (100_000 - 0x1_8000 - on_the_floor, 1), "{beyond:?}");
    assert_eq!(even + floor + none, counters.losses["contacts_full"]);
    assert!(even > 0 && floor > 0 && beyond.iter().all(|of| of.count.bytes > of.count.packets * 28));
}
