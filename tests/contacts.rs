//! What becomes of a contact: how a blocked client learns of it, how far an open one gets, and who made it.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use interdict::lab::{LAN, Lab, RESOLVER, Side, VENDOR, WAN};
use tempfile::TempDir;

use crate::case;
use crate::packets::{Gateway, at, here, lab};
use crate::support::{Case, until};

pub(crate) fn cases() -> Vec<Case> {
    vec![
        case!(a_blocked_client_is_told_at_once, Root, both_families),
        case!(how_far_a_contact_got_is_on_record, Root, both_families),
        case!(the_self_test_goes_through_both_planes, Root, both_families),
        case!(a_banned_server_that_a_client_names_is_not_reached, Root, both_families),
        case!(a_local_process_is_refused_and_named, Root, both_families),
        case!(each_clients_packets_are_counted, Root, both_families),
    ]
}

const POLICY: &str = r#"
format = 1
[[rule]]
id = "nets"
role = "update"
action = "block"
networks = ["77.74.176.0/21"]
[[rule]]
id = "names"
role = "update"
action = "block"
domains = ["banned.example"]
"#;

const LOGGED: &str = r#"
format = 1
[[rule]]
id = "nets"
role = "update"
action = "log"
networks = ["77.74.176.0/21"]
"#;

/// The longest that a refused call may take.
const AT_ONCE: Duration = Duration::from_millis(50);

/// What a client's attempt came to, and after how long.
fn attempt(
    lab: &Lab,
    work: impl FnOnce() -> std::io::Result<()> + Send + 'static,
) -> (std::io::Result<()>, Duration) {
    lab.inside(Side::Client, move || {
        let start = Instant::now();
        (work(), start.elapsed())
    })
    .unwrap()
}

fn a_blocked_client_is_told_at_once() {
    let lab = lab();
    let _link = lab.take_what_is_sent_back().unwrap();
    let gateway = Gateway::start(&lab, POLICY, &format!("{LAN}=lan"));
    let vendor = at(VENDOR, 443);
    for _ in 0..10 {
        let connect = move || TcpStream::connect_timeout(&vendor, Duration::from_secs(5)).map(drop);
        let (outcome, elapsed) = attempt(&lab, connect);
        assert_eq!(outcome.unwrap_err().kind(), std::io::ErrorKind::ConnectionRefused);
        assert!(elapsed < AT_ONCE, "{elapsed:?}");
        let send = move || {
            let socket = UdpSocket::bind(any(vendor))?;
            socket.set_read_timeout(Some(Duration::from_secs(5)))?;
            socket.connect(vendor)?;
            socket.send(b"hello")?;
            socket.recv(&mut [0; 16]).map(drop)
        };
        let (outcome, elapsed) = attempt(&lab, send);
        let error = outcome.unwrap_err();
        // What Linux makes of "administratively prohibited", over IPv4 and over IPv6.
        let expect = if vendor.is_ipv4() { nix::libc::EHOSTUNREACH } else { nix::libc::EACCES };
        assert_eq!(error.raw_os_error(), Some(expect), "{error}");
        assert!(elapsed < AT_ONCE, "{elapsed:?}");
    }
    let exits = gateway.status()["counters"]["packet"]["exits"].clone();
    assert_eq!((exits["rejected"].as_u64(), exits["blocked"].as_u64()), (Some(20), Some(0)));
}

fn any(like: SocketAddr) -> SocketAddr {
    let address = if like.is_ipv4() { IpAddr::from([0; 4]) } else { IpAddr::from([0; 16]) };
    SocketAddr::new(address, 0)
}

fn how_far_a_contact_got_is_on_record() {
    let lab = lab();
    let gateway = Gateway::start(&lab, LOGGED, &format!("{LAN}=lan"));
    let vendor = at(VENDOR, 443);
    let (outcome, _) = attempt(&lab, move || {
        let mut stream = TcpStream::connect_timeout(&vendor, Duration::from_secs(2))?;
        stream.read(&mut [0; 16]).map(drop)
    });
    outcome.unwrap();
    let event = gateway.event("it is on record that data came back", |event| {
        event["act"] == "contact.reached" && event["depth"] == "received"
    });
    assert_eq!((&event["rule"], &event["verdict"]), (&"nets".into(), &"log".into()));
    assert_eq!(event["asked"]["address"], here(VENDOR).to_string());
    assert_eq!(event["count"], 0, "its packets are on record already");
    assert!(event["detail"]["bytes_in"].as_u64().unwrap() > 100, "{event}");
    assert!(event["detail"]["packets_out"].as_u64().unwrap() >= 2, "{event}");
}

/// A ClientHello that names a server and nothing else.
fn hello(name: &str) -> Vec<u8> {
    let entry = [&[0][..], &(name.len() as u16).to_be_bytes(), name.as_bytes()].concat();
    let list = [&(entry.len() as u16).to_be_bytes()[..], &entry].concat();
    let extension = [&[0, 0][..], &(list.len() as u16).to_be_bytes(), &list].concat();
    let body = [
        &[3, 3][..],
        &[9; 32],
        &[0, 0, 2, 0x13, 1, 1, 0],
        &(extension.len() as u16).to_be_bytes(),
        &extension,
    ]
    .concat();
    let message = [&[1][..], &(body.len() as u32).to_be_bytes()[1..], &body].concat();
    [&[22, 3, 1][..], &(message.len() as u16).to_be_bytes(), &message].concat()
}

fn a_banned_server_that_a_client_names_is_not_reached() {
    let lab = lab();
    let _link = lab.take_what_is_sent_back().unwrap();
    let gateway = Gateway::start(&lab, POLICY, &format!("{LAN}=lan"));
    let server = at(RESOLVER, 443);
    let listener = lab.inside(Side::Internet, move || TcpListener::bind(server)).unwrap().unwrap();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            std::thread::spawn(move || {
                // The answer to a ClientHello, as far as anyone here reads it.
                let read = stream.read(&mut [0; 512]);
                read.and_then(|bytes| if bytes > 0 { stream.write_all(b"hello") } else { Ok(()) })
            });
        }
    });
    let name = |name: &'static str| {
        attempt(&lab, move || {
            let mut stream = TcpStream::connect_timeout(&server, Duration::from_secs(2))?;
            stream.set_read_timeout(Some(Duration::from_secs(2)))?;
            stream.write_all(&hello(name))?;
            stream.read_exact(&mut [0; 5])
        })
        .0
    };
    name("www.example.org").unwrap();
    assert_eq!(name("www.Banned.example").unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
    let event =
        gateway.event("it is on record", |event| event["detail"]["server_name"] == "www.banned.example");
    assert_eq!((&event["verdict"], &event["rule"]), (&"block".into(), &"names".into()));
    assert_eq!(event["asked"]["address"], here(RESOLVER).to_string());
}

/// A control group of our own, in a mount of our own, which programs in the lab see too.
struct Group {
    mount: TempDir,
    group: PathBuf,
}

impl Group {
    fn new() -> Self {
        let mount = TempDir::new().unwrap();
        let mounted =
            Command::new("mount").args(["-t", "cgroup2", "none"]).arg(mount.path()).status().unwrap();
        assert!(mounted.success());
        let group = mount
            .path()
            .join(format!("interdict-e2e-{}", std::process::id()))
            .with_extension(mount.path().file_name().unwrap());
        std::fs::create_dir(&group).unwrap();
        Self { mount, group }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let end = Instant::now() + Duration::from_secs(5);
        while std::fs::remove_dir(&self.group).is_err() && Instant::now() < end {
            std::thread::yield_now();
        }
        let _ = Command::new("umount").arg(self.mount.path()).status();
    }
}

fn a_local_process_is_refused_and_named() {
    let lab = lab();
    let group = Group::new();
    let config = TempDir::new().unwrap();
    let file = config.path().join("interdict.toml").display().to_string();
    let cgroup = group.group.display();
    std::fs::write(&file, format!("[packet]\ncgroup = \"{cgroup}\"\nnat64 = [\"2001:db8:64::/96\"]\n"))
        .unwrap();
    let more = ["--interface", &format!("{WAN}=host"), "--config", &file];
    let gateway = Gateway::start_with(&lab, POLICY, &more);
    let status = gateway.status();
    assert_eq!(status["planes"]["packet"]["interfaces"][0]["role"], "host");
    assert_eq!(status["planes"]["packet"]["cgroup"], group.group.display().to_string());
    let program = format!(
        "import socket,time\nt=time.time()\ntry: socket.create_connection(('{}',443),5)\n\
         except OSError as e: print(e.errno, int((time.time()-t)*1000))",
        here(VENDOR)
    );
    let script = format!("echo $$ > {}/cgroup.procs && exec python3 -c \"$PROGRAM\"", group.group.display());
    for _ in 0..10 {
        let mut command = lab.command(Side::Gateway, "bash");
        let said = command.args(["-c", &script]).env("PROGRAM", &program).output().unwrap();
        let said = String::from_utf8(said.stdout).unwrap();
        let (errno, millis) = said.trim().split_once(' ').unwrap();
        assert_eq!(errno, "1", "EPERM");
        assert!(millis.parse::<u128>().unwrap() < AT_ONCE.as_millis(), "{millis} ms");
    }
    let event = gateway.event("the call is on record", |event| event["channel"] == "cgroup");
    assert_eq!((&event["verdict"], &event["rule"]), (&"block".into(), &"nets".into()));
    if let IpAddr::V4(vendor) = here(VENDOR) {
        let [a, b, c, d] = vendor.octets();
        let behind = format!("2001:db8:64::{a:x}{b:02x}:{c:x}{d:02x}");
        let why = &gateway.why(&[&behind])[0];
        assert_eq!((&why["rule"], &why["ask"]), (&"nets".into(), &behind.into()), "{why}");
        assert_eq!(why["note"], format!("it stands for {vendor}"));
    }
    assert_eq!(event["process"]["name"], "python3");
    assert!(event["process"]["pid"].as_u64().unwrap() > 1);
    assert_eq!(event["asked"]["address"], here(VENDOR).to_string());
}

fn each_clients_packets_are_counted() {
    let lab = lab();
    let gateway = Gateway::start(&lab, POLICY, &format!("{LAN}=lan"));
    let vendor = SocketAddr::new(here(VENDOR), 9);
    attempt(&lab, move || {
        let socket = UdpSocket::bind(any(vendor))?;
        (0..250).try_for_each(|_| socket.send_to(b"hello", vendor).map(drop))
    })
    .0
    .unwrap();
    let counted = crate::support::until("all are counted", || {
        let clients = gateway.status()["planes"]["packet"]["clients"].clone();
        (clients[0]["packets"] == 250).then_some(clients)
    });
    let client = &counted.as_array().unwrap()[0];
    assert_eq!(
        (&client["rule"], &client["verdict"], &client["hook"]),
        (&"nets".into(), &"block".into(), &"lan".into())
    );
    assert_eq!(client["client"], here(interdict::lab::CLIENT).to_string());
}

fn the_self_test_goes_through_both_planes() {
    let lab = lab();
    let gateway = Gateway::start(&lab, POLICY, &format!("{LAN}=lan"));
    let probe = || gateway.ask(&interdict::control::Request::Probe).unwrap();
    let tested = probe();
    assert_eq!(
        (&tested["passed"], &tested["packet"]["outcome"]),
        (&true.into(), &"blocked".into()),
        "{tested}"
    );
    assert_eq!(tested["packet"]["interfaces"], serde_json::json!([LAN]));
    let tried = tested["packet"]["why"].as_str().unwrap();
    assert!(
        tried.contains(", by nets") && tried.contains("interdict-selftest.banned.example, by names"),
        "{tried}"
    );
    let counters = gateway.status()["counters"]["packet"].clone();
    assert_eq!(counters["exits"]["blocked"], 0, "nothing is counted in the kernel");
    // Without its programs the test fails, and that is on record.
    assert!(lab.command(Side::Gateway, "ip").args(["link", "del", LAN]).status().unwrap().success());
    let failed = until("the test fails", || Some(probe()).filter(|tested| tested["passed"] == false));
    assert!(failed["packet"]["why"].as_str().unwrap().contains("is not filtered"), "{failed}");
    gateway.event("the failure is on record", |event| {
        event["plane"] == "selftest" && event["detail"]["passed"] == false
    });
}
