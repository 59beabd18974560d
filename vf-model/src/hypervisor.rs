//! The hypervisor of one host: judges every frame that mediated guests send or that the NIC hands up. Its bridge learns
//! where stations are and so on which ports a frame is tried; who receives it is for the filters to say, as on the direct
//! path. Where the two disagree the filters win: the result must not depend on whether a frame takes the slow path (the golden
//! rule of Linux's representors), and a guest that may spoof could take over its neighbour's traffic. So a station behind a VF, a
//! bridge in the guest, is heard at its vif and gets frames once the VF's filters name it, on either path; until then what
//! siblings send it leaves on the wire, as a NIC's switch, which learns nothing, has it.
//! Never touches the frame itself.

use std::sync::Arc;

use vf_packet::{FrameMeta, Header, MacAddr, Vlan};

use crate::bridge::{Bridge, BridgePort, BridgeSet};
use crate::filter_index::{Actions, FrameActions};
use crate::hits::CountHits;
use crate::judge::{Account, Judge};
use crate::learned::FastEvent;
use crate::learner::Learner;
use crate::policy::Policy;
use crate::reach::Reach;
use crate::reach_len::{Unfit, tags_of, tags_of_arrival};
use crate::source::Source;
use crate::stats::DropReason;
use crate::time::Nanos;
use crate::verdict::{Onward, Verdict};
use crate::verdict_cache::{LinkKey, VerdictCache};
use crate::vf::{VfIndex, VfSet};

/// The model of the mediated path: the bridge, limiters and counters. Judges by the same [`Policy`] as the [`crate::Nic`].
#[derive(Clone, Debug)]
pub struct HypervisorModel {
    account: Account,
    bridge: Bridge,
    /// The bridge on the PF, if there are stations on it. Mediated VFs are no ports of it: to them the NIC's rules apply, and
    /// what it learns must not depend on the path that a VF's frames take.
    station_bridge: Option<Bridge>,
    learner: Learner,
    /// What has been said of frames, until the policy changes; not while there are stations, of whom a bridge decides.
    known: VerdictCache,
}

impl HypervisorModel {
    /// The hypervisor of a host with a NIC of this policy.
    #[must_use]
    pub fn new(policy: Arc<Policy>) -> HypervisorModel {
        let mut hypervisor = HypervisorModel {
            account: Account::new(Arc::clone(&policy)),
            bridge: Bridge::new(),
            station_bridge: None,
            learner: Learner::default(),
            known: VerdictCache::new(),
        };
        hypervisor.adopt(policy);
        hypervisor
    }

    /// Judges a frame that a mediated VF sends by its first bytes, as [`crate::Nic::ingress`] does. `pf` in the verdict hands
    /// it to the NIC, for direct VFs, the wire or both.
    pub fn ingress(&mut self, now: Nanos, vf: VfIndex, head: &[u8], meta: &FrameMeta) -> Verdict {
        self.account.take_tokens(now, vf, meta);
        let flow = self.account.policy.flow_actions(Source::Vf(vf), head);
        let key = self.key(vf, &flow, head, meta);
        if let Some(key) = &key
            && let Some((&verdict, hits)) = self.known.get(key, meta.longest())
            && let Ok(header) = Header::parse(head)
        {
            if !hits.is_empty() {
                self.account.hits.count_again(hits, &flow);
            }
            if self
                .account
                .is_storm(now, Source::Vf(vf), head, meta, &verdict)
            {
                return self.dropped(vf, DropReason::StormControl);
            }
            let vlan = verdict.insert.map_or(header.vlan(), Vlan::of_tag);
            let tried = self.bridge.forward(now, BridgePort::Vif(vf), vlan, &header);
            self.count_bridged(tried, &verdict, &header, head);
            self.count_sent(vf, header.dst, meta.len, &verdict);
            return verdict;
        }
        self.ingress_unknown(now, vf, flow, head, meta, key)
    }

    /// What a frame is known by, if what is said of it may be kept.
    #[inline]
    fn key(&self, vf: VfIndex, flow: &Actions, head: &[u8], meta: &FrameMeta) -> Option<LinkKey> {
        if self.station_bridge.is_some() || Policy::check_len(meta).is_err() {
            return None;
        }
        self.known.key(Source::Vf(vf), flow.code()?, 0, head)
    }

    #[inline]
    fn count_bridged(&mut self, tried: BridgeSet, verdict: &Verdict, header: &Header, head: &[u8]) {
        let auto = verdict.beyond.intersection(self.account.policy.auto());
        let pf = verdict.wire || verdict.beyond != auto;
        self.bridge.count(tried, verdict.vfs.union(auto), pf);
        self.learner.look_at_guest(header, head);
    }

    #[inline]
    fn count_sent(&mut self, vf: VfIndex, dst: MacAddr, len: u32, verdict: &Verdict) {
        self.account.counters[vf.index()].count_tx(dst, len);
        if verdict.pf {
            let len = verdict.onward_len(len);
            self.account.pf.count_tx(dst, len);
        }
    }

    #[inline(never)]
    fn ingress_unknown(
        &mut self,
        now: Nanos,
        vf: VfIndex,
        flow: Actions,
        head: &[u8],
        meta: &FrameMeta,
        key: Option<LinkKey>,
    ) -> Verdict {
        let judged = Policy::parse(head).and_then(|header| {
            let policy = &self.account.policy;
            let said = flow.of(head);
            if policy.lookup().stations.contains(vf) {
                let (verdict, unfit) = self.judge_station(now, vf, &header, said, meta)?;
                return Ok((header, verdict, unfit));
            }
            let mut hits = CountHits::in_these(&self.account.hits);
            let mut reach = policy.reach_from_vf(vf, &header, said, meta, &mut hits)?;
            let hits = hits.to_keep(&flow);
            let vlan = reach.insert.map_or(header.vlan(), Vlan::of_tag);
            let named = reach.mediated;
            let tags = tags_of(&header);
            let (takes, too_long) = self.for_stations(now, vlan, &header, tags, meta, named);
            reach.mediated = takes;
            let tried = self.bridge.forward(now, BridgePort::Vif(vf), vlan, &header);
            let verdict = match split(&reach, vf) {
                // It has passed the NIC's rules.
                Err(reason) if !named.is_empty() => Verdict {
                    drop: Some(reason),
                    ..Verdict::default()
                },
                verdict => verdict?,
            };
            self.count_bridged(tried, &verdict, &header, head);
            if let (Some(key), Some(hits)) = (key, hits)
                && reach.unfit.is_empty()
            {
                let source = Source::Vf(vf);
                let longest = self.account.policy.longest_alike(source, &header, &verdict);
                self.known.put(key, &verdict, longest, hits);
            }
            let mut unfit = reach.unfit;
            unfit.vfs = unfit.vfs.union(too_long);
            Ok((header, verdict, unfit))
        });
        match judged {
            Ok((_, verdict, _))
                if self
                    .account
                    .is_storm(now, Source::Vf(vf), head, meta, &verdict) =>
            {
                self.dropped(vf, DropReason::StormControl)
            }
            Ok((header, verdict, unfit)) => {
                self.account.count_unfit(&unfit, &self.account.pf);
                self.count_sent(vf, header.dst, meta.len, &verdict);
                verdict
            }
            Err(reason) => self.dropped(vf, reason),
        }
    }

    fn dropped(&mut self, vf: VfIndex, reason: DropReason) -> Verdict {
        self.count_tx_drop(vf, reason);
        Verdict {
            drop: Some(reason),
            ..Verdict::default()
        }
    }

    /// Bridges a frame of a station on the PF's bridge: to other stations, to the NIC, or to all if it does not know the receiver. Says
    /// for whom it is too long.
    fn judge_station(
        &mut self,
        now: Nanos,
        station: VfIndex,
        header: &Header,
        flow: FrameActions,
        meta: &FrameMeta,
    ) -> Result<(Verdict, Unfit), DropReason> {
        let policy = &self.account.policy;
        let mut hits = CountHits::in_these(&self.account.hits);
        let mut reach = policy.reach_from_station(station, header, flow, meta, &mut hits)?;
        if let Some(bridge) = &mut self.station_bridge {
            let tried = bridge.forward(now, BridgePort::Vif(station), header.vlan(), header);
            if !tried.pf {
                reach = reach.nowhere();
            }
            let others = tried.vifs.intersection(policy.lookup().up);
            let unfit = policy.unfit(others, tags_of(header), meta);
            reach.unfit.vfs = reach.unfit.vfs.union(unfit);
            reach.mediated = reach.mediated.union(others.difference(unfit));
        }
        Ok((split(&reach, station)?, reach.unfit))
    }

    /// Leaves of the stations on the PF's bridge those that the bridge gives a frame to that comes up from the NIC. The NIC
    /// names them all, as it knows none of them. What the bridge gives to none of them is a copy of the PF's that is dropped. Those
    /// for whom it is too long, whose drops it is, come second.
    fn for_stations(
        &mut self,
        now: Nanos,
        vlan: Vlan,
        header: &Header,
        tags: usize,
        meta: &FrameMeta,
        vifs: VfSet,
    ) -> (VfSet, VfSet) {
        let named = vifs.intersection(self.account.policy.lookup().stations);
        match &mut self.station_bridge {
            Some(bridge) if !named.is_empty() => {
                let tried = bridge.forward(now, BridgePort::Pf, vlan, header);
                let takes = named.intersection(tried.vifs);
                if takes.is_empty() {
                    self.account.pf.rx_drops.count(DropReason::NoReceiver);
                }
                let unfit = self.account.policy.unfit(takes, tags, meta);
                let others = vifs.difference(named);
                (others.union(takes.difference(unfit)), unfit)
            }
            _ => (vifs, VfSet::default()),
        }
    }

    /// Counts a frame that the NIC has handed up, learns where its sender is, and says where it goes: where its verdict said.
    /// What a NIC without a switch hands up for direct VFs is given back to it, and so is what takes the slow path of VFs on
    /// path `auto`, whose ports the bridge has although the NIC has their rings.
    pub fn from_pf(
        &mut self,
        now: Nanos,
        onward: &Onward,
        head: &[u8],
        meta: &FrameMeta,
    ) -> Verdict {
        let policy = Arc::clone(&self.account.policy);
        // No path changes while a frame is on its way.
        let mut vifs = onward.vfs.intersection(policy.mediated());
        let beyond = onward.vfs.difference(vifs);
        if let Ok(header) = Header::parse(head) {
            let vlan = header.vlan();
            let from = onward.from.filter(|vf| policy.auto().contains(*vf));
            let port = from.map_or(BridgePort::Pf, BridgePort::Vif);
            let tried = self.bridge.forward(now, port, vlan, &header);
            let tags = match onward.grown || onward.from.is_none() {
                true => tags_of_arrival(&header),
                false => tags_of(&header),
            };
            let (takes, vfs) = self.for_stations(now, vlan, &header, tags, meta, vifs);
            vifs = takes;
            let unfit = Unfit {
                vfs,
                ..Unfit::default()
            };
            self.account.count_unfit(&unfit, &self.account.pf);
            let auto = beyond.intersection(policy.auto());
            self.bridge.count(tried, vifs.union(auto), onward.wire);
            match onward.from {
                Some(_) => self.learner.look_at_guest(&header, head),
                None => self.learner.look_at_arrival(&policy, onward, head),
            }
        }
        let dst = MacAddr::of_frame(head);
        self.account.pf.count_rx(dst, meta.len);
        let pf = !beyond.is_empty() || onward.wire;
        let drop = (vifs.is_empty() && !pf).then_some(DropReason::NoReceiver);
        if pf {
            self.account.pf.count_tx(dst, meta.len);
        }
        Verdict {
            vfs: vifs,
            pf,
            beyond,
            wire: onward.wire,
            wire_beyond: onward.wire,
            from: onward.from,
            drop,
            ..Verdict::default()
        }
    }

    /// What VFs on path `auto` could learn from frames since the last call.
    pub fn take_events(&mut self) -> Vec<FastEvent> {
        self.learner.take_notes()
    }

    /// The address that the guest announced whose frame was judged or handed up last, in a gratuitous ARP: it may be local,
    /// whatever was known of it.
    pub fn take_announced(&mut self) -> Option<MacAddr> {
        self.learner.take_announced()
    }

    /// To how many guests the hypervisor gives a copy of a frame, which it pays for: those whose rings it has, and on path
    /// `auto` those by way of the NIC.
    #[must_use]
    pub fn copies(&self, verdict: &Verdict) -> usize {
        let auto = verdict.beyond.intersection(self.account.policy.auto());
        verdict.vfs.len() + auto.len()
    }

    /// The bridge, for the addresses it has learned.
    #[must_use]
    pub fn bridge(&self) -> &Bridge {
        &self.bridge
    }
}

/// What of a frame's reach is the bridge's to do, and what the NIC's.
pub(crate) fn split(reach: &Reach, from: VfIndex) -> Result<Verdict, DropReason> {
    Ok(Verdict {
        drop: reach.drop()?,
        vfs: reach.mediated,
        pf: !reach.direct.is_empty() || reach.wire,
        beyond: reach.direct,
        wire: reach.wire,
        wire_beyond: reach.wire,
        insert: reach.insert,
        from: Some(from),
        ..Verdict::default()
    })
}

impl Judge for HypervisorModel {
    fn account(&self) -> &Account {
        &self.account
    }

    fn account_mut(&mut self) -> &mut Account {
        &mut self.account
    }

    fn adopt(&mut self, policy: Arc<Policy>) {
        if !self.account.policy.has_same_verdicts(&policy) {
            self.known.clear();
        }
        let stations = policy.lookup().stations;
        let vifs = policy.mediated().difference(stations);
        // The NIC has the rings of VFs on path `auto`, and the bridge ports for their slow path.
        self.bridge.set_vifs(vifs.union(policy.auto()));
        if !stations.is_empty() || self.station_bridge.is_some() {
            self.station_bridge
                .get_or_insert_with(Bridge::new)
                .set_vifs(stations);
        }
        self.learner.adopt();
        self.account.adopt(policy);
    }

    fn count_pf_drop(&mut self, reason: DropReason) {
        self.account.pf.tx_drops.count(reason);
    }
}
