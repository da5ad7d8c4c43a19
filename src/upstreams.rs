//! Which resolvers are asked, and that none of them is this server.

use std::net::{Ipv4Addr, SocketAddr};

use anyhow::{Context, bail};
use interdict_dns_filter::{ForwardZone, Upstream, system_upstreams};
use interdict_policy::DomainName;

/// The named upstreams, or the system's.
pub(crate) fn upstreams(named: &[String], listeners: &[SocketAddr]) -> anyhow::Result<Vec<Upstream>> {
    let upstreams = if named.is_empty() {
        system_upstreams().map_err(anyhow::Error::msg).context("no --upstream, and the system names none")?
    } else {
        let parsed = named.iter().map(|text| text.parse().map_err(anyhow::Error::msg));
        parsed.collect::<anyhow::Result<Vec<Upstream>>>().context("--upstream")?
    };
    if upstreams.is_empty() {
        bail!("no upstream is usable; name one with --upstream ADDR:PORT");
    }
    check(&upstreams, listeners)?;
    Ok(upstreams)
}

/// Domains for which others are asked.
pub(crate) fn zones(
    named: Vec<(Vec<DomainName>, Vec<String>)>,
    listeners: &[SocketAddr],
) -> anyhow::Result<Vec<ForwardZone>> {
    let zone = |(domains, upstreams): (Vec<DomainName>, Vec<String>)| {
        let parsed = upstreams.iter().map(|text| text.parse().map_err(anyhow::Error::msg));
        let upstreams = parsed.collect::<anyhow::Result<Vec<Upstream>>>().context("[[dns.forward]]")?;
        check(&upstreams, listeners)?;
        Ok(ForwardZone { domains, upstreams })
    };
    let zones = named.into_iter().map(zone).collect::<anyhow::Result<Vec<_>>>()?;
    let mut domains: Vec<&DomainName> = zones.iter().flat_map(|zone| &zone.domains).collect();
    domains.sort();
    if let Some(twice) = domains.windows(2).find(|pair| pair[0] == pair[1]) {
        bail!("[[dns.forward]] names {} twice: say once who is asked for it", twice[0]);
    }
    Ok(zones)
}

/// # Errors
/// An upstream that cannot be asked, or is this server.
fn check(upstreams: &[Upstream], listeners: &[SocketAddr]) -> anyhow::Result<()> {
    for upstream in upstreams {
        if let Some(why) = unusable(upstream.address) {
            bail!("upstream {upstream} cannot be asked: {why}; name another with --upstream ADDR:PORT");
        }
        if let Some(listener) = listeners.iter().find(|listener| is_the_same(**listener, upstream.address)) {
            bail!(
                "upstream {upstream} is our own listener {listener}: questions would go round in a circle; \
                 name another with --upstream ADDR:PORT"
            );
        }
    }
    Ok(())
}

/// Why nothing can be asked of an address. Linux takes the unspecified address for this machine, and so for us.
fn unusable(upstream: SocketAddr) -> Option<&'static str> {
    match upstream.ip().to_canonical() {
        _ if upstream.port() == 0 => Some("nothing listens on port 0"),
        ip if ip.is_unspecified() => Some("it is no address of one machine"),
        ip if ip.is_multicast() || ip == Ipv4Addr::BROADCAST => Some("it is the address of many machines"),
        _ => None,
    }
}

/// Whether what is sent to `upstream` arrives at `listener`.
fn is_the_same(listener: SocketAddr, upstream: SocketAddr) -> bool {
    listener.port() == upstream.port() && listener.ip().to_canonical() == upstream.ip().to_canonical()
}
