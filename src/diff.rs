//! `interdict diff`: what changes between two policies, by rule, by decision, and for what is on record.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use interdict_policy::diff::{Change, Decided, Difference, Effect, differences, effects};
use interdict_policy::{Ask, Policy};
use serde::Serialize;
use serde_json::{Value, json};

use crate::cli::{DiffArgs, Outcome};
use crate::store::Store;
use crate::{files, history};

/// Clients and names whose verdict changes that are told apart; more are only counted.
const REPLAYED_LIMIT: usize = 100_000;
/// Rows of each list that people are shown.
const SHOWN: usize = 200;

pub(crate) fn diff(args: &DiffArgs) -> anyhow::Result<Outcome> {
    let (old, new) = (policy(&args.old, args.data.as_deref())?, policy(&args.new, args.data.as_deref())?);
    let [Some(old), Some(new)] = [old, new] else { return Ok(Outcome::Finding) };
    let (entries, decisions) = (differences(&old, &new), effects(&old, &new));
    let replayed = args.replay.as_deref().map(|from| replay(from, &old, &new)).transpose()?;
    if args.json {
        let all = json!({
            "old": old.digest().to_string(),
            "new": new.digest().to_string(),
            "entries": entries,
            "decisions": decisions,
            "replay": replayed,
        });
        println!("{all}");
        return Ok(Outcome::Done);
    }
    println!("old  {}  {}\nnew  {}  {}", old.digest(), args.old, new.digest(), args.new);
    print_entries(&entries);
    print_decisions(&decisions);
    if let Some(replayed) = &replayed {
        print_replay(replayed);
    }
    Ok(Outcome::Done)
}

/// A policy by its path, by the digest under which it was kept, or the one that is embedded. `None` when it is not in
/// order, which was said.
fn policy(named: &str, data: Option<&Path>) -> anyhow::Result<Option<Policy>> {
    if named.len() == 64 && named.bytes().all(|byte| byte.is_ascii_hexdigit()) && !Path::new(named).exists() {
        let data = data.context("a policy named by its digest needs --data DIR, where it was kept")?;
        let kept = Store::open(data)?.kept(named);
        return kept.with_context(|| format!("{named} is not kept in {}", data.display())).map(Some);
    }
    let paths = if named == "embedded" { vec![] } else { vec![PathBuf::from(named)] };
    match files::compile_paths(&paths, None) {
        Ok(compiled) => Ok(Some(compiled.policy)),
        Err(problems) => {
            eprintln!("{problems}");
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
        let Some(asks) = asks(event) else { return };
        let count = event["count"].as_u64().unwrap_or(1);
        (events, contacts) = (events + 1, contacts + count);
        let (before, after) = (decided(old, &asks), decided(new, &asks));
        if before != after {
            let client = event["client"].as_str().map(str::to_owned);
            let key = (client, asks[0].to_string(), before, after);
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

/// What an event asked: an address, or a name and the target that decided for it. `None` for what is no contact.
fn asks(event: &Value) -> Option<Vec<Ask>> {
    let asked = &event["asked"];
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

/// By the name itself; by its target only where no rule concerns the name.
fn decided(policy: &Policy, asks: &[Ask]) -> Decided {
    let decisions = asks.iter().map(|ask| Decided::by(policy, ask));
    let mut decisions: Vec<Decided> = decisions.collect();
    let at = decisions.iter().position(|decided| decided.rule.is_some()).unwrap_or(0);
    decisions.swap_remove(at)
}

fn print_entries(entries: &[Difference]) {
    if entries.is_empty() {
        println!("\nBoth say the same.");
    }
    for Difference { entry, id, change, keys } in entries {
        let change = match change {
            Change::Added => "is new",
            Change::Removed => "is gone",
            Change::Changed => "changes",
        };
        println!("\n{entry} {id} {change}");
        for key in keys.iter().filter(|key| key.key != "id") {
            match (key.old.as_slice(), key.new.as_slice()) {
                ([old], [new]) => println!("    {}: {old} -> {new}", key.key),
                (old, new) => {
                    print_values(&key.key, '-', old);
                    print_values(&key.key, '+', new);
                }
            }
        }
    }
}

fn print_values(key: &str, sign: char, values: &[String]) {
    values.iter().take(SHOWN).for_each(|value| println!("    {key}: {sign} {value}"));
    print_rest(values.len());
}

fn print_rest(all: usize) {
    if all > SHOWN {
        println!("    … and {} more", all - SHOWN);
    }
}

fn print_decisions(decisions: &[Effect]) {
    if decisions.is_empty() {
        return println!("\nNothing that either names is decided differently.");
    }
    println!("\nWhat is decided differently, of what either names:");
    for Effect { ask, old, new } in decisions.iter().take(SHOWN) {
        println!("    {ask}: {old} -> {new}");
    }
    print_rest(decisions.len());
}

fn print_replay(replayed: &Replayed) {
    let Replayed { events, contacts, strange, changes, not_listed } = replayed;
    println!("\nOf {contacts} contacts in {events} events on record:");
    if changes.is_empty() {
        println!("    none would be decided differently");
    }
    for Replay { client, effect: Effect { ask, old, new }, contacts } in changes.iter().take(SHOWN) {
        let client = client.as_deref().unwrap_or("(client unknown)");
        println!("    {contacts:>8} {client:<15} {ask}: {old} -> {new}");
    }
    print_rest(changes.len());
    if *not_listed > 0 {
        println!("    {not_listed:>8} more, of clients and names beyond the first {REPLAYED_LIMIT}");
    }
    if *strange > 0 {
        println!("    ({strange} lines are no events)");
    }
}
