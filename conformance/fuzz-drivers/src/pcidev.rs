//! A kernel of User-Mode Linux whose PCI bus says anything to functions of both families: messages with any lengths and any bytes, room for
//! answers or none, buffers for interrupts or none, while the data plane serves the queues of the function. It has no session: what
//! there is to say in one is [`session`](crate::session)'s.
//!
//! Rules: nobody panics and nothing is endless; each message comes back, with no more written behind it than there is room for, and to a
//! well-formed read all that it asked for; and when the kernel has gone, nobody has a queue.

use std::sync::Arc;

use vf_guest::driver::QueueLayout;
use vf_guest::memory::{Allocator, GUEST_BASE, GuestMemory, RegionLayout};
use vf_guest::pcidev::{CFG_READ, CFG_WRITE, LONGEST, MMIO_READ, Queues, message};
use vf_pci::pcidev::device::{COMMANDS, INTERRUPTS, Obeyed, Pcidev};
use vf_vhost::control::Coalescing;
use vf_vhost::features::VirtioFeatures;
use vf_vhost::memory::{self, RegionSpec};
use vf_vhost::vring::{Vring, VringConfig};

use crate::bytes::Bytes;
use crate::vfio_user::{Nic, function};

/// Bytes of the kernel's memory, and where in it the bus ends and that of the function's driver begins.
const MEMORY: u64 = 1 << 17;
const HEAP: u64 = 1 << 16;

/// What is mapped once a thread and used for each input.
struct Memory {
    guest: Arc<GuestMemory>,
    /// Where the queues of the bus are. The function does not reach it: one that broke them would be an input that says nothing.
    bus: Arc<memory::GuestMemory>,
    /// What the function reaches.
    heap: Arc<memory::GuestMemory>,
}

thread_local! {
    static MEMORY_OF_THREAD: Memory = Memory::new();
}

impl Memory {
    fn new() -> Memory {
        let guest = GuestMemory::new(MEMORY, true).unwrap();
        let region = &guest.regions()[0];
        let part = |offset, size| {
            let spec = RegionSpec {
                guest_addr: GUEST_BASE + offset,
                size,
                user_addr: GUEST_BASE + offset,
                mmap_offset: region.layout().mmap_offset + offset,
            };
            memory::GuestMemory::map(vec![(spec, region.dup_fd().unwrap())]).unwrap()
        };
        Memory {
            bus: part(0, HEAP),
            heap: part(HEAP, MEMORY - HEAP),
            guest: Arc::new(guest),
        }
    }
}

/// A kernel, and the device on its bus.
struct World {
    queues: Queues,
    device: Pcidev,
    nic: Nic,
}

impl World {
    fn new(bytes: &mut Bytes<'_>, memory: &Memory) -> World {
        let heap = memory.guest.slice(GUEST_BASE + HEAP, HEAP as usize);
        heap.unwrap().copy_from(&[0u8; HEAP as usize]);
        let whole = memory.guest.regions()[0].layout();
        let mut alloc = Allocator::new(RegionLayout {
            size: HEAP,
            ..whole
        });
        let queues = Queues::new(&memory.guest, &mut alloc).unwrap();
        let mut nic = Nic::new();
        let mut device = Pcidev::new(function(bytes));
        device.slot_mut().power_on(&mut nic);
        device
            .slot_mut()
            .set_memory(Arc::clone(&memory.heap), &mut nic);
        for (index, layout) in [COMMANDS, INTERRUPTS].into_iter().zip(queues.layouts()) {
            device.start(vring(index, layout, memory));
        }
        World {
            queues,
            device,
            nic,
        }
    }

    fn say(&mut self, says: &[u8], room: u32) {
        self.queues.say(says, room).expect("a message too many");
        while self.device.obey(&mut self.nic).unwrap() != Obeyed::Nothing {}
        self.device.interrupt().unwrap();
        // It is checked that no more was written than there is room for.
        let used = self.queues.said().unwrap();
        let used = used.expect("a message that does not come back");
        let [op, _, _, _, size @ ..] = says.first_chunk::<8>().copied().unwrap_or_default();
        let size = u32::from_le_bytes(size);
        // Of a message that is longer than any of the kernel's nothing is read.
        let read = matches!(op, CFG_READ | MMIO_READ) && (16..=16 + 4096).contains(&says.len());
        if read && size <= room.min(4096) {
            assert_eq!(used.len, size, "a read is answered");
        }
    }

    fn end(mut self) {
        for ring in [COMMANDS, INTERRUPTS] {
            assert!(self.device.stop(ring).is_some(), "queue {ring} is gone");
        }
        self.device.slot_mut().power_on(&mut self.nic);
        assert!(self.nic.has_no_queues(), "a queue of nobody runs");
    }
}

fn vring(index: u32, layout: QueueLayout, memory: &Memory) -> Vring {
    let config = VringConfig {
        index,
        size: layout.size,
        desc: layout.desc,
        avail: layout.avail,
        used: layout.used,
        base: 0,
        told: false,
        features: VirtioFeatures::VERSION_1,
        enabled: true,
        coalescing: Coalescing::default(),
    };
    Vring::new(config, Arc::clone(&memory.bus), None, None, None).unwrap()
}

/// See the module.
pub fn drive(data: &[u8]) {
    MEMORY_OF_THREAD.with(|memory| drive_in(memory, data));
}

fn drive_in(memory: &Memory, data: &[u8]) {
    let mut bytes = Bytes::new(data);
    let mut world = World::new(&mut bytes, memory);
    // Memory space and bus master.
    world.say(&message(CFG_WRITE, 0, 4, 2, &[6, 0]), 0);
    for _ in 0..64 {
        if bytes.is_empty() {
            break;
        }
        match bytes.below(8) {
            0 => {
                let at = GUEST_BASE + HEAP + u64::from(bytes.u16());
                let n = usize::from(bytes.below(64));
                let some = bytes.take(n);
                if let Some(slice) = memory.guest.slice(at, some.len()) {
                    slice.copy_from(some);
                }
            }
            1 => world.nic.turn(),
            2 => {
                let World { device, nic, .. } = &mut world;
                match bytes.u8() & 7 {
                    0 => device.slot_mut().restart(nic),
                    _ => device.slot_mut().changed(nic),
                }
            }
            3 => {
                world.queues.listen();
                while world.queues.interrupt().is_some() {}
            }
            4 => {
                let n = u64::from(bytes.u16()) % LONGEST;
                let says = bytes.take(n as usize);
                let room = u32::from(bytes.u16()) % LONGEST as u32;
                if says.len() + room as usize > 0 {
                    world.say(says, room);
                }
            }
            _ => {
                // Registers, most of all.
                let op = 1 + bytes.below(5);
                let bar = if bytes.u8() & 7 == 7 { bytes.u8() } else { 0 };
                let offset = u64::from(bytes.u16()) & !3;
                let data = bytes.array::<8>();
                let len = if bytes.u8() & 7 == 7 { 8 } else { 4 };
                let data = &data[..len as usize];
                world.say(&message(op, bar, offset, len, data), 8);
            }
        }
    }
    world.end();
}
