//! The object itself.

use interdict_ebpf_loader::Entry;

use crate::support::{plane, policy, tests};

tests![the_verifier_has_room_to_spare];

/// Older kernels go through more instructions for the same program; a million is the limit of all.
const INSTRUCTIONS: u32 = 450_000;

fn the_verifier_has_room_to_spare() {
    let prober = plane(&policy("a block 192.0.2.0/24")).prober();
    for entry in
        [Entry::Lan, Entry::Wan, Entry::Selftest, Entry::HostOut, Entry::HostIn, Entry::WanOut, Entry::LanOut]
    {
        let count = prober.verified_instructions(entry).unwrap().unwrap();
        eprintln!("VERIFIED {entry:?}: {count}");
        assert!(count < INSTRUCTIONS, "{entry:?}: {count}");
    }
}
