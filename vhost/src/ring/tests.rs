//! What holds for both formats: chains come out and go back once, nobody sleeps with work left, a
//! stopped ring goes on where it was.

use super::driver::*;
use super::*;
use crate::eventfd::EventFd;

pub(crate) const AT: RingAddresses = RingAddresses {
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

/// A ring whose driver has been asked what it wants to be called for, as it is when a ring that was used before is taken over.
pub(crate) fn asked(mut ring: Ring) -> Ring {
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
