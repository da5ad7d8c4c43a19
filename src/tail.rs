//! `interdict tail`: the record, as it is written.

use std::io::Write;
use std::time::Duration;

use anyhow::Context;
use interdict_audit::{Format, Start, Tail};
use interdict_policy::printable;
use serde_json::Value;

use crate::audit::{data_folder, number};
use crate::cli::{Outcome, TailArgs};

/// How often the record is looked at for more.
const LOOK_EVERY: Duration = Duration::from_millis(200);

pub(crate) fn tail(args: &TailArgs) -> anyhow::Result<Outcome> {
    let data = data_folder(args.data.as_ref(), &args.control)?;
    let start = match (&args.after, args.last) {
        (Some(id), _) => Start::After(number(id)?),
        (None, Some(events)) => Start::LastN(events),
        (None, None) => Start::Beginning,
    };
    let mut tail = Tail::open(&data, start).with_context(|| format!("no record in {}", data.display()))?;
    let format = args.format.or(args.control.json.then_some(Format::Json));
    let mut out = std::io::stdout().lock();
    // A closed pipe is how `tail | head` ends.
    if let Some(header) = format.and_then(Format::header)
        && writeln!(out, "{header}").is_err()
    {
        return Ok(Outcome::Done);
    }
    loop {
        let lines = tail.next_lines()?;
        let more = !lines.is_empty();
        for line in lines.into_iter().filter(|line| is_asked_for(args, line)) {
            let shown = match format {
                Some(Format::Json) => line,
                Some(format) => format.write(&line),
                None => printable(&for_people(&line)).into_owned(),
            };
            if writeln!(out, "{shown}").is_err() {
                return Ok(Outcome::Done);
            }
        }
        if !more {
            if args.no_follow {
                return Ok(Outcome::Done);
            }
            std::thread::sleep(LOOK_EVERY);
        }
    }
}

fn is_asked_for(args: &TailArgs, line: &str) -> bool {
    args.selection.is_all() || serde_json::from_str(line).is_ok_and(|event| args.selection.has(&event))
}

/// One event in one line: when, what, who, what was asked, by which rule.
fn for_people(line: &str) -> String {
    let Ok(event) = serde_json::from_str::<Value>(line) else { return line.to_owned() };
    let text = |value: &Value| value.as_str().unwrap_or("-").to_owned();
    // What others noted is shown at its own time.
    let time = text(&event[if event["origin"].is_null() { "time" } else { "first" }]);
    if let Some(act) = event["act"].as_str().filter(|_| event["asked"].is_null()) {
        return format!("{time}  {act:14} {}", event["detail"]);
    }
    let asked = &event["asked"];
    let what = match asked["name"].as_str() {
        Some(name) => {
            let via = asked["via"].as_str().map_or(String::new(), |via| format!(" (via {via})"));
            let at = asked["resolver"].as_str().map_or(String::new(), |resolver| format!(" at {resolver}"));
            format!("{name} {}{at}{via}", text(&asked["type"]))
        }
        None => {
            let port = asked["port"].as_u64().map_or(String::new(), |port| format!(" port {port}"));
            format!("{}{port} {}", text(&asked["address"]), text(&asked["protocol"]))
        }
    };
    let process = match event["process"]["pid"].as_u64() {
        Some(pid) => format!(" by {} ({pid})", printable(&text(&event["process"]["name"]))),
        None => String::new(),
    };
    let server = match event["detail"]["server_name"].as_str() {
        Some(name) => format!(" for {}", printable(name)),
        None => String::new(),
    };
    let depth = match event["act"].as_str() {
        Some(_) => {
            let [out, back] = ["bytes_out", "bytes_in"].map(|key| event["detail"][key].as_u64().unwrap_or(0));
            format!(", {}: {out} bytes out, {back} back", text(&event["depth"]))
        }
        None => String::new(),
    };
    let count = event["count"].as_u64().filter(|count| *count > 1);
    let count = count.map_or(String::new(), |count| format!(" x{count}"));
    let origin = match event["origin"]["source"].as_str() {
        Some(source) => format!("  (by {})", printable(source)),
        None => String::new(),
    };
    format!(
        "{time}  {:6} {:4} {:15} {what}{server}{process}{count}{depth}  [{}]{origin}",
        text(&event["verdict"]),
        text(&event["channel"]),
        text(&event["client"]),
        text(&event["rule"])
    )
}
