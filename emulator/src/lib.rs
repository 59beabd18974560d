//! The program `vfnic`: its command line, and the libraries behind it under one name. The NIC is `vf-nic`; the virtual clock,
//! scenarios and experiments are `vf-lab`, which the feature `lab` (on by default) brings along. Nothing is implemented here.
//!
//! # Ask a running NIC
//!
//! ```no_run
//! use std::path::Path;
//!
//! use vfnic::control::{ask, Request, Response};
//!
//! fn main() -> Result<(), Box<dyn std::error::Error>> {
//!     let answer = ask(Path::new("/run/vfnic/ctl.sock"), &Request::Show)?;
//!     if let Response::Show(show) = answer {
//!         for nic in &show.nics {
//!             println!("{}: {} VFs", nic.name, nic.vfs.len());
//!         }
//!     }
//!     Ok(())
//! }
//! ```
#![forbid(unsafe_code)]

pub mod cli;

#[cfg(feature = "lab")]
pub use vf_lab::{
    calendar, digest, embedded, experiment, linux, provenance, scenario, timetravel, virtual_hosts,
};
pub use vf_nic::{
    capture, clock, config, control, handover, instance, log, metrics, panics, plane, queue,
    sandbox, server, state_file, tap_port, thread, tournament, uplink, watch,
};
