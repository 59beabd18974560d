//! The virtual function under a driver: registers, mailbox, rings; an honest one and one that lies. No transport: the function is called as
//! its slot calls it.

mod hostile;
mod mailbox;
mod page;
mod traffic;

use std::collections::BTreeMap;
use std::os::fd::AsFd;

use vf_guest::ixgbevf::{Ixgbevf as Driver, Registers, reg};
use vf_guest::memory::{Allocator, GuestMemory as Memory};
use vf_model::{Command, Counters, MacAddr, MailboxRequest, NicConfig, Policy, Profile, VfIndex};
use vf_vhost::frame::TagEdit;
use vf_vhost::memory::{GuestMemory, RegionSpec};
use vf_vhost::rx::RxQueue;
use vf_vhost::tx::TxQueue;

use super::*;
use crate::function::NotGranted;
use crate::msix::Vectors;

const QUEUE_PAIRS: u16 = 2;

/// The NIC as a function sees it: a policy that answers for real, and rings that somebody has to serve.
struct Nic {
    policy: Arc<Policy>,
    vf: VfIndex,
    rx: BTreeMap<u32, RxQueue>,
    tx: BTreeMap<u32, TxQueue>,
    counters: Counters,
    /// Bytes by which those received go on with each look at the counters.
    goes_on: u64,
    looks: std::cell::Cell<u64>,
    requests: Vec<String>,
    /// Queues that cannot run, as it was told.
    broken: Vec<(u32, RingError)>,
}

impl Nic {
    fn new(vf: u8, profile: Profile) -> Nic {
        let policy = Policy::new(NicConfig {
            vfs: 4,
            profile,
            mac_base: MacAddr([2, 0, 0, 0, 0, 0]),
        });
        Nic {
            policy: Arc::new(policy),
            vf: VfIndex(vf),
            rx: BTreeMap::new(),
            tx: BTreeMap::new(),
            counters: Counters::default(),
            goes_on: 0,
            looks: std::cell::Cell::default(),
            requests: Vec::new(),
            broken: Vec::new(),
        }
    }

    fn administer(&mut self, words: &str) {
        let words: Vec<_> = words.split(' ').collect();
        let command = Command::parse(&words).unwrap();
        self.policy = Arc::new(self.policy.with(&command).unwrap());
    }
}

impl Host for Nic {
    fn start_queues(&mut self, queues: Vec<Vring>) {
        for ring in queues {
            let index = ring.index();
            let started = match index % 2 {
                0 => self.rx.insert(index, RxQueue::new(ring)).is_none(),
                _ => self.tx.insert(index, TxQueue::new(ring)).is_none(),
            };
            assert!(started, "ring {index} runs already");
        }
    }

    fn stop_queues(&mut self, queues: &[u32]) -> Vec<Option<Vring>> {
        let stop = |index: &u32| match index % 2 {
            0 => self.rx.remove(index).map(RxQueue::into_vring),
            _ => self.tx.remove(index).map(TxQueue::into_vring),
        };
        queues.iter().map(stop).collect()
    }

    fn cannot_run(&mut self, queue: u32, why: &RingError) {
        self.broken.push((queue, *why));
    }

    fn request(&mut self, request: &MailboxRequest) -> Result<(), NotGranted> {
        self.requests.push(request.to_string());
        let granted = self.policy.with_message(self.vf, request)?;
        self.policy = Arc::new(granted.policy);
        granted.denied.map_or(Ok(()), |why| Err(why.into()))
    }

    fn policy(&self) -> Arc<Policy> {
        Arc::clone(&self.policy)
    }

    fn vf(&self) -> VfIndex {
        self.vf
    }

    fn speed_mbps(&self) -> u32 {
        10_000
    }

    fn counters(&self) -> Counters {
        let looks = self.looks.replace(self.looks.get() + 1);
        let mut counters = self.counters.clone();
        counters.rx_bytes += looks * self.goes_on;
        counters
    }
}

/// A guest with such a function.
struct Guest {
    function: Ixgbevf,
    nic: Nic,
    vectors: Arc<Vectors>,
    memory: Arc<Memory>,
    alloc: Allocator,
}

impl Guest {
    /// One whose driver has not done anything yet.
    fn new(vf: u8) -> Guest {
        Guest::with(vf, Profile::Generic)
    }

    fn with(vf: u8, profile: Profile) -> Guest {
        let memory = Arc::new(Memory::new(4 << 20, true).unwrap());
        let mut guest = Guest {
            function: Ixgbevf::new(QUEUE_PAIRS),
            nic: Nic::new(vf, profile),
            vectors: Arc::new(Vectors::new(VECTORS.into())),
            alloc: Allocator::new(memory.regions()[0].layout()),
            memory,
        };
        guest.map(Some(guest.dma()));
        guest
    }

    /// Its memory as the function reaches it.
    fn dma(&self) -> Arc<GuestMemory> {
        let region = &self.memory.regions()[0];
        let layout = region.layout();
        let spec = RegionSpec {
            guest_addr: layout.guest_addr,
            size: layout.size,
            user_addr: layout.guest_addr,
            mmap_offset: layout.mmap_offset,
        };
        let fd = region.fd().as_fd().try_clone_to_owned().unwrap();
        GuestMemory::map(vec![(spec, fd)]).unwrap()
    }

    fn map(&mut self, memory: Option<Arc<GuestMemory>>) {
        let vectors = Arc::clone(&self.vectors);
        let environment = Environment { memory, vectors };
        self.function.set_environment(environment, &mut self.nic);
    }

    fn start(&mut self) -> Driver {
        let (memory, mut alloc) = (Arc::clone(&self.memory), self.alloc.clone());
        let driver = Driver::start(self, &memory, &mut alloc).unwrap();
        self.alloc = alloc;
        driver
    }

    fn administer(&mut self, words: &str) {
        self.nic.administer(words);
        self.function.changed(&mut self.nic);
    }

    /// Which rings run.
    fn running(&self) -> Vec<u32> {
        let mut all: Vec<u32> = self
            .nic
            .rx
            .keys()
            .chain(self.nic.tx.keys())
            .copied()
            .collect();
        all.sort_unstable();
        all
    }

    /// Takes a vector that was raised.
    fn interrupted(&self) -> [bool; 3] {
        [0, 1, 2].map(|vector| self.vectors.take_pending(vector))
    }
}

impl Registers for Guest {
    fn read(&mut self, offset: u64) -> u32 {
        let mut data = [0xee; 4];
        self.function.read(0, offset, &mut data, &mut self.nic);
        u32::from_le_bytes(data)
    }

    fn write(&mut self, offset: u64, value: u32) {
        let data = value.to_le_bytes();
        self.function.write(0, offset, &data, &mut self.nic);
    }
}

/// Gives all that one guest has sent to another, as a plane does.
fn carry(from: &mut Guest, to: &mut Guest) -> usize {
    let mut carried = 0;
    for tx in from.nic.tx.values_mut() {
        while tx.fetch().is_ok_and(|n| n > 0) {
            let n = tx.fetched().len();
            for frame in tx.fetched().iter().filter(|frame| frame.fault().is_none()) {
                for rx in to.nic.rx.values_mut().take(1) {
                    let frame = std::slice::from_ref(frame);
                    if rx
                        .deliver_from(tx, frame, TagEdit::Keep)
                        .is_ok_and(|(n, _)| n == 1)
                    {
                        carried += 1;
                    }
                }
            }
            tx.complete(n);
        }
        tx.flush();
    }
    for rx in to.nic.rx.values_mut() {
        rx.flush();
    }
    carried
}

#[test]
fn a_register_test_as_drivers_make_it_passes() {
    let mut guest = Guest::new(0);
    let (rx, tx) = (reg::RX, reg::TX);
    // What is written, and which of it is to be read: all of it in one pair of queues and the other.
    for pair in [0, 0x40] {
        guest.write(rx + pair + reg::CONTROL, 1 << 25);
        for (register, written, read) in [
            (rx + reg::BASE_LOW, u32::MAX, 0xffff_ff80),
            (rx + reg::BASE_HIGH, u32::MAX, u32::MAX),
            (rx + reg::LENGTH, 0x000f_ffff, 0x000f_ff80),
            (rx + reg::TAIL, 0x0000_ffff, 0x0000_ffff),
            (tx + reg::BASE_LOW, u32::MAX, 0xffff_ff80),
            (tx + reg::BASE_HIGH, u32::MAX, u32::MAX),
            (tx + reg::LENGTH, 0x000f_ff80, 0x000f_ff80),
        ] {
            for pattern in [0x5a5a_5a5a, 0xa5a5_a5a5, 0, u32::MAX] {
                guest.write(register + pair, pattern & written);
                assert_eq!(guest.read(register + pair), pattern & written & read);
            }
            guest.write(register + pair, 0);
        }
        guest.write(rx + pair + reg::CONTROL, 0);
    }
    assert!(guest.running().is_empty());
    assert_eq!(guest.nic.broken, [], "nobody is told of a test");
}

#[test]
fn registers_are_read_in_parts_and_written_as_wholes() {
    let mut guest = Guest::new(0);
    guest.write(reg::RX + reg::BASE_HIGH, 0x0403_0201);
    guest.write(reg::RX + reg::BASE_LOW, 0x80);
    let mut read = |at, n: usize| {
        let mut data = vec![0xee; n];
        guest.function.read(0, at, &mut data, &mut guest.nic);
        data
    };
    assert_eq!(read(reg::RX, 8), [0x80, 0, 0, 0, 1, 2, 3, 4]);
    assert_eq!(read(reg::RX + 6, 2), [3, 4]);
    assert_eq!(read(reg::RX + 5, 1), [2]);
    assert_eq!(read(0x3ffc, 4), [0; 4]);
    let mut bar3 = [0xee; 4];
    guest.function.read(3, 0, &mut bar3, &mut guest.nic);
    assert_eq!(bar3, [0; 4]);
    for part in [&[9u8][..], &[9, 9]] {
        guest.function.write(0, reg::RX + 4, part, &mut guest.nic);
    }
    guest
        .function
        .write(3, reg::RX + 4, &[9; 4], &mut guest.nic);
    assert_eq!(guest.read(reg::RX + 4), 0x0403_0201);
    guest
        .function
        .write(0, reg::RX, &[0, 1, 0, 0, 9, 9, 9, 9], &mut guest.nic);
    assert_eq!(guest.read(reg::RX), 0x100);
    assert_eq!(guest.read(reg::RX + 4), 0x0909_0909);
}

#[test]
fn link_and_statistics_are_the_nics() {
    let mut guest = Guest::new(0);
    assert_eq!(guest.read(reg::VFLINKS), 0x7000_0000);
    guest.administer("vf 0 state disable");
    assert_eq!(guest.read(reg::VFLINKS) >> 30, 0);
    guest.nic.counters.rx_packets = 5 + (3 << 32);
    guest.nic.counters.tx_bytes = 7 + (0x35 << 32);
    assert_eq!(guest.read(regs::VFGPRC), 5);
    assert_eq!(
        (guest.read(regs::VFGOTC_LSB), guest.read(regs::VFGOTC_MSB)),
        (7, 5)
    );
    guest.write(reg::VFCTRL, 1 << 26);
    assert_eq!(
        guest.read(regs::VFGPRC),
        5,
        "a reset does not set it to zero"
    );
}

#[test]
fn the_halves_of_a_counter_of_bytes_are_of_one_moment() {
    let mut guest = Guest::new(0);
    guest.nic.counters.rx_bytes = u64::from(u32::MAX) - 3;
    guest.nic.goes_on = 8;
    let mut read = |n| {
        (0..n).fold(0, |_, _| {
            let low = u64::from(guest.read(regs::VFGORC_LSB));
            u64::from(guest.read(regs::VFGORC_MSB)) << 32 | low
        })
    };
    assert_eq!(read(1), u64::from(u32::MAX) - 3);
    assert_eq!(read(1), (1 << 32) + 12, "two looks later");
    assert_eq!(guest.read(regs::VFGORC_MSB), 1);
    let mut both = [0; 8];
    let nic = &mut guest.nic;
    nic.looks.set(0);
    guest.function.read(0, regs::VFGORC_LSB, &mut both, nic);
    assert_eq!(u64::from_le_bytes(both), u64::from(u32::MAX) - 3);
}

#[test]
fn a_reset_stops_the_queues_and_forgets_what_the_driver_made() {
    for by_register in [true, false] {
        let mut guest = Guest::new(0);
        let mut driver = guest.start();
        assert_eq!(guest.running(), [0, 1]);
        driver.ask(&mut guest, &[4 | 1 << 16, 5]).unwrap();
        let vf = guest.nic.vf;
        assert!(
            !guest
                .nic
                .policy
                .in_force(vf)
                .vlans
                .as_ref()
                .unwrap()
                .is_empty()
        );
        if by_register {
            guest.write(reg::VFCTRL, 1 << 26);
        } else {
            guest.function.reset(&mut guest.nic);
        }
        assert!(guest.running().is_empty());
        assert_eq!(guest.nic.policy.in_force(vf).vlans, Some(vec![]));
        for register in [reg::BASE_LOW, reg::LENGTH, reg::TAIL, reg::CONTROL] {
            assert_eq!(guest.read(reg::TX + register), 0);
        }
        assert_eq!(guest.read(reg::VTEIMS), 0);
        let refused = driver.message(&mut guest, &[9]).unwrap();
        assert_eq!(
            refused[0],
            9 | vf_guest::ixgbevf::FAILURE,
            "before a greeting"
        );
        driver.reset(&mut guest).unwrap();
        driver.open(&mut guest).unwrap();
        assert_eq!(guest.running(), [0, 1]);
    }
}

#[test]
fn queues_go_on_where_they_were_when_the_memory_map_changes() {
    let (mut guest, mut peer) = (Guest::new(0), Guest::new(1));
    let (mut driver, mut other) = (guest.start(), peer.start());
    for round in 0..20u8 {
        assert!(driver.send(&[round; 60], &Default::default()));
        driver.kick(&mut guest);
        match round % 4 {
            0 => guest.map(Some(guest.dma())),
            1 => peer.map(Some(peer.dma())),
            2 => {
                // No bus master for a moment.
                guest.map(None);
                assert!(guest.running().is_empty());
                assert_eq!(carry(&mut guest, &mut peer), 0);
                guest.map(Some(guest.dma()));
            }
            _ => {}
        }
        assert_eq!(carry(&mut guest, &mut peer), 1, "{round}");
        assert_eq!(other.recv(&mut peer).unwrap().bytes, [round; 60]);
        assert_eq!(driver.reap(), 1);
    }
    assert_eq!(guest.read(reg::TX + reg::HEAD), 20);
}

#[test]
fn a_queue_is_enabled_and_disabled_on_its_own() {
    let mut guest = Guest::new(0);
    let _driver = guest.start();
    guest.write(reg::RX + reg::CONTROL, 0);
    assert_eq!(guest.running(), [1]);
    assert_eq!(guest.read(reg::RX + reg::CONTROL), 0);
    guest.write(reg::RX + reg::CONTROL, 1 << 25);
    assert_eq!(guest.running(), [0, 1]);
    guest.write(reg::RX + reg::CONTROL, 1 << 25 | 1 << 30);
    assert_eq!(guest.running(), [0, 1], "it runs already");
    guest.write(reg::TX + reg::CONTROL, 1 << 26);
    assert_eq!(guest.read(reg::TX + reg::CONTROL), 0, "flushed");
    assert_eq!(guest.running(), [0]);
}
