//! What is banned: policy files in, decisions out.
//!
//! [`compile`] reads every policy file at once and returns either one immutable [`Policy`] or every
//! problem of every file. A `Policy` answers two questions: [`Policy::decide_name`] for a domain name
//! and [`Policy::decide_address`] for an address and, where known, a service; [`Policy::judge`] says what the
//! rule found means for one client at one moment. It knows no socket, no
//! clock, no DNS message and no packet: those who do ask it.
//!
//! Reading order: [`name`] and [`rule`] are the words, [`reading`] reads TOML, [`document`] is the shape of one policy file,
//! [`compile`] merges files into a [`Policy`], [`names`] and [`networks`] are the two matchers, [`print`] is the
//! canonical form whose SHA-256 is the policy's digest; [`export`] writes a policy in the words of other programs, and
//! [`import`] makes rules of other people's lists; [`diff`] compares two policies.
#![forbid(unsafe_code)]

mod compile;
pub mod diff;
mod document;
mod egress;
mod exempt;
mod expectation;
pub mod export;
mod glob;
pub mod import;
pub mod lints;
mod name;
mod names;
mod near;
mod networks;
pub mod packs;
mod pattern;
mod policy;
mod prefix;
mod print;
mod printable;
mod problem;
mod profile;
pub mod reading;
mod rule;
mod schema;
mod spelling;
mod unit;
mod values;

pub use compile::{Compiled, Options, Source, compile, compile_with};
pub use document::{FILE_LIMIT_BYTES, Instrument};
pub use egress::{Egress, EgressDns, EgressRules, PlainEgress, Unjudged, is_public_resolver};
pub use exempt::Exemption;
pub use expectation::Ask;
pub use glob::Glob;
pub use name::{DomainName, Name, NameError};
pub use names::{NameForm, Suffix};
pub use networks::NetworkVerdicts;
pub use pattern::Pattern;
pub use policy::{AddressMatch, Judgement, NameMatch, Policy};
pub use print::{CanonicalFile, Digest};
pub use printable::printable;
pub use problem::{Code, Place, Problem, Problems, Severity};
pub use profile::Profile;
pub use rule::{
    Action, Answer, At, Confidence, Ede, PacketAnswer, Protocol, Rule, RuleId, RuleIndex, Service, Verdict,
};
pub use schema::schema;
pub use spelling::{NAT64_LENGTHS, ipv4_behind, ipv4_inside};
pub use unit::{Privacy, Unit};

/// A moment, as exemptions end and decisions are asked for.
pub use jiff::Timestamp;

/// A network in CIDR notation; host bits are zero in every network of a policy.
pub use ipnet::{IpNet, Ipv6Net};
