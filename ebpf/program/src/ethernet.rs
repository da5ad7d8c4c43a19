//! From the start of the frame, through its VLAN tags, to the IP header.

use interdict_ebpf_shared::count::Exit;

use crate::frame::{Frame, opaque};

/// How many VLAN tags are read. Two are usual (QinQ); a frame with more than this passes, and is counted.
pub const MAX_VLAN_TAGS: usize = 4;

const ETHERTYPE_OFFSET: usize = 12;
const ETHERTYPE_BYTES: usize = 2;
const VLAN_TAG_BYTES: usize = 4;

const ETHERTYPE_IPV4: u16 = 0x0800;
const ETHERTYPE_IPV6: u16 = 0x86dd;
const ETHERTYPE_VLAN: u16 = 0x8100;
/// IEEE 802.1ad, the outer tag of QinQ.
const ETHERTYPE_SERVICE_VLAN: u16 = 0x88a8;
/// The outer tag of QinQ as switches wrote it before 802.1ad.
const ETHERTYPE_OLD_QINQ: u16 = 0x9100;

/// Where the IP header begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Network {
    /// IPv4, at this offset.
    Ipv4(usize),
    /// IPv6, at this offset.
    Ipv6(usize),
}

/// Finds the IP header.
///
/// # Errors
///
/// The reason for which the frame passes: it ends too early, carries something else, or has too many tags.
#[inline(always)]
pub fn network_header<F: Frame + ?Sized>(frame: &F) -> Result<Network, Exit> {
    let mut at = ETHERTYPE_OFFSET;
    // One round more than there are tags: the last type read is the one behind the last tag.
    for _ in 0..=MAX_VLAN_TAGS {
        let ethertype = frame.read(at).ok_or(Exit::Truncated)?;
        match u16::from_be_bytes(ethertype) {
            ETHERTYPE_IPV4 => return Ok(Network::Ipv4(opaque(at + ETHERTYPE_BYTES))),
            ETHERTYPE_IPV6 => return Ok(Network::Ipv6(opaque(at + ETHERTYPE_BYTES))),
            ETHERTYPE_VLAN | ETHERTYPE_SERVICE_VLAN | ETHERTYPE_OLD_QINQ => at += VLAN_TAG_BYTES,
            _ => return Err(Exit::NotIp),
        }
    }
    Err(Exit::VlanDepth)
}
