//! Guests from outside on the virtual clock: User-Mode Linux with `time-travel=ext:` takes its time from a calendar's
//! socket, and its NICs are in-band vhost-user devices. At most one guest runs at a time.
//!
//! - `message`: what guest and calendar say to each other
//! - `schedule`: the memory that they share, so that they need not say most of it
//! - `guests`: the calendar's socket and the guests on it
//! - `control`: the control socket
//! - `children`: those guests that this process has started itself
//! - `simulation`: the loop that runs guests and hosts in turn
//! - `receive`: what guests say while it does
//! - `faults`: guests that end or break the rules
//! - `error`: why it cannot go on
//!
//! Starts no guest: `linux` does.

mod children;
mod control;
mod error;
mod faults;
mod guests;
mod message;
mod receive;
mod schedule;
mod simulation;
#[cfg(test)]
mod tests;

pub use error::SimulationError;
pub use simulation::{Settings, Simulation, Summary};
