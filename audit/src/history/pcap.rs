//! Captures of packets, pcap and pcapng: questions of DNS on port 53, and for every service how far clients got.
//!
//! Packets are read one by one: fragments say only where they went, and of a question over TCP the message must be in one segment.

use std::collections::HashMap;
use std::io::{self, BufRead};
use std::net::IpAddr;

use etherparse::{EtherType, LaxNetSlice, LaxSlicedPacket, TransportSlice};
use jiff::Timestamp;
use pcap_parser::traits::PcapNGPacketBlock;
use pcap_parser::{Block, Linktype, PcapBlockOwned, PcapError, create_reader};

use super::pairs::{Pairs, Tell};
use super::{Counts, Flow, Noted, Observed, Question, message};
use crate::entry::Depth;

/// Longest block: tcpdump writes no longer packet, and says little of each.
const BLOCK_LIMIT_BYTES: usize = 320 << 10;
/// Interfaces that one section of a capture may describe.
const INTERFACES_LIMIT: usize = 4096;
/// Flows that are followed at a time. Before one more, all are handed on as they are.
const FLOWS_LIMIT: usize = 1 << 17;
/// Seconds without a packet after which a flow is another one.
const QUIET_SECS: i64 = 300;
const DNS_PORT: u16 = 53;
/// Ports below are of servers.
const FIRST_PORT_OF_CLIENTS: u16 = 1024;

/// Whether a file begins as one: pcap by its magic number in either order, with micro- or nanoseconds, or pcapng.
pub(super) fn is_one(head: &[u8]) -> bool {
    const MAGIC: [u32; 3] = [0xa1b2_c3d4, 0xa1b2_3c4d, 0x0a0d_0d0a];
    let first = head.first_chunk().copied().unwrap_or_default();
    MAGIC.iter().any(|magic| [u32::from_le_bytes(first), u32::from_be_bytes(first)].contains(magic))
}

/// Reads a capture to its end, or as far as it was written.
pub(super) fn read(bytes: &mut (dyn BufRead + Send), pairs: &mut Pairs<'_>) -> io::Result<Counts> {
    let invalid = |what: String| io::Error::new(io::ErrorKind::InvalidData, what);
    let mut blocks = match create_reader(BLOCK_LIMIT_BYTES, bytes) {
        Ok(blocks) => blocks,
        Err(PcapError::Eof) => return Ok(Counts::default()),
        Err(_) => return Err(invalid("it is no capture".to_owned())),
    };
    let mut capture = Capture::default();
    loop {
        match blocks.next() {
            Ok((len, block)) => {
                capture.block(block, pairs);
                blocks.consume(len);
            }
            Err(PcapError::Incomplete(_)) => {
                blocks.refill().map_err(|_| invalid("it cannot be read on".to_owned()))?;
            }
            // Whoever captures may have been stopped within a packet.
            Err(PcapError::Eof | PcapError::UnexpectedEof) => break,
            Err(_) => {
                let read = capture.packets;
                return Err(invalid(format!("behind packet {read} stands something that is none")));
            }
        }
    }
    capture.flows.hand_on(pairs);
    Ok(capture.counts)
}

#[derive(Default)]
struct Capture {
    counts: Counts,
    packets: u64,
    /// Of pcap one for the file, of pcapng those of the section.
    interfaces: Vec<Interface>,
    flows: Flows,
}

#[derive(Clone, Copy)]
struct Interface {
    link: Linktype,
    /// Of its clock, in a second.
    ticks: u64,
    offset_secs: i64,
}

impl Capture {
    fn block(&mut self, block: PcapBlockOwned<'_>, pairs: &mut Pairs<'_>) {
        match block {
            PcapBlockOwned::LegacyHeader(header) => {
                let ticks = if header.is_nanosecond_precision() { 1_000_000_000 } else { 1_000_000 };
                self.interfaces = vec![Interface { link: header.network, ticks, offset_secs: 0 }];
            }
            PcapBlockOwned::Legacy(packet) => {
                let Some(interface) = self.interfaces.first().copied() else { return };
                let ticks = u64::from(packet.ts_sec) * interface.ticks + u64::from(packet.ts_usec);
                self.packet(interface, ticks, packet.data, pairs);
            }
            PcapBlockOwned::NG(Block::SectionHeader(_)) => self.interfaces.clear(),
            PcapBlockOwned::NG(Block::InterfaceDescription(interface)) => {
                let ticks = interface.ts_resolution().filter(|ticks| *ticks > 0).unwrap_or(1_000_000);
                if self.interfaces.len() < INTERFACES_LIMIT {
                    let offset_secs = interface.ts_offset();
                    self.interfaces.push(Interface { link: interface.linktype, ticks, offset_secs });
                }
            }
            PcapBlockOwned::NG(Block::EnhancedPacket(packet)) => {
                let Some(interface) = self.interfaces.get(packet.if_id as usize).copied() else {
                    self.packets += 1;
                    return self.counts.strange(self.packets);
                };
                let ticks = u64::from(packet.ts_high) << 32 | u64::from(packet.ts_low);
                self.packet(interface, ticks, packet.packet_data(), pairs);
            }
            // Packets without a time say nothing of when.
            PcapBlockOwned::NG(_) => {}
        }
    }

    fn packet(&mut self, interface: Interface, ticks: u64, bytes: &[u8], pairs: &mut Pairs<'_>) {
        self.packets += 1;
        let (Some(time), Some(packet)) = (interface.time(ticks), Packet::read(interface.link, bytes)) else {
            return;
        };
        if self.flows.add(time, &packet, pairs) {
            self.counts.entries += 1;
        }
        let Some(dns) = packet.dns() else { return };
        let Some(read) = message::read(dns) else {
            // A later segment of a longer message is none, and is no fault of the capture.
            if packet.protocol == UDP {
                self.counts.strange(self.packets);
            }
            return;
        };
        let channel = Some(if packet.protocol == TCP { "tcp" } else { "udp" });
        let (client, port, resolver) = match read.is_response {
            false => (packet.from, packet.ports.0, packet.to),
            true => (packet.to, packet.ports.1, packet.from),
        };
        let question = Question { channel, resolver: Some(resolver), ..read.question };
        let tell = Tell { port, id: read.id };
        if !read.is_response {
            pairs.came(time, client, tell, question);
            self.counts.entries += 1;
        } else if !pairs.answered(time, client, tell, question) {
            self.counts.entries += 1;
        }
    }
}

impl Interface {
    fn time(&self, ticks: u64) -> Option<Timestamp> {
        let secs = i64::try_from(ticks / self.ticks).ok()?.checked_add(self.offset_secs)?;
        let nanos = u128::from(ticks % self.ticks) * 1_000_000_000 / u128::from(self.ticks);
        Timestamp::new(secs, i32::try_from(nanos).ok()?).ok()
    }
}

const TCP: u8 = 6;
const UDP: u8 = 17;

/// What is looked at of a packet.
struct Packet<'p> {
    from: IpAddr,
    to: IpAddr,
    protocol: u8,
    /// Of the sender and the receiver; 0 where there are none.
    ports: (u16, u16),
    /// Of TCP.
    is_syn: bool,
    is_ack: bool,
    /// What it carries behind TCP's or UDP's header.
    data: &'p [u8],
}

impl<'p> Packet<'p> {
    fn read(link: Linktype, bytes: &'p [u8]) -> Option<Self> {
        let cooked = |at: usize, header: usize| {
            let kind = u16::from_be_bytes(*bytes.get(at..)?.first_chunk()?);
            Some(LaxSlicedPacket::from_ether_type(EtherType(kind), bytes.get(header..)?))
        };
        let sliced = match link {
            Linktype::ETHERNET => LaxSlicedPacket::from_ethernet(bytes).ok()?,
            Linktype::RAW | Linktype::IPV4 | Linktype::IPV6 => LaxSlicedPacket::from_ip(bytes).ok()?,
            // A family in four bytes, of the capturing machine's order.
            Linktype::NULL | Linktype::LOOP => LaxSlicedPacket::from_ip(bytes.get(4..)?).ok()?,
            // LINKTYPE_LINUX_SLL and LINKTYPE_LINUX_SLL2: of any interface.
            Linktype::LINUX_SLL => cooked(14, 16)?,
            Linktype(276) => cooked(0, 20)?,
            _ => return None,
        };
        let (from, to, payload): (IpAddr, IpAddr, _) = match sliced.net? {
            LaxNetSlice::Ipv4(ip) => (
                ip.header().source_addr().into(),
                ip.header().destination_addr().into(),
                ip.payload().clone(),
            ),
            LaxNetSlice::Ipv6(ip) => (
                ip.header().source_addr().into(),
                ip.header().destination_addr().into(),
                ip.payload().clone(),
            ),
            LaxNetSlice::Arp(_) => return None,
        };
        let mut packet = Self {
            from,
            to,
            protocol: payload.ip_number.0,
            ports: (0, 0),
            is_syn: false,
            is_ack: false,
            data: &[],
        };
        match sliced.transport {
            Some(TransportSlice::Udp(udp)) => {
                (packet.ports, packet.data) = ((udp.source_port(), udp.destination_port()), udp.payload());
            }
            Some(TransportSlice::Tcp(tcp)) => {
                (packet.ports, packet.data) = ((tcp.source_port(), tcp.destination_port()), tcp.payload());
                (packet.is_syn, packet.is_ack) = (tcp.syn(), tcp.ack());
            }
            _ => {}
        }
        Some(packet)
    }

    /// The message of DNS that it carries.
    fn dns(&self) -> Option<&'p [u8]> {
        if self.ports.0 != DNS_PORT && self.ports.1 != DNS_PORT || self.data.is_empty() {
            return None;
        }
        match self.protocol {
            UDP => Some(self.data),
            TCP => {
                let (len, message) = self.data.split_first_chunk()?;
                message.get(..u16::from_be_bytes(*len).into())
            }
            _ => None,
        }
    }

    /// Whether the receiver is who serves; a guess where the beginning was not captured.
    fn is_to_service(&self) -> bool {
        match (self.is_syn, self.is_ack) {
            (true, false) => true,
            (true, true) => false,
            _ => self.ports.0 >= FIRST_PORT_OF_CLIENTS || self.ports.1 < FIRST_PORT_OF_CLIENTS,
        }
    }
}

/// Client and its port, service and its port, protocol.
type Key = (IpAddr, u16, IpAddr, u16, u8);

#[derive(Default)]
struct Flows(HashMap<Key, (Timestamp, Flow)>);

impl Flows {
    /// Adds a packet. Whether it is of a flow that is new.
    fn add(&mut self, time: Timestamp, packet: &Packet<'_>, pairs: &mut Pairs<'_>) -> bool {
        let Packet { from, to, ports: (from_port, to_port), protocol, .. } = *packet;
        if to.is_multicast() || to.is_unspecified() || matches!(to, IpAddr::V4(to) if to.is_broadcast()) {
            return false;
        }
        let there = (from, from_port, to, to_port, protocol);
        let back = (to, to_port, from, from_port, protocol);
        let is_known = |key: &Key| self.0.contains_key(key);
        let (key, is_out) = match (is_known(&there), is_known(&back)) {
            (true, _) => (there, true),
            (false, true) => (back, false),
            (false, false) if packet.is_to_service() => (there, true),
            (false, false) => (back, false),
        };
        let is_over = |(_, flow): &(Timestamp, Flow)| time.as_second() - flow.last.as_second() > QUIET_SECS;
        if self.0.get(&key).is_some_and(is_over)
            && let Some((begun, flow)) = self.0.remove(&key)
        {
            hand_on(key.0, begun, flow, pairs);
        }
        if self.0.len() >= FLOWS_LIMIT && !self.0.contains_key(&key) {
            self.hand_on(pairs);
        }
        let mut is_new = false;
        let (_, flow) = self.0.entry(key).or_insert_with(|| {
            is_new = true;
            let (_, _, address, port, _) = key;
            let has_ports = matches!(protocol, TCP | UDP) && packet.ports != (0, 0);
            let flow = Flow {
                address,
                port: has_ports.then_some(port),
                protocol: name_of(protocol),
                packets: 0,
                last: time,
                depth: Depth::Attempted,
            };
            (time, flow)
        });
        flow.last = flow.last.max(time);
        flow.packets += u64::from(is_out);
        flow.depth = flow.depth.max(match (is_out, protocol) {
            (false, TCP) if !packet.data.is_empty() => Depth::Received,
            (false, TCP) if packet.is_syn && packet.is_ack => Depth::Connected,
            (false, UDP) => Depth::Received,
            // Of others nothing is told but that they were sent: an answer may be an error.
            _ => Depth::Attempted,
        });
        is_new
    }

    /// Hands on all of them, in the order in which they began.
    fn hand_on(&mut self, pairs: &mut Pairs<'_>) {
        let mut flows: Vec<_> = self.0.drain().collect();
        flows.sort_by_key(|(key, (begun, _))| (*begun, *key));
        flows.into_iter().for_each(|(key, (begun, flow))| hand_on(key.0, begun, flow, pairs));
    }
}

fn hand_on(client: IpAddr, begun: Timestamp, flow: Flow, pairs: &mut Pairs<'_>) {
    // What came in by itself, and was not answered, is nobody's contact.
    if flow.packets > 0 {
        pairs.whole(Observed { time: begun, client, what: Noted::Sent(flow) });
    }
}

fn name_of(protocol: u8) -> String {
    match protocol {
        TCP => "tcp".to_owned(),
        UDP => "udp".to_owned(),
        other => other.to_string(),
    }
}
