//! Administering a NIC while traffic runs, a switch of paths above all. Never loses a frame between the planes, nor
//! duplicates one: whoever calls this holds all planes, and the queues between them are empty before a ring changes hands.
//! What waits for a guest's buffers goes with its rings.

use std::ops::DerefMut;
use std::sync::Arc;

use vf_model::{Command, Judge, Nanos, Path, Policy, Refusal, VfIndex, VfRequest};

use super::adapter::Adapter;
use super::cross_queue::worker_of;
use super::hypervisor::Hypervisor;

/// Applies a command to all planes of a host, the adapters of all workers in order, and moves the rings of every VF whose
/// path it changes.
///
/// # Errors
/// The policy's refusal, in which case nothing has changed.
pub fn apply<A: DerefMut<Target = Adapter>>(
    now: Nanos,
    adapters: &mut [A],
    hypervisor: &mut Hypervisor,
    command: &Command,
) -> Result<(), Refusal> {
    drain(now, adapters, hypervisor, true);
    let before = Arc::clone(hypervisor.model.policy());
    let after = Arc::new(before.with(command)?);
    adopt(adapters, hypervisor, &after);
    let mut moved = false;
    for vf in (0..after.vf_count()).map(VfIndex::from) {
        let new = after.vf(vf).path;
        if before.vf(vf).path != new {
            let worker = worker_of(vf, adapters.len());
            move_rings(now, &mut adapters[worker], hypervisor, vf, new);
            moved = true;
        }
    }
    if moved && adapters.len() > 1 {
        // A frame that waited for the wire in its ring is on its way to the port now: it goes before those on the other path.
        drain(now, adapters, hypervisor, true);
    }
    Ok(())
}

/// Does what the driver of a VF asks for, on all planes of its host.
///
/// # Errors
/// The policy's refusal, in which case nothing has changed.
pub fn request<A: DerefMut<Target = Adapter>>(
    now: Nanos,
    adapters: &mut [A],
    hypervisor: &mut Hypervisor,
    vf: VfIndex,
    request: &VfRequest,
) -> Result<(), Refusal> {
    // Nothing that a driver does makes the wire run ahead: it would hold up everybody's frames.
    drain(now, adapters, hypervisor, false);
    let policy = hypervisor.model.policy().with_request(vf, request)?;
    adopt(adapters, hypervisor, &Arc::new(policy));
    Ok(())
}

fn adopt<A: DerefMut<Target = Adapter>>(
    adapters: &mut [A],
    hypervisor: &mut Hypervisor,
    policy: &Arc<Policy>,
) {
    for adapter in adapters {
        adapter.nic.adopt(Arc::clone(policy));
    }
    hypervisor.model.adopt(Arc::clone(policy));
}

/// Has each plane take what the others have handed over: a frame that one has judged by the old rules is not judged by the
/// new ones on another. With `force` the wire takes them too, and more of it waits for the guests' buffers.
fn drain<A: DerefMut<Target = Adapter>>(
    now: Nanos,
    adapters: &mut [A],
    hypervisor: &mut Hypervisor,
    force: bool,
) {
    loop {
        // The one with the port last: the others still have frames for it.
        let adapters = adapters.iter_mut().rev();
        let moved: usize = adapters.map(|a| a.drain(now, force)).sum();
        if moved + hypervisor.drain_pf(now, force) == 0 {
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
