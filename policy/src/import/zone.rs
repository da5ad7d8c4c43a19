//! The text of a zone (RFC 1035 §5): comments, quoted strings, parentheses over lines, `$ORIGIN` and `$TTL`, owners and
//! TTLs that carry over. Record data stays as words.
//!
//! A policy zone's own name is often known only to the server that loads it. So the owner of a record is handed out
//! relative to the zone's apex, wherever the file makes clear what that is.

use super::draft::Draft;
use super::{LINE_LIMIT_BYTES, shown};

/// One record.
pub(super) struct Record {
    /// The line on which it starts.
    pub(super) line: u32,
    /// Its owner relative to the apex, lower-case, without the final dot; empty for the apex.
    pub(super) owner: String,
    /// Its TTL in seconds, where the file says one.
    pub(super) ttl_secs: Option<u32>,
    /// Its type, in capitals.
    pub(super) kind: String,
    /// Its data, word by word.
    pub(super) data: Vec<String>,
}

/// Reads every record; what cannot be read is left out.
pub(super) fn records(text: &str, draft: &mut Draft) -> Vec<Record> {
    let mut zone = Zone { origin: Origin::Apex, apex: None, ttl_secs: None, owner: None };
    let mut records = Vec::new();
    for entry in entries(text, draft) {
        match zone.entry(&entry) {
            Ok(record) => records.extend(record),
            Err((message, help)) => draft.leave_out(entry.line, message, help),
        }
    }
    records
}

/// The words of a directive or a record.
struct Entry {
    line: u32,
    /// Whether the line starts with blank space: the record has the owner of the one before.
    indented: bool,
    words: Vec<String>,
}

fn entries(text: &str, draft: &mut Draft) -> Vec<Entry> {
    let mut entries = Vec::new();
    let mut open: Option<(Entry, u32)> = None;
    for (i, line) in text.lines().enumerate() {
        let number = i as u32 + 1;
        if line.len() > LINE_LIMIT_BYTES {
            draft.too_long(number, line.len());
            continue;
        }
        let (mut entry, mut depth) = open.take().unwrap_or_else(|| {
            let indented = line.starts_with([' ', '\t']);
            (Entry { line: number, indented, words: Vec::new() }, 0)
        });
        match split(line, &mut depth, &mut entry.words) {
            Err(message) => {
                draft.leave_out(number, message, "the record is left out as a whole");
            }
            Ok(()) if depth > 0 => open = Some((entry, depth)),
            Ok(()) if entry.words.is_empty() => {}
            Ok(()) => entries.push(entry),
        }
    }
    if let Some((entry, _)) = open {
        draft.leave_out(entry.line, "a parenthesis is never closed", "all from here on is left out");
    }
    entries
}

/// Splits a line into words. `depth` counts the parentheses that are open.
fn split(line: &str, depth: &mut u32, words: &mut Vec<String>) -> Result<(), String> {
    let mut rest = line;
    while let Some(c) = rest.chars().next() {
        match c {
            ';' => return Ok(()),
            '(' => *depth += 1,
            ')' => *depth = depth.checked_sub(1).ok_or("a parenthesis is closed that was not opened")?,
            '"' => {
                let end = end_of(&rest[1..], |c| c == '"');
                let (word, behind) = rest[1..].split_at(end);
                rest = behind.strip_prefix('"').ok_or("a quoted text does not end on its line")?;
                words.push(word.to_owned());
                continue;
            }
            c if c.is_whitespace() => {}
            _ => {
                let end = end_of(rest, |c| c.is_whitespace() || matches!(c, ';' | '(' | ')' | '"'));
                let (word, behind) = rest.split_at(end);
                words.push(word.to_owned());
                rest = behind;
                continue;
            }
        }
        rest = &rest[c.len_utf8()..];
    }
    Ok(())
}

/// Where a character that ends a word stands; one behind a backslash does not.
fn end_of(text: &str, ends: impl Fn(char) -> bool) -> usize {
    let mut escaped = false;
    for (i, c) in text.char_indices() {
        if !escaped && ends(c) {
            return i;
        }
        escaped = !escaped && c == '\\';
    }
    text.len()
}

/// What relative names are relative to.
enum Origin {
    /// The apex, whatever it is called.
    Apex,
    /// A name, without the final dot.
    Named(String),
    /// A `$ORIGIN` that could not be read.
    Unknown,
}

/// What carries over from one record to the next.
struct Zone {
    origin: Origin,
    /// The apex, once the file has named it.
    apex: Option<String>,
    ttl_secs: Option<u32>,
    owner: Option<String>,
}

type Wrong = (String, &'static str);

impl Zone {
    /// Reads one entry; `None` for a directive.
    fn entry(&mut self, entry: &Entry) -> Result<Option<Record>, Wrong> {
        let first = entry.words[0].as_str();
        if !entry.indented && first.starts_with('$') {
            return self.directive(first, &entry.words[1..]).map(|()| None);
        }
        let mut words = entry.words.iter();
        if !entry.indented {
            // Forgotten first: a record without an owner must not fall to the one before an owner that is wrong.
            self.owner = None;
            words.next();
        }
        let (mut ttl_secs, mut kind) = (None, None);
        for word in words.by_ref() {
            match word.to_ascii_uppercase().as_str() {
                "IN" => {}
                "CH" | "HS" | "CS" => return Err((format!("class {word} is not that of the Internet"), "")),
                upper => match seconds(word) {
                    Some(secs) if ttl_secs.is_none() => ttl_secs = Some(secs),
                    _ => {
                        kind = Some(upper.to_owned());
                        break;
                    }
                },
            }
        }
        let Some(kind) = kind else { return Err(("a record needs a type".into(), "")) };
        if !entry.indented {
            self.owner = Some(self.owner(first, kind == "SOA")?);
        }
        let owner =
            self.owner.clone().ok_or(("the record has no owner".to_owned(), "the one before has none"))?;
        let ttl_secs = ttl_secs.or(self.ttl_secs);
        Ok(Some(Record { line: entry.line, owner, ttl_secs, kind, data: words.cloned().collect() }))
    }

    fn directive(&mut self, name: &str, words: &[String]) -> Result<(), Wrong> {
        match (name.to_ascii_uppercase().as_str(), words) {
            ("$TTL", [ttl]) => {
                let secs =
                    seconds(ttl).ok_or_else(|| (format!("\"{}\" is not a TTL", ttl.escape_debug()), ""))?;
                self.ttl_secs = Some(secs);
                Ok(())
            }
            ("$ORIGIN", [origin]) => {
                let full = match (origin.strip_suffix('.'), &self.origin) {
                    (Some(absolute), _) => Some(absolute.to_ascii_lowercase()),
                    (None, Origin::Named(around)) => Some(join(&origin.to_ascii_lowercase(), around)),
                    (None, _) => None,
                };
                let Some(full) = full else {
                    self.origin = Origin::Unknown;
                    return Err((
                        format!(
                            "$ORIGIN {} is relative to a name that the file does not say",
                            origin.escape_debug()
                        ),
                        "end it with a dot; names below it are left out",
                    ));
                };
                self.apex.get_or_insert_with(|| full.clone());
                self.origin = Origin::Named(full);
                Ok(())
            }
            _ => Err((format!("{} is not read", name.escape_debug()), "write its records out")),
        }
    }

    /// The owner relative to the apex. That of the SOA record is the apex (RFC 1035 §5.2).
    fn owner(&mut self, written: &str, is_soa: bool) -> Result<String, Wrong> {
        let lower = written.to_ascii_lowercase();
        let full = match (&self.origin, lower.strip_suffix('.')) {
            (_, Some(absolute)) => absolute.to_owned(),
            (Origin::Named(origin), None) if lower == "@" => origin.clone(),
            (Origin::Named(origin), None) => join(&lower, origin),
            (Origin::Apex, None) if lower == "@" => return Ok(String::new()),
            (Origin::Apex, None) => return Ok(lower),
            (Origin::Unknown, None) => {
                return Err((
                    format!("{} is relative to an unknown name", shown(written)),
                    "correct the $ORIGIN",
                ));
            }
        };
        if is_soa {
            self.apex = Some(full);
            return Ok(String::new());
        }
        let Some(apex) = &self.apex else {
            return Err((
                format!("{} is absolute, and the file does not say what the zone is called", shown(written)),
                "start it with $ORIGIN or an SOA record",
            ));
        };
        if full == *apex {
            return Ok(String::new());
        }
        let relative = if apex.is_empty() {
            Some(full.as_str())
        } else {
            full.strip_suffix(apex.as_str()).and_then(|name| name.strip_suffix('.'))
        };
        match relative {
            Some(name) if !name.is_empty() => Ok(name.to_owned()),
            _ => Err((format!("{} is outside the zone {apex}", shown(written)), "")),
        }
    }
}

fn join(name: &str, origin: &str) -> String {
    if origin.is_empty() { name.to_owned() } else { format!("{name}.{origin}") }
}

/// A TTL in seconds, with BIND's units: `3600`, `1h30m`, `2D`.
fn seconds(text: &str) -> Option<u32> {
    let (mut total, mut number) = (0u32, None);
    for c in text.chars() {
        if let Some(digit) = c.to_digit(10) {
            number = Some(number.unwrap_or(0u32).checked_mul(10)?.checked_add(digit)?);
            continue;
        }
        let unit = match c.to_ascii_lowercase() {
            's' => 1,
            'm' => 60,
            'h' => 3600,
            'd' => 86_400,
            'w' => 604_800,
            _ => return None,
        };
        total = total.checked_add(number.take()?.checked_mul(unit)?)?;
    }
    match number {
        Some(rest) => total.checked_add(rest),
        None => (!text.is_empty()).then_some(total),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ttls_may_have_units() {
        for (text, secs) in [
            ("3600", Some(3600)),
            ("1h30m", Some(5400)),
            ("2D", Some(172_800)),
            ("", None),
            ("h", None),
            ("A", None),
            ("4294967296", None),
            ("99999w", None),
        ] {
            assert_eq!(seconds(text), secs, "{text}");
        }
    }
}
