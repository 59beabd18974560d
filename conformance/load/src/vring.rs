//! What the load generator asks of a ring: a virtqueue, split or packed, or the descriptor ring of a hardware NIC.
//!
//! Lean where the suite's [`vf_guest::driver`] is general: a chain is one descriptor, a buffer has a
//! fixed place, work is done a burst at a time, and nothing is allocated. What a device must not
//! do is a [`DeviceFault`]; the queue is not used any further by then.

use std::sync::atomic::{AtomicU16, AtomicU64};

use vm_memory::{VolatileArrayRef, VolatileMemory, VolatileSlice};

use vf_guest::driver::DeviceFault;
use vf_guest::eventfd::EventFd;
use vf_guest::memory::Allocator;

/// Most buffers that are taken out of a queue at once.
pub(crate) const BURST: usize = 64;

const INSIDE: &str = "the allocator placed it inside the region";

/// Bytes of a virtio-net header in front of each frame (virtio 5.1.6).
pub(crate) const VIRTIO_NET_HEADER: usize = 12;

/// Guest memory of one region, by offset. Whatever is asked for was placed by an allocator;
/// anything outside would be a mistake of this crate, and panics.
#[derive(Clone, Copy)]
pub(crate) struct Mem<'a>(pub(crate) VolatileSlice<'a>);

impl Mem<'_> {
    /// `n` words of 64 bits.
    #[inline]
    pub(crate) fn words(&self, at: usize, n: usize) -> VolatileArrayRef<'_, u64> {
        self.0.get_array_ref(at, n).expect(INSIDE)
    }

    /// `n` words of 16 bits.
    #[inline]
    pub(crate) fn shorts(&self, at: usize, n: usize) -> VolatileArrayRef<'_, u16> {
        self.0.get_array_ref(at, n).expect(INSIDE)
    }

    /// Writes words of 64 bits, all at once: in wide stores, of which few wait at a time for a cache
    /// line that the other side has.
    #[inline]
    pub(crate) fn put<const N: usize>(&self, words: [u64; N], at: usize) {
        let bytes = words.map(u64::to_le_bytes);
        self.bytes(at, 8 * N).copy_from(bytes.as_flattened());
    }

    /// A word of 16 bits that the other side looks at.
    #[inline]
    pub(crate) fn shared(&self, at: usize) -> &AtomicU16 {
        self.0.get_atomic_ref(at).expect(INSIDE)
    }

    /// A word of 64 bits that the other side looks at.
    #[inline]
    pub(crate) fn shared_word(&self, at: usize) -> &AtomicU64 {
        self.0.get_atomic_ref(at).expect(INSIDE)
    }

    /// `len` bytes.
    #[inline]
    pub(crate) fn bytes(&self, at: usize, len: usize) -> VolatileSlice<'_> {
        self.0.subslice(at, len).expect(INSIDE)
    }
}

/// The buffers of a queue, one a descriptor.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Buffers {
    /// Guest address of what the first descriptor points to.
    pub(crate) addr: u64,
    /// Distance of two buffers in bytes.
    pub(crate) stride: u32,
    /// Whether the device writes them.
    pub(crate) writable: bool,
}

/// A buffer the device has given back.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Used {
    /// Which one.
    pub(crate) slot: u16,
    /// Bytes the device says it wrote.
    pub(crate) len: u32,
}

/// Where a queue lies: offsets in the region of what vhost-user calls descriptor table, available
/// ring and used ring.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Areas {
    pub(crate) desc: usize,
    pub(crate) avail: usize,
    pub(crate) used: usize,
}

/// What vhost-user has to be told of a virtqueue.
pub(crate) trait Virtqueue: Vring {
    /// Whether the ring is packed (`VIRTIO_F_RING_PACKED`).
    const PACKED: bool;

    /// `SET_VRING_BASE` of a new queue.
    const BASE: u32;

    /// Where it lies.
    fn areas(&self) -> Areas;
}

/// The driver's end of one ring.
pub(crate) trait Vring: Sized {
    /// Bytes in front of each frame in a buffer.
    const HEADER: usize;

    /// Places an empty queue of `size` descriptors, a power of two; `None` when there is no room.
    /// The device is asked for no notifications.
    fn new(
        mem: Mem<'_>,
        alloc: &mut Allocator,
        size: u16,
        in_order: bool,
        buffers: Buffers,
    ) -> Option<Self>;

    /// Descriptors it has.
    fn size(&self) -> u16;

    /// Buffers the device does not hold, as far as was looked.
    fn room(&self) -> u16;

    /// The `k`-th buffer that [`Vring::make_available`] will take; `k` is below the room.
    fn slot(&self, k: u16) -> u16;

    /// Gives the device the next `n` buffers, of which it may use `len` bytes each; `n` is not
    /// above the room.
    fn make_available(&mut self, mem: Mem<'_>, n: u16, len: u32);

    /// Takes back what the device has used, as much as fits.
    fn take_used(&mut self, mem: Mem<'_>, into: &mut [Used; BURST]) -> Result<u16, DeviceFault>;

    /// Takes back all that the device has used, when its order and lengths do not matter.
    fn reclaim(&mut self, mem: Mem<'_>) -> Result<(), DeviceFault>;

    /// Tells the device about what was made available, if it wants to be told; a full fence lies between
    /// that and this.
    fn notify(&self, mem: Mem<'_>, kick: &EventFd);
}
