//! `interdict status` and `interdict reload`: what the running agent says.

use std::path::Path;

use anyhow::Context;
use interdict_policy::printable;
use serde_json::{Value, json};

use crate::cli::{ControlArgs, Outcome};
use crate::control::{self, Request};
use crate::out;

pub(crate) fn status(args: &ControlArgs) -> anyhow::Result<Outcome> {
    let status = match control::ask(&args.socket(), &Request::Status) {
        Ok(status) => status,
        Err(error) => {
            let left = interdict_ebpf_loader::in_place(Path::new(interdict_ebpf_loader::DEFAULT_PIN));
            if args.json {
                let warning = format!("{error:#}");
                out::line(json!({ "in_force": false, "warning": warning, "left_filtered": left }))?;
                return Ok(Outcome::Finding);
            }
            out::say(format_args!("not in force: {error:#}"))?;
            if !left.is_empty() {
                out::say(format_args!(
                    "packets on {} are filtered all the same, by the last policy of the agent that left its programs there \
                     (interdict unload removes them)",
                    left.join(", ")
                ))?;
            }
            return Ok(Outcome::Finding);
        }
    };
    if args.json {
        out::line(&status)?;
    } else {
        out::line(for_people(&status))?;
    }
    Ok(if status["in_force"] == true { Outcome::Done } else { Outcome::Finding })
}

/// `interdict probe`: what the agent's test of itself finds now.
pub(crate) fn probe(args: &ControlArgs) -> anyhow::Result<Outcome> {
    let tested = control::ask(&args.socket(), &Request::Probe)?;
    if args.json {
        out::line(&tested)?;
    } else {
        let text = |value: &Value| printable(value.as_str().unwrap_or("-")).into_owned();
        for test in tested["dns"].as_array().into_iter().flatten() {
            out::line(format_args!(
                "dns     {:24} {:8} {}",
                text(&test["listen"]),
                text(&test["outcome"]),
                text(&test["why"])
            ))?;
        }
        if let Some(interfaces) = tested["packet"]["interfaces"].as_array() {
            let interfaces: Vec<String> = interfaces.iter().map(text).collect();
            let (outcome, why) = (text(&tested["packet"]["outcome"]), text(&tested["packet"]["why"]));
            out::line(format_args!("packet  {:24} {outcome:8} {why}", interfaces.join(", ")))?;
        }
    }
    Ok(if tested["passed"] == true { Outcome::Done } else { Outcome::Finding })
}

fn for_people(status: &Value) -> String {
    let text = |value: &Value| printable(value.as_str().unwrap_or("none")).into_owned();
    let list = |value: &Value| {
        let items = value.as_array().cloned().unwrap_or_default();
        items.iter().map(text).collect::<Vec<_>>().join(", ")
    };
    let mut lines = vec![format!("policy   {}", text(&status["digest"]))];
    for policy in status["policies"].as_array().into_iter().flatten() {
        lines.push(format!("         {}", text(&policy["path"])));
    }
    if !status["profile"].is_null() {
        lines.push(format!("profile  {}", text(&status["profile"])));
    }
    for exemption in status["exemptions"].as_array().into_iter().flatten() {
        let ends = if exemption["ended"] == true { "ENDED" } else { "ends" };
        lines.push(format!("exempt   {}, {ends} {}", text(&exemption["id"]), text(&exemption["expires"])));
    }
    if !status["warning"].is_null() {
        lines.push(format!("WARNING  {}", text(&status["warning"])));
    }
    lines.push(format!("dns      listening on {}", list(&status["planes"]["dns"]["listen"])));
    lines.push(format!("         asking {}", list(&status["planes"]["dns"]["upstreams"])));
    let packet = &status["planes"]["packet"];
    let filtered = packet["interfaces"].as_array().into_iter().flatten();
    let filtered: Vec<String> = filtered
        .map(|interface| format!("{} ({})", text(&interface["name"]), text(&interface["role"])))
        .collect();
    lines.push(match filtered.as_slice() {
        _ if packet.is_null() => "packets  no packet plane".to_owned(),
        [] => "packets  filtered on no interface".to_owned(),
        names => format!("packets  filtered on {}", names.join(", ")),
    });
    lines.extend(addresses(&status["addresses"]));
    lines.extend(resolve_banned(&status["resolve_banned"]));
    if !packet["pins"]["unavailable"].is_null() {
        let why = text(&packet["pins"]["unavailable"]);
        lines.push(format!("WARNING  nothing stays when the agent ends: {why}"));
    }
    lines.push(format!("record   {}", text(&status["data"])));
    if !status["console"].is_null() {
        lines.push(format!("metrics  http://{}/metrics", text(&status["console"])));
    }
    for (name, value) in status["counters"]["dns"].as_object().into_iter().flatten() {
        lines.push(format!("{:>12} {name}", value.to_string()));
    }
    for counted in status["counters"]["packet"]["rules"].as_array().into_iter().flatten() {
        let [rule, verdict] = ["rule", "verdict"].map(|key| text(&counted[key]));
        lines.push(format!("{:>12} packets: {verdict} by {rule}", counted["packets"].to_string()));
    }
    lines.join("\n")
}

/// What answers told of addresses; nothing where no packets are filtered.
fn addresses(addresses: &Value) -> Vec<String> {
    if addresses.is_null() {
        return Vec::new();
    }
    let [opened, to_clients, learned, shared, overflow] =
        ["opened", "opened_to_clients", "learned", "shared", "overflow"].map(|key| &addresses[key]);
    let mut lines = vec![format!(
        "answers  {opened} addresses opened, {to_clients} opened to one client, {learned} learned, {shared} shared"
    )];
    let refused = addresses["refused"].as_object().into_iter().flatten();
    let refused =
        refused.filter(|(_, count)| **count != 0).map(|(reason, count)| format!("{count} {reason}"));
    let refused: Vec<String> = refused.collect();
    if !refused.is_empty() {
        lines.push(format!("         not learned: {}", refused.join(", ")));
    }
    if *overflow != 0 {
        lines.push(format!("         {overflow} found no room in the kernel"));
    }
    lines
}

/// The last round of questions for banned names; nothing where there are none.
fn resolve_banned(rounds: &Value) -> Vec<String> {
    let last = &rounds["last"];
    match (rounds.is_null(), last.is_null()) {
        (true, _) => Vec::new(),
        (false, true) => vec!["banned   names are resolved; no round is done yet".to_owned()],
        (false, false) => {
            let at = printable(last["at"].as_str().unwrap_or_default()).into_owned();
            let [names, addresses, failures, left_out] =
                ["names", "addresses", "failures", "left_out"].map(|key| &last[key]);
            vec![format!(
                "banned   {names} names resolved {at}: {addresses} addresses, {failures} failed, {left_out} left out"
            )]
        }
    }
}

pub(crate) fn reload(args: &ControlArgs) -> anyhow::Result<Outcome> {
    let answer = control::ask(&args.socket(), &Request::Reload).context("cannot reload")?;
    if args.json {
        out::line(&answer)?;
    } else if answer["applied"] == true {
        out::line(format_args!("in force: {}", answer["digest"].as_str().unwrap_or_default()))?;
    } else {
        let [problems, digest] = ["problems", "digest"].map(|key| answer[key].as_str().unwrap_or_default());
        out::say(format_args!("{problems}\nrefused; the policy in force stays {digest}"))?;
    }
    Ok(if answer["applied"] == true { Outcome::Done } else { Outcome::Finding })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_answers_told_is_said_in_a_line_and_what_went_wrong_in_others() {
        let quiet = json!({ "opened": 3, "opened_to_clients": 0, "learned": 2, "shared": 1, "overflow": 0,
                            "refused": { "ours": 0, "safe": 0 } });
        let line = "answers  3 addresses opened, 0 opened to one client, 2 learned, 1 shared";
        assert_eq!(addresses(&quiet), [line]);
        let mut loud = quiet.clone();
        loud["refused"] = json!({ "ours": 4, "safe": 0, "public_resolver": 1 });
        loud["overflow"] = 7.into();
        assert_eq!(
            addresses(&loud),
            [
                line,
                "         not learned: 4 ours, 1 public_resolver",
                "         7 found no room in the kernel"
            ]
        );
        assert!(addresses(&Value::Null).is_empty());
    }

    #[test]
    fn the_last_round_is_said() {
        let mut rounds = json!({ "every_secs": 3600, "failures": 2, "last": null });
        assert_eq!(resolve_banned(&rounds), ["banned   names are resolved; no round is done yet"]);
        rounds["last"] = json!({ "at": "2026-11-25T19:00:00Z", "names": 1000, "addresses": 1200, "failures": 2,
                                 "left_out": 3 });
        assert_eq!(
            resolve_banned(&rounds),
            ["banned   1000 names resolved 2026-11-25T19:00:00Z: 1200 addresses, 2 failed, 3 left out"]
        );
        assert!(resolve_banned(&Value::Null).is_empty());
    }
}
