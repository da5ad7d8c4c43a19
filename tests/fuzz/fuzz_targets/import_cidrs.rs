#![no_main]

use interdict_fuzz::policy::import_cidrs;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| import_cidrs(bytes));
