//! Where a frame enters a NIC. What comes over the PF has entered already. Never looks at the frame.

use crate::vf::VfIndex;

/// Where a frame comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// A guest, over the rings of its VF.
    Vf(VfIndex),
    /// The other end of the wire.
    Wire,
}
