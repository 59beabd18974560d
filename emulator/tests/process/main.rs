//! The real `vfnic` process with guests on its sockets. Every wait has an end far beyond what is needed, and nothing
//! is said about speed: the machine may be busy with anything else.
#![forbid(unsafe_code)]
// All of it is test code; what is not a `#[test]` itself only serves one.
#![allow(clippy::unwrap_used)]

mod attack;
mod batch;
mod blocking;
mod capture;
mod check;
mod clients;
mod commands;
mod completions;
mod control;
mod emulator;
mod exhaustion;
mod hardware;
mod hardware_attacks;
mod hardware_hostile;
mod host;
mod hostile;
mod idle;
mod impairments;
mod in_use;
mod kills;
mod link_method;
mod logging;
mod metrics;
mod netns;
mod num_vfs;
mod policy;
mod port;
mod protocol;
mod random;
mod ready;
mod refused;
mod restart;
mod sandbox;
mod save;
#[cfg(feature = "lab")]
mod scenario;
mod show;
mod soak;
mod sockets;
mod switch;
mod switching;
mod tap;
#[cfg(feature = "top")]
mod top;
mod traffic;
mod upgrade;
mod why;
