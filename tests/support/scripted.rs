//! An upstream that answers by a script, and misbehaves by it.

use std::io::{Read, Write};
use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use hickory_proto::op::{Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{Name, Record, RecordType};
use hickory_proto::serialize::txt::Parser;
use serde::Deserialize;

use super::{bind_both, loopback};

/// What is said to a question.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Line {
    /// `NAME TYPE`; either may be `*`. A name in other letters is the same.
    pub(crate) ask: String,
    /// Records as zone files write them.
    #[serde(default)]
    pub(crate) answer: Vec<String>,
    #[serde(default)]
    pub(crate) authority: Vec<String>,
    #[serde(default)]
    pub(crate) additional: Vec<String>,
    /// RCODE, as `dig` writes it.
    #[serde(default = "no_error")]
    pub(crate) rcode: String,
    /// What is wrong with it.
    #[serde(default)]
    pub(crate) how: How,
    /// How long it takes.
    #[serde(default)]
    pub(crate) delay_ms: u64,
    /// How often it is said; then the next line is.
    #[serde(default = "always")]
    pub(crate) times: u32,
    /// Which upstream says so, from 0; none for all.
    pub(crate) at: Option<usize>,
}

fn no_error() -> String {
    "NOERROR".to_owned()
}

fn always() -> u32 {
    u32::MAX
}

/// How an upstream misbehaves.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum How {
    #[default]
    Well,
    /// It says nothing.
    Silence,
    /// It says what is no message.
    Garbage,
    /// It answers under another id.
    WrongId,
    /// Somebody else answers: over UDP, from another port.
    WrongSource,
    /// It answers another question.
    WrongQuestion,
    /// Over UDP it says that there is more, and over TCP all.
    Truncated,
    /// It repeats the question in other letters.
    OtherLetters,
}

/// A server on loopback.
pub(crate) struct Scripted {
    address: SocketAddr,
    stage: Arc<Stage>,
}

struct Stage {
    number: usize,
    script: Mutex<Vec<Line>>,
    asked: Mutex<Vec<String>>,
    ports: Mutex<Vec<u16>>,
    is_down: AtomicBool,
}

impl Scripted {
    pub(crate) fn start(number: usize, script: &[Line]) -> Self {
        let (udp, tcp) = bind_both(loopback());
        let address = udp.local_addr().unwrap();
        let stage = Arc::new(Stage {
            number,
            script: Mutex::new(script.to_vec()),
            asked: Mutex::default(),
            ports: Mutex::default(),
            is_down: AtomicBool::new(false),
        });
        let on_udp = stage.clone();
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok((len, from)) = udp.recv_from(&mut buffer) {
                let (stage, udp, message) =
                    (on_udp.clone(), udp.try_clone().unwrap(), buffer[..len].to_vec());
                std::thread::spawn(move || {
                    stage.ports.lock().unwrap().push(from.port());
                    if let Some((answer, how)) = stage.answer(&message, false) {
                        let other = UdpSocket::bind((loopback(), 0)).unwrap();
                        let from_here = if how == How::WrongSource { &other } else { &udp };
                        let _ = from_here.send_to(&answer, from);
                    }
                });
            }
        });
        let on_tcp = stage.clone();
        std::thread::spawn(move || {
            for mut stream in tcp.incoming().flatten() {
                let stage = on_tcp.clone();
                std::thread::spawn(move || {
                    let mut len = [0; 2];
                    while stream.read_exact(&mut len).is_ok() {
                        let mut message = vec![0; usize::from(u16::from_be_bytes(len))];
                        stream.read_exact(&mut message).ok()?;
                        let (answer, _) = stage.answer(&message, true)?;
                        let length = (answer.len() as u16).to_be_bytes();
                        stream.write_all(&[&length[..], &answer].concat()).ok()?;
                    }
                    Some(())
                });
            }
        });
        Self { address, stage }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// What it was asked since the last time, as `NAME TYPE`, lower-case.
    pub(crate) fn asked(&self) -> Vec<String> {
        std::mem::take(&mut *self.stage.asked.lock().unwrap())
    }

    /// From which ports it was asked over UDP, in that order.
    pub(crate) fn ports(&self) -> Vec<u16> {
        self.stage.ports.lock().unwrap().clone()
    }

    /// From now on it says nothing at all, or again what its script says.
    pub(crate) fn set_down(&self, is_down: bool) {
        self.stage.is_down.store(is_down, SeqCst);
    }
}

impl Stage {
    fn answer(&self, message: &[u8], tcp: bool) -> Option<(Vec<u8>, How)> {
        let query = Message::from_vec(message).ok()?;
        let asked = query.queries.first()?.clone();
        let name = asked.name().to_string().to_lowercase();
        let shown = format!("{} {}", name.trim_end_matches('.'), asked.query_type());
        self.asked.lock().unwrap().push(shown.clone());
        if self.is_down.load(SeqCst) {
            return None;
        }
        let line = self.line(&shown)?;
        std::thread::sleep(Duration::from_millis(line.delay_ms));
        match line.how {
            How::Silence => return None,
            How::Garbage => return Some((b"this is no message".to_vec(), line.how)),
            _ => {}
        }
        let mut answer = Message::new(query.metadata.id, MessageType::Response, OpCode::Query);
        answer.metadata.recursion_desired = query.metadata.recursion_desired;
        answer.metadata.recursion_available = true;
        answer.metadata.response_code = rcode(&line.rcode);
        let question = match line.how {
            How::WrongQuestion => Query::query(Name::from_ascii("other.test.").unwrap(), RecordType::A),
            How::OtherLetters => {
                Query::query(Name::from_ascii(name.to_uppercase()).unwrap(), asked.query_type())
            }
            _ => asked,
        };
        answer.add_query(question);
        if line.how == How::WrongId {
            answer.metadata.id = !answer.metadata.id;
        }
        if line.how == How::Truncated && !tcp {
            answer.metadata.truncation = true;
        } else {
            answer.answers = records(&line.answer);
            answer.authorities = records(&line.authority);
            answer.additionals = records(&line.additional);
        }
        answer.edns = query.edns;
        Some((answer.to_vec().ok()?, line.how))
    }

    fn line(&self, asked: &str) -> Option<Line> {
        let (name, rtype) = asked.split_once(' ')?;
        let mut script = self.script.lock().unwrap();
        let line = script.iter_mut().find(|line| {
            let (its_name, its_type) = line.ask.split_once(' ').expect("a question is NAME TYPE");
            let is_it = |pattern: &str, text: &str| pattern == "*" || pattern.eq_ignore_ascii_case(text);
            line.times > 0
                && is_it(its_name, name)
                && is_it(its_type, rtype)
                && line.at.is_none_or(|at| at == self.number)
        })?;
        line.times -= 1;
        Some(line.clone())
    }
}

/// Records as zone files write them, in their order.
pub(crate) fn records(lines: &[String]) -> Vec<Record> {
    let parse = |line: &String| {
        let parsed = Parser::new(format!("{line}\n"), None, Some(Name::root())).parse();
        let (_, sets) = parsed.unwrap_or_else(|error| panic!("{line:?} is no record: {error}"));
        sets.into_values()
            .flat_map(|set| set.records_without_rrsigs().cloned().collect::<Vec<_>>())
            .collect::<Vec<_>>()
    };
    lines.iter().flat_map(parse).collect()
}

/// A response code, as `dig` writes it.
pub(crate) fn rcode(name: &str) -> ResponseCode {
    match name {
        "NOERROR" => ResponseCode::NoError,
        "FORMERR" => ResponseCode::FormErr,
        "SERVFAIL" => ResponseCode::ServFail,
        "NXDOMAIN" => ResponseCode::NXDomain,
        "NOTIMP" => ResponseCode::NotImp,
        "REFUSED" => ResponseCode::Refused,
        "BADVERS" => ResponseCode::BADVERS,
        "BADCOOKIE" => ResponseCode::BADCOOKIE,
        other => panic!("no response code {other:?}"),
    }
}
