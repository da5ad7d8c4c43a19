//! `interdict export`: the policy in the words of another program. The file goes to stdout, and what it cannot say to
//! stderr.

use std::io::Write;
use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Context;
use interdict_policy::export::{Exported, Speaker, Unsaid, export};
use serde_json::json;

use crate::cli::{ControlArgs, ExportArgs, Outcome};
use crate::{control, files, out};

pub(crate) fn run(args: &ExportArgs) -> anyhow::Result<Outcome> {
    let paths = if args.policy.is_empty() { in_force(&args.control)? } else { args.policy.clone() };
    let policy = match files::compile_paths(&paths, args.profile.as_deref()) {
        Ok(compiled) => compiled.policy,
        Err(problems) => {
            out::say(problems)?;
            return Ok(Outcome::Finding);
        }
    };
    let Exported { text, unsaid } = export(&policy, args.format, args.serial.unwrap_or_else(now_secs));
    if args.control.json {
        out::line(json!({
            "format": args.format.as_str(),
            "digest": policy.digest().to_string(),
            "text": text,
            "unsaid": unsaid.iter().map(shape).collect::<Vec<_>>(),
        }))?;
        return Ok(Outcome::Done);
    }
    std::io::stdout().write_all(text.as_bytes()).context("cannot write to stdout")?;
    if !unsaid.is_empty() {
        out::say(format_args!("what the policy says and {} does not:", args.format))?;
    }
    for item in &unsaid {
        out::say(format_args!("- {item}"))?;
    }
    Ok(Outcome::Done)
}

fn shape(unsaid: &Unsaid) -> serde_json::Value {
    let rule = if let Speaker::Rule(rule) = &unsaid.by { Some(rule) } else { None };
    json!({
        "rule": rule,
        "table": (unsaid.by == Speaker::EgressDns).then_some("egress_dns"),
        "effect": unsaid.effect,
        "why": unsaid.why,
        "about": unsaid.about.iter().map(ToString::to_string).collect::<Vec<_>>(),
    })
}

/// The policy that the running agent has in force, as it keeps it; none where no agent runs.
fn in_force(args: &ControlArgs) -> anyhow::Result<Vec<PathBuf>> {
    let status = match control::ask(&args.socket(), &control::Request::Status) {
        Ok(status) => status,
        Err(error) if args.control.is_some() => return Err(error),
        Err(_) => return Ok(Vec::new()),
    };
    let text = |key: &str| status[key].as_str().with_context(|| format!("the agent does not say its {key}"));
    Ok(vec![PathBuf::from(text("data")?).join("policies").join(text("digest")?)])
}

/// Seconds since 1970: a serial that grows from one export to the next.
fn now_secs() -> u32 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(1, |age| age.as_secs() as u32)
}
