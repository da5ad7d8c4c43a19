//! The entry points.

use aya_ebpf::{
    bindings::{
        tcx_action_base::{TCX_DROP, TCX_NEXT},
        xdp_action::{XDP_DROP, XDP_PASS, XDP_TX},
    },
    macros::{cgroup_sock_addr, classifier, xdp},
    programs::{SockAddrContext, TcContext, XdpContext},
};
use interdict_ebpf_program::{
    frame::Frame,
    ip::Version,
    lan::{self, Outbound},
    plain,
    query::{self, Aim},
    transport,
    verdict::{self, Judgement, Policy as _},
    wan,
};
use interdict_ebpf_shared::{
    contact::Hook,
    count::{Exit, Unjudged},
    policy::{Decision, Verdict},
    query::{DIVERT_OR_DROP, DIVERT_OR_PASS, OWN_MARK},
};

use crate::{
    calls, clock,
    divert::{self, Diversion, OPENS, STREAM},
    fate::{Fate, Step},
    flows,
    generation::{Generation, agent_lives, is_ours, is_served, judges_queries},
    hello, notice,
    packet::Packet,
    record,
    resolver::{self, Segment, Work},
    scratch::Place,
    skb::{INGRESS_IFINDEX, MARK, Skb, field},
};

/// On an interface towards our clients.
#[xdp(frags)]
fn interdict_lan(ctx: XdpContext) -> u32 {
    let Some(generation) = Generation::live() else {
        return pass(Exit::NoPolicy);
    };
    let packet = Packet::new(&ctx);
    let read = match plain::read(&packet) {
        Some(outbound)
            if plain::is_all_address(&packet, &outbound)
                && !generation.may_concern(outbound.ip.version(), outbound.remote) =>
        {
            return pass(Exit::NoMatch);
        }
        Some(outbound) => Place::here().map(|place| (place, Ok(place.keep(outbound)))),
        None => Place::here().map(|place| (place, read_odd(&ctx, place))),
    };
    let Some((place, outbound)) = read else {
        return pass(Exit::NoPolicy);
    };
    let outbound = match outbound {
        Ok(outbound) => outbound,
        // No network has so many tags; Linux looks behind them all the same.
        Err(Exit::VlanDepth) => {
            record::count_unjudged(Unjudged::VlanDepth);
            return leave(Exit::VlanDepth, XDP_DROP);
        }
        Err(exit) => return pass(exit),
    };
    let aim = if judges_queries() { query::aim(&outbound.transport) } else { Aim::Other };
    let step = match aim {
        Aim::Plain => judge_query(&ctx, &generation, outbound, place),
        Aim::Stream | Aim::Encrypted | Aim::Hello | Aim::Other => Step::Nothing,
    };
    match step {
        Step::Answered => return leave(Exit::QueryAnswered, XDP_TX),
        Step::Dropped(exit) => return leave(exit, XDP_DROP),
        // Most names, and what all that is below would come to.
        Step::Unlisted
            if generation.egress().lets_unlisted_pass()
                && !generation.may_concern(outbound.ip.version(), outbound.remote) =>
        {
            return pass(Exit::NoMatch);
        }
        _ => {}
    }
    let segment = match aim {
        Aim::Stream => resolver::judge_segment(&ctx, &generation, outbound, place),
        _ => Segment::Broken,
    };
    let fate = judge_address(&generation, outbound, place);
    if is_recorded(&fate) {
        keep_event(&ctx, &generation, outbound, place, place.handed_over());
        record::record(place.event());
    }
    let exit = match fate {
        Fate::Pass(exit) => exit,
        // The address alone is never left open.
        Fate::Unjudged(_) => Exit::NoMatch,
        Fate::LetThrough(exit) => {
            flows::went_out(place.event(), [0; 2]);
            exit
        }
        Fate::Drop(exit) => return leave(exit, XDP_DROP),
        Fate::Reject => return reject(&ctx, outbound, place),
    };
    let action = match aim {
        Aim::Hello => match hello::judge(&ctx, &generation, outbound, place) {
            Fate::Pass(_) => {
                if generation.follows_names() {
                    flows::went_on(&Packet::new(&ctx), outbound);
                }
                pass(exit)
            }
            Fate::Unjudged(what) => {
                unjudged(&ctx, &generation, outbound, place, place.hand_over((what, exit)))
            }
            Fate::LetThrough(by_name) => {
                hello::record(place);
                // What the address lets through is followed by that.
                if !exit.lets_through() {
                    flows::went_out(place.event(), outbound.transport.source);
                    generation.follow(outbound.remote);
                }
                pass(by_name)
            }
            Fate::Drop(exit) => {
                hello::record(place);
                leave(exit, XDP_DROP)
            }
            Fate::Reject => {
                hello::record(place);
                leave(Exit::TlsBlocked, TELL)
            }
        },
        Aim::Other => match (outbound.transport.unread, exit) {
            (Some(Exit::HeaderChainUnjudged), Exit::NoMatch | Exit::HeaderChainUnjudged) => {
                record::count_unjudged(Unjudged::HeaderChain);
                hidden(&generation, outbound, exit)
            }
            (_, exit) => match what_is_unjudged(outbound, exit) {
                Some(what) => unjudged(&ctx, &generation, outbound, place, place.hand_over((what, exit))),
                None => pass(exit),
            },
        },
        _ => resolve(
            &ctx,
            &generation,
            outbound,
            place,
            place.hand_over(Resolving { aim, step, segment, exit }),
        ),
    };
    match action {
        TELL => match notice::send_back(&ctx, outbound, place) {
            Exit::Rejected => XDP_TX,
            _ => XDP_DROP,
        },
        action => action,
    }
}

/// Judges a UDP datagram for port 53, and answers it if it is to be answered.
#[inline(always)]
fn judge_query(ctx: &XdpContext, generation: &Generation, outbound: &Outbound, place: Place) -> Step {
    match resolver::question(ctx, generation, outbound, place, Work::JudgeAndAnswer) {
        Step::Odd => Step::AgentOrDrop,
        Step::Unread => match resolver::judge_copy(ctx, generation, outbound, place) {
            Step::Answer => resolver::question(ctx, generation, outbound, place, Work::Answer),
            step => step,
        },
        step => step,
    }
}

/// What could not be judged of a packet that leaves by this exit, if anything.
#[inline(always)]
fn what_is_unjudged(outbound: &Outbound, exit: Exit) -> Option<Unjudged> {
    match exit {
        // Of a tunnel to a port that no rule is about, neither.
        Exit::NoMatch | Exit::NoMatchingPort
            if transport::is_tunnel(&outbound.transport) && !is_ours(outbound.remote) =>
        {
            Some(Unjudged::Tunnel)
        }
        exit => what_is_hidden(exit),
    }
}

/// What a packet hid that leaves by this exit, if anything.
#[inline(always)]
const fn what_is_hidden(exit: Exit) -> Option<Unjudged> {
    match exit {
        Exit::FragmentUnjudged => Some(Unjudged::Fragment),
        Exit::HeaderChainUnjudged => Some(Unjudged::HeaderChain),
        Exit::TruncatedUnjudged => Some(Unjudged::Truncated),
        _ => None,
    }
}

/// A packet of which something could not be judged: it is counted, and passes unless the policy refuses that. An action of
/// XDP's, or [`TELL`].
#[inline(never)]
fn unjudged(
    ctx: &XdpContext,
    generation: &Generation,
    outbound: &Outbound,
    place: Place,
    &(what, exit): &(Unjudged, Exit),
) -> u32 {
    record::count_unjudged(what);
    let Decision { rule, state } = generation.egress().unjudged;
    let is_refused = state.verdict() == Some(Verdict::Block);
    if !is_refused || generation.is_safe(outbound.ip.version(), outbound.remote) {
        return pass(exit);
    }
    keep_event(ctx, generation, outbound, place, place.hand_over((rule, Verdict::Block)));
    record::record(place.event());
    leave(Exit::UnjudgedBlocked, TELL)
}

/// Puts the record of a packet into the scratch memory: by which rule, and how.
#[inline(never)]
fn keep_event(
    ctx: &XdpContext,
    generation: &Generation,
    outbound: &Outbound,
    place: Place,
    &(rule, verdict): &(u32, Verdict),
) {
    let event = lan::event(&Packet::new(ctx), generation, Hook::Lan, outbound, rule, verdict);
    place.keep_event(event);
}

/// As [`keep_event`], of a packet of this machine's.
#[inline(never)]
fn keep_own_event(
    ctx: &TcContext,
    generation: &Generation,
    outbound: &Outbound,
    place: Place,
    &(rule, verdict): &(u32, Verdict),
) {
    let event = lan::event(&Skb::new(ctx), generation, Hook::HostOut, outbound, rule, verdict);
    place.keep_event(event);
}

/// A packet to an address that no rule decides, which hides what it carries.
#[inline(never)]
fn hidden(generation: &Generation, outbound: &Outbound, exit: Exit) -> u32 {
    match generation.is_safe(outbound.ip.version(), outbound.remote) {
        true => pass(exit),
        false => leave(Exit::HeaderChainUnjudged, XDP_DROP),
    }
}

/// Whether a rule decided a packet's fate.
#[inline(always)]
const fn is_recorded(fate: &Fate) -> bool {
    !matches!(fate, Fate::Pass(_) | Fate::Unjudged(_))
}

/// The same, recorded if a rule decided it: the record is in the scratch memory.
#[inline(always)]
fn recorded(fate: Fate, place: Place) -> Fate {
    if is_recorded(&fate) {
        record::record(place.event());
    }
    fate
}

/// Judges the address that a packet is sent to. If a rule matches, it is handed over, with its verdict.
///
/// Not inlined, as all that is below: each has a part of the stack while it runs, and the others have it after.
#[inline(never)]
fn judge_address(generation: &Generation, outbound: &Outbound, place: Place) -> Fate {
    if !generation.may_concern(outbound.ip.version(), outbound.remote) {
        return Fate::Pass(Exit::NoMatch);
    }
    match lan::judge(generation, Hook::Lan, outbound) {
        Ok(Judgement { exit, verdict, rule, state }) => {
            place.hand_over((rule, verdict));
            match verdict {
                Verdict::Block if state.rejects() => Fate::Reject,
                Verdict::Block => Fate::Drop(exit),
                Verdict::Log | Verdict::Allow | Verdict::Exempt => Fate::LetThrough(exit),
            }
        }
        Err(exit) => Fate::Pass(exit),
    }
}

/// Drops a packet, and tells its sender if that can be done.
#[inline(always)]
fn reject(ctx: &XdpContext, outbound: &Outbound, place: Place) -> u32 {
    match notice::send_back(ctx, outbound, place) {
        Exit::Rejected => leave(Exit::Rejected, XDP_TX),
        exit => leave(exit, XDP_DROP),
    }
}

/// A packet for a resolver that its address does not stop.
#[derive(Clone, Copy)]
struct Resolving {
    aim: Aim,
    step: Step,
    /// What it is if it is of a stream.
    segment: Segment,
    /// The exit by which it would leave without us.
    exit: Exit,
}

/// What XDP does with a packet that is dropped and whose sender is told: no action of XDP's.
const TELL: u32 = u32::MAX;

/// What becomes of a packet for a resolver: an action of XDP's, or [`TELL`].
#[inline(never)]
fn resolve(
    ctx: &XdpContext,
    generation: &Generation,
    outbound: &Outbound,
    place: Place,
    resolving: &Resolving,
) -> u32 {
    let Resolving { aim, step, segment, exit } = *resolving;
    let egress = generation.egress();
    let is_resolver = |address| egress.resolvers != 0 && generation.is_resolver(address);
    // A resolver of this machine that is not the agent is one like those elsewhere, as far as questions go.
    let is_here = match aim {
        Aim::Encrypted => is_ours(outbound.remote),
        _ => is_served(outbound.remote),
    };
    if is_here || is_resolver(outbound.remote) || is_resolver(outbound.client) {
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
        (Aim::Encrypted, _) => {
            record::count_unjudged(Unjudged::EncryptedDns);
            // A rule about the address itself goes before one about a port of every address.
            match exit {
                Exit::NoMatch | Exit::NoMatchingPort
                    if !generation.is_safe(outbound.ip.version(), outbound.remote) =>
                {
                    egress_verdict(ctx, generation, outbound, place, egress.encrypted, exit)
                }
                exit => pass(exit),
            }
        }
        (_, Step::Opcode) => pass(Exit::QueryOpcode),
        (_, Step::Unlisted) if egress.redirect != 0 => divert_query(ctx, outbound, Step::Agent),
        (_, Step::Unlisted) => egress_verdict(ctx, generation, outbound, place, egress.plain, exit),
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
    place: Place,
    decision: Decision,
    exit: Exit,
) -> u32 {
    let Some(verdict) = decision.state.verdict() else {
        return pass(exit);
    };
    keep_event(ctx, generation, outbound, place, place.hand_over((decision.rule, verdict)));
    record::record(place.event());
    match verdict {
        Verdict::Block if decision.state.rejects() => leave(Exit::EgressBlocked, TELL),
        Verdict::Block => leave(Exit::EgressBlocked, XDP_DROP),
        _ => pass(Exit::EgressLogged),
    }
}

/// On an interface towards the outside.
#[xdp(frags)]
fn interdict_wan(ctx: XdpContext) -> u32 {
    let (Some(generation), Some(place)) = (Generation::live(), Place::here()) else {
        return pass(Exit::NoPolicy);
    };
    match read(&ctx, place) {
        Ok(inbound) if is_about_what_was_let_out(&ctx, &generation, inbound) => pass(Exit::WanAnswer),
        Ok(inbound) => match recorded(judge_inbound(&ctx, &generation, inbound, place), place) {
            Fate::Drop(exit) => leave(exit, XDP_DROP),
            Fate::Pass(exit) | Fate::LetThrough(exit) => pass(exit),
            Fate::Unjudged(_) => pass(Exit::NoMatch),
            // Who is outside is told nothing.
            Fate::Reject => leave(Exit::Blocked, XDP_DROP),
        },
        Err(Exit::VlanDepth) => {
            record::count_unjudged(Unjudged::VlanDepth);
            leave(Exit::VlanDepth, XDP_DROP)
        }
        Err(exit) => pass(exit),
    }
}

#[inline(never)]
fn is_about_what_was_let_out(ctx: &XdpContext, generation: &Generation, inbound: &Outbound) -> bool {
    wan::is_about_what_was_let_out(&Packet::new(ctx), generation, inbound)
}

#[inline(never)]
fn is_about_what_was_let_out_skb(ctx: &TcContext, generation: &Generation, inbound: &Outbound) -> bool {
    wan::is_about_what_was_let_out(&Skb::new(ctx), generation, inbound)
}

/// Judges a packet from the outside. If a rule matches, the record is in the scratch memory.
#[inline(never)]
fn judge_inbound(ctx: &XdpContext, generation: &Generation, inbound: &Outbound, place: Place) -> Fate {
    inbound_fate(&Packet::new(ctx), generation, Hook::Wan, inbound, place)
}

/// As [`judge_inbound`].
#[inline(never)]
fn judge_inbound_skb(ctx: &TcContext, generation: &Generation, inbound: &Outbound, place: Place) -> Fate {
    inbound_fate(&Skb::new(ctx), generation, Hook::HostIn, inbound, place)
}

#[inline(always)]
fn inbound_fate<F: Frame>(
    frame: &F,
    generation: &Generation,
    hook: Hook,
    inbound: &Outbound,
    place: Place,
) -> Fate {
    if !generation.may_concern(inbound.ip.version(), inbound.client) {
        return Fate::Pass(Exit::NoMatch);
    }
    match wan::judge(frame, generation, hook, inbound) {
        Ok(Judgement { exit, verdict, rule, .. }) => {
            place.keep_event(wan::event(frame, generation, hook, inbound, rule, verdict));
            match verdict {
                Verdict::Block => Fate::Drop(exit),
                Verdict::Log | Verdict::Allow | Verdict::Exempt => Fate::LetThrough(exit),
            }
        }
        Err(exit) => {
            if let Some(what) = what_is_hidden(exit) {
                record::count_unjudged(what);
            }
            Fate::Pass(exit)
        }
    }
}

/// What leaves on an interface towards the outside: where something banned is let out to, answers may come from.
#[classifier]
fn interdict_wan_out(ctx: TcContext) -> i32 {
    let (Some(generation), Some(place)) = (Generation::live(), Place::here()) else {
        return TCX_NEXT;
    };
    if let Ok(outbound) = read_skb(&ctx, place) {
        note_let_out(&generation, outbound);
    }
    TCX_NEXT
}

/// Notes a packet to where something banned is.
#[inline(never)]
fn note_let_out(generation: &Generation, outbound: &Outbound) {
    let version = outbound.ip.version();
    if generation.may_concern(version, outbound.remote)
        && verdict::look_up(generation, version, None, outbound.remote).is_ok()
    {
        flows::let_out(outbound);
    }
}

/// What leaves towards our clients: whether what they were let out to answers.
#[classifier]
fn interdict_lan_out(ctx: TcContext) -> i32 {
    if let (Some(generation), Some(place)) = (Generation::live(), Place::here())
        && let Ok(inbound) = read_skb(&ctx, place)
        && generation.may_concern(inbound.ip.version(), inbound.client)
    {
        came_back(&ctx, inbound);
    }
    TCX_NEXT
}

#[inline(never)]
fn came_back(ctx: &TcContext, inbound: &Outbound) {
    flows::came_back(&Skb::new(ctx), inbound, Hook::Lan);
}

/// As [`came_back`], to this machine itself.
#[inline(never)]
fn came_back_here(ctx: &TcContext, inbound: &Outbound) {
    flows::came_back(&Skb::new(ctx), inbound, Hook::HostOut);
}

/// What this machine itself sends.
#[classifier]
fn interdict_host_out(ctx: TcContext) -> i32 {
    let (Some(generation), Some(place)) = (Generation::live(), Place::here()) else {
        return next(Exit::NoPolicy);
    };
    let came_from = field::<INGRESS_IFINDEX>(&ctx);
    if field::<MARK>(&ctx) == OWN_MARK as usize {
        return next(Exit::HostOwn);
    }
    match read_skb(&ctx, place) {
        Ok(outbound) if !generation.may_concern(outbound.ip.version(), outbound.remote) => {
            next(Exit::NoMatch)
        }
        Ok(outbound) if came_from != 0 => {
            note_let_out(&generation, outbound);
            next(Exit::HostForwarded)
        }
        Ok(outbound) => match own_fate(&ctx, &generation, outbound, place) {
            Fate::Pass(exit) => next(exit),
            Fate::Unjudged(_) => next(Exit::NoMatch),
            Fate::LetThrough(exit) => {
                flows::went_out(place.event(), [0; 2]);
                flows::let_out(outbound);
                next(exit)
            }
            // A process is told by its call.
            Fate::Drop(exit) => drop_skb(exit),
            Fate::Reject => drop_skb(Exit::Blocked),
        },
        Err(exit) => next(exit),
    }
}

/// Judges a packet of this machine's, and records it.
#[inline(always)]
fn own_fate(ctx: &TcContext, generation: &Generation, outbound: &Outbound, place: Place) -> Fate {
    let fate = judge_own(generation, outbound, place);
    if is_recorded(&fate) {
        keep_own_event(ctx, generation, outbound, place, place.handed_over());
        record::record(place.event());
    }
    fate
}

/// As [`judge_address`].
#[inline(never)]
fn judge_own(generation: &Generation, outbound: &Outbound, place: Place) -> Fate {
    match lan::judge(generation, Hook::HostOut, outbound) {
        Ok(Judgement { exit, verdict, rule, .. }) => {
            place.hand_over((rule, verdict));
            match verdict {
                Verdict::Block => Fate::Drop(exit),
                Verdict::Log | Verdict::Allow | Verdict::Exempt => Fate::LetThrough(exit),
            }
        }
        Err(exit) => Fate::Pass(exit),
    }
}

/// What this machine itself receives.
#[classifier]
fn interdict_host_in(ctx: TcContext) -> i32 {
    let (Some(generation), Some(place)) = (Generation::live(), Place::here()) else {
        return next(Exit::NoPolicy);
    };
    match read_skb(&ctx, place) {
        Ok(inbound) if is_about_what_was_let_out_skb(&ctx, &generation, inbound) => next(Exit::WanAnswer),
        Ok(inbound) => match recorded(judge_inbound_skb(&ctx, &generation, inbound, place), place) {
            Fate::Pass(Exit::NoMatch) => next(Exit::NoMatch),
            Fate::Pass(exit) | Fate::LetThrough(exit) => {
                came_back_here(&ctx, inbound);
                next(exit)
            }
            Fate::Unjudged(_) => next(Exit::NoMatch),
            Fate::Drop(exit) => drop_skb(exit),
            Fate::Reject => drop_skb(Exit::Blocked),
        },
        Err(exit) => next(exit),
    }
}

#[inline(always)]
fn next(exit: Exit) -> i32 {
    record::count_exit(exit);
    TCX_NEXT
}

#[inline(always)]
fn drop_skb(exit: Exit) -> i32 {
    record::count_exit(exit);
    TCX_DROP
}

/// As [`read`].
#[inline(never)]
fn read_skb<'p>(ctx: &TcContext, place: Place) -> Result<&'p Outbound, Exit> {
    lan::read(&Skb::new(ctx)).map(|outbound| place.keep(outbound))
}

/// A local process connects.
#[cgroup_sock_addr(connect4)]
fn interdict_connect4(ctx: SockAddrContext) -> i32 {
    calls::judge(ctx.sock_addr, Version::V4, Hook::Connect)
}

/// As [`interdict_connect4`], over IPv6.
#[cgroup_sock_addr(connect6)]
fn interdict_connect6(ctx: SockAddrContext) -> i32 {
    calls::judge(ctx.sock_addr, Version::V6, Hook::Connect)
}

/// A local process sends without connecting.
#[cgroup_sock_addr(sendmsg4)]
fn interdict_sendmsg4(ctx: SockAddrContext) -> i32 {
    calls::judge(ctx.sock_addr, Version::V4, Hook::Send)
}

/// As [`interdict_sendmsg4`], over IPv6.
#[cgroup_sock_addr(sendmsg6)]
fn interdict_sendmsg6(ctx: SockAddrContext) -> i32 {
    calls::judge(ctx.sock_addr, Version::V6, Hook::Send)
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
                    Aim::Plain => match resolver::question(&ctx, &generation, outbound, place, Work::Judge) {
                        Step::Unread => resolver::judge_copy(&ctx, &generation, outbound, place),
                        step => step,
                    },
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
                    _ => try_address(&generation, outbound),
                }
            }
            Err(exit) => [exit as u32, 0, 0],
        },
        _ => [Exit::NoPolicy as u32, 0, 0],
    };
    Packet::new(&ctx).answer(answer);
    XDP_PASS
}

/// Tells the number of the kernel's last tick, and when it was. The loader runs it likewise.
#[xdp(frags)]
fn interdict_clock(ctx: XdpContext) -> u32 {
    Packet::new(&ctx).answer(clock::last_tick());
    XDP_PASS
}

/// Reads the headers of a packet into the scratch memory.
#[inline(always)]
fn read<'p>(ctx: &XdpContext, place: Place) -> Result<&'p Outbound, Exit> {
    match plain::read(&Packet::new(ctx)) {
        Some(outbound) => Ok(place.keep(outbound)),
        None => read_odd(ctx, place),
    }
}

/// Reads the headers of a packet that is not plain into the scratch memory.
#[inline(never)]
fn read_odd<'p>(ctx: &XdpContext, place: Place) -> Result<&'p Outbound, Exit> {
    lan::read(&Packet::new(ctx)).map(|outbound| place.keep(outbound))
}

#[inline(never)]
fn try_address(generation: &Generation, outbound: &Outbound) -> [u32; 3] {
    match lan::judge(generation, Hook::Lan, outbound) {
        Ok(Judgement { exit, verdict, rule, .. }) => [exit as u32, verdict.code(), rule],
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
