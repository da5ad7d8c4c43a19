#![no_main]

use interdict_fuzz::history::history;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| history(bytes));
