//! How the agent runs: the configuration file, and the command line, which wins.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, bail};
use interdict_audit::Format;
use interdict_dns_filter::{
    CONTACT_LIMIT_BYTES, CertificateFiles, Conduct, Contact, Dnssec, NSID_LIMIT_BYTES, Taps,
};
use interdict_ebpf_loader::{AtExit, DEFAULT_PIN, InKernel, Interface, Mode, Role, limits};
use interdict_policy::reading::{Reader, Table, read_toml};
use interdict_policy::{At, DomainName, IpNet, Ipv6Net, NAT64_LENGTHS, Privacy, Problems};
use jiff::{Span, SpanRelativeTo};

use crate::cli::RunArgs;
use crate::dnstap::DnstapSettings;
use crate::stream::Stream;

/// Everything that can be said about a run; what is empty or `None` was not said.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Settings {
    /// `[policy] paths`
    pub(crate) policy: Vec<PathBuf>,
    /// `[policy] profile`
    pub(crate) profile: Option<String>,
    /// `[policy] resolve_banned = "1h"`: how often banned names are resolved, to learn their addresses.
    pub(crate) resolve_banned: Option<Duration>,
    /// `[dns] listen`
    pub(crate) listen: Vec<SocketAddr>,
    /// `[dns] upstreams`
    pub(crate) upstreams: Vec<String>,
    /// `[dns] clients`
    pub(crate) clients: Vec<IpNet>,
    /// `[dns] nsid`, `canaries`, `prefix_qps`, `proxies`, `contact` and `organization`
    pub(crate) conduct: Conduct,
    /// `[[dns.forward]]`: domains, and the upstreams that are asked for them.
    pub(crate) forward: Vec<(Vec<DomainName>, Vec<String>)>,
    /// `[dns] randomize_case`
    pub(crate) randomizes_case: bool,
    /// `[dns] rebinding = "block"`
    pub(crate) withholds_private: bool,
    /// `[dns] private_domains`
    pub(crate) private_domains: Vec<DomainName>,
    /// `[dns] dnssec` and `trust_anchors`
    pub(crate) dnssec: Dnssec,
    /// `[dns.tls]`: where DNS over TLS is served, and by which certificate.
    pub(crate) tls: Option<TlsSettings>,
    /// `[dns.dnstap]`: who reads questions and answers.
    pub(crate) dnstap: Option<DnstapSettings>,
    /// `[dns] save_cache`: whether kept answers are there after a restart.
    pub(crate) save_cache: Option<bool>,
    /// `[dns] udp_sockets`: on each address.
    pub(crate) udp_sockets: Option<usize>,
    /// `[dns] cache_mib`: what kept answers may take.
    pub(crate) cache_bytes: Option<u64>,
    /// `[packet]`
    pub(crate) packet: PacketSettings,
    /// `[audit] retain = "365d"`: how long events can be read. Without it nothing is ever removed.
    pub(crate) retain: Option<Duration>,
    /// `[[audit.stream]]`: who is sent events.
    pub(crate) streams: Vec<Stream>,
    /// `[audit] privacy`: what the record says of clients that are of no unit.
    pub(crate) privacy: Privacy,
    /// `[audit] legal_hold = "REASON"`: nothing is removed as long as it stands.
    pub(crate) legal_hold: Option<String>,
    /// `[audit] data`
    pub(crate) data: Option<PathBuf>,
    /// `[control] socket`
    pub(crate) control: Option<PathBuf>,
    /// `[console] listen`: where metrics are served.
    pub(crate) console: Option<SocketAddr>,
}

/// `[dns.tls]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TlsSettings {
    /// `listen`: DNS over TLS.
    pub(crate) listen: Vec<SocketAddr>,
    /// `https`: DNS over HTTPS.
    pub(crate) https: Vec<SocketAddr>,
    /// `quic`: DNS over QUIC.
    pub(crate) quic: Vec<SocketAddr>,
    /// `name`: whose the certificate is, for clients that ask where else this server is.
    pub(crate) name: Option<DomainName>,
    /// `certificate` and `key`
    pub(crate) files: CertificateFiles,
}

/// `[packet]`: which interfaces are filtered, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PacketSettings {
    /// `interfaces = ["eth1=lan"]`; without any there is no packet plane.
    pub(crate) interfaces: Vec<Interface>,
    /// `mode = "native" | "generic"`
    pub(crate) mode: Mode,
    /// `safe`: networks to which no packet is ever dropped.
    pub(crate) safe: Vec<IpNet>,
    /// `nat64`: prefixes of this site's NAT64, besides the well-known one.
    pub(crate) nat64: Vec<Ipv6Net>,
    /// `cgroup`: the control group whose processes' calls are judged, where this machine's own traffic is.
    pub(crate) cgroup: Option<PathBuf>,
    /// `pin`: folder for the pins of programs that stay.
    pub(crate) pin: PathBuf,
    /// `at_exit = "remove" | "keep"`
    pub(crate) at_exit: AtExit,
    /// `max_names`: names that a policy may have in the kernel.
    pub(crate) max_names: u32,
    /// `[dns] client_qps`: questions of one client that the kernel answers in a second.
    pub(crate) client_qps: u32,
    /// `answer = "auto" | "always" | "never"`: where the kernel answers questions.
    pub(crate) in_kernel: InKernel,
}

/// A thousand questions for banned names a second are more than any client has.
const CLIENT_QPS: u32 = 1000;

impl Default for PacketSettings {
    fn default() -> Self {
        Self {
            interfaces: Vec::new(),
            mode: Mode::Native,
            safe: Vec::new(),
            nat64: Vec::new(),
            cgroup: None,
            pin: DEFAULT_PIN.into(),
            at_exit: AtExit::Remove,
            max_names: limits::MAX_NAMES,
            client_qps: CLIENT_QPS,
            in_kernel: InKernel::Auto,
        }
    }
}

impl Settings {
    /// The file named by `--config`, if any, with the command line over it.
    ///
    /// # Errors
    /// Every problem of the file.
    pub(crate) fn new(args: &RunArgs) -> anyhow::Result<Self> {
        let mut settings = match &args.config {
            None => Self::default(),
            Some(path) => {
                let name = path.display().to_string();
                let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {name}"))?;
                let mut problems = Problems::default();
                match read_toml(0, &name, &text, "the configuration", &mut problems, Self::read) {
                    Some(settings) if problems.is_empty() => settings,
                    _ => bail!("the configuration is not in order; nothing was started\n{problems}"),
                }
            }
        };
        let say = |list: &mut Vec<PathBuf>, named: &[PathBuf]| {
            if !named.is_empty() {
                *list = named.to_vec();
            }
        };
        say(&mut settings.policy, &args.policy);
        if !args.listen.is_empty() {
            settings.listen.clone_from(&args.listen);
        }
        if !args.upstream.is_empty() {
            settings.upstreams.clone_from(&args.upstream);
        }
        if !args.interface.is_empty() {
            let parsed = args.interface.iter().map(|text| {
                interface(text).map_err(|(wrong, help)| anyhow::anyhow!("--interface: {wrong} ({help})"))
            });
            settings.packet.interfaces = parsed.collect::<anyhow::Result<_>>()?;
        }
        settings.profile = args.profile.clone().or(settings.profile);
        settings.data = args.data.clone().or(settings.data);
        settings.control = args.control.clone().or(settings.control);
        settings.console = args.console.or(settings.console);
        Ok(settings)
    }

    fn read(r: &mut Reader<'_>, mut root: Table<'_, '_>) -> Self {
        let mut settings = Self::default();
        if let Some(mut policy) = root.table(r, "policy") {
            settings.policy = values(policy.list(r, "paths", |text| Ok(PathBuf::from(text))));
            settings.profile = policy.text(r, "profile").map(|text| text.value.to_owned());
            settings.resolve_banned = read_period(r, &mut policy, "resolve_banned", &ROUNDS);
            policy.finish(r);
        }
        if let Some(mut dns) = root.table(r, "dns") {
            settings.listen = values(
                dns.list(r, "listen", |text| parse(text, "an address and a port, such as 10.1.0.53:53")),
            );
            settings.upstreams = values(dns.list(r, "upstreams", |text| Ok(text.to_owned())));
            settings.clients =
                values(dns.list(r, "clients", |text| parse(text, "a network, such as 10.0.0.0/8")));
            if let Some(mib) = dns.number(r, "cache_mib", 65_536) {
                settings.cache_bytes = Some(u64::from(mib) << 20);
            }
            if let Some(tls) = dns.table(r, "tls") {
                settings.tls = read_tls(r, tls);
            }
            if let Some(dnstap) = dns.table(r, "dnstap") {
                settings.dnstap = read_dnstap(r, dnstap);
                settings.conduct.taps =
                    settings.dnstap.as_ref().map(|dnstap| dnstap.taps).unwrap_or_default();
            }
            settings.save_cache = dns.flag(r, "save_cache");
            settings.udp_sockets = dns
                .number(r, "udp_sockets", 256)
                .filter(|sockets| *sockets > 0)
                .map(|sockets| sockets as usize);
            settings.conduct.canaries = dns.flag(r, "canaries").unwrap_or(settings.conduct.canaries);
            if let Some(qps) = dns.number(r, "prefix_qps", 10_000_000) {
                settings.conduct.prefix_qps = qps;
            }
            for mut zone in dns.tables(r, "forward") {
                let domains = values(zone.list(r, "domains", domain));
                let upstreams = values(zone.list(r, "upstreams", |text| Ok(text.to_owned())));
                for (key, is_empty) in [("domains", domains.is_empty()), ("upstreams", upstreams.is_empty())]
                {
                    if is_empty && !zone.has(key) {
                        zone.missing(r, key, "name at least one");
                    }
                }
                zone.finish(r);
                settings.forward.push((domains, upstreams));
            }
            settings.randomizes_case = dns.flag(r, "randomize_case").unwrap_or_default();
            settings.withholds_private =
                dns.word(r, "rebinding", &[("allow", false), ("block", true)]).unwrap_or_default();
            settings.dnssec = read_dnssec(r, &mut dns);
            settings.private_domains = values(dns.list(r, "private_domains", domain));
            if let Some(nsid) = read_nsid(r, &mut dns) {
                settings.conduct.nsid = nsid;
            }
            settings.conduct.proxies =
                values(dns.list(r, "proxies", |text| parse::<IpAddr>(text, "an address, such as 10.1.0.2")))
                    .into_iter()
                    .collect();
            settings.conduct.contact = read_contact(r, &mut dns);
            if let Some(qps) = dns.number(r, "client_qps", 10_000_000) {
                settings.packet.client_qps = qps;
            }
            dns.finish(r);
        }
        if let Some(mut packet) = root.table(r, "packet") {
            let set = &mut settings.packet;
            set.interfaces = values(packet.list(r, "interfaces", interface));
            set.mode = packet
                .word(r, "mode", &[("native", Mode::Native), ("generic", Mode::Generic)])
                .unwrap_or(set.mode);
            set.safe = values(packet.list(r, "safe", safe));
            set.nat64 = values(packet.list(r, "nat64", nat64));
            set.cgroup = packet.text(r, "cgroup").map(|text| PathBuf::from(text.value));
            if let Some(pin) = packet.text(r, "pin") {
                set.pin = pin.value.into();
            }
            if let Some(names) = packet.number(r, "max_names", 4_000_000) {
                set.max_names = names;
            }
            let words = [("auto", InKernel::Auto), ("always", InKernel::Always), ("never", InKernel::Never)];
            set.in_kernel = packet.word(r, "answer", &words).unwrap_or(set.in_kernel);
            let words = [("remove", AtExit::Remove), ("keep", AtExit::Keep)];
            set.at_exit = packet.word(r, "at_exit", &words).unwrap_or(set.at_exit);
            packet.finish(r);
        }
        if let Some(mut audit) = root.table(r, "audit") {
            settings.data = audit.text(r, "data").map(|text| PathBuf::from(text.value));
            settings.retain = read_period(r, &mut audit, "retain", &RETENTION);
            for mut stream in audit.tables(r, "stream") {
                settings.streams.extend(read_stream(r, &mut stream));
                stream.finish(r);
            }
            settings.privacy = audit.word(r, "privacy", Privacy::WORDS).unwrap_or_default();
            settings.legal_hold = audit.text(r, "legal_hold").map(|text| text.value.to_owned());
            audit.finish(r);
        }
        if let Some(mut control) = root.table(r, "control") {
            settings.control = control.text(r, "socket").map(|text| PathBuf::from(text.value));
            control.finish(r);
        }
        if let Some(mut console) = root.table(r, "console") {
            settings.console = read_address(r, &mut console, "listen");
            console.finish(r);
        }
        root.finish(r);
        settings
    }
}

fn read_stream(r: &mut Reader<'_>, stream: &mut Table<'_, '_>) -> Option<Stream> {
    const FORMATS: &[(&str, Format)] =
        &[("json", Format::Json), ("ocsf", Format::Ocsf), ("ecs", Format::Ecs), ("cef", Format::Cef)];
    let format = stream.word(r, "format", FORMATS).unwrap_or(Format::Json);
    let to = stream.required_text(r, "to")?.value.to_owned();
    match to.parse() {
        Ok(collector) => Some(Stream { to, collector, format }),
        Err(help) => {
            stream.wrong(r, "to", format!("\"{}\" is not understood", to.escape_debug()), &help);
            None
        }
    }
}

fn read_tls(r: &mut Reader<'_>, mut tls: Table<'_, '_>) -> Option<TlsSettings> {
    let wanted = "an address and a port, such as 10.1.0.53:853";
    let listen = values(tls.list(r, "listen", |text| parse(text, wanted)));
    let https =
        values(tls.list(r, "https", |text| parse(text, "an address and a port, such as 10.1.0.53:443")));
    let quic = values(tls.list(r, "quic", |text| parse(text, wanted)));
    let name = tls.has("name").then(|| tls.read(r, "name", domain)).flatten();
    let [chain, key] =
        ["certificate", "key"].map(|key| tls.required_text(r, key).map(|text| PathBuf::from(text.value)));
    if !["listen", "https", "quic"].into_iter().any(|key| tls.has(key)) {
        tls.missing(r, "listen", "name at least one address, such as 10.1.0.53:853");
    }
    tls.finish(r);
    Some(TlsSettings { listen, https, quic, name, files: CertificateFiles { chain: chain?, key: key? } })
}

/// Who reads questions and answers, and which.
fn read_dnstap(r: &mut Reader<'_>, mut dnstap: Table<'_, '_>) -> Option<DnstapSettings> {
    let to = dnstap.read(r, "to", |text| {
        text.parse().map_err(|help| (format!("\"{}\" is not understood", text.escape_debug()), help))
    });
    let words = [("decided", Taps::Decided), ("all", Taps::All)];
    let taps = dnstap.word(r, "messages", &words).unwrap_or(Taps::Decided);
    dnstap.finish(r);
    Some(DnstapSettings { to: to?, taps })
}

/// Whether answers are validated, and by which keys.
fn read_dnssec(r: &mut Reader<'_>, dns: &mut Table<'_, '_>) -> Dnssec {
    let validates = dns.word(r, "dnssec", &[("pass", false), ("validate", true)]).unwrap_or_default();
    let anchors = dns.text(r, "trust_anchors").map(|text| PathBuf::from(text.value));
    if anchors.is_some() && !validates {
        let wrong = "trust_anchors are named, and nothing is validated".to_owned();
        dns.wrong(r, "trust_anchors", wrong, "write dnssec = \"validate\" too, or leave this out");
    }
    if validates { Dnssec::Validate(anchors) } else { Dnssec::Pass }
}

/// Whom users of a blocked name turn to.
fn read_contact(r: &mut Reader<'_>, dns: &mut Table<'_, '_>) -> Contact {
    let uris = values(dns.list(r, "contact", |text| {
        let is_one = ["mailto:", "tel:", "sips:", "https:"].iter().any(|scheme| text.starts_with(scheme))
            && !text.contains(|letter: char| letter.is_control() || letter.is_whitespace());
        match is_one {
            true => Ok(text.to_owned()),
            false => Err((
                format!("\"{}\" is no way to reach somebody", text.escape_debug()),
                "write a URI, such as mailto:help@corp.example, tel:+1-202-555-0100 or https://help.corp.example"
                    .to_owned(),
            )),
        }
    }));
    let organization = dns.text(r, "organization").map_or_else(String::new, |text| text.value.to_owned());
    let contact = Contact { uris, organization };
    let bytes = contact.uris.iter().map(String::len).sum::<usize>() + contact.organization.len();
    if bytes > CONTACT_LIMIT_BYTES {
        let wrong = format!("contact and organization have {bytes} bytes");
        dns.wrong(
            r,
            if dns.has("contact") { "contact" } else { "organization" },
            wrong,
            &format!("write at most {CONTACT_LIMIT_BYTES}: answers have no room for more"),
        );
    }
    contact
}

/// The name of a server, as it is sent.
fn read_nsid(r: &mut Reader<'_>, table: &mut Table<'_, '_>) -> Option<String> {
    let nsid = table.text(r, "nsid")?.value;
    if nsid.len() > NSID_LIMIT_BYTES || nsid.chars().any(char::is_control) {
        let help = format!("write at most {NSID_LIMIT_BYTES} bytes, without control characters");
        table.wrong(r, "nsid", format!("\"{}\" cannot be sent", nsid.escape_debug()), &help);
        return None;
    }
    Some(nsid.to_owned())
}

/// An address and a port.
fn read_address(r: &mut Reader<'_>, table: &mut Table<'_, '_>, key: &'static str) -> Option<SocketAddr> {
    let text = table.text(r, key)?.value;
    match parse(text, "an address and a port, such as 127.0.0.1:9153") {
        Ok(address) => Some(address),
        Err((wrong, help)) => {
            table.wrong(r, key, wrong, &help);
            None
        }
    }
}

/// How long a time may be.
struct Period {
    at_least: Duration,
    at_most: Duration,
    help: &'static str,
}

const DAY: Duration = Duration::from_secs(24 * 3600);
/// Between two rounds of something.
const ROUNDS: Period = Period {
    at_least: Duration::from_secs(60),
    at_most: DAY,
    help: "write a time from 1m to 1d, such as 30m or 1h",
};
/// Between an event and its removal.
const RETENTION: Period = Period {
    at_least: DAY,
    at_most: Duration::from_secs(100 * 366 * 24 * 3600),
    help: "write a time of a day or more, such as 365d",
};

/// A time such as `30m`, `1h`, `1h 30m` or `365d`.
fn read_period(
    r: &mut Reader<'_>,
    table: &mut Table<'_, '_>,
    key: &'static str,
    Period { at_least, at_most, help }: &Period,
) -> Option<Duration> {
    let text = table.text(r, key)?.value;
    let read = text.parse::<Span>().and_then(|span| span.to_duration(SpanRelativeTo::days_are_24_hours()));
    let wrong = match read.ok().and_then(|period| Duration::try_from(period).ok()) {
        None => "is not a time",
        Some(period) if period < *at_least => "is too short",
        Some(period) if period > *at_most => "is too long",
        Some(period) => return Some(period),
    };
    table.wrong(r, key, format!("\"{}\" {wrong}", text.escape_debug()), help);
    None
}

/// `NAME=lan`, `NAME=wan` or `NAME=host`.
fn interface(text: &str) -> Result<Interface, (String, String)> {
    let wrong = || {
        (
            format!("\"{}\" is no interface with a role", text.escape_debug()),
            "write NAME=lan, NAME=wan or NAME=host".to_owned(),
        )
    };
    let (name, role) = text.split_once('=').ok_or_else(wrong)?;
    let role = match role {
        "lan" => Role::Lan,
        "wan" => Role::Wan,
        "host" => Role::Host,
        _ => return Err(wrong()),
    };
    // What the kernel takes for a name (dev_valid_name), of less than IFNAMSIZ bytes.
    let is_name = (1..16).contains(&name.len())
        && !matches!(name, "." | "..")
        && !name.contains(|letter: char| matches!(letter, '/' | ':') || letter.is_whitespace());
    if !is_name {
        return Err((
            format!("\"{}\" is no name of an interface", name.escape_debug()),
            "write one of those that `ip link` shows".to_owned(),
        ));
    }
    if name == "lo" && role != Role::Host {
        return Err((
            "lo has no clients and no outside".to_owned(),
            "write lo=host, or another interface".to_owned(),
        ));
    }
    Ok(Interface { name: name.to_owned(), role })
}

/// A domain, with all below it.
fn domain(text: &str) -> Result<DomainName, (String, String)> {
    text.parse()
        .map_err(|error| (format!("\"{}\": {error}", text.escape_debug()), "write a domain".to_owned()))
}

/// A network that is never dropped.
fn safe(text: &str) -> Result<IpNet, (String, String)> {
    let network: IpNet = parse(text, "a network, such as 10.0.0.0/8")?;
    match network.prefix_len() {
        0 => Err((
            format!("{network} would make every address safe"),
            "write the networks that must never be dropped; to filter no packets, list no interfaces"
                .to_owned(),
        )),
        _ => Ok(network),
    }
}

/// A prefix of NAT64.
fn nat64(text: &str) -> Result<Ipv6Net, (String, String)> {
    let prefix: Ipv6Net = parse(text, "an IPv6 prefix, such as 2001:db8:64::/96")?;
    if !NAT64_LENGTHS.contains(&prefix.prefix_len()) {
        return Err((
            format!("{prefix} is no prefix of NAT64"),
            "such a prefix has 32, 40, 48, 56, 64 or 96 bits (RFC 6052)".to_owned(),
        ));
    }
    if prefix.network().octets()[8] != 0 {
        return Err((
            format!("{prefix} is no prefix of NAT64"),
            "bits 64 to 71 of such a prefix are zero (RFC 6052, §2.2)".to_owned(),
        ));
    }
    match prefix.trunc() {
        whole if whole == prefix => Ok(prefix),
        whole => Err((format!("{prefix} has bits behind its prefix"), format!("write {whole}"))),
    }
}

fn values<T>(list: Vec<At<T>>) -> Vec<T> {
    list.into_iter().map(|at| at.value).collect()
}

fn parse<T: std::str::FromStr>(text: &str, wanted: &str) -> Result<T, (String, String)> {
    text.parse()
        .map_err(|_| (format!("\"{}\" is not understood", text.escape_debug()), format!("write {wanted}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Settings, String> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        let args = RunArgs { config: Some(file.path().to_owned()), ..RunArgs::default() };
        Settings::new(&args).map_err(|e| e.to_string().replace(&file.path().display().to_string(), "c.toml"))
    }

    #[test]
    fn every_section_is_read() {
        let settings = read(
            "[policy]\npaths = [\"/etc/p\"]\n[dns]\nlisten = [\"127.0.0.1:53\"]\nupstreams = [\"192.0.2.1\"]\nclients = [\"10.0.0.0/8\"]\n[audit]\ndata = \"/d\"\n[control]\nsocket = \"/s\"\n",
        )
        .unwrap();
        assert_eq!(settings.listen, ["127.0.0.1:53".parse().unwrap()]);
        assert_eq!(settings.clients, ["10.0.0.0/8".parse().unwrap()]);
        assert_eq!((settings.data, settings.control), (Some("/d".into()), Some("/s".into())));
    }

    #[test]
    fn every_problem_is_reported_at_once() {
        let said = read("[dns]\nlisten = [\"53\"]\nclients = [\"10\"]\nlistener = 1\n[dmz]\n").unwrap_err();
        let lines: Vec<&str> = said.lines().skip(1).collect();
        assert_eq!(
            lines[0],
            "c.toml:2:11: \"53\" is not understood (write an address and a port, such as 10.1.0.53:53)"
        );
        assert!(
            lines[1].starts_with("c.toml:3:12: ")
                && lines[2].starts_with("c.toml:4:1: unknown key listener in dns")
        );
        assert!(lines[3].starts_with("c.toml:5:2: unknown key dmz in the configuration"), "{said}");
    }

    #[test]
    fn what_the_packet_plane_cannot_do_is_refused_by_name() {
        for (line, wrong) in [
            (
                "interfaces = [\"=lan\"]",
                "\"\" is no name of an interface (write one of those that `ip link` shows)",
            ),
            (
                "interfaces = [\"a/b=lan\"]",
                "\"a/b\" is no name of an interface (write one of those that `ip link` shows)",
            ),
            (
                "interfaces = [\"sixteen-letters-=wan\"]",
                "\"sixteen-letters-\" is no name of an interface (write one of those that `ip link` shows)",
            ),
            (
                "interfaces = [\"lo=lan\"]",
                "lo has no clients and no outside (write lo=host, or another interface)",
            ),
            (
                "safe = [\"0.0.0.0/0\"]",
                "0.0.0.0/0 would make every address safe (write the networks that must never be dropped; to filter no packets, list no interfaces)",
            ),
            (
                "safe = [\"::/0\"]",
                "::/0 would make every address safe (write the networks that must never be dropped; to filter no packets, list no interfaces)",
            ),
            (
                "nat64 = [\"2001:db8:64::1/96\"]",
                "2001:db8:64::1/96 has bits behind its prefix (write 2001:db8:64::/96)",
            ),
            (
                "nat64 = [\"2001:db8:64:0:6400::/96\"]",
                "2001:db8:64:0:6400::/96 is no prefix of NAT64 (bits 64 to 71 of such a prefix are zero (RFC 6052, §2.2))",
            ),
            (
                "nat64 = [\"2001:db8:64::/97\"]",
                "2001:db8:64::/97 is no prefix of NAT64 (such a prefix has 32, 40, 48, 56, 64 or 96 bits (RFC 6052))",
            ),
        ] {
            let said = read(&format!("[packet]\n{line}\n")).unwrap_err();
            let told = said.lines().nth(1).unwrap();
            assert!(told.starts_with("c.toml:2:") && told.ends_with(wrong), "{told}");
        }
        let read =
            read("[packet]\ninterfaces = [\"wan0=wan\", \"wan0=host\"]\nnat64 = [\"2001:db8:64::/96\"]\n");
        assert_eq!(read.unwrap().packet.interfaces.len(), 2);
    }

    #[test]
    fn banned_names_are_resolved_once_a_minute_to_once_a_day() {
        let read = |period: &str| read(&format!("[policy]\nresolve_banned = {period}\n"));
        for (period, secs) in [("1m", 60), ("90 s", 90), ("1h", 3600), ("1h 30m", 5400), ("1d", 86_400)] {
            let read = read(&format!("\"{period}\"")).unwrap().resolve_banned;
            assert_eq!(read, Some(Duration::from_secs(secs)), "{period}");
        }
        for (period, wrong) in [
            ("\"59s\"", "\"59s\" is too short"),
            ("\"25h\"", "\"25h\" is too long"),
            ("\"-1h\"", "\"-1h\" is not a time"),
            ("\"1 month\"", "\"1 month\" is not a time"),
            ("\"often\"", "\"often\" is not a time"),
        ] {
            let said = read(period).unwrap_err();
            let line = said.lines().nth(1).unwrap();
            assert_eq!(line, format!("c.toml:2:18: {wrong} (write a time from 1m to 1d, such as 30m or 1h)"));
        }
        let said = read("60").unwrap_err();
        assert!(said.contains("c.toml:2:18: "), "{said}");
        assert_eq!(Settings::default().resolve_banned, None);
    }

    #[test]
    fn the_example_is_in_order() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/agent/interdict.toml");
        let args = RunArgs { config: Some(path.into()), ..RunArgs::default() };
        assert_eq!(Settings::new(&args).unwrap().clients.len(), 2);
    }

    #[test]
    fn the_command_line_wins() {
        let args = RunArgs { listen: vec!["127.0.0.1:1".parse().unwrap()], ..RunArgs::default() };
        assert_eq!(Settings::new(&args).unwrap().listen, args.listen);
    }
}
