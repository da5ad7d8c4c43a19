//! Where a message lies.

use crate::answer::TAIL_WORDS;
use crate::question::NAME_LIMIT_BYTES;

/// Bytes that are read a few at a time, at places that the caller has checked against the message's length.
///
/// On the host this is a slice. In the kernel it is the packet, of which each place is compared with its end, or a buffer
/// that is larger than any message, with each place masked to its size, so that the verifier sees that every access is
/// inside.
pub trait Bytes {
    /// The `N` bytes at `at`. What lies outside reads as zero.
    fn get<const N: usize>(&self, at: usize) -> [u8; N];

    /// The same number. In the kernel the verifier forgets what it knows of it: it follows each way through the program
    /// for each thing it knows, and of a number that a loop came to it knows one thing for each round.
    fn forget(number: usize) -> usize {
        number
    }

    /// The same number, which changes from round to round: forgotten where the rounds are not looked at one by one.
    fn variable(number: usize) -> usize {
        Self::forget(number)
    }

    /// The same number, for which there is a guess. Where the guess is right, what is done with the number need not wait for it.
    fn foreseen(number: usize, _guess: usize) -> usize {
        number
    }

    /// The longest name that is read, in bytes: a longer one counts as none here.
    const LONGEST_NAME_BYTES: usize = NAME_LIMIT_BYTES;

    /// Does rounds until one says that it was the last, and says how many it did; `None` where it would be as many as
    /// `limit`, or more than are done here.
    ///
    /// In the kernel this may be `bpf_loop`, of which the verifier looks at one round. That of Linux 6.1 looks at the first:
    /// branches that no first round goes into it takes for dead, and removes. So what changes from round to round begins, and
    /// goes on, as a [`variable`](Bytes::variable).
    fn repeat<R: Round>(limit: usize, work: &mut R) -> Option<usize> {
        (1..limit).find(|_| !work.round())
    }
}

/// Bytes that are written likewise.
pub trait Memory: Bytes {
    /// Writes the `N` bytes at `at`. What lies outside is not written.
    fn set<const N: usize>(&mut self, at: usize, bytes: [u8; N]);
}

/// Where an answer's tail is written: behind the question, up to the answer's end.
pub trait Room {
    /// Writes the first bytes of those that words hold: none, or at least 16.
    fn copy(&mut self, words: &[u64; TAIL_WORDS], bytes: usize);

    /// Writes over two of them.
    fn set(&mut self, at: usize, bytes: [u8; 2]);
}

/// One round of a loop, with what it keeps from round to round.
pub trait Round {
    /// Does a round; `false` if it is the last.
    fn round(&mut self) -> bool;
}

impl Bytes for [u8] {
    fn get<const N: usize>(&self, at: usize) -> [u8; N] {
        self.get(at..).and_then(|rest| rest.first_chunk()).copied().unwrap_or([0; N])
    }
}

impl Memory for [u8] {
    fn set<const N: usize>(&mut self, at: usize, bytes: [u8; N]) {
        if let Some(place) = self.get_mut(at..).and_then(|rest| rest.first_chunk_mut()) {
            *place = bytes;
        }
    }
}

impl Room for [u8] {
    fn copy(&mut self, words: &[u64; TAIL_WORDS], bytes: usize) {
        let words = words.iter().flat_map(|word| word.to_ne_bytes());
        self.iter_mut().zip(words).take(bytes).for_each(|(place, byte)| *place = byte);
    }

    fn set(&mut self, at: usize, bytes: [u8; 2]) {
        Memory::set(self, at, bytes);
    }
}
