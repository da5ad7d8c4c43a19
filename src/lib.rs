//! interdict enforces a ban on a vendor's network services, and keeps the record.
//!
//! This is the program, the only part that sees all others: [`cli`] is the contents page of its commands,
//! [`agent`] the wiring of the daemon, [`reload`] the one way by which a policy comes into force.
#![forbid(unsafe_code)]

pub mod agent;
mod alive;
mod aside;
mod audit;
mod check;
pub mod cli;
mod config;
mod console;
pub mod control;
mod demo;
mod diff;
mod dnstap;
pub mod explain;
mod export;
mod fallback;
pub mod files;
mod guard;
mod history;
mod import;
mod keep;
pub mod lab;
mod learn;
mod listen;
mod metrics;
mod observe;
mod out;
pub mod packets;
mod privileges;
pub mod reload;
mod report;
mod select;
mod selftest;
mod status;
pub mod store;
mod stream;
mod tail;
mod top;
mod upstreams;
mod watch;
mod why;
