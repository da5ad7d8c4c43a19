//! What the record says by day: who contacted what how often, and what the agent and its operator did. It is made of the record
//! alone, at any time again, and is in SQLite so that readers never wait for the writer.
//!
//! The record itself is the queue: one thread reads it as `tail` does, and writes what it read together with how far it came, in
//! one transaction. So nothing is lost or counted twice, whenever it ends.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fs;
use std::io;
use std::net::IpAddr;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::Duration;

use jiff::Timestamp;
use rusqlite::{Connection, OpenFlags, Transaction, params};
use serde::Deserialize;
use serde_json::value::RawValue;
use sha2::{Digest as _, Sha256};

use crate::background;
use crate::segment;
use crate::tail::{Start, Tail};

/// Of the tables below. An index of another version is made again.
const VERSION: i64 = 4;
/// How often the record is looked at for more.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// Events in a transaction.
const BATCH_LIMIT: usize = 65_536;
const DAY_MICROS: i64 = 86_400_000_000;

const TABLES: &str = "
    CREATE TABLE mark (next INTEGER NOT NULL, last BLOB NOT NULL);
    CREATE TABLE word (id INTEGER PRIMARY KEY, text TEXT NOT NULL UNIQUE);
    CREATE TABLE daily (
        day INTEGER NOT NULL, client INTEGER NOT NULL, rule INTEGER NOT NULL, verdict INTEGER NOT NULL, unit INTEGER NOT NULL,
        role INTEGER NOT NULL, exemption INTEGER NOT NULL, plane INTEGER NOT NULL,
        contacts INTEGER NOT NULL, events INTEGER NOT NULL, depth INTEGER NOT NULL,
        first_us INTEGER NOT NULL, last_us INTEGER NOT NULL, first_seq INTEGER NOT NULL, last_seq INTEGER NOT NULL,
        recorded_us INTEGER NOT NULL,
        PRIMARY KEY (day, client, rule, verdict, unit, role, exemption, plane)
    ) WITHOUT ROWID;
    CREATE TABLE act (seq INTEGER PRIMARY KEY, time_us INTEGER NOT NULL, act TEXT NOT NULL, digest TEXT, detail TEXT);
    CREATE TABLE alive (
        client INTEGER NOT NULL, day INTEGER NOT NULL, seq INTEGER NOT NULL, PRIMARY KEY (client, day)
    ) WITHOUT ROWID;
    CREATE INDEX act_by_name ON act (act, seq);
";

/// What the index takes of an event.
#[derive(Deserialize)]
struct Event<'e> {
    seq: u64,
    #[serde(borrow)]
    time: Cow<'e, str>,
    #[serde(borrow)]
    plane: Cow<'e, str>,
    #[serde(borrow)]
    client: Option<Cow<'e, str>>,
    #[serde(borrow)]
    unit: Option<Cow<'e, str>>,
    #[serde(borrow)]
    verdict: Option<Cow<'e, str>>,
    #[serde(borrow)]
    rule: Option<Cow<'e, str>>,
    #[serde(borrow)]
    role: Option<Cow<'e, str>>,
    #[serde(borrow, default)]
    exemption: Option<Cow<'e, str>>,
    #[serde(borrow)]
    digest: Option<Cow<'e, str>>,
    count: u64,
    #[serde(borrow)]
    first: Cow<'e, str>,
    #[serde(borrow)]
    last: Cow<'e, str>,
    #[serde(borrow)]
    depth: Option<Cow<'e, str>>,
    #[serde(borrow, default)]
    act: Option<Cow<'e, str>>,
    #[serde(borrow, default)]
    detail: Option<&'e RawValue>,
}

/// What the contacts of a row have in common.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Key {
    day: i64,
    client: i64,
    rule: i64,
    verdict: i64,
    unit: i64,
    role: i64,
    exemption: i64,
    plane: i64,
}

#[derive(Clone, Copy, Debug)]
struct Sums {
    contacts: u64,
    events: u64,
    depth: u8,
    first_us: i64,
    last_us: i64,
    first_seq: u64,
    last_seq: u64,
    recorded_us: i64,
}

/// A client's contacts under a rule in a day.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Daily {
    /// Days since 1970, in UTC.
    pub day: i64,
    /// `None` where the packet did not tell.
    pub client: Option<IpAddr>,
    /// The rule's id.
    pub rule: String,
    /// What was done.
    pub verdict: String,
    /// The unit's id.
    pub unit: Option<String>,
    /// The rule's role.
    pub role: String,
    /// The line of the register that let it through.
    pub exemption: Option<String>,
    /// `dns` or `packet`.
    pub plane: String,
    /// Questions or packets.
    pub contacts: u64,
    /// Events that tell of them.
    pub events: u64,
    /// How far they got: 1 asked, 2 attempted, 3 connected, 4 received.
    pub depth: u8,
    /// When the first came and the last, in microseconds since 1970.
    pub period_us: [i64; 2],
    /// The numbers of the first event and the last.
    pub seqs: [u64; 2],
    /// When the first event was put on record, in microseconds since 1970: later than its contact, if that was imported.
    pub recorded_us: i64,
}

/// The index of a record.
pub struct Index {
    data: PathBuf,
    db: Connection,
    words: HashMap<String, i64>,
    /// The number of the next event.
    next: u64,
    /// The SHA-256 of the last one's line.
    last: Vec<u8>,
}

fn other(error: rusqlite::Error) -> io::Error {
    io::Error::other(format!("the index: {error}"))
}

fn set(db: &Connection) -> io::Result<()> {
    db.set_prepared_statement_cache_capacity(32);
    db.pragma_update(None, "synchronous", "NORMAL")
        .and_then(|()| db.busy_timeout(Duration::from_secs(10)))
        .map_err(other)
}

impl Index {
    /// Opens the index of a data folder to write. One that is of another version, damaged, or of another record is made again.
    ///
    /// # Errors
    /// When the folder cannot be written.
    pub fn open(data: &Path) -> io::Result<Self> {
        let folder = data.join("index");
        fs::DirBuilder::new().recursive(true).mode(0o750).create(&folder)?;
        match Self::existing(data) {
            Ok(Some(index)) => return Ok(index),
            Ok(None) => {}
            Err(error) => tracing::warn!(%error, "the index is made again"),
        }
        Self::remove(data)?;
        let db = Connection::open(path(data)).map_err(other)?;
        db.pragma_update(None, "journal_mode", "WAL").map_err(other)?;
        set(&db)?;
        db.execute_batch(TABLES).map_err(other)?;
        db.execute("INSERT INTO mark VALUES (1, x'')", []).map_err(other)?;
        db.pragma_update(None, "user_version", VERSION).map_err(other)?;
        Self::of(data, db)
    }

    /// Opens the index of a data folder to read, as it is now: what an agent writes meanwhile is not seen. For as long as it is
    /// open, SQLite keeps all that is written, so it is best dropped soon.
    ///
    /// # Errors
    /// When there is none, or it is of another version.
    pub fn open_to_read(data: &Path) -> io::Result<Self> {
        let db = Connection::open_with_flags(path(data), OpenFlags::SQLITE_OPEN_READ_ONLY).map_err(other)?;
        set(&db)?;
        db.execute_batch("BEGIN").map_err(other)?;
        let version: i64 = db.pragma_query_value(None, "user_version", |row| row.get(0)).map_err(other)?;
        match version == VERSION {
            true => Self::of(data, db),
            false => Err(io::Error::other(format!("the index is of version {version}"))),
        }
    }

    fn existing(data: &Path) -> io::Result<Option<Self>> {
        if !path(data).exists() {
            return Ok(None);
        }
        let db = Connection::open_with_flags(path(data), OpenFlags::SQLITE_OPEN_READ_WRITE).map_err(other)?;
        set(&db)?;
        let version: i64 = db.pragma_query_value(None, "user_version", |row| row.get(0)).map_err(other)?;
        if version != VERSION {
            return Err(io::Error::other(format!("it is of version {version}")));
        }
        let index = Self::of(data, db)?;
        match index.is_of_this_record()? {
            true => Ok(Some(index)),
            false => Err(io::Error::other("it is of another record")),
        }
    }

    fn of(data: &Path, db: Connection) -> io::Result<Self> {
        let mark = db.query_row("SELECT next, last FROM mark", [], |row| {
            Ok((row.get::<_, i64>(0)? as u64, row.get(1)?))
        });
        let (next, last) = mark.map_err(other)?;
        let words = db
            .prepare("SELECT text, id FROM word")
            .and_then(|mut words| words.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?.collect())
            .map_err(other)?;
        Ok(Self { data: data.to_owned(), db, words, next, last })
    }

    /// Whether the last event that was read is still the one on record, if it is on record at all.
    fn is_of_this_record(&self) -> io::Result<bool> {
        if self.next == 1 {
            return Ok(true);
        }
        Ok(match event(&self.data, self.next - 1)? {
            Found::Line(line) => Sha256::digest(line).as_slice() == self.last,
            Found::Removed => true,
            Found::Nothing => false,
        })
    }

    /// Removes the index of a data folder.
    ///
    /// # Errors
    /// When a file cannot be removed.
    pub fn remove(data: &Path) -> io::Result<()> {
        for name in ["index.db", "index.db-wal", "index.db-shm"] {
            match fs::remove_file(data.join("index").join(name)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }

    /// The number of the last event that is in it.
    pub const fn end(&self) -> u64 {
        self.next - 1
    }

    /// Reads on to the end of the record, or until told to stop. Returns how many events were new.
    ///
    /// # Errors
    /// When the record cannot be read, or the index cannot be written: it stays as it was after the last batch.
    pub fn catch_up(&mut self, is_over: &AtomicBool) -> io::Result<u64> {
        let mut tail = Tail::open(&self.data, Start::After(self.next - 1))?;
        let (mut new, mut lines) = (0, Vec::new());
        while !is_over.load(Relaxed) {
            let more = tail.next_lines()?;
            let is_end = more.is_empty();
            lines.extend(more);
            if lines.len() >= BATCH_LIMIT || is_end && !lines.is_empty() {
                self.add(&lines)?;
                new += lines.len() as u64;
                lines.clear();
            }
            if is_end {
                break;
            }
        }
        Ok(new)
    }

    /// Adds events that follow one another.
    fn add(&mut self, lines: &[String]) -> io::Result<()> {
        let transaction = self.db.transaction().map_err(other)?;
        let (mut sums, mut next) = (HashMap::new(), self.next);
        let mut words = Words { known: &mut self.words, new: Vec::new() };
        for line in lines {
            match serde_json::from_str::<Event<'_>>(line) {
                Ok(event) => {
                    next = event.seq + 1;
                    event.add(&transaction, &mut words, &mut sums).map_err(other)?;
                }
                // Whatever it is, it is counted by its place.
                Err(_) => next += 1,
            }
        }
        let last = lines.last().map(|line| Sha256::digest(line).to_vec()).unwrap_or_default();
        let new_words = words.new;
        let written = write(&transaction, &new_words, &sums, next, &last).and_then(|()| transaction.commit());
        if written.is_err() {
            new_words.iter().for_each(|(text, _)| _ = self.words.remove(text));
        }
        written.map_err(other)?;
        (self.next, self.last) = (next, last);
        Ok(())
    }

    /// Every row of these days, from one to before another, oldest first.
    ///
    /// # Errors
    /// When the index cannot be read.
    pub fn daily(&self, from: i64, to: i64, mut each: impl FnMut(Daily)) -> io::Result<()> {
        let texts: HashMap<i64, &str> = self.words.iter().map(|(text, id)| (*id, text.as_str())).collect();
        let text = |id: i64| texts.get(&id).copied().unwrap_or_default();
        let some = |id: i64| Some(text(id)).filter(|text| !text.is_empty()).map(str::to_owned);
        let mut rows = self
            .db
            .prepare_cached("SELECT * FROM daily WHERE day >= ? AND day < ? ORDER BY day")
            .map_err(other)?;
        let mut rows = rows.query(params![from, to]).map_err(other)?;
        while let Some(row) = rows.next().map_err(other)? {
            let number = |at: usize| row.get::<_, i64>(at).map_err(other);
            each(Daily {
                day: number(0)?,
                client: text(number(1)?).parse().ok(),
                rule: text(number(2)?).to_owned(),
                verdict: text(number(3)?).to_owned(),
                unit: some(number(4)?),
                role: text(number(5)?).to_owned(),
                exemption: some(number(6)?),
                plane: text(number(7)?).to_owned(),
                contacts: number(8)? as u64,
                events: number(9)? as u64,
                depth: number(10)? as u8,
                period_us: [number(11)?, number(12)?],
                seqs: [number(13)? as u64, number(14)? as u64],
                recorded_us: number(15)?,
            });
        }
        Ok(())
    }

    /// Clients that gave a sign of life besides their contacts, each with the last day of one before a day.
    ///
    /// # Errors
    /// When the index cannot be read.
    pub fn alive(&self, to: i64) -> io::Result<Vec<(IpAddr, i64)>> {
        let mut rows = self
            .db
            .prepare_cached(
                "SELECT word.text, max(alive.day) FROM alive JOIN word ON word.id = alive.client
                 WHERE alive.day < ? GROUP BY alive.client",
            )
            .map_err(other)?;
        let rows = rows.query_map([to], |row| Ok((row.get::<_, String>(0)?, row.get(1)?)));
        let rows: Vec<(String, i64)> = rows.and_then(Iterator::collect).map_err(other)?;
        Ok(rows.into_iter().filter_map(|(client, day)| Some((client.parse().ok()?, day))).collect())
    }

    /// The policies that came into force, oldest first: when, in microseconds since 1970, and the digest.
    ///
    /// # Errors
    /// When the index cannot be read.
    pub fn policies(&self) -> io::Result<Vec<(i64, String)>> {
        let mut rows = self
            .db
            .prepare_cached(
                "SELECT time_us, digest FROM act
                 WHERE act IN ('agent.started', 'policy.applied') AND digest IS NOT NULL ORDER BY seq",
            )
            .map_err(other)?;
        let rows = rows.query_map([], |row| Ok((row.get(0)?, row.get(1)?)));
        rows.and_then(Iterator::collect).map_err(other)
    }

    /// The acts of one kind on record, oldest first: number, time in microseconds since 1970, and detail.
    ///
    /// # Errors
    /// When the index cannot be read.
    pub fn acts(&self, act: &str) -> io::Result<Vec<(u64, i64, Option<String>)>> {
        let mut rows = self
            .db
            .prepare_cached("SELECT seq, time_us, detail FROM act WHERE act = ? ORDER BY seq")
            .map_err(other)?;
        let rows = rows.query_map([act], |row| Ok((row.get::<_, i64>(0)? as u64, row.get(1)?, row.get(2)?)));
        rows.and_then(Iterator::collect).map_err(other)
    }
}

fn path(data: &Path) -> PathBuf {
    data.join("index/index.db")
}

enum Found {
    Line(Vec<u8>),
    /// It was, and is not any more.
    Removed,
    /// There never was.
    Nothing,
}

/// The line of an event.
fn event(data: &Path, seq: u64) -> io::Result<Found> {
    let segments = segment::list(&data.join("log"))?.segments;
    let Some(segment) = segments.iter().rfind(|segment| segment.first <= seq) else {
        return Ok(if segments.is_empty() { Found::Nothing } else { Found::Removed });
    };
    let (mut lines, mut line) = (segment.open()?, Vec::new());
    for _ in segment.first..=seq {
        if !segment::read_line(&mut *lines, &mut line)? {
            let is_between = segments.last().is_some_and(|last| last.first > seq);
            return Ok(if is_between { Found::Removed } else { Found::Nothing });
        }
    }
    line.pop();
    Ok(Found::Line(line))
}

/// Texts by number.
struct Words<'w> {
    known: &'w mut HashMap<String, i64>,
    new: Vec<(String, i64)>,
}

impl Words<'_> {
    /// The number of a text, a new one if need be; that of the empty text for none.
    fn number(&mut self, text: Option<&str>) -> i64 {
        let text = text.unwrap_or_default();
        if let Some(number) = self.known.get(text) {
            return *number;
        }
        let number = self.known.len() as i64 + 1;
        self.known.insert(text.to_owned(), number);
        self.new.push((text.to_owned(), number));
        number
    }
}

impl Event<'_> {
    fn add(
        &self,
        transaction: &Transaction<'_>,
        words: &mut Words<'_>,
        sums: &mut HashMap<Key, Sums>,
    ) -> rusqlite::Result<()> {
        let micros =
            |time: &str| time.parse::<Timestamp>().map(Timestamp::as_microsecond).unwrap_or_default();
        let (Some(rule), Some(verdict)) = (self.rule.as_deref(), self.verdict.as_deref()) else {
            match self.act.as_deref() {
                Some("log.pruned") => forget(transaction, sums, self.detail)?,
                // There are as many as clients and days.
                Some("client.alive") => {
                    let client = words.number(self.client.as_deref());
                    let day = micros(&self.first).div_euclid(DAY_MICROS);
                    transaction
                        .prepare_cached("INSERT OR IGNORE INTO alive VALUES (?, ?, ?)")?
                        .execute(params![client, day, self.seq as i64])?;
                    return Ok(());
                }
                _ => {}
            }
            transaction.prepare_cached("INSERT OR REPLACE INTO act VALUES (?, ?, ?, ?, ?)")?.execute(
                params![
                    self.seq as i64,
                    micros(&self.time),
                    self.act.as_deref().unwrap_or_default(),
                    self.digest.as_deref(),
                    self.detail.map(RawValue::get),
                ],
            )?;
            return Ok(());
        };
        let first_us = micros(&self.first);
        let last_us = if self.last == self.first { first_us } else { micros(&self.last) };
        let key = Key {
            day: first_us.div_euclid(DAY_MICROS),
            client: words.number(self.client.as_deref()),
            rule: words.number(Some(rule)),
            verdict: words.number(Some(verdict)),
            unit: words.number(self.unit.as_deref()),
            role: words.number(self.role.as_deref()),
            exemption: words.number(self.exemption.as_deref()),
            plane: words.number(Some(&self.plane)),
        };
        let depth = match self.depth.as_deref() {
            Some("asked") => 1,
            Some("attempted") => 2,
            Some("connected") => 3,
            Some("received") => 4,
            _ => 0,
        };
        let one = Sums {
            contacts: self.count,
            events: 1,
            depth,
            first_us,
            last_us,
            first_seq: self.seq,
            last_seq: self.seq,
            recorded_us: if self.time == self.first { first_us } else { micros(&self.time) },
        };
        sums.entry(key).and_modify(|sums| sums.add(&one)).or_insert(one);
        Ok(())
    }
}

/// Forgets what was removed from the record.
fn forget(
    transaction: &Transaction<'_>,
    sums: &mut HashMap<Key, Sums>,
    detail: Option<&RawValue>,
) -> rusqlite::Result<()> {
    #[derive(Deserialize)]
    struct Pruned {
        last: u64,
    }
    if let Some(Pruned { last }) = detail.and_then(|detail| serde_json::from_str(detail.get()).ok()) {
        sums.retain(|_, sums| sums.last_seq > last);
        transaction.execute("DELETE FROM daily WHERE last_seq <= ?", [last as i64])?;
        transaction.execute("DELETE FROM act WHERE seq <= ?", [last as i64])?;
        transaction.execute("DELETE FROM alive WHERE seq <= ?", [last as i64])?;
    }
    Ok(())
}

impl Sums {
    fn add(&mut self, other: &Self) {
        self.contacts = self.contacts.saturating_add(other.contacts);
        self.events += other.events;
        self.depth = self.depth.max(other.depth);
        self.first_us = self.first_us.min(other.first_us);
        self.last_us = self.last_us.max(other.last_us);
        self.first_seq = self.first_seq.min(other.first_seq);
        self.last_seq = self.last_seq.max(other.last_seq);
        self.recorded_us = self.recorded_us.min(other.recorded_us);
    }
}

fn write(
    transaction: &Transaction<'_>,
    words: &[(String, i64)],
    sums: &HashMap<Key, Sums>,
    next: u64,
    last: &[u8],
) -> rusqlite::Result<()> {
    let mut word = transaction.prepare_cached("INSERT INTO word (text, id) VALUES (?, ?)")?;
    words.iter().try_for_each(|(text, id)| word.execute(params![text, id]).map(drop))?;
    let mut row = transaction.prepare_cached(
        "INSERT INTO daily VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
         ON CONFLICT DO UPDATE SET contacts = contacts + excluded.contacts, events = events + excluded.events,
             depth = max(depth, excluded.depth), first_us = min(first_us, excluded.first_us),
             last_us = max(last_us, excluded.last_us), first_seq = min(first_seq, excluded.first_seq),
             last_seq = max(last_seq, excluded.last_seq), recorded_us = min(recorded_us, excluded.recorded_us)",
    )?;
    let mut sums: Vec<(&Key, &Sums)> = sums.iter().collect();
    // In the order of the table, so that each page is touched once.
    sums.sort_unstable_by_key(|(key, _)| *key);
    for (Key { day, client, rule, verdict, unit, role, exemption, plane }, sums) in sums {
        let Sums { contacts, events, depth, first_us, last_us, first_seq, last_seq, recorded_us } = *sums;
        // What SQLite can count.
        let [contacts, events, first_seq, last_seq] =
            [contacts, events, first_seq, last_seq].map(|count| i64::try_from(count).unwrap_or(i64::MAX));
        row.execute(params![
            day,
            client,
            rule,
            verdict,
            unit,
            role,
            exemption,
            plane,
            contacts,
            events,
            depth,
            first_us,
            last_us,
            first_seq,
            last_seq,
            recorded_us
        ])?;
    }
    transaction.execute("UPDATE mark SET next = ?, last = ?", params![next as i64, last])?;
    Ok(())
}

/// The thread that keeps an index.
pub struct Indexer {
    shared: Arc<Shared>,
    thread: JoinHandle<()>,
}

#[derive(Default)]
struct Shared {
    is_over: AtomicBool,
    /// It is to be made again.
    again: AtomicBool,
    end: AtomicU64,
}

/// What can be asked of an [`Indexer`], by whoever has a copy.
#[derive(Clone)]
pub struct IndexHandle(Arc<Shared>);

impl IndexHandle {
    /// The number of the last event that is in the index.
    pub fn end(&self) -> u64 {
        self.0.end.load(Relaxed)
    }

    /// Has the index made again.
    pub fn make_again(&self) {
        self.0.again.store(true, Relaxed);
    }
}

impl Indexer {
    /// Starts it.
    ///
    /// # Errors
    /// When the system has no room for a thread.
    pub fn start(data: &Path) -> io::Result<Self> {
        let shared = Arc::new(Shared::default());
        let (data, of_thread) = (data.to_owned(), shared.clone());
        let thread = background::spawn("audit-index", move || keep(&data, &of_thread))?;
        Ok(Self { shared, thread })
    }

    /// What it can be asked.
    pub fn handle(&self) -> IndexHandle {
        IndexHandle(self.shared.clone())
    }

    /// Ends it. What it has not read it reads at the next start.
    pub fn stop(self) {
        self.shared.is_over.store(true, Relaxed);
        self.thread.thread().unpark();
        let _ = self.thread.join();
    }
}

fn keep(data: &Path, shared: &Shared) {
    let mut index = None;
    let mut is_failing = false;
    while !shared.is_over.load(Relaxed) {
        if shared.again.swap(false, Relaxed) {
            index = None;
            if let Err(error) = Index::remove(data) {
                tracing::warn!(%error, "the index cannot be removed");
            }
        }
        match follow(data, &mut index, shared) {
            Ok(()) if is_failing => {
                tracing::info!("the index is kept again");
                is_failing = false;
            }
            Ok(()) => {}
            Err(error) => {
                if !is_failing {
                    tracing::warn!(%error, "the index is not kept; the record is");
                }
                is_failing = true;
                index = None;
            }
        }
        std::thread::park_timeout(LOOK_EVERY);
    }
}

fn follow(data: &Path, index: &mut Option<Index>, shared: &Shared) -> io::Result<()> {
    let index = match index {
        Some(index) => index,
        none => none.insert(Index::open(data)?),
    };
    let read = index.catch_up(&shared.is_over);
    shared.end.store(index.end(), Relaxed);
    read.map(drop)
}
