//! Everything that is measured, at one moment. All counts are since the start; two readings make a figure. Changes nothing that it reads.

use std::collections::BTreeMap;

use vf_model::{DropReason, Nanos, VfIndex};
use vf_nic::instance::NicInstance;

use super::plan::Bottleneck;
use super::traffic::JobTraffic;
use crate::experiment::theory::SATURATED;
use crate::virtual_hosts::VirtualHosts;

/// See the module.
#[derive(Clone, Debug)]
pub(super) struct Reading {
    pub(super) at: Nanos,
    /// In the order of the plan.
    pub(super) jobs: Vec<JobReading>,
    /// In the order of the configuration.
    pub(super) nics: Vec<NicReading>,
}

/// One job.
#[derive(Clone, Copy, Debug)]
pub(super) struct JobReading {
    pub(super) bytes: u64,
    pub(super) retransmits: u64,
}

/// One NIC with its hypervisor.
#[derive(Clone, Debug)]
pub(super) struct NicReading {
    /// Time that the transmitter was busy.
    pub(super) link_busy: Nanos,
    /// CPU time of the hypervisor.
    pub(super) hypervisor_busy: Nanos,
    /// By VF, or `None` for the port and the PF.
    pub(super) drops: BTreeMap<(Option<VfIndex>, DropReason), u64>,
}

impl Reading {
    pub(super) fn take(world: &VirtualHosts, jobs: &[JobTraffic]) -> Reading {
        let at = world.now();
        Reading {
            at,
            jobs: jobs
                .iter()
                .map(|job| JobReading {
                    bytes: job.bytes,
                    retransmits: job.retransmits,
                })
                .collect(),
            nics: world
                .hosts()
                .map(|host| NicReading::take(at, &host.borrow()))
                .collect(),
        }
    }

    pub(super) fn seconds_since(&self, start: &Reading) -> f64 {
        self.at.saturating_sub(start.at).0 as f64 / 1e9
    }

    /// Bits a second of a job.
    pub(super) fn goodput_since(&self, start: &Reading, job: usize) -> f64 {
        let bytes = self.jobs[job].bytes - start.jobs[job].bytes;
        bytes as f64 * 8.0 / self.seconds_since(start).max(1e-9)
    }

    /// Share of the time, 0 to 1, that a NIC's transmitter was busy.
    pub(super) fn link_since(&self, start: &Reading, nic: usize) -> f64 {
        let busy = self.nics[nic]
            .link_busy
            .saturating_sub(start.nics[nic].link_busy);
        busy.0 as f64 / 1e9 / self.seconds_since(start).max(1e-9)
    }

    /// Share of the time that a NIC's hypervisor worked.
    pub(super) fn hypervisor_since(&self, start: &Reading, nic: usize) -> f64 {
        let busy = self.nics[nic].hypervisor_busy;
        let busy = busy.saturating_sub(start.nics[nic].hypervisor_busy);
        busy.0 as f64 / 1e9 / self.seconds_since(start).max(1e-9)
    }

    /// Frames of a NIC that were lost, those of a reason or of a VF only if one is named.
    pub(super) fn drops_since(
        &self,
        start: &Reading,
        nic: usize,
        vf: Option<VfIndex>,
        reason: Option<DropReason>,
    ) -> u64 {
        let before = &start.nics[nic].drops;
        let counted = self.nics[nic].drops.iter();
        counted
            .filter(|((of, why), _)| {
                vf.is_none_or(|vf| *of == Some(vf)) && reason.is_none_or(|r| r == *why)
            })
            .map(|(key, n)| n - before.get(key).unwrap_or(&0))
            .sum()
    }

    /// A hypervisor that was busy throughout is named first: the wire behind it may be full all the same.
    pub(super) fn bottleneck_since(&self, start: &Reading) -> Bottleneck {
        let any =
            |busy: &dyn Fn(usize) -> f64| (0..self.nics.len()).any(|nic| busy(nic) >= SATURATED);
        if any(&|nic| self.hypervisor_since(start, nic)) {
            Bottleneck::Hypervisor
        } else if any(&|nic| self.link_since(start, nic)) {
            Bottleneck::Link
        } else {
            Bottleneck::Neither
        }
    }
}

impl NicReading {
    fn take(at: Nanos, host: &NicInstance) -> NicReading {
        let statistics = &host.statistics;
        let mut drops = BTreeMap::new();
        for (vf, reason, n) in statistics.drops() {
            *drops.entry((vf, reason)).or_default() += n;
        }
        // On the virtual clock only the cost model's time is time.
        let charged = &statistics.hypervisor.charged;
        NicReading {
            link_busy: statistics.port_busy(at),
            hypervisor_busy: charged.as_ref().map_or(Nanos(0), |busy| busy.until(at)),
            drops,
        }
    }
}
