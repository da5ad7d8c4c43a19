//! EDNS options that a question carries, and what an answer carries in return.

use std::net::IpAddr;
use std::time::{SystemTime, UNIX_EPOCH};

use interdict_dns_wire::Query;
use siphasher::sip::SipHasher24;

use crate::channel::Channel;

/// NSID (RFC 5001).
const NSID: u16 = 3;
/// COOKIE (RFC 7873).
const COOKIE: u16 = 10;
/// edns-tcp-keepalive (RFC 7828).
const KEEPALIVE: u16 = 11;
/// Padding (RFC 7830).
const PADDING: u16 = 12;
/// Extended errors (RFC 8914), and structured ones (draft-ietf-dnsop-structured-dns-error): by the first, empty, clients
/// asked for them in earlier drafts, and some do.
const EDE: u16 = 15;
const STRUCTURED: u16 = 26;

/// The longest message.
const MESSAGE_LIMIT_BYTES: usize = 65_535;
/// Answers over encrypted channels are a multiple of this long (RFC 8467, §4.1).
const PADDING_BLOCK_BYTES: usize = 468;
/// How long a connection may be idle, in units of 100 ms (RFC 7828, §3.1): as `tcp.rs` has it.
const IDLE_TIMEOUT: u16 = 100;
const CLIENT_COOKIE_BYTES: usize = 8;
const SERVER_COOKIE_BYTES: usize = 16;
/// The longest name of a server.
pub const NSID_LIMIT_BYTES: usize = 64;
/// What all options together may take, but for padding.
const LIMIT_BYTES: usize = 4 * 4 + NSID_LIMIT_BYTES + CLIENT_COOKIE_BYTES + SERVER_COOKIE_BYTES + 2;

/// What a question's options ask of its answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Wanted {
    cookie: Option<[u8; CLIENT_COOKIE_BYTES]>,
    nsid: bool,
    keepalive: bool,
    padding: bool,
    structured: bool,
}

/// Options that break their own rules: FORMERR (RFC 7873, §5.2.2; RFC 6891, §7).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Broken;

/// What the server puts into options.
#[derive(Clone)]
pub(crate) struct Identity {
    nsid: Vec<u8>,
    cookie_key: [u8; 16],
}

impl Wanted {
    /// Reads the options of a question. An option that is not known is passed over (RFC 6891, §6.1.2).
    ///
    /// # Errors
    /// A cookie of a length that none has, or options that do not end where their record does.
    pub(crate) fn of(query: &Query<'_>) -> Result<Self, Broken> {
        let (mut wanted, mut rest) = (Self::default(), query.options());
        while !rest.is_empty() {
            let (&[a, b, c, d], behind) = rest.split_first_chunk().ok_or(Broken)?;
            let (code, bytes) = (u16::from_be_bytes([a, b]), usize::from(u16::from_be_bytes([c, d])));
            let data = behind.get(..bytes).ok_or(Broken)?;
            rest = &behind[bytes..];
            match code {
                NSID => wanted.nsid = true,
                KEEPALIVE => wanted.keepalive = true,
                PADDING => wanted.padding = true,
                EDE | STRUCTURED => wanted.structured = true,
                // A client's alone, or with a server's of 8 to 32 bytes.
                COOKIE if matches!(bytes, 8 | 16..=40) => {
                    // Of several the first counts (RFC 7873, §5.2).
                    wanted.cookie = wanted.cookie.or(data.first_chunk().copied());
                }
                COOKIE => return Err(Broken),
                _ => {}
            }
        }
        Ok(wanted)
    }

    /// Whether the question names what only a TCP connection has.
    pub(crate) fn speaks_of_tcp(self) -> bool {
        self.keepalive
    }

    /// Whether the question asks for extended errors in JSON.
    pub(crate) fn structured(self) -> bool {
        self.structured
    }

    /// How many bytes the answer grows by, but for padding.
    pub(crate) fn bytes(&self, identity: &Identity, channel: Channel) -> usize {
        let cookie = if self.cookie.is_some() { 4 + CLIENT_COOKIE_BYTES + SERVER_COOKIE_BYTES } else { 0 };
        let nsid = if self.nsid && !identity.nsid.is_empty() { 4 + identity.nsid.len() } else { 0 };
        let keepalive = if self.keepalive && channel.has_keepalive() { 6 } else { 0 };
        cookie + nsid + keepalive
    }

    /// Adds what is wanted to an answer of `len` bytes, and returns its new length. Without an OPT record at its end, or
    /// without room, it stays as it is.
    pub(crate) fn add(
        &self,
        identity: &Identity,
        client: IpAddr,
        channel: Channel,
        out: &mut [u8],
        len: usize,
    ) -> usize {
        if *self == Self::default() {
            return len;
        }
        let mut options = Room { bytes: [0; LIMIT_BYTES], len: 0 };
        if let Some(cookie) = self.cookie {
            options.put(COOKIE, &[&cookie[..], &identity.server_cookie(&cookie, client, seconds())].concat());
        }
        if self.nsid && !identity.nsid.is_empty() {
            options.put(NSID, &identity.nsid);
        }
        if self.keepalive && channel.has_keepalive() {
            options.put(KEEPALIVE, &IDLE_TIMEOUT.to_be_bytes());
        }
        if len + options.len > MESSAGE_LIMIT_BYTES {
            return len;
        }
        let len = interdict_dns_wire::add_options(out, len, &options.bytes[..options.len]).unwrap_or(len);
        // Only who asks in padded messages gets such (RFC 7830, §4).
        if !self.padding || !channel.is_encrypted() {
            return len;
        }
        let padded = (len + 4).next_multiple_of(PADDING_BLOCK_BYTES);
        if padded > MESSAGE_LIMIT_BYTES {
            return len;
        }
        let mut padding = vec![0; padded - len];
        padding[..2].copy_from_slice(&PADDING.to_be_bytes());
        padding[2..4].copy_from_slice(&((padded - len - 4) as u16).to_be_bytes());
        interdict_dns_wire::add_options(out, len, &padding).unwrap_or(len)
    }
}

/// Options, one behind another.
struct Room {
    bytes: [u8; LIMIT_BYTES],
    len: usize,
}

impl Room {
    fn put(&mut self, code: u16, data: &[u8]) {
        let head = [code.to_be_bytes(), (data.len() as u16).to_be_bytes()];
        for part in [head.as_flattened(), data] {
            self.bytes[self.len..self.len + part.len()].copy_from_slice(part);
            self.len += part.len();
        }
    }
}

impl Identity {
    /// # Errors
    /// When the system has no random numbers, or the name is too long.
    pub(crate) fn new(nsid: &str) -> Result<Self, String> {
        if nsid.len() > NSID_LIMIT_BYTES {
            return Err(format!("nsid has {} bytes; at most {NSID_LIMIT_BYTES} are sent", nsid.len()));
        }
        let mut cookie_key = [0; 16];
        getrandom::fill(&mut cookie_key).map_err(|error| format!("no random numbers: {error}"))?;
        Ok(Self { nsid: nsid.as_bytes().to_vec(), cookie_key })
    }

    pub(crate) fn nsid(&self) -> &[u8] {
        &self.nsid
    }

    /// The server's half of a cookie (RFC 9018, §4).
    fn server_cookie(&self, client_cookie: &[u8; 8], client: IpAddr, seconds: u32) -> [u8; 16] {
        const VERSION_AND_RESERVED: [u8; 4] = [1, 0, 0, 0];
        let time = seconds.to_be_bytes();
        let mut said = [&client_cookie[..], &VERSION_AND_RESERVED, &time].concat();
        match client.to_canonical() {
            IpAddr::V4(client) => said.extend(client.octets()),
            IpAddr::V6(client) => said.extend(client.octets()),
        }
        let hash = SipHasher24::new_with_key(&self.cookie_key).hash(&said);
        let mut cookie = [0; SERVER_COOKIE_BYTES];
        cookie[..4].copy_from_slice(&VERSION_AND_RESERVED);
        cookie[4..8].copy_from_slice(&time);
        cookie[8..].copy_from_slice(&hash.to_le_bytes());
        cookie
    }
}

fn seconds() -> u32 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs() as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 9018, appendix A.1 and A.4 (IPv6).
    #[test]
    fn cookies_are_those_of_the_standard() {
        let hex = |text: &str| -> Vec<u8> {
            (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect()
        };
        for (key, client_cookie, client, seconds, expect) in [
            (
                "e5e973e5a6b2a43f48e7dc849e37bfcf",
                "2464c4abcf10c957",
                "198.51.100.100",
                0x5cf7_9f11,
                "010000005cf79f111f8130c3eee29480",
            ),
            (
                "445536bcd2513298075a5d379663c962",
                "22681ab97d52c298",
                "2001:db8:220:1:59de:d0f4:8769:82b8",
                0x5cf7_c609,
                "010000005cf7c609a6bb79d16625507a",
            ),
        ] {
            let identity = Identity { nsid: Vec::new(), cookie_key: hex(key).try_into().unwrap() };
            let client_cookie = hex(client_cookie).try_into().unwrap();
            let cookie = identity.server_cookie(&client_cookie, client.parse().unwrap(), seconds);
            assert_eq!(cookie[..], hex(expect), "{client}");
        }
    }
}
