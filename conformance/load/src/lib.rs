//! A load generator for vhost-user net back ends, and VFs of hardware beside them, on one thread.
//!
//! It plays a guest on any number of ports, sends and receives frames as fast as it goes or at a rate, keeps account of each
//! frame by the number in it, and tells which side was the bottleneck. It never judges what it measures; [`Compare`] sets
//! measurements against each other, and only those that were made under like conditions. The rings here are written for
//! speed; what they cannot do, [`vf_guest::driver`] can.
//!
//! Both commands are clap arguments, so that another program can have them as subcommands:
//!
//! ```no_run
//! use clap::Parser;
//!
//! #[derive(Parser)]
//! enum Command {
//!     Bench(vf_load::Bench),
//!     Compare(vf_load::Compare),
//! }
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! // Two ports of a back end that listens; 64-byte frames, one second, one round.
//! let words = "load bench --socket /tmp/a --socket /tmp/b --size 64 --rounds 1";
//! match Command::parse_from(words.split(' ')) {
//!     Command::Bench(bench) => bench.run(&mut std::io::stdout())?,
//!     Command::Compare(compare) => {
//!         compare.run(&mut std::io::stdout())?;
//!     }
//! }
//! # Ok(())
//! # }
//! ```

#![forbid(unsafe_code)]

mod account;
mod bars;
mod beside;
mod command;
mod compare;
mod counter;
mod distance;
mod frame;
mod generator;
mod intel;
mod packed;
mod page;
mod plan;
mod plot;
mod port;
mod record;
mod rounds;
mod search;
mod sequence;
mod split;
mod table;
mod vring;
mod wire;

pub use command::{Bench, BenchError};
pub use compare::Compare;
