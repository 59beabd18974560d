//! The registers of a descriptor ring that change while it runs: the tail, which its driver writes, and the head, which it may read.
//! One side is the register model of a NIC, the other the ring. If the driver writes its registers into a page that the ring looks at
//! (a doorbell page), nobody is between the two, and nobody wakes a ring that is not looked at.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering, fence};

use crate::eventfd::EventFd;
use crate::memory::{GuestMemory, Pinned};

/// Head and tail of one ring; see the module.
#[derive(Debug)]
pub struct Doorbell {
    tail: AtomicU32,
    head: AtomicU32,
    /// Whether somebody sleeps who is to be woken by a new tail.
    wanted: AtomicBool,
    kick: EventFd,
    page: Option<DoorbellPage>,
    /// The driver was seen to have disabled the queue in its page.
    closed: AtomicBool,
}

/// The registers of a queue in a page that its driver writes.
#[derive(Debug)]
pub struct DoorbellPage {
    registers: Pinned,
    tail: usize,
    control: usize,
    enable: u32,
}

impl DoorbellPage {
    /// Registers at this address of `memory`, so many bytes of them: of 32 bits each, and among them at these offsets the tail, of which the
    /// lower 16 bits count, and a control register with a bit that enables the queue. `None` if they are not all there.
    #[must_use]
    pub fn new(
        memory: &GuestMemory,
        at: u64,
        len: usize,
        tail: usize,
        (control, enable): (usize, u32),
    ) -> Option<DoorbellPage> {
        Some(DoorbellPage {
            registers: memory.pin(at, len)?,
            tail,
            control,
            enable,
        })
    }

    #[inline]
    fn word(&self, at: usize) -> u32 {
        let registers = self.registers.slice().ok();
        // Acquire: whoever sees the tail sees the descriptors.
        let word = registers.and_then(|slice| slice.load::<u32>(at, Ordering::Acquire));
        u32::from_le(word.unwrap_or_default())
    }
}

impl Doorbell {
    /// Head and tail are 0.
    ///
    /// # Errors
    /// The process or the system has too many open files.
    pub fn new() -> io::Result<Doorbell> {
        Doorbell::with(None)
    }

    /// The tail is what the driver has in its page; while it does not enable the queue there, the ring does nothing.
    ///
    /// # Errors
    /// As of [`Doorbell::new`].
    pub fn in_page(page: DoorbellPage) -> io::Result<Doorbell> {
        Doorbell::with(Some(page))
    }

    fn with(page: Option<DoorbellPage>) -> io::Result<Doorbell> {
        Ok(Doorbell {
            tail: AtomicU32::new(0),
            head: AtomicU32::new(0),
            wanted: AtomicBool::new(true),
            kick: EventFd::new()?,
            page,
            closed: AtomicBool::new(false),
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
    #[inline]
    pub fn tail(&self) -> u32 {
        match &self.page {
            Some(page) => page.word(page.tail) & 0xffff,
            None => self.tail.load(Ordering::Acquire),
        }
    }

    /// Whether the driver lets the ring go on. Once it has been seen not to, the ring is to be started anew.
    #[inline]
    pub(crate) fn is_open(&self) -> bool {
        let Some(page) = &self.page else {
            return true;
        };
        if page.word(page.control) & page.enable == 0 {
            self.closed.store(true, Ordering::Relaxed);
        }
        !self.closed.load(Ordering::Relaxed)
    }

    /// Whether the ring has stopped by itself since the driver has disabled the queue in its page.
    #[must_use]
    pub fn has_closed(&self) -> bool {
        self.closed.load(Ordering::Relaxed)
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

    /// Writes the tail while no ring runs; the next one may go on.
    pub fn set_tail(&self, tail: u32) {
        self.tail.store(tail, Ordering::Release);
        self.closed.store(false, Ordering::Relaxed);
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
