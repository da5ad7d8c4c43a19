//! Questions and answers for programs that read dnstap, by Frame Streams over a socket: `[dns.dnstap]`.
//!
//! It is no evidence: what finds no room, or comes while nobody reads, is lost and counted.

use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use interdict_audit::dnstap::{
    ACCEPT, Dnstap, FINISH, Message, Policy, READY, START, STOP, action, control, kind, matched, protocol,
};
use interdict_dns_filter::{Exchange, Taps, Target};
use interdict_policy::{Answer, Rule, Verdict};
use serde_json::{Value, json};

/// Frames that wait to be written; more are lost.
const QUEUE_LIMIT: usize = 8192;
/// How long whoever reads may take for a frame, or for an answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long what waits may take to be written at the end.
const FAREWELL: Duration = Duration::from_secs(1);
/// How long after a failure the next try is made.
const RETRY_AFTER: Duration = Duration::from_secs(2);
/// How often it is looked whether it is to end.
const LOOK_EVERY: Duration = Duration::from_millis(300);
/// The longest control frame that is read.
const CONTROL_LIMIT_BYTES: u32 = 512;

/// Who reads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Reader {
    Unix(PathBuf),
    Tcp(SocketAddr),
}

impl FromStr for Reader {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || "write unix:/PATH or tcp://ADDR:PORT".to_owned();
        match text.strip_prefix("unix:") {
            Some(path) if path.starts_with('/') => Ok(Self::Unix(path.into())),
            _ => text.strip_prefix("tcp://").ok_or_else(wrong)?.parse().map(Self::Tcp).map_err(|_| wrong()),
        }
    }
}

/// `[dns.dnstap]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct DnstapSettings {
    /// `to`
    pub(crate) to: Reader,
    /// `messages = "decided" | "all"`
    pub(crate) taps: Taps,
}

/// Takes exchanges, without ever waiting.
#[derive(Clone)]
pub(crate) struct Tap {
    frames: SyncSender<Vec<u8>>,
    shared: Arc<Shared>,
}

/// The thread that writes.
pub(crate) struct TapWriter {
    shared: Arc<Shared>,
    thread: JoinHandle<()>,
}

struct Shared {
    to: Reader,
    identity: String,
    is_over: AtomicBool,
    sent: AtomicU64,
    lost: AtomicU64,
    error: Mutex<Option<String>>,
}

impl Tap {
    /// Starts the thread.
    ///
    /// # Errors
    /// When the system has no room for one.
    pub(crate) fn start(to: Reader, identity: String) -> io::Result<(Self, TapWriter)> {
        let (is_over, sent, lost, error) = Default::default();
        let shared = Arc::new(Shared { to, identity, is_over, sent, lost, error });
        let (frames, waiting) = sync_channel(QUEUE_LIMIT);
        let of_thread = shared.clone();
        let thread = std::thread::Builder::new().name("dnstap".to_owned());
        let thread = thread.spawn(move || of_thread.write_all(&waiting))?;
        Ok((Self { frames, shared: shared.clone() }, TapWriter { shared, thread }))
    }

    /// Hands one on.
    pub(crate) fn take(&self, exchange: &Exchange<'_>) {
        let frame = dnstap(exchange, &self.shared.identity, SystemTime::now()).frame();
        if self.frames.try_send(frame).is_err() {
            self.shared.lost.fetch_add(1, Relaxed);
        }
    }

    /// What is said of it.
    pub(crate) fn shown(&self) -> Value {
        let Shared { to, sent, lost, error, .. } = &*self.shared;
        let to = match to {
            Reader::Unix(path) => format!("unix:{}", path.display()),
            Reader::Tcp(address) => format!("tcp://{address}"),
        };
        let error = error.lock().unwrap_or_else(PoisonError::into_inner).clone();
        json!({ "to": to, "sent": sent.load(Relaxed), "lost": lost.load(Relaxed), "error": error })
    }

    /// Messages that were written, and that were lost.
    pub(crate) fn counts(&self) -> [u64; 2] {
        [&self.shared.sent, &self.shared.lost].map(|count| count.load(Relaxed))
    }
}

impl TapWriter {
    /// Ends it when what waits is written, but waits no longer than for a moment: whoever reads slowly does not keep the
    /// agent.
    pub(crate) fn stop(self) {
        self.shared.is_over.store(true, Relaxed);
        self.thread.thread().unpark();
        let end = Instant::now() + FAREWELL;
        while !self.thread.is_finished() && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Shared {
    fn write_all(&self, waiting: &Receiver<Vec<u8>>) {
        while !self.is_over.load(Relaxed) {
            let Err(error) = self.write(waiting) else { return };
            let mut known = self.error.lock().unwrap_or_else(PoisonError::into_inner);
            if known.is_none() {
                tracing::warn!(%error, "nobody reads dnstap; questions and answers are lost for it meanwhile");
            }
            *known = Some(error.to_string());
            drop(known);
            // What waited is old when somebody reads again.
            self.lost.fetch_add(waiting.try_iter().count() as u64, Relaxed);
            std::thread::park_timeout(RETRY_AFTER);
        }
    }

    /// Writes what comes, until that fails or it is to end.
    fn write(&self, waiting: &Receiver<Vec<u8>>) -> io::Result<()> {
        let mut wire = self.connect()?;
        wire.write_all(&control(READY, true))?;
        expect(&mut wire, ACCEPT)?;
        wire.write_all(&control(START, true))?;
        if self.error.lock().unwrap_or_else(PoisonError::into_inner).take().is_some() {
            tracing::info!("somebody reads dnstap again");
        }
        loop {
            match waiting.recv_timeout(LOOK_EVERY) {
                Ok(frame) => {
                    // With what waits behind it, as one write.
                    let more: Vec<Vec<u8>> =
                        std::iter::once(frame).chain(waiting.try_iter().take(63)).collect();
                    let written = wire.write_all(&more.concat());
                    let count = if written.is_ok() { &self.sent } else { &self.lost };
                    count.fetch_add(more.len() as u64, Relaxed);
                    written?;
                }
                Err(RecvTimeoutError::Timeout) if !self.is_over.load(Relaxed) => {}
                Err(_) => break,
            }
        }
        wire.write_all(&control(STOP, false))?;
        expect(&mut wire, FINISH)
    }

    fn connect(&self) -> io::Result<Box<dyn Wire>> {
        match &self.to {
            Reader::Unix(path) => {
                let stream = UnixStream::connect(path)?;
                stream.set_read_timeout(Some(PATIENCE))?;
                stream.set_write_timeout(Some(PATIENCE))?;
                Ok(Box::new(stream))
            }
            Reader::Tcp(address) => {
                let stream = TcpStream::connect_timeout(address, PATIENCE)?;
                stream.set_read_timeout(Some(PATIENCE))?;
                stream.set_write_timeout(Some(PATIENCE))?;
                Ok(Box::new(stream))
            }
        }
    }
}

trait Wire: Read + Write {}

impl<W: Read + Write> Wire for W {}

/// Reads the control frame that must come now, whole.
fn expect(wire: &mut dyn Wire, kind: u32) -> io::Result<()> {
    let end = Instant::now() + PATIENCE;
    let mut take = |bytes: &mut [u8]| -> io::Result<()> {
        for byte in bytes {
            wire.read_exact(std::slice::from_mut(byte))?;
            if Instant::now() > end {
                return Err(io::ErrorKind::TimedOut.into());
            }
        }
        Ok(())
    };
    let mut words = [[0; 4]; 3];
    take(words.as_flattened_mut())?;
    let [escape, bytes, said] = words.map(u32::from_be_bytes);
    if escape != 0 || !(4..=CONTROL_LIMIT_BYTES).contains(&bytes) || said != kind {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "whoever reads does not speak Frame Streams"));
    }
    take(&mut vec![0; bytes as usize - 4])
}

/// An exchange in the words of dnstap.
fn dnstap(exchange: &Exchange<'_>, identity: &str, now: SystemTime) -> Dnstap {
    const MESSAGE: i32 = 1;
    let Exchange { client, channel, asked, at, question, answer, decided, matched, policy } = *exchange;
    let since = |time: SystemTime| time.duration_since(UNIX_EPOCH).unwrap_or_default();
    let (came, went) = (since(now.checked_sub(at.elapsed()).unwrap_or(now)), since(now));
    let ip = client.ip().to_canonical();
    let number = protocol::CHANNELS.iter().find(|(_, word)| *word == channel.as_str()).map_or(0, |(n, _)| *n);
    let mut message = Message {
        kind: if answer.is_some() { kind::CLIENT_RESPONSE } else { kind::CLIENT_QUERY },
        family: if ip.is_ipv4() { 1 } else { 2 },
        protocol: number,
        client: octets(ip),
        server: asked.map(octets).unwrap_or_default(),
        client_port: client.port().into(),
        query_secs: came.as_secs(),
        query_nanos: came.subsec_nanos(),
        query: question.to_vec(),
        policy: decided.map(|(rule, verdict)| decision(rule, verdict, matched, question)),
        ..Message::default()
    };
    if let Some(answer) = answer {
        message.response_secs = went.as_secs();
        message.response_nanos = went.subsec_nanos();
        message.response = answer.to_vec();
    }
    Dnstap {
        identity: identity.as_bytes().to_vec(),
        version: concat!("interdict ", env!("CARGO_PKG_VERSION")).into(),
        extra: policy.digest().to_string().into_bytes(),
        message: Some(message),
        kind: MESSAGE,
    }
}

fn decision(rule: &Rule, verdict: Verdict, by: Option<&Target>, question: &[u8]) -> Policy {
    let action = match (verdict, rule.answer) {
        (Verdict::Block, Answer::NxDomain) => action::NXDOMAIN,
        (Verdict::Block, Answer::NoData) => action::NODATA,
        (Verdict::Block, Answer::Drop) => action::DROP,
        // There is no word for REFUSED.
        (Verdict::Block, Answer::Refused | Answer::Addresses { .. }) => action::LOCAL_DATA,
        (Verdict::Allow | Verdict::Log | Verdict::Exempt | Verdict::None, _) => action::PASS,
    };
    let (matched, value) = match by {
        // The name that was asked for is the first thing behind the header, in any letters.
        Some(Target::Name(name)) => {
            let wire = name.as_name().as_wire();
            let asked =
                question.get(12..12 + wire.len()).is_some_and(|asked| asked.eq_ignore_ascii_case(wire));
            (if asked { matched::QNAME } else { 0 }, wire.to_vec())
        }
        Some(Target::Address(address)) => (matched::RESPONSE_IP, octets(*address)),
        None => (0, Vec::new()),
    };
    Policy { kind: "interdict".to_owned(), rule: rule.id.as_str().into(), action, matched, value }
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}
