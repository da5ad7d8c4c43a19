//! AdGuard Home's query log: a JSON object a line.

use std::borrow::Cow;
use std::net::IpAddr;

use base64::Engine;
use jiff::Timestamp;
use serde::Deserialize;

use super::pairs::Pairs;
use super::{Line, Noted, Observed, Question, message, name};

#[derive(Deserialize)]
#[serde(rename_all = "UPPERCASE")]
struct Entry<'e> {
    t: Timestamp,
    ip: IpAddr,
    #[serde(borrow)]
    qh: Cow<'e, str>,
    #[serde(borrow)]
    qt: Cow<'e, str>,
    /// How it came; empty for UDP and TCP.
    #[serde(borrow, default)]
    cp: Cow<'e, str>,
    #[serde(default, rename = "Result")]
    result: Filtered,
    /// The message that was sent, in Base64.
    #[serde(borrow, default, rename = "Answer")]
    answer: Option<Cow<'e, str>>,
}

#[derive(Default, Deserialize)]
struct Filtered {
    #[serde(default, rename = "IsFiltered")]
    is_filtered: bool,
}

pub(super) struct Lines;

impl super::Lines for Lines {
    fn line(&mut self, line: &str, pairs: &mut Pairs<'_>) -> Line {
        if line.is_empty() {
            return Line::Other;
        }
        let Ok(entry) = serde_json::from_str::<Entry<'_>>(line) else { return Line::Strange };
        let Some(name) = name::read(&entry.qh) else { return Line::Strange };
        let channel = match &*entry.cp {
            "dot" | "tls" => Some("dot"),
            "doh" | "https" => Some("doh"),
            "doq" | "quic" => Some("doq"),
            _ => None,
        };
        let sent = entry.answer.and_then(|answer| {
            let bytes = base64::engine::general_purpose::STANDARD.decode(&*answer).ok()?;
            message::read(&bytes)
        });
        let question = Question {
            name,
            rtype: entry.qt.into_owned(),
            channel,
            resolver: None,
            is_blocked: entry.result.is_filtered,
            answers: sent.map(|sent| sent.question.answers).unwrap_or_default(),
        };
        pairs.whole(Observed { time: entry.t, client: entry.ip, what: Noted::Asked(question) });
        Line::Entry
    }
}
