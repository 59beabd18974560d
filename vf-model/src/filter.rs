//! The receive filters of one VF beyond its policy: further MAC addresses, and the VLANs it takes part in.
//! Never allocates while matching.

use std::fmt;

use crate::addr::{AddrError, MacAddr, Vid};

/// Most filters of either kind for a VF without `trust`.
pub const MAX_UNTRUSTED_FILTERS: usize = 16;
/// Most filters of either kind for a trusted VF.
pub const MAX_FILTERS: usize = 1024;

/// One receive filter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Filter {
    /// A unicast address the VF has besides its own, in every VLAN or in one.
    Mac {
        /// The address.
        mac: MacAddr,
        /// Only in this VLAN.
        vlan: Option<Vid>,
    },
    /// An 802.1Q VLAN the VF takes part in. With the first of these it no longer takes part in all others.
    Vlan(Vid),
}

/// Why a receive filter is not added or removed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FilterError {
    /// No address that a VF can have.
    #[error(transparent)]
    Addr(#[from] AddrError),
    /// The filter is there already.
    #[error("{0}: this filter is there already")]
    Exists(Filter),
    /// There is no such filter.
    #[error("{0}: there is no such filter")]
    NotFound(Filter),
    /// No room for another filter.
    #[error("a VF has at most {room} filters of a kind ({MAX_FILTERS} with trust)")]
    Full {
        /// How many this VF may have.
        room: usize,
    },
}

impl fmt::Display for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Filter::Mac { mac, vlan: None } => write!(f, "mac {mac}"),
            Filter::Mac {
                mac,
                vlan: Some(vid),
            } => write!(f, "mac {mac} vlan {vid}"),
            Filter::Vlan(vid) => write!(f, "vlan {vid}"),
        }
    }
}

/// All filters of one VF, each kind in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filters {
    macs: Vec<(MacAddr, Option<Vid>)>,
    vlans: Vec<Vid>,
}

impl Filters {
    /// The addresses besides the VF's own.
    #[must_use]
    pub fn macs(&self) -> &[(MacAddr, Option<Vid>)] {
        &self.macs
    }

    /// The VLANs; none means all.
    #[must_use]
    pub fn vlans(&self) -> &[Vid] {
        &self.vlans
    }

    /// Whether any filter names a VLAN.
    pub(crate) fn names_vlan(&self) -> bool {
        !self.vlans.is_empty() || self.macs.iter().any(|(_, vlan)| vlan.is_some())
    }

    pub(crate) fn add(&mut self, filter: Filter, trust: bool) -> Result<(), FilterError> {
        let room = if trust {
            MAX_FILTERS
        } else {
            MAX_UNTRUSTED_FILTERS
        };
        match filter {
            Filter::Mac { mac, .. } if !mac.is_unicast() => Err(AddrError::NotUnicast(mac).into()),
            Filter::Mac { mac, vlan } => insert(&mut self.macs, (mac, vlan), room, filter),
            Filter::Vlan(vid) => insert(&mut self.vlans, vid, room, filter),
        }
    }

    pub(crate) fn del(&mut self, filter: Filter) -> Result<(), FilterError> {
        match filter {
            Filter::Mac { mac, vlan } => remove(&mut self.macs, &(mac, vlan), filter),
            Filter::Vlan(vid) => remove(&mut self.vlans, &vid, filter),
        }
    }
}

fn insert<T: Ord>(
    list: &mut Vec<T>,
    new: T,
    room: usize,
    filter: Filter,
) -> Result<(), FilterError> {
    match list.binary_search(&new) {
        Ok(_) => Err(FilterError::Exists(filter)),
        Err(_) if list.len() >= room => Err(FilterError::Full { room }),
        Err(at) => {
            list.insert(at, new);
            Ok(())
        }
    }
}

fn remove<T: Ord>(list: &mut Vec<T>, old: &T, filter: Filter) -> Result<(), FilterError> {
    let at = list
        .binary_search(old)
        .map_err(|_| FilterError::NotFound(filter))?;
    list.remove(at);
    Ok(())
}
