//! What is counted: each packet under the reason it left by, each rule under its verdicts, each record that was lost.

use crate::{plain_bytes, policy::Verdict};

/// Declares an enum whose variants index a per-CPU array, with the names by which counters are reported.
macro_rules! counted {
    (
        $(#[$meta:meta])*
        pub enum $name:ident {
            $($(#[$variant_meta:meta])* $variant:ident = $text:literal,)+
        }
    ) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u32)]
        pub enum $name {
            $($(#[$variant_meta])* $variant,)+
        }

        impl $name {
            /// Every one, in the order of the array.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+];

            /// The name under which it is reported.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $text,)+
                }
            }
        }
    };
}

counted! {
    /// Why a packet left the program: each packet has exactly one.
    pub enum Exit {
        /// No policy was in force yet; passed.
        NoPolicy = "no_policy",
        /// The frame carries neither IPv4 nor IPv6; passed.
        NotIp = "not_ip",
        /// The frame ends inside its Ethernet, VLAN or IP header; passed.
        Truncated = "truncated",
        /// The frame carries more VLAN tags than the program reads; dropped from the lan, passed from the wan.
        VlanDepth = "vlan_depth",
        /// No network holds the address, and it is not open; passed.
        NoMatch = "no_match",
        /// A network holds the address, but only for ports this packet does not use; passed.
        NoMatchingPort = "no_matching_port",
        /// The address would have matched but is safe; passed.
        Safe = "safe",
        /// The address is open; passed and recorded.
        Opened = "opened",
        /// A rule allows it; passed and recorded.
        Allowed = "allowed",
        /// A rule logs it; passed and recorded.
        Logged = "logged",
        /// The client is on the register of exemptions from the rule; passed and recorded.
        Exempt = "exempt",
        /// A rule blocks it; dropped and recorded, and the sender is not told.
        Blocked = "blocked",
        /// A rule blocks it; dropped and recorded, and the sender is told.
        Rejected = "rejected",
        /// A rule blocks it; dropped and recorded, and the sender is not told since it was told too often in this second.
        RejectTooFast = "reject_too_fast",
        /// Ports decide and the packet is a fragment without them; passed.
        FragmentUnjudged = "fragment_unjudged",
        /// What it carries lies behind more IPv6 headers than the program reads (RFC 8504, §5.3, lets a host drop that), or
        /// a routing header sends it on from where it goes first, or it is in another part of a packet than they are; dropped from the lan unless the address is safe. From the
        /// wan, where ports decide; passed.
        HeaderChainUnjudged = "header_chain_unjudged",
        /// Ports decide and the packet ends before them; passed.
        TruncatedUnjudged = "truncated_unjudged",
        /// From the outside, over TCP, and not a SYN without ACK: it can start nothing; passed.
        WanNotOpening = "wan_not_opening",
        /// From the outside, and from where something was let out to lately; passed.
        WanAnswer = "wan_answer",
        /// A TLS ClientHello whose server's name a rule blocks; dropped and recorded, and the client is told if the rule says
        /// so.
        TlsBlocked = "tls_blocked",
        /// It could not be judged, and `[egress_dns] unjudged` refuses that; dropped and recorded.
        UnjudgedBlocked = "unjudged_blocked",
        /// From this machine, but not of it: it only passes through; passed.
        HostForwarded = "host_forwarded",
        /// From a socket of the agent; passed.
        HostOwn = "host_own",
        /// A question whose name a rule blocks: answered, and recorded.
        QueryAnswered = "query_answered",
        /// A question whose name a rule blocks with silence: dropped, and recorded.
        QuerySilenced = "query_silenced",
        /// A question to us that only the agent can judge or answer; passed up.
        QueryHandedUp = "query_handed_up",
        /// A question to another resolver that only the agent can judge or answer; diverted to it.
        QueryDiverted = "query_diverted",
        /// The same, over TCP: a packet of the connection, diverted to the agent.
        StreamDiverted = "stream_diverted",
        /// Diverted, and nobody took it: a question whose name lies below one that is blocked, a segment that opens a
        /// connection, or one with data of a connection that was there before the agent; dropped. It was counted as
        /// diverted too.
        DivertRefused = "divert_refused",
        /// It should have gone up, but the agent is dead; passed.
        AgentDeadPassed = "agent_dead_passed",
        /// It should have gone up, but the agent is dead, and the name lies below one that is blocked, or a segment holds
        /// anything else than one question that may pass; dropped.
        AgentDeadDropped = "agent_dead_dropped",
        /// A question for a blocked name from a client that asks too fast; dropped.
        QueryTooFast = "query_too_fast",
        /// A question for a blocked name from an address that is not served; dropped.
        QueryStranger = "query_stranger",
        /// A question for a blocked name from an address to which nothing can be sent; dropped.
        QuerySource = "query_source",
        /// The frame with the answer or the diversion could not be made; dropped.
        QueryNoRoom = "query_no_room",
        /// Another operation than a question, to another resolver; passed.
        QueryOpcode = "query_opcode",
        /// A part of a fragmented packet for DNS at another resolver; dropped.
        QueryFragment = "query_fragment",
        /// DNS to another resolver that a rule of the policy's `[egress_dns]` refuses; dropped, and recorded.
        EgressBlocked = "egress_blocked",
        /// DNS to another resolver that a rule of the policy's `[egress_dns]` logs; passed, and recorded.
        EgressLogged = "egress_logged",
    }
}

impl Exit {
    /// Whether a packet that leaves by it was let through under a rule about its address, or about the name that led there.
    #[inline(always)]
    pub const fn lets_through(self) -> bool {
        matches!(self, Self::Opened | Self::Allowed | Self::Logged | Self::Exempt)
    }
}

counted! {
    /// Why a record was not kept as usual. Verdicts and [`RuleCounts`] are never touched by any of these.
    pub enum Loss {
        /// The ring was full: the packet is reported in a count instead of an event of its own.
        RingFull = "ring_full",
        /// The table of contacts was full: the packet had an event of its own, at any rate.
        ContactsFull = "contacts_full",
        /// Both were full: the packet is only in the counters.
        Unrecorded = "unrecorded",
        /// The table of flows was full: of the packet it is not known how far its contact got.
        FlowsFull = "flows_full",
    }
}

counted! {
    /// What could not be judged, on the way out. Each is counted beside the exit by which the packet left.
    pub enum Unjudged {
        /// Ports decide about the address, and the packet is a later fragment, without them.
        Fragment = "fragment",
        /// It hides behind more IPv6 headers than the program reads, or in another part of a packet than they are, or a routing
        /// header sends it on to somewhere else.
        HeaderChain = "header_chain",
        /// It hides behind more VLAN tags than the program reads.
        VlanDepth = "vlan_depth",
        /// Ports decide about the address, and the packet ends before them.
        Truncated = "truncated",
        /// Another packet is in it: a tunnel, or something encrypted that may be one.
        Tunnel = "tunnel",
        /// A TLS ClientHello that names no server in its first segment, or record.
        TlsSplit = "tls_split",
        /// A TLS ClientHello that names no server.
        TlsUnnamed = "tls_unnamed",
        /// A TLS ClientHello with another encrypted in it.
        TlsEncrypted = "tls_encrypted",
        /// A TLS ClientHello with a server's name about which only globs or patterns decide, or whose rule was to see more.
        TlsName = "tls_name",
        /// DNS over TLS or QUIC, to a resolver that is not ours.
        EncryptedDns = "encrypted_dns",
        /// A question for a blocked name on an interface whose card takes VLAN tags off, so that the kernel cannot answer
        /// it; the agent is to.
        VlanOffload = "vlan_offload",
    }
}

/// Packets, and their bytes as they were on the wire.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Count {
    /// How many packets.
    pub packets: u64,
    /// How many bytes they had together, from the Ethernet header on.
    pub bytes: u64,
}
plain_bytes!(Count { packets: u64, bytes: u64 });

/// The policy of a generation, for whoever reads what an earlier agent left.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct GenerationDigest {
    /// The generation; 0 for none.
    pub generation: u64,
    /// The digest of its policy.
    pub digest: [u8; 32],
}
plain_bytes!(GenerationDigest { generation: u64, digest: [u8; 32] });

/// The id of a rule, for the same: its length, and its letters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct RuleName {
    /// How many letters there are; 0 where the slot has no rule.
    pub bytes: u64,
    /// The letters.
    pub letters: [u8; RULE_ID_BYTES],
}
plain_bytes!(RuleName { bytes: u64, letters: [u8; RULE_ID_BYTES] });

/// The longest id of a rule.
pub const RULE_ID_BYTES: usize = 64;

/// The counts of one rule on one CPU.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct RuleCounts {
    /// In the order of [`Verdict::ALL`].
    pub verdicts: [Count; Verdict::ALL.len()],
}
plain_bytes!(RuleCounts { verdicts: [Count; Verdict::ALL.len()] });
