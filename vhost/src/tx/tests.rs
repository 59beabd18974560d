//! Transmit queues with a driver that may lie: what is taken, and what is refused. No session and no socket.

use crate::eventfd::EventFd;
use proptest::prelude::*;

use super::*;
use crate::net_hdr::header_len;
use crate::net_hdr::tests::routed_super_frame;
use crate::ring::driver::{
    AVAIL, BASE, DESC, Driver, EVENT_IDX, F_NEXT, F_WRITE, HEAP, IN_ORDER, INDIRECT_DESC, NONE,
    REGION, RING_PACKED, USED, for_both_formats,
};

const VERSION_1: VirtioFeatures = VirtioFeatures::VERSION_1;
const CSUM: VirtioFeatures = VirtioFeatures::CSUM;

fn bytes(n: usize) -> Vec<u8> {
    (0..n).map(|i| (i * 31 + i / 255) as u8).collect()
}

fn with_hdr(hdr: NetHdr, frame: &[u8]) -> Vec<u8> {
    [&hdr.to_bytes(0), frame].concat()
}

/// The next frame, which is as it should be.
fn frame(queue: &mut TxQueue) -> &TxFrame {
    assert!(queue.fetch().unwrap() > 0, "a frame");
    let frame = &queue.fetched()[0];
    assert_eq!(frame.fault(), None);
    frame
}

fn fault(queue: &mut TxQueue) -> FrameFault {
    assert!(queue.fetch().unwrap() > 0, "something that is no frame");
    let fault = queue.fetched()[0].fault();
    queue.complete(1);
    fault.unwrap()
}

/// The whole next frame.
fn copy(queue: &mut TxQueue) -> Vec<u8> {
    frame(queue);
    let mut copy = FrameBuf {
        data: vec![0xaa; 1000],
        ..FrameBuf::default()
    };
    let taken = &queue.fetched()[0];
    queue.copy_to(taken, &mut copy);
    assert_eq!(taken.head(), copy.head());
    copy.data
}

for_both_formats! {
    a_frame_is_taken_and_returned,
    the_head_is_read_once,
    bad_frames_are_returned_and_the_ring_goes_on,
    four_gigabytes_in_one_chain_are_oversize,
    a_buffer_may_span_adjoining_regions,
    a_checksum_outside_is_a_bad_frame,
    headers_longer_than_the_head_are_read_once,
    a_disabled_ring_is_drained_once_kicked_and_nothing_comes_out,
    frames_that_were_not_completed_come_again,
    nothing_more_is_taken_once_memory_has_vanished,
    arming_does_not_lose_work,
}

fn a_frame_is_taken_and_returned(format: VirtioFeatures) {
    for features in [NONE, VERSION_1] {
        let mut driver = Driver::new(8, format | features, 0);
        let mut queue = TxQueue::new(driver.vring(1));
        assert_eq!(queue.fetch(), Ok(0));
        let data = bytes(1514);
        let chain = [
            &NetHdr::default().to_bytes(0)[..header_len(features)],
            &data,
        ]
        .concat();
        let head = driver.send(&chain, &[12], 2);
        let taken = frame(&mut queue);
        assert_eq!((taken.len(), taken.head()), (1514, &data[..128]));
        assert_eq!(copy(&mut queue), data);
        assert_eq!(queue.fetch(), Ok(1), "the same until it is completed");
        assert_eq!(queue.flush(), None, "nothing to publish");
        queue.complete(1);
        assert_eq!(queue.fetch(), Ok(0));
        assert_eq!(driver.used(), [], "not before the flush");
        assert_eq!(queue.flush(), Some(true));
        assert!(driver.call.drain());
        assert_eq!(driver.used(), [(head, 0)]);
    }
}

fn the_head_is_read_once(format: VirtioFeatures) {
    let mut driver = Driver::new(8, format | VERSION_1, 0);
    let mut queue = TxQueue::new(driver.vring(1));
    let data = bytes(200);
    driver.send(&with_hdr(NetHdr::default(), &data), &[], 1);
    frame(&mut queue);
    driver.write(HEAP, &[0xee; 212]);
    let copy = copy(&mut queue);
    assert_eq!(copy[..128], data[..128]);
    assert_eq!(copy[128..], [0xee; 72]);
}

fn bad_frames_are_returned_and_the_ring_goes_on(format: VirtioFeatures) {
    let mut driver = Driver::new(64, format | VERSION_1, 0);
    let mut queue = TxQueue::new(driver.vring(1));
    let csum = NetHdr {
        flags: 1,
        csum_start: 30,
        csum_offset: 40,
        ..NetHdr::default()
    };
    let mut heads = vec![
        driver.send(&[0; 11], &[], 1),
        driver.send(&[0; 12], &[], 1),
        driver.send(&[0; 25], &[], 1),
        driver.send(&with_hdr(csum, &[0; 60]), &[], 1),
        driver.add(&[(HEAP, 0, false)], 1),
        driver.add(&[(HEAP, 1 << 20, false)], 1),
        driver.add(&[(HEAP, 100, true)], 1),
    ];
    for expected in [
        FrameFault::NoHeader,
        FrameFault::Runt,
        FrameFault::Runt,
        FrameFault::NotNegotiated,
        FrameFault::NoHeader,
        FrameFault::Oversize,
        FrameFault::NoHeader,
    ] {
        assert_eq!(fault(&mut queue), expected);
    }
    heads.push(driver.send(&[0; 26], &[], 1));
    assert_eq!(frame(&mut queue).len(), 14);
    queue.complete(1);
    heads.push(driver.add(&[(HEAP, 12, false), (HEAP, MAX_FRAME, false)], 2));
    assert_eq!(frame(&mut queue).len(), MAX_FRAME);
    queue.complete(1);
    queue.flush();
    let used: Vec<u16> = driver.used().iter().map(|u| u.0).collect();
    assert_eq!(used, heads);
}

fn nothing_more_is_taken_once_memory_has_vanished(format: VirtioFeatures) {
    for pieces in [1, 100] {
        let mut driver = Driver::new(256, format | VERSION_1 | INDIRECT_DESC, 0);
        let mut queue = TxQueue::new(driver.vring(1));
        // All of it in the region that the rings are not in, each piece in a page of its own.
        let chain: Vec<_> = (0..pieces)
            .map(|page| (BASE + REGION + page * 8192, 200 / pieces as u32, false))
            .collect();
        for _ in 0..120 {
            driver.add(&chain, 1);
        }
        driver.files[1].set_len(0).unwrap();
        let mut taken = 0;
        while let Ok(n) = queue.fetch() {
            assert!(n > 0, "it is never just over");
            taken += n;
            queue.complete(n);
        }
        assert!(taken <= BURST, "{taken} frames of {pieces} pieces");
        assert_eq!(queue.fetch(), Err(RingError::MemoryFault));
    }
}

fn four_gigabytes_in_one_chain_are_oversize(format: VirtioFeatures) {
    let mut driver = Driver::new(2048, format | VERSION_1, 0);
    let mut queue = TxQueue::new(driver.vring(1));
    let pieces = vec![(BASE, REGION as u32, false); 1024];
    driver.add(&pieces, 1024);
    assert_eq!(fault(&mut queue), FrameFault::Oversize);
}

fn a_buffer_may_span_adjoining_regions(format: VirtioFeatures) {
    let mut driver = Driver::new(8, format | VERSION_1, 0);
    let mut queue = TxQueue::new(driver.vring(1));
    let chain = with_hdr(NetHdr::default(), &bytes(1000));
    for before in [6, 12, 100, 500] {
        let gpa = BASE + REGION - before;
        let (low, high) = chain.split_at(before as usize);
        driver.write(gpa, low);
        driver.write(BASE + REGION, high);
        driver.add(&[(gpa, chain.len() as u32, false)], 1);
        assert_eq!(copy(&mut queue), chain[12..]);
        queue.complete(1);
    }
}

fn a_checksum_outside_is_a_bad_frame(format: VirtioFeatures) {
    let mut driver = Driver::new(8, format | VERSION_1 | CSUM, 0);
    let mut queue = TxQueue::new(driver.vring(1));
    let csum = NetHdr {
        flags: 1,
        csum_start: 30,
        csum_offset: 28,
        ..NetHdr::default()
    };
    driver.send(&with_hdr(csum, &[0; 60]), &[], 1);
    driver.send(&with_hdr(csum, &[0; 59]), &[], 1);
    assert_eq!(NetHdr::from(frame(&mut queue).offload()), csum);
    queue.complete(1);
    assert_eq!(fault(&mut queue), FrameFault::ChecksumOutside);
}

fn headers_longer_than_the_head_are_read_once(format: VirtioFeatures) {
    let tso = CSUM | VirtioFeatures::HOST_TSO6;
    for (addresses, cuts) in [(3, vec![]), (3, vec![12, 60, 150]), (26, vec![300, 400])] {
        let mut driver = Driver::new(64, format | VERSION_1 | INDIRECT_DESC | tso, 0);
        let mut queue = TxQueue::new(driver.vring(1));
        let sent = routed_super_frame(addresses, 5000, 1000);
        let headers = 94 + 16 * addresses;
        driver.send(&with_hdr(NetHdr::from(&sent.offload), &sent.data), &cuts, 1);
        let taken = frame(&mut queue);
        assert_eq!(taken.offload(), &sent.offload);
        assert_eq!(taken.head(), &sent.data[..HEAD_MAX]);
        assert_eq!(taken.more_headers(), &sent.data[HEAD_MAX..headers]);
        assert_eq!(copy(&mut queue), sent.data);
        // Whatever its driver makes of them meanwhile, what was judged is what comes out.
        let whole = 12 + sent.data.len() + 1024;
        driver.write(HEAP, &vec![0xee; whole]);
        let got = copy(&mut queue);
        assert_eq!(got[..headers], sent.data[..headers]);
        assert!(got[headers..].iter().all(|&byte| byte == 0xee));
        queue.complete(1);
        // A plain frame in the same place has no such headers.
        driver.send(&with_hdr(NetHdr::default(), &bytes(1514)), &cuts, 1);
        assert_eq!(copy(&mut queue), bytes(1514));
        assert!(queue.fetched()[0].more_headers().is_empty());
    }
}

#[test]
fn headers_beyond_what_is_read_say_so() {
    let tso = CSUM | VirtioFeatures::HOST_TSO6;
    let mut driver = Driver::new(64, VERSION_1 | tso, 0);
    let mut queue = TxQueue::new(driver.vring(1));
    let frame = routed_super_frame(27, 5000, 1000);
    driver.send(&with_hdr(NetHdr::from(&frame.offload), &frame.data), &[], 1);
    assert_eq!(fault(&mut queue), FrameFault::HeadersTooLong);
    // Headers that the frame has not are not too long.
    let frame = routed_super_frame(3, 0, 1000);
    driver.send(
        &with_hdr(NetHdr::from(&frame.offload), &frame.data[..140]),
        &[],
        1,
    );
    assert_eq!(fault(&mut queue), FrameFault::BadGsoHeaders);
}

#[test]
fn a_broken_ring_says_so_once_and_stays_broken() {
    let mut driver = Driver::new(8, VERSION_1, 0);
    let mut queue = TxQueue::new(driver.vring(1));
    driver.desc(DESC, 7, (HEAP, 60, F_WRITE | F_NEXT), 6);
    driver.desc(DESC, 6, (HEAP, 60, 0), 0);
    driver.offer(7);
    assert!(queue.has_work());
    assert_eq!(queue.fetch().unwrap_err(), RingError::ReadableAfterWritable);
    assert!(driver.err.drain());
    assert_eq!(queue.fetch().unwrap_err(), RingError::ReadableAfterWritable);
    assert!(!driver.err.drain());
    assert!(!queue.has_work() && queue.flush().is_none() && !queue.set_notify(true));
    let vring = queue.into_vring();
    assert!(vring.is_broken());
    assert_eq!(vring.base(), 0, "the bad chain was not returned");
}

#[test]
fn a_jump_of_the_index_is_met_by_whoever_looks_first() {
    for look in [
        |q: &mut TxQueue| q.has_work(),
        |q: &mut TxQueue| q.set_notify(true),
    ] {
        let driver = Driver::new(8, VERSION_1, 0);
        let mut queue = TxQueue::new(driver.vring(1));
        driver.store(AVAIL + 2, 9);
        assert!(look(&mut queue));
        assert!(driver.err.drain());
        assert_eq!(
            queue.fetch().unwrap_err(),
            RingError::AvailJump { from: 0, to: 9 }
        );
    }
}

fn a_disabled_ring_is_drained_once_kicked_and_nothing_comes_out(format: VirtioFeatures) {
    let mut driver = Driver::new(128, format | VERSION_1, 0xffc0);
    let mut vring = driver.vring(1);
    vring.set_enabled(false);
    let kick = EventFd::new().unwrap();
    vring.set_kick(Some(kick.clone()));
    let mut queue = TxQueue::new(vring);
    let heads: Vec<_> = (0..100)
        .map(|_| (driver.send(&[0; 72], &[], 1), 0))
        .collect();
    assert_eq!(queue.fetch(), Ok(0));
    assert_eq!(queue.discard().unwrap(), 0, "nobody has kicked yet");
    kick.signal();
    // A burst at a time, for one kick.
    let thrown: Vec<u32> = (0..5).map(|_| queue.discard().unwrap()).collect();
    assert_eq!(thrown, [32, 32, 32, 4, 0]);
    assert_eq!(queue.fetch(), Ok(0));
    queue.flush();
    assert_eq!(driver.used(), heads);
    assert!(!queue.has_work());
    // It has been started: a driver that is asked for no kicks gives none.
    queue.set_notify(false);
    driver.send(&[0; 72], &[], 1);
    assert!(
        queue.set_notify(true) && queue.set_notify(true),
        "nobody sleeps now"
    );
    assert_eq!(queue.discard(), Ok(1));
    assert!(!queue.set_notify(true));
}

#[test]
fn the_driver_of_a_disabled_ring_is_never_asked_for_no_kicks() {
    for (enabled, flags) in [(true, 1), (false, 0)] {
        let driver = Driver::new(8, VERSION_1, 0);
        let mut vring = driver.vring(1);
        vring.set_enabled(enabled);
        let mut queue = TxQueue::new(vring);
        queue.set_notify(false);
        assert_eq!(driver.load(USED), flags, "enabled: {enabled}");
    }
}

fn frames_that_were_not_completed_come_again(format: VirtioFeatures) {
    let mut driver = Driver::new(8, format | VERSION_1, 0xfffe);
    let mut queue = TxQueue::new(driver.vring(1));
    for i in 0..4u8 {
        driver.send(&with_hdr(NetHdr::default(), &[i; 60]), &[], 1);
    }
    // A packed ring is read up to its end at a time.
    assert!(queue.fetch().unwrap() >= 2);
    queue.complete(1);
    let vring = queue.into_vring();
    assert_eq!(vring.base(), driver.vring_base(0xffff));
    assert_eq!(driver.used().len(), 1);
    let mut queue = TxQueue::new(vring);
    for i in 1..4u8 {
        assert_eq!(frame(&mut queue).head()[0], i);
        queue.complete(1);
    }
    queue.flush();
    assert_eq!(driver.used().len(), 3);
}

fn arming_does_not_lose_work(format: VirtioFeatures) {
    for features in [VERSION_1, VERSION_1 | EVENT_IDX] {
        let mut driver = Driver::new(8, format | features, 0);
        let mut queue = TxQueue::new(driver.vring(1));
        assert!(!queue.set_notify(true));
        driver.send(&[0; 72], &[], 1);
        assert!(queue.set_notify(true), "work came before");
        assert!(queue.set_notify(true), "and is still there");
        frame(&mut queue);
        assert!(queue.set_notify(true), "not completed yet");
        queue.complete(1);
        assert!(!queue.set_notify(true));
    }
}

#[test]
fn frames_before_a_broken_chain_come_out() {
    let mut driver = Driver::new(8, VERSION_1, 0);
    let mut queue = TxQueue::new(driver.vring(1));
    driver.send(&with_hdr(NetHdr::default(), &[1; 60]), &[], 1);
    driver.desc(DESC, 7, (HEAP, 60, F_WRITE | F_NEXT), 6);
    driver.desc(DESC, 6, (HEAP, 60, 0), 0);
    driver.offer(7);
    assert_eq!(queue.fetch(), Ok(1));
    queue.complete(1);
    assert_eq!(queue.flush(), Some(true));
    assert!(queue.has_work() && queue.set_notify(true));
    assert_eq!(queue.fetch(), Err(RingError::ReadableAfterWritable));
    assert_eq!(queue.into_vring().base(), 1);
}

proptest! {
    /// Whatever the cutting, the indirection and the number completed at a time: every frame comes out once, whole, in
    /// order, and every chain goes back once, in order.
    #[test]
    fn frames_come_out_as_they_went_in(
        base: u16,
        features in proptest::sample::select(vec![INDIRECT_DESC, VERSION_1 | INDIRECT_DESC, VERSION_1 | INDIRECT_DESC | EVENT_IDX]),
        format in proptest::sample::select(vec![NONE, RING_PACKED, RING_PACKED | IN_ORDER]),
        rounds in proptest::collection::vec(
            proptest::collection::vec(
                (14usize..3000, proptest::collection::vec(1usize..40, 0..15), 0usize..5), 0..60),
            1..10),
        completed in proptest::collection::vec(1usize..40, 1..10),
    ) {
        let mut driver = Driver::new(256, features | format, base);
        let mut queue = TxQueue::new(driver.vring(1));
        let header = header_len(features);
        let mut sent = std::collections::VecDeque::new();
        let mut open = std::collections::VecDeque::new();
        let mut completed = completed.into_iter().cycle();
        let mut tag = 0u8;
        for round in &rounds {
            for (len, cuts, direct) in round {
                if driver.free() < 6 {
                    break;
                }
                tag = tag.wrapping_add(1);
                let data: Vec<u8> = bytes(*len).iter().map(|b| b ^ tag).collect();
                let chain = [&NetHdr::default().to_bytes(0)[..header], &data].concat();
                open.push_back(driver.send(&chain, cuts, *direct));
                sent.push_back(data);
            }
            prop_assert_eq!(queue.has_work(), !sent.is_empty());
            // All but what is left of one burst.
            while queue.fetch().unwrap() > 0 && sent.len() > 7 {
                for (taken, data) in queue.fetched().iter().zip(&sent) {
                    let mut copy = FrameBuf { data: vec![0xaa; 1000], ..FrameBuf::default() };
                    queue.copy_to(taken, &mut copy);
                    prop_assert_eq!(&copy.data, data);
                    prop_assert_eq!(taken.head(), copy.head());
                }
                let n = completed.next().unwrap_or(1).min(queue.fetched().len());
                queue.complete(n);
                sent.drain(..n);
            }
            prop_assert!(queue.fetched().len() <= sent.len());
            queue.flush();
            for used in driver.used() {
                prop_assert_eq!(Some(used), open.pop_front().map(|head| (head, 0)));
            }
            prop_assert_eq!(open.len(), sent.len());
        }
    }
}
