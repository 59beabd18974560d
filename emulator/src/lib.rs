//! The process: data path, sockets, control, and the experiment. Joins the pure NIC model (`vf-model`) with the device
//! side of vhost-user (`vf-vhost`); re-implements neither.
//!
//! - [`plane`]: what moves frames, the direct and the mediated path
//! - [`uplink`]: what is plugged into a NIC's port
//! - [`log`]: the log, for which nobody waits
//! - [`panics`]: the end of a process with a bug
//! - [`host`]: a NIC with its hypervisor and its VFs' sockets
//! - [`server`]: `vfnic run`, all sockets on one thread
//! - [`calendar`]: the virtual clock
//! - [`world`]: hosts stepped by it
//! - [`watch`]: the frames that pass them, for captures and digests
//! - [`timetravel`]: Linux guests that take their time from it
//! - [`linux`]: starting those guests
//! - [`embedded`]: guests in this process that do
//! - [`scenario`]: files that say what guests and administrators do, and what is to come of it
//! - [`experiment`]: the 2009 measurement on either clock
#![forbid(unsafe_code)]

pub mod calendar;
pub mod cli;
pub mod clock;
pub mod config;
pub mod ctl;
pub mod embedded;
pub mod experiment;
pub mod host;
pub mod linux;
pub mod log;
mod mailbox;
pub mod panics;
pub mod plane;
pub mod scenario;
pub mod server;
pub mod show;
pub mod timetravel;
mod tournament;
pub mod uplink;
pub mod watch;
pub mod world;
