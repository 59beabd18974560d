#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| vf_fuzz_drivers::judge::drive(data));
