//! Writes a record under load, and tells what that took: `load FOLDER EVENTS RATE` (events a second; 0 for as many as go).
//!
//! One JSON object on standard output: `written`, `lost`, `sealed_secs` (until all were written), `secs` (and in the index), `cpu_secs` (of this
//! process, handing in included), `bytes` (of the folder, once old segments are compressed), `verify_secs`, and `verified`.

use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::time::{Duration, Instant};

use interdict_audit::{Asked, Entry, Indexer, Record, Trust, verify};
use interdict_policy::{Digest, Policy, Source, Verdict, compile};

const NAMES: [&str; 6] = ["s07.upd", "dnl-03.geo", "ksn-url-geo", "activation-v2", "ds", "touch"];

/// The events are those of many clients that ask for a vendor's names.
fn event(number: u64, policy: &Policy) -> Entry {
    let mixed = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 20;
    let name = format!("{}.vendor.example", NAMES[(mixed % 6) as usize]);
    let rtype = if mixed & 64 == 0 { "A" } else { "AAAA" };
    let asked = Asked::Name { name, rtype: rtype.to_owned(), via: None, resolver: None };
    let client = IpAddr::from(Ipv4Addr::from(0x0a01_0000 + (mixed >> 8) as u32 % 5000));
    let rule = ["vendor-update", "vendor-ksn", "vendor-activation"][(mixed % 3) as usize];
    let (rule, role) = (rule, rule.trim_start_matches("vendor-"));
    Entry::dns("udp", client, asked, Verdict::Block, rule, role, Digest([0x5a; 32]))
        .of_unit(policy.unit(client))
}

fn bytes_in(folder: &Path) -> std::io::Result<u64> {
    let mut bytes = 0;
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        bytes += if entry.file_type()?.is_dir() { bytes_in(&entry.path())? } else { entry.metadata()?.len() };
    }
    Ok(bytes)
}

fn cpu_secs() -> f64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [folder, events, rate] = &words[..] else { return Err("load FOLDER EVENTS RATE".into()) };
    let (folder, events, rate): (&Path, u64, u64) = (folder.as_ref(), events.parse()?, rate.parse()?);
    let (log, writer) = Record::open(folder, "load")?.start()?;
    let indexer = Indexer::start(folder)?;
    let text = "format = 1\n[[rule]]\nid = \"v\"\nrole = \"x\"\naction = \"block\"\nhosts = [\"v.example\"]\n[[unit]]\nid = \"hq\"\ntitle = \"HQ\"\nnetworks = [\"10.0.0.0/8\"]\n";
    let policy = compile(&[Source { name: "p.toml".into(), text: text.into() }])
        .map_err(|problems| problems.to_string())?
        .policy;
    let (start, cpu) = (Instant::now(), cpu_secs());
    for number in 0..events {
        if rate == 0 {
            // As fast as it is written, so that nothing is lost.
            while log.counters().queued > 32_768 {
                std::thread::sleep(Duration::from_micros(200));
            }
        } else if number % 256 == 0 {
            let due = Duration::from_secs_f64(number as f64 / rate as f64);
            std::thread::sleep(due.saturating_sub(start.elapsed()));
        }
        log.record(event(number, &policy));
    }
    let handed_in = start.elapsed().as_secs_f64();
    while log.counters().queued > 0 {
        std::thread::sleep(Duration::from_millis(1));
    }
    let end = log.counters().written;
    let sealed_secs = start.elapsed().as_secs_f64();
    while indexer.handle().end() < end {
        std::thread::sleep(Duration::from_millis(5));
    }
    let (secs, cpu) = (start.elapsed().as_secs_f64(), cpu_secs() - cpu);
    // Segments are compressed behind.
    let plain = || {
        std::fs::read_dir(folder.join("log")).map(|entries| {
            entries
                .flatten()
                .filter(|entry| entry.path().extension().is_some_and(|kind| kind == "jsonl"))
                .count()
        })
    };
    while plain()? > 1 {
        std::thread::sleep(Duration::from_millis(20));
    }
    let counters = log.counters();
    writer.close();
    indexer.stop();
    let bytes = bytes_in(folder)?;
    let start = Instant::now();
    let report = verify(folder, &Trust::default())?;
    let verify_secs = start.elapsed().as_secs_f64();
    println!(
        "{}",
        serde_json::json!({
            "written": counters.written, "lost": counters.lost, "handed_in_secs": handed_in, "sealed_secs": sealed_secs, "secs": secs, "cpu_secs": cpu,
            "bytes": bytes, "verify_secs": verify_secs, "verified": report.is_verified(),
        })
    );
    Ok(())
}
