//! Exported policies in the real servers: every name that a policy writes, and the names around it, are asked, and each
//! verdict is compared with ours, but for what the export itself says it cannot say.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::process::Command;

use hickory_proto::rr::RecordType;
use interdict_policy::export::{Effect, Exported, Format, Speaker, export};
use interdict_policy::{Action, Answer, DomainName, IpNet, Policy, Rule, Service, Source, compile, packs};
use serde_json::Value;

use crate::case;
use crate::support::{Agent, Answered, Case, Server, ServerKind, Upstream, interdict, tool_path};

pub(crate) fn cases() -> Vec<Case> {
    vec![
        case!(export_prints_the_file_and_says_what_it_leaves_out),
        case!(export_takes_the_policy_that_the_agent_has_in_force),
        case!(a_zone_as_bind_writes_it_out_is_imported_whole, Named),
        case!(bind_agrees_on_every_name, Named),
        case!(powerdns_agrees_on_every_name, Recursor),
        case!(unbound_agrees_on_every_name_of_the_zone, Unbound),
        case!(unbound_agrees_on_every_name_of_its_local_zones, Unbound),
        case!(dnsmasq_agrees_on_every_name, Dnsmasq),
        case!(nftables_agrees_on_every_address, Nft),
    ]
}

/// What goes wrong in one format or another, in one small policy.
const TRAPS: &str = r#"
format = 1

[[rule]]
id = "deep"
role = "x"
action = "block"
domains = ["deep.example", "again.a.b.c.deep.example"]
globs = ["in-*.deep.example"]

[[rule]]
id = "deep-open"
role = "x"
action = "allow"
hosts = ["a.b.c.deep.example"]
domains = ["open.deep.example"]
globs = ["*.maybe.deep.example"]

[[rule]]
id = "numbered"
role = "x"
action = "block"
patterns = [{ under = "numbered.example", match = 'p[0-9]+' }]

[[rule]]
id = "numbered-open"
role = "x"
action = "allow"
patterns = [{ under = "deep.example", match = 'q[0-9]+' }]

[[rule]]
id = "deep-watched"
role = "x"
action = "log"
domains = ["watched.deep.example", "watched.example"]
hosts = ["w.x.y.deep.example"]

[[rule]]
id = "inside-open"
role = "x"
action = "block"
hosts = ["back.open.deep.example", "bad.watched.example"]
domains = ["shut.open.deep.example"]
answer = "null"
ttl_secs = 5

[[rule]]
id = "apex"
role = "x"
action = "block"
domains = ["apex.example"]

[[rule]]
id = "apex-open"
role = "x"
action = "allow"
hosts = ["apex.example"]

[[rule]]
id = "alone"
role = "x"
action = "block"
hosts = ["alone.example", "x.y.alone2.example", "123.example", "Bücher.example", "_under.score.example"]

[[rule]]
id = "nodata"
role = "x"
action = "block"
answer = "nodata"
hosts = ["nodata.example"]
domains = ["nodata-all.example", "nodata.deep.example"]

[[rule]]
id = "refused"
role = "x"
action = "block"
answer = "refused"
hosts = ["refused.example"]
domains = ["refused-all.example"]

[[rule]]
id = "drop"
role = "x"
action = "block"
answer = "drop"
hosts = ["drop.example"]
domains = ["drop-all.example"]

[[rule]]
id = "null"
role = "x"
action = "block"
answer = "null"
hosts = ["null.example", "_null.example"]
domains = ["null-all.example"]

[[rule]]
id = "sinkhole"
role = "x"
action = "block"
answer = { a = "192.0.2.80", aaaa = "2001:db8::80" }
hosts = ["sink.example", "sink.deep.example"]
domains = ["sink-all.example"]

[[rule]]
id = "sinkhole-v6"
role = "x"
action = "block"
answer = { aaaa = "2001:db8::80" }
domains = ["sink6.example"]

[[rule]]
id = "shapes"
role = "x"
action = "block"
domains = [
  "banned-tld",
  "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa.example",
  "a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.example",
  "32.1.0.0.10.rpz-ip",
]
globs = ["*.star.example", "cdn-*.glob.example"]

[[rule]]
id = "addresses"
role = "x"
action = "block"
networks = ["192.0.2.0/24", "2001:db8::/32"]

[[rule]]
id = "addresses-open"
role = "x"
action = "allow"
networks = ["192.0.2.64/26"]
ports = ["tcp/22"]

[[rule]]
id = "services"
role = "x"
action = "block"
packet = "drop"
networks = ["198.51.100.0/24", "192.0.2.128/25"]
ports = ["tcp/443", "udp/443"]

[[rule]]
id = "one-address-open"
role = "x"
action = "allow"
networks = ["192.0.2.7/32"]
"#;

/// The shipped pack and the traps, as one policy.
fn policy() -> Policy {
    let traps = Source { name: "traps.toml".into(), text: TRAPS.into() };
    compile(&[packs::kaspersky(), traps]).unwrap_or_else(|problems| panic!("{problems}")).policy
}

/// Names that the patterns of the traps describe, and names that they do not.
const BESIDE_PATTERNS: [&str; 4] =
    ["p7.numbered.example", "px.numbered.example", "q7.deep.example", "qx.deep.example"];

/// Every name that a rule writes, with its parent, names below it, look-alikes, and another case.
fn names(policy: &Policy) -> Vec<String> {
    let mut names = BTreeSet::from(BESIDE_PATTERNS.map(str::to_owned));
    for rule in policy.rules() {
        let hosts = rule.hosts.iter().chain(&rule.domains).map(|at| at.value.to_string());
        let globs = rule.globs.iter().map(|at| at.value.to_string().replace('*', "any"));
        for name in hosts.chain(globs) {
            names.extend(name.split_once('.').map(|(_, parent)| parent.to_owned()));
            names.extend([
                format!("below.{name}"),
                format!("far.below.{name}"),
                format!("not{name}"),
                format!("{name}.look-alike.example"),
                name.to_uppercase(),
                name,
            ]);
        }
    }
    let fits = |name: &String| name.parse::<DomainName>().is_ok();
    names.into_iter().filter(fits).collect()
}

fn check(kind: ServerKind, format: Format) {
    let policy = policy();
    let exported = export(&policy, format, 1);
    let upstream = Upstream::start();
    let server = Server::start(kind, &exported.text, &upstream);
    let names = names(&policy);
    let mut wrong = Vec::new();
    let (mut compared, mut unsaid) = (0, 0);
    for record in [RecordType::A, RecordType::TXT] {
        for (name, answered) in names.iter().zip(server.ask_all(&names, record)) {
            let parsed: DomainName = name.parse().unwrap();
            if exported.unsaid.iter().any(|item| item.concerns(parsed.as_name())) {
                unsaid += 1;
                continue;
            }
            compared += 1;
            let rule = policy.decide_name(parsed.as_name()).map(|found| policy.rule(found.rule));
            if !agrees(rule, &answered, record, &exported) {
                let ours = rule.map_or("none".into(), |rule| format!("{} {}", rule.action.as_str(), rule.id));
                wrong.push(format!("{name} {record}: ours {ours}, the server's {answered:?}"));
            }
        }
    }
    // A name outside the policy that leads into it: judged, or said not to be.
    let alias = ["alias-s07_upd_kaspersky_com.test".to_owned()];
    let followed = server.ask_all(&alias, RecordType::A)[0] == Answered::Upstream;
    let told = exported.unsaid.iter().any(|item| item.why.contains("a CNAME from another name"));
    assert_eq!(followed, told, "whether {kind:?} follows a CNAME into the ban");
    assert!(
        wrong.is_empty(),
        "{} of {compared} differ:\n{}\n{}",
        wrong.len(),
        wrong.join("\n"),
        server.log()
    );
    assert!(compared > 20 * unsaid, "compared {compared} answers, but {unsaid} were excused as unsaid");
}

/// Whether the server answers as the rule says; another answer that blocks will do where the export says so.
fn agrees(rule: Option<&Rule>, answered: &Answered, record: RecordType, exported: &Exported) -> bool {
    let Some(rule) = rule.filter(|rule| rule.action == Action::Block) else {
        return *answered == Answered::Upstream;
    };
    let wanted = match rule.answer {
        Answer::NxDomain => Answered::NxDomain,
        Answer::NoData => Answered::NoData,
        Answer::Refused => Answered::Refused,
        Answer::Drop => Answered::Silent,
        Answer::Addresses { a: Some(a), .. } if record == RecordType::A => {
            Answered::Addresses(vec![a.into()])
        }
        Answer::Addresses { .. } => Answered::NoData,
    };
    let otherwise = || {
        exported
            .unsaid
            .iter()
            .any(|item| item.by == Speaker::Rule(rule.id.clone()) && item.effect == Effect::Otherwise)
    };
    let blocks = !matches!(answered, Answered::Upstream | Answered::Silent | Answered::Other(_));
    *answered == wanted || (blocks && otherwise())
}

fn bind_agrees_on_every_name() {
    check(ServerKind::Named, Format::Rpz);
}

fn powerdns_agrees_on_every_name() {
    check(ServerKind::Recursor, Format::Rpz);
}

fn unbound_agrees_on_every_name_of_the_zone() {
    check(ServerKind::UnboundZone, Format::Rpz);
}

fn unbound_agrees_on_every_name_of_its_local_zones() {
    check(ServerKind::Unbound, Format::Unbound);
}

fn dnsmasq_agrees_on_every_name() {
    check(ServerKind::Dnsmasq, Format::Dnsmasq);
}

/// The first and last address of every network, and those outside it.
fn addresses(policy: &Policy) -> BTreeSet<IpAddr> {
    let mut addresses = BTreeSet::new();
    for network in policy.rules().iter().flat_map(|rule| &rule.networks).map(|at| at.value) {
        match network {
            IpNet::V4(v4) => {
                let (first, last) = (u32::from(v4.network()), u32::from(v4.broadcast()));
                addresses.extend([first - 1, first, last, last + 1].map(|n| IpAddr::V4(n.into())));
            }
            IpNet::V6(v6) => {
                let (first, last) = (u128::from(v6.network()), u128::from(v6.broadcast()));
                addresses.extend([first - 1, first, last, last + 1].map(|n| IpAddr::V6(n.into())));
            }
        }
    }
    addresses
}

/// The sets that the chain in the file's head asks, in its order, and what it does where one holds the packet.
const CHAIN: [(&str, &str); 5] = [
    ("open_services", "pass"),
    ("drop_services", "drop"),
    ("reject_services", "reject"),
    ("drop", "drop"),
    ("reject", "reject"),
];

fn nftables_agrees_on_every_address() {
    let policy = policy();
    let exported = export(&policy, Format::Nft, 1);
    let folder = tempfile::TempDir::new().unwrap();
    let file = folder.path().join("exported.nft");
    // With the chain that its head proposes, and twice: loading it again changes nothing.
    let chain = exported.text.lines().skip_while(|line| *line != "#   table inet interdict {");
    let chain: String =
        chain.take_while(|line| line.starts_with("#   ")).map(|line| format!("{}\n", &line[1..])).collect();
    assert!(chain.contains("reject with tcp reset"), "no chain in\n{}", exported.text);
    std::fs::write(&file, format!("{0}{chain}{0}", exported.text)).unwrap();

    let mut asked = Vec::new();
    let mut script = format!(
        "nft -f {} || exit 9\nholds() {{ nft get element inet interdict \"$1\" \"$2\" >/dev/null 2>&1; }}\n",
        file.display()
    );
    for address in addresses(&policy) {
        for service in ["", "tcp/22", "tcp/443"] {
            let service: Option<Service> = service.parse().ok();
            for (set, does) in CHAIN {
                let element = match (set.ends_with("services"), service) {
                    (true, None) => continue,
                    (true, Some(s)) => format!("{address} . {} . {}", s.protocol.as_str(), s.port),
                    (false, _) => address.to_string(),
                };
                let family = if address.is_ipv4() { 4 } else { 6 };
                script += &format!("if holds {set}{family} '{{ {element} }}'; then echo {does}; el");
            }
            script += "se echo pass; fi\n";
            asked.push((address, service));
        }
    }
    let script_file = folder.path().join("ask.sh");
    std::fs::write(&script_file, script).unwrap();
    let output = Command::new("unshare").args(["--net", "sh"]).arg(&script_file).output().unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    let said: Vec<&str> = said.lines().collect();
    assert_eq!(said.len(), asked.len(), "{}", String::from_utf8_lossy(&output.stderr));
    for ((address, service), verdict) in asked.into_iter().zip(said) {
        let rule = policy.decide_address(address, service).map(|found| policy.rule(found.rule));
        let blocks = rule.filter(|rule| rule.action == Action::Block);
        assert_eq!(verdict, blocks.map_or("pass", |rule| rule.packet.as_str()), "{address} {service:?}");
    }
}

fn export_takes_the_policy_that_the_agent_has_in_force() {
    let rule = |name: &str| {
        format!(
            "format = 1\n[[rule]]\nid = \"mine\"\nrole = \"x\"\naction = \"block\"\nhosts = [\"{name}\"]\n"
        )
    };
    let agent = Agent::start(&[("p.toml", &rule("first.example"))], &Upstream::start());
    let digest = agent.status()["digest"].as_str().unwrap().to_owned();
    // A broken edit is not in force, so it is not exported either.
    agent.write_policy("p.toml", "format = 2\n");
    let file = String::from_utf8(agent.tell(&["export", "hosts"]).stdout).unwrap();
    assert!(file.contains("\n0.0.0.0 first.example\n") && file.contains(&digest), "{file}");
}

/// `named-compilezone` writes absolute names, full TTLs and its own layout.
fn a_zone_as_bind_writes_it_out_is_imported_whole() {
    let policy = policy();
    let folder = tempfile::TempDir::new().unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    std::fs::write(path("exported"), export(&policy, Format::Rpz, 1).text).unwrap();
    for style in ["full", "relative"] {
        let tool = tool_path("named-compilezone").expect("it comes with named");
        let (out, zone) = (path("ban.zone"), path("exported"));
        let output = Command::new(tool)
            .args(["-k", "ignore", "-s", style, "-o", &out, "ban.rpz", &zone])
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
        let output = interdict(&["import", "rpz", &out]);
        assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
        let source = Source { name: "imported.toml".into(), text: String::from_utf8(output.stdout).unwrap() };
        let imported = compile(&[source]).unwrap_or_else(|problems| panic!("{problems}")).policy;
        let exported = export(&policy, Format::Rpz, 1);
        let blocks = |policy: &Policy, name: &DomainName| {
            let found = policy.decide_name(name.as_name()).map(|found| policy.rule(found.rule));
            found.is_some_and(|rule| rule.action == Action::Block)
        };
        for name in names(&policy) {
            let name: DomainName = name.parse().unwrap();
            let unsaid = exported.unsaid.iter().any(|item| item.concerns(name.as_name()));
            assert!(
                unsaid || blocks(&imported, &name) == blocks(&policy, &name),
                "{name}, written out {style}"
            );
        }
    }
}

fn export_prints_the_file_and_says_what_it_leaves_out() {
    let nowhere = ["--control", "/nonexistent/sock"];
    let pack = concat!(env!("CARGO_MANIFEST_DIR"), "/policy/packs/kaspersky.toml");
    let output = interdict(&["export", "rpz", "--serial", "7", "--policy", pack]);
    assert_eq!(output.status.code(), Some(0));
    let (file, said) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
    assert!(file.contains("\n*.kaspersky.com CNAME .\n") && file.contains(" 7 3600 "), "{file}");
    assert!(said.contains("\n- kaspersky-mail: action = \"log\" lets through"), "{said}");

    let output = interdict(&["export", "hosts", "--json", "--policy", pack]);
    let json: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(json["format"], "hosts");
    let below =
        json["unsaid"].as_array().unwrap().iter().find(|item| item["effect"] == "let-through").unwrap();
    assert!(below["about"][0].as_str().unwrap().starts_with("below "), "{below}");

    assert_eq!(interdict(&[&["export", "zone"], &nowhere[..]].concat()).status.code(), Some(2));
    assert_eq!(interdict(&["export", "rpz", "--policy", "/nonexistent"]).status.code(), Some(1));
}
