//! Which frames are flooded, as far as storm control is concerned, and as how many they count. Counts none of them.

use vf_packet::{FrameMeta, Header, MacAddr, OnWire, Vlan};

use crate::policy::Policy;
use crate::rate::StormControl;
use crate::source::Source;
use crate::verdict::Verdict;

/// The longest frame where nobody has asked for jumbo frames, without its FCS.
const USUAL_LEN: u64 = 1518;

/// A frame that is flooded, and of whose kind only so many may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Flooded {
    /// How many a second may be; `None`: none of this one, and any number of others.
    pub(crate) limit: Option<u32>,
    /// As how many frames it counts.
    pub(crate) frames: u64,
}

impl Flooded {
    /// Whether it does not pass however few there were of late.
    pub(crate) fn is_too_much(&self) -> bool {
        self.limit.is_none() || StormControl::is_too_much(self.frames)
    }
}

impl Policy {
    /// What storm control makes of a frame that is judged so, if it looks at it: broadcasts that reach others here, and frames to groups
    /// that do, unless one of them alone has listed the group.
    pub(crate) fn flooded(
        &self,
        source: Source,
        head: &[u8],
        meta: &FrameMeta,
        verdict: &Verdict,
    ) -> Option<Flooded> {
        if !MacAddr::of_frame(head).is_multicast() {
            return None;
        }
        let limit = match source {
            Source::Vf(vf) => self.vf(vf).storm_control.limit(),
            Source::Wire => self.storm_control().limit(),
        };
        // No stack sends TCP to many, whose segments are what a receiver each has to be given: what comes from outside has no sender here
        // whose limit an administrator could have taken away.
        let segments = OnWire::of(meta).segments;
        let is_bomb = source == Source::Wire && StormControl::is_too_much(segments);
        if limit.is_none() && !is_bomb {
            return None;
        }
        let header = Header::parse(head).ok()?;
        let vlan = verdict.insert.map_or(header.vlan(), Vlan::of_tag);
        let here = verdict.vfs.union(verdict.beyond);
        // A group that one other has listed is that VF's own; one that all have, as that of all nodes, is another way to say broadcast.
        let is_ones = || {
            let mut listed = self.lookup().listed(header.dst, vlan);
            if let Source::Vf(vf) = source {
                listed.remove(vf);
            }
            listed.only().is_some()
        };
        if here.is_empty() || !header.dst.is_broadcast() && is_ones() {
            return None;
        }
        // Each receiver that takes no super-frames gets all of its segments; a jumbo frame is as much to copy as some of the usual length.
        let frames = segments.max(u64::from(meta.len).div_ceil(USUAL_LEN));
        Some(Flooded { limit, frames })
    }
}
