//! Random events and delays as Linux's netem draws them, correlation included (`get_crandom`, `loss_4state`, `loss_gilb_ell` and
//! `tabledist` in `net/sched/sch_netem.c`), from a generator with a seed. Each impairment has numbers of its own, so that one more
//! of them leaves the others' as they were.

use rand_xoshiro::Xoshiro128PlusPlus;
use rand_xoshiro::rand_core::{Rng, SeedableRng};

use vf_model::{Distribution, Loss, Odds, Percent};

use super::distribution::{self, SCALE};

/// Numbers without end, each the same for the same seed and stream.
pub(super) struct Numbers(Xoshiro128PlusPlus);

impl Numbers {
    pub(super) fn new(seed: u64, stream: u64) -> Numbers {
        // `seed_from_u64` mixes the seed (SplitMix64): seeds that differ in one bit give unrelated numbers.
        Numbers(Xoshiro128PlusPlus::seed_from_u64(
            seed ^ stream.rotate_right(16),
        ))
    }

    fn next(&mut self) -> u32 {
        self.0.next_u32()
    }

    /// One of the first `n` numbers.
    pub(super) fn below(&mut self, n: u64) -> u64 {
        let scaled = u128::from(self.next()) * u128::from(n);
        u64::try_from(scaled >> 32).unwrap_or(0)
    }
}

/// Numbers each of which depends on the one before.
pub(super) struct Correlated {
    numbers: Numbers,
    rho: u64,
    last: u64,
}

impl Correlated {
    pub(super) fn new(correlation: Percent, mut numbers: Numbers) -> Correlated {
        Correlated {
            rho: correlation.of(1 << 32),
            last: numbers.next().into(),
            numbers,
        }
    }

    /// A number under 2^32.
    pub(super) fn next(&mut self) -> u64 {
        let value = u64::from(self.numbers.next());
        if self.rho == 0 {
            return value;
        }
        let (new, old) = ((1 << 32) - self.rho, self.rho);
        let mixed = u128::from(value) * u128::from(new) + u128::from(self.last) * u128::from(old);
        self.last = u64::try_from(mixed >> 32).unwrap_or(value);
        self.last
    }

    /// A time of `mean` give or take `spread`, no less than zero.
    pub(super) fn time(&mut self, mean: u64, spread: u64, distribution: Distribution) -> u64 {
        if spread == 0 {
            return mean;
        }
        if let Some(table) = distribution::table(distribution) {
            let at = usize::try_from(self.next() >> 20).unwrap_or(0); // the table has 2^12
            let deviation = i128::from(table.get(at).copied().unwrap_or(0));
            let more = deviation * i128::from(spread) / i128::from(SCALE);
            return u64::try_from((i128::from(mean) + more).max(0)).unwrap_or(u64::MAX);
        }
        let scaled = u128::from(self.next()) * 2 * u128::from(spread);
        let more = u64::try_from(scaled >> 32).unwrap_or(0);
        (mean + more).saturating_sub(spread)
    }
}

/// Something that happens to some frames.
pub(super) struct Chance {
    /// It happens to numbers below this.
    below: u64,
    numbers: Correlated,
}

impl Chance {
    pub(super) fn new(odds: Odds, numbers: Numbers) -> Chance {
        Chance {
            below: odds.probability.of(1 << 32),
            numbers: Correlated::new(odds.correlation, numbers),
        }
    }

    /// Whether it happens to this frame.
    pub(super) fn happens(&mut self) -> bool {
        self.below > 0 && self.numbers.next() < self.below
    }
}

/// Which frames are lost.
pub(super) enum Losses {
    /// Each with the same odds.
    Random(Chance),
    /// By the state of a chain.
    Chain(Chain),
}

/// A chain of states, each with what leads out of it.
pub(super) struct Chain {
    loss: Loss,
    state: State,
    numbers: Numbers,
}

/// Where a chain is. Of Gilbert and Elliott's the first is the good state, and the second the bad one.
#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    /// Frames are received.
    Gap,
    /// Frames are lost one after the other.
    LostInBurst,
    /// A frame is received between those.
    GotInBurst,
    /// One is lost by itself.
    LostInGap,
}

impl Losses {
    pub(super) fn new(loss: Loss, numbers: Numbers) -> Losses {
        match loss {
            Loss::Random(odds) => Losses::Random(Chance::new(odds, numbers)),
            Loss::State { .. } | Loss::GeModel { .. } => Losses::Chain(Chain {
                loss,
                state: State::Gap,
                numbers,
            }),
        }
    }

    /// Whether this frame is lost.
    pub(super) fn happens(&mut self) -> bool {
        match self {
            Losses::Random(chance) => chance.happens(),
            Losses::Chain(chain) => chain.step(),
        }
    }
}

impl Chain {
    fn draw(&mut self) -> u64 {
        self.numbers.next().into()
    }

    /// Goes on to the next state; whether the frame is lost.
    fn step(&mut self) -> bool {
        let of = |share: Percent| share.of(1 << 32);
        match self.loss {
            // Never made with it.
            Loss::Random(_) => false,
            Loss::State {
                p13,
                p31,
                p32,
                p23,
                p14,
            } => {
                let drawn = self.draw();
                self.state = match self.state {
                    State::Gap if drawn < of(p14) => State::LostInGap,
                    State::Gap if drawn < of(p14) + of(p13) => State::LostInBurst,
                    State::LostInBurst if drawn < of(p32) => State::GotInBurst,
                    State::LostInBurst if drawn < of(p32) + of(p31) => State::Gap,
                    State::GotInBurst if drawn < of(p23) => State::LostInBurst,
                    State::LostInGap => State::Gap,
                    same => same,
                };
                matches!(self.state, State::LostInBurst | State::LostInGap)
            }
            Loss::GeModel { p, r, bad, good } => {
                // A frame that finds the chain in one state is treated as that one has it.
                let (leave, lost) = match self.state {
                    State::Gap => (p, good),
                    _ => (r, bad),
                };
                if self.draw() < of(leave) {
                    self.state = match self.state {
                        State::Gap => State::LostInBurst,
                        _ => State::Gap,
                    };
                }
                self.draw() < of(lost)
            }
        }
    }
}
