//! VFs that are hardware to their guests: a client of vfio-user that others have made, and behind it a driver of Intel's 82599 VF as small as
//! one can be. What such a driver gets and sends is what guests with virtio send and get.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::fs::MemfdFlags;
use vf_vhost::eventfd::EventFd;
use vfio_user::Client;

use crate::emulator::{DEADLINE, Emulator, vfnic, wait_for};
use crate::port::{BROADCAST, Port};

const CONFIG: u32 = 7;
const MSIX: u32 = 2;
const RING: u64 = 64;
const SLOT: u64 = 2048;
/// Where in the guest's memory the rings and the buffers are.
const RX: u64 = 0x1000;
const TX: u64 = 0x2000;
const RX_BUFFERS: u64 = 0x10_0000;
const TX_BUFFERS: u64 = 0x20_0000;
const MEMORY: u64 = 0x40_0000;

const VFCTRL: u64 = 0x0;
const VFLINKS: u64 = 0x10;
const VTEIMS: u64 = 0x108;
const VTIVAR: u64 = 0x120;
const VFMBMEM: u64 = 0x200;
const VFMAILBOX: u64 = 0x2fc;

const REQ: u32 = 1;
const ACK: u32 = 1 << 1;
const VFU: u32 = 1 << 2;
const PFSTS: u32 = 1 << 4;
const RSTD: u32 = 1 << 7;
const ENABLE: u32 = 1 << 25;

/// A guest with an Intel VF and its driver.
struct Ixgbevf {
    client: Client,
    memory: File,
    call: EventFd,
    mac: [u8; 6],
    /// Descriptors that have been used.
    sent: u64,
    received: u64,
    serial: u32,
}

impl Ixgbevf {
    /// Sets everything up, as the driver of Linux does.
    fn probe(socket: &Path) -> Ixgbevf {
        let client = wait_for("a session", || Client::new(socket).ok());
        let memory = rustix::fs::memfd_create("guest", MemfdFlags::CLOEXEC).unwrap();
        rustix::fs::ftruncate(&memory, MEMORY).unwrap();
        let mut guest = Ixgbevf {
            client,
            memory: memory.into(),
            call: EventFd::new().unwrap(),
            mac: [0; 6],
            sent: 0,
            received: 0,
            serial: 0,
        };
        let mut id = [0; 4];
        guest.client.region_read(CONFIG, 0, &mut id).unwrap();
        assert_eq!(id, [0x86, 0x80, 0xed, 0x10]);
        guest.client.region_write(CONFIG, 4, &[6, 4]).unwrap();
        let file = guest.memory.as_raw_fd();
        guest.client.dma_map(0, 0, MEMORY, file).unwrap();
        let call = guest.call.as_raw_fd();
        guest.client.set_irqs(MSIX, 0x24, 0, 1, &[call]).unwrap();
        guest.write(VFCTRL, 1 << 26);
        wait_for("the reset is done", || {
            (guest.read(VFMAILBOX) & RSTD != 0).then_some(())
        });
        let reset = guest.asks(&[1]);
        assert_eq!(reset[0] & 0xc000_ffff, 0x8000_0001, "ACK");
        let mac = [reset[1].to_le_bytes(), reset[2].to_le_bytes()].concat();
        guest.mac.copy_from_slice(&mac[..6]);
        // API 1.1, of which every PF driver knows.
        assert_eq!(guest.asks(&[8, 2])[0] & 0xc000_ffff, 0x8000_0008);
        assert_ne!(guest.read(VFLINKS) & 1 << 30, 0, "link");
        guest.start_rings();
        guest
    }

    fn read(&mut self, register: u64) -> u32 {
        let mut value = [0; 4];
        self.client.region_read(0, register, &mut value).unwrap();
        u32::from_le_bytes(value)
    }

    fn write(&mut self, register: u64, value: u32) {
        let value = value.to_le_bytes();
        self.client.region_write(0, register, &value).unwrap();
    }

    /// A message to the PF, and its answer.
    fn asks(&mut self, message: &[u32]) -> [u32; 4] {
        self.write(VFMAILBOX, VFU);
        for (at, word) in message.iter().enumerate() {
            self.write(VFMBMEM + 4 * at as u64, *word);
        }
        self.write(VFMAILBOX, REQ);
        wait_for("the PF answers", || {
            (self.read(VFMAILBOX) & PFSTS != 0).then_some(())
        });
        let answer = [0, 1, 2, 3].map(|at| self.read(VFMBMEM + 4 * at));
        self.write(VFMAILBOX, ACK);
        answer
    }

    fn start_rings(&mut self) {
        for at in 0..RING {
            self.give(at);
        }
        for (base, ring) in [(0x1000, RX), (0x2000, TX)] {
            self.write(base, ring as u32);
            self.write(base + 4, 0);
            self.write(base + 8, (16 * RING) as u32);
            self.write(base + 0x10, 0);
            self.write(base + 0x18, 0);
        }
        // Buffers of 2 KiB, advanced descriptors of one buffer each.
        self.write(0x1014, 1 << 25 | 2);
        self.write(VTIVAR, 0x8080);
        self.write(VTEIMS, 1);
        for base in [0x2028, 0x1028] {
            self.write(base, ENABLE);
            let enabled = self.read(base) & ENABLE;
            assert_ne!(enabled, 0, "{base:#x}");
        }
        self.write(0x1018, RING as u32 - 1);
    }

    /// Makes a receive descriptor of a buffer.
    fn give(&mut self, at: u64) {
        let mut descriptor = [0; 16];
        descriptor[..8].copy_from_slice(&(RX_BUFFERS + SLOT * at).to_le_bytes());
        self.memory.write_all_at(&descriptor, RX + 16 * at).unwrap();
    }

    fn frame(&mut self, dst: [u8; 6], len: usize) -> Vec<u8> {
        self.serial += 1;
        let mut frame = [
            &dst[..],
            &self.mac,
            &[0x88, 0xb5],
            &self.serial.to_be_bytes(),
        ]
        .concat();
        frame.extend((frame.len()..len).map(|i| (i * 7) as u8));
        frame
    }

    fn send(&mut self, frame: &[u8]) {
        let at = self.sent % RING;
        let buffer = TX_BUFFERS + SLOT * at;
        self.memory.write_all_at(frame, buffer).unwrap();
        // Data of an advanced descriptor, the whole frame, with FCS, and to be reported.
        let command = 3 << 20 | 1 << 24 | 1 << 25 | 1 << 27 | 1 << 29 | frame.len() as u32;
        let length = (frame.len() as u32) << 14;
        let words = [command, length].map(u32::to_le_bytes).concat();
        let descriptor = [buffer.to_le_bytes().to_vec(), words].concat();
        self.memory.write_all_at(&descriptor, TX + 16 * at).unwrap();
        self.sent += 1;
        self.write(0x2018, (self.sent % RING) as u32);
        let done = || {
            let mut status = [0; 4];
            self.memory
                .read_exact_at(&mut status, TX + 16 * at + 12)
                .unwrap();
            (status[0] & 1 != 0).then_some(())
        };
        wait_for("a descriptor is done", done);
    }

    /// The next frame, if there is one now.
    fn poll(&mut self) -> Option<Vec<u8>> {
        let at = self.received % RING;
        let mut written = [0; 16];
        self.memory
            .read_exact_at(&mut written, RX + 16 * at)
            .unwrap();
        if written[8] & 1 == 0 {
            return None;
        }
        assert_eq!(written[8] & 3, 3, "a whole frame");
        let len = u16::from_le_bytes([written[12], written[13]]);
        let mut frame = vec![0; len.into()];
        self.memory
            .read_exact_at(&mut frame, RX_BUFFERS + SLOT * at)
            .unwrap();
        self.give(at);
        self.received += 1;
        self.write(0x1018, ((self.received + RING - 1) % RING) as u32);
        Some(frame)
    }

    fn gets_within(&mut self, frame: &[u8], wait: Duration) -> bool {
        let deadline = Instant::now() + wait;
        while Instant::now() < deadline {
            match self.poll() {
                Some(got) if got == frame => return true,
                Some(_) => {}
                None => std::thread::sleep(Duration::from_millis(1)),
            }
        }
        false
    }

    #[track_caller]
    fn gets(&mut self, frame: &[u8]) {
        assert!(self.gets_within(frame, DEADLINE), "{} bytes", frame.len());
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
    let mut intel = Ixgbevf::probe(&emulator.path("a-vf0.sock"));
    let mut virtio = Port::open(&emulator.path("a-vf1.sock"));
    for path in ["direct", "mediated", "direct"] {
        emulator.does(&format!("vf 0 set path {path}"));
        emulator.does(&format!("vf 1 set path {path}"));
        for len in [60, 61, 1000, 1514] {
            let frame = intel.frame(virtio.mac, len);
            intel.send(&frame);
            virtio.gets(&frame);
            let frame = virtio.frame(intel.mac, len);
            virtio.send(&frame);
            intel.gets(&frame);
        }
        let frame = virtio.frame(BROADCAST, 100);
        virtio.send(&frame);
        intel.gets(&frame);
        assert!(intel.call.drain(), "it is interrupted");
        intel.write(VTEIMS, 1);
        // More than a ring has.
        for _ in 0..3 * RING {
            let frame = intel.frame(virtio.mac, 200);
            intel.send(&frame);
            virtio.gets(&frame);
            let frame = virtio.frame(intel.mac, 300);
            virtio.send(&frame);
            intel.gets(&frame);
        }
    }
    let vf = emulator.vf(0, 0);
    assert_eq!(
        (vf.device.as_str(), vf.connected, vf.rings),
        ("ixgbevf", true, 2)
    );
    let function = vf.function.unwrap();
    assert!(function.driver && function.requests >= 2 && function.interrupts > 0);
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
    wait_for("the link goes", || {
        (intel.read(VFLINKS) & 1 << 30 == 0).then_some(())
    });
    emulator.does("vf 0 set state auto");
    wait_for("the link comes", || {
        (intel.read(VFLINKS) & 1 << 30 != 0).then_some(())
    });
}

#[test]
fn a_guest_that_is_gone_leaves_its_vf_to_the_next() {
    let emulator = Emulator::with_config(MIXED);
    let mut virtio = Port::open(&emulator.path("a-vf1.sock"));
    for _ in 0..3 {
        let mut intel = Ixgbevf::probe(&emulator.path("a-vf0.sock"));
        let frame = virtio.frame(intel.mac, 100);
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
    let mut intel = Ixgbevf::probe(&emulator.path("a-vf0.sock"));
    rustix::fs::ftruncate(&intel.memory, 0).unwrap();
    let frame = virtio.frame(intel.mac, 100);
    virtio.send(&frame);
    let _ = intel.client.region_write(0, 0x2018, &[1, 0, 0, 0]);
    wait_for("the session ends", || {
        (!emulator.vf(0, 0).connected).then_some(())
    });
    assert!(
        emulator.log().contains("guest memory vanished"),
        "{}",
        emulator.log()
    );
    let mut intel = Ixgbevf::probe(&emulator.path("a-vf0.sock"));
    let frame = virtio.frame(intel.mac, 100);
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
