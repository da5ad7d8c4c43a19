#![no_main]

use interdict_fuzz::policy::import_hosts;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| import_hosts(bytes));
