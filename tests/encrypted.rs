//! DNS over encrypted channels, with a real client.

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use hickory_proto::op::{Edns, Message, Query, ResponseCode};
use hickory_proto::rr::RecordType;
use hickory_proto::rr::rdata::opt::{EdnsOption, NSIDPayload};
use serde_json::Value;
use tempfile::TempDir;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::CertificateDer;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

use crate::case;
use crate::support::{Agent, Case, Dig, Upstream, until};

pub(crate) fn cases() -> Vec<Case> {
    vec![
        case!(dns_over_tls_is_served_to_who_checks_the_certificate, Kdig),
        case!(dns_over_https_is_served_by_get_and_post, Kdig),
        case!(requests_that_ask_nothing_are_refused_by_their_status),
        case!(upstreams_are_asked_over_tls_https_and_quic, Dig),
        case!(dns_over_quic_is_served, Quic),
        case!(dns_over_https_is_served_over_http_3, Quic),
        case!(what_breaks_the_protocol_of_quic_ends_its_connection, Quic),
        case!(datagrams_that_are_no_quic_take_nothing_from_others, Quic),
        case!(encrypted_channels_are_named_to_who_asks_for_them, Dig),
        case!(mutated_messages_harm_nobody_on_any_transport, Quic),
        case!(who_speaks_slowly_takes_nothing_from_others, Kdig),
        case!(another_certificate_is_used_as_soon_as_it_is_there, Kdig),
        case!(a_key_that_fits_no_certificate_is_named),
        case!(what_is_no_tls_takes_nothing_from_others, Kdig),
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

/// A certificate for a name, and its key, as PEM.
fn certificate(name: &str) -> (String, String) {
    let made = rcgen::generate_simple_self_signed(vec![name.to_owned()]).unwrap();
    (made.cert.pem(), made.signing_key.serialize_pem())
}

/// A folder for an agent that serves DNS over TLS under this name.
fn folder(name: &str) -> TempDir {
    let folder = TempDir::new().unwrap();
    fs::create_dir(folder.path().join("policy")).unwrap();
    fs::write(folder.path().join("policy/p.toml"), POLICY).unwrap();
    write_certificate(folder.path(), name);
    let path = |name: &str| folder.path().join(name).display().to_string();
    let config = format!(
        "[dns]\nnsid = \"gw1\"\n[dns.tls]\nlisten = [\"127.0.0.1:0\"]\nhttps = [\"127.0.0.1:0\"]\nquic = [\"127.0.0.1:0\"]\nname = \"{name}\"\ncertificate = {:?}\nkey = {:?}\n",
        path("cert.pem"),
        path("key.pem")
    );
    fs::write(folder.path().join("agent.toml"), config).unwrap();
    folder
}

fn write_certificate(folder: &Path, name: &str) {
    let (chain, key) = certificate(name);
    fs::write(folder.join("key.pem"), key).unwrap();
    fs::write(folder.join("cert.pem"), &chain).unwrap();
    fs::write(folder.join(format!("{name}.pem")), chain).unwrap();
}

fn start(folder: TempDir, upstream: &Upstream) -> Agent {
    Agent::start_in(folder, upstream).unwrap_or_else(|said| panic!("it did not start:\n{said}"))
}

fn encrypted(agent: &Agent, what: &str) -> SocketAddr {
    agent.status()["planes"]["dns"][what][0].as_str().unwrap().parse().unwrap()
}

/// Asks over TLS, and checks that the server is who has the certificate for this name.
fn kdig(agent: &Agent, name: &str, words: &[&str]) -> Dig {
    kdig_at(encrypted(agent, "tls"), agent, name, words)
}

fn kdig_at(address: SocketAddr, agent: &Agent, name: &str, words: &[&str]) -> Dig {
    let authority = agent.folder.path().join(format!("{name}.pem"));
    let output = Command::new("kdig")
        .args([&format!("@{}", address.ip()), "-p", &address.port().to_string(), "+retry=0", "+timeout=3"])
        .args([&format!("+tls-ca={}", authority.display()), &format!("+tls-hostname={name}")])
        .args(words)
        .output()
        .expect("kdig runs");
    Dig(String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned())
}

fn dns_over_tls_is_served_to_who_checks_the_certificate() {
    let upstream = Upstream::start();
    let agent = start(folder("dns.test"), &upstream);
    kdig(&agent, "dns.test", &["a.v.example"]).has("status: NXDOMAIN").has("Blocked");
    for _ in 0..2 {
        let answer = kdig(&agent, "dns.test", &["www.example.org", "+padding", "+nsid"]);
        answer.has("status: NOERROR").has("192.0.2.7").has("gw1");
        // RFC 8467: a multiple of 468 bytes.
        answer.has("Received 468 B");
    }
    kdig(&agent, "dns.test", &["www.example.org", "+nopadding"]).has("192.0.2.7");
    let event = agent.event("the question is on record", |event| event["asked"]["name"] == "a.v.example");
    assert_eq!((&event["channel"], &event["verdict"]), (&"dot".into(), &"block".into()));
    // Who wants another server than this one asks nothing.
    let other = kdig(&agent, "dns.test", &["b.v.example", "+tls-hostname=other.test"]);
    assert!(!other.0.contains("status:"), "{}", other.0);
    assert!(!agent.events().iter().any(|event| event["asked"]["name"] == "b.v.example"));
}

fn dns_over_https_is_served_by_get_and_post() {
    let upstream = Upstream::start();
    let agent = start(folder("dns.test"), &upstream);
    let address = encrypted(&agent, "https");
    for how in ["+https", "+https-get"] {
        let ask = |words: &[&str]| kdig_at(address, &agent, "dns.test", &[&[how], words].concat());
        ask(&["a.v.example"]).has("status: NXDOMAIN").has("Blocked");
        ask(&["www.example.org"]).has("192.0.2.7").has("HTTP/2").has("/dns-query");
    }
    // Where HTTP/3 is.
    let said = request(&agent, address, "GET /", &[]);
    assert!(said.contains(&format!("alt-svc: h3=\":{}\"", address.port())), "{said}");
    let event = agent.event("the question is on record", |event| event["asked"]["name"] == "a.v.example");
    assert_eq!(event["channel"], "doh");
}

/// What the server says to a request over HTTP/1.1, up to the end of its head.
fn request(agent: &Agent, address: SocketAddr, head: &str, body: &[u8]) -> String {
    let mut stream = over_tls(agent, address);
    let head = format!("{head} HTTP/1.1\r\nHost: dns.test\r\nConnection: close\r\n");
    stream.write_all(format!("{head}Content-Length: {}\r\n\r\n", body.len()).as_bytes()).unwrap();
    let _ = stream.write_all(body);
    let mut said = Vec::new();
    let _ = stream.read_to_end(&mut said);
    String::from_utf8_lossy(&said).into_owned()
}

fn requests_that_ask_nothing_are_refused_by_their_status() {
    let upstream = Upstream::start();
    let agent = start(folder("dns.test"), &upstream);
    let address = encrypted(&agent, "https");
    let typed = |head: &str| format!("{head} HTTP/1.1\r\nContent-Type: application/dns-message\r\nX: x");
    for (head, body, status) in [
        ("GET /".to_owned(), 0, "404"),
        ("GET /dns-query".to_owned(), 0, "400"),
        ("GET /dns-query?dns=!!".to_owned(), 0, "400"),
        ("GET /dns-query?dns=AA==".to_owned(), 0, "400"),
        ("PUT /dns-query".to_owned(), 0, "405"),
        ("POST /dns-query".to_owned(), 12, "415"),
        (typed("POST /dns-query"), 70_000, "413"),
        // What is no message gets no answer.
        (typed("POST /dns-query"), 3, "503"),
    ] {
        let said = request(&agent, address, &head, &vec![0; body]);
        assert!(said.starts_with(&format!("HTTP/1.1 {status}")), "{head}: {said}");
    }
    // RFC 8484, §4.1.1, by whose bytes www.example.com is asked for; in §5.1, how long the answer may be kept.
    let ask = "GET /dns-query?dns=AAABAAABAAAAAAAAA3d3dwdleGFtcGxlA2NvbQAAAQAB";
    let said = request(&agent, address, ask, &[]);
    assert!(said.starts_with("HTTP/1.1 200") && said.contains("application/dns-message"), "{said}");
    assert!(said.contains("max-age=300"), "{said}");
}

/// One agent asks another.
fn upstreams_are_asked_over_tls_https_and_quic() {
    let upstream = Upstream::start();
    let asked = start(folder("dns.test"), &upstream);
    let ports = ["tls", "https", "quic"].map(|what| encrypted(&asked, what).port());
    for (url, works) in [
        (format!("tls://dns.test:{}#127.0.0.1", ports[0]), true),
        (format!("https://dns.test:{}/dns-query#127.0.0.1", ports[1]), true),
        (format!("https://dns.test:{}/elsewhere#127.0.0.1", ports[1]), false),
        (format!("tls://other.test:{}#127.0.0.1", ports[0]), false),
        (format!("quic://dns.test:{}#127.0.0.1", ports[2]), true),
        (format!("quic://other.test:{}#127.0.0.1", ports[2]), false),
    ] {
        let folder = TempDir::new().unwrap();
        fs::create_dir(folder.path().join("policy")).unwrap();
        fs::write(folder.path().join("policy/p.toml"), POLICY.replace("v.example", "w.example")).unwrap();
        fs::write(folder.path().join("agent.toml"), format!("[dns]\nupstreams = [{url:?}]\n")).unwrap();
        fs::copy(asked.folder.path().join("dns.test.pem"), folder.path().join("trusted.pem")).unwrap();
        let asking = Agent::start_asking(folder, &[]).unwrap_or_else(|said| panic!("{said}"));
        let before = upstream.asked().len();
        let answer = asking.dig(&["+time=6", "www.example.org"]);
        assert_eq!(answer.status(), if works { "NOERROR" } else { "SERVFAIL" }, "{url}: {}", answer.0);
        let health = &asking.status()["planes"]["dns"]["health"][0];
        assert_eq!((&health["upstream"], &health["asked"]), (&url.as_str().into(), &1.into()));
        if works {
            answer.has("192.0.2.7");
            // What the other one blocks is blocked.
            asking.dig(&["a.v.example"]).has("NXDOMAIN");
        } else {
            assert_eq!(upstream.asked().len(), before, "{url}: nothing is asked");
        }
    }
}

/// What a client of another make says to messages in hexadecimal, over QUIC or HTTP/3, a line each.
fn over_quic(agent: &Agent, how: &str, messages: &[String]) -> Vec<String> {
    let address = encrypted(agent, if how == "doq" { "quic" } else { "https" });
    let authority = agent.folder.path().join("dns.test.pem");
    let client = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/support/quic_client.py");
    let mut client = Command::new("python3")
        .args([client.as_path(), how.as_ref(), &authority, "dns.test".as_ref()])
        .args([address.ip().to_string(), address.port().to_string()])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("python3 runs");
    client.stdin.take().unwrap().write_all(messages.join("\n").as_bytes()).unwrap();
    let output = client.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Vec<u8> {
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect()
}

/// A question for A, with ID 0 and an OPT record with this option.
fn question(name: &str, option: Option<EdnsOption>) -> String {
    let mut message = Message::query();
    message.metadata.id = 0;
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(name.parse().unwrap(), RecordType::A));
    let mut edns = Edns::new();
    edns.options_mut().insert(option.unwrap_or(EdnsOption::NSID(NSIDPayload::new([]).unwrap())));
    message.set_edns(edns);
    hex(&message.to_vec().unwrap())
}

fn dns_over_quic_is_served() {
    let upstream = Upstream::start();
    let agent = start(folder("dns.test"), &upstream);
    // More streams than a connection has at one time, in one connection.
    let mut names = vec!["a.v.example.".to_owned()];
    names.extend((0..150).map(|number| format!("n{number}.example.org.")));
    let questions: Vec<String> = names.iter().map(|name| question(name, None)).collect();
    let answers = over_quic(&agent, "doq", &questions);
    assert_eq!(answers.len(), names.len());
    for (name, answer) in names.iter().zip(&answers) {
        let answer = Message::from_vec(&unhex(answer)).unwrap_or_else(|error| panic!("{answer}: {error}"));
        let blocked = name.ends_with("v.example.");
        let rcode = if blocked { ResponseCode::NXDomain } else { ResponseCode::NoError };
        assert_eq!((answer.metadata.id, answer.metadata.response_code), (0, rcode), "{name}");
        assert_eq!(answer.queries[0].name().to_string(), *name);
        assert_eq!(answer.answers.len(), usize::from(!blocked), "{name}");
    }
    let event = agent.event("the question is on record", |event| event["asked"]["name"] == "a.v.example");
    assert_eq!((&event["channel"], &event["verdict"]), (&"doq".into(), &"block".into()));
    // Who wants padding gets it here too (RFC 9250, §5.4).
    let padded =
        over_quic(&agent, "doq", &[question("a.v.example.", Some(EdnsOption::Unknown(12, vec![0; 9])))]);
    assert_eq!(padded[0].len(), 2 * 468, "{padded:?}");
}

fn dns_over_https_is_served_over_http_3() {
    let upstream = Upstream::start();
    let agent = start(folder("dns.test"), &upstream);
    for how in ["h3", "h3-get"] {
        let said =
            over_quic(&agent, how, &["a.v.example.", "www.example.org."].map(|name| question(name, None)));
        for (line, (rcode, answers)) in
            said.iter().zip([(ResponseCode::NXDomain, 0), (ResponseCode::NoError, 1)])
        {
            let body = line.strip_prefix("200 application/dns-message ").unwrap_or_else(|| panic!("{line}"));
            let answer = Message::from_vec(&unhex(body)).unwrap();
            assert_eq!((answer.metadata.response_code, answer.answers.len()), (rcode, answers), "{how}");
        }
    }
    let event = agent.event("the question is on record", |event| event["asked"]["name"] == "a.v.example");
    assert_eq!(event["channel"], "doh");
    // What is no question has a status.
    for (message, status) in [("00".to_owned(), "503"), ("00".repeat(70_000), "413")] {
        let said = over_quic(&agent, "h3", &[message]);
        assert!(said[0].starts_with(status), "{said:?}");
    }
}

fn what_breaks_the_protocol_of_quic_ends_its_connection() {
    let upstream = Upstream::start();
    let agent = start(folder("dns.test"), &upstream);
    let good = question("a.v.example.", None);
    let with_id = format!("0007{}", &good[4..]);
    let keepalive = question("a.v.example.", Some(EdnsOption::Unknown(11, Vec::new())));
    for (what, message) in [
        ("an ID", with_id),
        ("the time-out of TCP", keepalive),
        ("a length beyond the stream's end", format!("raw:ffff{good}")),
        ("two questions", format!("raw:{:04x}{good}{:04x}{good}", good.len() / 2, good.len() / 2)),
        ("no length", "raw:00".to_owned()),
        ("nothing", "raw:".to_owned()),
    ] {
        // DOQ_PROTOCOL_ERROR (RFC 9250, §4.3.3).
        assert_eq!(over_quic(&agent, "doq", &[message]), ["closed 2"], "{what}");
    }
    assert!(over_quic(&agent, "doq", &[good])[0].len() > 24, "others are served");
}

fn datagrams_that_are_no_quic_take_nothing_from_others() {
    let upstream = Upstream::start();
    let agent = start(folder("dns.test"), &upstream);
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let mut noise = 0x9e37_79b9_7f4a_7c15_u64;
    for address in ["quic", "https"].map(|what| encrypted(&agent, what)) {
        for round in 0..2000_usize {
            let bytes: Vec<u8> = (0..round % 1400)
                .map(|at| {
                    noise = noise.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
                    // Most look like the first packet of a connection, of version 1.
                    *[0xc3, 0, 0, 0, 1, 8].get(at).unwrap_or(&((noise >> 33) as u8))
                })
                .collect();
            socket.send_to(&bytes, address).unwrap();
        }
    }
    assert!(over_quic(&agent, "doq", &[question("a.v.example.", None)])[0].len() > 24, "others are served");
    assert!(
        over_quic(&agent, "h3", &[question("a.v.example.", None)])[0].starts_with("200"),
        "others are served"
    );
}

/// RFC 9462: by the well-known name, and by the server's own.
fn encrypted_channels_are_named_to_who_asks_for_them() {
    let upstream = Upstream::start();
    let agent = start(folder("dns.test"), &upstream);
    let [tls, https, quic] = ["tls", "https", "quic"].map(|what| encrypted(&agent, what).port());
    for name in ["_dns.resolver.arpa", "_DNS.dns.test"] {
        let answer = agent.dig(&[name, "TYPE64", "+unknownformat"]);
        answer.has("status: NOERROR").has("ANSWER: 3").has("ADDITIONAL: 2");
        let answer = agent.dig(&[name, "SVCB"]);
        for (priority, alpn, port) in [(1, "doq", quic), (2, "dot", tls), (3, "h3,h2", https)] {
            answer.has(&format!("{priority} dns.test. alpn=\"{alpn}\" port={port} ipv4hint=127.0.0.1"));
        }
        answer.has("key7=\"/dns-query{?dns}\"");
    }
    // Nothing else of that kind leaves this server, and other names are asked for elsewhere.
    agent.dig(&["_dns.resolver.arpa", "A"]).has("status: NOERROR").has("ANSWER: 0");
    agent.dig(&["_dns.other.arpa", "SVCB"]).has("status: NOERROR");
    assert_eq!(upstream.asked().len(), 1);
}

/// A connection over TLS, as `dns.test`.
fn over_tls(agent: &Agent, address: SocketAddr) -> StreamOwned<ClientConnection, TcpStream> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(agent.folder.path().join("dns.test.pem")).unwrap()).unwrap();
    let provider = Arc::new(ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let config = config.with_root_certificates(roots).with_no_client_auth();
    let client = ClientConnection::new(Arc::new(config), "dns.test".try_into().unwrap()).unwrap();
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    StreamOwned::new(client, stream)
}

/// What is answered is an answer to what was asked, and what is asked next is answered.
fn mutated_messages_harm_nobody_on_any_transport() {
    const MUTATIONS: usize = 300;
    let upstream = Upstream::start();
    let agent = start(folder("dns.test"), &upstream);
    let good = unhex(&question("a.v.example.", Some(EdnsOption::Unknown(10, vec![7; 8]))));
    let last = unhex(&question("last.v.example.", None));
    let mut noise = 0x2545_f491_4f6c_dd1d_u64;
    let mut random = move || {
        noise = noise.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
        (noise >> 33) as usize
    };
    let mutated: Vec<Vec<u8>> = (0..MUTATIONS)
        .map(|_| {
            let mut message = good.clone();
            for _ in 0..=random() % 4 {
                let at = random() % message.len();
                message[at] = random() as u8;
            }
            message.truncate(message.len() - random() % 3 * (random() % 20));
            message
        })
        .collect();
    let is_answer = |answer: &[u8], message: &[u8]| {
        assert!(
            answer.len() >= 12 && answer[..2] == message[..2] && answer[2] & 0x80 != 0,
            "{message:?}: {answer:?}"
        );
    };
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
    for (number, message) in mutated.iter().enumerate() {
        let mut message = message.clone();
        message[..2].copy_from_slice(&(number as u16).to_be_bytes());
        socket.send_to(&message, agent.address()).unwrap();
        let mut answer = [0; 4096];
        while let Ok(len) = socket.recv(&mut answer) {
            let asked = u16::from_be_bytes([answer[0], answer[1]]);
            assert!(usize::from(asked) <= number && answer[2] & 0x80 != 0 && len >= 12);
            if usize::from(asked) == number {
                break;
            }
        }
    }
    // A stream is answered in order; what has no answer is passed over, so each has a good question behind it.
    let mut streams: [Box<dyn ReadWrite>; 2] = [
        Box::new(TcpStream::connect(agent.address()).unwrap()),
        Box::new(over_tls(&agent, encrypted(&agent, "tls"))),
    ];
    for stream in &mut streams {
        for message in &mutated {
            for message in [message, &last] {
                stream.write_all(&[&(message.len() as u16).to_be_bytes()[..], message].concat()).unwrap();
            }
            stream.flush().unwrap();
            loop {
                let mut length = [0; 2];
                stream.read_exact(&mut length).expect("the good question is answered");
                let mut answer = vec![0; usize::from(u16::from_be_bytes(length))];
                stream.read_exact(&mut answer).unwrap();
                if answer.windows(5).any(|window| window == b"\x04last") {
                    break;
                }
                is_answer(&answer, message);
            }
        }
    }
    let texts: Vec<String> = mutated.iter().map(|message| hex(message)).collect();
    let said = over_quic(&agent, "h3", &texts);
    assert!(said.iter().all(|line| line.starts_with("200") || line.starts_with("503")), "{said:?}");
    // One of them ends a connection of DoQ, whose ID must be 0: each has its own.
    for message in mutated.iter().take(20) {
        over_quic(&agent, "doq", &[hex(message)]);
    }
    agent.dig(&["a.v.example"]).has("NXDOMAIN");
    kdig(&agent, "dns.test", &["a.v.example"]).has("NXDOMAIN");
    assert!(over_quic(&agent, "doq", &[question("a.v.example.", None)])[0].len() > 24);
}

trait ReadWrite: Read + Write {}

impl<T: Read + Write> ReadWrite for T {}

/// A byte now and then: of a question over TCP, of a ClientHello, of a request's head over TLS.
fn who_speaks_slowly_takes_nothing_from_others() {
    let upstream = Upstream::start();
    let agent = start(folder("dns.test"), &upstream);
    let [tls, https] = ["tls", "https"].map(|what| encrypted(&agent, what));
    let mut slow: Vec<(Box<dyn ReadWrite>, &[u8])> = Vec::new();
    for _ in 0..8 {
        slow.push((
            Box::new(TcpStream::connect(agent.address()).unwrap()),
            &[0, 40, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12],
        ));
        slow.push((
            Box::new(TcpStream::connect(tls).unwrap()),
            &[0x16, 3, 1, 1, 0, 1, 0, 0, 0, 3, 3, 1, 2, 3, 4],
        ));
        slow.push((Box::new(over_tls(&agent, https)), b"GET /dns-query?d"));
    }
    let begun = Instant::now();
    let mut ended = 0;
    for at in 0..15 {
        slow.retain_mut(|(stream, bytes)| {
            let goes_on = stream.write_all(&bytes[at..=at]).and_then(|()| stream.flush()).is_ok();
            ended += usize::from(!goes_on);
            goes_on
        });
        kdig(&agent, "dns.test", &["a.v.example"]).has("NXDOMAIN");
        agent.dig(&["+tcp", "a.v.example"]).has("NXDOMAIN");
        std::thread::sleep(Duration::from_secs(1));
    }
    assert!(begun.elapsed() < Duration::from_secs(30));
    assert_eq!(ended, 24, "each has ten seconds, and no more");
}

fn another_certificate_is_used_as_soon_as_it_is_there() {
    let upstream = Upstream::start();
    let agent = start(folder("one.test"), &upstream);
    kdig(&agent, "one.test", &["a.v.example"]).has("NXDOMAIN");
    write_certificate(agent.folder.path(), "two.test");
    until("the other certificate is in use", || {
        kdig(&agent, "two.test", &["a.v.example"]).0.contains("NXDOMAIN").then_some(())
    });
    // A file that is cut off changes nothing.
    fs::write(agent.folder.path().join("cert.pem"), "-----BEGIN CERTIFICATE-----\n").unwrap();
    std::thread::sleep(Duration::from_millis(1500));
    kdig(&agent, "two.test", &["a.v.example"]).has("NXDOMAIN");
}

fn a_key_that_fits_no_certificate_is_named() {
    let upstream = Upstream::start();
    for (file, content, said) in [
        ("key.pem", certificate("other.test").1, "key.pem is not the key of"),
        ("cert.pem", String::new(), "cert.pem"),
        ("key.pem", "no key".to_owned(), "key.pem"),
    ] {
        let folder = folder("dns.test");
        fs::write(folder.path().join(file), content).unwrap();
        let Err(refused) = Agent::start_in(folder, &upstream) else { panic!("it starts without {file}") };
        assert!(refused.contains("[dns.tls]") && refused.contains(said), "{refused}");
    }
}

fn what_is_no_tls_takes_nothing_from_others() {
    let upstream = Upstream::start();
    let agent = start(folder("dns.test"), &upstream);
    let address = encrypted(&agent, "tls");
    let silent: Vec<TcpStream> = (0..20).map(|_| TcpStream::connect(address).unwrap()).collect();
    for bytes in [
        &b"\x00\x1dplain DNS, or what looks like it"[..],
        &[0x16, 3, 1, 0xff, 0xff],
        b"GET / HTTP/1.1\r\n\r\n",
    ] {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(12))).unwrap();
        stream.write_all(bytes).unwrap();
        let mut said = Vec::new();
        let _ = stream.shutdown(std::net::Shutdown::Write);
        let _ = stream.read_to_end(&mut said);
        assert!(said.len() < 16, "no more than an alert: {said:?}");
    }
    kdig(&agent, "dns.test", &["a.v.example"]).has("NXDOMAIN");
    let failures = || agent.status()["counters"]["dns"]["tls_failures"].as_u64();
    until("what came to nothing is counted", || (failures() >= Some(3)).then_some(()));
    drop(silent);
    let _: Value = agent.status();
}
