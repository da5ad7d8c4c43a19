//! Other people's servers, run for a test: on loopback, from a folder of their own, ended by their process.

use std::collections::HashMap;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use hickory_proto::op::{Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{Name, RData, RecordType};
use tempfile::TempDir;

use super::{Upstream, bind_both, tool_path};

/// A server, and the form in which it takes a policy.
#[derive(Clone, Copy, Debug)]
pub(crate) enum ServerKind {
    /// BIND with a response policy zone.
    Named,
    /// PowerDNS Recursor with a response policy zone.
    Recursor,
    /// Unbound with a response policy zone.
    UnboundZone,
    /// Unbound with local zones.
    Unbound,
    /// dnsmasq.
    Dnsmasq,
}

/// A server that has loaded a policy and forwards the rest to the upstream.
pub(crate) struct Server {
    folder: TempDir,
    child: Child,
    address: SocketAddr,
}

/// A process that ends with the test.
pub(crate) struct Running(Child);

impl Running {
    /// Starts it; what it says is thrown away.
    pub(crate) fn start(command: &mut Command) -> Self {
        let quiet = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        Self(quiet.spawn().expect("the server runs"))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What came back for a question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Answered {
    /// What the upstream says.
    Upstream,
    NxDomain,
    NoData,
    Refused,
    /// These addresses, none of them the upstream's.
    Addresses(Vec<IpAddr>),
    /// Nothing, twice.
    Silent,
    /// Anything else.
    Other(String),
}

impl Server {
    pub(crate) fn start(kind: ServerKind, exported: &str, upstream: &Upstream) -> Self {
        let folder = TempDir::new().unwrap();
        let address = free_address();
        fs::write(folder.path().join("exported"), exported).unwrap();
        let mut command = kind.command(folder.path().to_str().unwrap(), address, upstream.address());
        let log = fs::File::create(folder.path().join("log")).unwrap();
        let child = command.stdout(log.try_clone().unwrap()).stderr(log).stdin(Stdio::null()).spawn();
        let server = Self { folder, child: child.expect("the server runs"), address };
        let ready = ["ready.example".to_owned()];
        let end = Instant::now() + Duration::from_secs(10);
        while server.ask(&ready, RecordType::A, Duration::from_millis(300))[0] != Answered::Upstream {
            assert!(Instant::now() < end, "{kind:?} does not answer; it said:\n{}", server.log());
        }
        server
    }

    /// The last that the server wrote.
    pub(crate) fn log(&self) -> String {
        const LINES: usize = 20;
        let log = fs::read_to_string(self.folder.path().join("log")).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(LINES)..].join("\n")
    }

    /// Asks for each name; what stays silent is asked once more.
    pub(crate) fn ask_all(&self, names: &[String], kind: RecordType) -> Vec<Answered> {
        let mut answers = self.ask(names, kind, Duration::from_secs(1));
        let silent: Vec<usize> = (0..names.len()).filter(|i| answers[*i] == Answered::Silent).collect();
        let again: Vec<String> = silent.iter().map(|i| names[*i].clone()).collect();
        for (i, answer) in silent.into_iter().zip(self.ask(&again, kind, Duration::from_secs(1))) {
            answers[i] = answer;
        }
        answers
    }

    /// Asks for each name once, a few at a time, and waits so long after the last.
    fn ask(&self, names: &[String], kind: RecordType, patience: Duration) -> Vec<Answered> {
        const AT_ONCE: usize = 32;
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.connect(self.address).unwrap();
        let mut answers = vec![Answered::Silent; names.len()];
        let mut waiting: HashMap<u16, Instant> = HashMap::new();
        let mut next = 0;
        let mut buffer = [0; 4096];
        while next < names.len() || !waiting.is_empty() {
            while next < names.len() && waiting.len() < AT_ONCE {
                let _ = socket.send(&question(next as u16, &names[next], kind));
                waiting.insert(next as u16, Instant::now() + patience);
                next += 1;
            }
            socket.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
            if let Ok(len) = socket.recv(&mut buffer)
                && let Ok(message) = Message::from_vec(&buffer[..len])
                && waiting.remove(&message.metadata.id).is_some()
            {
                answers[usize::from(message.metadata.id)] = answered(&message);
            }
            let now = Instant::now();
            waiting.retain(|_, end| *end > now);
        }
        answers
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl ServerKind {
    /// Writes the configuration into the folder. The exported file is `exported` in it.
    fn command(self, folder: &str, address: SocketAddr, upstream: SocketAddr) -> Command {
        let port = address.port();
        let (up, up_port) = (upstream.ip(), upstream.port());
        let write = |name: &str, text: String| fs::write(format!("{folder}/{name}"), text).unwrap();
        let tool = |name: &str| Command::new(tool_path(name).expect("the harness has looked for it"));
        let unbound = |modules: &str, policy: String| {
            format!(
                "server:\n interface: 127.0.0.1@{port}\n username: \"\"\n chroot: \"\"\n directory: \"{folder}\"\n \
                 pidfile: \"\"\n use-syslog: no\n logfile: \"\"\n do-not-query-localhost: no\n \
                 module-config: \"{modules}\"\n local-zone: \"test.\" nodefault\nforward-zone:\n name: \".\"\n forward-addr: {up}@{up_port}\n{policy}"
            )
        };
        match self {
            ServerKind::Named => {
                write(
                    "named.conf",
                    format!(
                        "options {{ directory \"{folder}\"; listen-on port {port} {{ 127.0.0.1; }}; listen-on-v6 {{ none; }};\n\
                         pid-file none; session-keyfile none; recursion yes; dnssec-validation no; prefetch 0;\n\
                         forward only; forwarders {{ {up} port {up_port}; }};\n\
                         response-policy {{ zone \"ban.rpz\"; }} qname-wait-recurse no break-dnssec yes; }};\n\
                         controls {{ }};\n\
                         zone \"ban.rpz\" {{ type primary; file \"exported\"; check-names ignore; allow-query {{ none; }}; }};\n"
                    ),
                );
                let mut command = tool("named");
                command.args(["-g", "-n", "1", "-c", &format!("{folder}/named.conf")]);
                command
            }
            ServerKind::Recursor => {
                write("policy.lua", format!("rpzFile(\"{folder}/exported\", {{policyName=\"ban\"}})\n"));
                write(
                    "recursor.conf",
                    format!(
                        "local-address=127.0.0.1\nlocal-port={port}\nsocket-dir={folder}\ndaemon=no\ndisable-syslog=yes\n\
                         forward-zones-recurse=.={up}:{up_port}\ndnssec=off\nthreads=1\nhint-file=no\n\
                         security-poll-suffix=\nsetuid=\nsetgid=\nlua-config-file={folder}/policy.lua\n"
                    ),
                );
                let mut command = tool("pdns_recursor");
                command.arg(format!("--config-dir={folder}"));
                command
            }
            ServerKind::UnboundZone => {
                let zone = "rpz:\n name: \"ban.rpz\"\n zonefile: \"exported\"\n".to_owned();
                write("unbound.conf", unbound("respip iterator", zone));
                let mut command = tool("unbound");
                command.args(["-d", "-c", &format!("{folder}/unbound.conf")]);
                command
            }
            ServerKind::Unbound => {
                write("unbound.conf", unbound("iterator", format!("include: \"{folder}/exported\"\n")));
                let mut command = tool("unbound");
                command.args(["-d", "-c", &format!("{folder}/unbound.conf")]);
                command
            }
            ServerKind::Dnsmasq => {
                write(
                    "dnsmasq.conf",
                    format!(
                        "no-resolv\nno-hosts\nbind-interfaces\nlisten-address=127.0.0.1\nport={port}\nuser=root\n\
                         pid-file={folder}/pid\nserver={up}#{up_port}\nconf-file={folder}/exported\n"
                    ),
                );
                let mut command = tool("dnsmasq");
                command.args(["--keep-in-foreground", "--log-facility=-"]);
                command.arg(format!("--conf-file={folder}/dnsmasq.conf"));
                command
            }
        }
    }
}

/// An address whose port is free for UDP and TCP a moment ago.
pub(crate) fn free_address() -> SocketAddr {
    let (udp, _) = bind_both(Ipv4Addr::LOCALHOST.into());
    udp.local_addr().unwrap()
}

fn question(id: u16, name: &str, kind: RecordType) -> Vec<u8> {
    let mut message = Message::new(id, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii(format!("{name}.")).unwrap(), kind));
    message.to_vec().unwrap()
}

fn answered(message: &Message) -> Answered {
    let mut addresses = Vec::new();
    for record in &message.answers {
        match &record.data {
            RData::A(a) => addresses.push(IpAddr::V4(a.0)),
            RData::AAAA(aaaa) => addresses.push(IpAddr::V6(aaaa.0)),
            RData::TXT(_) => return Answered::Upstream,
            RData::CNAME(_) => {}
            other => return Answered::Other(format!("{other:?}")),
        }
    }
    match message.metadata.response_code {
        ResponseCode::NXDomain => Answered::NxDomain,
        ResponseCode::Refused => Answered::Refused,
        ResponseCode::NoError if addresses.is_empty() => Answered::NoData,
        ResponseCode::NoError if addresses == [IpAddr::from([192, 0, 2, 7])] => Answered::Upstream,
        ResponseCode::NoError => Answered::Addresses(addresses),
        other => Answered::Other(other.to_string()),
    }
}
