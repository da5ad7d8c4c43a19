//! What the kernel programs decide, step by step, without anything of the kernel in it.
//!
//! The steps read a packet through [`frame::Frame`] and a policy through [`verdict::Policy`]. In the kernel these are
//! the packet in the driver's memory and the maps (`src/main.rs` and the modules below it); on the host they are a
//! byte slice and a table, so that tests and fuzzers run the very code that the kernel runs.
//!
//! In the order in which a packet meets them:
//!
//! 1. [`ethernet`]: through the VLAN tags to the IP header,
//! 2. [`ip`]: the two addresses,
//! 3. [`verdict`]: safe, opened, the longest network,
//! 4. [`transport`]: fragments, IPv6 header chains, ports; after the address verdict, so that none of them hides an address,
//! 5. [`query`]: the name that a DNS question asks for,
//! 6. [`lan`] and [`wan`]: which side is judged, and which packets at all,
//! 7. [`tls`]: the server name in the first data of a TCP connection,
//! 8. [`icmp`]: of which packets errors tell,
//! 9. [`reject`]: what is said to the sender of a packet that is blocked,
//! 10. [`sum`]: the checksums of what is sent.

#![no_std]
#![forbid(unsafe_code)]

pub mod ethernet;
pub mod frame;
pub mod icmp;
pub mod ip;
pub mod lan;
pub mod plain;
pub mod query;
pub mod reject;
pub mod sum;
pub mod tls;
pub mod transport;
pub mod verdict;
pub mod wan;
