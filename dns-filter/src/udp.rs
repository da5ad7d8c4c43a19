//! DNS over UDP: what a rule blocks is answered at once, everything else by a task of its own, of which there is a
//! bounded number.

use std::io;
use std::net::{SocketAddr, UdpSocket as StdSocket};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::Interest;
use tokio::net::UdpSocket;
use tokio::sync::Semaphore;

use crate::batch::Batch;
use crate::counters::{count, count_many};
use crate::handler::{FilterHandler, Next};
use crate::respond::{AtOnce, Received};

/// Questions of one socket that are worked on at one time; more are dropped and counted, and clients ask again.
const IN_WORK_LIMIT: usize = 4096;
/// How long after an error the socket is read again.
const AGAIN_AFTER: Duration = Duration::from_millis(50);
/// What the system may keep for a socket until it is read, in bytes: some 5000 questions. It may allow less.
const RECEIVE_BUFFER_BYTES: usize = 4 << 20;

/// Binds so many sockets on one address, among which the system divides clients (`SO_REUSEPORT`).
///
/// # Errors
/// When the address cannot be listened on, or another program listens there, even one that would share it.
pub(crate) fn bind(address: SocketAddr, sockets: usize) -> io::Result<Vec<StdSocket>> {
    // Without SO_REUSEPORT this fails wherever somebody is; and port 0 becomes one that is free.
    let alone = StdSocket::bind(address)?;
    let address = alone.local_addr()?;
    drop(alone);
    (0..sockets).map(|_| bind_one(address)).collect()
}

fn bind_one(address: SocketAddr) -> io::Result<StdSocket> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_reuse_port(true)?;
    let _ = socket.set_recv_buffer_size(RECEIVE_BUFFER_BYTES);
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    Ok(socket.into())
}

/// Serves a socket for as long as the task lives.
pub(crate) async fn serve<N: Next>(socket: UdpSocket, handler: Arc<FilterHandler<N>>) {
    let socket = Arc::new(socket);
    let in_work = Arc::new(Semaphore::new(IN_WORK_LIMIT));
    let mut batch = Batch::new();
    loop {
        // Where the last call brought less than it could there is nothing left: the next one would only say so.
        let mut is_empty = batch.has_room();
        let receive = || match std::mem::take(&mut is_empty) {
            true => Err(io::ErrorKind::WouldBlock.into()),
            false => batch.receive(socket.as_fd()),
        };
        if let Err(error) = socket.async_io(Interest::READABLE, receive).await {
            count(&handler.counters().listener_restarts);
            tracing::warn!(%error, "a UDP socket could not be read, and is read again");
            tokio::time::sleep(AGAIN_AFTER).await;
            continue;
        }
        let at = Instant::now();
        for datagram in batch.datagrams() {
            let (message, client) = (datagram.question, datagram.client);
            match handler.answer_at_once(&Received::over_udp(message, client, at), datagram.answer) {
                AtOnce::Answer(bytes) => *datagram.answer_bytes = bytes,
                AtOnce::Silence => {}
                AtOnce::Later => match in_work.clone().try_acquire_owned() {
                    Ok(place) => {
                        let (handler, socket, message) = (handler.clone(), socket.clone(), message.to_vec());
                        tokio::spawn(async move {
                            let _place = place;
                            if let Some(answer) =
                                handler.respond(&Received::over_udp(&message, client, at)).await
                            {
                                send(&socket, &answer, client).await;
                            }
                        });
                    }
                    Err(_) => count(&handler.counters().overload),
                },
            }
        }
        count_many(&handler.counters().unsent, batch.send(socket.as_fd()));
    }
}

async fn send(socket: &UdpSocket, answer: &[u8], client: SocketAddr) {
    if let Err(error) = socket.send_to(answer, client).await {
        tracing::debug!(%client, %error, "an answer could not be sent");
    }
}
