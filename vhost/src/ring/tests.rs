//! What holds for both formats: chains come out and go back once, nobody sleeps with work left, a
//! stopped ring goes on where it was.

use std::collections::VecDeque;

use proptest::prelude::*;

use super::driver::*;
use super::*;
use crate::eventfd::EventFd;

const AT: RingAddresses = RingAddresses {
    desc: DESC,
    avail: AVAIL,
    used: USED,
};

fn ring(driver: &Driver, size: u16, base: u16, features: VirtioFeatures) -> Ring {
    let from = driver.vring_base(base);
    Ring::new(driver.mem.clone(), size, AT, from, features).unwrap()
}

for_both_formats! {
    no_wake_up_is_lost,
    arming_sees_what_came_meanwhile,
    a_buffer_below_the_least_is_not_plain,
    a_ring_whose_memory_vanished_stops,
}

/// Sleeps until `fd` is signalled; panics after a minute, which only a lost wake-up takes.
fn sleep_on(fd: &EventFd, who: &str) {
    let timeout = rustix::event::Timespec {
        tv_sec: 60,
        tv_nsec: 0,
    };
    let mut fds = [rustix::event::PollFd::new(fd, rustix::event::PollFlags::IN)];
    let ready = rustix::event::poll(&mut fds, Some(&timeout)).unwrap();
    assert_eq!(ready, 1, "{who} was never woken");
    fd.drain();
}

/// Both ends on their own threads, asleep when there is nothing to do, at ever other moments. It
/// proves the protocol, not the fences: the reordering they forbid is too rare to wait for.
fn no_wake_up_is_lost(format: VirtioFeatures) {
    for (device_looks, driver_looks) in [(0, 0), (100_000, 0), (0, 100_000)] {
        ping_pong(format | EVENT_IDX, device_looks, driver_looks);
    }
    ping_pong(format, 0, 0);
}

fn ping_pong(features: VirtioFeatures, device_looks: u32, driver_looks: u32) {
    const BASE: u16 = 0xfff0;
    const FRAMES: u32 = 10_000;
    let mut driver = Driver::new(1, features, BASE);
    let (kick, call) = (EventFd::new().unwrap(), driver.call.clone());
    let woken = kick.clone();
    let mut ring = ring(&driver, 1, BASE, features);
    std::thread::scope(|threads| {
        threads.spawn(move || {
            let mut taken = 0;
            let mut looks = 0;
            while taken < FRAMES {
                if let Some(chain) = ring.take().unwrap() {
                    taken += 1;
                    ring.push_used(chain.token, taken);
                    looks = 0;
                    ring.publish().unwrap();
                    if ring.wants_call(&Fence::after_publishing()).unwrap() {
                        call.signal();
                    }
                } else if looks < device_looks.max(taken % 61) {
                    looks += 1;
                } else if !ring.set_notify(true).unwrap() {
                    sleep_on(&woken, "the device");
                }
            }
        });
        for i in 0..FRAMES {
            driver.disarm();
            driver.add(&[(HEAP, 64, true)], 1);
            if driver.wants_kick() {
                kick.signal();
            }
            let mut used = driver.used();
            let mut looks = 0;
            while used.is_empty() {
                if looks < driver_looks.max(i % 61) {
                    looks += 1;
                } else {
                    driver.arm();
                    used = driver.used();
                    if !used.is_empty() {
                        break;
                    }
                    sleep_on(&driver.call, "the driver");
                }
                used = driver.used();
            }
            assert_eq!(used, [(0, i + 1)], "each once, whole when it is seen");
        }
    });
}

fn arming_sees_what_came_meanwhile(format: VirtioFeatures) {
    for features in [NONE, EVENT_IDX] {
        let mut driver = Driver::new(8, format | features, 0xffff);
        let mut ring = ring(&driver, 8, 0xffff, format | features);
        assert_eq!(ring.set_notify(true), Ok(false));
        driver.add(&[(HEAP, 8, false)], 1);
        assert!(driver.wants_kick());
        assert_eq!(ring.set_notify(true), Ok(true));
        driver.add(&[(HEAP, 8, false)], 1);
        assert!(ring.take().unwrap().is_some() && ring.take().unwrap().is_some());
        assert_eq!(ring.set_notify(false), Ok(false));
        driver.wants_kick();
        driver.add(&[(HEAP, 8, false)], 1);
        assert!(!driver.wants_kick());
        assert_eq!(ring.set_notify(true), Ok(true), "it came without a kick");
        assert!(ring.take().unwrap().is_some());
        assert_eq!(ring.set_notify(true), Ok(false));
    }
}

fn a_buffer_below_the_least_is_not_plain(format: VirtioFeatures) {
    let mut driver = Driver::new(8, format, 0);
    let mut ring = ring(&driver, 8, 0, format);
    for len in [64, 8, 9, 10] {
        driver.add(&[(HEAP, len, true)], 1);
    }
    for (len, plain) in [(64, true), (8, false), (9, true), (10, true)] {
        let (_, chains) = ring.upcoming().unwrap();
        assert!(chains[0].plain(false, 9).is_none());
        let buffer = chains[0].plain(true, 9).map(|(buffer, _)| buffer.len);
        assert_eq!(buffer, plain.then_some(len));
        ring.advance(1);
    }
    assert!(ring.upcoming().unwrap().1.is_empty());
}

fn a_ring_whose_memory_vanished_stops(format: VirtioFeatures) {
    let fd = rustix::fs::memfd_create("guest", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
    rustix::fs::ftruncate(&fd, REGION).unwrap();
    let spec = crate::memory::RegionSpec {
        guest_addr: BASE,
        size: REGION,
        user_addr: 0,
        mmap_offset: 0,
    };
    let mem = GuestMemory::map(vec![(spec, fd.try_clone().unwrap())]).unwrap();
    let mut ring = Ring::new(mem.clone(), 8, AT, 0, format).unwrap();
    rustix::fs::ftruncate(&fd, HEAP - BASE).unwrap();
    assert_eq!(ring.take(), Ok(None));
    mem.slice_mut(HEAP, 8).unwrap().copy_from(&[1u8; 8]);
    assert_eq!(ring.take(), Err(RingError::MemoryFault));
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
fn take(ring: &mut Ring, expected: Option<&Sent>) -> Result<Option<Token>, TestCaseError> {
    // Either way for some chains that are one buffer, and for the others the second way if the first does not know them.
    let writable = ring.mark().taken & 1 == 1;
    let (_, chains) = ring.upcoming().unwrap();
    let plain = chains.first().and_then(|chain| chain.plain(writable, 9));
    if let (Some((only, token)), Some((id, pieces))) = (plain, expected) {
        ring.advance(1);
        prop_assert_eq!((token.id, token.descs), (*id, 1));
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

/// A ring whose driver has been asked what it wants to be called for, as it is when a ring that was used before is taken over.
fn asked(mut ring: Ring) -> Ring {
    ring.wants_call(&Fence::after_publishing()).unwrap();
    ring
}

#[test]
fn a_driver_whose_back_end_died_before_the_call_is_called_by_the_next() {
    for features in [EVENT_IDX, RING_PACKED | EVENT_IDX] {
        let mut driver = Driver::new(8, features, 0);
        let mut vring = driver.vring_from(0, driver.vring_base(0));
        assert!(!vring.needs_call(), "nobody has used anything");
        // The first time the driver is called, the second time not.
        for dies in [false, true] {
            driver.arm();
            let buffer = driver.alloc(8);
            driver.add(&[(buffer, 8, true)], 1);
            let chain = vring.ring.take().unwrap().unwrap();
            vring.ring.push_used(chain.token, 8);
            vring.publish();
            if !dies {
                assert_eq!(vring.call(&Fence::after_publishing()), Some(true));
                assert!(driver.call.drain());
                assert_eq!(driver.used().len(), 1);
            }
        }
        let mut next = driver.vring_from(0, vring.base());
        drop(vring);
        assert!(next.needs_call(), "though it has published nothing yet");
        assert_eq!(next.call(&Fence::after_publishing()), Some(true));
        assert!(driver.call.drain());
        assert_eq!(driver.used().len(), 1);
        // From then on as the driver wants it.
        driver.disarm();
        let buffer = driver.alloc(8);
        driver.add(&[(buffer, 8, true)], 1);
        let chain = next.ring.take().unwrap().unwrap();
        next.ring.push_used(chain.token, 8);
        assert_eq!(next.flush(), Some(false));
    }
}

proptest! {
    /// Every chain comes out once, whole and in order; comes back once, in order, no sooner than it is published, with the
    /// bytes that were written; and the driver is told if it asked to be. A ring that is stopped goes on with the oldest
    /// chain that was not returned.
    #[test]
    fn chains_come_out_and_go_back(
        steps in prop::collection::vec(step(), 1..300),
        format in prop::sample::select(vec![NONE, RING_PACKED, RING_PACKED | IN_ORDER]),
        event_idx: bool,
        base: u16,
        size in prop::sample::select(vec![4u16, 8, 32, 64]),
    ) {
        let features = format | INDIRECT_DESC | if event_idx { EVENT_IDX } else { NONE };
        let mut driver = Driver::new(size, features, base);
        let mut ring = asked(ring(&driver, size, base, features));
        let mut offered: VecDeque<Sent> = VecDeque::new();
        let mut held: VecDeque<(Token, Sent)> = VecDeque::new();
        let mut returned: Vec<(u16, u32)> = Vec::new();
        let mut published: VecDeque<(u16, u32)> = VecDeque::new();
        for step in steps {
            match step {
                Step::Add(n, direct, writable) => {
                    if driver.free() < 4 {
                        continue;
                    }
                    let pieces: Vec<_> = (0..n)
                        .map(|i| (driver.alloc(32), 8 + (i + n) as u32, i + writable >= n))
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
                        let room = pieces.iter().filter(|piece| piece.2).map(|piece| piece.1).sum();
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
                Step::Collect => prop_assert_eq!(driver.used(), Vec::from(std::mem::take(&mut published))),
                Step::Restart => {
                    ring.publish().unwrap();
                    ring.wants_call(&Fence::after_publishing()).unwrap();
                    published.extend(returned.drain(..));
                    ring.rewind();
                    let from = ring.base();
                    ring = asked(Ring::new(driver.mem.clone(), size, AT, from, features).unwrap());
                    while let Some((_, sent)) = held.pop_back() {
                        offered.push_front(sent);
                    }
                }
            }
            let mark = ring.mark();
            prop_assert_eq!(usize::from(mark.taken.wrapping_sub(mark.returned)), held.len());
        }
    }
}
