//! A DNS response policy zone (draft-vixie-dnsop-dns-rpz): QNAME triggers, names relative to whatever the zone is
//! called.
//!
//! `name` speaks for the name alone and `*.name` for all below it, so a domain takes both. Servers differ in what they
//! make of a name that has neither, below a wildcard: BIND follows the rules of zones (RFC 4592 §3.3.1) and finds
//! nothing at or below any node that exists, even an empty one; Unbound does so only for names that are written;
//! PowerDNS goes on to the next wildcard. So at every node below a banned domain both are written, and none has to
//! choose.

use std::fmt::Write;

use super::outline::{Does, Reach, Spot, does, empty_nodes, from_the_right, note_rest, outline};
use super::unsaid::{About, Effect, Notes};
use super::{Exported, Format, finish};
use crate::name::{DomainName, Name};
use crate::policy::Policy;
use crate::rule::{Answer, Rule};

/// Bytes that the zone's own name may take in front of the root. A name that leaves less room cannot stand in it.
const ORIGIN_LIMIT_BYTES: usize = 40;
/// `$TTL`, and the zone's time for negative answers.
const TTL_SECS: u32 = 60;

const USAGE: &str = "\
In named.conf; without qname-wait-recurse no, the vendor's own servers are asked first:
  zone \"ban.rpz\" { type primary; file \"FILE\"; check-names ignore; allow-query { none; }; };
  options { response-policy { zone \"ban.rpz\"; } qname-wait-recurse no break-dnssec yes; };
In unbound.conf:
  server: module-config: \"respip validator iterator\"
  rpz: name: \"ban.rpz\"
       zonefile: \"FILE\"
For PowerDNS Recursor, in the Lua configuration: rpzFile(\"FILE\", {policyName=\"ban\"})
The zone's name may have at most 40 bytes.";

pub(super) fn export(policy: &Policy, serial: u32) -> Exported {
    let mut notes = Notes::default();
    notes.every_rule("contacts are not recorded; answers carry no extended error that names the rule");
    notes.every_rule(
        "ttl_secs holds for addresses; how long NXDOMAIN and NODATA are kept is for the server to say",
    );
    let spots = outline(policy);
    let mut nodes: Vec<Node<'_>> = spots.iter().map(Node::of_spot).collect();
    nodes.extend(empty_nodes(&spots).into_iter().map(|(name, around)| Node {
        name,
        at: Some(around),
        below: Some(around),
    }));
    nodes.sort_by_cached_key(|node| from_the_right(node.name.as_name()));

    let mut body = format!(
        "$TTL {TTL_SECS}\n@ SOA localhost. hostmaster.localhost. {serial} 3600 600 86400 {TTL_SECS}\n@ NS localhost.\n"
    );
    for node in &nodes {
        node.write(&mut body, &mut notes);
    }
    note_rest(policy, Reach::Domains, &mut notes);
    finish(policy, Format::Rpz, ";", USAGE, &body, notes)
}

/// A name of the zone.
struct Node<'p> {
    name: DomainName,
    at: Option<&'p Rule>,
    below: Option<&'p Rule>,
}

impl<'p> Node<'p> {
    fn of_spot(spot: &Spot<'p>) -> Self {
        Self { name: spot.name.clone(), at: spot.at(), below: spot.below() }
    }

    fn write(&self, body: &mut String, notes: &mut Notes) {
        if let Some(why) = unfit(self.name.as_name()) {
            return self.note_unfit(why, notes);
        }
        if let Some(rule) = self.at {
            write_records(body, &self.name.to_string(), rule, notes);
        }
        if let Some(rule) = self.below {
            write_records(body, &format!("*.{}", self.name), rule, notes);
        }
    }

    fn note_unfit(&self, why: &'static str, notes: &mut Notes) {
        // Which way the verdict goes depends on what is around the name; both are told as the rule's own loss.
        let effect = |rule: &Rule| match does(rule) {
            Does::Open => Effect::Blocked,
            Does::Block(..) => Effect::LetThrough,
        };
        if let Some(rule) = self.at {
            notes.part(rule, effect(rule), why, About::Name(self.name.clone()));
        }
        if let Some(rule) = self.below {
            notes.part(rule, effect(rule), why, About::Below(self.name.clone()));
        }
    }
}

/// Why a name cannot stand in a policy zone.
fn unfit(name: Name<'_>) -> Option<&'static str> {
    const WIRE_LIMIT_BYTES: usize = 255;
    const WILDCARD_BYTES: usize = 2;
    if name.as_wire().len() + WILDCARD_BYTES + ORIGIN_LIMIT_BYTES > WIRE_LIMIT_BYTES {
        return Some("the name is too long to stand in a zone");
    }
    // The zone's own words: rpz-ip, rpz-client-ip, rpz-nsdname, rpz-nsip.
    let last = name.labels().last()?;
    last.starts_with(b"rpz-").then_some("top-level names that start with rpz- are the zone's own words")
}

fn write_records(body: &mut String, owner: &str, rule: &Rule, notes: &mut Notes) {
    let Does::Block(answer, ttl_secs) = does(rule) else {
        return write(body, owner, TTL_SECS, "CNAME rpz-passthru.");
    };
    match answer {
        Answer::NxDomain => write(body, owner, ttl_secs, "CNAME ."),
        Answer::NoData => write(body, owner, ttl_secs, "CNAME *."),
        Answer::Drop => write(body, owner, ttl_secs, "CNAME rpz-drop."),
        Answer::Refused => {
            notes.whole(rule, Effect::Otherwise, "answer = \"refused\" has no word; answered NXDOMAIN");
            write(body, owner, ttl_secs, "CNAME .");
        }
        Answer::Addresses { a, aaaa } => {
            if let Some(a) = a {
                write(body, owner, ttl_secs, &format!("A {a}"));
            }
            if let Some(aaaa) = aaaa {
                write(body, owner, ttl_secs, &format!("AAAA {aaaa}"));
            }
        }
    }
}

fn write(body: &mut String, owner: &str, ttl_secs: u32, record: &str) {
    let written = if ttl_secs == TTL_SECS {
        writeln!(body, "{owner} {record}")
    } else {
        writeln!(body, "{owner} {ttl_secs} {record}")
    };
    written.expect("writing to a String does not fail");
}
