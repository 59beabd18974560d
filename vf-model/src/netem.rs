//! Impairments of what passes a port or a VF, as tc-netem(8) knows them: what can be said of them, as a value. Impairs nothing.

use std::fmt;
use std::sync::Arc;

use serde::Deserialize;

use crate::duration::{Duration, parse_decimal, write_decimal};
use crate::netem_words::NetemError;
use crate::time::Nanos;

/// Frames that may be held back at a time, unless it is said: what 10 GbE carries in some 80 ms. tc's own 1000 frames would cut a
/// 10 GbE link with 10 ms to 1.2 Gb/s.
pub(crate) const LIMIT: usize = 65_536;
/// The same in bytes of memory: 64 MiB.
pub(crate) const MEMORY: u64 = 64 << 20;

/// Parts of a percent that are told apart, ten to the seventh, as a bit error rate may need.
pub(crate) const PARTS: u64 = 10_000_000;

/// A share of all, exact to 1e-9.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Percent(pub(crate) u64);

impl Percent {
    /// All.
    pub const ALL: Percent = Percent(100 * PARTS);

    pub(crate) fn parse(text: &str) -> Option<Percent> {
        let number = text.strip_suffix('%').unwrap_or(text);
        let parts = parse_decimal(number, PARTS)?;
        (parts <= Percent::ALL.0).then_some(Percent(parts))
    }

    /// What is left of all.
    pub(crate) fn rest(self) -> Percent {
        Percent(Percent::ALL.0 - self.0)
    }

    /// This share of `all`, rounded to the nearest.
    #[must_use]
    pub fn of(self, all: u64) -> u64 {
        let whole = u128::from(Percent::ALL.0);
        let share = (u128::from(all) * u128::from(self.0) + whole / 2) / whole;
        u64::try_from(share).unwrap_or(all)
    }
}

impl fmt::Display for Percent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_decimal(f, self.0, PARTS)?;
        f.write_str("%")
    }
}

/// How often something happens, and how much each time depends on the time before.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Odds {
    /// How often.
    pub probability: Percent,
    /// How much it depends on the frame before.
    pub correlation: Percent,
}

/// Which frames are lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loss {
    /// `loss [random] P [CORRELATION]`: each with the same odds.
    Random(Odds),
    /// `loss state P13 [P31 [P32 [P23 [P14]]]]`: a Markov chain of four states, in which frames come in gaps and bursts of losses.
    State {
        /// From good reception to a loss in a burst.
        p13: Percent,
        /// From a loss in a burst to good reception.
        p31: Percent,
        /// From a loss in a burst to good reception in the burst.
        p32: Percent,
        /// From that back to a loss.
        p23: Percent,
        /// From good reception to a single loss.
        p14: Percent,
    },
    /// `loss gemodel P [R [1-H [1-K]]]`: the chain of Gilbert and Elliott, of a good and a bad state.
    GeModel {
        /// From good to bad.
        p: Percent,
        /// From bad to good.
        r: Percent,
        /// How many are lost while it is bad, `1-h`.
        bad: Percent,
        /// How many are lost while it is good, `1-k`.
        good: Percent,
    },
}

impl Default for Loss {
    fn default() -> Loss {
        Loss::Random(Odds::default())
    }
}

impl Loss {
    /// Whether any frame is lost.
    fn happens(&self) -> bool {
        match self {
            Loss::Random(odds) => odds.probability != Percent::default(),
            Loss::State { .. } | Loss::GeModel { .. } => true,
        }
    }
}

/// How delays are spread around their mean; `jitter` is their standard deviation, but for [`Distribution::Uniform`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Distribution {
    /// All alike, from one jitter less than the mean to one more.
    #[default]
    Uniform,
    /// Normal.
    Normal,
    /// Pareto, of index 3.
    Pareto,
    /// A quarter of the normal and three of the Pareto one.
    ParetoNormal,
}

impl Distribution {
    /// All, by name.
    pub(crate) const ALL: [(&str, Distribution); 4] = [
        ("uniform", Distribution::Uniform),
        ("normal", Distribution::Normal),
        ("pareto", Distribution::Pareto),
        ("paretonormal", Distribution::ParetoNormal),
    ];
}

impl fmt::Display for Distribution {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = Distribution::ALL.iter().find(|(_, one)| one == self);
        f.write_str(name.map_or("", |(name, _)| name))
    }
}

/// What becomes of frames that pass in one direction. Without a word nothing does.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct NetemSpec {
    /// How long each is held back.
    pub delay: Nanos,
    /// By how much that varies, up and down.
    pub jitter: Nanos,
    /// How much a delay depends on the one before.
    pub delay_correlation: Percent,
    /// How delays are spread.
    pub distribution: Distribution,
    /// Which are lost.
    pub loss: Loss,
    /// How many go twice.
    pub duplicate: Odds,
    /// How many have a bit turned over.
    pub corrupt: Odds,
    /// How many are not held back and overtake others so.
    pub reorder: Odds,
    /// Of so many frames one may be reordered.
    pub gap: u32,
    /// Bits a second of frames from their header to the end of their payload, if there is a limit.
    pub rate: Option<u64>,
    /// Frames that are held back at most.
    pub limit: usize,
    /// Bytes of memory that they take at most.
    pub memory_limit: u64,
    /// What random numbers begin with.
    pub seed: Option<u64>,
}

impl Default for NetemSpec {
    fn default() -> NetemSpec {
        NetemSpec {
            delay: Nanos(0),
            jitter: Nanos(0),
            delay_correlation: Percent::default(),
            distribution: Distribution::default(),
            loss: Loss::default(),
            duplicate: Odds::default(),
            corrupt: Odds::default(),
            reorder: Odds::default(),
            gap: 1,
            rate: None,
            limit: LIMIT,
            memory_limit: MEMORY,
            seed: None,
        }
    }
}

impl NetemSpec {
    /// The same, with random numbers that begin with `seed` unless it says with what.
    #[must_use]
    pub fn or_seed(mut self, seed: u64) -> NetemSpec {
        self.seed.get_or_insert(seed);
        self
    }

    /// Whether it makes a difference which frame of a wire a frame is: a super-frame is one only while all are treated alike.
    #[must_use]
    pub fn tells_frames_apart(&self) -> bool {
        let chances = [self.duplicate, self.corrupt, self.reorder];
        let happens = |odds: &Odds| odds.probability != Percent::default();
        let paced = self.jitter > Nanos(0) || self.rate.is_some();
        paced || self.loss.happens() || chances.iter().any(happens)
    }
}

impl TryFrom<String> for NetemSpec {
    type Error = NetemError;
    fn try_from(text: String) -> Result<NetemSpec, NetemError> {
        text.parse()
    }
}

/// A rate in the largest unit that says it exactly.
fn write_rate(bps: u64) -> String {
    let units = [("gbit", 1_000_000_000), ("mbit", 1_000_000), ("kbit", 1000)];
    let unit = units
        .into_iter()
        .find(|(_, scale)| bps.is_multiple_of(*scale));
    let (unit, scale) = unit.unwrap_or(("bit", 1));
    format!("{}{unit}", bps / scale)
}

impl fmt::Display for NetemSpec {
    /// In the words that say it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut words = Vec::new();
        let odds = |Odds {
                        probability,
                        correlation,
                    }: Odds| match correlation {
            Percent(0) => probability.to_string(),
            correlation => format!("{probability} {correlation}"),
        };
        if self.delay > Nanos(0) || self.jitter > Nanos(0) {
            let mut delay = format!("delay {}", Duration(self.delay));
            if self.jitter > Nanos(0) {
                delay += &format!(" {}", Duration(self.jitter));
                if self.delay_correlation != Percent::default() {
                    delay += &format!(" {}", self.delay_correlation);
                }
                if self.distribution != Distribution::default() {
                    delay += &format!(" distribution {}", self.distribution);
                }
            }
            words.push(delay);
        }
        match self.loss {
            Loss::Random(none) if none == Odds::default() => {}
            Loss::Random(some) => words.push(format!("loss {}", odds(some))),
            Loss::State {
                p13,
                p31,
                p32,
                p23,
                p14,
            } => {
                words.push(format!("loss state {p13} {p31} {p32} {p23} {p14}"));
            }
            Loss::GeModel { p, r, bad, good } => {
                words.push(format!("loss gemodel {p} {r} {bad} {good}"));
            }
        }
        let chances = [
            ("duplicate", self.duplicate),
            ("corrupt", self.corrupt),
            ("reorder", self.reorder),
        ];
        for (word, chance) in chances {
            if chance != Odds::default() || word == "reorder" && self.gap > 1 {
                words.push(format!("{word} {}", odds(chance)));
            }
        }
        if self.gap > 1 {
            words.push(format!("gap {}", self.gap));
        }
        if let Some(rate) = self.rate {
            words.push(format!("rate {}", write_rate(rate)));
        }
        if self.limit != LIMIT {
            words.push(format!("limit {}", self.limit));
        }
        if self.memory_limit != MEMORY {
            words.push(format!("memory_limit {}", self.memory_limit));
        }
        if let Some(seed) = self.seed {
            words.push(format!("seed {seed}"));
        }
        if words.is_empty() {
            words.push("loss 0%".to_owned()); // impairs nothing, and is said
        }
        f.write_str(&words.join(" "))
    }
}

/// What becomes of frames in both directions of a port or a VF.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Impairments {
    /// Of those that the NIC sends out of its port; of those that the guest on the VF sends.
    pub egress: Option<Arc<NetemSpec>>,
    /// Of those that come.
    pub ingress: Option<Arc<NetemSpec>>,
}

impl Impairments {
    /// Whether nothing is impaired.
    #[must_use]
    pub fn is_none(&self) -> bool {
        self.egress.is_none() && self.ingress.is_none()
    }

    /// Each that there is, with the word of its direction.
    pub fn iter(&self) -> impl Iterator<Item = (NetemWay, &Arc<NetemSpec>)> {
        let both = [
            (NetemWay::Egress, self.egress.as_ref()),
            (NetemWay::Ingress, self.ingress.as_ref()),
        ];
        both.into_iter()
            .filter_map(|(way, spec)| Some((way, spec?)))
    }

    pub(crate) fn set(&mut self, way: NetemWay, spec: Option<&Arc<NetemSpec>>) {
        if way != NetemWay::Ingress {
            self.egress = spec.cloned();
        }
        if way != NetemWay::Egress {
            self.ingress = spec.cloned();
        }
    }
}

/// Which frames of a port or a VF are meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NetemWay {
    /// Those that leave by the port, or that the guest on the VF sends.
    Egress,
    /// Those that come.
    Ingress,
    /// All.
    Both,
}

impl fmt::Display for NetemWay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            NetemWay::Egress => "egress",
            NetemWay::Ingress => "ingress",
            NetemWay::Both => "both",
        })
    }
}

/// A link that comes and goes: so long up, so long down, and again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flap {
    /// How long it is up.
    pub up: Nanos,
    /// How long it is down.
    pub down: Nanos,
}

impl Flap {
    /// Whether the link is down so long after the schedule began, and when that changes.
    #[must_use]
    pub fn at(&self, since: Nanos) -> (bool, Nanos) {
        let period = self.up + self.down;
        let into = since.0 % period.0.max(1);
        let began = Nanos(since.0 - into);
        match into < self.up.0 {
            true => (false, began + self.up),
            false => (true, began + period),
        }
    }
}

impl fmt::Display for Flap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "up {} down {}", Duration(self.up), Duration(self.down))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flapping_link_is_up_first_and_then_down() {
        let flap = Flap {
            up: Nanos(5),
            down: Nanos(2),
        };
        let seen: Vec<_> = (0..9).map(|at| flap.at(Nanos(at))).collect();
        let up = |until| (false, Nanos(until));
        let down = |until| (true, Nanos(until));
        assert_eq!(seen[..5], [up(5); 5]);
        assert_eq!(seen[5..7], [down(7); 2]);
        assert_eq!(seen[7..], [up(12); 2]);
    }
}
