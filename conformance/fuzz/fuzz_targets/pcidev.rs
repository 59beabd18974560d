//! Has libFuzzer play a kernel on its PCI bus. The rules are in `vf-fuzz-drivers`; never has any of its own.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| vf_fuzz_drivers::pcidev::drive(data));
