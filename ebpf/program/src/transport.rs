//! What follows the IP header: fragments, chains of IPv6 headers, ports.

use core::hint::black_box;

use interdict_ebpf_shared::count::Exit;

use crate::{
    frame::{Frame, opaque},
    ip::{Fragment, Payload},
};

/// How many IPv6 extension headers are walked through. Real packets have one or two.
pub const MAX_EXTENSION_HEADERS: usize = 8;

/// The protocol number of TCP.
pub const TCP: u8 = 6;
/// The protocol number of UDP.
pub const UDP: u8 = 17;

/// Where in a TCP header its own length stands, and behind it the flags.
pub const TCP_FLAGS_OFFSET: usize = 12;
/// The flag of a segment that opens a connection, or answers one that does.
pub const TCP_SYN: u8 = 0x02;
/// The flag of a segment that ends a connection at once.
pub const TCP_RST: u8 = 0x04;
/// The flag of a segment that acknowledges another.
pub const TCP_ACK: u8 = 0x10;

/// The flag of a segment that holds urgent data.
pub const TCP_URG: u8 = 0x20;

const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
pub(crate) const FRAGMENT: u8 = 44;
const AUTHENTICATION: u8 = 51;
const DESTINATION_OPTIONS: u8 = 60;
const MOBILITY: u8 = 135;
const HOST_IDENTITY: u8 = 139;
const SHIM6: u8 = 140;

pub(crate) const FRAGMENT_HEADER_BYTES: usize = 8;
/// In the third and fourth byte of an IPv6 fragment header (RFC 8200, §4.5).
const IPV6_FRAGMENT_OFFSET: u16 = 0xfff8;

/// The transport header, as far as it could be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transport {
    /// The protocol; where the chain of headers could not be read to its end, the header that was not read.
    pub protocol: u8,
    /// Where the transport header begins.
    pub at: usize,
    /// Whether this is part of a fragmented packet.
    pub fragment: bool,
    /// The sender's port, in network byte order; 0 where there is none or it was not read.
    pub source: [u8; 2],
    /// The receiver's port, likewise.
    pub destination: [u8; 2],
    /// Why the ports could not be read: the exit by which a packet leaves that needed them for its verdict.
    pub unread: Option<Exit>,
}

/// Reads as much of the transport header as there is. Cannot fail: what is not there is [`Transport::unread`].
#[inline(always)]
pub fn read<F: Frame + ?Sized>(frame: &F, payload: &Payload) -> Transport {
    let Payload { mut at, header: mut protocol, mut fragment, chain } = *payload;
    let mut unread = None;

    if chain {
        // Hidden from the compiler, which would write the loop out eight times and run out of stack for it.
        for _ in 0..black_box(MAX_EXTENSION_HEADERS) {
            if !is_extension(protocol) {
                break;
            }
            let Some([next, length, field_high, field_low]) = frame.read(at) else {
                unread = Some(cut_off(fragment));
                break;
            };
            at = opaque(at + extension_bytes(protocol, length));
            if protocol == FRAGMENT {
                fragment = match u16::from_be_bytes([field_high, field_low]) & IPV6_FRAGMENT_OFFSET {
                    0 => Fragment::First,
                    _ => Fragment::Later,
                };
            }
            // Where it goes in the end stands in there (RFC 8200, §4.4).
            if protocol == ROUTING && field_low != 0 {
                unread = Some(Exit::HeaderChainUnjudged);
                break;
            }
            protocol = next;
            // What follows in a later fragment is the middle of the packet, not another header.
            if fragment == Fragment::Later {
                break;
            }
        }
    }

    let (mut source, mut destination) = ([0; 2], [0; 2]);
    if unread.is_some() {
        // Nothing behind the chain can be read, or is not for the address in front of it.
    } else if fragment == Fragment::Later {
        unread = Some(Exit::FragmentUnjudged);
    } else if chain && is_extension(protocol) {
        unread = Some(Exit::HeaderChainUnjudged);
    } else if protocol == TCP || protocol == UDP {
        match frame.read(at) {
            Some([a, b, c, d]) => (source, destination) = ([a, b], [c, d]),
            None => unread = Some(cut_off(fragment)),
        }
    }
    Transport { protocol, at, fragment: fragment != Fragment::Whole, source, destination, unread }
}

/// Why headers that end too early could not be read: the rest of a first fragment's is in another (RFC 7112, §5, lets a host
/// drop that).
#[inline(always)]
const fn cut_off(fragment: Fragment) -> Exit {
    match fragment {
        Fragment::First => Exit::HeaderChainUnjudged,
        Fragment::Whole | Fragment::Later => Exit::TruncatedUnjudged,
    }
}

/// Whether a transport header may stand behind this header (IANA's list of IPv6 extension headers, less those for
/// experiments and ESP, behind which nothing can be read).
#[inline(always)]
pub const fn is_extension(header: u8) -> bool {
    matches!(
        header,
        HOP_BY_HOP
            | ROUTING
            | FRAGMENT
            | AUTHENTICATION
            | DESTINATION_OPTIONS
            | MOBILITY
            | HOST_IDENTITY
            | SHIM6
    )
}

/// Whether another packet is in a packet, or something encrypted that may hold one: IP in IP, 6in4, GRE, ESP, EtherIP,
/// L2TP, MPLS (IANA's protocol numbers); over UDP the ports of IKE and ESP, L2TP, OpenVPN, VXLAN, Geneve and WireGuard.
#[inline(always)]
pub const fn is_tunnel(transport: &Transport) -> bool {
    match transport.protocol {
        4 | 41 | 47 | 50 | 97 | 115 | 137 => true,
        UDP => matches!(
            u16::from_be_bytes(transport.destination),
            500 | 1194 | 1701 | 4500 | 4789 | 6081 | 51820
        ),
        _ => false,
    }
}

/// The length of an extension header: RFC 8200, §4, for most; §4.5 for fragments; RFC 4302, §2.2, for AH.
#[inline(always)]
const fn extension_bytes(header: u8, length: u8) -> usize {
    match header {
        FRAGMENT => FRAGMENT_HEADER_BYTES,
        AUTHENTICATION => (length as usize + 2) * 4,
        _ => (length as usize + 1) * 8,
    }
}
