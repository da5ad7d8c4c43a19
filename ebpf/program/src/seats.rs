//! The seats of contacts that come often.

use interdict_ebpf_program::frame::rarely;
use interdict_ebpf_shared::{
    Address,
    contact::{ContactCounts, ContactKey},
    seat::{self, FREE, SEATS_TRIED, Seat},
};

use crate::{atomic::Word, control::Control, maps::CONTACT_SEATS};

/// The tag of a client.
#[inline(always)]
pub(crate) fn client(control: Control, client: Address) -> u64 {
    seat::client(&control.secret(), client)
}

/// The tag of a contact, whose client has this tag.
#[inline(always)]
pub(crate) fn tag(control: Control, client: u64, contact: &ContactKey) -> u64 {
    seat::tag(&control.secret(), client, contact)
}

/// The counts of the contact with this tag, which has a seat, or takes a free one; `None` where there is none for it. The
/// contact itself is only asked for then.
#[inline(always)]
pub(crate) fn counts<'e>(tag: u64, key: impl Fn() -> &'e ContactKey) -> Option<*mut ContactCounts> {
    for tried in 0..SEATS_TRIED {
        let seat = CONTACT_SEATS.get_ptr_mut(seat::place(tag, tried))?;
        if is_of(seat, tag) || takes(seat, tag, &key) {
            // SAFETY: this makes another pointer into the array's value.
            return Some(unsafe { &raw mut (*seat).counts });
        }
    }
    None
}

#[inline(always)]
fn is_of(seat: *mut Seat, tag: u64) -> bool {
    // SAFETY: the pointer is to an array's value, of which only atomic instructions change this word.
    unsafe { Word::new(&raw mut (*seat).tag) }.load() == tag
}

/// Takes a seat for a contact, if it is free, or if another CPU takes it for the same one meanwhile.
///
/// A contact that sat behind another one takes a second seat when that one's becomes free, and is in both until the agent has
/// read the first. Of a seat the counts are all 0 when it is free.
#[inline(always)]
fn takes<'e>(seat: *mut Seat, tag: u64, key: impl Fn() -> &'e ContactKey) -> bool {
    // SAFETY: as in `is_of`; the agent reads no key before it is known, and only who took the seat writes it.
    unsafe {
        let held = Word::new(&raw mut (*seat).tag);
        if held.load() != FREE {
            return false;
        }
        rarely();
        if !held.replace(FREE, tag) {
            return held.load() == tag;
        }
        (&raw mut (*seat).key).write(*key());
        // An addition that returns what was there is a barrier as well.
        Word::new(&raw mut (*seat).is_known).fetch_add(1);
    }
    true
}
