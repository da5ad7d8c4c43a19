//! A hosts file: one name a line, and nothing about what is below it.

use std::fmt::Write;

use super::outline::{Does, Reach, blocking, does, note_rest, outline};
use super::unsaid::{About, Effect, Notes};
use super::{Exported, Format, finish};
use crate::policy::Policy;
use crate::rule::Answer;

const USAGE: &str = "Append it to /etc/hosts, or give it to a resolver that reads such files.";

pub(super) fn export(policy: &Policy) -> Exported {
    let mut notes = Notes::default();
    notes.every_rule("contacts are not recorded");
    notes.every_rule(
        "a hosts file speaks of addresses only; a resolver that reads it may look up other types",
    );
    let mut body = String::new();
    for spot in outline(policy) {
        if let Some(rule) = blocking(spot.below()) {
            let why = "a hosts file cannot say what is below a name";
            notes.part(rule, Effect::LetThrough, why, About::Below(spot.name.clone()));
        }
        let Some(rule) = blocking(spot.at()) else { continue };
        let (a, aaaa) = match does(rule) {
            Does::Block(Answer::Addresses { a, aaaa }, _) => (a, aaaa),
            _ => {
                notes.whole(
                    rule,
                    Effect::Otherwise,
                    "a hosts file can only answer addresses; answered with null",
                );
                (Some(std::net::Ipv4Addr::UNSPECIFIED), Some(std::net::Ipv6Addr::UNSPECIFIED))
            }
        };
        let name = &spot.name;
        a.map_or(Ok(()), |a| writeln!(body, "{a} {name}")).expect("writing to a String does not fail");
        aaaa.map_or(Ok(()), |aaaa| writeln!(body, "{aaaa} {name}"))
            .expect("writing to a String does not fail");
    }
    note_rest(policy, Reach::Names, &mut notes);
    finish(policy, Format::Hosts, "#", USAGE, &body, notes)
}
