//! The NIC of one host: judges every frame that its VFs send, that comes from the wire, or over the PF.
//! An embedded switch in the manner of legacy SR-IOV: unicast to a VF's address goes there and not to the wire, unknown
//! unicast goes to the wire and never to siblings, groups go to everyone in the VLAN. The NIC's own filters go before the
//! switch. Never touches the frame itself.

use crate::addr::{MacAddr, VlanTag};
use crate::command::Command;
use crate::config::NicConfig;
use crate::filter::Filters;
use crate::filter_table::{Actions, FilterTable};
use crate::frame::{FrameMeta, Header};
use crate::mailbox::{RxFilter, VfRequest};
use crate::profile::Profile;
use crate::refusal::Refusal;
use crate::rss::Rss;
use crate::source::Source;
use crate::stats::{Counters, DropReason};
use crate::table::{Origin, Reach, VfTable};
use crate::time::Nanos;
use crate::verdict::{Hop, TagEdit, Verdict};
use crate::verdict_cache::{LinkKey, VerdictCache};
use crate::vf::{VfIndex, VfPolicy};

/// A NIC: policies, filters, switch, limiters and counters.
#[derive(Clone, Debug)]
pub struct Nic {
    table: VfTable,
    /// What the table has said, until it changes.
    known: VerdictCache,
    counters: Vec<Counters>,
    pf: Counters,
    wire: Counters,
}

impl Nic {
    /// A NIC with its link up and all VFs as [`VfPolicy::new`] has them.
    #[must_use]
    pub fn new(config: NicConfig) -> Nic {
        let table = VfTable::new(config);
        Nic {
            counters: vec![Counters::default(); table.len()],
            table,
            known: VerdictCache::new(),
            pf: Counters::default(),
            wire: Counters::default(),
        }
    }

    /// How many VFs it has. Each `VfIndex` given to the other functions must be below it, or they panic; only
    /// [`Nic::apply`] refuses.
    #[must_use]
    pub fn vf_count(&self) -> usize {
        self.table.len()
    }

    /// What the administrator has said about a VF.
    #[must_use]
    pub fn policy(&self, vf: VfIndex) -> &VfPolicy {
        self.table.policy(vf)
    }

    /// A VF's receive filters beyond its own address.
    #[must_use]
    pub fn filters(&self, vf: VfIndex) -> &Filters {
        self.table.filters(vf)
    }

    /// The address of a VF: its driver's choice if that is allowed, else its policy's.
    #[must_use]
    pub fn mac(&self, vf: VfIndex) -> MacAddr {
        self.table.mac(vf)
    }

    /// What the driver of a VF has asked for since it started.
    #[must_use]
    pub fn asked(&self, vf: VfIndex) -> &RxFilter {
        self.table.asked(vf)
    }

    /// What of that is in force.
    #[must_use]
    pub fn in_force(&self, vf: VfIndex) -> &RxFilter {
        self.table.in_force(vf)
    }

    /// How a VF's frames are spread over its queues.
    #[must_use]
    #[inline]
    pub fn rss(&self, vf: VfIndex) -> &Rss {
        self.table.rss(vf)
    }

    /// Which NIC it is like.
    #[must_use]
    pub fn profile(&self) -> Profile {
        self.table.table().profile()
    }

    /// The NIC's own filters.
    #[must_use]
    pub fn filter_table(&self) -> &FilterTable {
        self.table.table()
    }

    /// Changes policies, filters or the link.
    ///
    /// # Errors
    /// [`Refusal`], and then nothing has changed.
    pub fn apply(&mut self, command: &Command) -> Result<(), Refusal> {
        self.known.clear();
        self.table.apply(command)
    }

    /// Does what the driver of a VF asks for, if it may have it.
    ///
    /// # Errors
    /// [`Refusal`], and then nothing has changed.
    pub fn request(&mut self, vf: VfIndex, request: &VfRequest) -> Result<(), Refusal> {
        self.known.clear();
        self.table.request(vf, request)
    }

    /// Whether the NIC's own link is up.
    #[must_use]
    pub fn link_up(&self) -> bool {
        self.table.link_up()
    }

    /// Whether a VF's link is up.
    #[must_use]
    pub fn link_up_for(&self, vf: VfIndex) -> bool {
        self.table.link_up_for(vf)
    }

    /// When the next frame of a VF may be taken from its ring: not after `now` if it may be taken now.
    #[must_use]
    #[inline]
    pub fn tx_ready_at(&self, vf: VfIndex, now: Nanos) -> Nanos {
        self.table.tx_ready_at(vf, now)
    }

    /// Judges a frame of a VF if another with the same addresses and tags has been judged before, and went to one VF and
    /// nowhere else; all others are left to [`ingress`](Self::ingress). `head` as there.
    #[inline]
    pub fn ingress_again(
        &mut self,
        now: Nanos,
        vf: VfIndex,
        head: &[u8],
        meta: &FrameMeta,
    ) -> Option<Hop> {
        VfTable::check_len(meta).ok()?;
        let flow = self.table.table().flow_actions(head);
        let hop = self.known.hop(&LinkKey::new(Source::Vf(vf), flow, head)?)?;
        self.table.take_tokens(now, vf, meta);
        self.counters[vf.index()].count_tx_station(meta.len);
        Some(hop)
    }

    /// Judges a frame. `head` is the first bytes of it, [`crate::HEAD_LEN`] at least or all there are, and must be the ones delivered.
    /// A frame from the hypervisor is never handed to it again.
    pub fn ingress(
        &mut self,
        now: Nanos,
        source: Source,
        head: &[u8],
        meta: &FrameMeta,
    ) -> Verdict {
        if let Source::Vf(vf) = source {
            self.table.take_tokens(now, vf, meta);
        }
        let flow = self.table.table().flow_actions(head);
        let known = LinkKey::new(source, flow, head).filter(|_| VfTable::check_len(meta).is_ok());
        if let Some(key) = &known
            && let Some(&verdict) = self.known.get(key)
        {
            self.count(source, MacAddr::of_frame(head), &verdict, meta.len);
            return verdict;
        }
        let verdict = self.ingress_unknown(source, flow, head, meta);
        if let Some(key) = known {
            self.known.put(key, &verdict);
        }
        verdict
    }

    #[inline(never)]
    fn ingress_unknown(
        &mut self,
        source: Source,
        flow: Actions,
        head: &[u8],
        meta: &FrameMeta,
    ) -> Verdict {
        let reason = match VfTable::parse(head) {
            Ok(header) => match self.judge(source, &header, flow, meta) {
                Ok(verdict) => {
                    self.count(source, header.dst, &verdict, meta.len);
                    return verdict;
                }
                Err(reason) => reason,
            },
            Err(reason) => reason,
        };
        self.count_unjudged(source, reason);
        Verdict {
            drop: Some(reason),
            ..Verdict::default()
        }
    }

    #[inline(always)]
    fn judge(
        &self,
        source: Source,
        header: &Header,
        flow: Actions,
        meta: &FrameMeta,
    ) -> Result<Verdict, DropReason> {
        let reach = self.reach(source, header, flow, meta)?;
        Nic::split(source, &reach)
    }

    fn count_unjudged(&mut self, source: Source, reason: DropReason) {
        match source {
            Source::Vf(vf) => self.count_tx_drop(vf, reason),
            Source::Pf => self.pf.tx_drops.count(reason),
            Source::Wire => self.wire.rx_drops.count(reason),
        }
    }

    #[inline(always)]
    fn reach(
        &self,
        source: Source,
        header: &Header,
        flow: Actions,
        meta: &FrameMeta,
    ) -> Result<Reach, DropReason> {
        match source {
            Source::Vf(vf) => self.table.reach_from_vf(vf, header, flow, meta),
            Source::Pf => Ok(self.table.reach_from_outside(header, flow, Origin::Host)),
            Source::Wire if !self.table.link_up() => Err(DropReason::LinkDown),
            Source::Wire => {
                VfTable::check_len(meta)?;
                Ok(Reach {
                    wire: false,
                    ..self.table.reach_from_outside(header, flow, Origin::Wire)
                })
            }
        }
    }

    /// What of a frame's reach is the NIC's to do, and what the hypervisor's.
    #[inline(always)]
    fn split(source: Source, reach: &Reach) -> Result<Verdict, DropReason> {
        let up = !reach.mediated.is_empty() && source != Source::Pf;
        if reach.direct.is_empty() && !up && !reach.wire {
            return Err(if reach.mediated.is_empty() {
                reach.otherwise
            } else {
                DropReason::MediatedLoop
            });
        }
        Ok(Verdict {
            vfs: reach.direct,
            pf: up,
            wire: reach.wire,
            insert: reach.insert,
            drop: None,
        })
    }

    #[inline]
    fn count(&mut self, source: Source, dst: MacAddr, verdict: &Verdict, len: u32) {
        match source {
            Source::Vf(vf) => self.counters[vf.index()].count_tx(dst, len),
            Source::Pf => self.pf.count_tx(dst, len),
            Source::Wire => self.wire.count_rx(dst, len),
        }
        let len = verdict.onward_len(len);
        if verdict.pf {
            self.pf.count_rx(dst, len);
        }
        if verdict.wire {
            self.wire.count_tx(dst, len);
        }
    }

    /// How the copy for `to` differs from what the sender gave, if the verdict said to insert this. The wire and the PF get
    /// `insert`.
    #[must_use]
    #[inline]
    pub fn egress_edit(&self, insert: Option<VlanTag>, to: VfIndex) -> TagEdit {
        self.table.egress_edit(insert, to)
    }

    /// Counts a frame to `dst` that is in the VF's ring now, `len` bytes long after [`TagEdit::len_of`].
    #[inline]
    pub fn count_delivered(&mut self, vf: VfIndex, dst: MacAddr, len: u32) {
        self.counters[vf.index()].count_rx(dst, len);
    }

    /// The same of several frames to stations, with the sum of their lengths.
    #[inline]
    pub fn count_delivered_run(&mut self, vf: VfIndex, frames: u64, bytes: u64) {
        self.counters[vf.index()].count_rx_run(frames, bytes);
    }

    /// Counts a frame that was to be delivered to the VF and was not.
    pub fn count_rx_drop(&mut self, vf: VfIndex, reason: DropReason) {
        self.counters[vf.index()].rx_drops.count(reason);
    }

    /// Counts a frame of the VF that was never judged.
    pub fn count_tx_drop(&mut self, vf: VfIndex, reason: DropReason) {
        self.counters[vf.index()].tx_drops.count(reason);
    }

    /// Counts a frame that was to go out on the wire and did not; it is among those sent there.
    pub fn count_wire_drop(&mut self, reason: DropReason) {
        self.wire.tx_drops.count(reason);
    }

    /// Counts a frame that was to go to the hypervisor and did not; it is among those handed over.
    pub fn count_pf_drop(&mut self, reason: DropReason) {
        self.pf.rx_drops.count(reason);
    }

    /// What a VF has sent and received directly.
    #[must_use]
    pub fn counters(&self, vf: VfIndex) -> &Counters {
        &self.counters[vf.index()]
    }

    /// What the hypervisor has sent (tx) and been handed (rx).
    #[must_use]
    pub fn pf_counters(&self) -> &Counters {
        &self.pf
    }

    /// What has gone out on the wire (tx) and come from it (rx).
    #[must_use]
    pub fn wire_counters(&self) -> &Counters {
        &self.wire
    }
}
