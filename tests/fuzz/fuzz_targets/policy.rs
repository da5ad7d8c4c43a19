#![no_main]

use interdict_fuzz::policy::policy;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| policy(bytes));
