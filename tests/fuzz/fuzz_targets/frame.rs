#![no_main]

use interdict_fuzz::frame::frame;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| frame(bytes));
