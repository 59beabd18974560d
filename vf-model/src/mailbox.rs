//! What the driver of a VF asks of its NIC, the business of the mailbox between VF and PF on an SR-IOV NIC, and what of it
//! is in force. The administrator's word wins, in the manner of Linux's PF drivers. Never judges a frame.
//!
//! - An address that the administrator has set stays, unless the VF is trusted (ixgbe, i40e refuse); so does one that
//!   another VF has (mlx5 did). Further addresses likewise, and at most [`crate::MAX_UNTRUSTED_FILTERS`] (i40e).
//! - Modes that show a VF more than its share are granted without trust, but not in force (i40e, ice and mlx5 say yes and
//!   ignore it). They are in force as soon as the VF is trusted (mlx5).
//! - A VF in a port VLAN cannot choose VLANs (ixgbe, i40e refuse).

use serde::Serialize;

use crate::addr::{AddrError, MacAddr, Vid};
use crate::refusal::Refusal;
use crate::vf::VfPolicy;
use crate::vf_filter::{ADDRESSES, MAX_FILTERS, MAX_UNTRUSTED_FILTERS, VfFilterError};

/// Most groups that a VF without `trust` can list, as many as ixgbe allows.
pub const MAX_UNTRUSTED_GROUPS: usize = 30;

/// Which kinds of frames a driver wants or does not want, whatever their address (virtio 5.1.6.5.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct RxMode {
    /// Everything in its VLANs that no other VF has an address for; frames of sibling VFs are not among that (igb, mlx5).
    pub promisc: bool,
    /// All groups.
    pub allmulti: bool,
    /// As `promisc`, for unicast only.
    pub alluni: bool,
    /// No groups; broadcast is not meant.
    pub nomulti: bool,
    /// No unicast.
    pub nouni: bool,
    /// No broadcast.
    pub nobcast: bool,
}

/// What the driver of a VF can ask for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum VfRequest {
    /// It starts anew, and has asked for nothing.
    Reset {
        /// Whether it will list the groups that it wants; else it gets them all.
        lists_groups: bool,
        /// Whether it will list its VLANs; else it gets them all.
        lists_vlans: bool,
    },
    /// This is its address.
    Mac(MacAddr),
    /// It wants these kinds of frames.
    RxMode(RxMode),
    /// These addresses are all that it has besides its own, and all groups that it wants.
    MacTable {
        /// Further unicast addresses.
        unicast: Vec<MacAddr>,
        /// Group addresses.
        multicast: Vec<MacAddr>,
    },
    /// It wants frames of this VLAN.
    VlanAdd(Vid),
    /// No longer.
    VlanDel(Vid),
}

/// What a driver has asked for since it started, or what of that is in force.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RxFilter {
    /// Its address; `None`: the one that the NIC gave it.
    pub mac: Option<MacAddr>,
    /// Kinds of frames.
    pub mode: RxMode,
    /// Further unicast addresses, in order.
    pub unicast: Vec<MacAddr>,
    /// Groups, in order; `None`: all.
    pub multicast: Option<Vec<MacAddr>>,
    /// 802.1Q VLANs, in order; `None`: all. Other kinds of tags are not filtered.
    pub vlans: Option<Vec<Vid>>,
}

impl RxFilter {
    /// What a VF with this policy has asked for, and one thing more. `taken`: whether another VF has an address.
    ///
    /// # Errors
    /// [`Refusal`] if the policy does not allow it, or there is no room.
    pub(crate) fn with(
        mut self,
        request: &VfRequest,
        policy: &VfPolicy,
        taken: impl Fn(MacAddr) -> bool,
    ) -> Result<RxFilter, Refusal> {
        let room = |untrusted| match policy.trust {
            true => MAX_FILTERS,
            false => untrusted,
        };
        let allowed = |mac: MacAddr| {
            if !mac.is_unicast() {
                Err(AddrError::NotUnicast(mac).into())
            } else if policy.trust || mac == policy.mac {
                Ok(())
            } else if policy.mac_set {
                Err(Refusal::MacSet(policy.mac))
            } else if taken(mac) {
                Err(Refusal::MacTaken(mac))
            } else {
                Ok(())
            }
        };
        match request {
            VfRequest::Reset {
                lists_groups,
                lists_vlans,
            } => {
                self = RxFilter {
                    multicast: lists_groups.then(Vec::new),
                    vlans: lists_vlans.then(Vec::new),
                    ..RxFilter::default()
                };
            }
            VfRequest::Mac(mac) => {
                allowed(*mac)?;
                self.mac = Some(*mac);
            }
            VfRequest::RxMode(mode) => self.mode = *mode,
            VfRequest::MacTable { unicast, multicast } => {
                unicast.iter().try_for_each(|mac| allowed(*mac))?;
                if let Some(mac) = multicast.iter().find(|mac| !mac.is_multicast()) {
                    return Err(AddrError::NotMulticast(*mac).into());
                }
                self.unicast = list(unicast, ADDRESSES, room(MAX_UNTRUSTED_FILTERS))?;
                self.multicast = Some(list(multicast, "groups", room(MAX_UNTRUSTED_GROUPS))?);
            }
            VfRequest::VlanAdd(_) | VfRequest::VlanDel(_) if policy.port_vlan.is_some() => {
                return Err(Refusal::PortVlan);
            }
            VfRequest::VlanAdd(vid) => {
                let vlans = self.vlans.get_or_insert_default();
                if let Err(at) = vlans.binary_search(vid) {
                    let room = room(MAX_UNTRUSTED_FILTERS);
                    if vlans.len() >= room {
                        return Err(VfFilterError::full("VLANs", room, MAX_FILTERS).into());
                    }
                    vlans.insert(at, *vid);
                }
            }
            VfRequest::VlanDel(vid) => {
                if let Some(vlans) = &mut self.vlans
                    && let Ok(at) = vlans.binary_search(vid)
                {
                    vlans.remove(at);
                }
            }
        }
        Ok(self)
    }

    /// What of it is in force under this policy.
    pub(crate) fn granted(&self, policy: &VfPolicy) -> RxFilter {
        let mut granted = self.clone();
        if !policy.trust {
            let mode = &mut granted.mode;
            (mode.promisc, mode.allmulti, mode.alluni) = (false, false, false);
            granted.unicast.truncate(MAX_UNTRUSTED_FILTERS);
            if policy.mac_set {
                granted.mac = None;
                granted.unicast.clear();
            }
        }
        if granted.mode.promisc || policy.port_vlan.is_some() {
            granted.vlans = None;
        }
        granted
    }

    /// Whether it is for unicast frames to an address that the VF has.
    #[inline]
    pub(crate) fn wants_own(&self) -> bool {
        self.mode.promisc || !self.mode.nouni
    }

    /// Whether it is for unicast frames that no VF has an address for.
    pub(crate) fn wants_unmatched(&self) -> bool {
        self.mode.promisc || self.mode.alluni && !self.mode.nouni
    }

    /// Whether it is for broadcast.
    pub(crate) fn wants_broadcast(&self) -> bool {
        self.mode.promisc || !self.mode.nobcast
    }

    /// Which groups it is for; `None`: all.
    pub(crate) fn groups(&self) -> Option<&[MacAddr]> {
        match self.mode {
            RxMode { promisc: true, .. } => None,
            RxMode { nomulti: true, .. } => Some(&[]),
            RxMode { allmulti: true, .. } => None,
            _ => self.multicast.as_deref(),
        }
    }

    /// Whether `mac` is one of the further addresses.
    pub(crate) fn has(&self, mac: MacAddr) -> bool {
        self.unicast.binary_search(&mac).is_ok()
    }
}

/// The addresses in order, each once.
fn list(
    macs: &[MacAddr],
    kind: &'static str,
    room: usize,
) -> Result<Vec<MacAddr>, VfFilterError> {
    let mut macs = macs.to_vec();
    macs.sort_unstable();
    macs.dedup();
    if macs.len() > room {
        return Err(VfFilterError::full(kind, room, MAX_FILTERS));
    }
    Ok(macs)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vf::VfSetting;

    const OWN: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);
    const OTHER: MacAddr = MacAddr([2, 0, 0, 0, 0, 9]);
    const TAKEN: MacAddr = MacAddr([2, 0, 0, 0, 0, 2]);
    const GROUP: MacAddr = MacAddr([1, 0, 0x5e, 0, 0, 1]);

    fn policy(settings: &[VfSetting]) -> VfPolicy {
        let fresh = VfPolicy::new(OWN);
        let with = |policy: VfPolicy, setting: &VfSetting| policy.with(*setting).unwrap();
        settings.iter().fold(fresh, with)
    }

    fn ask(policy: &VfPolicy, request: &VfRequest) -> Result<RxFilter, Refusal> {
        RxFilter::default().with(request, policy, |mac| mac == TAKEN)
    }

    fn table(unicast: &[MacAddr], multicast: &[MacAddr]) -> VfRequest {
        VfRequest::MacTable {
            unicast: unicast.to_vec(),
            multicast: multicast.to_vec(),
        }
    }

    #[test]
    fn addresses_are_the_administrators_before_they_are_the_guests() {
        let set = VfSetting::Mac(OWN);
        for (settings, mac, answer) in [
            (&[][..], OTHER, Ok(())),
            (&[], TAKEN, Err(Refusal::MacTaken(TAKEN))),
            (&[], GROUP, Err(AddrError::NotUnicast(GROUP).into())),
            (&[set], OTHER, Err(Refusal::MacSet(OWN))),
            (&[set], OWN, Ok(())),
            (&[set, VfSetting::Trust(true)], OTHER, Ok(())),
            (&[VfSetting::Trust(true)], TAKEN, Ok(())),
        ] {
            let policy = policy(settings);
            for request in [VfRequest::Mac(mac), table(&[mac], &[])] {
                let asked = ask(&policy, &request);
                assert_eq!(asked.map(drop), answer, "{settings:?} {request:?}");
            }
        }
    }

    #[test]
    fn trust_that_is_taken_back_takes_back_what_it_gave() {
        let trusted = policy(&[VfSetting::Mac(OWN), VfSetting::Trust(true)]);
        let mode = RxMode {
            promisc: true,
            nobcast: true,
            ..RxMode::default()
        };
        let mut asked = RxFilter::default();
        for request in [
            VfRequest::Mac(OTHER),
            table(&[TAKEN, TAKEN], &[GROUP]),
            VfRequest::RxMode(mode),
            VfRequest::VlanAdd(Vid::new(5).unwrap()),
        ] {
            asked = asked.with(&request, &trusted, |_| false).unwrap();
        }
        assert_eq!(asked.unicast, [TAKEN]);
        let granted = asked.granted(&trusted);
        assert_eq!((granted.mac, granted.mode), (Some(OTHER), mode));
        assert!(granted.wants_broadcast() && granted.vlans.is_none());
        let granted = asked.granted(&trusted.with(VfSetting::Trust(false)).unwrap());
        assert_eq!((granted.mac, granted.unicast.len()), (None, 0));
        assert!(!granted.mode.promisc && !granted.wants_broadcast());
        assert_eq!(granted.groups(), Some(&[GROUP][..]));
        assert_eq!(granted.vlans, asked.vlans);
        let reset = VfRequest::Reset {
            lists_groups: false,
            lists_vlans: false,
        };
        let forgotten = asked.with(&reset, &trusted, |_| false);
        assert_eq!(forgotten, Ok(RxFilter::default()));
    }

    #[test]
    fn there_is_an_end_to_what_can_be_listed() {
        let many = |first: u8, n: u32| {
            let base = MacAddr([first, 0, 0, 1, 0, 0]);
            (0..n).map(|i| base.offset(i)).collect::<Vec<_>>()
        };
        let (plain, trusted) = (policy(&[]), policy(&[VfSetting::Trust(true)]));
        for (request, fits, fits_trusted) in [
            (table(&many(2, 16), &many(1, 30)), true, true),
            (table(&many(2, 17), &[]), false, true),
            (table(&[], &many(1, 31)), false, true),
            (table(&many(2, 1024), &many(1, 1024)), false, true),
            (table(&many(2, 1025), &[]), false, false),
            (table(&[], &many(2, 1)), false, false),
        ] {
            assert_eq!(ask(&plain, &request).is_ok(), fits);
            assert_eq!(ask(&trusted, &request).is_ok(), fits_trusted);
        }
        let mut asked = RxFilter::default();
        let add = |vid| VfRequest::VlanAdd(Vid::new(vid).unwrap());
        for vid in (1..=16).chain(1..=16) {
            asked = asked.with(&add(vid), &plain, |_| false).unwrap();
        }
        let full = asked.clone().with(&add(17), &plain, |_| false);
        let refused = full.unwrap_err().to_string();
        assert_eq!(refused, "a VF has at most 16 VLANs (1024 with trust)");
        let port = policy(&[VfSetting::Vlan(10)]);
        assert_eq!(ask(&port, &add(10)), Err(Refusal::PortVlan));
        assert_eq!(asked.granted(&port).vlans, None);
    }
}
