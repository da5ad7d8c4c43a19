//! DNS that goes around us: clients that ask resolvers beyond the gateway, in a network of its own.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddrV6, TcpStream, UdpSocket};
use std::os::fd::AsRawFd;
use std::process::Command;
use std::time::Duration;

use hickory_proto::op::{Message, MessageType, OpCode, Query};
use hickory_proto::rr::{Name, RecordType};
use interdict::lab::{
    CLIENT, GATEWAY, LAN, Lab, ORDINARY, ORDINARY6, PUBLIC, PUBLIC6, RESOLVER, Reply, Side, VENDOR,
    WHO_ARE_YOU, ZONE,
};
use nix::sys::socket::sockopt::Ipv6V6Only;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrIn6, bind, setsockopt};

use crate::case;
use crate::packets::{Bpffs, Gateway, lab};
use crate::support::{Case, Dig, until};

pub(crate) fn cases() -> Vec<Case> {
    vec![
        case!(a_banned_name_does_not_resolve_at_a_public_resolver_and_others_do, RootDig),
        case!(the_kernel_answers_where_its_answers_arrive, RootDig),
        case!(what_only_the_agent_can_tell_is_judged_by_it_and_comes_from_the_resolver_asked, RootDig),
        case!(a_banned_name_in_a_malformed_message_goes_nowhere, Root),
        case!(a_stream_is_judged_message_by_message, RootDig),
        case!(one_socket_asks_two_resolvers_with_one_id, Root),
        case!(a_server_on_port_53_of_every_address_takes_no_answer_away, RootDig),
        case!(one_client_leaves_room_for_others, RootDig),
        case!(a_connection_from_before_the_agent_says_no_more, RootDig),
        case!(a_flood_of_connections_leaves_room_by_cookies, RootDig),
        case!(transfers_updates_and_signed_messages_cross, RootDig),
        case!(an_upstream_that_is_a_public_resolver_is_asked, RootDig),
        case!(a_stopped_agent_leaves_banned_names_answered, RootDig),
        case!(a_killed_agent_leaves_banned_names_answered, RootDig),
        case!(other_names_go_as_the_policy_says, RootDig),
        case!(encrypted_dns_goes_as_the_policy_says, Root),
        case!(the_products_burst_is_an_event, RootDig),
        case!(a_resolver_on_the_same_machine_is_filtered_from_in_front, RootUnbound),
    ]
}

const POLICY: &str = r#"
format = 1
[[rule]]
id = "update"
role = "update"
action = "block"
domains = ["upd.kaspersky.com"]
[[rule]]
id = "ksn"
role = "ksn"
action = "block"
domains = ["kaspersky-labs.com"]
globs = ["ksn-*-geo.kaspersky-labs.com"]
[[rule]]
id = "support"
role = "website"
action = "log"
hosts = ["support.kaspersky.com"]
[[rule]]
id = "nets"
role = "update"
action = "block"
networks = ["77.74.176.0/21"]
[[exempt]]
id = "lab"
clients = ["10.77.0.3/32"]
rules = ["update"]
reason = "analysis"
approved_by = "CISO"
expires = 2099-01-01
"#;

const BANNED: &str = "s07.upd.kaspersky.com";

fn start(lab: &Lab, policy: &str) -> Gateway {
    Gateway::start(lab, policy, &format!("{LAN}=lan"))
}

fn with_egress(egress: &str) -> String {
    format!("{POLICY}\n[egress_dns]\n{egress}\n")
}

/// Asks a resolver with `dig`, from the client.
fn dig(lab: &Lab, resolver: impl Into<IpAddr>, words: &[&str]) -> Dig {
    let output = lab
        .command(Side::Client, "dig")
        .args(["+tries=1", "+time=2", "+nocookie", &format!("@{}", resolver.into())])
        .args(words)
        .output()
        .expect("dig runs");
    Dig(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The names that got out to any resolver of the lab's internet.
fn got_out(lab: &Lab, name: &str) -> bool {
    lab.asked().iter().any(|(_, asked)| asked == name)
}

fn exits(gateway: &Gateway, exit: &str) -> u64 {
    gateway.status()["counters"]["packet"]["exits"][exit].as_u64().unwrap()
}

fn a_banned_name_does_not_resolve_at_a_public_resolver_and_others_do() {
    let lab = lab();
    let gateway = start(&lab, POLICY);
    for (resolver, rtype, ordinary) in
        [(IpAddr::from(PUBLIC[0]), "A", IpAddr::from(ORDINARY)), (PUBLIC6.into(), "AAAA", ORDINARY6.into())]
    {
        for transport in ["+notcp", "+tcp"] {
            dig(&lab, resolver, &[transport, BANNED, rtype]).has("status: NXDOMAIN").has("(update)");
            dig(&lab, resolver, &[transport, "www.example.org", rtype]).has(&ordinary.to_string());
            // A resolver beyond that knows names of its own goes on answering them.
            let own = if resolver == IpAddr::from(PUBLIC[0]) { "8.8.8.8" } else { "2001:4860:4860::8888" };
            dig(&lab, resolver, &[transport, WHO_ARE_YOU, rtype]).has(own);
        }
    }
    assert!(!got_out(&lab, BANNED));
    gateway.event("the question is on record with the resolver", |event| {
        event["asked"]["name"] == BANNED
            && event["asked"]["resolver"] == "8.8.8.8"
            && event["rule"] == "update"
    });
}

fn the_kernel_answers_where_its_answers_arrive() {
    let lab = lab();
    let _link = lab.take_what_is_sent_back().unwrap();
    let gateway = start(&lab, POLICY);
    until("the kernel answers", || {
        let about = gateway.status()["planes"]["packet"]["interfaces"][0]["questions"]["answered_by"].clone();
        (about == "kernel").then_some(())
    });
    for resolver in [PUBLIC[0], GATEWAY, Ipv4Addr::new(203, 0, 113, 77)] {
        dig(&lab, resolver, &["S07.upd.Kaspersky.COM", "A"])
            .has("status: NXDOMAIN")
            .has("(update)")
            .has("S07.upd.Kaspersky.COM");
    }
    dig(&lab, PUBLIC6, &[BANNED, "HTTPS"]).has("status: NXDOMAIN");
    assert_eq!(exits(&gateway, "query_answered"), 4);
    dig(&lab, PUBLIC[0], &["www.example.org"]).has(&ORDINARY.to_string());
    gateway.event("the kernel's answer is on record", |event| {
        event["channel"] == "xdp"
            && event["plane"] == "dns"
            && event["asked"]["name"] == BANNED
            && event["asked"]["resolver"] == "8.8.8.8"
            && event["verdict"] == "block"
    });
    assert!(!got_out(&lab, BANNED));
}

fn what_only_the_agent_can_tell_is_judged_by_it_and_comes_from_the_resolver_asked() {
    let lab = lab();
    let _link = lab.take_what_is_sent_back().unwrap();
    let gateway = start(&lab, POLICY);
    let resolver = PUBLIC[0];
    // Below a glob's fixed part.
    dig(&lab, resolver, &["ksn-a-geo.kaspersky-labs.com"]).has("status: NXDOMAIN").has("(ksn)");
    // Of another class.
    dig(&lab, resolver, &["-c", "CH", BANNED]).has("status: REFUSED");
    assert!(exits(&gateway, "query_diverted") >= 2);
    // A name that is only logged goes to the resolver asked, and its address opens though its network is blocked.
    assert!(!lab.connects((VENDOR, 443).into()).unwrap());
    dig(&lab, resolver, &["support.kaspersky.com"]).has(&VENDOR.to_string());
    assert!(lab.connects((VENDOR, 443).into()).unwrap());
    assert!(lab.asked().contains(&(resolver.into(), "support.kaspersky.com".into())));
    // A client on the register is let through, to the resolver asked.
    let client = lab.name(Side::Client);
    let add = ["-n", &client, "addr", "add", "10.77.0.3/24", "dev", "eth0"];
    assert!(Command::new("ip").args(add).status().unwrap().success());
    dig(&lab, resolver, &["-b", "10.77.0.3", BANNED]).has(&VENDOR.to_string());
    gateway.event("the exemption is on record", |event| event["verdict"] == "exempt");
}

/// Resolvers differ in what they answer: BIND minds no records behind the question, dnsmasq not what is in OPT.
fn a_banned_name_in_a_malformed_message_goes_nowhere() {
    const OPT: &[u8] = b"\0\0\x29\x04\xd0\0\0\0\0\0\0";
    const RECORD: &[u8] = b"\x01a\0\0\x01\0\x01\0\0\0\0\0\x04\x0a\0\0\x01";
    // What is odd, the counts (QD, AN, NS, AR), and what follows the question.
    let cases: &[(&str, [u8; 4], Vec<u8>)] = &[
        ("an answer in the question", [1, 1, 0, 0], RECORD.to_vec()),
        ("an authority in the question", [1, 0, 1, 0], RECORD.to_vec()),
        ("two OPTs", [1, 0, 0, 2], [OPT, OPT].concat()),
        ("a record that is not there", [1, 0, 0, 1], vec![]),
        ("an OPT cut off", [1, 0, 0, 1], OPT[..7].to_vec()),
        ("an OPT longer than the message", [1, 0, 0, 1], b"\0\0\x29\x04\xd0\0\0\0\0\0\x09".to_vec()),
        ("more records than there are", [1, 0, 0, 5], OPT.to_vec()),
        ("two questions", [2, 0, 0, 0], b"\x01a\0\0\x01\0\x01".to_vec()),
    ];
    let question = |labels: &[&str], end: &[u8]| {
        let labels = labels.iter().flat_map(|label| [&[label.len() as u8][..], label.as_bytes()].concat());
        labels.chain(end.iter().copied()).collect::<Vec<u8>>()
    };
    let message = |counts: [u8; 4], rest: &[&[u8]]| {
        let header = [0x1d, 0x1c, 1, 0, 0, counts[0], 0, counts[1], 0, counts[2], 0, counts[3]];
        [&header[..], &rest.concat()].concat()
    };
    let banned: Vec<&str> = BANNED.split('.').collect();
    let lab = lab();
    // Once answered by the agent, and once with the kernel before it.
    for taken_back in [false, true] {
        let _link = taken_back.then(|| lab.take_what_is_sent_back().unwrap());
        let gateway = start(&lab, POLICY);
        let socket =
            lab.inside(Side::Client, || UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))).unwrap().unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
        let blocked = || gateway.status()["counters"]["dns"]["blocked"].as_u64().unwrap();
        let mut messages: Vec<(&str, Vec<u8>)> = cases
            .iter()
            .map(|(what, counts, rest)| {
                (*what, message(*counts, &[&question(&banned, b"\0\0\x01\0\x01"), rest]))
            })
            .collect();
        // The rest of the name stands behind the question: 12 + 4 + 2 + 4 bytes in.
        let split = [question(&banned[..1], b"\xc0\x16\0\x01\0\x01"), question(&banned[1..], b"\0")].concat();
        messages.push(("a name that goes on elsewhere", message([1, 0, 0, 0], &[&split])));
        let two =
            [question(&["www", "example"], b"\0\0\x01\0\x01"), question(&banned, b"\0\0\x01\0\x01")].concat();
        messages.push(("the second of two questions", message([2, 0, 0, 0], &[&two])));
        let mut status = message([1, 0, 0, 0], &[&question(&banned, b"\0\0\x01\0\x01")]);
        status[2] = 0x10;
        messages.push(("an operation that nobody uses", status));
        for (what, message) in messages {
            let before = blocked();
            socket.send_to(&message, (PUBLIC[0], 53)).unwrap();
            until(what, || (blocked() == before + 1).then_some(()));
            assert!(socket.recv(&mut [0; 512]).is_err(), "{what}: answered");
        }
        // The same with an ordinary name crosses, on record as something that nobody could read.
        let ordinary = question(&["www", "example", "org"], b"\0\0\x01\0\x01");
        socket.send_to(&message([1, 1, 0, 0], &[&ordinary, RECORD]), (PUBLIC[0], 53)).unwrap();
        gateway.event("an ordinary one is on record", |event| event["rule"] == "egress-unjudged");
        assert!(!got_out(&lab, BANNED));
    }
}

fn a_stream_is_judged_message_by_message() {
    let lab = lab();
    let gateway = start(&lab, POLICY);
    let resolver = PUBLIC[0];
    // Two questions on one connection: the first goes out, the second does not.
    let both = dig(&lab, resolver, &["+tcp", "+keepopen", "www.example.org", BANNED]);
    both.has(&ORDINARY.to_string()).has("status: NXDOMAIN");
    let both = dig(&lab, resolver, &["+tcp", "+keepopen", BANNED, "www.example.org"]);
    both.has(&ORDINARY.to_string()).has("status: NXDOMAIN");
    dig(&lab, resolver, &["+tcp", "support.kaspersky.com"]).has(&VENDOR.to_string());
    assert!(lab.connects((VENDOR, 443).into()).unwrap(), "an answer over TCP opens as well");
    assert!(!got_out(&lab, BANNED));
    assert!(exits(&gateway, "stream_diverted") > 0);
}

/// Clients use one socket, and one id, for several resolvers.
fn one_socket_asks_two_resolvers_with_one_id() {
    let lab = lab();
    let _gateway = start(&lab, POLICY);
    let ask = |name: &str| {
        let mut question = Message::new(7, MessageType::Query, OpCode::Query);
        question.add_query(Query::query(Name::from_ascii(name).unwrap(), RecordType::A));
        question.to_vec().unwrap()
    };
    let (logged, banned) = (ask("support.kaspersky.com."), ask("ksn-a-geo.kaspersky-labs.com."));
    let answers = lab
        .inside(Side::Client, move || {
            let socket = UdpSocket::bind((CLIENT, 0)).unwrap();
            socket.set_read_timeout(Some(Duration::from_secs(3))).unwrap();
            for question in [&logged, &banned] {
                for resolver in &PUBLIC[..2] {
                    socket.send_to(question, (*resolver, 53)).unwrap();
                }
            }
            let mut answers = Vec::new();
            let mut buffer = [0; 4096];
            while answers.len() < 4 {
                let (len, from) = socket.recv_from(&mut buffer).unwrap();
                let answer = Message::from_vec(&buffer[..len]).unwrap();
                answers.push((from.ip(), answer.queries[0].name().to_string(), answer.answers.len()));
            }
            answers.sort();
            answers
        })
        .unwrap();
    let expect: Vec<_> = [PUBLIC[1], PUBLIC[0]]
        .into_iter()
        .flat_map(|resolver| {
            let from = IpAddr::from(resolver);
            [
                (from, "ksn-a-geo.kaspersky-labs.com.".to_owned(), 0),
                (from, "support.kaspersky.com.".to_owned(), 1),
            ]
        })
        .collect();
    assert_eq!(answers, expect);
}

fn a_server_on_port_53_of_every_address_takes_no_answer_away() {
    let lab = lab();
    let server = || {
        let bind = || {
            let kind = (AddressFamily::Inet6, SockType::Datagram, SockFlag::SOCK_CLOEXEC);
            let socket = nix::sys::socket::socket(kind.0, kind.1, kind.2, None)?;
            setsockopt(&socket, Ipv6V6Only, &true)?;
            bind(socket.as_raw_fd(), &SockaddrIn6::from(SocketAddrV6::new(Ipv6Addr::UNSPECIFIED, 53, 0, 0)))?;
            nix::Result::Ok(socket)
        };
        lab.inside(Side::Gateway, bind).unwrap()
    };
    let first = server().expect("nobody else has the port");
    let gateway = start(&lab, POLICY);
    let resolves = || {
        dig(&lab, PUBLIC6, &["support.kaspersky.com", "AAAA"]).has("ANSWER: 1");
        dig(&lab, PUBLIC6, &["ksn-a-geo.kaspersky-labs.com"]).has("status: NXDOMAIN");
    };
    resolves();
    drop(first);
    let _later = server().expect("what we send in a resolver's name keeps no port from anyone");
    resolves();
    assert_eq!(gateway.status()["counters"]["dns"]["divert_failures"], 0);
}

fn one_client_leaves_room_for_others() {
    let lab = lab();
    let gateway = start(&lab, POLICY);
    let greedy = lab.inside(Side::Client, || {
        let connect = |_| TcpStream::connect((PUBLIC[0], 53));
        (0..40).map(connect).collect::<Vec<_>>()
    });
    until("its share is taken", || {
        (gateway.status()["counters"]["dns"]["tcp_refused"].as_u64() == Some(8)).then_some(())
    });
    let client = lab.name(Side::Client);
    let add = ["-n", &client, "addr", "add", "10.77.0.4/24", "dev", "eth0"];
    assert!(Command::new("ip").args(add).status().unwrap().success());
    dig(&lab, PUBLIC[0], &["-b", "10.77.0.4", "+tcp", "www.example.org"]).has(&ORDINARY.to_string());
    drop(greedy);
    until("its places are free again", || {
        dig(&lab, PUBLIC[0], &["+tcp", "www.example.org"]).0.contains(&ORDINARY.to_string()).then_some(())
    });
}

/// With cookies for every connection, as the kernel makes them when too many are half open.
fn a_flood_of_connections_leaves_room_by_cookies() {
    let lab = lab();
    let set = ["-qw", "net.ipv4.tcp_syncookies=2"];
    assert!(lab.command(Side::Gateway, "sysctl").args(set).status().unwrap().success());
    let _gateway = start(&lab, POLICY);
    for (resolver, rtype, ordinary) in
        [(IpAddr::from(PUBLIC[0]), "A", IpAddr::from(ORDINARY)), (PUBLIC6.into(), "AAAA", ORDINARY6.into())]
    {
        dig(&lab, resolver, &["+tcp", "www.example.org", rtype]).has(&ordinary.to_string());
        dig(&lab, resolver, &["+tcp", BANNED, rtype]).has("status: NXDOMAIN");
    }
}

/// A question as it goes over TCP.
fn framed(name: &str) -> Vec<u8> {
    let mut question = Message::new(7, MessageType::Query, OpCode::Query);
    question.add_query(Query::query(Name::from_ascii(name).unwrap(), RecordType::A));
    let question = question.to_vec().unwrap();
    [&(question.len() as u16).to_be_bytes()[..], &question].concat()
}

fn a_connection_from_before_the_agent_says_no_more() {
    let lab = lab();
    let mut stream = lab.inside(Side::Client, || TcpStream::connect((PUBLIC[0], 53))).unwrap().unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    let mut ask = |name| {
        stream.write_all(&framed(name)).unwrap();
        let mut length = [0; 2];
        stream.read_exact(&mut length)?;
        stream.read_exact(&mut vec![0; u16::from_be_bytes(length).into()])
    };
    ask("www.example.org").expect("nobody is in the way yet");
    let gateway = start(&lab, POLICY);
    assert_eq!(ask(BANNED).unwrap_err().kind(), std::io::ErrorKind::ConnectionReset, "and at once");
    assert!(!got_out(&lab, BANNED));
    assert!(exits(&gateway, "stream_diverted") > 0);
    dig(&lab, PUBLIC[0], &["+tcp", "www.example.org"]).has(&ORDINARY.to_string());
}

fn transfers_updates_and_signed_messages_cross() {
    let lab = lab();
    let gateway = start(&lab, POLICY);
    let resolver = PUBLIC[0];
    dig(&lab, resolver, &[ZONE, "AXFR"]).has("XFR size: 4 records");
    let key = "hmac-sha256:key.test:c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0";
    dig(&lab, resolver, &["-y", key, "www.example.org"]).has(&ORDINARY.to_string());
    dig(&lab, resolver, &["-y", key, "+tcp", "www.example.org"]).has(&ORDINARY.to_string());
    // Signed or not, a banned name does not get out.
    assert!(!dig(&lab, resolver, &["-y", key, BANNED]).0.contains(&VENDOR.to_string()));
    for tcp in ["", "-v"] {
        let mut update = lab.command(Side::Client, "nsupdate");
        let mut update = update
            .args(["-t", "5"].iter().chain([tcp].iter().filter(|word| !word.is_empty())))
            .stdin(std::process::Stdio::piped())
            .spawn()
            .expect("nsupdate runs");
        let commands = format!("server {resolver}\nzone {ZONE}\nupdate add a.{ZONE} 60 A 192.0.2.9\nsend\n");
        update.stdin.take().unwrap().write_all(commands.as_bytes()).unwrap();
        assert!(update.wait().unwrap().success(), "an update crosses {tcp}");
    }
    assert!(exits(&gateway, "query_opcode") > 0);
    assert!(!got_out(&lab, BANNED));
}

fn an_upstream_that_is_a_public_resolver_is_asked() {
    let lab = lab();
    let gateway = Gateway::start_with(
        &lab,
        POLICY,
        &["--interface", &format!("{LAN}=lan"), "--upstream", &format!("{}:53", PUBLIC[0])],
    );
    dig(&lab, GATEWAY, &["www.example.org"]).has(&ORDINARY.to_string());
    dig(&lab, GATEWAY, &[BANNED]).has("status: NXDOMAIN");
    assert!(lab.asked().contains(&(PUBLIC[0].into(), "www.example.org".into())));
    drop(gateway);
}

fn a_stopped_agent_leaves_banned_names_answered() {
    let lab = lab();
    let _link = lab.take_what_is_sent_back().unwrap();
    let gateway = start(&lab, POLICY);
    dig(&lab, PUBLIC[0], &[BANNED]).has("status: NXDOMAIN");
    gateway.signal(rustix::process::Signal::STOP);
    std::thread::sleep(Duration::from_secs(6));
    dig(&lab, PUBLIC[0], &[BANNED]).has("status: NXDOMAIN");
    // What nobody can tell does not get out where the name lies below a banned one; all else does.
    assert_eq!(dig(&lab, PUBLIC[0], &["ksn-a-geo.kaspersky-labs.com"]).status(), "");
    assert!(!got_out(&lab, "ksn-a-geo.kaspersky-labs.com"));
    for transport in ["+notcp", "+tcp"] {
        dig(&lab, PUBLIC[0], &[transport, "www.example.org"]).has(&ORDINARY.to_string());
    }
    dig(&lab, PUBLIC[0], &["support.kaspersky.com"]).has(&VENDOR.to_string());
    // Nobody reads a stream now: each segment is judged by itself, and one that is no whole question does not pass.
    assert_eq!(dig(&lab, PUBLIC[0], &["+tcp", BANNED]).status(), "");
    let mut stream = lab.inside(Side::Client, || TcpStream::connect((PUBLIC[0], 53))).unwrap().unwrap();
    stream.set_nodelay(true).unwrap();
    let question = framed(BANNED);
    for piece in [&question[..9], &question[9..]] {
        stream.write_all(piece).unwrap();
        std::thread::sleep(Duration::from_millis(100));
    }
    assert!(!got_out(&lab, BANNED));
    gateway.signal(rustix::process::Signal::CONT);
    until("the agent judges again", || {
        let answer = dig(&lab, PUBLIC[0], &["ksn-a-geo.kaspersky-labs.com"]);
        (answer.status() == "NXDOMAIN").then_some(())
    });
    assert!(exits(&gateway, "agent_dead_dropped") > 0 && exits(&gateway, "agent_dead_passed") > 0);
}

fn a_killed_agent_leaves_banned_names_answered() {
    let lab = lab();
    let _link = lab.take_what_is_sent_back().unwrap();
    let bpffs = Bpffs::mount();
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("interdict.toml");
    let pin = bpffs.0.path().join("interdict").display().to_string();
    std::fs::write(&config, format!("[packet]\nat_exit = \"keep\"\npin = \"{pin}\"\n")).unwrap();
    let config = config.display().to_string();
    let more = ["--interface", &format!("{LAN}=lan"), "--config", &config];
    let mut gateway = Gateway::start_with(&lab, POLICY, &more);
    dig(&lab, PUBLIC[0], &[BANNED]).has("status: NXDOMAIN");
    gateway.kill();
    std::thread::sleep(Duration::from_secs(6));
    dig(&lab, PUBLIC[0], &[BANNED]).has("status: NXDOMAIN");
    assert_eq!(dig(&lab, PUBLIC[0], &["ksn-a-geo.kaspersky-labs.com"]).status(), "");
    dig(&lab, PUBLIC[0], &["www.example.org"]).has(&ORDINARY.to_string());
    assert!(!got_out(&lab, BANNED) && !got_out(&lab, "ksn-a-geo.kaspersky-labs.com"));
    let unload =
        lab.command(Side::Gateway, env!("CARGO_BIN_EXE_interdict")).args(["unload", "--pin", &pin]).output();
    assert_eq!(String::from_utf8(unload.unwrap().stdout).unwrap(), format!("detached from {LAN}\n"));
    dig(&lab, PUBLIC[0], &[BANNED]).has(&VENDOR.to_string());
}

fn other_names_go_as_the_policy_says() {
    let lab = lab();
    let gateway = start(&lab, &with_egress("plain = \"log\""));
    for (transport, protocol) in [("+notcp", "udp"), ("+tcp", "tcp")] {
        dig(&lab, PUBLIC[0], &[transport, WHO_ARE_YOU]).has("8.8.8.8");
        let event = gateway.event("going around us is on record", |event| {
            event["rule"] == "egress-plain" && event["asked"]["protocol"] == protocol
        });
        assert_eq!(event["asked"]["address"], "8.8.8.8");
        assert!(!event.to_string().contains(WHO_ARE_YOU), "whose name it was is nobody's business");
    }
    gateway.write_policy(&with_egress("plain = \"redirect\""));
    for transport in ["+notcp", "+tcp"] {
        // Our own upstream answers, in the name of the resolver asked.
        dig(&lab, PUBLIC[0], &[transport, WHO_ARE_YOU]).has(&RESOLVER.to_string());
        dig(&lab, PUBLIC[0], &[transport, BANNED]).has("status: NXDOMAIN");
    }
    gateway.write_policy(&with_egress("plain = \"block\""));
    for transport in ["+notcp", "+tcp"] {
        assert_eq!(dig(&lab, PUBLIC[0], &[transport, "blocked.example.org"]).status(), "");
        dig(&lab, GATEWAY, &[transport, "www.example.org"]).has(&ORDINARY.to_string());
    }
    assert!(!got_out(&lab, "blocked.example.org"));
    gateway.write_policy(&with_egress("plain = \"block\"\nresolvers = [\"8.8.8.8\"]"));
    dig(&lab, PUBLIC[0], &[WHO_ARE_YOU]).has("8.8.8.8");
    assert_eq!(dig(&lab, PUBLIC[1], &[WHO_ARE_YOU]).status(), "");
}

fn encrypted_dns_goes_as_the_policy_says() {
    let lab = lab();
    for (address, port) in [(PUBLIC[0], 853), (PUBLIC[0], 443), (ORDINARY, 853)] {
        lab.serve_tcp((address, port).into()).unwrap();
    }
    let gateway = start(&lab, &with_egress("dot = \"log\"\ndoh = \"log\""));
    assert!(lab.connects((PUBLIC[0], 853).into()).unwrap() && lab.connects((PUBLIC[0], 443).into()).unwrap());
    for rule in ["egress-dot", "egress-doh"] {
        gateway.event("it is on record", |event| event["rule"] == rule && event["verdict"] == "log");
    }
    gateway.write_policy(&with_egress("dot = \"block\"\ndoh = \"block\""));
    assert!(
        !lab.connects((PUBLIC[0], 853).into()).unwrap() && !lab.connects((PUBLIC[0], 443).into()).unwrap()
    );
    assert!(!lab.connects((ORDINARY, 853).into()).unwrap() && lab.connects((ORDINARY, 443).into()).unwrap());
    // Their names are refused as well.
    assert_eq!(lab.ask("dns.google").unwrap(), Reply::Code("Query Refused".into()));
    let why = gateway.why(&["8.8.8.8:853/tcp", "8.8.8.8:443/tcp", "dns.google"]);
    let rules: Vec<_> = why.as_array().unwrap().iter().map(|why| why["rule"].as_str().unwrap()).collect();
    assert_eq!(rules, ["egress-dot", "egress-doh", "egress-doh"]);
    gateway.write_policy(&with_egress("dot = \"allow\"\ndoh = \"allow\""));
    assert!(lab.connects((PUBLIC[0], 853).into()).unwrap() && lab.connects((PUBLIC[0], 443).into()).unwrap());
}

fn the_products_burst_is_an_event() {
    let lab = lab();
    let _link = lab.take_what_is_sent_back().unwrap();
    let gateway = start(&lab, POLICY);
    for resolver in PUBLIC {
        dig(&lab, resolver, &[BANNED]).has("status: NXDOMAIN");
    }
    let burst = gateway.event("the burst is told", |event| event["act"] == "fallback.burst");
    assert_eq!(burst["client"], CLIENT.to_string());
    assert_eq!(burst["detail"]["resolvers"].as_array().unwrap().len(), 3);
}

/// An Unbound that somebody else set up goes on serving; the agent listens elsewhere, and its programs stand in front.
fn a_resolver_on_the_same_machine_is_filtered_from_in_front() {
    let lab = lab();
    let folder = tempfile::TempDir::new().unwrap();
    let configuration = format!(
        "server:\n interface: {GATEWAY}\n access-control: 0.0.0.0/0 allow\n do-daemonize: no\n username: \"\"\n chroot: \"\"\n \
         pidfile: \"\"\n module-config: \"iterator\"\n directory: \"{folder}\"\nforward-zone:\n name: \".\"\n forward-addr: {RESOLVER}\n",
        folder = folder.path().display()
    );
    let file = folder.path().join("unbound.conf");
    std::fs::write(&file, configuration).unwrap();
    let unbound = crate::support::tool_path("unbound").unwrap().display().to_string();
    let mut command = lab.command(Side::Gateway, &unbound);
    let child =
        command.args(["-d", "-c", &file.display().to_string()]).stderr(std::process::Stdio::null()).spawn();
    let _unbound = Running(child.unwrap());
    let ask = |name: &str| lab.ask_at(GATEWAY.into(), name, RecordType::A).ok();
    let address = |address: Ipv4Addr| Some(Reply::Address(IpAddr::V4(address)));
    until("Unbound answers", || (ask("www.example.org") == address(ORDINARY)).then_some(()));
    assert_eq!(ask("s07.upd.kaspersky.com"), address(VENDOR), "nothing filters yet");

    let policy = "format = 1\n[[rule]]\nid = \"names\"\nrole = \"update\"\naction = \"block\"\n\
                  domains = [\"upd.kaspersky.com\"]\nglobs = [\"ksn-*.kaspersky-labs.com\"]\n";
    let more = ["--interface", &format!("{LAN}=lan"), "--listen", "127.0.0.1:5300"];
    let gateway = Gateway::start_with(&lab, policy, &more);
    assert_eq!(ask("s07.upd.kaspersky.com"), Some(Reply::NxDomain), "what a domain blocks");
    assert_eq!(ask("ksn-1.kaspersky-labs.com"), Some(Reply::NxDomain), "what only the agent can tell");
    assert_eq!(ask("other.kaspersky-labs.com"), address(VENDOR), "what it lets through, Unbound answers");
    assert_eq!(ask("www.example.org"), address(ORDINARY));
    for name in ["s07.upd.kaspersky.com", "ksn-1.kaspersky-labs.com"] {
        gateway
            .event("it is on record", |event| event["asked"]["name"] == name && event["verdict"] == "block");
    }
}

/// A server that ends with the test.
struct Running(std::process::Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
