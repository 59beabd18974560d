//! Impairments of frames that pass in one direction, as Linux's netem has them (tc-netem(8), `net/sched/sch_netem.c`): delay with
//! jitter, loss, duplication, corruption, reordering, a rate; seeded, and the same on every machine where the time is. Knows no
//! port and no ring: whoever asks gives it frames and takes those that are due. Never holds more than its limits.

mod chance;
mod distribution;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use vf_model::{Counter, DropReason, Link, LinkConfig, Nanos, NetemSpec, OnWire};

use self::chance::{Chance, Correlated, Losses, Numbers};
use crate::queue::{Frame, Pool, cost};
use crate::uplink::{Statistic, finish, segments};

/// Takes each frame that goes nowhere, and why.
pub(crate) type Lost<'a> = dyn FnMut(DropReason, Frame) + 'a;

/// What tells apart those whose random numbers begin with the same seed: the NIC, and which of its ports and directions it is.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Place {
    pub(crate) nic: usize,
    pub(crate) port: usize,
}

impl Place {
    /// The seed of the `n`th stream of numbers there, eight at most.
    fn stream(self, n: u64) -> u64 {
        8 * (self.nic as u64 + ((self.port as u64) << 20)) + n
    }
}

/// What has been done to frames that went on.
#[derive(Clone, Debug, Default)]
pub(crate) struct Counters {
    duplicated: Arc<Counter>,
    corrupted: Arc<Counter>,
    reordered: Arc<Counter>,
}

impl Counters {
    /// What they are called.
    pub(crate) const NAMES: [&str; 3] = ["netem_duplicated", "netem_corrupted", "netem_reordered"];

    pub(crate) fn statistics(&self) -> Vec<Statistic> {
        let counters = [&self.duplicated, &self.corrupted, &self.reordered];
        let named = Counters::NAMES.into_iter().zip(counters);
        named
            .map(|(name, counter)| (name, Arc::clone(counter)))
            .collect()
    }

    /// In the order of their names.
    pub(crate) fn read(&self) -> [u64; 3] {
        [&self.duplicated, &self.corrupted, &self.reordered].map(|counter| counter.get())
    }

    /// Goes on from there. Only before anything is counted.
    pub(crate) fn go_on_from(&self, counts: [u64; 3]) {
        let counters = [&self.duplicated, &self.corrupted, &self.reordered];
        for (counter, n) in counters.into_iter().zip(counts) {
            counter.set(n);
        }
    }
}

/// What is drawn for each frame.
struct Dice {
    loss: Losses,
    duplicate: Chance,
    corrupt: Chance,
    reorder: Chance,
    delay: Correlated,
    /// Which bit of a frame is turned over.
    bit: Numbers,
}

impl Dice {
    fn new(spec: &NetemSpec, place: Place) -> Dice {
        let seed = spec.seed.unwrap_or(0);
        let numbers = |n: u64| Numbers::new(seed, place.stream(n));
        Dice {
            loss: Losses::new(spec.loss, numbers(0)),
            duplicate: Chance::new(spec.duplicate, numbers(1)),
            corrupt: Chance::new(spec.corrupt, numbers(2)),
            reorder: Chance::new(spec.reorder, numbers(3)),
            delay: Correlated::new(spec.delay_correlation, numbers(4)),
            bit: numbers(5),
        }
    }
}

/// See the module. Each frame takes a `T` along.
pub(crate) struct NetemQueue<T> {
    spec: Arc<NetemSpec>,
    place: Place,
    dice: Dice,
    /// What a limited rate leaves of the time, if there is one.
    line: Option<Link>,
    /// Frames since one was reordered.
    since_reorder: u32,
    /// By the time when they are due, and then in order.
    held: BTreeMap<(Nanos, u64), (Frame, T)>,
    /// Those that are due.
    due: VecDeque<(Frame, T)>,
    /// Byte times that they take of a wire, but for the headers that super-frames have each.
    due_bytes: u64,
    /// Memory of all that are here.
    memory: u64,
    /// Frames that have been held.
    serial: u64,
    counters: Counters,
    /// Whether it only lets go what it holds.
    ends: bool,
}

impl<T: Copy> NetemQueue<T> {
    pub(crate) fn new(spec: Arc<NetemSpec>, place: Place, counters: Counters) -> NetemQueue<T> {
        NetemQueue {
            dice: Dice::new(&spec, place),
            line: line(&spec, Nanos(0)),
            place,
            since_reorder: 0,
            held: BTreeMap::new(),
            due: VecDeque::new(),
            due_bytes: 0,
            memory: 0,
            serial: 0,
            counters,
            ends: false,
            spec,
        }
    }

    /// Makes the queue in `slot` one that does what is said, where there is or has to be one, with what is at `place`.
    pub(crate) fn adapt(
        slot: &mut Option<Box<NetemQueue<T>>>,
        said: Option<&Arc<NetemSpec>>,
        place: Place,
        counters: &Counters,
    ) {
        match (&mut *slot, said) {
            (None, None) => {}
            (Some(queue), said) => queue.change(said),
            (None, Some(spec)) => {
                let queue = NetemQueue::new(Arc::clone(spec), place, counters.clone());
                *slot = Some(Box::new(queue));
            }
        }
    }

    /// Treats frames by other words from now on, and begins with other numbers; what is held back is due when it was. Without words
    /// nothing is impaired any more, and what is held back is due now, in the order in which it would have been.
    pub(crate) fn change(&mut self, said: Option<&Arc<NetemSpec>>) {
        self.ends = said.is_none();
        let spec = said.cloned().unwrap_or_default();
        if spec != self.spec {
            self.dice = Dice::new(&spec, self.place);
            // Behind the last of what is held, as `netem_enqueue` has it, so that nothing overtakes that.
            let last = self.held.last_key_value();
            self.line = line(&spec, last.map_or(Nanos(0), |((at, _), _)| *at));
            self.since_reorder = 0;
            self.spec = spec;
        }
        if self.ends {
            for (frame, with) in std::mem::take(&mut self.held).into_values() {
                self.push_due(frame, with);
            }
        }
    }

    /// Whether it has nothing to do any more.
    pub(crate) fn is_over(&self) -> bool {
        self.ends && self.is_empty()
    }

    /// Whether nothing is here.
    pub(crate) fn is_empty(&self) -> bool {
        self.held.is_empty() && self.due.is_empty()
    }

    /// Takes a frame that begins at `start`.
    fn put(&mut self, start: Nanos, frame: Frame, with: T, pool: &Pool, lost: &mut Lost<'_>) {
        match (self.dice.duplicate.happens(), self.dice.loss.happens()) {
            (false, true) => return lost(DropReason::NetemLoss, frame),
            (true, false) => {
                let copy = pool.copy(&frame);
                self.counters.duplicated.add(1);
                match self.dice.loss.happens() {
                    true => lost(DropReason::NetemLoss, copy),
                    false => self.hold(start, copy, with, lost),
                }
            }
            // Of one that is lost and goes twice, one goes.
            (true, true) | (false, false) => {}
        }
        self.hold(start, frame, with, lost);
    }

    /// The same of a frame that may be a super-frame, which stays one if all its frames are treated alike: else each of them takes
    /// along what `segment` makes of what it takes of a wire. Says of how many of them each was treated for itself.
    pub(crate) fn put_any(
        &mut self,
        start: Nanos,
        frame: Frame,
        with: T,
        segment: impl Fn(OnWire) -> T,
        pool: &Pool,
        lost: &mut Lost<'_>,
    ) -> u64 {
        let mut frames = 0;
        match self.spec.tells_frames_apart() {
            true => segments(frame, pool, |frame, on_wire| {
                frames += 1;
                let with = on_wire.map_or(with, &segment);
                self.put(start, frame, with, pool, lost);
            }),
            false => self.hold(start, frame, with, lost),
        }
        frames
    }

    /// A frame is on its way that will not be lost.
    fn hold(&mut self, start: Nanos, mut frame: Frame, with: T, lost: &mut Lost<'_>) {
        if self.dice.corrupt.happens() && self.turn_a_bit_over(&mut frame) {
            self.counters.corrupted.add(1);
        }
        let frames = self.held.len() + self.due.len();
        if frames >= self.spec.limit || self.memory >= self.spec.memory_limit {
            return lost(DropReason::NetemLimit, frame);
        }
        self.memory += cost(&frame);
        let NetemSpec {
            delay,
            jitter,
            distribution,
            ..
        } = *self.spec;
        if delay == Nanos(0) && jitter == Nanos(0) && self.line.is_none() {
            self.push_due(frame, with);
            return;
        }
        if self.since_reorder >= self.spec.gap - 1 && self.dice.reorder.happens() {
            self.since_reorder = 0;
            self.counters.reordered.add(1);
            self.push_due(frame, with);
            return;
        }
        self.since_reorder = self.since_reorder.saturating_add(1);
        let mut at = start + Nanos(self.dice.delay.time(delay.0, jitter.0, distribution));
        // Behind the delay, as `netem_enqueue` has it: jitter neither reorders what passes at a rate nor makes it faster.
        if let Some(line) = &mut self.line {
            let bytes = frame.data.len() as u64;
            at = line.put(at, OnWire { bytes, segments: 1 }).end;
        }
        self.held.insert((at, self.serial), (frame, with));
        self.serial += 1;
    }

    fn push_due(&mut self, frame: Frame, with: T) {
        self.due_bytes += byte_times(&frame);
        self.due.push_back((frame, with));
    }

    /// Whether it worked: a frame that other hardware was to finish is finished first, so that nobody takes it for right.
    fn turn_a_bit_over(&mut self, frame: &mut Frame) -> bool {
        if !finish(frame) {
            return false;
        }
        let bit = self.dice.bit.below(8 * frame.data.len() as u64);
        let byte = usize::try_from(bit / 8)
            .ok()
            .and_then(|at| frame.data.get_mut(at));
        byte.map(|byte| *byte ^= 1 << (bit % 8)).is_some()
    }

    /// Notes what is due by now.
    pub(crate) fn look(&mut self, now: Nanos) {
        while let Some(first) = self.held.first_entry()
            && first.key().0 <= now
        {
            let (frame, with) = first.remove();
            self.push_due(frame, with);
        }
    }

    /// The first of those that have been found due.
    pub(crate) fn first(&self) -> Option<&(Frame, T)> {
        self.due.front()
    }

    /// Gives it up.
    pub(crate) fn pop(&mut self) -> Option<(Frame, T)> {
        let due = self.due.pop_front()?;
        self.memory -= cost(&due.0);
        self.due_bytes -= byte_times(&due.0);
        Some(due)
    }

    /// Byte times of a wire that those take which have been found due.
    pub(crate) fn due_bytes(&self) -> u64 {
        self.due_bytes
    }

    /// When the next is due that has not been found so.
    pub(crate) fn next(&self) -> Option<Nanos> {
        self.held.first_key_value().map(|((at, _), _)| *at)
    }
}

/// With preamble, FCS and gap.
fn byte_times(frame: &Frame) -> u64 {
    frame.data.len() as u64 + 24
}

/// What a rate makes of frames that come behind those which are gone by `after`.
fn line(spec: &NetemSpec, after: Nanos) -> Option<Link> {
    let config = LinkConfig {
        rate_bps: spec.rate?,
        propagation: Nanos(0),
    };
    Some(Link::busy_until(config, after))
}

#[cfg(test)]
mod tests {
    use super::*;
    use vf_vhost::frame::FrameBuf;

    fn frame(len: usize) -> Frame {
        Box::new(FrameBuf {
            data: vec![0; len],
            ..FrameBuf::default()
        })
    }

    /// Which of so many frames are lost.
    fn lost(words: &str, frames: usize) -> Vec<bool> {
        let spec = Arc::new(words.parse::<NetemSpec>().unwrap());
        let mut queue = NetemQueue::new(spec, Place::default(), Counters::default());
        let pool = Pool::new(1);
        let put = |_| {
            let mut lost = false;
            queue.put(Nanos(0), frame(60), (), &pool, &mut |_, _| lost = true);
            assert_eq!(queue.pop().is_none(), lost);
            lost
        };
        (0..frames).map(put).collect()
    }

    fn share(lost: &[bool]) -> f64 {
        lost.iter().filter(|lost| **lost).count() as f64 / lost.len() as f64
    }

    /// How many are lost in a row on average.
    fn burst(lost: &[bool]) -> f64 {
        let runs: Vec<_> = lost
            .chunk_by(|a, b| a == b)
            .filter(|run| run[0])
            .map(<[bool]>::len)
            .collect();
        runs.iter().sum::<usize>() as f64 / runs.len() as f64
    }

    #[test]
    fn losses_of_gilbert_and_elliott_come_in_bursts() {
        // In the bad state a fifth of the time, five frames long; all that find it so are lost.
        let all = lost("loss gemodel 5% 20%", 100_000);
        assert!((share(&all) - 0.2).abs() < 0.02, "{}", share(&all));
        assert!((burst(&all) - 5.0).abs() < 0.4, "{}", burst(&all));
        let some = lost("loss gemodel 5% 20% 50% 1%", 100_000);
        assert!((share(&some) - 0.108).abs() < 0.015, "{}", share(&some));
        // Without a second number it is Bernoulli's.
        let plain = lost("loss gemodel 5%", 100_000);
        assert!((share(&plain) - 0.05).abs() < 0.005, "{}", share(&plain));
    }

    #[test]
    fn losses_of_four_states_are_single_and_in_bursts() {
        let bursts = lost("loss state 1% 10%", 100_000);
        assert!((burst(&bursts) - 10.0).abs() < 1.0, "{}", burst(&bursts));
        let single = lost("loss state 0% 100% 0% 100% 3%", 100_000);
        assert!((burst(&single) - 1.0).abs() < 0.01, "{}", burst(&single));
        assert!((share(&single) - 0.03).abs() < 0.005, "{}", share(&single));
    }

    /// When frames are due that come all at once.
    fn times(words: &str, frames: usize, len: usize) -> Vec<u64> {
        let spec = Arc::new(words.parse::<NetemSpec>().unwrap());
        let mut queue = NetemQueue::new(spec, Place::default(), Counters::default());
        let pool = Pool::new(1);
        for _ in 0..frames {
            queue.put(Nanos(0), frame(len), (), &pool, &mut |why, _| {
                panic!("{why}")
            });
        }
        let mut times = Vec::new();
        while let Some(at) = queue.next() {
            queue.look(at);
            while queue.pop().is_some() {
                times.push(at.0);
            }
        }
        times
    }

    #[test]
    fn a_rate_lets_frames_pass_one_after_the_other() {
        assert_eq!(
            times("rate 8mbit", 3, 1000),
            [1_000_000, 2_000_000, 3_000_000]
        );
        assert_eq!(
            times("rate 8mbit delay 5ms", 2, 1000),
            [6_000_000, 7_000_000]
        );
    }

    #[test]
    fn a_rate_holds_and_keeps_order_whatever_the_jitter() {
        let spec = Arc::new("rate 8mbit delay 5ms 4ms".parse::<NetemSpec>().unwrap());
        let mut queue = NetemQueue::new(spec, Place::default(), Counters::default());
        let pool = Pool::new(1);
        for n in 0..100 {
            queue.put(Nanos(0), frame(1000), n, &pool, &mut |why, _| {
                panic!("{why}")
            });
        }
        let order: Vec<_> = queue.held.values().map(|(_, n)| *n).collect();
        assert_eq!(order, (0..100).collect::<Vec<_>>());
        let times: Vec<_> = queue.held.keys().map(|(at, _)| at.0).collect();
        assert!(times[0] >= 2_000_000, "{}", times[0]);
        let gaps = times.windows(2).map(|pair| pair[1] - pair[0]);
        assert_eq!(gaps.min(), Some(1_000_000));
    }

    /// As when a bottleneck gets faster under traffic.
    #[test]
    fn what_comes_after_a_change_of_the_rate_is_behind_what_is_held() {
        for (before, after) in [
            ("rate 1mbit", "rate 100mbit"),
            ("delay 1s", "rate 100mbit"),
            ("rate 1mbit delay 5ms", "rate 100mbit delay 1ms"),
        ] {
            let spec = |words: &str| Arc::new(words.parse::<NetemSpec>().unwrap());
            let mut queue = NetemQueue::new(spec(before), Place::default(), Counters::default());
            let pool = Pool::new(1);
            for n in 0..20 {
                if n == 10 {
                    queue.change(Some(&spec(after)));
                }
                queue.put(Nanos(n), frame(1000), n, &pool, &mut |why, _| {
                    panic!("{why}")
                });
            }
            let order: Vec<_> = queue.held.values().map(|(_, n)| *n).collect();
            assert_eq!(order, (0..20).collect::<Vec<_>>(), "{before}, {after}");
        }
    }

    #[test]
    fn delays_are_spread_as_it_is_said() {
        let within = |words: &str, deviations: u64| {
            let delays = times(words, 20_000, 60);
            let near = delays
                .iter()
                .filter(|at| at.abs_diff(10_000_000) <= deviations * 1_000_000);
            near.count() as f64 / delays.len() as f64
        };
        assert!((within("delay 10ms 1ms distribution normal", 1) - 0.683).abs() < 0.02);
        assert!((within("delay 10ms 1ms distribution normal", 2) - 0.954).abs() < 0.02);
        assert_eq!(within("delay 10ms 1ms", 1), 1.0);
        // Pareto's has a long tail above, and nothing far below.
        let pareto = times("delay 10ms 1ms distribution pareto", 20_000, 60);
        assert!(
            pareto[0] > 9_400_000 && pareto[19_999] > 13_500_000,
            "{} {}",
            pareto[0],
            pareto[19_999]
        );
    }

    #[test]
    fn at_its_end_all_that_is_held_back_goes_in_order() {
        let spec = Arc::new("delay 1s 500ms".parse::<NetemSpec>().unwrap());
        let mut queue = NetemQueue::new(spec, Place::default(), Counters::default());
        let pool = Pool::new(1);
        let put = |queue: &mut NetemQueue<usize>, n| {
            queue.put(Nanos(0), frame(60), n, &pool, &mut |why, _| panic!("{why}"));
        };
        (0..100).for_each(|n| put(&mut queue, n));
        let order: Vec<_> = queue.held.values().map(|(_, n)| *n).collect();
        queue.change(None);
        put(&mut queue, 100);
        assert_eq!(queue.next(), None);
        let gone: Vec<_> = std::iter::from_fn(|| queue.pop()).map(|(_, n)| n).collect();
        assert_eq!(gone, [order, vec![100]].concat());
        assert!(queue.is_over());
    }
}
