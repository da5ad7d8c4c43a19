//! What a list says, name by name, before it becomes rules.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt::Write;
use std::net::IpAddr;

use ipnet::IpNet;

use super::{Imported, LINE_LIMIT_BYTES, List, problem};
use crate::name::DomainName;
use crate::print::{HEAD, quoted, write_answer};
use crate::problem::Problems;
use crate::rule::Answer;

/// What a list says of a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Says {
    /// Let it through.
    Open,
    /// Answer it with this, for so many seconds where the list says how many.
    Block(Answer, Option<u32>),
}

/// Which names a line means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Extent {
    /// The one name.
    At,
    /// All names below it.
    Below,
    /// Both.
    Domain,
}

/// Everything that a list says.
pub(super) struct Draft {
    file: String,
    at: BTreeMap<DomainName, Says>,
    below: BTreeMap<DomainName, Says>,
    networks: BTreeSet<IpNet>,
    skipped: usize,
    left_out: Problems,
}

/// The names of one rule.
#[derive(Default)]
struct Group {
    hosts: Vec<DomainName>,
    domains: Vec<DomainName>,
}

impl Draft {
    pub(super) fn new(file: &str) -> Self {
        Self {
            file: file.to_owned(),
            at: BTreeMap::new(),
            below: BTreeMap::new(),
            networks: BTreeSet::new(),
            skipped: 0,
            left_out: Problems::default(),
        }
    }

    /// A line that no rule can say.
    pub(super) fn leave_out(&mut self, line: u32, message: impl Into<String>, help: &str) {
        self.left_out.push(problem(&self.file, line, message.into(), help));
    }

    pub(super) fn too_long(&mut self, line: u32, bytes: usize) {
        let message = format!("the line is {bytes} bytes long");
        self.leave_out(line, message, &format!("at most {LINE_LIMIT_BYTES}"));
    }

    /// A line that bans nothing and need not.
    pub(super) fn skip(&mut self) {
        self.skipped += 1;
    }

    pub(super) fn network(&mut self, network: IpNet) {
        self.networks.insert(network);
    }

    /// Enters what a line says. The first line for a name stands; another that says something else is left out.
    pub(super) fn name(&mut self, line: u32, name: &DomainName, extent: Extent, says: Says) {
        let mut differs = false;
        if extent != Extent::Below {
            differs |= *self.at.entry(name.clone()).or_insert(says) != says;
        }
        if extent != Extent::At {
            differs |= *self.below.entry(name.clone()).or_insert(says) != says;
        }
        if differs {
            self.contradicts(line, name);
        }
    }

    fn contradicts(&mut self, line: u32, name: &DomainName) {
        self.leave_out(line, format!("{name} stands above already and says otherwise"), "keep one of them");
    }

    /// Enters an address that a name is answered with: one of each family at most.
    pub(super) fn address(
        &mut self,
        line: u32,
        name: &DomainName,
        extent: Extent,
        address: IpAddr,
        ttl: Option<u32>,
    ) {
        let slot = if extent == Extent::Below { &mut self.below } else { &mut self.at };
        let none = Says::Block(Answer::Addresses { a: None, aaaa: None }, ttl);
        let Says::Block(Answer::Addresses { a, aaaa }, _) = slot.entry(name.clone()).or_insert(none) else {
            return self.contradicts(line, name);
        };
        let second = match address {
            IpAddr::V4(v4) => a.replace(v4).filter(|old| *old != v4).map(|old| a.insert(old).to_string()),
            IpAddr::V6(v6) => {
                aaaa.replace(v6).filter(|old| *old != v6).map(|old| aaaa.insert(old).to_string())
            }
        };
        if let Some(first) = second {
            let message = format!("{name} has {first} already; an answer has one address of each family");
            self.leave_out(line, message, "keep one of them");
        }
    }

    /// The policy file.
    pub(super) fn finish(mut self, list: List<'_>) -> Imported {
        self.left_out.sort_by_place(std::slice::from_ref(&self.file));
        let groups = self.groups();
        let names = groups.iter().map(|(_, group)| group.hosts.len() + group.domains.len()).sum();
        let mut text = String::new();
        let mut ids: HashMap<&str, usize> = HashMap::new();
        for (says, group) in &groups {
            let word = word(*says);
            let nth = ids.entry(word).and_modify(|n| *n += 1).or_insert(1);
            let id = if *nth == 1 { word.to_owned() } else { format!("{word}-{nth}") };
            write_group(&mut text, list, &id, *says, group);
        }
        if !self.networks.is_empty() {
            head(&mut text, list, "networks", "block");
            values(&mut text, "networks", &self.networks);
        }
        if !text.is_empty() {
            let file = list.name.escape_debug();
            text = format!("# Imported from {file}: what its lines say, and no reason for it.\n{HEAD}{text}");
        }
        Imported {
            text,
            names,
            networks: self.networks.len(),
            skipped: self.skipped,
            left_out: self.left_out,
        }
    }

    /// Names that are told the same, in the order in which they first come up.
    fn groups(&self) -> Vec<(Says, Group)> {
        let mut places: HashMap<Says, usize> = HashMap::new();
        let mut groups: Vec<(Says, Group)> = Vec::new();
        let mut group = |says: Says| {
            let place = *places.entry(says).or_insert(groups.len());
            if place == groups.len() {
                groups.push((says, Group::default()));
            }
            place
        };
        let mut hosts = Vec::new();
        let mut domains = Vec::new();
        for (name, says) in &self.below {
            domains.push((group(*says), name));
            if !self.at.contains_key(name) {
                // A domain speaks for its own name, which the list leaves to the next wildcard, or to nobody.
                let own = self.around(name).unwrap_or(Says::Open);
                if own != *says {
                    hosts.push((group(own), name));
                }
            }
        }
        for (name, says) in &self.at {
            if self.below.get(name) != Some(says) {
                hosts.push((group(*says), name));
            }
        }
        for (place, name) in domains {
            groups[place].1.domains.push(name.clone());
        }
        for (place, name) in hosts {
            groups[place].1.hosts.push(name.clone());
        }
        groups
    }

    /// What the nearest name above says of all below it.
    fn around(&self, name: &DomainName) -> Option<Says> {
        name.as_name().suffixes().skip(1).find_map(|parent| self.below.get(&parent.to_owned())).copied()
    }
}

const STRING: &str = "writing to a String does not fail";

fn word(says: Says) -> &'static str {
    match says {
        Says::Open => "allow",
        Says::Block(Answer::NxDomain, _) => "nxdomain",
        Says::Block(Answer::NoData, _) => "nodata",
        Says::Block(Answer::Refused, _) => "refused",
        Says::Block(Answer::Drop, _) => "drop",
        Says::Block(Answer::NULL, _) => "null",
        Says::Block(Answer::Addresses { .. }, _) => "sinkhole",
    }
}

fn write_group(text: &mut String, list: List<'_>, id: &str, says: Says, group: &Group) {
    match says {
        Says::Open => head(text, list, id, "allow"),
        Says::Block(answer, ttl_secs) => {
            head(text, list, id, "block");
            write_answer(text, answer);
            if let Some(ttl_secs) = ttl_secs {
                writeln!(text, "ttl_secs = {ttl_secs}").expect(STRING);
            }
        }
    }
    values(text, "hosts", &group.hosts);
    values(text, "domains", &group.domains);
}

fn head(text: &mut String, list: List<'_>, id: &str, action: &str) {
    let source = quoted(&format!("imported from {}", list.name));
    writeln!(
        text,
        "\n[[rule]]\nid = \"{}-{id}\"\nrole = \"{}\"\naction = \"{action}\"\nsource = {source}",
        list.prefix, list.role
    )
    .expect(STRING);
}

fn values<T: ToString>(text: &mut String, key: &str, values: impl IntoIterator<Item = T>) {
    let mut values = values.into_iter().peekable();
    if values.peek().is_none() {
        return;
    }
    writeln!(text, "{key} = [").expect(STRING);
    for value in values {
        writeln!(text, "    {},", quoted(&value.to_string())).expect(STRING);
    }
    text.push_str("]\n");
}
