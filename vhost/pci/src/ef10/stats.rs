//! MAC_STATS: what has passed a VF, as the controller writes it to its driver's memory: numbers of 64 bits between two that say which
//! reading they are. The port's own are not for a VF to see.

use vf_model::{Counters, DropReason};

/// Numbers of a reading.
const NUMBERS: usize = 0x61;
/// Bytes of a reading.
pub(crate) const BYTES: usize = 8 * NUMBERS;

/// Where numbers are: packets to a station, their bytes, packets to a group and to all, in each direction; and what found no buffer.
mod at {
    pub(super) const FIRST: usize = 0;
    pub(super) const RX_UNICAST: usize = 0x4c;
    pub(super) const RX_BYTES: usize = 0x4d;
    pub(super) const RX_MULTICAST: usize = 0x4e;
    pub(super) const RX_BROADCAST: usize = 0x50;
    pub(super) const RX_OVERFLOW: usize = 0x54;
    pub(super) const TX_UNICAST: usize = 0x57;
    pub(super) const TX_BYTES: usize = 0x58;
    pub(super) const TX_MULTICAST: usize = 0x59;
    pub(super) const TX_BROADCAST: usize = 0x5b;
    pub(super) const LAST: usize = 0x60;
}

/// The readings of a VF.
#[derive(Debug, Default)]
pub(crate) struct Readings {
    /// What had been counted when the driver cleared its counters.
    cleared: [u64; 9],
    made: u64,
}

fn numbers(counters: &Counters) -> [(usize, u64); 9] {
    let unicast =
        |all: u64, group: u64, every: u64| all.saturating_sub(group).saturating_sub(every);
    let rx = unicast(
        counters.rx_packets,
        counters.rx_multicast,
        counters.rx_broadcast,
    );
    let tx = unicast(
        counters.tx_packets,
        counters.tx_multicast,
        counters.tx_broadcast,
    );
    let no_buffer = counters.rx_drops.get(DropReason::NoRxBuffer);
    [
        (at::RX_UNICAST, rx),
        (at::RX_BYTES, counters.rx_bytes),
        (at::RX_MULTICAST, counters.rx_multicast),
        (at::RX_BROADCAST, counters.rx_broadcast),
        (at::RX_OVERFLOW, no_buffer),
        (at::TX_UNICAST, tx),
        (at::TX_BYTES, counters.tx_bytes),
        (at::TX_MULTICAST, counters.tx_multicast),
        (at::TX_BROADCAST, counters.tx_broadcast),
    ]
}

impl Readings {
    /// Has all count from here.
    pub(crate) fn clear(&mut self, counters: &Counters) {
        self.cleared = numbers(counters).map(|(_, number)| number);
    }

    /// Another reading. The numbers of all bytes are among those of bytes to stations: nobody counts them apart.
    pub(crate) fn read(&mut self, counters: &Counters) -> Vec<u8> {
        self.made = self.made.wrapping_add(1);
        let mut reading = [0; NUMBERS];
        let since = numbers(counters).into_iter().zip(self.cleared);
        let since = since.map(|((at, now), then)| (at, now.saturating_sub(then)));
        for (at, number) in since.chain([(at::FIRST, self.made), (at::LAST, self.made)]) {
            if let Some(place) = reading.get_mut(at) {
                *place = number;
            }
        }
        reading
            .iter()
            .flat_map(|number| number.to_le_bytes())
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reading_is_between_two_numbers_and_counts_since_it_was_cleared() {
        let mut counters = Counters {
            rx_packets: 10,
            rx_multicast: 2,
            rx_broadcast: 1,
            rx_bytes: 1000,
            ..Counters::default()
        };
        let mut readings = Readings::default();
        let number =
            |bytes: &[u8], at: usize| u64::from_le_bytes(bytes[8 * at..][..8].try_into().unwrap());
        let first = readings.read(&counters);
        assert_eq!(
            (first.len(), number(&first, 0), number(&first, 0x60)),
            (BYTES, 1, 1)
        );
        assert_eq!(
            (
                number(&first, 0x4c),
                number(&first, 0x4e),
                number(&first, 0x50)
            ),
            (7, 2, 1)
        );
        readings.clear(&counters);
        counters.rx_packets += 1;
        let next = readings.read(&counters);
        assert_eq!(
            (number(&next, 0), number(&next, 0x4c), number(&next, 0x4d)),
            (2, 1, 0)
        );
    }
}
