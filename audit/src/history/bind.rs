//! BIND's categories `queries` and `rpz` (BIND 9 ARM, "The category Phrase"), from a file or by way of syslog:
//! `client @0x7f… 10.0.0.5#53124 (name): query: name IN A +E(0)TK (192.0.2.53)`.

use std::net::IpAddr;

use super::pairs::{Pairs, Tell};
use super::stamp::Stamps;
use super::{Line, Noted, Observed, Question, name};

/// Actions of a policy zone that let a question pass.
const PASSING: [&str; 3] = [" PASSTHRU ", " DISABLED ", " TCP-ONLY "];

pub(super) struct Lines {
    pub(super) stamps: Stamps,
}

impl super::Lines for Lines {
    fn line(&mut self, line: &str, pairs: &mut Pairs<'_>) -> Line {
        let Some((before, rest)) = line.split_once("client ") else { return Line::Other };
        let read = if let Some((client, query)) = rest.split_once(": query: ") {
            asked(client, query)
        } else {
            match rest.split_once(": rpz ") {
                Some((client, rewrite)) if !PASSING.iter().any(|word| rewrite.contains(word)) => {
                    rewritten(client, rewrite)
                }
                _ => return Line::Other,
            }
        };
        let (Some((client, tell, question)), Some(time)) = (read, self.stamps.leading(before)) else {
            return Line::Strange;
        };
        if !question.is_blocked {
            pairs.came(time, client, tell, question);
            return Line::Entry;
        }
        // The question itself stands before, if it is noted; of one that is not, nothing more is said.
        if pairs.judged(time, client, tell, &question) {
            return Line::Other;
        }
        pairs.whole(Observed { time, client, what: Noted::Asked(question) });
        Line::Entry
    }
}

type Read = Option<(IpAddr, Tell, Question)>;

/// `NAME CLASS TYPE FLAGS (SERVER)`.
fn asked(client: &str, query: &str) -> Read {
    let mut words = query.split(' ');
    let (name, _, rtype, flags) = (words.next()?, words.next()?, words.next()?, words.next().unwrap_or("+"));
    let channel = if flags.contains('T') { "tcp" } else { "udp" };
    read(client, name, rtype, Some(channel))
}

/// `QNAME NXDOMAIN rewrite NAME/TYPE/CLASS via ZONE`.
fn rewritten(client: &str, rewrite: &str) -> Read {
    let mut words = rewrite.split(' ');
    let _ = (words.next()?, words.next()?, words.next().filter(|word| *word == "rewrite")?);
    let mut asked = words.next()?.rsplitn(3, '/');
    let (_, rtype, name) = (asked.next()?, asked.next()?, asked.next()?);
    let (client, tell, question) = read(client, name, rtype, None)?;
    Some((client, tell, Question { is_blocked: true, ..question }))
}

/// `@0x7f… ADDRESS#PORT (NAME)`, and perhaps a key and a view behind it.
fn read(client: &str, name: &str, rtype: &str, channel: Option<&'static str>) -> Read {
    let word = client.split(' ').find(|word| word.contains('#'))?;
    let (client, port) = word.split_once('#')?;
    // A signed question names its key there.
    let port = port.split(['/', ':']).next()?.parse().ok()?;
    let question = Question {
        name: name::read(name)?,
        rtype: rtype.to_owned(),
        channel,
        resolver: None,
        is_blocked: false,
        answers: Vec::new(),
    };
    Some((client.parse().ok()?, Tell { port, id: 0 }, question))
}
