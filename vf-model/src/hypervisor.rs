//! The hypervisor of one host: judges every frame that mediated guests send or that the NIC hands up. Its bridge learns
//! where stations are and so on which ports a frame is tried; who receives it is for the filters to say, as on the direct
//! path. Where the two disagree the filters win: else a guest that may spoof could take over its neighbour's traffic.
//! Never touches the frame itself.

use crate::addr::{MacAddr, Vlan};
use crate::bridge::{Bridge, BridgePort};
use crate::command::Command;
use crate::config::NicConfig;
use crate::frame::FrameMeta;
use crate::mailbox::VfRequest;
use crate::refusal::Refusal;
use crate::rss::Rss;
use crate::stats::{Counters, DropReason};
use crate::table::{Origin, Reach, VfTable};
use crate::time::Nanos;
use crate::verdict::{TagEdit, Verdict};
use crate::vf::{VfIndex, VfPolicy};

/// The bridge, policies, limiters and counters of the mediated path. Must be given the same commands as the [`crate::Nic`].
#[derive(Clone, Debug)]
pub struct HypervisorModel {
    table: VfTable,
    bridge: Bridge,
    counters: Vec<Counters>,
    pf: Counters,
}

impl HypervisorModel {
    /// The hypervisor of a host with this NIC.
    #[must_use]
    pub fn new(config: NicConfig) -> HypervisorModel {
        let table = VfTable::new(config);
        HypervisorModel {
            bridge: Bridge::new(),
            counters: vec![Counters::default(); table.len()],
            table,
            pf: Counters::default(),
        }
    }

    /// What the administrator has said about a VF.
    #[must_use]
    pub fn policy(&self, vf: VfIndex) -> &VfPolicy {
        self.table.policy(vf)
    }

    /// How a VF's frames are spread over its queues.
    #[must_use]
    pub fn rss(&self, vf: VfIndex) -> &Rss {
        self.table.rss(vf)
    }

    /// Changes policies, filters or the link.
    ///
    /// # Errors
    /// [`Refusal`], and then nothing has changed.
    pub fn apply(&mut self, command: &Command) -> Result<(), Refusal> {
        self.table.apply(command)?;
        self.bridge.set_vifs(self.table.mediated());
        Ok(())
    }

    /// Does what the driver of a VF asks for, if it may have it.
    ///
    /// # Errors
    /// [`Refusal`], and then nothing has changed.
    pub fn request(&mut self, vf: VfIndex, request: &VfRequest) -> Result<(), Refusal> {
        self.table.request(vf, request)
    }

    /// When the next frame of a VF may be taken from its ring: not after `now` if it may be taken now.
    #[must_use]
    pub fn tx_ready_at(&self, vf: VfIndex, now: Nanos) -> Nanos {
        self.table.tx_ready_at(vf, now)
    }

    /// Judges a frame by its first bytes, as [`crate::Nic::ingress`] does. `pf` in the verdict hands it to the NIC, which
    /// knows whether it goes to direct VFs, the wire or both; `wire` is never set.
    pub fn ingress(
        &mut self,
        now: Nanos,
        from: BridgePort,
        head: &[u8],
        meta: &FrameMeta,
    ) -> Verdict {
        if let BridgePort::Vif(vf) = from {
            self.table.take_tokens(now, vf, meta);
        }
        let judged = VfTable::parse(head).and_then(|header| {
            let flow = self.table.table().flow_actions(head);
            let reach = match from {
                BridgePort::Vif(vf) => self.table.reach_from_vf(vf, &header, flow, meta)?,
                // What direct VFs send comes up only to addresses that a VF has.
                BridgePort::Pf => self.table.reach_from_outside(&header, flow, Origin::Wire),
            };
            let vlan = reach.insert.map_or(header.vlan(), Vlan::of_tag);
            let tried = self.bridge.forward(now, from, vlan, &header);
            let verdict = HypervisorModel::split(from, &reach)?;
            if !tried.covers(verdict.vfs, verdict.pf) {
                self.bridge.count_overruled();
            }
            Ok((header, verdict))
        });
        match judged {
            Ok((header, verdict)) => {
                match from {
                    BridgePort::Vif(vf) => {
                        self.counters[vf.index()].count_tx(header.dst, meta.len);
                    }
                    BridgePort::Pf => self.pf.count_rx(header.dst, meta.len),
                }
                if verdict.pf {
                    self.pf.count_tx(header.dst, verdict.onward_len(meta.len));
                }
                verdict
            }
            Err(reason) => {
                match from {
                    BridgePort::Vif(vf) => self.count_tx_drop(vf, reason),
                    BridgePort::Pf => self.pf.rx_drops.count(reason),
                }
                Verdict {
                    drop: Some(reason),
                    ..Verdict::default()
                }
            }
        }
    }

    /// What of a frame's reach is the bridge's to do, and what the NIC's.
    fn split(from: BridgePort, reach: &Reach) -> Result<Verdict, DropReason> {
        let beyond = !reach.direct.is_empty() || reach.wire;
        let pf = beyond && from != BridgePort::Pf;
        if reach.mediated.is_empty() && !pf {
            return Err(if reach.direct.is_empty() {
                reach.otherwise
            } else {
                DropReason::MediatedLoop
            });
        }
        Ok(Verdict {
            vfs: reach.mediated,
            pf,
            wire: false,
            insert: reach.insert,
            drop: None,
        })
    }

    /// How the copy for `to` differs from what the sender gave. The PF gets `verdict.insert`.
    #[must_use]
    pub fn egress_edit(&self, verdict: &Verdict, to: VfIndex) -> TagEdit {
        self.table.egress_edit(verdict.insert, to)
    }

    /// Counts a frame to `dst` that is in the VF's ring now, `len` bytes long after [`TagEdit::len_of`].
    #[inline]
    pub fn count_delivered(&mut self, vf: VfIndex, dst: MacAddr, len: u32) {
        self.counters[vf.index()].count_rx(dst, len);
    }

    /// Counts a frame that was to be delivered to the VF and was not.
    pub fn count_rx_drop(&mut self, vf: VfIndex, reason: DropReason) {
        self.counters[vf.index()].rx_drops.count(reason);
    }

    /// Counts a frame of the VF that was never judged.
    pub fn count_tx_drop(&mut self, vf: VfIndex, reason: DropReason) {
        self.counters[vf.index()].tx_drops.count(reason);
    }

    /// Counts a frame that was to go to the NIC and did not; it is among those handed over.
    pub fn count_pf_drop(&mut self, reason: DropReason) {
        self.pf.tx_drops.count(reason);
    }

    /// What a VF has sent and received through the hypervisor.
    #[must_use]
    pub fn counters(&self, vf: VfIndex) -> &Counters {
        &self.counters[vf.index()]
    }

    /// The bridge, for the addresses it has learned.
    #[must_use]
    pub fn bridge(&self) -> &Bridge {
        &self.bridge
    }

    /// What the hypervisor has sent to the NIC (tx) and been handed by it (rx).
    #[must_use]
    pub fn pf_counters(&self) -> &Counters {
        &self.pf
    }
}
