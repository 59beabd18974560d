//! A driver of Solarflare's EF10 virtual function (SFC9120), as plain as can be: it asks the controller for an interface with an event
//! queue and a pair of rings, and sends and receives frames. Written from DPDK's register headers (`drivers/common/sfc_efx/base`);
//! shares no code with the device that it drives.
//!
//! It can lie: [`Sfc::ask`] asks for anything, [`Ring::write`] writes any descriptor, and whoever has the [`Registers`] writes them. It
//! never sleeps and waits for nobody: what is not there at once is an error or nothing.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use vm_memory::Bytes;

use crate::ixgbevf::{Ask, DriverError, Received, Registers};
use crate::memory::{Allocator, GuestMemory};

/// Offsets of registers in BAR 0, those of queues in the window of the first interface.
pub mod reg {
    /// Whether the controller runs.
    pub const STATUS: u64 = 0x10;
    /// The upper half of the address of a request.
    pub const DOORBELL_HIGH: u64 = 0x200;
    /// The lower half, which starts it.
    pub const DOORBELL_LOW: u64 = 0x204;
    /// The first event that the driver has not read.
    pub const EVENT_READ: u64 = 0x400;
    /// How long interrupts are held back: the mode, and microseconds.
    pub const EVENT_TIMER: u64 = 0x420;
    /// The end of the receive descriptors.
    pub const RX_TAIL: u64 = 0x830;
    /// The end of the transmit descriptors.
    pub const TX_TAIL: u64 = 0xa18;
    /// Bytes of an interface's window.
    pub const WINDOW: u64 = 8192;
}

/// Requests to the controller (MCDI).
pub mod command {
    /// A driver is there.
    pub const DRV_ATTACH: u16 = 0x1c;
    /// Forget what the last one has made.
    pub const ENTITY_RESET: u16 = 0x20;
    /// The longest frame.
    pub const SET_MAC: u16 = 0x2c;
    /// An event queue.
    pub const INIT_EVQ: u16 = 0x80;
    /// A receive ring.
    pub const INIT_RXQ: u16 = 0x81;
    /// A transmit ring.
    pub const INIT_TXQ: u16 = 0x82;
    /// A filter.
    pub const FILTER_OP: u16 = 0x8a;
    /// Interfaces.
    pub const ALLOC_VIS: u16 = 0x8b;
    /// A spread of flows over queues.
    pub const RSS_CONTEXT_ALLOC: u16 = 0x9e;
    /// The function's address.
    pub const VPORT_GET_MAC_ADDRESSES: u16 = 0xaa;
}

/// The number of the function's own port.
pub const PORT: u32 = 0x0100_0000;
/// Bytes in front of a received frame.
pub const PREFIX: usize = 14;

/// Descriptors of a ring, and events of the queue: more than both rings ever cause.
const SIZE: u16 = 256;
const EVENTS: u16 = 1024;
const PAGE: u64 = 4096;
/// Bytes of a buffer.
const BUFFER: u32 = 2048;
/// Receive descriptors are made available by so many.
const BATCH: u16 = 8;
/// Bytes of a message to the controller.
const MESSAGE: usize = 1028;

/// Of a descriptor: no buffer but an option, which is in the bits below; the frame goes on with the next one.
const OPTION: u64 = 1 << 63;
const SEGMENTATION: u64 = OPTION | 7 << 60;
const GOES_ON: u64 = 1 << 62;

/// One ring of descriptors in memory.
#[derive(Debug)]
pub struct Ring {
    memory: Arc<GuestMemory>,
    /// Guest address of the descriptors.
    pub base: u64,
    buffers: u64,
    /// The next descriptor to fill, and the oldest one that is not back.
    next: u16,
    oldest: u16,
}

impl Ring {
    fn alloc(memory: &Arc<GuestMemory>, alloc: &mut Allocator) -> Result<Ring, DriverError> {
        let mut place = |len, align| alloc.alloc(len, align).ok_or(DriverError::NoMemory);
        Ok(Ring {
            memory: Arc::clone(memory),
            base: place(8 * u64::from(SIZE), PAGE)?,
            buffers: place(u64::from(BUFFER) * u64::from(SIZE), PAGE)?,
            next: 0,
            oldest: 0,
        })
    }

    /// The buffer of a descriptor.
    pub fn buffer(&self, index: u16) -> u64 {
        self.buffers + u64::from(BUFFER) * u64::from(index)
    }

    /// Writes a descriptor.
    pub fn write(&self, index: u16, descriptor: u64) {
        let at = self.base + 8 * u64::from(index);
        if let Some(slice) = self.memory.slice(at, 8) {
            let _ = slice.store(descriptor.to_le(), 0, Ordering::Release);
        }
    }

    fn after(index: u16, n: u16) -> u16 {
        (index + n) % SIZE
    }

    fn free(&self) -> u16 {
        (self.oldest + SIZE - self.next - 1) % SIZE
    }

    fn put(&mut self, descriptor: u64) {
        self.write(self.next, descriptor);
        self.next = Ring::after(self.next, 1);
    }
}

/// The driver; see the module.
#[derive(Debug)]
pub struct Sfc {
    /// The address that the controller has given it.
    pub mac: [u8; 6],
    /// Frames to it.
    pub rx: Ring,
    /// Frames from it.
    pub tx: Ring,
    memory: Arc<GuestMemory>,
    /// Where requests are.
    request: u64,
    sequence: u32,
    /// Where events are, and the next one.
    events: u64,
    event: u16,
    /// Whether the transmit ring makes checksums now.
    checksums: Option<bool>,
    /// The frame that has not ended, and those that have.
    partial: Vec<u8>,
    received: VecDeque<Received>,
    /// Events of the controller, in order.
    news: VecDeque<u64>,
    reaped: u16,
}

impl Sfc {
    /// Attaches to the function and opens one interface; interrupts on the first vector.
    ///
    /// # Errors
    /// The function does not behave.
    pub fn start(
        registers: &mut impl Registers,
        memory: &Arc<GuestMemory>,
        alloc: &mut Allocator,
    ) -> Result<Sfc, DriverError> {
        let mut place = |len| alloc.alloc(len, PAGE).ok_or(DriverError::NoMemory);
        let mut driver = Sfc {
            request: place(PAGE)?,
            events: place(8 * u64::from(EVENTS))?,
            mac: [0; 6],
            rx: Ring::alloc(memory, alloc)?,
            tx: Ring::alloc(memory, alloc)?,
            memory: Arc::clone(memory),
            sequence: 0,
            event: 0,
            checksums: None,
            partial: Vec::new(),
            received: VecDeque::new(),
            news: VecDeque::new(),
            reaped: 0,
        };
        driver.attach(registers)?;
        driver.open(registers)?;
        Ok(driver)
    }

    fn attach(&mut self, registers: &mut impl Registers) -> Result<(), DriverError> {
        if registers.read(reg::STATUS) >> 16 != 0xb007 {
            return Err(DriverError::NotReset);
        }
        self.ask(registers, command::DRV_ATTACH, &words(&[1, 1, u32::MAX]))?;
        self.ask(registers, command::ENTITY_RESET, &words(&[1]))?;
        let macs = self.ask(registers, command::VPORT_GET_MAC_ADDRESSES, &words(&[PORT]))?;
        let mac = macs.get(4..).and_then(<[u8]>::first_chunk);
        self.mac = *mac.ok_or(DriverError::NoAnswer(
            command::VPORT_GET_MAC_ADDRESSES.into(),
        ))?;
        Ok(())
    }

    /// Makes the queues and receives what is for the function's address, for everybody and for groups that nobody else is known to want.
    ///
    /// # Errors
    /// The function does not behave.
    pub fn open(&mut self, registers: &mut impl Registers) -> Result<(), DriverError> {
        for ring in [&mut self.rx, &mut self.tx] {
            (ring.next, ring.oldest) = (0, 0);
        }
        (self.event, self.checksums, self.reaped) = (0, None, 0);
        for at in (0..u64::from(EVENTS)).map(|event| self.events + 8 * event) {
            self.store(at, u64::MAX);
        }
        let of = |place: u64| [place as u32, (place >> 32) as u32];
        self.ask(registers, command::ALLOC_VIS, &words(&[1, 1]))?;
        let mut events = vec![EVENTS.into(), 0, 0, 0, 1, 0, 0, 0, 0];
        let pages = (0..8 * u64::from(EVENTS)).step_by(PAGE as usize);
        events.extend(pages.flat_map(|page| of(self.events + page)));
        self.ask(registers, command::INIT_EVQ, &words(&events))?;
        let ring = |ring: &Ring, label, flags| {
            let [low, high] = of(ring.base);
            words(&[SIZE.into(), 0, label, 0, flags, 0, PORT, low, high])
        };
        // With TSO, version 2; with a prefix.
        let transmit = ring(&self.tx, 1, 1 << 12);
        self.ask(registers, command::INIT_TXQ, &transmit)?;
        let receive = ring(&self.rx, 0, 1 << 8);
        self.ask(registers, command::INIT_RXQ, &receive)?;
        self.give_buffers(registers);
        let mac = self.mac;
        self.receive(registers, 0x10, 0, &[(52, &mac)])?;
        self.receive(registers, 0x10, 2, &[(52, &[0xff; 6])])?;
        registers.write(reg::EVENT_READ, self.event.into());
        Ok(())
    }

    /// Puts in a filter on these fields for its queues, by an operation of FILTER_OP (0: nobody else may have it, 2: others may, too), with
    /// values at their offsets in the request; its handle.
    ///
    /// # Errors
    /// The controller's.
    pub fn receive(
        &mut self,
        registers: &mut impl Registers,
        fields: u32,
        operation: u32,
        values: &[(usize, &[u8])],
    ) -> Result<u64, DriverError> {
        let mut payload = words(&[0; 27]);
        for (at, value) in [
            (0, operation),
            (12, PORT),
            (16, fields),
            (20, 1),
            (40, u32::MAX),
        ] {
            payload[at..at + 4].copy_from_slice(&value.to_le_bytes());
        }
        for (at, value) in values {
            payload[*at..][..value.len()].copy_from_slice(value);
        }
        let answer = self.ask(registers, command::FILTER_OP, &payload)?;
        let handle = answer.get(4..).and_then(<[u8]>::first_chunk);
        Ok(handle.map_or(0, |handle| u64::from_le_bytes(*handle)))
    }

    /// Asks the controller for something; what it answers.
    ///
    /// # Errors
    /// It says no, or nothing.
    pub fn ask(
        &mut self,
        registers: &mut impl Registers,
        command: u16,
        payload: &[u8],
    ) -> Result<Vec<u8>, DriverError> {
        let nothing = DriverError::NoAnswer(command.into());
        self.sequence = (self.sequence + 1) & 0xf;
        let header = [
            0x7f | 1 << 7 | self.sequence << 16,
            u32::from(command) | (payload.len() as u32) << 16,
        ];
        let message = [&words(&header)[..], payload].concat();
        let place = self.memory.slice(self.request, MESSAGE).ok_or(nothing)?;
        place.write_slice(&message, 0).map_err(|_| nothing)?;
        registers.write(reg::DOORBELL_HIGH, (self.request >> 32) as u32);
        registers.write(reg::DOORBELL_LOW, self.request as u32);
        // The first word comes last.
        let first = place
            .load::<u32>(0, Ordering::Acquire)
            .map_err(|_| nothing)?;
        let second = place
            .load::<u32>(4, Ordering::Relaxed)
            .map_err(|_| nothing)?;
        let [first, second] = [first, second].map(u32::from_le);
        if first & 1 << 23 == 0 || first >> 16 & 0xf != self.sequence {
            return Err(nothing);
        }
        let mut answer = vec![0; (second >> 16 & 0x3ff) as usize];
        place.read_slice(&mut answer, 8).map_err(|_| nothing)?;
        match first & 1 << 22 {
            0 => Ok(answer),
            _ => Err(DriverError::Refused(
                answer
                    .first_chunk()
                    .map_or(0, |word| u32::from_le_bytes(*word)),
            )),
        }
    }

    /// Puts a frame into the transmit ring; the tail is written by [`kick`](Self::kick). A tag that is asked for is put into the
    /// frame here, as drivers do. False if there is no room.
    pub fn send(&mut self, frame: &[u8], ask: &Ask) -> bool {
        self.look();
        let mut frame = frame.to_vec();
        if let Some(vlan) = ask.vlan {
            let [high, low] = vlan.to_be_bytes();
            frame.splice(12..12, [0x81, 0, high, low]);
        }
        let pieces = frame.chunks(BUFFER as usize);
        let makes = ask.checksum.is_some();
        let options =
            usize::from(self.checksums != Some(makes)) + 2 * usize::from(ask.cut.is_some());
        if frame.is_empty() || pieces.len() + options > usize::from(self.tx.free()) {
            return false;
        }
        if self.checksums.replace(makes) != Some(makes) {
            // Of IP, and of TCP and UDP.
            self.tx.put(OPTION | if makes { 3 } else { 0 });
        }
        if let Some((mss, _)) = ask.cut {
            self.tx.put(SEGMENTATION | 2 << 56);
            self.tx.put(SEGMENTATION | 3 << 56 | u64::from(mss) << 32);
        }
        let last = pieces.len() - 1;
        for (i, piece) in pieces.enumerate() {
            let buffer = self.tx.buffer(self.tx.next);
            if let Some(to) = self.memory.slice(buffer, piece.len()) {
                let _ = to.write_slice(piece, 0);
            }
            let more = if i == last { 0 } else { GOES_ON };
            self.tx.put(more | (piece.len() as u64) << 48 | buffer);
        }
        true
    }

    /// Writes the tail of the transmit ring.
    pub fn kick(&mut self, registers: &mut impl Registers) {
        registers.write(reg::TX_TAIL, self.tx.next.into());
    }

    /// Takes back what was sent; how many descriptors that was.
    pub fn reap(&mut self) -> u16 {
        self.look();
        std::mem::take(&mut self.reaped)
    }

    /// The next received frame; its buffers are given back.
    pub fn recv(&mut self, registers: &mut impl Registers) -> Option<Received> {
        self.look();
        self.give_buffers(registers);
        self.received.pop_front()
    }

    /// What the controller has said without being asked.
    pub fn news(&mut self) -> Option<u64> {
        self.look();
        self.news.pop_front()
    }

    /// Where its requests are in the guest's memory.
    pub fn request(&self) -> u64 {
        self.request
    }

    /// Where its events are.
    pub fn events(&self) -> u64 {
        self.events
    }

    /// Wants an interrupt for the next event.
    pub fn arm(&mut self, registers: &mut impl Registers) {
        registers.write(reg::EVENT_READ, self.event.into());
    }

    /// Takes all events that there are.
    fn look(&mut self) {
        loop {
            let at = self.events + 8 * u64::from(self.event);
            let slice = self.memory.slice(at, 8);
            let event = slice.and_then(|slice| slice.load::<u64>(0, Ordering::Acquire).ok());
            let event = event.map_or(u64::MAX, u64::from_le);
            if event == u64::MAX {
                return;
            }
            self.store(at, u64::MAX);
            self.event = (self.event + 1) % EVENTS;
            match event >> 60 {
                0 => self.take_received(event),
                2 => {
                    let oldest = Ring::after(event as u16 % SIZE, 1);
                    self.reaped += (oldest + SIZE - self.tx.oldest) % SIZE;
                    self.tx.oldest = oldest;
                }
                12 => self.news.push_back(event),
                _ => {}
            }
        }
    }

    fn take_received(&mut self, event: u64) {
        let at = self.rx.oldest;
        self.rx.oldest = Ring::after(at, 1);
        let len = (event & 0x3fff) as usize;
        let from = self.partial.len();
        self.partial.resize(from + len, 0);
        if let Some(slice) = self.memory.slice(self.rx.buffer(at), len) {
            let _ = slice.read_slice(&mut self.partial[from..], 0);
        }
        if event >> 14 & 1 == 1 {
            return;
        }
        let mut whole = std::mem::take(&mut self.partial);
        let prefix: Vec<u8> = whole.drain(..PREFIX.min(whole.len())).collect();
        let hash = prefix
            .first_chunk()
            .map_or(0, |hash| u32::from_le_bytes(*hash));
        self.received.push_back(Received {
            bytes: whole,
            // What class of packet it says that it is: TCP or UDP only of those whose checksums were looked at.
            checked: matches!(event >> 45 & 7, 1 | 2) && event & 3 << 25 == 0,
            wrong: event & 3 << 25 != 0,
            vlan: None,
            hash: (hash != 0).then_some((0, hash)),
        });
    }

    /// Makes buffers available, as many as there are and go by eight.
    fn give_buffers(&mut self, registers: &mut impl Registers) {
        let n = self.rx.free() / BATCH * BATCH;
        for _ in 0..n {
            let buffer = self.rx.buffer(self.rx.next);
            self.rx.put(u64::from(BUFFER) << 48 | buffer);
        }
        if n > 0 {
            registers.write(reg::RX_TAIL, self.rx.next.into());
        }
    }

    fn store(&self, at: u64, value: u64) {
        if let Some(slice) = self.memory.slice(at, 8) {
            let _ = slice.store(value.to_le(), 0, Ordering::Relaxed);
        }
    }
}

fn words(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}
