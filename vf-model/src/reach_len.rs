//! Who does not get a frame for its length: what an MTU of the port or of a VF keeps from those whom a frame reaches. Never decides whom
//! it reaches.

use vf_packet::{FrameMeta, Header, MAX_FRAME};

use crate::mtu::Mtu;
use crate::policy::Policy;
use crate::reach::{Origin, Reach};
use crate::source::Source;
use crate::stats::DropReason;
use crate::verdict::Verdict;
use crate::vf::{VfIndex, VfSet};
use crate::why::{Probe, Step};

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

impl Policy {
    /// What holds for a frame where it enters the host; later it may have grown by a tag.
    #[inline]
    pub(crate) fn check_len(meta: &FrameMeta) -> Result<(), DropReason> {
        if meta.longest() > MAX_FRAME || meta.len > MAX_SUPER_FRAME {
            return Err(DropReason::Oversize);
        }
        Ok(())
    }

    /// Whether a frame has to be asked for MTUs.
    #[inline]
    pub(crate) fn is_long(&self, meta: &FrameMeta) -> bool {
        meta.longest() > self.lookup().fits_all
    }

    /// Leaves out those for whom the frame is too long, and adds the VFs to which is copied what others send and receive.
    #[inline(always)]
    pub(crate) fn finish(
        &self,
        reach: &mut Reach,
        origin: Origin,
        header: &Header,
        meta: &FrameMeta,
        probe: &mut impl Probe,
    ) {
        let long = self.is_long(meta);
        if long {
            self.take_unfit(reach, header, meta, probe);
        }
        if !self.lookup().mirrors.is_empty() || !reach.copies.is_empty() {
            self.mirror_copies(reach, origin, probe);
            if long {
                self.take_unfit(reach, header, meta, probe);
            }
        }
    }

    /// Takes out of those that a frame reaches whose MTU it exceeds, VFs and the port; stations on the PF's bridge are asked when
    /// that has said which of them it is for. `header` is the frame's as it was sent: an MTU counts no tags, so one more or less
    /// changes nothing.
    #[cold]
    fn take_unfit(
        &self,
        reach: &mut Reach,
        header: &Header,
        meta: &FrameMeta,
        probe: &mut impl Probe,
    ) {
        let reached = reach.direct.union(reach.mediated);
        let vfs = reached.difference(self.lookup().stations);
        let vfs = self.unfit(vfs, tags_of(header), meta);
        let port = reach.wire && self.mtu().is_exceeded(tags_of(header), meta);
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
        let sender = match source {
            Source::Vf(vf) => self.tx_mtu(vf),
            Source::Wire => self.mtu(),
        };
        let port = (verdict.wire || verdict.wire_beyond).then(|| self.mtu());
        let vfs = verdict.vfs.union(verdict.beyond).iter();
        let receivers = vfs.map(|vf| self.rx_mtu(vf)).chain(port);
        let longest = receivers.fold(sender, Mtu::min).longest(tags_of(header));
        longest.min(MAX_FRAME)
    }

    /// What holds for a frame where it comes from the wire.
    #[inline]
    pub(crate) fn check_arrival(
        &self,
        header: &Header,
        meta: &FrameMeta,
    ) -> Result<(), DropReason> {
        Policy::check_len(meta)?;
        match self.is_long(meta) && self.mtu().is_exceeded(tags_of(header), meta) {
            true => Err(DropReason::MtuExceeded),
            false => Ok(()),
        }
    }
}
