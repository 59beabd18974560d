//! Policies and filters of all VFs of a NIC, and the one decision both paths share: who receives a frame.
//! A value: the NIC and the hypervisor model each have their own and apply the same commands. Never counts anything.

use crate::addr::{MacAddr, Vlan, VlanTag};
use crate::command::{Command, Refusal};
use crate::filter::Filters;
use crate::frame::{FrameMeta, Header, MAX_FRAME};
use crate::link::wire_bytes;
use crate::mac_index::MacIndex;
use crate::nic::NicConfig;
use crate::rate::TokenBucket;
use crate::stats::DropReason;
use crate::time::Nanos;
use crate::verdict::{TagEdit, Verdict};
use crate::vf::{MAX_VFS, Path, VfIndex, VfLinkState, VfPolicy, VfSet};

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

/// One VF as configured.
#[derive(Clone, Debug)]
struct Entry {
    policy: VfPolicy,
    filters: Filters,
    limiter: Option<TokenBucket>,
}

/// Policies, filters, limiters, and what is derived from them for looking up.
#[derive(Clone, Debug)]
pub(crate) struct VfTable {
    entries: Vec<Entry>,
    link_up: bool,
    lookup: Lookup,
}

/// Everything that a frame is looked up in; rebuilt from the entries at each change.
#[derive(Clone, Debug)]
struct Lookup {
    macs: MacIndex,
    /// VFs whose path is mediated.
    mediated: VfSet,
    /// VFs whose link is up.
    up: VfSet,
    /// VFs that take part in every VLAN and receive untagged frames.
    trunks: VfSet,
    /// VFs that take part in a VLAN, in order; those in `trunks` are left out.
    members: Vec<(Vlan, VfSet)>,
}

impl VfTable {
    pub(crate) fn new(config: NicConfig) -> VfTable {
        let vfs = u32::from(config.vfs.clamp(1, MAX_VFS));
        let entries: Vec<Entry> = (0..vfs)
            .map(|i| Entry {
                policy: VfPolicy::new(config.mac_base.offset(i)),
                filters: Filters::default(),
                limiter: None,
            })
            .collect();
        VfTable {
            lookup: Lookup::new(&entries, true),
            entries,
            link_up: true,
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
        match command {
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
                if policy.max_tx_rate != entry.policy.max_tx_rate {
                    entry.limiter = policy.max_tx_rate.map(TokenBucket::new);
                }
                entry.policy = policy;
            }
            Command::FilterAdd { vf, filter } => {
                let entry = self.entry(*vf)?;
                let mut filters = entry.filters.clone();
                filters.add(*filter, entry.policy.trust)?;
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

    fn entry(&mut self, vf: VfIndex) -> Result<&mut Entry, Refusal> {
        let last = VfIndex::from(self.entries.len() - 1);
        self.entries
            .get_mut(vf.index())
            .ok_or(Refusal::NoSuchVf { vf, last })
    }

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
        meta: &FrameMeta,
    ) -> Result<Reach, DropReason> {
        VfTable::check_len(meta)?;
        let entry = &self.entries[vf.index()];
        if !self.lookup.up.contains(vf) {
            return Err(self.why_down(vf));
        }
        if entry.policy.spoofchk && header.src != entry.policy.mac && !entry.has(header.src) {
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
        let mut reach = self.reach(header.dst, vlan, Some(vf));
        reach.insert = insert;
        Ok(reach)
    }

    /// Who receives a frame that comes over the PF or from the wire.
    #[inline(always)]
    pub(crate) fn reach_from_outside(&self, header: &Header) -> Reach {
        self.reach(header.dst, header.vlan(), None)
    }

    #[inline(always)]
    fn reach(&self, dst: MacAddr, vlan: Vlan, sender: Option<VfIndex>) -> Reach {
        if dst.is_multicast() {
            self.reach_group(vlan, sender)
        } else {
            self.reach_owner(dst, vlan, sender)
        }
    }

    #[inline(never)]
    fn reach_group(&self, vlan: Vlan, sender: Option<VfIndex>) -> Reach {
        let mut vfs = self.lookup.members(vlan).intersection(self.lookup.up);
        if let Some(vf) = sender {
            vfs.remove(vf);
        }
        Reach {
            direct: vfs.difference(self.lookup.mediated),
            mediated: vfs.intersection(self.lookup.mediated),
            ..self.reach_wire()
        }
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
    fn reach_owner(&self, dst: MacAddr, vlan: Vlan, sender: Option<VfIndex>) -> Reach {
        let mut reach = self.reach_wire();
        for vf in self.lookup.macs.get(dst, vlan) {
            let entry = &self.entries[vf.index()];
            if !entry.takes_part(vlan) {
                continue;
            }
            // It lives here, so neither the wire nor its absence matters.
            reach.wire = false;
            reach.otherwise = DropReason::NoReceiver;
            if sender == Some(vf) {
                continue;
            }
            if !self.lookup.up.contains(vf) {
                reach.otherwise = self.why_down(vf);
            } else if entry.policy.path == Path::Mediated {
                reach.mediated.insert(vf);
            } else {
                reach.direct.insert(vf);
            }
        }
        reach
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
    pub(crate) fn egress_edit(&self, verdict: &Verdict, to: VfIndex) -> TagEdit {
        let hidden = self.policy(to).port_vlan.is_some();
        match verdict.insert {
            Some(_) if hidden => TagEdit::Keep,
            Some(tag) => TagEdit::Insert(tag),
            None if hidden => TagEdit::Strip,
            None => TagEdit::Keep,
        }
    }
}

impl Entry {
    /// Whether `mac` is one of the further addresses.
    fn has(&self, mac: MacAddr) -> bool {
        let macs = self.filters.macs();
        let at = macs.partition_point(|(m, _)| *m < mac);
        macs.get(at).is_some_and(|(m, _)| *m == mac)
    }

    /// Whether frames of this VLAN are the VF's to send and receive.
    #[inline]
    fn takes_part(&self, vlan: Vlan) -> bool {
        match &self.policy.port_vlan {
            Some(port) => vlan == Vlan::of_tag(port.tag()),
            None => {
                let vlans = self.filters.vlans();
                vlan == Vlan::NONE
                    || vlans.is_empty()
                    || vlans
                        .binary_search_by_key(&vlan, |v| Vlan::of_vid(*v))
                        .is_ok()
            }
        }
    }
}

impl Lookup {
    fn new(entries: &[Entry], link_up: bool) -> Lookup {
        let numbered = || {
            let entries = entries.iter().enumerate();
            entries.map(|(i, entry)| (VfIndex::from(i), entry))
        };
        let macs = numbered().flat_map(|(vf, e)| {
            let own = std::iter::once((e.policy.mac, None, vf));
            let more = e.filters.macs().iter();
            own.chain(more.map(move |(mac, vid)| (*mac, vid.map(Vlan::of_vid), vf)))
        });
        let set = |pick: &dyn Fn(&Entry) -> bool| {
            let picked = numbered().filter(|(_, e)| pick(e));
            picked.map(|(vf, _)| vf).collect::<VfSet>()
        };
        let mut memberships: Vec<(Vlan, VfIndex)> = Vec::new();
        for (vf, entry) in numbered() {
            match &entry.policy.port_vlan {
                Some(port) => memberships.push((Vlan::of_tag(port.tag()), vf)),
                None if entry.filters.vlans().is_empty() => {}
                None => {
                    let vlans = entry.filters.vlans().iter().map(|v| Vlan::of_vid(*v));
                    let all = vlans.chain([Vlan::NONE]);
                    memberships.extend(all.map(|vlan| (vlan, vf)));
                }
            }
        }
        memberships.sort_unstable();
        let members = memberships
            .chunk_by(|a, b| a.0 == b.0)
            .map(|same| (same[0].0, same.iter().map(|m| m.1).collect()))
            .collect();
        Lookup {
            macs: MacIndex::new(macs),
            mediated: set(&|e| e.policy.path == Path::Mediated),
            up: set(&|e| match e.policy.state {
                VfLinkState::Auto => link_up,
                VfLinkState::Enable => true,
                VfLinkState::Disable => false,
            }),
            trunks: set(&|e| e.policy.port_vlan.is_none() && e.filters.vlans().is_empty()),
            members,
        }
    }

    fn members(&self, vlan: Vlan) -> VfSet {
        match self.members.binary_search_by_key(&vlan, |m| m.0) {
            Ok(at) => self.members[at].1.union(self.trunks),
            Err(_) => self.trunks,
        }
    }
}
