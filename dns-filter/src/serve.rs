//! Listeners: bound before anything is served.

use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread::available_parallelism;

use tokio::runtime::Handle;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;

use crate::channel::Channel;
use crate::counters::Counters;
use crate::handler::{FilterHandler, Next};
use crate::quic;
use crate::revive;
use crate::tcp::{self, Connections, Tls};
use crate::tls::Certificate;
use crate::udp;

/// Why an address cannot be listened on.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address}/{protocol}: {reason}")]
pub struct ListenError {
    /// The address.
    pub address: SocketAddr,
    /// `udp`, `tcp`, `tls` or `quic`.
    pub protocol: &'static str,
    /// What the system says, and what to do.
    pub reason: String,
    /// The system's word for it.
    pub kind: std::io::ErrorKind,
}

impl ListenError {
    fn new(address: SocketAddr, protocol: &'static str, error: &std::io::Error) -> Self {
        let reason = match error.kind() {
            std::io::ErrorKind::AddrInUse if protocol == "quic" => {
                "the port is in use over UDP, which `https` takes too, on its own port; choose another".into()
            }
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

/// The sockets of an address.
type Sockets = (SocketAddr, Vec<UdpSocket>, TcpListener);

/// How many free ports of the system's are tried.
const FREE_PORT_TRIES: usize = 16;

/// Sockets that are bound and wait to be served.
pub struct Listeners {
    sockets: Vec<Sockets>,
}

impl Listeners {
    /// Binds TCP and so many sockets of UDP on every address; see [`udp_sockets`].
    ///
    /// # Errors
    /// The first address that cannot be listened on; nothing is bound then.
    pub fn bind(addresses: &[SocketAddr], udp_sockets: usize) -> Result<Self, ListenError> {
        let mut sockets = Vec::with_capacity(addresses.len());
        for &address in addresses {
            sockets.push(Self::bind_both(address, udp_sockets)?);
        }
        Ok(Self { sockets })
    }

    /// Binds both protocols. Port 0 asks the system for a free one, of which another program may have the other protocol: then
    /// for the next.
    fn bind_both(address: SocketAddr, udp_sockets: usize) -> Result<Sockets, ListenError> {
        let mut tries = if address.port() == 0 { FREE_PORT_TRIES } else { 1 };
        loop {
            tries -= 1;
            let udp = udp::bind(address, udp_sockets).map_err(|e| ListenError::new(address, "udp", &e))?;
            let bound = udp.first().and_then(|socket| socket.local_addr().ok()).unwrap_or(address);
            match tcp::bind(bound) {
                Err(error) if error.kind() == std::io::ErrorKind::AddrInUse && tries > 0 => {}
                tcp => {
                    return Ok((bound, udp, tcp.map_err(|e| ListenError::new(bound, "tcp", &e))?));
                }
            }
        }
    }

    /// Where they listen.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.sockets.iter().map(|(address, ..)| *address).collect()
    }

    /// Serves every socket until what is returned is dropped. UDP sockets have threads of their own, everything else is done
    /// by the runtime in which this is called.
    pub fn serve<N: Next>(
        self,
        handler: &Arc<FilterHandler<N>>,
        connections: &Connections,
        counters: &Arc<Counters>,
    ) -> Serving {
        let mut serving = Serving { tasks: JoinSet::new(), stop: Arc::default() };
        for (address, udp, tcp) in self.sockets {
            for socket in udp {
                let (handler, stop, runtime) = (handler.clone(), serving.stop.clone(), Handle::current());
                let thread = std::thread::Builder::new().name("dns-udp".into());
                let socket = Arc::new(socket);
                let started = thread.spawn(move || {
                    revive::thread(handler.counters(), || udp::serve(&socket, &handler, &runtime, &stop));
                });
                if let Err(error) = started {
                    tracing::error!(%address, %error, "UDP is not served");
                }
            }
            serving.add(address, tcp, None, handler, connections, counters);
        }
        serving
    }
}

/// What is spoken over TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TlsService {
    /// DNS over TLS (RFC 7858).
    Dot,
    /// DNS over HTTPS (RFC 8484): over TCP, and over HTTP/3 on the same port.
    Doh,
    /// DNS over QUIC (RFC 9250).
    Doq,
}

impl TlsService {
    /// What it is called in ALPN over TCP; empty where it is not spoken.
    const fn over_tcp(self) -> &'static [&'static [u8]] {
        match self {
            Self::Dot => &[b"dot"],
            Self::Doh => &[b"h2", b"http/1.1"],
            Self::Doq => &[],
        }
    }

    /// The same over QUIC.
    const fn over_quic(self) -> Option<&'static [u8]> {
        match self {
            Self::Dot => None,
            Self::Doh => Some(b"h3"),
            Self::Doq => Some(b"doq"),
        }
    }

    const fn channel(self) -> Channel {
        match self {
            Self::Dot => Channel::Dot,
            Self::Doh => Channel::Doh,
            Self::Doq => Channel::Doq,
        }
    }
}

/// Sockets for DNS over TLS, HTTPS or QUIC that are bound and wait to be served.
pub struct TlsListeners {
    sockets: Vec<TlsSockets>,
    channel: Channel,
    tcp: TlsAcceptor,
    quic: ServerConfig,
}

/// The sockets of an address.
struct TlsSockets {
    address: SocketAddr,
    tcp: Option<TcpListener>,
    quic: Option<UdpSocket>,
}

impl TlsListeners {
    /// Binds every address.
    ///
    /// # Errors
    /// The first that cannot be listened on; nothing is bound then.
    pub fn bind(
        addresses: &[SocketAddr],
        service: TlsService,
        certificate: &Certificate,
    ) -> Result<Self, ListenError> {
        let tls = || -> Result<_, String> {
            let quic = certificate.for_quic(service.over_quic().unwrap_or_default())?;
            Ok((certificate.for_streams(service.over_tcp())?, quic))
        };
        let (tcp, quic) = tls().map_err(|reason| {
            let address = addresses.first().copied().unwrap_or_else(|| SocketAddr::from(([0; 4], 0)));
            ListenError { address, protocol: "tls", reason, kind: std::io::ErrorKind::InvalidInput }
        })?;
        let sockets = addresses.iter().map(|address| TlsSockets::bind(*address, service));
        Ok(Self { sockets: sockets.collect::<Result<_, _>>()?, channel: service.channel(), tcp, quic })
    }

    /// Where they listen.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.sockets.iter().map(|sockets| sockets.address).collect()
    }

    /// Serves every socket until what is returned is dropped.
    pub fn serve<N: Next>(
        self,
        handler: &Arc<FilterHandler<N>>,
        connections: &Connections,
        counters: &Arc<Counters>,
    ) -> Serving {
        let mut serving = Serving { tasks: JoinSet::new(), stop: Arc::default() };
        for TlsSockets { address, tcp, quic } in self.sockets {
            if let Some(listener) = tcp {
                let tls = Tls { acceptor: self.tcp.clone(), channel: self.channel, port: address.port() };
                serving.add(address, listener, Some(tls), handler, connections, counters);
            }
            if let Some(socket) = quic {
                let (handler, connections, counters) =
                    (handler.clone(), connections.clone(), counters.clone());
                let (tls, channel) = (self.quic.clone(), self.channel);
                serving.tasks.spawn(async move {
                    let listen = || {
                        let (socket, tls, handler) = (socket.try_clone(), tls.clone(), handler.clone());
                        let (connections, counters) = (connections.clone(), counters.clone());
                        async move {
                            let served = match socket {
                                Ok(socket) => {
                                    quic::serve(socket, tls, channel, handler, connections, counters).await
                                }
                                Err(error) => Err(error),
                            };
                            if let Err(error) = served {
                                tracing::error!(%address, %error, "QUIC is not served");
                            }
                        }
                    };
                    revive::task(handler.counters(), listen).await;
                });
            }
        }
        serving
    }
}

impl TlsSockets {
    fn bind(address: SocketAddr, service: TlsService) -> Result<Self, ListenError> {
        let needs_tcp = !service.over_tcp().is_empty();
        let mut tries = if address.port() == 0 { FREE_PORT_TRIES } else { 1 };
        loop {
            tries -= 1;
            let of_tcp = |e: std::io::Error| ListenError::new(address, "tls", &e);
            let tcp = needs_tcp.then(|| tcp::bind(address)).transpose().map_err(of_tcp)?;
            let bound = tcp.as_ref().map_or(Ok(address), TcpListener::local_addr).map_err(of_tcp)?;
            let quic = match service.over_quic().map(|_| UdpSocket::bind(bound)).transpose() {
                Err(error) if error.kind() == std::io::ErrorKind::AddrInUse && tries > 0 => continue,
                quic => quic.map_err(|e| ListenError::new(bound, "quic", &e))?,
            };
            let bound = quic.as_ref().map_or(Ok(bound), UdpSocket::local_addr).map_err(of_tcp)?;
            return Ok(Self { address: bound, tcp, quic });
        }
    }
}

/// Listeners that are served, until this is dropped.
pub struct Serving {
    tasks: JoinSet<()>,
    stop: Arc<AtomicBool>,
}

impl Serving {
    /// Serves a listener too: plain, or over TLS with what is spoken there.
    fn add<N: Next>(
        &mut self,
        address: SocketAddr,
        listener: TcpListener,
        tls: Option<Tls>,
        handler: &Arc<FilterHandler<N>>,
        connections: &Connections,
        counters: &Arc<Counters>,
    ) {
        let (handler, connections, counters) = (handler.clone(), connections.clone(), counters.clone());
        self.tasks.spawn(async move {
            match tokio::net::TcpListener::from_std(listener) {
                Ok(listener) => {
                    let listener = Arc::new(listener);
                    let listen = || {
                        let (listener, tls, handler) = (listener.clone(), tls.clone(), handler.clone());
                        tcp::serve(listener, tls, handler, connections.clone(), counters.clone())
                    };
                    revive::task(handler.counters(), listen).await;
                }
                Err(error) => tracing::error!(%address, %error, "TCP is not served"),
            }
        });
    }

    /// Waits for as long as they are served.
    pub async fn ended(mut self) {
        while self.tasks.join_next().await.is_some() {}
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        self.stop.store(true, Relaxed);
    }
}

/// Sockets for UDP on each of so many addresses: one for each core, as long as there are not too many in all. Each has a
/// thread.
pub fn udp_sockets(addresses: usize) -> usize {
    const SOCKETS: usize = 64;
    let cores = available_parallelism().map_or(1, usize::from);
    cores.min(SOCKETS / addresses.max(1)).max(1)
}
