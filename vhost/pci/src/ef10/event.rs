//! Event queues: where an EF10 NIC says what it has done, 8 bytes at a time. One queue is shared by the rings that complete into it, each on
//! its thread, and by the controller, which answers requests and tells of the link on another.
//!
//! An entry that holds no event is all ones; the driver makes it so again when it has read it. The NIC never looks: a driver that does not
//! read loses what it has not read.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use vf_vhost::error::RingError;
use vf_vhost::interrupt_timer::InterruptTimer;
use vf_vhost::memory::GuestMemory;

use crate::msix::Vectors;

/// Bytes of an event.
const EVENT: usize = 8;
/// Bytes of a page that a queue is made of.
pub(crate) const PAGE: usize = 4096;
/// Most events of a queue: as many as its read pointer can name.
pub(crate) const MAX_EVENTS: u32 = 1 << 15;

/// Something that a driver is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Event(pub(crate) u64);

/// Which kind of event: the highest four bits.
const CODE: u32 = 60;
const RECEIVED: u64 = 0;
const SENT: u64 = 2;
const DRIVER: u64 = 5;
const CONTROLLER: u64 = 12;
/// Which kind, of the controller's.
const CONTROLLER_CODE: u32 = 44;
/// Of a flush: that it is the copy on the first queue.
const TO_DRIVER: u64 = 1 << 12;

/// What a queue of frames is, to a flush event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Direction {
    Receive,
    Transmit,
}

/// A link as the driver is told of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct LinkState {
    pub(crate) up: bool,
    pub(crate) mbps: u32,
}

/// What has been received into one descriptor.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Received {
    /// What the driver calls its queue.
    pub(crate) label: u32,
    /// The descriptor behind it.
    pub(crate) next: u16,
    /// Bytes in it.
    pub(crate) bytes: u32,
    /// Whether the frame goes on in the next.
    pub(crate) goes_on: bool,
    /// VLAN tags in front of it, 2 at most.
    pub(crate) tags: u8,
    /// Whether the checksum of its IPv4 header is wrong.
    pub(crate) bad_ip_checksum: bool,
    /// Whether that of what it carries is.
    pub(crate) bad_transport_checksum: bool,
    /// The kind of packet: 1 IPv4, 2 IPv6, 4 and 6 a part of one, 5 ARP, 0 another.
    pub(crate) network: u8,
    /// What is in it, if its checksum was looked at: 1 TCP, 2 UDP, 0 another.
    pub(crate) transport: u8,
}

impl Event {
    fn of_controller(code: u64, data: u32) -> Event {
        Event(CONTROLLER << CODE | code << CONTROLLER_CODE | u64::from(data))
    }

    /// A queue of events is there.
    pub(crate) fn started(instance: u32) -> Event {
        Event(DRIVER << CODE | 2 << 56 | u64::from(instance & 0x3fff))
    }

    /// Descriptors up to this one have been sent.
    pub(crate) fn sent(label: u32, last: u16) -> Event {
        Event(SENT << CODE | u64::from(label & 0x1f) << 16 | u64::from(last))
    }

    /// See [`Received`].
    pub(crate) fn received(received: &Received) -> Event {
        Event(
            RECEIVED << CODE
                | u64::from(received.next & 0xf) << 48
                | u64::from(received.transport & 7) << 45
                | u64::from(received.network & 7) << 42
                | u64::from(received.tags & 7) << 39
                | u64::from(received.bad_transport_checksum) << 26
                | u64::from(received.bad_ip_checksum) << 25
                | u64::from(received.label & 0x1f) << 16
                | u64::from(received.goes_on) << 14
                | u64::from(received.bytes & 0x3fff),
        )
    }

    /// A request has been answered.
    pub(crate) fn answered(sequence: u8, len: usize, error: u32) -> Event {
        let len = u32::from(u8::try_from(len).unwrap_or(u8::MAX));
        // Errors of the firmware's own do not fit: the driver reads them in the answer.
        Event::of_controller(3, u32::from(sequence) | len << 8 | (error & 0xff) << 16)
    }

    /// The link is another: in the form of an event of version 2, if the driver has asked for that.
    pub(crate) fn link(link: LinkState, v2: bool) -> Event {
        let speed = match link.mbps {
            100 => 1,
            1_000 => 2,
            10_000 => 3,
            40_000 => 4,
            25_000 => 5,
            50_000 => 6,
            100_000 => 7,
            _ => 0,
        };
        match v2 {
            false => {
                Event::of_controller(4, speed << 16 | (u32::from(link.up) | FULL_DUPLEX) << 24)
            }
            true => Event::of_controller(0x20, speed << 24 | u32::from(link.up) << 28),
        }
    }

    /// The controller has started anew, and forgotten everything.
    pub(crate) fn rebooted(count: u16) -> Event {
        Event::of_controller(0x15, count.into())
    }

    /// A queue of frames is gone: nothing more comes of it.
    pub(crate) fn flushed(direction: Direction, instance: u32) -> Event {
        let code = match direction {
            Direction::Receive => 0x10,
            Direction::Transmit => 0x0c,
        };
        Event::of_controller(code, instance & 0xfff)
    }

    /// The copy of a flush event for the first queue.
    pub(crate) fn to_driver(self) -> Event {
        Event(self.0 | TO_DRIVER)
    }
}

/// Link flag: both ways at once.
pub(crate) const FULL_DUPLEX: u32 = 2;

/// An event queue; see the module.
#[derive(Debug)]
pub(crate) struct EventQueue {
    inner: Mutex<Inner>,
    hold_off_us: AtomicU32,
    timer: InterruptTimer,
}

#[derive(Debug)]
struct Inner {
    /// `None` as long as the function reaches no memory.
    memory: Option<Arc<GuestMemory>>,
    pages: Vec<u64>,
    /// Events less one: the queue is a power of two.
    mask: u32,
    /// Where the next event goes, and the first that the driver has not read.
    write: u32,
    read: u32,
    /// Whether the driver wants an interrupt for the next event.
    armed: bool,
    /// Events have been written for which [`EventQueue::raise`] is still to come.
    unraised: bool,
    vector: Option<u16>,
    vectors: Arc<Vectors>,
}

/// What an event queue is made of.
#[derive(Clone, Debug)]
pub(crate) struct EventQueueConfig {
    /// Events, a power of two.
    pub(crate) size: u32,
    /// Guest addresses of its pages.
    pub(crate) pages: Vec<u64>,
    /// The vector that it interrupts, if it does.
    pub(crate) vector: Option<u16>,
    /// Whether the first event interrupts.
    pub(crate) armed: bool,
    /// Microseconds that interrupts are held back after one.
    pub(crate) hold_off_us: u32,
}

impl EventQueue {
    /// An empty queue in this memory. Its driver has filled it with ones.
    pub(crate) fn new(
        config: EventQueueConfig,
        memory: Option<Arc<GuestMemory>>,
        vectors: Arc<Vectors>,
    ) -> EventQueue {
        let EventQueueConfig {
            size,
            pages,
            vector,
            armed,
            hold_off_us,
        } = config;
        EventQueue {
            inner: Mutex::new(Inner {
                memory,
                pages,
                mask: size.saturating_sub(1),
                write: 0,
                read: 0,
                armed,
                unraised: false,
                vector,
                vectors,
            }),
            hold_off_us: AtomicU32::new(hold_off_us),
            timer: InterruptTimer::default(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes events; [`raise`](Self::raise) is to follow.
    ///
    /// # Errors
    /// The queue is where no memory is, and they are lost.
    pub(crate) fn push(&self, events: impl Iterator<Item = Event>) -> Result<(), RingError> {
        let mut inner = self.lock();
        for event in events {
            inner.push(event)?;
            inner.unraised = true;
        }
        Ok(())
    }

    /// Writes an event of the controller and interrupts for it at once. A queue without memory loses it.
    pub(crate) fn tell(&self, event: Event) {
        let mut inner = self.lock();
        if inner.push(event).is_ok() {
            inner.raise(&self.timer);
        }
    }

    /// Interrupts the driver for what has been written, if it waits for that; whether it did.
    pub(crate) fn raise(&self) -> bool {
        let mut inner = self.lock();
        inner.unraised = false;
        inner.raise(&self.timer)
    }

    /// The driver has read what is before this entry, and waits.
    pub(crate) fn set_read(&self, read: u32) {
        let mut inner = self.lock();
        inner.read = read & inner.mask;
        inner.armed = true;
        // What whoever has written it is going to interrupt for comes when it is due.
        if inner.read != inner.write && !inner.unraised {
            inner.raise(&self.timer);
        }
    }

    /// Microseconds that interrupts are held back after one.
    pub(crate) fn hold_off_us(&self) -> u32 {
        self.hold_off_us.load(Ordering::Relaxed)
    }

    /// What measures that, for all rings that complete here.
    pub(crate) fn timer(&self) -> &InterruptTimer {
        &self.timer
    }

    /// Sets that.
    pub(crate) fn set_hold_off_us(&self, us: u32) {
        self.hold_off_us.store(us, Ordering::Relaxed);
    }

    /// The queue is gone: what rings say that have not gone with it is lost.
    pub(crate) fn close(&self) {
        let mut inner = self.lock();
        inner.pages.clear();
        inner.vector = None;
    }

    /// The function reaches this memory from now on.
    pub(crate) fn set_memory(&self, memory: Option<Arc<GuestMemory>>) {
        self.lock().memory = memory;
    }
}

impl Inner {
    fn push(&mut self, Event(event): Event) -> Result<(), RingError> {
        if self.pages.is_empty() {
            return Ok(());
        }
        let at = self.write as usize;
        let entries = PAGE / EVENT;
        let page = self.pages.get(at / entries);
        let gpa =
            page.and_then(|page| page.checked_add((at % entries).saturating_mul(EVENT) as u64));
        let entry = gpa.and_then(|gpa| self.memory.as_ref()?.slice_mut(gpa, EVENT));
        // Release: whoever sees the event sees what it tells of.
        let stored = entry.and_then(|entry| entry.store(0, event.to_le(), Ordering::Release));
        stored.ok_or(RingError::RingOutside)?;
        self.write = self.write.wrapping_add(1) & self.mask;
        Ok(())
    }

    fn raise(&mut self, timer: &InterruptTimer) -> bool {
        let Some(vector) = self
            .vector
            .filter(|_| self.armed && self.read != self.write)
        else {
            return false;
        };
        self.armed = false;
        timer.start();
        self.vectors.raise(vector);
        true
    }
}
