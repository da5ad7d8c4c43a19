#![no_main]

use interdict_fuzz::policy::import_rpz;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| import_rpz(bytes));
