//! The ring against its driver: hostile chains, suppression, wrap-around. No session and no socket.

use proptest::prelude::*;

use super::*;
use crate::ring::driver::*;

fn ring(driver: &Driver, size: u16, base: u16, features: VirtioFeatures) -> SplitRing {
    let at = RingAddresses {
        desc: DESC,
        avail: AVAIL,
        used: USED,
    };
    SplitRing::new(driver.mem.clone(), size, at, base, features).unwrap()
}

/// Takes the chain at head 0 after `set_up` wrote it, in a ring of 8.
fn walk(set_up: impl FnOnce(&mut Driver)) -> Result<(u64, Vec<Segment>), RingError> {
    let mut driver = Driver::new(8, INDIRECT_DESC, 0);
    set_up(&mut driver);
    driver.offer(0);
    let mut ring = ring(&driver, 8, 0, INDIRECT_DESC);
    let chain = ring.take()?.unwrap();
    let mut out = Vec::new();
    let total = ring.walk(chain, false, &mut out)?;
    Ok((total, out))
}

#[test]
fn hostile_chains_are_refused() {
    let end = BASE + 2 * REGION;
    let refused = |set_up: &dyn Fn(&mut Driver)| walk(|d| set_up(d)).unwrap_err();
    assert_eq!(
        refused(&|d| d.desc(DESC, 0, (HEAP, 8, F_NEXT), 0)),
        RingError::ChainTooLong
    );
    assert_eq!(
        refused(&|d| d.desc(DESC, 0, (HEAP, 8, F_NEXT), 8)),
        RingError::DescOutOfRange(8)
    );
    assert_eq!(
        refused(&|d| d.desc(DESC, 0, (0, 8, 0), 0)),
        RingError::BufferOutside
    );
    assert_eq!(
        refused(&|d| d.desc(DESC, 0, (end - 7, 8, 0), 0)),
        RingError::BufferOutside
    );
    assert_eq!(
        refused(&|d| d.desc(DESC, 0, (u64::MAX, 8, 0), 0)),
        RingError::BufferOutside
    );
    assert_eq!(
        refused(&|d| d.desc(DESC, 0, (HEAP, u32::MAX, 0), 0)),
        RingError::BufferOutside
    );
    let readable_last = |d: &mut Driver| {
        d.desc(DESC, 0, (HEAP, 8, F_WRITE | F_NEXT), 1);
        d.desc(DESC, 1, (HEAP, 8, 0), 0);
    };
    assert_eq!(refused(&readable_last), RingError::ReadableAfterWritable);
    for len in [0, 8, 17] {
        let table = |d: &mut Driver| d.desc(DESC, 0, (HEAP, len, F_INDIRECT), 0);
        assert_eq!(refused(&table), RingError::BadIndirectTable);
    }
    let outside = |d: &mut Driver| d.desc(DESC, 0, (end - 16, 32, F_INDIRECT), 0);
    assert_eq!(refused(&outside), RingError::BadIndirectTable);
    let and_next = |d: &mut Driver| d.desc(DESC, 0, (HEAP, 16, F_INDIRECT | F_NEXT), 1);
    assert_eq!(refused(&and_next), RingError::BadIndirect);
    let nested = |d: &mut Driver| {
        d.desc(DESC, 0, (HEAP, 16, F_INDIRECT), 0);
        d.desc(HEAP, 0, (HEAP + 64, 16, F_INDIRECT), 0);
    };
    assert_eq!(refused(&nested), RingError::BadIndirect);
    let past_table = |d: &mut Driver| {
        d.desc(DESC, 0, (HEAP, 32, F_INDIRECT), 0);
        d.desc(HEAP, 0, (HEAP + 64, 16, F_NEXT), 2);
    };
    assert_eq!(refused(&past_table), RingError::DescOutOfRange(2));
    let bomb = |d: &mut Driver| {
        d.desc(DESC, 0, (HEAP, 16 * 1000, F_INDIRECT), 0);
        for i in 0..1000 {
            d.desc(HEAP, i, (HEAP, 1, F_NEXT), i + 1);
        }
    };
    assert_eq!(refused(&bomb), RingError::ChainTooLong);
}

#[test]
fn chains_at_the_limits_are_taken() {
    let end = BASE + 2 * REGION;
    let (total, segments) = walk(|d| {
        for i in 0..8 {
            let next = if i < 7 { F_NEXT } else { 0 };
            d.desc(DESC, i, (end - 8, 8, next), i + 1);
        }
    })
    .unwrap();
    assert_eq!(
        (total, segments.len()),
        (64, 8),
        "as long as the ring, at the top of memory"
    );

    let (total, segments) = walk(|d| {
        d.desc(DESC, 0, (HEAP, 0, F_NEXT), 1);
        d.desc(DESC, 1, (HEAP + 4096, 32, F_INDIRECT), 0);
        d.desc(HEAP + 4096, 0, (HEAP, 3, F_NEXT), 1);
        d.desc(HEAP + 4096, 1, (HEAP, 9, F_WRITE), 0);
    })
    .unwrap();
    assert_eq!(
        total, 3,
        "normal, then indirect; a writable end is not ours"
    );
    assert_eq!(segments[..], [Segment { gpa: HEAP, len: 3 }]);
}

#[test]
fn indirect_descriptors_need_the_feature() {
    let mut driver = Driver::new(8, NONE, 0);
    driver.desc(DESC, 0, (HEAP, 16, F_INDIRECT), 0);
    driver.offer(0);
    let mut ring = ring(&driver, 8, 0, NONE);
    let chain = ring.take().unwrap().unwrap();
    assert_eq!(
        ring.walk(chain, false, &mut Vec::new()),
        Err(RingError::BadIndirect)
    );
}

#[test]
fn a_head_out_of_range_is_refused() {
    let mut driver = Driver::new(8, NONE, 0);
    driver.offer(8);
    let mut ring = ring(&driver, 8, 0, NONE);
    let chain = ring.take().unwrap().unwrap();
    assert_eq!(
        ring.walk(chain, false, &mut Vec::new()),
        Err(RingError::DescOutOfRange(8))
    );
}

#[test]
fn the_available_index_may_move_by_the_ring_size_and_never_back() {
    for base in [0, 0xfffc] {
        let driver = Driver::new(8, NONE, base);
        let mut ring = ring(&driver, 8, base, NONE);
        let to = |n: u16| driver.store(AVAIL + 2, base.wrapping_add(n));
        to(9);
        let from = base;
        assert_eq!(
            ring.take(),
            Err(RingError::AvailJump {
                from,
                to: base.wrapping_add(9)
            })
        );
        to(0xffff);
        assert_eq!(
            ring.take(),
            Err(RingError::AvailJump {
                from,
                to: base.wrapping_sub(1)
            })
        );
        to(8);
        for _ in 0..8 {
            assert_eq!(ring.take().unwrap().unwrap().token.id, 0);
        }
        assert_eq!(ring.take(), Ok(None));
        to(7);
        assert!(
            ring.take().is_err(),
            "backwards over entries that were taken"
        );
        to(9);
        assert!(
            ring.take().is_err(),
            "more than the ring, nothing was returned"
        );
        ring.push_used(Token::default(), 0);
        assert_eq!(ring.take().unwrap().unwrap().token.id, 0);
    }
}

#[test]
fn bad_rings_are_refused() {
    let driver = Driver::new(8, NONE, 0);
    let new = |size, desc, avail, used| {
        let at = RingAddresses { desc, avail, used };
        SplitRing::new(driver.mem.clone(), size, at, 0, EVENT_IDX).map(|_| ())
    };
    assert_eq!(new(8, DESC, AVAIL, USED), Ok(()));
    for size in [0, 3, 0x8001, 0xffff] {
        assert_eq!(new(size, DESC, AVAIL, USED), Err(RingError::Size(size)));
    }
    assert_eq!(new(8, DESC + 8, AVAIL, USED), Err(RingError::Misaligned));
    assert_eq!(new(8, DESC, AVAIL + 1, USED), Err(RingError::Misaligned));
    assert_eq!(new(8, DESC, AVAIL, USED + 2), Err(RingError::Misaligned));
    let end = BASE + 2 * REGION;
    assert_eq!(new(8, end - 8 * 16, end - 22, end - 72), Ok(()));
    for (desc, avail, used) in [
        (end - 7 * 16, AVAIL, USED),
        (DESC, end - 20, USED),
        (DESC, AVAIL, end - 68),
        (0, AVAIL, USED),
        (DESC, BASE + REGION - 2, USED),
    ] {
        assert_eq!(new(8, desc, avail, used), Err(RingError::RingOutside));
    }
}

#[test]
fn arming_sees_what_came_meanwhile() {
    for features in [NONE, EVENT_IDX] {
        let mut driver = Driver::new(8, features, 0xffff);
        let mut ring = ring(&driver, 8, 0xffff, features);
        assert_eq!(ring.set_notify(false), Ok(false));
        assert_eq!(driver.load(USED), if features.is_empty() { 1 } else { 0 });
        assert_eq!(ring.set_notify(true), Ok(false));
        assert_eq!(driver.load(USED), 0);
        if features == EVENT_IDX {
            assert_eq!(driver.avail_event(), 0xffff);
        }
        driver.offer(0);
        assert_eq!(ring.set_notify(true), Ok(true));
        assert_eq!(ring.take().unwrap().unwrap().token.id, 0);
        assert_eq!(ring.set_notify(true), Ok(false));
        if features == EVENT_IDX {
            assert_eq!(driver.avail_event(), 0);
        }
    }
}

#[test]
fn suppression_words_of_the_other_mode_are_ignored() {
    for (features, flags, event, wanted) in [
        (NONE, 0, 5, true),
        (NONE, 1, 0, false),
        (EVENT_IDX, 1, 0, true),
        (EVENT_IDX, 0, 5, false),
    ] {
        let mut driver = Driver::new(8, features, 0);
        let mut ring = ring(&driver, 8, 0, features);
        driver.store(AVAIL, flags);
        driver.set_used_event(event);
        driver.offer(0);
        let chain = ring.take().unwrap().unwrap();
        ring.push_used(chain.token, 0);
        ring.publish().unwrap();
        assert_eq!(
            ring.wants_call(&Fence::after_publishing()),
            Ok(wanted),
            "{features:#x} {flags} {event}"
        );
    }
}

#[test]
fn a_burst_that_passes_the_event_is_told() {
    for (event, wanted) in [
        (0xfffe, true),
        (0xffff, true),
        (1, true),
        (2, false),
        (0xfffd, false),
    ] {
        let mut driver = Driver::new(8, EVENT_IDX, 0xfffe);
        let mut ring = ring(&driver, 8, 0xfffe, EVENT_IDX);
        ring.wants_call(&Fence::after_publishing()).unwrap();
        driver.set_used_event(event);
        for i in 0..4 {
            driver.offer(i);
            ring.push_used(Token { id: i, descs: 1 }, 0);
        }
        ring.publish().unwrap();
        assert_eq!(
            ring.wants_call(&Fence::after_publishing()),
            Ok(wanted),
            "{event}"
        );
    }
}

#[test]
fn a_ring_whose_used_index_has_gone_round_is_no_new_one() {
    let driver = Driver::new(8, EVENT_IDX, 0);
    let mut killed = ring(&driver, 8, 0, EVENT_IDX);
    assert!(!killed.is_resumed());
    for n in 0..1 << 16 {
        let id = (n % 8) as u16;
        killed.push_used(Token { id, descs: 1 }, 0);
        killed.publish().unwrap();
    }
    // The driver waits for the last but four of them, of which nobody has told it.
    driver.set_used_event(u16::MAX - 4);
    let mut next = ring(&driver, 8, 0, EVENT_IDX);
    assert!(next.is_resumed());
    assert_eq!(next.wants_call(&Fence::after_publishing()), Ok(true));
}

#[test]
fn an_index_that_went_round_since_the_driver_was_asked_is_told() {
    let driver = Driver::new(8, EVENT_IDX, 0);
    let mut ring = ring(&driver, 8, 0, EVENT_IDX);
    ring.wants_call(&Fence::after_publishing()).unwrap();
    driver.set_used_event(u16::MAX);
    for n in 0..1 << 16 {
        let id = (n % 8) as u16;
        ring.push_used(Token { id, descs: 1 }, 0);
        ring.publish().unwrap();
    }
    assert_eq!(ring.wants_call(&Fence::after_publishing()), Ok(true));
    let told = ring.wants_call(&Fence::after_publishing());
    assert_eq!(told, Ok(false));
}

proptest! {
    /// The arithmetic of virtio 2.7.10.1 against counting.
    #[test]
    fn crossing_an_event(old: u16, n in 0u16..300, near in -300i32..600) {
        let event = (i32::from(old) + near) as u16;
        let new = old.wrapping_add(n);
        let passed = (0..n).any(|i| old.wrapping_add(i) == event);
        prop_assert_eq!(crosses(event, old, new), passed);
    }

    #[test]
    fn any_descriptors_are_survived(
        table in proptest::collection::vec((0u64..64, 0u32..64, 0u16..8, 0u16..20), 32),
        raw in proptest::collection::vec(any::<u8>(), 16 * 16),
        use_raw: bool,
        heads in proptest::collection::vec(0u16..18, 1..16),
        writable: bool,
    ) {
        let mut driver = Driver::new(16, INDIRECT_DESC, 0);
        for (i, (at, len, flags, next)) in table.into_iter().enumerate() {
            // Addresses that mean something: buffers, indirect tables, the table itself, nowhere.
            let gpa = match at % 4 { 0 => DESC, 1 => HEAP, 2 => BASE + 2 * REGION - 8, _ => at };
            driver.desc(if i < 16 { DESC } else { HEAP }, i as u16 % 16, (gpa + at, len, flags), next);
        }
        if use_raw {
            driver.write(DESC, &raw);
        }
        for &head in &heads {
            driver.offer(head);
        }
        let mut ring = ring(&driver, 16, 0, INDIRECT_DESC);
        let mut out = Vec::new();
        while let Some(chain) = ring.take().unwrap() {
            out.clear();
            if let Ok(total) = ring.walk(chain, writable, &mut out) {
                prop_assert!(out.len() <= 16);
                prop_assert_eq!(total, out.iter().map(|s| u64::from(s.len)).sum::<u64>());
                prop_assert!(out.iter().all(|s| driver.mem.slice(s.gpa, s.len as usize).is_some()));
            }
            ring.push_used(chain.token, 0);
        }
        ring.publish().unwrap();
        ring.wants_call(&Fence::after_publishing()).unwrap();
        let ids: Vec<u16> = driver.used().iter().map(|u| u.0).collect();
        prop_assert_eq!(ids, heads);
    }
}
