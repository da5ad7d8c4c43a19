#![no_main]

use interdict_fuzz::history::offer;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| offer(bytes));
