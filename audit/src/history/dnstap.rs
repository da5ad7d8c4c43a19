//! dnstap (dnstap.info): Protocol Buffers in Frame Streams, a length and then as many bytes; a length of 0 stands before a frame
//! that says something of the stream. Of the messages, those between clients and the server are read.

use std::io::{self, BufRead, Read};
use std::net::IpAddr;

use jiff::Timestamp;
use prost::Message as _;

use super::message;
use super::pairs::{Pairs, Tell};
use super::{Counts, Question};

/// Longest frame: two DNS messages, and what is said of them.
const FRAME_LIMIT_BYTES: u32 = 256 << 10;
const CONTENT_TYPE: &[u8] = b"protobuf:dnstap.Dnstap";
/// The first frame is one of the stream: START.
const BEGINNING: [u8; 4] = [0; 4];
const START: u32 = 2;
const STOP: u32 = 3;

/// `Dnstap` of dnstap.proto; what is not looked at is not read.
#[derive(Clone, PartialEq, prost::Message)]
struct Dnstap {
    #[prost(message, optional, tag = "14")]
    message: Option<Message>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Message {
    #[prost(int32, tag = "1")]
    kind: i32,
    #[prost(int32, tag = "3")]
    protocol: i32,
    #[prost(bytes = "vec", tag = "4")]
    client: Vec<u8>,
    #[prost(uint32, tag = "6")]
    client_port: u32,
    #[prost(uint64, tag = "8")]
    query_secs: u64,
    #[prost(fixed32, tag = "9")]
    query_nanos: u32,
    #[prost(bytes = "vec", tag = "10")]
    query: Vec<u8>,
    #[prost(uint64, tag = "12")]
    response_secs: u64,
    #[prost(fixed32, tag = "13")]
    response_nanos: u32,
    #[prost(bytes = "vec", tag = "14")]
    response: Vec<u8>,
    #[prost(message, optional, tag = "15")]
    policy: Option<Policy>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Policy {
    #[prost(int32, tag = "3")]
    action: i32,
}

/// `Message.Type`.
const CLIENT_QUERY: i32 = 5;
const CLIENT_RESPONSE: i32 = 6;
/// `PolicyAction` that lets a question pass: PASS, and TRUNCATE, behind which it is asked again.
const PASSING: [i32; 3] = [0, 3, 5];

/// Whether a file begins as one.
pub(super) fn is_one(head: &[u8]) -> bool {
    head.starts_with(&BEGINNING)
        && head.get(8..12) == Some(&START.to_be_bytes())
        && head.windows(CONTENT_TYPE.len()).take(64).any(|window| window == CONTENT_TYPE)
}

/// Reads a stream to its end, or as far as it was written.
pub(super) fn read(bytes: &mut dyn BufRead, pairs: &mut Pairs<'_>) -> io::Result<Counts> {
    let (mut counts, mut number, mut frame) = (Counts::default(), 0, Vec::new());
    while let Some(len) = word(bytes)? {
        if len == 0 {
            let Some(len) = word(bytes)? else { break };
            let is_whole = take(bytes, len, &mut frame)?;
            if !is_whole || frame.starts_with(&STOP.to_be_bytes()) {
                break;
            }
            continue;
        }
        number += 1;
        if !take(bytes, len, &mut frame)? {
            break;
        }
        match Dnstap::decode(frame.as_slice()) {
            Ok(Dnstap { message: Some(message) })
                if (CLIENT_QUERY..=CLIENT_RESPONSE).contains(&message.kind) =>
            {
                match message.tell(pairs) {
                    Some(true) => counts.entries += 1,
                    Some(false) => {}
                    None => counts.strange(number),
                }
            }
            Ok(_) => {}
            Err(_) => counts.strange(number),
        }
    }
    Ok(counts)
}

fn word(bytes: &mut dyn BufRead) -> io::Result<Option<u32>> {
    let mut word = [0; 4];
    match bytes.read_exact(&mut word) {
        Ok(()) => Ok(Some(u32::from_be_bytes(word))),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(None),
        Err(error) => Err(error),
    }
}

/// Whether the frame is there whole.
fn take(bytes: &mut dyn BufRead, len: u32, frame: &mut Vec<u8>) -> io::Result<bool> {
    if len > FRAME_LIMIT_BYTES {
        let what = format!("a frame of {len} bytes, which no DNS message needs");
        return Err(io::Error::new(io::ErrorKind::InvalidData, what));
    }
    frame.clear();
    Ok(bytes.take(len.into()).read_to_end(frame)? == len as usize)
}

impl Message {
    /// Hands it on. Whether it is one more entry; `None` if it cannot be read.
    fn tell(&self, pairs: &mut Pairs<'_>) -> Option<bool> {
        let is_response = self.kind == CLIENT_RESPONSE;
        let (bytes, secs, nanos) = match is_response {
            false => (&self.query, self.query_secs, self.query_nanos),
            // When it was asked, if that is said.
            true if self.query_secs > 0 => (&self.response, self.query_secs, self.query_nanos),
            true => (&self.response, self.response_secs, self.response_nanos),
        };
        let read = message::read(bytes)?;
        let client: IpAddr = match self.client.as_slice() {
            bytes if bytes.len() == 4 => <[u8; 4]>::try_from(bytes).ok()?.into(),
            bytes => <[u8; 16]>::try_from(bytes).ok()?.into(),
        };
        let time = Timestamp::new(i64::try_from(secs).ok()?, i32::try_from(nanos).ok()?).ok()?;
        let policy = self.policy.as_ref().is_some_and(|policy| !PASSING.contains(&policy.action));
        let question = Question {
            channel: channel(self.protocol),
            is_blocked: read.question.is_blocked || policy,
            ..read.question
        };
        let tell = Tell { port: u16::try_from(self.client_port).ok()?, id: read.id };
        if is_response {
            return Some(!pairs.answered(time, client, tell, question));
        }
        pairs.came(time, client, tell, question);
        Some(true)
    }
}

/// `SocketProtocol`, in the record's words.
const fn channel(protocol: i32) -> Option<&'static str> {
    match protocol {
        1 => Some("udp"),
        2 => Some("tcp"),
        3 => Some("dot"),
        4 => Some("doh"),
        7 => Some("doq"),
        _ => None,
    }
}
