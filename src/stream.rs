//! Events for somebody else's collector, as they are recorded: `[[audit.stream]]`. Syslog (RFC 5424) over UDP (RFC 5426), TCP
//! (RFC 6587, with counted octets) or TLS (RFC 5425), with the event in the format that was named as its message.
//!
//! A stream begins with the first event on record, and goes on where it ended. Syslog acknowledges nothing: what was sent in the
//! last seconds before a connection broke is sent again, so a collector may have an event twice, and tells by its id.

use std::collections::VecDeque;
use std::fs;
use std::io::{self, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use interdict_audit::{Format, Start, Tail};
use serde_json::{Value, json};
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

/// How often the record is looked at for more.
const LOOK_EVERY: Duration = Duration::from_millis(300);
/// How long a collector may take to answer, or to take a message.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long after a failure the next try is made, at first and at most.
const RETRY_AFTER: Duration = Duration::from_secs(1);
const RETRY_AFTER_AT_MOST: Duration = Duration::from_secs(60);
/// What was sent this long ago, on a connection that still stands, has arrived.
const ARRIVES_WITHIN: Duration = Duration::from_secs(3);
/// Facility local0 (16), with severity notice (5) for contacts and informational (6) for all else.
const CONTACT: u8 = 16 * 8 + 5;
const OTHER: u8 = 16 * 8 + 6;

/// Where a stream goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Collector {
    Udp(SocketAddr),
    Tcp(SocketAddr),
    /// A server of this name, at this address.
    Tls(ServerName<'static>, SocketAddr),
}

impl FromStr for Collector {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || "write udp://ADDR:PORT, tcp://ADDR:PORT, or tls://NAME#ADDR:PORT".to_owned();
        let address = |text: &str| text.parse().map_err(|_| wrong());
        match text.split_once("://").ok_or_else(wrong)? {
            ("udp", rest) => address(rest).map(Self::Udp),
            ("tcp", rest) => address(rest).map(Self::Tcp),
            ("tls", rest) => {
                let (name, rest) = rest.split_once('#').ok_or_else(wrong)?;
                let name = ServerName::try_from(name.to_owned()).map_err(|_| wrong())?;
                address(rest).map(|address| Self::Tls(name, address))
            }
            _ => Err(wrong()),
        }
    }
}

/// A stream as it is configured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Stream {
    /// As it is written.
    pub(crate) to: String,
    pub(crate) collector: Collector,
    pub(crate) format: Format,
}

/// The thread that sends a stream.
pub(crate) struct Sender {
    shared: Arc<Shared>,
    thread: JoinHandle<()>,
}

struct Shared {
    stream: Stream,
    is_over: AtomicBool,
    sent: AtomicU64,
    /// The number of the last event that has arrived.
    position: AtomicU64,
    error: Mutex<Option<String>>,
}

/// What is said of a stream.
#[derive(Clone)]
pub(crate) struct State(Arc<Shared>);

impl State {
    pub(crate) fn shown(&self) -> Value {
        let Shared { stream, sent, position, error, .. } = &*self.0;
        json!({
            "to": stream.to,
            "format": stream.format.as_str(),
            "sent": sent.load(Relaxed),
            "arrived": position.load(Relaxed),
            "error": *error.lock().unwrap_or_else(PoisonError::into_inner),
        })
    }
}

impl Sender {
    /// Starts it.
    ///
    /// # Errors
    /// When the system has no room for a thread.
    pub(crate) fn start(stream: Stream, data: &Path) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            stream,
            is_over: AtomicBool::default(),
            sent: AtomicU64::default(),
            position: AtomicU64::default(),
            error: Mutex::default(),
        });
        let (data, of_thread) = (data.to_owned(), shared.clone());
        let thread = std::thread::Builder::new().name("audit-stream".to_owned());
        let thread = thread.spawn(move || of_thread.send_all(&data))?;
        Ok(Self { shared, thread })
    }

    pub(crate) fn state(&self) -> State {
        State(self.shared.clone())
    }

    /// Ends it. What was not sent is sent after the next start.
    pub(crate) fn stop(self) {
        self.shared.is_over.store(true, Relaxed);
        self.thread.thread().unpark();
        let _ = self.thread.join();
    }
}

impl Shared {
    fn send_all(&self, data: &Path) {
        let place = self.place(data);
        let position = fs::read_to_string(&place).ok().and_then(|text| text.trim().parse().ok());
        self.position.store(position.unwrap_or(0), Relaxed);
        let mut wait = RETRY_AFTER;
        while !self.is_over.load(Relaxed) {
            let begun = Instant::now();
            let outcome = self.send(data, &place);
            if let Err(error) = fs::write(&place, self.position.load(Relaxed).to_string()) {
                tracing::warn!(%error, to = %self.stream.to, "how far the stream came is not kept");
            }
            let Err(error) = outcome else { return };
            let mut known = self.error.lock().unwrap_or_else(PoisonError::into_inner);
            if known.is_none() {
                tracing::warn!(%error, to = %self.stream.to, "events do not reach the collector; they are sent when it is back");
            }
            *known = Some(error.to_string());
            drop(known);
            wait = if begun.elapsed() > RETRY_AFTER_AT_MOST {
                RETRY_AFTER
            } else {
                (wait * 2).min(RETRY_AFTER_AT_MOST)
            };
            std::thread::park_timeout(wait);
        }
    }

    /// Where it is kept how far this stream came.
    fn place(&self, data: &Path) -> PathBuf {
        let plain = |letter: char| if letter.is_ascii_alphanumeric() || letter == '.' { letter } else { '-' };
        let name: String = self.stream.to.chars().map(plain).collect();
        data.join("state").join(format!("stream-{name}-{}", self.stream.format.as_str()))
    }

    /// Sends what is on record, and what comes, until it fails or is told to end.
    fn send(&self, data: &Path, place: &Path) -> io::Result<()> {
        let mut wire = Wire::connect(&self.stream.collector)?;
        let mut tail = Tail::open(data, Start::After(self.position.load(Relaxed)))?;
        // When which event was sent, of those that may not have arrived.
        let mut on_way: VecDeque<(Instant, u64)> = VecDeque::new();
        let mut kept_at = Instant::now();
        loop {
            let lines = tail.next_lines()?;
            let is_end = lines.is_empty();
            for line in lines {
                let Ok(event) = serde_json::from_str::<Value>(&line) else { continue };
                wire.send(&message(&event, &self.stream.format.write(&line)))?;
                self.sent.fetch_add(1, Relaxed);
                let seq = event["seq"].as_u64().unwrap_or(0);
                match on_way.back_mut() {
                    // A mark every tenth of a second is enough.
                    Some((at, last)) if at.elapsed() < Duration::from_millis(100) => *last = seq,
                    _ => on_way.push_back((Instant::now(), seq)),
                }
            }
            wire.flush()?;
            if self.error.lock().unwrap_or_else(PoisonError::into_inner).take().is_some() {
                tracing::info!(to = %self.stream.to, "events reach the collector again");
            }
            while let Some((_, seq)) =
                on_way.front().copied().filter(|(at, _)| at.elapsed() >= ARRIVES_WITHIN)
            {
                self.position.store(seq, Relaxed);
                on_way.pop_front();
            }
            if kept_at.elapsed() >= ARRIVES_WITHIN {
                fs::write(place, self.position.load(Relaxed).to_string())?;
                kept_at = Instant::now();
            }
            if self.is_over.load(Relaxed) {
                // An end in order: what was taken is on its way.
                wire.close();
                if let Some((_, seq)) = on_way.back() {
                    self.position.store(*seq, Relaxed);
                }
                return Ok(());
            }
            if is_end {
                std::thread::park_timeout(LOOK_EVERY);
            }
        }
    }
}

/// A message of RFC 5424, without its frame.
fn message(event: &Value, text: &str) -> String {
    let word = |value: &Value, limit: usize| {
        let plain: String =
            value.as_str().unwrap_or("-").chars().filter(char::is_ascii_graphic).take(limit).collect();
        if plain.is_empty() { "-".to_owned() } else { plain }
    };
    let priority = if event["rule"].is_null() { OTHER } else { CONTACT };
    let kind = if event["rule"].is_null() { &event["act"] } else { &event["plane"] };
    let (time, node, kind) = (word(&event["time"], 32), word(&event["node"], 255), word(kind, 32));
    format!("<{priority}>1 {time} {node} interdict - {kind} - {text}")
}

/// The connection to a collector.
enum Wire {
    Udp(UdpSocket),
    Stream(Box<dyn Connection>),
}

/// What a message is written to, in counted octets.
trait Connection: Write + Send {
    /// Ends it in order.
    fn end(&mut self);
}

impl Connection for TcpStream {
    fn end(&mut self) {
        let _ = self.shutdown(std::net::Shutdown::Write);
    }
}

impl Connection for StreamOwned<ClientConnection, TcpStream> {
    fn end(&mut self) {
        self.conn.send_close_notify();
        let _ = self.flush();
        let _ = self.sock.shutdown(std::net::Shutdown::Write);
    }
}

impl Wire {
    fn connect(collector: &Collector) -> io::Result<Self> {
        let connect = |address: &SocketAddr| {
            let stream = TcpStream::connect_timeout(address, PATIENCE)?;
            stream.set_write_timeout(Some(PATIENCE))?;
            stream.set_read_timeout(Some(PATIENCE))?;
            io::Result::Ok(stream)
        };
        Ok(match collector {
            Collector::Udp(address) => {
                let socket = UdpSocket::bind(if address.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" })?;
                socket.connect(address)?;
                Self::Udp(socket)
            }
            Collector::Tcp(address) => Self::Stream(Box::new(connect(address)?)),
            Collector::Tls(name, address) => {
                let mut roots = RootCertStore::empty();
                roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
                let config = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
                let connection =
                    ClientConnection::new(Arc::new(config), name.clone()).map_err(io::Error::other)?;
                let mut stream = StreamOwned::new(connection, connect(address)?);
                // The handshake: who is there, before anything is told.
                while stream.conn.is_handshaking() {
                    stream.conn.complete_io(&mut stream.sock)?;
                }
                Self::Stream(Box::new(stream))
            }
        })
    }

    fn send(&mut self, message: &str) -> io::Result<()> {
        match self {
            Self::Udp(socket) => socket.send(message.as_bytes()).map(drop),
            Self::Stream(stream) => stream.write_all(format!("{} {message}", message.len()).as_bytes()),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Udp(_) => Ok(()),
            Self::Stream(stream) => stream.flush(),
        }
    }

    fn close(&mut self) {
        if let Self::Stream(stream) = self {
            stream.end();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_collector_is_an_address_and_with_tls_a_name() {
        let address: SocketAddr = "10.1.0.9:514".parse().unwrap();
        assert_eq!("udp://10.1.0.9:514".parse(), Ok(Collector::Udp(address)));
        assert_eq!("tcp://10.1.0.9:514".parse(), Ok(Collector::Tcp(address)));
        let name = ServerName::try_from("siem.example").unwrap();
        assert_eq!("tls://siem.example#10.1.0.9:514".parse(), Ok(Collector::Tls(name, address)));
        for wrong in [
            "10.1.0.9:514",
            "http://10.1.0.9:514",
            "tls://10.1.0.9:514",
            "tls://a b#10.1.0.9:514",
            "udp://siem",
        ] {
            assert!(wrong.parse::<Collector>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_message_has_the_fields_of_rfc_5424_and_no_more() {
        let event =
            json!({ "time": "2026-11-26T09:00:00.250000Z", "node": "gw 1\n", "rule": "v", "plane": "dns" });
        assert_eq!(message(&event, "text"), "<133>1 2026-11-26T09:00:00.250000Z gw1 interdict - dns - text");
        let act = json!({ "time": "2026-11-26T09:00:00.250000Z", "node": "", "rule": null, "act": "policy.applied" });
        assert_eq!(
            message(&act, "text"),
            "<134>1 2026-11-26T09:00:00.250000Z - interdict - policy.applied - text"
        );
    }
}
