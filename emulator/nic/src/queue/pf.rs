//! The physical function's queues between a NIC and its hypervisor: bounded, lock-free, one each way. All workers of the NIC
//! may fill the one; one of them empties the other.

use std::sync::Arc;

use vf_model::{MacAddr, Onward};

use super::doorbell::Doorbell;
use super::frame_queue::{FrameQueue, cost};
use super::pool::Frame;

/// Frames the PF's receive ring holds, as a NIC driver of the hypervisor would post buffers.
pub(crate) const PF_RING: usize = 4096;
/// The same in bytes.
pub(crate) const PF_RING_BYTES: u64 = 8 << 20;

/// What passes between the two planes.
pub(crate) enum PfItem {
    /// A frame.
    Frame(PfFrame),
    /// What the NIC sends up behind all frames that it has sent, and the hypervisor sends back behind all that has become of
    /// them: with this number, one at a time.
    Marker(u64),
    /// What the hypervisor has heard a guest announce.
    Announced(MacAddr),
}

/// A frame between the two planes, with what was said of it on the one that it comes from: it is not judged again by rules
/// that are newer.
pub(crate) struct PfFrame {
    /// As the PF sees it.
    pub(crate) frame: Frame,
    /// What is left to do with it.
    pub(crate) onward: Onward,
}

/// One side's end of the PF queues.
pub struct PfEnd {
    out: Arc<FrameQueue<PfItem>>,
    inward: Arc<FrameQueue<PfItem>>,
    peer: Option<Doorbell>,
}

impl PfEnd {
    /// The NIC's end and the hypervisor's end.
    #[must_use]
    pub fn pair() -> (PfEnd, PfEnd) {
        // A place beyond those of frames is the marker's.
        let up = Arc::new(FrameQueue::new(PF_RING + 1, PF_RING_BYTES));
        let down = Arc::new(FrameQueue::new(PF_RING + 1, PF_RING_BYTES));
        let nic = PfEnd {
            out: Arc::clone(&up),
            inward: Arc::clone(&down),
            peer: None,
        };
        let hypervisor = PfEnd {
            out: down,
            inward: up,
            peer: None,
        };
        (nic, hypervisor)
    }

    /// An end that shares the way out with this one and has nothing come in: for a worker that only sends.
    #[must_use]
    pub fn sender(&self) -> PfEnd {
        PfEnd {
            out: Arc::clone(&self.out),
            inward: Arc::new(FrameQueue::new(1, 0)),
            peer: self.peer.clone(),
        }
    }

    /// Names the thread at the other end, to be woken when a frame is sent.
    pub fn set_peer(&mut self, bell: Doorbell) {
        self.peer = Some(bell);
    }

    /// Hands a frame over, or gives it back when the other side's ring is full.
    pub(crate) fn send(&self, frame: Frame, onward: Onward) -> Result<(), Frame> {
        if self.out.len() >= PF_RING {
            return Err(frame);
        }
        let cost = cost(&frame);
        match self.push(cost, PfItem::Frame(PfFrame { frame, onward })) {
            Err(PfItem::Frame(lost)) => Err(lost.frame),
            _ => Ok(()),
        }
    }

    /// Sends a marker; false if there is no room even for that.
    pub(crate) fn send_marker(&self, number: u64) -> bool {
        self.push(0, PfItem::Marker(number)).is_ok()
    }

    /// Says what a guest has announced; it is only a hint, and lost when the other side's ring is full.
    pub(crate) fn announce(&self, mac: MacAddr) {
        if self.out.len() < PF_RING {
            let _ = self.push(0, PfItem::Announced(mac));
        }
    }

    fn push(&self, cost: u64, item: PfItem) -> Result<(), PfItem> {
        self.out.push(cost, item)?;
        if let Some(peer) = &self.peer {
            peer.ring();
        }
        Ok(())
    }

    /// What comes next from the other side.
    #[must_use]
    pub(crate) fn receive(&self) -> Option<PfItem> {
        self.inward.pop().map(|(item, _)| item)
    }

    /// Whether frames wait here.
    #[must_use]
    pub fn has_input(&self) -> bool {
        !self.inward.is_empty()
    }
}
