//! vfio-user: the protocol by which a hypervisor (QEMU, cloud-hypervisor) hands a PCI function of another process to its guest
//! ("vfio-user Protocol Specification" in QEMU's documents). We are its server.
//!
//! [`message`] is the words, [`session`] what they mean, [`endpoint`] a socket with one session at a time.
//!
//! Knows no register of the function.

pub mod endpoint;
pub mod message;
pub mod session;
