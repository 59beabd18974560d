//! The device's end of a split virtqueue (virtio 2.7): available entries in, used entries out.
//!
//! Every index, descriptor and indirect table entry is read from guest memory exactly once, as a
//! copy, and judged on that copy. Used elements are kept here until they are published: written, and
//! made visible with one store. Never looks at what is in the buffers.

#![expect(
    clippy::arithmetic_side_effects,
    reason = "bounded by the sizes of rings, regions and frames"
)]
#![expect(
    clippy::cast_possible_truncation,
    reason = "cut to the width that the format has, or bounded before"
)]
#![expect(clippy::indexing_slicing, reason = "bounds are checked just before")]

use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};

use virtio_bindings::virtio_ring as vr;

use crate::chain::{
    AHEAD, Chain, DESC_SIZE, Descriptor, Fence, Gather, INDIRECT, Mark, NEXT, Prefetch,
    RingAddresses, Segment, Token, UsedElem, check_memory, expect, look_ahead, part,
};
use crate::device_queue::DeviceQueue;
use crate::error::RingError;
use crate::features::VirtioFeatures;
use crate::memory::{GuestMemory, Pinned};

/// So many chains at a time are too few for their waits to overlap.
const FEW: usize = 4;
/// Of so many descriptors it is remembered where they led: what a ring that starts has to make is no more for a long one.
const LATELY: usize = 1024;
const NO_NOTIFY: u16 = vr::VRING_USED_F_NO_NOTIFY as u16;
const NO_INTERRUPT: u16 = vr::VRING_AVAIL_F_NO_INTERRUPT as u16;

/// The ring proper; see the module.
#[derive(Debug)]
pub(crate) struct SplitRing {
    mem: Arc<GuestMemory>,
    size: u16,
    desc: Pinned,
    avail: Pinned,
    used: Pinned,
    /// The region a data buffer was last found in.
    hint: usize,
    /// Descriptors walked.
    walked: u64,
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
    /// What it was when the driver was last asked whether it wants to be called; `None` where somebody else has published
    /// before, who may have died before that, or where 65,536 chains have been published since: then it is called, whatever it
    /// wants.
    called: Option<u16>,
    /// Used elements not yet published, as they will be in memory.
    pending: Vec<[u8; 8]>,
    /// What will be done with buffers as soon as they are taken.
    buffers: Prefetch,
    /// Available chains that were read ahead, the first of them with the available index `ahead_at`.
    ahead: [Chain; AHEAD],
    ahead_at: u16,
    ahead_len: u16,
    /// By descriptor, of the first [`LATELY`]: the buffer that it last stood for when it came with few others, if buffers are read.
    lately: Vec<Segment>,
}

impl SplitRing {
    pub(crate) fn new(
        mem: Arc<GuestMemory>,
        size: u16,
        at: RingAddresses,
        base: u16,
        features: VirtioFeatures,
    ) -> Result<SplitRing, RingError> {
        if !size.is_power_of_two() || size > 1 << 15 {
            return Err(RingError::Size(size));
        }
        if !at.aligned(false) {
            return Err(RingError::Misaligned);
        }
        let event_idx = features.contains(VirtioFeatures::EVENT_IDX);
        let entries = usize::from(size);
        let event = if event_idx { 2 } else { 0 };
        let mut ring = SplitRing {
            size,
            desc: part(&mem, at.desc, entries * 16)?,
            avail: part(&mem, at.avail, 4 + entries * 2 + event)?,
            used: part(&mem, at.used, 4 + entries * 8 + event)?,
            mem,
            hint: 0,
            walked: 0,
            event_idx,
            indirect: features.contains(VirtioFeatures::INDIRECT_DESC),
            seen: base,
            next: base,
            done: base,
            published: 0,
            called: None,
            pending: Vec::with_capacity(entries.min(1024)),
            buffers: Prefetch::Nothing,
            ahead: [Chain::default(); AHEAD],
            ahead_at: base,
            ahead_len: 0,
            lately: vec![Segment::default(); entries.min(LATELY)],
        };
        ring.published = ring.locate()?;
        let new = ring.published == 0 && !ring.any_used()?;
        ring.called = new.then_some(0);
        Ok(ring)
    }

    /// Whether any chain has been returned. The used index alone does not tell: it may have gone round.
    fn any_used(&self) -> Result<bool, RingError> {
        let used = self.used.slice()?;
        for at in 0..2 * usize::from(self.size) {
            let word = used.load::<u32>(4 + at * 4, Ordering::Relaxed);
            if word.ok_or(RingError::RingOutside)? != 0 {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Checks that the parts are aligned where they are mapped; answers the used index.
    fn locate(&self) -> Result<u16, RingError> {
        let avail = self.avail.slice()?;
        let used = self.used.slice()?;
        avail
            .load::<u16>(2, Ordering::Relaxed)
            .and_then(|_| used.load::<u16>(2, Ordering::Relaxed))
            .ok_or(RingError::Misaligned)
    }

    /// Reads available chains from `next` on, as many as there are up to the end of the ring.
    fn read_ahead(&mut self) -> Result<(), RingError> {
        let at = usize::from(self.next & (self.size - 1));
        let n = usize::from(self.seen.wrapping_sub(self.next))
            .min(AHEAD)
            .min(usize::from(self.size) - at);
        let mut heads = [[0; 2]; AHEAD];
        self.avail
            .slice()?
            .subslice(4 + at * 2, n * 2)
            .ok_or(RingError::RingOutside)?
            .copy_to(heads[..n].as_flattened_mut());
        let few = n <= FEW && matches!(self.buffers, Prefetch::Read(_));
        let mut window = self.mem.window(self.hint);
        if few {
            // A driver that goes round its descriptors often goes round its buffers, too. A buffer that is asked for now
            // comes along with its descriptor instead of after it.
            for head in &heads[..n] {
                let lately = self.lately.get(usize::from(u16::from_le_bytes(*head)));
                expect(
                    &mut window,
                    lately.copied().unwrap_or_default(),
                    self.buffers,
                );
            }
        }
        let table = self.desc.slice()?;
        for (chain, head) in self.ahead.iter_mut().zip(&heads[..n]) {
            let head = u16::from_le_bytes(*head);
            // A head that is not in the table is found out when the chain is walked.
            let first = Descriptor::read(&table, usize::from(head) * DESC_SIZE as usize);
            *chain = Chain::new(Token { id: head, descs: 1 }, first.unwrap_or_default());
        }
        look_ahead(&mut window, &mut self.ahead[..n], self.buffers);
        self.hint = window.region();
        if few {
            for chain in &self.ahead[..n] {
                if let Some(lately) = self.lately.get_mut(usize::from(chain.token.id)) {
                    let (gpa, len) = (chain.first.gpa, chain.first.len());
                    *lately = Segment { gpa, len };
                }
            }
        }
        self.ahead_at = self.next;
        self.ahead_len = n as u16;
        Ok(())
    }
}

impl DeviceQueue for SplitRing {
    fn set_ahead(&mut self, what: Prefetch) {
        self.buffers = what;
    }

    fn memory(&self) -> &Arc<GuestMemory> {
        &self.mem
    }

    fn size(&self) -> u16 {
        self.size
    }

    fn base(&self) -> u32 {
        self.done.into()
    }

    fn has_seen(&self) -> bool {
        self.next != self.seen
    }

    fn reload(&mut self) -> Result<bool, RingError> {
        check_memory(&self.mem)?;
        // Acquire: what the driver wrote before it raised the index is visible after.
        let to = self
            .avail
            .slice()?
            .load::<u16>(2, Ordering::Acquire)
            .ok_or(RingError::Misaligned)?;
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

    #[inline]
    fn upcoming(&mut self) -> Result<(&GuestMemory, &[Chain]), RingError> {
        check_memory(&self.mem)?;
        if self.next == self.seen && !self.reload()? {
            return Ok((&self.mem, &[]));
        }
        self.prepare()?;
        let at = usize::from(self.next.wrapping_sub(self.ahead_at));
        let chains = self.ahead.get(at..usize::from(self.ahead_len));
        Ok((&self.mem, chains.unwrap_or_default()))
    }

    #[inline]
    fn prepare(&mut self) -> Result<(), RingError> {
        let read = self.next.wrapping_sub(self.ahead_at) < self.ahead_len;
        if read || self.next == self.seen {
            return Ok(());
        }
        self.read_ahead()
    }

    #[inline]
    fn advance(&mut self, n: usize) {
        self.next = self.next.wrapping_add(n as u16);
    }

    #[inline]
    fn walk(
        &mut self,
        chain: Chain,
        writable: bool,
        out: &mut Vec<Segment>,
    ) -> Result<u64, RingError> {
        let mut table = self.desc.gpa();
        let mut table_hint = 0;
        let mut in_table = false;
        let mut entries = u32::from(self.size);
        let mut index = chain.token.id;
        let mut first = Some(chain.first);
        let mut gather = Gather::new(
            &self.mem,
            &mut self.hint,
            &mut self.walked,
            self.size,
            writable,
            out,
        );
        loop {
            if u32::from(index) >= entries {
                return Err(RingError::DescOutOfRange(index));
            }
            let desc = match first.take() {
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
            if desc.flags() & INDIRECT != 0 {
                if !self.indirect || in_table || desc.flags() & NEXT != 0 {
                    return Err(RingError::BadIndirect);
                }
                entries = gather.table(desc, &mut table_hint)?;
                (table, index, in_table) = (desc.gpa, 0, true);
                continue;
            }
            gather.push(desc)?;
            if desc.flags() & NEXT == 0 {
                return Ok(gather.total);
            }
            index = desc.next();
        }
    }

    fn walked(&self) -> u64 {
        self.walked
    }

    #[inline]
    fn push_all_used(&mut self, chains: impl Iterator<Item = UsedElem>) {
        let before = self.pending.len();
        let elements = chains.map(|chain| u64::from(chain.id()) | u64::from(chain.len()) << 32);
        self.pending.extend(elements.map(u64::to_le_bytes));
        let n = self.pending.len() - before;
        self.done = self.done.wrapping_add(n as u16);
    }

    fn mark(&self) -> Mark {
        Mark {
            taken: self.next,
            returned: self.done,
            next: 0,
            done: 0,
            pending: self.pending.len(),
        }
    }

    fn rollback(&mut self, mark: Mark) {
        self.next = mark.taken;
        self.done = mark.returned;
        self.pending.truncate(mark.pending);
    }

    fn rewind(&mut self) {
        self.next = self.done;
    }

    fn has_pending(&self) -> bool {
        !self.pending.is_empty()
    }

    fn publish(&mut self) -> Result<(), RingError> {
        let outside = RingError::RingOutside;
        let used = self.used.slice_mut(&self.mem)?;
        let at = usize::from(self.published & (self.size - 1));
        let (first, wrapped) = self
            .pending
            .split_at(self.pending.len().min(usize::from(self.size) - at));
        for (elements, at) in [(first, at), (wrapped, 0)] {
            used.subslice(4 + at * 8, elements.len() * 8)
                .ok_or(outside)?
                .copy_from(elements.as_flattened());
        }
        let new = self.published.wrapping_add(self.pending.len() as u16);
        self.pending.clear();
        let before = std::mem::replace(&mut self.published, new);
        self.called = self
            .called
            .filter(|&called| new.wrapping_sub(called) >= before.wrapping_sub(called));
        // Release: whoever sees the index sees the elements and the buffers.
        used.store(2, new, Ordering::Release).ok_or(outside)
    }

    fn is_resumed(&self) -> bool {
        self.called.is_none()
    }

    /// virtio 2.7.7.2.
    fn wants_call(&mut self, _: &Fence) -> Result<bool, RingError> {
        let outside = RingError::RingOutside;
        let new = self.published;
        let old = self.called.replace(new);
        let avail = self.avail.slice()?;
        if self.event_idx {
            let at = 4 + usize::from(self.size) * 2;
            let event = avail.load::<u16>(at, Ordering::Relaxed).ok_or(outside)?;
            Ok(old.is_none_or(|old| crosses(event, old, new)))
        } else {
            let flags = avail.load::<u16>(0, Ordering::Relaxed).ok_or(outside)?;
            Ok(flags & NO_INTERRUPT == 0)
        }
    }

    fn set_notify(&mut self, on: bool) -> Result<bool, RingError> {
        let outside = RingError::RingOutside;
        let used = self.used.slice_mut(&self.mem)?;
        if !self.event_idx {
            let flags = if on { 0 } else { NO_NOTIFY };
            used.store(0, flags, Ordering::Relaxed).ok_or(outside)?;
        } else if on {
            let at = 4 + usize::from(self.size) * 8;
            used.store(at, self.seen, Ordering::Relaxed)
                .ok_or(outside)?;
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
mod reference;
#[cfg(test)]
mod tests;
