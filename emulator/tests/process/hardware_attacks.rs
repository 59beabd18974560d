//! Attacks on the register models of VFs of hardware and on both of their buses, each with a name. After each of them the process lives, the
//! others on the NIC have passed frames and noticed nothing, and the VF can be had again.

use std::sync::Arc;

use rustix::event::{EventfdFlags, eventfd};
use vf_guest::ixgbevf::{Ask, Ixgbevf, Registers, reg};
use vf_guest::memory::{Allocator, GUEST_BASE, GuestMemory, Region, RegionLayout};
use vf_guest::pci::PciFunction;
use vf_guest::pcidev::{Bus, CFG_WRITE, MMIO_READ, MMIO_WRITE, message};
use vf_guest::sfc::{PORT, Sfc, command, reg as sfc_reg};

use crate::emulator::wait_for;
use crate::hardware::uml;
use crate::hardware_hostile::{
    Beside, DMA_MAP, NIC, READ, Raw, SET_IRQS, WRITE, WRITE_MULTI, access, head, map, words, write,
};

/// Commands of vfio-user.
const VERSION: u16 = 1;
const DMA_UNMAP: u16 = 3;
const GET_REGION_INFO: u16 = 5;
const GET_IRQ_INFO: u16 = 7;
const DMA_READ: u16 = 11;
const DMA_WRITE: u16 = 12;
const RESET: u16 = 13;

const MEMORY: u64 = 4 << 20;

/// A guest whose driver has been honest so far.
struct Guest<D> {
    function: PciFunction,
    memory: Arc<GuestMemory>,
    driver: D,
}

type Intel = Guest<Ixgbevf>;
type Solarflare = Guest<Sfc>;

fn function(beside: &Beside, vf: usize) -> (PciFunction, Arc<GuestMemory>, Allocator) {
    let socket = beside.emulator.path(&format!("a-vf{vf}.sock"));
    let mut function = wait_for("a session", || PciFunction::connect(&socket).ok());
    let memory = Arc::new(GuestMemory::new(MEMORY, false).unwrap());
    function.start(&memory).unwrap();
    let alloc = Allocator::new(memory.regions()[0].layout());
    (function, memory, alloc)
}

fn intel(beside: &Beside) -> Intel {
    let (mut function, memory, mut alloc) = function(beside, 0);
    let driver = Ixgbevf::start(&mut function, &memory, &mut alloc).unwrap();
    Guest {
        function,
        memory,
        driver,
    }
}

fn solarflare(beside: &Beside) -> Solarflare {
    let (mut function, memory, mut alloc) = function(beside, 1);
    let driver = Sfc::start(&mut function, &memory, &mut alloc).unwrap();
    Guest {
        function,
        memory,
        driver,
    }
}

impl<D> Guest<D> {
    fn write(&mut self, at: u64, value: u32) {
        self.function.write(at, value);
    }

    /// Writes words into its memory.
    fn poke(&self, at: u64, value: u64) {
        let place = self.memory.slice(at, 8).unwrap();
        place.copy_from(&value.to_le_bytes());
    }
}

impl Intel {
    /// Puts descriptors into the transmit ring, from the first on, and rings for all of them.
    fn transmit(&mut self, descriptors: &[[u64; 2]]) {
        self.function.write(reg::TX + reg::CONTROL, 0);
        self.function.write(reg::TX + reg::HEAD, 0);
        self.function.write(reg::TX + reg::TAIL, 0);
        for (at, words) in (0..).zip(descriptors) {
            self.driver.tx.write(at, *words);
        }
        self.function.write(reg::TX + reg::CONTROL, 1 << 25);
        self.function
            .write(reg::TX + reg::TAIL, descriptors.len() as u32);
    }

    fn ask_pf(&mut self, message: &[u32]) {
        let _ = self.driver.message(&mut self.function, message);
    }
}

impl Solarflare {
    fn ask(&mut self, command: u16, payload: &[u32]) -> bool {
        let payload = words(payload);
        self.driver
            .ask(&mut self.function, command, &payload)
            .is_ok()
    }

    /// Takes its queues back and has so many interfaces.
    fn interfaces(&mut self, n: u32) {
        assert!(self.ask(command::ENTITY_RESET, &[1]));
        assert!(self.ask(command::ALLOC_VIS, &[1, n]));
    }

    fn event_queue(&mut self, instance: u32, entries: u32, page: u64) -> bool {
        let [low, high] = halves(page);
        let mut payload = vec![entries, instance, 0, 0, 0, 0, 0, 0, 0];
        for _ in 0..entries.div_ceil(512).min(64) {
            payload.extend([low, high]);
        }
        self.ask(command::INIT_EVQ, &payload)
    }

    /// A ring of 512 descriptors on this page, completing into the events of that interface.
    fn ring(&mut self, command: u16, instance: u32, events: u32, flags: u32, page: u64) -> bool {
        let [low, high] = halves(page);
        self.ask(
            command,
            &[512, events, 0, instance, flags, 0, PORT, low, high],
        )
    }

    fn options(&mut self, descriptors: &[u64]) {
        for (at, descriptor) in (0..).zip(descriptors) {
            self.driver.tx.write(at, *descriptor);
        }
        self.write(sfc_reg::TX_TAIL, descriptors.len() as u32);
    }
}

fn halves(word: u64) -> [u32; 2] {
    [word as u32, (word >> 32) as u32]
}

/// Frames from others find the VF as the attack has left it.
fn visit(beside: &mut Beside, vf: usize) {
    let mac = beside.emulator.vf(0, vf).state.mac;
    let mac = vf_guest::net::parse_mac(&mac).unwrap();
    let [victim, _] = beside.victims();
    for len in [60, 1514, 200] {
        let frame = victim.frame(mac, len);
        victim.send(&frame);
    }
    beside.pass();
}

/// Of a transmit descriptor of Intel's.
const DATA: u64 = 3 << 20 | 1 << 29;
const CONTEXT: u64 = 2 << 20 | 1 << 29 | 1 << 11;
const END: u64 = 1 << 24;
const REPORT: u64 = 1 << 27;
const TAG: u64 = 1 << 30;
const SEGMENT: u64 = 1 << 31;
const CHECKSUMS: u64 = 3 << 40;

/// What is tried on a guest's own VF.
type Attack<G> = (&'static str, fn(&mut G));

#[test]
fn an_intel_driver_gains_nothing_by_any_of_these() {
    let attacks: &[Attack<Intel>] = &[
        ("receive buffers in the ring's own descriptors", |intel| {
            for at in 0..256 {
                let own = intel.driver.rx.base + 16 * u64::from(at);
                intel.driver.rx.write(at, [own, 0]);
            }
            intel.write(reg::RX + reg::TAIL, 255);
        }),
        ("one memory for both rings", |intel| {
            intel.write(reg::TX + reg::CONTROL, 0);
            intel.write(reg::TX + reg::BASE_LOW, intel.driver.rx.base as u32);
            intel.write(reg::TX + reg::CONTROL, 1 << 25);
            intel.write(reg::TX + reg::TAIL, 100);
        }),
        ("frames out of rings that are being written", |intel| {
            let rx = intel.driver.rx.base;
            intel.transmit(&[[rx, DATA | END | REPORT | 4096]; 200]);
        }),
        (
            "segments of no bytes, of one, and of more than there are",
            |intel| {
                let buffer = intel.driver.tx.buffer(0);
                for mss in [0, 1, 2, 0xffff] {
                    let context = [14 << 9 | 20, CONTEXT | 1 << 10 | 20 << 40 | mss << 48];
                    let data = DATA | SEGMENT | CHECKSUMS;
                    let mut frame = vec![context];
                    frame.extend([[buffer, data | 0xffff]; 30]);
                    frame.push([buffer, data | END | REPORT | 0xffff]);
                    intel.transmit(&frame);
                }
            },
        ),
        ("headers that are longer than their frame", |intel| {
            let buffer = intel.driver.tx.buffer(0);
            for (lengths, l4) in [
                (127 << 9 | 511, 255),
                (0, 0),
                (14 << 9 | 511, 0),
                (127 << 9, 255),
            ] {
                let context = [lengths, CONTEXT | 1 << 10 | l4 << 40 | 100 << 48];
                for len in [1, 14, 60, 0xffff] {
                    let data = DATA | END | REPORT | CHECKSUMS | len;
                    intel.transmit(&[context, [buffer, data], [buffer, data | SEGMENT]]);
                }
            }
        }),
        ("tags in frames of no and of few bytes", |intel| {
            let buffer = intel.driver.tx.buffer(0);
            let frames: Vec<_> = (0..20)
                .map(|len| [buffer, DATA | END | REPORT | TAG | len])
                .collect();
            intel.transmit(&frames);
        }),
        ("more contexts than frames", |intel| {
            let frame = [intel.driver.tx.buffer(0), DATA | END | REPORT | 60];
            let mut ring = vec![[u64::MAX, CONTEXT | 1 << 36]; 254];
            ring.push(frame);
            intel.transmit(&ring);
        }),
        ("buffers of 31 KiB, each over those behind it", |intel| {
            intel.write(reg::RX + reg::CONTROL, 0);
            intel.write(reg::RX + reg::SRRCTL, 31);
            intel.write(reg::RX + reg::HEAD, 0);
            intel.write(reg::RX + reg::CONTROL, 1 << 25);
            for at in 0..256 {
                let place = GUEST_BASE + MEMORY - 16 * u64::from(at);
                intel.driver.rx.write(at, [place, 0]);
            }
            intel.write(reg::RX + reg::TAIL, 255);
        }),
        ("a ring that is moved while it runs", |intel| {
            for n in 0..200 {
                intel.write(reg::RX + reg::BASE_LOW, n << 7);
                intel.write(reg::RX + reg::LENGTH, n << 7);
                intel.write(reg::RX + reg::HEAD, n);
                intel.write(reg::RX + reg::TAIL, n);
            }
        }),
        ("vectors that there are not", |intel| {
            for at in (0x100..0x144).step_by(4).chain((0x820..0x830).step_by(4)) {
                intel.write(at, u32::MAX);
            }
            intel.write(0x104, u32::MAX);
        }),
        ("interrupts held back for as long as can be said", |intel| {
            intel.write(reg::VTEITR, 0x7ff8);
            intel.write(reg::VTEIMS, 7);
        }),
        ("addresses of others, of groups and of nobody", |intel| {
            for mac in [
                [0x0002, 0x0200],
                [0x0002, 0x0300],
                [u32::MAX, 0xffff],
                [0, 0],
                [1, 0],
            ] {
                intel.ask_pf(&[2, mac[0], mac[1]]);
                for n in 0..40 {
                    intel.ask_pf(&[6 | n << 16, mac[0], mac[1]]);
                }
            }
        }),
        ("frames of any length, VLANs of any number", |intel| {
            for len in [0, 17, 18, 85, 86, 9728, u32::MAX] {
                intel.ask_pf(&[5, len]);
            }
            for vlan in (0..4200).step_by(14) {
                intel.ask_pf(&[4 | 1 << 16, vlan]);
            }
        }),
        (
            "messages of versions and kinds that there are not",
            |intel| {
                for version in 0..8 {
                    intel.ask_pf(&[8, version]);
                    for kind in 0..40 {
                        intel.ask_pf(&[kind, u32::MAX, u32::MAX]);
                    }
                }
            },
        ),
        ("a mailbox that is held and never asked", |intel| {
            for n in 0..500 {
                intel.write(reg::VFMAILBOX, n & 0xfe);
                intel.write(reg::VFMBMEM, n);
            }
        }),
        ("resets between a descriptor and its tail", |intel| {
            for n in 0..100 {
                let _ = intel.driver.send(&[n; 60], &Ask::default());
                intel.write(reg::VFCTRL, 1 << 26);
                intel.driver.kick(&mut intel.function);
            }
        }),
    ];
    let mut beside = Beside::new("");
    for (name, attack) in attacks {
        let mut intel = intel(&beside);
        attack(&mut intel);
        visit(&mut beside, 0);
        drop(intel);
        beside.unharmed(name);
    }
}

#[test]
fn a_solarflare_driver_gains_nothing_by_any_of_these() {
    const OPTION: u64 = 1 << 63;
    const SEGMENTATION: u64 = OPTION | 7 << 60;
    let attacks: &[Attack<Solarflare>] = &[
        ("events over the request that is being answered", |sfc| {
            sfc.interfaces(8);
            let page = sfc.driver.request();
            assert!(sfc.event_queue(0, 512, page));
            for _ in 0..100 {
                // What is asked is overwritten, and what is answered.
                sfc.ask(0x86, &[0, 0x7f, 0x1c | 12 << 16]);
            }
        }),
        ("receive buffers in the event queue", |sfc| {
            let events = sfc.driver.events();
            for at in 0..256 {
                sfc.driver.rx.write(at, 64 << 48 | events);
            }
        }),
        ("events over the descriptors", |sfc| {
            sfc.interfaces(8);
            let page = sfc.driver.rx.base;
            assert!(sfc.event_queue(3, 512, page));
            assert!(sfc.ring(command::INIT_RXQ, 3, 3, 1 << 8, page));
            assert!(sfc.ring(command::INIT_TXQ, 3, 3, 0, page));
            sfc.write(3 * sfc_reg::WINDOW + sfc_reg::RX_TAIL, 504);
            sfc.write(3 * sfc_reg::WINDOW + sfc_reg::TX_TAIL, 511);
        }),
        ("events that are gone while their rings run", |sfc| {
            assert!(sfc.ask(0x83, &[0]));
            assert!(!sfc.ask(0x83, &[0]));
            let _ = sfc.driver.send(&[1; 60], &Ask::default());
            sfc.driver.kick(&mut sfc.function);
        }),
        ("queues of interfaces that there are not", |sfc| {
            for instance in [1, 7, 8, 1 << 15, 1 << 31, u32::MAX] {
                let page = sfc.driver.rx.base;
                assert!(!sfc.event_queue(instance, 512, page));
                assert!(!sfc.ring(command::INIT_RXQ, instance, 0, 0, page));
                assert!(!sfc.ring(command::INIT_TXQ, 0, instance, 0, page));
            }
        }),
        ("queues of any size, anywhere", |sfc| {
            sfc.interfaces(8);
            for entries in [0, 1, 15, 16, 513, 1 << 15, 1 << 16, 1 << 31, u32::MAX] {
                for page in [0, 1, GUEST_BASE + MEMORY, !4095, GUEST_BASE + 8] {
                    let _ = sfc.event_queue(2, entries, page);
                }
            }
            let end = GUEST_BASE + MEMORY - 4096;
            let _ = sfc.event_queue(2, 1024, end);
            let _ = sfc.ring(command::INIT_RXQ, 2, 2, u32::MAX, end);
            let _ = sfc.ring(command::INIT_TXQ, 2, 2, u32::MAX, end);
        }),
        ("segments of one byte, and options without a frame", |sfc| {
            let buffer = sfc.driver.tx.buffer(0);
            let long = 1 << 62 | 0x3fff << 48 | buffer;
            for size in [0, 1, 2, 0xffff] {
                let mut ring = vec![SEGMENTATION | 2 << 56, SEGMENTATION | 3 << 56 | size << 32];
                ring.extend([long; 30]);
                ring.push(0x3fff << 48 | buffer);
                ring.extend((0..8).map(|kind| OPTION | kind << 60 | 0xfff));
                ring.resize(255, SEGMENTATION | 3 << 56 | size << 32);
                sfc.options(&ring);
            }
        }),
        ("frames of no bytes", |sfc| {
            let buffer = sfc.driver.tx.buffer(0);
            let ring: Vec<u64> = (0..250).map(|n| (n % 14) << 48 | buffer).collect();
            sfc.options(&ring);
        }),
        ("counters anywhere and all the time", |sfc| {
            let (events, end) = (sfc.driver.events(), GUEST_BASE + MEMORY);
            for place in [events, end - 1, end, 0, u64::MAX, sfc.driver.tx.base] {
                let [low, high] = halves(place);
                for what in [1, 3, 4, 0x3c, u32::MAX] {
                    for len in [0, 1, 8, 4096, u32::MAX] {
                        let _ = sfc.ask(0x2e, &[low, high, what, len, 0]);
                    }
                }
            }
        }),
        (
            "more filters than there is room for, and those of others",
            |sfc| {
                let port = 0x100 | 0x40 | 0x200 | 2 | 0x20;
                let mut refused = 0;
                for n in 0..3000u32 {
                    let values = [
                        (58, n.to_be_bytes()[2..].to_vec()),
                        (60, vec![8, 0]),
                        (66, vec![17]),
                    ];
                    let values: Vec<_> =
                        values.iter().map(|(at, value)| (*at, &value[..])).collect();
                    let put = sfc
                        .driver
                        .receive(&mut sfc.function, port & !0x100, 0, &values);
                    refused += u32::from(put.is_err());
                }
                assert!(refused > 0);
                // Victims' addresses, and all that nobody is known to want.
                for vf in [2, 3] {
                    let mac = [2, 0x76, 0x66, 0, 0, vf];
                    let _ = sfc
                        .driver
                        .receive(&mut sfc.function, 0x10, 0, &[(52, &mac)]);
                }
                for fields in [1 << 31, 1 << 30, 1 << 31 | 1 << 30, u32::MAX, 0] {
                    let _ = sfc.driver.receive(&mut sfc.function, fields, 2, &[]);
                }
            },
        ),
        ("filters of nobody, taken out and changed", |sfc| {
            for handle in [0, 1, 2, 3, 1 << 31, u32::MAX] {
                for operation in [1, 3, 4, 5, u32::MAX] {
                    let mut payload = [0; 27];
                    (payload[0], payload[1], payload[2]) = (operation, handle, handle & 1);
                    let _ = sfc.ask(command::FILTER_OP, &payload);
                }
            }
        }),
        ("events that the driver makes itself", |sfc| {
            for n in 0..2000 {
                // Frames that were received, sent, flushed; and no event at all.
                let kind = [0, 2 << 28, 12 << 28, u32::MAX][n as usize % 4];
                let _ = sfc.ask(0x86, &[0, n, kind]);
            }
        }),
        ("interrupts of any vector", |sfc| {
            for vector in (0..40).chain([1 << 16, u32::MAX]) {
                let _ = sfc.ask(0xe3, &[vector]);
            }
        }),
        ("spreads without end, and those of others", |sfc| {
            for n in 0..200 {
                let _ = sfc.ask(command::RSS_CONTEXT_ALLOC, &[PORT, 1, 1 << (n % 8)]);
                let _ = sfc.ask(0x9f, &[n * 7]);
                let _ = sfc.ask(0xa2, &[n; 33]);
            }
        }),
        ("events read that were never written", |sfc| {
            for read in [0, 1, 511, 1023, 0x7fff, u32::MAX] {
                sfc.write(sfc_reg::EVENT_READ, read);
                sfc.write(0x420, read);
            }
        }),
        ("tails anywhere, of all interfaces", |sfc| {
            for interface in 0..32 {
                for tail in [0, 7, 8, 255, 256, 4095, u32::MAX] {
                    sfc.write(interface * sfc_reg::WINDOW + sfc_reg::RX_TAIL, tail);
                    sfc.write(interface * sfc_reg::WINDOW + sfc_reg::TX_TAIL, tail);
                }
            }
        }),
        ("requests in the last bytes of the memory", |sfc| {
            let end = GUEST_BASE + MEMORY;
            for at in [end - 256, end - 8, end - 4, end] {
                if at < end {
                    sfc.poke((end - 8).min(at), 0x7f | 0x8a << 32 | 1020 << 48);
                }
                let [low, high] = halves(at);
                sfc.write(sfc_reg::DOORBELL_HIGH, high);
                sfc.write(sfc_reg::DOORBELL_LOW, low);
            }
        }),
        ("interfaces and adaptors twice and without end", |sfc| {
            for n in 0..300 {
                for command in [0x8b, 0x8c, 0x98, 0x99, 0x20, 0x1c] {
                    let _ = sfc.ask(command, &[n % 3, n, PORT, 0, n, 0, 0, 0]);
                }
            }
        }),
    ];
    let mut beside = Beside::new("");
    for (name, attack) in attacks {
        let mut sfc = solarflare(&beside);
        attack(&mut sfc);
        visit(&mut beside, 1);
        drop(sfc);
        beside.alone(1);
        beside.unharmed(name);
        // It can be had with its queues and filters, whatever the last driver has left.
        drop(solarflare(&beside));
    }
}

/// A session that says anything, with a memory that it may take away.
struct Client {
    raw: Raw,
    memory: Region,
}

impl Client {
    fn new(beside: &Beside) -> Client {
        let layout = RegionLayout {
            guest_addr: GUEST_BASE,
            user_addr: 0,
            size: 1 << 20,
            mmap_offset: 0,
        };
        let memory = Region::new(layout, false).unwrap();
        let mut raw = beside.raw(0);
        let all = map(GUEST_BASE, 1 << 20);
        assert_eq!(raw.asks(DMA_MAP, &all, &[memory.fd()]), Some(0));
        assert_eq!(raw.asks(WRITE, &write(7, 4, &[6, 0]), &[]), Some(0));
        let mut client = Client { raw, memory };
        client.rings();
        client
    }

    /// Both rings run, and have all of their descriptors.
    fn rings(&mut self) {
        for queue in [reg::RX, reg::TX] {
            self.raw.posts(
                0,
                &[
                    (queue + reg::BASE_LOW, GUEST_BASE as u32),
                    (queue + reg::BASE_HIGH, (GUEST_BASE >> 32) as u32),
                    (queue + reg::LENGTH, 4096),
                    (queue + reg::CONTROL, 1 << 25),
                    (queue + reg::TAIL, 255),
                ],
            );
        }
    }

    fn unmap(address: u64, size: u64) -> Vec<u8> {
        [
            &words(&[24, 0])[..],
            [address, size].map(u64::to_ne_bytes).as_flattened(),
        ]
        .concat()
    }
}

#[test]
fn a_client_of_vfio_user_gains_nothing_by_any_of_these() {
    let attacks: &[Attack<Client>] = &[
        (
            "memory that is unmapped under its rings, and another in its place",
            |client| {
                for n in 0..50 {
                    let unmap = Client::unmap(GUEST_BASE, 1 << 20);
                    let _ = client.raw.asks(DMA_UNMAP, &unmap, &[]);
                    client.raw.posts(0, &[(reg::TX + reg::TAIL, n)]);
                    // Shorter than what the rings say.
                    let size = if n % 2 == 0 { 4096 } else { 1 << 20 };
                    let fd = client.memory.fd();
                    let _ = client.raw.asks(DMA_MAP, &map(GUEST_BASE, size), &[fd]);
                    client.rings();
                    let unmap = Client::unmap(GUEST_BASE, size);
                    let _ = client.raw.asks(DMA_UNMAP, &unmap, &[]);
                    let fd = client.memory.fd();
                    let _ = client.raw.asks(DMA_MAP, &map(GUEST_BASE, 1 << 20), &[fd]);
                }
            },
        ),
        (
            "memory that may only be read, under a receive ring",
            |client| {
                let unmap = Client::unmap(GUEST_BASE, 1 << 20);
                let _ = client.raw.asks(DMA_UNMAP, &unmap, &[]);
                let numbers = [0, GUEST_BASE, 1 << 20].map(u64::to_ne_bytes);
                let read_only = [&words(&[32, 1])[..], numbers.as_flattened()].concat();
                let fd = client.memory.fd();
                let _ = client.raw.asks(DMA_MAP, &read_only, &[fd]);
                client.rings();
            },
        ),
        ("one file in a thousand places", |client| {
            for n in 1..1000 {
                let fd = client.memory.fd();
                let at = map(GUEST_BASE + (n << 21), 1 << 20);
                let _ = client.raw.asks(DMA_MAP, &at, &[fd]);
            }
        }),
        (
            "a thousand maps of half a page and of half the world",
            |client| {
                for n in 1..500u64 {
                    for size in [1, 2048, 1 << 62, u64::MAX] {
                        let fd = client.memory.fd();
                        let _ = client.raw.asks(DMA_MAP, &map(n << 40, size), &[fd]);
                    }
                }
            },
        ),
        ("the session as its own interrupt", |client| {
            let own = client.raw.stream().try_clone().unwrap();
            let vectors = words(&[20, 0x24, 2, 0, 1]);
            let _ = client
                .raw
                .asks(SET_IRQS, &vectors, &[std::os::fd::AsFd::as_fd(&own)]);
        }),
        ("an event that is full, for every vector", |client| {
            let full = eventfd(0, EventfdFlags::NONBLOCK).unwrap();
            rustix::io::write(&full, &(u64::MAX - 1).to_ne_bytes()).unwrap();
            for vector in 0..3 {
                let vectors = words(&[20, 0x24, 2, vector, 1]);
                let fd = std::os::fd::AsFd::as_fd(&full);
                let _ = client.raw.asks(SET_IRQS, &vectors, &[fd]);
            }
            client
                .raw
                .posts(0, &[(reg::VTEIMS, 7), (0x104, 7), (0x104, 7)]);
        }),
        ("vectors up to the end of all numbers", |client| {
            for (start, count) in [
                (0, u32::MAX),
                (u32::MAX, 2),
                (2, 2),
                (3, 0),
                (1 << 31, 1 << 31),
            ] {
                for flags in [0x21, 0x22, 0x24, 0x9, 0x11, 0x3f, u32::MAX] {
                    let vectors = words(&[20, flags, 2, start, count]);
                    let _ = client.raw.asks(SET_IRQS, &vectors, &[]);
                }
            }
        }),
        ("ones in all of configuration space", |client| {
            for at in (0..4096).step_by(4) {
                let _ = client.raw.asks(WRITE, &write(7, at, &[0xff; 4]), &[]);
            }
            for (at, len) in [(4095, 2), (4093, 8), (255, 4), (1 << 40, 4), (u64::MAX, 1)] {
                let _ = client.raw.asks(WRITE, &write(7, at, &vec![0xff; len]), &[]);
                let _ = client.raw.asks(READ, &access(at, 7, len as u32), &[]);
            }
        }),
        (
            "a power state for each number, and doorbells in it",
            |client| {
                for state in [3, 0, 2, 1, 3] {
                    for at in (0x40..0x100).step_by(4) {
                        let _ = client.raw.asks(WRITE, &write(7, at, &[state, 0]), &[]);
                    }
                    client
                        .raw
                        .posts(0, &[(reg::TX + reg::TAIL, 9), (reg::VFMAILBOX, 1)]);
                }
            },
        ),
        ("anything in the MSI-X table, and beyond it", |client| {
            for at in (0..0x4000).step_by(4) {
                let _ = client.raw.asks(WRITE, &write(3, at, &[0xff; 4]), &[]);
            }
            for at in [0x3ffc, 0x3fff, 0x4000, u64::MAX - 3] {
                let _ = client.raw.asks(WRITE, &write(3, at, &[0xff; 8]), &[]);
                let _ = client.raw.asks(READ, &access(at, 3, 8), &[]);
            }
        }),
        (
            "registers in bytes, in odd lengths and over the end",
            |client| {
                for len in [0, 1, 2, 3, 5, 6, 7, 8, 9, 16, 64] {
                    for at in [0, 1, 0x1fe, 0x2fc, 0x2ff, 0x1018, 0x3ffd, 0x4000] {
                        let _ = client.raw.asks(WRITE, &write(0, at, &vec![0xff; len]), &[]);
                        let _ = client.raw.asks(READ, &access(at, 0, len as u32), &[]);
                    }
                }
            },
        ),
        ("regions and interrupts of any number", |client| {
            for n in (0..20).chain([1 << 16, u32::MAX]) {
                for argsz in [0, 8, 32, u32::MAX] {
                    let _ = client.raw.asks(
                        GET_REGION_INFO,
                        &words(&[argsz, 0, n, 0, 0, 0, 0, 0]),
                        &[],
                    );
                    let _ = client
                        .raw
                        .asks(GET_IRQ_INFO, &words(&[argsz, 0, n, 0]), &[]);
                    let _ = client.raw.asks(READ, &access(0, n, 4), &[]);
                }
            }
        }),
        ("resets between doorbells", |client| {
            for n in 0..100 {
                client.raw.posts(0, &[(reg::TX + reg::TAIL, n)]);
                let _ = client.raw.asks(RESET, &[], &[]);
                client.rings();
            }
        }),
        ("many writes of nothing in one message", |client| {
            let nothing = [0u64.to_ne_bytes(), [0; 8]].concat();
            let many = [&1000u64.to_ne_bytes()[..], &nothing.repeat(1000)].concat();
            let _ = client.raw.asks(WRITE_MULTI, &many, &[]);
        }),
        ("a version again", |client| {
            let _ = client.raw.asks(VERSION, &[0, 0, 1, 0], &[]);
        }),
        ("answers that nobody has asked for", |client| {
            for flags in [1, 0x21, 0x2f, u32::MAX] {
                let _ = client.raw.says(&head(READ, 16, flags), &[]);
            }
        }),
        ("commands of the other side, and of nobody", |client| {
            for command in [DMA_READ, DMA_WRITE, 0, 4, 6, 10, 14, 16, 99, u16::MAX] {
                let _ = client.raw.asks(command, &[0; 64], &[]);
            }
        }),
    ];
    let mut beside = Beside::new("");
    for (name, attack) in attacks {
        let mut client = Client::new(&beside);
        attack(&mut client);
        visit(&mut beside, 0);
        drop(client);
        beside.unharmed(name);
    }
    // What a client says of itself is a program's text.
    for text in [
        "{".repeat(50_000),
        "[".repeat(50_000),
        format!(
            "{{\"capabilities\":{}1{}}}\0",
            "[".repeat(10_000),
            "]".repeat(10_000)
        ),
        "{\"capabilities\":{\"max_msg_fds\":-1,\"max_data_xfer_size\":0}}\0".into(),
        "{\"capabilities\":{\"max_msg_fds\":1e999}}\0".into(),
        "\u{0}\u{0}".into(),
    ] {
        let mut raw = Raw::silent(&beside.emulator.path("a-vf0.sock"));
        let payload = [&[0, 0, 1, 0], text.as_bytes()].concat();
        let _ = raw.asks(VERSION, &payload, &[]);
        drop(raw);
        beside.unharmed("what a client says of itself");
    }
}

#[test]
fn a_kernel_on_its_bus_gains_nothing_by_any_of_these() {
    let attacks: &[Attack<Bus>] = &[
        ("operations that there are not", |bus| {
            for op in (0..20).chain([0xff]) {
                let _ = bus.say(&message(op, 0, 0, 4, &[1; 4]), 4);
            }
        }),
        ("the same byte 4 GiB times", |bus| {
            for size in [0, 4096, 4097, u32::MAX] {
                for at in [0, 0x1018, u64::MAX - 3] {
                    let _ = bus.say(&message(5, 0, at, size, &[0xff]), 0);
                }
            }
        }),
        ("sizes that are not those of what is there", |bus| {
            for size in [0, 1, 3, 5, 8, 64, 4096, u32::MAX] {
                for op in [1, 2, 3, 4] {
                    let _ = bus.say(&message(op, 0, 0, size, &[1; 4]), 4);
                    let _ = bus.say(&message(op, 0, 0, size, &[]), 0);
                }
            }
        }),
        ("places that there are not", |bus| {
            for bar in [0, 1, 3, 5, 6, 7, 0xff] {
                for at in [0x3fff, 0x4000, 4095, 4096, 1 << 40, u64::MAX] {
                    let _ = bus.read_by(MMIO_READ, bar, at, 4);
                    let _ = bus.write_by(MMIO_WRITE, bar, at, &[0xff; 4]);
                    let _ = bus.write_by(CFG_WRITE, bar, at, &[0xff; 4]);
                }
            }
        }),
        ("half a head, and none", |bus| {
            for len in 0..16 {
                let _ = bus.say(&message(3, 0, 0, 4, &[])[..len], 4);
            }
            let _ = bus.say(&[], 64);
        }),
        ("interrupts that nobody takes", |bus| {
            for _ in 0..2000 {
                bus.write(0x104, 7);
                bus.write(reg::VTEIMS, 7);
            }
        }),
        ("an interrupt for any address", |bus| {
            bus.listen();
            for at in (0..0x40).step_by(4) {
                let _ = bus.write_by(MMIO_WRITE, 3, at, &[0xff; 4]);
            }
            bus.write(reg::VTEIMS, 7);
            bus.write(0x104, 7);
        }),
    ];
    let mut beside = Beside::with_nic(
        "",
        &NIC.replacen("'ixgbevf'", "'ixgbevf'\nsocket_role = 'uml'", 1),
    );
    let kernel_of = |beside: &Beside| uml(&beside.emulator.path("a-vf0.sock"));
    for (name, attack) in attacks {
        let mut kernel = kernel_of(&beside);
        attack(&mut kernel.function);
        visit(&mut beside, 0);
        drop(kernel);
        beside.alone(0);
        beside.others_noticed_nothing(name);
        let mut kernel = kernel_of(&beside);
        kernel.pass(&mut beside.victims()[0]);
        drop(kernel);
        beside.alone(0);
    }
}
