//! Rings whose driver lies: descriptors, indices and flags are whatever the input says, and frames are taken from them and given to
//! them.
//!
//! Rules: nobody panics and nothing is endless; a fetch takes no more chains than the ring has descriptors, nor more than were made
//! available; a frame is as long as it says; and the device writes nowhere but to its own part of the ring and, of a receive ring, to
//! buffers that a descriptor calls writable.

use std::ops::Range;

use vf_vhost::control::Coalescing;
use vf_vhost::features::VirtioFeatures;
use vf_vhost::frame::{FrameBuf, TagEdit};
use vf_vhost::net_hdr::{MAX_FRAME, MIN_FRAME};
use vf_vhost::rx::RxQueue;
use vf_vhost::tx::TxQueue;
use vf_vhost::vring::{Vring, VringConfig};

use crate::bytes::Bytes;
use crate::guest::{self, GUEST, Guest, SIZE};

const DESC: usize = 0;
const AVAIL: usize = 0x800;
const USED: usize = 0xa00;
/// Indirect tables.
const TABLES: usize = 0x1000;
/// Buffers.
const HEAP: usize = 0x2000;
/// The largest ring here.
const MOST: u16 = 64;
/// Entries of tables in all.
const ENTRIES: usize = 64;

const NEXT: u16 = 1;
const WRITE: u16 = 2;
const INDIRECT: u16 = 4;

/// Features that a driver may have accepted, by a bit each.
const FEATURES: [VirtioFeatures; 8] = [
    VirtioFeatures::EVENT_IDX,
    VirtioFeatures::INDIRECT_DESC,
    VirtioFeatures::IN_ORDER,
    VirtioFeatures::MRG_RXBUF,
    VirtioFeatures::VERSION_1,
    VirtioFeatures::CSUM.union(VirtioFeatures::HOST_TSO4),
    VirtioFeatures::GUEST_CSUM.union(VirtioFeatures::GUEST_TSO4),
    VirtioFeatures::HOST_TSO6.union(VirtioFeatures::CSUM),
];

/// A split ring (virtio 2.7).
pub fn drive_split(data: &[u8]) {
    drive(data, VirtioFeatures::empty());
}

/// A packed ring (virtio 2.8).
pub fn drive_packed(data: &[u8]) {
    drive(data, VirtioFeatures::RING_PACKED);
}

fn drive(data: &[u8], format: VirtioFeatures) {
    let mut bytes = Bytes::new(data);
    let bits = bytes.u8();
    let chosen = FEATURES.iter().enumerate();
    let features = chosen
        .filter(|(bit, _)| bits >> bit & 1 == 1)
        .fold(format, |all, (_, feature)| all | *feature);
    let packed = !format.is_empty();
    let size = match packed {
        true => 1 + bytes.u16() % MOST,
        false => 1 << bytes.below(7),
    };
    let base: u32 = match packed {
        // Each side's place and wrap counter.
        true => {
            let place = u32::from(bytes.u16() % size) | u32::from(bytes.u8() & 1) << 15;
            place | place << 16
        }
        false => bytes.u16().into(),
    };
    let receives = bytes.u8() & 1 == 1;
    let config = VringConfig {
        index: u32::from(!receives),
        size,
        desc: GUEST + DESC as u64,
        avail: GUEST + AVAIL as u64,
        used: GUEST + USED as u64,
        base,
        told: bytes.u8() & 1 == 1,
        features,
        enabled: bytes.u8() & 7 != 7,
        coalescing: Coalescing::default(),
    };
    guest::with(|guest| {
        let mut driver = Driver {
            guest,
            memory: vec![0; SIZE],
            packed,
            size,
            writable: Vec::new(),
            touched: false,
        };
        driver.lay_out(&mut bytes, base);
        let Ok(vring) = Vring::new(config, guest.memory.clone(), None, None, None) else {
            return;
        };
        let fault = match receives {
            true => give(RxQueue::new(vring), &mut driver, &mut bytes),
            false => take(TxQueue::new(vring), &mut driver, &mut bytes, base),
        };
        let _ = fault;
        driver.check(receives);
    });
}

/// What the driver has written, and may be written to.
struct Driver<'a> {
    guest: &'a Guest,
    /// As it would be if the device had written nothing.
    memory: Vec<u8>,
    packed: bool,
    size: u16,
    /// What descriptors call writable.
    writable: Vec<Range<u64>>,
    /// The ring was changed while it ran.
    touched: bool,
}

impl Driver<'_> {
    fn put(&mut self, at: usize, bytes: &[u8]) {
        if let Some(there) = self.memory.get_mut(at..at + bytes.len()) {
            there.copy_from_slice(bytes);
        }
    }

    /// A descriptor of a few bytes of input: mostly inside memory.
    fn descriptor(&mut self, bytes: &mut Bytes<'_>) -> [u8; 16] {
        let kind = bytes.u8();
        let at = bytes.u16();
        let addr = match kind & 3 {
            0 | 1 => GUEST + (HEAP + usize::from(at) % (SIZE - HEAP)) as u64,
            2 => GUEST + (TABLES + usize::from(at) % ENTRIES * 16) as u64,
            _ => match kind >> 2 & 3 {
                0 => GUEST + u64::from(at),
                1 => GUEST + SIZE as u64 - u64::from(at % 64),
                2 => u64::MAX - u64::from(at),
                _ => bytes.u64(),
            },
        };
        let len = match kind >> 4 & 7 {
            0..=4 => u32::from(bytes.u16() % 2048),
            5 => 16 * u32::from(bytes.u8() % 32),
            6 => bytes.u16().into(),
            _ => bytes.u32(),
        };
        let flags = bytes.u8();
        let marks = match self.packed {
            true => u16::from(flags & 0x30) << 3 | u16::from(flags & 0x40) << 9,
            false => 0,
        };
        // AVAIL is bit 7 and USED bit 15.
        let flags = u16::from(flags) & (NEXT | WRITE | INDIRECT) | marks;
        let next = u16::from(bytes.u8());
        if flags & WRITE != 0 {
            self.writable
                .push(addr..addr.saturating_add(u64::from(len)));
        }
        let mut entry = [0; 16];
        entry[..8].copy_from_slice(&addr.to_le_bytes());
        entry[8..12].copy_from_slice(&len.to_le_bytes());
        let (a, b) = match self.packed {
            true => (next, flags),
            false => (flags, next),
        };
        entry[12..14].copy_from_slice(&a.to_le_bytes());
        entry[14..].copy_from_slice(&b.to_le_bytes());
        entry
    }

    fn lay_out(&mut self, bytes: &mut Bytes<'_>, base: u32) {
        for index in 0..usize::from(bytes.u8()).min(self.size.into()) {
            let entry = self.descriptor(bytes);
            self.put(DESC + 16 * index, &entry);
        }
        for index in 0..usize::from(bytes.u8()).min(ENTRIES) {
            let entry = self.descriptor(bytes);
            self.put(TABLES + 16 * index, &entry);
        }
        if self.packed {
            let event = bytes.u32();
            self.put(AVAIL, &event.to_le_bytes());
        } else {
            let base = base as u16;
            let count = u16::from(bytes.u8()) % (self.size + 2);
            let flags = bytes.u8() & 3;
            self.put(AVAIL, &u16::from(flags).to_le_bytes());
            self.put(AVAIL + 2, &base.wrapping_add(count).to_le_bytes());
            for slot in 0..self.size {
                let head = u16::from(bytes.u8()) % (self.size + 1);
                let at = usize::from(base.wrapping_add(slot) % self.size);
                self.put(AVAIL + 4 + 2 * at, &head.to_le_bytes());
            }
            let event = bytes.u16();
            self.put(AVAIL + 4 + 2 * usize::from(self.size), &event.to_le_bytes());
            let used = match bytes.u8() & 3 {
                3 => base.wrapping_sub(u16::from(bytes.u8())),
                _ => base,
            };
            self.put(USED + 2, &used.to_le_bytes());
        }
        // Headers of frames, mostly.
        let heap = bytes.take(512);
        self.put(HEAP, heap);
        self.guest.write(0, &self.memory);
    }

    /// Changes something while the device has it.
    fn meddle(&mut self, bytes: &mut Bytes<'_>) {
        let at = usize::from(bytes.u16()) % (SIZE - 8);
        let what = bytes.array::<2>();
        self.put(at, &what);
        self.guest.write(at, &what);
        self.touched |= at < HEAP;
    }

    /// Whether nothing was written that may not be.
    fn check(&self, receives: bool) {
        let used = match self.packed {
            true => USED..USED + 4,
            false => USED..USED + 6 + 8 * usize::from(self.size),
        };
        let ring = match self.packed {
            true => DESC..DESC + 16 * usize::from(self.size),
            false => 0..0,
        };
        // A buffer that lies over the ring changes what is a buffer while that is read.
        let over = |range: &Range<u64>| range.start < GUEST + HEAP as u64 && range.end > GUEST;
        if self.touched || receives && self.writable.iter().any(over) {
            return;
        }
        let writable = |at: usize| {
            let addr = GUEST + at as u64;
            receives && self.writable.iter().any(|range| range.contains(&addr))
        };
        let there = self.guest.contents();
        let wrong = (0..SIZE).find(|at| {
            there[*at] != self.memory[*at]
                && !used.contains(at)
                && !ring.contains(at)
                && !writable(*at)
        });
        assert_eq!(wrong, None, "written at {wrong:x?}");
    }
}

/// Takes frames as a device does.
fn take(
    mut queue: TxQueue,
    driver: &mut Driver<'_>,
    bytes: &mut Bytes<'_>,
    base: u32,
) -> Result<(), vf_vhost::ring::RingError> {
    let mut copy = FrameBuf::default();
    let mut taken = 0;
    for _ in 0..8 {
        if !queue.vring().enabled() {
            taken += queue.discard()?;
        } else {
            let fetched = queue.fetch()?;
            assert!(
                fetched <= usize::from(driver.size).max(1),
                "{fetched} chains"
            );
            for frame in queue.fetched() {
                // What is too short or too long is told by its fault, and has the length that it has.
                assert!(frame.fault().is_some() || (MIN_FRAME..=MAX_FRAME).contains(&frame.len()));
                assert!(frame.head().len() <= frame.len() as usize);
                if frame.fault().is_none() {
                    queue.copy_to(frame, &mut copy);
                    assert_eq!(copy.len(), frame.len());
                    assert_eq!(copy.head(), frame.head(), "the head is read once");
                }
            }
            let done = fetched.min(1 + usize::from(bytes.u8()));
            taken += done as u32;
            queue.complete(done);
            if fetched == 0 && bytes.is_empty() {
                break;
            }
        }
        queue.flush();
        match bytes.u8() & 7 {
            0 if !bytes.is_empty() => driver.meddle(bytes),
            1 => {
                queue.set_notify(bytes.u8() & 1 == 1);
            }
            _ => {}
        }
    }
    if !driver.packed && !driver.touched {
        let avail = [driver.memory[AVAIL + 2], driver.memory[AVAIL + 3]];
        let offered = u16::from_le_bytes(avail).wrapping_sub(base as u16);
        assert!(taken <= offered.into(), "{taken} of {offered} chains");
    }
    assert!(taken <= 8 * u32::from(driver.size).max(1));
    queue.into_vring();
    Ok(())
}

/// Gives frames as a device does.
fn give(
    mut queue: RxQueue,
    driver: &mut Driver<'_>,
    bytes: &mut Bytes<'_>,
) -> Result<(), vf_vhost::ring::RingError> {
    let mut frame = FrameBuf::default();
    for serial in 0..8u8 {
        let len = 14 + usize::from(bytes.u16()) % 9000;
        frame.data.clear();
        frame.data.resize(len, 0x40 + serial);
        let edit = match bytes.u8() & 3 {
            0 => TagEdit::Insert(bytes.array()),
            1 => TagEdit::Strip,
            _ => TagEdit::Keep,
        };
        queue.deliver(&frame, edit)?;
        match bytes.u8() & 7 {
            0 if !bytes.is_empty() => driver.meddle(bytes),
            1 => {
                queue.set_notify(bytes.u8() & 1 == 1);
            }
            2 => {}
            _ => {
                queue.flush();
            }
        }
        if bytes.is_empty() {
            break;
        }
    }
    queue.flush();
    queue.into_vring();
    Ok(())
}
