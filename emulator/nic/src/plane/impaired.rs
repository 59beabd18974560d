//! What VFs of a plane send or receive while it is impaired. Only who has the rings of a VF puts frames here, and what is held back
//! goes with them to the other path. Never judges a frame.

use std::sync::Arc;

use vf_model::{Impairments, Nanos, NetemSpec, Policy, VfIndex, VfSet};

use crate::netem::{Counters, NetemQueue, Place};

/// Impairments of the VFs of a plane in one direction.
pub(super) struct VfNetem<T> {
    /// Of an impaired VF what is said of this direction.
    of: fn(&Impairments) -> Option<&Arc<NetemSpec>>,
    /// By VF.
    queues: Vec<Option<Box<NetemQueue<T>>>>,
    /// Those that have one.
    vfs: VfSet,
    /// What has been done to frames of each VF here. A queue that goes to the other path counts on where it began.
    counters: Vec<Counters>,
    nic: usize,
    /// Which of the two directions it is.
    direction: usize,
}

impl<T: Copy> VfNetem<T> {
    /// What so many VFs send, none of which is impaired.
    pub(super) fn of_sent(vfs: usize) -> VfNetem<T> {
        VfNetem::new(vfs, 0, |netem| netem.egress.as_ref())
    }

    /// What they receive.
    pub(super) fn of_received(vfs: usize) -> VfNetem<T> {
        VfNetem::new(vfs, 1, |netem| netem.ingress.as_ref())
    }

    fn new(
        vfs: usize,
        direction: usize,
        of: fn(&Impairments) -> Option<&Arc<NetemSpec>>,
    ) -> VfNetem<T> {
        VfNetem {
            of,
            queues: std::iter::repeat_with(|| None).take(vfs).collect(),
            vfs: VfSet::default(),
            counters: std::iter::repeat_with(Counters::default)
                .take(vfs)
                .collect(),
            nic: 0,
            direction,
        }
    }

    /// Which NIC of its process it is.
    pub(super) fn set_nic(&mut self, nic: usize) {
        self.nic = nic;
    }

    /// Impairs what a policy says.
    pub(super) fn adopt(&mut self, policy: &Policy) {
        for (i, (queue, counters)) in self.queues.iter_mut().zip(&self.counters).enumerate() {
            let vf = VfIndex::from(i);
            let said = (self.of)(policy.vf_netem(vf));
            let place = Place {
                nic: self.nic,
                port: 2 + 2 * i + self.direction, // behind those of the port
            };
            NetemQueue::adapt(queue, said, place, counters);
            note(&mut self.vfs, vf, queue);
        }
    }

    /// What is counted of each VF.
    pub(super) fn counters(&self) -> &[Counters] {
        &self.counters
    }

    /// VFs that are impaired, or of which something is still held back.
    #[inline]
    pub(super) fn vfs(&self) -> &VfSet {
        &self.vfs
    }

    /// The queue of a VF, if it is impaired.
    pub(super) fn of(&mut self, vf: VfIndex) -> Option<&mut NetemQueue<T>> {
        self.queues.get_mut(vf.index())?.as_deref_mut()
    }

    /// Whether something of a VF is due, and waits for something else.
    pub(super) fn waits(&self, vf: VfIndex) -> bool {
        let queue = self.queues.get(vf.index()).and_then(Option::as_ref);
        queue.is_some_and(|queue| queue.first().is_some())
    }

    /// The VFs of which something is due, and waits for something else.
    pub(super) fn waiting(&self) -> VfSet {
        self.vfs.iter().filter(|vf| self.waits(*vf)).collect()
    }

    /// Whether there is nothing of any VF, held back or due.
    pub(super) fn is_empty(&self) -> bool {
        let queues = self.vfs.iter().filter_map(|vf| self.queues.get(vf.index()));
        queues.flatten().all(|queue| queue.is_empty())
    }

    /// Forgets the queue of a VF that has nothing to do any more; whether it has.
    pub(super) fn end(&mut self, vf: VfIndex) -> bool {
        let Some(queue) = self.queues.get_mut(vf.index()) else {
            return false;
        };
        let over = queue.take_if(|queue| queue.is_over()).is_some();
        note(&mut self.vfs, vf, queue);
        over
    }

    /// Takes the queue of a VF with all that it holds back.
    pub(super) fn take(&mut self, vf: VfIndex) -> Option<Box<NetemQueue<T>>> {
        let queue = self.queues.get_mut(vf.index())?;
        let taken = queue.take();
        note(&mut self.vfs, vf, queue);
        taken
    }

    /// Goes on with it.
    pub(super) fn give(&mut self, vf: VfIndex, given: Option<Box<NetemQueue<T>>>) {
        if let Some(queue) = self.queues.get_mut(vf.index()) {
            *queue = given;
            note(&mut self.vfs, vf, queue);
        }
    }

    /// When something is due next.
    pub(super) fn next(&self) -> Option<Nanos> {
        let queues = self.vfs.iter().filter_map(|vf| self.queues.get(vf.index()));
        queues.flatten().filter_map(|queue| queue.next()).min()
    }
}

fn note<T>(vfs: &mut VfSet, vf: VfIndex, queue: &Option<Box<NetemQueue<T>>>) {
    match queue {
        Some(_) => vfs.insert(vf),
        None => vfs.remove(vf),
    }
}
