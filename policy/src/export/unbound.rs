//! Local zones of Unbound (unbound.conf(5), `local-zone`): the zone nearest above a name decides, for the name and for
//! all below it.
//!
//! A zone always speaks for what is below it, with one way out: of a `transparent` zone Unbound answers what stands in
//! its local data and resolves the rest. So a name that is blocked alone is a transparent zone with one record.

use std::fmt::Write;

use super::outline::{Does, Reach, Spot, blocking, does, note_rest, outline};
use super::unsaid::{About, Effect, Notes};
use super::{Exported, Format, finish};
use crate::policy::Policy;
use crate::rule::{Answer, Rule};

const USAGE: &str = "Include it: include: \"FILE\" in unbound.conf.";

/// A record of a private type (RFC 6895 §3.1): with it the name exists, and every type that is asked for is NODATA.
const PLACEHOLDER: &str = "TYPE65280 \\# 0";

pub(super) fn export(policy: &Policy) -> Exported {
    let mut notes = Notes::default();
    notes.every_rule("contacts are not recorded; answers carry no extended error that names the rule");
    notes.every_rule("only the name asked for is judged: a CNAME from another name into the ban is followed");
    notes.every_rule("ttl_secs holds for addresses only: NXDOMAIN and NODATA carry no SOA");
    let mut body = "server:\n".to_owned();
    for spot in outline(policy) {
        write_spot(&mut body, &spot, &mut notes);
    }
    note_rest(policy, Reach::Domains, &mut notes);
    finish(policy, Format::Unbound, "#", USAGE, &body, notes)
}

fn write_spot(body: &mut String, spot: &Spot<'_>, notes: &mut Notes) {
    let name = &spot.name;
    match (blocking(spot.at()), blocking(spot.below())) {
        (None, None) => {
            if blocking(spot.around).is_some() {
                write_zone(body, spot, "transparent");
            }
        }
        (Some(at), None) => write_alone(body, spot, at, notes),
        (Some(at), Some(below)) => {
            if does(at) != does(below) {
                let why = "a name is answered as the domain around it";
                notes.part(at, Effect::Otherwise, why, About::Name(name.clone()));
            }
            if spot.is_domain() {
                write_block(body, spot, below);
            }
        }
        // An exception for one name, with what is below it still banned. Opened with the name would be either what is
        // below one host, or a whole banned domain: that stays shut.
        (None, Some(below)) => {
            let exception = spot.at().unwrap_or(below);
            if spot.is_domain() {
                let why = "a name cannot be let through alone when its whole domain is banned";
                notes.part(exception, Effect::Blocked, why, About::Name(name.clone()));
                write_block(body, spot, below);
            } else {
                let why = "what is below a name that is let through is let through too";
                notes.part(exception, Effect::LetThrough, why, About::Below(name.clone()));
                write_zone(body, spot, "transparent");
            }
        }
    }
}

/// Blocks a name and all below it.
fn write_block(body: &mut String, spot: &Spot<'_>, rule: &Rule) {
    match rule.answer {
        Answer::NxDomain => write_zone(body, spot, "always_nxdomain"),
        Answer::NoData => write_zone(body, spot, "always_nodata"),
        Answer::Refused => write_zone(body, spot, "always_refuse"),
        Answer::Drop => write_zone(body, spot, "always_deny"),
        Answer::Addresses { .. } => {
            write_zone(body, spot, "redirect");
            write_addresses(body, spot, rule);
        }
    }
}

/// Blocks a name and nothing below it.
fn write_alone(body: &mut String, spot: &Spot<'_>, rule: &Rule, notes: &mut Notes) {
    write_zone(body, spot, "transparent");
    match does(rule) {
        Does::Block(Answer::Addresses { .. }, _) => return write_addresses(body, spot, rule),
        Does::Block(Answer::NoData, _) => {}
        _ => {
            let why = "a name that is blocked alone is answered NODATA";
            notes.part(rule, Effect::Otherwise, why, About::Name(spot.name.clone()));
        }
    }
    write_data(body, spot, rule, PLACEHOLDER);
}

fn write_zone(body: &mut String, spot: &Spot<'_>, kind: &str) {
    writeln!(body, "    local-zone: \"{}.\" {kind}", spot.name).expect("writing to a String does not fail");
}

fn write_addresses(body: &mut String, spot: &Spot<'_>, rule: &Rule) {
    let Answer::Addresses { a, aaaa } = rule.answer else { return };
    if let Some(a) = a {
        write_data(body, spot, rule, &format!("A {a}"));
    }
    if let Some(aaaa) = aaaa {
        write_data(body, spot, rule, &format!("AAAA {aaaa}"));
    }
}

fn write_data(body: &mut String, spot: &Spot<'_>, rule: &Rule, record: &str) {
    writeln!(body, "    local-data: \"{}. {} IN {record}\"", spot.name, rule.ttl_secs)
        .expect("writing to a String does not fail");
}
