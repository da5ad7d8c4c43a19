//! Reads the question of a DNS message and writes the answer to a blocked one: without allocating, and with no
//! part of the standard library.
//!
//! The userspace server and the kernel program both call [`Question`] and [`Tail`], so that both planes read the
//! same questions and send the same bytes. [`Query`] and [`write_answer`] wrap them for messages in slices.
#![no_std]
#![forbid(unsafe_code)]

mod answer;
mod edns;
mod kept;
mod memory;
mod query;
mod question;
#[cfg(feature = "policy")]
mod rule;

pub use answer::{Blocked, LONGEST_ANSWER_BYTES, Rcode, Reply, TAIL_WORDS, Tail, Template, write_answer};
pub use edns::{add_options, last_error, set_error_text};
pub use kept::{Kept, Ttl, least_ttl, records_begin};
pub use memory::{Bytes, Memory, Room, Round};
pub use query::Query;
pub use question::{
    Additional, Edns, HEADER_BYTES, LABEL_LIMIT_BYTES, LABELS_LIMIT, LONGEST_QUESTION_END, Malformed,
    NAME_LIMIT_BYTES, OPCODES_THAT_PASS, OPT_BYTES, Question, UDP_PAYLOAD_BYTES,
};
