//! A kernel of User-Mode Linux whose PCI bus says anything to functions of both families: messages with any lengths and any bytes, room for
//! answers or none, buffers for interrupts or none, while the data plane serves the queues of the function.
//!
//! Rules: nobody panics and nothing is endless; each message comes back, with no more written behind it than there is room for, and to a
//! well-formed read all that it asked for; and when the kernel has gone, nobody has a queue.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use vf_guest::frontend::Frontend;
use vf_guest::memory::{Allocator, GUEST_BASE, GuestMemory};
use vf_guest::pcidev::{Bus, CFG_READ, CFG_WRITE, LONGEST, MMIO_READ, message};
use vf_pci::pcidev::endpoint::{Attendant, Endpoint};
use vf_vhost::endpoint::SessionEvent;

use crate::bytes::Bytes;
use crate::vfio_user::{Nic, function};

/// Bytes of the kernel's memory, and where in it the bus ends and that of the function's driver begins.
const MEMORY: u64 = 1 << 17;
const HEAP: u64 = 1 << 16;

impl Attendant for Nic {
    fn session(&mut self, _: SessionEvent<'_>) {}
}

/// See the module.
pub fn drive(data: &[u8]) {
    let mut bytes = Bytes::new(data);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("vf0.sock");
    let endpoint = Endpoint::listen(&path, "vf0".into(), function(&mut bytes), false).unwrap();
    let device = Rc::new(RefCell::new((endpoint, Nic::new())));
    let memory = Arc::new(GuestMemory::new(MEMORY, true).unwrap());
    let mut alloc = Allocator::new(memory.regions()[0].layout());
    let mut frontend = Frontend::connect(&path).unwrap();
    let served = Rc::clone(&device);
    frontend.on_wait = Some(Box::new(move || {
        let (endpoint, nic) = &mut *served.borrow_mut();
        endpoint.poll(Instant::now(), nic);
        endpoint.obey(nic);
        endpoint.call();
    }));
    let mut bus = Bus::start(frontend, &memory, &mut alloc).unwrap();
    let say = |bus: &mut Bus, says: &[u8], room: u32| {
        // It has been checked that no more was written than there is room for.
        let used = bus
            .say(says, room)
            .expect("a message that does not come back");
        let [op, _, _, _, size @ ..] = says.first_chunk::<8>().copied().unwrap_or_default();
        let size = u32::from_le_bytes(size);
        // Of a message that is longer than any of the kernel's nothing is read.
        let read = matches!(op, CFG_READ | MMIO_READ) && (16..=16 + 4096).contains(&says.len());
        if read && size <= room.min(4096) {
            assert_eq!(used.len, size, "a read is answered");
        }
    };
    // Memory space and bus master.
    say(&mut bus, &message(CFG_WRITE, 0, 4, 2, &[6, 0]), 0);
    for _ in 0..64 {
        if bytes.is_empty() {
            break;
        }
        match bytes.below(8) {
            0 => {
                let at = GUEST_BASE + HEAP + u64::from(bytes.u16());
                let n = usize::from(bytes.below(64));
                let some = bytes.take(n);
                if let Some(slice) = memory.slice(at, some.len()) {
                    slice.copy_from(some);
                }
            }
            1 => device.borrow_mut().1.turn(),
            2 => {
                let (endpoint, nic) = &mut *device.borrow_mut();
                match bytes.u8() & 7 {
                    0 => endpoint.restart(nic),
                    _ => endpoint.changed(nic),
                }
            }
            3 => {
                bus.listen();
                while bus.interrupt().is_some() {}
            }
            4 => {
                let n = u64::from(bytes.u16()) % LONGEST;
                let says = bytes.take(n as usize);
                let room = u32::from(bytes.u16()) % LONGEST as u32;
                if says.len() + room as usize > 0 {
                    say(&mut bus, says, room);
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
                say(&mut bus, &message(op, bar, offset, len, data), 8);
            }
        }
    }
    drop(bus);
    let (endpoint, nic) = &mut *device.borrow_mut();
    endpoint.close_session(Instant::now(), nic);
    assert!(nic.has_no_queues(), "a queue of nobody runs");
}
