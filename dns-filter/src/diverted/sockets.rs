//! Transparent sockets: they take and send packets under addresses that are not ours (`IP_TRANSPARENT` in ip(7)).

use std::io::{self, IoSlice, IoSliceMut};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6, TcpListener, UdpSocket};
use std::os::fd::AsRawFd;

use nix::libc::{in_addr, in_pktinfo, in6_addr, in6_pktinfo};
use nix::sys::socket::sockopt::{Ipv4OrigDstAddr, Ipv6OrigDstAddr};
use nix::sys::socket::{
    ControlMessage, ControlMessageOwned, MsgFlags, SockaddrIn6, SockaddrStorage, recvmsg, sendmsg, setsockopt,
};
use socket2::{Domain, Protocol, Socket, Type};

/// Connections that wait to be accepted; beyond that the kernel goes on with cookies.
const BACKLOG: i32 = 1024;

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
    /// Sends answers over UDP in the name of other resolvers.
    pub voice: Voice,
}

impl DivertedSockets {
    /// Binds them.
    ///
    /// # Errors
    /// Without `CAP_NET_ADMIN` and `CAP_NET_RAW`, or where the system is out of sockets.
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
        let voice = Voice::new()?;
        Ok(Self { udp4: udp4.into(), udp6: udp6.into(), tcp4: tcp4.into(), tcp6: tcp6.into(), voice })
    }
}

/// A transparent socket on an address, which need not be ours.
fn transparent(address: SocketAddr, kind: Type) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), kind, None)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    bound(socket, address)
}

fn bound(socket: Socket, address: SocketAddr) -> io::Result<Socket> {
    match address {
        SocketAddr::V4(_) => socket.set_ip_transparent_v4(true)?,
        SocketAddr::V6(_) => socket.set_ip_transparent_v6(true)?,
    }
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    Ok(socket)
}

/// Sends datagrams in the name of other resolvers, from their port 53.
///
/// Raw sockets, for which a port is nothing to be bound: a server on this machine may have port 53 of every address, and
/// may come later.
pub struct Voice {
    v4: Socket,
    v6: Socket,
}

/// Where raw sockets are bound, so that no datagram is ever for them: the dummy address of RFC 7600, and one of those that
/// are for discarding (RFC 6666).
const NOWHERE4: Ipv4Addr = Ipv4Addr::new(192, 0, 0, 8);
const NOWHERE6: Ipv6Addr = Ipv6Addr::new(0x100, 0, 0, 0, 0, 0, 0, 0x53);

impl Voice {
    fn new() -> io::Result<Self> {
        let raw = |address: IpAddr| {
            let address = SocketAddr::new(address, 0);
            bound(Socket::new(Domain::for_address(address), Type::RAW, Some(Protocol::UDP))?, address)
        };
        Ok(Self { v4: raw(NOWHERE4.into())?, v6: raw(NOWHERE6.into())? })
    }

    /// Sends a message; never waits.
    ///
    /// # Errors
    /// Where it cannot be sent now.
    pub(super) fn send(&self, from: SocketAddr, to: SocketAddr, message: &[u8]) -> io::Result<()> {
        let header = udp_header(from, to, message)?;
        let slices = [IoSlice::new(&header), IoSlice::new(message)];
        let none = MsgFlags::empty();
        // For a raw socket the port is a protocol, which it has been told.
        let receiver = SockaddrStorage::from(without_port(to));
        let sent = match (from.ip(), to.ip()) {
            (IpAddr::V4(from), IpAddr::V4(_)) => {
                let address = in_addr { s_addr: u32::from_ne_bytes(from.octets()) };
                let source = in_pktinfo { ipi_ifindex: 0, ipi_spec_dst: address, ipi_addr: address };
                let source = [ControlMessage::Ipv4PacketInfo(&source)];
                sendmsg(self.v4.as_raw_fd(), &slices, &source, none, Some(&receiver))
            }
            (IpAddr::V6(from), IpAddr::V6(_)) => {
                let address = in6_addr { s6_addr: from.octets() };
                let source = in6_pktinfo { ipi6_addr: address, ipi6_ifindex: 0 };
                let source = [ControlMessage::Ipv6PacketInfo(&source)];
                sendmsg(self.v6.as_raw_fd(), &slices, &source, none, Some(&receiver))
            }
            _ => return Err(io::Error::other("addresses of two families")),
        };
        sent.map(drop).map_err(io::Error::from)
    }
}

fn without_port(mut address: SocketAddr) -> SocketAddr {
    address.set_port(0);
    address
}

/// Ports, length and checksum (RFC 768; RFC 8200, §8.1).
fn udp_header(from: SocketAddr, to: SocketAddr, message: &[u8]) -> io::Result<[u8; 8]> {
    const UDP: u8 = 17;
    let length = u16::try_from(8 + message.len()).map_err(io::Error::other)?.to_be_bytes();
    let [source, destination] = [from.port(), to.port()].map(u16::to_be_bytes);
    let head = [source, destination, length].concat();
    let addresses = match (from.ip(), to.ip()) {
        (IpAddr::V4(from), IpAddr::V4(to)) => [from.octets(), to.octets()].concat(),
        (from, to) => {
            let octets = |address| match address {
                IpAddr::V4(address) => address.to_ipv6_mapped().octets(),
                IpAddr::V6(address) => address.octets(),
            };
            [octets(from), octets(to)].concat()
        }
    };
    let parts = [&addresses, &[0, UDP][..], &length, &head, message];
    let sum = match parts.into_iter().fold(0, add) {
        // A sum of zero would say that there is none.
        0xffff => 0xffff,
        sum => !sum,
    };
    let mut header = [0; 8];
    header[..6].copy_from_slice(&head);
    header[6..].copy_from_slice(&sum.to_be_bytes());
    Ok(header)
}

/// The ones' complement sum of 16-bit words (RFC 1071); only the last part may have an odd length.
fn add(sum: u16, bytes: &[u8]) -> u16 {
    bytes.chunks(2).fold(sum, |sum, word| {
        let word = u16::from_be_bytes([word[0], word.get(1).copied().unwrap_or(0)]);
        let (sum, carry) = sum.overflowing_add(word);
        sum + u16::from(carry)
    })
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
    // A link-local address says nothing without its interface.
    let v6 = |v6: &SockaddrIn6| SocketAddrV6::new(v6.ip(), v6.port(), 0, v6.scope_id()).into();
    v4.or_else(|| address.as_sockaddr_in6().map(v6))
}
