//! The plainest ring that a hardware NIC has, as Intel's legacy descriptors are: an array of addresses, lengths and flags, of
//! which those from head to tail are the device's. The driver writes its tail to a register and finds `DONE` in what comes back.
//! Nothing in the product serves one yet.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU16, Ordering};

use super::*;
use crate::memory::Pinned;
use crate::ring::{Descriptor, Gather, NEXT, WRITE, check_memory, look_ahead, part};

/// The frame ends with this descriptor.
const END: u32 = 1;
/// The device is done with it.
const DONE: u32 = 2;

/// What is not in memory.
#[derive(Debug, Default)]
struct Registers {
    /// The first descriptor that is not the device's.
    tail: AtomicU16,
    interrupts: AtomicBool,
}

/// The device's end.
pub(super) struct DescriptorRing {
    mem: Arc<GuestMemory>,
    registers: Arc<Registers>,
    desc: Pinned,
    size: u16,
    /// Whether the device writes its buffers: a ring is for one direction.
    writable: bool,
    hint: usize,
    walked: u64,
    buffers: Prefetch,
    /// Offsets of descriptors, as [`PackedRing`](crate::packed::PackedRing) has places.
    seen: u16,
    next: u16,
    done: u16,
    published: u16,
    taken: u16,
    returned: u16,
    pending: Vec<UsedElem>,
    /// The chain at `next`, if it is whole, and what it has behind its first descriptor.
    upcoming: Vec<Chain>,
    rest: Vec<Descriptor>,
}

impl DescriptorRing {
    fn distance(&self, from: u16, to: u16) -> u16 {
        if to >= from {
            to - from
        } else {
            to + self.size - from
        }
    }

    fn after(&self, at: u16, n: u16) -> u16 {
        (at + n) % self.size
    }

    fn read(&self, at: u16) -> Result<(Descriptor, u32), RingError> {
        let (table, at) = (self.desc.slice()?, usize::from(at) * 16);
        let words = table.read::<u64>(at).zip(table.read::<u64>(at + 8));
        let (gpa, rest) = words.ok_or(RingError::RingOutside)?;
        let (gpa, rest) = (u64::from_le(gpa), u64::from_le(rest));
        let flags = (rest >> 32) as u32;
        let next = if flags & END == 0 { NEXT } else { 0 };
        let write = if self.writable { WRITE } else { 0 };
        let desc = Descriptor {
            gpa,
            len: rest as u32,
            flags: next | write,
            next: 0,
        };
        Ok((desc, flags))
    }
}

impl DeviceQueue for DescriptorRing {
    fn set_ahead(&mut self, what: Prefetch) {
        self.buffers = what;
    }

    fn memory(&self) -> &GuestMemory {
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
        let (from, to) = (self.seen, self.registers.tail.load(Ordering::Acquire));
        let ahead = self.distance(self.done, to);
        if to >= self.size || ahead < self.distance(self.done, from) {
            return Err(RingError::AvailJump { from, to });
        }
        self.seen = to;
        Ok(to != from)
    }

    fn upcoming(&mut self) -> Result<(&GuestMemory, &[Chain]), RingError> {
        if !self.has_seen() && !self.reload()? {
            self.upcoming.clear();
            return Ok((&self.mem, &[]));
        }
        self.prepare()?;
        Ok((&self.mem, &self.upcoming))
    }

    fn prepare(&mut self) -> Result<(), RingError> {
        self.upcoming.clear();
        self.rest.clear();
        let (first, mut at) = (self.next, self.next);
        let mut end = false;
        while !end && at != self.seen {
            let (desc, flags) = self.read(at)?;
            end = flags & END != 0;
            at = self.after(at, 1);
            self.rest.push(desc);
        }
        if end {
            let descs = self.rest.len() as u16;
            let token = Token { id: first, descs };
            self.upcoming.push(Chain::new(token, self.rest.remove(0)));
        }
        let mut window = self.mem.window(self.hint);
        look_ahead(&mut window, &mut self.upcoming, self.buffers);
        self.hint = window.region();
        Ok(())
    }

    fn advance(&mut self, n: usize) {
        for chain in self.upcoming.iter().take(n) {
            self.next = self.after(self.next, chain.token.descs);
            self.taken = self.taken.wrapping_add(1);
        }
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
            gather.push(*desc)?;
        }
        Ok(gather.total)
    }

    fn walked(&self) -> u64 {
        self.walked
    }

    fn push_all_used(&mut self, chains: impl Iterator<Item = UsedElem>) {
        for chain in chains {
            self.pending.push(chain);
            self.done = self.after(self.done, chain.descs());
            self.returned = self.returned.wrapping_add(1);
        }
    }

    fn mark(&self) -> Mark {
        Mark {
            taken: self.taken,
            returned: self.returned,
            next: self.next.into(),
            done: self.done.into(),
            pending: self.pending.len(),
        }
    }

    fn rollback(&mut self, mark: Mark) {
        (self.taken, self.returned) = (mark.taken, mark.returned);
        (self.next, self.done) = (mark.next as u16, mark.done as u16);
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
        for chain in std::mem::take(&mut self.pending) {
            self.published = self.after(self.published, chain.descs());
            let last = self.after(self.published, self.size - 1);
            let word = u64::from(chain.len()) | u64::from(END | DONE) << 32;
            let at = usize::from(last) * 16 + 8;
            let stored = table.store(at, word.to_le(), Ordering::Release);
            stored.ok_or(RingError::RingOutside)?;
        }
        Ok(())
    }

    fn is_resumed(&self) -> bool {
        false
    }

    fn wants_call(&mut self, _: &Fence) -> Result<bool, RingError> {
        Ok(self.registers.interrupts.load(Ordering::Relaxed))
    }

    fn set_notify(&mut self, on: bool) -> Result<bool, RingError> {
        // The driver always writes its tail.
        if on { self.reload() } else { Ok(false) }
    }
}

/// A driver of such a ring, in the memory of a [`Driver`] that has no other queue.
pub(super) struct Guest {
    memory: Driver,
    registers: Arc<Registers>,
    size: u16,
    writable: bool,
    /// What it has made available and not got back.
    in_flight: VecDeque<(u16, u16)>,
}

impl Guest {
    pub(super) fn new(size: u16, writable: bool, base: u16) -> Guest {
        let registers = Registers::default();
        registers.tail.store(base, Ordering::Relaxed);
        Guest {
            memory: Driver::new(1, NONE, 0),
            registers: Arc::new(registers),
            size,
            writable,
            in_flight: VecDeque::new(),
        }
    }
}

impl QueueDriver for Guest {
    type Queue = DescriptorRing;

    fn queue(&self, base: u32) -> DescriptorRing {
        let base = base as u16;
        DescriptorRing {
            desc: part(&self.memory.mem, DESC, usize::from(self.size) * 16).unwrap(),
            mem: self.memory.mem.clone(),
            registers: self.registers.clone(),
            size: self.size,
            writable: self.writable,
            hint: 0,
            walked: 0,
            buffers: Prefetch::Nothing,
            seen: base,
            next: base,
            done: base,
            published: base,
            taken: 0,
            returned: 0,
            pending: Vec::new(),
            upcoming: Vec::new(),
            rest: Vec::new(),
        }
    }

    fn fits(&self, buffers: usize) -> bool {
        // One descriptor is never made available: a full ring would look like an empty one.
        let held: u16 = self.in_flight.iter().map(|&(_, descs)| descs).sum();
        buffers < usize::from(self.size - held)
    }

    fn piece(&mut self, len: u32, _: bool) -> (u64, u32, bool) {
        (self.memory.alloc(32), len, self.writable)
    }

    fn add(&mut self, pieces: &[(u64, u32, bool)], _: usize) -> u16 {
        let first = self.registers.tail.load(Ordering::Relaxed);
        let mut at = first;
        for (i, &(gpa, len, _)) in pieces.iter().enumerate() {
            let end = if i + 1 == pieces.len() { END } else { 0 };
            let rest = u64::from(len) | u64::from(end) << 32;
            let words = [gpa.to_le_bytes(), rest.to_le_bytes()].concat();
            self.memory.write(DESC + u64::from(at) * 16, &words);
            at = (at + 1) % self.size;
        }
        self.in_flight.push_back((first, pieces.len() as u16));
        self.registers.tail.store(at, Ordering::Release);
        first
    }

    fn used(&mut self) -> Vec<(u16, u32)> {
        let mut used = Vec::new();
        while let Some(&(first, descs)) = self.in_flight.front() {
            let last = (first + descs - 1) % self.size;
            let raw = self.memory.read(DESC + u64::from(last) * 16 + 8, 8);
            let word = u64::from_le_bytes(raw.try_into().unwrap());
            if (word >> 32) as u32 & DONE == 0 {
                break;
            }
            used.push((first, word as u32));
            self.in_flight.pop_front();
        }
        used
    }

    fn arm(&self) {
        self.registers.interrupts.store(true, Ordering::Relaxed);
    }

    fn disarm(&self) {
        self.registers.interrupts.store(false, Ordering::Relaxed);
    }
}
