//! Frames that change workers within a NIC: one bounded, lock-free queue from each worker to each other one. Carries what a
//! worker needs to deliver a frame that another has judged; never judges, never delivers, and keeps the order of what one
//! worker hands to another.

use std::sync::Arc;

use vf_model::{Tagging, VfIndex, VfSet};

use super::doorbell::Doorbell;
use super::frame_queue::{FrameQueue, cost};
use super::pool::{Frame, Pool};

/// Frames that wait between two workers in one direction, as many as a large ring has.
pub(crate) const QUEUE: usize = 1024;
/// The same in bytes.
const QUEUE_BYTES: u64 = 4 << 20;

/// Which of so many workers serves a VF: all its rings have one owner.
#[must_use]
pub fn worker_of(vf: VfIndex, workers: usize) -> usize {
    vf.index() % workers.max(1)
}

/// A judged frame on its way to another worker.
pub(crate) struct CrossFrame {
    /// As its sender gave it.
    pub(crate) frame: Frame,
    /// Who of the worker's VFs get it.
    pub(crate) vfs: VfSet,
    /// How their copies differ, by the policy by which it was judged.
    pub(crate) tagging: Tagging,
}

type Queue = Arc<FrameQueue<CrossFrame>>;

/// One worker's ends of the queues between all workers of a NIC.
pub(crate) struct CrossQueues {
    me: usize,
    own: VfSet,
    peers: Vec<Peer>,
}

/// Another worker.
struct Peer {
    vfs: VfSet,
    out: Queue,
    inward: Queue,
    bell: Option<Doorbell>,
    /// Whether it has not been told yet of what was left for it.
    untold: bool,
}

impl CrossQueues {
    /// The ends of each of `workers` workers, who share `vfs` VFs.
    pub(crate) fn mesh(vfs: usize, workers: usize) -> Vec<CrossQueues> {
        let of = |worker: usize| -> VfSet {
            let vfs = (worker..vfs).step_by(workers.max(1));
            vfs.map(VfIndex::from).collect()
        };
        // By who fills it, and by who empties it.
        let queues: Vec<Vec<Queue>> = (0..workers)
            .map(|_| (0..workers).map(|_| Arc::new(FrameQueue::new(QUEUE, QUEUE_BYTES))))
            .map(Iterator::collect)
            .collect();
        let ends = (0..workers).map(|me| CrossQueues {
            me,
            own: of(me),
            peers: (0..workers)
                .filter(|peer| *peer != me)
                .map(|peer| Peer {
                    vfs: of(peer),
                    out: Arc::clone(&queues[me][peer]),
                    inward: Arc::clone(&queues[peer][me]),
                    bell: None,
                    untold: false,
                })
                .collect(),
        });
        ends.collect()
    }

    /// Names the threads of all workers, in order, to be woken for what is left for them.
    pub(crate) fn set_peers(&mut self, bells: &[Doorbell]) {
        let others = bells.iter().enumerate().filter(|(w, _)| *w != self.me);
        for (peer, (_, bell)) in self.peers.iter_mut().zip(others) {
            peer.bell = Some(bell.clone());
        }
    }

    /// The VFs that this worker serves.
    pub(crate) fn own(&self) -> VfSet {
        self.own
    }

    /// How many other workers there are.
    pub(crate) fn peers(&self) -> usize {
        self.peers.len()
    }

    /// Leaves a frame to the workers of these VFs, none of them served here; those who do not get it since their worker takes
    /// no more.
    pub(crate) fn give(
        &mut self,
        frame: Frame,
        vfs: VfSet,
        tagging: Tagging,
        pool: &Pool,
    ) -> VfSet {
        let (mut frame, mut left, mut lost) = (frame, vfs, VfSet::default());
        for peer in &mut self.peers {
            let vfs = left.intersection(peer.vfs);
            if vfs.is_empty() {
                continue;
            }
            left = left.difference(vfs);
            // The last one gets the frame itself.
            let last = left.is_empty();
            let copy = match last {
                true => std::mem::take(&mut frame),
                false => pool.copy(&frame),
            };
            let crossing = CrossFrame {
                frame: copy,
                vfs,
                tagging,
            };
            match peer.out.push(cost(&crossing.frame), crossing) {
                Ok(()) => peer.untold = true,
                Err(crossing) => {
                    pool.give(crossing.frame);
                    lost = lost.union(vfs);
                }
            }
            if last {
                break;
            }
        }
        lost
    }

    /// Tells the other workers of what has been left for them since the last call.
    pub(crate) fn tell(&mut self) {
        for peer in &mut self.peers {
            if std::mem::take(&mut peer.untold)
                && let Some(bell) = &peer.bell
            {
                bell.ring();
            }
        }
    }

    /// The next frame that the `peer`th of the others has left here.
    pub(crate) fn take(&self, peer: usize) -> Option<CrossFrame> {
        let (crossing, _) = self.peers.get(peer)?.inward.pop()?;
        Some(crossing)
    }

    /// Whether frames wait here.
    pub(crate) fn has_input(&self) -> bool {
        self.peers.iter().any(|peer| !peer.inward.is_empty())
    }
}
