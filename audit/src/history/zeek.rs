//! Zeek's `dns.log` and `conn.log`, in columns (its ASCII writer, with a header) or as JSON.

use std::collections::HashMap;
use std::net::IpAddr;

use jiff::{SignedDuration, Timestamp};
use serde_json::Value;

use super::pairs::Pairs;
use super::stamp::seconds;
use super::{Answer, Flow, Line, Noted, Observed, Question, name};
use crate::entry::Depth;

/// Between the columns, and between the members of a set, unless a header says otherwise.
const SEPARATORS: [&str; 2] = ["\t", ","];

pub(super) struct Lines {
    separators: [String; 2],
    /// What the columns are.
    fields: Vec<String>,
}

impl Default for Lines {
    fn default() -> Self {
        Self { separators: SEPARATORS.map(str::to_owned), fields: Vec::new() }
    }
}

impl super::Lines for Lines {
    fn line(&mut self, line: &str, pairs: &mut Pairs<'_>) -> Line {
        if let Some(header) = line.strip_prefix('#') {
            self.header(header);
            return Line::Other;
        }
        let row = if line.starts_with('{') {
            match serde_json::from_str(line) {
                Ok(Value::Object(members)) => Row::Json(members),
                _ => return Line::Strange,
            }
        } else if line.is_empty() {
            return Line::Other;
        } else {
            let cells = line.split(self.separators[0].as_str());
            let cells = self.fields.iter().map(String::as_str).zip(cells).collect();
            Row::Columns(cells, &self.separators[1])
        };
        if !row.has("id.orig_h") {
            return Line::Strange;
        }
        // Of a question without a name there is a row too.
        let observed = match (row.has("query"), row.has("conn_state")) {
            (true, _) => question(&row),
            (false, true) => flow(&row),
            (false, false) => return Line::Other,
        };
        match observed {
            Some(observed) => {
                pairs.whole(observed);
                Line::Entry
            }
            None => Line::Strange,
        }
    }
}

impl Lines {
    fn header(&mut self, header: &str) {
        if let Some(separator) = header.strip_prefix("separator ") {
            self.separators[0] = unescaped(separator);
        } else if let Some((what, rest)) = header.split_once(self.separators[0].as_str()) {
            match what {
                "fields" => {
                    self.fields = rest.split(self.separators[0].as_str()).map(str::to_owned).collect();
                }
                "set_separator" => self.separators[1] = rest.to_owned(),
                _ => {}
            }
        }
    }
}

/// A text with `\xHH` in it.
fn unescaped(text: &str) -> String {
    let hex = text.strip_prefix("\\x").and_then(|digits| u8::from_str_radix(digits, 16).ok());
    hex.map_or(text.to_owned(), |byte| char::from(byte).to_string())
}

enum Row<'r> {
    Columns(HashMap<&'r str, &'r str>, &'r str),
    Json(serde_json::Map<String, Value>),
}

impl Row<'_> {
    fn has(&self, field: &str) -> bool {
        self.text(field).is_some()
    }

    fn text(&self, field: &str) -> Option<String> {
        match self {
            Self::Columns(cells, _) => cells
                .get(field)
                .filter(|cell| !matches!(**cell, "-" | "(empty)" | ""))
                .map(|cell| (*cell).to_owned()),
            Self::Json(members) => match members.get(field)? {
                Value::String(text) => Some(text.clone()),
                Value::Number(number) => Some(number.to_string()),
                Value::Bool(said) => Some(said.to_string()),
                _ => None,
            },
        }
    }

    fn list(&self, field: &str) -> Vec<String> {
        match self {
            Self::Columns(_, separator) => {
                let text = self.text(field).unwrap_or_default();
                text.split(separator).filter(|part| !part.is_empty()).map(str::to_owned).collect()
            }
            Self::Json(members) => {
                let list = members.get(field).and_then(Value::as_array);
                let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
                list.into_iter().flatten().map(text).collect()
            }
        }
    }

    fn read<T: std::str::FromStr>(&self, field: &str) -> Option<T> {
        self.text(field)?.parse().ok()
    }

    /// Seconds, or RFC 3339 as the JSON writer can be told to write.
    fn time(&self) -> Option<Timestamp> {
        let text = self.text("ts")?;
        seconds(&text).or_else(|| text.parse().ok())
    }
}

fn question(row: &Row<'_>) -> Option<Observed> {
    let ttls = row.list("TTLs");
    let answer = |(place, text): (usize, &String)| match text.parse::<IpAddr>() {
        Ok(address) => {
            let ttl = ttls.get(place).and_then(|ttl| ttl.parse::<f64>().ok()).unwrap_or_default();
            Some(Answer::Address(address, ttl as u32))
        }
        // Texts of other records stand among names, and nothing tells them apart but their looks.
        Err(_) => name::read(text).filter(|_| !text.contains(' ')).map(Answer::Name),
    };
    let channel = match row.text("proto").as_deref() {
        Some("tcp") => Some("tcp"),
        Some("udp") => Some("udp"),
        _ => None,
    };
    let question = Question {
        name: name::read(&row.text("query")?)?,
        rtype: row.text("qtype_name").unwrap_or_else(|| "-".to_owned()),
        channel,
        resolver: row.read("id.resp_h"),
        is_blocked: false,
        answers: row.list("answers").iter().enumerate().filter_map(answer).collect(),
    };
    Some(Observed { time: row.time()?, client: row.read("id.orig_h")?, what: Noted::Asked(question) })
}

fn flow(row: &Row<'_>) -> Option<Observed> {
    let time = row.time()?;
    let protocol = row.text("proto")?;
    let has_ports = matches!(protocol.as_str(), "tcp" | "udp");
    let came_back = row.read::<u64>("resp_pkts").or_else(|| row.read("resp_bytes")).unwrap_or(0) > 0;
    let bytes_back = row.read::<u64>("resp_bytes").unwrap_or(0);
    let depth = match (row.text("conn_state")?.as_str(), bytes_back) {
        (_, 1..) => Depth::Received,
        // No answer, refused, or only one side of it seen (Zeek's documentation of conn_state).
        ("S0" | "REJ" | "RSTOS0" | "RSTRH" | "SH" | "SHR" | "OTH", _) => Depth::Attempted,
        _ if protocol == "tcp" => Depth::Connected,
        _ if came_back => Depth::Received,
        _ => Depth::Attempted,
    };
    let lasted = row.read::<f64>("duration").filter(|secs| (0.0..1e9).contains(secs)).unwrap_or(0.0);
    let flow = Flow {
        address: row.read("id.resp_h")?,
        port: row.read("id.resp_p").filter(|_| has_ports),
        protocol: if protocol == "icmp" { "1".to_owned() } else { protocol },
        packets: row.read("orig_pkts").unwrap_or(1).max(1),
        last: time.checked_add(SignedDuration::from_secs_f64(lasted)).unwrap_or(time),
        depth,
    };
    Some(Observed { time, client: row.read("id.orig_h")?, what: Noted::Sent(flow) })
}
