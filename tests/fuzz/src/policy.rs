//! What `interdict-policy` reads: policy files, names, and other people's lists.

use interdict_policy::export::{Exported, Format, export};
use interdict_policy::import::{self, List, Prefix, Role, import};
use interdict_policy::lints::lints;
use interdict_policy::{Ask, DomainName, Glob, Name, Source, compile};

/// A policy file is read to problems, each in a line that it has, or to a policy whose canonical form is the same one.
pub fn policy(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let source = Source { name: "p.toml".into(), text: text.into() };
    let compiled = match compile(&[source]) {
        Ok(compiled) => compiled,
        Err(problems) => {
            assert!(!problems.is_empty(), "refused without a word");
            let lines = text.split('\n').count();
            for problem in &problems {
                assert!(
                    problem.at.is_none_or(|(line, column)| line as usize <= lines && column > 0),
                    "{problem}"
                );
                assert!(!problem.to_string().contains(char::is_control), "{problem:?}");
            }
            return;
        }
    };
    for note in compiled.notes.iter().chain(&lints(&compiled)) {
        assert!(!note.to_string().contains(char::is_control), "{note:?}");
    }
    for pattern in compiled.policy.rules().iter().flat_map(|rule| &rule.patterns) {
        let example = pattern.value.example();
        assert!(
            example.is_none_or(|name| name.as_name().is_at_or_below(pattern.value.under())),
            "{pattern:?}"
        );
    }
    Format::ALL
        .into_iter()
        .for_each(|format| opens_with_comments(&export(&compiled.policy, format, 1), format));
    let files = compiled.policy.canonical_files().iter();
    let sources: Vec<Source> =
        files.map(|file| Source { name: file.name.clone(), text: file.text.clone() }).collect();
    let again =
        compile(&sources).unwrap_or_else(|problems| panic!("the canonical form is refused:\n{problems}"));
    assert_eq!(again.policy.digest(), compiled.policy.digest());
}

/// What a format cannot say stands in comments at its top, and nothing in a policy ends one early.
fn opens_with_comments(exported: &Exported, format: Format) {
    let mark = match format {
        Format::Json => return,
        Format::Rpz => ";",
        Format::Nft | Format::Hosts | Format::Unbound | Format::Dnsmasq => "#",
    };
    let head = exported.text.lines().take_while(|line| !line.is_empty());
    let lines: Vec<&str> = head.filter(|line| !line.starts_with(mark)).collect();
    assert!(lines.is_empty(), "{format}: {lines:?}");
}

/// A name, a glob or a question that is read is printed as itself; bytes from the wire are a name that can be shown, or
/// none.
pub fn name(bytes: &[u8]) {
    if let Some(name) = Name::from_wire(bytes) {
        assert!(name.to_string().bytes().all(|byte| byte.is_ascii_graphic()), "{name}");
        assert_eq!(name.labels().count(), name.suffixes().count());
    }
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Ok(name) = text.parse::<DomainName>() {
        assert_eq!(name.to_string().parse(), Ok(name.clone()));
        assert!(Name::from_wire(name.as_name().as_wire()) == Some(name.as_name()));
    }
    if let Ok(glob) = Glob::parse(text) {
        assert_eq!(Glob::parse(&glob.to_string()).as_ref(), Ok(&glob));
        assert!(glob.example().is_none_or(|name| name.as_name().is_at_or_below(glob.fixed())), "{glob}");
    }
    if let Ok(ask) = text.parse::<Ask>() {
        assert_eq!(ask.to_string().parse(), Ok(ask));
    }
}

/// A response policy zone; see [`list`].
pub fn import_rpz(bytes: &[u8]) {
    list(bytes, import::Format::Rpz);
}

/// A hosts file; see [`list`].
pub fn import_hosts(bytes: &[u8]) {
    list(bytes, import::Format::Hosts);
}

/// A list of domains; see [`list`].
pub fn import_domains(bytes: &[u8]) {
    list(bytes, import::Format::Domains);
}

/// A list of networks; see [`list`].
pub fn import_cidrs(bytes: &[u8]) {
    list(bytes, import::Format::Cidrs);
}

/// What a list is made into is a policy in order, and what it leaves out is in lines that it has.
fn list(bytes: &[u8], format: import::Format) {
    let text = String::from_utf8_lossy(bytes);
    let (prefix, role) = (Prefix::of_file("list"), Role::default());
    let imported = import(List { name: "list", text: &text, prefix: &prefix, role: &role }, format);
    let lines = text.split('\n').count();
    for left_out in &imported.left_out {
        assert!(left_out.at.is_none_or(|(line, _)| line as usize <= lines), "{left_out}");
        assert!(!left_out.to_string().contains(char::is_control), "{left_out:?}");
    }
    assert_eq!(imported.text.is_empty(), imported.names + imported.networks == 0);
    if !imported.text.is_empty() {
        let source = Source { name: "list.toml".into(), text: imported.text };
        compile(&[source]).unwrap_or_else(|problems| panic!("the rules made are not in order:\n{problems}"));
    }
}
