//! What is fuzzed: a function for each place where bytes come in from a guest, a front end, the wire, a file or a socket. Each takes
//! any bytes, and panics if what comes of them breaks a rule that it has written down.
//!
//! `cargo test` feeds them random bytes and the inputs that are kept in `conformance/fuzz/corpus`; `cargo fuzz` (in
//! `conformance/fuzz`) looks for better ones. Everything is reached through the crates' public interfaces: what a fuzzer cannot
//! reach, nobody outside can. Nothing here judges a back end.
#![forbid(unsafe_code)]
#![allow(
    clippy::unwrap_used,
    missing_docs,
    reason = "a panic is what these functions find things by; each module says what it drives"
)]

mod bytes;
pub mod config_file;
pub mod control_queue;
pub mod control_words;
mod guest;
pub mod judge;
pub mod net_header;
pub mod pcidev;
pub mod rings;
pub mod session;
pub mod time_travel;
pub mod vfio_user;

/// A driver: any bytes in, a panic if a rule is broken.
pub type Driver = fn(&[u8]);

/// All there are, by the names of their fuzz targets.
pub const ALL: [(&str, Driver); 11] = [
    ("session", session::drive),
    ("split_walk", rings::drive_split),
    ("packed_walk", rings::drive_packed),
    ("net_header", net_header::drive),
    ("judge", judge::drive),
    ("control_queue", control_queue::drive),
    ("control_words", control_words::drive),
    ("config_file", config_file::drive),
    ("time_travel", time_travel::drive),
    ("vfio_user", vfio_user::drive),
    ("pcidev", pcidev::drive),
];
