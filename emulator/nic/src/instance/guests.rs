//! What guests are shown of their VFs, and that it has changed, as far as they can be told. Changes nothing of what holds.

use vf_model::{MacAddr, Mtu, Policy, VfIndex};
use vf_vhost::endpoint::Endpoint;

use super::NicInstance;

impl NicInstance {
    /// Shows guests what has changed since `before` of what they can read of their VFs; a line for each that cannot be shown.
    pub(super) fn show_guests(&mut self, before: &Policy) -> Vec<String> {
        let policy = self.policies.load();
        if before.has_same_vfs(&policy) {
            return Vec::new();
        }
        self.set_links(&policy);
        let (before, after) = (seen_by_guests(before), seen_by_guests(&policy));
        let mut notes = Vec::new();
        for (i, (was, is)) in before.into_iter().zip(after).enumerate() {
            let vf = VfIndex::from(i);
            let (was, is) = match (was, is) {
                (Some(was), Some(is)) if was.enabled == is.enabled => (was, is),
                (Some(_), is) => {
                    notes.extend(self.take_away(vf, is));
                    continue;
                }
                // Its socket is served by whoever serves the others.
                (None, is) => {
                    let settings = self.settings.vf.get(vf.index());
                    if is.is_some()
                        && let Some(tap) = settings.and_then(|vf| vf.tap.as_ref())
                    {
                        notes.push(format!(
                            "{} {vf}: {tap} of the file is made at the next start",
                            self.settings.name
                        ));
                    }
                    continue;
                }
            };
            // A driver of hardware is told by its registers.
            if self.tell_function(vf, was.resets != is.resets) {
                continue;
            }
            if (was.mac, was.chosen) != (is.mac, is.chosen) {
                // A guest that takes its address from us reads it when its driver starts.
                self.serve(vf, |endpoint, _| is.show_mac(endpoint));
            }
            if was.mtu != is.mtu {
                let told = self.serve(vf, |endpoint, _| endpoint.set_mtu(is.mtu.get()));
                let settings = self.settings.vf.get(vf.index());
                if let Some(tap) = settings.and_then(|vf| vf.tap.as_ref()) {
                    notes.push(format!(
                        "{} {vf}: {tap} keeps its MTU: 'ip link set dev {} mtu {}' there, or 'netns delete' and 'netns add'; what is longer \
                         than {} is dropped and counted",
                        self.settings.name,
                        tap.name,
                        is.mtu,
                        policy.tx_mtu(vf),
                    ));
                } else if told == Some(false) {
                    notes.push(format!(
                        "{} {vf}: its driver was told an MTU when its front end connected, and another takes effect there when that connects \
                         again; what is longer than {} is dropped and counted",
                        self.settings.name,
                        policy.tx_mtu(vf),
                    ));
                }
            }
            if was.resets != is.resets {
                // A front end that connects again sets everything up anew, as a driver does after a reset of its function.
                let connected = self.is_connected(vf);
                self.close_session(vf);
                if connected {
                    notes.push(format!(
                        "{} {vf}: reset by closing its session: its front end has to connect again",
                        self.settings.name
                    ));
                }
            }
            if was.link_up == is.link_up {
                continue;
            }
            let told = self.serve(vf, |endpoint, _| {
                endpoint.set_link_up(is.link_up) || !endpoint.is_connected()
            });
            if told == Some(false) && !self.tells_by_monitor(vf) {
                let frames = if is.link_up {
                    ""
                } else {
                    "; its frames are dropped and counted"
                };
                notes.push(format!(
                    "{} {vf}: the front end takes no configuration from a back end, so the guest's carrier stays as it is{frames}",
                    self.settings.name
                ));
            }
        }
        self.take_sockets();
        notes
    }

    /// Ends the session of a VF that is no more. If another is made in its place, that has its socket, and the tap that was on it.
    fn take_away(&mut self, vf: VfIndex, another: Option<GuestView>) -> Option<String> {
        let connected = self.is_connected(vf);
        let settings = self.settings.vf.get(vf.index());
        let tap = settings.and_then(|vf| vf.tap.clone());
        let tap = tap.filter(|_| another.is_none());
        if tap.is_some() {
            self.detach_tap(vf);
        }
        self.close_session(vf);
        if let Some(is) = &another {
            self.serve(vf, |endpoint, _| {
                is.show_mac(endpoint);
                endpoint.set_mtu(is.mtu.get());
                endpoint.set_link_up(is.link_up);
            });
        }
        if another.is_none()
            && let Some(vf) = self.vfs.get_mut(vf.index())
        {
            vf.drop_socket();
        }
        let name = &self.settings.name;
        match tap {
            Some(tap) => Some(format!("{name} {vf}: {tap} has gone with it")),
            None => connected.then(|| format!("{name} {vf}: taken from its guest")),
        }
    }
}

/// What a guest can read of its VF in configuration space.
struct GuestView {
    link_up: bool,
    mac: MacAddr,
    /// The one that its driver has chosen instead and has.
    chosen: Option<MacAddr>,
    mtu: Mtu,
    resets: u64,
    /// How often VFs had been made when it was.
    enabled: u64,
}

impl GuestView {
    fn show_mac(&self, endpoint: &mut Endpoint) -> bool {
        endpoint.set_mac(self.mac.0, self.chosen.map(|mac| mac.0))
    }
}

/// By VF; `None` if there is none of this number now.
fn seen_by_guests(policy: &Policy) -> Vec<Option<GuestView>> {
    let vfs = (0..policy.vf_count()).map(VfIndex::from);
    vfs.map(|vf| {
        (vf.index() < policy.num_vfs()).then(|| GuestView {
            link_up: policy.link_up_for(vf),
            mac: policy.vf(vf).mac,
            chosen: policy.in_force(vf).mac,
            mtu: policy.told_mtu(vf),
            resets: policy.resets(vf),
            enabled: policy.times_enabled(),
        })
    })
    .collect()
}
