//! What the driver of a VF asks of its NIC, the business of the mailbox between VF and PF on an SR-IOV NIC, and what of it
//! is in force. The administrator's word wins, in the manner of Linux's PF drivers. Never judges a frame.
//!
//! - An address that the administrator has set stays, unless the VF is trusted (ixgbe, i40e refuse); so does one that
//!   another VF has (mlx5 did). Further addresses likewise, and at most [`crate::MAX_UNTRUSTED_FILTERS`] (i40e).
//! - Of a table of addresses and of a list of VLANs that is in force which may be, in the order in which the driver gave them
//!   (ixgbe keeps the first 30 groups); one address too many takes nothing from the others, and nothing from the groups unless
//!   both lie in one table (i40e).
//! - A VF in a port VLAN cannot choose VLANs (ixgbe, i40e refuse), but those that it sees inside, where the NIC puts one tag
//!   in front of another; inside, all pass.
//! - Modes that show a VF more than its share are granted without trust, but not in force (i40e, ice and mlx5 say yes and
//!   ignore it).
//!
//! What is not in force is remembered, and is as soon as the VF is trusted or its port VLAN ends: a virtio driver does not ask
//! again (Linux warns that it "Failed to set MAC filter table" and goes on), where Intel's PF drivers reset the VF so that
//! its driver does. Only the VF's own address is not remembered: a driver that is refused one goes on with the old.

use std::collections::BTreeSet;

use serde::Serialize;
use vf_packet::{AddrError, MacAddr, Vid};

use crate::driver_filter::FilterOp;
use crate::mtu::Mtu;
use crate::privilege::Privileges;
use crate::profile::{Mailbox, Silicon, VfRoom};
use crate::refusal::Refusal;
use crate::rss::DriverRss;
use crate::vf::VfPolicy;
use crate::vf_filter::{ADDRESSES, ADDRESSES_AND_GROUPS, MAX_FILTERS, VfFilterError};

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
    /// It has agreed to this MTU (VIRTIO_NET_F_MTU): nothing longer is given to it.
    Mtu(Mtu),
    /// This is its address.
    Mac(MacAddr),
    /// It wants these kinds of frames.
    RxMode(RxMode),
    /// Of those, it wants everything, or no longer (ixgbe's UPDATE_XCAST_MODE).
    Promisc(bool),
    /// Of those, it wants all groups, or no longer (UPDATE_XCAST_MODE).
    AllMulti(bool),
    /// These addresses are all that it has besides its own, and all groups that it wants.
    MacTable {
        /// Further unicast addresses.
        unicast: Vec<MacAddr>,
        /// Group addresses.
        multicast: Vec<MacAddr>,
    },
    /// These addresses are all that it has besides its own.
    Unicast(Vec<MacAddr>),
    /// These groups are all that it wants.
    Multicast(Vec<MacAddr>),
    /// Groups with these hashes are all that it wants (SET_MULTICAST of ixgbe and igb).
    GroupHashes(Vec<GroupHash>),
    /// It wants frames of this VLAN.
    VlanAdd(Vid),
    /// No longer.
    VlanDel(Vid),
    /// It wants frames of these VLANs and of no others.
    Vlans(Vec<Vid>),
    /// It wants what is unknown in these VLANs, and in no others unless its mode says so.
    UnknownIn(Vec<UnknownIn>),
}

/// What nobody has asked for, in one VLAN: what a mismatch filter with an outer VID is on (EF10).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct UnknownIn {
    /// The 802.1Q VLAN.
    pub vid: Vid,
    /// Whether groups are meant, all of them; else stations that no VF has, in frames from the wire.
    pub multicast: bool,
}

/// What an Intel NIC knows a group by: bits 36 to 47 of its address, so that many groups have the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct GroupHash(u16);

impl GroupHash {
    /// The lowest 12 bits.
    #[must_use]
    pub fn new(bits: u16) -> GroupHash {
        GroupHash(bits & 0xfff)
    }

    /// That of this group.
    #[must_use]
    #[inline]
    pub fn of(group: MacAddr) -> GroupHash {
        let [.., high, low] = group.0;
        GroupHash(u16::from(low) << 4 | u16::from(high) >> 4)
    }

    /// As a number.
    #[must_use]
    pub fn get(self) -> u16 {
        self.0
    }
}

/// A message from a VF to its PF, with the answer that it gets. Its `Display` is the words it is parsed from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MailboxRequest {
    /// Something to be changed.
    Change(VfRequest),
    /// Whether its link is up (ixgbe's GET_LINK_STATE).
    Link,
    /// The key and the table of the hash (GET_RSS_KEY, GET_RETA), which the administrator shows with `query_rss on`.
    Rss,
    /// How its frames are spread from now on (`rss [types TYPE ...] [hkey KEY] [SPREAD]`, an exclusive RSS context of EF10); `None`: as the
    /// administrator has it (`rss delete`).
    SetRss(Option<Box<DriverRss>>),
    /// A filter of its own (`filter add|del MATCH`, FILTER_OP of EF10).
    Filter(FilterOp),
}

impl Mailbox {
    /// Whether this message is among them.
    pub(crate) fn has(self, message: &MailboxRequest) -> bool {
        let igb = || {
            matches!(
                message,
                MailboxRequest::Change(
                    VfRequest::Reset { .. }
                        | VfRequest::Mac(_)
                        | VfRequest::Unicast(_)
                        | VfRequest::Multicast(_)
                        | VfRequest::GroupHashes(_)
                        | VfRequest::AllMulti(_)
                        | VfRequest::VlanAdd(_)
                        | VfRequest::VlanDel(_)
                        | VfRequest::Mtu(_)
                )
            )
        };
        self == Mailbox::All || igb()
    }
}

/// What a driver has asked for since it started, or what of that is in force.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RxFilter {
    /// Its address; `None`: the one that the NIC gave it.
    pub mac: Option<MacAddr>,
    /// Kinds of frames.
    pub mode: RxMode,
    /// Further unicast addresses: asked for as the driver listed them, in force in order; each once.
    pub unicast: Vec<MacAddr>,
    /// Groups, likewise; `None`: all.
    pub multicast: Option<Vec<MacAddr>>,
    /// Hashes of further groups, likewise.
    pub group_hashes: Vec<GroupHash>,
    /// 802.1Q VLANs, likewise; `None`: all. Other kinds of tags are not filtered.
    pub vlans: Option<Vec<Vid>>,
    /// What is unknown, by VLAN, likewise.
    pub unknown_in: Vec<UnknownIn>,
}

/// All that a driver has asked for since it started, whether it is allowed or not.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Asked {
    pub(crate) filter: RxFilter,
    /// The MTU to which it has agreed.
    pub(crate) mtu: Option<Mtu>,
    /// Of its addresses those that are another VF's, in order: of two drivers the first keeps one, and what the administrator or the NIC has
    /// given to a VF is that one's.
    taken: Vec<MacAddr>,
}

impl Asked {
    /// What a VF with this policy has asked for, and one thing more. `taken`: which of these addresses, in order, another VF has; it looks
    /// at all VFs, and is asked once for all addresses of a table.
    ///
    /// # Errors
    /// [`Refusal`] if that makes no sense, or is an address of its own that it may not have; then it is not remembered.
    pub(crate) fn with(
        mut self,
        request: &VfRequest,
        policy: &VfPolicy,
        taken: impl Fn(&[MacAddr]) -> Vec<MacAddr>,
    ) -> Result<Asked, Refusal> {
        let filter = &mut self.filter;
        match request {
            VfRequest::Reset {
                lists_groups,
                lists_vlans,
            } => {
                self = Asked::default();
                self.filter.multicast = lists_groups.then(Vec::new);
                self.filter.vlans = lists_vlans.then(Vec::new);
            }
            VfRequest::Mtu(mtu) => self.mtu = Some(*mtu),
            VfRequest::Mac(mac) if !mac.is_unicast() => {
                return Err(AddrError::NotUnicast(*mac).into());
            }
            VfRequest::Mac(mac) => match why_not(*mac, policy, !taken(&[*mac]).is_empty()) {
                Some(why) => return Err(why),
                None => {
                    filter.mac = Some(*mac);
                    self.settle(taken);
                }
            },
            VfRequest::RxMode(mode) => filter.mode = *mode,
            VfRequest::Promisc(on) => filter.mode.promisc = *on,
            VfRequest::AllMulti(on) => filter.mode.allmulti = *on,
            VfRequest::MacTable { unicast, multicast } => {
                // Both make sense, or nothing has changed.
                let groups = groups(multicast)?;
                self.list(stations(unicast)?, taken);
                self.filter.multicast = Some(groups);
            }
            VfRequest::Unicast(unicast) => self.list(stations(unicast)?, taken),
            VfRequest::Multicast(multicast) => filter.multicast = Some(groups(multicast)?),
            VfRequest::GroupHashes(hashes) => filter.group_hashes = each_once(hashes),
            VfRequest::VlanAdd(vid) => {
                let vlans = filter.vlans.get_or_insert_default();
                if !vlans.contains(vid) {
                    vlans.push(*vid);
                }
            }
            VfRequest::VlanDel(vid) => {
                if let Some(vlans) = &mut filter.vlans {
                    vlans.retain(|listed| listed != vid);
                }
            }
            VfRequest::Vlans(vlans) => {
                let mut seen = BTreeSet::new();
                let new = vlans.iter().copied().filter(|vid| seen.insert(*vid));
                filter.vlans = Some(new.collect());
            }
            VfRequest::UnknownIn(unknown) => filter.unknown_in.clone_from(unknown),
        }
        Ok(self)
    }

    /// Takes these for all of its further addresses.
    fn list(&mut self, unicast: Vec<MacAddr>, taken: impl Fn(&[MacAddr]) -> Vec<MacAddr>) {
        self.filter.unicast = unicast;
        self.settle(taken);
    }

    /// Its own address and the further ones, if it has asked for any, in order.
    fn addresses(&self) -> Vec<MacAddr> {
        let further = self.filter.unicast.iter().copied();
        let mut all = in_order(further.chain(self.filter.mac));
        all.dedup();
        all
    }

    /// Finds out which of its addresses are another VF's now.
    fn settle(&mut self, taken: impl Fn(&[MacAddr]) -> Vec<MacAddr>) {
        let addresses = self.addresses();
        self.taken = match addresses.is_empty() {
            true => Vec::new(),
            false => taken(&addresses),
        };
    }

    /// The same request when other VFs have been given addresses, if that makes a difference to it. `given`: which of these have been given to
    /// one, `used`: which a driver has; both in order.
    pub(crate) fn settled(
        &self,
        given: impl Fn(&[MacAddr]) -> Vec<MacAddr>,
        used: impl Fn(&[MacAddr]) -> Vec<MacAddr>,
    ) -> Option<Asked> {
        let addresses = self.addresses();
        if addresses.is_empty() {
            return None;
        }
        let mut taken = given(&addresses);
        if !self.taken.is_empty() {
            taken.extend(used(&self.taken));
            taken.sort_unstable();
            taken.dedup();
        }
        (taken != self.taken).then(|| Asked {
            taken,
            ..self.clone()
        })
    }

    /// Which of its addresses another VF has, in order.
    pub(crate) fn taken(&self) -> &[MacAddr] {
        &self.taken
    }

    fn is_taken(&self, mac: MacAddr) -> bool {
        self.taken.binary_search(&mac).is_ok()
    }

    /// What of it is in force under this policy of a VF of such a NIC.
    pub(crate) fn granted(&self, policy: &VfPolicy, silicon: &Silicon) -> RxFilter {
        let RxFilter {
            mac,
            mode,
            unicast,
            multicast,
            group_hashes,
            vlans,
            unknown_in,
        } = &self.filter;
        let room = silicon.vf_room(policy.trust);
        let mut mode = *mode;
        let unmatched = policy.may(Privileges::PROMISCUOUS) && silicon.promiscuous;
        mode.promisc &= unmatched;
        mode.alluni &= unmatched;
        let all_groups = policy.may(Privileges::ALL_MULTICAST);
        mode.allmulti &= all_groups;
        // A VF does not see the VLAN that its port is in, so it has none to name.
        let names_vlans = policy.port_vlan.is_none();
        let in_vlan = |unknown: &UnknownIn| match unknown.multicast {
            true => all_groups && names_vlans,
            false => unmatched && names_vlans,
        };
        mode.nobcast |= !policy.may(Privileges::BROADCAST);
        let [stations, subscribes] =
            [Privileges::UNICAST, Privileges::MULTICAST].map(|p| policy.may(p));
        let all_vlans = mode.promisc || policy.port_vlan.is_some();
        let allowed = unicast
            .iter()
            .copied()
            .filter(|mac| self.allows(*mac, policy));
        let unicast = in_order(allowed.take(if stations { room.addresses } else { 0 }));
        let left = room.addresses_and_groups.saturating_sub(unicast.len());
        let left = left.min(room.groups);
        let groups = |groups: &Vec<MacAddr>| in_order(groups.iter().copied().take(left));
        let hashes = if subscribes { room.groups } else { 0 };
        let listed = |vlans: &Vec<Vid>| in_order(vlans.iter().copied().take(room.vlans));
        RxFilter {
            mac: mac.filter(|mac| self.allows(*mac, policy)),
            mode,
            unicast,
            multicast: match subscribes {
                true => multicast.as_ref().map(groups),
                false => Some(Vec::new()),
            },
            group_hashes: in_order(group_hashes.iter().copied().take(hashes)),
            vlans: vlans.as_ref().filter(|_| !all_vlans).map(listed),
            unknown_in: in_order(unknown_in.iter().copied().filter(in_vlan)),
        }
    }

    /// Why a request was not granted as a whole, given what is in force now: what its driver is to be told. Groups too many
    /// are no reason, as with ixgbe, unless they share their room with addresses, as with i40e; nor are modes.
    pub(crate) fn denied(
        &self,
        request: &VfRequest,
        granted: &RxFilter,
        policy: &VfPolicy,
        silicon: &Silicon,
    ) -> Option<Refusal> {
        let full = |kind, of: fn(&VfRoom) -> usize| {
            let (room, trusted) = (silicon.vf_room(policy.trust), silicon.vf_room(true));
            VfFilterError::full(kind, of(&room), of(&trusted)).into()
        };
        // Those, too, that are more than are remembered.
        let no_address = |unicast: &[MacAddr]| {
            let mac = unicast.iter().find(|mac| !granted.has(**mac))?;
            let why = why_not(*mac, policy, self.is_taken(*mac));
            Some(why.unwrap_or_else(|| full(ADDRESSES, |room| room.addresses)))
        };
        let room = silicon.vf_room(policy.trust);
        let share_room = room.addresses_and_groups < room.addresses + room.groups;
        let no_group = |groups: &[MacAddr]| {
            let in_force = granted.multicast.as_ref().filter(|_| share_room)?;
            let missing = |group| in_force.binary_search(group).is_err();
            let missing = groups.iter().any(missing);
            missing.then(|| full(ADDRESSES_AND_GROUPS, |room| room.addresses_and_groups))
        };
        match request {
            VfRequest::MacTable { unicast, multicast } => {
                no_address(unicast).or_else(|| no_group(multicast))
            }
            VfRequest::Unicast(unicast) => no_address(unicast),
            VfRequest::Multicast(groups) => no_group(groups),
            VfRequest::VlanAdd(vid) => {
                if let Some(port) = &policy.port_vlan {
                    return (!silicon.stacks(port)).then_some(Refusal::PortVlan);
                }
                let vlans = granted.vlans.as_ref()?;
                let missing = vlans.binary_search(vid).is_err();
                missing.then(|| full("VLANs", |room| room.vlans))
            }
            VfRequest::Vlans(vlans) => {
                let next = vlans.iter().map(|vid| VfRequest::VlanAdd(*vid));
                next.map(|add| self.denied(&add, granted, policy, silicon))
                    .find_map(|denied| denied)
            }
            _ => None,
        }
    }

    fn allows(&self, mac: MacAddr, policy: &VfPolicy) -> bool {
        why_not(mac, policy, self.is_taken(mac)).is_none()
    }
}

/// Why a driver cannot have an address, `taken` if another VF has it.
fn why_not(mac: MacAddr, policy: &VfPolicy, taken: bool) -> Option<Refusal> {
    if policy.trust || mac == policy.mac {
        None
    } else if policy.mac_set && !policy.may(Privileges::CHANGE_MAC) {
        Some(Refusal::MacSet(policy.mac))
    } else {
        taken.then_some(Refusal::MacTaken(mac))
    }
}

impl RxFilter {
    /// Whether it is for unicast frames to an address that the VF has.
    #[inline]
    pub(crate) fn wants_own(&self) -> bool {
        self.mode.promisc || !self.mode.nouni
    }

    /// Whether it is for unicast frames that no VF has an address for.
    pub(crate) fn wants_unmatched(&self) -> bool {
        self.mode.promisc || self.mode.alluni && !self.mode.nouni
    }

    /// The VLANs in which it is for groups that nobody has listed, or for stations that no VF has, besides those in which it is
    /// for them anyway.
    pub(crate) fn unknown(&self, multicast: bool) -> impl Iterator<Item = Vid> {
        let off = match multicast {
            true => self.mode.nomulti,
            false => self.mode.nouni,
        };
        let of_kind = move |unknown: &&UnknownIn| !off && unknown.multicast == multicast;
        self.unknown_in
            .iter()
            .filter(of_kind)
            .map(|unknown| unknown.vid)
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

    /// Which hashes of groups it is for besides.
    pub(crate) fn group_hashes(&self) -> &[GroupHash] {
        match self.mode {
            RxMode { nomulti: true, .. } => &[],
            _ => &self.group_hashes,
        }
    }

    /// Whether this group is among those that its driver has listed, and not only among all.
    pub(crate) fn lists(&self, group: MacAddr) -> bool {
        let by_hash = || self.group_hashes().binary_search(&GroupHash::of(group));
        let groups = self.groups();
        groups.is_some_and(|groups| groups.contains(&group) || by_hash().is_ok())
    }

    /// Whether `mac` is one of the further addresses.
    pub(crate) fn has(&self, mac: MacAddr) -> bool {
        self.unicast.binary_search(&mac).is_ok()
    }
}

/// Addresses of stations, as they are listed, each once.
fn stations(macs: &[MacAddr]) -> Result<Vec<MacAddr>, Refusal> {
    match macs.iter().find(|mac| !mac.is_unicast()) {
        Some(mac) => Err(AddrError::NotUnicast(*mac).into()),
        None => Ok(each_once(macs)),
    }
}

/// Addresses of groups, likewise.
fn groups(macs: &[MacAddr]) -> Result<Vec<MacAddr>, Refusal> {
    match macs.iter().find(|mac| !mac.is_multicast()) {
        Some(mac) => Err(AddrError::NotMulticast(*mac).into()),
        None => Ok(each_once(macs)),
    }
}

/// Addresses or hashes as they are listed, each once, and no more than a VF can ever have.
fn each_once<T: Copy + Ord>(listed: &[T]) -> Vec<T> {
    let mut seen = BTreeSet::new();
    let new = listed.iter().copied().filter(|one| seen.insert(*one));
    new.take(MAX_FILTERS).collect()
}

fn in_order<T: Ord>(all: impl Iterator<Item = T>) -> Vec<T> {
    let mut all: Vec<T> = all.collect();
    all.sort_unstable();
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::profile::Profile;
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

    fn ask(policy: &VfPolicy, requests: &[VfRequest]) -> (Asked, RxFilter, Option<Refusal>) {
        let mut asked = Asked::default();
        for request in requests {
            asked = asked.with(request, policy, taken).unwrap();
        }
        let silicon = Profile::Generic.silicon();
        let granted = asked.granted(policy, &silicon);
        let last = requests.last().unwrap();
        let denied = asked.denied(last, &granted, policy, &silicon);
        (asked, granted, denied)
    }

    fn taken(macs: &[MacAddr]) -> Vec<MacAddr> {
        let macs = macs.iter().copied();
        macs.filter(|mac| *mac == TAKEN).collect()
    }

    fn nobodys(_: &[MacAddr]) -> Vec<MacAddr> {
        Vec::new()
    }

    fn granted(asked: &Asked, policy: &VfPolicy) -> RxFilter {
        asked.granted(policy, &Profile::Generic.silicon())
    }

    fn table(unicast: &[MacAddr], multicast: &[MacAddr]) -> VfRequest {
        VfRequest::MacTable {
            unicast: unicast.to_vec(),
            multicast: multicast.to_vec(),
        }
    }

    fn many(first: u8, n: u32) -> Vec<MacAddr> {
        let base = MacAddr([first, 0, 0, 1, 0, 0]);
        (0..n).map(|i| base.offset(i)).collect()
    }

    fn vlan(vid: u16) -> VfRequest {
        VfRequest::VlanAdd(Vid::new(vid).unwrap())
    }

    #[test]
    fn addresses_are_the_administrators_before_they_are_the_guests() {
        let set = VfSetting::Mac(OWN);
        for (settings, mac, answer) in [
            (&[][..], OTHER, None),
            (&[], TAKEN, Some(Refusal::MacTaken(TAKEN))),
            (&[set], OTHER, Some(Refusal::MacSet(OWN))),
            (&[set], OWN, None),
            (&[set, VfSetting::Trust(true)], OTHER, None),
            (&[VfSetting::Trust(true)], TAKEN, None),
        ] {
            let policy = policy(settings);
            // Refused an address of its own, a driver goes on with the one that it has.
            let own = Asked::default().with(&VfRequest::Mac(mac), &policy, taken);
            assert_eq!(own.err(), answer, "{settings:?} {mac}");
            // One of a table takes nothing from the others, and is remembered.
            let (asked, granted, denied) = ask(&policy, &[table(&[mac, OWN], &[GROUP])]);
            assert_eq!(denied, answer, "{settings:?} {mac}");
            assert_eq!(
                asked.filter.unicast,
                [mac, OWN]
                    .into_iter()
                    .take(1 + usize::from(mac != OWN))
                    .collect::<Vec<_>>()
            );
            assert_eq!(granted.has(mac), denied.is_none());
            assert!(granted.has(OWN) && granted.groups() == Some(&[GROUP]));
        }
        for senseless in [
            VfRequest::Mac(GROUP),
            table(&[GROUP], &[]),
            table(&[], &[OTHER]),
        ] {
            let refused = Asked::default().with(&senseless, &policy(&[]), nobodys);
            assert!(refused.is_err(), "{senseless:?}");
        }
    }

    /// Of 255 VFs each was asked twice for each of 1024 addresses, half a million times for one command of a driver.
    #[test]
    fn all_vfs_are_asked_once_for_all_addresses_of_a_table() {
        let asks = std::cell::Cell::new(0);
        let counted = |macs: &[MacAddr]| {
            asks.set(asks.get() + 1);
            taken(macs)
        };
        let plain = policy(&[]);
        let long = table(&many(2, 1024), &many(1, 1024));
        let asked = Asked::default().with(&long, &plain, counted).unwrap();
        assert_eq!(asks.get(), 1);
        assert_eq!(asked.filter.unicast.len(), 1024);
        assert_eq!(asked.settled(counted, counted), None);
        assert_eq!(asks.get(), 2);
        // Whoever has asked for none has nobody asked.
        assert_eq!(Asked::default().settled(counted, counted), None);
        let mode = VfRequest::RxMode(RxMode::default());
        assert!(asked.with(&mode, &plain, counted).is_ok());
        assert_eq!(asks.get(), 2);
    }

    #[test]
    fn trust_that_is_taken_back_takes_back_what_it_gave() {
        let trusted = policy(&[VfSetting::Mac(OWN), VfSetting::Trust(true)]);
        let mode = RxMode {
            promisc: true,
            nobcast: true,
            ..RxMode::default()
        };
        let requests = [
            VfRequest::Mac(OTHER),
            table(&[TAKEN, TAKEN], &[GROUP]),
            VfRequest::RxMode(mode),
            vlan(5),
        ];
        let (asked, given, denied) = ask(&trusted, &requests);
        assert_eq!(asked.filter.unicast, [TAKEN]);
        assert_eq!((given.mac, given.mode), (Some(OTHER), mode));
        assert!(given.wants_broadcast() && given.vlans.is_none() && given.has(TAKEN));
        assert_eq!(denied, None);
        let untrusted = trusted.with(VfSetting::Trust(false)).unwrap();
        let left = granted(&asked, &untrusted);
        assert_eq!((left.mac, left.unicast.len()), (None, 0));
        assert!(!left.mode.promisc && !left.wants_broadcast());
        assert_eq!(left.groups(), Some(&[GROUP][..]));
        assert_eq!(left.vlans, asked.filter.vlans);
        assert_eq!(granted(&asked, &trusted), given, "and gives it again");
        let reset = VfRequest::Reset {
            lists_groups: false,
            lists_vlans: false,
        };
        let forgotten = asked.with(&reset, &trusted, nobodys);
        assert_eq!(forgotten, Ok(Asked::default()));
    }

    /// Each kind has room of its own; what does not fit is the last that was listed, and has its place when there is room.
    #[test]
    fn what_is_too_much_is_kept_until_there_is_room() {
        let (plain, trusted) = (policy(&[]), policy(&[VfSetting::Trust(true)]));
        for (unicast, groups, fit, says) in [
            (16, 30, (16, 30), ""),
            (
                17,
                1,
                (16, 1),
                "a VF has at most 16 further addresses (1024 with trust)",
            ),
            (1, 31, (1, 30), ""),
            (
                1024,
                1024,
                (16, 30),
                "a VF has at most 16 further addresses (1024 with trust)",
            ),
        ] {
            // From the last to the first: it is not the lowest that win.
            let listed = |mut macs: Vec<MacAddr>| {
                macs.reverse();
                macs
            };
            let (all, every) = (listed(many(2, unicast)), listed(many(1, groups)));
            let (asked, given, denied) = ask(&plain, &[table(&all, &every)]);
            let said = denied.map(|why| why.to_string()).unwrap_or_default();
            assert_eq!(said, says);
            assert_eq!(given.unicast, in_order(all[..fit.0].iter().copied()));
            assert_eq!(
                given.groups(),
                Some(&in_order(every[..fit.1].iter().copied())[..])
            );
            let given = granted(&asked, &trusted);
            assert_eq!(given.unicast.len(), unicast as usize);
            assert_eq!(
                given.multicast.map(|groups| groups.len()),
                Some(groups as usize)
            );
        }
        let (asked, given, denied) = ask(&trusted, &[table(&many(2, 2000), &[])]);
        assert_eq!(
            denied.unwrap().to_string(),
            "a VF has at most 1024 further addresses"
        );
        assert_eq!(
            (asked.filter.unicast.len(), given.unicast.len()),
            (1024, 1024)
        );
    }

    #[test]
    fn vlans_wait_for_room_for_trust_and_for_the_end_of_a_port_vlan() {
        let (plain, trusted) = (policy(&[]), policy(&[VfSetting::Trust(true)]));
        let port = policy(&[VfSetting::Vlan(10)]);
        let all: Vec<_> = (1..=4094).rev().map(vlan).collect();
        let (asked, given, denied) = ask(&plain, &all);
        let says = "a VF has at most 16 VLANs (4094 with trust)";
        assert_eq!(denied.unwrap().to_string(), says);
        let first = (4079..=4094).map(|vid| Vid::new(vid).unwrap());
        assert_eq!(given.vlans, Some(first.collect::<Vec<_>>()));
        assert_eq!(granted(&asked, &trusted).vlans.unwrap().len(), 4094);
        assert_eq!(granted(&asked, &port).vlans, None);
        let fewer = asked.with(
            &VfRequest::VlanDel(Vid::new(4094).unwrap()),
            &plain,
            nobodys,
        );
        let next = Vid::new(4078).unwrap();
        assert!(
            granted(&fewer.unwrap(), &plain)
                .vlans
                .unwrap()
                .contains(&next)
        );
        for (profile, denied) in [
            (Profile::Generic, None),
            (Profile::Ixgbe, Some(Refusal::PortVlan)),
        ] {
            let (asked, given, _) = ask(&port, &[vlan(5)]);
            assert_eq!(
                asked.denied(&vlan(5), &given, &port, &profile.silicon()),
                denied
            );
            let left = asked.granted(&plain, &profile.silicon());
            assert_eq!(left.vlans, Some(vec![Vid::new(5).unwrap()]));
        }
        // As many as the family does.
        for (profile, trust, room) in [
            (Profile::Ixgbe, true, 64),
            (Profile::I40e, false, 16),
            (Profile::I40e, true, 4094),
            (Profile::Mlx5Legacy, false, 4094),
        ] {
            let policy = if trust { &trusted } else { &plain };
            let (asked, ..) = ask(policy, &all);
            let given = asked.granted(policy, &profile.silicon()).vlans.unwrap();
            assert_eq!(given.len(), room, "{profile}");
        }
    }
}
