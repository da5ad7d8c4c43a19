//! The record as evidence: what an operator hands out, and what an auditor makes of it.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;
use tempfile::TempDir;

use crate::case;
use crate::support::{Agent, Case, Upstream, interdict, until};

pub(crate) fn cases() -> Vec<Case> {
    vec![
        case!(a_record_is_verified_and_a_changed_byte_is_named, Dig),
        case!(a_stranger_verifies_a_pack_and_an_event, Dig),
        case!(a_new_key_signs_from_now_on, Dig),
        case!(a_killed_agent_leaves_a_record_that_goes_on, Dig),
        case!(nothing_is_removed_under_a_legal_hold),
        case!(two_records_of_one_node_are_told_apart, Dig),
        case!(a_record_that_was_cut_stops_the_agent, Dig),
        case!(the_self_test_is_on_record_and_is_no_contact),
        case!(tail_prints_what_is_asked_for_and_goes_on_where_it_ended, Dig),
        case!(top_counts_by_client_and_by_rule, Dig),
        case!(a_unit_may_keep_its_clients_to_itself, Dig),
        case!(a_report_says_who_is_in_contact_and_shows_no_markup_of_others, Dig),
        case!(a_browser_makes_a_pdf_of_a_report, Chromium),
        case!(where_this_machine_is_no_client_the_self_test_says_so),
    ]
}

const POLICY: &str = r#"
format = 1
[[rule]]
id = "v-all"
role = "update"
action = "block"
domains = ["v.example"]
"#;

fn start() -> Agent {
    Agent::start(&[("p.toml", POLICY)], &Upstream::start())
}

fn ask(agent: &Agent, count: usize) {
    for number in 0..count {
        agent.dig(&[&format!("n{number}.v.example")]).has("NXDOMAIN");
    }
    until("all of them are on record", || {
        let asked = agent.events().into_iter().filter(|event| event["plane"] == "dns").count();
        (asked >= count).then_some(())
    });
}

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

fn audit(words: &[&str], code: i32) -> String {
    let output = interdict(&[&["audit"], words].concat());
    let text = text(&output);
    assert_eq!(output.status.code(), Some(code), "{words:?}: {text}");
    text
}

fn data(folder: &TempDir) -> String {
    folder.path().join("data").display().to_string()
}

fn verified(folder: &TempDir) -> Value {
    serde_json::from_str(&audit(&["verify", "--json", "--data", &data(folder)], 0)).unwrap()
}

/// The newest segment of a record.
fn segment(folder: &TempDir) -> std::path::PathBuf {
    let entries = fs::read_dir(folder.path().join("data/log")).unwrap().map(|entry| entry.unwrap().path());
    entries.filter(|path| path.extension().is_some_and(|kind| kind == "jsonl")).max().unwrap()
}

fn a_record_is_verified_and_a_changed_byte_is_named() {
    let agent = start();
    ask(&agent, 3);
    let output = agent.tell(&["audit", "verify"]);
    assert!(
        output.status.success() && text(&output).contains("more to be signed with the next"),
        "{}",
        text(&output)
    );
    let folder = agent.stop();
    let report = verified(&folder);
    assert_eq!((&report["verified"], &report["sealed"]), (&true.into(), &report["events"]));
    let path = segment(&folder);
    let whole = fs::read_to_string(&path).unwrap();
    fs::write(&path, whole.replacen("n1.v.example", "n7.v.example", 1)).unwrap();
    let said = audit(&["verify", "--data", &data(&folder)], 1);
    let place = format!("{}:3: event 3 is not what was sealed", path.file_name().unwrap().to_string_lossy());
    assert!(said.contains(&place) && said.contains("NOT      verified"), "{said}");
    fs::write(&path, &whole).unwrap();
    audit(&["verify", "--data", &data(&folder)], 0);
    audit(&["verify", "--data", "/nowhere"], 2);
}

fn stranger(pack: &Path, key: &str) -> Output {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/audit/verify.py");
    Command::new("python3").args([script, &pack.display().to_string(), key]).output().unwrap()
}

fn a_stranger_verifies_a_pack_and_an_event() {
    let agent = start();
    ask(&agent, 5);
    let folder = agent.stop();
    let key = fs::read_to_string(folder.path().join("data/keys/log.pub")).unwrap().trim().to_owned();
    let [pack, proof] = ["pack", "proof"].map(|name| folder.path().join(name));
    let [pack_name, proof_name] = [&pack, &proof].map(|path| path.display().to_string());
    audit(&["export", "--data", &data(&folder), "--out", &pack_name], 0);
    // What is there is not written over.
    audit(&["export", "--data", &data(&folder), "--out", &pack_name], 2);
    let said = stranger(&pack, &key);
    assert!(said.status.success() && text(&said).contains("verified: events 1 to "), "{}", text(&said));
    audit(&["verify", &pack_name, "--key", &key], 0);
    audit(&["prove", "3", "--data", &data(&folder), "--out", &proof_name], 0);
    assert!(audit(&["verify", &proof_name, "--key", &key], 0).contains("n1.v.example"));
    audit(&["verify", &proof_name], 1);
    let changed = fs::read_to_string(&pack).unwrap().replacen("n1.v.example", "n7.v.example", 1);
    fs::write(&pack, changed).unwrap();
    assert_eq!(stranger(&pack, &key).status.code(), Some(1));
    assert!(
        audit(&["verify", &pack_name, "--key", &key], 1).contains("its events are not those of the record")
    );
    audit(&["prove", "what", "--data", &data(&folder)], 2);
    assert!(audit(&["prove", "999", "--data", &data(&folder)], 2).contains("covers events 1 to"));
}

fn a_new_key_signs_from_now_on() {
    let agent = start();
    ask(&agent, 1);
    let output = agent.tell(&["audit", "rekey", "--json"]);
    let keys: Value = serde_json::from_slice(&output.stdout).unwrap();
    let event = agent.event("the change is on record", |event| event["act"] == "key.changed");
    assert_eq!(event["detail"], keys);
    let folder = agent.stop();
    assert_eq!(verified(&folder)["keys"], Value::from(vec![keys["old"].clone(), keys["new"].clone()]));
    // Also without an agent, but not against one.
    audit(&["rekey", "--data", &data(&folder)], 0);
    let report = verified(&folder);
    assert_eq!(report["keys"].as_array().unwrap().len(), 3);
    let newest = report["keys"][2].as_str().unwrap();
    audit(&["verify", "--data", &data(&folder), "--key", newest], 0);
    let agent = Agent::start_in(folder, &Upstream::start()).unwrap_or_else(|said| panic!("{said}"));
    assert!(audit(&["rekey", "--data", &data(&agent.folder)], 2).contains("in use by another agent"));
}

fn a_killed_agent_leaves_a_record_that_goes_on() {
    let agent = start();
    ask(&agent, 4);
    let folder = agent.kill();
    assert!(
        audit(&["verify", "--data", &data(&folder)], 1)
            .contains("events after the newest checkpoint are not signed")
    );
    let agent = Agent::start_in(folder, &Upstream::start()).unwrap_or_else(|said| panic!("{said}"));
    let resumed = agent.event("the gap is on record", |event| event["act"] == "log.resumed");
    assert_eq!((&resumed["detail"]["clean"], &resumed["detail"]["unsealed"]), (&false.into(), &5.into()));
    let folder = agent.stop();
    let report = verified(&folder);
    assert_eq!(report["gaps"][0]["why"], "killed");
    assert_eq!(report["sealed"], report["events"]);
}

fn nothing_is_removed_under_a_legal_hold() {
    let folder = TempDir::new().unwrap();
    fs::create_dir(folder.path().join("policy")).unwrap();
    fs::write(folder.path().join("policy/p.toml"), POLICY).unwrap();
    let config =
        |text: &str| fs::write(folder.path().join("agent.toml"), format!("[audit]\n{text}\n")).unwrap();
    config("retain = \"365d\"\nlegal_hold = \"case 12\"");
    let upstream = Upstream::start();
    let agent = Agent::start_in(folder, &upstream).unwrap_or_else(|said| panic!("{said}"));
    let prune = |agent: &Agent| text(&agent.tell(&["audit", "prune", "--before", "2020-01-01"]));
    assert!(prune(&agent).contains("a legal hold stands: case 12"));
    let folder = agent.stop();
    // Also when no agent runs that knows of it.
    let offline = ["prune", "--before", "2020-01-01", "--data", &data(&folder)];
    assert!(audit(&offline, 2).contains("a legal hold stands: case 12"));
    fs::write(folder.path().join("agent.toml"), "[audit]\nretain = \"365d\"\n").unwrap();
    let agent = Agent::start_in(folder, &upstream).unwrap_or_else(|said| panic!("{said}"));
    assert_eq!(prune(&agent), "0 events removed\n");
    let folder = agent.stop();
    audit(&["prune", "--before", "2020-01-01", "--data", &data(&folder)], 0);
    // Without a day, what is a year old.
    assert!(audit(&["prune", "--data", &data(&folder)], 0).contains("0 events removed"));
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let place = to.join(path.file_name().unwrap());
        match path.is_dir() {
            true => copy(&path, &place),
            false => _ = fs::copy(&path, place).unwrap(),
        }
    }
}

fn two_records_of_one_node_are_told_apart() {
    let agent = start();
    ask(&agent, 1);
    let (one, other) = (agent.stop(), TempDir::new().unwrap());
    copy(one.path(), other.path());
    let upstream = Upstream::start();
    let [one, other] = [(one, 2), (other, 3)].map(|(folder, count)| {
        let agent = Agent::start_in(folder, &upstream).unwrap_or_else(|said| panic!("{said}"));
        ask(&agent, count);
        agent.stop()
    });
    for folder in [&one, &other] {
        audit(&["verify", "--data", &data(folder), "--against", &data(folder)], 0);
    }
    let said = audit(&["verify", "--data", &data(&other), "--against", &data(&one)], 1);
    assert!(said.contains("there are two records"), "{said}");
    let kept = other.path().join("kept");
    fs::write(&kept, "no checkpoint\n").unwrap();
    audit(&["verify", "--data", &data(&other), "--against", &kept.display().to_string()], 2);
}

fn a_record_that_was_cut_stops_the_agent() {
    let agent = start();
    ask(&agent, 3);
    let folder = agent.stop();
    let path = segment(&folder);
    let text = fs::read_to_string(&path).unwrap();
    fs::write(&path, text.split_inclusive('\n').take(2).collect::<String>()).unwrap();
    let said = Agent::start_in(folder, &Upstream::start()).err().expect("it does not start");
    assert!(
        said.contains("is not what its last checkpoint says: it covers 5 events, and there are 2"),
        "{said}"
    );
}

fn the_self_test_is_on_record_and_is_no_contact() {
    let agent = start();
    for _ in 0..2 {
        let output = agent.tell(&["probe"]);
        let said = text(&output);
        assert!(output.status.success(), "{said}");
        assert!(said.contains("blocked  interdict-selftest.v.example, by v-all"), "{said}");
    }
    let tested = agent.event("the test is on record", |event| event["plane"] == "selftest");
    assert_eq!((&tested["act"], &tested["detail"]["passed"]), (&"selftest".into(), &true.into()));
    assert_eq!(tested["detail"]["dns"][0]["outcome"], "blocked");
    assert_eq!(agent.status()["selftest"]["passed"], true);
    assert!(agent.events().iter().all(|event| event["plane"] != "dns"), "it is no contact");
    // The same question of anybody else is one.
    agent.dig(&["interdict-selftest.v.example"]).has("NXDOMAIN");
    agent.event("a client's question is a contact", |event| event["plane"] == "dns");
    // A policy that blocks no name has nothing to test.
    let before = agent.status()["digest"].clone();
    agent.write_policy("p.toml", &POLICY.replace("block", "log"));
    until("the other policy is in force", || (agent.status()["digest"] != before).then_some(()));
    let said = text(&agent.tell(&["probe"]));
    assert!(said.contains("skipped  the policy blocks no name"), "{said}");
}

fn where_this_machine_is_no_client_the_self_test_says_so() {
    let folder = TempDir::new().unwrap();
    fs::create_dir(folder.path().join("policy")).unwrap();
    fs::write(folder.path().join("policy/p.toml"), POLICY).unwrap();
    fs::write(folder.path().join("agent.toml"), "[dns]\nclients = [\"192.0.2.0/24\"]\n").unwrap();
    let agent = Agent::start_in(folder, &Upstream::start()).unwrap_or_else(|said| panic!("{said}"));
    let output = agent.tell(&["probe", "--json"]);
    let tested: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(tested["dns"][0]["outcome"], "skipped");
    assert!(tested["dns"][0]["why"].as_str().unwrap().contains("is none of [dns] clients"), "{tested}");
}

fn tail_prints_what_is_asked_for_and_goes_on_where_it_ended() {
    let agent = start();
    ask(&agent, 4);
    let tail = |words: &[&str]| {
        let output = agent.tell(&[&["tail", "--no-follow"], words].concat());
        assert!(output.status.success(), "{}", text(&output));
        String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect::<Vec<_>>()
    };
    for (words, count) in [
        (&["--plane", "dns"][..], 4),
        (&["--plane", "admin", "--act", "agent.started"], 1),
        (&["--rule", "v-all", "--verdict", "block"], 4),
        (&["--rule", "v-all", "--verdict", "log"], 0),
        (&["--client", "127.0.0.0/8"], 4),
        (&["--client", "10.0.0.0/8"], 0),
        (&["--from", "2020-01-01", "--to", "2020-01-02"], 0),
        (&["--from", "2020-01-01", "--plane", "dns"], 4),
        (&["--last", "2"], 2),
        (&["--after", "3"], 2),
    ] {
        assert_eq!(tail(words).len(), count, "{words:?}");
    }
    let ids: Vec<Value> = tail(&["--json"]).iter().map(|line| serde_json::from_str(line).unwrap()).collect();
    let third = ids[2]["id"].as_str().unwrap();
    assert_eq!(tail(&["--after", third, "--json"]), tail(&["--json"])[3..]);
    let csv = tail(&["--format", "csv", "--plane", "dns"]);
    assert!(
        csv.len() == 5 && csv[0].starts_with("id,time,") && csv[1].contains(",n0.v.example,A,"),
        "{csv:?}"
    );
    let ocsf: Value = serde_json::from_str(&tail(&["--format", "ocsf", "--plane", "dns"])[0]).unwrap();
    assert_eq!((&ocsf["class_uid"], &ocsf["query"]["hostname"]), (&4003.into(), &"n0.v.example".into()));
    assert!(tail(&["--format", "cef", "--plane", "dns"])[0].starts_with("CEF:0|interdict|"));
    let wrong = agent.tell(&["tail", "--no-follow", "--client", "nobody"]);
    assert_eq!(wrong.status.code(), Some(2), "{}", text(&wrong));
}

fn top_counts_by_client_and_by_rule() {
    let agent = start();
    ask(&agent, 3);
    let top = |by: &str| -> Value {
        let output = agent.tell(&["top", "--once", "--json", "--days", "2", "--by", by]);
        serde_json::from_slice(&output.stdout).unwrap_or_default()
    };
    let rows = until("the index has them", || {
        Some(top("client")["rows"].clone()).filter(|rows| rows[0]["block"] == 3)
    });
    let client = crate::support::loopback().to_string();
    assert_eq!(
        (&rows[0]["client"], &rows[0]["of"]),
        (&client.clone().into(), &serde_json::json!({ "v-all": 3 }))
    );
    assert_eq!(top("rule")["rows"][0]["of"], serde_json::json!({ client: 3 }));
    assert_eq!(top("role")["rows"][0]["role"], "update");
    let said = text(&agent.tell(&["top", "--once", "--days", "2"]));
    assert!(said.contains("v-all 3"), "{said}");
    let output = agent.tell(&["audit", "reindex"]);
    assert!(output.status.success(), "{}", text(&output));
    until("the index is there again", || (top("client")["rows"][0]["block"] == 3).then_some(()));
    let folder = agent.stop();
    let again = audit(&["reindex", "--data", &data(&folder)], 0);
    assert!(again.contains("events are in the index"), "{again}");
}

fn a_unit_may_keep_its_clients_to_itself() {
    let unit = |privacy: &str| {
        format!(
            "{POLICY}[[unit]]\nid = \"hq\"\ntitle = \"HQ\"\nnetworks = [\"127.0.0.0/8\", \"::1/128\"]\n{privacy}\n"
        )
    };
    let agent = Agent::start(&[("p.toml", &unit("privacy = \"pseudonym\""))], &Upstream::start());
    ask(&agent, 2);
    let contacts = |agent: &Agent| {
        agent.events().into_iter().filter(|event| event["plane"] == "dns").collect::<Vec<_>>()
    };
    let client = crate::support::loopback().to_string();
    let seen = contacts(&agent);
    assert_eq!((&seen[0]["privacy"], &seen[0]["unit"]), (&"pseudonym".into(), &"hq".into()));
    assert!(
        seen[0]["client"] != client.as_str()
            && seen[0]["client"].is_string()
            && seen[0]["client"] == seen[1]["client"]
    );
    let before = agent.status()["digest"].clone();
    agent.write_policy("p.toml", &unit("privacy = \"none\""));
    until("the other policy is in force", || (agent.status()["digest"] != before).then_some(()));
    ask(&agent, 3);
    let seen = contacts(&agent);
    assert_eq!(
        (&seen[4]["privacy"], &seen[4]["client"], &seen[4]["unit"]),
        (&"none".into(), &Value::Null, &"hq".into())
    );
    let folder = agent.stop();
    let log = fs::read_to_string(segment(&folder)).unwrap();
    assert!(!log.contains(&format!("\"client\":\"{client}\"")), "{log}");
    // Whose clients are of no unit, the agent's configuration decides.
    fs::write(folder.path().join("agent.toml"), "[audit]\nprivacy = \"none\"\n").unwrap();
    fs::write(folder.path().join("policy/p.toml"), POLICY).unwrap();
    let agent = Agent::start_in(folder, &Upstream::start()).unwrap_or_else(|said| panic!("{said}"));
    ask(&agent, 6);
    assert_eq!(contacts(&agent).last().unwrap()["client"], Value::Null);
}

/// An agent for a unit whose title is markup, which a client has contacted twice.
fn contacted() -> Agent {
    let unit = "[[unit]]\nid = \"hq\"\ntitle = \"HQ <b>&\"\nnetworks = [\"127.0.0.0/8\", \"::1/128\"]\n";
    let agent = Agent::start(&[("p.toml", &format!("{POLICY}{unit}"))], &Upstream::start());
    ask(&agent, 2);
    agent
}

fn period() -> [String; 2] {
    let today = jiff::Timestamp::now().to_zoned(jiff::tz::TimeZone::UTC).date();
    [today.yesterday(), today.tomorrow()].map(|day| day.unwrap().to_string())
}

fn a_report_says_who_is_in_contact_and_shows_no_markup_of_others() {
    let agent = contacted();
    // That it asks for anything else is a sign of life, and what it asks for stays with it.
    agent.dig(&["www.example.org"]).has("NOERROR");
    let alive = agent.event("the client is alive", |event| event["act"] == "client.alive");
    assert_eq!(
        (&alive["client"], &alive["unit"]),
        (&crate::support::loopback().to_string().into(), &"hq".into())
    );
    assert!(!agent.events().iter().any(|event| event.to_string().contains("www.example.org")));
    let [from, to] = period();
    let report = |words: &[&str], code: i32| {
        let output = agent.tell(&[&["report", "--from", &from, "--to", &to], words].concat());
        assert_eq!(output.status.code(), Some(code), "{}", text(&output));
        text(&output)
    };
    let told = until("the index has them", || {
        let told: Value = serde_json::from_str(&report(&["--json"], 0)).ok()?;
        (told["total"]["roles"]["update"]["contacts"] == 2).then_some(told)
    });
    assert_eq!((&told["total"]["clients"], &told["total"]["states"]["new"]), (&1.into(), &1.into()));
    assert_eq!(
        (&told["units"][0]["unit"], &told["total"]["roles"]["update"]["blocked"]),
        (&"hq".into(), &2.into())
    );
    assert_eq!(told["policies"][0][1], agent.status()["digest"]);
    assert!(report(&[], 0).contains("HQ <b>&"), "as a text it is one");
    report(&["--from", &to], 2);
    let folder = agent.stop();
    let pages = ["one", "two"].map(|name| {
        let path = folder.path().join(name);
        let output = interdict(&[
            "report",
            "--from",
            &from,
            "--to",
            &to,
            "--data",
            &data(&folder),
            "--html",
            path.to_str().unwrap(),
        ]);
        assert!(output.status.success(), "{}", text(&output));
        fs::read_to_string(path).unwrap()
    });
    assert_eq!(pages[0], pages[1], "the same record and the same period give the same bytes");
    assert!(pages[0].contains("HQ &lt;b&gt;&amp;") && !pages[0].contains("HQ <b>"));
    assert!(!pages[0].contains("<script") && !pages[0].contains("http"), "nothing from elsewhere");
    let words = pages[0].to_lowercase();
    assert!(words.contains("contact observed") && !words.contains("violation"));
}

fn a_browser_makes_a_pdf_of_a_report() {
    let agent = contacted();
    let folder = agent.stop();
    let [from, to] = period();
    let path = folder.path().join("report.pdf");
    let output = interdict(&[
        "report",
        "--from",
        &from,
        "--to",
        &to,
        "--data",
        &data(&folder),
        "--pdf",
        path.to_str().unwrap(),
    ]);
    assert!(output.status.success(), "{}", text(&output));
    assert!(fs::read(path).unwrap().starts_with(b"%PDF-"));
}
