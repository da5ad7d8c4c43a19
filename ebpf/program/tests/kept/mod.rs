//! A table of hashes as the kernel has it, on the host.

use interdict_ebpf_shared::table::{Bucket, FILTER_WORDS, Filter, Layout, Secret, Table};

pub(crate) const SECRET: Secret =
    Secret { start: 0x243f_6a88_85a3_08d3, first: 0x1319_8a2e_0370_7345, second: 0xa409_3822_299f_31d1 };

pub(crate) struct Kept {
    pub(crate) layout: Layout,
    filter: Box<Filter>,
    buckets: Vec<Bucket>,
}

impl Kept {
    /// The table of these hashes and their words.
    pub(crate) fn of(entries: &[(u64, u64)]) -> Self {
        let mut layout = Layout::for_entries(SECRET, entries.len());
        loop {
            let mut filter = Box::new([0; FILTER_WORDS]);
            let mut buckets = vec![Bucket::default(); layout.buckets()];
            let mut all = entries.iter();
            if all.all(|&(hash, word)| layout.insert(&mut filter, &mut buckets, hash, word)) {
                return Self { layout, filter, buckets };
            }
            layout = layout.with_more_buckets();
        }
    }
}

impl Table for Kept {
    fn filter(&self, at: usize) -> u64 {
        self.filter[at]
    }

    fn bucket(&self, at: u64) -> Option<&Bucket> {
        self.buckets.get(at as usize)
    }
}
