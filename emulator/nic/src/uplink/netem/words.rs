//! What a user says of impairments, in the words of `tc qdisc add dev DEV root netem` (tc-netem(8)):
//! `delay 10ms 2ms loss 0.1% seed 7`. Impairs nothing itself.

use std::fmt;
use std::iter::Peekable;
use std::str::{FromStr, SplitWhitespace};

use serde::Deserialize;
use vf_model::Nanos;

use crate::duration::{Duration, parse_decimal, write_decimal};

/// Frames that may be held back at a time, unless it is said: what 10 GbE carries in some 80 ms. tc's own 1000 frames would cut a
/// 10 GbE link with 10 ms to 1.2 Gb/s.
const LIMIT: usize = 65_536;
/// Most that can be said.
const MOST_FRAMES: usize = 16 << 20;
/// The same in bytes of memory: 64 MiB, and 64 KiB to 4 GiB.
const MEMORY: u64 = 64 << 20;
const LEAST_MEMORY: u64 = 64 << 10;
const MOST_MEMORY: u64 = 4 << 30;

/// Parts of a percent that are told apart, ten to the seventh, as a bit error rate may need.
const PARTS: u64 = 10_000_000;

/// A share of all, exact to 1e-9.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Percent(u64);

impl Percent {
    fn parse(text: &str) -> Option<Percent> {
        let number = text.strip_suffix('%').unwrap_or(text);
        let parts = parse_decimal(number, PARTS)?;
        (parts <= 100 * PARTS).then_some(Percent(parts))
    }

    /// This share of `all`, rounded to the nearest.
    #[must_use]
    pub(super) fn of(self, all: u64) -> u64 {
        let whole = u128::from(100 * PARTS);
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

/// What becomes of frames between a port and what is plugged into it. Without a word nothing does.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct NetemSpec {
    /// How long each is held back.
    pub delay: Nanos,
    /// By how much that varies, up and down.
    pub jitter: Nanos,
    /// How much a delay depends on the one before.
    pub delay_correlation: Percent,
    /// How many are lost.
    pub loss: Odds,
    /// How many go twice.
    pub duplicate: Odds,
    /// How many have a bit turned over.
    pub corrupt: Odds,
    /// How many are not held back and overtake others so.
    pub reorder: Odds,
    /// Of so many frames one may be reordered.
    pub gap: u32,
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
            loss: Odds::default(),
            duplicate: Odds::default(),
            corrupt: Odds::default(),
            reorder: Odds::default(),
            gap: 1,
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
    pub(super) fn tells_frames_apart(&self) -> bool {
        let chances = [self.loss, self.duplicate, self.corrupt, self.reorder];
        let happens = |odds: &Odds| odds.probability != Percent::default();
        self.jitter > Nanos(0) || chances.iter().any(happens)
    }
}

/// Words that say no impairments. Each says what to change.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NetemError {
    /// Nothing is said.
    #[error("netem says nothing; such as 'delay 10ms 2ms loss 0.1% seed 7'")]
    Empty,
    /// A word that netem has not, here.
    #[error(
        "netem: '{0}' is not one of delay, loss, duplicate, corrupt, reorder, gap, limit, memory_limit, seed"
    )]
    Word(String),
    /// A word that came before.
    #[error("netem: {0} is said twice")]
    Twice(&'static str),
    /// A word without what belongs behind it, or with something else.
    #[error("netem: {word} '{text}': {wants}")]
    Value {
        /// The word.
        word: &'static str,
        /// What follows it.
        text: String,
        /// What has to follow it.
        wants: &'static str,
    },
    /// Reordering without anything to overtake.
    #[error(
        "netem: reorder lets frames overtake those that are delayed: it needs a delay, such as 'delay 10ms reorder 25%'"
    )]
    ReorderNeedsDelay,
    /// A gap between frames that are not reordered.
    #[error(
        "netem: gap says how far apart reordered frames are: it needs a reorder, such as 'delay 10ms reorder 100% gap 5'"
    )]
    GapNeedsReorder,
}

const TIME: &str = "a number with s, ms, us or ns, such as 10ms, at most an hour";
const PERCENT: &str = "0% to 100%, such as 0.1%";

/// The words, one after the other.
struct Words<'a>(Peekable<SplitWhitespace<'a>>);

impl<'a> Words<'a> {
    /// What follows `word`.
    fn value<T>(
        &mut self,
        word: &'static str,
        wants: &'static str,
        parse: impl Fn(&str) -> Option<T>,
    ) -> Result<T, NetemError> {
        let text = self.0.next().unwrap_or_default();
        parse(text).ok_or_else(|| NetemError::Value {
            word,
            text: text.to_owned(),
            wants,
        })
    }

    /// The same, if a number follows.
    fn another<T: Default>(
        &mut self,
        word: &'static str,
        wants: &'static str,
        parse: impl Fn(&str) -> Option<T>,
    ) -> Result<T, NetemError> {
        let number = |text: &&str| text.starts_with(|c: char| c.is_ascii_digit());
        match self.0.peek().filter(|text| number(text)) {
            Some(_) => self.value(word, wants, parse),
            None => Ok(T::default()),
        }
    }

    fn odds(&mut self, word: &'static str) -> Result<Odds, NetemError> {
        Ok(Odds {
            probability: self.value(word, PERCENT, Percent::parse)?,
            correlation: self.another(word, PERCENT, Percent::parse)?,
        })
    }
}

/// A whole number from `least` to `most`.
fn within(text: &str, least: u64, most: u64) -> Option<u64> {
    text.parse().ok().filter(|n| (least..=most).contains(n))
}

/// Bytes as tc writes them: `64mb`, in units of 1024.
fn size(text: &str) -> Option<u64> {
    let at = text.find(|c: char| !c.is_ascii_digit());
    let (number, unit) = text.split_at(at.unwrap_or(text.len()));
    let shift = match unit.to_ascii_lowercase().as_str() {
        "" | "b" => 0,
        "k" | "kb" => 10,
        "m" | "mb" => 20,
        "g" | "gb" => 30,
        _ => return None,
    };
    let bytes = number.parse::<u64>().ok()?.checked_mul(1 << shift)?;
    (LEAST_MEMORY..=MOST_MEMORY)
        .contains(&bytes)
        .then_some(bytes)
}

impl FromStr for NetemSpec {
    type Err = NetemError;

    fn from_str(text: &str) -> Result<NetemSpec, NetemError> {
        const WORDS: [&str; 9] = [
            "delay",
            "loss",
            "duplicate",
            "corrupt",
            "reorder",
            "gap",
            "limit",
            "memory_limit",
            "seed",
        ];
        let mut spec = NetemSpec::default();
        let mut said = Vec::new();
        let mut words = Words(text.split_whitespace().peekable());
        let time = |text: &str| Duration::parse(text).map(|Duration(time)| time);
        while let Some(word) = words.0.next() {
            let Some(word) = WORDS.into_iter().find(|known| *known == word) else {
                return Err(NetemError::Word(word.escape_debug().to_string()));
            };
            if said.contains(&word) {
                return Err(NetemError::Twice(word));
            }
            said.push(word);
            match word {
                "delay" => {
                    spec.delay = words.value(word, TIME, time)?;
                    spec.jitter = words.another(word, TIME, time)?;
                    spec.delay_correlation = words.another(word, PERCENT, Percent::parse)?;
                }
                "loss" => {
                    // tc's word for this kind of loss.
                    words.0.next_if_eq(&"random");
                    spec.loss = words.odds(word)?;
                }
                "duplicate" => spec.duplicate = words.odds(word)?,
                "corrupt" => spec.corrupt = words.odds(word)?,
                "reorder" => spec.reorder = words.odds(word)?,
                "gap" => {
                    let wants = "1 to 1000000 frames";
                    let gap = words.value(word, wants, |text| within(text, 1, 1_000_000))?;
                    spec.gap = u32::try_from(gap).unwrap_or(u32::MAX);
                }
                "limit" => {
                    let wants = "1 to 16777216 frames";
                    let most = MOST_FRAMES as u64;
                    let limit = words.value(word, wants, |text| within(text, 1, most))?;
                    spec.limit = usize::try_from(limit).unwrap_or(MOST_FRAMES);
                }
                "memory_limit" => {
                    let wants = "64kb to 4gb, such as 64mb";
                    spec.memory_limit = words.value(word, wants, size)?;
                }
                _ => {
                    let wants = "a number from 0 to 18446744073709551615";
                    let seed = words.value(word, wants, |text| text.parse().ok())?;
                    spec.seed = Some(seed);
                }
            }
        }
        if said.is_empty() {
            return Err(NetemError::Empty);
        }
        if said.contains(&"reorder") && spec.delay == Nanos(0) {
            return Err(NetemError::ReorderNeedsDelay);
        }
        if said.contains(&"gap") && !said.contains(&"reorder") {
            return Err(NetemError::GapNeedsReorder);
        }
        Ok(spec)
    }
}

impl TryFrom<String> for NetemSpec {
    type Error = NetemError;
    fn try_from(text: String) -> Result<NetemSpec, NetemError> {
        text.parse()
    }
}

impl fmt::Display for NetemSpec {
    /// In the words that say it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut words = Vec::new();
        if self.delay > Nanos(0) || self.jitter > Nanos(0) {
            let mut delay = format!("delay {}", Duration(self.delay));
            if self.jitter > Nanos(0) {
                delay += &format!(" {}", Duration(self.jitter));
                if self.delay_correlation != Percent::default() {
                    delay += &format!(" {}", self.delay_correlation);
                }
            }
            words.push(delay);
        }
        let chances = [
            ("loss", self.loss),
            ("duplicate", self.duplicate),
            ("corrupt", self.corrupt),
            ("reorder", self.reorder),
        ];
        for (word, odds) in chances {
            if odds.correlation != Percent::default() {
                words.push(format!("{word} {} {}", odds.probability, odds.correlation));
            } else if odds != Odds::default() {
                words.push(format!("{word} {}", odds.probability));
            }
        }
        if self.gap > 1 {
            words.push(format!("gap {}", self.gap));
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
        f.write_str(&words.join(" "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn words_as_tc_has_them() {
        let spec: NetemSpec = "delay 10ms 2ms 25% loss random 0.1% 10% duplicate 1% corrupt 0.0000001% reorder 25% 50% gap 5 \
             limit 1000 memory_limit 1mb seed 7"
            .parse()
            .unwrap();
        assert_eq!(
            (spec.delay, spec.jitter),
            (Nanos(10_000_000), Nanos(2_000_000))
        );
        assert_eq!(spec.loss.probability.of(1_000_000), 1000);
        assert_eq!(spec.loss.correlation.of(100), 10);
        assert_eq!(spec.corrupt.probability.of(1_000_000_000), 1);
        assert_eq!(
            (spec.gap, spec.limit, spec.memory_limit),
            (5, 1000, 1 << 20)
        );
        assert_eq!(spec.seed, Some(7));
        assert_eq!(
            spec.to_string(),
            "delay 10ms 2ms 25% loss 0.1% 10% duplicate 1% corrupt 0.0000001% reorder 25% 50% gap 5 limit 1000 \
             memory_limit 1048576 seed 7"
        );
    }

    #[test]
    fn what_is_wrong_is_said_in_one_line() {
        for (text, says) in [
            ("", "says nothing"),
            ("dleay 10ms", "'dleay' is not one of delay"),
            ("delay", "delay '': a number with s, ms"),
            ("delay 10", "such as 10ms"),
            ("delay 10ms 2", "such as 10ms"),
            ("delay 10ms 2ms 101%", "0% to 100%"),
            (
                "delay 10ms distribution normal",
                "'distribution' is not one of",
            ),
            ("loss 1% loss 2%", "loss is said twice"),
            ("loss -1%", "0% to 100%"),
            ("loss 0.00000001%", "0% to 100%"),
            ("loss gemodel 1%", "loss 'gemodel': 0% to 100%"),
            ("reorder 25%", "needs a delay"),
            ("delay 1ms gap 5", "needs a reorder"),
            ("limit 0", "1 to 16777216"),
            ("memory_limit 1kb", "64kb to 4gb"),
            ("seed x", "a number from 0"),
        ] {
            let error = text.parse::<NetemSpec>().unwrap_err().to_string();
            assert!(error.contains(says), "{text:?} gave {error:?}");
        }
    }

    fn odds() -> impl Strategy<Value = Odds> {
        let percent = || (0..=100 * PARTS).prop_map(Percent);
        (percent(), percent()).prop_map(|(probability, correlation)| Odds {
            probability,
            correlation,
        })
    }

    proptest! {
        #[test]
        fn shown_as_it_is_read(
            delay in 1..1_000_000_000u64,
            jitter in 1..1_000_000_000u64,
            chances in proptest::array::uniform4(odds()),
            limits in (1..MOST_FRAMES, LEAST_MEMORY..MOST_MEMORY),
            seed in proptest::option::of(any::<u64>()),
        ) {
            let [loss, duplicate, corrupt, reorder] = chances;
            let spec = NetemSpec {
                delay: Nanos(delay),
                jitter: Nanos(jitter),
                delay_correlation: loss.correlation,
                loss, duplicate, corrupt, reorder,
                gap: 1,
                limit: limits.0,
                memory_limit: limits.1,
                seed,
            };
            prop_assert_eq!(spec.to_string().parse::<NetemSpec>().unwrap(), spec);
        }
    }
}
