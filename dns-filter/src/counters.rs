//! What the DNS plane counts: bounded labels, never a client or a name.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use interdict_policy::Verdict;

macro_rules! counters {
    ($(#[doc = $doc:literal] $name:ident,)*) => {
        /// Counters of the DNS plane, all from its start.
        #[derive(Debug, Default)]
        pub struct Counters { $(pub(crate) $name: AtomicU64,)* }

        /// The counters at one moment.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct Snapshot { $(#[doc = $doc] pub $name: u64,)* }

        impl Counters {
            /// Reads all counters.
            pub fn snapshot(&self) -> Snapshot {
                Snapshot { $($name: self.$name.load(Relaxed),)* }
            }
        }

        impl Snapshot {
            /// The counters with their names.
            pub fn iter(&self) -> impl Iterator<Item = (&'static str, u64)> {
                self.described().map(|(name, _, value)| (name, value))
            }

            /// The same with what each counts, in a sentence.
            pub fn described(&self) -> impl Iterator<Item = (&'static str, &'static str, u64)> {
                [$((stringify!($name), $doc, self.$name),)*].into_iter()
            }
        }
    };
}

counters! {
    /// Questions read, whatever became of them.
    queries,
    /// Answered by a `block` rule.
    blocked,
    /// Let through and recorded by a `log` rule.
    logged,
    /// Let through and recorded by an `allow` rule.
    allowed,
    /// Let through and recorded, since the client is exempt from the rule.
    exempt,
    /// On no list.
    unlisted,
    /// Dropped: the client is not served.
    strangers,
    /// Refused as no well-formed question, or of a kind that is not answered.
    malformed,
    /// About this server, or such as no resolver is to ask elsewhere: answered here.
    own,
    /// Answered from the cache.
    cached,
    /// Answered with what had ended, since no upstream had anything else.
    stale,
    /// Asked again before the answer had ended, since it is wanted.
    prefetched,
    /// Asked while the same was being asked already.
    joined,
    /// Asked of an upstream.
    forwarded,
    /// No upstream answered.
    upstream_failures,
    /// Dropped: too much work was in flight.
    overload,
    /// On its way to another resolver, and diverted to us.
    diverted,
    /// Of those, asked of that resolver for the client.
    passed_on,
    /// Of those, such as could not be judged.
    unjudged,
    /// Of those, such as could not be answered or passed on.
    divert_failures,
    /// Answers over UDP that the system did not take.
    unsent,
    /// TCP connections closed at once: too many were open, in all or of that client.
    tcp_refused,
    /// Times a listener died and was started again.
    listener_restarts,
}

/// Counts a question that a rule decided.
pub(crate) fn count_verdict(counters: &Counters, verdict: Verdict) {
    count(match verdict {
        Verdict::Block => &counters.blocked,
        Verdict::Log => &counters.logged,
        Verdict::Allow => &counters.allowed,
        Verdict::Exempt => &counters.exempt,
        Verdict::None => &counters.unlisted,
    });
}

pub(crate) fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Relaxed);
}

pub(crate) fn count_many(counter: &AtomicU64, more: usize) {
    if more > 0 {
        counter.fetch_add(more as u64, Relaxed);
    }
}
