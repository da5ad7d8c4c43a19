//! Other people's lists as policy files: response policy zones, hosts files, lists of domains and of networks.
//!
//! A list says less than a rule does, so its source is its name and its role what the user says. What a line says and a
//! rule cannot is never lost: every such line is a [`Problem`] with its number.

mod cidrs;
mod domains;
mod draft;
mod hosts;
mod rpz;
mod zone;

use std::fmt;
use std::str::FromStr;

use crate::document::FILE_LIMIT_BYTES;
use crate::printable::printable;
use crate::problem::{Code, Problem, Problems, Severity};
use crate::rule::word;
use crate::values::WORD_LIMIT_BYTES;
use draft::Draft;

/// Longest line in bytes; a longer one is left out and told.
const LINE_LIMIT_BYTES: usize = 64 << 10;
/// Longest prefix of the ids that are made, which leaves room for what follows it.
const PREFIX_LIMIT_BYTES: usize = 40;

/// A format that rules can be made from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// A DNS response policy zone, as a zone file (RFC 1035 §5).
    Rpz,
    /// A hosts file: names that stand beside an address are blocked.
    Hosts,
    /// One domain a line, banned with all below it.
    Domains,
    /// One network or address a line.
    Cidrs,
}

impl Format {
    /// All formats.
    pub const ALL: [Format; 4] = [Format::Rpz, Format::Hosts, Format::Domains, Format::Cidrs];

    /// The word for it on the command line.
    pub fn as_str(self) -> &'static str {
        match self {
            Format::Rpz => "rpz",
            Format::Hosts => "hosts",
            Format::Domains => "domains",
            Format::Cidrs => "cidrs",
        }
    }
}

impl FromStr for Format {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let known = || Format::ALL.map(Format::as_str).join(", ");
        Format::ALL
            .into_iter()
            .find(|format| format.as_str() == text)
            .ok_or_else(|| format!("\"{}\" is not a format (one of: {})", text.escape_debug(), known()))
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What the ids of the new rules start with: a lower-case word of at most 40 characters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prefix(String);

impl Prefix {
    /// The prefix that a file's name gives: what stands before the first dot, as far as it is a word.
    pub fn of_file(name: &str) -> Self {
        let stem = name.split('.').find(|part| !part.is_empty()).unwrap_or_default().to_lowercase();
        let mut prefix = String::new();
        for c in stem.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }) {
            if !(c == '-' && prefix.ends_with('-')) {
                prefix.push(c);
            }
        }
        if !prefix.starts_with(|c: char| c.is_ascii_lowercase()) {
            prefix.insert_str(0, "list-");
        }
        prefix.truncate(PREFIX_LIMIT_BYTES);
        Self(prefix.replace("--", "-").trim_end_matches('-').to_owned())
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for Prefix {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        word(text, PREFIX_LIMIT_BYTES).map(|word| Self(word.to_owned()))
    }
}

/// The role of the new rules: a lower-case word of at most 32 characters; `imported` where nobody says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Role(String);

impl Default for Role {
    fn default() -> Self {
        Self("imported".to_owned())
    }
}

impl FromStr for Role {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        word(text, WORD_LIMIT_BYTES).map(|word| Self(word.to_owned()))
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A list, and what its rules are called.
#[derive(Clone, Copy, Debug)]
pub struct List<'l> {
    /// What messages and the rules' `source` call it.
    pub name: &'l str,
    /// Its content.
    pub text: &'l str,
    /// What the ids start with.
    pub prefix: &'l Prefix,
    /// The role of every rule.
    pub role: &'l Role,
}

/// A list as a policy file.
#[derive(Debug)]
pub struct Imported {
    /// The policy file; empty when no line became part of a rule.
    pub text: String,
    /// How many names stand in it.
    pub names: usize,
    /// How many networks stand in it.
    pub networks: usize,
    /// Lines that every such list has and that ban nothing: a zone's own records, the machine's own names.
    pub skipped: usize,
    /// Lines that no rule can say.
    pub left_out: Problems,
}

/// Makes rules of a list.
pub fn import(list: List<'_>, format: Format) -> Imported {
    let mut draft = Draft::new(list.name);
    if list.text.len() as u64 > FILE_LIMIT_BYTES {
        draft.leave_out(0, format!("the file is {} bytes long", list.text.len()), "at most 64 MB; split it");
        return draft.finish(list);
    }
    let text = list.text.strip_prefix('\u{feff}').unwrap_or(list.text);
    match format {
        Format::Rpz => rpz::read(text, &mut draft),
        Format::Hosts => hosts::read(text, &mut draft),
        Format::Domains => domains::read(text, &mut draft),
        Format::Cidrs => cidrs::read(text, &mut draft),
    }
    draft.finish(list)
}

/// The lines with their numbers, without what follows one of `marks`, trimmed; empty ones are left away, and too long
/// ones are left out.
fn lines<'t>(text: &'t str, marks: &'static [char], draft: &mut Draft) -> Vec<(u32, &'t str)> {
    let mut lines = Vec::new();
    for (i, line) in text.lines().enumerate() {
        let number = i as u32 + 1;
        if line.len() > LINE_LIMIT_BYTES {
            draft.too_long(number, line.len());
            continue;
        }
        let line = line.split(marks).next().unwrap_or_default().trim();
        if !line.is_empty() {
            lines.push((number, line));
        }
    }
    lines
}

/// A word of a line, short enough for a message.
fn shown(word: &str) -> String {
    const SHOWN: usize = 80;
    word.chars().take(SHOWN).flat_map(char::escape_debug).collect()
}

fn problem(file: &str, line: u32, message: String, help: &str) -> Problem {
    let at = (line > 0).then_some((line, 1));
    Problem {
        severity: Severity::Note,
        code: Code::NotImported,
        file: file.to_owned(),
        at,
        // A message quotes the list, whatever it holds.
        message: printable(&message).into_owned(),
        help: help.to_owned(),
    }
}
