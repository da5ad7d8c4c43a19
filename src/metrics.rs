//! What the agent counts, in the words of Prometheus: read when somebody looks, never a client or a name.

use std::fmt;

use interdict_audit::Counters as RecordCounters;
use interdict_dns_filter::{LATENCY_BUCKETS_US, Snapshot, UpstreamHealth};
use interdict_ebpf_loader::Counters as PacketCounters;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelValue, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;

/// The type of what [`encode`] writes: OpenMetrics 1.0.
pub(crate) const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Everything at one moment.
#[derive(Clone, Debug, Default)]
pub(crate) struct Figures {
    /// The digest of the policy in force.
    pub(crate) digest: String,
    /// How many rules it has.
    pub(crate) rules: usize,
    /// Whether everything is as it should be.
    pub(crate) in_force: bool,
    pub(crate) dns: Snapshot,
    /// How many answers are kept, and what they take in bytes.
    pub(crate) cache: (usize, u64),
    pub(crate) upstreams: Vec<UpstreamHealth>,
    pub(crate) record: RecordCounters,
    /// Messages of dnstap that were written, and that were lost; `None` where nobody reads it.
    pub(crate) tapped: Option<[u64; 2]>,
    /// `None` where no packets are filtered.
    pub(crate) packets: Option<Packets>,
}

/// What the packet plane has to say.
#[derive(Clone, Debug, Default)]
pub(crate) struct Packets {
    pub(crate) counters: PacketCounters,
    /// Interfaces that are filtered, by role.
    pub(crate) interfaces: Vec<(&'static str, usize)>,
    /// Addresses that answers told of, by what they are.
    pub(crate) addresses: Vec<(&'static str, u64)>,
}

/// Writes them as text.
///
/// # Errors
/// None that was ever seen: text is written to memory.
pub(crate) fn encode(figures: Figures) -> Result<String, fmt::Error> {
    let mut registry = Registry::with_prefix("interdict");
    registry.register_collector(Box::new(figures));
    let mut page = String::new();
    text::encode(&mut page, &registry)?;
    Ok(page)
}

impl Collector for Figures {
    fn encode(&self, mut to: DescriptorEncoder<'_>) -> fmt::Result {
        let to = &mut to;
        let about = [("version", env!("CARGO_PKG_VERSION")), ("digest", &self.digest)];
        gauges(to, "policy_info", "The program and the policy in force", [(about, 1)])?;
        gauges(to, "policy_rules", "Rules of the policy in force", one(self.rules as i64))?;
        let in_force = one(self.in_force.into());
        gauges(to, "in_force", "1 unless status has a warning", in_force)?;
        self.dns(to)?;
        counter(to, "record_events", "Events in the record", self.record.written)?;
        counter(to, "record_lost", "Events that found no room in the record", self.record.lost)?;
        gauges(to, "record_queued", "Events that wait to be written", one(self.record.queued as i64))?;
        if let Some([sent, lost]) = self.tapped {
            counter(to, "dnstap_sent", "Messages of dnstap that were written", sent)?;
            counter(to, "dnstap_lost", "Messages of dnstap for which there was no room or no reader", lost)?;
        }
        self.packets.as_ref().map_or(Ok(()), |packets| packets.encode(to))
    }
}

impl Figures {
    fn dns(&self, to: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let verdicts = self.dns.verdicts().map(|(channel, verdict, count)| {
            ([("transport", channel.as_str()), ("verdict", verdict.as_str())], count)
        });
        counters(
            to,
            "dns_queries_judged",
            "Questions by transport and by what the policy says of them",
            verdicts,
        )?;
        for (name, what, count) in self.dns.described() {
            counter(to, &format!("dns_{name}"), what.trim().trim_end_matches('.'), count)?;
        }
        self.latencies(to)?;
        let (answers, bytes) = self.cache;
        gauges(to, "dns_cache_answers", "Answers that are kept", one(answers as i64))?;
        gauges(to, "dns_cache_bytes", "What they take", one(bytes as i64))?;
        let of_each = |value: fn(&UpstreamHealth) -> u64| {
            self.upstreams
                .iter()
                .map(move |upstream| ([("upstream", upstream.name.as_str())], value(upstream)))
        };
        let up = of_each(|upstream| upstream.is_up.into()).map(|(labels, up)| (labels, up as i64));
        gauges(to, "dns_upstream_up", "1 for upstreams that answer", up)?;
        let usual =
            of_each(|upstream| upstream.usual.as_micros() as u64).map(|(labels, us)| (labels, us as i64));
        gauges(to, "dns_upstream_usual_microseconds", "How long an upstream takes, smoothed", usual)?;
        counters(to, "dns_upstream_asked", "Questions to upstreams", of_each(|upstream| upstream.asked))?;
        counters(to, "dns_upstream_failed", "Those without an answer", of_each(|upstream| upstream.failed))
    }

    fn latencies(&self, to: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let ends = LATENCY_BUCKETS_US.iter().map(|us| *us as f64 / 1e6).chain([f64::INFINITY]);
        let buckets: Vec<(f64, u64)> = ends.zip(self.dns.latencies).collect();
        let count = self.dns.latencies.iter().sum();
        let sum_secs = self.dns.latency_us as f64 / 1e6;
        to.encode_descriptor("dns_latency_seconds", "From question to answer", None, MetricType::Histogram)?
            .encode_histogram::<[(&str, &str); 0]>(sum_secs, count, &buckets, None)
    }
}

impl Packets {
    fn encode(&self, to: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let PacketCounters { exits, unjudged, rules, losses, answers_overflow } = &self.counters;
        let by = |label: &'static str| move |(name, count): (&&'static str, &u64)| ([(label, *name)], *count);
        counters(to, "packet_exits", "Packets by the reason they left by", exits.iter().map(by("reason")))?;
        let ledger = unjudged.iter().map(by("reason"));
        counters(to, "packet_unjudged", "Packets of which something could not be judged", ledger)?;
        let lost = losses.iter().map(by("reason"));
        counters(to, "packet_losses", "Packets that are not recorded as usual", lost)?;
        let labels = |counted: &interdict_ebpf_loader::RuleCount| {
            [("rule", counted.rule.to_string()), ("verdict", counted.verdict.as_str().to_owned())]
        };
        let packets = rules.iter().map(|counted| (labels(counted), counted.count.packets));
        counters(to, "packet_rule_packets", "Packets by rule and verdict", packets)?;
        let bytes = rules.iter().map(|counted| (labels(counted), counted.count.bytes));
        counters(to, "packet_rule_bytes", "Their bytes", bytes)?;
        let interfaces = self.interfaces.iter().map(|(role, count)| ([("role", *role)], *count as i64));
        gauges(to, "packet_interfaces", "Interfaces that are filtered", interfaces)?;
        let addresses = self.addresses.iter().map(|(kind, count)| ([("kind", *kind)], *count as i64));
        gauges(to, "packet_addresses", "Addresses that answers told of", addresses)?;
        counter(to, "packet_addresses_overflow", "Addresses that found no room", *answers_overflow)
    }
}

/// One counter without labels.
fn counter(to: &mut DescriptorEncoder<'_>, name: &str, help: &str, count: u64) -> fmt::Result {
    counters::<&str, 0>(to, name, help, [([], count)])
}

fn counters<L: EncodeLabelValue, const N: usize>(
    to: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    samples: impl IntoIterator<Item = ([(&'static str, L); N], u64)>,
) -> fmt::Result {
    let mut family = to.encode_descriptor(name, help, None, MetricType::Counter)?;
    samples.into_iter().try_for_each(|(labels, count)| {
        family.encode_family(&labels)?.encode_counter::<[(&str, &str); 0], u64, u64>(&count, None)
    })
}

fn gauges<L: EncodeLabelValue, const N: usize>(
    to: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    samples: impl IntoIterator<Item = ([(&'static str, L); N], i64)>,
) -> fmt::Result {
    let mut family = to.encode_descriptor(name, help, None, MetricType::Gauge)?;
    samples.into_iter().try_for_each(|(labels, value)| family.encode_family(&labels)?.encode_gauge(&value))
}

/// The one value of a gauge without labels.
fn one(value: i64) -> [([(&'static str, &'static str); 0], i64); 1] {
    [([], value)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_counter_is_on_the_page_once() {
        let mut verdicts = Snapshot::default().verdicts;
        verdicts[1][1] = 3;
        let dns = Snapshot { verdicts, strangers: 2, ..Snapshot::default() };
        let mut packets = Packets { interfaces: vec![("lan", 1)], ..Packets::default() };
        packets.counters.unjudged.insert("vlan_offload", 7);
        let figures = Figures { digest: "d1".into(), dns, packets: Some(packets), ..Figures::default() };
        let page = encode(figures).unwrap();
        for line in [
            "interdict_in_force 0",
            "interdict_dns_queries_judged_total{transport=\"tcp\",verdict=\"block\"} 3",
            "# HELP interdict_dns_strangers Dropped: the client is not served",
            "interdict_dns_strangers_total 2",
            "interdict_dns_latency_seconds_bucket{le=\"+Inf\"} 0",
            "interdict_packet_unjudged_total{reason=\"vlan_offload\"} 7",
            "interdict_packet_interfaces{role=\"lan\"} 1",
            "# EOF",
        ] {
            assert_eq!(page.lines().filter(|&l| l == line).count(), 1, "{line}\n{page}");
        }
        let mut families: Vec<&str> = page.lines().filter_map(|line| line.strip_prefix("# TYPE ")).collect();
        let count = families.len();
        families.sort_unstable();
        families.dedup();
        assert_eq!(families.len(), count, "{page}");
    }
}
