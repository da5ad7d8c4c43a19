//! What of the past concerns a policy: contacts, added up by day, and signs of life of the clients that were in contact. All else is
//! only counted.
//!
//! A rule says what concerns it today; what was done then is what the notes say: a contact was blocked if a server blocked it, and
//! let through otherwise. The register of exemptions counts by the time of the contact.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::IpAddr;

use interdict_policy::{DomainName, Policy, Protocol, RuleIndex, Service, Verdict};
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use super::{Answer, Flow, Noted, Observed, Question};
use crate::entry::{Asked, Depth};

/// Different contacts that are added up at a time.
const CONTACTS_LIMIT: usize = 1 << 20;
/// Addresses that are followed from the answers that told of them.
const OPENED_LIMIT: usize = 1 << 17;
/// Clients and days that are noted as signs of life.
const ALIVE_LIMIT: usize = 1 << 22;
/// For how long an answer's addresses are its name's, whatever its TTL says: as both planes have it.
const OPEN_SECS: [u32; 2] = [60, 3600];
const DAY_SECS: i64 = 86_400;

/// A client's contacts of one kind on one day, or a sign of life.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Contact {
    /// Who.
    pub client: IpAddr,
    /// When the first was, and the last.
    pub period: [Timestamp; 2],
    /// What it was; `None` for a sign of life.
    pub decided: Option<Decided>,
}

/// What was asked for, and by which rule it is a contact.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Decided {
    /// What was asked.
    pub asked: Asked,
    /// How it came, where that was noted.
    pub channel: Option<String>,
    /// What was done then: `block`, `log` for what was let through, or `exempt`.
    pub verdict: Verdict,
    /// The rule's id.
    pub rule: String,
    /// The rule's role.
    pub role: String,
    /// The line of the register that let it through.
    pub exemption: Option<String>,
    /// Questions or packets.
    pub count: u64,
    /// How far they got.
    pub depth: Depth,
}

/// What decides for a row, in the order in which rows are handed out.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    day: i64,
    client: IpAddr,
    rule: RuleIndex,
    is_blocked: bool,
    exemption: Option<String>,
    asked: Asked,
    channel: Option<&'static str>,
}

struct Sum {
    count: u64,
    period: [Timestamp; 2],
    depth: Depth,
}

/// Of which name an address was an answer to a client, by its rule and until when. What one file says holds for the next one.
pub type Opened = HashMap<(IpAddr, IpAddr), (RuleIndex, Timestamp)>;

/// Why no more can be added up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("it holds more than {CONTACTS_LIMIT} different contacts; take it in parts, with --from and --until")]
pub struct TooMany;

/// Adds up what concerns a policy.
pub struct Contacts<'p> {
    policy: &'p Policy,
    sums: BTreeMap<Key, Sum>,
    opened: Opened,
    /// Days on which clients did anything at all.
    alive: HashMap<IpAddr, BTreeSet<i64>>,
    alive_pairs: usize,
    is_full: bool,
    /// Entries that concern no rule, or an exception.
    pub others: u64,
}

impl<'p> Contacts<'p> {
    /// None so far, with what an earlier file of the same policy told of addresses.
    pub fn new(policy: &'p Policy, opened: Opened) -> Self {
        Self {
            policy,
            sums: BTreeMap::new(),
            opened,
            alive: HashMap::new(),
            alive_pairs: 0,
            is_full: false,
            others: 0,
        }
    }

    /// Adds what was noted.
    pub fn add(&mut self, observed: Observed) {
        let Observed { time, client, what } = observed;
        self.is_alive(time, client);
        let is_one = match what {
            Noted::Asked(question) => self.asked(time, client, question),
            Noted::Sent(flow) => self.sent(time, client, flow),
        };
        self.others += u64::from(!is_one);
    }

    fn asked(&mut self, time: Timestamp, client: IpAddr, question: Question) -> bool {
        let Some((rule, via)) = self.decide(&question, client, time) else { return false };
        let Question { name, rtype, channel, resolver, is_blocked, answers } = question;
        let asked = Asked::Name { name: name.to_string(), rtype, via, resolver };
        let is_one = self.count(time, client, rule, is_blocked, asked, channel, (1, time, Depth::Asked));
        if is_one && !is_blocked {
            self.open(time, client, rule, &answers);
        }
        is_one
    }

    /// The rule for a name; where none concerns it, the strictest one for what it was answered.
    fn decide(
        &self,
        question: &Question,
        client: IpAddr,
        time: Timestamp,
    ) -> Option<(RuleIndex, Option<String>)> {
        let of_name = |name: &DomainName| self.policy.decide_name(name.as_name()).map(|found| found.rule);
        if let Some(rule) = of_name(&question.name) {
            return Some((rule, None));
        }
        let targets = question.answers.iter().filter_map(|answer| match answer {
            Answer::Name(name) => Some((of_name(name)?, name.to_string())),
            Answer::Address(address, _) => {
                Some((self.policy.decide_address(*address, None)?.rule, address.to_string()))
            }
        });
        let strictness = |rule: RuleIndex| match self.policy.judge(rule, Some(client), time).verdict {
            Verdict::Block => 0,
            Verdict::Log => 1,
            Verdict::Exempt => 2,
            Verdict::Allow | Verdict::None => 3,
        };
        targets.min_by_key(|(rule, _)| strictness(*rule)).map(|(rule, via)| (rule, Some(via)))
    }

    fn sent(&mut self, time: Timestamp, client: IpAddr, flow: Flow) -> bool {
        let Flow { address, port, protocol, packets, last, depth } = flow;
        let told = self.opened.get(&(client, address)).filter(|(_, until)| time <= *until);
        let protocol_of = |text: &str| match text {
            "tcp" => Some(Protocol::Tcp),
            "udp" => Some(Protocol::Udp),
            _ => None,
        };
        let service = port.zip(protocol_of(&protocol)).map(|(port, protocol)| Service { protocol, port });
        let of_address = || {
            let rule = self.policy.decide_address(address, service)?.rule;
            // Which resolver was the site's own the past does not tell.
            (!self.policy.is_everywhere(rule)).then_some(rule)
        };
        let Some(rule) = told.map(|(rule, _)| *rule).or_else(of_address) else { return false };
        let asked = Asked::Address { address, port, protocol };
        self.count(time, client, rule, false, asked, None, (packets, last.max(time), depth))
    }

    #[expect(clippy::too_many_arguments, reason = "they are the columns of a row")]
    fn count(
        &mut self,
        time: Timestamp,
        client: IpAddr,
        rule: RuleIndex,
        is_blocked: bool,
        asked: Asked,
        channel: Option<&'static str>,
        (count, last, depth): (u64, Timestamp, Depth),
    ) -> bool {
        let judged = self.policy.judge(rule, Some(client), time);
        if matches!(judged.verdict, Verdict::Allow | Verdict::None) {
            return false;
        }
        let exemption = judged.exemption.filter(|_| !is_blocked).map(|line| line.id.to_string());
        let key = Key { day: day(time), client, rule, is_blocked, exemption, asked, channel };
        if self.sums.len() >= CONTACTS_LIMIT && !self.sums.contains_key(&key) {
            self.is_full = true;
            return false;
        }
        let sum = self.sums.entry(key).or_insert(Sum { count: 0, period: [time, last], depth });
        sum.count = sum.count.saturating_add(count);
        sum.period = [sum.period[0].min(time), sum.period[1].max(last)];
        sum.depth = sum.depth.max(depth);
        true
    }

    /// Packets to the addresses that a name was answered with are the name's, for as long as the answer holds.
    fn open(&mut self, time: Timestamp, client: IpAddr, rule: RuleIndex, answers: &[Answer]) {
        for answer in answers {
            let Answer::Address(address, ttl) = answer else { continue };
            let ttl = (*ttl).clamp(OPEN_SECS[0], OPEN_SECS[1]);
            let until = time + SignedDuration::from_secs(ttl.into());
            if self.opened.len() >= OPENED_LIMIT {
                self.opened.retain(|_, (_, until)| *until >= time);
            }
            if self.opened.len() < OPENED_LIMIT {
                self.opened.insert((client, *address), (rule, until));
            }
        }
    }

    fn is_alive(&mut self, time: Timestamp, client: IpAddr) {
        if self.alive_pairs < ALIVE_LIMIT && self.alive.entry(client).or_default().insert(day(time)) {
            self.alive_pairs += 1;
        }
    }

    /// All contacts, by day; and behind them signs of life, of clients that were in contact here or are among those `known` to have
    /// been, on days without contact after the first with one.
    ///
    /// # Errors
    /// When there were more than can be added up.
    pub fn finish(self, known: &HashSet<IpAddr>) -> Result<(Vec<Contact>, Opened), TooMany> {
        if self.is_full {
            return Err(TooMany);
        }
        let mut days: BTreeMap<IpAddr, BTreeSet<i64>> = BTreeMap::new();
        for Key { day, client, .. } in self.sums.keys() {
            days.entry(*client).or_default().insert(*day);
        }
        let mut contacts: Vec<Contact> =
            self.sums.into_iter().map(|(key, sum)| contact(self.policy, key, sum)).collect();
        let nothing = BTreeSet::new();
        let clients: BTreeSet<IpAddr> = days.keys().chain(known).copied().collect();
        for client in clients {
            let in_contact = days.get(&client).unwrap_or(&nothing);
            let first = if known.contains(&client) { Some(i64::MIN) } else { in_contact.first().copied() };
            let alive = self.alive.get(&client).unwrap_or(&nothing).difference(in_contact);
            for day in alive.filter(|day| first.is_some_and(|first| **day > first)) {
                let Ok(time) = Timestamp::from_second(day * DAY_SECS) else { continue };
                contacts.push(Contact { client, period: [time, time], decided: None });
            }
        }
        Ok((contacts, self.opened))
    }
}

fn day(time: Timestamp) -> i64 {
    time.as_second().div_euclid(DAY_SECS)
}

fn contact(policy: &Policy, key: Key, sum: Sum) -> Contact {
    let rule = policy.rule(key.rule);
    let verdict = match (key.is_blocked, &key.exemption) {
        (true, _) => Verdict::Block,
        (false, Some(_)) => Verdict::Exempt,
        (false, None) => Verdict::Log,
    };
    let decided = Decided {
        asked: key.asked,
        channel: key.channel.map(str::to_owned),
        verdict,
        rule: rule.id.to_string(),
        role: rule.role.to_string(),
        exemption: key.exemption,
        count: sum.count,
        depth: sum.depth,
    };
    Contact { client: key.client, period: sum.period, decided: Some(decided) }
}
