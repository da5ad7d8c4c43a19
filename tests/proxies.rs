//! Proxies in front of the server: what they say of whom they ask for, and who is believed.

use std::fs;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket};
use std::process::Command;
use std::time::Duration;

use hickory_proto::op::{Message, Query, ResponseCode};
use hickory_proto::rr::RecordType;
use tempfile::TempDir;

use crate::case;
use crate::support::{Agent, Case, Running, Upstream, dig, free_address, tool_path, until};

pub(crate) fn cases() -> Vec<Case> {
    vec![
        case!(a_proxy_says_for_whom_it_asks),
        case!(who_is_no_proxy_says_nothing_of_others),
        case!(a_proxy_that_says_nothing_gets_no_answer),
        case!(a_client_behind_a_proxy_is_served_as_if_it_came_itself),
        case!(dnsdist_asks_for_its_clients, Dnsdist),
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

/// An agent that believes these proxies.
fn start(proxies: &str, upstream: &Upstream) -> Agent {
    let config =
        format!("[dns]\nproxies = [{proxies}]\nclients = [\"10.0.0.0/8\", \"fd00::/8\", \"127.0.0.0/8\"]\n");
    Agent::start_in(Agent::folder(POLICY, &config), upstream)
        .unwrap_or_else(|said| panic!("it did not start:\n{said}"))
}

/// The header that speaks for a client (the PROXY protocol's specification, §2.2): over streams or for datagrams.
fn header(client: IpAddr, transport: u8) -> Vec<u8> {
    let mut header = b"\r\n\r\n\0\r\nQUIT\n\x21".to_vec();
    match client {
        IpAddr::V4(client) => {
            header.extend([0x10 | transport, 0, 12]);
            header.extend(client.octets());
            header.extend(Ipv4Addr::LOCALHOST.octets());
        }
        IpAddr::V6(client) => {
            header.extend([0x20 | transport, 0, 36]);
            header.extend(client.octets());
            header.extend(Ipv6Addr::LOCALHOST.octets());
        }
    }
    header.extend([0x13, 0x88, 0, 53]);
    header
}

fn question(name: &str) -> Vec<u8> {
    let mut message = Message::query();
    message.add_query(Query::query(name.parse().unwrap(), RecordType::A));
    message.to_vec().unwrap()
}

fn over_udp(server: SocketAddr, datagram: &[u8]) -> Option<Message> {
    let socket = UdpSocket::bind((server.ip(), 0)).unwrap();
    socket.set_read_timeout(Some(Duration::from_millis(700))).unwrap();
    socket.send_to(datagram, server).unwrap();
    let mut answer = [0; 1500];
    let len = socket.recv(&mut answer).ok()?;
    Some(Message::from_vec(&answer[..len]).unwrap())
}

fn over_tcp(server: SocketAddr, header: &[u8], question: &[u8]) -> Option<Message> {
    let mut stream = TcpStream::connect(server).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
    let framed = [&(question.len() as u16).to_be_bytes()[..], question].concat();
    // In two parts, as a proxy sends them.
    stream.write_all(header).unwrap();
    let _ = stream.write_all(&framed);
    let mut length = [0; 2];
    stream.read_exact(&mut length).ok()?;
    let mut answer = vec![0; usize::from(u16::from_be_bytes(length))];
    stream.read_exact(&mut answer).ok()?;
    Some(Message::from_vec(&answer).unwrap())
}

fn counter(agent: &Agent, name: &str) -> u64 {
    agent.status()["counters"]["dns"][name].as_u64().unwrap()
}

fn a_proxy_says_for_whom_it_asks() {
    let upstream = Upstream::start();
    let agent = start("\"127.0.0.1\", \"::1\"", &upstream);
    let server = agent.address();
    for (client, tcp) in [("10.1.2.3", false), ("fd00::7", false), ("10.1.2.4", true), ("fd00::8", true)] {
        let name = format!("n{}.v.example.", client.replace([':', '.'], "-"));
        let header = header(client.parse().unwrap(), if tcp { 1 } else { 2 });
        let answer = match tcp {
            false => over_udp(server, &[&header[..], &question(&name)].concat()),
            true => over_tcp(server, &header, &question(&name)),
        };
        assert_eq!(answer.expect("an answer").metadata.response_code, ResponseCode::NXDomain, "{client}");
        let event = agent.event("it is on record", |event| {
            event["asked"]["name"].as_str().is_some_and(|asked| name.starts_with(asked))
        });
        assert_eq!(
            (&event["client"], &event["channel"]),
            (&client.into(), &if tcp { "tcp" } else { "udp" }.into())
        );
        // From memory and from the upstream too.
        for name in ["www.example.org.", "www.example.org."] {
            let answer = match tcp {
                false => {
                    over_udp(server, &[self::header(client.parse().unwrap(), 2), question(name)].concat())
                }
                true => over_tcp(server, &header, &question(name)),
            };
            assert_eq!(answer.expect("an answer").answers.len(), 1, "{client}");
        }
    }
    // Of networks that are not served, nothing.
    let strangers = counter(&agent, "strangers");
    assert!(
        over_udp(server, &[header("192.0.2.1".parse().unwrap(), 2), question("v.example.")].concat())
            .is_none()
    );
    assert!(over_tcp(server, &header("192.0.2.1".parse().unwrap(), 1), &question("v.example.")).is_none());
    assert_eq!(counter(&agent, "strangers"), strangers + 2);
}

fn who_is_no_proxy_says_nothing_of_others() {
    let upstream = Upstream::start();
    let agent = start("\"10.9.9.9\"", &upstream);
    let pretended = header("10.1.2.3".parse().unwrap(), 2);
    if let Some(answer) = over_udp(agent.address(), &[pretended.clone(), question("a.v.example.")].concat()) {
        assert_ne!(answer.metadata.response_code, ResponseCode::NXDomain);
    }
    // The header's first bytes are a length that nothing follows.
    assert!(over_tcp(agent.address(), &pretended, &question("b.v.example.")).is_none());
    assert!(!agent.events().iter().any(|event| event["plane"] == "dns"), "nothing was asked");
}

fn a_proxy_that_says_nothing_gets_no_answer() {
    let upstream = Upstream::start();
    let agent = start("\"127.0.0.1\"", &upstream);
    let broken = [
        &b"PROXY TCP4 10.0.0.1 10.0.0.2 1 53\r\n"[..],
        &[7; 40],
        &header("10.0.0.1".parse().unwrap(), 1)[..20],
    ];
    for header in [&[][..], broken[0], broken[1]] {
        assert!(over_udp(agent.address(), &[header, &question("a.v.example.")].concat()).is_none());
        assert!(over_tcp(agent.address(), header, &question("b.v.example.")).is_none());
    }
    assert!(over_udp(agent.address(), broken[2]).is_none());
    until("they are counted", || (counter(&agent, "proxy_failures") >= 7).then_some(()));
    assert!(!agent.events().iter().any(|event| event["plane"] == "dns"), "nothing was asked");
}

/// Its share of connections is its own, and neither the proxy's nor anybody else's.
fn a_client_behind_a_proxy_is_served_as_if_it_came_itself() {
    let upstream = Upstream::start();
    let agent = start("\"127.0.0.1\"", &upstream);
    let open = |client: &str| {
        let mut stream = TcpStream::connect(agent.address()).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        stream.write_all(&header(client.parse().unwrap(), 1)).unwrap();
        stream
    };
    let greedy: Vec<TcpStream> = (0..40).map(|_| open("10.0.0.1")).collect();
    until("the most of one client are refused", || (counter(&agent, "tcp_refused") == 8).then_some(()));
    let mut other = open("10.0.0.2");
    let message = question("a.v.example.");
    other.write_all(&[&(message.len() as u16).to_be_bytes()[..], &message].concat()).unwrap();
    other.read_exact(&mut [0; 12]).expect("another one is served");
    drop(greedy);
}

fn dnsdist_asks_for_its_clients() {
    let upstream = Upstream::start();
    let agent = start("\"127.0.0.1\"", &upstream);
    let (folder, address) = (TempDir::new().unwrap(), free_address());
    let config = folder.path().join("dnsdist.conf");
    let text = format!(
        "setLocal(\"{address}\")\nnewServer{{address=\"{}\", useProxyProtocol=true, healthCheckMode=\"up\"}}\n",
        agent.address()
    );
    fs::write(&config, text).unwrap();
    let mut dnsdist = Command::new(tool_path("dnsdist").unwrap());
    let _dnsdist = Running::start(dnsdist.args(["--supervised", "--disable-syslog", "-C"]).arg(&config));
    until("dnsdist answers", || {
        dig(address, &["+tries=1", "+time=1", "www.example.org"]).0.contains("192.0.2.7").then_some(())
    });
    // Loopback is all one network, and each of its addresses is a client.
    for (number, how) in ["+notcp", "+tcp"].into_iter().enumerate() {
        let client = format!("127.0.0.{}", number + 7);
        dig(address, &[&format!("d{number}.v.example"), "-b", &client, how]).has("NXDOMAIN");
        let event = agent.event("it is on record", |event| {
            event["asked"]["name"] == format!("d{number}.v.example").as_str()
        });
        assert_eq!(event["client"], client.as_str());
    }
}
