//! Diverted connections over TCP (RFC 7766).
//!
//! A connection to the resolver that was asked is opened with the first message that goes there. From then on messages
//! go both ways as they come, each judged on its way there: byte for byte the same as without us, until a banned name
//! is asked for, which is answered here.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use socket2::Type;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::Mutex as AsyncMutex;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::PORT;
use super::judge::{Diverted, Fate, answer, judge, tell_answer};
use super::sockets::of_our_own;
use crate::channel::Channel;
use crate::counters::count;
use crate::filter::Judgement;
use crate::forward::Forwarder;
use crate::handler::FilterHandler;
use crate::shares::Shares;

/// Connections at one time, and of these such of one client; more are closed at once and counted. Each takes two file
/// descriptors.
const CONNECTIONS_LIMIT: usize = 512;
const CONNECTIONS_OF_A_CLIENT_LIMIT: usize = 32;
/// How long another resolver may take to accept a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a connection may stay without a message from the client. Zones take their time the other way.
const IDLE_TIMEOUT: Duration = Duration::from_secs(120);
/// Questions of one connection whose answers are awaited to tell of their addresses.
const AWAITED_LIMIT: usize = 64;
/// How long after an error connections are accepted again.
const AGAIN_AFTER: Duration = Duration::from_millis(50);

/// Serves a listener for as long as the task lives.
pub(super) async fn serve(listener: Arc<TcpListener>, mark: u32, handler: Arc<FilterHandler<Forwarder>>) {
    let connections = Shares::new(CONNECTIONS_LIMIT, CONNECTIONS_OF_A_CLIENT_LIMIT);
    loop {
        let (stream, client) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::debug!(%error, "a diverted connection could not be accepted");
                tokio::time::sleep(AGAIN_AFTER).await;
                continue;
            }
        };
        // The address on our side is the one that the client connected to.
        let Some(asked) = stream.local_addr().ok().filter(|asked| asked.port() == PORT) else { continue };
        let address = client.ip().to_canonical();
        if !handler.serves(address) {
            count(&handler.counters().strangers);
            continue;
        }
        let Some(share) = connections.take(address) else {
            count(&handler.counters().tcp_refused);
            continue;
        };
        let handler = handler.clone();
        tokio::spawn(async move {
            let _share = share;
            if let Err(error) = relay(&handler, stream, client, asked, mark).await {
                tracing::debug!(%error, %asked, "a diverted connection ended early");
            }
        });
    }
}

/// Relays one connection until the client closes it.
async fn relay(
    handler: &Arc<FilterHandler<Forwarder>>,
    stream: TcpStream,
    client: SocketAddr,
    asked: SocketAddr,
    mark: u32,
) -> io::Result<()> {
    let (mut from_client, to_client) = stream.into_split();
    let to_client = Arc::new(AsyncMutex::new(to_client));
    let mut beyond: Option<Beyond> = None;
    while let Some(message) = timeout(IDLE_TIMEOUT, read_message(&mut from_client)).await?? {
        let diverted = Diverted { message: &message, client, asked, channel: Channel::Tcp };
        match judge(handler, &diverted) {
            Fate::Drop => return Ok(()),
            Fate::Answer => {
                let Some(answer) = answer(handler, &diverted).await else { return Ok(()) };
                write_message(&mut *to_client.lock().await, &answer).await?;
            }
            Fate::PassOn(judged) => {
                count(&handler.counters().passed_on);
                let beyond = match &mut beyond {
                    Some(beyond) => beyond,
                    none => none.insert(Beyond::connect(handler, asked, mark, &to_client).await?),
                };
                beyond.send(&message, judged).await?;
            }
        }
    }
    match beyond {
        Some(beyond) => beyond.finish().await,
        None => Ok(()),
    }
}

/// The connection to the resolver that was asked.
struct Beyond {
    to_resolver: OwnedWriteHalf,
    awaited: Awaited,
    /// Relays what comes back, and ends with the connection of the client.
    back: JoinSet<io::Result<()>>,
}

/// By message id, what was let through, so that the addresses in its answer can be told.
type Awaited = Arc<Mutex<HashMap<[u8; 2], Judgement>>>;

impl Beyond {
    async fn connect(
        handler: &Arc<FilterHandler<Forwarder>>,
        asked: SocketAddr,
        mark: u32,
        to_client: &Arc<AsyncMutex<OwnedWriteHalf>>,
    ) -> io::Result<Self> {
        let socket = TcpSocket::from_std_stream(of_our_own(asked, Type::STREAM, mark)?.into());
        let stream = timeout(CONNECT_TIMEOUT, socket.connect(asked)).await??;
        let (from_resolver, to_resolver) = stream.into_split();
        let awaited = Awaited::default();
        let mut back = JoinSet::new();
        back.spawn(relay_back(handler.clone(), from_resolver, to_client.clone(), awaited.clone()));
        Ok(Self { to_resolver, awaited, back })
    }

    async fn send(&mut self, message: &[u8], judged: Option<Judgement>) -> io::Result<()> {
        if let (Some(judged), Some(id)) = (judged, message.first_chunk()) {
            let mut awaited = self.awaited.lock().unwrap_or_else(PoisonError::into_inner);
            if awaited.len() < AWAITED_LIMIT {
                awaited.insert(*id, judged);
            }
        }
        write_message(&mut self.to_resolver, message).await
    }

    /// The client has no more to say; the resolver may have.
    async fn finish(mut self) -> io::Result<()> {
        self.to_resolver.shutdown().await?;
        match self.back.join_next().await {
            Some(ended) => ended.map_err(io::Error::other)?,
            None => Ok(()),
        }
    }
}

/// Relays messages from the resolver until it closes the connection, and then closes ours.
async fn relay_back(
    handler: Arc<FilterHandler<Forwarder>>,
    mut from_resolver: OwnedReadHalf,
    to_client: Arc<AsyncMutex<OwnedWriteHalf>>,
    awaited: Awaited,
) -> io::Result<()> {
    while let Some(message) = timeout(IDLE_TIMEOUT, read_message(&mut from_resolver)).await?? {
        let judged = message
            .first_chunk()
            .and_then(|id| awaited.lock().unwrap_or_else(PoisonError::into_inner).remove(id));
        if let Some(judged) = judged {
            tell_answer(&handler, &judged, &message);
        }
        write_message(&mut *to_client.lock().await, &message).await?;
    }
    to_client.lock().await.shutdown().await
}

/// Reads a message behind its length; `None` where the stream ends before one.
async fn read_message(from: &mut OwnedReadHalf) -> io::Result<Option<Vec<u8>>> {
    let length = match from.read_u16().await {
        Ok(length) => length,
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut message = vec![0; length.into()];
    from.read_exact(&mut message).await?;
    Ok(Some(message))
}

/// Writes a message behind its length, in one piece.
async fn write_message(to: &mut OwnedWriteHalf, message: &[u8]) -> io::Result<()> {
    let length = u16::try_from(message.len()).map_err(io::Error::other)?;
    to.write_all(&[&length.to_be_bytes()[..], message].concat()).await
}
