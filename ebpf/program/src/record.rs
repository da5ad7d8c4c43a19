//! Counting and recording. Nothing here can fail a packet: what does not fit is counted.

use aya_ebpf::{
    bindings::BPF_NOEXIST,
    btf_maps::{PerCpuArray, lpm_trie::Key},
};
use interdict_dns_wire::{NAME_LIMIT_BYTES, Question};
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
    clock::{exact_ns, now_ns},
    maps::{BEYOND, CONTACTS, EVENTS, EXITS, LOSSES, PROCESSES, QUERIES, RULE_COUNTS, UNITS, UNJUDGED},
    scratch::Message,
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
    event.time_ns = now_ns();
    record_by::<ALONE>(event, seats::client(event.contact.client), send);
}

/// Records a call that a rule matched, likewise.
#[inline(never)]
pub(crate) fn record_call(call: &mut ProcessEvent) {
    call.event.time_ns = now_ns();
    record_by::<INTERRUPTED>(&call.event, seats::client(call.event.contact.client), |_| send_call(call));
}

/// Records a question that was answered, whose message is in the scratch memory, likewise. The event has its time, and the
/// client this tag.
#[inline(always)]
pub(crate) fn record_query(event: &Event, client: u64, question: &Question, message: Message) {
    record_by::<ALONE>(event, client, |event| send_query(event, question, message));
}

/// Records a name that was judged, likewise.
#[inline(always)]
pub(crate) fn record_name(event: &mut Event, question: &Question, message: Message) {
    event.time_ns = now_ns();
    record_by::<ALONE>(event, seats::client(event.contact.client), |event| {
        send_query(event, question, message)
    });
}

/// Nothing else writes this CPU's counters while the program runs.
const ALONE: bool = false;
/// The program runs for a process: another program may interrupt it, on the same CPU.
const INTERRUPTED: bool = true;

#[inline(always)]
fn record_by<const MAY_BE: bool>(event: &Event, client: u64, send: impl Fn(&Event) -> bool) {
    count_rule::<MAY_BE>(event);
    let Some(counts) = contact_counts(event, client) else {
        rarely();
        lose_in::<MAY_BE>(Loss::ContactsFull);
        count_beyond(event);
        if !send(event) {
            lose_in::<MAY_BE>(Loss::Unrecorded);
        }
        return;
    };
    if !counts.sampled(event) {
        return counts.add_unsampled(event);
    }
    if send(event) {
        counts.add_event(event);
    } else {
        lose_in::<MAY_BE>(Loss::RingFull);
        counts.add_unsampled(event);
    }
}

#[inline(always)]
fn count_rule<const MAY_BE: bool>(event: &Event) {
    let Some(counts) = RULE_COUNTS.get_ptr_mut(event.contact.rule) else {
        return;
    };
    let index = usize::from(event.contact.verdict) - 1;
    // SAFETY: the pointer is to this CPU's counts of the rule, which nothing else writes while a packet is handled, but
    // what interrupts a program that runs for a process. That adds in one instruction.
    if let Some(count) = unsafe { (*counts).verdicts.get_mut(index) } {
        if MAY_BE {
            // SAFETY: as above.
            unsafe { Word::new(&raw mut count.packets) }.add(1);
        } else {
            count.packets += 1;
            count.bytes += u64::from(event.length);
        }
    }
}

/// The counts of the contact that this packet belongs to, made if there are none; `None` where there is no room.
#[inline(always)]
fn contact_counts(event: &Event, client: u64) -> Option<SharedCounts> {
    let key = &event.contact;
    if let Some(counts) = seats::counts(client, key) {
        return Some(SharedCounts::new(counts));
    }
    rarely();
    if let Some(counts) = CONTACTS.get_ptr_mut(key) {
        return Some(SharedCounts::new(counts));
    }
    // Another CPU may have been first; then this fails, and the lookup finds what it made.
    let empty = &EMPTY;
    let _ = CONTACTS.insert(key, empty, u64::from(BPF_NOEXIST));
    CONTACTS.get_ptr_mut(key).map(SharedCounts::new)
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
struct SharedCounts {
    event_packets: Word,
    event_bytes: Word,
    unsampled_packets: Word,
    unsampled_bytes: Word,
    unsampled_first_ns: Word,
    unsampled_last_ns: Word,
    last_ns: Word,
    window_ns: Word,
    window_packets: Word,
    sample: *mut Remote,
}

impl SharedCounts {
    #[inline(always)]
    const fn new(counts: *mut ContactCounts) -> Self {
        // SAFETY: the pointer is to a value of the table of contacts. An entry that the loader removes meanwhile stays
        // memory of that table; the loader removes only what has been idle for a minute.
        unsafe {
            Self {
                event_packets: Word::new(&raw mut (*counts).event_packets),
                event_bytes: Word::new(&raw mut (*counts).event_bytes),
                unsampled_packets: Word::new(&raw mut (*counts).unsampled_packets),
                unsampled_bytes: Word::new(&raw mut (*counts).unsampled_bytes),
                unsampled_first_ns: Word::new(&raw mut (*counts).unsampled_first_ns),
                unsampled_last_ns: Word::new(&raw mut (*counts).unsampled_last_ns),
                last_ns: Word::new(&raw mut (*counts).last_ns),
                window_ns: Word::new(&raw mut (*counts).window_ns),
                window_packets: Word::new(&raw mut (*counts).window_packets),
                sample: &raw mut (*counts).sample,
            }
        }
    }

    /// Counts the packet, and says whether it has an event of its own.
    #[inline(always)]
    fn sampled(&self, event: &Event) -> bool {
        self.last_ns.store(event.time_ns);

        let began_ns = self.window_ns.load();
        let over = event.time_ns.saturating_sub(began_ns) >= WINDOW_NS;
        // One CPU opens the new window. Another that comes at the same moment may count into the old one, or have
        // its packet forgotten by the reset: some events more, but each packet is still recorded once.
        if over && self.window_ns.replace(began_ns, event.time_ns) {
            rarely();
            self.window_packets.store(0);
            // SAFETY: only the CPU that opened the window writes the sample. The loader may read it meanwhile; it
            // reads until two readings agree.
            unsafe { self.sample.write(event.remote) };
        }
        // Past the limit nothing is added: that would take as long as all the rest of this.
        self.window_packets.load() < EVENTS_A_WINDOW && self.window_packets.fetch_add(1) < EVENTS_A_WINDOW
    }

    /// Adds a packet that has an event of its own.
    #[inline(always)]
    fn add_event(&self, event: &Event) {
        self.event_bytes.add(u64::from(event.length));
        self.event_packets.add(1);
    }

    /// Adds a packet without an event to those that the loader's next sweep reports.
    #[inline(always)]
    fn add_unsampled(&self, event: &Event) {
        if event.time_ns.saturating_sub(self.unsampled_last_ns.load()) > WINDOW_NS {
            self.unsampled_first_ns.store(event.time_ns);
        }
        self.unsampled_last_ns.store(event.time_ns);
        self.unsampled_bytes.add(u64::from(event.length));
        self.unsampled_packets.add(1);
    }
}

/// Sends an event to the agent, with the exact time; `false` where the ring is full.
#[inline(always)]
fn send(event: &Event) -> bool {
    let Some(mut entry) = EVENTS.reserve(0) else {
        return false;
    };
    entry.write(Event { time_ns: exact_ns(), ..*event });
    entry.submit(0);
    true
}

/// Sends the event of a call.
#[inline(always)]
fn send_call(call: &ProcessEvent) -> bool {
    let Some(mut entry) = PROCESSES.reserve(0) else {
        return false;
    };
    entry.write(ProcessEvent { event: Event { time_ns: exact_ns(), ..call.event }, ..*call });
    entry.submit(0);
    true
}

/// Sends the event of an answered question, with its name.
#[inline(always)]
fn send_query(event: &Event, question: &Question, message: Message) -> bool {
    let Some(mut entry) = QUERIES.reserve(0) else {
        return false;
    };
    let to = entry.as_mut_ptr();
    // SAFETY: the entry has room for an event, and each of its fields is written through a pointer to it. The name is
    // copied with what stands behind it in the scratch memory, which is longer than a name; its length says what counts.
    unsafe {
        (&raw mut (*to).event).write(Event { time_ns: exact_ns(), ..*event });
        (&raw mut (*to).qtype).write(question.qtype);
        (&raw mut (*to).name_bytes).write(question.name_bytes as u16);
        (&raw mut (*to).zero).write([0; 4]);
        let name: *mut u8 = (&raw mut (*to).name).cast();
        for at in (0..NAME_LIMIT_BYTES + 1).step_by(8) {
            store8(name as usize + at, load8(message.name() as usize + at));
        }
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
