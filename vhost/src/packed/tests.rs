//! The packed ring against its driver: hostile chains, laps, batches, suppression. No session and no socket.

use proptest::prelude::*;

use crate::ring::driver::*;

use super::*;

const SIZE: u16 = 8;
const AT: RingAddresses = RingAddresses {
    desc: DESC,
    avail: AVAIL,
    used: USED,
};

/// A driver, and a ring that has gone on to `base` descriptors.
fn world(features: VirtioFeatures, base: u16) -> (Driver, PackedRing) {
    let driver = Driver::new(SIZE, RING_PACKED | features, base);
    let from = driver.vring_base(base);
    let ring = PackedRing::new(driver.mem.clone(), SIZE, AT, from, features).unwrap();
    (driver, ring)
}

/// Takes the chain that `descs` are, in a ring that has gone on to 5.
fn walk(
    descs: &[((u64, u32, u16), u16)],
    set_up: impl FnOnce(&Driver),
) -> Result<(u64, Vec<Segment>), RingError> {
    let (mut driver, mut ring) = world(INDIRECT_DESC, 5);
    set_up(&driver);
    driver.offer_packed(descs);
    let chain = ring.take()?.unwrap();
    let mut out = Vec::new();
    let total = ring.walk(chain, false, &mut out)?;
    Ok((total, out))
}

#[test]
fn hostile_chains_are_refused() {
    let end = BASE + 2 * REGION;
    let refused = |descs: &[(u64, u32, u16)], set_up: &dyn Fn(&Driver)| {
        let descs: Vec<_> = descs.iter().map(|&desc| (desc, 0)).collect();
        walk(&descs, set_up).unwrap_err()
    };
    let nothing = |_: &Driver| {};
    assert_eq!(
        refused(&[(HEAP, 8, F_NEXT); 8], &nothing),
        RingError::ChainTooLong
    );
    for (gpa, len) in [(0, 8), (end - 7, 8), (u64::MAX, 8), (HEAP, u32::MAX)] {
        assert_eq!(
            refused(&[(gpa, len, 0)], &nothing),
            RingError::BufferOutside
        );
    }
    let readable_last = [(HEAP, 8, F_WRITE | F_NEXT), (HEAP, 8, 0)];
    assert_eq!(
        refused(&readable_last, &nothing),
        RingError::ReadableAfterWritable
    );
    for len in [0, 8, 17] {
        assert_eq!(
            refused(&[(HEAP, len, F_INDIRECT)], &nothing),
            RingError::BadIndirectTable
        );
    }
    assert_eq!(
        refused(&[(end - 16, 32, F_INDIRECT)], &nothing),
        RingError::BadIndirectTable
    );
    let table = |d: &Driver| d.desc(HEAP, 0, (HEAP + 64, 16, 0), 0);
    for descs in [
        [(HEAP, 16, F_INDIRECT | F_NEXT), (HEAP, 8, 0)],
        [(HEAP, 8, F_NEXT), (HEAP, 16, F_INDIRECT)],
    ] {
        assert_eq!(refused(&descs, &table), RingError::BadIndirect);
    }
    let nested = |d: &Driver| d.desc(HEAP, 0, (HEAP + 64, 16, F_INDIRECT), 0);
    assert_eq!(
        refused(&[(HEAP, 16, F_INDIRECT)], &nested),
        RingError::BadIndirect
    );
    let bomb = |d: &Driver| (0..9).for_each(|i| d.desc(HEAP, i, (HEAP, 1, 0), 0));
    assert_eq!(
        refused(&[(HEAP, 9 * 16, F_INDIRECT)], &bomb),
        RingError::ChainTooLong
    );

    let (mut driver, mut ring) = world(NONE, 0);
    driver.offer_packed(&[((HEAP, 16, F_INDIRECT), 0)]);
    let chain = ring.take().unwrap().unwrap();
    assert_eq!(
        ring.walk(chain, false, &mut Vec::new()),
        Err(RingError::BadIndirect),
        "without the feature"
    );
}

#[test]
fn chains_at_the_limits_are_taken() {
    let end = BASE + 2 * REGION;
    let descs: Vec<_> = (0..SIZE)
        .map(|i| ((end - 8, 8, if i < 7 { F_NEXT } else { 0 }), i))
        .collect();
    let (total, segments) = walk(&descs, |_| {}).unwrap();
    assert_eq!(
        (total, segments.len()),
        (64, 8),
        "as long as the ring, around its end, at the top of memory"
    );

    // The entries of a table are in order, whatever they say of a next one.
    let table = |d: &Driver| {
        d.desc(HEAP, 0, (HEAP, 3, F_NEXT), 7);
        d.desc(HEAP, 1, (HEAP, 0, 0), 0);
        d.desc(HEAP, 2, (HEAP, 5, 0), 0);
        d.desc(HEAP, 3, (HEAP, 9, F_WRITE), 0);
    };
    let (total, _) = walk(&[((HEAP, 64, F_INDIRECT | F_WRITE), 0)], table).unwrap();
    assert_eq!(total, 8);
}

#[test]
fn what_the_device_holds_is_not_available_whatever_it_says() {
    let (mut driver, mut ring) = world(NONE, 3);
    for i in 0..SIZE {
        driver.offer_packed(&[((HEAP, 8, 0), i)]);
    }
    let chains: Vec<_> = (0..SIZE).map(|_| ring.take().unwrap().unwrap()).collect();
    driver.offer_packed(&[((HEAP, 8, 0), 9)]);
    assert_eq!(ring.take(), Ok(None));
    ring.push_used(chains[0].token, 0);
    assert_eq!(ring.take().unwrap().unwrap().token.id, 9);
    driver.offer_packed(&[((HEAP, 8, F_NEXT), 0), ((HEAP, 8, 0), 1)]);
    ring.push_used(chains[1].token, 0);
    assert_eq!(
        ring.take(),
        Err(RingError::ChainTooLong),
        "it reaches into what is held"
    );
}

#[test]
fn bad_rings_are_refused() {
    let driver = Driver::new(SIZE, RING_PACKED, 0);
    let new = |size, desc, avail, used, base| {
        let at = RingAddresses { desc, avail, used };
        PackedRing::new(driver.mem.clone(), size, at, base, NONE).map(|ring| ring.base())
    };
    let one = 0x8000_8000;
    for size in [1, 3, 8, 0x8000] {
        assert_eq!(new(size, DESC, AVAIL, USED, one), Ok(one));
    }
    for size in [0, 0x8001, 0xffff] {
        assert_eq!(
            new(size, DESC, AVAIL, USED, one),
            Err(RingError::Size(size))
        );
    }
    assert_eq!(
        new(8, DESC + 8, AVAIL, USED, one),
        Err(RingError::Misaligned)
    );
    assert_eq!(
        new(8, DESC, AVAIL + 2, USED, one),
        Err(RingError::Misaligned)
    );
    assert_eq!(
        new(8, DESC, AVAIL, USED + 2, one),
        Err(RingError::Misaligned)
    );
    let end = BASE + 2 * REGION;
    assert_eq!(new(8, end - 8 * 16, end - 4, end - 4, one), Ok(one));
    for (desc, avail, used) in [
        (end - 7 * 16, AVAIL, USED),
        (DESC, end, USED),
        (DESC, AVAIL, 0),
    ] {
        assert_eq!(new(8, desc, avail, used, one), Err(RingError::RingOutside));
    }
    for base in [8, 0x8008, 0x0008_0000, 0x7fff_0000] {
        let offset = (base | base >> 16) as u16 & 0x7fff;
        assert_eq!(
            new(8, DESC, AVAIL, USED, base),
            Err(RingError::DescOutOfRange(offset))
        );
    }
}

#[test]
fn a_base_is_understood_from_all_who_set_one() {
    let driver = Driver::new(SIZE, RING_PACKED, 0);
    let start = |base| {
        let ring = PackedRing::new(driver.mem.clone(), SIZE, AT, base, NONE).unwrap();
        ring.base()
    };
    assert_eq!(start(0x8000_8000), 0x8000_8000, "QEMU");
    assert_eq!(start(0x8000), 0x8000_8000, "DPDK");
    assert_eq!(start(0), 0x8000_8000, "User-Mode Linux, a new ring");
    assert_eq!(
        start(0x8003_8005),
        0x8003_8003,
        "what was not used comes again"
    );
    assert_eq!(start(0x0003), 0x0003_0003);
    // The driver has gone round once or twice, the device has returned nothing or the last.
    for (flags, last, wrap) in [
        (F_AVAIL, F_AVAIL, 0x8000),
        (F_AVAIL, F_AVAIL | F_USED, 0),
        (F_USED, F_USED, 0),
    ] {
        (0..SIZE).for_each(|at| driver.desc(DESC, at, (0, 0, flags), at));
        driver.desc(DESC, SIZE - 1, (0, 0, last), SIZE - 1);
        assert_eq!(start(0), wrap * 0x1_0001, "{flags:#x}");
    }
}

/// A driver and a device in their second lap, which has taken two chains more than it has returned.
fn under_way(features: VirtioFeatures, direct: bool) -> (Driver, PackedRing) {
    let (mut driver, mut ring) = world(features, 0);
    for n in 0..13 {
        let last = ((HEAP, 8, 0), n % SIZE);
        match direct && n == 10 {
            true => driver.offer_packed(&[((HEAP, 8, F_NEXT), 0), last]),
            false => driver.offer_packed(&[last]),
        };
        let chain = ring.take().unwrap().unwrap();
        if n < 11 {
            ring.push_used(chain.token, 0);
            ring.publish().unwrap();
        }
    }
    (driver, ring)
}

#[test]
fn a_ring_that_a_killed_back_end_has_left_goes_on_where_it_was() {
    for base in [0x8000_8000, 0x8000, 0] {
        let (driver, ring) = under_way(INDIRECT_DESC, false);
        let mut again = PackedRing::new(driver.mem.clone(), SIZE, AT, base, INDIRECT_DESC).unwrap();
        again.look_for_place(base).unwrap();
        assert_eq!(again.base(), ring.base(), "{base:#x}");
        assert_eq!(again.base(), 0x0003_0003);
        assert!(!again.is_lost() && again.is_resumed());
    }
}

#[test]
fn where_a_ring_was_when_it_was_last_stopped_is_not_where_it_is() {
    // Both laps; the last of them is where it is.
    for base in (0x8001_8001..=0x8007_8007)
        .chain(0x0001_0001..=0x0003_0003)
        .step_by(0x1_0001)
    {
        let (driver, ring) = under_way(INDIRECT_DESC, false);
        let mut again = PackedRing::new(driver.mem.clone(), SIZE, AT, base, INDIRECT_DESC).unwrap();
        again.look_for_place(base).unwrap();
        assert_eq!(again.base(), ring.base(), "{base:#x}");
        assert!(!again.is_lost());
    }
    // What such a ring cannot tell is asked of the front end, if what it says may be so.
    for (base, is_lost) in [
        (0x0003_0003, false),
        (0x0001_0001, true),
        (0x8000_8000, true),
    ] {
        let (driver, _) = under_way(IN_ORDER, true);
        let mut again = PackedRing::new(driver.mem.clone(), SIZE, AT, base, IN_ORDER).unwrap();
        again.look_for_place(base).unwrap();
        assert_eq!(again.is_lost(), is_lost, "{base:#x}");
    }
}

#[test]
fn a_full_ring_whose_chains_may_be_long_is_lost_if_nobody_knows_where_it_was() {
    let (mut driver, mut ring) = world(VirtioFeatures::empty(), 0);
    for n in 0..SIZE + 3 {
        driver.offer_packed(&[((HEAP, 8, 0), n % SIZE)]);
        let chain = ring.take().unwrap().unwrap();
        ring.push_used(chain.token, 0);
        ring.publish().unwrap();
    }
    (0..SIZE).for_each(|n| {
        driver.offer_packed(&[((HEAP, 8, 0), n)]);
    });
    for (base, is_lost) in [(0x8000_8000, true), (ring.base(), false)] {
        let features = VirtioFeatures::empty();
        let mut again = PackedRing::new(driver.mem.clone(), SIZE, AT, base, features).unwrap();
        again.look_for_place(base).unwrap();
        assert_eq!(again.is_lost(), is_lost, "{base:#x}");
    }
}

#[test]
fn a_ring_that_does_not_tell_is_lost_not_guessed() {
    let (driver, _) = under_way(IN_ORDER, true);
    let vring = driver.vring(1);
    assert_eq!(vring.fault(), Some(RingError::Lost));
    assert!(vring.is_broken());
}

#[test]
fn in_order_a_batch_that_was_only_read_is_one_descriptor() {
    let (mut driver, mut ring) = world(IN_ORDER, 6);
    let untouched = driver.read(DESC, 16);
    let sizes = [1usize, 2, 1, 1];
    for (i, n) in sizes.into_iter().enumerate() {
        let descs: Vec<_> = (0..n)
            .map(|k| {
                (
                    (HEAP, 8, if k + 1 < n { F_NEXT } else { 0 }),
                    100 + i as u16,
                )
            })
            .collect();
        driver.offer_packed(&descs);
    }
    for len in [0, 0, 0, 9] {
        let chain = ring.take().unwrap().unwrap();
        ring.push_used(chain.token, len);
    }
    ring.publish().unwrap();
    assert_eq!(ring.wants_call(&Fence::after_publishing()), Ok(true));
    let at = |i: u64| driver.read(DESC + i * 16 + 8, 8);
    assert_eq!(
        at(6),
        [0, 0, 0, 0, 102, 0, 0x80, 0x80],
        "the last of the batch, where it began"
    );
    assert_ne!(driver.read(DESC, 16), untouched, "made available since");
    assert_eq!(
        driver.load(DESC + 14) & (F_AVAIL | F_USED),
        F_USED,
        "not used"
    );
    assert_eq!(
        at(2),
        [9, 0, 0, 0, 103, 0, 2, 0],
        "what was written has a descriptor of its own"
    );
    assert_eq!(ring.base(), driver.vring_base(11));
}

#[test]
fn laps_that_nobody_was_asked_about_are_told() {
    let (mut driver, mut ring) = world(EVENT_IDX, 0);
    ring.wants_call(&Fence::after_publishing()).unwrap();
    // The driver has used all up to the last descriptor of the second lap, and sleeps until that is used.
    driver.set_driver_event(SIZE - 1, 2);
    for n in 0..2 * SIZE {
        driver.offer_packed(&[((HEAP, 8, 0), n % SIZE)]);
        let chain = ring.take().unwrap().unwrap();
        ring.push_used(chain.token, 0);
        ring.publish().unwrap();
    }
    assert_eq!(ring.wants_call(&Fence::after_publishing()), Ok(true));
    assert_eq!(
        ring.wants_call(&Fence::after_publishing()),
        Ok(false),
        "told"
    );
}

#[test]
fn a_burst_that_passes_the_event_is_told() {
    const WRAP: u16 = 1 << 15;
    for (side, flags, wanted) in [
        (WRAP | 6, 2, true),
        (WRAP | 7, 2, true),
        (1, 2, true),
        (2, 2, false),
        (WRAP | 5, 2, false),
        (6, 2, false),
        (WRAP | 1, 2, false),
        (8, 2, true),
        (WRAP | 6, 1, false),
        (5, 0, true),
        (5, 3, true),
    ] {
        let (mut driver, mut ring) = world(EVENT_IDX, 6);
        ring.wants_call(&Fence::after_publishing()).unwrap();
        driver.set_driver_event(side, flags);
        for i in 0..4 {
            driver.offer_packed(&[((HEAP, 8, 0), i)]);
            let chain = ring.take().unwrap().unwrap();
            ring.push_used(chain.token, 0);
        }
        ring.publish().unwrap();
        assert_eq!(
            ring.wants_call(&Fence::after_publishing()),
            Ok(wanted),
            "{side:#x} {flags}"
        );
    }
    let (_, mut ring) = world(NONE, 0);
    ring.publish().unwrap();
    assert_eq!(ring.wants_call(&Fence::after_publishing()), Ok(true));
    let (driver, mut ring) = world(NONE, 0);
    driver.set_driver_event(5, 2);
    ring.publish().unwrap();
    assert_eq!(
        ring.wants_call(&Fence::after_publishing()),
        Ok(true),
        "an event without the feature"
    );
}

#[test]
fn a_batch_is_not_seen_in_part() {
    // The first used descriptor is written last: until it is, a driver sees none of them.
    let (mut driver, mut ring) = world(NONE, 0);
    for i in 0..3 {
        driver.offer_packed(&[((HEAP, 8, F_WRITE), i)]);
        let chain = ring.take().unwrap().unwrap();
        ring.push_used(chain.token, 8);
    }
    let flags = |driver: &Driver| [0, 1, 2].map(|i| driver.load(DESC + 16 * i + 14));
    assert_eq!(flags(&driver), [F_AVAIL | F_WRITE; 3]);
    ring.publish().unwrap();
    assert_eq!(flags(&driver), [F_AVAIL | F_USED | F_WRITE; 3]);
}

proptest! {
    /// Whatever a driver writes into its ring: chains within bounds or an error, and time enough.
    #[test]
    fn any_descriptors_are_survived(
        raw in proptest::collection::vec((0u64..64, 0u32..64, any::<u16>(), any::<u16>()), 16),
        base in prop::sample::select(vec![0u32, 0x8000, 0x8003, 5]),
        rounds in 1usize..6,
        writable: bool,
    ) {
        let driver = Driver::new(SIZE, RING_PACKED, 0);
        let mut ring = PackedRing::new(driver.mem.clone(), SIZE, AT, base, INDIRECT_DESC).unwrap();
        let mut out = Vec::new();
        for round in 0..rounds {
            for (i, &(at, len, flags, id)) in raw.iter().enumerate() {
                // Addresses that mean something: the ring itself, indirect tables, the end of memory, nowhere.
                let gpa = match at % 4 { 0 => DESC, 1 => HEAP, 2 => BASE + 2 * REGION - 8, _ => 0 };
                let flags = if round % 2 == 0 { flags } else { flags ^ (F_AVAIL | F_USED) };
                driver.desc(if i < 8 { DESC } else { HEAP }, i as u16 % 8, (gpa + at, len, flags), id);
            }
            let mut held = Vec::new();
            loop {
                match ring.take() {
                    Ok(Some(chain)) => {
                        out.clear();
                        if let Ok(total) = ring.walk(chain, writable, &mut out) {
                            prop_assert!(out.len() <= 8);
                            prop_assert_eq!(total, out.iter().map(|s| u64::from(s.len)).sum::<u64>());
                            prop_assert!(out.iter().all(|s| driver.mem.slice(s.gpa, s.len as usize).is_some()));
                        }
                        held.push(chain);
                    }
                    Ok(None) => break,
                    Err(error) => {
                        prop_assert_eq!(error, RingError::ChainTooLong);
                        break;
                    }
                }
                let descs: u16 = held.iter().map(|chain| chain.token.descs).sum();
                prop_assert!(descs <= SIZE);
            }
            for chain in held {
                ring.push_used(chain.token, 1);
            }
            ring.publish().unwrap();
            ring.wants_call(&Fence::after_publishing()).unwrap();
            let mark = ring.mark();
            prop_assert_eq!(mark.taken, mark.returned);
        }
    }
}
