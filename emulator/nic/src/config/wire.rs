//! `[[wire]]`: a cable between two NICs, and rates. Knows no other uplink.

use std::collections::BTreeSet;
use std::ops::RangeInclusive;
use std::sync::Arc;

use serde::Deserialize;
use vf_model::duration::bits_per_second;
use vf_model::{LinkConfig, Nanos, NetemSpec};

use super::error::ConfigError;
use super::nic::NicSettings;
use crate::uplink::has_room;

/// A wire between two NICs.
#[derive(Clone, Debug)]
pub struct WireSettings {
    /// Indices into [`Config::nics`](super::Config::nics).
    pub between: [usize; 2],
    /// Rate and propagation delay.
    pub link: LinkConfig,
}

/// One `[[wire]]` as a file has it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WireSection {
    between: [String; 2],
    rate: Option<String>,
    propagation_ns: Option<u64>,
    netem: Option<NetemSpec>,
}

/// Checks one wire; `used` are the NICs that have a wire already.
pub(super) fn check(
    section: WireSection,
    nics: &mut [NicSettings],
    used: &mut BTreeSet<usize>,
) -> Result<WireSettings, ConfigError> {
    let [a, b] = section.between;
    let wrong = |why| ConfigError::Wire {
        a: a.clone(),
        b: b.clone(),
        why,
    };
    let find = |name: &str| nics.iter().position(|n| n.name == name);
    let (Some(i), Some(j)) = (find(&a), find(&b)) else {
        return Err(wrong("there is no NIC of that name"));
    };
    if i == j {
        return Err(wrong("a wire has two different ends"));
    }
    if !used.insert(i) || !used.insert(j) {
        return Err(wrong("a NIC has one port, so one wire"));
    }
    let netem = section.netem.map(Arc::new);
    for end in [i, j] {
        let nic = &mut nics[end];
        if nic.uplink.is_some() {
            return Err(wrong(
                "a NIC has one port: a wire or another uplink, not both",
            ));
        }
        if netem.is_some() && nic.netem.egress.is_some() {
            return Err(wrong(
                "netem of a wire is that of both its NICs, and one of them has its own: leave one of them out",
            ));
        }
        let egress = &mut nic.netem.egress;
        *egress = egress.take().or_else(|| netem.clone());
    }
    let mut link = LinkConfig::default();
    if let Some(rate) = &section.rate {
        link.rate_bps = parse_rate(rate)?;
    }
    if let Some(ns) = section.propagation_ns {
        link.propagation = Nanos(ns);
    }
    if !has_room(link) {
        return Err(wrong(
            "at this rate a wire so long holds more frames than it has room for: say a shorter propagation_ns, and netem = \"delay TIME\" for the rest",
        ));
    }
    Ok(WireSettings {
        between: [i, j],
        link,
    })
}

/// The rate of a link, in bits a second: `10G`, `2.5Gbit/s`, `100mbit`, `1000000000`, as [`bits_per_second`] reads them.
///
/// # Errors
/// [`ConfigError::Rate`] for anything else, and for rates under 1 Mb/s or over 10 Tb/s.
pub fn parse_rate(text: &str) -> Result<u64, ConfigError> {
    let bits = text.strip_suffix("/s").filter(|bits| bits.ends_with("bit"));
    let bps = bits_per_second(bits.unwrap_or(text)).filter(|bps| RATES.contains(bps));
    bps.ok_or_else(|| ConfigError::Rate(text.to_owned()))
}

const RATES: RangeInclusive<u64> = 1_000_000..=10_000_000_000_000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates() {
        assert_eq!(parse_rate("10G").unwrap(), 10_000_000_000);
        assert_eq!(parse_rate("100Mbit").unwrap(), 100_000_000);
        assert_eq!(parse_rate("2.5Gbit/s").unwrap(), 2_500_000_000);
        assert_eq!(parse_rate("0.01T").unwrap(), 10_000_000_000);
        assert_eq!(parse_rate("1000000").unwrap(), 1_000_000);
        let bad = [
            "",
            "G",
            "-1G",
            "10",
            "11T",
            "nan",
            "inf",
            "10G/s",
            "10Gbitbit",
            "10Gbit/sbit/s",
        ];
        for bad in bad {
            assert!(parse_rate(bad).is_err(), "{bad}");
        }
    }
}
