//! VLANs: ids, tags, and which VLAN a tag stands for. Never looks at a frame.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::AddrError;
use crate::mac::on_a_line;

/// Whether an EtherType is the type of a VLAN tag (TPID): a customer's (IEEE 802.1Q 9.5: 0x8100), a provider's (0x88a8), or
/// that which switches used for the outer of two before the provider's was standardised (0x9100).
#[inline]
#[must_use]
pub const fn is_vlan_tpid(ethertype: u16) -> bool {
    // IPv4 is below all of them.
    ethertype >= 0x8100 && matches!(ethertype, 0x8100 | 0x88a8 | 0x9100)
}

/// A VLAN id that traffic can be put into: 1 to 4094, or [`Vid::RESERVED`] where that is named.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct Vid(u16);

impl Vid {
    /// The id that IEEE 802.1Q 9.6 keeps back, which many drivers take for a port VLAN all the same.
    pub const RESERVED: Vid = Vid(4095);

    /// # Errors
    /// [`AddrError::Vlan`] unless `vid` is 1 to 4094: 0 means no VLAN and 4095 is reserved (IEEE 802.1Q 9.6).
    pub fn new(vid: u16) -> Result<Vid, AddrError> {
        if (1..=4094).contains(&vid) {
            Ok(Vid(vid))
        } else {
            Err(AddrError::Vlan(vid))
        }
    }

    /// The number.
    #[must_use]
    #[inline]
    pub const fn get(self) -> u16 {
        self.0
    }

    /// Ids in order as runs of those that follow each other, the first and the last of each.
    pub fn runs(ids: &[Vid]) -> impl Iterator<Item = (Vid, Vid)> {
        let runs = ids.chunk_by(|a, b| a.0 + 1 == b.0);
        runs.filter_map(|run| Some((*run.first()?, *run.last()?)))
    }
}

impl fmt::Display for Vid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Which kind of tag a port VLAN puts on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum VlanProto {
    /// A customer tag, 0x8100.
    #[default]
    #[serde(rename = "802.1Q")]
    Dot1Q,
    /// A service tag, 0x88a8.
    #[serde(rename = "802.1ad")]
    Dot1ad,
}

impl VlanProto {
    /// The tag's protocol id.
    #[must_use]
    #[inline]
    pub fn tpid(self) -> u16 {
        match self {
            VlanProto::Dot1Q => 0x8100,
            VlanProto::Dot1ad => 0x88a8,
        }
    }
}

impl fmt::Display for VlanProto {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            VlanProto::Dot1Q => "802.1Q",
            VlanProto::Dot1ad => "802.1ad",
        })
    }
}

impl FromStr for VlanProto {
    type Err = AddrError;

    fn from_str(text: &str) -> Result<VlanProto, AddrError> {
        match text {
            "802.1Q" | "802.1q" => Ok(VlanProto::Dot1Q),
            "802.1ad" => Ok(VlanProto::Dot1ad),
            _ => Err(AddrError::Proto(on_a_line(text))),
        }
    }
}

/// A VLAN tag as a frame carries it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct VlanTag {
    /// Protocol id: 0x8100, 0x88a8 or 0x9100.
    pub tpid: u16,
    /// Priority (3 bits), drop eligible (1 bit), VLAN id (12 bits).
    pub tci: u16,
}

impl VlanTag {
    /// The VLAN id, 0 to 4095; 0 is a tag that carries a priority only.
    #[must_use]
    #[inline]
    pub fn vid(self) -> u16 {
        self.tci & 0xfff
    }

    /// The tag as it is on the wire.
    #[must_use]
    #[inline]
    pub fn to_bytes(self) -> [u8; 4] {
        let [a, b] = self.tpid.to_be_bytes();
        let [c, d] = self.tci.to_be_bytes();
        [a, b, c, d]
    }
}

/// The VLAN that a frame belongs to, by its outermost tag. Equal ids of customer and service tags are different VLANs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Vlan(u16);

impl Vlan {
    /// No tag, or one that carries a priority only.
    pub const NONE: Vlan = Vlan(0);

    /// The VLAN that a tag puts a frame into.
    #[inline]
    #[must_use]
    pub fn of_tag(tag: VlanTag) -> Vlan {
        let space: u16 = match tag.tpid {
            _ if tag.vid() == 0 => 0,
            0x8100 => 0,
            0x88a8 => 0x1000,
            _ => 0x2000,
        };
        Vlan(space | tag.vid())
    }

    /// The customer VLAN that VLAN filters speak of.
    #[inline]
    #[must_use]
    pub fn of_vid(vid: Vid) -> Vlan {
        Vlan(vid.get())
    }

    /// The tag, without priority, of frames that belong to it; the opposite of [`Vlan::of_tag`].
    #[inline]
    #[must_use]
    pub fn tag(self) -> Option<VlanTag> {
        let tpid = match self.0 & 0xf000 {
            0 => 0x8100,
            0x1000 => 0x88a8,
            _ => 0x9100,
        };
        let tci = self.0 & 0xfff;
        (tci != 0).then_some(VlanTag { tpid, tci })
    }

    /// A number that stands for it, the id of a customer VLAN.
    #[inline]
    #[must_use]
    pub fn to_u16(self) -> u16 {
        self.0
    }

    /// Whether its tag is of another kind than 802.1Q.
    #[inline]
    #[must_use]
    pub fn is_service(self) -> bool {
        self.0 & 0xf000 != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_types_of_vlan_tags() {
        let tags: Vec<u16> = (0..=u16::MAX).filter(|&t| is_vlan_tpid(t)).collect();
        assert_eq!(tags, [0x8100, 0x88a8, 0x9100]);
    }

    #[test]
    fn tag_spaces_do_not_mix() {
        let tag = |tpid, tci| Vlan::of_tag(VlanTag { tpid, tci });
        assert_eq!(tag(0x8100, 0xe00a), tag(0x8100, 10));
        assert_ne!(tag(0x8100, 10), tag(0x88a8, 10));
        assert_ne!(tag(0x9100, 10), tag(0x88a8, 10));
        assert_eq!(tag(0x88a8, 0xe000), Vlan::NONE);
        assert_eq!(Vlan::NONE.tag(), None);
        for tpid in [0x8100, 0x88a8, 0x9100] {
            let stripped = VlanTag { tpid, tci: 10 };
            assert_eq!(tag(tpid, 0xe00a).tag(), Some(stripped));
        }
    }
}
