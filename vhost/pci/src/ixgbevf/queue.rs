//! One queue: its registers, and the ring that it is while it is enabled. Knows no other queue and moves no frame.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use vf_vhost::error::RingError;
use vf_vhost::hardware::{DescriptorFormat, Doorbell, DoorbellPage, HardwareConfig};
use vf_vhost::memory::GuestMemory;
use vf_vhost::vring::Vring;

use super::descriptor::{RxFormat, TxFormat};
use super::interrupts::Interrupts;
use super::regs;
use crate::flow_hash::FlowHash;

/// Bytes of a descriptor.
const DESCRIPTOR: u32 = 16;

/// Which way frames go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Direction {
    Receive,
    Transmit,
}

impl Direction {
    /// Both, by [index](Self::index).
    pub(super) const BOTH: [Direction; 2] = [Direction::Receive, Direction::Transmit];

    pub(super) fn index(self) -> usize {
        match self {
            Direction::Receive => 0,
            Direction::Transmit => 1,
        }
    }
}

/// See the module.
#[derive(Debug)]
pub(super) struct Queue {
    pair: u16,
    way: Direction,
    base_low: u32,
    base_high: u32,
    length: u32,
    head: u32,
    tail: u32,
    control: u32,
    /// Registers that a driver finds as it wrote them: of a receive queue SRRCTL and RSCCTL, of a transmit queue where its head would
    /// be written back, which no driver asks for; of both, hints for caches.
    stored: [u32; 3],
    /// Head and tail once it was enabled.
    doorbell: Option<Arc<Doorbell>>,
    strips: Arc<AtomicBool>,
    flow_hash: Arc<FlowHash>,
    running: bool,
    /// The BAR, if the driver writes these registers there and sends no message.
    page: Option<Arc<GuestMemory>>,
}

impl Queue {
    pub(super) fn new(pair: u16, way: Direction, flow_hash: Arc<FlowHash>) -> Queue {
        Queue {
            pair,
            way,
            base_low: 0,
            base_high: 0,
            length: 0,
            head: 0,
            tail: 0,
            control: 0,
            stored: [0; 3],
            doorbell: None,
            strips: Arc::default(),
            flow_hash,
            running: false,
            page: None,
        }
    }

    /// As after a reset, which has stopped it.
    pub(super) fn reset(&mut self) {
        *self = Queue {
            doorbell: self.doorbell.take(),
            page: self.page.take(),
            ..Queue::new(self.pair, self.way, Arc::clone(&self.flow_hash))
        };
        for register in self.registers() {
            self.show(register, 0);
        }
    }

    /// The driver writes the registers into this BAR from now on, or into none. The queue does not run.
    pub(super) fn share(&mut self, bar: Option<&Arc<GuestMemory>>) {
        self.page = bar.cloned();
        self.doorbell = None;
    }

    /// Where its registers are in the BAR.
    fn at(&self) -> u64 {
        let first = match self.way {
            Direction::Receive => regs::RX_QUEUES,
            Direction::Transmit => regs::TX_QUEUES,
        };
        first.saturating_add(regs::QUEUE_STRIDE.saturating_mul(self.pair.into()))
    }

    /// Those that it has.
    fn registers(&self) -> impl Iterator<Item = u64> + use<> {
        let way = self.way;
        let all = (0..regs::QUEUE_STRIDE).step_by(4);
        all.filter(move |register| Queue::has(way, *register))
    }

    /// Has the driver find this in a register that it reads without a message.
    pub(super) fn show(&self, register: u64, value: u32) {
        let at = self.at().saturating_add(register);
        if let Some(slice) = self.page.as_ref().and_then(|page| page.slice_mut(at, 4)) {
            // There is room for it.
            let _ = slice.store(0, value.to_le(), Ordering::Release);
        }
    }

    fn shared(&self, register: u64) -> Option<u32> {
        let at = self.at().saturating_add(register);
        let slice = self.page.as_ref()?.slice(at, 4)?;
        slice.load(0, Ordering::Acquire).map(u32::from_le)
    }

    /// Takes what the driver has written without a message. The control register comes last, and what the driver has written before that is
    /// there by then, because it is looked at first.
    pub(super) fn look(&mut self) {
        let Some(control) = self.shared(regs::CONTROL) else {
            return;
        };
        for register in self.registers().filter(|at| *at != regs::CONTROL) {
            match self.shared(register) {
                // Whoever has the queue knows.
                Some(tail) if register == regs::TAIL && tail == self.tail => {}
                Some(value) => self.write(register, value),
                None => {}
            }
        }
        self.write(regs::CONTROL, control);
        // While the queue stops, its head register is the driver's to write: it is not overwritten with the ring's.
        if self.running && !self.wants_to_stop() {
            self.show_head();
        }
    }

    /// Has the driver find how far the ring has come.
    pub(super) fn show_head(&self) {
        let head = self.rings().map_or(self.head, |bell| bell.head());
        self.show(regs::HEAD, head);
    }

    /// Its number as a ring.
    pub(super) fn index(&self) -> u32 {
        let way = match self.way {
            Direction::Receive => 0,
            Direction::Transmit => 1,
        };
        u32::from(self.pair).saturating_mul(2).saturating_add(way)
    }

    pub(super) fn is_running(&self) -> bool {
        self.running
    }

    /// Whether queues of this direction have such a register.
    pub(super) fn has(way: Direction, register: u64) -> bool {
        match register {
            regs::BASE_LOW
            | regs::BASE_HIGH
            | regs::LENGTH
            | regs::DCA_CONTROL
            | regs::HEAD
            | regs::TAIL
            | regs::CONTROL => true,
            regs::SRRCTL | regs::RSCCTL => way == Direction::Receive,
            regs::WRITE_BACK_LOW | regs::WRITE_BACK_HIGH => way == Direction::Transmit,
            _ => false,
        }
    }

    fn stored(&mut self, register: u64) -> &mut u32 {
        let [first, second, dca] = &mut self.stored;
        match register {
            regs::SRRCTL | regs::WRITE_BACK_LOW => first,
            regs::RSCCTL | regs::WRITE_BACK_HIGH => second,
            _ => dca,
        }
    }

    fn rings(&self) -> Option<&Arc<Doorbell>> {
        self.doorbell.as_ref().filter(|_| self.running)
    }

    pub(super) fn read(&mut self, register: u64) -> u32 {
        match register {
            regs::BASE_LOW => self.base_low,
            regs::BASE_HIGH => self.base_high,
            regs::LENGTH => self.length,
            regs::HEAD => self.rings().map_or(self.head, |bell| bell.head()),
            regs::TAIL => self.tail,
            regs::CONTROL => self.control,
            _ => *self.stored(register),
        }
    }

    /// Writes a register. What is written while the queue runs counts when it is enabled the next time, but for the tail.
    pub(super) fn write(&mut self, register: u64, value: u32) {
        match register {
            regs::BASE_LOW => self.base_low = value & regs::BASE_LOW_WRITABLE,
            regs::BASE_HIGH => self.base_high = value,
            regs::LENGTH => self.length = value & regs::LENGTH_WRITABLE,
            regs::HEAD if !self.running => self.head = value & 0xffff,
            regs::HEAD => {}
            regs::TAIL => {
                self.tail = value & 0xffff;
                if let Some(bell) = self.rings() {
                    bell.ring(self.tail);
                }
            }
            regs::CONTROL => {
                self.control = value & !regs::CONTROL_FLUSH;
                let strips = value & regs::RXDCTL_VLAN_MODE != 0;
                self.strips.store(strips, Ordering::Relaxed);
            }
            _ => *self.stored(register) = value,
        }
    }

    fn is_enabled(&self) -> bool {
        self.control & regs::CONTROL_ENABLE != 0
    }

    pub(super) fn wants_to_stop(&self) -> bool {
        let closed = self.rings().is_some_and(|bell| bell.has_closed());
        self.running && (closed || !self.is_enabled())
    }

    /// The ring has been taken back.
    pub(super) fn stopped(&mut self) {
        if let Some(bell) = self.rings() {
            self.head = bell.head();
        }
        self.running = false;
    }

    /// The ring goes on.
    pub(super) fn started(&mut self) {
        self.running = true;
    }

    /// The ring, if it is enabled and does not run yet.
    ///
    /// # Errors
    /// It cannot run as its registers are: one of no descriptors is none, and no error.
    pub(super) fn start(
        &mut self,
        memory: Option<Arc<GuestMemory>>,
        interrupts: &Arc<Interrupts>,
    ) -> Result<Option<Vring>, RingError> {
        let Some(memory) = memory.filter(|_| !self.running && self.is_enabled()) else {
            return Ok(None);
        };
        let config = HardwareConfig {
            index: self.index(),
            size: u16::try_from(self.length / DESCRIPTOR).unwrap_or(u16::MAX),
            tables: vec![u64::from(self.base_low) | u64::from(self.base_high) << 32],
            base: u16::try_from(self.head).unwrap_or(u16::MAX),
        };
        if config.size == 0 {
            return Ok(None);
        }
        let bell = match &self.doorbell {
            Some(bell) => Arc::clone(bell),
            None => match self.new_doorbell() {
                Ok(bell) => Arc::new(bell),
                // Without descriptors for files, it cannot be enabled.
                Err(_) => return Ok(None),
            },
        };
        bell.set_head(config.base);
        bell.set_tail(self.tail);
        self.doorbell = Some(Arc::clone(&bell));
        let format = self.format(interrupts);
        let vring = Vring::hardware(&config, memory, format, bell)?;
        self.running = true;
        Ok(Some(vring))
    }

    fn new_doorbell(&self) -> io::Result<Doorbell> {
        let offset = |register| usize::try_from(register).unwrap_or(usize::MAX);
        let enable = (offset(regs::CONTROL), regs::CONTROL_ENABLE);
        let (at, len) = (self.at(), offset(regs::QUEUE_STRIDE));
        let page = self.page.as_ref();
        match page.and_then(|bar| DoorbellPage::new(bar, at, len, offset(regs::TAIL), enable)) {
            Some(page) => Doorbell::in_page(page),
            None => Doorbell::new(),
        }
    }

    fn format(&mut self, interrupts: &Arc<Interrupts>) -> Box<dyn DescriptorFormat> {
        let (pair, interrupts) = (self.pair, Arc::clone(interrupts));
        match self.way {
            Direction::Transmit => Box::new(TxFormat::new(pair, interrupts)),
            Direction::Receive => {
                let kib = *self.stored(regs::SRRCTL) & regs::SRRCTL_BUFFER;
                Box::new(RxFormat {
                    pair,
                    interrupts,
                    // No buffer has no bytes.
                    buffer: kib.max(1).saturating_mul(1024),
                    strips: Arc::clone(&self.strips),
                    flow_hash: self.flow_hash.of_ring(),
                })
            }
        }
    }
}
