//! What a driver has left to the device to do to a frame, in nobody's format: a virtio-net header says it, and the descriptors of
//! hardware NICs do. Never judges: who makes one of it has checked it against the frame.

use serde::{Deserialize, Serialize};

use crate::Gso;

/// What is still to be done to a frame. By default nothing.
///
/// One flat value whose flags are read first, not two options: those are copied with tag and content in one, and a core that has
/// just written them separately waits for that (ARCHITECTURE.md, Performance).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Offload {
    flags: u8,
    start: u16,
    offset: u16,
    header_len: u16,
    size: u16,
}

/// A checksum of which a pseudo-header's sum is there (Linux: `CHECKSUM_PARTIAL`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PartialChecksum {
    /// Where the checksummed bytes start, from the first byte of the frame.
    pub start: u16,
    /// Where the checksum goes, from `start`.
    pub offset: u16,
}

/// TCP segmentation offload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segmentation {
    /// Over IPv6, else IPv4.
    pub v6: bool,
    /// The TCP header has ECN flags that only the first segment may have.
    pub ecn: bool,
    /// How it is cut.
    pub gso: Gso,
}

const CHECKSUM: u8 = 1;
const SEGMENTATION: u8 = 2;
const V6: u8 = 4;
const ECN: u8 = 8;

impl Offload {
    /// A checksum that is not complete, and how the frame becomes those that a wire carries if it is a super-frame; then the
    /// checksum is its TCP checksum.
    #[must_use]
    pub fn new(checksum: Option<PartialChecksum>, segmentation: Option<Segmentation>) -> Offload {
        let mut offload = Offload::default();
        if let Some(PartialChecksum { start, offset }) = checksum {
            offload.flags = CHECKSUM;
            (offload.start, offload.offset) = (start, offset);
        }
        if let Some(Segmentation { v6, ecn, gso }) = segmentation {
            let v6 = if v6 { V6 } else { 0 };
            let ecn = if ecn { ECN } else { 0 };
            offload.flags |= SEGMENTATION | v6 | ecn;
            (offload.header_len, offload.size) = (gso.header_len, gso.size);
        }
        offload
    }

    /// Whether nothing is to be done.
    #[inline]
    #[must_use]
    pub fn is_none(&self) -> bool {
        self.flags == 0
    }

    /// The checksum that is not complete.
    #[inline]
    #[must_use]
    pub fn checksum(&self) -> Option<PartialChecksum> {
        (self.flags & CHECKSUM != 0).then_some(PartialChecksum {
            start: self.start,
            offset: self.offset,
        })
    }

    /// How the frame is cut and what it is, if it is a super-frame.
    #[inline]
    #[must_use]
    pub fn segmentation(&self) -> Option<Segmentation> {
        self.gso().map(|gso| Segmentation {
            v6: self.flags & V6 != 0,
            ecn: self.flags & ECN != 0,
            gso,
        })
    }

    /// How the frame is cut, if it is a super-frame.
    #[inline]
    #[must_use]
    pub fn gso(&self) -> Option<Gso> {
        (self.flags & SEGMENTATION != 0).then_some(Gso {
            header_len: self.header_len,
            size: self.size,
        })
    }

    /// The same after the frame has grown (`delta` = 4) or shrunk (-4) by a VLAN tag in its Ethernet header.
    #[inline]
    #[must_use]
    pub fn moved(mut self, delta: i16) -> Offload {
        if self.flags & CHECKSUM != 0 {
            self.start = self.start.saturating_add_signed(delta);
        }
        if self.flags & SEGMENTATION != 0 {
            self.header_len = self.header_len.saturating_add_signed(delta);
        }
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tag_moves_what_is_counted_from_the_first_byte() {
        let of = |start, header_len| {
            let checksum = PartialChecksum { start, offset: 16 };
            let gso = Gso {
                header_len,
                size: 1448,
            };
            let segmentation = Segmentation {
                v6: false,
                ecn: true,
                gso,
            };
            let offload = Offload::new(Some(checksum), Some(segmentation));
            assert_eq!(offload.checksum(), Some(checksum));
            assert_eq!(offload.segmentation(), Some(segmentation));
            assert_eq!(Offload::new(Some(checksum), None).segmentation(), None);
            offload
        };
        assert_eq!(of(34, 66).moved(4), of(38, 70));
        assert_eq!(of(38, 70).moved(-4), of(34, 66));
        assert_eq!(Offload::default().moved(4), Offload::default());
    }
}
