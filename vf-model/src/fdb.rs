//! Stations behind the PF that the administrator has told the NIC's switch of: the entries of `bridge fdb add MAC dev DEV self`.
//! A switch that learns nothing sends to the wire what is for a station that it has not been told of. Never learns.

use std::fmt;

use vf_packet::{MacAddr, Vid, Vlan};

use crate::vf_filter::MAX_FILTERS;

/// A station behind the PF, in every VLAN or in one; in text `MAC [vlan VID] self`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SelfEntry {
    /// Its address.
    pub mac: MacAddr,
    /// Only in this VLAN.
    pub vlan: Option<Vid>,
}

impl fmt::Display for SelfEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.mac)?;
        self.vlan
            .iter()
            .try_for_each(|vid| write!(f, " vlan {vid}"))?;
        f.write_str(" self")
    }
}

/// Why an entry is not added or removed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FdbError {
    /// No address that a station can have.
    #[error("fdb {0}: a station has a unicast address other than zero")]
    NotUnicast(MacAddr),
    /// The entry is there already.
    #[error("fdb {0}: this entry is there already")]
    Exists(SelfEntry),
    /// There is no such entry.
    #[error("fdb {0}: there is no such entry")]
    NotFound(SelfEntry),
    /// No room for another.
    #[error("fdb: a NIC has at most {MAX_FILTERS} entries")]
    Full,
}

/// All entries, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Fdb(Vec<SelfEntry>);

impl Fdb {
    pub(crate) fn entries(&self) -> &[SelfEntry] {
        &self.0
    }

    /// Whether a station behind the PF has this address in this VLAN.
    pub(crate) fn has(&self, mac: MacAddr, vlan: Vlan) -> bool {
        let at = self.0.partition_point(|entry| entry.mac < mac);
        let same = self.0[at..].iter().take_while(|entry| entry.mac == mac);
        same.map(|entry| entry.vlan)
            .any(|vid| vid.is_none_or(|vid| Vlan::of_vid(vid) == vlan))
    }

    /// Whether a station behind the PF has this address in any VLAN.
    pub(crate) fn has_anywhere(&self, mac: MacAddr) -> bool {
        let at = self.0.partition_point(|entry| entry.mac < mac);
        self.0.get(at).is_some_and(|entry| entry.mac == mac)
    }

    pub(crate) fn add(&mut self, entry: SelfEntry) -> Result<(), FdbError> {
        if !entry.mac.is_unicast() {
            return Err(FdbError::NotUnicast(entry.mac));
        }
        match self.0.binary_search(&entry) {
            Ok(_) => Err(FdbError::Exists(entry)),
            Err(_) if self.0.len() >= MAX_FILTERS => Err(FdbError::Full),
            Err(at) => {
                self.0.insert(at, entry);
                Ok(())
            }
        }
    }

    pub(crate) fn del(&mut self, entry: SelfEntry) -> Result<(), FdbError> {
        let at = self.0.binary_search(&entry);
        self.0.remove(at.map_err(|_| FdbError::NotFound(entry))?);
        Ok(())
    }
}
