//! What has passed each queue of a VF, also while its rings come and go. Never touches a ring.

use serde::{Deserialize, Serialize};
use vf_model::Counter;

/// Most queue pairs that a VF can be configured with.
pub const MAX_QUEUE_PAIRS: u16 = 16;

/// Queue pairs that are counted of each VF: those of a VF of Solarflare's are as many as it has interfaces, of which its driver takes what it likes.
const COUNTED_PAIRS: usize = 32;

/// Frames that passed one ring; a super-frame is one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Traffic<N = u64> {
    /// How many.
    pub packets: N,
    /// Their bytes, without FCS.
    pub bytes: N,
}

/// Frames that passed the two rings of one queue pair.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PairTraffic {
    /// Frames the guest received.
    pub rx: Traffic,
    /// Frames taken from the guest.
    pub tx: Traffic,
}

/// What has passed the queues of a VF in one direction, by queue pair, while it is counted.
#[derive(Debug, Default)]
pub(super) struct PerQueue {
    /// Queue pairs that have had a ring.
    pairs: Counter,
    queues: [Traffic<Counter>; COUNTED_PAIRS],
}

impl Traffic {
    #[inline]
    pub(super) fn add(&mut self, bytes: u32) {
        self.packets += 1;
        self.bytes += u64::from(bytes);
    }
}

impl PerQueue {
    /// Makes the queue known that this ring belongs to.
    pub(super) fn attach(&self, ring: u32) {
        self.pairs
            .set(self.pairs.get().max(u64::from(ring / 2) + 1));
    }

    /// No VF is offered more queues than are counted here.
    #[inline]
    fn queue(&self, ring: u32) -> &Traffic<Counter> {
        let pair = ring as usize / 2;
        &self.queues[pair.min(self.queues.len() - 1)]
    }

    /// Counts what has passed this ring.
    #[inline]
    pub(super) fn add(&self, ring: u32, more: Traffic) {
        let queue = self.queue(ring);
        queue.packets.add(more.packets);
        queue.bytes.add(more.bytes);
    }

    /// Frames that have passed this ring.
    #[inline]
    pub(super) fn packets(&self, ring: u32) -> u64 {
        self.queue(ring).packets.get()
    }

    /// Goes on from what another process has counted: in the one direction, or the other.
    pub(super) fn go_on_from(&self, pairs: &[PairTraffic], of: fn(&PairTraffic) -> Traffic) {
        self.pairs.set(pairs.len() as u64);
        for (queue, pair) in self.queues.iter().zip(pairs) {
            let Traffic { packets, bytes } = of(pair);
            queue.packets.set(packets);
            queue.bytes.set(bytes);
        }
    }

    /// Those of both directions, for each pair that has had a ring.
    pub(super) fn pairs(rx: &PerQueue, tx: &PerQueue) -> Vec<PairTraffic> {
        let read = |queue: &Traffic<Counter>| Traffic {
            packets: queue.packets.get(),
            bytes: queue.bytes.get(),
        };
        let pairs = rx.pairs.get().max(tx.pairs.get());
        let both = rx.queues.iter().zip(&tx.queues);
        let pairs = both.zip(0..pairs).map(|((rx, tx), _)| PairTraffic {
            rx: read(rx),
            tx: read(tx),
        });
        pairs.collect()
    }
}

#[cfg(test)]
mod tests {
    use vf_pci::ef10::Ef10;
    use vf_pci::function::Function;

    use super::*;

    #[test]
    fn each_queue_that_hardware_may_have_is_counted_by_itself() {
        // A window of 8 KiB of the first BAR is one interface.
        let interfaces = Ef10::new().identity().bars[0].size / 8192;
        let (rx, tx) = (PerQueue::default(), PerQueue::default());
        for pair in 0..interfaces as u32 {
            let ring = 2 * pair + 1;
            tx.attach(ring);
            let (packets, bytes) = (u64::from(pair) + 1, 60);
            tx.add(ring, Traffic { packets, bytes });
        }
        let pairs = PerQueue::pairs(&rx, &tx);
        let sent: Vec<_> = pairs.iter().map(|pair| pair.tx.packets).collect();
        assert_eq!(sent, (1..=interfaces).collect::<Vec<_>>());
    }
}
