//! Driver against device, in one process. No socket and no session.

use std::collections::VecDeque;

use super::*;
use crate::loopback::DeviceRing;
use proptest::prelude::*;

const SIZE: u16 = 8;

fn ring(features: RingFeatures, base: u16) -> (Virtqueue, DeviceRing, u64) {
    let mem = Arc::new(GuestMemory::new(1 << 16, true).unwrap());
    let mut alloc = Allocator::new(mem.regions()[0].layout());
    let layout = QueueLayout::alloc(SIZE, &mut alloc).unwrap();
    let spare = alloc.alloc(4096, 64).unwrap();
    let queue = Virtqueue::new(mem, layout, features, base).unwrap();
    let device = DeviceRing::new(&queue, features);
    (queue, device, spare)
}

fn chain(at: u64, len: usize) -> Vec<Buffer> {
    (0..len)
        .map(|i| Buffer {
            addr: at + 100 * i as u64,
            len: 10 + i as u32,
            writable: i % 2 == 1,
        })
        .collect()
}

fn writable(chain: &[Buffer]) -> u32 {
    chain.iter().filter(|b| b.writable).map(|b| b.len).sum()
}

#[derive(Debug, Clone)]
enum Step {
    Add(usize),
    AddIndirect(usize),
    Pop,
    /// Use this many chains: one entry each, or one for all.
    Use(usize, bool),
    Take,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (1usize..5).prop_map(Step::Add),
        (1usize..5).prop_map(Step::AddIndirect),
        Just(Step::Pop),
        (1usize..4, any::<bool>()).prop_map(|(n, batch)| Step::Use(n, batch)),
        Just(Step::Take),
    ]
}

proptest! {
    /// Whatever is added reaches the device buffer for buffer, and comes back once, with the
    /// length the device gave; nothing is lost from the free list.
    #[test]
    fn every_chain_comes_back_once(
        steps in prop::collection::vec(step(), 0..200),
        in_order: bool,
        packed: bool,
        base: u16,
    ) {
        let (mut queue, mut device, spare) = ring(RingFeatures { packed, event_idx: true, in_order }, base);
        let mut sent = VecDeque::new();
        let mut held: VecDeque<(u16, u32)> = VecDeque::new();
        let mut back: VecDeque<Used> = VecDeque::new();
        for step in steps {
            match step {
                Step::Add(n) => {
                    let chain = chain(spare, n);
                    let room = usize::from(queue.room());
                    let head = queue.add(&chain);
                    prop_assert_eq!(head.is_some(), n <= room);
                    sent.extend(head.map(|head| (head, chain)));
                    queue.publish();
                }
                Step::AddIndirect(n) => {
                    let chain = chain(spare, n);
                    // One table a head: the device reads it later.
                    let table = spare + 1024 + 128 * u64::from(queue.next_head().unwrap_or(0));
                    sent.extend(queue.add_indirect(table, &chain).map(|head| (head, chain)));
                    queue.publish();
                }
                Step::Pop => {
                    let got = device.pop();
                    prop_assert_eq!(got.is_some(), !sent.is_empty());
                    let Some((head, buffers)) = got else { continue };
                    let (sent_head, chain) = sent.pop_front().unwrap();
                    prop_assert_eq!(head, sent_head);
                    let chain_buffers: Vec<_> =
                        chain.iter().map(|b| (b.addr, b.len, b.writable)).collect();
                    prop_assert_eq!(buffers, chain_buffers);
                    held.push_back((head, writable(&chain)));
                }
                Step::Use(n, batch) => {
                    let n = n.min(held.len());
                    if n == 0 {
                        continue;
                    }
                    if !in_order {
                        // Any order will do.
                        held.make_contiguous().reverse();
                    }
                    let done: Vec<_> = held.drain(..n).collect();
                    if in_order && batch {
                        let last = done[n - 1];
                        let ids: Vec<_> = done.iter().map(|d| d.0).collect();
                        device.push_batch(&ids, 1.min(last.1));
                        back.extend(done[..n - 1].iter().map(|d| Used { head: d.0, len: d.1 }));
                        back.push_back(Used { head: last.0, len: 1.min(last.1) });
                    } else {
                        for (head, len) in done {
                            device.push_used(head, len);
                            back.push_back(Used { head, len });
                        }
                    }
                }
                Step::Take => {
                    prop_assert_eq!(queue.pop_used().unwrap(), back.pop_front());
                }
            }
        }
    }

    /// Two sleepers: a device that runs only when kicked and a driver that runs only when
    /// called never both sleep with work left.
    #[test]
    fn no_wake_up_is_lost(bursts in prop::collection::vec(1usize..12, 1..60), event_idx: bool, packed: bool, base: u16, count in 1u16..5, races: u64) {
        let (mut queue, mut device, spare) = ring(RingFeatures { packed, event_idx, in_order: true }, base);
        let (mut todo, mut done) = (bursts.iter().sum::<usize>(), 0);
        let all = todo;
        let mut bursts = bursts.into_iter();
        // A ring starts with both looking at it once.
        let (mut kicked, mut called) = (true, true);
        while device.pop().is_some() {}
        while done < all {
            prop_assert!(kicked || called, "both asleep at {done} of {all}");
            if std::mem::take(&mut called) {
                loop {
                    while queue.pop_used().unwrap().is_some() {
                        done += 1;
                    }
                    let mut burst = bursts.next().unwrap_or(todo).min(todo);
                    while burst > 0 && queue.add(&chain(spare, 2)).is_some() {
                        burst -= 1;
                        todo -= 1;
                    }
                    queue.publish();
                    kicked |= queue.needs_kick();
                    // The device may run at once, before the driver has armed.
                    if kicked && races >> (done % 64) & 1 == 1 {
                        kicked = false;
                        while let Some((head, _)) = device.pop() {
                            device.push_used(head, 0);
                        }
                        called |= device.wants_call();
                    }
                    if !queue.arm(count.min(queue.outstanding())) {
                        break;
                    }
                }
            }
            if std::mem::take(&mut kicked) {
                while let Some((head, _)) = device.pop() {
                    device.push_used(head, 0);
                }
                called |= device.wants_call();
            }
        }
    }
}

#[test]
fn what_a_device_must_not_do_is_found() {
    for (packed, in_order) in [(false, false), (false, true), (true, false), (true, true)] {
        let features = RingFeatures {
            packed,
            event_idx: false,
            in_order,
        };
        let setup = || {
            let (mut queue, device, spare) = ring(features, 0);
            queue.add(&chain(spare, 2)).unwrap();
            queue.publish();
            (queue, device)
        };
        if !packed {
            let (mut queue, mut device) = setup();
            device.advance_used(2);
            let jump = DeviceFault::UsedIndexJump {
                moved: 2,
                outstanding: 1,
            };
            assert_eq!(queue.pop_used(), Err(jump));
        }

        for id in [1, 8, 0xffff] {
            let (mut queue, mut device) = setup();
            device.push_used(id, 0);
            let unknown = DeviceFault::UnknownChain { id: id.into() };
            assert_eq!(queue.pop_used(), Err(unknown));
        }

        let (mut queue, mut device) = setup();
        device.push_used(0, 12);
        let length = DeviceFault::UsedLength {
            len: 12,
            writable: 11,
        };
        assert_eq!(queue.pop_used(), Err(length));
    }
}

/// A ring that is taken over by another device goes on behind all that the first has used.
#[test]
fn a_packed_base_is_behind_what_was_used() {
    for in_order in [false, true] {
        let features = RingFeatures {
            packed: true,
            event_idx: false,
            in_order,
        };
        let (mut queue, mut device, spare) = ring(features, 6);
        assert_eq!(queue.base(), 0x8006_8006);
        for len in [1, 2, 3] {
            queue.add(&chain(spare, len)).unwrap();
        }
        queue.publish();
        let ids = [0, 1, 2].map(|_| device.pop().unwrap().0);
        assert_eq!(queue.base(), 0x8006_8006);
        device.push_batch(&ids[..1], 0);
        assert_eq!(queue.base(), 0x8007_8007);
        if in_order {
            device.push_batch(&ids[1..], 0);
        } else {
            device.push_used(ids[1], 0);
            assert_eq!(queue.base(), 0x0001_0001);
            device.push_used(ids[2], 0);
        }
        assert_eq!((queue.base(), queue.given_back()), (0x0004_0004, 1));
    }
}

#[test]
fn a_batch_never_reaches_past_the_used_index() {
    let (mut queue, mut device, spare) = ring(
        RingFeatures {
            packed: false,
            event_idx: true,
            in_order: true,
        },
        0,
    );
    let heads: Vec<_> = (0..3)
        .map(|_| queue.add(&chain(spare, 1)).unwrap())
        .collect();
    queue.publish();
    device.write_used(heads[2], 0);
    device.advance_used(2);
    assert!(queue.pop_used().unwrap().is_some());
    assert!(queue.pop_used().is_err());
}

#[test]
fn rings_outside_memory_or_of_odd_size_are_no_queues() {
    let mem = Arc::new(GuestMemory::new(4096, true).unwrap());
    let at = crate::memory::GUEST_BASE;
    let layout = QueueLayout {
        size: 8,
        desc: at,
        avail: at + 128,
        used: at + 256,
    };
    let make = |layout| Virtqueue::new(mem.clone(), layout, RingFeatures::default(), 0);
    assert!(make(layout).is_some());
    assert!(make(QueueLayout { size: 7, ..layout }).is_none());
    assert!(
        make(QueueLayout {
            used: at + 4096 - 69,
            ..layout
        })
        .is_none()
    );
    assert!(
        make(QueueLayout {
            desc: at + 4096,
            ..layout
        })
        .is_none()
    );
}
