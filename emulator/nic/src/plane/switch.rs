//! A switch of paths while traffic runs, the one change of a policy that stops planes. Never loses a frame between the planes, nor
//! duplicates one: whoever calls this holds all planes, and the queues between them are empty before a ring changes hands.
//! What waits for a guest's buffers goes with its rings.

use std::ops::DerefMut;
use std::sync::Arc;

use vf_model::{Judge, Nanos, Path, Policy, VfIndex};

use super::adapter::Adapter;
use super::cross_queue::worker_of;
use super::hypervisor::Hypervisor;
use super::policy_cell::PolicyCell;

/// Puts a policy in force by which VFs take other paths than before, and moves their rings.
pub fn switch_paths<A: DerefMut<Target = Adapter>>(
    now: Nanos,
    adapters: &mut [A],
    hypervisor: &mut Hypervisor,
    policies: &PolicyCell,
    policy: Policy,
) {
    drain(now, adapters, hypervisor);
    let before = policies.load();
    let after = policies.publish(policy);
    for adapter in &mut *adapters {
        adapter.nic.adopt(Arc::clone(&after));
    }
    hypervisor.model.adopt(Arc::clone(&after));
    for vf in (0..after.vf_count()).map(VfIndex::from) {
        let path = after.vf(vf).path;
        if before.vf(vf).path != path {
            let worker = worker_of(vf, adapters.len());
            move_rings(now, &mut adapters[worker], hypervisor, vf, path);
        }
    }
    if adapters.len() > 1 {
        // A frame that waited for the wire in its ring is on its way to the port now: it goes before those on the other path.
        drain(now, adapters, hypervisor);
    }
}

/// Has each plane take what the others have handed over: no frame of a VF is behind it on the path that it leaves. The wire
/// has to take them, too, and more of them wait for the guests' buffers than usual.
fn drain<A: DerefMut<Target = Adapter>>(
    now: Nanos,
    adapters: &mut [A],
    hypervisor: &mut Hypervisor,
) {
    loop {
        // The one with the port last: the others still have frames for it.
        let adapters = adapters.iter_mut().rev();
        let moved: usize = adapters.map(|a| a.drain(now)).sum();
        if moved + hypervisor.drain_pf(now) == 0 {
            return;
        }
    }
}

fn move_rings(
    now: Nanos,
    adapter: &mut Adapter,
    hypervisor: &mut Hypervisor,
    vf: VfIndex,
    path: Path,
) {
    match path {
        Path::Mediated => {
            for ring in adapter.rings(vf) {
                if let Some(vring) = adapter.detach(now, vf, ring) {
                    hypervisor.attach(vf, vring);
                }
            }
            let backlog = adapter.take_backlog(vf);
            hypervisor.give_backlog(now, vf, backlog);
        }
        Path::Direct => {
            for ring in hypervisor.rings(vf) {
                if let Some(vring) = hypervisor.detach(vf, ring) {
                    adapter.attach(vf, vring);
                }
            }
            adapter.give_backlog(now, vf, hypervisor.take_backlog(vf));
        }
    }
}
