//! Receive queues with a driver that may lie: what is delivered, and what is refused. No session and no socket.

use proptest::prelude::*;
use vf_packet::TcpLayout;
use vf_packet::testing::verify;

use super::*;
use crate::net_hdr::header_len;
use crate::net_hdr::tests::{routed_super_frame, super_frame};
use crate::ring::driver::{
    AVAIL, BASE, DESC, Driver, EVENT_IDX, F_WRITE, HEAP, IN_ORDER, INDIRECT_DESC, NONE, REGION,
    RING_PACKED, for_both_formats,
};

const VERSION_1: VirtioFeatures = VirtioFeatures::VERSION_1;
const MRG: VirtioFeatures = VirtioFeatures::MRG_RXBUF;
const GUEST_CSUM: VirtioFeatures = VirtioFeatures::GUEST_CSUM;
const GUEST_TSO: VirtioFeatures = VirtioFeatures::GUEST_TSO4.union(VirtioFeatures::GUEST_TSO6);
const OFFLOADS: VirtioFeatures = VirtioFeatures::CSUM
    .union(VirtioFeatures::HOST_TSO4)
    .union(VirtioFeatures::HOST_TSO6);

fn plain(n: usize) -> FrameBuf {
    let data = (0..n).map(|i| (i * 31 + i / 255) as u8).collect();
    FrameBuf {
        offload: Offload::default(),
        data,
    }
}

/// A checksum that is left to the device.
fn partial(start: u16, offset: u16) -> Offload {
    Offload::new(Some(PartialChecksum { start, offset }), None)
}

/// A receiving driver and what it has posted, oldest first: head, pieces.
struct Receiver {
    driver: Driver,
    queue: RxQueue,
    posted: std::collections::VecDeque<(u16, Vec<(u64, u32)>)>,
    header: usize,
}

impl Receiver {
    fn new(features: VirtioFeatures, base: u16) -> Receiver {
        let driver = Driver::new(256, features | INDIRECT_DESC, base);
        let queue = RxQueue::new(driver.vring(0));
        Receiver {
            driver,
            queue,
            posted: Default::default(),
            header: header_len(features),
        }
    }

    fn post(&mut self, sizes: &[u32], direct: usize) {
        let pieces: Vec<_> = sizes
            .iter()
            .map(|&n| (self.driver.alloc(n as usize), n))
            .collect();
        let writable: Vec<_> = pieces.iter().map(|&(gpa, n)| (gpa, n, true)).collect();
        let head = self.driver.add(&writable, direct.min(sizes.len()));
        self.posted.push_back((head, pieces));
    }

    /// What the driver receives: headers and frames, mergeable buffers put together.
    fn receive(&mut self) -> Vec<(NetHdr, u16, Vec<u8>)> {
        self.queue.flush();
        let mut used = self.driver.used().into_iter();
        let mut out = Vec::new();
        while let Some(first) = used.next() {
            let mut bytes = self.take(first);
            let mut ten = [0; 10];
            ten.copy_from_slice(&bytes[..10]);
            let buffers = if self.header == 12 {
                u16::from_le_bytes([bytes[10], bytes[11]])
            } else {
                1
            };
            for _ in 1..buffers {
                let next = used.next().expect("as many as num_buffers says");
                bytes.extend(self.take(next));
            }
            out.push((
                NetHdr::from_bytes(&ten),
                buffers,
                bytes.split_off(self.header),
            ));
        }
        out
    }

    fn take(&mut self, (id, len): (u16, u32)) -> Vec<u8> {
        let (head, pieces) = self.posted.pop_front().expect("not more than posted");
        assert_eq!(id, head, "in order");
        let mut bytes = Vec::new();
        for (gpa, n) in pieces {
            let n = (n as usize).min(len as usize - bytes.len());
            bytes.extend(self.driver.read(gpa, n));
        }
        assert_eq!(
            bytes.len(),
            len as usize,
            "not more than there was room for"
        );
        bytes
    }
}

/// Sends `frame` through a transmit queue of a driver with all offloads.
fn through_tx(
    frame: &FrameBuf,
    cuts: &[usize],
    rx: &mut RxQueue,
    edit: TagEdit,
) -> Result<RxOutcome, RingError> {
    let mut driver = Driver::new(64, VERSION_1 | OFFLOADS | INDIRECT_DESC, 7);
    let mut tx = TxQueue::new(driver.vring(1));
    driver.send(
        &[&NetHdr::from(&frame.offload).to_bytes(0), &frame.data[..]].concat(),
        cuts,
        1,
    );
    assert_eq!(tx.fetch(), Ok(1));
    let (done, then) = rx.deliver_from(&tx, tx.fetched(), edit)?;
    assert_eq!(done, usize::from(then.is_none()));
    Ok(then.unwrap_or(RxOutcome::Delivered))
}

for_both_formats! {
    nothing_more_is_delivered_once_memory_has_vanished,
    one_chain_without_mergeable_buffers,
    a_burst_arrives_in_order_up_to_what_does_not_fit,
    mergeable_buffers_are_all_used_or_none,
    a_chain_that_can_hold_nothing_breaks_the_ring,
    a_disabled_ring_supplies_nothing,
    a_partial_checksum_is_passed_on_or_completed,
    a_frame_that_belies_its_header_is_not_delivered,
    a_super_frame_is_segmented,
    a_super_frame_stays_whole_for_who_takes_it,
    long_headers_are_no_reason_not_to_deliver,
    each_segment_of_a_super_frame_stands_for_itself,
    a_frame_is_given_so_many_descriptors_and_no_more,
    a_burst_ends_when_it_has_been_effort_enough,
    a_super_frame_of_too_many_segments_is_not_cut,
}

fn nothing_more_is_delivered_once_memory_has_vanished(format: VirtioFeatures) {
    for (pieces, len) in [(1, 2000), (100, 20)] {
        let mut receiver = Receiver::new(format | VERSION_1 | MRG, 0);
        let driver = &mut receiver.driver;
        let chain: Vec<_> = (0..pieces)
            .map(|page| (BASE + REGION + page * 8192, len, true))
            .collect();
        for _ in 0..120 {
            driver.add(&chain, 1);
        }
        driver.files[1].set_len(0).unwrap();
        let frame = plain(1000);
        let mut delivered = 0;
        while let Ok(outcome) = receiver.queue.deliver(&frame, TagEdit::Keep) {
            assert_eq!(outcome, RxOutcome::Delivered);
            delivered += 1;
        }
        assert_eq!(delivered, 1, "{pieces} pieces");
        assert_eq!(receiver.queue.vring().fault(), Some(RingError::MemoryFault));
    }
}

fn one_chain_without_mergeable_buffers(format: VirtioFeatures) {
    for features in [NONE, VERSION_1] {
        let mut rx = Receiver::new(format | features, 0xffff);
        let frame = plain(1514);
        assert_eq!(
            rx.queue.deliver(&frame, TagEdit::Keep),
            Ok(RxOutcome::NoBuffer)
        );
        rx.post(&[rx.header as u32, 1500, 13], 3);
        assert_eq!(
            rx.queue.deliver(&frame, TagEdit::Keep),
            Ok(RxOutcome::TooBig)
        );
        assert_eq!(rx.receive(), [], "the chain was kept");
        let frame = plain(1513);
        assert_eq!(
            rx.queue.deliver(&frame, TagEdit::Keep),
            Ok(RxOutcome::Delivered)
        );
        assert_eq!(rx.receive(), [(NetHdr::default(), 1, frame.data)]);
        assert!(rx.driver.call.drain());
    }
}

fn a_burst_arrives_in_order_up_to_what_does_not_fit(format: VirtioFeatures) {
    for edit in [TagEdit::Keep, TagEdit::Insert([0x81, 0, 0, 5])] {
        let mut driver = Driver::new(64, VERSION_1 | INDIRECT_DESC, 7);
        let mut tx = TxQueue::new(driver.vring(1));
        let frames: Vec<_> = [60, 14, 1514, 128, 600, 64, 100].map(plain).into();
        for (i, frame) in frames.iter().enumerate() {
            let cuts = if i == 4 { &[30, 90][..] } else { &[] };
            driver.send(
                &[&NetHdr::from(&frame.offload).to_bytes(0), &frame.data[..]].concat(),
                cuts,
                3,
            );
        }
        let mut rx = Receiver::new(format | VERSION_1, 0xfffd);
        for size in [200, 100, 2000, 300, 1000, 50] {
            rx.post(&[size], 1);
        }
        assert_eq!(tx.fetch(), Ok(7));
        let burst = rx.queue.deliver_from(&tx, tx.fetched(), edit);
        assert_eq!(burst, Ok((5, Some(RxOutcome::TooBig))));
        let got = rx.receive();
        assert_eq!(got.len(), 5);
        for ((hdr, buffers, data), mut frame) in got.into_iter().zip(frames) {
            frame.edit(edit);
            assert_eq!((hdr, buffers, data), (NetHdr::default(), 1, frame.data));
        }
    }
}

fn mergeable_buffers_are_all_used_or_none(format: VirtioFeatures) {
    let mut rx = Receiver::new(format | MRG, 0);
    let frame = plain(1000);
    for _ in 0..4 {
        rx.post(&[250], 1);
    }
    assert_eq!(
        rx.queue.deliver(&frame, TagEdit::Keep),
        Ok(RxOutcome::NoBuffer)
    );
    assert_eq!(rx.receive(), []);
    assert_eq!(rx.queue.vring().base(), rx.driver.vring_base(0));
    assert!(rx.queue.has_room() && !rx.queue.set_notify(true));
    rx.post(&[250], 1);
    assert!(rx.queue.set_notify(true), "a buffer came");
    assert_eq!(
        rx.queue.deliver(&frame, TagEdit::Keep),
        Ok(RxOutcome::Delivered)
    );
    assert_eq!(rx.receive(), [(NetHdr::default(), 5, frame.data)]);
    assert!(!rx.queue.has_room());
}

fn a_chain_that_can_hold_nothing_breaks_the_ring(format: VirtioFeatures) {
    for features in [VERSION_1, VERSION_1 | MRG] {
        let mut rx = Receiver::new(format | features, 0);
        rx.driver.add(&[(HEAP, 100, false), (HEAP, 11, true)], 2);
        rx.post(&[100], 1);
        let broken = Err(RingError::BufferTooSmall);
        assert_eq!(rx.queue.deliver(&plain(60), TagEdit::Keep), broken);
        assert_eq!(rx.queue.deliver(&plain(60), TagEdit::Keep), broken);
    }
}

fn a_disabled_ring_supplies_nothing(format: VirtioFeatures) {
    let mut rx = Receiver::new(format | VERSION_1, 0);
    rx.post(&[2000], 1);
    let mut vring = rx.queue.into_vring();
    vring.set_enabled(false);
    rx.queue = RxQueue::new(vring);
    assert!(!rx.queue.has_room());
    assert_eq!(
        rx.queue.deliver(&plain(60), TagEdit::Keep),
        Ok(RxOutcome::NoBuffer)
    );
    let mut vring = rx.queue.into_vring();
    vring.set_enabled(true);
    rx.queue = RxQueue::new(vring);
    assert_eq!(
        rx.queue.deliver(&plain(60), TagEdit::Keep),
        Ok(RxOutcome::Delivered)
    );
}

#[test]
fn a_header_replaces_whatever_an_earlier_frame_left() {
    let offload = partial(34, 6);
    let expected = NetHdr::from(&offload).to_bytes(1);
    let driver = Driver::new(1, NONE, 0);
    for header_len in [10, 12] {
        for differs in 0..expected.len() {
            let mut memory = expected;
            memory[differs] ^= 0x81;
            driver.write(HEAP, &memory);
            let to = driver.mem.slice_mut(HEAP, memory.len()).unwrap();
            to.write(|to| write_hdr(to, &offload, header_len)).unwrap();
            let memory = driver.read(HEAP, memory.len());
            assert_eq!(
                memory == expected,
                differs < header_len,
                "byte {differs} of {header_len}"
            );
        }
    }
}

#[test]
fn a_bad_chain_breaks_the_ring_and_leaves_no_part_of_a_frame() {
    let mut rx = Receiver::new(VERSION_1 | MRG, 0);
    rx.post(&[100], 1);
    rx.driver.desc(DESC, 100, (0, 4096, F_WRITE), 0);
    rx.driver.offer(100);
    let gpa = rx.posted[0].1[0].0;
    rx.driver.write(gpa, &[0xcc; 100]);
    assert_eq!(
        rx.queue.deliver(&plain(500), TagEdit::Keep),
        Err(RingError::BufferOutside)
    );
    assert!(rx.driver.err.drain());
    assert_eq!(rx.receive(), []);
    assert_eq!(rx.driver.read(gpa, 100), [0xcc; 100], "nothing written");
    assert_eq!(
        rx.queue.deliver(&plain(60), TagEdit::Keep),
        Err(RingError::BufferOutside)
    );
    rx.driver.store(AVAIL + 2, 500);
    assert!(!rx.queue.has_room());
}

fn a_partial_checksum_is_passed_on_or_completed(format: VirtioFeatures) {
    let mut frame = super_frame(false, 0, 500, 1);
    frame.offload = Offload::new(frame.offload.checksum(), None);
    for edit in [TagEdit::Keep, TagEdit::Insert([0x81, 0, 0, 9])] {
        let mut rx = Receiver::new(format | VERSION_1 | GUEST_CSUM, 0);
        rx.post(&[2000], 1);
        rx.queue.deliver(&frame, edit).unwrap();
        let (hdr, _, data) = rx.receive().remove(0);
        let at = usize::from(hdr.csum_start) + 16;
        assert_eq!((hdr.flags, hdr.csum_offset), (1, 16));
        assert_eq!(
            data[at..at + 2],
            frame.data[50..52],
            "the field moved with the tag"
        );

        let mut rx = Receiver::new(format | VERSION_1, 0);
        rx.post(&[2000], 1);
        rx.post(&[2000], 1);
        rx.queue.deliver(&frame, edit).unwrap();
        let outcome = through_tx(&frame, &[12], &mut rx.queue, edit);
        assert_eq!(outcome, Ok(RxOutcome::Delivered));
        let got = rx.receive();
        assert_eq!(got[0], got[1]);
        assert_eq!(got[0].0, NetHdr::default());
        assert_eq!(got[0].2.len(), data.len());
        // The total length of the IP header is right in this frame, and its checksum is not ours.
        let tcp = verify_tcp(&got[0].2);
        assert_eq!(tcp, at - 16);
    }
}

/// Checks the TCP checksum alone; answers where TCP is.
fn verify_tcp(frame: &[u8]) -> usize {
    let mut fixed = frame.to_vec();
    let layout = TcpLayout::parse(frame).unwrap();
    let ip = &mut fixed[layout.ip..layout.tcp];
    ip[10..12].fill(0);
    let sum = checksum::Sum::default().with(ip).checksum();
    ip[10..12].copy_from_slice(&sum.to_be_bytes());
    verify(&fixed).tcp
}

fn a_frame_that_belies_its_header_is_not_delivered(format: VirtioFeatures) {
    let mut rx = Receiver::new(format | VERSION_1, 0);
    rx.post(&[2000], 1);
    let offload = partial(60, 0);
    let frame = FrameBuf {
        offload,
        ..plain(60)
    };
    assert_eq!(
        rx.queue.deliver(&frame, TagEdit::Keep),
        Ok(RxOutcome::BadFrame)
    );
    let frame = FrameBuf {
        offload: super_frame(false, 0, 100, 9).offload,
        ..plain(60)
    };
    assert_eq!(
        rx.queue.deliver(&frame, TagEdit::Keep),
        Ok(RxOutcome::BadFrame)
    );
    for n in 0..20 {
        for edit in [TagEdit::Keep, TagEdit::Insert([0; 4]), TagEdit::Strip] {
            rx.post(&[64], 1);
            assert_eq!(rx.queue.deliver(&plain(n), edit), Ok(RxOutcome::Delivered));
        }
    }
}

fn a_super_frame_is_segmented(format: VirtioFeatures) {
    let frame = super_frame(false, 1, 10_000, 1000);
    let mut rx = Receiver::new(format | VERSION_1 | GUEST_CSUM, 0);
    for _ in 0..10 {
        rx.post(&[1600], 1);
    }
    let outcome = through_tx(&frame, &[5, 300, 4000], &mut rx.queue, TagEdit::Strip);
    assert_eq!(outcome, Ok(RxOutcome::Delivered));
    let got = rx.receive();
    assert_eq!(got.len(), 10);
    let mut payload = Vec::new();
    for (hdr, buffers, data) in got {
        assert_eq!((hdr, buffers), (NetHdr::default(), 1));
        let layout = verify(&data);
        assert_eq!(layout.ip, 14, "tag stripped");
        payload.extend_from_slice(&data[layout.payload..]);
    }
    assert_eq!(payload, frame.data[frame.data.len() - 10_000..]);
}

/// Delivers a frame; how many descriptors were looked at for it.
fn walked(rx: &mut Receiver, frame: &FrameBuf) -> (RxOutcome, u64) {
    let before = rx.queue.vring().ring.walked();
    let outcome = rx.queue.deliver(frame, TagEdit::Keep).unwrap();
    (outcome, rx.queue.vring().ring.walked() - before)
}

fn a_frame_is_given_so_many_descriptors_and_no_more(format: VirtioFeatures) {
    let mut rx = Receiver::new(format | VERSION_1 | MRG, 0);
    for _ in 0..66 {
        rx.post(&[20; 16], 1);
    }
    let most = 1024 * 20 - 12;
    let too_long = walked(&mut rx, &plain(most + 1));
    assert_eq!(too_long, (RxOutcome::TooBig, 1024 + 16));
    assert_eq!(walked(&mut rx, &plain(most)), (RxOutcome::Delivered, 1024));
    assert_eq!(walked(&mut rx, &plain(600)), (RxOutcome::Delivered, 32));
    let got = rx.receive();
    let lengths: Vec<_> = got.iter().map(|(_, n, data)| (*n, data.len())).collect();
    assert_eq!(lengths, [(64, most), (2, 600)]);

    // Next to nothing in each chain.
    let mut rx = Receiver::new(format | VERSION_1 | MRG, 0);
    let crumbs = [&[12][..], &[0; 254], &[1]].concat();
    for _ in 0..20 {
        rx.post(&crumbs, 1);
    }
    for _ in 0..3 {
        let (outcome, walked) = walked(&mut rx, &plain(1514));
        assert_eq!(outcome, RxOutcome::TooBig);
        assert_eq!(walked, 1024 + 256);
    }
    assert_eq!(rx.queue.effort(), 3 * (1024 + 256 - EFFORTLESS));
}

fn a_burst_ends_when_it_has_been_effort_enough(format: VirtioFeatures) {
    let mut rx = Receiver::new(format | VERSION_1 | MRG, 0);
    let scattered = [&[112][..], &[0; 250]].concat();
    for _ in 0..30 {
        rx.post(&scattered, 1);
    }
    let frames: Vec<_> = (0..30).map(|_| Box::new(plain(100))).collect();
    let (done, then) = rx.queue.deliver_all(&frames, TagEdit::Keep).unwrap();
    let each = 251 - EFFORTLESS;
    assert_eq!(done as u64, BURST_EFFORT.div_ceil(each));
    assert_eq!(then, None);
    // A frame in 64 pieces is what any frame may be.
    let mut rx = Receiver::new(format | VERSION_1 | MRG, 0);
    for _ in 0..30 {
        rx.post(&[2; 64], 1);
    }
    let delivered = rx.queue.deliver_all(&frames, TagEdit::Keep);
    assert_eq!(delivered, Ok((30, None)));
    assert_eq!(rx.queue.effort(), 0);
}

fn a_super_frame_of_too_many_segments_is_not_cut(format: VirtioFeatures) {
    let mut rx = Receiver::new(format | VERSION_1, 0);
    (0..100).for_each(|_| rx.post(&[1600], 1));
    let frame = super_frame(false, 0, 2049, 1);
    let outcome = rx.queue.deliver(&frame, TagEdit::Keep);
    assert_eq!(outcome, Ok(RxOutcome::TooManySegments));
    assert_eq!(rx.receive(), []);
    let frame = super_frame(false, 0, 2048, 1);
    let outcome = rx.queue.deliver(&frame, TagEdit::Keep);
    assert_eq!(outcome, Ok(RxOutcome::Partial(100)));
    assert_eq!(rx.queue.effort(), 100 - EFFORTLESS);
    // Who takes it whole gets it.
    let mut rx = Receiver::new(format | VERSION_1 | GUEST_CSUM | GUEST_TSO, 0);
    rx.post(&[4000], 1);
    let frame = super_frame(false, 0, 2049, 1);
    let outcome = rx.queue.deliver(&frame, TagEdit::Keep);
    assert_eq!(outcome, Ok(RxOutcome::Delivered));
}

fn long_headers_are_no_reason_not_to_deliver(format: VirtioFeatures) {
    for cuts in [&[][..], &[12, 66, 140, 3000]] {
        for tag in [TagEdit::Keep, TagEdit::Insert([0x81, 0, 0, 5])] {
            let frame = routed_super_frame(20, 10_000, 1000);
            let mut expected = frame.clone();
            expected.edit(tag);
            for sizes in [&[16_000][..], &[1536; 10], &[100; 110]] {
                let mut rx = Receiver::new(format | VERSION_1 | MRG | GUEST_CSUM | GUEST_TSO, 0);
                sizes.iter().for_each(|&n| rx.post(&[n], 1));
                let outcome = through_tx(&frame, cuts, &mut rx.queue, tag);
                assert_eq!(outcome, Ok(RxOutcome::Delivered));
                let got = rx.receive();
                assert_eq!(got.len(), 1);
                assert_eq!(got[0].0, NetHdr::from(&expected.offload));
                assert_eq!(got[0].2, expected.data);
            }
            let mut rx = Receiver::new(format | VERSION_1, 0);
            (0..10).for_each(|_| rx.post(&[1600], 1));
            let outcome = through_tx(&frame, cuts, &mut rx.queue, tag);
            assert_eq!(outcome, Ok(RxOutcome::Delivered));
            let got = rx.receive();
            assert_eq!(got.len(), 10);
            for (_, _, segment) in got {
                assert_eq!(
                    verify(&segment).payload,
                    414 + expected.data.len() - frame.data.len()
                );
            }
        }
    }
}

fn a_super_frame_stays_whole_for_who_takes_it(format: VirtioFeatures) {
    for v6 in [false, true] {
        let frame = super_frame(v6, 0, 30_000, 1448);
        let mut rx = Receiver::new(format | VERSION_1 | MRG | GUEST_CSUM | GUEST_TSO, 0);
        for _ in 0..30 {
            rx.post(&[1536], 1);
        }
        let tag = [0x81, 0, 0x20, 5];
        let outcome = through_tx(
            &frame,
            &[12, 66, 9000, 9000],
            &mut rx.queue,
            TagEdit::Insert(tag),
        );
        assert_eq!(outcome, Ok(RxOutcome::Delivered));
        let (hdr, buffers, data) = rx.receive().remove(0);
        assert_eq!(buffers, 20);
        let sent = NetHdr::from(&frame.offload);
        assert_eq!(
            hdr,
            NetHdr {
                hdr_len: sent.hdr_len + 4,
                csum_start: sent.csum_start + 4,
                ..sent
            }
        );
        assert_eq!(data, [&frame.data[..12], &tag, &frame.data[12..]].concat());
    }
}

proptest! {
    /// Random frames over random buffers, against a model that only counts bytes.
    #[test]
    fn frames_arrive_as_they_were_sent(
        base: u16,
        features in proptest::sample::select(vec![NONE, VERSION_1, MRG, VERSION_1 | MRG, VERSION_1 | MRG | EVENT_IDX]),
        format in proptest::sample::select(vec![NONE, RING_PACKED, RING_PACKED | IN_ORDER]),
        steps in proptest::collection::vec((
            14usize..4000,
            proptest::collection::vec(1usize..60, 0..14),
            proptest::collection::vec(proptest::collection::vec(1u32..2500, 1..12), 0..5),
            0usize..4, any::<bool>(), 0usize..3), 1..60),
    ) {
        let mut rx = Receiver::new(features | format, base);
        // Frames that must come out, and how many bytes each posted chain can still hold.
        let mut expected = Vec::new();
        let mut room = std::collections::VecDeque::new();
        for (len, cuts, chains, direct, private, edit) in steps {
            for sizes in chains {
                if rx.driver.free() > 5 && sizes.iter().sum::<u32>() >= 12 {
                    rx.post(&sizes, direct);
                    room.push_back(sizes.iter().sum::<u32>() as usize);
                }
            }
            let frame = plain(len);
            let edit = [TagEdit::Keep, TagEdit::Insert([0x88, 0xa8, 1, 2]), TagEdit::Strip][edit];
            let edited = edit.pieces(&frame.data).concat();
            let total = rx.header + edited.len();
            let mut sum = 0;
            let need = 1 + room.iter().take_while(|&&n| { sum += n; sum < total }).count();
            let outcome = if private {
                rx.queue.deliver(&frame, edit)
            } else {
                through_tx(&frame, &cuts, &mut rx.queue, edit)
            };
            let wanted = if need > room.len() && (room.is_empty() || features.contains(MRG)) {
                RxOutcome::NoBuffer
            } else if !features.contains(MRG) && need > 1 {
                RxOutcome::TooBig
            } else {
                room.drain(..need);
                expected.push((NetHdr::default(), need as u16, edited));
                RxOutcome::Delivered
            };
            prop_assert_eq!(outcome, Ok(wanted));
            if expected.len() % 3 == 0 {
                prop_assert_eq!(rx.receive(), std::mem::take(&mut expected));
            }
            if wanted == RxOutcome::TooBig {
                // The driver would be stuck with it; let a small frame use it up.
                let small = plain(0);
                prop_assert_eq!(rx.queue.deliver(&small, TagEdit::Keep), Ok(RxOutcome::Delivered));
                room.pop_front();
                expected.push((NetHdr::default(), 1, small.data));
            }
        }
        prop_assert_eq!(rx.receive(), expected);
        prop_assert_eq!(rx.queue.has_room(), !room.is_empty());
    }
}

fn each_segment_of_a_super_frame_stands_for_itself(format: VirtioFeatures) {
    // Nine segments for a driver that posts eight buffers and takes no super-frames (iPXE).
    let frame = super_frame(false, 0, 9 * 1000 - 1, 1000);
    let mut rx = Receiver::new(format | VERSION_1, 0xfff9);
    let whole = {
        let mut all = Receiver::new(format | VERSION_1, 0);
        (0..9).for_each(|_| all.post(&[2000], 1));
        let outcome = all.queue.deliver(&frame, TagEdit::Keep);
        assert_eq!(outcome, Ok(RxOutcome::Delivered));
        all.receive()
    };
    (0..8).for_each(|_| rx.post(&[2000], 1));
    let first = rx.queue.deliver(&frame, TagEdit::Keep);
    assert_eq!(first, Ok(RxOutcome::Partial(8)));
    assert_eq!(rx.receive(), whole[..8]);
    let again = rx.queue.deliver_from_segment(&frame, TagEdit::Keep, 8);
    assert_eq!(again, Ok(RxOutcome::NoBuffer));
    (0..2).for_each(|_| rx.post(&[2000], 1));
    let rest = rx.queue.deliver_from_segment(&frame, TagEdit::Keep, 8);
    assert_eq!(rest, Ok(RxOutcome::Delivered));
    assert_eq!(rx.receive(), whole[8..]);
    // A buffer that is too small ends it, too, with what was delivered before.
    rx.post(&[100], 1);
    let outcome = rx.queue.deliver(&frame, TagEdit::Keep);
    assert_eq!(outcome, Ok(RxOutcome::Partial(1)));
    assert_eq!(
        rx.queue.deliver_from_segment(&frame, TagEdit::Keep, 1),
        Ok(RxOutcome::TooBig)
    );
}
