//! The driver's end of a packed virtqueue (virtio 2.8). Never looks at what is in the buffers.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};

use vm_memory::{Bytes, VolatileSlice};

use super::{
    Buffer, DESC_INDIRECT, DESC_NEXT, DESC_WRITE, Desc, DeviceFault, QueueLayout, RingFeatures,
    Used,
};
use crate::memory::GuestMemory;

/// What a descriptor says of itself: available, or used, in laps with a wrap counter of 1. In the others it is the other
/// way around.
const AVAIL: u16 = 1 << 7;
const USED: u16 = 1 << 15;

const EVENT_ENABLE: u16 = 0;
const EVENT_DISABLE: u16 = 1;
const EVENT_DESC: u16 = 2;

/// An offset into the ring and the wrap counter of the lap.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Position {
    offset: u16,
    wrap: bool,
}

impl Position {
    #[inline]
    fn advance(&mut self, by: u16, size: u16) {
        self.offset += by;
        if self.offset >= size {
            self.offset -= size;
            self.wrap = !self.wrap;
        }
    }

    /// As event structures and ring bases have it.
    fn bits(self) -> u16 {
        self.offset | u16::from(self.wrap) << 15
    }
}

/// What the driver remembers of a chain it has made available.
#[derive(Debug, Clone, Copy, Default)]
struct Chain {
    /// Descriptors in the ring; 0: not outstanding.
    descs: u16,
    writable: u32,
}

/// The driver's end of one packed virtqueue.
#[derive(Debug)]
pub struct PackedQueue {
    mem: Arc<GuestMemory>,
    region: usize,
    desc: usize,
    driver_event: usize,
    device_event: usize,
    layout: QueueLayout,
    features: RingFeatures,
    /// Buffer identifiers not in use, oldest first.
    ids: VecDeque<u16>,
    free_descs: u16,
    chains: Vec<Chain>,
    /// Outstanding chains, oldest first.
    order: VecDeque<u16>,
    /// Last element of a batch that was used with one descriptor (`VIRTIO_F_IN_ORDER`).
    batch: Option<Used>,
    avail: Position,
    used: Position,
    /// The first descriptor since the last publication, and the word that makes it available.
    held: Option<(u16, u64)>,
    /// Descriptors added since the last publication, and published since a kick was last considered.
    added: u16,
    unkicked: u16,
    taken: u16,
}

impl PackedQueue {
    pub(super) fn new(
        mem: Arc<GuestMemory>,
        layout: QueueLayout,
        features: RingFeatures,
        base: u16,
    ) -> Option<PackedQueue> {
        let size = layout.size;
        if size == 0 || size > 1 << 15 {
            return None;
        }
        let (region, desc) = mem.locate(layout.desc, 16 * u64::from(size))?;
        let (avail_region, driver_event) = mem.locate(layout.avail, 4)?;
        let (used_region, device_event) = mem.locate(layout.used, 4)?;
        if avail_region != region || used_region != region {
            return None;
        }
        let start = Position {
            offset: base % size,
            wrap: (base / size).is_multiple_of(2),
        };
        let queue = PackedQueue {
            mem,
            region,
            desc,
            driver_event,
            device_event,
            layout,
            features,
            ids: (0..size).collect(),
            free_descs: size,
            chains: vec![Chain::default(); size.into()],
            order: VecDeque::with_capacity(size.into()),
            batch: None,
            avail: start,
            used: start,
            held: None,
            added: 0,
            unkicked: 0,
            taken: 0,
        };
        // As the laps before have left them: used in this lap, or in the one before.
        for offset in 0..size {
            let wrap = start.wrap == (offset < start.offset);
            let flags = if wrap { AVAIL | USED } else { 0 };
            queue.store(queue.at(offset) + 8, u64::from(flags) << 48);
        }
        queue.set_event(EVENT_ENABLE, 0);
        queue.store32(device_event, 0);
        Some(queue)
    }

    pub(super) fn layout(&self) -> QueueLayout {
        self.layout
    }

    pub(super) fn memory(&self) -> &Arc<GuestMemory> {
        &self.mem
    }

    #[inline]
    pub(super) fn room(&self) -> u16 {
        self.free_descs
    }

    #[inline]
    pub(super) fn outstanding(&self) -> u16 {
        self.order.len() as u16
    }

    #[inline]
    pub(super) fn next_head(&self) -> Option<u16> {
        let id = *self.ids.front()?;
        (self.free_descs > 0).then_some(id)
    }

    #[inline]
    pub(super) fn add(&mut self, chain: &[Buffer]) -> Option<u16> {
        let id = self.next_head()?;
        if chain.is_empty() || chain.len() > usize::from(self.free_descs) {
            return None;
        }
        let last = chain.len() - 1;
        let mut writable = 0u32;
        for (i, buffer) in chain.iter().enumerate() {
            let next = if i < last { DESC_NEXT } else { 0 };
            let write = if buffer.writable { DESC_WRITE } else { 0 };
            // The last descriptor alone has the identifier (virtio 2.8.6).
            let named = if i < last { 0xffff } else { id };
            self.put(buffer.addr, buffer.len, next | write, named);
            writable = writable.saturating_add(if buffer.writable { buffer.len } else { 0 });
        }
        self.remember(id, chain.len() as u16, writable);
        Some(id)
    }

    pub(super) fn add_indirect(&mut self, table: u64, chain: &[Buffer]) -> Option<u16> {
        let id = self.next_head()?;
        let mut writable = 0u32;
        for (i, buffer) in chain.iter().enumerate() {
            let flags = if buffer.writable { DESC_WRITE } else { 0 };
            let entry = self.mem.slice(table + 16 * i as u64, 16)?;
            let entry_bytes = bytes(buffer.addr, buffer.len, flags, 0xffff);
            entry.write_slice(&entry_bytes, 0).ok()?;
            writable = writable.saturating_add(if buffer.writable { buffer.len } else { 0 });
        }
        self.put(table, 16 * chain.len() as u32, DESC_INDIRECT, id);
        self.remember(id, 1, writable);
        Some(id)
    }

    /// Writes the next descriptor of the ring. The first one since the last publication stays invisible, and with it the
    /// others: a device takes them in turn.
    #[inline]
    fn put(&mut self, addr: u64, len: u32, flags: u16, id: u16) {
        let lap = if self.avail.wrap { AVAIL } else { USED };
        let word = u64::from(len) | u64::from(id) << 32 | u64::from(flags | lap) << 48;
        let offset = self.avail.offset;
        self.store(self.at(offset), addr);
        if self.held.is_none() {
            self.held = Some((offset, word));
        } else {
            self.store(self.at(offset) + 8, word);
        }
        self.avail.advance(1, self.layout.size);
        self.added += 1;
    }

    #[inline]
    fn remember(&mut self, id: u16, descs: u16, writable: u32) {
        self.ids.pop_front();
        self.chains[usize::from(id)] = Chain { descs, writable };
        self.order.push_back(id);
        self.free_descs -= descs;
    }

    #[inline]
    pub(super) fn publish(&mut self) {
        if let Some((offset, word)) = self.held.take() {
            self.mapping()
                .store(word.to_le(), self.at(offset) + 8, Ordering::Release)
                .expect("the ring lies inside the region");
            self.unkicked += std::mem::take(&mut self.added);
        }
    }

    #[inline]
    pub(super) fn needs_kick(&mut self) -> bool {
        let new = std::mem::take(&mut self.unkicked);
        if new == 0 {
            return false;
        }
        fence(Ordering::SeqCst);
        let (bits, flags) = self.device_event();
        match flags {
            EVENT_DISABLE => false,
            EVENT_DESC if self.features.event_idx => {
                // How far behind the end of what was published, added descriptors held back not counted.
                let size = i32::from(self.layout.size);
                let end = i32::from(self.avail.offset) - i32::from(self.added);
                let lap = if (bits >> 15 == 1) == self.avail.wrap {
                    0
                } else {
                    size
                };
                let behind = end - (i32::from(bits & 0x7fff) - lap);
                (1..=i32::from(new)).contains(&behind)
            }
            _ => true,
        }
    }

    #[inline]
    pub(super) fn pop_used(&mut self) -> Result<Option<Used>, DeviceFault> {
        if let Some(last) = self.batch {
            return self.pop_batch(last).map(Some);
        }
        if !self.is_used(self.used) {
            return Ok(None);
        }
        let (_, word) = self.words(self.used.offset);
        let (id, flags) = ((word >> 32) as u16, (word >> 48) as u16);
        let unknown = DeviceFault::UnknownChain { id: id.into() };
        let chain = *self.chains.get(usize::from(id)).ok_or(unknown)?;
        if chain.descs == 0 {
            return Err(unknown);
        }
        // Without WRITE there is no length (virtio 2.8.4).
        let len = if flags & DESC_WRITE != 0 {
            word as u32
        } else {
            0
        };
        if len > chain.writable {
            return Err(DeviceFault::UsedLength {
                len,
                writable: chain.writable,
            });
        }
        let used = Used { head: id, len };
        if self.features.in_order {
            return self.pop_batch(used).map(Some);
        }
        self.order.retain(|&held| held != id);
        self.give_back(id);
        Ok(Some(used))
    }

    /// The oldest outstanding chain of a batch that ends with `last` (virtio 2.8.8).
    fn pop_batch(&mut self, last: Used) -> Result<Used, DeviceFault> {
        let id = u32::from(last.head);
        let head = self
            .order
            .pop_front()
            .ok_or(DeviceFault::UnknownChain { id })?;
        let (used, batch) = if head == last.head {
            (last, None)
        } else {
            let len = self.chains[usize::from(head)].writable;
            (Used { head, len }, Some(last))
        };
        self.batch = batch;
        self.give_back(head);
        Ok(used)
    }

    #[inline]
    fn give_back(&mut self, id: u16) {
        let descs = std::mem::take(&mut self.chains[usize::from(id)]).descs;
        self.used.advance(descs, self.layout.size);
        self.free_descs += descs;
        self.ids.push_back(id);
        self.taken = self.taken.wrapping_add(1);
    }

    pub(super) fn arm(&mut self, count: u16) -> bool {
        let ahead = usize::from(count.max(1)) - 1;
        // Where the chain that completes the count will be used, if all are used one by one and in order.
        let mut position = self.used;
        for id in self.order.iter().take(ahead) {
            position.advance(self.chains[usize::from(*id)].descs, self.layout.size);
        }
        if self.features.event_idx {
            self.set_event(EVENT_DESC, position.bits());
        } else {
            self.set_event(EVENT_ENABLE, 0);
        }
        fence(Ordering::SeqCst);
        // A batch has one used descriptor, at its beginning.
        self.batch.is_some()
            || self.is_used(position)
            || self.features.in_order && self.is_used(self.used)
    }

    pub(super) fn disarm(&mut self) {
        self.set_event(EVENT_DISABLE, 0);
    }

    /// The next free position as SET_VRING_BASE has it, both sides alike, behind all that the device has used.
    pub(super) fn base(&self) -> u32 {
        let mut position = self.used;
        let mut order = self.order.iter();
        while self.is_used(position) {
            let (_, word) = self.words(position.offset);
            let id = (word >> 32) as u16;
            if self.features.in_order {
                for held in order.by_ref() {
                    position.advance(self.chains[usize::from(*held)].descs, self.layout.size);
                    if *held == id {
                        break;
                    }
                }
            } else {
                match self.chains.get(usize::from(id)) {
                    Some(chain) if chain.descs > 0 => {
                        position.advance(chain.descs, self.layout.size);
                    }
                    _ => break,
                }
            }
        }
        u32::from(position.bits()) * 0x1_0001
    }

    /// Chains given back: those taken, and one more if there are any to take.
    pub(super) fn given_back(&self) -> u16 {
        let more = self.batch.is_some() || self.is_used(self.used);
        self.taken.wrapping_add(more.into())
    }

    /// Writes a chain of raw descriptors from the next free position on and makes it available at once.
    pub(super) fn lie(&mut self, chain: &[Desc]) {
        for desc in chain {
            self.put(desc.addr, desc.len, desc.flags, desc.next);
        }
        self.publish();
    }

    /// Offset, wrap counter and flags of the device's event suppression structure.
    pub fn device_event(&self) -> (u16, u16) {
        let event = self
            .mapping()
            .load::<u32>(self.device_event, Ordering::Acquire)
            .map(u32::from_le)
            .expect("the areas lie inside the region");
        (event as u16, (event >> 16) as u16)
    }

    /// Writes the driver's event suppression structure: flags, and offset with wrap counter.
    pub fn set_event(&self, flags: u16, bits: u16) {
        self.store32(self.driver_event, u32::from(flags) << 16 | u32::from(bits));
    }

    /// The event offset and wrap counter for the chain after `count` others since the start, each of one descriptor.
    pub(super) fn event_after(&self, count: u16) -> u16 {
        let laps = count / self.layout.size;
        let mut position = Position {
            offset: 0,
            wrap: laps.is_multiple_of(2),
        };
        position.advance(count % self.layout.size, self.layout.size);
        position.bits()
    }

    /// A descriptor's 16 bytes in the format of packed rings.
    pub(super) fn bytes(desc: Desc) -> [u8; 16] {
        bytes(desc.addr, desc.len, desc.flags, desc.next)
    }

    #[inline]
    fn is_used(&self, position: Position) -> bool {
        let flags = self
            .mapping()
            .load::<u16>(self.at(position.offset) + 14, Ordering::Acquire)
            .map(u16::from_le)
            .expect("the ring lies inside the region");
        let lap = if position.wrap { AVAIL | USED } else { 0 };
        flags & (AVAIL | USED) == lap
    }

    #[inline]
    fn words(&self, offset: u16) -> (u64, u64) {
        let load = |at| {
            self.mapping()
                .load::<u64>(at, Ordering::Relaxed)
                .map(u64::from_le)
                .expect("the ring lies inside the region")
        };
        let at = self.at(offset);
        (load(at), load(at + 8))
    }

    #[inline]
    fn at(&self, offset: u16) -> usize {
        self.desc + 16 * usize::from(offset)
    }

    #[inline]
    fn mapping(&self) -> VolatileSlice<'_> {
        self.mem.regions()[self.region].mapping()
    }

    #[inline]
    fn store(&self, at: usize, word: u64) {
        self.mapping()
            .store(word.to_le(), at, Ordering::Relaxed)
            .expect("the ring lies inside the region");
    }

    fn store32(&self, at: usize, word: u32) {
        self.mapping()
            .store(word.to_le(), at, Ordering::Relaxed)
            .expect("the areas lie inside the region");
    }
}

fn bytes(addr: u64, len: u32, flags: u16, id: u16) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&addr.to_le_bytes());
    bytes[8..12].copy_from_slice(&len.to_le_bytes());
    bytes[12..14].copy_from_slice(&id.to_le_bytes());
    bytes[14..].copy_from_slice(&flags.to_le_bytes());
    bytes
}
