//! One ring of a net device: its virtqueue, a fixed buffer for each descriptor, and what both sides signal. Negotiates nothing, and never
//! looks into a frame.

use std::sync::Arc;

use crate::driver::{Buffer, QueueLayout, RingFeatures, Virtqueue};
use crate::eventfd::EventFd;
use crate::frontend::FrontendError;
use crate::memory::{Allocator, GuestMemory};
use crate::net::{NetConfig, Notify};

/// One ring with its buffers and descriptors of notification.
#[derive(Debug)]
pub struct Ring {
    /// The virtqueue: for cases that lie.
    pub queue: Virtqueue,
    /// What the driver signals, unless polled.
    pub kick: Option<EventFd>,
    /// What the device signals, unless polled.
    pub call: Option<EventFd>,
    pub(crate) buffers: u64,
    pub(crate) region: usize,
    pub(crate) offset: usize,
    pub(crate) stride: u32,
    pub(crate) pieces: u32,
    pub(crate) indirect: bool,
    kicks: u64,
}

impl Ring {
    pub(crate) fn new(
        mem: &Arc<GuestMemory>,
        alloc: &mut [Allocator],
        config: &NetConfig,
        features: RingFeatures,
        stride: u32,
    ) -> Result<Ring, FrontendError> {
        let rings = alloc.first_mut().ok_or(FrontendError::NoMemory)?;
        let layout = QueueLayout::alloc(config.queue_size, rings);
        let layout = layout.ok_or(FrontendError::NoMemory)?;
        let len = u64::from(stride) * u64::from(config.queue_size);
        let buffers = alloc.last_mut().and_then(|alloc| alloc.alloc(len, 64));
        let buffers = buffers.ok_or(FrontendError::NoMemory)?;
        let (region, offset) = mem.locate(buffers, len).ok_or(FrontendError::NoMemory)?;
        let queue = Virtqueue::new(mem.clone(), layout, features, config.base)
            .ok_or(FrontendError::NoMemory)?;
        let event = || match config.notify {
            Notify::EventFd => EventFd::new().map(Some),
            Notify::Polled => Ok(None),
        };
        Ok(Ring {
            queue,
            kick: event()?,
            call: event()?,
            buffers,
            region,
            offset,
            stride,
            pieces: 1,
            indirect: false,
            kicks: 0,
        })
    }

    /// Guest address of the buffer that belongs to what [`Virtqueue::add`] calls `head`.
    pub fn buffer_addr(&self, head: u16) -> u64 {
        self.buffers + u64::from(self.stride) * u64::from(head)
    }

    /// Bytes a buffer.
    pub fn buffer_len(&self) -> u32 {
        self.stride
    }

    /// Notifications the device asked for so far, given or not.
    pub fn kicks(&self) -> u64 {
        self.kicks
    }

    /// Makes what was added visible to the device and signals the kick if it wants that; whether it does.
    pub fn notify(&mut self) -> bool {
        self.queue.publish();
        let wanted = self.queue.needs_kick();
        if wanted {
            self.kicks += 1;
            if let Some(kick) = &self.kick {
                kick.signal();
            }
        }
        wanted
    }
}

/// Gives every free descriptor of a receive ring its buffer again.
#[inline]
pub(crate) fn refill(ring: &mut Ring) {
    if ring.pieces > 1 || ring.indirect {
        return refill_in_pieces(ring);
    }
    while let Some(head) = ring.queue.next_head() {
        let buffer = Buffer {
            addr: ring.buffers + u64::from(ring.stride) * u64::from(head),
            len: ring.stride,
            writable: true,
        };
        ring.queue.add(&[buffer]);
    }
}

/// The same with buffers of several descriptors each, the first of which is shorter than a header.
#[cold]
fn refill_in_pieces(ring: &mut Ring) {
    let table = if ring.indirect { 16 * ring.pieces } else { 0 };
    let len = ring.stride - table;
    let cut = |piece: u32| match piece {
        0 => 0,
        last if last == ring.pieces => len,
        piece => 5 + (piece - 1) * ((len - 5) / (ring.pieces - 1).max(1)),
    };
    while let Some(head) = ring.queue.next_head() {
        let start = ring.buffers + u64::from(ring.stride) * u64::from(head);
        let chain: Vec<Buffer> = (0..ring.pieces)
            .map(|piece| Buffer {
                addr: start + u64::from(cut(piece)),
                len: cut(piece + 1) - cut(piece),
                writable: true,
            })
            .collect();
        let added = match ring.indirect {
            true => {
                let table = start + u64::from(len);
                ring.queue.add_indirect(table, &chain)
            }
            false => ring.queue.add(&chain),
        };
        if added.is_none() {
            return;
        }
    }
}
