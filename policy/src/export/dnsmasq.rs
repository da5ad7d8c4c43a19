//! Configuration of dnsmasq 2.86 or later (dnsmasq(8), `--server`, `--local`, `--address`): the longest domain decides,
//! for the name and for all below it.
//!
//! `*.name` matches what ends in `.name`, and being longer than `name` it decides there: so a name can be blocked, or
//! let through, without what is below it. `address=` alone would send every type but A and AAAA to the upstream, so each
//! is written below a `local=`.

use std::fmt::Write;

use super::outline::{Reach, Spot, blocking, does, note_rest, outline};
use super::unsaid::{Effect, Notes};
use super::{Exported, Format, finish};
use crate::policy::Policy;
use crate::rule::{Answer, Rule};

const USAGE: &str = "Include it: conf-file=FILE in dnsmasq.conf; dnsmasq 2.86 or later.";

pub(super) fn export(policy: &Policy) -> Exported {
    let mut notes = Notes::default();
    notes.every_rule("contacts are not recorded; answers carry no extended error that names the rule");
    notes.every_rule("only the name asked for is judged: a CNAME from another name into the ban is followed");
    notes.every_rule("ttl_secs: dnsmasq has one local-ttl for all, and no SOA in its NXDOMAIN");
    let mut body = String::new();
    for spot in outline(policy) {
        write_spot(&mut body, &spot, &mut notes);
    }
    note_rest(policy, Reach::Domains, &mut notes);
    finish(policy, Format::Dnsmasq, "#", USAGE, &body, notes)
}

fn write_spot(body: &mut String, spot: &Spot<'_>, notes: &mut Notes) {
    let name = spot.name.to_string();
    let below = format!("*.{name}");
    let (at, under) = (blocking(spot.at()), blocking(spot.below()));
    match (at, under) {
        (None, None) if blocking(spot.around).is_none() => {}
        (None, None) => write_open(body, &name),
        (Some(rule), Some(other)) if does(rule) == does(other) => write_block(body, &name, rule, notes),
        _ => {
            write_either(body, &name, at, notes);
            write_either(body, &below, under, notes);
        }
    }
}

fn write_either(body: &mut String, pattern: &str, rule: Option<&Rule>, notes: &mut Notes) {
    match rule {
        Some(rule) => write_block(body, pattern, rule, notes),
        None => write_open(body, pattern),
    }
}

fn write_open(body: &mut String, pattern: &str) {
    writeln!(body, "server=/{pattern}/#").expect("writing to a String does not fail");
}

fn write_block(body: &mut String, pattern: &str, rule: &Rule, notes: &mut Notes) {
    writeln!(body, "local=/{pattern}/").expect("writing to a String does not fail");
    match rule.answer {
        Answer::NxDomain => {}
        Answer::NoData | Answer::Refused | Answer::Drop => {
            notes.whole(
                rule,
                Effect::Otherwise,
                "answers other than NXDOMAIN and addresses have no word; NXDOMAIN",
            );
        }
        Answer::NULL => {
            writeln!(body, "address=/{pattern}/#").expect("writing to a String does not fail");
        }
        Answer::Addresses { a, aaaa } => {
            let addresses = [a.map(|a| a.to_string()), aaaa.map(|aaaa| aaaa.to_string())];
            for address in addresses.into_iter().flatten() {
                writeln!(body, "address=/{pattern}/{address}").expect("writing to a String does not fail");
            }
        }
    }
}
