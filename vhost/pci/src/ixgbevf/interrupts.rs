//! Interrupt causes, masks and moderation, as the driver's thread and those of the data plane share them. Knows no queue, and when an
//! interrupt is held back, whoever raises it waits. A vector's timer runs on while the driver masks it.

use std::sync::atomic::{AtomicU8, AtomicU32, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use vf_vhost::control::Coalescing;
use vf_vhost::interrupt_timer::InterruptTimer;

use crate::msix::Vectors;

/// Interrupt vectors.
pub(super) const VECTORS: u8 = 3;
/// The register of allocation for everything that is no queue; before it, those of the queues.
pub(super) const MISC: usize = 4;
/// Entries of the allocation: four bytes a register.
const ENTRIES: usize = 4 * (MISC + 1);
const VALID: u8 = 0x80;
/// One bit a vector.
const ALL: u32 = (1 << VECTORS) - 1;
/// Units of 2 us, from bit 3 on.
const INTERVAL: u32 = 0xff8;

/// What each byte of [`Interrupts::state`] is.
const CAUSES: u32 = 0;
const MASK: u32 = 8;
const AUTO_CLEAR: u32 = 16;
const AUTO_MASK: u32 = 24;

/// See the module.
#[derive(Debug)]
pub(super) struct Interrupts {
    /// Causes, mask, auto-clear and auto-mask, so that all change at once.
    state: AtomicU32,
    /// The vector of each entry, if it is valid.
    allocation: [AtomicU8; ENTRIES],
    intervals: [AtomicU32; VECTORS as usize],
    timers: [InterruptTimer; VECTORS as usize],
    vectors: RwLock<Arc<Vectors>>,
}

fn field(state: u32, at: u32) -> u32 {
    state >> at & ALL
}

fn with(state: u32, at: u32, bits: u32) -> u32 {
    state & !(ALL << at) | (bits & ALL) << at
}

/// The entry of the allocation for a queue of this pair.
fn entry_of(pair: u16, transmit: bool) -> usize {
    let first = usize::from(pair).saturating_mul(2);
    first.saturating_add(usize::from(transmit))
}

impl Interrupts {
    pub(super) fn new() -> Interrupts {
        Interrupts {
            state: AtomicU32::new(0),
            allocation: std::array::from_fn(|_| AtomicU8::new(0)),
            intervals: std::array::from_fn(|_| AtomicU32::new(0)),
            timers: std::array::from_fn(|_| InterruptTimer::default()),
            vectors: RwLock::default(),
        }
    }

    /// Raises these vectors from now on.
    pub(super) fn connect(&self, vectors: Arc<Vectors>) {
        *self.vectors.write().unwrap_or_else(PoisonError::into_inner) = vectors;
    }

    pub(super) fn reset(&self) {
        self.state.store(0, Ordering::Relaxed);
        let zero = |entry: &AtomicU8| entry.store(0, Ordering::Relaxed);
        self.allocation.iter().for_each(zero);
        let zero = |interval: &AtomicU32| interval.store(0, Ordering::Relaxed);
        self.intervals.iter().for_each(zero);
        self.timers.iter().for_each(InterruptTimer::reset);
    }

    /// Changes the state, interrupts for the causes that `change` answers, and says whether it has.
    fn update(&self, change: impl Fn(u32) -> (u32, u32)) -> bool {
        let mut hot = 0;
        let next = |state| {
            let (state, causes) = change(state);
            hot = causes & field(state, MASK);
            // What an interrupt does by itself.
            let causes = field(state, CAUSES) & !(hot & field(state, AUTO_CLEAR));
            let mask = field(state, MASK) & !(hot & field(state, AUTO_MASK));
            Some(with(with(state, CAUSES, causes), MASK, mask))
        };
        // Acquire and release: an interrupt is for what was written before it.
        let _ = self
            .state
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, next);
        if hot == 0 {
            return false;
        }
        let vectors = self.vectors.read().unwrap_or_else(PoisonError::into_inner);
        let all = (0..u16::from(VECTORS)).zip(&self.timers);
        for (vector, timer) in all.filter(|(vector, _)| hot >> vector & 1 == 1) {
            timer.start();
            vectors.raise(vector);
        }
        true
    }

    /// Something has happened in the queue of this pair; whether the driver was interrupted for it.
    pub(super) fn raise(&self, pair: u16, transmit: bool) -> bool {
        self.raise_entry(entry_of(pair, transmit))
    }

    /// Something has happened besides.
    pub(super) fn raise_misc(&self) {
        self.raise_entry(4 * MISC);
    }

    fn vector(&self, entry: usize) -> Option<u8> {
        let allocated = self.allocation.get(entry)?.load(Ordering::Relaxed);
        (allocated & VALID != 0).then_some(allocated & 3)
    }

    fn vector_of(&self, pair: u16, transmit: bool) -> Option<u8> {
        self.vector(entry_of(pair, transmit))
    }

    fn raise_entry(&self, entry: usize) -> bool {
        let Some(vector) = self.vector(entry) else {
            return false;
        };
        let cause = 1 << vector & ALL;
        self.update(|state| (state | cause << CAUSES, cause))
    }

    /// How long interrupts for the queue of this pair are held back.
    pub(super) fn coalescing(&self, pair: u16, transmit: bool) -> Coalescing {
        let vector = self.vector_of(pair, transmit);
        let interval = vector.and_then(|vector| self.intervals.get(usize::from(vector)));
        let interval = interval.map_or(0, |interval| interval.load(Ordering::Relaxed));
        Coalescing {
            max_usecs: (interval & INTERVAL) / 4,
            max_packets: 0,
        }
    }

    /// What measures that.
    pub(super) fn timer(&self, pair: u16, transmit: bool) -> Option<&InterruptTimer> {
        let vector = self.vector_of(pair, transmit)?;
        self.timers.get(usize::from(vector))
    }

    /// VTEICR, which is read once.
    pub(super) fn take_causes(&self) -> u32 {
        let take = |state| Some(with(state, CAUSES, 0));
        let taken = self
            .state
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, take);
        field(taken.unwrap_or_default(), CAUSES)
    }

    /// A write to VTEICR: these are dealt with.
    pub(super) fn clear(&self, causes: u32) {
        self.update(|state| (with(state, CAUSES, field(state, CAUSES) & !causes), 0));
    }

    /// A write to VTEICS.
    pub(super) fn set(&self, causes: u32) {
        let causes = causes & ALL;
        self.update(|state| (state | causes << CAUSES, causes));
    }

    /// A write to VTEIMS: what has happened meanwhile is told at once.
    pub(super) fn enable(&self, vectors: u32) {
        self.update(|state| {
            let mask = field(state, MASK);
            let waiting = field(state, CAUSES) & vectors & !mask;
            (with(state, MASK, mask | vectors), waiting)
        });
    }

    /// A write to VTEIMC.
    pub(super) fn disable(&self, vectors: u32) {
        self.update(|state| (with(state, MASK, field(state, MASK) & !vectors), 0));
    }

    pub(super) fn mask(&self) -> u32 {
        field(self.state.load(Ordering::Acquire), MASK)
    }

    pub(super) fn auto_clear(&self) -> u32 {
        field(self.state.load(Ordering::Acquire), AUTO_CLEAR)
    }

    pub(super) fn set_auto_clear(&self, vectors: u32) {
        self.update(|state| (with(state, AUTO_CLEAR, vectors), 0));
    }

    pub(super) fn auto_mask(&self) -> u32 {
        field(self.state.load(Ordering::Acquire), AUTO_MASK)
    }

    pub(super) fn set_auto_mask(&self, vectors: u32) {
        self.update(|state| (with(state, AUTO_MASK, vectors), 0));
    }

    fn entries(&self, register: usize) -> &[AtomicU8] {
        let (registers, _) = self.allocation.as_chunks::<4>();
        let entries = registers.get(register).map(<[_; 4]>::as_slice);
        entries.unwrap_or_default()
    }

    /// A register of allocation.
    pub(super) fn allocation(&self, register: usize) -> u32 {
        let entries = self.entries(register).iter().rev();
        entries.fold(0, |all, entry| {
            all << 8 | u32::from(entry.load(Ordering::Relaxed))
        })
    }

    /// A write to a register of allocation. That for everything that is no queue has one entry.
    pub(super) fn allocate(&self, register: usize, value: u32) {
        let used = if register == MISC { 1 } else { 4 };
        let bytes = value.to_le_bytes();
        for (entry, byte) in self.entries(register).iter().zip(bytes).take(used) {
            entry.store(byte & (VALID | 3), Ordering::Relaxed);
        }
    }

    /// VTEITR of a vector.
    pub(super) fn interval(&self, vector: usize) -> u32 {
        let interval = self.intervals.get(vector);
        interval.map_or(0, |interval| interval.load(Ordering::Relaxed))
    }

    pub(super) fn set_interval(&self, vector: usize, value: u32) {
        if let Some(interval) = self.intervals.get(vector) {
            interval.store(value & INTERVAL, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn interrupts() -> (Interrupts, Arc<Vectors>) {
        let interrupts = Interrupts::new();
        let vectors = Arc::new(Vectors::new(VECTORS.into()));
        interrupts.connect(Arc::clone(&vectors));
        interrupts.allocate(0, 0x8180_8180);
        interrupts.allocate(MISC, 0x82);
        (interrupts, vectors)
    }

    #[test]
    fn a_masked_cause_is_told_when_it_is_unmasked() {
        let (interrupts, vectors) = interrupts();
        assert!(!interrupts.raise(0, true));
        assert_eq!(vectors.raised(), 0);
        interrupts.enable(7);
        assert!(vectors.take_pending(1) && vectors.raised() == 1);
        assert_eq!(interrupts.take_causes(), 2, "nobody has cleared it");
        assert_eq!(interrupts.take_causes(), 0, "it is read once");
        assert!(interrupts.raise(0, false) && vectors.take_pending(0));
        interrupts.raise_misc();
        assert!(vectors.take_pending(2));
        interrupts.enable(7);
        assert_eq!(vectors.raised(), 3, "they are not told again");
        interrupts.clear(1);
        assert_eq!(interrupts.take_causes(), 4);
    }

    #[test]
    fn an_interrupt_clears_and_masks_by_itself_what_it_is_to() {
        let (interrupts, vectors) = interrupts();
        interrupts.set_auto_clear(3);
        interrupts.set_auto_mask(1);
        interrupts.enable(u32::MAX);
        assert_eq!(interrupts.mask(), 7);
        assert!(interrupts.raise(1, false));
        assert_eq!((interrupts.mask(), interrupts.take_causes()), (6, 0));
        assert!(!interrupts.raise(1, false), "masked by the first");
        assert!(interrupts.raise(1, true) && interrupts.raise(1, true));
        interrupts.enable(1);
        assert_eq!((vectors.raised(), interrupts.mask()), (4, 6));
        interrupts.set(0xffff_ffff);
        assert_eq!(vectors.raised(), 6);
        interrupts.disable(2);
        assert_eq!(interrupts.mask(), 4);
    }

    #[test]
    fn what_is_not_allocated_interrupts_nobody() {
        let (interrupts, vectors) = interrupts();
        interrupts.enable(7);
        assert!(!interrupts.raise(7, true) && !interrupts.raise(u16::MAX, true));
        // There is no fourth vector.
        interrupts.allocate(0, 0xffff_ffff);
        assert!(!interrupts.raise(0, true));
        assert_eq!(interrupts.allocation(0), 0x8383_8383);
        interrupts.reset();
        assert_eq!((interrupts.allocation(0), vectors.raised()), (0, 0));
    }

    #[test]
    fn intervals_are_microseconds_of_the_vector() {
        let (interrupts, _) = interrupts();
        // As Linux has 100000, 20000 and 12000 interrupts a second.
        for (value, usecs) in [(40, 10), (200, 50), (336, 84), (0x8000_0fff, 1022)] {
            interrupts.set_interval(1, value);
            assert_eq!(interrupts.coalescing(0, true).max_usecs, usecs);
            assert_eq!(interrupts.coalescing(0, false).max_usecs, 0);
        }
        assert_eq!(interrupts.interval(1), 0xff8);
    }
}
