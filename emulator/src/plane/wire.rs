//! The wire between two NICs: each direction serialises frames at the link's rate and holds them until they arrive.
//! A sender that may not send keeps its frame; only one that sends all the same can lose it.

use std::sync::Arc;

use crossbeam_queue::ArrayQueue;
use vf_model::{FrameMeta, Link, LinkConfig, Nanos};
use vf_vhost::frame::FrameBuf;

use super::digest::Digest;
use super::doorbell::Doorbell;
use super::pf::PF_RING;

/// Frames that may be on their way in one direction: more than 10 GbE holds in any sensible propagation delay.
const IN_FLIGHT: usize = 4096;
/// Room besides for what a change of paths or a ring that stops sends ahead of its time: all that the PF holds, and a
/// frame of each VF.
const AHEAD: usize = PF_RING + vf_model::MAX_VFS as usize;

struct InFlight {
    arrival: Nanos,
    frame: FrameBuf,
}

type Fibre = Arc<ArrayQueue<InFlight>>;

/// One NIC's end of a full-duplex wire.
pub struct WireEnd {
    link: Link,
    rate_bps: u64,
    out: Fibre,
    inward: Fibre,
    /// The next frame to arrive, taken out of `inward` to look at its time.
    next: Option<InFlight>,
    /// How far ahead of now the transmitter may be filled. Zero on the virtual clock; on the wall clock it covers the
    /// time between two rounds of a worker.
    slack: Nanos,
    peer: Option<Doorbell>,
    watched: Option<Digest>,
}

impl WireEnd {
    /// Both ends of a wire.
    #[must_use]
    pub fn pair(config: LinkConfig, slack: Nanos) -> (WireEnd, WireEnd) {
        let a_to_b: Fibre = Arc::new(ArrayQueue::new(IN_FLIGHT + AHEAD));
        let b_to_a: Fibre = Arc::new(ArrayQueue::new(IN_FLIGHT + AHEAD));
        let end = |out: &Fibre, inward: &Fibre| WireEnd {
            link: Link::new(config),
            rate_bps: config.rate_bps,
            out: Arc::clone(out),
            inward: Arc::clone(inward),
            next: None,
            slack,
            peer: None,
            watched: None,
        };
        (end(&a_to_b, &b_to_a), end(&b_to_a, &a_to_b))
    }

    /// Names the thread at the other end, to be woken when a frame is sent.
    pub fn set_peer(&mut self, bell: Doorbell) {
        self.peer = Some(bell);
    }

    /// Whether a frame handed over now would be taken.
    #[must_use]
    pub fn can_send(&self, now: Nanos) -> bool {
        self.link.free_at() <= Nanos(now.0.saturating_add(self.slack.0))
            && self.out.len() < IN_FLIGHT
    }

    /// When the transmitter will take another frame; `None` while the fibre is full, until the other end rings.
    #[must_use]
    pub fn can_send_at(&self) -> Option<Nanos> {
        let free = self.link.free_at().0.saturating_sub(self.slack.0);
        (self.out.len() < IN_FLIGHT).then_some(Nanos(free))
    }

    /// Serialises a frame; gives it back if the fibre holds too many.
    pub fn send(&mut self, now: Nanos, frame: FrameBuf, meta: &FrameMeta) -> Result<(), FrameBuf> {
        if self.out.is_full() {
            return Err(frame);
        }
        let departure = self.link.transmit(now, meta);
        let sent = self.out.push(InFlight {
            arrival: departure.arrival,
            frame,
        });
        if let Some(peer) = &self.peer {
            peer.ring();
        }
        sent.map_err(|lost| lost.frame)
    }

    /// The next frame that has arrived by `now`.
    pub fn receive(&mut self, now: Nanos) -> Option<FrameBuf> {
        if self.next_arrival()? > now {
            return None;
        }
        let InFlight { arrival, frame } = self.next.take()?;
        if let Some(digest) = &mut self.watched {
            digest.add(&arrival.0.to_le_bytes());
            digest.add(&frame.data);
        }
        Some(frame)
    }

    /// Takes a digest of what arrives from now on.
    pub fn watch(&mut self) {
        self.watched = Some(Digest::default());
    }

    /// The digest of time and bytes of all that has arrived since [`WireEnd::watch`].
    #[must_use]
    pub fn digest(&self) -> u64 {
        self.watched.as_ref().map_or(0, Digest::value)
    }

    /// When the next frame arrives, if one is on its way.
    pub fn next_arrival(&mut self) -> Option<Nanos> {
        if self.next.is_none() {
            self.next = self.inward.pop();
            if self.inward.len() + 1 == IN_FLIGHT
                && let Some(peer) = &self.peer
            {
                peer.ring(); // its transmitter may go on
            }
        }
        self.next.as_ref().map(|f| f.arrival)
    }

    /// Bits a second.
    #[must_use]
    pub fn rate_bps(&self) -> u64 {
        self.rate_bps
    }

    /// This end's transmitter, for its counters.
    #[must_use]
    pub fn link(&self) -> &Link {
        &self.link
    }
}
