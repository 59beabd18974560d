//! What the models of both planes have in common: the policy that they share, and what each has for itself beside it, the
//! limits on what VFs send and the counters. Never judges a frame.

use std::sync::Arc;

use vf_packet::{FrameMeta, MacAddr, VlanTag, wire_bytes};

use crate::counter::Shared;
use crate::filter_spec::QueueChoice;
use crate::flooded::Flooded;
use crate::hits::{HitCounters, PublishedHits};
use crate::policy::Policy;
use crate::rate::{StormControl, TokenBucket};
use crate::reach_len::Unfit;
use crate::rss::Rss;
use crate::source::Source;
use crate::stats::{Counters, DropReason, LiveCounters, PublishedPort};
use crate::time::Nanos;
use crate::verdict::{Tagging, Verdict};
use crate::vf::VfIndex;

/// A plane's own share of its NIC's state.
#[derive(Clone, Debug)]
pub struct Account {
    pub(crate) policy: Arc<Policy>,
    limiters: Vec<Option<TokenBucket>>,
    storms: Vec<StormControl>,
    /// The same of what comes from outside.
    wire_storm: StormControl,
    pub(crate) counters: Shared<[LiveCounters]>,
    pub(crate) pf: Shared<LiveCounters>,
    pub(crate) hits: Shared<HitCounters>,
}

impl Account {
    pub(crate) fn new(policy: Arc<Policy>) -> Account {
        let vfs = policy.vf_count();
        Account {
            storms: vec![StormControl::default(); vfs],
            wire_storm: StormControl::default(),
            limiters: (0..vfs).map(|vf| limiter(&policy, vf.into())).collect(),
            counters: (0..vfs).map(|_| LiveCounters::default()).collect(),
            pf: Shared::default(),
            hits: Shared::new(HitCounters::new()),
            policy,
        }
    }

    /// Takes a policy of the same NIC. What VFs have sent is still held against them while they have a limit.
    pub(crate) fn adopt(&mut self, policy: Arc<Policy>) {
        if !self.policy.has_same_vfs(&policy) {
            for (i, limit) in self.limiters.iter_mut().enumerate() {
                let vf = VfIndex::from(i);
                let rate = policy.vf(vf).max_tx_rate;
                if rate != self.policy.vf(vf).max_tx_rate {
                    *limit = rate.map(|rate| match limit {
                        Some(bucket) => bucket.with_rate(rate),
                        None => TokenBucket::new(rate),
                    });
                }
            }
        }
        self.policy = policy;
    }

    #[inline]
    fn ready_at(&self, vf: VfIndex, now: Nanos) -> Nanos {
        match &self.limiters[vf.index()] {
            None => now,
            Some(bucket) => bucket.ready_at(),
        }
    }

    /// Charges a frame to the sender's limiter.
    #[inline]
    pub(crate) fn take_tokens(&mut self, now: Nanos, vf: VfIndex, meta: &FrameMeta) {
        if let Some(bucket) = &mut self.limiters[vf.index()] {
            bucket.take(now, wire_bytes(meta));
        }
    }

    /// Whether a frame is to be dropped since the VF that sends it, or the wire, has had too many [flooded](Flooded) of late.
    #[inline]
    pub(crate) fn is_storm(
        &mut self,
        now: Nanos,
        source: Source,
        head: &[u8],
        meta: &FrameMeta,
        verdict: &Verdict,
    ) -> bool {
        MacAddr::of_frame(head).is_multicast()
            && self.is_storm_of_groups(now, source, head, meta, verdict)
    }

    #[inline(never)]
    fn is_storm_of_groups(
        &mut self,
        now: Nanos,
        source: Source,
        head: &[u8],
        meta: &FrameMeta,
        verdict: &Verdict,
    ) -> bool {
        let Some(Flooded { limit, frames }) = self.policy.flooded(source, head, meta, verdict)
        else {
            return false;
        };
        let Some(pps) = limit else {
            return true;
        };
        let storm = match source {
            Source::Vf(vf) => &mut self.storms[vf.index()],
            Source::Wire => &mut self.wire_storm,
        };
        !storm.allows(now, pps, frames)
    }

    /// Counts copies that are too long for those who would have got them, each with whose MTU it exceeds; the port's on the wire
    /// or, in the hypervisor, on the PF. Those that drivers drop count with them.
    #[inline]
    pub(crate) fn count_unfit(&self, unfit: &Unfit, port: &LiveCounters) {
        if unfit.is_empty() {
            return;
        }
        for vf in unfit.vfs.iter() {
            let counters = &self.counters[vf.index()];
            counters.rx_drops.count(DropReason::MtuExceeded);
        }
        for vf in unfit.dropped.iter() {
            let counters = &self.counters[vf.index()];
            counters.rx_drops.count(DropReason::Filtered);
        }
        if unfit.port {
            port.tx_drops.count(DropReason::MtuExceeded);
        }
    }
}

fn limiter(policy: &Policy, vf: VfIndex) -> Option<TokenBucket> {
    policy.vf(vf).max_tx_rate.map(TokenBucket::new)
}

/// The counters of a model, for any thread to read as [`PublishedPort`] says.
#[derive(Clone, Debug)]
pub struct PublishedCounters {
    pub(crate) vfs: Arc<[LiveCounters]>,
    /// Those of the PF.
    pub pf: PublishedPort,
    /// Frames that each filter has decided on.
    pub hits: PublishedHits,
}

impl PublishedCounters {
    /// What has been counted of a VF so far; nothing of one that the NIC has not.
    #[must_use]
    pub fn vf(&self, vf: VfIndex) -> Counters {
        let vf = self.vfs.get(vf.index());
        vf.map(Counters::read).unwrap_or_default()
    }

    /// As [`PublishedPort::go_on_from`], of a VF.
    pub fn go_on_from(&self, vf: VfIndex, counted: &Counters) {
        if let Some(counters) = self.vfs.get(vf.index()) {
            counters.go_on_from(counted);
        }
    }
}

/// A plane's model: of the direct path [`crate::Nic`], of the mediated one [`crate::HypervisorModel`]. Each `VfIndex` must be
/// one of the policy's.
pub trait Judge {
    /// What it has for itself.
    fn account(&self) -> &Account;

    /// The same, to count in.
    fn account_mut(&mut self) -> &mut Account;

    /// Judges by this policy of the same NIC from now on. Limits that stay and counters go on.
    fn adopt(&mut self, policy: Arc<Policy>);

    /// Takes over, with a VF's rings, what the VF has sent on the other path: its limit does not begin anew.
    fn take_limit(&mut self, vf: VfIndex, from: &impl Judge)
    where
        Self: Sized,
    {
        let limit = &from.account().limiters[vf.index()];
        self.account_mut().limiters[vf.index()].clone_from(limit);
        self.account_mut().storms[vf.index()] = from.account().storms[vf.index()];
    }

    /// Counts a frame that was to go over the PF to the other plane and did not; it is among those handed over.
    fn count_pf_drop(&mut self, reason: DropReason);

    /// What it judges by.
    #[inline]
    fn policy(&self) -> &Arc<Policy> {
        &self.account().policy
    }

    /// How a VF's frames are spread over its queues.
    #[inline]
    fn rss(&self, vf: VfIndex) -> &Rss {
        self.policy().rss(vf)
    }

    /// Which of so many queues of a VF a frame goes to that begins with `head`: the one that a filter names, the administrator's or
    /// else the driver's, or as the RSS context that a filter names spreads flows, or as its flows are spread without.
    #[inline]
    fn queue(&self, vf: VfIndex, head: &[u8], in_use: u16) -> u16 {
        match self.policy().queue_choice(vf, head) {
            Some(QueueChoice::Queue(queue)) => u16::from(queue) % in_use.max(1),
            Some(QueueChoice::Context(context)) => {
                let rss = self.policy().rss_contexts(vf).get(context);
                rss.unwrap_or(self.rss(vf)).queue(head, in_use)
            }
            None => self.rss(vf).queue(head, in_use),
        }
    }

    /// Whether a VF has a rate limit, so that [`tx_ready_at`](Self::tx_ready_at) is to be asked.
    #[inline]
    fn is_limited(&self, vf: VfIndex) -> bool {
        self.account().limiters[vf.index()].is_some()
    }

    /// When the next frame of a VF may be taken from its ring: not after `now` if it may be taken now.
    #[inline]
    fn tx_ready_at(&self, vf: VfIndex, now: Nanos) -> Nanos {
        self.account().ready_at(vf, now)
    }

    /// How the copies of a frame differ from what the sender gave, if its verdict said to insert this. The wire and the PF
    /// get `insert`.
    #[inline]
    fn tagging(&self, insert: Option<VlanTag>) -> Tagging {
        self.policy().tagging(insert)
    }

    /// Counts a frame to `dst` that is in the VF's ring now, `len` bytes long after [`crate::TagEdit::len_of`].
    #[inline]
    fn count_delivered(&mut self, vf: VfIndex, dst: MacAddr, len: u32) {
        self.account_mut().counters[vf.index()].count_rx(dst, len);
    }

    /// The same of several frames to stations, with the sum of their lengths.
    #[inline]
    fn count_delivered_run(&mut self, vf: VfIndex, frames: u64, bytes: u64) {
        self.account_mut().counters[vf.index()].count_rx_run(frames, bytes);
    }

    /// Counts a frame that was to be delivered to the VF and was not.
    fn count_rx_drop(&mut self, vf: VfIndex, reason: DropReason) {
        self.account_mut().counters[vf.index()]
            .rx_drops
            .count(reason);
    }

    /// Counts a frame of the VF that was never judged.
    fn count_tx_drop(&mut self, vf: VfIndex, reason: DropReason) {
        self.account_mut().counters[vf.index()]
            .tx_drops
            .count(reason);
    }

    /// What a VF has sent and received on this path.
    #[must_use]
    fn counters(&self, vf: VfIndex) -> Counters {
        self.account().counters[vf.index()].read()
    }

    /// What the hypervisor has sent over the PF (tx) and been handed (rx), as this plane has seen it.
    #[must_use]
    fn pf_counters(&self) -> Counters {
        self.account().pf.read()
    }

    /// All of it, with the frames that each filter has decided on, for others to read while this plane counts on.
    #[must_use]
    fn published(&self) -> PublishedCounters {
        PublishedCounters {
            vfs: self.account().counters.reader(),
            pf: PublishedPort(self.account().pf.reader()),
            hits: PublishedHits(self.account().hits.reader()),
        }
    }
}
