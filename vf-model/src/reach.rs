//! The one decision that both paths share: who receives a frame. Never counts anything and never changes anything.

use vf_packet::{FrameMeta, Header, MacAddr, Vlan, VlanTag};

use crate::filter_index::FrameActions;
use crate::filter_spec::{FilterAction, MAC_CONTROL};
use crate::lookup::Lookup;
use crate::policy::Policy;
use crate::probe::{Met, Probe, Step};
use crate::reach_len::{Unfit, tags_of, tags_of_arrival};
use crate::stats::DropReason;
use crate::switch_mode::SwitchMode;
use crate::verdict::{Onward, Tagging, Verdict};
use crate::vf::{Path, VfIndex, VfLinkState, VfSet};

/// Who receives a frame, whichever path each of them takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Reach {
    /// VFs on the direct path, the sender never among them.
    pub(crate) direct: VfSet,
    /// VFs on the mediated path, the sender never among them.
    pub(crate) mediated: VfSet,
    /// Whether it leaves on the wire.
    pub(crate) wire: bool,
    /// The sender's port VLAN tag.
    pub(crate) insert: Option<VlanTag>,
    /// The VF that gets it since a filter of the administrator's says so, and not the frame's address.
    pub(crate) steered: Option<VfIndex>,
    /// VFs to which filters have it copied, if somebody gets it.
    pub(crate) copies: VfSet,
    /// Whether a filter has it go by way of the hypervisor, to whomever it is for here.
    pub(crate) over_pf: bool,
    /// Why, if it reaches nobody.
    pub(crate) otherwise: DropReason,
    /// Whom it would reach if it were not too long for them.
    pub(crate) unfit: Unfit,
}

impl Reach {
    /// Whether a VF here receives it.
    fn is_received(&self) -> bool {
        !self.direct.is_empty() || !self.mediated.is_empty()
    }

    /// Whether nobody receives it.
    fn is_nowhere(&self) -> bool {
        !self.is_received() && !self.wire
    }

    /// Why nobody gets it, if it is too long for all whom it reaches or their drivers drop it; they count it.
    ///
    /// # Errors
    /// Why it reaches nobody, if it does not; it is the sender's drop.
    pub(crate) fn drop(&self) -> Result<Option<DropReason>, DropReason> {
        let Unfit {
            vfs, port, dropped, ..
        } = self.unfit;
        match (self.is_nowhere(), !vfs.is_empty() || port) {
            (false, _) => Ok(None),
            (true, true) => Ok(Some(DropReason::MtuExceeded)),
            (true, false) if !dropped.is_empty() => Ok(Some(DropReason::Filtered)),
            (true, false) => Err(self.otherwise),
        }
    }

    /// The same without a receiver.
    pub(crate) fn nowhere(self) -> Reach {
        Reach {
            direct: VfSet::default(),
            mediated: VfSet::default(),
            wire: false,
            unfit: Unfit::default(),
            ..self
        }
    }

    /// Leaves to the hypervisor all that VFs here receive, those among them whose rings the NIC has.
    pub(crate) fn hand_up(&mut self) {
        let here = std::mem::take(&mut self.direct);
        self.mediated = self.mediated.union(here);
    }

    /// Adds those of `vfs` whose link is up.
    fn add(&mut self, lookup: &Lookup, vfs: VfSet, probe: &mut impl Probe) {
        let down = vfs.difference(lookup.up);
        if !down.is_empty() {
            probe.note(|| Step::LinkDown(down));
        }
        let vfs = vfs.intersection(lookup.up);
        self.direct = self.direct.union(vfs.difference(lookup.mediated));
        self.mediated = self.mediated.union(vfs.intersection(lookup.mediated));
    }
}

/// Where a frame comes from, as far as that decides who receives it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    /// This VF.
    Vf(VfIndex),
    /// The hypervisor's bridge on the PF, or a station behind it.
    Pf,
    /// The wire.
    Wire,
}

impl Policy {
    /// What holds for a frame from anywhere.
    #[inline]
    pub(crate) fn parse(head: &[u8]) -> Result<Header, DropReason> {
        let header = Header::parse(head).map_err(|_| DropReason::Runt)?;
        if header.dst.is_reserved() || header.ethertype == MAC_CONTROL {
            return Err(DropReason::ReservedMulticast);
        }
        Ok(header)
    }

    /// Who receives a frame that a VF sends, after the checks on the sender.
    #[inline(always)]
    pub(crate) fn reach_from_vf(
        &self,
        vf: VfIndex,
        header: &Header,
        flow: FrameActions,
        meta: &FrameMeta,
        probe: &mut impl Probe,
    ) -> Result<Reach, DropReason> {
        Policy::check_len(meta)?;
        let entry = self.entry(vf);
        if !self.lookup().up.contains(vf) {
            return Err(self.why_down(vf));
        }
        if self.is_long(meta) && entry.tx_mtu(self.mtu()).is_exceeded(tags_of(header), meta) {
            return Err(DropReason::MtuExceeded);
        }
        let (sent, mut header, mut flow) = (header, *header, flow);
        let (vlan, insert) = match &entry.policy.port_vlan {
            // What only carries a priority is in the port VLAN like what has no tag (IEEE 802.1Q 6.9).
            Some(port) if header.vlan() != Vlan::NONE && !self.silicon().stacks(port) => {
                return Err(DropReason::TaggedOnPortVlan);
            }
            Some(port) => {
                // With the port VLAN's tag in front, the second of its own tags is where filters look for a type.
                if header.tags.as_slice().len() == 2 {
                    flow = FrameActions::default();
                }
                probe.note(|| Step::PortVlan {
                    vf,
                    tag: port.tag(),
                    tagged: header.vlan() != Vlan::NONE,
                });
                header = header.behind(port.tag());
                (Vlan::of_tag(port.tag()), Some(port.tag()))
            }
            None => (header.vlan(), None),
        };
        probe.note(|| Step::InVlan(vlan));
        // One check of both, as Intel's: what the VF may send from, and in which VLANs.
        if self.lookup().spoofchk.contains(vf) {
            if header.src != entry.mac() && !entry.has(header.src, vlan) {
                probe.note(|| Step::Spoofed {
                    vf,
                    src: header.src,
                    own: entry.mac(),
                });
                return Err(DropReason::SpoofedMac);
            }
            let asks_list = self.silicon().spoofchk_by_list;
            let in_vlan = entry.takes_part(vlan) && (!asks_list || entry.receives(vlan));
            if !in_vlan {
                let unlisted = entry.takes_part(vlan);
                probe.note(|| Step::NotItsVlan { vf, unlisted });
                return Err(DropReason::VlanFiltered);
            }
            probe.note(|| Step::Spoofchk {
                vf,
                src: header.src,
            });
        } else {
            probe.note(|| Step::NoSpoofchk(vf));
        }
        if self.filter_table().judges_sent() {
            self.check_sent(vf, &header, flow, vlan, probe)?;
        }
        let origin = Origin::Vf(vf);
        let mut reach = self.reach(&header, flow, vlan, origin, probe);
        reach.insert = insert;
        self.finish(&mut reach, origin, tags_of(sent), meta, probe);
        self.ask_drivers(&mut reach, &header, flow, vlan, probe);
        Ok(reach)
    }

    /// What filters on what VFs send say of a frame.
    #[inline(never)]
    fn check_sent(
        &self,
        vf: VfIndex,
        header: &Header,
        flow: FrameActions,
        vlan: Vlan,
        probe: &mut impl Probe,
    ) -> Result<(), DropReason> {
        let rule = self.filter_table().find_sent(vf, header, flow, vlan);
        if let Some(rule) = &rule {
            probe.filter(rule, Met::Egress);
        }
        match rule.map(|rule| rule.action) {
            Some(FilterAction::Drop) => Err(DropReason::EgressFiltered),
            None if self.filter_table().sends_only_listed(vf) => {
                probe.note(|| Step::NotListed(vf));
                Err(DropReason::EgressFiltered)
            }
            _ => Ok(()),
        }
    }

    /// Whom a frame reaches beyond the PF that a station on the hypervisor's bridge sends.
    pub(crate) fn reach_from_station(
        &self,
        station: VfIndex,
        header: &Header,
        flow: FrameActions,
        meta: &FrameMeta,
        probe: &mut impl Probe,
    ) -> Result<Reach, DropReason> {
        Policy::check_len(meta)?;
        if !self.lookup().up.contains(station) {
            return Err(self.why_down(station));
        }
        if self.is_long(meta) && self.tx_mtu(station).is_exceeded(tags_of(header), meta) {
            return Err(DropReason::MtuExceeded);
        }
        let mut reach = self.reach(header, flow, header.vlan(), Origin::Pf, probe);
        self.finish(&mut reach, Origin::Pf, tags_of(header), meta, probe);
        self.ask_drivers(&mut reach, header, flow, header.vlan(), probe);
        Ok(reach)
    }

    /// Leaves out those whose drivers have filters that drop what they receive, copies of what others do included. Stations on the
    /// hypervisor's bridge have none, for the NIC knows nothing of them.
    #[inline(always)]
    fn ask_drivers(
        &self,
        reach: &mut Reach,
        header: &Header,
        flow: FrameActions,
        vlan: Vlan,
        probe: &mut impl Probe,
    ) {
        if !self.lookup().own_filters.is_empty() {
            self.take_dropped(reach, header, flow, vlan, probe);
        }
    }

    #[inline(never)]
    fn take_dropped(
        &self,
        reach: &mut Reach,
        header: &Header,
        flow: FrameActions,
        vlan: Vlan,
        probe: &mut impl Probe,
    ) {
        let reached = reach.direct.union(reach.mediated);
        for vf in reached.intersection(self.lookup().own_filters).iter() {
            reach.unfit.asked = true;
            let Some(rule) = self.entry(vf).own_rule(header, vlan, flow.head()) else {
                continue;
            };
            probe.filter(&rule, Met::Driver(vf));
            if rule.action == FilterAction::Drop {
                reach.direct.remove(vf);
                reach.mediated.remove(vf);
                reach.unfit.dropped.insert(vf);
            }
        }
    }

    /// Who receives a frame that comes from the wire. The NIC's filters can direct it even if nobody here has its address.
    #[inline(always)]
    pub(crate) fn reach_from_wire(
        &self,
        header: &Header,
        flow: FrameActions,
        meta: &FrameMeta,
        probe: &mut impl Probe,
    ) -> Reach {
        let (vlan, origin) = (header.vlan(), Origin::Wire);
        probe.note(|| Step::InVlan(vlan));
        let mut reach = self.reach(header, flow, vlan, origin, probe);
        // What nobody has would leave on the wire. A frame that a filter hands up has met one: it is no mismatch.
        if reach.wire
            && !reach.over_pf
            && !header.dst.is_multicast()
            && let Some(rule) = self.filter_table().unknown_unicast()
        {
            let action = rule.action;
            match action {
                FilterAction::Mirror(vf) if self.entry(vf).receives(vlan) => {
                    probe.filter(&rule, Met::Copied);
                    reach.copies.insert(vf);
                }
                FilterAction::Drop | FilterAction::Pass => {
                    probe.filter(&rule, Met::Filter);
                    reach = self.reach_by(action, origin, false, probe);
                }
                FilterAction::Mediated => {
                    probe.filter(&rule, Met::Filter);
                    reach.over_pf = true;
                }
                FilterAction::Vf(vf)
                | FilterAction::Queue(vf, _)
                | FilterAction::Context(vf, _)
                    if self.entry(vf).receives(vlan) =>
                {
                    probe.filter(&rule, Met::Filter);
                    reach.steered = Some(vf);
                    self.give(&mut reach, vf, origin, probe);
                }
                FilterAction::Vf(_)
                | FilterAction::Queue(..)
                | FilterAction::Context(..)
                | FilterAction::Mirror(_) => {
                    probe.filter(&rule, Met::PassedOver);
                }
            }
        }
        reach.wire = false;
        self.finish(&mut reach, origin, tags_of_arrival(header), meta, probe);
        self.ask_drivers(&mut reach, header, flow, vlan, probe);
        reach
    }

    #[inline(always)]
    fn reach(
        &self,
        header: &Header,
        flow: FrameActions,
        vlan: Vlan,
        origin: Origin,
        probe: &mut impl Probe,
    ) -> Reach {
        let from_wire = origin == Origin::Wire;
        if self.switch_mode() == SwitchMode::Vepa && !from_wire {
            probe.note(|| Step::Vepa);
            return self.reach_wire();
        }
        // A NIC without a switch does not see what VFs here send each other.
        let switches = self.switch_mode() != SwitchMode::None;
        let filters = !self.filter_table().is_empty() && (from_wire || switches);
        let mut reach = Reach {
            wire: false,
            ..self.reach_wire()
        };
        if filters && from_wire && self.reach_filter(header, flow, vlan, origin, &mut reach, probe)
        {
            return reach;
        }
        let Reach {
            copies, over_pf, ..
        } = reach;
        reach = if header.dst.is_multicast() {
            self.reach_group(header, vlan, origin, probe)
        } else {
            self.reach_owner(header, vlan, origin, probe)
        };
        (reach.copies, reach.over_pf) = (copies, over_pf);
        // What a VF sends is received only if the switch gives it to VFs here; what leaves on the wire is not.
        if filters && !from_wire && reach.is_received() {
            self.reach_filter(header, flow, vlan, origin, &mut reach, probe);
        }
        reach
    }

    /// What the NIC's filters make of a frame that is received; whether one decides who gets it. A filter neither gives it back to its sender
    /// nor touches the copy for the wire, if there is one.
    #[inline(never)]
    fn reach_filter(
        &self,
        header: &Header,
        flow: FrameActions,
        vlan: Vlan,
        origin: Origin,
        reach: &mut Reach,
        probe: &mut impl Probe,
    ) -> bool {
        let may_get = |vf| origin != Origin::Vf(vf) && self.entry(vf).receives(vlan);
        let copies = &mut reach.copies;
        let rule = self.filter_table().find(header, flow, vlan, |rule| {
            if let FilterAction::Mirror(vf) = rule.action
                && may_get(vf)
            {
                probe.filter(rule, Met::Copied);
                copies.insert(vf);
                return false;
            }
            let takes = match rule.action {
                FilterAction::Mirror(_) => false,
                action => action.vf().is_none_or(may_get),
            };
            if !takes {
                probe.filter(rule, Met::PassedOver);
            }
            takes
        });
        let Some(rule) = rule else {
            return false;
        };
        probe.filter(&rule, Met::Filter);
        let action = rule.action;
        if action == FilterAction::Mediated {
            reach.over_pf = true;
            return false;
        }
        *reach = Reach {
            copies: reach.copies,
            ..self.reach_by(action, origin, reach.wire, probe)
        };
        true
    }

    /// What a filter that matches makes of a frame.
    fn reach_by(
        &self,
        action: FilterAction,
        origin: Origin,
        wire: bool,
        probe: &mut impl Probe,
    ) -> Reach {
        let mut reach = Reach {
            wire,
            ..self.reach_wire()
        };
        match action {
            // Neither a copy nor a way decides who gets it: none of them comes here.
            FilterAction::Drop
            | FilterAction::Pass
            | FilterAction::Mirror(_)
            | FilterAction::Mediated => {
                reach.otherwise = DropReason::Filtered;
            }
            FilterAction::Vf(vf) | FilterAction::Queue(vf, _) | FilterAction::Context(vf, _) => {
                reach.steered = Some(vf);
                self.give(&mut reach, vf, origin, probe);
            }
        }
        reach
    }

    #[inline(never)]
    fn reach_group(
        &self,
        header: &Header,
        vlan: Vlan,
        origin: Origin,
        probe: &mut impl Probe,
    ) -> Reach {
        let (lookup, dst) = (self.lookup(), header.dst);
        let listening = if dst.is_broadcast() {
            lookup.broadcast
        } else {
            lookup.group(dst, vlan)
        };
        let members = listening.intersection(lookup.members(vlan));
        probe.note(|| Step::Group {
            dst,
            listening,
            members,
        });
        let mut reach = self.reach_wire();
        let members = self.without_sender(members, header.src, vlan, origin, probe);
        reach.add(lookup, members, probe);
        self.add_stations(&mut reach, origin, probe);
        reach
    }

    /// Those of `vfs` that have not sent the frame. In VEPA mode the adjacent bridge reflects what it floods, to its sender, too, which is
    /// known by its address.
    fn without_sender(
        &self,
        mut vfs: VfSet,
        src: MacAddr,
        vlan: Vlan,
        origin: Origin,
        probe: &mut impl Probe,
    ) -> VfSet {
        match origin {
            Origin::Vf(vf) => vfs.remove(vf),
            Origin::Wire if self.switch_mode() == SwitchMode::Vepa => {
                for vf in self.lookup().macs.get(src, vlan) {
                    probe.note(|| Step::OwnFrame(vf));
                    vfs.remove(vf);
                }
            }
            Origin::Wire | Origin::Pf => {}
        }
        vfs
    }

    /// Beyond all VFs: out on the wire, if there is a link.
    #[inline]
    fn reach_wire(&self) -> Reach {
        Reach {
            direct: VfSet::default(),
            mediated: VfSet::default(),
            wire: self.uplink_up(),
            insert: None,
            steered: None,
            copies: VfSet::default(),
            over_pf: false,
            unfit: Unfit::default(),
            otherwise: if self.uplink_up() {
                DropReason::NoReceiver
            } else {
                self.why_no_link()
            },
        }
    }

    #[inline(always)]
    fn reach_owner(
        &self,
        header: &Header,
        vlan: Vlan,
        origin: Origin,
        probe: &mut impl Probe,
    ) -> Reach {
        let dst = header.dst;
        let mut reach = self.reach_wire();
        let mut matched = false;
        for vf in self.lookup().macs.get(dst, vlan) {
            let entry = self.entry(vf);
            if !entry.receives(vlan) {
                probe.note(|| Step::OwnerElsewhere { vf, vlan });
                continue;
            }
            probe.note(|| Step::Owner { vf, dst });
            // It lives here, so neither the wire nor its absence matters.
            matched = true;
            reach.wire = false;
            if entry.rx.wants_own() {
                self.give(&mut reach, vf, origin, probe);
            } else {
                probe.note(|| Step::Unwanted(vf));
                reach.otherwise = DropReason::NoReceiver;
            }
        }
        if origin != Origin::Pf && self.fdb().has(dst, vlan) {
            matched = true;
            reach.wire = false;
            reach.otherwise = DropReason::NoReceiver;
            probe.note(|| Step::BehindPf(dst));
            self.add_stations(&mut reach, origin, probe);
        }
        if !matched {
            probe.note(|| Step::Nobody(dst));
        }
        if origin == Origin::Wire && !matched {
            let lookup = self.lookup();
            let promiscuous = lookup.unmatched(vlan).intersection(lookup.members(vlan));
            probe.note(|| Step::Promiscuous(promiscuous));
            let promiscuous = self.without_sender(promiscuous, header.src, vlan, origin, probe);
            reach.add(lookup, promiscuous, probe);
            self.add_stations(&mut reach, origin, probe);
        }
        reach
    }

    /// Adds the stations on the hypervisor's bridge, unless the frame comes from there: it has the PF receive everything that
    /// the NIC has for it, and says itself which of its stations a frame is for.
    fn add_stations(&self, reach: &mut Reach, origin: Origin, probe: &mut impl Probe) {
        let stations = self.lookup().stations;
        if origin != Origin::Pf && !stations.is_empty() {
            probe.note(|| Step::Stations(stations));
            reach.add(self.lookup(), stations, probe);
        }
    }

    /// Adds the VFs to which is copied what others send and receive, or what filters say. What reaches nobody is not mirrored, and what has been mirrored is not mirrored again.
    #[cold]
    pub(crate) fn mirror_copies(&self, reach: &mut Reach, origin: Origin, probe: &mut impl Probe) {
        let received = reach.direct.union(reach.mediated);
        let arrives = reach.wire || !received.is_empty();
        let mut to = match arrives {
            true => reach.copies,
            false => VfSet::default(),
        };
        for (vf, mirror) in &self.lookup().mirrors {
            if received.contains(*vf) || arrives && origin == Origin::Vf(*vf) {
                to.insert(*mirror);
            }
        }
        if let Origin::Vf(vf) = origin {
            to.remove(vf);
        }
        if !to.is_empty() {
            probe.note(|| Step::Mirrored(to));
            reach.add(self.lookup(), to, probe);
        }
    }

    /// Adds a VF that a frame is for to those that it reaches.
    #[inline(always)]
    fn give(&self, reach: &mut Reach, vf: VfIndex, origin: Origin, probe: &mut impl Probe) {
        reach.otherwise = DropReason::NoReceiver;
        if origin == Origin::Vf(vf) {
            probe.note(|| Step::OwnFrame(vf));
            return;
        }
        if !self.lookup().up.contains(vf) {
            reach.otherwise = self.why_down(vf);
            probe.note(|| Step::LinkDown([vf].into_iter().collect()));
        } else if self.vf(vf).path == Path::Mediated {
            reach.mediated.insert(vf);
        } else {
            reach.direct.insert(vf);
        }
    }

    #[cold]
    fn why_down(&self, vf: VfIndex) -> DropReason {
        match self.vf(vf).state {
            VfLinkState::Disable => DropReason::VfDisabled,
            VfLinkState::Auto | VfLinkState::Enable => self.why_no_link(),
        }
    }

    /// How the copies of a frame differ from what the sender gave, if its verdict said to insert this.
    #[must_use]
    #[inline]
    pub fn tagging(&self, insert: Option<VlanTag>) -> Tagging {
        let port_vlans = self.lookup().port_vlans;
        Tagging { insert, port_vlans }
    }

    /// What is left to do on the other side of the PF with a frame that this policy has judged so.
    #[must_use]
    pub fn onward(&self, verdict: &Verdict) -> Onward {
        Onward {
            vfs: verdict.beyond,
            wire: verdict.wire_beyond,
            held: verdict.held,
            from: verdict.from,
            // The PF's copy has the tag in it.
            tagging: self.tagging(None),
            grown: verdict.insert.is_some(),
        }
    }
}
