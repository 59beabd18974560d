//! What has passed each queue of a VF, also while its rings come and go. Never touches a ring.

use std::ops::AddAssign;

/// Frames that passed one ring; a super-frame is one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// How many.
    pub packets: u64,
    /// Their bytes, without FCS.
    pub bytes: u64,
}

/// Frames that passed the two rings of one queue pair.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PairTraffic {
    /// Frames the guest received.
    pub rx: Traffic,
    /// Frames taken from the guest.
    pub tx: Traffic,
}

/// By queue pair.
#[derive(Debug, Default)]
pub(super) struct PerQueue(Vec<Traffic>);

impl Traffic {
    #[inline]
    pub(super) fn add(&mut self, bytes: u32) {
        self.packets += 1;
        self.bytes += u64::from(bytes);
    }
}

impl AddAssign for Traffic {
    #[inline]
    fn add_assign(&mut self, other: Traffic) {
        self.packets += other.packets;
        self.bytes += other.bytes;
    }
}

impl PerQueue {
    /// The counters of the queue that this ring belongs to.
    #[inline]
    pub(super) fn of_ring(&mut self, index: u32) -> &mut Traffic {
        let pair = index as usize / 2;
        if pair >= self.0.len() {
            self.0.resize(pair + 1, Traffic::default());
        }
        &mut self.0[pair]
    }

    /// Those of both directions, for each pair that has had a ring.
    pub(super) fn pairs(rx: &PerQueue, tx: &PerQueue) -> Vec<PairTraffic> {
        let of = |queues: &PerQueue, pair| queues.0.get(pair).copied().unwrap_or_default();
        let pairs = 0..rx.0.len().max(tx.0.len());
        let pairs = pairs.map(|pair| PairTraffic {
            rx: of(rx, pair),
            tx: of(tx, pair),
        });
        pairs.collect()
    }
}
