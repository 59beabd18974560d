//! What a user says of impairments, in the words of `tc qdisc add dev DEV root netem` (tc-netem(8)):
//! `delay 10ms 2ms loss 0.1% seed 7`. Impairs nothing itself.

use std::iter::Peekable;
use std::str::{FromStr, SplitWhitespace};
use std::sync::Arc;

use crate::duration::{Duration, bits_per_second};
use crate::netem::{Distribution, Flap, Loss, NetemSpec, NetemWay, Odds, Percent};
use crate::refusal::Refusal;
use crate::time::Nanos;
use crate::words::nearest;

/// Most frames that can be said.
const MOST_FRAMES: usize = 16 << 20;
/// The same in bytes of memory: 64 KiB to 4 GiB.
const LEAST_MEMORY: u64 = 64 << 10;
const MOST_MEMORY: u64 = 4 << 30;
/// Rates that can be said: 1 kb/s to 10 Tb/s.
const RATES: std::ops::RangeInclusive<u64> = 1000..=10_000_000_000_000;
/// The least time that a flapping link stays as it is.
const LEAST_FLAP: Nanos = Nanos(1_000_000);

/// Words that say no impairments. Each says what to change.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NetemError {
    /// Nothing is said.
    #[error("netem says nothing; such as 'delay 10ms 2ms loss 0.1% seed 7'")]
    Empty,
    /// A word that netem has not, here.
    #[error(
        "netem: '{got}' is not one of {}{}",
        WORDS.join(", "),
        nearest(got, WORDS.into_iter()).map_or_else(String::new, |word| format!(" (did you mean '{word}'?)"))
    )]
    Word {
        /// The word.
        got: String,
    },
    /// A distribution without a jitter that it spreads.
    #[error(
        "netem: distribution says how delays are spread around their mean: it needs a jitter, such as 'delay 10ms 1ms distribution normal'"
    )]
    DistributionNeedsJitter,
    /// A word that came before.
    #[error("netem: {0} is said twice")]
    Twice(&'static str),
    /// A word without what belongs behind it, or with something else.
    #[error("{}{word} '{text}': {wants}", if *word == "flap" { "" } else { "netem: " })]
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

const WORDS: [&str; 10] = [
    "delay",
    "loss",
    "duplicate",
    "corrupt",
    "reorder",
    "gap",
    "rate",
    "limit",
    "memory_limit",
    "seed",
];

const TIME: &str =
    "a number with s, ms, us or ns, such as 10ms, at most an hour (microseconds without)";
const PERCENT: &str = "0% to 100%, such as 0.1%";
const LOSS: &str = "0% to 100%, such as 0.1%, or 'state' or 'gemodel' and what belongs behind it";

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

    /// The same, or else.
    fn another_or(&mut self, word: &'static str, usual: Percent) -> Result<Percent, NetemError> {
        let said = self.another(word, PERCENT, |text| Percent::parse(text).map(Some))?;
        Ok(said.unwrap_or(usual))
    }

    fn loss(&mut self, word: &'static str) -> Result<Loss, NetemError> {
        if self.0.next_if_eq(&"state").is_some() {
            let p13 = self.value(word, PERCENT, Percent::parse)?;
            return Ok(Loss::State {
                p13,
                p31: self.another_or(word, p13.rest())?,
                p32: self.another_or(word, Percent::default())?,
                p23: self.another_or(word, Percent::ALL)?,
                p14: self.another_or(word, Percent::default())?,
            });
        }
        // Without a loss in the good state it is Gilbert's model, which Elliott's contains.
        let elliott = |word: &&str| matches!(*word, "gemodel" | "gilbert");
        if self.0.next_if(elliott).is_some() {
            let p = self.value(word, PERCENT, Percent::parse)?;
            return Ok(Loss::GeModel {
                p,
                r: self.another_or(word, p.rest())?,
                bad: self.another_or(word, Percent::ALL)?,
                good: self.another_or(word, Percent::default())?,
            });
        }
        // tc's word for this kind of loss.
        self.0.next_if_eq(&"random");
        let probability = self.value(word, LOSS, Percent::parse)?;
        Ok(Loss::Random(Odds {
            probability,
            correlation: self.another(word, PERCENT, Percent::parse)?,
        }))
    }

    fn odds(&mut self, word: &'static str) -> Result<Odds, NetemError> {
        Ok(Odds {
            probability: self.value(word, PERCENT, Percent::parse)?,
            correlation: self.another(word, PERCENT, Percent::parse)?,
        })
    }
}

/// A time as tc writes it (tc(8), TIMES): `10ms`, `10msec`, `10msecs`, and a bare number is microseconds.
fn time(text: &str) -> Option<Nanos> {
    let at = text.find(|c: char| c.is_ascii_alphabetic());
    let (number, unit) = text.split_at(at.unwrap_or(text.len()));
    let unit = match unit.to_ascii_lowercase().as_str() {
        "s" | "sec" | "secs" => "s",
        "ms" | "msec" | "msecs" => "ms",
        "" | "us" | "usec" | "usecs" => "us",
        "ns" | "nsec" | "nsecs" => "ns",
        _ => return None,
    };
    Duration::parse(&format!("{number}{unit}")).map(|Duration(time)| time)
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

/// Bits a second, within bounds.
fn rate(text: &str) -> Option<u64> {
    bits_per_second(text).filter(|bps| RATES.contains(bps))
}

/// The words of impairments in a command: `[netem] [egress|ingress|both] WORDS|none`. Egress unless it is said, as tc has it; `none` is both.
pub(crate) fn netem_command(words: &[&str]) -> Result<(NetemWay, Option<Arc<NetemSpec>>), Refusal> {
    let mut rest = words.strip_prefix(&["netem"]).unwrap_or(words);
    let way = match rest {
        ["egress", ..] => Some(NetemWay::Egress),
        ["ingress", ..] => Some(NetemWay::Ingress),
        ["both", ..] => Some(NetemWay::Both),
        _ => None,
    };
    if way.is_some() {
        rest = rest.get(1..).unwrap_or_default();
        rest = rest.strip_prefix(&["netem"]).unwrap_or(rest);
    }
    match rest {
        // Whoever wants none of them says no direction.
        ["none" | "off"] => Ok((way.unwrap_or(NetemWay::Both), None)),
        words => Ok((
            way.unwrap_or(NetemWay::Egress),
            Some(Arc::new(words.join(" ").parse::<NetemSpec>()?)),
        )),
    }
}

/// Whether a word begins such words, behind `set`. What VFs have of their own begins with `netem`, as `rate` is a key of theirs.
pub(crate) fn begins_netem(word: &str) -> bool {
    matches!(
        word,
        "netem"
            | "egress"
            | "ingress"
            | "both"
            | "delay"
            | "loss"
            | "duplicate"
            | "corrupt"
            | "reorder"
            | "gap"
            | "limit"
            | "memory_limit"
            | "seed"
    )
}

impl FromStr for Flap {
    type Err = NetemError;

    /// `up TIME down TIME`.
    fn from_str(text: &str) -> Result<Flap, NetemError> {
        const WANTS: &str = "it is 'up TIME down TIME', each 1ms to 3600s (microseconds without s, ms, us or ns), or 'none'";
        let time = |text: &str| time(text).filter(|time| *time >= LEAST_FLAP);
        let words: Vec<_> = text.split_whitespace().collect();
        let flap = match words.as_slice() {
            ["up", up, "down", down] => time(up).zip(time(down)),
            _ => None,
        };
        let flap = flap.map(|(up, down)| Flap { up, down });
        flap.ok_or_else(|| NetemError::Value {
            word: "flap",
            text: text.escape_debug().take(64).collect(),
            wants: WANTS,
        })
    }
}

impl FromStr for NetemSpec {
    type Err = NetemError;

    fn from_str(text: &str) -> Result<NetemSpec, NetemError> {
        let mut spec = NetemSpec::default();
        let mut said = Vec::new();
        let mut words = Words(text.split_whitespace().peekable());
        while let Some(word) = words.0.next() {
            let Some(word) = WORDS.into_iter().find(|known| *known == word) else {
                let got = word.escape_debug().take(64).collect();
                return Err(NetemError::Word { got });
            };
            if said.contains(&word) {
                return Err(NetemError::Twice(word));
            }
            said.push(word);
            match word {
                "delay" => {
                    spec.delay = words.value(word, TIME, time)?;
                    spec.jitter = match words.0.next_if_eq(&"jitter") {
                        Some(_) => words.value("jitter", TIME, time)?,
                        None => words.another(word, TIME, time)?,
                    };
                    spec.delay_correlation = words.another(word, PERCENT, Percent::parse)?;
                    if words.0.next_if_eq(&"distribution").is_some() {
                        let one = |text: &str| {
                            Some(Distribution::ALL.iter().find(|(name, _)| *name == text)?.1)
                        };
                        let wants = "uniform, normal, pareto or paretonormal";
                        spec.distribution = words.value("distribution", wants, one)?;
                        if spec.jitter == Nanos(0) {
                            return Err(NetemError::DistributionNeedsJitter);
                        }
                    }
                    if spec.jitter == Nanos(0) {
                        spec.delay_correlation = Percent::default(); // of nothing that varies
                    }
                }
                "loss" => spec.loss = words.loss(word)?,
                "rate" => {
                    let wants = "a rate such as 100mbit, 1kbit to 10tbit";
                    spec.rate = Some(words.value(word, wants, rate)?);
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
        let Loss::Random(loss) = spec.loss else {
            panic!("{spec:?}")
        };
        assert_eq!(loss.probability.of(1_000_000), 1000);
        assert_eq!(loss.correlation.of(100), 10);
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
            (
                "dleay 10ms",
                "'dleay' is not one of delay, loss, duplicate, corrupt, reorder, gap, rate, limit, memory_limit, seed (did you mean 'delay'?)",
            ),
            ("delay", "delay '': a number with s, ms"),
            ("delay 10min", "such as 10ms"),
            ("delay 10ms 2m", "such as 10ms"),
            ("delay 1.2.3", "such as 10ms"),
            ("delay 0.0001", "such as 10ms"),
            ("delay 3600000001", "at most an hour"),
            ("delay 10ms 2ms 101%", "0% to 100%"),
            ("delay 10ms distribution normal", "it needs a jitter"),
            (
                "delay 10ms 1ms distribution gauss",
                "uniform, normal, pareto or paretonormal",
            ),
            ("rate 10", "a rate such as 100mbit"),
            ("rate 1mbps", "a rate such as 100mbit"),
            ("loss 1% loss 2%", "loss is said twice"),
            ("loss -1%", "0% to 100%"),
            ("loss 0.00000001%", "0% to 100%"),
            ("loss gemodel", "loss '': 0% to 100%"),
            ("loss state 1% 2% 3% 4% 5% 6%", "'6%' is not one of"),
            (
                "loss gmodel 1%",
                "loss 'gmodel': 0% to 100%, such as 0.1%, or 'state' or 'gemodel'",
            ),
            ("delay 10ms jitter", "jitter '': a number with s, ms"),
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

    #[test]
    fn what_is_left_out_is_as_tc_has_it() {
        for (said, means) in [
            ("loss gemodel 1%", "loss gemodel 1% 99% 100% 0%"),
            ("loss gemodel 1% 10%", "loss gemodel 1% 10% 100% 0%"),
            (
                "loss gemodel 1% 10% 70% 0.1%",
                "loss gemodel 1% 10% 70% 0.1%",
            ),
            ("loss state 2%", "loss state 2% 98% 0% 100% 0%"),
            ("loss random 1%", "loss 1%"),
            ("loss gilbert 1% 10%", "loss gemodel 1% 10% 100% 0%"),
            ("delay 5ms jitter 1ms 25%", "delay 5ms 1ms 25%"),
            ("delay 5ms 0ms 25%", "delay 5ms"),
            ("delay 5ms 1ms distribution uniform", "delay 5ms 1ms"),
            ("rate 1.5gbit limit 1000", "rate 1500mbit limit 1000"),
            ("rate 2500k", "rate 2500kbit"),
            ("delay 100msec 20msecs", "delay 100ms 20ms"),
            ("delay 2sec 1secs", "delay 2s 1s"),
            ("delay 100usec 20usecs", "delay 100us 20us"),
            ("delay 100nsec 20nsecs", "delay 100ns 20ns"),
            ("delay 100MS 2Sec", "delay 100ms 2s"),
            ("delay 100000 1500.5", "delay 100ms 1.5005ms"),
            ("delay 100 20 25%", "delay 100us 20us 25%"),
            ("loss 0%", "loss 0%"),
            ("delay 0ms", "loss 0%"),
            ("delay 1ms reorder 0% gap 5", "delay 1ms reorder 0% gap 5"),
        ] {
            let spec: NetemSpec = said.parse().unwrap();
            assert_eq!(spec.to_string(), means, "{said}");
            assert_eq!(means.parse(), Ok(spec));
        }
    }

    #[test]
    fn words_of_a_flap() {
        let flap: Flap = "up 5s down 200ms".parse().unwrap();
        assert_eq!(flap.to_string(), "up 5s down 200ms");
        // As of a delay.
        assert_eq!("up 5sec down 200000".parse(), Ok(flap));
        for wrong in [
            "",
            "5s 200ms",
            "up 5s",
            "up 5s down 0s",
            "up 1us down 1s",
            "down 1s up 1s",
        ] {
            let said = wrong.parse::<Flap>().unwrap_err().to_string();
            assert!(
                said.starts_with("flap '") && said.contains("up TIME down TIME"),
                "{said}"
            );
        }
    }

    fn percent() -> impl Strategy<Value = Percent> {
        (0..=Percent::ALL.0).prop_map(Percent)
    }

    fn odds() -> impl Strategy<Value = Odds> {
        (percent(), percent()).prop_map(|(probability, correlation)| Odds {
            probability,
            correlation,
        })
    }

    fn loss() -> impl Strategy<Value = Loss> {
        let state = proptest::array::uniform5(percent()).prop_map(|[p13, p31, p32, p23, p14]| {
            Loss::State {
                p13,
                p31,
                p32,
                p23,
                p14,
            }
        });
        let gemodel = proptest::array::uniform4(percent())
            .prop_map(|[p, r, bad, good]| Loss::GeModel { p, r, bad, good });
        prop_oneof![odds().prop_map(Loss::Random), state, gemodel]
    }

    proptest! {
        #[test]
        fn shown_as_it_is_read(
            delay in 1..1_000_000_000u64,
            jitter in 1..1_000_000_000u64,
            loss in loss(),
            chances in proptest::array::uniform3(odds()),
            gap in 1..1000u32,
            rate in proptest::option::of(RATES),
            distribution in 0..4usize,
            limits in (1..MOST_FRAMES, LEAST_MEMORY..MOST_MEMORY),
            seed in proptest::option::of(any::<u64>()),
        ) {
            let [duplicate, corrupt, reorder] = chances;
            let spec = NetemSpec {
                delay: Nanos(delay),
                jitter: Nanos(jitter),
                delay_correlation: duplicate.correlation,
                distribution: Distribution::ALL[distribution].1,
                loss, duplicate, corrupt, reorder, gap, rate,
                limit: limits.0,
                memory_limit: limits.1,
                seed,
            };
            prop_assert_eq!(spec.to_string().parse::<NetemSpec>().unwrap(), spec);
        }
    }
}
