//! Frames that wait until their flow has changed to the fast path, within the buffers that their VFs may have. Does not say which those are.

use std::collections::VecDeque;

use vf_model::{FastKey, Nanos, Tagging, VfIndex, VfSet};

use crate::queue::Frame;

/// A receive buffer of the plug-in's.
const BUFFER: usize = 2048;
/// Buffers of all VFs together, 64 MiB.
const BUFFERS: usize = (64 << 20) / BUFFER;

/// Frames that wait for their flow.
#[derive(Default)]
pub(super) struct Waiting {
    /// Received ones, in the order in which they came.
    pub(super) held: VecDeque<Held>,
    /// How many buffers they fill, and how many those of each VF.
    buffers: usize,
    of_vf: Vec<usize>,
    /// VFs of whose rings, or of what another worker has left of them, the first frame waits.
    pub(super) rings: VfSet,
    /// That frame, of VFs of other workers.
    remote: Vec<(VfIndex, Frame)>,
    /// When to try to send a marker for which there was no room.
    pub(super) marker_at: Option<Nanos>,
}

/// A received frame that waits.
pub(super) struct Held {
    pub(super) vf: VfIndex,
    pub(super) key: FastKey,
    pub(super) frame: Frame,
    pub(super) tagging: Tagging,
}

/// How many buffers a frame fills.
fn buffers(frame: &Frame) -> usize {
    frame.data.len().div_ceil(BUFFER).max(1)
}

impl Waiting {
    /// Gives a frame of a VF its buffers, if the VF may have so many; whether it has them.
    pub(super) fn take_buffers(&mut self, vf: VfIndex, frame: &Frame, limit: usize) -> bool {
        if self.of_vf.len() <= vf.index() {
            self.of_vf.resize(vf.index() + 1, 0);
        }
        let (wanted, of_vf) = (buffers(frame), &mut self.of_vf[vf.index()]);
        let fits = *of_vf + wanted <= limit && self.buffers + wanted <= BUFFERS;
        if fits {
            *of_vf += wanted;
            self.buffers += wanted;
        }
        fits
    }

    /// Takes them back.
    pub(super) fn give_buffers(&mut self, vf: VfIndex, frame: &Frame) {
        let given = buffers(frame);
        self.buffers -= given;
        if let Some(of_vf) = self.of_vf.get_mut(vf.index()) {
            *of_vf -= given;
        }
    }

    /// Keeps the first frame of a VF of another worker.
    pub(super) fn hold_remote(&mut self, vf: VfIndex, frame: Frame) {
        self.rings.insert(vf);
        self.remote.push((vf, frame));
    }

    /// Gives it back.
    pub(super) fn take_remote(&mut self, vf: VfIndex) -> Option<Frame> {
        let at = self.remote.iter().position(|(of, _)| *of == vf)?;
        Some(self.remote.swap_remove(at).1)
    }

    /// The VFs of which such a frame is kept.
    pub(super) fn remote(&self) -> VfSet {
        self.remote.iter().map(|(vf, _)| *vf).collect()
    }

    /// When something is to be done.
    pub(super) fn next(&self) -> Option<Nanos> {
        self.marker_at
    }
}
