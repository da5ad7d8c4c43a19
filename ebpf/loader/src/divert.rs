//! The routing policy that delivers diverted packets to this machine, whatever their destination.
//!
//! As `ip rule add fwmark MARK lookup TABLE` and `ip route add local default dev lo table TABLE`, for both families.

use std::io;

use interdict_ebpf_shared::query::DIVERT_MARK;
use netlink_packet_core::{NLM_F_ACK, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REQUEST};
use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    route::{RouteAttribute, RouteMessage, RouteProtocol, RouteScope, RouteType},
    rule::{RuleAction, RuleAttribute, RuleMessage},
};

use crate::{Error, network::exchange};

/// The routing table whose only route leads to this machine.
const TABLE: u32 = 0x1d1c;
/// Behind the table of local addresses, which has priority 0, and in front of all that systems usually have.
const PRIORITY: u32 = 53;
/// The index of the loopback interface of every network namespace.
const LOOPBACK: u32 = 1;

const FAMILIES: [AddressFamily; 2] = [AddressFamily::Inet, AddressFamily::Inet6];

/// Delivers packets with [`DIVERT_MARK`] here, until dropped.
pub(crate) struct DivertRoute {
    /// Whether it stays, for programs that stay too.
    pub(crate) keep: bool,
}

impl DivertRoute {
    /// Adds the routes and the rules. Those that an earlier agent left are taken as they are.
    pub(crate) fn add() -> Result<Self, Error> {
        for family in FAMILIES {
            for message in
                [RouteNetlinkMessage::NewRoute(route(family)), RouteNetlinkMessage::NewRule(rule(family))]
            {
                match exchange(message, NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL) {
                    Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                    // A machine without IPv6 has nothing to divert there.
                    Err(error) if family == AddressFamily::Inet6 && is_unsupported(&error) => {}
                    Err(source) => return Err(Error::Netlink { what: "a route for diverted DNS", source }),
                    Ok(_) => {}
                }
            }
        }
        Ok(Self { keep: false })
    }

    /// Removes them, as far as they are there.
    pub(crate) fn remove() {
        for family in FAMILIES {
            let _ = exchange(RouteNetlinkMessage::DelRule(rule(family)), NLM_F_REQUEST | NLM_F_ACK);
            let _ = exchange(RouteNetlinkMessage::DelRoute(route(family)), NLM_F_REQUEST | NLM_F_ACK);
        }
    }
}

impl Drop for DivertRoute {
    fn drop(&mut self) {
        if !self.keep {
            Self::remove();
        }
    }
}

fn is_unsupported(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EAFNOSUPPORT | libc::EOPNOTSUPP | libc::EACCES | libc::ENODEV))
}

fn route(family: AddressFamily) -> RouteMessage {
    let mut message = RouteMessage::default();
    message.header.address_family = family;
    message.header.kind = RouteType::Local;
    message.header.scope = RouteScope::Host;
    message.header.protocol = RouteProtocol::Static;
    message.attributes = vec![RouteAttribute::Table(TABLE), RouteAttribute::Oif(LOOPBACK)];
    message
}

fn rule(family: AddressFamily) -> RuleMessage {
    let mut message = RuleMessage::default();
    message.header.family = family;
    message.header.action = RuleAction::ToTable;
    message.attributes = vec![
        RuleAttribute::Priority(PRIORITY),
        RuleAttribute::FwMark(DIVERT_MARK),
        RuleAttribute::FwMask(u32::MAX),
        RuleAttribute::Table(TABLE),
    ];
    message
}
