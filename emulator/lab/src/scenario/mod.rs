//! `vfnic scenario`: a file names NICs, wires, guests, their jobs, commands at given times and what is to come out of it.
//! It runs on the virtual clock, the same to the bit each time, with guests in this process or with Linux kernels.
//!
//! - `parse`: the words of a file
//! - [`plan`](ScenarioPlan): what they mean, and `check` how that is found; `error`: what can be wrong with them
//! - `shipped`: the files that come with the program
//! - [`run`](run()): doing it
//! - `guests`, `embedded`, `linux`: who plays the guests
//! - `traffic`, `receivers`, `reading`, `record`: what is measured
//! - [`comparison`](Comparison): several files, or one with several profiles, side by side
//! - `expect`: what was promised
//! - [`capture`](Capture): pcapng files
//! - [`outcome`](ScenarioOutcome), [`report`](text()), `page`: what came out
//!
//! Writes nothing of the NIC again.

mod capture;
mod check;
mod comparison;
mod embedded;
mod error;
mod expect;
mod guests;
mod linux;
mod outcome;
mod page;
mod parse;
mod plan;
mod reading;
mod receivers;
mod record;
mod report;
mod run;
mod shipped;
#[cfg(test)]
mod tests;
mod traffic;

pub use capture::{Capture, CaptureError};
pub use comparison::{Cell, CompareError, Comparison, Row, Said, compare};
pub use error::{LoadError, ScenarioError};
pub use expect::CheckResult;
pub use guests::RunError;
pub use outcome::{EventOutcome, JobOutcome, NicOutcome, Sample, ScenarioOutcome};
pub use page::html;
pub use plan::{GuestKind, ScenarioPlan};
pub use report::text;
pub use run::{Options, run};
pub use shipped::Shipped;
