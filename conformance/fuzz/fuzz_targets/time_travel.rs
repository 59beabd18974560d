//! Has libFuzzer feed the messages of the virtual clock. The rules are in `vf-fuzz-drivers`; never has any of its own.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| vf_fuzz_drivers::time_travel::drive(data));
