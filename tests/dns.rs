//! The DNS plane as clients see it.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use rustix::process::{Resource, Rlimit};
use socket2::{Domain, Type};

use crate::case;
use crate::support::{Agent, Case, Upstream, loopback, until};

pub(crate) fn cases() -> Vec<Case> {
    vec![
        case!(blocked_names_are_answered_here_and_never_asked_upstream, Dig, both_families),
        case!(no_flag_type_or_transport_is_a_way_around, Dig, both_families),
        case!(every_answer_of_a_rule_is_given, Dig, both_families),
        case!(other_names_are_forwarded_and_cached, Dig, both_families),
        case!(a_cname_into_the_ban_is_blocked, Dig, both_families),
        case!(where_the_answer_to_an_unlisted_name_leads_decides, Dig, both_families),
        case!(a_logged_name_resolves_and_covers_its_chain, Dig, both_families),
        case!(a_dead_upstream_never_delays_a_blocked_answer, Dig, both_families),
        case!(what_is_no_question_is_refused_by_name, Dig, both_families),
        case!(a_flood_of_questions_is_counted_exactly, Nothing, both_families),
        case!(questions_on_one_connection_are_answered_in_their_order, Nothing, both_families),
        case!(a_flood_of_connections_takes_nothing_from_others, Dig),
        case!(ten_thousand_idle_connections_end_in_time, Dig),
    ]
}

const POLICY: &str = r#"
format = 1
[ban]
id = "v"
vendor = "V"
[[rule]]
id = "v-all"
role = "update"
action = "block"
domains = ["v.example"]
[[rule]]
id = "v-news"
role = "news"
action = "log"
hosts = ["news.v.example"]
[[rule]]
id = "v-fine"
role = "news"
action = "allow"
hosts = ["fine.v.example"]
[[rule]]
id = "v-nodata"
role = "x"
action = "block"
answer = "nodata"
hosts = ["nodata.test"]
[[rule]]
id = "v-refused"
role = "x"
action = "block"
answer = "refused"
hosts = ["refused.test"]
[[rule]]
id = "v-drop"
role = "x"
action = "block"
answer = "drop"
hosts = ["drop.test"]
[[rule]]
id = "v-null"
role = "x"
action = "block"
answer = "null"
ttl_secs = 7
hosts = ["null.test"]
[[rule]]
id = "v-sinkhole"
role = "x"
action = "block"
answer = { a = "192.0.2.99" }
hosts = ["sinkhole.test"]
[[rule]]
id = "v-nets"
role = "x"
action = "block"
networks = ["203.0.113.0/24"]
[[rule]]
id = "v-logged-net"
role = "x"
action = "log"
networks = ["203.0.113.64/26"]
[[rule]]
id = "v-port"
role = "x"
action = "block"
networks = ["198.51.100.0/24"]
ports = ["tcp/443"]
"#;

fn start() -> (Agent, Upstream) {
    let upstream = Upstream::start();
    (Agent::start(&[("v.toml", POLICY)], &upstream), upstream)
}

fn blocked_names_are_answered_here_and_never_asked_upstream() {
    let (agent, upstream) = start();
    let answer = agent.dig(&["S07.Upd.V.example", "A"]);
    assert_eq!(answer.status(), "NXDOMAIN", "{}", answer.0);
    answer.has("flags: qr rd ra;").has("EDE: 15 (Blocked): (v-all)").has("V.example.\t\t60\tIN\tSOA");
    answer.has(";S07.Upd.V.example.");
    let event =
        agent.event("the question is on record", |event| event["asked"]["name"] == "s07.upd.v.example");
    assert_eq!(event["verdict"], "block");
    assert_eq!(event["rule"], "v-all");
    assert_eq!(event["role"], "update");
    assert_eq!(event["client"], loopback().to_string());
    assert_eq!(event["channel"], "udp");
    assert_eq!(event["asked"]["type"], "A");
    assert_eq!(event["digest"], agent.status()["digest"]);
    assert_eq!(upstream.asked(), Vec::<String>::new());
}

fn no_flag_type_or_transport_is_a_way_around() {
    let (agent, upstream) = start();
    for words in [
        &["+tcp"][..],
        &["+norecurse"],
        &["+dnssec"],
        &["+cdflag"],
        &["+adflag"],
        &["+noedns"],
        &["+bufsize=512"],
        &["+nsid"],
        &["+subnet=192.0.2.0/24"],
        &["+padding=128"],
        &["AAAA"],
        &["HTTPS"],
        &["TYPE64"],
        &["ANY"],
        &["TXT"],
        &["SOA"],
        &["DS"],
        &["-c", "ANY", "-t", "A"],
    ] {
        let answer = agent.dig(&[&["x.v.example"], words].concat());
        assert_eq!(answer.status(), "NXDOMAIN", "{words:?}\n{}", answer.0);
    }
    assert_eq!(upstream.asked(), Vec::<String>::new());
}

fn every_answer_of_a_rule_is_given() {
    let (agent, _upstream) = start();
    agent.dig(&["nodata.test"]).has("status: NOERROR").has("ANSWER: 0, AUTHORITY: 1");
    agent.dig(&["refused.test"]).has("status: REFUSED").has("(v-refused)");
    agent.dig(&["drop.test"]).has("no servers could be reached");
    agent.dig(&["null.test", "A"]).has("null.test.\t\t7\tIN\tA\t0.0.0.0");
    agent.dig(&["null.test", "AAAA"]).has("AAAA\t::");
    agent.dig(&["null.test", "MX"]).has("status: NOERROR").has("ANSWER: 0, AUTHORITY: 1");
    agent.dig(&["sinkhole.test", "A"]).has("192.0.2.99");
    agent.dig(&["sinkhole.test", "AAAA"]).has("status: NOERROR").has("ANSWER: 0, AUTHORITY: 1");
}

fn other_names_are_forwarded_and_cached() {
    let (agent, upstream) = start();
    for _ in 0..3 {
        agent.dig(&["www.other.test", "A"]).has("192.0.2.7").has("flags: qr rd ra;");
    }
    agent.dig(&["www.other.test", "A", "+tcp"]).has("192.0.2.7");
    agent.dig(&["x.none.test", "A"]).has("status: NXDOMAIN");
    agent.dig(&["notv.example", "A"]).has("192.0.2.7");
    agent.dig(&["v.example.evil.test", "A"]).has("192.0.2.7");
    let asked = upstream.asked().into_iter().filter(|name| name == "www.other.test.").count();
    assert_eq!(asked, 1, "the cache answers what was asked before");
    let recorded = agent.events().into_iter().any(|event| event["asked"]["name"] == "www.other.test");
    assert!(!recorded, "other people's questions are counted, never kept");
}

fn a_cname_into_the_ban_is_blocked() {
    let (agent, _upstream) = start();
    let answer = agent.dig(&["alias-cdn_v_example.test", "A"]);
    assert_eq!(answer.status(), "NXDOMAIN", "{}", answer.0);
    answer.has("(v-all)");
    let event = agent.event("the alias is on record", |event| event["asked"]["via"] == "cdn.v.example");
    assert_eq!(
        (&event["asked"]["name"], &event["verdict"]),
        (&"alias-cdn_v_example.test".into(), &"block".into())
    );
    // The second time it comes from the cache, and is judged again.
    assert_eq!(agent.dig(&["alias-cdn_v_example.test", "A"]).status(), "NXDOMAIN");
}

fn where_the_answer_to_an_unlisted_name_leads_decides() {
    let (agent, _upstream) = start();
    for (name, qtype, status, rule, via) in [
        ("alias-cdn_v_example.test", "A", "NXDOMAIN", "v-all", "cdn.v.example"),
        ("alias-cdn_v_example.test", "AAAA", "NXDOMAIN", "v-all", "cdn.v.example"),
        ("alias-cdn_v_example.test", "MX", "NXDOMAIN", "v-all", "cdn.v.example"),
        ("alias-cdn_v_example.test", "SOA", "NXDOMAIN", "v-all", "cdn.v.example"),
        ("alias-cdn_v_example.test", "HTTPS", "NXDOMAIN", "v-all", "cdn.v.example"),
        ("service-cdn_v_example.test", "HTTPS", "NXDOMAIN", "v-all", "cdn.v.example"),
        ("service-news_v_example.test", "HTTPS", "NOERROR", "v-news", "news.v.example"),
        ("service-other_example.test", "HTTPS", "NOERROR", "", ""),
        ("at-203-0-113-9.test", "HTTPS", "NXDOMAIN", "v-nets", "203.0.113.9"),
        ("at-203-0-113-9.test", "A", "NXDOMAIN", "v-nets", "203.0.113.9"),
        ("at-203-0-113-9.test", "AAAA", "NOERROR", "", ""),
        ("at-203-0-113-99.test", "A", "NOERROR", "v-logged-net", "203.0.113.99"),
        ("at-198-51-100-9.test", "A", "NOERROR", "", ""),
        ("news.v.example", "HTTPS", "NOERROR", "v-news", ""),
    ] {
        for source in ["upstream", "cache"] {
            let (events, answer) = (agent.events().len(), agent.dig(&[name, qtype]));
            assert_eq!(answer.status(), status, "{name} {qtype} from the {source}\n{}", answer.0);
            if status == "NXDOMAIN" {
                answer.has(&format!("({rule})"));
            }
            if rule.is_empty() {
                continue;
            }
            let event = until("the question is on record", || agent.events().get(events).cloned());
            assert_eq!((&event["rule"], &event["asked"]["name"]), (&rule.into(), &name.into()));
            assert_eq!(event["asked"]["via"].as_str().unwrap_or_default(), via, "{name} {qtype}");
        }
    }
}

fn a_logged_name_resolves_and_covers_its_chain() {
    let (agent, _upstream) = start();
    agent.dig(&["news.v.example", "A"]).has("192.0.2.7");
    agent.event("the logged name is on record", |event| {
        event["asked"]["name"] == "news.v.example" && event["verdict"] == "log" && event["rule"] == "v-news"
    });
    agent.dig(&["fine.v.example", "A"]).has("192.0.2.7");
    agent.event("the exception is on record", |event| event["verdict"] == "allow");
    agent.dig(&["alias-news_v_example.test", "A"]).has("192.0.2.7");
}

fn a_dead_upstream_never_delays_a_blocked_answer() {
    let (agent, _upstream) = start();
    let address = agent.address();
    let waiting: Vec<_> = (0..32)
        .map(|i| std::thread::spawn(move || crate::support::dig(address, &[&format!("h{i}.silent.test")])))
        .collect();
    for i in 0..10 {
        let start = Instant::now();
        assert_eq!(crate::support::dig(address, &[&format!("h{i}.v.example")]).status(), "NXDOMAIN");
        assert!(start.elapsed() < Duration::from_millis(1500), "a blocked answer took {:?}", start.elapsed());
    }
    waiting.into_iter().for_each(|dig| drop(dig.join()));
}

fn what_is_no_question_is_refused_by_name() {
    let (agent, upstream) = start();
    for (words, status) in [
        (&["v.example", "+opcode=notify"][..], "NOTIMP"),
        (&["v.example", "+opcode=update"], "NOTIMP"),
        (&["v.example", "+edns=1", "+noednsnegotiation"], "BADVERS"),
        (&["authors.bind", "CH", "TXT"], "REFUSED"),
        (&["v.example", "CH", "A"], "REFUSED"),
    ] {
        assert_eq!(agent.dig(words).status(), status, "{words:?}");
    }
    agent.dig(&["other.test", "AXFR"]).has("Transfer failed");
    assert_eq!(upstream.asked(), Vec::<String>::new());
}

/// More than a hundred questions of one client in a second: a hundred events, and one that counts the others.
fn a_flood_of_questions_is_counted_exactly() {
    const QUESTIONS: u64 = 5000;
    let (agent, _upstream) = start();
    let socket = std::net::UdpSocket::bind((loopback(), 0)).unwrap();
    socket.connect(agent.address()).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
    for id in 0..QUESTIONS as u16 {
        let question =
            [&id.to_be_bytes()[..], b"\x01\0\0\x01\0\0\0\0\0\0\x01a\x01v\x07example\0\0\x01\0\x01"];
        socket.send(&question.concat()).unwrap();
        socket.recv(&mut [0; 512]).unwrap();
    }
    let counts = until("every question is on record", || {
        let events = agent.events().into_iter().filter(|event| event["rule"] == "v-all");
        let counts: Vec<u64> = events.map(|event| event["count"].as_u64().unwrap()).collect();
        (counts.iter().sum::<u64>() == QUESTIONS).then_some(counts)
    });
    assert!(counts.contains(&1) && counts.iter().any(|&count| count > 1), "{counts:?}");
    assert!(counts.len() < QUESTIONS as usize / 2, "{} events", counts.len());
}

/// One client opens as many TCP connections as it may, and then some.
fn a_flood_of_connections_takes_nothing_from_others() {
    const MORE: usize = 500;
    let (agent, _upstream) = start();
    let limit = interdict_dns_filter::TCP_CONNECTIONS_OF_A_CLIENT_LIMIT;
    let address = agent.address();
    let connect = |_| std::net::TcpStream::connect(address).unwrap();
    let held: Vec<_> = (0..limit + MORE).map(connect).collect();
    let refused = |agent: &Agent| agent.status()["counters"]["dns"]["tcp_refused"].as_u64().unwrap();
    until("what is too much is closed and counted", || (refused(&agent) == MORE as u64).then_some(()));
    assert_eq!(agent.dig(&["x.v.example", "+tcp", "-b", "127.0.0.2"]).status(), "NXDOMAIN");
    agent.dig(&["www.other.test", "A", "+tcp", "-b", "127.0.0.2"]).has("192.0.2.7");
    agent.dig(&["fresh.other.test", "A"]).has("192.0.2.7");
    agent.write_policy("v.toml", &POLICY.replace("\"v.example\"", "\"v.example\", \"w.example\""));
    agent.event("an edit is in force", |event| event["act"] == "policy.applied");
    drop(held);
    until("places are free again", || {
        (agent.dig(&["x.w.example", "+tcp"]).status() == "NXDOMAIN").then_some(())
    });
}

/// Of many clients, each with its share.
fn ten_thousand_idle_connections_end_in_time() {
    const CONNECTIONS: usize = 10_000;
    const CLIENTS: usize = 400;
    const OPEN_FILES: u64 = CONNECTIONS as u64 + 2000;
    let limit = rustix::process::getrlimit(Resource::Nofile);
    let most = limit.maximum.map(|maximum| maximum.max(OPEN_FILES));
    rustix::process::setrlimit(Resource::Nofile, Rlimit { current: most, maximum: most })
        .expect("so many files may be open (ulimit -Hn)");
    let (agent, _upstream) = start();
    let address = agent.address();
    let counter = |name: &str| agent.status()["counters"]["dns"][name].as_u64().unwrap();
    let begun = Instant::now();
    let held: Vec<TcpStream> = (0..CONNECTIONS)
        .map(|number| {
            let socket = socket2::Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
            let client = number % CLIENTS;
            let client = Ipv4Addr::new(127, 1, (client / 256) as u8, (client % 256) as u8);
            socket.bind(&SocketAddr::from((client, 0)).into()).unwrap();
            socket.connect(&address.into()).unwrap();
            socket.into()
        })
        .collect();
    // There is no place for most of them, and nobody who asks over UDP notices. Places are free again every ten seconds.
    agent.dig(&["x.v.example"]).has("NXDOMAIN");
    agent.dig(&["fresh.other.test"]).has("192.0.2.7");
    let places = interdict_dns_filter::TCP_CONNECTIONS_LIMIT * (2 + begun.elapsed().as_secs() as usize / 10);
    until("what is too much is closed and counted", || {
        (counter("tcp_refused") >= CONNECTIONS.saturating_sub(places) as u64).then_some(())
    });
    // The others say nothing, and have to go.
    let end = Instant::now() + Duration::from_secs(30);
    while agent.dig(&["y.v.example", "+tcp"]).status() != "NXDOMAIN" {
        assert!(Instant::now() < end, "no place is free again");
    }
    drop(held);
}

/// All sent at once, one of them no question at all, and one whose answer comes from upstream.
fn questions_on_one_connection_are_answered_in_their_order() {
    const NXDOMAIN: u8 = 3;
    const FORMERR: u8 = 1;
    let (agent, _upstream) = start();
    let question =
        |id: u8, name: &[u8]| [&[0, id, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0], name, &[0, 0, 1, 0, 1]].concat();
    let (banned, other) = (b"\x01a\x01v\x07example", b"\x03www\x05other\x04test");
    let messages = [
        (question(1, banned), Some(NXDOMAIN)),
        (question(2, other), Some(0)),
        (vec![0, 3, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0], Some(FORMERR)),
        (vec![0, 4, 1], None),
        (question(5, banned), Some(NXDOMAIN)),
    ];
    let mut connection = std::net::TcpStream::connect(agent.address()).unwrap();
    connection.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    let framed = |message: &Vec<u8>| [&(message.len() as u16).to_be_bytes()[..], message].concat();
    connection
        .write_all(&messages.iter().flat_map(|(message, _)| framed(message)).collect::<Vec<_>>())
        .unwrap();
    for (message, expect) in messages {
        let Some(code) = expect else { continue };
        let mut len = [0; 2];
        connection.read_exact(&mut len).unwrap();
        let mut answer = vec![0; usize::from(u16::from_be_bytes(len))];
        connection.read_exact(&mut answer).unwrap();
        assert_eq!((&answer[..2], answer[3] & 0x0f), (&message[..2], code));
    }
}
