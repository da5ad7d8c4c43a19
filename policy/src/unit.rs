//! `[[unit]]`: whose traffic it is, for reports.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::prefix::PrefixMap;
use crate::problem::Place;
use crate::reading::{Reader, Table};
use crate::rule::At;
use crate::values::{Word, read_network};

/// What the record says of who a client is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Privacy {
    /// Its address.
    #[default]
    Full,
    /// Another address, always the same for it, which only the record's keeper can turn back.
    Pseudonym,
    /// Nothing.
    None,
}

impl Privacy {
    /// The words for it.
    pub const WORDS: &'static [(&'static str, Self)] =
        &[("full", Self::Full), ("pseudonym", Self::Pseudonym), ("none", Self::None)];

    /// Its word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::Pseudonym => "pseudonym",
            Self::None => "none",
        }
    }
}

/// A part of the organisation, known by its networks.
#[derive(Clone, Debug)]
pub struct Unit {
    /// Its name in reports and events: a lower-case word of at most 32 bytes.
    pub id: String,
    /// Where it is written.
    pub place: Place,
    /// What people call it.
    pub title: String,
    /// Its networks. Those of two units may lie inside each other; none stands in both.
    pub networks: Vec<At<IpNet>>,
    /// What the record says of who its clients are.
    pub privacy: Privacy,
}

/// Reads one `[[unit]]`.
pub(crate) fn read(r: &mut Reader<'_>, mut table: Table<'_, '_>) -> Option<Unit> {
    let place = table.place(r);
    let id = table.parsed::<Word>(r, "id", "such as \"hq\"");
    let title = table.required_text(r, "title");
    let networks = table.list(r, "networks", read_network);
    if !table.has("networks") {
        table.missing(r, "networks", "add networks = [\"10.1.0.0/16\"]");
    }
    let privacy = table.word(r, "privacy", Privacy::WORDS).unwrap_or_default();
    table.finish(r);
    Some(Unit { id: id?.value.0, place, title: title?.value.to_owned(), networks, privacy })
}

/// Every unit, found by a client's address.
#[derive(Clone, Debug, Default)]
pub(crate) struct Units {
    pub(crate) list: Vec<Unit>,
    by_network: PrefixMap<u32>,
}

impl Units {
    /// Builds the table. `twin` is told of every network that stands in two units: (its place, the other unit).
    pub(crate) fn new(list: Vec<Unit>, mut twin: impl FnMut(&At<IpNet>, &Unit)) -> Self {
        let mut by_network = PrefixMap::default();
        for (i, unit) in list.iter().enumerate() {
            for network in &unit.networks {
                let other = by_network.insert(network.value, i as u32);
                if let Some(other) = other.filter(|other| *other != i as u32) {
                    twin(network, &list[other as usize]);
                }
            }
        }
        Self { list, by_network }
    }

    /// The unit with the longest prefix that holds the address. An IPv4 client in IPv6 spelling is an IPv4 client.
    pub(crate) fn find(&self, client: IpAddr) -> Option<&Unit> {
        let (_, unit) = self.by_network.longest(client.to_canonical())?;
        Some(&self.list[*unit as usize])
    }
}
