//! Judging the server's name in a TLS ClientHello.

use aya_ebpf::programs::XdpContext;
use interdict_dns_wire::{Bytes, Round};
use interdict_ebpf_program::{
    lan::{self, Outbound},
    tls::{self, Hello, Kind},
    transport::TCP_URG,
    verdict::Policy as _,
};
use interdict_ebpf_shared::{
    contact::Hook,
    count::{Exit, Unjudged},
    policy::{Decision, Verdict},
};

use crate::{
    fate::Fate,
    generation::Generation,
    packet::Packet,
    record, resolver,
    scratch::{Place, forgotten, in_the_kernel, masked},
    unaligned::load_at,
};

/// The data of a TCP segment in the driver's memory. What lies beyond the driver's first buffer reads as zero.
struct Data<'c> {
    ctx: &'c XdpContext,
    /// Where they begin.
    at: usize,
}

/// Frames end before this, and so do the headers in them.
const PLACE_MASK: usize = 0x3fff;

impl Bytes for Data<'_> {
    #[inline(always)]
    fn get<const N: usize>(&self, at: usize) -> [u8; N] {
        let start = self.ctx.data() + masked::<PLACE_MASK>(self.at + at);
        if start + N > self.ctx.data_end() {
            // Zero, of which the verifier knows no more than of what a packet holds: it goes on from here once.
            return [forgotten(0) as u8; N];
        }
        // SAFETY: the N bytes from `start` on lie inside the packet, as just checked.
        unsafe { load_at::<0, N>(start) }
    }

    #[inline(always)]
    fn forget(number: usize) -> usize {
        forgotten(number)
    }

    #[inline(always)]
    fn repeat<R: Round>(limit: usize, work: &mut R) -> Option<usize> {
        in_the_kernel(limit, work)
    }
}

/// Judges a segment for the port of HTTPS: what is to become of it by its server's name. What is to be recorded is in the
/// scratch memory then. [`Exit::NoMatch`] where the name says nothing.
#[inline(never)]
pub(crate) fn judge(ctx: &XdpContext, generation: &Generation, outbound: &Outbound, place: Place) -> Fate {
    // The rest is in other parts, which nobody puts together here.
    if outbound.transport.fragment {
        return Fate::Unjudged(Unjudged::TlsSplit);
    }
    let hello = place.hello();
    read(ctx, outbound, hello);
    // Browsers say so in every ClientHello, whether it is true or not (RFC 9849, "GREASE"): it is counted, and no more.
    if hello.encrypted {
        record::count_unjudged(Unjudged::TlsEncrypted);
    }
    match hello.kind {
        Kind::Other => Fate::Pass(Exit::NoMatch),
        Kind::Unnamed => Fate::Unjudged(Unjudged::TlsUnnamed),
        Kind::Split => Fate::Unjudged(Unjudged::TlsSplit),
        Kind::Named if write(ctx, outbound, place) => name(ctx, generation, outbound, place),
        Kind::Named => Fate::Unjudged(Unjudged::TlsName),
    }
}

#[inline(never)]
fn read(ctx: &XdpContext, outbound: &Outbound, hello: &mut Hello) {
    let Some((flags, at, bytes)) = resolver::data(ctx, outbound) else {
        hello.kind = Kind::Other;
        hello.encrypted = false;
        return;
    };
    // The receiver takes the urgent byte out of the data, wherever it is (RFC 6093, §3.1).
    if flags & TCP_URG != 0 && bytes != 0 {
        hello.kind = Kind::Split;
        hello.encrypted = false;
        return;
    }
    let at = masked::<PLACE_MASK>(at);
    let there = (ctx.data_end() - ctx.data()).wrapping_sub(at);
    let bytes = if bytes < there { bytes } else { there };
    *hello = match bytes {
        0 => Hello::NONE,
        bytes => tls::read(&Data { ctx, at }, forgotten(bytes)),
    };
}

/// Writes the name into the scratch memory's message, and its length into what is asked there.
#[inline(never)]
fn write(ctx: &XdpContext, outbound: &Outbound, place: Place) -> bool {
    let Some((_, at, _)) = resolver::data(ctx, outbound) else {
        return false;
    };
    let data = Data { ctx, at: masked::<PLACE_MASK>(at) };
    match tls::write_name(&data, place.hello(), &mut place.message()) {
        Some(question) => {
            place.asked().question = question;
            true
        }
        None => false,
    }
}

/// What the policy says of the name in the scratch memory.
#[inline(never)]
fn name(ctx: &XdpContext, generation: &Generation, outbound: &Outbound, place: Place) -> Fate {
    let question = place.asked().question;
    let entry = match generation.name(&place.message(), &question, place) {
        Some(entry) if !entry.is_undecidable() => entry,
        _ => return Fate::Unjudged(Unjudged::TlsName),
    };
    let Some(mut verdict) = entry.verdict() else {
        return Fate::Pass(Exit::NoMatch);
    };
    let rule = entry.rule();
    if entry.has_exemptions() && generation.is_exempt(rule, outbound.client) {
        verdict = Verdict::Exempt;
    }
    place.keep_event(lan::event(&Packet::new(ctx), generation, Hook::Tls, outbound, rule, verdict));
    let Decision { state, .. } = generation.decision_of(rule);
    match verdict {
        Verdict::Block if state.rejects() => Fate::Reject,
        Verdict::Block => Fate::Drop(Exit::TlsBlocked),
        Verdict::Log => Fate::LetThrough(Exit::Logged),
        Verdict::Allow => Fate::LetThrough(Exit::Allowed),
        Verdict::Exempt => Fate::LetThrough(Exit::Exempt),
    }
}

/// Records what was judged, with the name.
#[inline(never)]
pub(crate) fn record(place: Place) {
    record::record_name(place.event(), &place.asked().question, place.message());
}
