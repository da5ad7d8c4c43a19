//! Reads the question of a DNS message and writes the answer to a blocked one: without allocating, and with no
//! part of the standard library, so that the kernel program can call it too and both planes send the same bytes.
#![no_std]
#![forbid(unsafe_code)]

mod answer;
mod query;

pub use answer::{Blocked, LONGEST_ANSWER_BYTES, Rcode, Records, write_answer};
pub use query::{Edns, Malformed, Query, UDP_PAYLOAD_BYTES};
