//! DNS over UDP: what a rule blocks is answered at once, everything else by a task of its own, of which there is a
//! bounded number.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::UdpSocket;
use tokio::sync::Semaphore;

use crate::counters::count;
use crate::handler::{FilterHandler, Next};
use crate::respond::{AtOnce, Received};

/// Questions of one socket that are worked on at one time; more are dropped and counted, and clients ask again.
const IN_WORK_LIMIT: usize = 4096;
/// The largest message.
const MESSAGE_LIMIT_BYTES: usize = 65_535;
/// How long after an error the socket is read again.
const AGAIN_AFTER: Duration = Duration::from_millis(50);

/// Serves a socket for as long as the task lives.
pub(crate) async fn serve<N: Next>(socket: UdpSocket, handler: Arc<FilterHandler<N>>) {
    let socket = Arc::new(socket);
    let in_work = Arc::new(Semaphore::new(IN_WORK_LIMIT));
    let mut buffer = vec![0; MESSAGE_LIMIT_BYTES];
    loop {
        let (len, client) = match socket.recv_from(&mut buffer).await {
            Ok(received) => received,
            Err(error) => {
                count(&handler.counters().listener_restarts);
                tracing::warn!(%error, "a UDP socket could not be read, and is read again");
                tokio::time::sleep(AGAIN_AFTER).await;
                continue;
            }
        };
        let message = &buffer[..len];
        match handler.answer_at_once(&Received { message, client, tcp: false, asked: None }) {
            AtOnce::Answer(answer) => send(&socket, &answer, client).await,
            AtOnce::Silence => {}
            AtOnce::Later => {
                let Ok(place) = in_work.clone().try_acquire_owned() else {
                    count(&handler.counters().overload);
                    continue;
                };
                let (handler, socket, message) = (handler.clone(), socket.clone(), message.to_vec());
                tokio::spawn(async move {
                    let _place = place;
                    let received = Received { message: &message, client, tcp: false, asked: None };
                    if let Some(answer) = handler.respond(&received).await {
                        send(&socket, &answer, client).await;
                    }
                });
            }
        }
    }
}

async fn send(socket: &UdpSocket, answer: &[u8], client: SocketAddr) {
    if let Err(error) = socket.send_to(answer, client).await {
        tracing::debug!(%client, %error, "an answer could not be sent");
    }
}
