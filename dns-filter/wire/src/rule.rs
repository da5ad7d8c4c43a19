//! What a rule of a policy answers.

use interdict_policy::{Answer, Rule};

use crate::answer::{Blocked, Rcode, Reply};

impl<'r> Blocked<'r> {
    /// What a rule answers.
    pub fn of(rule: &'r Rule) -> Self {
        let reply = match rule.answer {
            Answer::Drop => Reply::Silence,
            Answer::NxDomain => Reply::Code(Rcode::NxDomain),
            Answer::NoData => Reply::Code(Rcode::NoError),
            Answer::Refused => Reply::Code(Rcode::Refused),
            Answer::Addresses { a, aaaa } => {
                Reply::Addresses { a: a.map(|a| a.octets()), aaaa: aaaa.map(|aaaa| aaaa.octets()) }
            }
        };
        let (ede_code, ede_text) = (rule.ede.code(), rule.id.as_str());
        Self { reply, ttl_secs: rule.ttl_secs, ede_code, ede_text }
    }
}
