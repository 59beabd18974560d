//! When the next interrupt of a driver is due: at once if it has had none lately, else when the time is up or the packets
//! are there that it waits for. A lone packet is never held back. Never reads a clock.

use vf_model::Nanos;
use vf_vhost::control::Coalescing;

/// What there is between two interrupts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gap {
    /// Least time; zero: none.
    pub time: Nanos,
    /// Packets for which the time is cut short; 0: however many.
    pub packets: u32,
}

impl From<Coalescing> for Gap {
    fn from(said: Coalescing) -> Gap {
        Gap {
            time: Nanos(u64::from(said.max_usecs) * 1000),
            packets: said.max_packets,
        }
    }
}

/// One interrupt line.
#[derive(Clone, Copy, Debug, Default)]
pub struct Moderation {
    /// When it was last raised.
    raised: Option<Nanos>,
    /// Packets up to then.
    packets: u64,
}

impl Moderation {
    /// When it may be raised next, after `packets` in all: `now` or later.
    #[must_use]
    pub fn due(&self, now: Nanos, gap: Gap, packets: u64) -> Nanos {
        let enough =
            gap.packets > 0 && packets.saturating_sub(self.packets) >= u64::from(gap.packets);
        match self.raised {
            Some(raised) if !enough => now.max(raised + gap.time),
            _ => now,
        }
    }

    /// It is raised now, for all of `packets`.
    pub fn raise(&mut self, now: Nanos, packets: u64) {
        self.raised = Some(now);
        self.packets = packets;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_since_the_last_interrupt_or_the_packets_count() {
        let gap = Gap::from(Coalescing {
            max_usecs: 20,
            max_packets: 8,
        });
        let mut line = Moderation::default();
        assert_eq!(line.due(Nanos(5), gap, 1), Nanos(5), "none before");
        line.raise(Nanos(5), 1);
        assert_eq!(line.due(Nanos(6), gap, 2), Nanos(20_005));
        assert_eq!(line.due(Nanos(7), gap, 8), Nanos(20_005), "seven");
        assert_eq!(line.due(Nanos(8), gap, 9), Nanos(8), "eight");
        assert_eq!(line.due(Nanos(30_000), gap, 2), Nanos(30_000));
        let forever = Gap { packets: 0, ..gap };
        assert_eq!(line.due(Nanos(8), forever, 1 << 40), Nanos(20_005));
        let none = Gap::from(Coalescing::default());
        assert_eq!(line.due(Nanos(6), none, 2), Nanos(6));
    }
}
