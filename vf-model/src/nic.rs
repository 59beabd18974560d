//! The NIC of one host: judges every frame that its VFs send, that comes from the wire, or over the PF.
//! An embedded switch in the manner of legacy SR-IOV: unicast to a VF's address goes there and not to the wire, unknown
//! unicast goes to the wire and never to siblings, groups go to everyone in the VLAN. The NIC's own filters judge what is
//! received: from the wire, or by a VF that the switch gives a sibling's frame to. A NIC without a switch sends to the wire
//! only, and hands what VFs here send each other to the hypervisor, as drivers of such NICs did with what was for a local
//! address (the peer list of Linux's siena_sriov.c). Never touches the frame itself.

use std::sync::Arc;

use vf_packet::{FrameMeta, Header, MacAddr};

use crate::counter::Shared;
use crate::filter_table::Actions;
use crate::judge::{Account, Judge};
use crate::policy::Policy;
use crate::source::Source;
use crate::stats::{Counters, DropReason, LiveCounters, PublishedPort};
use crate::switch_mode::SwitchMode;
use crate::time::Nanos;
use crate::verdict::{Hop, Onward, To, Verdict, onward_len};
use crate::verdict_cache::VerdictCache;
use crate::why::{Probe, Step};

/// The model of the direct path, or of one worker's share of it: the embedded switch, limiters and counters. Judges by a
/// [`Policy`] that all planes of the NIC share.
#[derive(Clone, Debug)]
pub struct Nic {
    account: Account,
    /// What has been said of frames, until the policy changes.
    known: VerdictCache,
    wire: Shared<LiveCounters>,
}

impl Nic {
    /// A NIC that has seen no frame yet.
    #[must_use]
    pub fn new(policy: Arc<Policy>) -> Nic {
        Nic {
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
    ) -> Option<Hop> {
        Policy::check_len(meta).ok()?;
        let flow = self.account.policy.filter_table().flow_actions(head);
        let hop = self.known.hop(&self.known.key(source, flow, head)?)?;
        match source {
            Source::Vf(vf) => {
                self.account.take_tokens(now, vf, meta);
                self.account.counters[vf.index()].count_tx_station(meta.len);
            }
            Source::Wire => self.wire.count_rx_run(1, meta.len.into()),
        }
        if hop.to == To::Wire {
            self.wire.count_tx_station(onward_len(hop.insert, meta.len));
        }
        Some(hop)
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
        let flow = self.account.policy.filter_table().flow_actions(head);
        let known = self.known.key(source, flow, head);
        let known = known.filter(|_| Policy::check_len(meta).is_ok());
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

    /// Counts a frame that the hypervisor has handed over, and says where it goes: where its verdict said.
    pub fn from_pf(&mut self, onward: &Onward, head: &[u8], meta: &FrameMeta) -> Verdict {
        let dst = MacAddr::of_frame(head);
        self.account.pf.count_tx(dst, meta.len);
        if onward.wire {
            self.wire.count_tx(dst, meta.len);
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
        source: Source,
        flow: Actions,
        head: &[u8],
        meta: &FrameMeta,
    ) -> Verdict {
        let reason = match Policy::parse(head) {
            Ok(header) => match judge(&self.account.policy, source, &header, flow, meta, &mut ()) {
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

    fn count_unjudged(&mut self, source: Source, reason: DropReason) {
        match source {
            Source::Vf(vf) => self.count_tx_drop(vf, reason),
            Source::Wire => self.wire.rx_drops.count(reason),
        }
    }

    #[inline]
    fn count(&mut self, source: Source, dst: MacAddr, verdict: &Verdict, len: u32) {
        match source {
            Source::Vf(vf) => self.account.counters[vf.index()].count_tx(dst, len),
            Source::Wire => self.wire.count_rx(dst, len),
        }
        let len = verdict.onward_len(len);
        if verdict.pf {
            self.account.pf.count_rx(dst, len);
        }
        if verdict.wire {
            self.wire.count_tx(dst, len);
        }
    }

    /// Counts a frame that was to go out on the wire and did not; it is among those sent there.
    pub fn count_wire_drop(&mut self, reason: DropReason) {
        self.wire.tx_drops.count(reason);
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

/// What of a frame's reach is the NIC's to do, and what the hypervisor's: everything between VFs, if the NIC has no switch.
#[inline(always)]
pub(crate) fn judge(
    policy: &Policy,
    source: Source,
    header: &Header,
    flow: Actions,
    meta: &FrameMeta,
    probe: &mut impl Probe,
) -> Result<Verdict, DropReason> {
    let reach = match source {
        Source::Vf(vf) => {
            let mut reach = policy.reach_from_vf(vf, header, flow, meta, probe)?;
            if policy.switch_mode() == SwitchMode::None && !reach.direct.is_empty() {
                probe.note(|| Step::NoSwitch);
                let here = std::mem::take(&mut reach.direct);
                reach.mediated = reach.mediated.union(here);
            }
            reach
        }
        Source::Wire if !policy.uplink_up() => return Err(policy.why_no_link()),
        Source::Wire => {
            Policy::check_len(meta)?;
            policy.reach_from_wire(header, flow, probe)
        }
    };
    let pf = !reach.mediated.is_empty();
    if reach.direct.is_empty() && !pf && !reach.wire {
        return Err(reach.otherwise);
    }
    Ok(Verdict {
        vfs: reach.direct,
        pf,
        beyond: reach.mediated,
        wire: reach.wire,
        insert: reach.insert,
        drop: None,
    })
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
        self.account.adopt(policy);
    }

    fn count_pf_drop(&mut self, reason: DropReason) {
        self.account.pf.rx_drops.count(reason);
    }
}
