//! Following contacts that were let through: what goes out, and what comes back.

use aya_ebpf::bindings::BPF_NOEXIST;
use interdict_ebpf_program::{
    frame::{Frame, opaque},
    ip::{IPV6_HEADER_BYTES, Version},
    lan::Outbound,
    transport::{TCP, TCP_FLAGS_OFFSET, TCP_RST, UDP},
    wan,
};
use interdict_ebpf_shared::{
    contact::{Event, Hook},
    count::Loss,
    flow::{Depth, Flow, FlowKey, Service},
    limits::LET_OUT_NS,
};

use crate::{
    atomic::Word,
    clock::{exact_ns, now_ns},
    maps::{FLOWS, LET_OUT},
    record,
};

/// Counts a packet of a client that was let through: with the client's port if it was by the server's name.
///
/// Not inlined, for its part of the stack.
#[inline(never)]
pub(crate) fn went_out(event: &Event, client_port: [u8; 2]) {
    let key = FlowKey {
        client: event.contact.client,
        remote: event.remote.address,
        port: event.remote.port,
        client_port,
        protocol: event.remote.protocol,
        zero: [0; 3],
    };
    let (rule, generation) = (event.contact.rule, event.contact.generation);
    let mut there = FLOWS.get_ptr_mut(key);
    if there.is_none() {
        let flow = Flow {
            generation,
            rule,
            verdict: event.contact.verdict,
            hook: event.contact.hook,
            depth: Depth::Attempted as u64,
            first_ns: event.time_ns,
            ..EMPTY
        };
        // Another CPU may have been first; then this fails, and the lookup finds what it made.
        let _ = FLOWS.insert(key, flow, u64::from(BPF_NOEXIST));
        there = FLOWS.get_ptr_mut(key);
    }
    let Some(flow) = there else {
        return record::lose(Loss::FlowsFull);
    };
    let words = Words::of(flow);
    words.packets_out.add(1);
    words.bytes_out.add(event.length.into());
    words.last_ns.store(event.time_ns);
}

/// Counts a further packet of a connection that was let through by the server's name, if it is one.
#[inline(never)]
pub(crate) fn went_on<F: Frame + ?Sized>(frame: &F, read: &Outbound) {
    let transport = &read.transport;
    let key = FlowKey {
        client: read.client,
        remote: read.remote,
        port: transport.destination,
        client_port: transport.source,
        protocol: transport.protocol,
        zero: [0; 3],
    };
    let Some(flow) = FLOWS.get_ptr_mut(key) else { return };
    let words = Words::of(flow);
    words.packets_out.add(1);
    words.bytes_out.add(frame.length().into());
    words.last_ns.store(now_ns());
}

/// Counts a packet to a client, if it belongs to a contact that is followed from this hook.
#[inline(always)]
pub(crate) fn came_back<F: Frame + ?Sized>(frame: &F, read: &Outbound, hook: Hook) {
    let transport = &read.transport;
    let mut key = FlowKey {
        client: read.remote,
        remote: read.client,
        port: transport.source,
        client_port: [0; 2],
        protocol: transport.protocol,
        zero: [0; 3],
    };
    let mut there = FLOWS.get_ptr_mut(key);
    if there.is_none() && hook as u8 == Hook::Lan as u8 {
        key.client_port = transport.destination;
        there = FLOWS.get_ptr_mut(key);
    }
    let Some(flow) = there else { return };
    // An answer for somebody behind us comes by the programs of two interfaces.
    // SAFETY: as for the words; the hook of a flow never changes.
    let followed = unsafe { (*flow).hook };
    if followed != hook as u8 && followed != Hook::Tls as u8 {
        return;
    }
    let words = Words::of(flow);
    words.packets_in.add(1);
    words.bytes_in.add(frame.length().into());
    words.last_ns.store(now_ns());
    let depth = depth(frame, read) as u64;
    // Two CPUs may both find less; what is stored last is then a step behind, until the next packet.
    if words.depth.load() < depth {
        words.depth.store(depth);
    }
}

/// How far a packet to a client says that its contact got.
#[inline(always)]
fn depth<F: Frame + ?Sized>(frame: &F, read: &Outbound) -> Depth {
    let transport = &read.transport;
    match transport.protocol {
        UDP => Depth::Received,
        TCP => {
            let (at, ip) = (opaque(transport.at), opaque(read.ip.offset()));
            let said = frame.read(ip + if read.ip.version() == Version::V4 { 2 } else { 4 });
            let (Some([length, flags]), Some(said)) = (frame.read(at + TCP_FLAGS_OFFSET), said) else {
                return Depth::Attempted;
            };
            let before = if read.ip.version() == Version::V4 { 0 } else { IPV6_HEADER_BYTES };
            let ends_at = ip + before + usize::from(u16::from_be_bytes(said));
            match ends_at > at + usize::from(length >> 4) * 4 {
                true => Depth::Received,
                false if flags & TCP_RST != 0 => Depth::Attempted,
                false => Depth::Connected,
            }
        }
        _ => Depth::Connected,
    }
}

const EMPTY: Flow = Flow {
    generation: 0,
    rule: 0,
    verdict: 0,
    hook: 0,
    zero: [0; 2],
    depth: 0,
    first_ns: 0,
    last_ns: 0,
    packets_out: 0,
    bytes_out: 0,
    packets_in: 0,
    bytes_in: 0,
};

/// The words of a flow to which all CPUs add.
struct Words {
    depth: Word,
    last_ns: Word,
    packets_out: Word,
    bytes_out: Word,
    packets_in: Word,
    bytes_in: Word,
}

impl Words {
    #[inline(always)]
    const fn of(flow: *mut Flow) -> Self {
        // SAFETY: the pointer is to a value of the table of flows. An entry that the loader removes meanwhile stays memory
        // of that table; the loader removes only what has been idle for minutes.
        unsafe {
            Self {
                depth: Word::new(&raw mut (*flow).depth),
                last_ns: Word::new(&raw mut (*flow).last_ns),
                packets_out: Word::new(&raw mut (*flow).packets_out),
                bytes_out: Word::new(&raw mut (*flow).bytes_out),
                packets_in: Word::new(&raw mut (*flow).packets_in),
                bytes_in: Word::new(&raw mut (*flow).bytes_in),
            }
        }
    }
}

/// Notes that a packet was let out, so that what comes back is known for an answer.
#[inline(always)]
pub(crate) fn let_out(outbound: &Outbound) {
    let now_ns = exact_ns();
    note(wan::goes_to(outbound), now_ns);
    // Of TCP nothing but segments comes back, or else the reset that tells a stranger that there is no such port would
    // open the door to him.
    if outbound.transport.protocol != TCP {
        note(wan::anything(outbound.remote), now_ns);
    }
}

#[inline(always)]
fn note(service: Service, now_ns: u64) {
    match LET_OUT.get_ptr_mut(service) {
        // SAFETY: the pointer is to a value of the table; whichever CPU is last says what holds.
        Some(time) => unsafe { Word::new(time) }.store(now_ns),
        None => {
            let _ = LET_OUT.insert(service, now_ns, 0);
        }
    }
}

/// Whether anything was let out to a service lately.
#[inline(always)]
pub(crate) fn was_let_out(service: Service) -> bool {
    let now_ns = exact_ns();
    // SAFETY: the value is a word, which is read at once.
    let time = LET_OUT.get_ptr_mut(service).map(|time| unsafe { Word::new(time) }.load());
    time.is_some_and(|time_ns| now_ns.saturating_sub(time_ns) < LET_OUT_NS)
}
