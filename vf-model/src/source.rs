//! Where a frame enters a NIC. Never looks at the frame.

use crate::vf::VfIndex;

/// Where a frame comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// A guest, over the rings of its VF.
    Vf(VfIndex),
    /// The hypervisor.
    Pf,
    /// The other end of the wire.
    Wire,
}
