//! What the planes of a NIC count, for any thread to read while they count on. A plane is asked for nothing, waits for
//! nobody and does not notice: what it writes are plain stores of its own, whether or not anybody looks.
//!
//! Each number is exact, and a frame is counted as received before its receiver can see it: who has it finds it counted
//! here. Between two numbers the plane may have counted more. While traffic runs, the packets and the bytes of one reading
//! may be some frames apart, and so may the two sides of a forwarded frame.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use vf_model::{
    BridgeStats, BusyTime, CounterId, Counters, DropReason, FastCounters, Link, LinkConfig, Nanos,
    PublishedBridge, PublishedCounters, PublishedFast, PublishedPort, VfIndex,
};

use super::traffic::{PairTraffic, PerQueue};
use crate::netem;
use crate::queue::worker_of;
use crate::thread::{LiveLoad, Load};
use crate::uplink::{Statistic, Uplink};

/// What any plane counts.
#[derive(Clone, Debug)]
pub struct PlaneStatistics {
    pub(super) model: PublishedCounters,
    pub(super) load: Arc<LiveLoad>,
    /// By VF: to the guest, and from it.
    pub(super) traffic: Arc<[[Arc<PerQueue>; 2]]>,
    /// What impairments have done, by VF: to what it sends, and to what it is to get.
    pub(super) netem: Arc<[[netem::Counters; 2]]>,
}

/// What impairments have done to frames that went on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetemCounts {
    /// Copies that went on beside their frame.
    pub duplicated: u64,
    /// Frames with a bit turned over.
    pub corrupted: u64,
    /// Frames that have overtaken others.
    pub reordered: u64,
}

impl PlaneStatistics {
    /// What a VF has sent and received on this path.
    #[must_use]
    pub fn vf(&self, vf: VfIndex) -> Counters {
        self.model.vf(vf)
    }

    /// What has passed the PF, as this plane has seen it.
    #[must_use]
    pub fn pf(&self) -> Counters {
        self.model.pf.read()
    }

    /// What its thread has done.
    #[must_use]
    pub fn load(&self) -> Load {
        self.load.read()
    }

    /// What has passed each queue pair of a VF here.
    #[must_use]
    pub fn traffic(&self, vf: VfIndex) -> Vec<PairTraffic> {
        let vf = self.traffic.get(vf.index());
        vf.map_or_else(Vec::new, |[rx, tx]| PerQueue::pairs(rx, tx))
    }
}

/// What a worker of the direct path counts.
#[derive(Clone, Debug)]
pub struct DirectStatistics {
    /// As any plane.
    pub plane: PlaneStatistics,
    pub(super) wire: PublishedPort,
    pub(super) fast: PublishedFast,
    /// What is plugged into the port, if the port is with this worker and anything is.
    pub uplink: Option<UplinkStatistics>,
}

impl DirectStatistics {
    /// What has gone out on the wire (tx) and come from it (rx).
    #[must_use]
    pub fn wire(&self) -> Counters {
        self.wire.read()
    }
}

/// The port's transmitter.
#[derive(Clone, Debug)]
pub struct UplinkStatistics {
    /// What is plugged in.
    pub name: String,
    /// Bits a second.
    pub rate_bps: u64,
    /// Time spent sending.
    pub busy: BusyTime,
    /// What else it counts.
    pub others: Vec<Statistic>,
}

impl UplinkStatistics {
    /// What is in front of an uplink has the transmitter of the port.
    pub(super) fn of(uplink: &dyn Uplink, in_front: Option<&Link>) -> UplinkStatistics {
        let link = in_front.unwrap_or(uplink.link());
        UplinkStatistics {
            name: uplink.to_string(),
            rate_bps: link.rate_bps(),
            busy: link.busy_time(),
            others: uplink.statistics(),
        }
    }
}

/// What the mediated path counts.
#[derive(Clone, Debug)]
pub struct MediatedStatistics {
    /// As any plane.
    pub plane: PlaneStatistics,
    /// Time that the CPU has been charged for; `None` without a cost model.
    pub charged: Option<BusyTime>,
    pub(super) bridge: PublishedBridge,
}

impl MediatedStatistics {
    /// What the bridge has done up to `at`.
    #[must_use]
    pub fn bridge(&self, at: Nanos) -> BridgeStats {
        self.bridge.stats(at)
    }

    /// Nanoseconds that the CPU was busy up to `at`: those that it was charged for, or those that its thread took.
    #[must_use]
    pub fn busy_ns(&self, at: Nanos) -> u64 {
        match &self.charged {
            Some(charged) => charged.until(at).0,
            None => self.plane.load().busy_ns,
        }
    }
}

/// What has been counted of a NIC, for another process to go on from. Times are not in it: they are of a process.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct SavedStatistics {
    wire: Counters,
    /// The PF, as the NIC has seen it, and as the hypervisor has.
    pf: [Counters; 2],
    vfs: Vec<SavedVfStatistics>,
    /// What else is counted of what is plugged into the port.
    uplink: Vec<(String, u64)>,
}

#[derive(Debug, Default, Serialize, Deserialize)]
struct SavedVfStatistics {
    direct: Counters,
    mediated: Counters,
    fast: FastCounters,
    /// By queue pair, on the direct path and on the mediated one.
    traffic: [Vec<PairTraffic>; 2],
    /// Of what it has sent, and of what it was to get.
    #[serde(default)]
    netem: [NetemCounts; 2],
}

/// What all planes of a NIC count.
#[derive(Clone, Debug)]
pub struct Statistics {
    /// The direct path, by worker: one at least, and the first has the port.
    pub workers: Vec<DirectStatistics>,
    /// The mediated path.
    pub hypervisor: MediatedStatistics,
}

impl Statistics {
    fn sum(&self, counters: impl Fn(&DirectStatistics) -> Counters) -> Counters {
        let mut sum = Counters::default();
        for worker in &self.workers {
            sum += &counters(worker);
        }
        sum
    }

    /// What a VF has sent and received on the direct path.
    #[must_use]
    pub fn direct(&self, vf: VfIndex) -> Counters {
        self.sum(|worker| worker.plane.vf(vf))
    }

    /// What of a VF on path `auto` took which path.
    #[must_use]
    pub fn fast_path(&self, vf: VfIndex) -> FastCounters {
        let mut sum = FastCounters::default();
        for worker in &self.workers {
            sum += worker.fast.vf(vf);
        }
        sum
    }

    /// The same on the mediated path.
    #[must_use]
    pub fn mediated(&self, vf: VfIndex) -> Counters {
        self.hypervisor.plane.vf(vf)
    }

    /// What has passed the PF, as the NIC has seen it.
    #[must_use]
    pub fn pf(&self) -> Counters {
        self.sum(|worker| worker.plane.pf())
    }

    /// What has gone out on the wire (tx) and come from it (rx).
    #[must_use]
    pub fn wire(&self) -> Counters {
        self.sum(DirectStatistics::wire)
    }

    /// What has passed each queue pair of a VF on the direct path, and on the mediated one.
    #[must_use]
    pub fn traffic(&self, vf: VfIndex) -> [Vec<PairTraffic>; 2] {
        let direct = self.workers.get(worker_of(vf, self.workers.len()));
        let direct = direct.map(|worker| worker.plane.traffic(vf));
        [
            direct.unwrap_or_default(),
            self.hypervisor.plane.traffic(vf),
        ]
    }

    /// What impairments have done to what a VF has sent, and to what it was to get, on either path.
    #[must_use]
    pub fn netem(&self, vf: VfIndex) -> [NetemCounts; 2] {
        let workers = self.workers.iter().map(|worker| &worker.plane);
        let mut sums = [NetemCounts::default(); 2];
        for plane in workers.chain([&self.hypervisor.plane]) {
            let Some(counters) = plane.netem.get(vf.index()) else {
                continue;
            };
            for (sum, counters) in sums.iter_mut().zip(counters) {
                let [duplicated, corrupted, reordered] = counters.read();
                sum.duplicated += duplicated;
                sum.corrupted += corrupted;
                sum.reordered += reordered;
            }
        }
        sums
    }

    /// Frames that a filter has decided on, on either path.
    #[must_use]
    pub fn hits(&self, counter: CounterId) -> u64 {
        let workers = self.workers.iter().map(|worker| &worker.plane);
        let planes = workers.chain([&self.hypervisor.plane]);
        planes.map(|plane| plane.model.hits.read(counter)).sum()
    }

    /// Goes on from the frames that a filter has decided on in another process. Only before any plane counts anything.
    pub fn hits_go_on_from(&self, counter: CounterId, frames: u64) {
        if let Some(first) = self.workers.first() {
            first.plane.model.hits.go_on_from(counter, frames);
        }
    }

    /// All that is gone on from.
    #[must_use]
    pub fn save(&self) -> SavedStatistics {
        let vfs = (0..self.hypervisor.plane.traffic.len()).map(VfIndex::from);
        let vfs = vfs.map(|vf| SavedVfStatistics {
            direct: self.direct(vf),
            mediated: self.mediated(vf),
            fast: self.fast_path(vf),
            traffic: self.traffic(vf),
            netem: self.netem(vf),
        });
        let others = self.uplink().map_or(&[][..], |uplink| &uplink.others);
        let others = others.iter().map(|(name, n)| (name.to_string(), n.get()));
        SavedStatistics {
            uplink: others.collect(),
            wire: self.wire(),
            pf: [self.pf(), self.hypervisor.plane.pf()],
            vfs: vfs.collect(),
        }
    }

    /// Goes on from there. Only before any plane counts anything.
    pub fn go_on_from(&self, saved: &SavedStatistics) {
        let hypervisor = &self.hypervisor.plane;
        let [pf, beyond] = &saved.pf;
        hypervisor.model.pf.go_on_from(beyond);
        if let Some(first) = self.workers.first() {
            first.wire.go_on_from(&saved.wire);
            first.plane.model.pf.go_on_from(pf);
        }
        let others = self.uplink().map_or(&[][..], |uplink| &uplink.others);
        for (name, counter) in others {
            let mut of_before = saved.uplink.iter();
            if let Some((_, n)) = of_before.find(|(before, _)| before == name) {
                counter.set(*n);
            }
        }
        for (i, saved) in saved.vfs.iter().enumerate() {
            let vf = VfIndex::from(i);
            hypervisor.model.go_on_from(vf, &saved.mediated);
            let [direct, mediated] = &saved.traffic;
            let count = |plane: &PlaneStatistics, pairs: &[PairTraffic]| {
                if let Some([rx, tx]) = plane.traffic.get(i) {
                    rx.go_on_from(pairs, |pair| pair.rx);
                    tx.go_on_from(pairs, |pair| pair.tx);
                }
            };
            count(hypervisor, mediated);
            if let Some(worker) = self.workers.get(worker_of(vf, self.workers.len())) {
                worker.plane.model.go_on_from(vf, &saved.direct);
                worker.fast.go_on_from(vf, &saved.fast);
                count(&worker.plane, direct);
                let netem = worker.plane.netem.get(i).into_iter().flatten();
                for (counters, saved) in netem.zip(saved.netem) {
                    counters.go_on_from([saved.duplicated, saved.corrupted, saved.reordered]);
                }
            }
        }
    }

    /// What is plugged into the port.
    #[must_use]
    pub fn uplink(&self) -> Option<&UplinkStatistics> {
        self.workers.first()?.uplink.as_ref()
    }

    /// The port's rate in bits a second; without a cable, that of the NIC.
    #[must_use]
    pub fn port_rate(&self) -> u64 {
        let uplink = self.uplink();
        uplink.map_or(LinkConfig::default().rate_bps, |uplink| uplink.rate_bps)
    }

    /// Time that the port has spent sending up to `at`.
    #[must_use]
    pub fn port_busy(&self, at: Nanos) -> Nanos {
        let uplink = self.uplink();
        uplink.map_or(Nanos(0), |uplink| uplink.busy.until(at))
    }

    /// Frames that were dropped: of which VF, or `None` for the port and the PF, why, and how many.
    pub fn drops(&self) -> impl Iterator<Item = (Option<VfIndex>, DropReason, u64)> + '_ {
        let vfs = (0..self.hypervisor.plane.traffic.len()).map(VfIndex::from);
        let of_vfs =
            vfs.flat_map(|vf| [(Some(vf), self.direct(vf)), (Some(vf), self.mediated(vf))]);
        let others = [self.pf(), self.wire(), self.hypervisor.plane.pf()];
        let all = of_vfs.chain(others.map(|counters| (None, counters)));
        all.flat_map(|(vf, counters)| {
            let drops = counters.rx_drops.iter().chain(counters.tx_drops.iter());
            let drops: Vec<_> = drops.map(|(why, n)| (vf, why, n)).collect();
            drops
        })
    }
}
