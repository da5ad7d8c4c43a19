//! What the agent says of itself: to `status`, and to whoever reads its metrics.

use std::sync::{MutexGuard, PoisonError};

use interdict_dns_filter::{Forwarder, UpstreamHealth};
use interdict_ebpf_loader::{PacketPlane, Pins, Role};
use interdict_policy::{Exemption, Timestamp};
use serde_json::{Value, json};

use super::Agent;
use crate::console::Shown;
use crate::dnstap::Tap;
use crate::metrics::{Figures, Packets};
use crate::packets;
use crate::stream;

impl Agent {
    /// Everything that `status` prints.
    pub(super) fn status(&self) -> Value {
        let policy = self.filter.policy();
        let warning = self.warning();
        let dns: serde_json::Map<String, Value> =
            self.counters.snapshot().iter().map(|(name, value)| (name.to_owned(), value.into())).collect();
        let audit = self.log.counters();
        let texts = |items: Vec<String>| Value::from(items);
        let policies: Vec<Value> = match self.reloader.paths() {
            [] => vec![json!({ "path": "embedded:kaspersky.toml" })],
            paths => paths.iter().map(|path| json!({ "path": path })).collect(),
        };
        let health = |upstream: &UpstreamHealth| {
            let usual_us = upstream.usual.as_micros() as u64;
            json!({ "upstream": upstream.name, "up": upstream.is_up, "usual_us": usual_us,
                    "asked": upstream.asked, "failed": upstream.failed })
        };
        let (cached, cached_bytes) = self.forwarder.as_ref().map(Forwarder::cache_size).unwrap_or_default();
        let now = Timestamp::now();
        let exemption = |exemption: &Exemption| {
            let (id, ended) = (exemption.id.as_str(), !exemption.stands(now));
            json!({ "id": id, "expires": exemption.expires.to_string(), "ended": ended })
        };
        let exemptions: Vec<Value> = policy.exemptions().iter().map(exemption).collect();
        json!({
            "in_force": warning.is_none(),
            "warning": warning,
            "version": env!("CARGO_PKG_VERSION"),
            "digest": policy.digest().to_string(),
            "policies": policies,
            "rules": policy.rules().len(),
            "profile": policy.profile(),
            "exemptions": exemptions,
            "data": self.data,
            "console": self.console,
            "planes": {
                "dns": {
                    "digest": policy.digest().to_string(),
                    "listen": texts(self.listening.list().iter().map(ToString::to_string).collect()),
                    "tls": texts(self.encrypted[0].iter().map(ToString::to_string).collect()),
                    "https": texts(self.encrypted[1].iter().map(ToString::to_string).collect()),
                    "quic": texts(self.encrypted[2].iter().map(ToString::to_string).collect()),
                    "upstreams": texts(self.upstreams.iter().map(ToString::to_string).collect()),
                    "health": self.upstream_health().iter().map(health).collect::<Vec<_>>(),
                    "cache": { "answers": cached, "bytes": cached_bytes },
                },
                "packet": self.plane().map(|plane| self.packet_status(&plane)),
            },
            "addresses": self.addresses(),
            "dnstap": self.tap.as_ref().map(Tap::shown),
            "streams": self.streams.iter().map(stream::State::shown).collect::<Vec<_>>(),
            "selftest": *self.selftest.last.lock().unwrap_or_else(PoisonError::into_inner),
            "resolve_banned": self.rounds.as_ref().map(|rounds| rounds.status()),
            "counters": {
                "dns": dns,
                "packet": self.packet_counters(),
                "audit": { "written": audit.written, "lost": audit.lost, "queued": audit.queued },
            },
        })
    }

    fn upstream_health(&self) -> Vec<UpstreamHealth> {
        self.forwarder.as_ref().map(Forwarder::upstreams).unwrap_or_default()
    }

    /// What is not as it should be.
    fn warning(&self) -> Option<String> {
        let unfiltered = self.guard.as_ref().and_then(|guard| guard.warning());
        let warnings: Vec<String> = self.reloader.warning().into_iter().chain(unfiltered).collect();
        (!warnings.is_empty()).then(|| warnings.join("; "))
    }

    fn packet_status(&self, plane: &PacketPlane) -> Value {
        let interfaces: Vec<Value> = plane
            .interfaces()
            .into_iter()
            .map(|attached| {
                let (role, mode) = (attached.role.as_str(), attached.place.as_str());
                let mut about = json!({ "name": attached.name, "role": role, "mode": mode });
                if attached.role == Role::Lan
                    && let Some((by, why)) = self.parts.of(&attached.name)
                {
                    about["questions"] = json!({ "answered_by": by, "because": why });
                }
                about
            })
            .collect();
        let mut about = json!({
            "digest": plane.digest().map(|digest| digest.to_string()),
            "interfaces": interfaces,
            "cgroup": plane.cgroup(),
            "pins": match plane.pins() {
                Pins::Unused => json!(null),
                Pins::Kept(folder) => json!({ "folder": folder }),
                Pins::Unavailable(why) => json!({ "unavailable": why }),
            },
        });
        match plane.clients() {
            Ok(clients) => {
                let (shown, omitted) = packets::clients(clients);
                (about["clients"], about["clients_omitted"]) = (shown, omitted.into());
            }
            Err(error) => tracing::warn!(%error, "the accounts of clients could not be read"),
        }
        match plane.beyond_clients() {
            Ok(beyond) => about["clients_beyond"] = packets::beyond_clients(beyond),
            Err(error) => tracing::warn!(%error, "the counts of units could not be read"),
        }
        about
    }

    /// What answers told of addresses; `None` where no packets are filtered.
    fn addresses(&self) -> Option<Value> {
        let answers = self.plane()?.answers();
        Some(packets::addresses(&answers, self.learning.as_ref()?))
    }

    fn packet_counters(&self) -> Option<Value> {
        let plane = self.plane()?;
        Some(match plane.counters() {
            Ok(counters) => packets::counters(&counters),
            Err(error) => json!({ "error": error.to_string() }),
        })
    }

    fn packet_figures(plane: &PacketPlane) -> anyhow::Result<Packets> {
        let attached = plane.interfaces();
        let count = |role| attached.iter().filter(|attached| attached.role == role).count();
        let interfaces = [Role::Lan, Role::Wan, Role::Host].map(|role| (role.as_str(), count(role)));
        let fills = plane.answers().fills();
        let addresses =
            [("opened", fills.opened), ("opened_to_client", fills.opened_to), ("learned", fills.learned)];
        Ok(Packets {
            counters: plane.counters()?,
            interfaces: interfaces.to_vec(),
            addresses: addresses.map(|(kind, fill)| (kind, fill.held as u64)).to_vec(),
        })
    }

    fn plane(&self) -> Option<MutexGuard<'_, PacketPlane>> {
        Some(self.plane.as_ref()?.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Shown for Agent {
    fn figures(&self) -> anyhow::Result<Figures> {
        let policy = self.filter.policy();
        Ok(Figures {
            digest: policy.digest().to_string(),
            rules: policy.rules().len(),
            in_force: self.warning().is_none(),
            dns: self.counters.snapshot(),
            cache: self.forwarder.as_ref().map(Forwarder::cache_size).unwrap_or_default(),
            upstreams: self.upstream_health(),
            record: self.log.counters(),
            tapped: self.tap.as_ref().map(Tap::counts),
            packets: self.plane().map(|plane| Self::packet_figures(&plane)).transpose()?,
        })
    }
}
