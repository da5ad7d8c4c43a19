//! Laws of the canonical form, over policies that use every word of the language: it decides the same, has the same
//! digest, and does not depend on how the files were laid out.

use std::net::IpAddr;

use interdict_policy::{Ask, Options, Policy, Source, Timestamp, compile_with, diff};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::{select, subsequence};

/// A table of a policy file: its header and its keys.
#[derive(Clone, Debug)]
struct Table {
    header: String,
    keys: Vec<(&'static str, Value)>,
}

/// A value as TOML text.
#[derive(Clone, Debug)]
enum Value {
    Plain(String),
    List(Vec<String>),
}

/// A policy before it is laid out: the tables of a ban's file and those of local ones.
#[derive(Clone, Debug)]
struct Draft {
    ban: Vec<Table>,
    local: Vec<Table>,
    profile: Option<String>,
}

fn table(header: &str, keys: Vec<(&'static str, Value)>) -> Table {
    Table { header: header.to_owned(), keys }
}

fn text(value: &str) -> Value {
    Value::Plain(format!("{value:?}"))
}

fn texts<T: AsRef<str>>(values: &[T]) -> Value {
    Value::List(values.iter().map(|value| format!("{:?}", value.as_ref())).collect())
}

fn matcher() -> impl Strategy<Value = (&'static str, Value)> {
    let some = |values: &'static [&'static str]| subsequence(values.to_vec(), 1..values.len());
    prop_oneof![
        some(&["a", "b.a", "c.b.a", "bücher.a"]).prop_map(|v| ("hosts", texts(&v))),
        some(&["a", "b.a", "c.b.a"]).prop_map(|v| ("domains", texts(&v))),
        some(&["*.a", "b*.a", "*.b.a"]).prop_map(|v| ("globs", texts(&v))),
        some(&[
            "{ under = 'a', match = 'b|c' }",
            "{ match = '^.*\\\\.\"$', under = 'b.a' }",
            "{ under = 'b.a', match = '[a-z]+' }"
        ])
        .prop_map(|v| ("patterns", Value::List(v.into_iter().map(str::to_owned).collect()))),
        some(&["192.0.2.0/24", "192.0.2.0/28", "2001:db8::/32", "0.0.0.0/0"])
            .prop_map(|v| ("networks", texts(&v))),
    ]
}

fn action() -> impl Strategy<Value = &'static str> {
    select(vec!["allow", "block", "log"])
}

fn rule(id: String, role: &'static str, matcher: (&'static str, Value)) -> impl Strategy<Value = Table> {
    let answer = option::of(select(vec![
        "\"refused\"",
        "\"null\"",
        "{ a = \"192.0.2.1\" }",
        "{ aaaa = \"::\", a = \"0.0.0.0\" }",
    ]));
    let note = option::of(select(vec!["plain", "\"quoted\" \\ and\ttabbed", "two\nlines", "ünïcode \u{7f}"]));
    let ports = option::of(subsequence(vec!["tcp/443", "udp/443", "tcp/80"], 1..3));
    (action(), any::<bool>(), any::<bool>(), answer, note, ports, 0..3u32).prop_map(
        move |(action, fixed, learn, answer, note, ports, ttl)| {
            let mut keys = vec![
                ("id", text(&id)),
                ("role", text(role)),
                ("action", text(action)),
                ("fixed", Value::Plain(fixed.to_string())),
                ("ttl_secs", Value::Plain(["0", "60", "0x3c"][ttl as usize].into())),
                matcher.clone(),
            ];
            if matcher.0 == "networks" {
                keys.extend(ports.map(|ports| ("ports", texts(&ports))));
            } else {
                keys.push(("learn", Value::Plain(learn.to_string())));
            }
            keys.extend(answer.map(|answer| ("answer", Value::Plain(answer.to_owned()))));
            keys.extend(note.map(|note| ("note", Value::Plain(format!("\"{}\"", escaped(note))))));
            table("[[rule]]", keys)
        },
    )
}

fn escaped(text: &str) -> String {
    text.chars()
        .map(|c| match c {
            '"' | '\\' => format!("\\{c}"),
            c if c.is_control() => format!("\\u{:04x}", u32::from(c)),
            c => c.to_string(),
        })
        .collect()
}

/// Two rules of the ban, which share no name, and up to four local ones.
fn rules() -> impl Strategy<Value = (Vec<Table>, Vec<Table>)> {
    let ban = (
        rule("v-update".into(), "update", ("domains", texts(&["update.b.a"]))),
        rule("v-mail".into(), "mail", ("networks", texts(&["198.51.100.0/24"]))),
    );
    let local = vec(matcher(), 1..5).prop_flat_map(|matchers| {
        matchers
            .into_iter()
            .enumerate()
            .map(|(i, matcher)| rule(format!("r{i}"), "own", matcher).boxed())
            .collect::<Vec<_>>()
    });
    (ban.prop_map(|(update, mail)| vec![update, mail]), local)
}

/// At most three units, each network in one of them or in none.
fn units() -> impl Strategy<Value = Vec<Table>> {
    const NETWORKS: [&str; 5] = ["10.0.0.0/8", "10.1.0.0/16", "10.1.2.0/24", "2001:db8::/32", "10.1.2.3/32"];
    vec(0..4usize, NETWORKS.len()).prop_map(|owners| {
        let of = |unit| -> Vec<&str> {
            NETWORKS
                .iter()
                .zip(&owners)
                .filter(|(_, owner)| **owner == unit)
                .map(|(network, _)| *network)
                .collect()
        };
        let units = ["hq", "lab", "shop"].into_iter().enumerate();
        units
            .filter(|(i, _)| !of(*i).is_empty())
            .map(|(i, id)| {
                table(
                    "[[unit]]",
                    vec![("id", text(id)), ("title", text("A \"unit\"")), ("networks", texts(&of(i)))],
                )
            })
            .collect()
    })
}

fn exemptions() -> impl Strategy<Value = Vec<Table>> {
    let one = (
        subsequence(vec!["10.1.2.0/24", "10.1.2.3/32", "2001:db8::/64"], 1..3),
        subsequence(vec!["v-update", "v-mail", "r0"], 1..3),
        select(vec!["2026-01-01", "2026-06-01T12:00:00+05:30", "2027-01-01T00:00:00.5Z"]),
    );
    vec(one, 0..4).prop_map(|list| {
        let tables = list.into_iter().enumerate().map(|(i, (clients, rules, expires))| {
            table(
                "[[exempt]]",
                vec![
                    ("id", text(&format!("e{i}"))),
                    ("clients", texts(&clients)),
                    ("rules", texts(&rules)),
                    ("reason", text("analysis")),
                    ("approved_by", text("CISO")),
                    ("expires", Value::Plain(expires.to_owned())),
                ],
            )
        });
        tables.collect()
    })
}

fn overrides() -> impl Strategy<Value = Vec<Table>> {
    subsequence(vec!["v-update", "v-mail", "r0"], 0..3).prop_flat_map(|rules| {
        rules
            .into_iter()
            .map(|rule| {
                action()
                    .prop_map(move |action| {
                        table("[[override]]", vec![("rule", text(rule)), ("action", text(action))])
                    })
                    .boxed()
            })
            .collect::<Vec<_>>()
    })
}

fn egress_dns() -> impl Strategy<Value = Vec<Table>> {
    let words = (
        select(vec!["allow", "log", "redirect", "block"]),
        select(vec!["allow", "log", "block"]),
        option::of(select(vec!["allow", "log", "block"])),
        subsequence(vec!["10.1.0.53", "10.1.0.54", "2001:db8::53"], 0..3),
    );
    option::of(words).prop_map(|words| {
        let tables = words.map(|(plain, dot, doh, resolvers)| {
            let mut keys = vec![("plain", text(plain)), ("dot", text(dot))];
            keys.extend(doh.map(|doh| ("doh", text(doh))));
            if !resolvers.is_empty() {
                keys.push(("resolvers", texts(&resolvers)));
            }
            table("[egress_dns]", keys)
        });
        tables.into_iter().collect()
    })
}

fn draft() -> impl Strategy<Value = Draft> {
    let profile = (action(), action(), option::of(select(vec!["strict", "other"])));
    (rules(), units(), exemptions(), overrides(), egress_dns(), profile).prop_map(
        |((mut ban, mut local), units, exemptions, overrides, egress_dns, (update, mail, profile))| {
            ban.push(table(
                "[ban]",
                vec![
                    ("id", text("v")),
                    ("vendor", text("V")),
                    ("reviewed", Value::Plain("2026-11-23".into())),
                ],
            ));
            ban.push(table(
                "[[instrument]]",
                vec![
                    ("id", text("law")),
                    ("title", text("T")),
                    ("citation", text("C")),
                    ("effective", Value::Plain("2024-09-29".into())),
                ],
            ));
            ban.push(table(
                "[profile.strict]",
                vec![("legal_basis", texts(&["law"])), ("update", text(update)), ("mail", text(mail))],
            ));
            local.push(table("[profile.other]", vec![("own", text(update))]));
            local.extend(units.into_iter().chain(exemptions).chain(overrides).chain(egress_dns));
            Draft { ban, local, profile: profile.map(str::to_owned) }
        },
    )
}

/// Small steps of chance for the layout, which says nothing.
struct Chance(u64);

impl Chance {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % n.max(1)
    }

    fn shuffled<T: Clone>(&mut self, items: &[T]) -> Vec<T> {
        let mut items = items.to_vec();
        for i in (1..items.len()).rev() {
            items.swap(i, self.below(i + 1));
        }
        items
    }
}

/// Writes a table with its keys and list entries in any order, with comments, spaces and blank lines between.
fn write(out: &mut String, table: &Table, chance: &mut Chance) {
    let comment = ["", "  # a comment", " "];
    *out += &format!(
        "{}\n{}{}\n",
        ["", "\n", "# before\n"][chance.below(3)],
        table.header,
        comment[chance.below(3)]
    );
    for (key, value) in chance.shuffled(&table.keys) {
        let key = [key.to_owned(), format!("\"{key}\""), format!("  '{key}'  ")][chance.below(3)].clone();
        let value = match value {
            Value::Plain(text) => text,
            Value::List(values) => {
                let between = [", ", ",\n\n  ", ", # why\n"][chance.below(3)];
                format!("[{}{}]", chance.shuffled(&values).join(between), ["", " ", ",\n"][chance.below(3)])
            }
        };
        *out += &format!("{key}{}= {value}{}\n", ["", " ", "\t"][chance.below(3)], comment[chance.below(3)]);
    }
}

/// Lays a policy out: the ban's file, and its local tables spread over one to three files.
fn files(draft: &Draft, seed: u64) -> Vec<Source> {
    let chance = &mut Chance(seed);
    let mut texts = vec![String::new(); 2 + chance.below(3)];
    for table in chance.shuffled(&draft.ban) {
        write(&mut texts[0], &table, chance);
    }
    for table in chance.shuffled(&draft.local) {
        let file = 1 + chance.below(texts.len() - 1);
        write(&mut texts[file], &table, chance);
    }
    let texts = texts.into_iter().enumerate();
    let sources: Vec<Source> = texts
        .map(|(i, text)| Source { name: format!("{i}.toml"), text: format!("# first\nformat = 1\n{text}") })
        .collect();
    chance.shuffled(&sources)
}

fn compiled(sources: &[Source], profile: Option<&str>) -> Policy {
    let options = Options { profile: profile.map(str::to_owned), ..Options::default() };
    let shown =
        || sources.iter().map(|source| format!("--- {}\n{}", source.name, source.text)).collect::<String>();
    compile_with(sources, &options).unwrap_or_else(|problems| panic!("{problems}\n{}", shown())).policy
}

/// Everything that a policy says about some names, addresses, clients and moments.
fn sayings(policy: &Policy) -> Vec<String> {
    let asks = [
        "a",
        "b.a",
        "c.b.a",
        "x.c.b.a",
        "xn--bcher-kva.a",
        "update.b.a",
        "192.0.2.1",
        "192.0.2.20:443/tcp",
        "198.51.100.1",
        "2001:db8::1",
    ];
    let clients =
        ["10.1.2.3", "10.1.2.4", "10.1.9.9", "2001:db8::1"].map(|client| client.parse::<IpAddr>().unwrap());
    let times =
        ["2026-01-01T23:59:59Z", "2026-06-01T06:30:00Z", "2027-01-01T00:00:00Z", "2027-01-01T00:00:01Z"]
            .map(|at| at.parse::<Timestamp>().unwrap());
    let mut said = vec![format!("{:?} {:?}", policy.profile(), policy.next_expiry(times[0]))];
    let egress = policy.egress_dns();
    let resolvers: Vec<bool> =
        ["10.1.0.53", "2001:db8::53"].iter().map(|r| egress.is_resolver(r.parse().unwrap())).collect();
    said.push(format!(
        "{:?} {:?} {:?} {:?} {resolvers:?}",
        egress.plain, egress.dot, egress.doh, egress.unjudged
    ));
    said.extend(
        clients
            .map(|client| format!("{client} {:?}", policy.unit(client).map(|unit| (&unit.id, &unit.title)))),
    );
    for ask in asks.map(|ask| ask.parse::<Ask>().unwrap()) {
        let found = match &ask {
            Ask::Name(name) => policy.decide_name(name.as_name()).map(|found| found.rule),
            Ask::Address(address, service) => {
                policy.decide_address(*address, *service).map(|found| found.rule)
            }
        };
        let Some(index) = found else {
            said.push(format!("{ask} none"));
            continue;
        };
        let rule = policy.rule(index);
        said.push(format!(
            "{ask} {} {} {} {} {:?}",
            rule.id, rule.answer, rule.ttl_secs, rule.learn, rule.note
        ));
        for client in clients {
            for at in times {
                let judgement = policy.judge(index, Some(client), at);
                said.push(format!(
                    "{ask} {client} {at} {} {:?}",
                    judgement.verdict,
                    judgement.exemption.map(|e| &e.id)
                ));
            }
        }
    }
    said
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn the_canonical_form_says_the_same(draft in draft(), seed in any::<u64>()) {
        let policy = compiled(&files(&draft, seed), draft.profile.as_deref());
        let canonical = policy.canonical_files();
        let sources: Vec<Source> =
            canonical.iter().map(|file| Source { name: file.name.clone(), text: file.text.clone() }).collect();
        let again = compiled(&sources, None);
        prop_assert_eq!(again.digest(), policy.digest());
        prop_assert_eq!(again.canonical_files(), canonical);
        prop_assert_eq!(sayings(&again), sayings(&policy));
    }

    #[test]
    fn a_policy_does_not_differ_from_itself(draft in draft(), one in any::<u64>(), other in any::<u64>()) {
        let profile = draft.profile.as_deref();
        let (one, other) = (compiled(&files(&draft, one), profile), compiled(&files(&draft, other), profile));
        prop_assert_eq!(diff::differences(&one, &other), vec![]);
        prop_assert_eq!(diff::effects(&one, &other), vec![]);
        prop_assert_eq!(diff::untried(&one, &other), vec![]);
    }

    #[test]
    fn the_layout_of_the_files_changes_nothing(draft in draft(), one in any::<u64>(), other in any::<u64>()) {
        let profile = draft.profile.as_deref();
        let (one, other) = (compiled(&files(&draft, one), profile), compiled(&files(&draft, other), profile));
        prop_assert_eq!(one.canonical_files(), other.canonical_files());
        prop_assert_eq!(one.digest(), other.digest());
        prop_assert_eq!(sayings(&one), sayings(&other));
    }
}
