//! Regular expressions over the labels left of a fixed name: the last resort, where no list and no glob says it.
//!
//! An expression must describe all of these labels, from the first letter to the last, whether or not it says `^` and
//! `$`: one that fits only a part would match names its author never saw. The labels are in lower-case presentation
//! form and joined by dots, so `^dnl-[0-9]+\.geo$` under `kaspersky.com` matches `dnl-7.geo.kaspersky.com`. At least
//! one label stands left of `under`; the name `under` itself never matches.
//!
//! The regex crate matches in time linear in the name, whatever the expression. What an expression may take in memory
//! is limited here, before it is ever used.

use std::fmt;

use regex::bytes::{Regex, RegexBuilder};
use regex_syntax::hir::{Class, Hir, HirKind, Look};

use crate::name::{DomainName, Name, PresentationBuffer};
use crate::printable::printable;

/// Longest expression in bytes.
const TEXT_LIMIT_BYTES: usize = 512;
/// How deep groups and repetitions may stand in each other.
const NEST_LIMIT: u32 = 32;
/// How much memory one compiled expression may take, and its cache of states again.
const COMPILED_LIMIT_BYTES: usize = 64 << 10;
/// How many patterns a policy may have: each name below an `under` is tried with all of its patterns.
pub(crate) const PATTERNS_LIMIT: usize = 256;

/// `{ under, match }`: names below `under` whose other labels fit an expression.
#[derive(Clone)]
pub struct Pattern {
    under: DomainName,
    text: Box<str>,
    regex: Regex,
}

impl Pattern {
    /// Reads an expression as people write it, in the syntax of the regex crate without Unicode classes.
    ///
    /// # Errors
    /// A sentence about what is wrong and at which character, and what to do.
    pub fn new(under: DomainName, text: &str) -> Result<Self, (String, String)> {
        if let Some((place, bad)) = text.chars().enumerate().find(|(_, c)| !c.is_ascii()) {
            let message = format!("at character {}, {bad:?} is no ASCII letter", place + 1);
            return Err((message, "names compare in A-label form; write xn--…".into()));
        }
        if text.len() > TEXT_LIMIT_BYTES {
            let message = format!("it is {} characters long", text.len());
            return Err((message, format!("at most {TEXT_LIMIT_BYTES}; split it into several patterns")));
        }
        let hir = parse(text)?;
        if asks_for_capitals(&hir) {
            return Err((
                "it asks for capitals".into(),
                "names compare in lower case; write small letters".into(),
            ));
        }
        let whole = Hir::concat(vec![Hir::look(Look::Start), hir, Hir::look(Look::End)]);
        let regex = RegexBuilder::new(&whole.to_string())
            .unicode(false)
            .size_limit(COMPILED_LIMIT_BYTES)
            .dfa_size_limit(COMPILED_LIMIT_BYTES)
            .build()
            .map_err(|_| {
                let message = format!("it needs more than {} KiB of memory", COMPILED_LIMIT_BYTES >> 10);
                (message, "use fewer or smaller counts such as {100}".to_owned())
            })?;
        Ok(Self { under, text: text.into(), regex })
    }

    /// The name below which the pattern matches: the part that counts for precedence.
    pub fn under(&self) -> Name<'_> {
        self.under.as_name()
    }

    /// The expression as written.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// A name that the pattern describes, for people to see; `None` where none is found at once.
    pub fn example(&self) -> Option<DomainName> {
        let mut left = Vec::new();
        append_example(&parse(&self.text).ok()?, &mut left);
        let name = format!("{}.{}", String::from_utf8(left).ok()?, self.under).parse::<DomainName>().ok()?;
        Some(name).filter(|name| self.matches(name.as_name()))
    }

    /// Whether the pattern describes `name`.
    pub(crate) fn matches(&self, name: Name<'_>) -> bool {
        let (total, fixed) = (name.labels().count(), self.under().labels().count());
        name.is_at_or_below(self.under())
            && total > fixed
            && self.matches_left(&PresentationBuffer::of(name.labels().take(total - fixed)))
    }

    /// Whether the labels left of `under` are those this pattern describes.
    pub(crate) fn matches_left(&self, left: &PresentationBuffer) -> bool {
        self.regex.is_match(left.as_bytes())
    }
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        (&self.under, &self.text) == (&other.under, &other.text)
    }
}

impl Eq for Pattern {}

impl fmt::Display for Pattern {
    /// On one line, whatever the expression holds: it stands in messages and in comments of exported files.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} under {}", printable(&self.text), self.under)
    }
}

impl fmt::Debug for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// The expression alone, so that nothing in it can reach outside when it is anchored.
fn parse(text: &str) -> Result<Hir, (String, String)> {
    let mut parser =
        regex_syntax::ParserBuilder::new().unicode(false).utf8(false).nest_limit(NEST_LIMIT).build();
    let (what, at) = match parser.parse(text) {
        Ok(hir) => return Ok(hir),
        Err(regex_syntax::Error::Parse(e)) => (e.kind().to_string(), e.span().start.offset),
        Err(regex_syntax::Error::Translate(e)) => (e.kind().to_string(), e.span().start.offset),
        Err(e) => (e.to_string().replace('\n', " "), 0),
    };
    Err((format!("at character {}, {what}", at + 1), "see the syntax of the regex crate".into()))
}

/// Appends a text that the expression describes, each part that may repeat as often as it must, and at least once.
/// What no text can be found for is left out.
fn append_example(hir: &Hir, text: &mut Vec<u8>) {
    let letters = || (b'a'..=b'z').chain(b'0'..=b'9').chain(*b"-_.");
    match hir.kind() {
        HirKind::Empty | HirKind::Look(_) => {}
        HirKind::Literal(literal) => text.extend_from_slice(&literal.0),
        HirKind::Class(Class::Bytes(class)) => {
            let fits = |c: &u8| class.ranges().iter().any(|range| (range.start()..=range.end()).contains(c));
            text.extend(letters().find(fits));
        }
        HirKind::Class(Class::Unicode(class)) => {
            let fits =
                |c: &u8| class.ranges().iter().any(|r| (r.start()..=r.end()).contains(&char::from(*c)));
            text.extend(letters().find(fits));
        }
        HirKind::Repetition(repetition) => {
            let most = repetition.max.unwrap_or(u32::MAX);
            for _ in 0..repetition.min.max(1).min(most) {
                append_example(&repetition.sub, text);
                // No name is longer.
                if text.len() > usize::from(u8::MAX) {
                    return;
                }
            }
        }
        HirKind::Capture(capture) => append_example(&capture.sub, text),
        HirKind::Concat(parts) => parts.iter().for_each(|part| append_example(part, text)),
        HirKind::Alternation(parts) => {
            parts.iter().take(1).for_each(|part| append_example(part, text));
        }
    }
}

/// Whether some part can only be met by capitals, which no name has here.
fn asks_for_capitals(hir: &Hir) -> bool {
    match hir.kind() {
        HirKind::Literal(literal) => literal.0.iter().any(u8::is_ascii_uppercase),
        HirKind::Class(Class::Bytes(class)) => {
            !class.ranges().is_empty()
                && class.ranges().iter().all(|range| range.start() >= b'A' && range.end() <= b'Z')
        }
        HirKind::Repetition(repetition) => asks_for_capitals(&repetition.sub),
        HirKind::Capture(capture) => asks_for_capitals(&capture.sub),
        HirKind::Concat(parts) | HirKind::Alternation(parts) => parts.iter().any(asks_for_capitals),
        HirKind::Empty | HirKind::Class(Class::Unicode(_)) | HirKind::Look(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matches(pattern: &Pattern, name: Name<'_>) -> bool {
        let (total, fixed) = (name.labels().count(), pattern.under().labels().count());
        name.is_at_or_below(pattern.under())
            && total > fixed
            && pattern.matches_left(&PresentationBuffer::of(name.labels().take(total - fixed)))
    }

    #[test]
    fn an_expression_describes_all_labels_left_of_its_fixed_part() {
        for (text, name, fits) in [
            (r"^dnl-[0-9]+\.geo$", "dnl-7.geo.v.example", true),
            (r"dnl-[0-9]+\.geo", "dnl-7.geo.v.example", true),
            (r"dnl-[0-9]+\.geo", "x.dnl-7.geo.v.example", false),
            (r"dnl-[0-9]+\.geo", "dnl-7.geo.x.v.example", false),
            (r"dnl-[0-9]+\.geo", "dnl-7.geo.w.example", false),
            (r"a|b", "a.v.example", true),
            (r"a|b", "b.v.example", true),
            (r"a|b", "ab.v.example", false),
            (r"a|ab", "ab.v.example", true),
            // The name itself has no label left of it.
            (r".*", "v.example", false),
            (r".*", "a.v.example", true),
            (r".*", "a.b.v.example", true),
            (r"[^.]+", "a.b.v.example", false),
            // Nothing in an expression reaches outside it.
            ("(?x)a # comment", "a.v.example", true),
            ("(?x)a # comment", "ab.v.example", false),
            (r"(?i)A", "a.v.example", true),
            (r"[A-Za-z]\D", "ab.v.example", true),
            (r"\x61", "a.v.example", true),
            (r"(?m)^a$", "a.v.example", true),
        ] {
            let pattern = Pattern::new("v.example".parse().unwrap(), text).unwrap();
            let name: DomainName = name.parse().unwrap();
            assert_eq!(matches(&pattern, name.as_name()), fits, "{text} {name}");
        }
    }

    #[test]
    fn an_expression_has_an_example() {
        for (text, example) in [
            (r"^dnl-[0-9]+\.geo$", Some("dnl-0.geo")),
            (r"s[0-9]{3}(-eu)?", Some("s000-eu")),
            (".*", Some("a")),
            (r"[^a-m.]+\.(x|y)", Some("n.x")),
            (r"a{0}b", Some("b")),
            (r"\bx\b", Some("x")),
            // A label of DNS that people cannot write, and one that is too long.
            (r"a\\\.b", None),
            ("a{64}", None),
            (r"a\Bb|c", Some("ab")),
            ("(a{100}){5}", None),
        ] {
            let pattern = Pattern::new("v.example".parse().unwrap(), text).unwrap();
            let example = example.map(|left| format!("{left}.v.example"));
            assert_eq!(pattern.example().map(|name| name.to_string()), example, "{text}");
        }
    }

    #[test]
    fn bytes_that_are_not_printable_are_matched_as_they_are_shown() {
        let fits = |text: &str| {
            let pattern = Pattern::new("v".parse().unwrap(), text).unwrap();
            matches(&pattern, Name::from_wire(b"\x04a.\x07b\x01v\0").unwrap())
        };
        assert!(fits(r"a\\\.\\007b"));
        assert!(fits(r"a\\.*b"));
        assert!(!fits(r"a.\x07b"));
    }

    #[test]
    fn what_is_wrong_is_said_with_its_place() {
        let long = "a".repeat(513);
        for (text, message) in [
            ("a(b", "at character 2, unclosed group"),
            ("a)|(b", "at character 2, unopened group"),
            ("a{2,1}", "at character 2, invalid repetition count range, the start must be <= the end"),
            ("*a", "at character 1, repetition operator missing expression"),
            ("(?=a)", "at character 1, look-around, including look-ahead and look-behind, is not supported"),
            (r"\pL", "at character 1, Unicode not allowed here"),
            ("bücher", "at character 2, 'ü' is no ASCII letter"),
            ("Dnl", "it asks for capitals"),
            ("a([A-Z]|b)?", "it asks for capitals"),
            (&long, "it is 513 characters long"),
            ("[a-z]{1000}{1000}", "it needs more than 64 KiB of memory"),
            ("((((a{100}){100}){100}){100}){100}", "it needs more than 64 KiB of memory"),
            (r"(?u:\w){200}", "it needs more than 64 KiB of memory"),
        ] {
            let found = Pattern::new("v.example".parse().unwrap(), text).map_err(|(message, _)| message);
            assert_eq!(found, Err(message.to_owned()), "{text}");
        }
        let deep = "(".repeat(40) + &")".repeat(40);
        let (message, _) = Pattern::new("v.example".parse().unwrap(), &deep).unwrap_err();
        assert!(message.contains("exceed the maximum number of nested"), "{message}");
    }
}
