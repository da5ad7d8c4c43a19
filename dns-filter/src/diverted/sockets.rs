//! Transparent sockets: they take and send packets under addresses that are not ours (`IP_TRANSPARENT` in ip(7)).

use std::io::{self, IoSliceMut};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket};
use std::os::fd::AsRawFd;

use nix::sys::socket::sockopt::{Ipv4OrigDstAddr, Ipv6OrigDstAddr};
use nix::sys::socket::{ControlMessageOwned, MsgFlags, SockaddrStorage, recvmsg, setsockopt};
use socket2::{Domain, Protocol, Socket, Type};

/// Connections that wait to be accepted.
const BACKLOG: i32 = 128;

/// The sockets that take what is diverted, each on a port that the system chose: the kernel plane hands packets to the
/// socket itself, whatever port they were for.
pub struct DivertedSockets {
    /// UDP over IPv4.
    pub udp4: UdpSocket,
    /// UDP over IPv6.
    pub udp6: UdpSocket,
    /// TCP over IPv4.
    pub tcp4: TcpListener,
    /// TCP over IPv6.
    pub tcp6: TcpListener,
}

impl DivertedSockets {
    /// Binds them.
    ///
    /// # Errors
    /// Without `CAP_NET_ADMIN`, or where the system is out of sockets.
    pub fn bind() -> io::Result<Self> {
        let any4 = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0));
        let any6 = SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0));
        let udp4 = transparent(any4, Type::DGRAM)?;
        setsockopt(&udp4, Ipv4OrigDstAddr, &true)?;
        let udp6 = transparent(any6, Type::DGRAM)?;
        setsockopt(&udp6, Ipv6OrigDstAddr, &true)?;
        let [tcp4, tcp6] = [transparent(any4, Type::STREAM)?, transparent(any6, Type::STREAM)?];
        for listener in [&tcp4, &tcp6] {
            listener.listen(BACKLOG)?;
        }
        Ok(Self { udp4: udp4.into(), udp6: udp6.into(), tcp4: tcp4.into(), tcp6: tcp6.into() })
    }
}

/// A transparent socket on an address, which need not be ours.
fn transparent(address: SocketAddr, kind: Type) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), kind, None)?;
    match address {
        SocketAddr::V4(_) => socket.set_ip_transparent_v4(true)?,
        SocketAddr::V6(_) => {
            socket.set_only_v6(true)?;
            socket.set_ip_transparent_v6(true)?;
        }
    }
    // Several answers in the name of one resolver are on their way at a time.
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    Ok(socket)
}

/// A socket that sends in the name of another resolver.
pub(super) fn in_the_name_of(resolver: SocketAddr) -> io::Result<UdpSocket> {
    transparent(resolver, Type::DGRAM).map(Into::into)
}

/// A socket of our own, for asking a resolver: on a port that the system chose at random, with our mark.
pub(super) fn of_our_own(resolver: SocketAddr, kind: Type, mark: u32) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(resolver), kind, Some(protocol(kind)))?;
    socket.set_mark(mark)?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

fn protocol(kind: Type) -> Protocol {
    if kind == Type::STREAM { Protocol::TCP } else { Protocol::UDP }
}

/// A datagram that was diverted.
pub(super) struct Datagram {
    pub(super) bytes: usize,
    pub(super) client: SocketAddr,
    /// Where it was going.
    pub(super) asked: SocketAddr,
}

/// Receives a datagram together with where it was going. `None` if that is not told.
pub(super) fn receive(socket: &impl AsRawFd, buffer: &mut [u8]) -> io::Result<Option<Datagram>> {
    let mut room = nix::cmsg_space!(nix::libc::sockaddr_in6);
    let mut slices = [IoSliceMut::new(buffer)];
    let received =
        recvmsg::<SockaddrStorage>(socket.as_raw_fd(), &mut slices, Some(&mut room), MsgFlags::empty())?;
    let asked = received.cmsgs()?.find_map(|message| match message {
        ControlMessageOwned::Ipv4OrigDstAddr(to) => Some(SocketAddr::from((
            IpAddr::from(u32::from_be(to.sin_addr.s_addr).to_be_bytes()),
            u16::from_be(to.sin_port),
        ))),
        ControlMessageOwned::Ipv6OrigDstAddr(to) => {
            Some(SocketAddr::from((IpAddr::from(to.sin6_addr.s6_addr), u16::from_be(to.sin6_port))))
        }
        _ => None,
    });
    let client = received.address.and_then(|from| socket_address(&from));
    Ok(client.zip(asked).map(|(client, asked)| Datagram { bytes: received.bytes, client, asked }))
}

fn socket_address(address: &SockaddrStorage) -> Option<SocketAddr> {
    let v4 = address.as_sockaddr_in().map(|v4| SocketAddr::from((v4.ip(), v4.port())));
    v4.or_else(|| address.as_sockaddr_in6().map(|v6| SocketAddr::from((v6.ip(), v6.port()))))
}
