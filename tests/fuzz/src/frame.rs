//! What `interdict-ebpf-program` reads: frames, as they come to the programs' hooks.

use interdict_dns_wire::{HEADER_BYTES, LONGEST_ANSWER_BYTES};
use interdict_ebpf_program::frame::Frame;
use interdict_ebpf_program::ip::{self, Version};
use interdict_ebpf_program::lan::{self, Outbound};
use interdict_ebpf_program::query::{self, Aim};
use interdict_ebpf_program::reject::{self, Notice};
use interdict_ebpf_program::tls::{self, Kind};
use interdict_ebpf_program::transport::{self, TCP, UDP};
use interdict_ebpf_program::verdict::Policy;
use interdict_ebpf_program::{icmp, plain, wan};
use interdict_ebpf_shared::{
    Address,
    contact::Hook,
    count::Exit,
    flow::Service,
    policy::{Decision, NetworkEntry, ServiceKey, State, Verdict},
};

/// Whatever a frame holds, each step reads inside it, the quick look at its headers finds what the thorough one does, and
/// with every address banned nothing leaves that has an address.
pub fn frame(bytes: &[u8]) {
    let read = match lan::read(bytes) {
        Ok(read) => read,
        Err(exit) => {
            assert!(ip::header(bytes).is_err(), "{exit:?}, with an IP header");
            assert_eq!(plain::read(bytes), None);
            return;
        }
    };
    transport_is_there(bytes, &read);
    if let Some(plain) = plain::read(bytes) {
        quick_is_thorough(bytes, &plain, &read);
    }
    let judged = lan::judge(&BansAll, Hook::Lan, &read).expect("every address is banned");
    let event = lan::event(bytes, &BansAll, Hook::Lan, &read, judged.rule, judged.verdict);
    assert_eq!((judged.verdict, event.length as usize), (Verdict::Block, bytes.len()));
    match wan::judge(bytes, &BansAll, Hook::Wan, &read) {
        Ok(judged) => assert_eq!(judged.verdict, Verdict::Block),
        Err(exit) => {
            assert_eq!(exit, Exit::WanNotOpening);
            assert_eq!((read.transport.protocol, read.transport.unread), (TCP, None));
        }
    }
    let is_part = read.transport.fragment || read.transport.unread.is_some();
    if is_part {
        assert_eq!(icmp::quoted(bytes, &read), None);
        assert_eq!(reject::notice(bytes, &read), Notice::Nothing);
    }
    server_name(bytes, &read);
}

/// Ports that were read stand where the transport header does; of what could not be read there are none.
fn transport_is_there(frame: &[u8], read: &Outbound) {
    let transport::Transport { protocol, at, source, destination, unread, .. } = read.transport;
    match (unread, protocol) {
        (None, TCP | UDP) => {
            assert_eq!((frame.read(at), frame.read(at + 2)), (Some(source), Some(destination)))
        }
        _ => assert_eq!((source, destination), ([0; 2], [0; 2])),
    }
}

fn quick_is_thorough(frame: &[u8], plain: &Outbound, read: &Outbound) {
    // The quick look is at frames that have no IP options; a chain of IPv6 headers it leaves alone.
    assert_eq!(plain, read);
    if plain::is_all_address(frame, plain) {
        assert!(
            matches!(query::aim(&read.transport), Aim::Hello | Aim::Other),
            "a question is judged by its name"
        );
        assert!(!transport::is_tunnel(&read.transport));
    }
}

/// A name that is read is one that DNS can ask for.
fn server_name(frame: &[u8], read: &Outbound) {
    let Some(data) = frame.get(read.transport.at..) else { return };
    let hello = tls::read(data, data.len());
    if hello.kind != Kind::Named {
        return;
    }
    assert!(hello.name_at + hello.name_bytes <= data.len(), "{hello:?} of {}", data.len());
    let mut message = [0; LONGEST_ANSWER_BYTES];
    if let Some(question) = tls::write_name(data, &hello, &mut message[..]) {
        assert_eq!(message[HEADER_BYTES + question.name_bytes - 1], 0, "a name ends in the root");
    }
}

/// A policy that bans every address.
struct BansAll;

impl Policy for BansAll {
    fn generation(&self) -> u64 {
        1
    }

    fn network(&self, _: Version, _: Address) -> NetworkEntry {
        NetworkEntry { otherwise: Decision { rule: 1, state: State::new(Verdict::Block) }, port_set: 0 }
    }

    fn service(&self, _: ServiceKey) -> Decision {
        Decision::NONE
    }

    fn opened(&self, _: Address) -> Decision {
        Decision::NONE
    }

    fn opened_to(&self, _: Address, _: Address) -> Decision {
        Decision::NONE
    }

    fn learned(&self, _: Address) -> Decision {
        Decision::NONE
    }

    fn is_exempt(&self, _: u32, _: Address) -> bool {
        false
    }

    fn is_safe(&self, _: Version, _: Address) -> bool {
        false
    }

    fn was_let_out(&self, _: Service) -> bool {
        false
    }

    fn inside(&self, _: Address) -> Address {
        Address::NONE
    }
}
