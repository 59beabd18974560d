//! A suite that judges vhost-user net back ends at their sockets.
//!
//! It plays the guest ([`vf_guest`]) and looks at what the back end does: whether it keeps the MUSTs and SHOULDs of virtio and
//! of the vhost-user document, and whether it contains what a hostile guest or front end may do to it. It never looks inside a
//! back end (a subject is known by its sockets and its exit status), shares no code with any, and passes a case only when the
//! case ran: an unmet need is a skip with its reason.
//!
//! - [`subject`]: the back end under test
//! - [`case`](mod@case), [`cases`], [`verdict`]: what is asked of it, and how that ends
//! - [`runner`]: how all of that is run
//! - [`group`]: programs that the suite has started, and their end
//! - [`adapter`]: how a subject is administered, for cases about that
//! - [`mod@bench`]: what cases are written with
//! - [`table`]: several subjects beside each other
//! - `front_end` (feature `cli`): the other half, front ends judged by a back end of ours
//! - `ledger` (feature `cli`): what the documents ask, and which case judges it
//! - [`report`]: findings as text and JSON, and which of them count
//! - [`junit`]: findings as JUnit
//!
//! The program `vf-conformance` (feature `cli`) runs the suite, and the load generator [`vf-load`](../vf_load/index.html).
//!
//! # Judge a back end
//!
//! ```no_run
//! use vf_conformance::bench::Bench;
//! use vf_conformance::report::Measure;
//! use vf_conformance::subject::Subject;
//! use vf_conformance::runner::{self, Plan};
//! use vf_conformance::{cases, report};
//!
//! fn main() -> Result<(), Box<dyn std::error::Error>> {
//!     let mut bench = Bench::new(Subject {
//!         socket: "/run/vfnic/nic0-vf0.sock".into(),
//!         peer: Some("/run/vfnic/nic0-vf1.sock".into()),
//!         ..Subject::default()
//!     })?;
//!     let rings = cases::matching(&["ring/".to_owned()]);
//!     let measure = Measure::default();
//!     let findings = runner::run(&mut bench, &rings, &Plan::default(), |finding| {
//!         let _ = report::line(finding, &measure, None, &mut std::io::stdout());
//!     })?;
//!     let fails = findings.iter().any(|finding| measure.standing(finding).fails());
//!     std::process::exit(fails.into());
//! }
//! ```

#![forbid(unsafe_code)]

pub mod adapter;
mod administration;
pub mod bench;
pub mod case;
pub mod cases;
mod control;
#[cfg(feature = "cli")]
pub mod front_end;
pub mod group;
mod in_use;
#[cfg(feature = "cli")]
pub mod junit;
#[cfg(feature = "cli")]
pub mod ledger;
mod level;
mod link;
mod listener;
mod notes;
mod port;
pub mod report;
pub mod runner;
pub mod subject;
pub mod table;
pub mod verdict;
mod victim;
