//! What holds for every queue, whatever its format: chains come out and go back once, and a queue that is stopped goes on where
//! it was. Split and packed virtqueues pass it, and the descriptor ring of a hardware NIC. No session and no socket.

use std::collections::VecDeque;

use proptest::prelude::*;

use super::*;
use crate::ring::Ring;
use crate::ring::driver::*;
use crate::ring::tests::{AT, asked};

mod descriptor_ring;

use self::descriptor_ring::Guest;

/// The driver of a queue.
trait QueueDriver {
    type Queue: DeviceQueue;

    /// Its device's end, from where it [was](DeviceQueue::base) before.
    fn queue(&self, base: u32) -> Self::Queue;

    /// Whether there is room for a chain of so many buffers.
    fn fits(&self, buffers: usize) -> bool;

    /// A buffer for the device to write or to read, if the queue has both kinds.
    fn piece(&mut self, len: u32, writable: bool) -> (u64, u32, bool);

    /// Makes a chain available, so many of its buffers direct if the queue knows others; what it will be returned by.
    fn add(&mut self, pieces: &[(u64, u32, bool)], direct: usize) -> u16;

    /// What has been returned since.
    fn used(&mut self) -> Vec<(u16, u32)>;

    /// Wants to be called for what is returned next, or not to be called.
    fn arm(&self);
    fn disarm(&self);
}

impl QueueDriver for Driver {
    type Queue = Ring;

    fn queue(&self, base: u32) -> Ring {
        let features = self.features();
        asked(Ring::new(self.mem.clone(), self.size(), AT, base, features).unwrap())
    }

    fn fits(&self, _: usize) -> bool {
        self.free() >= 4
    }

    fn piece(&mut self, len: u32, writable: bool) -> (u64, u32, bool) {
        (self.alloc(32), len, writable)
    }

    fn add(&mut self, pieces: &[(u64, u32, bool)], direct: usize) -> u16 {
        Driver::add(self, pieces, direct)
    }

    fn used(&mut self) -> Vec<(u16, u32)> {
        Driver::used(self)
    }

    fn arm(&self) {
        Driver::arm(self);
    }

    fn disarm(&self) {
        Driver::disarm(self);
    }
}

/// What a driver and a device do in turn.
#[derive(Debug, Clone)]
enum Step {
    /// A chain of so many buffers, so many of them direct, the last so many writable.
    Add(usize, usize, usize),
    Take,
    /// Takes some, and thinks better of it.
    TakeBack(usize),
    Return,
    /// Publishes, with the driver armed or not.
    Publish(bool),
    Collect,
    /// The front end stops the ring and starts it again.
    Restart,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (1usize..5, 0usize..5, 0usize..5).prop_map(|(n, direct, w)| Step::Add(n, direct.min(n), w.min(n))),
        4 => Just(Step::Take),
        1 => (1usize..4).prop_map(Step::TakeBack),
        3 => Just(Step::Return),
        2 => any::<bool>().prop_map(Step::Publish),
        2 => Just(Step::Collect),
        1 => Just(Step::Restart),
    ]
}

/// A chain as the driver made it: what will be returned, its buffers.
type Sent = (u16, Vec<(u64, u32, bool)>);

/// Takes a chain; it is the one expected, buffer for buffer.
fn take(
    ring: &mut impl DeviceQueue,
    expected: Option<&Sent>,
) -> Result<Option<Token>, TestCaseError> {
    // Either way for some chains that are one buffer, and for the others the second way if the first does not know them.
    let writable = ring.mark().taken & 1 == 1;
    let (_, chains) = ring.upcoming().unwrap();
    let plain = chains.first().and_then(|chain| chain.plain(writable, 9));
    if let (Some((only, token)), Some((id, pieces))) = (plain, expected) {
        ring.advance(1);
        // Beside how many there are it says whether their driver wants to be told.
        prop_assert_eq!((token.id, token.descs & 0x7fff), (*id, 1));
        prop_assert!(only.len >= 9);
        prop_assert_eq!(&pieces[..], [(only.gpa, only.len, writable)]);
        return Ok(Some(token));
    }
    let taken = ring.take().unwrap();
    prop_assert_eq!(taken.is_some(), expected.is_some());
    let (Some(chain), Some((id, pieces))) = (taken, expected) else {
        return Ok(None);
    };
    prop_assert_eq!(chain.token.id, *id);
    for writable in [false, true] {
        let mut out = Vec::new();
        let total = ring.walk(chain, writable, &mut out).unwrap();
        let mine = pieces.iter().filter(|piece| piece.2 == writable);
        let mine: Vec<_> = mine.map(|&(gpa, len, _)| Segment { gpa, len }).collect();
        prop_assert_eq!(total, mine.iter().map(|s| u64::from(s.len)).sum::<u64>());
        prop_assert_eq!(out, mine);
    }
    Ok(Some(chain.token))
}

/// Every chain comes out once, whole and in order; comes back once, in order, no sooner than it is published, with the
/// bytes that were written; and the driver is told if it asked to be. A queue that is stopped goes on with the oldest
/// chain that was not returned.
fn chains_come_out_and_go_back(
    mut driver: impl QueueDriver,
    base: u32,
    steps: Vec<Step>,
) -> Result<(), TestCaseError> {
    let mut ring = driver.queue(base);
    let mut offered: VecDeque<Sent> = VecDeque::new();
    let mut held: VecDeque<(Token, Sent)> = VecDeque::new();
    let mut returned: Vec<(u16, u32)> = Vec::new();
    let mut published: VecDeque<(u16, u32)> = VecDeque::new();
    for step in steps {
        match step {
            Step::Add(n, direct, writable) => {
                if !driver.fits(n) {
                    continue;
                }
                let pieces: Vec<_> = (0..n)
                    .map(|i| driver.piece(8 + (i + n) as u32, i + writable >= n))
                    .collect();
                offered.push_back((driver.add(&pieces, direct), pieces));
            }
            Step::Take => {
                if let Some(token) = take(&mut ring, offered.front())? {
                    held.push_back((token, offered.pop_front().unwrap()));
                }
            }
            Step::TakeBack(n) => {
                let mark = ring.mark();
                for i in 0..n.min(offered.len()) {
                    let token = take(&mut ring, offered.get(i))?.unwrap();
                    if held.is_empty() {
                        ring.push_used(token, 7);
                    }
                }
                ring.rollback(mark);
            }
            Step::Return => {
                if let Some((token, (id, pieces))) = held.pop_front() {
                    let room = pieces
                        .iter()
                        .filter(|piece| piece.2)
                        .map(|piece| piece.1)
                        .sum();
                    ring.push_used(token, room);
                    returned.push((id, room));
                }
            }
            Step::Publish(armed) => {
                if armed && published.is_empty() {
                    driver.arm();
                } else {
                    driver.disarm();
                }
                let wanted = armed && published.is_empty() && !returned.is_empty();
                if ring.has_pending() {
                    ring.publish().unwrap();
                    prop_assert_eq!(ring.wants_call(&Fence::after_publishing()).unwrap(), wanted);
                } else {
                    prop_assert!(returned.is_empty());
                }
                published.extend(returned.drain(..));
            }
            Step::Collect => {
                prop_assert_eq!(driver.used(), Vec::from(std::mem::take(&mut published)))
            }
            Step::Restart => {
                ring.publish().unwrap();
                ring.wants_call(&Fence::after_publishing()).unwrap();
                published.extend(returned.drain(..));
                ring.rewind();
                let from = ring.base();
                ring = driver.queue(from);
                while let Some((_, sent)) = held.pop_back() {
                    offered.push_front(sent);
                }
            }
        }
        let mark = ring.mark();
        prop_assert_eq!(
            usize::from(mark.taken.wrapping_sub(mark.returned)),
            held.len()
        );
    }
    Ok(())
}

proptest! {
    #[test]
    fn of_a_virtqueue(
        steps in prop::collection::vec(step(), 1..300),
        format in prop::sample::select(vec![NONE, RING_PACKED, RING_PACKED | IN_ORDER]),
        event_idx: bool,
        base: u16,
        size in prop::sample::select(vec![4u16, 8, 32, 64]),
    ) {
        let features = format | INDIRECT_DESC | if event_idx { EVENT_IDX } else { NONE };
        let driver = Driver::new(size, features, base);
        let base = driver.vring_base(base);
        chains_come_out_and_go_back(driver, base, steps)?;
    }

    #[test]
    fn of_a_descriptor_ring(
        steps in prop::collection::vec(step(), 1..300),
        writable: bool,
        (size, parts) in prop::sample::select(vec![(2u16, 1u16), (5, 1), (8, 2), (64, 1), (96, 3)]),
        base: u16,
    ) {
        let base = base % size;
        chains_come_out_and_go_back(Guest::new(size, parts, writable, base), base.into(), steps)?;
    }
}
