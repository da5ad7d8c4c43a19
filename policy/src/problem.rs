//! What is wrong with a policy file, and where.

use std::fmt;

use crate::printable::printable;

/// A position in one of the files handed to [`crate::compile`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Place {
    /// Index of the file in the order it was handed in.
    pub file: u32,
    /// Line, from 1.
    pub line: u32,
    /// Column in characters, from 1.
    pub column: u32,
}

/// How much a [`Problem`] matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// The policy is refused.
    Error,
    /// The policy is in order; a person may want to look.
    Note,
}

/// What kind of finding it is: a word that stays the same while messages are put better.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Code {
    /// The file cannot be read, or is no text.
    Unreadable,
    /// Someone else could have written the file.
    Untrusted,
    /// A folder inside a policy folder, which is not read.
    PassedOver,
    /// The file is no TOML.
    NoToml,
    /// A key that no table of this kind has.
    UnknownKey,
    /// A key that must be there.
    MissingKey,
    /// A value of another type.
    WrongType,
    /// A value that means nothing there.
    BadValue,
    /// More, or longer, than there may be.
    TooMuch,
    /// Something that stands twice.
    Duplicate,
    /// An id or a role that nothing has.
    UnknownId,
    /// Two rules of one ban that only their actions tell apart.
    Conflict,
    /// A `[[test]]` that does not hold.
    FailedTest,
    /// A policy that would ban nothing.
    Empty,
    /// An exemption that has ended.
    Ended,
    /// Two rules of which the order of actions decides.
    Overlap,
    /// A value whose every name or address another rule decides.
    Shadowed,
    /// A network that holds private or shared addresses.
    WideNetwork,
    /// A rule that no test touches.
    Untested,
    /// A rule whose source an auditor could not look up.
    Unsourced,
    /// A domain under which anyone can have a name.
    PublicSuffix,
    /// A rule that blocks on weak evidence.
    LowConfidence,
    /// A line of somebody's list that no rule can say.
    NotImported,
}

impl Code {
    /// Every kind.
    pub const ALL: [Code; 23] = [
        Self::Unreadable,
        Self::Untrusted,
        Self::PassedOver,
        Self::NoToml,
        Self::UnknownKey,
        Self::MissingKey,
        Self::WrongType,
        Self::BadValue,
        Self::TooMuch,
        Self::Duplicate,
        Self::UnknownId,
        Self::Conflict,
        Self::FailedTest,
        Self::Empty,
        Self::Ended,
        Self::Overlap,
        Self::Shadowed,
        Self::WideNetwork,
        Self::Untested,
        Self::Unsourced,
        Self::PublicSuffix,
        Self::LowConfidence,
        Self::NotImported,
    ];

    /// The word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Unreadable => "unreadable",
            Self::Untrusted => "untrusted",
            Self::PassedOver => "passed-over",
            Self::NoToml => "no-toml",
            Self::UnknownKey => "unknown-key",
            Self::MissingKey => "missing-key",
            Self::WrongType => "wrong-type",
            Self::BadValue => "bad-value",
            Self::TooMuch => "too-much",
            Self::Duplicate => "duplicate",
            Self::UnknownId => "unknown-id",
            Self::Conflict => "conflict",
            Self::FailedTest => "failed-test",
            Self::Empty => "empty",
            Self::Ended => "ended",
            Self::Overlap => "overlap",
            Self::Shadowed => "shadowed",
            Self::WideNetwork => "wide-network",
            Self::Untested => "untested",
            Self::Unsourced => "unsourced",
            Self::PublicSuffix => "public-suffix",
            Self::LowConfidence => "low-confidence",
            Self::NotImported => "not-imported",
        }
    }
}

/// One finding: where, what, and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Whether the policy is refused for it.
    pub severity: Severity,
    /// What kind of finding it is.
    pub code: Code,
    /// The file as the caller named it.
    pub file: String,
    /// Line and column, both from 1; `None` where the whole file is meant.
    pub at: Option<(u32, u32)>,
    /// What is wrong.
    pub message: String,
    /// What to do.
    pub help: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&printable(&self.file))?;
        if let Some((line, column)) = self.at {
            write!(f, ":{line}:{column}")?;
        }
        write!(f, ": {}", self.message)?;
        if !self.help.is_empty() {
            write!(f, " ({})", self.help)?;
        }
        Ok(())
    }
}

/// Findings of one severity, in the order of files and lines: the first [`Problems::LIMIT`], and how
/// many more there were.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Problems {
    list: Vec<Problem>,
    more: usize,
}

impl Problems {
    /// How many findings are kept; the rest are counted.
    pub const LIMIT: usize = 100;

    /// Keeps the finding, or counts it once [`Problems::LIMIT`] are kept.
    pub fn push(&mut self, problem: Problem) {
        if self.list.len() < Self::LIMIT {
            self.list.push(problem);
        } else {
            self.more += 1;
        }
    }

    /// The findings kept.
    pub fn iter(&self) -> std::slice::Iter<'_, Problem> {
        self.list.iter()
    }

    /// How many findings there were, kept or not.
    pub fn len(&self) -> usize {
        self.list.len() + self.more
    }

    /// Whether nothing was found.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Both lists as one, in the order of `files` and lines.
    pub fn merged(mut self, other: Self, files: &[String]) -> Self {
        self.list.extend(other.list);
        self.more += other.more;
        self.sort_by_place(files);
        self.more += self.list.len().saturating_sub(Self::LIMIT);
        self.list.truncate(Self::LIMIT);
        self
    }

    pub(crate) fn sort_by_place(&mut self, files: &[String]) {
        let order = |name: &String| files.iter().position(|file| file == name);
        self.list.sort_by_cached_key(|problem| (order(&problem.file), problem.at));
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, problem) in self.list.iter().enumerate() {
            if i > 0 {
                writeln!(f)?;
            }
            write!(f, "{problem}")?;
        }
        if self.more > 0 {
            write!(f, "\nand {} more", self.more)?;
        }
        Ok(())
    }
}

impl std::error::Error for Problems {}

impl<'a> IntoIterator for &'a Problems {
    type Item = &'a Problem;
    type IntoIter = std::slice::Iter<'a, Problem>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}
