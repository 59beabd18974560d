//! The physical function's queues between a NIC and its hypervisor: bounded, lock-free, one each way. All workers of the NIC
//! may fill the one; one of them empties the other.

use std::sync::Arc;

use crossbeam_queue::ArrayQueue;
use vf_vhost::frame::FrameBuf;

use super::doorbell::Doorbell;

/// Frames the PF's receive ring holds, as a NIC driver of the hypervisor would post buffers.
pub(super) const PF_RING: usize = 4096;

/// One side's end of the PF queues.
pub struct PfEnd {
    out: Arc<ArrayQueue<FrameBuf>>,
    inward: Arc<ArrayQueue<FrameBuf>>,
    peer: Option<Doorbell>,
}

impl PfEnd {
    /// The NIC's end and the hypervisor's end.
    #[must_use]
    pub fn pair() -> (PfEnd, PfEnd) {
        let up = Arc::new(ArrayQueue::new(PF_RING));
        let down = Arc::new(ArrayQueue::new(PF_RING));
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
            inward: Arc::new(ArrayQueue::new(1)),
            peer: self.peer.clone(),
        }
    }

    /// Names the thread at the other end, to be woken when a frame is sent.
    pub fn set_peer(&mut self, bell: Doorbell) {
        self.peer = Some(bell);
    }

    /// Hands a frame over, or gives it back when the other side's ring is full.
    pub fn send(&self, frame: FrameBuf) -> Result<(), FrameBuf> {
        self.out.push(frame)?;
        if let Some(peer) = &self.peer {
            peer.ring();
        }
        Ok(())
    }

    /// The next frame from the other side.
    #[must_use]
    pub fn receive(&self) -> Option<FrameBuf> {
        // To find nothing costs a fence in a pop, and none here.
        if self.inward.is_empty() {
            return None;
        }
        self.inward.pop()
    }

    /// Whether frames wait here.
    #[must_use]
    pub fn has_input(&self) -> bool {
        !self.inward.is_empty()
    }
}
