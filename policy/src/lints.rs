//! What is in order and may still be a mistake: for the person who writes a policy, never for the agent.

use ipnet::IpNet;

use crate::compile::Compiled;
use crate::name::{DomainName, Name};
use crate::policy::Policy;
use crate::problem::{Code, Place, Problem, Problems, Severity};
use crate::rule::{Action, Confidence, Rule};

/// Prefixes shorter than this hold the addresses of many, whoever registered them.
const WIDE_V4: u8 = 12;
const WIDE_V6: u8 = 24;

/// Address space that is nobody's alone (RFC 6890, and what follows it).
const PRIVATE: [&str; 14] = [
    "0.0.0.0/8",
    "10.0.0.0/8",
    "100.64.0.0/10",
    "127.0.0.0/8",
    "169.254.0.0/16",
    "172.16.0.0/12",
    "192.168.0.0/16",
    "198.18.0.0/15",
    "224.0.0.0/3",
    "::1/128",
    "64:ff9b::/96",
    "fc00::/7",
    "fe80::/10",
    "ff00::/8",
];

/// Networks of content delivery networks, as those publish them: what is there belongs to thousands of sites.
const SHARED: [(&str, &str); 24] = [
    ("173.245.48.0/20", "Cloudflare"),
    ("103.21.244.0/22", "Cloudflare"),
    ("103.22.200.0/22", "Cloudflare"),
    ("103.31.4.0/22", "Cloudflare"),
    ("141.101.64.0/18", "Cloudflare"),
    ("108.162.192.0/18", "Cloudflare"),
    ("190.93.240.0/20", "Cloudflare"),
    ("188.114.96.0/20", "Cloudflare"),
    ("197.234.240.0/22", "Cloudflare"),
    ("198.41.128.0/17", "Cloudflare"),
    ("162.158.0.0/15", "Cloudflare"),
    ("104.16.0.0/13", "Cloudflare"),
    ("104.24.0.0/14", "Cloudflare"),
    ("172.64.0.0/13", "Cloudflare"),
    ("131.0.72.0/22", "Cloudflare"),
    ("2400:cb00::/32", "Cloudflare"),
    ("2606:4700::/32", "Cloudflare"),
    ("2803:f800::/32", "Cloudflare"),
    ("2405:b500::/32", "Cloudflare"),
    ("2405:8100::/32", "Cloudflare"),
    ("2a06:98c0::/29", "Cloudflare"),
    ("2c0f:f248::/32", "Cloudflare"),
    ("151.101.0.0/16", "Fastly"),
    ("2a04:4e42::/32", "Fastly"),
];

/// Looks for what may be a mistake, in the order of files and lines.
pub fn lints(compiled: &Compiled) -> Problems {
    let policy = &compiled.policy;
    let mut lints = Lints { policy, found: Problems::default() };
    for rule in policy.rules() {
        lints.evidence(rule);
        lints.suffixes(rule);
        lints.shadowed(rule);
        lints.networks(rule);
        if !compiled.tested.contains(&rule.id) {
            let message = format!("no test is decided by rule \"{}\"", rule.id);
            lints.note(Code::Untested, rule.place, message, "add a [[test]] that names it");
        }
    }
    lints.found.sort_by_place(policy.files());
    lints.found
}

struct Lints<'p> {
    policy: &'p Policy,
    found: Problems,
}

impl Lints<'_> {
    /// What an auditor would ask of a shipped rule.
    fn evidence(&mut self, rule: &Rule) {
        if rule.ban.is_some() && rule.source.is_none() {
            let message = format!("rule \"{}\" has no source", rule.id);
            self.note(
                Code::Unsourced,
                rule.place,
                message,
                "add source: a document or an address to look it up",
            );
        }
        if rule.confidence == Confidence::Low && rule.action == Action::Block {
            let message = format!("rule \"{}\" blocks with low confidence", rule.id);
            self.note(Code::LowConfidence, rule.place, message, "log it until there is better evidence");
        }
    }

    /// Domains under which anyone can register (the Public Suffix List).
    fn suffixes(&mut self, rule: &Rule) {
        for domain in rule.domains.iter().filter(|domain| is_public_suffix(&domain.value)) {
            let message = format!("{} is a public suffix: others have names below it", domain.value);
            self.note(Code::PublicSuffix, domain.place, message, "name the domains of the vendor");
        }
    }

    /// Names for which a domain of the same rule says the same.
    fn shadowed(&mut self, rule: &Rule) {
        let covered = |name: Name<'_>, from: usize| {
            let above = name.suffixes().skip(from);
            let mut deciding =
                above.filter_map(|suffix| self.policy.decide_name(suffix).map(|found| found.rule));
            deciding.next().is_some_and(|index| self.policy.rule(index).id == rule.id)
                && rule.domains.iter().any(|domain| {
                    domain.value.as_name() != name && name.is_at_or_below(domain.value.as_name())
                })
        };
        // The lists of a rule are walked for each of its names: enough for what people write, too much for feeds.
        const FEED: usize = 2_000;
        if rule.hosts.len() + rule.domains.len() > FEED {
            return;
        }
        let names = rule.hosts.iter().map(|at| (at, 0)).chain(rule.domains.iter().map(|at| (at, 1)));
        let mut shadowed = names.filter(|(at, from)| covered(at.value.as_name(), *from)).map(|(at, _)| at);
        let Some(first) = shadowed.next() else { return };
        let more = match shadowed.count() {
            0 => " is".to_owned(),
            more => format!(" and {more} more names are"),
        };
        let message = format!("{}{more} covered by a domain of the same rule, \"{}\"", first.value, rule.id);
        self.note(Code::Shadowed, first.place, message, "the domain alone says the same");
    }

    fn networks(&mut self, rule: &Rule) {
        for network in &rule.networks {
            let (wide, length) = (network.value, network.value.prefix_len());
            let overlaps = |text: &str| text.parse::<IpNet>().is_ok_and(|other| overlap(&wide, &other));
            let widest = if wide.addr().is_ipv4() { WIDE_V4 } else { WIDE_V6 };
            let whose = if PRIVATE.iter().any(|private| overlaps(private)) {
                Some("private or special".to_owned())
            } else if let Some((_, cdn)) = SHARED.iter().find(|(shared, _)| overlaps(shared)) {
                Some(format!("shared: {cdn} serves many sites there"))
            } else {
                (length < widest).then(|| "too many people's to be one vendor's".to_owned())
            };
            if let Some(whose) = whose {
                let message = format!("{wide} holds address space that is {whose}");
                self.note(Code::WideNetwork, network.place, message, "name the vendor's own networks");
            }
        }
    }

    fn note(&mut self, code: Code, place: Place, message: String, help: &str) {
        let file = self.policy.files()[place.file as usize].clone();
        let (at, help) = (Some((place.line, place.column)), help.to_owned());
        self.found.push(Problem { severity: Severity::Note, code, file, at, message, help });
    }
}

fn is_public_suffix(domain: &DomainName) -> bool {
    let text = domain.to_string();
    psl::suffix(text.as_bytes())
        .is_some_and(|suffix| suffix.is_known() && suffix.as_bytes() == text.as_bytes())
}

fn overlap(a: &IpNet, b: &IpNet) -> bool {
    a.contains(b) || b.contains(a)
}
