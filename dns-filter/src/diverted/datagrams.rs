//! Diverted questions over UDP.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use socket2::Type;
use tokio::io::Interest;
use tokio::net::UdpSocket;
use tokio::sync::Semaphore;

use super::PORT;
use super::judge::{Diverted, Fate, answer, judge, tell_answer};
use super::sockets::{Datagram, in_the_name_of, of_our_own, receive};
use crate::counters::count;
use crate::forward::Forwarder;
use crate::handler::FilterHandler;

/// Questions that are being answered or passed on at one time; more are dropped and counted, and clients ask again.
const IN_FLIGHT_LIMIT: usize = 1024;
/// How long another resolver may take to answer. Clients ask again after less.
const RESOLVER_TIMEOUT: Duration = Duration::from_secs(5);
/// The largest message.
const MESSAGE_LIMIT_BYTES: usize = 65_535;
/// Sockets that are kept open to answer in the name of other resolvers.
const SENDERS_LIMIT: usize = 64;
/// How long after an error the socket is read again.
const AGAIN_AFTER: Duration = Duration::from_millis(50);

/// Serves a socket for as long as the task lives.
pub(super) async fn serve(socket: UdpSocket, mark: u32, handler: Arc<FilterHandler<Forwarder>>) {
    let in_flight = Arc::new(Semaphore::new(IN_FLIGHT_LIMIT));
    let senders = Arc::new(Senders::default());
    let mut buffer = vec![0; MESSAGE_LIMIT_BYTES];
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
        let Ok(permit) = in_flight.clone().try_acquire_owned() else {
            count(&handler.counters().overload);
            continue;
        };
        let message = buffer[..bytes].to_vec();
        let (handler, senders) = (handler.clone(), senders.clone());
        tokio::spawn(async move {
            let _permit = permit;
            let diverted = Diverted { message: &message, client, asked, tcp: false };
            if let Err(error) = settle(&handler, &senders, mark, &diverted).await {
                count(&handler.counters().divert_failures);
                tracing::debug!(%error, %asked, "a diverted question came to nothing");
            }
        });
    }
}

/// Answers a question or passes it on.
async fn settle(
    handler: &FilterHandler<Forwarder>,
    senders: &Senders,
    mark: u32,
    diverted: &Diverted<'_>,
) -> io::Result<()> {
    let answer = match judge(handler, diverted) {
        Fate::Drop => return Ok(()),
        Fate::Answer => match answer(handler, diverted).await {
            Some(answer) => answer,
            None => return Ok(()),
        },
        Fate::PassOn(judged) => {
            count(&handler.counters().passed_on);
            let answer = pass_on(diverted, mark).await?;
            if let Some(judged) = judged {
                tell_answer(handler, &judged, &answer);
            }
            answer
        }
    };
    senders.send(diverted.asked, diverted.client, &answer).await
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

/// Whether a message is a response to another: it has its id, and its question as far as it repeats one.
fn answers(question: &[u8], answer: &[u8]) -> bool {
    let (Some(asked), Some(answered)) = (question.first_chunk::<12>(), answer.first_chunk::<12>()) else {
        return false;
    };
    asked[..2] == answered[..2] && answered[2] & 0x80 != 0
}

/// Sockets that send in the name of other resolvers.
#[derive(Default)]
struct Senders(Mutex<HashMap<SocketAddr, Arc<UdpSocket>>>);

impl Senders {
    async fn send(&self, resolver: SocketAddr, client: SocketAddr, answer: &[u8]) -> io::Result<()> {
        let sender = self.sender(resolver)?;
        sender.send_to(answer, client).await.map(drop)
    }

    fn sender(&self, resolver: SocketAddr) -> io::Result<Arc<UdpSocket>> {
        let mut senders = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(sender) = senders.get(&resolver) {
            return Ok(sender.clone());
        }
        if senders.len() == SENDERS_LIMIT {
            senders.clear();
        }
        let sender = Arc::new(UdpSocket::from_std(in_the_name_of(resolver)?)?);
        senders.insert(resolver, sender.clone());
        Ok(sender)
    }
}
