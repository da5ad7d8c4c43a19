//! `interdict status` and `interdict reload`: what the running agent says.

use anyhow::Context;
use serde_json::Value;

use crate::cli::{ControlArgs, Outcome};
use crate::control::{self, Request};

pub(crate) fn status(args: &ControlArgs) -> anyhow::Result<Outcome> {
    let status = match control::ask(&args.socket(), &Request::Status) {
        Ok(status) => status,
        Err(error) => {
            eprintln!("not in force: {error:#}");
            return Ok(Outcome::Finding);
        }
    };
    if args.json {
        println!("{status}");
    } else {
        print_status(&status);
    }
    Ok(if status["in_force"] == true { Outcome::Done } else { Outcome::Finding })
}

fn print_status(status: &Value) {
    let text = |value: &Value| value.as_str().unwrap_or("none").to_owned();
    let list = |value: &Value| {
        let items = value.as_array().cloned().unwrap_or_default();
        items.iter().map(text).collect::<Vec<_>>().join(", ")
    };
    println!("policy   {}", text(&status["digest"]));
    for policy in status["policies"].as_array().into_iter().flatten() {
        println!("         {}", text(&policy["path"]));
    }
    if let Some(profile) = status["profile"].as_str() {
        println!("profile  {profile}");
    }
    for exemption in status["exemptions"].as_array().into_iter().flatten() {
        let ends = if exemption["ended"] == true { "ENDED" } else { "ends" };
        println!("exempt   {}, {ends} {}", text(&exemption["id"]), text(&exemption["expires"]));
    }
    if let Some(warning) = status["warning"].as_str() {
        println!("WARNING  {warning}");
    }
    println!("dns      listening on {}", list(&status["planes"]["dns"]["listen"]));
    println!("         asking {}", list(&status["planes"]["dns"]["upstreams"]));
    let packet = &status["planes"]["packet"];
    let filtered = packet["interfaces"].as_array().into_iter().flatten();
    let filtered: Vec<String> = filtered.map(|interface| text(&interface["name"])).collect();
    match filtered.as_slice() {
        _ if packet.is_null() => println!("packets  no packet plane"),
        [] => println!("packets  filtered on no interface"),
        names => println!("packets  filtered on {}", names.join(", ")),
    }
    println!("record   {}", text(&status["data"]));
    for (name, value) in status["counters"]["dns"].as_object().into_iter().flatten() {
        println!("{value:>12} {name}");
    }
    for counted in status["counters"]["packet"]["rules"].as_array().into_iter().flatten() {
        let [rule, verdict] = ["rule", "verdict"].map(|key| text(&counted[key]));
        println!("{:>12} packets: {verdict} by {rule}", counted["packets"]);
    }
}

pub(crate) fn reload(args: &ControlArgs) -> anyhow::Result<Outcome> {
    let answer = control::ask(&args.socket(), &Request::Reload).context("cannot reload")?;
    if args.json {
        println!("{answer}");
    } else if answer["applied"] == true {
        println!("in force: {}", answer["digest"].as_str().unwrap_or_default());
    } else {
        eprintln!("{}", answer["problems"].as_str().unwrap_or_default());
        eprintln!("refused; the policy in force stays {}", answer["digest"].as_str().unwrap_or_default());
    }
    Ok(if answer["applied"] == true { Outcome::Done } else { Outcome::Finding })
}
