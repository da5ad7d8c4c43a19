//! What the tests stand on: an agent, an upstream that answers as told, and `dig`.

mod agent;
mod scripted;
mod server;
mod upstream;

pub(crate) use agent::{Agent, interdict};
pub(crate) use scripted::{Line, Scripted, rcode, records};
pub(crate) use server::{Answered, Running, Server, ServerKind, free_address};
pub(crate) use upstream::Upstream;

use std::cell::Cell;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket};
use std::path::PathBuf;
use std::process::Command;

use libtest_mimic::Trial;

/// What a case needs beyond the program itself.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Needs {
    Nothing,
    Dig,
    Root,
    /// Root and `dig`.
    RootDig,
    Kdig,
    /// Root, for a network namespace to load a rule set in.
    Nft,
    Unbound,
    /// Root and `unbound`.
    RootUnbound,
    Named,
    /// `named` with its tools, and `dig`.
    NamedDig,
    Recursor,
    Dnsmasq,
    /// `rsyslogd`, with its driver for OpenSSL, and `dig`.
    Rsyslog,
    /// `chromium`, and `dig`.
    Chromium,
    /// `chromium`, and `certutil` to have it trust somebody.
    ChromiumDoh,
    /// Root, `systemd-resolved`, and `dig`.
    Resolved,
    /// `python3` with `aioquic`, a QUIC and HTTP/3 stack that is not ours, and `dig`.
    Quic,
    /// `dnsdist`, and `dig`.
    Dnsdist,
    /// `fstrm_capture`, `dnstap-read`, and `dig`.
    Dnstap,
}

/// The addresses that a case is run with.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Family {
    V4,
    V6,
}

thread_local! {
    static FAMILY: Cell<Family> = const { Cell::new(Family::V4) };
}

/// The addresses that the case of this thread is run with.
pub(crate) fn family() -> Family {
    FAMILY.get()
}

/// This machine, to itself.
pub(crate) fn loopback() -> IpAddr {
    match family() {
        Family::V4 => Ipv4Addr::LOCALHOST.into(),
        Family::V6 => Ipv6Addr::LOCALHOST.into(),
    }
}

/// One test: its name says the behaviour.
#[derive(Clone, Copy)]
pub(crate) struct Case {
    pub(crate) name: &'static str,
    pub(crate) needs: Needs,
    /// Whether it is run once more, with IPv6 addresses.
    pub(crate) both_families: bool,
    pub(crate) run: fn(),
}

/// A case, by the name of its function; with `both_families`, run with IPv4 addresses and with IPv6 ones.
#[macro_export]
macro_rules! case {
    ($run:ident) => {
        case!($run, Nothing)
    };
    ($run:ident, $needs:ident) => {
        case!(@ $run, $needs, false)
    };
    ($run:ident, $needs:ident, both_families) => {
        case!(@ $run, $needs, true)
    };
    (@ $run:ident, $needs:ident, $both_families:literal) => {
        $crate::support::Case {
            name: concat!(module_path!(), "::", stringify!($run)),
            needs: $crate::support::Needs::$needs,
            both_families: $both_families,
            run: $run,
        }
    };
}

impl Case {
    pub(crate) fn into_trials(self) -> Vec<Trial> {
        match self.both_families {
            false => vec![self.trial(self.name.to_owned(), Family::V4)],
            true => vec![
                self.trial(self.name.to_owned(), Family::V4),
                self.trial(format!("{} (IPv6)", self.name), Family::V6),
            ],
        }
    }

    fn trial(self, name: String, family: Family) -> Trial {
        let missing = match self.needs {
            Needs::Dig | Needs::RootDig | Needs::NamedDig if !has("dig") => {
                Some("needs dig, from bind9-dnsutils")
            }
            Needs::Root | Needs::RootDig | Needs::RootUnbound | Needs::Nft
                if !rustix::process::geteuid().is_root() =>
            {
                Some("needs root")
            }
            Needs::Kdig if !has("kdig") => Some("needs kdig, from knot-dnsutils"),
            Needs::Nft if !has("nft") => Some("needs nft, from nftables"),
            Needs::Unbound | Needs::RootUnbound if !has("unbound") => Some("needs unbound"),
            Needs::Named | Needs::NamedDig if !has("named") => Some("needs named, from bind9"),
            Needs::Recursor if !has("pdns_recursor") => Some("needs pdns_recursor, from pdns-recursor"),
            Needs::Rsyslog if !has("rsyslogd") || !has("dig") => {
                Some("needs rsyslogd, from rsyslog and rsyslog-openssl, and dig")
            }
            Needs::Chromium if !has("chromium") || !has("dig") => Some("needs chromium, and dig"),
            Needs::Quic if !has("dig") || !has_module("aioquic") => {
                Some("needs python3 with aioquic (pip install aioquic), and dig")
            }
            Needs::Dnstap if !has("fstrm_capture") || !has("dnstap-read") || !has("dig") => {
                Some("needs fstrm_capture, from fstrm-bin, dnstap-read, from bind9-utils, and dig")
            }
            Needs::ChromiumDoh if !has("chromium") || !has("certutil") => {
                Some("needs chromium, and certutil, from libnss3-tools")
            }
            Needs::Resolved
                if !rustix::process::geteuid().is_root() || !has("systemd-resolved") || !has("dig") =>
            {
                Some("needs root, systemd-resolved, and dig")
            }
            Needs::Dnsdist if !has("dnsdist") || !has("dig") => Some("needs dnsdist, and dig"),
            Needs::Dnsmasq if !has("dnsmasq") => Some("needs dnsmasq, from dnsmasq-base"),
            _ => None,
        };
        let run = self.run;
        let trial = Trial::test(name, move || {
            FAMILY.set(family);
            run();
            Ok(())
        });
        match missing {
            Some(why) => trial.with_kind(why).with_ignored_flag(true),
            None => trial,
        }
    }
}

fn has(tool: &str) -> bool {
    tool_path(tool).is_some()
}

/// Where a tool is; servers are in folders that not every user's PATH has.
/// Whether Python has a module.
fn has_module(module: &str) -> bool {
    let python = Command::new("python3").args(["-c", &format!("import {module}")]).output();
    python.is_ok_and(|output| output.status.success())
}

pub(crate) fn tool_path(tool: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders =
        std::env::split_paths(&path).chain(["/usr/sbin", "/sbin", "/usr/lib/systemd"].map(PathBuf::from));
    folders.map(|folder| folder.join(tool)).find(|file| file.is_file())
}

/// What `dig` printed.
pub(crate) struct Dig(pub(crate) String);

impl Dig {
    /// The response code, such as NXDOMAIN; empty when nothing came back.
    pub(crate) fn status(&self) -> &str {
        self.0.split("status: ").nth(1).and_then(|rest| rest.split(',').next()).unwrap_or("")
    }

    #[track_caller]
    pub(crate) fn has(&self, text: &str) -> &Self {
        assert!(self.0.contains(text), "no {text:?} in\n{}", self.0);
        self
    }
}

/// Asks a server with `dig`: one try, two seconds.
pub(crate) fn dig(server: SocketAddr, words: &[&str]) -> Dig {
    let output = Command::new("dig")
        .args([
            "+tries=1",
            "+time=2",
            "+nocookie",
            &format!("@{}", server.ip()),
            "-p",
            &server.port().to_string(),
        ])
        .args(words)
        .output()
        .expect("dig runs");
    Dig(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Sockets of one port for both protocols. Of a port that is free for one, another program may have the other.
pub(crate) fn bind_both(address: IpAddr) -> (UdpSocket, TcpListener) {
    until("a port is free for both protocols", || {
        let udp = UdpSocket::bind((address, 0)).ok()?;
        let tcp = TcpListener::bind(udp.local_addr().ok()?).ok()?;
        Some((udp, tcp))
    })
}

/// Waits until something holds; panics with `what` when it has not after ten seconds.
#[track_caller]
pub(crate) fn until<T>(what: &str, mut holds: impl FnMut() -> Option<T>) -> T {
    let end = std::time::Instant::now() + std::time::Duration::from_secs(10);
    loop {
        if let Some(value) = holds() {
            return value;
        }
        assert!(std::time::Instant::now() < end, "ten seconds passed before {what}");
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
}
