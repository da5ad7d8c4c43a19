//! The log: a bounded queue that never makes a plane wait, and one thread that numbers, writes and seals.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, channel, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

use interdict_policy::Privacy;
use serde_json::{Value, json};

use crate::checkpoint::Reason;
use crate::clock;
use crate::entry::Entry;
use crate::pack::{self, Packer};
use crate::record::{Files, OpenError, SYNC_EVENTS};

/// Events that wait to be written; more are lost, and the loss is counted and recorded. A disk may take a second for a sync;
/// at most they take some 130 MB.
pub const QUEUE_LIMIT: usize = 262_144;
/// How far behind the disk may be.
const SYNC_EVERY: Duration = Duration::from_secs(1);
/// How often the record is signed, whether anything happened or not.
const SEAL_EVERY: Duration = Duration::from_secs(60);
/// How long after a failure it is tried again.
const RETRY_EVERY: Duration = Duration::from_secs(1);
/// How far the clock may move against the time since boot, from one look to the next, before it is said.
const CLOCK_JUMP: Duration = Duration::from_secs(1);

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
    sealed: AtomicU64,
    lost: AtomicU64,
}

enum Message {
    Event(Box<Entry>),
    /// A segment was compressed.
    Packed(pack::Packed),
    /// Something else to do with the record, between two batches.
    Act(Box<dyn FnOnce(&mut Scribe) + Send>),
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
    files: Files,
}

impl Record {
    /// Opens the record in `data/log`. `node` names this machine in every event.
    ///
    /// # Errors
    /// When another agent writes there, when the record cannot be continued, or when the file system says no.
    pub fn open(data: &Path, node: &str) -> Result<Self, OpenError> {
        Files::open(data, node).map(|files| Self { files })
    }

    /// The same, with this said of clients that are of no unit.
    pub fn with_privacy(mut self, otherwise: Privacy) -> Self {
        self.files.set_privacy(otherwise);
        self
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

    fn start(&self, files: Files, entries: Receiver<Message>) -> io::Result<Writer> {
        let queue = self.queue.clone();
        let packer = Packer::start(files.data(), move |packed| {
            let _ = queue.send(Message::Packed(packed));
        })?;
        let mut scribe = Scribe {
            files,
            counts: self.counts.clone(),
            packer,
            lost_told: 0,
            offset: clock::Offset::now(),
            retry: None,
            is_failing: false,
        };
        let thread = std::thread::Builder::new().name("audit".to_owned());
        let thread = thread.spawn(move || scribe.write_all_from(&entries))?;
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
        let Counts { queued, written, lost, .. } = &*self.counts;
        Counters { written: written.load(Relaxed), lost: lost.load(Relaxed), queued: queued.load(Relaxed) }
    }

    /// How many events the newest checkpoint covers.
    pub fn sealed(&self) -> u64 {
        self.counts.sealed.load(Relaxed)
    }

    /// Has a new key sign the record from now on, as both keys sign. Waits for it. Returns the public halves: the old one, and
    /// the new one.
    ///
    /// # Errors
    /// When the record cannot be written; then the old key stays.
    pub fn change_key(&self) -> io::Result<[String; 2]> {
        self.act(Scribe::change_key)
    }

    /// Removes whole segments whose events are all older than a time. Waits for it. Returns how many events went.
    ///
    /// # Errors
    /// When the record cannot be written, or a file cannot be removed.
    pub fn prune(&self, before: SystemTime, by: &str) -> io::Result<u64> {
        let by = by.to_owned();
        self.act(move |scribe| scribe.prune(before, &by))
    }

    /// Hands in events of which none may be lost, and waits until they are written. The planes' own wait meanwhile.
    ///
    /// # Errors
    /// When the record cannot be written: then some of them may be.
    pub fn write_all(&self, entries: Vec<Entry>) -> io::Result<()> {
        self.act(move |scribe| scribe.write_all(&entries))
    }

    /// Hands in an event, and has it sealed at once. Waits for it. Returns the event's number.
    ///
    /// # Errors
    /// When the record cannot be written or sealed.
    pub fn write_sealed(&self, entry: Entry) -> io::Result<u64> {
        self.act(move |scribe| {
            scribe.write_all(&[entry])?;
            let number = scribe.files.size();
            scribe.files.seal(Reason::Minute).map(|()| number)
        })
    }

    /// Seals what is on record now. Waits for it.
    ///
    /// # Errors
    /// When the record cannot be sealed.
    pub fn seal(&self) -> io::Result<()> {
        self.act(|scribe| scribe.files.seal(Reason::Minute))
    }

    /// Has the thread that writes do something, and waits for it.
    fn act<T: Send + 'static>(
        &self,
        act: impl FnOnce(&mut Scribe) -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        let (done, outcome) = channel();
        let act = Message::Act(Box::new(move |scribe| {
            let _ = done.send(act(scribe));
        }));
        let closed = || io::Error::other("the record is closed");
        self.queue.send(act).map_err(|_| closed())?;
        outcome.recv().map_err(|_| closed())?
    }
}

/// The thread that writes.
pub struct Writer {
    queue: SyncSender<Message>,
    thread: JoinHandle<()>,
}

impl Writer {
    /// Writes what waits, seals the record, and ends.
    pub fn close(self) {
        let _ = self.queue.send(Message::Close);
        let _ = self.thread.join();
    }
}

/// Who writes the record.
struct Scribe {
    files: Files,
    counts: Arc<Counts>,
    packer: Packer,
    lost_told: u64,
    offset: clock::Offset,
    /// A checkpoint that could not be made, and when it is tried again.
    retry: Option<(Reason, Instant)>,
    is_failing: bool,
}

impl Scribe {
    /// Takes events until the queue is closed. A batch is in the file, for readers to see, as soon as it is
    /// taken; the disk has it at most a second or [`SYNC_EVENTS`] later.
    fn write_all_from(&mut self, entries: &Receiver<Message>) {
        self.seal(Reason::Start);
        let mut unsynced_since: Option<Instant> = None;
        loop {
            self.tell_of_itself();
            let wait = unsynced_since.map_or(SYNC_EVERY, |since| SYNC_EVERY.saturating_sub(since.elapsed()));
            let Batch { events, others, closed } = take_batch(entries, wait);
            self.write(&events);
            self.counts.queued.fetch_sub(events.len() as u64, Relaxed);
            others.into_iter().for_each(|other| self.do_other(other));
            if closed {
                // What came after the end was announced.
                let late =
                    entries.try_iter().take(QUEUE_LIMIT).filter(|late| matches!(late, Message::Event(_)));
                let late = late.count() as u64;
                self.counts.lost.fetch_add(late, Relaxed);
                self.counts.queued.fetch_sub(late, Relaxed);
                self.tell_of_itself();
            }
            if self.files.is_behind() {
                unsynced_since.get_or_insert_with(Instant::now);
            }
            let is_due = self.files.is_far_behind()
                || unsynced_since.is_some_and(|since| since.elapsed() >= SYNC_EVERY);
            if is_due {
                self.sync();
                unsynced_since = None;
            }
            if closed {
                // What was lost and could not be told must not look like an end in order.
                let is_told =
                    self.lost_told == self.counts.lost.load(Relaxed) && self.files.opened.is_empty();
                return self.seal(if is_told { Reason::Stop } else { Reason::Minute });
            }
            match self.retry.take_if(|(_, at)| Instant::now() >= *at) {
                Some((reason, _)) => self.seal(reason),
                None if self.retry.is_none() && self.files.sealed_for() >= SEAL_EVERY => {
                    self.seal(Reason::Minute)
                }
                None => {}
            }
        }
    }

    /// Tells what the record has to say of itself.
    fn tell_of_itself(&mut self) {
        while let Some((act, detail)) = self.files.opened.first().cloned() {
            if !self.tell(act, detail) {
                break;
            }
            self.files.opened.remove(0);
        }
        let lost = self.counts.lost.load(Relaxed);
        if lost > self.lost_told && self.tell("events.lost", json!({ "count": lost - self.lost_told })) {
            self.lost_told = lost;
        }
        if let Some(seconds) = self.offset.jumped(CLOCK_JUMP) {
            self.tell("clock.jumped", json!({ "by_secs": seconds }));
        }
        for segment in self.files.full.drain(..) {
            self.packer.take(segment);
        }
    }

    /// Writes a batch; what cannot be written is counted as lost.
    fn write(&mut self, batch: &[Entry]) {
        let kept = self.append(batch);
        self.counts.lost.fetch_add((batch.len() - kept) as u64, Relaxed);
    }

    /// Writes an event of the log's own. One that cannot be written is no loss: it is tried again.
    fn tell(&mut self, act: &str, detail: Value) -> bool {
        self.append(&[Entry::admin(act, detail, None)]) == 1
    }

    fn append(&mut self, batch: &[Entry]) -> usize {
        let kept = self.files.append(batch);
        self.counts.written.fetch_add(kept as u64, Relaxed);
        kept
    }

    fn sync(&mut self) {
        if let Err(error) = self.files.sync() {
            tracing::error!(%error, "the record cannot be brought to disk");
        }
    }

    fn seal(&mut self, reason: Reason) {
        match self.files.seal(reason.clone()) {
            Ok(()) if self.is_failing => {
                tracing::info!("the record is sealed again");
                self.is_failing = false;
            }
            Ok(()) => {}
            Err(error) => {
                if !self.is_failing {
                    tracing::error!(%error, "the record cannot be sealed; it is tried again every second");
                }
                self.is_failing = true;
                self.retry = Some((reason, Instant::now() + RETRY_EVERY));
            }
        }
        self.counts.sealed.store(self.files.sealed_size(), Relaxed);
    }

    fn do_other(&mut self, message: Message) {
        match message {
            Message::Packed(packed) => {
                if self.tell("segment.packed", packed.detail.clone()) {
                    self.files.is_packed(packed);
                }
            }
            Message::Act(act) => act(self),
            Message::Event(_) | Message::Close => {}
        }
    }

    fn write_all(&mut self, entries: &[Entry]) -> io::Result<()> {
        for batch in entries.chunks(SYNC_EVENTS) {
            if self.append(batch) < batch.len() {
                return Err(io::Error::other("the record cannot be written"));
            }
            self.files.sync()?;
        }
        Ok(())
    }

    fn change_key(&mut self) -> io::Result<[String; 2]> {
        let [old, new] = self.files.change_key()?;
        self.tell("key.changed", json!({ "old": old, "new": new }));
        Ok([old, new])
    }

    fn prune(&mut self, before: SystemTime, by: &str) -> io::Result<u64> {
        // What goes must be covered by a checkpoint, and its going be on disk first.
        self.files.seal(Reason::Minute)?;
        let Some(pruning) = self.files.to_prune(before)? else { return Ok(0) };
        let mut detail = pruning.detail();
        detail["by"] = by.into();
        if !self.tell("log.pruned", detail) {
            return Err(io::Error::other("the record cannot be written"));
        }
        self.files.seal(Reason::Minute)?;
        pruning.remove()
    }
}

struct Batch {
    events: Vec<Entry>,
    others: Vec<Message>,
    closed: bool,
}

fn take_batch(entries: &Receiver<Message>, wait: Duration) -> Batch {
    let mut batch = Batch { events: Vec::new(), others: Vec::new(), closed: false };
    match entries.recv_timeout(wait) {
        Ok(message) => batch.take(message),
        Err(RecvTimeoutError::Disconnected) => batch.closed = true,
        Err(RecvTimeoutError::Timeout) => {}
    }
    while !batch.events.is_empty()
        && batch.events.len() < SYNC_EVENTS
        && batch.others.is_empty()
        && !batch.closed
    {
        match entries.try_recv() {
            Ok(message) => batch.take(message),
            Err(_) => break,
        }
    }
    batch
}

impl Batch {
    fn take(&mut self, message: Message) {
        match message {
            Message::Event(entry) => self.events.push(*entry),
            Message::Close => self.closed = true,
            other => self.others.push(other),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::segment::{self, Segment};

    fn text(data: &Path) -> Vec<String> {
        let segments = segment::list(&data.join("log")).unwrap().segments;
        segments.iter().map(|segment| std::fs::read_to_string(&segment.path).unwrap()).collect()
    }

    #[test]
    fn what_finds_no_room_is_counted_and_told() {
        let data = tempfile::TempDir::new().unwrap();
        let (log, entries) = Log::queue();
        let handed_in = QUEUE_LIMIT as u64 + 3;
        (0..handed_in).for_each(|_| log.record(Entry::admin("flood", Value::Null, None)));
        log.lose(2);
        assert_eq!(log.counters(), Counters { written: 0, lost: 5, queued: handed_in - 3 });
        log.start(Files::open(data.path(), "n").unwrap(), entries).unwrap().close();
        // The one more is the event that tells of the loss.
        assert_eq!(log.counters(), Counters { written: handed_in - 3 + 1, lost: 5, queued: 0 });
        let text = text(data.path()).concat();
        let told = text.lines().find(|line| line.contains("events.lost")).unwrap();
        assert_eq!(serde_json::from_str::<Value>(told).unwrap()["detail"], json!({ "count": 5 }));
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
        log.start(Files::open(data.path(), "n").unwrap(), entries).unwrap().close();
        let lines = |name: &str| {
            std::fs::read_to_string(folder.join(name)).map(|text| text.lines().count()).unwrap_or(0)
        };
        assert_eq!((lines("1970-01-02.000000000001.jsonl"), lines("1970-01-03.000000000002.jsonl")), (1, 2));
    }

    #[test]
    fn a_record_that_cannot_be_written_loses_events_and_tells_once_it_can() {
        let data = tempfile::TempDir::new().unwrap();
        let (log, writer) = Record::open(data.path(), "n").unwrap().start().unwrap();
        // A folder where the segment should be.
        let obstacle = Segment::named(&data.path().join("log"), &clock::day(SystemTime::now()), 1).path;
        std::fs::create_dir(&obstacle).unwrap();
        log.record(Entry::admin("lost", Value::Null, None));
        while log.counters().lost == 0 {
            std::thread::yield_now();
        }
        std::fs::remove_dir(&obstacle).unwrap();
        log.record(Entry::admin("kept", Value::Null, None));
        writer.close();
        let text = text(data.path()).concat();
        let events: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let mut acts: Vec<&str> = events.iter().map(|event| event["act"].as_str().unwrap()).collect();
        acts.sort_unstable();
        assert_eq!(acts, ["events.lost", "kept"]);
        assert_eq!((&events[0]["seq"], &events[1]["seq"]), (&json!(1), &json!(2)));
        assert_eq!(log.counters(), Counters { written: 2, lost: 1, queued: 0 });
    }
}
