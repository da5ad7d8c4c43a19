//! Diverted questions over UDP.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use interdict_dns_wire::{HEADER_BYTES, Query};
use socket2::Type;
use tokio::io::Interest;
use tokio::net::UdpSocket;

use super::PORT;
use super::judge::{Diverted, Fate, answer, answer_at_once, judge, tell_answer};
use super::sockets::{Datagram, Voice, of_our_own, receive};
use crate::batch::ANSWER_LIMIT_BYTES;
use crate::channel::Channel;
use crate::counters::count;
use crate::forward::Forwarder;
use crate::handler::FilterHandler;
use crate::respond::AtOnce;
use crate::shares::Shares;

/// Questions that are being passed on at one time, and of these such of one client; more are dropped and counted, and
/// clients ask again.
const IN_FLIGHT_LIMIT: usize = 1024;
const IN_FLIGHT_OF_A_CLIENT_LIMIT: usize = 256;
/// How long another resolver may take to answer. Clients ask again after less.
const RESOLVER_TIMEOUT: Duration = Duration::from_secs(5);
/// The largest message.
const MESSAGE_LIMIT_BYTES: usize = 65_535;
/// How long after an error the socket is read again.
const AGAIN_AFTER: Duration = Duration::from_millis(50);

/// Serves a socket for as long as the task lives.
pub(super) async fn serve(
    socket: Arc<UdpSocket>,
    voice: Arc<Voice>,
    mark: u32,
    handler: Arc<FilterHandler<Forwarder>>,
) {
    let in_flight = Shares::new(IN_FLIGHT_LIMIT, IN_FLIGHT_OF_A_CLIENT_LIMIT);
    let mut buffer = vec![0; MESSAGE_LIMIT_BYTES];
    let mut at_once = [0; ANSWER_LIMIT_BYTES];
    loop {
        let received = socket.async_io(Interest::READABLE, || receive(&socket, &mut buffer)).await;
        let Datagram { bytes, client, asked } = match received {
            Ok(Some(datagram)) if datagram.asked.port() == PORT => datagram,
            Ok(_) => continue,
            Err(error) => {
                tracing::debug!(%error, "a diverted datagram could not be received");
                tokio::time::sleep(AGAIN_AFTER).await;
                continue;
            }
        };
        let diverted = Diverted { message: &buffer[..bytes], client, asked, channel: Channel::Udp };
        // What a rule blocks is answered whatever else is in flight.
        let fate = match judge(&handler, &diverted) {
            Fate::Drop => continue,
            Fate::Answer => match answer_at_once(&handler, &diverted, &mut at_once) {
                AtOnce::Silence => continue,
                AtOnce::Answer(bytes) => {
                    say(&handler, &voice, &diverted, &at_once[..bytes]);
                    continue;
                }
                AtOnce::Later => Fate::Answer,
            },
            fate @ Fate::PassOn(_) => fate,
        };
        let Some(share) = in_flight.take(client.ip().to_canonical()) else {
            count(&handler.counters().overload);
            continue;
        };
        let message = diverted.message.to_vec();
        let (handler, voice) = (handler.clone(), voice.clone());
        tokio::spawn(async move {
            let _share = share;
            let diverted = Diverted { message: &message, client, asked, channel: Channel::Udp };
            match settle(&handler, mark, &diverted, fate).await {
                Ok(Some(answer)) => say(&handler, &voice, &diverted, &answer),
                Ok(None) => {}
                Err(error) => failed(&handler, &diverted, &error),
            }
        });
    }
}

/// The answer of us or of the resolver that was asked.
async fn settle(
    handler: &FilterHandler<Forwarder>,
    mark: u32,
    diverted: &Diverted<'_>,
    fate: Fate,
) -> io::Result<Option<Vec<u8>>> {
    match fate {
        Fate::Drop => Ok(None),
        Fate::Answer => Ok(answer(handler, diverted).await),
        Fate::PassOn(judged) => {
            count(&handler.counters().passed_on);
            let answer = pass_on(diverted, mark).await?;
            if let Some(judged) = judged {
                tell_answer(handler, &judged, &answer);
            }
            Ok(Some(answer))
        }
    }
}

/// Sends an answer in the name of the resolver that was asked.
fn say(handler: &FilterHandler<Forwarder>, voice: &Voice, diverted: &Diverted<'_>, answer: &[u8]) {
    if let Err(error) = voice.send(diverted.asked, diverted.client, answer) {
        failed(handler, diverted, &error);
    }
}

fn failed(handler: &FilterHandler<Forwarder>, diverted: &Diverted<'_>, error: &io::Error) {
    count(&handler.counters().divert_failures);
    tracing::debug!(%error, asked = %diverted.asked, "a diverted question came to nothing");
}

/// Asks the resolver that was asked, and waits for its answer.
async fn pass_on(diverted: &Diverted<'_>, mark: u32) -> io::Result<Vec<u8>> {
    let socket = of_our_own(diverted.asked, Type::DGRAM, mark)?;
    let socket = UdpSocket::from_std(socket.into())?;
    // Connected, so that only what that resolver sends comes here.
    socket.connect(diverted.asked).await?;
    socket.send(diverted.message).await?;
    let mut buffer = vec![0; MESSAGE_LIMIT_BYTES];
    let answered = async {
        loop {
            let bytes = socket.recv(&mut buffer).await?;
            if answers(diverted.message, &buffer[..bytes]) {
                return io::Result::Ok(buffer[..bytes].to_vec());
            }
        }
    };
    tokio::time::timeout(RESOLVER_TIMEOUT, answered).await?
}

/// Whether a message is a response to another: with its id, and with its question, as far as both have one.
fn answers(question: &[u8], answer: &[u8]) -> bool {
    let (Some(asked), Some(answered)) = (question.first_chunk::<12>(), answer.first_chunk::<12>()) else {
        return false;
    };
    let is_response = asked[..2] == answered[..2] && answered[2] & 0x80 != 0;
    let has_question = answered[4..6] != [0, 0];
    match Query::read(question) {
        // Resolvers may write the name in other letters.
        Ok(query) if has_question => {
            let asked = query.question();
            let answered = answer[HEADER_BYTES..].get(..asked.len());
            is_response && answered.is_some_and(|answered| answered.eq_ignore_ascii_case(asked))
        }
        _ => is_response,
    }
}

#[cfg(test)]
mod tests {
    use super::answers;

    const QUESTION: &[u8] = b"\x12\x34\x01\0\0\x01\0\0\0\0\0\0\x03www\x07example\0\0\x01\0\x01";

    fn with(change: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
        let mut answer = QUESTION.to_vec();
        answer[2] |= 0x80;
        change(&mut answer);
        answer
    }

    #[test]
    fn an_answer_has_the_id_and_the_question_of_what_was_asked() {
        for (fits, answer) in [
            (true, with(|_| {})),
            (true, with(|answer| answer[13] = b'W')),
            (true, with(|answer| answer.extend(b"\xc0\x0c\0\x01\0\x01\0\0\0\0\0\x04abcd"))),
            // A server that cannot read the question repeats none.
            (
                true,
                with(|answer| {
                    answer[5] = 0;
                    answer.truncate(12)
                }),
            ),
            (false, with(|answer| answer[1] = 0)),
            (false, with(|answer| answer[2] = 1)),
            (false, with(|answer| answer[13] = b'v')),
            (false, with(|answer| answer[26] = 28)),
            (false, with(|answer| answer.truncate(20))),
            (false, vec![]),
        ] {
            assert_eq!(answers(QUESTION, &answer), fits, "{answer:?}");
        }
    }

    #[test]
    fn of_what_cannot_be_read_the_id_is_enough() {
        assert!(answers(&QUESTION[..14], &with(|answer| answer.truncate(12))));
    }
}
