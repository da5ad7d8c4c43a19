//! From files to one policy: merge, apply overrides, build the matchers, run the tests.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::fmt;

use jiff::Timestamp;

use crate::document::{Ban, Document, Instrument, Override, Test};
use crate::egress::{self, EgressDns, EgressRules};
use crate::exempt::{Exemption, Exemptions};
use crate::expectation::Ask;
use crate::name::Name;
use crate::names::{GLOBS_LIMIT, NameTable};
use crate::near;
use crate::networks::{NetworkTable, NetworkTableBuilder};
use crate::pattern::PATTERNS_LIMIT;
use crate::policy::Policy;
use crate::print::{CanonicalFile, canonical_files, digest};
use crate::problem::{Code, Place, Problem, Problems, Severity};
use crate::profile::Profile;
use crate::rule::{At, Rule, RuleId, RuleIndex, Service, Verdict};
use crate::unit::{Unit, Units};

/// The text of one policy file.
#[derive(Clone, Debug)]
pub struct Source {
    /// What messages call it: its path, as the user wrote it.
    pub name: String,
    /// Its content.
    pub text: String,
}

/// A policy, and what a person may want to know about it.
#[derive(Debug)]
pub struct Compiled {
    /// The policy.
    pub policy: Policy,
    /// Findings that do not keep it from running.
    pub notes: Problems,
    /// How many `[[test]]` entries passed: all of them.
    pub tests: usize,
    /// The rules by which tests were decided.
    pub tested: BTreeSet<RuleId>,
}

/// What the files do not say: the agent's part in what they mean.
#[derive(Clone, Debug)]
pub struct Options {
    /// The profile in force, which goes before one that a file names. `None` takes that one, or rules as written.
    pub profile: Option<String>,
    /// The moment for which tests without an `at` of their own judge, and after which exemptions that have ended are
    /// noted. The default, 1970, is before every end.
    pub at: Timestamp,
    /// Whether `[egress_dns]` becomes rules ([`crate::EgressRules`]), as it does where DNS is enforced. By default it
    /// does not, so that a policy has the rules that are written.
    pub egress_rules: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self { profile: None, at: Timestamp::UNIX_EPOCH, egress_rules: false }
    }
}

/// Compiles all files into one policy and runs their tests, as they are written: [`compile_with`] the default options.
///
/// # Errors
/// Every problem of every file, in the order of files and lines. Nothing is compiled then.
pub fn compile(sources: &[Source]) -> Result<Compiled, Problems> {
    compile_with(sources, &Options::default())
}

/// Compiles all files into one policy and runs their tests.
///
/// # Errors
/// Every problem of every file, in the order of files and lines. Nothing is compiled then.
pub fn compile_with(sources: &[Source], options: &Options) -> Result<Compiled, Problems> {
    let mut problems = Problems::default();
    let documents: Vec<Option<Document>> = sources
        .iter()
        .enumerate()
        .map(|(i, source)| Document::read(i as u32, &source.name, &source.text, &mut problems))
        .collect();
    let all_read = documents.iter().all(Option::is_some);
    let mut documents: Vec<Document> = documents.into_iter().flatten().collect();
    let as_written =
        options.profile.is_none() && documents.iter().all(|document| document.use_profile.is_none());
    let tests = TestRuns::take(&mut documents, as_written);
    let mut parts = Parts::gather(documents);

    let mut merge = Merge::new(sources, all_read, problems);
    merge.choose_profile(&mut parts, options.profile.as_deref());
    let canonical = canonical_files(&parts);
    let has_rules = !parts.rules.is_empty();
    let policy = merge.policy(parts, canonical, options.egress_rules);
    if all_read && !has_rules && merge.errors.is_empty() {
        merge.whole(
            Code::Empty,
            "no file has a rule",
            "add a [[rule]]; a policy without rules would ban nothing",
        );
    }
    let (mut passed, mut tested) = (0, BTreeSet::new());
    if merge.errors.is_empty() {
        passed = tests.count();
        tested = merge.run_tests(tests, &policy, options.at);
        merge.note_expired(&policy, options.at);
    }
    merge.errors.sort_by_place(&policy.files);
    merge.notes.sort_by_place(&policy.files);
    if merge.errors.is_empty() {
        Ok(Compiled { policy, notes: merge.notes, tests: passed, tested })
    } else {
        Err(merge.errors)
    }
}

/// What the files say, taken apart by table.
#[derive(Default)]
pub(crate) struct Parts {
    pub(crate) bans: Vec<Ban>,
    pub(crate) instruments: Vec<Instrument>,
    pub(crate) rules: Vec<Rule>,
    pub(crate) overrides: Vec<Override>,
    pub(crate) units: Vec<Unit>,
    pub(crate) exemptions: Vec<Exemption>,
    pub(crate) profiles: Vec<Profile>,
    /// Every `[egress_dns]`: one, or it is an error.
    egress_dns: Vec<At<EgressDns>>,
    /// The profiles that files name as the one in force.
    named: Vec<At<String>>,
    /// The profile in force.
    pub(crate) profile: Option<String>,
}

impl Parts {
    fn gather(documents: Vec<Document>) -> Self {
        let mut parts = Self::default();
        for document in documents {
            parts.bans.extend(document.ban);
            parts.instruments.extend(document.instruments);
            parts.rules.extend(document.rules);
            parts.overrides.extend(document.overrides);
            parts.units.extend(document.units);
            parts.exemptions.extend(document.exemptions);
            parts.profiles.extend(document.profiles);
            parts.named.extend(document.use_profile);
            parts.egress_dns.extend(document.egress_dns);
        }
        parts
    }

    pub(crate) fn egress_dns(&self) -> EgressDns {
        self.egress_dns.first().map(|egress| egress.value.clone()).unwrap_or_default()
    }
}

/// The tests of every file, and what they judge.
struct TestRuns(Vec<TestRun>);

struct TestRun {
    tests: Vec<Test>,
    /// A ban's own file, where it is not all there is; the merged policy otherwise.
    alone: Option<Document>,
}

impl TestRuns {
    /// Takes the tests out of the files. A ban's file that is all there is, and runs as written, is the merged policy.
    fn take(documents: &mut [Document], as_written: bool) -> Self {
        let others = documents.len() > 1 || !as_written;
        let runs = documents.iter_mut().filter(|document| !document.tests.is_empty()).map(|document| {
            let tests = std::mem::take(&mut document.tests);
            TestRun { tests, alone: (others && document.ban.is_some()).then(|| document.clone()) }
        });
        Self(runs.collect())
    }

    fn count(&self) -> usize {
        self.0.iter().map(|run| run.tests.len()).sum()
    }
}

/// The work of merging: what was found so far, and the words to say it with.
struct Merge<'s> {
    files: Vec<String>,
    sources: &'s [Source],
    /// Whether every file could be read; if not, what refers to another file is not judged.
    all_read: bool,
    errors: Problems,
    notes: Problems,
}

impl<'s> Merge<'s> {
    fn new(sources: &'s [Source], all_read: bool, errors: Problems) -> Self {
        let files = sources.iter().map(|source| source.name.clone()).collect();
        Self { files, sources, all_read, errors, notes: Problems::default() }
    }

    fn policy(&mut self, mut parts: Parts, canonical: Vec<CanonicalFile>, egress_rules: bool) -> Policy {
        self.refuse_twins("ban", parts.bans.iter().map(|ban| (ban.id.as_str(), ban.place)));
        self.refuse_twins("instrument", parts.instruments.iter().map(|i| (i.id.as_str(), i.place)));
        self.refuse_twins("rule", parts.rules.iter().map(|rule| (rule.id.as_str(), rule.place)));
        self.refuse_twins(
            "override of rule",
            parts.overrides.iter().map(|o| (o.rule.value.as_str(), o.place)),
        );
        self.refuse_twins("unit", parts.units.iter().map(|unit| (unit.id.as_str(), unit.place)));
        self.refuse_twins("exemption", parts.exemptions.iter().map(|e| (e.id.as_str(), e.place)));

        self.refuse_more_than_one("egress_dns", parts.egress_dns.iter().map(|egress| egress.place));
        self.refuse_twin_profiles(&parts.profiles);
        self.check_profiles(&parts);

        let by_id: HashMap<RuleId, usize> =
            parts.rules.iter().enumerate().map(|(i, rule)| (rule.id.clone(), i)).collect();
        apply_profile(&parts.profiles, parts.profile.as_deref(), &mut parts.rules);
        self.apply(&parts.overrides, &mut parts.rules, &by_id);
        self.limit_searches(&parts.rules);
        let egress_dns = parts.egress_dns();
        let written = parts.rules.len();
        let mut files = self.files.clone();
        let egress_rules = match egress_rules {
            true => {
                let built_in = Place { file: files.len() as u32, line: 1, column: 1 };
                let place = parts.egress_dns.first().map_or(built_in, |egress| egress.place);
                files.push(egress::FILE.to_owned());
                egress::add_rules(&egress_dns, place, &mut parts.rules)
            }
            false => EgressRules::default(),
        };
        let (names, networks) = self.tables(&parts.rules, written);
        let units = self.units(parts.units);
        let exemptions = self.exemptions(parts.exemptions, &by_id);
        Policy {
            names,
            networks,
            units,
            exemptions,
            egress_dns,
            egress_rules,
            rules: parts.rules,
            instruments: parts.instruments,
            bans: parts.bans,
            profiles: parts.profiles,
            profile: parts.profile,
            digest: digest(&canonical),
            canonical,
            files,
        }
    }

    /// The profile in force: the one asked for, else the one that a file names.
    fn choose_profile(&mut self, parts: &mut Parts, asked: Option<&str>) {
        self.refuse_more_than_one("use_profile", parts.named.iter().map(|named| named.place));
        let named = parts.named.first();
        let Some(id) = asked.or(named.map(|named| named.value.as_str())) else { return };
        if parts.profiles.iter().any(|profile| profile.id == id) {
            parts.profile = Some(id.to_owned());
            return;
        }
        let (message, help) = no_such_profile(id, &parts.profiles);
        match named.filter(|_| asked.is_none()) {
            Some(named) => self.error(Code::UnknownId, named.place, message, help),
            None => self.whole(Code::UnknownId, &message, &help),
        }
    }

    fn refuse_more_than_one(&mut self, what: &str, mut places: impl Iterator<Item = Place>) {
        let Some(first) = places.next() else { return };
        for place in places {
            let help = format!("once in all files; the other is at {}", self.shown(first));
            self.error(Code::Duplicate, place, format!("{what} stands twice"), help);
        }
    }

    fn refuse_twin_profiles(&mut self, profiles: &[Profile]) {
        let mut seen: HashMap<(&Option<String>, &str), Place> = HashMap::new();
        for profile in profiles {
            if let Some(other) = seen.insert((&profile.ban, &profile.id), profile.place) {
                let message = format!("profile \"{}\" stands twice", profile.id);
                self.error(
                    Code::Duplicate,
                    profile.place,
                    message,
                    format!("the other is at {}", self.shown(other)),
                );
            }
        }
    }

    /// Every role and instrument that a profile names must be there.
    fn check_profiles(&mut self, parts: &Parts) {
        if !self.all_read {
            return;
        }
        let instruments: HashSet<&str> = parts.instruments.iter().map(|i| i.id.as_str()).collect();
        for profile in &parts.profiles {
            let own = parts.rules.iter().filter(|rule| rule.ban == profile.ban);
            let roles: HashSet<&str> = own.map(|rule| rule.role.as_str()).collect();
            for (At { value: role, place }, _) in &profile.actions {
                if !roles.contains(role.as_str()) {
                    let message =
                        format!("no rule beside this profile has the role \"{}\"", role.escape_debug());
                    self.error(
                        Code::UnknownId,
                        *place,
                        message,
                        near::help(role, roles.iter().copied(), "write a rule's role"),
                    );
                }
            }
            for At { value: id, place } in &profile.legal_basis {
                if !instruments.contains(id.as_str()) {
                    let help =
                        near::help(id.as_str(), instruments.iter().copied(), "write an instrument's id");
                    self.error(Code::UnknownId, *place, format!("no instrument is called \"{id}\""), help);
                }
            }
        }
    }

    fn refuse_twins<'a>(&mut self, what: &str, items: impl Iterator<Item = (&'a str, Place)>) {
        let mut seen: HashMap<&str, Place> = HashMap::new();
        for (id, place) in items {
            if let Some(other) = seen.insert(id, place) {
                let message = format!("{what} \"{id}\" stands twice");
                self.error(Code::Duplicate, place, message, format!("the other is at {}", self.shown(other)));
            }
        }
    }

    fn apply(&mut self, overrides: &[Override], rules: &mut [Rule], by_id: &HashMap<RuleId, usize>) {
        for change in overrides {
            let Some(rule) = by_id.get(&change.rule.value).map(|i| &mut rules[*i]) else {
                self.unknown_rule(&change.rule.value, change.rule.place, by_id);
                continue;
            };
            rule.action = change.action.unwrap_or(rule.action);
            rule.answer = change.answer.unwrap_or(rule.answer);
            rule.ttl_secs = change.ttl_secs.unwrap_or(rule.ttl_secs);
            rule.packet = change.packet.unwrap_or(rule.packet);
        }
    }

    /// A rule that no file has; a slip of the finger where a rule of nearly that name is there.
    fn unknown_rule(&mut self, id: &RuleId, place: Place, by_id: &HashMap<RuleId, usize>) {
        if self.all_read {
            let known = by_id.keys().map(RuleId::as_str);
            let help = near::help(id.as_str(), known, "write the id of a rule in one of the files");
            self.error(Code::UnknownId, place, format!("no rule is called \"{id}\""), help);
        }
    }

    fn exemptions(&mut self, list: Vec<Exemption>, by_id: &HashMap<RuleId, usize>) -> Exemptions {
        for rule in list.iter().flat_map(|exemption| &exemption.rules) {
            if !by_id.contains_key(&rule.value) {
                self.unknown_rule(&rule.value, rule.place, by_id);
            }
        }
        Exemptions::new(list, |id| by_id.get(id).map(|i| RuleIndex(*i as u32)))
    }

    /// What each name below a fixed part is tried with has a limit, so that no policy makes decisions slow.
    fn limit_searches(&mut self, rules: &[Rule]) {
        let mut globs: HashMap<Name<'_>, usize> = HashMap::new();
        for At { value: glob, place } in rules.iter().flat_map(|rule| &rule.globs) {
            let count = globs.entry(glob.fixed()).or_default();
            *count += 1;
            if *count == GLOBS_LIMIT + 1 {
                let message = format!("more than {GLOBS_LIMIT} globs end in {}", glob.fixed());
                self.error(
                    Code::TooMuch,
                    *place,
                    message,
                    "use a domain, or globs with more labels right of their last `*`",
                );
            }
        }
        let patterns = rules.iter().flat_map(|rule| &rule.patterns);
        if let Some(first_too_many) = patterns.clone().nth(PATTERNS_LIMIT) {
            let message = format!("the policy has {} patterns", patterns.count());
            let help = format!("at most {PATTERNS_LIMIT}; hosts, domains and globs have no such limit");
            self.error(Code::TooMuch, first_too_many.place, message, help);
        }
    }

    /// The matchers. Of the rules the first so many are written in files; the others give way to any of those.
    fn tables(&mut self, rules: &[Rule], written: usize) -> (NameTable, NetworkTable) {
        let values =
            |rule: &Rule| rule.hosts.len() + rule.domains.len() + rule.globs.len() + rule.patterns.len();
        let mut names = NameTable::with_capacity(rules.iter().map(values).sum());
        let mut networks = NetworkTableBuilder::default();
        let index_of = |i: usize| RuleIndex(i as u32);
        for (i, rule) in rules.iter().enumerate() {
            let index = index_of(i);
            // The last steps of precedence, and the id so that no order of files ever matters.
            let wins = |other: RuleIndex| {
                let other = &rules[other.as_usize()];
                i < written && (rule.action, &rule.id) < (other.action, &other.id)
            };
            let rival = |merge: &mut Self, found: Option<RuleIndex>, value: &dyn fmt::Display, place| {
                if let Some(other) = found.filter(|_| i < written) {
                    merge.rivals(rule, &rules[other.as_usize()], value, place);
                }
            };
            for (i, At { value, place }) in rule.hosts.iter().enumerate() {
                rival(self, names.insert_host(value, (index, i), wins), value, *place);
            }
            for (i, At { value, place }) in rule.domains.iter().enumerate() {
                rival(self, names.insert_domain(value, (index, i), wins), value, *place);
            }
            for (i, At { value, place }) in rule.globs.iter().enumerate() {
                rival(self, names.insert_glob(value, (index, i), wins), value, *place);
            }
            for (i, At { value, place }) in rule.patterns.iter().enumerate() {
                rival(self, names.insert_pattern(value, (index, i), wins), value, *place);
            }
            let services: HashSet<Service> = rule.ports.iter().map(|at| at.value).collect();
            for At { value, place } in &rule.networks {
                if services.is_empty() {
                    rival(self, networks.insert(*value, index, wins), value, *place);
                }
                for service in &services {
                    rival(self, networks.insert_port(*value, *service, index, wins), value, *place);
                }
            }
        }
        (names, networks.build())
    }

    fn units(&mut self, units: Vec<Unit>) -> Units {
        let mut twins = Vec::new();
        let units =
            Units::new(units, |network, other| twins.push((network.clone(), other.id.clone(), other.place)));
        for (At { value, place }, other, other_place) in twins {
            let help = format!("a network belongs to one unit; the other is at {}", self.shown(other_place));
            self.error(Code::Duplicate, place, format!("{value} is also in unit \"{other}\""), help);
        }
        units
    }

    /// Two rules that only the last step of precedence tells apart: an error inside one ban, else a note.
    fn rivals(&mut self, rule: &Rule, other: &Rule, value: &dyn fmt::Display, place: Place) {
        let other_place = self.shown(other.place);
        if rule.id == other.id {
            self.note(
                Code::Duplicate,
                place,
                format!("{value} stands twice in rule \"{}\"", rule.id),
                "remove one",
            );
        } else if rule.ban.is_some() && rule.ban == other.ban {
            let message = format!("{value} is matched by rule \"{}\" in the same way", other.id);
            self.error(
                Code::Conflict,
                place,
                message,
                format!("keep it in one of the two; the other is at {other_place}"),
            );
        } else {
            let winner = if (rule.action, &rule.id) < (other.action, &other.id) { rule } else { other };
            let message = format!(
                "{value} is also in rule \"{}\" at {other_place}; \"{}\" decides",
                other.id, winner.id
            );
            self.note(
                Code::Overlap,
                place,
                message,
                "of two rules alike, allow goes before block before log",
            );
        }
    }

    /// Tests of a ban's file judge that file alone; those of a local file judge the merged policy.
    ///
    /// Returns the rules that decided.
    fn run_tests(&mut self, runs: TestRuns, merged: &Policy, at: Timestamp) -> BTreeSet<RuleId> {
        let mut tested = BTreeSet::new();
        for run in runs.0 {
            let alone = run.alone.map(|document| {
                let parts = Parts::gather(vec![document]);
                Merge::new(self.sources, true, Problems::default()).policy(parts, Vec::new(), false)
            });
            let policy = alone.as_ref().unwrap_or(merged);
            for test in &run.tests {
                let rule = deciding(test, policy);
                tested.extend(rule.map(|index| policy.rule(index).id.clone()));
                if let Some(message) = failure(test, rule, policy, at) {
                    self.error(Code::FailedTest, test.place, message, what_to_do(test, policy));
                }
            }
        }
        tested
    }

    fn note_expired(&mut self, policy: &Policy, at: Timestamp) {
        for exemption in policy.expired(at) {
            let message = format!("exemption \"{}\" ended at {}", exemption.id, exemption.expires);
            self.note(Code::Ended, exemption.place, message, "remove it, or have it approved again");
        }
    }

    fn error(&mut self, code: Code, place: Place, message: String, help: impl Into<String>) {
        let problem = self.problem(Severity::Error, code, place, message, help.into());
        self.errors.push(problem);
    }

    fn note(&mut self, code: Code, place: Place, message: String, help: impl Into<String>) {
        let problem = self.problem(Severity::Note, code, place, message, help.into());
        self.notes.push(problem);
    }

    fn whole(&mut self, code: Code, message: &str, help: &str) {
        let file = self.files.first().cloned().unwrap_or_else(|| "policy".into());
        let (message, help) = (message.to_owned(), help.to_owned());
        self.errors.push(Problem { severity: Severity::Error, code, file, at: None, message, help });
    }

    fn problem(
        &self,
        severity: Severity,
        code: Code,
        place: Place,
        message: String,
        help: String,
    ) -> Problem {
        let file = self.files[place.file as usize].clone();
        Problem { severity, code, file, at: Some((place.line, place.column)), message, help }
    }

    fn shown(&self, place: Place) -> String {
        format!("{}:{}:{}", self.files[place.file as usize], place.line, place.column)
    }
}

fn no_such_profile(id: &str, profiles: &[Profile]) -> (String, String) {
    let ids: BTreeSet<&str> = profiles.iter().map(|profile| profile.id.as_str()).collect();
    let help = match ids.len() {
        0 => "no file has a profile".to_owned(),
        _ => format!("there are: {}", ids.into_iter().collect::<Vec<_>>().join(", ")),
    };
    (format!("no profile is called \"{}\"", id.escape_debug()), help)
}

/// Gives every rule the action that the profile in force asks for.
fn apply_profile(profiles: &[Profile], chosen: Option<&str>, rules: &mut [Rule]) {
    for profile in profiles.iter().filter(|profile| Some(profile.id.as_str()) == chosen) {
        for rule in rules.iter_mut() {
            rule.action = profile.action(rule).unwrap_or(rule.action);
        }
    }
}

/// The rule that decides for what a test asks.
fn deciding(test: &Test, policy: &Policy) -> Option<RuleIndex> {
    match &test.ask {
        Ask::Name(name) => policy.decide_name(name.as_name()).map(|found| found.rule),
        Ask::Address(address, service) => policy.decide_address(*address, *service).map(|found| found.rule),
    }
}

/// What to do about a failed test. One that names a rule by a slip of the finger can never pass.
fn what_to_do(test: &Test, policy: &Policy) -> String {
    let known = policy.rules().iter().map(|rule| rule.id.as_str());
    match test.rule.as_deref().filter(|wanted| known.clone().all(|id| id != *wanted)) {
        Some(wanted) => {
            format!("no rule has that id; {}", near::help(wanted, known, "write the id of a rule"))
        }
        None => "change the rule or the test".to_owned(),
    }
}

/// What a test got instead of what it expects.
fn failure(test: &Test, found: Option<RuleIndex>, policy: &Policy, at: Timestamp) -> Option<String> {
    let verdict =
        found.map_or(Verdict::None, |rule| policy.judge(rule, test.client, test.at.unwrap_or(at)).verdict);
    let rule = found.map(|index| policy.rule(index));
    let right_rule =
        test.rule.as_deref().is_none_or(|wanted| rule.is_some_and(|rule| rule.id.as_str() == wanted));
    if verdict == test.expect && right_rule {
        return None;
    }
    let got = rule.map_or(String::new(), |rule| format!(" by rule \"{}\"", rule.id));
    let wanted =
        test.rule.as_deref().map_or(String::new(), |rule| format!(" by rule \"{}\"", rule.escape_debug()));
    let name = test.name.escape_debug();
    Some(format!("test \"{name}\" fails: {} is {verdict}{got}, not {}{wanted}", test.ask, test.expect))
}
