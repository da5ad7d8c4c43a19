//! DNS over TCP (RFC 7766): a bounded number of connections, each of whose questions are answered one after another.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;

use crate::channel::Channel;
use crate::clients::Clients;
use crate::counters::{Counters, count, count_latency};
use crate::handler::{FilterHandler, Next};
use crate::https;
use crate::respond::Received;
use crate::shares::Shares;

/// Connections at one time, over all listeners; more are closed and counted. Each costs a file descriptor, and the rest
/// of the program needs some too.
pub const TCP_CONNECTIONS_LIMIT: usize = 1024;
/// Of these, connections of one client, so that no client takes the place of all others.
pub const TCP_CONNECTIONS_OF_A_CLIENT_LIMIT: usize = 32;
/// How long a connection may stay without a question, a question may take to arrive, and its answer to leave.
const PATIENCE: Duration = Duration::from_secs(10);
/// After what time connections are accepted again when the system has no room for one.
const ACCEPT_AGAIN: Duration = Duration::from_millis(200);

/// The connections that are open, and whose they may be. Clones share what they count.
#[derive(Clone)]
pub struct Connections {
    clients: Clients,
    open: Shares,
}

impl Connections {
    /// No connections yet; those of others than `clients` are closed at once.
    pub fn of(clients: Clients) -> Self {
        Self { clients, open: Shares::new(TCP_CONNECTIONS_LIMIT, TCP_CONNECTIONS_OF_A_CLIENT_LIMIT) }
    }
}

/// Serves a listener until the future is dropped, and its connections with it: plain ones, or over TLS with what is
/// spoken there.
pub(crate) async fn serve<N: Next>(
    listener: TcpListener,
    tls: Option<(TlsAcceptor, Channel)>,
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
        let address = client.ip().to_canonical();
        if !connections.clients.serves(address) {
            count(&counters.strangers);
            continue;
        }
        let Some(share) = connections.open.take(address) else {
            count(&counters.tcp_refused);
            continue;
        };
        let (handler, tls) = (handler.clone(), tls.clone());
        conversations.spawn(async move {
            let ended = match tls {
                None => converse(stream, client, Channel::Tcp, &handler).await,
                Some((tls, channel)) => match timeout(PATIENCE, tls.accept(stream)).await {
                    Ok(Ok(stream)) if channel == Channel::Doh => {
                        https::converse(stream, client, &handler).await
                    }
                    Ok(Ok(stream)) => converse(stream, client, channel, &handler).await,
                    Ok(Err(error)) => {
                        count(&handler.counters().tls_failures);
                        Err(error)
                    }
                    Err(late) => Err(late.into()),
                },
            };
            drop(share);
            if let Err(error) = ended {
                tracing::debug!(%client, %error, "a TCP connection ended");
            }
        });
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
