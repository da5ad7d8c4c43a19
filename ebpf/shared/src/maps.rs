//! The names of the maps, as the loader asks for them.
//!
//! The kernel object declares each map as a `static` of the same name; the loader's tests load the object, so a name
//! that differs is found there.

/// Words that both sides share: see [`crate::control`].
pub const CONTROL: &str = "CONTROL";
/// Two slots of tries: IPv4 network to [`crate::policy::NetworkEntry`].
pub const NETWORKS4: &str = "NETWORKS4";
/// Two slots of tries: IPv6 network to [`crate::policy::NetworkEntry`].
pub const NETWORKS6: &str = "NETWORKS6";
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
/// Records that did not fit, for each [`crate::count::Loss`].
pub const LOSSES: &str = "LOSSES";
/// Rule slot to [`crate::count::RuleCounts`].
pub const RULE_COUNTS: &str = "RULE_COUNTS";
/// [`crate::contact::ContactKey`] to [`crate::contact::ContactCounts`].
pub const CONTACTS: &str = "CONTACTS";
/// The ring of [`crate::contact::Event`].
pub const EVENTS: &str = "EVENTS";
/// Two slots of arrays of [`crate::name::Bucket`].
pub const NAMES: &str = "NAMES";
/// Two slots of arrays: rule slot to [`crate::query::Answer`].
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
/// Client to [`crate::query::Rate`].
pub const RATES: &str = "RATES";
/// The ring of [`crate::query::QueryEvent`].
pub const QUERIES: &str = "QUERIES";
/// The sockets of [`crate::query::DivertSocket`].
pub const DIVERT: &str = "DIVERT";
