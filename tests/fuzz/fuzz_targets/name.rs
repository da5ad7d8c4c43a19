#![no_main]

use interdict_fuzz::policy::name;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| name(bytes));
