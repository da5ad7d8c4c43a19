//! The bans that ship with the program.

use std::net::IpAddr;

use crate::compile::Source;

/// The Kaspersky pack: the policy that runs where none is named.
pub fn kaspersky() -> Source {
    Source { name: "embedded:kaspersky.toml".into(), text: include_str!("../packs/kaspersky.toml").into() }
}

/// The public resolvers that a banned product asks by itself when the system's does not resolve its names.
pub fn fallback_resolvers() -> Vec<IpAddr> {
    let lines = include_str!("../packs/fallback-resolvers.tsv").lines().skip(1);
    lines.filter_map(|line| line.split('\t').nth(1)?.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    #[test]
    fn every_fallback_resolver_is_an_address() {
        let lines = include_str!("../packs/fallback-resolvers.tsv").lines().count();
        assert_eq!(super::fallback_resolvers().len(), lines - 1);
    }
}
