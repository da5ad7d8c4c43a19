//! The verbs, their outputs and exit statuses.

use serde_json::Value;

use crate::case;
use crate::support::{Agent, Case, Upstream, interdict};

pub(crate) fn cases() -> Vec<Case> {
    vec![
        case!(check_prints_every_problem_and_exits_1),
        case!(check_accepts_the_examples_and_the_embedded_pack),
        case!(bad_paths_are_named),
        case!(status_without_an_agent_is_a_finding),
        case!(what_others_could_have_written_is_noted_and_refused_by_the_agent),
        case!(folders_inside_a_policy_folder_are_told_and_not_read),
        case!(why_explains_names_and_addresses),
        case!(why_of_a_resolver_tells_that_names_are_judged_there),
        case!(why_tells_what_lost_and_which_exemption_was_considered),
        case!(why_asks_the_running_agent),
        case!(why_reads_a_batch),
        case!(a_line_of_a_batch_that_asks_nothing_ends_nothing),
        case!(what_is_escaped_in_files_reaches_no_terminal),
        case!(a_reader_that_leaves_ends_a_verb_in_peace),
        case!(diff_decides_again_for_the_client_of_each_event_at_its_time),
        case!(diff_compares_under_a_profile_and_tells_what_it_did_not_try),
        case!(the_past_is_explained_compared_and_replayed, Dig),
        case!(import_prints_a_policy_and_tells_what_it_leaves_out),
        case!(bad_starts_say_what_to_do),
        case!(a_file_in_the_place_of_the_control_socket_is_kept),
    ]
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn check_prints_every_problem_and_exits_1() {
    let folder = tempfile::TempDir::new().unwrap();
    let file = folder.path().join("bad.toml");
    std::fs::write(&file, "format = 1\n[[rule]]\nid = \"r\"\nrole = \"x\"\naction = \"block\"\nnetworks = [\"10.0.0.0/33\", \"10.0.0.1/8\"]\n").unwrap();
    let output = interdict(&["check", &file.display().to_string()]);
    assert_eq!(output.status.code(), Some(1));
    let said = text(&output.stderr);
    assert!(
        said.contains("bad.toml:6:13: \"10.0.0.0/33\"") && said.contains("the network is 10.0.0.0/8"),
        "{said}"
    );
    let json: Value =
        serde_json::from_slice(&interdict(&["check", "--json", &file.display().to_string()]).stdout).unwrap();
    assert_eq!((&json["ok"], &json["error_count"]), (&false.into(), &2.into()));
}

fn check_accepts_the_examples_and_the_embedded_pack() {
    let nowhere = ["--control", "/nonexistent/sock"];
    let output = interdict(&[&["check"], &nowhere[..]].concat());
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert!(text(&output.stdout).contains("in order: "));
    let examples = concat!(env!("CARGO_MANIFEST_DIR"), "/examples");
    let mut seen = 0;
    for entry in std::fs::read_dir(examples).unwrap() {
        let path = entry.unwrap().path();
        let is_policy = path.extension().is_some_and(|extension| extension == "toml");
        if is_policy || path.ends_with("another-vendor") {
            let output = interdict(&["check", &path.display().to_string()]);
            assert!(output.status.success(), "{}: {}", path.display(), text(&output.stderr));
            seen += 1;
        }
    }
    assert_eq!(seen, 2);
}

fn bad_paths_are_named() {
    let folder = tempfile::TempDir::new().unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    std::fs::create_dir(path("empty")).unwrap();
    std::fs::write(path("latin.toml"), b"format = 1 # \xe9\n").unwrap();
    std::fs::File::create(path("huge.toml")).unwrap().set_len(100 << 20).unwrap();
    let pipe = std::process::Command::new("mkfifo").arg(path("pipe.toml")).status().unwrap();
    assert!(pipe.success());
    let output = interdict(&[
        "check",
        &path("none.toml"),
        &path("empty"),
        &path("latin.toml"),
        &path("huge.toml"),
        &path("pipe.toml"),
        "/dev/zero",
    ]);
    assert_eq!(output.status.code(), Some(1));
    let said = text(&output.stderr);
    for problem in [
        "none.toml: no such file",
        "empty: the folder holds no *.toml",
        "latin.toml: byte 13 is not UTF-8",
        "huge.toml: the file is 104857600 bytes long",
        "pipe.toml: it is neither a file nor a folder",
        "/dev/zero: it is neither a file nor a folder",
    ] {
        assert!(said.contains(problem), "no {problem:?} in\n{said}");
    }
}

fn what_others_could_have_written_is_noted_and_refused_by_the_agent() {
    use std::os::unix::fs::{PermissionsExt, symlink};
    let folder = tempfile::TempDir::new().unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    let mode = |path: &str, mode| {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    };
    std::fs::create_dir(path("p")).unwrap();
    std::fs::write(path("p/p.toml"), RULE).unwrap();
    symlink(path("p/p.toml"), path("link.toml")).unwrap();
    symlink(path("p"), path("linked")).unwrap();
    let cases: [(&str, u32, u32, &str); 8] = [
        ("p", 0o755, 0o646, "p.toml: everyone may write it (chmod o-w)"),
        ("p/p.toml", 0o755, 0o602, "p.toml: everyone may write it (chmod o-w)"),
        ("p", 0o757, 0o644, "p: everyone may write it (chmod o-w)"),
        ("p/p.toml", 0o757, 0o644, "p: everyone may write it (chmod o-w)"),
        ("link.toml", 0o755, 0o644, "link.toml: it is a symbolic link (the agent follows no links; name "),
        ("linked/", 0o755, 0o644, "linked: it is a symbolic link"),
        ("linked/p.toml", 0o755, 0o644, "linked: it is a symbolic link"),
        ("linked/../p", 0o755, 0o644, "linked: it is a symbolic link"),
    ];
    for (named, folder_mode, file_mode, said) in cases {
        mode(&path("p"), folder_mode);
        mode(&path("p/p.toml"), file_mode);
        let check = interdict(&["check", &path(named)]);
        let noted = text(&check.stdout);
        assert!(check.status.success() && noted.contains(said), "{named} {file_mode:o}: {noted}");
        let words = ["run", "--policy", &path(named), "--listen", "127.0.0.1:0", "--upstream", "127.0.0.1:9"];
        let run = interdict(&[&words[..], &["--data", &path("d"), "--control", &path("s")]].concat());
        let refused = text(&run.stderr);
        assert!(run.status.code() == Some(2) && refused.contains(said), "{named} {file_mode:o}: {refused}");
    }
    mode(&path(""), 0o757);
    mode(&path("p"), 0o755);
    let noted = text(&interdict(&["check", &path("p")]).stdout);
    assert!(noted.contains(&format!("note: {}: everyone may write it", folder.path().display())), "{noted}");
    mode(&path(""), 0o755);
    // Where nobody can move away what others own, everyone may write.
    mode(&path("p"), 0o1777);
    mode(&path("p/p.toml"), 0o644);
    let noted = text(&interdict(&["check", &path("p/p.toml")]).stdout);
    assert!(!noted.contains("may write it"), "{noted}");
}

fn folders_inside_a_policy_folder_are_told_and_not_read() {
    let upstream = Upstream::start();
    let agent = Agent::start(&[("p.toml", RULE)], &upstream);
    let folder = agent.folder.path().join("policy");
    for name in ["more", ".git"] {
        std::fs::create_dir(folder.join(name)).unwrap();
        std::fs::write(folder.join(name).join("bad.toml"), "format = 2").unwrap();
    }
    let check = interdict(&["check", &folder.display().to_string()]);
    let noted = text(&check.stdout);
    assert!(check.status.success() && noted.contains("policy/more: the folder is not read"), "{noted}");
    assert!(!noted.contains(".git"), "{noted}");
    assert!(agent.tell(&["reload"]).status.success());
}

fn why_explains_names_and_addresses() {
    let pack = concat!(env!("CARGO_MANIFEST_DIR"), "/policy/packs/kaspersky.toml");
    let output = interdict(&[
        "why",
        "--json",
        "--policy",
        pack,
        "S07.upd.kaspersky.com",
        "77.74.177.1",
        "[2a03:2480:8000::1]:443/tcp",
        "example.org",
    ]);
    let answers: Vec<Value> =
        text(&output.stdout).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(answers[0]["ask"], "s07.upd.kaspersky.com");
    assert_eq!(answers[0]["verdict"], "block");
    assert_eq!(answers[0]["form"], "host");
    assert_eq!(answers[0]["answer"], "nxdomain");
    assert!(answers[0]["line"].is_u64() && answers[0]["file"] == pack);
    assert_eq!((&answers[1]["kind"], &answers[1]["value"]), (&"address".into(), &"77.74.176.0/21".into()));
    assert_eq!(answers[1]["packet"], "reject");
    assert_eq!(answers[2]["verdict"], "block");
    assert_eq!((&answers[3]["verdict"], &answers[3]["rule"]), (&"none".into(), &Value::Null));
    assert_eq!(interdict(&["why", "a b"]).status.code(), Some(2));
    let mistyped = interdict(&["why", "300.1.1.1"]);
    assert_eq!(mistyped.status.code(), Some(2));
    assert!(text(&mistyped.stderr).contains("each part of one is at most 255"), "{}", text(&mistyped.stderr));
}

fn status_without_an_agent_is_a_finding() {
    let output = interdict(&["status", "--json", "--control", "/nonexistent/sock"]);
    assert_eq!(output.status.code(), Some(1));
    let status: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(status["in_force"], false);
    assert!(status["warning"].as_str().unwrap().contains("/nonexistent/sock"), "{status}");
    let output = interdict(&["status", "--control", "/nonexistent/sock"]);
    assert!(output.status.code() == Some(1) && text(&output.stderr).starts_with("not in force: "));
}

fn why_of_a_resolver_tells_that_names_are_judged_there() {
    let output = interdict(&["why", "8.8.8.8:53/udp", "8.8.8.8:53/tcp", "8.8.8.8:443/tcp"]);
    let said = text(&output.stdout);
    for ask in ["8.8.8.8:53/udp", "8.8.8.8:53/tcp"] {
        let expect =
            format!("{ask}: none: no rule concerns the address; what is asked there is judged by its name");
        assert!(said.contains(&expect), "{said}");
    }
    assert!(said.contains("8.8.8.8:443/tcp: log"), "{said}");
}

fn why_tells_what_lost_and_which_exemption_was_considered() {
    let folder = tempfile::TempDir::new().unwrap();
    let file = folder.path().join("p.toml").display().to_string();
    let policy = r#"
format = 1
[[rule]]
id = "all"
role = "x"
action = "block"
domains = ["v.test"]
networks = ["192.0.2.0/24"]
[[rule]]
id = "some"
role = "x"
action = "log"
globs = ["ksn-*.v.test"]
networks = ["192.0.2.128/25"]
ports = ["tcp/443"]
[[rule]]
id = "one"
role = "x"
action = "allow"
hosts = ["ksn-a.v.test"]
[[exempt]]
id = "lab"
clients = ["10.9.8.0/28"]
rules = ["all"]
reason = "analysis"
approved_by = "CISO"
expires = 2999-03-31
[[exempt]]
id = "old"
clients = ["10.9.9.0/28"]
rules = ["all"]
reason = "analysis"
approved_by = "CISO"
expires = 2001-03-31
"#;
    std::fs::write(&file, policy).unwrap();
    let why = |words: &[&str]| -> Value {
        let output = interdict(&[&["why", "--json", "--policy", &file], words].concat());
        serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}", text(&output.stderr)))
    };
    let answer = why(&["ksn-a.v.test"]);
    assert_eq!((&answer["verdict"], &answer["rule"]), (&"allow".into(), &"one".into()));
    let lost = |at: usize, key: &str| answer["lost"][at][key].as_str().unwrap().to_owned();
    assert_eq!([lost(0, "rule"), lost(0, "form"), lost(0, "value")], ["some", "glob", "ksn-*.v.test"]);
    assert_eq!(
        [lost(1, "rule"), lost(1, "action"), lost(1, "why")],
        ["all", "block", "a longer name goes before"]
    );
    assert!(lost(1, "place").ends_with("p.toml:7:12"), "{answer}");

    for (client, verdict, exemption, applies, says) in [
        ("10.9.8.1", "exempt", "lab", true, "approved by CISO, until 2999-04-01T00:00:00Z"),
        ("10.9.9.1", "block", "old", false, "it ended 2001-04-01T00:00:00Z"),
        ("10.1.1.1", "block", "old", false, "10.1.1.1 is none of its clients"),
    ] {
        let answer = why(&["--client", client, "a.v.test"]);
        assert_eq!((&answer["verdict"], &answer["client"]), (&verdict.into(), &client.into()));
        let considered = &answer["exemption"];
        assert_eq!((&considered["id"], &considered["applies"]), (&exemption.into(), &applies.into()));
        assert_eq!(considered["why"], says);
    }
    let answer = why(&["192.0.2.200"]);
    assert_eq!(
        (&answer["rule"], &answer["planes"]["packet"]),
        (&"all".into(), &"drops the packets and records".into())
    );
    assert_eq!(
        (&answer["lost"][0]["rule"], &answer["lost"][0]["why"]),
        (&"some".into(), &"its ports are others".into())
    );
}

fn why_asks_the_running_agent() {
    let upstream = Upstream::start();
    let exempt = "[[exempt]]\nid = \"lab\"\nclients = [\"10.9.8.0/28\"]\nrules = [\"mine\"]\n\
        reason = \"r\"\napproved_by = \"a\"\nexpires = 2999-12-31\n";
    let agent = Agent::start(&[("p.toml", &format!("{RULE}{exempt}"))], &upstream);
    let output = agent.tell(&["why", "--json", "a.mine.test"]);
    let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&answer["rule"], &answer["verdict"]), (&"mine".into(), &"log".into()));
    assert_eq!(answer["digest"], agent.status()["digest"]);
    for (client, verdict, applies) in [("10.9.8.1", "exempt", true), ("10.9.9.1", "log", false)] {
        let output = agent.tell(&["why", "--json", "--client", client, "a.mine.test"]);
        let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!((&answer["verdict"], &answer["client"]), (&verdict.into(), &client.into()));
        let exemption = &answer["exemption"];
        assert_eq!((&exemption["id"], &exemption["applies"]), (&"lab".into(), &applies.into()));
    }
    let asks: Vec<String> =
        (0..2500).map(|i| if i == 1700 { "a b".into() } else { format!("n{i}.test") }).collect();
    std::fs::write(agent.folder.path().join("asks"), asks.join("\n")).unwrap();
    let batch = agent.folder.path().join("asks").display().to_string();
    let output = agent.tell(&["why", "--json", "--batch", &batch]);
    assert_eq!(output.status.code(), Some(1));
    let answers = text(&output.stdout);
    assert_eq!(answers.lines().count(), asks.len());
    let answers = answers.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    for (i, (answer, ask)) in answers.zip(&asks).enumerate() {
        let told = if i == 1700 { answer["line"] == 1701 } else { answer["ask"] == ask.as_str() };
        assert!(told, "{i}: {answer}");
    }
    let both = interdict(&["why", "a.test", "--at", "2026-11-24", "--profile", "p"]);
    assert_eq!(both.status.code(), Some(2), "a policy of the past has its own profile");
}

fn import_prints_a_policy_and_tells_what_it_leaves_out() {
    let folder = tempfile::TempDir::new().unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    std::fs::write(path("ads.zone"), b"v.example CNAME .\n*.v.example CNAME .\n# caf\xe9\nw.example TXT x\n")
        .unwrap();
    let output = interdict(&["import", "rpz", &path("ads.zone"), "--role", "telemetry"]);
    assert_eq!(output.status.code(), Some(1));
    let said = text(&output.stderr);
    assert!(said.contains("ads.zone:4:1: a rule cannot answer w.example"), "{said}");
    assert!(said.ends_with("1 name, 0 networks; 2 lines left out\n"), "{said}");

    std::fs::write(path("ads.toml"), &output.stdout).unwrap();
    let why = interdict(&["why", "--json", "--policy", &path("ads.toml"), "x.v.example"]);
    let why: Value = serde_json::from_slice(&why.stdout).unwrap();
    assert_eq!((&why["rule"], &why["role"]), (&"ads-nxdomain".into(), &"telemetry".into()));

    std::fs::write(path("nets.txt"), "192.0.2.0/24\n").unwrap();
    let output = interdict(&["import", "cidrs", &path("nets.txt"), "--id", "mine", "--json"]);
    assert_eq!(output.status.code(), Some(0));
    let json: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&json["networks"], &json["left_out_count"]), (&1.into(), &0.into()));
    assert!(json["text"].as_str().unwrap().contains("id = \"mine-networks\""), "{json}");

    assert_eq!(interdict(&["import", "hosts", &path("none")]).status.code(), Some(2));
    assert_eq!(interdict(&["import", "hosts", &path("nets.txt"), "--id", "No"]).status.code(), Some(2));
    std::fs::File::create(path("huge")).unwrap().set_len(100 << 20).unwrap();
    assert_eq!(interdict(&["import", "hosts", &path("huge")]).status.code(), Some(2));
}

fn bad_starts_say_what_to_do() {
    let folder = tempfile::TempDir::new().unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    let taken = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().to_string();
    let run = |words: &[&str]| {
        let output =
            interdict(&[&["run", "--data", &path("data"), "--control", &path("sock")], words].concat());
        assert_eq!(output.status.code(), Some(2));
        text(&output.stderr)
    };
    for (words, said) in [
        (&["--listen", &port, "--upstream", "127.0.0.1:9"][..], "the port is in use"),
        (
            &["--listen", "192.0.2.1:5353", "--upstream", "127.0.0.1:9"],
            "this machine does not have that address",
        ),
        (&["--listen", "127.0.0.1:5399", "--upstream", "127.0.0.1:5399"], "is our own listener"),
        (&["--listen", "0.0.0.0:5399", "--upstream", "127.0.0.1:5399"], "is our own listener"),
        (&["--listen", "127.0.0.1:0", "--upstream", "resolver"], "is not ADDRESS, ADDRESS:PORT or a URL"),
        (
            &["--listen", "127.0.0.1:0", "--upstream", "127.0.0.1:0"],
            "127.0.0.1:0 cannot be asked: nothing listens",
        ),
        (&["--listen", "127.0.0.1:5399", "--upstream", "0.0.0.0:5399"], "it is no address of one machine"),
        (&["--listen", "127.0.0.1:5399", "--upstream", "[::ffff:0.0.0.0]:5399"], "it is no address of one"),
        (&["--listen", "127.0.0.1:5399", "--upstream", "224.0.0.1"], "it is the address of many machines"),
    ] {
        let all = run(words);
        assert!(all.contains(said), "{words:?} said:\n{all}");
    }
}

fn a_file_in_the_place_of_the_control_socket_is_kept() {
    let folder = tempfile::TempDir::new().unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    std::fs::write(path("precious"), "kept").unwrap();
    let output = interdict(&[
        "run",
        "--data",
        &path("data"),
        "--control",
        &path("precious"),
        "--listen",
        "127.0.0.1:0",
        "--upstream",
        "127.0.0.1:9",
    ]);
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("precious is there and is no socket"), "{}", text(&output.stderr));
    assert_eq!(std::fs::read_to_string(path("precious")).unwrap(), "kept");
}

fn why_reads_a_batch() {
    let folder = tempfile::TempDir::new().unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    std::fs::write(path("p.toml"), RULE).unwrap();
    let asks: String =
        (0..2500).map(|i| format!("n{i}.mine.test # a comment\n\nn{i}.other.test\n")).collect();
    std::fs::write(path("asks"), asks).unwrap();
    let output = interdict(&["why", "--json", "--policy", &path("p.toml"), "--batch", &path("asks")]);
    let answers: Vec<Value> =
        text(&output.stdout).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(answers.len(), 5000);
    for (i, pair) in answers.chunks(2).enumerate() {
        assert_eq!(
            (&pair[0]["ask"], &pair[0]["verdict"]),
            (&format!("n{i}.mine.test").into(), &"log".into())
        );
        assert_eq!(
            (&pair[1]["ask"], &pair[1]["verdict"]),
            (&format!("n{i}.other.test").into(), &"none".into())
        );
    }
}

fn a_line_of_a_batch_that_asks_nothing_ends_nothing() {
    let folder = tempfile::TempDir::new().unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    std::fs::write(path("p.toml"), RULE).unwrap();
    let long = "x".repeat(10_000);
    let asks = format!("# first\nmine.test\nb c\n\n{long}\n10.0.0.1:443\n").into_bytes();
    std::fs::write(path("asks"), [&asks[..], b"caf\xe9\nlast.test"].concat()).unwrap();
    let why = |json: &[&str]| {
        let words = ["why", "--policy", &path("p.toml"), "--batch", &path("asks")];
        let output = interdict(&[&words, json].concat());
        assert_eq!(output.status.code(), Some(1));
        (text(&output.stdout), text(&output.stderr))
    };
    let wrong = [
        "line 3: \"b c\" is neither a name nor an address: it holds ' '",
        "line 5: it is longer than any name or address",
        "line 6: \"10.0.0.1:443\" is neither a name nor an address",
        "line 7: it is not UTF-8",
    ];
    let (answers, said) = why(&[]);
    assert!(
        answers.starts_with("mine.test: log") && answers.ends_with("last.test: none: no rule concerns it\n")
    );
    assert_eq!(said.lines().count(), wrong.len(), "{said}");
    said.lines().zip(wrong).for_each(|(line, wrong)| assert!(line.starts_with(wrong), "{line}"));

    let (answers, _) = why(&["--json"]);
    let answers: Vec<Value> = answers.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let lines: Vec<Option<u64>> = answers
        .iter()
        .map(|answer| answer["line"].as_u64().filter(|_| answer["error"].is_string()))
        .collect();
    assert_eq!(lines, [None, Some(3), Some(5), Some(6), Some(7), None]);
}

/// A policy with one of everything that people write and read again, each beginning to colour a terminal.
const COLOURED: &str = r#"format = 1
[[rule]]
id = "r"
role = "x"
action = "block"
hosts = ["a.test"]
note = "\u001b[31mnote"
[[exempt]]
id = "e"
clients = ["10.0.0.0/28"]
rules = ["r"]
reason = "\u001b[31mreason"
approved_by = "\u001b[31mCISO\u202e"
expires = 2999-03-31
"#;

fn what_is_escaped_in_files_reaches_no_terminal() {
    let folder = tempfile::TempDir::new().unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    std::fs::write(path("p.toml"), COLOURED).unwrap();
    std::fs::write(path("rule.toml"), RULE).unwrap();
    let test =
        "[[test]]\nname = \"\\u001b[31mN\"\nask = \"a.test\"\nexpect = \"log\"\nrule = \"\\u001b[31mX\"\n";
    std::fs::write(path("test.toml"), format!("{COLOURED}{test}")).unwrap();
    std::fs::write(path("raw.toml"), "format = 1\n\"\u{202e}\" = 1 # \u{202e}\n").unwrap();
    std::fs::write(path("\u{1b}[31m.toml"), "format = 2\n").unwrap();
    for words in [
        &["why", "--policy", &path("p.toml"), "--client", "10.0.0.1", "a.test"][..],
        &["diff", &path("rule.toml"), &path("p.toml")],
        &["check", &path("p.toml")],
        &["check", &path("test.toml")],
        &["check", &path("raw.toml")],
        &["check", &path("\u{1b}[31m.toml")],
    ] {
        let output = interdict(words);
        let said = text(&output.stdout) + &text(&output.stderr);
        assert!(!said.is_empty() && !said.contains(['\u{1b}', '\u{202e}']), "{words:?}: {said:?}");
    }
}

fn a_reader_that_leaves_ends_a_verb_in_peace() {
    use std::process::{Command, Stdio};
    let folder = tempfile::TempDir::new().unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    std::fs::write(path("p.toml"), RULE).unwrap();
    std::fs::write(path("asks"), "a.mine.test\n".repeat(10_000)).unwrap();
    let nowhere = ["--control", "/nonexistent/sock"];
    for words in [
        &["check", "--json", nowhere[0], nowhere[1]][..],
        &["check", nowhere[0], nowhere[1]],
        &["why", "--policy", &path("p.toml"), "--batch", &path("asks")],
        &["why", "--json", "--policy", &path("p.toml"), "--batch", &path("asks")],
        &["diff", &path("p.toml"), "embedded"],
        &["diff", "--json", &path("p.toml"), "embedded"],
        &["export", "json", "--policy", &path("p.toml")],
        &["schema"],
    ] {
        let mut child = Command::new(env!("CARGO_BIN_EXE_interdict"))
            .args(words)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        drop(child.stdout.take());
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success() && output.stderr.is_empty(), "{words:?}: {}", text(&output.stderr));
    }
}

fn diff_decides_again_for_the_client_of_each_event_at_its_time() {
    let folder = tempfile::TempDir::new().unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    let rule = RULE.replace("log", "block");
    let exempt = "[[exempt]]\nid = \"lab\"\nclients = [\"10.0.0.0/28\"]\nrules = [\"mine\"]\n\
        reason = \"r\"\napproved_by = \"a\"\nexpires = 2026-11-30\n";
    std::fs::write(path("without.toml"), &rule).unwrap();
    std::fs::write(path("with.toml"), format!("{rule}{exempt}")).unwrap();
    let events = [
        ("2026-11-30T12:00:00Z", "10.0.0.1"),
        ("2026-12-01T12:00:00Z", "10.0.0.2"),
        ("2026-11-30T12:00:00Z", "10.0.0.16"),
    ]
    .map(|(time, client)| {
        serde_json::json!({ "time": time, "client": client, "asked": { "name": "a.mine.test", "type": "A" } })
    });
    std::fs::write(path("events"), events.map(|event| format!("{event}\n")).concat()).unwrap();
    for (old, new, before, after) in
        [("with.toml", "without.toml", "exempt", "block"), ("without.toml", "with.toml", "block", "exempt")]
    {
        let output = interdict(&["diff", &path(old), &path(new), "--json", "--replay", &path("events")]);
        let diff: Value = serde_json::from_slice(&output.stdout).unwrap();
        let changes = &diff["replay"]["changes"];
        assert_eq!(diff["replay"]["events"], 3);
        assert_eq!(
            (changes.as_array().unwrap().len(), &changes[0]["client"]),
            (1, &"10.0.0.1".into()),
            "{changes}"
        );
        assert_eq!(
            (&changes[0]["old"]["verdict"], &changes[0]["new"]["verdict"]),
            (&before.into(), &after.into())
        );
        assert_eq!(diff["not_tried"], serde_json::json!(["exemptions"]));
    }
}

fn diff_compares_under_a_profile_and_tells_what_it_did_not_try() {
    let folder = tempfile::TempDir::new().unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    let rule =
        RULE.replace("domains = [\"mine.test\"]", "patterns = [{ under = \"mine.test\", match = 'a{64}' }]");
    let policy = |strict: &str| format!("{rule}[profile.strict]\nx = \"{strict}\"\n");
    std::fs::write(path("old.toml"), policy("log")).unwrap();
    std::fs::write(path("new.toml"), policy("block")).unwrap();
    let diff = |words: &[&str]| {
        let output = interdict(&[&["diff", &path("old.toml"), &path("new.toml")], words].concat());
        (output.status.code(), text(&output.stdout), text(&output.stderr))
    };
    let (_, said, _) = diff(&[]);
    assert!(said.contains("Both say the same.") && !said.contains("not tried"), "{said}");
    let (_, said, _) = diff(&["--profile", "strict"]);
    assert!(said.contains("profile strict changes\n    x: log -> block"), "{said}");
    assert!(
        said.contains("Nothing that was tried") && said.contains("(not tried: a pattern of which no example")
    );
    let (status, _, said) = diff(&["--profile", "none"]);
    assert!(status == Some(1) && said.contains("no profile is called \"none\""), "{said}");
}

const RULE: &str =
    "format = 1\n[[rule]]\nid = \"mine\"\nrole = \"x\"\naction = \"log\"\ndomains = [\"mine.test\"]\n";

fn the_past_is_explained_compared_and_replayed() {
    let upstream = Upstream::start();
    let agent = Agent::start(&[("p.toml", RULE)], &upstream);
    agent.dig(&["a.mine.test"]);
    let asked = agent.event("the question is on record", |event| event["rule"] == "mine");
    agent.write_policy("p.toml", &RULE.replace("log", "block"));
    let applied = agent.event("the edit is in force", |event| event["act"] == "policy.applied");
    let [old, new] = ["from", "to"].map(|which| applied["detail"][which].as_str().unwrap().to_owned());
    let data = agent.folder.path().join("data").display().to_string();

    let why = |words: &[&str]| -> Value {
        let output = interdict(&[&["why", "--json", "a.mine.test"], words].concat());
        serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}", text(&output.stderr)))
    };
    let at = |event: &Value| why(&["--at", event["time"].as_str().unwrap(), "--data", &data]);
    assert_eq!((&at(&asked)["verdict"], &at(&asked)["digest"]), (&"log".into(), &old.as_str().into()));
    assert_eq!((&at(&applied)["verdict"], &at(&applied)["digest"]), (&"block".into(), &new.as_str().into()));
    let before = interdict(&["why", "a.mine.test", "--at", "2020-01-01", "--data", &data]);
    assert_eq!(before.status.code(), Some(2));
    assert!(
        text(&before.stderr).contains("no agent ran at 2020-01-01T00:00:00Z"),
        "{}",
        text(&before.stderr)
    );

    let output = interdict(&["diff", &old, &new, "--data", &data, "--replay", &data, "--json"]);
    let diff: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(
        diff["entries"][0]["keys"],
        serde_json::json!([{"key": "action", "old": ["log"], "new": ["block"]}])
    );
    assert_eq!(diff["decisions"][0]["ask"], "any-name-below.mine.test");
    let change = &diff["replay"]["changes"][0];
    assert_eq!((&change["ask"], &change["client"]), (&"a.mine.test".into(), &"127.0.0.1".into()));
    assert_eq!((&change["old"]["verdict"], &change["new"]["verdict"]), (&"log".into(), &"block".into()));
    let same = interdict(&["diff", "embedded", "embedded"]);
    assert!(same.status.success() && text(&same.stdout).contains("Both say the same."));
}
