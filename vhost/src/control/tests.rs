//! The control queue with a driver that may lie; no socket.

use super::*;
use crate::features::VirtioFeatures;
use crate::ring::driver::{
    AVAIL, BASE, DESC, Driver, EVENT_IDX, F_INDIRECT, F_NEXT, F_WRITE, HEAP, INDIRECT_DESC, NONE,
    REGION, USED,
};

fn world(features: VirtioFeatures) -> (Driver, ControlQueue) {
    let driver = Driver::new(
        16,
        VirtioFeatures::MQ | VirtioFeatures::VERSION_1 | features,
        0xfffe,
    );
    let queue = ControlQueue::new(driver.vring(4));
    (driver, queue)
}

/// Offers a command in pieces cut at these lengths, and a byte for the answer: its address.
fn ask(driver: &mut Driver, command: &[u8], cuts: &[usize], direct: usize) -> u64 {
    let mut pieces = Vec::new();
    let mut rest = command;
    for &cut in cuts.iter().chain([&usize::MAX]) {
        let (now, later) = rest.split_at(cut.min(rest.len()));
        let gpa = driver.alloc(now.len());
        driver.write(gpa, now);
        pieces.push((gpa, now.len() as u32, false));
        rest = later;
    }
    let answer = driver.alloc(1);
    driver.write(answer, &[0xaa]);
    pieces.push((answer, 1, true));
    driver.add(&pieces, direct.min(pieces.len()));
    answer
}

#[test]
fn commands_are_read_and_answered() {
    // Linux puts class and command in a piece of their own, and all of it in an indirect table.
    for (features, cuts, direct) in [
        (NONE, &[2usize][..], 9),
        (EVENT_IDX | INDIRECT_DESC, &[2], 0),
        (EVENT_IDX, &[1, 1, 1], 9),
        (INDIRECT_DESC, &[], 1),
        (NONE, &[0, 3], 9),
    ] {
        let (mut driver, mut queue) = world(features);
        assert_eq!(queue.next(), Ok(None));
        for (command, read, obeyed, said) in [
            (&[4, 0, 3, 1][..], Asked::QueuePairs(0x103), true, OK),
            (&[4, 0, 9, 0], Asked::QueuePairs(9), false, ERR),
            (&[4, 1, 3, 0], Asked::Nothing, false, ERR),
            (&[3, 0, 3, 0], Asked::Nothing, false, ERR),
            (&[4, 0, 3, 0, 0], Asked::Nothing, false, ERR),
            (&[4, 0, 3], Asked::Nothing, false, ERR),
            (&[4], Asked::Nothing, false, ERR),
            (&[], Asked::Nothing, false, ERR),
            (&[0; 4000], Asked::Nothing, false, ERR),
        ] {
            let answer = ask(&mut driver, command, cuts, direct);
            assert_eq!(queue.next(), Ok(Some(read)), "{command:?}");
            assert!(driver.used().is_empty());
            queue.answer(obeyed, &[]).unwrap();
            assert_eq!(driver.read(answer, 1), [said]);
            assert_eq!(driver.used().len(), 1);
            assert_eq!(queue.next(), Ok(None));
        }
    }
}

#[test]
fn of_a_command_longer_than_any_nothing_is_read() {
    let (mut driver, mut queue) = world(NONE);
    for (len, read) in [
        (command::MAX_LEN, command::MAX_LEN),
        (command::MAX_LEN + 1, 0),
    ] {
        ask(&mut driver, &vec![4; len], &[], 9);
        assert_eq!(queue.next(), Ok(Some(Asked::Nothing)));
        assert_eq!(queue.queue.message().len(), read);
        queue.answer(false, &[]).unwrap();
    }
}

#[test]
fn the_driver_is_told_and_asked_to_tell() {
    let (mut driver, mut queue) = world(EVENT_IDX);
    driver.set_used_event(0xfffe);
    assert_eq!(queue.next(), Ok(None));
    assert_eq!(driver.avail_event(), 0xfffe);
    ask(&mut driver, &[4, 0, 1, 0], &[2], 9);
    ask(&mut driver, &[4, 0, 2, 0], &[2], 9);
    assert_eq!(queue.next(), Ok(Some(Asked::QueuePairs(1))));
    queue.answer(true, &[]).unwrap();
    assert!(driver.call.drain());
    assert_eq!(queue.next(), Ok(Some(Asked::QueuePairs(2))));
    queue.answer(true, &[]).unwrap();
    assert!(!driver.call.drain());
    assert_eq!(queue.next(), Ok(None));
    assert_eq!(driver.avail_event(), 0);
    let used = driver.used();
    assert_eq!(used.iter().map(|used| used.1).collect::<Vec<_>>(), [1, 1]);
}

#[test]
fn without_room_for_an_answer_there_is_none() {
    let (mut driver, mut queue) = world(NONE);
    driver.send(&[4, 0, 1, 0], &[2], 9);
    assert_eq!(queue.next(), Ok(Some(Asked::QueuePairs(1))));
    queue.answer(true, &[]).unwrap();
    assert_eq!(driver.used()[0].1, 0);
    // Room for more than the byte is no matter; nor is a chain of nothing else.
    let gpa = driver.alloc(64);
    driver.add(&[(gpa, 64, true)], 1);
    assert_eq!(queue.next(), Ok(Some(Asked::Nothing)));
    queue.answer(false, &[]).unwrap();
    assert_eq!((driver.read(gpa, 1), driver.used()[0].1), (vec![ERR], 1));
}

#[test]
fn a_disabled_queue_refuses() {
    let (mut driver, mut queue) = world(NONE);
    queue.queue.vring.set_enabled(false);
    ask(&mut driver, &[4, 0, 1, 0], &[2], 9);
    assert_eq!(queue.next(), Ok(Some(Asked::Nothing)));
}

#[test]
fn what_was_not_answered_is_taken_again() {
    let (mut driver, mut queue) = world(NONE);
    for pairs in [1, 2] {
        ask(&mut driver, &[4, 0, pairs, 0], &[2], 9);
    }
    assert_eq!(queue.next(), Ok(Some(Asked::QueuePairs(1))));
    queue.answer(true, &[]).unwrap();
    assert_eq!(queue.next(), Ok(Some(Asked::QueuePairs(2))));
    let vring = queue.into_vring();
    assert_eq!(vring.base(), 0xffff);
    let mut queue = ControlQueue::new(vring);
    assert_eq!(queue.next(), Ok(Some(Asked::QueuePairs(2))));
    // To answer twice is to answer once.
    queue.answer(true, &[]).unwrap();
    queue.answer(true, &[]).unwrap();
    assert_eq!(driver.used().len(), 2);
}

#[test]
fn hostile_chains_break_the_queue_once() {
    let outside = BASE + 2 * REGION;
    let chain = |first: (u64, u32, u16), next| {
        move |driver: &mut Driver| {
            driver.desc(DESC, 0, first, next);
            driver.desc(DESC, 1, (HEAP, 4, 0), 0);
            driver.offer(0);
        }
    };
    type Attack<'a> = (&'a str, &'a dyn Fn(&mut Driver), RingError);
    let hostile: [Attack<'_>; 9] = [
        (
            "loop",
            &chain((HEAP, 4, F_NEXT), 0),
            RingError::ChainTooLong,
        ),
        (
            "next",
            &chain((HEAP, 4, F_NEXT), 16),
            RingError::DescOutOfRange(16),
        ),
        (
            "head",
            &|driver| driver.offer(99),
            RingError::DescOutOfRange(99),
        ),
        (
            "jump",
            &|driver| driver.store(AVAIL + 2, 0x7000),
            RingError::AvailJump {
                from: 0xfffe,
                to: 0x7000,
            },
        ),
        (
            "command outside",
            &chain((outside, 4, 0), 0),
            RingError::BufferOutside,
        ),
        (
            "answer outside",
            &chain((outside - 1, 2, F_WRITE), 0),
            RingError::BufferOutside,
        ),
        (
            "answer first",
            &chain((HEAP, 1, F_WRITE | F_NEXT), 1),
            RingError::ReadableAfterWritable,
        ),
        (
            "indirect",
            &chain((HEAP, 16, F_INDIRECT), 0),
            RingError::BadIndirect,
        ),
        (
            "length wraps",
            &chain((u64::MAX - 1, 4, 0), 0),
            RingError::BufferOutside,
        ),
    ];
    for (name, attack, why) in hostile {
        let (mut driver, mut queue) = world(NONE);
        attack(&mut driver);
        assert_eq!(queue.next(), Err(why), "{name}");
        assert!(driver.err.drain(), "{name}");
        assert_eq!(driver.load(USED + 2), 0xfffe, "{name}");
        ask(&mut driver, &[4, 0, 1, 0], &[2], 9);
        assert_eq!(queue.next(), Ok(None), "{name}");
        assert!(queue.into_vring().is_broken(), "{name}");
    }
}
