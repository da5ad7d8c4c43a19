//! What the programs need to answer DNS questions, besides the policy: whose, on which interfaces, how often; which
//! addresses are ours; and the sockets that take what only the agent can judge.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv4Addr},
    os::fd::AsRawFd,
    sync::Arc,
};

use aya::maps::{Array, HashMap as BpfHashMap, LpmTrie, MapData, SockMap, lpm_trie::Key};
use interdict_ebpf_shared::{
    Address, control,
    limits::{MAX_CLIENTS, MAX_INTERFACES, MAX_OURS},
    maps,
    query::{BROADCAST, DivertSocket, Interface as InterfaceEntry, OTHERS, OURS},
};
use ipnet::IpNet;

use crate::{
    Error, Mode,
    control::Control,
    network::{self, InterfaceInfo},
    options::{Answering, InKernel},
    staging::{address as key, named, words},
};

/// The kernel's tables.
pub(crate) struct Maps {
    pub(crate) clients: LpmTrie<MapData, [u32; 4], u32>,
    pub(crate) ours: BpfHashMap<MapData, Address, u32>,
    pub(crate) interfaces: Array<MapData, InterfaceEntry>,
    pub(crate) divert: SockMap<MapData>,
}

/// The sockets that take what is diverted: bound, transparent, and one for each kind.
#[derive(Clone, Copy)]
pub struct DivertSockets<'s> {
    /// UDP over IPv4.
    pub udp4: &'s dyn AsRawFd,
    /// UDP over IPv6.
    pub udp6: &'s dyn AsRawFd,
    /// TCP over IPv4, listening.
    pub tcp4: &'s dyn AsRawFd,
    /// TCP over IPv6, listening.
    pub tcp6: &'s dyn AsRawFd,
}

/// How an interface takes part in answering.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answers {
    /// Questions are answered in the kernel.
    InKernel,
    /// They go up to the agent, for this reason.
    HandedUp(&'static str),
}

/// Keeps the tables as they should be.
pub(crate) struct Resolver {
    maps: Maps,
    control: Arc<Control>,
    answering: Answering,
    /// What stands in the kernel's table of our addresses.
    ours: HashMap<Address, u32>,
    /// What stands in the kernel's table of interfaces.
    interfaces: HashMap<u32, InterfaceEntry>,
}

impl Resolver {
    /// Tells the programs whom to answer, and has them begin.
    pub(crate) fn start(maps: Maps, control: Arc<Control>, answering: Answering) -> Result<Self, Error> {
        let mut resolver =
            Self { maps, control, answering, ours: HashMap::new(), interfaces: HashMap::new() };
        resolver.add_clients()?;
        resolver.control.set_count(control::CLIENT_QPS, u64::from(resolver.answering.client_qps));
        Ok(resolver)
    }

    /// Has the programs judge questions from now on.
    pub(crate) fn begin(&self) {
        self.control.set_count(control::JUDGE_QUERIES, 1);
    }

    fn add_clients(&mut self) -> Result<(), Error> {
        let clients = &self.answering.clients;
        if clients.len() > MAX_CLIENTS as usize {
            let (what, count) = ("networks of clients", clients.len());
            return Err(Error::TooMany { what, count, limit: MAX_CLIENTS });
        }
        for network in clients {
            let (address, before) = match network.network() {
                IpAddr::V4(address) => (address.to_ipv6_mapped(), 96),
                IpAddr::V6(address) => (address, 0),
            };
            let key = Key::new(before + u32::from(network.prefix_len()), words(address.octets()));
            self.maps.clients.insert(&key, 1, 0).map_err(named(maps::CLIENTS))?;
        }
        Ok(())
    }

    /// Follows what the kernel says of this machine's addresses and of the interfaces on which questions are answered.
    pub(crate) fn follow(
        &mut self,
        lan: &[InterfaceInfo],
        mode: Mode,
    ) -> Result<Vec<(String, Answers)>, Error> {
        self.follow_addresses()?;
        let mut told = Vec::new();
        let mut wanted = HashMap::new();
        for interface in lan {
            let answers = self.answers(interface, mode)?;
            let answering = match answers {
                Answers::InKernel => InterfaceEntry::ANSWERS,
                Answers::HandedUp(TAGS_HIDDEN) => InterfaceEntry::HIDES_TAGS,
                Answers::HandedUp(_) => 0,
            };
            if answering != 0 {
                wanted.insert(interface.index, InterfaceEntry::new(interface.mac, answering));
            }
            told.push((interface.name.clone(), answers));
        }
        // The self-test and benchmarks run the programs on the loopback interface, whose address is all zero.
        wanted.entry(LOOPBACK).or_insert(InterfaceEntry::new([0; 6], InterfaceEntry::ANSWERS));
        for (&index, entry) in
            wanted.iter().filter(|(index, entry)| self.interfaces.get(index) != Some(entry))
        {
            self.maps.interfaces.set(index, entry, 0).map_err(named(maps::INTERFACES))?;
        }
        for &index in self.interfaces.keys().filter(|index| !wanted.contains_key(index)) {
            let nothing = InterfaceEntry::default();
            self.maps.interfaces.set(index, nothing, 0).map_err(named(maps::INTERFACES))?;
        }
        self.interfaces = wanted;
        Ok(told)
    }

    /// Whether questions on an interface are answered in the kernel.
    fn answers(&self, interface: &InterfaceInfo, mode: Mode) -> Result<Answers, Error> {
        Ok(match self.answering.in_kernel {
            InKernel::Never => Answers::HandedUp("the configuration says so"),
            _ if interface.index >= MAX_INTERFACES => Answers::HandedUp("its index is too high"),
            InKernel::Always => Answers::InKernel,
            InKernel::Auto
                if network::has_vlans(interface.index)? && network::hides_tags(&interface.name)? =>
            {
                Answers::HandedUp(TAGS_HIDDEN)
            }
            InKernel::Auto if mode == Mode::Native && !network::can_send_back(interface)? => {
                Answers::HandedUp(
                    "it is one end of a veth pair whose other end has no XDP program, or is out of sight: the kernel \
                 would throw the answers away",
                )
            }
            InKernel::Auto => Answers::InKernel,
        })
    }

    /// Whether we listen on port 53 of an address of this machine.
    fn serves(&self, address: IpAddr) -> bool {
        let is_it = |listen: &IpAddr| {
            *listen == address || listen.is_unspecified() && listen.is_ipv4() == address.is_ipv4()
        };
        self.answering.listen.iter().any(is_it)
    }

    fn follow_addresses(&mut self) -> Result<(), Error> {
        let mut wanted: HashMap<Address, u32> = HashMap::new();
        for network in network::local_networks()? {
            if let IpNet::V4(network) = network
                && network.prefix_len() < 31
            {
                wanted.insert(key(network.broadcast().into()), BROADCAST);
            }
            let kind = if self.serves(network.addr()) { OURS } else { OTHERS };
            wanted.insert(key(network.addr()), kind);
        }
        let listeners = self.answering.listen.iter().filter(|address| !address.is_unspecified());
        wanted.extend(listeners.map(|&address| (key(address), OURS)));
        wanted.insert(key(Ipv4Addr::BROADCAST.into()), BROADCAST);
        if wanted.len() > MAX_OURS as usize {
            let (what, count) = ("addresses of this machine", wanted.len());
            return Err(Error::TooMany { what, count, limit: MAX_OURS });
        }
        // An address has its bit for as long as it is in the table.
        self.control.set_ours(bits_of(wanted.keys().chain(self.ours.keys())));
        for (address, kind) in wanted.iter().filter(|(address, kind)| self.ours.get(address) != Some(kind)) {
            self.maps.ours.insert(address, kind, 0).map_err(named(maps::OURS))?;
        }
        for address in self.ours.keys().filter(|address| !wanted.contains_key(address)) {
            let _ = self.maps.ours.remove(address);
        }
        self.control.set_ours(bits_of(wanted.keys()));
        self.ours = wanted;
        Ok(())
    }

    /// Gives the programs the sockets that take what is diverted.
    pub(crate) fn divert_to(&mut self, sockets: DivertSockets<'_>) -> Result<(), Error> {
        for (place, socket) in [
            (DivertSocket::Udp4, sockets.udp4),
            (DivertSocket::Udp6, sockets.udp6),
            (DivertSocket::Tcp4, sockets.tcp4),
            (DivertSocket::Tcp6, sockets.tcp6),
        ] {
            self.maps.divert.set(place as u32, &Fd(socket.as_raw_fd()), 0).map_err(named(maps::DIVERT))?;
        }
        Ok(())
    }
}

/// Why questions are not answered where the card takes VLAN tags off.
const TAGS_HIDDEN: &str = "it carries VLANs and its card takes the tags away, so that an answer would leave without; \
                           `ethtool -K NAME rxvlan off` mends that";

/// The bits of addresses, as the programs look at them.
fn bits_of<'a>(addresses: impl Iterator<Item = &'a Address>) -> [u64; control::OURS_WORDS as usize] {
    let mut bits = [0; control::OURS_WORDS as usize];
    for &address in addresses {
        let (word, bit) = control::ours_bit(address);
        bits[word as usize] |= bit;
    }
    bits
}

/// The index of the loopback interface of every network namespace.
const LOOPBACK: u32 = 1;

struct Fd(std::os::fd::RawFd);

impl AsRawFd for Fd {
    fn as_raw_fd(&self) -> std::os::fd::RawFd {
        self.0
    }
}
