//! The other end, for tests: a virtqueue driver as plain as can be, split or packed, that can also lie. The suite has another one, which
//! shares no code with it.

use std::collections::{HashMap, VecDeque};
use std::fs::File;
use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};

use rustix::fs::MemfdFlags;

use crate::control::Coalescing;
use crate::eventfd::EventFd;
use crate::features::VirtioFeatures;
use crate::memory::{GuestMemory, RegionSpec};
use crate::vring::{Vring, VringConfig};

/// Where the memory starts; two regions of `REGION` bytes follow each other without a hole.
pub(crate) const BASE: u64 = 0x4000_0000;
pub(crate) const REGION: u64 = 4 << 20;
pub(crate) const DESC: u64 = BASE;
/// The available ring, or the driver's event suppression area.
pub(crate) const AVAIL: u64 = BASE + 0x8_0000;
/// The used ring, or the device's event suppression area.
pub(crate) const USED: u64 = BASE + 0xa_0000;
/// Buffers and indirect tables from here on.
pub(crate) const HEAP: u64 = BASE + 0x10_0000;

pub(crate) const F_NEXT: u16 = 1;
pub(crate) const F_WRITE: u16 = 2;
pub(crate) const F_INDIRECT: u16 = 4;
/// In a packed ring: available in an odd lap, and in an even one.
pub(crate) const F_AVAIL: u16 = 1 << 7;
pub(crate) const F_USED: u16 = 1 << 15;

/// A driver that has acknowledged nothing.
pub(crate) const NONE: VirtioFeatures = VirtioFeatures::empty();
pub(crate) const RING_PACKED: VirtioFeatures = VirtioFeatures::RING_PACKED;
pub(crate) const IN_ORDER: VirtioFeatures = VirtioFeatures::IN_ORDER;
pub(crate) const EVENT_IDX: VirtioFeatures = VirtioFeatures::EVENT_IDX;
pub(crate) const INDIRECT_DESC: VirtioFeatures = VirtioFeatures::INDIRECT_DESC;

/// Each of these functions, which take the feature bit of a format, as a test for either format.
macro_rules! for_both_formats {
    ($($name:ident),* $(,)?) => {
        mod split {
            $(#[test] fn $name() { super::$name($crate::features::VirtioFeatures::empty()) })*
        }
        mod packed {
            $(#[test] fn $name() { super::$name($crate::ring::driver::RING_PACKED) })*
        }
    };
}
pub(crate) use for_both_formats;

pub(crate) struct Driver {
    pub(crate) mem: Arc<GuestMemory>,
    /// What the two regions are.
    pub(crate) files: [File; 2],
    pub(crate) call: EventFd,
    pub(crate) err: EventFd,
    size: u16,
    features: VirtioFeatures,
    base: u16,
    /// Entries made available and taken back; of a packed ring, descriptors.
    avail: u16,
    used: u16,
    /// What `avail` was when the driver last asked whether to kick.
    kicked: u16,
    free: Vec<u16>,
    in_flight: HashMap<u16, Vec<u16>>,
    order: VecDeque<u16>,
    heap: u64,
}

impl Driver {
    /// A driver whose ring has gone on to `base`: entries so far; of a packed ring, descriptors.
    pub(crate) fn new(size: u16, features: VirtioFeatures, base: u16) -> Driver {
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
        let regions = [region(0), region(1)];
        let files = regions
            .each_ref()
            .map(|(_, fd)| File::from(fd.try_clone().unwrap()));
        let mem = GuestMemory::map(regions.into()).unwrap();
        let driver = Driver {
            mem,
            files,
            call: EventFd::new().unwrap(),
            err: EventFd::new().unwrap(),
            size,
            features,
            base,
            avail: base,
            used: base,
            kicked: base,
            free: (0..size).rev().collect(),
            in_flight: HashMap::new(),
            order: VecDeque::new(),
            heap: HEAP,
        };
        if !driver.is_packed() {
            driver.store(AVAIL + 2, base);
            driver.store(USED + 2, base);
        } else if base > 0 {
            // As the lap before, or this one, has left them.
            for i in 0..size {
                let (_, wrap) = driver.place(if i < base % size {
                    base
                } else {
                    base.wrapping_sub(size)
                });
                let flags = if wrap { F_AVAIL | F_USED } else { 0 };
                driver.desc(DESC, i, (0, 0, flags), 0);
            }
        }
        driver
    }

    pub(crate) fn is_packed(&self) -> bool {
        self.features.contains(RING_PACKED)
    }

    fn event_idx(&self) -> bool {
        self.features.contains(EVENT_IDX)
    }

    /// Offset and wrap counter of the descriptor that comes after `n` others; a packed ring of a power of two.
    fn place(&self, n: u16) -> (u16, bool) {
        (n % self.size, (n / self.size).is_multiple_of(2))
    }

    /// The same as ring bases and event structures have it.
    fn side(&self, n: u16) -> u16 {
        let (offset, wrap) = self.place(n);
        offset | u16::from(wrap) << 15
    }

    /// `n` as SET_VRING_BASE and GET_VRING_BASE have it.
    pub(crate) fn vring_base(&self, n: u16) -> u32 {
        if self.is_packed() {
            u32::from(self.side(n)) * 0x1_0001
        } else {
            n.into()
        }
    }

    pub(crate) fn vring(&self, index: u32) -> Vring {
        self.vring_from(index, self.vring_base(self.base))
    }

    /// The ring, going on where SET_VRING_BASE says.
    pub(crate) fn vring_from(&self, index: u32, base: u32) -> Vring {
        let config = VringConfig {
            index,
            size: self.size,
            desc: DESC,
            avail: AVAIL,
            used: USED,
            base,
            told: true,
            features: self.features,
            enabled: true,
            coalescing: Coalescing::default(),
        };
        let call = Some(self.call.clone());
        let err = Some(self.err.clone());
        Vring::new(config, self.mem.clone(), None, call, err).unwrap()
    }

    pub(crate) fn write(&self, gpa: u64, bytes: &[u8]) {
        self.mem
            .slice_mut(gpa, bytes.len())
            .unwrap()
            .copy_from(bytes);
    }

    pub(crate) fn read(&self, gpa: u64, len: usize) -> Vec<u8> {
        let mut out = vec![0; len];
        self.mem.slice(gpa, len).unwrap().copy_to(&mut out);
        out
    }

    pub(crate) fn store(&self, gpa: u64, word: u16) {
        let slice = self.mem.slice_mut(gpa, 2).unwrap();
        slice.store(0, word.to_le(), Ordering::SeqCst).unwrap();
    }

    pub(crate) fn load(&self, gpa: u64) -> u16 {
        let slice = self.mem.slice(gpa, 2).unwrap();
        u16::from_le(slice.load(0, Ordering::SeqCst).unwrap())
    }

    /// Writes one descriptor of the table at `table`; `more` is the next one, or in a packed ring the buffer identifier.
    pub(crate) fn desc(&self, table: u64, i: u16, (gpa, len, flags): (u64, u32, u16), more: u16) {
        let (third, fourth) = if self.is_packed() {
            (more, flags)
        } else {
            (flags, more)
        };
        let mut raw = [0; 16];
        raw[..8].copy_from_slice(&gpa.to_le_bytes());
        raw[8..12].copy_from_slice(&len.to_le_bytes());
        raw[12..14].copy_from_slice(&third.to_le_bytes());
        raw[14..].copy_from_slice(&fourth.to_le_bytes());
        self.write(table + u64::from(i) * 16, &raw);
    }

    /// Makes `head` available in a split ring.
    pub(crate) fn offer(&mut self, head: u16) {
        self.store(AVAIL + 4 + u64::from(self.avail % self.size) * 2, head);
        self.avail = self.avail.wrapping_add(1);
        self.store(AVAIL + 2, self.avail);
    }

    /// Makes raw descriptors with these buffer identifiers available in a packed ring, the first last.
    pub(crate) fn offer_packed(&mut self, descs: &[((u64, u32, u16), u16)]) {
        for (i, &((gpa, len, flags), id)) in descs.iter().enumerate().rev() {
            let (offset, wrap) = self.place(self.avail.wrapping_add(i as u16));
            let lap = if wrap { F_AVAIL } else { F_USED };
            self.desc(DESC, offset, (gpa, len, flags | lap), id);
        }
        self.avail = self.avail.wrapping_add(descs.len() as u16);
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

    pub(crate) fn size(&self) -> u16 {
        self.size
    }

    pub(crate) fn features(&self) -> VirtioFeatures {
        self.features
    }

    /// How many descriptors are free.
    pub(crate) fn free(&self) -> usize {
        self.free.len()
    }

    /// Offers a chain of `(address, length, writable)` pieces; `direct` of them in the ring's own
    /// table, the others in an indirect table. Answers what the device will return.
    pub(crate) fn add(&mut self, pieces: &[(u64, u32, bool)], direct: usize) -> u16 {
        let flag = |w: bool| if w { F_WRITE } else { 0 };
        // A packed ring has indirect descriptors only alone.
        let all = direct == pieces.len();
        let direct = if self.is_packed() && !all { 0 } else { direct };
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
        let head = ids[0];
        if self.is_packed() {
            let last = descs.len() - 1;
            let raw: Vec<_> = descs
                .iter()
                .enumerate()
                .map(|(i, &(gpa, len, flags))| {
                    let (next, id) = if i < last {
                        (F_NEXT, 0xeeee)
                    } else {
                        (0, head)
                    };
                    ((gpa, len, flags | next), id)
                })
                .collect();
            self.offer_packed(&raw);
        } else {
            for (i, &(gpa, len, flags)) in descs.iter().enumerate() {
                let (flags, next) = match ids.get(i + 1) {
                    Some(&next) => (flags | F_NEXT, next),
                    None => (flags, 0xffff),
                };
                self.desc(DESC, ids[i], (gpa, len, flags), next);
            }
            self.offer(head);
        }
        self.in_flight.insert(head, ids);
        self.order.push_back(head);
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

    /// Takes the chains returned since the last call: `(head, length)`.
    pub(crate) fn used(&mut self) -> Vec<(u16, u32)> {
        let mut out = Vec::new();
        while let Some((id, len)) = self.next_used() {
            // In order, one entry of a packed ring may stand for those before it as well.
            let batches = self.is_packed() && self.features.contains(IN_ORDER);
            while batches
                && let Some(&first) = self.order.front()
                && first != id
            {
                assert!(self.order.contains(&id), "returned what it did not have");
                out.push((first, 0));
                self.give_back(first);
            }
            out.push((id, len));
            self.give_back(id);
        }
        out
    }

    fn next_used(&self) -> Option<(u16, u32)> {
        if !self.is_packed() {
            if self.used == self.load(USED + 2) {
                return None;
            }
            let raw = self.read(USED + 4 + u64::from(self.used % self.size) * 8, 8);
            let id = u32::from_le_bytes(raw[..4].try_into().unwrap()) as u16;
            let len = u32::from_le_bytes(raw[4..].try_into().unwrap());
            return Some((id, len));
        }
        let (offset, wrap) = self.place(self.used);
        let at = DESC + 16 * u64::from(offset);
        let lap = if wrap { F_AVAIL | F_USED } else { 0 };
        let flags = self.load(at + 14);
        if self.order.is_empty() || flags & (F_AVAIL | F_USED) != lap {
            return None;
        }
        let len = u32::from_le_bytes(self.read(at + 8, 4).try_into().unwrap());
        assert_eq!(
            flags & F_WRITE != 0,
            len > 0,
            "WRITE says whether there is a length"
        );
        Some((self.load(at + 12), len))
    }

    fn give_back(&mut self, id: u16) {
        let descs = self.in_flight.remove(&id).unwrap_or_default();
        let n = if self.is_packed() {
            descs.len() as u16
        } else {
            1
        };
        self.free.extend(descs);
        self.order.retain(|&held| held != id);
        self.used = self.used.wrapping_add(n);
    }

    /// Asks to be called for the next chain that is returned.
    pub(crate) fn arm(&self) {
        match (self.is_packed(), self.event_idx()) {
            (false, false) => self.store(AVAIL, 0),
            (false, true) => self.set_used_event(self.used),
            (true, false) => self.set_driver_event(0, 0),
            (true, true) => self.set_driver_event(self.side(self.used), 2),
        }
        // The wish must be out before the ring is looked at again.
        fence(Ordering::SeqCst);
    }

    /// Asks not to be called.
    pub(crate) fn disarm(&self) {
        match (self.is_packed(), self.event_idx()) {
            (false, false) => self.store(AVAIL, 1),
            (false, true) => self.set_used_event(self.used.wrapping_sub(1)),
            (true, _) => self.set_driver_event(0, 1),
        }
    }

    /// Whether the device wants a kick for what was offered since this was last asked.
    pub(crate) fn wants_kick(&mut self) -> bool {
        // What was offered must be out before it is read whether the device wants to know (virtio 2.7.13.3.1, 2.8.21.3).
        fence(Ordering::SeqCst);
        let old = std::mem::replace(&mut self.kicked, self.avail);
        let offered =
            |event: u16| (0..self.avail.wrapping_sub(old)).any(|i| old.wrapping_add(i) == event);
        match (self.is_packed(), self.event_idx()) {
            (false, false) => self.load(USED) == 0,
            (false, true) => offered(self.avail_event()),
            (true, event_idx) => {
                let raw = u32::from_le_bytes(self.read(USED, 4).try_into().unwrap());
                match raw >> 16 {
                    0 => true,
                    1 => false,
                    2 if event_idx => {
                        let n = self.avail.wrapping_sub(old);
                        (0..n).any(|i| self.side(old.wrapping_add(i)) == raw as u16)
                    }
                    other => panic!("device event flags {other}"),
                }
            }
        }
    }

    /// Writes the driver's event suppression area of a packed ring, whole.
    pub(crate) fn set_driver_event(&self, side: u16, flags: u16) {
        let word = u32::from(side) | u32::from(flags) << 16;
        let slice = self.mem.slice_mut(AVAIL, 4).unwrap();
        slice.store(0, word.to_le(), Ordering::SeqCst).unwrap();
    }

    pub(crate) fn set_used_event(&self, event: u16) {
        self.store(AVAIL + 4 + u64::from(self.size) * 2, event);
    }

    pub(crate) fn avail_event(&self) -> u16 {
        self.load(USED + 4 + u64::from(self.size) * 8)
    }
}
