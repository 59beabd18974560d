//! The law of the dirty log: whatever a device does with its queues, the log has every page that it has changed, and none
//! that it has not written.

use std::collections::{BTreeSet, VecDeque};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use proptest::prelude::*;
use vf_packet::Offload;

use super::*;
use crate::control::{Asked, ControlQueue};
use crate::features::VirtioFeatures;
use crate::frame::{FrameBuf, TagEdit};
use crate::net_hdr::NetHdr;
use crate::net_hdr::tests::super_frame;
use crate::ring::driver::{BASE, Driver, HEAP, IN_ORDER, INDIRECT_DESC, NONE, RING_PACKED};
use crate::rx::{RxOutcome, RxQueue};
use crate::tx::TxQueue;

/// What is looked at: the rings, and more of the heap than a case uses.
const LOOK: u64 = 0x20_0000;
/// Bytes of a log that reaches that far.
const LOG: u64 = (BASE + LOOK) / LOG_PAGE / 8;
const OFFLOADS: VirtioFeatures = VirtioFeatures::VERSION_1
    .union(VirtioFeatures::CSUM)
    .union(VirtioFeatures::HOST_TSO4)
    .union(VirtioFeatures::HOST_TSO6);

/// A driver whose device logs.
struct Logged {
    driver: Driver,
    log: File,
    /// The buffers that it has made available, oldest first.
    posted: VecDeque<Vec<(u64, u32)>>,
}

fn pages(gpa: u64, len: u64) -> impl Iterator<Item = u64> {
    (gpa / LOG_PAGE..(gpa + len).div_ceil(LOG_PAGE)).filter(move |_| len > 0)
}

impl Logged {
    fn new(features: VirtioFeatures) -> Logged {
        // Near the end of a ring that has several pages.
        let mut driver = Driver::new(1024, features | INDIRECT_DESC, 1018);
        let fd = rustix::fs::memfd_create("log", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
        rustix::fs::ftruncate(&fd, LOG).unwrap();
        let log = File::from(fd.try_clone().unwrap());
        let marked = DirtyLog::map(&Arc::default(), fd, LOG, 0).unwrap();
        driver.mem = driver.mem.with_log(Some(Arc::new(marked)));
        let posted = VecDeque::new();
        Logged {
            driver,
            log,
            posted,
        }
    }

    /// Makes a buffer available that the device can write; no frame consists of what is in it.
    fn post(&mut self, sizes: &[u32], direct: usize) {
        let alloc = |&len: &u32| (self.driver.alloc(len as usize), len);
        let buffer: Vec<_> = sizes.iter().map(alloc).collect();
        for &(gpa, len) in &buffer {
            self.driver.write(gpa, &vec![0xff; len as usize]);
        }
        let pieces: Vec<_> = buffer.iter().map(|&(gpa, len)| (gpa, len, true)).collect();
        self.driver.add(&pieces, direct.min(pieces.len()));
        self.posted.push_back(buffer);
    }

    /// Memory as it is now, nothing of it marked: what is marked later the device has written.
    fn snapshot(&self) -> Vec<u8> {
        self.log.write_all_at(&[0; LOG as usize], 0).unwrap();
        self.driver.read(BASE, LOOK as usize)
    }

    /// What the device has done since, all of it published; `all` if it has used what it has written, no buffer too few for
    /// a frame in segments.
    fn check(mut self, before: &[u8], all: bool) -> Result<(), TestCaseError> {
        let mut written = BTreeSet::new();
        let mut allowed: BTreeSet<u64> = pages(BASE, HEAP - BASE).collect(); // the same index may be written again
        if !all {
            let posted = self.posted.iter().flatten();
            allowed.extend(posted.flat_map(|&(gpa, len)| pages(gpa, len.into())));
        }
        for (_, len) in self.driver.used() {
            let mut left = len;
            for (gpa, len) in self.posted.pop_front().unwrap_or_default() {
                written.extend(pages(gpa, len.min(left).into()));
                left = left.saturating_sub(len);
            }
        }
        allowed.extend(&written);
        let mut bits = [0; LOG as usize];
        self.log.read_exact_at(&mut bits, 0).unwrap();
        let is_marked = |page: &u64| bits[(page / 8) as usize] & 1 << (page % 8) != 0;
        let marked: BTreeSet<u64> = (0..LOG * 8).filter(is_marked).collect();
        let after = self.driver.read(BASE, LOOK as usize);
        let both = before
            .chunks(LOG_PAGE as usize)
            .zip(after.chunks(LOG_PAGE as usize));
        let changed = both
            .zip(BASE / LOG_PAGE..)
            .filter(|((old, new), _)| old != new);
        written.extend(changed.map(|(_, page)| page));
        prop_assert!(
            written.is_subset(&marked),
            "not marked: {:x?}",
            &written - &marked
        );
        prop_assert!(
            marked.is_subset(&allowed),
            "not written: {:x?}",
            &marked - &allowed
        );
        Ok(())
    }
}

/// Which way a frame goes from a transmit queue to a receive queue.
#[derive(Debug, Clone, Copy)]
enum Way {
    FromGuest,
    Private,
    AllPrivate,
}

#[derive(Debug, Clone)]
struct Sent {
    frame: FrameBuf,
    /// How the driver cuts it, and how many of the pieces are direct.
    cuts: Vec<usize>,
    direct: usize,
    way: Way,
    edit: TagEdit,
}

fn sent() -> impl Strategy<Value = Sent> {
    let frame = (any::<bool>(), 0usize..3, 0usize..5000, 200u16..1500, 0..3).prop_map(
        |(v6, tags, payload, size, kind)| {
            let mut frame = super_frame(v6, tags, payload, size);
            match kind {
                0 => frame.offload = Offload::default(),
                1 => frame.offload = Offload::new(frame.offload.checksum(), None),
                _ => {}
            }
            frame
        },
    );
    let way = prop::sample::select(vec![Way::FromGuest, Way::Private, Way::AllPrivate]);
    let edit = prop::sample::select(vec![
        TagEdit::Keep,
        TagEdit::Insert([0x81, 0, 0, 5]),
        TagEdit::Strip,
    ]);
    let cuts = prop::collection::vec(1usize..2000, 0..3);
    (frame, cuts, 0usize..4, way, edit).prop_map(|(frame, cuts, direct, way, edit)| Sent {
        frame,
        cuts,
        direct,
        way,
        edit,
    })
}

fn format() -> impl Strategy<Value = VirtioFeatures> {
    prop::sample::select(vec![
        NONE,
        RING_PACKED,
        RING_PACKED | IN_ORDER,
        VirtioFeatures::EVENT_IDX,
        RING_PACKED | VirtioFeatures::EVENT_IDX,
    ])
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn frames_are_logged(
        frames in prop::collection::vec(sent(), 1..6),
        buffers in prop::collection::vec((prop::collection::vec(100u32..3000, 1..4), 0usize..4), 0..12),
        formats in (format(), format()),
        accepts in prop::sample::subsequence(vec![
            VirtioFeatures::MRG_RXBUF,
            VirtioFeatures::GUEST_CSUM,
            VirtioFeatures::GUEST_TSO4 | VirtioFeatures::GUEST_TSO6,
        ], 0..=3),
        notify: bool,
    ) {
        let accepts = VirtioFeatures::VERSION_1 | accepts.into_iter().collect();
        let mut from = Logged::new(formats.0 | OFFLOADS);
        let mut to = Logged::new(formats.1 | accepts);
        let mut tx = TxQueue::new(from.driver.vring(1));
        let mut rx = RxQueue::new(to.driver.vring(0));
        for sent in &frames {
            let bytes = [&NetHdr::from(&sent.frame.offload).to_bytes(0), &sent.frame.data[..]].concat();
            from.driver.send(&bytes, &sent.cuts, sent.direct);
        }
        for (sizes, direct) in &buffers {
            to.post(sizes, *direct);
        }
        let before = [from.snapshot(), to.snapshot()];
        let mut all = true;
        let mut sent = frames.iter();
        while sent.len() > 0 {
            let fetched = tx.fetch().unwrap();
            prop_assert!(fetched > 0);
            for frame in tx.fetched() {
                prop_assert_eq!(frame.fault(), None);
                let &Sent { way, edit, .. } = sent.next().unwrap();
                let frame = std::slice::from_ref(frame);
                let mut copy = Box::new(FrameBuf::default());
                tx.copy_to(&frame[0], &mut copy);
                let outcome = match way {
                    Way::FromGuest => rx.deliver_from(&tx, frame, edit).map(|(_, outcome)| outcome),
                    Way::AllPrivate => rx.deliver_all(&[copy], edit).map(|(_, outcome)| outcome),
                    Way::Private => rx.deliver(&copy, edit).map(Some),
                };
                all &= matches!(outcome.unwrap(), None | Some(RxOutcome::Delivered));
            }
            tx.complete(fetched);
        }
        tx.flush();
        rx.flush();
        tx.set_notify(notify);
        rx.set_notify(!notify);
        from.check(&before[0], true)?;
        to.check(&before[1], all)?;
    }

    #[test]
    fn answers_of_the_control_queue_are_logged(
        commands in prop::collection::vec((0usize..2000, any::<bool>()), 1..5),
        format in format(),
    ) {
        let mut guest = Logged::new(format | VirtioFeatures::VERSION_1);
        let mut queue = ControlQueue::new(guest.driver.vring(2));
        for &(gap, obeyed) in &commands {
            guest.driver.alloc(gap);
            guest.post(&[1, 3], usize::from(obeyed) * 2);
        }
        let before = guest.snapshot();
        for (_, obeyed) in commands {
            prop_assert_eq!(queue.next().unwrap(), Some(Asked::Nothing));
            queue.answer(obeyed, &[1, 2]).unwrap();
        }
        prop_assert_eq!(queue.next().unwrap(), None);
        guest.check(&before, true)?;
    }
}
