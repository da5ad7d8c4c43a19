//! The canonical form of a policy: policy files that compile to the same policy, the same for every order,
//! comment and layout of the files it came from. Its SHA-256 is the policy's digest.

use std::fmt;
use std::fmt::Write;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::{Digest as _, Sha256};

use crate::compile::Parts;
use crate::document::{Ban, Override};
use crate::egress::EgressDns;
use crate::exempt::Exemption;
use crate::profile::Profile;
use crate::rule::{Answer, At, Rule};
use crate::unit::{Privacy, Unit};

/// SHA-256 over the canonical files of a policy, one after another in the order of their names. So
/// `cat *.toml | sha256sum` in a folder that holds them (in the C locale) gives it again.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Digest(pub [u8; 32]);

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        // Every answer of `why --batch` carries it: byte by byte through `write!` it took a third of the time.
        let hex = self.0.map(|byte| [byte >> 4, byte & 15].map(|digit| DIGITS[usize::from(digit)]));
        f.write_str(std::str::from_utf8(hex.as_flattened()).expect("hexadecimal digits are ASCII"))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl FromStr for Digest {
    type Err = String;

    /// Reads the 64 hexadecimal digits that it is shown as.
    fn from_str(text: &str) -> Result<Self, String> {
        let strange = || format!("\"{}\" is no digest; one has 64 hexadecimal digits", text.escape_debug());
        let mut bytes = [0; 32];
        if text.len() != 64 || !text.bytes().all(|digit| digit.is_ascii_hexdigit()) {
            return Err(strange());
        }
        for (byte, at) in bytes.iter_mut().zip((0..64).step_by(2)) {
            *byte = u8::from_str_radix(&text[at..at + 2], 16).map_err(|_| strange())?;
        }
        Ok(Self(bytes))
    }
}

impl Serialize for Digest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// One file of a policy's canonical form.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CanonicalFile {
    /// `ban-<id>.toml`, or `local.toml` for what belongs to no ban.
    pub name: String,
    /// Its text.
    pub text: String,
}

/// The canonical files, in the order of their names.
pub(crate) fn canonical_files(parts: &Parts) -> Vec<CanonicalFile> {
    let mut bans: Vec<&Ban> = parts.bans.iter().collect();
    bans.sort_by(|a, b| a.id.cmp(&b.id));
    let mut files: Vec<CanonicalFile> = bans
        .into_iter()
        .map(|ban| CanonicalFile { name: format!("ban-{}.toml", ban.id), text: file(parts, Some(ban)) })
        .collect();
    let local = file(parts, None);
    if local != HEAD {
        files.push(CanonicalFile { name: "local.toml".into(), text: local });
    }
    files.iter_mut().for_each(|file| file.text.shrink_to_fit());
    files
}

/// SHA-256 over the files in the order of their names.
pub(crate) fn digest(files: &[CanonicalFile]) -> Digest {
    let mut files: Vec<&CanonicalFile> = files.iter().collect();
    files.sort_by(|a, b| a.name.cmp(&b.name));
    let mut hash = Sha256::new();
    files.iter().for_each(|file| hash.update(&file.text));
    Digest(hash.finalize().into())
}

pub(crate) const HEAD: &str = "format = 1\n";

fn file(parts: &Parts, ban: Option<&Ban>) -> String {
    let mut out = HEAD.to_owned();
    let id = ban.map(|ban| &ban.id);
    if let (None, Some(profile)) = (ban, &parts.profile) {
        text(&mut out, "use_profile", profile);
    }
    if let Some(ban) = ban {
        out.push_str("\n[ban]\n");
        text(&mut out, "id", &ban.id);
        text(&mut out, "vendor", &ban.vendor);
        if let Some(reviewed) = ban.reviewed {
            line(&mut out, "reviewed", reviewed);
        }
        text(&mut out, "ede", ban.ede.as_str());
    }
    let mut instruments: Vec<_> = parts.instruments.iter().filter(|i| i.ban.as_ref() == id).collect();
    instruments.sort_by(|a, b| a.id.cmp(&b.id));
    for instrument in instruments {
        out.push_str("\n[[instrument]]\n");
        text(&mut out, "id", &instrument.id);
        text(&mut out, "title", &instrument.title);
        text(&mut out, "citation", &instrument.citation);
        line(&mut out, "effective", instrument.effective);
    }
    let mut rules: Vec<_> = parts.rules.iter().filter(|rule| rule.ban.as_ref() == id).collect();
    rules.sort_by(|a, b| a.id.cmp(&b.id));
    rules.into_iter().for_each(|rule| write_rule(&mut out, rule));
    let in_force = parts.profiles.iter().filter(|profile| Some(&profile.id) == parts.profile.as_ref());
    in_force
        .filter(|profile| profile.ban.as_ref() == id)
        .for_each(|profile| write_profile(&mut out, profile));
    if ban.is_none() {
        let mut overrides: Vec<_> = parts.overrides.iter().collect();
        overrides.sort_by(|a, b| a.rule.value.cmp(&b.rule.value));
        overrides.into_iter().for_each(|change| write_override(&mut out, change));
        let mut units: Vec<_> = parts.units.iter().collect();
        units.sort_by(|a, b| a.id.cmp(&b.id));
        units.into_iter().for_each(|unit| write_unit(&mut out, unit));
        let mut exemptions: Vec<_> = parts.exemptions.iter().collect();
        exemptions.sort_by(|a, b| a.id.cmp(&b.id));
        exemptions.into_iter().for_each(|exemption| write_exemption(&mut out, exemption));
        out.extend(egress_dns(&parts.egress_dns()));
    }
    out
}

fn write_rule(out: &mut String, rule: &Rule) {
    out.push_str("\n[[rule]]\n");
    text(out, "id", rule.id.as_str());
    text(out, "role", &rule.role);
    text(out, "action", rule.action.as_str());
    write_answer(out, rule.answer);
    line(out, "ttl_secs", rule.ttl_secs);
    text(out, "packet", rule.packet.as_str());
    line(out, "fixed", rule.fixed);
    list(out, "hosts", &rule.hosts);
    list(out, "domains", &rule.domains);
    list(out, "globs", &rule.globs);
    let patterns = rule.patterns.iter().map(|at| {
        format!(
            "{{ under = {}, match = {} }}",
            quoted(&at.value.under().to_string()),
            quoted(at.value.text())
        )
    });
    lines(out, "patterns", patterns.collect());
    list(out, "networks", &rule.networks);
    list(out, "ports", &rule.ports);
    line(out, "learn", rule.learn);
    if let Some(source) = &rule.source {
        text(out, "source", source);
    }
    text(out, "confidence", rule.confidence.as_str());
    if let Some(note) = &rule.note {
        text(out, "note", note);
    }
}

fn write_override(out: &mut String, change: &Override) {
    out.push_str("\n[[override]]\n");
    text(out, "rule", change.rule.value.as_str());
    if let Some(action) = change.action {
        text(out, "action", action.as_str());
    }
    if let Some(answer) = change.answer {
        write_answer(out, answer);
    }
    if let Some(ttl_secs) = change.ttl_secs {
        line(out, "ttl_secs", ttl_secs);
    }
    if let Some(packet) = change.packet {
        text(out, "packet", packet.as_str());
    }
}

fn write_profile(out: &mut String, profile: &Profile) {
    writeln!(out, "\n[profile.{}]", profile.id).expect("writing to a String does not fail");
    list(out, "legal_basis", &profile.legal_basis);
    let mut actions: Vec<_> = profile.actions.iter().map(|(role, action)| (&role.value, *action)).collect();
    actions.sort_unstable();
    actions.into_iter().for_each(|(role, action)| text(out, role, action.as_str()));
}

fn write_unit(out: &mut String, unit: &Unit) {
    out.push_str("\n[[unit]]\n");
    text(out, "id", &unit.id);
    text(out, "title", &unit.title);
    list(out, "networks", &unit.networks);
    if unit.privacy != Privacy::default() {
        text(out, "privacy", unit.privacy.as_str());
    }
}

fn write_exemption(out: &mut String, exemption: &Exemption) {
    out.push_str("\n[[exempt]]\n");
    text(out, "id", exemption.id.as_str());
    list(out, "clients", &exemption.clients);
    list(out, "rules", &exemption.rules);
    text(out, "reason", &exemption.reason);
    text(out, "approved_by", &exemption.approved_by);
    line(out, "expires", exemption.expires);
}

/// `None` where it is as the default says: to write that and to write nothing are the same policy.
pub(crate) fn egress_dns(egress: &EgressDns) -> Option<String> {
    let written = egress_dns_table(egress);
    (written != egress_dns_table(&EgressDns::default())).then_some(written)
}

fn egress_dns_table(egress: &EgressDns) -> String {
    let mut out = "\n[egress_dns]\n".to_owned();
    text(&mut out, "plain", egress.plain.as_str());
    text(&mut out, "dot", egress.dot.as_str());
    text(&mut out, "doh", egress.doh.as_str());
    text(&mut out, "unjudged", egress.unjudged.as_str());
    list(&mut out, "resolvers", &egress.resolvers);
    out
}

pub(crate) fn write_answer(out: &mut String, answer: Answer) {
    if let Some((word, _)) = Answer::WORDS.iter().find(|(_, known)| *known == answer) {
        return text(out, "answer", word);
    }
    let Answer::Addresses { a, aaaa } = answer else { unreachable!("every other answer has a word") };
    let parts = [a.map(|a| format!("a = \"{a}\"")), aaaa.map(|aaaa| format!("aaaa = \"{aaaa}\""))];
    line(out, "answer", format!("{{ {} }}", parts.into_iter().flatten().collect::<Vec<_>>().join(", ")));
}

fn line(out: &mut String, key: &str, value: impl fmt::Display) {
    writeln!(out, "{key} = {value}").expect("writing to a String does not fail");
}

fn text(out: &mut String, key: &str, value: &str) {
    line(out, key, quoted(value));
}

fn list<T: fmt::Display>(out: &mut String, key: &str, values: &[At<T>]) {
    lines(out, key, values.iter().map(|at| quoted(&at.value.to_string())).collect());
}

/// A list, one value a line, in the order of the lines and each once.
fn lines(out: &mut String, key: &str, mut values: Vec<String>) {
    if values.is_empty() {
        return;
    }
    values.sort_unstable();
    values.dedup();
    line(out, key, "[");
    out.reserve(values.iter().map(|value| value.len() + "    ,\n".len()).sum());
    for value in values {
        out.extend(["    ", value.as_str(), ",\n"]);
    }
    out.push_str("]\n");
}

/// A TOML basic string (TOML 1.0, "String").
pub(crate) fn quoted(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    if text.bytes().all(|byte| matches!(byte, b' '..=b'~') && !matches!(byte, b'"' | b'\\')) {
        out.push_str(text);
        out.push('"');
        return out;
    }
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            c if c.is_control() => {
                write!(out, "\\u{:04X}", u32::from(c)).expect("writing to a String does not fail");
            }
            c => out.push(c),
        }
    }
    out.push('"');
    out
}
