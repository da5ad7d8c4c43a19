//! What the DNS plane counts: bounded labels, never a client or a name.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use interdict_policy::Verdict;

use crate::channel::Channel;

/// Every verdict, in the order of their numbers.
const VERDICTS: [Verdict; 5] = [Verdict::Allow, Verdict::Block, Verdict::Log, Verdict::Exempt, Verdict::None];
/// Upper ends of the histogram's buckets, in microseconds; beyond the last there is one more.
pub const LATENCY_BUCKETS_US: [u64; 16] = [
    50, 100, 250, 500, 1000, 2500, 5000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000,
    2_500_000, 5_000_000,
];
const BUCKETS: usize = LATENCY_BUCKETS_US.len() + 1;

macro_rules! counters {
    ($(#[doc = $doc:literal] $name:ident,)*) => {
        /// Counters of the DNS plane, all from its start.
        #[derive(Debug, Default)]
        pub struct Counters {
            $(pub(crate) $name: AtomicU64,)*
            verdicts: [[AtomicU64; VERDICTS.len()]; Channel::ALL.len()],
            latencies: [AtomicU64; BUCKETS],
            latency_us: AtomicU64,
        }

        /// The counters at one moment.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct Snapshot {
            $(#[doc = $doc] pub $name: u64,)*
            /// Questions by how they came and what the policy says of them.
            pub verdicts: [[u64; VERDICTS.len()]; Channel::ALL.len()],
            /// Answers by the time that they took, as [`LATENCY_BUCKETS_US`] divides it; not summed up.
            pub latencies: [u64; BUCKETS],
            /// That time of all answers together, in microseconds.
            pub latency_us: u64,
        }

        impl Counters {
            /// Reads all counters.
            pub fn snapshot(&self) -> Snapshot {
                let read = |counter: &AtomicU64| counter.load(Relaxed);
                Snapshot {
                    $($name: read(&self.$name),)*
                    verdicts: self.verdicts.each_ref().map(|row| row.each_ref().map(read)),
                    latencies: self.latencies.each_ref().map(read),
                    latency_us: read(&self.latency_us),
                }
            }
        }

        impl Snapshot {
            /// The counters with their names, those of verdicts first.
            pub fn iter(&self) -> impl Iterator<Item = (&'static str, u64)> {
                let of = |at: usize| self.verdicts.iter().map(|row| row[at]).sum();
                let verdicts = ["allowed", "blocked", "logged", "exempt", "unlisted"];
                let verdicts = verdicts.into_iter().enumerate().map(move |(at, name)| (name, of(at)));
                verdicts.chain(self.described().map(|(name, _, value)| (name, value)))
            }

            /// Questions by how they came and what the policy says of them, without those of which there are none.
            pub fn verdicts(&self) -> impl Iterator<Item = (Channel, Verdict, u64)> {
                let rows = Channel::ALL.into_iter().zip(self.verdicts);
                let all = rows.flat_map(|(channel, row)| VERDICTS.into_iter().zip(row).map(move |(v, n)| (channel, v, n)));
                all.filter(|(.., count)| *count > 0)
            }

            /// The counters that are not of verdicts, with what each counts in a sentence.
            pub fn described(&self) -> impl Iterator<Item = (&'static str, &'static str, u64)> {
                [$((stringify!($name), $doc, self.$name),)*].into_iter()
            }
        }
    };
}

counters! {
    /// Questions read, whatever became of them.
    queries,
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
    /// Answered without the addresses, which were those of private networks.
    withheld,
    /// Dropped: too many came from one network in this second.
    too_fast,
    /// Asked of an upstream.
    forwarded,
    /// No upstream answered.
    upstream_failures,
    /// Answers whose signatures were not in order.
    bogus,
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
    /// TCP and QUIC connections closed at once: too many were open, in all or of that client.
    tcp_refused,
    /// TLS connections that came to nothing before anything was asked.
    tls_failures,
    /// Connections and datagrams of proxies that did not say whom they speak for.
    proxy_failures,
    /// Times a listener died and was started again.
    listener_restarts,
}

/// Counts a question that came this way, by what the policy says of it.
pub(crate) fn count_verdict(counters: &Counters, channel: Channel, verdict: Verdict) {
    count(&counters.verdicts[channel as usize][verdict as usize]);
}

/// Counts answers by the time that each took.
pub(crate) fn count_latency(counters: &Counters, took: Duration, answers: usize) {
    let took_us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
    let bucket = LATENCY_BUCKETS_US.partition_point(|end| *end < took_us);
    count_many(&counters.latencies[bucket], answers);
    counters.latency_us.fetch_add(took_us.saturating_mul(answers as u64), Relaxed);
}

pub(crate) fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Relaxed);
}

pub(crate) fn count_many(counter: &AtomicU64, more: usize) {
    if more > 0 {
        counter.fetch_add(more as u64, Relaxed);
    }
}
