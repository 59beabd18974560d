//! What is plugged into the NIC's port: a wire to another NIC, a tap device of the host, or nothing.

use std::fmt;

use vf_model::{DropReason, FrameMeta, Link, LinkConfig, Nanos};
use vf_vhost::frame::FrameBuf;

use super::pool::Pool;
use super::relay::Relay;
use super::tap::Tap;
use super::wire::WireEnd;

/// The far side of a NIC's port.
pub enum Uplink {
    /// Nothing: the VFs reach each other, and what would leave is dropped as `no_uplink`.
    None,
    /// A wire to another NIC of this process.
    Wire(WireEnd),
    /// A tap device: from there any bridge of the host.
    Tap(Tap),
    /// The port is with another worker. Each VF's frames wait for themselves: the relay says whether it takes one.
    Relay(Relay),
}

impl Uplink {
    /// Whether a frame handed over now would be taken.
    #[must_use]
    pub fn can_send(&self, now: Nanos) -> bool {
        match self {
            Uplink::None | Uplink::Relay(_) => true,
            Uplink::Wire(wire) => wire.can_send(now),
            Uplink::Tap(tap) => tap.can_send(now),
        }
    }

    /// When [`Uplink::can_send`] will be true, if that is known.
    #[must_use]
    pub fn can_send_at(&self) -> Option<Nanos> {
        match self {
            Uplink::None | Uplink::Relay(_) => Some(Nanos(0)),
            Uplink::Wire(wire) => wire.can_send_at(),
            Uplink::Tap(tap) => tap.can_send_at(),
        }
    }

    /// Sends a frame, or says why it is lost.
    pub fn send(
        &mut self,
        now: Nanos,
        frame: FrameBuf,
        meta: &FrameMeta,
        pool: &Pool,
    ) -> Result<(), DropReason> {
        match self {
            // The relay has been given what it takes.
            Uplink::None | Uplink::Relay(_) => {
                pool.give(frame);
                Err(DropReason::NoUplink)
            }
            Uplink::Wire(wire) => {
                wire.send(now, frame, meta);
                Ok(())
            }
            Uplink::Tap(tap) => tap.send(now, frame, meta, pool),
        }
    }

    /// The next frame that has arrived by `now`, or why it cannot be taken.
    pub fn receive(&mut self, now: Nanos, pool: &Pool) -> Option<Result<FrameBuf, DropReason>> {
        match self {
            Uplink::None | Uplink::Relay(_) => None,
            Uplink::Wire(wire) => wire.receive(now).map(Ok),
            Uplink::Tap(tap) => tap.receive(pool),
        }
    }

    /// When the next frame arrives, if that is known.
    pub fn next_arrival(&mut self) -> Option<Nanos> {
        match self {
            Uplink::None | Uplink::Tap(_) => None,
            Uplink::Wire(wire) => wire.next_arrival(),
            Uplink::Relay(relay) => {
                relay.tell(); // the other worker has rung because there is room, or something else happens
                None
            }
        }
    }

    /// Lets `registry` wake its poller when something arrives from outside the process.
    pub fn register(&self, registry: &mio::Registry) {
        if let Uplink::Tap(tap) = self {
            tap.register(registry);
        }
    }

    /// Time spent sending up to `now`.
    #[must_use]
    pub fn busy(&self, now: Nanos) -> Nanos {
        self.link().map_or(Nanos(0), |link| link.busy(now))
    }

    /// The port's rate; without a cable, that of the NIC.
    #[must_use]
    pub fn rate_mbps(&self) -> u64 {
        let rate = match self {
            Uplink::None | Uplink::Relay(_) => LinkConfig::default().rate_bps,
            Uplink::Wire(wire) => wire.rate_bps(),
            Uplink::Tap(tap) => tap.rate_bps(),
        };
        rate / 1_000_000
    }

    fn link(&self) -> Option<&Link> {
        match self {
            Uplink::None | Uplink::Relay(_) => None,
            Uplink::Wire(wire) => Some(wire.link()),
            Uplink::Tap(tap) => Some(tap.link()),
        }
    }
}

impl fmt::Display for Uplink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Uplink::None => f.write_str("none"),
            Uplink::Wire(_) => f.write_str("wire"),
            Uplink::Tap(tap) => write!(f, "tap {}", tap.name()),
            Uplink::Relay(_) => f.write_str("relay"),
        }
    }
}
