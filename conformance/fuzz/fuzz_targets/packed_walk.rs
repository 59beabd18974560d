//! Has libFuzzer feed the walk of a packed ring. The rules are in `vf-fuzz-drivers`; never has any of its own.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| vf_fuzz_drivers::rings::drive_packed(data));
