//! Frames that change workers within a NIC: one bounded, lock-free queue from each worker to each other one. Carries what a
//! worker needs to deliver a frame that another has judged; never judges, never delivers, and keeps the order of what one
//! worker hands to another.
//!
//! Whoever sends may have as much in such a queue as is still free in it: one that floods leaves half of it to others, two leave
//! a third, and who sends now and then always finds room (a dynamic threshold, as shared-memory switches have).

use std::collections::VecDeque;
use std::sync::Arc;

use vf_model::{Tagging, VfIndex, VfSet};

use super::doorbell::Doorbell;
use super::frame_queue::{FrameQueue, cost};
use super::pool::{Frame, Pool};

/// Frames that wait between two workers in one direction: a sender that is alone has as many there as a large ring has.
pub(crate) const QUEUE: usize = 2048;
/// The same in bytes.
const QUEUE_BYTES: u64 = 8 << 20;
/// Those who send: VFs, and behind them the port and the PF, which are one.
const SENDERS: usize = 257;

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
    shares: Shares,
    /// Whether it has not been told yet of what was left for it.
    untold: bool,
}

/// How much of a queue is whose, as the one worker knows it that fills it: what was in it when it last looked, and what it has
/// put there since.
struct Shares {
    /// Senders of what is in the queue and what it costs, first in, first out.
    order: VecDeque<(usize, u64)>,
    /// Frames and bytes, by sender.
    of: Box<[(usize, u64); SENDERS]>,
    bytes: u64,
}

impl Shares {
    fn new() -> Shares {
        Shares {
            order: VecDeque::with_capacity(QUEUE),
            of: Box::new([(0, 0); SENDERS]),
            bytes: 0,
        }
    }

    /// Whether a sender has less than what is free.
    fn allow(&mut self, sender: usize, queue: &FrameQueue<CrossFrame>) -> bool {
        if self.has_room(sender) {
            return true;
        }
        // The other worker may have taken out much of what is still counted here.
        let there = queue.len();
        while self.order.len() > there {
            let Some((sender, cost)) = self.order.pop_front() else {
                break;
            };
            if let Some((frames, bytes)) = self.of.get_mut(sender) {
                (*frames, *bytes) = (*frames - 1, *bytes - cost);
            }
            self.bytes -= cost;
        }
        self.has_room(sender)
    }

    fn has_room(&self, sender: usize) -> bool {
        let (frames, bytes) = self.of.get(sender).copied().unwrap_or_default();
        frames < QUEUE - self.order.len() && bytes < QUEUE_BYTES.saturating_sub(self.bytes)
    }

    fn add(&mut self, sender: usize, cost: u64) {
        if let Some((frames, bytes)) = self.of.get_mut(sender) {
            (*frames, *bytes) = (*frames + 1, *bytes + cost);
            self.order.push_back((sender, cost));
            self.bytes += cost;
        }
    }
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
                    shares: Shares::new(),
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
    /// no more of whoever has sent it: a VF, or else the port or the PF.
    pub(crate) fn give(
        &mut self,
        from: Option<VfIndex>,
        frame: Frame,
        vfs: VfSet,
        tagging: Tagging,
        pool: &Pool,
    ) -> VfSet {
        let sender = from.map_or(SENDERS - 1, VfIndex::index);
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
            let cost = cost(&crossing.frame);
            let pushed = match peer.shares.allow(sender, &peer.out) {
                true => peer.out.push(cost, crossing),
                false => Err(crossing),
            };
            match pushed {
                Ok(()) => {
                    peer.shares.add(sender, cost);
                    peer.untold = true;
                }
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
