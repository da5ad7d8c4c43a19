//! `interdict audit import`: what others noted before there was a record, put on record as theirs.
//!
//! A file is read here, decided by the policy in force, and handed to whoever writes the record: first that it is imported, then what
//! concerns the policy, then that it is over. So whatever ends in the middle can go on: the same file gives the same events, and
//! those that are on record are passed over. What of a source was imported once is never taken again.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use interdict_audit::history::{self, Contact, Contacts, Counts, Noted, Observed, Opened, Origin};
use interdict_audit::{Cited, Entry, Index, Log, Start, Tail};
use interdict_policy::{Digest, Policy, Verdict};
use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::{data_folder, uid, with_record};
use crate::cli::{ImportHistoryArgs, Outcome};
use crate::control::{self, Request};
use crate::out;
use crate::store::Store;

/// Contacts handed over at a time: a request has room for as many, whatever their names.
const BATCH: usize = 500;
/// For how long the index of a running agent may be behind.
const INDEX_WAIT: Duration = Duration::from_secs(10);

/// What is handed over to whoever writes the record.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "part", rename_all = "lowercase")]
pub enum Part {
    /// A file is imported.
    Begin {
        /// What of it is known beforehand.
        detail: Value,
        /// The policy that decides what concerns it.
        digest: Digest,
    },
    /// Contacts, and signs of life.
    Contacts {
        /// Where they were read.
        cited: Cited,
        /// As in `Begin`.
        digest: Digest,
        /// In the order in which they go on record.
        contacts: Vec<Contact>,
    },
    /// That was all.
    End {
        /// What was read.
        detail: Value,
        /// As in `Begin`.
        digest: Digest,
    },
}

impl Part {
    /// Clients that it says were in contact.
    pub(crate) fn in_contact(&self) -> impl Iterator<Item = IpAddr> {
        let contacts = match self {
            Self::Contacts { contacts, .. } => contacts.as_slice(),
            Self::Begin { .. } | Self::End { .. } => &[],
        };
        contacts.iter().filter(|contact| contact.decided.is_some()).map(|contact| contact.client)
    }
}

const BEGUN: &str = "history.begun";
const IMPORTED: &str = "history.imported";

/// Puts a part on record, for a process of the user `uid`. Clients are of the units of the policy in force.
///
/// # Errors
/// When the record cannot be written.
pub(crate) fn put(log: &Log, policy: &Policy, part: Part, uid: u32) -> anyhow::Result<()> {
    let told = |act: &str, mut detail: Value, digest: Digest| {
        detail["by"] = format!("uid {uid}").into();
        vec![Entry::admin(act, detail, Some(digest))]
    };
    let entries = match part {
        Part::Begin { detail, digest } => told(BEGUN, detail, digest),
        Part::End { detail, digest } => told(IMPORTED, detail, digest),
        Part::Contacts { cited, digest, contacts } => contacts
            .into_iter()
            .map(|contact| {
                let unit = policy.unit(contact.client);
                Entry::imported(contact, cited.clone(), digest).of_unit(unit)
            })
            .collect(),
    };
    Ok(log.write_all(entries)?)
}

pub(super) fn import(args: &ImportHistoryArgs) -> anyhow::Result<Outcome> {
    let data = data_folder(args.data.as_ref(), &args.control)?;
    let policy = policy_of(&data)?;
    // Before the index is read: what another import puts on record is in it then.
    let _alone = alone(&data)?;
    match &args.data {
        None => {
            let hand_over =
                |part| control::ask(&args.control.socket(), &Request::Import(Box::new(part))).map(|_| ());
            import_all(args, &data, &policy, caught_up(&data)?, &hand_over)
        }
        Some(_) => with_record(&data, |log| {
            let mut index = Index::open(&data)?;
            index.catch_up(&AtomicBool::new(false))?;
            import_all(args, &data, &policy, index, &|part| put(log, &policy, part, uid()))
        }),
    }
}

/// The index of a running agent, when it has all that is on record now.
fn caught_up(data: &Path) -> anyhow::Result<Index> {
    let mut last = None;
    let mut tail = Tail::open(data, Start::LastN(1))?;
    for line in tail.next_lines()? {
        last = serde_json::from_str::<Value>(&line).ok().and_then(|event| event["seq"].as_u64());
    }
    let begun = Instant::now();
    loop {
        // One that just started makes it yet.
        let index = Index::open_to_read(data);
        match index {
            Ok(index) if last.is_none_or(|last| index.end() >= last) => return Ok(index),
            Err(error) if begun.elapsed() > INDEX_WAIT => {
                return Err(error).context("the agent's index cannot be read");
            }
            Ok(_) if begun.elapsed() > INDEX_WAIT => {
                bail!("the agent's index is behind its record; try again later");
            }
            _ => {}
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}

fn policy_of(data: &Path) -> anyhow::Result<Policy> {
    Store::open(data)?.last_good().with_context(|| {
        format!(
            "no policy was in force in {}, so nothing says what a contact is; start an agent there once",
            data.display()
        )
    })
}

type HandOver<'h> = dyn Fn(Part) -> anyhow::Result<()> + 'h;

fn import_all(
    args: &ImportHistoryArgs,
    data: &Path,
    policy: &Policy,
    index: Index,
    hand_over: &HandOver<'_>,
) -> anyhow::Result<Outcome> {
    if args.from.zip(args.until).is_some_and(|(from, until)| from >= until) {
        bail!("nothing is between --from and --until; write an earlier --from, or a later --until");
    }
    let mut import = Import {
        args,
        data,
        policy,
        known: known(&index)?,
        earlier: Earlier::of(&index)?,
        opened: Opened::new(),
        hand_over,
    };
    drop(index);
    let (mut done, mut read) = (Vec::new(), HashSet::new());
    for path in &args.files {
        let file = Named::open(path)?;
        if !read.insert(file.sha256.clone()) {
            bail!("{} is among the files twice", file.name);
        }
        for detail in import.all(&file)? {
            if !args.control.json {
                out::line(for_people(&detail, args.dry_run))?;
            }
            done.push(detail);
        }
    }
    if args.control.json {
        out::line(Value::Array(done.clone()))?;
    }
    let is_whole = done.iter().all(|detail| detail["strange"] == 0 && !is_passed_over(detail));
    Ok(if is_whole { Outcome::Done } else { Outcome::Finding })
}

/// Whether all of a file lies in times of which its source was imported before: it is another one's, or the same again.
fn is_passed_over(detail: &Value) -> bool {
    detail["entries"] == 0 && detail["left_out"]["imported"] != 0
}

/// Holds for as long as this process imports into a record: two would not know of each other.
fn alone(data: &Path) -> anyhow::Result<File> {
    let path = data.join("state/import.lock");
    let cannot = || format!("cannot write {}", path.display());
    std::fs::create_dir_all(data.join("state")).with_context(cannot)?;
    let lock = File::create(&path).with_context(cannot)?;
    rustix::fs::flock(&lock, rustix::fs::FlockOperation::NonBlockingLockExclusive).map_err(|_| {
        anyhow::anyhow!("another import into {} is going on; wait for its end", data.display())
    })?;
    Ok(lock)
}

/// Clients that were in contact by the record, and the number of the first event that says so.
fn known(index: &Index) -> anyhow::Result<HashMap<IpAddr, u64>> {
    let mut clients = HashMap::new();
    index.daily(i64::MIN, i64::MAX, |daily| {
        if let Some(client) = daily.client {
            let first = clients.entry(client).or_insert(u64::MAX);
            *first = daily.seqs[0].min(*first);
        }
    })?;
    Ok(clients)
}

/// What was imported before, and when this record began itself.
struct Earlier {
    /// Source, whether of questions or of connections, and the times of the first entry and the last.
    imported: Vec<(String, &'static str, [Timestamp; 2])>,
    /// Imports that are not over.
    open: Vec<Open>,
    begun: Option<Timestamp>,
}

/// An import that is not over.
#[derive(Clone)]
struct Open {
    /// The number of the event that says it begins.
    seq: u64,
    source: String,
    sha256: String,
    /// How large the file was.
    bytes: u64,
    /// The digest of the policy that decides.
    policy: String,
    /// Of which time entries are taken.
    window: Window,
}

/// Of which time entries are taken: from a time on, and before another.
type Window = [Option<Timestamp>; 2];

/// What is told apart of a source: its questions and its connections may be in two files.
const TRACKS: [&str; 2] = ["asked", "sent"];

impl Earlier {
    fn of(index: &Index) -> anyhow::Result<Self> {
        let details = |act: &str| -> anyhow::Result<Vec<(u64, Value)>> {
            let acts = index.acts(act)?.into_iter();
            Ok(acts.filter_map(|(seq, _, text)| Some((seq, serde_json::from_str(&text?).ok()?))).collect())
        };
        let text = |detail: &Value, key: &str| detail[key].as_str().unwrap_or_default().to_owned();
        let ended = details(IMPORTED)?;
        let tracks = ended.iter().flat_map(|(_, detail)| TRACKS.map(|track| (track, detail)));
        let imported = tracks.filter_map(|(track, detail)| {
            let time = |at: usize| detail[track][at].as_str()?.parse().ok();
            Some((text(detail, "source"), track, [time(0)?, time(1)?]))
        });
        let is_over = |seq: u64, sha256: &str| {
            ended.iter().any(|(end, detail)| *end > seq && detail["sha256"] == sha256)
        };
        let begun = details(BEGUN)?.into_iter().map(|(seq, detail)| Open {
            window: ["from", "until"].map(|key| detail[key].as_str()?.parse().ok()),
            seq,
            source: text(&detail, "source"),
            sha256: text(&detail, "sha256"),
            bytes: detail["bytes"].as_u64().unwrap_or(0),
            policy: text(&detail, "policy"),
        });
        let first = index.acts("agent.started")?.first().map(|(_, time_us, _)| *time_us);
        Ok(Self {
            imported: imported.collect(),
            open: begun.filter(|open| !is_over(open.seq, &open.sha256)).collect(),
            begun: first.and_then(|time_us| Timestamp::from_microsecond(time_us).ok()),
        })
    }

    fn has(&self, source: &str, track: &str, time: Timestamp) -> bool {
        let mut imported = self.imported.iter();
        imported
            .any(|(of, on, [first, last])| of == source && *on == track && (*first..=*last).contains(&time))
    }
}

/// A file, and what it is called in the record: where it lay on a machine is nobody's business.
struct Named {
    name: String,
    path: PathBuf,
    sha256: String,
    bytes: u64,
    /// What came by standard input, until it was read.
    _spooled: Option<tempfile::NamedTempFile>,
}

impl Named {
    fn open(path: &Path) -> anyhow::Result<Self> {
        let cannot = || format!("cannot read {}", path.display());
        let (name, path, spooled) = match path.as_os_str() == "-" {
            true => {
                let mut file =
                    tempfile::NamedTempFile::new().context("cannot keep what comes by standard input")?;
                io::copy(&mut io::stdin().lock(), &mut file).with_context(cannot)?;
                file.rewind()?;
                ("stdin".to_owned(), file.path().to_owned(), Some(file))
            }
            false => {
                // Of others nobody knows an end, nor that they read the same twice.
                if !std::fs::metadata(path).with_context(cannot)?.is_file() {
                    bail!(
                        "{} is no regular file; to read a stream, name `-` and give it by standard input",
                        path.display()
                    );
                }
                let name = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned();
                (name, path.to_owned(), None)
            }
        };
        let sha256 = sha256_of(&path).with_context(cannot)?;
        let bytes = std::fs::metadata(&path).with_context(cannot)?.len();
        Ok(Self { name, path, sha256, bytes, _spooled: spooled })
    }

    /// Its beginning, as a file of its own; `None` if that is another file's.
    fn beginning(&self, open: &Open) -> anyhow::Result<Option<Self>> {
        if open.bytes == 0 || open.bytes >= self.bytes {
            return Ok(None);
        }
        let cannot = || format!("cannot keep the beginning of {}", self.name);
        let mut file = tempfile::NamedTempFile::new().with_context(cannot)?;
        io::copy(&mut File::open(&self.path)?.take(open.bytes), &mut file).with_context(cannot)?;
        let path = file.path().to_owned();
        let sha256 = sha256_of(&path).with_context(cannot)?;
        let beginning =
            Self { name: self.name.clone(), path, sha256, bytes: open.bytes, _spooled: Some(file) };
        Ok(Some(beginning).filter(|beginning| beginning.sha256 == open.sha256))
    }
}

/// In hexadecimal digits.
pub(crate) fn sha256_of(path: &Path) -> io::Result<String> {
    let (mut file, mut sha256) = (BufReader::with_capacity(1 << 16, File::open(path)?), Sha256::new());
    loop {
        let bytes = file.fill_buf()?;
        if bytes.is_empty() {
            return Ok(sha256.finalize().iter().map(|byte| format!("{byte:02x}")).collect());
        }
        sha256.update(bytes);
        let len = bytes.len();
        file.consume(len);
    }
}

struct Import<'i> {
    args: &'i ImportHistoryArgs,
    data: &'i Path,
    policy: &'i Policy,
    known: HashMap<IpAddr, u64>,
    /// What was imported before this command.
    earlier: Earlier,
    /// What the files before this one told of addresses.
    opened: Opened,
    hand_over: &'i HandOver<'i>,
}

/// What was read of a file, and not taken.
#[derive(Default)]
struct Taken {
    entries: u64,
    /// Of each of [`TRACKS`] the first time and the last.
    periods: [Option<[Timestamp; 2]>; 2],
    outside: u64,
    imported: u64,
}

impl Import<'_> {
    /// Imports a file; before that what an import of its beginning left undone. Returns what goes on record of each.
    fn all(&mut self, file: &Named) -> anyhow::Result<Vec<Value>> {
        let (_, source) = self.origin(file)?;
        let mut done = Vec::new();
        if let Some(open) = self.open(&source)
            && let Some(beginning) = file.beginning(&open)?
        {
            let mut detail = self.run(&beginning)?;
            // What this command has just done is before the rest of it.
            if let Some(detail) = detail.as_object_mut() {
                detail.insert("resumed".to_owned(), true.into());
            }
            for track in TRACKS {
                let time = |at: usize| detail[track][at].as_str()?.parse().ok();
                if let Some(period) = time(0).zip(time(1)) {
                    self.earlier.imported.push((source.clone(), track, period.into()));
                }
            }
            done.push(detail);
        }
        done.push(self.run(file)?);
        Ok(done)
    }

    /// What a file is, and whose.
    fn origin(&self, file: &Named) -> anyhow::Result<(Origin, String)> {
        let origin = match self.args.format {
            Some(origin) => origin,
            None => Origin::of(&file.path)
                .with_context(|| format!("cannot read {}", file.name))?
                .with_context(|| {
                    let known = Origin::ALL.map(Origin::as_str).join(", ");
                    format!(
                        "{} is none of what is read here ({known}); name what it is with --format",
                        file.name
                    )
                })?,
        };
        Ok((origin, self.args.source.clone().unwrap_or_else(|| origin.as_str().to_owned())))
    }

    fn open(&self, source: &str) -> Option<Open> {
        self.earlier.open.iter().rfind(|open| open.source == source && !self.args.again).cloned()
    }

    /// Returns what goes on record of it.
    fn run(&mut self, file: &Named) -> anyhow::Result<Value> {
        let cannot = || format!("cannot read {}", file.name);
        let (origin, source) = self.origin(file)?;
        let open = self.open(&source);
        let kept; // Lives as long as the policy that decides.
        // What goes on is decided as it began, so that it gives the same events.
        let (policy, written, window) = match &open {
            Some(open) if open.sha256 == file.sha256 => {
                kept = Store::open(self.data)?.kept(&open.policy).with_context(|| {
                    format!(
                        "an import of {source} ended in the middle, and its policy {} is not kept; name another --source",
                        open.policy
                    )
                })?;
                (&kept, self.written(open.seq, &open.sha256)?, open.window)
            }
            Some(open) => bail!(
                "an import of {source} ended in the middle (event {}): import the same file again first, as it was or grown, which \
                 goes on; if it is gone, name another --source",
                open.seq
            ),
            None => (self.policy, 0, [self.args.from, self.args.until.or(self.earlier.begun)]),
        };
        let mut contacts = Contacts::new(policy, std::mem::take(&mut self.opened));
        let [from, until] = window;
        let mut taken = Taken::default();
        let (args, earlier) = (self.args, &self.earlier);
        let mut each = |observed: Observed| {
            let time = observed.time;
            let place = usize::from(matches!(observed.what, Noted::Sent(_)));
            if from.is_some_and(|from| time < from) || until.is_some_and(|until| time >= until) {
                taken.outside += 1;
            } else if !args.again && earlier.has(&source, TRACKS[place], time) {
                taken.imported += 1;
            } else {
                taken.entries += 1;
                let [first, last] = taken.periods[place].unwrap_or([time; 2]);
                taken.periods[place] = Some([first.min(time), last.max(time)]);
                contacts.add(observed);
            }
        };
        let zone = args.timezone.clone().unwrap_or_else(TimeZone::system);
        let counts = history::read(origin, &file.path, zone, &mut each).with_context(cannot)?;
        if counts.entries + counts.strange == 0 {
            bail!("{} holds no entries of {}", file.name, origin.as_str());
        }
        // Not those that this very import put on record before it ended in the middle.
        let begun = open.as_ref().map_or(u64::MAX, |open| open.seq);
        let known =
            self.known.iter().filter(|(_, first)| **first < begun).map(|(client, _)| *client).collect();
        let (contacts, opened) = contacts.finish(&known).with_context(cannot)?;
        self.opened = opened;
        let detail = detail(file, origin, &source, policy, &taken, counts, &contacts, window);
        self.earlier.open.retain(|open| open.source != source);
        if args.dry_run || taken.entries == 0 && open.is_none() {
            return Ok(detail);
        }
        let digest = policy.digest();
        let cited =
            Cited { format: origin.as_str().to_owned(), source: source.clone(), sha256: file.sha256.clone() };
        if open.is_none() {
            let keys = ["file", "sha256", "bytes", "format", "source", "policy", "from", "until"];
            let begun = keys.map(|key| (key.to_owned(), detail[key].clone()));
            (self.hand_over)(Part::Begin { detail: Value::Object(begun.into_iter().collect()), digest })?;
        }
        for batch in contacts.get(written..).unwrap_or_default().chunks(BATCH) {
            let part = Part::Contacts { cited: cited.clone(), digest, contacts: batch.to_vec() };
            (self.hand_over)(part).with_context(|| {
                format!("the import of {} is not over; run it again, and it goes on", file.name)
            })?;
        }
        (self.hand_over)(Part::End { detail: detail.clone(), digest })?;
        Ok(detail)
    }

    /// How many events of a file are on record behind one.
    fn written(&self, seq: u64, sha256: &str) -> anyhow::Result<usize> {
        let mut tail = Tail::open(self.data, Start::After(seq))?;
        let mut written = 0;
        loop {
            let lines = tail.next_lines()?;
            if lines.is_empty() {
                return Ok(written);
            }
            let is_its = |line: &&String| {
                line.contains(sha256)
                    && serde_json::from_str::<Value>(line)
                        .is_ok_and(|event| event["origin"]["sha256"] == sha256)
            };
            written += lines.iter().filter(is_its).count();
        }
    }
}

/// What goes on record of a file.
#[expect(clippy::too_many_arguments, reason = "each says its part, and they come from as many places")]
fn detail(
    file: &Named,
    origin: Origin,
    source: &str,
    policy: &Policy,
    taken: &Taken,
    counts: Counts,
    contacts: &[Contact],
    [from, until]: Window,
) -> Value {
    let decided = || contacts.iter().filter_map(|contact| contact.decided.as_ref());
    let in_contact = contacts.iter().filter(|contact| contact.decided.is_some());
    let clients: HashSet<IpAddr> = in_contact.map(|contact| contact.client).collect();
    let blocked = decided().filter(|decided| decided.verdict == Verdict::Block);
    let periods = taken.periods.map(|period| period.map(|period| period.map(shown)));
    let times = || taken.periods.iter().flatten().flatten();
    json!({
        "file": file.name, "sha256": file.sha256, "bytes": file.bytes, "format": origin.as_str(), "source": source,
        "policy": policy.digest().to_string(),
        "first": times().min().copied().map(shown), "last": times().max().copied().map(shown),
        TRACKS[0]: periods[0], TRACKS[1]: periods[1],
        "entries": taken.entries, "strange": counts.strange, "first_strange": counts.first_strange,
        "left_out": { "outside": taken.outside, "imported": taken.imported },
        "contacts": decided().map(|decided| decided.count).sum::<u64>(),
        "blocked": blocked.map(|decided| decided.count).sum::<u64>(),
        "clients": clients.len(), "events": decided().count(), "alive": contacts.len() - decided().count(),
        "from": from.map(shown), "until": until.map(shown),
    })
}

fn shown(time: Timestamp) -> String {
    format!("{time:.6}")
}

fn for_people(detail: &Value, is_dry: bool) -> String {
    let number = |value: &Value| value.as_u64().unwrap_or(0);
    let plural = |value: &Value, [one, more]: [&str; 2]| match number(value) {
        1 => format!("1 {one}"),
        number => format!("{number} {more}"),
    };
    let text = |key: &str| interdict_policy::printable(detail[key].as_str().unwrap_or("-")).into_owned();
    let period = match detail["first"].is_null() {
        true => String::new(),
        false => format!(", {} to {}", text("first"), text("last")),
    };
    let entries = plural(&detail["entries"], ["entry", "entries"]);
    let mut lines = vec![format!("{}: {entries} of {}{period}", text("file"), text("source"))];
    lines.push(format!(
        "  {} ({} blocked then) by {}; {} and {} {}",
        plural(&detail["contacts"], ["contact", "contacts"]),
        number(&detail["blocked"]),
        plural(&detail["clients"], ["client", "clients"]),
        plural(&detail["events"], ["event", "events"]),
        plural(&detail["alive"], ["sign of life", "signs of life"]),
        if is_dry { "would go on record" } else { "are on record" }
    ));
    let left_out = &detail["left_out"];
    if number(&left_out["imported"]) > 0 {
        let hint =
            if is_passed_over(detail) { "; if it is another server's, name it with --source" } else { "" };
        lines.push(format!(
            "  {} entries left out: of {} that time was imported before{hint}",
            number(&left_out["imported"]),
            text("source")
        ));
    }
    if number(&left_out["outside"]) > 0 {
        lines.push(format!(
            "  {} entries left out: they are not from {} on and before {}",
            number(&left_out["outside"]),
            text("from"),
            text("until")
        ));
    }
    if number(&detail["strange"]) > 0 {
        let first = number(&detail["first_strange"]);
        lines.push(format!(
            "  {} entries could not be read; the first is number {first}",
            number(&detail["strange"])
        ));
    }
    lines.join("\n")
}
