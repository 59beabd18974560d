//! What is plugged into a NIC's port: a wire to another NIC, a tap device of the host. An uplink takes and brings frames in
//! bursts and says when it can take more; it judges no frame, knows no VF, and never waits.
//!
//! To add one: implement [`Uplink`] in a file of its own and name it in the configuration (`config/nic.rs`).

mod tap;
mod wire;

use std::fmt;

use vf_model::{DropReason, Link, Nanos, OnWire};

use crate::queue::{Frame, Pool};

pub use tap::Tap;
pub use wire::WireEnd;

/// Token of whatever an uplink registers: it does not matter what it was, the plane looks at everything after a sleep.
pub(crate) const ARRIVAL: mio::Token = mio::Token(1);

/// How much an uplink takes at once: a frame may be sent as long as neither is used up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TxRoom {
    /// Frames.
    pub frames: usize,
    /// Byte times of the transmitter, see [`vf_model::wire_bytes`]. The frame that uses up the last one may be longer.
    pub wire_bytes: u64,
}

impl TxRoom {
    /// For so many frames, as far as the transmitter may be filled: the last one begins at `until` or before it. What is sent
    /// next begins at `start`, or when the transmitter is free.
    #[must_use]
    pub fn of(link: &Link, frames: usize, start: Nanos, until: Nanos) -> TxRoom {
        let start = start.max(link.free_at());
        if start > until || frames == 0 {
            return TxRoom::default();
        }
        let time = until.saturating_sub(start).0;
        let bytes = match time.checked_mul(link.rate_bps() / 8) {
            Some(bytes) => bytes / 1_000_000_000,
            None => u64::MAX / 2, // more than any queue holds
        };
        TxRoom {
            frames,
            wire_bytes: bytes + 1,
        }
    }

    /// Whether a frame may be sent.
    #[must_use]
    #[inline]
    pub fn any(&self) -> bool {
        self.frames > 0 && self.wire_bytes > 0
    }

    /// A frame of so many byte times is sent.
    #[inline]
    pub fn take(&mut self, wire_bytes: u64) {
        self.frames = self.frames.saturating_sub(1);
        self.wire_bytes = self.wire_bytes.saturating_sub(wire_bytes);
    }
}

/// A frame on its way out.
#[derive(Debug)]
pub struct TxFrame {
    /// The frame.
    pub frame: Frame,
    /// What it takes of the wire.
    pub on_wire: OnWire,
}

/// What an uplink has brought.
#[derive(Debug, Default)]
pub struct Arrivals {
    /// The frames, in order.
    pub frames: Vec<Frame>,
    /// When the first of them arrived, if the uplink knows better than the reader.
    pub since: Option<Nanos>,
    /// Why others cannot be taken, one entry each.
    pub dropped: Vec<DropReason>,
}

/// The far side of a NIC's port. All methods return at once.
pub trait Uplink: fmt::Display + Send {
    /// How much may be sent now.
    fn tx_room(&mut self, now: Nanos) -> TxRoom;

    /// When there will be room again, if that is known; the uplink wakes its plane's thread otherwise.
    fn tx_room_at(&mut self) -> Option<Nanos>;

    /// Takes all of `frames`, in order; calls `lost` for each that cannot be sent. More than there is room for is given by a
    /// change of paths and by a ring that stops, whose frames cannot wait.
    fn tx_burst(
        &mut self,
        now: Nanos,
        frames: &mut Vec<TxFrame>,
        pool: &Pool,
        lost: &mut dyn FnMut(DropReason),
    );

    /// Adds up to `limit` frames that have arrived by `now`.
    fn rx_burst(&mut self, now: Nanos, limit: usize, pool: &Pool, arrivals: &mut Arrivals);

    /// When the next frame arrives, if that is known.
    fn next_arrival(&mut self) -> Option<Nanos>;

    /// The thread that looks at this uplink has slept: it was not late.
    fn slept(&mut self) {}

    /// Lets `registry` wake its poller, by `ARRIVAL`'s token, when something arrives from outside the process.
    fn register(&self, _registry: &mio::Registry) {}

    /// The transmitter, for its rate and its counters.
    fn link(&self) -> &Link;
}
