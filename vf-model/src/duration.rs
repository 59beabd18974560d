//! How a user writes a time, and how one is shown: `1.5s`, `200ms`, `20us`, `500ns`. Exact to the nanosecond. Below it, decimal
//! numbers that are exact, and bits a second. Reads no clock.

use std::fmt;

use crate::time::Nanos;
use serde::{Deserialize, Deserializer};

const UNITS: [(&str, u64); 4] = [
    ("ns", 1),
    ("us", 1_000),
    ("ms", 1_000_000),
    ("s", 1_000_000_000),
];

/// Longer than anybody waits for a simulation, and far from where times overflow.
const LONGEST: Nanos = Nanos(3_600_000_000_000);

/// A point in virtual time, or a length of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Duration(pub Nanos);

impl Duration {
    /// The time that `text` says, if it says one: a number and a unit, at most an hour.
    #[must_use]
    pub fn parse(text: &str) -> Option<Duration> {
        let split = text.find(|c: char| c.is_ascii_alphabetic())?;
        let (number, unit) = text.split_at(split);
        let (_, scale) = UNITS.iter().find(|(name, _)| *name == unit)?;
        let ns = parse_decimal(number, *scale)?;
        (ns <= LONGEST.0).then_some(Duration(Nanos(ns)))
    }
}

/// Bits a second as tc writes them (tc(8), RATES): `10gbit`, `1.5g`, `100mbit`; a bare number is bits. Exact; capitals are the same. Bounds are for
/// whoever asks.
#[must_use]
pub fn bits_per_second(text: &str) -> Option<u64> {
    let at = text.find(|c: char| !c.is_ascii_digit() && c != '.');
    let (number, unit) = text.split_at(at.unwrap_or(text.len()));
    let scale = match unit.to_ascii_lowercase().as_str() {
        "" | "bit" => 1,
        "k" | "kbit" => 1_000,
        "m" | "mbit" => 1_000_000,
        "g" | "gbit" => 1_000_000_000,
        "t" | "tbit" => 1_000_000_000_000,
        _ => return None,
    };
    parse_decimal(number, scale)
}

/// A decimal number as a multiple of `1/scale`, a power of ten; none if it is not one exactly.
pub(crate) fn parse_decimal(number: &str, scale: u64) -> Option<u64> {
    let (whole, part) = number.split_once('.').unwrap_or((number, ""));
    let digits = |s: &str| s.bytes().all(|b| b.is_ascii_digit());
    if whole.is_empty() || !digits(whole) || !digits(part) || number.ends_with('.') {
        return None;
    }
    let mut value = whole.parse::<u64>().ok()?.checked_mul(scale)?;
    let mut place = scale;
    for digit in part.bytes() {
        if !place.is_multiple_of(10) {
            return None;
        }
        place /= 10;
        value = value.checked_add(u64::from(digit - b'0') * place)?;
    }
    Some(value)
}

/// A multiple of `1/scale` as [`parse_decimal`] reads it.
pub(crate) fn write_decimal(f: &mut fmt::Formatter<'_>, value: u64, scale: u64) -> fmt::Result {
    let (whole, part) = (value / scale, value % scale);
    let places = scale.ilog10() as usize;
    let part = format!("{part:0places$}");
    match part.trim_end_matches('0') {
        "" => write!(f, "{whole}"),
        part => write!(f, "{whole}.{part}"),
    }
}

impl<'de> Deserialize<'de> for Duration {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
        let text = String::deserialize(from)?;
        Duration::parse(&text).ok_or_else(|| {
            serde::de::Error::custom(format!(
                "time '{}': a number with s, ms, us or ns, such as 1.5s, at most an hour",
                text.escape_debug()
            ))
        })
    }
}

impl fmt::Display for Duration {
    /// In the largest unit that leaves something in front of the point.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ns = self.0.0;
        let (unit, scale) = UNITS
            .into_iter()
            .rev()
            .find(|(_, scale)| ns >= *scale)
            .unwrap_or(UNITS[0]);
        write_decimal(f, ns, scale)?;
        f.write_str(unit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn times_are_exact() {
        for (text, ns) in [
            ("1.5s", 1_500_000_000),
            ("200ms", 200_000_000),
            ("0.000000001s", 1),
            ("20us", 20_000),
            ("0s", 0),
            ("3600s", 3_600_000_000_000),
        ] {
            assert_eq!(Duration::parse(text), Some(Duration(Nanos(ns))), "{text}");
        }
    }

    #[test]
    fn what_is_no_time() {
        for text in [
            "",
            "s",
            "1",
            "-1s",
            "1.s",
            ".5s",
            "1 s",
            "1m",
            "1e3ms",
            "0.5ns",
            "3601s",
            "99999999999999999999s",
            "1.5ss",
        ] {
            assert_eq!(Duration::parse(text), None, "{text}");
        }
    }

    #[test]
    fn rates_are_exact_and_have_one_unit() {
        for (text, bps) in [
            ("10G", Some(10_000_000_000)),
            ("10gbit", Some(10_000_000_000)),
            ("1.5Mbit", Some(1_500_000)),
            ("0.01t", Some(10_000_000_000)),
            ("1000", Some(1000)),
            ("8bit", Some(8)),
            ("10Gbitbit", None),
            ("10gg", None),
            ("1e9", None),
            ("0.5", None),
            ("G", None),
            ("-1G", None),
            ("", None),
            ("99999999999999T", None),
        ] {
            assert_eq!(bits_per_second(text), bps, "{text}");
        }
    }

    proptest! {
        #[test]
        fn shown_as_it_is_read(ns in 0..LONGEST.0) {
            let time = Duration(Nanos(ns));
            prop_assert_eq!(Duration::parse(&time.to_string()), Some(time));
        }
    }
}
