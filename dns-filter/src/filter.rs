//! The decision: the policy in force, and who is told of what was asked.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use interdict_policy::{DomainName, Name, NameForm, NameMatch, Policy, Rule, RuleIndex, Timestamp, Verdict};

use crate::channel::Channel;

/// One question that concerns the ban, as the [`Observer`] is told of it.
#[derive(Clone, Copy, Debug)]
pub struct Seen<'a> {
    /// Who asked.
    pub client: IpAddr,
    /// How the question came.
    pub channel: Channel,
    /// The other resolver that it was on its way to; `None` where it came to us.
    pub asked: Option<IpAddr>,
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

    /// A client that is served asked something, whatever it was.
    fn asked(&self, _client: IpAddr) {}

    /// Addresses answered for a name that a rule lets through, before the answer is sent.
    fn answered(&self, answered: &Answered<'_>);

    /// Addresses answered for a name that no rule concerns, before the answer is sent; none for many a question. Nearly
    /// every answer comes by here.
    fn unlisted(&self, _name: Name<'_>, _addresses: &mut dyn Iterator<Item = IpAddr>) {}

    /// A question and its answer, as [`Conduct::taps`](crate::Conduct::taps) says. Nearly every one comes by here where all do.
    fn exchanged(&self, _: &Exchange<'_>) {}

    /// Something on its way to another resolver that a rule of `[egress_dns]` decided, whatever it asked for. A server
    /// to which nothing is diverted is told of nothing.
    fn egress(&self, _: &Egress<'_>) {}
}

/// Which questions and answers an [`Observer`] is told of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Taps {
    /// None.
    #[default]
    Nothing,
    /// Those that a rule concerns.
    Decided,
    /// Every one.
    All,
}

/// A question and its answer.
#[derive(Clone, Copy, Debug)]
pub struct Exchange<'a> {
    /// Who asked.
    pub client: SocketAddr,
    /// How.
    pub channel: Channel,
    /// The other resolver that the question was on its way to, if it was.
    pub asked: Option<IpAddr>,
    /// When it came.
    pub at: Instant,
    /// The question's message.
    pub question: &'a [u8],
    /// The answer's; `None` where there is none.
    pub answer: Option<&'a [u8]>,
    /// The rule that concerns it, and what it means.
    pub decided: Option<(&'a Rule, Verdict)>,
    /// What the rule matched: the name that was asked for, or where the answer leads.
    pub matched: Option<&'a Target>,
    /// The policy.
    pub policy: &'a Policy,
}

/// Something on its way to another resolver.
#[derive(Clone, Copy, Debug)]
pub struct Egress<'a> {
    /// Who sent it.
    pub client: IpAddr,
    /// The other resolver.
    pub asked: SocketAddr,
    /// How it came.
    pub channel: Channel,
    /// The rule.
    pub rule: &'a Rule,
    /// The policy that has it.
    pub policy: &'a Policy,
}

/// Addresses in the answer to a question that a rule lets through.
#[derive(Clone, Copy, Debug)]
pub struct Answered<'a> {
    /// Who asked.
    pub client: IpAddr,
    /// The name that the rule lets through: the one asked for, or for a name on no list what it leads to.
    pub name: Name<'a>,
    /// The rule that decided.
    pub rule: &'a Rule,
    /// What it means for this client now: `log`, `allow` or `exempt`.
    pub verdict: Verdict,
    /// The policy under which it does.
    pub policy: &'a Policy,
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

    /// The same, for as long as it takes to look at it: cheaper than a share in it.
    pub(crate) fn in_force(&self) -> arc_swap::Guard<Arc<Policy>> {
        self.policy.load()
    }

    /// Judges a name for a client, by the policy in force now.
    pub fn judge(&self, name: Name<'_>, client: IpAddr) -> Judgement {
        let policy = self.policy.load_full();
        let decided = decide(&policy, name, client);
        Judgement { policy, client, channel: Channel::Udp, asked: None, decided }
    }

    /// Who is told.
    pub fn observer(&self) -> &dyn Observer {
        &*self.observer
    }
}

/// The rule for a name and where it matched, and what it means for the client.
pub(crate) fn decide(policy: &Policy, name: Name<'_>, client: IpAddr) -> Option<(NameMatch, Verdict)> {
    let found = policy.decide_name(name)?;
    Some((found, verdict(policy, found.rule, client)))
}

/// What a rule means for a client now. Only where there are exemptions, which end, the clock is read.
fn verdict(policy: &Policy, rule: RuleIndex, client: IpAddr) -> Verdict {
    match policy.exemptions() {
        [] => policy.rule(rule).action.into(),
        _ => policy.judge(rule, Some(client), Timestamp::now()).verdict,
    }
}

/// How many labels of a name stand left of the one that owns the SOA of a blocked answer: the domain that matched, or the
/// name itself where something else did.
pub(crate) fn soa_labels_left(found: NameMatch) -> usize {
    match found {
        NameMatch { form: NameForm::Domain, labels_left, .. } => labels_left.into(),
        _ => 0,
    }
}

/// Whether any rule is about where an answer leads.
pub(crate) fn concerns(policy: &Policy, target: &Target) -> bool {
    match target {
        Target::Name(name) => policy.decide_name(name.as_name()).is_some(),
        Target::Address(address) => policy.decide_address(*address, None).is_some(),
    }
}

/// The rule for where an answer leads, and what it means for the client. A rule with ports leaves addresses to the
/// packet plane, which sees the ports.
fn decide_target(policy: &Policy, target: &Target, client: IpAddr) -> Option<(RuleIndex, Verdict)> {
    match target {
        Target::Name(name) => {
            decide(policy, name.as_name(), client).map(|(found, verdict)| (found.rule, verdict))
        }
        Target::Address(address) => {
            let rule = policy.decide_address(*address, None)?.rule;
            Some((rule, verdict(policy, rule, client)))
        }
    }
}

/// What was decided for one question, with the policy that it keeps to its end.
#[derive(Clone, Debug)]
pub struct Judgement {
    policy: Arc<Policy>,
    client: IpAddr,
    channel: Channel,
    asked: Option<IpAddr>,
    decided: Option<(NameMatch, Verdict)>,
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

    /// The same, for a question that was on its way to another resolver, if it was.
    pub(crate) fn on_its_way_to(self, asked: Option<IpAddr>) -> Self {
        Self { asked, ..self }
    }

    /// The same, for a question that came this way.
    pub(crate) fn over(self, channel: Channel) -> Self {
        Self { channel, ..self }
    }

    /// How the question came.
    pub fn channel(&self) -> Channel {
        self.channel
    }

    /// The other resolver that the question was on its way to, if it was.
    pub fn asked(&self) -> Option<IpAddr> {
        self.asked
    }

    /// The rule that decided and what it means for this client; `None` for a name on no list.
    pub fn decided(&self) -> Option<(&Rule, Verdict)> {
        self.decided.map(|(found, verdict)| (self.policy.rule(found.rule), verdict))
    }

    /// Whether it was made for this name, or for one that the policy does not tell from it.
    pub(crate) fn is_about(&self, name: Name<'_>) -> bool {
        self.policy.decide_name(name) == self.decided.map(|(found, _)| found)
    }

    /// See [`soa_labels_left`].
    pub(crate) fn soa_labels_left(&self) -> usize {
        self.decided.map_or(0, |(found, _)| soa_labels_left(found))
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
