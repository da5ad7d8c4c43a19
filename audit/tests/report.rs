//! A year of forty units, whose truth is known: every figure of the report is the truth.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, SystemTime};

use interdict_audit::history::{Contact, Decided};
use interdict_audit::{
    Asked, Cited, Depth, Entry, Figures, HEADLINE_ROLES, Index, Log, Question, Record, State, report,
};
use interdict_policy::{Digest, Policy, Source, Verdict, compile};
use jiff::civil::{Date, date};
use serde_json::json;
use tempfile::TempDir;

const UNITS: u8 = 40;
const CLIENTS: u8 = 13;
const QUIET: i64 = 30;
/// So many that a year has a million events.
const EVENTS_A_DAY: u64 = 55;
const START: Date = date(2025, 11, 1);
/// Days of the simulated year; the report is about the last 300 of them.
const YEAR: i64 = 365;
const FROM: i64 = 65;

/// What a client does, day by day.
#[derive(Clone, Copy)]
enum Fate {
    /// In contact every week.
    Active,
    /// From a week before the end on.
    New,
    /// Until a day, off for two months, and again.
    Relapsed(i64),
    /// Until a day, and then asks for other things.
    Eliminated(i64),
    /// Until a day, and then nothing.
    Silent(i64),
    /// On the register all the time.
    Exempt,
    /// Reads news, and no more.
    Reader,
}

struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % limit
    }
}

fn fate(random: &mut Random) -> Fate {
    let day = FROM + 10 + random.below((YEAR - FROM - 110) as u64) as i64;
    match random.below(8) {
        0 | 1 => Fate::Active,
        2 => Fate::New,
        3 => Fate::Relapsed(day),
        4 => Fate::Eliminated(day),
        5 => Fate::Silent(day),
        6 => Fate::Exempt,
        _ => Fate::Reader,
    }
}

impl Fate {
    /// Whether it is in contact on a day, given the day of the week on which it is.
    fn is_in_contact(self, day: i64, weekday: i64) -> bool {
        let is_its_day = day % 7 == weekday;
        is_its_day
            && match self {
                Self::Active | Self::Exempt | Self::Reader => true,
                Self::New => day >= YEAR - 14,
                Self::Relapsed(until) => day <= until || day > until + 60,
                Self::Eliminated(until) | Self::Silent(until) => day <= until,
            }
    }

    const fn state(self) -> Option<State> {
        match self {
            Self::Active => Some(State::Active),
            Self::New => Some(State::New),
            Self::Relapsed(_) => Some(State::Relapsed),
            Self::Eliminated(_) => Some(State::Eliminated),
            Self::Silent(_) => Some(State::Silent),
            Self::Exempt => Some(State::Exempt),
            Self::Reader => None,
        }
    }
}

fn policy() -> Policy {
    let mut text =
        "format = 1\n[[rule]]\nid = \"v\"\nrole = \"update\"\naction = \"block\"\nhosts = [\"v.example\"]\n"
            .to_owned();
    for unit in 0..UNITS {
        text += &format!(
            "[[unit]]\nid = \"u{unit:02}\"\ntitle = \"Unit <{unit}>\"\nnetworks = [\"10.{unit}.0.0/16\"]\n"
        );
    }
    compile(&[Source { name: "p.toml".into(), text }]).unwrap().policy
}

fn day_of(day: i64) -> Date {
    START.saturating_add(jiff::Span::new().days(day))
}

/// What should be in the report of a unit.
#[derive(Default)]
struct Truth {
    clients: u64,
    states: BTreeMap<State, u64>,
    depths: [u64; 4],
    months: BTreeMap<Date, BTreeSet<IpAddr>>,
    weeks: BTreeMap<Date, BTreeSet<IpAddr>>,
    roles: BTreeMap<String, (BTreeSet<IpAddr>, u64)>,
    first: Option<Date>,
}

impl Truth {
    fn contact(&mut self, client: IpAddr, role: &str, day: i64, count: u64, is_headline: bool) {
        let date = day_of(day);
        if is_headline {
            self.first = self.first.into_iter().chain([date]).min();
        }
        if day < FROM {
            return;
        }
        let (clients, contacts) = self.roles.entry(role.to_owned()).or_default();
        clients.insert(client);
        *contacts += count;
        if is_headline {
            self.months.entry(date.first_of_month()).or_default().insert(client);
            let monday = date
                .saturating_sub(jiff::Span::new().days(i64::from(date.weekday().to_monday_zero_offset())));
            self.weeks.entry(monday).or_default().insert(client);
        }
    }

    fn is_told_by(&self, figures: &Figures) {
        let unit = &figures.unit;
        assert_eq!(figures.clients, self.clients, "{unit}");
        let states: BTreeMap<State, u64> =
            figures.states.iter().filter(|(_, count)| **count > 0).map(|(s, c)| (*s, *c)).collect();
        assert_eq!(states, self.states, "{unit}");
        assert_eq!(figures.states.values().sum::<u64>(), figures.clients, "{unit}: states sum to all");
        assert_eq!(figures.depths, self.depths, "{unit}");
        let sizes = |sets: &BTreeMap<Date, BTreeSet<IpAddr>>| {
            sets.iter().map(|(day, set)| (*day, set.len() as u64)).collect::<BTreeMap<_, _>>()
        };
        assert_eq!((&figures.months, &figures.weeks), (&sizes(&self.months), &sizes(&self.weeks)), "{unit}");
        let roles: BTreeMap<String, (u64, u64)> =
            figures.roles.iter().map(|(role, of)| (role.clone(), (of.clients, of.contacts))).collect();
        let expect: BTreeMap<String, (u64, u64)> = self
            .roles
            .iter()
            .map(|(role, (clients, contacts))| (role.clone(), (clients.len() as u64, *contacts)))
            .collect();
        assert_eq!(roles, expect, "{unit}");
        assert_eq!(figures.first_detection.as_ref().map(|clocks| clocks.day), self.first, "{unit}");
    }
}

/// Records a year, and says what is true of each unit; the last is of all.
fn simulate(log: &Log, policy: &Policy) -> Vec<Truth> {
    let mut random = Random(11);
    let mut truths: Vec<Truth> = (0..=UNITS).map(|_| Truth::default()).collect();
    let mut clients = Vec::new();
    for unit in 0..UNITS {
        for number in 0..CLIENTS {
            let (fate, client) = (fate(&mut random), IpAddr::from([10, unit, 0, number]));
            let depth = random.below(4) as usize;
            clients.push((unit, client, fate, random.below(7) as i64, depth));
            for truth in [usize::from(unit), usize::from(UNITS)] {
                let truth = &mut truths[truth];
                if let Some(state) = fate.state() {
                    truth.clients += 1;
                    *truth.states.entry(state).or_default() += 1;
                    if !matches!(fate, Fate::Exempt) {
                        truth.depths[depth] += 1;
                    }
                }
            }
        }
    }
    let midnight: SystemTime = START.to_zoned(jiff::tz::TimeZone::UTC).unwrap().timestamp().into();
    for day in 0..YEAR {
        for (unit, client, fate, weekday, depth) in &clients {
            let at = midnight + Duration::from_secs(86_400 * day as u64 + random.below(86_000));
            if fate.is_in_contact(day, *weekday) {
                let role = if matches!(fate, Fate::Reader) { "news-blog" } else { "update" };
                let verdict = if matches!(fate, Fate::Exempt) { Verdict::Exempt } else { Verdict::Block };
                for count in 1..=EVENTS_A_DAY + random.below(3) {
                    let asked = Asked::Name {
                        name: "v.example".into(),
                        rtype: "A".into(),
                        via: None,
                        resolver: None,
                    };
                    let entry = Entry::dns("udp", *client, asked, verdict, "v", role, Digest([7; 32]));
                    hand_in(log, entry.counted(count, at, at).of_unit(policy.unit(*client)).at(at));
                    for truth in [usize::from(*unit), usize::from(UNITS)] {
                        truths[truth].contact(
                            *client,
                            role,
                            day,
                            count,
                            verdict == Verdict::Block && role == "update",
                        );
                    }
                }
                if *depth > 0 {
                    let asked = Asked::Address { address: *client, port: Some(443), protocol: "tcp".into() };
                    let depth = [Depth::Asked, Depth::Attempted, Depth::Connected, Depth::Received][*depth];
                    let entry = Entry::packet(
                        "xdp",
                        Some(*client),
                        asked,
                        verdict,
                        "v",
                        role,
                        Digest([7; 32]),
                        1,
                        (at, at),
                    );
                    hand_in(log, entry.reached(depth, true, json!({})).of_unit(policy.unit(*client)).at(at));
                }
            }
            let is_alive = match fate {
                Fate::Eliminated(until) => day > *until && day % 9 == 0,
                _ => false,
            };
            if is_alive {
                let entry = Entry::noticed("client.alive", *client, json!({}), Digest([7; 32]));
                hand_in(log, entry.of_unit(policy.unit(*client)).at(at));
            }
        }
    }
    truths
}

fn hand_in(log: &Log, entry: Entry) {
    while log.counters().queued > 10_000 {
        std::thread::yield_now();
    }
    log.record(entry);
}

fn question(unit: Option<&str>) -> Question {
    Question {
        from: day_of(FROM),
        to: day_of(YEAR),
        quiet_days: QUIET as u16,
        unit: unit.map(str::to_owned),
        headline: HEADLINE_ROLES.map(str::to_owned).to_vec(),
    }
}

fn index(data: &Path) -> Index {
    let mut index = Index::open(data).unwrap();
    index.catch_up(&AtomicBool::new(false)).unwrap();
    index
}

#[test]
fn every_figure_is_the_truth() {
    let data = TempDir::new().unwrap();
    let policy = policy();
    let (log, writer) = Record::open(data.path(), "n").unwrap().start().unwrap();
    let truths = simulate(&log, &policy);
    writer.close();
    assert_eq!(log.counters().lost, 0);
    assert!(log.counters().written >= 1_000_000, "{}", log.counters().written);
    let index = index(data.path());
    let whole = report(data.path(), &index, &question(None)).unwrap();
    truths[usize::from(UNITS)].is_told_by(&whole.total);
    assert_eq!(whole.units.len(), usize::from(UNITS));
    for (figures, truth) in whole.units.iter().zip(&truths) {
        truth.is_told_by(figures);
    }
    let sum: u64 = whole.units.iter().map(|figures| figures.clients).sum();
    assert_eq!(sum, whole.total.clients, "units sum to all");
    // One unit alone is as it is among all.
    let one = report(data.path(), &index, &question(Some("u07"))).unwrap();
    truths[7].is_told_by(&one.total);
    assert_eq!(one.units.len(), 1);
    // The same question has the same answer, from an index that is made again too.
    let shown = serde_json::to_string(&whole).unwrap();
    drop(index);
    Index::remove(data.path()).unwrap();
    let again = report(data.path(), &self::index(data.path()), &question(None)).unwrap();
    assert_eq!(serde_json::to_string(&again).unwrap(), shown);
    let stopped = truths[usize::from(UNITS)].states[&State::Eliminated];
    assert_eq!(whole.total.elimination.unwrap().stopped, stopped);
}

#[test]
fn a_period_without_data_says_so() {
    let data = TempDir::new().unwrap();
    let (log, writer) = Record::open(data.path(), "n").unwrap().start().unwrap();
    log.record(Entry::admin("test", json!({}), None));
    writer.close();
    let found = report(data.path(), &index(data.path()), &question(None)).unwrap();
    assert_eq!((found.total.clients, found.units.len(), found.coverage.share), (0, 0, 0.0));
    assert_eq!(found.coverage.gaps.len(), 1, "nobody recorded from the first day to the last");
    assert_eq!(found.total.elimination, None);
}

#[test]
fn a_sign_of_life_behind_the_period_says_nothing_of_it() {
    let data = TempDir::new().unwrap();
    let (log, writer) = Record::open(data.path(), "n").unwrap().start().unwrap();
    let midnight: SystemTime = START.to_zoned(jiff::tz::TimeZone::UTC).unwrap().timestamp().into();
    let (client, at) = (IpAddr::from([10, 0, 0, 1]), |day: u64| midnight + Duration::from_secs(86_400 * day));
    let asked = Asked::Name { name: "v.example".into(), rtype: "A".into(), via: None, resolver: None };
    let contact = Entry::dns("udp", client, asked, Verdict::Block, "v", "update", Digest([7; 32]));
    log.record(contact.counted(1, at(100), at(100)).at(at(100)));
    let alive =
        |day| log.record(Entry::noticed("client.alive", client, json!({}), Digest([7; 32])).at(at(day)));
    [120, YEAR as u64 + 1].into_iter().for_each(alive);
    writer.close();
    let index = index(data.path());
    let state = |days: i64| {
        let question = Question { to: day_of(days), ..question(None) };
        let states = report(data.path(), &index, &question).unwrap().total.states;
        states.into_iter().find(|(_, count)| *count > 0).unwrap().0
    };
    assert_eq!(
        (state(145), state(YEAR), state(YEAR + 2)),
        (State::Eliminated, State::Silent, State::Eliminated)
    );
}

#[test]
fn what_was_imported_is_told_apart_and_found_on_the_day_it_was_put_on_record() {
    let data = TempDir::new().unwrap();
    let (log, writer) = Record::open(data.path(), "n").unwrap().start().unwrap();
    let cited = Cited { format: "unbound".into(), source: "ns1".into(), sha256: "ab".repeat(32) };
    let at = |day: i64| day_of(day).to_zoned(jiff::tz::TimeZone::UTC).unwrap().timestamp();
    let contact = |client: u8, day: i64, count: u64| Contact {
        client: IpAddr::from([10, 0, 0, client]),
        period: [at(day); 2],
        decided: Some(Decided {
            asked: Asked::Name { name: "v.example".into(), rtype: "A".into(), via: None, resolver: None },
            channel: Some("udp".into()),
            verdict: Verdict::Log,
            rule: "v".into(),
            role: "update".into(),
            exemption: None,
            count,
            depth: Depth::Asked,
        }),
    };
    // Five that ask alike, one that asks as much as twelve of them, and a sign of life of the first.
    let clients = (1..=5).map(|client| contact(client, 100, 10)).chain([contact(6, 100, 120)]);
    let alive = Contact { decided: None, ..contact(1, 350, 0) };
    let entries = clients.chain([alive]).map(|one| Entry::imported(one, cited.clone(), Digest([7; 32])));
    log.write_all(entries.collect()).unwrap();
    let detail = json!({ "source": "ns1", "format": "unbound", "file": "a.log", "sha256": cited.sha256,
        "first": at(100).to_string(), "last": at(350).to_string(), "entries": 900, "strange": 1, "contacts": 170 });
    log.write_all(vec![Entry::admin("history.imported", detail, None)]).unwrap();
    writer.close();
    let found = report(data.path(), &index(data.path()), &question(None)).unwrap();
    let states = &found.total.states;
    assert_eq!((found.total.clients, states[&State::Eliminated], states[&State::Silent]), (6, 1, 5));
    assert_eq!(found.total.months, BTreeMap::from([(date(2026, 2, 1), 6)]));
    let today = jiff::Timestamp::now().to_zoned(jiff::tz::TimeZone::UTC).date();
    assert_eq!(found.total.first_detection.unwrap().day, today);
    let relay = &found.relays[0];
    assert_eq!((found.relays.len(), relay.client, relay.times_the_median), (1, [10, 0, 0, 6].into(), 12.0));
    assert_eq!((relay.uncounted, found.uncounted), (11, 11));
    let imported = &found.imported[0];
    assert_eq!((imported.event, imported.contacts, imported.source.as_str()), (8, 170, "ns1"));
    assert!(found.own_since.is_some());
    // Of a period without them there is nothing to say.
    let later = Question { from: day_of(360), to: day_of(365), ..question(None) };
    assert_eq!(report(data.path(), &index(data.path()), &later).unwrap().imported, []);
}
