//! What the agent counts, as Prometheus reads it.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use interdict::lab::{LAN, Side, VENDOR};
use serde_json::Value;

use crate::case;
use crate::packets::{Gateway, lab};
use crate::support::{Agent, Case, Upstream, until};

pub(crate) fn cases() -> Vec<Case> {
    vec![
        case!(metrics_say_what_was_asked_and_never_by_whom, Dig),
        case!(idle_connections_to_the_console_leave_room_for_others, Nothing),
        case!(packets_are_in_the_metrics_by_rule_and_reason, Root),
    ]
}

const POLICY: &str = r#"
format = 1
[[rule]]
id = "v-all"
role = "update"
action = "block"
domains = ["v.example"]
networks = ["77.74.176.0/21"]
"#;

/// The metrics at an address: what the head says of them, and the page.
fn read(address: SocketAddr) -> (String, String) {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    write!(stream, "GET /metrics HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n").unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    let (head, page) = text.split_once("\r\n\r\n").unwrap();
    (head.to_owned(), page.to_owned())
}

fn value(page: &str, sample: &str) -> u64 {
    let value = page.lines().find_map(|line| line.strip_prefix(sample)?.strip_prefix(' '));
    value.unwrap_or_else(|| panic!("no {sample} in:\n{page}")).parse().unwrap()
}

fn console(status: &Value) -> SocketAddr {
    status["console"].as_str().unwrap().parse().unwrap()
}

fn metrics_say_what_was_asked_and_never_by_whom() {
    let upstream = Upstream::start();
    let agent = Agent::start(&[("p.toml", POLICY)], &upstream);
    agent.dig(&["a.v.example"]).has("NXDOMAIN");
    agent.dig(&["www.example.org"]);
    agent.dig(&["www.example.org"]);
    let (head, page) = read(console(&agent.status()));
    assert!(head.starts_with("HTTP/1.1 200 OK") && head.contains("openmetrics-text"), "{head}");
    for (sample, expect) in [
        ("interdict_in_force", 1),
        ("interdict_dns_queries_judged_total{transport=\"udp\",verdict=\"block\"}", 1),
        ("interdict_dns_queries_judged_total{transport=\"udp\",verdict=\"none\"}", 2),
        ("interdict_dns_latency_seconds_count", 3),
        ("interdict_dns_cache_answers", 1),
        ("interdict_dns_cached_total", 1),
        ("interdict_dns_forwarded_total", 1),
        ("interdict_record_lost_total", 0),
    ] {
        assert_eq!(value(&page, sample), expect, "{sample}");
    }
    assert_eq!(value(&page, "interdict_policy_rules"), agent.status()["rules"].as_u64().unwrap());
    let digest = agent.status()["digest"].as_str().unwrap().to_owned();
    assert!(page.contains(&format!("digest=\"{digest}\"")), "{page}");
    // The upstream has the client's address here.
    let of_nobody: Vec<&str> = page.lines().filter(|line| !line.contains("{upstream=")).collect();
    for personal in ["127.0.0.1", "v.example", "example.org"] {
        assert!(!of_nobody.iter().any(|line| line.contains(personal)), "{page}");
    }
    assert!(!page.contains("packet_"), "no packets are filtered: {page}");
}

fn idle_connections_to_the_console_leave_room_for_others() {
    let upstream = Upstream::start();
    let agent = Agent::start(&[("p.toml", POLICY)], &upstream);
    let address = console(&agent.status());
    let idle: Vec<TcpStream> = (0..40).map(|_| TcpStream::connect(address).unwrap()).collect();
    let since = Instant::now();
    let (head, _) = read(address);
    assert!(head.starts_with("HTTP/1.1 200 OK"), "{head}");
    assert!(since.elapsed() > Duration::from_secs(1), "it had to wait until the idle ones were closed");
    drop(idle);
}

fn packets_are_in_the_metrics_by_rule_and_reason() {
    let lab = lab();
    let interface = format!("{LAN}=lan");
    let words = ["--interface", &interface, "--console", "127.0.0.1:0"];
    let gateway = Gateway::start_with(&lab, POLICY, &words);
    assert!(!lab.connects((VENDOR, 443).into()).unwrap());
    let address = console(&gateway.status());
    let page = until("the packets are counted", || {
        let (_, page) = lab.inside(Side::Gateway, move || read(address)).unwrap();
        page.contains("rule=\"v-all\"").then_some(page)
    });
    let blocked = value(&page, "interdict_packet_rule_packets_total{rule=\"v-all\",verdict=\"block\"}");
    let bytes = value(&page, "interdict_packet_rule_bytes_total{rule=\"v-all\",verdict=\"block\"}");
    assert!(blocked > 0 && bytes >= 54 * blocked, "{page}");
    assert_eq!(value(&page, "interdict_packet_interfaces{role=\"lan\"}"), 1);
    for reason in ["vlan_offload", "fragment", "tunnel", "tls_split", "encrypted_dns"] {
        assert_eq!(value(&page, &format!("interdict_packet_unjudged_total{{reason=\"{reason}\"}}")), 0);
    }
}
