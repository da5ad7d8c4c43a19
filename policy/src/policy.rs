//! The compiled policy: what it can be asked.

use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;
use jiff::Timestamp;

use crate::document::{Ban, Instrument};
use crate::egress::{EgressDns, EgressRules};
use crate::exempt::{Exemption, Exemptions};
use crate::name::Name;
use crate::names::{Found, NameForm, NameTable, Suffix};
use crate::networks::{NetworkTable, NetworkVerdicts};
use crate::print::{CanonicalFile, Digest};
use crate::problem::Place;
use crate::profile::Profile;
use crate::rule::{Action, At, Rule, RuleIndex, Service, Verdict};
use crate::spelling::ipv4_inside;
use crate::unit::{Unit, Units};

/// What is banned, and by which rules: immutable, and one digest over all of it.
#[derive(Clone)]
pub struct Policy {
    pub(crate) rules: Vec<Rule>,
    pub(crate) names: NameTable,
    pub(crate) networks: NetworkTable,
    pub(crate) units: Units,
    pub(crate) exemptions: Exemptions,
    pub(crate) instruments: Vec<Instrument>,
    pub(crate) bans: Vec<Ban>,
    pub(crate) profiles: Vec<Profile>,
    pub(crate) profile: Option<String>,
    pub(crate) egress_dns: EgressDns,
    pub(crate) egress_rules: EgressRules,
    pub(crate) canonical: Vec<CanonicalFile>,
    pub(crate) digest: Digest,
    pub(crate) files: Vec<String>,
}

/// What was decided for a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NameMatch {
    /// The rule that decided.
    pub rule: RuleIndex,
    /// Which of its lists the name was in.
    pub form: NameForm,
    /// How many labels of the name stand left of the value's fixed part: none for a host and for a domain itself.
    pub labels_left: u8,
    /// Where in that list the value stands.
    position: u32,
}

impl From<Found> for NameMatch {
    fn from(found: Found) -> Self {
        let Found { rule, form, position, labels_left } = found;
        Self { rule, form, labels_left, position }
    }
}

impl NameMatch {
    /// The part of the name that the rule fixes: all of it for a host, the domain, what stands right of the last label
    /// with `*`, or what a pattern stands under.
    pub fn fixed<'n>(&self, name: Name<'n>) -> Name<'n> {
        name.suffixes().nth(usize::from(self.labels_left)).unwrap_or(name)
    }
}

/// What was decided for an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AddressMatch {
    /// The rule that decided.
    pub rule: RuleIndex,
    /// The longest prefix that holds the address. The rule may come from a shorter one around it, where none
    /// of this prefix's services matched.
    pub network: IpNet,
}

/// What a rule means for one client at one moment.
#[derive(Clone, Copy, Debug)]
pub struct Judgement<'p> {
    /// What is done.
    pub verdict: Verdict,
    /// The line of the register that lets this client through, where the verdict is [`Verdict::Exempt`].
    pub exemption: Option<&'p Exemption>,
}

/// Whether a network holds an address, as it is written or as the IPv4 address that it is another spelling of.
fn holds(network: &IpNet, address: IpAddr) -> bool {
    network.contains(&address)
        || ipv4_inside(address).is_some_and(|inside| network.contains(&IpAddr::V4(inside)))
}

impl Policy {
    /// SHA-256 over the canonical form: what every event is stamped with.
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// The rules, the profile in force and then overrides applied, in the order in which they were written.
    pub fn rules(&self) -> &[Rule] {
        &self.rules
    }

    /// The rule at a position.
    pub fn rule(&self, index: RuleIndex) -> &Rule {
        &self.rules[index.as_usize()]
    }

    /// The rule that decides for a name: the longest fixed part, counted in labels from the right; at equal
    /// length host, glob, pattern, domain; then `allow`, `block`, `log`.
    pub fn decide_name(&self, name: Name<'_>) -> Option<NameMatch> {
        self.names.find(name).map(NameMatch::from)
    }

    /// The rule that decides for an address: the longest prefix; on one prefix a rule with matching ports
    /// first, then `allow`, `block`, `log`; where no port matches, the next shorter prefix.
    ///
    /// An IPv6 address that is another spelling of an IPv4 one is decided as it is written; where no network decides, as
    /// the IPv4 address.
    ///
    /// `service` is `None` when protocol or port are not known: only rules without ports decide then.
    pub fn decide_address(&self, address: IpAddr, service: Option<Service>) -> Option<AddressMatch> {
        let find = |address| {
            self.networks.find(address, service).map(|(network, rule)| AddressMatch { rule, network })
        };
        let written = find(address);
        // What is said of a port everywhere is said of both.
        let decided = written.filter(|found| !self.is_everywhere(found.rule));
        decided.or_else(|| find(ipv4_inside(address)?.into())).or(written)
    }

    /// Every network with its verdicts, those of the prefixes around it included: the entry of the longest
    /// prefix that holds an address is the whole answer.
    pub fn networks(&self) -> impl Iterator<Item = (IpNet, &NetworkVerdicts)> {
        self.networks.iter()
    }

    pub(crate) fn names(&self) -> &NameTable {
        &self.names
    }

    /// The value of the rule's list that matched, and where it is written.
    pub fn matched_value(&self, found: NameMatch) -> Option<(String, Place)> {
        let rule = self.rule(found.rule);
        let position = found.position as usize;
        match found.form {
            NameForm::Host => shown(rule.hosts.get(position)),
            NameForm::Glob => shown(rule.globs.get(position)),
            NameForm::Pattern => shown(rule.patterns.get(position)),
            NameForm::Domain => shown(rule.domains.get(position)),
        }
    }

    /// Every value that describes a name, the one that decides first. Takes longer than [`Policy::decide_name`]: for
    /// explaining.
    pub fn matches_of_name(&self, name: Name<'_>) -> Vec<NameMatch> {
        self.names.find_all(name).into_iter().map(NameMatch::from).collect()
    }

    /// Every network of a rule that holds an address, the longest first, and whether the rule speaks for the service.
    /// Walks over all networks: for explaining.
    pub fn matches_of_address(&self, address: IpAddr, service: Option<Service>) -> Vec<(AddressMatch, bool)> {
        let mut all = Vec::new();
        for (i, rule) in self.rules.iter().enumerate() {
            let speaks = rule.ports.is_empty() || rule.ports.iter().any(|port| Some(port.value) == service);
            for network in rule.networks.iter().filter(|network| holds(&network.value, address)) {
                let rule = RuleIndex(i as u32);
                all.push((AddressMatch { rule, network: network.value }, speaks));
            }
        }
        all.sort_by_key(|(found, _)| std::cmp::Reverse(found.network.prefix_len()));
        all
    }

    /// Where the network that made `rule` decide for an address is written.
    pub fn matched_network(&self, found: AddressMatch, address: IpAddr) -> Option<(String, Place)> {
        let networks = &self.rule(found.rule).networks;
        let longest =
            networks.iter().filter(|at| holds(&at.value, address)).max_by_key(|at| at.value.prefix_len())?;
        Some((longest.value.to_string(), longest.place))
    }

    /// What the rule that was found means for a client: its action, or [`Verdict::Exempt`] where it blocks or logs and
    /// the client is on the register at that moment. An `allow` stands for everyone and stays one.
    ///
    /// This is the second half of a decision, after [`Policy::decide_name`] or [`Policy::decide_address`]: a name that
    /// no rule concerns never comes here.
    pub fn judge(&self, rule: RuleIndex, client: Option<IpAddr>, at: Timestamp) -> Judgement<'_> {
        let action = self.rule(rule).action;
        let exemption =
            client.filter(|_| action != Action::Allow).and_then(|client| self.exemption(client, rule, at));
        Judgement { verdict: exemption.map_or(action.into(), |_| Verdict::Exempt), exemption }
    }

    /// The exemption under which a client is let through a rule at a moment: the longest prefix of clients that holds
    /// its address; on one prefix the one that ends last. An IPv4 client in IPv6 spelling is an IPv4 client.
    pub fn exemption(&self, client: IpAddr, rule: RuleIndex, at: Timestamp) -> Option<&Exemption> {
        self.exemptions.find(client, rule, at)
    }

    /// The register: every exemption, expired or not, in the order in which they were written.
    pub fn exemptions(&self) -> &[Exemption] {
        &self.exemptions.list
    }

    /// The next moment after `at` at which an exemption ends, and so decisions change.
    pub fn next_expiry(&self, at: Timestamp) -> Option<Timestamp> {
        self.exemptions().iter().map(|exemption| exemption.expires).filter(|expires| *expires > at).min()
    }

    /// The exemptions that no longer stand at `at`.
    pub fn expired(&self, at: Timestamp) -> impl Iterator<Item = &Exemption> {
        self.exemptions().iter().filter(move |exemption| !exemption.stands(at))
    }

    /// The rule of this id.
    pub fn find_rule(&self, id: &str) -> Option<RuleIndex> {
        self.rules.iter().position(|rule| rule.id.as_str() == id).map(|i| RuleIndex(i as u32))
    }

    /// Whose traffic a client's is: the unit with the longest prefix that holds its address.
    pub fn unit(&self, client: IpAddr) -> Option<&Unit> {
        self.units.find(client)
    }

    /// Every unit, in the order in which they were written.
    pub fn units(&self) -> &[Unit] {
        &self.units.list
    }

    /// What is done about DNS that goes around this resolver.
    pub fn egress_dns(&self) -> &EgressDns {
        &self.egress_dns
    }

    /// The rules that it stands for, if it was compiled into rules.
    pub fn egress_rules(&self) -> EgressRules {
        self.egress_rules
    }

    /// Whether a rule is one of `[egress_dns]` about a port of every address: where a network decides, it goes first.
    pub fn is_everywhere(&self, rule: RuleIndex) -> bool {
        let egress = self.egress_rules();
        egress.plain == Some(rule) || egress.dot == Some(rule)
    }

    /// Every name for which a host, a domain, a glob or a pattern is entered, in no order: the whole table of names.
    pub fn suffixes(&self) -> impl Iterator<Item = Suffix<'_>> {
        self.names.suffixes()
    }

    /// The longest domain that a name is or is below, with its rule.
    pub fn domain_of<'n>(&self, name: Name<'n>) -> Option<(Name<'n>, RuleIndex)> {
        self.names.domain_of(name)
    }

    /// What the files handed to [`compile`] were called, by [`Place::file`].
    pub fn files(&self) -> &[String] {
        &self.files
    }

    /// The legal bases that reports cite.
    pub fn instruments(&self) -> &[Instrument] {
        &self.instruments
    }

    /// The profiles that there are, in the order in which they were written.
    pub fn profiles(&self) -> &[Profile] {
        &self.profiles
    }

    /// The id of the profile in force; `None` where rules stand as written.
    pub fn profile(&self) -> Option<&str> {
        self.profile.as_deref()
    }

    /// The ids of the bans, in the order of the files.
    pub fn bans(&self) -> impl Iterator<Item = &str> {
        self.bans.iter().map(|ban| ban.id.as_str())
    }

    /// The canonical form: files that compile to this policy.
    pub fn canonical_files(&self) -> &[CanonicalFile] {
        &self.canonical
    }
}

impl fmt::Debug for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Policy").field("digest", &self.digest).field("rules", &self.rules.len()).finish()
    }
}

fn shown<T: fmt::Display>(at: Option<&At<T>>) -> Option<(String, Place)> {
    at.map(|at| (at.value.to_string(), at.place))
}
