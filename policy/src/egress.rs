//! `[egress_dns]`: what is done about DNS that goes around this resolver. Banned names are answered whatever stands here.

use std::net::IpAddr;

use crate::reading::{Reader, Table};
use crate::rule::{At, word_of};

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
