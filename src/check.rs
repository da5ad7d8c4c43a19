//! `interdict check`: reads, compiles, runs the policy's tests, prints every problem.

use std::collections::HashMap;
use std::io::Write;
use std::path::PathBuf;

use interdict_policy::lints::lints;
use interdict_policy::{FILE_LIMIT_BYTES, Problem, Problems, Severity, packs};
use serde_json::json;

use crate::cli::{ControlArgs, Outcome};
use crate::{control, files};

pub(crate) fn check(paths: &[PathBuf], profile: Option<&str>, args: &ControlArgs) -> anyhow::Result<Outcome> {
    let paths = if paths.is_empty() { running_paths(args) } else { paths.to_vec() };
    let (compiled, problems) = match files::compile_paths(&paths, profile) {
        Ok(compiled) => (Some(compiled), Problems::default()),
        Err(problems) => (None, problems),
    };
    let outcome = if compiled.is_some() { Outcome::Done } else { Outcome::Finding };
    let lints = compiled.as_ref().map(lints).unwrap_or_default();
    if args.json {
        let list = |problems: &Problems| problems.iter().map(shape).collect::<Vec<_>>();
        let mut notes = compiled.as_ref().map(|compiled| list(&compiled.notes)).unwrap_or_default();
        notes.extend(list(&lints));
        println!(
            "{}",
            json!({
                "ok": compiled.is_some(),
                "digest": compiled.as_ref().map(|compiled| compiled.policy.digest().to_string()),
                "rules": compiled.as_ref().map(|compiled| compiled.policy.rules().len()),
                "tests": compiled.as_ref().map(|compiled| compiled.tests),
                "errors": list(&problems),
                "error_count": problems.len(),
                "notes": notes,
            })
        );
        return Ok(outcome);
    }
    let Some(compiled) = compiled else {
        show(&problems, &mut std::io::stderr())?;
        let count = problems.len();
        eprintln!("{count} problem{} found; nothing is in force from these files", plural(count));
        return Ok(outcome);
    };
    let notes = [&compiled.notes, &lints];
    for notes in notes.into_iter().filter(|notes| !notes.is_empty()) {
        show(notes, &mut std::io::stdout())?;
    }
    println!(
        "in order: {} rules, {} tests passed, digest {}",
        compiled.policy.rules().len(),
        compiled.tests,
        compiled.policy.digest()
    );
    Ok(outcome)
}

pub(crate) fn shape(problem: &Problem) -> serde_json::Value {
    let (line, column) = problem.at.unzip();
    json!({
        "file": problem.file,
        "code": problem.code.as_str(),
        "line": line,
        "column": column,
        "message": problem.message,
        "help": problem.help,
    })
}

/// Prints each finding with the line that it is about, and a mark below the place.
fn show(problems: &Problems, out: &mut dyn Write) -> std::io::Result<()> {
    let mut texts: HashMap<&str, Option<String>> = HashMap::new();
    for problem in problems {
        let note = if problem.severity == Severity::Note { "note: " } else { "" };
        writeln!(out, "{note}{problem} [{}]", problem.code.as_str())?;
        let text = texts.entry(&problem.file).or_insert_with(|| text_of(&problem.file));
        let Some(((line, column), text)) = problem.at.zip(text.as_deref()) else { continue };
        let Some(source) = text.lines().nth(line as usize - 1) else { continue };
        let (shown, before) = window(source, column as usize - 1);
        let number = line.to_string();
        writeln!(out, "  {number} | {shown}\n  {:width$} | {:before$}^", "", "", width = number.len())?;
    }
    match problems.len() - problems.iter().count() {
        0 => Ok(()),
        more => writeln!(out, "and {more} more"),
    }
}

/// As much of a line as fits a screen, around the character at `place`, and how many characters stand before that.
fn window(line: &str, place: usize) -> (String, usize) {
    const BEFORE: usize = 60;
    const SHOWN: usize = 120;
    let start = place.saturating_sub(BEFORE);
    // A tab is one character wide here, so that the mark stands where it should.
    let shown = line.chars().skip(start).take(SHOWN).map(|c| if c.is_control() { ' ' } else { c });
    (shown.collect::<String>().trim_end().to_owned(), place - start)
}

fn text_of(file: &str) -> Option<String> {
    let embedded = packs::kaspersky();
    if embedded.name == file {
        return Some(embedded.text);
    }
    // Only an ordinary file has an end: a pipe waits for its writer, a device may never stop.
    let about = std::fs::metadata(file).ok()?;
    let has_lines = about.is_file() && about.len() <= FILE_LIMIT_BYTES;
    has_lines.then(|| std::fs::read_to_string(file).ok()).flatten()
}

pub(crate) fn plural(count: usize) -> &'static str {
    if count == 1 { "" } else { "s" }
}

/// The policy files of the running agent; none where no agent runs.
fn running_paths(args: &ControlArgs) -> Vec<PathBuf> {
    let Ok(status) = control::ask(&args.socket(), &control::Request::Status) else { return Vec::new() };
    let paths = status["policies"].as_array().cloned().unwrap_or_default();
    let paths = paths.iter().filter_map(|path| path["path"].as_str());
    paths.filter(|path| !path.starts_with("embedded:")).map(PathBuf::from).collect()
}
