//! The names of a policy as a table of hashes, in which a name is found by each of its suffixes, the longest first.
//!
//! A name and each of its parents have a hash, all of which come from one way over the name from its end: the bytes
//! between the end and where a suffix begins are taken eight at a time from the right, and what is left over by itself.

use interdict_dns_wire::{Bytes, HEADER_BYTES, LABELS_LIMIT, Memory, NAME_LIMIT_BYTES, Question, Round};

use crate::{
    limits::MAX_RULES,
    plain_bytes,
    policy::{Decision, Verdict},
    table::{BUCKETS_TRIED, Layout, Look, Secret, Table},
};

/// Bytes of the memory that a search works in: a word for each eight bytes of a name, and one for their beginning.
pub const SEARCH_BYTES: usize = (NAME_LIMIT_BYTES / 8 + 1) * 8;

/// What hosts and domains say about the names that an entry is for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct NameEntry {
    /// From the lowest bit: the rule's slot, the bytes of the owner, the verdict, and the flags.
    word: u32,
}
plain_bytes!(NameEntry { word: u32 });

const _: () = assert!(MAX_RULES <= NameEntry::RULE + 1);

impl NameEntry {
    /// No entry.
    pub const NONE: Self = Self { word: 0 };

    const RULE: u32 = (1 << 14) - 1;
    const OWNER_AT: u32 = 14;
    const VERDICT_AT: u32 = 22;
    const VERDICT: u32 = 0xf;
    const EXEMPTIONS: u32 = 1 << 29;
    const UNDECIDABLE: u32 = 1 << 30;
    const IS_THERE: u32 = 1 << 31;

    /// An entry with this decision. `owner_bytes` are those of the domain that matched, without the root, whose name owns
    /// the SOA of an answer; 0 where the asked name does itself.
    #[inline(always)]
    pub const fn new(decision: Decision, owner_bytes: u8) -> Self {
        let verdict = match decision.state.verdict() {
            Some(verdict) => verdict.code() << Self::VERDICT_AT,
            None => 0,
        };
        let exemptions = if decision.state.has_exemptions() { Self::EXEMPTIONS } else { 0 };
        let word = decision.rule & Self::RULE | (owner_bytes as u32) << Self::OWNER_AT | verdict;
        Self { word: word | exemptions | Self::IS_THERE }
    }

    /// The same where globs or patterns may decide otherwise, which only the agent can tell.
    #[must_use]
    pub const fn undecidable(self) -> Self {
        Self { word: self.word | Self::UNDECIDABLE | Self::IS_THERE }
    }

    /// Whether there is no entry.
    #[inline(always)]
    pub const fn is_none(self) -> bool {
        self.word == 0
    }

    /// Whether only the agent can tell.
    #[inline(always)]
    pub const fn is_undecidable(self) -> bool {
        self.word & Self::UNDECIDABLE != 0
    }

    /// What is decided, as far as names ask for it.
    #[inline(always)]
    pub const fn verdict(self) -> Option<Verdict> {
        Verdict::from_code(self.word >> Self::VERDICT_AT & Self::VERDICT)
    }

    /// The slot of the rule that decides.
    #[inline(always)]
    pub const fn rule(self) -> u32 {
        self.word & Self::RULE
    }

    /// Whether the register of exemptions names the rule.
    #[inline(always)]
    pub const fn has_exemptions(self) -> bool {
        self.word & Self::EXEMPTIONS != 0
    }

    /// Bytes of the name that owns the SOA of an answer, as in [`NameEntry::new`].
    #[inline(always)]
    pub const fn owner_bytes(self) -> usize {
        (self.word >> Self::OWNER_AT & 0xff) as usize
    }
}

/// What the table says about one name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NameSlot {
    /// The name's hash.
    pub hash: u64,
    /// For the name itself.
    pub itself: NameEntry,
    /// For the names below it.
    pub below: NameEntry,
}

impl NameSlot {
    /// The word of the table: the entry for the name itself in its low half, and that for those below it in the high one.
    pub fn word(&self) -> u64 {
        u64::from(self.below.word) << 32 | u64::from(self.itself.word)
    }
}

/// How the names of a policy are to be read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Names {
    /// Their table.
    pub layout: Layout,
    /// A bit for each number of labels that some name has, and for 64 more.
    pub depths: u64,
}
plain_bytes!(Names { layout: Layout, depths: u64 });

impl Names {
    /// No names.
    pub const NONE: Self = Self { layout: Layout::NONE, depths: 0 };

    /// The bit of a number of labels in [`Names::depths`].
    #[inline(always)]
    pub const fn depth(labels: usize) -> u64 {
        1 << (labels % 64)
    }
}

/// The hash of the name that begins at [`HEADER_BYTES`] of a message and has this many bytes, root included.
pub fn hash<M: Bytes + ?Sized, S: Memory + ?Sized>(
    secret: &Secret,
    message: &M,
    name_bytes: usize,
    room: &mut S,
) -> u64 {
    let bytes = name_bytes - 1;
    hash_words(secret, message, bytes, room);
    suffix_hash(secret, message, 0, bytes, room)
}

/// What a table says of the name of a question: what its longest suffix there says. `room` has [`SEARCH_BYTES`]. `None`
/// where it takes more rounds than the memory of the message allows.
#[inline(always)]
pub fn find<M: Bytes + ?Sized, S: Memory + ?Sized, T: Table + ?Sized>(
    names: &Names,
    message: &M,
    question: &Question,
    room: &mut S,
    table: &T,
) -> Option<NameEntry> {
    hash_words(&names.layout.secret, message, question.name_bytes - 1, room);
    search(names, message, question, room, table)
}

/// Hashes a name without the root from its end, eight bytes at a time; the hashes on the way stand in `room`.
#[inline(always)]
fn hash_words<M: Bytes + ?Sized, S: Memory + ?Sized>(
    secret: &Secret,
    message: &M,
    bytes: usize,
    room: &mut S,
) {
    room.set(0, secret.start.to_ne_bytes());
    let mut words = Words { secret, message, room, left: bytes, done: M::variable(0), hash: secret.start };
    M::repeat(NAME_LIMIT_BYTES / 8 + 2, &mut words);
}

struct Words<'m, M: ?Sized, S: ?Sized> {
    secret: &'m Secret,
    message: &'m M,
    room: &'m mut S,
    /// Bytes that are not hashed yet.
    left: usize,
    done: usize,
    hash: u64,
}

impl<M: Bytes + ?Sized, S: Memory + ?Sized> Round for Words<'_, M, S> {
    #[inline(always)]
    fn round(&mut self) -> bool {
        if self.left < 8 {
            return false;
        }
        self.left -= 8;
        self.done = M::variable(self.done + 8);
        let word = u64::from_be_bytes(self.message.get(HEADER_BYTES + self.left));
        self.hash = self.secret.mix(self.hash ^ lower_case(word));
        self.room.set(self.done, self.hash.to_ne_bytes());
        true
    }
}

/// The hash of the suffix that begins `at` bytes into a name of so many bytes without the root, whose words are hashed.
#[inline(always)]
fn suffix_hash<M: Bytes + ?Sized, S: Bytes + ?Sized>(
    secret: &Secret,
    message: &M,
    at: usize,
    bytes: usize,
    room: &S,
) -> u64 {
    let length = bytes - at;
    let over = length % 8;
    let words = u64::from_ne_bytes(room.get(length - over));
    // The first bytes of the suffix, fewer than eight, without what stands before them; above them, how many.
    let first = u64::from_be_bytes(message.get(HEADER_BYTES + at + over - 8));
    let spare_bits = 63 - 8 * over as u32;
    let first = lower_case(first << 1 << spare_bits >> spare_bits >> 1);
    secret.end(words ^ first ^ (over as u64 + 1) << 56)
}

/// Looks for each suffix of a name whose words are hashed, the longest first. `None` where the rounds did not suffice.
#[inline(always)]
fn search<M: Bytes + ?Sized, S: Bytes + ?Sized, T: Table + ?Sized>(
    names: &Names,
    message: &M,
    question: &Question,
    room: &S,
    table: &T,
) -> Option<NameEntry> {
    let (bytes, labels) = (question.name_bytes - 1, question.labels);
    let found = NameEntry::NONE;
    let (at, tried) = (M::forget(0), M::forget(0));
    let mut search = Search { names, message, room, table, bytes, labels, at, tried, found };
    M::repeat(LABELS_LIMIT * BUCKETS_TRIED + 2, &mut search).map(|_| search.found)
}

/// The way through the suffixes. A round looks into one bucket at most.
struct Search<'m, M: ?Sized, S: ?Sized, T: ?Sized> {
    names: &'m Names,
    message: &'m M,
    room: &'m S,
    table: &'m T,
    bytes: usize,
    /// Labels of the suffix.
    labels: usize,
    /// Where it begins.
    at: usize,
    tried: usize,
    found: NameEntry,
}

impl<M: Bytes + ?Sized, S: Bytes + ?Sized, T: Table + ?Sized> Search<'_, M, S, T> {
    #[inline(always)]
    fn look(&self) -> Look {
        if self.names.depths & Names::depth(self.labels) == 0 {
            return Look::Nothing;
        }
        let layout = &self.names.layout;
        let hash = suffix_hash(&layout.secret, self.message, self.at, self.bytes, self.room);
        layout.look(self.table, hash, self.tried)
    }

    /// The entry of the suffix that is looked at, of what stands under its hash.
    #[inline(always)]
    const fn entry(&self, word: u64) -> NameEntry {
        NameEntry { word: if self.at == 0 { word as u32 } else { (word >> 32) as u32 } }
    }
}

impl<M: Bytes + ?Sized, S: Bytes + ?Sized, T: Table + ?Sized> Round for Search<'_, M, S, T> {
    #[inline(always)]
    fn round(&mut self) -> bool {
        if self.at >= self.bytes {
            return false;
        }
        match self.look() {
            Look::Found(word) if !self.entry(word).is_none() => {
                self.found = self.entry(word);
                return false;
            }
            Look::Further => {
                self.tried = M::forget(self.tried + 1);
                return true;
            }
            Look::Found(_) | Look::Nothing => {}
        }
        let [label, _] = self.message.get(HEADER_BYTES + self.at);
        self.at = M::forget(self.at + 1 + usize::from(label));
        self.labels -= 1;
        self.tried = M::forget(0);
        true
    }
}

/// Turns the ASCII capitals among eight bytes into small letters. Bytes of 128 and more stay.
#[inline(always)]
const fn lower_case(word: u64) -> u64 {
    const ONES: u64 = u64::MAX / 0xff;
    const HIGH: u64 = ONES * 0x80;
    let low_bits = word & !HIGH;
    let from_a = low_bits + ONES * (0x80 - b'A' as u64);
    let after_z = low_bits + ONES * (0x80 - b'Z' as u64 - 1);
    let capitals = from_a & !after_z & !word & HIGH;
    word | capitals >> 2
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::State;

    #[test]
    fn capitals_and_nothing_else_become_small() {
        for byte in 0..=u8::MAX {
            let expect = u64::from_be_bytes([byte.to_ascii_lowercase(); 8]);
            assert_eq!(lower_case(u64::from_be_bytes([byte; 8])), expect, "{byte}");
            let mixed = [byte, b'A', b'Z', b'@', b'[', b'z', byte, 0xff];
            assert_eq!(
                lower_case(u64::from_be_bytes(mixed)).to_be_bytes(),
                mixed.map(|b| b.to_ascii_lowercase())
            );
        }
    }

    #[test]
    fn an_entry_keeps_what_it_is_made_of() {
        for verdict in Verdict::ALL {
            for (rule, owner_bytes, exempted) in [(0, 0, false), (MAX_RULES - 1, 254, true)] {
                let state = State::new(verdict).with_exemptions(exempted);
                let entry = NameEntry::new(Decision { rule, state }, owner_bytes);
                let kept = (entry.rule(), entry.owner_bytes(), entry.verdict(), entry.has_exemptions());
                assert_eq!(kept, (rule, owner_bytes.into(), Some(verdict), exempted));
                assert!(!entry.is_none() && !entry.is_undecidable() && entry.undecidable().is_undecidable());
            }
        }
        assert!(!NameEntry::new(Decision::NONE, 0).is_none(), "an entry may say that nothing decides");
        assert_eq!(NameEntry::NONE.undecidable().verdict(), None);
    }
}
