//! How far contacts got that were let through, and what they carried both ways; and to whom anything was let out.

use crate::{Address, plain_bytes};

/// A client and a service that it talks to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct FlowKey {
    /// Our side.
    pub client: Address,
    /// The other side.
    pub remote: Address,
    /// The port there, in network byte order; 0 where there is none or it is not known.
    pub port: [u8; 2],
    /// The client's port, likewise, of a connection that was let through by the server's name: the next one to the same
    /// service may name another. 0 where the address decided.
    pub client_port: [u8; 2],
    /// The IP protocol number.
    pub protocol: u8,
    /// Always 0.
    pub zero: [u8; 3],
}
plain_bytes!(FlowKey {
    client: Address,
    remote: Address,
    port: [u8; 2],
    client_port: [u8; 2],
    protocol: u8,
    zero: [u8; 3]
});

/// What became of it, kept by all CPUs together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Flow {
    /// The generation of the policy that decided first.
    pub generation: u64,
    /// The slot of the rule.
    pub rule: u32,
    /// [`crate::policy::Verdict::code`].
    pub verdict: u8,
    /// [`crate::contact::Hook`] as a number.
    pub hook: u8,
    /// Always 0.
    pub zero: [u8; 2],
    /// [`Depth`] as a number: the furthest so far.
    pub depth: u64,
    /// When the first packet came, in nanoseconds since boot.
    pub first_ns: u64,
    /// When the last packet came.
    pub last_ns: u64,
    /// Packets from the client.
    pub packets_out: u64,
    /// Their bytes.
    pub bytes_out: u64,
    /// Packets to the client.
    pub packets_in: u64,
    /// Their bytes.
    pub bytes_in: u64,
}
plain_bytes!(Flow {
    generation: u64,
    rule: u32,
    verdict: u8,
    hook: u8,
    zero: [u8; 2],
    depth: u64,
    first_ns: u64,
    last_ns: u64,
    packets_out: u64,
    bytes_out: u64,
    packets_in: u64,
    bytes_in: u64,
});

/// How far a contact got.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u64)]
pub enum Depth {
    /// The client sent something.
    Attempted = 1,
    /// The other side answered.
    Connected = 2,
    /// The other side sent data.
    Received = 3,
}

impl Depth {
    /// The depth of a number in a [`Flow`].
    pub const fn from_code(code: u64) -> Option<Self> {
        match code {
            1 => Some(Self::Attempted),
            2 => Some(Self::Connected),
            3 => Some(Self::Received),
            _ => None,
        }
    }
}

/// A service outside, of which it is known when anything was last let out to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct Service {
    /// Its address.
    pub remote: Address,
    /// Its port, in network byte order; 0 where there is none.
    pub port: [u8; 2],
    /// The IP protocol number; 0 for anything at all that was sent to the address.
    pub protocol: u8,
    /// Always 0.
    pub zero: u8,
}
plain_bytes!(Service { remote: Address, port: [u8; 2], protocol: u8, zero: u8 });
