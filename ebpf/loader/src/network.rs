//! What the kernel says of its interfaces, addresses and routes, over its routing socket (rtnetlink(7)).

use std::{io, net::IpAddr};

use ipnet::IpNet;
use netlink_packet_core::{
    DefaultNla, NLM_F_DUMP, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    address::{AddressAttribute, AddressMessage},
    link::{InfoKind, LinkAttribute, LinkInfo, LinkLayerType, LinkMessage, LinkXdp, XdpAttached},
    route::{RouteAddress, RouteAttribute, RouteMessage, RouteVia},
};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};

use crate::{Error, Mode, system};

/// An interface of this network namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InterfaceInfo {
    /// Its name.
    pub name: String,
    /// Its index.
    pub index: u32,
    /// The program on its XDP hook.
    pub xdp: Option<Xdp>,
    /// Its Ethernet address; zero where it has none.
    pub mac: [u8; 6],
    /// Its MTU in bytes.
    pub mtu: u32,
    /// Whether it is one end of a veth pair.
    pub is_veth: bool,
    /// Whether its packets have no Ethernet header.
    pub is_bare: bool,
    /// Whether it is a VLAN of another.
    is_vlan: bool,
    /// The interface that it stands on, or the other end of a pair.
    link: Option<u32>,
    /// The network namespace of that one, by the number that ours has for it; `None` where it is ours.
    link_namespace: Option<i32>,
}

/// A program on an XDP hook.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Xdp {
    /// The program's number.
    pub program_id: u32,
    /// Where it runs.
    pub mode: Mode,
}

/// Lists the interfaces of this network namespace, in the order of their indexes.
///
/// # Errors
///
/// The kernel's routing socket failed.
pub fn interfaces() -> Result<Vec<InterfaceInfo>, Error> {
    let answers = dump("interfaces", RouteNetlinkMessage::GetLink(LinkMessage::default()))?;
    let mut interfaces: Vec<_> = answers
        .into_iter()
        .filter_map(|answer| match answer {
            RouteNetlinkMessage::NewLink(link) => interface(link),
            _ => None,
        })
        .collect();
    interfaces.sort_by_key(|interface| interface.index);
    Ok(interfaces)
}

/// The networks of the addresses of an interface, without link-local ones.
///
/// # Errors
///
/// There is no such interface, or the kernel's routing socket failed.
pub fn interface_networks(name: &str) -> Result<Vec<IpNet>, Error> {
    let index = find(name)?.index;
    let answers = dump("addresses", RouteNetlinkMessage::GetAddress(AddressMessage::default()))?;
    Ok(answers
        .into_iter()
        .filter_map(|answer| match answer {
            RouteNetlinkMessage::NewAddress(address) if address.header.index == index => network(&address),
            _ => None,
        })
        .filter(|network| !is_link_local(network.addr()))
        .collect())
}

/// The addresses of an interface, without link-local ones.
pub(crate) fn addresses_of(index: u32) -> Result<Vec<IpAddr>, Error> {
    let addresses = local_addresses()?.into_iter().filter(|local| local.interface == index);
    Ok(addresses.map(|local| local.address).filter(|address| !is_link_local(*address)).collect())
}

/// An address of this machine, in this network namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LocalAddress {
    /// The address.
    pub address: IpAddr,
    /// The index of the interface that has it.
    pub interface: u32,
}

/// Every address of every interface, in the order in which the kernel lists them.
///
/// # Errors
///
/// The kernel's routing socket failed.
pub fn local_addresses() -> Result<Vec<LocalAddress>, Error> {
    let answers = dump("addresses", RouteNetlinkMessage::GetAddress(AddressMessage::default()))?;
    let local = |answer| match answer {
        RouteNetlinkMessage::NewAddress(message) => {
            local_address(&message).map(|address| LocalAddress { address, interface: message.header.index })
        }
        _ => None,
    };
    Ok(answers.into_iter().filter_map(local).collect())
}

/// The next hops of every default route, of all routing tables.
///
/// # Errors
///
/// The kernel's routing socket failed.
pub fn default_gateways() -> Result<Vec<IpAddr>, Error> {
    let mut gateways = Vec::new();
    for family in [AddressFamily::Inet, AddressFamily::Inet6] {
        let mut question = RouteMessage::default();
        question.header.address_family = family;
        for answer in dump("routes", RouteNetlinkMessage::GetRoute(question))? {
            if let RouteNetlinkMessage::NewRoute(route) = answer
                && route.header.destination_prefix_length == 0
            {
                gateways.extend(next_hops(&route.attributes));
            }
        }
    }
    gateways.sort();
    gateways.dedup();
    Ok(gateways)
}

/// The interface of this name.
pub(crate) fn find(name: &str) -> Result<InterfaceInfo, Error> {
    let all = interfaces()?;
    match all.iter().find(|interface| interface.name == name) {
        Some(interface) => Ok(interface.clone()),
        None => Err(Error::NoSuchInterface {
            name: name.to_owned(),
            have: all.into_iter().map(|interface| interface.name).collect(),
        }),
    }
}

fn interface(link: LinkMessage) -> Option<InterfaceInfo> {
    let mut info = InterfaceInfo {
        name: String::new(),
        index: link.header.index,
        xdp: None,
        mac: [0; 6],
        mtu: 0,
        is_veth: false,
        is_bare: !matches!(link.header.link_layer_type, LinkLayerType::Ether | LinkLayerType::Loopback),
        is_vlan: false,
        link: None,
        link_namespace: None,
    };
    for attribute in link.attributes {
        match attribute {
            LinkAttribute::IfName(value) => info.name = value,
            LinkAttribute::Xdp(values) => info.xdp = program(&values),
            LinkAttribute::Address(value) => info.mac = value.try_into().unwrap_or_default(),
            LinkAttribute::Mtu(value) => info.mtu = value,
            LinkAttribute::Link(index) => info.link = Some(index),
            LinkAttribute::LinkNetNsId(id) => info.link_namespace = Some(id),
            LinkAttribute::LinkInfo(about) => {
                info.is_veth = about.contains(&LinkInfo::Kind(InfoKind::Veth));
                info.is_vlan = about.contains(&LinkInfo::Kind(InfoKind::Vlan));
            }
            _ => {}
        }
    }
    (!info.name.is_empty()).then_some(info)
}

/// The addresses of this machine, each with its network's prefix.
pub(crate) fn local_networks() -> Result<Vec<IpNet>, Error> {
    let answers = dump("addresses", RouteNetlinkMessage::GetAddress(AddressMessage::default()))?;
    let networks = answers.into_iter().filter_map(|answer| match answer {
        RouteNetlinkMessage::NewAddress(address) => own_address(&address),
        _ => None,
    });
    Ok(networks.collect())
}

/// Whether other interfaces are VLANs of this one.
pub(crate) fn has_vlans(index: u32) -> Result<bool, Error> {
    Ok(interfaces()?.iter().any(|interface| interface.is_vlan && interface.link == Some(index)))
}

/// Whether the interface takes the VLAN tags off what it receives, before an XDP program sees it.
pub(crate) fn hides_tags(name: &str) -> Result<bool, Error> {
    /// In `enum ethtool_flags` of the kernel's `ethtool.h`.
    const RX_VLAN: u32 = 1 << 8;
    let flags = system::ethtool_flags(name);
    Ok(flags.map_err(|source| Error::Netlink { what: "an interface's features", source })? & RX_VLAN != 0)
}

/// Whether what an XDP program in the driver sends back from an interface arrives. The other end of a veth pair takes it only while it
/// has an XDP program of its own; where that cannot be seen, it does not.
pub(crate) fn can_send_back(interface: &InterfaceInfo) -> Result<bool, Error> {
    if !interface.is_veth {
        return Ok(true);
    }
    let Some(peer) = interface.link else { return Ok(false) };
    let mut question = LinkMessage::default();
    question.header.index = peer;
    if let Some(namespace) = interface.link_namespace {
        let target = DefaultNla::new(IFLA_TARGET_NETNSID, namespace.to_ne_bytes().to_vec());
        question.attributes.push(LinkAttribute::Other(target));
    }
    // An error says that the other end is gone, or in a namespace that is not ours to look into.
    let answers = exchange(RouteNetlinkMessage::GetLink(question), NLM_F_REQUEST).unwrap_or_default();
    Ok(answers.into_iter().any(|answer| match answer {
        RouteNetlinkMessage::NewLink(link) => {
            self::interface(link).is_some_and(|info| info.xdp.is_some_and(|xdp| xdp.mode == Mode::Native))
        }
        _ => false,
    }))
}

/// In the kernel's `if_link.h`: the namespace that a question is about.
const IFLA_TARGET_NETNSID: u16 = 46;

fn program(attributes: &[LinkXdp]) -> Option<Xdp> {
    let mode = attributes.iter().find_map(|attribute| match attribute {
        LinkXdp::Attached(XdpAttached::Driver | XdpAttached::Hardware | XdpAttached::Multiple) => {
            Some(Mode::Native)
        }
        LinkXdp::Attached(XdpAttached::SocketBuffer) => Some(Mode::Generic),
        _ => None,
    })?;
    let program_id = attributes.iter().find_map(|attribute| match attribute {
        LinkXdp::ProgId(id) => Some(*id),
        _ => None,
    })?;
    Some(Xdp { program_id, mode })
}

fn network(message: &AddressMessage) -> Option<IpNet> {
    own_address(message).map(|network| network.trunc())
}

/// The address with its prefix.
fn own_address(message: &AddressMessage) -> Option<IpNet> {
    IpNet::new(local_address(message)?, message.header.prefix_len).ok()
}

fn local_address(message: &AddressMessage) -> Option<IpAddr> {
    // On a point-to-point link `Address` is the far end and `Local` ours.
    let local = message.attributes.iter().find_map(|attribute| match attribute {
        AddressAttribute::Local(address) => Some(*address),
        _ => None,
    });
    let any = message.attributes.iter().find_map(|attribute| match attribute {
        AddressAttribute::Address(address) => Some(*address),
        _ => None,
    });
    local.or(any)
}

const fn is_link_local(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => address.is_link_local(),
        IpAddr::V6(address) => address.is_unicast_link_local(),
    }
}

fn next_hops(attributes: &[RouteAttribute]) -> Vec<IpAddr> {
    attributes
        .iter()
        .flat_map(|attribute| match attribute {
            RouteAttribute::Gateway(RouteAddress::Inet(address)) => vec![IpAddr::V4(*address)],
            RouteAttribute::Gateway(RouteAddress::Inet6(address)) => vec![IpAddr::V6(*address)],
            RouteAttribute::Via(RouteVia::Inet(address)) => vec![IpAddr::V4(*address)],
            RouteAttribute::Via(RouteVia::Inet6(address)) => vec![IpAddr::V6(*address)],
            RouteAttribute::MultiPath(hops) => {
                hops.iter().flat_map(|hop| next_hops(&hop.attributes)).collect()
            }
            _ => Vec::new(),
        })
        .collect()
}

/// Asks for all of something, and collects the answers.
fn dump(what: &'static str, question: RouteNetlinkMessage) -> Result<Vec<RouteNetlinkMessage>, Error> {
    exchange(question, NLM_F_REQUEST | NLM_F_DUMP).map_err(|source| Error::Netlink { what, source })
}

/// Says something to the kernel with these flags, and collects what it says to that.
pub(crate) fn exchange(question: RouteNetlinkMessage, flags: u16) -> io::Result<Vec<RouteNetlinkMessage>> {
    let mut header = NetlinkHeader::default();
    header.flags = flags;
    let mut message = NetlinkMessage::new(header, NetlinkPayload::from(question));
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);

    let mut socket = Socket::new(NETLINK_ROUTE)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    socket.send(&bytes, 0)?;

    let mut answers = Vec::new();
    loop {
        let (datagram, _) = socket.recv_from_full()?;
        let mut rest = datagram.as_slice();
        while !rest.is_empty() {
            let message =
                NetlinkMessage::<RouteNetlinkMessage>::deserialize(rest).map_err(io::Error::other)?;
            // Messages are aligned to four bytes.
            let length = (message.header.length as usize).next_multiple_of(4).clamp(1, rest.len());
            rest = &rest[length..];
            match message.payload {
                NetlinkPayload::InnerMessage(answer) => answers.push(answer),
                NetlinkPayload::Done(_) => return Ok(answers),
                // Without a code it acknowledges.
                NetlinkPayload::Error(error) if error.code.is_none() => return Ok(answers),
                NetlinkPayload::Error(error) => return Err(error.to_io()),
                _ => {}
            }
        }
        // Only a dump says where it ends.
        if flags & NLM_F_DUMP != NLM_F_DUMP && !answers.is_empty() {
            return Ok(answers);
        }
    }
}
