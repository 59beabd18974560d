//! What a guest is shown of its link beside what its front end takes from here, and what its QEMU says that its driver asks for. Frames
//! of a VF without a link are dropped in any case; this is only what its guest sees of that.

use std::time::Instant;

use vf_model::{Policy, VfIndex, VfLinkState, VfRequest};
use vf_vhost::endpoint::Endpoint;
use vf_vhost::features::VirtioFeatures;

use super::{NicInstance, VfSocket, publish};
use crate::config::LinkMethod;
use crate::qmp::Monitor;

impl NicInstance {
    /// How a VF is kept from its network, if it is by an administrator or without a link: `qmp` if QEMU has said that its guest sees no
    /// carrier, `socket` if its socket is gone, else `discard`: its frames are dropped.
    #[must_use]
    pub fn link_method(&self, vf: VfIndex) -> Option<&'static str> {
        let policy = self.policies.load();
        let place = self.vfs.get(vf.index())?;
        let monitor = place.monitor.as_ref();
        let disabled = policy.vf(vf).state == VfLinkState::Disable;
        if policy.link_up_for(vf) {
            None
        } else if monitor.is_some_and(Monitor::shows_no_carrier) {
            Some("qmp")
        } else if self.is_without_socket(&policy, vf) {
            Some("socket")
        } else {
            disabled.then_some("discard")
        }
    }

    /// Whether a VF's guest is shown that it has no link by there being no socket.
    #[must_use]
    pub fn is_without_socket(&self, policy: &Policy, vf: VfIndex) -> bool {
        let settings = self.settings.vf.get(vf.index());
        let method = settings.map(|vf| vf.link_method);
        method == Some(LinkMethod::Socket) && policy.vf(vf).state == VfLinkState::Disable
    }

    /// Takes the sockets of those VFs. Whoever serves the others makes them again.
    pub(super) fn take_sockets(&mut self) {
        let policy = self.policies.load();
        for vf in (0..policy.num_vfs()).map(VfIndex::from) {
            if !self.is_without_socket(&policy, vf) {
                continue;
            }
            self.close_session(vf);
            if let Some(place) = self.vfs.get_mut(vf.index()) {
                place.drop_socket();
            }
        }
    }

    /// Has monitors show guests the links that they have.
    pub(super) fn set_links(&mut self, policy: &Policy) {
        for (i, place) in self.vfs.iter_mut().enumerate() {
            if let Some(monitor) = &mut place.monitor {
                let connected = place.socket.as_ref().is_some_and(VfSocket::is_connected);
                monitor.set_link(policy.link_up_for(VfIndex::from(i)), connected);
            }
        }
    }

    /// Whether a guest's QEMU shows it its link.
    pub(super) fn tells_by_monitor(&self, vf: VfIndex) -> bool {
        let place = self.vfs.get(vf.index());
        let monitor = place.and_then(|place| place.monitor.as_ref());
        monitor.is_some_and(Monitor::is_ready)
    }

    /// Looks at what has come from a VF's monitor. What QEMU says that the driver asks for is asked for, unless the driver asks by
    /// itself.
    pub fn hear_monitor(&mut self, vf: VfIndex, now: Instant) {
        let before = self.policies.load();
        if vf.index() >= before.num_vfs() {
            return;
        }
        let Some(place) = self.vfs.get_mut(vf.index()) else {
            return;
        };
        let monitor = place.monitor.as_mut();
        let Some(mut requests) = monitor.and_then(|m| m.poll(now, before.vf(vf).mac)) else {
            return;
        };
        let features = place.endpoint().and_then(Endpoint::features);
        if features.is_none_or(|features| features.contains(VirtioFeatures::CTRL_VQ)) {
            return;
        }
        // What QEMU does not know of stays, and the address that the VF has anyway is none that the driver asks for.
        requests.retain(|request| *request != VfRequest::Mac(before.vf(vf).mac));
        requests.extend(before.agreed_mtu(vf).map(VfRequest::Mtu));
        let (policy, denied) = before.with_requests(vf, &requests);
        if policy.version() == before.version() {
            return;
        }
        publish(&self.policies, policy, &self.workers, &self.hypervisor);
        let device = format!("{} {vf}", self.settings.name);
        let device = device.as_str();
        let words: Vec<_> = requests.iter().map(ToString::to_string).collect();
        let words = words.join("; ");
        tracing::debug!(device, request = %words, "QEMU says what the driver asks for");
        if let Some(why) = denied.first() {
            tracing::info!(device, %why, "the driver does not have all that it asks for");
        }
        if let Some(place) = self.vfs.get_mut(vf.index()) {
            place.refused += denied.len() as u64;
        }
    }
}
