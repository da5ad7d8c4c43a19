//! What a packet pays for the XDP program, by the number of prefixes in the policy.
//!
//! `cargo bench -p interdict-ebpf-loader`, as root. Prints Markdown. Each figure is the median over several rounds of
//! the kernel's own measure of `BPF_PROG_TEST_RUN`, over many addresses, with warm caches; "net" is less what an empty
//! program costs in the same run. Half of the prefixes are IPv4 /24, half IPv6 /48.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    time::{Duration, Instant},
};

use interdict_ebpf_loader::{Entry, Error, Options, PacketPlane, PassProgram, Probe};
use interdict_policy::{Policy, Source, compile};

const SIZES: [u32; 3] = [100, 10_000, 1_000_000];
const ADDRESSES: u32 = 64;
const OPENED: u32 = 1000;
const REPEAT: u32 = 5_000;
const ROUNDS: usize = 9;

fn main() {
    let mut plane = match PacketPlane::load(&Options::new(Vec::new())) {
        Err(error @ Error::MissingCapability { .. }) => return eprintln!("not measured: {error}"),
        plane => plane.unwrap(),
    };
    let mut events = plane.events().unwrap();
    let empty = PassProgram::load().unwrap();

    let mut costs = Vec::new();
    let mut changes = Vec::new();
    for size in SIZES {
        changes.push(change(&mut plane, size));
        let baseline = median(|| empty.run(&frame(4, 0, 1), REPEAT * ADDRESSES).unwrap());
        for (name, cost) in measure(&plane, size, &mut || _ = events.drain(drop)) {
            costs.push(format!(
                "| {size} | {name} | {} | {} |",
                nanos(cost),
                nanos(cost.saturating_sub(baseline))
            ));
        }
        costs.push(format!("| {size} | an empty program | {} | 0 |", nanos(baseline)));
    }

    println!("{}\n", machine());
    println!("| prefixes | packet | ns | ns net |\n| ---: | --- | ---: | ---: |\n{}", costs.join("\n"));
    println!(
        "\n| prefixes | compile | stage, with self-test | flip | settle |\n| ---: | ---: | ---: | ---: | ---: |"
    );
    println!("{}", changes.join("\n"));
    println!("\n| program | instructions the verifier went through |\n| --- | ---: |");
    for entry in [Entry::Lan, Entry::Wan, Entry::Selftest] {
        let count = plane.prober().verified_instructions(entry).unwrap();
        println!("| {entry:?} | {} |", count.map_or("unknown".into(), |count| count.to_string()));
    }
    let losses = plane.counters().unwrap().losses;
    println!("\nNot recorded as usual while measuring: {losses:?}.");
}

/// The processor and the kernel.
fn machine() -> String {
    let read = |path| std::fs::read_to_string(path).unwrap_or_default();
    let cpuinfo = read("/proc/cpuinfo");
    let model = cpuinfo.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or("unknown");
    format!("{}, Linux {}", model.trim_matches(['\t', ' ', ':']), read("/proc/sys/kernel/osrelease").trim())
}

/// Puts a policy of this size in force; a line of how long each step took.
fn change(plane: &mut PacketPlane, size: u32) -> String {
    let start = Instant::now();
    let policy = policy(size);
    let compiled = start.elapsed();
    let start = Instant::now();
    let staged = plane.stage(&policy).unwrap();
    let stage = start.elapsed();
    let start = Instant::now();
    plane.flip(staged).unwrap();
    let flip = start.elapsed();
    let start = Instant::now();
    plane.settle().unwrap();
    format!("| {size} | {compiled:.1?} | {stage:.1?} | {flip:.1?} | {:.1?} |", start.elapsed())
}

/// The median cost of each kind of packet.
fn measure(plane: &PacketPlane, size: u32, drain: &mut dyn FnMut()) -> Vec<(&'static str, Duration)> {
    let prober = plane.prober();
    let cost = |frames: &[Vec<u8>], repeat, drain: &mut dyn FnMut()| {
        median(|| {
            drain();
            let runs =
                frames.iter().map(|frame| prober.run(Probe { repeat, ..Probe::new(Entry::Lan, frame) }));
            runs.map(|run| run.unwrap().duration).sum::<Duration>() / frames.len() as u32
        })
    };
    // Numbers below the size are banned: even ones are blocked, odd ones logged. Those above are not in the policy.
    let frames = |version, number: &dyn Fn(u32) -> u32| {
        (0..ADDRESSES).map(|n| frame(version, number(n), 1)).collect::<Vec<_>>()
    };
    let spread = |n: u32| n * (size / 2 / ADDRESSES).max(1) % (size / 2) / 2 * 2;
    // A client has a hundred events of its own in a second: fewer runs for each of many clients are all events.
    static CLIENT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(1 << 16);
    let with_events = median(|| {
        drain();
        let runs = (0..ADDRESSES).map(|n| {
            let client = CLIENT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            let frame = frame(4, spread(n) + 1, client);
            prober.run(Probe { repeat: 100, ..Probe::new(Entry::Lan, &frame) }).unwrap().duration
        });
        runs.sum::<Duration>() / ADDRESSES
    });
    let beyond = [4, 6].map(|version| cost(&frames(version, &|n| size + n), REPEAT, drain));
    let opened: Vec<IpAddr> = (0..OPENED).map(|n| v4(2 * size + n, 1).into()).collect();
    plane.answers().open(&"logged".parse().unwrap(), &opened, Duration::from_secs(1));
    let beside_opened = cost(&frames(4, &|n| size + n), REPEAT, drain);
    std::thread::sleep(Duration::from_secs(1));
    plane.answers().expire();
    vec![
        ("IPv4, not in the policy", beyond[0]),
        ("IPv6, not in the policy", beyond[1]),
        ("IPv4, not in the policy, while 1000 addresses are open", beside_opened),
        ("IPv4, blocked, counted", cost(&frames(4, &spread), REPEAT, drain)),
        ("IPv6, blocked, counted", cost(&frames(6, &spread), REPEAT, drain)),
        ("IPv4, logged, counted", cost(&frames(4, &|n| spread(n) + 1), REPEAT, drain)),
        ("IPv4, logged, each with an event of its own", with_events),
    ]
}

fn median(mut measure: impl FnMut() -> Duration) -> Duration {
    let mut rounds: Vec<_> = (0..ROUNDS).map(|_| measure()).collect();
    rounds.sort();
    rounds[ROUNDS / 2]
}

fn nanos(duration: Duration) -> u128 {
    duration.as_nanos()
}

/// A policy of so many prefixes.
fn policy(size: u32) -> Policy {
    let list = |parity| {
        let numbers = (0..size / 2).filter(move |number| number % 2 == parity);
        let networks = numbers.map(|number| format!("\"{}/24\", \"{}/48\"", v4(number, 0), v6(number, 0)));
        networks.collect::<Vec<_>>().join(",\n")
    };
    let rule = |id, action, parity| {
        format!(
            "[[rule]]\nid = \"{id}\"\nrole = \"other\"\naction = \"{action}\"\nnetworks = [{}]\n",
            list(parity)
        )
    };
    let text = format!("format = 1\n{}{}", rule("block", "block", 0), rule("log", "log", 1));
    compile(&[Source { name: "bench.toml".to_owned(), text }])
        .unwrap_or_else(|problems| panic!("{problems}"))
        .policy
}

/// An address in the network with this number. Numbers are scattered over the address space, none in 0.0.0.0/8.
fn v4(number: u32, host: u8) -> Ipv4Addr {
    let network = number.wrapping_mul(0x9e37_79b1) >> 8;
    Ipv4Addr::from_bits(network << 8 | u32::from(host))
}

fn v6(number: u32, host: u8) -> Ipv6Addr {
    let network = u128::from(number.wrapping_mul(0x9e37_79b1));
    Ipv6Addr::from_bits(0x2001 << 112 | network << 80 | u128::from(host))
}

/// A datagram of a client to the network with this number.
fn frame(version: u8, number: u32, client: u32) -> Vec<u8> {
    let mut frame = vec![0; 12];
    match (version, IpAddr::from(v4(number, 9)), IpAddr::from(v6(number, 9))) {
        (4, IpAddr::V4(destination), _) => {
            frame.extend([0x08, 0x00, 0x45, 0, 0, 28, 0, 0, 0, 0, 64, 17, 0, 0]);
            frame.extend(client.to_be_bytes());
            frame.extend(destination.octets());
        }
        (_, _, IpAddr::V6(destination)) => {
            frame.extend([0x86, 0xdd, 0x60, 0, 0, 0, 0, 8, 17, 64]);
            frame.extend(Ipv6Addr::from_bits(u128::from(client)).octets());
            frame.extend(destination.octets());
        }
        _ => unreachable!("the two addresses have these versions"),
    }
    frame.extend([0x9c, 0x40, 0x01, 0xbb, 0, 8, 0, 0]);
    frame.resize(64.max(frame.len()), 0);
    frame
}
