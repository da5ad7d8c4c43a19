//! The decision: the policy in force, and who is told of what was asked.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use interdict_policy::{DomainName, Name, Policy, Rule, RuleIndex, Timestamp, Verdict};

/// One question that concerns the ban, as the [`Observer`] is told of it.
#[derive(Clone, Copy, Debug)]
pub struct Seen<'a> {
    /// Who asked.
    pub client: IpAddr,
    /// Whether the question came over TCP.
    pub tcp: bool,
    /// The name asked for.
    pub name: Name<'a>,
    /// QTYPE.
    pub qtype: u16,
    /// What in the answer decided, where the name itself is on no list.
    pub via: Option<&'a Target>,
    /// The rule that decided.
    pub rule: &'a Rule,
    /// What it means for this client now.
    pub verdict: Verdict,
    /// The policy under which it did.
    pub policy: &'a Policy,
}

/// Where an answer leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// A name: the target of a CNAME, SVCB or HTTPS record.
    Name(DomainName),
    /// An address, of a record or a hint in one.
    Address(IpAddr),
}

impl std::fmt::Display for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Name(name) => name.fmt(f),
            Self::Address(address) => address.fmt(f),
        }
    }
}

/// Who is told what the filter sees. Called on the path of the answer: it must not wait.
pub trait Observer: Send + Sync + 'static {
    /// A question that a rule decided, blocked or let through.
    fn seen(&self, seen: &Seen<'_>);

    /// Addresses answered for a name that a rule lets through, before the answer is sent.
    fn answered(&self, answered: &Answered<'_>);
}

/// Addresses in the answer to a question that a rule lets through.
#[derive(Clone, Copy, Debug)]
pub struct Answered<'a> {
    /// Who asked.
    pub client: IpAddr,
    /// The rule that decided.
    pub rule: &'a Rule,
    /// What it means for this client now: `log`, `allow` or `exempt`.
    pub verdict: Verdict,
    /// The addresses; at least one.
    pub addresses: &'a [IpAddr],
    /// The shortest TTL of their records.
    pub ttl: Duration,
}

/// An observer that does nothing, for servers that keep no record.
#[derive(Clone, Copy, Debug)]
pub struct Silent;

impl Observer for Silent {
    fn seen(&self, _: &Seen<'_>) {}
    fn answered(&self, _: &Answered<'_>) {}
}

/// The policy in force. Swapping it is one pointer; a question sees one policy from start to end.
pub struct Filter {
    policy: ArcSwap<Policy>,
    observer: Arc<dyn Observer>,
}

impl Filter {
    /// A filter that decides by `policy` until it is swapped.
    pub fn new(policy: Arc<Policy>, observer: Arc<dyn Observer>) -> Self {
        Self { policy: ArcSwap::new(policy), observer }
    }

    /// Puts another policy in force, for questions that arrive from now on.
    pub fn swap(&self, policy: Arc<Policy>) {
        self.policy.store(policy);
    }

    /// The policy in force.
    pub fn policy(&self) -> Arc<Policy> {
        self.policy.load_full()
    }

    /// Judges a name for a client, by the policy in force now.
    pub fn judge(&self, name: Name<'_>, client: IpAddr) -> Judgement {
        let policy = self.policy.load_full();
        let decided = decide(&policy, name, client);
        Judgement { policy, client, decided }
    }

    /// Who is told.
    pub fn observer(&self) -> &dyn Observer {
        &*self.observer
    }
}

/// The rule for a name, and what it means for the client.
fn decide(policy: &Policy, name: Name<'_>, client: IpAddr) -> Option<(RuleIndex, Verdict)> {
    let rule = policy.decide_name(name)?.rule;
    Some((rule, policy.judge(rule, Some(client), Timestamp::now()).verdict))
}

/// The rule for where an answer leads, and what it means for the client. A rule with ports leaves addresses to the
/// packet plane, which sees the ports.
fn decide_target(policy: &Policy, target: &Target, client: IpAddr) -> Option<(RuleIndex, Verdict)> {
    match target {
        Target::Name(name) => decide(policy, name.as_name(), client),
        Target::Address(address) => {
            let rule = policy.decide_address(*address, None)?.rule;
            Some((rule, policy.judge(rule, Some(client), Timestamp::now()).verdict))
        }
    }
}

/// What was decided for one question, with the policy that it keeps to its end.
#[derive(Clone, Debug)]
pub struct Judgement {
    policy: Arc<Policy>,
    client: IpAddr,
    decided: Option<(RuleIndex, Verdict)>,
}

impl Judgement {
    /// The policy that the question sees.
    pub fn policy(&self) -> &Policy {
        &self.policy
    }

    /// Who asked.
    pub fn client(&self) -> IpAddr {
        self.client
    }

    /// The rule that decided and what it means for this client; `None` for a name on no list.
    pub fn decided(&self) -> Option<(&Rule, Verdict)> {
        self.decided.map(|(rule, verdict)| (self.policy.rule(rule), verdict))
    }

    /// The strictest decision that the targets of an unlisted name's answer fall under: `block`, then `log`, then
    /// `exempt`, then `allow`; of equals the first.
    pub(crate) fn strictest_of(
        &self,
        targets: impl Iterator<Item = Target>,
    ) -> Option<(&Rule, Verdict, Target)> {
        let strictness = |verdict| match verdict {
            Verdict::Block => 0,
            Verdict::Log => 1,
            Verdict::Exempt => 2,
            Verdict::Allow | Verdict::None => 3,
        };
        targets
            .filter_map(|target| {
                let (rule, verdict) = decide_target(&self.policy, &target, self.client)?;
                Some((self.policy.rule(rule), verdict, target))
            })
            .min_by_key(|(_, verdict, _)| strictness(*verdict))
    }
}
