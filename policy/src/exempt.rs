//! `[[exempt]]`: the register of exceptions. One line for each, owned and expiring.

use std::net::IpAddr;

use ipnet::IpNet;
use jiff::Timestamp;

use crate::prefix::PrefixMap;
use crate::problem::Place;
use crate::reading::{Reader, Table};
use crate::rule::{At, RuleId, RuleIndex};
use crate::values::read_network;

/// The widest IPv4 network of clients that one exemption may name. A wider one would be a blanket exception.
const WIDEST_V4: u8 = 24;
/// As [`WIDEST_V4`] for IPv6: one link's network.
const WIDEST_V6: u8 = 64;
/// How many networks of clients one exemption may name, so that a long list is no blanket exception either.
const CLIENTS_LIMIT: usize = 256;

/// Clients that some rules do not stop, for a reason, until a day.
#[derive(Clone, Debug)]
pub struct Exemption {
    /// Its name in the register, in events and in reports: a lower-case word of at most 64 bytes.
    pub id: RuleId,
    /// Where it is written.
    pub place: Place,
    /// Whom it is for; none wider than an IPv4 /24 or an IPv6 /64.
    pub clients: Vec<At<IpNet>>,
    /// The rules that do not stop them.
    pub rules: Vec<At<RuleId>>,
    /// Why.
    pub reason: String,
    /// Who said so.
    pub approved_by: String,
    /// The first moment at which it no longer stands. A day in the file means the whole day: the exemption
    /// ends at 00:00 UTC of the next.
    pub expires: Timestamp,
}

impl Exemption {
    /// Whether it still stands at a moment.
    pub fn stands(&self, at: Timestamp) -> bool {
        at < self.expires
    }
}

/// Reads one `[[exempt]]`.
pub(crate) fn read(r: &mut Reader<'_>, mut table: Table<'_, '_>) -> Option<Exemption> {
    let place = table.place(r);
    let id = table.parsed::<RuleId>(r, "id", "such as \"malware-lab\"");
    let clients = table.list(r, "clients", read_clients);
    if !table.has("clients") {
        table.missing(r, "clients", "add clients = [\"10.9.8.0/28\"]");
    }
    if clients.len() > CLIENTS_LIMIT {
        let message = format!("the exemption names {} networks of clients", clients.len());
        table.wrong(r, "clients", message, &format!("at most {CLIENTS_LIMIT}: an exception is for few"));
    }
    let rules = table.list(r, "rules", |id| id.parse::<RuleId>().map_err(|e| (e, "the id of a rule".into())));
    if !table.has("rules") {
        table.missing(r, "rules", "add rules = [\"…\"], the ids of the rules that do not apply");
    }
    let reason = table.required_text(r, "reason");
    let approved_by = table.required_text(r, "approved_by");
    if !table.has("expires") {
        table.missing(r, "expires", "add the last day on which it stands, such as expires = 2027-03-31");
    }
    let expires = table.end_of(r, "expires");
    table.finish(r);
    Some(Exemption {
        id: id?.value,
        place,
        clients,
        rules,
        reason: reason?.value.to_owned(),
        approved_by: approved_by?.value.to_owned(),
        expires: expires?,
    })
}

fn read_clients(text: &str) -> Result<IpNet, (String, String)> {
    let network = read_network(text)?;
    let (family, widest) = if network.addr().is_ipv4() { ("IPv4", WIDEST_V4) } else { ("IPv6", WIDEST_V6) };
    if network.prefix_len() < widest {
        let help =
            format!("name the clients: at most an {family} /{widest} a line, since no exception is blanket");
        return Err((format!("{network} is too wide for an exemption"), help));
    }
    Ok(network)
}

/// Every exemption, found by client and rule.
#[derive(Clone, Debug, Default)]
pub(crate) struct Exemptions {
    pub(crate) list: Vec<Exemption>,
    /// The exemptions of a network of clients with the rules they name, the one that ends last first.
    by_client: PrefixMap<Vec<(u32, RuleIndex)>>,
}

impl Exemptions {
    /// Builds the table; `index_of` finds the rules.
    pub(crate) fn new(list: Vec<Exemption>, index_of: impl Fn(&RuleId) -> Option<RuleIndex>) -> Self {
        let mut order: Vec<usize> = (0..list.len()).collect();
        order.sort_by(|&a, &b| list[b].expires.cmp(&list[a].expires).then(list[a].id.cmp(&list[b].id)));
        let mut by_client: PrefixMap<Vec<(u32, RuleIndex)>> = PrefixMap::default();
        for i in order {
            let rules: Vec<RuleIndex> =
                list[i].rules.iter().filter_map(|rule| index_of(&rule.value)).collect();
            for client in &list[i].clients {
                by_client.entry(client.value).extend(rules.iter().map(|rule| (i as u32, *rule)));
            }
        }
        Self { list, by_client }
    }

    /// The exemption that lets this client through this rule at this moment: the longest prefix of clients; on
    /// one prefix the one that ends last, then the first by id.
    pub(crate) fn find(&self, client: IpAddr, rule: RuleIndex, at: Timestamp) -> Option<&Exemption> {
        self.by_client
            .all(client.to_canonical())
            .flat_map(|(_, entries)| entries)
            .filter(|(_, of)| *of == rule)
            .map(|(i, _)| &self.list[*i as usize])
            .find(|exemption| exemption.stands(at))
    }
}
