//! Every diagnostic of `check` as people see it, whole: text, mark, code and place.
//!
//! The cases stand here, what is said to them in `snapshots/`. After a change: read the difference, and if it is better,
//! run the tests with INSTA_UPDATE=always.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::fs;
use std::path::Path;
use std::process::Command;

use interdict_policy::Code;

use crate::case;
use crate::support::Case;

pub(crate) fn cases() -> Vec<Case> {
    vec![
        case!(what_is_wrong_with_a_value),
        case!(what_is_wrong_with_a_table),
        case!(what_is_wrong_between_tables_and_files),
        case!(what_is_noted),
        case!(what_is_wrong_with_files_on_disk),
        case!(who_else_could_have_written_it, Root),
        case!(every_code_is_in_a_snapshot),
    ]
}

/// Lines inside a rule that is in order but for them.
const IN_A_RULE: &[&str] = &[
    r#"hosts = ["a b.test", "", "a..test"]"#,
    r#"hosts = ["例え.テスト", "例え テスト"]"#,
    r#"hosts = ["aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa.test", "\u202e.test"]"#,
    r#"hosts = "a.test""#,
    r#"hosts = []"#,
    r#"hosts = ["a.test", 1]"#,
    r#"host = ["a.test"]"#,
    r#"domains = ["*.v.test"]"#,
    r#"globs = ["v.test", "v.*", "ü*.test"]"#,
    r#"patterns = [{ under = "v.test", match = 'a(b' }]"#,
    r#"patterns = [{ under = "v.test", match = '(a{100}){1000}' }]"#,
    r#"patterns = [{ under = "v.test", match = 'Dnl' }, { under = "v.test", match = 'ü' }]"#,
    r#"patterns = [{ match = 'a', over = "v.test" }]"#,
    r#"patterns = ['a']"#,
    r#"networks = ["10.0.0.0/33", "10.0.0.1/8", "10.0.0.1", "2001:db8::1", "x/8", "x", "::ffff:10.0.0.0/104"]"#,
    "networks = [\"192.0.2.0/24\"]\nports = [\"tcp/0\", \"443\", \"icmp/1\"]",
    "hosts = [\"a.test\"]\nports = [\"tcp/443\"]",
    "networks = [\"192.0.2.0/24\"]\nlearn = true",
    "hosts = [\"a.test\"]\nlearn = \"yes\"",
    "hosts = [\"a.test\"]\nanswer = \"nxdomian\"",
    "hosts = [\"a.test\"]\nanswer = { a = \"::1\", aaaa = \"192.0.2.1\" }",
    "hosts = [\"a.test\"]\nanswer = {}",
    "hosts = [\"a.test\"]\nanswer = 1",
    "hosts = [\"a.test\"]\nttl_secs = 86401",
    "hosts = [\"a.test\"]\nttl_secs = \"60\"",
    "hosts = [\"a.test\"]\nnote = \"\"",
    "",
];

/// A whole local file, with a rule `r` before it.
const BESIDE_A_RULE: &[&str] = &[
    "[[rule]]",
    "[[rule]]\nid = \"R\"\nrole = \"two words\"\naction = \"stop\"\nhosts = [\"b.test\"]",
    "[rule.x]\nid = \"r\"",
    "[ban]",
    "[ban]\nid = \"Big\"\nvendor = \"V\"\nreviewed = \"2026-11-24\"\nede = \"block\"",
    "[[instrument]]",
    "[[instrument]]\nid = \"law\"\ntitle = \"T\"\ncitation = \"C\"\neffective = 2024",
    "[[override]]",
    "[[override]]\nrule = \"r\"",
    "[[override]]\nrule = \"rr\"\naction = \"log\"",
    "[[unit]]",
    "[[unit]]\nid = \"hq\"\ntitle = \"T\"\nnetworks = [\"10.1.0.1\"]",
    "[[exempt]]",
    "[[exempt]]\nid = \"e\"\nclients = [\"10.0.0.0/8\", \"2001:db8::/32\"]\nrules = [\"q\"]\nreason = \"r\"\napproved_by = \"a\"\nexpires = \"2027-03-31\"",
    "[[exempt]]\nid = \"e\"\nclients = [\"10.0.0.0/28\"]\nrules = [\"r\"]\nreason = \"r\"\napproved_by = \"a\"\nexpires = 1969-01-01",
    "[[exempt]]\nid = \"e\"\nclients = [\"10.0.0.0/28\"]\nrules = [\"q\"]\nreason = \"r\"\napproved_by = \"a\"\nexpires = 2027-01-01",
    "[profile.P]\nx = \"stop\"\ny = \"log\"\nlegal_basis = [\"law\"]",
    "[profile.p]\ny = \"log\"\nlegal_basis = [\"law\"]",
    "[profile]\np = 1",
    "[egress_dns]\nplain = \"drop\"\nresolvers = [\"dns.test\"]\nudp = \"log\"",
    "[[test]]",
    "[[test]]\nname = \"n\"\nask = \"10.0.0.1:443\"\nclient = \"me\"\nexpect = \"exempt\"",
    "[[test]]\nname = \"n\"\nask = \"10.0.0.1:443/icmp\"\nat = 12:00:00\nexpect = \"exempt\"",
    "[[test]]\nname = \"n\"\nask = \"a.test\"\nexpect = \"none\"",
    "[[test]]\nname = \"n\"\nask = \"a.test\"\nexpect = \"block\"\nrule = \"rr\"",
];

const RULE: &str = "[[rule]]\nid = \"r\"\nrole = \"x\"\naction = \"block\"\nhosts = [\"a.test\"]\n";
const BAN: &str = "format = 1\n[ban]\nid = \"v\"\nvendor = \"V\"\n";
const V: &str = "[[rule]]\nid = \"v\"\nrole = \"x\"\naction = \"block\"\nsource = \"Order 42\"\n";
const W: &str = "[[rule]]\nid = \"w\"\nrole = \"x\"\naction = \"log\"\nsource = \"Order 42\"\n";
const TESTED: &str = "[[test]]\nname = \"n\"\nask = \"v.test\"\nexpect = \"block\"\n";

fn what_is_wrong_with_a_value() {
    let rule = |lines: &&str| {
        vec![format!("format = 1\n[[rule]]\nid = \"r\"\nrole = \"x\"\naction = \"block\"\n{lines}\n")]
    };
    snapshot("values", IN_A_RULE.iter().map(rule));
}

fn what_is_wrong_with_a_table() {
    let beside = |lines: &&str| vec![format!("format = 1\n{RULE}{lines}\n")];
    let whole = ["", "format = 1\n", "format = 2\nrules = 1\n", "format = = 1\nx = \"\n", "format = \"1\"\n"];
    let whole = whole.map(|text| vec![text.to_owned()]);
    snapshot("tables", whole.into_iter().chain(BESIDE_A_RULE.iter().map(beside)));
}

fn what_is_wrong_between_tables_and_files() {
    let local = |lines: &str| format!("format = 1\n{lines}");
    let unit = |id: &str| format!("[[unit]]\nid = \"{id}\"\ntitle = \"T\"\nnetworks = [\"10.1.0.0/16\"]\n");
    let globs: Vec<String> = (0..1025).map(|i| format!("\"x{i}-*.v.test\"")).collect();
    let patterns = "{ under = \"v.test\", match = 'a' }, ".repeat(257);
    snapshot(
        "merging",
        [
            vec![local(RULE), local(RULE)],
            vec![format!("{BAN}{V}domains = [\"v.test\"]\n{W}domains = [\"v.test\"]\n")],
            vec![
                local(&format!("use_profile = \"p\"\n{RULE}[profile.p]\n")),
                local("use_profile = \"q\"\n[profile.p]\n"),
            ],
            vec![local(&format!("use_profile = \"q\"\n{RULE}[profile.p]\n"))],
            vec![local(&format!("{RULE}{}{}", unit("hq"), unit("lab")))],
            vec![local(&format!("{RULE}{}{}", unit("hq"), unit("hq")))],
            vec![local(&format!("{RULE}{}", "[[override]]\nrule = \"r\"\naction = \"log\"\n".repeat(2)))],
            vec![local(&format!("{RULE}[egress_dns]\n")), local("[egress_dns]\n")],
            vec![
                format!("use_profile = \"p\"\n{BAN}{V}domains = [\"v.test\"]\n[egress_dns]\n{}", unit("hq"))
                    + "[[override]]\nrule = \"v\"\naction = \"log\"\n"
                    + "[[exempt]]\nid = \"e\"\nclients = [\"10.0.0.0/28\"]\nrules = [\"v\"]\nreason = \"r\"\napproved_by = \"a\"\nexpires = 2027-01-01\n",
            ],
            vec![local(&format!("{}globs = [{}]\n", RULE, globs.join(", ")))],
            vec![local(&format!("{}patterns = [{patterns}]\n", RULE))],
        ],
    );
}

fn what_is_noted() {
    let ended = "[[exempt]]\nid = \"e\"\nclients = [\"10.0.0.0/28\"]\nrules = [\"v\"]\nreason = \"r\"\napproved_by = \"a\"\nexpires = 2001-01-01\n";
    let rule = |v: &str| format!("{BAN}{V}domains = [\"v.test\"]\npacket = \"drop\"\n{v}\n{TESTED}");
    snapshot(
        "notes",
        [
            vec![rule("")],
            vec![rule("hosts = [\"b.test\", \"c.test\", \"b.test\"]")],
            vec![rule(""), format!("format = 1\n{W}domains = [\"v.test\"]\n")],
            vec![rule(""), format!("format = 1\n{ended}")],
            vec![rule("hosts = [\"a.v.test\", \"b.v.test\"]\nglobs = [\"x*.v.test\"]")],
            vec![rule("globs = [\"v*.github.io\"]\npatterns = [{ under = \"co.uk\", match = 'v' }]")],
            vec![rule(
                "networks = [\"10.0.0.0/8\", \"104.16.0.0/24\", \"8.0.0.0/9\", \"9.9.9.0/24\", \"9.9.9.0/28\"]",
            )],
            vec![rule("confidence = \"low\"").replace("Order 42", "rumour")],
            vec![rule("").replace("source = \"Order 42\"\n", "").replace(TESTED, "")],
            vec![rule("note = \"例\"\nhosts = [\"例え.テスト\", \"例え.テスト\"]")],
        ],
    );
}

fn what_is_wrong_with_files_on_disk() {
    let folder = tempfile::TempDir::new().unwrap();
    let at = |name: &str| folder.path().join(name);
    fs::create_dir(at("empty")).unwrap();
    fs::write(at("latin.toml"), b"format = 1 # \xe9\n").unwrap();
    fs::File::create(at("huge.toml")).unwrap().set_len(100 << 20).unwrap();
    fs::write(at("list"), "192.0.2.0/24\n10.0.0.1/8\n\x1b[31m\n").unwrap();
    fs::create_dir_all(at("policy/more")).unwrap();
    fs::write(at("policy/p.toml"), format!("format = 1\n{RULE}")).unwrap();
    std::os::unix::fs::symlink("policy", at("linked")).unwrap();
    snapshot_commands(
        "files",
        folder.path(),
        &[
            &["check", "none.toml", "empty", "latin.toml", "huge.toml", "/dev/null"],
            &["check", "policy"],
            &["check", "linked/p.toml"],
            &["check", "--profile", "p", "policy"],
            &["import", "cidrs", "list", "--json"],
        ],
    );
}

fn who_else_could_have_written_it() {
    use std::os::unix::fs::{PermissionsExt, chown};
    let folder = tempfile::TempDir::new().unwrap();
    let at = |name: &str| folder.path().join(name);
    for (name, owner, group, mode) in
        [("everyone", 0, 0, 0o646), ("another", 4242, 0, 0o644), ("group", 0, 4242, 0o664)]
    {
        fs::create_dir(at(name)).unwrap();
        let file = at(name).join("p.toml");
        fs::write(&file, format!("format = 1\n{RULE}")).unwrap();
        chown(&file, Some(owner), Some(group)).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(mode)).unwrap();
    }
    fs::create_dir(at("open")).unwrap();
    fs::write(at("open/p.toml"), format!("format = 1\n{RULE}")).unwrap();
    fs::set_permissions(at("open"), fs::Permissions::from_mode(0o757)).unwrap();
    snapshot_commands(
        "trust",
        folder.path(),
        &[&["check", "everyone"], &["check", "another"], &["check", "group"], &["check", "open/p.toml"]],
    );
}

/// What the snapshots hold together.
fn every_code_is_in_a_snapshot() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/snapshots");
    let snapshots =
        fs::read_dir(folder).unwrap().map(|file| fs::read_to_string(file.unwrap().path()).unwrap());
    let all: String = snapshots.collect();
    let shown = |code: &Code| all.contains(&format!("[{code}]", code = code.as_str()));
    let in_json = |code: &Code| all.contains(&format!("\"code\":\"{}\"", code.as_str()));
    let missing: BTreeSet<&str> =
        Code::ALL.iter().filter(|code| !shown(code) && !in_json(code)).map(|code| code.as_str()).collect();
    assert_eq!(missing, BTreeSet::new());
}

/// `check` of each case's files, `1.toml` and so on.
#[track_caller]
fn snapshot(name: &str, cases: impl IntoIterator<Item = Vec<String>>) {
    let mut said = String::new();
    for texts in cases {
        let folder = tempfile::TempDir::new().unwrap();
        let names: Vec<String> = (1..=texts.len()).map(|i| format!("{i}.toml")).collect();
        names.iter().zip(&texts).for_each(|(name, text)| fs::write(folder.path().join(name), text).unwrap());
        let words: Vec<&str> = std::iter::once("check").chain(names.iter().map(String::as_str)).collect();
        said += &run(folder.path(), &words);
    }
    assert_snapshot(name, &said);
}

#[track_caller]
fn snapshot_commands(name: &str, folder: &Path, commands: &[&[&str]]) {
    let said =
        commands.iter().map(|words| format!("$ interdict {}\n{}", words.join(" "), run(folder, words)));
    assert_snapshot(name, &said.collect::<String>());
}

/// What the program says in a folder, and its exit status; without digests, which are not what these tests are about.
fn run(folder: &Path, words: &[&str]) -> String {
    let output =
        Command::new(env!("CARGO_BIN_EXE_interdict")).current_dir(folder).args(words).output().unwrap();
    let said = [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).unwrap()).concat();
    let said = said.replace(&folder.display().to_string(), "FOLDER");
    let mut shown = String::new();
    for line in said.lines() {
        let line = line.split(", digest ").next().unwrap_or_default();
        writeln!(shown, "{line}").expect("writing to a String does not fail");
    }
    let status = output.status.code().expect("no signal ended it");
    format!("{shown}= {status}\n\n")
}

#[track_caller]
fn assert_snapshot(name: &str, said: &str) {
    let mut settings = insta::Settings::clone_current();
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    settings.bind(|| insta::assert_snapshot!(name, said));
}
