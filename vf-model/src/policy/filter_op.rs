//! Filters that the driver of a VF puts into a NIC whose firmware does what drivers ask if they have the privilege (Solarflare's
//! EF10, MC_CMD_FILTER_OP). A filter of a driver gives frames to its own VF: an address of a station is one VF's and no other's
//! (INSERT), a group any number's (SUBSCRIBE), and what is unknown is a privilege, in one VLAN as in all. What it may not have it is
//! refused, for such a driver asks again; nothing is remembered. With the first group that it subscribes to, a driver no longer gets
//! them all. Such filters are what it has asked for by other words, too: see [`crate::mailbox`]. Filters on other fields of packets,
//! and those that drop, are in [`super::driver_filters`].

use super::{Changed, Policy};
use crate::driver_filter::{DriverAction, FilterOp};
use crate::entry::Entry;
use crate::filter_spec::{FilterMatch, MatchError};
use crate::mailbox::{UnknownIn, VfRequest};
use crate::privilege::Privileges;
use crate::refusal::Refusal;
use crate::vf::VfIndex;
use crate::vf_filter::VfFilterError;

const KINDS: &str = "a driver's filter has dst MAC, or dst unknown-unicast or dst unknown-multicast, in one vlan perhaps, or fields of IP packets or a proto";

const UNKNOWN: &str = "a driver's filter on what is unknown gives it to its VF: leave out action";

impl FilterOp {
    /// The privilege that it takes to have such a filter.
    fn privilege(&self) -> Result<Privileges, MatchError> {
        match self.matches {
            FilterMatch::Mac(mac) if mac.is_broadcast() => Ok(Privileges::BROADCAST),
            FilterMatch::Mac(mac) if mac.is_multicast() => Ok(Privileges::MULTICAST),
            FilterMatch::Mac(_) => Ok(Privileges::UNICAST),
            FilterMatch::UnknownMulticast => Ok(Privileges::ALL_MULTICAST),
            FilterMatch::UnknownUnicast => Ok(Privileges::PROMISCUOUS),
            _ => Err(MatchError(KINDS)),
        }
    }

    /// What it makes of all that the driver of a VF has asked for.
    fn request(&self, entry: &Entry) -> Result<VfRequest, Refusal> {
        let asked = &entry.asked.filter;
        let mut mode = asked.mode;
        Ok(match self.matches {
            FilterMatch::Mac(mac) if mac.is_broadcast() => {
                mode.nobcast = !self.add;
                VfRequest::RxMode(mode)
            }
            FilterMatch::Mac(mac) if mac.is_multicast() => {
                let listed = asked.multicast.as_deref().unwrap_or_default();
                VfRequest::Multicast(self.listed(&mac, listed)?)
            }
            FilterMatch::Mac(mac) => VfRequest::Unicast(self.listed(&mac, &asked.unicast)?),
            FilterMatch::UnknownMulticast | FilterMatch::UnknownUnicast
                if let Some(vid) = self.vlan =>
            {
                let multicast = self.matches == FilterMatch::UnknownMulticast;
                let unknown = UnknownIn { vid, multicast };
                VfRequest::UnknownIn(self.listed(&unknown, &asked.unknown_in)?)
            }
            FilterMatch::UnknownMulticast => {
                mode.allmulti = self.add;
                VfRequest::RxMode(mode)
            }
            _ => {
                mode.alluni = self.add;
                VfRequest::RxMode(mode)
            }
        })
    }

    /// What is listed with this, or without it.
    pub(super) fn listed<T: Clone + PartialEq>(
        &self,
        one: &T,
        listed: &[T],
    ) -> Result<Vec<T>, Refusal> {
        let named = || {
            FilterOp {
                add: false,
                ..*self
            }
            .to_string()
            .split_off(4)
            .into()
        };
        match (self.add, listed.contains(one)) {
            (true, true) => Err(Refusal::DriverFilterExists(named())),
            (false, false) => Err(Refusal::NoDriverFilter(named())),
            (true, false) => Ok([listed, std::slice::from_ref(one)].concat()),
            (false, true) => Ok(listed
                .iter()
                .filter(|other| *other != one)
                .cloned()
                .collect()),
        }
    }
}

impl Policy {
    /// Puts in a filter of the driver of a VF or takes one out. Whoever is refused throws the policy away.
    ///
    /// # Errors
    /// [`Refusal`], as far as the VF may not have it: EPERM without the privilege, EEXIST for what it has or another VF.
    pub(super) fn filter_op(
        &mut self,
        vf: VfIndex,
        op: &FilterOp,
    ) -> Result<Option<Changed>, Refusal> {
        let entry = self.existing(vf)?;
        if !self.silicon.filter_op {
            return Err(Refusal::NoFilterOp(self.profile()));
        }
        let listed = entry.driver_filters.iter();
        let removes_one = !op.add && listed.clone().any(|filter| filter.matches() == op.matches);
        if op.is_on_packets() || removes_one {
            return self.driver_filter(vf, op).map(Some);
        }
        if op.add && op.action != DriverAction::Receive {
            return Err(MatchError(UNKNOWN).into());
        }
        let privilege = op.privilege()?;
        let privileged = entry.policy.trust || entry.policy.privileges().contains(privilege);
        if op.add && !privileged {
            return Err(Refusal::Privilege { vf, privilege });
        }
        op.matches.check()?;
        let request = op.request(entry)?;
        let (changed, denied) = self.request(vf, &request)?;
        let rx = &self.entry(vf).rx;
        match op.matches {
            FilterMatch::Mac(mac) if !op.add || mac.is_broadcast() => {}
            FilterMatch::Mac(mac) if mac.is_unicast() && !rx.has(mac) => {
                return Err(denied.unwrap_or(Refusal::MacTaken(mac)));
            }
            FilterMatch::Mac(mac) if mac.is_multicast() => {
                let groups = rx.multicast.as_ref();
                if groups.is_some_and(|groups| groups.binary_search(&mac).is_err()) {
                    let room = self.room(vf).groups;
                    return Err(VfFilterError::full("groups", room, room).into());
                }
            }
            _ => {}
        }
        Ok(changed)
    }
}
