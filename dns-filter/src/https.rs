//! DNS over HTTPS (RFC 8484): over HTTP/2 and HTTP/1.1 here, and what requests and responses are over HTTP/3 too.

use std::convert::Infallible;
use std::error::Error;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Body, Bytes};
use hyper::header::{ALLOW, ALT_SVC, CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use interdict_dns_wire::least_ttl;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::timeout;

use crate::channel::Channel;
use crate::counters::count_latency;
use crate::handler::{FilterHandler, Next};
use crate::respond::Received;
use crate::tcp::{CONNECTION_LIMIT, PATIENCE, STREAMS_LIMIT};

/// Where questions are asked.
pub(crate) const PATH: &str = "/dns-query";
/// The type of questions and answers.
const DNS_MESSAGE: &str = "application/dns-message";
/// The longest message.
pub(crate) const MESSAGE_LIMIT_BYTES: usize = 65_535;
/// The longest head of a request.
pub(crate) const HEAD_LIMIT_BYTES: u32 = 16 << 10;

/// Answers what is asked over one connection, and tells of HTTP/3 on the same port.
pub(crate) async fn converse<N: Next>(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    client: SocketAddr,
    port: u16,
    handler: &Arc<FilterHandler<N>>,
) -> io::Result<()> {
    let mut builder = Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(PATIENCE);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS_LIMIT)
        .max_header_list_size(HEAD_LIMIT_BYTES)
        .keep_alive_interval(PATIENCE)
        .keep_alive_timeout(PATIENCE);
    let handler = handler.clone();
    let alternative = HeaderValue::try_from(format!("h3=\":{port}\"; ma=86400")).map_err(io::Error::other)?;
    let service = service_fn(move |request| {
        let (handler, alternative) = (handler.clone(), alternative.clone());
        async move {
            let mut response = answer(request, client, &handler).await;
            response.headers_mut().insert(ALT_SVC, alternative);
            Ok::<_, Infallible>(response)
        }
    });
    let conversation = builder.serve_connection(TokioIo::new(stream), service);
    match timeout(CONNECTION_LIMIT, conversation).await {
        Ok(ended) => ended.map_err(io::Error::other),
        Err(late) => Err(late.into()),
    }
}

/// The response to a request.
pub(crate) async fn answer<N: Next>(
    request: Request<impl Body<Error: Into<Box<dyn Error + Send + Sync>>>>,
    client: SocketAddr,
    handler: &Arc<FilterHandler<N>>,
) -> Response<Full<Bytes>> {
    try_answer(request, client, handler).await.unwrap_or_else(refuse)
}

/// # Errors
/// The status of a request that asks nothing.
async fn try_answer<N: Next>(
    request: Request<impl Body<Error: Into<Box<dyn Error + Send + Sync>>>>,
    client: SocketAddr,
    handler: &Arc<FilterHandler<N>>,
) -> Result<Response<Full<Bytes>>, StatusCode> {
    let at = Instant::now();
    let message = question(request).await?;
    let received = Received { message: &message, client, at, channel: Channel::Doh, asked: None };
    // Whoever is to get no answer gets none that he would take for one.
    let answer = handler.respond(&received).await.ok_or(StatusCode::SERVICE_UNAVAILABLE)?;
    let ttl_secs = least_ttl(&answer).unwrap_or(0);
    count_latency(handler.counters(), at.elapsed(), 1);
    Response::builder()
        .header(CONTENT_TYPE, DNS_MESSAGE)
        .header(CACHE_CONTROL, format!("max-age={ttl_secs}"))
        .body(Full::from(answer))
        .map_err(|_| StatusCode::INTERNAL_SERVER_ERROR)
}

/// The message in a request (RFC 8484, §4.1).
async fn question(
    request: Request<impl Body<Error: Into<Box<dyn Error + Send + Sync>>>>,
) -> Result<Bytes, StatusCode> {
    if request.uri().path() != PATH {
        return Err(StatusCode::NOT_FOUND);
    }
    match *request.method() {
        Method::GET => {
            let query = request.uri().query().unwrap_or_default();
            let encoded = query.split('&').find_map(|pair| pair.strip_prefix("dns="));
            let decoded = URL_SAFE_NO_PAD.decode(encoded.ok_or(StatusCode::BAD_REQUEST)?);
            decoded.map(Bytes::from).map_err(|_| StatusCode::BAD_REQUEST)
        }
        Method::POST => {
            let said = request.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
            if said != Some(DNS_MESSAGE) {
                return Err(StatusCode::UNSUPPORTED_MEDIA_TYPE);
            }
            let body = Limited::new(request.into_body(), MESSAGE_LIMIT_BYTES);
            match timeout(PATIENCE, body.collect()).await {
                Ok(Ok(body)) => Ok(body.to_bytes()),
                Ok(Err(_)) => Err(StatusCode::PAYLOAD_TOO_LARGE),
                Err(_) => Err(StatusCode::REQUEST_TIMEOUT),
            }
        }
        _ => Err(StatusCode::METHOD_NOT_ALLOWED),
    }
}

/// Says no more than a status.
pub(crate) fn refuse(status: StatusCode) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::default());
    *response.status_mut() = status;
    if status == StatusCode::METHOD_NOT_ALLOWED {
        response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, POST"));
    }
    response
}
