#![no_main]

use interdict_fuzz::wire::wire;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| wire(bytes));
