//! Administering a NIC while traffic runs, a switch of paths above all. Never loses a frame between the planes, nor
//! duplicates one: whoever calls this holds both planes, and the queues between them are empty before a ring changes hands.
//! What a guest has no buffers for when it leaves the mediated path is dropped and counted as its own.

use vf_model::{Command, DropReason, Nanos, Path, Refusal, VfIndex, VfRequest};

use super::adapter::Adapter;
use super::hypervisor::Hypervisor;

/// Applies a command to both planes of a host and moves the rings of every VF whose path it changes.
///
/// # Errors
/// The model's refusal, in which case nothing has changed.
pub fn apply(
    now: Nanos,
    adapter: &mut Adapter,
    hypervisor: &mut Hypervisor,
    command: &Command,
) -> Result<(), Refusal> {
    drain(now, adapter, hypervisor);
    let before = paths(adapter);
    adapter.nic.apply(command)?;
    hypervisor.model.apply(command)?;
    for (i, (old, new)) in before.into_iter().zip(paths(adapter)).enumerate() {
        if old != new {
            move_rings(now, adapter, hypervisor, VfIndex::from(i), new);
        }
    }
    Ok(())
}

/// Does what the driver of a VF asks for, on both planes of its host.
///
/// # Errors
/// The model's refusal, in which case nothing has changed.
pub fn request(
    now: Nanos,
    adapter: &mut Adapter,
    hypervisor: &mut Hypervisor,
    vf: VfIndex,
    request: &VfRequest,
) -> Result<(), Refusal> {
    drain(now, adapter, hypervisor);
    adapter.nic.request(vf, request)?;
    hypervisor.model.request(vf, request)
}

/// Has each plane take what the other has handed over: a frame that one has judged by the old rules is not judged by the
/// new ones on the other.
fn drain(now: Nanos, adapter: &mut Adapter, hypervisor: &mut Hypervisor) {
    while adapter.drain_pf(now) + hypervisor.drain_pf(now) > 0 {}
}

fn paths(adapter: &Adapter) -> Vec<Path> {
    (0..adapter.nic.vf_count())
        .map(|i| adapter.nic.policy(VfIndex::from(i)).path)
        .collect()
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
        }
        Path::Direct => {
            // What it had buffers for it has been given; the direct path would drop the rest as well.
            hypervisor.drop_backlog(vf, DropReason::NoRxBuffer);
            for ring in hypervisor.rings(vf) {
                if let Some(vring) = hypervisor.detach(vf, ring) {
                    adapter.attach(vf, vring);
                }
            }
        }
    }
}
