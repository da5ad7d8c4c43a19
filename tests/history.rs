//! What others noted before there was a record: real logs of real servers, and what becomes of them in the record and the report.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::case;
use crate::support::{Agent, Case, Upstream, dig, free_address, interdict, tool_path, until};

pub(crate) fn cases() -> Vec<Case> {
    vec![
        case!(the_logs_of_bind_are_imported_and_reported, Named),
        case!(the_log_of_unbound_is_imported, Unbound),
        case!(nothing_is_imported_twice),
        case!(an_import_that_ended_in_the_middle_goes_on),
        case!(files_of_one_command_go_together),
        case!(what_cannot_be_read_is_named, Dig),
        case!(a_witness_signs_and_a_changed_past_is_refused, Dig),
        case!(a_report_is_handed_out_with_its_proof, Dig),
    ]
}

const POLICY: &str = r#"
format = 1
[[rule]]
id = "v"
role = "update"
action = "block"
domains = ["v.example"]
[[unit]]
id = "hq"
title = "HQ"
networks = ["127.0.0.0/8", "10.0.0.0/8"]
"#;

fn start() -> Agent {
    Agent::start(&[("p.toml", POLICY)], &Upstream::start())
}

/// A server in its folder, ended with the test.
struct Running(Child);

impl Running {
    fn start(tool: &str, words: &[&str]) -> Self {
        let tool = tool_path(tool).expect("the harness has looked for it");
        let child = Command::new(tool).args(words).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        Self(child.unwrap())
    }

    /// Ends it as its operator does, so that its logs are whole.
    fn stop(mut self) {
        let pid = rustix::process::Pid::from_child(&self.0);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        self.0.wait().unwrap();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The path of a file with this text.
fn file(folder: &TempDir, name: &str, text: &str) -> String {
    let path = folder.path().join(name);
    fs::write(&path, text).unwrap();
    path.display().to_string()
}

fn import(agent: &Agent, words: &[&str], code: i32) -> Value {
    let output = agent.tell(&[&["audit", "import", "--json"], words].concat());
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(code), "{words:?}: {said}");
    match output.stdout.is_empty() {
        true => said.into(),
        false => serde_json::from_slice(&output.stdout).unwrap(),
    }
}

/// `FORMAT VERDICT NAME TYPE CHANNEL xCOUNT` of each event that others noted.
fn noted(agent: &Agent) -> Vec<String> {
    let events = agent.events().into_iter().filter(|event| !event["origin"].is_null());
    let text = |value: &Value| value.as_str().unwrap_or("-").to_owned();
    let line = |event: Value| {
        let asked = &event["asked"];
        format!(
            "{} {} {} {} {} x{}",
            text(&event["origin"]["format"]),
            text(&event["verdict"]),
            text(&asked["name"]),
            text(&asked["type"]),
            text(&event["channel"]),
            event["count"]
        )
    };
    events.filter(|event| event["verdict"].is_string()).map(line).collect()
}

fn the_logs_of_bind_are_imported_and_reported() {
    let folder = TempDir::new().unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    let address = free_address();
    let zone = |origin: &str, records: &str| {
        format!("$ORIGIN {origin}.\n$TTL 60\n@ SOA a. b. 1 2 3 4 5\n@ NS a.\n{records}")
    };
    fs::write(path("v.zone"), zone("v.example", "www A 192.0.2.1\ncdn CNAME www\n")).unwrap();
    fs::write(path("rpz.zone"), zone("ban.rpz", "bad.v.example CNAME .\n")).unwrap();
    let config = format!(
        "options {{ directory \"{0}\"; listen-on port {1} {{ 127.0.0.1; }}; listen-on-v6 {{ none; }}; pid-file none;\n\
         session-keyfile none; recursion yes; dnssec-validation no; forward only; forwarders {{ }};\n\
         response-policy {{ zone \"ban.rpz\"; }} qname-wait-recurse no; dnstap {{ client; }}; dnstap-output file \"{0}/tap\"; }};\n\
         controls {{ }}; zone \"v.example\" {{ type primary; file \"v.zone\"; }};\n\
         zone \"ban.rpz\" {{ type primary; file \"rpz.zone\"; }};\n\
         logging {{ channel q {{ file \"{0}/queries\"; print-time yes; print-category yes; }}; category queries {{ q; }}; category rpz {{ q; }}; }};\n",
        folder.path().display(),
        address.port()
    );
    fs::write(path("named.conf"), config).unwrap();
    let named = Running::start("named", &["-f", "-c", &path("named.conf")]);
    until("it answers", || dig(address, &["version.bind", "CH", "TXT"]).0.contains("NOERROR").then_some(()));
    dig(address, &["www.v.example"]).has("192.0.2.1");
    dig(address, &["www.v.example"]).has("192.0.2.1");
    dig(address, &["CDN.v.example", "AAAA", "+tcp"]).has("NOERROR");
    dig(address, &["bad.v.example"]).has("NXDOMAIN");
    dig(address, &["a\\032b.v.example"]).has("NXDOMAIN");
    named.stop();
    // Its clock and ours are one, so all of it is of the time before the agent.
    let agent = start();
    let done = import(&agent, &[&path("queries"), &path("tap")], 0);
    let shown: Vec<_> = ["format", "entries", "contacts", "blocked", "clients", "strange"]
        .iter()
        .map(|key| [done[0][key].clone(), done[1][key].clone()])
        .collect();
    assert_eq!(shown[0], ["bind".into(), Value::from("dnstap")]);
    assert!(shown[1].iter().all(|entries| entries.as_u64() >= Some(6)), "{done}");
    assert_eq!(shown[2..], [[5, 5], [1, 0], [1, 1], [0, 0]].map(|pair| pair.map(Value::from)));
    assert_eq!(
        noted(&agent),
        [
            "bind log a\\032b.v.example A udp x1",
            "bind log cdn.v.example AAAA tcp x1",
            "bind log www.v.example A udp x2",
            "bind block bad.v.example A udp x1",
            // BIND says to dnstap nothing of policy zones.
            "dnstap log a\\032b.v.example A udp x1",
            "dnstap log bad.v.example A udp x1",
            "dnstap log cdn.v.example AAAA tcp x1",
            "dnstap log www.v.example A udp x2",
        ]
    );
    let report = until("the index has them", || {
        let words = ["report", "--json", "--from", "2026-01-01", "--to", "2099-01-01"];
        let report: Value = serde_json::from_slice(&agent.tell(&words).stdout).ok()?;
        (report["imported"].as_array()?.len() == 2).then_some(report)
    });
    assert_eq!(
        (&report["total"]["roles"]["update"]["contacts"], &report["units"][0]["unit"]),
        (&10.into(), &"hq".into())
    );
    assert_eq!(report["imported"][1]["file"], "tap");
    let said = String::from_utf8(agent.tell(&["tail", "--no-follow"]).stdout).unwrap();
    assert!(said.contains("(by dnstap)"), "{said}");
    // Of who was in contact then, signs of life are noted from now on.
    agent.dig(&["www.example.org"]).has("NOERROR");
    agent.event("the client is alive", |event| event["act"] == "client.alive" && event["origin"].is_null());
    assert!(agent.tell(&["audit", "verify"]).status.success());
}

fn the_log_of_unbound_is_imported() {
    let folder = TempDir::new().unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    let address = free_address();
    for (flags, expect) in [
        ("log-time-ascii: yes\n log-queries: yes\n log-replies: yes\n log-local-actions: yes", "block"),
        ("log-replies: yes\n log-tag-queryreply: yes", "log"),
    ] {
        let config = format!(
            "server:\n interface: 127.0.0.1@{0}\n username: \"\"\n chroot: \"\"\n pidfile: \"\"\n use-syslog: no\n directory: \"{1}\"\n \
             logfile: \"{1}/log\"\n module-config: \"iterator\"\n local-zone: \"v.example.\" always_nxdomain\n {flags}\n",
            address.port(),
            folder.path().display()
        );
        fs::write(path("unbound.conf"), config).unwrap();
        let _ = fs::remove_file(path("log"));
        let unbound = Running::start("unbound", &["-d", "-c", &path("unbound.conf")]);
        until("it answers", || dig(address, &["ready.v.example"]).0.contains("NXDOMAIN").then_some(()));
        dig(address, &["www.v.example"]).has("NXDOMAIN");
        dig(address, &["WWW.v.example", "+tcp"]).has("NXDOMAIN");
        dig(address, &["localhost", "AAAA"]).has("NOERROR");
        unbound.stop();
        let agent = start();
        let done = import(&agent, &[&path("log")], 0);
        assert_eq!((&done[0]["format"], &done[0]["strange"]), (&"unbound".into(), &0.into()), "{done}");
        let noted = noted(&agent);
        assert!(noted.contains(&format!("unbound {expect} www.v.example A - x2")), "{noted:?}");
        assert!(!noted.iter().any(|line| line.contains("localhost")), "{noted:?}");
    }
}

/// An Unbound log with a contact of this client each hour of some days in 2025, and another question beside each.
fn log(days: std::ops::Range<u32>) -> String {
    let begun = 1_748_736_000_u64;
    let line = |hour: u32| {
        let time = begun + u64::from(hour) * 3600;
        let client = hour % 3 + 1;
        format!(
            "[{time}] unbound[1:0] info: 10.0.0.{client} n{}.v.example. A IN\n[{time}] unbound[1:0] info: 10.0.0.{client} other.example. A IN\n",
            hour % 500
        )
    };
    (days.start * 24..days.end * 24).map(line).collect()
}

fn nothing_is_imported_twice() {
    let agent = start();
    let folder = TempDir::new().unwrap();
    let path = |name: &str, text: &str| file(&folder, name, text);
    let one = path("one.log", &log(0..40));
    let dry = import(&agent, &["--dry-run", &one], 0);
    assert_eq!((&dry[0]["contacts"], &dry[0]["clients"]), (&960.into(), &3.into()));
    assert_eq!(noted(&agent).len(), 0);
    import(&agent, &[&one], 0);
    let events = dry[0]["events"].as_u64().unwrap();
    assert_eq!(noted(&agent).len() as u64, events);
    // The same again, as it is and grown; and the same days by another.
    let again = import(&agent, &[&one], 1);
    assert_eq!((&again[0]["contacts"], &again[0]["left_out"]["imported"]), (&0.into(), &1920.into()));
    let grown = import(&agent, &[&path("grown.log", &log(0..41))], 0);
    assert_eq!((&grown[0]["contacts"], &grown[0]["left_out"]["imported"]), (&24.into(), &1920.into()));
    let other =
        import(&agent, &["--source", "ns2", "--from", "2025-06-02", "--until", "2025-06-03", &one], 0);
    assert_eq!((&other[0]["contacts"], &other[0]["source"]), (&24.into(), &"ns2".into()));
}

fn an_import_that_ended_in_the_middle_goes_on() {
    let folder = TempDir::new().unwrap();
    // Beside contacts a client that stops, and gives a sign of life each day.
    let quiet = |day: u64, name: &str| {
        format!("[{}] unbound[1:0] info: 10.0.0.9 {name}.example. A IN\n", 1_748_736_000 + 86_400 * day)
    };
    let lives: String =
        quiet(2, "other") + &quiet(3, "v") + &(4..39).map(|day| quiet(day, "other")).collect::<String>();
    let text = log(0..40) + &lives;
    let path = file(&folder, "whole.log", &text);
    let whole = start();
    import(&whole, &[&path], 0);
    let imported = |agent: &Agent| {
        let events = agent.events().into_iter().filter(|event| !event["origin"].is_null());
        events.collect::<Vec<Value>>()
    };
    let events = imported(&whole);
    let alive = events.iter().filter(|event| event["act"] == "client.alive").count();
    assert_eq!(alive, 35, "none before the first contact");
    let begun = whole.event("it begins", |event| event["act"] == "history.begun");
    // Another agent is told the beginning, and no more.
    let half = start();
    let told = |part: Value| {
        let mut stream = UnixStream::connect(half.control()).unwrap();
        writeln!(stream, "{part}").unwrap();
        let mut answer = String::new();
        BufReader::new(stream).read_line(&mut answer).unwrap();
        assert_eq!(answer, "{}\n");
    };
    let digest = &begun["digest"];
    told(json!({ "verb": "import", "part": "begin", "digest": digest, "detail": begun["detail"] }));
    let keys = ["asked", "channel", "verdict", "rule", "role", "exemption", "count", "depth"];
    let contact = |event: &Value| {
        let decided: serde_json::Map<String, Value> =
            keys.iter().map(|key| ((*key).to_owned(), event[key].clone())).collect();
        let decided = if event["verdict"].is_null() { Value::Null } else { decided.into() };
        json!({ "client": event["client"], "period": [event["first"], event["last"]], "decided": decided })
    };
    // Within the signs of life, which are the last.
    let contacts: Vec<Value> = events[..events.len() - 9].iter().map(contact).collect();
    told(
        json!({ "verb": "import", "part": "contacts", "digest": digest, "cited": events[0]["origin"], "contacts": contacts }),
    );
    // It is not lost when the log has grown since.
    let more = file(&folder, "more.log", &(text + &log(40..42)));
    // What is not the same file is refused until that is over.
    let other = file(&folder, "other.log", &log(50..51));
    let said = import(&half, &[&other], 2);
    assert!(said.as_str().unwrap().contains("ended in the middle"), "{said}");
    assert_eq!(import(&half, &["--dry-run", &more], 0)[1]["contacts"], 48);
    // Whatever is asked for now, what began is ended as it began.
    let done = import(&half, &["--until", "2025-07-13", &more], 0);
    assert_eq!(
        (&done[0]["resumed"], &done[0]["contacts"], &done[1]["contacts"]),
        (&true.into(), &961.into(), &48.into())
    );
    import(&whole, &[&more], 0);
    let told = |agent: &Agent| {
        let keys = ["client", "first", "last", "act", "asked", "verdict", "count"];
        imported(agent).iter().map(|event| keys.map(|key| event[key].clone())).collect::<Vec<_>>()
    };
    assert_eq!(told(&half), told(&whole));
    import(&half, &[&other], 0);
}

fn what_cannot_be_read_is_named() {
    let agent = start();
    let folder = TempDir::new().unwrap();
    let path = |name: &str, text: &str| file(&folder, name, text);
    for (words, says) in [
        (vec![path("a", "hello\n")], "a is none of what is read here (pihole, adguard"),
        (vec![path("b", "")], "b is none of what is read here"),
        (vec!["--format".into(), "bind".into(), path("c", "hello\n")], "c holds no entries of bind"),
        (
            vec!["--format".into(), "pihole".into(), path("d", "hello\n")],
            "cannot read d: file is not a database",
        ),
        (vec!["--format".into(), "dnstap".into(), path("e", "hello\n")], "cannot read e: a frame of"),
        (vec!["--format".into(), "pcap".into(), path("f", "hello\n")], "cannot read f: it is no capture"),
        (vec![folder.path().join("g").display().to_string()], "No such file"),
        (vec!["/dev/zero".into()], "/dev/zero is no regular file"),
        (vec![folder.path().display().to_string()], "is no regular file"),
        (vec!["--timezone".into(), "Mars/Base".into(), path("h", "")], "Mars/Base"),
    ] {
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let said = import(&agent, &words, 2);
        assert!(said.as_str().unwrap().contains(says), "{words:?}: {said}");
    }
    // Half of it can be read: that is on record, and the other half is told.
    let log = "[1748736000] unbound[1:0] info: 10.0.0.1 a.v.example. A IN\n[1748736000] unbound[1:0] info: 10.0.0.1 a..v.example. A IN\n";
    let done = import(&agent, &[&path("half.log", log)], 1);
    assert_eq!(
        (&done[0]["contacts"], &done[0]["strange"], &done[0]["first_strange"]),
        (&1.into(), &1.into(), &2.into())
    );
    assert_eq!(noted(&agent), ["unbound log a.v.example A - x1"]);
}

/// Zeek keeps questions and connections in two files, and two servers keep a log each.
fn files_of_one_command_go_together() {
    let agent = start();
    let folder = TempDir::new().unwrap();
    let path = |name: &str, text: &str| file(&folder, name, text);
    let dns = path(
        "dns.log",
        "{\"ts\":1748736000.5,\"id.orig_h\":\"10.0.0.5\",\"id.resp_h\":\"8.8.8.8\",\"proto\":\"udp\",\"query\":\"a.v.example\",\"qtype_name\":\"A\",\"answers\":[\"192.0.2.7\"],\"TTLs\":[60.0]}\n",
    );
    let conn = path(
        "conn.log",
        "{\"ts\":1748736001.5,\"id.orig_h\":\"10.0.0.5\",\"id.resp_h\":\"192.0.2.7\",\"id.resp_p\":443,\"proto\":\"tcp\",\"conn_state\":\"SF\",\"orig_pkts\":3,\"resp_bytes\":9}\n",
    );
    let dry = import(&agent, &["--dry-run", &dns, &conn], 0);
    let done = import(&agent, &[&dns, &conn], 0);
    for done in [dry, done] {
        assert_eq!((&done[0]["contacts"], &done[1]["contacts"]), (&1.into(), &3.into()), "{done}");
    }
    let question =
        |client: u8| format!("[1748736000] unbound[1:0] info: 10.0.0.{client} a.v.example. A IN\n");
    let [one, two, three] = [1, 2, 3].map(|client| path(&format!("{client}.log"), &question(client)));
    let done = import(&agent, &[&one, &two], 0);
    assert_eq!((&done[0]["contacts"], &done[1]["contacts"]), (&1.into(), &1.into()), "{done}");
    // Of a third one nobody knows whether it is another's; that is a finding.
    let done = import(&agent, &[&three], 1);
    assert_eq!(done[0]["left_out"]["imported"], 1);
    import(&agent, &["--source", "ns3", &three], 0);
    assert!(import(&agent, &[&one, &one], 2).as_str().unwrap().contains("among the files twice"));
    let said = import(&agent, &["--from", "2026-01-02", "--until", "2026-01-01", &one], 2);
    assert!(said.as_str().unwrap().contains("nothing is between"), "{said}");
}

fn a_witness_signs_and_a_changed_past_is_refused() {
    let agent = start();
    agent.dig(&["a.v.example"]).has("NXDOMAIN");
    agent.event("it is on record", |event| event["plane"] == "dns");
    let media = TempDir::new().unwrap();
    let state = media.path().join("witness").display().to_string();
    let folder = agent.stop();
    let data = folder.path().join("data").display().to_string();
    let run = |words: &[&str], code: i32| {
        let output = interdict(&[&["audit"], words].concat());
        let said =
            format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert_eq!(output.status.code(), Some(code), "{words:?}: {said}");
        said
    };
    let said = run(&["witness", "--state", &state, "--data", &data], 0);
    assert!(said.contains("from now on this witness believes") && said.contains("0 seen before"), "{said}");
    let seen = run(&["witness", "--state", &state, "--size"], 0);
    // By way of another machine.
    let agent = Agent::start_in(folder, &Upstream::start()).unwrap_or_else(|said| panic!("{said}"));
    agent.dig(&["b.v.example"]).has("NXDOMAIN");
    agent.event("it is on record", |event| event["asked"]["name"] == "b.v.example");
    let folder = agent.stop();
    let offer = media.path().join("offer");
    fs::write(&offer, run(&["offer", "--old", seen.trim(), "--data", &data], 0)).unwrap();
    run(&["witness", "--state", &state, offer.to_str().unwrap()], 0);
    let key = fs::read_to_string(media.path().join("witness/witness.pub")).unwrap();
    let cosigned = media.path().join("witness/cosigned").display().to_string();
    let against = ["verify", "--data", &data, "--against", &cosigned, "--witness"];
    assert!(run(&[&against[..], &[key.trim()]].concat(), 0).contains("verified"));
    let log_key = fs::read_to_string(folder.path().join("data/keys/log.pub")).unwrap();
    assert!(run(&[&against[..], &[log_key.trim()]].concat(), 1).contains("is not signed by the witness"));
    // Whoever has the keys makes another record of the same name.
    fs::remove_dir_all(folder.path().join("data/log")).unwrap();
    fs::remove_file(folder.path().join("data/keys/newest")).unwrap();
    let agent = Agent::start_in(folder, &Upstream::start()).unwrap_or_else(|said| panic!("{said}"));
    for name in ["c", "d", "e", "f", "g", "h"] {
        agent.dig(&[&format!("{name}.v.example")]).has("NXDOMAIN");
    }
    agent.event("it is on record", |event| event["asked"]["name"] == "h.v.example");
    let folder = agent.stop();
    let data = folder.path().join("data").display().to_string();
    let said = run(&["witness", "--state", &state, "--data", &data], 1);
    assert!(said.contains("NOT signed: "), "{said}");
    run(&["verify", "--data", &data], 0);
    assert!(
        run(&["verify", "--data", &data, "--against", &cosigned], 1).contains("there are two, or it was cut")
    );
}

fn a_report_is_handed_out_with_its_proof() {
    let agent = start();
    agent.dig(&["a.v.example"]).has("NXDOMAIN");
    agent.event("it is on record", |event| event["plane"] == "dns");
    let folder = TempDir::new().unwrap();
    let pack = folder.path().join("q4");
    let words = ["report", "--from", "2026-01-01", "--to", "2099-01-01", "--pack", pack.to_str().unwrap()];
    assert!(agent.tell(&words).status.success());
    assert_eq!(agent.tell(&words).status.code(), Some(2), "what is there is not written over");
    let made = agent.event("that is on record", |event| event["act"] == "report.made");
    let verify = |code: i32| {
        let output = interdict(&["audit", "verify", pack.to_str().unwrap()]);
        let said =
            format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert_eq!(output.status.code(), Some(code), "{said}");
        said
    };
    assert!(verify(0).contains("verified the report"));
    let sums =
        Command::new("sha256sum").args(["-c", "--quiet", "SHA256SUMS"]).current_dir(&pack).status().unwrap();
    assert!(sums.success());
    let files: Vec<&String> = made["detail"]["files"].as_object().unwrap().keys().collect();
    assert_eq!(files, ["events.pack", "report.csv", "report.html", "report.json", "report.txt"]);
    for name in files.into_iter().map(String::as_str).chain(["SHA256SUMS", "report.proof"]) {
        let path = pack.join(name);
        let whole = fs::read(&path).unwrap();
        let mut changed = whole.clone();
        let middle = changed.len() / 2;
        changed[middle] ^= 1;
        fs::write(&path, changed).unwrap();
        verify(1);
        fs::write(&path, whole).unwrap();
    }
    // Wherever the proof is changed: in a number, a hash, the event or a signature, to another of its letters or to none.
    let path = pack.join("report.proof");
    let whole = fs::read(&path).unwrap();
    for at in (0..whole.len() - 1).step_by(whole.len() / 60) {
        for letter in [b'A', b'.'].into_iter().filter(|letter| *letter != whole[at]) {
            let mut changed = whole.clone();
            changed[at] = letter;
            fs::write(&path, changed).unwrap();
            verify(1);
        }
    }
    fs::write(&path, whole).unwrap();
    let page = fs::read(pack.join("report.html")).unwrap();
    fs::write(pack.join("report-2.html"), &page).unwrap();
    assert!(verify(1).contains("report-2.html: it is no part of the report"));
    fs::remove_file(pack.join("report-2.html")).unwrap();
    for name in ["report.html", "events.pack"] {
        let whole = fs::read(pack.join(name)).unwrap();
        fs::remove_file(pack.join(name)).unwrap();
        assert!(verify(1).contains(&format!("{name}: it is missing")));
        std::os::unix::fs::symlink("report.json", pack.join(name)).unwrap();
        assert!(verify(1).contains(&format!("{name}: it is missing")));
        fs::remove_file(pack.join(name)).unwrap();
        fs::write(pack.join(name), whole).unwrap();
    }
    verify(0);
}
