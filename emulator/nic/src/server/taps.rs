//! Taps that are on VFs from the start, by the configuration. Copies no frame: a tap's own thread does.

use vf_model::VfIndex;

use super::RunError;
use crate::instance::NicInstance;
use crate::sandbox::Sandbox;

/// Opens the taps of a host's VFs, those that there are at its start, and puts them there. A namespace that is gone takes nothing but its own VF's tap away: namespaces come and go.
pub(super) fn open_taps(host: &mut NicInstance, sandbox: Sandbox) -> Result<(), RunError> {
    for i in 0..host.policy().num_vfs() {
        let vf = VfIndex::from(i);
        let Some(tap) = host.settings.vf.get(i).and_then(|vf| vf.tap.clone()) else {
            continue;
        };
        let policy = host.policy();
        let opened = tap.open(
            policy.vf(vf).mac,
            policy.told_mtu(vf),
            host.settings.queue_pairs,
        );
        let opened = opened.map_err(|error| error.to_string());
        let there = opened.and_then(|queues| host.attach_tap(vf, tap.clone(), queues, sandbox));
        let nic = host.settings.name.clone();
        match (there, &tap.netns) {
            (Ok(()), _) => {}
            (Err(why), Some(_)) => {
                let device = format!("{nic} {vf}");
                tracing::warn!(device, %why, "no tap is on it");
            }
            (Err(why), None) => return Err(RunError::Tap { nic, vf, why }),
        }
    }
    Ok(())
}
