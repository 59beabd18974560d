//! A split virtqueue (virtio 2.7) whose chains are single descriptors. Never looks at what is in the buffers.

use std::sync::atomic::Ordering;

use super::vring::{Areas, BURST, Buffers, Mem, Used, VIRTIO_NET_HEADER, Virtqueue, Vring};
use vf_guest::driver::{DESC_WRITE, DeviceFault};
use vf_guest::eventfd::EventFd;
use vf_guest::memory::{Allocator, GUEST_BASE};

const NO_INTERRUPT: u16 = 1;
const NO_NOTIFY: u16 = 1;

/// The driver's end of a split virtqueue.
pub(crate) struct Split {
    areas: Areas,
    size: u16,
    mask: u16,
    in_order: bool,
    buffers: Buffers,
    /// At ring position `i`: the buffer that is, or will be, made available there. A device that
    /// uses buffers in order leaves it as it is, so that it need not even be read.
    order: Box<[u16]>,
    /// What the available ring holds, so that it is written only where it changes.
    written: Box<[u16]>,
    /// Which buffers the device holds; not kept for a device that promised order.
    held: Box<[bool]>,
    next_avail: u16,
    last_used: u16,
}

impl Split {
    #[inline]
    fn outstanding(&self) -> u16 {
        self.next_avail.wrapping_sub(self.last_used)
    }

    /// How many buffers were used since the last look.
    #[inline]
    fn moved(&self, mem: Mem<'_>) -> Result<u16, DeviceFault> {
        let used = mem.shared(self.areas.used + 2).load(Ordering::Acquire);
        let moved = u16::from_le(used).wrapping_sub(self.last_used);
        let outstanding = self.outstanding();
        if moved > outstanding {
            return Err(DeviceFault::UsedIndexJump { moved, outstanding });
        }
        Ok(moved)
    }
}

impl Virtqueue for Split {
    const PACKED: bool = false;
    const BASE: u32 = 0;

    fn areas(&self) -> Areas {
        self.areas
    }
}

impl Vring for Split {
    const HEADER: usize = VIRTIO_NET_HEADER;

    fn new(
        mem: Mem<'_>,
        alloc: &mut Allocator,
        size: u16,
        in_order: bool,
        buffers: Buffers,
    ) -> Option<Split> {
        let n = u64::from(size);
        let mut place = |len| Some((alloc.alloc(len, 128)? - GUEST_BASE) as usize);
        let areas = Areas {
            desc: place(16 * n)?,
            avail: place(6 + 2 * n)?,
            used: place(6 + 8 * n)?,
        };
        mem.shared(areas.avail)
            .store(NO_INTERRUPT.to_le(), Ordering::Relaxed);
        Some(Split {
            areas,
            size,
            mask: size - 1,
            in_order,
            buffers,
            order: (0..size).collect(),
            // No slot has this number: every entry is written once.
            written: vec![u16::MAX; size.into()].into(),
            held: vec![false; size.into()].into(),
            next_avail: 0,
            last_used: 0,
        })
    }

    fn size(&self) -> u16 {
        self.size
    }

    #[inline]
    fn room(&self) -> u16 {
        self.size - self.outstanding()
    }

    #[inline]
    fn slot(&self, k: u16) -> u16 {
        self.order[usize::from(self.next_avail.wrapping_add(k) & self.mask)]
    }

    #[inline]
    fn make_available(&mut self, mem: Mem<'_>, n: u16, len: u32) {
        let ring = mem.shorts(self.areas.avail + 4, usize::from(self.size));
        let flags = if self.buffers.writable { DESC_WRITE } else { 0 };
        let tail = u64::from(len) | u64::from(flags) << 32;
        for _ in 0..n {
            let at = usize::from(self.next_avail & self.mask);
            let slot = self.order[at];
            let desc = self.areas.desc + 16 * usize::from(slot);
            let addr = self.buffers.addr + u64::from(self.buffers.stride) * u64::from(slot);
            mem.put([addr, tail], desc);
            if self.written[at] != slot {
                self.written[at] = slot;
                ring.store(at, slot.to_le());
            }
            if !self.in_order {
                self.held[usize::from(slot)] = true;
            }
            self.next_avail = self.next_avail.wrapping_add(1);
        }
        mem.shared(self.areas.avail + 2)
            .store(self.next_avail.to_le(), Ordering::Release);
    }

    #[inline]
    fn take_used(&mut self, mem: Mem<'_>, into: &mut [Used; BURST]) -> Result<u16, DeviceFault> {
        let n = self.moved(mem)?.min(BURST as u16);
        if n == 0 {
            return Ok(0);
        }
        let ring = mem.words(self.areas.used + 4, usize::from(self.size));
        for used in &mut into[..usize::from(n)] {
            let at = usize::from(self.last_used & self.mask);
            let elem = u64::from_le(ring.load(at));
            let (id, len) = (elem as u32, (elem >> 32) as u32);
            let unknown = DeviceFault::UnknownChain { id };
            let slot = id as u16;
            if self.in_order {
                // One entry for a whole batch would hide the lengths of all but the last.
                if id != u32::from(self.order[at]) {
                    return Err(unknown);
                }
            } else {
                let held = self.held.get_mut(id as usize).ok_or(unknown)?;
                if !std::mem::replace(held, false) {
                    return Err(unknown);
                }
                self.order[at] = slot;
            }
            *used = Used { slot, len };
            self.last_used = self.last_used.wrapping_add(1);
        }
        Ok(n)
    }

    #[inline]
    fn reclaim(&mut self, mem: Mem<'_>) -> Result<(), DeviceFault> {
        if self.in_order {
            self.last_used = self.last_used.wrapping_add(self.moved(mem)?);
            return Ok(());
        }
        while self.take_used(mem, &mut [Used::default(); BURST])? > 0 {}
        Ok(())
    }

    #[inline]
    fn notify(&self, mem: Mem<'_>, kick: &EventFd) {
        let flags = mem.shared(self.areas.used).load(Ordering::Relaxed);
        if u16::from_le(flags) & NO_NOTIFY == 0 {
            kick.signal();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::port::tests::Device;
    use crate::port::{Port, PortConfig};

    fn port(in_order: bool) -> (Port<Split>, Device) {
        let config = PortConfig {
            in_order,
            mergeable: false,
            pairs: 1,
            queue_size: 8,
            frame: 64,
        };
        let port = Port::detached(&config).unwrap();
        let device = Device::new(&port, 0);
        (port, device)
    }

    #[test]
    fn buffers_go_round_in_whatever_order_a_device_uses_them() {
        let (mut port, mut device) = port(false);
        for round in 0..10u64 {
            let mut sent = 0..;
            let n = port.send(0, 5, 64, || sent.next().map(|k| [round * 8 + k; 8]), None);
            assert_eq!(n.unwrap(), 5);
            let mut heads: Vec<_> = std::iter::from_fn(|| device.tx.pop()).collect();
            assert_eq!(heads.len(), 5);
            heads.reverse();
            for (head, _) in heads {
                device.tx.push_used(head, 0);
            }
        }
        assert_eq!(
            port.send(0, 9, 64, || None, None).unwrap(),
            8,
            "a ring of 8"
        );
    }

    #[test]
    fn what_a_device_must_not_do_is_found() {
        for in_order in [false, true] {
            let (mut port, mut device) = port(in_order);
            device.rx.push_used(8, 20);
            let unknown = DeviceFault::UnknownChain { id: 8 };
            assert_eq!(port.receive(0, None, |_| {}), Err(unknown));

            let (mut port, mut device) = self::port(in_order);
            device.rx.advance_used(9);
            let jump = DeviceFault::UsedIndexJump {
                moved: 9,
                outstanding: 8,
            };
            assert_eq!(port.receive(0, None, |_| {}), Err(jump));

            let (mut port, mut device) = self::port(in_order);
            device.rx.push_used(0, 11);
            let short = DeviceFault::ShortHeader { len: 11 };
            assert_eq!(port.receive(0, None, |_| {}), Err(short));
        }
        let (mut port, mut device) = port(false);
        device.rx.push_used(3, 72);
        device.rx.push_used(3, 72);
        let twice = DeviceFault::UnknownChain { id: 3 };
        assert_eq!(port.receive(0, None, |_| {}), Err(twice));
    }
}
