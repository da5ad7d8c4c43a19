//! The record of what was asked and done: one event type for both planes, in one append-only file of JSON lines
//! a day.
//!
//! [`Entry`] is what a plane hands in, [`Log`] takes it without ever waiting, [`Writer`] numbers and writes it,
//! [`Tail`] reads it back.
#![deny(unsafe_code)]

mod clock;
mod entry;
mod log;
mod tail;

pub use entry::{Asked, Depth, Entry, Process};
pub use log::{Counters, Log, OpenError, QUEUE_LIMIT, Record, Writer};
pub use tail::{Start, Tail};
