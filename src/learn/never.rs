//! What is never learned, whoever's name points there.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::LazyLock;

use interdict_policy::{IpNet, Policy, is_public_resolver};

/// Why an address was not learned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// It is no address of a host in the Internet: private, shared, loopback, link-local, multicast, reserved.
    NotPublic,
    /// It is one of this machine, or of a resolver that the policy calls ours.
    Ours,
    /// Packets to it are never dropped.
    Safe,
    /// It is a public resolver's, which serves everybody.
    PublicResolver,
    /// Its name has as many addresses as are learned for one.
    LimitOfName,
    /// There is no room for more addresses.
    NoRoom,
}

impl Refusal {
    pub(super) const ALL: [Self; 6] =
        [Self::NotPublic, Self::Ours, Self::Safe, Self::PublicResolver, Self::LimitOfName, Self::NoRoom];

    /// The word that `status` has for it.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::NotPublic => "not_public",
            Self::Ours => "ours",
            Self::Safe => "safe",
            Self::PublicResolver => "public_resolver",
            Self::LimitOfName => "limit_of_name",
            Self::NoRoom => "no_room",
        }
    }
}

/// The addresses of this place.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Never {
    /// Networks to which no packet is dropped.
    pub(super) safe: Vec<IpNet>,
    /// This machine's addresses.
    pub(super) ours: Vec<IpAddr>,
}

impl Never {
    /// Why an address must not be learned, if so. An IPv6 address that stands for an IPv4 one is both.
    pub(super) fn refuse(&self, address: IpAddr, policy: &Policy) -> Option<Refusal> {
        self.refuse_spelled(address, policy)
            .or_else(|| self.refuse_spelled(IpAddr::V4(inner_v4(address)?), policy))
    }

    fn refuse_spelled(&self, address: IpAddr, policy: &Policy) -> Option<Refusal> {
        if NOT_PUBLIC.iter().any(|network| network.contains(&address)) {
            Some(Refusal::NotPublic)
        } else if self.ours.contains(&address) || policy.egress_dns().is_resolver(address) {
            Some(Refusal::Ours)
        } else if self.safe.iter().any(|network| network.contains(&address)) {
            Some(Refusal::Safe)
        } else if is_public_resolver(address) {
            Some(Refusal::PublicResolver)
        } else {
            None
        }
    }
}

/// The IPv4 address in an IPv6 one: behind a translator (RFC 6052 section 2.1), in 6to4 (RFC 3056 section 2).
fn inner_v4(address: IpAddr) -> Option<Ipv4Addr> {
    let IpAddr::V6(address) = address else { return None };
    let bits = address.to_bits();
    match address.segments() {
        [0x64, 0xff9b, 0, 0, 0, 0, _, _] => Some(Ipv4Addr::from_bits(bits as u32)),
        [0x2002, ..] => Some(Ipv4Addr::from_bits((bits >> 80) as u32)),
        _ => None,
    }
}

/// The special-purpose registries of IANA, without what documents use as examples.
static NOT_PUBLIC: LazyLock<Vec<IpNet>> = LazyLock::new(|| {
    let v4 = [
        (Ipv4Addr::UNSPECIFIED, 8),
        (Ipv4Addr::new(10, 0, 0, 0), 8),
        (Ipv4Addr::new(100, 64, 0, 0), 10),
        (Ipv4Addr::new(127, 0, 0, 0), 8),
        (Ipv4Addr::new(169, 254, 0, 0), 16),
        (Ipv4Addr::new(172, 16, 0, 0), 12),
        (Ipv4Addr::new(192, 0, 0, 0), 24),
        (Ipv4Addr::new(192, 168, 0, 0), 16),
        (Ipv4Addr::new(198, 18, 0, 0), 15),
        // Multicast, reserved, broadcast.
        (Ipv4Addr::new(224, 0, 0, 0), 3),
    ];
    let v6 = [
        // Unspecified, loopback, and the old way to write IPv4 addresses.
        (Ipv6Addr::UNSPECIFIED, 96),
        (Ipv6Addr::new(0x64, 0xff9b, 1, 0, 0, 0, 0, 0), 48),
        (Ipv6Addr::new(0x100, 0, 0, 0, 0, 0, 0, 0), 64),
        (Ipv6Addr::new(0xfc00, 0, 0, 0, 0, 0, 0, 0), 7),
        // Link-local, and what was site-local.
        (Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0), 9),
        (Ipv6Addr::new(0xff00, 0, 0, 0, 0, 0, 0, 0), 8),
    ];
    let v4 = v4.map(|(address, bits)| (IpAddr::from(address), bits));
    let v6 = v6.map(|(address, bits)| (IpAddr::from(address), bits));
    v4.into_iter().chain(v6).map(|(address, bits)| IpNet::new_assert(address, bits)).collect()
});

#[cfg(test)]
mod tests {
    use interdict_policy::{Source, compile};

    use super::*;

    #[test]
    fn what_no_vendor_owns_is_refused() {
        let never = Never {
            safe: vec!["203.0.113.0/28".parse().unwrap(), "2001:db8:5::/48".parse().unwrap()],
            ours: vec!["192.0.2.1".parse().unwrap(), "2001:db8::1".parse().unwrap()],
        };
        let text = "format = 1\n[egress_dns]\nresolvers = [\"198.51.100.53\"]\n[[rule]]\nid = \"a\"\nrole = \"other\"\n\
                    action = \"log\"\nhosts = [\"a.test\"]\n"
            .to_owned();
        let policy = compile(&[Source { name: "p.toml".into(), text }]).unwrap().policy;
        for (address, refusal) in [
            ("203.0.113.15", Some(Refusal::Safe)),
            ("203.0.113.16", None),
            ("2001:db8:5::9", Some(Refusal::Safe)),
            ("192.0.2.1", Some(Refusal::Ours)),
            ("192.0.2.2", None),
            ("2001:db8::1", Some(Refusal::Ours)),
            ("198.51.100.53", Some(Refusal::Ours)),
            ("8.8.8.8", Some(Refusal::PublicResolver)),
            ("8.8.4.4", Some(Refusal::PublicResolver)),
            ("1.1.1.1", Some(Refusal::PublicResolver)),
            ("9.9.9.9", Some(Refusal::PublicResolver)),
            ("2001:4860:4860::8888", Some(Refusal::PublicResolver)),
            ("0.0.0.0", Some(Refusal::NotPublic)),
            ("0.1.2.3", Some(Refusal::NotPublic)),
            ("10.255.255.255", Some(Refusal::NotPublic)),
            ("11.0.0.0", None),
            ("100.64.0.1", Some(Refusal::NotPublic)),
            ("100.128.0.1", None),
            ("127.0.0.53", Some(Refusal::NotPublic)),
            ("169.254.169.254", Some(Refusal::NotPublic)),
            ("172.31.0.1", Some(Refusal::NotPublic)),
            ("172.32.0.1", None),
            ("192.168.1.1", Some(Refusal::NotPublic)),
            ("198.19.0.1", Some(Refusal::NotPublic)),
            ("224.0.0.251", Some(Refusal::NotPublic)),
            ("255.255.255.255", Some(Refusal::NotPublic)),
            ("77.74.177.1", None),
            ("::", Some(Refusal::NotPublic)),
            ("::1", Some(Refusal::NotPublic)),
            ("::8.8.8.8", Some(Refusal::NotPublic)),
            ("fd00::1", Some(Refusal::NotPublic)),
            ("fe80::1", Some(Refusal::NotPublic)),
            ("fec0::1", Some(Refusal::NotPublic)),
            ("ff02::1", Some(Refusal::NotPublic)),
            ("2a03:2480:8034::1", None),
            // IPv4 addresses in other clothes.
            ("64:ff9b::8.8.8.8", Some(Refusal::PublicResolver)),
            ("64:ff9b::10.0.0.1", Some(Refusal::NotPublic)),
            ("64:ff9b::192.0.2.1", Some(Refusal::Ours)),
            ("64:ff9b::77.74.177.1", None),
            ("2002:0a00:0001::1", Some(Refusal::NotPublic)),
            ("2002:cb00:710f::1", Some(Refusal::Safe)),
        ] {
            assert_eq!(never.refuse(address.parse().unwrap(), &policy), refusal, "{address}");
        }
    }
}
