//! What becomes of a frame: who gets it, and how its VLAN tag changes on the way. Never holds the frame itself.

use vf_packet::VlanTag;

use crate::stats::DropReason;
use crate::vf::{VfIndex, VfSet};

/// Where one frame goes. All its receivers get the bytes the sender gave, but for one tag.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    /// VFs to deliver to here.
    pub vfs: VfSet,
    /// Whether it also goes over the PF, to the other of NIC and hypervisor.
    pub pf: bool,
    /// VFs to deliver to there.
    pub beyond: VfSet,
    /// Whether it also goes out on the wire; from the hypervisor, over the PF.
    pub wire: bool,
    /// Whether it is for the wire by way of the other side of the PF, which is to send it or hand it back.
    pub wire_beyond: bool,
    /// Whether the copies of some VFs have to wait here, since their flow is changing to the fast path: ask
    /// [`crate::Nic::lane_of`] for whom.
    pub waits: bool,
    /// Whether a filter has it go over the PF, so that path `auto` learns nothing from it.
    pub held: bool,
    /// The guest that has sent it, if one of this host has.
    pub from: Option<VfIndex>,
    /// The port VLAN's tag that the PF and the wire must see in front of what the sender gave.
    pub insert: Option<VlanTag>,
    /// Set if and only if nobody gets it; counted already.
    pub drop: Option<DropReason>,
}

impl Verdict {
    /// The way of a frame that goes to one VF or the wire and nowhere else.
    pub(crate) fn hop(&self) -> Option<Hop> {
        let to = match (self.pf, self.wire) {
            _ if self.waits => return None,
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

/// What is left to do with a frame that has crossed the PF. It was judged where it came from and is not judged again: its
/// receivers are those that the policy named then, whatever has been changed while it was on the way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Onward {
    /// VFs to deliver to.
    pub vfs: VfSet,
    /// Whether it goes out on the wire: the NIC's to do, at once or when it is handed back.
    pub wire: bool,
    /// As in [`Verdict::held`].
    pub held: bool,
    /// The guest that has sent it, if one of this host has.
    pub from: Option<VfIndex>,
    /// How the VFs' copies differ.
    pub tagging: Tagging,
    /// Whether it has grown by its sender's port VLAN's tag.
    pub grown: bool,
}

impl Onward {
    /// What is left for the NIC of a frame that it has handed up itself: these VFs, and the wire if it has had no copy yet.
    #[must_use]
    pub fn back_to(&self, vfs: VfSet) -> Onward {
        Onward { vfs, ..*self }
    }
}

/// How the copies of a frame differ from what the sender gave, by the policy by which it was judged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tagging {
    /// As in [`Verdict::insert`].
    pub(crate) insert: Option<VlanTag>,
    /// VFs that do not see the VLAN that they are in.
    pub(crate) port_vlans: VfSet,
}

impl Tagging {
    /// How the copy for `to` differs.
    #[must_use]
    #[inline]
    pub fn edit(&self, to: VfIndex) -> TagEdit {
        let hidden = self.port_vlans.contains(to);
        match self.insert {
            Some(_) if hidden => TagEdit::Keep,
            Some(tag) => TagEdit::Insert(tag),
            None if hidden => TagEdit::Strip,
            None => TagEdit::Keep,
        }
    }
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

/// What is known of a frame by one that came before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Again {
    /// Its way.
    pub hop: Hop,
    /// Whether it is the way of the last frame of which this was said, too.
    pub repeated: bool,
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
