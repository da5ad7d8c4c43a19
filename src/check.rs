//! `interdict check`: reads, compiles, runs the policy's tests, prints every problem.

use std::borrow::Cow;
use std::collections::HashMap;
use std::io::Write;
use std::path::PathBuf;

use interdict_policy::lints::lints;
use interdict_policy::{Compiled, FILE_LIMIT_BYTES, Problem, Problems, Severity, packs, printable};
use serde_json::json;
use unicode_width::UnicodeWidthChar;

use crate::cli::{ControlArgs, Outcome};
use crate::{control, files, out};

pub(crate) fn check(paths: &[PathBuf], profile: Option<&str>, args: &ControlArgs) -> anyhow::Result<Outcome> {
    let paths = if paths.is_empty() { running_paths(args) } else { paths.to_vec() };
    let (compiled, problems) = match files::compile_paths(&paths, profile) {
        Ok(compiled) => (Some(compiled), Problems::default()),
        Err(problems) => (None, problems),
    };
    let outcome = if compiled.is_some() { Outcome::Done } else { Outcome::Finding };
    let notes = compiled.as_ref().map(notes).unwrap_or_default();
    if args.json {
        let list = |problems: &Problems| problems.iter().map(shape).collect::<Vec<_>>();
        out::line(json!({
            "ok": compiled.is_some(),
            "digest": compiled.as_ref().map(|compiled| compiled.policy.digest().to_string()),
            "rules": compiled.as_ref().map(|compiled| compiled.policy.rules().len()),
            "tests": compiled.as_ref().map(|compiled| compiled.tests),
            "errors": list(&problems),
            "error_count": problems.len(),
            "notes": list(&notes),
            "note_count": notes.len(),
        }))?;
        return Ok(outcome);
    }
    let Some(compiled) = compiled else {
        show(&problems, &mut std::io::stderr())?;
        let found = counted(problems.len(), "problem");
        out::say(format_args!("{found} found; nothing is in force from these files"))?;
        return Ok(outcome);
    };
    show(&notes, &mut std::io::stdout())?;
    out::line(format_args!(
        "in order: {}, {} passed, digest {}",
        counted(compiled.policy.rules().len(), "rule"),
        counted(compiled.tests, "test"),
        compiled.policy.digest()
    ))?;
    Ok(outcome)
}

/// What compiling noted and what the lints find, in one order.
fn notes(compiled: &Compiled) -> Problems {
    compiled.notes.clone().merged(lints(compiled), compiled.policy.files())
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

/// As much of a line as fits a screen, around the character at `place`, and how many columns of the screen stand before
/// that: a letter of an East Asian script takes two, a combining mark none.
fn window(line: &str, place: usize) -> (String, usize) {
    const BEFORE: usize = 60;
    const SHOWN: usize = 120;
    let start = place.saturating_sub(BEFORE);
    // What is escaped elsewhere is one blank here, so that the mark stands where it should.
    let plain =
        |c: char| if matches!(printable(c.encode_utf8(&mut [0; 4])), Cow::Borrowed(_)) { c } else { ' ' };
    let shown: String = line.chars().skip(start).take(SHOWN).map(plain).collect();
    let before = shown.chars().take(place - start).filter_map(UnicodeWidthChar::width).sum();
    (shown.trim_end().to_owned(), before)
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

/// A number of things, with its noun.
pub(crate) fn counted(count: usize, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

/// The policy files of the running agent; none where no agent runs.
fn running_paths(args: &ControlArgs) -> Vec<PathBuf> {
    let Ok(status) = control::ask(&args.socket(), &control::Request::Status) else { return Vec::new() };
    let paths = status["policies"].as_array().cloned().unwrap_or_default();
    let paths = paths.iter().filter_map(|path| path["path"].as_str());
    paths.filter(|path| !path.starts_with("embedded:")).map(PathBuf::from).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mark_stands_below_the_place() {
        let long = format!("{}x{}", "例".repeat(100), "y".repeat(200));
        for (line, place, before) in [
            ("abc", 0, 0),
            ("abc", 3, 3),
            ("\ta", 1, 1),
            ("bücher x", 7, 7),
            ("bu\u{308}cher x", 8, 7),
            ("\"例え.テスト\", x", 9, 14),
            ("\u{1b}[31m\u{202e}x", 6, 6),
            (&long, 100, 120),
        ] {
            let (shown, found) = window(line, place);
            assert_eq!(found, before, "{line:?}");
            assert!(!shown.contains(['\t', '\u{1b}', '\u{202e}']), "{shown:?}");
        }
    }
}
