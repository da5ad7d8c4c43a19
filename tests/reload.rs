//! A policy comes into force whole and at once, or not at all.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use rustix::process::Signal;
use serde_json::json;

use crate::case;
use crate::support::{Agent, Case, Upstream, interdict, until};

pub(crate) fn cases() -> Vec<Case> {
    vec![
        case!(an_edit_is_in_force_at_once, Dig),
        case!(sighup_and_the_verb_reload, Dig),
        case!(a_broken_edit_leaves_the_policy_in_force_and_says_where),
        case!(a_folder_put_in_the_place_of_the_policy_folder_is_followed),
        case!(a_reload_that_failed_for_want_of_something_else_is_tried_again),
        case!(a_broken_policy_at_start_brings_back_the_last_good_one, Dig),
        case!(with_nothing_ever_good_nothing_starts),
        case!(killed_during_reloads_it_starts_again, Dig),
        case!(no_answer_is_wrong_while_policies_are_swapped),
    ]
}

fn policy(domain: &str) -> String {
    format!(
        "format = 1\n[ban]\nid = \"v\"\nvendor = \"V\"\n[[rule]]\nid = \"v-all\"\nrole = \"x\"\naction = \"block\"\ndomains = [\"{domain}\", \"always.test\"]\n"
    )
}

fn start(upstream: &Upstream) -> Agent {
    Agent::start(&[("v.toml", &policy("one.test"))], upstream)
}

fn an_edit_is_in_force_at_once() {
    let upstream = Upstream::start();
    let agent = start(&upstream);
    assert_eq!(agent.dig(&["a.one.test"]).status(), "NXDOMAIN");
    agent.dig(&["a.two.test"]).has("192.0.2.7");
    let before = agent.status()["digest"].clone();
    agent.write_policy("v.toml", &policy("two.test"));
    let applied = agent.event("the edit is in force", |event| event["act"] == "policy.applied");
    assert_eq!(applied["detail"]["from"], before);
    assert_eq!(applied["detail"]["to"], agent.status()["digest"]);
    // What the cache knows does not outlive the ban.
    assert_eq!(agent.dig(&["a.two.test"]).status(), "NXDOMAIN");
    agent.dig(&["a.one.test"]).has("192.0.2.7");
}

fn sighup_and_the_verb_reload() {
    let upstream = Upstream::start();
    let agent = start(&upstream);
    let causes = || {
        let unchanged = agent.events().into_iter().filter(|event| event["act"] == "policy.unchanged");
        unchanged.map(|event| event["detail"]["cause"].clone()).collect::<Vec<_>>()
    };
    let uid = rustix::process::geteuid().as_raw();
    assert!(agent.tell(&["reload", "--json"]).status.success());
    until("the verb's reload is on record", || (causes() == [json!({ "uid": uid })]).then_some(()));
    agent.signal(Signal::HUP);
    let both = [json!({ "uid": uid }), json!("signal")];
    until("the signal's reload is on record", || (causes() == both).then_some(()));
}

fn a_broken_edit_leaves_the_policy_in_force_and_says_where() {
    let upstream = Upstream::start();
    let agent = start(&upstream);
    let before = agent.status()["digest"].clone();
    agent.write_policy("v.toml", "format = 1\n[[rule]]\nid = \"v-all\"\n");
    let refused = agent.event("the refusal is on record", |event| event["act"] == "policy.refused");
    assert!(refused["detail"]["problems"][0].as_str().unwrap().contains("v.toml:2:1: rule has no role"));
    let status = agent.tell(&["status"]);
    assert_eq!(status.status.code(), Some(1));
    assert_eq!(agent.status()["digest"], before);
    let output = agent.tell(&["reload"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("v.toml:2:1"));
    agent.write_policy("v.toml", &policy("three.test"));
    until("the mended edit is in force", || agent.tell(&["status"]).status.success().then_some(()));
}

/// As deployments do it: another folder is moved to where the policy folder was, later edits are made in place.
fn a_folder_put_in_the_place_of_the_policy_folder_is_followed() {
    let upstream = Upstream::start();
    let agent = start(&upstream);
    let path = |name: &str| agent.folder.path().join(name);
    let in_force = |text: &str| {
        std::fs::write(path("expected.toml"), text).unwrap();
        let expected = interdict(&["check", "--json", &path("expected.toml").display().to_string()]);
        let expected: serde_json::Value = serde_json::from_slice(&expected.stdout).unwrap();
        until("the policy is in force", || {
            let status = agent.status();
            (status["digest"] == expected["digest"] && status["in_force"] == true).then_some(())
        });
    };
    for round in 0..3 {
        std::fs::rename(path("policy"), path(&format!("old{round}"))).unwrap();
        until("status tells that the folder is gone", || {
            agent.status()["warning"].as_str().filter(|warning| warning.contains("not in order")).map(drop)
        });
        let refused = format!("{}: no such file or folder", path("policy").display());
        let refusals = |event: &serde_json::Value| {
            let problem = event["detail"]["problems"][0].as_str().unwrap_or_default();
            event["act"] == "policy.refused" && problem.starts_with(&refused)
        };
        agent.event("the refusal is on record", refusals);
        std::fs::create_dir(path("new")).unwrap();
        std::fs::write(path("new/v.toml"), policy(&format!("new{round}.test"))).unwrap();
        std::fs::rename(path("new"), path("policy")).unwrap();
        in_force(&policy(&format!("new{round}.test")));
        std::fs::write(path("policy/v.toml"), policy(&format!("edited{round}.test"))).unwrap();
        in_force(&policy(&format!("edited{round}.test")));
    }
    // Moved away and back at once, it is still followed.
    std::fs::rename(path("policy"), path("aside")).unwrap();
    std::fs::rename(path("aside"), path("policy")).unwrap();
    std::thread::sleep(std::time::Duration::from_millis(200));
    std::fs::write(path("policy/v.toml"), policy("back.test")).unwrap();
    in_force(&policy("back.test"));
}

fn a_reload_that_failed_for_want_of_something_else_is_tried_again() {
    use std::os::unix::fs::PermissionsExt;
    let upstream = Upstream::start();
    let agent = start(&upstream);
    let kept = agent.folder.path().join("data/policies");
    let allow = |mode| std::fs::set_permissions(&kept, std::fs::Permissions::from_mode(mode)).unwrap();
    allow(0o500);
    agent.write_policy("v.toml", &policy("two.test"));
    let warning = until("status warns", || agent.status()["warning"].as_str().map(str::to_owned));
    assert!(
        warning.starts_with("the policy files are in order, but an earlier policy is in force"),
        "{warning}"
    );
    allow(0o700);
    let applied = agent.event("it is tried again", |event| event["act"] == "policy.applied");
    assert_eq!(applied["detail"]["cause"], "retry");
    assert_eq!(agent.status()["in_force"], true);
}

fn a_broken_policy_at_start_brings_back_the_last_good_one() {
    let upstream = Upstream::start();
    let agent = start(&upstream);
    let digest = agent.status()["digest"].clone();
    agent.write_policy("v.toml", "format = 9\n");
    let folder = agent.kill();
    let agent = Agent::start_in(folder, &upstream).unwrap();
    assert_eq!(agent.status()["digest"], digest);
    assert_eq!(agent.dig(&["a.one.test"]).status(), "NXDOMAIN");
    let status = agent.tell(&["status"]);
    assert_eq!(status.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&status.stdout).contains("last known good"));
}

fn with_nothing_ever_good_nothing_starts() {
    let folder = tempfile::TempDir::new().unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    std::fs::write(path("broken.toml"), "format = 1\n[[rule]]\nid = \"X\"\n").unwrap();
    let output = interdict(&[
        "run",
        "--policy",
        &path("broken.toml"),
        "--data",
        &path("data"),
        "--control",
        &path("sock"),
        "--listen",
        "127.0.0.1:0",
        "--upstream",
        "127.0.0.1:9",
    ]);
    assert_eq!(output.status.code(), Some(2));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("broken.toml:3:6") && said.contains("nothing was started"), "{said}");
}

fn killed_during_reloads_it_starts_again() {
    let upstream = Upstream::start();
    let mut folder = None;
    for round in 0..5 {
        let agent = match folder.take() {
            None => start(&upstream),
            Some(folder) => Agent::start_in(folder, &upstream).unwrap(),
        };
        for edit in 0..4 {
            agent.write_policy("v.toml", &policy(&format!("r{round}e{edit}.test")));
            agent.signal(Signal::HUP);
        }
        folder = Some(agent.kill());
    }
    let agent = Agent::start_in(folder.unwrap(), &upstream).unwrap();
    assert_eq!(agent.dig(&["a.r4e3.test"]).status(), "NXDOMAIN");
    let events = agent.events();
    for (i, event) in events.iter().enumerate() {
        assert_eq!(event["seq"], i as u64 + 1, "the numbers are dense over every start");
    }
}

/// While one client asks without pause, policies that agree on one name are swapped under it.
fn no_answer_is_wrong_while_policies_are_swapped() {
    let upstream = Upstream::start();
    let agent = start(&upstream);
    let address = agent.address();
    let (stop, asked) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let (stopped, counted) = (stop.clone(), asked.clone());
    let client = std::thread::spawn(move || {
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.connect(address).unwrap();
        socket.set_read_timeout(Some(std::time::Duration::from_secs(2))).unwrap();
        let mut wrong = 0;
        let mut buffer = [0; 1232];
        let mut id = 0u16;
        while !stopped.load(Ordering::Relaxed) {
            id = id.wrapping_add(1);
            let question =
                [&id.to_be_bytes()[..], b"\x01\0\0\x01\0\0\0\0\0\0\x01a\x06always\x04test\0\0\x01\0\x01"];
            socket.send(&question.concat()).unwrap();
            let answered =
                socket.recv(&mut buffer).is_ok_and(|len| len > 12 && buffer[..2] == id.to_be_bytes());
            if !answered || buffer[3] & 0x0f != 3 {
                wrong += 1;
            }
            counted.fetch_add(1, Ordering::Relaxed);
        }
        wrong
    });
    for round in 0..300 {
        agent.write_policy("v.toml", &policy(&format!("n{round}.test")));
        let socket = agent.control();
        let answer = ::interdict::control::ask(&socket, &::interdict::control::Request::Reload).unwrap();
        assert_eq!(answer["applied"], true, "{answer}");
    }
    stop.store(true, Ordering::Relaxed);
    assert_eq!(client.join().unwrap(), 0, "of {} answers", asked.load(Ordering::Relaxed));
    assert!(asked.load(Ordering::Relaxed) > 1000);
}
