//! Counting and recording. Nothing here can fail a packet: what does not fit is counted.

use aya_ebpf::{
    bindings::BPF_NOEXIST,
    btf_maps::{PerCpuArray, lpm_trie::Key},
    helpers::bpf_xdp_load_bytes,
    programs::XdpContext,
};
use interdict_dns_wire::{HEADER_BYTES, NAME_LIMIT_BYTES, Question};
use interdict_ebpf_program::frame::rarely;
use interdict_ebpf_shared::{
    Address,
    contact::{BeyondKey, ContactCounts, ContactKey, Event, ProcessEvent, Remote},
    control,
    count::{Count, Exit, Loss, Unjudged},
    limits::{EVENTS_A_WINDOW, WINDOW_NS},
};

use crate::{
    atomic::Word,
    clock::{exact_ns, now_by},
    control::Control,
    maps::{BEYOND, CONTACTS, EVENTS, EXITS, LOSSES, PROCESSES, QUERIES, RULE_COUNTS, UNITS, UNJUDGED},
    scratch::{Message, masked},
    seats,
    unaligned::{load8, store8},
};

/// Counts the reason for which a packet leaves.
#[inline(always)]
pub(crate) fn count_exit(exit: Exit) {
    increment(&EXITS, exit as u32);
}

/// Counts what could not be judged.
#[inline(always)]
pub(crate) fn count_unjudged(what: Unjudged) {
    increment(&UNJUDGED, what as u32);
}

/// Counts it from where another program may interrupt this one.
#[inline(always)]
pub(crate) fn count_exit_atomically(exit: Exit) {
    increment_atomically(&EXITS, exit as u32);
}

/// Counts a record that was not kept as usual.
#[inline(always)]
pub(crate) fn lose(loss: Loss) {
    lose_in::<ALONE>(loss);
}

#[inline(always)]
fn lose_in<const MAY_BE: bool>(loss: Loss) {
    match MAY_BE {
        true => increment_atomically(&LOSSES, loss as u32),
        false => increment(&LOSSES, loss as u32),
    }
}

/// Records a packet that a rule matched: in the rule's counters, and as an event or as one of its contact's count.
///
/// Not inlined: the stack of 512 bytes is then shared out between deciding and recording, and both programs use one
/// copy of this.
#[inline(never)]
pub(crate) fn record(event: &mut Event) {
    let Some(control) = Control::here() else { return };
    event.time_ns = now_by(control);
    record_by::<ALONE>(&Brief::of(control, event), || event, send);
}

/// Records a call that a rule matched, likewise.
#[inline(never)]
pub(crate) fn record_call(call: &mut ProcessEvent) {
    let Some(control) = Control::here() else { return };
    call.event.time_ns = now_by(control);
    record_by::<INTERRUPTED>(&Brief::of(control, &call.event), || &call.event, |_| send_call(call));
}

/// Records a question that was answered, whose message begins here in the packet, likewise.
#[inline(always)]
pub(crate) fn record_query<'e>(
    ctx: &XdpContext,
    brief: &Brief,
    event: impl Fn() -> &'e Event,
    question: &Question,
    at: usize,
) {
    record_by::<ALONE>(brief, event, |event| {
        send_query(event, question, |to| {
            let at = (at + HEADER_BYTES) as u32;
            let bytes = masked::<{ NAME_LIMIT_BYTES }>(question.name_bytes - 1) as u32 + 1;
            // SAFETY: there is room for a name, and a byte more.
            unsafe { bpf_xdp_load_bytes(ctx.ctx, at, to.cast(), bytes) == 0 }
        })
    });
}

/// Records a name that was judged, and is in the scratch memory, likewise.
#[inline(always)]
pub(crate) fn record_name(event: &mut Event, question: &Question, message: Message) {
    let Some(control) = Control::here() else { return };
    event.time_ns = now_by(control);
    record_by::<ALONE>(
        &Brief::of(control, event),
        || event,
        |event| {
            send_query(event, question, |to| {
                for at in (0..NAME_LIMIT_BYTES + 1).step_by(8) {
                    // SAFETY: there is room for a name, and a byte more; the scratch memory is longer.
                    unsafe { store8::<0>(to as usize + at, load8::<0>(message.name() as usize + at)) };
                }
                true
            })
        },
    );
}

/// What is asked of most packets when they are recorded: an event is only written where there is more to tell.
#[derive(Clone, Copy)]
pub(crate) struct Brief {
    /// The tag of its contact.
    tag: u64,
    rule: u32,
    verdict: u8,
    time_ns: u64,
    length: u32,
}

impl Brief {
    /// Of a packet of this contact, whose client has this tag.
    #[inline(always)]
    pub(crate) fn new(
        control: Control,
        client: u64,
        contact: &ContactKey,
        time_ns: u64,
        length: u32,
    ) -> Self {
        let tag = seats::tag(control, client, contact);
        let ContactKey { rule, verdict, .. } = *contact;
        Self { tag, rule, verdict, time_ns, length }
    }

    #[inline(always)]
    fn of(control: Control, event: &Event) -> Self {
        let client = seats::client(control, event.contact.client);
        Self::new(control, client, &event.contact, event.time_ns, event.length)
    }
}

/// Nothing else writes this CPU's counters while the program runs.
const ALONE: bool = false;
/// The program runs for a process: another program may interrupt it, on the same CPU.
const INTERRUPTED: bool = true;

#[inline(always)]
fn record_by<'e, const MAY_BE: bool>(
    brief: &Brief,
    event: impl Fn() -> &'e Event,
    send: impl Fn(&Event) -> bool,
) {
    count_rule::<MAY_BE>(brief);
    let Some(counts) = contact_counts(brief, &event) else {
        rarely();
        let event = event();
        lose_in::<MAY_BE>(Loss::ContactsFull);
        count_beyond(event);
        if !send(event) {
            lose_in::<MAY_BE>(Loss::Unrecorded);
        }
        return;
    };
    if !counts.sampled(brief, &event) {
        return counts.add_unsampled(brief);
    }
    rarely();
    if send(event()) {
        counts.add_event(brief);
    } else {
        lose_in::<MAY_BE>(Loss::RingFull);
        counts.add_unsampled(brief);
    }
}

#[inline(always)]
fn count_rule<const MAY_BE: bool>(brief: &Brief) {
    let Some(counts) = RULE_COUNTS.get_ptr_mut(brief.rule) else {
        return;
    };
    let index = usize::from(brief.verdict) - 1;
    // SAFETY: the pointer is to this CPU's counts of the rule, which nothing else writes while a packet is handled, but
    // what interrupts a program that runs for a process. That adds in one instruction.
    if let Some(count) = unsafe { (*counts).verdicts.get_mut(index) } {
        if MAY_BE {
            // SAFETY: as above.
            unsafe { Word::new(&raw mut count.packets) }.add(1);
        } else {
            count.packets += 1;
            count.bytes += u64::from(brief.length);
        }
    }
}

/// The counts of the contact that this packet belongs to, made if there are none; `None` where there is no room.
#[inline(always)]
fn contact_counts<'e>(brief: &Brief, event: impl Fn() -> &'e Event) -> Option<SharedCounts> {
    if let Some(counts) = seats::counts(brief.tag, || &event().contact) {
        return Some(SharedCounts(counts));
    }
    rarely();
    let key = &event().contact;
    if let Some(counts) = CONTACTS.get_ptr_mut(key) {
        return Some(SharedCounts(counts));
    }
    // Another CPU may have been first; then this fails, and the lookup finds what it made.
    let empty = &EMPTY;
    let _ = CONTACTS.insert(key, empty, u64::from(BPF_NOEXIST));
    CONTACTS.get_ptr_mut(key).map(SharedCounts)
}

/// Counts a packet for whose client there is no room: under the unit that the client belongs to.
///
/// Not inlined, for its part of the stack. What finds no room here either is in the counters of its rule.
#[inline(never)]
fn count_beyond(event: &Event) {
    let contact = &event.contact;
    // What comes from the outside has no client.
    let units = UNITS.get(control::slot(contact.generation)).filter(|_| contact.client != Address::NONE);
    let unit = units.and_then(|units| units.get(&Key::new(128, contact.client.words())));
    let ContactKey { rule, verdict, hook, .. } = *contact;
    let key = &BeyondKey { unit: unit.map_or(0, |&unit| unit), rule, verdict, hook, zero: [0; 2] };
    if BEYOND.get_ptr_mut(key).is_none() {
        let nothing = &NOTHING;
        let _ = BEYOND.insert(key, nothing, u64::from(BPF_NOEXIST));
    }
    let Some(count) = BEYOND.get_ptr_mut(key) else { return };
    // SAFETY: the pointer is to a value of the table, from which nothing is removed.
    let (packets, bytes) =
        unsafe { (Word::new(&raw mut (*count).packets), Word::new(&raw mut (*count).bytes)) };
    packets.add(1);
    bytes.add(event.length.into());
}

static NOTHING: Count = Count { packets: 0, bytes: 0 };

/// A contact before its first packet, which finds its window long over and opens one.
static EMPTY: ContactCounts = ContactCounts {
    unsampled_packets: 0,
    unsampled_bytes: 0,
    unsampled_first_ns: 0,
    unsampled_last_ns: 0,
    last_ns: 0,
    window_ns: 0,
    window_packets: 0,
    event_packets: 0,
    event_bytes: 0,
    sample: Remote { address: Address::NONE, interface: 0, port: [0; 2], protocol: 0, zero: 0 },
};

/// Counts to which all CPUs add.
#[derive(Clone, Copy)]
struct SharedCounts(*mut ContactCounts);

/// A word of the counts. Of each only the place is taken here, when it is needed.
macro_rules! word {
    ($counts:expr, $field:ident) => {
        // SAFETY: the pointer is to a value of the table of contacts, or to a seat's. An entry that the loader removes meanwhile
        // stays memory of that table; the loader removes only what has been idle for a minute.
        unsafe { Word::new(&raw mut (*$counts.0).$field) }
    };
}

impl SharedCounts {
    /// Counts the packet, and says whether it has an event of its own.
    #[inline(always)]
    fn sampled<'e>(&self, brief: &Brief, event: impl Fn() -> &'e Event) -> bool {
        word!(self, last_ns).store(brief.time_ns);

        let began_ns = word!(self, window_ns).load();
        let over = brief.time_ns.saturating_sub(began_ns) >= WINDOW_NS;
        // One CPU opens the new window. Another that comes at the same moment may count into the old one, or have
        // its packet forgotten by the reset: some events more, but each packet is still recorded once.
        if over && word!(self, window_ns).replace(began_ns, brief.time_ns) {
            rarely();
            word!(self, window_packets).store(0);
            // SAFETY: only the CPU that opened the window writes the sample. The loader may read it meanwhile; it
            // reads until two readings agree.
            unsafe { (&raw mut (*self.0).sample).write(event().remote) };
        }
        // Past the limit nothing is added: that would take as long as all the rest of this.
        word!(self, window_packets).load() < EVENTS_A_WINDOW
            && word!(self, window_packets).fetch_add(1) < EVENTS_A_WINDOW
    }

    /// Adds a packet that has an event of its own.
    #[inline(always)]
    fn add_event(&self, brief: &Brief) {
        word!(self, event_bytes).add(u64::from(brief.length));
        word!(self, event_packets).add(1);
    }

    /// Adds a packet without an event to those that the loader's next sweep reports.
    #[inline(always)]
    fn add_unsampled(&self, brief: &Brief) {
        if brief.time_ns.saturating_sub(word!(self, unsampled_last_ns).load()) > WINDOW_NS {
            word!(self, unsampled_first_ns).store(brief.time_ns);
        }
        word!(self, unsampled_last_ns).store(brief.time_ns);
        word!(self, unsampled_bytes).add(u64::from(brief.length));
        word!(self, unsampled_packets).add(1);
    }
}

/// Sends an event to the agent, with the exact time; `false` where the ring is full.
#[inline(always)]
fn send(event: &Event) -> bool {
    let Some(mut entry) = EVENTS.reserve(0) else {
        return false;
    };
    entry.write(*event).time_ns = exact_ns();
    entry.submit(0);
    true
}

/// Sends the event of a call.
#[inline(always)]
fn send_call(call: &ProcessEvent) -> bool {
    let Some(mut entry) = PROCESSES.reserve(0) else {
        return false;
    };
    entry.write(*call).event.time_ns = exact_ns();
    entry.submit(0);
    true
}

/// Sends the event of a name that was judged, with the name, which `write` writes, or says that it cannot.
#[inline(always)]
fn send_query(event: &Event, question: &Question, write: impl Fn(*mut u8) -> bool) -> bool {
    let Some(mut entry) = QUERIES.reserve(0) else {
        return false;
    };
    let to = entry.as_mut_ptr();
    // SAFETY: the entry has room for an event, and each of its fields is written through a pointer to it. The length of the
    // name says what counts of the room for it.
    let is_whole = unsafe {
        (&raw mut (*to).event).write(*event);
        (&raw mut (*to).event.time_ns).write(exact_ns());
        (&raw mut (*to).qtype).write(question.qtype);
        (&raw mut (*to).name_bytes).write(question.name_bytes as u16);
        (&raw mut (*to).zero).write([0; 4]);
        write((&raw mut (*to).name).cast())
    };
    // There it has the name of some other event, and is kept from the agent.
    if !is_whole {
        entry.discard(0);
        return false;
    }
    entry.submit(0);
    true
}

#[inline(always)]
fn increment<const N: usize>(counters: &PerCpuArray<u64, N>, index: u32) {
    if let Some(counter) = counters.get_ptr_mut(index) {
        // SAFETY: the pointer is to this CPU's counter, which nothing else writes while a packet is handled.
        unsafe { *counter += 1 }
    }
}

#[inline(always)]
fn increment_atomically<const N: usize>(counters: &PerCpuArray<u64, N>, index: u32) {
    if let Some(counter) = counters.get_ptr_mut(index) {
        // SAFETY: the pointer is to this CPU's counter.
        unsafe { Word::new(counter) }.add(1);
    }
}
