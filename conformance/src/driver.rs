//! The driver's end of one split virtqueue (virtio 2.7).
//!
//! An honest driver in [`Virtqueue::add`], [`Virtqueue::publish`], [`Virtqueue::pop_used`] and the
//! notification tests; a liar in the `set_*` methods, which write whatever they are given into
//! descriptor table and available ring. Reads of the used ring are checked: what a device may not
//! do (virtio 2.7.8.2) comes back as a [`DeviceFault`].

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};

use vm_memory::{Bytes, VolatileSlice};

use crate::memory::{Allocator, GuestMemory};

/// Descriptor flag: the chain goes on at `next`.
pub const DESC_NEXT: u16 = 1;
/// Descriptor flag: the device writes the buffer.
pub const DESC_WRITE: u16 = 2;
/// Descriptor flag: the buffer is a table of descriptors.
pub const DESC_INDIRECT: u16 = 4;

const NO_INTERRUPT: u16 = 1;
const NO_NOTIFY: u16 = 1;

/// Which ring features were negotiated.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RingFeatures {
    /// `VIRTIO_F_EVENT_IDX`: notifications by index (virtio 2.7.7, 2.7.10).
    pub event_idx: bool,
    /// `VIRTIO_F_IN_ORDER`: buffers are used in the order they were made available.
    pub in_order: bool,
}

/// Guest addresses of a queue's three parts, and its size in descriptors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QueueLayout {
    /// Number of descriptors, a power of two.
    pub size: u16,
    /// Descriptor table, 16 bytes a descriptor.
    pub desc: u64,
    /// Available ring (driver area).
    pub avail: u64,
    /// Used ring (device area).
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
    /// Next descriptor, if `DESC_NEXT`.
    pub next: u16,
}

impl Desc {
    /// The descriptor as two little-endian words in memory order.
    fn words(self) -> (u64, u64) {
        let tail = u64::from(self.len) | u64::from(self.flags) << 32 | u64::from(self.next) << 48;
        (self.addr.to_le(), tail.to_le())
    }

    /// The descriptor's 16 bytes.
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
    /// Head descriptor of the chain, as [`Virtqueue::add`] returned it.
    pub head: u16,
    /// Bytes the device says it wrote.
    pub len: u32,
}

/// Something a device must not do with a used ring.
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

/// What the driver remembers of a chain it has made available.
#[derive(Debug, Clone, Copy, Default)]
struct Chain {
    /// Descriptors it takes from the table; 0: not outstanding.
    descs: u16,
    writable: u32,
}

/// The driver's end of one split virtqueue.
#[derive(Debug)]
pub struct Virtqueue {
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

impl Virtqueue {
    /// A queue whose indices start at `base`, or `None` when a part lies outside memory or in
    /// another region than the rest, or the size is no power of two.
    pub fn new(
        mem: Arc<GuestMemory>,
        layout: QueueLayout,
        features: RingFeatures,
        base: u16,
    ) -> Option<Virtqueue> {
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
        let queue = Virtqueue {
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

    /// Where the queue lies.
    pub fn layout(&self) -> QueueLayout {
        self.layout
    }

    /// The memory the queue lies in.
    pub fn memory(&self) -> &Arc<GuestMemory> {
        &self.mem
    }

    /// Free descriptors.
    #[inline]
    pub fn room(&self) -> u16 {
        self.free_len
    }

    /// Chains the device holds.
    #[inline]
    pub fn outstanding(&self) -> u16 {
        self.outstanding
    }

    /// The head that the next [`Virtqueue::add`] will take.
    #[inline]
    pub fn next_head(&self) -> Option<u16> {
        (self.free_len > 0).then(|| self.free[usize::from(self.free_first & self.mask)])
    }

    /// Puts a chain into the available ring, not yet visible to the device. `None` when there are
    /// not enough descriptors, or `chain` is empty.
    #[inline]
    pub fn add(&mut self, chain: &[Buffer]) -> Option<u16> {
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

    /// Puts a chain into the available ring as one indirect descriptor; its table of
    /// `16 * chain.len()` bytes is written at guest address `table`. `None` when there is no
    /// descriptor, or the table lies outside memory.
    pub fn add_indirect(&mut self, table: u64, chain: &[Buffer]) -> Option<u16> {
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

    /// Makes everything that was added visible to the device: one release store.
    #[inline]
    pub fn publish(&mut self) {
        if self.published != self.next_avail {
            self.mapping_store_release(self.avail + 2, self.next_avail);
            self.published = self.next_avail;
        }
    }

    /// Whether the device wants to be told about what was published since this was last asked
    /// (virtio 2.7.10).
    #[inline]
    pub fn needs_kick(&mut self) -> bool {
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

    /// Takes the next chain the device has given back.
    #[inline]
    pub fn pop_used(&mut self) -> Result<Option<Used>, DeviceFault> {
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

    /// Asks for an interrupt once `count` more chains are used (1: the next), and says whether
    /// they are there already (then poll again: the interrupt may not come). Without `EVENT_IDX`
    /// the device cannot be told a count and interrupts for the next.
    pub fn arm(&mut self, count: u16) -> bool {
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

    /// Asks for no interrupts. With `EVENT_IDX` there is nothing to write: the index that was
    /// asked for lies behind.
    pub fn disarm(&mut self) {
        if !self.features.event_idx {
            self.store16(self.avail, NO_INTERRUPT);
        }
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

    /// The driver's own available index: what was published last.
    pub fn avail_idx(&self) -> u16 {
        self.published
    }

    /// The used index up to which chains were taken.
    pub fn last_used(&self) -> u16 {
        self.last_used
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
    pub fn avail_event(&self) -> u16 {
        self.load16_acquire(self.used + 4 + 8 * usize::from(self.layout.size))
    }

    /// Chain and length of a used element; `slot` is masked to the ring.
    #[inline]
    pub fn used_elem(&self, slot: u16) -> (u32, u32) {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::loopback::DeviceRing;
    use proptest::prelude::*;

    const SIZE: u16 = 8;

    fn ring(features: RingFeatures, base: u16) -> (Virtqueue, DeviceRing, u64) {
        let mem = Arc::new(GuestMemory::new(1 << 16, true).unwrap());
        let mut alloc = Allocator::new(mem.regions()[0].layout());
        let layout = QueueLayout::alloc(SIZE, &mut alloc).unwrap();
        let spare = alloc.alloc(4096, 64).unwrap();
        let queue = Virtqueue::new(mem.clone(), layout, features, base).unwrap();
        let device = DeviceRing::new(mem, layout, features.event_idx);
        (queue, device, spare)
    }

    fn chain(at: u64, len: usize) -> Vec<Buffer> {
        (0..len)
            .map(|i| Buffer {
                addr: at + 100 * i as u64,
                len: 10 + i as u32,
                writable: i % 2 == 1,
            })
            .collect()
    }

    fn writable(chain: &[Buffer]) -> u32 {
        chain.iter().filter(|b| b.writable).map(|b| b.len).sum()
    }

    #[derive(Debug, Clone)]
    enum Step {
        Add(usize),
        AddIndirect(usize),
        Pop,
        /// Use this many chains: one entry each, or one for all.
        Use(usize, bool),
        Take,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            (1usize..5).prop_map(Step::Add),
            (1usize..5).prop_map(Step::AddIndirect),
            Just(Step::Pop),
            (1usize..4, any::<bool>()).prop_map(|(n, batch)| Step::Use(n, batch)),
            Just(Step::Take),
        ]
    }

    proptest! {
        /// Whatever is added reaches the device buffer for buffer, and comes back once, with the
        /// length the device gave; nothing is lost from the free list.
        #[test]
        fn every_chain_comes_back_once(
            steps in prop::collection::vec(step(), 0..200),
            in_order: bool,
            base: u16,
        ) {
            let (mut queue, mut device, spare) = ring(RingFeatures { event_idx: true, in_order }, base);
            let mut sent = VecDeque::new();
            let mut held: VecDeque<(u16, u32)> = VecDeque::new();
            let mut back: VecDeque<Used> = VecDeque::new();
            for step in steps {
                match step {
                    Step::Add(n) => {
                        let chain = chain(spare, n);
                        let room = usize::from(queue.room());
                        let head = queue.add(&chain);
                        prop_assert_eq!(head.is_some(), n <= room);
                        sent.extend(head.map(|head| (head, chain)));
                        queue.publish();
                    }
                    Step::AddIndirect(n) => {
                        let chain = chain(spare, n);
                        // One table a head: the device reads it later.
                        let table = spare + 1024 + 128 * u64::from(queue.next_head().unwrap_or(0));
                        sent.extend(queue.add_indirect(table, &chain).map(|head| (head, chain)));
                        queue.publish();
                    }
                    Step::Pop => {
                        let got = device.pop();
                        prop_assert_eq!(got.is_some(), !sent.is_empty());
                        let Some((head, buffers)) = got else { continue };
                        let (sent_head, chain) = sent.pop_front().unwrap();
                        prop_assert_eq!(head, sent_head);
                        let chain_buffers: Vec<_> =
                            chain.iter().map(|b| (b.addr, b.len, b.writable)).collect();
                        prop_assert_eq!(buffers, chain_buffers);
                        held.push_back((head, writable(&chain)));
                    }
                    Step::Use(n, batch) => {
                        let n = n.min(held.len());
                        if n == 0 {
                            continue;
                        }
                        if !in_order {
                            // Any order will do.
                            held.make_contiguous().reverse();
                        }
                        let done: Vec<_> = held.drain(..n).collect();
                        if in_order && batch {
                            let last = done[n - 1];
                            device.write_used(last.0, 1.min(last.1));
                            device.advance_used(n as u16);
                            back.extend(done[..n - 1].iter().map(|d| Used { head: d.0, len: d.1 }));
                            back.push_back(Used { head: last.0, len: 1.min(last.1) });
                        } else {
                            for (head, len) in done {
                                device.push_used(head, len);
                                back.push_back(Used { head, len });
                            }
                        }
                    }
                    Step::Take => {
                        prop_assert_eq!(queue.pop_used().unwrap(), back.pop_front());
                    }
                }
            }
        }

        /// Two sleepers: a device that runs only when kicked and a driver that runs only when
        /// called never both sleep with work left.
        #[test]
        fn no_wake_up_is_lost(bursts in prop::collection::vec(1usize..12, 1..60), event_idx: bool, base: u16, count in 1u16..5, races: u64) {
            let (mut queue, mut device, spare) = ring(RingFeatures { event_idx, in_order: true }, base);
            let (mut todo, mut done) = (bursts.iter().sum::<usize>(), 0);
            let all = todo;
            let mut bursts = bursts.into_iter();
            // A ring starts with both looking at it once.
            let (mut kicked, mut called) = (true, true);
            while device.pop().is_some() {}
            while done < all {
                prop_assert!(kicked || called, "both asleep at {done} of {all}");
                if std::mem::take(&mut called) {
                    loop {
                        while queue.pop_used().unwrap().is_some() {
                            done += 1;
                        }
                        let mut burst = bursts.next().unwrap_or(todo).min(todo);
                        while burst > 0 && queue.add(&chain(spare, 2)).is_some() {
                            burst -= 1;
                            todo -= 1;
                        }
                        queue.publish();
                        kicked |= queue.needs_kick();
                        // The device may run at once, before the driver has armed.
                        if kicked && races >> (done % 64) & 1 == 1 {
                            kicked = false;
                            while let Some((head, _)) = device.pop() {
                                device.push_used(head, 0);
                            }
                            called |= device.wants_call();
                        }
                        if !queue.arm(count.min(queue.outstanding())) {
                            break;
                        }
                    }
                }
                if std::mem::take(&mut kicked) {
                    while let Some((head, _)) = device.pop() {
                        device.push_used(head, 0);
                    }
                    called |= device.wants_call();
                }
            }
        }
    }

    #[test]
    fn what_a_device_must_not_do_is_found() {
        let in_order = RingFeatures {
            event_idx: false,
            in_order: true,
        };
        for features in [RingFeatures::default(), in_order] {
            let setup = || {
                let (mut queue, device, spare) = ring(features, 0);
                queue.add(&chain(spare, 2)).unwrap();
                queue.publish();
                (queue, device)
            };
            let (mut queue, mut device) = setup();
            device.advance_used(2);
            let jump = DeviceFault::UsedIndexJump {
                moved: 2,
                outstanding: 1,
            };
            assert_eq!(queue.pop_used(), Err(jump));

            for id in [1, 8, 0xffff] {
                let (mut queue, mut device) = setup();
                device.push_used(id, 0);
                let unknown = DeviceFault::UnknownChain { id: id.into() };
                assert_eq!(queue.pop_used(), Err(unknown));
            }

            let (mut queue, mut device) = setup();
            device.push_used(0, 12);
            let length = DeviceFault::UsedLength {
                len: 12,
                writable: 11,
            };
            assert_eq!(queue.pop_used(), Err(length));
        }
    }

    #[test]
    fn a_batch_never_reaches_past_the_used_index() {
        let (mut queue, mut device, spare) = ring(
            RingFeatures {
                event_idx: true,
                in_order: true,
            },
            0,
        );
        let heads: Vec<_> = (0..3)
            .map(|_| queue.add(&chain(spare, 1)).unwrap())
            .collect();
        queue.publish();
        device.write_used(heads[2], 0);
        device.advance_used(2);
        assert!(queue.pop_used().unwrap().is_some());
        assert!(queue.pop_used().is_err());
    }

    #[test]
    fn rings_outside_memory_or_of_odd_size_are_no_queues() {
        let mem = Arc::new(GuestMemory::new(4096, true).unwrap());
        let at = crate::memory::GUEST_BASE;
        let layout = QueueLayout {
            size: 8,
            desc: at,
            avail: at + 128,
            used: at + 256,
        };
        let make = |layout| Virtqueue::new(mem.clone(), layout, RingFeatures::default(), 0);
        assert!(make(layout).is_some());
        assert!(make(QueueLayout { size: 7, ..layout }).is_none());
        assert!(
            make(QueueLayout {
                used: at + 4096 - 69,
                ..layout
            })
            .is_none()
        );
        assert!(
            make(QueueLayout {
                desc: at + 4096,
                ..layout
            })
            .is_none()
        );
    }
}
