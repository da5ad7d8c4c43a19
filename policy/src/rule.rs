//! The words of a policy: rules, and what they say to do.

use std::fmt;
use std::str::FromStr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::glob::Glob;
use crate::name::DomainName;
use crate::pattern::Pattern;
use crate::problem::Place;

/// A rule's own name: stable, in every log line, answer and counter.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RuleId(std::sync::Arc<str>);

impl RuleId {
    /// Longest id in bytes; an extended DNS error carries it whole.
    pub const LIMIT_BYTES: usize = 64;

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for RuleId {
    type Err = String;

    /// Lower-case letters, digits and hyphens, starting with a letter, at most 64.
    fn from_str(text: &str) -> Result<Self, String> {
        word(text, Self::LIMIT_BYTES).map(|id| Self(id.into()))
    }
}

impl Serialize for RuleId {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl fmt::Display for RuleId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for RuleId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A lower-case word of at most `limit` bytes, or what is wrong with it.
pub(crate) fn word(text: &str, limit: usize) -> Result<&str, String> {
    let wrong = |what: &str| Err(format!("\"{}\" {what}", text.escape_debug()));
    match text.chars().next() {
        None => return wrong("is empty"),
        Some(first) if !first.is_ascii_lowercase() => return wrong("must start with a lower-case letter"),
        Some(_) => {}
    }
    if text.len() > limit {
        return wrong(&format!("is longer than {limit} characters"));
    }
    match text.chars().find(|c| !(c.is_ascii_lowercase() || c.is_ascii_digit() || *c == '-')) {
        Some(bad) => wrong(&format!("holds {bad:?}; use lower-case letters, digits and hyphens")),
        None => Ok(text),
    }
}

/// A rule's position in [`crate::Policy::rules`]; valid for that policy only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RuleIndex(pub(crate) u32);

impl RuleIndex {
    /// The position as a number.
    pub fn as_usize(self) -> usize {
        self.0 as usize
    }
}

/// What a rule does. The order is that of precedence when all else is equal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    /// An exception: recorded and let through.
    Allow,
    /// Refused.
    Block,
    /// Recorded and let through.
    Log,
}

impl Action {
    pub(crate) const WORDS: &[(&str, Action)] =
        &[("allow", Action::Allow), ("block", Action::Block), ("log", Action::Log)];

    /// The word that policy files use.
    pub fn as_str(self) -> &'static str {
        word_of(Self::WORDS, self)
    }
}

/// What was decided for one name or address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// An exception: recorded and let through.
    Allow,
    /// Refused.
    Block,
    /// Recorded and let through.
    Log,
    /// A rule that blocks or logs it does not stop this client, which is on the register: recorded and let through.
    Exempt,
    /// No rule concerns it.
    None,
}

impl Verdict {
    /// All verdicts, by their words.
    pub(crate) const WORDS: &[(&str, Verdict)] = &[
        ("allow", Verdict::Allow),
        ("block", Verdict::Block),
        ("log", Verdict::Log),
        ("exempt", Verdict::Exempt),
        ("none", Verdict::None),
    ];

    /// The word that files and outputs use.
    pub fn as_str(self) -> &'static str {
        word_of(Self::WORDS, self)
    }
}

impl From<Action> for Verdict {
    fn from(action: Action) -> Self {
        match action {
            Action::Allow => Verdict::Allow,
            Action::Block => Verdict::Block,
            Action::Log => Verdict::Log,
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// How a blocked query is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Answer {
    /// NXDOMAIN for every type.
    NxDomain,
    /// NOERROR without records for every type.
    NoData,
    /// REFUSED.
    Refused,
    /// No answer at all.
    Drop,
    /// These addresses for A and AAAA; NODATA for other types, and for a family that is `None`.
    Addresses {
        /// The answer to A.
        a: Option<std::net::Ipv4Addr>,
        /// The answer to AAAA.
        aaaa: Option<std::net::Ipv6Addr>,
    },
}

impl Answer {
    /// `answer = "null"`: the unspecified addresses.
    pub const NULL: Answer = Answer::Addresses {
        a: Some(std::net::Ipv4Addr::UNSPECIFIED),
        aaaa: Some(std::net::Ipv6Addr::UNSPECIFIED),
    };
    pub(crate) const WORDS: &[(&str, Answer)] = &[
        ("nxdomain", Answer::NxDomain),
        ("nodata", Answer::NoData),
        ("refused", Answer::Refused),
        ("drop", Answer::Drop),
        ("null", Answer::NULL),
    ];
}

impl fmt::Display for Answer {
    /// The word of the policy file, or `a=…,aaaa=…`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some((word, _)) = Self::WORDS.iter().find(|(_, answer)| answer == self) {
            return f.write_str(word);
        }
        let Answer::Addresses { a, aaaa } = self else { unreachable!("every other answer has a word") };
        let parts = [a.map(|a| format!("a={a}")), aaaa.map(|aaaa| format!("aaaa={aaaa}"))];
        f.write_str(&parts.into_iter().flatten().collect::<Vec<_>>().join(","))
    }
}

/// How a blocked packet is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PacketAnswer {
    /// A TCP reset or an ICMP error, so that the sender fails at once.
    Reject,
    /// Silence.
    Drop,
}

impl PacketAnswer {
    pub(crate) const WORDS: &[(&str, PacketAnswer)] =
        &[("reject", PacketAnswer::Reject), ("drop", PacketAnswer::Drop)];

    /// The word that policy files use.
    pub fn as_str(self) -> &'static str {
        word_of(Self::WORDS, self)
    }
}

/// How sure the evidence behind a rule is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Confidence {
    /// The vendor's own document, registry data, or two sources.
    High,
    /// One credible source or an inference that is named.
    Medium,
    /// One weak source.
    Low,
}

impl Confidence {
    pub(crate) const WORDS: &[(&str, Confidence)] =
        &[("high", Confidence::High), ("medium", Confidence::Medium), ("low", Confidence::Low)];

    /// The word that policy files use.
    pub fn as_str(self) -> &'static str {
        word_of(Self::WORDS, self)
    }
}

/// The extended DNS error (RFC 8914 §4) that blocked answers carry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Ede {
    /// 15: the operator's choice.
    Blocked,
    /// 16: an outside order to block.
    Censored,
    /// 17: the client asked for it.
    Filtered,
}

impl Ede {
    pub(crate) const WORDS: &[(&str, Ede)] =
        &[("blocked", Ede::Blocked), ("censored", Ede::Censored), ("filtered", Ede::Filtered)];

    /// The INFO-CODE on the wire.
    pub fn code(self) -> u16 {
        match self {
            Ede::Blocked => 15,
            Ede::Censored => 16,
            Ede::Filtered => 17,
        }
    }

    /// The word that policy files use.
    pub fn as_str(self) -> &'static str {
        word_of(Self::WORDS, self)
    }
}

/// The word of a value.
pub(crate) fn word_of<T: PartialEq + Copy>(words: &[(&'static str, T)], value: T) -> &'static str {
    words.iter().find(|(_, v)| *v == value).map_or("", |(word, _)| word)
}

/// A transport protocol that has ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Protocol {
    /// Transmission Control Protocol.
    Tcp,
    /// User Datagram Protocol, and so QUIC.
    Udp,
}

impl Protocol {
    /// The IANA protocol number.
    pub fn number(self) -> u8 {
        match self {
            Protocol::Tcp => 6,
            Protocol::Udp => 17,
        }
    }

    /// `tcp` or `udp`.
    pub fn as_str(self) -> &'static str {
        match self {
            Protocol::Tcp => "tcp",
            Protocol::Udp => "udp",
        }
    }
}

impl FromStr for Protocol {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "tcp" => Ok(Protocol::Tcp),
            "udp" => Ok(Protocol::Udp),
            other => Err(format!("\"{}\" is not a protocol with ports", other.escape_debug())),
        }
    }
}

/// A protocol and the port at the far end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Service {
    /// The protocol.
    pub protocol: Protocol,
    /// The port, 1 to 65535.
    pub port: u16,
}

impl FromStr for Service {
    type Err = String;

    /// `tcp/443` or `udp/443`.
    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("\"{}\" is not a protocol and a port", text.escape_debug());
        let (protocol, port) = text.split_once('/').ok_or_else(wrong)?;
        let port = port.parse::<u16>().ok().filter(|&port| port != 0).ok_or_else(wrong)?;
        Ok(Service { protocol: protocol.parse().map_err(|_| wrong())?, port })
    }
}

impl fmt::Display for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.protocol.as_str(), self.port)
    }
}

/// A value and where it was written.
#[derive(Clone, Debug)]
pub struct At<T> {
    /// The value.
    pub value: T,
    /// Where it stands.
    pub place: Place,
}

/// One rule, with the profile in force and overrides applied.
#[derive(Clone, Debug)]
pub struct Rule {
    /// Its name.
    pub id: RuleId,
    /// Where it is written.
    pub place: Place,
    /// The ban it belongs to; `None` for a site's own rule.
    pub ban: Option<String>,
    /// What the vendor uses the names or networks for, in one word.
    pub role: String,
    /// What to do.
    pub action: Action,
    /// How a blocked query is answered.
    pub answer: Answer,
    /// TTL of that answer in seconds, 0 to 86 400.
    pub ttl_secs: u32,
    /// The extended error of that answer.
    pub ede: Ede,
    /// How a blocked packet is answered.
    pub packet: PacketAnswer,
    /// Whether no profile may change the action.
    pub fixed: bool,
    /// Names matched exactly.
    pub hosts: Vec<At<DomainName>>,
    /// Names matched with everything below them.
    pub domains: Vec<At<DomainName>>,
    /// Names with `*` inside labels.
    pub globs: Vec<At<Glob>>,
    /// Regular expressions over the labels left of a fixed part.
    pub patterns: Vec<At<Pattern>>,
    /// Networks.
    pub networks: Vec<At<IpNet>>,
    /// Narrows `networks` to these services; empty means every packet.
    pub ports: Vec<At<Service>>,
    /// Whether addresses answered for its names are matched too, for as long as their TTL.
    pub learn: bool,
    /// Where the knowledge comes from.
    pub source: Option<String>,
    /// How sure it is.
    pub confidence: Confidence,
    /// What a person should know.
    pub note: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn services_are_a_protocol_and_a_port() {
        for (text, shown) in [
            ("tcp/443", Some("tcp/443")),
            ("udp/53", Some("udp/53")),
            ("tcp/0", None),
            ("tcp/65536", None),
            ("icmp/1", None),
            ("443", None),
            ("tcp/", None),
            ("TCP/443", None),
        ] {
            assert_eq!(text.parse::<Service>().ok().map(|s| s.to_string()).as_deref(), shown, "{text}");
        }
    }

    #[test]
    fn ids_are_lower_case_words() {
        for (text, fine) in [
            ("kaspersky-update", true),
            ("a", true),
            ("", false),
            ("A", false),
            ("1a", false),
            ("-a", false),
            ("a_b", false),
            ("a b", false),
            (&"a".repeat(64), true),
            (&"a".repeat(65), false),
        ] {
            assert_eq!(text.parse::<RuleId>().is_ok(), fine, "{text}");
        }
    }
}
