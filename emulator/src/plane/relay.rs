//! The way to the port for workers that do not have it: a bounded, lock-free queue for each of their VFs, so that those who wait
//! for the wire get it in turn wherever they are served. Never drops: a VF whose queue is full keeps its frame, and what
//! cannot wait is kept here.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crossbeam_queue::ArrayQueue;
use vf_model::{VfIndex, VfSet};
use vf_vhost::frame::FrameBuf;

use super::doorbell::Doorbell;
use super::handover::worker_of;

/// Frames of one VF that wait for the port's worker.
pub(super) const LANE: usize = 256;

/// What all workers of a NIC share.
struct Lanes {
    /// By VF; none for those of the port's own worker.
    lanes: Vec<Option<ArrayQueue<FrameBuf>>>,
    /// A bit for each VF whose lane has been filled since the port's worker last looked.
    filled: [AtomicU64; 4],
}

impl Lanes {
    fn of(&self, vf: VfIndex) -> Option<&ArrayQueue<FrameBuf>> {
        self.lanes.get(vf.index())?.as_ref()
    }
}

/// The end of a worker without the port.
pub struct Relay {
    lanes: Arc<Lanes>,
    /// What was sent while its lane was full: a change of paths or a ring that stops cannot wait.
    ahead: VecDeque<(VfIndex, FrameBuf)>,
    filled: VfSet,
    bell: Option<Doorbell>,
}

/// The end of the worker that has the port.
pub(super) struct Relayed {
    lanes: Arc<Lanes>,
    /// VFs in whose lanes frames were left.
    waiting: VfSet,
    /// By worker.
    bells: Vec<Doorbell>,
}

/// The ends of the port's worker, which is the first, and of the others.
pub(super) fn relays(vfs: usize, workers: usize) -> (Relayed, Vec<Relay>) {
    let lanes = (0..vfs).map(VfIndex::from).map(|vf| {
        let foreign = worker_of(vf, workers) != 0;
        foreign.then(|| ArrayQueue::new(LANE))
    });
    let lanes = Arc::new(Lanes {
        lanes: lanes.collect(),
        filled: Default::default(),
    });
    let others = (1..workers).map(|_| Relay {
        lanes: Arc::clone(&lanes),
        ahead: VecDeque::new(),
        filled: VfSet::default(),
        bell: None,
    });
    let others = others.collect();
    let relayed = Relayed {
        lanes,
        waiting: VfSet::default(),
        bells: Vec::new(),
    };
    (relayed, others)
}

impl Relay {
    /// Names the thread of the port's worker, to be woken when a frame is left for it.
    pub(super) fn set_peer(&mut self, bell: Doorbell) {
        self.bell = Some(bell);
    }

    /// Whether a frame of `vf` left now would be taken.
    pub(super) fn can_send(&self, vf: VfIndex) -> bool {
        self.ahead.is_empty() && self.lanes.of(vf).is_some_and(|lane| !lane.is_full())
    }

    /// Leaves a frame of `vf`, one of this worker's, behind those that it sent before.
    pub(super) fn send(&mut self, vf: VfIndex, frame: FrameBuf) {
        self.ahead.push_back((vf, frame));
        self.fill();
    }

    /// Puts what was sent into the lanes, as much as they hold.
    pub(super) fn fill(&mut self) {
        while let Some((vf, frame)) = self.ahead.pop_front() {
            let Some(lane) = self.lanes.of(vf) else {
                continue; // nobody sends for another worker's VF
            };
            if let Err(frame) = lane.push(frame) {
                self.ahead.push_front((vf, frame));
                return;
            }
            self.filled.insert(vf);
        }
    }

    /// Tells the port's worker of what has been left since the last call.
    pub(super) fn tell(&mut self) {
        self.fill();
        if self.filled.is_empty() {
            return;
        }
        let mut words = [0; 4];
        for vf in std::mem::take(&mut self.filled).iter() {
            words[vf.index() / 64] |= 1 << (vf.index() % 64);
        }
        for (shared, word) in self.lanes.filled.iter().zip(words) {
            if word != 0 {
                shared.fetch_or(word, Ordering::Release);
            }
        }
        if let Some(bell) = &self.bell {
            bell.ring();
        }
    }
}

impl Relayed {
    /// Names the threads of all workers, in order, to be woken when a lane that was full has room.
    pub(super) fn set_peers(&mut self, bells: &[Doorbell]) {
        self.bells = bells.to_vec();
    }

    /// Whether `vf` is served by another worker.
    pub(super) fn serves(&self, vf: VfIndex) -> bool {
        self.lanes.of(vf).is_some()
    }

    /// Looks for what the others have left: the VFs whose frames wait since this look.
    pub(super) fn look(&mut self) -> VfSet {
        let before = self.waiting;
        for (w, shared) in self.lanes.filled.iter().enumerate() {
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
    pub(super) fn waiting(&self) -> VfSet {
        self.waiting
    }

    /// Whether frames have been left that have not been looked at.
    pub(super) fn has_input(&self) -> bool {
        let mut words = self.lanes.filled.iter();
        words.any(|word| word.load(Ordering::Relaxed) != 0)
    }

    /// The next frame of `vf`.
    pub(super) fn take(&mut self, vf: VfIndex) -> Option<FrameBuf> {
        let lane = self.lanes.of(vf)?;
        let frame = lane.pop();
        if frame.is_none() {
            self.waiting.remove(vf);
        } else if lane.len() + 1 >= LANE
            && let Some(bell) = self.bells.get(worker_of(vf, self.bells.len()))
        {
            bell.ring(); // its worker may go on
        }
        frame
    }
}
