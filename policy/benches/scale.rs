//! What a decision costs, and what a policy of a million names takes: `cargo bench -p interdict-policy`.
//!
//! Prints its figures and fails where one is over its limit. Names are random and nine in ten questions concern none of
//! them, as on a resolver. Memory is what the policy still holds after compiling, each allocation rounded up as the
//! system's allocator does, divided by the names.

use std::alloc::{GlobalAlloc, Layout, System};
use std::fmt::Write;
use std::hint::black_box;
use std::process::ExitCode;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use interdict_policy::{DomainName, Name, Policy, Source, compile};

fn main() -> ExitCode {
    // Without optimisation the figures say nothing: a short walk shows that all of it still runs.
    let names = if cfg!(debug_assertions) { 10_000 } else { 1_000_000 };
    let mut limits = Limits { passed: true };

    let small = compile(&[hundred_rules()]).expect("the small policy is in order").policy;
    limits.hold("decide_name, 100 rules, ns", nanos_per_decision(&small, &questions(100_000, &[])), 150.0);

    let listed = random_names(names);
    let source = million_names(&listed);
    let (before, _) = (HELD.load(Ordering::Relaxed), PEAK.swap(0, Ordering::Relaxed));
    let started = Instant::now();
    let large = compile(&[source]).expect("the large policy is in order").policy;
    let took = started.elapsed();
    let held = HELD.load(Ordering::Relaxed).saturating_sub(before);
    let per_name = |bytes: usize| bytes as f64 / names as f64;
    limits.hold("compile a million names, s", took.as_secs_f64(), 2.0);
    limits.hold("memory of a name, bytes", per_name(held), 200.0);
    println!("{:>32}: {:8.1}", "at most while compiling, bytes", per_name(PEAK.load(Ordering::Relaxed)));

    let asked = questions(names, &listed);
    limits.hold("decide_name, a million names, ns", nanos_per_decision(&large, &asked), 500.0);

    if limits.passed || cfg!(debug_assertions) { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

struct Limits {
    passed: bool,
}

impl Limits {
    fn hold(&mut self, what: &str, found: f64, limit: f64) {
        let fine = found < limit;
        println!("{what:>32}: {found:8.1}  (limit {limit}){}", if fine { "" } else { "  OVER" });
        self.passed &= fine;
    }
}

/// The middle of seven runs over all questions.
fn nanos_per_decision(policy: &Policy, questions: &[DomainName]) -> f64 {
    let mut runs: Vec<f64> = (0..7)
        .map(|_| {
            let started = Instant::now();
            let mut found = 0;
            for name in questions {
                // As from the wire: the name is already checked and lower-case.
                let name: Name<'_> = black_box(name.as_name());
                found += usize::from(policy.decide_name(name).is_some());
            }
            assert!(black_box(found) > 0, "some questions concern a rule");
            started.elapsed().as_secs_f64() * 1e9 / questions.len() as f64
        })
        .collect();
    runs.sort_by(f64::total_cmp);
    runs[runs.len() / 2]
}

/// A hundred rules as a pack has them: hosts, domains, a glob and now and then a pattern each.
fn hundred_rules() -> Source {
    let mut text = "format = 1\n".to_owned();
    for i in 0..100 {
        write!(
            text,
            "[[rule]]\nid = \"r{i}\"\nrole = \"x\"\naction = \"block\"\n\
             hosts = [\"a{i}.hosts.example\", \"b{i}.hosts.example\"]\n\
             domains = [\"d{i}.example\", \"vendor{i}.com\"]\nglobs = [\"g{i}-*.globs.example\"]\n"
        )
        .expect("writing to a String does not fail");
        if i % 10 == 0 {
            writeln!(text, "patterns = [{{ under = \"p{i}.example\", match = '^s[0-9]+\\.geo$' }}]")
                .expect("writing to a String does not fail");
        }
    }
    Source { name: "hundred.toml".into(), text }
}

/// Ten rules of many domains each, one a line.
fn million_names(names: &[String]) -> Source {
    let mut text = "format = 1\n".to_owned();
    for (i, names) in names.chunks(names.len().div_ceil(10)).enumerate() {
        let key = if i % 2 == 0 { "domains" } else { "hosts" };
        write!(text, "[[rule]]\nid = \"r{i}\"\nrole = \"x\"\naction = \"block\"\n{key} = [\n")
            .expect("writing to a String does not fail");
        names.iter().for_each(|name| {
            writeln!(text, "\"{name}\",").expect("writing to a String does not fail");
        });
        text.push_str("]\n");
    }
    Source { name: "million.toml".into(), text }
}

/// Names of two to four labels under a few top-level domains, no two alike.
fn random_names(count: usize) -> Vec<String> {
    let chance = &mut Chance(1);
    (0..count).map(|i| format!("{}{i:x}.{}", prefix(chance), TOP[chance.below(TOP.len())])).collect()
}

/// Nine random names to one that is listed or below one that is.
fn questions(count: usize, listed: &[String]) -> Vec<DomainName> {
    let chance = &mut Chance(2);
    let questions = (0..count).map(|i| match i % 10 {
        0 if listed.is_empty() => format!("www.vendor{}.com", i % 100),
        0 => format!("www.{}", listed[chance.below(listed.len())]),
        _ => format!("{}-{i:x}.{}", prefix(chance), TOP[chance.below(TOP.len())]),
    });
    questions.map(|name| name.parse().expect("generated names are names")).collect()
}

const TOP: [&str; 6] = ["com", "net", "org", "example", "co.uk", "cloudfront.net"];

fn prefix(chance: &mut Chance) -> String {
    let label = |chance: &mut Chance| -> String {
        (0..3 + chance.below(8)).map(|_| char::from(b'a' + chance.below(26) as u8)).collect()
    };
    match chance.below(3) {
        0 => format!("{}.{}", label(chance), label(chance)),
        _ => label(chance),
    }
}

/// The same names in every run.
struct Chance(u64);

impl Chance {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % n
    }
}

/// The system's allocator, counted.
struct Counted;

#[global_allocator]
static COUNTED: Counted = Counted;
static HELD: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

/// What an allocation takes in glibc: eight bytes more, in steps of sixteen, at least 32.
fn taken(layout: Layout) -> usize {
    (layout.size() + 8).next_multiple_of(16).max(32)
}

// SAFETY: every call goes to the system's allocator as it came.
unsafe impl GlobalAlloc for Counted {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let held = HELD.fetch_add(taken(layout), Ordering::Relaxed) + taken(layout);
        PEAK.fetch_max(held, Ordering::Relaxed);
        // SAFETY: the caller keeps the contract of `alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        HELD.fetch_sub(taken(layout), Ordering::Relaxed);
        // SAFETY: the caller keeps the contract of `dealloc`, and the block came from the system's allocator.
        unsafe { System.dealloc(block, layout) }
    }
}
