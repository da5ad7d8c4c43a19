//! `[profile.ID]`: what one instrument asks of a ban, role by role.

use crate::problem::Place;
use crate::reading::{Reader, Table};
use crate::rule::{Action, At, Rule, RuleId};
use crate::values::Word;

/// A choice of actions by role, for the rules it stands with: those of its ban, or a site's own.
#[derive(Clone, Debug)]
pub struct Profile {
    /// Its name, by which it is chosen. Several bans may have a profile of one name, which are chosen together.
    pub id: String,
    /// Where it is written.
    pub place: Place,
    /// The ban it belongs to; `None` for that of a site's own rules.
    pub ban: Option<String>,
    /// The ids of the instruments that ask for it, from the key `legal_basis`: a word with `_`, which no role has.
    pub legal_basis: Vec<At<RuleId>>,
    /// The action for each role it names; rules of other roles stay as written.
    pub actions: Vec<(At<String>, Action)>,
}

impl Profile {
    /// The action for a rule; `None` where the rule stays as written.
    pub fn action(&self, rule: &Rule) -> Option<Action> {
        let concerned = !rule.fixed && rule.ban == self.ban;
        let (_, action) = self.actions.iter().find(|(role, _)| concerned && role.value == rule.role)?;
        Some(*action)
    }
}

/// Reads `[profile]`, which holds one table for each profile.
pub(crate) fn read_all(r: &mut Reader<'_>, table: Table<'_, '_>, ban: &Option<String>) -> Vec<Profile> {
    let tables = table.named_tables(r, "profile");
    tables.into_iter().filter_map(|(id, table)| read(r, id, table, ban)).collect()
}

fn read(r: &mut Reader<'_>, id: At<&str>, mut table: Table<'_, '_>, ban: &Option<String>) -> Option<Profile> {
    let word = id.value.parse::<Word>();
    if let Err(message) = &word {
        table.wrong(r, "", message.clone(), "such as [profile.us-federal]");
    }
    let legal_basis = table
        .list(r, "legal_basis", |id| id.parse::<RuleId>().map_err(|e| (e, "the id of an instrument".into())));
    let actions = table.remaining_words(r, Action::WORDS);
    let actions = actions
        .into_iter()
        .map(|(role, action)| (At { value: role.value.to_owned(), place: role.place }, action));
    Some(Profile {
        id: word.ok()?.0,
        place: id.place,
        ban: ban.clone(),
        legal_basis,
        actions: actions.collect(),
    })
}
