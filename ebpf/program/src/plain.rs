//! The packets that most are: plain ones, to addresses of no concern. They are known by a few words of their headers, before
//! the rest of the program is begun, which takes twice as long.

use interdict_ebpf_shared::Address;

use crate::{
    ethernet::Network,
    frame::{Frame, opaque},
    ip::{IPV4_HEADER_BYTES, IPV6_HEADER_BYTES, Ip, Version},
    lan::Outbound,
    query::{self, Aim},
    tls,
    transport::{self, TCP, TCP_FLAGS_OFFSET, TCP_URG, Transport, UDP},
};

const ETHERNET_BYTES: usize = 14;
const ETHERTYPE_IPV4: [u8; 2] = [0x08, 0x00];
const ETHERTYPE_IPV6: [u8; 2] = [0x86, 0xdd];
/// The version, and a header without options.
const VERSION_4: u8 = 0x45;
/// The bits of the word of an IPv4 header that are set in fragments.
const FRAGMENT: u16 = 0x3fff;

/// The address that a packet goes to, if nothing but that address can concern a policy: plain TCP or UDP, neither tagged, nor
/// in parts, nor with options or extension headers, which asks no resolver, opens no tunnel, and names no server. `None` says
/// that this cannot be told so quickly.
#[inline(always)]
pub fn destination<F: Frame + ?Sized>(frame: &F) -> Option<(Version, Address)> {
    let Outbound { ip, remote, transport, .. } = read(frame)?;
    let is_plain = match query::aim(&transport) {
        Aim::Hello => cannot_name_a_server(frame, ip.version(), transport.at)?,
        Aim::Other => !transport::is_tunnel(&transport),
        Aim::Plain | Aim::Stream | Aim::Encrypted => false,
    };
    is_plain.then_some((ip.version(), remote))
}

/// The headers of a packet on its way out, if they are as plain as can be: what [`lan::read`] finds, sooner.
#[inline(always)]
pub fn read<F: Frame + ?Sized>(frame: &F) -> Option<Outbound> {
    let (network, protocol, at, client, remote) = match frame.read(12)? {
        ETHERTYPE_IPV4 => {
            let [version, _]: [u8; 2] = frame.read(ETHERNET_BYTES)?;
            let [high, low, _, protocol]: [u8; 4] = frame.read(ETHERNET_BYTES + 6)?;
            if version != VERSION_4 || u16::from_be_bytes([high, low]) & FRAGMENT != 0 {
                return None;
            }
            let client = Address::from_v4(frame.read(ETHERNET_BYTES + 12)?);
            let remote = Address::from_v4(frame.read(ETHERNET_BYTES + 16)?);
            (Network::Ipv4(ETHERNET_BYTES), protocol, ETHERNET_BYTES + IPV4_HEADER_BYTES, client, remote)
        }
        ETHERTYPE_IPV6 => {
            let [protocol, _]: [u8; 2] = frame.read(ETHERNET_BYTES + 6)?;
            let client = Address::from_v6(frame.read(ETHERNET_BYTES + 8)?);
            let remote = Address::from_v6(frame.read(ETHERNET_BYTES + 24)?);
            (Network::Ipv6(ETHERNET_BYTES), protocol, ETHERNET_BYTES + IPV6_HEADER_BYTES, client, remote)
        }
        _ => return None,
    };
    if protocol != TCP && protocol != UDP {
        return None;
    }
    let [a, b, c, d]: [u8; 4] = frame.read(at)?;
    let transport =
        Transport { protocol, at, fragment: false, source: [a, b], destination: [c, d], unread: None };
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
