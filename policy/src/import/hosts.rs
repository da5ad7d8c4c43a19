//! Hosts files (hosts(5)): an address, and the names that are answered with it.
//!
//! Lists block a name by giving it an address of the machine itself or none at all; both become `null`, since an answer
//! of 127.0.0.1 makes programs talk to whatever listens there.

use std::net::IpAddr;

use super::draft::{Draft, Extent, Says};
use super::{lines, shown};
use crate::name::DomainName;
use crate::rule::Answer;

/// Names that hosts files give to the machine and to multicast, and that nobody bans.
const OWN_NAMES: [&str; 12] = [
    "localhost",
    "localhost.localdomain",
    "localhost4",
    "localhost6",
    "local",
    "broadcasthost",
    "ip6-localhost",
    "ip6-loopback",
    "ip6-localnet",
    "ip6-mcastprefix",
    "ip6-allnodes",
    "ip6-allrouters",
];

pub(super) fn read(text: &str, draft: &mut Draft) {
    for (line, words) in lines(text, &['#'], draft) {
        let mut words = words.split_whitespace();
        let first = words.next().unwrap_or_default();
        // An IPv6 address may name its interface: fe80::1%lo0.
        let Ok(address) = first.split('%').next().unwrap_or_default().parse::<IpAddr>() else {
            draft.leave_out(
                line,
                format!("\"{}\" is not an address", shown(first)),
                "a line is an address and names",
            );
            continue;
        };
        let mut any = false;
        for name in words {
            any = true;
            if OWN_NAMES.contains(&name.to_ascii_lowercase().as_str()) || name.parse::<IpAddr>().is_ok() {
                draft.skip();
                continue;
            }
            match name.parse::<DomainName>() {
                Ok(name) if address.is_unspecified() || address.is_loopback() => {
                    draft.name(line, &name, Extent::At, Says::Block(Answer::NULL, None));
                }
                Ok(name) => draft.address(line, &name, Extent::At, address, None),
                Err(e) => draft.leave_out(line, format!("\"{}\" is not a name: {e}", shown(name)), ""),
            }
        }
        if !any {
            draft.leave_out(
                line,
                format!("no name stands behind {address}"),
                "a line is an address and names",
            );
        }
    }
}
