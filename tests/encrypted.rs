//! DNS over encrypted channels, with a real client.

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

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
        case!(upstreams_are_asked_over_tls_and_https, Dig),
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
        "[dns]\nnsid = \"gw1\"\n[dns.tls]\nlisten = [\"127.0.0.1:0\"]\nhttps = [\"127.0.0.1:0\"]\ncertificate = {:?}\nkey = {:?}\n",
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
    let event = agent.event("the question is on record", |event| event["asked"]["name"] == "a.v.example");
    assert_eq!(event["channel"], "doh");
}

/// What the server says to a request over HTTP/1.1, up to the end of its head.
fn request(agent: &Agent, address: SocketAddr, head: &str, body: &[u8]) -> String {
    let mut roots = RootCertStore::empty();
    let authority = agent.folder.path().join("dns.test.pem");
    roots.add(CertificateDer::from_pem_file(authority).unwrap()).unwrap();
    let provider = Arc::new(ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let config = config.with_root_certificates(roots).with_no_client_auth();
    let client = ClientConnection::new(Arc::new(config), "dns.test".try_into().unwrap()).unwrap();
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    let mut stream = StreamOwned::new(client, stream);
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
fn upstreams_are_asked_over_tls_and_https() {
    let upstream = Upstream::start();
    let asked = start(folder("dns.test"), &upstream);
    let ports = ["tls", "https"].map(|what| encrypted(&asked, what).port());
    for (url, works) in [
        (format!("tls://dns.test:{}#127.0.0.1", ports[0]), true),
        (format!("https://dns.test:{}/dns-query#127.0.0.1", ports[1]), true),
        (format!("https://dns.test:{}/elsewhere#127.0.0.1", ports[1]), false),
        (format!("tls://other.test:{}#127.0.0.1", ports[0]), false),
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
