//! What a person reads when a policy file is wrong: every problem, where it stands, and what to do.

use interdict_policy::{Options, Problems, Source, compile, compile_with};

fn source(name: &str, text: &str) -> Source {
    Source { name: name.into(), text: text.into() }
}

fn problems(files: &[(&str, &str)]) -> String {
    let sources: Vec<Source> = files.iter().map(|(name, text)| source(name, text)).collect();
    match compile(&sources) {
        Ok(_) => String::new(),
        Err(problems) => problems.to_string(),
    }
}

/// The only problem of one file that holds `body` below a correct head.
#[track_caller]
fn check(body: &str, expected: &str) {
    assert_eq!(problems(&[("p.toml", &format!("format = 1\n{body}"))]), expected, "{body}");
}

/// As [`check`], with `lines` inside an otherwise correct rule; they start in line 6.
#[track_caller]
fn check_rule(lines: &str, expected: &str) {
    check(&format!("[[rule]]\nid = \"r\"\nrole = \"x\"\naction = \"block\"\n{lines}\n"), expected);
}

#[test]
fn rules_are_checked_value_by_value() {
    check_rule(
        "networks = [\"10.0.0.0/33\"]",
        "p.toml:6:13: \"10.0.0.0/33\" is not a network: an IPv4 prefix is at most 32 (write it as 192.0.2.0/24 or 2001:db8::/32)",
    );
    check_rule(
        "networks = [\"10.0.0.1/24\"]",
        "p.toml:6:13: \"10.0.0.1/24\" is not a network: it has host bits set (the network is 10.0.0.0/24; write that, or 10.0.0.1/32 for the one address)",
    );
    check_rule(
        "networks = [\"10.0.0.1\"]",
        "p.toml:6:13: \"10.0.0.1\" is not a network: it has no prefix length (10.0.0.1/32)",
    );
    check_rule(
        "networks = [\"::ffff:10.0.0.0/104\"]",
        "p.toml:6:13: \"::ffff:10.0.0.0/104\" is not a network: it is an IPv4 network in IPv6 spelling (write the IPv4 network)",
    );
    check_rule(
        "hosts = [\"*.example\"]",
        "p.toml:6:10: \"*.example\" is not a name: it holds '*'; names hold letters, digits, hyphens and underscores (write names with `*` under globs, and a whole domain under domains)",
    );
    check_rule(
        "globs = [\"a.example\"]",
        "p.toml:6:10: \"a.example\" is not a glob: no label holds `*`; write it under hosts (such as ksn-*.example.com)",
    );
    check_rule("hosts = []", "p.toml:6:9: hosts is empty (name at least one, or leave the key out)");
    check_rule(
        "hosts = [\"a.example\"]\nports = [\"tcp/443\"]",
        "p.toml:7:9: ports without networks narrow nothing (add networks, or remove ports)",
    );
    check_rule(
        "hosts = [\"a.example\"]\nanswer = \"sinkhole\"",
        "p.toml:7:10: answer = \"sinkhole\" is not known (one of: nxdomain, nodata, refused, drop, null)",
    );
    check_rule(
        "hosts = [\"a.example\"]\nanswer = { a = \"::1\" }",
        "p.toml:7:16: \"::1\" is not an IPv4 address (write one address in quotes)",
    );
    check_rule(
        "hosts = [\"a.example\"]\nttl_secs = 86401",
        "p.toml:7:12: ttl_secs = 86401 is out of range (0 to 86400)",
    );
    check_rule(
        "hosts = \"a.example\"",
        "p.toml:6:9: hosts is a text (it must be a list of texts, such as [\"…\", \"…\"])",
    );
    check_rule("", "p.toml:2:1: rule has no matcher (add hosts, domains, globs, patterns or networks)");
}

#[test]
fn a_name_longer_than_253_characters_is_refused() {
    let name = format!("{}.example", ["a"; 124].join("."));
    check_rule(
        &format!("hosts = [\"{name}\"]"),
        &format!(
            "p.toml:6:10: \"{}…\" is not a name: it is 255 characters long; a name has at most 253 (write a name such as example.com)",
            &name[..80]
        ),
    );
}

#[test]
fn unknown_keys_are_errors_everywhere() {
    check_rule(
        "hosts = [\"a.example\"]\nhost = \"b\"",
        "p.toml:7:1: unknown key host in rule (did you mean hosts? Known keys: id, role, action, answer, ttl_secs, packet, fixed, hosts, domains, globs, patterns, networks, ports, learn, source, confidence, note)",
    );
    assert!(
        problems(&[("p.toml", "format = 1\nrules = 1\n")])
            .contains("p.toml:2:1: unknown key rules in a policy file")
    );
}

#[test]
fn all_problems_of_all_files_come_at_once_in_order() {
    let broken = problems(&[
        ("a.toml", "format = 2\n[ban]\nid = \"Big\"\nvendor = \"V\"\n"),
        ("b.toml", "[[rule]]\nid = \"r\"\nrole = \"x\"\naction = \"stop\"\nhosts = [\"a b\"]\n"),
        ("c.toml", "format = 1\nx = = 1\ny = \"\n"),
    ]);
    let places: Vec<&str> = broken.lines().map(|line| line.split(": ").next().unwrap()).collect();
    assert_eq!(
        places,
        [
            "a.toml:1:10",
            "a.toml:3:6",
            "b.toml:1:1",
            "b.toml:4:10",
            "b.toml:5:10",
            "c.toml:2:5",
            "c.toml:2:7",
            "c.toml:3:6"
        ],
        "{broken}"
    );
}

#[test]
fn nothing_is_ever_banned_by_an_empty_policy() {
    assert_eq!(
        problems(&[("p.toml", "format = 1\n")]),
        "p.toml: no file has a rule (add a [[rule]]; a policy without rules would ban nothing)"
    );
    assert_eq!(
        problems(&[("p.toml", "")]),
        "p.toml:1:1: a policy file has no format (add format = 1 as its first line)"
    );
}

const BAN: &str = "format = 1\n[ban]\nid = \"v\"\nvendor = \"V\"\n[[rule]]\nid = \"v-one\"\nrole = \"x\"\naction = \"block\"\ndomains = [\"v.example\"]\nnetworks = [\"192.0.2.0/24\"]\n";

#[test]
fn ids_stand_once_and_overrides_name_a_rule() {
    let again =
        "format = 1\n[[rule]]\nid = \"v-one\"\nrole = \"x\"\naction = \"log\"\nhosts = [\"w.example\"]\n";
    assert_eq!(
        problems(&[("a.toml", BAN), ("b.toml", again)]),
        "b.toml:2:1: rule \"v-one\" stands twice (the other is at a.toml:5:1)"
    );
    assert_eq!(
        problems(&[
            ("a.toml", BAN),
            ("b.toml", "format = 1\n[[override]]\nrule = \"v-two\"\naction = \"log\"\n")
        ]),
        "b.toml:3:8: no rule is called \"v-two\" (there are: v-one)"
    );
    let inside = format!("{BAN}[[override]]\nrule = \"v-one\"\naction = \"log\"\n");
    assert!(problems(&[("a.toml", &inside)]).contains("an override stands in a file with [ban]"));
}

#[test]
fn what_only_the_last_step_decides_is_an_error_in_one_ban_and_a_note_across_files() {
    let twin =
        format!("{BAN}[[rule]]\nid = \"v-two\"\nrole = \"x\"\naction = \"log\"\ndomains = [\"V.example\"]\n");
    assert_eq!(
        problems(&[("a.toml", &twin)]),
        "a.toml:15:12: v.example is matched by rule \"v-one\" in the same way (keep it in one of the two; the other is at a.toml:5:1)"
    );
    let local =
        "format = 1\n[[rule]]\nid = \"mine\"\nrole = \"x\"\naction = \"allow\"\ndomains = [\"v.example\"]\n";
    let compiled = compile(&[source("a.toml", BAN), source("b.toml", local)]).unwrap();
    let notes: Vec<String> = compiled.notes.iter().map(ToString::to_string).collect();
    assert_eq!(
        notes[0],
        "b.toml:6:12: v.example is also in rule \"v-one\" at a.toml:5:1; \"mine\" decides (of two rules alike, allow goes before block before log)"
    );
}

#[test]
fn a_failing_test_refuses_the_policy() {
    let test = "[[test]]\nname = \"n\"\nask = \"x.v.example\"\nexpect = \"log\"\nrule = \"v-one\"\n";
    assert_eq!(
        problems(&[("a.toml", &format!("{BAN}{test}"))]),
        "a.toml:11:1: test \"n\" fails: x.v.example is block by rule \"v-one\", not log by rule \"v-one\" (change the rule or the test)"
    );
    let slip = test.replace("log", "block").replace("v-one", "v-on");
    assert_eq!(
        problems(&[("a.toml", &format!("{BAN}{slip}"))]),
        "a.toml:11:1: test \"n\" fails: x.v.example is block by rule \"v-one\", not block by rule \"v-on\" (no rule has that id; did you mean v-one?)"
    );
}

#[test]
fn a_bans_tests_judge_its_own_file_and_local_tests_the_merged_policy() {
    let ban = format!("{BAN}[[test]]\nname = \"as shipped\"\nask = \"v.example\"\nexpect = \"block\"\n");
    let local = |expect: &str| {
        format!(
            "format = 1\n[[override]]\nrule = \"v-one\"\naction = \"log\"\n[[test]]\nname = \"here\"\nask = \"192.0.2.9:443/tcp\"\nexpect = \"{expect}\"\n"
        )
    };
    assert_eq!(problems(&[("a.toml", &ban), ("b.toml", &local("log"))]), "");
    assert!(problems(&[("a.toml", &ban), ("b.toml", &local("block"))]).contains("192.0.2.9:443/tcp is log"));
}

#[test]
fn a_network_belongs_to_one_unit() {
    let unit = |id: &str, networks: &str| {
        format!("[[unit]]\nid = \"{id}\"\ntitle = \"T\"\nnetworks = [{networks}]\n")
    };
    let local =
        |units: String| format!("{BAN}\n").replace("[ban]\nid = \"v\"\nvendor = \"V\"\n", "") + &units;
    assert_eq!(
        problems(&[("p.toml", &local(unit("hq", "\"10.1.0.0/16\"") + &unit("lab", "\"10.1.0.0/16\"")))]),
        "p.toml:16:13: 10.1.0.0/16 is also in unit \"hq\" (a network belongs to one unit; the other is at p.toml:9:1)"
    );
    assert_eq!(
        problems(&[(
            "p.toml",
            &local(unit("hq", "\"10.1.0.0/16\", \"10.1.0.0/16\"") + &unit("lab", "\"10.1.2.0/24\""))
        )]),
        ""
    );
    assert_eq!(
        problems(&[("p.toml", &local("[[unit]]\nid = \"HQ\"\n".into()))]),
        "p.toml:9:1: unit has no title (add title = \"…\")\n\
         p.toml:9:1: unit has no networks (add networks = [\"10.1.0.0/16\"])\n\
         p.toml:10:6: \"HQ\" must start with a lower-case letter (such as \"hq\")"
    );
    assert_eq!(
        problems(&[("p.toml", &format!("{BAN}{}", unit("hq", "\"10.1.0.0/16\"")))]),
        "p.toml:11:1: a unit stands in a file with [ban] (move it to a file without [ban])"
    );
}

const EXEMPT: &str = r#"[[exempt]]
id = "lab"
clients = ["10.9.8.0/28"]
rules = ["r"]
reason = "sample analysis"
approved_by = "CISO"
expires = 2027-03-31
"#;

const RULE: &str = "[[rule]]\nid = \"r\"\nrole = \"x\"\naction = \"block\"\nhosts = [\"a.example\"]\n";

/// The only problem of a local file with a rule in line 2 and an exemption in line 7, `from` changed `to` something.
#[track_caller]
fn check_exempt(from: &str, to: &str, expected: &str) {
    assert!(from.is_empty() || EXEMPT.contains(from));
    check(&format!("{RULE}{}", EXEMPT.replace(from, to)), expected);
}

#[test]
fn an_exemption_is_for_few_owned_and_ends() {
    check_exempt("expires", "expires", "");
    check_exempt(
        "10.9.8.0/28",
        "10.9.8.0/23",
        "p.toml:9:12: 10.9.8.0/23 is too wide for an exemption (name the clients: at most an IPv4 /24 a line, since no exception is blanket)",
    );
    check_exempt(
        "10.9.8.0/28",
        "2001:db8::/63",
        "p.toml:9:12: 2001:db8::/63 is too wide for an exemption (name the clients: at most an IPv6 /64 a line, since no exception is blanket)",
    );
    check_exempt("10.9.8.0/28", "2001:db8::/64", "");
    check_exempt("\"r\"", "\"q\"", "p.toml:10:10: no rule is called \"q\" (did you mean r?)");
    check_exempt(
        "reason = \"sample analysis\"\n",
        "",
        "p.toml:7:1: exempt has no reason (add reason = \"…\")",
    );
    check_exempt(
        "approved_by = \"CISO\"\n",
        "",
        "p.toml:7:1: exempt has no approved_by (add approved_by = \"…\")",
    );
    check_exempt(
        "expires = 2027-03-31\n",
        "",
        "p.toml:7:1: exempt has no expires (add the last day on which it stands, such as expires = 2027-03-31)",
    );
    for (text, what) in [
        ("2027-03-31T18:00:00", "a date or time"),
        ("\"2027-03-31\"", "a text"),
        ("18:00:00", "a date or time"),
    ] {
        check_exempt(
            "2027-03-31",
            text,
            &format!(
                "p.toml:13:11: expires is {what} (it must be a day such as 2027-03-31, or a time with its offset such as 2027-03-31T18:00:00Z, without quotes)"
            ),
        );
    }
    check_exempt("2027-03-31", "2027-03-31T18:00:00+02:00", "");
    check_exempt("2027-03-31", "9999-12-29", "");
    for day in ["9999-12-31", "1969-12-30", "0000-01-01"] {
        check_exempt("2027-03-31", day, "p.toml:13:11: expires is out of range (1970-01-01 to 9999-12-29)");
    }
    let clients: Vec<String> = (0..257).map(|i| format!("\"10.0.{}.{}/32\"", i / 256, i % 256)).collect();
    check_exempt(
        "\"10.9.8.0/28\"",
        &clients.join(", "),
        "p.toml:9:11: the exemption names 257 networks of clients (at most 256: an exception is for few)",
    );
    assert_eq!(
        problems(&[("p.toml", &format!("{BAN}{}", EXEMPT.replace("\"r\"", "\"v-one\"")))]),
        "p.toml:11:1: an exemption stands in a file with [ban] (move it to a file without [ban])"
    );
    check(
        &format!("{RULE}{EXEMPT}{EXEMPT}"),
        "p.toml:14:1: exemption \"lab\" stands twice (the other is at p.toml:7:1)",
    );
}

#[test]
fn an_unknown_rule_is_answered_with_those_of_nearly_that_name() {
    let rules: String = ["update", "update-geo", "mail"]
        .map(|id| RULE.replace("\"r\"", &format!("\"kaspersky-{id}\"")).replace("a.example", id))
        .concat();
    check(
        &format!("{rules}{}", EXEMPT.replace("\"r\"", "\"kaspersky-updates\"")),
        "p.toml:20:10: no rule is called \"kaspersky-updates\" (did you mean kaspersky-update or kaspersky-update-geo?)",
    );
}

#[test]
fn a_test_of_an_exemption_names_its_client() {
    let test = "[[test]]\nname = \"n\"\nask = \"a.example\"\nexpect = \"exempt\"\n";
    check(
        &format!("{RULE}{test}"),
        "p.toml:10:10: a test of an exemption has no client (add client = \"10.9.8.1\")",
    );
}

#[test]
fn a_profile_names_roles_and_instruments_that_are_there() {
    let profile = |lines: &str| format!("{RULE}[profile.p]\n{lines}\n");
    check(&profile("x = \"log\""), "");
    check(
        &profile("y = \"log\""),
        "p.toml:8:1: no rule beside this profile has the role \"y\" (did you mean x?)",
    );
    check(&profile("x = \"stop\""), "p.toml:8:5: x = \"stop\" is not known (one of: allow, block, log)");
    check(&profile("x = 1"), "p.toml:8:5: x is a number (it must be a text in quotes)");
    check(
        &profile("legal_basis = [\"law\"]"),
        "p.toml:8:16: no instrument is called \"law\" (write an instrument's id)",
    );
    check(
        &format!("{RULE}[profile.P]\n"),
        "p.toml:7:10: \"P\" must start with a lower-case letter (such as [profile.us-federal])",
    );
    check(
        &format!("{RULE}[profile]\np = 1\n"),
        "p.toml:8:5: p is a number (it must be a table, written as [profile.p])",
    );
    assert_eq!(
        problems(&[
            ("a.toml", &format!("format = 1\n{}", profile(""))),
            ("b.toml", "format = 1\n[profile.p]\n")
        ]),
        "b.toml:2:10: profile \"p\" stands twice (the other is at a.toml:7:10)"
    );
}

#[test]
fn an_unknown_profile_is_answered_with_those_there_are() {
    let use_profile = |id: &str| format!("use_profile = \"{id}\"\n{RULE}[profile.one]\n[profile.two]\n");
    check(&use_profile("two"), "");
    check(&use_profile("three"), "p.toml:2:15: no profile is called \"three\" (there are: one, two)");
    let text = format!("format = 1\n{}", use_profile("two"));
    let options = Options { profile: Some("four".into()), ..Options::default() };
    assert_eq!(
        compile_with(&[source("p.toml", &text)], &options).unwrap_err().to_string(),
        "p.toml: no profile is called \"four\" (there are: one, two)"
    );
    assert_eq!(
        problems(&[("a.toml", &text), ("b.toml", "format = 1\nuse_profile = \"one\"\n")]),
        "b.toml:2:15: use_profile stands twice (once in all files; the other is at a.toml:2:15)"
    );
    assert_eq!(
        problems(&[(
            "a.toml",
            &format!("{BAN}[profile.p]\n").replace("[ban]", "use_profile = \"p\"\n[ban]")
        )]),
        "a.toml:2:15: use_profile stands in a file with [ban] (move it to a file without [ban])"
    );
}

#[test]
fn a_pattern_says_what_is_wrong_and_where() {
    check_rule("patterns = [{ under = \"v.example\", match = '^s[0-9]+$' }]", "");
    check_rule(
        "patterns = [{ under = \"v.example\", match = 'a(b' }]",
        "p.toml:6:44: \"a(b\" is not a pattern: at character 2, unclosed group (see the syntax of the regex crate)",
    );
    check_rule(
        "patterns = [{ under = \"v.example\", match = 'x{1000}{1000}' }]",
        "p.toml:6:44: \"x{1000}{1000}\" is not a pattern: it needs more than 64 KiB of memory (use fewer or smaller counts such as {100})",
    );
    check_rule(
        "patterns = [{ under = \"*.example\", match = 'a' }]",
        "p.toml:6:23: \"*.example\" is not a name: it holds '*'; names hold letters, digits, hyphens and underscores (write names with `*` under globs, and a whole domain under domains)",
    );
    check_rule(
        "patterns = [{ match = 'a', over = 'b' }]",
        "p.toml:6:13: patterns has no under (add under = \"…\")\np.toml:6:28: unknown key over in patterns (known keys: under, match)",
    );
    check_rule(
        "patterns = ['^a$']",
        "p.toml:6:13: patterns is a text (it must be a list such as [{ under = \"example.com\", match = '^s[0-9]+$' }])",
    );
    check_rule("patterns = []", "p.toml:6:12: patterns is empty (name at least one, or leave the key out)");
    let many = "{ under = \"v.example\", match = 'a' },".repeat(257);
    let shown = problems(&[(
        "p.toml",
        &format!("format = 1\n{}", RULE.replace("hosts = [\"a.example\"]", &format!("patterns = [{many}]"))),
    )]);
    assert!(
        shown.contains(
            "the policy has 257 patterns (at most 256; hosts, domains and globs have no such limit)"
        ),
        "{shown}"
    );
}

#[test]
fn globs_of_one_fixed_part_are_limited() {
    let globs = |count: usize| {
        let globs: Vec<String> = (0..count).map(|i| format!("\"x{i}-*.v.example\"")).collect();
        format!("{RULE}globs = [{}]\n", globs.join(", "))
    };
    check(&globs(1024), "");
    assert_eq!(
        problems(&[("p.toml", &format!("format = 1\n{}", globs(1025)))]),
        "p.toml:7:20404: more than 1024 globs end in v.example (use a domain, or globs with more labels right of their last `*`)"
    );
}

#[test]
fn egress_dns_stands_once_and_has_its_own_words() {
    let egress = |lines: &str| format!("{RULE}[egress_dns]\n{lines}\n");
    check(&egress("plain = \"redirect\"\nresolvers = [\"10.1.0.53\", \"2001:db8::53\"]"), "");
    for (line, words) in [
        ("plain = \"reject\"", "allow, log, redirect, block"),
        ("dot = \"redirect\"", "allow, log, block"),
        ("doh = \"redirect\"", "allow, log, block"),
        ("unjudged = \"allow\"", "log, block"),
    ] {
        let column = line.find('"').unwrap() + 1;
        check(&egress(line), &format!("p.toml:8:{column}: {line} is not known (one of: {words})"));
    }
    check(
        &egress("resolvers = [\"dns.example\"]"),
        "p.toml:8:14: \"dns.example\" is not an address (such as 10.1.0.53)",
    );
    check(
        &egress("udp = \"log\""),
        "p.toml:8:1: unknown key udp in egress_dns (known keys: plain, dot, doh, unjudged, resolvers)",
    );
    assert_eq!(
        problems(&[
            ("a.toml", &format!("format = 1\n{}", egress(""))),
            ("b.toml", "format = 1\n[egress_dns]\n")
        ]),
        "b.toml:2:1: egress_dns stands twice (once in all files; the other is at a.toml:7:1)"
    );
    assert_eq!(
        problems(&[("a.toml", &format!("{BAN}[egress_dns]\n"))]),
        "a.toml:11:1: egress_dns stands in a file with [ban] (move it to a file without [ban])"
    );
}

#[test]
fn learning_needs_names() {
    check_rule("hosts = [\"a.example\"]\nlearn = true", "");
    check_rule(
        "networks = [\"192.0.2.0/24\"]\nlearn = true",
        "p.toml:7:9: there are no names whose addresses could be learned (add hosts, domains, globs or patterns, or remove learn)",
    );
}

#[test]
fn a_flood_of_problems_is_counted_not_kept() {
    let many = "format = 1\n".to_owned() + &"[[rule]]\n".repeat(Problems::LIMIT);
    let shown = problems(&[("p.toml", &many)]);
    assert_eq!(shown.lines().count(), Problems::LIMIT + 1);
    assert!(shown.ends_with(&format!("and {} more", 3 * Problems::LIMIT)), "{shown}");
}

#[test]
fn a_million_problems_in_one_line_end_in_seconds() {
    const MILLION: usize = 1_000_000;
    let started = std::time::Instant::now();
    let names = vec!["\"!\""; MILLION].join(",");
    let rule = RULE.replace("\"a.example\"", &names);
    let shown = problems(&[("p.toml", &format!("format = 1\n{rule}"))]);
    assert!(shown.ends_with(&format!("\nand {} more", MILLION - Problems::LIMIT)));
    assert_eq!(shown.lines().count(), Problems::LIMIT + 1);
    // Far above what it takes without optimisation, far below what walking the line for each column would.
    assert!(started.elapsed().as_secs() < 120, "{:?}", started.elapsed());
}
