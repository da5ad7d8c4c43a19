//! The entry points.

use aya_ebpf::{
    bindings::xdp_action::{XDP_DROP, XDP_PASS},
    macros::xdp,
    programs::XdpContext,
};
use interdict_ebpf_program::{lan, verdict::Judgement, wan};
use interdict_ebpf_shared::{count::Exit, policy::Verdict};

use crate::{generation::Generation, packet::Packet, record};

/// On an interface towards our clients.
#[xdp(frags)]
fn interdict_lan(ctx: XdpContext) -> u32 {
    let packet = Packet::new(&ctx);
    let Some(generation) = Generation::live() else {
        return pass(Exit::NoPolicy);
    };
    match lan::judge(&packet, &generation) {
        Ok(judgement) => act(judgement),
        Err(exit) => pass(exit),
    }
}

/// On an interface towards the outside.
#[xdp(frags)]
fn interdict_wan(ctx: XdpContext) -> u32 {
    let packet = Packet::new(&ctx);
    let Some(generation) = Generation::live() else {
        return pass(Exit::NoPolicy);
    };
    match wan::judge(&packet, &generation) {
        Ok(judgement) => act(judgement),
        Err(exit) => pass(exit),
    }
}

/// Tells what the staged policy would do with a packet, and does nothing else.
///
/// The loader runs it through `BPF_PROG_TEST_RUN`, which hands the packet back: its first bytes are then the answer.
#[xdp(frags)]
fn interdict_selftest(ctx: XdpContext) -> u32 {
    let packet = Packet::new(&ctx);
    let answer = match Generation::staged() {
        Some(generation) => lan::judge(&packet, &generation),
        None => Err(Exit::NoPolicy),
    };
    match answer {
        Ok(judgement) => {
            let Judgement { exit, verdict, event } = judgement;
            packet.answer([exit as u32, verdict.code(), event.contact.rule]);
            action(verdict)
        }
        Err(exit) => {
            packet.answer([exit as u32, 0, 0]);
            XDP_PASS
        }
    }
}

#[inline(always)]
fn pass(exit: Exit) -> u32 {
    record::count_exit(exit);
    XDP_PASS
}

#[inline(always)]
fn act(mut judgement: Judgement) -> u32 {
    let action = action(judgement.verdict);
    record::count_exit(judgement.exit);
    record::record(&mut judgement.event);
    action
}

#[inline(always)]
const fn action(verdict: Verdict) -> u32 {
    match verdict {
        Verdict::Block => XDP_DROP,
        Verdict::Log | Verdict::Allow | Verdict::Exempt => XDP_PASS,
    }
}
