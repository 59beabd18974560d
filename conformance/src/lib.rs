//! The guest side of vhost-user: a front end, a split-virtqueue driver, a virtio-net device
//! driver, TCP guests on top of it, a suite of cases that judges back ends with them, and a load
//! generator that measures them.
//!
//! Everything here is written from the documents (virtio 1.x, the vhost-user document) and shares
//! no code with the device side it judges. Two properties set it apart from an ordinary driver:
//! it can *lie* (raw messages, raw descriptors, false indices, wrong file descriptors), and it
//! never reads a clock in the data path: [`guest::Guest::poll`] takes the time as an argument, so
//! that an experiment may run on a virtual clock.
//!
//! - [`message`]: the wire format of vhost-user, as a front end writes it
//! - [`frontend`]: one session over one Unix socket
//! - [`memory`]: guest memory in a memfd, and an allocator on it
//! - [`driver`]: the driver's end of one split virtqueue
//! - [`net`]: a virtio-net driver over a session
//! - [`guest`]: a TCP/IP host (smoltcp) on one net device
//! - [`subject`], [`mod@bench`], [`case`], [`cases`], [`report`]: the suite
//! - [`load`]: the load generator

#![forbid(unsafe_code)]

pub mod bench;
pub mod case;
pub mod cases;
mod checksum;
mod control;
pub mod driver;
pub mod eventfd;
pub mod frontend;
pub mod guest;
pub mod load;
#[cfg(test)]
mod loopback;
pub mod memory;
pub mod message;
pub mod net;
mod net_layout;
mod pattern;
mod phy;
pub mod report;
mod stream;
pub mod subject;
