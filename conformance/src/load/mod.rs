//! A load generator for vhost-user net back ends, on one thread.
//!
//! Sends and receives frames on any number of ports as fast as it goes or at a rate, keeps account
//! of each frame by the number in it, and tells which side was the bottleneck. The rings here are
//! written for speed; what they cannot do, the suite's [`crate::driver`] can. Never judges what it
//! measures.

mod account;
mod command;
mod compare;
mod counter;
mod distance;
mod frame;
mod generator;
mod packed;
mod plan;
mod plot;
mod port;
mod record;
mod search;
mod sequence;
mod split;
mod table;
mod vring;

pub use command::{Bench, BenchError};
pub use compare::Compare;
