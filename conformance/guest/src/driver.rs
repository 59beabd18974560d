//! The driver's end of one virtqueue, split (virtio 2.7) or packed (virtio 2.8).
//!
//! An honest driver in [`Virtqueue::add`], [`Virtqueue::publish`], [`Virtqueue::pop_used`] and the
//! notification tests; a liar in [`Virtqueue::lie`] and the `set_*` methods of either format, which
//! write whatever they are given. What the device has written is checked: what it may not do (virtio
//! 2.7.8.2, 2.8.12) comes back as a [`DeviceFault`].

mod packed;
mod split;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use vm_memory::Bytes;

use crate::memory::{Allocator, GuestMemory};

pub use packed::PackedQueue;
pub use split::SplitQueue;

/// Descriptor flag: the chain goes on at `next`.
pub const DESC_NEXT: u16 = 1;
/// Descriptor flag: the device writes the buffer.
pub const DESC_WRITE: u16 = 2;
/// Descriptor flag: the buffer is a table of descriptors.
pub const DESC_INDIRECT: u16 = 4;

/// How a virtqueue lies in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// In three parts (virtio 2.7).
    Split,
    /// In one (virtio 2.8).
    Packed,
}

impl std::fmt::Display for Format {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Format::Split => "split",
            Format::Packed => "packed",
        })
    }
}

/// Which ring features were negotiated.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RingFeatures {
    /// `VIRTIO_F_RING_PACKED`: one ring of descriptors instead of three parts.
    pub packed: bool,
    /// `VIRTIO_F_EVENT_IDX`: notifications by index (virtio 2.7.7, 2.7.10).
    pub event_idx: bool,
    /// `VIRTIO_F_IN_ORDER`: buffers are used in the order they were made available.
    pub in_order: bool,
}

/// Guest addresses of a queue's three parts, and its size in descriptors. There is room for either format.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QueueLayout {
    /// Number of descriptors, of a split ring a power of two.
    pub size: u16,
    /// Descriptor table, 16 bytes a descriptor.
    pub desc: u64,
    /// Available ring, or driver event suppression (driver area).
    pub avail: u64,
    /// Used ring, or device event suppression (device area).
    pub used: u64,
}

impl QueueLayout {
    /// Places a queue of `size` descriptors in `alloc`, aligned as virtio 2.7 asks.
    pub fn alloc(size: u16, alloc: &mut Allocator) -> Option<QueueLayout> {
        let n = u64::from(size);
        Some(QueueLayout {
            size,
            desc: alloc.alloc(16 * n, 64)?,
            avail: alloc.alloc(6 + 2 * n, 64)?,
            used: alloc.alloc(6 + 8 * n, 64)?,
        })
    }
}

/// One buffer of a chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Buffer {
    /// Guest address.
    pub addr: u64,
    /// Length in bytes.
    pub len: u32,
    /// Whether the device writes it.
    pub writable: bool,
}

/// A raw descriptor.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Desc {
    /// Guest address.
    pub addr: u64,
    /// Length in bytes.
    pub len: u32,
    /// `DESC_*` flags.
    pub flags: u16,
    /// Next descriptor, if `DESC_NEXT`; in a packed ring the buffer identifier.
    pub next: u16,
}

impl Desc {
    /// The descriptor as two little-endian words in memory order.
    fn words(self) -> (u64, u64) {
        let tail = u64::from(self.len) | u64::from(self.flags) << 32 | u64::from(self.next) << 48;
        (self.addr.to_le(), tail.to_le())
    }

    /// The descriptor's 16 bytes in the format of split rings.
    pub fn bytes(self) -> [u8; 16] {
        let (head, tail) = self.words();
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&head.to_ne_bytes());
        bytes[8..].copy_from_slice(&tail.to_ne_bytes());
        bytes
    }
}

/// A chain the device has given back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Used {
    /// What [`Virtqueue::add`] returned for the chain.
    pub head: u16,
    /// Bytes the device says it wrote.
    pub len: u32,
}

/// Something a device must not do with used buffers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DeviceFault {
    /// The used index moved by more than the number of outstanding chains.
    #[error("used index moved by {moved} with {outstanding} chains outstanding")]
    UsedIndexJump {
        /// How far it moved.
        moved: u16,
        /// Chains the device held.
        outstanding: u16,
    },
    /// A used element names a descriptor that heads no outstanding chain.
    #[error("used element names chain {id}, which the device does not hold")]
    UnknownChain {
        /// The identifier in the element.
        id: u32,
    },
    /// A used element claims more bytes than the chain could take.
    #[error("used length {len} in a chain with {writable} writable bytes")]
    UsedLength {
        /// The length in the element.
        len: u32,
        /// Writable bytes of the chain.
        writable: u32,
    },
    /// A received frame's header claims more buffers than were given back with it.
    #[error("num_buffers is {num_buffers}, but that many were not used together")]
    MergedBuffers {
        /// The header's field.
        num_buffers: u16,
    },
    /// A received buffer is too short for its virtio-net header.
    #[error("a used receive buffer of {len} bytes cannot hold a header")]
    ShortHeader {
        /// The used length.
        len: u32,
    },
}

/// The driver's end of one virtqueue, in the format that was negotiated.
#[derive(Debug)]
pub enum Virtqueue {
    /// Three parts: descriptors, available ring, used ring.
    Split(SplitQueue),
    /// One ring.
    Packed(PackedQueue),
}

/// The same call of either.
macro_rules! either {
    ($queue:expr, $inner:ident => $call:expr) => {
        match $queue {
            Virtqueue::Split($inner) => $call,
            Virtqueue::Packed($inner) => $call,
        }
    };
}

impl Virtqueue {
    /// A queue that has gone on to `base`: entries so far, or of a packed ring descriptors. `None` when a part lies outside
    /// memory or in another region than the rest, or the size is none that the format allows.
    pub fn new(
        mem: Arc<GuestMemory>,
        layout: QueueLayout,
        features: RingFeatures,
        base: u16,
    ) -> Option<Virtqueue> {
        if features.packed {
            PackedQueue::new(mem, layout, features, base).map(Virtqueue::Packed)
        } else {
            SplitQueue::new(mem, layout, features, base).map(Virtqueue::Split)
        }
    }

    /// Where the queue lies.
    pub fn layout(&self) -> QueueLayout {
        either!(self, queue => queue.layout())
    }

    /// The memory the queue lies in.
    pub fn memory(&self) -> &Arc<GuestMemory> {
        either!(self, queue => queue.memory())
    }

    /// Free descriptors.
    #[inline]
    pub fn room(&self) -> u16 {
        either!(self, queue => queue.room())
    }

    /// Chains the device holds.
    #[inline]
    pub fn outstanding(&self) -> u16 {
        either!(self, queue => queue.outstanding())
    }

    /// What the next [`Virtqueue::add`] will answer: a head descriptor, or in a packed ring a buffer identifier.
    #[inline]
    pub fn next_head(&self) -> Option<u16> {
        either!(self, queue => queue.next_head())
    }

    /// Adds a chain, not yet visible to the device. `None` when there are not enough descriptors, or `chain` is empty.
    #[inline]
    pub fn add(&mut self, chain: &[Buffer]) -> Option<u16> {
        either!(self, queue => queue.add(chain))
    }

    /// Adds a chain as one indirect descriptor; its table of `16 * chain.len()` bytes is written at guest address `table`.
    /// `None` when there is no descriptor, or the table lies outside memory.
    pub fn add_indirect(&mut self, table: u64, chain: &[Buffer]) -> Option<u16> {
        either!(self, queue => queue.add_indirect(table, chain))
    }

    /// Makes everything that was added visible to the device: one release store.
    #[inline]
    pub fn publish(&mut self) {
        either!(self, queue => queue.publish());
    }

    /// Whether the device wants to be told about what was published since this was last asked
    /// (virtio 2.7.10, 2.8.10).
    #[inline]
    pub fn needs_kick(&mut self) -> bool {
        either!(self, queue => queue.needs_kick())
    }

    /// Takes the next chain the device has given back.
    #[inline]
    pub fn pop_used(&mut self) -> Result<Option<Used>, DeviceFault> {
        either!(self, queue => queue.pop_used())
    }

    /// Asks for an interrupt once `count` more chains are used (1: the next), and says whether
    /// they are there already (then poll again: the interrupt may not come). Without `EVENT_IDX`
    /// the device cannot be told a count and interrupts for the next.
    pub fn arm(&mut self, count: u16) -> bool {
        either!(self, queue => queue.arm(count))
    }

    /// Asks for no interrupts. A split ring with `EVENT_IDX` has nothing to write: the index that was asked for lies behind.
    pub fn disarm(&mut self) {
        either!(self, queue => queue.disarm());
    }

    /// Where a device that starts now has to go on, as SET_VRING_BASE says it: behind all that is used.
    pub fn base(&self) -> u32 {
        match self {
            Virtqueue::Split(queue) => queue.used_idx().into(),
            Virtqueue::Packed(queue) => queue.base(),
        }
    }

    /// A number that stands still as long as the device gives nothing back; at first 0 for a queue that began with 0.
    pub fn given_back(&self) -> u16 {
        match self {
            Virtqueue::Split(queue) => queue.used_idx(),
            Virtqueue::Packed(queue) => queue.given_back(),
        }
    }

    /// The queue if it is split: for what only a split ring has.
    pub fn as_split(&self) -> Option<&SplitQueue> {
        match self {
            Virtqueue::Split(queue) => Some(queue),
            Virtqueue::Packed(_) => None,
        }
    }

    /// The queue if it is packed: for what only a packed ring has.
    pub fn as_packed(&self) -> Option<&PackedQueue> {
        match self {
            Virtqueue::Split(_) => None,
            Virtqueue::Packed(queue) => Some(queue),
        }
    }

    /// Makes a chain of raw descriptors available, which is forgotten here: in a split ring from index 0 of the table on, in
    /// a packed one from the next free position on.
    pub fn lie(&mut self, chain: &[Desc]) {
        either!(self, queue => queue.lie(chain));
    }

    /// Writes an indirect table of raw entries, in this format, at a guest address; what lies outside memory is not written.
    pub fn write_table(&self, at: u64, entries: &[Desc]) {
        for (entry, at) in entries.iter().zip((at..).step_by(16)) {
            let bytes = match self {
                Virtqueue::Split(_) => entry.bytes(),
                Virtqueue::Packed(_) => PackedQueue::bytes(*entry),
            };
            if let Some(slice) = self.memory().slice(at, 16) {
                // A slice of 16 bytes takes 16 bytes.
                let _ = slice.write_slice(&bytes, 0);
            }
        }
    }

    /// Asks for interrupts or not by flag (virtio 2.7.7, 2.8.10): without `EVENT_IDX`.
    pub fn set_interrupts(&self, on: bool) {
        let flags = u16::from(!on);
        match self {
            Virtqueue::Split(queue) => queue.set_avail_flags(flags),
            Virtqueue::Packed(queue) => queue.set_event(flags, 0),
        }
    }

    /// Asks with `EVENT_IDX` for an interrupt for the chain after `count` others, in a queue that began with 0 and whose
    /// chains have one descriptor each.
    pub fn set_interrupt_after(&self, count: u16) {
        match self {
            Virtqueue::Split(queue) => queue.set_used_event(count),
            Virtqueue::Packed(queue) => queue.set_event(2, queue.event_after(count)),
        }
    }
}
