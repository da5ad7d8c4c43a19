//! The two addresses, and where what follows them begins.

use interdict_ebpf_shared::{Address, count::Exit};

use crate::{
    ethernet::{self, Network},
    frame::Frame,
};

/// Bytes of an IPv4 header without options.
pub const IPV4_HEADER_BYTES: usize = 20;
/// Bytes of an IPv6 header without extensions.
pub const IPV6_HEADER_BYTES: usize = 40;

/// The bits of the second word of an IPv4 header that say "more fragments" and "not the first fragment" (RFC 791, §3.1).
const IPV4_MORE_FRAGMENTS: u16 = 0x2000;
const IPV4_FRAGMENT_OFFSET: u16 = 0x1fff;

/// The version of an IP header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

/// An IP header that is wholly there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ip(Network);

/// What follows an IP header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Payload {
    /// Where it begins.
    pub at: usize,
    /// What it is: a protocol, or for IPv6 perhaps the first of a chain of headers.
    pub header: u8,
    /// Whether it is part of a fragmented packet. An IPv6 fragment is only known from the chain of headers.
    pub fragment: Fragment,
    /// Whether a chain of IPv6 headers may follow.
    pub chain: bool,
}

/// Which part of a packet this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fragment {
    /// All of it.
    Whole,
    /// The first part of several, which holds the ports.
    First,
    /// A later part, without ports.
    Later,
}

/// Finds the IP header of a frame.
///
/// Nothing but its presence is checked. A wrong version, header length or checksum makes the next router drop the
/// packet, and until then it must not be a way around the address verdict.
///
/// # Errors
///
/// The reason for which the frame passes.
#[inline(always)]
pub fn header<F: Frame + ?Sized>(frame: &F) -> Result<Ip, Exit> {
    let network = ethernet::network_header(frame)?;
    let end = match network {
        Network::Ipv4(at) => at + IPV4_HEADER_BYTES,
        Network::Ipv6(at) => at + IPV6_HEADER_BYTES,
    };
    let _last: [u8; 2] = frame.read(end - 2).ok_or(Exit::Truncated)?;
    Ok(Ip(network))
}

impl Ip {
    /// A header that is known to be wholly there.
    #[inline(always)]
    pub(crate) const fn new(network: Network) -> Self {
        Self(network)
    }

    /// Its version.
    #[inline(always)]
    pub const fn version(&self) -> Version {
        match self.0 {
            Network::Ipv4(_) => Version::V4,
            Network::Ipv6(_) => Version::V6,
        }
    }

    /// Where it begins in its frame.
    #[inline(always)]
    pub const fn offset(&self) -> usize {
        match self.0 {
            Network::Ipv4(at) | Network::Ipv6(at) => at,
        }
    }

    /// Who sent it. `None` never happens: the header is there.
    #[inline(always)]
    pub fn source<F: Frame + ?Sized>(&self, frame: &F) -> Option<Address> {
        match self.0 {
            Network::Ipv4(at) => frame.read(at + 12).map(Address::from_v4),
            Network::Ipv6(at) => frame.read(at + 8).map(Address::from_v6),
        }
    }

    /// Who should get it. `None` never happens: the header is there.
    #[inline(always)]
    pub fn destination<F: Frame + ?Sized>(&self, frame: &F) -> Option<Address> {
        match self.0 {
            Network::Ipv4(at) => frame.read(at + 16).map(Address::from_v4),
            Network::Ipv6(at) => frame.read(at + 24).map(Address::from_v6),
        }
    }

    /// What follows it. `None` never happens: the header is there.
    #[inline(always)]
    pub fn payload<F: Frame + ?Sized>(&self, frame: &F) -> Option<Payload> {
        match self.0 {
            Network::Ipv4(at) => {
                let [version_and_length, _] = frame.read(at)?;
                let [_, header] = frame.read(at + 8)?;
                Some(Payload {
                    at: at + usize::from(version_and_length & 0x0f) * 4,
                    header,
                    fragment: ipv4_fragment(u16::from_be_bytes(frame.read(at + 6)?)),
                    chain: false,
                })
            }
            Network::Ipv6(at) => {
                let [header, _] = frame.read(at + 6)?;
                Some(Payload { at: at + IPV6_HEADER_BYTES, header, fragment: Fragment::Whole, chain: true })
            }
        }
    }
}

#[inline(always)]
const fn ipv4_fragment(word: u16) -> Fragment {
    match (word & IPV4_FRAGMENT_OFFSET, word & IPV4_MORE_FRAGMENTS) {
        (0, 0) => Fragment::Whole,
        (0, _) => Fragment::First,
        _ => Fragment::Later,
    }
}
