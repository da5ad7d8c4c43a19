//! The form in which a policy lies in the kernel.

use crate::{Address, plain_bytes};

/// What is done with a packet that a rule matches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u32)]
pub enum Verdict {
    /// Dropped, and recorded.
    Block = 1,
    /// Passed, and recorded.
    Log = 2,
    /// Passed as an exception, and recorded.
    Allow = 3,
    /// Passed because this client is on the register of exemptions, and recorded.
    Exempt = 4,
}

impl Verdict {
    /// Every verdict, in the order in which [`crate::count::RuleCounts`] counts them.
    pub const ALL: [Self; 4] = [Self::Block, Self::Log, Self::Allow, Self::Exempt];

    /// The verdict of a code in a map; `None` for 0, by which a map says that there is none.
    #[inline(always)]
    pub const fn from_code(code: u32) -> Option<Self> {
        match code {
            1 => Some(Self::Block),
            2 => Some(Self::Log),
            3 => Some(Self::Allow),
            4 => Some(Self::Exempt),
            _ => None,
        }
    }

    /// The code by which maps and events name the verdict.
    #[inline(always)]
    pub const fn code(self) -> u32 {
        self as u32
    }
}

/// What a rule does, in one word: its verdict, and what else there is to ask before it holds. 0 for no rule.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct State {
    word: u32,
}
plain_bytes!(State { word: u32 });

impl State {
    /// No rule.
    pub const NONE: Self = Self { word: 0 };
    const VERDICT: u32 = 0xff;
    const EXEMPTIONS: u32 = 1 << 8;
    const LEARNS: u32 = 1 << 9;
    const REJECTS: u32 = 1 << 10;
    /// All bits of the word that mean something.
    pub(crate) const BITS: u32 = Self::VERDICT | Self::EXEMPTIONS | Self::LEARNS | Self::REJECTS;

    #[inline(always)]
    pub(crate) const fn bits(self) -> u32 {
        self.word
    }

    #[inline(always)]
    pub(crate) const fn from_bits(word: u32) -> Self {
        Self { word }
    }

    /// The state of a rule with this verdict.
    #[inline(always)]
    pub const fn new(verdict: Verdict) -> Self {
        Self { word: verdict.code() }
    }

    /// The same, if the register of exemptions names the rule.
    #[must_use]
    pub const fn with_exemptions(self, any: bool) -> Self {
        Self { word: self.word | if any { Self::EXEMPTIONS } else { 0 } }
    }

    /// The same, if addresses answered for the rule's names are matched too.
    #[must_use]
    pub const fn with_learning(self, learns: bool) -> Self {
        Self { word: self.word | if learns { Self::LEARNS } else { 0 } }
    }

    /// The same, if the sender of a blocked packet is told.
    #[must_use]
    pub const fn with_reject(self, rejects: bool) -> Self {
        Self { word: self.word | if rejects { Self::REJECTS } else { 0 } }
    }

    /// The verdict; `None` for no rule.
    #[inline(always)]
    pub const fn verdict(self) -> Option<Verdict> {
        Verdict::from_code(self.word & Self::VERDICT)
    }

    /// Whether there is no rule.
    #[inline(always)]
    pub const fn is_none(self) -> bool {
        self.word & Self::VERDICT == 0
    }

    /// Whether the register of exemptions names the rule.
    #[inline(always)]
    pub const fn has_exemptions(self) -> bool {
        self.word & Self::EXEMPTIONS != 0
    }

    /// Whether the sender of a blocked packet is told.
    #[inline(always)]
    pub const fn rejects(self) -> bool {
        self.word & Self::REJECTS != 0
    }

    /// Whether addresses answered for the rule's names are matched too.
    #[inline(always)]
    pub const fn learns(self) -> bool {
        self.word & Self::LEARNS != 0
    }
}

/// A rule and what it does, or none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct Decision {
    /// The slot of the rule.
    pub rule: u32,
    /// What it does.
    pub state: State,
}
plain_bytes!(Decision { rule: u32, state: State });

impl Decision {
    /// No rule decides.
    pub const NONE: Self = Self { rule: 0, state: State::NONE };

    /// Whether no rule decides.
    #[inline(always)]
    pub const fn is_none(self) -> bool {
        self.state.is_none()
    }
}

/// The whole answer for an address whose longest network this is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct NetworkEntry {
    /// The decision where no port decides.
    pub otherwise: Decision,
    /// The set of ports that decide first; 0 for none.
    pub port_set: u32,
}
plain_bytes!(NetworkEntry { otherwise: Decision, port_set: u32 });

impl NetworkEntry {
    /// No network holds the address.
    pub const NONE: Self = Self { otherwise: Decision::NONE, port_set: 0 };

    /// Whether no network holds the address: a network that is in a map decides for some port or for all.
    #[inline(always)]
    pub const fn is_none(self) -> bool {
        self.otherwise.is_none() && self.port_set == 0
    }
}

/// A port in a set of ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct ServiceKey {
    /// The set, as [`NetworkEntry::port_set`] names it.
    pub port_set: u32,
    /// The port, in network byte order.
    pub port: [u8; 2],
    /// The IP protocol number: TCP or UDP.
    pub protocol: u8,
    /// Always 0.
    pub zero: u8,
}
plain_bytes!(ServiceKey { port_set: u32, port: [u8; 2], protocol: u8, zero: u8 });

/// An address that an answer to a question gave: open because its name was let through, or learned for its rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Opening {
    /// When it ends, in nanoseconds since boot.
    pub expires_ns: u64,
    /// The slot of the rule of the name.
    pub rule: u32,
    /// Always 0.
    pub zero: u32,
}
plain_bytes!(Opening { expires_ns: u64, rule: u32, zero: u32 });

/// An address that is open to one client, which is exempt from the rule of the name that resolved to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct ClientOpening {
    /// The client.
    pub client: Address,
    /// The address.
    pub remote: Address,
}
plain_bytes!(ClientOpening { client: Address, remote: Address });

/// A rule and a network of clients that are exempt from it: the key of a trie, whose value is when that ends, in
/// nanoseconds since boot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct ExemptionKey {
    /// The slot of the rule.
    pub rule: u32,
    /// Always 0. It keeps the value that follows the key aligned.
    pub zero: u32,
    /// The clients' network.
    pub clients: Address,
}
plain_bytes!(ExemptionKey { rule: u32, zero: u32, clients: Address });

impl ExemptionKey {
    /// The bits before the clients' network.
    pub const RULE_BITS: u32 = 64;
    /// All bits: those of one client.
    pub const BITS: u32 = Self::RULE_BITS + 128;
}
