//! A driver of Intel's 82599 virtual function, as plain as can be: it resets the function, talks to the PF through the mailbox, has one
//! pair of rings with advanced descriptors, and sends and receives frames. Written from the 82599's data sheet; shares no code
//! with the device that it drives.
//!
//! It can lie: whoever has the [`Registers`] writes them, and [`Ring::write`] writes any descriptor. It never sleeps and waits for
//! nobody: what is not there at once is an error or nothing.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use thiserror::Error;
use vm_memory::Bytes;

use crate::memory::{Allocator, GuestMemory};

/// Registers of a function: its first BAR.
pub trait Registers {
    /// Reads 32 bits.
    fn read(&mut self, offset: u64) -> u32;
    /// Writes them.
    fn write(&mut self, offset: u64, value: u32);
}

/// Offsets of registers in BAR 0.
pub mod reg {
    /// Control: bit 26 resets.
    pub const VFCTRL: u64 = 0x0;
    /// Link: bit 30 is up.
    pub const VFLINKS: u64 = 0x10;
    /// Causes of interrupts.
    pub const VTEICR: u64 = 0x100;
    /// Mask, set.
    pub const VTEIMS: u64 = 0x108;
    /// Mask, cleared.
    pub const VTEIMC: u64 = 0x10c;
    /// Causes that an interrupt clears.
    pub const VTEIAC: u64 = 0x110;
    /// Masks that an interrupt sets.
    pub const VTEIAM: u64 = 0x114;
    /// Vectors of the first queue pair.
    pub const VTIVAR: u64 = 0x120;
    /// Vector of everything else.
    pub const VTIVAR_MISC: u64 = 0x140;
    /// Time between interrupts of the first vector.
    pub const VTEITR: u64 = 0x820;
    /// The mailbox's words.
    pub const VFMBMEM: u64 = 0x200;
    /// The mailbox's control.
    pub const VFMAILBOX: u64 = 0x2fc;
    /// Registers of the first receive queue.
    pub const RX: u64 = 0x1000;
    /// Registers of the first transmit queue.
    pub const TX: u64 = 0x2000;
    /// In the registers of a queue: the ring's address.
    pub const BASE_LOW: u64 = 0x0;
    /// Its upper half.
    pub const BASE_HIGH: u64 = 0x4;
    /// Bytes of the ring.
    pub const LENGTH: u64 = 0x8;
    /// Head.
    pub const HEAD: u64 = 0x10;
    /// Of a receive queue: KiB of a buffer.
    pub const SRRCTL: u64 = 0x14;
    /// Tail.
    pub const TAIL: u64 = 0x18;
    /// Control: bit 25 enables.
    pub const CONTROL: u64 = 0x28;
}

/// In a queue's control register.
pub const QUEUE_ENABLE: u32 = 1 << 25;
/// The same of a receive queue: tags are taken out.
pub const VLAN_MODE: u32 = 1 << 30;

const REQUEST: u32 = 1;
const ACK: u32 = 2;
const VF_USES: u32 = 4;
const PF_STATUS: u32 = 1 << 4;
const PF_ACK: u32 = 1 << 5;
const RESET_DONE: u32 = 1 << 7;
/// In the first word of an answer: yes, no, go on asking.
pub const SUCCESS: u32 = 1 << 31;
/// See [`SUCCESS`].
pub const FAILURE: u32 = 1 << 30;
/// See [`SUCCESS`].
pub const CLEAR_TO_SEND: u32 = 1 << 29;

const ADVANCED: u32 = 1 << 29;
const CONTEXT: u32 = 2 << 20 | ADVANCED;
const DATA: u32 = 3 << 20 | ADVANCED;
const END: u32 = 1 << 24;
const REPORT: u32 = 1 << 27;
const TAG: u32 = 1 << 30;
const SEGMENT: u32 = 1 << 31;
const DONE: u32 = 1;

/// Descriptors of a ring.
const SIZE: u16 = 256;
/// Bytes of a buffer.
const BUFFER: u32 = 2048;

/// What does not go as a driver expects it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum DriverError {
    /// The memory is used up.
    #[error("no memory")]
    NoMemory,
    /// The reset is not done.
    #[error("the reset is not done")]
    NotReset,
    /// The PF has not answered.
    #[error("the PF does not answer message {0:#x}")]
    NoAnswer(u32),
    /// It has answered no.
    #[error("the PF answers {0:#x}")]
    Refused(u32),
    /// A queue is not enabled.
    #[error("queue {0} is not enabled")]
    NotEnabled(u64),
}

/// One ring of descriptors in memory.
#[derive(Debug)]
pub struct Ring {
    memory: Arc<GuestMemory>,
    /// Where its registers are.
    registers: u64,
    /// Guest address of the descriptors.
    pub base: u64,
    /// Guest address of the buffers, [`BUFFER`] bytes a descriptor.
    buffers: u64,
    /// The next descriptor to fill, and the oldest one that is not back.
    next: u16,
    oldest: u16,
}

impl Ring {
    fn alloc(
        memory: &Arc<GuestMemory>,
        alloc: &mut Allocator,
        registers: u64,
    ) -> Result<Ring, DriverError> {
        let none = DriverError::NoMemory;
        Ok(Ring {
            memory: Arc::clone(memory),
            registers,
            base: alloc.alloc(16 * u64::from(SIZE), 128).ok_or(none)?,
            buffers: alloc
                .alloc(u64::from(BUFFER) * u64::from(SIZE), 64)
                .ok_or(none)?,
            next: 0,
            oldest: 0,
        })
    }

    /// The buffer of a descriptor.
    pub fn buffer(&self, index: u16) -> u64 {
        self.buffers + u64::from(BUFFER) * u64::from(index)
    }

    /// Writes a descriptor.
    pub fn write(&self, index: u16, words: [u64; 2]) {
        let at = self.base + 16 * u64::from(index);
        if let Some(slice) = self.memory.slice(at, 16) {
            for (word, at) in words.into_iter().zip([0, 8]) {
                let _ = slice.store(word.to_le(), at, Ordering::Relaxed);
            }
        }
    }

    fn read(&self, index: u16) -> [u64; 2] {
        let at = self.base + 16 * u64::from(index);
        let slice = self.memory.slice(at, 16);
        // The second word says that the first is there.
        let load = |at| {
            let slice = slice.as_ref();
            slice.map_or(0, |s| s.load::<u64>(at, Ordering::Acquire).unwrap_or(0))
        };
        let second = u64::from_le(load(8));
        [u64::from_le(load(0)), second]
    }

    fn after(index: u16) -> u16 {
        (index + 1) % SIZE
    }

    fn free(&self) -> u16 {
        (self.oldest + SIZE - self.next - 1) % SIZE
    }

    fn set_up(&self, registers: &mut impl Registers, control: u32) -> Result<(), DriverError> {
        enable(registers, self.registers, self.base, SIZE, control)
    }
}

/// Enables the queue whose registers are at `at`, with its descriptors at the guest address `base`, all of them the driver's; `control` is what
/// is written beside [`QUEUE_ENABLE`].
///
/// # Errors
/// The function does not behave.
pub fn enable(
    registers: &mut impl Registers,
    at: u64,
    base: u64,
    size: u16,
    control: u32,
) -> Result<(), DriverError> {
    for (register, value) in [
        (reg::CONTROL, 0),
        (reg::BASE_LOW, base as u32),
        (reg::BASE_HIGH, (base >> 32) as u32),
        (reg::LENGTH, 16 * u32::from(size)),
        (reg::HEAD, 0),
        (reg::TAIL, 0),
        (reg::CONTROL, control | QUEUE_ENABLE),
    ] {
        registers.write(at + register, value);
    }
    match registers.read(at + reg::CONTROL) & QUEUE_ENABLE {
        0 => Err(DriverError::NotEnabled(at)),
        _ => Ok(()),
    }
}

/// What is asked for a frame.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Ask {
    /// A tag's control information.
    pub vlan: Option<u16>,
    /// Bytes of Ethernet and IP header, if the checksum of what is behind is asked for: 6 for TCP, 17 for UDP, 132 for SCTP.
    pub checksum: Option<(u8, u8, u8)>,
    /// Payload of a segment and bytes of the TCP header, if it is to be cut.
    pub cut: Option<(u16, u8)>,
    /// Whether it is IPv4.
    pub v4: bool,
}

/// A received frame.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Received {
    /// The frame.
    pub bytes: Vec<u8>,
    /// Whether its checksum is said to be right.
    pub checked: bool,
    /// Whether one of its checksums is said to be wrong.
    pub wrong: bool,
    /// The tag that was taken out.
    pub vlan: Option<u16>,
    /// The hash of its flow, behind its kind: 1, 3, 7 and 8 are of ports, too (82599 data sheet 7.1.2.8).
    pub hash: Option<(u8, u32)>,
}

/// Resets the function, greets the PF and agrees on version 1.3 of the mailbox; the address that the PF gives.
///
/// # Errors
/// The function does not behave.
pub fn reset(registers: &mut impl Registers) -> Result<[u8; 6], DriverError> {
    registers.write(reg::VFCTRL, 1 << 26);
    if registers.read(reg::VFMAILBOX) & RESET_DONE == 0 {
        return Err(DriverError::NotReset);
    }
    let answer = message(registers, &[1])?;
    if answer[0] != 1 | SUCCESS {
        return Err(DriverError::Refused(answer[0]));
    }
    let mut mac = [0; 6];
    mac[..4].copy_from_slice(&answer[1].to_le_bytes());
    mac[4..].copy_from_slice(&answer[2].to_le_bytes()[..2]);
    ask(registers, &[8, 4])?;
    Ok(mac)
}

fn message(registers: &mut impl Registers, message: &[u32]) -> Result<[u32; 16], DriverError> {
    registers.write(reg::VFMAILBOX, VF_USES);
    for (word, at) in message.iter().zip((reg::VFMBMEM..).step_by(4)) {
        registers.write(at, *word);
    }
    registers.write(reg::VFMAILBOX, REQUEST);
    let status = registers.read(reg::VFMAILBOX);
    if status & (PF_STATUS | PF_ACK) != PF_STATUS | PF_ACK {
        return Err(DriverError::NoAnswer(message[0]));
    }
    Ok(answer(registers))
}

fn answer(registers: &mut impl Registers) -> [u32; 16] {
    let mut at = (reg::VFMBMEM..).step_by(4);
    let answer = std::array::from_fn(|_| registers.read(at.next().unwrap_or_default()));
    registers.write(reg::VFMAILBOX, ACK);
    answer
}

fn ask(registers: &mut impl Registers, message: &[u32]) -> Result<[u32; 16], DriverError> {
    let answer = self::message(registers, message)?;
    match answer[0] {
        yes if yes == message[0] | SUCCESS | CLEAR_TO_SEND => Ok(answer),
        no => Err(DriverError::Refused(no)),
    }
}

/// The driver; see the module.
#[derive(Debug)]
pub struct Ixgbevf {
    /// The address that the PF has given it.
    pub mac: [u8; 6],
    /// Frames to it.
    pub rx: Ring,
    /// Frames from it.
    pub tx: Ring,
    received: Received,
}

impl Ixgbevf {
    /// Resets the function, agrees on version 1.3 of the mailbox, and enables a pair of rings; interrupts of both on the first
    /// vector, of everything else on the second.
    ///
    /// # Errors
    /// The function does not behave.
    pub fn start(
        registers: &mut impl Registers,
        memory: &Arc<GuestMemory>,
        alloc: &mut Allocator,
    ) -> Result<Ixgbevf, DriverError> {
        let mut driver = Ixgbevf {
            mac: [0; 6],
            rx: Ring::alloc(memory, alloc, reg::RX)?,
            tx: Ring::alloc(memory, alloc, reg::TX)?,
            received: Received::default(),
        };
        driver.reset(registers)?;
        driver.open(registers)?;
        Ok(driver)
    }

    /// Resets the function and greets the PF.
    ///
    /// # Errors
    /// The function does not behave.
    pub fn reset(&mut self, registers: &mut impl Registers) -> Result<(), DriverError> {
        self.mac = reset(registers)?;
        Ok(())
    }

    /// Enables rings and interrupts.
    ///
    /// # Errors
    /// The function does not behave.
    pub fn open(&mut self, registers: &mut impl Registers) -> Result<(), DriverError> {
        for ring in [&mut self.rx, &mut self.tx] {
            (ring.next, ring.oldest) = (0, 0);
        }
        registers.write(reg::VTIVAR, 0x8080);
        registers.write(reg::VTIVAR_MISC, 0x81);
        for register in [reg::VTEIAC, reg::VTEIAM, reg::VTEIMS] {
            registers.write(register, 3);
        }
        registers.write(reg::RX + reg::SRRCTL, 1 << 25 | (BUFFER / 1024));
        self.rx.set_up(registers, VLAN_MODE)?;
        self.tx.set_up(registers, 0)?;
        while self.rx.free() > 0 {
            let at = self.rx.next;
            self.rx.write(at, [self.rx.buffer(at), 0]);
            self.rx.next = Ring::after(at);
        }
        registers.write(reg::RX + reg::TAIL, self.rx.next.into());
        Ok(())
    }

    /// Sends a message to the PF and answers what it says.
    ///
    /// # Errors
    /// It says nothing.
    pub fn message(
        &mut self,
        registers: &mut impl Registers,
        message: &[u32],
    ) -> Result<[u32; 16], DriverError> {
        self::message(registers, message)
    }

    /// What the PF has said without being asked.
    pub fn news(&mut self, registers: &mut impl Registers) -> Option<u32> {
        let news = registers.read(reg::VFMAILBOX) & PF_STATUS != 0;
        news.then(|| answer(registers)[0])
    }

    /// The same, if the PF says yes.
    ///
    /// # Errors
    /// It says no, or nothing.
    pub fn ask(
        &mut self,
        registers: &mut impl Registers,
        message: &[u32],
    ) -> Result<[u32; 16], DriverError> {
        ask(registers, message)
    }

    /// Puts a frame into the transmit ring; the tail is written by [`kick`](Self::kick). False if there is no room.
    pub fn send(&mut self, frame: &[u8], ask: &Ask) -> bool {
        self.reap();
        let pieces = frame.chunks(BUFFER as usize);
        let has_context = *ask != Ask::default();
        if frame.is_empty() || pieces.len() + usize::from(has_context) > usize::from(self.tx.free())
        {
            return false;
        }
        let (mut command, mut options) = (DATA | 1 << 25, (frame.len() as u32) << 14);
        if has_context {
            let (link, network, protocol) = ask.checksum.unwrap_or_default();
            let (mss, transport) = ask.cut.unwrap_or_default();
            let vlan = u64::from(ask.vlan.unwrap_or_default());
            let lengths = vlan << 16 | u64::from(link) << 9 | u64::from(network);
            let transport_kind = match protocol {
                6 => 1 << 11,
                132 => 2 << 11,
                _ => 0,
            };
            let kind = CONTEXT | transport_kind | if ask.v4 { 1 << 10 } else { 0 };
            let sizes = u64::from(mss) << 48 | u64::from(transport) << 40;
            self.put_tx([lengths, u64::from(kind) | sizes]);
            if ask.vlan.is_some() {
                command |= TAG;
            }
            if ask.checksum.is_some() {
                options |= 2 << 8 | if ask.v4 { 1 << 8 } else { 0 };
            }
            if ask.cut.is_some() {
                command |= SEGMENT;
            }
        }
        let last = pieces.len() - 1;
        for (i, piece) in pieces.enumerate() {
            let buffer = self.tx.buffer(self.tx.next);
            if let Some(to) = self.tx.memory.slice(buffer, piece.len()) {
                let _ = to.write_slice(piece, 0);
            }
            let end = if i == last { END | REPORT } else { 0 };
            let command = command | end | piece.len() as u32;
            self.put_tx([buffer, u64::from(command) | u64::from(options) << 32]);
        }
        true
    }

    fn put_tx(&mut self, words: [u64; 2]) {
        self.tx.write(self.tx.next, words);
        self.tx.next = Ring::after(self.tx.next);
    }

    /// Takes back what was sent, up to the last descriptor that is done; how many descriptors that was.
    pub fn reap(&mut self) -> u16 {
        let (mut at, mut done, mut seen) = (self.tx.oldest, 0, 0);
        while at != self.tx.next {
            let [_, rest] = self.tx.read(at);
            seen += 1;
            at = Ring::after(at);
            // What is written back is the upper half only, whose lowest bit is not set before.
            if (rest >> 32) as u32 & DONE != 0 {
                done = seen;
                self.tx.oldest = at;
            }
        }
        done
    }

    /// Writes the tail of the transmit ring.
    pub fn kick(&mut self, registers: &mut impl Registers) {
        registers.write(reg::TX + reg::TAIL, self.tx.next.into());
    }

    /// The next received frame; its buffers are given back.
    pub fn recv(&mut self, registers: &mut impl Registers) -> Option<Received> {
        loop {
            let at = self.rx.oldest;
            let [first, rest] = self.rx.read(at);
            let status = rest as u32;
            if status & DONE == 0 {
                return None;
            }
            let len = usize::from((rest >> 32) as u16);
            let from = self.received.bytes.len();
            self.received.bytes.resize(from + len, 0);
            if let Some(slice) = self.rx.memory.slice(self.rx.buffer(at), len) {
                let _ = slice.read_slice(&mut self.received.bytes[from..], 0);
            }
            self.rx.oldest = Ring::after(at);
            self.rx
                .write(self.rx.next, [self.rx.buffer(self.rx.next), 0]);
            self.rx.next = Ring::after(self.rx.next);
            registers.write(reg::RX + reg::TAIL, self.rx.next.into());
            if status & 2 != 0 {
                let mut received = std::mem::take(&mut self.received);
                received.wrong = status & 3 << 30 != 0;
                received.checked = status & 0x20 != 0 && !received.wrong;
                received.vlan = (status & 8 != 0).then_some((rest >> 48) as u16);
                let kind = (first & 0xf) as u8;
                received.hash = (kind != 0).then_some((kind, (first >> 32) as u32));
                return Some(received);
            }
        }
    }
}
