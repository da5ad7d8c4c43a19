//! DNS over UDP: what takes nothing but memory is answered at once, everything else by a task of its own, of which there is
//! a bounded number.

use std::io;
use std::net::{SocketAddr, UdpSocket as StdSocket};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use nix::libc::MSG_DONTWAIT;
use nix::sys::prctl::set_timerslack;
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use tokio::runtime::Handle;
use tokio::sync::Semaphore;

use crate::batch::{Batch, DATAGRAMS};
use crate::counters::{Counters, count, count_latency, count_many};
use crate::handler::{FilterHandler, Next};
use crate::proxy;
use crate::respond::{AtOnce, Received};

/// Questions of one socket that are worked on at one time; more are dropped and counted, and clients ask again.
const IN_WORK_LIMIT: usize = 4096;
/// How long after an error the socket is read again.
const AGAIN_AFTER: Duration = Duration::from_millis(50);
/// Where so many came at once, more are about to: the thread waits a moment for them, so that they are received and answered
/// together. Near full load that takes a quarter less CPU a question; up to half of it there are seldom so many.
const MANY: usize = 16;
const FOR_MORE: Duration = Duration::from_micros(60);
/// By how much the system may prolong that, in nanoseconds: by 50 000 where nobody says.
const TIMER_SLACK_NS: u64 = 1000;
/// How long a thread waits before it looks whether it is to stop.
const LOOK_UP_AFTER: Duration = Duration::from_secs(1);
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
    socket.set_read_timeout(Some(LOOK_UP_AFTER))?;
    socket.bind(&address.into())?;
    Ok(socket.into())
}

/// Serves a socket in this thread until it is told to stop. What cannot be answered at once becomes a task of the runtime.
///
/// A thread that waits in the call that receives makes a system call less for each batch than a task that waits for the
/// runtime to tell it of a datagram: measured, a tenth of all that a cached answer costs.
pub(crate) fn serve<N: Next>(
    socket: &Arc<StdSocket>,
    handler: &Arc<FilterHandler<N>>,
    runtime: &Handle,
    stop: &AtomicBool,
) {
    let _in_runtime = runtime.enter();
    let in_work = Arc::new(Semaphore::new(IN_WORK_LIMIT));
    let mut batch = Batch::new();
    let _ = set_timerslack(TIMER_SLACK_NS);
    while !stop.load(Relaxed) {
        match batch.receive(socket.as_fd()) {
            Ok(()) => {}
            // Nothing came for a while.
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {
                continue;
            }
            Err(error) => {
                count(&handler.counters().listener_restarts);
                tracing::warn!(%error, "a UDP socket could not be read, and is read again");
                std::thread::sleep(AGAIN_AFTER);
                continue;
            }
        }
        let (at, mut answers) = (Instant::now(), 0);
        for datagram in batch.datagrams() {
            let sender = datagram.client;
            let Some((message, client)) = told(datagram.question, sender, handler) else { continue };
            if !handler.admits(client.ip(), at) {
                continue;
            }
            let received = Received::over_udp(message, client, at);
            match handler.answer_at_once(&received, datagram.answer) {
                AtOnce::Answer(bytes) => {
                    *datagram.answer_bytes = bytes;
                    answers += 1;
                    handler.tap(&received, Some(&datagram.answer[..bytes]));
                }
                AtOnce::Silence => handler.tap(&received, None),
                AtOnce::Later => match in_work.clone().try_acquire_owned() {
                    Ok(place) => {
                        let (handler, socket, message) = (handler.clone(), socket.clone(), message.to_vec());
                        runtime.spawn(async move {
                            let _place = place;
                            let received = Received::over_udp(&message, client, at);
                            if let Some(answer) = handler.respond(&received).await {
                                send(&socket, &answer, sender, handler.counters());
                                count_latency(handler.counters(), at.elapsed(), 1);
                            }
                        });
                    }
                    Err(_) => count(&handler.counters().overload),
                },
            }
        }
        count_many(&handler.counters().unsent, batch.send(socket.as_fd()));
        if answers > 0 {
            count_latency(handler.counters(), at.elapsed(), answers);
        }
        // Where there was no room for more, they are there already.
        if (MANY..DATAGRAMS).contains(&batch.received()) {
            std::thread::sleep(FOR_MORE);
        }
    }
}

/// The message in a datagram, and whose it is; `None` where a proxy does not say so.
fn told<'d, N: Next>(
    datagram: &'d [u8],
    sender: SocketAddr,
    handler: &FilterHandler<N>,
) -> Option<(&'d [u8], SocketAddr)> {
    if !handler.conduct().proxies.include(sender.ip()) {
        return Some((datagram, sender));
    }
    match proxy::read(datagram, sender) {
        Ok((client, header_bytes)) => Some((&datagram[header_bytes..], client)),
        Err(error) => {
            count(&handler.counters().proxy_failures);
            tracing::debug!(%sender, %error, "a proxy does not say for whom it asks");
            None
        }
    }
}

/// Sends an answer, without waiting.
fn send(socket: &StdSocket, answer: &[u8], client: SocketAddr, counters: &Counters) {
    let sent = SockRef::from(socket).send_to_with_flags(answer, &client.into(), MSG_DONTWAIT);
    if let Err(error) = sent {
        count(&counters.unsent);
        tracing::debug!(%client, %error, "an answer could not be sent");
    }
}
