//! What becomes of a frame: who gets it, and how its VLAN tag changes on the way. Never holds the frame itself.

use crate::addr::VlanTag;
use crate::stats::DropReason;
use crate::vf::{VfIndex, VfSet};

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

impl Verdict {
    /// The way of a frame that goes to one VF or the wire and nowhere else.
    pub(crate) fn hop(&self) -> Option<Hop> {
        let to = match (self.pf, self.wire) {
            (true, _) => return None,
            (false, false) => To::Vf(self.vfs.only()?),
            (false, true) if self.vfs.is_empty() => To::Wire,
            (false, true) => return None,
        };
        let insert = self.insert;
        Some(Hop { to, insert })
    }

    /// Length of the frame for the PF and the wire.
    pub(crate) fn onward_len(&self, len: u32) -> u32 {
        onward_len(self.insert, len)
    }
}

/// Length of a frame for the PF and the wire, if a verdict said to insert this.
#[inline]
pub(crate) fn onward_len(insert: Option<VlanTag>, len: u32) -> u32 {
    insert.map_or(TagEdit::Keep, TagEdit::Insert).len_of(len)
}

/// The one receiver of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum To {
    /// A VF of this NIC.
    Vf(VfIndex),
    /// Whoever is beyond the wire.
    Wire,
}

/// The way of a frame to a station that has one receiver.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hop {
    /// Who gets it.
    pub to: To,
    /// As in [`Verdict::insert`].
    pub insert: Option<VlanTag>,
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

impl TagEdit {
    /// Length of the receiver's copy of a frame of `len` bytes.
    #[must_use]
    pub fn len_of(self, len: u32) -> u32 {
        match self {
            TagEdit::Keep => len,
            TagEdit::Insert(_) => len.saturating_add(4),
            TagEdit::Strip => len.saturating_sub(4),
        }
    }
}
