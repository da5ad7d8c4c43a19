//! The entry points.

use aya_ebpf::{
    bindings::{
        tcx_action_base::{TCX_DROP, TCX_NEXT},
        xdp_action::{XDP_DROP, XDP_PASS, XDP_TX},
    },
    macros::{classifier, xdp},
    programs::{TcContext, XdpContext},
};
use interdict_ebpf_program::{
    lan::{self, Outbound},
    query::{self, Aim},
    verdict::{self, Judgement, Policy as _},
    wan,
};
use interdict_ebpf_shared::{
    contact::Hook,
    count::Exit,
    policy::{Decision, Verdict},
    query::{DIVERT_OR_DROP, DIVERT_OR_PASS},
};

use crate::{
    divert::{self, Diversion, OPENS, STREAM},
    generation::{Generation, agent_lives, is_ours, judges_queries},
    packet::Packet,
    record,
    resolver::{self, Segment, Step},
    scratch::Place,
};

/// On an interface towards our clients.
#[xdp(frags)]
fn interdict_lan(ctx: XdpContext) -> u32 {
    let (Some(generation), Some(place)) = (Generation::live(), Place::here()) else {
        return pass(Exit::NoPolicy);
    };
    let outbound = match read(&ctx, place) {
        Ok(outbound) => outbound,
        // No network has so many tags; Linux looks behind them all the same.
        Err(Exit::VlanDepth) => return leave(Exit::VlanDepth, XDP_DROP),
        Err(exit) => return pass(exit),
    };
    let aim = if judges_queries() { query::aim(&outbound.transport) } else { Aim::Other };
    let step = match aim {
        Aim::Plain => match judge_query(&ctx, &generation, outbound, place) {
            Step::Answer => resolver::answer(&ctx, &generation, outbound, place),
            Step::Odd => Step::AgentOrDrop,
            step => step,
        },
        Aim::Stream | Aim::Encrypted | Aim::Other => Step::Nothing,
    };
    match step {
        Step::Answered => return leave(Exit::QueryAnswered, XDP_TX),
        Step::Dropped(exit) => return leave(exit, XDP_DROP),
        _ => {}
    }
    let segment = match aim {
        Aim::Stream => resolver::judge_segment(&ctx, &generation, outbound, place),
        _ => Segment::Broken,
    };
    let exit = match generation.may_concern(outbound.ip.version(), outbound.remote) {
        true => match judge_address(&ctx, &generation, outbound) {
            Ok(exit) => exit,
            Err(exit) => return leave(exit, XDP_DROP),
        },
        false => Exit::NoMatch,
    };
    match aim {
        Aim::Other => match (outbound.transport.unread, exit) {
            (Some(Exit::HeaderChainUnjudged), Exit::NoMatch | Exit::HeaderChainUnjudged) => {
                hidden(&generation, outbound, exit)
            }
            _ => pass(exit),
        },
        _ => resolve(&ctx, &generation, outbound, &Resolving { aim, step, segment, exit }),
    }
}

/// Judges a UDP datagram for port 53.
#[inline(always)]
fn judge_query(ctx: &XdpContext, generation: &Generation, outbound: &Outbound, place: Place) -> Step {
    match resolver::judge(ctx, generation, outbound, place) {
        Step::Unread => resolver::judge_copy(ctx, generation, outbound, place),
        step => step,
    }
}

/// A packet to an address that no rule decides, which hides what it carries.
#[inline(never)]
fn hidden(generation: &Generation, outbound: &Outbound, exit: Exit) -> u32 {
    match generation.is_safe(outbound.ip.version(), outbound.remote) {
        true => pass(exit),
        false => leave(Exit::HeaderChainUnjudged, XDP_DROP),
    }
}

/// Judges the address that a packet is sent to, and records it if a rule matches: the exit by which it passes, or by
/// which it is dropped.
///
/// Not inlined, as all that is below: each has a part of the stack while it runs, and the others have it after.
#[inline(never)]
fn judge_address(ctx: &XdpContext, generation: &Generation, outbound: &Outbound) -> Result<Exit, Exit> {
    match lan::judge(&Packet::new(ctx), generation, outbound) {
        Ok(mut judgement) => {
            record::record(&mut judgement.event);
            match judgement.verdict {
                Verdict::Block => Err(judgement.exit),
                Verdict::Log | Verdict::Allow | Verdict::Exempt => Ok(judgement.exit),
            }
        }
        Err(exit) => Ok(exit),
    }
}

/// A packet for a resolver that its address does not stop.
struct Resolving {
    aim: Aim,
    step: Step,
    /// What it is if it is of a stream.
    segment: Segment,
    /// The exit by which it would leave without us.
    exit: Exit,
}

/// What becomes of a packet for a resolver.
#[inline(never)]
fn resolve(ctx: &XdpContext, generation: &Generation, outbound: &Outbound, resolving: &Resolving) -> u32 {
    let Resolving { aim, step, segment, exit } = *resolving;
    let egress = generation.egress();
    let is_resolver = |address| egress.resolvers != 0 && generation.is_resolver(address);
    let is_ours = is_ours(outbound.remote) || is_resolver(outbound.remote) || is_resolver(outbound.client);
    if is_ours {
        return match step {
            Step::Agent | Step::AgentOrDrop if aim == Aim::Plain => hand_up(step),
            _ => pass(exit),
        };
    }
    // Of a later fragment not even the port is known; a first one is enough to stop the whole.
    if outbound.transport.fragment {
        return leave(Exit::QueryFragment, XDP_DROP);
    }
    match (aim, step) {
        (Aim::Encrypted, _) => egress_verdict(ctx, generation, outbound, egress.encrypted, exit),
        (_, Step::Opcode) => pass(Exit::QueryOpcode),
        (_, Step::Unlisted) if egress.redirect != 0 => divert_query(ctx, outbound, Step::Agent),
        (_, Step::Unlisted) => egress_verdict(ctx, generation, outbound, egress.plain, exit),
        (Aim::Plain, Step::Agent | Step::AgentOrDrop) => divert_query(ctx, outbound, step),
        (Aim::Stream, _) => divert_segment(ctx, outbound, segment),
        _ => pass(exit),
    }
}

/// A question to us that is left to the agent.
#[inline(always)]
fn hand_up(step: Step) -> u32 {
    match (agent_lives(), step) {
        (true, _) => pass(Exit::QueryHandedUp),
        (false, Step::AgentOrDrop) => leave(Exit::AgentDeadDropped, XDP_DROP),
        (false, _) => pass(Exit::AgentDeadPassed),
    }
}

/// A question to another resolver that is left to the agent.
#[inline(always)]
fn divert_query(ctx: &XdpContext, outbound: &Outbound, step: Step) -> u32 {
    let or_drop = step == Step::AgentOrDrop;
    match (agent_lives(), or_drop) {
        (true, _) => {
            let kind = if or_drop { DIVERT_OR_DROP } else { DIVERT_OR_PASS };
            divert(ctx, outbound, kind, Exit::QueryDiverted)
        }
        (false, true) => leave(Exit::AgentDeadDropped, XDP_DROP),
        (false, false) => pass(Exit::AgentDeadPassed),
    }
}

/// A segment of a TCP connection to another resolver, which the agent takes over if it opens one.
#[inline(always)]
fn divert_segment(ctx: &XdpContext, outbound: &Outbound, segment: Segment) -> u32 {
    let kind = match segment {
        Segment::Broken => return leave(Exit::QueryFragment, XDP_DROP),
        Segment::MayPass => return pass(Exit::AgentDeadPassed),
        Segment::MayNot => return leave(Exit::AgentDeadDropped, XDP_DROP),
        Segment::Opening => OPENS | DIVERT_OR_DROP,
        // If the connection was there before the agent, nobody judges what is said on it: it is reset.
        Segment::Bare => DIVERT_OR_PASS,
        Segment::WithData => DIVERT_OR_DROP,
    };
    divert(ctx, outbound, STREAM | kind, Exit::StreamDiverted)
}

#[inline(always)]
fn divert(ctx: &XdpContext, outbound: &Outbound, kind: u32, exit: Exit) -> u32 {
    if divert::note(ctx, outbound, kind) { pass(exit) } else { leave(Exit::QueryNoRoom, XDP_DROP) }
}

/// What `[egress_dns]` makes of a packet.
#[inline(always)]
fn egress_verdict(
    ctx: &XdpContext,
    generation: &Generation,
    outbound: &Outbound,
    decision: Decision,
    exit: Exit,
) -> u32 {
    let Some(verdict) = decision.state.verdict() else {
        return pass(exit);
    };
    let mut event = verdict::event(
        &Packet::new(ctx),
        generation,
        &verdict::Packet {
            hook: Hook::Lan,
            client: Some(outbound.client),
            remote: outbound.remote,
            port: outbound.transport.destination,
            transport: outbound.transport,
        },
        decision.rule,
        verdict,
    );
    record::record(&mut event);
    match verdict {
        Verdict::Block => leave(Exit::EgressBlocked, XDP_DROP),
        _ => pass(Exit::EgressLogged),
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

/// Behind the XDP program on an interface towards our clients: takes the packets that it noted to the agent.
#[classifier]
fn interdict_divert(ctx: TcContext) -> i32 {
    match divert::follow(&ctx) {
        Diversion::Next => TCX_NEXT,
        Diversion::Drop => TCX_DROP,
    }
}

/// Tells what the staged policy would do with a packet, and does nothing else.
///
/// The loader runs it through `BPF_PROG_TEST_RUN`, which hands the packet back: its first bytes are then the answer.
#[xdp(frags)]
fn interdict_selftest(ctx: XdpContext) -> u32 {
    let answer = match (Generation::staged(), Place::here()) {
        (Some(generation), Some(place)) => match read(&ctx, place) {
            Ok(outbound) => {
                let aim = query::aim(&outbound.transport);
                let step = match aim {
                    Aim::Plain => judge_query(&ctx, &generation, outbound, place),
                    _ => Step::Nothing,
                };
                match (aim, step) {
                    (Aim::Plain, Step::Nothing | Step::Opcode | Step::Unlisted) => {
                        [Exit::NoMatch as u32, 0, 0]
                    }
                    (Aim::Plain, Step::Answer) => {
                        let rule = place.asked().entry.rule();
                        [Exit::QueryAnswered as u32, Verdict::Block.code(), rule]
                    }
                    (Aim::Plain, Step::Agent | Step::AgentOrDrop) => [Exit::QueryHandedUp as u32, 0, 0],
                    _ => try_address(&ctx, &generation, outbound),
                }
            }
            Err(exit) => [exit as u32, 0, 0],
        },
        _ => [Exit::NoPolicy as u32, 0, 0],
    };
    Packet::new(&ctx).answer(answer);
    XDP_PASS
}

/// Reads the headers of a packet into the scratch memory.
#[inline(never)]
fn read<'p>(ctx: &XdpContext, place: Place) -> Result<&'p Outbound, Exit> {
    lan::read(&Packet::new(ctx)).map(|outbound| place.keep(outbound))
}

#[inline(never)]
fn try_address(ctx: &XdpContext, generation: &Generation, outbound: &Outbound) -> [u32; 3] {
    match lan::judge(&Packet::new(ctx), generation, outbound) {
        Ok(Judgement { exit, verdict, event }) => [exit as u32, verdict.code(), event.contact.rule],
        Err(exit) => [exit as u32, 0, 0],
    }
}

#[inline(always)]
fn pass(exit: Exit) -> u32 {
    leave(exit, XDP_PASS)
}

#[inline(always)]
fn leave(exit: Exit, action: u32) -> u32 {
    record::count_exit(exit);
    action
}

#[inline(always)]
fn act(mut judgement: Judgement) -> u32 {
    let action = match judgement.verdict {
        Verdict::Block => XDP_DROP,
        Verdict::Log | Verdict::Allow | Verdict::Exempt => XDP_PASS,
    };
    record::record(&mut judgement.event);
    leave(judgement.exit, action)
}
