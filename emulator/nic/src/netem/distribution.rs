//! Distributions of delays as tables of their quantiles, as tc has them in files: 4096 deviations from the mean in units of the
//! standard deviation over 8192. Made of sums and products only, which every machine rounds alike, so that a run is the same to
//! the bit everywhere. Draws no number.

use std::sync::LazyLock;

use vf_model::Distribution;

/// How many there are.
const SIZE: usize = 4096;
/// One standard deviation.
pub(super) const SCALE: i16 = 8192;

/// Quantiles, the least first.
type Table = [i16; SIZE];

/// The table of a distribution that has one.
pub(super) fn table(distribution: Distribution) -> Option<&'static Table> {
    static TABLES: LazyLock<[Table; 3]> = LazyLock::new(|| {
        let (normal, pareto) = (normal(), pareto());
        let mixed = |at: usize| 0.25 * normal[at] + 0.75 * pareto[at];
        let mut both = [0.0; SIZE];
        (0..SIZE).for_each(|at| both[at] = mixed(at));
        [normal, pareto, both].map(|table| table.map(scaled))
    });
    match distribution {
        Distribution::Uniform => None,
        Distribution::Normal => Some(&TABLES[0]),
        Distribution::Pareto => Some(&TABLES[1]),
        Distribution::ParetoNormal => Some(&TABLES[2]),
    }
}

/// What does not fit is the longest that does.
fn scaled(deviation: f64) -> i16 {
    let most = f64::from(i16::MAX);
    (deviation * f64::from(SCALE)).round().clamp(-most, most) as i16
}

/// The part of all that lies below the quantile at this place.
fn part(at: usize) -> f64 {
    (at as f64 + 0.5) / SIZE as f64
}

/// `e` to the power of `-x`, for `x` from 0 to some twenty.
fn exp_of_minus(x: f64) -> f64 {
    let u = x / 256.0;
    let mut power = 1.0 - u * (1.0 - u / 2.0 * (1.0 - u / 3.0 * (1.0 - u / 4.0 * (1.0 - u / 5.0))));
    for _ in 0..8 {
        power *= power;
    }
    power
}

/// Adds up the density of the normal distribution from far out to its mean; the other half is the same.
fn normal() -> [f64; SIZE] {
    const STEP: f64 = 1.0 / 4096.0;
    const FAR: f64 = -5.0;
    /// One over the square root of 2 pi.
    const PEAK: f64 = 0.398_942_280_401_432_7;
    let density = |x: f64| PEAK * exp_of_minus(x * x / 2.0);
    let mut table = [0.0; SIZE];
    let (mut x, mut below) = (FAR, 0.0);
    for at in 0..SIZE / 2 {
        while below < part(at) && x < 0.0 {
            below += STEP * (density(x) + density(x + STEP)) / 2.0;
            x += STEP;
        }
        table[at] = x;
        table[SIZE - 1 - at] = -x;
    }
    table
}

/// Pareto's distribution of index 3, whose mean is 3/2 and whose variance is 3/4.
fn pareto() -> [f64; SIZE] {
    /// The square root of 3/4.
    const DEVIATION: f64 = 0.866_025_403_784_438_6;
    let mut table = [0.0; SIZE];
    for (at, entry) in table.iter_mut().enumerate() {
        let above = 1.0 - part(at);
        // Newton's cube root.
        let mut root: f64 = 1.0;
        for _ in 0..64 {
            root = (2.0 * root + above / (root * root)) / 3.0;
        }
        *entry = (1.0 / root - 1.5) / DEVIATION;
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_have_the_mean_and_the_deviation_that_they_are_of() {
        for (distribution, longest) in [
            (Distribution::Normal, 3.6..3.8),
            (Distribution::Pareto, 3.9..4.1),
            (Distribution::ParetoNormal, 3.9..4.1),
        ] {
            let table = table(distribution)
                .unwrap()
                .map(|t| f64::from(t) / f64::from(SCALE));
            assert!(table.is_sorted(), "{distribution}");
            let mean = table.iter().sum::<f64>() / SIZE as f64;
            let variance = table.iter().map(|t| t * t).sum::<f64>() / SIZE as f64;
            // The longest delays of Pareto's are cut off, and with them half of its variance.
            assert!(mean.abs() < 0.05, "{distribution}: {mean}");
            assert!(
                (0.5..1.05).contains(&variance),
                "{distribution}: {variance}"
            );
            assert!(
                longest.contains(&table[SIZE - 1]),
                "{distribution}: {}",
                table[SIZE - 1]
            );
        }
        // The quartile of the normal distribution is at 0.6745.
        let quartile = table(Distribution::Normal).unwrap()[3072];
        assert!(quartile.abs_diff(5525) < 6, "{quartile}");
    }
}
