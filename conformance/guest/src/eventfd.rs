//! A counter in the kernel that one side bumps and the other drains: kick and call.
//!
//! Never blocks: a saturated counter is as good as a signalled one.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::event::{EventfdFlags, eventfd};

use crate::frontend::wait_readable;

/// A non-blocking eventfd.
#[derive(Debug)]
pub struct EventFd(OwnedFd);

impl EventFd {
    /// A new counter at zero.
    pub fn new() -> io::Result<EventFd> {
        Ok(EventFd(eventfd(
            0,
            EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC,
        )?))
    }

    /// Adds one.
    pub fn signal(&self) {
        // The only error of a non-blocking eventfd of our own is a saturated counter, and that is
        // a pending signal.
        let _ = rustix::io::write(&self.0, &1u64.to_ne_bytes());
    }

    /// Takes what is there; 0 when nothing was signalled.
    pub fn drain(&self) -> u64 {
        let mut count = [0; 8];
        match rustix::io::read(&self.0, &mut count) {
            Ok(8) => u64::from_ne_bytes(count),
            _ => 0,
        }
    }

    /// Waits until it is signalled; false when `wait` passes first. Drains nothing.
    pub fn wait(&self, wait: Duration) -> io::Result<bool> {
        wait_readable(self.0.as_fd(), wait)
    }
}

impl AsFd for EventFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
