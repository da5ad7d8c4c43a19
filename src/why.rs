//! `interdict why`: the running agent's decisions explained, or those of policy files, or of the past.

use std::fs::File;
use std::io::{self, BufRead, BufReader, BufWriter, Write};
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use anyhow::Context;
use interdict_policy::{Ask, Policy, Timestamp};
use serde_json::json;

use crate::cli::{Outcome, WhyArgs};
use crate::control::Explaining;
use crate::explain::{Asker, Explanation, explain};
use crate::{control, files, history, out};

/// Questions put to the agent at once.
const BATCH_LIMIT: usize = 1000;
/// Longest line of a batch in bytes: more than any name takes.
const LINE_LIMIT_BYTES: u64 = 4096;

pub(crate) fn why(args: &WhyArgs) -> anyhow::Result<Outcome> {
    let Some(judge) = judge(args)? else { return Ok(Outcome::Finding) };
    let out = BufWriter::new(io::stdout().lock());
    let mut answers = Answers { judge, asked: None, json: args.control.json, out };
    let outcome = match &args.batch {
        Some(file) => answers.batch(&mut open(file)?)?,
        None => {
            let asks = args.what.iter().map(|what| what.parse().map_err(anyhow::Error::msg));
            answers.answer(&asks.collect::<anyhow::Result<Vec<Ask>>>()?)?;
            answers.finish()?;
            Outcome::Done
        }
    };
    answers.out.flush()?;
    Ok(outcome)
}

fn open(file: &Path) -> anyhow::Result<Box<dyn BufRead>> {
    if file.as_os_str() == "-" {
        return Ok(Box::new(BufReader::new(io::stdin())));
    }
    let file = File::open(file).with_context(|| format!("cannot read {}", file.display()))?;
    Ok(Box::new(BufReader::new(file)))
}

/// The answers on their way to standard output.
struct Answers<W> {
    judge: Judge,
    /// What the agent is still to answer, while the next questions are read.
    asked: Option<Explaining>,
    json: bool,
    out: W,
}

impl<W: Write> Answers<W> {
    /// Answers line by line. A line that asks nothing we know is told with its number and ends nothing.
    fn batch(&mut self, lines: &mut dyn BufRead) -> anyhow::Result<Outcome> {
        let (mut asks, mut outcome) = (Vec::new(), Outcome::Done);
        let mut number: u64 = 0;
        while let Some(line) = next_line(lines)? {
            number += 1;
            match ask_of(&line) {
                Ok(ask) => asks.extend(ask),
                Err(wrong) => {
                    self.answer(&std::mem::take(&mut asks))?;
                    self.finish()?;
                    self.tell(number, &wrong)?;
                    outcome = Outcome::Finding;
                }
            }
            if asks.len() == BATCH_LIMIT {
                self.answer(&std::mem::take(&mut asks))?;
            }
        }
        self.answer(&asks)?;
        self.finish()?;
        Ok(outcome)
    }

    fn answer(&mut self, asks: &[Ask]) -> anyhow::Result<()> {
        for asks in asks.chunks(BATCH_LIMIT) {
            let answers = match &self.judge {
                Judge::Policy { policy, asker } => {
                    asks.iter().map(|ask| explain(policy, ask, asker)).collect()
                }
                Judge::Agent { socket, client } => {
                    let asks = asks.iter().map(ToString::to_string).collect();
                    let before = self.asked.replace(Explaining::send(socket, asks, *client)?);
                    before.map(Explaining::answers).transpose()?.unwrap_or_default()
                }
            };
            self.print(&answers)?;
        }
        Ok(())
    }

    /// Waits for what the agent is still to answer.
    fn finish(&mut self) -> anyhow::Result<()> {
        let answers = self.asked.take().map(Explaining::answers).transpose()?;
        self.print(&answers.unwrap_or_default())
    }

    fn print(&mut self, answers: &[Explanation]) -> anyhow::Result<()> {
        for answer in answers {
            match self.json {
                true => serde_json::to_writer(&mut self.out, answer)?,
                false => write!(self.out, "{}", answer.for_people())?,
            }
            self.out.write_all(b"\n")?;
        }
        Ok(())
    }

    fn tell(&mut self, line: u64, wrong: &str) -> anyhow::Result<()> {
        if self.json {
            writeln!(self.out, "{}", json!({ "line": line, "error": wrong }))?;
        }
        Ok(out::say(format_args!("line {line}: {wrong}"))?)
    }
}

/// The next line, or as much of it as a question can be long; the rest is passed over.
fn next_line(lines: &mut dyn BufRead) -> io::Result<Option<Vec<u8>>> {
    let mut line = Vec::new();
    let read = io::Read::take(&mut *lines, LINE_LIMIT_BYTES).read_until(b'\n', &mut line)?;
    if read as u64 == LINE_LIMIT_BYTES && !line.ends_with(b"\n") {
        lines.skip_until(b'\n')?;
    }
    Ok((read > 0).then_some(line))
}

/// What a line asks; empty lines and comments ask nothing.
fn ask_of(line: &[u8]) -> Result<Option<Ask>, String> {
    if line.len() as u64 == LINE_LIMIT_BYTES {
        return Err(format!("it is longer than any name or address: {LINE_LIMIT_BYTES} bytes or more"));
    }
    let line = std::str::from_utf8(line).map_err(|_| "it is not UTF-8".to_owned())?;
    match line.split('#').next().unwrap_or_default().trim() {
        "" => Ok(None),
        what => what.parse().map(Some),
    }
}

/// Who explains.
enum Judge {
    Agent { socket: PathBuf, client: Option<IpAddr> },
    Policy { policy: Box<Policy>, asker: Asker },
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
        match Explaining::send(&socket, vec![], None).and_then(Explaining::answers) {
            Ok(_) => return Ok(Some(Judge::Agent { socket, client: args.client })),
            Err(error) if args.control.control.is_some() => return Err(error),
            Err(_) => {}
        }
    }
    match files::compile_enforced(&args.policy, args.profile.as_deref()) {
        Ok(compiled) => {
            let asker = Asker { client: args.client, at: Timestamp::now() };
            Ok(Some(Judge::Policy { policy: Box::new(compiled.policy), asker }))
        }
        Err(problems) => {
            out::say(problems)?;
            Ok(None)
        }
    }
}

fn running_data(args: &WhyArgs) -> anyhow::Result<PathBuf> {
    let status = control::ask(&args.control.socket(), &control::Request::Status)
        .context("whose record? name its folder with --data DIR")?;
    Ok(Path::new(status["data"].as_str().context("the agent names no data folder")?).to_owned())
}
