//! What concerns DNS questions: how they are answered, whose they are, what is recorded of them.

use interdict_dns_wire::{NAME_LIMIT_BYTES, Template};

use crate::{
    Address,
    contact::Event,
    filter::{self, Filter},
    limits::MAX_RULES,
    name::Names,
    network::Networks,
    plain_bytes,
    policy::Decision,
    spelling::{MAX_TRANSLATIONS, Translation, Translations},
    table,
};

/// The port of plain DNS, over UDP and TCP.
pub const PORT: u16 = 53;

/// The port of DNS over TLS (RFC 7858) and over QUIC (RFC 9250).
pub const ENCRYPTED_PORT: u16 = 853;

/// What a rule answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(transparent)]
pub struct Answer(pub Template);
plain_bytes!(Answer { template: Template });

/// Where the answer of a rule with this slot stands, in this slot of policies.
#[inline(always)]
pub const fn answer_place(slot: u32, rule: u32) -> u32 {
    slot * MAX_RULES + rule
}

/// What a policy says about DNS that is on its way to a resolver that is not ours.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Egress {
    /// The decision for names on no list; none where they pass unrecorded.
    pub plain: Decision,
    /// 1 where such names are answered by us.
    pub redirect: u32,
    /// The decision for encrypted DNS; none where it passes unrecorded.
    pub encrypted: Decision,
    /// The decision for what could not be judged.
    pub unjudged: Decision,
    /// How many resolvers the policy calls ours: while it is 0, no packet pays for a look at them.
    pub resolvers: u32,
}
plain_bytes!(Egress {
    plain: Decision,
    redirect: u32,
    encrypted: Decision,
    unjudged: Decision,
    resolvers: u32
});

/// What there is once for a policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Settings {
    /// How its names are to be read.
    pub names: Names,
    /// What it says about DNS for other resolvers.
    pub egress: Egress,
    /// Behind which IPv6 prefixes IPv4 addresses stand.
    pub translations: Translations,
    /// A quick look at addresses that may stand behind one of those.
    pub translated: u64,
    /// How its networks are to be read.
    pub networks: Networks,
    /// A quick look at IPv4 addresses.
    pub places4: Filter,
    /// A quick look at IPv6 addresses.
    pub places6: Filter,
    /// The filter of its names.
    pub name_filter: table::Filter,
    /// The filter of its networks.
    pub network_filter: table::Filter,
}
plain_bytes!(Settings {
    names: Names,
    egress: Egress,
    translations: Translations,
    translated: u64,
    networks: Networks,
    places4: Filter,
    places6: Filter,
    name_filter: table::Filter,
    network_filter: table::Filter
});

impl Settings {
    /// Those of a policy that says nothing, as far as numbers can say it.
    pub const NONE: Self = Self {
        names: Names::NONE,
        egress: Egress::NONE,
        translations: [Translation::NONE; MAX_TRANSLATIONS],
        translated: 0,
        networks: Networks::NONE,
        places4: [0; filter::WORDS],
        places6: [0; filter::WORDS],
        name_filter: [0; table::FILTER_WORDS],
        network_filter: [0; table::FILTER_WORDS],
    };
}

impl Egress {
    /// Everything passes.
    pub const NONE: Self = Self {
        plain: Decision::NONE,
        redirect: 0,
        encrypted: Decision::NONE,
        unjudged: Decision::NONE,
        resolvers: 0,
    };

    /// Whether names on no list pass, whichever resolver is asked for them.
    #[inline(always)]
    pub const fn lets_unlisted_pass(&self) -> bool {
        self.plain.state.verdict().is_none() && self.redirect == 0
    }
}

/// An interface towards our clients, on which questions are answered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Interface {
    /// Its address, as in the first six bytes of a frame, and then whether questions are answered.
    word: u64,
}
plain_bytes!(Interface { word: u64 });

impl Interface {
    /// One with this address, of which is told whether questions are answered: [`Self::ANSWERS`], [`Self::HIDES_TAGS`], or
    /// 0 where they are not, and for an index that no interface of ours has.
    pub const fn new([a, b, c, d, e, f]: [u8; 6], answers: u16) -> Self {
        Self { word: u64::from_le_bytes([a, b, c, d, e, f, 0, 0]) | (answers as u64) << 48 }
    }

    /// Whether questions are answered, as [`Self::new`] was told.
    #[inline(always)]
    pub const fn answers(&self) -> u16 {
        (self.word >> 48) as u16
    }

    /// Whether a frame whose first eight bytes are this word, as they lie in memory, is for it: frames for another are not for
    /// us.
    #[inline(always)]
    pub const fn is_meant(&self, first: u64) -> bool {
        (self.word ^ first.to_le()) << 16 == 0
    }

    /// Questions are answered.
    pub const ANSWERS: u16 = 1;
    /// They are not, since the card takes VLAN tags off, and answers would leave without.
    pub const HIDES_TAGS: u16 = 2;
}

/// Why an address is ours: this machine, or one of its listeners, has it.
pub const OURS: u32 = 1;

/// The broadcast address of a network of ours.
pub const BROADCAST: u32 = 2;

/// This machine has the address, and another resolver may answer on its port 53.
pub const OTHERS: u32 = 3;

/// The questions of one client in the current second, or what it was told about its blocked packets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Rate {
    /// Of the client, as [`crate::seat::client`] says; 0 of nobody.
    pub tag: u64,
    /// When the second began, in nanoseconds since boot.
    pub window_ns: u64,
    /// How many there were in it.
    pub count: u64,
    /// Always 0.
    pub zero: u64,
}
plain_bytes!(Rate { tag: u64, window_ns: u64, count: u64, zero: u64 });

/// One question that was answered in the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct QueryEvent {
    /// Who asked, whom, and what was decided.
    pub event: Event,
    /// QTYPE.
    pub qtype: u16,
    /// Bytes of the name, root included.
    pub name_bytes: u16,
    /// The name as it was asked, from its first length byte on.
    pub name: [u8; NAME_LIMIT_BYTES + 1],
    /// Always 0.
    pub zero: [u8; 4],
}
plain_bytes!(QueryEvent {
    event: Event,
    qtype: u16,
    name_bytes: u16,
    name: [u8; NAME_LIMIT_BYTES + 1],
    zero: [u8; 4],
});

/// A question that is let up to the agent although it was on its way to another resolver carries this in front of its
/// frame, where the divert program looks: two words, the second one of those below.
pub const DIVERT_MAGIC: u32 = 0x1d1c_0053;

/// If nobody takes it, it passes.
pub const DIVERT_OR_PASS: u32 = 1;

/// If nobody takes it, it is dropped.
pub const DIVERT_OR_DROP: u32 = 2;

/// The mark of packets that are diverted; a rule of the routing policy delivers them to this machine.
pub const DIVERT_MARK: u32 = 0x1d1c_0053;

/// The mark of our own sockets that ask other resolvers: every hook lets their packets pass.
pub const OWN_MARK: u32 = 0x1d1c_0001;

/// The sockets that take what is diverted, by their places in the map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum DivertSocket {
    /// UDP over IPv4.
    Udp4,
    /// UDP over IPv6.
    Udp6,
    /// TCP over IPv4.
    Tcp4,
    /// TCP over IPv6.
    Tcp6,
}

impl DivertSocket {
    /// How many there are.
    pub const COUNT: usize = 4;
}

/// A resolver that a policy calls ours.
pub type Resolver = Address;
