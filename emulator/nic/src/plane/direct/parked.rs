//! Frames of VFs that wait for the wire, each the first of its ring: the other rings of its VF go on. A VF has one turn at the
//! port, in which its rings go in the order in which they began to wait. Decides nothing: the fair queue says whose turn it is.

use std::collections::VecDeque;

use vf_model::{Nanos, VfIndex, VfSet, VlanTag};
use vf_vhost::rx::BURST_EFFORT;

use super::super::outside::{Stuck, on_wire, outgoing};
use super::super::receivers::FrameSource;
use super::DirectPlane;
use crate::queue::{ForPort, Frame};

/// A frame that has been judged and waits for the wire, the first that its ring has fetched.
pub(super) struct Parked {
    /// Index of the ring.
    pub(super) ring: u32,
    pub(super) insert: Option<VlanTag>,
    /// It is for the worker with the port to say which way it takes.
    pub(super) undecided: bool,
    /// What others have got, if any have: the wire is to have the same.
    pub(super) copy: Option<Frame>,
}

/// See the module.
pub(super) struct ParkedFrames {
    /// By VF, in the order in which they began to wait.
    of: Vec<VecDeque<Parked>>,
    /// VFs that have one.
    vfs: VfSet,
    /// VFs each of whose transmit rings has one, so that nothing is taken from them for now.
    stuck: VfSet,
}

impl ParkedFrames {
    pub(super) fn new(vfs: usize) -> ParkedFrames {
        ParkedFrames {
            of: std::iter::repeat_with(VecDeque::new).take(vfs).collect(),
            vfs: VfSet::default(),
            stuck: VfSet::default(),
        }
    }

    /// VFs of which a frame waits.
    #[inline]
    pub(super) fn vfs(&self) -> &VfSet {
        &self.vfs
    }

    /// VFs that have nothing but rings whose first frame waits.
    #[inline]
    pub(super) fn stuck(&self) -> &VfSet {
        &self.stuck
    }

    /// Whether the first frame of this ring waits.
    pub(super) fn holds(&self, vf: VfIndex, ring: u32) -> bool {
        self.vfs.contains(vf) && self.of[vf.index()].iter().any(|parked| parked.ring == ring)
    }

    /// The first frame of a ring has to wait, behind those of other rings of its VF, which has so many.
    pub(super) fn park(&mut self, vf: VfIndex, parked: Parked, rings: usize) {
        self.of[vf.index()].push_back(parked);
        self.note(vf, rings);
    }

    /// The `at`th of a VF waits no longer.
    fn take(&mut self, vf: VfIndex, at: usize, rings: usize) -> Option<Parked> {
        let parked = self.of[vf.index()].remove(at)?;
        self.note(vf, rings);
        Some(parked)
    }

    /// The VF has so many transmit rings now.
    pub(super) fn note(&mut self, vf: VfIndex, rings: usize) {
        let waiting = self.of[vf.index()].len();
        let mark = |set: &mut VfSet, is: bool| match is {
            true => set.insert(vf),
            false => set.remove(vf),
        };
        mark(&mut self.vfs, waiting > 0);
        mark(&mut self.stuck, waiting > 0 && waiting >= rings);
    }
}

impl DirectPlane {
    /// Sends what of `vf` waits for the wire, and goes on with the rings that it waited in, while it is the VF's turn.
    pub(super) fn poll_parked(&mut self, now: Nanos, vf: VfIndex) -> usize {
        let flow = vf.index();
        self.ports.active.had_work(vf);
        if !self.out.egress.may_go(flow) {
            return 0;
        }
        self.out.egress.leave(flow);
        let enough = self.ports.rx.effort + BURST_EFFORT;
        let mut moved = 0;
        for _ in 0..self.parked.of[flow].len() {
            let Some(queue) = self.unpark(now, vf) else {
                break;
            };
            moved += 1;
            // There may be more behind a burst, which waits in turn with the others'.
            for _ in 0..2 {
                if self.ports.rx.effort >= enough || self.is_held(vf, queue) {
                    break;
                }
                let burst = self.poll_queue(now, vf, queue, enough);
                moved += self.ports.rx.load.count_burst(burst);
            }
            let next = self.next_parked(vf);
            if next.is_none_or(|bytes| !self.out.egress.may_send(flow, bytes)) {
                break;
            }
        }
        if self.waits_for_port(flow) {
            self.out.egress.wait(flow);
        }
        moved
    }

    /// Whether nothing is taken from the VF's `queue`th transmit ring for now.
    pub(super) fn is_held(&self, vf: VfIndex, queue: usize) -> bool {
        if self.waiting.rings.contains(vf) {
            return true;
        }
        let slot = &self.ports.tx[vf.index()].queues[queue];
        let ring = slot.queue.vring().index();
        self.parked.holds(vf, ring) || self.out.loopback_holds(vf, ring)
    }

    /// Byte times of the frame of `vf` that is the next to go of those that wait.
    fn next_parked(&self, vf: VfIndex) -> Option<u64> {
        let parked = self.parked.of[vf.index()].front()?;
        let mut queues = self.ports.tx[vf.index()].queues.iter();
        let slot = queues.find(|slot| slot.queue.vring().index() == parked.ring)?;
        let frame = slot.queue.fetched().first()?;
        Some(on_wire(frame, parked.insert).bytes)
    }

    /// Sends the first frame of `vf` that waits for the wire; in which of its rings, by place, it was the first.
    fn unpark(&mut self, now: Nanos, vf: VfIndex) -> Option<usize> {
        let (place, Stuck { frame, on_wire }) = self.take_parked(vf, 0)?;
        let (nic, rx) = (&mut self.nic, &mut self.ports.rx);
        let egress = &mut self.out.egress;
        egress.send(now, nic, rx, vf.index(), frame, on_wire);
        Some(place)
    }

    /// Takes the `at`th frame of `vf` that waits for the wire out of its ring, and says which of the rings, by place, that was.
    fn take_parked(&mut self, vf: VfIndex, at: usize) -> Option<(usize, Stuck)> {
        let queues = &mut self.ports.tx[vf.index()].queues;
        let parked = self.parked.take(vf, at, queues.len())?;
        let is_its = |ring: u32| ring == parked.ring;
        // A ring is not detached with a frame of its own parked.
        let place = queues
            .iter()
            .position(|s| is_its(s.queue.vring().index()))?;
        let slot = queues.get_mut(place)?;
        let frame = slot.queue.fetched().first()?;
        let on_wire = on_wire(frame, parked.insert);
        let source = match &parked.copy {
            Some(copy) => FrameSource::Private(copy),
            None => FrameSource::Guest(&slot.queue, frame),
        };
        let frame = ForPort {
            frame: outgoing(&mut self.ports.rx, source, parked.insert),
            undecided: parked.undecided,
        };
        slot.queue.complete(1);
        slot.queue.publish();
        self.ports.tx_needs_call.insert(vf);
        Some((place, Stuck { frame, on_wire }))
    }

    /// Has the frame of a ring that stops wait for the wire without it: a front end that stops its rings again and again has no more of
    /// the wire than others.
    pub(super) fn unpark_ring(&mut self, vf: VfIndex, ring: u32) {
        let mut parked = self.parked.of[vf.index()].iter();
        let Some(at) = parked.position(|parked| parked.ring == ring) else {
            return;
        };
        if let Some((_, stuck)) = self.take_parked(vf, at) {
            self.stuck.entry(vf).or_default().push_back(stuck);
        }
        if !self.waits_for_port(vf.index()) {
            self.out.egress.leave(vf.index());
        }
    }
}
