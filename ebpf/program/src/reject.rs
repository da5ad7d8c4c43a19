//! Telling the sender of a blocked packet that it will not get through: what is said to which packet.

use interdict_ebpf_shared::Address;

use crate::{
    frame::{Frame, opaque},
    icmp::{self, ICMP, ICMPV6},
    ip::Version,
    lan::Outbound,
    transport::{TCP, TCP_FLAGS_OFFSET, TCP_RST},
};

/// What is said to a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Notice {
    /// Nothing: it is of a kind that nobody may answer, or that nobody would understand the answer to.
    Nothing,
    /// A TCP segment that resets the connection (RFC 9293, §3.5.2).
    Reset,
    /// ICMP "communication administratively prohibited" (RFC 1812, §5.2.7.1; RFC 4443, §3.1).
    Prohibited,
}

/// What is said to a packet on its way out, which is blocked.
///
/// Nothing to an error, to part of a packet, and to what was not sent by one machine to one (RFC 1122, §3.2.2; RFC 4443,
/// §2.4).
#[inline(always)]
pub fn notice<F: Frame + ?Sized>(frame: &F, outbound: &Outbound) -> Notice {
    let version = outbound.ip.version();
    let transport = &outbound.transport;
    let is_one = |address| is_one_machine(version, address);
    let is_whole = !transport.fragment && transport.unread.is_none();
    if !is_whole || !is_one(outbound.client) || !is_one(outbound.remote) {
        return Notice::Nothing;
    }
    let at = opaque(transport.at);
    match (transport.protocol, version) {
        (TCP, _) => match frame.read(at + TCP_FLAGS_OFFSET) {
            Some([_, flags]) if flags & TCP_RST == 0 => Notice::Reset,
            _ => Notice::Nothing,
        },
        (ICMP, Version::V4) => match frame.read(at) {
            Some([kind, _]) if !icmp::is_error(kind) => Notice::Prohibited,
            _ => Notice::Nothing,
        },
        (ICMPV6, Version::V6) => match frame.read(at) {
            Some([kind, _]) if !icmp::is_error_v6(kind) && kind != REDIRECT_V6 => Notice::Prohibited,
            _ => Notice::Nothing,
        },
        _ => Notice::Prohibited,
    }
}

/// A Redirect of ICMPv6 (RFC 4443, §2.4 (e.2)).
const REDIRECT_V6: u8 = 137;

/// Whether an address is of one machine on a network: not multicast, unspecified, loopback or reserved.
#[inline(always)]
pub fn is_one_machine(version: Version, address: Address) -> bool {
    match version {
        Version::V4 => {
            let first = u32::from_be(address.v4_word()) >> 24;
            first != 0 && first != 127 && first < 224
        }
        // ::/16 holds the unspecified address, loopback, and IPv4 addresses in other clothes.
        Version::V6 => {
            let first = address.halves()[0] >> 48;
            first != 0 && first >> 8 != 0xff
        }
    }
}
