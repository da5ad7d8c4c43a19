//! The TOML shape of one policy file: every table that exists is named here. The keys of `[[unit]]` and of other words
//! that have a file of their own are read there.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use jiff::Timestamp;
use toml::value::Date;

use crate::egress::{self, EgressDns};
use crate::exempt::{self, Exemption};
use crate::expectation::Ask;
use crate::pattern::Pattern;
use crate::problem::{Place, Problems};
use crate::profile::{self, Profile};
use crate::reading::{Asked, Reader, Table, read_toml};
use crate::rule::{Action, Answer, At, Confidence, Ede, PacketAnswer, Rule, RuleId, Verdict};
use crate::unit::{self, Unit};
use crate::values::{Word, read_glob, read_name, read_network, read_service, shortened};

/// What the root table is called in messages.
pub(crate) const ROOT: &str = "a policy file";
/// Largest policy file in bytes.
pub const FILE_LIMIT_BYTES: u64 = 64 << 20;
/// Longest TTL of a blocked answer in seconds: one day.
pub(crate) const TTL_LIMIT_SECS: u32 = 86_400;
/// TTL of a blocked answer where a rule says none.
const TTL_DEFAULT_SECS: u32 = 60;

/// One policy file, read and checked by itself.
#[derive(Clone, Debug, Default)]
pub(crate) struct Document {
    pub(crate) ban: Option<Ban>,
    pub(crate) instruments: Vec<Instrument>,
    pub(crate) rules: Vec<Rule>,
    pub(crate) overrides: Vec<Override>,
    pub(crate) units: Vec<Unit>,
    pub(crate) exemptions: Vec<Exemption>,
    pub(crate) profiles: Vec<Profile>,
    /// `use_profile`: the profile in force, where whoever compiles names none. The canonical form has it.
    pub(crate) use_profile: Option<At<String>>,
    pub(crate) egress_dns: Option<At<EgressDns>>,
    pub(crate) tests: Vec<Test>,
}

/// `[ban]`: whose services are banned.
#[derive(Clone, Debug)]
pub(crate) struct Ban {
    pub(crate) id: String,
    pub(crate) place: Place,
    pub(crate) vendor: String,
    pub(crate) reviewed: Option<Date>,
    pub(crate) ede: Ede,
}

/// `[[instrument]]`: a legal basis that a report can cite.
#[derive(Clone, Debug)]
pub struct Instrument {
    /// Its name in this policy.
    pub id: String,
    pub(crate) place: Place,
    pub(crate) ban: Option<String>,
    /// Its title.
    pub title: String,
    /// Where it is published.
    pub citation: String,
    /// The day from which it holds, `YYYY-MM-DD`.
    pub effective: Date,
}

/// `[[override]]`: a site's change to a shipped rule.
#[derive(Clone, Debug)]
pub(crate) struct Override {
    pub(crate) rule: At<RuleId>,
    pub(crate) place: Place,
    pub(crate) action: Option<Action>,
    pub(crate) answer: Option<Answer>,
    pub(crate) ttl_secs: Option<u32>,
    pub(crate) packet: Option<PacketAnswer>,
}

/// `[[test]]`: what the policy must decide.
#[derive(Clone, Debug)]
pub(crate) struct Test {
    pub(crate) name: String,
    pub(crate) place: Place,
    pub(crate) ask: Ask,
    pub(crate) client: Option<IpAddr>,
    /// When it is asked; `None` means while the policy is compiled. What is expected of an exemption holds for
    /// longer than the exemption only at a time of its own.
    pub(crate) at: Option<Timestamp>,
    pub(crate) expect: Verdict,
    pub(crate) rule: Option<String>,
}

impl Document {
    /// Reads one file; whatever is wrong with it goes to `problems`. `None` when it is no TOML at all.
    pub(crate) fn read(file: u32, name: &str, text: &str, problems: &mut Problems) -> Option<Self> {
        read_toml(file, name, text, ROOT, problems, document)
    }

    /// What is asked for while a file is read.
    pub(crate) fn asked_of(text: &str, problems: &mut Problems) -> Vec<Asked> {
        let asked = read_toml(0, "", text, ROOT, problems, |r, root| {
            r.asked = Some(Vec::new());
            document(r, root);
            r.asked.take()
        });
        asked.flatten().unwrap_or_default()
    }
}

fn document(r: &mut Reader<'_>, mut root: Table<'_, '_>) -> Document {
    format_one(r, &mut root);
    let ban = root.table(r, "ban").and_then(|table| ban(r, table));
    let local = !root.has("ban");
    let ban_id = ban.as_ref().map(|ban| ban.id.clone());
    let ede = ban.as_ref().map_or(Ede::Blocked, |ban| ban.ede);

    let mut document = Document { ban, ..Document::default() };
    for table in root.tables(r, "instrument") {
        document.instruments.extend(instrument(r, table, &ban_id));
    }
    for table in root.tables(r, "rule") {
        document.rules.extend(rule(r, table, &ban_id, ede));
    }
    for table in root.tables(r, "override") {
        local_only(r, &table, local, "an override");
        document.overrides.extend(override_(r, table));
    }
    for table in root.tables(r, "unit") {
        local_only(r, &table, local, "a unit");
        document.units.extend(unit::read(r, table));
    }
    for table in root.tables(r, "exempt") {
        local_only(r, &table, local, "an exemption");
        document.exemptions.extend(exempt::read(r, table));
    }
    if let Some(table) = root.table(r, "profile") {
        document.profiles = profile::read_all(r, table, &ban_id);
    }
    if let Some(table) = root.table(r, "egress_dns") {
        local_only(r, &table, local, "egress_dns");
        document.egress_dns = Some(egress::read(r, table));
    }
    if let Some(At { value, place }) = root.text(r, "use_profile") {
        if !local {
            let message = "use_profile stands in a file with [ban]".into();
            root.wrong(r, "use_profile", message, "move it to a file without [ban]");
        }
        document.use_profile = Some(At { value: value.to_owned(), place });
    }
    for table in root.tables(r, "test") {
        document.tests.extend(test(r, table));
    }
    root.finish(r);
    document
}

/// What is a site's own business is no part of a ban.
fn local_only(r: &mut Reader<'_>, table: &Table<'_, '_>, local: bool, what: &str) {
    if !local {
        table.wrong(r, "", format!("{what} stands in a file with [ban]"), "move it to a file without [ban]");
    }
}

fn format_one(r: &mut Reader<'_>, root: &mut Table<'_, '_>) {
    if !root.has("format") {
        root.missing(r, "format", "add format = 1 as its first line");
    }
    match root.number(r, "format", u32::MAX) {
        None | Some(1) => {}
        Some(other) => root.wrong(
            r,
            "format",
            format!("format {other} is not known"),
            "this program reads format = 1; a newer file needs a newer interdict",
        ),
    }
}

fn ban(r: &mut Reader<'_>, mut table: Table<'_, '_>) -> Option<Ban> {
    let place = table.place(r);
    let id = table.parsed::<Word>(r, "id", "such as \"kaspersky\"");
    let vendor = table.required_text(r, "vendor");
    let reviewed = table.date(r, "reviewed");
    let ede = table.word(r, "ede", Ede::WORDS).unwrap_or(Ede::Blocked);
    table.finish(r);
    Some(Ban { id: id?.value.0, place, vendor: vendor?.value.to_owned(), reviewed, ede })
}

fn instrument(r: &mut Reader<'_>, mut table: Table<'_, '_>, ban: &Option<String>) -> Option<Instrument> {
    let place = table.place(r);
    let id = table.parsed::<RuleId>(r, "id", "such as \"us-bis-2024\"");
    let title = table.required_text(r, "title");
    let citation = table.required_text(r, "citation");
    if !table.has("effective") {
        table.missing(r, "effective", "add the day from which it holds, such as effective = 2024-09-29");
    }
    let effective = table.date(r, "effective");
    table.finish(r);
    Some(Instrument {
        id: id?.value.to_string(),
        place,
        ban: ban.clone(),
        title: title?.value.to_owned(),
        citation: citation?.value.to_owned(),
        effective: effective?,
    })
}

fn rule(r: &mut Reader<'_>, mut table: Table<'_, '_>, ban: &Option<String>, ede: Ede) -> Option<Rule> {
    let place = table.place(r);
    let id = table.parsed::<RuleId>(r, "id", "such as \"kaspersky-update\"");
    let role = table.parsed::<Word>(r, "role", "one lower-case word, such as \"update\"");
    if !table.has("action") {
        table.missing(r, "action", "add action = \"block\", \"log\" or \"allow\"");
    }
    let action = table.word(r, "action", Action::WORDS);
    let answer = answer(r, &mut table).unwrap_or(Answer::NxDomain);
    let ttl_secs = table.number(r, "ttl_secs", TTL_LIMIT_SECS).unwrap_or(TTL_DEFAULT_SECS);
    let packet = table.word(r, "packet", PacketAnswer::WORDS).unwrap_or(PacketAnswer::Reject);
    let fixed = table.flag(r, "fixed").unwrap_or(false);
    let hosts = table.list(r, "hosts", read_name);
    let domains = table.list(r, "domains", read_name);
    let globs = table.list(r, "globs", read_glob);
    let patterns = patterns(r, &mut table);
    let networks = table.list(r, "networks", read_network);
    let ports = table.list(r, "ports", read_service);
    let learn = table.flag(r, "learn").unwrap_or(false);
    let source = table.text(r, "source").map(|text| text.value.to_owned());
    let confidence = table.word(r, "confidence", Confidence::WORDS).unwrap_or(Confidence::Medium);
    let note = table.text(r, "note").map(|text| text.value.to_owned());

    if !["hosts", "domains", "globs", "patterns", "networks"].iter().any(|key| table.has(key)) {
        table.missing(r, "matcher", "add hosts, domains, globs, patterns or networks");
    }
    if table.has("ports") && !table.has("networks") {
        table.wrong(
            r,
            "ports",
            "ports without networks narrow nothing".into(),
            "add networks, or remove ports",
        );
    }
    let names = ["hosts", "domains", "globs", "patterns"];
    if learn && !names.iter().any(|key| table.has(key)) {
        let message = "there are no names whose addresses could be learned".into();
        table.wrong(r, "learn", message, "add hosts, domains, globs or patterns, or remove learn");
    }
    table.finish(r);
    Some(Rule {
        id: id?.value,
        place,
        ban: ban.clone(),
        role: role?.value.0,
        action: action?,
        answer,
        ttl_secs,
        ede,
        packet,
        fixed,
        hosts,
        domains,
        globs,
        patterns,
        networks,
        ports,
        learn,
        source,
        confidence,
        note,
    })
}

fn patterns(r: &mut Reader<'_>, table: &mut Table<'_, '_>) -> Vec<At<Pattern>> {
    let tables = table.inline_tables(r, "patterns", "{ under = \"example.com\", match = '^s[0-9]+$' }");
    tables.into_iter().filter_map(|table| pattern(r, table)).collect()
}

fn pattern(r: &mut Reader<'_>, mut table: Table<'_, '_>) -> Option<At<Pattern>> {
    let place = table.place(r);
    let under = table.read(r, "under", read_name);
    let text = table.required_text(r, "match");
    let (under, text) = match (under, text) {
        (Some(under), Some(text)) => (under, text.value),
        _ => {
            table.finish(r);
            return None;
        }
    };
    let pattern = Pattern::new(under, text);
    if let Err((message, help)) = &pattern {
        table.wrong(r, "match", format!("\"{}\" is not a pattern: {message}", shortened(text)), help);
    }
    table.finish(r);
    Some(At { value: pattern.ok()?, place })
}

fn override_(r: &mut Reader<'_>, mut table: Table<'_, '_>) -> Option<Override> {
    let place = table.place(r);
    let rule = table.parsed::<RuleId>(r, "rule", "the id of the rule to change");
    let action = table.word(r, "action", Action::WORDS);
    let answer = answer(r, &mut table);
    let ttl_secs = table.number(r, "ttl_secs", TTL_LIMIT_SECS);
    let packet = table.word(r, "packet", PacketAnswer::WORDS);
    if !["action", "answer", "ttl_secs", "packet"].iter().any(|key| table.has(key)) {
        table.missing(r, "change", "add action, answer, ttl_secs or packet");
    }
    table.finish(r);
    Some(Override { rule: rule?, place, action, answer, ttl_secs, packet })
}

fn answer(r: &mut Reader<'_>, table: &mut Table<'_, '_>) -> Option<Answer> {
    if !table.is_table("answer") {
        return table.word(r, "answer", Answer::WORDS);
    }
    let mut addresses = table.table(r, "answer")?;
    let wrong = |what: &str, text: &str| format!("\"{}\" is not {what}", text.escape_debug());
    let a = address::<Ipv4Addr>(r, &mut addresses, "a", |text| wrong("an IPv4 address", text));
    let aaaa = address::<Ipv6Addr>(r, &mut addresses, "aaaa", |text| wrong("an IPv6 address", text));
    if !addresses.has("a") && !addresses.has("aaaa") {
        addresses.missing(r, "address", "add a = \"192.0.2.1\", aaaa = \"2001:db8::1\", or both");
    }
    addresses.finish(r);
    Some(Answer::Addresses { a, aaaa })
}

fn address<A: FromStr>(
    r: &mut Reader<'_>,
    table: &mut Table<'_, '_>,
    key: &'static str,
    wrong: impl Fn(&str) -> String,
) -> Option<A> {
    let text = table.text(r, key)?.value;
    let address = text.parse().ok();
    if address.is_none() {
        table.wrong(r, key, wrong(text), "write one address in quotes");
    }
    address
}

fn test(r: &mut Reader<'_>, mut table: Table<'_, '_>) -> Option<Test> {
    let place = table.place(r);
    let name = table.required_text(r, "name");
    let ask = table.parsed::<Ask>(r, "ask", "a name, an address, or address:port/proto");
    let client = address::<IpAddr>(r, &mut table, "client", |text| {
        format!("\"{}\" is not an address", text.escape_debug())
    });
    let at = table.start_of(r, "at");
    if !table.has("expect") {
        table.missing(r, "expect", "add expect = \"block\", \"log\", \"allow\", \"exempt\" or \"none\"");
    }
    let expect = table.word(r, "expect", Verdict::WORDS);
    if expect == Some(Verdict::Exempt) && !table.has("client") {
        table.wrong(r, "expect", "a test of an exemption has no client".into(), "add client = \"10.9.8.1\"");
    }
    let rule = table.text(r, "rule").map(|text| text.value.to_owned());
    table.finish(r);
    Some(Test { name: name?.value.to_owned(), place, ask: ask?.value, client, at, expect: expect?, rule })
}
