//! DNS over TCP (RFC 7766): a bounded number of connections, each of whose questions are answered one after another.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;

use crate::channel::Channel;
use crate::clients::Clients;
use crate::counters::{Counters, count, count_latency};
use crate::handler::{FilterHandler, Next};
use crate::https;
use crate::proxy::{self, Proxies};
use crate::respond::Received;
use crate::shares::{Share, Shares};

/// Connections at one time, over all listeners; more are closed and counted. Each costs a file descriptor, and the rest
/// of the program needs some too.
pub const TCP_CONNECTIONS_LIMIT: usize = 1024;
/// Of these, connections of one client, so that no client takes the place of all others.
pub const TCP_CONNECTIONS_OF_A_CLIENT_LIMIT: usize = 32;
/// How long a connection may stay without a question, a question may take to arrive, and its answer to leave.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);
/// How long a connection of HTTP or QUIC may last. Clients open another.
pub(crate) const CONNECTION_LIMIT: Duration = Duration::from_secs(600);
/// Questions that such a connection has open at one time.
pub(crate) const STREAMS_LIMIT: u32 = 100;
/// Connections of proxies at one time that have not said yet whom they speak for.
const UNTOLD_LIMIT: usize = 256;
/// After what time connections are accepted again when the system has no room for one.
const ACCEPT_AGAIN: Duration = Duration::from_millis(200);

/// The connections that are open, and whose they may be. Clones share what they count.
#[derive(Clone)]
pub struct Connections {
    clients: Clients,
    proxies: Proxies,
    open: Shares,
    /// Of proxies, which have no share of their own.
    untold: Shares,
}

impl Connections {
    /// No connections yet; those of others than `clients`, or that `proxies` have for others, are closed at once.
    pub fn of(clients: Clients, proxies: Proxies) -> Self {
        let open = Shares::new(TCP_CONNECTIONS_LIMIT, TCP_CONNECTIONS_OF_A_CLIENT_LIMIT);
        Self { clients, proxies, open, untold: Shares::new(UNTOLD_LIMIT, UNTOLD_LIMIT) }
    }

    /// Whether a client is served.
    pub(crate) fn serve(&self, client: IpAddr) -> bool {
        self.clients.serves(client)
    }

    /// A place for one more connection of a client, if there is one.
    pub(crate) fn take(&self, client: IpAddr) -> Option<Share> {
        self.open.take(client)
    }

    /// Whether a sender speaks for others.
    pub(crate) fn is_proxy(&self, sender: IpAddr) -> bool {
        self.proxies.include(sender)
    }
}

/// Connections that the system has made and that wait to be looked at; it lets those behind them try again, after a second.
const BACKLOG: i32 = 1024;

/// Listens on an address.
///
/// # Errors
/// When the address cannot be listened on.
pub(crate) fn bind(address: SocketAddr) -> io::Result<std::net::TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    // Else connections that ended lately would keep the next agent from listening (as the standard library has it).
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}

/// What is spoken over TLS.
#[derive(Clone)]
pub(crate) struct Tls {
    pub(crate) acceptor: TlsAcceptor,
    pub(crate) channel: Channel,
    /// Where it is spoken.
    pub(crate) port: u16,
}

/// Serves a listener until the future is dropped, and its connections with it: plain ones, or over TLS with what is
/// spoken there.
pub(crate) async fn serve<N: Next>(
    listener: Arc<TcpListener>,
    tls: Option<Tls>,
    handler: Arc<FilterHandler<N>>,
    connections: Connections,
    counters: Arc<Counters>,
) {
    let mut conversations = tokio::task::JoinSet::new();
    loop {
        let (stream, client) = match listener.accept().await {
            Ok(accepted) => accepted,
            // The client was faster.
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => continue,
            Err(error) => {
                tracing::warn!(%error, "a TCP connection cannot be accepted");
                tokio::time::sleep(ACCEPT_AGAIN).await;
                continue;
            }
        };
        while conversations.try_join_next().is_some() {}
        let (handler, tls, connections) = (handler.clone(), tls.clone(), connections.clone());
        let counters = counters.clone();
        if !connections.is_proxy(client.ip()) {
            let Some(share) = admit(client, &connections, &counters) else { continue };
            conversations.spawn(async move {
                let _share = share;
                tell_end(client, speak(stream, client, tls, &handler).await);
            });
            continue;
        }
        let Some(untold) = connections.untold.take(client.ip()) else {
            count(&counters.tcp_refused);
            continue;
        };
        conversations.spawn(async move {
            let (mut stream, proxy) = (stream, client);
            let told = timeout(PATIENCE, proxy::read_from(&mut stream, proxy)).await;
            drop(untold);
            match told.unwrap_or_else(|late| Err(late.into())) {
                Ok(client) => {
                    let Some(_share) = admit(client, &connections, &counters) else { return };
                    tell_end(client, speak(stream, client, tls, &handler).await);
                }
                Err(error) => {
                    count(&counters.proxy_failures);
                    tell_end(proxy, Err(error));
                }
            }
        });
    }
}

/// A place for the connection of a client, if he is to have one.
fn admit(client: SocketAddr, connections: &Connections, counters: &Counters) -> Option<Share> {
    let address = client.ip().to_canonical();
    if !connections.serve(address) {
        count(&counters.strangers);
        return None;
    }
    let share = connections.take(address);
    if share.is_none() {
        count(&counters.tcp_refused);
    }
    share
}

fn tell_end(client: SocketAddr, ended: io::Result<()>) {
    if let Err(error) = ended {
        tracing::debug!(%client, %error, "a TCP connection ended");
    }
}

/// Speaks on a connection what is spoken there.
async fn speak<N: Next>(
    stream: TcpStream,
    client: SocketAddr,
    tls: Option<Tls>,
    handler: &Arc<FilterHandler<N>>,
) -> io::Result<()> {
    let Some(Tls { acceptor, channel, port }) = tls else {
        return converse(stream, client, Channel::Tcp, handler).await;
    };
    let stream = match timeout(PATIENCE, acceptor.accept(stream)).await? {
        Ok(stream) => stream,
        Err(error) => {
            count(&handler.counters().tls_failures);
            return Err(error);
        }
    };
    match channel {
        Channel::Doh => https::converse(stream, client, port, handler).await,
        _ => converse(stream, client, channel, handler).await,
    }
}

async fn converse<N: Next>(
    stream: impl AsyncRead + AsyncWrite,
    client: SocketAddr,
    channel: Channel,
    handler: &FilterHandler<N>,
) -> io::Result<()> {
    let (mut questions, mut answers) = tokio::io::split(stream);
    loop {
        let message = timeout(PATIENCE, async {
            let mut message = vec![0; usize::from(questions.read_u16().await?)];
            questions.read_exact(&mut message).await?;
            io::Result::Ok(message)
        });
        let message = message.await??;
        let at = Instant::now();
        let received = Received { message: &message, client, at, channel, asked: None };
        if let Some(answer) = handler.respond(&received).await {
            let length = u16::try_from(answer.len()).map_err(io::Error::other)?;
            let framed = [&length.to_be_bytes()[..], &answer].concat();
            timeout(PATIENCE, async {
                answers.write_all(&framed).await?;
                answers.flush().await
            })
            .await??;
            count_latency(handler.counters(), at.elapsed(), 1);
        }
    }
}
