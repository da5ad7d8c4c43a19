//! dnstap (dnstap.info): Protocol Buffers in Frame Streams, a length and then as many bytes; a length of 0 stands before a frame
//! that says something of the stream. Of the messages, those between clients and the server are read.

use std::io::{self, BufRead, Read};
use std::net::IpAddr;

use jiff::Timestamp;
use prost::Message as _;

use super::pairs::{Pairs, Tell};
use super::{Counts, Question};
use crate::dnstap::{CONTENT_TYPE, Dnstap, Message, START, STOP, action, kind, protocol};

/// Longest frame: two DNS messages, and what is said of them.
const FRAME_LIMIT_BYTES: u32 = 256 << 10;
/// The first frame is one of the stream: START.
const BEGINNING: [u8; 4] = [0; 4];
/// What lets a question pass: nothing that is said, PASS, and TRUNCATE, behind which it is asked again.
const PASSING: [i32; 3] = [0, action::PASS, action::TRUNCATE];

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
            Ok(Dnstap { message: Some(message), .. })
                if (kind::CLIENT_QUERY..=kind::CLIENT_RESPONSE).contains(&message.kind) =>
            {
                match tell(&message, pairs) {
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

/// Hands a message on. Whether it is one more entry; `None` if it cannot be read.
fn tell(message: &Message, pairs: &mut Pairs<'_>) -> Option<bool> {
    let is_response = message.kind == kind::CLIENT_RESPONSE;
    let (bytes, secs, nanos) = match is_response {
        false => (&message.query, message.query_secs, message.query_nanos),
        // When it was asked, if that is said.
        true if message.query_secs > 0 => (&message.response, message.query_secs, message.query_nanos),
        true => (&message.response, message.response_secs, message.response_nanos),
    };
    let read = super::message::read(bytes)?;
    let client: IpAddr = match message.client.as_slice() {
        bytes if bytes.len() == 4 => <[u8; 4]>::try_from(bytes).ok()?.into(),
        bytes => <[u8; 16]>::try_from(bytes).ok()?.into(),
    };
    let time = Timestamp::new(i64::try_from(secs).ok()?, i32::try_from(nanos).ok()?).ok()?;
    let policy = message.policy.as_ref().is_some_and(|policy| !PASSING.contains(&policy.action));
    let question = Question {
        channel: channel(message.protocol),
        is_blocked: read.question.is_blocked || policy,
        ..read.question
    };
    let tell = Tell { port: u16::try_from(message.client_port).ok()?, id: read.id };
    if is_response {
        return Some(!pairs.answered(time, client, tell, question));
    }
    pairs.came(time, client, tell, question);
    Some(true)
}

/// In the record's words.
fn channel(number: i32) -> Option<&'static str> {
    protocol::CHANNELS.iter().find_map(|(known, channel)| (*known == number).then_some(*channel))
}
