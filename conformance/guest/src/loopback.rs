//! The device's end of a net device's rings in the same process, so that a driver can be tried without a back end.
//!
//! As small as it can be, and no model of a device: it neither negotiates nor judges. It trusts the driver, and panics when
//! the driver puts an address outside its memory on a ring: for tests, examples and benchmarks, never behind a socket.

#![allow(
    clippy::unwrap_used,
    reason = "a driver under test that breaks its own ring has to end the test"
)]

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};

use vm_memory::Bytes;

use crate::driver::{DESC_INDIRECT, DESC_NEXT, DESC_WRITE, QueueLayout, RingFeatures, Virtqueue};
use crate::memory::GuestMemory;
use crate::net::{NetDevice, feature};

/// The device's end of one ring. Entries are counted from the start; of a packed ring, descriptors.
#[derive(Debug)]
pub struct DeviceRing {
    mem: Arc<GuestMemory>,
    layout: QueueLayout,
    features: RingFeatures,
    last_avail: u16,
    used: u16,
    called_at: u16,
    /// Entries that each chain takes which was popped, by what it is given back by.
    entries: HashMap<u16, u16>,
}

/// A chain: what it is given back by, and its buffers (guest address, length, device-writable).
pub type DeviceChain = (u16, Vec<(u64, u32, bool)>);

impl DeviceRing {
    /// The device's end of a driver's queue, which begins where the queue begins.
    pub fn new(queue: &Virtqueue, features: RingFeatures) -> DeviceRing {
        let (mem, layout) = (queue.memory().clone(), queue.layout());
        DeviceRing::at(mem, layout, features, queue.base())
    }

    /// The end of a ring at these addresses that goes on at this base.
    pub fn at(
        mem: Arc<GuestMemory>,
        layout: QueueLayout,
        features: RingFeatures,
        base: u32,
    ) -> DeviceRing {
        let start = match features.packed {
            false => base as u16,
            // A power of two, so that counts wrap around where laps do.
            true => (base & 0x7fff) as u16 + if base & 0x8000 == 0 { layout.size } else { 0 },
        };
        DeviceRing {
            mem,
            layout,
            features,
            last_avail: start,
            used: start,
            called_at: start,
            entries: HashMap::new(),
        }
    }

    fn load(&self, at: u64) -> u16 {
        self.mem
            .slice(at, 2)
            .unwrap()
            .load(0, Ordering::Acquire)
            .unwrap()
    }

    fn store(&self, at: u64, value: u16) {
        self.mem
            .slice(at, 2)
            .unwrap()
            .store(value, 0, Ordering::Release)
            .unwrap();
    }

    fn bytes<const N: usize>(&self, at: u64) -> [u8; N] {
        let mut bytes = [0; N];
        self.mem
            .slice(at, N)
            .unwrap()
            .read_slice(&mut bytes, 0)
            .unwrap();
        bytes
    }

    fn write(&self, at: u64, bytes: &[u8]) {
        let slice = self.mem.slice(at, bytes.len()).unwrap();
        slice.write_slice(bytes, 0).unwrap();
    }

    /// Address of a descriptor of a packed ring, and whether the wrap counter of its lap is 1.
    fn place(&self, entry: u16) -> (u64, bool) {
        let at = self.layout.desc + 16 * u64::from(entry % self.layout.size);
        (at, (entry / self.layout.size).is_multiple_of(2))
    }

    /// How many chains wait to be taken; of a packed ring, whether there is one.
    pub fn waiting(&self) -> u16 {
        if self.features.packed {
            let (at, wrap) = self.place(self.last_avail);
            let available = if wrap { 1 << 7 } else { 1 << 15 };
            return (self.load(at + 14) & (1 << 7 | 1 << 15) == available).into();
        }
        self.load(self.layout.avail + 2)
            .wrapping_sub(self.last_avail)
    }

    /// Tells the driver to kick for the next chain.
    fn ask_for_kick(&self) {
        if self.features.packed {
            let (at, wrap) = self.place(self.last_avail);
            let offset = ((at - self.layout.desc) / 16) as u16 | u16::from(wrap) << 15;
            self.store(self.layout.used, offset);
            self.store(
                self.layout.used + 2,
                if self.features.event_idx { 2 } else { 0 },
            );
        } else {
            let event = self.layout.used + 4 + 8 * u64::from(self.layout.size);
            self.store(event, self.last_avail);
        }
        fence(Ordering::SeqCst);
    }

    /// Takes the next chain; asks for a kick when there is none.
    pub fn pop(&mut self) -> Option<DeviceChain> {
        if self.waiting() == 0 {
            self.ask_for_kick();
            if self.waiting() == 0 {
                return None;
            }
        }
        let (chain, entries) = if self.features.packed {
            self.pop_packed()
        } else {
            (self.pop_split(), 1)
        };
        self.last_avail = self.last_avail.wrapping_add(entries);
        self.entries.insert(chain.0, entries);
        Some(chain)
    }

    fn pop_split(&self) -> DeviceChain {
        let slot = u64::from(self.last_avail % self.layout.size);
        let head = self.load(self.layout.avail + 4 + 2 * slot);
        let mut buffers = Vec::new();
        let (mut table, mut index) = (self.layout.desc, head);
        loop {
            let desc: [u8; 16] = self.bytes(table + 16 * u64::from(index));
            let addr = u64::from_le_bytes(desc[..8].try_into().unwrap());
            let len = u32::from_le_bytes(desc[8..12].try_into().unwrap());
            let flags = u16::from_le_bytes(desc[12..14].try_into().unwrap());
            if flags & DESC_INDIRECT != 0 {
                (table, index) = (addr, 0);
                continue;
            }
            buffers.push((addr, len, flags & DESC_WRITE != 0));
            if flags & DESC_NEXT == 0 {
                return (head, buffers);
            }
            index = u16::from_le_bytes(desc[14..16].try_into().unwrap());
        }
    }

    fn pop_packed(&self) -> (DeviceChain, u16) {
        let mut buffers = Vec::new();
        for entry in 0.. {
            let desc: [u8; 16] = self.bytes(self.place(self.last_avail.wrapping_add(entry)).0);
            let (addr, len, id, flags) = packed_fields(desc);
            if flags & DESC_INDIRECT == 0 {
                buffers.push((addr, len, flags & DESC_WRITE != 0));
            } else {
                for at in (addr..addr + u64::from(len)).step_by(16) {
                    let (addr, len, _, flags) = packed_fields(self.bytes(at));
                    buffers.push((addr, len, flags & DESC_WRITE != 0));
                }
            }
            if flags & DESC_NEXT == 0 {
                return ((id, buffers), entry + 1);
            }
        }
        unreachable!("a chain has an end");
    }

    /// Gives a chain back with the bytes that were written into it.
    pub fn push_used(&mut self, head: u16, len: u32) {
        self.push_batch(&[head], len);
    }

    /// Gives chains back with one entry, that of the last.
    pub fn push_batch(&mut self, chains: &[u16], len: u32) {
        let &last = chains.last().unwrap();
        self.write_used(last, len);
        let entries = chains
            .iter()
            .map(|id| self.entries.get(id).copied().unwrap_or(1));
        self.advance_used(entries.sum());
    }

    /// Writes the next used entry without telling the driver, which [`DeviceRing::advance_used`] does.
    pub fn write_used(&self, head: u16, len: u32) {
        if self.features.packed {
            let (at, wrap) = self.place(self.used);
            let lap = if wrap { 1 << 7 | 1 << 15 } else { 0 };
            let flags = lap | if len > 0 { DESC_WRITE } else { 0 };
            self.write(at + 8, &len.to_le_bytes());
            self.write(at + 12, &head.to_le_bytes());
            self.store(at + 14, flags);
            return;
        }
        let at = self.layout.used + 4 + 8 * u64::from(self.used % self.layout.size);
        let elem = u64::from(head) | u64::from(len) << 32;
        self.write(at, &elem.to_le_bytes());
    }

    /// Tells the driver of used entries that were written.
    pub fn advance_used(&mut self, by: u16) {
        self.used = self.used.wrapping_add(by);
        if !self.features.packed {
            self.store(self.layout.used + 2, self.used);
        }
    }

    /// Whether the driver wants to be called for what was used since the last time.
    pub fn wants_call(&mut self) -> bool {
        let old = std::mem::replace(&mut self.called_at, self.used);
        fence(Ordering::SeqCst);
        let mut used = (0..self.used.wrapping_sub(old)).map(|i| old.wrapping_add(i));
        match (self.features.packed, self.features.event_idx) {
            (true, _) => {
                let (event, flags) = (
                    self.load(self.layout.avail),
                    self.load(self.layout.avail + 2),
                );
                let at = |entry| {
                    let (at, wrap) = self.place(entry);
                    ((at - self.layout.desc) / 16) as u16 | u16::from(wrap) << 15
                };
                flags == 0 && old != self.used || flags == 2 && used.any(|entry| at(entry) == event)
            }
            (false, true) => {
                let event = self.load(self.layout.avail + 4 + 2 * u64::from(self.layout.size));
                used.any(|entry| entry == event)
            }
            (false, false) => old != self.used && self.load(self.layout.avail) & 1 == 0,
        }
    }
}

/// Address, length, identifier and flags.
fn packed_fields(desc: [u8; 16]) -> (u64, u32, u16, u16) {
    let (low, high) = desc.split_at(8);
    let word = u64::from_le_bytes(high.try_into().unwrap());
    let addr = u64::from_le_bytes(low.try_into().unwrap());
    (addr, word as u32, (word >> 32) as u16, (word >> 48) as u16)
}

/// The device's end of one queue pair.
#[derive(Debug)]
pub struct DevicePair {
    /// The ring the driver sends on.
    pub tx: DeviceRing,
    /// The ring the driver receives on.
    pub rx: DeviceRing,
    merge: bool,
}

impl DevicePair {
    /// The device's end of the first queue pair of a net device.
    pub fn new(net: &mut NetDevice) -> DevicePair {
        let features = RingFeatures {
            packed: net.has(feature::RING_PACKED),
            event_idx: net.has(feature::EVENT_IDX),
            in_order: net.has(feature::IN_ORDER),
        };
        DevicePair {
            tx: DeviceRing::new(&net.tx_ring(0).queue, features),
            rx: DeviceRing::new(&net.rx_ring(0).queue, features),
            merge: net.has(feature::MRG_RXBUF),
        }
    }

    /// The next frame the driver sends, header in front.
    pub fn take(&mut self) -> Option<Vec<u8>> {
        let (head, buffers) = self.tx.pop()?;
        let mut frame = Vec::new();
        for (addr, len, writable) in buffers {
            assert!(!writable);
            let start = frame.len();
            frame.resize(start + len as usize, 0);
            let from = self.tx.mem.slice(addr, len as usize).unwrap();
            from.read_slice(&mut frame[start..], 0).unwrap();
        }
        self.tx.push_used(head, 0);
        Some(frame)
    }

    /// Delivers a frame with its header in front; false when there are too few buffers.
    pub fn give(&mut self, frame: &[u8]) -> bool {
        let before = self.rx.last_avail;
        let mut chains = Vec::new();
        let mut rest = frame;
        while !rest.is_empty() {
            let Some((head, buffers)) = self.rx.pop() else {
                self.rx.last_avail = before;
                return false;
            };
            let start = rest.len();
            for (addr, len, _) in buffers {
                let (now, later) = rest.split_at(rest.len().min(len as usize));
                self.rx
                    .mem
                    .slice(addr, now.len())
                    .unwrap()
                    .write_slice(now, 0)
                    .unwrap();
                if chains.is_empty() && start == frame.len() && now.len() == start - later.len() {
                    chains.push((head, addr, 0));
                }
                rest = later;
            }
            let used = (start - rest.len()) as u32;
            match chains.last_mut() {
                Some(first) if first.0 == head => first.2 = used,
                _ => chains.push((head, 0, used)),
            }
            assert!(
                self.merge || rest.is_empty(),
                "the frame does not fit one buffer"
            );
        }
        let count = (chains.len() as u16).to_le_bytes();
        self.rx
            .mem
            .slice(chains[0].1 + 10, 2)
            .unwrap()
            .write_slice(&count, 0)
            .unwrap();
        // The first entry last, or in one go: all of them belong together.
        let first = self.rx.used;
        for (head, _, len) in chains.iter().skip(1) {
            self.rx.used = self.rx.used.wrapping_add(1);
            self.rx.write_used(*head, *len);
        }
        self.rx.used = first;
        self.rx.write_used(chains[0].0, chains[0].2);
        self.rx.advance_used(chains.len() as u16);
        true
    }
}
