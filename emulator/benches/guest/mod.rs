//! A guest on the core of the NIC that is measured, so that no cache line changes sides. Never does more than a benchmark
//! needs.

use std::fs::File;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use rustix::fs::MemfdFlags;
use vf_vhost::features::VirtioFeatures;
use vf_vhost::memory::{GuestMemory, RegionSpec};
use vf_vhost::vring::{Vring, VringConfig};
use vm_memory::{Bytes, FileOffset, MmapRegion, VolatileMemory, VolatileSlice};

pub(crate) const SIZE: u16 = 256;
/// An odd number of cache lines, so that equal places of many buffers do not meet in the same sets of a cache.
const STRIDE: u64 = 33 * 64;
const RING: u64 = 0x4000;
const AVAIL: u64 = 0x1000;
const USED: u64 = 0x2000;
const BUFFERS: u64 = 0x1_0000 + 52;

pub(crate) const VERSION_1: u64 = 1 << 32;
pub(crate) const RING_PACKED: u64 = 1 << 34;

/// A guest that sends and receives and wants no interrupts.
pub(crate) struct Guest {
    mem: Arc<GuestMemory>,
    /// The guest's own mapping of it.
    own: MmapRegion<()>,
    features: u64,
    /// Bytes of its send buffers.
    len: u32,
    /// Bytes between two buffers of a ring.
    stride: u64,
}

impl Guest {
    /// With send buffers of so many bytes.
    pub(crate) fn new(features: u64, len: usize) -> Guest {
        Guest::with_stride(features, len, STRIDE)
    }

    /// One whose buffers of a ring are all the same, so that many guests fit into a cache.
    #[allow(dead_code, reason = "not every benchmark has many guests")]
    pub(crate) fn small(features: u64, len: usize) -> Guest {
        Guest::with_stride(features, len, 0)
    }

    fn with_stride(features: u64, len: usize, stride: u64) -> Guest {
        let size = BUFFERS + 2 * STRIDE * u64::from(SIZE);
        let fd = rustix::fs::memfd_create("guest", MemfdFlags::CLOEXEC).unwrap();
        rustix::fs::ftruncate(&fd, size).unwrap();
        let spec = RegionSpec {
            guest_addr: 0,
            size,
            user_addr: 0,
            mmap_offset: 0,
        };
        let own = FileOffset::new(File::from(fd.try_clone().unwrap()), 0);
        let guest = Guest {
            own: MmapRegion::from_file(own, size as usize).unwrap(),
            mem: GuestMemory::map(vec![(spec, fd)]).unwrap(),
            features,
            len: 12 + len as u32,
            stride,
        };
        for ring in 0..2 {
            for i in 0..SIZE {
                guest.store(ring * RING + 16 * u64::from(i), guest.buffer(ring, i));
                if guest.is_packed() {
                    continue;
                }
                guest.store(ring * RING + 16 * u64::from(i) + 8, guest.word(ring, 0, 0));
                let at = ring * RING + AVAIL + 4 + 2 * u64::from(i);
                let entry = guest.own(at, 2);
                entry.store(i, 0, Ordering::Relaxed).unwrap();
            }
            let no_interrupts = if guest.is_packed() { 1 << 16 } else { 1u32 };
            let area = guest.own(ring * RING + AVAIL, 4);
            area.store(no_interrupts, 0, Ordering::Relaxed).unwrap();
        }
        guest
    }

    fn buffer(&self, ring: u64, i: u16) -> u64 {
        BUFFERS + self.stride * u64::from(i) + ring * STRIDE * u64::from(SIZE)
    }

    fn is_packed(&self) -> bool {
        self.features & RING_PACKED != 0
    }

    fn own(&self, at: u64, len: usize) -> VolatileSlice<'_, ()> {
        self.own.get_slice(at as usize, len).unwrap()
    }

    fn store(&self, at: u64, word: u64) {
        let slice = self.own(at, 8);
        slice.store(word, 0, Ordering::Release).unwrap();
    }

    /// The second half of a descriptor.
    fn word(&self, ring: u64, id: u16, lap: u64) -> u64 {
        let (len, write) = if ring == 0 { (2048, 2) } else { (self.len, 0) };
        if self.is_packed() {
            u64::from(len) | u64::from(id) << 32 | (lap | write) << 48
        } else {
            u64::from(len) | write << 32
        }
    }

    /// Writes this frame into every send buffer.
    pub(crate) fn fill(&self, head: &[u8]) {
        for i in 0..SIZE {
            let buffer = self.own(self.buffer(1, i) + 12, head.len());
            buffer.copy_from(head);
        }
    }

    /// Makes the next `n` buffers of a ring available, after `before` of them; all of those have been returned.
    pub(crate) fn offer(&self, ring: u64, before: u32, n: u32) {
        if self.is_packed() {
            for nth in before..before + n {
                let (lap, i) = (nth / u32::from(SIZE), (nth % u32::from(SIZE)) as u16);
                let flag = if lap.is_multiple_of(2) {
                    1 << 7
                } else {
                    1 << 15
                };
                self.store(
                    ring * RING + 16 * u64::from(i) + 8,
                    self.word(ring, i, flag),
                );
            }
        } else {
            let index = self.own(ring * RING + AVAIL + 2, 2);
            index
                .store((before + n) as u16, 0, Ordering::Release)
                .unwrap();
        }
    }

    /// The device's end of a ring.
    pub(crate) fn vring(&self, index: u32) -> Vring {
        let at = u64::from(index) * RING;
        let config = VringConfig {
            index,
            size: SIZE,
            desc: at,
            avail: at + AVAIL,
            used: at + USED,
            base: if self.is_packed() { 0x8000_8000 } else { 0 },
            told: false,
            features: VirtioFeatures::from_bits_retain(self.features),
            enabled: true,
            coalescing: Default::default(),
        };
        Vring::new(config, self.mem.clone(), None, None, None).unwrap()
    }
}
