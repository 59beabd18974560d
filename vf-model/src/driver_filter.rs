//! Filters that the drivers of VFs have of their own: what a driver says of one, and what is kept of it. Whether a driver may have it is for
//! a [`Policy`](crate::Policy) to say.

use std::fmt;

use vf_packet::Vid;

use crate::filter_spec::{FilterAction, FilterMatch, FilterPriority, FilterSpec};
use crate::rule::{CounterId, Rule};
use crate::vf::VfIndex;

/// What the driver of a VF wants of the NIC's filters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FilterOp {
    /// Whether the filter is put in, else it is taken out.
    pub add: bool,
    /// What it matches: an address, what is unknown, or fields of packets.
    pub matches: FilterMatch,
    /// In which VLAN only, where it matches what is unknown: drivers that filter VLANs have one such filter in each.
    pub vlan: Option<Vid>,
    /// What becomes of what it matches; of no meaning when it is taken out.
    pub action: DriverAction,
}

/// What becomes of what the filter of a driver matches.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DriverAction {
    /// Its VF receives it, in a queue as its frames are spread.
    #[default]
    Receive,
    /// Its VF receives it, in this of its queues.
    Queue(u8),
    /// Its VF does not receive it (`ethtool -N ... action -1`).
    Drop,
}

impl DriverAction {
    /// What a filter of the NIC's table says for a driver of this VF.
    pub(crate) fn of(self, vf: VfIndex) -> FilterAction {
        match self {
            DriverAction::Receive => FilterAction::Vf(vf),
            DriverAction::Queue(queue) => FilterAction::Queue(vf, queue),
            DriverAction::Drop => FilterAction::Drop,
        }
    }
}

impl fmt::Display for DriverAction {
    /// The words behind the match, with a blank in front.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DriverAction::Receive => Ok(()),
            DriverAction::Queue(queue) => write!(f, " action {queue}"),
            DriverAction::Drop => f.write_str(" action drop"),
        }
    }
}

impl fmt::Display for FilterOp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verb = if self.add { "add" } else { "del" };
        write!(f, "{verb} {}", self.matches)?;
        self.vlan
            .iter()
            .try_for_each(|vid| write!(f, " vlan {vid}"))?;
        match self.add {
            true => self.action.fmt(f),
            false => Ok(()),
        }
    }
}

impl FilterOp {
    /// Whether it is one of those that are looked at when it is known who a frame is for, and says no more than what becomes of it.
    #[must_use]
    pub fn is_on_packets(&self) -> bool {
        match self.matches {
            FilterMatch::Full { .. }
            | FilterMatch::Local { .. }
            | FilterMatch::EtherType(_)
            | FilterMatch::Fields(_) => true,
            FilterMatch::Mac(_) | FilterMatch::MacVlan { .. } => {
                self.add && self.action != DriverAction::Receive
            }
            _ => false,
        }
    }
}

/// A filter of a driver.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DriverFilter {
    pub(crate) matches: FilterMatch,
    pub(crate) action: DriverAction,
    /// Whether it lies in the NIC's table.
    pub(crate) in_table: bool,
    /// Where its frames are counted while it does not.
    pub(crate) counter: CounterId,
}

impl DriverFilter {
    /// What it matches.
    #[must_use]
    pub fn matches(&self) -> FilterMatch {
        self.matches
    }

    /// What becomes of that.
    #[must_use]
    pub fn action(&self) -> DriverAction {
        self.action
    }

    /// Whether it lies in the NIC's table, for frames to whichever address; else it is for those that its VF receives anyway.
    #[must_use]
    pub fn is_in_table(&self) -> bool {
        self.in_table
    }

    /// What is found of it while it does not.
    pub(crate) fn rule(&self, vf: VfIndex) -> Rule {
        Rule {
            action: self.action.of(vf),
            counter: self.counter,
        }
    }

    /// The filter that it is there.
    pub(crate) fn spec(&self, vf: VfIndex) -> FilterSpec {
        FilterSpec {
            matches: self.matches,
            action: self.action.of(vf),
            priority: FilterPriority::Auto,
        }
    }
}

impl fmt::Display for DriverFilter {
    /// What it matches, and what becomes of that.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.matches, self.action)
    }
}
