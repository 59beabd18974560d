//! A frame in private memory, and the one change that may be made to a frame on its way: a VLAN
//! tag put in or taken out.
//!
//! Never refers to guest memory.

#![expect(clippy::indexing_slicing, reason = "bounds are checked just before")]

use vf_packet::Offload;

use crate::limits::{HEAD_MAX, TAGGED_HEADERS_MAX};

/// A frame in private memory: what a wire queue or the hypervisor's pool holds. Reuse it: the
/// buffer grows to the longest frame it ever held and is never shrunk by this crate.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FrameBuf {
    /// What is still to be done to the frame (checksum, segmentation).
    pub offload: Offload,
    /// The L2 frame without FCS.
    pub data: Vec<u8>,
}

impl FrameBuf {
    /// The first (at most [`HEAD_MAX`]) bytes: what decisions are made on.
    pub fn head(&self) -> &[u8] {
        self.data.get(..HEAD_MAX).unwrap_or(&self.data)
    }

    /// The bytes in which all headers of a super-frame are, a tag that has been put in front of them among them.
    pub fn headers(&self) -> &[u8] {
        self.data.get(..TAGGED_HEADERS_MAX).unwrap_or(&self.data)
    }

    /// Length of the frame in bytes, without FCS.
    #[must_use]
    pub fn len(&self) -> u32 {
        u32::try_from(self.data.len()).unwrap_or(u32::MAX)
    }

    /// Whether there is no frame in here.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.data.is_empty()
    }

    /// Puts a tag into the frame or takes it out, and moves what is counted from its first byte.
    #[inline]
    pub fn edit(&mut self, edit: TagEdit) {
        if edit != TagEdit::Keep {
            self.change_tag(edit);
        }
    }

    fn change_tag(&mut self, edit: TagEdit) {
        let delta = edit.delta(&self.data);
        match edit {
            TagEdit::Insert(tag) if delta > 0 => {
                self.data.splice(TAG_AT..TAG_AT, tag);
            }
            TagEdit::Strip if delta < 0 => {
                self.data.drain(TAG_AT..TAG_AT + 4);
            }
            _ => return,
        }
        self.offload = self.offload.moved(delta);
    }
}

/// What happens to the VLAN tag at offset 12 when a frame is written to a receiver. The caller
/// knows from the frame's header that there is a tag to strip.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum TagEdit {
    /// The frame stays as it is.
    #[default]
    Keep,
    /// These four bytes (TPID, TCI) go in front of the EtherType.
    Insert([u8; 4]),
    /// The four bytes at offset 12 are left out; a frame shorter than 18 bytes stays as it is.
    Strip,
}

/// Offset of the EtherType, or of the outermost VLAN tag.
pub(crate) const TAG_AT: usize = 12;

impl TagEdit {
    /// Bytes by which the frame grows, for a frame that starts with `head`.
    pub(crate) fn delta(self, head: &[u8]) -> i16 {
        match self {
            TagEdit::Insert(_) if head.len() >= TAG_AT => 4,
            TagEdit::Strip if head.len() >= TAG_AT + 6 => -4,
            _ => 0,
        }
    }

    /// `head` as up to three pieces, edited.
    pub(crate) fn pieces<'a>(&'a self, head: &'a [u8]) -> [&'a [u8]; 3] {
        match self {
            TagEdit::Insert(tag) if head.len() >= TAG_AT => [&head[..TAG_AT], tag, &head[TAG_AT..]],
            TagEdit::Strip if head.len() >= TAG_AT + 6 => {
                [&head[..TAG_AT], &[], &head[TAG_AT + 4..]]
            }
            _ => [head, &[], &[]],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn insert_then_strip_is_the_frame() {
        let frame: Vec<u8> = (0..60).collect();
        let tag = TagEdit::Insert([0x81, 0, 0, 5]);
        let tagged = tag.pieces(&frame).concat();
        assert_eq!(tagged.len(), 64);
        assert_eq!(tagged[12..16], [0x81, 0, 0, 5]);
        assert_eq!(TagEdit::Strip.pieces(&tagged).concat(), frame);
        assert_eq!(TagEdit::Keep.pieces(&frame).concat(), frame);
    }

    #[test]
    fn delta_is_what_pieces_do_at_any_length() {
        for len in 0..24u8 {
            let head: Vec<u8> = (0..len).collect();
            for edit in [TagEdit::Keep, TagEdit::Insert([1; 4]), TagEdit::Strip] {
                let now = edit.pieces(&head).concat().len() as i32;
                assert_eq!(
                    now,
                    i32::from(len) + i32::from(edit.delta(&head)),
                    "{edit:?} {len}"
                );
            }
        }
    }
}
