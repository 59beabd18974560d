//! What is held back of what impaired VFs are to get, until it is due. What becomes of it meanwhile is [`crate::netem`]'s. Never judges a
//! frame.

use vf_model::{Judge, Nanos, Policy, TagEdit, VfIndex};
use vf_vhost::rx::{BURST_EFFORT, EFFORTLESS};

use super::super::port::bytes_of;
use super::{FrameSource, Receivers};
use crate::netem::{Counters, NetemQueue};

/// Frames that an impaired VF is given in a round at most.
const BURST: usize = 256;

impl Receivers {
    /// Which NIC of its process it is.
    pub(in crate::plane) fn set_nic(&mut self, nic: usize) {
        self.impaired.set_nic(nic);
    }

    /// Impairs what VFs are to get as a policy says.
    pub(in crate::plane) fn adopt(&mut self, policy: &Policy) {
        self.impaired.adopt(policy);
        for vf in (0..self.ports.len()).map(VfIndex::from) {
            self.note_impaired(vf);
        }
    }

    /// What impairments have done to what each VF was to get.
    pub(in crate::plane) fn impaired_counters(&self) -> &[Counters] {
        self.impaired.counters()
    }

    /// Frames of impaired VFs go one by one, as those of which some wait for buffers.
    fn note_impaired(&mut self, vf: VfIndex) {
        let impaired = self.impaired.vfs().contains(vf);
        self.ports[vf.index()].impaired = impaired;
        if impaired {
            self.patient.insert(vf);
        }
    }

    /// What is held back of what `vf` is to get, for whoever gets its rings.
    pub(in crate::plane) fn take_impaired(
        &mut self,
        vf: VfIndex,
    ) -> Option<Box<NetemQueue<TagEdit>>> {
        let taken = self.impaired.take(vf);
        self.note_impaired(vf);
        taken
    }

    /// The same, from who had them.
    pub(in crate::plane) fn give_impaired(
        &mut self,
        vf: VfIndex,
        queue: Option<Box<NetemQueue<TagEdit>>>,
    ) {
        self.impaired.give(vf, queue);
        self.note_impaired(vf);
    }

    /// When something is due that is held back.
    pub(in crate::plane) fn impaired_next(&self) -> Option<Nanos> {
        self.impaired.next()
    }

    /// Whether frames to impaired VFs are held back.
    pub(in crate::plane) fn holds_back(&self) -> bool {
        !self.impaired.is_empty()
    }

    /// Holds back a frame to an impaired VF, unless something else becomes of it.
    #[cold]
    pub(super) fn impair(
        &mut self,
        model: &mut impl Judge,
        vf: VfIndex,
        edit: TagEdit,
        source: FrameSource<'_>,
    ) {
        let frame = source.copy(&self.pool);
        self.load.copies.add(1);
        let mut lost = Vec::new();
        if let Some(queue) = self.impaired.of(vf) {
            let mut lose = |why, frame| lost.push((why, frame));
            let segments = queue.put_any(self.now, frame, edit, |_| edit, &self.pool, &mut lose);
            self.effort += segments.saturating_sub(EFFORTLESS);
        }
        for (why, frame) in lost {
            let queue = self.ports[vf.index()].queue_of(model, vf, frame.head());
            let source = FrameSource::Private(&frame);
            self.capture(model, vf, queue, source, bytes_of(edit), Some(why));
            model.count_rx_drop(vf, why);
            self.pool.give(frame);
        }
    }

    /// Gives impaired VFs what is due to them by now; how many frames.
    pub(super) fn release(&mut self, model: &mut impl Judge) -> usize {
        let mut moved = 0;
        let vfs = *self.impaired.vfs();
        for vf in vfs.iter() {
            let enough = self.effort + BURST_EFFORT;
            if let Some(queue) = self.impaired.of(vf) {
                queue.look(self.now);
            }
            for _ in 0..BURST {
                if self.effort >= enough {
                    break;
                }
                let due = self.impaired.of(vf).and_then(NetemQueue::pop);
                let Some((frame, edit)) = due else { break };
                self.deliver_now(model, vf, edit, FrameSource::Private(&frame));
                self.pool.give(frame);
                moved += 1;
            }
            if self.impaired.end(vf) {
                self.note_impaired(vf);
            }
        }
        moved
    }
}
