//! One generation of the policy, as it lies in the maps.

use aya_ebpf::btf_maps::lpm_trie::Key;
use interdict_dns_wire::{Bytes, Question, Round};
use interdict_ebpf_program::{ip::Version, verdict::Policy};
use interdict_ebpf_shared::{
    Address, control, filter,
    flow::Service,
    limits::HEARTBEAT_NS,
    name::{self, NameEntry},
    network::{self, STEPS, Step},
    policy::{ClientOpening, Decision, ExemptionKey, NetworkEntry, Opening, ServiceKey, State, Verdict},
    query::{Answer, Egress, OTHERS, Settings, answer_place},
    spelling,
    table::{self, Bucket, FILTER_WORDS, Table},
};

use crate::{
    clock::{exact_ns, now_ns},
    control::Control,
    flows,
    maps::{
        ANSWERS, EXEMPTIONS, LEARNED, NAMES, NETWORKS, OPENED, OPENED_TO, OURS, RESOLVERS, RULES, SAFE4,
        SAFE6, SERVICES, SETTINGS,
    },
    scratch::{Place, forgotten, in_the_kernel, masked},
};

/// The generation that one packet is judged by.
///
/// Its number is read once, and every lookup goes to the slot of that number: whatever the loader flips meanwhile,
/// a packet sees one policy from start to end.
pub(crate) struct Generation {
    number: u64,
    settings: &'static Settings,
    /// Not 0 if there are addresses of which answers told, or a server's name. It is kept as a number until it is asked for: of a `bool` the
    /// verifier knows its value, and would verify all that follows for each.
    told: u64,
}

impl Generation {
    /// The one in force, if there is one yet.
    #[inline(always)]
    pub(crate) fn live() -> Option<Self> {
        let control = Control::here()?;
        let number = control.word::<{ control::LIVE }>();
        Some(Self {
            number,
            settings: settings(number)?,
            told: control.word::<{ control::OPEN_ADDRESSES }>()
                | control.word::<{ control::CLIENT_OPENINGS }>()
                | control.word::<{ control::LEARNED_ADDRESSES }>()
                | control.word::<{ control::NAMED_FLOWS }>(),
        })
    }

    /// The one that is staged. It is looked at without the addresses that answers gave, which are no part of a policy.
    #[inline(always)]
    pub(crate) fn staged() -> Option<Self> {
        let control = Control::here()?;
        let number = control.word::<{ control::STAGED }>();
        let settings = settings(number)?;
        Some(Self { number, settings, told: 0 })
    }

    /// Its number.
    #[inline(always)]
    pub(crate) const fn number(&self) -> u64 {
        self.number
    }

    /// What the names of the policy say of that of a question in a message, if the message can be read so far.
    #[inline(always)]
    pub(crate) fn name<M: Bytes + ?Sized>(
        &self,
        message: &M,
        question: &Question,
        place: Place,
    ) -> Option<NameEntry> {
        let names = Names { slot: self.slot(), filter: &self.settings.name_filter };
        name::find(&self.settings.names, message, question, &mut place.search(), &names)
    }

    /// What a rule answers.
    #[inline(always)]
    pub(crate) fn answer(&self, rule: u32) -> Option<&Answer> {
        ANSWERS.get(answer_place(self.slot(), rule))
    }

    /// What the policy says of DNS that is on its way to another resolver.
    #[inline(always)]
    pub(crate) fn egress(&self) -> Egress {
        self.settings.egress
    }

    /// Whether anything may be said about an address: `false` for most, at the cost of one look into memory, or two.
    #[inline(always)]
    pub(crate) fn may_concern(&self, version: Version, address: Address) -> bool {
        is_placed(self.settings, version, address) || self.told != 0 && self.is_told(address)
    }

    /// Whether there are addresses of the kind that is counted in a word.
    #[inline(always)]
    fn has_told<const INDEX: u32>(&self) -> bool {
        self.told != 0 && word::<INDEX>() != 0
    }

    /// Whether there are connections that are followed by their servers' names.
    #[inline(always)]
    pub(crate) fn follows_names(&self) -> bool {
        self.has_told::<{ control::NAMED_FLOWS }>()
    }

    /// Has every packet to and from an address looked at: a connection to it is followed by its server's name.
    #[inline(always)]
    pub(crate) fn follow(&self, address: Address) {
        if let Some(control) = Control::here() {
            control.follow(address);
        }
    }

    /// Whether an answer may have opened an address, or had it learned, or a connection to it is followed.
    #[inline(always)]
    fn is_told(&self, address: Address) -> bool {
        const MASK: usize = control::TOLD_WORDS as usize - 1;
        has::<{ control::TOLD }, MASK>(control::told_bit(address))
    }

    /// Whether the policy calls an address a resolver of ours.
    #[inline(always)]
    pub(crate) fn is_resolver(&self, address: Address) -> bool {
        // SAFETY: the value is only looked for, not read.
        RESOLVERS.get(self.slot()).is_some_and(|resolvers| unsafe { resolvers.get(address) }.is_some())
    }

    /// What a rule does.
    #[inline(always)]
    pub(crate) fn decision_of(&self, rule: u32) -> Decision {
        let state = RULES.get(self.slot()).and_then(|rules| rules.get(rule));
        Decision { rule, state: state.map_or(State::NONE, |&[state]| state) }
    }

    /// What the rule of an answer does in this generation, while the answer holds.
    #[inline(always)]
    fn state(&self, opening: &Opening) -> State {
        if has_ended(opening.expires_ns) {
            return State::NONE;
        }
        RULES.get(self.slot()).and_then(|rules| rules.get(opening.rule)).map_or(State::NONE, |&[state]| state)
    }

    #[inline(always)]
    const fn slot(&self) -> u32 {
        control::slot(self.number)
    }
}

impl Policy for Generation {
    #[inline(always)]
    fn generation(&self) -> u64 {
        self.number
    }

    #[inline(always)]
    fn network(&self, version: Version, address: Address) -> NetworkEntry {
        let first = match version {
            Version::V4 => network::FIRST_STEP_V4,
            Version::V6 => network::FIRST_STEP_V6,
        };
        let networks = Networks { slot: self.slot(), settings: self.settings };
        network::find(&self.settings.networks.layout, first, address, &networks)
    }

    #[inline(always)]
    fn service(&self, key: ServiceKey) -> Decision {
        let Some(services) = SERVICES.get(self.slot()) else {
            return Decision::NONE;
        };
        // SAFETY: the loader never changes an entry of a slot that programs read, so the value stays what it is.
        unsafe { services.get(key) }.map_or(Decision::NONE, |&[decision]| decision)
    }

    #[inline(always)]
    fn opened(&self, address: Address) -> Decision {
        if !self.has_told::<{ control::OPEN_ADDRESSES }>() {
            return Decision::NONE;
        }
        // SAFETY: an entry that the loader replaces meanwhile is read as either of the two; both are openings of
        // this address.
        let Some(opening) = (unsafe { OPENED.get(address) }) else {
            return Decision::NONE;
        };
        let state = self.state(opening);
        match state.verdict() {
            Some(Verdict::Log | Verdict::Allow) => Decision { rule: opening.rule, state },
            _ => Decision::NONE,
        }
    }

    #[inline(always)]
    fn opened_to(&self, client: Address, address: Address) -> Decision {
        if !self.has_told::<{ control::CLIENT_OPENINGS }>() {
            return Decision::NONE;
        }
        // SAFETY: as in `opened`.
        let Some(opening) = (unsafe { OPENED_TO.get(ClientOpening { client, remote: address }) }) else {
            return Decision::NONE;
        };
        let rule = opening.rule;
        // The exemption may have ended before the answer does.
        match self.state(opening).has_exemptions() && self.is_exempt(rule, client) {
            true => Decision { rule, state: State::new(Verdict::Exempt) },
            false => Decision::NONE,
        }
    }

    #[inline(always)]
    fn learned(&self, address: Address) -> Decision {
        if !self.has_told::<{ control::LEARNED_ADDRESSES }>() {
            return Decision::NONE;
        }
        // SAFETY: as in `opened`.
        let Some(opening) = (unsafe { LEARNED.get(address) }) else {
            return Decision::NONE;
        };
        let state = self.state(opening);
        if state.learns() { Decision { rule: opening.rule, state } } else { Decision::NONE }
    }

    #[inline(always)]
    fn is_exempt(&self, rule: u32, client: Address) -> bool {
        let key = Key::new(ExemptionKey::BITS, ExemptionKey { rule, zero: 0, clients: client });
        let end = EXEMPTIONS.get(self.slot()).and_then(|exemptions| exemptions.get(&key));
        end.is_some_and(|&end_ns| !has_ended(end_ns))
    }

    #[inline(always)]
    fn is_safe(&self, version: Version, address: Address) -> bool {
        const MASK: usize = control::SAFE_WORDS as usize - 1;
        let bit = control::safe_bit(address, version == Version::V4);
        if !has::<{ control::SAFE }, MASK>(bit) {
            return false;
        }
        match version {
            Version::V4 => SAFE4.get(&Key::new(32, address.v4_word())).is_some(),
            Version::V6 => SAFE6.get(&Key::new(128, address.words())).is_some(),
        }
    }

    #[inline(always)]
    fn was_let_out(&self, service: Service) -> bool {
        flows::was_let_out(service)
    }

    #[inline(always)]
    fn inside(&self, address: Address) -> Address {
        // Told here, without a call, of nearly every address.
        if self.settings.translated & spelling::bit(address) == 0 {
            return Address::NONE;
        }
        interdict_ebpf_program::frame::rarely();
        inside(self.settings, address)
    }
}

/// The IPv4 address that another is a spelling of, or none.
#[inline(never)]
fn inside(settings: &Settings, address: Address) -> Address {
    for translation in settings.translations.iter().take_while(|translation| !translation.is_none()) {
        let inside = translation.inside(address);
        if inside != Address::NONE {
            return inside;
        }
    }
    Address::NONE
}

/// The settings of a generation, if there is one of this number yet.
#[inline(always)]
fn settings(number: u64) -> Option<&'static Settings> {
    if number == 0 {
        return None;
    }
    SETTINGS.get(control::slot(number)).and_then(|settings| settings.get(0)).map(|[settings]| settings)
}

#[inline(always)]
fn may_be_ours(address: Address) -> bool {
    const MASK: usize = control::OURS_WORDS as usize - 1;
    let bit = control::ours_bit(address);
    has::<{ control::OURS }, MASK>(bit)
}

/// Whether an address is one of this machine's, or a broadcast address of its networks.
#[inline(always)]
pub(crate) fn is_ours(address: Address) -> bool {
    // SAFETY: the value is only looked for, not read.
    may_be_ours(address) && unsafe { OURS.get(address) }.is_some()
}

/// Whether an address is one of this machine's that asks nobody else: not even another resolver on the same machine.
#[inline(always)]
pub(crate) fn is_served(address: Address) -> bool {
    // SAFETY: an entry that the loader replaces meanwhile is read as either of the two.
    may_be_ours(address) && unsafe { OURS.get(address) }.is_some_and(|&kind| kind != OTHERS)
}

/// Whether a network may hold an address.
#[inline(always)]
fn is_placed(settings: &Settings, version: Version, address: Address) -> bool {
    let is_in = |filter: &[u64; filter::WORDS], (word, bit): (usize, u64)| {
        // SAFETY: a masked place is in the filter.
        let bits = unsafe { *filter.as_ptr().add(masked::<{ filter::WORDS - 1 }>(word)) };
        bits & bit != 0
    };
    match version {
        Version::V4 => is_in(&settings.places4, filter::place_of_v4(address)),
        // All that 6to4 could spell would fill the filter.
        Version::V6 if spelling::is_six_to_four(address) => true,
        Version::V6 => is_in(&settings.places6, filter::place_of_v6(address)),
    }
}

/// The names of one slot.
struct Names<'s> {
    slot: u32,
    filter: &'s table::Filter,
}

impl Table for Names<'_> {
    #[inline(always)]
    fn filter(&self, at: usize) -> u64 {
        filter_word(self.filter, at)
    }

    #[inline(always)]
    fn bucket(&self, at: u64) -> Option<&Bucket> {
        NAMES.get(self.slot)?.get(at as u32).map(|[bucket]| bucket)
    }
}

/// The networks of one slot.
struct Networks {
    slot: u32,
    settings: &'static Settings,
}

impl Table for Networks {
    #[inline(always)]
    fn filter(&self, at: usize) -> u64 {
        filter_word(&self.settings.network_filter, at)
    }

    #[inline(always)]
    fn bucket(&self, at: u64) -> Option<&Bucket> {
        NETWORKS.get(self.slot)?.get(at as u32).map(|[bucket]| bucket)
    }
}

impl network::Source for Networks {
    #[inline(always)]
    fn step(&self, at: usize) -> &Step {
        // SAFETY: a masked place is one of the steps.
        unsafe { &*self.settings.networks.steps.as_ptr().add(masked::<{ STEPS - 1 }>(at)) }
    }

    #[inline(always)]
    fn forget(number: usize) -> usize {
        forgotten(number)
    }

    #[inline(always)]
    fn repeat<R: Round>(limit: usize, work: &mut R) -> Option<usize> {
        in_the_kernel(limit, work)
    }
}

#[inline(always)]
fn filter_word(filter: &table::Filter, at: usize) -> u64 {
    // SAFETY: a masked place is in the filter.
    unsafe { *filter.as_ptr().add(masked::<{ FILTER_WORDS - 1 }>(at)) }
}

/// Whether DNS questions are judged.
#[inline(always)]
pub(crate) fn judges_queries() -> bool {
    word::<{ control::JUDGE_QUERIES }>() != 0
}

/// Whether the agent has said lately that it lives.
#[inline(always)]
pub(crate) fn agent_lives() -> bool {
    now_ns().saturating_sub(word::<{ control::HEARTBEAT }>()) < HEARTBEAT_NS
}

/// The address under which this machine's own calls are recorded, or none.
#[inline(always)]
pub(crate) fn host_address(version: Version) -> Address {
    match version {
        Version::V4 => match word::<{ control::HOST4 }>() as u32 {
            0 => Address::NONE,
            bits => Address::from_v4(bits.to_be_bytes()),
        },
        Version::V6 => Address::from_halves([word::<{ control::HOST6 }>(), word::<{ control::HOST6 + 1 }>()]),
    }
}

#[inline(always)]
fn has_ended(end_ns: u64) -> bool {
    end_ns <= exact_ns()
}

/// A word by which the agent steers.
#[inline(always)]
fn word<const INDEX: u32>() -> u64 {
    Control::here().map_or(0, Control::word::<INDEX>)
}

/// Whether a bit is set, as [`Control::has`] says.
#[inline(always)]
fn has<const FIRST: u32, const MASK: usize>(bit: (u32, u64)) -> bool {
    Control::here().is_some_and(|control| control.has::<FIRST, MASK>(bit))
}
