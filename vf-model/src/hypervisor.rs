//! The hypervisor of one host: judges every frame that mediated guests send or that the NIC hands up. Its bridge learns
//! where stations are and so on which ports a frame is tried; who receives it is for the filters to say, as on the direct
//! path. Where the two disagree the filters win: else a guest that may spoof could take over its neighbour's traffic.
//! Never touches the frame itself.

use std::sync::Arc;

use crate::addr::Vlan;
use crate::bridge::{Bridge, BridgePort};
use crate::frame::FrameMeta;
use crate::judge::{Account, Judge};
use crate::policy::Policy;
use crate::reach::{Origin, Reach};
use crate::stats::DropReason;
use crate::time::Nanos;
use crate::verdict::Verdict;

/// The model of the mediated path: the bridge, limiters and counters. Judges by the same [`Policy`] as the [`crate::Nic`].
#[derive(Clone, Debug)]
pub struct HypervisorModel {
    account: Account,
    bridge: Bridge,
}

impl HypervisorModel {
    /// The hypervisor of a host with a NIC of this policy.
    #[must_use]
    pub fn new(policy: Arc<Policy>) -> HypervisorModel {
        let mut bridge = Bridge::new();
        bridge.set_vifs(policy.mediated());
        HypervisorModel {
            account: Account::new(policy),
            bridge,
        }
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
            self.account.take_tokens(now, vf, meta);
        }
        let judged = Policy::parse(head).and_then(|header| {
            let policy = &self.account.policy;
            let flow = policy.filter_table().flow_actions(head);
            let reach = match from {
                BridgePort::Vif(vf) => policy.reach_from_vf(vf, &header, flow, meta)?,
                // What direct VFs send comes up only to addresses that a VF has.
                BridgePort::Pf => policy.reach_from_outside(&header, flow, Origin::Wire),
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
                        self.account.counters[vf.index()].count_tx(header.dst, meta.len);
                    }
                    BridgePort::Pf => self.account.pf.count_rx(header.dst, meta.len),
                }
                if verdict.pf {
                    self.account
                        .pf
                        .count_tx(header.dst, verdict.onward_len(meta.len));
                }
                verdict
            }
            Err(reason) => {
                match from {
                    BridgePort::Vif(vf) => self.count_tx_drop(vf, reason),
                    BridgePort::Pf => self.account.pf.rx_drops.count(reason),
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

    /// The bridge, for the addresses it has learned.
    #[must_use]
    pub fn bridge(&self) -> &Bridge {
        &self.bridge
    }
}

impl Judge for HypervisorModel {
    fn account(&self) -> &Account {
        &self.account
    }

    fn account_mut(&mut self) -> &mut Account {
        &mut self.account
    }

    fn adopt(&mut self, policy: Arc<Policy>) {
        self.bridge.set_vifs(policy.mediated());
        self.account.adopt(policy);
    }

    fn count_pf_drop(&mut self, reason: DropReason) {
        self.account.pf.tx_drops.count(reason);
    }
}
