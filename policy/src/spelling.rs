//! Other spellings of an IPv4 address: IPv6 addresses that a stack or a translator takes for one.

use std::net::{IpAddr, Ipv4Addr};

use ipnet::Ipv6Net;

/// Lengths of the prefixes that a NAT64 may have (RFC 6052, §2.2).
pub const NAT64_LENGTHS: [u8; 6] = [32, 40, 48, 56, 64, 96];

/// The IPv4 address that an address is another spelling of for everybody: mapped (RFC 4291, §2.5.5.2), behind the
/// well-known prefix of NAT64, or of 6to4 (RFC 3056, §2).
pub fn ipv4_inside(address: IpAddr) -> Option<Ipv4Addr> {
    let IpAddr::V6(address) = address else { return None };
    address.to_ipv4_mapped().or_else(|| {
        let bits = address.to_bits();
        match address.segments() {
            [0x2002, ..] => Some(Ipv4Addr::from_bits((bits >> 80) as u32)),
            [0x64, 0xff9b, 0, 0, 0, 0, ..] => Some(Ipv4Addr::from_bits(bits as u32)),
            _ => None,
        }
    })
}

/// The IPv4 address behind one of these prefixes of NAT64, whose lengths are among [`NAT64_LENGTHS`] (RFC 6052, §2.2).
pub fn ipv4_behind(address: IpAddr, prefixes: &[Ipv6Net]) -> Option<Ipv4Addr> {
    let IpAddr::V6(address) = address else { return None };
    let prefix = prefixes.iter().find(|prefix| prefix.contains(&address))?;
    let octets = address.octets();
    // The octet behind the first 64 bits is always zero, and no part of the address.
    let mut rest = octets.iter().enumerate().skip(usize::from(prefix.prefix_len()) / 8);
    let mut next = || rest.by_ref().find(|(at, _)| *at != 8).map_or(0, |(_, octet)| *octet);
    Some(Ipv4Addr::new(next(), next(), next(), next()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ipv4_address_is_found_where_the_standards_put_it() {
        for (written, expect) in [
            ("::ffff:192.0.2.33", Some("192.0.2.33")),
            ("64:ff9b::192.0.2.33", Some("192.0.2.33")),
            ("2002:c000:221::1", Some("192.0.2.33")),
            ("64:ff9b:1::192.0.2.33", None),
            ("2001:db8::192.0.2.33", None),
            ("192.0.2.33", None),
        ] {
            let inside = ipv4_inside(written.parse().unwrap()).map(|address| address.to_string());
            assert_eq!(inside.as_deref(), expect, "{written}");
        }
        // RFC 6052, §2.4.
        for (prefix, written) in [
            ("2001:db8::/32", "2001:db8:c000:221::"),
            ("2001:db8:100::/40", "2001:db8:1c0:2:21::"),
            ("2001:db8:122::/48", "2001:db8:122:c000:2:2100::"),
            ("2001:db8:122:300::/56", "2001:db8:122:3c0:0:221::"),
            ("2001:db8:122:344::/64", "2001:db8:122:344:c0:2:2100::"),
            ("2001:db8:122:344::/96", "2001:db8:122:344::192.0.2.33"),
        ] {
            let prefixes = [prefix.parse().unwrap()];
            let inside = ipv4_behind(written.parse().unwrap(), &prefixes);
            assert_eq!(inside, Some(Ipv4Addr::new(192, 0, 2, 33)), "{written} behind {prefix}");
            assert_eq!(ipv4_behind("2001:db9::1".parse().unwrap(), &prefixes), None);
        }
    }
}
