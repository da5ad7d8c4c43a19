#![no_main]

use interdict_fuzz::policy::import_domains;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| import_domains(bytes));
