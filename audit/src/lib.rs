//! The record of what was asked and done: one event type for both planes, in an append-only log that a stranger can verify.
//!
//! [`Entry`] is what a plane hands in, [`Log`] takes it without ever waiting, [`Writer`] numbers, writes and seals it,
//! [`Tail`] reads it back, [`verify`] says whether it is what was written.
#![deny(unsafe_code)]

pub mod background;
mod checkpoint;
mod clock;
pub mod dnstap;
mod entry;
mod format;
pub mod history;
mod index;
mod keys;
mod log;
mod pack;
mod proof;
mod prune;
mod pseudonym;
mod record;
mod report;
mod segment;
mod tail;
mod tree;
mod verify;
mod witness;

pub use checkpoint::{Checkpoint, Reason, Signed, notes};
pub use clock::is_clock_synchronized;
pub use entry::{Asked, Cited, Depth, Entry, Process};
pub use format::{Format, csv_cell};
pub use index::{Daily, Index, IndexHandle, Indexer};
pub use log::{Counters, Log, QUEUE_LIMIT, Record, Writer};
pub use proof::{Proven, Range, export, prove, verify_file};
pub use record::OpenError;
pub use report::{
    Clocks, Coverage, Elimination, Figures, HEADLINE_ROLES, History, Imported, Question, Relay,
    Report as Findings, Role, State, elimination, report, state,
};
pub use tail::{Start, Tail};
pub use verify::{Finding, Gap, Report, Trust, verify};
pub use witness::{Offer, Refused, Witness};
