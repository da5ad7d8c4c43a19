//! Whose questions are answered at all: this is no open resolver.

use std::net::IpAddr;

use ipnet::IpNet;

/// The networks that are served.
#[derive(Clone, Debug)]
pub struct Clients(Vec<IpNet>);

impl Clients {
    /// Serves these networks only.
    pub fn new(networks: Vec<IpNet>) -> Self {
        Self(networks)
    }

    /// Whether a client is served. An IPv4 client in its v4-mapped spelling is the IPv4 client.
    pub fn serves(&self, client: IpAddr) -> bool {
        let client = client.to_canonical();
        self.0.iter().any(|network| network.contains(&client))
    }
}

/// Loopback, private and link-local ranges (RFC 1918, RFC 4193, RFC 3927, RFC 4291).
pub fn default_clients() -> Vec<IpNet> {
    const RANGES: [&str; 8] = [
        "127.0.0.0/8",
        "10.0.0.0/8",
        "172.16.0.0/12",
        "192.168.0.0/16",
        "169.254.0.0/16",
        "::1/128",
        "fc00::/7",
        "fe80::/10",
    ];
    RANGES.iter().map(|range| range.parse().expect("these are networks")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn private_clients_are_served_and_strangers_are_not() {
        let clients = Clients::new(default_clients());
        for (client, served) in [
            ("127.0.0.1", true),
            ("10.9.8.7", true),
            ("::ffff:192.168.1.1", true),
            ("fd00::1", true),
            ("fe80::1", true),
            ("8.8.8.8", false),
            ("2001:db8::1", false),
            ("172.32.0.1", false),
        ] {
            assert_eq!(clients.serves(client.parse().unwrap()), served, "{client}");
        }
    }
}
