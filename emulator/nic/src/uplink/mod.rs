//! What is plugged into a NIC's port: a wire to another NIC or to a bridge that reflects, a network device of the host, a tunnel to other
//! hosts, a vhost-user back end, passt, a capture. An uplink takes and brings frames in
//! bursts and says when it can take more; it judges no frame, knows no VF, and never waits.
//!
//! To add one: implement [`Uplink`] in a file of its own and put its `Kind` in `KINDS` (`spec`). What does something to frames on
//! their way stands in front of an uplink, as `netem` does; where it is not asked for there is nothing.

mod datagrams;
mod far_end;
mod macvtap;
mod netem;
mod packet;
mod passt;
mod plain;
mod replay;
mod rtnetlink;
mod spec;
mod tap;
mod tap_queues;
mod transmitter;
mod vhost_user;
mod vxlan;
mod wire;

use std::fmt;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use vf_model::{Counter, DropReason, Link, LinkConfig, Nanos, OnWire};
use vf_vhost::frame::FrameBuf;

use crate::queue::{Frame, Pool};

pub(crate) use far_end::{BackEndLink, HostLink, Presence};
pub use far_end::{FarEnd, LinkWatch};
pub(crate) use netem::Netem;
pub(crate) use plain::{finish, segments};
use replay::Recording;
pub use spec::{ReadAhead, UplinkError, UplinkSpec};
pub(crate) use tap::open_queues;
pub use wire::WireEnd;
pub(crate) use wire::has_room;

/// A kind of uplink.
#[derive(Debug)]
struct Kind {
    /// Its word.
    word: &'static str,
    /// What follows the word, if anything does; in brackets what may be left out.
    operand: &'static str,
    /// Whether it is a device of this machine, which has no virtual time.
    of_this_machine: bool,
    /// Whether its operand names a network device of the host.
    is_host_device: bool,
    /// What is wrong with what follows the word, if anything is.
    check: fn(&str) -> Result<(), String>,
    /// Opens one, which sends at this rate and may be filled so far ahead of now.
    open: fn(&str, LinkConfig, Nanos) -> Opened,
    /// How another process goes on with one.
    hand_over: HandOver,
}

/// What another process needs to go on with an uplink, and how it does.
#[derive(Clone, Copy, Debug)]
enum HandOver {
    /// It cannot.
    Refused,
    /// It has the same by opening it: nothing would be missed of what it holds.
    Anew,
    /// The descriptor is all.
    Descriptor(fn(&str, OwnedFd, LinkConfig, Nanos) -> Opened),
    /// How far it has come, beside the words.
    Position {
        /// Reads what it plays, for whoever holds it to be there when it is opened.
        ahead: fn(&str) -> Option<Arc<Recording>>,
        /// Goes on from there.
        go_on: fn(&str, Position, LinkConfig, Nanos) -> Opened,
    },
}

/// How far an uplink has come with what it plays.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Position {
    /// The frame that comes next.
    pub next: usize,
    /// How long until it does.
    pub comes_in: Nanos,
}

/// An uplink, or why there is none.
type Opened = Result<Box<dyn Uplink>, OpenError>;

/// An uplink that cannot be opened: which, why, and what would help.
#[derive(Debug, thiserror::Error)]
#[error("{uplink}: {source} ({help})")]
pub struct OpenError {
    uplink: String,
    source: std::io::Error,
    help: String,
}

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
    /// Others that are dropped, and why.
    pub dropped: Vec<(DropReason, Frame)>,
}

/// A number that an uplink counts beside what every port counts, with its name (`ethtool -S`, DPDK's xstats).
pub type Statistic = (&'static str, Arc<Counter>);

/// Is told of each frame that cannot be sent, and why.
pub type Lost<'a> = dyn FnMut(DropReason, &FrameBuf) + 'a;

/// The far side of a NIC's port. All methods return at once.
pub trait Uplink: fmt::Display + Send {
    /// How much may be sent now. What has been held back until now is on its way first; `lost` is called for each frame of
    /// that which cannot be sent.
    fn tx_room(&mut self, now: Nanos, pool: &Pool, lost: &mut Lost<'_>) -> TxRoom;

    /// When there will be room again, if that is known; the uplink wakes its plane's thread otherwise.
    fn tx_room_at(&mut self) -> Option<Nanos>;

    /// Takes all of `frames`, in order; calls `lost` for each that cannot be sent. More than there is room for is given by a
    /// change of paths and by a ring that stops, whose frames cannot wait.
    fn tx_burst(&mut self, now: Nanos, frames: &mut Vec<TxFrame>, pool: &Pool, lost: &mut Lost<'_>);

    /// Whether it cuts super-frames, so that each of their segments is work.
    fn cuts(&self) -> bool {
        false
    }

    /// Whether some of what it has taken is not sent yet, and goes on in the next round.
    fn is_sending(&self) -> bool {
        false
    }

    /// Adds up to `limit` frames that have arrived by `now`.
    fn rx_burst(&mut self, now: Nanos, limit: usize, pool: &Pool, arrivals: &mut Arrivals);

    /// When there is something to do though nobody sends, if that is known: the next frame arrives, or one that is held back
    /// is to go on.
    fn next(&mut self) -> Option<Nanos>;

    /// The thread that looks at this uplink has slept: it was not late.
    fn slept(&mut self) {}

    /// Lets `registry` wake its poller, by `ARRIVAL`'s token, when something arrives from outside the process.
    fn register(&self, _registry: &mio::Registry) {}

    /// What another process needs to go on with it, if a descriptor is all; what has come and is not taken waits there.
    fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    /// How far it has come with what it plays, if it does: what is not taken comes later.
    fn position(&self, _now: Nanos) -> Option<Position> {
        None
    }

    /// The longest packet that passes it, if there is a bound that nobody has said.
    fn mtu(&self) -> Option<u16> {
        None
    }

    /// What is at its other end, for whoever keeps the two ends of the link alike: it is given away once.
    fn far_end(&mut self) -> Option<FarEnd> {
        None
    }

    /// The transmitter, for its rate and its counters.
    fn link(&self) -> &Link;

    /// The same, for whoever is put in front and goes on where it is.
    fn link_mut(&mut self) -> &mut Link;

    /// What else it counts.
    fn statistics(&self) -> Vec<Statistic> {
        Vec::new()
    }
}
