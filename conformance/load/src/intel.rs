//! A descriptor ring of Intel's 82599 VF whose frames are single descriptors, and the port that has a pair of them.
//!
//! As DPDK's driver, it writes the tail once a burst and asks to be told of the last descriptor of a burst only. The tail is a word in a page that
//! the device looks at: a message a burst would be what is measured. Asks for no offload and waits for no interrupt.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::port::{Port, PortConfig, PortError, Session};
use super::vring::{BURST, Buffers, Mem, Used, Vring};
use vf_guest::driver::DeviceFault;
use vf_guest::eventfd::EventFd;
use vf_guest::ixgbevf::{Registers, enable, reg, reset};
use vf_guest::memory::{Allocator, GUEST_BASE};
use vf_guest::pci::{Page, PciFunction};

/// The longest frame that fits into a buffer of the size that is asked for, 2 KiB.
pub(crate) const LONGEST: usize = 2048;

/// Of a transmit descriptor: an advanced one of data, with FCS; the end of a frame; to be reported.
const DATA: u64 = 3 << 20 | 1 << 29 | 1 << 25;
const END: u64 = 1 << 24;
const REPORT: u64 = 1 << 27;
/// In what is written back: done. Of a transmit descriptor it is in the upper half.
const DONE: u64 = 1;
const SENT: u64 = 1 << 32;

/// The driver's end of a ring.
pub(crate) struct Intel {
    /// Where the descriptors are.
    at: usize,
    size: u16,
    buffers: Buffers,
    /// The next descriptor that is given to the device, and the first that it has not given back.
    next: u16,
    oldest: u16,
    /// Descriptors that it will report, of a ring that sends.
    reported: VecDeque<u16>,
    tail: Option<(Arc<Page>, u64)>,
}

impl Intel {
    #[inline]
    fn after(&self, index: u16, n: u16) -> u16 {
        index.wrapping_add(n) & (self.size - 1)
    }

    #[inline]
    fn status(&self, mem: Mem<'_>, index: u16) -> u64 {
        let word = mem.shared_word(self.at + 16 * usize::from(index) + 8);
        u64::from_le(word.load(Ordering::Acquire))
    }

    /// Writes the tail.
    #[inline]
    fn ring(&self) {
        let tail = self.tail.as_ref();
        if let Some(register) = tail.and_then(|(page, at)| page.register(*at)) {
            register.store(u32::from(self.next).to_le(), Ordering::Release);
        }
    }

    fn start(
        &mut self,
        function: &mut PciFunction,
        at: u64,
        control: u32,
    ) -> Result<(), PortError> {
        let page = function.page().ok_or(PortError::NoDoorbellPage)?;
        self.tail = Some((Arc::clone(page), at + reg::TAIL));
        let base = GUEST_BASE + self.at as u64;
        enable(function, at, base, self.size, control).map_err(PortError::Driver)
    }
}

impl Vring for Intel {
    const HEADER: usize = 0;

    fn new(
        _: Mem<'_>,
        alloc: &mut Allocator,
        size: u16,
        _in_order: bool,
        buffers: Buffers,
    ) -> Option<Intel> {
        Some(Intel {
            at: (alloc.alloc(16 * u64::from(size), 128)? - GUEST_BASE) as usize,
            size,
            buffers,
            next: 0,
            oldest: 0,
            reported: VecDeque::new(),
            tail: None,
        })
    }

    fn size(&self) -> u16 {
        self.size
    }

    /// One less than there are descriptors: a full ring would look like an empty one.
    #[inline]
    fn room(&self) -> u16 {
        self.size - 1 - (self.next.wrapping_sub(self.oldest) & (self.size - 1))
    }

    #[inline]
    fn slot(&self, k: u16) -> u16 {
        self.after(self.next, k)
    }

    #[inline]
    fn make_available(&mut self, mem: Mem<'_>, n: u16, len: u32) {
        let len = u64::from(len);
        for k in 0..n {
            let slot = self.after(self.next, k);
            let addr = self.buffers.addr + u64::from(self.buffers.stride) * u64::from(slot);
            let rest = match self.buffers.writable {
                true => 0,
                false if k + 1 == n => len << 46 | DATA | END | REPORT | len,
                false => len << 46 | DATA | END | len,
            };
            mem.put([addr, rest], self.at + 16 * usize::from(slot));
        }
        if n > 0 && !self.buffers.writable {
            self.reported.push_back(self.after(self.next, n - 1));
        }
        self.next = self.after(self.next, n);
    }

    #[inline]
    fn take_used(&mut self, mem: Mem<'_>, into: &mut [Used; BURST]) -> Result<u16, DeviceFault> {
        let mut n = 0;
        for used in into.iter_mut() {
            let status = self.status(mem, self.oldest);
            if self.oldest == self.next || status & DONE == 0 {
                break;
            }
            let len = (status >> 32) as u32 & 0xffff;
            *used = Used {
                slot: self.oldest,
                len,
            };
            self.oldest = self.after(self.oldest, 1);
            n += 1;
        }
        Ok(n)
    }

    #[inline]
    fn reclaim(&mut self, mem: Mem<'_>) -> Result<(), DeviceFault> {
        while let Some(&last) = self.reported.front() {
            if self.status(mem, last) & SENT == 0 {
                break;
            }
            self.reported.pop_front();
            self.oldest = self.after(last, 1);
        }
        Ok(())
    }

    #[inline]
    fn notify(&self, _: Mem<'_>, _: &EventFd) {
        self.ring();
    }
}

impl Port<Intel> {
    /// Resets the function and starts a pair of rings.
    pub(crate) fn start_function(
        mut function: PciFunction,
        config: &PortConfig,
    ) -> Result<Port<Intel>, PortError> {
        let mut port = Port::<Intel>::detached(config)?;
        function.start(port.memory())?;
        let mac = reset(&mut function).map_err(PortError::Driver)?;
        let (rx, tx) = port.rings();
        // One buffer a descriptor, of so many KiB.
        let kib = (LONGEST / 1024) as u32;
        function.write(reg::RX + reg::SRRCTL, 1 << 25 | kib);
        rx.start(&mut function, reg::RX, 0)?;
        tx.start(&mut function, reg::TX, 0)?;
        rx.ring();
        // A message: by then the device has looked at what was written without one.
        if function.read(reg::VFLINKS) & 1 << 30 == 0 {
            return Err(PortError::NoLink);
        }
        port.joined(Session::Function(Box::new(function)), Some(mac));
        Ok(port)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn port() -> Port<Intel> {
        let config = PortConfig {
            in_order: false,
            mergeable: false,
            pairs: 1,
            queue_size: 8,
            frame: 64,
        };
        Port::detached(&config).unwrap()
    }

    #[test]
    fn a_burst_comes_back_when_its_last_descriptor_is_reported() {
        let mut port = port();
        for _ in 0..5 {
            assert_eq!(port.send(0, 4, 64, || None, None).unwrap(), 4);
            assert_eq!(port.send(0, 4, 64, || None, None).unwrap(), 3, "7 of 8");
            assert_eq!(port.send(0, 1, 64, || None, None).unwrap(), 0);
            let memory = Arc::clone(port.memory());
            let mem = Mem(memory.regions()[0].mapping());
            let (_, tx) = port.rings();
            assert_eq!(tx.reported.len(), 2);
            for last in tx.reported.clone() {
                let word = mem.shared_word(tx.at + 16 * usize::from(last) + 8);
                assert_ne!(word.load(Ordering::Relaxed) & REPORT, 0);
                word.store(SENT, Ordering::Relaxed);
                tx.reclaim(mem).unwrap();
            }
            assert_eq!(tx.room(), 7);
        }
    }

    #[test]
    fn received_frames_are_taken_in_order_and_their_buffers_given_back() {
        let mut port = port();
        let memory = Arc::clone(port.memory());
        let mem = Mem(memory.regions()[0].mapping());
        for round in 0..20u64 {
            let (rx, _) = port.rings();
            assert_eq!(rx.room(), 0);
            let word = mem.shared_word(rx.at + 16 * usize::from(rx.oldest) + 8);
            word.store(DONE | 2 | (60 + round) << 32, Ordering::Relaxed);
            let mut lengths = Vec::new();
            let n = port.receive(0, None, |arrival| lengths.push(u64::from(arrival.len)));
            assert_eq!((n, lengths), (Ok(1), vec![60 + round]));
        }
    }
}
