//! A map from networks, searched by address.

use std::collections::HashMap;
use std::net::IpAddr;

use ipnet::IpNet;

/// Values by network. A search costs one look-up for each prefix length in use.
#[derive(Clone, Debug)]
pub(crate) struct PrefixMap<V> {
    entries: HashMap<IpNet, V>,
    /// Prefix lengths in use, longest first.
    lengths_v4: Vec<u8>,
    lengths_v6: Vec<u8>,
}

impl<V> PrefixMap<V> {
    /// Enters a value and returns the one that stood there.
    pub(crate) fn insert(&mut self, network: IpNet, value: V) -> Option<V> {
        self.note_length(network);
        self.entries.insert(network, value)
    }

    /// The value of exactly this network, a new one where there is none.
    pub(crate) fn entry(&mut self, network: IpNet) -> &mut V
    where
        V: Default,
    {
        self.note_length(network);
        self.entries.entry(network).or_default()
    }

    /// The longest prefix that holds the address.
    pub(crate) fn longest(&self, address: IpAddr) -> Option<(IpNet, &V)> {
        self.all(address).next()
    }

    /// Every prefix that holds the address, the longest first.
    pub(crate) fn all(&self, address: IpAddr) -> impl Iterator<Item = (IpNet, &V)> {
        let lengths = if address.is_ipv4() { &self.lengths_v4 } else { &self.lengths_v6 };
        lengths.iter().filter_map(move |&len| {
            let network = IpNet::new(address, len).ok()?.trunc();
            self.entries.get_key_value(&network).map(|(network, value)| (*network, value))
        })
    }

    /// Every entry, in no order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (IpNet, &V)> {
        self.entries.iter().map(|(network, value)| (*network, value))
    }

    fn note_length(&mut self, network: IpNet) {
        let len = network.prefix_len();
        let lengths = if network.addr().is_ipv4() { &mut self.lengths_v4 } else { &mut self.lengths_v6 };
        if let Err(place) = lengths.binary_search_by(|known| len.cmp(known)) {
            lengths.insert(place, len);
        }
    }
}

impl<V> Default for PrefixMap<V> {
    fn default() -> Self {
        Self { entries: HashMap::new(), lengths_v4: Vec::new(), lengths_v6: Vec::new() }
    }
}
