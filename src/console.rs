//! What the agent shows over HTTP, to whom the address is open that it listens on.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::{Router, routing};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

use crate::metrics::{self, Figures};

/// Connections at one time; others wait.
const CONNECTIONS_LIMIT: usize = 32;
/// How long a connection may last, and its first request take to arrive.
const CONNECTION_LIMIT: Duration = Duration::from_secs(60);
const REQUEST_LIMIT: Duration = Duration::from_secs(2);
/// After what time connections are accepted again when the system has no room for one.
const ACCEPT_AGAIN: Duration = Duration::from_millis(200);

/// What there is to show.
pub(crate) trait Shown: Send + Sync + 'static {
    /// Reads everything that is counted; may take a while.
    ///
    /// # Errors
    /// When the kernel's counters cannot be read: to leave them out would look as if no packets were filtered.
    fn figures(&self) -> anyhow::Result<Figures>;
}

/// A socket that waits to be served.
pub(crate) struct Console(std::net::TcpListener);

impl Console {
    /// Listens on an address.
    ///
    /// # Errors
    /// When that is not possible.
    pub(crate) fn bind(address: SocketAddr) -> anyhow::Result<Self> {
        let listener = std::net::TcpListener::bind(address).with_context(|| {
            format!("cannot listen on {address} for the console; choose another with --console")
        })?;
        listener.set_nonblocking(true)?;
        Ok(Self(listener))
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> Option<SocketAddr> {
        self.0.local_addr().ok()
    }

    /// Serves until the future is dropped.
    ///
    /// # Errors
    /// When the runtime cannot take the socket.
    pub(crate) async fn serve<S: Shown>(self, shown: Arc<S>) -> anyhow::Result<()> {
        let listener = TcpListener::from_std(self.0)?;
        let pages = Router::new().route("/metrics", routing::get(show_metrics::<S>)).with_state(shown);
        let places = Arc::new(Semaphore::new(CONNECTIONS_LIMIT));
        loop {
            let place = places.clone().acquire_owned().await?;
            match listener.accept().await {
                Ok((stream, _)) => {
                    let pages = pages.clone();
                    tokio::spawn(async move {
                        let _ = tokio::time::timeout(CONNECTION_LIMIT, converse(stream, pages)).await;
                        drop(place);
                    });
                }
                Err(error) => {
                    tracing::debug!(%error, "a connection to the console cannot be accepted");
                    tokio::time::sleep(ACCEPT_AGAIN).await;
                }
            }
        }
    }
}

async fn converse(stream: TcpStream, pages: Router) {
    let mut builder = Builder::new(TokioExecutor::new()).http1_only();
    builder.http1().timer(TokioTimer::new()).header_read_timeout(REQUEST_LIMIT);
    let conversation = builder.serve_connection(TokioIo::new(stream), TowerToHyperService::new(pages));
    if let Err(error) = conversation.await {
        tracing::debug!(%error, "a connection to the console ended");
    }
}

async fn show_metrics<S: Shown>(State(shown): State<Arc<S>>) -> impl IntoResponse {
    let encode = move || shown.figures().and_then(|figures| Ok(metrics::encode(figures)?));
    let page = tokio::task::spawn_blocking(encode).await.map_err(anyhow::Error::from).and_then(|page| page);
    page.map(|page| ([(header::CONTENT_TYPE, metrics::CONTENT_TYPE)], page)).map_err(|error| {
        tracing::warn!("the metrics could not be read: {error:#}");
        StatusCode::INTERNAL_SERVER_ERROR
    })
}
