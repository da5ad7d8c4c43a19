//! Every rule as JSON: all that the policy says, so nothing is left out.

use serde_json::{Value, json};

use super::Exported;
use crate::exempt::Exemption;
use crate::pattern::Pattern;
use crate::policy::Policy;
use crate::rule::{Answer, At, Rule};
use crate::unit::Unit;

pub(super) fn export(policy: &Policy) -> Exported {
    let bans: Vec<&str> = policy.bans().collect();
    let instruments: Vec<Value> = policy
        .instruments()
        .iter()
        .map(|instrument| {
            json!({
                "id": instrument.id,
                "ban": instrument.ban,
                "title": instrument.title,
                "citation": instrument.citation,
                "effective": instrument.effective.to_string(),
            })
        })
        .collect();
    let exemption = |exemption: &Exemption| {
        json!({
            "id": exemption.id,
            "clients": list(&exemption.clients),
            "rules": list(&exemption.rules),
            "reason": exemption.reason,
            "approved_by": exemption.approved_by,
            "expires": exemption.expires.to_string(),
        })
    };
    let unit = |unit: &Unit| json!({ "id": unit.id, "title": unit.title, "networks": list(&unit.networks) });
    let exemptions: Vec<Value> = policy.exemptions().iter().map(exemption).collect();
    let units: Vec<Value> = policy.units().iter().map(unit).collect();
    let rules: Vec<Value> = policy.rules().iter().map(rule).collect();
    let egress = policy.egress_dns();
    let egress_dns = json!({
        "plain": egress.plain.as_str(),
        "dot": egress.dot.as_str(),
        "doh": egress.doh.as_str(),
        "unjudged": egress.unjudged.as_str(),
        "resolvers": list(&egress.resolvers),
    });
    let all = json!({
        "digest": policy.digest().to_string(),
        "bans": bans,
        "instruments": instruments,
        "profile": policy.profile(),
        "rules": rules,
        "exemptions": exemptions,
        "units": units,
        "egress_dns": egress_dns,
    });
    Exported { text: format!("{all:#}\n"), unsaid: Vec::new() }
}

fn rule(rule: &Rule) -> Value {
    let pattern =
        |pattern: &Pattern| json!({ "under": pattern.under().to_string(), "match": pattern.text() });
    let patterns: Vec<Value> = rule.patterns.iter().map(|at| pattern(&at.value)).collect();
    json!({
        "id": rule.id,
        "ban": rule.ban,
        "role": rule.role,
        "action": rule.action,
        "answer": answer(rule.answer),
        "ttl_secs": rule.ttl_secs,
        "ede": rule.ede.code(),
        "packet": rule.packet.as_str(),
        "fixed": rule.fixed,
        "hosts": list(&rule.hosts),
        "domains": list(&rule.domains),
        "globs": list(&rule.globs),
        "patterns": patterns,
        "networks": list(&rule.networks),
        "ports": list(&rule.ports),
        "learn": rule.learn,
        "source": rule.source,
        "confidence": rule.confidence.as_str(),
        "note": rule.note,
    })
}

/// The word of the policy file, or the addresses.
fn answer(answer: Answer) -> Value {
    match answer {
        Answer::Addresses { a, aaaa } if answer != Answer::NULL => json!({ "a": a, "aaaa": aaaa }),
        word => word.to_string().into(),
    }
}

fn list<T: std::fmt::Display>(values: &[At<T>]) -> Vec<String> {
    values.iter().map(|at| at.value.to_string()).collect()
}
