//! Response policy zones (draft-vixie-dnsop-dns-rpz): QNAME triggers become rules, the other triggers are told.
//!
//! A name that has no entry of its own, below a wildcard, is taken as PowerDNS and most readers take it: the next
//! wildcard above speaks for it. BIND would find nothing there; the stricter reading is the safer one for a ban.

use std::net::IpAddr;

use super::draft::{Draft, Extent, Says};
use super::shown;
use super::zone::{Record, records};
use crate::document::TTL_LIMIT_SECS;
use crate::name::DomainName;
use crate::rule::Answer;

/// Record types that every zone has, or that its signer adds.
const ZONE_TYPES: [&str; 8] = ["SOA", "NS", "RRSIG", "NSEC", "NSEC3", "NSEC3PARAM", "DNSKEY", "ZONEMD"];

pub(super) fn read(text: &str, draft: &mut Draft) {
    let mut long_ttl_told = false;
    for mut record in records(text, draft) {
        if ZONE_TYPES.contains(&record.kind.as_str()) {
            draft.skip();
            continue;
        }
        if let Some(long) = record.ttl_secs.filter(|secs| *secs > TTL_LIMIT_SECS) {
            record.ttl_secs = Some(TTL_LIMIT_SECS);
            if !std::mem::replace(&mut long_ttl_told, true) {
                let message =
                    format!("a TTL of {long} seconds is longer than a rule's; {TTL_LIMIT_SECS} stands there");
                draft.leave_out(record.line, message, "told once");
            }
        }
        if let Err((message, help)) = enter(&record, draft) {
            draft.leave_out(record.line, message, help);
        }
    }
}

type Wrong = (String, &'static str);

fn enter(record: &Record, draft: &mut Draft) -> Result<(), Wrong> {
    let (extent, name) = trigger(&record.owner)?;
    match record.kind.as_str() {
        "CNAME" => draft.name(record.line, &name, extent, action(record)?),
        "A" | "AAAA" => {
            let data = record.data.first().map(String::as_str).unwrap_or_default();
            let address: IpAddr = data
                .parse()
                .ok()
                .filter(|address: &IpAddr| address.is_ipv4() == (record.kind == "A"))
                .ok_or_else(|| (format!("\"{}\" is not an address for {}", shown(data), record.kind), ""))?;
            draft.address(record.line, &name, extent, address, record.ttl_secs);
        }
        other => {
            return Err((
                format!("a rule cannot answer {name} with a record of type {}", shown(other)),
                "it can with addresses, NXDOMAIN, NODATA or nothing",
            ));
        }
    }
    Ok(())
}

/// The names that a trigger means.
fn trigger(owner: &str) -> Result<(Extent, DomainName), Wrong> {
    match owner.rsplit('.').next().unwrap_or_default() {
        "rpz-ip" => return Err(("rpz-ip judges the addresses in answers; rules do not".into(), "")),
        "rpz-client-ip" => return Err(("rpz-client-ip judges the client; a rule is for all".into(), "")),
        "rpz-nsdname" | "rpz-nsip" => {
            return Err((format!("{owner} judges name servers; rules do not"), ""));
        }
        _ => {}
    }
    if owner.is_empty() || owner == "*" {
        return Err(("a rule cannot speak for every name".into(), ""));
    }
    let (extent, name) = match owner.strip_prefix("*.") {
        Some(name) => (Extent::Below, name),
        None => (Extent::At, owner),
    };
    match name.parse() {
        Ok(name) => Ok((extent, name)),
        Err(e) => Err((format!("\"{}\" is not a name: {e}", shown(name)), "")),
    }
}

/// What a CNAME says to do.
fn action(record: &Record) -> Result<Says, Wrong> {
    let target = record.data.first().map(|target| target.to_ascii_lowercase()).unwrap_or_default();
    let block = |answer| Ok(Says::Block(answer, record.ttl_secs));
    match target.as_str() {
        "." => block(Answer::NxDomain),
        "*." => block(Answer::NoData),
        "rpz-drop." => block(Answer::Drop),
        "rpz-passthru." => Ok(Says::Open),
        // What stood for passthru before rpz-passthru did.
        own if own.strip_suffix('.') == Some(record.owner.as_str()) => Ok(Says::Open),
        "rpz-tcp-only." => Err(("rpz-tcp-only has clients ask again over TCP; rules cannot".into(), "")),
        word if word.starts_with("rpz-") => Err((
            format!("CNAME {} is no action of a policy zone", shown(word)),
            "such as CNAME rpz-passthru. with the final dot",
        )),
        "" => Err(("CNAME has no target".into(), "")),
        other => Err((
            format!("a rule cannot answer with another name ({})", shown(other)),
            "write the addresses behind it as A and AAAA",
        )),
    }
}
