//! `interdict audit offer` and `interdict audit witness`: a second pair of eyes on the record.

use std::fs;
use std::io::{Read, Write};
use std::path::Path;

use anyhow::Context;
use interdict_audit::{Offer, Refused, Witness};
use serde_json::json;

use super::data_folder;
use crate::agent::node;
use crate::cli::{OfferArgs, Outcome, WitnessArgs};
use crate::out;

/// An offer has a checkpoint and at most 128 hashes.
const OFFER_LIMIT_BYTES: u64 = 1 << 20;

pub(super) fn offer(args: &OfferArgs) -> anyhow::Result<Outcome> {
    let data = data_folder(args.data.as_ref(), &args.control)?;
    let offer = Offer::of(&data, args.old)
        .with_context(|| format!("nothing to offer of the record in {}", data.display()))?;
    write!(std::io::stdout().lock(), "{offer}")?;
    Ok(Outcome::Done)
}

pub(super) fn witness(args: &WitnessArgs) -> anyhow::Result<Outcome> {
    let cannot = || format!("cannot be a witness in {}", args.state.display());
    let name = format!("interdict-witness/{}", node());
    let witness = Witness::open(&args.state, &name).with_context(cannot)?;
    let newest = witness.newest().with_context(cannot)?;
    let seen = newest.map_or(0, |signed| signed.checkpoint.size);
    if args.size {
        out::line(seen)?;
        return Ok(Outcome::Done);
    }
    if let Some(key) = &args.key {
        witness.believe(key).with_context(cannot)?;
    }
    let offer = match &args.offer {
        Some(path) => read(path)?,
        None => {
            let data = data_folder(args.data.as_ref(), &args.control)?;
            if witness.believes_nobody().with_context(cannot)? {
                let keys = fs::read_to_string(data.join("keys/log.pub"))
                    .with_context(|| format!("no public key beside the record in {}", data.display()))?;
                let key = keys.lines().next_back().unwrap_or_default();
                witness.believe(key).with_context(cannot)?;
                out::say(format_args!("from now on this witness believes {key}"))?;
            }
            match Offer::of(&data, seen) {
                Ok(offer) => offer,
                Err(error) => return refused(&error.to_string()),
            }
        }
    };
    match witness.cosign(&offer) {
        Ok(signed) => {
            let checkpoint = &signed.checkpoint;
            match args.control.json {
                true => out::line(
                    json!({ "events": checkpoint.size, "witness": witness.public(), "seen": seen }),
                )?,
                false => out::line(format_args!(
                    "signed {} events, {seen} seen before\nwitness {}",
                    checkpoint.size,
                    witness.public()
                ))?,
            }
            Ok(Outcome::Done)
        }
        Err(Refused::Io(error)) => Err(error).with_context(cannot),
        Err(why) => refused(&why.to_string()),
    }
}

fn refused(why: &str) -> anyhow::Result<Outcome> {
    out::say(format_args!("NOT signed: {}", interdict_policy::printable(why)))?;
    Ok(Outcome::Finding)
}

fn read(path: &Path) -> anyhow::Result<Offer> {
    let cannot = || format!("cannot read {}", path.display());
    let mut text = String::new();
    let read = match path.as_os_str() == "-" {
        true => std::io::stdin().take(OFFER_LIMIT_BYTES).read_to_string(&mut text),
        false => fs::File::open(path).and_then(|file| file.take(OFFER_LIMIT_BYTES).read_to_string(&mut text)),
    };
    read.with_context(cannot)?;
    Offer::read(&text).with_context(cannot)
}
