//! A guest without a machine: the front end's side of vhost-user, from the socket up to TCP.
//!
//! A program that wants to talk to a vhost-user net back end plays the guest and its VMM with this crate: it connects,
//! negotiates, shares memory, drives split or packed virtqueues, and sends and receives frames; or it runs a small TCP/IP host
//! on the device. Everything is written from the documents (virtio 1.x, the vhost-user document) and shares no code with the
//! back end that it talks to, so that it can judge one.
//!
//! It never reads a clock in the data path ([`tcp::TcpGuest::poll`] takes the time as an argument, so that an experiment may run on
//! a virtual clock), starts no thread, and never trusts what the device has written: a rule that the device breaks comes back
//! as a [`driver::DeviceFault`]. It also can *lie* (raw messages, raw descriptors, false indices, wrong file descriptors), which
//! a conformance suite needs and nobody else should use.
//!
//! - [`message`]: the wire format of vhost-user, as a front end writes it
//! - [`frontend`]: one session over one Unix socket
//! - [`memory`]: guest memory in a memfd, and an allocator on it
//! - [`eventfd`]: kicks and calls
//! - [`driver`]: the driver's end of one virtqueue, split or packed
//! - [`net`]: a virtio-net driver over a session
//! - [`ixgbevf`], [`sfc`]: drivers of an 82599 and of an EF10 virtual function
//! - [`pci`], [`pcidev`]: such a function over vfio-user, and on the bus of a User-Mode Linux kernel
//! - [`checksum`]: the Internet checksum, and where TCP lies in a frame
//! - [`tcp`]: a TCP/IP host (smoltcp) on one net device
//! - [`loopback`], [`cable`]: the other end in the same process, to try a driver or a guest without a back end
//!
//! # Play a guest
//!
//! Two ports of one switch: what is sent on the first arrives at the second.
//!
//! ```no_run
//! use std::time::Duration;
//!
//! use vf_guest::frontend::Frontend;
//! use vf_guest::net::{NetConfig, NetDevice, NetHeader, RxFrame, feature};
//!
//! fn main() -> Result<(), Box<dyn std::error::Error>> {
//!     // Packed rings, if the back end offers them.
//!     let config = NetConfig {
//!         features: NetConfig::PLAIN | feature::RING_PACKED,
//!         ..NetConfig::default()
//!     };
//!     let mut sender = NetDevice::start(Frontend::connect("/run/vfnic/nic0-vf0.sock")?, &config)?;
//!     let mut receiver = NetDevice::start(Frontend::connect("/run/vfnic/nic0-vf1.sock")?, &config)?;
//!
//!     let mut frame = vec![0; 60];
//!     frame[..6].copy_from_slice(&receiver.config_space().mac);
//!     frame[6..12].copy_from_slice(&sender.config_space().mac);
//!     frame[12..14].copy_from_slice(&[0x88, 0xb5]); // an EtherType for experiments
//!     sender.send(0, &NetHeader::default(), &frame)?;
//!     sender.kick();
//!
//!     let mut got = RxFrame::default();
//!     while !receiver.recv(0, &mut got)? {
//!         if !receiver.wait_rx_call(0, Duration::from_secs(2))? {
//!             return Err("the frame did not arrive".into());
//!         }
//!     }
//!     assert_eq!(got.bytes(), frame);
//!     Ok(())
//! }
//! ```
//!
//! Without a back end, two TCP guests on a cable in this process:
//!
//! ```
//! use std::net::Ipv4Addr;
//!
//! use vf_guest::cable::Cable;
//! use vf_guest::net::{NetConfig, NetDevice, Notify};
//! use vf_guest::tcp::{GuestConfig, TcpGuest};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let guest = |number| {
//!     let polled = NetConfig { notify: Notify::Polled, ..NetConfig::default() };
//!     let config = GuestConfig {
//!         mac: [2, 0, 0, 0, 0, number],
//!         ip: Ipv4Addr::new(10, 0, 0, number),
//!         ..GuestConfig::default()
//!     };
//!     // With every feature acknowledged that the configuration asks for.
//!     NetDevice::detached(u64::MAX, &polled).map(|device| TcpGuest::new(config, device))
//! };
//! let ten_gigabit = 0.8; // nanoseconds a byte
//! let mut cable = Cable::new([guest(1)?, guest(2)?], ten_gigabit);
//! let to = cable.guests[0].send_to(Ipv4Addr::new(10, 0, 0, 2), 5001, Some(1_000_000));
//! let from = cable.guests[1].receive_on(5001);
//! cable.run(100_000_000, &mut |_side, _frame| true);
//! assert!(cable.guests[0].stream(to).done);
//! assert_eq!(cable.guests[1].stream(from).received, 1_000_000);
//! # Ok(())
//! # }
//! ```

#![forbid(unsafe_code)]

#[cfg(feature = "tcp")]
pub mod cable;
pub mod checksum;
pub mod driver;
pub mod eventfd;
pub mod frontend;
pub mod ixgbevf;
pub mod loopback;
pub mod memory;
pub mod message;
pub mod net;
mod net_layout;
mod net_ring;
#[cfg(feature = "vfio-user")]
pub mod pci;
pub mod pcidev;
pub mod sfc;
#[cfg(feature = "tcp")]
pub mod tcp;
