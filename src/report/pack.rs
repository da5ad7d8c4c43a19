//! A report that can be handed out, in a folder: what it says, the events that it is of, and the proof of both.
//!
//! The report's own files are named with their SHA-256 in an event of the record, which is sealed at once: `report.proof` proves
//! that event, and so who made the report of what, and when. `events.pack` has the events of the period.

use std::fs::{self, File};
use std::io::{self, BufWriter};
use std::path::Path;

use anyhow::{Context, bail};
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

/// The event that a report was made, for a process of the user `uid`.
pub(crate) fn made(mut detail: Value, uid: u32) -> Entry {
    detail["by"] = format!("uid {uid}").into();
    Entry::admin(MADE, detail, None)
}

/// Writes a folder, which must not be there yet.
pub(super) fn write(
    folder: &Path,
    args: &ReportArgs,
    data: &Path,
    report: &Report,
    beside: &Beside,
) -> anyhow::Result<()> {
    let cannot = || format!("cannot write {}", folder.display());
    fs::create_dir(folder).with_context(cannot)?;
    let texts = [
        ("report.html", page::page(report, beside)),
        ("report.json", format!("{}\n", shown(report, beside)?)),
        ("report.csv", csv(report)),
        ("report.txt", format!("{}\n", for_people(report, beside))),
    ];
    let (mut files, mut sums) = (Map::new(), String::new());
    for (name, text) in texts {
        let path = folder.join(name);
        fs::write(&path, text).with_context(cannot)?;
        let sha256 = sha256_of(&path).with_context(cannot)?;
        sums += &format!("{sha256}  {name}\n");
        files.insert(name.to_owned(), sha256.into());
    }
    fs::write(folder.join("SHA256SUMS"), sums).with_context(cannot)?;
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
    let midnight = |day: jiff::civil::Date| day.to_zoned(TimeZone::UTC).map(|time| time.timestamp());
    let range = Range { from: Some(midnight(question.from)?), to: Some(midnight(question.to)?) };
    let mut events = BufWriter::new(File::create(folder.join(EVENTS)).with_context(cannot)?);
    match export(data, range, &mut events) {
        Ok(_) => events.into_inner().map_err(io::IntoInnerError::into_error)?.sync_all().with_context(cannot),
        // Of a period of which nothing is on record there is nothing to hand out.
        Err(error) if error.kind() == io::ErrorKind::InvalidData => {
            Ok(fs::remove_file(folder.join(EVENTS)).with_context(cannot)?)
        }
        Err(error) => Err(error).with_context(cannot),
    }
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
    let at = |name: &str, trust: &Trust| {
        let path = folder.join(name);
        verify_file(&path, trust).with_context(|| format!("cannot verify {}", path.display()))
    };
    let mut proven = Vec::new();
    // The events bring their keys with them, and the proof is signed by the newest of those.
    let mut key = trust.key.clone();
    if folder.join(EVENTS).is_file() {
        let pack = at(EVENTS, trust)?;
        key = pack.report.keys.last().cloned().or(key);
        proven.push(pack);
    }
    let proof = at(PROOF, &Trust { key, ..trust.clone() })?;
    let event = proof.event.clone().unwrap_or_default();
    proven.push(proof);
    let mut wrong = Vec::new();
    if event["act"] != MADE {
        wrong.push(format!("{PROOF}: it proves an event that made no report"));
    }
    let named = event["detail"]["files"].as_object().cloned().unwrap_or_default();
    for (name, sha256) in &named {
        // A name is never a path: whoever wrote the event may have meant another file.
        if Path::new(name).file_name() != Some(name.as_ref()) {
            bail!("{PROOF} names \"{}\", which is no file of a report", name.escape_debug());
        }
        match sha256_of(&folder.join(name)) {
            Ok(found) if *sha256 == found => {}
            Ok(_) => wrong.push(format!("{name}: it is not what was made")),
            Err(error) => wrong.push(format!("{name}: {error}")),
        }
    }
    Ok((proven, wrong))
}
