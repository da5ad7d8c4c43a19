//! The PROXY protocol, version 2: what a proxy in front of this server says of whom it speaks for.

use std::collections::HashSet;
use std::io;
use std::net::{IpAddr, SocketAddr};

use ppp::v2::{Addresses, Command, Header, PROTOCOL_PREFIX, ParseError};
use tokio::io::{AsyncRead, AsyncReadExt};

/// Up to the length of what follows.
const FIXED_BYTES: usize = PROTOCOL_PREFIX.len() + 4;
/// The longest header that is read: addresses, and room for what a proxy says besides.
const HEADER_LIMIT_BYTES: usize = 1024;

/// Proxies that are believed. Each of their connections and datagrams begins with a header; nobody else's does.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Proxies(HashSet<IpAddr>);

impl FromIterator<IpAddr> for Proxies {
    fn from_iter<I: IntoIterator<Item = IpAddr>>(addresses: I) -> Self {
        Self(addresses.into_iter().map(|address| address.to_canonical()).collect())
    }
}

impl Proxies {
    /// Whether this sender is one.
    pub(crate) fn include(&self, sender: IpAddr) -> bool {
        !self.0.is_empty() && self.0.contains(&sender.to_canonical())
    }
}

/// For whom a header at the start of these bytes speaks, and how long it is. A proxy that speaks for itself (`LOCAL`), or
/// for no address, is the client.
///
/// # Errors
/// It is no header, or is not all there.
pub(crate) fn read(bytes: &[u8], sender: SocketAddr) -> Result<(SocketAddr, usize), ParseError> {
    let header = Header::try_from(bytes)?;
    let client = match (header.command, header.addresses) {
        (Command::Proxy, Addresses::IPv4(v4)) => SocketAddr::from((v4.source_address, v4.source_port)),
        (Command::Proxy, Addresses::IPv6(v6)) => SocketAddr::from((v6.source_address, v6.source_port)),
        _ => sender,
    };
    Ok((client, header.header.len()))
}

/// The same, of a stream.
///
/// # Errors
/// It is no header, is longer than any should be, or the stream ends.
pub(crate) async fn read_from(
    stream: &mut (impl AsyncRead + Unpin),
    sender: SocketAddr,
) -> io::Result<SocketAddr> {
    let mut header = [0; HEADER_LIMIT_BYTES];
    stream.read_exact(&mut header[..FIXED_BYTES]).await?;
    let wrong = |error| io::Error::new(io::ErrorKind::InvalidData, error);
    // Until all is there, it is judged by its beginning: what is no header is not waited for.
    let whole = match read(&header[..FIXED_BYTES], sender) {
        Ok((client, _)) => return Ok(client),
        Err(ParseError::Partial(_, more)) => FIXED_BYTES + more,
        Err(error) => return Err(wrong(error.to_string())),
    };
    if whole > HEADER_LIMIT_BYTES {
        return Err(wrong(format!("a PROXY header of {whole} bytes")));
    }
    stream.read_exact(&mut header[FIXED_BYTES..whole]).await?;
    let (client, _) = read(&header[..whole], sender).map_err(|error| wrong(error.to_string()))?;
    Ok(client)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn proxy() -> SocketAddr {
        "192.0.2.99:5000".parse().unwrap()
    }

    fn header(command: u8, family: u8, payload: &[u8]) -> Vec<u8> {
        let length = (payload.len() as u16).to_be_bytes();
        [PROTOCOL_PREFIX, &[0x20 | command, family], &length, payload].concat()
    }

    #[test]
    fn a_header_says_who_the_client_is() {
        let v4 = [10, 0, 0, 7, 10, 0, 0, 1, 0x13, 0x88, 0, 53];
        let v6: Vec<u8> = [[0x20; 16], [0x21; 16]].concat().into_iter().chain([0x13, 0x88, 0, 53]).collect();
        let (own, whole) = ("192.0.2.99:5000", Some(()));
        for (header, client) in [
            (header(1, 0x11, &v4), whole.map(|()| "10.0.0.7:5000")),
            (header(1, 0x12, &v4), Some("10.0.0.7:5000")),
            (header(1, 0x21, &v6), Some("[2020:2020:2020:2020:2020:2020:2020:2020]:5000")),
            // TLVs behind the addresses.
            (header(1, 0x11, &[&v4[..], &[4, 0, 1, 9]].concat()), Some("10.0.0.7:5000")),
            (header(0, 0x11, &v4), Some(own)),
            (header(0, 0, &[]), Some(own)),
            (header(1, 0, &[]), Some(own)),
            (header(1, 0x11, &v4[..11]), None),
            (header(2, 0x11, &v4), None),
            (header(1, 0x41, &v4), None),
            (PROTOCOL_PREFIX.to_vec(), None),
            (b"PROXY TCP4 10.0.0.7 10.0.0.1 5000 53\r\n".to_vec(), None),
        ] {
            let said = [&header[..], b"rest"].concat();
            let read_one = read(&said, proxy()).ok();
            assert_eq!(read_one, client.map(|client| (client.parse().unwrap(), header.len())), "{header:?}");
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            let (streamed, rest) = runtime.block_on(async {
                let mut stream = &said[..];
                let client = read_from(&mut stream, proxy()).await.ok();
                (client, stream)
            });
            assert_eq!(streamed, client.map(|client| client.parse().unwrap()));
            assert!(streamed.is_none() || rest == b"rest");
        }
        let long = [&header(1, 0x11, &[0; 2000])[..], &[0; 10]].concat();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        assert!(runtime.block_on(read_from(&mut &long[..], proxy())).is_err());
    }

    proptest! {
        #[test]
        fn any_bytes_are_no_more_than_refused(tail in proptest::collection::vec(any::<u8>(), 0..300)) {
            let bytes = [PROTOCOL_PREFIX, &tail[..]].concat();
            for end in 0..bytes.len() {
                if let Ok((_, length)) = read(&bytes[..end], proxy()) {
                    prop_assert!(length <= end);
                }
            }
        }
    }
}
