//! A packed virtqueue (virtio 2.8) whose chains are single descriptors. Never looks at what is in the buffers.

use std::sync::atomic::Ordering;

use super::vring::{Areas, BURST, Buffers, Mem, Used, VIRTIO_NET_HEADER, Virtqueue, Vring};
use vf_guest::driver::{DESC_WRITE, DeviceFault};
use vf_guest::eventfd::EventFd;
use vf_guest::memory::{Allocator, GUEST_BASE};

const AVAIL: u16 = 1 << 7;
const USED: u16 = 1 << 15;
/// Event suppression: no notifications at all (virtio 2.8.14).
const DISABLE: u16 = 1;

/// The driver's end of a packed virtqueue.
pub(crate) struct Packed {
    areas: Areas,
    size: u16,
    in_order: bool,
    buffers: Buffers,
    /// At ring position `i`: the buffer that is, or will be, made available there.
    order: Box<[u16]>,
    /// Which buffers the device holds; not kept for a device that promised order.
    held: Box<[bool]>,
    avail: Cursor,
    used: Cursor,
    outstanding: u16,
}

/// A place in the ring, with the wrap counter of its lap (virtio 2.8.1).
#[derive(Clone, Copy)]
struct Cursor {
    at: u16,
    lap: bool,
}

impl Cursor {
    const START: Cursor = Cursor { at: 0, lap: true };

    /// `n` descriptors on, at most once round.
    #[inline]
    fn advance(&mut self, n: u16, size: u16) {
        self.at += n;
        if self.at >= size {
            self.at -= size;
            self.lap = !self.lap;
        }
    }
}

impl Packed {
    /// Id and length of the next used descriptor, if there is one.
    #[inline]
    fn peek_used(&self, mem: Mem<'_>) -> Option<(u16, u32)> {
        let word = mem.shared_word(self.areas.desc + 16 * usize::from(self.used.at) + 8);
        let word = u64::from_le(word.load(Ordering::Acquire));
        let flags = (word >> 48) as u16;
        let (avail, used) = (flags & AVAIL != 0, flags & USED != 0);
        (avail == self.used.lap && used == self.used.lap)
            .then_some(((word >> 32) as u16, word as u32))
    }

    #[inline]
    fn unknown(id: u16) -> DeviceFault {
        DeviceFault::UnknownChain { id: id.into() }
    }
}

impl Virtqueue for Packed {
    const PACKED: bool = true;
    /// Index 0 and wrap counter 1 for both directions (vhost-user "A vring state description").
    const BASE: u32 = 0x8000_8000;

    fn areas(&self) -> Areas {
        self.areas
    }
}

impl Vring for Packed {
    const HEADER: usize = VIRTIO_NET_HEADER;

    fn new(
        mem: Mem<'_>,
        alloc: &mut Allocator,
        size: u16,
        in_order: bool,
        buffers: Buffers,
    ) -> Option<Packed> {
        let mut place = |len| Some((alloc.alloc(len, 128)? - GUEST_BASE) as usize);
        let areas = Areas {
            desc: place(16 * u64::from(size))?,
            avail: place(4)?,
            used: place(4)?,
        };
        mem.shared(areas.avail + 2)
            .store(DISABLE.to_le(), Ordering::Relaxed);
        Some(Packed {
            areas,
            size,
            in_order,
            buffers,
            order: (0..size).collect(),
            held: vec![false; size.into()].into(),
            avail: Cursor::START,
            used: Cursor::START,
            outstanding: 0,
        })
    }

    fn size(&self) -> u16 {
        self.size
    }

    #[inline]
    fn room(&self) -> u16 {
        self.size - self.outstanding
    }

    #[inline]
    fn slot(&self, k: u16) -> u16 {
        let at = self.avail.at + k;
        self.order[usize::from(if at < self.size { at } else { at - self.size })]
    }

    #[inline]
    fn make_available(&mut self, mem: Mem<'_>, n: u16, len: u32) {
        if n == 0 {
            return;
        }
        let ring = mem.words(self.areas.desc, 2 * usize::from(self.size));
        let write = if self.buffers.writable { DESC_WRITE } else { 0 };
        let first = usize::from(self.avail.at);
        let mut first_tail = 0;
        for k in 0..n {
            let at = usize::from(self.avail.at);
            let slot = self.order[at];
            let addr = self.buffers.addr + u64::from(self.buffers.stride) * u64::from(slot);
            let flags = write | if self.avail.lap { AVAIL } else { USED };
            let tail = u64::from(len) | u64::from(slot) << 32 | u64::from(flags) << 48;
            // The device goes no further than the first that is not available: it comes last.
            if k == 0 {
                ring.store(2 * at, addr.to_le());
                first_tail = tail;
            } else {
                mem.put([addr, tail], self.areas.desc + 16 * at);
            }
            if !self.in_order {
                self.held[usize::from(slot)] = true;
            }
            self.avail.advance(1, self.size);
        }
        self.outstanding += n;
        mem.shared_word(self.areas.desc + 16 * first + 8)
            .store(first_tail.to_le(), Ordering::Release);
    }

    #[inline]
    fn take_used(&mut self, mem: Mem<'_>, into: &mut [Used; BURST]) -> Result<u16, DeviceFault> {
        let mut n = 0;
        while usize::from(n) < BURST && n < self.outstanding {
            let Some((id, len)) = self.peek_used(mem) else {
                break;
            };
            let at = usize::from(self.used.at);
            if self.in_order {
                // One descriptor for a whole batch would hide the lengths of all but the last.
                if id != self.order[at] {
                    return Err(Packed::unknown(id));
                }
            } else {
                let held = self.held.get_mut(usize::from(id));
                if !std::mem::replace(held.ok_or(Packed::unknown(id))?, false) {
                    return Err(Packed::unknown(id));
                }
                self.order[at] = id;
            }
            into[usize::from(n)] = Used { slot: id, len };
            self.used.advance(1, self.size);
            n += 1;
        }
        self.outstanding -= n;
        Ok(n)
    }

    #[inline]
    fn reclaim(&mut self, mem: Mem<'_>) -> Result<(), DeviceFault> {
        if !self.in_order {
            while self.take_used(mem, &mut [Used::default(); BURST])? > 0 {}
            return Ok(());
        }
        while self.outstanding > 0
            && let Some((id, _)) = self.peek_used(mem)
        {
            // The last of a batch stands for all of it (virtio 2.8.7).
            let before = id.wrapping_sub(self.order[usize::from(self.used.at)]) & (self.size - 1);
            let n = before + 1;
            if id >= self.size || n > self.outstanding {
                return Err(Packed::unknown(id));
            }
            self.used.advance(n, self.size);
            self.outstanding -= n;
        }
        Ok(())
    }

    #[inline]
    fn notify(&self, mem: Mem<'_>, kick: &EventFd) {
        let flags = mem.shared(self.areas.used + 2).load(Ordering::Relaxed);
        if u16::from_le(flags) & 3 != DISABLE {
            kick.signal();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::VecDeque;
    use vf_guest::memory::GuestMemory;

    const SIZE: u16 = 8;

    /// The device's end: reads and writes descriptors as virtio 2.8 has them, one at a time.
    struct Device {
        desc: usize,
        avail: Cursor,
        used: Cursor,
    }

    impl Device {
        fn take(&mut self, mem: Mem<'_>) -> Option<(u64, u32, u16, bool)> {
            let desc = mem.words(self.desc + 16 * usize::from(self.avail.at), 2);
            let tail = desc.load(1);
            let flags = (tail >> 48) as u16;
            let (avail, used) = (flags & AVAIL != 0, flags & USED != 0);
            if avail != self.avail.lap || used == self.avail.lap {
                return None;
            }
            self.avail.advance(1, SIZE);
            let write = flags & DESC_WRITE != 0;
            Some((desc.load(0), tail as u32, (tail >> 32) as u16, write))
        }

        /// Uses `n` buffers with one descriptor.
        fn give_back(&mut self, mem: Mem<'_>, id: u16, len: u32, n: u16) {
            let flags = if self.used.lap { AVAIL | USED } else { 0 };
            let tail = u64::from(len) | u64::from(id) << 32 | u64::from(flags) << 48;
            mem.words(self.desc + 16 * usize::from(self.used.at), 2)
                .store(1, tail);
            self.used.advance(n, SIZE);
        }
    }

    fn ring(memory: &GuestMemory, in_order: bool) -> (Packed, Device) {
        let mut alloc = Allocator::new(memory.regions()[0].layout());
        let buffers = Buffers {
            addr: 0x1000,
            stride: 0x100,
            writable: true,
        };
        let mem = Mem(memory.regions()[0].mapping());
        let ring = Packed::new(mem, &mut alloc, SIZE, in_order, buffers).unwrap();
        let device = Device {
            desc: ring.areas.desc,
            avail: Cursor::START,
            used: Cursor::START,
        };
        (ring, device)
    }

    proptest! {
        /// Whatever is made available arrives once, in order, and comes back once, in whatever
        /// order the device uses it.
        #[test]
        fn buffers_go_round(in_order: bool, steps in prop::collection::vec((0u16..=SIZE, 0u16..=SIZE, any::<bool>()), 1..60)) {
            let memory = GuestMemory::new(4096, true).unwrap();
            let mem = Mem(memory.regions()[0].mapping());
            let (mut ring, mut device) = ring(&memory, in_order);
            let mut held = VecDeque::new();
            for (give, take, reverse) in steps {
                let n = give.min(ring.room());
                let expected: Vec<_> = (0..n).map(|k| ring.slot(k)).collect();
                ring.make_available(mem, n, 77);
                for slot in expected {
                    let addr = 0x1000 + 0x100 * u64::from(slot);
                    prop_assert_eq!(device.take(mem), Some((addr, 77, slot, true)));
                    held.push_back(slot);
                }
                prop_assert_eq!(device.take(mem), None);
                prop_assert_eq!(ring.room() + held.len() as u16, SIZE);

                if reverse && !in_order {
                    held.make_contiguous().reverse();
                }
                let mut used = [Used::default(); BURST];
                let done: Vec<_> = held.drain(..usize::from(take).min(held.len())).collect();
                if in_order && reverse && let Some(last) = done.last() {
                    device.give_back(mem, *last, 5, done.len() as u16);
                    ring.reclaim(mem).unwrap();
                } else {
                    for slot in &done {
                        device.give_back(mem, *slot, u32::from(*slot), 1);
                    }
                    let n = ring.take_used(mem, &mut used).unwrap();
                    let came: Vec<_> = used[..usize::from(n)].iter().map(|u| (u.slot, u.len)).collect();
                    let sent: Vec<_> = done.iter().map(|slot| (*slot, u32::from(*slot))).collect();
                    prop_assert_eq!(came, sent);
                }
                prop_assert_eq!(ring.take_used(mem, &mut used), Ok(0));
            }
        }
    }

    #[test]
    fn what_a_device_must_not_do_is_found() {
        let memory = GuestMemory::new(4096, true).unwrap();
        let mem = Mem(memory.regions()[0].mapping());
        let mut used = [Used::default(); BURST];
        for in_order in [false, true] {
            let (mut ring, mut device) = ring(&memory, in_order);
            ring.make_available(mem, 2, 64);
            device.give_back(mem, 5, 0, 1);
            assert_eq!(ring.take_used(mem, &mut used), Err(Packed::unknown(5)));
            assert_eq!(ring.reclaim(mem), Err(Packed::unknown(5)));
        }
    }
}
