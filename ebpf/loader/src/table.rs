//! From entries to a table of hashes, as the kernel has it.

use std::hash::{BuildHasher, Hasher, RandomState};

use aya::maps::{Array, MapData, MapError};
use interdict_ebpf_shared::table::{Bucket, FILTER_WORDS, Filter, Layout, Secret};

/// Lets an inner array be of another size than the one it replaces (`BPF_F_INNER_MAP`).
pub(crate) const INNER_ARRAY_FLAGS: u32 = 1 << 12;

/// Has the memory of an array begin at a page, since it could be shared (`BPF_F_MMAPABLE`): a bucket is in one cache line.
const SHARED_ARRAY_FLAG: u32 = 1 << 10;

/// The buckets of a table, in the kernel.
pub(crate) type Buckets = Array<MapData, Bucket>;

/// Words by their hashes.
pub(crate) struct Table {
    pub(crate) layout: Layout,
    pub(crate) filter: Box<Filter>,
    buckets: Vec<Bucket>,
    /// How many entries there are.
    pub(crate) len: usize,
}

impl Table {
    /// The table of these hashes and their words, which are made for a secret.
    pub(crate) fn of<I: Iterator<Item = (u64, u64)>>(entries: impl Fn(&Secret) -> I) -> Self {
        loop {
            let secret = secret();
            // That two of a million entries have one hash happens once in 40 million times.
            if let Some(table) = Self::try_of(secret, entries(&secret).collect()) {
                return table;
            }
        }
    }

    fn try_of(secret: Secret, mut entries: Vec<(u64, u64)>) -> Option<Self> {
        entries.sort_unstable_by_key(|(hash, _)| *hash);
        if entries.windows(2).any(|pair| pair[0].0 == pair[1].0) {
            return None;
        }
        let mut layout = Layout::for_entries(secret, entries.len());
        loop {
            let mut filter = Box::new([0; FILTER_WORDS]);
            let mut buckets = vec![Bucket::default(); layout.buckets()];
            let mut slots = entries.iter();
            if slots.all(|&(hash, word)| layout.insert(&mut filter, &mut buckets, hash, word)) {
                return Some(Self { layout, filter, buckets, len: entries.len() });
            }
            layout = layout.with_more_buckets();
        }
    }

    /// Writes the buckets into a new map.
    pub(crate) fn write(&self) -> Result<Buckets, MapError> {
        let mut map = Buckets::create(self.buckets.len() as u32, INNER_ARRAY_FLAGS | SHARED_ARRAY_FLAG)?;
        // What is never written is empty.
        let mut written = self.buckets.iter().enumerate().filter(|(_, bucket)| !bucket.is_empty());
        written.try_for_each(|(at, bucket)| map.set(at as u32, bucket, 0))?;
        Ok(map)
    }
}

/// A secret that nobody knows: the standard library keys its hashes with random numbers of the system.
pub(crate) fn secret() -> Secret {
    let random = || RandomState::new().build_hasher().finish();
    Secret { start: random(), first: random() | 1, second: random() | 1 }
}
