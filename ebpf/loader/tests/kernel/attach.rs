//! Real interfaces in namespaces of their own, and real packets.

use std::{
    collections::BTreeSet,
    env, fs,
    io::{BufRead as _, BufReader, Write as _},
    net::{TcpListener, TcpStream, UdpSocket},
    os::unix::fs::{PermissionsExt as _, symlink},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use interdict_ebpf_loader::{
    Answering, AnswersOn, AtExit, Contact, Entry, Error, InKernel, InterfaceInfo, Mode, Options, PacketPlane,
    Pins, Probe, Role, Where, default_gateways, has_agent, in_place, interface_networks, interfaces, unload,
};

use crate::{
    namespace::{Namespace, Pair, private_bpffs},
    support::{apply, frame, id, on, options, policy, tests, to},
};

tests![
    native_mode_drops_and_passes_real_packets,
    generic_mode_drops_and_passes_real_packets,
    a_jumbo_frame_is_judged_like_any_other,
    wan_drops_what_opens_and_passes_what_answers,
    the_mode_in_force_is_reported,
    a_driver_without_native_mode_is_named_with_the_remedy,
    a_driver_that_refuses_is_named_with_what_may_not_fit,
    a_missing_interface_is_named_with_those_there_are,
    an_interface_has_one_role,
    nothing_is_attached_before_a_policy,
    a_taken_hook_names_its_holder,
    when_one_interface_is_taken_no_other_stays_attached,
    a_failed_start_leaves_what_an_earlier_agent_kept,
    dropping_the_plane_detaches,
    killing_the_agent_detaches,
    a_kept_program_outlives_a_killed_agent,
    a_new_agent_takes_over_without_a_gap,
    what_is_counted_without_an_agent_is_read_by_the_next,
    what_an_answer_opened_is_open_for_the_next_agent_too,
    an_agent_of_another_version_takes_over_too,
    a_new_agent_that_removes_takes_over_and_leaves_nothing,
    a_kept_program_in_another_mode_is_refused,
    pins_have_one_agent_whatever_its_network_namespace,
    maps_of_another_version_are_not_gone_on_with,
    an_interface_no_longer_listed_is_let_go,
    unload_works_without_an_agent,
    unload_detaches_under_a_running_agent,
    what_was_unloaded_under_a_running_agent_is_pinned_again,
    an_interface_made_anew_is_attached_again,
    a_thousand_interfaces_come_and_go,
    what_is_detached_or_taken_is_told_and_restored,
    without_a_bpffs_there_are_no_pins_and_it_is_said,
    routes_and_addresses_are_read,
];

/// Bans 198.51.100.0/24, which is inside, and 203.0.113.0/24, which is outside.
const BAN: &str = "inside block 198.51.100.0/24 \n outside block 203.0.113.0/24";

fn ready(options: &Options) -> PacketPlane {
    let mut plane = PacketPlane::load(options).unwrap();
    apply(&mut plane, &policy(BAN));
    plane.attach().unwrap();
    plane
}

fn interface(name: &str) -> InterfaceInfo {
    interfaces().unwrap().into_iter().find(|info| info.name == name).unwrap()
}

fn hook(name: &str) -> Option<interdict_ebpf_loader::Xdp> {
    interface(name).xdp
}

/// Waits until the hook is free, for which no instant can be named: a child that another test is starting holds a copy
/// of every link until it executes its own program, and the kernel lets go of a removed pin in a worker.
fn wait_until_free(interface: &str) {
    let end = Instant::now() + Duration::from_secs(5);
    while hook(interface).is_some() {
        assert!(Instant::now() < end, "{interface} is still held after five seconds");
        thread::sleep(Duration::from_millis(5));
    }
}

/// Sends one datagram to the banned address and one to the other, and says which arrived first.
///
/// A veth pair keeps the order of packets: when the second is there, the first was dropped.
fn first_to_arrive(pair: &Pair, payload: &[u8]) -> Vec<u8> {
    let receiver = pair.inside.run(|| UdpSocket::bind("0.0.0.0:7000").unwrap());
    let sender = pair.outside.run(|| UdpSocket::bind("192.0.2.2:0").unwrap());
    let banned = [b"banned ", payload].concat();
    let other = [b"other ", payload].concat();
    sender.send_to(&banned, "198.51.100.1:7000").unwrap();
    sender.send_to(&other, "192.0.2.1:7000").unwrap();
    let mut received = vec![0; 10_000];
    let (length, _) = receiver.recv_from(&mut received).unwrap();
    received.truncate(length);
    received
}

fn drops_and_passes(mode: Mode, payload: &[u8]) {
    let pair = Pair::new();
    assert!(first_to_arrive(&pair, payload).starts_with(b"banned "), "unfiltered, both arrive");
    let plane = pair.inside.run(|| ready(&Options { mode, ..on("in", Role::Lan) }));
    assert!(first_to_arrive(&pair, payload).starts_with(b"other "), "filtered, the banned one does not");
    assert_eq!(plane.counters().unwrap().exits["blocked"], 1);
}

fn native_mode_drops_and_passes_real_packets() {
    drops_and_passes(Mode::Native, b"");
}

fn generic_mode_drops_and_passes_real_packets() {
    drops_and_passes(Mode::Generic, b"");
}

fn a_jumbo_frame_is_judged_like_any_other() {
    drops_and_passes(Mode::Native, &[b'x'; 8000]);
    drops_and_passes(Mode::Generic, &[b'x'; 8000]);
}

fn wan_drops_what_opens_and_passes_what_answers() {
    let pair = Pair::new();
    let plane = pair.inside.run(|| ready(&on("in", Role::Wan)));
    let exit = |name| plane.counters().unwrap().exits[name];

    // From us to the banned address: its answers come in.
    let server = pair.outside.run(|| TcpListener::bind("203.0.113.2:7001").unwrap());
    let client = pair.inside.run(|| TcpStream::connect("203.0.113.2:7001").unwrap());
    drop((server, client));
    assert_eq!(exit("blocked"), 0);
    assert!(exit("wan_not_opening") > 0);

    // From the banned address to us: the SYN is dropped, and so is a datagram, until one of ours went there.
    let listener = pair.inside.run(|| TcpListener::bind("192.0.2.1:7002").unwrap());
    let receiver = pair.inside.run(|| UdpSocket::bind("192.0.2.1:7002").unwrap());
    let connecting = pair.outside.run(|| connect_from("203.0.113.2", "192.0.2.1", 7002));
    let sender = pair.outside.run(|| UdpSocket::bind("203.0.113.2:0").unwrap());
    receiver.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    sender.send_to(b"out of the blue", "192.0.2.1:7002").unwrap();
    receiver.send_to(b"question", sender.local_addr().unwrap()).unwrap();
    sender.recv_from(&mut [0; 32]).unwrap();
    sender.send_to(b"answer", "192.0.2.1:7002").unwrap();
    let mut received = [0; 32];
    let (length, _) = receiver.recv_from(&mut received).unwrap();
    assert_eq!(&received[..length], b"answer");
    listener.set_nonblocking(true).unwrap();
    assert!(listener.accept().is_err(), "nothing connected");
    assert!(exit("blocked") >= 2);
    assert_eq!(exit("wan_answer"), 1);
    drop(connecting);
}

/// Sends a SYN from an address of choice, without waiting for what comes of it.
fn connect_from(source: &str, destination: &str, port: u16) -> std::os::fd::OwnedFd {
    use std::os::fd::{AsRawFd as _, FromRawFd as _};
    let address = |text: &str, port: u16| libc::sockaddr_in {
        sin_family: libc::AF_INET as u16,
        sin_port: port.to_be(),
        sin_addr: libc::in_addr {
            s_addr: u32::from_ne_bytes(text.parse::<std::net::Ipv4Addr>().unwrap().octets()),
        },
        sin_zero: [0; 8],
    };
    let (from, to) = (address(source, 0), address(destination, port));
    let size = size_of::<libc::sockaddr_in>() as u32;
    // SAFETY: plain socket calls on a descriptor of our own, with addresses that outlive them.
    unsafe {
        let socket = libc::socket(libc::AF_INET, libc::SOCK_STREAM | libc::SOCK_NONBLOCK, 0);
        assert!(socket >= 0);
        let socket = std::os::fd::OwnedFd::from_raw_fd(socket);
        assert_eq!(libc::bind(socket.as_raw_fd(), (&raw const from).cast(), size), 0);
        libc::connect(socket.as_raw_fd(), (&raw const to).cast(), size);
        socket
    }
}

fn the_mode_in_force_is_reported() {
    let pair = Pair::new();
    for mode in [Mode::Native, Mode::Generic] {
        let plane = pair.inside.run(|| ready(&Options { mode, ..on("in", Role::Lan) }));
        let [attached] = &plane.interfaces()[..] else { panic!("one interface") };
        assert_eq!(
            (attached.name.as_str(), attached.role, attached.place),
            ("in", Role::Lan, Where::Xdp(mode))
        );
        drop(plane);
        pair.inside.run(|| wait_until_free("in"));
    }
}

fn a_driver_without_native_mode_is_named_with_the_remedy() {
    let error = refused_in(&Namespace::new(), &on("lo", Role::Lan));
    assert_eq!(error, "cannot attach to lo in native mode: its driver has none; ask for generic mode");
}

fn a_driver_that_refuses_is_named_with_what_may_not_fit() {
    let namespace = Namespace::new();
    namespace.ip("link add name few numrxqueues 1 numtxqueues 4 mtu 1400 type veth peer name many numrxqueues 4 numtxqueues 4");
    let error = refused_in(&namespace, &on("few", Role::Lan));
    assert!(
        error.starts_with("cannot attach to few in native mode: its driver refuses (No space left on device"),
        "{error}"
    );
    assert!(error.contains("(it is 1400)") && error.ends_with("or ask for generic mode"), "{error}");
    namespace.run(|| drop(ready(&Options { mode: Mode::Generic, ..on("few", Role::Lan) })));
}

/// Attaching fails in this namespace; the message.
fn refused_in(namespace: &Namespace, options: &Options) -> String {
    namespace.run(|| {
        let mut plane = PacketPlane::load(options).unwrap();
        apply(&mut plane, &policy(BAN));
        plane.attach().unwrap_err().to_string()
    })
}

fn a_missing_interface_is_named_with_those_there_are() {
    let pair = Pair::new();
    let error = pair.inside.run(|| PacketPlane::load(&on("eth7", Role::Lan)).err().unwrap().to_string());
    assert_eq!(error, "cannot attach to eth7: no such interface (have: lo, in)");
}

fn an_interface_has_one_role() {
    let mut options = on("lo", Role::Lan);
    options.interfaces.extend(on("lo", Role::Wan).interfaces);
    assert!(matches!(PacketPlane::load(&options), Err(Error::InterfaceTwice { name }) if name == "lo"));
}

fn nothing_is_attached_before_a_policy() {
    let mut plane = PacketPlane::load(&options()).unwrap();
    assert!(matches!(plane.attach(), Err(Error::NoPolicy)));
    let staged = plane.stage(&policy(BAN)).unwrap();
    assert!(matches!(plane.attach(), Err(Error::NoPolicy)), "staged is not in force");
    plane.flip(staged).unwrap();
    plane.attach().unwrap();
}

fn a_taken_hook_names_its_holder() {
    let pair = Pair::new();
    let _first = pair.inside.run(|| ready(&on("in", Role::Wan)));
    let id = pair.inside.run(|| hook("in").unwrap().program_id);
    for (mode, expect) in [(Mode::Native, "native"), (Mode::Generic, "native")] {
        let error = refused_in(&pair.inside, &Options { mode, ..on("in", Role::Lan) });
        let expect = format!("held by the program interdict_wan (number {id}, {expect} mode)");
        assert!(error.contains(&expect), "{error}");
        assert!(error.contains("detach that first"), "{error}");
    }
}

fn when_one_interface_is_taken_no_other_stays_attached() {
    let pair = Pair::new();
    pair.inside.ip("link add spare type veth peer name spare2");
    let _first = pair.inside.run(|| ready(&on("in", Role::Lan)));
    let mut both = on("spare", Role::Lan);
    both.interfaces.extend(on("in", Role::Lan).interfaces);
    pair.inside.run(|| {
        let pin = private_bpffs();
        let both = Options { pin, at_exit: AtExit::Keep, ..both };
        let mut plane = PacketPlane::load(&both).unwrap();
        apply(&mut plane, &policy(BAN));
        plane.attach().unwrap_err();
        drop(plane);
        wait_until_free("spare");
        assert!(!both.pin.exists(), "nothing stays of a start that failed");
    });
}

fn a_failed_start_leaves_what_an_earlier_agent_kept() {
    let pair = Pair::new();
    pair.inside.ip("link add spare type veth peer name spare2");
    pair.inside.run(|| {
        let pin = private_bpffs();
        let kept = Options { pin: pin.clone(), at_exit: AtExit::Keep, ..on("in", Role::Lan) };
        drop(ready(&kept));
        let _other = ready(&on("spare", Role::Wan));
        let mut both = kept;
        both.interfaces.extend(on("spare", Role::Lan).interfaces);
        let mut plane = PacketPlane::load(&both).unwrap();
        apply(&mut plane, &policy(BAN));
        plane.attach().unwrap_err();
        drop(plane);
        assert!(hook("in").is_some(), "what was filtered still is");
        assert_eq!(unload(&pin).unwrap(), ["in", "spare"]);
    });
}

fn dropping_the_plane_detaches() {
    let pair = Pair::new();
    pair.inside.run(|| {
        let mut plane = ready(&on("in", Role::Lan));
        // What the plane gave away holds maps and programs, but no interface.
        let (_answers, _prober, _events) = (plane.answers(), plane.prober(), plane.events().unwrap());
        assert!(hook("in").is_some());
        drop(plane);
        wait_until_free("in");
    });
}

fn killing_the_agent_detaches() {
    let pair = Pair::new();
    pair.inside.run(|| {
        let agent = Agent::start("in", Path::new("/nowhere"), AtExit::Remove);
        assert!(hook("in").is_some());
        agent.kill();
        wait_until_free("in");
    });
}

fn a_kept_program_outlives_a_killed_agent() {
    let pair = Pair::new();
    pair.inside.run(|| {
        let pin = private_bpffs();
        let agent = Agent::start("in", &pin, AtExit::Keep);
        let before = hook("in");
        agent.kill();
        assert!(before.is_some());
        assert_eq!(hook("in"), before);
        assert!(first_to_arrive(&pair, b"").starts_with(b"other "));
        assert_eq!(unload(&pin).unwrap(), ["in"]);
    });
}

/// Sends to the banned address, without a pause, while one agent replaces another: nothing arrives.
fn a_new_agent_takes_over_without_a_gap() {
    let pair = Pair::new();
    pair.inside.run(|| {
        let pin = private_bpffs();
        let agent = Agent::start("in", &pin, AtExit::Keep);
        let before = hook("in");
        let receiver = UdpSocket::bind("0.0.0.0:7003").unwrap();
        let sender = pair.outside.run(|| UdpSocket::bind("192.0.2.2:0").unwrap());
        let done = AtomicBool::new(false);
        let plane = thread::scope(|scope| {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    sender.send_to(b"banned", "198.51.100.1:7003").unwrap();
                }
            });
            agent.kill();
            let plane = ready(&Options { pin: pin.clone(), at_exit: AtExit::Keep, ..on("in", Role::Lan) });
            // The new program is at work, and goes on with the counters.
            let blocked = || plane.counters().unwrap().exits["blocked"];
            let before = blocked();
            while blocked() < before + 1000 {
                thread::yield_now();
            }
            done.store(true, Ordering::Relaxed);
            plane
        });
        let after = hook("in");
        assert_ne!(after, before, "another program");
        sender.send_to(b"other", "192.0.2.1:7003").unwrap();
        let mut received = [0; 32];
        let (length, _) = receiver.recv_from(&mut received).unwrap();
        assert_eq!(&received[..length], b"other");

        assert_eq!(plane.pins(), &Pins::Kept(pin.clone()));
        drop(plane);
        assert_eq!(hook("in"), after, "it stays");
        assert_eq!(unload(&pin).unwrap(), ["in"]);
        wait_until_free("in");
    });
}

/// What a kept program counts while no agent is there is not lost: the next agent reads it, and knows what it means.
fn what_is_counted_without_an_agent_is_read_by_the_next() {
    let pair = Pair::new();
    pair.inside.run(|| {
        let options = Options { pin: private_bpffs(), at_exit: AtExit::Keep, ..on("in", Role::Lan) };
        let receiver = UdpSocket::bind("0.0.0.0:7003").unwrap();
        let sender = pair.outside.run(|| UdpSocket::bind("192.0.2.2:0").unwrap());
        let send = |count| {
            for _ in 0..count {
                sender.send_to(b"banned", "198.51.100.1:7003").unwrap();
            }
            sender.send_to(b"other", "192.0.2.1:7003").unwrap();
            receiver.recv_from(&mut [0; 32]).unwrap();
        };
        let mut total = 0;
        let mut recorded = 0;
        for round in 0..4 {
            let mut plane = ready(&options);
            let mut events = plane.events().unwrap();
            send(300);
            let mut record = |contact: Contact| {
                assert_eq!((contact.rule.as_str(), contact.digest), ("inside", policy(BAN).digest()));
                recorded += contact.count;
            };
            events.drain(&mut record);
            events.sweep(&mut record).unwrap();
            total += 300;
            assert_eq!(recorded, total, "round {round}: each is recorded once");
            assert_eq!(plane.counters().unwrap().rules[0].count.packets, total);
            let accounts: Vec<_> = plane.clients().unwrap();
            assert_eq!(accounts.iter().map(|account| account.count.packets).sum::<u64>(), total);
            drop((events, plane));
            send(200);
            total += 200;
        }
        unload(&options.pin).unwrap();
    });
}

fn what_an_answer_opened_is_open_for_the_next_agent_too() {
    let pair = Pair::new();
    pair.inside.run(|| {
        let options = Options { pin: private_bpffs(), at_exit: AtExit::Keep, ..on("in", Role::Lan) };
        let ready = || {
            let mut plane = PacketPlane::load(&options).unwrap();
            apply(&mut plane, &policy("inside block 198.51.100.0/24 \n fine log fine.example"));
            plane.attach().unwrap();
            plane
        };
        let receiver = UdpSocket::bind("0.0.0.0:7003").unwrap();
        let sender = pair.outside.run(|| UdpSocket::bind("192.0.2.2:0").unwrap());
        let first = || {
            sender.send_to(b"banned", "198.51.100.1:7003").unwrap();
            sender.send_to(b"other", "192.0.2.1:7003").unwrap();
            let mut received = [0; 32];
            let (length, _) = receiver.recv_from(&mut received).unwrap();
            received[..length].to_vec()
        };
        let plane = ready();
        assert_eq!(first(), b"other");
        plane.answers().open(&id("fine"), &["198.51.100.1".parse().unwrap()], Duration::from_secs(60));
        assert_eq!((first(), first()), (b"banned".to_vec(), b"other".to_vec()));
        receiver.recv_from(&mut [0; 32]).unwrap();
        receiver.recv_from(&mut [0; 32]).unwrap();
        drop(plane);
        let plane = ready();
        let (rule, remaining) = plane.answers().is_open("198.51.100.1".parse().unwrap()).unwrap();
        assert_eq!(rule, id("fine"));
        assert!(remaining > Duration::from_secs(30));
        assert_eq!(first(), b"banned");
        unload(&options.pin).unwrap();
    });
}

fn an_agent_of_another_version_takes_over_too() {
    let pair = Pair::new();
    pair.inside.run(|| {
        let pin = private_bpffs();
        let options = |version| Options {
            pin: pin.with_file_name(version),
            at_exit: AtExit::Keep,
            ..on("in", Role::Lan)
        };
        drop(ready(&options("v3")));
        let before = hook("in");
        let plane = ready(&options("v4"));
        assert!(
            before.is_some() && hook("in").is_some() && hook("in") != before,
            "another program, on the same hook"
        );
        assert!(!pin.with_file_name("v3").exists(), "nothing is left of the other");
        drop(plane);
        assert!(hook("in").is_some(), "it stays");
        assert_eq!(unload(&pin.with_file_name("v5")).unwrap(), Vec::<String>::new(), "no such folder");
        assert_eq!(unload(&pin.with_file_name("v4")).unwrap(), ["in"]);
        wait_until_free("in");
    });
}

fn a_new_agent_that_removes_takes_over_and_leaves_nothing() {
    let pair = Pair::new();
    pair.inside.run(|| {
        let pin = private_bpffs();
        Agent::start("in", &pin, AtExit::Keep).kill();
        let before = hook("in");
        let plane = ready(&Options { pin, ..on("in", Role::Wan) });
        assert_ne!(hook("in"), before);
        assert_eq!(plane.pins(), &Pins::Unused);
        drop(plane);
        wait_until_free("in");
    });
}

fn a_kept_program_in_another_mode_is_refused() {
    let pair = Pair::new();
    pair.inside.run(|| {
        let pin = private_bpffs();
        Agent::start("in", &pin, AtExit::Keep).kill();
        let before = hook("in");
        let error = refused_here(&Options { pin: pin.clone(), mode: Mode::Generic, ..on("in", Role::Lan) });
        assert!(error.contains("stayed there in native mode; run `interdict unload` first"), "{error}");
        assert_eq!(hook("in"), before, "it is not let go for that");
        unload(&pin).unwrap();
    });
}

fn refused_here(options: &Options) -> String {
    let mut plane = PacketPlane::load(options).unwrap();
    apply(&mut plane, &policy(BAN));
    plane.attach().unwrap_err().to_string()
}

fn an_interface_no_longer_listed_is_let_go() {
    let pair = Pair::new();
    pair.inside.ip("link add spare type veth peer name spare2");
    pair.inside.run(|| {
        let pin = private_bpffs();
        Agent::start("in", &pin, AtExit::Keep).kill();
        let _plane = ready(&Options { pin: pin.clone(), at_exit: AtExit::Keep, ..on("spare", Role::Lan) });
        wait_until_free("in");
        assert!(hook("spare").is_some());
        assert_eq!(unload(&pin).unwrap(), ["spare"]);
    });
}

fn unload_works_without_an_agent() {
    let pair = Pair::new();
    pair.inside.run(|| {
        let pin = private_bpffs();
        assert!(unload(&pin).unwrap().is_empty(), "nothing there yet");
        Agent::start("in", &pin, AtExit::Keep).kill();
        assert_eq!(unload(&pin).unwrap(), ["in"]);
        assert_eq!(hook("in"), None, "it is free at once");
        assert!(unload(&pin).unwrap().is_empty());
    });
}

fn what_was_unloaded_under_a_running_agent_is_pinned_again() {
    let pair = Pair::new();
    pair.inside.run(|| {
        let pin = private_bpffs();
        let options = Options { pin: pin.clone(), at_exit: AtExit::Keep, ..on("in", Role::Lan) };
        let mut plane = ready(&options);
        let pinned = || {
            let names = fs::read_dir(&pin).unwrap().map(|entry| entry.unwrap().file_name());
            names.collect::<BTreeSet<_>>()
        };
        let before = pinned();
        let banned = frame("v4 udp", &to("198.51.100.1", 443));
        assert!(plane.prober().run(Probe::new(Entry::Lan, &banned)).unwrap().dropped);
        assert!(has_agent(&pin));
        assert_eq!(unload(&pin).unwrap(), ["in"]);
        assert!(!pin.exists());
        assert_eq!(restored(&mut plane), "in Again");
        plane.keep().unwrap();
        assert_eq!(pinned(), before);
        assert_eq!(in_place(&pin), ["in"]);
        drop(plane);
        assert!(!has_agent(&pin));
        let mut next = ready(&options);
        assert_eq!(
            next.counters().unwrap().exits["blocked"],
            1,
            "the next agent goes on with what was counted"
        );
        assert_eq!(restored(&mut next), "in InPlace");
        drop(next);
        unload(&pin).unwrap();
    });
}

/// A bpffs is seen from every network namespace.
fn pins_have_one_agent_whatever_its_network_namespace() {
    let pair = Pair::new();
    pair.inside.run(|| {
        let pin = private_bpffs();
        let options = |name| Options { pin: pin.clone(), at_exit: AtExit::Keep, ..on(name, Role::Lan) };
        let first = ready(&options("in"));
        assert_eq!(
            fs::metadata(&pin).unwrap().permissions().mode() & 0o777,
            0o700,
            "nobody else may lock it"
        );
        let refused =
            pair.outside.run(|| PacketPlane::load(&options("out")).err().map(|error| error.to_string()));
        assert!(refused.unwrap().contains("another agent is running with the pins"));
        drop(first);
        drop(ready(&options("in")));
        unload(&pin).unwrap();
    });
}

/// Where the folder's name is no version, another version's maps lie in the same one: they may have other sizes.
fn maps_of_another_version_are_not_gone_on_with() {
    let pair = Pair::new();
    pair.inside.run(|| {
        let pin = private_bpffs();
        let options = Options { pin: pin.clone(), at_exit: AtExit::Keep, ..on("in", Role::Lan) };
        let blocked = |plane: &PacketPlane| {
            let banned = frame("v4 udp", &to("198.51.100.1", 443));
            plane.prober().run(Probe::new(Entry::Lan, &banned)).unwrap();
            plane.counters().unwrap().exits["blocked"]
        };
        assert_eq!(blocked(&ready(&options)), 1);
        assert_eq!(blocked(&ready(&options)), 2, "the same version goes on");
        fs::remove_file(pin.join("schema")).unwrap();
        symlink("1", pin.join("schema")).unwrap();
        let mut plane = ready(&options);
        assert_eq!(blocked(&plane), 1, "another begins anew");
        assert_eq!(restored(&mut plane), "in InPlace");
        drop(plane);
        assert_eq!(blocked(&ready(&options)), 2);
        unload(&pin).unwrap();
        assert!(!pin.exists());
    });
}

fn unload_detaches_under_a_running_agent() {
    let pair = Pair::new();
    pair.inside.run(|| {
        let pin = private_bpffs();
        let plane = ready(&Options { pin: pin.clone(), at_exit: AtExit::Keep, ..on("in", Role::Lan) });
        assert_eq!(unload(&pin).unwrap(), ["in"]);
        assert_eq!(hook("in"), None);
        drop(plane);
        let _next = ready(&on("in", Role::Lan));
        assert!(hook("in").is_some());
    });
}

/// What restoring says of the one interface of a plane.
fn restored(plane: &mut PacketPlane) -> String {
    match plane.restore().remove(0) {
        (name, Ok(restored)) => format!("{name} {restored:?}"),
        (name, Err(error)) => format!("{name} {error}"),
    }
}

fn an_interface_made_anew_is_attached_again() {
    for at_exit in [AtExit::Remove, AtExit::Keep] {
        let pair = Pair::new();
        pair.inside.ip("link add new type veth peer name new2");
        pair.inside.run(|| {
            let pin = private_bpffs();
            let mut plane = ready(&Options { pin: pin.clone(), at_exit, ..on("new", Role::Lan) });
            assert_eq!(restored(&mut plane), "new InPlace");
            pair.inside.ip("link del new");
            let gone = "new cannot attach to new: no such interface";
            assert!(restored(&mut plane).starts_with(gone), "{}", restored(&mut plane));
            assert_eq!(plane.interfaces(), []);
            pair.inside.ip("link add new type veth peer name new2");
            assert_eq!(restored(&mut plane), "new Again");
            assert_eq!(restored(&mut plane), "new InPlace");
            assert_eq!(plane.interfaces()[0].index, interface("new").index);
            assert!(hook("new").is_some());
            drop(plane);
            match at_exit {
                AtExit::Keep => assert_eq!(unload(&pin).unwrap(), ["new"]),
                AtExit::Remove => wait_until_free("new"),
            }
            assert_eq!(hook("new"), None);
        });
    }
}

fn a_thousand_interfaces_come_and_go() {
    const ROUNDS: u32 = 10;
    let pair = Pair::new();
    pair.inside.run(|| {
        let batch = |lines: String| {
            let mut ip = Command::new("ip").args(["-batch", "-"]).stdin(Stdio::piped()).spawn().unwrap();
            ip.stdin.take().unwrap().write_all(lines.as_bytes()).unwrap();
            assert!(ip.wait().unwrap().success());
        };
        let pairs = |line: &dyn Fn(u32) -> String| (0..50).map(line).collect::<String>();
        let come = pairs(&|n| {
            format!("link add name c{n} type veth peer name d{n}\naddr add 10.9.{n}.1/24 dev c{n}\n")
        });
        let go = pairs(&|n| format!("link del c{n}\n"));
        let ours =
            "link add name new type veth peer name new2\naddr add 10.8.0.1/24 dev new\nlink set new up\n";
        batch(ours.to_owned());
        let answering = Answering {
            clients: vec!["10.0.0.0/8".parse().unwrap()],
            client_qps: 1000,
            listen: Vec::new(),
            in_kernel: InKernel::Always,
        };
        let pin = private_bpffs();
        let options = Options { pin, answering: Some(answering), ..on("new", Role::Lan) };
        let mut plane = ready(&options);
        plane.judge_queries(None).unwrap();
        for _ in 0..ROUNDS {
            batch(come.clone() + "link del new\n");
            plane.follow().unwrap();
            assert!(restored(&mut plane).starts_with("new cannot attach"), "{}", restored(&mut plane));
            batch(ours.to_owned() + &go);
            assert_eq!(restored(&mut plane), "new Again");
            assert_eq!(plane.follow().unwrap(), [("new".to_owned(), AnswersOn::InKernel)]);
            assert_eq!(plane.interfaces()[0].index, interface("new").index);
            assert!(hook("new").is_some());
        }
    });
}

fn what_is_detached_or_taken_is_told_and_restored() {
    let pair = Pair::new();
    pair.inside.run(|| {
        let pin = private_bpffs();
        let mut plane = ready(&Options { pin: pin.clone(), at_exit: AtExit::Keep, ..on("in", Role::Lan) });
        unload(&pin).unwrap();
        assert_eq!(hook("in"), None);
        assert_eq!(restored(&mut plane), "in Again");
        unload(&pin).unwrap();
        let other = ready(&on("in", Role::Wan));
        assert!(restored(&mut plane).contains("its XDP hook is held by the program interdict_wan"));
        drop(other);
        wait_until_free("in");
        assert_eq!(restored(&mut plane), "in Again");
        unload(&pin).unwrap();
    });
}

fn without_a_bpffs_there_are_no_pins_and_it_is_said() {
    let pair = Pair::new();
    let folder = env::temp_dir().join(format!("interdict-no-bpffs-{}", std::process::id()));
    fs::create_dir_all(&folder).unwrap();
    pair.inside.run(|| {
        let options = Options { pin: folder.clone(), at_exit: AtExit::Keep, ..on("in", Role::Lan) };
        let plane = ready(&options);
        assert!(matches!(plane.pins(), Pins::Unavailable(reason) if reason.contains("is not on a bpffs")));
        drop(plane);
        wait_until_free("in");
    });
    let error = unload(&folder).unwrap_err();
    assert!(error.to_string().contains("cannot unload from"), "{error}");
    fs::remove_dir(&folder).unwrap();
}

fn routes_and_addresses_are_read() {
    let pair = Pair::new();
    pair.inside.ip("route add default via 192.0.2.2");
    pair.inside.ip("-6 route add default via 2001:db8::2");
    pair.inside.run(|| {
        let texts = |list: Vec<String>| list.join(" ");
        let gateways = default_gateways().unwrap().iter().map(ToString::to_string).collect();
        assert_eq!(texts(gateways), "192.0.2.2 2001:db8::2");
        let networks = interface_networks("in").unwrap().iter().map(ToString::to_string).collect();
        assert_eq!(texts(networks), "192.0.2.0/24 198.51.100.1/32 2001:db8::/64");
        let names: Vec<_> =
            interfaces().unwrap().into_iter().map(|InterfaceInfo { name, .. }| name).collect();
        assert_eq!(names, ["lo", "in"]);
    });
}

/// An agent in a process of its own, which can be killed.
struct Agent {
    process: Child,
}

const AGENT: &str = "INTERDICT_TEST_AGENT";

impl Agent {
    /// Starts it in the namespaces of this thread, and waits until it has attached.
    fn start(interface: &str, pin: &Path, at_exit: AtExit) -> Self {
        let keep = if at_exit == AtExit::Keep { "keep" } else { "remove" };
        let mut process = Command::new(env::current_exe().unwrap())
            .env(AGENT, format!("{interface} {} {keep}", pin.display()))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(process.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "attached\n");
        Self { process }
    }

    /// Ends it as `kill -9` does, and waits for it.
    fn kill(mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// What the agent's process does instead of testing, until its standard input ends.
pub(crate) fn helper() -> Option<i32> {
    let words = env::var(AGENT).ok()?;
    let [interface, pin, keep] = words.split(' ').collect::<Vec<_>>()[..] else { return Some(2) };
    let at_exit = if keep == "keep" { AtExit::Keep } else { AtExit::Remove };
    let _plane = ready(&Options { pin: PathBuf::from(pin), at_exit, ..on(interface, Role::Lan) });
    println!("attached");
    std::io::stdout().flush().ok()?;
    std::io::stdin().lines().for_each(drop);
    Some(0)
}
