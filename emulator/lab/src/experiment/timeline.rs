//! A look at single frames behind a measurement: when each passed which place from host A to host B, and how many waited
//! meanwhile, on the virtual clock with embedded guests. The measurement is over by then, so that nothing of it changes.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;

use vf_model::Nanos;
use vf_nic::watch::{Direction, Port, Seen};
use vf_packet::FlowKey;

use super::outcome::{Depth, Lane, Timeline};
use crate::segment::Segment;
use crate::virtual_hosts::Watcher;

/// How much of it is shown.
const SHOWN: Nanos = Nanos(200_000);
/// How long frames are followed before, so that what waits at its beginning is known.
const BEFORE: Nanos = Nanos(1_000_000);
/// How often is counted what waits.
const STEP: Nanos = Nanos(1_000);

/// Where a frame from A to B is seen, in the order of its way.
const PLACES: [&str; 3] = [
    "leave the guests of A",
    "arrive over the wire",
    "reach the guests of B",
];

/// A TCP packet that was seen.
struct Passed {
    at: Nanos,
    /// Index into [`PLACES`].
    place: usize,
    /// Whether it carries payload; else it is an ACK.
    data: bool,
    flow: FlowKey,
}

/// The TCP packets from A to B that have been seen. Clones share it.
#[derive(Clone, Default)]
pub(super) struct FrameLog(Rc<RefCell<Vec<Passed>>>);

impl FrameLog {
    /// What has it see all frames.
    pub(super) fn watcher(&self) -> Watcher {
        let log = self.clone();
        Box::new(move |seen| {
            if let (Some(place), Some(segment)) = (place(seen), Segment::of(seen)) {
                log.0.borrow_mut().push(Passed {
                    at: seen.at,
                    place,
                    data: segment.len > 0,
                    flow: segment.flow,
                });
            }
        })
    }

    /// What it comes to from `begin` on; `rings` says how many frames guests of A had put on their rings and the NIC had not
    /// taken, by time.
    pub(super) fn timeline(&self, begin: Nanos, rings: &[(Nanos, Option<u64>)]) -> Timeline {
        let mut log = self.0.borrow_mut();
        log.sort_by_key(|passed| passed.at); // stable: what a host saw at one time stays in order
        let us = |at: Nanos| (at.0 - begin.0) as f64 / 1e3;
        let shown = |passed: &&Passed| passed.at >= begin;
        let lanes = PLACES.iter().enumerate().map(|(place, name)| {
            let of = |data: bool| {
                let here = log.iter().filter(shown);
                let here = here.filter(|p| p.place == place && p.data == data);
                here.map(|passed| us(passed.at)).collect()
            };
            Lane {
                place: name,
                data_us: of(true),
                ack_us: of(false),
            }
        });
        let mut passed = log.iter().peekable();
        let mut inside = Inside::default();
        let depth = rings.iter().filter_map(|(at, rings)| {
            while let Some(passed) = passed.next_if(|passed| passed.at <= *at) {
                inside.see(passed);
            }
            (*at >= begin).then(|| Depth {
                at_us: us(*at),
                rings: *rings,
                inside: inside.count(),
            })
        });
        let depth = depth.collect();
        Timeline {
            length_us: SHOWN.0 as f64 / 1e3,
            lanes: lanes.collect(),
            depth,
        }
    }
}

/// The packets of each flow that a guest of A has sent and none of B has got, of those whose start was seen: a flow is in order,
/// and one that is lost counts as on its way until the flow has caught up.
#[derive(Default)]
struct Inside(HashMap<FlowKey, u64>);

impl Inside {
    fn see(&mut self, passed: &Passed) {
        let inside = self.0.entry(passed.flow).or_default();
        match passed.place {
            0 => *inside += 1,
            2 => *inside = inside.saturating_sub(1),
            _ => {}
        }
    }

    fn count(&self) -> u64 {
        self.0.values().sum()
    }
}

/// Where on the way from A to B a frame was seen.
fn place(seen: &Seen<'_>) -> Option<usize> {
    match (seen.host, seen.port, seen.direction) {
        (0, Port::Vf(_), Direction::Tx) => Some(0),
        (1, Port::Wire, Direction::Rx) => Some(1),
        (1, Port::Vf(_), Direction::Rx) => Some(2),
        _ => None,
    }
}

/// The times at which to stop and count, and from when on they are shown.
pub(super) fn steps(from: Nanos) -> (Nanos, impl Iterator<Item = Nanos>) {
    let begin = Nanos(from.0 + BEFORE.0);
    let steps = (0..=(BEFORE.0 + SHOWN.0) / STEP.0).map(move |n| Nanos(from.0 + n * STEP.0));
    (begin, steps)
}

#[cfg(test)]
mod tests {
    use super::super::flow::tests::frame;
    use super::*;
    use vf_model::VfIndex;

    #[test]
    fn what_has_left_and_not_arrived_is_inside() {
        let log = FrameLog::default();
        let mut see = log.watcher();
        let mut pass = |at, host, port, direction, ports, payload| {
            let frame = frame(ports, 1, 0x10, &[], payload);
            see(&Seen {
                at: Nanos(at),
                host,
                port,
                direction,
                frame: frame.get(..vf_model::HEAD_LEN).unwrap_or(&frame),
                len: frame.len(),
                xxh3: 0,
                gso: None,
            });
        };
        let vf = Port::Vf(VfIndex(0));
        let (a, b) = ((1, 2), (3, 4));
        // What was on its way before anybody looked.
        pass(100, 1, vf, Direction::Rx, a, 0);
        pass(0, 0, vf, Direction::Tx, a, 100);
        pass(1000, 0, vf, Direction::Tx, b, 0);
        pass(2000, 0, vf, Direction::Tx, a, 100);
        // Back from B to A: no lane of these.
        pass(1500, 1, vf, Direction::Tx, a, 0);
        pass(2500, 1, Port::Wire, Direction::Rx, a, 100);
        pass(2600, 1, vf, Direction::Rx, a, 100);
        let rings: Vec<_> = (0..4).map(|n| (Nanos(1000 * n), Some(n))).collect();
        let timeline = log.timeline(Nanos(1000), &rings);
        let depth = timeline.depth.iter();
        let depth: Vec<_> = depth.map(|d| (d.at_us, d.rings, d.inside)).collect();
        assert_eq!(
            depth,
            [(0.0, Some(1), 1), (1.0, Some(2), 2), (2.0, Some(3), 1)],
            "what arrived first had left unseen, and takes nothing off the others"
        );
        let lanes = timeline.lanes.iter();
        let lanes: Vec<_> = lanes
            .map(|l| (l.data_us.clone(), l.ack_us.clone()))
            .collect();
        assert_eq!(
            lanes,
            [
                (vec![1.0], vec![0.0]),
                (vec![1.5], vec![]),
                (vec![1.6], vec![])
            ]
        );
    }
}
