//! The log: a bounded queue that never makes a plane wait, and one thread that numbers and writes.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::clock;
use crate::entry::Entry;

/// Events that wait to be written; more are lost, and the loss is counted and recorded.
pub const QUEUE_LIMIT: usize = 65_536;
/// Events written at once.
const BATCH_LIMIT: usize = 1024;
/// Bytes read at once when looking back for the end of a line.
const LOOK_BACK_BYTES: usize = 4096;
/// How far behind the disk may be.
const SYNC_EVERY: Duration = Duration::from_secs(1);

/// Why a log cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another agent writes there.
    #[error("{0} is in use by another agent; stop it, or name another folder with --data")]
    InUse(PathBuf),
    /// The record cannot be continued.
    #[error(
        "{}:{line}: the last line is no event, so the numbering cannot go on; move the file away to keep it, and start again",
        file.display()
    )]
    Corrupt {
        /// The newest file of the record.
        file: PathBuf,
        /// Its last line, counted from 1.
        line: u64,
    },
    /// The file system says no.
    #[error("cannot use {path}: {error}")]
    Io {
        /// What was used.
        path: PathBuf,
        /// What the system says.
        error: io::Error,
    },
}

/// Where events are handed in. Cheap to clone.
#[derive(Clone)]
pub struct Log {
    queue: SyncSender<Message>,
    counts: Arc<Counts>,
}

#[derive(Default)]
struct Counts {
    queued: AtomicU64,
    written: AtomicU64,
    lost: AtomicU64,
}

enum Message {
    Event(Box<Entry>),
    Close,
}

/// What the log counted since it was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Events in the record.
    pub written: u64,
    /// Events that found no room or could not be written.
    pub lost: u64,
    /// Events that wait.
    pub queued: u64,
}

/// A record that can be continued, with nobody writing to it yet.
pub struct Record {
    files: DayFiles,
}

impl Record {
    /// Opens the record in `data/log`. `node` names this machine in every event.
    ///
    /// # Errors
    /// When another agent writes there, when the record cannot be continued, or when the file system says no.
    pub fn open(data: &Path, node: &str) -> Result<Self, OpenError> {
        Ok(Self { files: DayFiles::open(data.join("log"), node)? })
    }

    /// Starts the thread that writes.
    ///
    /// # Errors
    /// When the system has no room for a thread.
    pub fn start(self) -> io::Result<(Log, Writer)> {
        let (log, entries) = Log::queue();
        let writer = log.start(self.files, entries)?;
        Ok((log, writer))
    }
}

impl Log {
    fn queue() -> (Log, Receiver<Message>) {
        let (queue, entries) = sync_channel(QUEUE_LIMIT);
        (Log { queue, counts: Arc::default() }, entries)
    }

    fn start(&self, mut files: DayFiles, entries: Receiver<Message>) -> io::Result<Writer> {
        let counts = self.counts.clone();
        let thread = std::thread::Builder::new().name("audit".to_owned());
        let thread = thread.spawn(move || files.write_all_from(&entries, &counts))?;
        Ok(Writer { queue: self.queue.clone(), thread })
    }

    /// Hands in an event. Never waits: where there is no room, the event is lost and counted.
    pub fn record(&self, entry: Entry) {
        // Counted before it is handed over: the writer may be done with it before this thread goes on.
        self.counts.queued.fetch_add(1, Relaxed);
        if self.queue.try_send(Message::Event(Box::new(entry))).is_err() {
            self.counts.queued.fetch_sub(1, Relaxed);
            self.counts.lost.fetch_add(1, Relaxed);
        }
    }

    /// Says that so many events are lost that never came here: that is told in the record too.
    pub fn lose(&self, events: u64) {
        self.counts.lost.fetch_add(events, Relaxed);
    }

    /// What was counted so far.
    pub fn counters(&self) -> Counters {
        let Counts { queued, written, lost } = &*self.counts;
        Counters { written: written.load(Relaxed), lost: lost.load(Relaxed), queued: queued.load(Relaxed) }
    }
}

/// The thread that writes.
pub struct Writer {
    queue: SyncSender<Message>,
    thread: JoinHandle<()>,
}

impl Writer {
    /// Writes what waits, brings it to disk, and ends.
    pub fn close(self) {
        let _ = self.queue.send(Message::Close);
        let _ = self.thread.join();
    }
}

/// The files of the record, one a UTC day, and where the newest one ends.
struct DayFiles {
    folder: PathBuf,
    node: String,
    /// Held for as long as this agent writes.
    _lock: File,
    today: Option<Today>,
    next_seq: u64,
    lost_told: u64,
    clock: clock::State,
    /// The last write failed, and that was said.
    failing: bool,
    /// Something was written that the disk may not have.
    unsynced: bool,
    repaired: Option<Value>,
}

struct Today {
    day: String,
    file: File,
    len: u64,
}

impl DayFiles {
    fn open(folder: PathBuf, node: &str) -> Result<Self, OpenError> {
        let io = |error| OpenError::Io { path: folder.clone(), error };
        fs::DirBuilder::new().recursive(true).mode(0o750).create(&folder).map_err(io)?;
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o640)
            .open(folder.join(".lock"));
        let lock = lock.map_err(io)?;
        rustix::fs::flock(&lock, rustix::fs::FlockOperation::NonBlockingLockExclusive).map_err(|error| {
            match error {
                rustix::io::Errno::WOULDBLOCK => OpenError::InUse(folder.clone()),
                error => io(error.into()),
            }
        })?;
        let (next_seq, repaired) = match newest(&folder).map_err(io)? {
            None => (1, None),
            Some(file) => end_of(&file)?,
        };
        Ok(Self {
            folder,
            node: node.to_owned(),
            _lock: lock,
            today: None,
            next_seq,
            lost_told: 0,
            clock: clock::State::default(),
            failing: false,
            unsynced: false,
            repaired,
        })
    }

    /// Takes events until the queue is closed. A batch is in the file, for readers to see, as soon as it is
    /// taken; the disk has it at most a second later.
    fn write_all_from(&mut self, entries: &Receiver<Message>, counts: &Counts) {
        let mut unsynced_since: Option<Instant> = None;
        loop {
            if let Some(detail) = self.repaired.take()
                && !self.tell("log.repaired", &detail, counts)
            {
                self.repaired = Some(detail);
            }
            let wait = unsynced_since.map_or(SYNC_EVERY, |since| SYNC_EVERY.saturating_sub(since.elapsed()));
            let (batch, closed) = take_batch(entries, wait);
            self.write(&batch, counts);
            counts.queued.fetch_sub(batch.len() as u64, Relaxed);
            if closed {
                // What came after the end was announced.
                let late = entries.try_iter().take(QUEUE_LIMIT).count() as u64;
                counts.lost.fetch_add(late, Relaxed);
                counts.queued.fetch_sub(late, Relaxed);
            }
            let lost = counts.lost.load(Relaxed);
            if lost > self.lost_told
                && self.tell("events.lost", &json!({ "count": lost - self.lost_told }), counts)
            {
                self.lost_told = lost;
            }
            if self.unsynced {
                unsynced_since.get_or_insert_with(Instant::now);
            }
            if closed || unsynced_since.is_some_and(|since| since.elapsed() >= SYNC_EVERY) {
                self.sync();
                unsynced_since = None;
            }
            if closed {
                return;
            }
        }
    }

    /// Writes a batch; what cannot be written is counted as lost.
    fn write(&mut self, batch: &[Entry], counts: &Counts) {
        let kept = self.append(batch, counts);
        counts.lost.fetch_add((batch.len() - kept) as u64, Relaxed);
    }

    /// Writes an event of the log's own. One that cannot be written is no loss: it is tried again.
    fn tell(&mut self, act: &str, detail: &Value, counts: &Counts) -> bool {
        self.append(&[Entry::admin(act, detail.clone(), None)], counts) == 1
    }

    /// Writes what it can, and says how many events that was. A failure is logged when it begins and when it ends.
    fn append(&mut self, batch: &[Entry], counts: &Counts) -> usize {
        let mut kept = 0;
        while let Some(first) = batch.get(kept) {
            let day = clock::day(first.time);
            let same = batch[kept..].iter().take_while(|entry| clock::day(entry.time) == day).count();
            let (written, end) = self.append_day(&day, &batch[kept..kept + same]);
            kept += written;
            counts.written.fetch_add(written as u64, Relaxed);
            match end {
                Ok(()) if self.failing => {
                    tracing::info!("the record can be written again");
                    self.failing = false;
                }
                Ok(()) => {}
                Err(error) => {
                    if !self.failing {
                        tracing::error!(%error, "the record cannot be written; events are lost until it can be");
                    }
                    self.failing = true;
                    break;
                }
            }
        }
        kept
    }

    /// Writes events of one day. After an error the whole lines stay, since readers may have seen them, and the
    /// half one goes.
    fn append_day(&mut self, day: &str, entries: &[Entry]) -> (usize, io::Result<()>) {
        let clock = self.clock.word();
        let mut text = String::new();
        for (entry, seq) in entries.iter().zip(self.next_seq..) {
            text.push_str(&entry.line(&self.node, seq, clock));
            text.push('\n');
        }
        let today = match self.file_of(day) {
            Ok(today) => today,
            Err(error) => return (0, Err(error)),
        };
        let (bytes, end) = write_some(&mut today.file, text.as_bytes());
        let whole = text.as_bytes()[..bytes].iter().rposition(|&byte| byte == b'\n').map_or(0, |at| at + 1);
        let lines = text.as_bytes()[..whole].iter().filter(|&&byte| byte == b'\n').count();
        today.len += whole as u64;
        if end.is_err() {
            let good = today.len;
            let _ = today.file.set_len(good);
            let _ = today.file.seek(SeekFrom::Start(good));
        }
        self.next_seq += lines as u64;
        self.unsynced |= lines > 0;
        (lines, end)
    }

    /// The file of a day. The clock may go back; the record does not: then the newest file goes on.
    fn file_of(&mut self, day: &str) -> io::Result<&mut Today> {
        let stays = self.today.as_ref().is_some_and(|today| today.day.as_str() >= day);
        if !stays {
            self.sync();
            let path = self.folder.join(format!("{day}.jsonl"));
            let newest = newest(&self.folder)?.filter(|newest| *newest > path).unwrap_or(path);
            let mut file =
                OpenOptions::new().create(true).truncate(false).write(true).mode(0o640).open(&newest)?;
            let len = file.seek(SeekFrom::End(0))?;
            let day = newest.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
            // The file's name must be on disk too.
            File::open(&self.folder)?.sync_all()?;
            self.today = Some(Today { day, file, len });
        }
        self.today.as_mut().ok_or_else(|| io::Error::other("no file is open"))
    }

    fn sync(&mut self) {
        if let Some(today) = &self.today
            && let Err(error) = today.file.sync_data()
        {
            tracing::error!(%error, "the record cannot be brought to disk");
        }
        self.unsynced = false;
    }
}

fn take_batch(entries: &Receiver<Message>, wait: Duration) -> (Vec<Entry>, bool) {
    let mut batch = Vec::new();
    match entries.recv_timeout(wait) {
        Ok(Message::Event(entry)) => batch.push(*entry),
        Ok(Message::Close) | Err(RecvTimeoutError::Disconnected) => return (batch, true),
        Err(RecvTimeoutError::Timeout) => return (batch, false),
    }
    while batch.len() < BATCH_LIMIT {
        match entries.try_recv() {
            Ok(Message::Event(entry)) => batch.push(*entry),
            Ok(Message::Close) => return (batch, true),
            Err(_) => break,
        }
    }
    (batch, false)
}

/// The newest file of a record.
fn newest(folder: &Path) -> io::Result<Option<PathBuf>> {
    Ok(files(folder)?.pop())
}

/// The files of a record, oldest first.
pub(crate) fn files(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "jsonl") {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

/// Writes until an error, and says how many bytes got through.
fn write_some(out: &mut impl Write, text: &[u8]) -> (usize, io::Result<()>) {
    let mut written = 0;
    while written < text.len() {
        match out.write(&text[written..]) {
            Ok(0) => return (written, Err(io::ErrorKind::WriteZero.into())),
            Ok(bytes) => written += bytes,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return (written, Err(error)),
        }
    }
    (written, Ok(()))
}

/// The number that comes next, after cutting off a line that a crash left half written.
fn end_of(path: &Path) -> Result<(u64, Option<Value>), OpenError> {
    let io = |error| OpenError::Io { path: path.to_owned(), error };
    let file = OpenOptions::new().read(true).write(true).open(path).map_err(io)?;
    let len = file.metadata().map_err(io)?.len();
    let good = behind_last_newline(&file, len).map_err(io)?;
    let next_seq = match good {
        0 => previous_seq(path)? + 1,
        good => match last_seq(&file, good).map_err(io)? {
            Some(seq) => seq + 1,
            None => {
                let line = BufReader::new((&file).take(good)).split(b'\n').count() as u64;
                return Err(OpenError::Corrupt { file: path.to_owned(), line });
            }
        },
    };
    if good == len {
        return Ok((next_seq, None));
    }
    file.set_len(good).map_err(io)?;
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned());
    Ok((next_seq, Some(json!({ "file": name, "bytes": len - good }))))
}

/// The number of the event whose line ends at `end`.
fn last_seq(file: &File, end: u64) -> io::Result<Option<u64>> {
    let start = behind_last_newline(file, end - 1)?;
    let mut line = Vec::new();
    let mut from_start = file;
    from_start.seek(SeekFrom::Start(start))?;
    from_start.take(end - start).read_to_end(&mut line)?;
    from_start.rewind()?;
    Ok(serde_json::from_slice::<Value>(&line).ok().and_then(|event| event["seq"].as_u64()))
}

/// Where the last line before `end` begins: just behind the newline before it, or at 0.
pub(crate) fn behind_last_newline(file: &File, mut end: u64) -> io::Result<u64> {
    let mut chunk = [0; LOOK_BACK_BYTES];
    while end > 0 {
        let from = end.saturating_sub(LOOK_BACK_BYTES as u64);
        let chunk = &mut chunk[..(end - from) as usize];
        file.read_exact_at(chunk, from)?;
        if let Some(at) = chunk.iter().rposition(|&byte| byte == b'\n') {
            return Ok(from + at as u64 + 1);
        }
        end = from;
    }
    Ok(0)
}

/// The last number before an empty file.
fn previous_seq(path: &Path) -> Result<u64, OpenError> {
    let folder = path.parent().unwrap_or(Path::new("."));
    let io = |error| OpenError::Io { path: folder.to_owned(), error };
    let before = files(folder).map_err(io)?.into_iter().rfind(|file| file.as_path() < path);
    match before {
        None => Ok(0),
        Some(file) => Ok(end_of(&file)?.0 - 1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_finds_no_room_is_counted_and_told() {
        let data = tempfile::TempDir::new().unwrap();
        let (log, entries) = Log::queue();
        let handed_in = QUEUE_LIMIT as u64 + 3;
        (0..handed_in).for_each(|_| log.record(Entry::admin("flood", Value::Null, None)));
        log.lose(2);
        assert_eq!(log.counters(), Counters { written: 0, lost: 5, queued: handed_in - 3 });
        let files = DayFiles::open(data.path().join("log"), "n").unwrap();
        log.start(files, entries).unwrap().close();
        // The one more is the event that tells of the loss.
        assert_eq!(log.counters(), Counters { written: handed_in - 3 + 1, lost: 5, queued: 0 });
        let text = std::fs::read_to_string(newest(&data.path().join("log")).unwrap().unwrap()).unwrap();
        let told = text.lines().find(|line| line.contains("events.lost")).unwrap();
        assert_eq!(serde_json::from_str::<Value>(told).unwrap()["detail"], json!({ "count": 5 }));
    }

    #[test]
    fn a_write_that_breaks_off_says_how_far_it_got() {
        let mut disk = [0; 5];
        let (bytes, end) = write_some(&mut disk.as_mut_slice(), b"1\n2\n3\n");
        assert_eq!((bytes, end.is_err(), &disk), (5, true, b"1\n2\n3"));
    }

    #[test]
    fn events_of_two_days_are_in_two_files_and_the_record_never_goes_back() {
        let data = tempfile::TempDir::new().unwrap();
        let (log, entries) = Log::queue();
        let day = |days: u64| std::time::SystemTime::UNIX_EPOCH + Duration::from_secs(86_400 * days);
        for days in [1, 2, 1] {
            let mut entry = Entry::admin("day", json!(days), None);
            entry.time = day(days);
            log.record(entry);
        }
        let folder = data.path().join("log");
        log.start(DayFiles::open(folder.clone(), "n").unwrap(), entries).unwrap().close();
        let lines = |day: &str| std::fs::read_to_string(folder.join(day)).unwrap().lines().count();
        assert_eq!((lines("1970-01-02.jsonl"), lines("1970-01-03.jsonl")), (1, 2));
    }

    #[test]
    fn a_record_that_cannot_be_written_loses_events_and_tells_once_it_can() {
        let data = tempfile::TempDir::new().unwrap();
        let (log, writer) = Record::open(data.path(), "n").unwrap().start().unwrap();
        // A folder where the newest file should be: no event can be written, whatever its day.
        let obstacle = data.path().join("log/9999-12-31.jsonl");
        std::fs::create_dir(&obstacle).unwrap();
        log.record(Entry::admin("lost", Value::Null, None));
        while log.counters().lost == 0 {
            std::thread::yield_now();
        }
        std::fs::remove_dir(&obstacle).unwrap();
        log.record(Entry::admin("kept", Value::Null, None));
        writer.close();
        let text = std::fs::read_to_string(newest(&data.path().join("log")).unwrap().unwrap()).unwrap();
        let events: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let mut acts: Vec<&str> = events.iter().map(|event| event["act"].as_str().unwrap()).collect();
        acts.sort_unstable();
        assert_eq!(acts, ["events.lost", "kept"]);
        assert_eq!((&events[0]["seq"], &events[1]["seq"]), (&json!(1), &json!(2)));
        assert_eq!(log.counters(), Counters { written: 2, lost: 1, queued: 0 });
    }
}
