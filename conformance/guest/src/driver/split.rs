//! The driver's end of a split virtqueue (virtio 2.7). Never looks at what is in the buffers.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};

use vm_memory::{Bytes, VolatileSlice};

use super::{
    Buffer, DESC_INDIRECT, DESC_NEXT, DESC_WRITE, Desc, DeviceFault, QueueLayout, RingFeatures,
    Used,
};
use crate::memory::GuestMemory;

const NO_INTERRUPT: u16 = 1;
const NO_NOTIFY: u16 = 1;

/// What the driver remembers of a chain it has made available.
#[derive(Debug, Clone, Copy, Default)]
struct Chain {
    /// Descriptors it takes from the table; 0: not outstanding.
    descs: u16,
    writable: u32,
}

/// The driver's end of one split virtqueue.
#[derive(Debug)]
pub struct SplitQueue {
    mem: Arc<GuestMemory>,
    region: usize,
    desc: usize,
    avail: usize,
    used: usize,
    layout: QueueLayout,
    features: RingFeatures,
    mask: u16,
    /// Free descriptors, oldest first; with in-order completion this is ring order.
    free: Vec<u16>,
    free_first: u16,
    free_len: u16,
    chains: Vec<Chain>,
    links: Vec<u16>,
    order: VecDeque<u16>,
    /// Last element of a batch that was used with one entry (`VIRTIO_F_IN_ORDER`).
    batch: Option<Used>,
    outstanding: u16,
    next_avail: u16,
    published: u16,
    kick_tested: u16,
    last_used: u16,
    used_seen: u16,
}

impl SplitQueue {
    pub(super) fn new(
        mem: Arc<GuestMemory>,
        layout: QueueLayout,
        features: RingFeatures,
        base: u16,
    ) -> Option<SplitQueue> {
        let size = layout.size;
        if !size.is_power_of_two() {
            return None;
        }
        let n = u64::from(size);
        let (region, desc) = mem.locate(layout.desc, 16 * n)?;
        let (avail_region, avail) = mem.locate(layout.avail, 6 + 2 * n)?;
        let (used_region, used) = mem.locate(layout.used, 6 + 8 * n)?;
        if avail_region != region || used_region != region {
            return None;
        }
        let queue = SplitQueue {
            mem,
            region,
            desc,
            avail,
            used,
            layout,
            features,
            mask: size - 1,
            free: (0..size).collect(),
            free_first: 0,
            free_len: size,
            chains: vec![Chain::default(); size.into()],
            links: vec![0; size.into()],
            order: VecDeque::with_capacity(if features.in_order { size.into() } else { 0 }),
            batch: None,
            outstanding: 0,
            next_avail: base,
            published: base,
            kick_tested: base,
            last_used: base,
            used_seen: base,
        };
        queue.store16(avail, 0);
        queue.store16(avail + 2, base);
        queue.store16(used, 0);
        queue.store16(used + 2, base);
        Some(queue)
    }

    /// Where the three parts lie.
    pub fn layout(&self) -> QueueLayout {
        self.layout
    }

    pub(super) fn memory(&self) -> &Arc<GuestMemory> {
        &self.mem
    }

    #[inline]
    pub(super) fn room(&self) -> u16 {
        self.free_len
    }

    #[inline]
    pub(super) fn outstanding(&self) -> u16 {
        self.outstanding
    }

    #[inline]
    pub(super) fn next_head(&self) -> Option<u16> {
        (self.free_len > 0).then(|| self.free[usize::from(self.free_first & self.mask)])
    }

    #[inline]
    pub(super) fn add(&mut self, chain: &[Buffer]) -> Option<u16> {
        let head = self.next_head()?;
        if chain.is_empty() || chain.len() > usize::from(self.free_len) {
            return None;
        }
        let mut writable = 0u32;
        let last = chain.len() - 1;
        for (i, buffer) in chain.iter().enumerate() {
            let this = self.take_free();
            let mut flags = if buffer.writable { DESC_WRITE } else { 0 };
            let mut next = 0;
            if i < last {
                flags |= DESC_NEXT;
                next = self.free[usize::from(self.free_first & self.mask)];
                self.links[usize::from(this)] = next;
            }
            self.set_desc(
                this,
                Desc {
                    addr: buffer.addr,
                    len: buffer.len,
                    flags,
                    next,
                },
            );
            writable = writable.saturating_add(if buffer.writable { buffer.len } else { 0 });
        }
        self.make_available(
            head,
            Chain {
                descs: chain.len() as u16,
                writable,
            },
        );
        Some(head)
    }

    pub(super) fn add_indirect(&mut self, table: u64, chain: &[Buffer]) -> Option<u16> {
        let head = self.next_head()?;
        let bytes = self.mem.slice(table, 16 * chain.len())?;
        let mut writable = 0u32;
        for (i, buffer) in chain.iter().enumerate() {
            let more = i + 1 < chain.len();
            let desc = Desc {
                addr: buffer.addr,
                len: buffer.len,
                flags: if buffer.writable { DESC_WRITE } else { 0 }
                    | if more { DESC_NEXT } else { 0 },
                next: if more { i as u16 + 1 } else { 0 },
            };
            bytes.write_slice(&desc.bytes(), 16 * i).ok()?;
            writable = writable.saturating_add(if buffer.writable { buffer.len } else { 0 });
        }
        self.take_free();
        self.set_desc(
            head,
            Desc {
                addr: table,
                len: 16 * chain.len() as u32,
                flags: DESC_INDIRECT,
                next: 0,
            },
        );
        self.make_available(head, Chain { descs: 1, writable });
        Some(head)
    }

    #[inline]
    pub(super) fn publish(&mut self) {
        if self.published != self.next_avail {
            self.mapping_store_release(self.avail + 2, self.next_avail);
            self.published = self.next_avail;
        }
    }

    #[inline]
    pub(super) fn needs_kick(&mut self) -> bool {
        let old = std::mem::replace(&mut self.kick_tested, self.published);
        if old == self.published {
            return false;
        }
        fence(Ordering::SeqCst);
        if self.features.event_idx {
            let moved = self.published.wrapping_sub(old);
            self.published
                .wrapping_sub(self.avail_event())
                .wrapping_sub(1)
                < moved
        } else {
            self.used_flags() & NO_NOTIFY == 0
        }
    }

    #[inline]
    pub(super) fn pop_used(&mut self) -> Result<Option<Used>, DeviceFault> {
        if let Some(last) = self.batch {
            return self.pop_batch(last).map(Some);
        }
        if self.last_used == self.used_seen {
            let used = self.load16_acquire(self.used + 2);
            let moved = used.wrapping_sub(self.last_used);
            if moved == 0 {
                return Ok(None);
            }
            if moved > self.outstanding {
                return Err(DeviceFault::UsedIndexJump {
                    moved,
                    outstanding: self.outstanding,
                });
            }
            self.used_seen = used;
        }
        let (id, len) = self.used_elem(self.last_used);
        let unknown = DeviceFault::UnknownChain { id };
        let head = u16::try_from(id).map_err(|_| unknown)?;
        let chain = *self.chains.get(usize::from(head)).ok_or(unknown)?;
        if chain.descs == 0 {
            return Err(unknown);
        }
        if len > chain.writable {
            return Err(DeviceFault::UsedLength {
                len,
                writable: chain.writable,
            });
        }
        let used = Used { head, len };
        if self.features.in_order {
            return self.pop_batch(used).map(Some);
        }
        self.give_back(head);
        Ok(Some(used))
    }

    /// The oldest outstanding chain of a batch that ends with `last`; chains before the last were
    /// used whole (virtio "In-order use of descriptors").
    fn pop_batch(&mut self, last: Used) -> Result<Used, DeviceFault> {
        let id = u32::from(last.head);
        let oldest = self.order.pop_front();
        let head = oldest.ok_or(DeviceFault::UnknownChain { id })?;
        let used = if head == last.head {
            self.batch = None;
            last
        } else {
            if self.last_used.wrapping_add(1) == self.used_seen {
                // The batch is longer than the used index has moved.
                return Err(DeviceFault::UnknownChain { id });
            }
            self.batch = Some(last);
            Used {
                head,
                len: self.chains[usize::from(head)].writable,
            }
        };
        self.give_back(head);
        Ok(used)
    }

    pub(super) fn arm(&mut self, count: u16) -> bool {
        let count = count.max(1);
        if self.features.event_idx {
            let used_event = self.last_used.wrapping_add(count - 1);
            self.store16(
                self.avail + 4 + 2 * usize::from(self.layout.size),
                used_event,
            );
        } else {
            self.store16(self.avail, 0);
        }
        fence(Ordering::SeqCst);
        self.used_idx().wrapping_sub(self.last_used) >= count
    }

    pub(super) fn disarm(&mut self) {
        if !self.features.event_idx {
            self.store16(self.avail, NO_INTERRUPT);
        }
    }

    /// Writes a chain into the table from its start and makes its first descriptor available at once, in place of what is next.
    pub(super) fn lie(&mut self, chain: &[Desc]) {
        for (index, desc) in (0..).zip(chain) {
            self.set_desc(index, *desc);
        }
        self.set_avail_entry(self.next_avail, 0);
        self.next_avail = self.next_avail.wrapping_add(1);
        self.publish();
    }

    // --- what the device sees, and what it wrote ---

    /// Writes a raw descriptor; `index` is masked to the table.
    #[inline]
    pub fn set_desc(&self, index: u16, desc: Desc) {
        let at = self.desc + 16 * usize::from(index & self.mask);
        let (head, tail) = desc.words();
        self.mapping()
            .store(head, at, Ordering::Relaxed)
            .and_then(|()| self.mapping().store(tail, at + 8, Ordering::Relaxed))
            .expect("the table lies inside the region");
    }

    /// Writes an entry of the available ring; `slot` is masked to the ring.
    #[inline]
    pub fn set_avail_entry(&self, slot: u16, head: u16) {
        self.store16(self.avail + 4 + 2 * usize::from(slot & self.mask), head);
    }

    /// Writes the available index, with release order.
    pub fn set_avail_idx(&self, idx: u16) {
        self.mapping_store_release(self.avail + 2, idx);
    }

    /// Writes the available ring's flags.
    pub fn set_avail_flags(&self, flags: u16) {
        self.store16(self.avail, flags);
    }

    /// Writes `used_event`, the used index the driver wants to be interrupted after.
    pub fn set_used_event(&self, idx: u16) {
        self.store16(self.avail + 4 + 2 * usize::from(self.layout.size), idx);
    }

    /// The used index as the device last wrote it.
    #[inline]
    pub fn used_idx(&self) -> u16 {
        self.load16_acquire(self.used + 2)
    }

    /// The used ring's flags.
    pub fn used_flags(&self) -> u16 {
        self.load16_acquire(self.used)
    }

    /// The used ring's `avail_event`.
    #[inline]
    pub(super) fn avail_event(&self) -> u16 {
        self.load16_acquire(self.used + 4 + 8 * usize::from(self.layout.size))
    }

    /// Chain and length of a used element; `slot` is masked to the ring.
    #[inline]
    fn used_elem(&self, slot: u16) -> (u32, u32) {
        let at = self.used + 4 + 8 * usize::from(slot & self.mask);
        let load = |at| {
            self.mapping()
                .load::<u32>(at, Ordering::Relaxed)
                .map(u32::from_le)
                .expect("the used ring lies inside the region")
        };
        (load(at), load(at + 4))
    }

    // --- inside ---

    #[inline]
    fn take_free(&mut self) -> u16 {
        let desc = self.free[usize::from(self.free_first & self.mask)];
        self.free_first = self.free_first.wrapping_add(1);
        self.free_len -= 1;
        desc
    }

    #[inline]
    fn make_available(&mut self, head: u16, chain: Chain) {
        self.chains[usize::from(head)] = chain;
        if self.features.in_order {
            self.order.push_back(head);
        }
        self.set_avail_entry(self.next_avail, head);
        self.next_avail = self.next_avail.wrapping_add(1);
        self.outstanding += 1;
    }

    #[inline]
    fn give_back(&mut self, head: u16) {
        let descs = std::mem::take(&mut self.chains[usize::from(head)]).descs;
        let mut desc = head;
        for _ in 0..descs {
            let slot = self.free_first.wrapping_add(self.free_len) & self.mask;
            self.free[usize::from(slot)] = desc;
            self.free_len += 1;
            desc = self.links[usize::from(desc)];
        }
        self.outstanding -= 1;
        self.last_used = self.last_used.wrapping_add(1);
    }

    #[inline]
    fn mapping(&self) -> VolatileSlice<'_> {
        self.mem.regions()[self.region].mapping()
    }

    #[inline]
    fn store16(&self, at: usize, value: u16) {
        self.mapping()
            .store(value.to_le(), at, Ordering::Relaxed)
            .expect("the rings lie inside the region");
    }

    #[inline]
    fn mapping_store_release(&self, at: usize, value: u16) {
        self.mapping()
            .store(value.to_le(), at, Ordering::Release)
            .expect("the rings lie inside the region");
    }

    #[inline]
    fn load16_acquire(&self, at: usize) -> u16 {
        self.mapping()
            .load::<u16>(at, Ordering::Acquire)
            .map(u16::from_le)
            .expect("the rings lie inside the region")
    }
}
