//! Events at Debian's rsyslog, over everything that syslog is carried by.

use std::fs;
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};

use serde_json::Value;
use tempfile::TempDir;

use crate::case;
use crate::support::{Agent, Case, Upstream, bind_both, tool_path, until};

pub(crate) fn cases() -> Vec<Case> {
    vec![
        case!(rsyslog_has_every_event_over_udp_tcp_and_tls, Rsyslog),
        case!(a_stream_goes_on_where_it_ended, Rsyslog),
        case!(a_collector_that_is_not_who_it_should_be_is_told_nothing, Rsyslog),
        case!(a_stream_that_cannot_be_is_named),
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

/// A collector that writes down each message as it came.
struct Collector {
    folder: TempDir,
    child: Child,
    address: SocketAddr,
    tls: SocketAddr,
}

fn free() -> SocketAddr {
    bind_both(std::net::Ipv4Addr::LOCALHOST.into()).0.local_addr().unwrap()
}

impl Collector {
    fn start() -> Self {
        let folder = TempDir::new().unwrap();
        let made = rcgen::generate_simple_self_signed(vec!["siem.test".to_owned()]).unwrap();
        let path = |name: &str| folder.path().join(name).display().to_string();
        fs::write(path("cert.pem"), made.cert.pem()).unwrap();
        fs::write(path("key.pem"), made.signing_key.serialize_pem()).unwrap();
        let (address, tls) = (free(), free());
        let config = format!(
            r#"
global(workDirectory="{work}" maxMessageSize="64k" defaultNetstreamDriverCAFile="{cert}"
       defaultNetstreamDriverCertFile="{cert}" defaultNetstreamDriverKeyFile="{key}")
module(load="imudp")
module(load="imtcp")
template(name="raw" type="string" string="%rawmsg%\n")
ruleset(name="all") {{ action(type="omfile" file="{out}" template="raw") }}
input(type="imudp" address="127.0.0.1" port="{port}" ruleset="all")
input(type="imtcp" address="127.0.0.1" port="{port}" ruleset="all")
input(type="imtcp" address="127.0.0.1" port="{tls_port}" ruleset="all" streamDriver.name="ossl" streamDriver.mode="1"
      streamDriver.authMode="anon")
"#,
            work = folder.path().display(),
            cert = path("cert.pem"),
            key = path("key.pem"),
            out = path("out"),
            port = address.port(),
            tls_port = tls.port(),
        );
        fs::write(path("rsyslog.conf"), config).unwrap();
        let child = Self::spawn(&folder);
        let collector = Self { folder, child, address, tls };
        collector.is_there();
        collector
    }

    fn spawn(folder: &TempDir) -> Child {
        let path = |name: &str| folder.path().join(name).display().to_string();
        Command::new(tool_path("rsyslogd").unwrap())
            .args(["-n", "-f", &path("rsyslog.conf"), "-i", &path("pid")])
            .stdout(Stdio::null())
            .stderr(fs::File::create(path("said")).unwrap())
            .spawn()
            .unwrap()
    }

    fn is_there(&self) {
        until("rsyslogd listens", || std::net::TcpStream::connect(self.tls).ok());
    }

    fn stop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Every event that came, by the headers and the JSON behind them.
    fn events(&self) -> Vec<Value> {
        let text = fs::read_to_string(self.folder.path().join("out")).unwrap_or_default();
        let event = |line: &str| {
            let (head, event) = line.split_once(" - {").unwrap_or_else(|| panic!("{line}"));
            assert!(head.starts_with("<133>1 20") || head.starts_with("<134>1 20"), "{head}");
            serde_json::from_str(&format!("{{{event}")).unwrap()
        };
        text.lines().map(event).collect()
    }

    /// Numbers of the events that came, each once.
    fn seqs(&self) -> Vec<u64> {
        let mut seqs: Vec<u64> = self.events().iter().map(|event| event["seq"].as_u64().unwrap()).collect();
        seqs.sort_unstable();
        seqs.dedup();
        seqs
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        self.stop();
    }
}

fn agent(collector: &Collector, to: &str) -> Agent {
    let folder = TempDir::new().unwrap();
    fs::create_dir(folder.path().join("policy")).unwrap();
    fs::write(folder.path().join("policy/p.toml"), POLICY).unwrap();
    fs::write(folder.path().join("agent.toml"), format!("[[audit.stream]]\nto = {to:?}\n")).unwrap();
    fs::copy(collector.folder.path().join("cert.pem"), folder.path().join("trusted.pem")).unwrap();
    Agent::start_in(folder, &Upstream::start()).unwrap_or_else(|said| panic!("{said}"))
}

fn ask(agent: &Agent, count: usize) {
    for number in 0..count {
        agent.dig(&[&format!("n{number}.v.example")]).has("NXDOMAIN");
    }
}

fn all_came(agent: &Agent, collector: &Collector) {
    until("every event came", || {
        let there: Vec<u64> = agent.events().iter().map(|event| event["seq"].as_u64().unwrap()).collect();
        (collector.seqs() == there && there.len() > 1).then_some(())
    });
}

fn rsyslog_has_every_event_over_udp_tcp_and_tls() {
    for kind in ["udp", "tcp", "tls"] {
        let collector = Collector::start();
        let to = match kind {
            "tls" => format!("tls://siem.test#{}", collector.tls),
            kind => format!("{kind}://{}", collector.address),
        };
        let agent = agent(&collector, &to);
        ask(&agent, 5);
        all_came(&agent, &collector);
        let names: Vec<Value> =
            collector.events().iter().map(|event| event["asked"]["name"].clone()).collect();
        assert!(names.contains(&"n4.v.example".into()), "{kind}: {names:?}");
        let told = &agent.status()["streams"][0];
        assert_eq!(
            (&told["to"], &told["format"], &told["error"]),
            (&to.as_str().into(), &"json".into(), &Value::Null)
        );
    }
}

fn a_stream_goes_on_where_it_ended() {
    let mut collector = Collector::start();
    let agent = agent(&collector, &format!("tcp://{}", collector.address));
    ask(&agent, 3);
    all_came(&agent, &collector);
    // Without its collector the agent goes on, says so, and sends what it missed when that is back.
    collector.stop();
    ask(&agent, 4);
    until("the failure is known", || {
        // A closed connection shows with what is sent next.
        ask(&agent, 1);
        agent.status()["streams"][0]["error"].is_string().then_some(())
    });
    collector.child = Collector::spawn(&collector.folder);
    collector.is_there();
    all_came(&agent, &collector);
    until("the failure is over", || agent.status()["streams"][0]["error"].is_null().then_some(()));
    // After a restart it does not begin anew.
    let folder = agent.stop();
    let before = collector.events().len();
    let agent = Agent::start_in(folder, &Upstream::start()).unwrap_or_else(|said| panic!("{said}"));
    ask(&agent, 2);
    all_came(&agent, &collector);
    let again = collector.events().len() - before;
    assert!(again < 10, "{again} events after the restart");
}

fn a_collector_that_is_not_who_it_should_be_is_told_nothing() {
    let collector = Collector::start();
    let agent = agent(&collector, &format!("tls://other.test#{}", collector.tls));
    ask(&agent, 2);
    let error =
        until("the agent says why", || agent.status()["streams"][0]["error"].as_str().map(str::to_owned));
    assert!(error.contains("certificate"), "{error}");
    assert_eq!(collector.events().len(), 0);
}

fn a_stream_that_cannot_be_is_named() {
    let folder = TempDir::new().unwrap();
    fs::create_dir(folder.path().join("policy")).unwrap();
    fs::write(folder.path().join("policy/p.toml"), POLICY).unwrap();
    fs::write(
        folder.path().join("agent.toml"),
        "[[audit.stream]]\nto = \"http://10.1.0.9\"\nformat = \"csv\"\n",
    )
    .unwrap();
    let said = Agent::start_in(folder, &Upstream::start()).err().expect("it does not start");
    assert!(
        said.contains(":2:")
            && said.contains("write udp://ADDR:PORT, tcp://ADDR:PORT, or tls://NAME#ADDR:PORT"),
        "{said}"
    );
    assert!(said.contains(":3:") && said.contains("csv"), "{said}");
}
