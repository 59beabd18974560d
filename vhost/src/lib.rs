//! The device side of vhost-user and virtio-net.
//!
//! Two halves meet here. The protocol half ([`message`], [`session`], [`endpoint`], [`memory`],
//! [`eventfd`], [`control`]) turns bytes and file descriptors from a front end into rings that may
//! run. The ring half ([`vring`], [`ring`], [`tx`], [`rx`] and the offloads) moves frames through them.
//! Nothing in this crate knows what a virtual function, a filter or a link is, and nothing a
//! guest, a front end or the wire sends may make it panic, block or touch memory it was not given.

mod backend;
mod channel;
pub mod checksum;
mod coalescing;
mod config;
pub mod control;
mod descriptor;
pub mod endpoint;
pub mod error;
pub mod eventfd;
pub mod features;
pub mod frame;
mod limits;
pub mod listener;
pub mod memory;
pub mod message;
pub mod net_hdr;
mod packed;
mod raw;
pub mod ring;
pub mod rx;
pub mod segment;
pub mod session;
mod split;
mod tcp;
pub mod tx;
pub mod vring;
mod watchdog;
