//! The policy in the words of other programs: for resolvers and firewalls that run beside interdict, or without it.
//!
//! No other format says all that a policy says. Each exporter returns its text and everything that the format has no
//! words for, rule by rule, and the text opens with the same list. What is not on the list is decided by the other
//! program as [`Policy::decide_name`] and [`Policy::decide_address`] decide it; the tests hold the real servers to that.
//!
//! [`outline`] is the view of the names that every format for names is written from; one file a format stands beside it.

mod dnsmasq;
mod hosts;
mod json;
mod nft;
mod outline;
mod rpz;
mod unbound;
mod unsaid;

use std::fmt;
use std::fmt::Write;
use std::str::FromStr;

pub use unsaid::{About, Effect, Speaker, Unsaid};

use crate::policy::Policy;
use crate::print::egress_dns;
use unsaid::Notes;

/// A format that a policy can be written in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// A DNS response policy zone: BIND, Unbound, PowerDNS Recursor.
    Rpz,
    /// Sets of nftables.
    Nft,
    /// A hosts file.
    Hosts,
    /// Local zones of Unbound.
    Unbound,
    /// Configuration of dnsmasq 2.86 or later.
    Dnsmasq,
    /// Every rule as JSON, for other tools.
    Json,
}

impl Format {
    /// All formats.
    pub const ALL: [Format; 6] =
        [Format::Rpz, Format::Nft, Format::Hosts, Format::Unbound, Format::Dnsmasq, Format::Json];

    /// The word for it on the command line.
    pub fn as_str(self) -> &'static str {
        match self {
            Format::Rpz => "rpz",
            Format::Nft => "nft",
            Format::Hosts => "hosts",
            Format::Unbound => "unbound",
            Format::Dnsmasq => "dnsmasq",
            Format::Json => "json",
        }
    }
}

impl FromStr for Format {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let known = || Format::ALL.map(Format::as_str).join(", ");
        Format::ALL
            .into_iter()
            .find(|format| format.as_str() == text)
            .ok_or_else(|| format!("\"{}\" is not a format (one of: {})", text.escape_debug(), known()))
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A policy in another format.
#[derive(Clone, Debug)]
pub struct Exported {
    /// The file.
    pub text: String,
    /// What the policy says and the file does not.
    pub unsaid: Vec<Unsaid>,
}

/// Writes the policy in a format. `serial` is the version of the zone where the format has one (RFC 1982): secondaries
/// fetch a zone again only when it has grown.
pub fn export(policy: &Policy, format: Format, serial: u32) -> Exported {
    match format {
        Format::Rpz => rpz::export(policy, serial),
        Format::Nft => nft::export(policy),
        Format::Hosts => hosts::export(policy),
        Format::Unbound => unbound::export(policy),
        Format::Dnsmasq => dnsmasq::export(policy),
        Format::Json => json::export(policy),
    }
}

/// Puts the head above the body: which policy this is, how to use the file, and what it does not say. Every line is a
/// comment that starts with `mark`.
fn finish(
    policy: &Policy,
    format: Format,
    mark: &str,
    usage: &str,
    body: &str,
    mut notes: Notes,
) -> Exported {
    if egress_dns(policy.egress_dns()).is_some() {
        notes.egress_dns();
    }
    let unsaid = notes.into_list();
    let mut text = String::with_capacity(body.len() + 4096);
    let mut line = |words: fmt::Arguments<'_>| {
        writeln!(text, "{mark} {words}").expect("writing to a String does not fail");
    };
    let bans: Vec<&str> = policy.bans().collect();
    let bans = if bans.is_empty() { String::new() } else { format!(" ({})", bans.join(", ")) };
    line(format_args!(
        "Written by interdict export {format}. Do not edit: change the policy and export again."
    ));
    line(format_args!("policy {}{bans}", policy.digest()));
    for words in usage.lines() {
        line(format_args!("{words}"));
    }
    if !unsaid.is_empty() {
        line(format_args!("What the policy says and this file does not:"));
    }
    for item in &unsaid {
        line(format_args!("- {item}"));
    }
    text.push('\n');
    text.push_str(body);
    Exported { text, unsaid }
}
