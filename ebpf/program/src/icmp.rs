//! ICMP and ICMPv6: which messages tell of errors, and of which packets.

use interdict_ebpf_shared::{Address, flow::Service};

use crate::{
    frame::{Frame, opaque},
    ip::{IPV6_HEADER_BYTES, Version},
    lan::Outbound,
    transport::{FRAGMENT, FRAGMENT_HEADER_BYTES, TCP, UDP},
};

/// The protocol number of ICMP.
pub const ICMP: u8 = 1;
/// The protocol number of ICMPv6.
pub const ICMPV6: u8 = 58;

/// In front of the packet that an error quotes.
const HEADER_BYTES: usize = 8;

/// In the type of ICMPv6 messages that are no errors (RFC 4443, §2.1).
const INFORMATIONAL: u8 = 0x80;

/// Whether an ICMP message tells of an error: unreachable, source quench, redirect, time exceeded, parameter problem
/// (RFC 1122, §3.2.2).
#[inline(always)]
pub const fn is_error(kind: u8) -> bool {
    matches!(kind, 3 | 4 | 5 | 11 | 12)
}

/// Whether an ICMPv6 message tells of an error (RFC 4443, §2.1).
#[inline(always)]
pub const fn is_error_v6(kind: u8) -> bool {
    kind & INFORMATIONAL == 0
}

/// Whether an ICMP message tells what became of a packet: unreachable, time exceeded, parameter problem.
#[inline(always)]
const fn tells_of_a_packet(kind: u8) -> bool {
    matches!(kind, 3 | 11 | 12)
}

/// The service that an error is about: it quotes the packet that was sent there (RFC 792; RFC 4443, §3). `None` of another
/// packet, of a part of one, or if the quotation ends before that is said.
#[inline(always)]
pub fn quoted<F: Frame + ?Sized>(frame: &F, read: &Outbound) -> Option<Service> {
    if read.transport.fragment || read.transport.unread.is_some() {
        return None;
    }
    let at = opaque(read.transport.at);
    let quote = opaque(at + HEADER_BYTES);
    let (protocol, remote, ports_at) = match (read.ip.version(), read.transport.protocol) {
        (Version::V4, ICMP) => {
            let [kind, _] = frame.read(at)?;
            let [version, _] = frame.read(quote)?;
            let [_, protocol] = frame.read(quote + 8)?;
            let remote = Address::from_v4(frame.read(quote + 16)?);
            if !tells_of_a_packet(kind) {
                return None;
            }
            (protocol, remote, opaque(quote + usize::from(version & 0xf) * 4))
        }
        (Version::V6, ICMPV6) => {
            let [kind, _] = frame.read(at)?;
            let [protocol, _] = frame.read(quote + 6)?;
            let remote = Address::from_v6(frame.read(quote + 24)?);
            if !is_error_v6(kind) {
                return None;
            }
            match protocol {
                // Of a datagram in parts the first is quoted, or one that does not say to which port.
                FRAGMENT => {
                    let [protocol, _] = frame.read(quote + IPV6_HEADER_BYTES)?;
                    (protocol, remote, quote + IPV6_HEADER_BYTES + FRAGMENT_HEADER_BYTES)
                }
                protocol => (protocol, remote, quote + IPV6_HEADER_BYTES),
            }
        }
        _ => return None,
    };
    let port = match protocol {
        TCP | UDP => frame.read(ports_at + 2)?,
        _ => [0; 2],
    };
    Some(Service { remote, port, protocol, zero: 0 })
}
