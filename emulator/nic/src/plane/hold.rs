//! The planes of a NIC are emptied, for another process to go on with its guests: rings are taken away when nothing is on its way any
//! more, and what waits for buffers then goes with them. Never loses a frame, nor duplicates one: whoever calls this holds all planes of
//! the process.

use std::collections::BTreeMap;
use std::io;
use std::ops::DerefMut;
use std::os::fd::OwnedFd;

use serde::{Deserialize, Serialize};
use vf_model::{Nanos, VfIndex};
use vf_packet::Offload;
use vf_vhost::frame::TagEdit;
use vf_vhost::vring::Vring;

use super::backlog::{Backlog, Waiting};
use super::direct::DirectPlane;
use super::mediated::MediatedPlane;
use super::port::is_rx;
use super::rings::Rings;
use crate::queue::{Pool, worker_of};
use crate::thread::{News, Plane, RingBroken};
use crate::uplink::Position;

/// All planes of a NIC.
pub struct HeldPlanes<A, H> {
    /// The direct path, by worker.
    pub workers: Vec<A>,
    /// The mediated path.
    pub hypervisor: H,
}

/// A frame that waits for the buffers of a VF.
pub struct WaitingFrame {
    /// Which VF.
    pub vf: VfIndex,
    waiting: Waiting,
}

/// The same but for its bytes, which are elsewhere.
#[derive(Debug, Serialize, Deserialize)]
pub struct SavedFrame {
    vf: u8,
    len: usize,
    offload: Offload,
    edit: TagEdit,
    len_delivered: u32,
    queue: u16,
    segments: u32,
}

impl WaitingFrame {
    /// What is to be known of it; its bytes are added to `bytes`.
    #[must_use]
    pub fn save(&self, bytes: &mut Vec<u8>) -> SavedFrame {
        let Waiting {
            frame,
            edit,
            len,
            queue,
            segments,
        } = &self.waiting;
        bytes.extend_from_slice(&frame.data);
        SavedFrame {
            vf: self.vf.0,
            len: frame.data.len(),
            offload: frame.offload,
            edit: *edit,
            len_delivered: *len,
            queue: *queue,
            segments: *segments,
        }
    }

    /// The same frame, whose bytes are the first of `bytes`; `None` if those are too few.
    #[must_use]
    pub fn restore(saved: &SavedFrame, bytes: &mut &[u8], pool: &Pool) -> Option<WaitingFrame> {
        let (data, rest) = bytes.split_at_checked(saved.len)?;
        *bytes = rest;
        let mut frame = pool.frame(data);
        frame.offload = saved.offload;
        Some(WaitingFrame {
            vf: VfIndex(saved.vf),
            waiting: Waiting {
                frame,
                edit: saved.edit,
                len: saved.len_delivered,
                queue: saved.queue,
                segments: saved.segments,
            },
        })
    }
}

impl<A, H> HeldPlanes<A, H>
where
    A: DerefMut<Target = DirectPlane>,
    H: DerefMut<Target = MediatedPlane>,
{
    /// Takes rings away: those on which guests send, or those on which they receive. A frame that waits in its ring for the wire is on
    /// its way then, and what comes from outside the process stays there.
    pub fn detach(&mut self, now: Nanos, receiving: bool) -> Vec<(VfIndex, Vring)> {
        self.workers
            .iter_mut()
            .for_each(|worker| worker.set_deaf(now, true));
        let mut taken = Vec::new();
        let mut take = |plane: &mut dyn Rings, vf, rings: Vec<u32>| {
            let rings = rings.into_iter().filter(|ring| is_rx(*ring) == receiving);
            taken.extend(rings.filter_map(|ring| Some((vf, plane.detach(now, vf, ring)?))));
        };
        let vfs = self.hypervisor.policy_vfs();
        for vf in (0..vfs).map(VfIndex::from) {
            let worker = worker_of(vf, self.workers.len());
            let worker = &mut *self.workers[worker];
            let rings = worker.rings(vf);
            take(worker, vf, rings);
            let rings = self.hypervisor.rings(vf);
            take(&mut *self.hypervisor, vf, rings);
        }
        taken
    }

    /// What another process needs to go on with what is plugged into the port, if a descriptor is all.
    ///
    /// # Errors
    /// There are too many descriptors.
    pub fn uplink(&self) -> io::Result<Option<OwnedFd>> {
        let uplink = self.workers.iter().find_map(|worker| worker.uplink());
        uplink.map(|fd| fd.try_clone_to_owned()).transpose()
    }

    /// How far what is plugged into the port has come with what it plays, if it does.
    pub fn position(&self, now: Nanos) -> Option<Position> {
        self.workers.iter().find_map(|worker| worker.position(now))
    }

    /// Has frames go on that are on their way; whether any has, or will later.
    pub fn settle(&mut self, now: Nanos) -> bool {
        let mut moved = 0;
        for worker in &mut self.workers {
            moved += worker.poll(now);
        }
        moved += self.hypervisor.poll(now);
        let mut workers = self.workers.iter_mut();
        moved > 0 || workers.any(|worker| worker.is_under_way()) || self.hypervisor.is_under_way()
    }

    /// Rings found broken since their threads last told of any.
    pub fn take_broken(&mut self) -> Vec<RingBroken> {
        let workers = self.workers.iter_mut();
        let mut news: Vec<News> = workers.flat_map(|worker| worker.take_news()).collect();
        news.extend(self.hypervisor.take_news());
        let broken = news.into_iter().filter_map(|news| match news {
            News::Broken(broken) => Some(broken),
            News::Fast(_) => None,
        });
        broken.collect()
    }

    /// What waits for buffers, in the order in which each VF is to have it.
    pub fn take_waiting(&mut self) -> Vec<WaitingFrame> {
        let mut all = Vec::new();
        for vf in (0..self.hypervisor.policy_vfs()).map(VfIndex::from) {
            let worker = worker_of(vf, self.workers.len());
            let backlogs = [
                self.workers[worker].take_backlog(vf),
                self.hypervisor.take_backlog(vf),
            ];
            for mut backlog in backlogs {
                all.extend(backlog.drain().map(|waiting| WaitingFrame { vf, waiting }));
            }
        }
        all
    }

    /// Gives planes rings, and what waits for them: each VF's to the one of its path.
    pub fn attach(&mut self, now: Nanos, rings: Vec<(VfIndex, Vring)>, waiting: Vec<WaitingFrame>) {
        self.workers
            .iter_mut()
            .for_each(|worker| worker.set_deaf(now, false));
        for (vf, vring) in rings {
            match self.hypervisor.is_mediated(vf) {
                true => self.hypervisor.attach(vf, vring),
                false => self.worker(vf).attach(vf, vring),
            }
        }
        let mut backlogs = BTreeMap::<VfIndex, Backlog>::new();
        for WaitingFrame { vf, waiting } in waiting {
            backlogs.entry(vf).or_default().push(waiting);
        }
        for (vf, backlog) in backlogs {
            match self.hypervisor.is_mediated(vf) {
                true => self.hypervisor.give_backlog(now, vf, backlog),
                false => self.worker(vf).give_backlog(now, vf, backlog),
            }
        }
    }

    fn worker(&mut self, vf: VfIndex) -> &mut DirectPlane {
        let worker = worker_of(vf, self.workers.len());
        &mut self.workers[worker]
    }
}
