//! Has libFuzzer play a client of vfio-user and a driver behind it. The rules are in `vf-fuzz-drivers`; never has any of its own.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| vf_fuzz_drivers::vfio_user::drive(data));
