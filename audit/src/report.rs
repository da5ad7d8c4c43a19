//! Who still contacts the vendor, who stopped, and who may have: the figures of a report, from the index and the checkpoints.
//! The same record and the same questions give the same figures, to the byte.
//!
//! A client is an address, or its pseudonym. Whoever stands behind a translator or a relay is counted as one with all others
//! there, so that numbers of clients are a lower bound. "Contact observed" is all that is said: not who used what, nor why.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::io;
use std::net::IpAddr;
use std::path::Path;

use jiff::Timestamp;
use jiff::civil::Date;
use serde::Serialize;

use crate::checkpoint::{self, Reason, Signed};
use crate::index::{Daily, Index};

/// Between two checkpoints of a sensor that runs, in seconds.
const SILENCE_SECS: f64 = 150.0;
const DAY_SECS: f64 = 86_400.0;
const DAY_MICROS: i64 = 86_400_000_000;
/// Roles whose contacts are of a product at work. All others inform people, and are told apart from the headline.
pub const HEADLINE_ROLES: [&str; 6] = ["update", "ksn", "activation", "product-service", "telemetry", "cdn"];
/// What is said of events without a unit.
const NO_UNIT: &str = "-";

/// What a report is asked for.
#[derive(Clone, Debug, Serialize)]
pub struct Question {
    /// The first day, in UTC.
    pub from: Date,
    /// The day behind the last.
    pub to: Date,
    /// Days without contact after which a client has stopped, if it gave a sign of life since.
    pub quiet_days: u16,
    /// Only of this unit.
    pub unit: Option<String>,
    /// Roles of the headline.
    pub headline: Vec<String>,
}

/// What became of a client by the end of the period. Every client that was ever in contact before that is in one of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// In contact within the quiet days before the end, and before those too, without a pause as long as that in the period.
    Active,
    /// In contact within the quiet days before the end, for the first time.
    New,
    /// In contact within the quiet days before the end, after a pause of at least as many that ended in the period.
    Relapsed,
    /// Not in contact within the quiet days before the end, in which it gave a sign of life.
    Eliminated,
    /// Not in contact within the quiet days before the end, and without any sign of life: nobody knows.
    Silent,
    /// Let through by the register of exemptions within the quiet days before the end, and not in contact besides.
    Exempt,
}

impl State {
    /// All of them.
    pub const ALL: [Self; 6] =
        [Self::Active, Self::New, Self::Relapsed, Self::Eliminated, Self::Silent, Self::Exempt];

    /// Its name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::New => "new",
            Self::Relapsed => "relapsed",
            Self::Eliminated => "eliminated",
            Self::Silent => "silent",
            Self::Exempt => "exempt",
        }
    }
}

/// What is known of a client.
#[derive(Clone, Debug, Default)]
pub struct History {
    /// Days of contacts of headline roles that no exemption let through.
    pub contacts: BTreeSet<i64>,
    /// Days of such as the register let through.
    pub exempt: BTreeSet<i64>,
    /// The last day of any sign of life.
    pub alive: Option<i64>,
    /// The first day on which a contact was put on record: later than the contact, if it was imported.
    detected: Option<i64>,
    unit: Option<(i64, Option<String>)>,
}

/// What became of a client by the end of a period, whose days are numbers; `None` if it never was in contact.
pub fn state(history: &History, [from, to]: [i64; 2], quiet: i64) -> Option<State> {
    let recent = to - quiet;
    let is_recent = |days: &BTreeSet<i64>| days.range(recent..to).next().is_some();
    let (first, last) = (history.contacts.range(..to).next(), history.contacts.range(..to).next_back());
    let (Some(first), Some(last)) = (first, last) else {
        return history.exempt.range(..to).next().map(|_| match is_recent(&history.exempt) {
            true => State::Exempt,
            false if history.alive.is_some_and(|alive| alive >= recent) => State::Eliminated,
            false => State::Silent,
        });
    };
    Some(if *last >= recent {
        let days = || history.contacts.range(..to);
        let has_paused =
            days().zip(days().skip(1)).any(|(before, after)| after - before > quiet && *after >= from);
        match (*first >= recent, has_paused) {
            (true, _) => State::New,
            (false, true) => State::Relapsed,
            (false, false) => State::Active,
        }
    } else if is_recent(&history.exempt) {
        State::Exempt
    } else if history.alive.is_some_and(|alive| alive >= recent) {
        State::Eliminated
    } else {
        State::Silent
    })
}

/// Figures of a unit, or of all.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Figures {
    /// The unit's id; `-` for clients of none, empty for all.
    pub unit: String,
    /// Clients that were ever in contact before the end.
    pub clients: u64,
    /// How many are in which state; they sum to `clients`.
    pub states: BTreeMap<State, u64>,
    /// Clients in contact in the period, by how far their contacts got: asked, attempted, connected, received.
    pub depths: [u64; 4],
    /// Contacts in the period by role: clients, and questions or packets; and whether it is of the headline.
    pub roles: BTreeMap<String, Role>,
    /// Clients in contact by the first day of a week, Monday.
    pub weeks: BTreeMap<Date, u64>,
    /// Clients in contact by month, its first day.
    pub months: BTreeMap<Date, u64>,
    /// Days until clients stopped.
    pub elimination: Option<Elimination>,
    /// The day on which the first contact of a headline role was put on record, and what FAR 52.204-23 counts from it.
    pub first_detection: Option<Clocks>,
}

/// Contacts of a role.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Role {
    /// Whether it is of the headline.
    pub headline: bool,
    /// Clients in contact in the period.
    pub clients: u64,
    /// Questions and packets.
    pub contacts: u64,
    /// How many of them were blocked.
    pub blocked: u64,
}

/// Reports that FAR 52.204-23(c) asks for: business days from Monday to Friday, holidays not taken out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Clocks {
    /// Of the first contact.
    pub day: Date,
    /// Three business days later.
    pub report_by: Date,
    /// Ten business days later.
    pub follow_up_by: Date,
}

/// Days from the beginning of the period, or a client's first contact in it, to its last (Kaplan-Meier): clients still in contact,
/// and such of which nothing is known, are censored.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Elimination {
    /// Clients in contact in the period.
    pub clients: u64,
    /// Those that stopped.
    pub stopped: u64,
    /// After so many days half have stopped, with its interval of 95 % (log-log); `None` where it is not reached.
    pub median_days: Option<i64>,
    /// Its bounds.
    pub interval: [Option<i64>; 2],
    /// Day, and the share that is still in contact after it.
    pub curve: Vec<(i64, f64)>,
}

/// How much of the period is covered by checkpoints.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Coverage {
    /// Of the period, from 0 to 1.
    pub share: f64,
    /// Times without checkpoints in the period, longer than two and a half minutes.
    pub gaps: Vec<[String; 2]>,
    /// How many more there are.
    pub more_gaps: u64,
    /// Events that found no room.
    pub lost_events: u64,
    /// Tests of the planes: how many passed, and how many did not.
    pub selftests: [u64; 2],
}

/// What of a period was put on record from the notes of others.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Imported {
    /// The number of the event that says so.
    pub event: u64,
    /// Whose notes they are, what they were read as, and the file's name and SHA-256.
    pub source: String,
    /// See [`crate::history::Origin`].
    pub format: String,
    /// Without its folder.
    pub file: String,
    /// In hexadecimal digits.
    pub sha256: String,
    /// When the first of its entries was noted, and the last.
    pub period: [String; 2],
    /// How many there are, whatever they concern.
    pub entries: u64,
    /// How many could not be read.
    pub strange: u64,
    /// Contacts among them.
    pub contacts: u64,
}

/// A client that is as many as several: perhaps a resolver, a proxy or a translator behind which others stand.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Relay {
    /// Its address, or its pseudonym.
    pub client: IpAddr,
    /// Its unit.
    pub unit: String,
    /// Questions of headline roles in the period, and the days on which there were any.
    pub questions: u64,
    /// See above.
    pub days: u64,
    /// How many times it asks on such a day what the median client asks on one of its own.
    pub times_the_median: f64,
    /// Clients that may stand behind it and are not counted.
    pub uncounted: u64,
}

/// A client that asks so many times as much as the median may be several.
const RELAY_TIMES: f64 = 5.0;
/// Of fewer clients no median is made.
const RELAY_CLIENTS: usize = 5;
/// Relays that are listed.
const RELAYS_LIMIT: usize = 100;

/// The whole.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// What was asked.
    pub question: Question,
    /// Whose record it is.
    pub origin: String,
    /// The checkpoint that covers the period: how many events, its root, and when.
    pub checkpoint: Option<(u64, String, String)>,
    /// Of all clients.
    pub total: Figures,
    /// Of each unit, by its id.
    pub units: Vec<Figures>,
    /// How much of it is known.
    pub coverage: Coverage,
    /// Policies in force: from when, and the digest.
    pub policies: Vec<(String, String)>,
    /// Contacts of which the client is not known.
    pub unattributed: u64,
    /// When this record itself began; what is said of the time before was imported.
    pub own_since: Option<String>,
    /// What was imported of the period.
    pub imported: Vec<Imported>,
    /// Clients that may be several, the largest first.
    pub relays: Vec<Relay>,
    /// How many clients they may hide.
    pub uncounted: u64,
}

/// Gaps that are listed.
const GAPS_LIMIT: usize = 100;

/// Answers a question from the index and the checkpoints of a data folder.
///
/// # Errors
/// When they cannot be read.
pub fn report(data: &Path, index: &Index, question: &Question) -> io::Result<Report> {
    let [from, to] = [question.from, question.to].map(number);
    let mut clients: HashMap<IpAddr, History> = HashMap::new();
    let mut rows = Vec::new();
    let mut unattributed = 0;
    index.daily(i64::MIN, to, |daily| {
        let Some(client) = daily.client else {
            if daily.day >= from {
                unattributed += daily.contacts;
            }
            return;
        };
        clients.entry(client).or_default().add(&daily, question);
        if daily.day >= from {
            rows.push(daily);
        }
    })?;
    for (client, day) in index.alive(to)? {
        if let Some(history) = clients.get_mut(&client) {
            history.alive = history.alive.max(Some(day));
        }
    }
    let unit_of =
        |history: &History| history.unit.clone().and_then(|(_, unit)| unit).unwrap_or(NO_UNIT.to_owned());
    let mut units: BTreeMap<String, Members<'_>> = BTreeMap::new();
    let none = || Members { headline: &question.headline, histories: Vec::new(), rows: Vec::new() };
    let mut all = none();
    for history in clients.values() {
        let unit = unit_of(history);
        if question.unit.as_ref().is_none_or(|only| *only == unit) {
            units.entry(unit).or_insert_with(none).histories.push(history);
            all.histories.push(history);
        }
    }
    for (daily, client) in rows.iter().filter_map(|daily| Some((daily, daily.client?))) {
        let unit = clients.get(&client).map(&unit_of);
        if let Some(members) = unit.and_then(|unit| units.get_mut(&unit)) {
            members.rows.push((client, daily));
            all.rows.push((client, daily));
        }
    }
    let total = figures("", &all, question);
    let (relays, uncounted) = relays(&all, |client| clients.get(&client).map(&unit_of).unwrap_or_default());
    let units = units.iter().map(|(unit, members)| figures(unit, members, question)).collect();
    let Covered { coverage, origin, checkpoint, own_since } = coverage(data, index, question)?;
    Ok(Report {
        question: question.clone(),
        origin,
        checkpoint,
        own_since,
        imported: imported(index, question)?,
        relays,
        uncounted,
        total,
        units,
        coverage,
        policies: policies(index, question)?,
        unattributed,
    })
}

/// Days since 1970.
fn number(day: Date) -> i64 {
    let epoch = Date::constant(1970, 1, 1);
    day.since(epoch).map_or(0, |span| i64::from(span.get_days()))
}

fn day(number: i64) -> Date {
    let span =
        i32::try_from(number).ok().and_then(|days| jiff::Span::new().try_days(days).ok()).unwrap_or_default();
    Date::constant(1970, 1, 1).saturating_add(span)
}

impl History {
    fn add(&mut self, daily: &Daily, question: &Question) {
        self.alive = self.alive.max(Some(daily.day));
        if self.unit.as_ref().is_none_or(|(day, _)| *day <= daily.day) {
            self.unit = Some((daily.day, daily.unit.clone()));
        }
        if question.headline.contains(&daily.role) {
            match daily.verdict.as_str() {
                "block" | "log" => {
                    self.contacts.insert(daily.day);
                    let recorded = daily.recorded_us.div_euclid(DAY_MICROS);
                    self.detected = self.detected.into_iter().chain([recorded]).min();
                }
                "exempt" => _ = self.exempt.insert(daily.day),
                _ => {}
            }
        }
    }
}

/// Clients of a unit, or all, and what they did in the period.
struct Members<'h> {
    headline: &'h [String],
    histories: Vec<&'h History>,
    rows: Vec<(IpAddr, &'h Daily)>,
}

fn figures(unit: &str, Members { histories, rows, .. }: &Members<'_>, question: &Question) -> Figures {
    let period = [question.from, question.to].map(number);
    let quiet = i64::from(question.quiet_days);
    let mut figures = Figures { unit: unit.to_owned(), ..Figures::default() };
    State::ALL.into_iter().for_each(|state| _ = figures.states.insert(state, 0));
    let mut spans = Vec::new();
    let mut first = None;
    for history in histories {
        let Some(state) = state(history, period, quiet) else { continue };
        figures.clients += 1;
        *figures.states.entry(state).or_default() += 1;
        spans.extend(span(history, state, period));
        first = first.into_iter().chain(history.detected).min();
    }
    figures.elimination = elimination(spans);
    figures.first_detection = first.map(|first| Clocks {
        day: day(first),
        report_by: day(business_days_after(first, 3)),
        follow_up_by: day(business_days_after(first, 10)),
    });
    let mut depths: HashMap<IpAddr, u8> = HashMap::new();
    let mut roles: BTreeMap<&str, HashSet<IpAddr>> = BTreeMap::new();
    let [mut weeks, mut months]: [BTreeMap<i64, HashSet<IpAddr>>; 2] = Default::default();
    for &(client, daily) in rows {
        let is_headline = question.headline.contains(&daily.role);
        if !figures.roles.contains_key(&daily.role) {
            figures.roles.insert(daily.role.clone(), Role { headline: is_headline, ..Role::default() });
        }
        let Some(role) = figures.roles.get_mut(&daily.role) else { continue };
        role.contacts = role.contacts.saturating_add(daily.contacts);
        if daily.verdict == "block" {
            role.blocked = role.blocked.saturating_add(daily.contacts);
        }
        roles.entry(&daily.role).or_default().insert(client);
        if is_headline && matches!(daily.verdict.as_str(), "block" | "log") {
            let depth = depths.entry(client).or_default();
            *depth = daily.depth.max(*depth);
            weeks.entry(daily.day - (daily.day + 3).rem_euclid(7)).or_default().insert(client);
            months.entry(number(day(daily.day).first_of_month())).or_default().insert(client);
        }
    }
    for depth in depths.into_values() {
        figures.depths[usize::from(depth.clamp(1, 4)) - 1] += 1;
    }
    for (role, clients) in roles {
        figures.roles.entry(role.to_owned()).or_default().clients = clients.len() as u64;
    }
    let counted = |sets: BTreeMap<i64, HashSet<IpAddr>>| {
        sets.into_iter().map(|(at, set)| (day(at), set.len() as u64)).collect()
    };
    (figures.weeks, figures.months) = (counted(weeks), counted(months));
    figures
}

/// For how many days a client was in contact in the period, and whether it is known to have stopped.
fn span(history: &History, state: State, [from, to]: [i64; 2]) -> Option<(i64, bool)> {
    let first = *history.contacts.range(from..to).next()?;
    let last = *history.contacts.range(from..to).next_back()?;
    // Who was in contact before is one of those who could stop from the first day on.
    let start = if history.contacts.range(..from).next().is_some() { from } else { first };
    Some(match state {
        State::Eliminated => (last + 1 - start, true),
        State::Silent | State::Exempt => (last + 1 - start, false),
        State::Active | State::New | State::Relapsed => (to - start, false),
    })
}

/// Kaplan and Meier's estimate of how long clients stay in contact: of each the days, and whether it stopped.
pub fn elimination(mut spans: Vec<(i64, bool)>) -> Option<Elimination> {
    const Z: f64 = 1.959_963_984_540_054;
    if spans.is_empty() {
        return None;
    }
    // Who stopped after so many days was still there when those of as many days are censored.
    spans.sort_by_key(|&(days, stopped)| (days, !stopped));
    let clients = spans.len() as u64;
    let stopped = spans.iter().filter(|(_, stopped)| *stopped).count() as u64;
    let (mut share, mut variance, mut at_risk) = (1.0_f64, 0.0_f64, clients as f64);
    let (mut curve, mut median, mut interval) = (vec![(0, 1.0)], None, [None; 2]);
    let mut rest = spans.as_slice();
    while let Some(&(days, _)) = rest.first() {
        let same = rest.iter().take_while(|(other, _)| *other == days).count();
        let ended = rest[..same].iter().filter(|(_, stopped)| *stopped).count() as f64;
        if ended > 0.0 {
            share *= 1.0 - ended / at_risk;
            variance += ended / (at_risk * (at_risk - ended).max(f64::MIN_POSITIVE));
            curve.push((days, share));
            // The bounds of the share, on the scale of log(-log S) (Greenwood).
            let bounds = match share > 0.0 && share < 1.0 {
                true => {
                    let width = Z * variance.sqrt() / share.ln();
                    [share.powf((-width).exp()), share.powf(width.exp())]
                }
                false => [share; 2],
            };
            let [low, high] = [bounds[0].min(bounds[1]), bounds[0].max(bounds[1])];
            let reach =
                |place: &mut Option<i64>, value: f64| *place = place.or((value <= 0.5).then_some(days));
            reach(&mut median, share);
            reach(&mut interval[0], low);
            reach(&mut interval[1], high);
        }
        at_risk -= same as f64;
        rest = &rest[same..];
    }
    Some(Elimination { clients, stopped, median_days: median, interval, curve })
}

/// So many days from Monday to Friday after one.
fn business_days_after(first: i64, count: u32) -> i64 {
    let mut at = first;
    for _ in 0..count {
        at += 1;
        // Monday is 0.
        while (at + 3).rem_euclid(7) > 4 {
            at += 1;
        }
    }
    at
}

/// Clients that ask many times as much as others, and how many all of them may hide. Only questions are compared: packets are as
/// many as a connection makes of them.
fn relays(members: &Members<'_>, unit: impl Fn(IpAddr) -> String) -> (Vec<Relay>, u64) {
    let mut asked: BTreeMap<IpAddr, (u64, BTreeSet<i64>)> = BTreeMap::new();
    let is_contact = |daily: &&(IpAddr, &Daily)| {
        daily.1.plane == "dns" && matches!(daily.1.verdict.as_str(), "block" | "log")
    };
    for (client, daily) in members.rows.iter().filter(is_contact) {
        if members.headline.contains(&daily.role) {
            let (questions, days) = asked.entry(*client).or_default();
            *questions = questions.saturating_add(daily.contacts);
            days.insert(daily.day);
        }
    }
    let rate = |(questions, days): &(u64, BTreeSet<i64>)| *questions as f64 / days.len().max(1) as f64;
    let mut rates: Vec<f64> = asked.values().map(rate).collect();
    rates.sort_by(f64::total_cmp);
    let Some(median) = rates.get(rates.len() / 2).copied().filter(|_| rates.len() >= RELAY_CLIENTS) else {
        return (Vec::new(), 0);
    };
    let relay = |(client, sums): (&IpAddr, &(u64, BTreeSet<i64>))| {
        let times = (rate(sums) / median * 10.0).round() / 10.0;
        (times >= RELAY_TIMES).then(|| Relay {
            client: *client,
            unit: unit(*client),
            questions: sums.0,
            days: sums.1.len() as u64,
            times_the_median: times,
            uncounted: times.round() as u64 - 1,
        })
    };
    let mut relays: Vec<Relay> = asked.iter().filter_map(relay).collect();
    let uncounted = relays.iter().map(|relay| relay.uncounted).sum();
    relays.sort_by(|a, b| b.times_the_median.total_cmp(&a.times_the_median));
    relays.truncate(RELAYS_LIMIT);
    (relays, uncounted)
}

/// What was imported of the period, in the order in which it was put on record.
fn imported(index: &Index, question: &Question) -> io::Result<Vec<Imported>> {
    let [from, to] = [question.from, question.to].map(|day| number(day) * DAY_MICROS);
    let read = |(event, _, detail): (u64, i64, Option<String>)| {
        let detail: serde_json::Value = serde_json::from_str(&detail?).ok()?;
        let text = |key: &str| detail[key].as_str().map(str::to_owned);
        let count = |key: &str| detail[key].as_u64().unwrap_or(0);
        let period = [text("first")?, text("last")?];
        let at = |time: &str| time.parse().map(Timestamp::as_microsecond).ok();
        (at(&period[0])? < to && at(&period[1])? >= from).then_some(Imported {
            event,
            source: text("source")?,
            format: text("format")?,
            file: text("file")?,
            sha256: text("sha256")?,
            period,
            entries: count("entries"),
            strange: count("strange"),
            contacts: count("contacts"),
        })
    };
    Ok(index.acts("history.imported")?.into_iter().filter_map(read).collect())
}

/// What is known of how much is known.
struct Covered {
    coverage: Coverage,
    origin: String,
    checkpoint: Option<(u64, String, String)>,
    own_since: Option<String>,
}

/// What checkpoints and the record's own events say of the period.
fn coverage(data: &Path, index: &Index, question: &Question) -> io::Result<Covered> {
    let [from, to] = [question.from, question.to].map(|day| number(day) as f64 * DAY_SECS);
    let (mut coverage, mut covered) = (Coverage::default(), 0.0);
    let (mut before, mut sealing): (Option<(f64, Signed)>, Option<Signed>) = (None, None);
    let mut own_since = None;
    let add_gap = |coverage: &mut Coverage, [a, b]: [f64; 2]| {
        let [a, b] = [a.max(from), b.min(to)];
        if b - a > SILENCE_SECS {
            match coverage.gaps.len() < GAPS_LIMIT {
                true => coverage.gaps.push([shown(a), shown(b)]),
                false => coverage.more_gaps += 1,
            }
        }
    };
    for path in checkpoint::files(&data.join("log"))? {
        let text = checkpoint::read_file(&path)?;
        for signed in checkpoint::notes(&text).0.into_iter().filter_map(Signed::read) {
            let Ok(time) = signed.checkpoint.time.parse::<Timestamp>() else { continue };
            let at = time.as_microsecond() as f64 / 1e6;
            own_since.get_or_insert_with(|| signed.checkpoint.time.clone());
            let (last, is_stopped) = before
                .as_ref()
                .map_or((from, true), |(at, signed)| (*at, signed.checkpoint.reason == Reason::Stop));
            let is_start = signed.checkpoint.reason == Reason::Start;
            match is_stopped || is_start || at - last > SILENCE_SECS {
                true => add_gap(&mut coverage, [last, at]),
                false => covered += (at.min(to) - last.max(from)).max(0.0),
            }
            // The first that covers all of the period; the same however long the record goes on.
            if sealing.as_ref().is_none_or(|signed| signed.checkpoint.time < shown(to)) {
                sealing = Some(signed.clone());
            }
            before = Some((at, signed));
        }
    }
    add_gap(&mut coverage, [before.as_ref().map_or(from, |(at, _)| *at), to]);
    coverage.share = if to > from { covered / (to - from) } else { 0.0 };
    let within = |time_us: i64| (from..to).contains(&(time_us as f64 / 1e6));
    let details = |act: &str| -> io::Result<Vec<serde_json::Value>> {
        let acts = index.acts(act)?.into_iter().filter(|(_, time_us, _)| within(*time_us));
        Ok(acts.filter_map(|(_, _, detail)| serde_json::from_str(&detail?).ok()).collect())
    };
    coverage.lost_events = details("events.lost")?.iter().filter_map(|detail| detail["count"].as_u64()).sum();
    for detail in details("selftest")? {
        coverage.selftests[usize::from(detail["passed"] != true)] += 1;
    }
    let origin = before.map(|(_, signed)| signed.checkpoint.origin).unwrap_or_default();
    let checkpoint = sealing
        .map(|Signed { checkpoint, .. }| (checkpoint.size, checkpoint.root.to_string(), checkpoint.time));
    Ok(Covered { coverage, origin, checkpoint, own_since })
}

fn shown(seconds: f64) -> String {
    let time = Timestamp::from_microsecond((seconds * 1e6) as i64).unwrap_or_default();
    format!("{time:.6}")
}

/// The policies that came into force before the end of the period: the last one before its beginning, and all in it.
fn policies(index: &Index, question: &Question) -> io::Result<Vec<(String, String)>> {
    let [from, to] = [question.from, question.to].map(|day| number(day) * DAY_MICROS);
    let mut policies: Vec<(i64, String)> = Vec::new();
    for (time_us, digest) in index.policies()?.into_iter().filter(|(time_us, _)| *time_us < to) {
        if policies.last().is_none_or(|(_, last)| *last != digest) {
            policies.push((time_us, digest));
        }
    }
    let before = policies.iter().filter(|(time_us, _)| *time_us < from).count().saturating_sub(1);
    Ok(policies
        .into_iter()
        .skip(before)
        .map(|(time_us, digest)| (shown(time_us as f64 / 1e6), digest))
        .collect())
}

#[cfg(test)]
mod tests;
