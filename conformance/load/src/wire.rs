//! What a wire can carry: the line rate for frames of a size, and how much of it was reached.
//!
//! Knows the wire by its rate alone; whether there is one between the ports, the user says (`bench --wire 10G`).
//! Measures nothing.

use serde::{Deserialize, Serialize};

/// Bytes that a frame takes on an Ethernet wire beside itself: preamble and start 8, FCS 4, gap 12 (IEEE 802.3 3.1.1, 4.4.2).
const BESIDE: usize = 8 + 4 + 12;
/// Shorter frames, without FCS, are padded to this.
const SHORTEST: usize = 60;

/// What was reached of a wire's line rate.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(super) struct OnWire {
    /// Frames a second that the wire can carry each way.
    pub(super) line_pps: f64,
    /// Frames that arrived by it, as a share of that; of both ways, the one that got less.
    pub(super) share: f64,
}

/// Frames a second that a wire of so many bits a second carries each way.
pub(super) fn line_pps(bits: f64, frame: usize) -> f64 {
    bits / (8 * (frame.max(SHORTEST) + BESIDE)) as f64
}

/// A rate in bits a second with `G` or `M`.
pub(super) fn bits(text: &str) -> Result<f64, String> {
    let (number, factor) = match (text.strip_suffix('G'), text.strip_suffix('M')) {
        (Some(number), _) => (number, 1e9),
        (_, Some(number)) => (number, 1e6),
        _ => ("", 0.0),
    };
    match number.parse::<f64>() {
        Ok(number) if number > 0.0 && number.is_finite() => Ok(number * factor),
        _ => Err("not a rate in bits a second, as 10G or 100M".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn line_rates_are_those_of_ten_gigabit_ethernet() {
        let mpps = |frame| (line_pps(10e9, frame) / 1e4).round() / 100.0;
        // 64 bytes with FCS are 60 without: the 14.88 Mpps that everybody knows.
        assert_eq!([20, 60, 64, 1514].map(mpps), [14.88, 14.88, 14.20, 0.81]);
    }

    #[test]
    fn rates_of_wires_have_units() {
        assert_eq!(bits("10G"), Ok(10e9));
        assert_eq!(bits("2.5G"), Ok(2.5e9));
        assert_eq!(bits("100M"), Ok(1e8));
        for wrong in ["", "10", "G", "-1G", "10k", "infG"] {
            assert!(bits(wrong).is_err(), "{wrong}");
        }
    }
}
