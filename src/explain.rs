//! Why something is decided as it is: the contract of `why --json`.

use std::net::IpAddr;
use std::time::Duration;

use interdict_policy::{
    Action, AddressMatch, Ask, DomainName, Exemption, IpNet, NameForm, NameMatch, Place, Policy, Rule,
    RuleId, RuleIndex, Service, Timestamp, Verdict, printable,
};
use serde::{Deserialize, Serialize};

use crate::learn::Learned;

/// For whom, and when.
#[derive(Clone, Copy, Debug)]
pub struct Asker {
    /// The client; without one, nobody is exempt.
    pub client: Option<IpAddr>,
    /// The moment.
    pub at: Timestamp,
}

/// One decision, explained. Absent values are null.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Explanation {
    /// What was asked, as the policy reads it.
    pub ask: String,
    /// `name` or `address`.
    pub kind: String,
    /// `block`, `log`, `allow`, `exempt` or `none`.
    pub verdict: String,
    /// The rule that decided.
    pub rule: Option<String>,
    /// Its role.
    pub role: Option<String>,
    /// `host`, `glob`, `pattern`, `domain`, `network`, `opened` or `learned`.
    pub form: Option<String>,
    /// The value that matched.
    pub value: Option<String>,
    /// Where it is written.
    pub file: Option<String>,
    /// Line, from 1.
    pub line: Option<u32>,
    /// Column, from 1.
    pub column: Option<u32>,
    /// How DNS answers, for a blocked name.
    pub answer: Option<String>,
    /// How the packet plane answers, for a blocked address.
    pub packet: Option<String>,
    /// The client for whom it is decided.
    pub client: Option<String>,
    /// The unit whose traffic the client's is.
    pub unit: Option<String>,
    /// The line of the register of exemptions that was considered.
    pub exemption: Option<Considered>,
    /// The rules that match as well, the nearest first, and why each did not decide.
    #[serde(default)]
    pub lost: Vec<Lost>,
    /// What each plane does with it.
    #[serde(default)]
    pub planes: Planes,
    /// What else decides, for an address that answers to questions told of.
    pub note: Option<String>,
    /// What answers told of an address.
    #[serde(default)]
    pub told: Option<Told>,
    /// The policy's digest.
    pub digest: String,
}

/// What answers to questions told of an address.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Told {
    /// The rule of the name that it was answered for.
    pub rule: String,
    /// That name, where it is known: for what is learned.
    pub name: Option<String>,
    /// Whether it is known as shared with names that are not banned, and so not matched.
    pub shared: bool,
    /// One of those names, where it is known.
    pub shared_with: Option<String>,
    /// For how many seconds it holds.
    pub remaining_secs: u64,
}

/// A line of the register that names the rule.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Considered {
    /// Its id.
    pub id: String,
    /// Whether it lets this client through.
    pub applies: bool,
    /// Why, or why not.
    pub why: String,
}

/// A rule that matches and does not decide.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lost {
    /// The rule.
    pub rule: String,
    /// What it would have done.
    pub action: String,
    /// As in [`Explanation::form`].
    pub form: String,
    /// The value that matches.
    pub value: String,
    /// `file:line:column` of the value.
    pub place: String,
    /// Why it did not decide.
    pub why: String,
}

/// What each plane does, in words.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Planes {
    /// The DNS plane.
    pub dns: String,
    /// The packet plane.
    pub packet: String,
}

/// Explains what a policy decides.
pub fn explain(policy: &Policy, ask: &Ask, asker: &Asker) -> Explanation {
    let mut explanation = Explanation {
        ask: ask.to_string(),
        verdict: Verdict::None.to_string(),
        client: asker.client.map(|client| client.to_string()),
        unit: asker.client.and_then(|client| policy.unit(client)).map(|unit| unit.id.to_string()),
        digest: policy.digest().to_string(),
        ..Explanation::default()
    };
    match ask {
        Ask::Name(name) => {
            explanation.kind = "name".into();
            let matches = policy.matches_of_name(name.as_name());
            if let Some((found, lost)) = matches.split_first() {
                let matched = policy.matched_value(*found);
                explanation.decided(policy, found.rule, form(found.form), matched, asker);
                explanation.lost = lost.iter().map(|other| lost_name(policy, found, other)).collect();
            }
        }
        Ask::Address(address, service) => {
            explanation.kind = "address".into();
            if let Some(found) = policy.decide_address(*address, *service) {
                let matched = policy.matched_network(found, *address);
                explanation.decided(policy, found.rule, "network", matched, asker);
            }
            explanation.lost = lost_addresses(policy, *address, *service);
        }
    }
    explanation.tell_planes();
    let is_dns = matches!(ask, Ask::Address(_, Some(service)) if service.port == DNS_PORT);
    if is_dns && explanation.rule.is_none() {
        explanation.note =
            Some("no rule concerns the address; what is asked there is judged by its name".into());
        explanation.planes.packet =
            "on lan interfaces, judges each question that is asked there by its name".into();
    }
    explanation
}

/// The port of DNS: what goes there is judged by more than the address.
const DNS_PORT: u16 = 53;

impl Explanation {
    fn decided(
        &mut self,
        policy: &Policy,
        index: RuleIndex,
        form: &str,
        matched: Option<(String, Place)>,
        asker: &Asker,
    ) {
        let rule = policy.rule(index);
        let judged = policy.judge(index, asker.client, asker.at);
        self.verdict = judged.verdict.to_string();
        self.matched(policy, rule, form, matched);
        self.exemption = considered(policy, index, asker, judged.exemption);
        if judged.verdict == Verdict::Block {
            match form {
                "network" | "learned" => self.packet = Some(rule.packet.as_str().into()),
                _ => self.answer = Some(rule.answer.to_string()),
            }
        }
    }

    fn matched(&mut self, policy: &Policy, rule: &Rule, form: &str, matched: Option<(String, Place)>) {
        self.rule = Some(rule.id.to_string());
        self.role = Some(rule.role.clone());
        self.form = Some(form.into());
        let (value, place) = matched.unzip();
        self.value = value;
        self.file = place.and_then(|place| policy.files().get(place.file as usize).cloned());
        (self.line, self.column) = (place.map(|place| place.line), place.map(|place| place.column));
    }

    /// Whether a rule decides that is about the address, and not about a port of every address.
    pub(crate) fn is_of_address(&self, policy: &Policy) -> bool {
        let rule = self.rule.as_deref().and_then(|id| policy.find_rule(id));
        rule.is_some_and(|rule| !policy.is_everywhere(rule))
    }

    /// The same address, when the policy only speaks of the IPv4 address that it stands for.
    pub(crate) fn or_inside(self, policy: &Policy, inside: IpAddr, ask: &Ask, asker: &Asker) -> Self {
        let Ask::Address(_, service) = ask else { return self };
        let decided = explain(policy, &Ask::Address(inside, *service), asker);
        if !decided.is_of_address(policy) {
            return self;
        }
        let note = format!("it stands for {inside}");
        Self { ask: self.ask, note: Some(note), ..decided }
    }

    /// The same address, when it lies in a safe network.
    pub(crate) fn safe(self, network: IpNet) -> Self {
        let without = self.without();
        let mut safe = Self {
            ask: self.ask,
            kind: self.kind,
            verdict: Verdict::None.to_string(),
            client: self.client,
            unit: self.unit,
            note: Some(format!("packets to {network} are never dropped{without}")),
            digest: self.digest,
            ..Self::default()
        };
        safe.tell_planes();
        safe
    }

    /// The same address, when an answer to a question told of it, and that holds for the time that remains: `form` is
    /// `opened` with the verdict `log`, `allow` or `exempt`, or `learned` with that of the rule.
    pub(crate) fn answered(
        self,
        policy: &Policy,
        address: IpAddr,
        form: &str,
        (rule, remaining): (RuleId, Duration),
        name: Option<&DomainName>,
        asker: &Asker,
    ) -> Self {
        let Some(index) = policy.find_rule(rule.as_str()) else { return self };
        let secs = remaining.as_secs();
        let note = match name {
            Some(name) => format!("answered for {name}, a name of this rule, for another {secs} s"),
            None => format!("answered for a name of this rule, for another {secs} s"),
        };
        let note = Some(format!("{note}{}", self.without()));
        let told = Some(Told {
            rule: rule.to_string(),
            name: name.map(ToString::to_string),
            shared: false,
            shared_with: None,
            remaining_secs: secs,
        });
        let mut answered = Self { packet: None, note, told, ..self };
        let matched = Some((address.to_string(), policy.rule(index).place));
        answered.decided(policy, index, form, matched, asker);
        answered.tell_planes();
        answered
    }

    /// The same address, when it was learned and then found to serve others too: that decides nothing, and is said.
    pub(crate) fn shared(self, learned: &Learned, with: Option<&DomainName>) -> Self {
        let Learned { rule, name, remaining, .. } = learned;
        let secs = remaining.as_secs();
        let other = with.map_or("a name answered before".to_owned(), ToString::to_string);
        let said = format!(
            "learned for rule {rule} from {name}, but shared with {other}, so that rule does not match it for \
             another {secs} s"
        );
        let note = Some(self.note.iter().cloned().chain([said]).collect::<Vec<_>>().join("; "));
        let told = Some(Told {
            rule: rule.to_string(),
            name: Some(name.to_string()),
            shared: true,
            shared_with: with.map(ToString::to_string),
            remaining_secs: secs,
        });
        Self { note, told: self.told.clone().or(told), ..self }
    }

    fn without(&self) -> String {
        match &self.rule {
            None => String::new(),
            Some(rule) => format!("; without that, by rule {rule}: {}", self.verdict),
        }
    }

    fn tell_planes(&mut self) {
        let name = self.kind == "name";
        let (dns, packet) = match (name, self.verdict.as_str()) {
            (true, "block") => {
                ("answers by itself, asks nobody, records", "matches addresses by their networks only")
            }
            (true, "exempt") => (
                "resolves for this client and records",
                "lets this client reach the addresses answered, for their TTL",
            ),
            (true, "none") => (
                "resolves; what its CNAMEs point to is judged as well",
                "matches addresses by their networks only",
            ),
            (true, _) => {
                ("resolves and records", "lets everyone reach the addresses answered, for their TTL")
            }
            (false, "block") => ("is not concerned", "drops the packets and records"),
            (false, "none") => ("is not concerned", "passes the packets, without a record"),
            (false, _) => ("is not concerned", "passes the packets and records"),
        };
        self.planes = Planes { dns: dns.into(), packet: packet.into() };
    }

    /// The explanation for a person: the verdict, and below it what there is to know.
    pub fn for_people(&self) -> String {
        let text = |value: &Option<String>| value.clone().unwrap_or_default();
        let mut lines = Vec::new();
        let client = self.client.as_ref().map_or(String::new(), |client| format!(" for {client}"));
        match &self.rule {
            None => {
                let why = self.note.as_deref().unwrap_or("no rule concerns it");
                lines.push(format!("{}: none{client}: {why}", self.ask));
            }
            Some(rule) => {
                let how = match (&self.answer, &self.packet) {
                    (Some(answer), _) => format!(", answered {answer}"),
                    (_, Some(packet)) => format!(", packets: {packet}"),
                    _ => String::new(),
                };
                let (verdict, role) = (&self.verdict, text(&self.role));
                let (form, value) = (text(&self.form), text(&self.value));
                lines.push(format!(
                    "{}: {verdict}{client} by rule {rule} (role {role}): {form} {value}{how}",
                    self.ask
                ));
                lines.extend(self.note.clone());
                if let (Some(file), Some(line), Some(column)) = (&self.file, self.line, self.column) {
                    lines.push(format!("at {file}:{line}:{column}"));
                }
            }
        }
        if let Some(Considered { id, applies, why }) = &self.exemption {
            let applies = if *applies { "applies" } else { "does not apply" };
            lines.push(format!("exemption {id} {applies}: {why}"));
        }
        for Lost { rule, action, form, value, place, why } in &self.lost {
            lines.push(format!("not {action} by {rule}, {form} {value} at {place}: {why}"));
        }
        if self.rule.is_some() {
            lines.push(format!("DNS {}; the packet plane {}", self.planes.dns, self.planes.packet));
        }
        let lines: Vec<_> = lines.iter().map(|line| printable(line)).collect();
        lines.join("\n    ")
    }
}

fn form(form: NameForm) -> &'static str {
    match form {
        NameForm::Host => "host",
        NameForm::Glob => "glob",
        NameForm::Pattern => "pattern",
        NameForm::Domain => "domain",
    }
}

/// The exemption that applies, or else the one that comes nearest to it.
fn considered(
    policy: &Policy,
    rule: RuleIndex,
    asker: &Asker,
    applies: Option<&Exemption>,
) -> Option<Considered> {
    if let Some(exemption) = applies {
        let why = format!("approved by {}, until {}", exemption.approved_by, exemption.expires);
        return Some(Considered { id: exemption.id.to_string(), applies: true, why });
    }
    let id = &policy.rule(rule).id;
    let names_it = |exemption: &&Exemption| exemption.rules.iter().any(|named| named.value == *id);
    let is_for = |exemption: &Exemption| {
        let client = asker.client.map(|client| client.to_canonical());
        client.is_some_and(|client| exemption.clients.iter().any(|clients| clients.value.contains(&client)))
    };
    let exemption = policy.exemptions().iter().filter(names_it).max_by_key(|exemption| is_for(exemption))?;
    let why = match asker.client {
        _ if policy.rule(rule).action == Action::Allow => "the rule lets everyone through".to_owned(),
        None => "no client is named (--client)".to_owned(),
        Some(_) if is_for(exemption) => format!("it ended {}", exemption.expires),
        Some(client) => format!("{client} is none of its clients"),
    };
    Some(Considered { id: exemption.id.to_string(), applies: false, why })
}

fn lost_name(policy: &Policy, winner: &NameMatch, other: &NameMatch) -> Lost {
    let why = if other.labels_left > winner.labels_left {
        "a longer name goes before".to_owned()
    } else if other.form != winner.form {
        format!("a {} goes before a {}", form(winner.form), form(other.form))
    } else {
        "of two alike, allow goes before block before log, then the id decides".to_owned()
    };
    lost(policy, other.rule, form(other.form), policy.matched_value(*other), why)
}

fn lost_addresses(policy: &Policy, address: IpAddr, service: Option<Service>) -> Vec<Lost> {
    let winner = policy.decide_address(address, service).map(|found| found.rule);
    let won = policy.matches_of_address(address, service).into_iter();
    let mut others = won.filter(|(found, _)| Some(found.rule) != winner);
    let mut all = Vec::new();
    for (found, speaks) in &mut others {
        let why = if speaks { "a longer prefix, or a port, goes before" } else { "its ports are others" };
        let AddressMatch { rule, network } = found;
        let place = policy.rule(rule).networks.iter().find(|at| at.value == network).map(|at| at.place);
        all.push(lost(
            policy,
            rule,
            "network",
            place.map(|place| (network.to_string(), place)),
            why.to_owned(),
        ));
    }
    all
}

fn lost(policy: &Policy, rule: RuleIndex, form: &str, matched: Option<(String, Place)>, why: String) -> Lost {
    let rule = policy.rule(rule);
    let (value, place) = matched.unwrap_or_else(|| (String::new(), rule.place));
    let file = policy.files().get(place.file as usize).map_or("", String::as_str);
    Lost {
        rule: rule.id.to_string(),
        action: rule.action.as_str().into(),
        form: form.into(),
        value,
        place: format!("{file}:{}:{}", place.line, place.column),
        why,
    }
}
