//! A driver that has the registers of its queues mapped, and writes them without a message.

use vf_guest::ixgbevf::Ask;

use super::*;

/// A guest whose hypervisor has mapped what there is to map.
struct Mapped {
    guest: Guest,
    pages: SharedPages,
}

impl Mapped {
    fn new(vf: u8) -> Mapped {
        let mut guest = Guest::new(vf);
        let pages = guest.function.share().unwrap().unwrap();
        Mapped { guest, pages }
    }

    fn start(&mut self) -> Driver {
        let memory = Arc::clone(&self.guest.memory);
        let mut alloc = self.guest.alloc.clone();
        let driver = Driver::start(self, &memory, &mut alloc).unwrap();
        self.guest.alloc = alloc;
        driver
    }

    fn look(&mut self) {
        self.guest.function.look(&mut self.guest.nic);
    }

    fn sends(&mut self, driver: &mut Driver, frame: &[u8], to: &mut Guest) -> usize {
        assert!(driver.send(frame, &Ask::default()));
        driver.kick(self);
        carry(&mut self.guest, to)
    }
}

impl Registers for Mapped {
    fn read(&mut self, offset: u64) -> u32 {
        let SharedPages {
            offset: from, size, ..
        } = self.pages;
        if !(from..from + size).contains(&offset) {
            return self.guest.read(offset);
        }
        let mut value = [0; 4];
        rustix::io::pread(&self.pages.file, &mut value, offset).unwrap();
        u32::from_le_bytes(value)
    }

    fn write(&mut self, offset: u64, value: u32) {
        let SharedPages {
            offset: from, size, ..
        } = self.pages;
        match (from..from + size).contains(&offset) {
            true => {
                let value = value.to_le_bytes();
                rustix::io::pwrite(&self.pages.file, &value, offset).unwrap();
            }
            false => self.guest.write(offset, value),
        }
    }
}

#[test]
fn queues_are_enabled_rung_and_disabled_without_a_message() {
    let (mut mapped, mut peer) = (Mapped::new(0), Guest::new(1));
    let (mut driver, mut other) = (mapped.start(), peer.start());
    assert!(mapped.guest.running().is_empty(), "nobody has looked yet");
    mapped.look();
    assert_eq!(mapped.guest.running(), [0, 1]);
    for round in 0..3 {
        for n in 0..100 {
            assert_eq!(mapped.sends(&mut driver, &[n; 60], &mut peer), 1);
            assert_eq!(other.recv(&mut peer).unwrap().bytes, [n; 60]);
            assert!(other.send(&[n; 70], &Ask::default()));
            other.kick(&mut peer);
            assert_eq!(carry(&mut peer, &mut mapped.guest), 1);
            assert_eq!(driver.recv(&mut mapped).unwrap().bytes, [n; 70]);
        }
        mapped.look();
        assert_eq!(mapped.read(reg::TX + reg::HEAD), 100, "round {round}");
        // From then on nothing is read or written where the rings are, whether somebody has looked or not.
        for queue in [reg::RX, reg::TX] {
            mapped.write(queue + reg::CONTROL, 0);
        }
        assert_eq!(mapped.sends(&mut driver, &[1; 60], &mut peer), 0);
        assert!(other.send(&[2; 60], &Ask::default()));
        other.kick(&mut peer);
        assert_eq!(carry(&mut peer, &mut mapped.guest), 0);
        // Nor when the queues are enabled again before somebody looks: they are other rings then.
        driver.open(&mut mapped).unwrap();
        assert_eq!(mapped.sends(&mut driver, &[3; 60], &mut peer), 0);
        if round > 0 {
            for queue in [reg::RX, reg::TX] {
                mapped.write(queue + reg::CONTROL, 0);
            }
            mapped.look();
            assert!(mapped.guest.running().is_empty());
        }
        driver.open(&mut mapped).unwrap();
        mapped.look();
        assert_eq!(mapped.guest.running(), [0, 1]);
    }
}

#[test]
fn messages_do_the_same_and_a_reset_clears_the_page() {
    let (mut mapped, mut peer) = (Mapped::new(0), Guest::new(1));
    let _other = peer.start();
    // A hypervisor that maps nothing.
    let mut driver = mapped.guest.start();
    assert_eq!(mapped.guest.running(), [0, 1]);
    assert!(driver.send(&[1; 60], &Ask::default()));
    driver.kick(&mut mapped.guest);
    mapped.look();
    assert_eq!(carry(&mut mapped.guest, &mut peer), 1);
    assert_eq!(mapped.guest.read(reg::TX + reg::HEAD), 1);
    // Where the ring is when the memory map changes.
    let dma = mapped.guest.dma();
    mapped.guest.map(None);
    mapped.look();
    mapped.guest.map(Some(dma));
    mapped.look();
    assert_eq!(mapped.sends(&mut driver, &[2; 60], &mut peer), 1);
    // A tail that is nowhere.
    mapped.write(reg::TX + reg::TAIL, 0xffff);
    assert_eq!(carry(&mut mapped.guest, &mut peer), 0);
    let broken = |guest: &Guest| guest.nic.tx.values().all(|tx| tx.vring().is_broken());
    assert!(broken(&mapped.guest));
    driver.reset(&mut mapped).unwrap();
    assert!(mapped.guest.running().is_empty());
    for register in [reg::BASE_LOW, reg::LENGTH, reg::TAIL, reg::CONTROL] {
        assert_eq!(mapped.read(reg::TX + register), 0);
    }
    driver.open(&mut mapped).unwrap();
    mapped.guest.nic.counters.rx_packets = 7;
    mapped.look();
    assert_eq!(mapped.read(regs::VFGPRC), 7);
    assert_eq!(mapped.sends(&mut driver, &[4; 60], &mut peer), 1);
}

#[test]
fn the_page_of_a_guest_before_is_nobodys() {
    let (mut mapped, mut peer) = (Mapped::new(0), Guest::new(1));
    let _other = peer.start();
    let mut driver = mapped.start();
    mapped.look();
    mapped.guest.function.reset(&mut mapped.guest.nic);
    let next = mapped.guest.function.share().unwrap().unwrap();
    let before = std::mem::replace(&mut mapped.pages, next);
    driver.reset(&mut mapped).unwrap();
    driver.open(&mut mapped).unwrap();
    mapped.look();
    for register in [reg::TAIL, reg::CONTROL, reg::BASE_LOW] {
        let at = reg::TX + register;
        rustix::io::pwrite(&before.file, &[0xff; 4], at).unwrap();
    }
    mapped.look();
    assert_eq!(mapped.sends(&mut driver, &[1; 60], &mut peer), 1);
    // Nobody can make it shorter under us.
    assert!(rustix::fs::ftruncate(&mapped.pages.file, 0).is_err());
}
