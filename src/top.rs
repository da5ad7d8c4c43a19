//! `interdict top`: who asks for what, by the index of the record.

use std::collections::BTreeMap;
use std::io::{IsTerminal, Write};
use std::time::Duration;

use anyhow::Context;
use interdict_audit::{Daily, Index};
use interdict_policy::printable;
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::audit::data_folder;
use crate::cli::{Outcome, TopArgs};

/// How often the table is made anew.
const EVERY: Duration = Duration::from_secs(2);
const DAY_SECS: i64 = 86_400;

/// What the rows are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum By {
    Client,
    Unit,
    Rule,
    Role,
}

impl By {
    pub(crate) const ALL: [Self; 4] = [Self::Client, Self::Unit, Self::Rule, Self::Role];

    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Unit => "unit",
            Self::Rule => "rule",
            Self::Role => "role",
        }
    }

    fn of(self, daily: &Daily) -> String {
        match self {
            Self::Client => daily.client.map_or_else(|| "-".to_owned(), |client| client.to_string()),
            Self::Unit => daily.unit.clone().unwrap_or_else(|| "-".to_owned()),
            Self::Rule => daily.rule.clone(),
            Self::Role => daily.role.clone(),
        }
    }
}

impl std::str::FromStr for By {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL
            .into_iter()
            .find(|by| by.as_str() == text)
            .ok_or_else(|| format!("{text} is no kind of row"))
    }
}

/// A row of the table.
#[derive(Default)]
struct Row {
    /// Questions and packets by verdict: block, log, allow, exempt.
    contacts: [u64; 4],
    depth: u8,
    last_us: i64,
    /// How many there are by rule, or by client where the rows are rules.
    of: BTreeMap<String, u64>,
}

const VERDICTS: [&str; 4] = ["block", "log", "allow", "exempt"];
const DEPTHS: [&str; 5] = ["-", "asked", "attempted", "connected", "received"];

pub(crate) fn top(args: &TopArgs) -> anyhow::Result<Outcome> {
    let data = data_folder(args.data.as_ref(), &args.control)?;
    let is_live = !args.once && std::io::stdout().is_terminal();
    loop {
        let index = Index::open_to_read(&data).with_context(|| {
            format!("no index in {}; an agent makes it, or `interdict audit reindex`", data.display())
        })?;
        let today = Timestamp::now().as_second().div_euclid(DAY_SECS);
        let mut rows: BTreeMap<String, Row> = BTreeMap::new();
        index.daily(today + 1 - i64::from(args.days.max(1)), today + 1, |daily| {
            rows.entry(args.by.of(&daily)).or_default().add(&daily, args.by);
        })?;
        let mut rows: Vec<(String, Row)> = rows.into_iter().collect();
        rows.sort_by_key(|(name, row)| (std::cmp::Reverse(row.all()), name.clone()));
        let shown = match args.control.json {
            true => as_json(args, &rows).to_string(),
            false => for_people(args, &rows, index.end()),
        };
        drop(index);
        let mut out = std::io::stdout().lock();
        // Back to the top left, with nothing of before below.
        let written = if is_live { write!(out, "\x1b[H\x1b[J{shown}") } else { writeln!(out, "{shown}") };
        if written.and_then(|()| out.flush()).is_err() || !is_live {
            return Ok(Outcome::Done);
        }
        std::thread::sleep(EVERY);
    }
}

impl Row {
    fn add(&mut self, daily: &Daily, by: By) {
        if let Some(at) = VERDICTS.iter().position(|verdict| *verdict == daily.verdict) {
            self.contacts[at] = self.contacts[at].saturating_add(daily.contacts);
        }
        self.depth = self.depth.max(daily.depth);
        self.last_us = self.last_us.max(daily.period_us[1]);
        let of = if by == By::Rule { By::Client } else { By::Rule }.of(daily);
        let count = self.of.entry(of).or_default();
        *count = count.saturating_add(daily.contacts);
    }

    fn all(&self) -> u64 {
        self.contacts.iter().fold(0, |all, contacts| all.saturating_add(*contacts))
    }

    fn depth(&self) -> &'static str {
        DEPTHS.get(usize::from(self.depth)).copied().unwrap_or("-")
    }

    fn last(&self) -> String {
        let time = Timestamp::from_microsecond(self.last_us).unwrap_or_default();
        time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
    }

    /// What most of it is.
    fn most(&self) -> String {
        let mut of: Vec<_> = self.of.iter().collect();
        of.sort_by_key(|(name, count)| (std::cmp::Reverse(**count), (*name).clone()));
        let shown = of.iter().take(3).map(|(name, count)| format!("{name} {count}"));
        let more = if of.len() > 3 { format!(" and {} more", of.len() - 3) } else { String::new() };
        format!("{}{more}", shown.collect::<Vec<_>>().join(", "))
    }
}

fn as_json(args: &TopArgs, rows: &[(String, Row)]) -> Value {
    let row = |(name, row): &(String, Row)| {
        let [block, log, allow, exempt] = row.contacts;
        json!({ (args.by.as_str()): name, "block": block, "log": log, "allow": allow, "exempt": exempt,
                "depth": row.depth(), "last": row.last(), "of": row.of })
    };
    json!({ "days": args.days.max(1), "rows": rows.iter().take(args.rows).map(row).collect::<Vec<_>>(), "all": rows.len() })
}

fn for_people(args: &TopArgs, rows: &[(String, Row)], events: u64) -> String {
    let days = match args.days {
        0 | 1 => "today".to_owned(),
        days => format!("{days} days"),
    };
    let mut lines = vec![
        format!(
            "{days} (UTC), {} of {} rows, {events} events on record",
            rows.len().min(args.rows),
            rows.len()
        ),
        format!(
            "{:25} {:>9} {:>9} {:>9} {:>9}  {:9}  {:20}  {}",
            args.by.as_str(),
            "block",
            "log",
            "allow",
            "exempt",
            "furthest",
            "last",
            if args.by == By::Rule { "clients" } else { "rules" }
        ),
    ];
    lines.extend(rows.iter().take(args.rows).map(|(name, row)| {
        let [block, log, allow, exempt] = row.contacts;
        format!(
            "{:25} {block:>9} {log:>9} {allow:>9} {exempt:>9}  {:9}  {:20}  {}",
            printable(name),
            row.depth(),
            row.last(),
            printable(&row.most())
        )
    }));
    lines.join("\n")
}
