//! Whether the process may use BPF.

use std::fs;

use crate::Error;

/// What loading and attaching XDP programs takes (capabilities(7)), with the number of its bit. Without CAP_PERFMON the
/// verifier refuses what ours do with pointers.
const NEEDED: [(&str, u32); 3] = [("CAP_BPF", 39), ("CAP_NET_ADMIN", 12), ("CAP_PERFMON", 38)];

/// Names the first capability that is missing.
pub(crate) fn check() -> Result<(), Error> {
    let status = fs::read_to_string("/proc/thread-self/status")
        .map_err(|source| Error::System { doing: "read the process's capabilities", source })?;
    match missing(&status) {
        Some(capability) => Err(Error::MissingCapability { capability }),
        None => Ok(()),
    }
}

fn missing(status: &str) -> Option<&'static str> {
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"))?;
    let effective = u64::from_str_radix(effective.trim(), 16).ok()?;
    NEEDED.iter().find(|(_, bit)| effective & (1 << bit) == 0).map(|(name, _)| *name)
}

#[cfg(test)]
mod tests {
    use super::missing;

    #[test]
    fn the_missing_capability_is_named() {
        for (effective, expect) in [
            ("000001ffffffffff", None),
            ("000000c000001000", None),
            ("0000004000001000", Some("CAP_BPF")),
            ("000000c000000000", Some("CAP_NET_ADMIN")),
            ("0000008000001000", Some("CAP_PERFMON")),
            ("0000000000000000", Some("CAP_BPF")),
        ] {
            assert_eq!(missing(&format!("Name:\tx\nCapEff:\t{effective}\n")), expect, "{effective}");
        }
    }
}
