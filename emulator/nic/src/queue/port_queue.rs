//! The way to the port for workers that do not have it: a bounded, lock-free queue for each of their VFs, so that VFs that wait
//! for the wire get their share wherever they are served. A VF whose queue is full keeps its frame; what cannot wait is kept
//! here, up to a bound. Never judges a frame.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use vf_model::{VfIndex, VfSet};

use super::cross_queue::worker_of;
use super::doorbell::Doorbell;
use super::frame_queue::{FrameQueue, cost};
use super::pool::Frame;

/// Frames of one VF that wait for the port's worker; as many more are kept that could not wait.
pub(crate) const VF_QUEUE: usize = 256;
/// The same in bytes.
pub(crate) const VF_QUEUE_BYTES: u64 = 1 << 20;

/// A frame for the port.
pub(crate) struct ForPort {
    pub(crate) frame: Frame,
    /// Its worker has left it to the port's to say which way it takes, and to count it.
    pub(crate) undecided: bool,
}

impl From<Frame> for ForPort {
    /// One that has been decided.
    fn from(frame: Frame) -> ForPort {
        let undecided = false;
        ForPort { frame, undecided }
    }
}

/// What all workers of a NIC share.
struct PortQueues {
    /// By VF; none for those of the port's own worker.
    queues: Vec<Option<FrameQueue<ForPort>>>,
    /// A bit for each VF whose queue has been filled since the port's worker last looked.
    filled: [AtomicU64; 4],
}

impl PortQueues {
    fn of(&self, vf: VfIndex) -> Option<&FrameQueue<ForPort>> {
        self.queues.get(vf.index())?.as_ref()
    }
}

/// The end of a worker without the port.
pub(crate) struct PortQueueTx {
    queues: Arc<PortQueues>,
    /// What was sent while its VF's queue was full, by VF: a change of paths or a ring that stops cannot wait.
    forced: BTreeMap<VfIndex, Forced>,
    filled: VfSet,
    bell: Option<Doorbell>,
}

/// Frames of a VF that are behind a full queue.
#[derive(Default)]
struct Forced {
    frames: VecDeque<ForPort>,
    bytes: u64,
}

/// The end of the worker that has the port.
pub(crate) struct PortQueueRx {
    queues: Arc<PortQueues>,
    /// VFs in whose queues frames were left.
    waiting: VfSet,
    /// By worker.
    bells: Vec<Doorbell>,
}

/// The ends of the port's worker, which is the first, and of the others.
pub(crate) fn port_queues(vfs: usize, workers: usize) -> (PortQueueRx, Vec<PortQueueTx>) {
    let queues = (0..vfs).map(VfIndex::from).map(|vf| {
        let foreign = worker_of(vf, workers) != 0;
        foreign.then(|| FrameQueue::new(VF_QUEUE, VF_QUEUE_BYTES))
    });
    let queues = Arc::new(PortQueues {
        queues: queues.collect(),
        filled: Default::default(),
    });
    let others = (1..workers).map(|_| PortQueueTx {
        queues: Arc::clone(&queues),
        forced: BTreeMap::new(),
        filled: VfSet::default(),
        bell: None,
    });
    let others = others.collect();
    let rx = PortQueueRx {
        queues,
        waiting: VfSet::default(),
        bells: Vec::new(),
    };
    (rx, others)
}

impl PortQueueTx {
    /// Names the thread of the port's worker, to be woken when a frame is left for it.
    pub(crate) fn set_peer(&mut self, bell: Doorbell) {
        self.bell = Some(bell);
    }

    /// Whether a frame of `vf` left now would be taken.
    pub(crate) fn can_send(&self, vf: VfIndex) -> bool {
        let behind = !self.forced.is_empty() && self.forced.contains_key(&vf);
        !behind && self.queues.of(vf).is_some_and(|queue| !queue.is_full())
    }

    /// Leaves a frame of `vf`, one of this worker's, behind those that it sent before; gives it back if too many of them could
    /// not wait before it.
    pub(crate) fn send(&mut self, vf: VfIndex, frame: ForPort) -> Result<(), ForPort> {
        let Some(queue) = self.queues.of(vf) else {
            return Ok(()); // nobody sends for another worker's VF
        };
        let cost = cost(&frame.frame);
        let mut frame = frame;
        if self.forced.is_empty() || !self.forced.contains_key(&vf) {
            frame = match queue.push(cost, frame) {
                Ok(()) => {
                    self.filled.insert(vf);
                    return Ok(());
                }
                Err(frame) => frame,
            };
        }
        let forced = self.forced.entry(vf).or_default();
        if forced.frames.len() >= VF_QUEUE || forced.bytes >= VF_QUEUE_BYTES {
            return Err(frame);
        }
        forced.bytes += cost;
        forced.frames.push_back(frame);
        Ok(())
    }

    /// Puts what waits behind full queues into them, as much as they hold. A VF whose queue is full holds up none but itself.
    pub(crate) fn fill(&mut self) {
        let (queues, filled) = (&self.queues, &mut self.filled);
        self.forced.retain(|&vf, forced| {
            let Some(queue) = queues.of(vf) else {
                return false;
            };
            while let Some(frame) = forced.frames.pop_front() {
                let cost = cost(&frame.frame);
                if let Err(frame) = queue.push(cost, frame) {
                    forced.frames.push_front(frame);
                    return true;
                }
                forced.bytes -= cost;
                filled.insert(vf);
            }
            false
        });
    }

    /// Tells the port's worker of what has been left since the last call.
    pub(crate) fn tell(&mut self) {
        self.fill();
        if self.filled.is_empty() {
            return;
        }
        let mut words = [0; 4];
        for vf in std::mem::take(&mut self.filled).iter() {
            words[vf.index() / 64] |= 1 << (vf.index() % 64);
        }
        for (shared, word) in self.queues.filled.iter().zip(words) {
            if word != 0 {
                shared.fetch_or(word, Ordering::Release);
            }
        }
        if let Some(bell) = &self.bell {
            bell.ring();
        }
    }
}

impl PortQueueRx {
    /// Names the threads of all workers, in order, to be woken when a queue that was full has room.
    pub(crate) fn set_peers(&mut self, bells: &[Doorbell]) {
        self.bells = bells.to_vec();
    }

    /// Whether `vf` is served by another worker.
    pub(crate) fn serves(&self, vf: VfIndex) -> bool {
        self.queues.of(vf).is_some()
    }

    /// Looks for what the others have left: the VFs whose frames wait since this look.
    pub(crate) fn look(&mut self) -> VfSet {
        let before = self.waiting;
        for (w, shared) in self.queues.filled.iter().enumerate() {
            if shared.load(Ordering::Relaxed) == 0 {
                continue;
            }
            let mut word = shared.swap(0, Ordering::Acquire);
            while word != 0 {
                let vf = w * 64 + word.trailing_zeros() as usize;
                self.waiting.insert(VfIndex::from(vf));
                word &= word - 1;
            }
        }
        self.waiting.difference(before)
    }

    /// VFs whose frames were found waiting and still do.
    pub(crate) fn waiting(&self) -> VfSet {
        self.waiting
    }

    /// Whether frames have been left that have not been looked at.
    pub(crate) fn has_input(&self) -> bool {
        let mut words = self.queues.filled.iter();
        words.any(|word| word.load(Ordering::Relaxed) != 0)
    }

    /// The next frame of `vf`.
    pub(crate) fn take(&mut self, vf: VfIndex) -> Option<ForPort> {
        let queue = self.queues.of(vf)?;
        let Some((frame, full)) = queue.pop() else {
            self.waiting.remove(vf);
            return None;
        };
        if full && let Some(bell) = self.bells.get(worker_of(vf, self.bells.len())) {
            bell.ring(); // its worker may go on
        }
        Some(frame)
    }
}

#[cfg(test)]
mod tests {
    use vf_model::Offload;
    use vf_vhost::frame::FrameBuf;

    use super::*;

    fn frame() -> ForPort {
        let (offload, data) = (Offload::default(), vec![0; 60]);
        Frame::from(FrameBuf { offload, data }).into()
    }

    #[test]
    fn a_vf_whose_queue_is_full_holds_up_none_but_itself() {
        let (mut rx, mut others) = port_queues(4, 2);
        let tx = &mut others[0];
        let [busy, other] = [VfIndex(1), VfIndex(3)];
        for _ in 0..VF_QUEUE {
            assert!(tx.send(busy, frame()).is_ok());
        }
        assert!(!tx.can_send(busy));
        for _ in 0..VF_QUEUE {
            assert!(tx.send(busy, frame()).is_ok(), "what cannot wait");
        }
        assert!(tx.send(busy, frame()).is_err(), "too much");
        assert!(tx.can_send(other));
        assert!(tx.send(other, frame()).is_ok());
        tx.tell();
        assert_eq!(rx.look().iter().collect::<Vec<_>>(), [busy, other]);
        assert!(rx.take(other).is_some());
        // In order: what has waited comes before what is sent now.
        assert!(rx.take(busy).is_some());
        assert!(!tx.can_send(busy));
        for _ in 1..2 * VF_QUEUE {
            tx.fill();
            assert!(rx.take(busy).is_some());
        }
        assert!(rx.take(busy).is_none());
        assert!(tx.can_send(busy));
    }
}
