//! What is recorded of the packets that a rule matched.
//!
//! Each packet is recorded exactly once: as an [`Event`] of its own, or as one of the `unsampled` packets of its
//! contact, which the agent turns into an event with a count once a second.

use crate::{Address, plain_bytes};

/// Where a packet was met.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Hook {
    /// On an interface towards our clients: their destination is judged.
    Lan = 1,
    /// On an interface towards the outside: the source of what opens a connection to us is judged.
    Wan = 2,
    /// A DNS question on an interface towards our clients: its name is judged.
    Query = 3,
    /// What this machine itself sends: the destination is judged.
    HostOut = 4,
    /// What this machine itself receives: the source of what was not asked for is judged.
    HostIn = 5,
    /// A local process that connects: the destination is judged.
    Connect = 6,
    /// A local process that sends without connecting: the destination is judged.
    Send = 7,
    /// A TLS ClientHello on an interface towards our clients: its server's name is judged.
    Tls = 8,
}

impl Hook {
    /// The hook of a code in an event.
    pub const fn from_code(code: u8) -> Option<Self> {
        match code {
            1 => Some(Self::Lan),
            2 => Some(Self::Wan),
            3 => Some(Self::Query),
            4 => Some(Self::HostOut),
            5 => Some(Self::HostIn),
            6 => Some(Self::Connect),
            7 => Some(Self::Send),
            8 => Some(Self::Tls),
            _ => None,
        }
    }
}

/// The packet is a fragment.
pub const FLAG_FRAGMENT: u8 = 1;

/// The packet's ports could not be read; the event's `port` is 0.
pub const FLAG_PORTS_UNKNOWN: u8 = 2;

/// One packet that a rule matched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Event {
    /// The contact it belongs to.
    pub contact: ContactKey,
    /// The side that the rule matched, and its port.
    pub remote: Remote,
    /// When, in nanoseconds since boot.
    pub time_ns: u64,
    /// The length of the frame in bytes.
    pub length: u32,
    /// [`FLAG_FRAGMENT`] and [`FLAG_PORTS_UNKNOWN`].
    pub flags: u8,
    /// Always 0.
    pub zero: [u8; 3],
}
plain_bytes!(Event {
    contact: ContactKey,
    remote: Remote,
    time_ns: u64,
    length: u32,
    flags: u8,
    zero: [u8; 3],
});

/// A call of a local process that a rule matched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct ProcessEvent {
    /// To whom it wanted to talk, and what was decided.
    pub event: Event,
    /// The process, as the kernel numbers it outside of all PID namespaces.
    pub pid: u32,
    /// Always 0.
    pub zero: u32,
    /// The number of its control group.
    pub cgroup: u64,
    /// Its name, up to the first zero.
    pub name: [u8; 16],
}
plain_bytes!(ProcessEvent { event: Event, pid: u32, zero: u32, cgroup: u64, name: [u8; 16] });

/// The outside end of a contact, and the interface that met it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Remote {
    /// Its address.
    pub address: Address,
    /// The interface's index.
    pub interface: u32,
    /// Its port, in network byte order; 0 where there is none or it is not known.
    pub port: [u8; 2],
    /// The IP protocol number.
    pub protocol: u8,
    /// Always 0.
    pub zero: u8,
}
plain_bytes!(Remote { address: Address, interface: u32, port: [u8; 2], protocol: u8, zero: u8 });

/// Which packets are counted together.
///
/// The generation is part of it, so that a count never mixes what two policies decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct ContactKey {
    /// Our side; all zero on the wan hook, where addresses are translated.
    pub client: Address,
    /// The generation of the policy that decided.
    pub generation: u64,
    /// The slot of the rule.
    pub rule: u32,
    /// [`crate::policy::Verdict::code`].
    pub verdict: u8,
    /// [`Hook`] as a number.
    pub hook: u8,
    /// Always 0.
    pub zero: [u8; 2],
}
plain_bytes!(ContactKey {
    client: Address,
    generation: u64,
    rule: u32,
    verdict: u8,
    hook: u8,
    zero: [u8; 2],
});

/// Whose packets are counted together for good: a contact, whatever policy decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(C)]
pub struct AccountKey {
    /// As in [`ContactKey::client`].
    pub client: Address,
    /// The slot of the rule.
    pub rule: u32,
    /// [`crate::policy::Verdict::code`].
    pub verdict: u8,
    /// [`Hook`] as a number.
    pub hook: u8,
    /// Always 0.
    pub zero: [u8; 2],
}
plain_bytes!(AccountKey { client: Address, rule: u32, verdict: u8, hook: u8, zero: [u8; 2] });

impl ContactKey {
    /// The account that its packets are in.
    pub const fn account(&self) -> AccountKey {
        let Self { client, rule, verdict, hook, zero, .. } = *self;
        AccountKey { client, rule, verdict, hook, zero }
    }
}

/// Whose packets are counted together where there is no room for their client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(C)]
pub struct BeyondKey {
    /// The number of the client's unit, as [`unit_number`] says; 0 for none.
    pub unit: u64,
    /// The slot of the rule.
    pub rule: u32,
    /// [`crate::policy::Verdict::code`].
    pub verdict: u8,
    /// [`Hook`] as a number.
    pub hook: u8,
    /// Always 0.
    pub zero: [u8; 2],
}
plain_bytes!(BeyondKey { unit: u64, rule: u32, verdict: u8, hook: u8, zero: [u8; 2] });

/// The number of a unit, by which it is known whatever policy is in force: FNV-1a of its id.
pub fn unit_number(id: &str) -> u64 {
    id.bytes()
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

/// What the agent has already reported of the packets of a contact that had no event of their own: only the loader writes
/// it, for itself and for the next agent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Reported {
    /// Packets.
    pub packets: u64,
    /// Their bytes.
    pub bytes: u64,
    /// When the last of them came, in nanoseconds since boot.
    pub last_ns: u64,
}
plain_bytes!(Reported { packets: u64, bytes: u64, last_ns: u64 });

/// The counts of one contact, kept by all CPUs together: each of its packets is in `event` or in `unsampled`.
///
/// First stands what a packet changes that has no event of its own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct ContactCounts {
    /// Packets that had no event of their own.
    pub unsampled_packets: u64,
    /// Their bytes.
    pub unsampled_bytes: u64,
    /// When the current run of unsampled packets began: a run ends with a pause of [`crate::limits::WINDOW_NS`].
    pub unsampled_first_ns: u64,
    /// When the last unsampled packet came.
    pub unsampled_last_ns: u64,
    /// When the last packet came.
    pub last_ns: u64,
    /// When the current window began.
    pub window_ns: u64,
    /// Packets in the current window.
    pub window_packets: u64,
    /// Packets that had an event of their own.
    pub event_packets: u64,
    /// Their bytes.
    pub event_bytes: u64,
    /// The outside end of the window's first packet, as a sample for the unsampled ones.
    pub sample: Remote,
}
plain_bytes!(ContactCounts {
    unsampled_packets: u64,
    unsampled_bytes: u64,
    unsampled_first_ns: u64,
    unsampled_last_ns: u64,
    last_ns: u64,
    window_ns: u64,
    window_packets: u64,
    event_packets: u64,
    event_bytes: u64,
    sample: Remote,
});
