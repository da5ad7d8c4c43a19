//! The JSON Schema of a policy file, for editors: what the reader asks for, with a line on each key.
//!
//! It is made by reading a file of empty tables and writing down what is asked for, so that it cannot say anything else
//! than the reader. Only the lines of help are written here; a test has them match the keys.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value, json};

use crate::document::{Document, ROOT};
use crate::problem::Problems;
use crate::reading::{Asked, Wanted};

/// One table of each kind, and of those with two shapes both.
const SPECIMEN: &str = "\
[ban]
[[instrument]]
[[rule]]
[[rule]]
answer = {}
patterns = [{}]
[[override]]
[[unit]]
[[exempt]]
[profile.x]
[egress_dns]
[[test]]
";
/// A line on each key, by table.
const HELP: [(&str, &str, &str); 68] = [
    (ROOT, "format", "The version of the language: 1"),
    (
        ROOT,
        "ban",
        "Whose services are banned; the rules of this file belong to it. A file without it is a site's own",
    ),
    (ROOT, "instrument", "A legal basis that a report can cite"),
    (ROOT, "rule", "What is banned, logged or allowed: an id, a role, an action and at least one matcher"),
    (ROOT, "override", "In a site's own file: changes a shipped rule"),
    (ROOT, "unit", "In a site's own file: whose traffic a client's is"),
    (ROOT, "exempt", "In a site's own file: clients that some rules let through, for a reason, until a day"),
    (ROOT, "profile", "What one instrument asks: role = action, for rules that are not fixed"),
    (ROOT, "egress_dns", "In a site's own file, once: DNS that goes around this resolver"),
    (ROOT, "use_profile", "In a site's own file: the profile in force"),
    (ROOT, "test", "What must hold, or the policy is refused"),
    ("ban", "id", "A lower-case word of at most 32 bytes"),
    ("ban", "vendor", "The vendor's name"),
    ("ban", "reviewed", "When the facts were last checked"),
    (
        "ban",
        "ede",
        "The extended DNS error of blocked answers (RFC 8914): blocked (15, the operator's choice), censored (16, an outside order), filtered (17)",
    ),
    ("instrument", "id", "Its name in policies and reports"),
    ("instrument", "title", "Its title"),
    ("instrument", "citation", "Where it is published"),
    ("instrument", "effective", "The day from which it holds"),
    ("rule", "id", "Stable: it stands in every event, answer and counter"),
    ("rule", "role", "A lower-case word that profiles speak of, such as update"),
    ("rule", "action", "block, log (recorded and let through) or allow (an exception)"),
    ("rule", "answer", "How a blocked name is answered; null and addresses answer other types with NODATA"),
    ("rule", "ttl_secs", "TTL of the blocked answer in seconds; 60 unless said otherwise"),
    ("rule", "packet", "What a blocked packet meets"),
    ("rule", "fixed", "true: weak or foreign evidence, no profile changes its action"),
    ("rule", "hosts", "Exactly these names"),
    ("rule", "domains", "These names and all below them"),
    ("rule", "globs", "Names in which * stands for characters inside one label"),
    ("rule", "patterns", "Regular expressions over the labels left of a name"),
    ("rule", "networks", "Networks in CIDR notation"),
    ("rule", "ports", "tcp/443 or udp/443: narrows networks"),
    ("rule", "learn", "true: addresses answered for the names are matched too, for their TTL"),
    ("rule", "source", "Where an auditor can look it up"),
    ("rule", "confidence", "How sure the source is"),
    ("rule", "note", "For people"),
    ("patterns", "under", "The name whose left side the expression describes"),
    ("patterns", "match", "A regular expression over all labels left of it, anchored at both ends"),
    ("answer", "a", "The IPv4 address that A questions get"),
    ("answer", "aaaa", "The IPv6 address that AAAA questions get"),
    ("override", "rule", "The id of the rule to change"),
    ("override", "action", "Its action here"),
    ("override", "answer", "Its answer here"),
    ("override", "ttl_secs", "Its TTL here"),
    ("override", "packet", "What its packets meet here"),
    ("unit", "id", "A lower-case word: it stands in every event of its clients"),
    ("unit", "title", "For reports"),
    ("unit", "networks", "Its clients; the longest prefix wins"),
    ("unit", "privacy", "What the record says of them: full (addresses; default), pseudonym or none"),
    ("exempt", "id", "Its name in the register, in events and in reports"),
    ("exempt", "clients", "Whom it is for; none wider than an IPv4 /24 or an IPv6 /64"),
    ("exempt", "rules", "The ids of the rules that do not stop them"),
    ("exempt", "reason", "Why"),
    ("exempt", "approved_by", "Who said so"),
    ("exempt", "expires", "The last day on which it stands, in UTC, or the moment at which it ends"),
    ("profile", "legal_basis", "The ids of the instruments that ask for it"),
    ("profile", "", "The action for every rule of this role that is not fixed"),
    ("egress_dns", "plain", "Other names asked of foreign resolvers on port 53"),
    ("egress_dns", "dot", "TCP and UDP to port 853 of addresses that are not ours"),
    ("egress_dns", "doh", "Known public DoH servers"),
    ("egress_dns", "unjudged", "What the kernel could not judge"),
    ("egress_dns", "resolvers", "Resolvers that are ours too"),
    ("test", "name", "What it says, in words"),
    ("test", "ask", "A name, an address, or address:port/proto such as [::1]:443/tcp"),
    ("test", "client", "For whom"),
    ("test", "at", "When, instead of now"),
    ("test", "expect", "The verdict that must come out"),
    ("test", "rule", "The id of the rule that must decide"),
];

/// The schema (JSON Schema draft 7, which editors of TOML understand).
pub fn schema() -> Value {
    let asked = asked();
    let tables: BTreeSet<&str> =
        asked.iter().map(|asked| asked.table).filter(|table| *table != ROOT).collect();
    let definitions: Map<String, Value> =
        tables.into_iter().map(|table| (table.to_owned(), object(table, &asked))).collect();
    let mut schema = json!({
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "interdict policy file, format 1",
    });
    let Value::Object(root) = object(ROOT, &asked) else { unreachable!("a table is an object") };
    let fields = schema.as_object_mut().expect("it was made as an object");
    fields.extend(root);
    fields.insert("definitions".into(), definitions.into());
    schema
}

/// Everything that the reader asks for.
fn asked() -> Vec<Asked> {
    let asked = Document::asked_of(SPECIMEN, &mut Problems::default());
    assert!(!asked.is_empty(), "the specimen is TOML");
    asked
}

fn object(table: &str, asked: &[Asked]) -> Value {
    let of_table: Vec<&Asked> = asked.iter().filter(|asked| asked.table == table).collect();
    let mut kinds: BTreeMap<&str, Vec<&Wanted>> = BTreeMap::new();
    let mut required = BTreeSet::new();
    for Asked { key, what, .. } in of_table {
        match what {
            Wanted::Something => {
                required.insert(*key);
            }
            what if !kinds.entry(key).or_default().contains(&what) => {
                kinds.entry(key).or_default().push(what)
            }
            _ => {}
        }
    }
    let mut properties = Map::new();
    let mut others = Value::Bool(false);
    for (key, kinds) in &kinds {
        let mut value = any_of(key, kinds, asked);
        value["description"] = help(table, key).into();
        match *key {
            "" => others = value,
            "*" => {}
            key => {
                properties.insert(key.to_owned(), value);
            }
        }
    }
    // Some that are asked for are no keys, such as "matcher": one of several.
    let required: Vec<&str> = required.into_iter().filter(|key| properties.contains_key(*key)).collect();
    json!({ "type": "object", "properties": properties, "required": required, "additionalProperties": others })
}

fn any_of(key: &str, kinds: &[&Wanted], asked: &[Asked]) -> Value {
    // A word is read as a text first.
    let words = kinds.iter().any(|kind| matches!(kind, Wanted::Word(_)));
    let kinds: Vec<Value> = kinds
        .iter()
        .filter(|kind| !(words && ***kind == Wanted::Text))
        .map(|kind| one(key, kind, asked))
        .collect();
    match kinds.as_slice() {
        [one] => one.clone(),
        several => json!({ "anyOf": several }),
    }
}

fn one(key: &str, wanted: &Wanted, asked: &[Asked]) -> Value {
    let reference = || json!({ "$ref": format!("#/definitions/{key}") });
    match wanted {
        Wanted::Something => json!({}),
        Wanted::Text => json!({ "type": "string", "minLength": 1, "maxLength": 4096 }),
        Wanted::Word(words) => json!({ "enum": words }),
        Wanted::Number(max) => json!({ "type": "integer", "minimum": 0, "maximum": max }),
        Wanted::Flag => json!({ "type": "boolean" }),
        Wanted::Date => json!({ "type": "string", "format": "date" }),
        Wanted::Moment => {
            json!({ "anyOf": [{ "type": "string", "format": "date" }, { "type": "string", "format": "date-time" }] })
        }
        Wanted::Texts => json!({ "type": "array", "items": { "type": "string" }, "minItems": 1 }),
        Wanted::Table if asked.iter().any(|asked| asked.table == key && asked.key == "*") => {
            json!({ "type": "object", "additionalProperties": reference() })
        }
        Wanted::Table => json!({ "allOf": [reference()] }),
        Wanted::Tables => json!({ "type": "array", "items": reference() }),
    }
}

fn help(table: &str, key: &str) -> &'static str {
    let found = HELP.iter().find(|(of, known, _)| (*of, *known) == (table, key));
    found.map_or("", |(_, _, help)| help)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_has_a_line_of_help_and_every_line_a_key() {
        let asked: BTreeSet<(&str, &str)> = asked()
            .iter()
            .filter(|asked| asked.what != Wanted::Something && asked.key != "*")
            .map(|asked| (asked.table, asked.key))
            .collect();
        let helped: BTreeSet<(&str, &str)> = HELP.iter().map(|(table, key, _)| (*table, *key)).collect();
        assert_eq!(asked, helped);
    }
}
