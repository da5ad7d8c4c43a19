//! A table of hashes, as names and networks lie in the kernel: a filter in front, and buckets of a cache line each.
//!
//! 64 bits of a hash that is keyed by a [`Secret`] stand for what is looked for. With n entries in the table, something on
//! no list is taken for one of them with a chance of n in 2^64 a look; who does not know the secret cannot look for such a
//! thing.

use crate::plain_bytes;

/// What hashes are keyed by: it is made anew for each generation, and nobody else knows it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Secret {
    /// Where a hash begins.
    pub start: u64,
    /// What it is multiplied by: odd.
    pub first: u64,
    /// And then by this: odd.
    pub second: u64,
}
plain_bytes!(Secret { start: u64, first: u64, second: u64 });

impl Secret {
    /// One multiplication alone would carry some differences of a word on unchanged, whatever the secret.
    #[inline(always)]
    pub(crate) const fn mix(&self, word: u64) -> u64 {
        let product = word.wrapping_mul(self.first);
        let product = (product ^ product >> 32).wrapping_mul(self.second);
        product ^ product >> 29
    }

    /// A whole hash of one that ends with this word. 0 stands for no hash.
    #[inline(always)]
    pub(crate) const fn end(&self, word: u64) -> u64 {
        match self.mix(word) {
            0 => 1,
            hash => hash,
        }
    }
}

/// How a table is to be read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Layout {
    /// By what its hashes are keyed.
    pub secret: Secret,
    /// How many buckets it has, less one: they are as many as a power of two.
    pub bucket_mask: u64,
    /// How many bits of its filter are used, less one: likewise.
    pub filter_mask: u64,
}
plain_bytes!(Layout { secret: Secret, bucket_mask: u64, filter_mask: u64 });

/// Slots in a bucket.
pub const BUCKET_SLOTS: usize = 4;

/// How many buckets are looked into for a hash: the one that its low bits name, and those behind it while they are full.
pub const BUCKETS_TRIED: usize = 4;

/// Words of the filter. It tells of most things that they are on no list, without a look into the buckets, and does so in
/// memory that stays in a processor's caches: up to some ten thousand entries.
pub const FILTER_WORDS: usize = 8192;

/// The filter of a table.
pub type Filter = [u64; FILTER_WORDS];

const FILTER_BITS: u64 = FILTER_WORDS as u64 * 64;

/// Bits of the filter for an entry, while there are enough: of the things on no list one in so many is looked for all the
/// same.
const FILTER_BITS_AN_ENTRY: u64 = 16;

/// A cache line of slots, which are filled from the first on: a hash, and the word that is found by it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C, align(64))]
pub struct Bucket {
    words: [u64; 2 * BUCKET_SLOTS],
}
plain_bytes!(Bucket { words: [u64; 2 * BUCKET_SLOTS] });

impl Bucket {
    /// What the bucket has under a hash.
    #[inline(always)]
    fn find(&self, hash: u64) -> Option<u64> {
        let slots = self.words.as_chunks::<2>().0;
        slots.iter().find(|[found, _]| *found == hash).map(|[_, word]| *word)
    }

    /// Whether the next bucket may have what this one has not.
    #[inline(always)]
    const fn is_full(&self) -> bool {
        self.words[2 * (BUCKET_SLOTS - 1)] != 0
    }

    /// Puts a slot into the bucket, if there is room.
    fn insert(&mut self, slot: [u64; 2]) -> bool {
        let free = self.words.as_chunks_mut::<2>().0.iter_mut().find(|[hash, _]| *hash == 0);
        free.map(|free| *free = slot).is_some()
    }

    /// Whether nothing is in it.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// What one look into a table came to.
pub(crate) enum Look {
    /// The word of the hash.
    Found(u64),
    /// Nothing in this bucket, and the next one may have it.
    Further,
    /// Nothing.
    Nothing,
}

impl Layout {
    /// No table.
    pub const NONE: Self =
        Self { secret: Secret { start: 0, first: 0, second: 0 }, bucket_mask: 0, filter_mask: 0 };

    /// The layout of a table with so many entries, if each bucket had as many: the least that may do.
    pub const fn for_entries(secret: Secret, entries: usize) -> Self {
        let buckets = entries.div_ceil(BUCKET_SLOTS / 2).next_power_of_two() as u64;
        let bits = (entries as u64 * FILTER_BITS_AN_ENTRY).next_power_of_two();
        let bits = if bits > FILTER_BITS { FILTER_BITS } else { bits };
        Self { secret, bucket_mask: buckets - 1, filter_mask: bits - 1 }
    }

    /// The same with twice the buckets.
    #[must_use]
    pub const fn with_more_buckets(self) -> Self {
        Self { bucket_mask: self.bucket_mask * 2 + 1, ..self }
    }

    /// How many buckets the table has.
    pub const fn buckets(&self) -> usize {
        self.bucket_mask as usize + 1
    }

    /// The place of the bucket that is tried for a hash after so many others.
    #[inline(always)]
    const fn bucket(&self, hash: u64, tried: usize) -> u64 {
        hash.wrapping_add(tried as u64) & self.bucket_mask
    }

    /// The bit of a hash in the filter: its word, and the bit in that.
    #[inline(always)]
    const fn filter_bit(&self, hash: u64) -> (usize, u64) {
        let bit = hash >> 32 & self.filter_mask;
        ((bit / 64) as usize, 1 << (bit % 64))
    }

    /// Puts a word under a hash into a table of this layout; `false` where there is no room.
    pub fn insert(&self, filter: &mut Filter, buckets: &mut [Bucket], hash: u64, word: u64) -> bool {
        let (at, bit) = self.filter_bit(hash);
        filter[at] |= bit;
        (0..BUCKETS_TRIED).any(|tried| buckets[self.bucket(hash, tried) as usize].insert([hash, word]))
    }

    /// Looks into the bucket that is tried for a hash after so many others.
    #[inline(always)]
    pub(crate) fn look<T: Table + ?Sized>(&self, table: &T, hash: u64, tried: usize) -> Look {
        let (word, bit) = self.filter_bit(hash);
        if table.filter(word) & bit == 0 {
            return Look::Nothing;
        }
        let Some(bucket) = table.bucket(self.bucket(hash, tried)) else {
            return Look::Nothing;
        };
        match bucket.find(hash) {
            Some(word) => Look::Found(word),
            None if bucket.is_full() && tried + 1 < BUCKETS_TRIED => Look::Further,
            None => Look::Nothing,
        }
    }
}

/// Where a table lies.
pub trait Table {
    /// The word of the filter at a place below [`FILTER_WORDS`].
    fn filter(&self, at: usize) -> u64;

    /// The bucket at a place.
    fn bucket(&self, at: u64) -> Option<&Bucket>;
}
