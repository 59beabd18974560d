//! The PCI bus of a User-Mode Linux kernel: what its driver `virt-pci` says to a device over vhost-user (`virtio_pcidev`, in Linux's
//! `include/uapi/linux/virtio_pcidev.h`), and what it is told. It says anything: [`Queues::say`] takes any bytes. A [`Bus`] has a session for its queues.
//! Knows no family's registers by name.

use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use vm_memory::Bytes;

use crate::driver::{Buffer, DeviceFault, QueueLayout, RingFeatures, Used, Virtqueue};
use crate::eventfd::EventFd;
use crate::frontend::{Frontend, FrontendError};
use crate::ixgbevf::Registers;
use crate::memory::{Allocator, GuestMemory};

/// Reads configuration space.
pub const CFG_READ: u8 = 1;
/// Writes configuration space.
pub const CFG_WRITE: u8 = 2;
/// Reads a BAR.
pub const MMIO_READ: u8 = 3;
/// Writes to a BAR.
pub const MMIO_WRITE: u8 = 4;

/// The longest message, and the most room for an answer: more than the kernel ever has.
pub const LONGEST: u64 = 8192;
/// Descriptors of a queue.
const SIZE: u16 = 256;
/// Bytes of an interrupt.
const INTERRUPT: u64 = 20;
/// VHOST_USER_PROTOCOL_F_REPLY_ACK.
const REPLY_ACK: u64 = 1 << 3;
/// VIRTIO_F_VERSION_1 and VHOST_USER_F_PROTOCOL_FEATURES.
const FEATURES: u64 = 1 << 32 | 1 << 30;
/// How long a message is waited for.
const PATIENCE: Duration = Duration::from_secs(20);

/// The two queues of a device on the bus as the kernel has them, and the buffers of what it says.
#[derive(Debug)]
pub struct Queues {
    memory: Arc<GuestMemory>,
    commands: Virtqueue,
    interrupts: Virtqueue,
    message: u64,
    answer: u64,
    interrupt: u64,
}

impl Queues {
    /// Empty queues; `None` if the memory is used up.
    pub fn new(memory: &Arc<GuestMemory>, alloc: &mut Allocator) -> Option<Queues> {
        let mut queue = || {
            let layout = QueueLayout::alloc(SIZE, alloc)?;
            Virtqueue::new(Arc::clone(memory), layout, RingFeatures::default(), 0)
        };
        Some(Queues {
            memory: Arc::clone(memory),
            commands: queue()?,
            interrupts: queue()?,
            message: alloc.alloc(LONGEST, 64)?,
            answer: alloc.alloc(LONGEST, 64)?,
            interrupt: alloc.alloc(INTERRUPT, 64)?,
        })
    }

    /// Where they lie: the queue of commands, and that of interrupts.
    pub fn layouts(&self) -> [QueueLayout; 2] {
        [self.commands.layout(), self.interrupts.layout()]
    }

    /// Says this with so much room for an answer, at most [`LONGEST`] bytes each; `None` if there is no room for it.
    pub fn say(&mut self, bytes: &[u8], room: u32) -> Option<()> {
        self.memory
            .slice(self.message, bytes.len())?
            .copy_from(bytes);
        let asks = Buffer {
            addr: self.message,
            len: bytes.len() as u32,
            writable: false,
        };
        let gets = Buffer {
            addr: self.answer,
            len: room,
            writable: true,
        };
        let chain = match (bytes.is_empty(), room) {
            (true, _) => &[gets][..],
            (false, 0) => &[asks],
            (false, _) => &[asks, gets],
        };
        self.commands.add(chain)?;
        self.commands.publish();
        Some(())
    }

    /// What has come back of what was said, if it has.
    ///
    /// # Errors
    /// The device breaks the ring.
    pub fn said(&mut self) -> Result<Option<Used>, DeviceFault> {
        self.commands.pop_used()
    }

    /// What was answered last.
    pub fn answer(&self, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        let slice = self.memory.slice(self.answer, len);
        let read = slice.and_then(|slice| slice.read_slice(&mut bytes, 0).ok());
        read.map_or_else(Vec::new, |()| bytes)
    }

    /// Gives a buffer for an interrupt.
    pub fn listen(&mut self) {
        let buffer = Buffer {
            addr: self.interrupt,
            len: INTERRUPT as u32,
            writable: true,
        };
        self.interrupts.add(&[buffer]);
        self.interrupts.publish();
    }

    /// The next interrupt, if there is one: the address and the data that the driver has put into the MSI-X table.
    pub fn interrupt(&mut self) -> Option<(u64, u32)> {
        let used = self.interrupts.pop_used().ok()??;
        let mut message = [0; INTERRUPT as usize];
        let slice = self.memory.slice(self.interrupt, message.len())?;
        slice.read_slice(&mut message, 0).ok()?;
        let (_, rest) = message.split_first_chunk::<8>()?;
        let (address, data) = rest.split_first_chunk::<8>()?;
        let whole = u64::from(used.len) == INTERRUPT;
        let data = u32::from_le_bytes(*data.first_chunk()?);
        whole.then_some((u64::from_le_bytes(*address), data))
    }
}

/// See the module.
#[derive(Debug)]
pub struct Bus {
    /// The session; its `on_wait` runs a device that lives in the same thread.
    pub frontend: Frontend,
    queues: Queues,
    /// Kick and call of the commands, then of the interrupts.
    fds: [EventFd; 4],
}

impl Bus {
    /// Sets the session and both queues up, as the kernel does.
    ///
    /// # Errors
    /// The session's, or the memory is used up.
    pub fn start(
        mut frontend: Frontend,
        memory: &Arc<GuestMemory>,
        alloc: &mut Allocator,
    ) -> Result<Bus, FrontendError> {
        let none = || FrontendError::NoMemory;
        let queues = Queues::new(memory, alloc).ok_or_else(none)?;
        let event = || EventFd::new().map_err(FrontendError::Io);
        let fds = [event()?, event()?, event()?, event()?];

        frontend.get_features()?;
        frontend.set_owner()?;
        frontend.set_protocol_features(REPLY_ACK)?;
        frontend.set_features(FEATURES)?;
        frontend.set_memory(memory.regions())?;
        for ((index, layout), fds) in (0..).zip(queues.layouts()).zip(fds.chunks(2)) {
            let user = |addr| memory.user_addr(addr).ok_or_else(none);
            frontend.set_vring_num(index, SIZE.into())?;
            frontend.set_vring_base(index, 0)?;
            let (desc, used) = (user(layout.desc)?, user(layout.used)?);
            frontend.set_vring_addr(index, desc, used, user(layout.avail)?)?;
            // A ring starts when it is kicked.
            fds[0].signal();
            frontend.set_vring_kick(index, Some(fds[0].as_fd()))?;
            frontend.set_vring_call(index, Some(fds[1].as_fd()))?;
            frontend.set_vring_enable(index, true)?;
        }
        frontend.get_features()?;
        Ok(Bus {
            frontend,
            queues,
            fds,
        })
    }

    /// Says this with so much room for an answer, at most [`LONGEST`] bytes each, and waits until it comes back; `None`
    /// if it does not, or the device breaks the ring.
    pub fn say(&mut self, bytes: &[u8], room: u32) -> Option<Used> {
        self.queues.say(bytes, room)?;
        self.fds[0].signal();
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            if let Some(used) = self.queues.said().ok()? {
                return Some(used);
            }
            match &mut self.frontend.on_wait {
                Some(device) => device(),
                None => drop(self.fds[1].wait(Duration::from_millis(10))),
            }
            self.fds[1].drain();
        }
        None
    }

    /// Reads so many bytes, by this kind of access.
    pub fn read_by(&mut self, op: u8, bar: u8, offset: u64, len: u32) -> Option<Vec<u8>> {
        let used = self.say(&message(op, bar, offset, len, &[]), len)?;
        (used.len == len).then(|| self.queues.answer(len as usize))
    }

    /// Writes these bytes, by this kind of access.
    pub fn write_by(&mut self, op: u8, bar: u8, offset: u64, data: &[u8]) -> Option<Used> {
        self.say(&message(op, bar, offset, data.len() as u32, data), 0)
    }

    /// Gives a buffer for an interrupt.
    pub fn listen(&mut self) {
        self.queues.listen();
        self.fds[2].signal();
    }

    /// The next interrupt, if there is one: the address and the data that the driver has put into the MSI-X table.
    pub fn interrupt(&mut self) -> Option<(u64, u32)> {
        self.queues.interrupt()
    }
}

/// A message as the kernel writes it (`virtio_pcidev_msg`).
pub fn message(op: u8, bar: u8, offset: u64, size: u32, data: &[u8]) -> Vec<u8> {
    let (size, offset) = (size.to_le_bytes(), offset.to_le_bytes());
    [&[op, bar, 0, 0], &size[..], &offset, data].concat()
}

/// As a driver in the kernel reads and writes BAR 0. A device that is gone reads as ones.
impl Registers for Bus {
    fn read(&mut self, offset: u64) -> u32 {
        let read = self.read_by(MMIO_READ, 0, offset, 4);
        let read = read.and_then(|bytes| bytes.first_chunk().copied());
        read.map_or(u32::MAX, u32::from_le_bytes)
    }

    fn write(&mut self, offset: u64, value: u32) {
        self.write_by(MMIO_WRITE, 0, offset, &value.to_le_bytes());
    }
}
