//! The physical function's queues between a NIC and its hypervisor: bounded, lock-free, one each way. All workers of the NIC
//! may fill the one; one of them empties the other.
//!
//! A VF may have [eight times](SHARE) as much in such a queue as is still free in it, and so may the wire: one that floods leaves a ninth
//! of it to others, two a seventeenth, and who sends now and then always finds room (a dynamic threshold, as shared-memory switches have).
//!
//! Never judges a frame, and never waits.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use vf_model::{MAX_VFS, MacAddr, Onward, VfIndex};

use super::doorbell::Doorbell;
use super::frame_queue::{FrameQueue, LEAST_BYTES, cost};
use super::pool::Frame;

/// Frames the PF's receive ring holds, as a NIC driver of the hypervisor would post buffers: of one sender, 4096.
pub(crate) const PF_RING: usize = 4608;
/// The same in bytes. As each frame counts as [so many](LEAST_BYTES) at least, this bounds frames as well.
pub(crate) const PF_RING_BYTES: u64 = PF_RING as u64 * LEAST_BYTES;

/// How many times as much one sender may have there as is still free.
pub(crate) const SHARE: u64 = 8;

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
    out: Arc<PfQueue>,
    inward: Arc<PfQueue>,
    peer: Option<Doorbell>,
}

/// One way.
struct PfQueue {
    items: FrameQueue<PfItem>,
    /// By the VF that has sent it, and last of the wire, the bytes of what is in there.
    held: Box<[AtomicU64]>,
}

impl PfQueue {
    /// For so many frames of so many bytes, and one item more.
    fn new(frames: usize, bytes: u64) -> PfQueue {
        PfQueue {
            items: FrameQueue::new(frames + 1, bytes),
            held: std::iter::repeat_with(AtomicU64::default)
                .take(usize::from(MAX_VFS) + 1)
                .collect(),
        }
    }

    fn held(&self, vf: Option<VfIndex>) -> Option<&AtomicU64> {
        let wire = usize::from(MAX_VFS);
        self.held.get(vf.map_or(wire, |vf| vf.index()))
    }

    /// Whether there is room for another frame of who has sent it.
    fn has_room(&self, from: Option<VfIndex>) -> bool {
        let free = PF_RING_BYTES.saturating_sub(self.items.bytes());
        self.held(from)
            .is_none_or(|held| held.load(Ordering::Relaxed) < SHARE * free)
    }

    /// Counts a frame that is put in.
    fn add(&self, from: Option<VfIndex>, cost: u64) {
        if let Some(held) = self.held(from) {
            held.fetch_add(cost, Ordering::Relaxed);
        }
    }

    /// Counts one that is taken out, or has found no room.
    fn remove(&self, from: Option<VfIndex>, cost: u64) {
        if let Some(held) = self.held(from) {
            held.fetch_sub(cost, Ordering::Relaxed);
        }
    }
}

impl PfEnd {
    /// The NIC's end and the hypervisor's end.
    #[must_use]
    pub fn pair() -> (PfEnd, PfEnd) {
        // A place beyond those of frames is the marker's.
        let up = Arc::new(PfQueue::new(PF_RING, PF_RING_BYTES));
        let down = Arc::new(PfQueue::new(PF_RING, PF_RING_BYTES));
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
            inward: Arc::new(PfQueue::new(0, 0)),
            peer: self.peer.clone(),
        }
    }

    /// Names the thread at the other end, to be woken when a frame is sent.
    pub fn set_peer(&mut self, bell: Doorbell) {
        self.peer = Some(bell);
    }

    /// Hands a frame over, or gives it back when the other side's ring has no room for more of its sender's.
    pub(crate) fn send(&self, frame: Frame, onward: Onward) -> Result<(), Frame> {
        if !self.out.has_room(onward.from) {
            return Err(frame);
        }
        let cost = cost(&frame);
        self.out.add(onward.from, cost);
        match self.push(cost, PfItem::Frame(PfFrame { frame, onward })) {
            Err(PfItem::Frame(lost)) => {
                self.out.remove(onward.from, cost);
                Err(lost.frame)
            }
            _ => Ok(()),
        }
    }

    /// Sends a marker; false if there is no room even for that.
    pub(crate) fn send_marker(&self, number: u64) -> bool {
        self.push(0, PfItem::Marker(number)).is_ok()
    }

    /// Says what a guest has announced; it is only a hint, and lost when the other side's ring is full.
    pub(crate) fn announce(&self, mac: MacAddr) {
        let _ = self.push(LEAST_BYTES, PfItem::Announced(mac));
    }

    fn push(&self, cost: u64, item: PfItem) -> Result<(), PfItem> {
        self.out.items.push(cost, item)?;
        if let Some(peer) = &self.peer {
            peer.ring();
        }
        Ok(())
    }

    /// What comes next from the other side.
    #[must_use]
    pub(crate) fn receive(&self) -> Option<PfItem> {
        let (item, _) = self.inward.items.pop()?;
        if let PfItem::Frame(PfFrame { frame, onward }) = &item {
            self.inward.remove(onward.from, cost(frame));
        }
        Some(item)
    }

    /// Whether frames wait here.
    #[must_use]
    pub fn has_input(&self) -> bool {
        !self.inward.items.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::queue::Pool;

    fn fill(end: &PfEnd, pool: &Pool, from: Option<VfIndex>, len: usize, most: usize) -> usize {
        let onward = Onward {
            from,
            ..Onward::default()
        };
        let sent = |_: &usize| end.send(pool.frame(&vec![0; len]), onward).is_ok();
        (0..most).take_while(sent).count()
    }

    #[test]
    fn who_floods_leaves_room_to_who_does_not() {
        let pool = Pool::new(1);
        let all = 2 * PF_RING;
        // Frames are the bound, or bytes.
        for len in [60, 60_000] {
            let (nic, hypervisor) = PfEnd::pair();
            let vf = |n| Some(VfIndex(n));
            let most = match len {
                60 => PF_RING,
                _ => PF_RING_BYTES as usize / len,
            };
            let first = fill(&nic, &pool, vf(0), len, all);
            assert!(
                first >= most * 8 / 9 && first <= most * 8 / 9 + 2,
                "{first}"
            );
            let second = fill(&nic, &pool, vf(1), len, all);
            assert!(second > 0 && second < most / 9, "{second}");
            assert!(fill(&nic, &pool, vf(2), len, 1) == 1, "one now and then");
            // As frames are taken, both floods come to have as much.
            let mut second = 0;
            for _ in 0..4 * most {
                let _ = hypervisor.receive();
                second += fill(&nic, &pool, vf(1), len, 1);
                fill(&nic, &pool, vf(0), len, 1);
            }
            assert!(second >= most, "{second} of {}", 4 * most);
            assert!(fill(&nic, &pool, None, len, all) > 0, "and of the wire");
            while hypervisor.receive().is_some() {}
            // The wire floods as a VF does.
            let wire = fill(&nic, &pool, None, len, all);
            assert_eq!(wire, first, "nothing is held any more");
            assert!(fill(&nic, &pool, vf(2), len, 1) == 1, "one now and then");
        }
    }
}
