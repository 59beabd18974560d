//! The wire between two NICs: each direction serialises frames at the link's rate and holds them until they arrive. Never
//! delivers a frame before the wire could have brought it.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering, fence};

use rtrb::{Consumer, Producer, RingBuffer};
use vf_model::{DropReason, FrameMeta, Link, LinkConfig, Nanos, wire_bytes};
use vf_packet::MIN_FRAME;

use super::transmitter::Transmitter;
use super::{Arrivals, HandOver, Kind, Lost, TxFrame, TxRoom, Uplink};
use crate::queue::{Doorbell, Frame, Pool, cost};

/// Frames that may be on their way in one direction: more than 10 GbE holds in any cable that is laid. A wire whose propagation delay is a longer way's, or
/// that is faster, has room for what it holds beside them.
const IN_FLIGHT: usize = 4096;
/// The same in bytes.
const IN_FLIGHT_BYTES: u64 = 8 << 20;
/// Frames that any wire has room for at most: a gigabyte of buffers.
const MOST_IN_FLIGHT: u64 = 512 << 10;
/// Bytes beyond that which a change of paths or a ring that stops may put on the wire, since they cannot wait.
const FORCED_BYTES: u64 = 24 << 20;

/// A wire to an adjacent bridge that reflects everything (`bridge link set dev DEV hairpin on`): a station of this NIC is all
/// that it knows. It is what a switch in VEPA mode needs.
pub(super) const HAIRPIN: Kind = Kind {
    word: "hairpin",
    operand: "",
    of_this_machine: false,
    is_host_device: false,
    check: |_| Ok(()),
    open: |_, config, slack| Ok(Box::new(WireEnd::hairpin(config, slack))),
    hand_over: HandOver::Anew,
};

/// How many frames of so many bytes a wire holds in one direction.
fn held(config: LinkConfig, len: u32) -> u64 {
    let wire_bytes = wire_bytes(&FrameMeta { len, gso: None });
    let bits = u128::from(config.rate_bps) * u128::from(config.propagation.0) / 1_000_000_000;
    u64::try_from(bits / 8 / u128::from(wire_bytes)).unwrap_or(u64::MAX)
}

/// Whether a wire has room for what it holds of frames of full size: one that has not would be slower than it is said to be.
pub(crate) fn has_room(config: LinkConfig) -> bool {
    held(config, 1514) <= MOST_IN_FLIGHT
}

/// Frames and bytes that may be on their way in one direction.
fn in_flight(config: LinkConfig) -> (usize, u64) {
    let held = held(config, MIN_FRAME).min(MOST_IN_FLIGHT);
    match usize::try_from(held) {
        Ok(frames) if frames > IN_FLIGHT / 2 => {
            let bytes = held * IN_FLIGHT_BYTES / IN_FLIGHT as u64;
            (IN_FLIGHT + frames, IN_FLIGHT_BYTES + bytes)
        }
        _ => (IN_FLIGHT, IN_FLIGHT_BYTES),
    }
}

struct InFlight {
    arrival: Nanos,
    frame: Frame,
}

/// What the two ends of one direction share beside the frames.
#[derive(Default)]
struct Shared {
    /// Bytes that the receiver has taken.
    taken: AtomicU64,
    /// Whether the sender waits for the receiver to take something.
    full: AtomicBool,
}

/// One NIC's end of a full-duplex wire.
pub struct WireEnd {
    name: &'static str,
    transmitter: Transmitter,
    out: Producer<InFlight>,
    out_shared: Arc<Shared>,
    /// Bytes that may be on their way.
    most_bytes: u64,
    /// Bytes that have been sent.
    sent: u64,
    /// Those of them that the far end had taken when this end last looked.
    taken: u64,
    /// What was sent while the direction was full.
    forced: VecDeque<InFlight>,
    inward: Consumer<InFlight>,
    inward_shared: Arc<Shared>,
    received: u64,
    /// The thread at the other end, unless it is this one.
    peer: Option<Doorbell>,
}

impl WireEnd {
    /// Both ends of a wire. `slack` is how far ahead of now a transmitter may be filled, zero on the virtual clock.
    #[must_use]
    pub fn pair(config: LinkConfig, slack: Nanos) -> (WireEnd, WireEnd) {
        let (frames, bytes) = in_flight(config);
        let (a_out, b_in) = RingBuffer::new(frames);
        let (b_out, a_in) = RingBuffer::new(frames);
        let (a_shared, b_shared) = <(Arc<Shared>, Arc<Shared>)>::default();
        let end = |out, inward| {
            let transmitter = Transmitter::new(config, slack);
            WireEnd::new("wire", transmitter, bytes, out, inward)
        };
        (
            end((a_out, &a_shared), (a_in, &b_shared)),
            end((b_out, &b_shared), (b_in, &a_shared)),
        )
    }

    /// The end of a wire that brings back what is sent, once it has gone there and back.
    pub(crate) fn hairpin(config: LinkConfig, slack: Nanos) -> WireEnd {
        let config = LinkConfig {
            propagation: config.propagation + config.propagation,
            ..config
        };
        let (frames, bytes) = in_flight(config);
        let (out, inward) = RingBuffer::new(frames);
        let (shared, transmitter) = (Arc::default(), Transmitter::new(config, slack));
        let (out, inward) = ((out, &shared), (inward, &shared));
        WireEnd::new("hairpin", transmitter, bytes, out, inward)
    }

    fn new(
        name: &'static str,
        transmitter: Transmitter,
        most_bytes: u64,
        out: (Producer<InFlight>, &Arc<Shared>),
        inward: (Consumer<InFlight>, &Arc<Shared>),
    ) -> WireEnd {
        WireEnd {
            name,
            transmitter,
            out: out.0,
            out_shared: Arc::clone(out.1),
            most_bytes,
            sent: 0,
            taken: 0,
            forced: VecDeque::new(),
            inward: inward.0,
            inward_shared: Arc::clone(inward.1),
            received: 0,
            peer: None,
        }
    }

    /// Names the thread at the other end, to be woken when frames are sent or taken. Not needed if both ends are on one
    /// thread, or on the virtual clock.
    pub fn set_peer(&mut self, bell: Doorbell) {
        self.peer = Some(bell);
    }

    /// Frames for which there is room in this direction.
    fn free_slots(&mut self) -> usize {
        if self.sent - self.taken >= self.most_bytes {
            self.taken = self.out_shared.taken.load(Ordering::Acquire);
        }
        match self.forced.is_empty() && self.sent - self.taken < self.most_bytes {
            true => self.out.slots(),
            false => 0,
        }
    }

    /// The same, and if there is none the other end is asked to say when there is some.
    fn room(&mut self) -> usize {
        self.fill();
        match self.free_slots() {
            0 => {}
            slots => return slots,
        }
        self.out_shared.full.store(true, Ordering::Relaxed);
        // Pairs with the fence in `rx_burst`: either this end sees what was taken, or the other end sees that it waits.
        fence(Ordering::SeqCst);
        self.fill();
        self.free_slots()
    }

    /// Puts what could not wait on the wire, as much as it holds, and tells of it.
    fn fill(&mut self) {
        let mut put = false;
        while let Some(flight) = self.forced.pop_front() {
            if let Err(rtrb::PushError::Full(flight)) = self.out.push(flight) {
                self.forced.push_front(flight);
                break;
            }
            put = true;
        }
        if put {
            self.tell();
        }
    }

    fn tell(&self) {
        if let Some(peer) = &self.peer {
            peer.ring();
        }
    }
}

impl Uplink for WireEnd {
    fn tx_room(&mut self, now: Nanos, _pool: &Pool, _lost: &mut Lost<'_>) -> TxRoom {
        let frames = self.room();
        self.transmitter.room(now, frames)
    }

    fn tx_room_at(&mut self) -> Option<Nanos> {
        (self.room() > 0).then_some(self.transmitter.room_at())
    }

    fn tx_burst(
        &mut self,
        now: Nanos,
        frames: &mut Vec<TxFrame>,
        pool: &Pool,
        lost: &mut Lost<'_>,
    ) {
        let start = self.transmitter.start(now);
        for TxFrame { frame, on_wire } in frames.drain(..) {
            if self.sent - self.taken > self.most_bytes + FORCED_BYTES {
                self.taken = self.out_shared.taken.load(Ordering::Acquire);
                if self.sent - self.taken > self.most_bytes + FORCED_BYTES {
                    lost(DropReason::WireQueueFull, &frame);
                    pool.give(frame);
                    continue;
                }
            }
            self.sent += cost(&frame);
            let arrival = self.transmitter.put(start, on_wire).arrival;
            let flight = InFlight { arrival, frame };
            if !self.forced.is_empty() {
                self.forced.push_back(flight);
            } else if let Err(rtrb::PushError::Full(flight)) = self.out.push(flight) {
                self.forced.push_back(flight);
            }
        }
        self.transmitter.sent(now);
        self.tell();
    }

    fn rx_burst(&mut self, now: Nanos, limit: usize, _pool: &Pool, arrivals: &mut Arrivals) {
        let Ok(chunk) = self.inward.read_chunk(self.inward.slots().min(limit)) else {
            return;
        };
        let (first, second) = chunk.as_slices();
        let there = first.iter().chain(second);
        let arrived = there.take_while(|flight| flight.arrival <= now).count();
        let Some(flight) = first.first().filter(|_| arrived > 0) else {
            return;
        };
        arrivals.since.get_or_insert(flight.arrival);
        // What is not taken out of a chunk stays in the queue.
        for InFlight { frame, .. } in chunk.into_iter().take(arrived) {
            self.received += cost(&frame);
            arrivals.frames.push(frame);
        }
        let shared = &self.inward_shared;
        shared.taken.store(self.received, Ordering::Release);
        if let Some(peer) = &self.peer {
            // Pairs with the fence in `room`.
            fence(Ordering::SeqCst);
            if shared.full.load(Ordering::Relaxed) {
                shared.full.store(false, Ordering::Relaxed);
                peer.ring();
            }
        }
    }

    fn next(&mut self) -> Option<Nanos> {
        if !self.forced.is_empty() {
            // Nobody may wait for room who would ask for it.
            self.room();
        }
        self.inward.peek().ok().map(|flight| flight.arrival)
    }

    fn slept(&mut self) {
        self.transmitter.slept();
    }

    fn link(&self) -> &Link {
        self.transmitter.link()
    }

    fn link_mut(&mut self) -> &mut Link {
        self.transmitter.link_mut()
    }
}

impl fmt::Display for WireEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

#[cfg(test)]
mod tests {
    use vf_model::OnWire;

    use super::*;

    #[test]
    fn a_long_wire_is_as_fast_as_a_short_one() {
        let pool = Pool::new(1);
        let on_wire = OnWire::of(&FrameMeta { len: 60, gso: None });
        for propagation in [500, 1_000_000, 20_000_000] {
            let config = LinkConfig {
                propagation: Nanos(propagation),
                ..LinkConfig::default()
            };
            let (mut near, mut far) = WireEnd::pair(config, Nanos(0));
            let end = Nanos(2 * propagation + 1_000_000);
            let (mut now, mut sent) = (Nanos(0), 0_u64);
            while now < end {
                let room = near.tx_room(now, &pool, &mut |_, _| {});
                assert!(
                    room.frames > 0,
                    "{propagation} ns: full after {sent} frames"
                );
                if room.any() {
                    let mut frame = pool.take(60);
                    frame.data.resize(60, 0);
                    let mut frames = vec![TxFrame { frame, on_wire }];
                    near.tx_burst(now, &mut frames, &pool, &mut |why, _| panic!("{why}"));
                    sent += 1;
                }
                let mut arrivals = Arrivals::default();
                far.rx_burst(now, 64, &pool, &mut arrivals);
                arrivals.frames.drain(..).for_each(|frame| pool.give(frame));
                now = near.tx_room_at().unwrap().max(now + Nanos(1));
            }
            // A frame of 64 bytes takes 67.2 ns.
            assert!(sent >= end.0 * 10 / 672, "{propagation} ns: {sent} frames");
        }
        let satellite = LinkConfig {
            propagation: Nanos(240_000_000),
            ..LinkConfig::default()
        };
        assert!(has_room(satellite));
        assert!(!has_room(LinkConfig {
            rate_bps: 100_000_000_000,
            ..satellite
        }));
    }
}
