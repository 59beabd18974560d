//! The split ring against that of the crate `virtio-queue`: two drivers do the same, each to its own memory, and two devices
//! do the same. They must see the same chains, leave the same bytes, and decide the same about notifications.

use std::collections::VecDeque;

use proptest::prelude::*;
use virtio_queue::{Queue, QueueT};
use vm_memory::{FileOffset, GuestAddress, GuestMemoryMmap};

use super::*;
use crate::ring::driver::*;

const SIZE: u16 = 16;

type Memory = GuestMemoryMmap<()>;

fn memory(driver: &Driver) -> Memory {
    let region = |i: u64| {
        let file = driver.files[i as usize].try_clone().unwrap();
        let at = GuestAddress(BASE + i * REGION);
        (at, REGION as usize, Some(FileOffset::new(file, 0)))
    };
    Memory::from_ranges_with_files([region(0), region(1)]).unwrap()
}

fn reference(event_idx: bool, base: u16) -> Queue {
    let mut queue = Queue::new(SIZE).unwrap();
    queue.set_size(SIZE);
    queue
        .try_set_desc_table_address(GuestAddress(DESC))
        .unwrap();
    queue
        .try_set_avail_ring_address(GuestAddress(AVAIL))
        .unwrap();
    queue.try_set_used_ring_address(GuestAddress(USED)).unwrap();
    queue.set_event_idx(event_idx);
    queue.set_next_avail(base);
    queue.set_next_used(base);
    queue.set_ready(true);
    queue
}

/// Address, length, flags, next.
type Raw = (u64, u32, u16, u16);

#[derive(Debug, Clone)]
enum Step {
    /// A chain as drivers make them.
    Add(usize, usize, usize),
    /// This head of the upper half, whatever its descriptor says.
    Offer(u16),
    Take,
    Return(u32),
    Publish,
    /// The driver wants to be told of this one of the next.
    Event(u16),
    Arm,
    Disarm,
    Collect,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (1usize..5, 0usize..5, 0usize..5).prop_map(|(n, direct, w)| Step::Add(n, direct.min(n), w.min(n))),
        1 => (SIZE / 2..SIZE).prop_map(Step::Offer),
        4 => Just(Step::Take),
        3 => (0u32..2000).prop_map(Step::Return),
        2 => Just(Step::Publish),
        2 => (0u16..4).prop_map(Step::Event),
        1 => Just(Step::Arm),
        1 => Just(Step::Disarm),
        2 => Just(Step::Collect),
    ]
}

/// Descriptors that mean something, most of them.
fn raw() -> impl Strategy<Value = Raw> {
    let flags = prop::sample::select(vec![0, F_NEXT, F_WRITE, F_WRITE | F_NEXT, F_INDIRECT, 7]);
    let len = prop::sample::select(vec![0u32, 1, 16, 32, 64]);
    (0u64..8, len, flags, 0u16..SIZE + 1).prop_map(|(at, len, flags, next)| {
        let at = if flags & F_INDIRECT != 0 {
            HEAP + 64 * at
        } else {
            HEAP + 0x1000 + 256 * at
        };
        (at, len, flags, next)
    })
}

proptest! {
    #[test]
    fn both_rings_do_the_same(
        steps in prop::collection::vec(step(), 1..200),
        table in prop::collection::vec(raw(), 32),
        event_idx: bool,
        base: u16,
    ) {
        let features = INDIRECT_DESC | if event_idx { EVENT_IDX } else { NONE };
        let mut drivers = [0, 1].map(|_| Driver::new(SIZE, features, base));
        for driver in &mut drivers {
            for (i, &(gpa, len, flags, next)) in (0u16..).zip(&table) {
                // The ring's own table, and the first indirect tables.
                let at = if i < SIZE { DESC } else { HEAP };
                driver.desc(at, i % SIZE, (gpa, len, flags), next);
            }
            driver.alloc(0x4000);
        }
        let at = RingAddresses { desc: DESC, avail: AVAIL, used: USED };
        let mut ours = SplitRing::new(drivers[0].mem.clone(), SIZE, at, base, features).unwrap();
        ours.wants_call(&Fence::after_publishing()).unwrap(); // as for a ring that was used before
        let (mut theirs, mem) = (reference(event_idx, base), memory(&drivers[1]));
        let mut held = VecDeque::new();
        let (mut offered, mut taken, mut returned, mut told) = (0u16, 0u16, 0u16, 0u16);
        for step in steps {
            match step {
                Step::Add(n, direct, writable) => {
                    // The upper half of the table is for raw descriptors: what is in flight does not change.
                    if drivers[0].free() < 12 || offered.wrapping_sub(told) == SIZE {
                        continue;
                    }
                    for driver in &mut drivers {
                        let pieces: Vec<_> = (0..n)
                            .map(|i| (driver.alloc(32), 8 + i as u32, i + writable >= n))
                            .collect();
                        driver.add(&pieces, direct);
                    }
                    offered = offered.wrapping_add(1);
                }
                Step::Offer(head) => {
                    if offered.wrapping_sub(told) < SIZE {
                        for driver in &mut drivers {
                            driver.offer(head);
                        }
                        offered = offered.wrapping_add(1);
                    }
                }
                Step::Take => {
                    let chain = theirs.pop_descriptor_chain(&mem);
                    let mine = ours.take().unwrap();
                    prop_assert_eq!(mine.is_some(), chain.is_some());
                    let (Some(mine), Some(chain)) = (mine, chain) else {
                        continue;
                    };
                    taken = taken.wrapping_add(1);
                    prop_assert_eq!(mine.token.id, chain.head_index());
                    for writable in [false, true] {
                        let mut out = Vec::new();
                        if let Ok(total) = ours.walk(mine, writable, &mut out) {
                            // What theirs takes and ours refuses is in the tests of hostile chains.
                            let seen: Vec<_> = chain
                                .clone()
                                .filter(|desc| desc.is_write_only() == writable && desc.len() > 0)
                                .map(|desc| Segment { gpa: desc.addr().0, len: desc.len() })
                                .collect();
                            prop_assert_eq!(total, seen.iter().map(|s| u64::from(s.len)).sum::<u64>());
                            prop_assert_eq!(out, seen);
                        }
                    }
                    held.push_back(mine.token);
                }
                Step::Return(len) => {
                    if let Some(token) = held.pop_front() {
                        ours.push_used(token, len);
                        theirs.add_used(&mem, token.id, len).unwrap();
                        returned = returned.wrapping_add(1);
                    }
                }
                Step::Publish => {
                    if ours.has_pending() {
                        let wanted = theirs.needs_notification(&mem).unwrap();
                        ours.publish().unwrap();
                        prop_assert_eq!(ours.wants_call(&Fence::after_publishing()).unwrap(), wanted);
                        told = returned;
                    }
                }
                Step::Event(ahead) => {
                    let event = base.wrapping_add(told).wrapping_add(ahead);
                    for driver in &drivers {
                        driver.set_used_event(event);
                    }
                }
                Step::Arm => {
                    // Ours asks for what is behind all that it has seen, theirs for what it has not taken yet.
                    if taken == offered {
                        prop_assert_eq!(ours.set_notify(true).unwrap(), theirs.enable_notification(&mem).unwrap());
                    }
                }
                Step::Disarm => {
                    ours.set_notify(false).unwrap();
                    theirs.disable_notification(&mem).unwrap();
                }
                Step::Collect => {
                    if !ours.has_pending() {
                        prop_assert_eq!(drivers[0].used(), drivers[1].used());
                    }
                }
            }
            if !ours.has_pending() {
                let used = drivers.each_ref().map(|driver| driver.read(USED, 6 + 8 * usize::from(SIZE)));
                prop_assert_eq!(&used[0], &used[1]);
            }
        }
    }
}
