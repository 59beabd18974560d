//! Who does not get a frame for its length: what an MTU of the port or of a VF keeps from those whom a frame reaches. Never decides whom
//! it reaches.

use vf_packet::{FrameMeta, Header, MAX_FRAME, is_vlan_tpid};

use crate::mtu::{Mtu, TAG};
use crate::policy::Policy;
use crate::probe::{Probe, Step};
use crate::reach::{Origin, Reach};
use crate::source::Source;
use crate::stats::DropReason;
use crate::verdict::Verdict;
use crate::vf::{VfIndex, VfSet};

/// Longest super-frame that a virtio header can describe, with room for tags.
pub(crate) const MAX_SUPER_FRAME: u32 = 65_535 + 14 + 8;

/// Who does not get a frame that it reaches: as it is too long for the MTU there, or as their drivers have filters that drop it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Unfit {
    /// VFs for which it is too long.
    pub(crate) vfs: VfSet,
    /// Whether it is too long for the port.
    pub(crate) port: bool,
    /// VFs whose drivers drop it.
    pub(crate) dropped: VfSet,
    /// Whether drivers were asked at all: another frame with the same header may fare otherwise.
    pub(crate) asked: bool,
}

impl Unfit {
    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        !self.port && self.vfs.is_empty() && !self.asked
    }
}

/// How many tags a frame's MTU does not count.
#[inline]
pub(crate) fn tags_of(header: &Header) -> usize {
    header.tags.as_slice().len()
}

/// The same of a frame that has come from elsewhere. As it was sent there it had two tags at most that count, of which a port VLAN's in
/// front makes the last look like payload.
#[inline]
pub(crate) fn tags_of_arrival(header: &Header) -> usize {
    tags_of(header) + usize::from(is_vlan_tpid(header.ethertype))
}

impl Policy {
    /// What holds for a frame that is sent here; later it may have grown by a tag.
    #[inline]
    pub(crate) fn check_len(meta: &FrameMeta) -> Result<(), DropReason> {
        Policy::check_len_with(meta, 0)
    }

    /// The same of a frame that may have grown by so many bytes already.
    #[inline]
    fn check_len_with(meta: &FrameMeta, grown: u32) -> Result<(), DropReason> {
        if meta.longest() > MAX_FRAME + grown || meta.len > MAX_SUPER_FRAME + grown {
            return Err(DropReason::Oversize);
        }
        Ok(())
    }

    /// Whether a frame has to be asked for MTUs.
    #[inline]
    pub(crate) fn is_long(&self, meta: &FrameMeta) -> bool {
        meta.longest() > self.lookup().fits_all
    }

    /// Leaves out those for whom the frame is too long, of whose tags so many do not count, and adds the VFs to which is copied what others send and receive.
    #[inline(always)]
    pub(crate) fn finish(
        &self,
        reach: &mut Reach,
        origin: Origin,
        tags: usize,
        meta: &FrameMeta,
        probe: &mut impl Probe,
    ) {
        let long = self.is_long(meta);
        if long {
            self.take_unfit(reach, tags, meta, probe);
        }
        if !self.lookup().mirrors.is_empty() || !reach.copies.is_empty() {
            self.mirror_copies(reach, origin, probe);
            if long {
                self.take_unfit(reach, tags, meta, probe);
            }
        }
    }

    /// Takes out of those that a frame reaches whose MTU it exceeds, VFs and the port; stations on the PF's bridge are asked when
    /// that has said which of them it is for. `tags` are the frame's as it was sent: an MTU counts none, so one more or less changes
    /// nothing.
    #[cold]
    fn take_unfit(&self, reach: &mut Reach, tags: usize, meta: &FrameMeta, probe: &mut impl Probe) {
        let reached = reach.direct.union(reach.mediated);
        let vfs = reached.difference(self.lookup().stations);
        let vfs = self.unfit(vfs, tags, meta);
        let port = reach.wire && self.mtu().is_exceeded(tags, meta);
        if vfs.is_empty() && !port {
            return;
        }
        probe.note(|| Step::TooLong { vfs, port });
        reach.direct = reach.direct.difference(vfs);
        reach.mediated = reach.mediated.difference(vfs);
        reach.wire &= !port;
        reach.unfit.vfs = reach.unfit.vfs.union(vfs);
        reach.unfit.port |= port;
    }

    /// Those of `vfs` that are not to get a frame of this length with so many tags.
    pub(crate) fn unfit(&self, vfs: VfSet, tags: usize, meta: &FrameMeta) -> VfSet {
        let unfit = |vf: &VfIndex| self.rx_mtu(*vf).is_exceeded(tags, meta);
        match self.is_long(meta) {
            true => vfs.iter().filter(unfit).collect(),
            false => VfSet::default(),
        }
    }

    /// Length up to which another frame with this header has the same verdict.
    pub(crate) fn longest_alike(&self, source: Source, header: &Header, verdict: &Verdict) -> u32 {
        let (sender, tags) = match source {
            Source::Vf(vf) => (self.tx_mtu(vf), tags_of(header)),
            Source::Wire => (self.mtu(), tags_of_arrival(header)),
        };
        let port = (verdict.wire || verdict.wire_beyond).then(|| self.mtu());
        let vfs = verdict.vfs.union(verdict.beyond).iter();
        let receivers = vfs.map(|vf| self.rx_mtu(vf)).chain(port);
        let longest = receivers.fold(sender, Mtu::min).longest(tags);
        longest.min(MAX_FRAME)
    }

    /// What holds for a frame where it comes from the wire.
    #[inline]
    pub(crate) fn check_arrival(
        &self,
        header: &Header,
        meta: &FrameMeta,
    ) -> Result<(), DropReason> {
        Policy::check_len_with(meta, TAG)?;
        let tags = tags_of_arrival(header);
        match self.is_long(meta) && self.mtu().is_exceeded(tags, meta) {
            true => Err(DropReason::MtuExceeded),
            false => Ok(()),
        }
    }
}
