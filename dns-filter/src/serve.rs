//! Listeners: bound before anything is served, and started again when one dies.

use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use hickory_server::Server;
use hickory_server::net::runtime::Time;
use hickory_server::server::{Request, RequestHandler, ResponseHandler, ResponseInfo};

use crate::counters::{Counters, count};
use crate::tcp::{self, Connections};

/// How long after its death a listener is started again.
const RESTART_AFTER: Duration = Duration::from_millis(200);

/// Why an address cannot be listened on.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address}/{protocol}: {reason}")]
pub struct ListenError {
    /// The address.
    pub address: SocketAddr,
    /// `udp` or `tcp`.
    pub protocol: &'static str,
    /// What the system says, and what to do.
    pub reason: String,
    /// The system's word for it.
    pub kind: std::io::ErrorKind,
}

impl ListenError {
    fn new(address: SocketAddr, protocol: &'static str, error: &std::io::Error) -> Self {
        let reason = match error.kind() {
            std::io::ErrorKind::AddrInUse => {
                "the port is in use; stop the other server, or choose another address with --listen".into()
            }
            std::io::ErrorKind::PermissionDenied => {
                "ports below 1024 need CAP_NET_BIND_SERVICE; run as root or choose a higher port".into()
            }
            std::io::ErrorKind::AddrNotAvailable => "this machine does not have that address".into(),
            _ => error.to_string(),
        };
        Self { address, protocol, reason, kind: error.kind() }
    }
}

/// Sockets that are bound and wait to be served.
pub struct Listeners {
    sockets: Vec<(SocketAddr, UdpSocket, TcpListener)>,
}

impl Listeners {
    /// Binds UDP and TCP on every address.
    ///
    /// # Errors
    /// The first address that cannot be listened on; nothing is bound then.
    pub fn bind(addresses: &[SocketAddr]) -> Result<Self, ListenError> {
        let mut sockets = Vec::with_capacity(addresses.len());
        for &address in addresses {
            let udp = UdpSocket::bind(address).map_err(|e| ListenError::new(address, "udp", &e))?;
            // Port 0 asks the system for a free one; both protocols then use the same.
            let address = udp.local_addr().unwrap_or(address);
            let tcp = TcpListener::bind(address).map_err(|e| ListenError::new(address, "tcp", &e))?;
            udp.set_nonblocking(true).map_err(|e| ListenError::new(address, "udp", &e))?;
            tcp.set_nonblocking(true).map_err(|e| ListenError::new(address, "tcp", &e))?;
            sockets.push((address, udp, tcp));
        }
        Ok(Self { sockets })
    }

    /// Where they listen.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.sockets.iter().map(|(address, ..)| *address).collect()
    }

    /// Serves every socket until the tasks are dropped. hickory ends a UDP listener for good on some errors that
    /// pass, so each has a server of its own that is started again on the same socket.
    pub fn serve<H: RequestHandler>(
        self,
        handler: &Arc<H>,
        connections: &Connections,
        counters: &Arc<Counters>,
    ) -> tokio::task::JoinSet<()> {
        let mut tasks = tokio::task::JoinSet::new();
        for (address, udp, tcp) in self.sockets {
            let (shared, counted) = (handler.clone(), counters.clone());
            tasks.spawn(async move {
                loop {
                    let mut server = Server::new(Shared(shared.clone()));
                    let socket = udp.try_clone().and_then(tokio::net::UdpSocket::from_std);
                    restarted(socket.map(|socket| server.register_socket(socket)), server, address, &counted)
                        .await;
                }
            });
            let (handler, connections, counters) = (handler.clone(), connections.clone(), counters.clone());
            tasks.spawn(async move {
                match tokio::net::TcpListener::from_std(tcp) {
                    Ok(listener) => tcp::serve(listener, handler, connections, counters).await,
                    Err(error) => tracing::error!(%address, %error, "TCP is not served"),
                }
            });
        }
        tasks
    }
}

/// Waits for the end of a server, which is always too early.
async fn restarted<H: RequestHandler>(
    registered: std::io::Result<()>,
    mut server: Server<H>,
    address: SocketAddr,
    counters: &Counters,
) {
    let ended = match registered {
        Ok(()) => server.block_until_done().await.map_err(|e| e.to_string()),
        Err(e) => Err(e.to_string()),
    };
    count(&counters.listener_restarts);
    tracing::warn!(%address, ?ended, "a listener ended and is started again");
    tokio::time::sleep(RESTART_AFTER).await;
}

/// One handler behind several servers.
struct Shared<H>(Arc<H>);

#[async_trait]
impl<H: RequestHandler> RequestHandler for Shared<H> {
    async fn handle_request<R: ResponseHandler, T: Time>(&self, request: &Request, to: R) -> ResponseInfo {
        self.0.handle_request::<R, T>(request, to).await
    }
}
