//! A DNS server that answers by policy. It knows DNS; it knows neither packets nor files.
//!
//! [`Filter`] holds the policy in force and decides. [`FilterHandler`] is that decision as a hickory
//! `RequestHandler`: blocked questions are answered here, everything else goes to what stands behind it, which
//! is a [`Forwarder`] in interdict, or any handler of another server (see [`FilterHandler::in_front_of`]).
//! [`Listeners`] serve a handler over UDP and TCP, [`TlsListeners`] over TLS, HTTPS and QUIC; [`serve_diverted`] does for
//! questions that were on their way to other resolvers.
#![deny(unsafe_code)]

mod answer;
mod batch;
mod cache;
mod channel;
mod clients;
mod counters;
mod designated;
mod diverted;
mod filter;
mod forward;
mod handler;
mod https;
mod options;
mod own;
mod proxy;
mod quic;
mod rates;
mod respond;
mod revive;
mod saved;
mod serve;
mod shares;
mod tcp;
mod tls;
mod udp;
mod upstreams;
mod validate;

pub use channel::Channel;
pub use clients::{Clients, default_clients};
pub use counters::{Counters, LATENCY_BUCKETS_US, Snapshot};
pub use diverted::{DivertedSockets, serve_diverted};
pub use filter::{Answered, Egress, Exchange, Filter, Judgement, Observer, Seen, Silent, Taps, Target};
pub use forward::{CACHE_BYTES, Forwarder, Forwarding, LookedUp};
pub use handler::{Behind, CONTACT_LIMIT_BYTES, Conduct, Contact, Designated, FilterHandler, Next};
pub use options::NSID_LIMIT_BYTES;
pub use proxy::Proxies;
pub use serve::{ListenError, Listeners, Serving, TlsListeners, TlsService, udp_sockets};
pub use tcp::{Connections, TCP_CONNECTIONS_LIMIT, TCP_CONNECTIONS_OF_A_CLIENT_LIMIT};
pub use tls::{Certificate, CertificateFiles};
pub use upstreams::{ForwardZone, Upstream, UpstreamHealth, system_upstreams};
pub use validate::Dnssec;

pub use hickory_server;
