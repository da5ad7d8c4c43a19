//! Reads TOML key by key and notes everything that is wrong on the way, instead of stopping at the first error
//! as serde does. Policy files and the agent's configuration are both read through it, so both report every
//! problem at once, with its place.

use std::ops::Range;
use std::str::FromStr;

use jiff::{Timestamp, civil, tz};
use toml::Spanned;
use toml::de::{DeTable, DeValue};
use toml::value::{Date, Datetime, Offset, Time};

use crate::document::FILE_LIMIT_BYTES;
use crate::near;
use crate::printable::printable;
use crate::problem::{Code, Place, Problem, Problems, Severity};
use crate::rule::At;

/// Reads one TOML file: `read` walks its root table. `None` when it is no TOML; whatever is wrong goes to
/// `problems`.
pub fn read_toml<T>(
    file: u32,
    name: &str,
    text: &str,
    what: &'static str,
    problems: &mut Problems,
    read: impl FnOnce(&mut Reader<'_>, Table<'_, '_>) -> T,
) -> Option<T> {
    let mut r = Reader::new(file, name, text, problems);
    if text.len() as u64 > FILE_LIMIT_BYTES {
        r.error(
            Code::TooMuch,
            &(0..0),
            format!("the file is {} bytes long", text.len()),
            "at most 64 MB; split it",
        );
        return None;
    }
    let (root, errors) = DeTable::parse_recoverable(text);
    for error in &errors {
        r.error(
            Code::NoToml,
            &error.span().unwrap_or(0..0),
            printable(&error.message().replace('\n', ", ")).into_owned(),
            "this is not TOML",
        );
    }
    if !errors.is_empty() {
        return None;
    }
    Some(read(&mut r, Table::new(root.get_ref(), 0..0, what)))
}

/// One file while it is read: its text, and what was found wrong so far.
pub struct Reader<'i> {
    file: u32,
    name: &'i str,
    text: &'i str,
    line_starts: Vec<usize>,
    /// How many characters stand before every [`COUNTED_BYTES`]th byte, so that a column in a line of millions of
    /// characters is found without walking it.
    chars_before: Vec<usize>,
    problems: &'i mut Problems,
    /// What was asked for, where that is what the file is read for.
    pub(crate) asked: Option<Vec<Asked>>,
}

/// One thing that reading a table asks for: the schema of a policy file is what its reader asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Asked {
    /// What the table is called in messages.
    pub(crate) table: &'static str,
    /// The key; empty for every key that is not asked for by name, `*` for tables whose names the file chooses.
    pub(crate) key: &'static str,
    pub(crate) what: Wanted,
}

/// What may stand under a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Wanted {
    /// It must be there.
    Something,
    Text,
    Word(Vec<String>),
    Number(u32),
    Flag,
    Date,
    Moment,
    Texts,
    Table,
    Tables,
}

const COUNTED_BYTES: usize = 256;

impl<'i> Reader<'i> {
    fn new(file: u32, name: &'i str, text: &'i str, problems: &'i mut Problems) -> Self {
        let line_starts = std::iter::once(0)
            .chain(text.bytes().enumerate().filter(|(_, b)| *b == b'\n').map(|(i, _)| i + 1))
            .collect();
        let mut chars = 0;
        let chars_before = text.as_bytes().chunks(COUNTED_BYTES).map(|chunk| {
            let before = chars;
            chars += count_chars(chunk);
            before
        });
        let chars_before = chars_before.collect();
        Self { file, name, text, line_starts, chars_before, problems, asked: None }
    }

    /// Line and column, in characters, of a byte offset.
    fn place(&self, offset: usize) -> Place {
        let line = self.line_starts.partition_point(|start| *start <= offset);
        let column = self.chars_before(offset) - self.chars_before(self.line_starts[line - 1]) + 1;
        Place { file: self.file, line: line as u32, column: column as u32 }
    }

    fn chars_before(&self, offset: usize) -> usize {
        let offset = offset.min(self.text.len());
        let chunk = offset / COUNTED_BYTES;
        let counted = self.chars_before.get(chunk).copied();
        // An offset behind the last chunk is the end of the text.
        let Some(counted) = counted else { return self.text.chars().count() };
        counted + count_chars(&self.text.as_bytes()[chunk * COUNTED_BYTES..offset])
    }

    fn error(&mut self, code: Code, span: &Range<usize>, message: String, help: impl Into<String>) {
        let place = self.place(span.start);
        self.problems.push(Problem {
            severity: Severity::Error,
            code,
            file: self.name.to_owned(),
            at: Some((place.line, place.column)),
            message,
            help: help.into(),
        });
    }

    fn asks(&mut self, table: &'static str, key: &'static str, what: impl FnOnce() -> Wanted) {
        if let Some(asked) = &mut self.asked {
            asked.push(Asked { table, key, what: what() });
        }
    }

    fn at<T>(&self, value: T, span: &Range<usize>) -> At<T> {
        At { value, place: self.place(span.start) }
    }
}

/// The characters that start in some bytes of UTF-8.
fn count_chars(bytes: &[u8]) -> usize {
    bytes.iter().filter(|byte| (**byte as i8) >= -0x40).count()
}

/// One table, and which of its keys were asked for: what remains is unknown.
pub struct Table<'t, 'i> {
    entries: &'t DeTable<'i>,
    span: Range<usize>,
    what: &'static str,
    known: Vec<&'static str>,
}

impl<'t, 'i> Table<'t, 'i> {
    fn new(entries: &'t DeTable<'i>, span: Range<usize>, what: &'static str) -> Self {
        Self { entries, span, what, known: Vec::new() }
    }

    /// Where the table stands.
    pub fn place(&self, r: &Reader<'_>) -> Place {
        r.place(self.span.start)
    }

    fn get(&mut self, key: &'static str) -> Option<&'t Spanned<DeValue<'i>>> {
        self.known.push(key);
        self.entries.get(key)
    }

    /// Whether the key is there.
    pub fn has(&self, key: &str) -> bool {
        self.entries.contains_key(key)
    }

    /// Says that `key` is missing from this table.
    pub fn missing(&self, r: &mut Reader<'_>, key: &'static str, help: &str) {
        r.asks(self.what, key, || Wanted::Something);
        r.error(Code::MissingKey, &self.span, format!("{} has no {key}", self.what), help);
    }

    /// The text under `key`, of 1 to 4 096 bytes.
    pub fn text(&mut self, r: &mut Reader<'_>, key: &'static str) -> Option<At<&'t str>> {
        r.asks(self.what, key, || Wanted::Text);
        text_of(r, key, self.get(key)?)
    }

    /// As [`Table::text`], and a problem when the key is absent.
    pub fn required_text(&mut self, r: &mut Reader<'_>, key: &'static str) -> Option<At<&'t str>> {
        if !self.has(key) {
            self.missing(r, key, &format!("add {key} = \"…\""));
        }
        self.text(r, key)
    }

    /// The text under `key`, read as a `T`.
    pub fn parsed<T: FromStr<Err = String>>(
        &mut self,
        r: &mut Reader<'_>,
        key: &'static str,
        help: &str,
    ) -> Option<At<T>> {
        let text = self.required_text(r, key)?;
        match text.value.parse() {
            Ok(value) => Some(At { value, place: text.place }),
            Err(message) => {
                self.wrong(r, key, message, help);
                None
            }
        }
    }

    /// One of `words` under `key`.
    pub fn word<T: Copy>(&mut self, r: &mut Reader<'_>, key: &'static str, words: &[(&str, T)]) -> Option<T> {
        r.asks(self.what, key, || Wanted::Word(words.iter().map(|(word, _)| (*word).to_owned()).collect()));
        let text = self.text(r, key)?;
        let span = self.entries.get(key).map_or_else(|| self.span.clone(), |value| value.span());
        word_of(r, key, text.value, &span, words)
    }

    /// A problem with the value of `key`, at that value.
    pub fn wrong(&self, r: &mut Reader<'_>, key: &str, message: String, help: &str) {
        let span = self.entries.get(key).map_or_else(|| self.span.clone(), |value| value.span());
        r.error(Code::BadValue, &span, message, help);
    }

    /// True or false under `key`.
    pub fn flag(&mut self, r: &mut Reader<'_>, key: &'static str) -> Option<bool> {
        r.asks(self.what, key, || Wanted::Flag);
        let value = self.get(key)?;
        let DeValue::Boolean(flag) = value.get_ref() else {
            wrong_type(r, key, value, "true or false");
            return None;
        };
        Some(*flag)
    }

    /// A whole number under `key`, 0 to `max`.
    pub fn number(&mut self, r: &mut Reader<'_>, key: &'static str, max: u32) -> Option<u32> {
        r.asks(self.what, key, || Wanted::Number(max));
        let value = self.get(key)?;
        let DeValue::Integer(digits) = value.get_ref() else {
            wrong_type(r, key, value, "a whole number");
            return None;
        };
        let number = u32::from_str_radix(digits.as_str(), digits.radix()).ok().filter(|n| *n <= max);
        if number.is_none() {
            r.error(
                Code::BadValue,
                &value.span(),
                format!("{key} = {digits} is out of range"),
                format!("0 to {max}"),
            );
        }
        number
    }

    /// A day under `key`.
    pub fn date(&mut self, r: &mut Reader<'_>, key: &'static str) -> Option<Date> {
        r.asks(self.what, key, || Wanted::Date);
        let value = self.get(key)?;
        match value.get_ref() {
            DeValue::Datetime(Datetime { date: Some(date), time: None, offset: None }) => Some(*date),
            _ => {
                wrong_type(r, key, value, "a date such as 2024-09-29, without quotes");
                None
            }
        }
    }

    /// The moment under `key`: an offset date-time, or a day, which means its start, 00:00 UTC.
    pub fn start_of(&mut self, r: &mut Reader<'_>, key: &'static str) -> Option<Timestamp> {
        self.moment(r, key, Some)
    }

    /// The moment under `key`: an offset date-time, or a day, which means its end, 00:00 UTC of the next.
    pub fn end_of(&mut self, r: &mut Reader<'_>, key: &'static str) -> Option<Timestamp> {
        self.moment(r, key, |day| day.tomorrow().ok())
    }

    fn moment(
        &mut self,
        r: &mut Reader<'_>,
        key: &'static str,
        boundary: impl Fn(civil::Date) -> Option<civil::Date>,
    ) -> Option<Timestamp> {
        r.asks(self.what, key, || Wanted::Moment);
        let value = self.get(key)?;
        let (date, time, offset) = match value.get_ref() {
            DeValue::Datetime(Datetime { date: Some(date), time, offset })
                if time.is_some() == offset.is_some() =>
            {
                (date, time, offset)
            }
            _ => {
                let wanted = "a day such as 2027-03-31, or a time with its offset such as 2027-03-31T18:00:00Z, \
                              without quotes";
                wrong_type(r, key, value, wanted);
                return None;
            }
        };
        let day = civil::Date::new(date.year as i16, date.month as i8, date.day as i8).ok();
        let moment = match (time, offset) {
            (Some(time), Some(offset)) => day.and_then(|day| moment_of(day, *time, *offset)),
            _ => day.and_then(boundary).and_then(|day| tz::Offset::UTC.to_timestamp(day.at(0, 0, 0, 0)).ok()),
        };
        // What a program prints must be read again: TOML has no year below 0 and none above 9999.
        let moment = moment.filter(|moment| *moment >= Timestamp::UNIX_EPOCH);
        if moment.is_none() {
            r.error(
                Code::BadValue,
                &value.span(),
                format!("{key} is out of range"),
                "1970-01-01 to 9999-12-29",
            );
        }
        moment
    }

    /// The list under `key`, at least one text, each read by `read`; what it refuses becomes a problem at that text.
    pub fn list<T>(
        &mut self,
        r: &mut Reader<'_>,
        key: &'static str,
        read: impl Fn(&str) -> Result<T, (String, String)>,
    ) -> Vec<At<T>> {
        r.asks(self.what, key, || Wanted::Texts);
        let Some(value) = self.get(key) else { return Vec::new() };
        let DeValue::Array(items) = value.get_ref() else {
            wrong_type(r, key, value, "a list of texts, such as [\"…\", \"…\"]");
            return Vec::new();
        };
        if items.is_empty() {
            r.error(
                Code::BadValue,
                &value.span(),
                format!("{key} is empty"),
                "name at least one, or leave the key out",
            );
        }
        let mut values = Vec::with_capacity(items.len());
        for item in items.iter() {
            let Some(At { value: text, place }) = text_of(r, key, item) else { continue };
            match read(text) {
                Ok(value) => values.push(At { value, place }),
                Err((message, help)) => r.error(Code::BadValue, &item.span(), message, help),
            }
        }
        values
    }

    /// The text under `key`, read by `read`; what it refuses becomes a problem at that text.
    pub fn read<T>(
        &mut self,
        r: &mut Reader<'_>,
        key: &'static str,
        read: impl Fn(&str) -> Result<T, (String, String)>,
    ) -> Option<T> {
        let text = self.required_text(r, key)?;
        match read(text.value) {
            Ok(value) => Some(value),
            Err((message, help)) => {
                self.wrong(r, key, message, &help);
                None
            }
        }
    }

    /// The tables of an array of tables, `[[key]]`.
    pub fn tables(&mut self, r: &mut Reader<'_>, key: &'static str) -> Vec<Table<'t, 'i>> {
        self.array_of_tables(r, key, &format!("written as [[{key}]]"))
    }

    /// The tables of a list under `key`, at least one; `example` is one of them.
    pub fn inline_tables(
        &mut self,
        r: &mut Reader<'_>,
        key: &'static str,
        example: &str,
    ) -> Vec<Table<'t, 'i>> {
        let tables = self.array_of_tables(r, key, &format!("a list such as [{example}]"));
        if let Some(DeValue::Array(items)) = self.entries.get(key).map(Spanned::get_ref)
            && items.is_empty()
        {
            let message = format!("{key} is empty");
            self.wrong(r, key, message, "name at least one, or leave the key out");
        }
        tables
    }

    fn array_of_tables(&mut self, r: &mut Reader<'_>, key: &'static str, wanted: &str) -> Vec<Table<'t, 'i>> {
        r.asks(self.what, key, || Wanted::Tables);
        let Some(value) = self.get(key) else { return Vec::new() };
        let DeValue::Array(items) = value.get_ref() else {
            wrong_type(r, key, value, wanted);
            return Vec::new();
        };
        let mut tables = Vec::with_capacity(items.len());
        for item in items.iter() {
            match item.get_ref() {
                DeValue::Table(entries) => tables.push(Table::new(entries, item.span(), key)),
                _ => wrong_type(r, key, item, wanted),
            }
        }
        tables
    }

    /// The table under `key`: `[key]`, or written inline.
    pub fn table(&mut self, r: &mut Reader<'_>, key: &'static str) -> Option<Table<'t, 'i>> {
        r.asks(self.what, key, || Wanted::Table);
        let value = self.get(key)?;
        let DeValue::Table(entries) = value.get_ref() else {
            wrong_type(r, key, value, &format!("a table, written as [{key}]"));
            return None;
        };
        Some(Table::new(entries, value.span(), key))
    }

    /// Every entry as a table under a name that the file chooses: `[this.NAME]`.
    pub fn named_tables(self, r: &mut Reader<'_>, what: &'static str) -> Vec<(At<&'t str>, Table<'t, 'i>)> {
        r.asks(self.what, "*", || Wanted::Table);
        let mut tables = Vec::with_capacity(self.entries.len());
        for (key, value) in self.entries {
            let name: At<&'t str> = r.at(key.get_ref().as_ref(), &key.span());
            match value.get_ref() {
                DeValue::Table(entries) => tables.push((name, Table::new(entries, key.span(), what))),
                _ => {
                    wrong_type(r, name.value, value, &format!("a table, written as [{what}.{}]", name.value))
                }
            }
        }
        tables
    }

    /// Every entry that nobody asked for yet, as one of `words` under a key that the file chooses.
    pub fn remaining_words<T: Copy>(self, r: &mut Reader<'_>, words: &[(&str, T)]) -> Vec<(At<&'t str>, T)> {
        r.asks(self.what, "", || Wanted::Word(words.iter().map(|(word, _)| (*word).to_owned()).collect()));
        let mut found = Vec::new();
        for (key, value) in self.entries {
            let name: &'t str = key.get_ref().as_ref();
            if self.known.contains(&name) {
                continue;
            }
            let Some(text) = text_of(r, name, value) else { continue };
            if let Some(word) = word_of(r, name, text.value, &value.span(), words) {
                found.push((r.at(name, &key.span()), word));
            }
        }
        found
    }

    /// Whether the value under `key` is a table.
    pub fn is_table(&self, key: &str) -> bool {
        self.entries.get(key).is_some_and(|value| matches!(value.get_ref(), DeValue::Table(_)))
    }

    /// Reports every key that nobody asked for.
    pub fn finish(self, r: &mut Reader<'_>) {
        for (key, _) in self.entries {
            let name = key.get_ref().as_ref();
            if !self.known.contains(&name) {
                let known = self.known.join(", ");
                let help = match near::nearest(name, self.known.iter().copied()).first() {
                    Some(near) => format!("did you mean {near}? Known keys: {known}"),
                    None => format!("known keys: {known}"),
                };
                let message = format!("unknown key {} in {}", name.escape_debug(), self.what);
                r.error(Code::UnknownKey, &key.span(), message, help);
            }
        }
    }
}

/// The moment that a day, a time and an offset name.
fn moment_of(day: civil::Date, time: Time, offset: Offset) -> Option<Timestamp> {
    let (second, nanosecond) = (time.second.unwrap_or(0), time.nanosecond.unwrap_or(0));
    let time = civil::Time::new(time.hour as i8, time.minute as i8, second as i8, nanosecond as i32).ok()?;
    let minutes = match offset {
        Offset::Z => 0,
        Offset::Custom { minutes } => i32::from(minutes),
    };
    tz::Offset::from_seconds(minutes * 60).ok()?.to_timestamp(day.to_datetime(time)).ok()
}

fn text_of<'t>(r: &mut Reader<'_>, key: &str, value: &'t Spanned<DeValue<'_>>) -> Option<At<&'t str>> {
    const LIMIT_BYTES: usize = 4096;
    let DeValue::String(text) = value.get_ref() else {
        wrong_type(r, key, value, "a text in quotes");
        return None;
    };
    if text.is_empty() || text.len() > LIMIT_BYTES {
        let message = format!("{} is a text of {} bytes", key.escape_debug(), text.len());
        r.error(Code::BadValue, &value.span(), message, format!("1 to {LIMIT_BYTES} bytes"));
        return None;
    }
    Some(r.at(text.as_ref(), &value.span()))
}

fn word_of<T: Copy>(
    r: &mut Reader<'_>,
    key: &str,
    text: &str,
    span: &Range<usize>,
    words: &[(&str, T)],
) -> Option<T> {
    let found = words.iter().find(|(word, _)| *word == text).map(|(_, value)| *value);
    if found.is_none() {
        let list = words.iter().map(|(word, _)| *word).collect::<Vec<_>>().join(", ");
        let message = format!("{} = \"{}\" is not known", key.escape_debug(), text.escape_debug());
        let help = match near::nearest(text, words.iter().map(|(word, _)| *word)).first() {
            Some(near) => format!("did you mean {near}? One of: {list}"),
            None => format!("one of: {list}"),
        };
        r.error(Code::BadValue, span, message, help);
    }
    found
}

fn wrong_type(r: &mut Reader<'_>, key: &str, value: &Spanned<DeValue<'_>>, wanted: &str) {
    let found = match value.get_ref() {
        DeValue::String(_) => "a text",
        DeValue::Integer(_) | DeValue::Float(_) => "a number",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date or time",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    };
    r.error(
        Code::WrongType,
        &value.span(),
        format!("{} is {found}", key.escape_debug()),
        format!("it must be {wanted}"),
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_count_lines_and_characters() {
        let long = "ü".repeat(1000);
        let text = format!("a\n{long}b\n\nc");
        let mut problems = Problems::default();
        let r = Reader::new(0, "p.toml", &text, &mut problems);
        let end = text.len();
        for (offset, line, column) in [
            (0, 1, 1),
            (1, 1, 2),
            (2, 2, 1),
            (4, 2, 2),
            (2002, 2, 1001),
            (2004, 3, 1),
            (end - 1, 4, 1),
            (end, 4, 2),
            (end + 9, 4, 2),
        ] {
            let place = r.place(offset);
            assert_eq!((place.line, place.column), (line, column), "{offset}");
        }
        let empty = Reader::new(0, "p.toml", "", &mut problems).place(0);
        assert_eq!((empty.line, empty.column), (1, 1));
    }
}
