//! The values that stand in lists and texts of a policy file, read with a message and a help each.

use std::str::FromStr;

use ipnet::IpNet;

use crate::glob::Glob;
use crate::name::DomainName;
use crate::rule::{Service, word};

/// Longest role, ban id, profile id or unit id in bytes.
pub(crate) const WORD_LIMIT_BYTES: usize = 32;

/// A lower-case word: a role, or the id of a ban.
pub(crate) struct Word(pub(crate) String);

impl FromStr for Word {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        word(text, WORD_LIMIT_BYTES).map(|word| Word(word.to_owned()))
    }
}

pub(crate) fn read_name(text: &str) -> Result<DomainName, (String, String)> {
    text.parse::<DomainName>().map_err(|e| {
        let help = if text.contains('*') {
            "write names with `*` under globs, and a whole domain under domains"
        } else {
            "write a name such as example.com"
        };
        (format!("\"{}\" is not a name: {e}", shortened(text)), help.into())
    })
}

pub(crate) fn read_glob(text: &str) -> Result<Glob, (String, String)> {
    Glob::parse(text).map_err(|e| {
        (format!("\"{}\" is not a glob: {e}", shortened(text)), "such as ksn-*.example.com".into())
    })
}

pub(crate) fn read_service(text: &str) -> Result<Service, (String, String)> {
    text.parse::<Service>().map_err(|e| (e, "such as tcp/443 or udp/443".into()))
}

pub(crate) fn read_network(text: &str) -> Result<IpNet, (String, String)> {
    let wrong = |why: &str| format!("\"{}\" is not a network: {why}", shortened(text));
    let help = || "write it as 192.0.2.0/24 or 2001:db8::/32".to_owned();
    let Some((address, length)) = text.split_once('/') else {
        let why = match text.parse::<std::net::IpAddr>() {
            Ok(std::net::IpAddr::V4(_)) => {
                return Err((wrong("it has no prefix length"), format!("{text}/32")));
            }
            Ok(std::net::IpAddr::V6(_)) => {
                return Err((wrong("it has no prefix length"), format!("{text}/128")));
            }
            Err(_) => "it is no address with a prefix length",
        };
        return Err((wrong(why), help()));
    };
    let Ok(address) = address.parse::<std::net::IpAddr>() else {
        return Err((wrong("what stands before / is no address"), help()));
    };
    let (family, longest) = if address.is_ipv4() { ("IPv4", 32) } else { ("IPv6", 128) };
    let length = length.parse::<u8>().ok().filter(|_| length.bytes().all(|b| b.is_ascii_digit()));
    let network = length.and_then(|length| IpNet::new(address, length).ok());
    let Some(network) = network else {
        return Err((wrong(&format!("an {family} prefix is at most {longest}")), help()));
    };
    if network.trunc() != network {
        let help = format!(
            "the network is {}; write that, or {address}/{longest} for the one address",
            network.trunc()
        );
        return Err((wrong("it has host bits set"), help));
    }
    if let IpNet::V6(v6) = network
        && v6.addr().to_ipv4_mapped().is_some()
        && v6.prefix_len() >= 96
    {
        return Err((wrong("it is an IPv4 network in IPv6 spelling"), "write the IPv4 network".into()));
    }
    Ok(network)
}

/// A text short enough for one line of a message.
pub(crate) fn shortened(text: &str) -> String {
    const SHOWN: usize = 80;
    let mut shown: String = text.chars().take(SHOWN).flat_map(char::escape_debug).collect();
    if text.chars().nth(SHOWN).is_some() {
        shown.push('…');
    }
    shown
}
