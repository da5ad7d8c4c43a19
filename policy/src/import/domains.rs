//! Lists of domains: one a line, banned with all below it.
//!
//! `.name` and `*.name` mean the domain too, as such lists use them. Of the forms with a kind in front (v2fly's),
//! `domain:` is the usual meaning and `full:` one name alone.

use super::draft::{Draft, Extent, Says};
use super::{lines, shown};
use crate::name::DomainName;
use crate::rule::Answer;

pub(super) fn read(text: &str, draft: &mut Draft) {
    for (line, word) in lines(text, &['#'], draft) {
        // Comments of ad blockers' lists, which are no list of domains: their entries fail below, one by one.
        if word.starts_with('!') {
            draft.skip();
            continue;
        }
        let (extent, name) = match word.split_once(':') {
            Some(("full", name)) => (Extent::At, name),
            Some(("domain", name)) => (Extent::Domain, name),
            _ => (Extent::Domain, word.strip_prefix("*.").or(word.strip_prefix('.')).unwrap_or(word)),
        };
        if name.parse::<std::net::IpAddr>().is_ok() || name.parse::<ipnet::IpNet>().is_ok() {
            draft.leave_out(line, format!("{name} is an address, not a name"), "import networks with cidrs");
            continue;
        }
        match name.parse::<DomainName>() {
            Ok(name) => draft.name(line, &name, extent, Says::Block(Answer::NxDomain, None)),
            Err(e) => {
                let message = format!("\"{}\" is not a name: {e}", shown(name));
                draft.leave_out(line, message, "a line is one domain");
            }
        }
    }
}
