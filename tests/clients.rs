//! Programs of others that ask the server: forwarders and a browser.

use std::fs;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, SanType};
use tempfile::TempDir;

use crate::case;
use crate::support::{Agent, Case, Line, Running, Scripted, Upstream, dig, free_address, tool_path, until};

pub(crate) fn cases() -> Vec<Case> {
    vec![
        case!(unbound_forwards_over_udp_and_tls, Unbound),
        case!(systemd_resolved_asks_over_udp_and_tls, Resolved),
        case!(chromium_asks_over_https, ChromiumDoh),
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

/// An agent that serves over TLS and HTTPS too, by a certificate of the authority `ca.pem` in its folder for `dns.test` and
/// this machine.
fn start(upstream: SocketAddr) -> Agent {
    let files = "certificate = \"FOLDER/cert.pem\"\nkey = \"FOLDER/key.pem\"\n";
    let config = format!("[dns.tls]\nlisten = [\"127.0.0.1:0\"]\nhttps = [\"127.0.0.1:0\"]\n{files}");
    let folder = Agent::folder(POLICY, &config);
    let path = |name: &str| folder.path().join(name);
    let authority_key = KeyPair::generate().unwrap();
    let mut authority = CertificateParams::new(Vec::new()).unwrap();
    // Its own name, or its certificates would look as if they had signed themselves.
    authority.distinguished_name.push(DnType::CommonName, "a test's authority");
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    fs::write(path("ca.pem"), authority.self_signed(&authority_key).unwrap().pem()).unwrap();
    let issuer = Issuer::new(authority, authority_key);
    let key = KeyPair::generate().unwrap();
    let mut server = CertificateParams::new(vec!["dns.test".to_owned()]).unwrap();
    server.subject_alt_names.push(SanType::IpAddress(IpAddr::V4(Ipv4Addr::LOCALHOST)));
    fs::write(path("cert.pem"), server.signed_by(&key, &issuer).unwrap().pem()).unwrap();
    fs::write(path("key.pem"), key.serialize_pem()).unwrap();
    Agent::start_asking(folder, &[upstream]).unwrap_or_else(|said| panic!("it did not start:\n{said}"))
}

fn encrypted(agent: &Agent, what: &str) -> SocketAddr {
    agent.status()["planes"]["dns"][what][0].as_str().unwrap().parse().unwrap()
}

/// Asks a forwarder at `address`, and looks at what came to us over this channel.
fn ask(forwarder: SocketAddr, agent: &Agent, channel: &str) {
    let question = |name: &str| dig(forwarder, &["+tries=1", "+time=2", name]);
    until("the forwarder answers", || question("www.example.org").0.contains("192.0.2.7").then_some(()));
    let blocked = format!("{channel}.v.example");
    let answer = question(&blocked);
    assert_eq!(answer.status(), "NXDOMAIN", "{}", answer.0);
    let event = agent.event("it is on record", |event| event["asked"]["name"] == blocked.as_str());
    assert_eq!((&event["channel"], &event["verdict"]), (&channel.into(), &"block".into()));
}

fn unbound_forwards_over_udp_and_tls() {
    let upstream = Upstream::start();
    let agent = start(upstream.address());
    for (channel, over_tls, to) in [
        ("udp", "no", format!("127.0.0.1@{}", agent.address().port())),
        ("dot", "yes", format!("127.0.0.1@{}#dns.test", encrypted(&agent, "tls").port())),
    ] {
        let (folder, address) = (TempDir::new().unwrap(), free_address());
        let config = format!(
            "server:\n interface: 127.0.0.1@{}\n username: \"\"\n chroot: \"\"\n directory: \"{}\"\n pidfile: \"\"\n \
             use-syslog: no\n do-not-query-localhost: no\n module-config: \"iterator\"\n tls-cert-bundle: \"{}\"\n\
             forward-zone:\n name: \".\"\n forward-tls-upstream: {over_tls}\n forward-addr: {to}\n",
            address.port(),
            folder.path().display(),
            agent.folder.path().join("ca.pem").display(),
        );
        fs::write(folder.path().join("unbound.conf"), config).unwrap();
        let mut unbound = Command::new(tool_path("unbound").unwrap());
        let _unbound = Running::start(unbound.args(["-d", "-c"]).arg(folder.path().join("unbound.conf")));
        ask(address, &agent, channel);
    }
}

/// It reads its configuration, and the authorities that it trusts, from fixed places: they are put there in a view of the
/// file system that is its own.
fn systemd_resolved_asks_over_udp_and_tls() {
    const SETUP: &str = "mount -t tmpfs none /run/systemd && mount --bind \"$0\" /etc/systemd && \
        mount --bind \"$1\" /etc/ssl/certs/ca-certificates.crt && exec \"$2\"";
    let upstream = Upstream::start();
    let agent = start(upstream.address());
    for (channel, over_tls, to) in [
        ("udp", "no", format!("127.0.0.1:{}", agent.address().port())),
        ("dot", "yes", format!("127.0.0.1:{}#dns.test", encrypted(&agent, "tls").port())),
    ] {
        let (folder, address) = (TempDir::new().unwrap(), free_address());
        let config = format!(
            "[Resolve]\nDNS={to}\nDomains=~.\nFallbackDNS=\nDNSSEC=no\nDNSOverTLS={over_tls}\nLLMNR=no\nMulticastDNS=no\n\
             Cache=no\nDNSStubListener=no\nDNSStubListenerExtra={address}\n"
        );
        fs::write(folder.path().join("resolved.conf"), config).unwrap();
        let mut resolved = Command::new("unshare");
        resolved.args(["-m", "sh", "-c", SETUP]).arg(folder.path()).arg(agent.folder.path().join("ca.pem"));
        let _resolved = Running::start(resolved.arg(tool_path("systemd-resolved").unwrap()));
        // It runs as another user, who must be able to read both.
        for path in [folder.path(), agent.folder.path()] {
            fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        }
        ask(address, &agent, channel);
    }
}

/// A page that Chromium shows, or what it says instead.
fn browse(home: &Path, url: &str) -> String {
    let mut chromium = Command::new("timeout");
    chromium.args([
        "60",
        "chromium",
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--no-first-run",
        "--dump-dom",
    ]);
    chromium.arg(format!("--user-data-dir={}", home.join("profile").display())).arg(url);
    let output = chromium.env("HOME", home).process_group(0).output().unwrap();
    String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
}

fn chromium_asks_over_https() {
    // A site with an address, and no HTTPS record that says more.
    let line = |text: &str| toml::from_str::<Line>(text).unwrap();
    let site = line("ask = \"site.test A\"\nanswer = [\"site.test. 300 IN A 127.0.0.1\"]");
    let upstream = Scripted::start(0, &[site, line("ask = \"* *\"")]);
    let agent = start(upstream.address());
    let (home, site) = (TempDir::new().unwrap(), TcpListener::bind("127.0.0.1:0").unwrap());
    let database = format!("sql:{}", home.path().join(".pki/nssdb").display());
    fs::create_dir_all(home.path().join(".pki/nssdb")).unwrap();
    for words in [&["-N", "--empty-password"][..], &["-A", "-t", "C,,", "-n", "test", "-i"]] {
        let mut certutil = Command::new("certutil");
        certutil.args(["-d", &database]).args(words);
        if words[0] == "-A" {
            certutil.arg(agent.folder.path().join("ca.pem"));
        }
        assert!(certutil.status().unwrap().success());
    }
    fs::create_dir(home.path().join("profile")).unwrap();
    let template = format!("https://{}/dns-query", encrypted(&agent, "https"));
    let settings = serde_json::json!({ "dns_over_https": { "mode": "secure", "templates": template } });
    fs::write(home.path().join("profile/Local State"), settings.to_string()).unwrap();
    let port = site.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for mut stream in site.incoming().flatten() {
            let _ = stream.read(&mut [0; 4096]);
            let page = "<p>the page itself</p>";
            let head =
                format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", page.len());
            let _ = stream.write_all((head + page).as_bytes());
        }
    });
    let shown = browse(home.path(), &format!("http://site.test:{port}/"));
    assert!(shown.contains("the page itself"), "{shown}");
    let shown = browse(home.path(), "http://www.v.example/");
    assert!(shown.contains("ERR_NAME_NOT_RESOLVED"), "{shown}");
    let event = agent.event("it is on record", |event| event["asked"]["name"] == "www.v.example");
    assert_eq!((&event["channel"], &event["verdict"]), (&"doh".into(), &"block".into()));
}
