//! `[policy] resolve_banned`: the agent asks for banned names itself, since nobody else can.
//!
//! Who is blocked from resolving a name may have its address already, or get it elsewhere. Now and then the agent asks its
//! upstreams for the names of rules that block and learn, and has the rules learn what is answered. No client asked, so
//! nothing is recorded, opened, or answered.

use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use interdict_dns_filter::{Filter, FilterHandler, Forwarder, LookedUp};
use interdict_policy::{Action, DomainName, Policy, Rule, RuleId, Timestamp};
use serde_json::{Value, json};
use tokio::task::JoinSet;

use super::{Learning, Resolved};

/// Names that are asked for in one round; those beyond wait for the next.
const NAMES_A_ROUND_LIMIT: usize = 1000;
/// Names that are asked for at one time.
const IN_FLIGHT_LIMIT: usize = 4;
/// Names in a row that come to nothing, after which a round breaks off: the upstreams are not there.
const FAILURES_IN_A_ROW_LIMIT: u32 = 32;
/// How often it is looked whether a round is due.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Rounds of questions for banned names, and what came of them.
pub(crate) struct Rounds {
    period: Duration,
    done: Mutex<Done>,
}

#[derive(Default)]
struct Done {
    last: Option<Round>,
    failures: u64,
}

/// One round.
#[derive(Clone, Copy)]
struct Round {
    began: Timestamp,
    /// Names that were asked for.
    names: usize,
    /// Addresses in the answers, whatever became of them.
    addresses: usize,
    /// Names for which a question came to nothing.
    failures: usize,
    /// Names that were not asked for.
    left_out: usize,
}

impl Rounds {
    pub(crate) fn every(period: Duration) -> Self {
        Self { period, done: Mutex::default() }
    }

    /// What `status` says of them.
    pub(crate) fn status(&self) -> Value {
        let done = self.done.lock().unwrap_or_else(PoisonError::into_inner);
        let last = done.last.map(|round| {
            json!({
                "at": round.began.to_string(),
                "names": round.names,
                "addresses": round.addresses,
                "failures": round.failures,
                "left_out": round.left_out,
            })
        });
        json!({ "every_secs": self.period.as_secs(), "failures": done.failures, "last": last })
    }

    fn add(&self, round: Round) {
        let mut done = self.done.lock().unwrap_or_else(PoisonError::into_inner);
        done.failures += round.failures as u64;
        done.last = Some(round);
    }

    /// When the next round is due: a tenth of the period sooner or later, so that agents that were started together do not
    /// ask together.
    fn next(&self) -> Instant {
        let chance = RandomState::new().hash_one(0) % 1000;
        let period = self.period.mul_f64(0.9 + chance as f64 / 5000.0);
        Instant::now() + period
    }
}

/// Goes round for as long as the task lives: at once, every period, and when there are other names than before.
pub(crate) async fn keep_rounds(
    rounds: Arc<Rounds>,
    learning: Arc<Learning>,
    filter: Arc<Filter>,
    handler: Arc<FilterHandler<Forwarder>>,
) {
    let (mut names, mut digest, mut due) = (Vec::new(), None, Instant::now());
    let mut start = 0;
    loop {
        let policy = filter.policy();
        if digest != Some(policy.digest()) {
            digest = Some(policy.digest());
            let now = banned_names(&policy);
            if now != names {
                (names, due, start) = (now, Instant::now(), 0);
            }
        }
        if due <= Instant::now() {
            let round = go_round(&names, &mut start, &learning, &filter, &handler).await;
            rounds.add(round);
            due = rounds.next();
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// The exact names that rules block and learn from, hosts and domains themselves, each with its rule: where that is
/// another, what the one before has learned is gone.
fn banned_names(policy: &Policy) -> Vec<(RuleId, DomainName)> {
    let is_decided_by = |name: &DomainName, rule: &Rule| {
        let found = policy.decide_name(name.as_name());
        found.is_some_and(|found| policy.rule(found.rule).id == rule.id)
    };
    let mut names = Vec::new();
    for rule in policy.rules().iter().filter(|rule| is_asked_for(rule)) {
        let of_rule = rule.hosts.iter().chain(&rule.domains).map(|at| &at.value);
        let decided = of_rule.filter(|name| is_decided_by(name, rule));
        names.extend(decided.map(|name| (rule.id.clone(), name.clone())));
    }
    names.sort();
    names.dedup();
    names
}

fn is_asked_for(rule: &Rule) -> bool {
    rule.learn && rule.action == Action::Block
}

/// Asks for the names from `start` on, and moves it to where the next round begins.
async fn go_round(
    names: &[(RuleId, DomainName)],
    start: &mut usize,
    learning: &Learning,
    filter: &Filter,
    handler: &Arc<FilterHandler<Forwarder>>,
) -> Round {
    let mut round =
        Round { began: Timestamp::now(), names: 0, addresses: 0, failures: 0, left_out: names.len() };
    let turn = names.iter().cycle().skip(*start).take(names.len().min(NAMES_A_ROUND_LIMIT));
    let (mut in_flight, mut failures_in_a_row) = (JoinSet::new(), 0);
    let mut take = |(name, found): (DomainName, LookedUp)| {
        let failed = found.failures > 0;
        round.names += 1;
        round.left_out -= 1;
        round.addresses += found.addresses.len();
        round.failures += usize::from(failed);
        failures_in_a_row = if failed { failures_in_a_row + 1 } else { 0 };
        learn(learning, &filter.policy(), &name, &found);
        failures_in_a_row < FAILURES_IN_A_ROW_LIMIT
    };
    for (_, name) in turn {
        if in_flight.len() == IN_FLIGHT_LIMIT
            && let Some(Ok(answered)) = in_flight.join_next().await
            && !take(answered)
        {
            tracing::warn!("no upstream answers for banned names; the rest of them is asked for later");
            break;
        }
        let (name, handler) = (name.clone(), handler.clone());
        in_flight.spawn(async move {
            let found = handler.next().look_up(name.as_name()).await;
            (name, found)
        });
    }
    while let Some(answered) = in_flight.join_next().await {
        if let Ok(answered) = answered {
            take(answered);
        }
    }
    *start = (*start + round.names) % names.len().max(1);
    tracing::debug!(names = round.names, addresses = round.addresses, "asked for banned names");
    round
}

/// Learns under the rule that the name has now.
fn learn(learning: &Learning, policy: &Policy, name: &DomainName, found: &LookedUp) {
    let decided = policy.decide_name(name.as_name()).map(|decided| policy.rule(decided.rule));
    if let Some(rule) = decided.filter(|rule| is_asked_for(rule)) {
        let (name, addresses, ttl) = (name.as_name(), found.addresses.as_slice(), found.ttl);
        learning.learn(&Resolved { policy, rule, name, addresses, ttl });
    }
}

#[cfg(test)]
mod tests {
    use interdict_policy::{Source, compile};

    use super::*;

    #[test]
    fn the_names_asked_for_are_those_that_a_rule_blocks_and_learns_from() {
        let rule = |id: &str, action: &str, learn: bool, names: &str| {
            format!(
                "[[rule]]\nid = \"{id}\"\nrole = \"other\"\naction = \"{action}\"\nlearn = {learn}\n{names}\n"
            )
        };
        let text = [
            "format = 1\n".to_owned(),
            rule(
                "a",
                "block",
                true,
                "hosts = [\"b.test\", \"a.test\"]\ndomains = [\"a.test\", \"fine.test\"]",
            ),
            rule("b", "block", false, "hosts = [\"not-learned.test\"]"),
            rule("c", "log", true, "hosts = [\"logged.test\"]"),
            rule("d", "allow", false, "hosts = [\"fine.test\"]"),
            rule("e", "block", true, "globs = [\"g-*.test\"]"),
        ];
        let policy = compile(&[Source { name: "p.toml".into(), text: text.concat() }]).unwrap().policy;
        let names: Vec<String> =
            banned_names(&policy).iter().map(|(rule, name)| format!("{rule} {name}")).collect();
        assert_eq!(names, ["a a.test", "a b.test"]);
    }

    #[test]
    fn rounds_are_a_tenth_of_the_period_apart_at_most() {
        let rounds = Rounds::every(Duration::from_secs(1000));
        let waits = (0..100).map(|_| rounds.next().duration_since(Instant::now()).as_secs());
        assert!(waits.into_iter().all(|secs| (899..=1100).contains(&secs)));
    }
}
