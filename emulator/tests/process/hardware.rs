//! VFs that are hardware to their guests: a client of vfio-user that others have made, and behind it a driver of Intel's 82599 VF. What such a
//! driver gets and sends is what guests with virtio send and get.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use vf_guest::eventfd::EventFd;
use vf_guest::frontend::Frontend;
use vf_guest::ixgbevf::{Ask, Ixgbevf, Registers, reg};
use vf_guest::memory::{Allocator, GuestMemory};
use vf_guest::pci::{CONFIG, PciFunction};
use vf_guest::pcidev::{Bus, CFG_READ, CFG_WRITE, MMIO_WRITE};
use vfio_user::Client;

use crate::emulator::{DEADLINE, Emulator, vfnic, wait_for};
use crate::port::{BROADCAST, ETHERTYPE, Port};

/// A guest with an Intel VF and its driver.
pub(crate) struct Intel<R = PciFunction> {
    pub(crate) function: R,
    memory: Arc<GuestMemory>,
    driver: Ixgbevf,
    /// Signalled by its first vector.
    call: EventFd,
    serial: u32,
}

impl Intel {
    /// Sets everything up, as the driver of Linux does.
    pub(crate) fn probe(socket: &Path) -> Intel {
        let mut function = wait_for("a session", || PciFunction::connect(socket).ok());
        let mut id = [0; 4];
        function.client().region_read(CONFIG, 0, &mut id).unwrap();
        assert_eq!(id, [0x86, 0x80, 0xed, 0x10]);
        let memory = Arc::new(GuestMemory::new(4 << 20, false).unwrap());
        function.start(&memory).unwrap();
        let call = EventFd::new().unwrap();
        function.interrupt(0, &call).unwrap();
        let alloc = Allocator::new(memory.regions()[0].layout());
        Intel::start(function, memory, alloc, call)
    }
}

/// A kernel of User-Mode Linux with one on its bus.
pub(crate) fn uml(socket: &Path) -> Intel<Bus> {
    let frontend = wait_for("a session", || Frontend::connect(socket).ok());
    let memory = Arc::new(GuestMemory::new(4 << 20, true).unwrap());
    let mut alloc = Allocator::new(memory.regions()[0].layout());
    let mut bus = Bus::start(frontend, &memory, &mut alloc).unwrap();
    let id = bus.read_by(CFG_READ, 0, 0, 4).unwrap();
    assert_eq!(id, [0x86, 0x80, 0xed, 0x10]);
    bus.write_by(CFG_WRITE, 0, 4, &[6, 0]).unwrap();
    // The first vector: its address, its data, not masked; and MSI-X, wherever the capability is.
    for (at, word) in [(0, 0x1000u32), (4, 0), (8, 77), (12, 0)] {
        bus.write_by(MMIO_WRITE, 3, at, &word.to_le_bytes())
            .unwrap();
    }
    let mut at = 0x34;
    let capability = loop {
        at = u64::from(bus.read_by(CFG_READ, 0, at, 1).unwrap()[0]);
        match bus.read_by(CFG_READ, 0, at, 1).unwrap()[0] {
            0x11 => break at,
            _ => at += 1,
        }
    };
    bus.write_by(CFG_WRITE, 0, capability + 2, &[0, 0x80])
        .unwrap();
    Intel::start(bus, memory, alloc, EventFd::new().unwrap())
}

impl<R: Registers> Intel<R> {
    fn start(
        mut function: R,
        memory: Arc<GuestMemory>,
        mut alloc: Allocator,
        call: EventFd,
    ) -> Intel<R> {
        let driver = Ixgbevf::start(&mut function, &memory, &mut alloc).unwrap();
        assert_ne!(function.read(reg::VFLINKS) & 1 << 30, 0, "link");
        Intel {
            function,
            memory,
            driver,
            call,
            serial: 0,
        }
    }

    fn link_is_up(&mut self) -> bool {
        self.function.read(reg::VFLINKS) & 1 << 30 != 0
    }

    fn frame(&mut self, dst: [u8; 6], len: usize) -> Vec<u8> {
        self.serial += 1;
        let serial = self.serial.to_be_bytes();
        let mut frame = [&dst[..], &self.driver.mac, &ETHERTYPE, &serial].concat();
        frame.extend((frame.len()..len).map(|i| (i * 7) as u8));
        frame
    }

    pub(crate) fn send(&mut self, frame: &[u8]) {
        assert!(self.driver.send(frame, &Ask::default()));
        self.driver.kick(&mut self.function);
        wait_for("a descriptor is done", || {
            (self.driver.reap() > 0).then_some(())
        });
    }

    fn gets_within(&mut self, frame: &[u8], wait: Duration) -> bool {
        let deadline = Instant::now() + wait;
        while Instant::now() < deadline {
            match self.driver.recv(&mut self.function) {
                Some(got) if got.bytes == frame => return true,
                Some(_) => {}
                None => std::thread::sleep(Duration::from_millis(1)),
            }
        }
        false
    }

    #[track_caller]
    pub(crate) fn gets(&mut self, frame: &[u8]) {
        assert!(self.gets_within(frame, DEADLINE), "{} bytes", frame.len());
    }

    /// Frames go to such a guest and come from it.
    #[track_caller]
    pub(crate) fn pass(&mut self, other: &mut Port) {
        for len in [60, 61, 1000, 1514] {
            let frame = self.frame(other.mac, len);
            self.send(&frame);
            other.gets(&frame);
            let frame = other.frame(self.driver.mac, len);
            other.send(&frame);
            self.gets(&frame);
        }
    }
}

/// One NIC with a VF of hardware and two of virtio.
const MIXED: &str = "\
[[nic]]
name = 'a'
vfs = 3
[[nic.vf]]
index = 0
device = 'ixgbevf'
";

#[test]
fn frames_pass_between_hardware_and_virtio_on_both_paths() {
    let emulator = Emulator::with_config(MIXED);
    let mut intel = Intel::probe(&emulator.path("a-vf0.sock"));
    let mut virtio = Port::open(&emulator.path("a-vf1.sock"));
    for path in ["direct", "mediated", "direct"] {
        emulator.does(&format!("vf 0 set path {path}"));
        emulator.does(&format!("vf 1 set path {path}"));
        intel.pass(&mut virtio);
        let frame = virtio.frame(BROADCAST, 100);
        virtio.send(&frame);
        intel.gets(&frame);
        assert!(intel.call.drain() > 0, "it is interrupted");
        intel.function.write(reg::VTEIMS, 1);
        // More than a ring has.
        for _ in 0..200 {
            intel.pass(&mut virtio);
        }
    }
    let vf = emulator.vf(0, 0);
    assert_eq!(
        (vf.device.as_str(), vf.connected, vf.rings),
        ("ixgbevf", true, 2)
    );
    let function = vf.function.unwrap();
    assert!(function.driver && function.requests >= 2 && function.interrupts > 0);
    assert_eq!(function.messages, 2, "reset, and the version");
    assert_eq!(emulator.vf(0, 1).device, "virtio");
    assert!(emulator.vf(0, 1).function.is_none());
    let said = String::from_utf8(emulator.vfnic(&["show", "vf", "0"]).stdout).unwrap();
    assert!(said.contains("ixgbevf, a driver has it"), "{said}");
    // Its policy is that of any VF.
    let spoofed = [
        &virtio.mac,
        &[2, 9, 9, 9, 9, 9],
        &[0x88, 0xb5, 1, 2][..],
        &[0; 50],
    ]
    .concat();
    intel.send(&spoofed);
    virtio.never_gets(&spoofed);
    assert_eq!(emulator.vf(0, 0).total.tx_drops["spoofed_mac"], 1);
    // It is told of its link.
    emulator.does("vf 0 set state disable");
    wait_for("the link goes", || (!intel.link_is_up()).then_some(()));
    emulator.does("vf 0 set state auto");
    wait_for("the link comes", || intel.link_is_up().then_some(()));
}

#[test]
fn a_driver_rings_in_a_page_that_workers_look_at_if_they_never_sleep() {
    let emulator = Emulator::with_config(&format!("poll = 'always'\n{MIXED}"));
    let mut virtio = Port::open(&emulator.path("a-vf1.sock"));
    let mut before = None;
    for _ in 0..3 {
        let mut intel = Intel::probe(&emulator.path("a-vf0.sock"));
        let page = Arc::clone(intel.function.page().expect("its registers are mapped"));
        for path in ["direct", "mediated", "direct"] {
            emulator.does(&format!("vf 0 set path {path}"));
            for _ in 0..100 {
                intel.pass(&mut virtio);
            }
        }
        // Nothing is done in memory that the driver has taken back.
        let control = page.register(reg::RX + reg::CONTROL).unwrap();
        let enabled = control.swap(0, Ordering::SeqCst);
        wait_for("the queue stops", || {
            (emulator.vf(0, 0).rings == 1).then_some(())
        });
        let frame = virtio.frame(intel.driver.mac, 100);
        virtio.send(&frame);
        assert!(!intel.gets_within(&frame, Duration::from_millis(50)));
        for queue in [reg::RX, reg::TX] {
            page.register(queue + reg::CONTROL)
                .unwrap()
                .store(0, Ordering::SeqCst);
        }
        intel.driver.open(&mut intel.function).unwrap();
        assert_eq!(control.load(Ordering::SeqCst) & enabled, enabled);
        wait_for("both queues run", || {
            (emulator.vf(0, 0).rings == 2).then_some(())
        });
        intel.pass(&mut virtio);
        // The page of the guest before is nobody's.
        if let Some(before) = before.replace(page) {
            let tail = before.register(reg::TX + reg::TAIL).unwrap();
            tail.store(0xffff, Ordering::SeqCst);
            before
                .register(reg::TX + reg::CONTROL)
                .unwrap()
                .store(0, Ordering::SeqCst);
            intel.pass(&mut virtio);
        }
    }
}

#[test]
fn a_kernel_of_user_mode_linux_has_the_same_by_this_machines_clock() {
    let uml_of_it = MIXED.replace("'ixgbevf'", "'ixgbevf'\nsocket_role = 'uml'");
    let emulator = Emulator::with_config(&uml_of_it);
    let mut virtio = Port::open(&emulator.path("a-vf1.sock"));
    for _ in 0..2 {
        let mut intel = uml(&emulator.path("a-vf0.sock"));
        for path in ["direct", "mediated"] {
            emulator.does(&format!("vf 0 set path {path}"));
            for _ in 0..20 {
                intel.pass(&mut virtio);
            }
        }
        intel.function.listen();
        intel.function.write(reg::VTEIMS, 1);
        let frame = virtio.frame(intel.driver.mac, 100);
        virtio.send(&frame);
        let interrupt = wait_for("an interrupt", || intel.function.interrupt());
        assert_eq!(interrupt, (0x1000, 77));
        intel.gets(&frame);
        emulator.does("vf 0 set state disable");
        wait_for("the link goes", || (!intel.link_is_up()).then_some(()));
        emulator.does("vf 0 set state auto");
        let vf = emulator.vf(0, 0);
        assert_eq!((vf.socket_role.as_str(), vf.rings), ("uml", 2));
        assert!(vf.function.unwrap().driver);
        drop(intel);
        wait_for("its rings are stopped", || {
            (emulator.vf(0, 0).rings == 0).then_some(())
        });
    }
    let guest = String::from_utf8(emulator.vfnic(&["guest", "0", "--for", "uml"]).stdout).unwrap();
    assert!(guest.contains("a-vf0.sock:4660\n"), "{guest}");
    let saved = String::from_utf8(emulator.vfnic(&["save"]).stdout).unwrap();
    assert!(saved.contains("socket_role = \"uml\""), "{saved}");
}

#[test]
fn a_guest_that_is_gone_leaves_its_vf_to_the_next() {
    let emulator = Emulator::with_config(MIXED);
    let mut virtio = Port::open(&emulator.path("a-vf1.sock"));
    for _ in 0..3 {
        let mut intel = Intel::probe(&emulator.path("a-vf0.sock"));
        let frame = virtio.frame(intel.driver.mac, 100);
        virtio.send(&frame);
        intel.gets(&frame);
        drop(intel);
        wait_for("its rings are stopped", || {
            (emulator.vf(0, 0).rings == 0).then_some(())
        });
    }
    let vf = emulator.vf(0, 0);
    assert_eq!((vf.sessions, vf.connected), (3, false));
    assert!(!vf.function.unwrap().driver);
    // Memory that goes while the rings run, and with it everything in there.
    let mut intel = Intel::probe(&emulator.path("a-vf0.sock"));
    rustix::fs::ftruncate(intel.memory.regions()[0].fd(), 0).unwrap();
    let frame = virtio.frame(intel.driver.mac, 100);
    virtio.send(&frame);
    intel.function.write(reg::TX + reg::TAIL, 1);
    wait_for("the session ends", || {
        (!emulator.vf(0, 0).connected).then_some(())
    });
    // The log is written by a thread of its own.
    wait_for("the log says why", || {
        let log = emulator.log();
        log.contains("guest memory vanished").then_some(())
    });
    let mut intel = Intel::probe(&emulator.path("a-vf0.sock"));
    let frame = virtio.frame(intel.driver.mac, 100);
    virtio.send(&frame);
    intel.gets(&frame);
}

#[test]
fn what_is_said_of_devices_is_checked_shown_and_saved() {
    let emulator = Emulator::start(&["--vfs", "2", "--device", "sfc", "--profile", "ef10"]);
    let vf = emulator.vf(0, 1);
    assert_eq!((vf.device.as_str(), vf.connected), ("sfc", false));
    let mut client = Client::new(&emulator.path("vf1.sock")).unwrap();
    let mut id = [0; 4];
    client.region_read(CONFIG, 0, &mut id).unwrap();
    assert_eq!(id, [0x24, 0x19, 0x03, 0x19]);
    let guest = String::from_utf8(emulator.vfnic(&["guest", "1"]).stdout).unwrap();
    assert!(guest.contains("\"driver\":\"vfio-user-pci\""), "{guest}");
    let saved = String::from_utf8(emulator.vfnic(&["save"]).stdout).unwrap();
    assert_eq!(saved.matches("device = \"sfc\"").count(), 2, "{saved}");
    for (args, says) in [
        (
            &["--device", "sfc", "--profile", "ixgbe"][..],
            "say profile ef10 or generic",
        ),
        (
            &["--device", "ixgbevf", "--profile", "ef10"],
            "say profile ixgbe or generic",
        ),
        (
            &["--device", "ixgbevf", "--profile", "igb"],
            "say profile ixgbe or generic",
        ),
        (
            &["--device", "ixgbevf", "--qmp", "0=/tmp/qmp"],
            "leave out qmp",
        ),
        (
            &["--device", "e1000"],
            "possible values: virtio, ixgbevf, sfc",
        ),
    ] {
        let output = vfnic(&[&["run"], args].concat());
        let line = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{args:?}: {line}");
        assert!(line.contains(says), "{args:?}: {line}");
    }
}
