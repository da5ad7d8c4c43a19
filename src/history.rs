//! The past, from the data folder: the policies that were in force, and the events on record.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;

use anyhow::{Context, bail};
use interdict_audit::{Start, Tail};
use interdict_policy::Policy;
use jiff::Timestamp;
use serde_json::Value;

use crate::store::Store;

/// The policy that was in force at a time, from the record and the policies kept beside it.
///
/// # Errors
/// When no agent ran then, or its policy is not kept.
pub(crate) fn policy_at(data: &Path, at: Timestamp) -> anyhow::Result<Policy> {
    let mut digest = None;
    let mut tail =
        Tail::open(data, Start::Beginning).with_context(|| format!("no record in {}", data.display()))?;
    'record: loop {
        let lines = tail.next_lines()?;
        if lines.is_empty() {
            break;
        }
        for event in lines.iter().filter_map(|line| serde_json::from_str::<Value>(line).ok()) {
            if event["plane"] != "admin" {
                continue;
            }
            if event["time"]
                .as_str()
                .and_then(|time| time.parse::<Timestamp>().ok())
                .is_some_and(|time| time > at)
            {
                break 'record;
            }
            match event["act"].as_str() {
                Some("agent.stopped") => digest = None,
                Some("agent.started" | "policy.applied") => {
                    digest = event["digest"].as_str().map(str::to_owned)
                }
                _ => {}
            }
        }
    }
    let digest =
        digest.with_context(|| format!("by the record in {}, no agent ran at {at}", data.display()))?;
    Store::open(data)?.kept(&digest).with_context(|| {
        format!("the policy of {at}, {digest}, is not kept whole in {}", data.join("policies").display())
    })
}

/// A time as people write it: RFC 3339, or a day, which is its beginning in UTC.
///
/// # Errors
/// When it is neither.
pub(crate) fn time(text: &str) -> anyhow::Result<Timestamp> {
    let day = || text.parse::<jiff::civil::Date>().ok()?.to_zoned(jiff::tz::TimeZone::UTC).ok();
    text.parse().ok().or_else(|| Some(day()?.timestamp())).with_context(|| {
        format!(
            "\"{}\" is no time; write 2026-11-24T03:00:00Z, or a day such as 2026-11-24",
            text.escape_debug()
        )
    })
}

/// Hands every event to `each`: of a file of JSON lines, of a data folder, or of standard input for `-`. Returns how
/// many lines were no events.
///
/// # Errors
/// When it cannot be read.
pub(crate) fn each_event(from: &Path, mut each: impl FnMut(&Value)) -> anyhow::Result<u64> {
    let mut strange = 0;
    let mut line = |text: &str| match serde_json::from_str::<Value>(text) {
        Ok(event) if event.is_object() => each(&event),
        _ if text.trim().is_empty() => {}
        _ => strange += 1,
    };
    let cannot = || format!("cannot read {}", from.display());
    if from.is_dir() {
        let data = if from.join("log").is_dir() { from } else { bail!("{} holds no log/", from.display()) };
        let mut tail = Tail::open(data, Start::Beginning).with_context(cannot)?;
        loop {
            match tail.next_lines().with_context(cannot)? {
                lines if lines.is_empty() => break,
                lines => lines.iter().for_each(|text| line(text)),
            }
        }
    } else {
        let reader: Box<dyn BufRead> = match from.as_os_str() == "-" {
            true => Box::new(std::io::stdin().lock()),
            false => Box::new(BufReader::new(File::open(from).with_context(cannot)?)),
        };
        for text in reader.lines() {
            line(&text.with_context(cannot)?);
        }
    }
    Ok(strange)
}
