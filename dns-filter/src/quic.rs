//! DNS over QUIC (RFC 9250), and HTTP/3 for DNS over HTTPS: within the bounds that streams over TCP have.

use std::convert::Infallible;
use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::{Duration, Instant};

use h3::server::RequestStream;
use h3_quinn::BidiStream;
use http_body_util::{BodyExt, Full};
use hyper::body::{Buf, Bytes};
use hyper::{Method, StatusCode};
use interdict_dns_wire::Query;
use quinn::crypto::rustls::QuicServerConfig;
use quinn::{
    Connection, Endpoint, EndpointConfig, Incoming, RecvStream, SendStream, TokioRuntime, TransportConfig,
    VarInt,
};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_rustls::rustls::ServerConfig;

use crate::channel::Channel;
use crate::counters::{Counters, count, count_latency};
use crate::handler::{FilterHandler, Next};
use crate::https::{self, MESSAGE_LIMIT_BYTES};
use crate::options::Wanted;
use crate::respond::Received;
use crate::shares::Share;
use crate::tcp::{CONNECTION_LIMIT, Connections, PATIENCE, STREAMS_LIMIT};

/// How long a connection may be idle.
const IDLE: Duration = Duration::from_secs(30);
/// What of a stream, and of all streams of a connection, may arrive before it is read.
const STREAM_WINDOW_BYTES: u32 = 70_000;
const CONNECTION_WINDOW_BYTES: u32 = 128 << 10;
/// Streams of HTTP/3's own: for control, and for the tables of header fields.
const UNI_STREAMS_OF_HTTP: u32 = 8;
/// Handshakes of one endpoint that wait to be looked at.
const INCOMING_LIMIT: usize = 512;

/// What a stream or a connection ends with (RFC 9250, §4.3).
const INTERNAL_ERROR: VarInt = VarInt::from_u32(1);
const PROTOCOL_ERROR: VarInt = VarInt::from_u32(2);

/// Serves a socket until the future is dropped, and its connections with it.
///
/// # Errors
/// When QUIC cannot be set up on it.
pub(crate) async fn serve<N: Next>(
    socket: UdpSocket,
    tls: ServerConfig,
    channel: Channel,
    handler: Arc<FilterHandler<N>>,
    connections: Connections,
    counters: Arc<Counters>,
) -> io::Result<()> {
    let endpoint = endpoint(socket, tls, channel)?;
    let mut conversations = JoinSet::new();
    while let Some(incoming) = endpoint.accept().await {
        while conversations.try_join_next().is_some() {}
        let client = incoming.remote_address();
        let address = client.ip().to_canonical();
        if !connections.serve(address) {
            count(&counters.strangers);
            incoming.ignore();
            continue;
        }
        // A proxy would have to say for whom it asks, for which QUIC has no words.
        if connections.is_proxy(address) {
            count(&counters.proxy_failures);
            incoming.ignore();
            continue;
        }
        // Only who has shown that he is where he says takes a place (RFC 9000, §8.1): anybody can write the address of another
        // into a datagram, and would take that one's places over TCP too.
        if incoming.may_retry() {
            let _ = incoming.retry();
            continue;
        }
        let Some(share) = connections.take(address) else {
            count(&counters.tcp_refused);
            incoming.refuse();
            continue;
        };
        let handler = handler.clone();
        conversations.spawn(async move {
            if let Err(error) = converse(incoming, share, client, channel, &handler).await {
                tracing::debug!(%client, %error, "a QUIC connection ended");
            }
        });
    }
    Ok(())
}

fn endpoint(socket: UdpSocket, tls: ServerConfig, channel: Channel) -> io::Result<Endpoint> {
    let tls = QuicServerConfig::try_from(tls).map_err(io::Error::other)?;
    let mut transport = TransportConfig::default();
    let uni_streams = if channel == Channel::Doh { UNI_STREAMS_OF_HTTP } else { 0 };
    transport
        .max_concurrent_bidi_streams(STREAMS_LIMIT.into())
        .max_concurrent_uni_streams(uni_streams.into())
        .stream_receive_window(STREAM_WINDOW_BYTES.into())
        .receive_window(CONNECTION_WINDOW_BYTES.into())
        .send_window(u64::from(CONNECTION_WINDOW_BYTES))
        .datagram_receive_buffer_size(None)
        .max_idle_timeout(Some(IDLE.try_into().map_err(io::Error::other)?));
    let mut config = quinn::ServerConfig::with_crypto(Arc::new(tls));
    config.transport_config(Arc::new(transport)).max_incoming(INCOMING_LIMIT);
    Endpoint::new(EndpointConfig::default(), Some(config), socket, Arc::new(TokioRuntime))
}

async fn converse<N: Next>(
    incoming: Incoming,
    _share: Share,
    client: SocketAddr,
    channel: Channel,
    handler: &Arc<FilterHandler<N>>,
) -> io::Result<()> {
    let shake_hands = async { incoming.accept()?.await };
    let connection = match timeout(PATIENCE, shake_hands).await? {
        Ok(connection) => connection,
        Err(error) => {
            count(&handler.counters().tls_failures);
            return Err(error.into());
        }
    };
    let conversation = async {
        match channel {
            Channel::Doh => speak_http(connection, client, handler).await,
            _ => speak_dns(connection, client, handler).await,
        }
    };
    timeout(CONNECTION_LIMIT, conversation).await?
}

/// A question and its answer on each stream.
async fn speak_dns<N: Next>(
    connection: Connection,
    client: SocketAddr,
    handler: &Arc<FilterHandler<N>>,
) -> io::Result<()> {
    let mut streams = JoinSet::new();
    loop {
        let (answer, question) = connection.accept_bi().await?;
        while streams.try_join_next().is_some() {}
        let (handler, connection) = (handler.clone(), connection.clone());
        streams.spawn(async move {
            exchange(question, answer, client, &connection, &handler).await;
        });
    }
}

/// A question and its answer. What breaks the protocol ends the connection (RFC 9250, §4.3.3).
async fn exchange<N: Next>(
    mut question: RecvStream,
    mut answer: SendStream,
    client: SocketAddr,
    connection: &Connection,
    handler: &FilterHandler<N>,
) {
    let Ok(Ok(framed)) = timeout(PATIENCE, question.read_to_end(2 + MESSAGE_LIMIT_BYTES)).await else {
        let _ = question.stop(PROTOCOL_ERROR);
        let _ = answer.reset(PROTOCOL_ERROR);
        return;
    };
    let at = Instant::now();
    let Some(message) = only_question(&framed) else { return connection.close(PROTOCOL_ERROR, b"") };
    let received = Received { message, client, at, channel: Channel::Doq, asked: None };
    let Some(said) = handler.respond(&received).await else {
        let _ = answer.reset(INTERNAL_ERROR);
        return;
    };
    let Ok(length) = u16::try_from(said.len()) else { return };
    let sent = timeout(PATIENCE, async {
        answer.write_all(&[&length.to_be_bytes()[..], &said].concat()).await?;
        answer.finish().map_err(io::Error::from)
    });
    if let Ok(Ok(())) = sent.await {
        count_latency(handler.counters(), at.elapsed(), 1);
    }
}

/// The message on a stream: one, behind its length, whose ID is 0, and which says nothing of TCP (RFC 9250, §4.2, §4.2.1,
/// §5.5.2).
fn only_question(framed: &[u8]) -> Option<&[u8]> {
    let (length, message) = framed.split_first_chunk()?;
    let is_whole = usize::from(u16::from_be_bytes(*length)) == message.len();
    let options = Query::read(message).ok().and_then(|query| Wanted::of(&query).ok());
    let speaks_of_tcp = options.is_some_and(Wanted::speaks_of_tcp);
    (is_whole && message.starts_with(&[0, 0]) && !speaks_of_tcp).then_some(message)
}

/// A request and its response on each stream.
async fn speak_http<N: Next>(
    connection: Connection,
    client: SocketAddr,
    handler: &Arc<FilterHandler<N>>,
) -> io::Result<()> {
    let mut builder = h3::server::builder();
    builder.max_field_section_size(u64::from(https::HEAD_LIMIT_BYTES));
    let mut http = builder.build(h3_quinn::Connection::new(connection)).await.map_err(io::Error::other)?;
    let mut streams = JoinSet::new();
    while let Some(incoming) = http.accept().await.map_err(io::Error::other)? {
        while streams.try_join_next().is_some() {}
        let handler = handler.clone();
        streams.spawn(async move {
            let Ok(Ok((request, mut stream))) = timeout(PATIENCE, incoming.resolve_request()).await else {
                return;
            };
            let response = match body(request.method(), &mut stream).await {
                Ok(body) => {
                    https::answer(request.map(|()| Full::new(Bytes::from(body))), client, &handler).await
                }
                Err(status) => https::refuse(status),
            };
            if let Ok(Err(error)) = timeout(PATIENCE, send(response, &mut stream)).await {
                tracing::debug!(%client, %error, "an answer over HTTP/3 could not be sent");
            }
        });
    }
    // Those that were asked are still answered.
    while streams.join_next().await.is_some() {}
    Ok(())
}

/// The body of a request, or the first bytes of one that is too long.
async fn body(
    method: &Method,
    stream: &mut RequestStream<BidiStream<Bytes>, Bytes>,
) -> Result<Vec<u8>, StatusCode> {
    let mut body = Vec::new();
    if method != Method::POST {
        return Ok(body);
    }
    let read = timeout(PATIENCE, async {
        while let Some(part) = stream.recv_data().await.map_err(|_| StatusCode::BAD_REQUEST)? {
            let mut part = part.take(MESSAGE_LIMIT_BYTES + 1 - body.len());
            body.extend_from_slice(&part.copy_to_bytes(part.remaining()));
            if body.len() > MESSAGE_LIMIT_BYTES {
                break;
            }
        }
        Ok(())
    });
    read.await.unwrap_or(Err(StatusCode::REQUEST_TIMEOUT))?;
    Ok(body)
}

async fn send(
    response: hyper::Response<Full<Bytes>>,
    stream: &mut RequestStream<BidiStream<Bytes>, Bytes>,
) -> io::Result<()> {
    let (head, body) = response.into_parts();
    stream.send_response(hyper::Response::from_parts(head, ())).await.map_err(io::Error::other)?;
    let body = body.collect().await.unwrap_or_else(|never: Infallible| match never {}).to_bytes();
    if !body.is_empty() {
        stream.send_data(body).await.map_err(io::Error::other)?;
    }
    stream.finish().await.map_err(io::Error::other)
}
