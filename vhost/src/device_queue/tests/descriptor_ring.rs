//! A driver of the plainest ring that a hardware NIC has. The driver writes its tail to a register and finds `DONE` in what comes
//! back.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::*;
use crate::hardware::plain::{DONE, END, PlainFormat, descriptor};
use crate::hardware::{Doorbell, HardwareConfig, HardwareRing};

/// A driver of such a ring, in the memory of a [`Driver`] that has no other queue.
pub(super) struct Guest {
    memory: Driver,
    doorbell: Arc<Doorbell>,
    interrupts: Arc<AtomicBool>,
    size: u16,
    /// Parts that its descriptors are in.
    parts: u16,
    writable: bool,
    /// What it has made available and not got back.
    in_flight: VecDeque<(u16, u16)>,
}

impl Guest {
    pub(super) fn new(size: u16, parts: u16, writable: bool, base: u16) -> Guest {
        let doorbell = Doorbell::new().unwrap();
        doorbell.set_tail(base.into());
        Guest {
            memory: Driver::new(1, NONE, 0),
            doorbell: Arc::new(doorbell),
            interrupts: Arc::default(),
            size,
            parts,
            writable,
            in_flight: VecDeque::new(),
        }
    }

    /// The parts are not one behind the other.
    fn table(&self, part: u16) -> u64 {
        DESC + 0x1_0000 - 0x1000 * u64::from(part)
    }

    fn place(&self, at: u16) -> u64 {
        let per_part = self.size / self.parts;
        self.table(at / per_part) + u64::from(at % per_part) * 16
    }
}

impl QueueDriver for Guest {
    type Queue = HardwareRing;

    fn queue(&self, base: u32) -> HardwareRing {
        let config = HardwareConfig {
            index: if self.writable { 0 } else { 1 },
            size: self.size,
            tables: (0..self.parts).map(|part| self.table(part)).collect(),
            base: base as u16,
        };
        let format = PlainFormat {
            interrupts: self.interrupts.clone(),
            ..PlainFormat::default()
        };
        let (mem, doorbell) = (self.memory.mem.clone(), self.doorbell.clone());
        let mut ring = HardwareRing::new(&config, mem, Box::new(format), doorbell).unwrap();
        ring.set_ahead(if self.writable {
            Prefetch::Write(0)
        } else {
            Prefetch::Read(128)
        });
        ring
    }

    fn fits(&self, buffers: usize) -> bool {
        // One descriptor is never made available: a full ring would look like an empty one.
        let held: u16 = self.in_flight.iter().map(|&(_, descs)| descs).sum();
        buffers < usize::from(self.size - held)
    }

    fn piece(&mut self, len: u32, _: bool) -> (u64, u32, bool) {
        (self.memory.alloc(32), len, self.writable)
    }

    fn add(&mut self, pieces: &[(u64, u32, bool)], direct: usize) -> u16 {
        let first = self.doorbell.tail() as u16;
        let mut at = first;
        for (i, &(gpa, len, _)) in pieces.iter().enumerate() {
            let end = if i + 1 == pieces.len() { END } else { 0 };
            let place = self.place(at);
            self.memory.write(place, &descriptor(gpa, len, end));
            at = (at + 1) % self.size;
            if i == direct {
                // The device may look in between.
                self.doorbell.ring(at.into());
            }
        }
        self.in_flight.push_back((first, pieces.len() as u16));
        self.doorbell.ring(at.into());
        first
    }

    fn used(&mut self) -> Vec<(u16, u32)> {
        let mut used = Vec::new();
        while let Some(&(first, descs)) = self.in_flight.front() {
            let last = (first + descs - 1) % self.size;
            let raw = self.memory.read(self.place(last) + 8, 8);
            let word = u64::from_le_bytes(raw.try_into().unwrap());
            if (word >> 32) as u32 & DONE == 0 {
                break;
            }
            used.push((first, word as u32));
            self.in_flight.pop_front();
        }
        used
    }

    fn arm(&self) {
        self.interrupts.store(true, Ordering::Relaxed);
    }

    fn disarm(&self) {
        self.interrupts.store(false, Ordering::Relaxed);
    }
}
