//! Policies and filters of all VFs of a NIC, and the one decision both paths share: who receives a frame.
//! A value: the NIC and the hypervisor model each have their own and apply the same commands. Never counts anything.

use crate::addr::{MacAddr, Vid, Vlan, VlanTag};
use crate::command::Command;
use crate::config::NicConfig;
use crate::filter::{FilterError, Filters};
use crate::filter_table::{Actions, FilterTable};
use crate::frame::{FrameMeta, Header, MAX_FRAME};
use crate::link::wire_bytes;
use crate::mac_index::MacIndex;
use crate::mailbox::{RxFilter, VfRequest};
use crate::profile::Silicon;
use crate::rate::TokenBucket;
use crate::refusal::Refusal;
use crate::rss::Rss;
use crate::stats::DropReason;
use crate::steering::FilterAction;
use crate::time::Nanos;
use crate::verdict::TagEdit;
use crate::vf::{MAX_VFS, Path, VfIndex, VfLinkState, VfPolicy, VfSet, VfSetting};

/// Longest super-frame that a virtio header can describe, with room for tags.
const MAX_SUPER_FRAME: u32 = 65_535 + 14 + 8;
/// MAC control frames, PAUSE among them (IEEE 802.3 31).
const MAC_CONTROL: u16 = 0x8808;

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
    /// Why, if it reaches nobody.
    pub(crate) otherwise: DropReason,
}

impl Reach {
    /// Adds those of `vfs` whose link is up.
    fn add(&mut self, lookup: &Lookup, vfs: VfSet) {
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
    /// Some VF; its frame has been judged already, on the other side of the PF.
    Host,
    /// The wire.
    Wire,
}

/// One VF as configured.
#[derive(Clone, Debug)]
struct Entry {
    policy: VfPolicy,
    filters: Filters,
    /// What the driver has asked for.
    asked: RxFilter,
    /// What of that is in force.
    rx: RxFilter,
    limiter: Option<TokenBucket>,
    rss: Rss,
}

/// Policies, filters, limiters, and what is derived from them for looking up.
#[derive(Clone, Debug)]
pub(crate) struct VfTable {
    entries: Vec<Entry>,
    link_up: bool,
    silicon: Silicon,
    /// The NIC's own filters.
    table: FilterTable,
    lookup: Lookup,
}

/// Everything that a frame is looked up in; rebuilt from the entries at each change.
#[derive(Clone, Debug)]
struct Lookup {
    macs: MacIndex,
    /// VFs that have listed a group.
    groups: MacIndex,
    /// VFs whose path is mediated.
    mediated: VfSet,
    /// VFs whose link is up.
    up: VfSet,
    /// VFs that receive untagged frames and those of every customer VLAN.
    trunks: VfSet,
    /// VFs that receive frames of every service VLAN.
    service_trunks: VfSet,
    /// VFs that receive broadcast, if they are in its VLAN.
    broadcast: VfSet,
    /// VFs that receive all groups of their VLANs.
    all_groups: VfSet,
    /// VFs that receive unicast frames from the wire that no VF has an address for.
    unmatched: VfSet,
    /// VFs that receive a VLAN's frames, in order; those in `trunks` are left out.
    members: Vec<(Vlan, VfSet)>,
}

impl VfTable {
    pub(crate) fn new(config: NicConfig) -> VfTable {
        let vfs = u32::from(config.vfs.clamp(1, MAX_VFS));
        let rss = Rss::new();
        let entries: Vec<Entry> = (0..vfs)
            .map(|i| Entry {
                policy: VfPolicy::new(config.mac_base.offset(i)),
                filters: Filters::default(),
                asked: RxFilter::default(),
                rx: RxFilter::default(),
                limiter: None,
                rss: rss.clone(),
            })
            .collect();
        VfTable {
            lookup: Lookup::new(&entries, true),
            entries,
            link_up: true,
            silicon: config.profile.silicon(),
            table: FilterTable::new(config.profile),
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(crate) fn policy(&self, vf: VfIndex) -> &VfPolicy {
        &self.entries[vf.index()].policy
    }

    pub(crate) fn filters(&self, vf: VfIndex) -> &Filters {
        &self.entries[vf.index()].filters
    }

    pub(crate) fn asked(&self, vf: VfIndex) -> &RxFilter {
        &self.entries[vf.index()].asked
    }

    pub(crate) fn in_force(&self, vf: VfIndex) -> &RxFilter {
        &self.entries[vf.index()].rx
    }

    pub(crate) fn mac(&self, vf: VfIndex) -> MacAddr {
        self.entries[vf.index()].mac()
    }

    pub(crate) fn rss(&self, vf: VfIndex) -> &Rss {
        &self.entries[vf.index()].rss
    }

    pub(crate) fn table(&self) -> &FilterTable {
        &self.table
    }

    pub(crate) fn link_up(&self) -> bool {
        self.link_up
    }

    pub(crate) fn link_up_for(&self, vf: VfIndex) -> bool {
        self.lookup.up.contains(vf)
    }

    /// VFs on the mediated path.
    pub(crate) fn mediated(&self) -> VfSet {
        self.lookup.mediated
    }

    pub(crate) fn apply(&mut self, command: &Command) -> Result<(), Refusal> {
        let silicon = self.silicon;
        match command {
            // What VFs are looked up in stays as it is.
            Command::InsertFilter(spec) => {
                if let FilterAction::Vf(vf) = spec.action {
                    self.entry(vf)?;
                }
                return Ok(self.table.insert(spec)?);
            }
            Command::RemoveFilter { matches, priority } => {
                return Ok(self.table.remove(matches, *priority)?);
            }
            Command::SetRss { vf, key, spread } => {
                return Ok(self.entry(*vf)?.rss.set(*key, spread.as_ref())?);
            }
            Command::FlushFilters => {
                self.table = FilterTable::new(self.table.profile());
                return Ok(());
            }
            Command::SetLink { up } => self.link_up = *up,
            Command::SetVf { vf, settings } => {
                let entry = self.entry(*vf)?;
                let mut policy = entry.policy;
                for setting in settings {
                    policy = policy.with(*setting)?;
                }
                if policy.port_vlan.is_some() && entry.filters.names_vlan() {
                    return Err(Refusal::PortVlanAndFilters);
                }
                if settings.iter().any(|s| matches!(s, VfSetting::Mac(_))) {
                    entry.asked.mac = None;
                }
                if policy.max_tx_rate != entry.policy.max_tx_rate {
                    entry.limiter = policy.max_tx_rate.map(TokenBucket::new);
                }
                entry.policy = policy;
                entry.rx = granted(&entry.asked, &policy, &silicon);
            }
            Command::FilterAdd { vf, filter } => {
                let entry = self.entry(*vf)?;
                let mut filters = entry.filters.clone();
                filters.add(*filter, entry.policy.trust)?;
                if filters.macs().len() > silicon.vf_macs {
                    let room = silicon.vf_macs;
                    return Err(FilterError::Full { room }.into());
                }
                if entry.policy.port_vlan.is_some() && filters.names_vlan() {
                    return Err(Refusal::PortVlanAndFilters);
                }
                entry.filters = filters;
            }
            Command::FilterDel { vf, filter } => self.entry(*vf)?.filters.del(*filter)?,
        }
        self.lookup = Lookup::new(&self.entries, self.link_up);
        Ok(())
    }

    /// Does what the driver of a VF asks for.
    pub(crate) fn request(&mut self, vf: VfIndex, request: &VfRequest) -> Result<(), Refusal> {
        let entry = self.entry(vf)?.clone();
        let taken = |mac| {
            let others = self.entries.iter().enumerate();
            let mut others = others.filter(|(i, _)| *i != vf.index());
            others.any(|(_, other)| other.mac() == mac || other.has(mac))
        };
        let asked = entry.asked.clone().with(request, &entry.policy, taken)?;
        if asked == entry.asked {
            return Ok(());
        }
        let silicon = self.silicon;
        if asked.unicast.len() > silicon.vf_macs {
            let room = silicon.vf_macs;
            return Err(FilterError::Full { room }.into());
        }
        let entry = self.entry(vf)?;
        let before = std::mem::replace(&mut entry.rx, granted(&asked, &entry.policy, &silicon));
        entry.asked = asked;
        if entry.rx != before {
            self.lookup = Lookup::new(&self.entries, self.link_up);
        }
        Ok(())
    }

    fn entry(&mut self, vf: VfIndex) -> Result<&mut Entry, Refusal> {
        let last = VfIndex::from(self.entries.len() - 1);
        self.entries
            .get_mut(vf.index())
            .ok_or(Refusal::NoSuchVf { vf, last })
    }

    #[inline]
    pub(crate) fn tx_ready_at(&self, vf: VfIndex, now: Nanos) -> Nanos {
        match &self.entries[vf.index()].limiter {
            None => now,
            Some(bucket) => bucket.ready_at(),
        }
    }

    /// Charges a frame to the sender's limiter.
    #[inline]
    pub(crate) fn take_tokens(&mut self, now: Nanos, vf: VfIndex, meta: &FrameMeta) {
        if let Some(bucket) = &mut self.entries[vf.index()].limiter {
            bucket.take(now, wire_bytes(meta));
        }
    }

    /// What holds for a frame from anywhere.
    #[inline]
    pub(crate) fn parse(head: &[u8]) -> Result<Header, DropReason> {
        let header = Header::parse(head).map_err(|_| DropReason::Runt)?;
        if header.dst.is_reserved() || header.ethertype == MAC_CONTROL {
            return Err(DropReason::ReservedMulticast);
        }
        Ok(header)
    }

    /// What holds for a frame where it enters the host; later it may have grown by a tag.
    #[inline]
    pub(crate) fn check_len(meta: &FrameMeta) -> Result<(), DropReason> {
        if meta.longest() > MAX_FRAME || meta.len > MAX_SUPER_FRAME {
            return Err(DropReason::Oversize);
        }
        Ok(())
    }

    /// Who receives a frame that a VF sends, after the checks on the sender.
    #[inline(always)]
    pub(crate) fn reach_from_vf(
        &self,
        vf: VfIndex,
        header: &Header,
        flow: Actions,
        meta: &FrameMeta,
    ) -> Result<Reach, DropReason> {
        VfTable::check_len(meta)?;
        let entry = &self.entries[vf.index()];
        if !self.lookup.up.contains(vf) {
            return Err(self.why_down(vf));
        }
        if entry.policy.spoofchk && header.src != entry.mac() && !entry.has(header.src) {
            return Err(DropReason::SpoofedMac);
        }
        let (vlan, insert) = match &entry.policy.port_vlan {
            Some(_) if header.tags.outer().is_some() => return Err(DropReason::TaggedOnPortVlan),
            Some(port) => (Vlan::of_tag(port.tag()), Some(port.tag())),
            None => (header.vlan(), None),
        };
        if !entry.takes_part(vlan) {
            return Err(DropReason::VlanFiltered);
        }
        let mut reach = self.reach(header, flow, vlan, Origin::Vf(vf));
        reach.insert = insert;
        Ok(reach)
    }

    /// Who receives a frame that comes over the PF or from the wire. What may come from the wire, the NIC's filters can
    /// direct even if nobody here has its address.
    #[inline(always)]
    pub(crate) fn reach_from_outside(
        &self,
        header: &Header,
        flow: Actions,
        origin: Origin,
    ) -> Reach {
        let vlan = header.vlan();
        let mut reach = self.reach(header, flow, vlan, origin);
        // What nobody has would leave on the wire.
        if origin == Origin::Wire
            && reach.wire
            && !header.dst.is_multicast()
            && let Some(action) = self.table.unknown_unicast()
        {
            match action {
                FilterAction::Drop => reach = self.reach_by(action, header.dst, origin),
                FilterAction::Vf(vf) if self.entries[vf.index()].receives(vlan) => {
                    self.give(&mut reach, vf, origin);
                }
                FilterAction::Vf(_) => {}
            }
        }
        reach
    }

    #[inline(always)]
    fn reach(&self, header: &Header, flow: Actions, vlan: Vlan, origin: Origin) -> Reach {
        if !self.silicon.switches && origin != Origin::Wire {
            return self.reach_wire();
        }
        if !self.table.is_empty()
            && let Some(reach) = self.reach_filter(header, flow, vlan, origin)
        {
            return reach;
        }
        if header.dst.is_multicast() {
            self.reach_group(header.dst, vlan, origin)
        } else {
            self.reach_owner(header.dst, vlan, origin)
        }
    }

    #[inline(never)]
    fn reach_filter(
        &self,
        header: &Header,
        flow: Actions,
        vlan: Vlan,
        origin: Origin,
    ) -> Option<Reach> {
        let action = self.table.find(header, flow, vlan, |action| match action {
            FilterAction::Drop => true,
            FilterAction::Vf(vf) => self.entries[vf.index()].receives(vlan),
        })?;
        Some(self.reach_by(action, header.dst, origin))
    }

    /// What a filter that matches makes of a frame.
    fn reach_by(&self, action: FilterAction, dst: MacAddr, origin: Origin) -> Reach {
        let mut reach = self.reach_wire();
        match action {
            FilterAction::Drop => {
                reach.wire = false;
                reach.otherwise = DropReason::Filtered;
            }
            FilterAction::Vf(vf) => {
                reach.wire &= dst.is_multicast();
                self.give(&mut reach, vf, origin);
            }
        }
        reach
    }

    #[inline(never)]
    fn reach_group(&self, dst: MacAddr, vlan: Vlan, origin: Origin) -> Reach {
        let lookup = &self.lookup;
        let listening = if dst.is_broadcast() {
            lookup.broadcast
        } else {
            lookup
                .groups
                .get(dst, vlan)
                .fold(lookup.all_groups, |mut vfs, vf| {
                    vfs.insert(vf);
                    vfs
                })
        };
        let mut reach = self.reach_wire();
        reach.add(lookup, listening.intersection(lookup.members(vlan)));
        if let Origin::Vf(vf) = origin {
            reach.direct.remove(vf);
            reach.mediated.remove(vf);
        }
        reach
    }

    /// Beyond all VFs: out on the wire, if there is a link.
    #[inline]
    fn reach_wire(&self) -> Reach {
        Reach {
            direct: VfSet::default(),
            mediated: VfSet::default(),
            wire: self.link_up,
            insert: None,
            otherwise: if self.link_up {
                DropReason::NoReceiver
            } else {
                DropReason::LinkDown
            },
        }
    }

    #[inline(always)]
    fn reach_owner(&self, dst: MacAddr, vlan: Vlan, origin: Origin) -> Reach {
        let mut reach = self.reach_wire();
        let mut matched = false;
        for vf in self.lookup.macs.get(dst, vlan) {
            let entry = &self.entries[vf.index()];
            if !entry.receives(vlan) {
                continue;
            }
            // It lives here, so neither the wire nor its absence matters.
            matched = true;
            reach.wire = false;
            if entry.rx.wants_own() {
                self.give(&mut reach, vf, origin);
            } else {
                reach.otherwise = DropReason::NoReceiver;
            }
        }
        if origin == Origin::Wire && !matched {
            let lookup = &self.lookup;
            reach.add(lookup, lookup.unmatched.intersection(lookup.members(vlan)));
        }
        reach
    }

    /// Adds a VF that a frame is for to those that it reaches.
    #[inline(always)]
    fn give(&self, reach: &mut Reach, vf: VfIndex, origin: Origin) {
        reach.otherwise = DropReason::NoReceiver;
        if origin == Origin::Vf(vf) {
            return;
        }
        if !self.lookup.up.contains(vf) {
            reach.otherwise = self.why_down(vf);
        } else if self.policy(vf).path == Path::Mediated {
            reach.mediated.insert(vf);
        } else {
            reach.direct.insert(vf);
        }
    }

    #[cold]
    fn why_down(&self, vf: VfIndex) -> DropReason {
        match self.policy(vf).state {
            VfLinkState::Disable => DropReason::VfDisabled,
            VfLinkState::Auto | VfLinkState::Enable => DropReason::LinkDown,
        }
    }

    /// How the copy for one receiver differs from what the sender gave.
    #[inline]
    pub(crate) fn egress_edit(&self, insert: Option<VlanTag>, to: VfIndex) -> TagEdit {
        let hidden = self.policy(to).port_vlan.is_some();
        match insert {
            Some(_) if hidden => TagEdit::Keep,
            Some(tag) => TagEdit::Insert(tag),
            None if hidden => TagEdit::Strip,
            None => TagEdit::Keep,
        }
    }
}

impl Entry {
    /// The VF's address.
    #[inline]
    fn mac(&self) -> MacAddr {
        self.rx.mac.unwrap_or(self.policy.mac)
    }

    /// Whether `mac` is one of the further addresses.
    fn has(&self, mac: MacAddr) -> bool {
        let macs = self.filters.macs();
        let at = macs.partition_point(|(m, _)| *m < mac);
        macs.get(at).is_some_and(|(m, _)| *m == mac) || self.rx.has(mac)
    }

    /// Whether frames of this VLAN are the VF's to send and receive.
    #[inline]
    fn takes_part(&self, vlan: Vlan) -> bool {
        match &self.policy.port_vlan {
            Some(port) => vlan == Vlan::of_tag(port.tag()),
            None => {
                vlan == Vlan::NONE
                    || self.filters.vlans().is_empty()
                    || lists(self.filters.vlans(), vlan)
            }
        }
    }

    /// Whether its driver wants frames of this VLAN, too.
    #[inline]
    fn receives(&self, vlan: Vlan) -> bool {
        let wants =
            |vlans: &Vec<Vid>| vlan == Vlan::NONE || vlan.is_service() || lists(vlans, vlan);
        self.takes_part(vlan) && self.rx.vlans.as_ref().is_none_or(wants)
    }
}

/// What of a driver's wishes is in force.
fn granted(asked: &RxFilter, policy: &VfPolicy, silicon: &Silicon) -> RxFilter {
    let mut asked = asked.clone();
    asked.mode.promisc &= silicon.promiscuous;
    asked.mode.alluni &= silicon.promiscuous;
    asked.granted(policy)
}

fn lists(vlans: &[Vid], vlan: Vlan) -> bool {
    vlans
        .binary_search_by_key(&vlan, |v| Vlan::of_vid(*v))
        .is_ok()
}

impl Lookup {
    fn new(entries: &[Entry], link_up: bool) -> Lookup {
        let numbered = || {
            let entries = entries.iter().enumerate();
            entries.map(|(i, entry)| (VfIndex::from(i), entry))
        };
        let macs = numbered().flat_map(|(vf, e)| {
            let own = std::iter::once((e.mac(), None, vf));
            let more = e.filters.macs().iter();
            let asked = e.rx.unicast.iter().map(move |mac| (*mac, None, vf));
            own.chain(more.map(move |(mac, vid)| (*mac, vid.map(Vlan::of_vid), vf)))
                .chain(asked)
        });
        let groups = numbered().flat_map(|(vf, e)| {
            let listed = e.rx.groups().unwrap_or_default().iter();
            listed.map(move |mac| (*mac, None, vf))
        });
        let set = |pick: &dyn Fn(&Entry) -> bool| {
            let picked = numbered().filter(|(_, e)| pick(e));
            picked.map(|(vf, _)| vf).collect::<VfSet>()
        };
        let mut memberships: Vec<(Vlan, VfIndex)> = Vec::new();
        for (vf, entry) in numbered() {
            let listed = match (
                &entry.policy.port_vlan,
                entry.filters.vlans(),
                &entry.rx.vlans,
            ) {
                (Some(port), ..) => {
                    memberships.push((Vlan::of_tag(port.tag()), vf));
                    continue;
                }
                (None, [], None) => continue,
                (None, [], Some(asked)) => asked.as_slice(),
                (None, allowed, _) => allowed,
            };
            let vlans = listed.iter().map(|v| Vlan::of_vid(*v));
            let vlans = vlans
                .filter(|vlan| entry.receives(*vlan))
                .chain([Vlan::NONE]);
            memberships.extend(vlans.map(|vlan| (vlan, vf)));
        }
        memberships.sort_unstable();
        let members = memberships
            .chunk_by(|a, b| a.0 == b.0)
            .map(|same| (same[0].0, same.iter().map(|m| m.1).collect()))
            .collect();
        let unlimited = |e: &Entry| e.policy.port_vlan.is_none() && e.filters.vlans().is_empty();
        Lookup {
            macs: MacIndex::new(macs),
            groups: MacIndex::new(groups),
            mediated: set(&|e| e.policy.path == Path::Mediated),
            up: set(&|e| match e.policy.state {
                VfLinkState::Auto => link_up,
                VfLinkState::Enable => true,
                VfLinkState::Disable => false,
            }),
            trunks: set(&|e| unlimited(e) && e.rx.vlans.is_none()),
            service_trunks: set(&unlimited),
            broadcast: set(&|e| e.rx.wants_broadcast()),
            all_groups: set(&|e| e.rx.groups().is_none()),
            unmatched: set(&|e| e.rx.wants_unmatched()),
            members,
        }
    }

    /// VFs that receive frames of this VLAN.
    fn members(&self, vlan: Vlan) -> VfSet {
        let trunks = if vlan.is_service() {
            self.service_trunks
        } else {
            self.trunks
        };
        match self.members.binary_search_by_key(&vlan, |m| m.0) {
            Ok(at) => self.members[at].1.union(trunks),
            Err(_) => trunks,
        }
    }
}
