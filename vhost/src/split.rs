//! The device's end of a split virtqueue (virtio 2.7): available entries in, used entries out.
//!
//! Every index, descriptor and indirect table entry is read from guest memory exactly once, as a
//! copy, and judged on that copy. Used elements are kept here until they are published: written, and
//! made visible with one store. Never looks at what is in the buffers.

use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};

use virtio_bindings::virtio_ring as vr;
use vm_memory::{Bytes, VolatileMemory, VolatileSlice};

use crate::memory::GuestMemory;
use crate::net_hdr::has;

/// What a driver did that its ring cannot go on from; the ring is broken until it is restarted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RingError {
    /// A size that is not a power of two from 1 to 32768 (virtio 2.7).
    #[error("ring size {0} is not a power of two up to 32768")]
    Size(u16),
    /// A ring part on an address that virtio 2.7 does not allow.
    #[error("ring part is misaligned")]
    Misaligned,
    /// A ring part that is not wholly inside one memory region.
    #[error("ring part is outside guest memory")]
    RingOutside,
    /// The available index is further ahead than the ring has entries, or went back.
    #[error("available index jumped from {from} to {to}")]
    AvailJump {
        /// Entries up to here had been returned.
        from: u16,
        /// The index that was read.
        to: u16,
    },
    /// An available entry or a `next` field that is no descriptor of its table.
    #[error("descriptor index {0} out of range")]
    DescOutOfRange(u16),
    /// More descriptors in a chain than the ring has (a loop, or a chain virtio 2.7.5.3.1 forbids) or than 1024.
    #[error("descriptor chain longer than the ring or 1024")]
    ChainTooLong,
    /// A receive buffer without room for the virtio-net header, or for anything (virtio 5.1.9.3.1).
    #[error("receive buffer too small for any frame")]
    BufferTooSmall,
    /// An indirect descriptor without `RING_INDIRECT_DESC`, inside an indirect table, or with `NEXT`.
    #[error("indirect descriptor where none may be")]
    BadIndirect,
    /// An indirect table that is empty, not a multiple of 16 bytes, or not inside one region.
    #[error("malformed indirect table")]
    BadIndirectTable,
    /// A device-readable buffer after a device-writable one (virtio 2.7.4.2).
    #[error("readable descriptor after a writable one")]
    ReadableAfterWritable,
    /// A buffer that is not in guest memory.
    #[error("buffer outside guest memory")]
    BufferOutside,
    /// The file behind the memory shrank while it was in use.
    #[error("guest memory vanished")]
    MemoryFault,
}

/// One piece of a buffer: guest-physical bytes that were inside one region when the chain was walked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Segment {
    pub(crate) gpa: u64,
    pub(crate) len: u32,
}

/// Available chains read at a time.
const AHEAD: usize = 32;

/// Most descriptors in a chain, as many as QEMU allows.
const CHAIN_MAX: u16 = 1024;

const DESC_SIZE: u64 = 16;
const CACHE_LINE: usize = 64;
const NEXT: u16 = vr::VRING_DESC_F_NEXT as u16;
const WRITE: u16 = vr::VRING_DESC_F_WRITE as u16;
const INDIRECT: u16 = vr::VRING_DESC_F_INDIRECT as u16;
const NO_NOTIFY: u16 = vr::VRING_USED_F_NO_NOTIFY as u16;
const NO_INTERRUPT: u16 = vr::VRING_AVAIL_F_NO_INTERRUPT as u16;

/// One of the three parts of a ring.
#[derive(Debug, Clone, Copy)]
struct Part {
    gpa: u64,
    len: usize,
    /// The region it was last found in.
    hint: usize,
}

impl Part {
    fn slice<'m>(&mut self, mem: &'m GuestMemory) -> Result<VolatileSlice<'m, ()>, RingError> {
        mem.slice_hint(self.gpa, self.len, &mut self.hint)
            .ok_or(RingError::RingOutside)
    }
}

/// A place to go back to: nothing taken or returned since has been seen by the driver.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Mark {
    next: u16,
    done: u16,
    pending: usize,
}

/// The ring proper; see the module.
#[derive(Debug)]
pub(crate) struct SplitRing {
    mem: Arc<GuestMemory>,
    size: u16,
    desc: Part,
    avail: Part,
    used: Part,
    /// The region a data buffer was last found in.
    hint: usize,
    event_idx: bool,
    indirect: bool,
    /// The available index as last read.
    seen: u16,
    /// The next available entry to take.
    next: u16,
    /// Entries before this one have been returned, if not yet published.
    done: u16,
    /// The used index as the driver sees it.
    published: u16,
    /// Used elements not yet published, as they will be in memory.
    pending: Vec<[u8; 8]>,
    /// Bytes of each buffer that will be looked at as soon as it is taken.
    looked_at: usize,
    /// Available chains that were read ahead, the first of them with the available index `ahead_at`.
    ahead: [Chain; AHEAD],
    ahead_at: u16,
    ahead_len: u16,
}

/// An available chain with its first descriptor, which is not read again.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Chain {
    /// Index of the first descriptor: what is returned to the driver.
    pub(crate) head: u16,
    first: Descriptor,
    /// Whether the first descriptor's buffer is inside one region.
    inside: bool,
}

/// One entry of a descriptor table (virtio 2.7.5).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Descriptor {
    gpa: u64,
    len: u32,
    flags: u16,
    next: u16,
}

impl Descriptor {
    /// The entry at `offset`, each of its two words read once.
    #[inline]
    fn read(table: &VolatileSlice<'_, ()>, offset: usize) -> Option<Descriptor> {
        let low = table.get_ref::<u64>(offset).ok()?;
        let high = table.get_ref::<u64>(offset + 8).ok()?;
        let rest = u64::from_le(high.load());
        Some(Descriptor {
            gpa: u64::from_le(low.load()),
            len: rest as u32,
            flags: (rest >> 32) as u16,
            next: (rest >> 48) as u16,
        })
    }
}

impl Chain {
    /// The chain's buffer, if it is a single piece of the wanted kind inside one region: what most chains are.
    #[inline]
    pub(crate) fn only(&self, writable: bool) -> Option<Segment> {
        let Descriptor {
            gpa, len, flags, ..
        } = self.first;
        let kind = if writable { WRITE } else { 0 };
        let plain = self.inside && flags & (NEXT | INDIRECT | WRITE) == kind && len > 0;
        plain.then_some(Segment { gpa, len })
    }
}

/// Guest addresses of a ring's three parts.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RingAddresses {
    pub(crate) desc: u64,
    pub(crate) avail: u64,
    pub(crate) used: u64,
}

impl SplitRing {
    pub(crate) fn new(
        mem: Arc<GuestMemory>,
        size: u16,
        at: RingAddresses,
        base: u16,
        features: u64,
    ) -> Result<SplitRing, RingError> {
        if !size.is_power_of_two() || size > 1 << 15 {
            return Err(RingError::Size(size));
        }
        if !at.desc.is_multiple_of(16) || !at.avail.is_multiple_of(2) || !at.used.is_multiple_of(4)
        {
            return Err(RingError::Misaligned);
        }
        let event_idx = has(features, vr::VIRTIO_RING_F_EVENT_IDX);
        let entries = usize::from(size);
        let event = if event_idx { 2 } else { 0 };
        let part = |gpa, len| Part { gpa, len, hint: 0 };
        let mut ring = SplitRing {
            mem,
            size,
            desc: part(at.desc, entries * 16),
            avail: part(at.avail, 4 + entries * 2 + event),
            used: part(at.used, 4 + entries * 8 + event),
            hint: 0,
            event_idx,
            indirect: has(features, vr::VIRTIO_RING_F_INDIRECT_DESC),
            seen: base,
            next: base,
            done: base,
            published: 0,
            pending: Vec::with_capacity(entries.min(1024)),
            looked_at: 0,
            ahead: [Chain::default(); AHEAD],
            ahead_at: base,
            ahead_len: 0,
        };
        ring.published = ring.locate()?;
        Ok(ring)
    }

    /// Checks that the parts are in memory, and aligned there; answers the used index.
    fn locate(&mut self) -> Result<u16, RingError> {
        self.desc.slice(&self.mem)?;
        let avail = self.avail.slice(&self.mem)?;
        let used = self.used.slice(&self.mem)?;
        avail
            .load::<u16>(2, Ordering::Relaxed)
            .and_then(|_| used.load::<u16>(2, Ordering::Relaxed))
            .map_err(|_| RingError::Misaligned)
    }

    /// Says that the first `bytes` of each buffer will be read when it is taken.
    pub(crate) fn set_looked_at(&mut self, bytes: usize) {
        self.looked_at = bytes;
    }

    pub(crate) fn memory(&self) -> &GuestMemory {
        &self.mem
    }

    pub(crate) fn size(&self) -> u16 {
        self.size
    }

    /// Everything before this available index has been returned to the driver.
    pub(crate) fn done(&self) -> u16 {
        self.done
    }

    /// The available index that [`take`](Self::take) will take next.
    pub(crate) fn next(&self) -> u16 {
        self.next
    }

    /// Whether entries that were already seen wait to be taken.
    pub(crate) fn has_seen(&self) -> bool {
        self.next != self.seen
    }

    /// Reads the available index; answers whether it moved.
    pub(crate) fn reload(&mut self) -> Result<bool, RingError> {
        if self.mem.faulted() {
            return Err(RingError::MemoryFault);
        }
        // Acquire: what the driver wrote before it raised the index is visible after.
        let to = self
            .avail
            .slice(&self.mem)?
            .load::<u16>(2, Ordering::Acquire)
            .map_err(|_| RingError::Misaligned)?;
        let ahead = to.wrapping_sub(self.done);
        if ahead > self.size || ahead < self.seen.wrapping_sub(self.done) {
            return Err(RingError::AvailJump {
                from: self.seen,
                to,
            });
        }
        let moved = to != self.seen;
        self.seen = to;
        Ok(moved)
    }

    /// The next available chain, or `None` if the driver offers no more.
    #[inline]
    pub(crate) fn take(&mut self) -> Result<Option<Chain>, RingError> {
        if self.next == self.seen && !self.reload()? {
            return Ok(None);
        }
        let mut at = self.next.wrapping_sub(self.ahead_at);
        if at >= self.ahead_len {
            self.read_ahead()?;
            at = 0;
        }
        self.next = self.next.wrapping_add(1);
        Ok(self.ahead.get(usize::from(at)).copied())
    }

    /// Reads available chains from `next` on, as many as there are up to the end of the ring.
    ///
    /// One kind of memory after the other: the cache misses of a burst overlap, where those of one frame after the other
    /// would add up. Of each buffer that will be looked at a word of every cache line is read, and not used.
    fn read_ahead(&mut self) -> Result<(), RingError> {
        let at = usize::from(self.next & (self.size - 1));
        let n = usize::from(self.seen.wrapping_sub(self.next))
            .min(AHEAD)
            .min(usize::from(self.size) - at);
        let mut heads = [[0; 2]; AHEAD];
        self.avail
            .slice(&self.mem)?
            .subslice(4 + at * 2, n * 2)
            .map_err(|_| RingError::RingOutside)?
            .copy_to(heads[..n].as_flattened_mut());
        let table = self.desc.slice(&self.mem)?;
        for (chain, head) in self.ahead.iter_mut().zip(&heads[..n]) {
            let head = u16::from_le_bytes(*head);
            let first = Descriptor::read(&table, usize::from(head) * DESC_SIZE as usize);
            *chain = Chain {
                head,
                // A head that is not in the table is found out when the chain is walked.
                first: first.unwrap_or_default(),
                inside: false,
            };
        }
        self.ahead_at = self.next;
        self.ahead_len = n as u16;
        let mut window = self.mem.window(self.hint);
        for chain in &mut self.ahead[..n] {
            let Some(buffer) = window.slice(chain.first.gpa, chain.first.len as usize) else {
                continue;
            };
            chain.inside = true;
            let last = buffer.len().min(self.looked_at).saturating_sub(1);
            for offset in (0..self.looked_at).step_by(CACHE_LINE) {
                let byte = buffer.get_ref::<u8>(offset.min(last));
                byte.map(|b| b.load()).unwrap_or_default();
            }
        }
        self.hint = window.region();
        Ok(())
    }

    /// Walks the chain at `head`, appends its device-writable (or else its device-readable) pieces
    /// to `out` and answers how many bytes they have.
    ///
    /// At most as many descriptors as the ring has are looked at, whatever the chain claims, and never more than
    /// [`CHAIN_MAX`]: the time for one frame is bounded.
    #[inline]
    pub(crate) fn walk(
        &mut self,
        chain: Chain,
        writable: bool,
        out: &mut Vec<Segment>,
    ) -> Result<u64, RingError> {
        let mut table = self.desc.gpa;
        let mut table_hint = self.desc.hint;
        let mut in_table = false;
        let mut entries = u32::from(self.size);
        let mut index = chain.head;
        let mut first = Some(chain.first);
        let mut left = self.size.min(CHAIN_MAX);
        let mut seen_writable = false;
        let mut total = 0;
        loop {
            if u32::from(index) >= entries {
                return Err(RingError::DescOutOfRange(index));
            }
            let Descriptor {
                gpa,
                len,
                flags,
                next,
            } = match first.take() {
                Some(first) => first,
                None => self
                    .mem
                    .slice_hint(
                        table + u64::from(index) * DESC_SIZE,
                        DESC_SIZE as usize,
                        &mut table_hint,
                    )
                    .and_then(|entry| Descriptor::read(&entry, 0))
                    .ok_or(RingError::RingOutside)?,
            };

            if flags & INDIRECT != 0 {
                if !self.indirect || in_table || flags & NEXT != 0 {
                    return Err(RingError::BadIndirect);
                }
                table_hint = self.hint;
                let inside = self
                    .mem
                    .slice_hint(gpa, len as usize, &mut table_hint)
                    .is_some();
                if len == 0 || !u64::from(len).is_multiple_of(DESC_SIZE) || !inside {
                    return Err(RingError::BadIndirectTable);
                }
                (table, entries, index, in_table) = (gpa, len / DESC_SIZE as u32, 0, true);
                continue;
            }
            left = left.checked_sub(1).ok_or(RingError::ChainTooLong)?;
            let is_writable = flags & WRITE != 0;
            if seen_writable && !is_writable {
                return Err(RingError::ReadableAfterWritable);
            }
            seen_writable = is_writable;
            if is_writable == writable && len > 0 {
                if self
                    .mem
                    .slice_hint(gpa, len as usize, &mut self.hint)
                    .is_some()
                {
                    out.push(Segment { gpa, len });
                } else {
                    self.push_spanning(gpa, len, out)?;
                }
                total += u64::from(len);
            }
            if flags & NEXT == 0 {
                return Ok(total);
            }
            index = next;
        }
    }

    /// Appends a buffer that is not inside one region: region by region, if they adjoin.
    #[cold]
    fn push_spanning(
        &self,
        mut gpa: u64,
        mut len: u32,
        out: &mut Vec<Segment>,
    ) -> Result<(), RingError> {
        while len > 0 {
            let here = self.mem.bytes_from(gpa).ok_or(RingError::BufferOutside)?;
            let n = here.min(u64::from(len)) as u32;
            out.push(Segment { gpa, len: n });
            gpa = gpa.wrapping_add(u64::from(n));
            len -= n;
        }
        Ok(())
    }

    /// Returns the oldest chain that is not returned yet, `len` bytes of it written.
    #[inline]
    pub(crate) fn push_used(&mut self, head: u16, len: u32) {
        let element = u64::from(head) | u64::from(len) << 32;
        self.pending.push(element.to_le_bytes());
        self.done = self.done.wrapping_add(1);
    }

    pub(crate) fn mark(&self) -> Mark {
        Mark {
            next: self.next,
            done: self.done,
            pending: self.pending.len(),
        }
    }

    /// Untakes and unreturns everything since `mark`; there was no [`publish`](Self::publish) between.
    pub(crate) fn rollback(&mut self, mark: Mark) {
        self.next = mark.next;
        self.done = mark.done;
        self.pending.truncate(mark.pending);
    }

    /// Untakes every chain that has not been returned.
    pub(crate) fn rewind(&mut self) {
        self.next = self.done;
    }

    pub(crate) fn has_pending(&self) -> bool {
        !self.pending.is_empty()
    }

    /// Writes the pending used elements, makes them visible with one store and answers whether the
    /// driver wants to be told (virtio 2.7.7.2).
    pub(crate) fn publish(&mut self) -> Result<bool, RingError> {
        let outside = |_| RingError::RingOutside;
        let used = self.used.slice(&self.mem)?;
        let at = usize::from(self.published & (self.size - 1));
        let (first, wrapped) = self
            .pending
            .split_at(self.pending.len().min(usize::from(self.size) - at));
        for (elements, at) in [(first, at), (wrapped, 0)] {
            used.subslice(4 + at * 8, elements.len() * 8)
                .map_err(outside)?
                .copy_from(elements.as_flattened());
        }
        let old = self.published;
        let new = old.wrapping_add(self.pending.len() as u16);
        self.pending.clear();
        self.published = new;
        // Release: whoever sees the index sees the elements and the buffers.
        used.store(new, 2, Ordering::Release).map_err(outside)?;
        // The index must be out before the driver's wish is read: the driver writes its wish, then
        // reads the index, and one of the two must see the other.
        fence(Ordering::SeqCst);
        let avail = self.avail.slice(&self.mem)?;
        if self.event_idx {
            let at = 4 + usize::from(self.size) * 2;
            let event = avail.load::<u16>(at, Ordering::Relaxed).map_err(outside)?;
            Ok(crosses(event, old, new))
        } else {
            let flags = avail.load::<u16>(0, Ordering::Relaxed).map_err(outside)?;
            Ok(flags & NO_INTERRUPT == 0)
        }
    }

    /// Asks the driver to notify (or not to) when it makes more available than was seen. Answers
    /// whether it already has: then there will be no notification for that.
    pub(crate) fn set_notify(&mut self, on: bool) -> Result<bool, RingError> {
        let outside = |_| RingError::RingOutside;
        let used = self.used.slice(&self.mem)?;
        if !self.event_idx {
            let flags = if on { 0 } else { NO_NOTIFY };
            used.store(flags, 0, Ordering::Relaxed).map_err(outside)?;
        } else if on {
            let at = 4 + usize::from(self.size) * 8;
            used.store(self.seen, at, Ordering::Relaxed)
                .map_err(outside)?;
        }
        if !on {
            return Ok(false);
        }
        // The wish must be out before the index is read again; the driver does the opposite.
        fence(Ordering::SeqCst);
        self.reload()
    }
}

/// Whether the index passed `event` on its way from `old` to `new` (virtio 2.7.10.1).
fn crosses(event: u16, old: u16, new: u16) -> bool {
    new.wrapping_sub(event).wrapping_sub(1) < new.wrapping_sub(old)
}

#[cfg(test)]
pub(crate) mod driver;
#[cfg(test)]
mod tests;
