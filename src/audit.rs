//! `interdict audit`: the record as evidence.

mod import;
mod witness;

use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{self, BufWriter, Write as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::time::{Duration, SystemTime};

use anyhow::{Context, bail};
use interdict_audit::{
    Entry, Index, Log, Proven, Range, Record, Report, Signed, Trust, export, notes, prove, verify,
    verify_file,
};
use interdict_policy::{Privacy, printable};
use jiff::civil::Date;
use serde_json::{Value, json};

use crate::agent::node;
use crate::cli::{AuditVerb, ChangeArgs, ControlArgs, Outcome, PackArgs, ProveArgs, PruneArgs, VerifyArgs};
use crate::control::{self, Request};
use crate::history;
use crate::out;
use crate::report;

pub(crate) use import::{Part, put, sha256_of};

pub(crate) fn audit(verb: &AuditVerb) -> anyhow::Result<Outcome> {
    match verb {
        AuditVerb::Verify(args) => verify_record(args),
        AuditVerb::Prove(args) => prove_event(args),
        AuditVerb::Export(args) => export_pack(args),
        AuditVerb::Import(args) => import::import(args),
        AuditVerb::Offer(args) => witness::offer(args),
        AuditVerb::Witness(args) => witness::witness(args),
        AuditVerb::Prune(args) => prune(args),
        AuditVerb::Rekey(args) => rekey(args),
        AuditVerb::Reindex(args) => reindex(args),
    }
}

/// The data folder that was named, or else the running agent's.
///
/// # Errors
/// When none was named and no agent answers.
pub(crate) fn data_folder(named: Option<&PathBuf>, control: &ControlArgs) -> anyhow::Result<PathBuf> {
    if let Some(data) = named {
        return Ok(data.clone());
    }
    let status = control::ask(&control.socket(), &Request::Status)
        .context("whose record? name its folder with --data DIR")?;
    status["data"].as_str().map(PathBuf::from).context("the agent names no data folder")
}

/// Asks the running agent, whose record is meant where no folder is named.
fn ask_agent(control: &ControlArgs, request: &Request) -> anyhow::Result<Value> {
    // Whatever it refuses it says itself.
    control::ask(&control.socket(), &Request::Status)
        .context("whose record? name its folder with --data DIR")?;
    control::ask(&control.socket(), request)
}

fn verify_record(args: &VerifyArgs) -> anyhow::Result<Outcome> {
    let mut trust = Trust { key: args.key.clone(), witness: args.witness.clone(), ..Trust::default() };
    for path in &args.against {
        trust.checkpoints.extend(checkpoints(path)?);
    }
    if let Some(folder) = args.pack.as_ref().filter(|path| report::is_handed_out(path)) {
        return verify_handed_out(folder, &trust, args);
    }
    if let Some(folder) = args.pack.as_ref().filter(|path| path.is_dir()) {
        bail!("{} holds no report.proof, so it is no report that was handed out whole", folder.display());
    }
    let (report, event) = match &args.pack {
        Some(path) => {
            let proven =
                verify_file(path, &trust).with_context(|| format!("cannot verify {}", path.display()))?;
            let Proven { events: [first, last], event, report } = proven;
            if !args.control.json && report.is_verified() {
                out::line(format_args!("events   {first} to {last} of {}", report.sealed))?;
            }
            (report, event)
        }
        None => {
            let data = data_folder(args.data.as_ref(), &args.control)?;
            let report = verify(&data, &trust)
                .with_context(|| format!("cannot verify the record in {}", data.display()))?;
            (report, None)
        }
    };
    if args.control.json {
        let mut shown = serde_json::to_value(&report)?;
        shown["verified"] = report.is_verified().into();
        if event.is_some() {
            shown["event"] = event.unwrap_or_default();
        }
        out::line(shown)?;
    } else {
        if let Some(event) = event {
            out::line(printable(&event.to_string()))?;
        }
        out::line(for_people(&report, args.key.is_some()))?;
    }
    Ok(if report.is_verified() { Outcome::Done } else { Outcome::Finding })
}

fn verify_handed_out(folder: &Path, trust: &Trust, args: &VerifyArgs) -> anyhow::Result<Outcome> {
    let (proven, wrong) = report::verify_handed_out(folder, trust)?;
    let is_verified = wrong.is_empty() && proven.iter().all(|proven| proven.report.is_verified());
    let event = proven.iter().find_map(|proven| proven.event.clone()).unwrap_or_default();
    if args.control.json {
        let reports: Vec<&Report> = proven.iter().map(|proven| &proven.report).collect();
        let files = &event["detail"]["files"];
        out::line(json!({ "verified": is_verified, "files": files, "wrong": wrong, "reports": reports }))?;
    } else {
        if !event.is_null() {
            out::line(printable(&event.to_string()))?;
        }
        for Proven { events: [first, last], report, .. } in &proven {
            out::line(format_args!("events   {first} to {last} of {}", report.sealed))?;
            out::line(for_people(report, args.key.is_some()))?;
        }
        wrong.iter().try_for_each(|what| out::line(format_args!("WRONG    {}", printable(what))))?;
        out::line(if is_verified { "verified the report" } else { "NOT      verified: the report" })?;
    }
    Ok(if is_verified { Outcome::Done } else { Outcome::Finding })
}

/// The checkpoints in a file that was kept elsewhere, or of another copy of a record.
fn checkpoints(path: &Path) -> anyhow::Result<Vec<Signed>> {
    let cannot = || format!("cannot read checkpoints from {}", path.display());
    let files = match path.join("log/checkpoints") {
        folder if folder.is_dir() => {
            let entries = fs::read_dir(folder).with_context(cannot)?;
            let mut files: Vec<_> = entries.map(|entry| Ok(entry?.path())).collect::<io::Result<_>>()?;
            files.sort();
            files
        }
        _ => vec![path.to_owned()],
    };
    let mut checkpoints = Vec::new();
    for file in files {
        let text = fs::read_to_string(&file).with_context(cannot)?;
        let (found, rest) = notes(&text);
        for note in found {
            checkpoints
                .push(Signed::read(note).with_context(|| format!("{}: not a checkpoint", file.display()))?);
        }
        if !rest.trim().is_empty() {
            bail!("{}: a checkpoint in it is not whole", file.display());
        }
    }
    if checkpoints.is_empty() {
        bail!("{} holds no checkpoint", path.display());
    }
    Ok(checkpoints)
}

fn for_people(report: &Report, key_is_known: bool) -> String {
    let mut text = String::new();
    let mut line = |label: &str, what: &str| {
        let _ = writeln!(text, "{label:8} {}", printable(what));
    };
    line("record", report.origin.as_deref().unwrap_or("of nobody"));
    for (number, key) in report.keys.iter().enumerate() {
        let label = if number == 0 { "key" } else { "then" };
        line(label, key);
    }
    if !key_is_known && !report.keys.is_empty() {
        line(
            "",
            "(the key that lies beside it: compare it with what its owner told you, or name that with --key)",
        );
    }
    let unsealed = match report.events.saturating_sub(report.sealed) {
        0 => String::new(),
        events => format!(", {events} more to be signed with the next"),
    };
    let period = report.period.as_ref().map(|[from, to]| format!(" from {from} to {to}")).unwrap_or_default();
    line(
        "sealed",
        &format!("{} events by {} checkpoints{period}{unsealed}", report.sealed, report.checkpoints),
    );
    if let Some(root) = &report.root {
        line("root", root);
    }
    for [first, last] in &report.pruned {
        line("removed", &format!("events {first} to {last}, by order that is on record"));
    }
    for [first, last] in &report.late {
        let what = "signed only when an agent started again: whoever could write the files could write these";
        line("late", &format!("events {first} to {last}, {what}"));
    }
    for gap in &report.gaps {
        line("gap", &format!("{} to {}, {}", gap.from, gap.to, gap.why));
    }
    if report.lost > 0 {
        line("lost", &format!("{} events, as the record says itself", report.lost));
    }
    if report.clock_jumps > 0 {
        line("clock", &format!("set {} times", report.clock_jumps));
    }
    for finding in &report.findings {
        let place = match (finding.file.as_str(), finding.line) {
            ("", _) => String::new(),
            (file, None) => format!("{file}: "),
            (file, Some(line)) => format!("{file}:{line}: "),
        };
        line("WRONG", &format!("{place}{}", finding.what));
    }
    if report.more_findings > 0 {
        line("", &format!("and {} more", report.more_findings));
    }
    match report.is_verified() {
        true => line("verified", "every byte of what is signed"),
        false => line("NOT", "verified"),
    }
    text.truncate(text.trim_end().len());
    text
}

fn prove_event(args: &ProveArgs) -> anyhow::Result<Outcome> {
    let data = data_folder(args.data.as_ref(), &args.control)?;
    let number = number(&args.id)?;
    let proof = prove(&data, number).with_context(|| format!("cannot prove event {number}"))?;
    let Some(path) = &args.out else {
        write!(io::stdout().lock(), "{proof}")?;
        return Ok(Outcome::Done);
    };
    fs::write(path, proof).with_context(|| format!("cannot write {}", path.display()))?;
    Ok(Outcome::Done)
}

/// The number of an event, of which somebody wrote the id or the number.
///
/// # Errors
/// When it is neither.
pub(crate) fn number(id: &str) -> anyhow::Result<u64> {
    id.rsplit('-').next().and_then(|number| number.parse().ok()).with_context(|| {
        format!(
            "\"{}\" is no event; write its id as `tail --json` shows it, or its number",
            id.escape_debug()
        )
    })
}

fn export_pack(args: &PackArgs) -> anyhow::Result<Outcome> {
    let data = data_folder(args.data.as_ref(), &args.control)?;
    let time = |text: &Option<String>| text.as_deref().map(history::time).transpose();
    let range = Range { from: time(&args.from)?, to: time(&args.to)? };
    let cannot = || format!("cannot write a pack of the record in {}", data.display());
    let [first, last] = match &args.out {
        Some(path) => {
            let file = File::create_new(path).with_context(|| format!("cannot write {}", path.display()))?;
            let written = export(&data, range, &mut BufWriter::new(&file))
                .and_then(|numbers| file.sync_all().map(|()| numbers));
            if written.is_err() {
                let _ = fs::remove_file(path);
            }
            written.with_context(cannot)?
        }
        None => export(&data, range, &mut BufWriter::new(io::stdout().lock())).with_context(cannot)?,
    };
    out::say(format_args!("events {first} to {last}"))?;
    let noted = match &args.data {
        None => control::ask(&args.control.socket(), &Request::Exported { first, last }).map(|_| ()),
        Some(data) => with_record(data, |log| {
            log.record(exported([first, last], uid()));
            Ok(())
        }),
    };
    // The pack is written, whoever may write to the record.
    if let Err(error) = noted {
        out::say(format_args!("the record does not say that they were handed out: {error:#}"))?;
    }
    Ok(Outcome::Done)
}

/// That events were handed out.
pub(crate) fn exported([first, last]: [u64; 2], uid: u32) -> Entry {
    Entry::admin("events.exported", json!({ "first": first, "last": last, "by": format!("uid {uid}") }), None)
}

pub(crate) fn uid() -> u32 {
    rustix::process::geteuid().as_raw()
}

fn prune(args: &PruneArgs) -> anyhow::Result<Outcome> {
    let done = match &args.change.data {
        None => ask_agent(&args.change.control, &Request::Prune { before: args.before })?,
        Some(data) => {
            let retention = Retention::of(data)?;
            with_record(data, |log| retention.prune(log, args.before, &format!("uid {}", uid())))?
        }
    };
    match args.change.control.json {
        true => out::line(&done)?,
        false => out::line(format_args!("{} events removed", done["removed"]))?,
    }
    Ok(Outcome::Done)
}

fn rekey(args: &ChangeArgs) -> anyhow::Result<Outcome> {
    let done = match &args.data {
        None => ask_agent(&args.control, &Request::Rekey)?,
        Some(data) => with_record(data, |log| {
            let [old, new] = log.change_key()?;
            Ok(json!({ "old": old, "new": new }))
        })?,
    };
    match args.control.json {
        true => out::line(&done)?,
        false => {
            let key = |name: &str| done[name].as_str().map(printable).unwrap_or_default().into_owned();
            out::line(format_args!("signed so far by   {}\nsigned from now by {}", key("old"), key("new")))?;
        }
    }
    Ok(Outcome::Done)
}

fn reindex(args: &ChangeArgs) -> anyhow::Result<Outcome> {
    match &args.data {
        None => {
            ask_agent(&args.control, &Request::Reindex)?;
            out::say("the agent makes the index again")?;
        }
        Some(data) => with_record(data, |_| {
            Index::remove(data)?;
            let events = Index::open(data)?.catch_up(&AtomicBool::new(false))?;
            out::say(format_args!("{events} events are in the index"))?;
            Ok(())
        })?,
    }
    Ok(Outcome::Done)
}

/// Does something with a record to which no agent writes.
pub(crate) fn with_record<T>(data: &Path, act: impl FnOnce(&Log) -> anyhow::Result<T>) -> anyhow::Result<T> {
    if !data.join("log").is_dir() {
        bail!("no record in {}", data.display());
    }
    let record = Record::open(data, &node()).context("without --data the running agent is asked")?;
    let (log, writer) = record.with_privacy(privacy_of(data)?).start()?;
    let done = act(&log);
    writer.close();
    done
}

/// Where an agent leaves what the record says of clients that are of no unit, so that it holds without one too.
const PRIVACY: &str = "state/privacy";

/// Leaves what an agent was told.
///
/// # Errors
/// When it cannot be noted in the data folder.
pub(crate) fn keep_privacy(privacy: Privacy, data: &Path) -> anyhow::Result<()> {
    let path = data.join(PRIVACY);
    fs::write(&path, privacy.as_str()).with_context(|| format!("cannot write {}", path.display()))
}

/// What the last agent of a data folder was told.
fn privacy_of(data: &Path) -> anyhow::Result<Privacy> {
    let path = data.join(PRIVACY);
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Privacy::default()),
        Err(error) => return Err(error).with_context(|| format!("cannot read {}", path.display())),
    };
    let found = Privacy::WORDS.iter().find(|(word, _)| *word == text.trim());
    found.map(|(_, privacy)| *privacy).with_context(|| format!("{}: not a word of `privacy`", path.display()))
}

/// For how long events are retrievable, and in the index, unless the agent was told otherwise.
const RETRIEVABLE: Duration = Duration::from_secs(365 * 86_400);

/// How long events are retained.
#[derive(Clone, Debug)]
pub(crate) struct Retention {
    retain: Option<Duration>,
    /// Why nothing may be removed.
    hold: Option<String>,
}

/// Where an agent leaves why nothing may be removed, so that it holds without one too.
const HOLD: &str = "state/legal-hold";

impl Retention {
    /// As the agent was told.
    ///
    /// # Errors
    /// When it cannot be noted in the data folder.
    pub(crate) fn new(retain: Option<Duration>, hold: Option<String>, data: &Path) -> anyhow::Result<Self> {
        let path = data.join(HOLD);
        let noted = match &hold {
            Some(reason) => fs::create_dir_all(data.join("state")).and_then(|()| fs::write(&path, reason)),
            None => fs::remove_file(&path).or_else(|error| match error.kind() {
                io::ErrorKind::NotFound => Ok(()),
                _ => Err(error),
            }),
        };
        noted.with_context(|| format!("cannot write {}", path.display()))?;
        Ok(Self { retain, hold })
    }

    /// As the last agent of a data folder was told.
    fn of(data: &Path) -> anyhow::Result<Self> {
        match fs::read_to_string(data.join(HOLD)) {
            Ok(reason) => Ok(Self { retain: None, hold: Some(reason) }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Self { retain: None, hold: None }),
            Err(error) => Err(error).with_context(|| format!("cannot read {}", data.join(HOLD).display())),
        }
    }

    /// Why nothing may be removed, if that is so.
    pub(crate) fn hold(&self) -> Option<&str> {
        self.hold.as_deref()
    }

    /// Removes events of days before one, or what is not to be retained.
    ///
    /// # Errors
    /// When nothing may be removed, or the record says no.
    pub(crate) fn prune(&self, log: &Log, before: Option<Date>, by: &str) -> anyhow::Result<Value> {
        if let Some(reason) = &self.hold {
            bail!("a legal hold stands: {}", reason.escape_debug());
        }
        let before: SystemTime = match (before, self.retain) {
            (Some(day), _) => day.to_zoned(jiff::tz::TimeZone::UTC)?.timestamp().into(),
            (None, retain) => SystemTime::now() - retain.unwrap_or(RETRIEVABLE),
        };
        let removed = log.prune(before, by)?;
        Ok(json!({ "removed": removed }))
    }

    /// Removes what is not to be retained, if anything is, and may be.
    pub(crate) fn prune_old(&self, log: &Log) -> anyhow::Result<u64> {
        let Some(retain) = self.retain.filter(|_| self.hold.is_none()) else { return Ok(0) };
        if !interdict_audit::is_clock_synchronized() {
            bail!(
                "this machine's clock is not synchronized, so nobody knows what is old; `audit prune --before DAY` removes by hand"
            );
        }
        Ok(log.prune(SystemTime::now() - retain, "retention")?)
    }
}
