//! The names of the maps, as the loader asks for them.
//!
//! The kernel object declares each map as a `static` of the same name; the loader's tests load the object, so a name
//! that differs is found there.

/// Words that both sides share: see [`crate::control`].
pub const CONTROL: &str = "CONTROL";
/// Two slots of arrays of [`crate::table::Bucket`]: the networks of both families.
pub const NETWORKS: &str = "NETWORKS";
/// Two slots of hashes: [`crate::policy::ServiceKey`] to [`crate::policy::Decision`].
pub const SERVICES: &str = "SERVICES";
/// Two slots of arrays: rule slot to [`crate::policy::State`], for opened and learned addresses.
pub const RULES: &str = "RULES";
/// IPv4 networks that are never dropped.
pub const SAFE4: &str = "SAFE4";
/// IPv6 networks that are never dropped.
pub const SAFE6: &str = "SAFE6";
/// Address to [`crate::policy::Opening`].
pub const OPENED: &str = "OPENED";
/// [`crate::policy::ClientOpening`] to [`crate::policy::Opening`].
pub const OPENED_TO: &str = "OPENED_TO";
/// Address to [`crate::policy::Opening`], for the rules that learn.
pub const LEARNED: &str = "LEARNED";
/// Two slots of tries: [`crate::policy::ExemptionKey`] to the end of the exemption, in nanoseconds since boot.
pub const EXEMPTIONS: &str = "EXEMPTIONS";
/// Packets for each [`crate::count::Exit`].
pub const EXITS: &str = "EXITS";
/// Packets for each [`crate::count::Unjudged`].
pub const UNJUDGED: &str = "UNJUDGED";
/// Records that did not fit, for each [`crate::count::Loss`].
pub const LOSSES: &str = "LOSSES";
/// Rule slot to [`crate::count::RuleCounts`].
pub const RULE_COUNTS: &str = "RULE_COUNTS";
/// Contacts that are counted by themselves: an array of [`crate::seat::Seat`].
pub const CONTACT_SEATS: &str = "CONTACT_SEATS";
/// The others: [`crate::contact::ContactKey`] to [`crate::contact::ContactCounts`].
pub const CONTACTS: &str = "CONTACTS";
/// [`crate::contact::AccountKey`] to [`crate::count::Count`], of contacts that are over: only the loader writes it.
pub const ACCOUNTS: &str = "ACCOUNTS";
/// [`crate::contact::ContactKey`] to [`crate::contact::Reported`].
pub const REPORTED: &str = "REPORTED";
/// Two slots of tries: network of clients, in the mapped form, to the number of their unit.
pub const UNITS: &str = "UNITS";
/// [`crate::contact::BeyondKey`] to [`crate::count::Count`], of clients for whom there was no room.
pub const BEYOND: &str = "BEYOND";
/// Rule slot to [`crate::count::RuleName`]: only the loader writes it.
pub const RULE_NAMES: &str = "RULE_NAMES";
/// The last generations, by their number modulo the size, to [`crate::count::GenerationDigest`]: only the loader writes it.
pub const DIGESTS: &str = "DIGESTS";

/// What one agent leaves to the next, where programs stay: what was counted and not yet read, what the numbers in it mean,
/// and what answers opened.
pub const LASTING: [&str; 19] = [
    EXITS,
    UNJUDGED,
    LOSSES,
    RULE_COUNTS,
    CONTACT_SEATS,
    CONTACTS,
    REPORTED,
    ACCOUNTS,
    BEYOND,
    RULE_NAMES,
    DIGESTS,
    EVENTS,
    QUERIES,
    PROCESSES,
    FLOWS,
    LET_OUT,
    OPENED,
    OPENED_TO,
    LEARNED,
];

/// The ring of [`crate::contact::Event`].
pub const EVENTS: &str = "EVENTS";
/// Two slots of arrays of [`crate::table::Bucket`].
pub const NAMES: &str = "NAMES";
/// [`crate::query::answer_place`] to [`crate::query::Answer`].
pub const ANSWERS: &str = "ANSWERS";
/// Two slots of arrays of one [`crate::query::Settings`].
pub const SETTINGS: &str = "SETTINGS";
/// Two slots of hashes: the addresses that the policy calls resolvers of ours.
pub const RESOLVERS: &str = "RESOLVERS";
/// Networks of clients that are answered, IPv4 ones in their mapped form.
pub const CLIENTS: &str = "CLIENTS";
/// Address to [`crate::query::OURS`] or [`crate::query::BROADCAST`].
pub const OURS: &str = "OURS";
/// Interface index to [`crate::query::Interface`].
pub const INTERFACES: &str = "INTERFACES";
/// Pairs of [`crate::query::Rate`], by client.
pub const RATES: &str = "RATES";
/// The same, of what it is told about its blocked packets.
pub const REJECTS: &str = "REJECTS";
/// [`crate::flow::FlowKey`] to [`crate::flow::Flow`].
pub const FLOWS: &str = "FLOWS";
/// [`crate::flow::Service`] to when anything was last let out to it, in nanoseconds since boot.
pub const LET_OUT: &str = "LET_OUT";
/// Interface index to 1 where frames have no Ethernet header.
pub const BARE: &str = "BARE";
/// The ring of [`crate::contact::ProcessEvent`].
pub const PROCESSES: &str = "PROCESSES";
/// The ring of [`crate::query::QueryEvent`].
pub const QUERIES: &str = "QUERIES";
/// The sockets of [`crate::query::DivertSocket`].
pub const DIVERT: &str = "DIVERT";
