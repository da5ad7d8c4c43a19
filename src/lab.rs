//! A small network of its own: `client — gateway — internet`, in three network namespaces without a way out.
//!
//! `interdict demo` shows the program in it, and the tests try it there. Nothing outside the namespaces is touched.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use hickory_proto::op::{Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::svcb::{IpHint, SvcParamKey, SvcParamValue};
use hickory_proto::rr::rdata::{A, AAAA, HTTPS, SOA, SVCB};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use interdict_ebpf_loader::{PassLink, PassProgram};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// Where the client reaches the gateway.
pub const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);
/// The client's address.
pub const CLIENT: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 2);
/// The resolver in the lab's internet.
pub const RESOLVER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);
/// Public resolvers in the lab's internet, under the addresses that everyone knows.
pub const PUBLIC: [Ipv4Addr; 3] =
    [Ipv4Addr::new(8, 8, 8, 8), Ipv4Addr::new(1, 1, 1, 1), Ipv4Addr::new(9, 9, 9, 9)];
/// A public resolver by IPv6.
pub const PUBLIC6: Ipv6Addr = Ipv6Addr::new(0x2001, 0x4860, 0x4860, 0, 0, 0, 0, 0x8888);
/// A name that each resolver answers with its own address.
pub const WHO_ARE_YOU: &str = "who-are-you.test";
/// A zone that each resolver hands over, a message for each record.
pub const ZONE: &str = "zone.test";
/// An ordinary server in the lab's internet.
pub const ORDINARY: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);
/// A server with one of the vendor's addresses, in the lab's internet.
pub const VENDOR: Ipv4Addr = Ipv4Addr::new(77, 74, 177, 1);
/// The same places in IPv6.
pub const GATEWAY6: Ipv6Addr = Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, 1);
/// The client's address.
pub const CLIENT6: Ipv6Addr = Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, 2);
/// The resolver in the lab's internet.
pub const RESOLVER6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 2, 0, 0, 0, 0, 2);
/// An ordinary server in the lab's internet.
pub const ORDINARY6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 100, 0, 0, 0, 0, 1);
/// A server with one of the vendor's addresses, in the lab's internet.
pub const VENDOR6: Ipv6Addr = Ipv6Addr::new(0x2a03, 0x2480, 0x8034, 0, 0, 0, 0, 1);
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
    /// What the resolvers were asked.
    asked: Arc<Mutex<Vec<(IpAddr, String)>>>,
}

impl Lab {
    /// Makes the namespaces, joins them, and gives each its addresses.
    ///
    /// # Errors
    /// Without root, or where `ip` is missing.
    pub fn new() -> anyhow::Result<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let prefix = format!("interdict-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let lab = Self { prefix, asked: Arc::default() };
        let [client, gateway, internet] =
            [Side::Client, Side::Gateway, Side::Internet].map(|side| lab.name(side));
        for (side, name) in [(Side::Client, &client), (Side::Gateway, &gateway), (Side::Internet, &internet)]
        {
            ip(&format!("netns add {name}"))?;
            ip(&format!("-n {name} link set lo up"))?;
            // Without duplicate address detection IPv6 addresses can be used at once.
            lab.inside(side, || std::fs::write("/proc/sys/net/ipv6/conf/default/accept_dad", "0"))?
                .context("IPv6 is missing")?;
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
            format!("-n {internet} addr add {}/32 dev lo", PUBLIC[0]),
            format!("-n {internet} addr add {}/32 dev lo", PUBLIC[1]),
            format!("-n {internet} addr add {}/32 dev lo", PUBLIC[2]),
            format!("-n {internet} addr add {PUBLIC6}/128 dev lo"),
            format!("-n {client} link set eth0 up"),
            format!("-n {gateway} link set {LAN} up"),
            format!("-n {gateway} link set {WAN} up"),
            format!("-n {internet} link set eth0 up"),
            format!("-n {client} route add default via {GATEWAY}"),
            format!("-n {gateway} route add default via {RESOLVER}"),
            format!("-n {internet} route add 10.77.0.0/24 via 192.0.2.1"),
            format!("-n {client} addr add {CLIENT6}/64 dev eth0"),
            format!("-n {gateway} addr add {GATEWAY6}/64 dev {LAN}"),
            format!("-n {gateway} addr add 2001:db8:2::1/64 dev {WAN}"),
            format!("-n {internet} addr add {RESOLVER6}/64 dev eth0"),
            format!("-n {internet} addr add {ORDINARY6}/128 dev lo"),
            format!("-n {internet} addr add {VENDOR6}/128 dev lo"),
            format!("-n {client} route add default via {GATEWAY6}"),
            format!("-n {gateway} route add default via {RESOLVER6}"),
            format!("-n {internet} route add fd77::/64 via 2001:db8:2::1"),
        ] {
            ip(&line)?;
        }
        for switch in ["/proc/sys/net/ipv4/ip_forward", "/proc/sys/net/ipv6/conf/all/forwarding"] {
            lab.inside(Side::Gateway, move || std::fs::write(switch, "1"))?
                .context("the gateway cannot forward")?;
        }
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
                let _ = stream.write_all(b"hello\n");
            }
        });
        Ok(())
    }

    /// Serves DNS over UDP and TCP on all of the lab's resolvers: the vendor's names get the vendor's addresses, all
    /// others the ordinary server's, in A and AAAA records and as hints in HTTPS records. Labels of a name say otherwise:
    /// each `at-8-8-8-8` is an address, and no others there are, `ttl-2` a TTL, and `servfail` an error.
    ///
    /// # Errors
    /// When port 53 of a resolver cannot be served.
    pub fn serve_dns(&self) -> anyhow::Result<()> {
        let v4 = [RESOLVER].into_iter().chain(PUBLIC).map(IpAddr::from);
        for resolver in v4.chain([RESOLVER6.into(), PUBLIC6.into()]) {
            let (socket, listener) = self.inside(Side::Internet, move || {
                let socket = UdpSocket::bind((resolver, 53));
                socket.and_then(|socket| Ok((socket, TcpListener::bind((resolver, 53))?)))
            })??;
            let asked = self.asked.clone();
            let answers = move |question: &[u8]| resolve(question, resolver, &asked);
            std::thread::spawn({
                let answers = answers.clone();
                move || {
                    let mut buffer = [0; 4096];
                    while let Ok((len, from)) = socket.recv_from(&mut buffer) {
                        for answer in answers(&buffer[..len]).into_iter().take(1) {
                            let _ = socket.send_to(&answer, from);
                        }
                    }
                }
            });
            std::thread::spawn(move || {
                for stream in listener.incoming().flatten() {
                    let answers = answers.clone();
                    std::thread::spawn(move || serve_stream(stream, answers));
                }
            });
        }
        Ok(())
    }

    /// The names that resolvers were asked for so far, in presentation form without the final dot and in lower case,
    /// each with the resolver.
    pub fn asked(&self) -> Vec<(IpAddr, String)> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Has the client's end of its line take what the gateway's kernel sends back, as a network card would.
    ///
    /// # Errors
    /// Without root.
    pub fn take_what_is_sent_back(&self) -> anyhow::Result<PassLink> {
        self.inside(Side::Client, || Ok(PassProgram::load()?.attach("eth0")?))?
    }

    /// Asks the gateway for a name's address, from the client.
    ///
    /// # Errors
    /// When nothing comes back within two seconds.
    pub fn ask(&self, name: &str) -> anyhow::Result<Reply> {
        self.ask_at(GATEWAY.into(), name, RecordType::A)
    }

    /// Asks for a name's records at one of the gateway's addresses, from the client.
    ///
    /// # Errors
    /// When nothing comes back within two seconds.
    pub fn ask_at(&self, gateway: IpAddr, name: &str, rtype: RecordType) -> anyhow::Result<Reply> {
        let mut question = Message::new(1, MessageType::Query, OpCode::Query);
        question.metadata.recursion_desired = true;
        question.add_query(Query::query(Name::from_ascii(format!("{name}."))?, rtype));
        let question = question.to_vec()?;
        let answer = self.inside(Side::Client, move || -> std::io::Result<Vec<u8>> {
            let any = if gateway.is_ipv4() { IpAddr::from([0; 4]) } else { IpAddr::from([0; 16]) };
            let socket = UdpSocket::bind((any, 0))?;
            socket.set_read_timeout(Some(Duration::from_secs(2)))?;
            // Connected, so that only what comes from there is taken for an answer.
            socket.connect((gateway, 53))?;
            socket.send(&question)?;
            let mut buffer = [0; 4096];
            let len = socket.recv(&mut buffer)?;
            Ok(buffer[..len].to_vec())
        })?;
        let answer = Message::from_vec(&answer.context("no answer from the gateway's resolver")?)?;
        let address = answer.answers.iter().find_map(|record| match &record.data {
            RData::A(A(address)) => Some(IpAddr::V4(*address)),
            RData::AAAA(AAAA(address)) => Some(IpAddr::V6(*address)),
            RData::HTTPS(service) => service.svc_params.iter().find_map(|(_, parameter)| match parameter {
                SvcParamValue::Ipv4Hint(hint) => hint.0.first().map(|hint| IpAddr::V4(hint.0)),
                _ => None,
            }),
            _ => None,
        });
        Ok(match (answer.metadata.response_code, address) {
            (_, Some(address)) => Reply::Address(address),
            (ResponseCode::NXDomain, None) => Reply::NxDomain,
            (code, None) => Reply::Code(code.to_string()),
        })
    }

    /// What comes of it when the client connects to an address, within a second, and how long it takes.
    ///
    /// # Errors
    /// When the client's namespace cannot be entered.
    pub fn connect(&self, to: SocketAddr) -> anyhow::Result<(std::io::Result<()>, Duration)> {
        self.inside(Side::Client, move || {
            let start = Instant::now();
            let outcome = TcpStream::connect_timeout(&to, Duration::from_secs(1));
            (outcome.map(drop), start.elapsed())
        })
    }

    /// Whether the client can connect to an address within a second.
    ///
    /// # Errors
    /// When the client's namespace cannot be entered.
    pub fn connects(&self, to: SocketAddr) -> anyhow::Result<bool> {
        Ok(self.connect(to)?.0.is_ok())
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

/// Answers messages behind their lengths, until there are no more.
fn serve_stream(mut stream: TcpStream, answers: impl Fn(&[u8]) -> Vec<Vec<u8>>) {
    let mut length = [0; 2];
    while stream.read_exact(&mut length).is_ok() {
        let mut question = vec![0; u16::from_be_bytes(length).into()];
        if stream.read_exact(&mut question).is_err() {
            return;
        }
        for answer in answers(&question) {
            let framed = [&(answer.len() as u16).to_be_bytes()[..], &answer].concat();
            if stream.write_all(&framed).is_err() {
                return;
            }
        }
    }
}

/// What a resolver says to a message: nothing, an answer, or a zone in several.
fn resolve(message: &[u8], resolver: IpAddr, asked: &Mutex<Vec<(IpAddr, String)>>) -> Vec<Vec<u8>> {
    let Ok(question) = Message::from_vec(message) else { return Vec::new() };
    let mut answer = Message::new(question.metadata.id, MessageType::Response, question.metadata.op_code);
    answer.metadata.recursion_available = true;
    let Some(query) = question.queries.first() else { return Vec::new() };
    let name = query.name().to_string().to_lowercase();
    let name = name.trim_end_matches('.');
    asked.lock().unwrap_or_else(PoisonError::into_inner).push((resolver, name.to_owned()));
    answer.add_query(query.clone());
    if name.split('.').any(|label| label == "servfail") {
        answer.metadata.response_code = ResponseCode::ServFail;
        return answer.to_vec().into_iter().collect();
    }
    let said = |what| name.split('.').filter_map(move |label| label.strip_prefix(what));
    let ttl = said("ttl-").find_map(|ttl| ttl.parse().ok()).unwrap_or(300);
    let record = |data| Record::from_rdata(query.name().clone(), ttl, data);
    let (own4, own6) = match resolver {
        IpAddr::V4(own) => (A(own), AAAA(own.to_ipv6_mapped())),
        IpAddr::V6(own) => (A(ORDINARY), AAAA(own)),
    };
    let mut at = said("at-").filter_map(|address| address.replace('-', ".").parse::<Ipv4Addr>().ok());
    let first = at.next();
    let (v4, v6) = match (name, first) {
        (_, Some(at)) => (A(at), AAAA(at.to_ipv6_mapped())),
        (WHO_ARE_YOU, _) => (own4, own6),
        _ if name.contains("kaspersky") => (A(VENDOR), AAAA(VENDOR6)),
        _ => (A(ORDINARY), AAAA(ORDINARY6)),
    };
    let data = match query.query_type() {
        RecordType::A => Some(RData::A(v4)),
        RecordType::AAAA => first.is_none().then_some(RData::AAAA(v6)),
        RecordType::HTTPS => {
            let hints = vec![
                (SvcParamKey::Ipv4Hint, SvcParamValue::Ipv4Hint(IpHint(vec![v4]))),
                (SvcParamKey::Ipv6Hint, SvcParamValue::Ipv6Hint(IpHint(vec![v6]))),
            ];
            Some(RData::HTTPS(HTTPS(SVCB::new(1, Name::root(), hints))))
        }
        RecordType::AXFR => {
            let soa = RData::SOA(SOA::new(Name::root(), Name::root(), 1, 3600, 600, 86_400, 60));
            let records = [soa.clone(), RData::A(v4), RData::AAAA(v6), soa].map(record);
            let messages = records.into_iter().map(|record| {
                let mut message = answer.clone();
                message.answers.push(record);
                message.to_vec()
            });
            return messages.flatten().collect();
        }
        _ => None,
    };
    answer.answers.extend(data.map(record));
    if query.query_type() == RecordType::A {
        answer.answers.extend(at.map(|at| record(RData::A(A(at)))));
    }
    answer.to_vec().into_iter().collect()
}

fn ip(line: &str) -> anyhow::Result<()> {
    let output =
        Command::new("ip").args(line.split(' ')).output().context("`ip` is missing; install iproute2")?;
    if !output.status.success() {
        bail!("ip {line}: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}
