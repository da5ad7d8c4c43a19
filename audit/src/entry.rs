//! One event: what a plane hands in, and its shape in the record.

use std::borrow::Cow;
use std::net::IpAddr;
use std::time::SystemTime;

use interdict_policy::{Digest, Privacy, Unit, Verdict};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::clock;
use crate::history::Contact;
use crate::pseudonym::Pseudonyms;

/// What was asked for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Asked {
    /// A name, asked of DNS.
    Name {
        /// In presentation form, without the final dot.
        name: String,
        /// The query type, such as `A`.
        #[serde(rename = "type")]
        rtype: String,
        /// The CNAME target that decided, where the name itself is on no list.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        via: Option<String>,
        /// The other resolver that it was on its way to.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        resolver: Option<IpAddr>,
    },
    /// An address, contacted by a packet.
    Address {
        /// The address.
        address: IpAddr,
        /// The port there; `None` where the packet did not tell.
        port: Option<u16>,
        /// `tcp`, `udp`, or the IANA number.
        protocol: String,
    },
}

/// How far a contact got.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Depth {
    /// A name was asked for.
    Asked,
    /// A packet was sent.
    Attempted,
    /// A connection was made.
    Connected,
    /// Data came back.
    Received,
}

/// The process that made a contact.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Process {
    /// Its number.
    pub pid: u32,
    /// Its name, as the kernel keeps it.
    pub name: String,
    /// The path of its control group.
    pub cgroup: String,
}

/// Whose notes an event is taken from that no plane of ours saw.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cited {
    /// What was read: see [`crate::history::Origin`].
    pub format: String,
    /// Whose it is, as the one says who imported it.
    pub source: String,
    /// SHA-256 of the file.
    pub sha256: String,
}

/// One event as a plane hands it in.
#[derive(Clone, Debug)]
pub struct Entry {
    pub(crate) time: SystemTime,
    pub(crate) mono_ns: u64,
    plane: &'static str,
    channel: Option<Cow<'static, str>>,
    client: Option<IpAddr>,
    unit: Option<String>,
    /// What the unit says of its clients; `None` without one.
    privacy: Option<Privacy>,
    asked: Option<Asked>,
    verdict: Option<Verdict>,
    rule: Option<String>,
    role: Option<String>,
    exemption: Option<String>,
    digest: Option<Digest>,
    count: u64,
    first: SystemTime,
    last: SystemTime,
    depth: Option<Depth>,
    act: Option<String>,
    detail: Option<Value>,
    process: Option<Process>,
    cited: Option<Cited>,
}

impl Entry {
    /// A question that a rule decided, now. `channel` is `udp`, `tcp`, or `xdp` where the kernel answered it.
    pub fn dns(
        channel: &'static str,
        client: IpAddr,
        asked: Asked,
        verdict: Verdict,
        rule: &str,
        role: &str,
        digest: Digest,
    ) -> Self {
        Self {
            channel: Some(channel.into()),
            client: Some(client),
            asked: Some(asked),
            verdict: Some(verdict),
            rule: Some(rule.to_owned()),
            role: Some(role.to_owned()),
            digest: Some(digest),
            depth: Some(Depth::Asked),
            ..Self::now("dns")
        }
    }

    /// The same, at another time.
    pub fn at(self, time: SystemTime) -> Self {
        Self { time, first: time, last: time, ..self }
    }

    /// The same, for many: how many, and when the first and the last came. What was asked stands for all of them.
    pub fn counted(self, count: u64, first: SystemTime, last: SystemTime) -> Self {
        Self { count, first, last, ..self }
    }

    /// Packets that a rule decided: how many, and when the first and the last came. `channel` is `xdp`, `tcx`, or
    /// `cgroup` for calls of local processes.
    #[expect(
        clippy::too_many_arguments,
        reason = "an event is a row of columns, and each is told apart by its type"
    )]
    pub fn packet(
        channel: &'static str,
        client: Option<IpAddr>,
        asked: Asked,
        verdict: Verdict,
        rule: &str,
        role: &str,
        digest: Digest,
        count: u64,
        (first, last): (SystemTime, SystemTime),
    ) -> Self {
        Self {
            channel: Some(channel.into()),
            client,
            asked: Some(asked),
            verdict: Some(verdict),
            rule: Some(rule.to_owned()),
            role: Some(role.to_owned()),
            digest: Some(digest),
            count,
            first,
            last,
            depth: Some(Depth::Attempted),
            ..Self::now("packet")
        }
    }

    /// The same, made by a local process.
    pub fn made_by(self, process: Option<Process>) -> Self {
        Self { process, ..self }
    }

    /// The same, to a server that the client named in TLS.
    pub fn to_server(self, name: Option<String>) -> Self {
        let detail = name.map(|name| serde_json::json!({ "server_name": name }));
        Self { detail: detail.or(self.detail), ..self }
    }

    /// How far a contact got that was let through, with what it carried; `over` when nothing more will come. It tells of
    /// packets that are on record already, and counts none of them.
    pub fn reached(self, depth: Depth, over: bool, carried: Value) -> Self {
        let act = if over { "contact.over" } else { "contact.reached" };
        Self { depth: Some(depth), act: Some(act.to_owned()), detail: Some(carried), count: 0, ..self }
    }

    /// The same, of a client whose traffic is this unit's.
    pub fn of_unit(self, unit: Option<&Unit>) -> Self {
        Self { unit: unit.map(|unit| unit.id.clone()), privacy: unit.map(|unit| unit.privacy), ..self }
    }

    /// The same, let through by this line of the register of exemptions.
    pub fn exempt_by(self, exemption: Option<&str>) -> Self {
        Self { exemption: exemption.map(str::to_owned), ..self }
    }

    /// Something that a client's contacts amount to, now.
    pub fn noticed(act: &str, client: IpAddr, detail: Value, digest: Digest) -> Self {
        Self {
            act: Some(act.to_owned()),
            client: Some(client),
            detail: Some(detail),
            digest: Some(digest),
            ..Self::now("dns")
        }
    }

    /// Something the agent or its operator did, now.
    pub fn admin(act: &str, detail: Value, digest: Option<Digest>) -> Self {
        Self { act: Some(act.to_owned()), detail: Some(detail), digest, ..Self::now("admin") }
    }

    /// What the agent's test of itself found, now.
    pub fn selftest(detail: Value, digest: Digest) -> Self {
        let act = Some("selftest".to_owned());
        Self { act, detail: Some(detail), digest: Some(digest), ..Self::now("selftest") }
    }

    /// Something that others noted before; it is put on record now, and says when it was.
    pub fn imported(contact: Contact, cited: Cited, digest: Digest) -> Self {
        let Contact { client, period: [first, last], decided } = contact;
        let plane = match decided.as_ref().map(|decided| &decided.asked) {
            Some(Asked::Address { .. }) => "packet",
            Some(Asked::Name { .. }) | None => "dns",
        };
        let (first, last) = (first.into(), last.into());
        let seen = Self { client: Some(client), cited: Some(cited), first, last, ..Self::now(plane) };
        let Some(decided) = decided else {
            return Self { act: Some("client.alive".to_owned()), digest: Some(digest), ..seen };
        };
        Self {
            channel: decided.channel.map(Cow::Owned),
            asked: Some(decided.asked),
            verdict: Some(decided.verdict),
            rule: Some(decided.rule),
            role: Some(decided.role),
            exemption: decided.exemption,
            digest: Some(digest),
            count: decided.count,
            depth: Some(decided.depth),
            ..seen
        }
    }

    fn now(plane: &'static str) -> Self {
        let time = SystemTime::now();
        Self {
            time,
            mono_ns: clock::since_boot_ns(),
            plane,
            channel: None,
            client: None,
            unit: None,
            privacy: None,
            asked: None,
            verdict: None,
            rule: None,
            role: None,
            exemption: None,
            digest: None,
            count: 1,
            first: time,
            last: time,
            depth: None,
            act: None,
            detail: None,
            process: None,
            cited: None,
        }
    }

    /// Writes the event's line in the record, without the end of line.
    pub(crate) fn write(
        &self,
        node: &str,
        seq: u64,
        clock: &'static str,
        pseudonyms: &mut Pseudonyms,
        out: &mut Vec<u8>,
    ) {
        let privacy = self.privacy.unwrap_or(pseudonyms.otherwise);
        let time = clock::shown(self.time);
        // Nearly always all three are one.
        let shown = |other| {
            if other == self.time { Cow::Borrowed(time.as_str()) } else { Cow::Owned(clock::shown(other)) }
        };
        let event = Event {
            id: format!("{node}-{seq}"),
            node,
            seq,
            time: &time,
            mono_ns: self.mono_ns,
            clock,
            plane: self.plane,
            channel: self.channel.as_deref(),
            client: self.client.and_then(|client| pseudonyms.shown(client, privacy)),
            privacy: self.client.map(|_| privacy.as_str()).filter(|_| privacy != Privacy::Full),
            unit: self.unit.as_deref(),
            asked: self.asked.as_ref(),
            verdict: self.verdict,
            rule: self.rule.as_deref(),
            role: self.role.as_deref(),
            exemption: self.exemption.as_deref(),
            digest: self.digest.as_ref(),
            count: self.count,
            first: shown(self.first),
            last: shown(self.last),
            depth: self.depth,
            act: self.act.as_deref(),
            detail: self.detail.as_ref(),
            process: self.process.as_ref(),
            origin: self.cited.as_ref(),
        };
        serde_json::to_writer(out, &event).expect("an event has only text keys");
    }
}

/// The shape in the record. Absent values are null; only `privacy`, `exemption`, `act`, `detail`, `process` and `origin` are
/// left out where they say nothing.
#[derive(Serialize)]
struct Event<'e> {
    id: String,
    node: &'e str,
    seq: u64,
    time: &'e str,
    mono_ns: u64,
    clock: &'static str,
    plane: &'static str,
    channel: Option<&'e str>,
    client: Option<IpAddr>,
    #[serde(skip_serializing_if = "Option::is_none")]
    privacy: Option<&'static str>,
    unit: Option<&'e str>,
    asked: Option<&'e Asked>,
    verdict: Option<Verdict>,
    rule: Option<&'e str>,
    role: Option<&'e str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    exemption: Option<&'e str>,
    digest: Option<&'e Digest>,
    count: u64,
    first: Cow<'e, str>,
    last: Cow<'e, str>,
    depth: Option<Depth>,
    #[serde(skip_serializing_if = "Option::is_none")]
    act: Option<&'e str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    detail: Option<&'e Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    process: Option<&'e Process>,
    #[serde(skip_serializing_if = "Option::is_none")]
    origin: Option<&'e Cited>,
}
