//! The packets that most are: plain ones, to addresses of no concern. They are known by a few words of their headers, before
//! the rest of the program is begun, which takes twice as long.

use interdict_ebpf_shared::Address;

use crate::{
    ethernet::Network,
    frame::{Frame, Head as _, Headed, opaque},
    ip::{IPV4_HEADER_BYTES, IPV6_HEADER_BYTES, Ip, Version},
    lan::Outbound,
    query::{self, Aim},
    tls,
    transport::{self, TCP, TCP_FLAGS_OFFSET, TCP_URG, Transport, UDP},
};

const ETHERNET_BYTES: usize = 14;
/// The ports of the sender and of the receiver, with which TCP and UDP begin.
const PORTS_BYTES: usize = 4;
const ETHERTYPE_IPV4: [u8; 2] = [0x08, 0x00];
const ETHERTYPE_IPV6: [u8; 2] = [0x86, 0xdd];
/// The version, and a header without options.
const VERSION_4: u8 = 0x45;
/// The bits of the word of an IPv4 header that are set in fragments.
const FRAGMENT: u16 = 0x3fff;

/// Whether nothing but the address that a packet goes to can concern a policy, of a plain one: it asks no resolver, opens no
/// tunnel, and names no server. `false` says that this cannot be told so quickly.
#[inline(always)]
pub fn is_all_address<F: Frame + ?Sized>(frame: &F, Outbound { ip, transport, .. }: &Outbound) -> bool {
    match query::aim(transport) {
        Aim::Hello => cannot_name_a_server(frame, ip.version(), transport.at).unwrap_or_default(),
        Aim::Other => !transport::is_tunnel(transport),
        Aim::Plain | Aim::Stream | Aim::Encrypted => false,
    }
}

/// The headers of a packet on its way out, if they are as plain as can be: what [`lan::read`] finds, sooner. Plain are TCP and
/// UDP, neither tagged, nor in parts, nor with options or extension headers.
#[inline(always)]
pub fn read<F: Headed + ?Sized>(frame: &F) -> Option<Outbound> {
    const IPV4_PORTS_AT: usize = ETHERNET_BYTES + IPV4_HEADER_BYTES;
    const IPV6_PORTS_AT: usize = ETHERNET_BYTES + IPV6_HEADER_BYTES;
    let head = frame.head::<{ IPV4_PORTS_AT + PORTS_BYTES }>()?;
    let (network, protocol, at, client, remote, source, destination) = match head.get::<12, 2>() {
        ETHERTYPE_IPV4 => {
            let [version, _] = head.get::<ETHERNET_BYTES, 2>();
            let [high, low, _, protocol] = head.get::<{ ETHERNET_BYTES + 6 }, 4>();
            if version != VERSION_4 || u16::from_be_bytes([high, low]) & FRAGMENT != 0 {
                return None;
            }
            let client = Address::from_v4(head.get::<{ ETHERNET_BYTES + 12 }, 4>());
            let remote = Address::from_v4(head.get::<{ ETHERNET_BYTES + 16 }, 4>());
            let (source, destination) =
                (head.get::<IPV4_PORTS_AT, 2>(), head.get::<{ IPV4_PORTS_AT + 2 }, 2>());
            (Network::Ipv4(ETHERNET_BYTES), protocol, IPV4_PORTS_AT, client, remote, source, destination)
        }
        ETHERTYPE_IPV6 => {
            let head = frame.head::<{ IPV6_PORTS_AT + PORTS_BYTES }>()?;
            let [protocol, _] = head.get::<{ ETHERNET_BYTES + 6 }, 2>();
            let client = Address::from_v6(head.get::<{ ETHERNET_BYTES + 8 }, 16>());
            let remote = Address::from_v6(head.get::<{ ETHERNET_BYTES + 24 }, 16>());
            let (source, destination) =
                (head.get::<IPV6_PORTS_AT, 2>(), head.get::<{ IPV6_PORTS_AT + 2 }, 2>());
            (Network::Ipv6(ETHERNET_BYTES), protocol, IPV6_PORTS_AT, client, remote, source, destination)
        }
        _ => return None,
    };
    if protocol != TCP && protocol != UDP {
        return None;
    }
    let transport = Transport { protocol, at, fragment: false, source, destination, unread: None };
    Some(Outbound { ip: Ip::new(network), client, remote, transport })
}

/// Whether a segment for the port of HTTPS holds no beginning of a ClientHello.
#[inline(always)]
fn cannot_name_a_server<F: Frame + ?Sized>(frame: &F, version: Version, at: usize) -> Option<bool> {
    let (said_at, beside) = match version {
        Version::V4 => (2, 0),
        Version::V6 => (4, IPV6_HEADER_BYTES),
    };
    let ip_bytes = usize::from(u16::from_be_bytes(frame.read(ETHERNET_BYTES + said_at)?)) + beside;
    let [length, flags] = frame.read(at + TCP_FLAGS_OFFSET)?;
    if flags & TCP_URG != 0 {
        return None;
    }
    let data_at = at + usize::from(length >> 4) * 4;
    match (ETHERNET_BYTES + ip_bytes).wrapping_sub(data_at) {
        0 => Some(true),
        // A byte alone begins whatever it likes.
        1 => None,
        _ => Some(!tls::may_begin(frame.read(opaque(data_at))?)),
    }
}
