//! The receive filters of one VF beyond its policy: further MAC addresses, and the VLANs it takes part in.
//! Never allocates while matching.

use std::fmt;

use vf_packet::{AddrError, MacAddr, Vid};

/// Most further addresses, and most VLANs, that the driver of a VF without `trust` can have.
pub const MAX_UNTRUSTED_FILTERS: usize = 16;
/// Most groups that a VF without `trust` can list, as many as ixgbe allows.
pub const MAX_UNTRUSTED_GROUPS: usize = 30;
/// Most further addresses of a VF, and most of what its driver can have of a kind with `trust`.
pub const MAX_FILTERS: usize = 1024;
/// What a refusal calls further addresses.
pub(crate) const ADDRESSES: &str = "further addresses";
/// And what it calls them where groups are among them.
pub(crate) const ADDRESSES_AND_GROUPS: &str = "further addresses and groups together";

/// One receive filter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum VfFilter {
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

/// Receive filters that a command names: one, or the VLANs from one to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VfFilterRange {
    /// One.
    One(VfFilter),
    /// Several VLANs.
    Vlans {
        /// The first.
        first: Vid,
        /// The last, behind the first.
        last: Vid,
    },
}

impl VfFilterRange {
    /// The filters, in order.
    pub fn iter(self) -> impl Iterator<Item = VfFilter> {
        let (one, vlans) = match self {
            VfFilterRange::One(filter) => (Some(filter), None),
            VfFilterRange::Vlans { first, last } => (None, Some(first.get()..=last.get())),
        };
        let vlans = vlans.into_iter().flatten();
        let vlans = vlans.filter_map(|vid| Some(VfFilter::Vlan(Vid::new(vid).ok()?)));
        one.into_iter().chain(vlans)
    }
}

impl From<VfFilter> for VfFilterRange {
    fn from(filter: VfFilter) -> VfFilterRange {
        VfFilterRange::One(filter)
    }
}

impl fmt::Display for VfFilterRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            VfFilterRange::One(filter) => filter.fmt(f),
            VfFilterRange::Vlans { first, last } => write!(f, "vlan {first}-{last}"),
        }
    }
}

/// Why a receive filter is not added or removed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum VfFilterError {
    /// No address that a VF can have.
    #[error(transparent)]
    Addr(#[from] AddrError),
    /// The filter is there already.
    #[error("{0}: this filter is there already")]
    Exists(VfFilter),
    /// There is no such filter.
    #[error("{0}: there is no such filter")]
    NotFound(VfFilter),
    /// No room for another of them.
    #[error("a VF has at most {room} {kind}{}", more_with_trust(*room, *trusted))]
    Full {
        /// What there is no room for.
        kind: &'static str,
        /// How many this VF may have.
        room: usize,
        /// How many it might have with `trust`.
        trusted: usize,
    },
}

impl VfFilterError {
    pub(crate) fn full(kind: &'static str, room: usize, trusted: usize) -> VfFilterError {
        VfFilterError::Full {
            kind,
            room,
            trusted,
        }
    }
}

fn more_with_trust(room: usize, trusted: usize) -> String {
    match trusted > room {
        true => format!(" ({trusted} with trust)"),
        false => String::new(),
    }
}

impl fmt::Display for VfFilter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            VfFilter::Mac { mac, vlan: None } => write!(f, "mac {mac}"),
            VfFilter::Mac {
                mac,
                vlan: Some(vid),
            } => write!(f, "mac {mac} vlan {vid}"),
            VfFilter::Vlan(vid) => write!(f, "vlan {vid}"),
        }
    }
}

/// All filters of one VF, each kind in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VfFilters {
    macs: Vec<(MacAddr, Option<Vid>)>,
    vlans: Vec<Vid>,
}

impl VfFilters {
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

    /// Adds one on the administrator's word, for which it does not matter whether the guest is trusted: as many addresses as
    /// the NIC has room for, and all VLANs there are.
    pub(crate) fn add(&mut self, filter: VfFilter, room: usize) -> Result<(), VfFilterError> {
        match filter {
            VfFilter::Mac { mac, .. } if !mac.is_unicast() => {
                Err(AddrError::NotUnicast(mac).into())
            }
            VfFilter::Mac { mac, vlan } => insert(&mut self.macs, (mac, vlan), room, filter),
            VfFilter::Vlan(vid) => insert(&mut self.vlans, vid, usize::MAX, filter),
        }
    }

    pub(crate) fn del(&mut self, filter: VfFilter) -> Result<(), VfFilterError> {
        match filter {
            VfFilter::Mac { mac, vlan } => remove(&mut self.macs, &(mac, vlan), filter),
            VfFilter::Vlan(vid) => remove(&mut self.vlans, &vid, filter),
        }
    }
}

fn insert<T: Ord>(
    list: &mut Vec<T>,
    new: T,
    room: usize,
    filter: VfFilter,
) -> Result<(), VfFilterError> {
    match list.binary_search(&new) {
        Ok(_) => Err(VfFilterError::Exists(filter)),
        Err(_) if list.len() >= room => Err(VfFilterError::full(ADDRESSES, room, room)),
        Err(at) => {
            list.insert(at, new);
            Ok(())
        }
    }
}

fn remove<T: Ord>(list: &mut Vec<T>, old: &T, filter: VfFilter) -> Result<(), VfFilterError> {
    let at = list
        .binary_search(old)
        .map_err(|_| VfFilterError::NotFound(filter))?;
    list.remove(at);
    Ok(())
}
