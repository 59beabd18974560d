//! The Ethernet header of a frame, from a private copy of its first bytes. Never looks further than the link layer.

use crate::{MacAddr, Vlan, VlanTag, be16, is_vlan_tpid};

/// Longest frame that is one frame on a wire: 9216 bytes of payload, Ethernet header and two tags.
pub const MAX_FRAME: u32 = 9216 + 14 + 8;

/// Up to two VLAN tags, outermost first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tags {
    list: [VlanTag; 2],
    len: u8,
}

impl Tags {
    /// The tags, outermost first.
    #[must_use]
    #[inline]
    pub fn as_slice(&self) -> &[VlanTag] {
        &self.list[..usize::from(self.len)]
    }

    /// The outermost tag.
    #[must_use]
    #[inline]
    pub fn outer(&self) -> Option<VlanTag> {
        self.as_slice().first().copied()
    }
}

/// Addresses, tags and type of an Ethernet frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Destination address.
    pub dst: MacAddr,
    /// Source address.
    pub src: MacAddr,
    /// VLAN tags; a third one and further ones are payload.
    pub tags: Tags,
    /// Type behind the tags, or a length if below 0x600.
    pub ethertype: u16,
    /// Where the payload begins: 14, 18 or 22.
    pub l3_offset: u8,
}

/// Why bytes are not an Ethernet frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// They end within the Ethernet header or a tag.
    #[error("the frame ends within its Ethernet header")]
    Runt,
}

impl Header {
    /// Reads the header of a frame from its first bytes; 22 are enough, all of a shorter frame.
    ///
    /// # Errors
    /// [`FrameError::Runt`] if `head` ends before the type field.
    #[inline]
    pub fn parse(head: &[u8]) -> Result<Header, FrameError> {
        let (dst, rest) = head.split_first_chunk().ok_or(FrameError::Runt)?;
        let (src, _) = rest.split_first_chunk().ok_or(FrameError::Runt)?;
        let mut tags = Tags::default();
        let mut at = 12;
        let mut ethertype = be16(head, at).ok_or(FrameError::Runt)?;
        for slot in &mut tags.list {
            if !is_vlan_tpid(ethertype) {
                break;
            }
            *slot = VlanTag {
                tpid: ethertype,
                tci: be16(head, at + 2).ok_or(FrameError::Runt)?,
            };
            tags.len += 1;
            at += 4;
            ethertype = be16(head, at).ok_or(FrameError::Runt)?;
        }
        Ok(Header {
            dst: MacAddr(*dst),
            src: MacAddr(*src),
            tags,
            ethertype,
            l3_offset: 14 + 4 * tags.len,
        })
    }

    /// The header of the same frame with a tag put in front of its own.
    #[inline]
    #[must_use]
    pub fn behind(self, tag: VlanTag) -> Header {
        let [first, second] = self.tags.list;
        let tags = |len| Tags {
            list: [tag, first],
            len,
        };
        match self.tags.len {
            2 => Header {
                tags: tags(2),
                ethertype: second.tpid,
                ..self
            },
            own => Header {
                tags: tags(own + 1),
                l3_offset: self.l3_offset + 4,
                ..self
            },
        }
    }

    /// The VLAN that the frame belongs to.
    #[inline]
    #[must_use]
    pub fn vlan(&self) -> Vlan {
        self.tags.outer().map_or(Vlan::NONE, Vlan::of_tag)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn untagged_tagged_and_double_tagged() {
        let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0, 0x45];
        let header = Header::parse(&frame).unwrap();
        assert_eq!(header.dst, MacAddr([2, 0, 0, 0, 0, 1]));
        assert_eq!(header.src, MacAddr([2, 0, 0, 0, 0, 2]));
        assert_eq!((header.ethertype, header.l3_offset), (0x800, 14));
        assert_eq!(header.tags.as_slice(), []);
        for (count, tpid) in [(1, 0x81), (2, 0x88), (2, 0x91)] {
            let low = if tpid == 0x88 { 0xa8 } else { 0 };
            frame.splice(12..12, [tpid, low, 0x60, 0x0a]);
            let header = Header::parse(&frame).unwrap();
            assert_eq!(header.tags.as_slice().len(), count);
            assert_eq!(
                header.tags.outer().unwrap().to_bytes(),
                [tpid, low, 0x60, 0x0a]
            );
            assert_eq!(usize::from(header.l3_offset), 14 + 4 * count);
        }
        assert_eq!(Header::parse(&frame).unwrap().ethertype, 0x8100);
    }

    #[test]
    fn a_frame_that_ends_in_its_header_is_a_runt() {
        let frame = [2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 0x81, 0, 0, 1, 8, 0];
        assert!(Header::parse(&frame).is_ok());
        for end in 0..frame.len() {
            assert_eq!(Header::parse(&frame[..end]), Err(FrameError::Runt), "{end}");
        }
    }

    proptest! {
        #[test]
        fn a_tag_in_front_is_read_as_if_it_had_been_there(
            own in proptest::collection::vec((0usize..3, any::<u16>()), 0..4),
            (tpid, tci) in (0usize..3, any::<u16>()),
            rest in proptest::collection::vec(any::<u8>(), 4..20),
        ) {
            let tag = |tpid: usize, tci| VlanTag { tpid: [0x8100, 0x88a8, 0x9100][tpid], tci };
            let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2];
            frame.extend(own.into_iter().flat_map(|(tpid, tci)| tag(tpid, tci).to_bytes()));
            frame.extend([8, 0]);
            frame.extend(rest);
            let header = Header::parse(&frame).unwrap();
            let tag = tag(tpid, tci);
            frame.splice(12..12, tag.to_bytes());
            let behind = header.behind(tag);
            let parsed = Header::parse(&frame).unwrap();
            prop_assert_eq!((behind.dst, behind.src, behind.ethertype, behind.l3_offset), (parsed.dst, parsed.src, parsed.ethertype, parsed.l3_offset));
            prop_assert_eq!(behind.tags.as_slice(), parsed.tags.as_slice());
        }

        #[test]
        fn parse_never_panics(head in proptest::collection::vec(any::<u8>(), 0..64)) {
            let parsed = Header::parse(&head);
            prop_assert!(parsed.is_ok() || head.len() < 22);
        }
    }
}
