//! A 10 GbE NIC in software, as a library: what `vfnic run` needs on this machine's clock. It joins the pure NIC model
//! (`vf-model`) with the device side of vhost-user (`vf-vhost`) and re-implements neither. It plays no guest that is no
//! network device of the host, knows no experiment, and parses no command line.
//!
//! - [`config`]: what a user can say about NICs, VFs and wires
//! - [`server`]: all sockets on one thread
//! - [`control`]: the control socket, its protocol, and what is done about requests
//! - [`instance`]: a NIC with its hypervisor and its VFs' sockets
//! - [`plane`]: what moves frames, the direct and the mediated path
//! - [`uplink`]: what is plugged into a NIC's port
//! - [`queue`]: what carries frames between planes
//! - [`tap_port`]: a network device of the host on a VF, in place of a VM
//! - `netem`: impairments of what passes a port
//! - [`capture`]: what somebody wants to see of a running NIC
//! - [`watch`]: the frames that pass a host on the virtual clock
//! - [`clock`]: where a host gets its time from
//! - [`tournament`]: the least of many keys in one step
//! - [`log`]: the log, for which nobody waits
//! - [`handover`]: what another process needs to go on where this one is
//! - [`state_file`]: what commands have changed, for the next start
//! - [`kept`]: how far what commands change has been written down
//! - [`metrics`]: what `show` says, for scrapers
//! - [`qmp`]: a client of QEMU's monitor
//! - [`sandbox`]: what each thread may do, and nothing else
//! - [`panics`]: the end of a process with a bug
//!
//! # Serve a NIC
//!
//! One NIC with two VFs; each is a socket that a guest's VMM connects to.
//!
//! ```
//! use std::time::Duration;
//!
//! use vf_nic::config::{Config, Overrides};
//! use vf_nic::sandbox::Sandbox;
//! use vf_nic::server::Server;
//!
//! fn main() -> Result<(), Box<dyn std::error::Error>> {
//!     let dir = tempfile::tempdir()?;
//!     let overrides = Overrides {
//!         socket_dir: Some(dir.path().to_owned()),
//!         vfs: Some(2),
//!         ..Overrides::default()
//!     };
//!     let mut server = Server::start(Config::load(None, &overrides)?, Sandbox::Off)?;
//!     assert!(dir.path().join("vf1.sock").exists());
//!     // `Server::run` serves until a signal says stop; here it is once.
//!     server.step(Some(Duration::from_millis(1)))?;
//!     Ok(())
//! }
//! ```
#![forbid(unsafe_code)]

pub mod capture;
pub mod clock;
pub mod config;
pub mod control;
mod ctrl_queue;
pub mod handover;
pub mod instance;
pub mod kept;
pub mod log;
pub mod metrics;
mod netem;
pub mod panics;
pub mod plane;
pub mod qmp;
pub mod queue;
pub mod sandbox;
pub mod server;
pub mod state_file;
pub mod tap_port;
pub mod thread;
pub mod tournament;
pub mod uplink;
pub mod watch;
