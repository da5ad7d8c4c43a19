//! The words by which the agent steers the programs, in memory that it shares with them.

use std::{
    io,
    os::fd::BorrowedFd,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use interdict_ebpf_shared::{Address, control, table::Secret};

use crate::{
    clock::Ticks,
    system::{SharedMemory, awake_time_ns, boot_time_ns},
};

/// The agent's sign of life, apart from the plane: changing a large policy keeps that busy for longer than the agent may
/// be silent.
#[derive(Clone)]
pub struct Pulse(pub(crate) Arc<Control>);

impl Pulse {
    /// Says that the agent lives: call it every second.
    pub fn beat(&self) {
        self.0.set_slept();
        self.0.set_count(control::HEARTBEAT, boot_time_ns());
    }
}

/// The words of [`interdict_ebpf_shared::control`].
pub(crate) struct Control {
    memory: SharedMemory,
}

impl Control {
    pub(crate) fn of_map(map: BorrowedFd<'_>) -> io::Result<Self> {
        SharedMemory::of_map(map, control::WORDS as usize * size_of::<u64>()).map(|memory| Self { memory })
    }

    pub(crate) fn live(&self) -> u64 {
        self.word(control::LIVE).load(Ordering::Acquire)
    }

    /// Puts a generation in force: the one write that a change of policy consists of.
    pub(crate) fn set_live(&self, generation: u64) {
        self.word(control::LIVE).store(generation, Ordering::Release);
    }

    pub(crate) fn set_staged(&self, generation: u64) {
        self.word(control::STAGED).store(generation, Ordering::Release);
    }

    /// Says how many entries there are in the table that belongs to a word.
    pub(crate) fn set_count(&self, word: u32, count: u64) {
        self.word(word).store(count, Ordering::Release);
    }

    /// Says how the kernel's ticks stand to its clock.
    pub(crate) fn set_ticks(&self, ticks: Ticks) {
        self.set_count(control::TICK_NS, ticks.length_ns);
        self.set_count(control::TICK_0_NS, ticks.first_ns);
    }

    /// Says by what contacts are tagged.
    pub(crate) fn set_secret(&self, Secret { start, first, second }: Secret) {
        (control::SECRET..).zip([start, first, second]).for_each(|(word, value)| self.set_count(word, value));
    }

    /// Says how long the machine has slept, and returns it. Rather too little than too much: no packet comes in the future.
    pub(crate) fn set_slept(&self) -> u64 {
        let boot_ns = boot_time_ns();
        let slept_ns = boot_ns.saturating_sub(awake_time_ns());
        self.set_count(control::SLEPT_NS, slept_ns);
        slept_ns
    }

    /// Says which bits the addresses of this machine have.
    pub(crate) fn set_ours(&self, bits: [u64; control::OURS_WORDS as usize]) {
        (control::OURS..).zip(bits).for_each(|(word, bits)| self.word(word).store(bits, Ordering::Release));
    }

    /// Says which bits safe networks have.
    pub(crate) fn set_safe(&self, bits: [u64; control::SAFE_WORDS as usize]) {
        (control::SAFE..).zip(bits).for_each(|(word, bits)| self.word(word).store(bits, Ordering::Release));
    }

    /// Says that answers told of an address.
    pub(crate) fn add_told(&self, address: Address) {
        let (word, bit) = control::told_bit(address);
        self.word(control::TOLD + word).fetch_or(bit, Ordering::Release);
    }

    /// Says of which addresses answers told, and of no others.
    pub(crate) fn set_told(&self, addresses: impl Iterator<Item = Address>) {
        let mut words = [0; control::TOLD_WORDS as usize];
        addresses.map(control::told_bit).for_each(|(word, bit)| words[word as usize] |= bit);
        (control::TOLD..).zip(words).for_each(|(word, bits)| self.word(word).store(bits, Ordering::Release));
    }

    fn word(&self, index: u32) -> &AtomicU64 {
        assert!(index < control::WORDS);
        // SAFETY: the mapping holds WORDS words, begins at a page, and lives as long as `self`. The programs
        // read the words, each in one load, and change some atomically.
        unsafe { self.memory.start().cast::<AtomicU64>().add(index as usize).as_ref() }
    }
}
