//! The device side of vhost-user and virtio-net.
//!
//! Two halves meet here. The protocol half ([`message`], [`session`], [`endpoint`], [`memory`],
//! [`eventfd`], [`control`]) turns bytes and file descriptors from a front end into rings that may
//! run. The ring half ([`vring`], [`ring`], [`tx`], [`rx`]) moves frames through them.
//! Nothing in this crate knows what a virtual function, a filter or a link is, and nothing a
//! guest, a front end or the wire sends may make it panic, block or touch memory it was not given.
//!
//! # Serve a device
//!
//! A device on a socket that sends every frame back to its guest. An [`Endpoint`](endpoint::Endpoint) serves the front end and
//! hands its rings to a [`Device`](endpoint::Device); whoever has the rings moves frames, on this thread as here, or on
//! another. A program that does not want to poll [registers](endpoint::Endpoint::register) the socket and the kicks of the
//! rings ([`Vring::kick_fd`](vring::Vring::kick_fd)) with mio.
//!
//! ```
//! use std::time::Instant;
//!
//! use vf_vhost::control::CtrlCommand;
//! use vf_vhost::endpoint::{Device, DeviceConfig, Endpoint, SessionEvent};
//! use vf_vhost::frame::TagEdit;
//! use vf_vhost::ring::RingError;
//! use vf_vhost::{rx::RxQueue, tx::TxQueue, vring::Vring};
//!
//! #[derive(Default)]
//! struct Echo(Option<RxQueue>, Option<TxQueue>);
//!
//! impl Device for Echo {
//!     fn start_rings(&mut self, rings: Vec<Vring>) {
//!         for ring in rings {
//!             match ring.index() {
//!                 0 => self.0 = Some(RxQueue::new(ring)),
//!                 _ => self.1 = Some(TxQueue::new(ring)),
//!             }
//!         }
//!     }
//!     fn stop_rings(&mut self, rings: &[u32]) -> Vec<Option<Vring>> {
//!         let stop = |ring: &u32| match ring {
//!             0 => self.0.take().map(RxQueue::into_vring),
//!             _ => self.1.take().map(TxQueue::into_vring),
//!         };
//!         rings.iter().map(stop).collect()
//!     }
//!     fn allows(&mut self) -> bool {
//!         true // a command that stops rings for a moment: nobody else is held up here
//!     }
//!     fn command(&mut self, _: &CtrlCommand) -> bool {
//!         false // nothing that a driver could ask for is served
//!     }
//!     fn session(&mut self, event: SessionEvent<'_>) {
//!         println!("{event:?}");
//!     }
//! }
//!
//! impl Echo {
//!     fn poll(&mut self) -> Result<(), RingError> {
//!         let (Some(rx), Some(tx)) = (&mut self.0, &mut self.1) else {
//!             return Ok(()); // no driver yet
//!         };
//!         let n = tx.fetch()?;
//!         for frame in tx.fetched().iter().filter(|frame| frame.fault().is_none()) {
//!             // Straight from one buffer of the guest to the other; without a buffer the frame is lost.
//!             rx.deliver_from(tx, std::slice::from_ref(frame), TagEdit::Keep)?;
//!         }
//!         tx.complete(n);
//!         tx.flush(); // shows the driver what was used, and calls it if it wants that
//!         rx.flush();
//!         Ok(())
//!     }
//! }
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let folder = tempfile::tempdir()?;
//! # let path = folder.path().join("echo.sock");
//! let config = DeviceConfig::new("echo", [0x02, 0, 0, 0, 0, 1], 1);
//! let mut endpoint = Endpoint::listen(&path, config)?;
//! let mut echo = Echo::default();
//! # let guest = std::thread::spawn(move || {
//! #     use vf_guest::{frontend::Frontend, net::{NetConfig, NetDevice, NetHeader, RxFrame}};
//! #     let mut guest = NetDevice::start(Frontend::connect(path).unwrap(), &NetConfig::default()).unwrap();
//! #     let frame: Vec<u8> = (0..100).collect();
//! #     guest.send(0, &NetHeader::default(), &frame).unwrap();
//! #     guest.kick();
//! #     let mut back = RxFrame::default();
//! #     while !guest.recv(0, &mut back).unwrap() {
//! #         assert!(guest.wait_rx_call(0, std::time::Duration::from_secs(10)).unwrap());
//! #     }
//! #     assert_eq!(back.bytes(), frame);
//! # });
//! # while !guest.is_finished() {
//! #     /*
//! loop {
//! #     */
//!     endpoint.poll(Instant::now(), &mut echo);
//!     // An error is the driver's: its ring does nothing more until the front end starts it again.
//!     let _ = echo.poll();
//! #     std::thread::yield_now();
//! }
//! # guest.join().map_err(|_| "the guest got something else")?;
//! # Ok(())
//! # }
//! ```

// New code says how it knows that an index is inside, a number fits and a sum does not wrap, or why it need not; each file that does
// not yet says so at its top.
#![cfg_attr(
    not(test),
    warn(
        clippy::arithmetic_side_effects,
        clippy::cast_possible_truncation,
        clippy::indexing_slicing
    )
)]

mod backend;
mod chain;
pub mod change_limiter;
pub mod channel;
pub mod closer;
mod coalescing;
mod config;
pub mod control;
mod descriptor;
mod device_queue;
pub mod endpoint;
pub mod error;
pub mod eventfd;
pub mod features;
pub mod frame;
pub mod hardware;
pub mod interrupt_timer;
mod limits;
pub mod listener;
pub mod memory;
pub mod message;
pub mod message_queue;
pub mod net_hdr;
mod packed;
pub mod packet_socket;
mod raw;
pub mod rest;
pub mod ring;
pub mod rx;
pub mod session;
mod split;
pub mod tap;
pub mod tx;
pub mod udp_socket;
pub mod vring;
pub mod watchdog;
