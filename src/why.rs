//! `interdict why`: the running agent's decisions explained, or those of policy files, or of the past.

use std::fs::File;
use std::io::{self, BufRead, BufReader, BufWriter, Write};
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use anyhow::Context;
use interdict_policy::{Ask, Policy, Timestamp};

use crate::cli::{Outcome, WhyArgs};
use crate::explain::{Asker, Explanation, explain};
use crate::{control, files, history};

/// Questions put to the agent at once.
const BATCH_LIMIT: usize = 1000;
/// Longest line of a batch in bytes: more than any name takes.
const LINE_LIMIT_BYTES: u64 = 4096;

pub(crate) fn why(args: &WhyArgs) -> anyhow::Result<Outcome> {
    let Some(judge) = judge(args)? else { return Ok(Outcome::Finding) };
    let mut out = BufWriter::new(io::stdout().lock());
    let mut asks = Vec::new();
    for (number, what) in whats(args)?.enumerate() {
        let what = what?;
        let ask: Ask = what.parse().map_err(|wrong| match args.batch {
            Some(_) => anyhow::anyhow!("line {}: {wrong}", number + 1),
            None => anyhow::Error::msg(wrong),
        })?;
        asks.push(ask);
        if asks.len() == BATCH_LIMIT {
            print(&judge.explain(&asks)?, args, &mut out)?;
            asks.clear();
        }
    }
    if !asks.is_empty() {
        print(&judge.explain(&asks)?, args, &mut out)?;
    }
    out.flush()?;
    Ok(Outcome::Done)
}

/// What is asked: the words of the command line, or the lines of a file. Empty lines and comments ask nothing.
fn whats(args: &WhyArgs) -> anyhow::Result<Box<dyn Iterator<Item = anyhow::Result<String>>>> {
    let Some(batch) = &args.batch else { return Ok(Box::new(args.what.clone().into_iter().map(Ok))) };
    let mut reader: Box<dyn BufRead> = match batch.as_os_str() == "-" {
        true => Box::new(BufReader::new(io::stdin())),
        false => {
            let file = File::open(batch).with_context(|| format!("cannot read {}", batch.display()))?;
            Box::new(BufReader::new(file))
        }
    };
    let mut next_line = move || -> anyhow::Result<Option<String>> {
        let mut line = String::new();
        let read = io::Read::take(&mut reader, LINE_LIMIT_BYTES).read_line(&mut line)?;
        Ok((read > 0).then_some(line))
    };
    let lines = std::iter::from_fn(move || next_line().transpose());
    Ok(Box::new(lines.filter_map(|line| match line {
        Ok(line) => match line.split('#').next().unwrap_or_default().trim() {
            "" => None,
            what => Some(Ok(what.to_owned())),
        },
        Err(error) => Some(Err(error)),
    })))
}

/// Who explains.
enum Judge {
    Agent { socket: PathBuf, client: Option<IpAddr> },
    Policy { policy: Box<Policy>, asker: Asker },
}

impl Judge {
    fn explain(&self, asks: &[Ask]) -> anyhow::Result<Vec<Explanation>> {
        match self {
            Judge::Policy { policy, asker } => {
                Ok(asks.iter().map(|ask| explain(policy, ask, asker)).collect())
            }
            Judge::Agent { socket, client } => {
                let asks = asks.iter().map(ToString::to_string).collect();
                let answer = control::ask(socket, &control::Request::Why { asks, client: *client })?;
                Ok(serde_json::from_value(answer["answers"].clone())?)
            }
        }
    }
}

/// The policy of the past, that of the files named, the running agent, or the embedded pack. `None` when the files are
/// not in order, which was said.
fn judge(args: &WhyArgs) -> anyhow::Result<Option<Judge>> {
    if let Some(at) = &args.at {
        let at = history::time(at)?;
        let data = args.data.as_deref().map_or_else(|| running_data(args), |data| Ok(data.to_owned()))?;
        let policy = Box::new(history::policy_at(&data, at)?);
        return Ok(Some(Judge::Policy { policy, asker: Asker { client: args.client, at } }));
    }
    let socket = args.control.socket();
    if args.policy.is_empty() && args.profile.is_none() {
        match control::ask(&socket, &control::Request::Why { asks: vec![], client: None }) {
            Ok(_) => return Ok(Some(Judge::Agent { socket, client: args.client })),
            Err(error) if args.control.control.is_some() => return Err(error),
            Err(_) => {}
        }
    }
    match files::compile_paths(&args.policy, args.profile.as_deref()) {
        Ok(compiled) => {
            let asker = Asker { client: args.client, at: Timestamp::now() };
            Ok(Some(Judge::Policy { policy: Box::new(compiled.policy), asker }))
        }
        Err(problems) => {
            eprintln!("{problems}");
            Ok(None)
        }
    }
}

fn running_data(args: &WhyArgs) -> anyhow::Result<PathBuf> {
    let status = control::ask(&args.control.socket(), &control::Request::Status)
        .context("whose record? name its folder with --data DIR")?;
    Ok(Path::new(status["data"].as_str().context("the agent names no data folder")?).to_owned())
}

fn print(answers: &[Explanation], args: &WhyArgs, out: &mut impl Write) -> anyhow::Result<()> {
    for answer in answers {
        if args.control.json {
            serde_json::to_writer(&mut *out, answer)?;
            out.write_all(b"\n")?;
        } else {
            writeln!(out, "{}", answer.for_people())?;
        }
    }
    Ok(())
}
