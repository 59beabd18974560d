//! What a frame is looked up in: who has an address, who is in a VLAN, whose link is up. Derived from what has been said
//! about each VF, and made anew when that changes. Never changes once it is made, never allocates while looking up.

use std::collections::BTreeMap;
use std::sync::Arc;

use vf_packet::{MacAddr, Vlan};

use crate::entry::Entry;
use crate::mac_index::MacIndex;
use crate::mailbox::GroupHash;
use crate::mtu::Mtu;
use crate::profile::Silicon;
use crate::vf::{Path, VfIndex, VfLinkState, VfSet};

/// Everything that a frame is looked up in; rebuilt from the entries at each change.
#[derive(Clone, Debug)]
pub(crate) struct Lookup {
    pub(crate) macs: Arc<MacIndex>,
    /// VFs that have listed a group.
    pub(crate) groups: Arc<MacIndex>,
    /// VFs that have listed a hash of groups, in order.
    group_hashes: Arc<[(GroupHash, VfSet)]>,
    /// VFs whose source address and VLAN are checked.
    pub(crate) spoofchk: VfSet,
    /// VFs in a port VLAN, which see no tag of it.
    pub(crate) port_vlans: VfSet,
    /// VFs whose path is mediated, stations on the hypervisor's bridge among them.
    pub(crate) mediated: VfSet,
    /// Stations on the hypervisor's bridge, which the NIC knows nothing of: in no other set or table but `mediated` and `up`.
    pub(crate) stations: VfSet,
    /// Who is mirrored, and to whom.
    pub(crate) mirrors: Vec<(VfIndex, VfIndex)>,
    /// VFs whose path is `auto`.
    pub(crate) auto: VfSet,
    /// VFs whose drivers have filters on what they receive.
    pub(crate) own_filters: VfSet,
    /// VFs whose link is up.
    pub(crate) up: VfSet,
    /// VFs that receive untagged frames and those of every customer VLAN.
    pub(crate) trunks: VfSet,
    /// VFs that receive frames of every service VLAN.
    pub(crate) service_trunks: VfSet,
    /// VFs that receive broadcast, if they are in its VLAN.
    pub(crate) broadcast: VfSet,
    /// VFs that receive all groups of their VLANs.
    all_groups: VfSet,
    /// VFs that receive unicast frames from the wire that no VF has an address for.
    unmatched: VfSet,
    /// VFs that receive all groups of a VLAN, and such frames as in `unmatched`, in that VLAN only; in order.
    all_groups_in: Arc<[(Vlan, VfSet)]>,
    unmatched_in: Arc<[(Vlan, VfSet)]>,
    /// Length up to which a frame is too long for nobody here: only longer ones are asked for the MTU of each.
    pub(crate) fits_all: u32,
    /// VFs that receive a VLAN's frames, in order; those in `trunks` are left out.
    members: Arc<[(Vlan, VfSet)]>,
}

/// Who is in which VLAN while that is put together: many VFs in all VLANs take no sorting.
struct Members {
    /// By VLAN: where in `sets` its members are, counted from 1.
    at: Vec<u16>,
    sets: Vec<(Vlan, VfSet)>,
}

impl Members {
    fn new() -> Members {
        Members {
            at: vec![0; 1 << 14],
            sets: Vec::new(),
        }
    }

    fn add(&mut self, vlan: Vlan, vf: VfIndex) {
        let Some(at) = self.at.get_mut(usize::from(vlan.to_u16())) else {
            return; // no VLAN has such a number
        };
        if *at == 0 {
            self.sets.push((vlan, VfSet::default()));
            *at = self.sets.len() as u16;
        }
        if let Some((_, vfs)) = self.sets.get_mut(usize::from(*at) - 1) {
            vfs.insert(vf);
        }
    }

    fn in_order(mut self) -> Arc<[(Vlan, VfSet)]> {
        self.sets.sort_unstable_by_key(|(vlan, _)| *vlan);
        self.sets.into()
    }
}

impl Lookup {
    pub(crate) fn new(
        entries: &[Arc<Entry>],
        link_up: bool,
        port_mtu: Mtu,
        silicon: &Silicon,
    ) -> Lookup {
        let all = || {
            let entries = entries.iter().enumerate();
            entries.map(|(i, entry)| (VfIndex::from(i), entry))
        };
        let numbered = || all().filter(|(_, entry)| !entry.policy.bridge);
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
        let mut group_hashes = BTreeMap::<GroupHash, VfSet>::new();
        for (vf, e) in numbered() {
            for hash in e.rx.group_hashes() {
                group_hashes.entry(*hash).or_default().insert(vf);
            }
        }
        let set = |pick: &dyn Fn(&Entry) -> bool| {
            let picked = numbered().filter(|(_, e)| pick(e));
            picked.map(|(vf, _)| vf).collect::<VfSet>()
        };
        let stations: VfSet = (all().filter(|(_, e)| e.policy.bridge).map(|(vf, _)| vf)).collect();
        let mirrors = all().filter_map(|(vf, e)| Some((vf, e.policy.mirror?)));
        let mut members = Members::new();
        for (vf, entry) in numbered() {
            let listed = match (
                &entry.policy.port_vlan,
                entry.filters.vlans(),
                &entry.rx.vlans,
            ) {
                (Some(port), ..) => {
                    members.add(Vlan::of_tag(port.tag()), vf);
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
            vlans.for_each(|vlan| members.add(vlan, vf));
        }
        let unknown_in = |multicast| {
            let named =
                numbered().flat_map(|(vf, e)| e.rx.unknown(multicast).map(move |vid| (vf, vid)));
            let mut named = named.peekable();
            if named.peek().is_none() {
                return Arc::default();
            }
            let mut members = Members::new();
            named.for_each(|(vf, vid)| members.add(Vlan::of_vid(vid), vf));
            members.in_order()
        };
        let unlimited = |e: &Entry| e.policy.port_vlan.is_none() && e.filters.vlans().is_empty();
        Lookup {
            macs: Arc::new(MacIndex::new(macs)),
            groups: Arc::new(MacIndex::new(groups)),
            group_hashes: group_hashes.into_iter().collect(),
            spoofchk: set(&|e| {
                let ended = silicon.addresses_end_spoofchk && !e.rx.unicast.is_empty();
                e.policy.spoofchk && !ended
            }),
            port_vlans: set(&|e| e.policy.port_vlan.is_some()),
            mediated: set(&|e| e.policy.path == Path::Mediated).union(stations),
            stations,
            mirrors: mirrors.collect(),
            auto: set(&|e| e.policy.path == Path::Auto),
            own_filters: set(&|e| !e.own_filters.is_empty()),
            up: all()
                .filter(|(_, e)| match e.policy.state {
                    // The bridge's ports do not follow that of the NIC.
                    VfLinkState::Auto => link_up || e.policy.bridge,
                    VfLinkState::Enable => true,
                    VfLinkState::Disable => false,
                })
                .map(|(vf, _)| vf)
                .collect(),
            trunks: set(&|e| unlimited(e) && e.rx.vlans.is_none()),
            service_trunks: set(&unlimited),
            broadcast: set(&|e| e.rx.wants_broadcast()),
            all_groups: set(&|e| e.rx.groups().is_none()),
            unmatched: set(&|e| e.rx.wants_unmatched()),
            all_groups_in: unknown_in(true),
            unmatched_in: unknown_in(false),
            fits_all: all()
                .map(|(_, e)| e.rx_mtu(port_mtu))
                .fold(port_mtu, Mtu::min)
                .longest(0),
            members: members.in_order(),
        }
    }

    /// VFs that receive frames of this VLAN.
    pub(crate) fn members(&self, vlan: Vlan) -> VfSet {
        let trunks = if vlan.is_service() {
            self.service_trunks
        } else {
            self.trunks
        };
        of_key(&self.members, vlan).union(trunks)
    }

    /// VFs that receive this group in this VLAN, if they are in it.
    pub(crate) fn group(&self, group: MacAddr, vlan: Vlan) -> VfSet {
        let mut vfs = self.all_groups(vlan);
        let listed = self.groups.get(group, vlan);
        listed.for_each(|vf| {
            vfs.insert(vf);
        });
        match self.group_hashes.is_empty() {
            true => vfs,
            false => vfs.union(of_key(&self.group_hashes, GroupHash::of(group))),
        }
    }

    /// VFs that have listed this group, by its address or by its hash.
    pub(crate) fn listed(&self, group: MacAddr, vlan: Vlan) -> VfSet {
        let by_address: VfSet = self.groups.get(group, vlan).collect();
        by_address.union(of_key(&self.group_hashes, GroupHash::of(group)))
    }

    /// VFs that receive all groups in this VLAN, if they are in it.
    pub(crate) fn all_groups(&self, vlan: Vlan) -> VfSet {
        self.all_groups.union(of_key(&self.all_groups_in, vlan))
    }

    /// VFs that receive unicast frames from the wire in this VLAN that no VF has an address for, if they are in it.
    pub(crate) fn unmatched(&self, vlan: Vlan) -> VfSet {
        self.unmatched.union(of_key(&self.unmatched_in, vlan))
    }
}

fn of_key<K: Copy + Ord>(sets: &[(K, VfSet)], key: K) -> VfSet {
    match sets.binary_search_by_key(&key, |(of, _)| *of) {
        Ok(at) => sets[at].1,
        Err(_) => VfSet::default(),
    }
}
