//! Loads the kernel programs, keeps their policy, and reads what they record.
//!
//! A [`PacketPlane`] goes through these steps, in this order:
//!
//! 1. [`PacketPlane::load`]: the programs are in the kernel, attached to nothing, without a policy;
//! 2. [`PacketPlane::stage`]: a policy lies beside the one in force, and has been tried by the kernel itself;
//! 3. [`PacketPlane::flip`]: it is in force, by one store that cannot fail half-way;
//! 4. [`PacketPlane::settle`]: no packet still sees the one before;
//! 5. [`PacketPlane::attach`]: packets come by. Steps 2 to 4 are repeated at each change of the policy.
//!
//! What the packets leave behind is read with [`PacketPlane::counters`] and [`PacketPlane::events`]; the DNS side opens
//! addresses with an [`Opener`].
//!
//! Nothing here is async, and `stage` and `settle` wait for the kernel (tens of milliseconds, seconds for a million
//! networks): call them off the async threads.

mod accounts;
mod answers;
mod attach;
mod calls;
mod capability;
mod clock;
mod control;
mod counters;
mod divert;
mod error;
mod events;
mod flows;
mod names;
mod network;
mod object;
mod options;
mod pass;
mod pins;
mod plane;
mod prefixes;
mod prober;
mod registry;
mod resolver;
mod seats;
mod selftest;
mod staging;
mod system;
mod table;
mod tcx;

pub use accounts::{BeyondCount, ClientCount};
pub use answers::{Answers, Fill, Fills, Told};
pub use attach::{Attached, Restored, Where};
pub use clock::Moment;
pub use control::Pulse;
pub use counters::{Counters, RuleCount};
pub use error::Error;
pub use events::{Contact, EventReader, Process, Question};
pub use flows::Reached;
pub use interdict_ebpf_shared::{
    contact::Hook,
    count::{Count, Exit, Loss, Unjudged},
    flow::Depth,
    limits,
    query::OWN_MARK,
};
pub use network::{
    InterfaceInfo, LocalAddress, Xdp, default_gateways, interface_networks, interfaces, local_addresses,
};
pub use options::{Answering, AtExit, DEFAULT_PIN, InKernel, Interface, MAX_NAT64, Mode, Options, Role};
pub use pass::{PassLink, PassProgram};
pub use pins::{Pins, has_agent, in_place, unload};
pub use plane::{Flipped, PacketPlane};
pub use prober::{Answer, Entry, Probe, Prober, Reply, Run};
pub use resolver::{Answers as AnswersOn, DivertSockets};
pub use staging::Staged;
