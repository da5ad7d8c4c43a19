//! This machine's own traffic: what its processes ask for, what leaves it, and what comes in.

use std::{
    fs,
    net::{TcpListener, UdpSocket},
    path::PathBuf,
    process::{Command, id},
    time::{Duration, Instant},
};

use interdict_ebpf_loader::{
    AtExit, Contact, Depth, EventReader, Hook, Interface, Mode, Options, PacketPlane, Reached, Restored,
    Role, unload,
};
use interdict_policy::Verdict;

use crate::{
    namespace::{Pair, private_bpffs},
    support::{apply, on, policy_and, tests},
};

tests![
    a_process_is_refused_at_once_and_named,
    what_was_detached_from_the_group_is_attached_again,
    a_process_outside_the_group_is_stopped_by_the_packet,
    what_is_let_through_is_followed_both_ways,
    what_was_not_asked_for_does_not_come_in,
    behind_xdp_in_either_mode_frames_are_read_too,
    on_loopback_alone_what_is_sent_is_judged,
    without_control_groups_it_is_said,
];

/// The other side of the pair is banned, but for one of its addresses, which is logged.
const RULES: &str = "
    banned block 203.0.113.0/24 2001:db8::2/128
    logged log   192.0.2.2/32   2001:db8::3/128
";

/// A control group of our own, in a mount of our own, both of which go when it is dropped.
struct Group(PathBuf);

impl Group {
    fn new(name: &str) -> Self {
        let mount = std::env::temp_dir().join(format!("interdict-cgroups-{}-{name}", id()));
        fs::create_dir(&mount).unwrap();
        let mounted = Command::new("mount").args(["-t", "cgroup2", "none"]).arg(&mount).status().unwrap();
        assert!(mounted.success(), "control groups of version 2 can be mounted");
        let group = mount.join(format!("interdict-{}-{name}", id()));
        fs::create_dir(&group).unwrap();
        Self(group)
    }

    fn name(&self) -> String {
        format!("/{}", self.0.file_name().unwrap().to_str().unwrap())
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // Its processes have ended, but the kernel may not have noticed yet.
        let end = Instant::now() + Duration::from_secs(5);
        while fs::remove_dir(&self.0).is_err() && Instant::now() < end {
            std::thread::yield_now();
        }
        if let Some(mount) = self.0.parent() {
            let _ = Command::new("umount").arg(mount).status();
            let _ = fs::remove_dir(mount);
        }
    }
}

/// A plane that judges what the inner side sends and receives.
fn plane(pair: &Pair, group: &Group) -> PacketPlane {
    plane_with(pair, group, "")
}

fn plane_with(pair: &Pair, group: &Group, entries: &str) -> PacketPlane {
    pair.outside.ip("addr add 2001:db8::3/64 dev out nodad");
    let options = Options { cgroup: Some(group.0.clone()), ..on("in", Role::Host) };
    pair.inside.run(|| {
        let mut plane = PacketPlane::load(&options).unwrap();
        apply(&mut plane, &policy_and(RULES, entries));
        plane.attach().unwrap();
        plane
    })
}

/// What a process of the inner side says to a line of Python: how it ended, and after how many milliseconds.
fn python(pair: &Pair, group: Option<&Group>, line: &str) -> (String, u64) {
    let enter =
        group.map_or(String::new(), |group| format!("echo $$ > {}/cgroup.procs && ", group.0.display()));
    let program = format!(
        "import socket,time\nT4,U4=(2,1),(2,2)\nT6,U6=(10,1),(10,2)\ns=lambda f: socket.socket(*f)\nt=time.time()\ntry:\n {line}\n r='done'\nexcept OSError as e: r=e.strerror or str(e)\nprint(r, int((time.time()-t)*1000))"
    );
    let said = pair.inside.run(|| {
        let script = format!("{enter}exec python3 -c \"$PROGRAM\"");
        Command::new("bash").args(["-c", &script]).env("PROGRAM", &program).output().unwrap()
    });
    let text = String::from_utf8(said.stdout).unwrap();
    let (outcome, millis) =
        text.trim().rsplit_once(' ').unwrap_or_else(|| panic!("{said:?}", said = said.stderr));
    (outcome.to_owned(), millis.parse().unwrap())
}

fn drained(events: &mut EventReader) -> Vec<Contact> {
    let mut seen = Vec::new();
    events.drain(|contact| seen.push(contact));
    seen
}

/// The longest that a refused call may take.
const AT_ONCE_MS: u64 = 50;

fn a_process_is_refused_at_once_and_named() {
    let (pair, group) = (Pair::new(), Group::new("refused"));
    let mut plane = plane(&pair, &group);
    let mut events = plane.events().unwrap();
    for (line, hook, remote, port, protocol) in [
        ("s(T4).connect(('203.0.113.2',7000))", Hook::Connect, "203.0.113.2", 7000, 6),
        ("s(U4).connect(('203.0.113.2',7000))", Hook::Connect, "203.0.113.2", 7000, 17),
        ("s(U4).sendto(b'x',('203.0.113.2',7000))", Hook::Send, "203.0.113.2", 7000, 17),
        ("s(T6).connect(('2001:db8::2',7000))", Hook::Connect, "2001:db8::2", 7000, 6),
        ("s(U6).sendto(b'x',('2001:db8::2',7000))", Hook::Send, "2001:db8::2", 7000, 17),
        ("s(T6).connect(('::ffff:203.0.113.2',7000))", Hook::Connect, "203.0.113.2", 7000, 6),
    ] {
        for _ in 0..10 {
            let (outcome, millis) = python(&pair, Some(&group), line);
            assert_eq!(outcome, "Operation not permitted", "{line}");
            assert!(millis < AT_ONCE_MS, "{line} took {millis} ms");
        }
        let seen = drained(&mut events);
        assert_eq!(seen.len(), 10, "{line}");
        for contact in seen {
            assert_eq!((contact.hook, contact.verdict), (hook, Verdict::Block), "{line}");
            assert_eq!(
                (contact.rule.as_str(), contact.port, contact.protocol),
                ("banned", Some(port), protocol)
            );
            assert_eq!(contact.remote, remote.parse::<std::net::IpAddr>().unwrap(), "{line}");
            let us = if line.contains("6)") { "2001:db8::1" } else { "192.0.2.1" };
            assert_eq!(contact.client, Some(us.parse().unwrap()), "{line}");
            let process = contact.process.unwrap();
            assert_eq!(process.name, "python3");
            assert!(process.pid > 1);
            // The process may have ended before anyone looked where it was.
            assert!(process.cgroup == group.name() || process.cgroup.starts_with('#'), "{process:?}");
        }
    }
    assert_eq!(plane.counters().unwrap().rules[0].count.packets, 60, "each is counted");
    let (outcome, _) = python(&pair, Some(&group), "s(U4).sendto(b'x',('192.0.2.77',7000))");
    assert_eq!(outcome, "done", "what no rule matches is left alone");
    assert!(drained(&mut events).is_empty());
}

fn what_was_detached_from_the_group_is_attached_again() {
    let (pair, group) = (Pair::new(), Group::new("again"));
    let connect = || python(&pair, Some(&group), "s(T4).connect(('203.0.113.2', 443))").0;
    pair.inside.run(|| {
        let pin = private_bpffs();
        let cgroup = Some(group.0.clone());
        let options = Options { cgroup, pin: pin.clone(), at_exit: AtExit::Keep, ..on("in", Role::Host) };
        let mut plane = PacketPlane::load(&options).unwrap();
        apply(&mut plane, &policy_and(RULES, ""));
        plane.attach().unwrap();
        assert_eq!(connect(), "Operation not permitted");
        assert_eq!(plane.restore().len(), 1, "only the interface is told of");
        unload(&pin).unwrap();
        assert_eq!(connect(), "Connection refused");
        let restored = plane.restore();
        let (name, outcome) = &restored[1];
        assert!(name.starts_with("control group") && matches!(outcome, Ok(Restored::Again)), "{restored:?}");
        assert_eq!(connect(), "Operation not permitted");
        assert_eq!(plane.restore().len(), 1);
        drop(plane);
        unload(&pin).unwrap();
    });
}

fn a_process_outside_the_group_is_stopped_by_the_packet() {
    let (pair, group) = (Pair::new(), Group::new("outside"));
    let mut plane = plane(&pair, &group);
    let mut events = plane.events().unwrap();
    let line = "x=s(T4); x.settimeout(0.3); x.connect(('203.0.113.2',7000))";
    let (outcome, _) = python(&pair, None, line);
    assert_eq!(outcome, "timed out");
    let seen = drained(&mut events);
    assert!(!seen.is_empty() && seen.iter().all(|contact| contact.hook == Hook::HostOut), "{seen:?}");
    assert!(seen.iter().all(|contact| contact.client == Some("192.0.2.1".parse().unwrap())));
}

fn reached(events: &mut EventReader) -> Vec<Reached> {
    let mut seen = Vec::new();
    events.reached(|reached| seen.push(reached)).unwrap();
    seen
}

fn what_is_let_through_is_followed_both_ways() {
    let (pair, group) = (Pair::new(), Group::new("followed"));
    let mut plane = plane(&pair, &group);
    let mut events = plane.events().unwrap();
    let listener = pair.outside.run(|| TcpListener::bind("192.0.2.2:7001").unwrap());
    let silent = pair.outside.run(|| UdpSocket::bind("[2001:db8::3]:7002").unwrap());

    let (outcome, _) = python(&pair, Some(&group), "s(U6).sendto(b'hello',('2001:db8::3',7002))");
    assert_eq!(outcome, "done");
    silent.recv_from(&mut [0; 16]).unwrap();
    assert!(reached(&mut events).is_empty(), "attempted, which its own event says");

    let client = pair.inside.run(|| std::net::TcpStream::connect("192.0.2.2:7001").unwrap());
    let (mut server, _) = listener.accept().unwrap();
    let connected = until(|| reached(&mut events).pop());
    assert_eq!((connected.depth, connected.is_over), (Depth::Connected, false));
    assert_eq!((connected.rule.as_str(), connected.verdict), ("logged", Verdict::Log));
    assert_eq!(
        (connected.client, connected.remote),
        ("192.0.2.1".parse().unwrap(), "192.0.2.2".parse().unwrap())
    );
    assert_eq!((connected.port, connected.protocol), (Some(7001), 6));

    std::io::Write::write_all(&mut server, &[7; 1000]).unwrap();
    let mut buffer = [0; 1000];
    std::io::Read::read_exact(&mut (&client), &mut buffer).unwrap();
    let received = until(|| reached(&mut events).pop());
    assert_eq!(received.depth, Depth::Received);
    assert!(received.received.bytes > 1000 && received.received.packets >= 2, "{received:?}");
    assert!(received.sent.packets >= 2, "{received:?}");

    // An answer comes in, though its source would be judged otherwise.
    let asker = pair.inside.run(|| UdpSocket::bind("[2001:db8::1]:0").unwrap());
    asker.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
    asker.send_to(b"question", "[2001:db8::3]:7002").unwrap();
    let (_, from) = silent.recv_from(&mut [0; 16]).unwrap();
    silent.send_to(b"answer", from).unwrap();
    asker.recv_from(&mut [0; 16]).unwrap();
    assert_eq!(until(|| reached(&mut events).pop()).depth, Depth::Received);
}

fn until<T>(mut there: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + Duration::from_secs(5);
    loop {
        match there() {
            Some(value) => return value,
            None => assert!(Instant::now() < end, "five seconds passed"),
        }
        std::thread::yield_now();
    }
}

fn what_was_not_asked_for_does_not_come_in() {
    let (pair, group) = (Pair::new(), Group::new("incoming"));
    let plane = plane(&pair, &group);
    let receiver = pair.inside.run(|| UdpSocket::bind("192.0.2.1:7003").unwrap());
    receiver.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
    let sender = |from: &str| pair.outside.run(|| UdpSocket::bind(from).unwrap());
    sender("203.0.113.2:0").send_to(b"banned", "192.0.2.1:7003").unwrap();
    sender("192.0.2.2:0").send_to(b"other", "192.0.2.1:7003").unwrap();
    let mut buffer = [0; 16];
    let (length, _) = receiver.recv_from(&mut buffer).unwrap();
    assert_eq!(&buffer[..length], b"other");
    let counters = plane.counters().unwrap();
    assert_eq!((counters.exits["blocked"], counters.exits["logged"]), (1, 1));
}

fn behind_xdp_in_either_mode_frames_are_read_too() {
    for mode in [Mode::Native, Mode::Generic] {
        let pair = Pair::new();
        let roles = [Role::Wan, Role::Host];
        let interfaces = roles.map(|role| Interface { name: "in".to_owned(), role }).to_vec();
        let group = Group::new(mode.as_str());
        let cgroup = Some(group.0.clone());
        let options = Options { interfaces, mode, cgroup, ..on("in", Role::Host) };
        let plane = pair.inside.run(|| {
            let mut plane = PacketPlane::load(&options).unwrap();
            apply(&mut plane, &policy_and(RULES, ""));
            plane.attach().unwrap();
            plane
        });
        let receiver = pair.inside.run(|| UdpSocket::bind("192.0.2.1:7003").unwrap());
        receiver.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
        let sender = pair.outside.run(|| UdpSocket::bind("192.0.2.2:0").unwrap());
        sender.send_to(b"logged", "192.0.2.1:7003").unwrap();
        receiver.recv_from(&mut [0; 16]).unwrap();
        assert_eq!(plane.counters().unwrap().exits["logged"], 2, "{mode:?}: by XDP, and by tcx behind it");
    }
}

/// In a namespace of this thread, without anything beyond its loopback interface: before Linux 6.6 the programs are on clsact
/// there, which `tests/kernel-6.1` tries with this.
fn on_loopback_alone_what_is_sent_is_judged() {
    let ip = |line: &str| {
        assert!(Command::new("ip").args(line.split(' ')).status().unwrap().success(), "ip {line}")
    };
    let alone = move || {
        // SAFETY: the call changes the namespace of this thread and touches no memory.
        assert_eq!(unsafe { libc::unshare(libc::CLONE_NEWNET) }, 0);
        ip("link set lo up");
        ip("addr add 203.0.113.2/32 dev lo");
        ip("addr add 192.0.2.2/32 dev lo");
        let group = Group::new("loopback");
        let options = Options { cgroup: Some(group.0.clone()), ..on("lo", Role::Host) };
        let mut plane = PacketPlane::load(&options).unwrap();
        apply(&mut plane, &policy_and(RULES, ""));
        plane.attach().unwrap();
        let receiver = UdpSocket::bind("0.0.0.0:7004").unwrap();
        receiver.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        let sender = UdpSocket::bind("127.0.0.1:0").unwrap();
        // Who sends may be told at once that it is dropped.
        let _ = sender.send_to(b"banned", "203.0.113.2:7004");
        sender.send_to(b"logged", "192.0.2.2:7004").unwrap();
        let mut buffer = [0; 16];
        let (length, _) = receiver.recv_from(&mut buffer).unwrap();
        assert_eq!(&buffer[..length], b"logged");
        let exits = plane.counters().unwrap().exits;
        assert_eq!((exits["blocked"], exits["logged"]), (1, 1), "{exits:?}");
        assert!(["tcx", "clsact"].contains(&plane.interfaces()[0].place.as_str()));
        drop(plane);
        let again = UdpSocket::bind("127.0.0.1:0").unwrap();
        again.send_to(b"banned", "203.0.113.2:7004").unwrap();
        let (length, _) = receiver.recv_from(&mut buffer).unwrap();
        assert_eq!(&buffer[..length], b"banned", "the programs are gone with the plane");
    };
    std::thread::spawn(alone).join().unwrap();
}

fn without_control_groups_it_is_said() {
    let pair = Pair::new();
    let nowhere = PathBuf::from("/sys/fs/cgroup/nowhere-at-all");
    let options = Options { cgroup: Some(nowhere), ..on("in", Role::Host) };
    let said = pair.inside.run(|| {
        let mut plane = PacketPlane::load(&options).unwrap();
        apply(&mut plane, &policy_and(RULES, ""));
        plane.attach().unwrap_err().to_string()
    });
    assert!(said.contains("cannot open the control group /sys/fs/cgroup/nowhere-at-all"), "{said}");
}
