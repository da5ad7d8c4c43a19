//! A report that can be handed out, in a folder: what it says, the events that it is of, and the proof of both.
//!
//! The report's own files are named with their SHA-256 in an event of the record, which is sealed at once: `report.proof` proves
//! that event, and so who made the report of what, and when. `events.pack` has the events of the period.

use std::fs::{self, File};
use std::io::{self, BufWriter, ErrorKind};
use std::path::Path;

use anyhow::Context;
use interdict_audit::{Entry, Findings as Report, Proven, Range, Trust, export, prove, verify_file};
use jiff::tz::TimeZone;
use serde_json::{Map, Value, json};

use super::{Beside, csv, for_people, page, shown};
use crate::audit::{sha256_of, uid, with_record};
use crate::cli::ReportArgs;
use crate::control::{self, Request};

/// The event that names a report's files.
const MADE: &str = "report.made";
const PROOF: &str = "report.proof";
const EVENTS: &str = "events.pack";
const SUMS: &str = "SHA256SUMS";
/// The record's public keys, for who was told of none.
const KEYS: &str = "log.pub";

/// The event that a report was made, for a process of the user `uid`.
pub(crate) fn made(mut detail: Value, uid: u32) -> Entry {
    detail["by"] = format!("uid {uid}").into();
    Entry::admin(MADE, detail, None)
}

/// Writes a folder, which must not be there yet, or leaves none.
pub(super) fn write(
    folder: &Path,
    args: &ReportArgs,
    data: &Path,
    report: &Report,
    beside: &Beside,
) -> anyhow::Result<()> {
    fs::create_dir(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let written = fill(folder, args, data, report, beside);
    if written.is_err() {
        let _ = fs::remove_dir_all(folder);
    }
    written
}

fn fill(
    folder: &Path,
    args: &ReportArgs,
    data: &Path,
    report: &Report,
    beside: &Beside,
) -> anyhow::Result<()> {
    let cannot = || format!("cannot write {}", folder.display());
    let texts = [
        ("report.html", page::page(report, beside)),
        ("report.json", format!("{}\n", shown(report, beside)?)),
        ("report.csv", csv(report)),
        ("report.txt", format!("{}\n", for_people(report, beside))),
    ];
    for (name, text) in &texts {
        fs::write(folder.join(name), text).with_context(cannot)?;
    }
    let mut names = texts.map(|(name, _)| name).to_vec();
    // Without an agent the last one sealed the record when it ended, as far as it could.
    if args.data.is_none() {
        control::ask(&args.control.socket(), &Request::Seal)?;
    }
    if events(folder, data, report)? {
        names.push(EVENTS);
    }
    let mut files = Map::new();
    for name in names {
        files.insert(name.to_owned(), sha256_of(&folder.join(name)).with_context(cannot)?.into());
    }
    fs::write(folder.join(SUMS), sums(&files)).with_context(cannot)?;
    let question = &report.question;
    let detail = json!({
        "from": question.from, "to": question.to, "unit": question.unit, "quiet_days": question.quiet_days,
        "headline": question.headline, "files": files,
    });
    let event = match &args.data {
        None => {
            let answer = control::ask(&args.control.socket(), &Request::Reported { detail })?;
            answer["event"].as_u64().context("the agent does not say which event it is")?
        }
        Some(_) => with_record(data, |log| Ok(log.write_sealed(made(detail, uid()))?))?,
    };
    fs::write(folder.join(PROOF), prove(data, event)?).with_context(cannot)?;
    fs::copy(data.join("keys").join(KEYS), folder.join(KEYS)).with_context(cannot)?;
    Ok(())
}

/// Writes the events of the period; with those that tell of imported history, which were put on record later. Whether there are any.
fn events(folder: &Path, data: &Path, report: &Report) -> anyhow::Result<bool> {
    let cannot = || format!("cannot write {}", folder.display());
    let midnight = |day: jiff::civil::Date| day.to_zoned(TimeZone::UTC).map(|time| time.timestamp());
    let to = if report.imported.is_empty() { Some(midnight(report.question.to)?) } else { None };
    let range = Range { from: Some(midnight(report.question.from)?), to };
    let path = folder.join(EVENTS);
    let mut events = BufWriter::new(File::create(&path).with_context(cannot)?);
    match export(data, range, &mut events) {
        Ok(_) => {
            events.into_inner().map_err(io::IntoInnerError::into_error)?.sync_all().with_context(cannot)?;
            Ok(true)
        }
        // Of a period of which nothing is on record there is nothing to hand out.
        Err(error) if error.kind() == io::ErrorKind::InvalidData => {
            fs::remove_file(path).with_context(cannot)?;
            Ok(false)
        }
        Err(error) => Err(error).with_context(cannot),
    }
}

/// What `sha256sum -c` reads.
fn sums(files: &Map<String, Value>) -> String {
    files.iter().map(|(name, sha256)| format!("{}  {name}\n", sha256.as_str().unwrap_or_default())).collect()
}

/// Whether a folder is one that was handed out.
pub(crate) fn is_one(folder: &Path) -> bool {
    folder.join(PROOF).is_file()
}

/// Verifies a folder: the proof, the files that it names, and the events. What was found of both, and what is wrong with the files.
///
/// # Errors
/// When something in it cannot be read.
pub(crate) fn verify(folder: &Path, trust: &Trust) -> anyhow::Result<(Vec<Proven>, Vec<String>)> {
    let mut present = Vec::new();
    for entry in fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))? {
        let entry = entry?;
        present.push((entry.file_name().to_string_lossy().into_owned(), entry.file_type()?.is_file()));
    }
    present.sort();
    let is_file = |name: &str| present.iter().any(|(other, is_file)| other == name && *is_file);
    let mut wrong = Vec::new();
    // What is not whole is wrong, like all that is not what was made.
    let mut at = |name: &str, trust: &Trust| match verify_file(&folder.join(name), trust) {
        Err(error) if error.kind() == ErrorKind::InvalidData => {
            wrong.push(format!("{name}: {error}"));
            Ok(None)
        }
        proven => proven.map(Some).with_context(|| format!("cannot verify {}", folder.join(name).display())),
    };
    let mut proven = Vec::new();
    // The events bring their keys with them, and the proof is signed by the newest of those; of none the one that lies beside it is
    // believed, if none is named.
    let mut key = trust.key.clone();
    if is_file(EVENTS) {
        if let Some(pack) = at(EVENTS, trust)? {
            key = pack.report.keys.last().cloned().or(key);
            proven.push(pack);
        }
    } else if key.is_none() && is_file(KEYS) {
        let keys = fs::read_to_string(folder.join(KEYS)).context("cannot read the key beside the report")?;
        key = keys.lines().next_back().map(str::to_owned);
    }
    let Some(proof) = at(PROOF, &Trust { key, ..trust.clone() })? else { return Ok((proven, wrong)) };
    let event = proof.event.clone().unwrap_or_default();
    proven.push(proof);
    if event["act"] != MADE {
        wrong.push(format!("{PROOF}: it proves an event that made no report"));
    }
    let named = event["detail"]["files"].as_object().cloned().unwrap_or_default();
    for (name, sha256) in &named {
        match is_file(name) {
            true if *sha256 == sha256_of(&folder.join(name))? => {}
            true => wrong.push(format!("{name}: it is not what was made")),
            false => wrong.push(format!("{name}: it is missing")),
        }
    }
    if is_file(SUMS) && fs::read(folder.join(SUMS))? != sums(&named).as_bytes() {
        wrong.push(format!("{SUMS}: it is not what was made"));
    }
    let others = present.iter().filter(|(name, is_file)| {
        !(*is_file && (named.contains_key(name) || [PROOF, SUMS, KEYS].contains(&name.as_str())))
    });
    wrong.extend(others.map(|(name, _)| format!("{name}: it is no part of the report")));
    Ok((proven, wrong))
}
