//! The switch itself, with a clock's precision: both planes of one process, asked without pause while policies change.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};

use interdict::lab::{LAN, Lab, Side};
use interdict::packets::Policies;
use interdict::reload::{Cause, PolicyFiles, Reloader, Step};
use interdict::store::Store;
use interdict_audit::{Record, Start, Tail, Writer};
use interdict_dns_filter::{Filter, Silent};
use interdict_ebpf_loader::{Entry, Interface, Options, PacketPlane, Probe, Prober, Role};
use interdict_policy::{DomainName, Verdict};
use serde_json::Value;
use tempfile::TempDir;

use crate::case;
use crate::support::Case;

pub(crate) fn cases() -> Vec<Case> {
    vec![
        case!(a_fault_before_the_switch_changes_neither_plane, Root),
        case!(a_million_lookups_during_three_hundred_swaps_are_all_right, Root),
    ]
}

const CLIENT: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 9));

/// What one of two policies says. Both ban `always.test` and 198.51.100.0/24, neither names `never.test` or
/// 203.0.113.9; the first bans the odd name and address, the second the even ones.
fn policy(odd: bool, round: usize) -> String {
    let (name, address) = if odd { ("odd", 1) } else { ("even", 2) };
    format!(
        "format = 1\n[ban]\nid = \"v\"\nvendor = \"V\"\n\
         [[rule]]\nid = \"v-names\"\nrole = \"x\"\naction = \"block\"\n\
         domains = [\"always.test\", \"{name}.test\", \"r{round}.test\"]\n\
         [[rule]]\nid = \"v-networks\"\nrole = \"x\"\naction = \"block\"\n\
         networks = [\"198.51.100.0/24\", \"192.0.2.{address}/32\"]\n"
    )
}

/// Both planes, and what reloads them, as the agent puts them together.
struct Planes {
    folder: TempDir,
    filter: Arc<Filter>,
    prober: Prober,
    reloader: Reloader,
    writer: Option<Writer>,
}

impl Planes {
    /// In the network namespace of the calling thread, which has the interface [`LAN`].
    fn start() -> Self {
        let folder = TempDir::new().unwrap();
        let file = folder.path().join("p.toml");
        std::fs::write(&file, policy(true, 0)).unwrap();
        let first = interdict::files::compile_paths(std::slice::from_ref(&file), None).unwrap().policy;
        let interfaces = vec![Interface { name: LAN.into(), role: Role::Lan }];
        let mut plane = PacketPlane::load(&Options::new(interfaces)).unwrap();
        let staged = plane.stage(&first).unwrap();
        plane.flip(staged).unwrap();
        plane.attach().unwrap();
        let prober = plane.prober();
        let filter = Arc::new(Filter::new(Arc::new(first), Arc::new(Silent)));
        let (log, writer) = Record::open(folder.path(), "test").unwrap().start().unwrap();
        let reloader = Reloader::new(
            PolicyFiles { paths: vec![file], profile: None },
            filter.clone(),
            Some(Arc::new(Mutex::new(plane))),
            Policies::default(),
            Store::open(folder.path()).unwrap(),
            log,
            None,
        );
        Self { folder, filter, prober, reloader, writer: Some(writer) }
    }

    fn write(&self, text: &str) {
        let fresh = self.folder.path().join("fresh");
        std::fs::write(&fresh, text).unwrap();
        std::fs::rename(fresh, self.file()).unwrap();
    }

    fn file(&self) -> PathBuf {
        self.folder.path().join("p.toml")
    }

    fn names_blocked(&self) -> [bool; 4] {
        ["always.test", "odd.test", "even.test", "never.test"].map(|text| {
            let name: DomainName = text.parse().unwrap();
            let judgement = self.filter.judge(name.as_name(), CLIENT);
            judgement.decided().is_some_and(|(_, verdict)| verdict == Verdict::Block)
        })
    }

    fn addresses_blocked(&self) -> [bool; 4] {
        [[198, 51, 100, 7], [192, 0, 2, 1], [192, 0, 2, 2], [203, 0, 113, 9]]
            .map(|address| dropped(&self.prober, &frame(address)))
    }

    /// Ends the record and reads it.
    fn events(mut self) -> Vec<Value> {
        self.writer.take().unwrap().close();
        let mut tail = Tail::open(self.folder.path(), Start::Beginning).unwrap();
        let mut events = Vec::new();
        loop {
            match tail.next_lines().unwrap() {
                lines if lines.is_empty() => return events,
                lines => events.extend(lines.iter().map(|line| serde_json::from_str(line).unwrap())),
            }
        }
    }
}

/// A TCP SYN to port 443 of an address, from 10.0.0.9.
fn frame(to: [u8; 4]) -> Vec<u8> {
    let ethernet = [&[2; 6][..], &[4; 6], &[8, 0]].concat();
    let ip = [&[0x45, 0, 0, 40, 0, 0, 0x40, 0, 64, 6, 0, 0][..], &[10, 0, 0, 9], &to].concat();
    let tcp = [0x80, 0, 1, 0xbb, 0, 0, 0, 1, 0, 0, 0, 0, 0x50, 2, 0xff, 0xff, 0, 0, 0, 0];
    [&ethernet[..], &ip, &tcp].concat()
}

fn dropped(prober: &Prober, frame: &[u8]) -> bool {
    prober.run(Probe::new(Entry::Lan, frame)).unwrap().dropped
}

const ODD: [bool; 4] = [true, true, false, false];
const EVEN: [bool; 4] = [true, false, true, false];

/// What stops a reload in the test.
#[derive(Clone, Copy, Debug)]
enum Fault {
    Error,
    Panic,
}

fn a_fault_before_the_switch_changes_neither_plane() {
    let lab = Lab::new().unwrap();
    lab.inside(Side::Gateway, || {
        let mut planes = Planes::start();
        let armed: Arc<Mutex<Option<(Step, Fault)>>> = Arc::default();
        let wanted = armed.clone();
        planes.reloader = planes.reloader.with_checkpoint(Box::new(move |step| {
            let armed = *wanted.lock().unwrap();
            match armed.filter(|(at, _)| *at == step) {
                Some((_, Fault::Error)) => anyhow::bail!("a fault at {step:?}"),
                Some((_, Fault::Panic)) => std::panic::resume_unwind(Box::new("a fault")),
                None => Ok(()),
            }
        }));
        let steps = [Step::Compiled, Step::Kept, Step::Staged];
        for (round, step) in steps.into_iter().enumerate() {
            for fault in [Fault::Error, Fault::Panic] {
                *armed.lock().unwrap() = Some((step, fault));
                planes.write(&policy(false, round));
                let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                    planes.reloader.reload(Cause::Files).map_err(|refused| refused.to_string())
                }));
                match (fault, outcome) {
                    (Fault::Error, Ok(Err(said))) => assert_eq!(said, format!("a fault at {step:?}")),
                    (Fault::Panic, Err(_)) => {}
                    (_, outcome) => panic!("{step:?} {fault:?}: {outcome:?}"),
                }
                assert_eq!(
                    (planes.names_blocked(), planes.addresses_blocked()),
                    (ODD, ODD),
                    "{step:?} {fault:?}"
                );
            }
            // The same edit goes through once nothing is in its way, and back.
            *armed.lock().unwrap() = None;
            planes.reloader.reload(Cause::Files).unwrap();
            assert_eq!((planes.names_blocked(), planes.addresses_blocked()), (EVEN, EVEN));
            planes.write(&policy(true, round));
            planes.reloader.reload(Cause::Files).unwrap();
            assert_eq!((planes.names_blocked(), planes.addresses_blocked()), (ODD, ODD));
        }
        let mut acts = HashMap::<String, usize>::new();
        for event in planes.events() {
            *acts.entry(event["act"].as_str().unwrap().to_owned()).or_default() += 1;
        }
        assert_eq!((acts["policy.refused"], acts["policy.applied"]), (steps.len(), 2 * steps.len()));
    })
    .unwrap();
}

/// Lookups of each kind that must have been made: a million in all.
const LOOKUPS_EACH: u64 = 500_000;
const SWAPS: usize = 300;
/// No swap begins before so many lookups were made since the one before, in each plane.
const LOOKUPS_A_SWAP: u64 = 500;

/// Lookups that each swap waits for once the policy is staged, in each plane: they are running when the switch comes.
const LOOKUPS_STAGED: u64 = 50;

/// Lookups of names and of packets, so far.
#[derive(Clone, Default)]
struct Lookups(Arc<[AtomicU64; 2]>);

impl Lookups {
    fn add(&self, plane: usize, count: u64) {
        self.0[plane].fetch_add(count, Relaxed);
    }

    fn now(&self) -> [u64; 2] {
        [0, 1].map(|plane: usize| self.0[plane].load(Relaxed))
    }

    /// Waits until so many more were made in each plane.
    fn wait_for(&self, more: u64) {
        let before = self.now();
        while self.least_since(before) < more {
            std::thread::yield_now();
        }
    }

    /// How many were made since, in the plane that made fewer.
    fn least_since(&self, before: [u64; 2]) -> u64 {
        let now = self.now();
        (now[0] - before[0]).min(now[1] - before[1])
    }
}

fn a_million_lookups_during_three_hundred_swaps_are_all_right() {
    let lab = Lab::new().unwrap();
    let gaps_ns = lab
        .inside(Side::Gateway, || {
            let mut planes = Planes::start();
            let (stop, wrong) = (AtomicBool::new(false), AtomicU64::new(0));
            // How many there were when the policy was staged, and just before the switch.
            let (lookups, marks) = (Lookups::default(), Arc::new(Mutex::new([[0; 2]; 2])));
            let (looking, marked) = (lookups.clone(), marks.clone());
            planes.reloader = planes.reloader.with_checkpoint(Box::new(move |step| {
                if step == Step::Staged {
                    let staged = looking.now();
                    looking.wait_for(LOOKUPS_STAGED);
                    *marked.lock().unwrap() = [staged, looking.now()];
                }
                Ok(())
            }));
            let across = std::thread::scope(|scope| {
                scope.spawn(|| {
                    let asked = Names::new();
                    while !stop.load(Relaxed) {
                        wrong.fetch_add(u64::from(!asked.are_right(&planes.filter)), Relaxed);
                        lookups.add(0, 4);
                    }
                });
                scope.spawn(|| {
                    let frames = [[198, 51, 100, 7], [203, 0, 113, 9]].map(frame);
                    while !stop.load(Relaxed) {
                        let verdicts = [0, 1].map(|which: usize| dropped(&planes.prober, &frames[which]));
                        wrong.fetch_add(u64::from(verdicts != [true, false]), Relaxed);
                        lookups.add(1, 2);
                    }
                });
                let _stop = StopAtEnd(&stop);
                let mut across = 0;
                for round in 0..SWAPS {
                    planes.write(&policy(round % 2 == 1, round));
                    let applied = planes.reloader.reload(Cause::Files).unwrap();
                    let [staged, switching] = *marks.lock().unwrap();
                    assert!(lookups.least_since(staged) >= LOOKUPS_STAGED);
                    across += usize::from(lookups.least_since(switching) > 0);
                    assert_ne!(applied.from, applied.to);
                    lookups.wait_for(LOOKUPS_A_SWAP);
                    let expect = if round % 2 == 1 { ODD } else { EVEN };
                    assert_eq!((planes.names_blocked(), planes.addresses_blocked()), (expect, expect));
                }
                while lookups.least_since([0, 0]) < LOOKUPS_EACH {
                    std::thread::yield_now();
                }
                across
            });
            assert_eq!(wrong.load(Relaxed), 0, "of {:?} lookups of names and packets", lookups.now());
            // The switch itself takes microseconds, in which a busy machine may not let the other threads run.
            assert!(
                across > SWAPS / 2,
                "{across} swaps had lookups in both planes between the switch and their end"
            );
            let applied = planes.events().into_iter().filter(|event| event["act"] == "policy.applied");
            applied.map(|event| event["detail"]["gap_ns"].as_u64().unwrap()).collect::<Vec<_>>()
        })
        .unwrap();
    assert_eq!(gaps_ns.len(), SWAPS);
    let mut sorted = gaps_ns;
    sorted.sort_unstable();
    let (median, p99) = (sorted[SWAPS / 2], sorted[SWAPS * 99 / 100]);
    println!("between the two switches: median {median} ns, 99th percentile {p99} ns");
}

/// Stops the other threads of a scope at its end, also at a failed assertion: the scope waits for them.
struct StopAtEnd<'s>(&'s AtomicBool);

impl Drop for StopAtEnd<'_> {
    fn drop(&mut self) {
        self.0.store(true, Relaxed);
    }
}

/// The names that are asked without pause.
struct Names {
    always: DomainName,
    never: DomainName,
    odd: DomainName,
    even: DomainName,
}

impl Names {
    fn new() -> Self {
        let [always, never, odd, even] =
            ["a.always.test", "a.never.test", "a.odd.test", "a.even.test"].map(|name| name.parse().unwrap());
        Self { always, never, odd, even }
    }

    /// Whether all four are judged as one of the two policies says, each by the policy it was judged under.
    fn are_right(&self, filter: &Filter) -> bool {
        let blocked = |name: &DomainName| {
            let judgement = filter.judge(name.as_name(), CLIENT);
            let blocked = judgement.decided().is_some_and(|(_, verdict)| verdict == Verdict::Block);
            (blocked, judgement.policy().decide_name(self.odd.as_name()).is_some())
        };
        let (odd, even) = (blocked(&self.odd), blocked(&self.even));
        blocked(&self.always).0 && !blocked(&self.never).0 && odd.0 == odd.1 && even.0 != even.1
    }
}
