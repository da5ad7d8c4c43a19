//! `interdict import`: a policy file made of somebody's list. The file goes to stdout, and what no rule can say to
//! stderr.

use std::fs::File;
use std::io::{Read, Write};

use anyhow::{Context, ensure};
use interdict_policy::import::{List, Prefix, import};
use interdict_policy::{FILE_LIMIT_BYTES, Source, compile};
use serde_json::json;

use crate::check::{counted, shape};
use crate::cli::{ImportArgs, Outcome};
use crate::out;

pub(crate) fn run(args: &ImportArgs) -> anyhow::Result<Outcome> {
    let (name, text) = read(args)?;
    let prefix = args.id.clone().unwrap_or_else(|| Prefix::of_file(&name));
    let imported = import(List { name: &name, text: &text, prefix: &prefix, role: &args.role }, args.format);
    // What is handed out must be a policy: a list that grows beyond a file's limit as rules is one way to fail.
    if !imported.text.is_empty()
        && let Err(problems) = compile(&[Source { name: name.clone(), text: imported.text.clone() }])
    {
        out::say(format_args!("the rules made of {name} are not in order:\n{problems}"))?;
        return Ok(Outcome::Finding);
    }
    let left_out = &imported.left_out;
    if args.json {
        out::line(json!({
            "format": args.format.as_str(),
            "file": name,
            "text": imported.text,
            "names": imported.names,
            "networks": imported.networks,
            "skipped": imported.skipped,
            "left_out": left_out.iter().map(shape).collect::<Vec<_>>(),
            "left_out_count": left_out.len(),
        }))?;
    } else {
        std::io::stdout().write_all(imported.text.as_bytes()).context("cannot write to stdout")?;
        if !left_out.is_empty() {
            out::say(left_out)?;
        }
        out::say(format_args!(
            "{}, {}; {} left out",
            counted(imported.names, "name"),
            counted(imported.networks, "network"),
            counted(left_out.len(), "line")
        ))?;
    }
    let whole = left_out.is_empty() && !imported.text.is_empty();
    Ok(if whole { Outcome::Done } else { Outcome::Finding })
}

/// The list and its name, which is not its path: where a list lay on one machine is no source for another.
fn read(args: &ImportArgs) -> anyhow::Result<(String, String)> {
    let path = &args.file;
    let cannot = || format!("cannot read {}", path.display());
    let mut bytes = Vec::new();
    let name = if path.as_os_str() == "-" {
        std::io::stdin().take(FILE_LIMIT_BYTES + 1).read_to_end(&mut bytes).with_context(cannot)?;
        "stdin".into()
    } else {
        File::open(path)
            .and_then(|file| file.take(FILE_LIMIT_BYTES + 1).read_to_end(&mut bytes))
            .with_context(cannot)?;
        path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned()
    };
    ensure!(bytes.len() as u64 <= FILE_LIMIT_BYTES, "{} is larger than 64 MB; split it", path.display());
    // Lists hold comments in any encoding. A name with such a byte is no name, and is told as one.
    let text =
        String::from_utf8(bytes).unwrap_or_else(|e| String::from_utf8_lossy(e.as_bytes()).into_owned());
    Ok((name, text))
}
