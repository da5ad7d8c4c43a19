//! A small network of its own: `client — gateway — internet`, in three network namespaces without a way out.
//!
//! `interdict demo` shows the program in it, and the tests try it there. Nothing outside the namespaces is touched.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context, bail};
use hickory_proto::op::{Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::A;
use hickory_proto::rr::{Name, RData, Record, RecordType};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// Where the client reaches the gateway.
pub const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);
/// The client's address.
pub const CLIENT: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 2);
/// The resolver in the lab's internet.
pub const RESOLVER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);
/// An ordinary server in the lab's internet.
pub const ORDINARY: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);
/// A server with one of the vendor's addresses, in the lab's internet.
pub const VENDOR: Ipv4Addr = Ipv4Addr::new(77, 74, 177, 1);
/// The gateway's interface towards the client.
pub const LAN: &str = "lan0";
/// The gateway's interface towards the internet.
pub const WAN: &str = "wan0";

/// A place in the lab.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The client.
    Client,
    /// The gateway.
    Gateway,
    /// Everything behind it.
    Internet,
}

/// The namespaces; they go when it is dropped.
pub struct Lab {
    prefix: String,
}

impl Lab {
    /// Makes the namespaces, joins them, and gives each its addresses.
    ///
    /// # Errors
    /// Without root, or where `ip` is missing.
    pub fn new() -> anyhow::Result<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let prefix = format!("interdict-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let lab = Self { prefix };
        let [client, gateway, internet] =
            [Side::Client, Side::Gateway, Side::Internet].map(|side| lab.name(side));
        for name in [&client, &gateway, &internet] {
            ip(&format!("netns add {name}"))?;
            ip(&format!("-n {name} link set lo up"))?;
        }
        for line in [
            format!("-n {client} link add eth0 type veth peer name {LAN} netns {gateway}"),
            format!("-n {gateway} link add {WAN} type veth peer name eth0 netns {internet}"),
            format!("-n {client} addr add {CLIENT}/24 dev eth0"),
            format!("-n {gateway} addr add {GATEWAY}/24 dev {LAN}"),
            format!("-n {gateway} addr add 192.0.2.1/24 dev {WAN}"),
            format!("-n {internet} addr add {RESOLVER}/24 dev eth0"),
            format!("-n {internet} addr add {ORDINARY}/32 dev lo"),
            format!("-n {internet} addr add {VENDOR}/32 dev lo"),
            format!("-n {client} link set eth0 up"),
            format!("-n {gateway} link set {LAN} up"),
            format!("-n {gateway} link set {WAN} up"),
            format!("-n {internet} link set eth0 up"),
            format!("-n {client} route add default via {GATEWAY}"),
            format!("-n {gateway} route add default via {RESOLVER}"),
            format!("-n {internet} route add 10.77.0.0/24 via 192.0.2.1"),
        ] {
            ip(&line)?;
        }
        lab.inside(Side::Gateway, || std::fs::write("/proc/sys/net/ipv4/ip_forward", "1"))?
            .context("the gateway cannot forward")?;
        Ok(lab)
    }

    /// The name of a namespace.
    pub fn name(&self, side: Side) -> String {
        let side = match side {
            Side::Client => "client",
            Side::Gateway => "gateway",
            Side::Internet => "internet",
        };
        format!("{}-{side}", self.prefix)
    }

    /// A program, to be run in a namespace.
    pub fn command(&self, side: Side, program: &str) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name(side), program]);
        command
    }

    /// Does something in a namespace, on a thread of its own. Sockets made there stay there.
    ///
    /// # Errors
    /// When the namespace cannot be entered.
    pub fn inside<T: Send + 'static>(
        &self,
        side: Side,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> anyhow::Result<T> {
        let path = format!("/run/netns/{}", self.name(side));
        let thread = std::thread::spawn(move || {
            let namespace = std::fs::File::open(&path).with_context(|| format!("cannot open {path}"))?;
            move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))?;
            Ok(work())
        });
        thread.join().map_err(|_| anyhow::anyhow!("work in a namespace panicked"))?
    }

    /// Serves TCP on an address of the lab's internet: whoever connects is greeted.
    ///
    /// # Errors
    /// When the address cannot be served.
    pub fn serve_tcp(&self, address: SocketAddr) -> anyhow::Result<()> {
        let listener = self.inside(Side::Internet, move || TcpListener::bind(address))??;
        std::thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                let _ = std::io::Write::write_all(&mut stream, b"hello\n");
            }
        });
        Ok(())
    }

    /// Serves DNS on the lab's resolver: the vendor's logged names get the vendor's address, all others the
    /// ordinary server's.
    ///
    /// # Errors
    /// When port 53 of the resolver cannot be served.
    pub fn serve_dns(&self) -> anyhow::Result<()> {
        let socket = self.inside(Side::Internet, || UdpSocket::bind((RESOLVER, 53)))??;
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok((len, from)) = socket.recv_from(&mut buffer) {
                if let Some(answer) = resolve(&buffer[..len]) {
                    let _ = socket.send_to(&answer, from);
                }
            }
        });
        Ok(())
    }

    /// Asks the gateway for a name's address, from the client.
    ///
    /// # Errors
    /// When nothing comes back within two seconds.
    pub fn ask(&self, name: &str) -> anyhow::Result<Reply> {
        let mut question = Message::new(1, MessageType::Query, OpCode::Query);
        question.metadata.recursion_desired = true;
        question.add_query(Query::query(Name::from_ascii(format!("{name}."))?, RecordType::A));
        let question = question.to_vec()?;
        let answer = self.inside(Side::Client, move || -> std::io::Result<Vec<u8>> {
            let socket = UdpSocket::bind((CLIENT, 0))?;
            socket.set_read_timeout(Some(Duration::from_secs(2)))?;
            socket.send_to(&question, (GATEWAY, 53))?;
            let mut buffer = [0; 4096];
            let len = socket.recv(&mut buffer)?;
            Ok(buffer[..len].to_vec())
        })?;
        let answer = Message::from_vec(&answer.context("no answer from the gateway's resolver")?)?;
        let address = answer.answers.iter().find_map(|record| match &record.data {
            RData::A(A(address)) => Some(IpAddr::V4(*address)),
            _ => None,
        });
        Ok(match (answer.metadata.response_code, address) {
            (_, Some(address)) => Reply::Address(address),
            (ResponseCode::NXDomain, None) => Reply::NxDomain,
            (code, None) => Reply::Code(code.to_string()),
        })
    }

    /// Whether the client can connect to an address within a second.
    ///
    /// # Errors
    /// When the client's namespace cannot be entered.
    pub fn connects(&self, to: SocketAddr) -> anyhow::Result<bool> {
        self.inside(Side::Client, move || TcpStream::connect_timeout(&to, Duration::from_secs(1)).is_ok())
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        for side in [Side::Client, Side::Gateway, Side::Internet] {
            let _ = ip(&format!("netns del {}", self.name(side)));
        }
    }
}

/// What came back for a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// An address.
    Address(IpAddr),
    /// There is no such name.
    NxDomain,
    /// Another response code, without an address.
    Code(String),
}

fn resolve(question: &[u8]) -> Option<Vec<u8>> {
    let question = Message::from_vec(question).ok()?;
    let query = question.queries.first()?;
    let mut answer = Message::new(question.metadata.id, MessageType::Response, OpCode::Query);
    answer.metadata.recursion_available = true;
    answer.add_query(query.clone());
    if query.query_type() == RecordType::A {
        let vendors = query.name().to_string().to_lowercase().contains("kaspersky");
        let address = if vendors { VENDOR } else { ORDINARY };
        answer.answers.push(Record::from_rdata(query.name().clone(), 300, RData::A(A(address))));
    }
    answer.to_vec().ok()
}

fn ip(line: &str) -> anyhow::Result<()> {
    let output =
        Command::new("ip").args(line.split(' ')).output().context("`ip` is missing; install iproute2")?;
    if !output.status.success() {
        bail!("ip {line}: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}
