//! The physical function's queues between a NIC and its hypervisor: bounded, lock-free, one each way. All workers of the NIC
//! may fill the one; one of them empties the other.

use std::sync::Arc;

use vf_model::Onward;

use super::doorbell::Doorbell;
use super::frame_queue::{FrameQueue, cost};
use super::pool::Frame;

/// Frames the PF's receive ring holds, as a NIC driver of the hypervisor would post buffers.
pub(crate) const PF_RING: usize = 4096;
/// The same in bytes.
pub(crate) const PF_RING_BYTES: u64 = 8 << 20;

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
    out: Arc<FrameQueue<PfFrame>>,
    inward: Arc<FrameQueue<PfFrame>>,
    peer: Option<Doorbell>,
}

impl PfEnd {
    /// The NIC's end and the hypervisor's end.
    #[must_use]
    pub fn pair() -> (PfEnd, PfEnd) {
        let up = Arc::new(FrameQueue::new(PF_RING, PF_RING_BYTES));
        let down = Arc::new(FrameQueue::new(PF_RING, PF_RING_BYTES));
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
        let cost = cost(&frame);
        let sent = self.out.push(cost, PfFrame { frame, onward });
        sent.map_err(|lost| lost.frame)?;
        if let Some(peer) = &self.peer {
            peer.ring();
        }
        Ok(())
    }

    /// The next frame from the other side.
    #[must_use]
    pub(crate) fn receive(&self) -> Option<PfFrame> {
        self.inward.pop().map(|(frame, _)| frame)
    }

    /// Whether frames wait here.
    #[must_use]
    pub fn has_input(&self) -> bool {
        !self.inward.is_empty()
    }
}
