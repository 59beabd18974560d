//! What becomes of a frame: who gets it, and how its VLAN tag changes on the way. Never holds the frame itself.

use crate::addr::VlanTag;
use crate::stats::DropReason;
use crate::vf::VfSet;

/// Where one frame goes. All its receivers get the bytes the sender gave, but for one tag.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    /// VFs to deliver to here.
    pub vfs: VfSet,
    /// Whether it also goes over the PF, to the other of NIC and hypervisor.
    pub pf: bool,
    /// Whether it also goes out on the wire.
    pub wire: bool,
    /// The port VLAN's tag that the PF and the wire must see in front of what the sender gave.
    pub insert: Option<VlanTag>,
    /// Set if and only if nobody gets it; counted already.
    pub drop: Option<DropReason>,
}

/// How a receiver's copy differs from what the sender gave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TagEdit {
    /// Not at all.
    Keep,
    /// This tag is put in behind the addresses.
    Insert(VlanTag),
    /// The outermost tag is taken out.
    Strip,
}
