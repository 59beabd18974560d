//! The NIC of one host: judges every frame that its VFs send, that comes from the wire, or over the PF.
//! An embedded switch in the manner of legacy SR-IOV: unicast to a VF's address goes there and not to the wire, unknown
//! unicast goes to the wire and never to siblings, groups go to everyone in the VLAN. The NIC's own filters judge what is
//! received: from the wire, or by a VF that the switch gives a sibling's frame to. A NIC without a switch sends to the wire
//! only, and hands what VFs here send each other to the hypervisor, as drivers of such NICs did with what was for a local
//! address (the peer list of Linux's siena_sriov.c). Never touches the frame itself.

use std::sync::Arc;

use vf_packet::{FrameMeta, Header, MIN_FRAME, MacAddr};

use crate::counter::Shared;
use crate::fast_path::{FastPath, Lane, PublishedFast};
use crate::filter_index::{Actions, FrameActions};
use crate::hits::{CountHits, KeptHits};
use crate::judge::{Account, Judge};
use crate::learned::{FastEvent, FastKey};
use crate::policy::Policy;
use crate::probe::{Probe, Step};
use crate::reach::Reach;
use crate::reach_len::{MAX_SUPER_FRAME, Unfit};
use crate::source::Source;
use crate::stats::{Counters, DropReason, LiveCounters, PublishedPort};
use crate::switch_mode::SwitchMode;
use crate::time::Nanos;
use crate::verdict::{Again, Onward, To, Verdict, onward_len};
use crate::verdict_cache::{LinkKey, VerdictCache};
use crate::vf::VfIndex;

/// The model of the direct path, or of one worker's share of it: the embedded switch, limiters and counters. Judges by a
/// [`Policy`] that all planes of the NIC share.
#[derive(Clone, Debug)]
pub struct Nic {
    account: Account,
    /// What has been said of frames, until the policy changes.
    known: VerdictCache,
    fast: FastPath,
    wire: Shared<LiveCounters>,
}

impl Nic {
    /// A NIC that has seen no frame yet.
    #[must_use]
    pub fn new(policy: Arc<Policy>) -> Nic {
        Nic {
            fast: FastPath::new(&policy),
            account: Account::new(policy),
            known: VerdictCache::new(),
            wire: Shared::default(),
        }
    }

    /// Judges a frame if another with the same source, addresses and tags has been judged before and had one receiver; all
    /// others are left to [`ingress`](Self::ingress). `head` as there.
    #[inline]
    pub fn ingress_again(
        &mut self,
        now: Nanos,
        source: Source,
        head: &[u8],
        meta: &FrameMeta,
    ) -> Option<Again> {
        // VFs on the other paths do not pay for it.
        match self.fast.is_in_use() {
            false => self.again(now, source, head, meta, 0),
            true => self.again_by_flow(now, source, head, meta),
        }
    }

    /// The same of a NIC with VFs on path `auto`.
    #[inline(never)]
    fn again_by_flow(
        &mut self,
        now: Nanos,
        source: Source,
        head: &[u8],
        meta: &FrameMeta,
    ) -> Option<Again> {
        let lane = self.lane_code(source, head)?;
        let again = self.again(now, source, head, meta, lane)?;
        if lane != 0 {
            let to = match again.hop.to {
                To::Vf(vf) => Some(vf),
                To::Wire => None,
            };
            self.fast.count_fast(source, to, meta.len);
        }
        Some(again)
    }

    /// Answers from the verdicts that are known; `lane` is what path `auto` knows of the frame's way.
    #[inline(always)]
    fn again(
        &mut self,
        now: Nanos,
        source: Source,
        head: &[u8],
        meta: &FrameMeta,
        lane: u16,
    ) -> Option<Again> {
        // Nothing is known of frames longer than any may be, but for super-frames as a whole.
        if meta.len > MAX_SUPER_FRAME {
            return None;
        }
        match self.account.policy.is_silent(head) {
            true => self.again_said(now, source, &Actions::default(), head, meta, lane),
            false => self.again_named(now, source, head, meta, lane),
        }
    }

    /// The same of a frame that filters on flows may say something of.
    #[inline(never)]
    fn again_named(
        &mut self,
        now: Nanos,
        source: Source,
        head: &[u8],
        meta: &FrameMeta,
        lane: u16,
    ) -> Option<Again> {
        let flow = self.account.policy.flow_actions(source, head);
        self.again_said(now, source, &flow, head, meta, lane)
    }

    #[inline(always)]
    fn again_said(
        &mut self,
        now: Nanos,
        source: Source,
        flow: &Actions,
        head: &[u8],
        meta: &FrameMeta,
        lane: u16,
    ) -> Option<Again> {
        let key = self.known.key(source, flow.code()?, lane, head)?;
        let again = self.known.hop(&key, meta.longest())?;
        let hop = again.hop;
        if !self.known.hits().is_empty() {
            self.account.hits.count_again(self.known.hits(), flow);
        }
        match source {
            Source::Vf(vf) => {
                self.account.take_tokens(now, vf, meta);
                self.account.counters[vf.index()].count_tx_station(meta.len);
            }
            Source::Wire => self.wire.count_rx_run(1, padded(meta.len).into()),
        }
        if hop.to == To::Wire {
            let len = onward_len(hop.insert, meta.len);
            self.wire.count_tx_station(padded(len));
        }
        Some(again)
    }

    /// What path `auto` knows of a frame's way, as a number; `None` if that is changing.
    #[inline]
    fn lane_code(&self, source: Source, head: &[u8]) -> Option<u16> {
        match self.fast.is_in_use() {
            false => Some(0),
            true => self.fast.code(source, head),
        }
    }

    /// Judges a frame where it enters the host. `head` is the first bytes of it, [`crate::HEAD_LEN`] at least or all there
    /// are, and must be the ones delivered.
    pub fn ingress(
        &mut self,
        now: Nanos,
        source: Source,
        head: &[u8],
        meta: &FrameMeta,
    ) -> Verdict {
        if let Source::Vf(vf) = source {
            self.account.take_tokens(now, vf, meta);
        }
        let flow = self.account.policy.flow_actions(source, head);
        let lane = self.lane_code(source, head);
        let known = lane.zip(flow.code());
        let known = known.and_then(|(lane, flow)| self.known.key(source, flow, lane, head));
        let known = known.filter(|_| Policy::check_len(meta).is_ok());
        if let Some(key) = &known
            && let Some((&verdict, hits)) = self.known.get(key, meta.longest())
        {
            if !hits.is_empty() {
                self.account.hits.count_again(hits, &flow);
            }
            if self.account.is_storm(now, source, head, meta, &verdict) {
                return self.dropped(source, DropReason::StormControl);
            }
            self.count(source, MacAddr::of_frame(head), &verdict, meta.len);
            return verdict;
        }
        self.ingress_unknown(now, source, flow, head, meta, known)
    }

    fn dropped(&mut self, source: Source, reason: DropReason) -> Verdict {
        self.count_unjudged(source, reason);
        Verdict {
            drop: Some(reason),
            ..Verdict::default()
        }
    }

    /// Counts a frame that the hypervisor has handed over, and says where it goes: where its verdict said.
    pub fn from_pf(&mut self, onward: &Onward, head: &[u8], meta: &FrameMeta) -> Verdict {
        let dst = MacAddr::of_frame(head);
        self.account.pf.count_tx(dst, meta.len);
        if onward.wire {
            self.wire.count_tx(dst, padded(meta.len));
        }
        if self.fast.is_in_use() {
            self.fast.count_from_pf(onward.vfs);
        }
        Verdict {
            vfs: onward.vfs,
            wire: onward.wire,
            ..Verdict::default()
        }
    }

    #[inline(never)]
    fn ingress_unknown(
        &mut self,
        now: Nanos,
        source: Source,
        flow: Actions,
        head: &[u8],
        meta: &FrameMeta,
        key: Option<LinkKey>,
    ) -> Verdict {
        let reason = match Policy::parse(head) {
            Ok(header) => match self.judge(source, &header, flow, head, meta) {
                Ok((verdict, ..)) if self.account.is_storm(now, source, head, meta, &verdict) => {
                    return self.dropped(source, DropReason::StormControl);
                }
                Ok((verdict, unfit, hits)) => {
                    self.count(source, header.dst, &verdict, meta.len);
                    self.learn(source, head, &verdict);
                    if !unfit.is_empty() {
                        // Shorter ones reach more.
                        self.account.count_unfit(&unfit, &self.wire);
                    } else if let (Some(key), Some(hits)) = (key, hits)
                        // What path `auto` learns from frames to groups it has to learn from each.
                        && !(header.dst.is_multicast() && self.fast.is_in_use())
                    {
                        let policy = &self.account.policy;
                        let longest = policy.longest_alike(source, &header, &verdict);
                        self.known.put(key, &verdict, longest, hits);
                    }
                    return verdict;
                }
                Err(reason) => {
                    self.learn(source, head, &Verdict::default());
                    reason
                }
            },
            Err(reason) => reason,
        };
        self.dropped(source, reason)
    }

    #[inline]
    fn learn(&mut self, source: Source, head: &[u8], verdict: &Verdict) {
        if source == Source::Wire && self.fast.is_in_use() {
            let policy = &self.account.policy;
            self.fast.look_at_arrival(policy, head, verdict);
        }
    }

    fn count_unjudged(&mut self, source: Source, reason: DropReason) {
        match source {
            Source::Vf(vf) => self.count_tx_drop(vf, reason),
            Source::Wire => self.wire.rx_drops.count(reason),
        }
    }

    /// The verdict on a frame, who does not get it for its length, and the filters that have decided so, if they can be kept with it.
    #[inline(always)]
    fn judge(
        &self,
        source: Source,
        header: &Header,
        flow: Actions,
        head: &[u8],
        meta: &FrameMeta,
    ) -> Result<(Verdict, Unfit, Option<KeptHits>), DropReason> {
        let policy = &self.account.policy;
        let mut hits = CountHits::in_these(&self.account.hits);
        let mut reach = reach(policy, source, header, flow.of(head), meta, &mut hits)?;
        let drop = reach.drop()?;
        let mut waits = false;
        let wire_beyond = match source {
            _ if !self.fast.is_in_use() => false,
            Source::Vf(vf) => self.split_sent(vf, head, &mut reach),
            Source::Wire => {
                waits = self.split_received(head, &mut reach);
                false
            }
        };
        let verdict = settle(source, &reach, wire_beyond, drop);
        let verdict = Verdict { waits, ..verdict };
        Ok((verdict, reach.unfit, hits.to_keep(&flow)))
    }

    /// Leaves to the hypervisor what VFs on path `auto` receive from others of this host, and what they send but to a
    /// station on the wire that the fast path reaches; whether it goes to the wire by way of the hypervisor.
    fn split_sent(&self, vf: VfIndex, head: &[u8], reach: &mut Reach) -> bool {
        let auto = self.account.policy.auto();
        if !auto.contains(vf) {
            let slow = reach.direct.intersection(auto);
            reach.direct = reach.direct.difference(slow);
            reach.mediated = reach.mediated.union(slow);
            return false;
        }
        let here = !reach.direct.is_empty() || !reach.mediated.is_empty();
        let straight =
            self.fast.is_left_to_port(vf, head) || self.fast.lane_out(vf, head) == Lane::Fast;
        if reach.wire && !here && straight {
            return false;
        }
        let here = std::mem::take(&mut reach.direct);
        reach.mediated = reach.mediated.union(here);
        std::mem::take(&mut reach.wire)
    }

    /// Leaves to the hypervisor what VFs on path `auto` receive from the wire, but on flows that they have filters for, or
    /// the administrator has; whether the copies of some have to wait, since their flow is changing.
    fn split_received(&self, head: &[u8], reach: &mut Reach) -> bool {
        let mut slow = reach.direct.intersection(self.account.policy.auto());
        if let Some(vf) = reach.steered {
            slow.remove(vf);
        }
        if slow.is_empty() {
            return false;
        }
        let (fast, waits) = self.fast.split_arrival(slow, head);
        let slow = slow.difference(fast.union(waits));
        reach.direct = reach.direct.difference(slow);
        reach.mediated = reach.mediated.union(slow);
        !waits.is_empty()
    }

    #[inline]
    fn count(&mut self, source: Source, dst: MacAddr, verdict: &Verdict, len: u32) {
        match source {
            Source::Vf(vf) => self.account.counters[vf.index()].count_tx(dst, len),
            Source::Wire => self.wire.count_rx(dst, padded(len)),
        }
        if let (Source::Vf(vf), true) = (source, verdict.wire)
            && self.leaves_to_port(vf)
        {
            return;
        }
        let len = verdict.onward_len(len);
        if verdict.pf {
            self.account.pf.count_rx(dst, len);
        }
        if verdict.wire {
            self.wire.count_tx(dst, padded(len));
        }
        if self.fast.is_in_use() {
            self.fast.count(source, verdict, len);
        }
    }

    /// Whether any VF is on path `auto`.
    #[must_use]
    #[inline]
    pub fn has_fast_path(&self) -> bool {
        self.fast.is_in_use()
    }

    /// Leaves to the worker with the port which way flows take that VFs on path `auto` send here: for a worker without it.
    pub fn without_port(&mut self) {
        self.fast.without_port();
    }

    /// Whether a frame that the VF sends has to wait in its ring until its flow has changed to the fast path.
    #[must_use]
    #[inline]
    pub fn must_wait(&self, vf: VfIndex, head: &[u8]) -> bool {
        self.fast.lane_out(vf, head) == Lane::Wait
    }

    /// Whether what this VF sends to the wire now is for the worker with the port to [decide](Self::lane_sent) and to count.
    #[must_use]
    #[inline]
    pub fn leaves_to_port(&self, vf: VfIndex) -> bool {
        self.fast.is_in_use() && self.fast.is_counted_by_port(vf)
    }

    /// Counts a frame for the wire, as it is there, that was left to the worker with the port and has not come to it.
    pub fn count_wire_tx(&mut self, head: &[u8], len: u32) {
        self.wire.count_tx(MacAddr::of_frame(head), padded(len));
    }

    /// The way of a frame to the wire, as it is there, that a VF of a worker without the port has left to this one; counted unless
    /// it has to wait.
    pub fn lane_sent(&mut self, vf: VfIndex, head: &[u8], len: u32) -> Lane {
        let dst = MacAddr::of_frame(head);
        if !self.account.policy.auto().contains(vf) {
            // It has left path auto meanwhile.
            self.wire.count_tx(dst, padded(len));
            return Lane::Fast;
        }
        let lane = self.fast.lane_out(vf, head);
        match lane {
            Lane::Fast => {
                self.wire.count_tx(dst, padded(len));
                self.fast.count_fast_tx(vf, len);
            }
            Lane::Slow => {
                self.account.pf.count_rx(dst, len);
                self.fast.count_slow_tx(vf);
            }
            Lane::Wait => {}
        }
        lane
    }

    /// The way of received frames with this key to a VF.
    #[must_use]
    pub fn lane_of(&self, vf: VfIndex, key: FastKey) -> Lane {
        self.fast.lane_in(key, vf)
    }

    /// Counts a received frame that has to wait for its flow.
    pub fn count_waited(&mut self, vf: VfIndex) {
        self.fast.count_waited(vf);
    }

    /// Counts a received frame that would have to wait, and is dropped since too many do.
    pub fn count_busy(&mut self, vf: VfIndex) {
        self.fast.count_busy(vf);
        self.count_rx_drop(vf, DropReason::FastPathBusy);
    }

    /// Counts a received frame for a verdict with [`Verdict::waits`], on its way at last: on the fast path, or over the PF.
    pub fn count_released(&mut self, vf: VfIndex, lane: Lane, head: &[u8], len: u32) {
        match lane {
            Lane::Fast => self.fast.count_fast_rx(vf, len),
            Lane::Slow | Lane::Wait => self.account.pf.count_rx(MacAddr::of_frame(head), len),
        }
    }

    /// The number of the marker that is to follow all that has been handed up so far, if a flow waits for it.
    #[must_use]
    #[inline]
    pub fn marker_to_send(&self) -> Option<u64> {
        self.fast.marker_to_send()
    }

    /// Whether a flow waits for a marker that has not come back.
    #[must_use]
    pub fn is_marker_due(&self) -> bool {
        self.fast.is_marker_due()
    }

    /// That marker is on its way.
    pub fn marker_sent(&mut self) {
        self.fast.marker_sent();
    }

    /// A marker has come back from the hypervisor: all that was handed up before it has been delivered or dropped.
    pub fn marker_back(&mut self, number: u64) {
        self.fast.marker_back(number);
    }

    /// A guest of this host has announced this address: nobody reaches it by the fast path until it is heard there again.
    pub fn may_be_local(&mut self, mac: MacAddr) {
        if self.fast.may_be_local(mac) {
            // A frame that is not judged again teaches nothing.
            self.known.clear();
        }
    }

    /// What path `auto` could learn from frames since the last call.
    pub fn take_events(&mut self) -> Vec<FastEvent> {
        self.fast.take_stale()
    }

    /// What took which path, for others to read while this NIC counts on.
    #[must_use]
    pub fn published_fast(&self) -> PublishedFast {
        self.fast.published()
    }

    /// Counts a frame that was to go out on the wire and did not; it is among those sent there.
    pub fn count_wire_drop(&mut self, reason: DropReason) {
        self.wire.tx_drops.count(reason);
    }

    /// Counts a frame that has come from the wire and that nobody has judged.
    pub fn count_wire_rx_drop(&mut self, reason: DropReason) {
        self.wire.rx_drops.count(reason);
    }

    /// What has gone out on the wire (tx) and come from it (rx).
    #[must_use]
    pub fn wire_counters(&self) -> Counters {
        self.wire.read()
    }

    /// The same, for others to read while this NIC counts on.
    #[must_use]
    pub fn published_wire(&self) -> PublishedPort {
        PublishedPort(self.wire.reader())
    }
}

/// Length of a frame as the port has it, which fills short ones up.
#[inline]
fn padded(len: u32) -> u32 {
    len.max(MIN_FRAME)
}

/// Who receives a frame, and what of that is the hypervisor's to do: everything between VFs, if the NIC has no switch, and what
/// a filter has go that way.
#[inline(always)]
fn reach(
    policy: &Policy,
    source: Source,
    header: &Header,
    flow: FrameActions,
    meta: &FrameMeta,
    probe: &mut impl Probe,
) -> Result<Reach, DropReason> {
    match source {
        Source::Vf(vf) => {
            let mut reach = policy.reach_from_vf(vf, header, flow, meta, probe)?;
            let switches = policy.switch_mode() != SwitchMode::None;
            if !switches && !reach.direct.is_empty() {
                probe.note(|| Step::NoSwitch);
            }
            if !switches || reach.over_pf {
                reach.hand_up();
            }
            Ok(reach)
        }
        Source::Wire if !policy.uplink_up() => Err(policy.why_no_link()),
        Source::Wire => {
            policy.check_arrival(header, meta)?;
            let mut reach = policy.reach_from_wire(header, flow, meta, probe);
            if reach.over_pf {
                reach.hand_up();
            }
            Ok(reach)
        }
    }
}

/// The verdict on a frame with this reach.
#[inline(always)]
fn settle(source: Source, reach: &Reach, wire_beyond: bool, drop: Option<DropReason>) -> Verdict {
    Verdict {
        vfs: reach.direct,
        pf: !reach.mediated.is_empty() || wire_beyond,
        beyond: reach.mediated,
        wire: reach.wire,
        wire_beyond,
        waits: false,
        held: reach.over_pf,
        insert: reach.insert,
        from: match source {
            Source::Vf(vf) => Some(vf),
            Source::Wire => None,
        },
        drop,
    }
}

/// What the NIC says of a frame as far as the policy decides: whether a flow of a VF on path `auto` is on the fast path just now
/// is left out, for that is no question of who receives it.
pub(crate) fn judge(
    policy: &Policy,
    source: Source,
    header: &Header,
    flow: FrameActions,
    meta: &FrameMeta,
    probe: &mut impl Probe,
) -> Result<Verdict, DropReason> {
    let reach = reach(policy, source, header, flow, meta, probe)?;
    Ok(settle(source, &reach, false, reach.drop()?))
}

impl Judge for Nic {
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
        self.fast.adopt(&policy, Some(&self.account.policy));
        self.account.adopt(policy);
    }

    fn count_pf_drop(&mut self, reason: DropReason) {
        self.account.pf.rx_drops.count(reason);
    }
}
