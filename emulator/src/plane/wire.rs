//! The wire between two NICs: each direction serialises frames at the link's rate and holds them until they arrive.
//! Never drops: a sender that may not send is expected to keep its frame, and one that sends all the same is served
//! later.

use std::collections::VecDeque;
use std::sync::Arc;

use crossbeam_queue::ArrayQueue;
use vf_model::{FrameMeta, Link, LinkConfig, Nanos};
use vf_vhost::frame::FrameBuf;

use super::doorbell::Doorbell;

/// Frames that may be on their way in one direction: more than 10 GbE holds in any sensible propagation delay.
const IN_FLIGHT: usize = 4096;

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
    /// What was sent while the fibre was full: a change of paths or a ring that stops cannot wait.
    ahead: VecDeque<InFlight>,
    inward: Fibre,
    /// The next frame to arrive, taken out of `inward` to look at its time.
    next: Option<InFlight>,
    /// How far ahead of now the transmitter may be filled. Zero on the virtual clock; on the wall clock it covers the
    /// time between two rounds of a worker.
    slack: Nanos,
    peer: Option<Doorbell>,
}

impl WireEnd {
    /// Both ends of a wire.
    #[must_use]
    pub fn pair(config: LinkConfig, slack: Nanos) -> (WireEnd, WireEnd) {
        let a_to_b: Fibre = Arc::new(ArrayQueue::new(IN_FLIGHT));
        let b_to_a: Fibre = Arc::new(ArrayQueue::new(IN_FLIGHT));
        let end = |out: &Fibre, inward: &Fibre| WireEnd {
            link: Link::new(config),
            rate_bps: config.rate_bps,
            out: Arc::clone(out),
            ahead: VecDeque::new(),
            inward: Arc::clone(inward),
            next: None,
            slack,
            peer: None,
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
        self.link.free_at() <= Nanos(now.0.saturating_add(self.slack.0)) && !self.is_full()
    }

    /// When the transmitter will take another frame; `None` while the fibre is full, until the other end rings.
    #[must_use]
    pub fn can_send_at(&self) -> Option<Nanos> {
        let free = self.link.free_at().0.saturating_sub(self.slack.0);
        (!self.is_full()).then_some(Nanos(free))
    }

    fn is_full(&self) -> bool {
        !self.ahead.is_empty() || self.out.is_full()
    }

    /// Serialises a frame, behind those that were sent before.
    pub fn send(&mut self, now: Nanos, frame: FrameBuf, meta: &FrameMeta) {
        let departure = self.link.transmit(now, meta);
        self.ahead.push_back(InFlight {
            arrival: departure.arrival,
            frame,
        });
        self.fill();
    }

    /// Puts what was sent into the fibre, as much as it holds.
    fn fill(&mut self) {
        let mut put = false;
        while let Some(flight) = self.ahead.pop_front() {
            if let Err(flight) = self.out.push(flight) {
                self.ahead.push_front(flight);
                break;
            }
            put = true;
        }
        if let (true, Some(peer)) = (put, &self.peer) {
            peer.ring();
        }
    }

    /// The next frame that has arrived by `now`.
    pub fn receive(&mut self, now: Nanos) -> Option<FrameBuf> {
        if self.next_arrival()? > now {
            return None;
        }
        self.next.take().map(|flight| flight.frame)
    }

    /// When the next frame arrives, if one is on its way.
    pub fn next_arrival(&mut self) -> Option<Nanos> {
        if !self.ahead.is_empty() {
            self.fill(); // the other end has rung because there is room, or something else happens
        }
        if self.next.is_none() {
            self.next = self.inward.pop();
            if self.next.is_some()
                && self.inward.len() + 1 == IN_FLIGHT
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
