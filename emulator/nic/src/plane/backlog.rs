//! Frames that wait, in order, for a guest to post buffers: on the mediated path, what of them a switch to the direct path
//! takes along, and what a late thread brings all at once. Never judges a frame; how much may wait is said by whoever adds
//! to it.

use std::collections::VecDeque;

use vf_model::{DropReason, Nanos};
use vf_vhost::frame::TagEdit;

use super::port::{Delivery, RxPort};
use crate::queue::Frame;
use crate::queue::PF_RING_BYTES;
use crate::queue::cost;

/// Bytes that are kept for a guest that has posted no buffers.
pub(super) const BACKLOG_BYTES: u64 = 1 << 20;
/// The same at a switch of paths: all that the hypervisor had not got to yet, and what comes until that is given.
pub(super) const BACKLOG_AT_SWITCH: u64 = BACKLOG_BYTES + PF_RING_BYTES;
/// Bytes that are kept for all guests of a plane together.
pub(super) const BACKLOGS_BYTES: u64 = 64 << 20;
/// How long a frame waits for a guest that has posted buffers, but not enough.
pub(super) const PATIENCE: Nanos = Nanos(100_000_000);

/// A frame that waits.
pub(super) struct Waiting {
    pub(super) frame: Frame,
    pub(super) edit: TagEdit,
    /// Its length after the edit.
    pub(super) len: u32,
    pub(super) queue: u16,
    /// The segments of a super-frame that the guest has.
    pub(super) segments: u32,
}

/// See the module.
#[derive(Default)]
pub(super) struct Backlog {
    frames: VecDeque<Waiting>,
    bytes: u64,
    /// Since when the first has been found not to fit.
    stuck: Option<Nanos>,
}

impl Backlog {
    /// Adds a frame behind all that wait.
    pub(super) fn push(&mut self, waiting: Waiting) {
        self.bytes += cost(&waiting.frame);
        self.frames.push_back(waiting);
    }

    /// Bytes that wait.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(super) fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }

    /// When the first is given up if nothing changes; what is past has been tried, and waits for a kick.
    pub(super) fn due(&self) -> Option<Nanos> {
        let stuck = self.stuck.filter(|_| !self.frames.is_empty())?;
        Some(stuck + PATIENCE)
    }

    /// Gives all of them up.
    pub(super) fn drain(&mut self) -> impl Iterator<Item = Waiting> {
        (self.stuck, self.bytes) = (None, 0);
        self.frames.drain(..)
    }
}

impl RxPort {
    /// The first of those that wait, if it waits no longer, and what has become of it. A frame for which the buffers that there
    /// are have not been enough for a while never fits; it must not hold up those behind it. Of a super-frame that goes on
    /// waiting more segments than before may have been delivered: `progress`.
    pub(super) fn next_waiting(
        &mut self,
        now: Nanos,
        progress: &mut bool,
    ) -> Option<(Waiting, Delivery)> {
        let mut waiting = self.backlog.frames.pop_front()?;
        let Waiting {
            frame,
            edit,
            len,
            queue,
            segments,
        } = &waiting;
        let mut delivery = self.deliver(*queue, frame, *edit, *len, *segments);
        if let Delivery::Partial(segments) = delivery {
            if segments > waiting.segments {
                waiting.segments = segments;
                *progress = true;
                self.backlog.stuck = None;
            }
            delivery = Delivery::Dropped(DropReason::NoRxBuffer);
        }
        if matches!(delivery, Delivery::Dropped(DropReason::NoRxBuffer)) {
            let stuck = *self.backlog.stuck.get_or_insert(now);
            if now < stuck + PATIENCE || !self.has_room() {
                self.backlog.frames.push_front(waiting);
                return None;
            }
        }
        self.backlog.bytes -= cost(&waiting.frame);
        self.backlog.stuck = None;
        Some((waiting, delivery))
    }
}
