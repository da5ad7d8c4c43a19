//! Whatever a file or a packet holds: reading it neither panics nor takes long, and what is read is what is printed.

use std::time::{Duration, Instant};

use interdict_policy::{Ask, DomainName, Name, Policy, Source, compile};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

fn read(text: impl Into<String>) -> Result<Policy, String> {
    compile(&[Source { name: "p.toml".into(), text: text.into() }])
        .map(|compiled| compiled.policy)
        .map_err(|problems| problems.to_string())
}

/// A TOML string of any text.
fn quoted(text: &str) -> String {
    let escaped = text.chars().map(|c| match c {
        '"' | '\\' => format!("\\{c}"),
        c if c.is_control() => format!("\\U{:08X}", u32::from(c)),
        c => c.to_string(),
    });
    format!("\"{}\"", escaped.collect::<String>())
}

/// Pieces of policy files, which meet more of the reader than letters at random do.
fn pieces() -> impl Strategy<Value = String> {
    const PIECES: &[&str] = &[
        "[[rule]]",
        "[[exempt]]",
        "[[unit]]",
        "[[test]]",
        "[[override]]",
        "[[instrument]]",
        "[ban]",
        "[egress_dns]",
        "[profile.p]",
        "[profile]",
        "id",
        "role",
        "action",
        "hosts",
        "domains",
        "globs",
        "patterns",
        "networks",
        "ports",
        "clients",
        "rules",
        "expires",
        "at",
        "ask",
        "expect",
        "client",
        "answer",
        "use_profile",
        "legal_basis",
        "=",
        "=",
        "=",
        "[",
        "]",
        "{",
        "}",
        ",",
        "\"",
        "'",
        "\"\"\"",
        ".",
        "\n",
        "\n",
        "\n",
        " ",
        "# c",
        "\"r\"",
        "\"block\"",
        "\"x\"",
        "\"a.example\"",
        "\"*.a.example\"",
        "'^a(b'",
        "\"10.0.0.0/8\"",
        "\"tcp/443\"",
        "2027-03-31",
        "1979-05-27T07:32:00Z",
        "07:32:00",
        "true",
        "1",
        "0x1",
        "1e9",
        "nan",
        "under",
        "match",
        "\u{fffd}",
        "\\u0000",
        "\r\n",
    ];
    vec(select(PIECES), 0..60).prop_map(|pieces| pieces.concat())
}

const ALL_FORMS: &str = "format = 1\n[[rule]]\nid = \"r\"\nrole = \"x\"\naction = \"block\"\nhosts = [\"a.example\"]\n\
    domains = [\"b.example\", \"com\"]\nglobs = [\"*.c.example\", \"x*.*y.example\"]\n\
    patterns = [{ under = \"example\", match = '.*[0-9]' }, { under = \"b\", match = '(a|b)+' }]\n";

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2048))]

    #[test]
    fn any_bytes_are_read_to_a_policy_or_to_problems(bytes in vec(any::<u8>(), 0..400)) {
        let text = String::from_utf8_lossy(&bytes);
        let _ = read(text.as_ref());
        let _ = read(format!("format = 1\n{text}"));
    }

    #[test]
    fn any_pieces_are_read_to_a_policy_or_to_problems(text in pieces()) {
        let _ = read(format!("format = 1\n{text}"));
    }

    #[test]
    fn any_text_may_stand_where_a_value_does(text in any::<String>(), short in "[a-z0-9*.:/(){}\\[\\]|+?^$\\\\-]{0,24}") {
        for text in [text, short] {
            let value = quoted(&text);
            let rule = |lines: &str| format!("format = 1\n[[rule]]\nid = \"r\"\nrole = \"x\"\naction = \"log\"\n{lines}\n");
            for key in ["hosts", "domains", "globs", "networks", "ports"] {
                let _ = read(rule(&format!("{key} = [{value}]")));
            }
            let _ = read(rule(&format!("patterns = [{{ under = {value}, match = {value} }}]")));
            let _ = read(rule(&format!("patterns = [{{ under = \"a\", match = {value} }}]")));
            let _ = read(rule(&format!("hosts = [\"a\"]\n[profile.{value}]\n{value} = \"log\"\nlegal_basis = [{value}]")));
            let _ = read(rule(&format!("hosts = [\"a\"]\n{value} = {value}\n[{value}]\n[[unit]]\nid = {value}\nnetworks = [{value}]")));
            let _ = read(rule(&format!("hosts = [\"a\"]\n[[exempt]]\nid = \"e\"\nclients = [{value}]\nrules = [{value}]\nexpires = {text}")));
            let _ = read(rule(&format!("hosts = [\"a\"]\n[[test]]\nname = {value}\nask = {value}\nclient = {value}\nexpect = {value}")));
        }
    }

    #[test]
    fn a_name_that_is_read_is_printed_as_itself(text in any::<String>(), name in "[a-zA-Z0-9_.üßк-]{0,80}") {
        for text in [text, name] {
            if let Ok(name) = text.parse::<DomainName>() {
                prop_assert_eq!(name.to_string().parse::<DomainName>(), Ok(name.clone()));
                prop_assert!(Name::from_wire(name.as_name().as_wire()) == Some(name.as_name()));
            }
            if let Ok(ask) = text.parse::<Ask>() {
                prop_assert_eq!(ask.to_string().parse::<Ask>(), Ok(ask.clone()));
            }
        }
    }

    #[test]
    fn any_bytes_from_the_wire_are_a_name_that_can_be_decided_and_shown_or_none(
        bytes in vec(any::<u8>(), 0..260),
        labels in vec(vec(any::<u8>(), 1..12), 0..20),
    ) {
        let policy = read(ALL_FORMS).unwrap();
        let mut wire: Vec<u8> = labels.iter().flat_map(|label| [&[label.len() as u8], &label[..]].concat()).collect();
        wire.extend(b"\x02ab\x07example\0".iter().skip(usize::from(labels.len() % 2 == 0) * 3));
        wire.make_ascii_lowercase();
        for wire in [bytes, wire] {
            let Some(name) = Name::from_wire(&wire) else { continue };
            if let Some(found) = policy.decide_name(name) {
                prop_assert!(name.is_at_or_below(found.fixed(name)));
                prop_assert!(policy.matched_value(found).is_some());
            }
            prop_assert!(name.to_string().bytes().all(|byte| (0x21..=0x7e).contains(&byte)));
        }
    }
}

#[test]
fn files_made_to_take_long_do_not() {
    const N: usize = 100_000;
    let rule = "format = 1\n[[rule]]\nid = \"r\"\nrole = \"x\"\naction = \"log\"\n";
    for (what, text) in [
        ("nested arrays", format!("{rule}hosts = {}", "[".repeat(N))),
        ("nested tables", format!("{rule}answer = {}", "{ a = ".repeat(N))),
        ("a dotted key", format!("{rule}{}a = 1", "a.".repeat(N))),
        ("a deep header", format!("{rule}[{}a]", "a.".repeat(N))),
        ("unknown keys", format!("{rule}{}", (0..N).map(|i| format!("k{i} = 1\n")).collect::<String>())),
        ("one key again and again", format!("{rule}{}", "hosts = [\"a\"]\n".repeat(N))),
        ("a text without end", format!("{rule}note = \"\"\"{}", "\\\n".repeat(N))),
        ("a long name", format!("{rule}hosts = [\"{}\"]", "a.".repeat(N))),
        ("a long international name", format!("{rule}hosts = [\"{}\"]", "ü".repeat(2000))),
        ("one name again and again", format!("{rule}hosts = [{}]", "\"a.example\",".repeat(N))),
        ("a long glob", format!("{rule}globs = [\"{}\"]", "*a".repeat(31) + ".example")),
        ("nested groups", format!("{rule}patterns = [{{ under = \"a\", match = '{}' }}]", "(".repeat(500))),
        (
            "counts of counts",
            format!("{rule}patterns = [{{ under = \"a\", match = '{}' }}]", "(a|b){9}".repeat(10) + "{9999}"),
        ),
        (
            "many exploding patterns",
            format!("{rule}patterns = [{}]", "{ under = \"a\", match = '(a{1000}){1000}' },".repeat(1000)),
        ),
    ] {
        let started = Instant::now();
        let _ = read(text);
        let took = started.elapsed();
        assert!(took < Duration::from_secs(20), "{what}: {took:?}");
    }
}

#[test]
fn a_pattern_decides_in_time_linear_in_the_name() {
    // What makes a backtracking matcher take years.
    let policy = read(
        "format = 1\n[[rule]]\nid = \"r\"\nrole = \"x\"\naction = \"log\"\n\
         patterns = [{ under = \"b\", match = '(a*)*(a|aa)+(.*a){12}c' }]\n",
    )
    .unwrap();
    let name: DomainName = format!("{}b", format!("{}.", "a".repeat(60)).repeat(4)).parse().unwrap();
    let started = Instant::now();
    for _ in 0..100 {
        assert_eq!(policy.decide_name(name.as_name()), None);
    }
    assert!(started.elapsed() < Duration::from_secs(10), "{:?}", started.elapsed());
}
