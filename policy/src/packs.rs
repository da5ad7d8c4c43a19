//! The bans that ship with the program.

use crate::compile::Source;

/// The Kaspersky pack: the policy that runs where none is named.
pub fn kaspersky() -> Source {
    Source { name: "embedded:kaspersky.toml".into(), text: include_str!("../packs/kaspersky.toml").into() }
}
