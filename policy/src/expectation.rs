//! What a person asks about: a name, an address, or a service at an address.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use crate::name::{DomainName, Name};
use crate::rule::{Protocol, Service};

/// The subject of a question, as written in `[[test]]` entries and on the command line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ask {
    /// A domain name.
    Name(DomainName),
    /// An address, and the service there if one is named.
    Address(IpAddr, Option<Service>),
}

impl FromStr for Ask {
    type Err = String;

    /// A name, an address, or `address:port/proto` with IPv6 addresses in brackets.
    fn from_str(text: &str) -> Result<Self, String> {
        if let Ok(address) = text.parse() {
            return Ok(Ask::Address(address, None));
        }
        if let Some((endpoint, protocol)) = text.split_once('/') {
            let wrong =
                || format!("\"{}\" is not an address with a port and a protocol", text.escape_debug());
            let endpoint: std::net::SocketAddr = endpoint.parse().map_err(|_| wrong())?;
            let protocol: Protocol = protocol.parse().map_err(|_| wrong())?;
            return Ok(Ask::Address(endpoint.ip(), Some(Service { protocol, port: endpoint.port() })));
        }
        match text.parse::<DomainName>() {
            Ok(name) if is_almost_an_address(name.as_name()) => {
                Err(format!("\"{}\" is no address: each part of one is at most 255", text.escape_debug()))
            }
            Ok(name) => Ok(Ask::Name(name)),
            Err(e) => Err(format!("\"{}\" is neither a name nor an address: {e}", text.escape_debug())),
        }
    }
}

/// Whether a name is four numbers. No such name exists, and whoever asks about one means an address.
fn is_almost_an_address(name: Name<'_>) -> bool {
    name.labels().count() == 4 && name.labels().all(|label| label.iter().all(u8::is_ascii_digit))
}

impl fmt::Display for Ask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Ask::Name(name) => name.fmt(f),
            Ask::Address(address, None) => address.fmt(f),
            Ask::Address(address, Some(service)) => {
                write!(
                    f,
                    "{}/{}",
                    std::net::SocketAddr::new(*address, service.port),
                    service.protocol.as_str()
                )
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn questions_are_read_and_printed() {
        for (text, shown) in [
            ("s07.upd.Kaspersky.com.", Some("s07.upd.kaspersky.com")),
            ("10.0.0.1", Some("10.0.0.1")),
            ("2a03:2480::1", Some("2a03:2480::1")),
            ("10.0.0.1:443/tcp", Some("10.0.0.1:443/tcp")),
            ("[::1]:443/udp", Some("[::1]:443/udp")),
            ("300.1.1.1", None),
            ("1.1.1", Some("1.1.1")),
            ("10.0.0.1:443", None),
            ("10.0.0.1:443/icmp", None),
            ("10.0.0.0/8", None),
            ("", None),
        ] {
            assert_eq!(text.parse::<Ask>().ok().map(|ask| ask.to_string()).as_deref(), shown, "{text}");
        }
    }
}
