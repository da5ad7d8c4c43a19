//! `interdict diff`: what changes between two policies, by rule, by decision, and for what is on record.

use std::collections::HashMap;
use std::io::{self, BufWriter, Write};
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use interdict_policy::diff::{Change, Decided, Difference, Effect, Untried, differences, effects, untried};
use interdict_policy::{Ask, Policy, Timestamp, printable};
use serde::Serialize;
use serde_json::{Value, json};

use crate::cli::{DiffArgs, Outcome};
use crate::store::Store;
use crate::{files, history, out};

/// Clients and names whose verdict changes that are told apart; more are only counted.
const REPLAYED_LIMIT: usize = 100_000;
/// Rows of each list that people are shown.
const SHOWN: usize = 200;

pub(crate) fn diff(args: &DiffArgs) -> anyhow::Result<Outcome> {
    let [Some(old), Some(new)] = [policy(&args.old, args)?, policy(&args.new, args)?] else {
        return Ok(Outcome::Finding);
    };
    let (entries, decisions) = (differences(&old, &new), effects(&old, &new));
    let untried = untried(&old, &new);
    let replayed = args.replay.as_deref().map(|from| replay(from, &old, &new)).transpose()?;
    if args.json {
        let all = json!({
            "old": old.digest().to_string(),
            "new": new.digest().to_string(),
            "entries": entries,
            "decisions": decisions,
            "not_tried": untried,
            "replay": replayed,
        });
        out::line(all)?;
        return Ok(Outcome::Done);
    }
    let out = &mut BufWriter::new(io::stdout().lock());
    writeln!(out, "old  {}  {}\nnew  {}  {}", old.digest(), args.old, new.digest(), args.new)?;
    print_entries(out, &entries)?;
    print_decisions(out, &decisions, &untried)?;
    if let Some(replayed) = &replayed {
        print_replay(out, replayed)?;
    }
    out.flush()?;
    Ok(Outcome::Done)
}

/// A policy by its path, by the digest under which it was kept, or the one that is embedded. `None` when it is not in
/// order, which was said.
fn policy(named: &str, args: &DiffArgs) -> anyhow::Result<Option<Policy>> {
    if named.len() == 64 && named.bytes().all(|byte| byte.is_ascii_hexdigit()) && !Path::new(named).exists() {
        let data = args
            .data
            .as_deref()
            .context("a policy named by its digest needs --data DIR, where it was kept")?;
        let kept = Store::open(data)?.kept(named);
        return kept.with_context(|| format!("{named} is not kept in {}", data.display())).map(Some);
    }
    let paths = if named == "embedded" { vec![] } else { vec![PathBuf::from(named)] };
    match files::compile_paths(&paths, args.profile.as_deref()) {
        Ok(compiled) => Ok(Some(compiled.policy)),
        Err(problems) => {
            out::say(problems)?;
            Ok(None)
        }
    }
}

/// What is on record and would be decided otherwise.
#[derive(Serialize)]
struct Replayed {
    /// Events that a rule decided.
    events: u64,
    /// Contacts in them, some events counting several.
    contacts: u64,
    /// Lines that are no events.
    strange: u64,
    /// What changes, the most contacts first.
    changes: Vec<Replay>,
    /// Contacts that change and have no row of their own.
    not_listed: u64,
}

#[derive(Serialize)]
struct Replay {
    client: Option<String>,
    #[serde(flatten)]
    effect: Effect,
    contacts: u64,
}

fn replay(from: &Path, old: &Policy, new: &Policy) -> anyhow::Result<Replayed> {
    let mut changes: HashMap<(Option<String>, String, Decided, Decided), u64> = HashMap::new();
    let (mut events, mut contacts, mut not_listed) = (0, 0, 0);
    let strange = history::each_event(from, |event| {
        let Some(contact) = Contact::of(event) else { return };
        let count = event["count"].as_u64().unwrap_or(1);
        (events, contacts) = (events + 1, contacts + count);
        let (before, after) = (contact.decided(old), contact.decided(new));
        if before != after {
            let client = contact.client.map(|client| client.to_string());
            let key = (client, contact.asks[0].to_string(), before, after);
            match changes.len() < REPLAYED_LIMIT || changes.contains_key(&key) {
                true => *changes.entry(key).or_default() += count,
                false => not_listed += count,
            }
        }
    })?;
    if events == 0 && strange > 0 {
        bail!("{} holds no events; name a file of events, or the data folder", from.display());
    }
    let row =
        |((client, ask, old, new), contacts)| Replay { client, effect: Effect { ask, old, new }, contacts };
    let mut changes: Vec<Replay> = changes.into_iter().map(row).collect();
    changes
        .sort_by(|a, b| (b.contacts, &a.client, &a.effect.ask).cmp(&(a.contacts, &b.client, &b.effect.ask)));
    Ok(Replayed { events, contacts, strange, changes, not_listed })
}

/// What an event asked, for whom and when.
struct Contact {
    /// An address, or a name and the target that decided for it.
    asks: Vec<Ask>,
    client: Option<IpAddr>,
    at: Timestamp,
}

impl Contact {
    /// `None` for what is no contact.
    fn of(event: &Value) -> Option<Self> {
        let asks = asks(&event["asked"])?;
        let client = event["client"].as_str().and_then(|client| client.parse().ok());
        // An event whose time cannot be read is judged by the whole register: 1970 is before every end.
        let at = event["time"].as_str().and_then(|time| time.parse().ok());
        Some(Self { asks, client, at: at.unwrap_or(Timestamp::UNIX_EPOCH) })
    }

    /// By the name itself; by its target only where no rule concerns the name.
    fn decided(&self, policy: &Policy) -> Decided {
        let decisions = self.asks.iter().map(|ask| Decided::by(policy, ask, self.client, self.at));
        let mut decisions: Vec<Decided> = decisions.collect();
        let at = decisions.iter().position(|decided| decided.rule.is_some()).unwrap_or(0);
        decisions.swap_remove(at)
    }
}

fn asks(asked: &Value) -> Option<Vec<Ask>> {
    let names = [&asked["name"], &asked["via"]].into_iter().filter_map(Value::as_str);
    let names: Vec<Ask> = names.filter_map(|name| name.parse().ok()).collect();
    if !names.is_empty() {
        return Some(names);
    }
    let address = asked["address"].as_str()?;
    let whole = match (asked["port"].as_u64(), asked["protocol"].as_str()) {
        (Some(port), Some(protocol @ ("tcp" | "udp"))) if address.contains(':') => {
            format!("[{address}]:{port}/{protocol}")
        }
        (Some(port), Some(protocol @ ("tcp" | "udp"))) => format!("{address}:{port}/{protocol}"),
        _ => address.to_owned(),
    };
    Some(vec![whole.parse().ok()?])
}

fn print_entries(out: &mut impl Write, entries: &[Difference]) -> io::Result<()> {
    if entries.is_empty() {
        writeln!(out, "\nBoth say the same.")?;
    }
    for Difference { entry, id, change, keys } in entries {
        let change = match change {
            Change::Added => "is new",
            Change::Removed => "is gone",
            Change::Changed => "changes",
        };
        writeln!(out, "\n{entry} {id} {change}")?;
        for key in keys.iter().filter(|key| key.key != "id") {
            match (key.old.as_slice(), key.new.as_slice()) {
                ([old], [new]) => {
                    writeln!(out, "    {}: {} -> {}", key.key, printable(old), printable(new))?;
                }
                (old, new) => {
                    print_values(out, &key.key, '-', old)?;
                    print_values(out, &key.key, '+', new)?;
                }
            }
        }
    }
    Ok(())
}

fn print_values(out: &mut impl Write, key: &str, sign: char, values: &[String]) -> io::Result<()> {
    for value in values.iter().take(SHOWN) {
        writeln!(out, "    {key}: {sign} {}", printable(value))?;
    }
    print_rest(out, values.len())
}

fn print_rest(out: &mut impl Write, all: usize) -> io::Result<()> {
    match all.saturating_sub(SHOWN) {
        0 => Ok(()),
        more => writeln!(out, "    … and {more} more"),
    }
}

fn print_decisions(out: &mut impl Write, decisions: &[Effect], untried: &[Untried]) -> io::Result<()> {
    match decisions {
        [] => writeln!(out, "\nNothing that was tried, of what either names, is decided differently.")?,
        _ => writeln!(out, "\nWhat is decided differently, of what either names:")?,
    }
    for Effect { ask, old, new } in decisions.iter().take(SHOWN) {
        writeln!(out, "    {ask}: {old} -> {new}")?;
    }
    print_rest(out, decisions.len())?;
    for untried in untried {
        let what = match untried {
            Untried::Patterns => "a pattern of which no example was found",
            Untried::Exemptions => "clients on the register of exemptions",
        };
        writeln!(out, "    (not tried: {what}; --replay decides again for those on record)")?;
    }
    Ok(())
}

fn print_replay(out: &mut impl Write, replayed: &Replayed) -> io::Result<()> {
    let Replayed { events, contacts, strange, changes, not_listed } = replayed;
    writeln!(out, "\nOf {contacts} contacts in {events} events on record:")?;
    if changes.is_empty() {
        writeln!(out, "    none would be decided differently")?;
    }
    for Replay { client, effect: Effect { ask, old, new }, contacts } in changes.iter().take(SHOWN) {
        let client = client.as_deref().unwrap_or("(client unknown)");
        writeln!(out, "    {contacts:>8} {client:<15} {ask}: {old} -> {new}")?;
    }
    print_rest(out, changes.len())?;
    if *not_listed > 0 {
        let limit = REPLAYED_LIMIT;
        writeln!(out, "    {not_listed:>8} more, of clients and names beyond the first {limit}")?;
    }
    if *strange > 0 {
        writeln!(out, "    ({strange} lines are no events)")?;
    }
    Ok(())
}
