//! Settings that the drivers of a family of NICs do not have, and what they answer. A table; changes nothing.

use std::fmt;

use crate::vf::VfSetting;

/// A setting of a VF that a family does not have.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Lack {
    /// Its key.
    pub(crate) key: &'static str,
    /// Which of its values.
    pub(crate) when: When,
    /// What becomes of it.
    pub(crate) answer: Answer,
}

/// For which values a setting is missing.
#[derive(Clone, Copy, Debug)]
pub(crate) enum When {
    /// This word.
    Is(&'static str),
    /// Any other word than this one, which says that there is no such setting.
    Not(&'static str),
    /// A number from 1 to this one.
    UpTo(u32),
    /// Any number but 0, while the NIC has no link.
    NoLink,
    /// More Mb/s than the port has.
    BeyondPort,
    /// Any number but 0, on a port of another rate than so many Mb/s.
    NotAt(u64),
}

/// What there is to know of a NIC's port.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PortState {
    /// Whether it has a link.
    pub(crate) link_up: bool,
    /// Its rate in Mb/s, if that is known.
    pub(crate) mbps: Option<u64>,
}

/// What a driver answers to a setting that it does not have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Invalid argument.
    Einval,
    /// Operation not supported.
    Eopnotsupp,
    /// Protocol not supported.
    Eprotonosupport,
    /// It says yes, has nothing changed, and says so in its log.
    Ignored,
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Answer::Einval => "EINVAL",
            Answer::Eopnotsupp => "EOPNOTSUPP",
            Answer::Eprotonosupport => "EPROTONOSUPPORT",
            Answer::Ignored => "yes, and changes nothing",
        })
    }
}

impl Lack {
    pub(crate) const fn new(key: &'static str, when: When, answer: Answer) -> Lack {
        Lack { key, when, answer }
    }

    /// Whether this setting is it.
    pub(crate) fn is(&self, setting: &VfSetting, port: PortState) -> bool {
        let (key, value) = setting.words();
        let number = value.parse::<u32>().unwrap_or(0);
        key == self.key
            && match self.when {
                When::Is(word) => value == word,
                When::Not(word) => value != word,
                When::UpTo(most) => (1..=most).contains(&number),
                When::NoLink => number > 0 && !port.link_up,
                When::BeyondPort => port.mbps.is_some_and(|mbps| u64::from(number) > mbps),
                When::NotAt(rate) => number > 0 && port.mbps.is_some_and(|mbps| mbps != rate),
            }
    }
}

impl fmt::Display for Lack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.when {
            When::Is(word) => write!(f, "{} {word}", self.key)?,
            When::Not(_) => f.write_str(self.key)?,
            When::UpTo(most) => write!(f, "{} 1 to {most}", self.key)?,
            When::NoLink => write!(f, "{} without a link", self.key)?,
            When::BeyondPort => write!(f, "{} beyond the port's rate", self.key)?,
            When::NotAt(rate) => write!(f, "{} on a port of other than {rate} Mb/s", self.key)?,
        }
        write!(f, ": {}", self.answer)
    }
}

/// What every port VLAN has.
const QOS: &str = "0";
/// No limit, and nothing promised.
const NO_RATE: &str = "0";

/// No function of its own for a VF: Xen's administrator gives a vNIC its address, and there is no more to say.
pub(crate) const FALCON: &[Lack] = &[
    Lack::new("vlan", When::Not("0"), Answer::Eopnotsupp),
    Lack::new("qos", When::Not(QOS), Answer::Eopnotsupp),
    Lack::new("proto", When::Is("802.1ad"), Answer::Eopnotsupp),
    Lack::new("trust", When::Is("on"), Answer::Eopnotsupp),
    Lack::new("state", When::Not("auto"), Answer::Eopnotsupp),
    Lack::new("max_tx_rate", When::Not(NO_RATE), Answer::Eopnotsupp),
    Lack::new("min_tx_rate", When::Not(NO_RATE), Answer::Eopnotsupp),
    Lack::new("query_rss", When::Is("on"), Answer::Eopnotsupp),
    Lack::new("mirror", When::Not("none"), Answer::Eopnotsupp),
    Lack::new("privilege", When::Not(""), Answer::Eopnotsupp),
];

/// Linux's siena_sriov.c has an address, a VLAN with a priority, and spoofchk.
pub(crate) const SIENA: &[Lack] = &[
    Lack::new("proto", When::Is("802.1ad"), Answer::Eprotonosupport),
    Lack::new("trust", When::Is("on"), Answer::Eopnotsupp),
    Lack::new("state", When::Not("auto"), Answer::Eopnotsupp),
    Lack::new("max_tx_rate", When::Not(NO_RATE), Answer::Eopnotsupp),
    Lack::new("min_tx_rate", When::Not(NO_RATE), Answer::Eopnotsupp),
    Lack::new("query_rss", When::Is("on"), Answer::Eopnotsupp),
    Lack::new("mirror", When::Not("none"), Answer::Eopnotsupp),
    Lack::new("privilege", When::Not(""), Answer::Eopnotsupp),
];

/// Linux's ef10_sriov.c: no rates, no trust, and no priority of a VLAN.
pub(crate) const EF10: &[Lack] = &[
    Lack::new("qos", When::Not(QOS), Answer::Einval),
    Lack::new("proto", When::Is("802.1ad"), Answer::Eprotonosupport),
    Lack::new("trust", When::Is("on"), Answer::Eopnotsupp),
    Lack::new("max_tx_rate", When::Not(NO_RATE), Answer::Eopnotsupp),
    Lack::new("min_tx_rate", When::Not(NO_RATE), Answer::Eopnotsupp),
    Lack::new("query_rss", When::Is("on"), Answer::Eopnotsupp),
    Lack::new("mirror", When::Not("none"), Answer::Eopnotsupp),
];

/// Linux's igb_main.c: no operation for a VF's link state, and a rate only while there is a link, and up to its speed.
pub(crate) const IGB: &[Lack] = &[
    Lack::new("proto", When::Is("802.1ad"), Answer::Eprotonosupport),
    Lack::new("state", When::Not("auto"), Answer::Eopnotsupp),
    Lack::new("max_tx_rate", When::NoLink, Answer::Einval),
    Lack::new("max_tx_rate", When::BeyondPort, Answer::Einval),
    Lack::new("min_tx_rate", When::Not(NO_RATE), Answer::Einval),
    Lack::new("query_rss", When::Is("on"), Answer::Eopnotsupp),
    Lack::new("mirror", When::Not("none"), Answer::Eopnotsupp),
    Lack::new("privilege", When::Not(""), Answer::Eopnotsupp),
];

/// Linux's ixgbe_sriov.c: a rate only while there is a link of 10 Gb/s.
pub(crate) const IXGBE: &[Lack] = &[
    Lack::new("proto", When::Is("802.1ad"), Answer::Eprotonosupport),
    Lack::new("state", When::Is("enable"), Answer::Ignored),
    Lack::new("max_tx_rate", When::UpTo(10), Answer::Einval),
    Lack::new("max_tx_rate", When::NoLink, Answer::Einval),
    Lack::new("max_tx_rate", When::NotAt(10_000), Answer::Einval),
    Lack::new("max_tx_rate", When::BeyondPort, Answer::Einval),
    Lack::new("min_tx_rate", When::Not(NO_RATE), Answer::Einval),
    Lack::new("privilege", When::Not(""), Answer::Eopnotsupp),
];

/// Linux's i40e_virtchnl_pf.c.
pub(crate) const I40E: &[Lack] = &[
    Lack::new("proto", When::Is("802.1ad"), Answer::Eprotonosupport),
    Lack::new("max_tx_rate", When::BeyondPort, Answer::Einval),
    Lack::new("min_tx_rate", When::Not(NO_RATE), Answer::Einval),
    Lack::new("query_rss", When::Is("on"), Answer::Eopnotsupp),
    Lack::new("privilege", When::Not(""), Answer::Eopnotsupp),
];

/// Linux's mlx5 in legacy mode (mlx5e_set_vf_vlan).
pub(crate) const MLX5_LEGACY: &[Lack] = &[
    Lack::new("proto", When::Is("802.1ad"), Answer::Eprotonosupport),
    Lack::new("query_rss", When::Is("on"), Answer::Eopnotsupp),
    Lack::new("mirror", When::Not("none"), Answer::Eopnotsupp),
    Lack::new("privilege", When::Not(""), Answer::Eopnotsupp),
];
