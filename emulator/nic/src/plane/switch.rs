//! A switch of paths while traffic runs, the one change of a policy that stops planes. Never loses a frame between the planes, nor
//! duplicates one: whoever calls this holds all planes, and the queues between them are empty before a ring changes hands.
//! What waits for a guest's buffers goes with its rings, and so does what its limit holds against it.

use std::ops::DerefMut;
use std::sync::Arc;

use vf_model::{Judge, Nanos, Policy, VfIndex};

use super::direct::DirectPlane;
use super::mediated::MediatedPlane;
use super::policy_cell::PolicyCell;
use super::rings::Rings;
use crate::queue::worker_of;

/// Puts a policy in force by which VFs take other paths than before, and moves their rings.
pub fn switch_paths<A: DerefMut<Target = DirectPlane>>(
    now: Nanos,
    workers: &mut [A],
    hypervisor: &mut MediatedPlane,
    policies: &PolicyCell,
    policy: Policy,
) {
    drain(now, workers, hypervisor);
    let before = policies.load();
    let after = policies.publish(policy);
    for worker in &mut *workers {
        worker.adopt(Arc::clone(&after));
    }
    hypervisor.adopt(Arc::clone(&after));
    for vf in (0..after.vf_count()).map(VfIndex::from) {
        let mediated = after.mediated().contains(vf);
        if before.mediated().contains(vf) != mediated {
            let worker = worker_of(vf, workers.len());
            move_rings(now, &mut workers[worker], hypervisor, vf, mediated);
        }
    }
    if workers.len() > 1 {
        // A frame that waited in its ring for the wire is on its way to the port now: it has to be there before its VF's frames on the other path.
        drain(now, workers, hypervisor);
    }
}

/// Has each plane take what the others have handed over: no frame of a VF is behind it on the path that it leaves. The wire
/// has to take them, too, and more of them wait for the guests' buffers than usual.
fn drain<A: DerefMut<Target = DirectPlane>>(
    now: Nanos,
    workers: &mut [A],
    hypervisor: &mut MediatedPlane,
) {
    loop {
        // The one with the port last: the others still have frames for it.
        let workers = workers.iter_mut().rev();
        let moved: usize = workers.map(|a| a.drain(now)).sum();
        if moved + hypervisor.drain_pf(now) == 0 {
            return;
        }
    }
}

fn move_rings(
    now: Nanos,
    worker: &mut DirectPlane,
    hypervisor: &mut MediatedPlane,
    vf: VfIndex,
    to_hypervisor: bool,
) {
    if to_hypervisor {
        for ring in worker.rings(vf) {
            if let Some(vring) = worker.detach(now, vf, ring) {
                hypervisor.attach(vf, vring);
            }
        }
        // A frame that is parked for the port is sent now, so that none of its VF's frames on the other path overtakes it.
        worker.send_stuck(now, vf);
        hypervisor.model.take_limit(vf, &worker.nic);
        let backlog = worker.take_backlog(vf);
        hypervisor.give_backlog(now, vf, backlog);
        hypervisor.give_impaired(vf, worker.take_impaired(vf));
    } else {
        for ring in hypervisor.rings(vf) {
            if let Some(vring) = hypervisor.detach(now, vf, ring) {
                worker.attach(vf, vring);
            }
        }
        worker.nic.take_limit(vf, &hypervisor.model);
        worker.give_backlog(now, vf, hypervisor.take_backlog(vf));
        worker.give_impaired(vf, hypervisor.take_impaired(vf));
    }
}
