//! What becomes of a packet.

use interdict_ebpf_shared::count::{Exit, Unjudged};

/// What becomes of a packet, as far as one thing about it says.
#[derive(Clone, Copy)]
pub(crate) enum Fate {
    /// It passes by this exit, unless something else stops it.
    Pass(Exit),
    /// The same, and a rule let it through, whose record is in the scratch memory.
    LetThrough(Exit),
    /// It passes unless the policy refuses what cannot be judged, or something else stops it.
    Unjudged(Unjudged),
    /// It is dropped.
    Drop(Exit),
    /// It is dropped, and its sender told.
    Reject,
}
