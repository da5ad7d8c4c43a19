//! Where DNS is answered: the addresses named, and for a wildcard every address that the machine has, as they come and
//! go.
//!
//! A socket on a wildcard would answer from the address that the routing table prefers, and clients drop answers that
//! come from another address than they asked. So each address has a socket of its own.

use std::collections::{HashMap, HashSet};
use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr, SocketAddrV6};
use std::sync::{Arc, PoisonError, RwLock};

use anyhow::bail;
use interdict_dns_filter::{
    Connections, Counters, FilterHandler, ListenError, Listeners, Next, Serving, udp_sockets,
};
use interdict_ebpf_loader::{LocalAddress, local_addresses};

/// The addresses that were named.
#[derive(Clone, Debug)]
pub(crate) struct Listen {
    named: Vec<SocketAddr>,
    /// `None` for as many as fit the machine.
    udp_sockets: Option<usize>,
}

impl Listen {
    /// # Errors
    /// A wildcard without a port: the system would choose another for each address.
    pub(crate) fn new(named: Vec<SocketAddr>, udp_sockets: Option<usize>) -> anyhow::Result<Self> {
        if let Some(wildcard) = named.iter().find(|named| named.ip().is_unspecified() && named.port() == 0) {
            bail!("cannot listen on {wildcard}: name a port for every address, such as {}:53", wildcard.ip());
        }
        Ok(Self { named, udp_sockets })
    }

    /// Whether it depends on the addresses that the machine has.
    pub(crate) fn has_wildcard(&self) -> bool {
        self.named.iter().any(|named| named.ip().is_unspecified())
    }

    /// Where to listen now.
    ///
    /// # Errors
    /// When the kernel does not tell the machine's addresses.
    pub(crate) fn now(&self) -> anyhow::Result<Vec<SocketAddr>> {
        let machine = if self.has_wildcard() { local_addresses()? } else { Vec::new() };
        Ok(self.with(&machine))
    }

    /// Where to listen on a machine with these addresses.
    fn with(&self, machine: &[LocalAddress]) -> Vec<SocketAddr> {
        let mut addresses: Vec<SocketAddr> = Vec::new();
        for named in &self.named {
            let fitting = machine.iter().filter(|ours| ours.address.is_ipv4() == named.is_ipv4());
            match named.ip().is_unspecified() {
                true => addresses.extend(fitting.map(|ours| at_port(ours, named.port()))),
                false => addresses.push(*named),
            }
        }
        let mut known = HashSet::new();
        addresses.retain(|address| known.insert(*address));
        addresses
    }

    /// Binds every address, but for those that a wildcard stands for and that cannot be used yet, as IPv6 addresses
    /// cannot while the kernel makes sure that nobody else has them.
    ///
    /// # Errors
    /// The first address that cannot be listened on.
    pub(crate) fn bind(&self, addresses: &[SocketAddr]) -> Result<Vec<Bound>, ListenError> {
        self.bind_among(addresses, addresses.len())
    }

    /// The same, where so many addresses are listened on in all.
    fn bind_among(&self, addresses: &[SocketAddr], all: usize) -> Result<Vec<Bound>, ListenError> {
        let mut bound = Vec::new();
        for &wanted in addresses {
            match Listeners::bind(&[wanted], self.udp_sockets.unwrap_or_else(|| udp_sockets(all))) {
                Ok(listeners) => bound.push(Bound { wanted, listeners }),
                Err(error) if error.kind == ErrorKind::AddrNotAvailable && !self.named.contains(&wanted) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(bound)
    }
}

/// Link-local addresses are those of one interface.
fn at_port(ours: &LocalAddress, port: u16) -> SocketAddr {
    match ours.address {
        IpAddr::V6(ip) if ip.is_unicast_link_local() => SocketAddrV6::new(ip, port, 0, ours.interface).into(),
        address => SocketAddr::new(address, port),
    }
}

/// Sockets for an address.
pub(crate) struct Bound {
    /// As it was asked for: with port 0 the system has chosen another.
    wanted: SocketAddr,
    listeners: Listeners,
}

/// Serves DNS on the addresses that are there.
pub(crate) struct Service<N> {
    listen: Listen,
    /// Where no listener may be, since questions would go round in a circle.
    upstreams: Vec<SocketAddr>,
    handler: Arc<FilterHandler<N>>,
    connections: Connections,
    counters: Arc<Counters>,
    /// By the address that was asked for.
    serving: HashMap<SocketAddr, Served>,
    addresses: Addresses,
    /// Addresses for which it was told that they cannot be served.
    told: HashSet<SocketAddr>,
}

/// Where DNS is answered at the moment, for others to read.
#[derive(Clone, Default)]
pub(crate) struct Addresses(Arc<RwLock<Vec<SocketAddr>>>);

impl Addresses {
    /// In order.
    pub(crate) fn list(&self) -> Vec<SocketAddr> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set(&self, mut addresses: Vec<SocketAddr>) {
        addresses.sort();
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = addresses;
    }
}

/// What serves one address.
struct Served {
    addresses: Vec<SocketAddr>,
    /// They end when it is dropped.
    _serving: Serving,
}

impl<N: Next> Service<N> {
    pub(crate) fn new(
        listen: Listen,
        upstreams: Vec<SocketAddr>,
        handler: Arc<FilterHandler<N>>,
        connections: Connections,
        counters: Arc<Counters>,
    ) -> Self {
        let (serving, addresses, told) = Default::default();
        Self { listen, upstreams, handler, connections, counters, serving, addresses, told }
    }

    pub(crate) fn addresses(&self) -> Addresses {
        self.addresses.clone()
    }

    pub(crate) fn serve(&mut self, Bound { wanted, listeners }: Bound) {
        let addresses = listeners.addresses();
        let serving = listeners.serve(&self.handler, &self.connections, &self.counters);
        self.serving.insert(wanted, Served { addresses, _serving: serving });
        self.tell_addresses();
    }

    fn tell_addresses(&self) {
        self.addresses.set(self.serving.values().flat_map(|served| &served.addresses).copied().collect());
    }

    /// Serves addresses that came, and ends on those that went. Returns whether there were any.
    pub(crate) fn follow(&mut self) -> bool {
        let mut wanted = match self.listen.now() {
            Ok(wanted) => wanted,
            Err(error) => {
                tracing::debug!("the machine's addresses are unknown: {error:#}");
                return false;
            }
        };
        wanted.retain(|address| !self.upstreams.contains(address));
        let gone: Vec<SocketAddr> =
            self.serving.keys().filter(|served| !wanted.contains(served)).copied().collect();
        for address in &gone {
            tracing::info!(%address, "an address is gone, and with it its listener");
            self.serving.remove(address);
        }
        self.tell_addresses();
        self.told.retain(|address| wanted.contains(address));
        wanted.retain(|address| !self.serving.contains_key(address));
        let mut changed = !gone.is_empty();
        for address in wanted {
            match self.listen.bind_among(&[address], self.serving.len() + 1) {
                Ok(bound) => {
                    for bound in bound {
                        tracing::info!(%address, "DNS is answered there too");
                        self.serve(bound);
                        changed = true;
                    }
                }
                Err(error) if self.told.insert(address) => tracing::warn!("{error}"),
                Err(_) => {}
            }
        }
        changed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wildcard_is_every_address_of_its_family() {
        let machine = ["127.0.0.1", "10.0.0.1", "::1", "fe80::1", "2001:db8::1"]
            .map(|ip| LocalAddress { address: ip.parse().unwrap(), interface: 7 });
        let (all4, all6) = ("127.0.0.1:5 10.0.0.1:5", "[::1]:5 [fe80::1%7]:5 [2001:db8::1]:5");
        for (named, expect) in [
            ("127.0.0.1:5", "127.0.0.1:5".to_owned()),
            ("127.0.0.1:0 [::1]:0", "127.0.0.1:0 [::1]:0".to_owned()),
            ("192.0.2.1:5", "192.0.2.1:5".to_owned()),
            ("0.0.0.0:5", all4.to_owned()),
            ("[::]:5", all6.to_owned()),
            ("0.0.0.0:5 [::]:5", format!("{all4} {all6}")),
            ("10.0.0.1:5 0.0.0.0:5", "10.0.0.1:5 127.0.0.1:5".to_owned()),
            ("10.0.0.1:6 0.0.0.0:5", format!("10.0.0.1:6 {all4}")),
        ] {
            let named_addresses = named.split(' ').map(|named| named.parse().unwrap()).collect();
            let listen = Listen::new(named_addresses, None).unwrap();
            let addresses: Vec<String> = listen.with(&machine).iter().map(ToString::to_string).collect();
            assert_eq!(addresses.join(" "), expect, "{named}");
        }
        assert!(Listen::new(vec!["0.0.0.0:0".parse().unwrap()], None).is_err());
    }
}
