//! Hardware rings with a driver that may lie, below the queues of frames: what is taken, what is delivered, what is refused. No session and
//! no socket.

use std::sync::Mutex;
use std::sync::atomic::AtomicBool;

use vf_packet::testing::{routed_super_frame, super_frame, verify};
use vf_packet::{PartialChecksum, Segmenter, TcpLayout};

use super::plain::*;
use super::*;
use crate::chain::CHAIN_MAX;
use crate::error::FrameFault;
use crate::frame::{FrameBuf, TagEdit};
use crate::ring::driver::{BASE, DESC, Driver, NONE, REGION};
use crate::rx::{RxOutcome, RxQueue};
use crate::tx::{TxFrame, TxQueue};
use crate::vring::Vring;

/// A driver of one ring.
struct Guest {
    memory: Driver,
    doorbell: Arc<Doorbell>,
    size: u16,
    /// Where its next descriptor goes.
    at: u16,
    notes: Arc<Mutex<Vec<Completion>>>,
}

impl Guest {
    fn new(size: u16) -> Guest {
        Guest {
            memory: Driver::new(1, NONE, 0),
            doorbell: Arc::new(Doorbell::new().unwrap()),
            size,
            at: 0,
            notes: Arc::default(),
        }
    }

    fn vring(&self, index: u32, prefix: usize, strips: bool) -> Vring {
        let config = HardwareConfig {
            index,
            size: self.size,
            tables: vec![DESC],
            base: 0,
        };
        let format = PlainFormat {
            interrupts: Arc::new(AtomicBool::new(true)),
            prefix,
            strips,
            notes: Arc::clone(&self.notes),
        };
        let (mem, doorbell) = (self.memory.mem.clone(), self.doorbell.clone());
        Vring::hardware(&config, mem, Box::new(format), doorbell).unwrap()
    }

    fn tx(&self) -> TxQueue {
        TxQueue::new(self.vring(1, 0, false))
    }

    /// Writes a descriptor, which is not available yet.
    fn put(&mut self, gpa: u64, len: u32, flags: u32) {
        let place = DESC + u64::from(self.at) * 16;
        self.memory.write(place, &descriptor(gpa, len, flags));
        self.at = (self.at + 1) % self.size;
    }

    fn ring(&self) {
        self.doorbell.ring(self.at.into());
    }

    /// Puts bytes into buffers of these lengths, and one for the rest; `flags` of the last.
    fn send(&mut self, bytes: &[u8], pieces: &[usize], flags: u32) {
        let mut rest = bytes;
        for &n in pieces {
            let (now, later) = rest.split_at(n);
            let gpa = self.memory.alloc(n.max(1));
            self.memory.write(gpa, now);
            self.put(gpa, n as u32, flags & !END);
            rest = later;
        }
        let gpa = self.memory.alloc(rest.len());
        self.memory.write(gpa, rest);
        self.put(gpa, rest.len() as u32, flags | END);
        self.ring();
    }

    /// Posts a buffer to be written.
    fn post(&mut self, len: u32) -> u64 {
        let gpa = self.memory.alloc(len as usize);
        self.put(gpa, len, END);
        self.ring();
        gpa
    }

    fn flags(&self, at: u16) -> u32 {
        let raw = self.memory.read(DESC + u64::from(at) * 16 + 12, 4);
        u32::from_le_bytes(raw.try_into().unwrap())
    }
}

fn bytes(n: usize) -> Vec<u8> {
    (0..n).map(|i| (i * 31 + i / 255) as u8).collect()
}

/// The whole next frame.
fn copy(queue: &mut TxQueue) -> FrameBuf {
    assert!(queue.fetch().unwrap() > 0, "a frame");
    let mut copy = FrameBuf::default();
    let frame = &queue.fetched()[0];
    assert_eq!(frame.fault(), None);
    queue.copy_to(frame, &mut copy);
    queue.complete(1);
    copy
}

fn faults(queue: &mut TxQueue) -> Vec<Option<FrameFault>> {
    let n = queue.fetch().unwrap();
    let faults = queue.fetched().iter().map(TxFrame::fault).collect();
    queue.complete(n);
    faults
}

#[test]
fn of_what_nobody_wants_to_be_told_only_the_head_tells() {
    let mut guest = Guest::new(8);
    let mut queue = guest.tx();
    for (told, flags) in [(false, UNREPORTED), (true, 0), (false, UNREPORTED)] {
        let at = guest.at;
        guest.send(&bytes(60), &[], flags);
        assert_eq!(copy(&mut queue).data, bytes(60));
        queue.flush();
        assert_eq!(guest.flags(at) & DONE != 0, told);
        assert_eq!(guest.doorbell.head(), u32::from(guest.at));
    }
}

#[test]
fn frames_come_out_whole_and_their_descriptors_go_back() {
    let mut guest = Guest::new(8);
    let mut queue = guest.tx();
    assert_eq!(queue.fetch(), Ok(0));
    for round in 0..20 {
        let frame = bytes(60 + 97 * round);
        guest.send(&frame, &[14, 0, 20][..round % 4 % 4 % 3], 0);
        assert_eq!(copy(&mut queue).data, frame);
        let last = (guest.at + 7) % 8;
        assert_eq!(guest.flags(last) & DONE, 0, "not before it is published");
        assert_eq!(queue.flush(), Some(true));
        assert_eq!(guest.flags(last), END | DONE);
        assert_eq!(guest.doorbell.head(), u32::from(guest.at));
    }
}

#[test]
fn a_tail_beyond_the_ring_or_behind_what_was_there_breaks_it() {
    for (first, then) in [(0, 8), (0, 0xffff), (0, u32::MAX), (0, 0x1_0000), (5, 3)] {
        let guest = Guest::new(8);
        let mut queue = guest.tx();
        for at in 0..8u64 {
            let place = DESC + at * 16;
            guest.memory.write(place, &descriptor(BASE, 60, END));
        }
        guest.doorbell.ring(first);
        assert_eq!(queue.fetch(), Ok(first as usize));
        guest.doorbell.ring(then);
        queue.complete(2);
        queue.set_notify(true);
        let next = queue.fetch();
        assert!(matches!(next, Err(RingError::AvailJump { .. })), "{then}");
        assert!(!queue.has_work() && !queue.set_notify(true));
    }
}

#[test]
fn a_frame_without_an_end_waits_for_it_and_is_nobodys_work_meanwhile() {
    let mut guest = Guest::new(64);
    let mut queue = guest.tx();
    for _ in 0..62 {
        guest.put(BASE, 10, 0);
        guest.ring();
        assert_eq!(queue.fetch(), Ok(0));
        assert!(!queue.has_work() && !queue.set_notify(true));
    }
    guest.put(BASE, 10, END);
    guest.ring();
    assert!(queue.has_work());
    assert_eq!(queue.fetch(), Ok(1));
    assert_eq!(queue.fetched()[0].len(), 630);

    // Longer than any frame may be.
    let mut guest = Guest::new(4096);
    let mut queue = guest.tx();
    guest.send(&bytes(60), &[], 0);
    for _ in 0..CHAIN_MAX + 1 {
        guest.put(BASE, 1, 0);
    }
    guest.ring();
    assert_eq!(queue.fetch(), Ok(1), "what was before comes first");
    queue.complete(1);
    let looks = (0..100).find_map(|_| queue.fetch().err());
    assert_eq!(looks, Some(RingError::ChainTooLong));
}

#[test]
fn descriptors_that_only_say_something_are_no_work_and_do_not_go_on_for_ever() {
    let mut guest = Guest::new(4096);
    let mut queue = guest.tx();
    for _ in 0..CHAIN_MAX {
        guest.put(7, 0, TAG);
    }
    guest.ring();
    assert_eq!(queue.fetch(), Ok(0));
    for _ in 0..100 {
        assert_eq!(queue.fetch(), Ok(0));
    }
    assert!(!queue.has_work() && !queue.set_notify(true));
    guest.put(7, 0, TAG);
    guest.ring();
    assert_eq!(queue.fetch(), Err(RingError::ChainTooLong));
}

#[test]
fn buffers_outside_memory_break_the_ring_behind_the_frames_before_them() {
    for (gpa, len) in [
        (0, 60),
        (BASE - 1, 60),
        (BASE + 2 * REGION - 59, 60),
        (u64::MAX - 10, 60),
        (BASE, u32::MAX),
    ] {
        for pieces in [&[][..], &[20]] {
            let mut guest = Guest::new(8);
            let mut queue = guest.tx();
            guest.send(&bytes(60), &[], 0);
            for &n in pieces {
                guest.put(BASE, n, 0);
            }
            guest.put(gpa, len, END);
            guest.ring();
            assert_eq!(queue.fetch(), Ok(1));
            queue.complete(1);
            assert_eq!(queue.fetch(), Err(RingError::BufferOutside), "{gpa:#x}");
        }
    }
}

#[test]
fn what_is_no_frame_is_returned_and_the_ring_goes_on() {
    let mut guest = Guest::new(16);
    let mut queue = guest.tx();
    guest.put(BASE, 0, END);
    guest.put(0, 0, END);
    guest.put(BASE, 13, END);
    // The same region twice is longer than any super-frame.
    guest.put(BASE, 40_000, 0);
    guest.put(BASE, 40_000, END);
    // Nothing to cut, or nothing to cut it into.
    guest.put(BASE, 60, END | CUT | 1000 << 16);
    guest.put(BASE, 60, END | CUT);
    // A tag does not make up for what is not there.
    guest.put(5, 0, TAG);
    guest.put(BASE, 13, END);
    guest.put(0, 0, TAG);
    guest.send(&bytes(60), &[], 0);
    let runt = Some(FrameFault::Runt);
    let bad = Some(FrameFault::BadGsoHeaders);
    assert_eq!(
        faults(&mut queue),
        [
            runt,
            runt,
            runt,
            Some(FrameFault::Oversize),
            bad,
            bad,
            runt,
            None
        ]
    );
    queue.flush();
    assert_eq!(guest.doorbell.head(), u32::from(guest.at));
}

#[test]
fn a_ring_that_is_no_ring_is_refused() {
    let guest = Guest::new(8);
    let make = |size, tables: &[u64], base| {
        let config = HardwareConfig {
            index: 1,
            size,
            tables: tables.to_vec(),
            base,
        };
        let format = Box::new(PlainFormat::default());
        let (mem, doorbell) = (guest.memory.mem.clone(), guest.doorbell.clone());
        Vring::hardware(&config, mem, format, doorbell).map(|_| ())
    };
    assert_eq!(make(8, &[DESC], 7), Ok(()));
    assert_eq!(make(0, &[DESC], 0), Err(RingError::Size(0)));
    assert_eq!(make(0x8001, &[DESC], 0), Err(RingError::Size(0x8001)));
    assert_eq!(make(8, &[], 0), Err(RingError::Size(8)));
    assert_eq!(make(8, &[DESC; 3], 0), Err(RingError::Size(8)));
    assert_eq!(make(8, &[DESC], 8), Err(RingError::DescOutOfRange(8)));
    assert_eq!(make(8, &[DESC + 8], 0), Err(RingError::Misaligned));
    for outside in [0, BASE - 16, BASE + 2 * REGION - 64, u64::MAX - 15] {
        assert_eq!(make(8, &[outside], 0), Err(RingError::RingOutside));
    }
}

#[test]
fn what_descriptors_say_of_frames_behind_them_goes_back_with_a_ring() {
    let mut guest = Guest::new(256);
    let mut queue = guest.tx();
    let mut sent = Vec::new();
    // More than are decoded at a time.
    let tags = [0u64, 0, 1, 2, 2, 3, 0, 4, 4, 4, 5, 6].repeat(5);
    let mut now = 0;
    for tag in tags {
        if tag != now {
            guest.put(tag, 0, TAG);
            now = tag;
        }
        let frame = bytes(60 + sent.len());
        guest.send(&frame, &[20][..usize::from(tag % 2 == 0)], 0);
        let mut tagged = frame.clone();
        if tag > 0 {
            tagged.splice(12..12, [0x81, 0, 0, tag as u8]);
        }
        sent.push(tagged);
    }
    // All have been taken, and some are completed when it is stopped; the frames come again as they were.
    let mut done = 0;
    while done < sent.len() {
        assert!(queue.fetch().unwrap() > 0);
        assert_eq!(copy(&mut queue).data, sent[done]);
        done += 1;
        let memory = guest.memory.mem.clone();
        queue = TxQueue::new(queue.into_vring().remapped(memory).unwrap());
        assert_eq!(queue.vring().base(), guest.doorbell.head());
    }
    assert_eq!(queue.fetch(), Ok(0));
}

#[test]
fn a_tag_is_put_in_and_counted() {
    for len in [14, 60, 124, 128, 1514] {
        let mut guest = Guest::new(8);
        let mut queue = guest.tx();
        guest.put(0x2005, 0, TAG);
        let frame = bytes(len);
        guest.send(&frame, &[5], 0);
        let mut tagged = frame;
        tagged.splice(12..12, [0x81, 0, 0x20, 5]);
        assert_eq!(copy(&mut queue).data, tagged);
    }
}

#[test]
fn a_super_frame_is_what_its_segments_say() {
    for (frame, tag) in [
        (super_frame(false, 0, 5000), 0),
        (super_frame(true, 1, 5000), 0),
        (super_frame(false, 0, 5000), 9),
        (routed_super_frame(5, 5000), 0),
        (routed_super_frame(5, 5000), 9),
    ] {
        let mut guest = Guest::new(8);
        let mut queue = guest.tx();
        if tag > 0 {
            guest.put(tag, 0, TAG);
        }
        guest.send(&frame, &[60, 100], CUT | 1000 << 16);
        let got = copy(&mut queue);
        let tag_len = if tag > 0 { 4 } else { 0 };
        assert_eq!(got.data.len(), frame.len() + tag_len);
        let size = got.offload.gso().unwrap().size;
        let mut segments = Segmenter::new(&got.data, size).unwrap();
        let mut payload = Vec::new();
        while let Some((header, part)) = segments.next_segment() {
            let _ = verify(&[header, part].concat());
            payload.extend_from_slice(part);
        }
        let layout = TcpLayout::parse(&frame).unwrap();
        assert_eq!(payload, frame[layout.payload..]);
    }
}

/// What the driver finds in a buffer.
fn received(guest: &Guest, gpa: u64, len: usize) -> Vec<u8> {
    guest.memory.read(gpa, len)
}

fn frame(data: Vec<u8>) -> FrameBuf {
    FrameBuf {
        data,
        ..FrameBuf::default()
    }
}

#[test]
fn received_frames_end_where_it_is_said_and_go_behind_their_prefix() {
    for prefix in [0, 14] {
        let mut guest = Guest::new(8);
        let mut queue = RxQueue::new(guest.vring(0, prefix, false));
        let small = bytes(100);
        let none = queue.deliver(&frame(small.clone()), TagEdit::Keep);
        assert_eq!(none, Ok(RxOutcome::NoBuffer));
        let buffers: Vec<u64> = (0..4).map(|_| guest.post(512)).collect();
        let long = bytes(1200);
        for data in [&small, &long] {
            let outcome = queue.deliver(&frame(data.clone()), TagEdit::Keep);
            assert_eq!(outcome, Ok(RxOutcome::Delivered));
        }
        let none = queue.deliver(&frame(small.clone()), TagEdit::Keep);
        assert_eq!(none, Ok(RxOutcome::NoBuffer));
        assert_eq!(guest.doorbell.head(), 0);
        assert_eq!(queue.flush(), Some(true));
        assert_eq!(guest.doorbell.head(), 4);

        let done = std::mem::take(&mut *guest.notes.lock().unwrap());
        let said: Vec<_> = done.iter().map(|d| (d.len as usize, d.last)).collect();
        let last = 1200 + prefix - 1024;
        let expected = [
            (100 + prefix, true),
            (512, false),
            (512, false),
            (last, true),
        ];
        assert_eq!(said, expected);
        assert_eq!(received(&guest, buffers[0] + prefix as u64, 100), small);
        let parts = buffers[1..].iter().zip(&said[1..]);
        let whole: Vec<u8> = parts
            .flat_map(|(&gpa, &(len, _))| received(&guest, gpa, len))
            .collect();
        assert_eq!(whole[prefix..], long);
        if prefix > 0 {
            assert_eq!(whole[..4], 1200u32.to_le_bytes());
            assert_eq!(received(&guest, buffers[0], 4), 100u32.to_le_bytes());
        }
    }
}

#[test]
fn a_burst_is_as_one_by_one() {
    let mut guest = Guest::new(64);
    let mut queue = RxQueue::new(guest.vring(0, 14, true));
    let mut tagged = super_frame(false, 1, 200);
    tagged.truncate(200);
    let frames: Vec<Box<FrameBuf>> = [
        super_frame(false, 0, 100),
        super_frame(true, 0, 100),
        tagged.clone(),
        bytes(60),
        bytes(700),
    ]
    .map(|data| Box::new(frame(data)))
    .into();
    let buffers: Vec<u64> = (0..8).map(|_| guest.post(512)).collect();
    assert_eq!(
        queue.deliver_all(&frames, TagEdit::Keep),
        Ok((frames.len(), None))
    );
    queue.flush();
    let done = std::mem::take(&mut *guest.notes.lock().unwrap());
    let mut at = 0;
    for sent in &frames {
        let mut got = Vec::new();
        let note = loop {
            let piece = done[at];
            got.extend(received(&guest, buffers[at], piece.len as usize));
            at += 1;
            if piece.last {
                break piece.note;
            }
        };
        let mut expected = sent.data.clone();
        if *sent.data == tagged {
            expected.drain(12..16);
            assert_eq!(note.vlan(), Some(100));
        }
        assert_eq!(got[14..], expected);
        assert_eq!(got[..4], (expected.len() as u32).to_le_bytes());
        assert!(!note.checked());
    }
    let kinds: Vec<_> = done
        .iter()
        .map(|d| (d.note.network(), d.note.transport()))
        .collect();
    assert_eq!(kinds[0], (Network::Ipv4, Transport::Tcp));
    assert_eq!(kinds[1], (Network::Ipv6, Transport::Tcp));
    assert_eq!(kinds[2], (Network::Ipv4, Transport::Tcp));
    assert_eq!(kinds[3], (Network::Other, Transport::Other));
}

#[test]
fn what_a_hardware_ring_does_not_take_is_finished_and_said_to_be_right() {
    let mut guest = Guest::new(64);
    let mut queue = RxQueue::new(guest.vring(0, 0, true));
    let buffers: Vec<u64> = (0..16).map(|_| guest.post(2048)).collect();
    let data = super_frame(false, 1, 3000);
    let layout = TcpLayout::parse(&data).unwrap();
    let checksum = PartialChecksum {
        start: layout.tcp as u16,
        offset: 16,
    };
    let segmentation = vf_packet::Segmentation {
        v6: false,
        ecn: true,
        gso: vf_packet::Gso {
            header_len: layout.payload as u16,
            size: 1000,
        },
    };
    let mut plain = super_frame(false, 1, 1000);
    put_ip(&mut plain[layout.ip..layout.tcp]);
    for segmentation in [Some(segmentation), None] {
        let long = FrameBuf {
            offload: vf_packet::Offload::new(Some(checksum), segmentation),
            data: match segmentation {
                Some(_) => data.clone(),
                None => plain.clone(),
            },
        };
        let outcome = queue.deliver(&long, TagEdit::Keep);
        assert_eq!(outcome, Ok(RxOutcome::Delivered));
    }
    queue.flush();
    let done = std::mem::take(&mut *guest.notes.lock().unwrap());
    assert_eq!(done.len(), 4);
    for (done, &gpa) in done.iter().zip(&buffers) {
        assert!(done.last && done.note.checked());
        assert_eq!(done.note.vlan(), Some(100));
        let _ = verify(&received(&guest, gpa, done.len as usize));
    }
    // Nobody has made the checksum of an IPv4 header, nor of what has another packet in it, nor looked at what is no TCP and no UDP.
    let mut wrong = plain.clone();
    wrong[layout.ip + 8] -= 1;
    let within = PartialChecksum {
        start: checksum.start + 20,
        offset: 6,
    };
    let mut icmp = plain.clone();
    icmp[layout.ip + 9] = 1;
    put_ip(&mut icmp[layout.ip..layout.tcp]);
    for (data, made) in [(wrong, checksum), (plain, within), (icmp, checksum)] {
        let offload = vf_packet::Offload::new(Some(made), None);
        let outcome = queue.deliver(&FrameBuf { offload, data }, TagEdit::Keep);
        assert_eq!(outcome, Ok(RxOutcome::Delivered));
        queue.flush();
        let done = std::mem::take(&mut *guest.notes.lock().unwrap());
        assert!(!done[0].note.checked());
    }
    // The next one, which needs nothing, has been looked at by nobody.
    queue.deliver(&frame(bytes(60)), TagEdit::Keep).unwrap();
    queue.flush();
    assert!(!guest.notes.lock().unwrap()[0].note.checked());
}

fn put_ip(header: &mut [u8]) {
    header[10..12].fill(0);
    let sum = vf_packet::checksum::Sum::default().with(header).checksum();
    header[10..12].copy_from_slice(&sum.to_be_bytes());
}

#[test]
fn a_new_tail_wakes_who_sleeps_and_nobody_else() {
    let mut guest = Guest::new(8);
    let mut queue = guest.tx();
    let kick = queue.vring().kick_fd().unwrap().clone();
    assert!(!queue.set_notify(false));
    guest.send(&bytes(60), &[], 0);
    assert!(!kick.drain());
    assert!(queue.set_notify(true), "it came without a kick");
    guest.send(&bytes(60), &[], 0);
    assert!(kick.drain());
    assert!(copy(&mut queue).len() == 60 && copy(&mut queue).len() == 60);
    assert!(!queue.set_notify(true));
}

#[test]
fn nothing_more_is_taken_once_memory_has_vanished() {
    let mut guest = Guest::new(8);
    let mut queue = guest.tx();
    for _ in 0..4 {
        guest.send(&bytes(1514), &[], 0);
    }
    assert_eq!(queue.fetch(), Ok(4));
    for file in &guest.memory.files {
        file.set_len(0).unwrap();
    }
    let frames = queue.fetched();
    queue.copy_to(&frames[0], &mut FrameBuf::default());
    queue.complete(4);
    assert_eq!(queue.fetch(), Err(RingError::MemoryFault));
}
