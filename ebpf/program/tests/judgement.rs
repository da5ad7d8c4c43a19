//! The steps of the kernel programs, run on the host: on any bytes at all, and on policies written as tables.
//!
//! What the kernel makes of whole frames is tried in the loader's tests; here is what those cannot reach, such as frames
//! shorter than an Ethernet header.

use std::cell::Cell;

use interdict_ebpf_program::{
    ethernet::{Network, network_header},
    frame::Frame,
    ip::{self, Version},
    lan, transport,
    verdict::{Judgement, Policy},
    wan,
};
use interdict_ebpf_shared::{
    Address,
    contact::{Event, Hook},
    count::Exit,
    flow::Service,
    policy::{Decision, NetworkEntry, ServiceKey, State, Verdict},
};
use proptest::prelude::*;

/// A policy that says the same of every address.
#[derive(Default)]
struct Same {
    network: NetworkEntry,
    service: Decision,
    opened: Decision,
    opened_to_client: Decision,
    learned: Decision,
    exempt: bool,
    safe: bool,
    let_out: Option<Service>,
    looked_for_safety: Cell<bool>,
}

impl Policy for Same {
    fn generation(&self) -> u64 {
        7
    }

    fn network(&self, _version: Version, _address: Address) -> NetworkEntry {
        self.network
    }

    fn service(&self, _key: ServiceKey) -> Decision {
        self.service
    }

    fn opened(&self, _address: Address) -> Decision {
        self.opened
    }

    fn opened_to(&self, _client: Address, _address: Address) -> Decision {
        self.opened_to_client
    }

    fn learned(&self, _address: Address) -> Decision {
        self.learned
    }

    fn is_exempt(&self, _rule: u32, _client: Address) -> bool {
        self.exempt
    }

    fn is_safe(&self, _version: Version, _address: Address) -> bool {
        self.looked_for_safety.set(true);
        self.safe
    }

    fn was_let_out(&self, service: Service) -> bool {
        self.let_out == Some(service)
    }

    fn inside(&self, _address: Address) -> Address {
        Address::NONE
    }
}

/// The judgement, and the record.
fn judge_lan(frame: &[u8], policy: &Same) -> Result<(Judgement, Event), Exit> {
    let read = lan::read(frame)?;
    let judged = lan::judge(policy, Hook::Lan, &read)?;
    Ok((judged, lan::event(frame, policy, Hook::Lan, &read, judged.rule, judged.verdict)))
}

/// As [`judge_lan`].
fn judge_wan(frame: &[u8], policy: &Same) -> Result<(Judgement, Event), Exit> {
    let read = lan::read(frame)?;
    let judged = wan::judge(frame, policy, Hook::Wan, &read)?;
    Ok((judged, wan::event(frame, policy, Hook::Wan, &read, judged.rule, judged.verdict)))
}

const fn by(rule: u32, verdict: Verdict) -> Decision {
    Decision { rule, state: State::new(verdict) }
}

const fn entry(otherwise: Decision, port_set: u32) -> NetworkEntry {
    NetworkEntry { otherwise, port_set }
}

/// An IPv4 TCP SYN, by whose bytes a table of cases can change it.
fn syn() -> Vec<u8> {
    let mut frame = vec![0; 12];
    frame.extend([0x08, 0x00, 0x45, 0, 0, 40, 0, 0, 0, 0, 64, 6, 0, 0, 10, 0, 0, 9, 192, 0, 2, 1]);
    frame.extend([0x9c, 0x40, 0x01, 0xbb, 0, 0, 0, 1, 0, 0, 0, 0, 0x50, 0x02, 4, 0, 0, 0, 0, 0]);
    frame
}

#[test]
fn safe_then_opened_then_the_network() {
    use Verdict::{Allow, Block, Log};
    const NONE: Decision = Decision::NONE;
    for (safe, opened, network, service, expect) in [
        (false, NONE, NetworkEntry::NONE, NONE, Err(Exit::NoMatch)),
        (true, NONE, NetworkEntry::NONE, NONE, Err(Exit::NoMatch)),
        (true, NONE, entry(by(1, Block), 0), NONE, Err(Exit::Safe)),
        (true, by(2, Log), NetworkEntry::NONE, NONE, Err(Exit::Safe)),
        (false, by(2, Log), entry(by(1, Block), 0), NONE, Ok((Exit::Opened, Log, 2))),
        (false, by(2, Allow), NetworkEntry::NONE, NONE, Ok((Exit::Opened, Allow, 2))),
        (false, NONE, entry(by(1, Block), 0), NONE, Ok((Exit::Blocked, Block, 1))),
        (false, NONE, entry(by(1, Log), 0), NONE, Ok((Exit::Logged, Log, 1))),
        (false, NONE, entry(by(1, Allow), 0), NONE, Ok((Exit::Allowed, Allow, 1))),
        (false, NONE, entry(by(1, Allow), 5), by(3, Block), Ok((Exit::Blocked, Block, 3))),
        (false, NONE, entry(by(1, Allow), 5), NONE, Ok((Exit::Allowed, Allow, 1))),
        (false, NONE, entry(NONE, 5), by(3, Block), Ok((Exit::Blocked, Block, 3))),
        (false, NONE, entry(NONE, 5), NONE, Err(Exit::NoMatchingPort)),
    ] {
        let policy = Same { safe, opened, network, service, ..Same::default() };
        for judged in [judge_lan(&syn()[..], &policy), judge_wan(&syn()[..], &policy)] {
            let judged = judged.map(|(judged, _)| (judged.exit, judged.verdict, judged.rule));
            assert_eq!(judged, expect, "safe {safe}, {opened:?}, {network:?}, {service:?}");
        }
        let concerned = expect != Err(Exit::NoMatch);
        assert_eq!(policy.looked_for_safety.get(), concerned, "only who is concerned pays for the look");
    }
}

#[test]
fn learned_comes_last_and_the_register_of_exemptions_after_it() {
    use Verdict::{Allow, Block, Exempt, Log};
    const NONE: Decision = Decision::NONE;
    let on_register = |rule| Decision { rule, state: State::new(Block).with_exemptions(true) };
    for (network, opened_to_client, learned, exempt, expect) in [
        (NetworkEntry::NONE, NONE, by(4, Block), true, Ok((Exit::Blocked, Block, 4))),
        (entry(by(1, Log), 0), NONE, by(4, Block), true, Ok((Exit::Logged, Log, 1))),
        (entry(NONE, 5), NONE, by(4, Block), true, Ok((Exit::Blocked, Block, 4))),
        (entry(on_register(1), 0), NONE, NONE, true, Ok((Exit::Exempt, Exempt, 1))),
        (entry(on_register(1), 0), NONE, NONE, false, Ok((Exit::Blocked, Block, 1))),
        (NetworkEntry::NONE, NONE, on_register(4), true, Ok((Exit::Exempt, Exempt, 4))),
        (entry(by(1, Block), 0), by(2, Exempt), NONE, false, Ok((Exit::Exempt, Exempt, 2))),
        (NetworkEntry::NONE, by(2, Exempt), NONE, false, Ok((Exit::Exempt, Exempt, 2))),
        (entry(by(1, Allow), 0), NONE, NONE, true, Ok((Exit::Allowed, Allow, 1))),
    ] {
        let policy = Same { network, opened_to_client, learned, exempt, ..Same::default() };
        let judged =
            judge_lan(&syn()[..], &policy).map(|(judged, _)| (judged.exit, judged.verdict, judged.rule));
        assert_eq!(judged, expect, "{network:?}, {opened_to_client:?}, {learned:?}, {exempt}");
    }
}

#[test]
fn the_ethernet_header_in_every_length() {
    for (bytes, expect) in [
        (&[][..], Err(Exit::Truncated)),
        (&[0; 12], Err(Exit::Truncated)),
        (&[0; 13], Err(Exit::Truncated)),
        (&[0; 14], Err(Exit::NotIp)),
    ] {
        assert_eq!(network_header(bytes), expect, "{} bytes", bytes.len());
    }
    assert_eq!(network_header(&syn()[..14]), Ok(Network::Ipv4(14)));
}

#[test]
fn odd_header_lengths_hide_no_address() {
    let policy = Same { network: entry(by(1, Verdict::Block), 0), ..Same::default() };
    for version_and_length in 0..=255 {
        let mut frame = syn();
        frame[14] = version_and_length;
        let judged = judge_lan(&frame[..], &policy).map(|(judged, _)| judged.verdict);
        assert_eq!(judged, Ok(Verdict::Block), "{version_and_length:#x}");
    }
}

proptest! {
    /// Nothing in a frame makes the steps panic, and what they read lies inside it.
    #[test]
    fn any_bytes_are_judged(
        bytes in prop::collection::vec(any::<u8>(), 0..200),
        ethertype in prop_oneof![Just([0x08, 0x00]), Just([0x86, 0xdd]), Just([0x81, 0x00]), any::<[u8; 2]>()],
        port_set in 0_u32..2,
    ) {
        let mut bytes = bytes;
        if let Some(field) = bytes.get_mut(12..14) {
            field.copy_from_slice(&ethertype);
        }
        let frame = &bytes[..];
        let policy = Same { network: entry(by(1, Verdict::Block), port_set), ..Same::default() };
        for (_, event) in [judge_lan(frame, &policy), judge_wan(frame, &policy)].into_iter().flatten() {
            prop_assert_eq!(event.length as usize, bytes.len());
            prop_assert_eq!(event.contact.generation, 7);
        }
        // With every address banned, only a frame without one leaves the lan unjudged.
        let banned = Same { network: entry(by(1, Verdict::Block), 0), ..Same::default() };
        prop_assert_eq!(judge_lan(frame, &banned).is_ok(), ip::header(frame).is_ok());
    }

    /// The chain of headers is walked to its end, or the packet says that it was not.
    #[test]
    fn any_chain_is_walked(first in any::<u8>(), bytes in prop::collection::vec(any::<u8>(), 0..4096)) {
        let frame = &bytes[..];
        let payload = ip::Payload { at: 0, header: first, fragment: ip::Fragment::Whole, chain: true };
        let transport = transport::read(frame, &payload);
        match transport.unread {
            None => prop_assert!(!transport::is_extension(transport.protocol)),
            Some(exit) => prop_assert!(matches!(
                exit,
                Exit::FragmentUnjudged | Exit::HeaderChainUnjudged | Exit::TruncatedUnjudged
            )),
        }
        if matches!(transport.protocol, transport::TCP | transport::UDP) && transport.unread.is_none() {
            prop_assert_eq!(frame.read(transport.at), Some(transport.source));
        }
    }
}
