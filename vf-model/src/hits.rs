//! How many frames each filter has decided on. A plane counts for itself, where the [`CounterId`] of a filter says; the filters of frames that
//! are not judged again are remembered with their verdicts. A place in which a filter was counted that has gone is another's later, and says
//! for which it counts: no plane is asked to forget anything. Never says what a filter does.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use crate::filter_index::Actions;
use crate::probe::{Met, Probe, Step};
use crate::rule::{CounterId, PLACES, Rule};

/// Places that are made together when the first of them is needed.
const CHUNK: usize = 256;
/// Most filters that are remembered with a verdict. Those that a frame to one receiver meets are two nearly always: one on what is sent, one
/// on what is received.
const KEPT: usize = 2;

/// One place.
#[derive(Debug, Default)]
struct Place {
    generation: AtomicU32,
    frames: AtomicU64,
}

impl Place {
    /// Its only writer counts in it. A reader finds either the frames of the filter that it asks for, or another generation.
    #[inline]
    fn count(&self, generation: u32) {
        let mut frames = 0;
        if self.generation.load(Ordering::Relaxed) == generation {
            frames = self.frames.load(Ordering::Relaxed);
        } else {
            self.begin(generation, 0);
        }
        self.frames.store(frames.wrapping_add(1), Ordering::Release);
    }

    #[cold]
    fn begin(&self, generation: u32, frames: u64) {
        self.generation.store(0, Ordering::Relaxed);
        self.frames.store(frames, Ordering::Release);
        self.generation.store(generation, Ordering::Release);
    }

    fn read(&self, generation: u32) -> u64 {
        let is_it = |order| self.generation.load(order) == generation;
        let before = is_it(Ordering::Acquire);
        let frames = self.frames.load(Ordering::Acquire);
        match before && is_it(Ordering::Relaxed) {
            true => frames,
            false => 0,
        }
    }
}

impl Clone for Place {
    fn clone(&self) -> Place {
        Place {
            generation: AtomicU32::new(self.generation.load(Ordering::Relaxed)),
            frames: AtomicU64::new(self.frames.load(Ordering::Relaxed)),
        }
    }
}

/// What one plane has counted: it alone counts here, and anybody reads.
#[derive(Clone, Debug)]
pub(crate) struct HitCounters(Box<[OnceLock<Box<[Place]>>]>);

impl HitCounters {
    pub(crate) fn new() -> HitCounters {
        HitCounters((0..PLACES / CHUNK).map(|_| OnceLock::new()).collect())
    }

    /// Counts a frame.
    #[inline]
    pub(crate) fn count(&self, counter: CounterId) {
        if let Some(place) = self.place(counter) {
            place.count(counter.generation);
        }
    }

    /// The place, made if nothing was ever counted near it.
    #[inline]
    fn place(&self, counter: CounterId) -> Option<&Place> {
        if counter == CounterId::NONE {
            return None;
        }
        let at = usize::from(counter.at);
        let chunk = self.0.get(at / CHUNK)?;
        let chunk = chunk.get_or_init(|| (0..CHUNK).map(|_| Place::default()).collect());
        chunk.get(at % CHUNK)
    }

    /// Goes on from what another process has counted.
    pub(crate) fn go_on_from(&self, counter: CounterId, frames: u64) {
        if let Some(place) = self.place(counter) {
            place.begin(counter.generation, frames);
        }
    }

    pub(crate) fn read(&self, counter: CounterId) -> u64 {
        let at = usize::from(counter.at);
        let chunk = self.0.get(at / CHUNK).and_then(OnceLock::get);
        let place = chunk.and_then(|chunk| chunk.get(at % CHUNK));
        match counter {
            CounterId::NONE => 0,
            _ => place.map_or(0, |place| place.read(counter.generation)),
        }
    }

    /// Counts a frame for the filters of one that came before and had the same verdict. `flow` is what filters on flows say of this one.
    #[inline(never)]
    pub(crate) fn count_again(&self, kept: &KeptHits, flow: &Actions) {
        for hit in kept.0 {
            match hit {
                Hit::Nothing => {}
                Hit::Filter(counter) => self.count(counter),
                Hit::Flow { narrow } => {
                    if let Some(rule) = flow.rule(narrow) {
                        self.count(rule.counter);
                    }
                }
            }
        }
    }
}

/// What a plane has counted, for any thread to read while it counts on.
#[derive(Clone, Debug)]
pub struct PublishedHits(pub(crate) Arc<HitCounters>);

impl PublishedHits {
    /// Frames that a filter has decided on here.
    #[must_use]
    pub fn read(&self, counter: CounterId) -> u64 {
        self.0.read(counter)
    }

    /// Goes on from what another process has counted. Only before the plane counts anything.
    pub fn go_on_from(&self, counter: CounterId, frames: u64) {
        self.0.go_on_from(counter, frames);
    }
}

/// A filter that has decided on a frame, as what holds for others with the same verdict.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Hit {
    #[default]
    Nothing,
    /// This one.
    Filter(CounterId),
    /// Whichever filter on flows says the same of that frame: the one that matches more, or less.
    Flow { narrow: bool },
}

/// The filters that have decided on frames with the same verdict.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct KeptHits([Hit; KEPT]);

impl KeptHits {
    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        matches!(self.0[0], Hit::Nothing)
    }
}

/// Counts what a judge meets, and remembers it for the frames that come after.
pub(crate) struct CountHits<'a> {
    counters: &'a HitCounters,
    met: usize,
    first: [CounterId; KEPT],
}

impl<'a> CountHits<'a> {
    #[inline]
    pub(crate) fn in_these(counters: &'a HitCounters) -> CountHits<'a> {
        CountHits {
            counters,
            met: 0,
            first: [CounterId::NONE; KEPT],
        }
    }

    /// What is to be remembered; `None` if that is too much. `flow` is what filters on flows have said of the frame.
    pub(crate) fn to_keep(&self, flow: &Actions) -> Option<KeptHits> {
        let mut kept = KeptHits::default();
        if self.met > KEPT {
            return None;
        }
        for (hit, counter) in kept.0.iter_mut().zip(&self.first[..self.met]) {
            let is_flow = |narrow| {
                flow.rule(narrow)
                    .is_some_and(|rule| rule.counter == *counter)
            };
            *hit = match [true, false].into_iter().find(|narrow| is_flow(*narrow)) {
                Some(narrow) => Hit::Flow { narrow },
                None => Hit::Filter(*counter),
            };
        }
        Some(kept)
    }
}

impl Probe for CountHits<'_> {
    #[inline(always)]
    fn note(&mut self, _: impl FnOnce() -> Step) {}

    fn filter(&mut self, rule: &Rule, met: Met) {
        if met == Met::PassedOver {
            return;
        }
        self.counters.count(rule.counter);
        if let Some(first) = self.first.get_mut(self.met) {
            *first = rule.counter;
        }
        self.met += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rule::{PLACES_A_DRIVER, TABLE_PLACES};

    #[test]
    fn a_place_counts_for_the_filter_that_is_in_it() {
        let ours = HitCounters::new();
        let [first, second] = [1, 2].map(|generation| CounterId::of_table(700, generation));
        assert_eq!(ours.read(first), 0);
        for _ in 0..3 {
            ours.count(first);
        }
        assert_eq!((ours.read(first), ours.read(second)), (3, 0));
        ours.count(second);
        assert_eq!((ours.read(first), ours.read(second)), (0, 1));
        let copy = ours.clone();
        copy.count(second);
        assert_eq!((ours.read(second), copy.read(second)), (1, 2));
        ours.count(CounterId::NONE);
        assert_eq!(ours.read(CounterId::NONE), 0);
        ours.go_on_from(first, 10);
        ours.count(first);
        assert_eq!(ours.read(first), 11);
    }

    #[test]
    fn each_filter_of_a_driver_has_a_place_of_its_own() {
        let last = PLACES_A_DRIVER - 1;
        let ids = [(0, 0), (0, last), (1, 0), (255, last)];
        let ids = ids.map(|(vf, nth)| CounterId::of_driver(vf, nth, 7));
        let ours = HitCounters::new();
        for (n, id) in ids.iter().enumerate() {
            (0..=n).for_each(|_| ours.count(*id));
        }
        for (n, id) in ids.iter().enumerate() {
            assert_eq!(ours.read(*id), n as u64 + 1);
        }
        assert_eq!(ids.map(CounterId::place), [0, last, 0, last]);
        assert_eq!(CounterId::of_driver(0, PLACES_A_DRIVER, 1), CounterId::NONE);
        assert_eq!(CounterId::of_table(TABLE_PLACES.into(), 1), CounterId::NONE);
    }

    /// While its place goes from one filter to the next, a reader never finds frames of another.
    #[test]
    fn a_reader_finds_no_frames_of_another_filter() {
        let ours = Arc::new(HitCounters::new());
        let id = |generation| CounterId::of_table(3, generation);
        let reader = Arc::clone(&ours);
        let reading = std::thread::spawn(move || {
            // The filter of generation n is counted n times.
            let read = |generation: u32| reader.read(id(generation)) <= u64::from(generation);
            (0..200).all(|_| (1..100).all(read))
        });
        for generation in (1..100).rev().cycle().take(20_000) {
            (0..generation).for_each(|_| ours.count(id(generation)));
        }
        assert!(reading.join().unwrap());
    }
}
