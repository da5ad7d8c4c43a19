//! Other people's lists: what becomes of each line, and that what we export comes back as it was.

use interdict_policy::export::{self, export};
use interdict_policy::import::{Format, Imported, List, Prefix, Role, import};
use interdict_policy::{Action, DomainName, Policy, Source, compile};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

fn imported(format: Format, text: &str) -> Imported {
    let prefix = Prefix::of_file("list.txt");
    import(List { name: "list.txt", text, prefix: &prefix, role: &Role::default() }, format)
}

fn compiled(text: &str) -> Policy {
    let source = Source { name: "imported.toml".into(), text: text.into() };
    compile(&[source]).unwrap_or_else(|problems| panic!("{problems}\n{text}")).policy
}

/// The rules that a list becomes, one a line, and the lines that are left out.
#[track_caller]
fn check(format: Format, text: &str, rules: &[&str], left_out: &[&str]) {
    let imported = imported(format, text);
    let told: Vec<String> = imported.left_out.iter().map(ToString::to_string).collect();
    assert_eq!(told, left_out);
    let policy = if imported.text.is_empty() { None } else { Some(compiled(&imported.text)) };
    let shown: Vec<String> = policy
        .iter()
        .flat_map(Policy::rules)
        .map(|rule| {
            let mut shown = format!("{} {}", rule.id, rule.action.as_str());
            if rule.action == Action::Block && rule.networks.is_empty() {
                shown += &format!(" {} {}", rule.answer, rule.ttl_secs);
            }
            rule.hosts.iter().for_each(|at| shown += &format!(" {}", at.value));
            rule.domains.iter().for_each(|at| shown += &format!(" *{}", at.value));
            rule.networks.iter().for_each(|at| shown += &format!(" {}", at.value));
            assert_eq!(rule.source.as_deref(), Some("imported from list.txt"));
            shown
        })
        .collect();
    assert_eq!(shown, rules, "{}", imported.text);
}

#[test]
fn a_policy_zone_is_read_as_servers_read_it() {
    check(
        Format::Rpz,
        "$TTL 2h ; two hours\n\
         @ SOA ns.example. admin.example. ( 1 ; serial\n 3600 600\n 86400 60 )\n\
         \tNS ns.example.\n\
         v.example CNAME .\n*.v.example IN CNAME .\n\
         ok.v.example 60 IN CNAME rpz-passthru.\n\
         ONE.example. 5 CNAME *.\n\
         gone.example IN 5 CNAME rpz-drop.\n\
         sink.example A 192.0.2.80\n AAAA 2001:db8::80\n\
         null.example 60 A 0.0.0.0\nnull.example 60 AAAA ::\n",
        &[
            "list-nxdomain block nxdomain 7200 *v.example",
            "list-allow allow ok.v.example",
            "list-drop block drop 5 gone.example",
            "list-null block null 60 null.example",
            "list-sinkhole block a=192.0.2.80,aaaa=2001:db8::80 7200 sink.example",
        ],
        &[
            "list.txt:9:1: ONE.example. is absolute, and the file does not say what the zone is called (start it with $ORIGIN or an SOA record)",
        ],
    );
}

#[test]
fn owners_are_read_relative_to_the_apex_wherever_it_is_named() {
    for text in [
        "$ORIGIN rpz.local.\n@ SOA a. b. 1 2 3 4 5\nv.example CNAME .\n*.v.example.rpz.local. CNAME .\n",
        "rpz.local. 60 IN SOA a. b. 1 2 3 4 5\nv.example.RPZ.local. 60 IN CNAME .\n*.v.example.rpz.local. 60 IN CNAME .\n",
        "$ORIGIN .\nrpz.local SOA a. b. 1 2 3 4 5\n$ORIGIN example.rpz.local.\nv CNAME .\n$ORIGIN v\n* CNAME .\n",
    ] {
        check(Format::Rpz, &format!("$TTL 60\n{text}"), &["list-nxdomain block nxdomain 60 *v.example"], &[]);
    }
    check(
        Format::Rpz,
        "$ORIGIN rpz.local.\n@ SOA a. b. 1 2 3 4 5\nother.example. CNAME .\nevilrpz.local. CNAME .\n$ORIGIN sub\nv.example CNAME .\n",
        &["list-nxdomain block nxdomain 60 v.example.sub"],
        &[
            "list.txt:3:1: other.example. is outside the zone rpz.local",
            "list.txt:4:1: evilrpz.local. is outside the zone rpz.local",
        ],
    );
}

#[test]
fn what_a_rule_cannot_say_of_a_zone_is_told_line_by_line() {
    check(
        Format::Rpz,
        "a.example CNAME rpz-tcp-only.\n\
         b.example CNAME walled.garden.example.\n\
         c.example CNAME rpz-passthru\n\
         d.example TXT \"a; b\"\n\
         24.0.2.0.192.rpz-ip CNAME .\n\
         32.1.2.0.192.rpz-client-ip CNAME rpz-passthru.\n\
         ns.example.rpz-nsdname CNAME .\n\
         * CNAME .\n\
         @ CNAME .\n\
         a.*.example CNAME .\n\
         f.example A ::1\n\
         $INCLUDE other\n\
         g.example 99999999 CNAME .\n\
         g.example CNAME *.\n\
         h.example 60 A 192.0.2.1\nh.example A 192.0.2.2\n\
         i.example CH CNAME .\n\
         j.example \"CNAME\n\
         k.example CNAME k.example.\n\
         l.example CNAME ( .\n",
        &[
            "list-nxdomain block nxdomain 86400 g.example",
            "list-sinkhole block a=192.0.2.1 60 h.example",
            "list-allow allow k.example",
        ],
        &[
            "list.txt:1:1: rpz-tcp-only has clients ask again over TCP; rules cannot",
            "list.txt:2:1: a rule cannot answer with another name (walled.garden.example.) (write the addresses behind it as A and AAAA)",
            "list.txt:3:1: CNAME rpz-passthru is no action of a policy zone (such as CNAME rpz-passthru. with the final dot)",
            "list.txt:4:1: a rule cannot answer d.example with a record of type TXT (it can with addresses, NXDOMAIN, NODATA or nothing)",
            "list.txt:5:1: rpz-ip judges the addresses in answers; rules do not",
            "list.txt:6:1: rpz-client-ip judges the client; a rule is for all",
            "list.txt:7:1: ns.example.rpz-nsdname judges name servers; rules do not",
            "list.txt:8:1: a rule cannot speak for every name",
            "list.txt:9:1: a rule cannot speak for every name",
            "list.txt:10:1: \"a.*.example\" is not a name: it holds '*'; names hold letters, digits, hyphens and underscores",
            "list.txt:11:1: \"::1\" is not an address for A",
            "list.txt:12:1: $INCLUDE is not read (write its records out)",
            "list.txt:13:1: a TTL of 99999999 seconds is longer than a rule's; 86400 stands there (told once)",
            "list.txt:14:1: g.example stands above already and says otherwise (keep one of them)",
            "list.txt:16:1: h.example has 192.0.2.1 already; an answer has one address of each family (keep one of them)",
            "list.txt:17:1: class CH is not that of the Internet",
            "list.txt:18:1: a quoted text does not end on its line (the record is left out as a whole)",
            "list.txt:20:1: a parenthesis is never closed (all from here on is left out)",
        ],
    );
}

#[test]
fn a_wildcard_without_its_name_leaves_the_name_to_what_is_around_it() {
    check(
        Format::Rpz,
        "*.v.example CNAME .\n*.w.v.example CNAME *.\n*.x.v.example CNAME rpz-passthru.\n",
        &[
            "list-nxdomain block nxdomain 60 w.v.example x.v.example *v.example",
            "list-allow allow v.example *x.v.example",
            "list-nodata block nodata 60 *w.v.example",
        ],
        &[],
    );
}

#[test]
fn a_hosts_file_blocks_names_alone() {
    check(
        Format::Hosts,
        "# a list\r\n127.0.0.1 localhost localhost.localdomain\r\n::1 ip6-localhost\nfe80::1%lo0 localhost\n0.0.0.0 0.0.0.0\n\
         0.0.0.0 a.example B.example # two\n127.0.0.1\tc.example\n192.0.2.80 d.example\n2001:db8::80 d.example\n\
         nonsense e.example\n0.0.0.0\n0.0.0.0 bad!name\n",
        &[
            "list-null block null 60 a.example b.example c.example",
            "list-sinkhole block a=192.0.2.80,aaaa=2001:db8::80 60 d.example",
        ],
        &[
            "list.txt:10:1: \"nonsense\" is not an address (a line is an address and names)",
            "list.txt:11:1: no name stands behind 0.0.0.0 (a line is an address and names)",
            "list.txt:12:1: \"bad!name\" is not a name: it holds '!'; names hold letters, digits, hyphens and underscores",
        ],
    );
    assert_eq!(imported(Format::Hosts, "127.0.0.1 localhost\n::1 localhost ip6-localhost\n").skipped, 3);
}

#[test]
fn a_list_of_domains_bans_what_is_below_them() {
    check(
        Format::Domains,
        "\u{feff}V.example\n.w.example # both ways\n*.x.example\nbücher.example\nfull:y.example\ndomain:z.example\n\
         regexp:^a\n||ads.example^\n192.0.2.1\n! comment\n",
        &[
            "list-nxdomain block nxdomain 60 y.example *v.example *w.example *x.example *z.example *xn--bcher-kva.example",
        ],
        &[
            "list.txt:7:1: \"regexp:^a\" is not a name: it holds ':'; names hold letters, digits, hyphens and underscores (a line is one domain)",
            "list.txt:8:1: \"||ads.example^\" is not a name: it holds '|'; names hold letters, digits, hyphens and underscores (a line is one domain)",
            "list.txt:9:1: 192.0.2.1 is an address, not a name (import networks with cidrs)",
        ],
    );
}

#[test]
fn a_list_of_networks_becomes_one_rule() {
    check(
        Format::Cidrs,
        "192.0.2.0/24 ; SBL1\n198.51.100.7\n2001:db8::/32\n2001:db8::1\n10.0.0.1/8\n1.2.3.4-1.2.3.9\n192.0.2.0/24\n",
        &["list-networks block 192.0.2.0/24 198.51.100.7/32 2001:db8::/32 2001:db8::1/128"],
        &[
            "list.txt:5:1: \"10.0.0.1/8\" is not a network: it has host bits set (the network is 10.0.0.0/8; write that, or 10.0.0.1/32 for the one address)",
            "list.txt:6:1: \"1.2.3.4-1.2.3.9\" is not a network: it is no address with a prefix length (write it as 192.0.2.0/24 or 2001:db8::/32)",
        ],
    );
}

#[test]
fn long_lines_and_long_files_are_told() {
    let long = "a".repeat(70_000);
    for format in Format::ALL {
        let imported = imported(format, &long);
        assert!(imported.text.is_empty());
        assert_eq!(
            imported.left_out.to_string(),
            "list.txt:1:1: the line is 70000 bytes long (at most 65536)"
        );
    }
    let huge = "a\n".repeat(33 << 20);
    let imported = imported(Format::Domains, &huge);
    assert_eq!(
        imported.left_out.to_string(),
        "list.txt: the file is 69206016 bytes long (at most 64 MB; split it)"
    );
}

#[test]
fn ids_come_from_the_name_of_the_file() {
    for (file, prefix) in [
        ("blocklist.rpz", "blocklist"),
        ("My List (1).txt", "my-list-1"),
        ("2026_hosts", "list-2026-hosts"),
        (".hidden.txt", "hidden"),
        ("…", "list"),
        ("", "list"),
        (&"a".repeat(100), &"a".repeat(40)),
    ] {
        let made = Prefix::of_file(file);
        assert_eq!(made.to_string(), prefix, "{file}");
        assert_eq!(prefix.parse(), Ok(made));
    }
}

#[test]
fn a_name_of_a_file_cannot_write_rules() {
    let name = "x\"\n[[rule]]\nid = \"y";
    let list = List { name, text: "v.example", prefix: &Prefix::of_file(name), role: &Role::default() };
    assert_eq!(compiled(&import(list, Format::Domains).text).rules().len(), 1);
}

fn name() -> impl Strategy<Value = String> {
    vec(select(vec!["a", "b", "ab"]), 1..5).prop_map(|labels| labels.join("."))
}

fn policy() -> impl Strategy<Value = Policy> {
    let rule = (
        select(vec!["block", "block", "allow", "log"]),
        select(vec!["hosts", "domains"]),
        vec(name(), 1..3),
        select(vec!["'nxdomain'", "'nodata'", "'null'", "'drop'", "{ a = '192.0.2.1' }"]),
        select(vec![5, 60]),
    );
    vec(rule, 1..8).prop_map(|drafts| {
        let mut text = "format = 1\n".to_owned();
        for (i, (action, key, names, answer, ttl)) in drafts.into_iter().enumerate() {
            text += &format!(
                "[[rule]]\nid = \"r{i}\"\nrole = \"x\"\naction = \"{action}\"\n{key} = {names:?}\nanswer = {answer}\nttl_secs = {ttl}\n"
            );
        }
        compiled(&text)
    })
}

/// The answer to a blocked name and its TTL.
fn decided(policy: &Policy, name: &str) -> Option<(String, u32)> {
    let name: DomainName = name.parse().unwrap();
    let rule = policy.rule(policy.decide_name(name.as_name())?.rule);
    (rule.action == Action::Block).then(|| (rule.answer.to_string(), rule.ttl_secs))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn an_exported_zone_comes_back_as_it_was(policy in policy(), asks in vec(name(), 24)) {
        let zone = export(&policy, export::Format::Rpz, 1).text;
        let imported = imported(Format::Rpz, &zone);
        prop_assert!(imported.left_out.is_empty(), "{}\n{}", imported.left_out, zone);
        if imported.text.is_empty() {
            return Ok(());
        }
        let again = compiled(&imported.text);
        for ask in asks {
            prop_assert_eq!(decided(&again, &ask), decided(&policy, &ask), "{}\n{}\n{}", ask, zone, imported.text);
        }
    }

    #[test]
    fn an_exported_hosts_file_comes_back_for_what_it_could_say(policy in policy(), asks in vec(name(), 24)) {
        let exported = export(&policy, export::Format::Hosts, 1);
        let imported = imported(Format::Hosts, &exported.text);
        prop_assert!(imported.left_out.is_empty(), "{}", imported.left_out);
        let again = (!imported.text.is_empty()).then(|| compiled(&imported.text));
        for ask in asks {
            let name: DomainName = ask.parse().unwrap();
            if exported.unsaid.iter().any(|item| item.concerns(name.as_name())) {
                continue;
            }
            let blocked = again.as_ref().and_then(|again| decided(again, &ask)).is_some();
            prop_assert_eq!(blocked, decided(&policy, &ask).is_some(), "{}\n{}", ask, exported.text);
        }
    }

    #[test]
    fn no_text_makes_a_reader_panic_or_write_what_does_not_compile(
        text in any::<String>(),
        zone in "([a-c.@*$ ;()\"\\\\]|\n|CNAME|SOA|ORIGIN|TTL|rpz-|A | 5 ){0,60}",
    ) {
        for format in Format::ALL {
            for text in [&text, &zone] {
                let imported = imported(format, text);
                if !imported.text.is_empty() {
                    compiled(&imported.text);
                }
            }
        }
    }
}
