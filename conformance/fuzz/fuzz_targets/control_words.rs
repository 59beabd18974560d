//! Has libFuzzer feed the words of the control socket. The rules are in `vf-fuzz-drivers`; never has any of its own.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| vf_fuzz_drivers::control_words::drive(data));
