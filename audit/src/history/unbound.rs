//! Unbound's log (unbound.conf(5)): `log-queries`, `log-replies`, `log-local-actions`, and `rpz-log` of a policy zone; by its own
//! time in seconds, as text (`log-time-ascii`, `log-time-iso`), or by way of syslog.

use std::net::IpAddr;

use super::pairs::{Pairs, Tell};
use super::stamp::Stamps;
use super::{Line, Noted, Observed, Question, name};

/// Types of local zones, and actions of policy zones, that keep a question from the name's owner.
const BLOCKING: [&str; 14] = [
    "deny",
    "refuse",
    "static",
    "redirect",
    "always_deny",
    "always_refuse",
    "always_nxdomain",
    "always_nodata",
    "always_null",
    "inform_deny",
    "inform_redirect",
    "rpz-nxdomain",
    "rpz-nodata",
    "rpz-drop",
];
/// Likewise, with an answer of the zone's own.
const REWRITING: [&str; 3] = ["block_a", "rpz-local-data", "rpz-cname-override"];

pub(super) struct Lines {
    pub(super) stamps: Stamps,
}

impl super::Lines for Lines {
    fn line(&mut self, line: &str, pairs: &mut Pairs<'_>) -> Line {
        // Which of the words it is depends on `log-tag-queryreply`.
        let Some((before, said)) =
            ["] info: ", "] query: ", "] reply: "].iter().find_map(|word| line.split_once(word))
        else {
            return Line::Other;
        };
        let words: Vec<&str> = said.split(' ').collect();
        let note = match words.as_slice() {
            // ZONE ACTION CLIENT@PORT NAME TYPE CLASS
            [_, action, client, name, rtype, _] if client.contains('@') => note(client, name, rtype, action),
            ["rpz:", "applied", .., _, action, client, name, rtype, _] => note(client, name, rtype, action),
            [client, name, rtype, class, rest @ ..] if is_class(class) && matches!(rest.len(), 0 | 4..) => {
                note(client, name, rtype, "")
            }
            _ => return Line::Other,
        };
        let Some(Note { client, question, action }) = note else {
            // Clients are addresses in all of these lines: others have as many words by chance.
            return if words[0].parse::<IpAddr>().is_ok() { Line::Strange } else { Line::Other };
        };
        let Some(time) = self.stamps.leading(before) else { return Line::Strange };
        match action {
            // The question itself stands before, if it is noted; of one that is not, nothing more is said.
            Some(is_blocked) => {
                let question = Question { is_blocked, ..question };
                if pairs.judged(time, client, Tell::default(), &question) {
                    return Line::Other;
                }
                pairs.whole(Observed { time, client, what: Noted::Asked(question) });
                Line::Entry
            }
            None if words.len() > 4 => match pairs.answered(time, client, Tell::default(), question) {
                true => Line::Other,
                false => Line::Entry,
            },
            None => {
                pairs.came(time, client, Tell::default(), question);
                Line::Entry
            }
        }
    }
}

struct Note {
    client: IpAddr,
    question: Question,
    /// Of a zone's action, whether it keeps the question from the name's owner.
    action: Option<bool>,
}

fn note(client: &str, name: &str, rtype: &str, action: &str) -> Option<Note> {
    let client = client.split_once('@').map_or(client, |(client, _)| client).parse().ok()?;
    let question = Question {
        name: name::read(name)?,
        rtype: rtype.to_owned(),
        channel: None,
        resolver: None,
        is_blocked: false,
        answers: Vec::new(),
    };
    let is_blocking = BLOCKING.contains(&action) || REWRITING.contains(&action);
    Some(Note { client, question, action: (!action.is_empty()).then_some(is_blocking) })
}

fn is_class(word: &str) -> bool {
    matches!(word, "IN" | "CH" | "HS" | "ANY") || word.starts_with("CLASS")
}
