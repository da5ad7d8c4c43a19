//! How a question came.

use hickory_server::net::xfer::Protocol;

/// How a question came, and how its answer goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Channel {
    /// A datagram (RFC 1035, §4.2.1).
    Udp,
    /// A TCP stream (RFC 7766).
    Tcp,
    /// DNS over TLS (RFC 7858).
    Dot,
    /// DNS over HTTPS (RFC 8484).
    Doh,
    /// DNS over QUIC (RFC 9250).
    Doq,
}

impl Channel {
    /// Every one.
    pub const ALL: [Self; 5] = [Self::Udp, Self::Tcp, Self::Dot, Self::Doh, Self::Doq];

    /// Its name in events and metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Udp => "udp",
            Self::Tcp => "tcp",
            Self::Dot => "dot",
            Self::Doh => "doh",
            Self::Doq => "doq",
        }
    }

    /// Whether answers are as long as they are.
    pub(crate) const fn is_stream(self) -> bool {
        !matches!(self, Self::Udp)
    }

    /// Whether a client may be told how long its connection may be idle: QUIC and HTTP have words of their own for that
    /// (RFC 7828; RFC 9250, §5.5.2).
    pub(crate) const fn has_keepalive(self) -> bool {
        matches!(self, Self::Tcp | Self::Dot)
    }

    /// Whether nobody else reads along.
    pub(crate) const fn is_encrypted(self) -> bool {
        matches!(self, Self::Dot | Self::Doh | Self::Doq)
    }

    /// What hickory calls it.
    pub(crate) const fn protocol(self) -> Protocol {
        match self {
            Self::Udp => Protocol::Udp,
            // The others are only there with features of hickory that are not enabled.
            Self::Tcp | Self::Dot | Self::Doh | Self::Doq => Protocol::Tcp,
        }
    }
}

impl From<Protocol> for Channel {
    fn from(protocol: Protocol) -> Self {
        match protocol {
            Protocol::Udp => Self::Udp,
            _ => Self::Tcp,
        }
    }
}
