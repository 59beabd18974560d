//! The laboratory: hosts of `vf-nic` on a virtual clock, guests that take their time from it, and what is measured with
//! them. The planes are the very ones that `vfnic run` has; nothing of the NIC is written again here, and no figure is made to
//! fit.
//!
//! - [`calendar`]: the virtual clock
//! - [`virtual_hosts`]: hosts stepped by it
//! - [`digest`]: a number that tells two runs apart
//! - [`timetravel`]: Linux guests that take their time from it
//! - [`linux`]: starting those guests
//! - [`embedded`]: guests in this process that do
//! - [`scenario`]: files that say what guests and administrators do, and what is to come of it
//! - [`experiment`]: the 2009 measurement on either clock
//! - [`provenance`]: which build and machine figures come from
//!
//! # Repeat the experiment of 2009
//!
//! A short one, with a stream each way. The figures are the same on every machine.
//!
//! ```
//! use vf_lab::experiment::{self, ClockMode, ExperimentPlan};
//! use vf_model::Nanos;
//!
//! fn main() -> Result<(), Box<dyn std::error::Error>> {
//!     let plan = ExperimentPlan {
//!         a_to_b: 1,
//!         b_to_a: 1,
//!         warm_up: Nanos(5_000_000),
//!         measure: Nanos(5_000_000),
//!         ..ExperimentPlan::default()
//!     };
//!     let outcome = experiment::run(&plan, &[ClockMode::Virtual], None, |_, _, _| {})?;
//!     let [mediated, direct] = &outcome.results[..] else {
//!         return Err("there are two paths".into());
//!     };
//!     assert!(direct.total_mbps > mediated.total_mbps);
//!     Ok(())
//! }
//! ```
#![forbid(unsafe_code)]

pub mod calendar;
pub mod digest;
pub mod embedded;
pub mod experiment;
pub mod linux;
mod page;
pub mod provenance;
pub mod scenario;
mod segment;
pub mod timetravel;
pub mod virtual_hosts;
