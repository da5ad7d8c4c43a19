//! `[egress_dns]`: what is done about DNS that goes around this resolver. Banned names are answered whatever stands here.

use std::collections::HashSet;
use std::net::IpAddr;
use std::sync::LazyLock;

use ipnet::IpNet;

use crate::name::DomainName;
use crate::problem::Place;
use crate::reading::{Reader, Table};
use crate::rule::{
    Action, Answer, At, Confidence, Ede, PacketAnswer, Protocol, Rule, RuleId, RuleIndex, Service, word_of,
};

/// What stands in `[egress_dns]`; each default where nothing does.
#[derive(Clone, Debug)]
pub struct EgressDns {
    /// Other names asked of foreign resolvers on port 53.
    pub plain: PlainEgress,
    /// TCP and UDP to port 853 of addresses that are not ours.
    pub dot: Egress,
    /// Known public DoH servers, by name and address.
    pub doh: Egress,
    /// What the kernel could not judge.
    pub unjudged: Unjudged,
    /// Resolvers that are ours too: asking them is not foreign, and they may ask foreign ones.
    pub resolvers: Vec<At<IpAddr>>,
}

impl Default for EgressDns {
    fn default() -> Self {
        Self {
            plain: PlainEgress::Allow,
            dot: Egress::Log,
            doh: Egress::Log,
            unjudged: Unjudged::Log,
            resolvers: Vec::new(),
        }
    }
}

impl EgressDns {
    /// Whether an address is one of the resolvers. An IPv4 address in IPv6 spelling is an IPv4 address.
    pub fn is_resolver(&self, address: IpAddr) -> bool {
        self.resolvers.iter().any(|resolver| resolver.value == address.to_canonical())
    }
}

/// What is done about names that no rule concerns, asked of foreign resolvers in plain DNS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PlainEgress {
    /// They pass.
    Allow,
    /// They pass and are recorded.
    Log,
    /// They are answered by this resolver instead.
    Redirect,
    /// They are refused.
    Block,
}

impl PlainEgress {
    const WORDS: &[(&str, PlainEgress)] = &[
        ("allow", PlainEgress::Allow),
        ("log", PlainEgress::Log),
        ("redirect", PlainEgress::Redirect),
        ("block", PlainEgress::Block),
    ];

    /// The word that policy files use.
    pub fn as_str(self) -> &'static str {
        word_of(Self::WORDS, self)
    }
}

/// What is done about encrypted DNS to foreign resolvers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Egress {
    /// It passes.
    Allow,
    /// It passes and is recorded.
    Log,
    /// It is refused.
    Block,
}

impl Egress {
    const WORDS: &[(&str, Egress)] =
        &[("allow", Egress::Allow), ("log", Egress::Log), ("block", Egress::Block)];

    /// The word that policy files use.
    pub fn as_str(self) -> &'static str {
        word_of(Self::WORDS, self)
    }
}

/// What is done about packets that might ask for a banned name and could not be judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unjudged {
    /// They pass and are recorded.
    Log,
    /// They are refused.
    Block,
}

impl Unjudged {
    const WORDS: &[(&str, Unjudged)] = &[("log", Unjudged::Log), ("block", Unjudged::Block)];

    /// The word that policy files use.
    pub fn as_str(self) -> &'static str {
        word_of(Self::WORDS, self)
    }
}

/// The rules that `[egress_dns]` stands for, by what each is about. None where it is allowed.
///
/// They are rules like others, so that what they decide is explained, recorded and counted like everything else; but a
/// policy file has no words for them, and any rule that is written goes before them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EgressRules {
    /// [`EgressDns::plain`], unless it is `redirect`.
    pub plain: Option<RuleIndex>,
    /// [`EgressDns::dot`].
    pub dot: Option<RuleIndex>,
    /// [`EgressDns::doh`].
    pub doh: Option<RuleIndex>,
    /// [`EgressDns::unjudged`].
    pub unjudged: Option<RuleIndex>,
}

/// What messages call the file of these rules.
pub(crate) const FILE: &str = "built-in:egress_dns";

/// The ports that resolvers are asked on, in clear, encrypted, and inside HTTP.
const PLAIN_PORT: u16 = 53;
const ENCRYPTED_PORT: u16 = 853;
const HTTPS_PORT: u16 = 443;

/// Public resolvers, a line each: provider, kind (`doh`, `dot`, `doq` with a name; `address4`, `address6`), value, source.
const RESOLVERS: &str = include_str!("../packs/resolvers.tsv");

/// Makes the rules and adds them to those of the files. `place` is where `[egress_dns]` stands, or a place in [`FILE`].
pub(crate) fn add_rules(egress: &EgressDns, place: Place, rules: &mut Vec<Rule>) -> EgressRules {
    let mut add = |id: &str, action: Option<Action>, matchers: Matchers| {
        let rule = rule(id, action?, place, matchers);
        rules.push(rule);
        Some(RuleIndex(rules.len() as u32 - 1))
    };
    let plain = match egress.plain {
        PlainEgress::Allow | PlainEgress::Redirect => None,
        PlainEgress::Log => Some(Action::Log),
        PlainEgress::Block => Some(Action::Block),
    };
    let action = |egress| match egress {
        Egress::Allow => None,
        Egress::Log => Some(Action::Log),
        Egress::Block => Some(Action::Block),
    };
    let unjudged = match egress.unjudged {
        Unjudged::Log => Action::Log,
        Unjudged::Block => Action::Block,
    };
    EgressRules {
        plain: add("egress-plain", plain, Matchers::everywhere(PLAIN_PORT)),
        dot: add("egress-dot", action(egress.dot), Matchers::everywhere(ENCRYPTED_PORT)),
        doh: add("egress-doh", action(egress.doh), Matchers::known_doh()),
        unjudged: add("egress-unjudged", Some(unjudged), Matchers::default()),
    }
}

/// What such a rule matches.
#[derive(Default)]
struct Matchers {
    hosts: Vec<DomainName>,
    networks: Vec<IpNet>,
    port: Option<u16>,
}

impl Matchers {
    /// A port of every address.
    fn everywhere(port: u16) -> Self {
        let networks = ["0.0.0.0/0", "::/0"].map(|all| all.parse().expect("these are networks")).to_vec();
        Self { hosts: Vec::new(), networks, port: Some(port) }
    }

    /// The names of public DoH servers, and HTTPS at the addresses of their providers.
    fn known_doh() -> Self {
        let mut known = Self { port: Some(HTTPS_PORT), ..Self::default() };
        for (kind, value) in resolvers() {
            match kind {
                "doh" => known.hosts.extend(value.parse::<DomainName>()),
                "address4" | "address6" => known.networks.extend(value.parse::<IpAddr>().map(IpNet::from)),
                _ => {}
            }
        }
        known
    }
}

/// Whether an address is one of a known public resolver: it serves everybody, whatever name points there.
pub fn is_public_resolver(address: IpAddr) -> bool {
    static ADDRESSES: LazyLock<HashSet<IpAddr>> = LazyLock::new(|| {
        let addresses = resolvers().filter(|(kind, _)| kind.starts_with("address"));
        addresses.filter_map(|(_, address)| address.parse().ok()).collect()
    });
    ADDRESSES.contains(&address.to_canonical())
}

/// Kind and value of every public resolver.
fn resolvers() -> impl Iterator<Item = (&'static str, &'static str)> {
    RESOLVERS.lines().skip(1).filter_map(|line| {
        let mut fields = line.split('\t').skip(1);
        fields.next().zip(fields.next())
    })
}

fn rule(id: &str, action: Action, place: Place, matchers: Matchers) -> Rule {
    let ports = matchers.port.iter().flat_map(|&port| {
        [Protocol::Tcp, Protocol::Udp].map(|protocol| At { value: Service { protocol, port }, place })
    });
    Rule {
        id: id.parse::<RuleId>().expect("this is an id"),
        place,
        ban: None,
        role: "egress".to_owned(),
        action,
        answer: Answer::Refused,
        ttl_secs: 60,
        ede: Ede::Blocked,
        packet: PacketAnswer::Reject,
        fixed: true,
        ports: ports.collect(),
        hosts: matchers.hosts.into_iter().map(|value| At { value, place }).collect(),
        domains: Vec::new(),
        globs: Vec::new(),
        patterns: Vec::new(),
        networks: matchers.networks.into_iter().map(|value| At { value, place }).collect(),
        learn: false,
        source: None,
        confidence: Confidence::High,
        note: None,
    }
}

/// Reads `[egress_dns]`.
pub(crate) fn read(r: &mut Reader<'_>, mut table: Table<'_, '_>) -> At<EgressDns> {
    let place = table.place(r);
    let default = EgressDns::default();
    let value = EgressDns {
        plain: table.word(r, "plain", PlainEgress::WORDS).unwrap_or(default.plain),
        dot: table.word(r, "dot", Egress::WORDS).unwrap_or(default.dot),
        doh: table.word(r, "doh", Egress::WORDS).unwrap_or(default.doh),
        unjudged: table.word(r, "unjudged", Unjudged::WORDS).unwrap_or(default.unjudged),
        resolvers: table.list(r, "resolvers", read_resolver),
    };
    table.finish(r);
    At { value, place }
}

fn read_resolver(text: &str) -> Result<IpAddr, (String, String)> {
    let wrong =
        |_| (format!("\"{}\" is not an address", text.escape_debug()), "such as 10.1.0.53".to_owned());
    text.parse::<IpAddr>().map(|address| address.to_canonical()).map_err(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_public_resolver_is_understood() {
        let mut count = 0;
        for (kind, value) in resolvers() {
            let fine = match kind {
                "doh" | "dot" | "doq" => value.parse::<DomainName>().is_ok(),
                "address4" => value.parse::<std::net::Ipv4Addr>().is_ok(),
                "address6" => value.parse::<std::net::Ipv6Addr>().is_ok(),
                _ => false,
            };
            assert!(fine, "{kind} {value}");
            count += 1;
        }
        assert_eq!(count, RESOLVERS.lines().count() - 1);
    }
}
