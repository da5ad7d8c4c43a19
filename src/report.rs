//! `interdict report`: who still contacts the vendor, who stopped, and who may have.

mod pack;
mod page;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::AtomicBool;

use anyhow::{Context, bail};
use interdict_audit::{
    Figures, Findings as Report, HEADLINE_ROLES, Imported, Index, Question, State, csv_cell,
    report as figures,
};
use interdict_policy::diff::{Change, Difference, differences};
use interdict_policy::{Policy, printable};
use jiff::ToSpan as _;
use jiff::civil::Date;
use jiff::tz::TimeZone;
use serde_json::Value;

use crate::audit::data_folder;
use crate::check::counted;
use crate::cli::{Outcome, ReportArgs};
use crate::out;
use crate::store::Store;

pub(crate) use pack::{is_one as is_handed_out, made, verify as verify_handed_out};

/// Days of the period, if none is named.
const DAYS: i64 = 30;
/// Who makes a PDF of a page, in this order.
const PRINTERS: [&str; 4] = ["chromium", "chromium-browser", "google-chrome", "weasyprint"];

/// What the last policy of the period says beside the figures.
#[derive(Default)]
struct Beside {
    /// Of units, by id.
    titles: BTreeMap<String, String>,
    /// Of instruments: id, title and the day from which each holds.
    instruments: Vec<(String, String, Date)>,
    /// Lines of the register: id, clients, rules, reason, who approved, and the end.
    exemptions: Vec<[String; 6]>,
    /// What each policy of the period changed in the one before it, in the order of the report.
    changes: Vec<Vec<String>>,
    /// How the report is made again.
    command: String,
}

/// Changes of a policy that are listed.
const CHANGES_LIMIT: usize = 40;

pub(crate) fn report(args: &ReportArgs) -> anyhow::Result<Outcome> {
    let data = data_folder(args.data.as_ref(), &args.control)?;
    let question = question(args)?;
    let index = index(&data, args.data.is_some())?;
    let report =
        figures(&data, &index, &question).with_context(|| format!("cannot report on {}", data.display()))?;
    // What follows may take as long as its reader does.
    drop(index);
    let store = Store::open(&data)?;
    let (changes, policy) = changes(report.policies.iter().map(|(_, digest)| store.kept(digest)));
    let beside = Beside { changes, ..beside(policy.as_ref(), &question) };
    if let Some(path) = &args.html {
        write(path, &page::page(&report, &beside))?;
    }
    if let Some(path) = &args.csv {
        write(path, &csv(&report))?;
    }
    if let Some(path) = &args.pdf {
        print(&page::page(&report, &beside), path)?;
    }
    if let Some(folder) = &args.pack {
        pack::write(folder, args, &data, &report, &beside)?;
    }
    let is_written = [&args.html, &args.csv, &args.pdf, &args.pack].iter().any(|path| path.is_some());
    if args.control.json {
        out::line(shown(&report, &beside)?)?;
    } else if !is_written {
        out::line(for_people(&report, &beside))?;
    }
    Ok(Outcome::Done)
}

/// The report as JSON.
fn shown(report: &Report, beside: &Beside) -> anyhow::Result<Value> {
    let mut shown = serde_json::to_value(report)?;
    shown["policy_changes"] = beside.changes.clone().into();
    Ok(shown)
}

fn question(args: &ReportArgs) -> anyhow::Result<Question> {
    let today = jiff::Timestamp::now().to_zoned(TimeZone::UTC).date();
    let to = args.to.unwrap_or(today);
    let from = args.from.unwrap_or_else(|| to.saturating_sub(DAYS.days()));
    if from >= to {
        bail!(
            "the period from {from} until before {to} has no day; write an earlier --from, or a later --to"
        );
    }
    let headline = match args.headline.as_slice() {
        [] => HEADLINE_ROLES.map(str::to_owned).to_vec(),
        roles => roles.to_vec(),
    };
    Ok(Question { from, to, quiet_days: args.quiet, unit: args.unit.clone(), headline })
}

/// The index of a data folder. Where no agent keeps it, it is brought up to date first.
fn index(data: &Path, is_at_rest: bool) -> anyhow::Result<Index> {
    let cannot =
        || format!("no index in {}; an agent makes it, or `interdict audit reindex`", data.display());
    if is_at_rest
        && let Ok(mut index) = Index::open(data)
        && index.catch_up(&AtomicBool::new(false)).is_ok()
    {
        return Ok(index);
    }
    Index::open_to_read(data).with_context(cannot)
}

fn beside(policy: Option<&Policy>, question: &Question) -> Beside {
    let mut command = format!(
        "interdict report --from {} --to {} --quiet {}",
        question.from, question.to, question.quiet_days
    );
    if let Some(unit) = &question.unit {
        let _ = write!(command, " --unit {unit}");
    }
    question.headline.iter().for_each(|role| _ = write!(command, " --headline {role}"));
    let Some(policy) = policy else { return Beside { command, ..Beside::default() } };
    let list = |items: Vec<String>| items.join(", ");
    Beside {
        titles: policy.units().iter().map(|unit| (unit.id.clone(), unit.title.clone())).collect(),
        instruments: policy
            .instruments()
            .iter()
            .filter_map(|instrument| {
                let title = format!("{} ({})", instrument.title, instrument.citation);
                Some((instrument.id.clone(), title, instrument.effective.to_string().parse().ok()?))
            })
            .collect(),
        exemptions: policy
            .exemptions()
            .iter()
            .map(|line| {
                let clients = list(line.clients.iter().map(|client| client.value.to_string()).collect());
                let rules = list(line.rules.iter().map(|rule| rule.value.to_string()).collect());
                [
                    line.id.to_string(),
                    clients,
                    rules,
                    line.reason.clone(),
                    line.approved_by.clone(),
                    line.expires.to_string(),
                ]
            })
            .collect(),
        command,
        ..Beside::default()
    }
}

/// What each policy changed in the one before it, and the last one. Two of them are held at a time: a year may have many.
fn changes(policies: impl Iterator<Item = Option<Policy>>) -> (Vec<Vec<String>>, Option<Policy>) {
    let (mut changes, mut before) = (Vec::new(), None);
    for policy in policies {
        changes.push(match &before {
            None => Vec::new(),
            Some(before) => difference(before, &policy),
        });
        before = Some(policy);
    }
    (changes, before.flatten())
}

/// What one policy changed in another, in lines.
fn difference(old: &Option<Policy>, new: &Option<Policy>) -> Vec<String> {
    let (Some(old), Some(new)) = (old, new) else {
        return vec!["not known: one of the two policies is not kept whole".to_owned()];
    };
    let differences = differences(old, new);
    let line = |difference: &Difference| {
        let Difference { entry, id, change, keys } = difference;
        let keys: Vec<&str> = keys.iter().map(|key| key.key.as_str()).filter(|key| *key != "id").collect();
        match change {
            Change::Added => format!("{entry} {id} is new"),
            Change::Removed => format!("{entry} {id} is gone"),
            Change::Changed => format!("{entry} {id}: {}", keys.join(", ")),
        }
    };
    let mut lines: Vec<String> = differences.iter().take(CHANGES_LIMIT).map(line).collect();
    if let more @ 1.. = differences.len().saturating_sub(CHANGES_LIMIT) {
        lines.push(format!("and {more} more"));
    }
    lines
}

fn write(path: &Path, text: &str) -> anyhow::Result<()> {
    fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}

/// Has a browser make a PDF of a page.
fn print(page: &str, path: &Path) -> anyhow::Result<()> {
    let folder = tempfile::TempDir::new()?;
    let source = folder.path().join("report.html");
    fs::write(&source, page)?;
    let places = std::env::var_os("PATH").unwrap_or_default();
    let tool = |name: &&str| {
        std::env::split_paths(&places).map(|folder| folder.join(name)).find(|file| file.is_file())
    };
    let Some(tool) = PRINTERS.iter().find_map(tool) else {
        bail!(
            "nobody here makes a PDF of a page; install chromium or weasyprint, or print the one of --html yourself"
        );
    };
    let mut command = Command::new(&tool);
    match tool.ends_with("weasyprint") {
        true => command.arg(&source).arg(path),
        false => command
            .args(["--headless", "--disable-gpu", "--no-pdf-header-footer"])
            // Its own sandbox wants a user that is not root; the page is ours, and has no script.
            .args(rustix::process::geteuid().is_root().then_some("--no-sandbox"))
            .arg(format!("--user-data-dir={}", folder.path().display()))
            .arg(format!("--print-to-pdf={}", absolute(path)?.display()))
            .arg(&source),
    };
    let output = command.output().with_context(|| format!("cannot run {}", tool.display()))?;
    if !output.status.success() || !path.exists() {
        bail!(
            "{} made no PDF: {}",
            tool.display(),
            printable(String::from_utf8_lossy(&output.stderr).trim())
        );
    }
    Ok(())
}

fn absolute(path: &Path) -> anyhow::Result<PathBuf> {
    Ok(std::path::absolute(path)?)
}

/// The figures, one a line: unit, figure, of what, value.
fn csv(report: &Report) -> String {
    let mut text = "unit,figure,of,value\n".to_owned();
    let all = std::iter::once(&report.total).chain(&report.units);
    for Figures { unit, clients, states, depths, roles, weeks, months, elimination, first_detection } in all {
        let unit = if unit.is_empty() { "all".to_owned() } else { csv_cell(unit) };
        let mut line = |figure: &str, of: &str, value: String| {
            _ = writeln!(text, "{unit},{figure},{},{value}", csv_cell(of))
        };
        line("clients", "", clients.to_string());
        states.iter().for_each(|(state, count)| line("state", state.as_str(), count.to_string()));
        let words = ["asked", "attempted", "connected", "received"];
        words.iter().zip(depths).for_each(|(depth, count)| line("furthest", depth, count.to_string()));
        for (role, figures) in roles {
            line("role clients", role, figures.clients.to_string());
            line("role contacts", role, figures.contacts.to_string());
            line("role blocked", role, figures.blocked.to_string());
        }
        weeks.iter().for_each(|(day, count)| line("clients in week", &day.to_string(), count.to_string()));
        months.iter().for_each(|(day, count)| line("clients in month", &day.to_string(), count.to_string()));
        if let Some(elimination) = elimination {
            line("stopped", "", elimination.stopped.to_string());
            let median = elimination.median_days.map_or(String::new(), |days| days.to_string());
            line("median days until stopped", "", median);
        }
        if let Some(clocks) = first_detection {
            line("first detection", "", clocks.day.to_string());
        }
    }
    let _ = writeln!(text, "all,coverage,,{:.6}", report.coverage.share);
    let _ = writeln!(text, "all,events lost,,{}", report.coverage.lost_events);
    let _ = writeln!(text, "all,clients that relays may hide,,{}", report.uncounted);
    for imported in &report.imported {
        let _ = writeln!(text, "all,imported contacts,{},{}", csv_cell(&imported.source), imported.contacts);
    }
    text
}

fn for_people(report: &Report, beside: &Beside) -> String {
    let mut text = String::new();
    let Report { question, total, coverage, .. } = report;
    let last = question.to.yesterday().unwrap_or(question.to);
    let _ = writeln!(
        text,
        "contact observed from {} to {last} (UTC), by the record of {}\n",
        question.from,
        printable(&report.origin)
    );
    let mut head = format!("{:24} {:>8}", "", "clients");
    State::ALL.iter().for_each(|state| _ = write!(head, " {:>10}", state.as_str()));
    let _ = writeln!(text, "{head}");
    for figures in std::iter::once(total).chain(&report.units) {
        let title = match figures.unit.as_str() {
            "" => "all",
            unit => beside.titles.get(unit).map_or(unit, String::as_str),
        };
        let _ = write!(text, "{:24} {:>8}", printable(title), figures.clients);
        for state in State::ALL {
            let _ = write!(text, " {:>10}", figures.states.get(&state).copied().unwrap_or(0));
        }
        text.push('\n');
    }
    let _ = writeln!(text, "\n{:24} {:>8} {:>10} {:>10}", "role", "clients", "contacts", "blocked");
    for (role, figures) in &total.roles {
        let note = if figures.headline { "" } else { "  informational" };
        let (clients, contacts, blocked) = (figures.clients, figures.contacts, figures.blocked);
        let _ = writeln!(text, "{:24} {clients:>8} {contacts:>10} {blocked:>10}{note}", printable(role));
    }
    if let Some(found) = &total.elimination {
        let days = |days: Option<i64>| days.map_or("not reached".to_owned(), |days| format!("{days} days"));
        let [low, high] = found.interval.map(days);
        let _ = writeln!(
            text,
            "\nof {} clients in contact {} stopped; half after {} (95 %: {low} to {high})",
            found.clients,
            found.stopped,
            days(found.median_days)
        );
    }
    for Imported { source, file, period: [first, last], contacts, .. } in &report.imported {
        let (source, file) = (printable(source), printable(file));
        let _ = writeln!(
            text,
            "\n{contacts} contacts from {first} to {last} are by the notes of {source} ({file})"
        );
    }
    if report.uncounted > 0 {
        let most = &report.relays[0];
        let _ = writeln!(
            text,
            "\n{} asking at least five times what the median asks, {} the most ({:.1} times): as relays they may hide {} more",
            counted(report.relays.len(), "client"),
            most.client,
            most.times_the_median,
            report.uncounted
        );
    }
    let [passed, failed] = coverage.selftests;
    let _ = write!(
        text,
        "\n{:.2} % of the period is covered by checkpoints, with {} gaps; {} events lost; {passed} self-tests passed, {failed} did not",
        coverage.share * 100.0,
        coverage.gaps.len() as u64 + coverage.more_gaps,
        coverage.lost_events
    );
    text
}

#[cfg(test)]
mod tests;
