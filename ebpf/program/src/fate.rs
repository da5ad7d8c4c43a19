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

/// What became of a question.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    /// It is no question; the address decides.
    Nothing,
    /// It has another opcode than QUERY; the address decides.
    Opcode,
    /// No rule concerns its name; the address decides.
    Unlisted,
    /// It is not as plain a datagram as usual: only the agent can tell.
    Odd,
    /// It could not be read where it is.
    Unread,
    /// Its rule's answer is to be given.
    Answer,
    /// The frame is the answer now, to be sent back.
    Answered,
    /// It is dropped, for this reason.
    Dropped(Exit),
    /// Only the agent can tell.
    Agent,
    /// Only the agent can tell, and the name lies below one that is blocked, or cannot be read here.
    AgentOrDrop,
}
