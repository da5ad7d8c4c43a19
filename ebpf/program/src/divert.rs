//! From the XDP program to the agent, for packets that are on their way to another resolver.
//!
//! XDP can neither mark a packet nor choose a socket. It writes a note in front of the frame, and this program, which
//! runs next on the same interface, does as the note says: the agent's socket gets the packet unchanged, as if the other
//! resolver's address were ours. The mark has the routing policy deliver it here instead of forwarding it.

use core::{ffi::c_void, mem, ptr};

use aya_ebpf::{
    bindings::{__sk_buff, BPF_F_CURRENT_NETNS, bpf_sock, bpf_sock_tuple},
    helpers::{
        bpf_map_lookup_elem, bpf_sk_assign, bpf_sk_release, bpf_skb_load_bytes, bpf_skc_lookup_tcp,
        bpf_xdp_adjust_meta,
    },
    programs::{TcContext, XdpContext},
};
use interdict_ebpf_shared::count::Exit;
use interdict_ebpf_shared::query::{DIVERT_MAGIC, DIVERT_MARK, DIVERT_OR_DROP, DivertSocket};

use interdict_ebpf_program::lan::Outbound;

use crate::{maps::DIVERT, record};

/// The note in front of a frame.
#[repr(C)]
#[derive(Clone, Copy)]
struct Note {
    magic: u32,
    /// [`DIVERT_OR_DROP`] or [`interdict_ebpf_shared::query::DIVERT_OR_PASS`], and [`OPENS`] and [`STREAM`].
    kind: u32,
    /// How far behind the start of the IP header the ports are.
    ports: u32,
}

/// The packet is of a TCP connection.
pub(crate) const STREAM: u32 = 1 << 8;
/// It opens it.
pub(crate) const OPENS: u32 = 1 << 9;

/// Writes the note, and says whether there was room for it.
#[inline(always)]
pub(crate) fn note(ctx: &XdpContext, outbound: &Outbound, kind: u32) -> bool {
    let ports = (outbound.transport.at - outbound.ip.offset()) as u32;
    // SAFETY: the context is the one the kernel started the program with, and no pointer into the packet is used again.
    if unsafe { bpf_xdp_adjust_meta(ctx.ctx, -(size_of::<Note>() as i32)) } != 0 {
        return false;
    }
    let start = ctx.metadata();
    if start + size_of::<Note>() > ctx.metadata_end() {
        return false;
    }
    // SAFETY: the note lies in front of the packet, as just checked.
    unsafe { ptr::write(start as *mut Note, Note { magic: DIVERT_MAGIC, kind, ports }) };
    true
}

/// What is done with a packet.
pub(crate) enum Diversion {
    /// As without us.
    Next,
    /// It is dropped.
    Drop,
}

/// Does as the note says.
#[inline(always)]
pub(crate) fn follow(ctx: &TcContext) -> Diversion {
    let skb = ctx.skb.skb;
    // SAFETY: the context is the one the kernel started the program with.
    let (start, end) = unsafe { ((*skb).data_meta as usize, (*skb).data as usize) };
    if start + size_of::<Note>() > end {
        return Diversion::Next;
    }
    // SAFETY: the note lies in front of the packet, as just checked.
    let Note { magic, kind, ports } = unsafe { ptr::read(start as *const Note) };
    if magic != DIVERT_MAGIC {
        return Diversion::Next;
    }
    // SAFETY: as above.
    let is_v6 = unsafe { (*skb).protocol } == u32::from(0x86dd_u16.to_be());
    let taken = match kind & (STREAM | OPENS) {
        0 => assign(skb, if is_v6 { DivertSocket::Udp6 } else { DivertSocket::Udp4 }),
        STREAM if is_ours(skb, is_v6, ports) => true,
        // A new connection; or the listener knows a segment by its cookie (tcp_syncookies in ip-sysctl), or resets it.
        _ => assign(skb, if is_v6 { DivertSocket::Tcp6 } else { DivertSocket::Tcp4 }),
    };
    if taken {
        ctx.set_mark(DIVERT_MARK);
        return Diversion::Next;
    }
    match kind & DIVERT_OR_DROP {
        0 => Diversion::Next,
        _ => {
            record::count_exit(Exit::DivertRefused);
            Diversion::Drop
        }
    }
}

/// Gives the packet to one of the agent's sockets, if the agent has it open.
#[inline(always)]
fn assign(skb: *mut __sk_buff, socket: DivertSocket) -> bool {
    let index = socket as u32;
    // SAFETY: the map and the key live as long as the call. What comes back is a socket, which is released.
    unsafe {
        let map = (&raw const DIVERT).cast_mut().cast::<c_void>();
        let socket = bpf_map_lookup_elem(map, (&raw const index).cast());
        if socket.is_null() {
            return false;
        }
        let result = bpf_sk_assign(skb.cast(), socket, 0);
        bpf_sk_release(socket);
        result == 0
    }
}

const ETHERNET_BYTES: u32 = 14;
const TCP_LISTEN: u32 = 10;

/// The longest way to the ports: an IPv6 header, and the longest that are read through behind it.
const PORTS_LIMIT: u32 = 0x7fff;

/// Whether the packet belongs to a connection that the agent took over.
#[inline(always)]
fn is_ours(skb: *mut __sk_buff, is_v6: bool, ports: u32) -> bool {
    // SAFETY: all zeroes are a tuple.
    let mut tuple: bpf_sock_tuple = unsafe { mem::zeroed() };
    let to: *mut u8 = (&raw mut tuple).cast();
    let load = |from: u32, at: usize, bytes: u32| {
        // SAFETY: the places are those of the tuple's fields, with their lengths.
        unsafe { bpf_skb_load_bytes(skb.cast(), from, to.wrapping_add(at).cast(), bytes) == 0 }
    };
    let ports = ETHERNET_BYTES + (ports & PORTS_LIMIT);
    let (loaded, bytes) = match is_v6 {
        true => (load(ETHERNET_BYTES + 8, 0, 32) && load(ports, 32, 4), 36),
        false => (load(ETHERNET_BYTES + 12, 0, 8) && load(ports, 8, 4), 12),
    };
    if !loaded {
        return false;
    }
    // SAFETY: the tuple is whole, and what comes back is a socket, which is released.
    unsafe {
        let socket: *mut bpf_sock =
            bpf_skc_lookup_tcp(skb.cast(), &raw mut tuple, bytes, BPF_F_CURRENT_NETNS as u64, 0);
        if socket.is_null() {
            return false;
        }
        let is_connection = (*socket).state != TCP_LISTEN;
        bpf_sk_release(socket.cast());
        is_connection
    }
}
