//! Random events and delays as Linux's netem draws them, correlation included (`get_crandom` and `tabledist` in
//! `net/sched/sch_netem.c`), from a generator with a seed. Each impairment has numbers of its own, so that one more of them
//! leaves the others' as they were.

use rand_xoshiro::Xoshiro128PlusPlus;
use rand_xoshiro::rand_core::{Rng, SeedableRng};

use super::words::{Odds, Percent};

/// Numbers without end, each the same for the same seed and stream.
pub(super) struct Numbers(Xoshiro128PlusPlus);

impl Numbers {
    pub(super) fn new(seed: u64, stream: u64) -> Numbers {
        // The generator's own seeding makes seeds that differ in a bit different everywhere.
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
    pub(super) fn time(&mut self, mean: u64, spread: u64) -> u64 {
        if spread == 0 {
            return mean;
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
