//! The registers of a descriptor ring that change while it runs: the tail, which its driver writes, and the head, which it may read.
//! One side is the register model of a NIC, the other the ring.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering, fence};

use crate::eventfd::EventFd;

/// Head and tail of one ring; see the module.
#[derive(Debug)]
pub struct Doorbell {
    tail: AtomicU32,
    head: AtomicU32,
    /// Whether somebody sleeps who is to be woken by a new tail.
    wanted: AtomicBool,
    kick: EventFd,
}

impl Doorbell {
    /// Head and tail are 0.
    ///
    /// # Errors
    /// The process or the system has too many open files.
    pub fn new() -> io::Result<Doorbell> {
        Ok(Doorbell {
            tail: AtomicU32::new(0),
            head: AtomicU32::new(0),
            wanted: AtomicBool::new(true),
            kick: EventFd::new()?,
        })
    }

    /// The driver has made descriptors available up to this one, whatever the number: the ring judges it.
    pub fn ring(&self, tail: u32) {
        // Release: whoever sees the tail sees the descriptors.
        self.tail.store(tail, Ordering::Release);
        // The tail must be out before the wish is read; the ring does the opposite.
        fence(Ordering::SeqCst);
        if self.wanted.load(Ordering::Relaxed) {
            self.kick.signal();
        }
    }

    /// The tail as it was last written.
    #[must_use]
    pub fn tail(&self) -> u32 {
        self.tail.load(Ordering::Acquire)
    }

    /// The first descriptor that the device is not done with.
    #[must_use]
    pub fn head(&self) -> u32 {
        self.head.load(Ordering::Acquire)
    }

    /// Descriptors before this one are the driver's again.
    pub fn set_head(&self, head: u16) {
        self.head.store(head.into(), Ordering::Release);
    }

    /// Writes the tail while no ring runs.
    pub fn set_tail(&self, tail: u32) {
        self.tail.store(tail, Ordering::Release);
    }

    /// Whether a new tail is to be signalled.
    pub(crate) fn want(&self, on: bool) {
        self.wanted.store(on, Ordering::Relaxed);
    }

    /// What is signalled.
    pub(crate) fn kick(&self) -> &EventFd {
        &self.kick
    }
}
