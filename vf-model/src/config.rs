//! What a NIC is made with. Never changes.

use vf_packet::MacAddr;

use crate::profile::Profile;

/// What a NIC is made with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NicConfig {
    /// Number of VFs, 1 to 256; others are moved into that range.
    pub vfs: u16,
    /// Address of VF 0; VF i has the i-th after it.
    pub mac_base: MacAddr,
    /// Which NIC it is like.
    pub profile: Profile,
}
