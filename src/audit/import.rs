//! `interdict audit import`: what others noted before there was a record, put on record as theirs.
//!
//! A file is read here, decided by the policy in force, and handed to whoever writes the record: first that it is imported, then what
//! concerns the policy, then that it is over. So whatever ends in the middle can go on: the same file gives the same events, and
//! those that are on record are passed over. What of a source was imported once is never taken again.

use std::collections::HashSet;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Seek};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use interdict_audit::history::{self, Contact, Contacts, Observed, Origin};
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
    match &args.data {
        None => {
            let hand_over =
                |part| control::ask(&args.control.socket(), &Request::Import(Box::new(part))).map(|_| ());
            let index = caught_up(&data)?;
            import_all(args, &data, &index, &hand_over)
        }
        Some(_) => with_record(&data, |log| {
            let policy = policy_of(&data)?;
            let mut index = Index::open(&data)?;
            index.catch_up(&AtomicBool::new(false))?;
            import_all(args, &data, &index, &|part| put(log, &policy, part, uid()))
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
    index: &Index,
    hand_over: &HandOver<'_>,
) -> anyhow::Result<Outcome> {
    let policy = policy_of(data)?;
    let mut earlier = Earlier::of(index)?;
    let mut done = Vec::new();
    for path in &args.files {
        let file = Named::open(path)?;
        let imported = Import { args, data, policy: &policy, known: known(index)?, hand_over };
        let detail = imported.run(&file, &mut earlier)?;
        if !args.control.json {
            out::line(for_people(&detail, args.dry_run))?;
        }
        done.push(detail);
    }
    if args.control.json {
        out::line(Value::Array(done.clone()))?;
    }
    let is_whole = done.iter().all(|detail| detail["strange"] == 0);
    Ok(if is_whole { Outcome::Done } else { Outcome::Finding })
}

/// Clients that were in contact by the record.
fn known(index: &Index) -> anyhow::Result<HashSet<IpAddr>> {
    let mut clients = HashSet::new();
    index.daily(i64::MIN, i64::MAX, |daily| clients.extend(daily.client))?;
    Ok(clients)
}

/// What was imported before, and when this record began itself.
struct Earlier {
    /// Source, and the times of the first entry and the last.
    imported: Vec<(String, [Timestamp; 2])>,
    /// Number, source and SHA-256 of imports that are not over.
    open: Vec<(u64, String, String, String)>,
    begun: Option<Timestamp>,
}

impl Earlier {
    fn of(index: &Index) -> anyhow::Result<Self> {
        let details = |act: &str| -> anyhow::Result<Vec<(u64, Value)>> {
            let acts = index.acts(act)?.into_iter();
            Ok(acts.filter_map(|(seq, _, text)| Some((seq, serde_json::from_str(&text?).ok()?))).collect())
        };
        let text = |detail: &Value, key: &str| detail[key].as_str().unwrap_or_default().to_owned();
        let ended = details(IMPORTED)?;
        let imported = ended.iter().filter_map(|(_, detail)| {
            let time = |key: &str| detail[key].as_str()?.parse().ok();
            Some((text(detail, "source"), [time("first")?, time("last")?]))
        });
        let is_over = |seq: u64, sha256: &str| {
            ended.iter().any(|(end, detail)| *end > seq && detail["sha256"] == sha256)
        };
        let begun = details(BEGUN)?.into_iter().map(|(seq, detail)| {
            (seq, text(&detail, "source"), text(&detail, "sha256"), text(&detail, "policy"))
        });
        let first = index.acts("agent.started")?.first().map(|(_, time_us, _)| *time_us);
        Ok(Self {
            imported: imported.collect(),
            open: begun.filter(|(seq, _, sha256, _)| !is_over(*seq, sha256)).collect(),
            begun: first.and_then(|time_us| Timestamp::from_microsecond(time_us).ok()),
        })
    }

    fn has(&self, source: &str, time: Timestamp) -> bool {
        self.imported.iter().any(|(other, [first, last])| other == source && (*first..=*last).contains(&time))
    }
}

/// A file, and what it is called in the record: where it lay on a machine is nobody's business.
struct Named {
    name: String,
    path: PathBuf,
    sha256: String,
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
                let name = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned();
                (name, path.to_owned(), None)
            }
        };
        let sha256 = sha256_of(&path).with_context(cannot)?;
        Ok(Self { name, path, sha256, _spooled: spooled })
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
    known: HashSet<IpAddr>,
    hand_over: &'i HandOver<'i>,
}

/// What was read of a file, and not taken.
#[derive(Default)]
struct Taken {
    entries: u64,
    first: Option<Timestamp>,
    last: Option<Timestamp>,
    outside: u64,
    imported: u64,
}

impl Import<'_> {
    /// Returns what goes on record of it.
    fn run(&self, file: &Named, earlier: &mut Earlier) -> anyhow::Result<Value> {
        let cannot = || format!("cannot read {}", file.name);
        let origin = match self.args.format {
            Some(origin) => origin,
            None => Origin::of(&file.path).with_context(cannot)?.with_context(|| {
                let known = Origin::ALL.map(Origin::as_str).join(", ");
                format!("{} is none of what is read here ({known}); name what it is with --format", file.name)
            })?,
        };
        let source = self.args.source.clone().unwrap_or_else(|| origin.as_str().to_owned());
        let open = earlier.open.iter().rfind(|(_, other, ..)| *other == source && !self.args.again).cloned();
        let kept; // Lives as long as the policy that decides.
        let (policy, written) = match &open {
            Some((seq, _, sha256, digest)) if *sha256 == file.sha256 => {
                kept = Store::open(self.data)?.kept(digest).with_context(|| {
                    format!("an import of {source} ended in the middle, and its policy {digest} is not kept; see --again")
                })?;
                (&kept, self.written(*seq, sha256)?)
            }
            Some((seq, ..)) => bail!(
                "an import of {source} ended in the middle (event {seq}): import the same file again first, which goes on, or \
                 see --again"
            ),
            None => (self.policy, 0),
        };
        let mut contacts = Contacts::new(policy);
        let until = self.args.until.or(earlier.begun);
        let mut taken = Taken::default();
        let mut each = |observed: Observed| {
            let time = observed.time;
            if self.args.from.is_some_and(|from| time < from) || until.is_some_and(|until| time >= until) {
                taken.outside += 1;
            } else if !self.args.again && earlier.has(&source, time) {
                taken.imported += 1;
            } else {
                taken.entries += 1;
                taken.first = taken.first.into_iter().chain([time]).min();
                taken.last = taken.last.into_iter().chain([time]).max();
                contacts.add(observed);
            }
        };
        let zone = self.args.timezone.clone().unwrap_or_else(TimeZone::system);
        let counts = history::read(origin, &file.path, zone, &mut each).with_context(cannot)?;
        if counts.entries + counts.strange == 0 {
            bail!("{} holds no entries of {}", file.name, origin.as_str());
        }
        let contacts = contacts.finish(&self.known).with_context(cannot)?;
        let decided = || contacts.iter().filter_map(|contact| contact.decided.as_ref());
        let clients: HashSet<IpAddr> = contacts
            .iter()
            .filter(|contact| contact.decided.is_some())
            .map(|contact| contact.client)
            .collect();
        let blocked = decided().filter(|decided| decided.verdict == Verdict::Block);
        let detail = json!({
            "file": file.name, "sha256": file.sha256, "format": origin.as_str(), "source": source,
            "policy": policy.digest().to_string(),
            "first": taken.first.map(shown), "last": taken.last.map(shown), "entries": taken.entries,
            "strange": counts.strange, "first_strange": counts.first_strange,
            "left_out": { "outside": taken.outside, "imported": taken.imported },
            "contacts": decided().map(|decided| decided.count).sum::<u64>(),
            "blocked": blocked.map(|decided| decided.count).sum::<u64>(),
            "clients": clients.len(), "events": decided().count(), "alive": contacts.len() - decided().count(),
            "until": until.map(shown),
        });
        if self.args.dry_run || taken.entries == 0 && open.is_none() {
            return Ok(detail);
        }
        let digest = policy.digest();
        let cited =
            Cited { format: origin.as_str().to_owned(), source: source.clone(), sha256: file.sha256.clone() };
        if open.is_none() {
            let begun = ["file", "sha256", "format", "source", "policy"]
                .map(|key| (key.to_owned(), detail[key].clone()));
            (self.hand_over)(Part::Begin { detail: Value::Object(begun.into_iter().collect()), digest })?;
        }
        for batch in contacts.get(written..).unwrap_or_default().chunks(BATCH) {
            let part = Part::Contacts { cited: cited.clone(), digest, contacts: batch.to_vec() };
            (self.hand_over)(part).with_context(|| {
                format!("the import of {} is not over; run it again, and it goes on", file.name)
            })?;
        }
        (self.hand_over)(Part::End { detail: detail.clone(), digest })?;
        earlier.open.retain(|(_, other, ..)| *other != source);
        earlier.imported.extend(taken.first.zip(taken.last).map(|(first, last)| (source, [first, last])));
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
        lines
            .push(format!("  {} entries left out: they were imported before", number(&left_out["imported"])));
    }
    if number(&left_out["outside"]) > 0 {
        lines.push(format!(
            "  {} entries left out: they are not of the time before {}, or not asked for",
            number(&left_out["outside"]),
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
