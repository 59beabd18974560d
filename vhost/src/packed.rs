//! The device's end of a packed virtqueue (virtio 2.8): descriptors that are available become
//! descriptors that are used, in one ring, lap after lap.
//!
//! A lap's number, odd or even, is the wrap counter: a descriptor whose flags say `AVAIL` as the
//! counter does and `USED` as it does not is available, one whose flags both say as the counter
//! does is used. Every descriptor is judged on a copy that was made once. What is returned is kept
//! here until it is published: all but the first used descriptor, then the first one with one
//! Release store, without which a driver does not look at the others. Never looks at what is in
//! the buffers.

#![expect(
    clippy::arithmetic_side_effects,
    reason = "bounded by the sizes of rings, regions and frames"
)]
#![expect(
    clippy::cast_possible_truncation,
    reason = "cut to the width that the format has, or bounded before"
)]
#![expect(clippy::indexing_slicing, reason = "bounds are checked just before")]

mod place;

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};

use virtio_bindings::virtio_ring as vr;

use crate::chain::{
    AHEAD, CHAIN_MAX, Chain, DESC_SIZE, Descriptor, Fence, Gather, INDIRECT, Mark, NEXT, Prefetch,
    RingAddresses, Segment, Token, UsedElem, WRITE, check_memory, look_ahead, part,
};
use crate::device_queue::DeviceQueue;
use crate::error::RingError;
use crate::features::VirtioFeatures;
use crate::memory::{GuestMemory, GuestSlice, Pinned, UnmarkedSlice};
use crate::raw::copy::CACHE_LINE;

const AVAIL_FLAG: u16 = 1 << vr::VRING_PACKED_DESC_F_AVAIL;
const USED_FLAG: u16 = 1 << vr::VRING_PACKED_DESC_F_USED;
const EVENT_DISABLE: u32 = vr::VRING_PACKED_EVENT_FLAG_DISABLE;
const EVENT_DESC: u32 = vr::VRING_PACKED_EVENT_FLAG_DESC;
/// The wrap counter beside an offset of 15 bits, in event structures and in a ring base.
const WRAP: u16 = 1 << 15;

/// Bases of a ring that nobody has used, as QEMU, DPDK and User-Mode Linux say them.
const NEW: [u32; 3] = [0x8000_8000, 0x8000, 0];
/// How often a ring is looked at to which its driver seems to write just now.
const LOOKS: usize = 16;

/// The ring proper; see the module.
///
/// A place in it is a number below twice its size: the offset of a descriptor, plus the size in the laps whose wrap
/// counter is 0. From one place to another is then never ambiguous, for no two are more than the size apart.
#[derive(Debug)]
pub(crate) struct PackedRing {
    mem: Arc<GuestMemory>,
    size: u16,
    desc: Pinned,
    /// Where the driver says when it wants to be notified, and where the device does.
    driver_event: Pinned,
    device_event: Pinned,
    /// The region a data buffer was last found in.
    hint: usize,
    /// Descriptors walked.
    walked: u64,
    /// Whether it has been used before, and nobody knows how far.
    lost: bool,
    event_idx: bool,
    in_order: bool,
    indirect: bool,
    /// The first descriptor not known to be available.
    seen: u32,
    /// The next one to take.
    next: u32,
    /// Those before this one have been returned, if not yet published.
    done: u32,
    /// Where the driver looks for the next used descriptor.
    published: u32,
    /// What that was when the driver was last asked whether it wants to be called; `None` where somebody else has published
    /// before, who may have died before that, or where that is two laps ago or more: then it is called, whatever it wants.
    called: Option<u32>,
    /// Chains taken and returned, counted.
    taken: u16,
    returned: u16,
    /// Chains returned and not yet published, and how many bytes of each were written.
    pending: Vec<UsedElem>,
    /// What will be done with buffers as soon as they are taken.
    buffers: Prefetch,
    /// Descriptors that were read ahead, each as a chain; the first of them is at `ahead_at`.
    ahead: [Chain; AHEAD],
    ahead_at: u32,
    ahead_len: u32,
    /// What the chain taken last has behind its first descriptor.
    rest: Vec<Descriptor>,
}

impl PackedRing {
    pub(crate) fn new(
        mem: Arc<GuestMemory>,
        size: u16,
        at: RingAddresses,
        base: u32,
        features: VirtioFeatures,
    ) -> Result<PackedRing, RingError> {
        if size == 0 || size > 1 << 15 {
            return Err(RingError::Size(size));
        }
        if !at.aligned(true) {
            return Err(RingError::Misaligned);
        }
        let mut ring = PackedRing {
            size,
            lost: false,
            desc: part(&mem, at.desc, usize::from(size) * DESC_SIZE as usize)?,
            driver_event: part(&mem, at.avail, 4)?,
            device_event: part(&mem, at.used, 4)?,
            mem,
            hint: 0,
            walked: 0,
            event_idx: features.contains(VirtioFeatures::EVENT_IDX),
            in_order: features.contains(VirtioFeatures::IN_ORDER),
            indirect: features.contains(VirtioFeatures::INDIRECT_DESC),
            seen: 0,
            next: 0,
            done: 0,
            published: 0,
            called: None,
            taken: 0,
            returned: 0,
            pending: Vec::with_capacity(usize::from(size).min(1024)),
            buffers: Prefetch::Nothing,
            ahead: [Chain::default(); AHEAD],
            ahead_at: 0,
            ahead_len: 0,
            rest: Vec::new(),
        };
        ring.locate()?;
        let start = ring.start(base)?;
        (ring.seen, ring.next, ring.done) = (start, start, start);
        ring.published = start;
        let new = start == ring.place(0, true) && !ring.any_used()?;
        ring.called = new.then_some(start);
        Ok(ring)
    }

    /// Checks that the parts are aligned where they are mapped.
    fn locate(&self) -> Result<(), RingError> {
        let table = self.desc.slice()?;
        let driver = self.driver_event.slice()?;
        let device = self.device_event.slice()?;
        table
            .load::<u64>(0, Ordering::Relaxed)
            .and_then(|_| driver.load::<u32>(0, Ordering::Relaxed))
            .and_then(|_| device.load::<u32>(0, Ordering::Relaxed))
            .ok_or(RingError::Misaligned)?;
        Ok(())
    }

    /// The place that a ring base stands for; see [`side_of`].
    ///
    /// User-Mode Linux says 0 for a new ring, which would be a wrap counter of 0. But before the second lap, no descriptor
    /// says `USED`: those that are new say nothing, those made available in the first lap say `AVAIL` alone. And where the
    /// second lap begins, some descriptor does: the one that the last chain of the first lap was returned with, or what
    /// the driver has made of it meanwhile. So the ring itself tells the first lap from the others.
    fn start(&mut self, base: u32) -> Result<u32, RingError> {
        let (offset, wrap) = side_of(base, self.size)?;
        let wrap = wrap || (base == 0 && !self.any_used()?);
        Ok(self.place(offset, wrap))
    }

    /// Goes on where whoever served this ring before has left it, who may have been killed. A front end says a base of a new ring then, or
    /// where the ring was when it last stopped it, as QEMU does; it may have gone on since. So a ring that has been used is looked at, and
    /// `base` is taken where that leaves room for it. If neither tells where that was, nobody knows.
    pub(crate) fn look_for_place(&mut self, base: u32) -> Result<(), RingError> {
        if !self.any_used()? {
            return Ok(());
        }
        let habits = place::Habits {
            in_order: self.in_order,
            indirect: self.indirect,
        };
        let told = match NEW.contains(&base) {
            true => place::Told::New(self.done),
            false => place::Told::Place(self.done),
        };
        let mut marks = self.marks()?;
        for _ in 0..LOOKS {
            let before = std::mem::replace(&mut marks, self.marks()?);
            if before == marks {
                let found = place::find(&marks, habits, told);
                self.lost = found.is_none();
                let place = found.map_or(self.done, |found| found.place);
                (self.seen, self.next, self.done) = (place, place, place);
                self.published = place;
                self.called = None;
                if let Some(missed) = found.and_then(|found| found.missed) {
                    self.give_back_empty(missed, &marks)?;
                }
                return Ok(());
            }
        }
        self.lost = matches!(told, place::Told::New(_));
        Ok(())
    }

    /// Returns a descriptor with nothing in it: what a back end that was killed wrote there, or made of it, nobody knows.
    fn give_back_empty(&self, place: u32, marks: &[place::Marks]) -> Result<(), RingError> {
        let outside = RingError::RingOutside;
        let (index, wrap) = self.split(place);
        let marks = marks.get(index as usize).ok_or(outside)?;
        let flags = if wrap { AVAIL_FLAG | USED_FLAG } else { 0 };
        let word = u64::from(marks.id) << 32 | u64::from(flags) << 48;
        let offset = index as usize * DESC_SIZE as usize + 8;
        let table = self.desc.slice_mut(&self.mem)?;
        let store = |table: &UnmarkedSlice<'_>| {
            let stored = table.store(offset, word.to_le(), Ordering::Release);
            stored.ok_or(outside)
        };
        table.write_some(store, || offset..offset + 8)
    }

    /// What the ring's descriptors say just now.
    fn marks(&self) -> Result<Vec<place::Marks>, RingError> {
        let table = self.desc.slice()?;
        let marks = |index: u32| {
            let at = index as usize * DESC_SIZE as usize + 12;
            let word = table.load::<u32>(at, Ordering::Relaxed).map(u32::from_le);
            let word = word.ok_or(RingError::RingOutside)?;
            Ok(place::Marks {
                id: word as u16,
                flags: (word >> 16) as u16,
            })
        };
        (0..u32::from(self.size)).map(marks).collect()
    }

    /// Whether any descriptor has the `USED` flag.
    fn any_used(&self) -> Result<bool, RingError> {
        let table = self.desc.slice()?;
        for index in 0..u32::from(self.size) {
            if load_flags(&table, index)? & USED_FLAG != 0 {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The descriptor at a place, as if it were a chain.
    #[inline]
    fn read(&mut self, at: u32) -> Result<Chain, RingError> {
        let mut ahead = self.distance(self.ahead_at, at);
        if ahead >= self.ahead_len {
            self.read_ahead(at)?;
            ahead = 0;
        }
        let chain = self.ahead.get(ahead as usize);
        chain.copied().ok_or(RingError::RingOutside)
    }

    /// Reads the descriptor at `at`, and those behind it that are available, up to the end of the ring. What the driver has made
    /// available since the ring was looked at is seen now.
    fn read_ahead(&mut self, at: u32) -> Result<(), RingError> {
        let (first, wrap) = self.split(at);
        let ahead = self.distance(at, self.seen);
        let to_end = u32::from(self.size) - first;
        // A chain may go on behind what was seen; that is more than a lap from there to here.
        let (known, most) = if ahead > self.size.into() {
            (1, 1)
        } else {
            // What the device holds cannot be available, whatever it says.
            let room = u32::from(self.size) - self.distance(self.done, at);
            (ahead.max(1), room.min(AHEAD as u32).min(to_end))
        };
        let available = available(wrap);
        let table = self.desc.slice()?;
        let mut n = 0;
        for (chain, index) in self.ahead[..most.max(1) as usize].iter_mut().zip(first..) {
            let offset = index as usize * DESC_SIZE as usize;
            let desc = Descriptor::load_packed(&table, offset).ok_or(RingError::RingOutside)?;
            if n >= known && desc.flags() & (AVAIL_FLAG | USED_FLAG) != available {
                break;
            }
            let id = desc.next();
            *chain = Chain::new(Token { id, descs: 1 }, desc);
            n += 1;
        }
        if n > known {
            self.seen = self.after(at, n);
        }
        self.will_return(&table, first..first + n);
        self.ahead_at = at;
        self.ahead_len = n;
        let mut window = self.mem.window(self.hint);
        look_ahead(&mut window, &mut self.ahead[..n as usize], self.buffers);
        self.hint = window.region();
        Ok(())
    }

    /// Asks for the lines of descriptors that were just read, to be written: the driver's core has them, too, and a store
    /// that waits for it holds up those behind it.
    #[inline]
    fn will_return(&self, table: &GuestSlice<'_>, descs: Range<u32>) {
        for desc in descs.step_by(CACHE_LINE / DESC_SIZE as usize) {
            table.will_write(desc as usize * DESC_SIZE as usize);
        }
    }

    /// Where in the ring the used descriptors are for what is pending; all of it if they go round its end.
    fn pending_bytes(&self) -> Range<usize> {
        let (first, _) = self.split(self.published);
        let end = first + self.distance(self.published, self.done);
        let size = u32::from(self.size);
        let descs = if end <= size { first..end } else { 0..size };
        let offset = |desc: u32| desc as usize * DESC_SIZE as usize;
        offset(descs.start)..offset(descs.end)
    }

    /// Writes used descriptors for what is pending; answers the place behind them.
    #[inline]
    fn write_used(&self, table: &UnmarkedSlice<'_>) -> Result<u32, RingError> {
        let outside = RingError::RingOutside;
        let mut at = self.published;
        let mut first = None;
        let mut pending = self.pending.iter().copied().peekable();
        while let Some(mut chain) = pending.next() {
            let len = chain.len();
            let (index, wrap) = self.split(at);
            at = self.after(at, chain.descs().into());
            // In order, chains that nothing was written to need no used descriptor but that of the last (virtio 2.8.8).
            while self.in_order
                && len == 0
                && let Some(later) = pending.next_if(|chain| chain.len() == 0)
            {
                at = self.after(at, later.descs().into());
                chain = later;
            }
            let lap = if wrap { AVAIL_FLAG | USED_FLAG } else { 0 };
            let flags = lap | if len > 0 { WRITE } else { 0 };
            let word = u64::from(len) | u64::from(chain.id()) << 32 | u64::from(flags) << 48;
            let offset = index as usize * DESC_SIZE as usize + 8;
            if first.is_none() {
                first = Some((offset, word));
            } else {
                table
                    .store(offset, word.to_le(), Ordering::Relaxed)
                    .ok_or(outside)?;
            }
        }
        if let Some((offset, word)) = first {
            // Release: whoever sees this descriptor used sees those behind it and the buffers.
            table
                .store(offset, word.to_le(), Ordering::Release)
                .ok_or(outside)?;
        }
        Ok(at)
    }

    /// The place of a descriptor in a lap with this wrap counter.
    fn place(&self, offset: u16, wrap: bool) -> u32 {
        let lap = if wrap { 0 } else { self.size };
        u32::from(offset) + u32::from(lap)
    }

    /// The offset of the descriptor at a place, and the wrap counter of its lap.
    #[inline]
    fn split(&self, place: u32) -> (u32, bool) {
        let size = u32::from(self.size);
        if place < size {
            (place, true)
        } else {
            (place - size, false)
        }
    }

    /// A place as ring bases and event structures have it.
    fn side(&self, place: u32) -> u16 {
        let (offset, wrap) = self.split(place);
        offset as u16 | if wrap { WRAP } else { 0 }
    }

    /// The place `n` descriptors on; `n` is at most the size of the ring.
    #[inline]
    fn after(&self, place: u32, n: u32) -> u32 {
        let (on, laps) = (place + n, 2 * u32::from(self.size));
        if on < laps { on } else { on - laps }
    }

    /// How many descriptors it is from one place to another, below twice the size.
    #[inline]
    fn distance(&self, from: u32, to: u32) -> u32 {
        if to >= from {
            to - from
        } else {
            to + 2 * u32::from(self.size) - from
        }
    }
}

impl DeviceQueue for PackedRing {
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
        let side = u32::from(self.side(self.done));
        side | side << 16
    }

    fn has_seen(&self) -> bool {
        self.next != self.seen
    }

    fn reload(&mut self) -> Result<bool, RingError> {
        check_memory(&self.mem)?;
        // What the device holds cannot be available, whatever it says.
        if self.distance(self.done, self.seen) >= self.size.into() {
            return Ok(false);
        }
        let (index, wrap) = self.split(self.seen);
        let flags = load_flags(&self.desc.slice()?, index)?;
        if flags & (AVAIL_FLAG | USED_FLAG) != available(wrap) {
            return Ok(false);
        }
        // Acquire: what the driver wrote before it made this one available is visible after. Those behind it are seen as they are
        // read.
        fence(Ordering::Acquire);
        self.seen = self.after(self.seen, 1);
        Ok(true)
    }

    /// [`walk`](Self::walk) knows the last one only.
    #[inline]
    fn take(&mut self) -> Result<Option<Chain>, RingError> {
        check_memory(&self.mem)?;
        if self.next == self.seen && !self.reload()? {
            return Ok(None);
        }
        let mut chain = self.read(self.next)?;
        let mut at = self.after(self.next, 1);
        self.rest.clear();
        if chain.first.flags() & NEXT != 0 {
            let held = self.distance(self.done, self.next);
            let most = (u32::from(self.size) - held).min(CHAIN_MAX.into());
            let mut last = chain.first;
            while last.flags() & NEXT != 0 {
                chain.token.descs += 1;
                if u32::from(chain.token.descs) > most {
                    return Err(RingError::ChainTooLong);
                }
                last = self.read(at)?.first;
                self.rest.push(last);
                at = self.after(at, 1);
            }
            chain.token.id = last.next();
            // That the first one is available says so of the others.
            if self.distance(self.next, self.seen) < chain.token.descs.into() {
                self.seen = at;
            }
        }
        self.next = at;
        self.taken = self.taken.wrapping_add(1);
        Ok(Some(chain))
    }

    /// Always inline: a result that comes back through memory is waited for.
    #[inline(always)]
    fn upcoming(&mut self) -> Result<(&GuestMemory, &[Chain]), RingError> {
        check_memory(&self.mem)?;
        if self.next == self.seen && !self.reload()? {
            return Ok((&self.mem, &[]));
        }
        self.prepare()?;
        let at = self.distance(self.ahead_at, self.next);
        let chains = self.ahead.get(at as usize..self.ahead_len as usize);
        Ok((&self.mem, chains.unwrap_or_default()))
    }

    #[inline]
    fn prepare(&mut self) -> Result<(), RingError> {
        let read = self.distance(self.ahead_at, self.next) < self.ahead_len;
        if read || self.next == self.seen {
            return Ok(());
        }
        self.read_ahead(self.next)
    }

    #[inline]
    fn advance(&mut self, n: usize) {
        self.next = self.after(self.next, n as u32);
        self.taken = self.taken.wrapping_add(n as u16);
    }

    fn walk(
        &mut self,
        chain: Chain,
        writable: bool,
        out: &mut Vec<Segment>,
    ) -> Result<u64, RingError> {
        let mut gather = Gather::new(
            &self.mem,
            &mut self.hint,
            &mut self.walked,
            self.size,
            writable,
            out,
        );
        for desc in std::iter::once(&chain.first).chain(&self.rest) {
            if desc.flags() & INDIRECT == 0 {
                gather.push(*desc)?;
                continue;
            }
            if !self.indirect || !self.rest.is_empty() {
                return Err(RingError::BadIndirect);
            }
            let mut hint = 0;
            let entries = gather.table(*desc, &mut hint)?;
            for entry in 0..u64::from(entries) {
                let at = desc.gpa + entry * DESC_SIZE;
                // All entries belong to the chain, in this order, whatever NEXT says (virtio 2.8.7).
                let entry = self
                    .mem
                    .slice_hint(at, DESC_SIZE as usize, &mut hint)
                    .and_then(|entry| Descriptor::read_packed(&entry, 0))
                    .ok_or(RingError::BadIndirectTable)?;
                if entry.flags() & INDIRECT != 0 {
                    return Err(RingError::BadIndirect);
                }
                gather.push(entry)?;
            }
        }
        Ok(gather.total)
    }

    fn walked(&self) -> u64 {
        self.walked
    }

    #[inline]
    fn push_all_used(&mut self, chains: impl Iterator<Item = UsedElem>) {
        let before = self.pending.len();
        self.pending.extend(chains);
        let added = &self.pending[before..];
        let descs: u32 = added.iter().map(|chain| u32::from(chain.descs())).sum();
        self.returned = self.returned.wrapping_add(added.len() as u16);
        self.done = self.after(self.done, descs);
    }

    fn mark(&self) -> Mark {
        Mark {
            taken: self.taken,
            returned: self.returned,
            next: self.next,
            done: self.done,
            pending: self.pending.len(),
        }
    }

    fn rollback(&mut self, mark: Mark) {
        (self.taken, self.returned) = (mark.taken, mark.returned);
        (self.next, self.done) = (mark.next, mark.done);
        self.pending.truncate(mark.pending);
    }

    fn rewind(&mut self) {
        (self.next, self.taken) = (self.done, self.returned);
    }

    fn has_pending(&self) -> bool {
        !self.pending.is_empty()
    }

    fn publish(&mut self) -> Result<(), RingError> {
        let table = self.desc.slice_mut(&self.mem)?;
        let new = table.write_some(|table| self.write_used(table), || self.pending_bytes())?;
        let before = std::mem::replace(&mut self.published, new);
        self.called = self
            .called
            .filter(|&called| self.distance(called, new) >= self.distance(called, before));
        self.pending.clear();
        Ok(())
    }

    fn is_resumed(&self) -> bool {
        self.called.is_none()
    }

    fn is_lost(&self) -> bool {
        self.lost
    }

    /// virtio 2.8.10.
    fn wants_call(&mut self, _: &Fence) -> Result<bool, RingError> {
        let new = self.published;
        let old = self.called.replace(new);
        let event = self.driver_event.slice()?.load(0, Ordering::Relaxed);
        let event = u32::from_le(event.ok_or(RingError::RingOutside)?);
        match event >> 16 & 3 {
            EVENT_DISABLE => Ok(false),
            EVENT_DESC if self.event_idx => {
                let side = event as u16;
                let offset = side & !WRAP;
                let place = self.place(offset, side & WRAP != 0);
                let passed = |old| self.distance(old, place) < self.distance(old, new);
                Ok(old.is_none_or(passed) || offset >= self.size)
            }
            _ => Ok(true),
        }
    }

    fn set_notify(&mut self, on: bool) -> Result<bool, RingError> {
        let wish = match (on, self.event_idx) {
            (false, _) => EVENT_DISABLE << 16,
            (true, false) => 0,
            (true, true) => EVENT_DESC << 16 | u32::from(self.side(self.seen)),
        };
        self.device_event
            .slice_mut(&self.mem)?
            .store(0, wish.to_le(), Ordering::Relaxed)
            .ok_or(RingError::RingOutside)?;
        if !on {
            return Ok(false);
        }
        // The wish must be out before the flags are read again; the driver does the opposite.
        fence(Ordering::SeqCst);
        self.reload()
    }
}

/// Offset and wrap counter of a ring base. A device that works in order is at the same place on both sides; the used side
/// (bits 16 to 31) is where the driver will look, and front ends that know of the available side only (DPDK's) leave it 0.
pub(crate) fn side_of(base: u32, size: u16) -> Result<(u16, bool), RingError> {
    let (avail, used) = (base as u16, (base >> 16) as u16);
    let side = if used == 0 { avail } else { used };
    let offset = side & !WRAP;
    if offset >= size {
        return Err(RingError::DescOutOfRange(offset));
    }
    Ok((offset, side & WRAP != 0))
}

/// What the two flags of an available descriptor are in a lap with this wrap counter.
#[inline]
fn available(wrap: bool) -> u16 {
    if wrap { AVAIL_FLAG } else { USED_FLAG }
}

/// The flags of a descriptor of the ring.
#[inline]
fn load_flags(table: &GuestSlice<'_>, index: u32) -> Result<u16, RingError> {
    let at = index as usize * DESC_SIZE as usize + 14;
    let flags = table.load::<u16>(at, Ordering::Relaxed);
    flags.map(u16::from_le).ok_or(RingError::RingOutside)
}

#[cfg(test)]
mod tests;
