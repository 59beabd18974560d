//! The device side of PCI network functions.
//!
//! A [`Function`](function::Function) is the model of one family of virtual function: its registers and what they do. There are two,
//! [`ixgbevf`] and [`ef10`]. What it asks of the NIC that it is a part of, it asks its [`Host`](function::Host). Everything that is
//! alike in all PCI functions is here once: configuration space ([`config_space`]), interrupts ([`msix`]), and both with a function between
//! them in a [`Slot`](slot::Slot). By [`vfio_user`] a hypervisor reaches it, by [`pcidev`] a kernel of
//! User-Mode Linux.
//!
//! Nothing that a guest's driver or its hypervisor does makes this crate panic, block or touch memory that it was not given, and no
//! decision about a frame is made here.

#![forbid(unsafe_code)]
// As in vf-vhost: code says how it knows that an index is inside, a number fits and a sum does not wrap.
#![cfg_attr(
    not(test),
    warn(
        clippy::arithmetic_side_effects,
        clippy::cast_possible_truncation,
        clippy::indexing_slicing
    )
)]

pub mod config_space;
mod counted;
pub mod ef10;
mod flow_hash;
pub mod function;
pub mod ixgbevf;
pub mod msix;
pub mod pcidev;
pub mod slot;
pub mod vfio_user;
