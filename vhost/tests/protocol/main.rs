//! The protocol half over real sockets, memory and eventfds. No VMM of others: front ends are a few lines each.

// The test configuration of the lint knows `#[test]` functions, not their helpers.
#![allow(clippy::unwrap_used)]

mod control;
mod front_end;
mod handover;
mod hostile;
mod in_band;
mod sessions;
mod sockets;
