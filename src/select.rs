//! Which events somebody wants to see.

use std::net::IpAddr;
use std::str::FromStr;

use clap::Args;
use interdict_policy::IpNet;
use jiff::Timestamp;
use serde_json::Value;

use crate::history;

/// Events that are asked for: each word narrows them, and of one kind of word any may hold.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct Selection {
    /// Only of this client, or of a network's; repeat for several
    #[arg(long, value_name = "IP|NETWORK")]
    client: Vec<Clients>,
    /// Only of this unit; repeat for several
    #[arg(long, value_name = "ID")]
    unit: Vec<String>,
    /// Only by this rule; repeat for several
    #[arg(long, value_name = "ID")]
    rule: Vec<String>,
    /// Only of rules of this role; repeat for several
    #[arg(long, value_name = "ROLE")]
    role: Vec<String>,
    /// Only with this verdict: block, log, allow or exempt; repeat for several
    #[arg(long, value_name = "VERDICT")]
    verdict: Vec<String>,
    /// Only of this plane: dns, packet, admin or selftest; repeat for several
    #[arg(long, value_name = "PLANE")]
    plane: Vec<String>,
    /// Only acts of this name, such as policy.applied; repeat for several
    #[arg(long, value_name = "ACT")]
    act: Vec<String>,
    /// Only from this time on: 2026-11-24T03:00:00Z, or a day
    #[arg(long, value_name = "TIME", value_parser = time)]
    from: Option<Timestamp>,
    /// Only before this time
    #[arg(long, value_name = "TIME", value_parser = time)]
    to: Option<Timestamp>,
}

fn time(text: &str) -> Result<Timestamp, String> {
    history::time(text).map_err(|error| error.to_string())
}

/// A client, or the clients of a network.
#[derive(Clone, Copy, Debug)]
struct Clients(IpNet);

impl FromStr for Clients {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let address = text.parse::<IpAddr>().map(IpNet::from);
        address
            .or_else(|_| text.parse())
            .map(Self)
            .map_err(|_| "write an address, or a network such as 10.1.0.0/16".to_owned())
    }
}

impl Selection {
    /// Whether everything is asked for.
    pub(crate) fn is_all(&self) -> bool {
        let Self { client, unit, rule, role, verdict, plane, act, from, to } = self;
        let words = [unit, rule, role, verdict, plane, act];
        client.is_empty() && words.iter().all(|words| words.is_empty()) && from.is_none() && to.is_none()
    }

    /// Whether an event is asked for.
    pub(crate) fn has(&self, event: &Value) -> bool {
        let is_one = |wanted: &[String], key: &str| {
            wanted.is_empty()
                || event[key].as_str().is_some_and(|word| wanted.iter().any(|wanted| wanted == word))
        };
        let client = || event["client"].as_str().and_then(|client| client.parse::<IpAddr>().ok());
        let is_client = self.client.is_empty()
            || client()
                .is_some_and(|client| self.client.iter().any(|Clients(network)| network.contains(&client)));
        let time = || event["time"].as_str().and_then(|time| time.parse::<Timestamp>().ok());
        let is_then = self.from.is_none() && self.to.is_none()
            || time().is_some_and(|time| {
                self.from.is_none_or(|from| time >= from) && self.to.is_none_or(|to| time < to)
            });
        is_one(&self.unit, "unit")
            && is_one(&self.rule, "rule")
            && is_one(&self.role, "role")
            && is_one(&self.verdict, "verdict")
            && is_one(&self.plane, "plane")
            && is_one(&self.act, "act")
            && is_client
            && is_then
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;
    use serde_json::json;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        selection: Selection,
    }

    #[test]
    fn words_of_one_kind_widen_and_of_several_narrow() {
        let event = json!({ "client": "10.1.2.3", "unit": "hq", "rule": "v", "role": "update", "verdict": "block",
            "plane": "dns", "act": null, "time": "2026-11-26T09:00:00.000000Z" });
        for (words, has) in [
            ("", true),
            ("--client 10.1.2.3", true),
            ("--client 10.1.0.0/16", true),
            ("--client 10.2.0.0/16", false),
            ("--client ::/0", false),
            ("--client 10.2.0.0/16 --client 10.1.2.3", true),
            ("--unit hq --rule v --role update --verdict block --plane dns", true),
            ("--unit hq --rule w", false),
            ("--rule w --rule v", true),
            ("--act policy.applied", false),
            ("--from 2026-11-26", true),
            ("--from 2026-11-26 --to 2026-11-26T09:00:00Z", false),
            ("--to 2026-11-27", true),
        ] {
            let words = std::iter::once("x").chain(words.split_whitespace());
            let selection = Line::try_parse_from(words.clone()).unwrap().selection;
            assert_eq!(selection.has(&event), has, "{:?}", words.collect::<Vec<_>>());
        }
        assert!(Line::try_parse_from(["x", "--client", "nobody"]).is_err());
        assert!(Line::try_parse_from(["x", "--from", "soon"]).is_err());
        assert!(Selection::default().is_all());
    }
}
