//! The other end, for tests: a split virtqueue driver as plain as can be, that can also lie.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use rustix::fs::MemfdFlags;
use vm_memory::Bytes;

use crate::eventfd::EventFd;
use crate::memory::{GuestMemory, RegionSpec};
use crate::vring::{Vring, VringConfig};

/// Where the memory starts; two regions of `REGION` bytes follow each other without a hole.
pub(crate) const BASE: u64 = 0x4000_0000;
pub(crate) const REGION: u64 = 4 << 20;
pub(crate) const DESC: u64 = BASE;
pub(crate) const AVAIL: u64 = BASE + 0x8_0000;
pub(crate) const USED: u64 = BASE + 0xa_0000;
/// Buffers and indirect tables from here on.
pub(crate) const HEAP: u64 = BASE + 0x10_0000;

pub(crate) const F_NEXT: u16 = 1;
pub(crate) const F_WRITE: u16 = 2;
pub(crate) const F_INDIRECT: u16 = 4;

pub(crate) struct Driver {
    pub(crate) mem: Arc<GuestMemory>,
    pub(crate) call: EventFd,
    pub(crate) err: EventFd,
    size: u16,
    features: u64,
    base: u16,
    avail: u16,
    used: u16,
    free: Vec<u16>,
    in_flight: HashMap<u16, Vec<u16>>,
    heap: u64,
}

impl Driver {
    pub(crate) fn new(size: u16, features: u64, base: u16) -> Driver {
        let region = |i: u64| {
            let fd = rustix::fs::memfd_create("guest", MemfdFlags::CLOEXEC).unwrap();
            rustix::fs::ftruncate(&fd, REGION).unwrap();
            let spec = RegionSpec {
                guest_addr: BASE + i * REGION,
                size: REGION,
                user_addr: i * 2 * REGION,
                mmap_offset: 0,
            };
            (spec, fd)
        };
        let mem = GuestMemory::map(vec![region(0), region(1)]).unwrap();
        let driver = Driver {
            mem,
            call: EventFd::new().unwrap(),
            err: EventFd::new().unwrap(),
            size,
            features,
            base,
            avail: base,
            used: base,
            free: (0..size).rev().collect(),
            in_flight: HashMap::new(),
            heap: HEAP,
        };
        driver.store(AVAIL + 2, base);
        driver.store(USED + 2, base);
        driver
    }

    pub(crate) fn vring(&self, index: u32) -> Vring {
        let config = VringConfig {
            index,
            size: self.size,
            desc: DESC,
            avail: AVAIL,
            used: USED,
            base: self.base,
            features: self.features,
            enabled: true,
        };
        let call = Some(self.call.clone());
        let err = Some(self.err.clone());
        Vring::new(config, self.mem.clone(), None, call, err).unwrap()
    }

    pub(crate) fn write(&self, gpa: u64, bytes: &[u8]) {
        self.mem.slice(gpa, bytes.len()).unwrap().copy_from(bytes);
    }

    pub(crate) fn read(&self, gpa: u64, len: usize) -> Vec<u8> {
        let mut out = vec![0; len];
        self.mem.slice(gpa, len).unwrap().copy_to(&mut out);
        out
    }

    pub(crate) fn store(&self, gpa: u64, word: u16) {
        let slice = self.mem.slice(gpa, 2).unwrap();
        slice.store(word.to_le(), 0, Ordering::SeqCst).unwrap();
    }

    pub(crate) fn load(&self, gpa: u64) -> u16 {
        let slice = self.mem.slice(gpa, 2).unwrap();
        u16::from_le(slice.load(0, Ordering::SeqCst).unwrap())
    }

    /// Writes one descriptor of the table at `table`.
    pub(crate) fn desc(&self, table: u64, i: u16, (gpa, len, flags): (u64, u32, u16), next: u16) {
        let mut raw = [0; 16];
        raw[..8].copy_from_slice(&gpa.to_le_bytes());
        raw[8..12].copy_from_slice(&len.to_le_bytes());
        raw[12..14].copy_from_slice(&flags.to_le_bytes());
        raw[14..].copy_from_slice(&next.to_le_bytes());
        self.write(table + u64::from(i) * 16, &raw);
    }

    /// Makes `head` available.
    pub(crate) fn offer(&mut self, head: u16) {
        self.store(AVAIL + 4 + u64::from(self.avail % self.size) * 2, head);
        self.avail = self.avail.wrapping_add(1);
        self.store(AVAIL + 2, self.avail);
    }

    /// Room for a buffer. Nothing is ever given back; when the heap ends it starts again.
    pub(crate) fn alloc(&mut self, len: usize) -> u64 {
        if self.heap + len as u64 > BASE + REGION {
            self.heap = HEAP;
        }
        let at = self.heap;
        self.heap += len as u64;
        at
    }

    /// How many descriptors are free.
    pub(crate) fn free(&self) -> usize {
        self.free.len()
    }

    /// Offers a chain of `(address, length, writable)` pieces; `direct` of them in the ring's own
    /// table, the others in an indirect table. Answers the head.
    pub(crate) fn add(&mut self, pieces: &[(u64, u32, bool)], direct: usize) -> u16 {
        let flag = |w: bool| if w { F_WRITE } else { 0 };
        let mut descs: Vec<(u64, u32, u16)> = pieces[..direct]
            .iter()
            .map(|&(gpa, len, w)| (gpa, len, flag(w)))
            .collect();
        let rest = &pieces[direct..];
        if !rest.is_empty() {
            let table = self.alloc(rest.len() * 16);
            for (i, &(gpa, len, w)) in rest.iter().enumerate() {
                let next = if i + 1 < rest.len() { F_NEXT } else { 0 };
                self.desc(table, i as u16, (gpa, len, flag(w) | next), i as u16 + 1);
            }
            // The write flag of an indirect descriptor means nothing.
            let flags = F_INDIRECT | if table.is_multiple_of(32) { F_WRITE } else { 0 };
            descs.push((table, rest.len() as u32 * 16, flags));
        }
        let ids: Vec<u16> = descs.iter().map(|_| self.free.pop().unwrap()).collect();
        for (i, &(gpa, len, flags)) in descs.iter().enumerate() {
            let (flags, next) = match ids.get(i + 1) {
                Some(&next) => (flags | F_NEXT, next),
                None => (flags, 0xffff),
            };
            self.desc(DESC, ids[i], (gpa, len, flags), next);
        }
        let head = ids[0];
        self.in_flight.insert(head, ids);
        self.offer(head);
        head
    }

    /// Offers `bytes` cut into pieces of these lengths, as a transmit chain.
    pub(crate) fn send(&mut self, bytes: &[u8], cuts: &[usize], direct: usize) -> u16 {
        let mut pieces = Vec::new();
        let mut rest = bytes;
        for &cut in cuts.iter().chain([&usize::MAX]) {
            let (now, later) = rest.split_at(cut.min(rest.len()));
            if !now.is_empty() {
                let gpa = self.alloc(now.len());
                self.write(gpa, now);
                pieces.push((gpa, now.len() as u32, false));
            }
            rest = later;
        }
        let direct = direct.min(pieces.len());
        self.add(&pieces, direct)
    }

    /// Takes the used elements published since the last call: `(head, length)`.
    pub(crate) fn used(&mut self) -> Vec<(u16, u32)> {
        let mut out = Vec::new();
        while self.used != self.load(USED + 2) {
            let raw = self.read(USED + 4 + u64::from(self.used % self.size) * 8, 8);
            let id = u32::from_le_bytes(raw[..4].try_into().unwrap()) as u16;
            let len = u32::from_le_bytes(raw[4..].try_into().unwrap());
            self.free
                .extend(self.in_flight.remove(&id).unwrap_or_default());
            self.used = self.used.wrapping_add(1);
            out.push((id, len));
        }
        out
    }

    pub(crate) fn set_used_event(&self, event: u16) {
        self.store(AVAIL + 4 + u64::from(self.size) * 2, event);
    }

    pub(crate) fn avail_event(&self) -> u16 {
        self.load(USED + 4 + u64::from(self.size) * 8)
    }
}
