//! The named limit of everything that could grow.

/// Rules that have a slot in the kernel over the life of one agent.
pub const MAX_RULES: u32 = 16_384;

/// Networks of one address family in one policy.
pub const MAX_NETWORKS: u32 = 1_048_576;

/// Port entries of one policy, counted once for each distinct set of ports.
pub const MAX_SERVICES: u32 = 1_048_576;

/// Prefixes that are never dropped, for each address family.
pub const MAX_SAFE: u32 = 4_096;

/// Addresses that are open at one time.
pub const MAX_OPENED: u32 = 65_536;

/// Pairs of an exempt client and an address that are open at one time.
pub const MAX_CLIENT_OPENINGS: u32 = 65_536;

/// Addresses that are learned at one time.
pub const MAX_LEARNED: u32 = 65_536;

/// Exemptions of one policy, counted once for each rule and network of clients.
pub const MAX_EXEMPTIONS: u32 = 65_536;

/// Contacts that are counted in a [`crate::seat`] at one time.
pub const SEATS: u32 = 16_384;

/// Contacts, as told apart by [`crate::contact::ContactKey`], that are counted at one time besides those in seats.
pub const MAX_CONTACTS: u32 = 65_536;

/// Clients whose packets are counted for good, as told apart by [`crate::contact::AccountKey`], besides those that are
/// contacts at present.
pub const MAX_ACCOUNTS: u32 = 262_144;

/// Networks of the units of one policy.
pub const MAX_UNIT_NETWORKS: u32 = 1_048_576;

/// Counts of clients for whom there was no room, as told apart by [`crate::contact::BeyondKey`].
pub const MAX_BEYOND: u32 = 16_384;

/// Generations whose policies are known by their digests to the next agent: the last ones.
pub const MAX_GENERATIONS: u32 = 4_096;

/// Bytes of the ring through which events reach the agent: room for about ten thousand of them.
pub const RING_BYTES: u32 = 1 << 20;

/// Own events for one contact in one [`WINDOW_NS`]; packets above it are reported as a count.
pub const EVENTS_A_WINDOW: u64 = 100;

/// The span over which [`EVENTS_A_WINDOW`] is counted.
pub const WINDOW_NS: u64 = 1_000_000_000;

/// Names of one policy in the kernel, unless the operator says otherwise. Each takes 32 to 128 bytes, and twice that while
/// a policy is staged.
pub const MAX_NAMES: u32 = 200_000;

/// Resolvers that one policy may call ours.
pub const MAX_RESOLVERS: u32 = 4_096;

/// Networks of clients that are answered.
pub const MAX_CLIENTS: u32 = 4_096;

/// Addresses of this machine.
pub const MAX_OURS: u32 = 4_096;

/// Questions are answered on interfaces whose index is below this.
pub const MAX_INTERFACES: u32 = 65_536;

/// Places for the rates of clients, a power of two: each client may be in two of them, and takes the one that was silent
/// longer.
pub const MAX_RATES: u32 = 65_536;

/// How often one client is told in a second that its packets are blocked; of the others it hears nothing.
pub const REJECTS_A_SECOND: u64 = 100;

/// Services of which it is known when anything was last let out to them; the one that was silent longest is forgotten first.
pub const MAX_LET_OUT: u32 = 65_536;

/// What comes from a service is an answer for this long after something was let out to it.
pub const LET_OUT_NS: u64 = 300_000_000_000;

/// Pairs of a client and a service whose contacts are followed at one time.
pub const MAX_FLOWS: u32 = 65_536;

/// Bytes of the ring through which calls of processes reach the agent: room for about eight thousand of them.
pub const PROCESS_RING_BYTES: u32 = 1 << 20;

/// Bytes of the ring through which answered questions reach the agent: room for about three thousand of them.
pub const QUERY_RING_BYTES: u32 = 1 << 20;

/// Without a sign of life for this long the agent counts as dead.
pub const HEARTBEAT_NS: u64 = 5_000_000_000;
